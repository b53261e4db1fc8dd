/*
 * Monte Carlo value at risk. The elementary functions are compared with libm in long double, the generators with a
 * scalar implementation here, estimates with closed forms (lognormal) and with the published figures of shared/vectors
 * (var_es_parametric.json, copied here). Everything is seeded: a pass is a pass for ever. Bounds on estimates are four
 * or five standard errors.
 */
#include <check.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/rng.h"
#include "keel/stats.h"
#include "monte_carlo.h"
#include "monte_carlo_priv.h"

/* One more set of the inner loops, to look into. */
#define WIDTH 2
#define KERNEL(name) name##_test
#define TARGET
#include "monte_carlo_kernel.h"

static const struct risk_kernel own = {"test", logs_test, block_test};
static const atomic_bool go_on;
static const double confidence[] = {0.95, 0.99};
static struct keel_arena *arena;

static void setup(void)
{
    arena = keel_arena_new(1 << 20);
}

static void teardown(void)
{
    keel_arena_free(arena);
}

static void near(double got, double want, double within, const char *what)
{
    ck_assert_msg(fabs(got - want) <= within, "%s: %.17g, not %.17g within %g", what, got, want, within);
}

/* ---- elementary functions ---- */

static double ulps(double got, long double want)
{
    double w = fabs((double)want);

    return (double)(fabsl((long double)got - want) / (nextafter(w, INFINITY) - w));
}

/* Exponents and mantissas at random; and close to 1, where log is close to 0. */
START_TEST(log_in_ulps)
{
    double worst = 0;
    struct keel_rng r;

    keel_rng_seed(&r, 1);
    for (int i = 0; i < 400000; i++) {
        int exponent = i % 3 == 0 ? (int)keel_rng_below(&r, 2000) - 1000 : i % 3 - 1;
        double x = ldexp(0.5 + keel_rng_f64(&r) / 2, exponent), y = x;

        own.logs(&y, 1);
        worst = fmax(worst, x == 1 ? fabs(y) : ulps(y, logl(x)));
    }
    ck_assert_msg(worst < 1, "%g ulp", worst);
}
END_TEST

START_TEST(logs_of_any_number)
{
    static const double x[] = {1, 2, 0.5, 0x1p-52, 3, 10, 1e300};
    double y[9];

    for (size_t n = 0; n <= KEEL_COUNT(x); n++) {
        for (size_t i = 0; i < KEEL_COUNT(y); i++)
            y[i] = i < n ? x[i] : -7;
        own.logs(y, n);
        for (size_t i = 0; i < KEEL_COUNT(y); i++)
            ck_assert(i < n ? ulps(y[i], logl(x[i])) < 1 || y[i] == 0 : y[i] == -7);
    }
}
END_TEST

static double expm1_of(double x)
{
    vd_test v = {x, x};

    return expm1_test(v)[0];
}

START_TEST(expm1_in_ulps)
{
    static const struct { double from, to; } range[] = {{-0.35, 0.35}, {-1e-9, 1e-9}, {-3, 3}, {-708, 709}};
    struct keel_rng r;

    keel_rng_seed(&r, 2);
    for (size_t k = 0; k < KEEL_COUNT(range); k++) {
        double worst = 0;

        for (int i = 0; i < 200000; i++) {
            double x = range[k].from + (range[k].to - range[k].from) * keel_rng_f64(&r);
            worst = fmax(worst, x == 0 ? 0 : ulps(expm1_of(x), expm1l(x)));
        }
        ck_assert_msg(worst < 2, "up to %g: %g ulp", range[k].to, worst);
    }
    ck_assert_double_eq(expm1_of(0), 0);
    ck_assert_double_eq(expm1_of(-1e300), -1);
    ck_assert_double_eq(expm1_of(-INFINITY), -1);
    ck_assert_double_eq(expm1_of(709.5), INFINITY);
    ck_assert_double_eq(expm1_of(INFINITY), INFINITY);
    ck_assert(isnan(expm1_of(NAN)));
}
END_TEST

