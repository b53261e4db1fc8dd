/* The analytics engine's table. */
#include "ops.h"

static const struct keel_op analytics_ops[] = {
    {.id = "realtime", .on = KEEL_POST("/analytics/realtime/{portfolio_id}"), .level = KEEL_CRITICAL,
     .deadline_ms = 800, .target_ms = 200, .scope = KEEL_SCOPE_READ, .takes = &ana_realtime_fields, .begin = api_realtime,
     .fallbacks = ana_level_names, .help = "a portfolio's figures now, at one of four depths within 50, 150, 300 and 800 ms"},
    {.id = "realtime_get", .on = KEEL_GET("/analytics/realtime/{portfolio_id}"), .level = KEEL_CRITICAL,
     .deadline_ms = 800, .target_ms = 200, .takes = &ana_realtime_fields, .begin = api_realtime,
     .fallbacks = ana_level_names, .help = "the same"},
    {.id = "performance", .on = KEEL_POST("/analytics/performance/{portfolio_id}"), .level = KEEL_NORMAL,
     .deadline_ms = 1000, .scope = KEEL_SCOPE_READ, .takes = &ana_performance_fields, .begin = api_performance,
     .help = "figures of the equity curve over a period, against a symbol or the market"},
    {.id = "technical", .on = KEEL_GET("/analytics/technical-indicators/{symbol}"), .level = KEEL_NORMAL,
     .deadline_ms = 500, .takes = &ana_symbol_query_fields, .begin = api_technical,
     .help = "a symbol's indicators, as the features engine has them"},
    {.id = "symbol", .on = KEEL_GET("/analytics/symbol/{symbol}"), .level = KEEL_NORMAL, .deadline_ms = 500,
     .takes = &ana_symbol_query_fields, .begin = api_symbol, .help = "a symbol's returns and indicators"},
    {.id = "account", .on = KEEL_TOPIC("portfolio.priority.account", KEEL_EACH), .level = KEEL_HIGH,
     .deadline_ms = 1000, .takes = &keel_account_fields, .key = "portfolio_id", .begin = bus_account, .help = "points of the equity curve"},
    {.id = "fill", .on = KEEL_TOPIC("strategy.critical.fill", KEEL_EACH), .level = KEEL_HIGH, .deadline_ms = 5000,
     .takes = &keel_fill_fields, .key = "portfolio_id", .begin = bus_fill, .help = "closed trades and turnover"},
    {.id = "bar", .on = KEEL_TOPIC("marketdata.priority.bar", KEEL_EACH), .level = KEEL_NORMAL, .deadline_ms = 1000,
     .takes = &keel_bar_fields, .begin = bus_bar, .help = "returns of symbols and of the market"},
    {.id = "sample", .on = KEEL_EVERY(1000), .level = KEEL_NORMAL, .deadline_ms = 2000, .begin = timer_sample,
     .help = "asks portfolio for every equity, once a period of session time"},
};

const struct keel_engine analytics_engine = {
    .name = "analytics",
    .title = "Performance and risk-adjusted metrics",
    .port = 8100,
    .ops = analytics_ops,
    .n_ops = KEEL_COUNT(analytics_ops),
    .options = &ana_options_fields,
    .breaker = {.failures = 5, .recovery_ms = 30000, .successes = 3, .call_timeout_ms = 15000},
    .publishes = (const char *const[]){"analytics.realtime", "analytics.critical.breaker", NULL},
    .peers = (const char *const[]){"portfolio", "features", NULL},
    .state_size = sizeof(struct ana_state),
    .open = ana_open,
    .close = ana_close,
};
