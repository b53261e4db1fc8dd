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

#include "bus_priv.h"
#include "keel/clock.h"
#include "keel/log.h"

enum {
    FLUSH_RECORDS = 128,
    FLUSH_BYTES = 32 << 10,
    MAX_IN_FLIGHT = 2048,
    LOAD_ROWS = 500,
    TAIL_PAGE = 500,
    TAIL_PAGES = 10,
    ACKS = 8192,
    SAMPLE_EVERY = 64,
    SAMPLES = 8192,
    MAX_READERS = 64,
    TRIM_EVERY = 8192 /* records */
};

#define KEEP_NS (60 * KEEL_S_NS)
#define READER_LIVE_NS (5 * KEEL_S_NS)
#define READER_FORGET_NS (60 * KEEL_S_NS)
#define PLAIN_FLUSH_MS 100
#define PRUNE_NS (600 * KEEL_S_NS)
#define DAY_NS (86400 * KEEL_S_NS)
#define PAUSE_MIN_NS (100 * KEEL_MS_NS)
#define PAUSE_MAX_NS (2 * KEEL_S_NS)

const char keel_bus_schema[] =
    "CREATE TABLE IF NOT EXISTS keel_bus_meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "INSERT OR IGNORE INTO keel_bus_meta VALUES('birth', lower(hex(randomblob(8))));"
    "CREATE TABLE IF NOT EXISTS keel_outbox(stream TEXT NOT NULL, seq INTEGER NOT NULL, topic TEXT NOT NULL,"
    " key TEXT NOT NULL, h TEXT NOT NULL, p TEXT NOT NULL, wall_ns INTEGER NOT NULL,"
    " PRIMARY KEY(stream, seq)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS keel_applied(producer TEXT NOT NULL, epoch TEXT NOT NULL, stream TEXT NOT NULL,"
    " low INTEGER NOT NULL, durable INTEGER NOT NULL, wall_ns INTEGER NOT NULL,"
    " PRIMARY KEY(producer, epoch, stream)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS keel_applied_above(producer TEXT NOT NULL, epoch TEXT NOT NULL, stream TEXT NOT NULL,"
    " seq INTEGER NOT NULL, PRIMARY KEY(producer, epoch, stream, seq)) WITHOUT ROWID;";

static const char insert_sql[] =
    "INSERT INTO keel_outbox(stream, seq, topic, key, h, p, wall_ns) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";
static const char load_sql[] =
    "SELECT seq, topic, h, p FROM keel_outbox WHERE stream = ?1 AND seq >= ?2 ORDER BY seq LIMIT 500";
/* The newest row always stays: the counter is read from it. */
static const char prune_sql[] =
    "DELETE FROM keel_outbox WHERE stream = ?1 AND seq < (SELECT seq FROM keel_outbox WHERE stream = ?1 AND"
    " wall_ns >= ?2 ORDER BY seq LIMIT 1)";
static const char prune_marks_sql[] = "DELETE FROM keel_applied WHERE durable = 0 AND wall_ns < ?1";
static const char prune_above_sql[] =
    "DELETE FROM keel_applied_above WHERE NOT EXISTS (SELECT 1 FROM keel_applied a WHERE"
    " a.producer = keel_applied_above.producer AND a.epoch = keel_applied_above.epoch AND"
    " a.stream = keel_applied_above.stream)";

enum rec_state { WAITING, SENT, DONE };

struct rec {
    struct rec *next;
    struct stream *stream;
    uint64_t seq;
    struct keel_sid id;
    int64_t acked_ns;
    const struct keel_topic *topic;
    enum rec_state state;
    bool is_durable, is_kept, is_orphan, has_permit, was_sent;
    struct keel_permit permit;
    size_t h_len, p_len;
    char text[]; /* header, payload */
};

struct fifo { struct rec *first, *last; size_t n; };
struct ack { uint64_t seq; struct keel_sid id; };
struct reader_seen { char name[96], value[96]; struct keel_sid id; int64_t changed_ns; bool there; };

struct publisher {
    struct keel_bus *bus;
    struct keel_link *link;
    bool permit_is_out; /* one command at a time speaks for the link */
};

enum check { UNCHECKED, CHECKING, CHECKED };

