/*
 * The life of a call: a slot, admission, decoding, steps and the waits between them, one settlement, one
 * answer.
 *
 * A call is in one phase at a time. Steps run one after the other on the loop; whatever makes a call go on
 * (a wake, a timer, its key's turn, a spawn) puts it on the ready list, which is worked off right after
 * polling, so no step ever runs inside another. When the deadline passes first the client is answered at
 * once, and what a worker or a dependency still holds is left alone until it comes back: the call is then
 * abandoned, keeps its slot, and its arena is not touched. Past its commit point a call is answered 202 and
 * goes on.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "call_impl.h"
#include "ws_priv.h"
#include "keel/clock.h"
#include "keel/log.h"

#define MAX_BODY 65536
#define BIG_BODY 16384 /* some hundred microseconds to parse */
#define ARENA_FIRST 8192
#define LARGE (256 * 1024) /* bytes that are not freed on the loop */
#define EXTRA_SLOTS 16 /* prebuilt rows answer when every other slot is taken */
#define SLOW_STEP_NS (10 * KEEL_MS)
#define READY_NS (1 * KEEL_MS)
#define LESSER_NS (KEEL_MS / 10)
#define PERMIT_TIMES 4 /* a permit outlives its deadline by this factor */

static void expire(struct keel_tick *t);
static void awake(struct keel_tick *t);

/* ---- slots ---- */

static void slot_add(struct keel_calls *cs, struct keel_rt *rt)
{
    struct call *c = keel_alloc(1, sizeof *c);
    c->index = cs->n_slots;
    c->pub.rt = rt;
    c->pub.arena = keel_arena_new(ARENA_FIRST);
    cs->slot[cs->n_slots++] = c;
    c->next = cs->free_list;
    cs->free_list = c;
}

static struct call *slot_take(struct keel_rt *rt, bool prebuilt)
{
    struct keel_calls *cs = rt->calls;
    if (cs->live >= cs->max + (prebuilt ? EXTRA_SLOTS : 0))
        return NULL;
    if (cs->free_list == NULL)
        slot_add(cs, rt);
    struct call *c = cs->free_list;
    cs->free_list = c->next;
    cs->live++;
    rt->load.in_flight = (uint32_t)cs->live;
    return c;
}

/* Large memory goes back to the kernel page by page. */
static void free_memory(struct call *c)
{
    struct keel_arena *large = keel_arena_shed(c->pub.arena, LARGE);
    char *body = c->body;
    c->body = NULL;
    if (large == NULL && c->body_len <= LARGE)
        keel_free(body);
    else
        keel_worker_free(c->pub.rt, large, body);
}

static void slot_give(struct call *c)
{
    struct keel_calls *cs = c->pub.rt->calls;
    keel_assert(c->phase != FREE && !c->owns_key && !c->has_permit);
    keel_tick_clear(cs->ticks, &c->deadline);
    c->phase = FREE;
    c->token = 0;
    free_memory(c);
    c->next = cs->free_list;
    cs->free_list = c;
    cs->live--;
    c->pub.rt->load.in_flight = (uint32_t)cs->live;
}

size_t keel_call_slots(const struct keel_rt *rt)
{
    return rt->calls->live < rt->calls->max ? rt->calls->max - rt->calls->live : 0;
}

size_t keel_calls_live(const struct keel_rt *rt)
{
    return rt->calls->live;
}

bool keel_calls_holding(const struct keel_rt *rt)
{
    return rt->calls != NULL && rt->calls->n_holding > 0;
}

struct keel_jobs **keel_calls_jobs(struct keel_rt *rt)
{
    return &rt->calls->jobs;
}

struct keel_sources **keel_calls_sources(struct keel_rt *rt)
{
    return &rt->calls->sources;
}

/* ---- ready list ---- */

/* An idle handle that does nothing keeps the loop from sleeping while something is ready. */
static void on_idle(uv_idle_t *h)
{
    (void)h;
}

/* To its end, whatever its deadline says. */
static bool must_end(const struct call *c)
{
    return c->committed || (c->pub.op->flags & KEEL_MUST) != 0;
}

/* Bulk: its steps may wait for those of others. */
static bool may_wait(const struct call *c)
{
    return c->pub.rt->guard->hybrid && c->level >= KEEL_NORMAL && !must_end(c);
}

static struct ready *ready_of(const struct call *c)
{
    struct keel_calls *cs = c->pub.rt->calls;
    return c->is_lesser ? &cs->lesser : &cs->urgent;
}

void keel_call_ready(struct call *c)
{
    c->is_lesser = may_wait(c);
    struct ready *r = ready_of(c);
    c->phase = READY;
    c->next = NULL;
    c->prev = r->tail;
    if (r->tail != NULL)
        r->tail->next = c;
    else
        r->head = c;
    r->tail = c;
    uv_idle_start(&c->pub.rt->calls->idle, on_idle);
}

static void ready_remove(struct call *c)
{
    struct ready *r = ready_of(c);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        r->head = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    else
        r->tail = c->prev;
    c->prev = c->next = NULL;
}

/* ---- opening ---- */

/* All but texts that nobody looks at before they are written. */
static void clear(struct call *c)
{
    memset(&c->pub, 0, offsetof(struct keel_call, ignored.names));
    memset(&c->pub + 1, 0, offsetof(struct call, hdr) - sizeof c->pub);
    struct keel_header *h = &c->hdr;
    h->topic[0] = h->producer[0] = h->epoch[0] = h->key[0] = h->stream[0] = h->traceparent[0] = '\0';
    h->seq = 0;
    h->ts_event = h->ts_init = h->ts_recv = h->ts_publish = 0;
}

static struct call *open_call(struct keel_rt *rt, const struct keel_op *op, const struct keel_header *h)
{
    struct keel_calls *cs = rt->calls;
    struct call *c = slot_take(rt, (op->flags & KEEL_PREBUILT) != 0);
    if (c == NULL)
        return NULL;
    struct keel_arena *arena = c->pub.arena;
    size_t index = c->index;
    clear(c);
    c->index = index;
    c->serial = ++cs->serial;
    c->phase = STEP;
    c->level = op->level;
    c->deadline.fn = expire;
    c->sleep.fn = awake;
    c->publications_end = &c->publications;
    atomic_init(&c->stop, false);
    c->pub.rt = rt;
    c->pub.op = op;
    c->pub.state = rt->state;
    c->pub.arena = arena;
    c->pub.rec = &c->hdr;
    c->opened_ns = keel_mono_ns();
    c->pub.wall_ns = c->opened_ns + rt->wall_offset_ns;
    keel_json_init(&c->pub.out, arena, 1024);
    if (h != NULL)
        c->hdr = *h;
    if (c->hdr.ts_recv == 0)
        c->hdr.ts_recv = c->pub.wall_ns;
    return c;
}

