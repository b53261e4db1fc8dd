/*
 * What the guard of hybrid mode shows of itself: /health, /hybrid/performance, /hybrid/circuit-breakers
 * and Prometheus. It reads the targets and changes nothing.
 */
#include <inttypes.h>
#include <string.h>

#include "guard_hybrid.h"
#include "keel/text.h"

/* Nominal bounds of the duration histogram, each moved up to the bucket bound at or above it: the counts are exact. */
static const uint64_t le_us[] = {
    5,     10,    25,     50,     100,    250,     500,     1000,    2500,     5000,     10000,
    25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000,
};

static const char *const outcome_name[KEEL_N_OUTCOME] = {
    "ok", "slow", "failure", "timeout", "rejected", "cancelled", "client",
};
static const char *const state_name[] = {"closed", "open", "half_open"};
static const char *const mode_name[] = {"normal", "forced_open", "disabled", "metrics_only"};

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
    uint64_t measured = keel_tracker_n(t->tracker);
    for (int o = 0; o < KEEL_N_OUTCOME; o++) {
        uint64_t n = keel_tracker_outcome(t->tracker, (enum keel_outcome)o);
        s->outcomes[o] += n;
        s->count += n;
    }
    s->errors = s->outcomes[KEEL_OUT_FAILURE] + s->outcomes[KEEL_OUT_TIMEOUT];
    s->rejected += t->rejected;
    s->shed += t->shed;
    s->in_flight += t->in_flight;
    s->measured += measured;
    s->sum_ns += keel_tracker_sum_ns(t->tracker);
    if (keel_tracker_target(t->tracker) != 0) {
        s->with_target += measured;
        s->over += keel_tracker_over(t->tracker);
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

static const struct { const char *key; int window_s; } period[] = {{"all", 0}, {"last_10s", 10}, {"last_60s", 60}};

static void write_judged(struct keel_json *w, uint64_t judged, uint64_t over)
{
    keel_json_u64(w, "over_target", over);
    if (judged == 0)
        keel_json_null(w, "within_target");
    else
        keel_json_f64(w, "within_target", (double)(judged - over) / (double)judged);
}

/* judged: those of the measured calls that have a target. */
static void write_period(struct keel_json *w, const char *key, const struct keel_track_sum *sum, uint64_t judged)
{
    struct keel_track_view v;
    keel_track_view_of(sum, &v);
    keel_json_obj(w, key);
    keel_json_u64(w, "count", v.n);
    keel_json_u64(w, "errors", v.outcomes[KEEL_OUT_FAILURE] + v.outcomes[KEEL_OUT_TIMEOUT]);
    keel_json_obj(w, "outcomes");
    for (int o = 0; o < KEEL_N_OUTCOME; o++)
        keel_json_u64(w, outcome_name[o], v.outcomes[o]);
    keel_json_end(w);
    write_us(w, "p50_us", (double)v.p50_ns);
    write_us(w, "p90_us", (double)v.p90_ns);
    write_us(w, "p95_us", (double)v.p95_ns);
    write_us(w, "p99_us", (double)v.p99_ns);
    write_us(w, "p999_us", (double)v.p999_ns);
    write_us(w, "max_us", (double)v.max_ns);
    write_us(w, "mean_us", v.mean_ns);
    write_judged(w, judged, v.over);
    keel_json_end(w);
}

/* Several targets together. */
struct together { struct keel_track_sum sum; uint64_t judged; };

static void write_periods(struct keel_json *w, const struct target *t, int64_t now_ns, struct together *all)
{
    for (size_t i = 0; i < KEEL_COUNT(period); i++) {
        struct keel_track_sum sum = {0};
        keel_tracker_collect(t->tracker, now_ns, period[i].window_s, &sum);
        uint64_t judged = keel_tracker_target(t->tracker) != 0 ? sum.hist.n : 0;
        write_period(w, period[i].key, &sum, judged);
        if (all != NULL) {
            keel_track_merge(&all[i].sum, &sum);
            all[i].judged += judged;
        }
    }
}

/* all: KEEL_COUNT(period) of them to add to, or NULL. */
static void write_target_performance(struct keel_json *w, const struct target *t, int64_t now_ns, struct together *all)
{
    struct totals s = totals_of(t);
    keel_json_obj(w, t->conf->name);
    write_counts(w, &s);
    write_outcomes(w, &s);
    write_periods(w, t, now_ns, all);
    write_target(w, t);
    write_judged(w, s.with_target, s.over);
    keel_json_end(w);
}

/* As keel_breaker_state shows it. */
static int state_figure(const struct keel_breaker *b)
{
    if (b->mode == KEEL_MODE_DISABLED)
        return 0;
    return b->state == KEEL_OPENED ? 3 : b->state == KEEL_HALF_OPEN ? 2 : 1;
}

/* How bad a breaker's state is for those who depend on it. */
static int badness(const struct keel_breaker *b)
{
    return b->mode == KEEL_MODE_METRICS_ONLY ? 0 : state_figure(b);
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

static const char *health_state(const struct target *worst)
{
    if (worst == NULL)
        return "closed";
    return worst->breaker.mode == KEEL_MODE_METRICS_ONLY ? "metrics_only" : keel_breaker_state_name(&worst->breaker);
}

void keel_hybrid_health(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
{
    const struct hybrid *g = self;
    const struct target *worst = worst_of(g);
    keel_json_obj(w, "circuit_breaker");
    keel_json_str(w, "state", health_state(worst));
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
        struct keel_hist h;
        keel_tracker_hist(t->tracker, &h);
        keel_json_obj(w, t->conf->name);
        write_counts(w, &s);
        static const double q[] = {0.5, 0.99};
        uint64_t ns[KEEL_COUNT(q)];
        keel_hist_quantiles(&h, q, KEEL_COUNT(q), ns);
        write_us(w, "p50_us", (double)ns[0]);
        write_us(w, "p99_us", (double)ns[1]);
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
    keel_json_f64(w, "failure_rate", 100 * keel_breaker_failure_rate(b, now_ns));
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
        fallbacks += t->gate.n_fallback;
        openings += t->openings;
        if (!t->is_op || !t->tracked)
            continue;
        struct totals s = totals_of(t);
        struct keel_hist h;
        keel_tracker_hist(t->tracker, &h);
        keel_json_obj(w, t->conf->name);
        keel_json_u64(w, "total_operations", s.count);
        write_success(w, &s);
        write_mean_ms(w, "avg_latency_ms", &s);
        keel_json_fix(w, "p95_latency_ms", (double)keel_hist_quantile(&h, 0.95) / 1e6, 6);
        keel_json_fix(w, "p99_latency_ms", (double)keel_hist_quantile(&h, 0.99) / 1e6, 6);
        keel_json_end(w);
    }
    keel_json_u64(w, "circuit_breaker_activations", openings);
    keel_json_u64(w, "fallback_usage", fallbacks);
    keel_json_end(w);
    write_worst_status(g, w, now_ns, wall_ns);
    keel_json_u64(w, "active_operations", all->in_flight);
    keel_json_u64(w, "total_metrics", all->measured);
}

void keel_hybrid_performance(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
{
    const struct hybrid *g = self;
    struct together together[KEEL_COUNT(period)];
    memset(together, 0, sizeof(together));
    keel_json_obj(w, "operations");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].is_op && g->targets[i].tracked)
            write_target_performance(w, &g->targets[i], now_ns, together);
    for (uint32_t i = 0; i < KEEL_N_OWN; i++)
        write_target_performance(w, &g->own[i], now_ns, NULL);
    keel_json_end(w);

    keel_json_obj(w, "dependencies");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].conf->op == NULL)
            write_target_performance(w, &g->targets[i], now_ns, NULL);
    keel_json_end(w);

    struct totals all = totals_of_ops(g);
    keel_json_obj(w, "overall");
    write_counts(w, &all);
    write_outcomes(w, &all);
    write_us(w, "mean_us", all.measured == 0 ? 0 : all.sum_ns / (double)all.measured);
    for (size_t i = 0; i < KEEL_COUNT(period); i++)
        write_period(w, period[i].key, &together[i].sum, together[i].judged);
    write_judged(w, all.with_target, all.over);
    keel_json_end(w);

    keel_json_obj(w, "fallbacks");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].is_alternative)
            keel_json_u64(w, g->targets[i].conf->name, g->targets[i].gate.n_fallback);
    keel_json_end(w);
    write_first_version(g, w, &all, now_ns, wall_ns);
    keel_hybrid_admission(g, w, now_ns, wall_ns);
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

