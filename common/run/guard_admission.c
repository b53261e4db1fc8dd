/*
 * What the guard of hybrid mode lets in beyond the breakers: rates per client and per route, bulkheads by level, the
 * adaptive bound, and the choice among an op's alternatives. It also shows all of that.
 *
 * The bulkheads nest: a level may use its share of the call slots together with all that is less critical than it, so
 * whatever bulk work does, an eighth of the slots is left to critical calls alone.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "guard_hybrid.h"
#include "keel/arena.h"
#include "keel/text.h"
#include "rt.h"

#define MS INT64_C(1000000)
#define RETRY_NS (1000 * MS)

enum { LEVELS = 4, MOST_ALTERNATIVES = 32, AIMD_MIN = 4 };

static const uint32_t eighths[LEVELS] = {[KEEL_CRITICAL] = 8, [KEEL_HIGH] = 7, [KEEL_NORMAL] = 6, [KEEL_LOW] = 4};
static const char *const level_name[LEVELS] = {"critical", "high", "normal", "low"};
static const char *const reason_name[KEEL_N_GATE] = {
    [KEEL_GATE_CLIENT] = "client_rate",
    [KEEL_GATE_ROUTE] = "route_rate",
    [KEEL_GATE_BULKHEAD] = "bulkhead_full",
    [KEEL_GATE_CONCURRENCY] = "concurrency_limit",
};

/* An alternative that was passed over for its latency is tried again after this long: it may have become quicker. */
#define STALE_NS (30000 * MS)

/* ---- open and close ---- */

/* The engine's own rows over HTTP. The core's are for operators, who must get in when all else is limited. */
static bool is_limited(const struct hybrid *g, const struct target *t)
{
    return t->is_op && keel_is_limited(t->conf->op) && (size_t)(t - g->targets) < g->env.engine->n_ops;
}

void keel_gate_open(struct hybrid *g)
{
    static const struct keel_limits none = {.max_calls = UINT32_MAX};
    const struct keel_limits *l = g->env.limits != NULL ? g->env.limits : &none;
    for (int level = 0; level < LEVELS; level++)
        g->places[level] = level == KEEL_CRITICAL ? UINT32_MAX : (uint32_t)((uint64_t)l->max_calls * eighths[level] / 8);
    g->client_rate = l->client;
    if (l->client.gap_ns != 0)
        g->clients = keel_clients_new(g->env.seed);
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        struct target *t = &g->targets[i];
        if (l->route != NULL && t->is_op)
            t->gate.rate = l->route[i];
        t->gate.per_client = g->clients != NULL && is_limited(g, t);
        if (l->adaptive && is_limited(g, t) && t->conf->target_ns != 0) {
            uint32_t most = g->places[t->conf->level] < l->max_calls ? g->places[t->conf->level] : l->max_calls;
            t->gate.aimd = keel_alloc(1, sizeof *t->gate.aimd);
            keel_aimd_init(t->gate.aimd, AIMD_MIN, most, (int64_t)t->conf->target_ns);
        }
        t->gate.places = t->is_op ? t->conf->op->places : 0;
        t->gate.bounds =
            t->gate.per_client || t->gate.rate.gap_ns != 0 || t->gate.aimd != NULL || t->gate.places != 0;
        t->gate.learns = t->is_alternative || t->gate.aimd != NULL;
    }
}

void keel_gate_close(struct hybrid *g)
{
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        keel_free(g->targets[i].gate.aimd);
    keel_clients_free(g->clients);
}

/* ---- limits ---- */

static enum keel_status refuse(struct target *t, enum keel_gate_reason why, int64_t retry_ns, struct keel_refusal *out)
{
    bool is_rate = why == KEEL_GATE_CLIENT || why == KEEL_GATE_ROUTE;
    t->gate.refused[why]++;
    out->status = is_rate ? KEEL_RATE : KEEL_SHED;
    out->reason = reason_name[why];
    out->retry_after_ns = retry_ns;
    return out->status;
}

