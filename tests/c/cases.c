/* The cases in which both sides keep to the page. */
#include "suite.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* §6 */
void handshake(void)
{
    attach(&first, 3, 1, "conformance-handshake");
    int calling = 0, serving = 0;
    for (uint16_t i = 0; i < first.lane_count; i++) {
        first.lanes[i].kind ? serving++ : calling++;
        for (uint16_t k = 0; k < i; k++) CHECK(first.lanes[i].worker != first.lanes[k].worker || first.lanes[i].bit != first.lanes[k].bit, "two lanes with bit %u", first.lanes[i].bit);
    }
    CHECK(calling == 3 && serving == first.workers, "%d calling and %d serving lanes", calling, serving);
    for (int i = 0; i < 2; i++) {
        struct stat st;
        int seals = fcntl(first.segments[i], F_GET_SEALS), wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
        CHECK(!fstat(first.segments[i], &st) && (uint64_t)st.st_size == first.segment_bytes, "a segment of %lld bytes, not %llu", (long long)st.st_size, (unsigned long long)first.segment_bytes);
        CHECK((seals & wanted) == wanted, "seals %x", seals);
    }
    CHECK((fcntl(first.segments[1], F_GETFL) & O_ACCMODE) == O_RDONLY, "to_app can be written");
    CHECK(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, first.segments[1], 0) == MAP_FAILED, "to_app can be mapped for writing");
    CHECK(load(first.to_app, memory_order_acquire) == 0, "the direct-mode word is set");
}

static void expect_refusal(const struct hello *h, uint16_t code)
{
    struct session s;
    CHECK(!session_attach(&s, socket_path, h) && s.refused, "not refused with %u", code);
    CHECK(s.refused == code && s.refused_min == 1 && s.refused_max == 1 && s.sentence[0], "refused with %u, versions %u to %u: %s", s.refused, s.refused_min, s.refused_max, s.sentence);
    session_close(&s);
}

void refusals(void)
{
    expect_refusal(&(struct hello){7, 9, 1, 0, NULL}, 1);
    expect_refusal(&(struct hello){1, 1, 1, 1, NULL}, 5);
    attach(&first, 0, 1, "conformance-name");
    expect_refusal(&(struct hello){1, 1, 0, 1, "conformance-name"}, 4);
    struct hello more = {1, 9, 60000, 0, NULL}; /* of a newer version, with more lanes than there can be */
    CHECK(session_attach(&second, socket_path, &more), "refused with %u %s", second.refused, second.sentence);
    CHECK(second.version == 1 && second.lane_count <= LANES_MAX, "version %u, %u lanes", second.version, second.lane_count);
}

void lookup(void)
{
    app();
    session_lookup(&first, 77, HTTP, ECHO);
    AWAIT(first.lookup == 77);
    CHECK(first.endpoints == 1 && (!strncmp(first.endpoint, "tcp:", 4) || !strncmp(first.endpoint, "unix:", 5)), "%u endpoints: %s", first.endpoints, first.endpoint);
    session_lookup(&first, 78, HTTP, "GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n");
    AWAIT(first.lookup == 78);
    CHECK(first.endpoints == 0, "an endpoint of nothing: %s", first.endpoint);
}

/* §3, §3.1 */
void call_inline(void)
{
    struct lane *l = app();
    for (int i = 0; i < 3; i++) {
        struct flow *f = call(l, ECHO, "sixteen bytes...", 16);
        CHECK(f->parts == 1, "%u parts", f->parts);
        expect(f, 200, "sixteen bytes...", 16);
        CHECK(f->slot == 0 && f->generation == (uint64_t)i + 1, "slot %u was not free again", f->slot);
    }
    expect(call(l, "GET /empty HTTP/1.1\r\nHost: echo\r\n\r\n", NULL, 0), 200, "", 0);
    CHECK(l->released == 0 && l->reclaimed == 0, "blocks for small payloads");
}

