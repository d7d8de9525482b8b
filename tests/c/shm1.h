/* shm-v1 from its page, docs/spec/shm-v1.md: what an app in another language needs, in C11 and POSIX alone.
 * The section that a declaration comes from stands beside it. */
#ifndef SHM1_H
#define SHM1_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* §2 */
enum { PAGE = 4096, WORKER_WORDS = 64, WORKERS_MAX = 32, LANES_MAX = 200, SLOTS_MAX = 256 };
enum { PUBLISHED = 0, CONSUMED = 64, RELEASED = 128, PARKED = 192, WITHDRAWN = 256, SLOT_WORDS = 512 };
enum { FOR_RECORDS = 1, FOR_ROOM = 2 };

/* §3 */
enum { HEADER = 48, ROUTES_MAX = 1024, HEAD_MAX = 65536 };
enum kind { DEFINE = 1, OPEN, ANSWER, DATA, CREDIT, RESET };
enum flag { END = 1, STREAM = 2, ONE_WAY = 4 };
enum protocol { HTTP = 1, DUBBO = 2, RAW = 3 };
enum reset { CANCELLED = 1, NO_ROUTE, REFUSED_BY_ALL, DIED, TIMEOUT, MALFORMED, OVERLOADED, DRAINING, WITHDRAWN_BY_APP };
#define NONE UINT32_MAX
#define UNKNOWN UINT64_MAX
#define GENERATION_MAX ((UINT64_C(1) << 48) - 1)

/* §5 */
enum state { FREE, ACCEPTED, FORWARDED, ANSWERED };

/* §6 */
enum { MAGIC = 0x534D4853, MESSAGE_HEADER = 16, MESSAGE_MAX = 65536 };
enum message { HELLO = 1, WELCOME, REFUSED, LOOKUP, ENDPOINTS, GOAWAY };

struct geometry {
    uint32_t entries, stride, slots, arena_bytes, block_min, block_max, window, release_entries;
};

uint64_t releases_at(void);
uint64_t ring_at(const struct geometry *g);
uint64_t arena_at(const struct geometry *g);
uint64_t lane_bytes(const struct geometry *g);
/* What §8 does not allow, or NULL. */
const char *geometry_fault(const struct geometry *g);

struct record {
    uint8_t kind, flags;
    uint16_t code;
    uint32_t slot;
    uint64_t generation;
    uint32_t route, head_len, length, block, deadline_us, credit;
    uint64_t total;
};

struct session;

/* One slot of a lane: a call, an answer to one, or either side of a stream. */
struct flow {
    struct lane *lane;
    uint32_t slot, route, deadline_us;
    uint64_t generation;
    uint16_t code;        /* the protocol of an OPEN, the status of an ANSWER */
    uint8_t flags;        /* of the OPEN */
    bool live, opener, untaken;
    /* towards the peer; what these point at stays until it was sent */
    bool begun, out_over, out_last;
    const void *key;      /* key or head: what comes before the body in the first record */
    size_t key_len;
    const uint8_t *out;
    size_t out_len, out_at;
    uint64_t out_total, credit;
    uint32_t parts, part_max; /* records with payload so far; largest part that is made */
    /* from the peer */
    bool in_begun, in_over, hold_credit;
    uint16_t status, reset; /* of the ANSWER (of the OPEN: protocol); of the RESET, 0 = none */
    uint32_t head_len, in_parts, deadline_seen;
    uint8_t *in;          /* head, then body */
    size_t in_len, in_room;
    uint64_t in_total, granted; /* what the peer may still send */
    char why[128];
};

