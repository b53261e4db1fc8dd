/*
 * The guard of hybrid mode. Every call passes one chain: its deadline, the load against its
 * criticality, the breaker of its target. Every settled call teaches the breaker and the tracker of
 * that target. The worker's queues are emptied by criticality, with a thread kept for urgent work and
 * a bound on how long anything can be passed over.
 *
 * A target is an op, an alternative of an op, or a dependency. Only ops are shed: the other two are
 * steps of a call that was let in already. What must not be lost (KEEL_MUST) is never refused; its
 * breaker still learns, so that an operator sees its state.
 */
#include <inttypes.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/guard.h"
#include "keel/text.h"

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

/* Nominal bounds of the duration histogram, each moved up to the bucket bound at or above it: the counts are exact. */
static const uint64_t le_us[] = {
    5,     10,    25,     50,     100,    250,     500,     1000,    2500,     5000,     10000,
    25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000,
};

static const char *const outcome_name[KEEL_N_OUTCOME] = {
    "ok", "slow", "failure", "timeout", "rejected", "cancelled", "client",
};
static const char *const state_name[] = {"closed", "open", "half_open"};
static const char *const mode_name[] = {"normal", "forced_open", "disabled"};

struct target {
    const struct keel_target_conf *conf; /* borrowed, of the process' life */
    bool tracked, guarded, must, is_op, is_alternative;
    struct keel_breaker breaker;
    struct keel_tracker *tracker;
    uint64_t seen_transitions;
    uint64_t admitted, rejected, shed, openings;
    uint64_t in_flight;
};

struct hybrid {
    struct keel_guard_env env;
    struct keel_breaker_row row; /* the engine's, defaults filled in */
    struct target *targets;
    uint32_t passed_over[4]; /* a lane's, since its last turn */
};

/* ---- open and close ---- */

static struct keel_breaker_row breaker_row(const struct keel_engine *engine)
{
    struct keel_breaker_row r = engine->breaker;
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
    return (op->deadline_ms != 0 ? op->deadline_ms : g->row.call_timeout_ms) * MS;
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
        c.permit_ns += TIMEOUT_FACTOR * t->op->deadline_ms * MS;
    c.seed = seed;
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

static void target_init(struct hybrid *g, struct target *t, const struct keel_target_conf *conf, uint64_t seed)
{
    const struct keel_op *op = conf->op;
    t->conf = conf;
    t->tracked = op == NULL || (op->flags & KEEL_PREBUILT) == 0;
    t->guarded = t->tracked && (op == NULL || has_breaker(op));
    t->must = op != NULL && (op->flags & KEEL_MUST) != 0;
    t->is_op = op != NULL && strcmp(conf->name, op->id) == 0;
    t->is_alternative = op != NULL && !t->is_op;
    if (t->tracked)
        t->tracker = keel_tracker_new(conf->target_ns);
    struct keel_breaker_conf c = breaker_conf(g, conf, seed);
    keel_breaker_init(&t->breaker, &c);
}

static enum keel_status hybrid_open(const struct keel_guard_env *env, void **self)
{
    struct hybrid *g = keel_alloc(1, sizeof(*g));
    g->env = *env;
    g->row = breaker_row(env->engine);
    g->targets = keel_alloc(env->n_targets, sizeof(*g->targets));
    for (uint32_t i = 0; i < env->n_targets; i++)
        target_init(g, &g->targets[i], &env->targets[i], env->seed + i);
    *self = g;
    return KEEL_OK;
}

static void hybrid_close(void *self)
{
    struct hybrid *g = self;
    if (g == NULL)
        return;
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        keel_tracker_free(g->targets[i].tracker);
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

static enum keel_status hybrid_admit(void *self, uint32_t target, int64_t now_ns, int64_t left_ns,
                                     struct keel_permit *permit, struct keel_refusal *why)
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
        keel_tracker_count(t->tracker, KEEL_OUT_CANCELLED);
        return refuse(why, KEEL_CANCELLED, "deadline", 0);
    }
    const char *shed = t->is_op && !t->must ? shed_reason(g->env.load, t->conf->level) : NULL;
    if (shed != NULL) {
        t->shed++;
        keel_tracker_count(t->tracker, KEEL_OUT_REJECTED);
        return refuse(why, KEEL_SHED, shed, SHED_RETRY_NS);
    }
    enum keel_status st = pass_breaker(g, t, now_ns, &p.ticket, why);
    if (st != KEEL_OK) {
        t->rejected++;
        keel_tracker_count(t->tracker, KEEL_OUT_REJECTED);
        return st;
    }
    t->admitted++;
    t->in_flight++;
    *permit = p;
    return KEEL_OK;
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
    if (latency_ns >= 0)
        keel_tracker_add(t->tracker, now_ns, (uint64_t)latency_ns, o);
    else
        keel_tracker_count(t->tracker, o);
    if (!t->guarded)
        return;
    /* In time for its caller, but over its target: the answer counts as ok, the breaker hears of it. */
    uint64_t target_ns = t->conf->target_ns;
    if (o == KEEL_OUT_OK && target_ns != 0 && latency_ns > 0 && (uint64_t)latency_ns > target_ns)
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
    keel_tracker_count(t->tracker, o);
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
        else
            return KEEL_NOTFOUND;
        report_transitions(g, t);
        return KEEL_OK;
    }
    return KEEL_NOTFOUND;
}

