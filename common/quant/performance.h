/*
 * Measures of a series of period returns. r: n returns, fractions (0.01 is +1 %), oldest first, finite, each > -1; ppy:
 * periods per year. All annualise by ppy as given; none guesses it. Deviations are sample (n - 1) unless said
 * otherwise, quantiles type 7 of Hyndman & Fan (1996), the risk-free rate 0: a caller with another one passes excess
 * returns. A measure that does not need a benchmark never sees one.
 *
 * KEEL_UNDEFINED  too few returns, a divisor that is 0, or a result that is not finite; *out is untouched then.
 *
 * Definitions as in empyrical's (Apache-2.0) published tests, which are the tests of this file.
 */
#ifndef KEEL_QUANT_PERFORMANCE_H
#define KEEL_QUANT_PERFORMANCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/rng.h"
#include "keel/status.h"

typedef enum keel_status perf_measure_fn(const double *r, size_t n, double ppy, double *out);

enum keel_status perf_total_return(const double *r, size_t n, double *out); /* compounded, a fraction; n >= 1 */
perf_measure_fn perf_annual_return;                                          /* (1 + total)^(ppy / n) - 1; n >= 1 */
perf_measure_fn perf_volatility;                                             /* deviation times sqrt(ppy); n >= 2 */
perf_measure_fn perf_sharpe; /* mean / deviation times sqrt(ppy); n >= 2, deviation > 0 */
/* sqrt(mean(min(r - threshold, 0)^2)) times sqrt(ppy), all n in the mean; threshold a period; n >= 1 */
enum keel_status perf_downside(const double *r, size_t n, double threshold, double ppy, double *out);
perf_measure_fn perf_sortino; /* mean times ppy over the downside about 0; n >= 2, downside > 0 */
/* Largest loss from a peak of the compounded curve, the 1 it starts at included; a fraction, >= 0; n >= 1 */
enum keel_status perf_max_drawdown(const double *r, size_t n, double *out);
perf_measure_fn perf_calmar; /* annual return over drawdown; drawdown > 0 */
enum keel_status perf_omega(const double *r, size_t n, double threshold,
                           double *out); /* gains / losses about it; n >= 2 */
enum keel_status perf_stability(const double *r, size_t n,
                               double *out); /* R2 of the summed log returns on time; n >= 2 */
enum keel_status perf_skewness(const double *r, size_t n, double *out); /* population g1; n >= 3 */
enum keel_status perf_kurtosis(const double *r, size_t n, double *out); /* population excess g2; n >= 4 */
/* Probability that the true Sharpe ratio is above 0 (Bailey & Lopez de Prado 2012); n >= 4 */
enum keel_status perf_probabilistic_sharpe(const double *r, size_t n, double *out);

/* Of sorted returns. var: loss not exceeded with that confidence, > 0 a loss; es: mean of the returns at or below -var,
 * as a loss. */
struct perf_tail {
    double var, es;
};
enum keel_status perf_tail_loss(const double *sorted, size_t n, double confidence, struct perf_tail *out);
enum keel_status perf_tail_ratio(const double *sorted, size_t n,
                                double *out); /* |95 % quantile| / |5 % quantile|; n >= 1 */

/* Against a benchmark b, n returns of the same periods. */
enum keel_status perf_beta(const double *r, const double *b, size_t n, double *out); /* cov / var; n >= 2 */
/* (1 + mean(r) - beta mean(b))^ppy - 1; n >= 2 */
enum keel_status perf_alpha(const double *r, const double *b, size_t n, double ppy, double *out);
enum keel_status perf_information(const double *r, const double *b, size_t n, double ppy,
                                 double *out); /* Sharpe of r - b */
/* Annual return over the benchmark's, both over the periods where the benchmark rose (fell); out of scale when ppy / n
 * is large. */
enum keel_status perf_capture(const double *r, const double *b, size_t n, double ppy, bool up, double *out);

/* The measure over each window of `window` returns, oldest first; windows where it is undefined are left out. out: room
 * for n - window + 1. KEEL_UNDEFINED when none is left. */
enum keel_status perf_rolling(perf_measure_fn *measure, const double *r, size_t n, size_t window, double ppy, double *out,
                             size_t *n_out);

/*
 * Interval of the Sharpe ratio by the stationary bootstrap (Politis & Romano 1994): blocks of geometric length, mean
 * n^(1/3), wrapping round. The seed decides all of it. perf_bootstrap_run draws `resamples` more, so that it can be done
 * in slices.
 */
struct perf_bootstrap {
    const double *r;
    size_t n, done, valid, most;
    double ppy, fresh; /* chance that a block ends */
    double *sharpe;
    struct keel_rng rng;
};
void perf_bootstrap_init(struct perf_bootstrap *b, const double *r, size_t n, double ppy, size_t most, uint64_t seed,
                        struct keel_arena *a);
void perf_bootstrap_run(struct perf_bootstrap *b, size_t resamples, const atomic_bool *stop);
/* KEEL_UNDEFINED when fewer than nine tenths of the resamples have a Sharpe ratio. Sorts what was drawn. */
enum keel_status perf_bootstrap_interval(struct perf_bootstrap *b, double confidence, double *low, double *high);

#endif
