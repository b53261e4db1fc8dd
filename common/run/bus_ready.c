/*
 * What comes before a stream is read: its group, the place it stands at, and the pending entries of our own, whose deliveries
 * count the deaths they caused. Later: lag and pending for people, and the entries of consumers that are gone.
 */
#include <stdio.h>
#include <string.h>

#include "bus_in.h"
#include "keel/clock.h"
#include "keel/log.h"

enum { PENDING_PAGE = 100 };

#define FETCH_AFTER_NS (500 * KEEL_MS_NS)

/* ---- getting a stream ready ---- */

static void next_step(struct stream_in *s, enum step step)
{
    s->step = s->again ? IN_NEW : step;
    s->is_stepping = s->again = false;
    s->step_at_ns = 0;
    keel_bus_soon(s->reader->bus);
}

/* true: the answer is of no use, the step is tried again. */
static bool step_failed(struct stream_in *s, const struct redisReply *reply)
{
    const char *why = keel_reply_error(reply);
    if (reply != NULL && why == NULL)
        return false;
    s->is_stepping = false;
    s->step_at_ns = keel_mono_ns() + 200 * KEEL_MS_NS;
    if (why != NULL)
        keel_log_often(KEEL_LOG_WARN, "stream_not_ready", "stream=%s detail=%s", s->key, why);
    if (why != NULL && strncmp(why, "NOGROUP", 7) == 0)
        s->step = IN_NEW;
    return true;
}

static void ask_stream(struct stream_in *s, keel_reply_done_fn *fn, bool *asked)
{
    KEEL_ARGS(a);
    keel_arg(&a, "XINFO");
    keel_arg(&a, "STREAM");
    keel_arg(&a, s->key);
    *asked = keel_link_send(s->reader->bus->control, &a, 0, fn, s);
}

static bool is_absent(const struct redisReply *reply)
{
    const char *why = keel_reply_error(reply);
    return why != NULL && strncmp(why, "ERR no such key", 15) == 0;
}

static int64_t member_int(const struct redisReply *reply, const char *name)
{
    int64_t n;
    return keel_reply_int(keel_reply_member(reply, name), &n) ? n : 0;
}

static void on_tail(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    struct keel_entry e;
    if (!is_absent(reply) && step_failed(s, reply))
        return;
    int64_t added = member_int(reply, "entries-added");
    bool has_tail = keel_entry_parse(keel_reply_member(reply, "last-entry"), &e);
    if (!s->was_recovered) {
        s->pos = has_tail ? e.id : (struct keel_sid){0, 0};
        s->base = added;
    } else if (!has_tail || keel_sid_cmp(e.id, s->pos) < 0) {
        s->pos = (struct keel_sid){0, 0}; /* Redis lost what was read; what is known is passed over */
        s->base = added - member_int(reply, "length");
        s->entries = 0;
    }
    s->was_recovered = true;
    next_step(s, IN_READY);
}

static void on_group(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    const char *why = keel_reply_error(reply);
    if ((why == NULL || strncmp(why, "BUSYGROUP", 9) != 0) && step_failed(s, reply))
        return;
    next_step(s, IN_PLACE);
}

static void ask_group(struct stream_in *s)
{
    KEEL_ARGS(a);
    keel_arg(&a, "XGROUP");
    keel_arg(&a, "CREATE");
    keel_arg(&a, s->key);
    keel_arg(&a, s->reader->bus->group);
    keel_arg(&a, "0");
    keel_arg(&a, "MKSTREAM");
    s->is_stepping = keel_link_send(s->reader->bus->control, &a, 0, on_group, s);
}

/* Where the group stands: pos for what follows; lag and pending for people. */
static void group_read(struct stream_in *s, const struct redisReply *reply, bool sets_pos)
{
    for (size_t i = 0; i < keel_reply_n(reply); i++) {
        const struct redisReply *g = keel_reply_at(reply, i);
        struct keel_sid id;
        if (!keel_reply_is(keel_reply_member(g, "name"), s->reader->bus->group))
            continue;
        if (sets_pos && keel_reply_sid(keel_reply_member(g, "last-delivered-id"), &id))
            s->pos = id;
        if (!keel_reply_int(keel_reply_member(g, "lag"), &s->lag))
            s->lag = 0;
        if (!keel_reply_int(keel_reply_member(g, "pending"), &s->pending))
            s->pending = 0;
    }
}

static void on_place(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    if (step_failed(s, reply))
        return;
    group_read(s, reply, true);
    s->page = (struct keel_sid){0, 0};
    next_step(s, IN_PENDING);
}