START_TEST(circle_in_ulps)
{
    const long double quarter = 1.57079632679489661923132169163975144L;
    double worst = 0, off = 0;
    struct keel_rng r;

    keel_rng_seed(&r, 3);
    for (int i = 0; i < 400000; i++) {
        /* Small steps about the quadrants' middles too, where one of the two is close to 0. */
        uint64_t bits = i % 4 ? keel_rng_u64(&r) : (keel_rng_u64(&r) << 1 | 1) << 61 ^ keel_rng_below(&r, 2048) << 10;
        vu_test b = {bits, bits};
        vd_test c, s;
        long double angle = quarter * (ldexpl((long double)(bits << 2 >> 12), -52) - 0.5L);
        long double x = cosl(angle), y = sinl(angle);

        circle_test(b, &c, &s);
        for (unsigned turn = 0; turn < bits >> 62; turn++) {
            long double was = x;
            x = -y;
            y = was;
        }
        worst = fmax(worst, fmax(x == 0 ? fabs(c[0]) : ulps(c[0], x), y == 0 ? fabs(s[0]) : ulps(s[0], y)));
        off = fmax(off, fabs(c[0] * c[0] + s[0] * s[0] - 1));
    }
    ck_assert_msg(worst < 2, "%g ulp", worst);
    ck_assert_double_le(off, 4 * DBL_EPSILON);
}
END_TEST

/* ---- generators ---- */

