/* The websocket engine's table. */
#include "dashboard.h"
#include "ops.h"

#define LISTEN(name, pattern)                                                                                     \
    {.id = name, .on = KEEL_TOPIC(pattern, KEEL_EACH), .level = KEEL_HIGH, .target_ms = 40, .takes = &ws_any_fields, \
     .begin = bus_any, .flags = KEEL_MUST, .help = "passed on to the clients that subscribed"}

#define PAGE(name, path_, type)                                                                                      \
    {.id = "dashboard_" #name, .on = KEEL_GET("/dashboard" path_), .level = KEEL_CRITICAL, .deadline_ms = 500,       \
     .scope = KEEL_SCOPE_ANY, .begin = api_page, .help = "the dashboard, part of the program"},

static const struct keel_op websocket_ops[] = {
    {.id = "stream", .on = KEEL_WS("/ws/stream"), .level = KEEL_HIGH, .deadline_ms = 1000, .scope = KEEL_SCOPE_READ,
     .begin = stream_open, .help = "bus topics as they come; subscribe, unsubscribe and heartbeat frames"},
    {.id = "stream_frame", .on = KEEL_SPAWNED, .level = KEEL_HIGH, .deadline_ms = 1000, .takes = &ws_frame_fields,
     .begin = stream_frame, .help = "a frame of a client of /ws/stream"},
    {.id = "market_data", .on = KEEL_WS("/ws/market-data/{symbol}"), .level = KEEL_HIGH, .deadline_ms = 1000,
     .scope = KEEL_SCOPE_READ, .takes = &ws_symbol_fields, .begin = market_open,
     .help = "price, bid, ask and volume of a symbol at each quote and trade"},
    {.id = "connections", .on = KEEL_GET("/connections"), .level = KEEL_NORMAL, .deadline_ms = 500,
     .takes = &ws_list_fields,
     .begin = api_connections, .help = "who is connected, newest first"},
    {.id = "topics", .on = KEEL_GET("/topics"), .level = KEEL_NORMAL, .deadline_ms = 500, .takes = &ws_list_fields,
     .begin = api_topics, .help = "channels that were seen, newest first, and the topics there are"},
    {.id = "broadcast", .on = KEEL_POST("/broadcast"), .level = KEEL_HIGH, .deadline_ms = 500,
     .scope = KEEL_SCOPE_TRADE,
     .takes = &ws_broadcast_fields, .begin = api_broadcast, .help = "a message to the subscribers of a user.* topic"},
    {.id = "system", .on = KEEL_GET("/system"), .level = KEEL_NORMAL, .deadline_ms = 5000, .begin = api_system,
     .help = "the health of all nine engines, each with its age"},
    {.id = "quote", .on = KEEL_TOPIC("marketdata.quote", KEEL_EACH), .level = KEEL_HIGH, .target_ms = 40,
     .takes = &keel_quote_fields, .begin = bus_quote, .flags = KEEL_MUST,
     .help = "passed on; bid and ask of the symbol"},
    {.id = "trade", .on = KEEL_TOPIC("marketdata.trade", KEEL_EACH), .level = KEEL_HIGH, .target_ms = 40,
     .takes = &keel_trade_fields, .begin = bus_trade, .flags = KEEL_MUST,
     .help = "passed on; price and volume of the symbol"},
    LISTEN("marketdata", "marketdata.*"),
    LISTEN("features", "features.*"),
    LISTEN("ml", "ml.*"),
    LISTEN("strategy", "strategy.*"),
    LISTEN("risk", "risk.*"),
    LISTEN("portfolio", "portfolio.*"),
    LISTEN("analytics", "analytics.*"),
    LISTEN("factor", "factor.*"),
    DASHBOARD_FILES(PAGE)
    WS_ROUTES(WS_ROUTE_ROW)
};

const char *const ws_peers[] = {"analytics", "risk", "factor", "ml", "features", "strategy", "marketdata",
                                "portfolio", NULL};
_Static_assert(KEEL_COUNT(ws_peers) == WS_PEERS + 1, "a place for each peer's health");

const struct keel_engine websocket_engine = {
    .name = "websocket",
    .title = "Streams bus topics to clients; serves the dashboard",
    .port = 8600,
    .ops = websocket_ops,
    .n_ops = KEEL_COUNT(websocket_ops),
    .options = &ws_options_fields,
    .publishes = (const char *const[]){"websocket.critical.breaker", NULL},
    .peers = ws_peers,
    .header_bytes = 16384, /* browsers bring the cookies of every other page of localhost */
    .state_size = sizeof(struct ws_state),
    .open = ws_open,
    .close = ws_close,
};