static int64_t call_timeout_ns(const struct keel_rt *rt)
{
    int64_t ms = rt->engine->breaker.call_timeout_ms;
    return (ms > 0 ? ms : 30000) * KEEL_MS;
}

/*
 * limit_ns: what the caller allows, INT64_MAX if it does not say. Of the rows of KEEL_MUST only those of HTTP have a
 * deadline, for someone waits for the answer; it ends that wait, never the call.
 */
static void set_deadline(struct call *c, int64_t arrived_ns, int64_t limit_ns)
{
    struct keel_rt *rt = c->pub.rt;
    const struct keel_op *op = c->pub.op;
    int64_t budget = op->flags & (KEEL_MUST | KEEL_PREBUILT) ? INT64_MAX : rt->guard->budget_ns(rt->guard_self, op);
    if (c->pub.slice != NULL)
        budget = INT64_MAX;
    if (c->answer_fn != NULL && budget == INT64_MAX)
        budget = call_timeout_ns(rt);
    c->is_shortened = limit_ns < budget;
    c->own_budget_ns = budget < INT64_MAX ? budget : limit_ns;
    if (c->is_shortened)
        budget = limit_ns;
    c->budget_ns = budget;
    c->pub.start_ns = arrived_ns;
    c->pub.deadline_ns = budget < INT64_MAX - arrived_ns ? arrived_ns + budget : INT64_MAX;
}

static uint32_t target_of(const struct keel_rt *rt, const struct keel_op *op)
{
    return (uint32_t)(op - rt->ops);
}

void keel_call_failed(struct call *c, enum keel_status st, const char *code, const char *detail)
{
    c->failed = st;
    c->code = code;
    c->field = NULL;
    c->detail = detail;
}

/* The code is the reason; of rates it is one code, and the detail says whose rate. */
static enum keel_status refused(struct call *c, enum keel_status st, const struct keel_refusal *why)
{
    const char *reason = why->reason != NULL ? why->reason : keel_status_name(st);
    c->retry_after_ns = why->retry_after_ns;
    keel_call_failed(c, st, st == KEEL_RATE ? "rate_limited" : reason,
                     keel_arena_printf(c->pub.arena, "%s: %s", keel_status_text(st), reason));
    return st;
}

/*
 * An op that waits for nothing takes less time than its refusal saves: when the machine kept this process away for longer
 * than the row's deadline, the answer is late and counted so, but an answer. A caller's own deadline is kept.
 */
static bool is_judged_afterwards(const struct call *c)
{
    return (c->pub.op->flags & KEEL_INLINE) && !c->is_shortened;
}

static enum keel_status admit(struct call *c)
{
    struct keel_rt *rt = c->pub.rt;
    const struct keel_op *op = c->pub.op;
    uint32_t target = target_of(rt, op);
    if (op->flags & KEEL_PREBUILT)
        return KEEL_OK;
    int64_t now = c->opened_ns;
    keel_lease_hold(rt, now);
    if (rt->draining && !c->internal) {
        rt->guard->refused(rt->guard_self, target, KEEL_OUT_REJECTED);
        return KEEL_DRAINING;
    }
    int64_t left = c->pub.deadline_ns == INT64_MAX || is_judged_afterwards(c) ? INT64_MAX : c->pub.deadline_ns - now;
    if (left <= 0 && !(op->flags & KEEL_MUST)) {
        rt->guard->refused(rt->guard_self, target, KEEL_OUT_CANCELLED);
        return KEEL_CANCELLED;
    }
    struct keel_refusal why = {0};
    enum keel_status st = rt->guard->admit_client(rt->guard_self, target, c->rq != NULL ? c->rq->client : 0, now, left,
                                                  &c->permit, &why);
    if (st != KEEL_OK)
        return refused(c, st, &why);
    c->has_permit = true;
    return st;
}

static enum keel_status invalid(struct call *c, const struct keel_record_error *err)
{
    c->failed = KEEL_INVALID;
    c->code = err->code;
    c->field = err->field;
    c->detail = err->detail;
    return KEEL_INVALID;
}

/* The core's own rows answer without store, bus and state; the engine's and the bus' do not. */
static bool needs_work(const struct keel_rt *rt, const struct keel_op *op)
{
    size_t i = (size_t)(op - rt->ops);
    return i < rt->engine->n_ops || i >= rt->engine->n_ops + keel_n_builtin_ops;
}

static void no_slot(struct keel_rt *rt, const struct keel_op *op)
{
    rt->guard->refused(rt->guard_self, target_of(rt, op), KEEL_OUT_REJECTED);
    keel_log_often(KEEL_LOG_WARN, "no_call_slot", "op=%s max_calls=%lld", op->id, (long long)rt->core->max_calls);
}

/* ---- settling ---- */

/*
 * Judged by the time that the row gives, so that callers who allow a millisecond open no circuit for the others: what they
 * do not wait for says nothing about the operation.
 */
static enum keel_outcome late_outcome(const struct call *c, int64_t now)
{
    int64_t took = now - c->pub.start_ns, own = c->own_budget_ns;
    if (c->is_shortened && took <= own)
        return KEEL_OUT_CANCELLED;
    return own >= INT64_MAX / PERMIT_TIMES || took < PERMIT_TIMES * own ? KEEL_OUT_SLOW : KEEL_OUT_TIMEOUT;
}

static enum keel_outcome outcome_of(const struct call *c, enum keel_status st, int64_t now)
{
    int http = st == KEEL_OK && c->pub.http != 0 && !c->late ? c->pub.http : keel_status_http(st);
    switch (st) {
    case KEEL_UPSTREAM:
    case KEEL_INTERNAL:
        return KEEL_OUT_FAILURE;
    case KEEL_RATE:
    case KEEL_SHED:
    case KEEL_OPEN:
    case KEEL_DRAINING:
    case KEEL_UNAVAILABLE:
        return KEEL_OUT_REJECTED;
    case KEEL_CANCELLED:
        return KEEL_OUT_CANCELLED;
    case KEEL_TIMEOUT:
        return late_outcome(c, now);
    default:
        break;
    }
    if (c->late)
        return late_outcome(c, now);
    if (http >= 500)
        return http == 503 ? KEEL_OUT_REJECTED : KEEL_OUT_FAILURE;
    return http >= 400 ? KEEL_OUT_CLIENT : KEEL_OUT_OK;
}

