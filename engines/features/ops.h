/* The features engine: its state and the steps of its ops. */
#ifndef KEEL_FEATURES_OPS_H
#define KEEL_FEATURES_OPS_H

#include "feature_set.h"
#include "keel/call.h"
#include "keel/contract.h"
#include "keel/engine.h"

#define FEAT_SPECS 6 /* kinds of bars a symbol may have */

struct feat_symbol {
    char name[KEEL_SYMBOL_LEN + 1];
    struct {
        char spec[17];
        struct feat_set set;
    } on[FEAT_SPECS];
    uint32_t n;
    struct ind_quote quote; /* so that a set that starts later knows the touch */
    bool has_quote;
};

struct feat_state {
    struct feat_symbol *symbol; /* open addressing on the name; cap is a power of two */
    uint32_t cap, n, most;
    char schema[17];
};

#define FEAT_OPTIONS(X, S) \
    X(S, I64, max_symbols, "1000", 1, 100000, "symbols", "how many symbols are followed at most")
KEEL_RECORD(feat_options, FEAT_OPTIONS);

#define FEAT_PRICES(X, S)                                                                                     \
    X(S, F64S, prices, KEEL_OPT, 1, 100000, "price", "closes, oldest first; absent: the live state")          \
    X(S, F64S, volumes, KEEL_OPT, 1, 100000, "quantity", "one for each price")                                \
    X(S, F64S, highs, KEEL_OPT, 1, 100000, "price", "one for each price")                                     \
    X(S, F64S, lows, KEEL_OPT, 1, 100000, "price", "one for each price")                                      \
    X(S, STR, spec, KEEL_OPT, 2, 16, "", "bars to use of the live state; absent: the shortest there is")      \
    X(S, LEGACY, current_price, KEEL_OPT, 0, 0, "", "of the first version; the last price is the current one")
#define FEAT_REQUEST(X, S)                                                                                    \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                              \
    FEAT_PRICES(X, S)
KEEL_RECORD(feat_request, FEAT_REQUEST);
KEEL_RECORD(feat_series, FEAT_PRICES);

#define FEAT_BATCH(X, S)                                                                                      \
    X(S, STRS, symbols, NULL, 1, 200, "", "symbols, each once")                                               \
    X(S, JSON, market_data, KEEL_OPT, 2, 1048576, "", "{SYMBOL: {prices, volumes, highs, lows}}; a symbol that is absent uses its live state")
KEEL_RECORD(feat_batch, FEAT_BATCH);

#define FEAT_FUNDAMENTAL(X, S)                                                                                \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                              \
    X(S, F64, market_cap, KEEL_OPT, 0.01, 1e18, "currency", "market capitalisation")                          \
    X(S, F64, pe_ratio, KEEL_OPT, -1e9, 1e9, "", "price to earnings; not 0")                                  \
    X(S, F64, pb_ratio, KEEL_OPT, -1e9, 1e9, "", "price to book; not 0")
KEEL_RECORD(feat_fundamental, FEAT_FUNDAMENTAL);

#define FEAT_SYMBOL(X, S)                                                                                     \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                              \
    X(S, STR, spec, KEEL_OPT, 2, 16, "", "kind of bars; absent: the shortest there is")
KEEL_RECORD(feat_symbol_query, FEAT_SYMBOL);

extern const struct keel_engine features_engine;

enum keel_status feat_open(struct keel_rt *rt, void *state);
void feat_close(struct keel_rt *rt, void *state);
/* NULL when it is not followed; create: also when there is no room. */
struct feat_symbol *feat_find(struct feat_state *s, const char *name, bool create);
/* The set of a kind of bars; spec "" the shortest there is; NULL when there is none (or no room to create it). */
struct feat_set *feat_set_of(struct feat_symbol *sym, const char *spec, bool create);

keel_step_fn api_available, api_live, api_calculate, api_technical, api_fundamental, api_batch;
keel_step_fn bus_bar, bus_quote, bus_book;

#endif
