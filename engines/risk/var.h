/* Value at risk and expected shortfall of one series. Losses count up. Pure. */
#ifndef KEEL_RISK_VAR_H
#define KEEL_RISK_VAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/status.h"

struct risk_var { double var, es; };
bool risk_var_is_finite(struct risk_var v);

/*
 * Historical, at each of m confidences in (0, 1): x is n profits (money or fractions, signed, any order; not modified).
 * var is minus the (1 - confidence) quantile, type 7 of Hyndman & Fan (1996); es is minus the mean of the x at or below
 * it.
 * KEEL_UNDEFINED  n < 2, an x is not finite, or a figure is not.  n doubles from a; O(n).
 */
enum keel_status risk_var_historical(const double *x, size_t n, const double *confidence, size_t m,
                                     struct keel_arena *a, struct risk_var *out);
/* How many of the lowest of n values the figures at this confidence rest on; n >= 2. */
size_t risk_tail(size_t n, double confidence);
/* The same figures, infinite ones too, of n values whose risk_tail(n, confidence) lowest are in order at the front. */
struct risk_var risk_var_lowest(const double *x, size_t n, double confidence);

/*
 * Normal: var = z * sd - mean, es = sd * pdf(z) / (1 - confidence) - mean, with the sample mean and deviation (n - 1)
 * of x.
 * KEEL_UNDEFINED as above.
 */
enum keel_status risk_var_parametric(const double *x, size_t n, double confidence, struct risk_var *out);
/* The same from a given mean and deviation; sd >= 0. */
enum keel_status risk_var_normal(double mean, double sd, double confidence, struct risk_var *out);

/* Closes of one symbol, oldest first, at most n of them. */
#define RISK_CLOSES 512
struct risk_closes { int64_t ts[RISK_CLOSES]; double close[RISK_CLOSES]; uint32_t n, at; };
void risk_closes_add(struct risk_closes *c, int64_t ts, double close); /* ts must rise; else it is left out */

/*
 * Profit of a portfolio of k symbols, each with market value[i], had each bar's simple return come again: one figure
 * for each pair of neighbouring bars that every symbol has. *out has room for RISK_CLOSES; returns how many there are,
 * oldest first.
 */
size_t risk_profits(const struct risk_closes *const *closes, const double *value, size_t k, double *out);
/* Of the same pairs each symbol's later close over its earlier one, k numbers a pair; room for RISK_CLOSES pairs. */
size_t risk_growths(const struct risk_closes *const *closes, size_t k, double *out);

#endif
