/* A session: the handshake, the two segments and what else is said on the socket (§6). */
#define _GNU_SOURCE
#include "shm1.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { FDS_MAX = 2 + WORKERS_MAX + LANES_MAX };

static uint8_t *message(uint8_t *at, enum message type, size_t len)
{
    put(at, 4, MAGIC);
    put(at + 4, 2, type);
    put(at + 6, 2, 1);
    put(at + 8, 4, len);
    put(at + 12, 4, 0);
    return at + MESSAGE_HEADER;
}

size_t hello_encode(uint8_t *at, const struct hello *h)
{
    size_t name = h->name ? strlen(h->name) : 0;
    uint8_t *p = message(at, HELLO, 18 + name);
    put(p, 2, h->version_min);
    put(p + 2, 2, h->version_max);
    put(p + 4, 2, h->calling);
    p[6] = h->serving;
    p[7] = 0;
    put(p + 8, 8, 0);
    put(p + 16, 2, name);
    if (name) memcpy(p + 18, h->name, name);
    return MESSAGE_HEADER + 18 + name;
}

int session_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) fail("the path of the socket is too long");
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect: %s", strerror(errno));
    return fd;
}

/* Reads what is there, descriptors too; false at the end. */
static bool receive(struct session *s, int flags, int *fds, int *fd_count)
{
    char control[CMSG_SPACE(sizeof(int) * FDS_MAX)];
    uint8_t bytes[4096];
    struct iovec piece = {bytes, sizeof bytes};
    struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(s->socket, &m, flags | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (n <= 0) {
        s->ended = true;
        return false;
    }
    if (m.msg_flags & MSG_CTRUNC) fail("more descriptors came than a session can have");
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        int count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        if (!fds || *fd_count + count > FDS_MAX) fail("descriptors came that nobody asked for");
        memcpy(fds + *fd_count, CMSG_DATA(c), sizeof(int) * (size_t)count);
        *fd_count += count;
    }
    s->unread = realloc(s->unread, s->unread_len + (size_t)n);
    if (!s->unread) abort();
    memcpy(s->unread + s->unread_len, bytes, (size_t)n);
    s->unread_len += (size_t)n;
    return true;
}

/* The type of the first message that is there whole, or 0. */
static enum message whole(const struct session *s, const uint8_t **payload, size_t *len)
{
    if (s->unread_len < MESSAGE_HEADER) return 0;
    if (get(s->unread, 4) != MAGIC || get(s->unread + 6, 2) != 1 || get(s->unread + 12, 4) != 0) fail("a message with another header");
    *len = get(s->unread + 8, 4);
    if (*len > MESSAGE_MAX) fail("a message of %zu bytes", *len);
    *payload = s->unread + MESSAGE_HEADER;
    return s->unread_len < MESSAGE_HEADER + *len ? 0 : (enum message)get(s->unread + 4, 2);
}

static void drop(struct session *s, size_t len)
{
    s->unread_len -= MESSAGE_HEADER + len;
    memmove(s->unread, s->unread + MESSAGE_HEADER + len, s->unread_len);
}

static void text(char *to, size_t room, const uint8_t *from, size_t len)
{
    if (len >= room) len = room - 1;
    memcpy(to, from, len);
    to[len] = 0;
}