static void write_window(struct keel_json *w, const struct keel_breaker *b, const struct keel_breaker_counts *seen)
{
    bool is_time = b->conf.window_ns > 0;
    keel_json_str(w, "kind", is_time ? "time" : "count");
    if (is_time)
        keel_json_fix(w, "seconds", (double)b->conf.window_ns / 1e9, 3);
    else
        keel_json_u64(w, "size", b->conf.window);
    keel_json_u64(w, "calls", seen->calls);
    keel_json_u64(w, "failures", seen->failures);
    keel_json_u64(w, "slow", seen->slow);
    keel_json_u64(w, "min_calls", b->conf.min_calls);
}

static void write_breaker(struct keel_json *w, const struct target *t, int64_t now_ns, int64_t wall_ns)
{
    const struct keel_breaker *b = &t->breaker;
    struct keel_breaker_counts seen = keel_breaker_window(b, now_ns);
    bool waits = b->mode != KEEL_MODE_FORCED_OPEN && b->state == KEEL_OPENED;
    keel_json_obj(w, NULL);
    keel_json_str(w, "name", t->conf->name);
    keel_json_str(w, "state", keel_breaker_state_name(b));
    keel_json_str(w, "mode", mode_name[b->mode]);
    keel_json_u64(w, "consecutive_failures", b->consecutive_failures);
    keel_json_f64(w, "failure_rate", keel_breaker_failure_rate(b, now_ns));
    keel_json_f64(w, "slow_rate", keel_breaker_slow_rate(b, now_ns));
    keel_json_obj(w, "window");
    write_window(w, b, &seen);
    keel_json_end(w);
    keel_json_obj(w, "permits");
    keel_json_u64(w, "limit", b->conf.permits);
    keel_json_u64(w, "in_use", keel_breaker_permits_out(b, now_ns));
    keel_json_end(w);
    keel_json_u64(w, "failures", b->n_failures);
    keel_json_u64(w, "rejected", b->n_rejected);
    keel_json_u64(w, "would_reject", b->n_would_reject);
    write_stamp(w, "last_failure_time", b->last_failure_ns, now_ns, wall_ns);
    write_stamp(w, "next_probe", waits ? b->retry_at_ns : 0, now_ns, wall_ns);
    write_transitions(w, b, now_ns, wall_ns);
    keel_json_end(w);
}

