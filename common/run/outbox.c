/*
 * What this engine publishes and is not yet safe in Redis.
 *
 * Each of the three streams has a queue of records that wait or were sent and not answered. An answered record of a critical
 * or priority topic is kept another 60 s; a durable one lies in the table keel_outbox for 24 h, written by the transaction of
 * its cause. When Redis comes back, the newest entry of a stream tells what it still has; the rest is sent again with its
 * identity, and readers pass over what they know.
 *
 * Memory records are numbered per (process, stream), durable ones per (store, stream): their epoch is the store's birth, so
 * that their numbers go on over restarts without holes. Durable rows that do not fit into memory stay in the file, and
 * `db_from` says from which number on the queue has to be filled from there.
 */
#include <stdio.h>
#include <string.h>

#include "call_priv.h"
#include "outbox.h"
#include "keel/clock.h"
#include "keel/log.h"

enum {
    FLUSH_RECORDS = 128,
    FLUSH_BYTES = 32 << 10,
    MAX_IN_FLIGHT = 2048,
    SAMPLE_EVERY = 64,
    TRIM_EVERY = 8192, /* records */
    HOLD_MS = 3,
};

#define KEEP_NS (60 * KEEL_S_NS)
#define PLAIN_FLUSH_MS 100
#define PAUSE_MIN_NS (100 * KEEL_MS_NS)
#define PAUSE_MAX_NS (2 * KEEL_S_NS)

/* ---- small things ---- */

struct stream *keel_out_stream(struct keel_out *o, const char *topic)
{
    return &o->stream[o->bus->is_hybrid ? keel_bus_lane(o->bus, topic) : KEEL_LANE_NORMAL];
}

struct stream *keel_out_named(struct keel_out *o, const char *name)
{
    for (size_t i = 0; i < KEEL_N_LANE; i++)
        if (strcmp(o->stream[i].name, name) == 0)
            return &o->stream[i];
    return NULL;
}

static void fifo_append(struct fifo *f, struct rec *r)
{
    r->next = NULL;
    r->prev = f->last;
    if (f->last != NULL)
        f->last->next = r;
    else
        f->first = r;
    f->last = r;
    f->n++;
}

static struct rec *fifo_pop(struct fifo *f)
{
    struct rec *r = f->first;
    f->first = r->next;
    if (f->first == NULL)
        f->last = NULL;
    else
        f->first->prev = NULL;
    f->n--;
    return r;
}

static void fifo_free(struct fifo *f)
{
    while (f->first != NULL)
        keel_free(fifo_pop(f));
}

void keel_out_count(struct keel_bus *b, uint64_t *by_topic, const struct keel_topic *t)
{
    if (t != NULL)
        by_topic[t - b->topics]++;
}

struct rec *keel_out_rec(struct stream *s, const struct keel_topic *topic, uint64_t seq, bool is_durable, const char *h,
                           size_t h_len, const char *p, size_t p_len)
{
    struct rec *r = keel_alloc(1, sizeof *r + h_len + p_len);
    r->stream = s;
    r->topic = topic;
    r->seq = seq;
    r->is_durable = is_durable;
    r->is_kept = !is_durable && topic != NULL && keel_bus_lane(s->bus, topic->name) != KEEL_LANE_NORMAL;
    r->h_len = h_len;
    r->p_len = p_len;
    memcpy(r->text, h, h_len);
    memcpy(r->text + h_len, p, p_len);
    return r;
}

static size_t rec_bytes(const struct rec *r)
{
    return r->h_len + r->p_len;
}

/* ---- the queue ---- */

static void waits_again(struct stream *s, struct rec *r)
{
    r->state = WAITING;
    s->waiting++;
    s->waiting_bytes += rec_bytes(r);
    s->cursor = s->queue.first;
}

void keel_out_queue(struct stream *s, struct rec *r)
{
    fifo_append(&s->queue, r);
    s->bus->out->queued++;
    s->waiting++;
    s->waiting_bytes += rec_bytes(r);
    if (s->cursor == NULL)
        s->cursor = r;
}

