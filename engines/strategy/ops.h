/*
 * What the ops of the strategy engine share. State is the journal in memory: every order that is
 * open, the newest closed ones, what they add up to, and the strategies. The file is the truth:
 * memory is ahead of it only while `busy` says so, and nobody outside sees an order before the file
 * has it.
 *
 *   journal.c  orders in file and memory, fills, positions, reports of the venue
 *   execute.c  from a request to an order at the venue and its answer
 *   bus.c      market data, vectors, signals, timers
 *   api.c      strategies, lists, cancels, trading state
 *   api_backtest.c  a strategy's rule on bars of the past
 */
#ifndef STRATEGY_OPS_H
#define STRATEGY_OPS_H

#include "backtest.h"
#include "bloom.h"
#include "io_venue.h"
#include "keel/call.h"
#include "keel/contract.h"
#include "map.h"
#include "signal.h"

/* clang-format off */
#define STRATEGY_OPTIONS(X, S)                                                                                       \
    X(S, ENUM, risk_fallback, "auto", 0, 0, "auto|refuse|reduce_only",                                               \
      "when risk cannot be asked; auto: refuse on a live venue, reduce_only on paper")                               \
    X(S, F64, collar_bps, "500", 1, 5000, "bps", "an unchecked order is priced at most this far from the last mid")  \
    X(S, DEC, taker_fee, "0.0004", 0, 0.1, "fraction", "paper venue: fee of a fill that takes liquidity")            \
    X(S, DEC, maker_fee, "0.0002", 0, 0.1, "fraction", "paper venue: fee of a fill of a resting order")              \
    X(S, STR, quote_currency, "USDT", 1, 12, "", "currency of prices and fees")                                      \
    X(S, I64, venue_max_age_ms, "60000", 1, 86400000, "ms", "paper venue: a book not shown for so long is not traded on") \
    X(S, ENUM, venue_fault, "none", 0, 0, "none|drop_reports|delay_reports|repeat_reports",                          \
      "paper venue, for tests: what goes wrong with its reports")                                                    \
    X(S, I64, send_deadline_ms, "48", 1, 60000, "ms", "an order not sent by then is canceled, unless it has a valid_ms") \
    X(S, I64, max_open_orders, "10000", 1, 1000000, "orders", "open at a time")                                      \
    X(S, I64, max_closed_orders, "10000", 1, 1000000, "orders", "closed ones kept in memory")                        \
    X(S, I64, max_strategies, "256", 1, 10000, "", "strategies")                                                     \
    X(S, I64, max_symbols, "4096", 1, 100000, "", "symbols whose market is followed")
KEEL_RECORD(strategy_options, STRATEGY_OPTIONS);

/* What a strategy's orders are made of; what a kind does not use is passed over. */
#define STRATEGY_PARAMETERS(X, S)                                                                                    \
    X(S, STR, fast, "sma_10", 1, 31, "feature", "ma_cross: the fast average")                                        \
    X(S, STR, slow, "sma_20", 1, 31, "feature", "ma_cross: the slow average")                                        \
    X(S, F64, rsi_low, "30", 0, 100, "", "rsi_reversion: buys when rsi_14 falls below")                              \
    X(S, F64, rsi_high, "70", 0, 100, "", "rsi_reversion: sells when rsi_14 rises above")                            \
    X(S, F64, threshold, "0.6", 0, 1, "fraction",                                                                    \
      "imbalance: acts beyond it, either way; model: on a probability above it")                                     \
    X(S, STR, model_id, "price_model", 1, 31, "", "model: whose predictions it acts on")                             \
    X(S, DEC, quantity, KEEL_OPT, 1e-9, 1e9, "quantity", "size of an order; this or notional")                       \
    X(S, DEC, notional, KEEL_OPT, 1e-9, 9.2e9, "currency", "value of an order; this or quantity")                    \
    X(S, DEC, max_position, KEEL_OPT, 1e-9, 9.2e9, "quantity or currency",                                           \
      "bound of |position| with open orders, in the unit of the size; absent: the size")                             \
    X(S, BOOL, long_only, "false", 0, 0, "", "never sells more than it holds")                                       \
    X(S, DEC, lot, "0.000001", 1e-9, 1e6, "quantity", "step of the quantity")                                        \
    X(S, DEC, tick, "0.01", 1e-9, 1e6, "price", "step of the price")                                                 \
    X(S, F64, price_offset_bps, "0", -1000, 1000, "bps",                                                             \
      "LIMIT: > 0 rests that far behind the touch of its side; <= 0 goes through the other side's")                  \
    X(S, ENUM, order_type, "LIMIT", 0, 0, KEEL_ORDER_TYPES, "type of its orders")                                    \
    X(S, ENUM, time_in_force, "IOC", 0, 0, KEEL_TIFS, "time in force of its orders")                                 \
    X(S, F64, max_age_s, KEEL_OPT, 0.001, 864000, "s", "cancels resting orders of this age (session time)")          \
    X(S, I64, valid_ms, "1000", 1, 60000, "ms", "its orders are sent within this or not at all")                     \
    X(S, REST, other, KEEL_OPT, 0, 0, "", "parameters of the first version")
