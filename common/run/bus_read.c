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

#include "bus_in.h"
#include "keel/clock.h"
#include "keel/log.h"

enum { COUNT_CRITICAL = 16, COUNT_BULK = 256, BLOCK_MS = 1000 };

#define BULK_SLICE_NS (25 * 1000)
#define CRITICAL_SLICE_NS (1000 * 1000)
#define LOST_TOGETHER_NS (5 * KEEL_S_NS)
#define POSITION_NS (20 * KEEL_MS_NS)
#define POSITION_IDLE_NS KEEL_MS_NS /* once everything in hand is handled, so that a replay need not wait */

/* ---- entries ---- */

static bool topic_matches(const char *pattern, const char *topic)
{
    size_t n = strlen(pattern);
    if (n > 0 && pattern[n - 1] == '*')
        return strncmp(pattern, topic, n - 1) == 0;
    return strcmp(pattern, topic) == 0;
}

const struct keel_op *keel_in_row(const struct keel_rt *rt, const char *topic, enum keel_read read)
{
    for (size_t i = 0; i < rt->n_ops; i++) {
        const struct keel_trigger *on = &rt->ops[i].on;
        if (on->kind == KEEL_ON_TOPIC && on->read == read && topic_matches(on->path, topic))
            return &rt->ops[i];
    }
    return NULL;
}

const char *keel_in_foreign(const struct keel_bus *b, const struct keel_envelope *env)
{
    if (strcmp(env->env, b->rt->core->keel_env) != 0)
        return "foreign_env";
    return strcmp(env->mode, keel_mode(b->rt)) != 0 ? "foreign_mode" : NULL;
}

struct item *keel_in_find_id(const struct stream_in *s, struct keel_sid id)
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
    keel_in_ack(s, e->id);
}

/* An entry that no row can be asked about: without mark, straight to the dead letters. */
static void accept_bad(struct stream_in *s, const struct keel_entry *e, const struct keel_envelope *env, const char *reason)
{
    struct item *it = keel_in_item(s, e);
    it->h = env->h;
    it->reason = reason;
    keel_in_queue(s->reader, it);
}

static void accept_good(struct stream_in *s, const struct keel_entry *e, const struct keel_envelope *env,
                        enum origin origin, uint64_t deliveries)
{
    struct keel_bus *b = s->reader->bus;
    enum keel_read read = s->reader->is_share ? KEEL_SHARE : KEEL_EACH;
    struct mark *m = keel_in_mark(s, env->h.producer, env->h.epoch, keel_in_is_durable(env->h.topic));
    uint64_t seq = env->h.seq;
    if (keel_marks_has(&m->seen, seq)) {
        const struct item *same = keel_marks_has(&m->applied, seq) ? NULL : keel_in_find(s, m, seq);
        if (same == NULL || keel_sid_cmp(same->id, e->id) != 0) {
            b->duplicates++;
            keel_in_ack(s, e->id);
        }
        return;
    }
    bool is_whole = m->is_durable && keel_in_is_gapless(s);
    if (!is_whole && m->top > 0 && seq > m->top + 1)
        keel_in_stats(s)->gaps++;
    if (seq > m->top)
        m->top = seq;
    const struct keel_op *op = keel_in_row(b->rt, env->h.topic, read);
    if (op == NULL) {
        pass_over(s, m, e, seq);
    } else {
        struct item *it = keel_in_item(s, e);
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
        if (is_whole && !m->holds_no_more && keel_in_hole_below(m, seq))
            keel_in_hold(m, it);
        else if (origin == FROM_PENDING)
            keel_in_queue_early(s->reader, it);
        else
            keel_in_queue(s->reader, it);
    }
    if (is_whole)
        keel_in_hole_watch(s, m, keel_mono_ns());
}

/* deliveries: how often a process of ours died with it. */
void keel_in_accept(struct stream_in *s, const struct keel_entry *e, enum origin origin, uint64_t deliveries)
{
    struct keel_bus *b = s->reader->bus;
    struct keel_envelope env = {0};
    if (e->gone) {
        keel_in_stats(s)->dropped++;
        keel_in_ack(s, e->id);
        return;
    }
    const char *reason = keel_head_parse(e->h, e->h_len, &env);
    if (reason == NULL)
        reason = keel_in_foreign(b, &env);
    if (reason != NULL)
        accept_bad(s, e, &env, reason);
    else
        accept_good(s, e, &env, origin, deliveries);
    if (keel_sid_cmp(e->id, s->pos) > 0) {
        s->pos = e->id;
        b->in->has_moved = true;
    }
}

/* ---- reading ---- */