static uint64_t rotate(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

/* xoshiro256++ as its authors wrote it. */
static uint64_t scalar_next(uint64_t s[4])
{
    uint64_t result = rotate(s[0] + s[3], 23) + s[0], t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

/* From the state 1, 2, 3, 4: what Rust's rand_xoshiro tests itself against, made by the authors' program. */
START_TEST(scalar_is_published)
{
    static const uint64_t want[] = {41943041, 58720359, 3588806011781223, 3591011842654386,
                                    UINT64_C(9228616714210784205), UINT64_C(9973669472204895162)};
    uint64_t s[4] = {1, 2, 3, 4};

    for (size_t i = 0; i < KEEL_COUNT(want); i++)
        ck_assert_uint_eq(scalar_next(s), want[i]);
}
END_TEST

START_TEST(lanes_are_scalar_generators)
{
    struct risk_lanes lanes;
    double got[RISK_BLOCK];
    uint64_t s[RISK_LANES][4], seed = 77;

    for (size_t lane = 0; lane < RISK_LANES; lane++)
        for (size_t i = 0; i < 4; i++)
            s[lane][i] = keel_splitmix64(&seed);
    risk_lanes_seed(&lanes, 77);
    for (int row = 0; row < 1000; row++) {
        uniforms_test(&lanes, got);
        for (size_t i = 0; i < RISK_BLOCK; i++)
            ck_assert_double_eq(got[i], 1 - (double)(scalar_next(s[i % RISK_LANES]) >> 12) * 0x1p-52);
    }
}
END_TEST

/* A lane's first output makes the radius, its next the point; eight cosines, then the eight sines. */
START_TEST(normals_are_box_and_muller)
{
    struct risk_lanes lanes;
    double got[3 * RISK_BLOCK];
    uint64_t s[RISK_LANES][4], seed = 5;

    for (size_t lane = 0; lane < RISK_LANES; lane++)
        for (size_t i = 0; i < 4; i++)
            s[lane][i] = keel_splitmix64(&seed);
    risk_lanes_seed(&lanes, 5);
    normals_test(&lanes, 3, got);
    for (size_t i = 0; i < KEEL_COUNT(got); i += 2 * RISK_LANES)
        for (size_t lane = 0; lane < RISK_LANES; lane++) {
            double u = 1 - (double)(scalar_next(s[lane]) >> 12) * 0x1p-52, radius = sqrt(-2 * log(u));
            uint64_t bits = scalar_next(s[lane]);
            double turn = (double)(bits >> 62) + (double)(bits << 2 >> 12) * 0x1p-52 - 0.5;

            near(got[i + lane], radius * cos(turn * acos(0)), 1e-14, "cosine");
            near(got[i + RISK_LANES + lane], radius * sin(turn * acos(0)), 1e-14, "sine");
        }
}
END_TEST

enum { ROWS = 4000, NORMALS = ROWS * RISK_BLOCK, COLUMNS = 2 * RISK_LANES };

static double *many_normals(void)
{
    double *x = keel_arena_array(arena, NORMALS, sizeof *x);
    struct risk_lanes lanes;

    risk_lanes_seed(&lanes, 20);
    normals_test(&lanes, ROWS, x);
    return x;
}

START_TEST(normals_are_normal)
{
    double *x = many_normals(), apart = 0, five = 5 / sqrt(NORMALS);
    struct keel_moments power[4] = {0};

    for (size_t i = 0; i < NORMALS; i++)
        for (int p = 0; p < 4; p++)
            keel_moments_add(&power[p], pow(x[i], p + 1));
    near(power[0].mean, 0, five, "mean");
    near(power[1].mean, 1, five * sqrt(2), "second moment");
    near(power[2].mean, 0, five * sqrt(15), "third moment");
    near(power[3].mean, 3, five * sqrt(96), "fourth moment");
    keel_sort_f64(x, NORMALS);
    for (size_t i = 0; i < NORMALS; i++) {
        double p = keel_norm_cdf(x[i]);
        apart = fmax(apart, fmax(p - (double)i / NORMALS, (double)(i + 1) / NORMALS - p));
    }
    ck_assert_double_lt(apart * sqrt(NORMALS), 1.95); /* Kolmogorov & Smirnov: 99.9 % */
}
END_TEST

static double correlation(const double *x, size_t step, size_t n, size_t a, size_t b, int power)
{
    struct keel_moments of[3] = {0};

    for (size_t i = 0; i < n; i++) {
        double p = pow(x[i * step + a], power), q = pow(x[i * step + b], power);
        keel_moments_add(&of[0], p);
        keel_moments_add(&of[1], q);
        keel_moments_add(&of[2], p * q);
    }
    return (of[2].mean - of[0].mean * of[1].mean) / sqrt(keel_moments_var(&of[0]) * keel_moments_var(&of[1]));
}

/* Cosines and sines of all lanes with one another, and with those of the next step and of the next position. */
START_TEST(lanes_are_independent)
{
    double *x = many_normals();
    size_t n = NORMALS / COLUMNS - RISK_BLOCK / COLUMNS;

    for (size_t a = 0; a < COLUMNS; a++)
        for (size_t b = 0; b < COLUMNS; b++) {
            const size_t later[] = {b, b + COLUMNS, b + RISK_BLOCK};
            for (size_t k = a < b ? 0 : 1; k < KEEL_COUNT(later); k++) {
                near(correlation(x, COLUMNS, n, a, later[k], 1), 0, 5 / sqrt((double)n), "correlation");
                near(correlation(x, COLUMNS, n, a, later[k], 2), 0, 5 / sqrt((double)n), "correlation of squares");
            }
        }
}
END_TEST

/* ---- laws and factors ---- */

/* Beside sums in long double of libm's logarithms. */
START_TEST(sample_law)
{
    enum { N = 200, K = 5 };
    double *growth = keel_arena_array(arena, N * K, sizeof *growth);
    long double x[N][K], mean[K] = {0};
    struct risk_law law;
    struct keel_rng r;

    keel_rng_seed(&r, 8);
    for (size_t t = 0; t < N; t++)
        for (size_t i = 0; i < K; i++) {
            growth[t * K + i] = exp(0.01 * (keel_rng_normal(&r) + (double)i));
            x[t][i] = logl(growth[t * K + i]);
            mean[i] += x[t][i] / N;
        }
    law = risk_sample_law(growth, N, K, arena);
    ck_assert_uint_eq(law.k, K);
    for (size_t i = 0; i < K; i++) {
        near(law.mean[i], (double)mean[i], 1e-16, "mean");
        for (size_t j = 0; j < K; j++) {
            long double sum = 0;
            for (size_t t = 0; t < N; t++)
                sum += (x[t][i] - mean[i]) * (x[t][j] - mean[j]) / (N - 1);
            near(law.covariance[i * K + j], (double)sum, 1e-18, "covariance");
            ck_assert_double_eq(law.covariance[i * K + j], law.covariance[j * K + i]);
        }
    }
}
END_TEST

static const struct {
    const char *why;
    size_t k;
    double c[16];
    bool is_symmetric;
    enum keel_status st; /* of what is symmetric */
    size_t rank;
} factor_case[] = {
    {"one", 1, {4}, true, KEEL_OK, 1},
    {"one without variance", 1, {0}, true, KEEL_OK, 0},
    {"two apart", 2, {1, 0, 0, 9}, true, KEEL_OK, 2},
    {"perfectly together", 2, {1, 2, 2, 4}, true, KEEL_OK, 1},
    {"perfectly against each other", 2, {1, -2, -2, 4}, true, KEEL_OK, 1},
    {"together but for 1e-12 of it", 2, {1, 1 + 1e-12, 1 + 1e-12, 1}, true, KEEL_OK, 1},
    {"no variance beside another", 2, {0, 0, 0, 3}, true, KEEL_OK, 1},
    {"three in a plane", 3, {1, 0, 1, 0, 1, 1, 1, 1, 2}, true, KEEL_OK, 2},
    {"units far apart", 2, {1e-20, 5e-11, 5e-11, 1}, true, KEEL_OK, 2},
    {"nothing at all", 4, {0}, true, KEEL_OK, 0},
    {"rounded to ten digits", 2, {1, 0.5, 0.50000000001, 1}, true, KEEL_OK, 2},
    {"more than perfectly together", 2, {1, 1.001, 1.001, 1}, true, KEEL_INVALID, 0},
    {"three that cannot be", 3, {1, 0.9, -0.9, 0.9, 1, 0.9, -0.9, 0.9, 1}, true, KEEL_INVALID, 0},
    /* Correlations of 0.9 with the same one leave 2 * 0.9^2 - 1 = 0.62 at the least. */
    {"three that can hardly be", 3, {1, 0.9, 0.62, 0.9, 1, 0.9, 0.62, 0.9, 1}, true, KEEL_OK, 2},
    {"and these cannot", 3, {1, 0.9, 0.6199, 0.9, 1, 0.9, 0.6199, 0.9, 1}, true, KEEL_INVALID, 0},
    {"like the first, yet not alike", 3, {1, 1, 1, 1, 1, 0, 1, 0, 1}, true, KEEL_INVALID, 0},
    {"a negative variance", 2, {1, 0, 0, -1}, true, KEEL_INVALID, 0},
    {"covariance without variance", 2, {0, 1, 1, 3}, true, KEEL_INVALID, 0},
    {"a huge covariance", 2, {1, 1e300, 1e300, 1}, true, KEEL_INVALID, 0},
    {"upper half only", 2, {1, 0.5, 0, 1}, false, KEEL_OK, 0},
    {"off by 2e-9", 2, {1, 0.5, 0.500000002, 1}, false, KEEL_OK, 0},
    {"off by 2e-9 of small variances", 2, {1e-8, 5e-9, 5.00000002e-9, 1e-8}, false, KEEL_OK, 0},
};

START_TEST(factor)
{
    const double *c = factor_case[_i].c;
    const char *why = factor_case[_i].why;
    size_t k = factor_case[_i].k;
    struct risk_factors f = {0};
    enum keel_status st;

    ck_assert_msg(risk_is_symmetric(c, k) == factor_case[_i].is_symmetric, "%s", why);
    if (!factor_case[_i].is_symmetric && factor_case[_i].st == KEEL_OK)
        return;
    st = risk_factor(c, k, arena, &go_on, &f);
    ck_assert_msg(st == factor_case[_i].st, "%s: %s", why, keel_status_name(st));
    if (st != KEEL_OK)
        return;
    ck_assert_msg(f.k == k && f.rank == factor_case[_i].rank, "%s: rank %zu", why, f.rank);
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++) {
            double sum = 0, want = c[f.order[i] * k + f.order[j]];
            for (size_t t = 0; t < f.rank; t++)
                sum += f.l[i * f.rank + t] * f.l[j * f.rank + t];
            near(sum, want, 1e-10 * sqrt(c[f.order[i] * (k + 1)] * c[f.order[j] * (k + 1)]), why);
        }
}
END_TEST

/* Few returns of many positions: as many columns as deviations are independent, and those above the diagonal are 0. */
START_TEST(sample_of_low_rank)
{
    enum { N = 20, K = 60 };
    double *growth = keel_arena_array(arena, N * K, sizeof *growth);
    bool seen[K] = {false};
    struct risk_law law;
    struct risk_factors f;
    struct keel_rng r;

    keel_rng_seed(&r, 4);
    for (size_t i = 0; i < N * K; i++)
        growth[i] = exp(0.02 * keel_rng_normal(&r));
    law = risk_sample_law(growth, N, K, arena);
    ck_assert(risk_is_symmetric(law.covariance, K));
    ck_assert_int_eq(risk_factor(law.covariance, K, arena, &go_on, &f), KEEL_OK);
    ck_assert_uint_eq(f.rank, N - 1);
    for (size_t i = 0; i < K; i++) {
        ck_assert(f.order[i] < K && !seen[f.order[i]]);
        seen[f.order[i]] = true;
        for (size_t t = i + 1; t < f.rank; t++)
            ck_assert_double_eq(f.l[i * f.rank + t], 0);
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t t = 0; t < f.rank; t++)
                sum += f.l[i * f.rank + t] * f.l[j * f.rank + t];
            near(sum, law.covariance[f.order[i] * K + f.order[j]], 1e-15, "covariance");
        }
    }
}
END_TEST