static bool ask_place(struct stream_in *s, keel_reply_done_fn *fn)
{
    KEEL_ARGS(a);
    keel_arg(&a, "XINFO");
    keel_arg(&a, "GROUPS");
    keel_arg(&a, s->key);
    return keel_link_send(s->reader->bus->control, &a, 0, fn, s);
}

struct one { struct stream_in *s; struct keel_sid id; uint64_t deliveries; };

static void page_over(struct stream_in *s)
{
    if (--s->open > 0)
        return;
    if (s->page_n == PENDING_PAGE && !s->again) {
        next_step(s, IN_PENDING);
        return;
    }
    s->was_recovered = true;
    next_step(s, IN_READY);
    /* What the stream still has comes from the stream. */
    if (s->fetch_at_ns < keel_mono_ns() + FETCH_AFTER_NS)
        s->fetch_at_ns = keel_mono_ns() + FETCH_AFTER_NS;
}

static void one_entry(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    struct one *one = ctx;
    (void)key;
    (void)key_len;
    one->id.ms = 0; /* found */
    keel_in_accept(one->s, e, FROM_PENDING, one->deliveries);
}

static void on_one(void *ctx, const struct redisReply *reply)
{
    struct one *one = ctx;
    struct stream_in *s = one->s;
    if (reply != NULL && keel_reply_error(reply) == NULL && !s->reader->bus->in->is_stopped) {
        struct keel_sid id = one->id;
        keel_range_parse(reply, one_entry, one);
        if (one->id.ms != 0) {
            keel_in_stats(s)->dropped++; /* trimmed before it was handled */
            keel_in_ack(s, id);
        }
    } else {
        s->again = true;
    }
    keel_free(one);
    page_over(s);
}

/* A pending entry of our own: its text, and at the first start its count of deaths raised by one. */
static void recover_one(struct stream_in *s, struct keel_sid id, uint64_t deliveries)
{
    struct keel_bus *b = s->reader->bus;
    KEEL_ARGS(range);
    KEEL_ARGS(claim);
    char text[KEEL_SID_TEXT], n[24];
    struct one *one = keel_alloc(1, sizeof *one);
    *one = (struct one){s, id, s->was_recovered ? 0 : deliveries};
    keel_sid_print(id, text);
    if (!s->was_recovered && deliveries < SUSPECT_AFTER) {
        snprintf(n, sizeof n, "%llu", (unsigned long long)deliveries + 1);
        keel_arg(&claim, "XCLAIM");
        keel_arg(&claim, s->key);
        keel_arg(&claim, b->group);
        keel_arg(&claim, b->in->consumer);
        keel_arg(&claim, "0");
        keel_arg(&claim, text);
        keel_arg(&claim, "RETRYCOUNT");
        keel_arg(&claim, n);
        keel_arg(&claim, "JUSTID");
        keel_link_send(b->control, &claim, 0, NULL, NULL);
    }
    keel_arg(&range, "XRANGE");
    keel_arg(&range, s->key);
    keel_arg(&range, text);
    keel_arg(&range, text);
    s->open++;
    if (!keel_link_send(b->control, &range, 0, on_one, one)) {
        s->open--;
        s->again = true;
        keel_free(one);
    }
}

static void on_pending(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    if (step_failed(s, reply))
        return;
    s->page_n = keel_reply_n(reply);
    s->open = 1;
    for (size_t i = 0; i < s->page_n; i++) {
        const struct redisReply *row = keel_reply_at(reply, i);
        struct keel_sid id;
        int64_t deliveries;
        if (!keel_reply_sid(keel_reply_at(row, 0), &id) || !keel_reply_int(keel_reply_at(row, 3), &deliveries))
            continue;
        s->page = id;
        if (keel_in_find_id(s, id) == NULL)
            recover_one(s, id, deliveries > 0 ? (uint64_t)deliveries : 0);
    }
    page_over(s);
}

static void ask_pending(struct stream_in *s)
{
    KEEL_ARGS(a);
    char from[KEEL_SID_TEXT + 1] = "-", count[24];
    if (s->page.ms != 0) {
        from[0] = '(';
        keel_sid_print(s->page, from + 1);
    }
    snprintf(count, sizeof count, "%d", PENDING_PAGE);
    keel_in_acks_flush(s); /* what is acknowledged already shall not come again */
    keel_arg(&a, "XPENDING");
    keel_arg(&a, s->key);
    keel_arg(&a, s->reader->bus->group);
    keel_arg(&a, from);
    keel_arg(&a, "+");
    keel_arg(&a, count);
    keel_arg(&a, s->reader->bus->in->consumer);
    s->is_stepping = keel_link_send(s->reader->bus->control, &a, 0, on_pending, s);
}

