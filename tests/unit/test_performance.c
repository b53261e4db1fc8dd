/*
 * Measures of return series. Expected values: the published expectations of quantopian/empyrical's tests (Apache-2.0;
 * numbers in KEEL_SHARED/vectors/empyrical_cases.json, 8 decimals), closed forms stated beside the test, and properties
 * that need no oracle.
 *
 * There NaN and infinity mean what KEEL_UNDEFINED means here, drawdowns are negative, and a NaN return is a period
 * without one: measures that compound take it as 0, the others leave it out.
 */
#include <check.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "curve.h"
#include "keel/json.h"
#include "keel/stats.h"
#include "levels.h"
#include "performance.h"

#define MOST      64
#define TOLERANCE 1.5e-8 /* 8 decimals, as asserted there */
#define MINUTE    60000000000LL
#define DAY       86400000000000LL
#define T0        1767607200000000000LL /* 2026-01-05T10:00:00Z */

static struct keel_arena *arena;
static const struct keel_jval *root;
static atomic_bool never;
static int checked;

static void setup(void)
{
    arena = keel_arena_new(1 << 20);
}

static void teardown(void)
{
    keel_arena_free(arena);
}

/* ---- the published cases ---- */

struct series {
    double x[MOST];
    size_t n;
};

static FILE *vectors(void)
{
    const char *dir = getenv("KEEL_SHARED");
    char path[512];

    snprintf(path, sizeof path, "%s/vectors/empyrical_cases.json", dir ? dir : "../shared");
    return fopen(path, "r");
}

static void load(void)
{
    const char *why = "";
    char *text = keel_arena_alloc(arena, 1 << 18);
    FILE *f = vectors();

    ck_assert_ptr_nonnull(f);
    size_t n = fread(text, 1, (1 << 18) - 1, f);
    fclose(f);
    ck_assert_msg(keel_json_parse(arena, text, n, &root, &why) == KEEL_OK, "%s", why);
}

static double number(const struct keel_jval *v)
{
    return v && v->type == KEEL_JNUM ? strtod(v->text, NULL) : NAN;
}

/* A name, an array, an array within an array, or a number for every one of n. */
static struct series series_of(const struct keel_jval *v, size_t n)
{
    struct series s = {.n = 0};

    ck_assert_ptr_nonnull(v);
    if (v->type == KEEL_JSTR)
        v = keel_jget(keel_jget(root, "series"), v->text);
    if (v->type == KEEL_JNUM) {
        for (s.n = 0; s.n < n; s.n++)
            s.x[s.n] = number(v);
        return s;
    }
    ck_assert(v->type == KEEL_JARR);
    if (v->child && v->child->type == KEEL_JARR)
        v = v->child;
    for (const struct keel_jval *k = v->child; k; k = k->next)
        s.x[s.n++] = number(k);
    return s;
}

static struct series clean(struct series s, bool as_zero)
{
    struct series out = {.n = 0};

    for (size_t i = 0; i < s.n; i++)
        if (as_zero || !isnan(s.x[i]))
            out.x[out.n++] = isnan(s.x[i]) ? 0 : s.x[i];
    return out;
}

/* Pairs by the end of both; without NaN. side 0: all, 1: where b > 0, -1: where b < 0. */
static size_t pairs(const struct series *r, const struct series *b, int side, double *x, double *y)
{
    size_t n = r->n < b->n ? r->n : b->n, k = 0;

    for (size_t i = 0; i < n; i++) {
        double p = r->x[r->n - n + i], q = b->x[b->n - n + i];
        if (isnan(p) || isnan(q) || (side != 0 && !(q * side > 0)))
            continue;
        x[k] = p;
        y[k++] = q;
    }
    return k;
}

static double ppy_of(const struct keel_jval *k)
{
    const char *name = keel_jstr(k, "period");

    return strcmp(name, "weekly") == 0 ? 52 : strcmp(name, "monthly") == 0 ? 12 : strcmp(name, "yearly") == 0 ? 1 : 252;
}

