/*
 * Value at risk against shared/vectors (closed forms for the normal law, numpy's type 7 quantiles for history), against
 * sums done by hand, and the alignment of bars that do not all come.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/json.h"
#include "keel/rng.h"
#include "keel/stats.h"
#include "var.h"

static struct keel_arena *arena;

static void setup(void)
{
    arena = keel_arena_new(65536);
}

static void teardown(void)
{
    keel_arena_free(arena);
}

/* A file of shared/vectors; NULL: not there, and the test is to return. */
static const struct keel_jval *vectors(const char *name)
{
    const char *dir = getenv("KEEL_SHARED"), *why = "",
               *path = keel_arena_printf(arena, "%s/vectors/%s", dir ? dir : "../shared", name);
    const struct keel_jval *v = NULL;
    size_t cap = 1 << 20, n;
    char *text = keel_arena_alloc(arena, cap);
    FILE *f = fopen(path, "r");

    if (!f) {
        printf("skipped: no %s\n", path);
        ck_assert_msg(getenv("CI") == NULL, "no %s", path);
        return NULL;
    }
    n = fread(text, 1, cap, f);
    fclose(f);
    ck_assert_msg(n < cap && keel_json_parse(arena, text, n, &v, &why) == KEEL_OK, "%s: %s", path, why);
    return v;
}

static double number(const struct keel_jval *v)
{
    double x = 0;

    ck_assert(v != NULL && v->type == KEEL_JNUM);
    ck_assert_int_eq(keel_f64_parse(v->text, v->len, &x), KEEL_OK);
    return x;
}

static double at(const struct keel_jval *v, const char *name)
{
    return number(keel_jget(v, name));
}

static void near(double got, double want, double relative, const char *what)
{
    ck_assert_msg(fabs(got - want) <= relative * fmax(1, fabs(want)), "%s: %.17g, not %.17g", what, got, want);
}

/* ---- the normal law ---- */

START_TEST(normal_vectors)
{
    const struct keel_jval *file = vectors("var_es_parametric.json"), *list = keel_jget(file, "normal"),
                           *p = keel_jget(file, "portfolio");
    struct risk_var v;
    size_t n = 0;

    if (!file)
        return;
    for (const struct keel_jval *row = list->child; row; row = row->next, n++) {
        ck_assert_int_eq(risk_var_normal(0, 1, at(row, "alpha"), &v), KEEL_OK);
        near(v.var, at(row, "VaR_std_normal"), 1e-14, "var");
        near(v.es, at(row, "ES_std_normal"), 1e-12, "es"); /* 1 - alpha has lost digits at 0.999 */
    }
    ck_assert_uint_ge(n, 6);
    ck_assert_int_eq(risk_var_normal(0, at(p, "sigma") * at(p, "value"), 0.99, &v), KEEL_OK);
    near(v.var, at(p, "VaR99"), 1e-12, "portfolio VaR99");
    ck_assert_int_eq(risk_var_normal(0, at(p, "sigma") * at(p, "value"), 0.975, &v), KEEL_OK);
    near(v.es, at(p, "ES975"), 1e-12, "portfolio ES97.5");
}
END_TEST

static const struct {
    const char *why;
    double mean, sd, confidence;
    enum keel_status st;
    double var, es;
} normal_case[] = {
    {"at the median it is the mean's loss", -3, 2, 0.5, KEEL_OK, 3,
     3 + 2 * 2 * 0.3989422804014327}, /* es: + sd pdf(0) / .5 */
    {"no deviation", 5, 0, 0.99, KEEL_OK, -5, -5},
    {"confidence 0", 0, 1, 0, KEEL_UNDEFINED, 0, 0},
    {"confidence 1", 0, 1, 1, KEEL_UNDEFINED, 0, 0},
    {"negative deviation", 0, -1, 0.95, KEEL_UNDEFINED, 0, 0},
    {"no number", NAN, 1, 0.95, KEEL_UNDEFINED, 0, 0},
    {"infinite deviation", 0, INFINITY, 0.95, KEEL_UNDEFINED, 0, 0},
    {"confidence is no number", 0, 1, NAN, KEEL_UNDEFINED, 0, 0},
    {"a loss beyond all numbers", 0, 1e308, 0.99, KEEL_UNDEFINED, 0, 0},
};

