/* What happens in a slot: calls, answers and streams, with credit (§3, §5), for an app of one thread. */
#define _GNU_SOURCE
#include "shm1.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static uint64_t min(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void begin(struct flow *f, uint64_t generation)
{
    struct lane *l = f->lane;
    uint32_t slot = f->slot;
    free(f->in);
    memset(f, 0, sizeof *f);
    f->lane = l;
    f->slot = slot;
    f->generation = generation;
    f->live = true;
    f->route = NONE;
    f->out_total = f->in_total = UNKNOWN;
    f->credit = f->granted = l->g->window;
}

/* Takes a free slot. Nothing is said before the first flow_write. */
struct flow *flow_open(struct lane *l, enum protocol protocol, uint8_t flags, const void *key, size_t key_len)
{
    uint32_t slot = 0;
    while (slot < l->g->slots && l->flows[slot].live) slot++;
    if (slot == l->g->slots) return NULL;
    struct flow *f = &l->flows[slot];
    begin(f, f->generation + 1);
    f->opener = true;
    f->out_over = true; /* until there is something */
    f->code = (uint16_t)protocol;
    f->flags = flags;
    f->key = key;
    f->key_len = key_len;
    return f;
}

bool flow_over(const struct flow *f) { return f->reset || (f->in_over && f->out_over && f->out_last); }

static bool send_or_not(struct flow *f, struct record *r, const void *first, size_t first_len, const void *rest, size_t rest_len)
{
    r->slot = f->slot;
    r->generation = f->generation;
    return lane_put(f->lane, r, first, first_len, rest, rest_len);
}

/* Sends what credit and room allow; true if that was anything. */
static bool push(struct flow *f)
{
    const struct geometry *g = f->lane->g;
    bool moved = false;
    while (!f->out_over) {
        size_t prefix = f->begun ? 0 : f->key_len, left = f->out_len - f->out_at;
        size_t part = min(left, min(f->part_max ? f->part_max : g->block_max, f->credit) - prefix);
        bool ends = part == left && f->out_last;
        if (f->begun && part == 0 && !ends) {
            f->out_over = left == 0;
            break;
        }
        struct record r = {.kind = DATA, .total = UNKNOWN};
        if (!f->begun) {
            r.kind = f->opener ? OPEN : ANSWER;
            r.code = f->code;
            r.flags = f->opener ? f->flags : 0;
            r.route = f->opener ? f->route : 0;
            r.head_len = (uint32_t)prefix;
            r.deadline_us = f->deadline_us;
            r.total = f->out_total;
        }
        if (ends) r.flags |= END;
        if (!send_or_not(f, &r, f->key, prefix, f->out ? f->out + f->out_at : NULL, part)) break;
        f->begun = moved = true;
        f->parts++;
        f->out_at += part;
        f->credit -= prefix + part;
        f->out_over = ends || (f->out_at == f->out_len && !f->out_last);
    }
    if (!f->hold_credit && !f->in_over && f->granted <= g->window / 2) {
        struct record r = {.kind = CREDIT, .credit = (uint32_t)(g->window - f->granted), .total = UNKNOWN};
        if (send_or_not(f, &r, NULL, 0, NULL, 0)) {
            f->granted += r.credit;
            moved = true;
        }
    }
    if (moved) lane_publish(f->lane);
    if (flow_over(f)) f->live = false;
    return moved;
}

/* The next bytes of this direction; they have to stay where they are until they were sent. */
void flow_write(struct flow *f, const void *bytes, size_t len, bool last)
{
    if (f->out_at != f->out_len) fail("a write before the last one was sent");
    f->out = bytes;
    f->out_len = len;
    f->out_at = 0;
    f->out_over = false;
    f->out_last = last;
    push(f);
}

void flow_answer(struct flow *f, uint16_t status, const char *head, const void *body, size_t len)
{
    f->code = status;
    f->key = head;
    f->key_len = strlen(head);
    f->out_total = len;
    flow_write(f, body, len, true);
}

static void must_put(struct lane *l, struct record *r, const void *payload, size_t len)
{
    for (int tries = 0; !lane_put(l, r, payload, len, NULL, 0); tries++) {
        if (tries == 100) fail("for a second there was no room for a record");
        struct session *one = l->session;
        park(&one, 1, 10);
    }
    lane_publish(l);
}

void flow_reset(struct flow *f, enum reset code, const char *why)
{
    struct record r = {.kind = RESET, .code = (uint16_t)code, .slot = f->slot, .generation = f->generation, .total = UNKNOWN};
    must_put(f->lane, &r, why, strlen(why));
    f->live = false;
    f->reset = (uint16_t)code;
}

void lane_define(struct lane *l, uint32_t route, enum protocol protocol, const void *key, size_t len)
{
    struct record r = {.kind = DEFINE, .code = (uint16_t)protocol, .route = route, .total = UNKNOWN};
    must_put(l, &r, key, len);
}