/* ---- the worker's queues ---- */

/* What must not be lost is as urgent as anything, in whichever lane it was filed. */
static bool is_bulk(const struct keel_job *job)
{
    return job->level >= KEEL_NORMAL && !job->must;
}

static bool may_run(const struct keel_queue *q, const struct keel_job *job)
{
    uint32_t places = q->threads > 1 ? q->threads - 1 : 1; /* the last thread is for urgent work */
    return job != NULL && (!is_bulk(job) || q->running_bulk < places);
}

/* The lane whose first job runs next, or -1. */
static int pick_lane(const struct hybrid *g, const struct keel_queue *q)
{
    for (int lane = 1; lane < 4; lane++)
        if (g->passed_over[lane] >= PASSED_OVER_MAX && may_run(q, q->head[lane]))
            return lane;
    for (int lane = 0; lane < 4; lane++)
        if (q->head[lane] != NULL && !is_bulk(q->head[lane]))
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

/* ---- reports ---- */

static void write_us(struct keel_json *w, const char *key, double ns)
{
    keel_json_fix(w, key, ns / 1e3, 3);
}

/* Stamps are kept on the monotonic clock; 0 is "never". */
static void write_stamp(struct keel_json *w, const char *key, int64_t at_ns, int64_t now_ns, int64_t wall_ns)
{
    if (at_ns == 0)
        keel_json_null(w, key);
    else
        keel_json_time(w, key, wall_ns + (at_ns - now_ns));
}

struct totals {
    uint64_t outcomes[KEEL_N_OUTCOME];
    uint64_t count, errors, rejected, shed, in_flight;
    uint64_t measured, with_target, over; /* with_target: measured calls that have a target */
    double sum_ns;
};

static void totals_add(struct totals *s, const struct target *t)
{
    const struct keel_hist *h = keel_tracker_hist(t->tracker);
    for (int o = 0; o < KEEL_N_OUTCOME; o++) {
        uint64_t n = keel_tracker_outcome(t->tracker, (enum keel_outcome)o);
        s->outcomes[o] += n;
        s->count += n;
    }
    s->errors = s->outcomes[KEEL_OUT_FAILURE] + s->outcomes[KEEL_OUT_TIMEOUT];
    s->rejected += t->rejected;
    s->shed += t->shed;
    s->in_flight += t->in_flight;
    s->measured += h->n;
    s->sum_ns += h->sum_ns;
    if (keel_tracker_target(t->tracker) != 0) {
        s->with_target += h->n;
        s->over += h->over;
    }
}

static struct totals totals_of(const struct target *t)
{
    struct totals s = {0};
    totals_add(&s, t);
    return s;
}

static struct totals totals_of_ops(const struct hybrid *g)
{
    struct totals s = {0};
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].is_op && g->targets[i].tracked)
            totals_add(&s, &g->targets[i]);
    return s;
}