/* Timed by itself: from its choice on. */
static void settle_alternative(struct call *c, enum keel_outcome o, int64_t end_ns)
{
    if (!c->has_alternative)
        return;
    c->has_alternative = false;
    c->pub.rt->guard->settle(c->pub.rt->guard_self, c->alternative, o, end_ns - c->alternative.start_ns, end_ns);
}

static void settle_permit(struct call *c, enum keel_outcome o, int64_t now)
{
    struct keel_rt *rt = c->pub.rt;
    if (!c->has_permit)
        return;
    int64_t took = (c->answered ? c->answered_ns : now) - c->pub.start_ns;
    c->has_permit = false;
    rt->guard->settle(rt->guard_self, c->permit, o, took, now);
    settle_alternative(c, o, now);
}

/* A client's mistake, and what the domain refuses, is for the caller to see; what we could not do for a call that
 * nobody waits for would be seen by nobody. */
static void log_failure(struct call *c, enum keel_status st)
{
    if (st == KEEL_OK)
        return;
    const char *op = c->pub.op->id, *name = keel_status_name(st), *why = keel_call_problem(&c->pub);
    if (st == KEEL_INTERNAL)
        keel_log(KEEL_LOG_ERROR, "call_failed", "op=%s status=%s trace_id=%s detail=%s", op, name, c->trace, why);
    else if (keel_status_counts(st) ||
             (c->answer_fn == NULL && c->settled_fn == NULL && keel_status_http(st) >= 500))
        keel_log_often(KEEL_LOG_WARN, "call_failed", "op=%s status=%s trace_id=%s detail=%s", op, name, c->trace, why);
    else
        keel_log(KEEL_LOG_DEBUG, "call_failed", "op=%s status=%s trace_id=%s detail=%s", op, name, c->trace, why);
}

static void end_job(struct call *c, enum keel_status st)
{
    struct keel_rt *rt = c->pub.rt;
    if (st == KEEL_OK) {
        const char *body = c->pub.out.len > 0 ? keel_json_text(&c->pub.out) : "{}";
        keel_jobs_over(rt, c->entry, KEEL_JOB_DONE, c->pub.http != 0 ? c->pub.http : 200, body, strlen(body));
        return;
    }
    enum keel_job_state state = st == KEEL_CANCELLED  ? KEEL_JOB_CANCELLED
                                : st == KEEL_DRAINING ? KEEL_JOB_INTERRUPTED
                                                      : KEEL_JOB_FAILED;
    struct keel_arena *a = keel_scratch_take(rt->calls);
    struct keel_answer ans;
    keel_call_problem_body(c, st, a, &ans);
    keel_jobs_over(rt, c->entry, state, ans.http, ans.body, ans.len);
    keel_scratch_give(rt->calls, a);
}

/* The end of a call that nobody but the loop holds. Returns when: just before its answer left, if it had not yet. */
static int64_t finish(struct call *c, enum keel_status st)
{
    struct keel_calls *cs = c->pub.rt->calls;
    if (c->phase == READY)
        ready_remove(c);
    else if (c->phase == KEYED)
        keel_key_leave(c);
    c->phase = STEP;
    keel_tick_clear(cs->ticks, &c->deadline);
    keel_tick_clear(cs->ticks, &c->sleep);
    if (st == KEEL_OK && c->pub.out.bad) {
        keel_call_failed(c, KEEL_INTERNAL, "not_finite", "the answer holds a number that is not finite");
        st = KEEL_INTERNAL;
    }
    if (st == KEEL_OK)
        keel_call_send(c);
    else
        keel_call_release(c);
    bool was_answered = c->answered;
    keel_call_answer(c, st);
    int64_t now = was_answered ? keel_mono_ns() : c->answered_ns;
    settle_permit(c, outcome_of(c, st, now), now);
    if (c->entry != NULL)
        end_job(c, st);
    log_failure(c, st);
    keel_key_give(c);
    slot_give(c);
    return now;
}

/* The client is answered, a worker or a dependency still has hold of the call. */
static void abandon(struct call *c, enum keel_status st)
{
    struct keel_calls *cs = c->pub.rt->calls;
    c->abandoned = true;
    atomic_store(&c->stop, true);
    keel_call_release(c);
    c->failed = KEEL_OK;
    c->members = NULL;
    keel_call_answer(c, st);
    log_failure(c, st);
    int64_t now = keel_mono_ns();
    if (st != KEEL_TIMEOUT)
        settle_permit(c, outcome_of(c, st, now), now);
    if (c->phase == PARKED)
        keel_key_give(c);
    if (c->has_permit)
        keel_tick_set(cs->ticks, &c->deadline, c->pub.start_ns + PERMIT_TIMES * c->budget_ns);
    else if (c->phase == PARKED)
        slot_give(c);
}

/* What held an abandoned call has come back. */
static void drop(struct call *c)
{
    int64_t now = keel_mono_ns();
    settle_permit(c, late_outcome(c, now), now);
    if (c->entry != NULL)
        end_job(c, KEEL_DRAINING); /* a job has no deadline */
    keel_key_give(c);
    slot_give(c);
}

/* ---- the deadline ---- */

static bool work_cancelled(struct call *c)
{
    return c->phase == WORKING && keel_worker_cancel(c->pub.rt, &c->work);
}

static void expire_committed(struct call *c)
{
    struct keel_rt *rt = c->pub.rt;
    int64_t now = keel_mono_ns();
    if (c->late) { /* the permit's time is over, too */
        settle_permit(c, late_outcome(c, now), now);
        return;
    }
    keel_log(KEEL_LOG_WARN, "answered_unknown", "op=%s trace_id=%s", c->pub.op->id, keel_trace_id(&c->pub));
    keel_call_answer_late(c);
    c->pub.deadline_ns = now + call_timeout_ns(rt);
    keel_tick_set(rt->calls->ticks, &c->deadline, c->pub.start_ns + PERMIT_TIMES * c->budget_ns);
}

