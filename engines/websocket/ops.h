/* The websocket engine: its state and the steps of its ops. */
#ifndef KEEL_WEBSOCKET_OPS_H
#define KEEL_WEBSOCKET_OPS_H

#include "hub.h"
#include "keel/contract.h"
#include "keel/engine.h"
#include "proxy.h"

#define WS_OPTIONS(X, S)                                                                                            \
    X(S, I64, max_channels, "2000", 16, 100000, "channels", "keys of topics that are followed at most")             \
    X(S, I64, history_bytes, "67108864", 0, 4294967296, "bytes", "memory for messages kept for clients that resume")
KEEL_RECORD(ws_options, WS_OPTIONS);

/* A record that is passed on as it came. */
#define WS_ANY(X, S) X(S, REST, rest, KEEL_OPT, 0, 0, "", "passed on as it is")
KEEL_RECORD(ws_any, WS_ANY);

#define WS_FRAME_TYPES "subscribe|unsubscribe|heartbeat"
enum ws_frame_kind { WS_SUBSCRIBE, WS_UNSUBSCRIBE, WS_HEARTBEAT };
#define WS_FRAME(X, S)                                                                                              \
    X(S, ENUM, type, NULL, 0, 0, WS_FRAME_TYPES, "what the client wants")                                           \
    X(S, STRS, topics, KEEL_OPT, 0, 256, "", "{bus topic} or {bus topic}:{key}; * ends a prefix")                   \
    X(S, JSON, resume, KEEL_OPT, 2, 65536, "", "{channel: {epoch, seq}}: what the client saw last")
KEEL_RECORD(ws_frame, WS_FRAME);

#define WS_SYMBOL(X, S) X(S, STR, symbol, NULL, 1, 32, "", "symbol")
KEEL_RECORD(ws_symbol, WS_SYMBOL);

#define WS_TYPES "data|system|market_data|trade_update|risk_alert"
#define WS_BROADCAST(X, S)                                                                                          \
    X(S, STR, topic, NULL, 6, 128, "", "user.{name} or user.{name}:{key}")                                          \
    X(S, JSON, data, NULL, 1, 61440, "", "what the subscribers get")                                                \
    X(S, ENUM, message_type, "data", 0, 0, WS_TYPES, "type of the message")
KEEL_RECORD(ws_broadcast, WS_BROADCAST);

#define WS_LIST(X, S)                                                                                               \
    X(S, I64, limit, "100", 1, 1000, "", "how many at most")                                                        \
    X(S, I64, after, KEEL_OPT, 1, 0, "", "`next` of the page before")
KEEL_RECORD(ws_list, WS_LIST);

/* The last answer of each engine's /health. */
#define WS_PEERS 8
struct ws_health { int64_t at_ns; int http; char *body; size_t len; const char *status; };

struct ws_state {
    struct hub hub;
    struct ws_health health[WS_PEERS];
    int64_t heard_ns[WS_PEERS]; /* when the last record of each came, monotonic; 0: never */
};

extern const struct keel_engine websocket_engine;
extern const char *const ws_peers[];

enum keel_status ws_open(struct keel_rt *rt, void *state);
void ws_close(struct keel_rt *rt, void *state);

keel_step_fn stream_open, stream_frame, market_open;
keel_step_fn bus_quote, bus_trade, bus_any;
keel_step_fn api_connections, api_topics, api_broadcast, api_system;
keel_step_fn api_page;

/* The message of a channel with what the hub knows of it, into w (call's arena); data is JSON. */
void ws_write_data(struct keel_json *w, const struct hub *h, const struct hub_channel *ch, const char *type,
                   const char *data, size_t len, int64_t ts);
void ws_write_market(struct keel_json *w, const struct hub *h, const struct hub_channel *ch, uint64_t seq);
/* Whether a topic, without its key, is one of the contract's or of the users' own. */
bool ws_topic_known(const char *topic, size_t n);

#endif
