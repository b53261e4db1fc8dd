/*
 * The guard of hybrid mode. Every call passes one chain: its deadline, the load against its
 * criticality, rate limits, the bulkhead of its level, the breaker of its target. Every settled call teaches the breaker and the tracker of
 * that target. The worker's queues are emptied by criticality, with a thread kept for urgent work and
 * a bound on how long anything can be passed over.
 *
 * A target is an op, an alternative of an op, or a dependency. Only ops are shed: the other two are
 * steps of a call that was let in already. What must not be lost (KEEL_MUST) is never refused; its
 * breaker still learns, so that an operator sees its state.
 */
#include <string.h>

#include "guard_hybrid.h"
#include "keel/arena.h"

#define MS INT64_C(1000000)

/* What a level means under load: the delay of queued work and the lag of the loop from which it is refused. */
static const struct { int64_t queue_delay_ns, loop_lag_ns; } shed_above[] = {
    [KEEL_LOW] = {200 * MS, 20 * MS},
    [KEEL_NORMAL] = {500 * MS, 100 * MS},
    [KEEL_HIGH] = {2000 * MS, 500 * MS},
    [KEEL_CRITICAL] = {INT64_MAX, 2000 * MS}, /* it has a thread of its own, so bulk work in the queue says nothing */
};
#define SHED_RETRY_NS (1000 * MS)

/* A waiting lane gets its turn when this many jobs of more critical lanes have gone before it in a row. */
#define PASSED_OVER_MAX 16

#define TIMEOUT_FACTOR 4 /* of the deadline: when a call that never ends is settled as timeout */

/* ---- open and close ---- */

/* The engine's table, with the operator's options over it. */
static struct keel_breaker_row breaker_row(const struct keel_engine *engine, const struct keel_breaker_options *o)
{
    struct keel_breaker_row r = engine->breaker;
    if (o != NULL && o->breaker_failures > 0)
        r.failures = (uint32_t)o->breaker_failures;
    if (o != NULL && o->breaker_successes > 0)
        r.successes = (uint32_t)o->breaker_successes;
    if (o != NULL && o->breaker_recovery_ms > 0)
        r.recovery_ms = o->breaker_recovery_ms;
    if (r.failures == 0)
        r.failures = 5;
    if (r.recovery_ms == 0)
        r.recovery_ms = 60000;
    if (r.successes == 0)
        r.successes = 3;
    if (r.call_timeout_ms == 0)
        r.call_timeout_ms = 30000;
    return r;
}

static int64_t hybrid_budget(void *self, const struct keel_op *op)
{
    const struct hybrid *g = self;
    if ((op->flags & KEEL_MUST) != 0)
        return INT64_MAX;
    return op->deadline_ms > 0 ? (int64_t)(op->deadline_ms * (double)MS) : g->row.call_timeout_ms * MS;
}

#define RATE_OFF 2.0 /* no share is as large */

static void apply_options(struct keel_breaker_conf *c, const struct keel_breaker_options *o)
{
    keel_breaker_window_parse(o->breaker_window, c);
    c->min_calls = (uint32_t)o->breaker_min_calls;
    c->failure_rate = o->breaker_failure_rate > 0 ? o->breaker_failure_rate : RATE_OFF;
    c->slow_rate = o->breaker_slow_rate > 0 ? o->breaker_slow_rate : RATE_OFF;
    if (o->breaker_recovery_max_ms > 0)
        c->recovery_cap_ns = o->breaker_recovery_max_ms * MS;
    c->permits = (uint32_t)o->breaker_permits;
    if (o->breaker_half_open_ms > 0)
        c->half_open_ns = o->breaker_half_open_ms * MS;
    c->half_open_next = o->breaker_half_open_next == 0 ? KEEL_OPENED : KEEL_CLOSED;
}

static struct keel_breaker_conf breaker_conf(struct hybrid *g, const struct keel_target_conf *t, uint64_t seed)
{
    struct keel_breaker_conf c = keel_breaker_defaults();
    c.failures = g->row.failures;
    c.successes = g->row.successes;
    c.recovery_ns = g->row.recovery_ms * MS;
    c.recovery_cap_ns = 8 * c.recovery_ns;
    c.permit_ns = g->row.call_timeout_ms * MS;
    /* The verdict on a probe that hangs comes late; its permit must still be good then. */
    if (t->op != NULL && t->op->deadline_ms > 0)
        c.permit_ns += TIMEOUT_FACTOR * (int64_t)(t->op->deadline_ms * (double)MS);
    c.half_open_ns = 2 * c.permit_ns;
    c.seed = seed;
    if (g->env.breaker != NULL)
        apply_options(&c, g->env.breaker);
    return c;
}

