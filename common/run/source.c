/*
 * Sources on the pool: one batch is filled on a worker while the loop hands out the other. A slice goes out
 * when its pace says so, when the bus has room for what it gives rise to and when the slice before it has
 * settled; else it is asked again a millisecond later. Nothing is dropped.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "call_priv.h"
#include "keel/clock.h"
#include "keel/log.h"

#define SLICE_ITEMS 64
#define TURN_NS 500000
#define AGAIN_MS 1
#define STEP_NS (1000 * KEEL_MS) /* session time that readers may be behind a source at full speed */
#define SINGLE_ITEMS 8 /* first slice of a source: how long an item takes is not known yet */

struct batch {
    struct keel_batch b;
    enum keel_status status;
    char why[208];
};

struct keel_source {
    struct keel_rt *rt;
    const struct keel_op *op;
    const struct keel_source_ops *ops;
    void *cfg, *ctx, *self;
    double speed;
    size_t per_item;
    struct batch batch[2];
    int in_hand, in_air; /* index of batch; -1: none */
    bool filled;         /* the other batch is full and waits */
    bool opened, ended, first, busy, finished;
    enum keel_status end_status;
    char why[208];
    size_t at; /* of the batch in hand */
    size_t slice_max;
    int64_t first_ts, first_ns; /* pace: session time and the machine's at the first item */
    int64_t step_ts;            /* full speed: session time at which the step in hand began; 0: none yet */
    struct keel_slice slice;
    enum keel_status settled; /* of the slice handed out last */
    bool in_slice;
    atomic_bool stop;
    uv_work_t req;
    uv_timer_t timer;
    uv_idle_t idle; /* goes on in the next turn of the loop, which does not sleep meanwhile */
    int n_handles;
    struct keel_source *next;
};

struct keel_sources {
    struct keel_source *head;
};

static void turn(struct keel_source *s);

/* ---- on a worker ---- */

static void fill(uv_work_t *req)
{
    struct keel_source *s = req->data;
    struct batch *b = &s->batch[s->in_air];
    b->status = KEEL_OK;
    if (!s->opened) {
        b->status = s->ops->open(s->cfg, &s->self, b->why, sizeof b->why - 8);
        s->opened = b->status == KEEL_OK;
    }
    keel_arena_reset(b->b.arena);
    b->b.n = 0;
    if (b->status == KEEL_OK)
        b->status = s->ops->next(s->self, &b->b, &s->stop, b->why, sizeof b->why - 8);
}

/* ---- on the loop ---- */

static void after_fill(uv_work_t *req, int status)
{
    struct keel_source *s = req->data;
    const struct batch *b = &s->batch[s->in_air];
    (void)status;
    s->in_air = -1;
    s->filled = true;
    if (b->status != KEEL_OK || b->b.n == 0) {
        s->ended = true;
        s->end_status = b->status;
        memcpy(s->why, b->why, sizeof s->why);
    }
    turn(s);
}

static void fetch(struct keel_source *s)
{
    if (s->ended || s->filled || s->in_air >= 0)
        return;
    s->in_air = s->in_hand == 0 ? 1 : 0;
    s->req.data = s;
    keel_assert(uv_queue_work(s->rt->loop, &s->req, fill, after_fill) == 0);
}

static int64_t item_ts(const struct batch *b, size_t i)
{
    int64_t ts;
    memcpy(&ts, (const char *)b->b.items + i * b->b.item_size, sizeof ts);
    return ts;
}

/*
 * At full speed readers' clocks are what their records say, and records of two lanes must not drift apart in it: a step of
 * session time begins when everyone has handled the one before.
 */
static int64_t step_due_ns(struct keel_source *s, int64_t ts)
{
    if (s->step_ts != 0 && ts - s->step_ts < STEP_NS)
        return 0;
    if (s->step_ts != 0 && !keel_bus_caught_up(s->rt))
        return INT64_MAX;
    s->step_ts = ts;
    return 0;
}

/* Machine time at which the item is due; 0: now; INT64_MAX: ask again. */
static int64_t due_ns(struct keel_source *s, int64_t ts, int64_t now)
{
    if (s->speed <= 0)
        return step_due_ns(s, ts);
    if (s->first_ns == 0) {
        s->first_ts = ts;
        s->first_ns = now;
    }
    return s->first_ns + (int64_t)((double)(ts - s->first_ts) / s->speed);
}