/* What was answered leaves at the front; the rest waits for its turn. */
static void queue_shrink(struct stream *s, int64_t now_ns)
{
    struct keel_out *o = s->bus->out;
    size_t keep_max = (size_t)o->bus->rt->core->max_buffer_size;
    while (s->queue.first != NULL && s->queue.first->state == DONE) {
        if (s->cursor == s->queue.first)
            s->cursor = s->cursor->next;
        struct rec *r = fifo_pop(&s->queue);
        o->queued--;
        if (!r->is_kept) {
            keel_free(r);
            continue;
        }
        if (r->acked_ns == 0) /* the first time: were it renewed, a Redis that is emptied again and again would never let it go */
            r->acked_ns = now_ns;
        fifo_append(&s->kept, r);
        if (s->kept.n > keep_max)
            keel_free(fifo_pop(&s->kept));
    }
}

static void kept_expire(struct stream *s, int64_t now_ns)
{
    while (s->kept.first != NULL && now_ns - s->kept.first->acked_ns > KEEP_NS)
        keel_free(fifo_pop(&s->kept));
}

/* Kept records that Redis lost (all with an id above after) go back to the front of the queue. */
void keel_out_kept_again(struct stream *s, struct keel_sid after)
{
    struct fifo stay = {0}, again = {0};
    while (s->kept.first != NULL) {
        struct rec *r = fifo_pop(&s->kept);
        fifo_append(keel_sid_cmp(r->id, after) > 0 ? &again : &stay, r);
    }
    s->kept = stay;
    if (again.first == NULL)
        return;
    s->bus->out->queued += again.n;
    for (struct rec *r = again.first; r != NULL; r = r->next) {
        r->state = WAITING;
        s->waiting++;
        s->waiting_bytes += rec_bytes(r);
    }
    again.last->next = s->queue.first;
    if (s->queue.last == NULL)
        s->queue.last = again.last;
    else
        s->queue.first->prev = again.last;
    s->queue.first = again.first;
    s->queue.n += again.n;
    s->cursor = s->queue.first;
    s->is_urgent = true;
}

/* Durable records are read from the file again, from number `from` on; those in the queue leave it. */
void keel_out_rewind(struct stream *s, uint64_t from)
{
    struct fifo old = s->queue;
    if (s->durable_seq == 0)
        return;
    s->queue = (struct fifo){0};
    while (old.first != NULL) {
        struct rec *r = fifo_pop(&old);
        if (!r->is_durable || r->state == DONE) {
            fifo_append(&s->queue, r);
            continue;
        }
        s->bus->out->queued--;
        if (r->state == WAITING) {
            s->waiting--;
            s->waiting_bytes -= rec_bytes(r);
            keel_free(r);
        } else {
            r->is_orphan = true;
        }
    }
    s->cursor = s->queue.first;
    s->db_from = from > 0 ? from : 1;
    s->load_at_ns = 0;
    s->n_acks = 0;
}

/* ---- records of live feeds ---- */

static struct rec **index_at(struct stream *s, const struct keel_topic *topic, const char *key, uint32_t *hash)
{
    *hash = 2166136261u ^ (uint32_t)(topic - s->bus->topics);
    for (const char *c = key; *c != '\0'; c++)
        *hash = (*hash ^ (unsigned char)*c) * 16777619u;
    struct rec **at = &s->live[*hash % LIVE_BUCKETS];
    while (*at != NULL && ((*at)->topic != topic || strcmp((*at)->key, key) != 0))
        at = &(*at)->same;
    return at;
}

static void index_leave(struct stream *s, struct rec *r)
{
    struct rec **at = &s->live[r->hash % LIVE_BUCKETS];
    if (!r->is_indexed)
        return;
    while (*at != r)
        at = &(*at)->same;
    *at = r->same;
    r->is_indexed = false;
}

static bool is_conflated(const struct keel_bus *b, const struct keel_outgoing *o)
{
    const struct keel_core_options *core = b->rt->core;
    for (size_t i = 0; o->is_live && i < core->n_conflate_topics; i++)
        if (strcmp(core->conflate_topics[i], o->topic->name) == 0)
            return true;
    return false;
}

