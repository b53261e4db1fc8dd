/* The two WebSocket paths and what their clients may say. */
#include "ops.h"

#include <string.h>

#include "keel/clock.h"

KEEL_RECORD_TABLE(ws_frame, WS_FRAME);
KEEL_RECORD_TABLE(ws_symbol, WS_SYMBOL);

static void begin_message(struct keel_call *c, struct keel_json *w, const char *type, const char *topic)
{
    keel_json_init(w, c->arena, 384);
    keel_json_obj(w, NULL);
    keel_json_str(w, "type", type);
    keel_json_str(w, "topic", topic);
}

/* ---- the upgrade ---- */

enum keel_status stream_open(struct keel_call *c)
{
    struct ws_state *s = c->state;
    struct hub_client *client = hub_join(&s->hub, c->ws, NULL);
    int64_t now = keel_wall_ns();
    struct keel_json w;

    begin_message(c, &w, "system", "connection");
    keel_json_obj(&w, "data");
    keel_json_str(&w, "status", "connected");
    keel_json_str(&w, "connection_id", keel_ws_id(c->ws));
    keel_json_time(&w, "timestamp", now);
    keel_json_end(&w);
    keel_json_time(&w, "timestamp", now);
    keel_json_end(&w);
    hub_say(client, &w);
    return KEEL_OK;
}

/* What is known of the symbol comes at once; then each quote and trade. */
enum keel_status market_open(struct keel_call *c)
{
    const struct ws_symbol *arg = c->arg;
    struct ws_state *s = c->state;
    char symbol[KEEL_SYMBOL_LEN + 1];
    struct hub_client *client;
    struct hub_channel *ch;
    struct keel_json w;

    if (!keel_symbol_normalise(arg->symbol, symbol))
        return keel_fail_as(c, KEEL_INVALID, "bad_symbol", "symbol",
                            "symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}");
    client = hub_join(&s->hub, c->ws, symbol);
    ch = hub_find(&s->hub, symbol, true);
    if (ch != NULL) {
        keel_json_init(&w, c->arena, 384);
        ws_write_market(&w, &s->hub, ch, ch->seq);
        hub_say(client, &w);
    }
    return KEEL_OK;
}

/* ---- what a client says ---- */

bool ws_topic_known(const char *topic, size_t n)
{
    size_t count;
    const struct keel_topic *all = keel_topics(&count);

    if (n > 5 && strncmp(topic, "user.", 5) == 0)
        return true;
    for (size_t i = 0; i < count; i++)
        if (strlen(all[i].name) == n && memcmp(all[i].name, topic, n) == 0)
            return true;
    return false;
}

/* NULL, or why no channel can be meant by it. */
static const char *topic_wrong(const char *topic)
{
    size_t n = strlen(topic), name = strcspn(topic, ":");
    const char *star = strchr(topic, '*');

    if (n == 0 || n >= HUB_NAME)
        return "a topic has 1 to 139 bytes";
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)topic[i] <= ' ' || (unsigned char)topic[i] == 0x7F)
            return "a topic has no spaces or control characters";
    if (star != NULL && star[1] != '\0')
        return "* ends a prefix: it stands last";
    if (star == NULL && topic[name] == ':' && topic[name + 1] == '\0')
        return "the key after : is missing";
    if ((star == NULL || star > topic + name) && !ws_topic_known(topic, name))
        return "there is no such topic; GET /topics lists them";
    return NULL;
}

static bool say_error(struct keel_call *c, struct hub_client *client, const char *topic, const char *code,
                      const char *detail)
{
    struct keel_json w;

    begin_message(c, &w, "error", topic);
    keel_json_obj(&w, "data");
    keel_json_str(&w, "code", code);
    keel_json_str(&w, "detail", detail);
    keel_json_end(&w);
    keel_json_time(&w, "timestamp", keel_wall_ns());
    keel_json_end(&w);
    return hub_say(client, &w);
}

static bool is_channel(const char *topic)
{
    return strchr(topic, ':') != NULL && strchr(topic, '*') == NULL;
}

/* Where the client left the channel; false when it says nothing of it, or speaks of another epoch. */
static bool seen_by_client(const struct hub *h, const struct keel_jval *resume, const char *name, uint64_t newest,
                           uint64_t *seq)
{
    const struct keel_jval *at = keel_jget(resume, name), *n = keel_jget(at, "seq");
    int64_t v;

    if (n == NULL || n->type != KEEL_JNUM || strcmp(keel_jstr(at, "epoch"), h->epoch) != 0 ||
        keel_i64_parse(n->text, strlen(n->text), &v) != KEEL_OK || v < 0 || (uint64_t)v > newest)
        return false;
    *seq = (uint64_t)v;
    return true;
}

