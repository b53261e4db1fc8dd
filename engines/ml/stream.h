/*
 * What the models that need no training keep of a stream, and how a feature becomes an input. Everything here is
 * bounded and updated one observation at a time.
 */
#ifndef ML_STREAM_H
#define ML_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "keel/status.h"

/* ---- inputs ---- */

/* Prices and differences of prices say little by themselves and differ between symbols: they are taken relative to the
 * close. */
enum ml_how { ML_PLAIN, ML_LEVEL, ML_SPAN };
/* How a feature of that name is taken: ML_LEVEL value / close - 1, ML_SPAN value / close, else as it is. */
enum ml_how ml_how_of(const char *name);
double ml_take(enum ml_how how, double value, double close);

/* ---- volatility_forecaster: exponentially weighted variance (RiskMetrics 1996), zero mean ---- */

#define ML_LAMBDA 0.94
#define ML_VOLATILITY_MIN 20 /* returns before there is a forecast */

struct ml_ewma {
    double variance;
    uint64_t n;
};
/* v = lambda v + (1 - lambda) r^2, begun with the first squared return. */
void ml_ewma_add(struct ml_ewma *e, double r, double lambda);
/* Share of the infinite weight that was really observed: 1 - lambda^n. */
double ml_ewma_weight(const struct ml_ewma *e, double lambda);

/* ---- anomaly_detector: robust z-score over a window ---- */

#define ML_WINDOW 128
#define ML_WINDOW_MIN 30 /* observations before there is a score */

struct ml_window {
    double recent[ML_WINDOW], sorted[ML_WINDOW];
    uint32_t n, at;
};
void ml_window_add(struct ml_window *w, double x);
double ml_window_median(const struct ml_window *w); /* n >= 1 */
double ml_window_mad(const struct ml_window *w);    /* median absolute deviation from the median; n >= 1 */
/*
 * What a window says of a new observation, kept beside it: scoring one is then a division, and sees no window.
 *
 * The width is the larger of 1.4826 MAD and the 95th percentile of the deviations over 1.96, each consistent for normal
 * data: figures that mostly stand still, such as a spread of one tick, have next to no MAD, and what happens more often
 * than once in twenty is no anomaly. Where both are 0 there are the few squared deviations that are not.
 */
struct ml_scale {
    double median, width, squares; /* n >= ML_WINDOW_MIN; squares: their sum, if width is 0 */
    uint32_t n;
};
/* O(ML_WINDOW). */
struct ml_scale ml_window_scale(const struct ml_window *w);
/*
 * |x - median| / width, x not yet in the window. Where the width is 0 it is the root mean square about the median, x
 * included, which bounds the score by the root of n + 1.
 *
 * KEEL_UNDEFINED  fewer than ML_WINDOW_MIN observations
 */
enum keel_status ml_scale_score(const struct ml_scale *s, double x, double *score);

#endif