static void expire(struct keel_tick *t)
{
    struct call *c = (struct call *)((char *)t - offsetof(struct call, deadline));
    if (c->abandoned) {
        int64_t now = keel_mono_ns();
        settle_permit(c, late_outcome(c, now), now);
        if (c->phase == PARKED)
            slot_give(c);
        return;
    }
    if (must_end(c)) {
        expire_committed(c);
        return;
    }
    c->failed = KEEL_OK;
    c->members = NULL;
    switch (c->phase) {
    case KEYED:
        finish(c, KEEL_CANCELLED);
        break;
    case READY:
    case SLEEPING:
        finish(c, c->begun ? KEEL_TIMEOUT : KEEL_CANCELLED);
        break;
    case WORKING:
        if (work_cancelled(c))
            finish(c, c->worked ? KEEL_TIMEOUT : KEEL_CANCELLED);
        else
            abandon(c, c->begun ? KEEL_TIMEOUT : KEEL_CANCELLED);
        break;
    default:
        keel_assert(c->phase == PARKED);
        abandon(c, KEEL_TIMEOUT);
    }
}

/* ---- steps ---- */

/* Jobs have none once they are accepted; a record past its commit point settles when it is done. */
static void watch_deadline(struct call *c)
{
    bool none = c->pub.deadline_ns == INT64_MAX || c->deadline.pos != 0 || c->answered ||
                (c->committed && c->answer_fn == NULL);
    if (!none)
        keel_tick_set(c->pub.rt->calls->ticks, &c->deadline, c->pub.deadline_ns);
}

static bool take_as_job(struct call *c)
{
    if (!(c->pub.op->flags & KEEL_JOB) || c->answer_fn == NULL || c->answered)
        return false;
    c->entry = keel_jobs_add(c->pub.rt, &c->pub);
    keel_assert(c->entry != NULL);
    if (c->begun)
        keel_jobs_running(c->entry);
    c->pub.deadline_ns = INT64_MAX;
    c->budget_ns = c->own_budget_ns = INT64_MAX;
    keel_call_answer_job(c);
    return true;
}

/* Given the time, and returns it. */
static int64_t run_step(struct call *c, keel_step_fn *fn, int64_t began)
{
    const struct keel_op *op = c->pub.op;
    c->phase = STEP;
    int64_t ended;
    enum keel_status st = fn(&c->pub);
    if (st != KEEL_WAIT) {
        keel_assert(c->phase == STEP && st < KEEL_N_STATUS);
        keel_assert(st != KEEL_OK || c->pub.out.depth == 0);
        if (st == KEEL_OK)
            take_as_job(c);
        ended = finish(c, st);
    } else {
        keel_assert(c->phase != STEP && c->pub.out.depth == 0);
        ended = keel_mono_ns();
        take_as_job(c);
        watch_deadline(c);
    }
    if (ended - began > SLOW_STEP_NS)
        keel_log_often(KEEL_LOG_WARN, "slow_step", "op=%s ms=%.1f", op->id, (double)(ended - began) * 1e-6);
    return ended;
}

/* .work and .end in a row are short for a begin that awaits them. */
static enum keel_status begin_work(struct keel_call *pub)
{
    const struct keel_op *op = pub->op;
    enum keel_status st = op->begin(pub);
    return st == KEEL_OK ? keel_await_work(pub, op->work, pub->job, op->end) : st;
}

static keel_step_fn *first_step(const struct call *c)
{
    return c->pub.op->work != NULL ? begin_work : c->pub.op->begin;
}

static int64_t begin(struct call *c, int64_t now)
{
    c->begun = true;
    if (c->entry != NULL)
        keel_jobs_running(c->entry);
    return run_step(c, first_step(c), now);
}

static void start(struct call *c)
{
    if (keel_key_take(c)) {
        begin(c, c->opened_ns);
        return;
    }
    take_as_job(c);
    watch_deadline(c);
}

static void start_soon(struct call *c)
{
    if (keel_key_take(c))
        keel_call_ready(c);
    watch_deadline(c);
}

/* One of them at least, then as many as begin within that time. */
static void run_ready(struct ready *r, int64_t limit_ns)
{
    int64_t until = 0, now = r->head != NULL ? keel_mono_ns() : 0;
    while (r->head != NULL) {
        struct call *c = r->head;
        ready_remove(c);
        now = c->step != NULL ? run_step(c, c->step, now) : begin(c, now);
        if (until == 0)
            until = now + limit_ns;
        else if (now > until)
            break;
    }
}

static void on_check(uv_check_t *h)
{
    struct keel_calls *cs = h->data;
    run_ready(&cs->urgent, READY_NS);
    run_ready(&cs->lesser, LESSER_NS);
    if (cs->urgent.head == NULL && cs->lesser.head == NULL)
        uv_idle_stop(&cs->idle);
}

/* ---- waits ---- */

static void wait_for(struct call *c, enum phase phase, keel_step_fn *next)
{
    keel_assert(c->phase == STEP && next != NULL && !(c->begun && (c->pub.op->flags & KEEL_INLINE)));
    c->phase = phase;
    c->step = next;
    c->wait_status = KEEL_OK;
    c->worked = c->worked || phase != WORKING;
}

static void work_done(struct keel_work *w)
{
    struct call *c = (struct call *)((char *)w - offsetof(struct call, work));
    c->worked = true;
    if (c->abandoned) {
        drop(c);
        return;
    }
    if (c->cancelled) {
        c->phase = STEP;
        finish(c, KEEL_CANCELLED);
        return;
    }
    c->wait_status = w->status;
    if (may_wait(c))
        keel_call_ready(c);
    else
        run_step(c, c->step, keel_mono_ns());
}

static enum keel_status await_job(struct call *c, struct keel_job how, keel_work_fn *work, void *job, keel_step_fn *next)
{
    wait_for(c, WORKING, next);
    c->work = (struct keel_work){.base = how, .fn = work, .job = job, .stop = &c->stop, .done = work_done};
    keel_worker_submit(c->pub.rt, &c->work);
    return KEEL_WAIT;
}

enum keel_status keel_await_work(struct keel_call *pub, keel_work_fn *work, void *job, keel_step_fn *next)
{
    struct call *c = keel_call_self(pub);
    bool must = must_end(c), is_job = (pub->op->flags & KEEL_JOB) != 0;
    struct keel_job how = {.must = must,
                           .level = must ? KEEL_CRITICAL : is_job ? KEEL_LOW : c->level,
                           .deadline_ns = must || is_job ? INT64_MAX : pub->deadline_ns};
    return await_job(c, how, work, job, next);
}

void keel_lower(struct keel_call *pub, enum keel_level level)
{
    struct call *c = keel_call_self(pub);
    if (level > c->level)
        c->level = level;
}

