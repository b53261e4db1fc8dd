/*
 * The running process: what the files of common/run share with one another and with nobody else.
 * One loop thread owns all of it.
 */
#ifndef KEEL_RUN_RT_H
#define KEEL_RUN_RT_H

#include <uv.h>

#include "keel/bus.h"
#include "keel/call.h"
#include "keel/engine.h"
#include "keel/guard.h"
#include "keel/source.h"
#include "keel/store.h"
#include "keel/text.h"

/* Options every engine has. Names in capitals are the environment; peers' URLs (<PEER>_URL) are rows of their own. */
#define KEEL_CORE_OPTIONS(X, S)                                                                                        \
    X(S, STR, http_host, "127.0.0.1", 1, 64, "", "address to listen on; beyond loopback only with tokens")             \
    X(S, I64, port, KEEL_OPT, 0, 65535, "", "port to listen on; 0: any free one; absent: the engine's own")           \
    X(S, STR, port_file, "", 0, 512, "", "file that receives the port in use once the engine listens")                 \
    X(S, STR, redis_url, "redis://127.0.0.1:6379/0", 0, 512, "", "redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://, see docs/containers.md; empty: none") \
    X(S, STR, redis_password, "", 0, 255, "", "password for Redis where redis_url has none; also REDIS_PASSWORD_FILE") \
    X(S, STR, redis_sentinel_password, "", 0, 255, "", "password for the sentinels where redis_url has none; also REDIS_SENTINEL_PASSWORD_FILE") \
    X(S, STR, data_dir, "data", 1, 512, "", "directory of the engine's files")                                         \
    X(S, STR, keel_env, "main", 1, 32, "", "names the system; another value prefixes every bus key")                   \
    X(S, ENUM, keel_mode, "paper", 0, 0, "live|paper|sim", "of the whole system")                                      \
    X(S, STR, instance, "", 0, 32, "", "suffix of the consumer name where several run; not of single writers")         \
    X(S, I64, lease_ms, "5000", 1000, 60000, "ms", "single writers: a standby takes over from one that is silent so long") \
    X(S, ENUM, log_level, "info", 0, 0, "debug|info|warn|error", "least severe level that is logged")                  \
    X(S, STR, read_token, "", 0, 256, "", "bearer token of scope read; also READ_TOKEN_FILE")                          \
    X(S, STR, trade_token, "", 0, 256, "", "bearer token of scope trade; also TRADE_TOKEN_FILE")                       \
    X(S, STR, admin_token, "", 0, 256, "", "bearer token of scope admin; also ADMIN_TOKEN_FILE")                       \
    X(S, STR, engine_token, "", 0, 256, "", "bearer token of scope engine; also ENGINE_TOKEN_FILE")                    \
    X(S, BOOL, allow_unauthenticated, "false", 0, 0, "", "listen beyond loopback without tokens (paper only)")         \
    X(S, STR, allowed_hosts, "", 0, 1024, "", "names accepted in Host, separated by commas")                           \
    X(S, I64, max_connections, "1024", 8, 65536, "", "HTTP connections at a time")                                     \
    X(S, I64, max_calls, "4096", 16, 65536, "", "calls in flight")                                                     \
    X(S, STR, rate_per_client, "", 0, 32, "calls/s", "of one client (its token, else its address): RATE or RATE:BURST; empty: any") \
    X(S, STRS, rate_per_route, KEEL_OPT, 0, 64, "calls/s", "of operations: OP=RATE or OP=RATE:BURST; *: those not named")  \
    X(S, BOOL, adaptive_concurrency, "false", 0, 0, "", "bound an operation's calls in flight by its latency")           \
    X(S, I64, header_timeout_ms, "5000", 100, 60000, "ms", "time to deliver the request's header")                     \
    X(S, I64, body_timeout_ms, "10000", 100, 120000, "ms", "time to deliver the body")                                 \
    X(S, I64, idle_timeout_ms, "60000", 100, 3600000, "ms", "time a kept-alive connection may be idle")                \
    X(S, I64, ws_ping_ms, "20000", 50, 3600000, "ms", "a WebSocket client is asked this often; at the third it did not answer, it is closed") \
    X(S, I64, ws_stalled_ms, "10000", 100, 3600000, "ms", "time a WebSocket client's queue may stay full before it is closed") \
    X(S, I64, drain_ms, "10000", 0, 60000, "ms", "time calls in flight have at SIGTERM")                               \
    X(S, I64, workers, "0", 0, 64, "threads", "0: max(2, cores)")                                                      \
    X(S, I64, buffer_interval_ms, "25", 1, 1000, "ms", "priority and normal records wait at most this long (plain: 100)") \
    X(S, I64, max_buffer_size, "50000", 64, 1000000, "records", "room of the outbox; an eighth is kept for critical")  \
    X(S, I64, max_deliveries, "5", 1, 100, "", "crashes while handling a record before it is a dead letter")           \
    X(S, I64, claim_idle_ms, "60000", 100, 3600000, "ms", "a consumer silent for so long loses its records to others of its group") \
    X(S, I64, reader_window, "16384", 64, 1000000, "records", "how far a replay may be ahead of its slowest reader")   \
    X(S, STRS, conflate_topics, KEEL_OPT, 0, 32, "", "normal topics of live feeds of which the latest record of a key replaces one that waits") \
    X(S, STRS, priority_topics, KEEL_OPT, 0, 32, "", "prefixes of the critical and priority lanes; absent: E.critical, E.priority")