void call_defined(void)
{
    struct lane *l = app();
    const char *hosts[] = {ECHO, SERVED, ECHO}; /* nobody serves yet */
    for (int i = 0; i < 3; i++) {
        lane_define(l, 1023, HTTP, hosts[i], strlen(hosts[i]));
        for (int again = 0; again < 2; again++) {
            struct flow *f = flow_open(l, HTTP, 0, NULL, 0);
            f->route = 1023;
            f->out_total = 5;
            flow_write(f, "hello", 5, true);
            if (i != 1) expect(f, 200, "hello", 5);
            AWAIT(flow_over(f));
            CHECK(i != 1 || f->status == 503, "another definition did not count: %u", f->status);
        }
    }
    static char long_key[9000];
    sprintf(long_key, "PUT /%08000d HTTP/1.1\r\nHost: echo\r\n\r\n", 1);
    lane_define(l, 0, HTTP, long_key, strlen(long_key));
    struct flow *f = flow_open(l, HTTP, 0, NULL, 0);
    f->route = 0;
    flow_write(f, "long", 4, true);
    expect(f, 200, "long", 4);
    expect_blocks(l);
}

void call_block(void)
{
    struct lane *l = app();
    uint8_t *body = noise(200000);
    const size_t sizes[] = {l->g->stride - HEADER - strlen(ECHO), l->g->stride - HEADER - strlen(ECHO) + 1, 1024, 4096, 16384, 16385, 65536, 200000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct flow *f = call(l, ECHO, body, sizes[i]);
        CHECK(f->parts == 1 && (l->blocks_lent != 0 || i == 0 || l->reclaimed), "a block was expected for %zu bytes", sizes[i]);
        expect(f, 200, body, sizes[i]);
    }
    expect_blocks(l);
    free(body);
}

void call_parts(void)
{
    struct lane *l = app();
    uint8_t *body = noise(BIG);
    for (int i = 0; i < 3; i++) {
        struct flow *f = flow_open(l, HTTP, 0, ECHO, strlen(ECHO));
        if (i == 0) f->out_total = BIG; /* after it: unknown, so chunked upstream */
        if (i == 2) f->part_max = 1000;
        flow_write(f, body, i == 2 ? 300000 : BIG, i != 1);
        if (i == 1) { /* the end comes on its own */
            AWAIT(f->out_over);
            flow_write(f, NULL, 0, true);
        }
        expect(f, 200, body, i == 2 ? 300000 : BIG);
        CHECK(f->parts > 3, "%u parts", f->parts);
        CHECK(f->in_parts < 2000, "an answer in %u parts: there are no blocks left", f->in_parts);
    }
    expect_blocks(l);
    free(body);
}

void credit(void)
{
    struct lane *l = app();
    uint8_t *body = noise(BIG);
    struct flow *held = flow_open(l, HTTP, 0, ECHO, strlen(ECHO));
    held->hold_credit = true;
    held->out_total = BIG;
    flow_write(held, body, BIG, true);
    AWAIT(held->granted == 0);
    expect(call(l, ECHO, "beside", 6), 200, "beside", 6); /* nobody else waits */
    settle(SETTLED_MS);
    CHECK(held->in_len == l->g->window && !held->in_over, "%zu bytes with a window of %u", held->in_len, l->g->window);
    held->hold_credit = false;
    expect(held, 200, body, BIG);
    expect_blocks(l);
    free(body);
}

/* Every slot of a lane, and some of lanes on other workers, round after round. */
void many(void)
{
    enum { LANES = 4 };
    static struct flow *flows[LANES][SLOTS_MAX];
    static char bodies[LANES][SLOTS_MAX][48];
    attach(&first, LANES, 0, NULL);
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < first.lane_count; i++) {
            struct lane *l = &first.lanes[i];
            for (uint32_t s = 0; s < (i ? 8 : l->g->slots); s++) {
                sprintf(bodies[i][s], "call %u of lane %d in round %d", s, i, round);
                flows[i][s] = call(l, ECHO, bodies[i][s], strlen(bodies[i][s]));
            }
        }
        CHECK(!flow_open(&first.lanes[0], HTTP, 0, "", 0), "there are more slots than there are");
        for (int i = 0; i < first.lane_count; i++)
            for (uint32_t s = 0; s < (i ? 8 : first.g.slots); s++) expect(flows[i][s], 200, bodies[i][s], strlen(bodies[i][s]));
    }
    CHECK(first.lanes[0].published > first.g.entries && first.lanes[0].consumed > first.g.entries, "the rings did not wrap");
}