START_TEST(normal)
{
    struct risk_var v = {0};
    enum keel_status st = risk_var_normal(normal_case[_i].mean, normal_case[_i].sd, normal_case[_i].confidence, &v);

    ck_assert_msg(st == normal_case[_i].st, "%s: %s", normal_case[_i].why, keel_status_name(st));
    near(v.var, normal_case[_i].var, 1e-15, normal_case[_i].why);
    near(v.es, normal_case[_i].es, 1e-15, normal_case[_i].why);
}
END_TEST

/* Mean, sample deviation and quantiles of Python's statistics module (fmean, stdev, NormalDist). */
START_TEST(parametric)
{
    const double x[] = {1.5, -2.0, 0.25, 4.0, -3.5, 0.75}, bad[] = {1, NAN};
    struct risk_var v = {0};

    ck_assert_int_eq(risk_var_parametric(x, 6, 0.95, &v), KEEL_OK);
    near(v.var, 4.182615800961422, 1e-14, "var 95");
    near(v.es, 5.287509013433929, 1e-13, "es 95");
    ck_assert_int_eq(risk_var_parametric(x, 6, 0.99, &v), KEEL_OK);
    near(v.var, 5.984606526512254, 1e-14, "var 99");
    near(v.es, 6.8806287832676585, 1e-13, "es 99");
    ck_assert_int_eq(risk_var_parametric(x, 1, 0.95, &v), KEEL_UNDEFINED);
    ck_assert_int_eq(risk_var_parametric(bad, 2, 0.95, &v), KEEL_UNDEFINED);
    near(v.var, 5.984606526512254, 1e-14, "untouched by a failure");
}
END_TEST

/* ---- history ---- */

static enum keel_status historical_at(const double *x, size_t n, double confidence, struct risk_var *out)
{
    return risk_var_historical(x, n, &confidence, 1, arena, out);
}

START_TEST(historical_vectors)
{
    static const char *const quantile[] = {"q0.01", "q0.025", "q0.05", "q0.1", "q0.25", "q0.5"};
    static const double left[] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5};
    static const char *const tail[] = {"0.05", "0.1", "0.25"};
    static const double tail_of[] = {0.05, 0.1, 0.25};
    const struct keel_jval *file = vectors("historical_var_conventions.json"), *type7 = NULL;
    double x[64];
    size_t n = 0;
    struct risk_var v;

    if (!file)
        return;
    for (const struct keel_jval *r = keel_jget(file, "returns_sorted")->child; r; r = r->next)
        x[n++] = number(r);
    for (const struct keel_jval *r = keel_jget(file, "quantiles")->child; r; r = r->next)
        if (at(r, "hyndman_fan_type") == 7)
            type7 = r;
    ck_assert(n == 20 && type7);
    for (size_t i = 0; i < n / 2; i += 3) { /* any order */
        double one = x[i];
        x[i] = x[n - 1 - i];
        x[n - 1 - i] = one;
    }
    for (size_t i = 0; i < KEEL_COUNT(left); i++) {
        ck_assert_int_eq(historical_at(x, n, 1 - left[i], &v), KEEL_OK);
        near(v.var, -at(type7, quantile[i]), 1e-15, quantile[i]);
    }
    for (size_t i = 0; i < KEEL_COUNT(tail); i++) {
        ck_assert_int_eq(historical_at(x, n, 1 - tail_of[i], &v), KEEL_OK);
        near(v.es, -at(keel_jget(file, "ES_mean_le_type7"), tail[i]), 1e-15, tail[i]);
    }
}
END_TEST

/* By hand: with n values sorted up, h = (n - 1)(1 - confidence), the quantile lies h - floor(h) between two neighbours.
 */
