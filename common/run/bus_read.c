/*
 * What this engine reads from the streams of others.
 *
 * A reader is a connection with one blocking read over all streams of its lane and kind: KEEL_SHARE through the consumer
 * group, KEEL_EACH from its own position. Every entry that a row wants becomes an item, in hand until its call has settled:
 * acknowledged after its commit, copied to the dead letters when its sender is at fault, else tried again in place while
 * later records of its key wait behind it. How far a stream has been handled is what lies before its oldest item.
 *
 * A record is known by (producer, epoch, stream, seq). `applied` holds what was dealt with and goes to the store with the
 * effect, `seen` also what is in hand; what is missing in `seen` below a durable record is a hole. Records behind a hole
 * wait a little, until the stream or the owner's /bus/outbox has filled it.
 */
#include <stdio.h>
#include <string.h>

#include "bus_priv.h"
#include "keel/clock.h"
#include "keel/log.h"

enum {
    BACKLOG = 512,
    COUNT_CRITICAL = 16,
    COUNT_BULK = 256,
    BLOCK_MS = 1000,
    MAX_STREAMS = 32, /* of one reader */
    MAX_READERS = 2 * KEEL_N_LANE,
    BUCKETS = 1024,
    ACK_BATCH = 64,
    PENDING_PAGE = 100,
    MARK_SAVE_EVERY = 64,
    MAX_MARKS = 32,
    SUSPECT_AFTER = 2, /* deaths while in hand, from which on a record is handled alone */
    DEAD_MAX = 100000
};

#define BULK_SLICE_NS (200 * 1000)
#define CRITICAL_SLICE_NS (1000 * 1000)
#define RETRY_MIN_NS (10 * KEEL_MS_NS)
#define RETRY_MAX_NS (2 * KEEL_S_NS)
#define HOLE_FETCH_NS (1 * KEEL_S_NS)
#define HOLE_HOLD_NS (3 * KEEL_S_NS)
#define FETCH_AFTER_NS (500 * KEEL_MS_NS)
#define FETCH_EVERY_NS (10 * KEEL_S_NS)
#define POSITION_NS (20 * KEEL_MS_NS)
#define POSITION_IDLE_NS KEEL_MS_NS /* once everything in hand is handled, so that a replay need not wait */
#define CLAIM_IDLE_NS (60 * KEEL_S_NS)
#define CLAIM_IDLE_TEXT "60000"

static const char mark_sql[] =
    "INSERT OR IGNORE INTO keel_applied_above(producer, epoch, stream, seq) VALUES(?1, ?2, ?3, ?4)";
static const char low_sql[] =
    "INSERT INTO keel_applied(producer, epoch, stream, low, durable, wall_ns) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"
    " ON CONFLICT DO UPDATE SET low = max(low, excluded.low), durable = excluded.durable, wall_ns = excluded.wall_ns";
static const char below_sql[] =
    "DELETE FROM keel_applied_above WHERE producer = ?1 AND epoch = ?2 AND stream = ?3 AND seq <= ?4";

enum item_state { QUEUED, BEHIND, HELD, CALLING, COMMITTING, RETRYING, CLAIMING, BURYING };

struct mark { /* what is known of one (producer, epoch) of a stream */
    struct mark *next;
    char producer[48], epoch[24];
    bool is_durable, holds_no_more, was_asked; /* of the hole that is open: records go on, its owner was asked */
    struct keel_marks applied, seen;
    struct item *held; /* by seq */
    size_t in_hand;
    int64_t hole_since_ns;
    uint64_t unsaved; /* marks written since the low mark was */
    uint64_t newest, top; /* highest that settled, that was seen */
};

struct busy { /* a key with a record in hand that has not settled */
    struct busy *next;
    struct stream_in *s;
    char key[72];
    struct item *first, *last; /* behind the holder */
};

struct item {
    struct stream_in *s;
    struct mark *mark; /* NULL: the header could not be read */
    struct busy *busy; /* it holds its key */
    const struct keel_op *op;
    struct keel_header h;
    struct keel_sid id, before; /* id 0-0: fetched from its owner, or a dead letter */
    enum item_state state;
    int refs, txns;
    bool settled, committed, is_dropped;
    bool is_fetched, is_counted, is_suspect; /* counted: should the process die now, it will be known */
    enum keel_status st;
    unsigned attempts;
    uint64_t deliveries;
    int64_t retry_at_ns, since_ns;
    uint64_t token;       /* of the call that replays it; 0: none */
    struct keel_sid dead; /* the letter being replayed */
    const char *reason;   /* why it is buried */
    char detail[160];
    struct item *prev, *next; /* in hand, in order of arrival */
    struct item *chain;       /* queue, busy key or hole */
    size_t h_len, p_len;
    char text[]; /* header, NUL, payload, NUL */
};

enum step { IN_NEW, IN_PLACE, IN_PENDING, IN_READY };

struct stream_in {
    struct reader *reader;
    char engine[32], name[64], key[128], readers_key[128];
    enum keel_lane lane;
    bool wants_durable, was_recovered, is_asking, is_stepping, again; /* again: all steps once more */
    enum step step;
    int64_t step_at_ns;
    size_t open;                /* answers the step still waits for */
    struct keel_sid pos, page;  /* last entry read; last one of the pending page */
    size_t page_n;
    struct mark *marks;
    struct item *first, *last;  /* in hand */
    struct keel_sid written_id; /* position as last published */
    int64_t written_ns;
    char acks[ACK_BATCH][KEEL_SID_TEXT];
    size_t n_acks;
    bool fetch_wanted, is_fetching;
    int64_t fetch_at_ns;
    int64_t lag, pending;       /* of the group, as Redis counts */
};

struct reader {
    struct keel_bus *bus;
    struct keel_link *link;
    enum keel_lane lane;
    bool is_share, is_reading, has_permit;
    struct keel_permit permit;
    struct stream_in *streams[MAX_STREAMS];
    size_t n;
    struct item *first, *last; /* queue */
    size_t in_hand, calling, counting, waiting; /* waiting: for a moment of their own (retry, burial, hole) */
    struct item *alone;
    int64_t read_at_ns;
    struct busy *busy[BUCKETS];
};

struct keel_in {
    struct keel_bus *bus;
    struct reader readers[MAX_READERS];
    size_t n;
    char consumer[64];
    uint32_t dep;
    bool is_stopped, has_moved;
    int64_t claim_at_ns;
    struct keel_arena *scratch;
};

/* How an entry came to us: by the blocking read, from our own pending ones after a start, from its owner. */
enum origin { FROM_STREAM, FROM_PENDING, FROM_OWNER };

static void accept_entry(struct stream_in *s, const struct keel_entry *e, enum origin origin, uint64_t deliveries);

/* ---- marks ---- */

static bool hole_below(const struct mark *m, uint64_t seq)
{
    return m->seen.low < seq;
}

static struct mark *mark_find(const struct stream_in *s, const char *producer, const char *epoch)
{
    struct mark *m = s->marks;
    while (m != NULL && (strcmp(m->epoch, epoch) != 0 || strcmp(m->producer, producer) != 0))
        m = m->next;
    return m;
}

static void mark_free(struct mark *m)
{
    keel_marks_fini(&m->applied);
    keel_marks_fini(&m->seen);
    keel_free(m);
}

/* Every start of a producer is an epoch; the oldest ones without anything in hand are forgotten. */
static void marks_bound(struct stream_in *s)
{
    struct mark **oldest = NULL;
    size_t n = 0;
    for (struct mark **at = &s->marks; *at != NULL; at = &(*at)->next, n++)
        if (!(*at)->is_durable && (*at)->in_hand == 0)
            oldest = at;
    if (n < MAX_MARKS || oldest == NULL)
        return;
    struct mark *m = *oldest;
    *oldest = m->next;
    mark_free(m);
}

static struct mark *mark_get(struct stream_in *s, const char *producer, const char *epoch, bool is_durable)
{
    struct mark *m = mark_find(s, producer, epoch);
    if (m == NULL) {
        marks_bound(s);
        m = keel_alloc(1, sizeof *m);
        keel_bus_copy(m->producer, sizeof m->producer, producer);
        keel_bus_copy(m->epoch, sizeof m->epoch, epoch);
        m->next = s->marks;
        s->marks = m;
    }
    m->is_durable |= is_durable;
    return m;
}

static struct mark *durable_mark(const struct stream_in *s)
{
    struct mark *m = s->marks;
    while (m != NULL && !m->is_durable)
        m = m->next;
    return m;
}

/* Holes matter where effects go to a store; one of several instances has holes by design. */
static bool is_gapless(const struct stream_in *s)
{
    const struct keel_rt *rt = s->reader->bus->rt;
    return s->reader->is_share && s->wants_durable && rt->store != NULL && rt->core->instance[0] == '\0';
}