/* Both are asked before either is charged: who is limited does not use up what the others may have. */
enum keel_status keel_gate_bounds(struct hybrid *g, struct target *t, uint64_t client, int64_t now_ns,
                                  struct keel_refusal *why)
{
    int64_t *stamp = t->gate.per_client && client != 0 ? keel_clients_stamp(g->clients, client, now_ns) : NULL;
    int64_t own_ns = stamp != NULL ? keel_rate_wait(&g->client_rate, *stamp, now_ns) : 0;
    int64_t all_ns = keel_rate_wait(&t->gate.rate, t->gate.full_ns, now_ns);
    if (own_ns > 0)
        return refuse(t, KEEL_GATE_CLIENT, own_ns > all_ns ? own_ns : all_ns, why);
    if (all_ns > 0)
        return refuse(t, KEEL_GATE_ROUTE, all_ns, why);
    if (t->gate.places != 0 && t->in_flight >= t->gate.places)
        return refuse(t, KEEL_GATE_BULKHEAD, RETRY_NS, why);
    if (t->gate.aimd != NULL && !keel_aimd_admit(t->gate.aimd, t->in_flight))
        return refuse(t, KEEL_GATE_CONCURRENCY, RETRY_NS, why);
    if (stamp != NULL)
        *stamp = keel_rate_taken(&g->client_rate, *stamp, now_ns);
    if (t->gate.rate.gap_ns != 0)
        t->gate.full_ns = keel_rate_taken(&t->gate.rate, t->gate.full_ns, now_ns);
    return KEEL_OK;
}

enum keel_status keel_gate_full(struct target *t, struct keel_refusal *why)
{
    return refuse(t, KEEL_GATE_BULKHEAD, RETRY_NS, why);
}

/* ---- alternatives ---- */

/*
 * What three quarters of the last runs kept to, and all but one while they are few: a run that was slow because the
 * machine was away says nothing of the next.
 */
static int64_t most_kept_to(const struct gate *a)
{
    uint32_t n = a->n_took < KEEL_COUNT(a->took_ns) ? a->n_took : KEEL_COUNT(a->took_ns);
    uint32_t longer = n / 4 > 1 ? n / 4 : 1;
    int64_t best = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t above = 0;
        for (uint32_t k = 0; k < n; k++)
            above += a->took_ns[k] > a->took_ns[i] || (a->took_ns[k] == a->took_ns[i] && k < i);
        if (above == longer)
            best = a->took_ns[i];
    }
    return best;
}

static void learn_latency(struct gate *a, int64_t ns)
{
    if (a->on_trial && ns < a->recent_ns)
        a->n_took = 0; /* what made it slow is over */
    a->on_trial = false;
    a->took_ns[a->n_took++ % KEEL_COUNT(a->took_ns)] = ns;
    a->recent_ns = most_kept_to(a);
}

void keel_gate_settled(struct target *t, struct keel_permit p, enum keel_outcome o, int64_t latency_ns, int64_t now_ns)
{
    if ((o != KEEL_OUT_OK && o != KEEL_OUT_SLOW && o != KEEL_OUT_TIMEOUT) || latency_ns < 0)
        return;
    if (t->is_alternative)
        learn_latency(&t->gate, latency_ns);
    else
        keel_aimd_settle(t->gate.aimd, p.start_ns, latency_ns, now_ns);
}

static bool fits(struct gate *a, int64_t left_ns, int64_t now_ns)
{
    if (a->recent_ns <= left_ns)
        return true;
    a->on_trial = now_ns - a->tried_ns >= STALE_NS;
    return a->on_trial;
}

static void chosen(struct target *t, const char *reason, int64_t now_ns)
{
    t->gate.tried_ns = now_ns;
    if (reason == NULL)
        return;
    t->gate.n_fallback++;
    snprintf(t->gate.last_reason, sizeof t->gate.last_reason, "%s", reason);
    t->gate.last_ns = now_ns;
}

/*
 * In order, those whose recent latency fits what is left; then, when none of them may run, the others, the last first: it
 * is the one that takes least.
 */