KEEL_RECORD(keel_core_options, KEEL_CORE_OPTIONS);

struct keel_bus;
struct keel_http;
struct keel_peers;
struct keel_worker;
struct keel_calls;
struct keel_wss;
struct keel_lease;

struct keel_rt {
    const struct keel_engine *engine;
    const struct keel_op *ops; /* the engine's, the core's and the guard's, in this order */
    size_t n_ops;
    uv_loop_t *loop;
    void *state, *options;
    struct keel_core_options *core;
    const struct keel_guard *guard;
    void *guard_self;
    struct keel_target_conf *targets; /* [0, n_ops): the op of that index; then alternatives; then dependencies */
    uint32_t n_targets;
    struct keel_load load;
    const struct keel_limits *limits;
    struct keel_calls *calls;
    struct keel_worker *worker;
    struct keel_http *http;   /* NULL in loopback tests */
    struct keel_bus *bus;     /* NULL without redis_url */
    struct keel_store *store; /* NULL without schema */
    struct keel_peers *peers; /* NULL without peers */
    struct keel_arena *arena; /* of the process' life */
    char producer[64];        /* "hybrid-risk-engine[-INSTANCE]" */
    char epoch[24];           /* of memory records: start stamp of the process, base 36 */
    int64_t started_wall_ns, started_ns;
    int64_t wall_offset_ns; /* what the wall clock is ahead of the monotonic one; read anew in each turn of the loop */
    int64_t session_ns, session_at_ns; /* session clock: newest ts_init, and the monotonic time it was handled */
    bool ready, draining;
    bool standby;             /* another instance is at work on the data directory: nothing but this is open */
    struct keel_lease *lease; /* NULL in tests that open parts by themselves */
    int64_t held_until_ns;    /* before this nobody can have taken over; see keel_lease_hold */
    int exit_code;
    struct keel_health *health; /* health.c's own; NULL until its first tick */
    const char *hybrid_reason;  /* of /health; NULL: what the guard in use says by itself */
    struct keel_wss *wss;       /* WebSocket sessions */
    char good_host[80];         /* the last Host header that was allowed */
};

/* Arms a timer for the next of the process' own multiples of ms: what is due now and then wakes an idle engine together, and
 * not every engine of the machine at once. Re-armed by its own callback. */
