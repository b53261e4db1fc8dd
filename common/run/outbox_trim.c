/* How far readers are: what holds a source back, and what bounds the trimming of our streams. */
#include <string.h>

#include "outbox.h"
#include "keel/clock.h"

#define READER_LIVE_NS (5 * KEEL_S_NS)
#define READER_FORGET_NS (60 * KEEL_S_NS)

/* ---- readers' positions ---- */

static uint64_t seq_of(const struct stream *s, struct keel_sid id)
{
    size_t held = s->n_samples < SAMPLES ? s->n_samples : SAMPLES, lo = 0, hi = held;
    if (s->newest.id.ms != 0 && keel_sid_cmp(id, s->newest.id) >= 0)
        return s->newest.seq;
    while (lo < hi) { /* first sample above id */
        size_t mid = lo + (hi - lo) / 2;
        if (keel_sid_cmp(s->samples[(s->n_samples - held + mid) % SAMPLES].id, id) <= 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo > 0 ? s->samples[(s->n_samples - held + lo - 1) % SAMPLES].seq : s->base_seq;
}

/* The slowest reader that still moves; false when there is none. */
bool keel_out_slowest(const struct stream *s, int64_t now_ns, struct keel_sid *out)
{
    bool any = false;
    for (size_t i = 0; i < s->n_readers; i++) {
        const struct reader_seen *r = &s->readers[i];
        if (now_ns - r->changed_ns > READER_LIVE_NS || (any && keel_sid_cmp(r->id, *out) >= 0))
            continue;
        *out = r->id;
        any = true;
    }
    return any;
}

static void reader_saw(struct stream *s, const char *name, size_t name_len, const char *value, size_t len, int64_t now_ns)
{
    size_t i = 0;
    const char *bar = memchr(value, '|', len);
    struct keel_sid id;
    if (name_len >= sizeof s->readers[0].name || len >= sizeof s->readers[0].value || bar == NULL ||
        !keel_sid_parse(value, (size_t)(bar - value), &id))
        return;
    while (i < s->n_readers && (strlen(s->readers[i].name) != name_len || memcmp(s->readers[i].name, name, name_len) != 0))
        i++;
    if (i == MAX_READERS)
        return;
    struct reader_seen *r = &s->readers[i];
    if (i == s->n_readers) {
        *r = (struct reader_seen){0};
        memcpy(r->name, name, name_len);
        s->n_readers++;
    }
    r->there = true;
    if (strlen(r->value) == len && memcmp(r->value, value, len) == 0)
        return;
    memcpy(r->value, value, len);
    r->value[len] = '\0';
    r->id = id;
    r->changed_ns = now_ns;
}

static void forget_reader(struct stream *s, const char *name)
{
    KEEL_ARGS(a);
    keel_arg(&a, "HDEL");
    keel_arg(&a, s->readers_key);
    keel_arg(&a, name);
    keel_link_send(s->bus->control, &a, 0, NULL, NULL);
}

static void on_readers(void *ctx, const struct redisReply *reply)
{
    struct stream *s = ctx;
    int64_t now_ns = keel_mono_ns();
    size_t left = 0;
    s->asks_readers = false;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        return;
    for (size_t i = 0; i < s->n_readers; i++)
        s->readers[i].there = false;
    for (size_t i = 0; i + 1 < keel_reply_n(reply); i += 2) {
        const char *name, *value;
        size_t name_len, len;
        if (keel_reply_text(keel_reply_at(reply, i), &name, &name_len) &&
            keel_reply_text(keel_reply_at(reply, i + 1), &value, &len))
            reader_saw(s, name, name_len, value, len, now_ns);
    }
    for (size_t i = 0; i < s->n_readers; i++) {
        if (s->readers[i].there && now_ns - s->readers[i].changed_ns > READER_FORGET_NS)
            forget_reader(s, s->readers[i].name);
        else if (s->readers[i].there)
            s->readers[left++] = s->readers[i];
    }
    s->n_readers = left;
}

void keel_out_ask_readers(struct stream *s)
{
    KEEL_ARGS(a);
    if (s->asks_readers)
        return;
    keel_arg(&a, "HGETALL");
    keel_arg(&a, s->readers_key);
    s->asks_readers = keel_link_send(s->bus->control, &a, 0, on_readers, s);
}

bool keel_bus_room(struct keel_rt *rt, size_t n)
{
    struct keel_bus *b = rt->bus;
    if (b == NULL)
        return true;
    struct keel_out *o = b->out;
    int64_t now_ns = keel_mono_ns();
    bool was_watched = keel_out_is_watched(b, now_ns);
    o->room_asked_ns = now_ns;
    if (!was_watched)
        keel_bus_soon(b);
    if (!keel_link_is_up(b->control) || !keel_out_has_room(o, KEEL_LANE_NORMAL, n))
        return false;
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        const struct stream *s = &o->stream[i];
        struct keel_sid id;
        if (s->check != CHECKED)
            return false;
        if (keel_out_slowest(s, now_ns, &id) && s->seq - seq_of(s, id) > (uint64_t)rt->core->reader_window)
            return false;
    }
    return true;
}

bool keel_bus_caught_up(struct keel_rt *rt)
{
    struct keel_bus *b = rt->bus;
    int64_t now_ns = keel_mono_ns();
    bool done = true;
    if (b == NULL || !b->has_redis)
        return true;
    b->out->room_asked_ns = now_ns;
    keel_out_flush(b);
    if (keel_out_unsent(b) > 0)
        return false;
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        struct stream *s = &b->out->stream[i];
        struct keel_sid id;
        if (s->newest.id.ms == 0 || !keel_out_slowest(s, now_ns, &id) || keel_sid_cmp(id, s->newest.id) >= 0)
            continue;
        keel_out_ask_readers(s);
        done = false;
    }
    return done;
}

