/*
 * Statistics and random numbers. NumAcc 1 to 4 are data sets of the NIST Statistical Reference
 * Datasets, with their certified means and standard deviations; quantiles are numpy's ("linear");
 * the normal distribution was computed with mpmath at 60 digits; the generators are checked
 * against the published outputs of splitmix64 (seed 1234567) and xoshiro256** (state 1, 2, 3, 4).
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "keel/rng.h"
#include "keel/stats.h"

/* ---- moments and sums ---- */

/*
 * Three values, or c + 0.2 and then c + 0.1, c + 0.3 five hundred times. The tolerance of the
 * standard deviation is what half an ulp of the data (not representable) does to it, with a margin.
 */
static const struct {
    const char *name;
    double center, mean, sd, tolerance;
} numacc_case[] = {
    {"NumAcc2", 1, 1.2, 0.1, 1e-13},
    {"NumAcc3", 1000000, 1000000.2, 0.1, 1e-9},
    {"NumAcc4", 10000000, 10000000.2, 0.1, 1e-8},
};

START_TEST(numacc)
{
    struct keel_moments m = {0};
    struct keel_sum sum = {0};
    double c = numacc_case[_i].center;
    for (int i = 0; i < 1001; i++) {
        double x = c + (i == 0 ? 0.2 : i % 2 == 1 ? 0.1 : 0.3);
        keel_moments_add(&m, x);
        keel_sum_add(&sum, x);
    }
    double mean = numacc_case[_i].mean;
    ck_assert_uint_eq(m.n, 1001);
    ck_assert_double_eq_tol(m.mean, mean, mean * 1e-14);
    ck_assert_double_eq_tol(sqrt(keel_moments_var(&m)), numacc_case[_i].sd, numacc_case[_i].tolerance);
    ck_assert_double_eq_tol(keel_sum_value(&sum) / 1001, mean, mean * 3e-16);
}
END_TEST

START_TEST(numacc1)
{
    struct keel_moments m = {0};
    keel_moments_add(&m, 10000001);
    keel_moments_add(&m, 10000003);
    keel_moments_add(&m, 10000002);
    ck_assert_double_eq(m.mean, 10000002);
    ck_assert_double_eq(keel_moments_var(&m), 1);
    ck_assert_double_eq_tol(keel_moments_pvar(&m), 2.0 / 3, 1e-15);
}
END_TEST

START_TEST(few_values)
{
    struct keel_moments m = {0};
    ck_assert_double_eq(keel_moments_var(&m), 0);
    ck_assert_double_eq(keel_moments_pvar(&m), 0);
    keel_moments_add(&m, -3.5);
    ck_assert_double_eq(m.mean, -3.5);
    ck_assert_double_eq(keel_moments_var(&m), 0);
    ck_assert_double_eq(keel_moments_pvar(&m), 0);
}
END_TEST

START_TEST(sums)
{
    struct keel_sum s = {0};
    const double x[] = {1, 1e100, 1, -1e100};
    for (size_t i = 0; i < KEEL_COUNT(x); i++)
        keel_sum_add(&s, x[i]);
    ck_assert_double_eq(keel_sum_value(&s), 2);
    s = (struct keel_sum){0};
    for (int i = 0; i < 1000000; i++)
        keel_sum_add(&s, 0.1);
    ck_assert_double_eq(keel_sum_value(&s), 100000);
}
END_TEST

/* ---- order ---- */

static const double returns[] = {-0.031, -0.024, -0.018, -0.015, -0.011, -0.009, -0.007,
                                 -0.004, -0.002, 0,      0.001,  0.003,  0.004,  0.006,
                                 0.008,  0.01,   0.012,  0.015,  0.019,  0.027};

START_TEST(quantiles)
{
    static const struct {
        double q, value;
    } row[] = {{0, -0.031},      {0.01, -0.02967}, {0.025, -0.027675}, {0.05, -0.02435},
               {0.1, -0.0186},   {0.25, -0.0095},  {0.5, 0.0005},      {1, 0.027}};
    for (size_t i = 0; i < KEEL_COUNT(row); i++)
        ck_assert_double_eq_tol(keel_quantile_sorted(returns, KEEL_COUNT(returns), row[i].q), row[i].value,
                                1e-17 + 1e-15 * fabs(row[i].value));
    ck_assert_double_eq(keel_quantile_sorted(returns, 1, 0), -0.031);
    ck_assert_double_eq(keel_quantile_sorted(returns, 1, 0.7), -0.031);
    ck_assert_double_eq(keel_quantile_sorted(returns, 1, 1), -0.031);
}
END_TEST