static inline void keel_tick_in(const struct keel_rt *rt, uv_timer_t *t, uv_timer_cb fn, uint64_t ms)
{
    uv_timer_start(t, fn, ms - (uv_now(t->loop) - (uint64_t)rt->started_ns / 1000000) % ms, 0);
}

/* ---- between http.c (or the loopback) and call.c ---- */
struct keel_param { const char *name, *value; };
struct keel_request {
    const char *method, *path; /* path as received, without the query */
    const struct keel_param *params; /* of the path: {client_order_id} and its text, unescaped */
    size_t n_params;
    const struct keel_param *query;
    size_t n_query;
    const char *body;
    size_t body_len;
    const char *(*header)(void *ctx, const char *name); /* valid until done */
    char *(*give_body)(void *ctx); /* the body's memory, which is then the caller's to free; NULL: it stays where it is */
    void *ctx;
    enum keel_scope scope;     /* what the caller may */
    int64_t arrived_ns;        /* monotonic; see Tracker in system.md 3 */
    struct keel_ws *ws;        /* KEEL_ON_WS: the session that will be */
    uint64_t client;           /* whose rate it counts to; 0: nobody's */
};
struct keel_answer {
    int http;
    const char *type, *body; /* borrowed until done returns */
    size_t len;
    struct keel_param headers[8];
    size_t n_headers;
    int64_t settled_ns; /* when its call had settled; 0: there is none */
    struct keel_arena *arena; /* keel_arena_part of it is the body's memory, for who needs it longer; NULL: copy it */
};
typedef void keel_answer_fn(void *ctx, const struct keel_answer *answer);
/*
 * Admits, decodes (params, query and body together fill op->takes), begins. done runs exactly once, on the loop, maybe before
 * this returns. *rq's memory must live until done. Returns a handle for keel_call_gone, or NULL when it is done already.
 */
void *keel_call_http(struct keel_rt *rt, const struct keel_op *op, const struct keel_request *rq, keel_answer_fn *done,
                     void *ctx);
void keel_call_gone(void *handle); /* the client has gone; done still runs. The handle is valid until then. */
/* A problem body (RFC 9457) for refusals before a call exists. Text in a. */
void keel_problem(struct keel_arena *a, enum keel_status st, const char *code, const char *field, const char *detail,
                  const char *trace_id, struct keel_answer *out);

/* ---- router.c ---- */
struct keel_route { const struct keel_op *op; struct keel_param params[8]; size_t n_params;
                    char allow[64]; /* no op for the method: what the path takes; "" when the path is unknown */ };
/* Strings in a. */
bool keel_route_find(struct keel_rt *rt, struct keel_arena *a, const char *method, const char *path, struct keel_route *out);
/* Undoes %XX in place. False: a broken escape, a NUL, or the result is not UTF-8. */
bool keel_unescape(char *s, size_t *len);
/* NULL, or why the table is wrong (duplicate id, two rows for one path, end without work, key not in takes, ...). */
const char *keel_table_check(const struct keel_engine *engine, const struct keel_op *ops, size_t n, struct keel_arena *a);

/* ---- auth.c ---- */
/* KEEL_OK, or UNAUTHORIZED / FORBIDDEN / INVALID (Host, Origin) / MEDIA with *why. *scope: what the token grants. */
enum keel_status keel_authorize(struct keel_rt *rt, const struct keel_op *op, const char *method, const char *authorization,
                                const char *host, const char *origin, const char *content_type, bool has_body,
                                enum keel_scope *scope, const char **why);
/* Who the caller is to a rate limit: its token, else its address (of IPv6 the network, /64). 0: an engine. */
struct sockaddr;
uint64_t keel_client_of(const struct keel_rt *rt, const struct keel_op *op, enum keel_scope scope,
                        const struct sockaddr *from);
/* Start-up: KEEL_INVALID with *why when the address needs tokens that are not there. */
enum keel_status keel_auth_check(struct keel_rt *rt, const char **why);