static const struct {
    const char *why;
    double x[11];
    size_t n;
    double confidence;
    enum keel_status st;
    double var, es;
} history_case[] = {
    {"worst of five", {-0.05, 0.01, 0.02, -0.01, 0.03}, 5, 0.9999, KEEL_OK, 0.049984, 0.05},
    {"the second of five", {-0.05, 0.01, 0.02, -0.01, 0.03}, 5, 0.75, KEEL_OK, 0.01, 0.03},
    {"the second of eleven, where 10 * (1 - 0.9) is a hair below 1",
     {-4, -2, 0, 1, 2, 3, 4, 5, 6, 7, 8},
     11,
     0.9,
     KEEL_OK,
     2,
     3},
    {"gains only: no loss", {0.01, 0.02, 0.03}, 3, 0.95, KEEL_OK, -0.011, -0.01},
    {"all the same", {-2, -2, -2, -2}, 4, 0.99, KEEL_OK, 2, 2},
    {"two points, their middle", {-1, 3}, 2, 0.5, KEEL_OK, -1, 1},
    {"one point", {0.01}, 1, 0.95, KEEL_UNDEFINED, 0, 0},
    {"not finite", {0.01, -INFINITY}, 2, 0.95, KEEL_UNDEFINED, 0, 0},
    {"confidence 1", {0.01, 0.02}, 2, 1, KEEL_UNDEFINED, 0, 0},
    {"a sum beyond all numbers", {-1e308, -1e308, -1e308}, 3, 0.5, KEEL_UNDEFINED, 0, 0},
};

START_TEST(historical)
{
    double x[11];
    struct risk_var v = {0};
    enum keel_status st;

    memcpy(x, history_case[_i].x, sizeof x);
    st = historical_at(x, history_case[_i].n, history_case[_i].confidence, &v);
    ck_assert_msg(st == history_case[_i].st, "%s: %s", history_case[_i].why, keel_status_name(st));
    near(v.var, history_case[_i].var, 1e-14, history_case[_i].why);
    near(v.es, history_case[_i].es, 1e-14, history_case[_i].why);
    ck_assert_msg(memcmp(x, history_case[_i].x, sizeof x) == 0, "%s: the input was changed", history_case[_i].why);
}
END_TEST

/* What holds for any series: es >= var, both grow with confidence, move with a shift and stretch with a scale. */
START_TEST(historical_properties)
{
    static const double confidence[] = {0.6, 0.9, 0.95, 0.99};
    struct keel_rng rng;

    keel_rng_seed(&rng, 99);
    for (int run = 0; run < 200; run++) {
        double x[200], y[200], last = -1e300;
        size_t n = 2 + keel_rng_below(&rng, 198);

        for (size_t i = 0; i < n; i++) {
            x[i] = keel_rng_normal(&rng);
            y[i] = 3 * x[i] + 7;
        }
        for (size_t i = 0; i < KEEL_COUNT(confidence); i++) {
            struct risk_var v, w;
            ck_assert_int_eq(historical_at(x, n, confidence[i], &v), KEEL_OK);
            ck_assert_int_eq(historical_at(y, n, confidence[i], &w), KEEL_OK);
            ck_assert(v.es >= v.var && v.var >= last);
            near(w.var, 3 * v.var - 7, 1e-12, "3x + 7, var");
            near(w.es, 3 * v.es - 7, 1e-12, "3x + 7, es");
            last = v.var;
        }
        keel_arena_reset(arena);
    }
}
END_TEST

/*
 * Bit by bit what a whole sort gives, at several confidences at once and in any order of them; rounded values tie at
 * the quantile, and some of those are beyond what was selected.
 */