static bool has_breaker(const struct keel_op *op)
{
    switch (op->on.kind) {
    case KEEL_ON_HTTP:
    case KEEL_ON_TOPIC:
    case KEEL_ON_CALL:
    case KEEL_ON_SOURCE:
    case KEEL_ON_TIMER:
        return true;
    default:
        return false;
    }
}

/* By index of the option's names. */
static const uint8_t start_mode[] = {KEEL_MODE_NORMAL, KEEL_MODE_DISABLED, KEEL_MODE_METRICS_ONLY};

static void target_init(struct hybrid *g, struct target *t, const struct keel_target_conf *conf, uint64_t seed)
{
    const struct keel_op *op = conf->op;
    t->conf = conf;
    t->tracked = op == NULL || (op->flags & KEEL_PREBUILT) == 0;
    t->guarded = t->tracked && (op == NULL || has_breaker(op));
    t->must = op != NULL && (op->flags & KEEL_MUST) != 0;
    t->is_op = op != NULL && strcmp(conf->name, op->id) == 0;
    t->is_alternative = op != NULL && !t->is_op;
    /* For what the engine asks of itself nobody waits: a replay at full speed makes it queue, which is no fault of the op. */
    t->slow_ns = op != NULL && op->on.kind == KEEL_ON_CALL ? 0 : conf->target_ns;
    if (t->tracked)
        t->tracker = keel_tracker_new(conf->target_ns);
    struct keel_breaker_conf c = breaker_conf(g, conf, seed);
    keel_breaker_init(&t->breaker, &c);
    if (g->env.breaker != NULL)
        t->breaker.mode = start_mode[g->env.breaker->breaker_mode];
}

static const struct keel_target_conf own_conf[KEEL_N_OWN] = {
    [KEEL_OWN_LOOP_LAG] = {.name = "loop_lag"},
    [KEEL_OWN_QUEUE_DELAY] = {.name = "queue_delay"},
};

static enum keel_status hybrid_open(const struct keel_guard_env *env, void **self)
{
    struct hybrid *g = keel_alloc(1, sizeof(*g));
    g->env = *env;
    g->row = breaker_row(env->engine, env->breaker);
    g->targets = keel_alloc(env->n_targets, sizeof(*g->targets));
    for (uint32_t i = 0; i < env->n_targets; i++)
        target_init(g, &g->targets[i], &env->targets[i], env->seed + i);
    keel_gate_open(g);
    for (uint32_t i = 0; i < KEEL_N_OWN; i++)
        g->own[i] = (struct target){.conf = &own_conf[i], .tracked = true, .tracker = keel_tracker_new(0)};
    *self = g;
    return KEEL_OK;
}

static void hybrid_close(void *self)
{
    struct hybrid *g = self;
    if (g == NULL)
        return;
    keel_gate_close(g);
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        keel_tracker_free(g->targets[i].tracker);
    for (uint32_t i = 0; i < KEEL_N_OWN; i++)
        keel_tracker_free(g->own[i].tracker);
    keel_free(g->targets);
    keel_free(g);
}

/* ---- admit and settle ---- */

static void report_transitions(struct hybrid *g, struct target *t)
{
    const struct keel_breaker *b = &t->breaker;
    for (; t->seen_transitions < b->n_transitions; t->seen_transitions++) {
        const struct keel_breaker_event *ev = &b->last[t->seen_transitions % KEEL_COUNT(b->last)];
        t->openings += ev->to == KEEL_OPENED;
        t->transitions[ev->from][ev->to]++;
        if (g->env.transition != NULL)
            g->env.transition(g->env.ctx, t->conf->name, ev);
    }
}

static enum keel_status refuse(struct keel_refusal *why, enum keel_status st, const char *reason, int64_t retry_ns)
{
    *why = (struct keel_refusal){st, reason, retry_ns};
    return st;
}

/* Why the load forbids a call of this level, or NULL. */
static const char *shed_reason(const struct keel_load *load, enum keel_level level)
{
    if (load->loop_lag_ns > shed_above[level].loop_lag_ns)
        return "loop_lag";
    return load->queue_delay_ns > shed_above[level].queue_delay_ns ? "queue_delay" : NULL;
}