START_TEST(room)
{
    static const struct { size_t k, most; } row[] = {{1, 39603960}, {30, 1025641}, {31, 984979}, {50, 533333},
                                                     {RISK_FACTORS, 3636}};

    for (size_t i = 0; i < KEEL_COUNT(row); i++) {
        uint64_t work = (uint64_t)row[i].k * (row[i].k + 100);
        ck_assert_uint_eq(risk_simulations(row[i].k), row[i].most);
        ck_assert(row[i].most * work <= 4000000000U && (row[i].most + 1) * work > 4000000000U);
    }
}
END_TEST

/* ---- the same bits ---- */

/* Inputs that no library function touches, so that they are the same everywhere. */
static struct risk_model a_model(size_t k, size_t rank, double freedom)
{
    double *l = keel_arena_array(arena, k * rank, sizeof *l), *mean = keel_arena_array(arena, k, sizeof *mean),
           *value = keel_arena_array(arena, k, sizeof *value);
    size_t *order = keel_arena_array(arena, k, sizeof *order);
    struct risk_factors f = {k, rank, l, order};

    for (size_t i = 0; i < k; i++) {
        order[i] = i;
        mean[i] = ((double)(i % 5) - 2) / 1024;
        value[i] = 1000.5 * ((double)(i * 7 % 11) - 4);
        for (size_t j = 0; j <= i && j < rank; j++)
            l[i * rank + j] = 0.03 / (double)(1 + i - j);
    }
    return risk_model_of(&f, mean, value, freedom, arena);
}