static void awake(struct keel_tick *t)
{
    keel_call_ready((struct call *)((char *)t - offsetof(struct call, sleep)));
}

enum keel_status keel_await_timer(struct keel_call *pub, int64_t delay_ms, keel_step_fn *next)
{
    struct call *c = keel_call_self(pub);
    wait_for(c, SLEEPING, next);
    if (delay_ms > 0)
        keel_tick_set(pub->rt->calls->ticks, &c->sleep, keel_mono_ns() + delay_ms * KEEL_MS);
    else
        keel_call_ready(c);
    return KEEL_WAIT;
}

/* The slot's index in the low 20 bits, so that a token is looked up without a table. */
enum keel_status keel_await_wake(struct keel_call *pub, keel_step_fn *next, uint64_t *token)
{
    struct call *c = keel_call_self(pub);
    wait_for(c, PARKED, next);
    c->token = ++pub->rt->calls->serial << 20 | c->index;
    *token = c->token;
    return KEEL_WAIT;
}

static struct call *parked(struct keel_rt *rt, uint64_t token)
{
    size_t index = token & 0xfffff;
    struct call *c = index < rt->calls->n_slots ? rt->calls->slot[index] : NULL;
    return c != NULL && token != 0 && c->token == token ? c : NULL;
}

struct keel_call *keel_call_of(struct keel_rt *rt, uint64_t token)
{
    struct call *c = parked(rt, token);
    return c != NULL ? &c->pub : NULL;
}

bool keel_wake(struct keel_rt *rt, uint64_t token, enum keel_status st)
{
    struct call *c = parked(rt, token);
    if (c == NULL)
        return false;
    c->token = 0;
    if (c->abandoned) {
        drop(c);
        return false;
    }
    c->wait_status = st;
    keel_call_ready(c);
    return true;
}

enum keel_status keel_wait_status(const struct keel_call *pub)
{
    return keel_call_self(pub)->wait_status;
}

void keel_commit_point(struct keel_call *pub, keel_step_fn *late)
{
    struct call *c = keel_call_self(pub);
    if (!c->is_holding && !c->answered && c->answer_fn != NULL && pub->op->level == KEEL_CRITICAL) {
        c->is_holding = true;
        pub->rt->calls->n_holding++;
    }
    c->committed = true;
    if (late != NULL)
        c->late_step = late;
    if (c->answer_fn == NULL)
        keel_tick_clear(pub->rt->calls->ticks, &c->deadline);
}

/* The targets of an op's alternatives, which follow one another. */
static uint32_t first_alternative(const struct keel_rt *rt, const struct keel_op *op)
{
    uint32_t i = (uint32_t)rt->n_ops;
    while (i < rt->n_targets && rt->targets[i].op != op)
        i++;
    keel_assert(i < rt->n_targets);
    return i;
}

static size_t n_alternatives(const struct keel_op *op)
{
    size_t n = 0;
    while (op->fallbacks != NULL && op->fallbacks[n] != NULL)
        n++;
    return n;
}

static enum keel_status pick(struct call *c, const struct keel_pick *ask, struct keel_refusal *why)
{
    struct keel_rt *rt = c->pub.rt;
    keel_assert(c->has_permit && !c->has_alternative);
    enum keel_status st = rt->guard->pick(rt->guard_self, ask, keel_mono_ns(), &c->alternative, why);
    c->has_alternative = st == KEEL_OK;
    return st;
}

enum keel_status keel_choose(struct keel_call *pub, size_t from, int64_t left_ns, size_t *which)
{
    struct call *c = keel_call_self(pub);
    uint32_t first = first_alternative(pub->rt, pub->op);
    size_t n = n_alternatives(pub->op);
    struct keel_refusal why = {0};
    keel_assert(from < n);
    const struct keel_pick ask = {first + (uint32_t)from, (uint32_t)(n - from), left_ns, NULL};
    enum keel_status st = pick(c, &ask, &why);
    if (st != KEEL_OK)
        return refused(c, st, &why);
    *which = c->alternative.target - first;
    if (why.reason != NULL)
        pub->fallback_reason = keel_arena_printf(pub->arena, "%s: %s", pub->op->fallbacks[from], why.reason);
    return KEEL_OK;
}

void keel_choice_done(struct keel_call *pub, enum keel_outcome o)
{
    settle_alternative(keel_call_self(pub), o, keel_mono_ns());
}

bool keel_fall_back(struct keel_call *pub, const char *alternative, const char *because)
{
    struct keel_pick ask = {first_alternative(pub->rt, pub->op), 1, INT64_MAX, because};
    struct keel_refusal why = {0};
    size_t i = 0, n = n_alternatives(pub->op);
    while (i < n && strcmp(pub->op->fallbacks[i], alternative) != 0)
        i++;
    keel_assert(i < n);
    ask.first += (uint32_t)i;
    return pick(keel_call_self(pub), &ask, &why) == KEEL_OK;
}

bool keel_client_gone(const struct keel_call *pub)
{
    const struct call *c = keel_call_self(pub);
    return c->answered || c->gone;
}

int64_t keel_left_ns(const struct keel_call *pub)
{
    if (pub->deadline_ns == INT64_MAX)
        return INT64_MAX;
    int64_t left = pub->deadline_ns - keel_mono_ns();
    return left > 0 ? left : 0;
}

enum keel_status keel_call_cancel(struct keel_call *pub)
{
    struct call *c = keel_call_self(pub);
    if (c->committed)
        return KEEL_CONFLICT;
    keel_call_failed(c, KEEL_CANCELLED, NULL, "cancelled by its caller");
    c->members = NULL;
    if (c->phase != WORKING || work_cancelled(c)) {
        c->token = 0;
        finish(c, KEEL_CANCELLED);
        return KEEL_OK;
    }
    c->cancelled = true;
    atomic_store(&c->stop, true);
    return KEEL_OK;
}

/* ---- failing ---- */

__attribute__((format(printf, 5, 0))) static void fail_v(struct call *c, enum keel_status st, const char *code,
                                                          const char *field, const char *fmt, va_list ap)
{
    struct keel_arena *a = c->pub.arena;
    c->failed = st;
    c->code = code != NULL ? keel_arena_strdup(a, code) : NULL;
    c->field = field != NULL ? keel_arena_strdup(a, field) : NULL;
    c->detail = keel_arena_vprintf(a, fmt, ap);
}

enum keel_status keel_fail(struct keel_call *pub, enum keel_status st, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail_v(keel_call_self(pub), st, NULL, NULL, fmt, ap);
    va_end(ap);
    return st;
}

