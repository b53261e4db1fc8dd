/*
 * The factor model's arithmetic: the solver against NIST's certified Longley regression, the estimation against
 * toraniko's published cross-section, exposures against their formulas evaluated elsewhere.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "factor_model.h"
#include "keel/rng.h"
#include "keel/stats.h"
#include "linear.h"

static struct keel_arena *arena;

static void setup(void)
{
    arena = keel_arena_new(1 << 16);
}

static void teardown(void)
{
    keel_arena_free(arena);
}

static FILE *shared(const char *name)
{
    const char *dir = getenv("KEEL_SHARED");
    char path[512];
    FILE *f;

    snprintf(path, sizeof path, "%s/vectors/%s", dir ? dir : "../shared", name);
    f = fopen(path, "r");
    if (!f) {
        printf("skipped: %s is not there (KEEL_SHARED)\n", path);
        exit(getenv("CI") ? 1 : 77);
    }
    return f;
}

/* Rows of a CSV with a header, cols values each; returns how many. */
static size_t read_csv(const char *name, double *out, size_t rows, size_t cols)
{
    FILE *f = shared(name);
    char line[1024];
    size_t n = 0;

    ck_assert_ptr_nonnull(fgets(line, sizeof line, f));
    while (n < rows && fgets(line, sizeof line, f)) {
        char *p = line;

        for (size_t j = 0; j < cols; j++, p += *p == ',')
            out[n * cols + j] = strtod(p, &p);
        n++;
    }
    fclose(f);
    return n;
}

/* The numbers of the array called name in a JSON file. */
static size_t read_numbers(const char *file, const char *name, double *out, size_t most)
{
    static char text[8192];
    char quoted[64];
    FILE *f = shared(file);
    size_t n = 0, len = fread(text, 1, sizeof text - 1, f);
    char *p;

    fclose(f);
    text[len] = 0;
    snprintf(quoted, sizeof quoted, "\"%s\"", name);
    p = strstr(text, quoted);
    ck_assert_ptr_nonnull(p);
    p = strchr(p, '[') + 1;
    while (n < most) {
        char *end;
        double v = strtod(p, &end);

        if (end == p)
            break;
        out[n++] = v;
        p = end + strspn(end, ", \n");
    }
    return n;
}

#define RELATIVE(got, want, tol) \
    ck_assert_msg(fabs((got) - (want)) <= (tol) * fabs(want), "%.17g, not %.17g", (double)(got), (double)(want))

/* ---- solver ---- */

START_TEST(longley)
{
    double data[16 * 7], x[16 * 7], y[16], beta[7], se[7];
    struct factor_ls ls;

    ck_assert_uint_eq(read_csv("nist_longley.csv", data, 16, 7), 16);
    ck_assert_uint_eq(read_numbers("nist_strd.json", "beta", beta, 7), 7);
    ck_assert_uint_eq(read_numbers("nist_strd.json", "se", se, 7), 7);
    for (size_t i = 0; i < 16; i++) {
        y[i] = data[i * 7];
        x[i * 7] = 1;
        memcpy(&x[i * 7 + 1], &data[i * 7 + 1], 6 * sizeof *x);
    }
    ck_assert_int_eq(factor_least_squares(x, y, NULL, 16, 7, arena, &ls), KEEL_OK);
    for (size_t j = 0; j < 7; j++) {
        RELATIVE(ls.beta[j], beta[j], 1e-9);
        RELATIVE(sqrt(ls.cov[j * 7 + j] * ls.rss / 9), se[j], 1e-9);
    }
    RELATIVE(ls.rss, 836424.055505915, 1e-10);
}
END_TEST

