/*
 * Value at risk by simulation. Prices are lognormal: over the horizon k positions of market values v bring the profit
 *
 *   sum of v[i] * (exp(x[i]) - 1)
 *
 * where the log returns x are normal with a given mean and covariance, or Student t with the same mean and covariance
 * (one chi-square for all positions: they are wild together). Pure. The same input and seed give the same figures to
 * the last bit on every x86-64 processor, and elsewhere where doubles are rounded as IEEE 754 asks.
 *
 * Under Student t a short position's expected loss has no finite value, since exp(x) has no mean: its expected
 * shortfall is that of the sample and grows with the number of simulations. Value at risk is not touched by that.
 */
#ifndef KEEL_RISK_MONTE_CARLO_H
#define KEEL_RISK_MONTE_CARLO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/status.h"
#include "var.h"

#define RISK_FACTORS 1000 /* most positions of a simulation */

/* Most simulations that k >= 1 positions leave room for, n k (k + 100) <= 4e9: at most 0.3 s of one core. */
size_t risk_simulations(size_t k);

/* Log returns over the horizon. covariance is k rows of k numbers; mean has k. */
struct risk_law { size_t k; const double *mean, *covariance; };

/*
 * Sample means and sample covariances (n - 1) of k log returns, from n >= 2 rows of k growths > 0 (later price over
 * earlier), which become deviations of log returns. O(n k^2); arrays from a.
 */
struct risk_law risk_sample_law(double *growth, size_t n, size_t k, struct keel_arena *a);

/* Whether no two numbers that should be equal differ by more than 1e-9 of their positions' standard deviations. */
bool risk_is_symmetric(const double *covariance, size_t k);

/*
 * A covariance as l l': row i of l is of the position order[i] and has rank numbers, those beyond the diagonal 0. What
 * is below 1e-9 of a position's variance counts as none, so a singular covariance has fewer columns than rows.
 */
struct risk_factors { size_t k, rank; const double *l; const size_t *order; };

/*
 * Cholesky's factors with the largest diagonal first, as for semidefinite matrices (Higham 1990; LAPACK's dpstrf), of
 * the correlations.
 * KEEL_INVALID    not positive semidefinite (by more than 1e-8 of the variances)
 * KEEL_CANCELLED  *stop became true
 * O(k rank^2); two times k^2 doubles from a.
 */
enum keel_status risk_factor(const double *covariance, size_t k, struct keel_arena *a, const atomic_bool *stop,
                             struct risk_factors *out);

/* Standard deviation of the profit of market values, linear in the returns: the root of value' covariance value. */
double risk_linear_sd(const double *value, const double *covariance, size_t k);

struct risk_simulation {
    size_t n;       /* >= 2 */
    uint64_t seed;
    double freedom; /* degrees of freedom, > 2; 0: the normal law */
};

/* error: standard error of loss.var, from the order statistics about the quantile; too few simulations have none. */
struct risk_estimate { struct risk_var loss; double error; bool has_error; };

/*
 * Simulates and estimates, at each of m confidences in (0, 1), as risk_var_historical does of profits that happened.
 * KEEL_UNDEFINED  a profit is not finite, or a figure is not
 * KEEL_CANCELLED  *stop became true
 * O(n k rank); n + 64 rank + k rank doubles from a.
 */
enum keel_status risk_monte_carlo(const struct risk_factors *f, const double *mean, const double *value,
                                  const struct risk_simulation *s, const double *confidence, size_t m,
                                  struct keel_arena *a, const atomic_bool *stop, struct risk_estimate *out);

#endif