struct stream {
    struct keel_bus *bus;
    struct publisher *via;
    enum keel_lane lane;
    char name[64], key[128], readers_key[128];
    /* sending */
    struct fifo queue;
    struct rec *cursor; /* nothing before it is WAITING */
    size_t waiting, waiting_bytes, in_flight;
    bool is_urgent; /* a flush goes on until nothing waits */
    int64_t pause_ns, paused_until_ns;
    /* memory records */
    uint64_t seq;
    struct fifo kept;
    /* durable records */
    uint64_t durable_seq, committed_seq;
    struct rec *pending; /* numbered, transaction open; in order */
    struct ack acks[ACKS];
    size_t n_acks; /* ever since the last check: the ring holds the newest */
    uint64_t db_from;
    bool is_loading;
    int64_t load_at_ns;
    /* what Redis has */
    enum check check;
    bool was_checked;
    int tail_pages;
    struct keel_sid floor, last_id; /* tail at the last check; last entry of ours that was answered */
    int64_t check_at_ns, resent_all_ns;
    /* readers and trimming */
    struct ack samples[SAMPLES];
    size_t n_samples;
    struct ack newest; /* memory record answered last */
    uint64_t base_seq; /* of what readers have who are before the oldest sample */
    struct reader_seen readers[MAX_READERS];
    size_t n_readers;
    bool asks_readers, is_trimming;
    uint64_t since_trim;
    int64_t trim_at_ns;
};

struct keel_out {
    struct keel_bus *bus;
    char epoch[24]; /* durable */
    struct publisher publisher[2];
    size_t n_publishers;
    struct stream stream[KEEL_N_LANE];
    size_t queued, reserved;
    uv_timer_t flush_timer;
    bool flush_is_set;
    struct keel_arena *scratch;
    uint32_t dep;
    int64_t room_asked_ns, prune_at_ns, guard_good_ns;
    char guard_key[160], guard_value[96];
    bool guard_is_set, guard_asked;
};

/* ---- small things ---- */

static struct stream *stream_of(struct keel_out *o, const char *topic)
{
    return &o->stream[o->bus->is_hybrid ? keel_bus_lane(o->bus, topic) : KEEL_LANE_NORMAL];
}

static struct stream *stream_named(struct keel_out *o, const char *name)
{
    for (size_t i = 0; i < KEEL_N_LANE; i++)
        if (strcmp(o->stream[i].name, name) == 0)
            return &o->stream[i];
    return NULL;
}

static void fifo_append(struct fifo *f, struct rec *r)
{
    r->next = NULL;
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
    f->n--;
    return r;
}

static void fifo_free(struct fifo *f)
{
    while (f->first != NULL)
        keel_free(fifo_pop(f));
}

static void count(struct keel_bus *b, uint64_t *by_topic, const struct keel_topic *t)
{
    if (t != NULL)
        by_topic[t - b->topics]++;
}

static struct rec *rec_new(struct stream *s, const struct keel_topic *topic, uint64_t seq, bool is_durable, const char *h,
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

static void queue_append(struct stream *s, struct rec *r)
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
static void kept_again(struct stream *s, struct keel_sid after)
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
    s->queue.first = again.first;
    s->queue.n += again.n;
    s->cursor = s->queue.first;
    s->is_urgent = true;
}

/* Durable records are read from the file again, from number `from` on; those in the queue leave it. */
static void rewind_to(struct stream *s, uint64_t from)
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

/* ---- sending ---- */

static void flush(struct stream *s);
static void load_if_needed(struct stream *s, int64_t now_ns);

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
        flush(s);
    if (s->db_from > 0)
        load_if_needed(s, now_ns);
}

static bool send_one(struct stream *s, struct rec *r)
{
    struct keel_rt *rt = s->bus->rt;
    struct keel_args a = {0};
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
    s->in_flight++;
    s->waiting--;
    s->waiting_bytes -= rec_bytes(r);
    return true;
}

static void flush(struct stream *s)
{
    s->is_urgent = s->waiting > 0;
    if (s->check != CHECKED || s->cursor == NULL || keel_mono_ns() < s->paused_until_ns)
        return;
    while (s->cursor != NULL && s->in_flight < MAX_IN_FLIGHT) {
        if (s->cursor->state == WAITING && !send_one(s, s->cursor))
            return;
        s->cursor = s->cursor->next;
    }
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
            flush(&b->out->stream[i]);
}