KEEL_RECORD(strategy_parameters, STRATEGY_PARAMETERS);

#define EXECUTE_REQUEST(X, S)                                                                                        \
    X(S, STR, strategy_id, "manual", 1, 64, "", "strategy whose order it is")                                        \
    X(S, STR, client_order_id, KEEL_OPT, 1, 64, "", "identity; or the header Idempotency-Key")                       \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                                     \
    X(S, ENUM, side, NULL, 0, 0, KEEL_SIDES, "side")                                                                 \
    X(S, DEC, quantity, NULL, 1e-9, 1e9, "quantity", "how much")                                                     \
    X(S, ENUM, order_type, KEEL_OPT, 0, 0, KEEL_ORDER_TYPES, "absent: LIMIT, which needs a price")                   \
    X(S, DEC, price, KEEL_OPT, 1e-9, 9.2e9, "price", "limit")                                                        \
    X(S, ENUM, time_in_force, "IOC", 0, 0, KEEL_TIFS, "time in force")                                               \
    X(S, BOOL, reduce_only, "false", 0, 0, "", "refused unless it reduces the position")                             \
    X(S, I64, valid_ms, KEEL_OPT, 1, 60000, "ms", "sent within this or not at all")
KEEL_RECORD(execute_request, EXECUTE_REQUEST);

#define EXECUTE_INTERNAL(X, S)                                                                                       \
    X(S, REC(execute_request), request, NULL, 0, 0, "", "the order of a signal")                                     \
    X(S, JSON, basis, KEEL_OPT, 2, 4096, "", "what the signal rests on: kept with the order")
KEEL_RECORD(execute_internal, EXECUTE_INTERNAL);

#define STRATEGY_KINDS "ma_cross|rsi_reversion|imbalance|model" /* as enum signal_kind, from 1 on */
#define STRATEGY_REQUEST(X, S)                                                                                       \
    X(S, STR, strategy_id, KEEL_OPT, 1, 64, "", "absent: one is made")                                               \
    X(S, STR, strategy_name, NULL, 1, 128, "", "for people")                                                         \
    X(S, STR, version, "1.0.0", 1, 32, "", "of the definition")                                                      \
    X(S, ENUM, kind, KEEL_OPT, 0, 0, STRATEGY_KINDS, "absent: only executes what it is told to")                     \
    X(S, STR, portfolio_id, "main", 1, 64, "", "portfolio of its orders")                                            \
    X(S, STR, venue, "paper", 1, 32, "", "venue of its orders")                                                      \
    X(S, STRS, symbols, KEEL_OPT, 1, STRATEGY_SYMBOLS, "", "what it trades; absent: every symbol there is")                             \
    X(S, STR, spec, "1m", 2, 16, "", "bars of the vectors it acts on")                                               \
    X(S, REC(strategy_parameters), parameters, KEEL_OPT, 0, 0, "", "see there")                                      \
    X(S, LEGACY, code, KEEL_OPT, 0, 0, "", "of the first version")                                                   \
    X(S, LEGACY, risk_limits, KEEL_OPT, 0, 0, "", "of the first version; limits are risk's")
