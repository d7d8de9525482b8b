/* The golden segments of tests/vectors/shm: each is a short program, in the words of its README. */
#define _POSIX_C_SOURCE 200809L
#include "shm1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const KINDS[] = {"", "define", "open", "answer", "data", "credit", "reset"};
static const char *const STATES[] = {"free", "accepted", "forwarded", "answered"};

struct reader {
    struct geometry g;
    struct lane lane;
    uint8_t *mine, *theirs;
};

static char fault[256];
#define EXPECT(what, ...) do { if (!(what)) { snprintf(fault, sizeof fault, __VA_ARGS__); return false; } } while (0)

static uint64_t number(const char *word)
{
    if (!word) return 0;
    return !strcmp(word, "none") ? NONE : !strcmp(word, "unknown") ? UNKNOWN : strtoull(word, NULL, 0);
}

static size_t hex(const char *words, uint8_t *to, size_t room)
{
    size_t len = 0;
    for (unsigned byte; words && sscanf(words, " %2x", &byte) == 1 && len < room; words += strspn(words, " ") + 2) to[len++] = (uint8_t)byte;
    return len;
}

static bool geometry(struct reader *g, const char *side, char *words)
{
    uint32_t *const fields[] = {&g->g.entries, &g->g.stride, &g->g.slots, &g->g.arena_bytes, &g->g.block_min, &g->g.block_max, &g->g.window};
    for (int i = 0; i < 7; i++) *fields[i] = (uint32_t)strtoul(words, &words, 0);
    for (g->g.release_entries = 1; g->g.release_entries < g->g.arena_bytes / g->g.block_min;) g->g.release_entries *= 2;
    EXPECT(!geometry_fault(&g->g), "geometry: %s", geometry_fault(&g->g));
    size_t len = PAGE + lane_bytes(&g->g);
    g->mine = aligned_alloc(PAGE, len);
    g->theirs = aligned_alloc(PAGE, len);
    if (!g->mine || !g->theirs) abort();
    memset(g->mine, 0, len);
    memset(g->theirs, 0, len);
    lane_init(&g->lane, &g->g, !strcmp(side, "app"), g->mine + PAGE, g->theirs + PAGE);
    g->lane.kind = 2; /* either */
    return true;
}

/* The next record is there, as told; and is consumed. */
static bool record(struct reader *g, char *words)
{
    struct record r;
    const uint8_t *payload;
    int found = lane_peek(&g->lane, &r, &payload);
    EXPECT(found == 1, "a record is expected: %s", found ? g->lane.fault : "none is there");
    char *rest, *word = strtok_r(words, " ", &rest);
    EXPECT(word && !strcmp(KINDS[r.kind], word), "kind %s instead of %s", KINDS[r.kind], word);
    const struct { const char *name; uint64_t value, usual; } fields[] = {
        {"flags", r.flags, 0}, {"code", r.code, 0}, {"slot", r.slot, 0}, {"generation", r.generation, 0}, {"route", r.route, 0},
        {"head_len", r.head_len, 0}, {"length", r.length, 0}, {"deadline_us", r.deadline_us, 0}, {"credit", r.credit, 0},
        {"total", r.total, UNKNOWN}, {"in_block", r.block != NONE, 0},
    };
    enum { FIELDS = sizeof fields / sizeof *fields };
    uint64_t wanted[FIELDS];
    for (int i = 0; i < FIELDS; i++) wanted[i] = fields[i].usual;
    uint8_t bytes[4096];
    size_t len = 0;
    while ((word = strtok_r(NULL, " ", &rest))) {
        char *value = strchr(word, '=');
        EXPECT(value, "no value: %s", word);
        *value++ = 0;
        int i = 0;
        if (!strcmp(word, "payload")) {
            len = hex(value, bytes, sizeof bytes);
            continue;
        }
        while (i < FIELDS && strcmp(word, fields[i].name) != 0) i++;
        EXPECT(i < FIELDS, "no field %s", word);
        wanted[i] = number(value);
    }
    for (int i = 0; i < FIELDS; i++) EXPECT(fields[i].value == wanted[i], "%s is %llu, not %llu", fields[i].name, (unsigned long long)fields[i].value, (unsigned long long)wanted[i]);
    EXPECT(len == r.length && !memcmp(payload, bytes, len), "the payload is another");
    lane_advance(&g->lane, &r);
    return true;
}

