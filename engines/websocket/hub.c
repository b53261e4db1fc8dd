/* Channels, clients and what goes between them; see hub.h. */
#include "hub.h"

#include <string.h>

#include "keel/clock.h"

/* ---- channels ---- */

static size_t bucket_of(const char *name)
{
    uint64_t h = 14695981039346656037u;

    for (const char *p = name; *p != '\0'; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    return (size_t)(h % HUB_BUCKETS);
}

struct hub_channel *hub_find(struct hub *h, const char *name, bool is_market)
{
    struct hub_channel *ch = h->bucket[bucket_of(name)];

    while (ch != NULL && (ch->is_market != is_market || strcmp(ch->name, name) != 0))
        ch = ch->chain;
    return ch;
}

static void attach(struct hub_client *c, struct hub_channel *ch, size_t n_patterns)
{
    struct hub_sub *s = keel_alloc(1, sizeof *s);

    if (ch->n_subs == ch->cap_subs) {
        ch->cap_subs = ch->cap_subs == 0 ? 8 : 2 * ch->cap_subs;
        ch->subs = keel_realloc(ch->subs, ch->cap_subs, sizeof(struct hub_sub *));
    }
    *s = (struct hub_sub){.client = c, .channel = ch, .slot = ch->n_subs, .next = c->subs, .since = c->frames,
                          .n_patterns = n_patterns};
    ch->subs[ch->n_subs++] = s;
    c->subs = s;
}

static void detach(struct hub_sub **link)
{
    struct hub_sub *s = *link, *last = s->channel->subs[--s->channel->n_subs];

    s->channel->subs[s->slot] = last;
    last->slot = s->slot;
    *link = s->next;
    keel_free(s);
}

static bool covers(const char *pattern, const char *name, bool is_market)
{
    size_t n = strlen(pattern);

    if (is_market)
        return strcmp(pattern, name) == 0;
    if (n > 0 && pattern[n - 1] == '*')
        return strncmp(pattern, name, n - 1) == 0;
    if (strchr(pattern, ':') != NULL)
        return strcmp(pattern, name) == 0;
    return strncmp(pattern, name, n) == 0 && name[n] == ':';
}

static size_t n_covering(const struct hub_client *c, const char *name, bool is_market)
{
    size_t n = 0;

    for (size_t i = 0; i < c->n_patterns && c->is_market == is_market; i++)
        n += covers(c->patterns[i], name, is_market);
    return n;
}

struct hub_channel *hub_channel(struct hub *h, const char *name, bool is_market)
{
    struct hub_channel *ch = hub_find(h, name, is_market), **bucket = &h->bucket[bucket_of(name)];

    if (ch != NULL)
        return ch;
    if (h->n_channels == h->most_channels || strlen(name) >= HUB_NAME) {
        h->refused++;
        return NULL;
    }
    ch = keel_alloc(1, sizeof *ch);
    memcpy(ch->name, name, strlen(name) + 1);
    ch->is_market = is_market;
    ch->first = 1;
    ch->chain = *bucket;
    *bucket = ch;
    h->channels[h->n_channels++] = ch;
    for (struct hub_client *c = h->clients; c != NULL; c = c->next) {
        size_t n = n_covering(c, name, is_market);
        if (n > 0)
            attach(c, ch, n);
    }
    return ch;
}

static void forget_oldest(struct hub *h, struct hub_channel *ch)
{
    size_t at = ch->first++ % HUB_KEPT;

    h->kept_bytes -= ch->bytes[at];
    keel_ws_block_drop(ch->kept[at]);
    ch->kept[at] = NULL;
}

/* Past the memory for all channels, each makes room from its own past only. */
static void keep(struct hub *h, struct hub_channel *ch, struct keel_ws_block *b, size_t len)
{
    size_t at = ch->seq % HUB_KEPT;

    while (ch->first < ch->seq && (ch->seq - ch->first >= HUB_KEPT || h->kept_bytes + len > h->most_bytes))
        forget_oldest(h, ch);
    if (h->kept_bytes + len > h->most_bytes) {
        ch->first = ch->seq + 1;
        return;
    }
    ch->kept[at] = keel_ws_block_keep(b);
    ch->bytes[at] = len;
    h->kept_bytes += len;
}

static void deliver(struct hub_sub *s, struct keel_ws_block *b)
{
    if (s->missed > 0 || !keel_ws_push(s->client->ws, b))
        s->missed++;
}

void hub_publish(struct hub *h, struct hub_channel *ch, const char *json, size_t len, enum keel_ws_stamp stamp,
                 int64_t stamp_ns)
{
    struct keel_ws_block *b = keel_ws_block_new(json, len, stamp, stamp_ns);

    ch->seq++;
    keep(h, ch, b, len);
    for (size_t i = 0; i < ch->n_subs; i++)
        deliver(ch->subs[i], b);
    keel_ws_block_drop(b);
}

void hub_replay(struct hub_sub *s, uint64_t from)
{
    for (uint64_t seq = from; seq <= s->channel->seq; seq++)
        deliver(s, s->channel->kept[seq % HUB_KEPT]);
}

/* ---- clients ---- */

bool hub_covers(const struct hub_client *c, const char *name, bool is_market)
{
    return n_covering(c, name, is_market) > 0;
}

struct hub_sub *hub_sub_of(const struct hub_client *c, const struct hub_channel *ch)
{
    struct hub_sub *s = c->subs;

    while (s != NULL && s->channel != ch)
        s = s->next;
    return s;
}

static size_t pattern_at(const struct hub_client *c, const char *pattern)
{
    size_t i = 0;

    while (i < c->n_patterns && strcmp(c->patterns[i], pattern) != 0)
        i++;
    return i;
}

static char *copy(const char *s)
{
    size_t n = strlen(s) + 1;

    return memcpy(keel_alloc(n, 1), s, n);
}

bool hub_subscribe(struct hub_client *c, const char *pattern)
{
    struct hub *h = c->hub;

    if (pattern_at(c, pattern) < c->n_patterns)
        return true;
    if (c->n_patterns == HUB_PATTERNS)
        return false;
    for (struct hub_sub *s = c->subs; s != NULL; s = s->next)
        s->channel->mark = s;
    for (size_t i = 0; i < h->n_channels; i++) {
        struct hub_channel *ch = h->channels[i];
        if (ch->is_market != c->is_market || !covers(pattern, ch->name, ch->is_market))
            continue;
        if (ch->mark != NULL)
            ch->mark->n_patterns++;
        else
            attach(c, ch, 1);
    }
    for (struct hub_sub *s = c->subs; s != NULL; s = s->next)
        s->channel->mark = NULL;
    c->patterns[c->n_patterns++] = copy(pattern);
    return true;
}

bool hub_unsubscribe(struct hub_client *c, const char *pattern)
{
    size_t at = pattern_at(c, pattern);

    if (at == c->n_patterns)
        return false;
    for (struct hub_sub **link = &c->subs; *link != NULL;) {
        struct hub_sub *s = *link;
        if (covers(pattern, s->channel->name, c->is_market) && --s->n_patterns == 0)
            detach(link);
        else
            link = &s->next;
    }
    keel_free(c->patterns[at]);
    c->patterns[at] = c->patterns[--c->n_patterns];
    return true;
}

/* Room again: each channel that missed something says how much, exactly, before it goes on. */
static void on_drained(struct keel_rt *rt, struct keel_ws *ws)
{
    struct hub_client *c = keel_ws_ctx(ws);

    (void)rt;
    for (struct hub_sub *s = c->subs; s != NULL; s = s->next) {
        if (s->missed == 0)
            continue;
        if (!hub_say_gap(c, s->channel->name, (int64_t)s->missed, "slow_client", s->channel->seq))
            return; /* full again: the rest is for the next time */
        s->missed = 0;
    }
}

static void leave(struct hub_client *c)
{
    struct hub *h = c->hub;

    while (c->subs != NULL)
        detach(&c->subs);
    for (size_t i = 0; i < c->n_patterns; i++)
        keel_free(c->patterns[i]);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        h->clients = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    h->n_clients--;
    keel_free(c);
}

static void on_closed(struct keel_rt *rt, struct keel_ws *ws)
{
    (void)rt;
    leave(keel_ws_ctx(ws));
}

struct hub_client *hub_join(struct hub *h, struct keel_ws *ws, const char *market)
{
    static const struct keel_ws_hooks hooks = {.drained = on_drained, .closed = on_closed};
    struct hub_client *c = keel_alloc(1, sizeof *c);

    c->hub = h;
    c->ws = ws;
    c->number = ++h->serial;
    c->is_market = market != NULL;
    c->next = h->clients;
    if (c->next != NULL)
        c->next->prev = c;
    h->clients = c;
    h->n_clients++;
    keel_ws_own(ws, &hooks, c);
    if (market != NULL)
        hub_subscribe(c, market);
    return c;
}

bool hub_say(struct hub_client *c, struct keel_json *w)
{
    struct keel_ws_block *b = keel_ws_block_new(keel_json_text(w), w->len,
                                                c->is_market ? KEEL_WS_PLAIN : KEEL_WS_STAMPED, 0);

    bool pushed = keel_ws_push(c->ws, b);

    keel_ws_block_drop(b);
    return pushed;
}

bool hub_say_gap(struct hub_client *c, const char *name, int64_t missed, const char *reason, uint64_t seq)
{
    struct keel_arena *a = keel_arena_new(1024);
    struct keel_json w;

    keel_json_init(&w, a, 512);
    keel_json_obj(&w, NULL);
    keel_json_str(&w, c->is_market ? "message_type" : "type", "system");
    keel_json_str(&w, c->is_market ? "symbol" : "topic", name);
    keel_json_obj(&w, "data");
    keel_json_str(&w, "event", "gap");
    if (missed < 0)
        keel_json_null(&w, "missed");
    else
        keel_json_i64(&w, "missed", missed);
    keel_json_str(&w, "reason", reason);
    keel_json_end(&w);
    keel_json_time(&w, "timestamp", keel_wall_ns());
    keel_json_str(&w, "epoch", c->hub->epoch);
    keel_json_u64(&w, "seq", seq);
    keel_json_end(&w);
    bool pushed = hub_say(c, &w);
    keel_arena_free(a);
    return pushed;
}

/* ---- opening and closing ---- */

/* An opaque word that differs from one start to the next. */
static void write_epoch(char *out, int64_t wall_ns)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    uint64_t v = (uint64_t)wall_ns / 1000;
    char text[16];
    size_t n = 0;

    do {
        text[n++] = digits[v % 36];
        v /= 36;
    } while (v > 0 && n < sizeof text - 1);
    for (size_t i = 0; i < n; i++)
        out[i] = text[n - 1 - i];
    out[n] = '\0';
}

void hub_open(struct hub *h, int64_t wall_ns, size_t most_channels, size_t most_bytes)
{
    memset(h, 0, sizeof *h);
    write_epoch(h->epoch, wall_ns);
    h->most_channels = most_channels;
    h->most_bytes = most_bytes;
    h->channels = keel_alloc(most_channels, sizeof(struct hub_channel *));
}

void hub_close(struct hub *h)
{
    while (h->clients != NULL)
        leave(h->clients);
    for (size_t i = 0; i < h->n_channels; i++) {
        for (size_t k = 0; k < HUB_KEPT; k++)
            keel_ws_block_drop(h->channels[i]->kept[k]);
        keel_free(h->channels[i]->subs);
        keel_free(h->channels[i]);
    }
    keel_free(h->channels);
}