/* §3.1: what the sidecar answers in the place of a service */
void failures(void)
{
    struct lane *l = app();
    const struct { const char *key; uint16_t status; } told[] = {
        {"GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n", 404}, {"GET / HTTP/1.1\r\nHost: refusing\r\n\r\n", 503},
        {"GET / HTTP/1.1\r\n\r\n", 400}, {"not a head", 400}, {"PUT / HTTP/1.1\r\nHost: echo\r\nContent-Length: 9\r\n\r\n", 400},
        {"PUT / HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
    };
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        struct flow *f = call(l, told[i].key, "12345678", 8);
        AWAIT(flow_over(f));
        CHECK(f->status == told[i].status && !f->reset, "call %zu: status %u, RESET %u %s", i, f->status, f->reset, f->why);
        expect_state(f, ANSWERED);
    }
    struct flow *f = flow_open(l, RAW, 0, "nowhere", 7);
    flow_write(f, "x", 1, true);
    expect_reset(f, NO_ROUTE);
    f = flow_open(l, RAW, 0, "refusing", 8);
    flow_write(f, "x", 1, true);
    expect_reset(f, REFUSED_BY_ALL);
    expect(call(l, ECHO, "on", 2), 200, "on", 2);
}

void deadline(void)
{
    struct lane *l = app();
    struct flow *f = flow_open(l, HTTP, 0, SILENT, strlen(SILENT));
    f->deadline_us = 200000;
    int64_t start = now_ms(CLOCK_MONOTONIC);
    flow_write(f, "late", 4, true);
    AWAIT(flow_over(f));
    int64_t took = now_ms(CLOCK_MONOTONIC) - start;
    CHECK(took >= 190 && took < 10000, "it ended after %lld ms, status %u, RESET %u %s: %.*s", (long long)took, f->status, f->reset, f->why, (int)f->in_len, f->in);
    CHECK(f->status == 504 || f->reset == TIMEOUT, "status %u, RESET %u", f->status, f->reset);
    flow_withdraw(f);
    CHECK(flow_may_have_run(f), "it was sent, and is said not to have run");
    f = flow_open(l, RAW, 0, "silent", 6);
    f->deadline_us = 100000;
    flow_write(f, "late", 4, true);
    expect_reset(f, TIMEOUT);
}

void cancel(void)
{
    struct lane *l = app();
    uint8_t *body = noise(BIG);
    for (int i = 0; i < 20; i++) { /* what it held comes back: a call has no other way to end here */
        struct flow *f = call(l, SILENT, body, i % 2 ? BIG : 50000);
        if (i > 9) settle(5);
        flow_reset(f, CANCELLED, "enough");
        CHECK(f->slot == 0 && f->generation == (uint64_t)i + 1, "slot %u", f->slot);
    }
    expect_blocks(l);
    expect(call(l, ECHO, "next", 4), 200, "next", 4);
    /* And a cancelled answer: what still comes of it is ignored, and given back. */
    struct flow *f = call(l, ECHO, body, BIG);
    AWAIT(f->in_begun);
    flow_reset(f, CANCELLED, "");
    expect(call(l, ECHO, "last", 4), 200, "last", 4);
    expect_blocks(l);
    free(body);
}