enum keel_status keel_hybrid_pick(void *self, const struct keel_pick *ask, int64_t now_ns, struct keel_permit *permit,
                                  struct keel_refusal *why)
{
    struct hybrid *g = self;
    const char *first = ask->because;
    struct keel_refusal refusal = {0};
    uint32_t too_slow = 0;
    *why = (struct keel_refusal){0};
    keel_assert(ask->n > 0 && ask->n <= MOST_ALTERNATIVES && ask->first + ask->n <= g->env.n_targets);
    for (uint32_t k = 0; k < 2 * ask->n; k++) {
        uint32_t i = k < ask->n ? k : 2 * ask->n - 1 - k;
        struct target *t = &g->targets[ask->first + i];
        bool is_last = i + 1 == ask->n;
        if (k < ask->n && !is_last && !fits(&t->gate, ask->left_ns, now_ns)) {
            too_slow |= UINT32_C(1) << i;
            t->gate.n_passed_over++;
            first = first != NULL ? first : "latency";
            continue;
        }
        if (k >= ask->n && (too_slow >> i & 1) == 0)
            continue;
        if (keel_guard_hybrid.admit(g, ask->first + i, now_ns, INT64_MAX, permit, &refusal) == KEEL_OK) {
            *why = (struct keel_refusal){0};
            why->reason = i > 0 || ask->because != NULL ? first : NULL;
            chosen(t, why->reason, now_ns);
            return KEEL_OK;
        }
        first = first != NULL ? first : refusal.reason;
        if (why->status == KEEL_OK || refusal.retry_after_ns < why->retry_after_ns)
            *why = refusal; /* the one that may be back first */
    }
    return why->status;
}

/* ---- what is shown ---- */

static uint64_t refused_of(const struct target *t)
{
    uint64_t n = 0;
    for (size_t i = 0; i < KEEL_N_GATE; i++)
        n += t->gate.refused[i];
    return n;
}

static void write_rate(struct keel_json *w, const char *key, const struct keel_rate *r)
{
    keel_json_obj(w, key);
    keel_json_fix(w, "per_second", 1e9 / (double)r->gap_ns, 3);
    keel_json_i64(w, "burst", r->burst_ns / r->gap_ns + 1);
    keel_json_end(w);
}

