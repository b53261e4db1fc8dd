/*
 * Circuit breaker. A state machine that is given the time; see system.md 3.
 *
 * closed -> open: `failures` consecutive failures, or over at least min_calls of the window a
 * failure rate >= failure_rate or a slow rate >= slow_rate. The window is the last `window` calls, or
 * the last window_ns. open -> half_open when the wait is over (recovery doubled per fruitless probe,
 * capped, jittered). half_open admits `permits` at a time and judges by count: `successes` close, one
 * failure opens again. A permit expires after permit_ns, so a caller that never settles cannot hold a
 * place; a settle of an older generation counts nowhere; when no probe has had a result for
 * half_open_ns, the circuit goes to half_open_next.
 *
 * What time alone does is worked out when it is asked for and stamped with the moment it was due, so
 * it makes no difference whether a call or a timer (keel_breaker_tick) notices it.
 *
 * Belongs to one thread, its readers included: /health, /metrics and the /hybrid reports are written on the loop,
 * so nothing here is atomic. Another thread is given a copy.
 */
#ifndef KEEL_BREAKER_H
#define KEEL_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum keel_breaker_state { KEEL_CLOSED, KEEL_OPENED, KEEL_HALF_OPEN };
/* METRICS_ONLY goes through the same states as NORMAL and counts what it would refuse, but lets it in. */
enum keel_breaker_mode { KEEL_MODE_NORMAL, KEEL_MODE_FORCED_OPEN, KEEL_MODE_DISABLED, KEEL_MODE_METRICS_ONLY };

/* What became of an admitted call. Only SLOW, FAILURE and TIMEOUT speak against the target; OK speaks for it; the
 * others return the permit and count nowhere. */
enum keel_outcome {
    KEEL_OUT_OK, KEEL_OUT_SLOW, KEEL_OUT_FAILURE, KEEL_OUT_TIMEOUT,
    KEEL_OUT_REJECTED, KEEL_OUT_CANCELLED, KEEL_OUT_CLIENT, KEEL_N_OUTCOME
};

#define KEEL_BREAKER_WINDOW 1000 /* most calls a count window holds */
#define KEEL_BREAKER_BUCKETS 10  /* a time window is so many buckets */
#define KEEL_BREAKER_PERMITS 8   /* most permits of half-open */

struct keel_breaker_conf {
    uint32_t failures;      /* consecutive failures that open */
    uint32_t successes;     /* in half-open that close */
    int64_t recovery_ns;    /* first wait in open */
    int64_t recovery_cap_ns;
    uint32_t window;        /* calls looked back on, <= KEEL_BREAKER_WINDOW */
    int64_t window_ns;      /* > 0: time looked back on instead: the bucket being filled and those before it */
    uint32_t min_calls;     /* rates act from here */
    double failure_rate, slow_rate; /* fractions of the window; above 1: off */
    uint32_t permits;       /* at a time in half-open, <= KEEL_BREAKER_PERMITS */
    int64_t permit_ns;      /* life of a permit */
    int64_t half_open_ns;   /* longest that probes may go without any result; 0: no limit. The clock starts with
                             * the first of them: an idle target rests in half-open */
    enum keel_breaker_state half_open_next; /* then: KEEL_OPENED (the next wait is longer) or KEEL_CLOSED */
    double jitter;          /* fraction of the wait, drawn from seed */
    uint64_t seed;
};

struct keel_breaker_event { int64_t at_ns; uint8_t from, to; const char *reason; };

struct keel_breaker_counts { uint32_t calls, failures, slow; };

struct keel_breaker_ticket { uint32_t generation; int32_t slot; int64_t start_ns; }; /* slot -1: no permit */

struct keel_breaker {
    struct keel_breaker_conf conf;
    uint8_t state, mode;
    uint32_t generation;
    uint32_t consecutive_failures, half_open_successes, reopened;
    int64_t opened_at_ns, retry_at_ns, last_failure_ns; /* monotonic; 0: never */
    int64_t verdict_due_ns; /* half-open: when half_open_ns is over; 0: no probe waits */
    uint64_t n_failures, n_rejected, n_transitions;
    uint64_t n_would_reject; /* let in by METRICS_ONLY where NORMAL had refused */
    struct keel_breaker_counts seen; /* of the window, whichever kind it is */
    uint32_t ring_at, bucket_at;
    int64_t bucket_ns, bucket_end_ns; /* end of the bucket being filled; 0: none yet */
    struct keel_breaker_counts bucket[KEEL_BREAKER_BUCKETS];
    int64_t permit_expiry[KEEL_BREAKER_PERMITS]; /* 0: free */
    uint32_t permit_gen[KEEL_BREAKER_PERMITS];
    uint64_t rng;
    struct keel_breaker_event last[8]; /* newest at (n_transitions - 1) % 8 */
    uint8_t ring[KEEL_BREAKER_WINDOW]; /* bit 0 failure, bit 1 slow */
};

struct keel_breaker_conf keel_breaker_defaults(void); /* 5 failures, 3 successes, 60 s, cap 8x, rates .5/.8 over 20 of 100 */
/* "count:N" (1 to KEEL_BREAKER_WINDOW calls) or "time:Ns" (1 to 600 seconds) into c; false: neither, c is as it was. */
bool keel_breaker_window_parse(const char *text, struct keel_breaker_conf *c);
/* Settings out of range are brought into it. */
void keel_breaker_init(struct keel_breaker *b, const struct keel_breaker_conf *conf);
/* false: refused; *retry_after_ns (>= 0) says when to come back. */
bool keel_breaker_admit(struct keel_breaker *b, int64_t now_ns, struct keel_breaker_ticket *t, int64_t *retry_after_ns);
/* Would admit say yes, changing nothing. */
bool keel_breaker_would_admit(const struct keel_breaker *b, int64_t now_ns);
/* At most once for a ticket: a permit's second result counts nowhere, that of a call let in while closed counts again. */
void keel_breaker_settle(struct keel_breaker *b, struct keel_breaker_ticket t, enum keel_outcome o, int64_t now_ns);
/* Does what time has done by now, for those who watch: open -> half_open, half_open -> half_open_next. */
void keel_breaker_tick(struct keel_breaker *b, int64_t now_ns);
/* Closed with nothing remembered. Ends FORCED_OPEN; the other modes stay. */
void keel_breaker_reset(struct keel_breaker *b, int64_t now_ns);
void keel_breaker_set_mode(struct keel_breaker *b, enum keel_breaker_mode m, int64_t now_ns);
/* What the window holds at now_ns, and its rates; 0 when empty. */
struct keel_breaker_counts keel_breaker_window(const struct keel_breaker *b, int64_t now_ns);
double keel_breaker_failure_rate(const struct keel_breaker *b, int64_t now_ns);
double keel_breaker_slow_rate(const struct keel_breaker *b, int64_t now_ns);
uint32_t keel_breaker_permits_out(const struct keel_breaker *b, int64_t now_ns);
const char *keel_breaker_state_name(const struct keel_breaker *b); /* "closed", "open", "half_open"; "forced_open", "disabled" by mode */

#endif