/* status: "subscribed" or "unsubscribed". A channel's confirmation says where it goes on. */
static bool confirm(struct keel_call *c, struct hub_client *client, const char *topic, const char *status,
                    const struct keel_jval *resume)
{
    const struct hub *h = client->hub;
    struct keel_json w;

    begin_message(c, &w, "subscription", topic);
    keel_json_obj(&w, "data");
    keel_json_str(&w, "status", status);
    keel_json_str(&w, "topic", topic);
    keel_json_end(&w);
    keel_json_time(&w, "timestamp", keel_wall_ns());
    keel_json_str(&w, "epoch", h->epoch);
    if (is_channel(topic)) {
        const struct hub_channel *ch = hub_find(client->hub, topic, false);
        uint64_t seq = ch != NULL ? ch->seq : 0;
        seen_by_client(h, resume, topic, seq, &seq);
        keel_json_u64(&w, "seq", seq);
    }
    keel_json_end(&w);
    return hub_say(client, &w);
}

/* The client goes on where it was: from what is kept, after a gap when that does not reach back far enough. */
static bool resume_one(struct keel_call *c, struct hub_client *client, const struct keel_jval *at,
                       const struct keel_jval *resume)
{
    struct hub *h = client->hub;
    struct hub_channel *ch = hub_find(h, at->name, false);
    struct hub_sub *sub = ch != NULL ? hub_sub_of(client, ch) : NULL;
    uint64_t seq;

    if (!hub_covers(client, at->name, false))
        return say_error(c, client, at->name, "not_subscribed", "what is resumed must be subscribed to");
    if (sub != NULL && sub->since != client->frames)
        return say_error(c, client, at->name, "already_subscribed", "only a new subscription resumes");
    if (!seen_by_client(h, resume, at->name, ch != NULL ? ch->seq : 0, &seq))
        return hub_say_gap(client, at->name, -1, "epoch", ch != NULL ? ch->seq : 0);
    if (sub == NULL)
        return true;
    if (seq + 1 < ch->first) {
        if (!hub_say_gap(client, at->name, (int64_t)(ch->first - 1 - seq), "history", ch->first - 1))
            return false;
        seq = ch->first - 1;
    }
    hub_replay(sub, seq + 1);
    return true;
}

static enum keel_status parse_resume(struct keel_call *c, const struct ws_frame *f, const struct keel_jval **out)
{
    const char *why = "";

    *out = NULL;
    if (!f->has_resume)
        return KEEL_OK;
    if (keel_json_parse(c->arena, f->resume, f->n_resume, out, &why) != KEEL_OK || (*out)->type != KEEL_JOBJ)
        return keel_fail_as(c, KEEL_INVALID, "wrong_type", "resume", "resume is {channel: {epoch, seq}}");
    if ((*out)->len > HUB_PATTERNS)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "resume", "resume names at most %d channels",
                            HUB_PATTERNS);
    return KEEL_OK;
}

/* False: its queue is full of answers that it does not read. */
static bool subscribe(struct keel_call *c, struct hub_client *client, const struct ws_frame *f,
                      const struct keel_jval *resume)
{
    bool room = true;

    client->frames++;
    for (size_t i = 0; i < f->n_topics && room; i++) {
        const char *topic = f->topics[i], *wrong = topic_wrong(topic);
        if (wrong != NULL)
            room = say_error(c, client, topic, "bad_topic", wrong);
        else if (!hub_subscribe(client, topic))
            room = say_error(c, client, topic, "too_many_topics", "a client has at most 256 topics");
        else
            room = confirm(c, client, topic, "subscribed", resume);
    }
    for (const struct keel_jval *at = resume != NULL ? resume->child : NULL; at != NULL && room; at = at->next)
        room = resume_one(c, client, at, resume);
    return room;
}

static bool unsubscribe(struct keel_call *c, struct hub_client *client, const struct ws_frame *f)
{
    bool room = true;

    for (size_t i = 0; i < f->n_topics && room; i++)
        room = hub_unsubscribe(client, f->topics[i])
                   ? confirm(c, client, f->topics[i], "unsubscribed", NULL)
                   : say_error(c, client, f->topics[i], "not_subscribed", "the client has no such topic");
    return room;
}

static bool heartbeat(struct keel_call *c, struct hub_client *client)
{
    struct keel_json w;

    begin_message(c, &w, "heartbeat", "connection");
    keel_json_obj(&w, "data");
    keel_json_str(&w, "status", "alive");
    keel_json_end(&w);
    keel_json_time(&w, "timestamp", keel_wall_ns());
    keel_json_end(&w);
    return hub_say(client, &w);
}

enum keel_status stream_frame(struct keel_call *c)
{
    const struct ws_frame *f = c->arg;
    struct hub_client *client = keel_ws_ctx(c->ws);
    const struct keel_jval *resume;
    enum keel_status st;
    bool room;

    if (keel_ws_is_closing(c->ws))
        return KEEL_OK;
    if (f->type != WS_HEARTBEAT && f->n_topics == 0)
        return keel_fail_as(c, KEEL_INVALID, "missing", "topics", "topics are missing");
    if ((st = parse_resume(c, f, &resume)) != KEEL_OK)
        return st;
    room = f->type == WS_HEARTBEAT ? heartbeat(c, client)
           : f->type == WS_SUBSCRIBE ? subscribe(c, client, f, resume) : unsubscribe(c, client, f);
    if (!room)
        keel_ws_close(c->ws, 1013, "slow_client");
    return KEEL_OK;
}