static void write_bulkheads(const struct hybrid *g, struct keel_json *w)
{
    keel_json_obj(w, "bulkheads");
    for (int level = 0; level < LEVELS; level++) {
        keel_json_obj(w, level_name[level]);
        keel_json_u64(w, "in_flight", g->busy[level]);
        if (g->places[level] == UINT32_MAX)
            keel_json_null(w, "limit");
        else
            keel_json_u64(w, "limit", g->places[level]);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void write_limits(const struct hybrid *g, struct keel_json *w)
{
    keel_json_obj(w, "rate_limits");
    if (g->clients != NULL) {
        write_rate(w, "client", &g->client_rate);
        keel_json_u64(w, "crowded", keel_clients_crowded(g->clients));
    }
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].gate.rate.gap_ns != 0)
            write_rate(w, g->targets[i].conf->name, &g->targets[i].gate.rate);
    keel_json_end(w);
    keel_json_obj(w, "adaptive");
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        const struct keel_aimd *a = g->targets[i].gate.aimd;
        if (a == NULL)
            continue;
        keel_json_obj(w, g->targets[i].conf->name);
        keel_json_u64(w, "limit", keel_aimd_limit(a));
        keel_json_u64(w, "min", a->min);
        keel_json_u64(w, "max", a->max);
        keel_json_u64(w, "cuts", a->n_cuts);
        keel_json_u64(w, "rises", a->n_rises);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void write_refused(const struct hybrid *g, struct keel_json *w)
{
    keel_json_obj(w, "refused");
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        const struct target *t = &g->targets[i];
        if (refused_of(t) == 0)
            continue;
        keel_json_obj(w, t->conf->name);
        for (size_t k = 0; k < KEEL_N_GATE; k++)
            keel_json_u64(w, reason_name[k], t->gate.refused[k]);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void write_alternative(struct keel_json *w, const struct target *t, int64_t now_ns, int64_t wall_ns)
{
    const struct gate *a = &t->gate;
    keel_json_obj(w, NULL);
    keel_json_str(w, "name", t->conf->name + strlen(t->conf->op->id) + 1);
    keel_json_str(w, "state", keel_breaker_state_name(&t->breaker));
    keel_json_u64(w, "count", t->admitted);
    keel_json_u64(w, "as_fallback", a->n_fallback);
    keel_json_u64(w, "passed_over", a->n_passed_over);
    if (a->recent_ns == 0)
        keel_json_null(w, "recent_us");
    else
        keel_json_fix(w, "recent_us", (double)a->recent_ns / 1e3, 3);
    keel_json_str(w, "last_reason", a->n_fallback > 0 ? a->last_reason : NULL);
    if (a->n_fallback > 0)
        keel_json_time(w, "last_fallback", wall_ns + (a->last_ns - now_ns));
    else
        keel_json_null(w, "last_fallback");
    keel_json_end(w);
}

void keel_hybrid_admission(const struct hybrid *g, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
{
    const struct keel_op *op = NULL;
    keel_json_obj(w, "admission");
    write_bulkheads(g, w);
    write_limits(g, w);
    write_refused(g, w);
    keel_json_end(w);
    keel_json_obj(w, "alternatives");
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        const struct target *t = &g->targets[i];
        if (!t->is_alternative)
            continue;
        if (op != t->conf->op && op != NULL)
            keel_json_end(w);
        if (op != t->conf->op)
            keel_json_arr(w, t->conf->op->id);
        op = t->conf->op;
        write_alternative(w, t, now_ns, wall_ns);
    }
    if (op != NULL)
        keel_json_end(w);
    keel_json_end(w);
}

static void family(struct keel_text *out, const char *name, const char *type, const char *help)
{
    keel_text_add(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void metric_refused(const struct hybrid *g, struct keel_text *out, const char *engine)
{
    family(out, "keel_refused_total", "counter", "Calls that admission refused, by operation and reason.");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        for (size_t k = 0; k < KEEL_N_GATE; k++)
            if (g->targets[i].gate.refused[k] != 0)
                keel_text_add(out, "keel_refused_total{engine=\"%s\",op=\"%s\",reason=\"%s\"} %" PRIu64 "\n", engine,
                              g->targets[i].conf->name, reason_name[k], g->targets[i].gate.refused[k]);
}

void keel_hybrid_admission_metrics(const struct hybrid *g, struct keel_text *out, const char *engine)
{
    metric_refused(g, out, engine);
    family(out, "keel_bulkhead_in_flight", "gauge", "Calls in flight by criticality.");
    for (int level = 0; level < LEVELS; level++)
        keel_text_add(out, "keel_bulkhead_in_flight{engine=\"%s\",level=\"%s\"} %u\n", engine, level_name[level],
                      g->busy[level]);
    family(out, "keel_concurrency_limit", "gauge", "Adaptive bound on the calls in flight of an operation.");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].gate.aimd != NULL)
            keel_text_add(out, "keel_concurrency_limit{engine=\"%s\",op=\"%s\"} %u\n", engine,
                          g->targets[i].conf->name, keel_aimd_limit(g->targets[i].gate.aimd));
    family(out, "keel_alternative_calls_total", "counter", "Calls that ran by an alternative of their operation.");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].is_alternative)
            keel_text_add(out,
                          "keel_alternative_calls_total{engine=\"%s\",op=\"%s\",as=\"asked\"} %" PRIu64 "\n"
                          "keel_alternative_calls_total{engine=\"%s\",op=\"%s\",as=\"fallback\"} %" PRIu64 "\n",
                          engine, g->targets[i].conf->name, g->targets[i].admitted - g->targets[i].gate.n_fallback,
                          engine, g->targets[i].conf->name, g->targets[i].gate.n_fallback);
}