enum keel_status keel_fail_as(struct keel_call *pub, enum keel_status st, const char *code, const char *field,
                              const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail_v(keel_call_self(pub), st, code, field, fmt, ap);
    va_end(ap);
    return st;
}

void keel_fail_member(struct keel_call *pub, const char *name, const char *json, size_t len)
{
    struct call *c = keel_call_self(pub);
    struct member *m = keel_arena_alloc(pub->arena, sizeof *m), **end = &c->members;
    m->name = keel_arena_strdup(pub->arena, name);
    m->json = keel_arena_strndup(pub->arena, json, len);
    m->len = len;
    while (*end != NULL)
        end = &(*end)->next;
    *end = m;
}

const char *keel_call_problem(const struct keel_call *pub)
{
    struct call *c = pub != NULL ? keel_call_self(pub) : NULL;
    if (c == NULL)
        return "shed: no call slot is free";
    if (c->failed == KEEL_OK || (c->code == NULL && c->detail == NULL))
        return "";
    snprintf(c->problem, sizeof c->problem, "%s%s%s%s%s", c->code != NULL ? c->code : "", c->code != NULL ? ": " : "",
             c->detail != NULL ? c->detail : "", c->field != NULL ? ", field " : "", c->field != NULL ? c->field : "");
    return c->problem;
}

void keel_call_failure(const struct keel_call *pub, const char **code, const char **detail)
{
    const struct call *c = pub != NULL ? keel_call_self(pub) : NULL;
    bool has = c != NULL && c->failed != KEEL_OK;
    *code = has ? c->code : NULL;
    *detail = has ? c->detail : NULL;
}

/* ---- what starts a call ---- */

static const char *request_header(const struct call *c, const char *name)
{
    return c->rq != NULL && c->rq->header != NULL ? c->rq->header(c->rq->ctx, name) : NULL;
}

/* X-Deadline-Ms in ns, INT64_MAX without one. */
static enum keel_status caller_limit(struct call *c, int64_t *limit_ns)
{
    const char *text = request_header(c, "X-Deadline-Ms");
    int64_t ms;
    *limit_ns = INT64_MAX;
    if (text == NULL)
        return KEEL_OK;
    if (keel_i64_parse(text, strlen(text), &ms) != KEEL_OK || ms <= 0)
        return keel_fail_as(&c->pub, KEEL_INVALID, "out_of_range", "X-Deadline-Ms",
                            "X-Deadline-Ms must be a whole number of milliseconds above 0");
    if (ms < INT64_MAX / KEEL_MS)
        *limit_ns = ms * KEEL_MS;
    return KEEL_OK;
}

/* What a worker that reads a body sees is the call's: the client may have been answered and be gone before it is done. */
struct reading {
    const struct keel_op *op;
    const struct keel_request *rq;
    struct keel_arena *arena;
    void *arg;
    struct keel_ignored ignored;
    struct keel_record_error err;
};

static enum keel_status read_work(void *job, const atomic_bool *stop)
{
    struct reading *r = job;
    (void)stop; /* a body is bounded */
    return keel_decode_request(r->op, r->rq, r->arena, &r->arg, &r->ignored, &r->err);
}

static enum keel_status accept_input(struct call *c)
{
    if ((c->pub.op->flags & KEEL_JOB) && !keel_jobs_room(c->pub.rt))
        return keel_fail_as(&c->pub, KEEL_SHED, "jobs_full", NULL, "all places for jobs are taken");
    keel_key_set(c);
    return KEEL_OK;
}

static enum keel_status has_read(struct keel_call *pub)
{
    struct call *c = keel_call_self(pub);
    struct reading *r = c->work.job;
    if (c->wait_status != KEEL_OK)
        return invalid(c, &r->err);
    pub->arg = r->arg;
    pub->ignored = r->ignored;
    enum keel_status st = accept_input(c);
    if (st != KEEL_OK)
        return st;
    c->worked = false; /* the op itself has yet to begin */
    c->step = NULL;
    if (!keel_key_take(c))
        return KEEL_WAIT;
    c->begun = true;
    return first_step(c)(pub);
}

/* In hybrid mode a large body is no step of the loop: what is urgent would wait for as long as it takes to parse. */
static bool is_read_on_worker(const struct call *c, const struct keel_request *rq)
{
    return rq->body_len > BIG_BODY && c->pub.rt->guard->hybrid && !(c->pub.op->flags & KEEL_MUST);
}

static enum keel_status read_on_worker(struct call *c, const struct keel_request *rq)
{
    struct reading *r = keel_arena_alloc(c->pub.arena, sizeof *r);
    c->body = rq->give_body != NULL ? rq->give_body(rq->ctx) : NULL;
    c->body_len = rq->body_len;
    *r = (struct reading){.op = c->pub.op, .rq = keel_request_copy(c->pub.arena, rq, c->body != NULL), .arena = c->pub.arena};
    await_job(c, (struct keel_job){.level = c->level, .deadline_ns = c->pub.deadline_ns}, read_work, r, has_read);
    watch_deadline(c);
    return KEEL_WAIT;
}

/* KEEL_WAIT: the call goes on by itself. */
static enum keel_status http_input(struct call *c, const struct keel_request *rq)
{
    struct keel_record_error err = {0};
    int64_t limit_ns;
    enum keel_status limit = caller_limit(c, &limit_ns);
    set_deadline(c, rq->arrived_ns, limit_ns);
    enum keel_status st = admit(c);
    if (st != KEEL_OK)
        return st;
    if (limit != KEEL_OK)
        return limit;
    if (is_read_on_worker(c, rq))
        return read_on_worker(c, rq);
    if (keel_decode_request(c->pub.op, rq, c->pub.arena, &c->pub.arg, &c->pub.ignored, &err) != KEEL_OK)
        return invalid(c, &err);
    return accept_input(c);
}