/* §5 */
void flow_withdraw(struct flow *f)
{
    store(f->lane->mine + SLOT_WORDS + 8 * f->slot, f->generation, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

void lane_withdraw(struct lane *l)
{
    store(l->mine + WITHDRAWN, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

/* Only once it was withdrawn. */
bool flow_may_have_run(const struct flow *f)
{
    uint64_t generation;
    enum state state = call_state(f->lane, f->slot, &generation);
    return generation == f->generation && (state == FORWARDED || state == ANSWERED);
}

static void take_payload(struct flow *f, const struct record *r, const uint8_t *payload)
{
    if (f->in_over) fail("a %s after the end of its direction", r->kind == DATA ? "DATA" : "ANSWER");
    if (r->length > f->granted) fail("%u bytes came, and %llu were granted", r->length, (unsigned long long)f->granted);
    f->granted -= r->length;
    f->in_parts++;
    if (f->in_len + r->length > f->in_room) {
        f->in_room = 2 * f->in_room + r->length;
        f->in = realloc(f->in, f->in_room);
        if (!f->in) abort();
    }
    if (r->length) memcpy(f->in + f->in_len, payload, r->length);
    f->in_len += r->length;
    f->in_over = r->flags & END;
}

static void take(struct lane *l, const struct record *r, const uint8_t *payload)
{
    struct flow *f = &l->flows[r->slot];
    if (r->kind == OPEN) {
        if (r->generation <= f->generation) fail("an OPEN of generation %llu after %llu", (unsigned long long)r->generation, (unsigned long long)f->generation);
        if (f->live) fail("an OPEN in slot %u, whose call is not over", r->slot);
        begin(f, r->generation);
        f->untaken = true;
        f->flags = r->flags;
        f->out_over = true;
    }
    if (r->generation > f->generation) fail("a record of a generation that was never opened");
    if (r->generation < f->generation || !f->live) return; /* it was over */
    switch (r->kind) {
    case OPEN:
    case ANSWER:
        if (f->in_begun || (r->kind == ANSWER && f->flags & STREAM)) fail("an ANSWER that cannot be");
        f->in_begun = true;
        f->status = r->code;
        f->head_len = r->head_len;
        f->in_total = r->total;
        f->deadline_seen = r->deadline_us;
        take_payload(f, r, payload);
        break;
    case DATA:
        if (!f->in_begun && !(f->flags & STREAM)) fail("a DATA before its ANSWER");
        take_payload(f, r, payload);
        break;
    case CREDIT:
        f->credit += r->credit;
        break;
    case RESET: {
        size_t len = min(r->length, sizeof f->why - 1);
        memcpy(f->why, payload, len);
        f->reset = r->code;
        break;
    }
    }
    if (flow_over(f)) f->live = false;
}

struct flow *lane_served(struct session *s)
{
    for (uint16_t i = 0; i < s->lane_count; i++)
        for (uint32_t slot = 0; slot < s->g.slots; slot++) {
            struct flow *f = &s->lanes[i].flows[slot];
            if (!f->untaken) continue;
            f->untaken = false;
            return f;
        }
    return NULL;
}

bool pump(struct session **sessions, int count)
{
    bool moved = false;
    for (int n = 0; n < count; n++)
        for (uint16_t i = 0; i < sessions[n]->lane_count; i++) {
            struct lane *l = &sessions[n]->lanes[i];
            struct record r;
            const uint8_t *payload;
            int found;
            while ((found = lane_peek(l, &r, &payload)) > 0) {
                take(l, &r, payload);
                lane_advance(l, &r);
                moved = true;
            }
            if (found < 0 || !lane_reclaim(l)) fail("the sidecar broke the page: %s", l->fault);
            l->refused_room = false;
            for (uint32_t slot = 0; slot < l->g->slots; slot++)
                if (l->flows[slot].live) moved |= push(&l->flows[slot]);
        }
    return moved;
}

/* Whether a lane that is about to sleep has something after all. */
static bool has_something(struct lane *l)
{
    if (lane_has_records(l)) return true;
    return l->refused_room && (load(l->theirs + CONSUMED, memory_order_acquire) != l->their_consumed || load(l->theirs + RELEASED, memory_order_acquire) != l->reclaimed);
}

void park(struct session **sessions, int count, int milliseconds)
{
    struct pollfd polled[2 * (LANES_MAX + 1)];
    nfds_t n = 0;
    for (int k = 0; k < count; k++)
        for (uint16_t i = 0; i < sessions[k]->lane_count; i++) {
            struct lane *l = &sessions[k]->lanes[i];
            store(l->mine + PARKED, l->refused_room ? FOR_RECORDS | FOR_ROOM : FOR_RECORDS, memory_order_relaxed);
        }
    atomic_thread_fence(memory_order_seq_cst);
    for (int k = 0; k < count; k++) {
        polled[n++] = (struct pollfd){.fd = sessions[k]->ended ? -1 : sessions[k]->socket, .events = POLLIN};
        for (uint16_t i = 0; i < sessions[k]->lane_count; i++) {
            if (has_something(&sessions[k]->lanes[i])) milliseconds = 0;
            polled[n++] = (struct pollfd){.fd = sessions[k]->ended ? -1 : sessions[k]->lanes[i].bell, .events = POLLIN};
        }
    }
    if (poll(polled, n, milliseconds) < 0 && errno != EINTR) fail("poll: %s", strerror(errno));
    n = 0;
    for (int k = 0; k < count; k++) {
        if (polled[n++].revents) session_listen(sessions[k]);
        for (uint16_t i = 0; i < sessions[k]->lane_count; i++, n++) {
            char rings[64];
            store(sessions[k]->lanes[i].mine + PARKED, 0, memory_order_relaxed);
            while (polled[n].revents && recv(polled[n].fd, rings, sizeof rings, MSG_DONTWAIT) > 0) continue;
        }
    }
}