KEEL_RECORD(strategy_request, STRATEGY_REQUEST);

#define STRATEGY_PATH(X, S) X(S, STR, strategy_id, NULL, 1, 64, "", "strategy")
KEEL_RECORD(strategy_path, STRATEGY_PATH);

#define DEPLOY_REQUEST(X, S)                                                                                         \
    X(S, STR, strategy_id, NULL, 1, 64, "", "strategy")                                                              \
    X(S, LEGACY, deployment_type, KEEL_OPT, 0, 0, "", "of the first version: every deployment is direct")
KEEL_RECORD(deploy_request, DEPLOY_REQUEST);

#define DEPLOYMENT_PATH(X, S) X(S, STR, pipeline_id, NULL, 1, 64, "", "what deploy answered")
KEEL_RECORD(deployment_path, DEPLOYMENT_PATH);

/* A bar as marketdata's GET /bars gives it. */
#define BACKTEST_BAR_ROW(X, S)                                                                                       \
    X(S, TIME, ts_open, KEEL_OPT, 0, 0, "", "not looked at")                                                         \
    X(S, TIME, ts_close, NULL, -2e18, 7e18, "", "last instant, excluded; later than that of the bar before")          \
    X(S, DEC, open, NULL, 1e-9, 9.2e9, "price", "first price")                                                       \
    X(S, DEC, high, NULL, 1e-9, 9.2e9, "price", "highest price")                                                     \
    X(S, DEC, low, NULL, 1e-9, 9.2e9, "price", "lowest price")                                                       \
    X(S, DEC, close, NULL, 1e-9, 9.2e9, "price", "last price")                                                       \
    X(S, MONEY, volume, "0", 0, 0, "quantity", "sum of sizes")                                                       \
    X(S, MONEY, buy_volume, KEEL_OPT, 0, 0, "quantity", "not looked at")                                             \
    X(S, DEC, vwap, KEEL_OPT, 1e-9, 9.2e9, "price", "volume-weighted mean price")                                    \
    X(S, I64, trades, KEEL_OPT, 0, 0, "", "not looked at")
KEEL_RECORD(backtest_bar_row, BACKTEST_BAR_ROW);

#define BACKTEST_REQUEST(X, S)                                                                                       \
    X(S, STR, strategy_id, NULL, 1, 64, "", "strategy")                                                              \
    X(S, ENUM, test_type, "backtest", 0, 0, "backtest|paper_trading",                                                \
      "backtest; paper trading is what a started strategy does")                                                     \
    X(S, I64, duration_days, KEEL_OPT, 1, 36500, "days", "only the newest bars, so far back; absent: all")            \
    X(S, STR, symbol, KEEL_OPT, 1, 32, "", "absent: the strategy's, when it has one")                                \
    X(S, RECS(backtest_bar_row), bars, KEEL_OPT, 2, BACKTEST_BARS, "",                                               \
      "oldest first; absent: marketdata's, of the strategy's spec")                                                  \
    X(S, MONEY, initial_cash, "100000", 0.01, 9.2e18, "currency", "cash at the start")                               \
    X(S, DEC, spread_bps, "2", 0, 1000, "bps", "between bid and ask, around the bar's price")                        \
    X(S, DEC, participation, "0.1", 0, 1, "fraction",                                                                \
      "of a bar's volume that may fill; 0: volume is no bound")                                                      \
    X(S, DEC, taker_fee, KEEL_OPT, 0, 0.1, "fraction", "absent: the paper venue's")                                  \
    X(S, DEC, maker_fee, KEEL_OPT, 0, 0.1, "fraction", "absent: the paper venue's")                                  \
    X(S, I64, resamples, "1000", 0, 10000, "",                                                                       \
      "of the bootstrap of the Sharpe ratio; times the bars at most 10000000")                                       \
    X(S, I64, seed, "1", 0, 0, "", "of the bootstrap")                                                               \
    X(S, F64, periods_per_year, KEEL_OPT, 1, 3.2e7, "", "absent: as many as the bars' stamps show")
