/* From the bus to the channels: each record goes to its channel as it came, quotes and trades also to the
 * symbol's market. */
#include "ops.h"

#include <stdio.h>
#include <string.h>

#include "keel/clock.h"
#include "keel/log.h"

KEEL_RECORD_TABLE(ws_options, WS_OPTIONS);
KEEL_RECORD_TABLE(ws_any, WS_ANY);

enum keel_status ws_open(struct keel_rt *rt, void *state)
{
    struct ws_state *s = state;
    const struct ws_options *o = keel_options(rt);

    hub_open(&s->hub, keel_wall_ns(), (size_t)o->max_channels, (size_t)o->history_bytes);
    return KEEL_OK;
}

void ws_close(struct keel_rt *rt, void *state)
{
    struct ws_state *s = state;

    (void)rt;
    hub_close(&s->hub);
    for (size_t i = 0; i < WS_PEERS; i++)
        keel_free(s->health[i].body);
}

/* The first version's message types, by topic. */
static const struct { const char *prefix, *type; } type_of_topic[] = {
    {"marketdata.critical.", "system"},     {"marketdata.", "market_data"},
    {"strategy.critical.order", "trade_update"}, {"strategy.critical.fill", "trade_update"},
    {"risk.critical.breaker", "system"},    {"risk.critical.", "risk_alert"},
    {"ml.critical.anomaly", "risk_alert"},
};

static const char *message_type(const char *topic)
{
    size_t n = strlen(topic);

    for (size_t i = 0; i < KEEL_COUNT(type_of_topic); i++)
        if (strncmp(topic, type_of_topic[i].prefix, strlen(type_of_topic[i].prefix)) == 0)
            return type_of_topic[i].type;
    return n > 8 && strcmp(topic + n - 8, ".breaker") == 0 ? "system" : "data";
}

void ws_write_data(struct keel_json *w, const struct hub *h, const struct hub_channel *ch, const char *type,
                   const char *data, size_t len, int64_t ts)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "type", type);
    keel_json_str(w, "topic", ch->name);
    keel_json_raw(w, "data", data, len);
    keel_json_time(w, "timestamp", ts);
    keel_json_str(w, "epoch", h->epoch);
    keel_json_u64(w, "seq", ch->seq + 1);
    keel_json_end(w);
}

static int64_t stamp_of(const struct keel_header *rec)
{
    return rec->ts_event != 0 ? rec->ts_event : rec->ts_init != 0 ? rec->ts_init : rec->ts_recv;
}

static void note_heard(struct ws_state *s, const char *topic)
{
    size_t n = strcspn(topic, ".");

    for (size_t i = 0; i < WS_PEERS; i++)
        if (strlen(ws_peers[i]) == n && memcmp(ws_peers[i], topic, n) == 0)
            s->heard_ns[i] = keel_mono_ns();
}

enum keel_status bus_any(struct keel_call *c)
{
    struct ws_state *s = c->state;
    const struct keel_header *rec = c->rec;
    char name[HUB_NAME];
    struct hub_channel *ch;
    struct keel_json w;

    note_heard(s, rec->topic);
    snprintf(name, sizeof name, "%s:%s", rec->topic, rec->key[0] != '\0' ? rec->key : "-");
    ch = hub_channel(&s->hub, name, false);
    keel_gauge(c->rt, "channels", (double)s->hub.n_channels);
    if (ch == NULL) { /* our limit, not the sender's fault: no dead letter */
        keel_log_often(KEEL_LOG_WARN, "too_many_channels", "channel=%s max_channels=%zu", name, s->hub.most_channels);
        keel_gauge(c->rt, "records_refused", (double)s->hub.refused);
        return KEEL_OK;
    }
    keel_json_init(&w, c->arena, c->raw_len + 256);
    ws_write_data(&w, &s->hub, ch, message_type(rec->topic), c->raw, c->raw_len, stamp_of(rec));
    hub_publish(&s->hub, ch, keel_json_text(&w), w.len, KEEL_WS_STAMPED, rec->ts_publish);
    return KEEL_OK;
}

/* ---- /ws/market-data ---- */

void ws_write_market(struct keel_json *w, const struct hub *h, const struct hub_channel *ch, uint64_t seq)
{
    const struct hub_market *m = &ch->market;
    int64_t value[] = {m->price, m->bid, m->ask};
    bool has[] = {m->has_trade, m->has_quote, m->has_quote};
    static const char *const name[] = {"price", "bid", "ask"}, *const why[] = {
        "no trade yet", "no quote yet", "no quote yet"};

    keel_json_obj(w, NULL);
    keel_json_str(w, "message_type", "market_data");
    keel_json_str(w, "symbol", ch->name);
    keel_json_obj(w, "data");
    keel_json_str(w, "symbol", ch->name);
    for (size_t i = 0; i < KEEL_COUNT(name); i++) {
        if (has[i])
            keel_json_decnum(w, name[i], value[i]);
        else
            keel_json_null(w, name[i]);
    }
    keel_json_moneynum(w, "volume", m->volume);
    keel_json_time(w, "timestamp", m->ts);
    keel_json_end(w);
    keel_json_time(w, "timestamp", m->ts);
    keel_json_str(w, "epoch", h->epoch);
    keel_json_u64(w, "seq", seq);
    if (!m->has_trade || !m->has_quote) {
        keel_json_obj(w, "undefined");
        for (size_t i = 0; i < KEEL_COUNT(name); i++)
            if (!has[i])
                keel_json_str(w, name[i], why[i]);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static struct hub_channel *market_of(struct keel_call *c, const char *symbol)
{
    struct ws_state *s = c->state;
    struct hub_channel *ch = hub_channel(&s->hub, symbol, true);

    if (ch != NULL)
        ch->market.ts = stamp_of(c->rec);
    return ch;
}

static void show_market(struct keel_call *c, struct hub_channel *ch)
{
    struct ws_state *s = c->state;
    struct keel_json w;

    keel_json_init(&w, c->arena, 384);
    ws_write_market(&w, &s->hub, ch, ch->seq + 1);
    hub_publish(&s->hub, ch, keel_json_text(&w), w.len, KEEL_WS_PLAIN, c->rec->ts_publish);
}

enum keel_status bus_quote(struct keel_call *c)
{
    const struct keel_quote *q = c->arg;
    struct hub_channel *ch = market_of(c, q->symbol);

    if (ch != NULL) {
        ch->market.has_quote = true;
        ch->market.bid = q->bid;
        ch->market.ask = q->ask;
        show_market(c, ch);
    }
    return bus_any(c);
}

enum keel_status bus_trade(struct keel_call *c)
{
    const struct keel_trade *t = c->arg;
    struct hub_channel *ch = market_of(c, t->symbol);

    if (ch != NULL) {
        ch->market.has_trade = true;
        ch->market.price = t->price;
        ch->market.volume += t->size;
        show_market(c, ch);
    }
    return bus_any(c);
}