static double *simulate(const struct risk_kernel *kernel, const struct risk_model *m, size_t n, uint64_t seed)
{
    double *profit = keel_arena_array(arena, n + RISK_BLOCK, sizeof *profit);

    ck_assert_int_eq(risk_simulate(kernel, m, n, seed, arena, &go_on, profit), KEEL_OK);
    return profit;
}

static uint64_t hash(const double *x, size_t n)
{
    uint64_t h = UINT64_C(14695981039346656037), bits;

    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, &x[i], sizeof bits);
        h = (h ^ bits) * UINT64_C(1099511628211);
    }
    return h;
}

/* The hashes are of the first build, by gcc 12 and by clang 14: what a seed gives must not change unnoticed. */
static const struct { size_t k, rank, n; double freedom; uint64_t seed, hash; } bits_case[] = {
    {1, 1, 1000, 0, 1, 0xEE5351160C615A9B},   {1, 1, 1000, 4, 1, 0x8CB7305CD35CFED4},
    {3, 3, 64, 0, 2, 0xCDEC1DBE416DC911},     {4, 4, 65, 0, 3, 0x34D4AB6FF1483BA6},
    {5, 2, 200, 2.5, 4, 0xE662CEAA57913EAF},  {7, 0, 100, 0, 5, 0xC63F047F118A3159},
    {50, 50, 1000, 0, 6, 0x119267685FA587CA}, {50, 50, 1000, 30, 7, 0xCF271A8A56CDC6A9},
    {33, 20, 500, 3, 8, 0xA7FE25B84ED8FCCF},  {130, 101, 300, 0, 9, 0x3F45793D46AC1324},
};

START_TEST(every_kernel_gives_the_same_bits)
{
    const struct risk_kernel *all;
    size_t n = bits_case[_i].n, kernels = risk_kernels(&all);
    struct risk_model m = a_model(bits_case[_i].k, bits_case[_i].rank, bits_case[_i].freedom);
    double *want = simulate(&own, &m, n, bits_case[_i].seed), *longer, *other;

    ck_assert_msg(hash(want, n) == bits_case[_i].hash, "0x%016llX", (unsigned long long)hash(want, n));
    for (size_t i = 0; i < kernels; i++) {
        ck_assert_msg(memcmp(simulate(&all[i], &m, n, bits_case[_i].seed), want, n * sizeof *want) == 0, "%s",
                      all[i].name);
        longer = simulate(&all[i], &m, 3 * n, bits_case[_i].seed);
        ck_assert(memcmp(longer, want, n * sizeof *want) == 0);
        other = simulate(&all[i], &m, n, bits_case[_i].seed + 1);
        ck_assert(m.rank == 0 || memcmp(other, want, n * sizeof *want) != 0);
    }
}
END_TEST

