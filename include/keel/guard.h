/*
 * The seam of ENABLE_HYBRID: the policy wrapped round every call. A target is an op, one of its alternatives, or a
 * dependency; targets are numbered when the guard is opened. Everything runs on the loop thread.
 */
#ifndef KEEL_GUARD_H
#define KEEL_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/admission.h"
#include "keel/breaker.h"
#include "keel/engine.h"
#include "keel/json.h"
#include "keel/record.h"
#include "keel/status.h"
#include "keel/tracker.h"

struct keel_text;

/* Options of every engine that shape its breakers; 0 or absent: what the engine's own table says (system.md 3). */
#define KEEL_BREAKER_OPTIONS(X, S)                                                                                     \
    X(S, ENUM, breaker_mode, "normal", 0, 0, "normal|disabled|metrics_only",                                           \
      "of every breaker at start; metrics_only counts and refuses nothing")                                            \
    X(S, STR, breaker_window, "time:10s", 7, 16, "", "calls looked back on, count:1 to count:1000, or seconds, time:1s to time:600s") \
    X(S, I64, breaker_min_calls, "20", 1, 1000000, "calls", "the rates act from so many calls in the window")          \
    X(S, F64, breaker_failure_rate, "0.5", 0, 1, "fraction", "share of failed calls that opens; 0: off")               \
    X(S, F64, breaker_slow_rate, "0.8", 0, 1, "fraction", "share of calls over their target that opens; 0: off")       \
    X(S, I64, breaker_failures, "0", 0, 1000000, "calls", "consecutive failures that open; 0: the engine's own")       \
    X(S, I64, breaker_successes, "0", 0, 1000, "calls", "good probes that close; 0: the engine's own")                 \
    X(S, I64, breaker_recovery_ms, "0", 0, 3600000, "ms", "first wait before a probe; 0: the engine's own")            \
    X(S, I64, breaker_recovery_max_ms, "0", 0, 86400000, "ms", "the wait doubles up to this; 0: 8 times the first")    \
    X(S, I64, breaker_permits, "2", 1, 8, "calls", "probes at a time")                                                 \
    X(S, I64, breaker_half_open_ms, "0", 0, 3600000, "ms", "probes may go so long without a result; 0: twice a permit's life") \
    X(S, ENUM, breaker_half_open_next, "open", 0, 0, "open|closed", "what a breaker whose probes gave no result becomes")
KEEL_RECORD(keel_breaker_options, KEEL_BREAKER_OPTIONS);

struct keel_permit { uint32_t target; struct keel_breaker_ticket ticket; int64_t start_ns; };

struct keel_refusal { enum keel_status status; const char *reason; int64_t retry_after_ns; };

struct keel_target_conf {
    char name[64];            /* "critical_check", "critical_check.reduce_only", "dep.redis_publish", "dep.peer.risk" */
    const struct keel_op *op; /* NULL for a dependency */
    enum keel_level level;
    uint64_t target_ns;
};

/* What shedding judges by, kept up to date by the runtime. The lag is the least of the last three ticks. */
struct keel_load { int64_t loop_lag_ns, queue_delay_ns; uint32_t queued, in_flight; };

/* Limits that are configured; all but max_calls are off by default. */
struct keel_limits {
    struct keel_rate client;       /* of one client to the engine's own routes */
    const struct keel_rate *route; /* a row an op; NULL: none */
    bool adaptive;
    uint32_t max_calls;            /* call slots, which the bulkheads share out */
};

/* Targets [first, first + n): alternatives of one op, best first. */
struct keel_pick {
    uint32_t first, n;
    int64_t left_ns;     /* the time it may take */
    const char *because; /* why the op itself cannot go on; NULL: the first of them is what was asked for */
};