/* How many items of the batch in hand may go now; *wait_ms: when to ask again if none. */
static size_t allowed(struct keel_source *s, int64_t now, uint64_t *wait_ms)
{
    const struct batch *b = &s->batch[s->in_hand];
    size_t left = b->b.n - s->at, n = left < s->slice_max ? left : s->slice_max, due = 0;
    *wait_ms = AGAIN_MS;
    while (due < n) {
        int64_t at = due_ns(s, item_ts(b, s->at + due), now);
        if (at > now) {
            int64_t ms = at == INT64_MAX ? AGAIN_MS : (at - now) / KEEL_MS;
            *wait_ms = ms > 1 ? (uint64_t)ms : 1;
            break;
        }
        due++;
    }
    if (due > 0 && s->per_item > 0 && s->rt->bus != NULL && !keel_bus_room(s->rt, due * s->per_item)) {
        *wait_ms = AGAIN_MS;
        return 0;
    }
    return due;
}

/* Refused before it changed anything: the same items are offered again. */
static bool was_refused(enum keel_status st)
{
    return st == KEEL_SHED || st == KEEL_OPEN || st == KEEL_RATE || st == KEEL_DRAINING || st == KEEL_CANCELLED;
}

static void on_timer(uv_timer_t *t)
{
    turn(t->data);
}

static void on_idle(uv_idle_t *h)
{
    turn(h->data);
}

static void again_in(struct keel_source *s, uint64_t ms)
{
    uv_timer_start(&s->timer, on_timer, ms, 0);
}

static void go_on(struct keel_source *s)
{
    uv_idle_start(&s->idle, on_idle);
}

static void on_settled(void *ctx, struct keel_call *c, enum keel_status st)
{
    struct keel_source *s = ctx;
    s->busy = false;
    s->settled = st;
    if (was_refused(st)) {
        if (!s->in_slice)
            again_in(s, AGAIN_MS);
        return;
    }
    if (st != KEEL_OK)
        keel_log_often(KEEL_LOG_WARN, "slice_failed", "source=%s status=%s detail=%s", s->ops->name,
                       keel_status_name(st), keel_call_problem(c));
    s->first = false;
    s->at += s->slice.n;
    s->finished = s->slice.last;
    if (!s->in_slice) /* it had waited for something */
        go_on(s);
}

/* So many that the next slice takes about a turn's time. */
static void fit_slice(struct keel_source *s, size_t n, int64_t took)
{
    double fit = (double)n * TURN_NS / (double)(took > 0 ? took : 1);
    s->slice_max = fit < 1 ? 1 : fit > SLICE_ITEMS ? SLICE_ITEMS : (size_t)fit;
}

/* False: refused. */
static bool hand_out(struct keel_source *s, size_t n, bool last)
{
    s->slice = (struct keel_slice){.source = s, .ctx = s->ctx, .n = n, .item_size = s->ops->item_size,
                                   .first = s->first, .last = last, .ended = s->end_status, .why = s->why};
    if (n > 0) {
        const struct batch *b = &s->batch[s->in_hand];
        s->slice.items = (const char *)b->b.items + s->at * b->b.item_size;
        keel_session_saw(s->rt, item_ts(b, s->at + n - 1));
    }
    s->busy = s->in_slice = true;
    int64_t t0 = keel_mono_ns();
    keel_call_slice(s->rt, s->op, &s->slice, on_settled, s);
    s->in_slice = false;
    if (!s->busy && was_refused(s->settled))
        return false;
    if (n > 0)
        fit_slice(s, n, keel_mono_ns() - t0);
    return true;
}

static bool take_filled(struct keel_source *s)
{
    if (!s->filled)
        return false;
    s->filled = false;
    s->in_hand = s->in_hand == 0 ? 1 : 0;
    s->at = 0;
    return s->batch[s->in_hand].b.n > 0;
}

static void on_closed(uv_handle_t *h)
{
    struct keel_source *s = h->data;
    if (--s->n_handles > 0)
        return;
    for (int i = 0; i < 2; i++) {
        keel_arena_free(s->batch[i].b.arena);
        keel_free(s->batch[i].b.items);
    }
    keel_free(s);
}

/* ops->close is quick: it frees and closes files. */
static void dispose(struct keel_source *s)
{
    struct keel_source **at = &(*keel_calls_sources(s->rt))->head;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    if (s->opened)
        s->ops->close(s->self);
    s->n_handles = 2;
    uv_close((uv_handle_t *)&s->timer, on_closed);
    uv_close((uv_handle_t *)&s->idle, on_closed);
}

static bool is_used_up(const struct keel_source *s)
{
    return s->in_hand < 0 || s->at >= s->batch[s->in_hand].b.n;
}

