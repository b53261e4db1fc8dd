/* Which measure has enough to be computed at which depth. */
#include "levels.h"

#include <math.h>

#include "keel/stats.h"

#define SLICE 2000000 /* draws of one slice */

const struct ana_figure_def ana_figure_defs[ANA_N] = {
#define X(id, name, level, factor) {name, ANA_##level, factor},
    ANA_FIGURES(X)
#undef X
};

static void defined(struct ana_analysis *a, enum ana_figure f, double value)
{
    a->value[f] = (struct ana_value){.is_defined = true, .value = value};
}

static void undefined(struct ana_analysis *a, enum ana_figure f, const char *why)
{
    a->value[f] = (struct ana_value){.why = why};
}

static void too_few(struct ana_analysis *a, enum ana_figure f, const char *of, size_t have, size_t need)
{
    a->value[f] = (struct ana_value){.of = of, .have = have, .need = need};
}

/* Whether there are enough returns for f; else says what is missing. */
static bool enough(struct ana_analysis *a, enum ana_figure f, size_t need)
{
    size_t n = a->in.steps.n_returns;

    if (need < a->in.min_returns)
        need = a->in.min_returns;
    if (a->in.is_broken)
        undefined(a, f, "an equity is not above 0");
    else if (n < need)
        too_few(a, f, "returns", n, need);
    else
        return true;
    return false;
}

static void put(struct ana_analysis *a, enum ana_figure f, enum keel_status st, double value, const char *why)
{
    if (st == KEEL_OK)
        defined(a, f, value);
    else
        undefined(a, f, why);
}

static void measure(struct ana_analysis *a, enum ana_figure f, perf_measure_fn *fn, const char *why)
{
    double v = 0;

    if (enough(a, f, 2)) {
        enum keel_status st = fn(a->in.steps.returns, a->in.steps.n_returns, a->in.ppy, &v);
        put(a, f, st, v, why);
    }
}

typedef enum keel_status plain_fn(const double *r, size_t n, double *out);

static void shape(struct ana_analysis *a, enum ana_figure f, plain_fn *fn, const char *why)
{
    double v = 0;

    if (enough(a, f, 4)) {
        enum keel_status st = fn(a->in.steps.returns, a->in.steps.n_returns, &v);
        put(a, f, st, v, why);
    }
}

/* Of the whole curve, gaps included. */
static void of_curve(struct ana_analysis *a, enum ana_figure f, plain_fn *fn)
{
    double v = 0;

    if (a->in.is_broken)
        undefined(a, f, "an equity is not above 0");
    else if (a->in.points < 2)
        too_few(a, f, "equity points", a->in.points, 2);
    else {
        enum keel_status st = fn(a->in.steps.growth, a->in.steps.n_growth, &v);
        put(a, f, st, v, "the curve is out of range");
    }
}

void ana_simple(struct ana_analysis *a)
{
    if (a->in.has_day)
        defined(a, ANA_DAILY_CHANGE, a->in.day_change);
    else if (a->in.points < 2)
        too_few(a, ANA_DAILY_CHANGE, "equity points", a->in.points, 2);
    else
        undefined(a, ANA_DAILY_CHANGE, "an equity is not above 0");
}

void ana_standard(struct ana_analysis *a)
{
    measure(a, ANA_SHARPE, perf_sharpe, "the returns do not vary");
    measure(a, ANA_VOLATILITY, perf_volatility, "the returns are out of range");
    of_curve(a, ANA_MAX_DRAWDOWN, perf_max_drawdown);
}

