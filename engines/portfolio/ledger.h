/*
 * The ledger of one portfolio: what a fill or an opening balance does to cash, positions, realised
 * P&L and fees, as postings that sum to zero. Pure: an event is planned against the state as it is,
 * and takes effect when the plan is applied; a plan that is thrown away has changed nothing.
 *
 * A position holds its total cost, signed as its quantity: a short position has what it was sold
 * for as negative cost. A partial close takes its rounded share of the cost, a full close the rest,
 * and a fill through zero is split exactly into the part that closes and the part that opens. A
 * fill's notional is rounded once and used everywhere.
 *
 * Money and quantities are exact (num.h). Realised P&L is before fees. For any order of events
 *
 *     cash + cost of all positions = capital + realised - fees
 *     equity - capital = realised + unrealised - fees
 */
#ifndef PORTFOLIO_LEDGER_H
#define PORTFOLIO_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/num.h"
#include "keel/status.h"

#define PORTFOLIO_SYMBOL   33 /* bytes of a symbol and its NUL */
#define PORTFOLIO_POSTINGS 4  /* most postings of one event */

struct portfolio_position {
    char symbol[PORTFOLIO_SYMBOL];
    int64_t quantity;   /* signed dec */
    int64_t multiplier; /* dec; money per unit of price and quantity */
    keel_i128 cost;     /* signed as quantity; 0 when flat */
    keel_i128 realized; /* before fees, all time */
};

struct portfolio_totals {
    keel_i128 cash;
    keel_i128 capital;  /* what was brought in: cash and opening balances */
    keel_i128 realized; /* before fees */
    keel_i128 fees;     /* > 0: paid */
};

/* Debits are positive. Only POSITION has a symbol. */
enum portfolio_account {
    PORTFOLIO_CASH,
    PORTFOLIO_POSITION,
    PORTFOLIO_REALIZED,
    PORTFOLIO_FEES,
    PORTFOLIO_CAPITAL,
    PORTFOLIO_N_ACCOUNT
};
const char *portfolio_account_name(
    enum portfolio_account account); /* "cash", "position", "realized_pnl", "fees", "capital" */

struct portfolio_posting {
    enum portfolio_account account;
    keel_i128 amount;
};

/* An event: the state after it, and its postings, which sum to zero. */
struct portfolio_plan {
    struct portfolio_totals totals;
    bool has_position;
    struct portfolio_position position;
    struct portfolio_posting posting[PORTFOLIO_POSTINGS];
    size_t n_postings;
    keel_i128 notional; /* of a fill */
    keel_i128 realized; /* by this event */
    keel_i128 cash;     /* signed change of cash */
};

struct portfolio_fill {
    bool is_sell;
    int64_t quantity, price; /* dec, > 0 */
    keel_i128 fee;           /* in the account's currency; < 0: a rebate */
};

/* Symbol and multiplier of a position that does not exist yet; quantity and cost 0. symbol is cut
 * at 32 bytes. */
void portfolio_position_init(struct portfolio_position *p, const char *symbol, int64_t multiplier);

/*
 * Each plans one event on totals and position, which are not modified.
 *
 * KEEL_INVALID  a fill's quantity or price is not > 0, an opening quantity is 0, or an average cost
 * is below 0 KEEL_CONFLICT an opening balance of a position that has one, or has traded KEEL_TOOBIG
 * a sum or product leaves its range
 */
enum keel_status portfolio_plan_fill(const struct portfolio_totals *totals,
                                     const struct portfolio_position *position,
                                     const struct portfolio_fill *fill, struct portfolio_plan *out);
enum keel_status portfolio_plan_opening(const struct portfolio_totals *totals,
                                        const struct portfolio_position *position, int64_t quantity,
                                        int64_t avg_cost, struct portfolio_plan *out);
/* amount > 0 brings cash in, < 0 takes it out. */
enum keel_status portfolio_plan_cash(const struct portfolio_totals *totals, keel_i128 amount,
                                     struct portfolio_plan *out);

/* A portfolio in memory. The caller owns the storage of positions. */
struct portfolio_book {
    struct portfolio_totals totals;
    struct portfolio_position *position;
    size_t n, cap;
};

/* NULL when the book has none of that symbol. */
struct portfolio_position *portfolio_find(const struct portfolio_book *b, const char *symbol);
/* Takes the plan's state over. A new position needs a free place (b->n < b->cap). */
void portfolio_apply(struct portfolio_book *b, const struct portfolio_plan *plan);
/* Sum of all accounts: 0 unless there is a bug. */
keel_i128 portfolio_sum(const struct portfolio_book *b);

/* cost / quantity as a price. KEEL_UNDEFINED when flat, KEEL_TOOBIG when it does not fit. */
enum keel_status portfolio_avg_cost(const struct portfolio_position *p, int64_t *out);

/* Value of a position at a mark. A flat one needs no mark and is worth 0. */
struct portfolio_value {
    bool has_mark;
    int64_t mark;
    bool is_known;
    keel_i128 market_value, unrealized;
};
enum keel_status portfolio_value_at(const struct portfolio_position *p, bool has_mark, int64_t mark,
                                    struct portfolio_value *out);

/* Equity: start, add each position's value, finish. One unknown value makes all of it unknown. */
struct portfolio_equity {
    bool is_known;
    keel_i128 market_value, unrealized, equity, change;
};
void portfolio_equity_start(struct portfolio_equity *e);
enum keel_status portfolio_equity_add(struct portfolio_equity *e, const struct portfolio_value *v);
enum keel_status portfolio_equity_finish(struct portfolio_equity *e,
                                         const struct portfolio_totals *t);

/* ---- marks ---- */

/* Newest prices of a symbol; each at ns is session time, 0: never seen. */
struct portfolio_mark {
    char symbol[PORTFOLIO_SYMBOL];
    int64_t bid, ask, quote_ns;
    int64_t last, trade_ns;
    int64_t close, bar_ns;
};
/* Open addressing over storage of the caller; cap is a power of two and more than the symbols it is
 * to hold. */
struct portfolio_marks {
    struct portfolio_mark *slot;
    size_t cap, n;
};

/* The symbol's row, made when it is new; NULL when three quarters of the table are taken. */
struct portfolio_mark *portfolio_mark_of(struct portfolio_marks *m, const char *symbol);
/* First of: mid of a quote, last trade, last bar's close, that is at most stale_ns old. false:
 * none. */
bool portfolio_mark_price(const struct portfolio_marks *m, const char *symbol, int64_t now_ns,
                          int64_t stale_ns, int64_t *out);

/* ---- performance ---- */

/* Equity and capital at the end of a day. Capital's changes are no return. */
struct portfolio_day {
    int64_t day;
    double equity, capital;
};

struct portfolio_performance {
    double total_return; /* fraction, compounded over the days */
    double mean, sd;     /* of the daily returns; sd is the sample's (n - 1) */
    double max_drawdown; /* fraction, >= 0 */
    size_t returns;
};
/*
 * Return of day i: (equity_i - equity_{i-1} - (capital_i - capital_{i-1})) / equity_{i-1}.
 * KEEL_UNDEFINED  fewer than 2 days, or an equity to divide by is not > 0. sd is 0 for one return.
 */
enum keel_status portfolio_perform(const struct portfolio_day *day, size_t n,
                                   struct portfolio_performance *out);

#endif