/* §5: a served app is the witness that nothing ran. */
void withdrawn(void)
{
    attach(&first, 2, 0, NULL);
    attach(&second, 0, 1, "conformance-app");
    struct lane *l = &first.lanes[0];
    for (int whole = 0; whole < 2; whole++) {
        struct flow *f = flow_open(l, HTTP, 0, SERVED, strlen(SERVED)), *served;
        whole ? lane_withdraw(l) : flow_withdraw(f);
        f->out_total = 3;
        flow_write(f, "not", 3, true);
        expect_reset(f, WITHDRAWN_BY_APP);
        uint64_t generation;
        CHECK(call_state(l, f->slot, &generation) != ANSWERED, "a withdrawn call was answered");
        f = call(&first.lanes[whole], SERVED, "the next one", 12); /* nothing else is withdrawn */
        AWAIT((served = lane_served(&second)));
        AWAIT(served->in_over);
        flow_answer(served, 200, OK_HEAD, served->in + served->head_len, served->in_len - served->head_len);
        expect(f, 200, "the next one", 12);
        CHECK(!lane_served(&second), "a withdrawn call ran");
    }
}

/* A serving lane: the same, the other way round. */
void serve(void)
{
    struct lane *l = app();
    attach(&second, 0, 1, "conformance-app");
    uint8_t *body = noise(BIG);
    const size_t sizes[] = {0, 10, 5000, 200000, BIG};
    for (size_t i = 0; i < 5; i++) {
        struct flow *caller = call(l, SERVED, body, sizes[i]), *served;
        AWAIT((served = lane_served(&second)));
        CHECK(served->status == HTTP && served->in_total == sizes[i], "protocol %u, total %llu", served->status, (unsigned long long)served->in_total);
        CHECK(served->head_len > 20 && !memcmp(served->in, "PUT /served HTTP/1.1\r\n", 22) && !memcmp(served->in + served->head_len - 4, "\r\n\r\n", 4), "the head: %.*s", (int)served->head_len, served->in);
        AWAIT(served->in_over);
        CHECK(served->in_len - served->head_len == sizes[i] && !memcmp(served->in + served->head_len, body, sizes[i]), "%zu bytes came", served->in_len - served->head_len);
        flow_answer(served, 200, OK_HEAD, body, sizes[i]);
        expect(caller, 200, body, sizes[i]);
        CHECK(memmem(caller->in, caller->head_len, "served-by: c\r\n", 14), "another head: %.*s", (int)caller->head_len, caller->in);
        expect_state(caller, ANSWERED);
    }
    /* An answer before the request has ended. */
    struct flow *caller = flow_open(l, HTTP, 0, SERVED, strlen(SERVED)), *served;
    flow_write(caller, body, BIG, false);
    AWAIT((served = lane_served(&second)));
    served->hold_credit = true;
    flow_answer(served, 413, "HTTP/1.1 413 Content Too Large\r\n\r\n", "no", 2);
    AWAIT(caller->in_over || caller->reset);
    CHECK(caller->status == 413, "status %u, RESET %u %s", caller->status, caller->reset, caller->why);
    if (!flow_over(caller)) flow_reset(caller, CANCELLED, ""); /* nobody needs the rest */
    AWAIT(served->reset);
    expect(call(l, ECHO, "on", 2), 200, "on", 2);
    for (uint16_t i = 0; i < second.lane_count; i++) expect_blocks(&second.lanes[i]);
    expect_blocks(l);
    free(body);
}

