/*
 * Monte Carlo value at risk: see monte_carlo.h. The inner loops are in monte_carlo_kernel.h, here once for each set of
 * instructions; this file is built without contraction of products and sums, so that all of them give the same bits.
 */
#include "monte_carlo.h"
#include "monte_carlo_priv.h"

#include <math.h>
#include <string.h>

#include "keel/rng.h"
#include "keel/stats.h"

#define MOST_WORK 4000000000U
#define WITHIN    1e-9  /* of a variance: what counts as nothing */
#define FLAW      1e-8  /* of a variance: what is left over by a matrix that is no covariance */
#define Z95       1.96  /* of the normal law: an interval of 95 % */

/* ---- instruction sets ---- */

#define WIDTH 2
#define KERNEL(name) name##_plain
#define TARGET
#include "monte_carlo_kernel.h"

#ifdef __x86_64__
#define WIDTH 4
#define KERNEL(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#include "monte_carlo_kernel.h"

#define WIDTH 8
#define KERNEL(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512dq")))
#include "monte_carlo_kernel.h"
#endif

static const struct risk_kernel kernels[] = {
    {"plain", logs_plain, block_plain},
#ifdef __x86_64__
    {"avx2", logs_avx2, block_avx2},
    {"avx512", logs_avx512, block_avx512},
#endif
};

size_t risk_kernels(const struct risk_kernel **all)
{
    *all = kernels;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return 3;
    if (__builtin_cpu_supports("avx2"))
        return 2;
#endif
    return 1;
}

static const struct risk_kernel *fastest(void)
{
    const struct risk_kernel *all;
    size_t n = risk_kernels(&all);

    return &all[n - 1];
}

/* ---- laws ---- */

size_t risk_simulations(size_t k)
{
    return MOST_WORK / (k * (k + 100));
}

struct risk_law risk_sample_law(double *growth, size_t n, size_t k, struct keel_arena *a)
{
    double *mean = keel_arena_array(a, k, sizeof *mean), *c = keel_arena_array(a, k * k, sizeof *c);

    fastest()->logs(growth, n * k);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < k; i++)
            mean[i] += growth[t * k + i];
    for (size_t i = 0; i < k; i++)
        mean[i] /= (double)n;
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < k; i++)
            growth[t * k + i] -= mean[i];
    for (size_t i = 0; i < k; i++) {
        double *restrict row = c + i * k;

        for (size_t t = 0; t < n; t++) {
            const double *restrict x = growth + t * k;
            for (size_t j = 0; j <= i; j++)
                row[j] += x[i] * x[j];
        }
        for (size_t j = 0; j <= i; j++)
            c[j * k + i] = row[j] /= (double)(n - 1);
    }
    return (struct risk_law){k, mean, c};
}

bool risk_is_symmetric(const double *covariance, size_t k)
{
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < i; j++) {
            double x = covariance[i * k + j], y = covariance[j * k + i];
            double of = sqrt(fabs(covariance[i * k + i])) * sqrt(fabs(covariance[j * k + j]));

            if (fabs(x - y) > WITHIN * of)
                return false;
        }
    return true;
}

double risk_linear_sd(const double *value, const double *covariance, size_t k)
{
    struct keel_sum sum = {0};

    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++)
            keel_sum_add(&sum, value[i] * covariance[i * k + j] * value[j]);
    return sqrt(fmax(0, keel_sum_value(&sum)));
}

/* ---- factors ---- */

/* Correlations that are being factored. Place i of order, sd, left and every row of t is of the same position. */
struct factoring {
    const double *covariance;
    size_t k, *order;
    double *sd, *left, *t; /* left: variance not yet explained; row j of t: column j of the factor */
};

static void swap(double *x, size_t i, size_t j)
{
    double one = x[i];

    x[i] = x[j];
    x[j] = one;
}

static void exchange(struct factoring *f, size_t rank, size_t i)
{
    size_t one = f->order[rank];

    f->order[rank] = f->order[i];
    f->order[i] = one;
    swap(f->sd, rank, i);
    swap(f->left, rank, i);
    for (size_t j = 0; j < rank; j++)
        swap(f->t + j * f->k, rank, i);
}

