/* A lane: two rings, two arenas, two release rings and the doorbells between them (§2, §3, §4, §7). */
#define _POSIX_C_SOURCE 200809L
#include "shm1.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

uint64_t releases_at(void) { return PAGE; }
uint64_t ring_at(const struct geometry *g) { return releases_at() + round_up(UINT64_C(4) * g->release_entries, PAGE); }
uint64_t arena_at(const struct geometry *g) { return ring_at(g) + round_up((uint64_t)g->entries * g->stride, PAGE); }
uint64_t lane_bytes(const struct geometry *g) { return arena_at(g) + g->arena_bytes; }

static bool power_of_two(uint32_t n) { return n != 0 && (n & (n - 1)) == 0; }

const char *geometry_fault(const struct geometry *g)
{
    if (!power_of_two(g->entries) || g->entries > 65536 || g->entries < g->slots) return "entries";
    if (g->stride % 64 != 0 || g->stride < 64 || g->stride > 4096) return "stride";
    if (g->slots == 0 || g->slots > SLOTS_MAX) return "slots";
    if (!power_of_two(g->block_min) || g->block_min < 64) return "block_min";
    if (!power_of_two(g->block_max) || g->block_max < g->block_min) return "block_max";
    if (g->arena_bytes == 0 || g->arena_bytes > 1u << 30 || g->arena_bytes % g->block_max || g->arena_bytes % PAGE) return "arena_bytes";
    if (g->window < g->block_max) return "window";
    uint32_t blocks = 1;
    while (blocks < g->arena_bytes / g->block_min) blocks *= 2;
    return g->release_entries == blocks ? NULL : "release_entries";
}

uint64_t load(const uint8_t *word, memory_order order)
{
    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)word, order);
}

void store(uint8_t *word, uint64_t value, memory_order order)
{
    atomic_store_explicit((_Atomic uint64_t *)(void *)word, value, order);
}

uint64_t get(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) value = value << 8 | at[i];
    return value;
}

void put(uint8_t *at, int bytes, uint64_t value)
{
    for (int i = 0; i < bytes; i++, value >>= 8) at[i] = (uint8_t)value;
}

void lane_init(struct lane *l, const struct geometry *g, bool is_app, uint8_t *mine, const uint8_t *theirs)
{
    l->g = g;
    l->is_app = is_app;
    l->mine = mine;
    l->theirs = theirs;
    uint32_t units = g->arena_bytes / g->block_min;
    l->lent = calloc(units, sizeof *l->lent);
    l->used = calloc(units, 1);
    if (!l->lent || !l->used) abort();
    for (uint32_t s = 0; s < g->slots; s++) {
        l->flows[s].lane = l;
        l->flows[s].slot = s;
    }
}

/* Arena: first fit over units of block_min; what is used is known here only (§4). */
uint32_t arena_take(struct lane *l, uint32_t len)
{
    uint32_t units = l->g->arena_bytes / l->g->block_min, wanted = (len + l->g->block_min - 1) / l->g->block_min, run = 0;
    if (wanted == 0) wanted = 1;
    for (uint32_t u = 0; u < units; u++) {
        run = l->used[u] ? 0 : run + 1;
        if (run < wanted) continue;
        uint32_t first = u + 1 - wanted;
        memset(l->used + first, 1, wanted);
        l->lent[first] = wanted;
        l->blocks_lent++;
        return first * l->g->block_min;
    }
    return NONE;
}