/* At once, or at the latest when the buffer's time is over. */
static void flush_when_due(struct stream *s)
{
    struct keel_bus *b = s->bus;
    struct keel_out *o = b->out;
    bool at_once = (b->is_hybrid && s->lane == KEEL_LANE_CRITICAL) || b->draining || s->is_urgent ||
                   s->waiting >= FLUSH_RECORDS || s->waiting_bytes >= FLUSH_BYTES;
    if (at_once) {
        flush(s);
    } else if (!o->flush_is_set) {
        uint64_t ms = b->is_hybrid ? (uint64_t)b->rt->core->buffer_interval_ms : PLAIN_FLUSH_MS;
        o->flush_is_set = true;
        uv_timer_start(&o->flush_timer, on_flush_timer, ms, 0);
    }
}

/* ---- room ---- */

static bool has_room(const struct keel_out *o, enum keel_lane lane, size_t n)
{
    size_t bound = (size_t)o->bus->rt->core->max_buffer_size;
    size_t limit = lane == KEEL_LANE_CRITICAL ? bound : bound - bound / 8;
    return o->queued + o->reserved + n <= limit;
}

bool keel_bus_reserve(struct keel_rt *rt, enum keel_lane lane, size_t n)
{
    if (rt->bus == NULL)
        return true;
    if (!has_room(rt->bus->out, lane, n))
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

static void key_copy(char to[72], const char *key)
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
    struct stream *s = stream_of(b->out, out->topic->name);
    h.seq = ++s->seq;
    h.ts_publish = keel_wall_ns();
    keel_bus_copy(h.topic, sizeof h.topic, out->topic->name);
    keel_bus_copy(h.producer, sizeof h.producer, b->producer);
    keel_bus_copy(h.epoch, sizeof h.epoch, rt->epoch);
    keel_bus_copy(h.traceparent, sizeof h.traceparent, out->traceparent);
    key_copy(h.key, out->key);
    size_t n = keel_head_print(rt->core->keel_env, keel_mode(rt), &h, head);
    queue_append(s, rec_new(s, out->topic, h.seq, false, head, n, out->payload, out->len));
    count(b, b->published, out->topic);
    flush_when_due(s);
}

/* ---- durable records ---- */

static void on_settled(struct keel_rt *rt, void *ctx, enum keel_status st)
{
    struct rec *r = ctx;
    struct keel_bus *b = keel_bus_of_rt(rt);
    struct stream *s = r->stream;
    if (b == NULL || b->closing) {
        /* The row is in the file; the next start sends it. The stream it hung on is gone. */
        keel_free(r);
        return;
    }
    struct rec **at = &s->pending;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    if (st != KEEL_OK) {
        if (st == KEEL_CANCELLED && r->seq == s->durable_seq)
            s->durable_seq--; /* never queued: no hole for readers to look into */
        keel_free(r);
        return;
    }
    if (r->seq > s->committed_seq)
        s->committed_seq = r->seq;
    count(b, b->published, r->topic);
    bool from_file = s->db_from > 0 && r->seq >= s->db_from;
    if (!b->has_redis || from_file || b->out->queued >= (size_t)rt->core->max_buffer_size) {
        if (b->has_redis && s->db_from == 0)
            s->db_from = r->seq;
        keel_free(r);
        return;
    }
    char head[KEEL_HEAD_TEXT];
    size_t n = keel_head_stamp(r->text, r->h_len, keel_wall_ns(), head);
    queue_append(s, rec_new(s, r->topic, r->seq, true, head, n, r->text + r->h_len, r->p_len));
    keel_free(r);
    flush_when_due(s);
}

static void header_of_cause(struct keel_header *h, struct keel_rt *rt, struct keel_call *c, int64_t ts_event,
                            int64_t ts_init)
{
    const struct keel_header *rec = c != NULL ? c->rec : NULL;
    h->ts_init = ts_init != 0 ? ts_init : keel_session_ns(rt);
    h->ts_event = ts_event;
    if (ts_event == 0)
        h->ts_event = rec != NULL && rec->ts_event != 0 ? rec->ts_event : keel_session_ns(rt);
    if (rec != NULL)
        h->ts_recv = rec->ts_recv;
    if (rec != NULL && rec->traceparent[0] != '\0')
        keel_bus_copy(h->traceparent, sizeof h->traceparent, rec->traceparent);
    else if (c != NULL && keel_trace_id(c) != NULL && keel_trace_id(c)[0] != '\0')
        snprintf(h->traceparent, sizeof h->traceparent, "00-%.32s-%016llx-01", keel_trace_id(c),
                 (unsigned long long)h->seq);
}

