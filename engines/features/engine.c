/* The features engine's table. */
#include "ops.h"

static const struct keel_op features_ops[] = {
    {.id = "available", .on = KEEL_GET("/features/available"), .level = KEEL_NORMAL, .deadline_ms = 100, .begin = api_available,
     .help = "the features there are, with their parameters and lookback"},
    {.id = "live", .on = KEEL_GET("/features/{symbol}"), .level = KEEL_HIGH, .deadline_ms = 45, .target_ms = 50,
     .takes = &feat_symbol_query_fields, .begin = api_live, .help = "features of a symbol as the bus has made them"},
    {.id = "calculate", .on = KEEL_POST("/features/calculate/{symbol}"), .level = KEEL_CRITICAL, .deadline_ms = 45,
     .target_ms = 50, .scope = KEEL_SCOPE_READ, .max_body = 1 << 20, .takes = &feat_request_fields, .begin = api_calculate,
     .flags = KEEL_INLINE, .help = "features of the live state ({}) or of the prices given"},
    {.id = "technical", .on = KEEL_POST("/features/technical/{symbol}"), .level = KEEL_HIGH, .deadline_ms = 45, .target_ms = 50,
     .scope = KEEL_SCOPE_READ, .max_body = 1 << 20, .takes = &feat_request_fields, .begin = api_technical,
     .help = "the technical features only"},
    {.id = "fundamental", .on = KEEL_POST("/features/fundamental/{symbol}"), .level = KEEL_NORMAL, .deadline_ms = 100,
     .scope = KEEL_SCOPE_READ, .takes = &feat_fundamental_fields, .begin = api_fundamental,
     .help = "features of the fundamentals given"},
    {.id = "batch", .on = KEEL_POST("/features/batch"), .level = KEEL_NORMAL, .deadline_ms = 500, .scope = KEEL_SCOPE_READ,
     .max_body = 1 << 20, .takes = &feat_batch_fields, .begin = api_batch, .help = "features of several symbols"},
    {.id = "bar", .on = KEEL_TOPIC("marketdata.priority.bar", KEEL_EACH), .level = KEEL_HIGH, .deadline_ms = 1000,
     .takes = &keel_bar_fields, .begin = bus_bar, .help = "updates the indicators and publishes the vector"},
    {.id = "quote", .on = KEEL_TOPIC("marketdata.quote", KEEL_EACH), .level = KEEL_NORMAL, .deadline_ms = 1000,
     .takes = &keel_quote_fields, .begin = bus_quote, .help = "updates the microstructure features"},
    {.id = "book", .on = KEEL_TOPIC("marketdata.book", KEEL_EACH), .level = KEEL_NORMAL, .deadline_ms = 1000,
     .takes = &keel_book_fields, .begin = bus_book, .help = "updates the imbalance of the book"},
};

const struct keel_engine features_engine = {
    .name = "features",
    .title = "Streaming and batch indicators, microstructure features",
    .port = 8500,
    .ops = features_ops,
    .n_ops = KEEL_COUNT(features_ops),
    .options = &feat_options_fields,
    .publishes = (const char *const[]){"features.priority.vector", "features.critical.breaker", NULL},
    .state_size = sizeof(struct feat_state),
    .open = feat_open,
    .close = feat_close,
};