static void on_entry(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    struct reader *r = ctx;
    for (size_t i = 0; i < r->n; i++) {
        struct stream_in *s = r->streams[i];
        if (strlen(s->key) == key_len && memcmp(s->key, key, key_len) == 0) {
            s->entries++;
            keel_in_accept(s, e, FROM_STREAM, 0);
            return;
        }
    }
}

/* The stream or its group, which are made again at once. */
static bool is_gone(const char *why)
{
    return strncmp(why, "NOGROUP", 7) == 0 || strncmp(why, "UNBLOCKED", 9) == 0;
}

static void read_refused(struct reader *r, const char *why)
{
    bool gone = is_gone(why);
    r->read_at_ns = keel_mono_ns() + (gone ? 20 * KEEL_MS_NS : KEEL_S_NS);
    keel_log_often(KEEL_LOG_WARN, "read_refused", "detail=%s", why);
    for (size_t i = 0; i < r->n && gone; i++)
        keel_in_reset(r->streams[i]);
    keel_bus_soon(r->bus);
}

/* All readers lose their connections together: that is one failure, and coming back is the links' own business. */
static enum keel_outcome read_outcome(struct keel_in *in, const struct redisReply *reply)
{
    int64_t now_ns = keel_mono_ns();
    if (in->is_stopped)
        return KEEL_OUT_CANCELLED;
    const char *why = keel_reply_error(reply);
    if (reply != NULL && why == NULL)
        return KEEL_OUT_OK;
    if (why != NULL)
        return is_gone(why) ? KEEL_OUT_CANCELLED : KEEL_OUT_FAILURE;
    bool is_same = in->lost_at_ns > 0 && now_ns - in->lost_at_ns < LOST_TOGETHER_NS;
    in->lost_at_ns = now_ns;
    return is_same ? KEEL_OUT_CANCELLED : KEEL_OUT_FAILURE;
}

static void settle(struct reader *r, enum keel_outcome o)
{
    if (r->has_permit)
        keel_dep_settle(r->bus->rt, r->permit, o);
    r->has_permit = false;
}

/* What went well is settled with the next read: the records go first. */
static void on_read(void *ctx, const struct redisReply *reply)
{
    struct reader *r = ctx;
    const char *why = keel_reply_error(reply);
    enum keel_outcome o = read_outcome(r->bus->in, reply);
    r->is_reading = false;
    if (o != KEEL_OUT_OK)
        settle(r, o);
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
    if (r->bus->in->is_stopped || now_ns < r->read_at_ns || r->in_hand >= BACKLOG ||
        !keel_link_is_up(r->link) || keel_call_slots(r->bus->rt) == 0)
        return false;
    for (size_t i = 0; i < r->n; i++)
        if (r->streams[i]->step != IN_READY)
            return false;
    return true;
}

static void read_more(struct reader *r, int64_t now_ns)
{
    KEEL_ARGS(a);
    struct keel_refusal refusal;
    char count[24], block[24], pos[MAX_STREAMS][KEEL_SID_TEXT];
    if (r->is_reading)
        return;
    settle(r, KEEL_OUT_OK);
    if (!may_read(r, now_ns) ||
        keel_dep_admit(r->bus->rt, r->bus->in->dep, &r->permit, &refusal) != KEEL_OK)
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
        keel_in_reset(r->streams[i]);
        r->streams[i]->fetch_wanted = keel_in_is_gapless(r->streams[i]);
    }
}

void keel_in_control_up(struct keel_bus *b)
{
    for (size_t i = 0; i < b->in->n; i++)
        for (size_t k = 0; k < b->in->readers[i].n; k++)
            keel_in_reset(b->in->readers[i].streams[k]);
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
            more |= keel_in_hand_out(r, is_critical ? CRITICAL_SLICE_NS : BULK_SLICE_NS / (int64_t)(bulk > 0 ? bulk : 1));
        read_more(r, keel_mono_ns());
        for (size_t k = 0; k < r->n; k++) {
            keel_in_acks_flush(r->streams[k]);
            if (up && r->streams[k]->first == NULL)
                position_write(r->streams[k], now_ns);
        }
    }
    return more;
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
    KEEL_ARGS(a);
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
    KEEL_ARGS(a);
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
                keel_in_bury(it, it->reason);
            else
                keel_in_queue_first(r, it);
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
            keel_in_step(s, now_ns);
            keel_in_acks_flush(s);
            if (up)
                position_write(s, now_ns);
            if (keel_in_is_gapless(s))
                keel_in_fetch_if_needed(s, now_ns);
        }
        read_more(r, now_ns);
    }
}

