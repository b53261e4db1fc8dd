/*
 * The portfolio engine: its state, what its files share, and the steps of its ops.
 *
 * Memory follows the file: a step plans an event on the state as it is, queues the rows, and
 * applies the plan after the commit. Calls of one portfolio run one at a time through all their
 * waits, so the plan is still right then; it holds the state after the event, so applying it to a
 * state that was just read from the file changes nothing.
 */
#ifndef PORTFOLIO_OPS_H
#define PORTFOLIO_OPS_H

#include "keel/call.h"
#include "keel/contract.h"
#include "keel/engine.h"
#include "keel/store.h"
#include "ledger.h"

#define PORTFOLIO_MAIN  "main"
#define PORTFOLIO_ID    65   /* bytes of an id and its NUL */
#define PORTFOLIO_HOLES 4096 /* fill numbers kept above a hole */

/* clang-format off */
#define PORTFOLIO_OPTIONS(X, S)                                                                    \
    X(S, MONEY, initial_cash, "1000000", 0, 0, "currency", "cash of the portfolio main at its first start") \
    X(S, STR, currency, "USDT", 1, 12, "", "currency of the portfolio main")                       \
    X(S, I64, mark_stale_ms, "60000", 1, 864000000, "ms", "older prices are no mark (session time)") \
    X(S, I64, max_portfolios, "1000", 1, 100000, "", "portfolios kept at most")                    \
    X(S, I64, max_positions, "1000", 1, 100000, "", "symbols a portfolio may hold")                \
    X(S, I64, max_symbols, "4096", 16, 1000000, "", "symbols whose prices are followed")
KEEL_RECORD(portfolio_options, PORTFOLIO_OPTIONS);

#define PORTFOLIO_METHODS "mean_variance|risk_parity|min_variance|max_sharpe|black_litterman"
#define PORTFOLIO_FREQUENCIES "daily|weekly|monthly|quarterly|manual"
#define PORTFOLIO_CREATE(X, S)                                                                     \
    X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "absent: one is made")                            \
    X(S, STR, portfolio_name, NULL, 1, 128, "", "name for people")                                 \
    X(S, MONEY, initial_value, KEEL_OPT, 0, 0, "currency", "the same as cash_balance: one of the two is required") \
    X(S, MONEY, cash_balance, KEEL_OPT, 0, 0, "currency", "cash it starts with")                   \
    X(S, STR, currency, "USDT", 1, 12, "", "currency of the account")                              \
    X(S, ENUM, optimization_method, "mean_variance", 0, 0, PORTFOLIO_METHODS, "kept for the optimiser") \
    X(S, ENUM, rebalance_frequency, "manual", 0, 0, PORTFOLIO_FREQUENCIES, "kept for the optimiser")
#define PORTFOLIO_CREATE_WITH(X, S)                                                                \
    PORTFOLIO_CREATE(X, S)                                                                         \
    X(S, STRS, symbols, NULL, 1, 1000, "", "symbols it starts with, flat")
KEEL_RECORD(portfolio_create, PORTFOLIO_CREATE);
KEEL_RECORD(portfolio_create_with, PORTFOLIO_CREATE_WITH);

#define PORTFOLIO_LIST(X, S)                                                                       \
    X(S, I64, limit, "100", 1, KEEL_LIST_MAX, "", "most items of the answer")                      \
    X(S, STR, after, KEEL_OPT, 1, 64, "", "next of the answer before")
KEEL_RECORD(portfolio_list, PORTFOLIO_LIST);

#define PORTFOLIO_ONE(X, S) X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")
KEEL_RECORD(portfolio_one, PORTFOLIO_ONE);

#define PORTFOLIO_POSITIONS(X, S)                                                                  \
    PORTFOLIO_ONE(X, S)                                                                            \
    PORTFOLIO_LIST(X, S)
KEEL_RECORD(portfolio_positions, PORTFOLIO_POSITIONS);

#define PORTFOLIO_OPENING(X, S)                                                                    \
    PORTFOLIO_ONE(X, S)                                                                            \
    X(S, JSON, positions, NULL, 2, 65536, "",                                                      \
      "{SYMBOL: {quantity, avg_cost}}, or an array of {symbol, quantity, avg_cost}; other members are ignored")
KEEL_RECORD(portfolio_opening, PORTFOLIO_OPENING);

#define PORTFOLIO_LEDGER(X, S)                                                                     \
    PORTFOLIO_ONE(X, S)                                                                            \
    X(S, I64, limit, "100", 1, KEEL_LIST_MAX, "", "most entries of the answer")                    \
    X(S, I64, after, KEEL_OPT, 1, 0, "", "next of the answer before")                              \
    X(S, STR, client_order_id, KEEL_OPT, 1, 64, "", "only of this order's fills")
KEEL_RECORD(portfolio_ledger, PORTFOLIO_LEDGER);

#define PORTFOLIO_PERIOD(X, S)                                                                     \
    PORTFOLIO_ONE(X, S)                                                                            \
    X(S, I64, period_days, "365", 1, 3650, "days", "how far back")
KEEL_RECORD(portfolio_period, PORTFOLIO_PERIOD);
/* clang-format on */

