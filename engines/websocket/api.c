/* Who is connected, what there is to hear, a word of the user's own to all, and how the nine engines are. */
#include "ops.h"

#include <string.h>

#include "keel/clock.h"

KEEL_RECORD_TABLE(ws_broadcast, WS_BROADCAST);
KEEL_RECORD_TABLE(ws_list, WS_LIST);

static void end_list(struct keel_call *c, int64_t count, int64_t next)
{
    keel_json_end(&c->out);
    keel_json_i64(&c->out, "count", count);
    if (next > 0)
        keel_json_i64(&c->out, "next", next);
    else
        keel_json_null(&c->out, "next");
}

static void write_connection(struct keel_json *w, const struct hub_client *client)
{
    struct keel_ws_info info = keel_ws_info(client->ws);

    keel_json_obj(w, NULL);
    keel_json_str(w, "connection_id", keel_ws_id(client->ws));
    keel_json_str(w, "path", client->is_market ? "/ws/market-data/{symbol}" : "/ws/stream");
    keel_json_arr(w, "topics");
    for (size_t i = 0; i < client->n_patterns; i++)
        keel_json_str(w, NULL, client->patterns[i]);
    keel_json_end(w);
    keel_json_time(w, "connected_at", info.opened_ns);
    keel_json_u64(w, "sent", info.sent);
    keel_json_u64(w, "received", info.received);
    keel_json_u64(w, "refused", info.refused);
    keel_json_u64(w, "queued", info.queued);
    keel_json_end(w);
}

enum keel_status api_connections(struct keel_call *c)
{
    const struct ws_list *arg = c->arg;
    struct ws_state *s = c->state;
    const struct hub_client *client = s->hub.clients;
    int64_t n = 0, last = 0;

    while (client != NULL && arg->has_after && client->number >= (uint64_t)arg->after)
        client = client->next;
    keel_json_obj(&c->out, NULL);
    keel_json_arr(&c->out, "connections");
    for (; client != NULL && n < arg->limit; client = client->next, n++) {
        write_connection(&c->out, client);
        last = (int64_t)client->number;
    }
    end_list(c, n, client != NULL ? last : 0);
    keel_json_u64(&c->out, "total", s->hub.n_clients);
    keel_json_end(&c->out);
    return KEEL_OK;
}

/* Channels, newest first; `after` counts from the first one there was. */
enum keel_status api_topics(struct keel_call *c)
{
    const struct ws_list *arg = c->arg;
    struct ws_state *s = c->state;
    size_t count, at = s->hub.n_channels;
    const struct keel_topic *all = keel_topics(&count);
    int64_t n = 0;

    if (arg->has_after && (uint64_t)arg->after <= at)
        at = (size_t)arg->after - 1;
    keel_json_obj(&c->out, NULL);
    keel_json_arr(&c->out, "topics");
    for (; at > 0 && n < arg->limit; at--) {
        const struct hub_channel *ch = s->hub.channels[at - 1];
        if (ch->is_market)
            continue;
        keel_json_obj(&c->out, NULL);
        keel_json_str(&c->out, "topic", ch->name);
        keel_json_str(&c->out, "epoch", s->hub.epoch);
        keel_json_u64(&c->out, "seq", ch->seq);
        keel_json_u64(&c->out, "subscribers", ch->n_subs);
        keel_json_u64(&c->out, "kept", ch->seq + 1 - ch->first);
        keel_json_end(&c->out);
        n++;
    }
    end_list(c, n, at > 0 ? (int64_t)at + 1 : 0);
    keel_json_arr(&c->out, "available");
    for (size_t i = 0; i < count; i++)
        keel_json_str(&c->out, NULL, all[i].name);
    keel_json_end(&c->out);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static bool user_topic_valid(const char *topic)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:";
    size_t n = strlen(topic);

    return n > 5 && strncmp(topic, "user.", 5) == 0 && strspn(topic, plain) == n && topic[5] != ':' &&
           topic[n - 1] != ':';
}

enum keel_status api_broadcast(struct keel_call *c)
{
    static const char *const types[] = {"data", "system", "market_data", "trade_update", "risk_alert"};
    const struct ws_broadcast *arg = c->arg;
    struct ws_state *s = c->state;
    struct hub_channel *ch;
    struct keel_json w;
    const char *name = arg->topic;

