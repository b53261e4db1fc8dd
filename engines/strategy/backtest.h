/*
 * A strategy's rule on bars of the past: the features, the rule, the matching and the measures are
 * those of the running system (feature_set.h, signal.h, venue.h, performance.h). Pure; the same bars
 * and figures give the same result.
 *
 * What is seen at the close of a bar becomes an order that arrives at the open of the next, so no
 * fill uses what was not known. Bars show no quotes: bid and ask stand half the spread around the
 * price, and at most a share of the bar's volume fills. A resting order also fills, at its price,
 * when the bar's range goes through it. What is held at the end is valued at the last close.
 */
#ifndef STRATEGY_BACKTEST_H
#define STRATEGY_BACKTEST_H

#include <stdatomic.h>

#include "keel/arena.h"
#include "order.h"
#include "signal.h"

#define BACKTEST_BARS        10000    /* most of a run */
#define BACKTEST_DRAWS       10000000 /* most bars times resamples: a tenth of a second */
#define BACKTEST_OPEN        64       /* most orders that rest at a time; a signal beyond is not sent */
#define BACKTEST_FILLS       1000     /* fills that are kept; all count */
#define BACKTEST_MIN_RETURNS 30       /* below, what is measured of returns is undefined */
#define BACKTEST_CONFIDENCE  0.95     /* of the interval of the Sharpe ratio */

struct backtest_bar {
    int64_t ts_close, open, high, low, close; /* prices at 1e-9 */
    keel_i128 volume;
    int64_t vwap;
    bool has_vwap;
};

/* NULL, or one sentence on what is wrong with a bar, and *field. before NULL: it is the first. */
const char *backtest_bar_wrong(const struct backtest_bar *b, const struct backtest_bar *before,
                               const char **field);
/* NULL, or one sentence: the rule needs what bars do not show. */
const char *backtest_rule_wrong(const struct signal_rule *r, struct keel_arena *a);

struct backtest_conf {
    const struct signal_rule *rule;
    enum order_type type;
    enum order_tif tif;
    int64_t max_age_ns;             /* of a resting order; 0: none */
    int64_t spread, participation;  /* fractions at 1e-9 of price, of volume; participation 0: volume is no bound */
    int64_t taker_rate, maker_rate; /* fractions at 1e-9 of the notional */
    keel_i128 cash;                 /* at the start, > 0 */
    double ppy;                     /* periods per year; 0: as many as the bars' stamps show */
    size_t resamples;               /* of the bootstrap; 0: none */
    uint64_t seed;
};

struct backtest_fill {
    int64_t ts, price, quantity;
    enum order_side side;
    bool maker;
    keel_i128 fee, realized; /* realized: of what it closed, before fees */
};

/* X(id, JSON name, factor to what is shown). Definitions as in performance.h; a trade is a
 * fill that closes, won when its P&L less its fee is > 0. */
#define BACKTEST_MEASURES(X)                                                                       \
    X(TOTAL_RETURN, "total_return_pct", 100)                                                       \
    X(BUY_AND_HOLD, "buy_and_hold_pct", 100)                                                       \
    X(ANNUAL_RETURN, "annual_return_pct", 100)                                                     \
    X(VOLATILITY, "volatility_pct", 100)                                                           \
    X(MAX_DRAWDOWN, "max_drawdown_pct", 100)                                                       \
    X(SHARPE, "sharpe_ratio", 1)                                                                   \
    X(SHARPE_LOW, "sharpe_low", 1)                                                                 \
    X(SHARPE_HIGH, "sharpe_high", 1)                                                               \
    X(PROBABILISTIC_SHARPE, "probabilistic_sharpe", 1)                                             \
    X(SORTINO, "sortino_ratio", 1)                                                                 \
    X(CALMAR, "calmar_ratio", 1)                                                                   \
    X(WIN_RATE, "win_rate_pct", 100)                                                               \
    X(PROFIT_FACTOR, "profit_factor", 1)

enum backtest_measure {
#define X(id, name, factor) BACKTEST_##id,
    BACKTEST_MEASURES(X)
#undef X
    BACKTEST_N
};
struct backtest_value {
    double value;
    const char *why; /* NULL: value holds; else why it is undefined */
};

struct backtest_result {
    size_t n;            /* bars that were run: fewer than given when the equity was used up */
    bool ruined;         /* it was: nothing is traded after */
    keel_i128 *equity;   /* at each close; n */
    size_t signals;      /* wishes of the rule */
    size_t not_sent;     /* of these: no next bar, no price for the limit, or too many rest */
    size_t unfilled;     /* orders that ended without a fill */
    size_t resting;      /* orders that still rest at the end */
    size_t fills, trades, wins, in_market; /* in_market: bars at whose close something was held */
    struct backtest_fill fill[BACKTEST_FILLS]; /* the first of them */
    struct order_position position;
    keel_i128 cash, traded; /* traded: sum of notionals */
    keel_i128 won, lost;    /* by trades, less their fees; both >= 0 */
    double ppy;
    struct backtest_value measure[BACKTEST_N];
};
extern const char *const backtest_measure_names[BACKTEST_N];
extern const double backtest_measure_factors[BACKTEST_N];

/*
 * n bars, oldest first, each good after the one before (backtest_bar_wrong), 2 <= n <= BACKTEST_BARS,
 * n * resamples <= BACKTEST_DRAWS; the rule is right by signal_rule_wrong and backtest_rule_wrong.
 * What *out points at is in a. KEEL_TOOBIG: a figure does not fit. KEEL_CANCELLED: *stop.
 */
enum keel_status backtest_run(const struct backtest_conf *conf, const struct backtest_bar *bars,
                              size_t n, struct keel_arena *a, const atomic_bool *stop,
                              struct backtest_result *out);

#endif
