/* What the cases of §9 share. Each attaches as an app of its own, in a process of its own. */
#ifndef SUITE_H
#define SUITE_H

#define _GNU_SOURCE
#include "shm1.h"

#include <string.h>
#include <time.h>

enum { PATIENCE_MS = 30000, CASE_SECONDS = 120, BIG = 3 << 20, SETTLED_MS = 300 };

extern const char *socket_path;
extern struct session first, second, *all[2];
extern int attached; /* how many of `all` there are */
extern bool may_end; /* the sidecar may end the session */

/* Heads of calls to the clusters of sidecar.yaml; and of an answer. */
extern const char ECHO[], SERVED[], SILENT[], OK_HEAD[];

#define CHECK(what, ...) do { if (!(what)) fail(__VA_ARGS__); } while (0)

#define AWAIT(what) do { \
    int64_t late = now_ms(CLOCK_MONOTONIC) + PATIENCE_MS; \
    while (!(what)) { CHECK(now_ms(CLOCK_MONOTONIC) < late, "in 30 s it did not happen that " #what); step(100); } \
} while (0)

int64_t now_ms(clockid_t clock);
void step(int milliseconds);
int settle(int milliseconds); /* how often it woke */
void attach(struct session *s, uint16_t calling, uint8_t serving, const char *name);
struct lane *app(void);
uint8_t *noise(size_t len);
struct flow *call(struct lane *l, const char *key, const void *body, size_t len);
void expect_state(const struct flow *f, enum state wanted);
/* A whole answer with this status and body. */
void expect(struct flow *f, uint16_t status, const void *body, size_t len);
void expect_reset(struct flow *f, enum reset code);
/* All blocks come back. */
void expect_blocks(struct lane *l);

void handshake(void), refusals(void), lookup(void), call_inline(void), call_defined(void), call_block(void),
    call_parts(void), credit(void), many(void), failures(void), deadline(void), cancel(void), withdrawn(void),
    serve(void), serve_raw(void), serve_ends(void), stream_raw(void), stream_http(void), call_dubbo(void), idle(void), breaches(void),
    longer_than_told(void), death(void), goaway(void);

#endif