void keel_in_step(struct stream_in *s, int64_t now_ns)
{
    if (s->step == IN_READY || s->is_stepping || now_ns < s->step_at_ns || !keel_link_is_up(s->reader->bus->control))
        return;
    if (!s->reader->is_share)
        ask_stream(s, on_tail, &s->is_stepping);
    else if (s->step == IN_NEW)
        ask_group(s);
    else if (s->step == IN_PLACE)
        s->is_stepping = ask_place(s, on_place);
    else
        ask_pending(s);
}

/* Back to the start, at the latest when the answer under way has come. */
void keel_in_reset(struct stream_in *s)
{
    if (s->is_stepping)
        s->again = true;
    else
        s->step = IN_NEW;
}

/* ---- entries of dead consumers ---- */

static void on_taken_over(void *ctx, const struct redisReply *reply);

static void taken_over(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    struct stream_in *s = ctx;
    (void)key;
    (void)key_len;
    if (keel_in_find_id(s, e->id) == NULL)
        keel_in_accept(s, e, FROM_PENDING, 0);
}

static void on_taken_over(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    if (!s->reader->bus->in->is_stopped)
        keel_range_parse(reply, taken_over, s);
}

/* Longer than any deadline, in text for Redis: whose entries are older is dead, or will not act on them any more. */
static void idle_text(const struct keel_bus *b, char buf[24])
{
    snprintf(buf, 24, "%lld", (long long)b->rt->core->claim_idle_ms);
}

static void on_others_pending(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    struct keel_bus *b = s->reader->bus;
    size_t n = keel_reply_n(reply);
    KEEL_ARGS(a);
    char idle[24];
    idle_text(b, idle);
    keel_arg(&a, "XCLAIM");
    keel_arg(&a, s->key);
    keel_arg(&a, b->group);
    keel_arg(&a, b->in->consumer);
    keel_arg(&a, idle);
    for (size_t i = 0; i < n && i < PENDING_PAGE; i++) {
        const char *id;
        size_t len;
        if (keel_reply_text(keel_reply_at(keel_reply_at(reply, i), 0), &id, &len))
            keel_argn(&a, id, len);
    }
    if (a.n > 5 && !b->in->is_stopped)
        keel_link_send(b->control, &a, 0, on_taken_over, s);
}

static void on_consumers(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    struct keel_bus *b = s->reader->bus;
    char idle[24];
    idle_text(b, idle);
    for (size_t i = 0; i < keel_reply_n(reply) && !b->in->is_stopped; i++) {
        const struct redisReply *row = keel_reply_at(reply, i), *name = keel_reply_member(row, "name");
        KEEL_ARGS(a);
        const char *text;
        size_t len;
        int64_t idle_ms, pending;
        if (!keel_reply_text(name, &text, &len) || keel_reply_is(name, b->in->consumer) ||
            !keel_reply_int(keel_reply_member(row, "idle"), &idle_ms) ||
            !keel_reply_int(keel_reply_member(row, "pending"), &pending) || pending == 0 ||
            idle_ms < b->rt->core->claim_idle_ms)
            continue;
        keel_arg(&a, "XPENDING");
        keel_arg(&a, s->key);
        keel_arg(&a, b->group);
        keel_arg(&a, "IDLE");
        keel_arg(&a, idle);
        keel_arg(&a, "-");
        keel_arg(&a, "+");
        keel_arg(&a, "100");
        keel_argn(&a, text, len);
        keel_link_send(b->control, &a, 0, on_others_pending, s);
    }
}

static void ask_consumers(struct stream_in *s)
{
    KEEL_ARGS(a);
    keel_arg(&a, "XINFO");
    keel_arg(&a, "CONSUMERS");
    keel_arg(&a, s->key);
    keel_arg(&a, s->reader->bus->group);
    keel_link_send(s->reader->bus->control, &a, 0, on_consumers, s);
}

static void on_lag(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    s->is_asking = false;
    if (reply != NULL)
        group_read(s, reply, false);
}

static void on_length(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    s->is_asking = false;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        return;
    int64_t added = member_int(reply, "entries-added");
    struct keel_sid last = {0, 0};
    keel_reply_sid(keel_reply_member(reply, "last-generated-id"), &last);
    /* All is read, whatever was trimmed before it was; or it is another stream of that name. */
    if (keel_sid_cmp(s->pos, last) == 0 || added < s->added)
        s->base = added - (int64_t)s->entries;
    s->added = added;
    s->lag = added - s->base - (int64_t)s->entries;
    if (s->lag < 0)
        s->lag = 0; /* read while the answer was under way, or a Redis that does not count */
}

void keel_in_ask_lag(struct stream_in *s, bool claims)
{
    if (!s->reader->is_share) {
        ask_stream(s, on_length, &s->is_asking);
        return;
    }
    s->is_asking = ask_place(s, on_lag);
    if (claims)
        ask_consumers(s);
}