/* NIST Wampler 1 and 2: polynomials over 0..20 that fit exactly. */
START_TEST(wampler)
{
    double x[21 * 6], y1[21], y2[21];
    struct factor_ls ls;

    for (size_t i = 0; i < 21; i++) {
        double p = 1, q = 1;

        y1[i] = y2[i] = 0;
        for (size_t j = 0; j < 6; j++, p *= (double)i, q *= 0.1) {
            x[i * 6 + j] = p;
            y1[i] += p;
            y2[i] += p * q;
        }
    }
    ck_assert_int_eq(factor_least_squares(x, y1, NULL, 21, 6, arena, &ls), KEEL_OK);
    for (size_t j = 0; j < 6; j++)
        RELATIVE(ls.beta[j], 1.0, 1e-8);
    ck_assert_int_eq(factor_least_squares(x, y2, NULL, 21, 6, arena, &ls), KEEL_OK);
    for (size_t j = 0; j < 6; j++)
        RELATIVE(ls.beta[j], pow(0.1, (double)j), 1e-8);
}
END_TEST

/* A weight of 4 is four equal observations. */
START_TEST(weights)
{
    const double x[] = {1, 1, 1, 2, 1, 4}, y[] = {1, 3, 4}, w[] = {4, 1, 1};
    const double xx[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 4}, yy[] = {1, 1, 1, 1, 3, 4};
    struct factor_ls a, b;

    ck_assert_int_eq(factor_least_squares(x, y, w, 3, 2, arena, &a), KEEL_OK);
    ck_assert_int_eq(factor_least_squares(xx, yy, NULL, 6, 2, arena, &b), KEEL_OK);
    for (size_t i = 0; i < 2; i++)
        RELATIVE(a.beta[i], b.beta[i], 1e-13);
    for (size_t i = 0; i < 4; i++)
        RELATIVE(a.cov[i], b.cov[i], 1e-13);
    RELATIVE(a.rss, b.rss, 1e-13);
}
END_TEST

START_TEST(unsolvable)
{
    const double same[] = {1, 2, 1, 2, 1, 2}, zero[] = {1, 0, 2, 0, 3, 0}, fine[] = {1, 1, 1, 2, 1, 3},
                 y[] = {1, 2, 4}, bad[] = {1, NAN, 3}, w[] = {1, 0, 1};
    struct factor_ls ls = {.rss = 42};

    ck_assert_int_eq(factor_least_squares(same, y, NULL, 3, 2, arena, &ls), KEEL_UNDEFINED);
    ck_assert_int_eq(factor_least_squares(zero, y, NULL, 3, 2, arena, &ls), KEEL_UNDEFINED);
    ck_assert_int_eq(factor_least_squares(fine, bad, NULL, 3, 2, arena, &ls), KEEL_UNDEFINED);
    ck_assert_int_eq(factor_least_squares(fine, y, w, 3, 2, arena, &ls), KEEL_UNDEFINED);
    ck_assert_int_eq(factor_least_squares(fine, y, NULL, 1, 2, arena, &ls), KEEL_UNDEFINED);
    ck_assert_int_eq(factor_least_squares(fine, y, NULL, 3, 0, arena, &ls), KEEL_UNDEFINED);
    ck_assert(ls.rss == 42);
    ck_assert_int_eq(factor_least_squares(fine, y, NULL, 3, 2, arena, &ls), KEEL_OK);
}
END_TEST

/* ---- estimation ---- */

struct published { double ret[100], weight[100], sector[1000], style[500]; };

static struct factor_cross published(struct published *p)
{
    double data[100 * 17];

    ck_assert_uint_eq(read_csv("toraniko_cross_section.csv", data, 100, 17), 100);
    for (size_t i = 0; i < 100; i++) {
        p->ret[i] = data[i * 17];
        p->weight[i] = sqrt(data[i * 17 + 1]);
        memcpy(&p->sector[i * 10], &data[i * 17 + 2], 10 * sizeof(double));
        memcpy(&p->style[i * 5], &data[i * 17 + 12], 5 * sizeof(double));
    }
    return (struct factor_cross){.n = 100, .n_sectors = 10, .n_styles = 5, .ret = p->ret, .weight = p->weight,
                                 .sector = p->sector, .style = p->style};
}

