/*
 * HTTP/1.1 load from one thread, for `keel bench` and the benchmarks. Closed loop: each connection asks again as
 * soon as it is answered. Open loop: requests fall due at a fixed rate whether or not earlier ones were answered. Where no
 * connection was free latency counts from when a request was due, so a server that stalls is charged for all that it
 * delayed; else from when this thread, woken by its timer, sends it: how late the timer was is counted apart.
 */
#ifndef KEEL_LOAD_H
#define KEEL_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/tracker.h"

#define LOAD_CONNECTIONS 4096
#define LOAD_EXACT (1 << 20)

struct load_conf {
    const char *host;            /* an IPv4 address or localhost */
    uint16_t port;
    const char *method, *path;
    const char *body;            /* NULL: none */
    const char *headers;         /* more header lines, each ending in CRLF; NULL: none */
    unsigned connections;
    double rate;                 /* requests/s; 0: closed loop */
    double warm_up_s, seconds;   /* what is sent in the first is not counted */
    uint64_t target_ns;          /* 0: none */
    int cpu;                     /* core of this thread; -1: any */
    bool obeys;                  /* after 429 or 503 a connection waits for the seconds that Retry-After names */
    bool spins;                  /* never sleeps, so a server is not charged for waking it; needs a core of its own */
};

/*
 * In path and body, {n} becomes a number of 16 digits that no other request has, {now} the wall clock in
 * nanoseconds, {c} the connection's number in 4 digits.
 */
struct load_result {
    struct keel_hist hist;       /* of every answer that was counted; over: beyond the target */
    struct keel_hist late;       /* open loop: of what did not wait for a connection, this thread's own delay */
    uint64_t took_ns[LOAD_EXACT]; /* of the first answers; in ascending order when load_run has returned */
    uint64_t sent, answered;
    uint64_t status[600];        /* 0: no HTTP */
    uint64_t broken;             /* connections that ended in the middle of a request */
    uint64_t unanswered;         /* due or sent, and without an answer at the end */
    double seconds;              /* of the counted part; 0: it was ended before */
    char sample[400];            /* the beginning of the first answer that was not 2xx */
};

/* false: nothing was measured, why says so in one line. Blocks for warm_up_s + seconds, less after SIGINT or SIGTERM, and at
 * most 5 s more. */
bool load_run(const struct load_conf *conf, struct load_result *out, char *why, size_t cap);

/* ns that a share q in [0, 1] of the answers took at most: exact up to LOAD_EXACT of them, else up to 3.2 % more. */
uint64_t load_quantile(const struct load_result *r, double q);

#endif