START_TEST(selection_changes_nothing)
{
    static const double confidence[] = {0.99, 0.5, 0.95, 0.9999};
    struct keel_rng rng;

    keel_rng_seed(&rng, 7);
    for (int run = 0; run < 300; run++) {
        double x[400], sorted[400];
        struct risk_var got[KEEL_COUNT(confidence)];
        size_t n = 2 + keel_rng_below(&rng, 398);

        for (size_t i = 0; i < n; i++)
            x[i] = run % 2 ? keel_rng_normal(&rng) : floor(3 * keel_rng_normal(&rng)) / 10;
        memcpy(sorted, x, sizeof sorted);
        keel_sort_f64(sorted, n);
        ck_assert_int_eq(risk_var_historical(x, n, confidence, KEEL_COUNT(confidence), arena, got), KEEL_OK);
        for (size_t i = 0; i < KEEL_COUNT(confidence); i++) {
            double q = keel_quantile_sorted(sorted, n, 1 - confidence[i]), h = (double)(n - 1) * (1 - confidence[i]);
            struct keel_sum sum = {0};
            size_t k = 0;

            for (; k < n && (sorted[k] <= q || (double)k <= h + 1e-9); k++)
                keel_sum_add(&sum, sorted[k]);
            ck_assert(got[i].var == -q && got[i].es == -keel_sum_value(&sum) / (double)k);
        }
        keel_arena_reset(arena);
    }
}
END_TEST

/* ---- bars ---- */

static struct risk_closes *closes_of(size_t n, const int64_t *ts, const double *close)
{
    struct risk_closes *c = keel_arena_alloc(arena, sizeof *c);

    for (size_t i = 0; i < n; i++)
        risk_closes_add(c, ts[i], close[i]);
    return c;
}

START_TEST(closes_are_taken_in_order)
{
    const int64_t ts[] = {10, 20, 20, 15, 30, 40, 50};
    const double close[] = {1, 2, 9, 9, 0, NAN, 5};
    const struct risk_closes *c = closes_of(7, ts, close);

    ck_assert_uint_eq(c->n, 3); /* 20 again, 15 after 20, a close of 0 and one that is no number are left out */
    ck_assert(c->ts[0] == 10 && c->ts[1] == 20 && c->ts[2] == 50);
    ck_assert(c->close[0] == 1 && c->close[1] == 2 && c->close[2] == 5);
}
END_TEST

START_TEST(closes_keep_the_newest)
{
    struct risk_closes *c = keel_arena_alloc(arena, sizeof *c);
    const struct risk_closes *of[] = {c};
    const double value = 100;
    double profit[RISK_CLOSES];
    size_t n;

    /* Doubling or halving in turns, so that each profit says which bars it is of. */
    for (int i = 0; i < 3 * RISK_CLOSES + 5; i++)
        risk_closes_add(c, i + 1, i % 2 ? 2 : 1);
    ck_assert_uint_eq(c->n, RISK_CLOSES);
    n = risk_profits(of, &value, 1, profit);
    ck_assert_uint_eq(n, RISK_CLOSES - 1);
    for (size_t i = 0; i < n; i++) /* the oldest kept is number 2 * RISK_CLOSES + 6, an odd index: 2 -> 1 first */
        near(profit[i], i % 2 ? 100 : -50, 1e-15, "profit");
}
END_TEST

