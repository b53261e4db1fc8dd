/* The analytics engine: its state and the steps of its ops. */
#ifndef KEEL_ANALYTICS_OPS_H
#define KEEL_ANALYTICS_OPS_H

#include "keel/call.h"
#include "keel/contract.h"
#include "keel/engine.h"
#include "levels.h"

#define ANA_HOLDINGS 256 /* symbols held by a portfolio whose trades are followed */

struct ana_portfolio {
    char id[65];
    struct ana_curve curve;
    struct ana_trades trades;
    bool is_seeded;          /* its holdings are portfolio's of fill_no, and our own from there on */
    int64_t fill_no;         /* fills of strategy up to here are in the holdings */
    bool has_equity;         /* as portfolio said it last */
    keel_i128 equity;
    char why[96];            /* has_equity false: what portfolio says */
    int64_t ts;              /* session time of that */
    int64_t published_ns;    /* monotonic */
};

struct ana_state {
    struct ana_portfolio *portfolio;
    size_t n, most;
    struct ana_market market;
    int64_t period_ns;
    double ppy;              /* periods per year of 365 days */
    int64_t fill_no;         /* highest one seen */
    int64_t sampled;         /* session period of the last sample */
    bool look_again;         /* a portfolio was met since, or the last sample failed */
    int64_t asking_until_ns; /* monotonic; a sample is being taken */
};

#define ANA_OPTIONS(X, S)                                                                                             \
    X(S, I64, period_s, "60", 1, 86400, "s", "length of a period: equity and returns are sampled once in each")       \
    X(S, I64, max_points, "10000", 16, 1000000, "", "equity points and fills kept of a portfolio")                    \
    X(S, I64, max_portfolios, "64", 1, 10000, "", "portfolios followed at most")                                      \
    X(S, I64, max_symbols, "200", 1, 100000, "", "symbols followed at most")                                          \
    X(S, I64, symbol_returns, "2000", 16, 1000000, "", "period returns kept of a symbol and of the market")           \
    X(S, I64, min_returns, "30", 4, 100000, "", "returns that a figure of returns rests on at least")                 \
    X(S, I64, bootstrap_seed, "1", 0, 0, "", "seed of the bootstrap intervals")                                       \
    X(S, I64, simple_ms, "50", 1, 800, "ms", "time of the level simple")                                              \
    X(S, I64, standard_ms, "150", 1, 800, "ms", "time of the level standard")                                         \
    X(S, I64, comprehensive_ms, "300", 1, 800, "ms", "time of the level comprehensive")                               \
    X(S, I64, institutional_ms, "800", 1, 800, "ms", "time of the level institutional")
KEEL_RECORD(ana_options, ANA_OPTIONS);

#define ANA_LEVEL_NAMES "simple|standard|comprehensive|institutional"

#define ANA_REALTIME(X, S)                                                                                            \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                                             \
    X(S, ENUM, complexity, "standard", 0, 0, ANA_LEVEL_NAMES, "how deep; each level has the ones before it")
KEEL_RECORD(ana_realtime, ANA_REALTIME);

#define ANA_PERFORMANCE(X, S)                                                                                         \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                                             \
    X(S, STR, symbol, KEEL_OPT, 1, 32, "", "benchmark; absent: the equal-weight mean of all symbols")                 \
    X(S, I64, period_days, "252", 1, 36500, "days", "how far back, in session time")
KEEL_RECORD(ana_performance, ANA_PERFORMANCE);

#define ANA_SYMBOL(X, S)                                                                                              \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                                      \
    X(S, LEGACY, limit, KEEL_OPT, 0, 0, "", "of the first version; the indicators are streaming")
KEEL_RECORD(ana_symbol_query, ANA_SYMBOL);

extern const struct keel_engine analytics_engine;

enum keel_status ana_open(struct keel_rt *rt, void *state);
void ana_close(struct keel_rt *rt, void *state);
struct ana_portfolio *ana_portfolio_find(struct ana_state *s, const char *id); /* NULL when it is not followed */
struct ana_portfolio *ana_portfolio_of(struct keel_call *c, const char *id);   /* followed from now on; NULL: no room */
/*
 * What portfolio says of a portfolio (an object of GET /portfolios, or of GET /portfolios/{id} with positions) at ts
 * becomes its last point, and its holdings where ours are not known or the two are in step. KEEL_UPSTREAM when it is
 * no such object.
 */
enum keel_status ana_observe(struct ana_state *s, struct ana_portfolio *p, const struct keel_jval *v, int64_t ts);
/* Input of an analysis of the points [from, n): arrays in the call's arena; market NULL: no benchmark. */
void ana_prepare(struct keel_call *c, const struct ana_portfolio *p, size_t from, const struct ana_series *benchmark,
                 struct ana_analysis *a);
/* "/portfolios/{id}" of an id, escaped. */
const char *ana_portfolio_path(struct keel_arena *a, const char *id);

extern const char *const ana_level_names[]; /* deepest first: alternatives of a realtime call */
keel_step_fn api_realtime, api_performance, api_technical, api_symbol;
keel_step_fn bus_account, bus_fill, bus_bar, timer_sample;

#endif
