/* What a call costs without us: a blocking client and a blocking server over TCP (TCP_NODELAY) or a Unix socket, one call in
 * flight, in as few lines as the same work takes. They say the same bytes as `shmesh bench` and `shmesh echo --check`: HTTP/1.1,
 * PUT, a payload of words `seed + i * STEP` that both sides read and compare (core/shmesh/src/cli/bench/payload.rs).
 *
 *   pingpong serve tcp PORT | unix PATH
 *   pingpong call  tcp PORT | unix PATH  BYTES SECONDS      prints: p50_ns p99_ns calls_per_second
 *
 * Compiled by the benchmark itself: cc -O2 -o pingpong pingpong.c */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define STEP 0x9e3779b97f4a7c15ull
#define HEAD_MAX 512
#define PAYLOAD_MAX (64u << 20)
#define SAMPLES_MAX (20u << 20)

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Both take whole words and the first bytes of one more. */
static void fill(char *to, size_t len, uint64_t seed) {
    for (size_t at = 0; at < len; at += 8) {
        uint64_t word = seed + at / 8 * STEP;
        memcpy(to + at, &word, len - at < 8 ? len - at : 8);
    }
}

static int is_right(const char *from, size_t len, uint64_t seed) {
    for (size_t at = 0; at < len; at += 8) {
        uint64_t word = seed + at / 8 * STEP;
        if (memcmp(from + at, &word, len - at < 8 ? len - at : 8)) return 0;
    }
    return 1;
}

static int socket_of(const char *kind, const char *where, int listening) {
    int fd, yes = 1;
    if (!strcmp(kind, "tcp")) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(where))};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (listening ? bind(fd, (void *)&to, sizeof to) : connect(fd, (void *)&to, sizeof to)) fail(where);
    } else {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        strncpy(to.sun_path, where, sizeof to.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (listening ? bind(fd, (void *)&to, sizeof to) : connect(fd, (void *)&to, sizeof to)) fail(where);
    }
    if (listening && listen(fd, 16)) fail("listen");
    return fd;
}

static void send_all(int fd, const char *bytes, size_t len) {
    while (len) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0) exit(0);
        bytes += n, len -= (size_t)n;
    }
}

/* Receives one message; returns where its body begins, *len is that of the body. The other side sends nothing ahead. */
static char *receive(int fd, char *buffer, size_t *len) {
    size_t have = 0, body = 0, total = 0;
    while (!total || have < total) {
        ssize_t n = recv(fd, buffer + have, HEAD_MAX + PAYLOAD_MAX - have, 0);
        if (n <= 0) exit(0);
        have += (size_t)n;
        if (!total) {
            char *end = memmem(buffer, have, "\r\n\r\n", 4);
            if (!end) continue;
            char *length = memmem(buffer, (size_t)(end - buffer), "content-length: ", 16);
            if (!length) exit(1);
            *len = strtoul(length + 16, NULL, 10);
            if (*len > PAYLOAD_MAX) exit(1);
            body = (size_t)(end + 4 - buffer);
            total = body + *len;
        }
    }
    return buffer + body;
}

static void serve(int fd, char *in, char *out) {
    for (;;) {
        size_t len;
        char *body = receive(fd, in, &len);
        uint64_t seed = 0;
        memcpy(&seed, body, len < 8 ? len : 8);
        if (!is_right(body, len, seed)) exit(1);
        int head = snprintf(out, HEAD_MAX, "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %zu\r\n\r\n", len);
        memcpy(out + head, body, len);
        send_all(fd, out, (size_t)head + len);
    }
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void call(int fd, size_t len, double seconds, char *in, char *out) {
    uint32_t *samples = malloc(SAMPLES_MAX * sizeof *samples);
    size_t calls = 0;
    uint64_t begin = now_ns(), warm = begin + (uint64_t)(seconds * 1e8), end = warm + (uint64_t)(seconds * 1e9);
    for (uint64_t seed = begin, start = begin; start < end && calls < SAMPLES_MAX; seed = seed * STEP + 1) {
        start = now_ns();
        int head = snprintf(out, HEAD_MAX, "PUT / HTTP/1.1\r\nhost: echo-tcp\r\ncontent-length: %zu\r\n\r\n", len);
        fill(out + head, len, seed);
        send_all(fd, out, (size_t)head + len);
        size_t came;
        char *body = receive(fd, in, &came);
        if (came != len || !is_right(body, len, seed)) exit(1);
        uint64_t took = now_ns() - start;
        if (start >= warm && start < end) samples[calls++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    }
    if (!calls) exit(1);
    qsort(samples, calls, sizeof *samples, by_value);
    printf("%u %u %.0f\n", samples[calls / 2], samples[calls - 1 - calls / 100], (double)calls / seconds);
}

int main(int argc, char **argv) {
    char *in = malloc(HEAD_MAX + PAYLOAD_MAX), *out = malloc(HEAD_MAX + PAYLOAD_MAX);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!in || !out) fail("malloc");
    if (argc == 4 && !strcmp(argv[1], "serve")) {
        int listener = socket_of(argv[2], argv[3], 1), yes = 1;
        signal(SIGCHLD, SIG_IGN);
        fprintf(stderr, "listening\n");
        for (;;) {
            int fd = accept(listener, NULL, NULL);
            if (fd < 0) fail("accept");
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
            if (!fork()) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                serve(fd, in, out);
            }
            close(fd);
        }
    }
    if (argc == 6 && !strcmp(argv[1], "call")) {
        size_t len = strtoul(argv[4], NULL, 10);
        if (len > PAYLOAD_MAX) return 2;
        call(socket_of(argv[2], argv[3], 0), len, atof(argv[5]), in, out);
        return 0;
    }
    fprintf(stderr, "usage: see the top of pingpong.c\n");
    return 2;
}