/* ---- limits.c ---- */
/* The engine's rows that rate limits and the adaptive bound may be put on: HTTP, and not KEEL_MUST. */
static inline bool keel_is_limited(const struct keel_op *op)
{
    return op->on.kind == KEEL_ON_HTTP && (op->flags & (KEEL_MUST | KEEL_PREBUILT)) == 0;
}
/* KEEL_INVALID with one line in err. *out lives as long as rt. */
enum keel_status keel_limits_read(struct keel_rt *rt, const struct keel_limits **out, char *err, size_t cap);

/* ---- builtin.c, health.c, openapi.c ---- */
extern const struct keel_op keel_builtin_ops[]; /* /, /health*, /metrics, /openapi.json, /jobs/{id}, /hybrid/... */
extern const size_t keel_n_builtin_ops;
void keel_health_write(struct keel_rt *rt, struct keel_json *w); /* the whole /health object */
int keel_health_http(struct keel_rt *rt);                        /* 200 or 503 */
void keel_health_tick(struct keel_rt *rt);                       /* every second: probes, prebuilt answer */
void keel_health_close(struct keel_rt *rt);
/* The answer of a KEEL_PREBUILT row, as of the last tick or change of rt->ready and rt->draining; version changes with it. */
struct keel_prebuilt { int http; const char *body; size_t len; uint64_t version; };
const struct keel_prebuilt *keel_health_prebuilt(struct keel_rt *rt, const struct keel_op *op);
void keel_openapi_write(struct keel_rt *rt, struct keel_json *w);
/* --describe: the table as JSON (ops with trigger, level, deadline, target, scope, fields; options; topics; peers). */
void keel_describe_write(const struct keel_engine *engine, const struct keel_op *ops, size_t n, struct keel_json *w);

/* ---- jobs.c ---- */
void keel_jobs_close(struct keel_rt *rt);
#define KEEL_JOB_REF(X, S) X(S, STR, job_id, NULL, 1, 64, "", "id of the job")
KEEL_RECORD(keel_job_ref, KEEL_JOB_REF);      /* table in builtin.c: what the two steps take */
keel_step_fn keel_jobs_get, keel_jobs_delete; /* GET, DELETE /jobs/{job_id} */

/* ---- call.c ---- */
typedef void keel_settled_fn(void *ctx, struct keel_call *call, enum keel_status st);
/*
 * A bus record becomes a call of op: slot, guard, decode, begin. done runs exactly once when it settles, maybe before this returns;
 * st is the outcome, keel_call_problem(call) says why. When no slot is free or the guard refuses, done gets KEEL_SHED, KEEL_OPEN, ...
 * (ours: the bus retries in place). payload must live until done.
 */
void keel_call_record(struct keel_rt *rt, const struct keel_op *op, const struct keel_header *h, const char *payload,
                      size_t len, keel_settled_fn *done, void *ctx);
size_t keel_call_slots(const struct keel_rt *rt); /* free ones */
/* The parked call of a keel_await_wake token, or NULL. */
struct keel_call *keel_call_of(struct keel_rt *rt, uint64_t token);
/* "code: detail" of a failed call, "" when it has none. */
const char *keel_call_problem(const struct keel_call *call);

/* ---- dependencies behind breakers: "redis_publish", "redis_read", "peer.risk", "store" ---- */
uint32_t keel_dep(struct keel_rt *rt, const char *name); /* target index; asserts it exists */
enum keel_status keel_dep_admit(struct keel_rt *rt, uint32_t dep, struct keel_permit *p, struct keel_refusal *why);
void keel_dep_settle(struct keel_rt *rt, struct keel_permit p, enum keel_outcome o);