START_TEST(toraniko)
{
    static struct published p;
    struct factor_cross c = published(&p);
    struct factor_estimate e;
    double factor[16], residual[10], sum = 0;

    ck_assert_uint_eq(read_numbers("toraniko_expected.json", "factor_returns", factor, 16), 16);
    ck_assert_uint_eq(read_numbers("toraniko_expected.json", "residual_first10", residual, 10), 10);
    ck_assert_int_eq(factor_estimate_cross(&c, arena, &e), KEEL_OK);
    /* Printed to 8 decimals: half of the last one, and rounding. */
    for (size_t j = 0; j < 16; j++)
        ck_assert_double_eq_tol(e.factor[j], factor[j], 5.01e-9);
    for (size_t i = 0; i < 10; i++)
        ck_assert_double_eq_tol(e.residual[i], residual[i], 5.01e-9);
    for (size_t j = 1; j <= 10; j++)
        sum += e.factor[j];
    ck_assert_double_eq_tol(sum, 0, 1e-12);
    for (size_t j = 0; j < 16; j++)
        ck_assert_double_gt(e.error[j], 0);
    ck_assert(e.has_r2 && e.r2 > 0 && e.r2 < 1);
}
END_TEST

/* Which sector comes last must not matter, to its error either. */
START_TEST(last_sector)
{
    static struct published p;
    struct factor_cross c = published(&p);
    struct factor_estimate a, b;

    ck_assert_int_eq(factor_estimate_cross(&c, arena, &a), KEEL_OK);
    for (size_t i = 0; i < 100; i++) {
        double first = p.sector[i * 10];

        memmove(&p.sector[i * 10], &p.sector[i * 10 + 1], 9 * sizeof first);
        p.sector[i * 10 + 9] = first;
    }
    ck_assert_int_eq(factor_estimate_cross(&c, arena, &b), KEEL_OK);
    for (size_t j = 0; j < 10; j++) {
        ck_assert_double_eq_tol(a.factor[1 + j], b.factor[1 + (j + 9) % 10], 1e-12);
        ck_assert_double_eq_tol(a.error[1 + j], b.error[1 + (j + 9) % 10], 1e-12);
    }
    for (size_t i = 0; i < 100; i++)
        ck_assert_double_eq_tol(a.residual[i], b.residual[i], 1e-12);
}
END_TEST

/* Returns made of a market of 1 % and two styles: found again exactly, nothing is left. */
START_TEST(found_again)
{
    const double style[] = {1, -1, -1, -1, 2, 0, -2, 0, 0, 3, 0, -1};
    const double weight[] = {1, 1, 1, 1, 1, 1};
    double ret[6];
    struct factor_cross c = {.n = 6, .n_styles = 2, .ret = ret, .weight = weight, .style = style};
    struct factor_estimate e;

    for (size_t i = 0; i < 6; i++)
        ret[i] = 0.01 + 0.02 * style[2 * i] - 0.005 * style[2 * i + 1];
    ck_assert_int_eq(factor_estimate_cross(&c, arena, &e), KEEL_OK);
    ck_assert_double_eq_tol(e.factor[0], 0.01, 1e-15);
    ck_assert_double_eq_tol(e.factor[1], 0.02, 1e-15);
    ck_assert_double_eq_tol(e.factor[2], -0.005, 1e-15);
    ck_assert_double_eq_tol(e.r2, 1, 1e-12);
    for (size_t i = 0; i < 6; i++)
        ck_assert_double_eq_tol(e.residual[i], 0, 1e-15);
    c.n = 3;
    ck_assert_int_eq(factor_estimate_cross(&c, arena, &e), KEEL_UNDEFINED);
    c.n = 6;
    c.n_styles = 0;
    ck_assert_int_eq(factor_estimate_cross(&c, arena, &e), KEEL_UNDEFINED);
}
END_TEST

/* ---- exposures ---- */

static const double closes[] = {100, 101, 99.5, 102, 103, 101.5, 104, 103.5},
                    volumes[] = {10, 12, 0, 8, 15, 9, 11, 20};