void *keel_call_http(struct keel_rt *rt, const struct keel_op *op, const struct keel_request *rq, keel_answer_fn *done,
                     void *ctx)
{
    size_t max_body = op->max_body > 0 ? op->max_body : MAX_BODY;
    if (rq->body_len > max_body) {
        rt->guard->refused(rt->guard_self, target_of(rt, op), KEEL_OUT_CLIENT);
        keel_call_refuse(rt, KEEL_TOOBIG, NULL, "the body exceeds the limit of this operation", done, ctx);
        return NULL;
    }
    if ((op->flags & KEEL_HYBRID_ONLY) && !rt->guard->hybrid) {
        keel_call_refuse(rt, KEEL_NOTFOUND, "hybrid_disabled",
                         "this engine runs in plain mode; ENABLE_HYBRID=true adds this", done, ctx);
        return NULL;
    }
    if (rt->standby && needs_work(rt, op)) {
        rt->guard->refused(rt->guard_self, target_of(rt, op), KEEL_OUT_REJECTED);
        keel_call_refuse(rt, KEEL_UNAVAILABLE, "standby",
                         "another instance is at work and this one stands by; nothing was done", done, ctx);
        return NULL;
    }
    struct call *c = open_call(rt, op, NULL);
    if (c == NULL) {
        no_slot(rt, op);
        keel_call_refuse(rt, KEEL_SHED, "no_call_slot", "no call slot is free", done, ctx);
        return NULL;
    }
    uint64_t serial = c->serial;
    c->rq = rq;
    c->answer_fn = done;
    c->ctx = ctx;
    c->pub.ws = rq->ws;
    c->pub.path = rq->path;
    c->pub.raw = rq->body;
    c->pub.raw_len = rq->body_len;
    keel_trace_set(c, request_header(c, "traceparent"));
    enum keel_status st = http_input(c, rq);
    if (st == KEEL_OK)
        start(c);
    else if (st != KEEL_WAIT)
        finish(c, st);
    return c->serial == serial && c->phase != FREE && !c->answered ? c : NULL;
}

void keel_call_gone(void *handle)
{
    struct call *c = handle;
    c->gone = true;
}

/*
 * Prices make the session's time, and only they: what an engine publishes of itself before the first of them carries the
 * machine's clock, which may be years ahead of a replay.
 */
static bool is_market(const char *topic)
{
    return strncmp(topic, "marketdata.", 11) == 0 && strncmp(topic, "marketdata.critical.", 20) != 0;
}

static void call_payload(struct keel_rt *rt, const struct keel_op *op, const struct keel_header *h, struct keel_ws *ws,
                         const char *payload, size_t len, keel_settled_fn *done, void *ctx)
{
    struct call *c = open_call(rt, op, h);
    if (c == NULL) {
        no_slot(rt, op);
        done(ctx, NULL, KEEL_SHED);
        return;
    }
    struct keel_record_error err = {0};
    c->settled_fn = done;
    c->ctx = ctx;
    c->pub.ws = ws;
    c->pub.raw = payload;
    c->pub.raw_len = len;
    set_deadline(c, c->opened_ns, INT64_MAX);
    enum keel_status st = admit(c);
    if (st == KEEL_OK) {
        st = keel_decode_record(op->takes, payload, len, c->pub.arena, &c->pub.arg, &c->pub.ignored, &err);
        if (st != KEEL_OK)
            st = invalid(c, &err);
    }
    if (st != KEEL_OK) {
        finish(c, st);
        return;
    }
    if (is_market(c->hdr.topic))
        keel_session_saw(rt, c->hdr.ts_init);
    keel_key_set(c);
    start(c);
}

void keel_call_record(struct keel_rt *rt, const struct keel_op *op, const struct keel_header *h, const char *payload,
                      size_t len, keel_settled_fn *done, void *ctx)
{
    call_payload(rt, op, h, NULL, payload, len, done, ctx);
}

void keel_call_frame(struct keel_rt *rt, const struct keel_op *op, struct keel_ws *ws, const char *payload, size_t len,
                     keel_settled_fn *done, void *ctx)
{
    call_payload(rt, op, NULL, ws, payload, len, done, ctx);
}

void keel_call_slice(struct keel_rt *rt, const struct keel_op *op, struct keel_slice *slice, keel_settled_fn *done,
                     void *ctx)
{
    struct call *c = open_call(rt, op, NULL);
    if (c == NULL) {
        done(ctx, NULL, KEEL_SHED);
        return;
    }
    c->settled_fn = done;
    c->ctx = ctx;
    c->internal = true;
    c->pub.slice = slice;
    set_deadline(c, c->opened_ns, INT64_MAX);
    enum keel_status st = admit(c);
    if (st == KEEL_OK)
        start(c);
    else
        finish(c, st);
}

const struct keel_op *keel_op_find(const struct keel_rt *rt, const char *id)
{
    for (size_t i = 0; i < rt->n_ops; i++) {
        if (strcmp(rt->ops[i].id, id) == 0)
            return &rt->ops[i];
    }
    return NULL;
}

/* Encoded and decoded again: the new call shares no memory with its cause. */
static enum keel_status copy_arg(struct call *c, const void *arg)
{
    const struct keel_fields *takes = c->pub.op->takes;
    struct keel_record_error err = {0};
    struct keel_json w;
    if (takes == NULL || arg == NULL)
        return KEEL_OK;
    keel_json_init(&w, c->pub.arena, 512);
    keel_json_obj(&w, NULL);
    keel_record_encode(takes, arg, &w);
    keel_json_end(&w);
    const char *text = keel_json_text(&w);
    if (keel_decode_record(takes, text, w.len, c->pub.arena, &c->pub.arg, NULL, &err) != KEEL_OK)
        return invalid(c, &err);
    return KEEL_OK;
}

static enum keel_status spawn(struct keel_rt *rt, const char *op_id, const void *arg, const struct keel_header *cause)
{
    const struct keel_op *op = keel_op_find(rt, op_id);
    keel_assert(op != NULL);
    struct call *c = open_call(rt, op, cause);
    if (c == NULL) {
        no_slot(rt, op);
        return KEEL_SHED;
    }
    c->internal = true;
    set_deadline(c, c->opened_ns, INT64_MAX);
    enum keel_status st = admit(c);
    if (st == KEEL_OK)
        st = copy_arg(c, arg);
    if (st != KEEL_OK) {
        finish(c, st);
        return st;
    }
    keel_key_set(c);
    start_soon(c);
    return KEEL_OK;
}

enum keel_status keel_spawn(struct keel_call *pub, const char *op_id, const void *arg)
{
    return spawn(pub->rt, op_id, arg, pub->rec);
}

enum keel_status keel_spawn_rt(struct keel_rt *rt, const char *op_id, const void *arg)
{
    return spawn(rt, op_id, arg, NULL);
}

/* ---- what a step may ask ---- */

const char *keel_call_header(const struct keel_call *pub, const char *name)
{
    return request_header(keel_call_self(pub), name);
}