static void welcome(struct session *s, const uint8_t *p, size_t len, const int *fds, int fd_count)
{
    if (len < 48) fail("WELCOME of %zu bytes", len);
    s->version = (uint16_t)get(p, 2);
    s->workers = (uint16_t)get(p + 2, 2);
    s->lane_count = (uint16_t)get(p + 4, 2);
    s->features = get(p + 8, 8);
    uint32_t *const words[] = {&s->g.entries, &s->g.stride, &s->g.slots, &s->g.arena_bytes, &s->g.block_min, &s->g.block_max, &s->g.window, &s->g.release_entries};
    for (int i = 0; i < 8; i++) *words[i] = (uint32_t)get(p + 16 + 4 * i, 4);
    if (s->workers == 0 || s->workers > WORKERS_MAX || s->lane_count == 0 || s->lane_count > LANES_MAX) fail("%u workers, %u lanes", s->workers, s->lane_count);
    if (len != 48 + 4u * s->lane_count) fail("WELCOME of %zu bytes for %u lanes", len, s->lane_count);
    if (fd_count != 2 + s->workers + s->lane_count) fail("%d descriptors for %u workers and %u lanes", fd_count, s->workers, s->lane_count);
    if (geometry_fault(&s->g)) fail("a geometry that the page does not allow: %s", geometry_fault(&s->g));
    s->segment_bytes = PAGE + s->lane_count * lane_bytes(&s->g);
    memcpy(s->segments, fds, sizeof s->segments);
    memcpy(s->bells, fds + 2, sizeof(int) * s->workers);
    void *to_proxy = mmap(NULL, s->segment_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    void *to_app = mmap(NULL, s->segment_bytes, PROT_READ, MAP_SHARED, fds[1], 0);
    if (to_proxy == MAP_FAILED || to_app == MAP_FAILED) fail("mmap: %s", strerror(errno));
    s->to_proxy = to_proxy;
    s->to_app = to_app;
    s->lanes = calloc(s->lane_count, sizeof *s->lanes);
    if (!s->lanes) abort();
    for (uint16_t i = 0; i < s->lane_count; i++) {
        struct lane *l = &s->lanes[i];
        uint64_t at = PAGE + i * lane_bytes(&s->g);
        const uint8_t *told = p + 48 + 4 * i;
        lane_init(l, &s->g, true, s->to_proxy + at, s->to_app + at);
        l->session = s;
        l->kind = told[0];
        l->worker = told[1];
        l->bit = told[2];
        l->bell = fds[2 + s->workers + i];
        if (l->kind > 1 || l->worker >= s->workers || l->bit >= 64 || told[3]) fail("lane %u: kind %u, worker %u, bit %u", i, l->kind, l->worker, l->bit);
    }
}

bool session_attach(struct session *s, const char *path, const struct hello *h)
{
    uint8_t bytes[256];
    memset(s, 0, sizeof *s);
    s->socket = session_connect(path);
    if (h) {
        size_t len = hello_encode(bytes, h);
        if (send(s->socket, bytes, len, MSG_NOSIGNAL) != (ssize_t)len) fail("send: %s", strerror(errno));
    }
    int fds[FDS_MAX], fd_count = 0;
    const uint8_t *p;
    size_t len;
    enum message type;
    while (!(type = whole(s, &p, &len)))
        if (!receive(s, 0, fds, &fd_count)) return false;
    if (type == REFUSED) {
        if (len < 8 || len != 8 + get(p + 6, 2)) fail("REFUSED of %zu bytes", len);
        s->refused = (uint16_t)get(p, 2);
        s->refused_min = (uint16_t)get(p + 2, 2);
        s->refused_max = (uint16_t)get(p + 4, 2);
        text(s->sentence, sizeof s->sentence, p + 8, len - 8);
        return false;
    }
    if (type != WELCOME) fail("message %d instead of WELCOME", type);
    welcome(s, p, len, fds, fd_count);
    drop(s, len);
    return true;
}

void session_lookup(struct session *s, uint32_t id, enum protocol protocol, const char *key)
{
    uint8_t bytes[512], *p = message(bytes, LOOKUP, 9 + strlen(key));
    put(p, 4, id);
    p[4] = (uint8_t)protocol;
    put(p + 5, 4, strlen(key));
    memcpy(p + 9, key, strlen(key));
    size_t len = MESSAGE_HEADER + 9 + strlen(key);
    if (send(s->socket, bytes, len, MSG_NOSIGNAL) != (ssize_t)len) fail("send: %s", strerror(errno));
}

/* Takes what the sidecar says on the socket; its end too. */
void session_listen(struct session *s)
{
    const uint8_t *p;
    size_t len;
    receive(s, MSG_DONTWAIT, NULL, NULL);
    for (enum message type; (type = whole(s, &p, &len)); drop(s, len)) {
        if (type == GOAWAY && len == 0) {
            s->goaway = true;
        } else if (type == ENDPOINTS && len >= 6) {
            s->lookup = (uint32_t)get(p, 4);
            s->endpoints = (uint16_t)get(p + 4, 2);
            size_t at = 6;
            for (int i = 0; i < s->endpoints; i++) {
                size_t size = at + 2 <= len ? get(p + at, 2) : len;
                if (at + 2 + size > len) fail("ENDPOINTS is cut off");
                if (i == 0) text(s->endpoint, sizeof s->endpoint, p + at + 2, size);
                at += 2 + size;
            }
            if (at != len) fail("ENDPOINTS is longer than its endpoints");
        } else {
            fail("message %d of %zu bytes", type, len);
        }
    }
}

void session_close(struct session *s)
{
    for (uint16_t i = 0; s->lanes && i < s->lane_count; i++) {
        close(s->lanes[i].bell);
        free(s->lanes[i].lent);
        free(s->lanes[i].used);
        for (uint32_t slot = 0; slot < s->g.slots; slot++) free(s->lanes[i].flows[slot].in);
    }
    if (s->lanes) {
        for (uint16_t w = 0; w < s->workers; w++) close(s->bells[w]);
        munmap(s->to_proxy, s->segment_bytes);
        munmap((void *)s->to_app, s->segment_bytes);
        close(s->segments[0]);
        close(s->segments[1]);
    }
    free(s->lanes);
    free(s->unread);
    close(s->socket);
    memset(s, 0, sizeof *s);
    s->socket = -1;
}