static enum keel_status pass_breaker(struct hybrid *g, struct target *t, int64_t now_ns,
                                     struct keel_breaker_ticket *ticket, struct keel_refusal *why)
{
    struct keel_breaker *b = &t->breaker;
    /* It runs all the same, on a ticket that counts nowhere. */
    if (!t->guarded || (t->must && !keel_breaker_would_admit(b, now_ns))) {
        *ticket = (struct keel_breaker_ticket){0, -1, now_ns};
        return KEEL_OK;
    }
    int64_t retry_ns = 0;
    bool let_in = keel_breaker_admit(b, now_ns, ticket, &retry_ns);
    if (b->n_transitions != t->seen_transitions)
        report_transitions(g, t);
    if (let_in)
        return KEEL_OK;
    return refuse(why, KEEL_OPEN, b->mode == KEEL_MODE_FORCED_OPEN ? "forced_open" : "circuit_open", retry_ns);
}

/* No more places for the level; those that are more critical have theirs. */
static bool is_full(const struct hybrid *g, enum keel_level level)
{
    uint32_t busy = 0;
    for (int lane = (int)level; lane < 4; lane++)
        busy += g->busy[lane];
    return busy >= g->places[level];
}

static enum keel_status pass_bounds(struct hybrid *g, struct target *t, uint64_t client, int64_t now_ns,
                                    struct keel_refusal *why)
{
    enum keel_status st = t->gate.bounds ? keel_gate_bounds(g, t, client, now_ns, why) : KEEL_OK;
    return st == KEEL_OK && is_full(g, t->conf->level) ? keel_gate_full(t, why) : st;
}

static enum keel_status hybrid_admit_client(void *self, uint32_t target, uint64_t client, int64_t now_ns,
                                            int64_t left_ns, struct keel_permit *permit, struct keel_refusal *why)
{
    struct hybrid *g = self;
    keel_assert(target < g->env.n_targets);
    struct target *t = &g->targets[target];
    struct keel_permit p = {target, {0, -1, now_ns}, now_ns};
    if (!t->tracked) {
        *permit = p;
        return KEEL_OK;
    }
    if (!t->must && left_ns <= 0) {
        keel_tracker_count(t->tracker, now_ns, KEEL_OUT_CANCELLED);
        return refuse(why, KEEL_CANCELLED, "deadline", 0);
    }
    const char *shed = t->is_op && !t->must ? shed_reason(g->env.load, t->conf->level) : NULL;
    if (shed != NULL) {
        t->shed++;
        keel_tracker_count(t->tracker, now_ns, KEEL_OUT_REJECTED);
        return refuse(why, KEEL_SHED, shed, SHED_RETRY_NS);
    }
    enum keel_status st = t->is_op && !t->must ? pass_bounds(g, t, client, now_ns, why) : KEEL_OK;
    if (st == KEEL_OK)
        st = pass_breaker(g, t, now_ns, &p.ticket, why);
    if (st != KEEL_OK) {
        t->rejected += st != KEEL_SHED;
        t->shed += st == KEEL_SHED;
        keel_tracker_count(t->tracker, now_ns, KEEL_OUT_REJECTED);
        return st;
    }
    t->admitted++;
    t->in_flight++;
    g->busy[t->conf->level] += t->is_op;
    *permit = p;
    return KEEL_OK;
}

static enum keel_status hybrid_admit(void *self, uint32_t target, int64_t now_ns, int64_t left_ns,
                                     struct keel_permit *permit, struct keel_refusal *why)
{
    return hybrid_admit_client(self, target, 0, now_ns, left_ns, permit, why);
}

static void hybrid_settle(void *self, struct keel_permit permit, enum keel_outcome o, int64_t latency_ns,
                          int64_t now_ns)
{
    struct hybrid *g = self;
    keel_assert(permit.target < g->env.n_targets);
    struct target *t = &g->targets[permit.target];
    if (!t->tracked)
        return;
    keel_assert(t->in_flight > 0);
    t->in_flight--;
    g->now_ns = now_ns;
    g->busy[t->conf->level] -= t->is_op;
    if (t->gate.learns)
        keel_gate_settled(t, permit, o, latency_ns, now_ns);
    if (latency_ns >= 0)
        keel_tracker_add(t->tracker, now_ns, (uint64_t)latency_ns, o);
    else
        keel_tracker_count(t->tracker, now_ns, o);
    if (!t->guarded)
        return;
    /* In time for its caller, but over its target: the answer counts as ok, the breaker hears of it. It does not hear of time
     * that was lost before the call was let in. */
    int64_t own_ns = now_ns - permit.start_ns < latency_ns ? now_ns - permit.start_ns : latency_ns;
    if (o == KEEL_OUT_OK && t->slow_ns != 0 && own_ns > 0 && (uint64_t)own_ns > t->slow_ns)
        o = KEEL_OUT_SLOW;
    keel_breaker_settle(&t->breaker, permit.ticket, o, now_ns);
    if (t->breaker.n_transitions != t->seen_transitions)
        report_transitions(g, t);
}