void keel_txn_publish(struct keel_txn *t, struct keel_call *c, const char *topic, const char *key, int64_t ts_event,
                      int64_t ts_init, const void *record)
{
    struct keel_bus *b = c != NULL ? keel_bus_of_rt(c->rt) : keel_bus_of_store(keel_txn_store(t));
    const struct keel_topic *found = keel_topic_find(topic);
    keel_assert(b != NULL && found != NULL && found->durable);
    struct keel_out *o = b->out;
    struct stream *s = stream_of(o, topic);
    struct keel_header h = {.seq = ++s->durable_seq};
    struct keel_json w;
    char head[KEEL_HEAD_TEXT];

    header_of_cause(&h, b->rt, c, ts_event, ts_init);
    keel_bus_copy(h.topic, sizeof h.topic, topic);
    keel_bus_copy(h.producer, sizeof h.producer, b->producer);
    keel_bus_copy(h.epoch, sizeof h.epoch, o->epoch);
    key_copy(h.key, key);
    size_t n = keel_head_print(b->rt->core->keel_env, keel_mode(b->rt), &h, head);

    keel_json_init(&w, o->scratch, 1024);
    keel_json_obj(&w, NULL);
    keel_record_encode(found->fields, record, &w);
    keel_json_end(&w);
    const char *payload = keel_json_text(&w);
    keel_txn_exec(t, insert_sql, "sissssi", s->name, (int64_t)h.seq, topic, h.key, head, payload, keel_wall_ns());
    struct rec *r = rec_new(s, found, h.seq, true, head, n, payload, strlen(payload));
    keel_arena_reset(o->scratch);
    struct rec **at = &s->pending;
    while (*at != NULL)
        at = &(*at)->next;
    *at = r;
    keel_txn_after(t, on_settled, r);
}

uint64_t keel_out_settled(const struct keel_bus *b, const char *name)
{
    const struct stream *s = stream_named(b->out, name);
    uint64_t seq = s != NULL ? s->durable_seq : 0;
    for (const struct rec *r = s != NULL ? s->pending : NULL; r != NULL; r = r->next)
        if (r->seq <= seq)
            seq = r->seq - 1;
    return seq;
}

const char *keel_out_epoch(const struct keel_bus *b)
{
    return b->out->epoch;
}

/* ---- durable rows from the file ---- */

static enum keel_status load_rows(struct keel_call *c)
{
    struct keel_bus *b = keel_bus_of_rt(c->rt);
    const struct keel_bus_load *arg = c->arg;
    struct stream *s = &b->out->stream[arg->lane];
    uint64_t from = (uint64_t)arg->from_seq;
    s->is_loading = false;
    if (keel_wait_status(c) != KEEL_OK) {
        s->load_at_ns = keel_mono_ns() + KEEL_S_NS;
        return keel_wait_status(c);
    }
    if (s->db_from != from)
        return KEEL_OK; /* wound back meanwhile */
    for (size_t i = 0; i < c->rows->n; i++) {
        const char *text = KEEL_CELL(c->rows, i, 0), *h = KEEL_CELL(c->rows, i, 2), *p = KEEL_CELL(c->rows, i, 3);
        char head[KEEL_HEAD_TEXT];
        int64_t seq = 0;
        if (keel_i64_parse(text, strlen(text), &seq) != KEEL_OK)
            continue;
        size_t n = keel_head_stamp(h, strlen(h), keel_wall_ns(), head);
        struct rec *r = rec_new(s, keel_topic_find(KEEL_CELL(c->rows, i, 1)), (uint64_t)seq, true, head, n, p, strlen(p));
        r->was_sent = true;
        queue_append(s, r);
        s->db_from = (uint64_t)seq + 1;
    }
    if (c->rows->n < LOAD_ROWS && s->committed_seq < s->db_from)
        s->db_from = 0;
    flush(s);
    return KEEL_OK;
}

enum keel_status keel_out_load_begin(struct keel_call *c)
{
    struct keel_bus *b = keel_bus_of_rt(c->rt);
    const struct keel_bus_load *arg = c->arg;
    if (b == NULL || c->rt->store == NULL)
        return KEEL_OK;
    return keel_await_read(c, load_sql, "si", load_rows, b->out->stream[arg->lane].name, arg->from_seq);
}