/* A raw call and a raw stream to an app that serves. */
void serve_raw(void)
{
    struct lane *l = app();
    attach(&second, 0, 1, "conformance-app");
    uint8_t *body = noise(BIG);
    for (int stream = 0; stream < 2; stream++) {
        struct flow *caller = flow_open(l, RAW, stream ? STREAM : 0, "served", 6), *served;
        flow_write(caller, body, 100, false);
        AWAIT((served = lane_served(&second)));
        CHECK(served->status == RAW && served->head_len == 0 && served->flags == (stream ? STREAM : 0), "protocol %u, flags %u, a head of %u", served->status, served->flags, served->head_len);
        if (stream) { /* both sides speak when they like */
            flow_write(served, "welcome", 7, false);
            AWAIT(caller->in_len == 7);
        }
        AWAIT(caller->out_over);
        flow_write(caller, body + 100, BIG - 100, true);
        AWAIT(served->in_over);
        CHECK(served->in_len == BIG && !memcmp(served->in, body, BIG), "%zu bytes came", served->in_len);
        stream ? flow_write(served, body, BIG, true) : flow_answer(served, 0, "", body, BIG);
        AWAIT(flow_over(caller));
        size_t before = stream ? 7 : 0;
        CHECK(!caller->reset && caller->in_len == before + BIG && !memcmp(caller->in + before, body, BIG), "%zu bytes came back, RESET %u %s", caller->in_len, caller->reset, caller->why);
    }
    free(body);
}

void serve_ends(void)
{
    struct lane *l = app();
    attach(&second, 0, 1, "conformance-app");
    struct flow *caller = call(l, SERVED, "x", 1), *served;
    AWAIT((served = lane_served(&second)));
    flow_reset(served, CANCELLED, "not today");
    AWAIT(flow_over(caller));
    CHECK(caller->status == 502 || caller->status == 503, "status %u, RESET %u", caller->status, caller->reset);
    caller = call(l, SERVED, "x", 1);
    AWAIT((served = lane_served(&second)));
    flow_reset(caller, CANCELLED, "");
    expect_reset(served, CANCELLED);
    caller = flow_open(l, HTTP, 0, SERVED, strlen(SERVED));
    caller->deadline_us = 300000;
    flow_write(caller, "x", 1, true);
    AWAIT((served = lane_served(&second)));
    CHECK(served->deadline_seen <= 300000, "a deadline of %u us is left", served->deadline_seen);
    AWAIT(flow_over(caller) && flow_over(served));
    CHECK(caller->status == 504 && served->reset, "status %u, RESET %u", caller->status, served->reset);
    caller = call(l, SERVED, "x", 1); /* an app that goes away in the middle */
    AWAIT((served = lane_served(&second)));
    session_close(&second);
    attached = 1;
    AWAIT(flow_over(caller));
    CHECK(caller->status >= 502, "status %u, RESET %u", caller->status, caller->reset);
    flow_withdraw(caller);
    CHECK(flow_may_have_run(caller), "it was published to the app, and is said not to have run");
}

/* §3.2 */
void stream_raw(void)
{
    struct lane *l = app();
    uint8_t *body = noise(BIG);
    struct flow *f = flow_open(l, RAW, STREAM, "raw", 3);
    flow_write(f, NULL, 0, false); /* the connection alone */
    for (int i = 0; i < 3; i++) {
        flow_write(f, body + 10 * i, 10, false);
        AWAIT(f->in_len == 10u * (unsigned)i + 10);
    }
    flow_write(f, body + 30, BIG - 30, true);
    AWAIT(flow_over(f));
    CHECK(!f->reset && f->in_len == BIG && !memcmp(f->in, body, BIG), "%zu bytes came back, RESET %u %s", f->in_len, f->reset, f->why);
    f = flow_open(l, RAW, STREAM, "raw", 3);
    flow_write(f, "cut", 3, false);
    AWAIT(f->in_len == 3);
    flow_reset(f, CANCELLED, "");
    /* The same as a call. */
    f = flow_open(l, RAW, 0, "raw", 3);
    flow_write(f, body, 100000, true);
    AWAIT(flow_over(f));
    CHECK(f->in_len == 100000 && f->head_len == 0 && f->status == 0 && !memcmp(f->in, body, 100000), "%zu bytes came back, RESET %u %s", f->in_len, f->reset, f->why);
    expect_blocks(l);
    free(body);
}

