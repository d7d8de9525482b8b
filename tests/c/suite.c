/* Runs the cases of §9, and what they check with. */
#include "suite.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *case_name = "golden";
const char *socket_path;
struct session first, second, *all[2];
int attached;
bool may_end;

void fail(const char *format, ...)
{
    va_list words;
    va_start(words, format);
    printf("not ok %s: ", case_name);
    vprintf(format, words);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

int64_t now_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void step(int milliseconds)
{
    if (!pump(all, attached)) park(all, attached, milliseconds);
    for (int i = 0; i < attached; i++) CHECK(may_end || !all[i]->ended, "the sidecar ended the session");
}

int settle(int milliseconds)
{
    int woken = 0;
    int64_t end = now_ms(CLOCK_MONOTONIC) + milliseconds;
    for (int64_t now; (now = now_ms(CLOCK_MONOTONIC)) < end; woken++) step((int)(end - now));
    return woken;
}

void attach(struct session *s, uint16_t calling, uint8_t serving, const char *name)
{
    struct hello h = {1, 1, calling, serving, name};
    CHECK(session_attach(s, socket_path, &h), "not attached: %u %s", s->refused, s->sentence);
    CHECK(s->version == 1 && s->features == 0, "version %u, features %llx", s->version, (unsigned long long)s->features);
    all[attached++] = s;
}

struct lane *app(void)
{
    attach(&first, 1, 0, NULL);
    return &first.lanes[0];
}

uint8_t *noise(size_t len)
{
    uint8_t *bytes = malloc(len);
    uint32_t word = 1;
    for (size_t i = 0; i < len; i++) bytes[i] = (uint8_t)((word = word * 1664525 + 1013904223) >> 24);
    return bytes;
}

const char ECHO[] = "PUT /echo HTTP/1.1\r\nHost: echo\r\n\r\n", SERVED[] = "PUT /served HTTP/1.1\r\nHost: served\r\n\r\n";
const char SILENT[] = "PUT /silent HTTP/1.1\r\nHost: silent\r\n\r\n", OK_HEAD[] = "HTTP/1.1 200 OK\r\nserved-by: c\r\n\r\n";

struct flow *call(struct lane *l, const char *key, const void *body, size_t len)
{
    struct flow *f = flow_open(l, HTTP, 0, key, strlen(key));
    CHECK(f, "all slots are taken");
    f->out_total = len;
    flow_write(f, body, len, true);
    return f;
}

void expect_state(const struct flow *f, enum state wanted)
{
    uint64_t generation;
    enum state state = call_state(f->lane, f->slot, &generation);
    CHECK(state == wanted && generation == f->generation, "the slot says state %d of generation %llu", state, (unsigned long long)generation);
}

void expect(struct flow *f, uint16_t status, const void *body, size_t len)
{
    AWAIT(flow_over(f));
    CHECK(!f->reset, "RESET %u %s", f->reset, f->why);
    CHECK(f->status == status, "status %u, head %.*s", f->status, (int)f->head_len, f->in);
    CHECK(f->in_len - f->head_len == len && !memcmp(f->in + f->head_len, body, len), "another body: %zu bytes, %zu expected", f->in_len - f->head_len, len);
    CHECK(f->in_total == UNKNOWN || f->in_total == len, "total %llu of %zu bytes", (unsigned long long)f->in_total, len);
    if (f->opener && f->code == HTTP) {
        CHECK(f->head_len > 4 && !memcmp(f->in, "HTTP/1.1 ", 9) && !memcmp(f->in + f->head_len - 4, "\r\n\r\n", 4), "the head is none: %.*s", (int)f->head_len, f->in);
        CHECK(!memmem(f->in, f->head_len, "ength:", 6) && !memmem(f->in, f->head_len, "ncoding:", 8), "framing in the head: %.*s", (int)f->head_len, f->in);
    }
    if (!(f->flags & STREAM)) expect_state(f, ANSWERED);
}

void expect_reset(struct flow *f, enum reset code)
{
    AWAIT(flow_over(f));
    CHECK(f->reset == code, "RESET %u %s, status %u %.*s", f->reset, f->why, f->status, (int)f->in_len, f->in);
}

void expect_blocks(struct lane *l) { AWAIT(l->blocks_lent == 0); }

static const struct { const char *name; void (*run)(void); bool apart; } CASES[] = {
    {"handshake", handshake, false}, {"refusals", refusals, false}, {"lookup", lookup, false},
    {"call-inline", call_inline, false}, {"call-defined", call_defined, false}, {"call-block", call_block, false},
    {"call-parts", call_parts, false}, {"credit", credit, false}, {"many", many, false}, {"failures", failures, false},
    {"longer-than-told", longer_than_told, false}, {"deadline", deadline, false}, {"cancel", cancel, false}, {"withdrawn", withdrawn, false}, {"serve", serve, false},
    {"serve-raw", serve_raw, false}, {"serve-ends", serve_ends, false}, {"stream-raw", stream_raw, false}, {"stream-http", stream_http, false},
    {"call-dubbo", call_dubbo, false}, {"idle", idle, false}, {"breaches", breaches, false},
    {"death", death, true}, {"goaway", goaway, true},
};

int run_cases(const char *socket, const char *name)
{
    int failed = 0, ran = 0;
    socket_path = socket;
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        if (!socket) {
            printf("%s%s\n", CASES[i].name, CASES[i].apart ? " (apart)" : "");
            continue;
        }
        if (strcmp(name, CASES[i].name) != 0 && (strcmp(name, "all") != 0 || CASES[i].apart)) continue;
        ran++;
        fflush(stdout);
        int64_t start = now_ms(CLOCK_MONOTONIC);
        pid_t child = fork();
        if (child == 0) {
            case_name = CASES[i].name;
            alarm(CASE_SECONDS);
            CASES[i].run();
            printf("ok %s (%lld ms)\n", case_name, (long long)(now_ms(CLOCK_MONOTONIC) - start));
            fflush(stdout);
            _exit(0);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) < 0) return 2;
        if (WIFSIGNALED(status)) printf("not ok %s: signal %d\n", CASES[i].name, WTERMSIG(status));
        failed += status != 0;
    }
    if (socket && ran == 0) {
        fprintf(stderr, "no case %s\n", name);
        return 2;
    }
    return failed != 0;
}