static void load_if_needed(struct stream *s, int64_t now_ns)
{
    struct keel_out *o = s->bus->out;
    if (s->db_from == 0 || s->check != CHECKED || now_ns < s->load_at_ns || s->queue.n > LOAD_ROWS ||
        !has_room(o, KEEL_LANE_CRITICAL, LOAD_ROWS))
        return;
    if (s->is_loading && now_ns - s->load_at_ns < 30 * KEEL_S_NS)
        return;
    struct keel_bus_load arg = {.lane = s->lane, .from_seq = (int64_t)s->db_from, .has_lane = true, .has_from_seq = true};
    s->is_loading = keel_spawn_rt(s->bus->rt, "bus_load", &arg) == KEEL_OK;
    s->load_at_ns = now_ns + (s->is_loading ? 0 : 100 * KEEL_MS_NS);
}

static enum keel_status each_max(void *ctx, int n, const char *const *cell)
{
    struct keel_out *o = ctx;
    struct stream *s = cell[0] != NULL ? stream_named(o, cell[0]) : NULL;
    int64_t seq;
    (void)n;
    if (s != NULL && cell[1] != NULL && keel_i64_parse(cell[1], strlen(cell[1]), &seq) == KEEL_OK)
        s->durable_seq = s->committed_seq = (uint64_t)seq;
    return KEEL_OK;
}

static enum keel_status each_birth(void *ctx, int n, const char *const *cell)
{
    struct keel_out *o = ctx;
    (void)n;
    snprintf(o->epoch, sizeof o->epoch, "%s", cell[0] != NULL ? cell[0] : "");
    return KEEL_OK;
}

static enum keel_status counters_read(struct keel_out *o)
{
    struct keel_store *store = o->bus->rt->store;
    for (size_t i = 0; i < KEEL_N_LANE; i++)
        o->stream[i].durable_seq = o->stream[i].committed_seq = 0;
    enum keel_status st = keel_store_each(store, "SELECT stream, MAX(seq) FROM keel_outbox GROUP BY stream", each_max, o);
    for (size_t i = 0; i < KEEL_N_LANE; i++)
        for (const struct rec *r = o->stream[i].pending; r != NULL; r = r->next)
            if (r->seq > o->stream[i].durable_seq)
                o->stream[i].durable_seq = r->seq; /* of a transaction that is not queued yet */
    return st;
}

void keel_bus_reload(struct keel_rt *rt)
{
    struct keel_bus *b = keel_bus_of_rt(rt);
    /* The marks in memory only ever hold what a commit holds. */
    if (b != NULL && rt->store != NULL)
        counters_read(b->out);
}

static void prune(struct keel_out *o, int64_t now_ns)
{
    struct keel_rt *rt = o->bus->rt;
    if (rt->store == NULL || now_ns < o->prune_at_ns || !keel_store_ok(rt->store))
        return;
    struct keel_txn *t = keel_txn_new(rt->store);
    int64_t wall_ns = keel_wall_ns();
    for (size_t i = 0; i < KEEL_N_LANE; i++)
        keel_txn_exec(t, prune_sql, "si", o->stream[i].name, wall_ns - DAY_NS);
    keel_txn_exec(t, prune_marks_sql, "i", wall_ns - 7 * DAY_NS);
    keel_txn_exec(t, prune_above_sql, "");
    keel_txn_commit(rt, t, NULL, NULL);
    o->prune_at_ns = now_ns + PRUNE_NS;
}

/* ---- what Redis still has ---- */

static void resend_all(struct stream *s)
{
    kept_again(s, (struct keel_sid){0, 0});
    rewind_to(s, 1);
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
    flush(s);
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
            rewind_to(s, env.h.seq + 1);
        checked(s, s->floor);
        return;
    }
    s->tail_pages++;
    if (n == TAIL_PAGE && s->tail_pages < TAIL_PAGES) {
        struct keel_args a = {0};
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
    rewind_to(s, 1);
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
    kept_again(s, e.id);
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
        rewind_to(s, 1);
    else if (from > 0)
        rewind_to(s, from);
    if (lost > 0)
        keel_log(KEEL_LOG_WARN, "stream_lost_its_end", "stream=%s records=%zu", s->key, lost);
    checked(s, e.id);
}