static void same(const char *what, enum keel_status st, double got, const struct keel_jval *want, double tolerance)
{
    checked++;
    if (!want || want->type != KEEL_JNUM) {
        ck_assert_msg(st == KEEL_UNDEFINED, "%s: %.12g, not undefined", what, got);
        return;
    }
    ck_assert_msg(st == KEEL_OK && fabs(got - number(want)) < tolerance, "%s: %s %.12g, not %s", what,
                  keel_status_name(st), got, want->text);
}

static struct series less(struct series a, struct series b)
{
    for (size_t i = 0; i < a.n; i++)
        a.x[i] -= b.x[i];
    return a;
}

typedef void case_fn(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want);

static void total_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0, start = number(keel_jget(k, "starting_value"));
    struct series c = clean(r, true);
    enum keel_status st = perf_total_return(c.x, c.n, &v);

    same(what, st, start == 0 ? v : start * (1 + v), want, 1e-5); /* printed with 4 or 5 decimals */
}

static void drawdown_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0;
    struct series c = clean(r, true);
    enum keel_status st = perf_max_drawdown(c.x, c.n, &v);

    (void)k;
    same(what, st, -v, want, TOLERANCE);
}

static void annual_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0;
    struct series c = clean(r, true);
    enum keel_status st = perf_annual_return(c.x, c.n, ppy_of(k), &v);

    same(what, st, v, want, TOLERANCE);
}

static void volatility_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0;
    struct series c = clean(r, false);
    enum keel_status st = perf_volatility(c.x, c.n, ppy_of(k), &v);

    same(what, st, v, want, TOLERANCE);
}

static void calmar_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0;
    struct series c = clean(r, true);
    enum keel_status st = perf_calmar(c.x, c.n, ppy_of(k), &v);

    same(what, st, v, want, TOLERANCE);
}

static void omega_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0, required = number(keel_jget(k, "required_return"));
    struct series c = clean(less(r, series_of(keel_jget(k, "risk_free"), r.n)), false);
    enum keel_status st = KEEL_UNDEFINED;

    if (required > -1) /* a year's requirement below a total loss is none */
        st = perf_omega(c.x, c.n, pow(1 + required, 1.0 / 252) - 1, &v);
    same(what, st, v, want, TOLERANCE);
}

static void sharpe_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0;
    struct series c = clean(less(r, series_of(keel_jget(k, "risk_free"), r.n)), false);
    enum keel_status st = perf_sharpe(c.x, c.n, 252, &v);

    same(what, st, v, want, TOLERANCE);
}

static void downside_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0;
    struct series c = clean(less(r, series_of(keel_jget(k, "required_return"), r.n)), false);
    enum keel_status st = perf_downside(c.x, c.n, 0, ppy_of(k), &v);

    same(what, st, v, want, TOLERANCE);
}

static void sortino_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0;
    struct series c = clean(less(r, series_of(keel_jget(k, "required_return"), r.n)), false);
    enum keel_status st = perf_sortino(c.x, c.n, ppy_of(k), &v);

    same(what, st, v, want, TOLERANCE);
}

static void information_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0, x[MOST], y[MOST];
    struct series b = series_of(keel_jget(k, "factor_returns"), r.n);
    enum keel_status st = perf_information(x, y, pairs(&r, &b, 0, x, y), 1, &v);

    same(what, st, v, want, TOLERANCE);
}

/* side of the benchmark, then which of both is asked for: 0 both. */
static void relative(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want,
                     int side, int which)
{
    double alpha = 0, beta = 0, x[MOST], y[MOST];
    struct series b = series_of(keel_jget(k, "benchmark"), r.n);
    size_t n = pairs(&r, &b, side, x, y);
    enum keel_status sa = perf_alpha(x, y, n, 252, &alpha), sb = perf_beta(x, y, n, &beta);
    double places = number(keel_jget(k, "decimal_places")),
           tolerance = isnan(places) ? TOLERANCE : 1.5 * pow(10, -places);

    if (which != 2)
        same(what, sa, alpha, which == 0 ? want->child : want, tolerance);
    if (which != 1)
        same(what, sb, beta, which == 0 ? want->child->next : want, tolerance);
}

static void alpha_beta_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    relative(what, k, r, want, 0, 0);
}

static void alpha_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    relative(what, k, r, want, 0, 1);
}