void stream_http(void)
{
    struct lane *l = app();
    static const char two[] = "PUT /1 HTTP/1.1\r\nHost: echo\r\nContent-Length: 3\r\n\r\nonePUT /2 HTTP/1.1\r\nHost: echo\r\nContent-Length: 3\r\n\r\ntwo";
    struct flow *f = flow_open(l, HTTP, STREAM, NULL, 0);
    flow_write(f, two, sizeof two - 1, false);
    AWAIT(f->in_len > 3 && !memcmp(f->in + f->in_len - 3, "two", 3));
    CHECK(!memcmp(f->in, "HTTP/1.1 200 ", 13) && memmem(f->in, f->in_len, "\r\n\r\noneHTTP/1.1 200 ", 20), "%.*s", (int)f->in_len, f->in);
    flow_write(f, NULL, 0, true);
    AWAIT(flow_over(f));
    CHECK(!f->reset, "RESET %u %s", f->reset, f->why);
}

/* A frame that calls echo("hi"); its key in `key`. */
static size_t dubbo(uint8_t *frame, uint8_t *key, size_t *key_len, bool one_way, char id)
{
    static const char *const words[] = {"2.0.2", "com.demo.EchoService", "0.0.0", "echo", "Ljava/lang/String;", "hi"};
    uint8_t *p = frame + 16;
    for (int i = 0; i < 6; i++) {
        *p++ = (uint8_t)strlen(words[i]);
        memcpy(p, words[i], strlen(words[i]));
        p += strlen(words[i]);
    }
    *p++ = 'H';
    *p++ = 'Z';
    memcpy(frame, "\xda\xbb", 2);
    frame[2] = one_way ? 0x82 : 0xc2;
    memset(frame + 3, 0, 12);
    frame[11] = (uint8_t)id;
    frame[15] = (uint8_t)(p - frame - 16);
    *key_len = 0;
    for (uint8_t tag = 1; tag <= 2; tag++) {
        const char *word = words[tag == 1 ? 1 : 3];
        key[(*key_len)++] = tag;
        put(key + *key_len, 2, strlen(word));
        memcpy(key + *key_len + 2, word, strlen(word));
        *key_len += 2 + strlen(word);
    }
    return (size_t)(p - frame);
}

void call_dubbo(void)
{
    struct lane *l = app();
    uint8_t frame[256], key[128];
    size_t key_len;
    for (int i = 0; i < 4; i++) {
        size_t len = dubbo(frame, key, &key_len, i == 3, (char)(65 + i));
        struct flow *f = flow_open(l, DUBBO, i == 3 ? ONE_WAY : 0, key, key_len);
        if (i == 1) {
            lane_define(l, 5, DUBBO, key, key_len);
            f->route = 5;
            f->key_len = 0;
        }
        flow_write(f, frame, len, i != 2);
        if (i == 2) flow_write(f, NULL, 0, true);
        AWAIT(flow_over(f));
        CHECK(!f->reset && f->head_len == 0, "RESET %u %s", f->reset, f->why);
        if (i == 3) {
            CHECK(f->in_len == 0 && f->in_begun, "%zu bytes answer a one-way call", f->in_len);
            continue;
        }
        CHECK(f->status == 20 && f->in_len >= 20 && !memcmp(f->in, "\xda\xbb\x02\x14", 4) && f->in[11] == 65 + i, "status %u, %zu bytes", f->status, f->in_len);
        CHECK(memmem(f->in + 16, f->in_len - 16, "\2hi", 3), "the answer is another");
    }
}

/* §7: with nothing to do both sides sleep, and a bell wakes either. */
void idle(void)
{
    struct lane *l = app();
    for (int i = 0; i < 5; i++) {
        expect(call(l, ECHO, "tick", 4), 200, "tick", 4);
        int64_t late = now_ms(CLOCK_MONOTONIC) + PATIENCE_MS;
        while (!(load(l->theirs + PARKED, memory_order_relaxed) & FOR_RECORDS)) {
            CHECK(now_ms(CLOCK_MONOTONIC) < late, "the sidecar never parks");
            step(20);
        }
        int woken = settle(SETTLED_MS);
        CHECK(woken <= 10, "woken %d times with nothing to do", woken);
    }
}