START_TEST(sorting)
{
    struct keel_rng r;
    double x[1000], sum = 0, sorted_sum = 0;
    keel_rng_seed(&r, 5);
    keel_sort_f64(x, 0);
    for (size_t i = 0; i < KEEL_COUNT(x); i++) {
        x[i] = (double)keel_rng_below(&r, 300) - 150; /* with ties; sums are exact */
        sum += x[i];
    }
    keel_sort_f64(x, KEEL_COUNT(x));
    for (size_t i = 0; i < KEEL_COUNT(x); i++) {
        ck_assert(i == 0 || x[i - 1] <= x[i]);
        sorted_sum += x[i];
    }
    ck_assert_double_eq(sum, sorted_sum);
}
END_TEST

/* Beside a whole sort; orders that are hard on a choice of pivots, and many ties, are among them. */
static const struct {
    const char *why;
    unsigned long values; /* of random ones */
    enum { RANDOM, RISING, FALLING, PIPES, SAW } shape;
} lowest_case[] = {
    {"random", 1000000007, RANDOM}, {"two values", 2, RANDOM}, {"one value", 1, RANDOM}, {"rising", 0, RISING},
    {"falling", 0, FALLING},        {"organ pipes", 0, PIPES}, {"a saw of sevens", 0, SAW},
};

static double lowest_value(int kind, size_t i, size_t n, struct keel_rng *r)
{
    switch (lowest_case[kind].shape) {
    case RISING:
        return (double)i;
    case FALLING:
        return (double)(n - i);
    case PIPES:
        return (double)(i < n / 2 ? i : n - i);
    case SAW:
        return (double)(i % 7);
    default:
        return (double)keel_rng_below(r, lowest_case[kind].values);
    }
}

START_TEST(lowest)
{
    static const size_t size[] = {1, 2, 3, 16, 17, 18, 100, 1000, 4099};
    static double x[4099], sorted[4099], all[4099];
    struct keel_rng r;

    keel_rng_seed(&r, 11);
    for (size_t s = 0; s < KEEL_COUNT(size); s++) {
        size_t n = size[s];
        const size_t m_of[] = {0, 1, 2, n / 20 + 1, n / 2, n - 1, n, n + 5};
        for (size_t i = 0; i < n; i++)
            all[i] = lowest_value(_i, i, n, &r);
        memcpy(sorted, all, n * sizeof *all);
        keel_sort_f64(sorted, n);
        for (size_t k = 0; k < KEEL_COUNT(m_of); k++) {
            size_t m = m_of[k] < n ? m_of[k] : n;
            memcpy(x, all, n * sizeof *all);
            keel_lowest_f64(x, n, m_of[k]);
            ck_assert_msg(memcmp(x, sorted, m * sizeof *x) == 0, "%s, %zu of %zu", lowest_case[_i].why, m_of[k], n);
            keel_sort_f64(x, n);
            ck_assert_msg(memcmp(x, sorted, n * sizeof *x) == 0, "%s, %zu of %zu: others", lowest_case[_i].why, m, n);
        }
    }
}
END_TEST

/* ---- normal distribution ---- */

static const struct {
    double p, x;
} inverse_case[] = {
    {1e-300, -37.047096299361199}, {1e-20, -9.2623400897984076},  {1e-10, -6.3613409024040562},
    {1e-05, -4.2648907939228246},  {0.001, -3.0902323061678135},  {0.01, -2.3263478740408411},
    {0.025, -1.9599639845400542},  {0.05, -1.6448536269514727},   {0.07, -1.4757910281791707},
    {0.0751, -1.43882539275254},   {0.3, -0.52440051270804082},   {0.5, 0},
    {0.7, 0.52440051270804066},    {0.95, 1.6448536269514723},    {0.975, 1.9599639845400539},
    {0.99, 2.3263478740408408},    {0.999999, 4.7534243088170878},
};

START_TEST(norm_inv)
{
    double want = inverse_case[_i].x;
    ck_assert_double_eq_tol(keel_norm_inv(inverse_case[_i].p), want, 1e-15 * fabs(want) + 1e-300);
}
END_TEST

static const struct {
    double x, cdf, pdf;
} normal_case[] = {
    {-10, 7.6198530241605261e-24, 7.6945986267064193e-23},
    {-5, 2.8665157187919391e-7, 1.4867195147342977e-6},
    {-2.3263478740408408, 0.010000000000000009, 0.026652142203458069},
    {-1, 0.15865525393145705, 0.24197072451914335},
    {0, 0.5, 0.39894228040143268},
    {0.5, 0.6914624612740131, 0.35206532676429948},
    {1, 0.84134474606854295, 0.24197072451914335},
    {3, 0.99865010196836991, 0.0044318484119380072},
    {6, 0.99999999901341235, 6.0758828498232855e-9},
    {9, 1.0, 1.0279773571668915e-18},
};