static void write_counts(struct keel_json *w, const struct totals *s)
{
    keel_json_u64(w, "count", s->count);
    keel_json_u64(w, "errors", s->errors);
}

static void write_outcomes(struct keel_json *w, const struct totals *s)
{
    keel_json_obj(w, "outcomes");
    for (int o = 0; o < KEEL_N_OUTCOME; o++)
        keel_json_u64(w, outcome_name[o], s->outcomes[o]);
    keel_json_end(w);
    keel_json_u64(w, "rejected", s->rejected);
    keel_json_u64(w, "shed", s->shed);
    keel_json_u64(w, "timeouts", s->outcomes[KEEL_OUT_TIMEOUT]);
    keel_json_u64(w, "in_flight", s->in_flight);
}

/* Share of the measured calls that kept their target: exact, null when there is none to judge. */
static void write_within(struct keel_json *w, const struct totals *s)
{
    if (s->with_target == 0)
        keel_json_null(w, "within_target");
    else
        keel_json_f64(w, "within_target", (double)(s->with_target - s->over) / (double)s->with_target);
}

static void write_target(struct keel_json *w, const struct target *t)
{
    if (t->conf->target_ns == 0)
        keel_json_null(w, "target_us");
    else
        write_us(w, "target_us", (double)t->conf->target_ns);
}

static void write_view(struct keel_json *w, const char *key, struct keel_tracker *t, int window_s, int64_t now_ns)
{
    struct keel_track_view v;
    keel_tracker_view(t, now_ns, window_s, &v);
    keel_json_obj(w, key);
    keel_json_u64(w, "count", v.n);
    write_us(w, "p50_us", (double)v.p50_ns);
    write_us(w, "p90_us", (double)v.p90_ns);
    write_us(w, "p95_us", (double)v.p95_ns);
    write_us(w, "p99_us", (double)v.p99_ns);
    write_us(w, "p999_us", (double)v.p999_ns);
    write_us(w, "max_us", (double)v.max_ns);
    write_us(w, "mean_us", v.mean_ns);
    keel_json_end(w);
}

static void write_target_performance(struct keel_json *w, const struct target *t, int64_t now_ns)
{
    struct totals s = totals_of(t);
    keel_json_obj(w, t->conf->name);
    write_counts(w, &s);
    write_outcomes(w, &s);
    write_view(w, "all", t->tracker, 0, now_ns);
    write_view(w, "last_10s", t->tracker, 10, now_ns);
    write_view(w, "last_60s", t->tracker, 60, now_ns);
    write_target(w, t);
    write_within(w, &s);
    keel_json_u64(w, "over_target", s.over);
    keel_json_end(w);
}

/* How bad a breaker's state is for those who depend on it. */
static int badness(const struct keel_breaker *b)
{
    if (b->mode == KEEL_MODE_DISABLED)
        return 0;
    return b->state == KEEL_OPENED ? 3 : b->state == KEEL_HALF_OPEN ? 2 : 1;
}

static bool is_worse(const struct keel_breaker *a, const struct keel_breaker *b)
{
    if (badness(a) != badness(b))
        return badness(a) > badness(b);
    if (a->consecutive_failures != b->consecutive_failures)
        return a->consecutive_failures > b->consecutive_failures;
    return a->last_failure_ns > b->last_failure_ns;
}

/* NULL when nothing has a breaker. */
static const struct target *worst_of(const struct hybrid *g)
{
    const struct target *worst = NULL;
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        const struct target *t = &g->targets[i];
        if (t->guarded && (worst == NULL || is_worse(&t->breaker, &worst->breaker)))
            worst = t;
    }
    return worst;
}