/* Takes back what the peer released, and looks how far it consumed. False: it broke the page. */
bool lane_reclaim(struct lane *l)
{
    const struct geometry *g = l->g;
    uint64_t consumed = load(l->theirs + CONSUMED, memory_order_acquire);
    if (consumed < l->their_consumed || consumed > l->published) {
        l->fault = "consumed";
        return false;
    }
    l->their_consumed = consumed;
    uint64_t released = load(l->theirs + RELEASED, memory_order_acquire);
    if (released - l->reclaimed > g->release_entries) {
        l->fault = "released";
        return false;
    }
    for (; l->reclaimed != released; l->reclaimed++) {
        const uint8_t *entry = l->theirs + releases_at() + 4 * (l->reclaimed % g->release_entries);
        uint32_t at = atomic_load_explicit((const _Atomic uint32_t *)(const void *)entry, memory_order_relaxed);
        uint32_t unit = at / g->block_min;
        if (at >= g->arena_bytes || at % g->block_min != 0 || l->lent[unit] == 0) {
            l->fault = "released-block";
            return false;
        }
        memset(l->used + unit, 0, l->lent[unit]);
        l->lent[unit] = 0;
        l->blocks_lent--;
    }
    return true;
}

/* §3: what may stand in a record that the other side wrote; the names are those of §3.4. */
const char *record_fault(const struct lane *l, const struct record *r)
{
    const struct geometry *g = l->g;
    bool from_app = !l->is_app, from_opener = (l->kind == 0) == from_app;
    if (r->kind < DEFINE || r->kind > RESET) return "kind";
    uint8_t allowed = r->kind == OPEN ? END | STREAM | ONE_WAY : r->kind == ANSWER || r->kind == DATA ? END : 0;
    if (r->flags & ~allowed) return "flags";
    if (r->kind == DEFINE && !from_app) return "direction";
    if (l->kind < 2 && ((r->kind == OPEN && !from_opener) || (r->kind == ANSWER && from_opener))) return "direction";
    if (r->kind == DEFINE ? r->slot != 0 : r->slot >= g->slots) return "slot";
    if (r->kind == DEFINE ? r->generation != 0 : r->generation == 0 || r->generation > GENERATION_MAX) return "generation";
    if ((r->kind == DEFINE || r->kind == OPEN) && (r->code < HTTP || r->code > RAW)) return "code";
    if (r->kind == RESET && (r->code < CANCELLED || r->code > WITHDRAWN_BY_APP)) return "code";
    if ((r->kind == DEFINE || (r->kind == OPEN && r->route != NONE)) && r->route >= ROUTES_MAX) return "route";
    if (r->kind == OPEN && r->route != NONE && r->head_len != 0) return "head";
    if (r->head_len > r->length || r->head_len > HEAD_MAX) return "head";
    if (r->length > (r->block == NONE ? g->stride - HEADER : g->block_max)) return "length";
    if (r->block == NONE) return NULL;
    if (r->block % 64 != 0 || r->block >= g->arena_bytes || (uint64_t)r->block + r->length > g->arena_bytes) return "block";
    return NULL;
}

bool lane_has_records(const struct lane *l) { return load(l->theirs + PUBLISHED, memory_order_acquire) != l->consumed; }

int lane_peek(struct lane *l, struct record *r, const uint8_t **payload)
{
    const struct geometry *g = l->g;
    uint64_t published = load(l->theirs + PUBLISHED, memory_order_acquire);
    if (published == l->consumed) return 0;
    if (published - l->consumed > g->entries) {
        l->fault = "published";
        return -1;
    }
    const uint8_t *entry = l->theirs + ring_at(g) + l->consumed % g->entries * g->stride;
    uint8_t bytes[HEADER];
    for (int word = 0; word < HEADER; word += 8) put(bytes + word, 8, load(entry + word, memory_order_relaxed));
    *r = (struct record){
        .kind = bytes[0], .flags = bytes[1], .code = (uint16_t)get(bytes + 2, 2), .slot = (uint32_t)get(bytes + 4, 4),
        .generation = get(bytes + 8, 8), .route = (uint32_t)get(bytes + 16, 4), .head_len = (uint32_t)get(bytes + 20, 4),
        .length = (uint32_t)get(bytes + 24, 4), .block = (uint32_t)get(bytes + 28, 4),
        .deadline_us = (uint32_t)get(bytes + 32, 4), .credit = (uint32_t)get(bytes + 36, 4), .total = get(bytes + 40, 8),
    };
    l->fault = record_fault(l, r);
    if (l->fault) return -1;
    *payload = r->block == NONE ? entry + HEADER : l->theirs + arena_at(g) + r->block;
    return 1;
}