/* ---- estimates ---- */

static struct risk_estimate *run(const double *value, const double *mean, const double *covariance, size_t k, size_t n,
                                 uint64_t seed, double freedom)
{
    struct risk_estimate *e = keel_arena_array(arena, KEEL_COUNT(confidence), sizeof *e);
    struct risk_factors f;

    ck_assert_int_eq(risk_factor(covariance, k, arena, &go_on, &f), KEEL_OK);
    ck_assert_int_eq(risk_monte_carlo(&f, mean, value, &(struct risk_simulation){n, seed, freedom}, confidence,
                                      KEEL_COUNT(confidence), arena, &go_on, e),
                     KEEL_OK);
    return e;
}

/* Standard error of the mean beyond a quantile that is estimated too; for tails no wider than the normal's. */
static double es_error(double var, double es, double level, size_t n)
{
    return (es - var) * sqrt((1 + level) / ((double)n * (1 - level)));
}

/* One position: quantile and expected shortfall of the lognormal distribution. */
static const struct { const char *why; double value, mean, sd; } single_case[] = {
    {"long", 1e6, 0.001, 0.02},
    {"short", -1e6, 0.001, 0.02},
    {"long, wild", 1, -0.1, 0.8},
    {"short, wild", -1, -0.1, 0.8},
};

START_TEST(single_position)
{
    enum { N = 400000 };
    double v = single_case[_i].value, mean = single_case[_i].mean, sd = single_case[_i].sd, c = sd * sd;
    double expected = exp(mean + c / 2);
    const struct risk_estimate *e = run(&v, &mean, &c, 1, N, 12, 0);

    for (size_t i = 0; i < KEEL_COUNT(confidence); i++) {
        double p = 1 - confidence[i], z = v > 0 ? keel_norm_inv(p) : keel_norm_inv(confidence[i]);
        double var = v * (1 - exp(mean + sd * z)), tail = keel_norm_cdf(v > 0 ? z - sd : sd - z) / p;
        double es = v * (1 - expected * tail), exact = fabs(v) * sd * exp(mean + sd * z) * sqrt(p * (1 - p) / N) /
                                                       keel_norm_pdf(z);

        ck_assert(e[i].has_error);
        near(e[i].error, exact, exact * 0.25, single_case[_i].why); /* some hundred order statistics show it */
        near(e[i].loss.var, var, 4 * e[i].error, single_case[_i].why);
        near(e[i].loss.es, es, 4 * es_error(var, es, confidence[i], N) * (v > 0 ? 1 : 1 + sd), single_case[_i].why);
    }
}
END_TEST

/*
 * shared/vectors/var_es_parametric.json, "portfolio": weights 0.4, 0.35, 0.25 of a million, volatilities 2, 1.5 and
 * 3 %, correlations 0.3, 0.5, 0.2; VaR99 36691.63921665473 for returns that are linear in the normal law. So the
 * returns are made ten thousand times smaller here and the values larger.
 */
START_TEST(three_positions)
{
    static const double covariance[] = {4e-12, 9e-13, 3e-12, 9e-13, 2.25e-12, 9e-13, 3e-12, 9e-13, 9e-12},
                        mean[3] = {0}, value[] = {4e9, 3.5e9, 2.5e9};
    const double sigma = 15772.206567249872;
    const struct risk_estimate *e = run(value, mean, covariance, 3, 200000, 1, 0);

    near(risk_linear_sd(value, covariance, 3), sigma, 1e-9, "sigma");
    near(e[0].loss.var, 1.6448536269514722 * sigma, 4 * e[0].error, "VaR95");
    near(e[0].loss.es, 2.0627128075074257 * sigma, 4 * es_error(1.6448, 2.0627, 0.95, 200000) * sigma, "ES95");
    near(e[1].loss.var, 36691.63921665473, 4 * e[1].error, "VaR99");
    near(e[1].loss.es, 2.665214220345805 * sigma, 4 * es_error(2.3263, 2.6652, 0.99, 200000) * sigma, "ES99");
}
END_TEST

/*
 * The same file, "student", nu 4: quantiles 2.13184678133629 and 3.7469473879811366, expected shortfalls
 * 3.2028704140580917 and 5.220584194485904 of t itself, whose variance is 4 / 2. Four standard errors of a shortfall:
 * the tail of t4 beyond q is close to a power, x^-4, whose variance is 2/9 q^2.
 */