/* Everything is handed out, or it was stopped: the op gets its last slice, empty. */
static void finish(struct keel_source *s)
{
    if (s->in_air >= 0)
        return; /* after_fill comes back here */
    if (!s->ended || !is_used_up(s) || s->filled) {
        s->end_status = KEEL_CANCELLED;
        snprintf(s->why, sizeof s->why, "stopped");
    }
    if (!s->finished && !hand_out(s, 0, true))
        again_in(s, AGAIN_MS);
    if (s->finished)
        dispose(s);
}

/* One slice a turn of the loop. */
static void turn(struct keel_source *s)
{
    uv_timer_stop(&s->timer);
    uv_idle_stop(&s->idle);
    if (s->busy)
        return;
    if (!atomic_load(&s->stop) && is_used_up(s) && !take_filled(s)) {
        fetch(s);
        if (!s->ended)
            return;
    }
    if (s->finished || is_used_up(s) || atomic_load(&s->stop)) {
        finish(s);
        return;
    }
    fetch(s);
    uint64_t wait_ms;
    size_t n = allowed(s, keel_mono_ns(), &wait_ms);
    if (n == 0)
        again_in(s, wait_ms);
    else if (!hand_out(s, n, false))
        again_in(s, AGAIN_MS);
    else if (!s->busy)
        go_on(s);
}

/* ---- for engines and main.c ---- */

static struct keel_sources *sources_of(struct keel_rt *rt)
{
    struct keel_sources **ss = keel_calls_sources(rt);
    if (*ss == NULL)
        *ss = keel_alloc(1, sizeof **ss);
    return *ss;
}

enum keel_status keel_source_start(struct keel_rt *rt, const char *op_id, const struct keel_source_ops *ops, void *cfg,
                                   void *ctx, double speed, size_t per_item, struct keel_source **out)
{
    const struct keel_op *op = keel_op_find(rt, op_id);
    keel_assert(op != NULL && op->on.kind == KEEL_ON_SOURCE && ops->item_size >= sizeof(int64_t) && ops->batch_cap > 0);
    if (rt->draining)
        return KEEL_DRAINING;
    if (!isfinite(speed) || speed < 0)
        return KEEL_INVALID;
    struct keel_source *s = keel_alloc(1, sizeof *s);
    struct keel_sources *ss = sources_of(rt);
    s->rt = rt;
    s->op = op;
    s->ops = ops;
    s->cfg = cfg;
    s->ctx = ctx;
    s->speed = speed;
    s->per_item = per_item;
    s->in_hand = s->in_air = -1;
    s->first = true;
    s->slice_max = SINGLE_ITEMS;
    atomic_init(&s->stop, false);
    for (int i = 0; i < 2; i++) {
        s->batch[i].b = (struct keel_batch){keel_arena_new(65536), keel_alloc(ops->batch_cap, ops->item_size),
                                            ops->item_size, 0, ops->batch_cap};
    }
    uv_timer_init(rt->loop, &s->timer);
    uv_idle_init(rt->loop, &s->idle);
    s->timer.data = s->idle.data = s;
    s->next = ss->head;
    ss->head = s;
    *out = s;
    fetch(s);
    return KEEL_OK;
}

void keel_source_stop(struct keel_source *s)
{
    if (atomic_exchange(&s->stop, true))
        return;
    if (!s->busy && s->in_air < 0)
        go_on(s); /* not now: the caller may be inside a step */
}

void keel_sources_stop(struct keel_rt *rt)
{
    const struct keel_sources *ss = *keel_calls_sources(rt);
    for (struct keel_source *s = ss != NULL ? ss->head : NULL; s != NULL; s = s->next)
        keel_source_stop(s);
}

bool keel_sources_idle(struct keel_rt *rt)
{
    const struct keel_sources *ss = *keel_calls_sources(rt);
    return ss == NULL || ss->head == NULL;
}

bool keel_sources_at_max(struct keel_rt *rt)
{
    const struct keel_sources *ss = rt->calls != NULL ? *keel_calls_sources(rt) : NULL;
    for (const struct keel_source *s = ss != NULL ? ss->head : NULL; s != NULL; s = s->next) {
        if (s->speed <= 0)
            return true;
    }
    return false;
}

void keel_sources_close(struct keel_rt *rt)
{
    keel_assert(keel_sources_idle(rt));
    keel_free(*keel_calls_sources(rt));
    *keel_calls_sources(rt) = NULL;
}
