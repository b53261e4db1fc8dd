/* Measures of return series; each is defined in the header. */
#include "performance.h"

#include <math.h>

#include "keel/stats.h"

static enum keel_status result(double v, double *out)
{
    if (!isfinite(v))
        return KEEL_UNDEFINED;
    *out = v;
    return KEEL_OK;
}

static struct keel_moments moments(const double *r, size_t n)
{
    struct keel_moments m = {0};

    for (size_t i = 0; i < n; i++)
        keel_moments_add(&m, r[i]);
    return m;
}

/* ---- return and deviation ---- */

enum keel_status perf_total_return(const double *r, size_t n, double *out)
{
    double level = 1;

    if (n < 1)
        return KEEL_UNDEFINED;
    for (size_t i = 0; i < n; i++)
        level *= 1 + r[i];
    return result(level - 1, out);
}

enum keel_status perf_annual_return(const double *r, size_t n, double ppy, double *out)
{
    double total;

    if (perf_total_return(r, n, &total) != KEEL_OK || total < -1)
        return KEEL_UNDEFINED;
    return result(pow(1 + total, ppy / (double)n) - 1, out);
}

enum keel_status perf_volatility(const double *r, size_t n, double ppy, double *out)
{
    struct keel_moments m = moments(r, n);

    return n < 2 ? KEEL_UNDEFINED : result(sqrt(keel_moments_var(&m) * ppy), out);
}

enum keel_status perf_sharpe(const double *r, size_t n, double ppy, double *out)
{
    struct keel_moments m = moments(r, n);
    double sd = sqrt(keel_moments_var(&m));

    return n < 2 || !(sd > 0) ? KEEL_UNDEFINED : result(m.mean / sd * sqrt(ppy), out);
}

enum keel_status perf_downside(const double *r, size_t n, double threshold, double ppy, double *out)
{
    struct keel_sum squares = {0};

    if (n < 1)
        return KEEL_UNDEFINED;
    for (size_t i = 0; i < n; i++) {
        double below = fmin(r[i] - threshold, 0);
        keel_sum_add(&squares, below * below);
    }
    return result(sqrt(keel_sum_value(&squares) / (double)n * ppy), out);
}

enum keel_status perf_sortino(const double *r, size_t n, double ppy, double *out)
{
    struct keel_moments m = moments(r, n);
    double downside;

    if (n < 2 || perf_downside(r, n, 0, ppy, &downside) != KEEL_OK || !(downside > 0))
        return KEEL_UNDEFINED;
    return result(m.mean * ppy / downside, out);
}

/* ---- drawdown ---- */

enum keel_status perf_max_drawdown(const double *r, size_t n, double *out)
{
    double level = 1, peak = 1, worst = 0;

    if (n < 1)
        return KEEL_UNDEFINED;
    for (size_t i = 0; i < n; i++) {
        level *= 1 + r[i];
        peak = fmax(peak, level);
        worst = fmax(worst, 1 - level / peak);
    }
    return result(worst, out);
}

enum keel_status perf_calmar(const double *r, size_t n, double ppy, double *out)
{
    double annual, worst;

    if (perf_annual_return(r, n, ppy, &annual) != KEEL_OK || perf_max_drawdown(r, n, &worst) != KEEL_OK || !(worst > 0))
        return KEEL_UNDEFINED;
    return result(annual / worst, out);
}

/* ---- shape ---- */

enum keel_status perf_omega(const double *r, size_t n, double threshold, double *out)
{
    struct keel_sum gain = {0}, loss = {0};

    for (size_t i = 0; i < n; i++)
        keel_sum_add(r[i] > threshold ? &gain : &loss, fabs(r[i] - threshold));
    if (n < 2 || !(keel_sum_value(&loss) > 0))
        return KEEL_UNDEFINED;
    return result(keel_sum_value(&gain) / keel_sum_value(&loss), out);
}

