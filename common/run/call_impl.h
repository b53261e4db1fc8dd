/* What call.c, answer.c, key.c and publish.c know of a call that nobody else does. */
#ifndef KEEL_RUN_CALL_IMPL_H
#define KEEL_RUN_CALL_IMPL_H

#include "call_priv.h"
#include "keel/rng.h"

enum phase {
    FREE,
    KEYED,    /* waits for its key's turn */
    READY,    /* on the ready list */
    STEP,     /* a step of it runs */
    WORKING,  /* a worker has its job and its arena, or will have */
    PARKED,   /* until keel_wake */
    SLEEPING, /* until its timer */
};

struct publication {
    struct publication *next;
    struct keel_outgoing o;
};

struct member {
    struct member *next;
    const char *name, *json;
    size_t len;
};

struct call {
    struct keel_call pub; /* first */
    struct keel_work work;
    struct keel_tick deadline, sleep;
    struct call *prev, *next; /* ready list; next: free list */
    uint64_t serial, token;
    size_t index;
    enum phase phase;
    enum keel_level level; /* of its jobs */
    bool is_lesser; /* of the two ready lists it is on the one of bulk */
    bool begun;     /* its begin has run */
    bool worked;    /* something was done for it: not merely queued */
    bool committed, answered, late, abandoned, cancelled, gone;
    bool internal;  /* caused by the engine itself: goes on while draining */
    bool is_shortened; /* its caller gave it less time than its row */
    bool has_permit, has_alternative;
    bool is_holding; /* past its commit point, not answered, critical: publications wait for it, a little */
    struct keel_permit permit;
    int64_t opened_ns, answered_ns;
    int64_t budget_ns, own_budget_ns; /* own: what its row gives, whatever the caller allows */
    keel_step_fn *step, *late_step; /* step: what runs next; NULL: the op has yet to begin */
    enum keel_status wait_status;
    atomic_bool stop;

    const char *key; /* "portfolio_id=main"; the owner runs, its queue waits */
    uint64_t key_hash;
    bool owns_key;
    struct call *key_chain, *key_prev, *key_next, *key_tail;

    const struct keel_request *rq;
    char *body;      /* taken over from it, or NULL */
    size_t body_len;
    keel_answer_fn *answer_fn;
    keel_settled_fn *settled_fn;
    void *ctx;

    enum keel_status failed; /* the status that code, field and detail are about */
    const char *code, *field, *detail;
    struct member *members;
    struct keel_permit alternative; /* settled together with permit */
    int64_t retry_after_ns;
    struct publication *publications, **publications_end;
    size_t reserved[KEEL_N_LANE];
    struct keel_job_entry *entry;
    char trace[33], flags[3];
    /* A new call is not cleared from here on. */
    struct keel_header hdr;
    char problem[256];
};

struct timer_row {
    uv_timer_t handle;
    struct keel_rt *rt;
    const struct keel_op *op;
    bool busy;
};

struct keel_calls {
    struct call **slot;
    size_t n_slots, max, live, n_holding;
    struct call *free_list;
    struct ready { struct call *head, *tail; } urgent, lesser; /* lesser: bulk, in hybrid mode */
    struct call **bucket;
    size_t n_buckets;
    struct keel_ticks *ticks;
    uv_check_t check;
    uv_idle_t idle;
    struct timer_row *timers;
    size_t n_timers, n_handles; /* n_handles: not closed yet */
    struct keel_arena *scratch; /* answers that may not use the call's arena */
    bool scratch_used;
    struct keel_rng rng;
    uint64_t serial;
    struct keel_jobs *jobs;
    struct keel_sources *sources;
};

static inline struct call *keel_call_self(const struct keel_call *pub)
{
    return (struct call *)(uintptr_t)pub;
}

/* ---- call.c ---- */
void keel_call_ready(struct call *c); /* goes on right after polling */
void keel_call_failed(struct call *c, enum keel_status st, const char *code, const char *detail); /* texts are kept */

/* ---- key.c: calls with the same value of their op's key run one at a time, in the order they came ---- */
void keel_key_set(struct call *c);   /* from the decoded argument */
bool keel_key_take(struct call *c);  /* false: others are before it, and it is queued behind them */
void keel_key_leave(struct call *c); /* out of the middle of the queue */
void keel_key_give(struct call *c);  /* the next in the queue inherits it and becomes ready; nothing when it has none */

/* ---- answer.c ---- */
/* Text that lives until done has returned, for answers that may not use the call's arena. */
struct keel_arena *keel_scratch_take(struct keel_calls *cs);
void keel_scratch_give(struct keel_calls *cs, struct keel_arena *a);
void keel_call_answer(struct call *c, enum keel_status st); /* whoever waits, once */
void keel_call_answer_late(struct call *c);                 /* 202: the outcome is open */
void keel_call_answer_job(struct call *c);                  /* 202: where to ask */
void keel_call_problem_body(struct call *c, enum keel_status st, struct keel_arena *a, struct keel_answer *out);
void keel_call_refuse(struct keel_rt *rt, enum keel_status st, const char *code, const char *detail,
                      keel_answer_fn *done, void *ctx);
void keel_trace_set(struct call *c, const char *traceparent); /* a new span of that trace, or of a new one */

/* ---- publish.c ---- */
void keel_call_send(struct call *c);    /* what it published, in order */
void keel_call_release(struct call *c); /* its room in the outbox, unsent */

#endif