void keel_hybrid_breakers(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
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
    struct keel_hist h;
    const char *name = t->conf->name;
    uint64_t below = 0;
    uint32_t next = 0;
    keel_tracker_hist(t->tracker, &h);
    for (size_t e = 0; e < KEEL_COUNT(le_us); e++) {
        uint32_t last = keel_hist_index(le_us[e] * 1000);
        for (; next <= last; next++)
            below += h.count[next];
        keel_text_add(out, "keel_op_duration_seconds_bucket{engine=\"%s\",op=\"%s\",le=\"%.9f\"} %" PRIu64 "\n",
                      engine, name, (double)keel_hist_upper(last) / 1e9, below);
    }
    keel_text_add(out,
                  "keel_op_duration_seconds_bucket{engine=\"%s\",op=\"%s\",le=\"+Inf\"} %" PRIu64 "\n"
                  "keel_op_duration_seconds_sum{engine=\"%s\",op=\"%s\"} %.9f\n"
                  "keel_op_duration_seconds_count{engine=\"%s\",op=\"%s\"} %" PRIu64 "\n",
                  engine, name, h.n, engine, name, h.sum_ns / 1e9, engine, name, h.n);
}

typedef double breaker_figure(const struct keel_breaker *b, int64_t now_ns);

static double figure_state(const struct keel_breaker *b, int64_t now_ns)
{
    (void)now_ns;
    return state_figure(b);
}

static double figure_mode(const struct keel_breaker *b, int64_t now_ns)
{
    (void)now_ns;
    return b->mode;
}

static double figure_calls(const struct keel_breaker *b, int64_t now_ns)
{
    return keel_breaker_window(b, now_ns).calls;
}