static void hybrid_refused(void *self, uint32_t target, enum keel_outcome o)
{
    struct hybrid *g = self;
    keel_assert(target < g->env.n_targets && (uint32_t)o < KEEL_N_OUTCOME);
    struct target *t = &g->targets[target];
    if (!t->tracked)
        return;
    if (o == KEEL_OUT_REJECTED)
        t->rejected++;
    keel_tracker_count(t->tracker, g->now_ns, o);
}

static void hybrid_tick(void *self, int64_t now_ns)
{
    struct hybrid *g = self;
    g->now_ns = now_ns;
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        struct target *t = &g->targets[i];
        if (!t->guarded || t->breaker.state == KEEL_CLOSED)
            continue;
        keel_breaker_tick(&t->breaker, now_ns);
        report_transitions(g, t);
    }
}

static void hybrid_observe(void *self, enum keel_own what, int64_t ns, int64_t now_ns)
{
    struct hybrid *g = self;
    keel_tracker_add(g->own[what].tracker, now_ns, ns > 0 ? (uint64_t)ns : 0, KEEL_OUT_OK);
}

static enum keel_status hybrid_change(void *self, const char *target, const char *change, int64_t now_ns)
{
    struct hybrid *g = self;
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        struct target *t = &g->targets[i];
        if (!t->guarded || strcmp(t->conf->name, target) != 0)
            continue;
        if (strcmp(change, "reset") == 0)
            keel_breaker_reset(&t->breaker, now_ns);
        else if (strcmp(change, "force-open") == 0)
            keel_breaker_set_mode(&t->breaker, KEEL_MODE_FORCED_OPEN, now_ns);
        else if (strcmp(change, "disable") == 0)
            keel_breaker_set_mode(&t->breaker, KEEL_MODE_DISABLED, now_ns);
        else if (strcmp(change, "enable") == 0)
            keel_breaker_set_mode(&t->breaker, KEEL_MODE_NORMAL, now_ns);
        else if (strcmp(change, "metrics-only") == 0)
            keel_breaker_set_mode(&t->breaker, KEEL_MODE_METRICS_ONLY, now_ns);
        else
            return KEEL_NOTFOUND;
        report_transitions(g, t);
        return KEEL_OK;
    }
    return KEEL_NOTFOUND;
}

/* ---- the worker's queues ---- */

static bool may_run(const struct keel_queue *q, const struct keel_job *job)
{
    return job != NULL && (!keel_job_is_bulk(job) || q->running_bulk < keel_bulk_places(q));
}

/* The lane whose first job runs next, or -1. */
static int pick_lane(const struct hybrid *g, const struct keel_queue *q)
{
    for (int lane = 1; lane < 4; lane++)
        if (g->passed_over[lane] >= PASSED_OVER_MAX && may_run(q, q->head[lane]))
            return lane;
    for (int lane = 0; lane < 4; lane++)
        if (q->head[lane] != NULL && !keel_job_is_bulk(q->head[lane]))
            return lane;
    for (int lane = KEEL_NORMAL; lane < 4; lane++)
        if (may_run(q, q->head[lane]))
            return lane;
    return -1;
}

static struct keel_job *hybrid_next_job(void *self, struct keel_queue *q, int64_t now_ns)
{
    struct hybrid *g = self;
    (void)now_ns; /* a job whose deadline has passed is handed out too: the worker cancels it */
    if (q->n == 0 || q->running >= q->threads)
        return NULL;
    int lane = pick_lane(g, q);
    if (lane < 0)
        return NULL;
    g->passed_over[lane] = 0;
    for (int other = lane + 1; other < 4; other++)
        g->passed_over[other] = q->head[other] != NULL ? g->passed_over[other] + 1 : 0;
    struct keel_job *job = q->head[lane];
    q->head[lane] = job->next;
    if (job->next == NULL)
        q->tail[lane] = NULL;
    job->next = NULL;
    q->n--;
    return job;
}

const struct keel_guard keel_guard_hybrid = {
    .name = "hybrid",
    .hybrid = true,
    .open = hybrid_open,
    .budget_ns = hybrid_budget,
    .admit = hybrid_admit,
    .admit_client = hybrid_admit_client,
    .pick = keel_hybrid_pick,
    .next_job = hybrid_next_job,
    .settle = hybrid_settle,
    .refused = hybrid_refused,
    .health = keel_hybrid_health,
    .performance = keel_hybrid_performance,
    .breakers = keel_hybrid_breakers,
    .change = hybrid_change,
    .metrics = keel_hybrid_metrics,
    .tick = hybrid_tick,
    .observe = hybrid_observe,
    .close = hybrid_close,
};