/* The new record takes place and number of the old one, which has never left the process. */
static void replace(struct stream *s, struct rec *old, struct rec *r)
{
    index_leave(s, old);
    r->next = old->next;
    r->prev = old->prev;
    *(old->prev != NULL ? &old->prev->next : &s->queue.first) = r;
    *(old->next != NULL ? &old->next->prev : &s->queue.last) = r;
    if (s->cursor == old)
        s->cursor = r;
    s->waiting_bytes += rec_bytes(r);
    s->waiting_bytes -= rec_bytes(old);
    s->bus->lane[s->lane].conflated++;
    keel_out_count(s->bus, s->bus->conflated, r->topic);
    keel_free(old);
}

bool keel_bus_drop_oldest(struct keel_rt *rt)
{
    struct keel_bus *b = rt->bus;
    struct stream *s = &b->out->stream[KEEL_LANE_NORMAL];
    struct rec *r = s->cursor;
    while (r != NULL && (r->state != WAITING || !r->is_live || r->was_sent))
        r = r->next;
    if (r == NULL)
        return false;
    index_leave(s, r);
    if (s->cursor == r)
        s->cursor = r->next;
    *(r->prev != NULL ? &r->prev->next : &s->queue.first) = r->next;
    *(r->next != NULL ? &r->next->prev : &s->queue.last) = r->prev;
    s->queue.n--;
    b->out->queued--;
    s->waiting--;
    s->waiting_bytes -= rec_bytes(r);
    b->lane[s->lane].dropped++;
    keel_out_count(b, b->dropped, r->topic);
    keel_log_often(KEEL_LOG_WARN, "record_dropped", "topic=%s key=%s seq=%llu", r->topic->name, r->key,
                   (unsigned long long)r->seq);
    keel_free(r);
    return true;
}

/* ---- sending ---- */

static void sample(struct stream *s, uint64_t seq, struct keel_sid id)
{
    if (seq <= s->newest.seq)
        return; /* a resend */
    s->newest = (struct ack){seq, id};
    if (s->n_samples == 0 || seq - s->samples[(s->n_samples - 1) % SAMPLES].seq >= SAMPLE_EVERY)
        s->samples[s->n_samples++ % SAMPLES] = s->newest;
}

static void acked(struct stream *s, struct rec *r, struct keel_sid id)
{
    struct keel_bus *b = s->bus;
    r->state = DONE;
    r->id = s->last_id = id;
    s->pause_ns = 0;
    s->since_trim++;
    b->acked++;
    b->lane[s->lane].sent++;
    if (r->is_durable)
        s->acks[s->n_acks++ % ACKS] = (struct ack){r->seq, id};
    else
        sample(s, r->seq, id);
}

static void on_added(void *ctx, const struct redisReply *reply)
{
    struct rec *r = ctx;
    struct stream *s = r->stream;
    int64_t now_ns = keel_mono_ns();
    struct keel_sid id;
    bool good = keel_reply_sid(reply, &id);
    s->in_flight--;
    if (r->has_permit) {
        r->has_permit = s->via->permit_is_out = false;
        keel_dep_settle(s->bus->rt, r->permit, good ? KEEL_OUT_OK : KEEL_OUT_FAILURE);
    }
    if (r->is_orphan) {
        keel_free(r);
        return;
    }
    if (good) {
        acked(s, r, id);
    } else {
        waits_again(s, r);
        if (reply != NULL) {
            const char *why = keel_reply_error(reply);
            s->pause_ns = s->pause_ns == 0 ? PAUSE_MIN_NS : s->pause_ns * 2;
            if (s->pause_ns > PAUSE_MAX_NS)
                s->pause_ns = PAUSE_MAX_NS;
            s->paused_until_ns = now_ns + s->pause_ns;
            keel_log_often(KEEL_LOG_WARN, "publish_refused", "stream=%s detail=%s", s->key, why != NULL ? why : "odd reply");
        }
    }
    queue_shrink(s, now_ns);
    if (s->is_urgent && s->in_flight < MAX_IN_FLIGHT / 2)
        keel_out_flush_stream(s);
    if (s->db_from > 0)
        keel_out_load_if_needed(s, now_ns);
}

