/* What Redis still has of a stream when it is back, and whether somebody emptied it meanwhile; the rest is sent again. */
#include <string.h>

#include "outbox.h"
#include "keel/clock.h"
#include "keel/log.h"

enum { TAIL_PAGE = 500, TAIL_PAGES = 10 };

/* ---- what Redis still has ---- */

static void resend_all(struct stream *s)
{
    keel_out_kept_again(s, (struct keel_sid){0, 0});
    keel_out_rewind(s, 1);
    s->n_samples = 0;
    s->base_seq = s->newest.seq;
    s->newest.id = (struct keel_sid){0, 0};
    s->resent_all_ns = keel_mono_ns();
}

static void checked(struct stream *s, struct keel_sid tail)
{
    s->check = CHECKED;
    s->was_checked = true;
    s->floor = tail;
    keel_out_flush_stream(s);
}

/* First start: which durable record did the process before us send last? */
static void on_first_tail(void *ctx, const struct redisReply *reply)
{
    struct stream *s = ctx;
    struct keel_out *o = s->bus->out;
    size_t n = keel_reply_n(reply);
    struct keel_entry e = {0};
    s->check = UNCHECKED;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        return;
    for (size_t i = 0; i < n; i++) {
        struct keel_envelope env;
        if (!keel_entry_parse(keel_reply_at(reply, i), &e) || e.gone)
            continue;
        if (s->tail_pages == 0 && i == 0)
            s->floor = e.id;
        if (keel_head_parse(e.h, e.h_len, &env) != NULL || strcmp(env.h.epoch, o->epoch) != 0)
            continue;
        if (env.h.seq < s->committed_seq)
            keel_out_rewind(s, env.h.seq + 1);
        checked(s, s->floor);
        return;
    }
    s->tail_pages++;
    if (n == TAIL_PAGE && s->tail_pages < TAIL_PAGES) {
        KEEL_ARGS(a);
        char to[KEEL_SID_TEXT];
        keel_sid_print(keel_sid_before(e.id), to);
        keel_arg(&a, "XREVRANGE");
        keel_arg(&a, s->key);
        keel_arg(&a, to);
        keel_arg(&a, "-");
        keel_arg(&a, "COUNT");
        keel_arg(&a, "500");
        s->check = keel_link_send(s->via->link, &a, 0, on_first_tail, s) ? CHECKING : UNCHECKED;
        return;
    }
    keel_out_rewind(s, 1);
    checked(s, s->floor);
}

/* Later: is the newest entry older than what was answered? */
static void on_tail(void *ctx, const struct redisReply *reply)
{
    struct stream *s = ctx;
    struct keel_entry e;
    s->check = UNCHECKED;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        return;
    if (!keel_entry_parse(keel_reply_at(reply, 0), &e)) {
        keel_log(KEEL_LOG_WARN, "stream_lost", "stream=%s", s->key);
        resend_all(s);
        checked(s, (struct keel_sid){0, 0});
        return;
    }
    keel_out_kept_again(s, e.id);
    bool overflowed = s->n_acks > ACKS;
    size_t held = overflowed ? ACKS : s->n_acks, lost = 0;
    uint64_t from = 0;
    for (size_t i = 0; i < held; i++) {
        const struct ack *ack = &s->acks[(s->n_acks - 1 - i) % ACKS];
        if (keel_sid_cmp(ack->id, e.id) <= 0)
            continue;
        lost++;
        if (from == 0 || ack->seq < from)
            from = ack->seq;
    }
    if (keel_sid_cmp(e.id, s->floor) < 0 || (overflowed && lost == held))
        keel_out_rewind(s, 1);
    else if (from > 0)
        keel_out_rewind(s, from);
    if (lost > 0)
        keel_log(KEEL_LOG_WARN, "stream_lost_its_end", "stream=%s records=%zu", s->key, lost);
    checked(s, e.id);
}

void keel_out_check_if_needed(struct stream *s, int64_t now_ns)
{
    bool first = !s->was_checked && s->durable_seq > 0;
    bool untouched = !s->was_checked || (keel_sid_cmp(s->last_id, (struct keel_sid){0, 0}) == 0 && s->durable_seq == 0);
    KEEL_ARGS(a);
    if (s->check != UNCHECKED || !keel_link_is_up(s->via->link) || now_ns < s->check_at_ns)
        return;
    s->check_at_ns = now_ns + 100 * KEEL_MS_NS;
    if (!first && untouched) {
        checked(s, (struct keel_sid){0, 0});
        return;
    }
    s->tail_pages = 0;
    keel_arg(&a, "XREVRANGE");
    keel_arg(&a, s->key);
    keel_arg(&a, "+");
    keel_arg(&a, "-");
    keel_arg(&a, "COUNT");
    keel_arg(&a, first ? "500" : "1");
    if (keel_link_send(s->via->link, &a, 0, first ? on_first_tail : on_tail, s))
        s->check = CHECKING;
}

void keel_out_publish_up(void *ctx)
{
    struct publisher *p = ctx;
    struct keel_out *o = p->bus->out;
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        if (o->stream[i].via != p)
            continue;
        o->stream[i].check_at_ns = 0;
        keel_out_check_if_needed(&o->stream[i], keel_mono_ns());
    }
}

void keel_out_publish_down(void *ctx)
{
    struct publisher *p = ctx;
    struct keel_out *o = p->bus->out;
    for (size_t i = 0; i < KEEL_N_LANE; i++)
        if (o->stream[i].via == p)
            o->stream[i].check = UNCHECKED;
}

/* The guard key is there as long as nobody emptied Redis behind the connection's back. */
static void guard_set(struct keel_out *o)
{
    KEEL_ARGS(a);
    keel_arg(&a, "SET");
    keel_arg(&a, o->guard_key);
    keel_arg(&a, o->guard_value);
    if (keel_link_send(o->bus->control, &a, 0, NULL, NULL))
        o->guard_is_set = true;
}

static void on_guard(void *ctx, const struct redisReply *reply)
{
    struct keel_out *o = ctx;
    o->guard_asked = false;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        return;
    if (keel_reply_is(reply, o->guard_value)) {
        o->guard_good_ns = keel_mono_ns();
        return;
    }
    keel_log(KEEL_LOG_WARN, "redis_was_emptied", "key=%s", o->guard_key);
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        struct stream *s = &o->stream[i];
        /* A stream that is checked next, or was found empty since the last good answer, has been seen to. */
        if (s->check == CHECKED && s->resent_all_ns <= o->guard_good_ns) {
            resend_all(s);
            keel_out_flush_stream(s);
        }
    }
    guard_set(o);
}

void keel_out_guard_ask(struct keel_out *o)
{
    KEEL_ARGS(a);
    if (!o->guard_is_set) {
        guard_set(o);
        return;
    }
    if (o->guard_asked)
        return;
    keel_arg(&a, "GET");
    keel_arg(&a, o->guard_key);
    o->guard_asked = keel_link_send(o->bus->control, &a, 0, on_guard, o);
}