static void relative(struct ana_analysis *a)
{
    const struct ana_input *in = &a->in;
    double v = 0;

    if (in->is_broken || in->n_pairs < in->min_returns) {
        for (size_t i = 0; i < 2; i++)
            too_few(a, i ? ANA_ALPHA : ANA_BETA, "returns with a benchmark", in->is_broken ? 0 : in->n_pairs,
                    in->min_returns);
        return;
    }
    enum keel_status st = perf_beta(in->own, in->bench, in->n_pairs, &v);
    put(a, ANA_BETA, st, v, "the benchmark does not vary");
    st = perf_alpha(in->own, in->bench, in->n_pairs, in->ppy, &v);
    put(a, ANA_ALPHA, st, v, "the benchmark does not vary, or a year of it is out of range");
}

static void of_trades(struct ana_analysis *a)
{
    const struct ana_trade_sums *t = &a->in.trades;

    if (t->closed == 0) {
        too_few(a, ANA_WIN_RATE, "closed trades", 0, 1);
        too_few(a, ANA_PROFIT_FACTOR, "closed trades", 0, 1);
    } else {
        defined(a, ANA_WIN_RATE, (double)t->wins / (double)t->closed);
        if (t->loss > 0)
            defined(a, ANA_PROFIT_FACTOR, t->profit / t->loss);
        else
            undefined(a, ANA_PROFIT_FACTOR, "no closed trade lost");
    }
    if (a->in.points > 0 && a->in.mean_equity > 0)
        defined(a, ANA_TURNOVER, t->notional / a->in.mean_equity);
    else
        undefined(a, ANA_TURNOVER, "the mean equity is not above 0");
}

static void tails(struct ana_analysis *a)
{
    size_t n = a->in.steps.n_returns;
    struct perf_tail t;
    double v = 0;

    a->sorted = keel_arena_array(a->in.arena, n, sizeof(double));
    for (size_t i = 0; i < n; i++)
        a->sorted[i] = a->in.steps.returns[i];
    keel_sort_f64(a->sorted, n);
    /* A gain at the quantile is no loss: 0. */
    if (enough(a, ANA_VAR_95, ANA_NEED_95) && perf_tail_loss(a->sorted, n, 0.95, &t) == KEEL_OK)
        defined(a, ANA_VAR_95, fmax(t.var, 0));
    if (enough(a, ANA_VAR_99, ANA_NEED_99) && perf_tail_loss(a->sorted, n, 0.99, &t) == KEEL_OK)
        defined(a, ANA_VAR_99, fmax(t.var, 0));
    if (enough(a, ANA_TAIL_RATIO, ANA_NEED_95)) {
        enum keel_status st = perf_tail_ratio(a->sorted, n, &v);
        put(a, ANA_TAIL_RATIO, st, v, "the 5 % quantile is 0");
    }
}

static void rolling(struct ana_analysis *a)
{
    static const enum ana_figure figure[] = {ANA_ROLLING_SHARPE, ANA_ROLLING_SHARPE_MIN, ANA_ROLLING_SHARPE_MAX,
                                             ANA_ROLLING_VOLATILITY};
    const double *r = a->in.steps.returns;
    size_t n = a->in.steps.n_returns, k = 0;
    double *w, v = 0, low = INFINITY, high = -INFINITY;
    enum keel_status st;

    bool is_enough = true;
    for (size_t i = 0; i < KEEL_COUNT(figure); i++)
        is_enough = enough(a, figure[i], ANA_ROLLING) && is_enough;
    if (!is_enough)
        return;
    st = perf_sharpe(r + n - ANA_ROLLING, ANA_ROLLING, a->in.ppy, &v);
    put(a, ANA_ROLLING_SHARPE, st, v, "the returns of the last window do not vary");
    st = perf_volatility(r + n - ANA_ROLLING, ANA_ROLLING, a->in.ppy, &v);
    put(a, ANA_ROLLING_VOLATILITY, st, v, "the returns are out of range");
    w = keel_arena_array(a->in.arena, n, sizeof *w);
    st = perf_rolling(perf_sharpe, r, n, ANA_ROLLING, a->in.ppy, w, &k);
    for (size_t i = 0; i < k; i++) {
        low = fmin(low, w[i]);
        high = fmax(high, w[i]);
    }
    put(a, ANA_ROLLING_SHARPE_MIN, st, low, "in no window do the returns vary");
    put(a, ANA_ROLLING_SHARPE_MAX, st, high, "in no window do the returns vary");
}