/* Bars of three symbols; a hole in any of them takes both returns beside it away, and never makes one over two bars. */
static const struct {
    const char *why;
    size_t k;
    struct { size_t n; int64_t ts[6]; double close[6]; double value; } s[3];
    size_t n;
    double profit[6];
} profit_case[] = {
    {"no symbol", 0, {{0, {0}, {0}, 0}}, 0, {0}},
    {"no bar", 1, {{0, {0}, {0}, 100}}, 0, {0}},
    {"one bar", 1, {{1, {1}, {10}, 100}}, 0, {0}},
    {"one symbol", 1, {{3, {1, 2, 3}, {10, 11, 5.5}, 100}}, 2, {10, -50}},
    {"a short position", 1, {{3, {1, 2, 3}, {10, 11, 5.5}, -100}}, 2, {-10, 50}},
    {"two symbols", 2, {{3, {1, 2, 3}, {10, 11, 5.5}, 100}, {3, {1, 2, 3}, {1, 2, 2}, 10}}, 2, {20, -50}},
    {"they offset", 2, {{2, {1, 2}, {10, 11}, 100}, {2, {1, 2}, {20, 22}, -100}}, 1, {0}},
    {"the second begins later", 2, {{4, {1, 2, 3, 4}, {1, 2, 4, 8}, 1}, {3, {2, 3, 4}, {1, 1, 2}, 1}}, 2, {1, 2}},
    {"the second ends earlier", 2, {{4, {1, 2, 3, 4}, {1, 2, 4, 8}, 1}, {2, {1, 2}, {1, 3}, 1}}, 1, {3}},
    {"a hole in the second", 2, {{4, {1, 2, 3, 4}, {1, 2, 4, 8}, 1}, {3, {1, 3, 4}, {1, 1, 3}, 1}}, 1, {3}},
    {"a hole in the first", 2, {{3, {1, 3, 4}, {1, 4, 8}, 1}, {4, {1, 2, 3, 4}, {1, 1, 1, 3}, 1}}, 1, {3}},
    {"holes in different places",
     3,
     {{5, {1, 2, 3, 4, 5}, {1, 2, 4, 8, 16}, 1},
      {4, {1, 2, 4, 5}, {1, 1, 1, 2}, 1},
      {4, {2, 3, 4, 5}, {1, 1, 1, 1}, 1}},
     1,
     {2}},
    {"nothing in common", 2, {{3, {1, 3, 5}, {1, 1, 1}, 1}, {2, {2, 4}, {1, 1}, 1}}, 0, {0}},
    {"stamps fall together, bars do not", 2, {{2, {1, 3}, {1, 2}, 1}, {3, {1, 2, 3}, {1, 1, 1}, 1}}, 0, {0}},
};

START_TEST(profits)
{
    const struct risk_closes *closes[3];
    double value[3], got[RISK_CLOSES], growth[3 * RISK_CLOSES];
    size_t k = profit_case[_i].k, n;

    for (size_t i = 0; i < k; i++) {
        closes[i] = closes_of(profit_case[_i].s[i].n, profit_case[_i].s[i].ts, profit_case[_i].s[i].close);
        value[i] = profit_case[_i].s[i].value;
    }
    n = risk_profits(closes, value, k, got);
    ck_assert_msg(n == profit_case[_i].n, "%s: %zu profits", profit_case[_i].why, n);
    for (size_t i = 0; i < n; i++)
        near(got[i], profit_case[_i].profit[i], 1e-13, profit_case[_i].why);
    /* The same pairs of bars, each symbol for itself. */
    ck_assert_uint_eq(risk_growths(closes, k, growth), n);
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t s = 0; s < k; s++)
            sum += value[s] * (growth[i * k + s] - 1);
        near(sum, profit_case[_i].profit[i], 1e-13, profit_case[_i].why);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("var");
    TCase *law = tcase_create("normal"), *history = tcase_create("historical"), *bars = tcase_create("bars");

    tcase_add_checked_fixture(law, setup, teardown);
    tcase_add_checked_fixture(history, setup, teardown);
    tcase_add_checked_fixture(bars, setup, teardown);
    tcase_add_test(law, normal_vectors);
    tcase_add_loop_test(law, normal, 0, (int)KEEL_COUNT(normal_case));
    tcase_add_test(law, parametric);
    tcase_add_test(history, historical_vectors);
    tcase_add_loop_test(history, historical, 0, (int)KEEL_COUNT(history_case));
    tcase_add_test(history, historical_properties);
    tcase_add_test(history, selection_changes_nothing);
    tcase_add_test(bars, closes_are_taken_in_order);
    tcase_add_test(bars, closes_keep_the_newest);
    tcase_add_loop_test(bars, profits, 0, (int)KEEL_COUNT(profit_case));
    suite_add_tcase(suite, law);
    suite_add_tcase(suite, history);
    suite_add_tcase(suite, bars);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
