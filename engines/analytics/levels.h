/*
 * The four depths of analysis: which measures each has, and their values with, for each that is undefined, why. A depth
 * is computed on top of the one before, so that a call that runs out of time still has the last one whole.
 */
#ifndef KEEL_ANALYTICS_LEVELS_H
#define KEEL_ANALYTICS_LEVELS_H

#include <stdatomic.h>

#include "curve.h"
#include "performance.h"

enum ana_level { ANA_SIMPLE, ANA_STANDARD, ANA_COMPREHENSIVE, ANA_INSTITUTIONAL, ANA_LEVELS };

/* X(id, JSON name, level, factor to what is shown). var_ and expected_shortfall are <= 0 there: -1 for a loss. */
#define ANA_FIGURES(X)                                                                                        \
    X(DAILY_CHANGE, "daily_change_pct", SIMPLE, 100)                                                          \
    X(SHARPE, "sharpe_ratio", STANDARD, 1)                                                                    \
    X(VOLATILITY, "volatility_pct", STANDARD, 100)                                                            \
    X(MAX_DRAWDOWN, "max_drawdown_pct", STANDARD, 100)                                                        \
    X(TOTAL_RETURN, "total_return_pct", COMPREHENSIVE, 100)                                                   \
    X(ANNUAL_RETURN, "annual_return_pct", COMPREHENSIVE, 100)                                                 \
    X(CALMAR, "calmar_ratio", COMPREHENSIVE, 1)                                                               \
    X(SORTINO, "sortino_ratio", COMPREHENSIVE, 1)                                                             \
    X(BETA, "beta", COMPREHENSIVE, 1)                                                                         \
    X(ALPHA, "alpha", COMPREHENSIVE, 1)                                                                       \
    X(VAR_95, "var_95", COMPREHENSIVE, -1)                                                                    \
    X(VAR_99, "var_99", COMPREHENSIVE, -1)                                                                    \
    X(WIN_RATE, "win_rate_pct", COMPREHENSIVE, 100)                                                           \
    X(PROFIT_FACTOR, "profit_factor", COMPREHENSIVE, 1)                                                       \
    X(TURNOVER, "turnover", COMPREHENSIVE, 1)                                                                 \
    X(OMEGA, "omega_ratio", COMPREHENSIVE, 1)                                                                 \
    X(TAIL_RATIO, "tail_ratio", COMPREHENSIVE, 1)                                                             \
    X(STABILITY, "stability", COMPREHENSIVE, 1)                                                               \
    X(SKEWNESS, "skewness", COMPREHENSIVE, 1)                                                                 \
    X(KURTOSIS, "excess_kurtosis", COMPREHENSIVE, 1)                                                          \
    X(ROLLING_SHARPE, "rolling_sharpe", COMPREHENSIVE, 1)                                                     \
    X(ROLLING_SHARPE_MIN, "rolling_sharpe_min", COMPREHENSIVE, 1)                                             \
    X(ROLLING_SHARPE_MAX, "rolling_sharpe_max", COMPREHENSIVE, 1)                                             \
    X(ROLLING_VOLATILITY, "rolling_volatility_pct", COMPREHENSIVE, 100)                                       \
    X(ES_95, "expected_shortfall", INSTITUTIONAL, -1)                                                         \
    X(ES_99, "expected_shortfall_99", INSTITUTIONAL, -1)                                                      \
    X(INFORMATION, "information_ratio", INSTITUTIONAL, 1)                                                     \
    X(PROBABILISTIC_SHARPE, "probabilistic_sharpe", INSTITUTIONAL, 1)                                         \
    X(SHARPE_LOW, "sharpe_low", INSTITUTIONAL, 1)                                                             \
    X(SHARPE_HIGH, "sharpe_high", INSTITUTIONAL, 1)

enum ana_figure {
#define X(id, name, level, factor) ANA_##id,
    ANA_FIGURES(X)
#undef X
    ANA_N
};
struct ana_figure_def { const char *name; enum ana_level level; double factor; };
extern const struct ana_figure_def ana_figure_defs[ANA_N];

/* why NULL: have of need `of` there are ("1 of 30 returns"). */
struct ana_value { bool is_defined; double value; const char *why, *of; size_t have, need; };

/* Returns a figure needs at least, unless min_returns is more: a 99 % quantile of 30 values is their least. */
#define ANA_NEED_95 60
#define ANA_NEED_99 300
#define ANA_ROLLING 30     /* returns in a rolling window */
#define ANA_RESAMPLES 1000 /* of the bootstrap */
#define ANA_INTERVAL 0.95

struct ana_input {
    struct ana_steps steps;    /* of the curve; arrays live as long as the job */
    bool is_broken;            /* an equity was not above 0: nothing about returns is defined */
    size_t points;
    bool has_day;              /* the change of the day is known */
    double day_change, mean_equity;
    double *own, *bench;       /* n_pairs returns of the portfolio and of the benchmark, of the same periods */
    size_t n_pairs;
    struct ana_trade_sums trades;
    double ppy;
    size_t min_returns;
    uint64_t seed;
    struct keel_arena *arena;
};

struct ana_analysis {
    struct ana_input in;
    struct ana_value value[ANA_N];
    struct perf_bootstrap bootstrap;
    double *sorted; /* the returns */
};

void ana_simple(struct ana_analysis *a);
void ana_standard(struct ana_analysis *a);
/* For a worker; job is a struct ana_analysis. */
enum keel_status ana_comprehensive_work(void *job, const atomic_bool *stop);
/* One slice of the bootstrap, about 2 million draws; ana_institutional when ana_is_drawn. */
enum keel_status ana_bootstrap_work(void *job, const atomic_bool *stop);
bool ana_is_drawn(const struct ana_analysis *a);
void ana_institutional(struct ana_analysis *a);

#endif