/* FACTOR_MAP's formulas, evaluated with Python's math and statistics modules: k 2, lookback 5 and 7. */
static const struct { uint32_t lookback, bars; double raw[FACTOR_N]; } formulas[] = {
    {5, 8,
     {0.006633718105765007, -0.01951281422358172, 0.017541197908569048, 11.089198520120693, 7.1683487457431845}},
    {7, 8,
     {0.002977722498750112, -0.01951281422358172, 0.01680921310308814, 11.169429568513623, 7.003130391743207}},
};

START_TEST(formulas_evaluated)
{
    struct factor_conf conf = {formulas[_i].lookback, 2, 2};
    struct factor_history h;
    const struct factor_point *p;
    double storage[16];

    factor_history_init(&h, &conf, storage);
    ck_assert_ptr_null(factor_newest(&h));
    for (uint32_t i = 0; i < formulas[_i].bars; i++)
        ck_assert(factor_history_add(&h, &conf, (int64_t)i + 1, closes[i], volumes[i]));
    p = factor_newest(&h);
    ck_assert_uint_eq(p->have, formulas[_i].lookback);
    ck_assert_uint_eq(p->has, (1u << FACTOR_N) - 1);
    for (int f = 0; f < FACTOR_N; f++)
        RELATIVE(p->raw[f], formulas[_i].raw[f], 1e-12);
    RELATIVE(p->ret, 103.5 / 104 - 1, 1e-12);
}
END_TEST

START_TEST(warming_up)
{
    struct factor_conf conf = {5, 2, 4};
    struct factor_history h;
    const struct factor_point *at, *before;
    double storage[12];

    factor_history_init(&h, &conf, storage);
    for (int64_t i = 0; i < 4; i++) {
        /* A pair needs two bars; momentum three returns, reversal and volatility two; nothing traded: no size. */
        factor_history_add(&h, &conf, i, closes[i], 0);
        ck_assert_uint_eq(factor_newest(&h)->have, (unsigned)i);
        ck_assert_uint_eq(factor_newest(&h)->has, (i >= 3 ? 1u << FACTOR_MOMENTUM : 0) |
                                                      (i >= 2 ? 1u << FACTOR_REVERSAL | 1u << FACTOR_VOLATILITY : 0));
        ck_assert_int_eq(factor_pair(&h, i, &at, &before), i > 0);
    }
    ck_assert(factor_pair(&h, 2, &at, &before) && at->ts_close == 2 && before->ts_close == 1);
    ck_assert(!factor_pair(&h, 9, &at, &before));
    ck_assert(!factor_history_add(&h, &conf, 3, 50, 1));
    ck_assert_uint_eq(factor_newest(&h)->have, 3);
    ck_assert(factor_history_add(&h, &conf, 1, 50, 1));
    ck_assert_uint_eq(factor_newest(&h)->have, 0);
    ck_assert_double_eq(factor_newest(&h)->ret, 0);
    ck_assert(!factor_pair(&h, 3, &at, &before));
}
END_TEST

/* The points of a pair stay right when the ring of points has gone round. */
START_TEST(long_history)
{
    struct factor_conf conf = {5, 2, 4};
    struct factor_history h;
    const struct factor_point *at, *before;
    double storage[12];

    factor_history_init(&h, &conf, storage);
    for (int64_t i = 0; i < 100; i++)
        factor_history_add(&h, &conf, i, 100 + (double)(i % 7), 1);
    ck_assert(factor_pair(&h, 93, &at, &before));
    RELATIVE(at->ret, (100 + 93 % 7) / (100.0 + 92 % 7) - 1, 1e-12);
    ck_assert_int_eq(before->ts_close, 92);
    ck_assert(!factor_pair(&h, 92, &at, &before));
}
END_TEST


