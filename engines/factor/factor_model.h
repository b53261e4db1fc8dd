/*
 * The factor model. Three steps, each a function of its input only: a symbol's bars give raw exposures; the raw
 * exposures of all symbols at one time give standardised ones; a cross-section of returns regressed on standardised
 * exposures gives factor returns and residuals.
 */
#ifndef KEEL_FACTOR_MODEL_H
#define KEEL_FACTOR_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/status.h"

/*
 * id, name, category, unit of the raw value, formula. n: bars observed, at most `lookback`; k: `reversal_bars`;
 * C[i]: close i bars ago; r[i] = ln(C[i] / C[i+1]); V[i] = C[i] * volume[i], the notional traded in bar i.
 */
#define FACTOR_MAP(X)                                                                                              \
    X(MOMENTUM, "momentum", "Momentum", "technical", "log return a bar", "ln(C[k] / C[n]) / (n - k)")              \
    X(REVERSAL, "reversal", "Short-term reversal", "technical", "log return", "-ln(C[0] / C[k])")                  \
    X(VOLATILITY, "volatility", "Volatility", "technical", "log return a bar",                                     \
      "sqrt(sum((r[i] - mean(r))^2) / (n - 1)), i = 0..n-1")                                                       \
    X(LIQUIDITY, "liquidity", "Liquidity", "liquidity", "ln of notional a unit of log return",                     \
      "-ln(mean(|r[i]| / V[i])), i = 0..n-1 with V[i] > 0 (Amihud 2002, sign turned)")                             \
    X(SIZE, "size", "Size", "liquidity", "ln of notional a bar",                                                   \
      "ln(mean(V[i])), i = 0..n-1: traded notional stands for market capitalisation, which market data does not "  \
      "carry")

enum factor_id {
#define X(id, name, title, category, unit, formula) FACTOR_##id,
    FACTOR_MAP(X)
#undef X
    FACTOR_N
};

struct factor_def { const char *name, *title, *category, *unit, *formula; };
extern const struct factor_def factor_defs[FACTOR_N];
int factor_find(const char *name); /* -1: there is none */

#define FACTOR_UNIVERSE 5 /* fewest symbols that make a cross-section */
#define FACTOR_RECENT 8   /* bars back of which exposures are kept */
/* Robust deviations (1.4826 median absolute deviations) from the median; what is beyond is clipped. */
#define FACTOR_CLIP 3.0

/* lookback > reversal + 1; least_bars > reversal + 1: returns a symbol needs to be in a cross-section. */
struct factor_conf { uint32_t lookback, reversal, least_bars; };

/* A symbol as one of its bars closed. */
struct factor_point {
    int64_t ts_close;
    double ret;           /* simple return of this bar, fraction; 0 for the first bar */
    double raw[FACTOR_N];
    unsigned has;         /* bit f: raw[f] is defined */
    uint32_t have;        /* returns it rests on, at most lookback */
};

struct factor_history {
    double *log_close, *notional; /* rings of lookback + 1, the caller's storage */
    uint32_t n, at;               /* bars in the ring; where the next one goes */
    struct factor_point recent[FACTOR_RECENT];
    uint32_t points; /* ever, since the history began; the newest is at (points - 1) % FACTOR_RECENT */
};

/* storage: 2 * (lookback + 1) doubles. */
void factor_history_init(struct factor_history *h, const struct factor_conf *conf, double *storage);
/*
 * One closed bar: close > 0, volume >= 0. A bar of the same stamp again changes nothing (false); an earlier one
 * begins a new history: records of a symbol come in order, so the session has begun anew. O(lookback).
 */
bool factor_history_add(struct factor_history *h, const struct factor_conf *conf, int64_t ts_close, double close,
                        double volume);
const struct factor_point *factor_newest(const struct factor_history *h); /* NULL: no bar yet */
/* The point that closed at ts and the one before it; false unless both are kept. */
bool factor_pair(const struct factor_history *h, int64_t ts, const struct factor_point **at,
                 const struct factor_point **before);

struct factor_section {
    double *z;                 /* n x FACTOR_N, row by row */
    unsigned *has;             /* n: bit f: z is defined */
    size_t count[FACTOR_N];    /* symbols with a raw value */
    unsigned defined;          /* bit f: count is at least FACTOR_UNIVERSE and the values differ */
};

/*
 * Standardises each factor over the points that have it: clipped to the median +- FACTOR_CLIP robust deviations,
 * then to mean 0 and sample deviation 1. O(n) on average.
 */
void factor_standardise(const struct factor_point *const *point, size_t n, struct keel_arena *a,
                        struct factor_section *out);

/* Pearson correlation of two factors' exposures over the n symbols that have both; KEEL_UNDEFINED: fewer than
 * FACTOR_UNIVERSE, or no spread. */
enum keel_status factor_correlation(const struct factor_section *s, size_t n, int f, int g, double *out);

/* A cross-section to be explained. Matrices row by row. */
struct factor_cross {
    size_t n, n_sectors, n_styles; /* n_sectors 0: market and styles only */
    const double *ret;             /* n, fractions */
    const double *weight;          /* n, > 0 */
    const double *sector;          /* n x n_sectors: 1 where the symbol belongs, else 0 */
    const double *style;           /* n x n_styles */
};
struct factor_estimate {
    double *factor;   /* 1 + n_sectors + n_styles: market, sectors (their sum is 0), styles; fractions */
    double *error;    /* standard errors, each of its own stage */
    double *residual; /* n */
    double r2;        /* share of the weighted variance about the weighted mean that is explained */
    bool has_r2;      /* false: the returns do not differ */
};

/*
 * Two weighted regressions: returns on market and sectors, then what is left on the styles. The sectors' returns
 * sum to zero by a change of variables: the last one is minus the sum of the others.
 *
 * KEEL_UNDEFINED  n <= max(1, n_sectors) + n_styles, no style, a weight is not > 0, or dependent columns
 *
 * The method is that of toraniko's factor_returns_cs with residualised styles. O(n k^2).
 */
enum keel_status factor_estimate_cross(const struct factor_cross *c, struct keel_arena *a,
                                       struct factor_estimate *out);

#endif