static void beta_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    relative(what, k, r, want, 0, 2);
}

static void up_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    relative(what, k, r, want, 1, 0);
}

static void down_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    relative(what, k, r, want, -1, 0);
}

static void stability_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0;
    struct series c = clean(r, false);
    enum keel_status st = perf_stability(c.x, c.n, &v);

    (void)k;
    same(what, st, v, want, TOLERANCE);
}

static void tail_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    double v = 0;
    struct series c = clean(r, true); /* the published figure is of 9 values, a 0 among them */

    (void)k;
    keel_sort_f64(c.x, c.n);
    enum keel_status st = perf_tail_ratio(c.x, c.n, &v);
    same(what, st, v, want, TOLERANCE);
}

static void capture(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want, bool up,
                    bool down)
{
    double u = 1, d = 1, x[MOST], y[MOST];
    struct series b = series_of(keel_jget(k, "factor_returns"), r.n);
    size_t n = pairs(&r, &b, 0, x, y);
    enum keel_status st = up ? perf_capture(x, y, n, 252, true, &u) : KEEL_OK;

    if (st == KEEL_OK && down)
        st = perf_capture(x, y, n, 252, false, &d);
    same(what, st, up && down ? u / d : up ? u : d, want, TOLERANCE);
}

static void up_capture_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    capture(what, k, r, want, true, false);
}

static void down_capture_case(const char *what, const struct keel_jval *k, struct series r,
                              const struct keel_jval *want)
{
    capture(what, k, r, want, false, true);
}

static void up_down_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    capture(what, k, r, want, true, true);
}

/* Windows with a NaN lose it; the others go through perf_rolling as a whole. */
static void roll_sharpe_case(const char *what, const struct keel_jval *k, struct series r, const struct keel_jval *want)
{
    size_t window = (size_t)number(keel_jget(k, "window")), i = 0, n = 0;
    double v = 0, all[MOST];
    bool whole = clean(r, false).n == r.n && perf_rolling(perf_sharpe, r.x, r.n, window, 252, all, &n) == KEEL_OK;

    ck_assert(!whole || n == want->len);
    for (const struct keel_jval *w = want->child; w; w = w->next, i++) {
        struct series part = {.n = window};
        memcpy(part.x, r.x + i, window * sizeof(double));
        part = clean(part, false);
        enum keel_status st = perf_sharpe(part.x, part.n, 252, &v);
        same(what, st, v, w, TOLERANCE);
        ck_assert(!whole || all[i] == v);
    }
}

static void roll_drawdown_case(const char *what, const struct keel_jval *k, struct series r,
                               const struct keel_jval *want)
{
    size_t window = (size_t)number(keel_jget(k, "window")), i = 0;
    double v = 0;

    for (const struct keel_jval *w = want->child; w; w = w->next, i++) {
        enum keel_status st = perf_max_drawdown(r.x + i, window, &v);
        same(what, st, -v, w, 5e-5 + TOLERANCE); /* printed with 4 decimals */
    }
}

static void roll_alpha_beta_case(const char *what, const struct keel_jval *k, struct series r,
                                 const struct keel_jval *want)
{
    size_t window = (size_t)number(keel_jget(k, "window")), i = 0;
    struct series b = series_of(keel_jget(k, "benchmark"), r.n);
    double v = 0, x[MOST], y[MOST];

    if (r.n < window)
        return;
    for (const struct keel_jval *w = want->child; w; w = w->next, i++) {
        struct series p = {.n = window}, q = {.n = window};
        memcpy(p.x, r.x + i, window * sizeof(double));
        memcpy(q.x, b.x + i, window * sizeof(double));
        size_t n = pairs(&p, &q, 0, x, y);
        enum keel_status st = perf_alpha(x, y, n, 252, &v);
        same(what, st, v, w->child, TOLERANCE);
        st = perf_beta(x, y, n, &v);
        same(what, st, v, w->child->next, TOLERANCE);
    }
}