static bool send_one(struct stream *s, struct rec *r)
{
    struct keel_rt *rt = s->bus->rt;
    KEEL_ARGS(a);
    struct keel_refusal why;
    bool asks = !s->via->permit_is_out;
    if (asks && keel_dep_admit(rt, s->bus->out->dep, &r->permit, &why) != KEEL_OK)
        return false;
    keel_arg(&a, "XADD");
    keel_arg(&a, s->key);
    keel_arg(&a, "*");
    keel_arg(&a, "h");
    keel_argn(&a, r->text, r->h_len);
    keel_arg(&a, "p");
    keel_argn(&a, r->text + r->h_len, r->p_len);
    if (!keel_link_send(s->via->link, &a, 0, on_added, r)) {
        if (asks)
            keel_dep_settle(rt, r->permit, KEEL_OUT_CANCELLED);
        return false;
    }
    if (asks)
        r->has_permit = s->via->permit_is_out = true;
    if (r->was_sent)
        s->bus->lane[s->lane].resent++;
    r->was_sent = true;
    r->state = SENT;
    index_leave(s, r);
    s->in_flight++;
    s->waiting--;
    s->waiting_bytes -= rec_bytes(r);
    return true;
}

void keel_out_flush_stream(struct stream *s)
{
    keel_lease_hold(s->bus->rt, keel_mono_ns());
    s->is_urgent = s->waiting > 0;
    if (s->check != CHECKED || s->cursor == NULL || keel_mono_ns() < s->paused_until_ns)
        return;
    keel_link_cork(s->via->link);
    while (s->cursor != NULL && s->in_flight < MAX_IN_FLIGHT && (s->cursor->state != WAITING || send_one(s, s->cursor)))
        s->cursor = s->cursor->next;
    keel_link_uncork(s->via->link);
    s->is_urgent = s->cursor != NULL;
}

static void on_flush_timer(uv_timer_t *timer)
{
    struct keel_out *o = timer->data;
    o->flush_is_set = false;
    keel_out_flush(o->bus);
}

void keel_out_flush(struct keel_bus *b)
{
    for (size_t i = 0; i < KEEL_N_LANE; i++)
        if (b->out->stream[i].waiting > 0)
            keel_out_flush_stream(&b->out->stream[i]);
}

static void on_hold_timer(uv_timer_t *timer)
{
    struct keel_out *o = timer->data;
    o->is_held = o->is_due = false;
    keel_out_flush_stream(&o->stream[KEEL_LANE_CRITICAL]);
}

void keel_bus_answered(struct keel_rt *rt)
{
    struct keel_out *o = rt->bus != NULL ? rt->bus->out : NULL;
    if (o != NULL)
        o->is_due = o->is_held;
}

void keel_bus_let_go(struct keel_rt *rt)
{
    struct keel_out *o = rt->bus != NULL ? rt->bus->out : NULL;
    if (o == NULL || !o->is_due)
        return;
    uv_timer_stop(&o->hold_timer);
    on_hold_timer(&o->hold_timer);
}

static void hold(struct keel_out *o)
{
    if (!o->is_held)
        uv_timer_start(&o->hold_timer, on_hold_timer, HOLD_MS, 0);
    o->is_held = true;
}

/* At once, or with the answer of a critical call that waits for it, or at the latest when the buffer's time is over. */
void keel_out_flush_when_due(struct stream *s)
{
    struct keel_bus *b = s->bus;
    struct keel_out *o = b->out;
    bool is_critical = b->is_hybrid && s->lane == KEEL_LANE_CRITICAL, may_wait = keel_calls_holding(b->rt);
    bool at_once = (is_critical && !may_wait) || b->draining || s->is_urgent || s->waiting >= FLUSH_RECORDS ||
                   s->waiting_bytes >= FLUSH_BYTES;
    if (at_once) {
        keel_out_flush_stream(s);
    } else if (is_critical) {
        hold(o);
    } else if (!o->flush_is_set) {
        uint64_t ms = b->is_hybrid ? (uint64_t)b->rt->core->buffer_interval_ms : PLAIN_FLUSH_MS;
        o->flush_is_set = true;
        uv_timer_start(&o->flush_timer, on_flush_timer, ms, 0);
    }
}

/* ---- room ---- */

