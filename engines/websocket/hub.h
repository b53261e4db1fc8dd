/*
 * Channels and who listens to them. A channel is one key of one bus topic ("marketdata.quote:BTCUSDT"); it numbers its
 * messages from 1 without holes within this instance's epoch and keeps the last ones for clients that resume. A client
 * subscribes to patterns; which channels they cover is worked out when either appears, so a message only walks a list.
 */
#ifndef KEEL_WEBSOCKET_HUB_H
#define KEEL_WEBSOCKET_HUB_H

#include "keel/call.h"
#include "keel/ws.h"

#define HUB_NAME 140    /* topic, colon, key, NUL */
#define HUB_KEPT 256    /* messages a channel keeps at most */
#define HUB_PATTERNS 256
#define HUB_BUCKETS 4096

struct hub_client;
struct hub_channel;

/* One client on one channel. */
struct hub_sub {
    struct hub_client *client;
    struct hub_channel *channel;
    size_t slot;               /* its place in channel->subs */
    struct hub_sub *next;      /* of the client */
    uint64_t missed;           /* not 0: messages its queue had no room for, up to the newest */
    uint64_t since;            /* the client's frame that made it */
    size_t n_patterns;         /* of the client that cover the channel */
};

/* What /ws/market-data shows of a symbol. */
struct hub_market {
    bool has_quote, has_trade;
    int64_t bid, ask, price, ts;
    keel_i128 volume;          /* traded since this instance started */
};

struct hub_channel {
    char name[HUB_NAME];
    bool is_market;            /* of /ws/market-data: named by the symbol, reached by no pattern */
    uint64_t seq, first;       /* newest; oldest that is kept, above seq when none is */
    struct keel_ws_block *kept[HUB_KEPT]; /* at seq % HUB_KEPT */
    size_t bytes[HUB_KEPT];
    struct hub_sub **subs;
    size_t n_subs, cap_subs;
    struct hub_channel *chain;
    struct hub_sub *mark;      /* while a client subscribes: its own */
    struct hub_market market;
};

struct hub_client {
    struct hub *hub;
    struct keel_ws *ws;
    struct hub_client *prev, *next; /* newest first */
    uint64_t number;
    bool is_market;
    char *patterns[HUB_PATTERNS];
    size_t n_patterns;
    uint64_t frames;           /* subscribe frames so far */
    struct hub_sub *subs;
};

struct hub {
    char epoch[16];
    struct hub_channel *bucket[HUB_BUCKETS];
    struct hub_channel **channels; /* in the order they came */
    size_t n_channels, most_channels, kept_bytes, most_bytes;
    struct hub_client *clients;
    size_t n_clients;
    uint64_t serial, refused;  /* refused: records for which there was no channel left */
};

void hub_open(struct hub *h, int64_t wall_ns, size_t most_channels, size_t most_bytes);
void hub_close(struct hub *h);

struct hub_channel *hub_find(struct hub *h, const char *name, bool is_market);
/* Found or made; NULL when most_channels are there. */
struct hub_channel *hub_channel(struct hub *h, const char *name, bool is_market);
/* The message numbered ++channel->seq goes to all who listen, and is kept. Copies the text. */
void hub_publish(struct hub *h, struct hub_channel *ch, const char *json, size_t len, enum keel_ws_stamp stamp,
                 int64_t stamp_ns);

/* Takes the session over. market: the one symbol of /ws/market-data, NULL for /ws/stream. */
struct hub_client *hub_join(struct hub *h, struct keel_ws *ws, const char *market);
/* False: no room for another pattern. One that is there already is fine. */
bool hub_subscribe(struct hub_client *c, const char *pattern);
bool hub_unsubscribe(struct hub_client *c, const char *pattern); /* false: it was not there */
bool hub_covers(const struct hub_client *c, const char *name, bool is_market);
struct hub_sub *hub_sub_of(const struct hub_client *c, const struct hub_channel *ch);
/* What the channel keeps from seq on. */
void hub_replay(struct hub_sub *s, uint64_t from);

/* A message of the connection's own. False: its queue is full. */
bool hub_say(struct hub_client *c, struct keel_json *w);
/* missed < 0: unknown, null. seq: the last one missed. */
bool hub_say_gap(struct hub_client *c, const char *name, int64_t missed, const char *reason, uint64_t seq);

#endif