static void points(struct factor_point *p, const struct factor_point **to, size_t n, uint64_t seed)
{
    struct keel_rng rng;

    keel_rng_seed(&rng, seed);
    for (size_t i = 0; i < n; i++) {
        p[i] = (struct factor_point){.has = (1u << FACTOR_N) - 1};
        for (int f = 0; f < FACTOR_N; f++)
            p[i].raw[f] = 1e3 + keel_rng_normal(&rng);
        to[i] = &p[i];
    }
}

START_TEST(standardised)
{
    struct factor_point p[50];
    const struct factor_point *to[50];
    struct factor_section s;

    points(p, to, 50, 1);
    p[7].raw[FACTOR_SIZE] = 1e6;
    p[8].has &= ~(1u << FACTOR_MOMENTUM);
    p[8].raw[FACTOR_MOMENTUM] = 0;
    factor_standardise(to, 50, arena, &s);
    ck_assert_uint_eq(s.defined, (1u << FACTOR_N) - 1);
    for (int f = 0; f < FACTOR_N; f++) {
        double sum = 0, squares = 0, n = f == FACTOR_MOMENTUM ? 49 : 50;

        ck_assert_uint_eq(s.count[f], (size_t)n);
        for (size_t i = 0; i < 50; i++) {
            double z = s.has[i] >> f & 1 ? s.z[i * FACTOR_N + (size_t)f] : 0;
            sum += z;
            squares += z * z;
        }
        ck_assert_double_eq_tol(sum / n, 0, 1e-12);
        ck_assert_double_eq_tol(squares / (n - 1), 1, 1e-12);
    }
    ck_assert_double_gt(s.z[7 * FACTOR_N + FACTOR_SIZE], 2);
    ck_assert_double_lt(s.z[7 * FACTOR_N + FACTOR_SIZE], 4);
}
END_TEST

/* (x - 3) / sqrt(2.5) of 1..5 */
START_TEST(by_hand)
{
    struct factor_point p[5];
    const struct factor_point *to[5];
    struct factor_section s;
    double r;

    points(p, to, 5, 2);
    for (size_t i = 0; i < 5; i++) {
        p[i].raw[FACTOR_MOMENTUM] = (double)i + 1;
        p[i].raw[FACTOR_REVERSAL] = -2 * (double)i;
        p[i].raw[FACTOR_VOLATILITY] = 0.1;
        p[i].raw[FACTOR_SIZE] = (double)(i * i);
    }
    p[2].has &= ~(1u << FACTOR_LIQUIDITY);
    factor_standardise(to, 5, arena, &s);
    for (size_t i = 0; i < 5; i++)
        RELATIVE(s.z[i * FACTOR_N + FACTOR_MOMENTUM] + 10, ((double)i - 2) / sqrt(2.5) + 10, 1e-14);
    ck_assert_uint_eq(s.defined, 1u << FACTOR_MOMENTUM | 1u << FACTOR_REVERSAL | 1u << FACTOR_SIZE);
    ck_assert_uint_eq(s.count[FACTOR_LIQUIDITY], 4);
    ck_assert_int_eq(factor_correlation(&s, 5, FACTOR_MOMENTUM, FACTOR_REVERSAL, &r), KEEL_OK);
    ck_assert_double_eq_tol(r, -1, 1e-15);
    /* cov(i, i^2) = 10, var(i) = 2.5, var(i^2) = 43.5 */
    ck_assert_int_eq(factor_correlation(&s, 5, FACTOR_MOMENTUM, FACTOR_SIZE, &r), KEEL_OK);
    ck_assert_double_eq_tol(r, 10 / sqrt(2.5 * 43.5), 1e-14);
    ck_assert_int_eq(factor_correlation(&s, 5, FACTOR_MOMENTUM, FACTOR_VOLATILITY, &r), KEEL_UNDEFINED);
    factor_standardise(to, 4, arena, &s);
    ck_assert_uint_eq(s.defined, 0);
    ck_assert_int_eq(factor_correlation(&s, 4, FACTOR_MOMENTUM, FACTOR_SIZE, &r), KEEL_UNDEFINED);
}
END_TEST