START_TEST(student_t)
{
    enum { N = 1000000 };
    static const double q[] = {2.13184678133629, 3.7469473879811366}, es[] = {3.2028704140580917, 5.220584194485904};
    const double value = 1e6, mean = 0, covariance = 2e-12;
    const struct risk_estimate *e = run(&value, &mean, &covariance, 1, N, 3, 4);

    for (size_t i = 0; i < KEEL_COUNT(confidence); i++) {
        double wide = 2.0 / 9 * q[i] * q[i] + confidence[i] * (es[i] - q[i]) * (es[i] - q[i]);
        near(e[i].loss.var, q[i], 4 * e[i].error, "quantile");
        near(e[i].loss.es, es[i], 4 * sqrt(wide / (N * (1 - confidence[i]))), "shortfall");
    }
}
END_TEST

/* Many degrees of freedom are the normal law; positions share one chi-square, so a t's extremes come together. */
START_TEST(student_t_limits)
{
    static const double value[] = {1e6, 1e6}, mean[2] = {0}, apart[] = {1e-12, 0, 0, 1e-12};
    const struct risk_estimate *normal = run(value, mean, apart, 2, 200000, 4, 0),
                               *t = run(value, mean, apart, 2, 200000, 5, 1000),
                               *wild = run(value, mean, apart, 2, 200000, 6, 3);

    near(t[1].loss.var, normal[1].loss.var, 5 * normal[1].error, "normal in the limit");
    /* The sum of both is t3 again with twice the variance, 2.6215760177796352 of its root at 99 % (the same file). */
    near(wild[1].loss.var, 2.6215760177796352 * sqrt(2), 4 * wild[1].error, "sum of two");
}
END_TEST

START_TEST(singular)
{
    static const double together[] = {4e-4, 4e-4, 4e-4, 4e-4}, hedge[] = {5000, -5000}, mean[] = {0, 0};
    static const double one_moves[] = {0, 0, 0, 1e-4}, nothing[4] = {0}, drift[] = {-0.125, -0.5}, both[] = {100, 200};
    const struct risk_estimate *e = run(hedge, mean, together, 2, 1000, 1, 0);

    for (size_t i = 0; i < KEEL_COUNT(confidence); i++)
        ck_assert(e[i].loss.var == 0 && e[i].loss.es == 0 && (!e[i].has_error || e[i].error == 0));
    e = run(both, mean, one_moves, 2, 100000, 1, 0);
    near(e[0].loss.var, 200 * (1 - exp(-0.01 * 1.6448536269514722)), 4 * e[0].error, "one of two moves");
    e = run(both, drift, nothing, 2, 1000, 1, 0);
    near(e[0].loss.var, -100 * expm1(-0.125) - 200 * expm1(-0.5), 1e-12, "nothing moves");
    near(e[0].loss.es, e[0].loss.var, 1e-12, "nothing moves");
}
END_TEST

/* By the binomial, ranks n p -+ 1.96 sqrt(n p (1 - p)) must be within 1 and n. */
static const struct { size_t n; bool at_95, at_99; } error_case[] = {
    {100, false, false}, {109, false, false}, {110, true, false},
    {562, true, false},  {563, true, true},   {10000, true, true},
};

START_TEST(standard_errors)
{
    static const double value = 1, mean = 0, c = 1e-4;
    const struct risk_estimate *e = run(&value, &mean, &c, 1, error_case[_i].n, 1, 0);

    ck_assert(e[0].has_error == error_case[_i].at_95 && e[1].has_error == error_case[_i].at_99);
    for (size_t i = 0; i < KEEL_COUNT(confidence); i++)
        ck_assert(e[i].has_error ? e[i].error > 0 : e[i].error == 0);
}
END_TEST

/* What the estimates rest on is what risk_var_historical makes of the same profits. */
START_TEST(conventions_of_history)
{
    static const double value[] = {1000, -400, 70}, mean[] = {0.001, 0, -0.002},
                        covariance[] = {4e-4, 1e-4, 0, 1e-4, 1e-4, 0, 0, 0, 9e-4};
    const struct risk_kernel *all;
    size_t kernels = risk_kernels(&all);
    struct risk_factors f;
    struct risk_model m;
    struct risk_var want[2];

    for (size_t n = 100; n < 5000; n = n * 3 + 1) {
        const struct risk_estimate *e = run(value, mean, covariance, 3, n, n, 6);

        ck_assert_int_eq(risk_factor(covariance, 3, arena, &go_on, &f), KEEL_OK);
        m = risk_model_of(&f, mean, value, 6, arena);
        ck_assert_int_eq(
            risk_var_historical(simulate(&all[kernels - 1], &m, n, n), n, confidence, 2, arena, want), KEEL_OK);
        for (size_t i = 0; i < 2; i++)
            ck_assert(e[i].loss.var == want[i].var && e[i].loss.es == want[i].es);
    }
}
END_TEST

