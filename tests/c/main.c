/* shm-conformance: an app that speaks shm-v1, written from docs/spec/shm-v1.md alone.
 *
 *   shm-conformance SOCKET all|CASE    the cases of §9, against a sidecar that is configured as in sidecar.yaml
 *   shm-conformance golden FILE...     segments of tests/vectors/shm, read as §2 to §4 say
 *   shm-conformance list               the names of the cases
 *
 * Each case prints "ok NAME" or "not ok NAME: why"; the exit status is 0 if all passed. */
#include "shm1.h"

#include <stdio.h>
#include <string.h>

int main(int count, char **words)
{
    if (count >= 3 && !strcmp(words[1], "golden")) return run_golden(count - 2, words + 2);
    if (count == 2 && !strcmp(words[1], "list")) return run_cases(NULL, NULL);
    if (count == 3) return run_cases(words[1], words[2]);
    fprintf(stderr, "usage: shm-conformance SOCKET all|CASE\n       shm-conformance golden FILE...\n       shm-conformance list\n");
    return 2;
}