START_TEST(normal)
{
    double x = normal_case[_i].x;
    /* Rounding x once changes exp(-x * x / 2) by a factor of 1 + x * x * 1e-16. */
    double relative = (1 + x * x) * 4e-16;
    ck_assert_double_eq_tol(keel_norm_cdf(x), normal_case[_i].cdf, normal_case[_i].cdf * relative);
    ck_assert_double_eq_tol(keel_norm_pdf(x), normal_case[_i].pdf, normal_case[_i].pdf * relative);
}
END_TEST

START_TEST(inverse_of_cdf)
{
    for (int i = 1; i < 2000; i++) {
        double p = i / 2000.0, x = keel_norm_inv(p);
        ck_assert_double_eq_tol(keel_norm_cdf(x), p, 1e-15);
        ck_assert_double_eq_tol(keel_norm_inv(1 - p), -x, 1e-12);
    }
}
END_TEST

/* ---- random numbers ---- */

START_TEST(published_streams)
{
    static const uint64_t stream[] = {11520,
                                      0,
                                      1509978240,
                                      UINT64_C(1215971899390074240),
                                      UINT64_C(1216172134540287360),
                                      UINT64_C(607988272756665600)};
    struct keel_rng r = {.s = {1, 2, 3, 4}};
    for (size_t i = 0; i < KEEL_COUNT(stream); i++)
        ck_assert_uint_eq(keel_rng_u64(&r), stream[i]);
    keel_rng_seed(&r, 1234567);
    ck_assert_uint_eq(r.s[0], UINT64_C(6457827717110365317));
    ck_assert_uint_eq(r.s[1], UINT64_C(3203168211198807973));
    ck_assert_uint_eq(r.s[2], UINT64_C(9817491932198370423));
    ck_assert_int_eq(r.has_spare, 0);
}
END_TEST

enum { DRAWS = 200000 };

/* Seeded, so a pass is a pass for ever; the bounds are five standard errors. */
START_TEST(distributions)
{
    struct keel_rng r;
    struct keel_moments u = {0}, n = {0}, n2 = {0}, n4 = {0}, e = {0};
    keel_rng_seed(&r, 99);
    for (int i = 0; i < DRAWS; i++) {
        double x = keel_rng_f64(&r), z = keel_rng_normal(&r), t = keel_rng_exponential(&r);
        ck_assert(x >= 0 && x < 1 && t >= 0 && isfinite(t) && isfinite(z));
        keel_moments_add(&u, x);
        keel_moments_add(&n, z);
        keel_moments_add(&n2, z * z);
        keel_moments_add(&n4, z * z * z * z);
        keel_moments_add(&e, t);
    }
    double five = 5 / sqrt(DRAWS);
    ck_assert_double_eq_tol(u.mean, 0.5, five * sqrt(1.0 / 12));
    ck_assert_double_eq_tol(n.mean, 0, five);
    ck_assert_double_eq_tol(n2.mean, 1, five * sqrt(2));
    ck_assert_double_eq_tol(n4.mean, 3, five * sqrt(96));
    ck_assert_double_eq_tol(e.mean, 1, five);
    ck_assert_double_eq_tol(keel_moments_var(&e), 1, five * sqrt(8));
}
END_TEST

START_TEST(below)
{
    struct keel_rng r;
    double seen[7] = {0}, chi2 = 0;
    keel_rng_seed(&r, 1);
    for (int i = 0; i < 70000; i++)
        seen[keel_rng_below(&r, 7)]++;
    for (size_t i = 0; i < KEEL_COUNT(seen); i++)
        chi2 += (seen[i] - 10000) * (seen[i] - 10000) / 10000;
    ck_assert_double_lt(chi2, 22.46); /* 99.9 % of chi-square with 6 degrees of freedom */
    ck_assert_uint_eq(keel_rng_below(&r, 1), 0);
    /* Three quarters of the range: without rejection the lower third would come up twice as often. */
    uint64_t n = UINT64_C(3) << 62;
    int low = 0;
    for (int i = 0; i < 30000; i++)
        low += keel_rng_below(&r, n) < n / 3;
    ck_assert(abs(low - 10000) < 410); /* five standard deviations of 82 */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("stats");
    TCase *tc = tcase_create("stats");
    suite_add_tcase(s, tc);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, numacc, 0, KEEL_COUNT(numacc_case));
    tcase_add_test(tc, numacc1);
    tcase_add_test(tc, few_values);
    tcase_add_test(tc, sums);
    tcase_add_test(tc, quantiles);
    tcase_add_test(tc, sorting);
    tcase_add_loop_test(tc, lowest, 0, KEEL_COUNT(lowest_case));
    tcase_add_loop_test(tc, norm_inv, 0, KEEL_COUNT(inverse_case));
    tcase_add_loop_test(tc, normal, 0, KEEL_COUNT(normal_case));
    tcase_add_test(tc, inverse_of_cdf);
    tcase_add_test(tc, published_streams);
    tcase_add_test(tc, distributions);
    tcase_add_test(tc, below);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
