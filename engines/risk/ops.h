/*
 * What the ops of the risk engine share. Memory is the state; every change of it goes to the store in the same step,
 * and nobody is answered before the commit. After a failed commit the core loads the state anew.
 *
 *   state.c    tables in memory, loading, portfolios as lines, the decision on an order
 *   api.c      checks, limits, breaches, trading state, report
 *   api_var.c  value at risk, stress tests
 *   bus.c      orders, fills, adjustments, positions, prices; timers
 */
#ifndef KEEL_RISK_OPS_H
#define KEEL_RISK_OPS_H

#include "keel/call.h"
#include "keel/contract.h"
#include "keel/engine.h"
#include "risk_limits.h"
#include "var.h"

#define RISK_RATE 1024    /* orders of the last second that are counted; a limit on their rate may not be higher */
#define RISK_MIN_RETURNS 60

#define RISK_OPTIONS(X, S) \
    X(S, I64, mark_stale_ms, "60000", 100, 864000000, "ms", "a price older than this (session clock) is no mark") \
    X(S, F64, collar, "0.01", 0, 1, "fraction", "a market order is checked at the mark and this much worse") \
    X(S, BOOL, default_limits, "true", 0, 0, "", "make a set of limits at the first start") \
    X(S, STR, var_spec, "1m", 2, 16, "", "bars whose closes VaR rests on") \
    X(S, I64, reservation_ms, "30000", 1000, 3600000, "ms", "a reservation this old without an order is looked up") \
    X(S, I64, mismatch_ms, "5000", 100, 600000, "ms", \
      "how long portfolio's position may differ before it is a breach") \
    X(S, I64, max_portfolios, "256", 1, 10000, "", "portfolios") \
    X(S, I64, max_symbols, "4096", 1, 100000, "", "symbols") \
    X(S, I64, max_orders, "16384", 16, 1000000, "", "orders that hold headroom at a time") \
    X(S, I64, max_limits, "512", 8, 10000, "", "limits")
KEEL_RECORD(risk_options, RISK_OPTIONS);

struct risk_symbol {
    char name[RISK_SYMBOL];
    int64_t mid, mid_ts, last, last_ts, bar, bar_ts; /* prices with their session time; ts 0: none */
    struct risk_closes closes;
};

struct risk_holding {
    struct risk_symbol *symbol;
    int64_t quantity;
    int64_t theirs; /* portfolio's own figure */
    bool has_theirs;
    int64_t differs;          /* theirs less ours */
    int64_t differs_since_ns; /* monotonic: by this much; 0: not at all */
};

/* An order that passed. */
struct risk_passed { int64_t at_ns; uint64_t strategy, symbol; }; /* session time; hashes */


struct risk_portfolio {
    char id[RISK_ID], currency[13];
    keel_i128 cash, base; /* base: what was put in, or equity when the UTC day began */
    int64_t day;          /* of base; days since 1970 */
    int64_t fills;        /* of strategy, applied */
    struct risk_holding *holding;
    size_t n_holdings, cap;
    struct risk_passed rate[RISK_RATE]; /* the newest, a ring */
    uint32_t rate_at, rate_n;
    int64_t var_at_ns; /* session time of the last risk.priority.var */
};

struct risk_scope { char portfolio[RISK_ID]; enum risk_state state; char reason[241]; bool told; }; /* "": all */

struct risk_breach {
    char id[RISK_ID], portfolio[RISK_ID], type[48], limit_id[RISK_ID];
    keel_i128 current, limit;
    int severity;
};

/* 128-bit identities that were seen, the oldest forgotten first. */
struct risk_seen { uint64_t (*key)[2]; uint32_t *slot; uint32_t cap, n, at; };

struct risk_engine_state {
    struct risk_portfolio *portfolio;
    size_t n_portfolios;
    struct risk_symbol *symbol;
    uint32_t *symbol_slot, symbol_cap; /* open addressing; index + 1 */
    size_t n_symbols;
    struct risk_entry *entry; /* orders that hold headroom, dense */
    uint32_t *entry_slot, entry_cap; /* by id: open addressing; index + 1 */
    size_t n_entries;
    struct risk_limit *limit; /* oldest first */
    size_t n_limits;
    struct risk_scope *scope; /* [0] is all */
    size_t n_scopes;
    struct risk_breach *breach; /* open ones */
    size_t n_breaches, cap_breaches;
    struct risk_seen trades, ended; /* fills by venue and trade id; orders that hold nothing any more */
    uint64_t next_breach;
    size_t sweep_at, tell_at; /* where the timers go on */
    bool has_market;          /* a price came: the session clock is the market's */
};

extern const struct keel_engine risk_engine;
extern const char risk_schema[];

/* ---- state.c ---- */
enum keel_status risk_open(struct keel_rt *rt, void *state);
void risk_close(struct keel_rt *rt, void *state);
struct risk_portfolio *risk_find_portfolio(struct risk_engine_state *s, const char *id);
/* NULL when the table is full. */
struct risk_portfolio *risk_make_portfolio(struct keel_rt *rt, struct risk_engine_state *s, const char *id);
struct risk_symbol *risk_find_symbol(struct keel_rt *rt, struct risk_engine_state *s, const char *name, bool create);
struct risk_holding *risk_holding_of(struct risk_portfolio *p, struct risk_symbol *sym, bool create);
struct risk_entry *risk_find_entry(struct risk_engine_state *s, const char *id);
/* NULL: full. The id must not be there yet; all else is zero. */
struct risk_entry *risk_add_entry(struct keel_rt *rt, struct risk_engine_state *s, const char *id);
void risk_drop_entry(struct risk_engine_state *s, struct risk_entry *e);
uint64_t risk_hash(uint64_t h, const char *text);
uint64_t risk_name_hash(const char *text);
bool risk_was_seen(const struct risk_seen *seen, const char *a, const char *b);
void risk_mark_seen(struct risk_seen *seen, const char *a, const char *b);
/* false: no mark within mark_stale_ms. */
bool risk_mark(struct keel_rt *rt, const struct risk_symbol *sym, int64_t *out);
enum risk_state risk_state_of(struct risk_engine_state *s, const char *portfolio, const char **reason);
struct risk_scope *risk_scope_of(struct risk_engine_state *s, const char *portfolio, bool create);

