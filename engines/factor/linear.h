/* Weighted least squares by Householder reflections: dense, small (tens of columns), without the squared condition
 * number of normal equations. */
#ifndef KEEL_FACTOR_LINEAR_H
#define KEEL_FACTOR_LINEAR_H

#include "keel/arena.h"
#include "keel/status.h"

struct factor_ls {
    double *beta;  /* k coefficients */
    double *cov;   /* k x k: inverse of X'WX; times the residual variance it is the coefficients' covariance */
    double rss;    /* sum of w * residual^2 */
};

/*
 *   x   n rows of k values, row by row; w  n weights > 0, or NULL: all 1; y  n values
 *
 * KEEL_UNDEFINED  n < k, a value is not finite, a weight is not > 0, or a column is a combination of those before
 *                 it (what is left of it is below 1e-10 of its length)
 *
 * Columns are scaled to length 1 before the reflections (Golub & Van Loan, 5.2, 5.3.2). O(n k^2); n (k + 1) doubles
 * from a.
 */
enum keel_status factor_least_squares(const double *x, const double *y, const double *w, size_t n, size_t k,
                                      struct keel_arena *a, struct factor_ls *out);

#endif
