/* The portfolio engine's table. */
#include "ops.h"

/* clang-format off */
static const struct keel_op portfolio_ops[] = {
    {.id = "portfolios", .on = KEEL_GET("/portfolios"), .level = KEEL_NORMAL, .deadline_ms = 200,
     .takes = &portfolio_list_fields, .begin = api_list, .help = "Portfolios with their balances, newest first."},
    {.id = "create", .on = KEEL_POST("/portfolios"), .level = KEEL_NORMAL, .deadline_ms = 1000,
     .scope = KEEL_SCOPE_TRADE, .takes = &portfolio_create_fields, .begin = api_create,
     .help = "Creates a portfolio with its starting cash."},
    {.id = "create_with_symbols", .on = KEEL_POST("/portfolios/with-symbols"), .level = KEEL_NORMAL,
     .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE, .takes = &portfolio_create_with_fields, .begin = api_create_with,
     .help = "Creates a portfolio with flat positions in the symbols given."},
    {.id = "portfolio", .on = KEEL_GET("/portfolios/{portfolio_id}"), .level = KEEL_HIGH, .deadline_ms = 100,
     .takes = &portfolio_one_fields, .begin = api_get,
     .help = "Cash, equity, realised and unrealised P&L, fees and positions of one instant."},
    {.id = "positions", .on = KEEL_GET("/portfolios/{portfolio_id}/positions"), .level = KEEL_HIGH, .deadline_ms = 100,
     .takes = &portfolio_positions_fields, .begin = api_positions, .help = "Positions at their marks."},
    {.id = "open_positions", .on = KEEL_POST("/portfolios/{portfolio_id}/positions"), .level = KEEL_HIGH,
     .deadline_ms = 1000, .scope = KEEL_SCOPE_ADMIN, .max_body = 128 * 1024, .takes = &portfolio_opening_fields,
     .key = "portfolio_id", .begin = api_open_positions, .help = "Opening balances; never an overwrite."},
    {.id = "fills", .on = KEEL_POST("/portfolios/{portfolio_id}/fills"), .level = KEEL_CRITICAL, .deadline_ms = 95,
     .target_ms = 100, .scope = KEEL_SCOPE_ENGINE_OR_ADMIN, .takes = &keel_fill_fields, .key = "portfolio_id",
     .begin = bus_fill, .help = "Applies a fill once; venue and trade_id are its identity."},
    {.id = "ledger", .on = KEEL_GET("/portfolios/{portfolio_id}/ledger"), .level = KEEL_NORMAL, .deadline_ms = 1000,
     .takes = &portfolio_ledger_fields, .begin = api_ledger, .help = "Entries with their postings, newest first."},
    {.id = "performance", .on = KEEL_GET("/portfolios/{portfolio_id}/performance"), .level = KEEL_NORMAL,
     .deadline_ms = 1000, .takes = &portfolio_period_fields, .begin = api_performance,
     .help = "Return, volatility, Sharpe ratio and drawdown of daily equity."},
    {.id = "fill", .on = KEEL_TOPIC("strategy.critical.fill", KEEL_SHARE), .level = KEEL_CRITICAL, .target_ms = 100,
     .takes = &keel_fill_fields, .key = "portfolio_id", .begin = bus_fill, .flags = KEEL_MUST,
     .help = "A fill of strategy."},
    {.id = "fill_pulled", .on = KEEL_SPAWNED, .level = KEEL_HIGH, .takes = &keel_fill_fields, .key = "portfolio_id",
     .begin = bus_fill, .flags = KEEL_MUST, .help = "A fill that strategy was asked for."},
    {.id = "quote", .on = KEEL_TOPIC("marketdata.quote", KEEL_EACH), .level = KEEL_NORMAL, .deadline_ms = 1000,
     .takes = &keel_quote_fields, .begin = bus_quote, .help = "First of the marks: the mid."},
    {.id = "trade", .on = KEEL_TOPIC("marketdata.trade", KEEL_EACH), .level = KEEL_NORMAL, .deadline_ms = 1000,
     .takes = &keel_trade_fields, .begin = bus_trade, .help = "Second of the marks: the last trade."},
    {.id = "bar", .on = KEEL_TOPIC("marketdata.priority.bar", KEEL_EACH), .level = KEEL_NORMAL, .deadline_ms = 1000,
     .takes = &keel_bar_fields, .begin = bus_bar, .help = "Third of the marks: the last bar's close."},
    {.id = "tick", .on = KEEL_EVERY(250), .level = KEEL_LOW, .deadline_ms = 5000, .begin = timer_tick,
     .help = "Creates main, asks strategy for missing fills, keeps equity points."},
};
/* clang-format on */

static const struct keel_probe portfolio_probes[] = {
    {.id = "ledger", .required = true, .run = portfolio_probe_ledger},
    {.id = "fills", .required = false, .run = portfolio_probe_fills},
};

const struct keel_engine portfolio_engine = {
    .name = "portfolio",
    .title = "Ledger, positions, P&L",
    .port = 8900,
    .ops = portfolio_ops,
    .n_ops = KEEL_COUNT(portfolio_ops),
    .probes = portfolio_probes,
    .n_probes = KEEL_COUNT(portfolio_probes),
    .options = &portfolio_options_fields,
    .publishes =
        (const char *const[]){"portfolio.priority.position", "portfolio.priority.account",
                              "portfolio.critical.adjustment", "portfolio.critical.breaker", NULL},
    .peers = (const char *const[]){"strategy", NULL},
    .breaker = {.failures = 5, .recovery_ms = 60000, .successes = 3, .call_timeout_ms = 30000},
    .schema = portfolio_schema,
    .single_writer = true,
    .state_size = sizeof(struct portfolio_state),
    .open = portfolio_open,
    .close = portfolio_close,
};