enum keel_status perf_stability(const double *r, size_t n, double *out)
{
    struct keel_moments m = {0};
    double level = 0, cross = 0, mid = ((double)n - 1) / 2, spread = (double)n * ((double)n * (double)n - 1) / 12;

    if (n < 2)
        return KEEL_UNDEFINED;
    for (size_t i = 0; i < n; i++) {
        if (!(r[i] > -1))
            return KEEL_UNDEFINED;
        level += log1p(r[i]);
        keel_moments_add(&m, level);
        cross += ((double)i - mid) * level; /* the deviations of time sum to 0, so the mean of level does not matter */
    }
    return m.m2 > 0 ? result(cross * cross / (spread * m.m2), out) : KEEL_UNDEFINED;
}

static enum keel_status standard_moment(const double *r, size_t n, int power, double *out)
{
    struct keel_moments m = moments(r, n);
    struct keel_sum s = {0};
    double sd = sqrt(keel_moments_pvar(&m));

    if (!(sd > 0))
        return KEEL_UNDEFINED;
    for (size_t i = 0; i < n; i++)
        keel_sum_add(&s, pow((r[i] - m.mean) / sd, power));
    return result(keel_sum_value(&s) / (double)n, out);
}

enum keel_status perf_skewness(const double *r, size_t n, double *out)
{
    return n < 3 ? KEEL_UNDEFINED : standard_moment(r, n, 3, out);
}

enum keel_status perf_kurtosis(const double *r, size_t n, double *out)
{
    double fourth;

    if (n < 4 || standard_moment(r, n, 4, &fourth) != KEEL_OK)
        return KEEL_UNDEFINED;
    return result(fourth - 3, out);
}

enum keel_status perf_probabilistic_sharpe(const double *r, size_t n, double *out)
{
    double sharpe, skew, excess, variance;

    if (perf_sharpe(r, n, 1, &sharpe) != KEEL_OK || perf_skewness(r, n, &skew) != KEEL_OK ||
        perf_kurtosis(r, n, &excess) != KEEL_OK)
        return KEEL_UNDEFINED;
    variance = 1 - skew * sharpe + (excess + 2) / 4 * sharpe * sharpe;
    return variance > 0 ? result(keel_norm_cdf(sharpe * sqrt(((double)n - 1) / variance)), out) : KEEL_UNDEFINED;
}

enum keel_status perf_tail_loss(const double *sorted, size_t n, double confidence, struct perf_tail *out)
{
    struct keel_sum below = {0};
    size_t k = 0;
    double q;

    if (n < 1)
        return KEEL_UNDEFINED;
    q = keel_quantile_sorted(sorted, n, 1 - confidence);
    for (; k < n && sorted[k] <= q; k++)
        keel_sum_add(&below, sorted[k]);
    /* Rounding may put the quantile a hair under the only return that makes it up. */
    *out = (struct perf_tail){.var = -q, .es = k > 0 ? -keel_sum_value(&below) / (double)k : -q};
    return KEEL_OK;
}

enum keel_status perf_tail_ratio(const double *sorted, size_t n, double *out)
{
    double low;

    if (n < 1)
        return KEEL_UNDEFINED;
    low = fabs(keel_quantile_sorted(sorted, n, 0.05));
    return low > 0 ? result(fabs(keel_quantile_sorted(sorted, n, 0.95)) / low, out) : KEEL_UNDEFINED;
}

/* ---- against a benchmark ---- */

enum keel_status perf_beta(const double *r, const double *b, size_t n, double *out)
{
    struct keel_moments mr = moments(r, n), mb = moments(b, n);
    struct keel_sum cross = {0};

    if (n < 2 || !(mb.m2 > 0))
        return KEEL_UNDEFINED;
    for (size_t i = 0; i < n; i++)
        keel_sum_add(&cross, (r[i] - mr.mean) * (b[i] - mb.mean));
    return result(keel_sum_value(&cross) / mb.m2, out);
}

