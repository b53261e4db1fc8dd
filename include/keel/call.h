/*
 * A call is one execution of an op: decoded input, arena, deadline, output. Steps run on the loop thread. Each wait names
 * the step that runs next; a step that returns an error has changed nothing.
 */
#ifndef KEEL_CALL_H
#define KEEL_CALL_H

#include "keel/arena.h"
#include "keel/breaker.h"
#include "keel/engine.h"
#include "keel/json.h"
#include "keel/peer.h"
#include "keel/store.h"

/* The bus header of the record that caused a call (or the call that spawned it); zeros and "" when there is none. */
struct keel_header {
    char topic[64], producer[48], epoch[24], key[72], stream[64], traceparent[56];
    uint64_t seq;
    int64_t ts_event, ts_init, ts_recv, ts_publish;
};

struct keel_call {
    const struct keel_op *op;
    struct keel_rt *rt;
    void *state;               /* the engine's */
    void *arg;                 /* struct of op->takes, decoded */
    void *job;                 /* for op->work; put there by begin */
    void *ctx;                 /* the handler's own, for its next steps */
    struct keel_arena *arena;
    struct keel_json out;      /* the answer; a handler opens and closes its top object itself */
    const char *type;          /* content type of out; NULL: application/json */
    const char *policy;        /* Content-Security-Policy of out; NULL: none */
    int http;                  /* 0: from the status. 202, or an error code with an own body */
    const struct keel_header *rec;
    int64_t start_ns, deadline_ns; /* monotonic; deadline INT64_MAX: none */
    int64_t wall_ns;           /* when it arrived, wall clock */
    struct keel_reply peer;    /* answer of the last keel_await_peer */
    struct keel_rows *rows;    /* answer of the last keel_await_read */
    const char *fallback_reason; /* for a handler's own steps: why it answers by an alternative */
    struct keel_slice *slice;  /* KEEL_ON_SOURCE */
    const char *raw;           /* KEEL_ON_TOPIC, HTTP: the record's or body's JSON as received, for rows that pass it on; else NULL */
    size_t raw_len;
    struct keel_ws *ws;        /* KEEL_ON_WS and its frames: the session */
    const char *path;          /* of an HTTP call, as received, without the query; else NULL */
    struct keel_ignored ignored; /* input members that were accepted and not used; last: a new call keeps its old names */
};

/*
 * Fails the call: sets the problem body's detail (and code, field) and returns st. The last call of a step counts.
 * code NULL: the status' name. field NULL: none.
 */
enum keel_status keel_fail(struct keel_call *c, enum keel_status st, const char *fmt, ...)
    __attribute__((cold, format(printf, 3, 4)));
enum keel_status keel_fail_as(struct keel_call *c, enum keel_status st, const char *code, const char *field,
                              const char *fmt, ...) __attribute__((cold, format(printf, 5, 6)));
/* Adds a member to the problem body (JSON text). */
void keel_fail_member(struct keel_call *c, const char *name, const char *json, size_t len);

/* Waits. Each returns KEEL_WAIT; `return keel_await_...(...)`. next runs on the loop; for a failed wait the step sees
 * keel_wait_status(c) != KEEL_OK (deadline expiry answers the client by itself; the steps past a commit point still run). */
enum keel_status keel_await_work(struct keel_call *c, keel_work_fn *work, void *job, keel_step_fn *next);
/* From here on its jobs wait in that lane, if it is the less urgent one: what was asked for is more than the row's level
 * promises. Its call slot stays that of its row. */
