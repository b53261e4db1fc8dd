/* What main.c, call.c, worker.c, source.c and jobs.c share with one another beyond rt.h. */
#ifndef KEEL_RUN_CALL_PRIV_H
#define KEEL_RUN_CALL_PRIV_H

#include "rt.h"

#define KEEL_MS 1000000LL

/* ---- deadline.c ---- */
struct keel_ticks;
struct keel_tick {
    int64_t at_ns;
    size_t pos; /* 1-based place in the heap; 0: not set */
    void (*fn)(struct keel_tick *t); /* on the loop, once, at or after at_ns; may set the tick again */
};
struct keel_ticks *keel_ticks_open(uv_loop_t *loop);
void keel_ticks_close(struct keel_ticks *ts); /* frees it once the loop has closed the handle */
void keel_tick_set(struct keel_ticks *ts, struct keel_tick *t, int64_t at_ns);
void keel_tick_clear(struct keel_ticks *ts, struct keel_tick *t);
struct keel_ticks *keel_call_ticks(struct keel_rt *rt); /* of the calls, from their opening to their closing */

/* ---- decode.c ---- */
/* Path, query and body together as op->takes. err is filled on KEEL_INVALID. */
enum keel_status keel_decode_request(const struct keel_op *op, const struct keel_request *rq, struct keel_arena *a,
                                     void **arg, struct keel_ignored *ignored, struct keel_record_error *err);
/* What decoding looks at, in memory of a's, but for a body that the caller has taken over. */
const struct keel_request *keel_request_copy(struct keel_arena *a, const struct keel_request *rq, bool has_body);
enum keel_status keel_decode_record(const struct keel_fields *takes, const char *payload, size_t len,
                                    struct keel_arena *a, void **arg, struct keel_ignored *ignored,
                                    struct keel_record_error *err);
/* Text (path, query, environment, command line) as the JSON value that field would have. */
struct keel_jval *keel_text_jval(struct keel_arena *a, const struct keel_field *f, const char *name, const char *text);
/* Query string to parameters, unescaped; KEEL_INVALID when an escape is broken. */
enum keel_status keel_query_split(struct keel_arena *a, const char *query, struct keel_param *out, size_t cap,
                                  size_t *n);
/* W3C trace context; false: start anew. trace: 33 bytes, flags: 3. */
bool keel_traceparent_parse(const char *text, char *trace, char *flags);

/* ---- call.c ---- */
struct keel_jobs;
struct keel_sources;

void keel_calls_open(struct keel_rt *rt);
void keel_calls_close(struct keel_rt *rt);    /* every call must be over */
void keel_timers_start(struct keel_rt *rt);   /* KEEL_EVERY rows */
void keel_timers_stop(struct keel_rt *rt);
/* Answers what is still open: 503, or 202 past the point of no return; running work is told to stop. */
void keel_calls_abort(struct keel_rt *rt);
size_t keel_calls_live(const struct keel_rt *rt);
bool keel_calls_holding(const struct keel_rt *rt); /* a critical call past its commit point is about to be answered */
void keel_session_saw(struct keel_rt *rt, int64_t ts_init);
/* A slice of a source becomes a call of op. KEEL_SHED, ...: not taken, ask again. done: as keel_call_record's. */
void keel_call_slice(struct keel_rt *rt, const struct keel_op *op, struct keel_slice *slice, keel_settled_fn *done,
                     void *ctx);
const struct keel_op *keel_op_find(const struct keel_rt *rt, const char *id);
/* KEEL_CONFLICT past the point of no return. The call is over when this returns, or when its work has stopped. */
enum keel_status keel_call_cancel(struct keel_call *c);
/* The parts that hang on the calls' table, for want of a place of their own in struct keel_rt. */
struct keel_jobs **keel_calls_jobs(struct keel_rt *rt);
struct keel_sources **keel_calls_sources(struct keel_rt *rt);

