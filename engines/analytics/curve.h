/*
 * What the measures rest on: the equity curve of a portfolio, one point a period, its fills turned into closed trades,
 * and the returns of symbols and of the market. Rings of a capacity given once; the oldest goes when a ring is full.
 *
 * A period is [k, k + 1) times its length. A step between the points of one period and the next is a period return; a
 * step over a longer time, or back in time (another session), is a gap: it counts in the curve, and not among the
 * period returns.
 */
#ifndef KEEL_ANALYTICS_CURVE_H
#define KEEL_ANALYTICS_CURVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/num.h"
#include "keel/status.h"

/* ---- equity ---- */

struct ana_point {
    int64_t ts;
    keel_i128 equity, capital; /* capital: what was put in so far, so that a deposit is no return */
    int64_t fill_no;           /* strategy's fills in it */
};

struct ana_curve {
    struct ana_point *at;
    size_t cap, first, n;
    bool is_open_set; /* the oldest point is the start of all */
};

const struct ana_point *ana_curve_at(const struct ana_curve *c, size_t i); /* 0: the oldest; i < n */
/* The last point of a period stays: p takes the place of one of its own period, but never that of an opening. */
void ana_curve_add(struct ana_curve *c, const struct ana_point *p, int64_t period_ns);
/* p becomes the oldest point, no later than the next. Nothing happens where the start is set or there is no room. */
void ana_curve_open(struct ana_curve *c, const struct ana_point *p);
int64_t ana_period(int64_t ts, int64_t period_ns); /* rounded down, also before 1970 */

/* The steps of points [from, n): growth of every step; of these, the period returns. Each array: room for n - from. */
struct ana_steps {
    double *growth, *returns;
    int64_t *period;
    size_t n_growth, n_returns;
};
/* KEEL_UNDEFINED when a step starts at an equity that is not above 0. */
enum keel_status ana_curve_steps(const struct ana_curve *c, size_t from, int64_t period_ns, struct ana_steps *out);
/*
 * Where a look at everything since ts starts: the last point before the oldest one that is not before ts and follows
 * the last step back in time, because a period begins with what was there before it; that one itself when there is
 * none. n when no point is that young.
 */
size_t ana_curve_since(const struct ana_curve *c, int64_t ts);
/* Stamp of point i, or of the next when i is of another, later session. i < n. */
int64_t ana_curve_start(const struct ana_curve *c, size_t i);
/* The point that the change of a day is measured from: the last one of another UTC day, else the oldest. n >= 1. */
size_t ana_curve_day_base(const struct ana_curve *c);
/* Growth from one equity to another, capital put in between taken out. KEEL_UNDEFINED when the first is not above 0. */
enum keel_status ana_growth(const struct ana_point *from, const struct ana_point *to, double *out);

/* ---- trades ---- */

struct ana_holding {
    char symbol[33];
    double quantity, cost; /* signed; cost: average price */
};
struct ana_trade {
    int64_t ts;
    double notional, pnl;
    bool closes;
};
struct ana_trades {
    struct ana_holding *holding;
    size_t n_holdings, cap_holdings;
    struct ana_trade *at;
    size_t cap, first, n;
};

/* Replaces or adds; quantity 0 removes. KEEL_TOOBIG when there is no room. */
enum keel_status ana_hold(struct ana_trades *t, const char *symbol, double quantity, double cost);
/* A fill: what it closes is realised against the average cost, less the closed share of its fee. */
enum keel_status ana_trades_fill(struct ana_trades *t, const char *symbol, double signed_quantity, double price,
                                 double fee, int64_t ts);

/* Sums over the trades since ts. profit and loss are of closing fills, both >= 0. */
struct ana_trade_sums {
    size_t fills, closed, wins;
    double profit, loss, notional;
};
struct ana_trade_sums ana_trades_since(const struct ana_trades *t, int64_t ts);

/* ---- returns of symbols ---- */

struct ana_return {
    int64_t period;
    double value;
};
struct ana_series {
    struct ana_return *at;
    size_t cap, first, n;
};
const struct ana_return *ana_series_at(const struct ana_series *s, size_t i);
void ana_series_add(struct ana_series *s, int64_t period, double value);

struct ana_symbol {
    char name[33];
    int64_t period, before; /* of close and of close_before */
    double close, close_before;
    uint64_t bars;
    int64_t ts_close;
    struct ana_series returns;
};

/* The market: the equal-weight mean of the returns of all symbols that closed in a period and in the one before it. */
struct ana_market {
    struct ana_symbol *symbol;
    size_t n, cap, series_cap;
    int64_t period;
    struct ana_series returns;
};

struct ana_symbol *ana_symbol_find(const struct ana_market *m, const char *name);
/* A bar's close. A period's returns are there when a bar of a later one comes; a bar of an earlier period is not used.
 * KEEL_TOOBIG when there is no room for the symbol; KEEL_INVALID for a close that is not above 0. */
enum keel_status ana_market_bar(struct ana_market *m, const char *name, double close, int64_t ts_close,
                                int64_t period_ns);

/* Pairs returns with the benchmark's of the same period. own, bench: room for n. Returns how many. */
size_t ana_pair(const double *returns, const int64_t *period, size_t n, const struct ana_series *s, double *own,
                double *bench);

#endif