void keel_lower(struct keel_call *c, enum keel_level level);
enum keel_status keel_await_store(struct keel_call *c, struct keel_txn *txn, keel_step_fn *next);
enum keel_status keel_await_read(struct keel_call *c, const char *sql, const char *fmt, keel_step_fn *next, ...);
enum keel_status keel_await_peer(struct keel_call *c, const struct keel_peer_req *req, keel_step_fn *next);
/* Runs next after delay_ms of machine time (retries with back-off; never to stand in for work); 0: when others had their turn. */
enum keel_status keel_await_timer(struct keel_call *c, int64_t delay_ms, keel_step_fn *next);
/* Parks the call until keel_wake(token): a handler that waits for a report. *token is unique. */
enum keel_status keel_await_wake(struct keel_call *c, keel_step_fn *next, uint64_t *token);
/* Resumes the parked call with st as its wait status; false when it is gone. */
bool keel_wake(struct keel_rt *rt, uint64_t token, enum keel_status st);
enum keel_status keel_wait_status(const struct keel_call *c);

/*
 * Point of no return: from here the call is never abandoned. If the deadline passes first, the client gets 202 with the
 * body that `late` writes (status "unknown"), and the remaining steps run on the breaker's call timeout and beyond.
 */
void keel_commit_point(struct keel_call *c, keel_step_fn *late);
/*
 * Alternatives: a row names in .fallbacks other ways to its answer, best first, each behind its own breaker. One at a time,
 * and settled with its call unless keel_choice_done did it before.
 *
 * keel_choose takes the first from .fallbacks[from] on whose breaker lets it in and whose recent latency fits left_ns; *which
 * is its index, and c->fallback_reason says why it is not [from]. KEEL_OPEN, as a failure of the call: none may run. Plain
 * mode takes [from].
 */
enum keel_status keel_choose(struct keel_call *c, size_t from, int64_t left_ns, size_t *which);
/* What became of it: KEEL_OUT_SLOW when it did not end in its time. */
void keel_choice_done(struct keel_call *c, enum keel_outcome o);
/* The op itself cannot go on, because of that: goes on by this alternative. Before the commit point; false: its breaker is open. */
bool keel_fall_back(struct keel_call *c, const char *alternative, const char *because);
bool keel_client_gone(const struct keel_call *c); /* answered already (late) or disconnected */
int64_t keel_left_ns(const struct keel_call *c);

/* Runs another op of the same engine as a call of its own, with arg (struct of its takes, copied shallowly: strings must
 * be in long-lived memory or are copied when `arena` strings; the core deep-copies by record encode/decode). */
enum keel_status keel_spawn(struct keel_call *c, const char *op_id, const void *arg);
enum keel_status keel_spawn_rt(struct keel_rt *rt, const char *op_id, const void *arg);

/* Publishes a memory record when the call settles KEEL_OK. Reserves its room now: KEEL_SHED when there is none.
 * topic must be in the engine's publishes and in contract.h; key NULL is "-"; ts_event 0: that of call->rec, else the session clock;
 * ts_init 0: the session clock. ts_recv and traceparent are carried on from call->rec. */
enum keel_status keel_publish(struct keel_call *c, const char *topic, const char *key, int64_t ts_event, int64_t ts_init,
                              const void *record);

const char *keel_call_header(const struct keel_call *c, const char *name); /* HTTP request header or NULL */
enum keel_scope keel_call_scope(const struct keel_call *c);                /* what the caller's token grants; ADMIN without tokens */
const char *keel_trace_id(const struct keel_call *c);                      /* 32 hex */
double keel_elapsed_ms(const struct keel_call *c);                         /* since arrival, now */
/* Writes "ignored":[...] when any input member was ignored. */
void keel_write_ignored(struct keel_call *c);

/* The object of GET /health. */
void keel_health_write(struct keel_rt *rt, struct keel_json *w);

/* Lists: {"<plural>":[...],"count":n,"next":cursor|null}. See system.md 2. */
#define KEEL_LIST_MAX 1000

/* A whole call without a socket, for tests: runs the loop until it is settled. Returns the HTTP code; body in a. */
int keel_loopback(struct keel_rt *rt, const char *method, const char *path, const char *body, struct keel_arena *a,
                  const char **answer);

#endif