static enum keel_status omega(const double *r, size_t n, double *out)
{
    return perf_omega(r, n, 0, out);
}

enum keel_status ana_comprehensive_work(void *job, const atomic_bool *stop)
{
    struct ana_analysis *a = job;

    of_curve(a, ANA_TOTAL_RETURN, perf_total_return);
    measure(a, ANA_ANNUAL_RETURN, perf_annual_return, "a year of such returns is out of range");
    measure(a, ANA_CALMAR, perf_calmar, "there is no drawdown, or a year of such returns is out of range");
    measure(a, ANA_SORTINO, perf_sortino, "no return is below 0");
    shape(a, ANA_OMEGA, omega, "no return is below 0");
    shape(a, ANA_STABILITY, perf_stability, "the curve does not move");
    shape(a, ANA_SKEWNESS, perf_skewness, "the returns do not vary");
    shape(a, ANA_KURTOSIS, perf_kurtosis, "the returns do not vary");
    relative(a);
    of_trades(a);
    tails(a);
    if (!atomic_load(stop))
        rolling(a);
    return KEEL_OK;
}

enum keel_status ana_bootstrap_work(void *job, const atomic_bool *stop)
{
    struct ana_analysis *a = job;
    const struct ana_input *in = &a->in;

    if (a->bootstrap.most == 0)
        perf_bootstrap_init(&a->bootstrap, in->steps.returns, in->steps.n_returns, in->ppy, ANA_RESAMPLES, in->seed,
                           in->arena);
    if (in->steps.n_returns >= in->min_returns)
        perf_bootstrap_run(&a->bootstrap, SLICE / (in->steps.n_returns + 1) + 1, stop);
    return KEEL_OK;
}

bool ana_is_drawn(const struct ana_analysis *a)
{
    return a->in.steps.n_returns < a->in.min_returns || a->bootstrap.done == a->bootstrap.most;
}

void ana_institutional(struct ana_analysis *a)
{
    const struct ana_input *in = &a->in;
    double low = 0, high = 0, v = 0;
    struct perf_tail t;
    enum keel_status st;

    if (enough(a, ANA_ES_95, ANA_NEED_95) && perf_tail_loss(a->sorted, in->steps.n_returns, 0.95, &t) == KEEL_OK)
        defined(a, ANA_ES_95, fmax(t.es, 0));
    if (enough(a, ANA_ES_99, ANA_NEED_99) && perf_tail_loss(a->sorted, in->steps.n_returns, 0.99, &t) == KEEL_OK)
        defined(a, ANA_ES_99, fmax(t.es, 0));
    shape(a, ANA_PROBABILISTIC_SHARPE, perf_probabilistic_sharpe, "the returns do not vary");
    if (in->is_broken || in->n_pairs < in->min_returns) {
        too_few(a, ANA_INFORMATION, "returns with a benchmark", in->is_broken ? 0 : in->n_pairs, in->min_returns);
    } else {
        st = perf_information(in->own, in->bench, in->n_pairs, in->ppy, &v);
        put(a, ANA_INFORMATION, st, v, "the returns do not differ from the benchmark's");
    }
    if (enough(a, ANA_SHARPE_LOW, 2) && enough(a, ANA_SHARPE_HIGH, 2)) {
        st = perf_bootstrap_interval(&a->bootstrap, ANA_INTERVAL, &low, &high);
        put(a, ANA_SHARPE_LOW, st, low, "the returns of too many resamples do not vary");
        put(a, ANA_SHARPE_HIGH, st, high, "the returns of too many resamples do not vary");
    } else {
        a->value[ANA_SHARPE_HIGH] = a->value[ANA_SHARPE_LOW];
    }
}