bool keel_out_is_watched(const struct keel_bus *b, int64_t now_ns)
{
    return b->out->room_asked_ns > 0 && now_ns - b->out->room_asked_ns < KEEL_S_NS;
}

/* ---- trimming ---- */

static const struct { int64_t keep_ms; uint64_t count; } retention[KEEL_N_LANE] = {
    [KEEL_LANE_CRITICAL] = {86400 * 1000, 100000},
    [KEEL_LANE_PRIORITY] = {600 * 1000, 100000},
    [KEEL_LANE_NORMAL] = {60 * 1000, 200000},
};

struct trim { struct stream *stream; struct keel_sid min; size_t open; bool failed; };

static void lower(struct keel_sid *min, struct keel_sid id)
{
    if (keel_sid_cmp(id, *min) < 0)
        *min = id;
}

static struct keel_sid id_at(const struct stream *s, uint64_t behind)
{
    size_t held = s->n_samples < SAMPLES ? s->n_samples : SAMPLES;
    for (size_t i = 0; i < held; i++) { /* newest first; the step is a page of samples, precision is not needed */
        const struct ack *a = &s->samples[(s->n_samples - 1 - i) % SAMPLES];
        if (s->newest.seq - a->seq >= behind)
            return a->id;
    }
    return (struct keel_sid){0, 0};
}

/* By age and by count, never what a live reader has yet to read, never the newest entry. */
static struct keel_sid trim_bound(const struct stream *s, int64_t now_ns)
{
    int64_t wall_ms = keel_wall_ns() / KEEL_MS_NS;
    struct keel_sid id = {(uint64_t)(wall_ms - retention[s->lane].keep_ms), 0}, slow;
    struct keel_sid by_count = id_at(s, retention[s->lane].count);
    if (keel_sid_cmp(by_count, id) > 0)
        id = by_count;
    if (keel_out_slowest(s, now_ns, &slow))
        lower(&id, slow);
    lower(&id, s->last_id);
    return id;
}

static void trim_finish(struct trim *t)
{
    struct stream *s = t->stream;
    KEEL_ARGS(a);
    char min[KEEL_SID_TEXT];
    if (--t->open > 0)
        return;
    /* A group of an engine that is never started again must not hold the stream for ever. */
    struct keel_sid hard = id_at(s, 4 * retention[s->lane].count);
    if (keel_sid_cmp(hard, t->min) > 0)
        t->min = hard;
    if (!t->failed && t->min.ms > 0) {
        keel_sid_print(t->min, min);
        keel_arg(&a, "XTRIM");
        keel_arg(&a, s->key);
        keel_arg(&a, "MINID");
        keel_arg(&a, "~");
        keel_arg(&a, min);
        keel_link_send(s->bus->control, &a, 0, NULL, NULL);
    }
    s->is_trimming = false;
    keel_free(t);
}

static void on_trim_pending(void *ctx, const struct redisReply *reply)
{
    struct trim *t = ctx;
    struct keel_sid id;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        t->failed = true;
    else if (keel_reply_sid(keel_reply_at(reply, 1), &id))
        lower(&t->min, id);
    trim_finish(t);
}

static void on_trim_groups(void *ctx, const struct redisReply *reply)
{
    struct trim *t = ctx;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        t->failed = true;
    for (size_t i = 0; i < keel_reply_n(reply); i++) {
        const struct redisReply *group = keel_reply_at(reply, i);
        KEEL_ARGS(a);
        struct keel_sid id;
        const char *name;
        size_t n;
        if (!keel_reply_text(keel_reply_member(group, "name"), &name, &n) ||
            !keel_reply_sid(keel_reply_member(group, "last-delivered-id"), &id))
            continue;
        lower(&t->min, id);
        keel_arg(&a, "XPENDING");
        keel_arg(&a, t->stream->key);
        keel_argn(&a, name, n);
        if (keel_link_send(t->stream->bus->control, &a, 0, on_trim_pending, t))
            t->open++;
        else
            t->failed = true;
    }
    trim_finish(t);
}

void keel_out_trim(struct stream *s, int64_t now_ns)
{
    bool by_groups = s->lane == KEEL_LANE_CRITICAL || !s->bus->is_hybrid;
    if (s->is_trimming || s->last_id.ms == 0)
        return;
    struct trim *t = keel_alloc(1, sizeof *t);
    *t = (struct trim){.stream = s, .min = trim_bound(s, now_ns), .open = 1};
    s->is_trimming = true;
    s->trim_at_ns = now_ns + 5 * KEEL_S_NS;
    s->since_trim = 0;
    if (by_groups) {
        KEEL_ARGS(a);
        keel_arg(&a, "XINFO");
        keel_arg(&a, "GROUPS");
        keel_arg(&a, s->key);
        if (keel_link_send(s->bus->control, &a, 0, on_trim_groups, t))
            return;
        t->failed = true;
    }
    trim_finish(t);
}