static const struct {
    const char *name;
    case_fn *run;
} published[] = {
    {"test_cum_returns_final", total_case},
    {"test_max_drawdown", drawdown_case},
    {"test_annual_ret", annual_case},
    {"test_cagr", annual_case},
    {"test_annual_volatility", volatility_case},
    {"test_calmar", calmar_case},
    {"test_omega", omega_case},
    {"test_sharpe_ratio", sharpe_case},
    {"test_downside_risk", downside_case},
    {"test_sortino", sortino_case},
    {"test_excess_sharpe", information_case},
    {"test_alpha_beta", alpha_beta_case},
    {"test_alpha", alpha_case},
    {"test_beta", beta_case},
    {"test_up_alpha_beta", up_case},
    {"test_down_alpha_beta", down_case},
    {"test_stability_of_timeseries", stability_case},
    {"test_tail_ratio", tail_case},
    {"test_up_capture", up_capture_case},
    {"test_down_capture", down_capture_case},
    {"test_up_down_capture", up_down_case},
    {"test_roll_sharpe_ratio", roll_sharpe_case},
    {"test_roll_max_drawdown", roll_drawdown_case},
    {"test_roll_alpha_beta", roll_alpha_beta_case},
};

START_TEST(empyrical)
{
    const struct keel_jval *set;
    int i = 0;

    load();
    checked = 0;
    set = keel_jget(keel_jget(root, "cases"), published[_i].name);
    ck_assert_msg(set && set->len > 0, "%s", published[_i].name);
    for (const struct keel_jval *k = set->child; k; k = k->next, i++) {
        const struct keel_jval *r = keel_jget(k, "returns"), *want = keel_jget(k, "expected");
        const char *what = keel_arena_printf(arena, "%s %d", published[_i].name, i);
        bool is_table = r->type == KEEL_JARR && r->child && r->child->type == KEEL_JARR;
        if (!is_table) {
            published[_i].run(what, k, series_of(r, 0), want);
            continue;
        }
        want = want->child;
        for (const struct keel_jval *one = r->child; one; one = one->next, want = want->next)
            published[_i].run(what, k, series_of(one, 0), want);
    }
    ck_assert_int_gt(checked, 1);
}
END_TEST

START_TEST(empyrical_quantiles)
{
    struct perf_tail t;
    int n = 0;

    load();
    for (const struct keel_jval *k = keel_jget(root, "value_at_risk")->child; k; k = k->next, n++) {
        struct series r = series_of(keel_jget(k, "returns"), 0);
        keel_sort_f64(r.x, r.n);
        ck_assert_int_eq(perf_tail_loss(r.x, r.n, 1 - number(keel_jget(k, "cutoff")), &t), KEEL_OK);
        ck_assert_double_eq_tol(-t.var, number(keel_jget(k, "expected")), 1e-9);
        ck_assert(t.es >= t.var - 1e-9);
    }
    ck_assert_int_eq(n, 6);
}
END_TEST

/* ---- without an oracle ---- */

/* Normal returns of a seed. */
static double *drawn(size_t n, double mean, double sd, uint64_t seed)
{
    double *r = keel_arena_array(arena, n, sizeof *r);
    struct keel_rng rng;

    keel_rng_seed(&rng, seed);
    for (size_t i = 0; i < n; i++)
        r[i] = mean + sd * keel_rng_normal(&rng);
    return r;
}

START_TEST(shape)
{
    /* -1, 0, 0, 4 about 0.75: the mean of the squares is 3.6875, of the cubes 7.03125, of the fourth
     * powers 30.39453125. */
    static const double x[] = {-1, 0, 0, 4};
    double v = 0;

    ck_assert_int_eq(perf_skewness(x, 4, &v), KEEL_OK);
    ck_assert_double_eq_tol(v, 7.03125 / pow(3.6875, 1.5), 1e-12);
    ck_assert_int_eq(perf_kurtosis(x, 4, &v), KEEL_OK);
    ck_assert_double_eq_tol(v, 30.39453125 / (3.6875 * 3.6875) - 3, 1e-12);
    ck_assert_int_eq(perf_skewness(x, 2, &v), KEEL_UNDEFINED);
    ck_assert_int_eq(perf_kurtosis(x, 3, &v), KEEL_UNDEFINED);
}
END_TEST