/* row[i], i >= from: correlation of places i and p less what the first rank columns explain of it. */
static void unexplained(const struct factoring *f, size_t rank, size_t p, size_t from, double *restrict row)
{
    const double *c = f->covariance + f->order[p] * f->k;

    for (size_t i = from; i < f->k; i++)
        row[i] = f->sd[i] > 0 && f->sd[p] > 0 ? c[f->order[i]] / f->sd[i] / f->sd[p] : 0;
    for (size_t j = 0; j < rank; j++) {
        const double *restrict t = f->t + j * f->k;
        double by = t[p];

        for (size_t i = from; i < f->k; i++)
            row[i] -= by * t[i];
    }
}

static size_t least_explained(const struct factoring *f, size_t rank)
{
    size_t largest = rank;

    for (size_t i = rank + 1; i < f->k; i++)
        if (f->left[i] > f->left[largest])
            largest = i;
    return largest;
}

/* Column rank explains place rank whole. False: it explains more of another than there is. */
static bool add_column(struct factoring *f, size_t rank)
{
    double *row = f->t + rank * f->k, pivot = sqrt(f->left[rank]);

    unexplained(f, rank, rank, rank + 1, row);
    row[rank] = pivot;
    for (size_t i = rank + 1; i < f->k; i++) {
        row[i] /= pivot;
        f->left[i] -= row[i] * row[i];
        if (f->left[i] < -FLAW)
            return false;
    }
    return true;
}

/* Whether what no column explains is nothing, between any two places. */
static enum keel_status check_rest(const struct factoring *f, size_t rank, double *rest, const atomic_bool *stop)
{
    for (size_t i = rank; i < f->k; i++) {
        if (atomic_load(stop))
            return KEEL_CANCELLED;
        unexplained(f, rank, i, i, rest);
        for (size_t j = i; j < f->k; j++)
            if (fabs(rest[j]) > FLAW)
                return KEEL_INVALID;
    }
    return KEEL_OK;
}

/* False: a variance is negative, or 0 and yet there is something to go with it. */
static bool enter_variances(struct factoring *f)
{
    for (size_t i = 0; i < f->k; i++) {
        double variance = f->covariance[i * f->k + i];

        for (size_t j = 0; j < f->k && variance == 0; j++)
            if (f->covariance[i * f->k + j] != 0 || f->covariance[j * f->k + i] != 0)
                return false;
        if (variance < 0)
            return false;
        f->order[i] = i;
        f->sd[i] = sqrt(variance);
        f->left[i] = variance > 0;
    }
    return true;
}

enum keel_status risk_factor(const double *covariance, size_t k, struct keel_arena *a, const atomic_bool *stop,
                             struct risk_factors *out)
{
    struct factoring f = {.covariance = covariance, .k = k};
    double *l, *rest = keel_arena_array(a, k, sizeof *rest);
    size_t rank = 0;
    enum keel_status st;

    f.order = keel_arena_array(a, k, sizeof *f.order);
    f.sd = keel_arena_array(a, k, sizeof *f.sd);
    f.left = keel_arena_array(a, k, sizeof *f.left);
    f.t = keel_arena_array(a, k * k, sizeof *f.t);
    if (!enter_variances(&f))
        return KEEL_INVALID;
    for (; rank < k; rank++) {
        size_t next = least_explained(&f, rank);

        if (f.left[next] <= WITHIN)
            break;
        if (atomic_load(stop))
            return KEEL_CANCELLED;
        exchange(&f, rank, next);
        if (!add_column(&f, rank))
            return KEEL_INVALID;
    }
    if ((st = check_rest(&f, rank, rest, stop)) != KEEL_OK)
        return st;
    l = keel_arena_array(a, k * rank, sizeof *l);
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < rank; j++)
            l[i * rank + j] = f.t[j * k + i] * f.sd[i];
    *out = (struct risk_factors){k, rank, l, f.order};
    return KEEL_OK;
}

/* ---- simulation ---- */

void risk_lanes_seed(struct risk_lanes *lanes, uint64_t seed)
{
    for (size_t lane = 0; lane < RISK_LANES; lane++)
        for (size_t i = 0; i < 4; i++)
            lanes->s[i][lane] = keel_splitmix64(&seed);
}

