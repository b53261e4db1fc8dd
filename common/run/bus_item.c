/*
 * A record in hand: from the entry that brought it to the mark, the acknowledgement or the dead letter that ends it. It waits in
 * its reader's queue, behind another of its key, for its call, for its commit, or for the moment it is tried again.
 */
#include <stdio.h>
#include <string.h>

#include "bus_in.h"
#include "keel/clock.h"
#include "keel/log.h"

enum { MARK_SAVE_EVERY = 64, MAX_MARKS = 32, DEAD_MAX = 100000 };

#define RETRY_MIN_NS (10 * KEEL_MS_NS)
#define RETRY_MAX_NS (2 * KEEL_S_NS)

static const char mark_sql[] =
    "INSERT OR IGNORE INTO keel_applied_above(producer, epoch, stream, seq) VALUES(?1, ?2, ?3, ?4)";
static const char low_sql[] =
    "INSERT INTO keel_applied(producer, epoch, stream, low, durable, wall_ns) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"
    " ON CONFLICT DO UPDATE SET low = max(low, excluded.low), durable = excluded.durable, wall_ns = excluded.wall_ns";
static const char below_sql[] =
    "DELETE FROM keel_applied_above WHERE producer = ?1 AND epoch = ?2 AND stream = ?3 AND seq <= ?4";

/* ---- marks ---- */

static struct mark *mark_find(const struct stream_in *s, const char *producer, const char *epoch)
{
    struct mark *m = s->marks;
    while (m != NULL && (strcmp(m->epoch, epoch) != 0 || strcmp(m->producer, producer) != 0))
        m = m->next;
    return m;
}

void keel_in_mark_free(struct mark *m)
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
    keel_in_mark_free(m);
}

struct mark *keel_in_mark(struct stream_in *s, const char *producer, const char *epoch, bool is_durable)
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

/* Holes matter where effects go to a store; one of several instances has holes by design. */
bool keel_in_is_gapless(const struct stream_in *s)
{
    const struct keel_rt *rt = s->reader->bus->rt;
    return s->reader->is_share && s->wants_durable && rt->store != NULL && rt->core->instance[0] == '\0';
}

/* ---- acknowledging ---- */

void keel_in_acks_flush(struct stream_in *s)
{
    struct keel_bus *b = s->reader->bus;
    KEEL_ARGS(a);
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

void keel_in_ack(struct stream_in *s, struct keel_sid id)
{
    if (!s->reader->is_share || id.ms == 0)
        return;
    keel_sid_print(id, s->acks[s->n_acks++]);
    if (s->n_acks == ACK_BATCH)
        keel_in_acks_flush(s);
}

/* ---- the queue and the keys ---- */

void keel_in_queue(struct reader *r, struct item *it)
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

void keel_in_queue_first(struct reader *r, struct item *it)
{
    it->state = QUEUED;
    it->chain = r->first;
    r->first = it;
    if (r->last == NULL)
        r->last = it;
    keel_bus_breathe(r->bus);
}

/* Both have ids of the same stream. */
static bool is_earlier(const struct item *a, const struct item *b)
{
    return a->s == b->s && a->id.ms != 0 && b->id.ms != 0 && keel_sid_cmp(a->id, b->id) < 0;
}

void keel_in_queue_early(struct reader *r, struct item *it)
{
    struct item *before = NULL, *at = r->first;
    while (at != NULL && !is_earlier(it, at)) {
        before = at;
        at = at->chain;
    }
    if (before == NULL) {
        keel_in_queue_first(r, it);
    } else if (at == NULL) {
        keel_in_queue(r, it);
    } else {
        it->state = QUEUED;
        it->chain = at;
        before->chain = it;
        keel_bus_breathe(r->bus);
    }
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
    it->busy->holder = it;
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
    k->holder = next;
    keel_in_queue_first(it->s->reader, next);
}

static void behind_add(struct busy *k, struct item *it)
{
    struct item *before = k->last, *at = NULL;
    if (before != NULL && is_earlier(it, before)) {
        for (before = NULL, at = k->first; !is_earlier(it, at); at = at->chain)
            before = at;
    }
    it->state = BEHIND;
    it->chain = at;
    if (before != NULL)
        before->chain = it;
    else
        k->first = it;
    if (at == NULL)
        k->last = it;
}

/*
 * true: it waits behind another of its key. A record of a dead consumer may be earlier than what is in hand: then it goes
 * before those that wait, and before the holder, too, while that only waits to be tried again.
 */
static bool busy_behind(struct item *it)
{
    struct busy *k = it->busy != NULL ? NULL : *busy_at(it->s->reader, it);
    if (k == NULL)
        return false;
    struct item *holder = k->holder;
    if (holder->state != RETRYING || holder->retry_at_ns == 0 || !is_earlier(it, holder)) {
        behind_add(k, it);
        return true;
    }
    holder->busy = NULL;
    holder->retry_at_ns = 0;
    it->s->reader->waiting--;
    behind_add(k, holder);
    it->busy = k;
    k->holder = it;
    return false;
}

/* ---- items ---- */

struct item *keel_in_item(struct stream_in *s, const struct keel_entry *e)
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
void keel_in_leave(struct item *it)
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
    keel_in_stats(it->s)->received++;
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
    KEEL_ARGS(a);
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
    keel_in_ack(it->s, it->id);
    if (it->is_fetched)
        deaths_forget(it);
    keel_in_leave(it);
}