void keel_in_second(struct keel_bus *b, int64_t now_ns)
{
    struct keel_in *in = b->in;
    bool claims = now_ns >= in->claim_at_ns;
    if (claims)
        in->claim_at_ns = now_ns + b->rt->core->claim_idle_ms * KEEL_MS_NS / 2;
    for (size_t i = 0; i < in->n; i++) {
        struct reader *r = &in->readers[i];
        for (size_t k = 0; k < r->n && !in->is_stopped; k++) {
            struct stream_in *s = r->streams[k];
            if (s->step != IN_READY || s->is_asking)
                continue;
            keel_in_ask_lag(s, claims);
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

struct lane_now { int64_t lag, pending, oldest_ms; };

/* lag: records in Redis that were not read yet, as of the last second, and those in hand. */
static struct lane_now lane_now(const struct keel_bus *b, enum keel_lane lane)
{
    int64_t now_ns = keel_mono_ns(), oldest_ns = now_ns;
    struct lane_now l = {.lag = (int64_t)keel_in_backlog(b, (int)lane)};
    for (size_t i = 0; b->in != NULL && i < b->in->n; i++) {
        const struct reader *r = &b->in->readers[i];
        for (size_t k = 0; k < r->n; k++) {
            const struct stream_in *s = r->streams[k];
            if (s->lane != lane)
                continue;
            l.lag += s->lag;
            l.pending += s->pending;
            if (s->first != NULL && s->first->since_ns < oldest_ns)
                oldest_ns = s->first->since_ns;
        }
    }
    l.oldest_ms = (now_ns - oldest_ns) / KEEL_MS_NS;
    return l;
}

void keel_in_lane_json(const struct keel_bus *b, enum keel_lane lane, struct keel_json *w)
{
    struct lane_now l = lane_now(b, lane);
    keel_json_i64(w, "lag", l.lag);
    keel_json_i64(w, "pending", l.pending);
    keel_json_i64(w, "oldest_ms", l.oldest_ms);
}

void keel_in_metrics(const struct keel_bus *b, const char *const lane_name[KEEL_N_LANE], struct keel_text *out)
{
    static const char *const names[] = {"lag", "pending", "oldest_seconds"};
    const char *engine = b->rt->engine->name;
    for (size_t k = 0; k < KEEL_COUNT(names); k++) {
        keel_text_add(out, "# TYPE keel_bus_%s gauge\n", names[k]);
        for (int i = 0; i < KEEL_N_LANE; i++) {
            struct lane_now l = lane_now(b, (enum keel_lane)i);
            double value[] = {(double)l.lag, (double)l.pending, (double)l.oldest_ms / 1000};
            keel_text_add(out, "keel_bus_%s{engine=\"%s\",lane=\"%s\"} %.15g\n", names[k], engine, lane_name[i], value[k]);
        }
    }
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
            keel_in_row(rt, t[i].name, KEEL_SHARE) != NULL)
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
    s->fetch_wanted = keel_in_is_gapless(s);
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
    if (keel_in_stream(in, name, is_share) != NULL)
        return;
    for (int lane = 0; lane < KEEL_N_LANE; lane++)
        stream_add(in, engine, (enum keel_lane)lane, is_share);
}

static enum keel_status each_low(void *ctx, int n, const char *const *cell)
{
    struct keel_in *in = ctx;
    struct stream_in *s = keel_in_stream(in, cell[2], true);
    int64_t low;
    (void)n;
    if (s == NULL || keel_i64_parse(cell[3], strlen(cell[3]), &low) != KEEL_OK || low < 0)
        return KEEL_OK;
    struct mark *m = keel_in_mark(s, cell[0], cell[1], cell[4][0] == '1');
    keel_marks_add_range(&m->applied, 1, (uint64_t)low);
    keel_marks_add_range(&m->seen, 1, (uint64_t)low);
    return KEEL_OK;
}

static enum keel_status each_above(void *ctx, int n, const char *const *cell)
{
    struct keel_in *in = ctx;
    struct stream_in *s = keel_in_stream(in, cell[2], true);
    int64_t seq;
    (void)n;
    if (s == NULL || keel_i64_parse(cell[3], strlen(cell[3]), &seq) != KEEL_OK || seq < 1)
        return KEEL_OK;
    struct mark *m = keel_in_mark(s, cell[0], cell[1], false);
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
        if (!r->is_reading)
            settle(r, KEEL_OUT_OK);
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
                keel_in_leave(it);
            }
            keel_in_acks_flush(s);
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
                keel_in_leave(s->first);
            while (s->marks != NULL) {
                struct mark *m = s->marks;
                s->marks = m->next;
                keel_in_mark_free(m);
            }
            keel_free(s);
        }
    }
    keel_arena_free(in->scratch);
    keel_free(in);
    b->in = NULL;
}