enum keel_status perf_alpha(const double *r, const double *b, size_t n, double ppy, double *out)
{
    double beta, period;

    if (perf_beta(r, b, n, &beta) != KEEL_OK)
        return KEEL_UNDEFINED;
    period = moments(r, n).mean - beta * moments(b, n).mean;
    return period < -1 ? KEEL_UNDEFINED : result(expm1(ppy * log1p(period)), out);
}

enum keel_status perf_information(const double *r, const double *b, size_t n, double ppy, double *out)
{
    struct keel_moments m = {0};
    double sd;

    for (size_t i = 0; i < n; i++)
        keel_moments_add(&m, r[i] - b[i]);
    sd = sqrt(keel_moments_var(&m));
    return n < 2 || !(sd > 0) ? KEEL_UNDEFINED : result(m.mean / sd * sqrt(ppy), out);
}

enum keel_status perf_capture(const double *r, const double *b, size_t n, double ppy, bool up, double *out)
{
    double own = 1, its = 1, years, theirs;
    size_t k = 0;

    for (size_t i = 0; i < n; i++) {
        if (up ? b[i] > 0 : b[i] < 0) {
            own *= 1 + r[i];
            its *= 1 + b[i];
            k++;
        }
    }
    if (k == 0 || own < 0)
        return KEEL_UNDEFINED;
    years = (double)k / ppy;
    theirs = pow(its, 1 / years) - 1;
    return theirs != 0 ? result((pow(own, 1 / years) - 1) / theirs, out) : KEEL_UNDEFINED;
}

/* ---- windows and resamples ---- */

enum keel_status perf_rolling(perf_measure_fn *measure, const double *r, size_t n, size_t window, double ppy, double *out,
                             size_t *n_out)
{
    size_t k = 0;

    for (size_t i = 0; window > 0 && i + window <= n; i++)
        k += measure(r + i, window, ppy, &out[k]) == KEEL_OK;
    if (k == 0)
        return KEEL_UNDEFINED;
    *n_out = k;
    return KEEL_OK;
}

void perf_bootstrap_init(struct perf_bootstrap *b, const double *r, size_t n, double ppy, size_t most, uint64_t seed,
                        struct keel_arena *a)
{
    *b = (struct perf_bootstrap){.r = r,
                                .n = n,
                                .most = most,
                                .ppy = ppy,
                                .fresh = n > 0 ? 1 / cbrt((double)n) : 1,
                                .sharpe = keel_arena_array(a, most, sizeof(double))};
    keel_rng_seed(&b->rng, seed);
}

void perf_bootstrap_run(struct perf_bootstrap *b, size_t resamples, const atomic_bool *stop)
{
    size_t end = resamples < b->most - b->done ? b->done + resamples : b->most;

    if (b->n < 2)
        return;
    for (; b->done < end && !atomic_load(stop); b->done++) {
        struct keel_moments m = {0};
        size_t at = 0;
        for (size_t i = 0; i < b->n; i++) {
            if (i == 0 || keel_rng_f64(&b->rng) < b->fresh)
                at = (size_t)keel_rng_below(&b->rng, b->n);
            else if (++at == b->n)
                at = 0;
            keel_moments_add(&m, b->r[at]);
        }
        double sd = sqrt(keel_moments_var(&m));
        if (sd > 0)
            b->sharpe[b->valid++] = m.mean / sd * sqrt(b->ppy);
    }
}

enum keel_status perf_bootstrap_interval(struct perf_bootstrap *b, double confidence, double *low, double *high)
{
    if (b->done == 0 || b->valid * 10 < b->done * 9)
        return KEEL_UNDEFINED;
    keel_sort_f64(b->sharpe, b->valid);
    *low = keel_quantile_sorted(b->sharpe, b->valid, (1 - confidence) / 2);
    *high = keel_quantile_sorted(b->sharpe, b->valid, (1 + confidence) / 2);
    return KEEL_OK;
}