/* ---- bus.c, outbox.c ---- */
extern const char keel_bus_schema[]; /* SQL of the outbox and of the marks; in every store */
enum keel_status keel_bus_open(struct keel_rt *rt);   /* after the store; never fails for an absent Redis */
void keel_bus_read(struct keel_rt *rt);               /* starts reading; after engine->open */
void keel_bus_stop_reading(struct keel_rt *rt);
bool keel_bus_idle(struct keel_rt *rt);               /* nothing unsent, nothing in hand */
void keel_bus_close(struct keel_rt *rt);
void keel_bus_reload(struct keel_rt *rt);             /* after a failed commit: marks and sequence numbers from the file */
bool keel_bus_connected(struct keel_rt *rt);
void keel_bus_look_again(struct keel_rt *rt);         /* another process with our name has ended: its pending entries are ours */
int64_t keel_bus_away_ns(struct keel_rt *rt);         /* since when Redis is away, monotonic; 0: it is not */
/* Room for n more records of the lane; the reservation is given back by send or release. */
bool keel_bus_reserve(struct keel_rt *rt, enum keel_lane lane, size_t n);
void keel_bus_release(struct keel_rt *rt, enum keel_lane lane, size_t n);
/* Critical records wait for the answer of a call: it is ready; it has been sent, and what waited follows. */
void keel_bus_answered(struct keel_rt *rt);
void keel_bus_let_go(struct keel_rt *rt);
struct keel_outgoing { const struct keel_topic *topic; const char *key; int64_t ts_event, ts_init, ts_recv;
                       const char *traceparent; const char *payload; size_t len; bool is_live; };
/* Makes room for a live record by dropping the oldest that waits; false: none does. */
bool keel_bus_drop_oldest(struct keel_rt *rt);
void keel_bus_send(struct keel_rt *rt, const struct keel_outgoing *o); /* a memory record, room reserved before; copies */
/* A source may hand out n more items' records: outbox has room, Redis is there, the slowest reader is within the window. */
bool keel_bus_room(struct keel_rt *rt, size_t n);
/* Sends what waits and says whether Redis has all of it and every live reader has handled it: the step of a source at full speed. */
bool keel_bus_caught_up(struct keel_rt *rt);
/* Appends the applied-mark of rec to a transaction (KEEL_SHARE rows). */
void keel_bus_mark(struct keel_rt *rt, const struct keel_header *rec, struct keel_txn *txn);
void keel_bus_performance(struct keel_rt *rt, struct keel_json *w); /* the members of "bus" into the open object */
void keel_bus_counts(struct keel_rt *rt, struct keel_json *w);      /* received, published, dropped, unread, per producer and topic; both modes */
void keel_bus_metrics(struct keel_rt *rt, struct keel_text *out);
/* Ops /bus/outbox, /bus/dead, ...: rows added to rt->ops by builtin.c. */
extern const struct keel_op keel_bus_ops[];
extern const size_t keel_n_bus_ops;
/* Dead letters that make the engine unhealthy (durable ones), for its health. */
size_t keel_bus_dead_durable(struct keel_rt *rt);
double keel_bus_memory(struct keel_rt *rt); /* used share of Redis' maxmemory, a fraction; 0: it has none */

/* ---- store.c ---- */
enum keel_status keel_stores_open(struct keel_rt *rt); /* opens rt->store; on failure says why on the log */
void keel_stores_close(struct keel_rt *rt);            /* drains what is queued */
/* Runs on the loop, in order, after the commit and before its done. */
void keel_txn_after(struct keel_txn *t, void (*fn)(struct keel_rt *rt, void *ctx, enum keel_status st), void *ctx);
struct keel_store *keel_txn_store(const struct keel_txn *t);
bool keel_store_ok(const struct keel_store *s);        /* the last commit or probe write succeeded */
const char *keel_store_why(const struct keel_store *s);
size_t keel_store_queued(const struct keel_store *s);
/* Set by main.c: called on the loop when a commit failed, after all failed completions were handed back. */
void keel_store_on_fail(struct keel_rt *rt, void (*fn)(struct keel_rt *rt));

