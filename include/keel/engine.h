/*
 * An engine is one const table: ops, probes, options. Everything that enumerates is derived from it: router,
 * subscriptions, breakers, metrics, OpenAPI, docs, the every-row tests.
 */
#ifndef KEEL_ENGINE_H
#define KEEL_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/record.h"
#include "keel/status.h"

struct keel_call;
struct keel_rt; /* the running process */

enum keel_level { KEEL_CRITICAL, KEEL_HIGH, KEEL_NORMAL, KEEL_LOW };
/* ANY needs no token; ENGINE contains TRADE and opens what only engines do. */
enum keel_scope { KEEL_SCOPE_READ, KEEL_SCOPE_ANY, KEEL_SCOPE_TRADE, KEEL_SCOPE_ADMIN, KEEL_SCOPE_ENGINE,
                  KEEL_SCOPE_ENGINE_OR_ADMIN };
enum keel_read { KEEL_SHARE, KEEL_EACH };
enum keel_on { KEEL_ON_HTTP, KEEL_ON_TOPIC, KEEL_ON_TIMER, KEEL_ON_WS, KEEL_ON_SOURCE, KEEL_ON_CALL };

struct keel_trigger {
    enum keel_on kind;
    const char *method; /* HTTP */
    const char *path;   /* HTTP, WS: "/orders/{client_order_id}"; TOPIC: "strategy.critical.fill" or "ml.*" */
    enum keel_read read;
    int64_t every_ms;
};
#define KEEL_GET(p)    {.kind = KEEL_ON_HTTP, .method = "GET", .path = p}
#define KEEL_POST(p)   {.kind = KEEL_ON_HTTP, .method = "POST", .path = p}
#define KEEL_PUT(p)    {.kind = KEEL_ON_HTTP, .method = "PUT", .path = p}
#define KEEL_PATCH(p)  {.kind = KEEL_ON_HTTP, .method = "PATCH", .path = p}
#define KEEL_DELETE(p) {.kind = KEEL_ON_HTTP, .method = "DELETE", .path = p}
#define KEEL_TOPIC(t, r) {.kind = KEEL_ON_TOPIC, .path = t, .read = r}
#define KEEL_EVERY(ms) {.kind = KEEL_ON_TIMER, .every_ms = ms} /* never overlaps itself */
#define KEEL_WS(p)     {.kind = KEEL_ON_WS, .path = p}
#define KEEL_SOURCE    {.kind = KEEL_ON_SOURCE}                /* slices of a running source; see source.h */
#define KEEL_SPAWNED   {.kind = KEEL_ON_CALL}                  /* only keel_spawn reaches it */

enum keel_flags {
    KEEL_MUST = 1,        /* never shed, expired or refused by a breaker */
    KEEL_JOB = 2,         /* answers 202 with /jobs/{id} */
    KEEL_HYBRID_ONLY = 4, /* in plain mode the route is 404 and names ENABLE_HYBRID */
    KEEL_PREBUILT = 8,    /* no admission, no tracking: /health and its like */
    KEEL_LIVE = 32,       /* speaks for a live feed: what it publishes on normal topics may be conflated, the oldest dropped */
    KEEL_INLINE = 64,     /* begin answers and waits for nothing: judged afterwards, so our own lateness refuses nothing */
    KEEL_BARE_ARRAY = 16, /* a body that is a JSON array is taken as the member named by .bare */
};

/* A step returns KEEL_OK (call->out holds the answer), KEEL_WAIT (from keel_await_*), or a failure. */
typedef enum keel_status keel_step_fn(struct keel_call *call);
/* On a worker; sees the job and nothing else; looks at *stop about every millisecond. */
typedef enum keel_status keel_work_fn(void *job, const atomic_bool *stop);

struct keel_op {
    const char *id;
    struct keel_trigger on;
    enum keel_level level;
    double deadline_ms;   /* 0: the breaker's call timeout */
    int64_t target_ms;    /* 0: the deadline */
    enum keel_scope scope; /* HTTP; GET defaults to READ (0); unsafe methods state theirs */
    size_t max_body;      /* 0: 64 KiB */
    uint32_t places;      /* most of its calls in flight, in hybrid mode; 0: what its level may have */
    const struct keel_fields *takes; /* NULL: no body, path and query parameters are refused unless named in the path */
    const char *key;      /* field of takes: calls with the same value run one at a time, in arrival order */
    const char *bare;     /* KEEL_BARE_ARRAY: the member that takes the array */
    keel_step_fn *begin;
    keel_work_fn *work;
    keel_step_fn *end;
    unsigned flags;
    const char *help;     /* one sentence; OpenAPI summary */
    const char *const *fallbacks; /* names of alternatives, NULL ended, each behind its own breaker; NULL: none */
};

enum keel_probe_state { KEEL_PROBE_OK, KEEL_PROBE_AWAY };
struct keel_probe {
    const char *id;
    bool required;
    /* On the loop, every second; writes one line (at most 160 bytes) on what is wrong. */
    enum keel_probe_state (*run)(struct keel_rt *rt, void *state, char *detail, size_t cap);
};

struct keel_breaker_row { uint32_t failures; int64_t recovery_ms; uint32_t successes; int64_t call_timeout_ms; };

struct keel_engine {
    const char *name, *title;
    uint16_t port;
    const struct keel_op *ops;
    size_t n_ops;
    const struct keel_probe *probes;
    size_t n_probes;
    const struct keel_fields *options; /* NULL: only the core's */
    const char *const *publishes;      /* topics, NULL ended */
    const char *const *peers;          /* engines it calls over HTTP, NULL ended: URL options come from these */
    struct keel_breaker_row breaker;   /* zeros: 5, 60 s, 3, 30 s */
    const char *schema;                /* SQL of the engine's own tables (CREATE TABLE IF NOT EXISTS ...); NULL: no store */
    size_t header_bytes;               /* of a request's line and header, about; 0: 8 KiB. The server clears as much for each */
    bool single_writer;                /* one instance at work, others stand by; see docs/decisions/leases.md */
    size_t state_size;
    /* Loads state from the store; runs before the loop turns, and again after a failed commit (state zeroed). */
    enum keel_status (*open)(struct keel_rt *rt, void *state);
    void (*close)(struct keel_rt *rt, void *state);
    /* Before the drain: cancel what waits for the outside. May be NULL. */
    void (*drain)(struct keel_rt *rt, void *state);
    /* More members of `hardware` in /hybrid/performance, of an engine that chooses what it computes on. May be NULL. */
    void (*hardware)(const void *state, struct keel_json *w);
};

int keel_main(int argc, char **argv, const struct keel_engine *engine);

/* ---- what a step or open may ask of the process ---- */
void *keel_state(struct keel_rt *rt);
const void *keel_options(struct keel_rt *rt); /* struct of engine->options */
const char *keel_data_dir(struct keel_rt *rt);
const char *keel_mode(struct keel_rt *rt);    /* "live", "paper", "sim" */
bool keel_is_hybrid(struct keel_rt *rt);      /* for hybrid_optimized in answers, nothing else */
const char *keel_engine_name(struct keel_rt *rt);
/* Session clock: ts_init of the newest record handled, plus the time the feed has been silent since. */
int64_t keel_session_ns(struct keel_rt *rt);
/* The engine's own series shown in /metrics in both modes: a latency in ns, or a gauge/counter. name: snake_case constant. */
void keel_observe(struct keel_rt *rt, const char *name, int64_t ns);
void keel_gauge(struct keel_rt *rt, const char *name, double value);

#endif