/* 1, 2, 3, 4, 100: median 3, median absolute deviation 1, so 100 becomes 3 + 3 * 1.4826022185. */
START_TEST(outlier)
{
    struct factor_point p[5];
    const struct factor_point *to[5];
    struct factor_section s;
    const double x[] = {1, 2, 3, 4, 7.447806655516805};
    double mean = 0, squares = 0;

    points(p, to, 5, 3);
    for (size_t i = 0; i < 5; i++) {
        p[i].raw[FACTOR_SIZE] = i < 4 ? x[i] : 100;
        mean += x[i] / 5;
    }
    for (size_t i = 0; i < 5; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    factor_standardise(to, 5, arena, &s);
    for (size_t i = 0; i < 5; i++)
        ck_assert_double_eq_tol(s.z[i * FACTOR_N + FACTOR_SIZE], (x[i] - mean) / sqrt(squares / 4), 1e-14);
}
END_TEST

/* Medians by sorting, of values with and without ties. */
START_TEST(against_sorting)
{
    struct factor_point p[64];
    const struct factor_point *to[64];
    struct factor_section s;
    size_t n = (size_t)_i;

    for (int round = 0; round < 20; round++) {
        double x[64], work[64], median, spread;
        struct keel_moments m = {0};

        points(p, to, n, (uint64_t)(round * 100 + _i));
        for (size_t i = 0; i < n; i++) {
            /* Odd rounds: few different values; a long tail either way. */
            double v = pow(p[i].raw[FACTOR_SIZE] - 1e3, 3);
            p[i].raw[FACTOR_SIZE] = work[i] = x[i] = round % 2 ? floor(v + 0.5) : v;
        }
        keel_sort_f64(work, n);
        median = keel_quantile_sorted(work, n, 0.5);
        for (size_t i = 0; i < n; i++)
            work[i] = fabs(x[i] - median);
        keel_sort_f64(work, n);
        spread = 3 * keel_quantile_sorted(work, n, 0.5) / keel_norm_inv(0.75);
        for (size_t i = 0; i < n; i++) {
            if (spread > 0)
                x[i] = x[i] > median + spread ? median + spread : x[i] < median - spread ? median - spread : x[i];
            keel_moments_add(&m, x[i]);
        }
        factor_standardise(to, n, arena, &s);
        ck_assert_int_eq(s.defined >> FACTOR_SIZE & 1, keel_moments_var(&m) > 0);
        for (size_t i = 0; i < n && keel_moments_var(&m) > 0; i++)
            ck_assert_double_eq_tol(s.z[i * FACTOR_N + FACTOR_SIZE], (x[i] - m.mean) / sqrt(keel_moments_var(&m)),
                                    1e-9);
    }
}
END_TEST

START_TEST(names)
{
    for (int f = 0; f < FACTOR_N; f++)
        ck_assert_int_eq(factor_find(factor_defs[f].name), f);
    ck_assert_int_eq(factor_find("value"), -1);
}
END_TEST

int main(void)
{
    fclose(shared("toraniko_cross_section.csv")); /* before there is anything to free */

    Suite *suite = suite_create("factor_model");
    TCase *tc = tcase_create("factor_model");
    SRunner *runner;
    int failed;

    suite_add_tcase(suite, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, longley);
    tcase_add_test(tc, wampler);
    tcase_add_test(tc, weights);
    tcase_add_test(tc, unsolvable);
    tcase_add_test(tc, toraniko);
    tcase_add_test(tc, last_sector);
    tcase_add_test(tc, found_again);
    tcase_add_loop_test(tc, formulas_evaluated, 0, (int)KEEL_COUNT(formulas));
    tcase_add_test(tc, warming_up);
    tcase_add_test(tc, long_history);
    tcase_add_test(tc, standardised);
    tcase_add_test(tc, by_hand);
    tcase_add_test(tc, outlier);
    tcase_add_loop_test(tc, against_sorting, 5, 65);
    tcase_add_test(tc, names);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
