/* Logistic regression with an L2 penalty, fitted by Newton's method (iteratively reweighted least squares). */
#ifndef ML_LOGIT_H
#define ML_LOGIT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/status.h"

#define ML_INPUTS 32 /* most inputs of a model */

struct ml_logit {
    double weight[ML_INPUTS], intercept;
    double loglik; /* without the penalty */
    int steps;
};

/* 1 / (1 + exp(-z)), exact to rounding at both ends. */
double ml_sigmoid(double z);

/*
 * Fits P(y = 1) = sigmoid(intercept + weight . x).
 *
 *   x   n rows of d values, row after row, finite;  y: 0 or 1, n of them;  d <= ML_INPUTS
 *   l2  penalty: l2 / 2 times the squared weights, not the intercept, is taken off the log-likelihood; >= 0
 *
 * KEEL_UNDEFINED  one class only, or no finite maximum (collinear or separable inputs without a penalty)
 * KEEL_CANCELLED  *stop became true (stop may be NULL)
 *
 * Newton steps, halved until the penalised likelihood does not fall. O(n d^2) a step, 4 to 10 steps.
 */
enum keel_status ml_logit_fit(const double *x, const double *y, size_t n, size_t d, double l2, const atomic_bool *stop,
                              struct ml_logit *out);

#endif
