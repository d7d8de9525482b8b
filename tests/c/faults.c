/* The cases in which something breaks: the page, or the sidecar. */
#include "suite.h"

#include <stdio.h>

/* Each is one thing that the page forbids: the session ends, and another one goes on. */
static void breach(int which)
{
    struct session bad;
    struct hello h = {1, 1, 1, 0, NULL};
    CHECK(session_attach(&bad, socket_path, &h), "not attached: %s", bad.sentence);
    struct lane *l = &bad.lanes[0];
    struct record r = {.kind = OPEN, .flags = END, .code = HTTP, .generation = 1, .route = NONE, .head_len = (uint32_t)strlen(ECHO), .total = UNKNOWN};
    bool lend = false, two = false;
    switch (which) {
    case 0: r.kind = 0; break;
    case 1: r.kind = 7; break;
    case 2: r.kind = ANSWER; break;
    case 3: r.flags = 8; break;
    case 4: r.slot = bad.g.slots; break;
    case 5: r.generation = 0; break;
    case 6: r.generation = GENERATION_MAX + 1; break;
    case 7: r.code = 9; break;
    case 8: r.route = 1024; r.head_len = 0; break;
    case 9: r.route = 3; r.head_len = 0; break; /* never defined */
    case 10: r.head_len = 1000; break;
    case 11: lend = true; break; /* released and never lent */
    case 12: two = true; break; /* an OPEN in a slot whose call goes on */
    case 13: r.kind = DATA; break; /* of nothing */
    case 14: r.kind = CREDIT; r.flags = 0; r.credit = 1; r.generation = 5; break; /* of nothing */
    case 15: break; /* published too far */
    case 16: two = true; break; /* DATA behind END */
    case 17: two = true; break; /* a generation below the last one */
    case 18: two = true; break; /* more than was granted */
    case 19: r.kind = CREDIT; two = true; break; /* of more than 2^31 */
    default: fail("no breach %d", which);
    }
    if (two) { /* a call that goes on, and in its slot what cannot be */
        struct record open = {.kind = OPEN, .flags = which == 16 ? END : 0, .code = HTTP, .generation = 5, .route = NONE, .head_len = (uint32_t)strlen(SILENT), .total = UNKNOWN};
        CHECK(lane_put(l, &open, SILENT, strlen(SILENT), NULL, 0), "no room");
        struct record reset = {.kind = RESET, .code = CANCELLED, .generation = 5, .total = UNKNOWN};
        r.flags = 0;
        r.generation = which == 12 ? 6 : which == 17 ? 4 : 5;
        if (which == 17) CHECK(lane_put(l, &reset, NULL, 0, NULL, 0), "no room");
        if (which == 16 || which == 18) r.kind = DATA;
        if (which == 16 || which == 18) r.head_len = 0;
        if (which == 19) r.credit = 1u << 31;
        static const uint8_t much[1 << 20];
        uint32_t part = bad.g.block_max < sizeof much ? bad.g.block_max : sizeof much;
        for (uint64_t sent = 0; which == 18 && sent <= bad.g.window; sent += part) CHECK(lane_put(l, &r, much, part, NULL, 0), "no room");
    }
    static const char body[2000]; /* comes back in a block, for which the sidecar looks at what was released */
    CHECK(lane_put(l, &r, ECHO, strlen(ECHO), body, lend ? sizeof body : 0), "no room");
    if (lend) store(l->mine + RELEASED, 1, memory_order_release);
    if (which == 15) l->published += bad.g.entries;
    lane_publish(l);
    lane_ring(l);
    struct session *one = &bad;
    int64_t late = now_ms(CLOCK_MONOTONIC) + PATIENCE_MS;
    while (!bad.ended) {
        CHECK(now_ms(CLOCK_MONOTONIC) < late, "breach %d did not end the session", which);
        park(&one, 1, 10);
        if (lend && !bad.ended) lane_ring(l); /* may be found with the next look at the lane only */
        CHECK(bad.ended || two || lend || !lane_has_records(l), "breach %d was answered", which);
    }
    session_close(&bad);
}

void breaches(void)
{
    struct lane *l = app();
    for (int which = 0; which <= 19; which++) {
        breach(which);
        expect(call(l, ECHO, "unharmed", 8), 200, "unharmed", 8);
    }
}

/* What is behind the end of a body would be another request upstream. */
void longer_than_told(void)
{
    struct lane *l = app();
    struct flow *f = flow_open(l, HTTP, 0, ECHO, strlen(ECHO));
    f->out_total = 3;
    flow_write(f, "more than three", 15, true);
    AWAIT(flow_over(f));
    CHECK(f->status == 400 || f->reset == MALFORMED, "status %u, RESET %u", f->status, f->reset);
    f = flow_open(l, HTTP, 0, ECHO, strlen(ECHO));
    f->out_total = 30;
    flow_write(f, "less than thirty", 16, true);
    AWAIT(flow_over(f));
    CHECK(f->status == 400 || f->reset == MALFORMED, "status %u, RESET %u", f->status, f->reset);
}

static void ask(const char *words)
{
    char line[16];
    printf("%s\n", words);
    fflush(stdout);
    CHECK(fgets(line, sizeof line, stdin), "nobody answers");
}

/* Not one of `all`: whoever runs it stops the sidecar after "forwarded", kills it after "opened", and says so with a line each. */
void death(void)
{
    struct lane *l = app();
    may_end = true;
    expect(call(l, ECHO, "answered", 8), 200, "answered", 8);
    struct flow *ran = call(l, SILENT, "x", 1);
    uint64_t generation;
    AWAIT(call_state(l, ran->slot, &generation) == FORWARDED && generation == ran->generation);
    ask("forwarded");
    struct flow *not_taken = call(l, ECHO, "y", 1);
    ask("opened");
    int64_t killed = now_ms(CLOCK_MONOTONIC);
    AWAIT(first.ended);
    CHECK(now_ms(CLOCK_MONOTONIC) - killed < 5000, "its end took long to see");
    flow_withdraw(ran);
    flow_withdraw(not_taken);
    while (pump(all, 1)) continue; /* what was published before its end counts */
    CHECK(!flow_over(ran) && !flow_over(not_taken), "an answer came from nobody");
    CHECK(flow_may_have_run(ran), "the forwarded call is said not to have run");
    CHECK(!flow_may_have_run(not_taken), "the call that was never taken is said to have run");
}

/* Nor this: whoever runs it sends SIGTERM after "attached". */
void goaway(void)
{
    struct lane *l = app();
    may_end = true;
    struct flow *f = call(l, SILENT, "x", 1);
    uint64_t generation;
    AWAIT(call_state(l, f->slot, &generation) == FORWARDED && generation == f->generation);
    ask("attached");
    AWAIT(first.goaway || first.ended);
    CHECK(first.goaway, "the session ended without GOAWAY");
    flow_reset(f, CANCELLED, "");
    AWAIT(first.ended);
}