struct portfolio {
    char id[PORTFOLIO_ID], name[129], currency[13];
    int64_t no, created_ns; /* wall clock */
    int method, frequency;  /* indices of PORTFOLIO_METHODS, PORTFOLIO_FREQUENCIES */
    int64_t entries, fills;
    bool is_pending;       /* its creation is not committed: nobody may see it */
    bool is_stored;        /* false: main before its first transaction */
    int64_t equity_minute; /* session minute of the last equity point */
    struct portfolio_book book;
};

/* Strategy's count of fills: all of 1..low, and the numbers above a hole. */
struct portfolio_numbers {
    int64_t low;
    int64_t *above;
    size_t n;
};

struct portfolio_state {
    struct portfolio *all;
    size_t n, max;
    struct portfolio_marks marks;
    int64_t stale_ns;
    int64_t last_no, last_entry;      /* given out */
    struct portfolio_numbers numbers; /* with what is queued */
    int64_t last_fill_no;             /* committed */
    bool is_caught_up;                /* strategy had no fill that we had not, once */
    int64_t pulled_at_ns;
};

extern const struct keel_engine portfolio_engine;
extern const char portfolio_schema[];

/* ---- state.c ---- */
enum keel_status portfolio_open(struct keel_rt *rt, void *state);
void portfolio_close(struct keel_rt *rt, void *state);
struct portfolio *portfolio_get(const struct portfolio_state *s,
                                const char *id); /* NULL; also while pending */
bool portfolio_id_taken(const struct portfolio_state *s, const char *id);
/* A place for a new one, pending; NULL when all are taken. */
struct portfolio *portfolio_add(struct portfolio_state *s, const char *id, const char *name,
                                const char *currency);
/* Upper case, of the form of symbols; NULL when it is none. In a. */
const char *portfolio_symbol(struct keel_arena *a, const char *text);
/* The position of symbol, or a new flat one that is not in the book yet. */
struct portfolio_position portfolio_position_of(const struct portfolio *p, const char *symbol);
/* Makes room for one more position; KEEL_TOOBIG at max_positions. */
enum keel_status portfolio_make_room(struct keel_rt *rt, struct portfolio *p, const char *symbol);

/* Rows of p as it will be: totals, and counts after the event. */
void portfolio_put(struct keel_txn *t, const struct portfolio *p,
                   const struct portfolio_totals *totals, int64_t entries, int64_t fills);
void portfolio_put_position(struct keel_txn *t, const struct portfolio *p,
                            const struct portfolio_position *position);
/* Entry and postings of a plan. symbol NULL: none. Returns the entry's id. */
int64_t portfolio_put_entry(struct keel_txn *t, struct portfolio_state *s,
                            const struct portfolio *p, const char *kind, const char *ref,
                            const char *symbol, const struct portfolio_plan *plan, int64_t ts_event,
                            int64_t ts_recv);
void portfolio_put_equity(struct keel_txn *t, const struct portfolio *p,
                          const struct portfolio_totals *totals, const struct portfolio_equity *e,
                          int64_t now_ns);
/* Everything that creates p with that cash: row, entry, adjustment, account. p's book takes the
 * cash at once. */
enum keel_status portfolio_put_new(struct keel_call *c, struct keel_txn *t, struct portfolio *p,
                                   keel_i128 cash);
/* change: kind and what changes; its symbol, venue and trade_id may be NULL. */
void portfolio_put_adjustment(struct keel_txn *t, struct keel_call *c, const struct portfolio *p,
                              const struct keel_adjustment *change, int64_t entry_id,
                              int64_t ts_event);

/* The records that go out, with marks as they are now. changed NULL, or a position that takes the
 * place of the book's. */
struct keel_position portfolio_position_record(struct keel_rt *rt, const struct portfolio *p,
                                               const struct portfolio_position *position);
struct keel_account portfolio_account_record(struct keel_rt *rt, const struct portfolio *p,
                                             const struct portfolio_totals *totals,
                                             const struct portfolio_position *changed,
                                             size_t n_changed, struct portfolio_equity *equity);
void portfolio_write_position(struct keel_json *w, const char *key, const struct keel_position *r);
void portfolio_write_account(struct keel_json *w, const char *key, const struct keel_account *r);
/* Name what is null in a record, in `undefined`; the first that names something opens it and sets *open. */
void portfolio_undefined_position(struct keel_call *c, bool *open, const char *path,
                                  const struct keel_position *r);
void portfolio_undefined_account(struct keel_call *c, bool *open, const struct portfolio *p,
                                 const struct keel_account *r);

bool portfolio_numbers_has(const struct portfolio_numbers *k, int64_t fill_no);
/* KEEL_UNAVAILABLE when too many are kept above a hole already. */
enum keel_status portfolio_numbers_add(struct portfolio_numbers *k, int64_t fill_no);

enum keel_probe_state portfolio_probe_ledger(struct keel_rt *rt, void *state, char *detail,
                                             size_t cap);
enum keel_probe_state portfolio_probe_fills(struct keel_rt *rt, void *state, char *detail,
                                            size_t cap);

/* ---- api.c ---- */
keel_step_fn api_list, api_create, api_create_with, api_get, api_positions, api_open_positions,
    api_ledger, api_performance;

/* ---- bus.c ---- */
keel_step_fn bus_fill; /* also of POST /fills and of what was pulled */
keel_step_fn bus_quote, bus_trade, bus_bar, timer_tick;

#endif
