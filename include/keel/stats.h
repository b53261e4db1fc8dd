/* Moments in one pass (Welford 1962; West 1979), compensated sums (Neumaier 1974), quantiles, normal distribution. */
#ifndef KEEL_STATS_H
#define KEEL_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/status.h"

struct keel_moments { uint64_t n; double mean, m2; };
void keel_moments_add(struct keel_moments *m, double x);
double keel_moments_var(const struct keel_moments *m);  /* sample, n - 1; 0 for n < 2 */
double keel_moments_pvar(const struct keel_moments *m); /* population, n; 0 for n < 1 */

struct keel_sum { double s, c; };
void keel_sum_add(struct keel_sum *s, double x);
double keel_sum_value(const struct keel_sum *s);

/* Linear interpolation, type 7 of Hyndman & Fan (1996), of n sorted values; n >= 1, 0 <= q <= 1. */
double keel_quantile_sorted(const double *sorted, size_t n, double q);
void keel_sort_f64(double *x, size_t n);
/*
 * Brings the m lowest of n values, none of them NaN, to the front in order; the others follow in any order. m > n: all.
 * O(n + m log m) on average, O(n log n) at worst.
 */
void keel_lowest_f64(double *x, size_t n, size_t m);

double keel_norm_pdf(double x);
double keel_norm_cdf(double x);
/* Inverse of the normal distribution, p in (0, 1); Wichura (1988) AS 241, relative error 1e-16. */
double keel_norm_inv(double p);

#endif
