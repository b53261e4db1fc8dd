/*
 * Durable records: rows of the table keel_outbox in the transaction of their cause, sent once that is committed, and read from
 * the file again when Redis has lost them or memory has no room.
 */
#include <stdio.h>
#include <string.h>

#include "outbox.h"
#include "keel/clock.h"
#include "keel/log.h"

enum { LOAD_ROWS = 500 };

#define PRUNE_NS (600 * KEEL_S_NS)
#define DAY_NS (86400 * KEEL_S_NS)

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
    keel_out_count(b, b->published, r->topic);
    bool from_file = s->db_from > 0 && r->seq >= s->db_from;
    if (!b->has_redis || from_file || b->out->queued >= (size_t)rt->core->max_buffer_size) {
        if (b->has_redis && s->db_from == 0)
            s->db_from = r->seq;
        keel_free(r);
        return;
    }
    char head[KEEL_HEAD_TEXT];
    size_t n = keel_head_stamp(r->text, r->h_len, keel_wall_ns(), head);
    keel_out_queue(s, keel_out_rec(s, r->topic, r->seq, true, head, n, r->text + r->h_len, r->p_len));
    keel_free(r);
    keel_out_flush_when_due(s);
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
    struct stream *s = keel_out_stream(o, topic);
    struct keel_header h = {.seq = ++s->durable_seq};
    struct keel_json w;
    char head[KEEL_HEAD_TEXT];

    header_of_cause(&h, b->rt, c, ts_event, ts_init);
    keel_bus_copy(h.topic, sizeof h.topic, topic);
    keel_bus_copy(h.producer, sizeof h.producer, b->producer);
    keel_bus_copy(h.epoch, sizeof h.epoch, o->epoch);
    keel_out_key(h.key, key);
    size_t n = keel_head_print(b->rt->core->keel_env, keel_mode(b->rt), &h, head);

    keel_json_init(&w, o->scratch, 1024);
    keel_json_obj(&w, NULL);
    keel_record_encode(found->fields, record, &w);
    keel_json_end(&w);
    const char *payload = keel_json_text(&w);
    keel_txn_exec(t, insert_sql, "sissssi", s->name, (int64_t)h.seq, topic, h.key, head, payload, keel_wall_ns());
    struct rec *r = keel_out_rec(s, found, h.seq, true, head, n, payload, strlen(payload));
    keel_arena_reset(o->scratch);
    struct rec **at = &s->pending;
    while (*at != NULL)
        at = &(*at)->next;
    *at = r;
    keel_txn_after(t, on_settled, r);
}

uint64_t keel_out_settled(const struct keel_bus *b, const char *name)
{
    const struct stream *s = keel_out_named(b->out, name);
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
        struct rec *r = keel_out_rec(s, keel_topic_find(KEEL_CELL(c->rows, i, 1)), (uint64_t)seq, true, head, n, p, strlen(p));
        r->was_sent = true;
        keel_out_queue(s, r);
        s->db_from = (uint64_t)seq + 1;
    }
    if (c->rows->n < LOAD_ROWS && s->committed_seq < s->db_from)
        s->db_from = 0;
    keel_out_flush_stream(s);
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

void keel_out_load_if_needed(struct stream *s, int64_t now_ns)
{
    struct keel_out *o = s->bus->out;
    if (s->db_from == 0 || s->check != CHECKED || now_ns < s->load_at_ns || s->queue.n > LOAD_ROWS ||
        !keel_out_has_room(o, KEEL_LANE_CRITICAL, LOAD_ROWS))
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
    struct stream *s = cell[0] != NULL ? keel_out_named(o, cell[0]) : NULL;
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

void keel_out_prune(struct keel_out *o, int64_t now_ns)
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

enum keel_status keel_out_file_open(struct keel_out *o)
{
    enum keel_status st = counters_read(o);
    if (st == KEEL_OK)
        st = keel_store_each(o->bus->rt->store, "SELECT value FROM keel_bus_meta WHERE name = 'birth'", each_birth, o);
    return st;
}