struct risk_model risk_model_of(const struct risk_factors *f, const double *mean, const double *value, double freedom,
                                struct keel_arena *a)
{
    double *own = keel_arena_array(a, 2 * f->k, sizeof *own), shape = freedom / 2 - 1.0 / 3;

    for (size_t i = 0; i < f->k; i++) {
        own[i] = mean[f->order[i]];
        own[f->k + i] = value[f->order[i]];
    }
    return (struct risk_model){.k = f->k, .rank = f->rank, .l = f->l, .mean = own, .value = own + f->k,
                               .is_t = freedom > 0, .shape = shape, .slope = freedom > 0 ? 1 / sqrt(9 * shape) : 0,
                               .spread = (freedom - 2) / 2};
}

enum keel_status risk_simulate(const struct risk_kernel *kernel, const struct risk_model *m, size_t n, uint64_t seed,
                               struct keel_arena *a, const atomic_bool *stop, double *profit)
{
    enum { LINE = 64 / sizeof(double) }; /* of a cache: a vector that crosses two of them is read twice */
    double *normal = keel_arena_array(a, m->rank * RISK_BLOCK + LINE, sizeof *normal);
    struct risk_lanes lanes;

    normal += LINE - (uintptr_t)normal / sizeof *normal % LINE;
    risk_lanes_seed(&lanes, seed);
    for (size_t i = 0; i < n; i += RISK_BLOCK) {
        if (atomic_load(stop))
            return KEEL_CANCELLED;
        kernel->block(m, &lanes, normal, profit + i);
    }
    return KEEL_OK;
}

/* ---- estimates ---- */

/* Ranks, from 1, between which the quantile lies in 95 of 100 simulations: the binomial's, by its normal limit. */
static void interval(size_t n, double confidence, double *low, double *high)
{
    double at = (double)n * (1 - confidence), wide = Z95 * sqrt(at * confidence);

    *low = floor(at - wide);
    *high = ceil(at + wide);
}

/* How many of the lowest of n an estimate looks at. */
static size_t looks_at(size_t n, double confidence)
{
    size_t tail = risk_tail(n, confidence), rank;
    double low, high;

    interval(n, confidence, &low, &high);
    rank = high < (double)n ? (size_t)high : n;
    return rank > tail ? rank : tail;
}

static struct risk_estimate estimate(const double *lowest, size_t n, double confidence)
{
    struct risk_estimate e = {.loss = risk_var_lowest(lowest, n, confidence)};
    double low, high;

    interval(n, confidence, &low, &high);
    e.has_error = low >= 1 && high <= (double)n;
    if (e.has_error)
        e.error = (lowest[(size_t)high - 1] - lowest[(size_t)low - 1]) / (2 * Z95);
    return e;
}

enum keel_status risk_monte_carlo(const struct risk_factors *f, const double *mean, const double *value,
                                  const struct risk_simulation *s, const double *confidence, size_t m,
                                  struct keel_arena *a, const atomic_bool *stop, struct risk_estimate *out)
{
    struct risk_model model = risk_model_of(f, mean, value, s->freedom, a);
    struct risk_estimate *e = keel_arena_array(a, m, sizeof *e);
    double *profit = keel_arena_array(a, s->n + RISK_BLOCK, sizeof *profit);
    size_t lowest = 0;
    enum keel_status st = risk_simulate(fastest(), &model, s->n, s->seed, a, stop, profit);

    if (st != KEEL_OK)
        return st;
    for (size_t i = 0; i < s->n; i++)
        if (!isfinite(profit[i]))
            return KEEL_UNDEFINED;
    for (size_t i = 0; i < m; i++)
        if (looks_at(s->n, confidence[i]) > lowest)
            lowest = looks_at(s->n, confidence[i]);
    keel_lowest_f64(profit, s->n, lowest);
    for (size_t i = 0; i < m; i++) {
        e[i] = estimate(profit, s->n, confidence[i]);
        if (!risk_var_is_finite(e[i].loss) || !isfinite(e[i].error))
            return KEEL_UNDEFINED;
    }
    memcpy(out, e, m * sizeof *e);
    return KEEL_OK;
}