KEEL_RECORD(backtest_request, BACKTEST_REQUEST);

#define LIST_QUERY(X, S)                                                                                             \
    X(S, I64, limit, "100", 1, KEEL_LIST_MAX, "", "at most so many")                                                 \
    X(S, I64, after, KEEL_OPT, 0, 0, "", "the answer's next")
KEEL_RECORD(list_query, LIST_QUERY);

#define ORDERS_QUERY(X, S)                                                                                           \
    LIST_QUERY(X, S)                                                                                                 \
    X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "only of this portfolio")                                           \
    X(S, STR, strategy_id, KEEL_OPT, 1, 64, "", "only of this strategy")                                             \
    X(S, STR, symbol, KEEL_OPT, 1, 32, "", "only of this symbol")                                                    \
    X(S, ENUM, state, KEEL_OPT, 0, 0, KEEL_ORDER_STATES, "only in this state")
KEEL_RECORD(orders_query, ORDERS_QUERY);

#define PORTFOLIO_QUERY(X, S) X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "absent: all portfolios")
KEEL_RECORD(portfolio_query, PORTFOLIO_QUERY);

#define ORDER_PATH(X, S) X(S, STR, client_order_id, NULL, 1, 64, "", "order")
KEEL_RECORD(order_path, ORDER_PATH);

#define TRADING_STATE_REQUEST(X, S)                                                                                  \
    X(S, ENUM, state, NULL, 0, 0, KEEL_TRADING_STATES, "REDUCING: only what reduces; HALTED: nothing")               \
    X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "absent: all")                                                      \
    X(S, STR, reason, "", 0, 240, "", "why")
KEEL_RECORD(trading_state_request, TRADING_STATE_REQUEST);
/* clang-format on */

enum strategy_status { STRATEGY_DRAFT, STRATEGY_DEPLOYED, STRATEGY_RUNNING, STRATEGY_STOPPED };
const char *strategy_status_name(enum strategy_status s);

#define STRATEGY_SYMBOLS 64
#define STRATEGY_MANUAL  "manual"

struct strategy_memory {
    char symbol[ORDER_SYMBOL_LEN + 1];
    struct signal_memory signal;
    int64_t predicted_ns; /* as_of of the newest prediction */
};

struct strategy_def {
    char id[ORDER_ID_LEN + 1], portfolio_id[ORDER_ID_LEN + 1], venue[33], spec[17];
    enum strategy_status status;
    struct signal_rule rule;
    enum order_type order_type;
    enum order_tif tif;
    int64_t max_age_ns, valid_ms; /* max_age_ns 0: orders rest as long as they may */
    size_t n_symbols;             /* 0: every symbol */
    char symbol[STRATEGY_SYMBOLS][ORDER_SYMBOL_LEN + 1];
    struct strategy_map memory; /* struct strategy_memory by symbol */
    int64_t execution_no;       /* of the run under way; 0: none */
    int64_t started_ns;         /* when it began */
    keel_i128 realized_before;  /* what it had realised when the run began */
};

/* What a portfolio, or a strategy, holds of a symbol by this journal, and what open and unknown
 * orders may add, by side. */
struct strategy_holding {
    char key[ORDER_ID_LEN + ORDER_SYMBOL_LEN + 4];
    struct order_position position;
    int64_t open[2];
};

struct strategy_trade {
    char trade_id[ORDER_ID_LEN + 1];
    int64_t fill_no, quantity, price, ts_event;
    keel_i128 fee;
    bool maker;
};

struct strategy_waiter {
    uint64_t token;
    struct strategy_waiter *next;
};