bool keel_out_has_room(const struct keel_out *o, enum keel_lane lane, size_t n)
{
    size_t bound = (size_t)o->bus->rt->core->max_buffer_size;
    size_t limit = lane == KEEL_LANE_CRITICAL ? bound : bound - bound / 8;
    return o->queued + o->reserved + n <= limit;
}

bool keel_bus_reserve(struct keel_rt *rt, enum keel_lane lane, size_t n)
{
    if (rt->bus == NULL)
        return true;
    if (!keel_out_has_room(rt->bus->out, lane, n))
        return false;
    rt->bus->out->reserved += n;
    return true;
}

void keel_bus_release(struct keel_rt *rt, enum keel_lane lane, size_t n)
{
    (void)lane;
    if (rt->bus == NULL)
        return;
    struct keel_out *o = rt->bus->out;
    o->reserved -= n < o->reserved ? n : o->reserved;
}

void keel_out_key(char to[72], const char *key)
{
    keel_bus_copy(to, 72, key != NULL && strcmp(key, "-") != 0 ? key : "");
}

void keel_bus_send(struct keel_rt *rt, const struct keel_outgoing *out)
{
    struct keel_bus *b = rt->bus;
    struct keel_header h = {.ts_event = out->ts_event, .ts_init = out->ts_init, .ts_recv = out->ts_recv};
    char head[KEEL_HEAD_TEXT];
    keel_bus_release(rt, KEEL_LANE_NORMAL, 1);
    if (b == NULL || b->closing)
        return;
    struct stream *s = keel_out_stream(b->out, out->topic->name);
    struct rec **at = NULL, *old = NULL;
    uint32_t hash = 0;
    keel_out_key(h.key, out->key);
    if (is_conflated(b, out)) {
        at = index_at(s, out->topic, h.key, &hash);
        old = *at;
    }
    h.seq = old != NULL ? old->seq : ++s->seq;
    h.ts_publish = keel_wall_ns();
    keel_bus_copy(h.topic, sizeof h.topic, out->topic->name);
    keel_bus_copy(h.producer, sizeof h.producer, b->producer);
    keel_bus_copy(h.epoch, sizeof h.epoch, rt->epoch);
    keel_bus_copy(h.traceparent, sizeof h.traceparent, out->traceparent);
    size_t n = keel_head_print(rt->core->keel_env, keel_mode(rt), &h, head);
    struct rec *r = keel_out_rec(s, out->topic, h.seq, false, head, n, out->payload, out->len);
    r->is_live = out->is_live;
    if (out->is_live)
        memcpy(r->key, h.key, sizeof r->key);
    if (old != NULL) {
        replace(s, old, r);
    } else {
        keel_out_queue(s, r);
        keel_out_count(b, b->published, out->topic);
    }
    if (at != NULL) {
        r->hash = hash;
        r->is_indexed = true;
        r->same = s->live[hash % LIVE_BUCKETS];
        s->live[hash % LIVE_BUCKETS] = r;
    }
    keel_out_flush_when_due(s);
}

/* ---- ticks and life ---- */

void keel_out_tick(struct keel_bus *b, int64_t now_ns)
{
    struct keel_out *o = b->out;
    keel_out_prune(o, now_ns);
    if (!b->has_redis)
        return;
    for (size_t i = 0; i < o->n_publishers; i++)
        keel_link_tick(o->publisher[i].link, now_ns);
    bool watched = keel_out_is_watched(b, now_ns), control = keel_link_is_up(b->control);
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        struct stream *s = &o->stream[i];
        kept_expire(s, now_ns);
        keel_out_check_if_needed(s, now_ns);
        keel_out_load_if_needed(s, now_ns);
        if (s->is_urgent && s->waiting > 0)
            keel_out_flush_stream(s);
        if (watched && control && s->seq > 0)
            keel_out_ask_readers(s);
        if (control && s->since_trim >= TRIM_EVERY)
            keel_out_trim(s, now_ns);
    }
}

void keel_out_second(struct keel_bus *b, int64_t now_ns)
{
    struct keel_out *o = b->out;
    keel_out_guard_ask(o);
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        if (o->stream[i].seq > 0 || o->stream[i].durable_seq > 0)
            keel_out_ask_readers(&o->stream[i]);
        if (now_ns >= o->stream[i].trim_at_ns)
            keel_out_trim(&o->stream[i], now_ns);
    }
}