START_TEST(probabilistic)
{
    /* A symmetric two-point series: skew 0, kurtosis 1, so the variance is 1 and the figure is Phi(SR sqrt(n - 1)). */
    static const double x[] = {0.03, -0.01, 0.03, -0.01, 0.03, -0.01};
    double sharpe = 0, v = 0;

    ck_assert_int_eq(perf_sharpe(x, 6, 1, &sharpe), KEEL_OK);
    ck_assert_int_eq(perf_probabilistic_sharpe(x, 6, &v), KEEL_OK);
    ck_assert_double_eq_tol(v, keel_norm_cdf(sharpe * sqrt(5)), 1e-12);
}
END_TEST

START_TEST(units)
{
    const double *r = drawn(500, 0.0005, 0.01, 3);
    double a = 0, b = 0, twice[500];

    for (size_t i = 0; i < 500; i++)
        twice[i] = 2 * r[i];
    ck_assert_int_eq(perf_volatility(r, 500, 252, &a), KEEL_OK);
    ck_assert_int_eq(perf_volatility(twice, 500, 252, &b), KEEL_OK);
    ck_assert_double_eq_tol(b, 2 * a, 1e-12);
    ck_assert_int_eq(perf_volatility(r, 500, 4 * 252, &b), KEEL_OK);
    ck_assert_double_eq_tol(b, 2 * a, 1e-12);
    ck_assert_int_eq(perf_sharpe(r, 500, 252, &a), KEEL_OK);
    ck_assert_int_eq(perf_sharpe(twice, 500, 252, &b), KEEL_OK);
    ck_assert_double_eq_tol(a, b, 1e-12);
    ck_assert_int_eq(perf_beta(twice, r, 500, &b), KEEL_OK);
    ck_assert_double_eq_tol(b, 2, 1e-12);
    ck_assert_int_eq(perf_beta(r, r, 1, &b), KEEL_UNDEFINED);
    /* 0.1 % a minute over a year is out of range of a double: not infinity. */
    for (size_t i = 0; i < 500; i++)
        twice[i] = 0.01;
    ck_assert_int_eq(perf_annual_return(twice, 500, 525600, &b), KEEL_UNDEFINED);
}
END_TEST

START_TEST(bootstrap)
{
    enum { N = 400, B = 2000 };
    const double *r = drawn(N, 0.001, 0.01, 11);
    struct perf_bootstrap one, sliced, other;
    double low, high, lo2, hi2, sharpe = 0;

    perf_bootstrap_init(&one, r, N, 1, B, 7, arena);
    perf_bootstrap_run(&one, B, &never);
    perf_bootstrap_init(&sliced, r, N, 1, B, 7, arena);
    while (sliced.done < B)
        perf_bootstrap_run(&sliced, 300, &never);
    ck_assert_int_eq(perf_bootstrap_interval(&one, 0.95, &low, &high), KEEL_OK);
    ck_assert_int_eq(perf_bootstrap_interval(&sliced, 0.95, &lo2, &hi2), KEEL_OK);
    ck_assert(low == lo2 && high == hi2);
    perf_bootstrap_init(&other, r, N, 1, B, 8, arena);
    perf_bootstrap_run(&other, B, &never);
    ck_assert_int_eq(perf_bootstrap_interval(&other, 0.95, &lo2, &hi2), KEEL_OK);
    ck_assert(low != lo2);
    /* Of independent returns the standard error is sqrt((1 + SR^2 / 2) / n) (Lo 2002): the width is about 3.92 of them.
     */
    ck_assert_int_eq(perf_sharpe(r, N, 1, &sharpe), KEEL_OK);
    ck_assert(low < sharpe && sharpe < high);
    ck_assert_double_eq_tol((high - low) / (3.92 * sqrt((1 + sharpe * sharpe / 2) / N)), 1, 0.2);
    /* Nothing varies: no interval. */
    double flat[10] = {0};
    perf_bootstrap_init(&one, flat, 10, 1, 100, 1, arena);
    perf_bootstrap_run(&one, 100, &never);
    ck_assert_int_eq(perf_bootstrap_interval(&one, 0.95, &low, &high), KEEL_UNDEFINED);
}
END_TEST