static const struct { const char *why; double value, mean, variance; } wild_case[] = {
    {"a volatility of 100,000 %", 1, 0, 1e6},
    {"a drift beyond what a double holds", 1, 800, 1e-4},
    {"too much money", 1e308, 3, 1},
    {"losses that fit, their sum does not", -1e8, 691, 1e-10},
};

START_TEST(what_does_not_fit)
{
    struct risk_estimate e[2];
    struct risk_factors f;

    ck_assert_int_eq(risk_factor(&wild_case[_i].variance, 1, arena, &go_on, &f), KEEL_OK);
    ck_assert_int_eq(risk_monte_carlo(&f, &wild_case[_i].mean, &wild_case[_i].value,
                                      &(struct risk_simulation){1000, 1, 0}, confidence, 2, arena, &go_on, e),
                     KEEL_UNDEFINED);
}
END_TEST

/* ---- being stopped ---- */

static atomic_bool stopped;
static int blocks;

static void stops_at_the_third(const struct risk_model *m, struct risk_lanes *lanes, double *normal, double *profit)
{
    block_test(m, lanes, normal, profit);
    if (++blocks == 3)
        atomic_store(&stopped, true);
}

START_TEST(stop_is_looked_at)
{
    const struct risk_kernel kernel = {"stops", logs_test, stops_at_the_third};
    static const double unit[] = {1, 0, 0, 1}, value[2] = {0}, mean[2] = {0};
    double *profit = keel_arena_array(arena, 1000 * RISK_BLOCK, sizeof *profit);
    struct risk_model m = a_model(2, 2, 0);
    struct risk_factors f;
    struct risk_estimate e[2];

    ck_assert_int_eq(risk_factor(unit, 2, arena, &go_on, &f), KEEL_OK);
    atomic_store(&stopped, false);
    blocks = 0;
    ck_assert_int_eq(risk_simulate(&kernel, &m, 1000 * RISK_BLOCK, 1, arena, &stopped, profit), KEEL_CANCELLED);
    ck_assert_int_eq(blocks, 3);
    ck_assert_int_eq(risk_factor(unit, 2, arena, &stopped, &f), KEEL_CANCELLED);
    ck_assert_int_eq(risk_monte_carlo(&f, mean, value, &(struct risk_simulation){1000, 1, 0}, confidence, 2, arena,
                                      &stopped, e),
                     KEEL_CANCELLED);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("monte_carlo");
    TCase *tc = tcase_create("monte_carlo");

    suite_add_tcase(suite, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, log_in_ulps);
    tcase_add_test(tc, logs_of_any_number);
    tcase_add_test(tc, expm1_in_ulps);
    tcase_add_test(tc, circle_in_ulps);
    tcase_add_test(tc, scalar_is_published);
    tcase_add_test(tc, lanes_are_scalar_generators);
    tcase_add_test(tc, normals_are_box_and_muller);
    tcase_add_test(tc, normals_are_normal);
    tcase_add_test(tc, lanes_are_independent);
    tcase_add_test(tc, sample_law);
    tcase_add_loop_test(tc, factor, 0, KEEL_COUNT(factor_case));
    tcase_add_test(tc, sample_of_low_rank);
    tcase_add_test(tc, room);
    tcase_add_loop_test(tc, every_kernel_gives_the_same_bits, 0, KEEL_COUNT(bits_case));
    tcase_add_loop_test(tc, single_position, 0, KEEL_COUNT(single_case));
    tcase_add_test(tc, three_positions);
    tcase_add_test(tc, student_t);
    tcase_add_test(tc, student_t_limits);
    tcase_add_test(tc, singular);
    tcase_add_loop_test(tc, standard_errors, 0, KEEL_COUNT(error_case));
    tcase_add_test(tc, conventions_of_history);
    tcase_add_loop_test(tc, what_does_not_fit, 0, KEEL_COUNT(wild_case));
    tcase_add_test(tc, stop_is_looked_at);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