/* Whoever opens a store raises its epoch; commits of those who opened it before fail from then on. */
int64_t keel_store_epoch(const struct keel_store *s);
bool keel_store_fenced(struct keel_store *s);          /* reads the file: somebody has opened it since */

/* ---- lease.c: which of several instances on one data directory is at work ---- */
/* Locks the data directory, or sets rt->standby; KEEL_CONFLICT when it is in use and this engine has no standbys. */
enum keel_status keel_lease_open(struct keel_rt *rt, char *err, size_t cap);
/* Renews the lease, or as a standby waits until it is this one's turn and calls take once, which opens the rest. */
void keel_lease_watch(struct keel_rt *rt, void (*take)(struct keel_rt *rt));
void keel_lease_taken(struct keel_rt *rt);              /* the store is open and the epoch raised */
void keel_lease_look(struct keel_rt *rt);               /* ends the process when another has taken over */
/* Before anything is answered, sent or asked: a process that was stopped meanwhile finds out first. */
static inline void keel_lease_hold(struct keel_rt *rt, int64_t now_ns)
{
    if (now_ns >= rt->held_until_ns)
        keel_lease_look(rt);
}
bool keel_lease_is_shared(const struct keel_rt *rt);    /* there may be standbys */
int64_t keel_lease_epoch(const struct keel_rt *rt);
const char *keel_lease_owner(const struct keel_rt *rt); /* of a standby: who is at work; "" when unknown */
void keel_lease_stop(struct keel_rt *rt);
void keel_lease_close(struct keel_rt *rt);              /* after the loop: lets go of the lock */

/* ---- peer.c ---- */
enum keel_status keel_peers_open(struct keel_rt *rt, const char *const *names, const char *const *urls, size_t n);
void keel_peers_close(struct keel_rt *rt);
void keel_peers_json(struct keel_rt *rt, struct keel_json *w); /* member "peers" of /hybrid/performance */
void keel_peers_metrics(struct keel_rt *rt, struct keel_text *out);
typedef void keel_reply_fn(struct keel_rt *rt, void *ctx, const struct keel_reply *reply); /* reply is borrowed */
/* Without a call. traceparent NULL: none. Calls back exactly once, never before it returns. */
void keel_peer_fetch(struct keel_rt *rt, const struct keel_peer_req *req, int64_t deadline_ns, const char *traceparent,
                     keel_reply_fn *done, void *ctx);
/* Base URL of any engine, known as peer or not: option <NAME>_URL or its loopback port. */
const char *keel_peer_url(struct keel_rt *rt, const char *engine);

/* ---- http.c ---- */
enum keel_status keel_http_open(struct keel_rt *rt); /* listens; writes port_file */
void keel_http_quiesce(struct keel_rt *rt);          /* stop accepting; answers carry Connection: close */
void keel_http_close(struct keel_rt *rt);            /* every suspended connection must have been answered */
uint16_t keel_http_port(const struct keel_rt *rt);
struct keel_http_stats { uint64_t requests, refused, timed_out, slowed; uint32_t connections, waiting; };
struct keel_http_stats keel_http_stats(const struct keel_rt *rt); /* zeros without rt->http */

/* ---- source.c ---- */
void keel_sources_stop(struct keel_rt *rt);

/* ---- metrics of the engine's own (keel_observe, keel_gauge) ---- */
void keel_series_json(struct keel_rt *rt, struct keel_json *w);
void keel_series_metrics(struct keel_rt *rt, struct keel_text *out);
void keel_series_close(struct keel_rt *rt); /* forgets them */

/* ---- main.c ---- */
/*
 * For tests: everything but listening and reading the bus. NULL with one line in err. argv as keel_main takes it, argv[0] ignored.
 */
struct keel_rt *keel_rt_new(const struct keel_engine *engine, int argc, char **argv, char *err, size_t cap);
void keel_rt_free(struct keel_rt *rt); /* aborts what is in flight */

#endif
