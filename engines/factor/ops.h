/*
 * What the ops of the factor engine share. State is memory only: the bars of the session rebuild it.
 *
 *   state.c  symbols, the universe of a moment
 *   api.c    definitions, exposures of a symbol, correlations
 *   model.c  the regression
 *   portfolio.c  exposures and attribution of a portfolio
 *   bus.c    bars in, exposures out
 */
#ifndef KEEL_FACTOR_OPS_H
#define KEEL_FACTOR_OPS_H

#include "factor_model.h"
#include "keel/call.h"
#include "keel/contract.h"
#include "keel/engine.h"

#define FACTOR_SECTORS 24 /* most sectors of a model */
#define FACTOR_COLUMNS (1 + FACTOR_SECTORS + FACTOR_N)

#define FACTOR_OPTIONS(X, S)                                                                                          \
    X(S, STR, bar_spec, "1m", 2, 16, "", "kind of bars that exposures rest on")                                       \
    X(S, I64, lookback, "60", 20, 2000, "bars", "bars that exposures look back on")                                   \
    X(S, I64, reversal_bars, "5", 1, 10, "bars", "newest bars: reversal is over these, momentum leaves them out")     \
    X(S, I64, min_bars, "30", 12, 2000, "bars", "returns a symbol needs to be in the cross-section, at most lookback") \
    X(S, I64, stale_bars, "10", 1, 1000, "bars", "a symbol whose newest bar is further behind is not in it")          \
    X(S, I64, max_symbols, "1000", 5, 2000, "symbols", "how many symbols are followed at most")
KEEL_RECORD(factor_options, FACTOR_OPTIONS);

#define FACTOR_CALCULATE(X, S)                                                                                        \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                                      \
    X(S, STRS, factor_ids, KEEL_OPT, 1, 64, "", "which factors; absent: all")
KEEL_RECORD(factor_calculate, FACTOR_CALCULATE);

#define FACTOR_CORRELATIONS(X, S) X(S, STRS, factor_ids, KEEL_OPT, 1, 64, "", "which factors; absent: all")
KEEL_RECORD(factor_correlations, FACTOR_CORRELATIONS);

#define FACTOR_ESTIMATE(X, S)                                                                                         \
    X(S, STRS, factor_ids, KEEL_OPT, 1, 64, "", "styles of the model; absent: all that are defined")                  \
    X(S, JSON, sectors, KEEL_OPT, 2, 1048576, "", "{SYMBOL: sector}; absent: market and styles only")
KEEL_RECORD(factor_estimate_request, FACTOR_ESTIMATE);

#define FACTOR_SYMBOL(X, S) X(S, STR, symbol, NULL, 1, 32, "", "symbol")
KEEL_RECORD(factor_symbol_query, FACTOR_SYMBOL);
#define FACTOR_CATEGORY(X, S) X(S, STR, category, NULL, 1, 64, "", "category")
KEEL_RECORD(factor_category_query, FACTOR_CATEGORY);
#define FACTOR_PORTFOLIO(X, S) X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")
KEEL_RECORD(factor_portfolio_query, FACTOR_PORTFOLIO);

struct factor_symbol {
    char name[KEEL_SYMBOL_LEN + 1];
    struct factor_history history;
};

/* Why a symbol or a factor is not there. */
struct factor_reason { const char *what, *why; };

/* A fitted model: everything it points at is in its arena, or a symbol of the state. */
struct factor_model {
    struct keel_arena *arena;
    int64_t as_of, exposures_as_of;
    size_t n, k, n_sectors, n_left_out, n_undefined;
    const char **column; /* k: market, sectors, styles */
    const struct factor_symbol **symbol; /* n */
    double *design;      /* n x k */
    double *ret;         /* n */
    struct factor_estimate e;
    struct factor_reason *left_out;
    struct factor_reason *undefined; /* styles that were not asked for by name and have no exposures */
};

struct factor_state {
    struct factor_symbol *symbol; /* dense; never moves */
    uint32_t *slot, cap, n, most; /* by name: open addressing, index + 1 */
    struct factor_conf conf;
    int64_t bar_ns, latest_ns;    /* length and close of the bar that came last */
    uint64_t bars, published;     /* bars handled; as of the last publication */
    struct factor_model *model;   /* NULL: none yet */
};

extern const struct keel_engine factor_engine;

/* ---- state.c ---- */
enum keel_status factor_open(struct keel_rt *rt, void *state);
void factor_close(struct keel_rt *rt, void *state);
/* NULL: not followed; create: also when there is no room. */
struct factor_symbol *factor_symbol_find(struct factor_state *s, const char *name, bool create);
/* The symbol's newest point when it is in the cross-section; else NULL and why (a's). */
const struct factor_point *factor_member(const struct factor_state *s, const struct factor_options *o,
                                         const struct factor_symbol *sym, struct keel_arena *a, const char **why);

/* The cross-section as it is: row i is symbol[i]. */
struct factor_universe {
    size_t n;
    const struct factor_symbol **symbol;
    const struct factor_point **point;
    struct factor_section section;
    int64_t as_of; /* the newest close */
};
/* KEEL_UNDEFINED fails the call: fewer than FACTOR_UNIVERSE symbols. */
enum keel_status factor_universe_of(struct keel_call *c, struct factor_universe *out);
/* Row of a symbol, or SIZE_MAX. */
size_t factor_row(const struct factor_universe *u, const struct factor_symbol *sym);
/* Factors of a request, in its order; n 0: all. KEEL_INVALID fails the call: unknown, or there twice. */
enum keel_status factor_ids_of(struct keel_call *c, const char *const *names, size_t n, int ids[FACTOR_N],
                               size_t *n_ids);
/* Why a factor has no standardised exposures in this cross-section. */
const char *factor_why_undefined(struct keel_arena *a, const struct factor_section *s, int f);

/* ---- model.c ---- */
void factor_model_free(struct factor_model *m); /* NULL is fine */
enum keel_status factor_no_model(struct keel_call *c);
const char *factor_kind_of(const struct factor_model *m, size_t column); /* market, sector or style */
void factor_write_reasons(struct keel_json *w, const char *key, const struct factor_reason *r, size_t n);

keel_step_fn api_definitions, api_category, api_results, api_calculate, api_correlations, api_estimate,
    api_estimate_end, api_model, api_exposures, api_attribution, bus_bar, timer_publish;
keel_work_fn factor_estimate_work;

#endif