START_TEST(bootstrap_stops)
{
    const double *r = drawn(100, 0, 0.01, 5);
    struct perf_bootstrap b;
    atomic_bool stop = true;

    perf_bootstrap_init(&b, r, 100, 1, 1000, 1, arena);
    perf_bootstrap_run(&b, 1000, &stop);
    ck_assert_uint_eq(b.done, 0);
}
END_TEST

/* ---- the curve ---- */

static struct ana_point point(int64_t ts, int64_t equity, int64_t capital)
{
    return (struct ana_point){
        .ts = ts, .equity = (keel_i128)equity * KEEL_SCALE, .capital = (keel_i128)capital * KEEL_SCALE};
}

static struct ana_curve curve_new(size_t cap)
{
    return (struct ana_curve){.at = keel_arena_array(arena, cap, sizeof(struct ana_point)), .cap = cap};
}

static void add(struct ana_curve *c, int64_t ts, int64_t equity, int64_t capital)
{
    struct ana_point p = point(ts, equity, capital);

    ana_curve_add(c, &p, MINUTE);
}

static struct ana_steps steps_of(const struct ana_curve *c, size_t from)
{
    struct ana_steps s = {.growth = keel_arena_array(arena, c->n, 8),
                          .returns = keel_arena_array(arena, c->n, 8),
                          .period = keel_arena_array(arena, c->n, 8)};

    ck_assert_int_eq(ana_curve_steps(c, from, MINUTE, &s), KEEL_OK);
    return s;
}

START_TEST(one_point_a_period)
{
    struct ana_curve c = curve_new(8);

    add(&c, T0, 1000, 1000);
    c.is_open_set = true;
    add(&c, T0 + 1, 990, 1000);           /* the opening stays */
    add(&c, T0 + 2, 980, 1000);           /* in the place of 990 */
    add(&c, T0 + MINUTE, 1078, 1000);     /* +10 % */
    add(&c, T0 + 2 * MINUTE, 2078, 2000); /* a deposit is no return */
    add(&c, T0 + 5 * MINUTE, 4156, 2000); /* a gap: +100 %, in the curve only */
    ck_assert_uint_eq(c.n, 5);
    struct ana_steps s = steps_of(&c, 0);
    ck_assert_uint_eq(s.n_growth, 4);
    ck_assert_uint_eq(s.n_returns, 3);
    ck_assert_double_eq_tol(s.returns[0], -0.02, 1e-15);
    ck_assert_double_eq_tol(s.returns[1], 0.1, 1e-15);
    ck_assert_double_eq_tol(s.returns[2], 0, 1e-15);
    ck_assert_double_eq_tol(s.growth[3], 1, 1e-15);
    ck_assert_int_eq(s.period[1], T0 / MINUTE + 1);
    ck_assert_uint_eq(ana_curve_since(&c, T0 + 2 * MINUTE), 2); /* what it began with */
    ck_assert_uint_eq(ana_curve_since(&c, 0), 0);
    ck_assert_uint_eq(ana_curve_since(&c, T0 + 6 * MINUTE), c.n);
    /* Another session, earlier: the curve goes on, with a gap, and a period looked at does not reach across. */
    add(&c, T0 - 3 * DAY, 4156, 2000);
    add(&c, T0 - 3 * DAY + MINUTE, 4000, 2000);
    ck_assert_uint_eq(steps_of(&c, 0).n_returns, 4);
    ck_assert_uint_eq(ana_curve_since(&c, 0), 4);
    ck_assert_int_eq(ana_curve_start(&c, 4), T0 - 3 * DAY);
    ck_assert_int_eq(ana_curve_start(&c, 5), T0 - 3 * DAY);
    ck_assert_uint_eq(ana_curve_day_base(&c), 4);
}
END_TEST

static const struct {
    const char *why;
    int points;
    size_t n;
    int64_t opening_ts;
} opening_case[] = {
    {"an empty curve", 0, 1, T0 - MINUTE / 2},
    {"points that were there before it", 3, 4, T0 - MINUTE / 2},
    {"no room: the oldest may be any", 4, 4, T0},
    {"the oldest has gone", 9, 4, T0 + 5 * MINUTE},
};