static struct keel_lane_stats *stats(const struct stream_in *s)
{
    return &s->reader->bus->lane[s->lane];
}

/* ---- acknowledging ---- */

static void acks_flush(struct stream_in *s)
{
    struct keel_bus *b = s->reader->bus;
    struct keel_args a = {0};
    if (s->n_acks == 0)
        return;
    keel_arg(&a, "XACK");
    keel_arg(&a, s->key);
    keel_arg(&a, b->group);
    for (size_t i = 0; i < s->n_acks; i++)
        keel_arg(&a, s->acks[i]);
    /* What does not get through stays pending; it is known when it is read again. */
    keel_link_send(b->control, &a, 0, NULL, NULL);
    s->n_acks = 0;
}

static void ack(struct stream_in *s, struct keel_sid id)
{
    if (!s->reader->is_share || id.ms == 0)
        return;
    keel_sid_print(id, s->acks[s->n_acks++]);
    if (s->n_acks == ACK_BATCH)
        acks_flush(s);
}

/* ---- the queue and the keys ---- */

static void queue_append(struct reader *r, struct item *it)
{
    it->state = QUEUED;
    it->chain = NULL;
    if (r->last != NULL)
        r->last->chain = it;
    else
        r->first = it;
    r->last = it;
    keel_bus_breathe(r->bus);
}

static void queue_push(struct reader *r, struct item *it)
{
    it->state = QUEUED;
    it->chain = r->first;
    r->first = it;
    if (r->last == NULL)
        r->last = it;
    keel_bus_breathe(r->bus);
}

static void queue_take(struct reader *r, struct item *it)
{
    struct item *before = NULL;
    if (r->first == it) {
        r->first = it->chain;
    } else {
        for (before = r->first; before->chain != it; before = before->chain)
            ;
        before->chain = it->chain;
    }
    if (r->last == it)
        r->last = before;
}

/* Nothing else runs while a suspect does. */
static struct item *queue_next(const struct reader *r)
{
    if (r->alone == NULL)
        return r->first;
    return r->alone->state == QUEUED ? r->alone : NULL;
}