/* The record was taken: its block goes back, then its entry. */
void lane_advance(struct lane *l, const struct record *r)
{
    if (r->block != NONE) {
        uint8_t *entry = l->mine + releases_at() + 4 * (l->released % l->g->release_entries);
        atomic_store_explicit((_Atomic uint32_t *)(void *)entry, r->block, memory_order_relaxed);
        store(l->mine + RELEASED, ++l->released, memory_order_release);
    }
    store(l->mine + CONSUMED, ++l->consumed, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (load(l->theirs + PARKED, memory_order_relaxed) & FOR_ROOM) lane_ring(l);
}

void record_encode(const struct record *r, uint8_t *entry)
{
    uint8_t bytes[HEADER];
    bytes[0] = r->kind;
    bytes[1] = r->flags;
    put(bytes + 2, 2, r->code);
    put(bytes + 4, 4, r->slot);
    put(bytes + 8, 8, r->generation);
    const uint32_t words[] = {r->route, r->head_len, r->length, r->block, r->deadline_us, r->credit};
    for (int i = 0; i < 6; i++) put(bytes + 16 + 4 * i, 4, words[i]);
    put(bytes + 40, 8, r->total);
    for (int word = 0; word < HEADER; word += 8) store(entry + word, get(bytes + word, 8), memory_order_relaxed);
}

/* Puts a record with the payload `first` + `rest`; it is seen once it is published. False: no room now. */
bool lane_put(struct lane *l, struct record *r, const void *first, size_t first_len, const void *rest, size_t rest_len)
{
    const struct geometry *g = l->g;
    if (!lane_reclaim(l)) fail("the sidecar broke the page: %s", l->fault);
    l->refused_room = true;
    if (l->published - l->their_consumed >= g->entries) return false;
    uint8_t *entry = l->mine + ring_at(g) + l->published % g->entries * g->stride, *payload = entry + HEADER;
    r->length = (uint32_t)(first_len + rest_len);
    r->block = NONE;
    if (r->length > g->stride - HEADER) {
        r->block = arena_take(l, r->length);
        if (r->block == NONE) return false;
        payload = l->mine + arena_at(g) + r->block;
    }
    if (first_len) memcpy(payload, first, first_len);
    if (rest_len) memcpy(payload + first_len, rest, rest_len);
    record_encode(r, entry);
    l->published++;
    l->refused_room = false;
    return true;
}

void lane_publish(struct lane *l)
{
    if (load(l->mine + PUBLISHED, memory_order_relaxed) == l->published) return;
    store(l->mine + PUBLISHED, l->published, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (load(l->theirs + PARKED, memory_order_relaxed) & FOR_RECORDS) lane_ring(l);
}

/* §7, towards the sidecar. */
void lane_ring(struct lane *l)
{
    struct session *s = l->session;
    if (!s) return; /* the golden reader has none */
    uint64_t bit = UINT64_C(1) << l->bit, place = WORKER_WORDS + UINT64_C(64) * l->worker;
    _Atomic uint64_t *dirty = (_Atomic uint64_t *)(void *)(s->to_proxy + place);
    if (load(s->to_app + place, memory_order_acquire) & bit)
        atomic_fetch_and_explicit(dirty, ~bit, memory_order_seq_cst);
    else
        atomic_fetch_or_explicit(dirty, bit, memory_order_seq_cst);
    uint64_t one = 1;
    if (write(s->bells[l->worker], &one, sizeof one) < 0 && errno != EAGAIN) fail("the worker's eventfd: %s", strerror(errno));
}

enum state call_state(const struct lane *l, uint32_t slot, uint64_t *generation)
{
    uint64_t word = load(l->theirs + SLOT_WORDS + 8 * slot, memory_order_acquire);
    *generation = word >> 2;
    return (enum state)(word & 3);
}
