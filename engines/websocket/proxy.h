/*
 * /api/{engine}/...: what of the other engines a browser may reach through this one, which is its only origin. The
 * list is the allow-list: a path that is not in it does not exist here. Everything is passed on with the caller's own
 * token.
 */
#ifndef KEEL_WEBSOCKET_PROXY_H
#define KEEL_WEBSOCKET_PROXY_H

#include "keel/engine.h"

/* X(id, engine, method, path, scope, takes): path as the engine itself has it. */
#define WS_ROUTES(X)                                                                                         \
    X(marketdata_symbols, marketdata, GET, "/symbols", READ, ws_api)                                         \
    X(marketdata_snapshot, marketdata, GET, "/symbols/{symbol}/snapshot", READ, ws_api)                      \
    X(marketdata_instruments, marketdata, GET, "/instruments", READ, ws_api)                                 \
    X(marketdata_feeds, marketdata, GET, "/feeds", READ, ws_api)                                             \
    X(marketdata_data, marketdata, GET, "/data/{symbol}", READ, ws_api)                                      \
    X(marketdata_bars, marketdata, GET, "/bars/{symbol}", READ, ws_api)                                      \
    X(marketdata_orderbook, marketdata, GET, "/orderbook/{symbol}", READ, ws_api)                            \
    X(features_available, features, GET, "/features/available", READ, ws_api)                                \
    X(features_live, features, GET, "/features/{symbol}", READ, ws_api)                                      \
    X(ml_models, ml, GET, "/models", READ, ws_api)                                                           \
    X(ml_model, ml, GET, "/models/{model_id}", READ, ws_api)                                                 \
    X(strategy_strategies, strategy, GET, "/strategies", READ, ws_api)                                       \
    X(strategy_strategy, strategy, GET, "/strategies/{strategy_id}", READ, ws_api)                           \
    X(strategy_executions, strategy, GET, "/executions", READ, ws_api)                                       \
    X(strategy_orders, strategy, GET, "/orders", READ, ws_api)                                               \
    X(strategy_order, strategy, GET, "/orders/{client_order_id}", READ, ws_api)                              \
    X(strategy_order_new, strategy, POST, "/orders", TRADE, ws_any)                                          \
    X(strategy_order_cancel, strategy, DELETE, "/orders/{client_order_id}", TRADE, ws_api)                   \
    X(strategy_fills, strategy, GET, "/fills", READ, ws_api)                                                 \
    X(risk_limits, risk, GET, "/risk/limits", READ, ws_api)                                                  \
    X(risk_report, risk, POST, "/risk/report/{portfolio_id}", READ, ws_api)                                  \
    X(risk_breaches, risk, GET, "/risk/breaches", READ, ws_api)                                              \
    X(risk_state, risk, GET, "/risk/trading-state", READ, ws_api)                                            \
    X(risk_state_set, risk, PUT, "/risk/trading-state", TRADE, ws_any)                                       \
    X(portfolio_portfolios, portfolio, GET, "/portfolios", READ, ws_api)                                     \
    X(portfolio_portfolio, portfolio, GET, "/portfolios/{portfolio_id}", READ, ws_api)                       \
    X(portfolio_positions, portfolio, GET, "/portfolios/{portfolio_id}/positions", READ, ws_api)             \
    X(portfolio_performance, portfolio, GET, "/portfolios/{portfolio_id}/performance", READ, ws_api)         \
    X(portfolio_ledger, portfolio, GET, "/portfolios/{portfolio_id}/ledger", READ, ws_api)                   \
    X(analytics_realtime, analytics, GET, "/analytics/realtime/{portfolio_id}", READ, ws_api)                \
    X(analytics_indicators, analytics, GET, "/analytics/technical-indicators/{symbol}", READ, ws_api)        \
    X(analytics_symbol, analytics, GET, "/analytics/symbol/{symbol}", READ, ws_api)                          \
    X(factor_definitions, factor, GET, "/factors/definitions", READ, ws_api)                                 \
    X(factor_results, factor, GET, "/factors/results/{symbol}", READ, ws_api)                                \
    X(factor_model, factor, GET, "/factors/model", READ, ws_api)                                             \
    X(factor_exposures, factor, GET, "/factors/exposures/{portfolio_id}", READ, ws_api)                      \
    X(factor_attribution, factor, GET, "/factors/attribution/{portfolio_id}", READ, ws_api)                  \
    WS_EACH_ENGINE(X, analytics) WS_EACH_ENGINE(X, risk) WS_EACH_ENGINE(X, factor) WS_EACH_ENGINE(X, ml)     \
    WS_EACH_ENGINE(X, features) WS_EACH_ENGINE(X, strategy) WS_EACH_ENGINE(X, marketdata)                    \
    WS_EACH_ENGINE(X, portfolio)

#define WS_EACH_ENGINE(X, e)                                                                                 \
    X(e##_health, e, GET, "/health", READ, ws_api)                                                           \
    X(e##_hybrid, e, GET, "/hybrid/performance", READ, ws_api)                                               \
    X(e##_breakers, e, GET, "/hybrid/circuit-breakers", READ, ws_api)

/* What acts on orders or on the trading state is as urgent here as at its engine. */
#define WS_LEVEL_READ KEEL_NORMAL
#define WS_LEVEL_TRADE KEEL_CRITICAL

#define WS_ROUTE_ROW(name, engine, method_, path_, scope_, takes_)                                           \
    {.id = "api_" #name, .on = KEEL_##method_("/api/" #engine path_), .level = WS_LEVEL_##scope_,            \
     .deadline_ms = 5000, .scope = KEEL_SCOPE_##scope_, .takes = &takes_##_fields, .begin = api_forward,     \
     .help = #method_ " " path_ " of " #engine},

/* What a path or query may name; what is in the path of a row is no query. */
#define WS_API(X, S)                                                                                         \
    X(S, STR, symbol, KEEL_OPT, 1, 64, "", "symbol")                                                         \
    X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "portfolio")                                                \
    X(S, STR, strategy_id, KEEL_OPT, 1, 64, "", "strategy")                                                  \
    X(S, STR, client_order_id, KEEL_OPT, 1, 64, "", "order")                                                 \
    X(S, STR, model_id, KEEL_OPT, 1, 64, "", "model")                                                        \
    X(S, STR, limit, KEEL_OPT, 1, 16, "", "how many at most")                                                \
    X(S, STR, after, KEEL_OPT, 1, 128, "", "`next` of the page before")                                      \
    X(S, STR, state, KEEL_OPT, 1, 32, "", "only in this state")                                              \
    X(S, STR, data_type, KEEL_OPT, 1, 16, "", "kind of data")                                                \
    X(S, STR, spec, KEEL_OPT, 1, 16, "", "kind of bars")                                                     \
    X(S, STR, depth, KEEL_OPT, 1, 16, "", "levels of a book")                                                \
    X(S, STR, from, KEEL_OPT, 1, 40, "", "first instant")                                                    \
    X(S, STR, to, KEEL_OPT, 1, 40, "", "last instant")                                                       \
    X(S, STR, complexity, KEEL_OPT, 1, 16, "", "depth of an analysis")                                       \
    X(S, STR, period_days, KEEL_OPT, 1, 16, "", "days looked back")
KEEL_RECORD(ws_api, WS_API);

keel_step_fn api_forward;

#endif