static struct busy **busy_at(struct reader *r, const struct item *it)
{
    uint32_t hash = 2166136261u ^ (uint32_t)((uintptr_t)it->s >> 6);
    for (const char *c = it->h.key; *c != '\0'; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    struct busy **at = &r->busy[hash % BUCKETS];
    while (*at != NULL && ((*at)->s != it->s || strcmp((*at)->key, it->h.key) != 0))
        at = &(*at)->next;
    return at;
}

static void busy_take(struct item *it)
{
    if (it->busy != NULL)
        return;
    struct busy **at = busy_at(it->s->reader, it);
    keel_assert(*at == NULL);
    it->busy = keel_alloc(1, sizeof *it->busy);
    it->busy->s = it->s;
    memcpy(it->busy->key, it->h.key, sizeof it->busy->key);
    *at = it->busy;
}

/* The next record of the key becomes its holder. */
static void busy_leave(struct item *it)
{
    struct busy *k = it->busy;
    if (k == NULL)
        return;
    it->busy = NULL;
    struct item *next = k->first;
    if (next == NULL) {
        struct busy **at = busy_at(it->s->reader, it);
        *at = k->next;
        keel_free(k);
        return;
    }
    k->first = next->chain;
    if (k->first == NULL)
        k->last = NULL;
    next->busy = k;
    queue_push(it->s->reader, next);
}

/* true: it waits behind another of its key. */
static bool busy_behind(struct item *it)
{
    struct busy *k = it->busy != NULL ? NULL : *busy_at(it->s->reader, it);
    if (k == NULL)
        return false;
    it->state = BEHIND;
    it->chain = NULL;
    if (k->last != NULL)
        k->last->chain = it;
    else
        k->first = it;
    k->last = it;
    return true;
}

/* ---- items ---- */

static struct item *item_new(struct stream_in *s, const struct keel_entry *e)
{
    struct item *it = keel_alloc(1, sizeof *it + e->h_len + e->p_len + 2);
    it->s = s;
    it->id = e->id;
    it->refs = 1;
    it->h_len = e->h_len;
    it->p_len = e->p_len;
    it->since_ns = keel_mono_ns();
    memcpy(it->text, e->h, e->h_len);
    memcpy(it->text + e->h_len + 1, e->p, e->p_len);
    it->before = s->pos;
    if (e->id.ms != 0 && keel_sid_cmp(e->id, s->pos) <= 0)
        it->before = keel_sid_before(e->id);
    it->prev = s->last;
    if (s->last != NULL)
        s->last->next = it;
    else
        s->first = it;
    s->last = it;
    s->reader->in_hand++;
    return it;
}

static const char *item_payload(const struct item *it)
{
    return it->text + it->h_len + 1;
}

static void item_unref(struct item *it)
{
    if (--it->refs == 0)
        keel_free(it);
}

/* Out of hand; the memory goes when the last transaction has let go of it. */
static void item_leave(struct item *it)
{
    struct stream_in *s = it->s;
    struct reader *r = s->reader;
    keel_assert(!it->is_dropped);
    it->is_dropped = true;
    busy_leave(it);
    if (r->alone == it) {
        r->alone = NULL;
        keel_bus_breathe(r->bus);
    }
    if (it->prev != NULL)
        it->prev->next = it->next;
    else
        s->first = it->next;
    if (it->next != NULL)
        it->next->prev = it->prev;
    else
        s->last = it->prev;
    if (it->mark != NULL)
        it->mark->in_hand--;
    r->in_hand--;
    r->bus->in->has_moved = true;
    item_unref(it);
}

static void count_received(struct item *it)
{
    struct keel_bus *b = it->s->reader->bus;
    const struct keel_topic *topic = keel_topic_find(it->h.topic);
    stats(it->s)->received++;
    if (topic != NULL)
        b->received[topic - b->topics]++;
}

/* Redis counts deliveries of pending entries; for records fetched from their owner a hash of ours does. */
static void deaths_field(const struct item *it, char buf[160])
{
    snprintf(buf, 160, "%s %s %llu", it->s->name, it->h.epoch, (unsigned long long)it->h.seq);
}

static void deaths_forget(const struct item *it)
{
    const struct keel_bus *b = it->s->reader->bus;
    struct keel_args a = {0};
    char field[160];
    deaths_field(it, field);
    keel_arg(&a, "HDEL");
    keel_arg(&a, b->deaths_key);
    keel_arg(&a, field);
    keel_link_send(b->control, &a, 0, NULL, NULL);
}

/* Dealt with, one way or the other: remembered, acknowledged, out of hand. */
static void item_over(struct item *it)
{
    if (it->mark != NULL) {
        keel_marks_add(&it->mark->seen, it->h.seq);
        keel_marks_add(&it->mark->applied, it->h.seq);
        if (it->h.seq > it->mark->newest)
            it->mark->newest = it->h.seq;
    }
    ack(it->s, it->id);
    if (it->is_fetched)
        deaths_forget(it);
    item_leave(it);
}

/* ---- dead letters ---- */

static void bury(struct item *it, const char *reason);

static void wait_a_moment(struct item *it, enum item_state state, int64_t wait_ns)
{
    it->state = state;
    it->retry_at_ns = keel_mono_ns() + wait_ns;
    it->s->reader->waiting++;
}

static bool is_durable_topic(const char *topic)
{
    const struct keel_topic *t = keel_topic_find(topic);
    return t != NULL && t->durable;
}

static void on_buried(void *ctx, const struct redisReply *reply)
{
    struct item *it = ctx;
    struct keel_bus *b = it->s->reader->bus;
    struct keel_sid id;
    if (it->is_dropped) {
        item_unref(it);
        return;
    }
    if (!keel_reply_sid(reply, &id)) {
        const char *why = keel_reply_error(reply);
        keel_log_often(KEEL_LOG_ERROR, "dead_letter_refused", "detail=%s", why != NULL ? why : "Redis is away");
        wait_a_moment(it, BURYING, RETRY_MAX_NS);
        item_unref(it);
        return;
    }
    stats(it->s)->dead++;
    keel_bus_dead_added(b, is_durable_topic(it->h.topic), it->h.key);
    keel_log_often(KEEL_LOG_ERROR, "dead_letter", "topic=%s stream=%s seq=%llu reason=%s detail=%s", it->h.topic, it->s->name,
                   (unsigned long long)it->h.seq, it->reason, it->detail);
    item_over(it);
    item_unref(it);
}

static void bury(struct item *it, const char *reason)
{
    struct keel_bus *b = it->s->reader->bus;
    struct keel_args a = {0};
    char id[KEEL_SID_TEXT], max[24];
    it->reason = reason;
    it->state = BURYING;
    keel_sid_print(it->id, id);
    snprintf(max, sizeof max, "%d", DEAD_MAX);
    keel_arg(&a, "XADD");
    keel_arg(&a, b->dead_key);
    keel_arg(&a, "MAXLEN");
    keel_arg(&a, "~");
    keel_arg(&a, max);
    keel_arg(&a, "*");
    keel_arg(&a, "h");
    keel_argn(&a, it->text, it->h_len);
    keel_arg(&a, "p");
    keel_argn(&a, item_payload(it), it->p_len);
    keel_arg(&a, "reason");
    keel_arg(&a, reason);
    keel_arg(&a, "detail");
    keel_arg(&a, it->detail);
    keel_arg(&a, "stream");
    keel_arg(&a, it->s->name);
    keel_arg(&a, "id");
    keel_arg(&a, id);
    keel_arg(&a, "topic");
    keel_arg(&a, it->h.topic);
    keel_arg(&a, "durable");
    keel_arg(&a, is_durable_topic(it->h.topic) ? "1" : "0");
    it->refs++;
    if (!keel_link_send(b->control, &a, 0, on_buried, it)) {
        it->refs--;
        wait_a_moment(it, BURYING, RETRY_MAX_NS);
    }
}

/* ---- outcomes ---- */

/* 4xx but "too many": what this record says will never be right. */
static bool is_senders_fault(enum keel_status st)
{
    int http = keel_status_http(st);
    return http >= 400 && http < 500 && st != KEEL_RATE;
}

static void retry(struct item *it)
{
    int64_t wait_ns = RETRY_MAX_NS;
    if (it->attempts < 8)
        wait_ns = RETRY_MIN_NS << it->attempts;
    it->attempts++;
    if (it->s->reader->alone == it)
        it->s->reader->alone = NULL;
    stats(it->s)->retried++;
    keel_log_often(KEEL_LOG_WARN, "record_retried", "topic=%s seq=%llu attempts=%u status=%s detail=%s", it->h.topic,
                   (unsigned long long)it->h.seq, it->attempts, keel_status_name(it->st), it->detail);
    wait_a_moment(it, RETRYING, wait_ns < RETRY_MAX_NS ? wait_ns : RETRY_MAX_NS);
}

static void on_letter_gone(void *ctx, const struct redisReply *reply)
{
    struct item *it = ctx;
    if (!it->is_dropped) {
        keel_bus_dead_added(it->s->reader->bus, false, "");
        keel_wake(it->s->reader->bus->rt, it->token, reply != NULL ? KEEL_OK : KEEL_UNAVAILABLE);
        item_over(it);
    }
    item_unref(it);
}

/* A dead letter that was run again: gone when it went well, else as dead as before. */
static void decide_replay(struct item *it, bool applied)
{
    struct keel_bus *b = it->s->reader->bus;
    struct keel_args a = {0};
    char id[KEEL_SID_TEXT];
    if (!applied) {
        struct keel_call *c = keel_call_of(b->rt, it->token);
        if (c != NULL)
            keel_fail(c, it->st, "%s", it->detail[0] != '\0' ? it->detail : keel_status_text(it->st));
        keel_wake(b->rt, it->token, it->st);
        item_leave(it);
        return;
    }
    count_received(it);
    keel_sid_print(it->dead, id);
    keel_arg(&a, "XDEL");
    keel_arg(&a, b->dead_key);
    keel_arg(&a, id);
    it->refs++;
    if (keel_link_send(b->control, &a, 0, on_letter_gone, it))
        return;
    it->refs--;
    keel_wake(b->rt, it->token, KEEL_UNAVAILABLE);
    item_over(it);
}

/* The call has settled and so have its transactions. A committed mark is what counts, whatever came after it. */
static void decide(struct item *it)
{
    bool applied = it->st == KEEL_OK || it->committed;
    if (it->token != 0) {
        decide_replay(it, applied);
    } else if (applied) {
        count_received(it);
        item_over(it);
    } else if (it->s->reader->bus->in->is_stopped) {
        item_leave(it); /* stays pending in Redis */
    } else if (is_senders_fault(it->st)) {
        bury(it, keel_status_name(it->st));
    } else {
        retry(it);
    }
}

static void on_settled(void *ctx, struct keel_call *call, enum keel_status st)
{
    struct item *it = ctx;
    const char *problem = st != KEEL_OK && call != NULL ? keel_call_problem(call) : NULL;
    it->s->reader->calling--;
    it->settled = true;
    it->st = st;
    keel_bus_copy(it->detail, sizeof it->detail, problem);
    if (it->txns > 0)
        it->state = COMMITTING;
    else
        decide(it);
}

static void on_mark_settled(struct keel_rt *rt, void *ctx, enum keel_status st)
{
    struct item *it = ctx;
    struct keel_bus *b = keel_bus_of_rt(rt);
    it->txns--;
    it->committed |= st == KEEL_OK;
    if (b != NULL && b->in != NULL && !it->is_dropped && it->settled && it->txns == 0)
        decide(it);
    item_unref(it);
}

static struct stream_in *stream_find(const struct keel_in *in, const char *name, bool is_share)
{
    for (size_t i = 0; i < in->n; i++)
        for (size_t k = 0; k < in->readers[i].n; k++)
            if (in->readers[i].is_share == is_share && strcmp(in->readers[i].streams[k]->name, name) == 0)
                return in->readers[i].streams[k];
    return NULL;
}

static struct item *item_find(const struct stream_in *s, const struct mark *m, uint64_t seq)
{
    struct item *it = s->first;
    while (it != NULL && (it->mark != m || it->h.seq != seq))
        it = it->next;
    return it;
}

void keel_bus_mark(struct keel_rt *rt, const struct keel_header *rec, struct keel_txn *txn)
{
    struct keel_in *in = rt->bus != NULL ? rt->bus->in : NULL;
    struct stream_in *s = in != NULL ? stream_find(in, rec->stream, true) : NULL;
    struct mark *m = s != NULL ? mark_find(s, rec->producer, rec->epoch) : NULL;
    struct item *it = m != NULL ? item_find(s, m, rec->seq) : NULL;
    if (it == NULL || keel_txn_store(txn) != rt->store)
        return;
    keel_txn_exec(txn, mark_sql, "sssi", m->producer, m->epoch, s->name, (int64_t)rec->seq);
    if (m->unsaved++ % MARK_SAVE_EVERY == 0) {
        /* Only what is committed already is below the low mark in memory. */
        int64_t low = (int64_t)m->applied.low;
        keel_txn_exec(txn, low_sql, "sssiii", m->producer, m->epoch, s->name, low, (int64_t)m->is_durable, keel_wall_ns());
        keel_txn_exec(txn, below_sql, "sssi", m->producer, m->epoch, s->name, low);
    }
    it->txns++;
    it->refs++;
    keel_txn_after(txn, on_mark_settled, it);
}

/* ---- handing out ---- */

static void call_item(struct item *it)
{
    struct reader *r = it->s->reader;
    it->refs++;
    it->state = CALLING;
    it->settled = it->committed = false;
    r->calling++;
    keel_call_record(r->bus->rt, it->op, &it->h, item_payload(it), it->p_len, on_settled, it);
    if (!it->is_dropped)
        busy_take(it);
    item_unref(it);
}

static bool deaths_add(const struct item *it, const char *n, keel_reply_done_fn *fn, void *ctx)
{
    const struct keel_bus *b = it->s->reader->bus;
    struct keel_args a = {0};
    char field[160];
    deaths_field(it, field);
    keel_arg(&a, "HINCRBY");
    keel_arg(&a, b->deaths_key);
    keel_arg(&a, field);
    keel_arg(&a, n);
    return keel_link_send(b->control, &a, 0, fn, ctx);
}

static void counted(struct item *it, const struct redisReply *reply)
{
    int64_t n;
    it->is_counted = true;
    if (!it->is_fetched || !keel_reply_int(reply, &n))
        return;
    if (n > it->s->reader->bus->rt->core->max_deliveries) {
        it->reason = "max_deliveries";
    } else if (n > SUSPECT_AFTER && !it->is_suspect) {
        /* Others were in work with it: this time does not count, the next is its own. */
        deaths_add(it, "-1", NULL, NULL);
        it->is_suspect = true;
        it->is_counted = false;
    }
}

static void on_counted(void *ctx, const struct redisReply *reply)
{
    struct item *it = ctx;
    it->s->reader->counting--;
    if (it->is_dropped) {
        item_unref(it);
        return;
    }
    if (reply == NULL || keel_reply_error(reply) != NULL) {
        if (it->s->reader->alone == it)
            it->s->reader->alone = NULL;
        wait_a_moment(it, RETRYING, RETRY_MAX_NS);
    } else {
        counted(it, reply);
        queue_push(it->s->reader, it);
    }
    item_unref(it);
}

/* The count of deaths is raised before the record is touched. */
static void count_first(struct item *it)
{
    struct reader *r = it->s->reader;
    struct keel_bus *b = r->bus;
    struct keel_args a = {0};
    char id[KEEL_SID_TEXT], n[24];
    bool sent;
    busy_take(it);
    it->state = CLAIMING;
    it->refs++;
    if (it->is_fetched) {
        sent = deaths_add(it, "1", on_counted, it);
    } else {
        keel_sid_print(it->id, id);
        snprintf(n, sizeof n, "%llu", (unsigned long long)(it->deliveries + 1));
        keel_arg(&a, "XCLAIM");
        keel_arg(&a, it->s->key);
        keel_arg(&a, b->group);
        keel_arg(&a, b->in->consumer);
        keel_arg(&a, "0");
        keel_arg(&a, id);
        keel_arg(&a, "RETRYCOUNT");
        keel_arg(&a, n);
        keel_arg(&a, "JUSTID");
        sent = keel_link_send(b->control, &a, 0, on_counted, it);
    }
    r->counting += sent;
    if (sent)
        return;
    it->refs--;
    if (r->alone == it)
        r->alone = NULL;
    wait_a_moment(it, RETRYING, RETRY_MAX_NS);
}

/* true: there is more that could go on at once. */
static bool reader_run(struct reader *r, int64_t slice_ns)
{
    int64_t until_ns = keel_mono_ns() + slice_ns;
    struct item *it;
    while ((it = queue_next(r)) != NULL) {
        if (it->reason == NULL && keel_call_slots(r->bus->rt) == 0)
            return false;
        if (it->is_suspect && r->calling + r->counting > 0)
            return false;
        queue_take(r, it);
        if (busy_behind(it))
            continue;
        if (it->reason != NULL) {
            if (it->mark != NULL)
                busy_take(it);
            bury(it, it->reason);
        } else {
            if (it->is_suspect)
                r->alone = it;
            if (it->is_counted)
                call_item(it);
            else
                count_first(it);
        }
        if (keel_mono_ns() > until_ns)
            return queue_next(r) != NULL;
    }
    return false;
}

/* ---- holes ---- */

static void held_add(struct mark *m, struct item *it)
{
    struct item **at = &m->held;
    while (*at != NULL && (*at)->h.seq < it->h.seq)
        at = &(*at)->chain;
    it->chain = *at;
    *at = it;
    it->state = HELD;
    it->s->reader->waiting++;
}

/* What no longer has a hole before it, or all of it, goes on in order. */
static void held_release(struct mark *m, bool all)
{
    while (m->held != NULL && (all || !hole_below(m, m->held->h.seq))) {
        struct item *it = m->held;
        m->held = it->chain;
        it->s->reader->waiting--;
        queue_append(it->s->reader, it);
    }
}

static bool has_hole(const struct mark *m)
{
    return m->seen.n > 0;
}

static void hole_watch(struct stream_in *s, struct mark *m, int64_t now_ns)
{
    held_release(m, false);
    if (!has_hole(m)) {
        m->hole_since_ns = 0;
        m->holds_no_more = m->was_asked = false;
    } else if (m->hole_since_ns == 0) {
        m->hole_since_ns = now_ns;
        stats(s)->gaps++;
    }
}

static void hole_tick(struct stream_in *s, struct mark *m, int64_t now_ns)
{
    if (m->hole_since_ns == 0)
        return;
    if (now_ns - m->hole_since_ns > HOLE_FETCH_NS) {
        s->fetch_wanted = true;
        if (!m->was_asked)
            s->fetch_at_ns = 0; /* a new hole does not wait for the pause after an older question */
        m->was_asked = true;
    }
    if (m->held != NULL && now_ns - m->hole_since_ns > HOLE_HOLD_NS) {
        keel_log(KEEL_LOG_WARN, "hole_in_stream", "stream=%s epoch=%s from_seq=%llu", s->name, m->epoch,
                 (unsigned long long)m->seen.low + 1);
        m->holds_no_more = true;
        held_release(m, true);
    }
}

/* ---- entries ---- */

static bool topic_matches(const char *pattern, const char *topic)
{
    size_t n = strlen(pattern);
    if (n > 0 && pattern[n - 1] == '*')
        return strncmp(pattern, topic, n - 1) == 0;
    return strcmp(pattern, topic) == 0;
}

static const struct keel_op *row_of(const struct keel_rt *rt, const char *topic, enum keel_read read)
{
    for (size_t i = 0; i < rt->n_ops; i++) {
        const struct keel_trigger *on = &rt->ops[i].on;
        if (on->kind == KEEL_ON_TOPIC && on->read == read && topic_matches(on->path, topic))
            return &rt->ops[i];
    }
    return NULL;
}

static const char *foreign(const struct keel_bus *b, const struct keel_envelope *env)
{
    if (strcmp(env->env, b->rt->core->keel_env) != 0)
        return "foreign_env";
    return strcmp(env->mode, keel_mode(b->rt)) != 0 ? "foreign_mode" : NULL;
}

static struct item *item_of_id(const struct stream_in *s, struct keel_sid id)
{
    struct item *it = s->first;
    while (it != NULL && keel_sid_cmp(it->id, id) != 0)
        it = it->next;
    return it;
}

static void pass_over(struct stream_in *s, struct mark *m, const struct keel_entry *e, uint64_t seq)
{
    keel_marks_add(&m->seen, seq);
    keel_marks_add(&m->applied, seq);
    if (seq > m->newest)
        m->newest = seq;
    ack(s, e->id);
}

/* An entry that no row can be asked about: without mark, straight to the dead letters. */
static void accept_bad(struct stream_in *s, const struct keel_entry *e, const struct keel_envelope *env, const char *reason)
{
    struct item *it = item_new(s, e);
    it->h = env->h;
    it->reason = reason;
    queue_append(s->reader, it);
}

static void accept_good(struct stream_in *s, const struct keel_entry *e, const struct keel_envelope *env,
                        enum origin origin, uint64_t deliveries)
{
    struct keel_bus *b = s->reader->bus;
    enum keel_read read = s->reader->is_share ? KEEL_SHARE : KEEL_EACH;
    struct mark *m = mark_get(s, env->h.producer, env->h.epoch, is_durable_topic(env->h.topic));
    uint64_t seq = env->h.seq;
    if (keel_marks_has(&m->seen, seq)) {
        const struct item *same = keel_marks_has(&m->applied, seq) ? NULL : item_find(s, m, seq);
        if (same == NULL || keel_sid_cmp(same->id, e->id) != 0) {
            b->duplicates++;
            ack(s, e->id);
        }
        return;
    }
    bool is_whole = m->is_durable && is_gapless(s);
    if (!is_whole && m->top > 0 && seq > m->top + 1)
        stats(s)->gaps++;
    if (seq > m->top)
        m->top = seq;
    const struct keel_op *op = row_of(b->rt, env->h.topic, read);
    if (op == NULL) {
        pass_over(s, m, e, seq);
    } else {
        struct item *it = item_new(s, e);
        keel_marks_add(&m->seen, seq);
        m->in_hand++;
        it->mark = m;
        it->op = op;
        it->h = env->h;
        it->deliveries = deliveries;
        it->is_fetched = origin == FROM_OWNER;
        it->is_suspect = deliveries >= SUSPECT_AFTER;
        it->is_counted = !it->is_fetched && !it->is_suspect;
        if (deliveries >= (uint64_t)b->rt->core->max_deliveries)
            it->reason = "max_deliveries";
        keel_bus_copy(it->h.stream, sizeof it->h.stream, s->name);
        if (is_whole && !m->holds_no_more && hole_below(m, seq))
            held_add(m, it);
        else
            queue_append(s->reader, it);
    }
    if (is_whole)
        hole_watch(s, m, keel_mono_ns());
}

/* deliveries: how often a process of ours died with it. */
static void accept_entry(struct stream_in *s, const struct keel_entry *e, enum origin origin, uint64_t deliveries)
{
    struct keel_bus *b = s->reader->bus;
    struct keel_envelope env = {0};
    if (e->gone) {
        stats(s)->dropped++;
        ack(s, e->id);
        return;
    }
    const char *reason = keel_head_parse(e->h, e->h_len, &env);
    if (reason == NULL)
        reason = foreign(b, &env);
    if (reason != NULL)
        accept_bad(s, e, &env, reason);
    else
        accept_good(s, e, &env, origin, deliveries);
    if (keel_sid_cmp(e->id, s->pos) > 0) {
        s->pos = e->id;
        b->in->has_moved = true;
    }
}

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

static void on_tail(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    struct keel_entry e;
    if (step_failed(s, reply))
        return;
    bool has_tail = keel_entry_parse(keel_reply_at(reply, 0), &e);
    if (!s->was_recovered)
        s->pos = has_tail ? e.id : (struct keel_sid){0, 0};
    else if (!has_tail || keel_sid_cmp(e.id, s->pos) < 0)
        s->pos = (struct keel_sid){0, 0}; /* Redis lost what was read; what is known is passed over */
    s->was_recovered = true;
    next_step(s, IN_READY);
}

static void ask_tail(struct stream_in *s)
{
    struct keel_args a = {0};
    keel_arg(&a, "XREVRANGE");
    keel_arg(&a, s->key);
    keel_arg(&a, "+");
    keel_arg(&a, "-");
    keel_arg(&a, "COUNT");
    keel_arg(&a, "1");
    s->is_stepping = keel_link_send(s->reader->bus->control, &a, 0, on_tail, s);
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
    struct keel_args a = {0};
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
    struct keel_args a = {0};
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
    accept_entry(one->s, e, FROM_PENDING, one->deliveries);
}

static void on_one(void *ctx, const struct redisReply *reply)
{
    struct one *one = ctx;
    struct stream_in *s = one->s;
    if (reply != NULL && keel_reply_error(reply) == NULL && !s->reader->bus->in->is_stopped) {
        struct keel_sid id = one->id;
        keel_range_parse(reply, one_entry, one);
        if (one->id.ms != 0) {
            stats(s)->dropped++; /* trimmed before it was handled */
            ack(s, id);
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
    struct keel_args range = {0}, claim = {0};
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
        if (item_of_id(s, id) == NULL)
            recover_one(s, id, deliveries > 0 ? (uint64_t)deliveries : 0);
    }
    page_over(s);
}

static void ask_pending(struct stream_in *s)
{
    struct keel_args a = {0};
    char from[KEEL_SID_TEXT + 1] = "-", count[24];
    if (s->page.ms != 0) {
        from[0] = '(';
        keel_sid_print(s->page, from + 1);
    }
    snprintf(count, sizeof count, "%d", PENDING_PAGE);
    acks_flush(s); /* what is acknowledged already shall not come again */
    keel_arg(&a, "XPENDING");
    keel_arg(&a, s->key);
    keel_arg(&a, s->reader->bus->group);
    keel_arg(&a, from);
    keel_arg(&a, "+");
    keel_arg(&a, count);
    keel_arg(&a, s->reader->bus->in->consumer);
    s->is_stepping = keel_link_send(s->reader->bus->control, &a, 0, on_pending, s);
}

static void step(struct stream_in *s, int64_t now_ns)
{
    if (s->step == IN_READY || s->is_stepping || now_ns < s->step_at_ns || !keel_link_is_up(s->reader->bus->control))
        return;
    if (!s->reader->is_share)
        ask_tail(s);
    else if (s->step == IN_NEW)
        ask_group(s);
    else if (s->step == IN_PLACE)
        s->is_stepping = ask_place(s, on_place);
    else
        ask_pending(s);
}

/* Back to the start, at the latest when the answer under way has come. */
static void reset(struct stream_in *s)
{
    if (s->is_stepping)
        s->again = true;
    else
        s->step = IN_NEW;
}

/* ---- reading ---- */

static void on_entry(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    struct reader *r = ctx;
    for (size_t i = 0; i < r->n; i++) {
        struct stream_in *s = r->streams[i];
        if (strlen(s->key) == key_len && memcmp(s->key, key, key_len) == 0) {
            accept_entry(s, e, FROM_STREAM, 0);
            return;
        }
    }
}

static void read_refused(struct reader *r, const char *why)
{
    bool gone = strncmp(why, "NOGROUP", 7) == 0 || strncmp(why, "UNBLOCKED", 9) == 0;
    r->read_at_ns = keel_mono_ns() + (gone ? 20 * KEEL_MS_NS : KEEL_S_NS);
    keel_log_often(KEEL_LOG_WARN, "read_refused", "detail=%s", why);
    for (size_t i = 0; i < r->n && gone; i++)
        reset(r->streams[i]);
    keel_bus_soon(r->bus);
}

static void on_read(void *ctx, const struct redisReply *reply)
{
    struct reader *r = ctx;
    const char *why = keel_reply_error(reply);
    r->is_reading = false;
    if (r->has_permit) {
        r->has_permit = false;
        keel_dep_settle(r->bus->rt, r->permit, r->bus->in->is_stopped          ? KEEL_OUT_CANCELLED
                                               : reply != NULL && why == NULL ? KEEL_OUT_OK
                                                                              : KEEL_OUT_FAILURE);
    }
    if (reply == NULL || r->bus->in->is_stopped)
        return;
    if (why != NULL) {
        read_refused(r, why);
        return;
    }
    size_t bad = keel_stream_parse(reply, on_entry, r);
    if (bad > 0)
        keel_log_often(KEEL_LOG_ERROR, "odd_reply", "parts=%zu", bad);
}

static size_t count_wanted(const struct reader *r)
{
    size_t count = r->bus->is_hybrid && r->lane == KEEL_LANE_CRITICAL ? COUNT_CRITICAL : COUNT_BULK / r->n;
    size_t slots = keel_call_slots(r->bus->rt) / r->n;
    if (count < COUNT_CRITICAL)
        count = COUNT_CRITICAL;
    if (count > slots)
        count = slots;
    return count > 0 ? count : 1;
}

static bool may_read(const struct reader *r, int64_t now_ns)
{
    if (r->bus->in->is_stopped || r->is_reading || now_ns < r->read_at_ns || r->in_hand >= BACKLOG ||
        !keel_link_is_up(r->link) || keel_call_slots(r->bus->rt) == 0)
        return false;
    for (size_t i = 0; i < r->n; i++)
        if (r->streams[i]->step != IN_READY)
            return false;
    return true;
}

static void read_more(struct reader *r, int64_t now_ns)
{
    struct keel_args a = {0};
    struct keel_refusal refusal;
    char count[24], block[24], pos[MAX_STREAMS][KEEL_SID_TEXT];
    if (!may_read(r, now_ns))
        return;
    if (keel_dep_admit(r->bus->rt, r->bus->in->dep, &r->permit, &refusal) != KEEL_OK)
        return;
    snprintf(count, sizeof count, "%zu", count_wanted(r));
    snprintf(block, sizeof block, "%d", BLOCK_MS);
    keel_arg(&a, r->is_share ? "XREADGROUP" : "XREAD");
    if (r->is_share) {
        keel_arg(&a, "GROUP");
        keel_arg(&a, r->bus->group);
        keel_arg(&a, r->bus->in->consumer);
    }
    keel_arg(&a, "COUNT");
    keel_arg(&a, count);
    keel_arg(&a, "BLOCK");
    keel_arg(&a, block);
    keel_arg(&a, "STREAMS");
    for (size_t i = 0; i < r->n; i++)
        keel_arg(&a, r->streams[i]->key);
    for (size_t i = 0; i < r->n; i++) {
        keel_sid_print(r->streams[i]->pos, pos[i]);
        keel_arg(&a, r->is_share ? ">" : pos[i]);
    }
    r->is_reading = r->has_permit = keel_link_send(r->link, &a, BLOCK_MS * KEEL_MS_NS, on_read, r);
    if (!r->is_reading)
        keel_dep_settle(r->bus->rt, r->permit, KEEL_OUT_CANCELLED);
}

static void on_link_up(void *ctx)
{
    struct reader *r = ctx;
    keel_bus_soon(r->bus);
}

/* A reply may have been lost on the way: what it held is pending now. The owner is asked too. */
static void on_link_down(void *ctx)
{
    struct reader *r = ctx;
    for (size_t i = 0; i < r->n; i++) {
        reset(r->streams[i]);
        r->streams[i]->fetch_wanted = is_gapless(r->streams[i]);
    }
}

void keel_in_control_up(struct keel_bus *b)
{
    for (size_t i = 0; i < b->in->n; i++)
        for (size_t k = 0; k < b->in->readers[i].n; k++)
            reset(b->in->readers[i].streams[k]);
    keel_bus_soon(b);
}

static void position_write(struct stream_in *s, int64_t now_ns);

bool keel_in_run(struct keel_bus *b)
{
    struct keel_in *in = b->in;
    size_t bulk = 0;
    bool more = false, up = keel_link_is_up(b->control);
    int64_t now_ns = keel_mono_ns();
    for (size_t i = 0; i < in->n; i++)
        bulk += in->readers[i].lane != KEEL_LANE_CRITICAL && in->readers[i].first != NULL;
    for (size_t i = 0; i < in->n; i++) {
        struct reader *r = &in->readers[i];
        bool is_critical = b->is_hybrid && r->lane == KEEL_LANE_CRITICAL;
        if (r->first != NULL)
            more |= reader_run(r, is_critical ? CRITICAL_SLICE_NS : BULK_SLICE_NS / (int64_t)(bulk > 0 ? bulk : 1));
        if (!r->is_reading)
            read_more(r, keel_mono_ns());
        for (size_t k = 0; k < r->n; k++) {
            acks_flush(r->streams[k]);
            if (up && r->streams[k]->first == NULL)
                position_write(r->streams[k], now_ns);
        }
    }
    return more;
}

/* ---- asking the owner ---- */

struct fetched { struct stream_in *s; char epoch[24]; uint64_t from; };

static uint64_t number(const struct keel_jval *v)
{
    int64_t n = 0;
    if (v == NULL || v->type != KEEL_JNUM || keel_i64_parse(v->text, v->len, &n) != KEEL_OK || n < 0)
        return 0;
    return (uint64_t)n;
}

/* Numbers of [lo, hi] that the owner does not have (any more) will never come. */
static void close_hole(struct mark *m, uint64_t lo, uint64_t hi)
{
    struct keel_range hole;
    while (lo <= hi && keel_marks_missing(&m->seen, lo, hi, &hole)) {
        keel_marks_add_range(&m->seen, hole.a, hole.b);
        keel_marks_add_range(&m->applied, hole.a, hole.b);
        lo = hole.b + 1;
    }
}

static void take_records(struct stream_in *s, const struct fetched *f, const char *epoch, const struct keel_jval *answer)
{
    const struct keel_jval *records = keel_jget(answer, "records");
    uint64_t next = number(keel_jget(answer, "next")), last = number(keel_jget(answer, "last_seq"));
    uint64_t upto = next > 0 ? next - 1 : last, at = f->from;
    struct mark *m = mark_get(s, keel_jstr(answer, "producer"), epoch, true);
    for (const struct keel_jval *r = records != NULL ? records->child : NULL; r != NULL; r = r->next) {
        const struct keel_jval *h = keel_jget(r, "h"), *p = keel_jget(r, "p");
        struct keel_envelope env;
        if (h == NULL || h->type != KEEL_JSTR || p == NULL || p->type != KEEL_JOBJ ||
            keel_head_parse(h->text, h->len, &env) != NULL || env.h.seq < at)
            continue;
        if (env.h.seq > at && env.h.seq <= upto + 1)
            close_hole(m, at, env.h.seq - 1);
        struct keel_entry e = {.h = h->text, .h_len = h->len, .p = p->raw, .p_len = p->raw_len};
        accept_entry(s, &e, FROM_OWNER, 0);
        at = env.h.seq + 1;
    }
    if (at <= upto)
        close_hole(m, at, upto);
    hole_watch(s, m, keel_mono_ns());
    if (next > 0)
        s->fetch_at_ns = 0; /* as soon as there is room */
    else
        s->fetch_wanted = false;
}

static void take_answer(struct stream_in *s, const struct fetched *f, const struct keel_jval *answer)
{
    const char *epoch = keel_jstr(answer, "epoch");
    if (epoch[0] == '\0') {
        s->fetch_wanted = false; /* it has no store: nothing durable */
        return;
    }
    if (f->epoch[0] != '\0' && strcmp(f->epoch, epoch) != 0) {
        /* Its store was born again. What the old one held is lost; the new one is asked from its beginning. */
        for (struct mark *m = s->marks; m != NULL; m = m->next) {
            if (m->is_durable && strcmp(m->epoch, f->epoch) == 0 && m->seen.n > 0)
                close_hole(m, 1, m->seen.range[m->seen.n - 1].b);
            held_release(m, false);
        }
        mark_get(s, keel_jstr(answer, "producer"), epoch, true);
        s->fetch_at_ns = 0;
        return;
    }
    take_records(s, f, epoch, answer);
}

/* None of its streams is asked for a while: every question would count against the peer's breaker. */
static void owner_is_away(struct keel_in *in, const char *engine)
{
    int64_t again_ns = keel_mono_ns() + FETCH_EVERY_NS;
    for (size_t i = 0; i < in->n; i++)
        for (size_t k = 0; k < in->readers[i].n; k++)
            if (strcmp(in->readers[i].streams[k]->engine, engine) == 0)
                in->readers[i].streams[k]->fetch_at_ns = again_ns;
}

static void on_fetched(struct keel_rt *rt, void *ctx, const struct keel_reply *reply)
{
    struct fetched *f = ctx;
    struct keel_in *in = rt->bus != NULL ? rt->bus->in : NULL;
    const struct keel_jval *answer = NULL;
    const char *why;
    if (in != NULL && !in->is_stopped) {
        f->s->is_fetching = false;
        if (reply->status == KEEL_OK && reply->http == 200 &&
            keel_json_parse(in->scratch, reply->body, reply->len, &answer, &why) == KEEL_OK)
            take_answer(f->s, f, answer);
        else
            owner_is_away(in, f->s->engine);
        keel_arena_reset(in->scratch);
    }
    keel_free(f);
}

static void fetch(struct stream_in *s)
{
    struct keel_rt *rt = s->reader->bus->rt;
    const struct mark *m = durable_mark(s);
    struct fetched *f = keel_alloc(1, sizeof *f);
    char path[256];
    f->s = s;
    f->from = m != NULL ? m->seen.low + 1 : 1;
    keel_bus_copy(f->epoch, sizeof f->epoch, m != NULL ? m->epoch : "");
    snprintf(path, sizeof path, "/bus/outbox?stream=%s&from_seq=%llu%s%s", s->name, (unsigned long long)f->from,
             f->epoch[0] != '\0' ? "&epoch=" : "", f->epoch);
    struct keel_peer_req req = {.peer = s->engine, .method = "GET", .path = path, .budget_ns = 3 * KEEL_S_NS};
    s->is_fetching = true;
    keel_peer_fetch(rt, &req, INT64_MAX, NULL, on_fetched, f);
}

/* One question at a time to an owner. */
static void fetch_if_needed(struct stream_in *s, int64_t now_ns)
{
    const struct keel_in *in = s->reader->bus->in;
    for (struct mark *m = s->marks; m != NULL; m = m->next)
        if (m->is_durable)
            hole_tick(s, m, now_ns);
    if (!s->fetch_wanted || s->is_fetching || s->step != IN_READY || now_ns < s->fetch_at_ns || s->reader->in_hand >= 2 * BACKLOG)
        return;
    for (size_t i = 0; i < in->n; i++)
        for (size_t k = 0; k < in->readers[i].n; k++)
            if (in->readers[i].streams[k]->is_fetching && strcmp(in->readers[i].streams[k]->engine, s->engine) == 0)
                return;
    s->fetch_at_ns = now_ns + FETCH_EVERY_NS;
    fetch(s);
}

/* ---- entries of dead consumers ---- */

static void on_taken_over(void *ctx, const struct redisReply *reply);

static void taken_over(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    struct stream_in *s = ctx;
    (void)key;
    (void)key_len;
    if (item_of_id(s, e->id) == NULL)
        accept_entry(s, e, FROM_PENDING, 0);
}

static void on_taken_over(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    if (!s->reader->bus->in->is_stopped)
        keel_range_parse(reply, taken_over, s);
}

static void on_others_pending(void *ctx, const struct redisReply *reply)
{
    struct stream_in *s = ctx;
    struct keel_bus *b = s->reader->bus;
    size_t n = keel_reply_n(reply);
    struct keel_args a = {0};
    keel_arg(&a, "XCLAIM");
    keel_arg(&a, s->key);
    keel_arg(&a, b->group);
    keel_arg(&a, b->in->consumer);
    keel_arg(&a, CLAIM_IDLE_TEXT);
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
    for (size_t i = 0; i < keel_reply_n(reply) && !b->in->is_stopped; i++) {
        const struct redisReply *row = keel_reply_at(reply, i), *name = keel_reply_member(row, "name");
        struct keel_args a = {0};
        const char *text;
        size_t len;
        int64_t idle_ms, pending;
        if (!keel_reply_text(name, &text, &len) || keel_reply_is(name, b->in->consumer) ||
            !keel_reply_int(keel_reply_member(row, "idle"), &idle_ms) ||
            !keel_reply_int(keel_reply_member(row, "pending"), &pending) || pending == 0 ||
            idle_ms * KEEL_MS_NS < CLAIM_IDLE_NS)
            continue;
        keel_arg(&a, "XPENDING");
        keel_arg(&a, s->key);
        keel_arg(&a, b->group);
        keel_arg(&a, "IDLE");
        keel_arg(&a, CLAIM_IDLE_TEXT);
        keel_arg(&a, "-");
        keel_arg(&a, "+");
        keel_arg(&a, "100");
        keel_argn(&a, text, len);
        keel_link_send(b->control, &a, 0, on_others_pending, s);
    }
}

static void ask_consumers(struct stream_in *s)
{
    struct keel_args a = {0};
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

/* ---- positions ---- */

static struct keel_sid handled_upto(const struct stream_in *s)
{
    return s->first != NULL ? s->first->before : s->pos;
}

static void position_name(const struct stream_in *s, char buf[96])
{
    snprintf(buf, 96, "%s%s", s->reader->bus->in->consumer, s->reader->is_share ? "" : ":each");
}

static void position_write(struct stream_in *s, int64_t now_ns)
{
    struct keel_args a = {0};
    struct keel_sid id = handled_upto(s);
    bool moved = keel_sid_cmp(id, s->written_id) != 0;
    char name[96], value[96], text[KEEL_SID_TEXT];
    int64_t period = !moved ? KEEL_S_NS : s->first == NULL ? POSITION_IDLE_NS : POSITION_NS;
    if (s->step != IN_READY || now_ns - s->written_ns < period)
        return;
    keel_sid_print(id, text);
    snprintf(value, sizeof value, "%s|%lld", text, (long long)(keel_wall_ns() / KEEL_MS_NS));
    position_name(s, name);
    keel_arg(&a, "HSET");
    keel_arg(&a, s->readers_key);
    keel_arg(&a, name);
    keel_arg(&a, value);
    if (!keel_link_send(s->reader->bus->control, &a, 0, NULL, NULL))
        return;
    s->written_id = id;
    s->written_ns = now_ns;
}

static void position_forget(struct stream_in *s)
{
    struct keel_args a = {0};
    char name[96];
    position_name(s, name);
    keel_arg(&a, "HDEL");
    keel_arg(&a, s->readers_key);
    keel_arg(&a, name);
    keel_link_send(s->reader->bus->control, &a, 0, NULL, NULL);
}

/* ---- ticks ---- */

static void waiting_tick(struct reader *r, int64_t now_ns)
{
    for (size_t i = 0; i < r->n; i++) {
        for (struct item *it = r->streams[i]->first, *next; it != NULL; it = next) {
            next = it->next;
            if ((it->state != RETRYING && it->state != BURYING) || it->retry_at_ns == 0 || now_ns < it->retry_at_ns)
                continue;
            it->retry_at_ns = 0;
            r->waiting--;
            if (it->state == BURYING)
                bury(it, it->reason);
            else
                queue_push(r, it);
        }
    }
}

void keel_in_tick(struct keel_bus *b, int64_t now_ns)
{
    struct keel_in *in = b->in;
    bool up = keel_link_is_up(b->control);
    in->has_moved = false;
    for (size_t i = 0; i < in->n; i++) {
        struct reader *r = &in->readers[i];
        if (in->is_stopped)
            continue;
        keel_link_tick(r->link, now_ns);
        if (r->waiting > 0)
            waiting_tick(r, now_ns);
        for (size_t k = 0; k < r->n; k++) {
            struct stream_in *s = r->streams[k];
            step(s, now_ns);
            acks_flush(s);
            if (up)
                position_write(s, now_ns);
            if (is_gapless(s))
                fetch_if_needed(s, now_ns);
        }
        read_more(r, now_ns);
    }
}

void keel_in_second(struct keel_bus *b, int64_t now_ns)
{
    struct keel_in *in = b->in;
    bool claims = now_ns >= in->claim_at_ns;
    if (claims)
        in->claim_at_ns = now_ns + CLAIM_IDLE_NS / 2;
    for (size_t i = 0; i < in->n; i++) {
        struct reader *r = &in->readers[i];
        for (size_t k = 0; k < r->n && r->is_share && !in->is_stopped; k++) {
            struct stream_in *s = r->streams[k];
            if (s->step != IN_READY || s->is_asking)
                continue;
            s->is_asking = ask_place(s, on_lag);
            if (claims)
                ask_consumers(s);
        }
    }
}

bool keel_in_is_advancing(const struct keel_bus *b)
{
    for (size_t i = 0; i < b->in->n; i++) {
        const struct reader *r = &b->in->readers[i];
        if (r->waiting > 0)
            return true;
        for (size_t k = 0; k < r->n; k++)
            if (keel_sid_cmp(handled_upto(r->streams[k]), r->streams[k]->written_id) != 0)
                return true;
    }
    return b->in->has_moved;
}

bool keel_in_is_up(const struct keel_bus *b)
{
    for (size_t i = 0; i < b->in->n; i++)
        if (!b->in->is_stopped && !keel_link_is_up(b->in->readers[i].link))
            return false;
    return true;
}

size_t keel_in_backlog(const struct keel_bus *b, int lane)
{
    size_t n = 0;
    for (size_t i = 0; b->in != NULL && i < b->in->n; i++)
        for (size_t k = 0; k < b->in->readers[i].n; k++)
            for (const struct item *it = b->in->readers[i].streams[k]->first; it != NULL; it = it->next)
                n += lane < 0 || it->s->lane == (enum keel_lane)lane;
    return n;
}

void keel_in_lane_json(const struct keel_bus *b, enum keel_lane lane, struct keel_json *w)
{
    int64_t lag = 0, pending = 0, now_ns = keel_mono_ns(), oldest_ns = now_ns;
    for (size_t i = 0; b->in != NULL && i < b->in->n; i++) {
        const struct reader *r = &b->in->readers[i];
        for (size_t k = 0; k < r->n; k++) {
            const struct stream_in *s = r->streams[k];
            if (s->lane != lane)
                continue;
            lag += s->lag;
            pending += s->pending;
            if (s->first != NULL && s->first->since_ns < oldest_ns)
                oldest_ns = s->first->since_ns;
        }
    }
    keel_json_i64(w, "lag", lag + (int64_t)keel_in_backlog(b, (int)lane));
    keel_json_i64(w, "pending", pending);
    keel_json_i64(w, "oldest_ms", (now_ns - oldest_ns) / KEEL_MS_NS);
}

/* How far a producer has been handled: the memory record that settled last, else the durable one. */
static void producer_json(const struct keel_in *in, const char *engine, struct keel_json *w)
{
    const struct mark *best = NULL;
    const char *stream = "";
    for (size_t i = 0; i < in->n; i++) {
        for (size_t k = 0; k < in->readers[i].n; k++) {
            const struct stream_in *s = in->readers[i].streams[k];
            for (const struct mark *m = s->marks; m != NULL && strcmp(s->engine, engine) == 0; m = m->next) {
                bool better = best == NULL || (best->is_durable && !m->is_durable) ||
                              (best->is_durable == m->is_durable && m->newest > best->newest);
                if (m->newest == 0 || !better)
                    continue;
                best = m;
                stream = s->name;
            }
        }
    }
    if (best == NULL)
        return;
    keel_json_obj(w, engine);
    keel_json_str(w, "stream", stream);
    keel_json_str(w, "epoch", best->epoch);
    keel_json_u64(w, "seq", best->newest);
    keel_json_end(w);
}

static bool is_first_of_engine(const struct keel_in *in, size_t reader, size_t stream)
{
    const char *engine = in->readers[reader].streams[stream]->engine;
    for (size_t i = 0; i <= reader; i++)
        for (size_t k = 0; k < (i == reader ? stream : in->readers[i].n); k++)
            if (strcmp(in->readers[i].streams[k]->engine, engine) == 0)
                return false;
    return true;
}

void keel_in_producers_json(const struct keel_bus *b, struct keel_json *w)
{
    for (size_t i = 0; b->in != NULL && i < b->in->n; i++)
        for (size_t k = 0; k < b->in->readers[i].n; k++)
            if (is_first_of_engine(b->in, i, k))
                producer_json(b->in, b->in->readers[i].streams[k]->engine, w);
}

/* ---- replay of a dead letter ---- */

enum keel_status keel_in_replay(struct keel_bus *b, const struct keel_entry *e, uint64_t token)
{
    struct keel_envelope env;
    char name[64] = "";
    const char *text;
    size_t len;
    if (keel_entry_field(e, "stream", &text, &len) && len < sizeof name)
        memcpy(name, text, len);
    if (b->in == NULL || b->in->is_stopped || keel_head_parse(e->h, e->h_len, &env) != NULL || foreign(b, &env) != NULL)
        return KEEL_NOTFOUND;
    const struct keel_op *op = row_of(b->rt, env.h.topic, KEEL_SHARE);
    if (op == NULL)
        op = row_of(b->rt, env.h.topic, KEEL_EACH);
    struct stream_in *s = op != NULL ? stream_find(b->in, name, op->on.read == KEEL_SHARE) : NULL;
    if (s == NULL)
        return KEEL_NOTFOUND;
    struct keel_entry again = *e;
    again.id = (struct keel_sid){0, 0};
    struct item *it = item_new(s, &again);
    it->op = op;
    it->h = env.h;
    it->token = token;
    it->is_counted = true;
    it->dead = e->id;
    it->mark = mark_get(s, env.h.producer, env.h.epoch, is_durable_topic(env.h.topic));
    it->mark->in_hand++;
    keel_bus_copy(it->h.stream, sizeof it->h.stream, s->name);
    queue_append(s->reader, it);
    return KEEL_OK;
}

/* ---- opening and closing ---- */

static struct reader *reader_get(struct keel_in *in, enum keel_lane lane, bool is_share)
{
    for (size_t i = 0; i < in->n; i++)
        if (in->readers[i].is_share == is_share && (!in->bus->is_hybrid || in->readers[i].lane == lane))
            return &in->readers[i];
    struct reader *r = &in->readers[in->n++];
    r->bus = in->bus;
    r->lane = lane;
    r->is_share = is_share;
    return r;
}

static bool wants_durable(const struct keel_rt *rt, const char *engine)
{
    size_t n, len = strlen(engine);
    const struct keel_topic *t = keel_topics(&n);
    for (size_t i = 0; i < n; i++)
        if (t[i].durable && strncmp(t[i].name, engine, len) == 0 && t[i].name[len] == '.' &&
            row_of(rt, t[i].name, KEEL_SHARE) != NULL)
            return true;
    return false;
}

static void stream_add(struct keel_in *in, const char *engine, enum keel_lane lane, bool is_share)
{
    struct reader *r = reader_get(in, lane, is_share);
    struct stream_in *s = keel_alloc(1, sizeof *s);
    keel_assert(r->n < MAX_STREAMS);
    r->streams[r->n++] = s;
    s->reader = r;
    s->lane = lane;
    keel_bus_copy(s->engine, sizeof s->engine, engine);
    keel_bus_stream_name(engine, lane, s->name);
    keel_bus_key(in->bus, s->name, "", s->key);
    keel_bus_key(in->bus, s->name, ":readers", s->readers_key);
    s->wants_durable = is_share && wants_durable(in->bus->rt, engine);
    s->fetch_wanted = is_gapless(s);
}

/* All three lanes of a producer, since a plain one publishes everything on the normal stream. */
static void subscribe(struct keel_in *in, const struct keel_trigger *on)
{
    char engine[32], name[64];
    bool is_share = on->read == KEEL_SHARE;
    const char *dot = strchr(on->path, '.');
    keel_assert(dot != NULL && (size_t)(dot - on->path) < sizeof engine);
    memcpy(engine, on->path, (size_t)(dot - on->path));
    engine[dot - on->path] = '\0';
    keel_bus_stream_name(engine, KEEL_LANE_NORMAL, name);
    if (stream_find(in, name, is_share) != NULL)
        return;
    for (int lane = 0; lane < KEEL_N_LANE; lane++)
        stream_add(in, engine, (enum keel_lane)lane, is_share);
}

static enum keel_status each_low(void *ctx, int n, const char *const *cell)
{
    struct keel_in *in = ctx;
    struct stream_in *s = stream_find(in, cell[2], true);
    int64_t low;
    (void)n;
    if (s == NULL || keel_i64_parse(cell[3], strlen(cell[3]), &low) != KEEL_OK || low < 0)
        return KEEL_OK;
    struct mark *m = mark_get(s, cell[0], cell[1], cell[4][0] == '1');
    keel_marks_add_range(&m->applied, 1, (uint64_t)low);
    keel_marks_add_range(&m->seen, 1, (uint64_t)low);
    return KEEL_OK;
}

static enum keel_status each_above(void *ctx, int n, const char *const *cell)
{
    struct keel_in *in = ctx;
    struct stream_in *s = stream_find(in, cell[2], true);
    int64_t seq;
    (void)n;
    if (s == NULL || keel_i64_parse(cell[3], strlen(cell[3]), &seq) != KEEL_OK || seq < 1)
        return KEEL_OK;
    struct mark *m = mark_get(s, cell[0], cell[1], false);
    keel_marks_add(&m->applied, (uint64_t)seq);
    keel_marks_add(&m->seen, (uint64_t)seq);
    return KEEL_OK;
}

static void marks_load(struct keel_in *in)
{
    struct keel_store *store = in->bus->rt->store;
    if (store == NULL)
        return;
    keel_store_each(store, "SELECT producer, epoch, stream, low, durable FROM keel_applied ORDER BY wall_ns", each_low, in);
    keel_store_each(store, "SELECT producer, epoch, stream, seq FROM keel_applied_above ORDER BY seq", each_above, in);
}

void keel_in_open(struct keel_bus *b)
{
    static const char *const lane_name[KEEL_N_LANE] = {"critical", "priority", "normal"};
    struct keel_rt *rt = b->rt;
    struct keel_in *in = keel_alloc(1, sizeof *in);
    in->bus = b;
    in->scratch = keel_arena_new(4096);
    keel_bus_copy(in->consumer, sizeof in->consumer, b->producer);
    for (size_t i = 0; i < rt->n_ops; i++)
        if (rt->ops[i].on.kind == KEEL_ON_TOPIC)
            subscribe(in, &rt->ops[i].on);
    b->in = in;
    if (in->n == 0)
        return;
    marks_load(in);
    in->dep = keel_dep(rt, "redis_read");
    for (size_t i = 0; i < in->n; i++) {
        struct reader *r = &in->readers[i];
        char name[32];
        snprintf(name, sizeof name, "read_%s_%s", r->is_share ? "share" : "each", b->is_hybrid ? lane_name[r->lane] : "all");
        r->link = keel_link_new(&(struct keel_link_conf){.loop = rt->loop, .url = rt->core->redis_url, .name = name,
                                                         .up = on_link_up, .down = on_link_down, .ctx = r});
    }
}

/* What has not begun stays pending in Redis for the next start. */
void keel_in_stop(struct keel_bus *b)
{
    struct keel_in *in = b->in;
    if (in->is_stopped)
        return;
    in->is_stopped = true;
    for (size_t i = 0; i < in->n; i++) {
        struct reader *r = &in->readers[i];
        keel_link_free(r->link);
        r->link = NULL;
        r->first = r->last = NULL;
        r->waiting = 0;
        for (size_t k = 0; k < BUCKETS; k++)
            for (struct busy *key = r->busy[k]; key != NULL; key = key->next)
                key->first = key->last = NULL;
        for (size_t k = 0; k < r->n; k++) {
            struct stream_in *s = r->streams[k];
            for (struct mark *m = s->marks; m != NULL; m = m->next)
                m->held = NULL;
            for (struct item *it = s->first, *next; it != NULL; it = next) {
                next = it->next;
                if (it->state == CALLING || it->state == COMMITTING || (it->state == BURYING && it->retry_at_ns == 0))
                    continue;
                if (it->token != 0)
                    keel_wake(b->rt, it->token, KEEL_DRAINING);
                item_leave(it);
            }
            acks_flush(s);
            position_forget(s);
        }
    }
}

bool keel_in_is_idle(const struct keel_bus *b)
{
    for (size_t i = 0; i < b->in->n; i++) {
        const struct reader *r = &b->in->readers[i];
        if (b->in->is_stopped ? r->in_hand > 0 : r->in_hand > r->waiting)
            return false;
        for (size_t k = 0; k < r->n; k++)
            if (r->streams[k]->n_acks > 0)
                return false;
    }
    return true;
}

void keel_in_free(struct keel_bus *b)
{
    struct keel_in *in = b->in;
    if (in == NULL)
        return;
    keel_in_stop(b);
    for (size_t i = 0; i < in->n; i++) {
        struct reader *r = &in->readers[i];
        for (size_t k = 0; k < r->n; k++) {
            struct stream_in *s = r->streams[k];
            while (s->first != NULL)
                item_leave(s->first);
            while (s->marks != NULL) {
                struct mark *m = s->marks;
                s->marks = m->next;
                mark_free(m);
            }
            keel_free(s);
        }
    }
    keel_arena_free(in->scratch);
    keel_free(in);
    b->in = NULL;
}