enum keel_scope keel_call_scope(const struct keel_call *pub)
{
    const struct call *c = keel_call_self(pub);
    return c->rq != NULL ? c->rq->scope : KEEL_SCOPE_ADMIN;
}

double keel_elapsed_ms(const struct keel_call *pub)
{
    return (double)(keel_mono_ns() - pub->start_ns) * 1e-6;
}

void keel_write_ignored(struct keel_call *pub)
{
    if (pub->ignored.n == 0)
        return;
    keel_json_arr(&pub->out, "ignored");
    for (size_t i = 0; i < pub->ignored.n; i++)
        keel_json_str(&pub->out, NULL, pub->ignored.names[i]);
    keel_json_end(&pub->out);
}

/* Lanes differ by less than this; what is older belongs to a session of its own, such as a replay after a live day. */
#define SESSION_BACK_NS (INT64_C(3600000) * KEEL_MS)

void keel_session_saw(struct keel_rt *rt, int64_t ts_init)
{
    if (ts_init == 0 || (ts_init < rt->session_ns && ts_init > rt->session_ns - SESSION_BACK_NS))
        return;
    rt->session_ns = ts_init;
    rt->session_at_ns = keel_mono_ns();
}

/* Before the first record the machine's clock is all there is. */
int64_t keel_session_ns(struct keel_rt *rt)
{
    if (rt->session_ns == 0)
        return keel_wall_ns();
    return rt->session_ns + (keel_sources_at_max(rt) ? 0 : keel_mono_ns() - rt->session_at_ns);
}

/* ---- timers of the table ---- */

static void timer_settled(void *ctx, struct keel_call *pub, enum keel_status st)
{
    struct timer_row *t = ctx;
    t->busy = false;
    if (st != KEEL_OK)
        keel_log_often(KEEL_LOG_WARN, "timer_failed", "op=%s status=%s detail=%s", t->op->id, keel_status_name(st),
                       keel_call_problem(pub));
}

static void on_row_timer(uv_timer_t *h)
{
    struct timer_row *t = h->data;
    keel_tick_in(t->rt, h, on_row_timer, (uint64_t)t->op->on.every_ms);
    if (t->busy)
        return;
    struct call *c = open_call(t->rt, t->op, NULL);
    if (c == NULL)
        return;
    t->busy = true;
    c->settled_fn = timer_settled;
    c->ctx = t;
    c->internal = true;
    set_deadline(c, c->opened_ns, INT64_MAX);
    enum keel_status st = admit(c);
    if (st == KEEL_OK)
        start(c);
    else
        finish(c, st);
}

void keel_timers_start(struct keel_rt *rt)
{
    struct keel_calls *cs = rt->calls;
    cs->timers = keel_alloc(rt->n_ops, sizeof *cs->timers);
    for (size_t i = 0; i < rt->n_ops; i++) {
        if (rt->ops[i].on.kind != KEEL_ON_TIMER)
            continue;
        struct timer_row *t = &cs->timers[cs->n_timers++];
        t->rt = rt;
        t->op = &rt->ops[i];
        t->handle.data = t;
        uv_timer_init(rt->loop, &t->handle);
        keel_tick_in(rt, &t->handle, on_row_timer, (uint64_t)t->op->on.every_ms);
    }
}

void keel_timers_stop(struct keel_rt *rt)
{
    for (size_t i = 0; i < rt->calls->n_timers; i++)
        uv_timer_stop(&rt->calls->timers[i].handle);
}

/* ---- opening and closing ---- */

struct keel_ticks *keel_call_ticks(struct keel_rt *rt)
{
    return rt->calls->ticks;
}

void keel_calls_open(struct keel_rt *rt)
{
    struct keel_calls *cs = keel_alloc(1, sizeof *cs);
    uint64_t seed = 0;
    cs->max = (size_t)rt->core->max_calls;
    cs->slot = keel_alloc(cs->max + EXTRA_SLOTS, sizeof(struct call *));
    for (cs->n_buckets = 64; cs->n_buckets < cs->max; cs->n_buckets *= 2) {
    }
    cs->bucket = keel_alloc(cs->n_buckets, sizeof(struct call *));
    cs->scratch = keel_arena_new(4096);
    cs->ticks = keel_ticks_open(rt->loop);
    keel_assert(getrandom(&seed, sizeof seed, 0) == (ssize_t)sizeof seed);
    keel_rng_seed(&cs->rng, seed);
    uv_idle_init(rt->loop, &cs->idle);
    cs->check.data = cs;
    uv_check_init(rt->loop, &cs->check);
    uv_check_start(&cs->check, on_check);
    rt->calls = cs;
}

static void abort_call(struct call *c)
{
    c->failed = KEEL_OK;
    c->members = NULL;
    if (c->committed && !c->answered && c->answer_fn != NULL)
        keel_call_answer_late(c);
    if (c->phase == WORKING && !work_cancelled(c)) {
        abandon(c, KEEL_DRAINING);
        return;
    }
    c->token = 0;
    finish(c, KEEL_DRAINING);
}

void keel_calls_abort(struct keel_rt *rt)
{
    for (size_t i = 0; i < rt->calls->n_slots; i++) {
        struct call *c = rt->calls->slot[i];
        if (c->abandoned && c->phase == PARKED)
            drop(c);
        else if (c->phase != FREE && !c->abandoned)
            abort_call(c);
    }
}

static void on_closed(uv_handle_t *h)
{
    struct keel_calls *cs = h->data;
    if (--cs->n_handles > 0)
        return;
    for (size_t i = 0; i < cs->n_slots; i++) {
        keel_arena_free(cs->slot[i]->pub.arena);
        keel_free(cs->slot[i]);
    }
    keel_free(cs->slot);
    keel_free(cs->bucket);
    keel_free(cs->timers);
    keel_arena_free(cs->scratch);
    keel_free(cs);
}

static void close_handle(struct keel_calls *cs, uv_handle_t *h)
{
    h->data = cs;
    cs->n_handles++;
    uv_close(h, on_closed);
}

void keel_calls_close(struct keel_rt *rt)
{
    struct keel_calls *cs = rt->calls;
    keel_assert(cs->live == 0);
    keel_ticks_close(cs->ticks);
    for (size_t i = 0; i < cs->n_timers; i++)
        close_handle(cs, (uv_handle_t *)&cs->timers[i].handle);
    close_handle(cs, (uv_handle_t *)&cs->idle);
    close_handle(cs, (uv_handle_t *)&cs->check);
    rt->calls = NULL;
}
