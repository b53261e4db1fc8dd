/*
 * What bounds how much is let in: rates, the clients a rate is kept for, a bound on calls in flight that adapts to
 * latency, a budget for retries. State machines that are given the time, owned by one thread; see system.md 3.
 */
#ifndef KEEL_ADMISSION_H
#define KEEL_ADMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A token bucket, kept as one stamp (the generic cell rate algorithm, ITU-T I.371): the moment at which the bucket is full
 * again. A stamp that has passed is a full bucket, so 0 is a fresh one and nothing needs refilling.
 */
struct keel_rate { int64_t gap_ns, burst_ns; }; /* between two calls at the rate; how far ahead of it a burst may be. gap 0: no limit */

/* "RATE" or "RATE:BURST": calls a second (a fraction is one in more than a second), 0.001 to 1,000,000, and how many may come
 * at once, 1 to 1,000,000 (absent: those of a second, at least one). */
bool keel_rate_parse(const char *text, size_t len, struct keel_rate *out);
/* 0: a call may pass now; else ns until one may. Changes nothing. */
int64_t keel_rate_wait(const struct keel_rate *r, int64_t full_ns, int64_t now_ns);
/* A call passes: the stamp afterwards. */
int64_t keel_rate_taken(const struct keel_rate *r, int64_t full_ns, int64_t now_ns);

/*
 * The buckets of many clients in a table of fixed size. A newcomer who finds no place takes over the one that owes least
 * and owes that from then on. So nobody is charged less than what they took (Space-Saving, Metwally et al. 2005), and
 * flooding the table with other names makes it forget no one who is limited.
 */
struct keel_clients;
struct keel_clients *keel_clients_new(uint64_t seed);
void keel_clients_free(struct keel_clients *c);
/* The client's stamp, good until the next call. client: any number but 0. */
int64_t *keel_clients_stamp(struct keel_clients *c, uint64_t client, int64_t now_ns);
uint64_t keel_clients_crowded(const struct keel_clients *c); /* takeovers of a place that owed something */

/*
 * A bound on calls in flight: additive increase, multiplicative decrease, judged in rounds. A round is over when as many
 * calls as the bound (at least 16) have answered that began in it. As soon as more than a tenth of them were over the target
 * the bound is cut, by how far they were over: to three quarters at most, a quarter at least. Else it grows by a 32nd, at
 * least by one, but only when it was reached. The target is the operation's own: there is no baseline that could drift with
 * the load, and what began before the last cut is not judged again.
 */
struct keel_aimd {
    uint32_t min, max;
    int64_t target_ns;
    double limit;
    int64_t round_ns; /* when the round began */
    uint32_t n, n_over;
    double over_ns; /* sum of the latencies that were over */
    bool reached;
    uint64_t n_cuts, n_rises;
};
/* 1 <= min <= max; begins at 64, or at the nearer of the two. */
void keel_aimd_init(struct keel_aimd *a, uint32_t min, uint32_t max, int64_t target_ns);
bool keel_aimd_admit(struct keel_aimd *a, uint64_t in_flight); /* may one more than these run */
void keel_aimd_settle(struct keel_aimd *a, int64_t start_ns, int64_t latency_ns, int64_t now_ns);
uint32_t keel_aimd_limit(const struct keel_aimd *a);

/* Retries are at most a tenth of the requests of the last minute, or three. */
#define KEEL_RETRY_PARTS 6
struct keel_retry_budget {
    int64_t part; /* number of the newest part of the window */
    uint32_t requests[KEEL_RETRY_PARTS], retries[KEEL_RETRY_PARTS];
    uint64_t n_requests, n_retried, n_refused;
};
void keel_retry_request(struct keel_retry_budget *b, int64_t now_ns); /* as it starts, not as it ends */
bool keel_retry_take(struct keel_retry_budget *b, int64_t now_ns);    /* true: one more is spent */

#endif