    if (!user_topic_valid(name))
        return keel_fail_as(c, KEEL_FORBIDDEN, "not_a_user_topic", "topic",
                            "a broadcast goes to user.{name} or user.{name}:{key}");
    if (strchr(name, ':') == NULL)
        name = keel_arena_printf(c->arena, "%s:-", name);
    ch = hub_channel(&s->hub, name, false);
    if (ch == NULL)
        return keel_fail_as(c, KEEL_SHED, "too_many_channels", NULL, "max_channels (%zu) are followed",
                            s->hub.most_channels);
    keel_json_init(&w, c->arena, arg->n_data + 256);
    ws_write_data(&w, &s->hub, ch, types[arg->message_type], arg->data, arg->n_data, c->wall_ns);
    hub_publish(&s->hub, ch, keel_json_text(&w), w.len, KEEL_WS_STAMPED, c->wall_ns);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "broadcast");
    keel_json_str(&c->out, "message_id", keel_arena_printf(c->arena, "%s-%llu", s->hub.epoch,
                                                           (unsigned long long)ch->seq));
    keel_json_str(&c->out, "topic", name);
    keel_json_u64(&c->out, "recipients", ch->n_subs);
    keel_json_str(&c->out, "epoch", s->hub.epoch);
    keel_json_u64(&c->out, "seq", ch->seq);
    keel_json_end(&c->out);
    return KEEL_OK;
}

/* ---- /system: asks the engines one after another, unless a fresh answer is there ---- */

enum { FRESH_MS = 1000, ASK_MS = 400, MAX_HEALTH = 256 * 1024 };

struct asking { size_t at; bool sent; };

/* Since the engine's last record on the bus; null: there was none yet. */
static void write_heard(struct keel_json *w, int64_t heard_ns, int64_t now)
{
    if (heard_ns != 0)
        keel_json_i64(w, "message_age_ms", (now - heard_ns) / 1000000);
    else
        keel_json_null(w, "message_age_ms");
}

static void write_peer(struct keel_json *w, const char *name, const struct ws_health *h, int64_t heard_ns, int64_t now)
{
    keel_json_obj(w, name);
    keel_json_str(w, "status", h->status);
    keel_json_f64(w, "age_ms", (double)((now - h->at_ns) / 1000000));
    write_heard(w, heard_ns, now);
    if (h->body != NULL)
        keel_json_raw(w, "health", h->body, h->len);
    else
        keel_json_null(w, "health");
    keel_json_end(w);
}

static enum keel_status write_system(struct keel_call *c)
{
    struct ws_state *s = c->state;
    int64_t now = keel_mono_ns(), newest = 0;
    size_t well = 1;
    struct keel_json own;

    keel_json_obj(&c->out, NULL);
    keel_json_obj(&c->out, "engines");
    for (size_t i = 0; i < WS_PEERS; i++) {
        write_peer(&c->out, ws_peers[i], &s->health[i], s->heard_ns[i], now);
        newest = s->heard_ns[i] > newest ? s->heard_ns[i] : newest;
        well += s->health[i].http == 200;
    }
    keel_json_obj(&c->out, "websocket");
    keel_json_str(&c->out, "status", "answering");
    keel_json_f64(&c->out, "age_ms", 0);
    write_heard(&c->out, newest, now); /* its own are what it passes on */
    keel_json_init(&own, c->arena, 1024);
    keel_health_write(c->rt, &own);
    keel_json_raw(&c->out, "health", keel_json_text(&own), own.len);
    keel_json_end(&c->out);
    keel_json_end(&c->out);
    keel_json_u64(&c->out, "available", well);
    keel_json_u64(&c->out, "count", WS_PEERS + 1);
    keel_json_str(&c->out, "mode", keel_mode(c->rt));
    keel_json_time(&c->out, "timestamp", keel_wall_ns());
    keel_json_end(&c->out);
    return KEEL_OK;
}

static void take_answer(struct keel_call *c, struct ws_health *h)
{
    const struct keel_reply *r = &c->peer;
    bool has = keel_wait_status(c) == KEEL_OK && r->status == KEEL_OK && r->json != NULL &&
               r->json->type == KEEL_JOBJ && r->len <= MAX_HEALTH;

    keel_free(h->body);
    *h = (struct ws_health){.at_ns = keel_mono_ns(), .http = has ? r->http : 0, .status = has ? "answering" : "away"};
    if (has) {
        h->body = keel_alloc(r->len + 1, 1);
        h->len = r->len;
        memcpy(h->body, r->body, r->len);
    }
}

static enum keel_status ask_next(struct keel_call *c)
{
    struct ws_state *s = c->state;
    struct asking *a = c->ctx;

    if (a->sent)
        take_answer(c, &s->health[a->at++]);
    a->sent = false;
    while (a->at < WS_PEERS && s->health[a->at].at_ns != 0 &&
           keel_mono_ns() - s->health[a->at].at_ns < FRESH_MS * INT64_C(1000000))
        a->at++;
    if (a->at == WS_PEERS)
        return write_system(c);
    a->sent = true;
    return keel_await_peer(c, &(struct keel_peer_req){.peer = ws_peers[a->at], .method = "GET", .path = "/health",
                                                      .budget_ns = ASK_MS * INT64_C(1000000), .probe = true}, ask_next);
}

enum keel_status api_system(struct keel_call *c)
{
    c->ctx = keel_arena_alloc(c->arena, sizeof(struct asking));
    return ask_next(c);
}