/* A portfolio as lines: one a symbol that it holds or has orders in. except: an order left out, or NULL. */
struct risk_view {
    struct risk_symbol **symbol;
    struct risk_line *line;
    uint32_t *at; /* by the symbol's place in the table: index + 1 */
    size_t n;
    struct risk_totals totals;
};
enum keel_status risk_look(struct keel_rt *rt, struct risk_engine_state *s, const struct risk_portfolio *p,
                           const char *except, struct keel_arena *a, struct risk_view *out);
/* Live value at risk of a portfolio, currency; defined when there are RISK_MIN_RETURNS profits. */
struct risk_live_var { struct risk_figure var_95, es_95, var_99, es_99; size_t returns; };
void risk_live_var(const struct risk_view *v, struct keel_arena *a, struct risk_live_var *out);
/* The figure that a limit about the portfolio looks at. */
struct risk_figure risk_portfolio_figure(const struct risk_portfolio *p, const struct risk_view *v,
                                         const struct risk_limit *l, const struct risk_live_var *var);

struct risk_order {
    const char *id, *strategy, *symbol;
    int side;
    int64_t quantity, price; /* price 0: MARKET */
    bool reduce_only;
    uint64_t body;
};
struct risk_denial { const char *code; const struct risk_check *check; }; /* check NULL: no limit's */
struct risk_decision {
    bool approved, reduces, held; /* held: its headroom was reserved before */
    struct risk_check *check; /* of limits copied into the arena: they may be changed while the call waits */
    size_t n_checks;
    struct risk_denial *denial;
    size_t n_denials;
    int64_t worst_price; /* what an unpriced order was checked at */
    enum risk_state state;
};
void risk_decide(struct keel_rt *rt, struct risk_engine_state *s, struct risk_portfolio *p, const struct risk_order *o,
                 struct keel_arena *a, struct risk_decision *out);

/* The order passed: it counts for the rate. */
void risk_count_order(struct keel_rt *rt, struct risk_portfolio *p, const struct risk_order *o);

/* Rows of the store for what changed. */
void risk_save_portfolio(struct keel_txn *t, const struct risk_portfolio *p);
void risk_save_holding(struct keel_txn *t, const struct risk_portfolio *p, const struct risk_holding *h);
void risk_save_entry(struct keel_txn *t, const struct risk_entry *e);
#define RISK_SEVERITIES "LOW|MEDIUM|HIGH|CRITICAL"
enum { RISK_LOW, RISK_MEDIUM, RISK_HIGH, RISK_CRITICAL };
/* Opens a breach unless one of this limit and portfolio is open: a row and a durable record in t. */
bool risk_raise(struct keel_rt *rt, struct risk_engine_state *s, struct keel_txn *t, const char *portfolio,
                const char *type, const char *limit_id, keel_i128 current, keel_i128 limit, int severity,
                const char *detail);
/* Sets a scope's state: memory, row, durable record in t. */
void risk_set_state(struct risk_engine_state *s, struct keel_txn *t, struct keel_call *c, const char *portfolio,
                    enum risk_state state, const char *reason);

/* ---- api.c ---- */
#define RISK_MONEY_MOST 1e24 /* more than any market: keeps sums and signs clear of the type's ends */
#define RISK_POSITION_REC(X, S)                                                                                     \
    X(S, STR, symbol, KEEL_OPT, 1, 32, "", "symbol")                                                                \
    X(S, MONEY, market_value, NULL, -RISK_MONEY_MOST, RISK_MONEY_MOST, "currency", "signed market value")            \
    X(S, REST, other, KEEL_OPT, 0, 0, "", "other members are ignored")
KEEL_RECORD(risk_position_in, RISK_POSITION_REC);
/* The symbol in capitals, or NULL. */
const char *risk_symbol_of(struct keel_arena *a, const char *text);
/* Failures of the call. */
enum keel_status risk_bad_symbol(struct keel_call *c, const char *field);
enum keel_status risk_unknown_portfolio(struct keel_call *c, const char *id);

keel_step_fn api_check, api_var, api_report, api_limits_list, api_limits_put, api_limits_delete, api_breaches,
    api_resolve, api_state_get, api_state_put, api_stress;
keel_step_fn bus_order, bus_fill, bus_adjustment, bus_position, bus_quote, bus_trade, bus_bar, timer_sweep,
    timer_lookup, timer_tell;

extern const struct keel_fields risk_check_request_fields, risk_var_request_fields, risk_limit_row_fields,
    risk_limits_query_fields, risk_limit_ref_fields, risk_breach_query_fields, risk_breach_ref_fields,
    risk_state_request_fields, risk_state_query_fields, risk_report_request_fields, risk_stress_request_fields;

#endif