struct lane {
    struct session *session;
    const struct geometry *g;
    uint8_t kind, worker, bit; /* kind: 0 calling, 1 serving */
    bool is_app;               /* which side this end is; only the golden reader is ever the other */
    bool refused_room;         /* the ring or the arena was full */
    int bell;
    uint8_t *mine;             /* the lane's area in the segment that this side writes */
    const uint8_t *theirs;     /* and in the other one */
    uint64_t published, consumed, released, reclaimed, their_consumed;
    uint32_t *lent;            /* units of block_min in the block that begins here */
    uint8_t *used;             /* whether a unit is in a block */
    uint32_t blocks_lent;
    const char *fault;         /* how the peer broke the page */
    struct flow flows[SLOTS_MAX];
};

/* lane.c */
void lane_init(struct lane *l, const struct geometry *g, bool is_app, uint8_t *mine, const uint8_t *theirs);
bool lane_reclaim(struct lane *l);
/* 1 a record, 0 none, -1 the peer broke the page. The payload is the peer's memory: copy it, once. */
int lane_peek(struct lane *l, struct record *r, const uint8_t **payload);
void lane_advance(struct lane *l, const struct record *r);
bool lane_put(struct lane *l, struct record *r, const void *first, size_t first_len, const void *rest, size_t rest_len);
void lane_publish(struct lane *l);
void lane_ring(struct lane *l);
bool lane_has_records(const struct lane *l);
uint32_t arena_take(struct lane *l, uint32_t len);
enum state call_state(const struct lane *l, uint32_t slot, uint64_t *generation);
void record_encode(const struct record *r, uint8_t *entry);
const char *record_fault(const struct lane *l, const struct record *r);

uint64_t load(const uint8_t *word, memory_order order);
void store(uint8_t *word, uint64_t value, memory_order order);
uint64_t get(const uint8_t *at, int bytes);
void put(uint8_t *at, int bytes, uint64_t value);

/* session.c */
struct hello {
    uint16_t version_min, version_max, calling;
    uint8_t serving;
    const char *name;
};

struct session {
    int socket;
    bool ended, goaway;
    uint16_t version, workers, lane_count;
    uint64_t features;
    struct geometry g;
    int segments[2], bells[WORKERS_MAX];
    uint64_t segment_bytes;
    uint8_t *to_proxy;
    const uint8_t *to_app;
    struct lane *lanes;
    uint16_t refused, refused_min, refused_max; /* of REFUSED; 0 = it was not */
    char sentence[512];
    uint32_t lookup;       /* id of the last ENDPOINTS */
    uint16_t endpoints;    /* how many it named */
    char endpoint[256];    /* and the first of them */
    uint8_t *unread;
    size_t unread_len;
};

size_t hello_encode(uint8_t *at, const struct hello *h);
int session_connect(const char *path);
/* True: attached. False: refused (`refused`), or closed without a word (`ended`). */
bool session_attach(struct session *s, const char *path, const struct hello *h);
void session_lookup(struct session *s, uint32_t id, enum protocol protocol, const char *key);
void session_listen(struct session *s);
void session_close(struct session *s);

/* flow.c */
struct flow *flow_open(struct lane *l, enum protocol protocol, uint8_t flags, const void *key, size_t key_len);
void flow_write(struct flow *f, const void *bytes, size_t len, bool last);
void flow_answer(struct flow *f, uint16_t status, const char *head, const void *body, size_t len);
void flow_reset(struct flow *f, enum reset code, const char *why);
void flow_withdraw(struct flow *f);
bool flow_may_have_run(const struct flow *f);
bool flow_over(const struct flow *f);
void lane_define(struct lane *l, uint32_t route, enum protocol protocol, const void *key, size_t len);
void lane_withdraw(struct lane *l);
/* An OPEN of the sidecar that nobody took yet. */
struct flow *lane_served(struct session *s);
/* Takes and sends what can be taken and sent now; false if there was nothing. */
bool pump(struct session **sessions, int count);
/* Sleeps until something can be, or the time is over. */
void park(struct session **sessions, int count, int milliseconds);

/* suite.c and golden.c: 0 = passed */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
int run_cases(const char *socket, const char *name);
int run_golden(int count, char **files);

#endif
