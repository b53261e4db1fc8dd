/*
 * Circuit breaker. A state machine that is given the time, owned by one thread; see system.md 3.
 *
 * closed -> open: `failures` consecutive failures, or over at least min_calls of the window a
 * failure rate >= failure_rate or a slow rate >= slow_rate. open -> half_open lazily, on the first
 * admit after the wait (recovery doubled per fruitless probe, capped, jittered). half_open admits
 * `permits` at a time; `successes` in it close, one failure opens again. A permit expires after
 * permit_ns, so a caller that never settles cannot hold a place; a settle of an older generation
 * counts nowhere.
 */
#ifndef KEEL_BREAKER_H
#define KEEL_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum keel_breaker_state { KEEL_CLOSED, KEEL_OPENED, KEEL_HALF_OPEN };
enum keel_breaker_mode { KEEL_MODE_NORMAL, KEEL_MODE_FORCED_OPEN, KEEL_MODE_DISABLED };

/* What became of an admitted call. Only SLOW, FAILURE and TIMEOUT speak against the target; OK speaks for it; the
 * others return the permit and count nowhere. */
enum keel_outcome {
    KEEL_OUT_OK, KEEL_OUT_SLOW, KEEL_OUT_FAILURE, KEEL_OUT_TIMEOUT,
    KEEL_OUT_REJECTED, KEEL_OUT_CANCELLED, KEEL_OUT_CLIENT, KEEL_N_OUTCOME
};

#define KEEL_BREAKER_WINDOW 128 /* most calls a count window holds */
#define KEEL_BREAKER_PERMITS 8  /* most permits of half-open */

struct keel_breaker_conf {
    uint32_t failures;      /* consecutive failures that open */
    uint32_t successes;     /* in half-open that close */
    int64_t recovery_ns;    /* first wait in open */
    int64_t recovery_cap_ns;
    uint32_t window;        /* calls looked back on, <= KEEL_BREAKER_WINDOW */
    uint32_t min_calls;     /* rates act from here */
    double failure_rate, slow_rate; /* fractions of the window; above 1: off */
    uint32_t permits;       /* at a time in half-open, <= KEEL_BREAKER_PERMITS */
    int64_t permit_ns;      /* life of a permit */
    double jitter;          /* fraction of the wait, drawn from seed */
    uint64_t seed;
};

struct keel_breaker_event { int64_t at_ns; uint8_t from, to; const char *reason; };

struct keel_breaker; /* struct in breaker_impl below: storage is the caller's */

struct keel_breaker_ticket { uint32_t generation; int32_t slot; int64_t start_ns; }; /* slot -1: closed */

struct keel_breaker {
    struct keel_breaker_conf conf;
    uint8_t state, mode;
    uint32_t generation;
    uint32_t consecutive_failures, half_open_successes, reopened;
    int64_t opened_at_ns, retry_at_ns, last_failure_ns; /* monotonic; 0: never */
    uint64_t n_failures, n_rejected, n_transitions;
    uint8_t ring[KEEL_BREAKER_WINDOW]; /* bit 0 failure, bit 1 slow */
    uint32_t ring_n, ring_at, ring_failures, ring_slow;
    int64_t permit_expiry[KEEL_BREAKER_PERMITS]; /* 0: free */
    uint32_t permit_gen[KEEL_BREAKER_PERMITS];
    uint64_t rng;
    struct keel_breaker_event last[8]; /* newest at (n_transitions - 1) % 8 */
};

struct keel_breaker_conf keel_breaker_defaults(void); /* 5 failures, 3 successes, 60 s, cap 8x, rates .5/.8 over 20 of 100 */
void keel_breaker_init(struct keel_breaker *b, const struct keel_breaker_conf *conf);
/* false: refused; *retry_after_ns (>= 0) says when to come back. */
bool keel_breaker_admit(struct keel_breaker *b, int64_t now_ns, struct keel_breaker_ticket *t, int64_t *retry_after_ns);
/* Would admit say yes, changing nothing. */
bool keel_breaker_would_admit(const struct keel_breaker *b, int64_t now_ns);
void keel_breaker_settle(struct keel_breaker *b, struct keel_breaker_ticket t, enum keel_outcome o, int64_t now_ns);
void keel_breaker_reset(struct keel_breaker *b, int64_t now_ns);
void keel_breaker_set_mode(struct keel_breaker *b, enum keel_breaker_mode m, int64_t now_ns);
double keel_breaker_failure_rate(const struct keel_breaker *b); /* of the window; 0 when empty */
double keel_breaker_slow_rate(const struct keel_breaker *b);
const char *keel_breaker_state_name(const struct keel_breaker *b); /* "closed", "open", "half_open"; "forced_open", "disabled" by mode */

#endif