struct strategy_entry {
    struct order o;
    int64_t order_no, valid_ms, ts_created, ts_recv; /* valid_ms 0: not given */
    char fallback_reason[81];                        /* "": risk was asked */
    char *denials;                                   /* JSON array, or NULL */
    char traceparent[56];      /* of the call that made it: its later fills belong to the same trace */
    const char *decision;      /* JSON of why it was made; only until its row is queued */
    struct strategy_trade *trades;
    size_t n_trades, cap_trades;
    struct strategy_holding *holding[2]; /* of its portfolio, of its strategy */
    uint32_t busy;                       /* transactions under way: the file is behind memory */
    bool sent;                 /* the venue has its command, or nobody will send one any more */
    bool cancel_due;           /* a cancel goes to the venue once the file has it */
    const char *unsent_reason; /* set: it is not to be sent any more */
    int64_t asked_ns;          /* monotonic; when it was sent */
    struct keel_call *cause;   /* the call that sent it, past its commit point, while it waits */
    struct strategy_waiter *waiters;
    struct strategy_entry *prev, *next; /* of the list it is in, older first */
};
struct strategy_list {
    struct strategy_entry *first, *last;
    size_t n;
};

struct strategy_mark {
    char symbol[ORDER_SYMBOL_LEN + 1];
    int64_t bid, ask, ts_ns;
    bool whole;
};
struct strategy_halt {
    char portfolio_id[ORDER_ID_LEN + 1];
    int state;
};

enum { STRATEGY_ACTIVE, STRATEGY_REDUCING, STRATEGY_HALTED }; /* as KEEL_TRADING_STATES */

struct strategy_state {
    struct keel_rt *rt;
    const struct strategy_options *opt;
    struct paper *venue;
    uint64_t generation; /* of what was loaded; a transaction of another one is of a lost state */
    struct strategy_map orders, holdings, strategies, marks;
    struct strategy_map halts; /* by portfolio, "-" for all */
    struct strategy_list open, closed;
    int64_t last_order_no, last_fill_no, last_execution_no, last_deployment_no, loaded_order_no,
        sweep_at;
    struct strategy_bloom evicted; /* ids that the file knows and memory does not */
    bool trading_known; /* risk has said, or PUT, what the trading state is */
    bool reconciled;    /* nothing of before the start is unresolved */
    char epoch[16];     /* of ids that we make */
    uint64_t n_ids;
    uint64_t model_signals, predictions_expired; /* of this process */
};

/* ---- journal.c ---- */
extern const char strategy_schema[];
#define STRATEGY_ORDER_COLUMNS                                                                     \
    "order_no, client_order_id, venue_order_id, venue, portfolio_id, strategy_id, symbol, side, "  \
    "order_type,"                                                                                  \
    " time_in_force, state, quantity, price, filled, notional, fee, currency, realized, "          \
    "reduce_only, partially,"                                                                      \
    " valid_ms, reason, denials, fallback_reason, ts_created, ts_event, ts_recv"
#define STRATEGY_N_ORDER_COLUMNS 27
#define STRATEGY_FILL_COLUMNS                                                                      \
    "fill_no, venue, trade_id, client_order_id, strategy_id, portfolio_id, symbol, side, "         \
    "quantity, price, fee,"                                                                        \
    " currency, liquidity, ts_event"

enum keel_status strategy_journal_load(struct strategy_state *s);
/* Calls that wait are woken to find out for themselves. */
void strategy_journal_unload(struct strategy_state *s);
int64_t strategy_now(struct strategy_state *s); /* session clock */

struct strategy_entry *strategy_order_find(struct strategy_state *s, const char *client_order_id);
/* A row of STRATEGY_ORDER_COLUMNS. Holdings and lists are not touched. KEEL_INTERNAL: the row is
 * broken. */
enum keel_status strategy_order_row(struct strategy_entry *e, const char *const *cell);
/* A row of STRATEGY_FILL_COLUMNS, added to e's. */
enum keel_status strategy_trade_row(struct strategy_entry *e, const char *const *cell);
/* Order and fills of one client_order_id as the file has them (?1), and that answer as an entry to
 * be freed; NULL: broken. The last column is the order's decision, or NULL. */
extern const char strategy_order_sql[];
#define STRATEGY_DECISION_COLUMN (STRATEGY_N_ORDER_COLUMNS + 14)
struct strategy_entry *strategy_order_of_rows(const struct keel_rows *r);
void strategy_entry_free(struct strategy_entry *e);
/* A new order with its first event (SUBMIT or DENY), journaled; denials: JSON array or NULL. NULL:
 * no room. */