/* ---- dead letters ---- */

static void wait_a_moment(struct item *it, enum item_state state, int64_t wait_ns)
{
    it->state = state;
    it->retry_at_ns = keel_mono_ns() + wait_ns;
    it->s->reader->waiting++;
}

bool keel_in_is_durable(const char *topic)
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
    keel_in_stats(it->s)->dead++;
    keel_bus_dead_added(b, keel_in_is_durable(it->h.topic), it->h.key);
    keel_log_often(KEEL_LOG_ERROR, "dead_letter", "topic=%s stream=%s seq=%llu reason=%s detail=%s", it->h.topic, it->s->name,
                   (unsigned long long)it->h.seq, it->reason, it->detail);
    item_over(it);
    item_unref(it);
}

void keel_in_bury(struct item *it, const char *reason)
{
    struct keel_bus *b = it->s->reader->bus;
    KEEL_ARGS(a);
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
    keel_arg(&a, keel_in_is_durable(it->h.topic) ? "1" : "0");
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
    keel_in_stats(it->s)->retried++;
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
    KEEL_ARGS(a);
    char id[KEEL_SID_TEXT];
    if (!applied) {
        struct keel_call *c = keel_call_of(b->rt, it->token);
        if (c != NULL)
            keel_fail(c, it->st, "%s", it->detail[0] != '\0' ? it->detail : keel_status_text(it->st));
        keel_wake(b->rt, it->token, it->st);
        keel_in_leave(it);
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
        keel_in_leave(it); /* stays pending in Redis */
    } else if (is_senders_fault(it->st)) {
        keel_in_bury(it, keel_status_name(it->st));
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

struct stream_in *keel_in_stream(const struct keel_in *in, const char *name, bool is_share)
{
    for (size_t i = 0; i < in->n; i++)
        for (size_t k = 0; k < in->readers[i].n; k++)
            if (in->readers[i].is_share == is_share && strcmp(in->readers[i].streams[k]->name, name) == 0)
                return in->readers[i].streams[k];
    return NULL;
}

struct item *keel_in_find(const struct stream_in *s, const struct mark *m, uint64_t seq)
{
    struct item *it = s->first;
    while (it != NULL && (it->mark != m || it->h.seq != seq))
        it = it->next;
    return it;
}

void keel_bus_mark(struct keel_rt *rt, const struct keel_header *rec, struct keel_txn *txn)
{
    struct keel_in *in = rt->bus != NULL ? rt->bus->in : NULL;
    struct stream_in *s = in != NULL ? keel_in_stream(in, rec->stream, true) : NULL;
    struct mark *m = s != NULL ? mark_find(s, rec->producer, rec->epoch) : NULL;
    struct item *it = m != NULL ? keel_in_find(s, m, rec->seq) : NULL;
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
    KEEL_ARGS(a);
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
        keel_in_queue_first(it->s->reader, it);
    }
    item_unref(it);
}

/* The count of deaths is raised before the record is touched. */
static void count_first(struct item *it)
{
    struct reader *r = it->s->reader;
    struct keel_bus *b = r->bus;
    KEEL_ARGS(a);
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
bool keel_in_hand_out(struct reader *r, int64_t slice_ns)
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
            keel_in_bury(it, it->reason);
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

/* ---- replay of a dead letter ---- */

enum keel_status keel_in_replay(struct keel_bus *b, const struct keel_entry *e, uint64_t token)
{
    struct keel_envelope env;
    char name[64] = "";
    const char *text;
    size_t len;
    if (keel_entry_field(e, "stream", &text, &len) && len < sizeof name)
        memcpy(name, text, len);
    if (b->in == NULL || b->in->is_stopped || keel_head_parse(e->h, e->h_len, &env) != NULL || keel_in_foreign(b, &env) != NULL)
        return KEEL_NOTFOUND;
    const struct keel_op *op = keel_in_row(b->rt, env.h.topic, KEEL_SHARE);
    if (op == NULL)
        op = keel_in_row(b->rt, env.h.topic, KEEL_EACH);
    struct stream_in *s = op != NULL ? keel_in_stream(b->in, name, op->on.read == KEEL_SHARE) : NULL;
    if (s == NULL)
        return KEEL_NOTFOUND;
    struct keel_entry again = *e;
    again.id = (struct keel_sid){0, 0};
    struct item *it = keel_in_item(s, &again);
    it->op = op;
    it->h = env.h;
    it->token = token;
    it->is_counted = true;
    it->dead = e->id;
    it->mark = keel_in_mark(s, env.h.producer, env.h.epoch, keel_in_is_durable(env.h.topic));
    it->mark->in_hand++;
    keel_bus_copy(it->h.stream, sizeof it->h.stream, s->name);
    keel_in_queue(s->reader, it);
    return KEEL_OK;
}