static double figure_permits(const struct keel_breaker *b, int64_t now_ns)
{
    return keel_breaker_permits_out(b, now_ns);
}

static const struct { const char *name, *help; breaker_figure *of; } breaker_gauge[] = {
    {"keel_breaker_state", "0 disabled, 1 closed, 2 half-open, 3 open.", figure_state},
    {"keel_breaker_mode", "0 normal, 1 forced open, 2 disabled, 3 metrics only.", figure_mode},
    {"keel_breaker_window_calls", "Calls the window holds.", figure_calls},
    {"keel_breaker_failure_rate", "Share of the window's calls that failed.", keel_breaker_failure_rate},
    {"keel_breaker_slow_rate", "Share of the window's calls that were over target.", keel_breaker_slow_rate},
    {"keel_breaker_permits_in_use", "Probes of half-open whose result is not known.", figure_permits},
};

static void metric_refused(const struct hybrid *g, struct keel_text *out, const char *engine)
{
    family(out, "keel_breaker_rejected_total", "counter",
           "Calls the breaker refused, and those it would have, in mode metrics_only.");
    for (uint32_t i = 0; i < g->env.n_targets; i++) {
        const struct keel_breaker *b = &g->targets[i].breaker;
        if (!g->targets[i].guarded)
            continue;
        const char *name = g->targets[i].conf->name;
        keel_text_add(out, "keel_breaker_rejected_total{engine=\"%s\",target=\"%s\",refused=\"true\"} %" PRIu64 "\n",
                      engine, name, b->n_rejected);
        if (b->n_would_reject > 0)
            keel_text_add(out,
                          "keel_breaker_rejected_total{engine=\"%s\",target=\"%s\",refused=\"false\"} %" PRIu64 "\n",
                          engine, name, b->n_would_reject);
    }
}

static void metric_breakers(const struct hybrid *g, struct keel_text *out, const char *engine, int64_t now_ns)
{
    for (size_t f = 0; f < KEEL_COUNT(breaker_gauge); f++) {
        family(out, breaker_gauge[f].name, "gauge", breaker_gauge[f].help);
        for (uint32_t i = 0; i < g->env.n_targets; i++)
            if (g->targets[i].guarded)
                keel_text_add(out, "%s{engine=\"%s\",target=\"%s\"} %.9g\n", breaker_gauge[f].name, engine,
                              g->targets[i].conf->name, breaker_gauge[f].of(&g->targets[i].breaker, now_ns));
    }
    metric_refused(g, out, engine);
    family(out, "keel_breaker_transitions_total", "counter", "Changes of state, and of mode where from equals to.");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        for (size_t k = 0; k < 9; k++)
            if (g->targets[i].transitions[k / 3][k % 3] > 0)
                keel_text_add(out,
                              "keel_breaker_transitions_total{engine=\"%s\",target=\"%s\",from=\"%s\",to=\"%s\"} "
                              "%" PRIu64 "\n",
                              engine, g->targets[i].conf->name, state_name[k / 3], state_name[k % 3],
                              g->targets[i].transitions[k / 3][k % 3]);
}

void keel_hybrid_metrics(void *self, struct keel_text *out, const char *engine, int64_t now_ns)
{
    const struct hybrid *g = self;
    metric_calls(g, out, engine);
    family(out, "keel_op_duration_seconds", "histogram", "Arrival to answer, of operations that were measured.");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].tracked && keel_tracker_n(g->targets[i].tracker) != 0)
            metric_duration(&g->targets[i], out, engine);
    for (uint32_t i = 0; i < KEEL_N_OWN; i++)
        metric_duration(&g->own[i], out, engine);
    family(out, "keel_op_over_target_total", "counter", "Measured calls that took longer than their target.");
    for (uint32_t i = 0; i < g->env.n_targets; i++)
        if (g->targets[i].tracked && keel_tracker_target(g->targets[i].tracker) != 0)
            keel_text_add(out, "keel_op_over_target_total{engine=\"%s\",op=\"%s\"} %" PRIu64 "\n", engine,
                          g->targets[i].conf->name, keel_tracker_over(g->targets[i].tracker));
    metric_breakers(g, out, engine, now_ns);
    keel_hybrid_admission_metrics(g, out, engine);
}
