/*
 * Holes in a stream of durable records, and the owner's /bus/outbox, which fills them. Records behind a hole wait a little,
 * until the stream or the owner has filled it.
 */
#include <stdio.h>
#include <string.h>

#include "bus_in.h"
#include "keel/clock.h"
#include "keel/log.h"

#define HOLE_FETCH_NS (1 * KEEL_S_NS)
#define HOLE_HOLD_NS (3 * KEEL_S_NS)
#define FETCH_EVERY_NS (10 * KEEL_S_NS)

/* ---- holes ---- */

bool keel_in_hole_below(const struct mark *m, uint64_t seq)
{
    return m->seen.low < seq;
}

void keel_in_hold(struct mark *m, struct item *it)
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
    while (m->held != NULL && (all || !keel_in_hole_below(m, m->held->h.seq))) {
        struct item *it = m->held;
        m->held = it->chain;
        it->s->reader->waiting--;
        keel_in_queue(it->s->reader, it);
    }
}

static bool has_hole(const struct mark *m)
{
    return m->seen.n > 0;
}

void keel_in_hole_watch(struct stream_in *s, struct mark *m, int64_t now_ns)
{
    held_release(m, false);
    if (!has_hole(m)) {
        m->hole_since_ns = 0;
        m->holds_no_more = m->was_asked = false;
    } else if (m->hole_since_ns == 0) {
        m->hole_since_ns = now_ns;
        keel_in_stats(s)->gaps++;
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
    struct mark *m = keel_in_mark(s, keel_jstr(answer, "producer"), epoch, true);
    for (const struct keel_jval *r = records != NULL ? records->child : NULL; r != NULL; r = r->next) {
        const struct keel_jval *h = keel_jget(r, "h"), *p = keel_jget(r, "p");
        struct keel_envelope env;
        if (h == NULL || h->type != KEEL_JSTR || p == NULL || p->type != KEEL_JOBJ ||
            keel_head_parse(h->text, h->len, &env) != NULL || env.h.seq < at)
            continue;
        if (env.h.seq > at && env.h.seq <= upto + 1)
            close_hole(m, at, env.h.seq - 1);
        struct keel_entry e = {.h = h->text, .h_len = h->len, .p = p->raw, .p_len = p->raw_len};
        keel_in_accept(s, &e, FROM_OWNER, 0);
        at = env.h.seq + 1;
    }
    if (at <= upto)
        close_hole(m, at, upto);
    keel_in_hole_watch(s, m, keel_mono_ns());
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
        keel_in_mark(s, keel_jstr(answer, "producer"), epoch, true);
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

static struct mark *durable_mark(const struct stream_in *s)
{
    struct mark *m = s->marks;
    while (m != NULL && !m->is_durable)
        m = m->next;
    return m;
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
void keel_in_fetch_if_needed(struct stream_in *s, int64_t now_ns)
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