static void check_if_needed(struct stream *s, int64_t now_ns)
{
    bool first = !s->was_checked && s->durable_seq > 0;
    bool untouched = !s->was_checked || (keel_sid_cmp(s->last_id, (struct keel_sid){0, 0}) == 0 && s->durable_seq == 0);
    struct keel_args a = {0};
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

static void publish_up(void *ctx)
{
    struct publisher *p = ctx;
    struct keel_out *o = p->bus->out;
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        if (o->stream[i].via != p)
            continue;
        o->stream[i].check_at_ns = 0;
        check_if_needed(&o->stream[i], keel_mono_ns());
    }
}

static void publish_down(void *ctx)
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
    struct keel_args a = {0};
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
            flush(s);
        }
    }
    guard_set(o);
}

static void guard_ask(struct keel_out *o)
{
    struct keel_args a = {0};
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
static bool slowest(const struct stream *s, int64_t now_ns, struct keel_sid *out)
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
    struct keel_args a = {0};
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

static void readers_ask(struct stream *s)
{
    struct keel_args a = {0};
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
    if (!keel_link_is_up(b->control) || !has_room(o, KEEL_LANE_NORMAL, n))
        return false;
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        const struct stream *s = &o->stream[i];
        struct keel_sid id;
        if (s->check != CHECKED)
            return false;
        if (slowest(s, now_ns, &id) && s->seq - seq_of(s, id) > (uint64_t)rt->core->reader_window)
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
        if (s->newest.id.ms == 0 || !slowest(s, now_ns, &id) || keel_sid_cmp(id, s->newest.id) >= 0)
            continue;
        readers_ask(s);
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
    if (slowest(s, now_ns, &slow))
        lower(&id, slow);
    lower(&id, s->last_id);
    return id;
}

static void trim_finish(struct trim *t)
{
    struct stream *s = t->stream;
    struct keel_args a = {0};
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
        struct keel_args a = {0};
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

static void trim(struct stream *s, int64_t now_ns)
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
        struct keel_args a = {0};
        keel_arg(&a, "XINFO");
        keel_arg(&a, "GROUPS");
        keel_arg(&a, s->key);
        if (keel_link_send(s->bus->control, &a, 0, on_trim_groups, t))
            return;
        t->failed = true;
    }
    trim_finish(t);
}

/* ---- ticks and life ---- */

void keel_out_tick(struct keel_bus *b, int64_t now_ns)
{
    struct keel_out *o = b->out;
    prune(o, now_ns);
    if (!b->has_redis)
        return;
    for (size_t i = 0; i < o->n_publishers; i++)
        keel_link_tick(o->publisher[i].link, now_ns);
    bool watched = keel_out_is_watched(b, now_ns), control = keel_link_is_up(b->control);
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        struct stream *s = &o->stream[i];
        kept_expire(s, now_ns);
        check_if_needed(s, now_ns);
        load_if_needed(s, now_ns);
        if (s->is_urgent && s->waiting > 0)
            flush(s);
        if (watched && control && s->seq > 0)
            readers_ask(s);
        if (control && s->since_trim >= TRIM_EVERY)
            trim(s, now_ns);
    }
}

void keel_out_second(struct keel_bus *b, int64_t now_ns)
{
    struct keel_out *o = b->out;
    guard_ask(o);
    for (size_t i = 0; i < KEEL_N_LANE; i++) {
        if (o->stream[i].seq > 0 || o->stream[i].durable_seq > 0)
            readers_ask(&o->stream[i]);
        if (now_ns >= o->stream[i].trim_at_ns)
            trim(&o->stream[i], now_ns);
    }
}

void keel_out_control_up(struct keel_bus *b)
{
    guard_ask(b->out);
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
    if (rt->store != NULL) {
        enum keel_status st = counters_read(o);
        if (st == KEEL_OK)
            st = keel_store_each(rt->store, "SELECT value FROM keel_bus_meta WHERE name = 'birth'", each_birth, o);
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
                                                         .up = publish_up, .down = publish_down, .ctx = p});
    }
    return KEEL_OK;
}

static void on_timer_closed(uv_handle_t *handle)
{
    keel_free(handle->data);
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
    uv_close((uv_handle_t *)&o->flush_timer, on_timer_closed);
}