struct strategy_entry *strategy_order_new(struct strategy_state *s, struct keel_call *c,
                                          const struct strategy_entry *as, enum order_event ev,
                                          const char *denials);
/* An event that is no fill, journaled; false: the state does not allow it. c may be NULL. */
bool strategy_order_event(struct strategy_state *s, struct keel_call *c, struct strategy_entry *e,
                          enum order_event ev, const char *reason);
/* Asks the venue to cancel, once the file has it; an order that was not sent yet never will be. */
void strategy_order_cancel(struct strategy_state *s, struct keel_call *c, struct strategy_entry *e,
                           const char *reason);
/* Every open order of the portfolio (NULL: of all); returns how many. */
size_t strategy_cancel_all(struct strategy_state *s, struct keel_call *c, const char *portfolio_id,
                           const char *reason);
/* Parks the call until a transaction of the order is in the file or the order moved. */
enum keel_status strategy_order_wait(struct keel_call *c, struct strategy_entry *e,
                                     keel_step_fn *next);
paper_report_fn strategy_report; /* ctx: the state */

/* owner: 'p' portfolio, 's' strategy. NULL: none yet and not make, or no room. */
struct strategy_holding *strategy_holding_of(struct strategy_state *s, char owner, const char *id,
                                             const char *symbol, bool make);
int strategy_trading_state(struct strategy_state *s,
                           const char *portfolio_id); /* the stricter of all and own */
void strategy_set_trading_state(struct strategy_state *s, const char *portfolio_id,
                                int state); /* memory only */
const struct strategy_mark *strategy_mark_of(struct strategy_state *s,
                                             const char *symbol); /* fresh, or NULL */

void strategy_order_record(const struct strategy_entry *e, struct keel_order *out);
void strategy_order_write(const struct strategy_entry *e, struct keel_json *w,
                          const char *key); /* with fills, and with the decision when e has it */
/* "BUY" of KEEL_SIDES and its like; buf as long as the longest name. */
const char *strategy_name_of(const char *names, int index, char *buf, size_t cap);

/* ---- execute.c ---- */
extern const char *const execute_fallbacks[];
keel_step_fn api_execute, api_order_post, call_execute;
bool strategy_is_id(const char *s); /* [A-Za-z0-9._:-]+ */
/* Upper-cased copy, or NULL when it is no symbol. */
const char *strategy_symbol(struct keel_arena *a, const char *s);

/* ---- bus.c ---- */
keel_step_fn bus_vector, bus_prediction, bus_quote, bus_book, bus_trade, timer_tick, timer_sweep;

/* ---- api.c ---- */
keel_step_fn api_strategies, api_strategy_post, api_strategy_get, api_strategy_delete, api_deploy,
    api_start, api_stop, api_deployment, api_executions, api_orders, api_orders_delete,
    api_order_get, api_order_delete, api_fills, api_trading_state;
/* A row of the strategies table (STRATEGY_COLUMNS). */
#define STRATEGY_COLUMNS                                                                           \
    "strategy_id, strategy_name, version, status, kind, portfolio_id, venue, symbols, spec, "      \
    "parameters, created_ns,"                                                                      \
    " updated_ns, execution_no, realized_before"
/* The definition of that id; fails the call when there is none. */
enum keel_status strategy_def_find(struct keel_call *c, const char *id, struct strategy_def **out);
/* NULL, or what keeps the definition from running. */
const char *strategy_def_wrong(const struct strategy_def *d);
void strategy_def_forget(struct strategy_def *d); /* what it remembers of the symbols' figures */
enum keel_status strategy_def_row(struct strategy_def *d, const char *const *cell);

/* ---- api_backtest.c ---- */
keel_step_fn api_backtest;

/* ---- state.c and engine.c ---- */
extern const struct keel_engine strategy_engine;
enum keel_status strategy_open(struct keel_rt *rt, void *state);
void strategy_close(struct keel_rt *rt, void *state);
enum keel_probe_state strategy_probe_venue(struct keel_rt *rt, void *state, char *detail,
                                           size_t cap);

#endif