struct keel_guard_env {
    const struct keel_engine *engine;
    const struct keel_target_conf *targets;
    uint32_t n_targets;
    const struct keel_load *load;
    uint64_t seed;
    /* A breaker changed state. */
    void (*transition)(void *ctx, const char *target, const struct keel_breaker_event *ev);
    void *ctx;
    const struct keel_breaker_options *breaker; /* NULL: their defaults */
    const struct keel_limits *limits; /* of the process' life; NULL: none */
};

/* What the runtime measures of itself; shown beside the operations. */
enum keel_own { KEEL_OWN_LOOP_LAG, KEEL_OWN_QUEUE_DELAY, KEEL_N_OWN };

/* A job waiting for a worker; embedded in the runtime's own. */
struct keel_job { struct keel_job *next; enum keel_level level; int64_t queued_ns, deadline_ns; bool must; };
struct keel_queue { struct keel_job *head[4], *tail[4]; uint32_t n; uint32_t running, running_bulk, threads; };

/* What must not be lost is as urgent as anything, in whichever lane it was filed. */
static inline bool keel_job_is_bulk(const struct keel_job *j)
{
    return j->level >= KEEL_NORMAL && !j->must;
}

/* Of bulk jobs in hybrid mode: the last thread is for urgent work. */
static inline uint32_t keel_bulk_places(const struct keel_queue *q)
{
    return q->threads > 1 ? q->threads - 1 : 1;
}

struct keel_guard {
    const char *name; /* "plain" or "hybrid" */
    bool hybrid;
    enum keel_status (*open)(const struct keel_guard_env *env, void **self);
    /* Time the op has, ns; INT64_MAX for none (KEEL_MUST rows). */
    int64_t (*budget_ns)(void *self, const struct keel_op *op);
    enum keel_status (*admit)(void *self, uint32_t target, int64_t now_ns, int64_t left_ns, struct keel_permit *permit,
                              struct keel_refusal *why);
    /* admit for a call that a client asked for: with its rate limits. client 0: one that has none (an engine, the bus, a timer). */
    enum keel_status (*admit_client)(void *self, uint32_t target, uint64_t client, int64_t now_ns, int64_t left_ns,
                                     struct keel_permit *permit, struct keel_refusal *why);
    /* Admits one of an op's alternatives: the first whose breaker and recent latency allow it. OK: permit->target is the one,
     * why->reason says why it is not the one asked for, NULL when it is. Plain takes the first. */
    enum keel_status (*pick)(void *self, const struct keel_pick *ask, int64_t now_ns, struct keel_permit *permit,
                             struct keel_refusal *why);
    /* Takes a job off q that may start now, or NULL: lanes, reserved thread, starvation bound (hybrid); FIFO (plain). */
    struct keel_job *(*next_job)(void *self, struct keel_queue *q, int64_t now_ns);
    /* latency_ns: arrival to answer; < 0: not measured. */
    void (*settle)(void *self, struct keel_permit permit, enum keel_outcome o, int64_t latency_ns, int64_t now_ns);
    /* Not admitted by us (refused earlier, e.g. by the deadline): counted only. */
    void (*refused)(void *self, uint32_t target, enum keel_outcome o);
    /* /health: writes circuit_breaker and performance into the open object. now_wall converts stamps. */
    void (*health)(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
    /* /hybrid/performance members: operations, overall, hardware, fallbacks, first version's names. Hybrid only. */
    void (*performance)(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
    void (*breakers)(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
    /* change: "reset", "force-open", "disable", "enable", "metrics-only". KEEL_NOTFOUND. */
    enum keel_status (*change)(void *self, const char *target, const char *change, int64_t now_ns);
    void (*metrics)(void *self, struct keel_text *out, const char *engine, int64_t now_ns); /* appends Prometheus lines */
    /* Every second: transitions that time alone has made are told, though no call came. Hybrid only. */
    void (*tick)(void *self, int64_t now_ns);
    void (*observe)(void *self, enum keel_own what, int64_t ns, int64_t now_ns); /* hybrid only */
    void (*close)(void *self);
};

extern const struct keel_guard keel_guard_plain, keel_guard_hybrid;

#endif