static bool step(struct reader *g, char *line)
{
    char *rest, *verb = strtok_r(line, " ", &rest);
    if (!verb || verb[0] == '#') return true;
    if (!strcmp(verb, "reader")) {
        char *side = strtok_r(NULL, " ", &rest);
        return geometry(g, side, rest);
    }
    EXPECT(g->mine, "the first line says who reads");
    struct record r;
    const uint8_t *payload;
    uint8_t bytes[4096];
    if (!strcmp(verb, "record")) return record(g, rest);
    if (!strcmp(verb, "none")) EXPECT(lane_peek(&g->lane, &r, &payload) == 0, "there is a record, or a breach: %s", g->lane.fault);
    else if (!strcmp(verb, "breach")) {
        bool broken = !lane_reclaim(&g->lane) || lane_peek(&g->lane, &r, &payload) < 0;
        EXPECT(broken && !strcmp(g->lane.fault, rest), "%s instead of %s", broken ? g->lane.fault : "no breach", rest);
    } else if (!strcmp(verb, "put")) {
        r = (struct record){.kind = DATA, .slot = 1, .generation = 1, .total = UNKNOWN};
        memset(bytes, 0x5a, sizeof bytes);
        EXPECT(lane_put(&g->lane, &r, bytes, number(rest), NULL, 0), "no room");
        lane_publish(&g->lane);
    } else if (!strcmp(verb, "release")) { /* the peer gives back the block of what was put as the n-th */
        const uint8_t *entry = g->mine + PAGE + ring_at(&g->g) + number(rest) % g->g.entries * g->g.stride;
        uint64_t released = get(g->theirs + PAGE + RELEASED, 8);
        memcpy(g->theirs + PAGE + releases_at() + 4 * (released % g->g.release_entries), entry + 28, 4);
        put(g->theirs + PAGE + RELEASED, 8, released + 1);
    } else if (!strcmp(verb, "at") || !strcmp(verb, "mine")) {
        char *at = strtok_r(NULL, " ", &rest);
        size_t len = hex(rest, bytes, sizeof bytes), offset = strtoul(at, NULL, 16);
        EXPECT(len && offset + len <= PAGE + lane_bytes(&g->g), "bytes outside of the segment");
        if (verb[0] == 'a') memcpy(g->theirs + offset, bytes, len);
        else EXPECT(!memcmp(g->mine + offset, bytes, len), "what the reader wrote at %s is something else", at);
    } else if (!strcmp(verb, "unconsumed") || !strcmp(verb, "lent")) {
        EXPECT(lane_reclaim(&g->lane), "a breach: %s", g->lane.fault);
        uint64_t is = verb[0] == 'u' ? g->lane.published - g->lane.their_consumed : g->lane.blocks_lent;
        EXPECT(is == number(rest), "%s: %llu", verb, (unsigned long long)is);
    } else if (!strcmp(verb, "state") || !strcmp(verb, "withdrawn")) {
        char *generation;
        uint32_t slot = (uint32_t)strtoul(rest, &generation, 0);
        uint64_t wanted = strtoull(generation, &generation, 0), seen;
        const char *name = generation + strspn(generation, " ");
        if (verb[0] == 's') {
            enum state state = call_state(&g->lane, slot, &seen);
            EXPECT(seen == wanted && !strcmp(STATES[state], name), "slot %u is %s with generation %llu", slot, STATES[state], (unsigned long long)seen);
        } else {
            bool is = load(g->lane.theirs + WITHDRAWN, memory_order_relaxed) || load(g->lane.theirs + SLOT_WORDS + 8 * slot, memory_order_relaxed) >= wanted;
            EXPECT(is == !strcmp(name, "yes"), "withdrawn: %d", is);
        }
    } else EXPECT(false, "no step %s", verb);
    return true;
}

int run_golden(int count, char **files)
{
    int failed = 0;
    char line[16384];
    for (int i = 0; i < count; i++) {
        static struct reader g;
        memset(&g, 0, sizeof g);
        FILE *file = fopen(files[i], "r");
        bool good = file != NULL;
        strcpy(fault, "it cannot be read");
        int at = 0;
        while (good && fgets(line, sizeof line, file)) {
            at++;
            line[strcspn(line, "\n")] = 0;
            good = step(&g, line);
        }
        if (good && !g.mine) good = false;
        good ? printf("ok %s\n", files[i]) : printf("not ok %s: line %d: %s\n", files[i], at, fault);
        failed += !good;
        if (file) fclose(file);
        free(g.lane.lent);
        free(g.lane.used);
        free(g.mine);
        free(g.theirs);
    }
    return failed != 0;
}