static void hybrid_health(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
{
    const struct hybrid *g = self;
    const struct target *worst = worst_of(g);
    keel_json_obj(w, "circuit_breaker");
    keel_json_str(w, "state", worst != NULL ? keel_breaker_state_name(&worst->breaker) : "closed");
    keel_json_u64(w, "failure_count", worst != NULL ? worst->breaker.consecutive_failures : 0);
    write_stamp(w, "last_failure_time", worst != NULL ? worst->breaker.last_failure_ns : 0, now_ns, wall_ns);
    keel_json_end(w);

    keel_json_obj(w, "performance");
    keel_json_obj(w, "operations");
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        const struct target *t = &g->targets[i];
        if (!t->is_op || !t->tracked)
            continue;
        struct totals s = totals_of(t);
        const struct keel_hist *h = keel_tracker_hist(t->tracker);
        keel_json_obj(w, t->conf->name);
        write_counts(w, &s);
        write_us(w, "p50_us", (double)keel_hist_quantile(h, 0.5));
        write_us(w, "p99_us", (double)keel_hist_quantile(h, 0.99));
        write_target(w, t);
        write_within(w, &s);
        keel_json_end(w);
    }
    keel_json_end(w);
    struct totals all = totals_of_ops(g);
    keel_json_obj(w, "overall");
    write_counts(w, &all);
    write_within(w, &all);
    keel_json_end(w);
    keel_json_end(w);
}

/* Percent of the calls that ran to a verdict; null when none did. */
static void write_success(struct keel_json *w, const struct totals *s)
{
    uint64_t good = s->outcomes[KEEL_OUT_OK] + s->outcomes[KEEL_OUT_SLOW];
    if (good + s->errors == 0)
        keel_json_null(w, "success_rate");
    else
        keel_json_f64(w, "success_rate", 100 * (double)good / (double)(good + s->errors));
}

static void write_mean_ms(struct keel_json *w, const char *key, const struct totals *s)
{
    keel_json_fix(w, key, s->measured == 0 ? 0 : s->sum_ns / (double)s->measured / 1e6, 6);
}

static void write_worst_status(const struct hybrid *g, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
{
    const struct target *t = worst_of(g);
    if (t == NULL) {
        keel_json_null(w, "circuit_breaker_status");
        return;
    }
    const struct keel_breaker *b = &t->breaker;
    struct totals s = totals_of(t);
    keel_json_obj(w, "circuit_breaker_status");
    keel_json_str(w, "name", t->conf->name);
    keel_json_str(w, "state", keel_breaker_state_name(b));
    keel_json_obj(w, "metrics");
    keel_json_u64(w, "total_requests", s.count);
    write_success(w, &s);
    keel_json_f64(w, "failure_rate", 100 * keel_breaker_failure_rate(b));
    keel_json_u64(w, "consecutive_failures", b->consecutive_failures);
    write_mean_ms(w, "average_response_time_ms", &s);
    keel_json_u64(w, "state_changes", b->n_transitions);
    write_stamp(w, "last_failure_time", b->last_failure_ns, now_ns, wall_ns);
    keel_json_end(w);
    keel_json_obj(w, "config");
    keel_json_u64(w, "failure_threshold", g->row.failures);
    keel_json_fix(w, "recovery_timeout", (double)g->row.recovery_ms / 1e3, 3);
    keel_json_u64(w, "success_threshold", g->row.successes);
    keel_json_fix(w, "timeout", (double)g->row.call_timeout_ms / 1e3, 3);
    keel_json_end(w);
    keel_json_end(w);
}

/* The first version's names, from the same figures: percent, milliseconds, seconds. */
static void write_first_version(const struct hybrid *g, struct keel_json *w, const struct totals *all, int64_t now_ns,
                                int64_t wall_ns)
{
    uint64_t openings = 0, fallbacks = 0;
    keel_json_obj(w, "performance_summary");
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        const struct target *t = &g->targets[i];
        fallbacks += t->is_alternative ? t->admitted : 0;
        openings += t->openings;
        if (!t->is_op || !t->tracked)
            continue;
        struct totals s = totals_of(t);
        const struct keel_hist *h = keel_tracker_hist(t->tracker);
        keel_json_obj(w, t->conf->name);
        keel_json_u64(w, "total_operations", s.count);
        write_success(w, &s);
        write_mean_ms(w, "avg_latency_ms", &s);
        keel_json_fix(w, "p95_latency_ms", (double)keel_hist_quantile(h, 0.95) / 1e6, 6);
        keel_json_fix(w, "p99_latency_ms", (double)keel_hist_quantile(h, 0.99) / 1e6, 6);
        keel_json_end(w);
    }
    keel_json_u64(w, "circuit_breaker_activations", openings);
    keel_json_u64(w, "fallback_usage", fallbacks);
    keel_json_end(w);
    write_worst_status(g, w, now_ns, wall_ns);
    keel_json_u64(w, "active_operations", all->in_flight);
    keel_json_u64(w, "total_metrics", all->measured);
}