START_TEST(the_opening_comes_late)
{
    struct ana_curve c = curve_new(4);
    struct ana_point opening = point(T0 - MINUTE / 2, 1000, 1000);

    for (int i = 0; i < opening_case[_i].points; i++)
        add(&c, T0 + i * MINUTE, 1001 + i, 1000);
    ana_curve_open(&c, &opening);
    ana_curve_open(&c, &opening); /* once */
    ck_assert_uint_eq(c.n, opening_case[_i].n);
    ck_assert_int_eq(ana_curve_at(&c, 0)->ts, opening_case[_i].opening_ts);
}
END_TEST

/* Created by a clock that is ahead of the session's: no later than the first point, and it stays beside it. */
START_TEST(the_opening_is_not_later)
{
    struct ana_curve c = curve_new(4);
    struct ana_point opening = point(T0 + DAY, 1000, 1000);

    add(&c, T0, 990, 1000);
    ana_curve_open(&c, &opening);
    add(&c, T0 + 1, 980, 1000);
    ck_assert_uint_eq(c.n, 2);
    ck_assert_int_eq(ana_curve_at(&c, 0)->ts, T0);
    ck_assert_double_eq_tol(steps_of(&c, 0).returns[0], -0.02, 1e-15);
}
END_TEST

START_TEST(the_oldest_goes)
{
    struct ana_curve c = curve_new(4);

    for (int i = 0; i < 11; i++)
        add(&c, T0 + i * MINUTE, 100 + i, 100);
    ck_assert_uint_eq(c.n, 4);
    for (size_t i = 0; i < 4; i++)
        ck_assert(ana_curve_at(&c, i)->equity == (keel_i128)(107 + (int64_t)i) * KEEL_SCALE);
}
END_TEST

START_TEST(a_curve_below_nothing)
{
    struct ana_curve c = curve_new(4);
    struct ana_steps s = {.growth = keel_arena_array(arena, 4, 8),
                          .returns = keel_arena_array(arena, 4, 8),
                          .period = keel_arena_array(arena, 4, 8)};

    add(&c, T0, 0, 0);
    add(&c, T0 + MINUTE, 5, 0);
    ck_assert_int_eq(ana_curve_steps(&c, 0, MINUTE, &s), KEEL_UNDEFINED);
}
END_TEST

/* ---- trades ---- */

START_TEST(trades)
{
    struct ana_trades t = {.holding = keel_arena_array(arena, 2, sizeof(struct ana_holding)),
                           .cap_holdings = 2,
                           .at = keel_arena_array(arena, 8, sizeof(struct ana_trade)),
                           .cap = 8};
    struct ana_trade_sums s;

    ck_assert_int_eq(ana_trades_fill(&t, "A", 2, 100, 1, 1), KEEL_OK);  /* 2 at 100 */
    ck_assert_int_eq(ana_trades_fill(&t, "A", 2, 110, 1, 2), KEEL_OK);  /* 4 at 105 */
    ck_assert_int_eq(ana_trades_fill(&t, "A", -1, 107, 1, 3), KEEL_OK); /* +2 - 1 */
    ck_assert_int_eq(ana_trades_fill(&t, "A", -5, 100, 5, 4), KEEL_OK); /* 3 closed: -15 - 3; 2 short at 100 */
    ck_assert_int_eq(ana_trades_fill(&t, "A", 2, 90, 2, 5), KEEL_OK);   /* +20 - 2, flat */
    s = ana_trades_since(&t, 0);
    ck_assert_uint_eq(s.fills, 5);
    ck_assert_uint_eq(s.closed, 3);
    ck_assert_uint_eq(s.wins, 2);
    ck_assert_double_eq_tol(s.profit, 19, 1e-9);
    ck_assert_double_eq_tol(s.loss, 18, 1e-9);
    ck_assert_double_eq_tol(s.notional, 200 + 220 + 107 + 500 + 180, 1e-9);
    ck_assert_uint_eq(t.n_holdings, 0);
    ck_assert_uint_eq(ana_trades_since(&t, 4).fills, 2);
    ck_assert_int_eq(ana_trades_fill(&t, "A", 1, 1, 0, 6), KEEL_OK);
    ck_assert_int_eq(ana_trades_fill(&t, "B", 1, 1, 0, 6), KEEL_OK);
    ck_assert_int_eq(ana_trades_fill(&t, "C", 1, 1, 0, 6), KEEL_TOOBIG);
    ck_assert_uint_eq(t.n, 7);
}
END_TEST