/* ---- worker.c ---- */
struct bulk_thread;
struct keel_work {
    struct keel_job base; /* first: next_job hands it back. The submitter sets level, deadline_ns and must. */
    struct keel_rt *rt;
    keel_work_fn *fn;
    void *job;
    const atomic_bool *stop;
    void (*done)(struct keel_work *w); /* on the loop; status says how it ended */
    enum keel_status status;
    bool queued, running;
    uv_work_t req;
    /* of a bulk job */
    struct bulk_thread *thread;
    struct keel_work *next_done;
};
/* The calling thread, and those it starts from now on, get a core when they wake before who has long turns of it. */
void keel_take_short_turns(void);
void keel_worker_open(struct keel_rt *rt);
void keel_worker_close(struct keel_rt *rt); /* nothing may be queued or running */
void keel_worker_threads(const struct keel_rt *rt, struct keel_json *w); /* members of an open object */
/* Frees them, on a bulk thread where there are such: what was large takes the loop a millisecond. Takes both; NULL is fine. */
void keel_worker_free(struct keel_rt *rt, struct keel_arena *a, void *block);
void keel_worker_submit(struct keel_rt *rt, struct keel_work *w);
/* True: it had not begun, it never will, done is not called. */
bool keel_worker_cancel(struct keel_rt *rt, struct keel_work *w);

/* ---- jobs.c ---- */
enum keel_job_state { KEEL_JOB_QUEUED, KEEL_JOB_RUNNING, KEEL_JOB_DONE, KEEL_JOB_FAILED, KEEL_JOB_CANCELLED,
                      KEEL_JOB_INTERRUPTED };
struct keel_job_entry;
void keel_jobs_open(struct keel_rt *rt);
/* NULL when all places are taken by jobs that are not over. */
struct keel_job_entry *keel_jobs_add(struct keel_rt *rt, struct keel_call *c);
bool keel_jobs_room(struct keel_rt *rt);
const char *keel_jobs_id(const struct keel_job_entry *e);
const char *keel_jobs_state(const struct keel_job_entry *e);
void keel_jobs_running(struct keel_job_entry *e);
/* body: the result (DONE) or the problem (FAILED, CANCELLED), JSON; copied. */
void keel_jobs_over(struct keel_rt *rt, struct keel_job_entry *e, enum keel_job_state state, int http, const char *body,
                    size_t len);

/* ---- options.c ---- */
#define KEEL_PEER_URLS(X, S)                                                                                           \
    X(S, STR, analytics_url, "http://127.0.0.1:8100", 8, 256, "", "where analytics listens")                           \
    X(S, STR, risk_url, "http://127.0.0.1:8200", 8, 256, "", "where risk listens")                                     \
    X(S, STR, factor_url, "http://127.0.0.1:8300", 8, 256, "", "where factor listens")                                 \
    X(S, STR, ml_url, "http://127.0.0.1:8400", 8, 256, "", "where ml listens")                                         \
    X(S, STR, features_url, "http://127.0.0.1:8500", 8, 256, "", "where features listens")                             \
    X(S, STR, websocket_url, "http://127.0.0.1:8600", 8, 256, "", "where websocket listens")                           \
    X(S, STR, strategy_url, "http://127.0.0.1:8700", 8, 256, "", "where strategy listens")                             \
    X(S, STR, marketdata_url, "http://127.0.0.1:8800", 8, 256, "", "where marketdata listens")                         \
    X(S, STR, portfolio_url, "http://127.0.0.1:8900", 8, 256, "", "where portfolio listens")
KEEL_RECORD(keel_peer_urls, KEEL_PEER_URLS);

enum keel_verb { KEEL_RUN, KEEL_HELP, KEEL_VERSION_TEXT, KEEL_PRINT_CONFIG, KEEL_CHECK_CONFIG, KEEL_DESCRIBE,
                 KEEL_PROBE };
struct keel_opts {
    enum keel_verb verb;
    struct keel_core_options *core;
    struct keel_peer_urls *urls;
    struct keel_breaker_options *breaker;
    void *own; /* of engine->options; NULL without */
};
/* Defaults < file < environment < command line. KEEL_INVALID with one line in err. */
enum keel_status keel_opts_read(struct keel_opts *o, const struct keel_engine *engine, int argc, char **argv,
                                struct keel_arena *a, char *err, size_t cap);
void keel_opts_help(const struct keel_engine *engine);
/* As a configuration file on standard output, secrets left out. */
void keel_opts_print(const struct keel_opts *o, const struct keel_engine *engine, struct keel_arena *a);

/* ---- source.c ---- */
bool keel_sources_idle(struct keel_rt *rt);   /* none runs */
bool keel_sources_at_max(struct keel_rt *rt); /* one runs at speed 0 */
void keel_sources_close(struct keel_rt *rt);  /* after they are idle */

#endif