void keel_out_control_up(struct keel_bus *b)
{
    keel_out_guard_ask(b->out);
}

bool keel_out_is_up(const struct keel_bus *b)
{
    for (size_t i = 0; i < b->out->n_publishers; i++)
        if (!keel_link_is_up(b->out->publisher[i].link))
            return false;
    return true;
}

size_t keel_out_unsent(const struct keel_bus *b)
{
    return b->out->queued;
}

bool keel_out_is_idle(const struct keel_bus *b)
{
    for (size_t i = 0; i < KEEL_N_LANE; i++)
        if (b->out->stream[i].db_from > 0)
            return false;
    return b->out->queued == 0;
}

static void streams_init(struct keel_out *o)
{
    struct keel_bus *b = o->bus;
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        struct stream *s = &o->stream[i];
        s->bus = b;
        s->lane = (enum keel_lane)i;
        s->via = &o->publisher[o->n_publishers > 1 && s->lane != KEEL_LANE_CRITICAL ? 1 : 0];
        keel_bus_stream_name(b->rt->engine->name, s->lane, s->name);
        keel_bus_key(b, s->name, "", s->key);
        keel_bus_key(b, s->name, ":readers", s->readers_key);
    }
}

enum keel_status keel_out_open(struct keel_bus *b)
{
    static const char *const names[2] = {"publish", "publish_bulk"};
    struct keel_rt *rt = b->rt;
    struct keel_out *o = keel_alloc(1, sizeof *o);
    b->out = o;
    o->bus = b;
    o->scratch = keel_arena_new(16384);
    o->n_publishers = b->is_hybrid ? 2 : 1;
    o->prune_at_ns = keel_mono_ns() + 60 * KEEL_S_NS;
    streams_init(o);
    uv_timer_init(rt->loop, &o->flush_timer);
    o->flush_timer.data = o;
    uv_timer_init(rt->loop, &o->hold_timer);
    o->hold_timer.data = o;
    if (rt->store != NULL) {
        enum keel_status st = keel_out_file_open(o);
        if (st != KEEL_OK)
            return st;
        keel_assert(o->epoch[0] != '\0');
    }
    if (!b->has_redis)
        return KEEL_OK;
    char suffix[64];
    snprintf(suffix, sizeof suffix, ":producer%s%s", rt->core->instance[0] != '\0' ? "-" : "", rt->core->instance);
    keel_bus_key(b, o->stream[KEEL_LANE_NORMAL].name, suffix, o->guard_key);
    snprintf(o->guard_value, sizeof o->guard_value, "%s %s", rt->producer, rt->epoch);
    o->dep = keel_dep(rt, "redis_publish");
    for (size_t i = 0; i < o->n_publishers; i++) {
        struct publisher *p = &o->publisher[i];
        p->bus = b;
        p->link = keel_link_new(&(struct keel_link_conf){.loop = rt->loop, .url = rt->core->redis_url, .name = names[i],
                                                         .up = keel_out_publish_up,
                                                         .down = keel_out_publish_down, .ctx = p});
    }
    return KEEL_OK;
}

static void on_timer_closed(uv_handle_t *handle)
{
    keel_free(handle->data);
}

static void on_hold_closed(uv_handle_t *handle)
{
    struct keel_out *o = handle->data;
    uv_close((uv_handle_t *)&o->flush_timer, on_timer_closed);
}

void keel_out_free(struct keel_bus *b)
{
    struct keel_out *o = b->out;
    if (o == NULL)
        return;
    for (size_t i = 0; i < o->n_publishers; i++)
        keel_link_free(o->publisher[i].link);
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        fifo_free(&o->stream[i].queue);
        fifo_free(&o->stream[i].kept);
        /* What is pending is freed by its transaction. */
    }
    keel_arena_free(o->scratch);
    b->out = NULL;
    uv_timer_stop(&o->flush_timer); /* it is closed a turn later */
    uv_close((uv_handle_t *)&o->hold_timer, on_hold_closed);
}