/* ---- the market ---- */

static void bar(struct ana_market *m, const char *name, double close, int64_t period)
{
    ck_assert_int_eq(ana_market_bar(m, name, close, T0 + (period + 1) * MINUTE, MINUTE), KEEL_OK);
}

START_TEST(market)
{
    struct ana_market m = {.symbol = keel_arena_array(arena, 2, sizeof(struct ana_symbol)),
                           .cap = 2,
                           .series_cap = 4,
                           .returns = {.at = keel_arena_array(arena, 4, sizeof(struct ana_return)), .cap = 4}};
    const double r[] = {0.5, 0.6, 0.7};
    const int64_t p0 = T0 / MINUTE, period[] = {p0 + 1, p0 + 2, p0 + 4};
    double own[3], bench[3];

    bar(&m, "A", 100, 0);
    bar(&m, "B", 50, 0);
    bar(&m, "A", 101, 1);
    bar(&m, "A", 102, 1); /* the last of the period counts: +2 % */
    bar(&m, "B", 53, 1);  /* +6 % */
    bar(&m, "A", 204, 2); /* +100 %, alone */
    bar(&m, "A", 204, 4); /* after a gap: none */
    bar(&m, "B", 53, 4);
    bar(&m, "A", 1, 3); /* too late */
    bar(&m, "A", 204, 5);
    ck_assert_uint_eq(m.returns.n, 2);
    ck_assert_double_eq_tol(ana_series_at(&m.returns, 0)->value, 0.04, 1e-12);
    ck_assert_double_eq_tol(ana_series_at(&m.returns, 1)->value, 1, 1e-12);
    ck_assert_uint_eq(ana_symbol_find(&m, "B")->returns.n, 1);
    ck_assert_uint_eq(ana_pair(r, period, 3, &m.returns, own, bench), 2);
    ck_assert(own[0] == 0.5 && own[1] == 0.6);
    ck_assert_double_eq_tol(bench[1], 1, 1e-12);
    ck_assert_int_eq(ana_market_bar(&m, "C", 1, T0 + 9 * MINUTE, MINUTE), KEEL_TOOBIG);
    ck_assert_int_eq(ana_market_bar(&m, "A", 0, T0 + 9 * MINUTE, MINUTE), KEEL_INVALID);
    /* A session of an earlier time begins anew. */
    bar(&m, "A", 10, -5000);
    bar(&m, "A", 11, -4999);
    bar(&m, "A", 11, -4998);
    ck_assert_uint_eq(m.returns.n, 1);
    ck_assert_double_eq_tol(ana_series_at(&m.returns, 0)->value, 0.1, 1e-12);
    for (size_t i = 0; i < m.n; i++)
        keel_free(m.symbol[i].returns.at);
}
END_TEST

int main(void)
{
    FILE *f = vectors();
    if (!f) {
        printf("skipped: vectors/empyrical_cases.json is not below KEEL_SHARED\n");
        return getenv("CI") ? 1 : 77;
    }
    fclose(f);

    Suite *suite = suite_create("performance");
    TCase *tc = tcase_create("performance");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, empyrical, 0, (int)KEEL_COUNT(published));
    tcase_add_test(tc, empyrical_quantiles);
    tcase_add_test(tc, shape);
    tcase_add_test(tc, probabilistic);
    tcase_add_test(tc, units);
    tcase_add_test(tc, bootstrap);
    tcase_add_test(tc, bootstrap_stops);
    tcase_add_test(tc, one_point_a_period);
    tcase_add_loop_test(tc, the_opening_comes_late, 0, (int)KEEL_COUNT(opening_case));
    tcase_add_test(tc, the_opening_is_not_later);
    tcase_add_test(tc, the_oldest_goes);
    tcase_add_test(tc, a_curve_below_nothing);
    tcase_add_test(tc, trades);
    tcase_add_test(tc, market);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