static void hybrid_performance(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
{
    const struct hybrid *g = self;
    keel_json_obj(w, "operations");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].is_op && g->targets[i].tracked)
            write_target_performance(w, &g->targets[i], now_ns);
    keel_json_end(w);

    keel_json_obj(w, "dependencies");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].conf->op == NULL)
            write_target_performance(w, &g->targets[i], now_ns);
    keel_json_end(w);

    struct totals all = totals_of_ops(g);
    keel_json_obj(w, "overall");
    write_counts(w, &all);
    write_outcomes(w, &all);
    write_us(w, "mean_us", all.measured == 0 ? 0 : all.sum_ns / (double)all.measured);
    write_within(w, &all);
    keel_json_u64(w, "over_target", all.over);
    keel_json_end(w);

    keel_json_obj(w, "fallbacks");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].is_alternative)
            keel_json_u64(w, g->targets[i].conf->name, g->targets[i].admitted);
    keel_json_end(w);
    write_first_version(g, w, &all, now_ns, wall_ns);
}

static void write_transitions(struct keel_json *w, const struct keel_breaker *b, int64_t now_ns, int64_t wall_ns)
{
    uint64_t kept = b->n_transitions < KEEL_COUNT(b->last) ? b->n_transitions : KEEL_COUNT(b->last);
    keel_json_arr(w, "transitions");
    for (uint64_t i = b->n_transitions - kept; i < b->n_transitions; i++) {
        const struct keel_breaker_event *ev = &b->last[i % KEEL_COUNT(b->last)];
        keel_json_obj(w, NULL);
        write_stamp(w, "at", ev->at_ns, now_ns, wall_ns);
        keel_json_str(w, "from", state_name[ev->from]);
        keel_json_str(w, "to", state_name[ev->to]);
        keel_json_str(w, "reason", ev->reason);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void write_breaker(struct keel_json *w, const struct target *t, int64_t now_ns, int64_t wall_ns)
{
    const struct keel_breaker *b = &t->breaker;
    uint32_t in_use = 0;
    for (uint32_t i = 0; i < b->conf.permits; i++)
        in_use += b->permit_expiry[i] > now_ns;
    bool waits = b->mode == KEEL_MODE_NORMAL && b->state == KEEL_OPENED;
    keel_json_obj(w, NULL);
    keel_json_str(w, "name", t->conf->name);
    keel_json_str(w, "state", keel_breaker_state_name(b));
    keel_json_str(w, "mode", mode_name[b->mode]);
    keel_json_u64(w, "consecutive_failures", b->consecutive_failures);
    keel_json_f64(w, "failure_rate", keel_breaker_failure_rate(b));
    keel_json_f64(w, "slow_rate", keel_breaker_slow_rate(b));
    keel_json_obj(w, "window");
    keel_json_u64(w, "size", b->conf.window);
    keel_json_u64(w, "calls", b->ring_n);
    keel_json_u64(w, "min_calls", b->conf.min_calls);
    keel_json_end(w);
    keel_json_obj(w, "permits");
    keel_json_u64(w, "limit", b->conf.permits);
    keel_json_u64(w, "in_use", in_use);
    keel_json_end(w);
    keel_json_u64(w, "failures", b->n_failures);
    keel_json_u64(w, "rejected", b->n_rejected);
    write_stamp(w, "last_failure_time", b->last_failure_ns, now_ns, wall_ns);
    write_stamp(w, "next_probe", waits ? b->retry_at_ns : 0, now_ns, wall_ns);
    write_transitions(w, b, now_ns, wall_ns);
    keel_json_end(w);
}

static void hybrid_breakers(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
{
    const struct hybrid *g = self;
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].guarded)
            write_breaker(w, &g->targets[i], now_ns, wall_ns);
}

/* ---- Prometheus ---- */

static void family(struct keel_text *out, const char *name, const char *type, const char *help)
{
    keel_text_add(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void metric_calls(const struct hybrid *g, struct keel_text *out, const char *engine)
{
    family(out, "keel_op_calls_total", "counter", "Calls by operation and outcome.");
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        const struct target *t = &g->targets[i];
        if (!t->tracked)
            continue;
        for (int o = 0; o < KEEL_N_OUTCOME; o++) {
            uint64_t n = keel_tracker_outcome(t->tracker, (enum keel_outcome)o);
            if (o == KEEL_OUT_OK || n != 0)
                keel_text_add(out, "keel_op_calls_total{engine=\"%s\",op=\"%s\",outcome=\"%s\"} %" PRIu64 "\n",
                              engine, t->conf->name, outcome_name[o], n);
        }
    }
}

static void metric_duration(const struct target *t, struct keel_text *out, const char *engine)
{
    const struct keel_hist *h = keel_tracker_hist(t->tracker);
    const char *name = t->conf->name;
    uint64_t below = 0;
    uint32_t next = 0;
    for (size_t e = 0; e < KEEL_COUNT(le_us); e++) {
        uint32_t last = keel_hist_index(le_us[e] * 1000);
        for (; next <= last; next++)
            below += h->count[next];
        keel_text_add(out, "keel_op_duration_seconds_bucket{engine=\"%s\",op=\"%s\",le=\"%.9f\"} %" PRIu64 "\n",
                      engine, name, (double)keel_hist_upper(last) / 1e9, below);
    }
    keel_text_add(out,
                  "keel_op_duration_seconds_bucket{engine=\"%s\",op=\"%s\",le=\"+Inf\"} %" PRIu64 "\n"
                  "keel_op_duration_seconds_sum{engine=\"%s\",op=\"%s\"} %.9f\n"
                  "keel_op_duration_seconds_count{engine=\"%s\",op=\"%s\"} %" PRIu64 "\n",
                  engine, name, h->n, engine, name, h->sum_ns / 1e9, engine, name, h->n);
}

static void hybrid_metrics(void *self, struct keel_text *out, const char *engine)
{
    const struct hybrid *g = self;
    metric_calls(g, out, engine);
    family(out, "keel_op_duration_seconds", "histogram", "Arrival to answer, of operations that were measured.");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].tracked && keel_tracker_hist(g->targets[i].tracker)->n != 0)
            metric_duration(&g->targets[i], out, engine);
    family(out, "keel_op_over_target_total", "counter", "Measured calls that took longer than their target.");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].tracked && keel_tracker_target(g->targets[i].tracker) != 0)
            keel_text_add(out, "keel_op_over_target_total{engine=\"%s\",op=\"%s\"} %" PRIu64 "\n", engine,
                          g->targets[i].conf->name, keel_tracker_hist(g->targets[i].tracker)->over);
    family(out, "keel_breaker_state", "gauge", "0 disabled, 1 closed, 2 half-open, 3 open.");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].guarded)
            keel_text_add(out, "keel_breaker_state{engine=\"%s\",target=\"%s\"} %d\n", engine,
                          g->targets[i].conf->name, badness(&g->targets[i].breaker));
}

const struct keel_guard keel_guard_hybrid = {
    .name = "hybrid",
    .hybrid = true,
    .open = hybrid_open,
    .budget_ns = hybrid_budget,
    .admit = hybrid_admit,
    .next_job = hybrid_next_job,
    .settle = hybrid_settle,
    .refused = hybrid_refused,
    .health = hybrid_health,
    .performance = hybrid_performance,
    .breakers = hybrid_breakers,
    .change = hybrid_change,
    .metrics = hybrid_metrics,
    .close = hybrid_close,
};
