/*
 * Lanes over libuv's pool. Jobs wait in queues of our own, filed by level; one goes to the pool only when a
 * thread is free, and the guard says which. So the pool's own queue is always empty and nothing that is
 * critical waits behind what is not.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "call_priv.h"
#include "keel/clock.h"
#include "keel/log.h"

#define BULK_NICE 10
#define TICK_MS 100
#define LAGS 3 /* ticks that must all be late before the lag counts as load */
#define SPARE_THREADS 2 /* for sources, which do not wait in the lanes */

struct keel_worker {
    struct keel_rt *rt;
    struct keel_queue q;
    uv_timer_t tick;
    int64_t due_ns;        /* when the tick should run */
    int64_t lag_ns[LAGS];  /* of the last ticks */
    size_t lag_at;
    int64_t last_delay_ns; /* of the job that began last */
    int64_t last_begin_ns;
};

static int base_nice;
static bool can_renice; /* a thread that was made nicer may be made what it was */

static bool is_bulk(const struct keel_work *w)
{
    return w->base.level >= KEEL_NORMAL;
}

/* ---- on a worker ---- */

static void run_work(uv_work_t *req)
{
    struct keel_work *w = req->data;
    id_t tid = (id_t)syscall(SYS_gettid);
    bool nicer = can_renice && is_bulk(w) && setpriority(PRIO_PROCESS, tid, base_nice + BULK_NICE) == 0;
    w->status = w->fn(w->job, w->stop);
    if (nicer)
        setpriority(PRIO_PROCESS, tid, base_nice);
}

/* ---- on the loop ---- */

static bool has_hurry(const struct keel_job *j)
{
    return j->must || j->deadline_ns != INT64_MAX;
}

static int64_t oldest_age_ns(const struct keel_queue *q, int64_t now)
{
    int64_t age = 0;
    /* Jobs without a deadline (reports, backtests) wait as long as it takes; their patience is no sign of load. */
    for (size_t i = 0; i < KEEL_COUNT(q->head); i++) {
        const struct keel_job *j = q->head[i];
        while (j != NULL && !has_hurry(j))
            j = j->next;
        if (j != NULL && now - j->queued_ns > age)
            age = now - j->queued_ns;
    }
    return age;
}

static void update_load(struct keel_worker *k, int64_t now)
{
    int64_t age = oldest_age_ns(&k->q, now);
    int64_t recent = now - k->last_begin_ns < TICK_MS * KEEL_MS ? k->last_delay_ns : 0;
    k->rt->load.queued = k->q.n;
    k->rt->load.queue_delay_ns = age > recent ? age : recent;
}

static void after_work(uv_work_t *req, int status);

static void observe(struct keel_worker *k, enum keel_own what, int64_t ns, int64_t now)
{
    if (k->rt->guard->observe != NULL)
        k->rt->guard->observe(k->rt->guard_self, what, ns, now);
}

static void begin_work(struct keel_worker *k, struct keel_work *w, int64_t now)
{
    w->running = true;
    if (has_hurry(&w->base)) {
        k->last_delay_ns = now - w->base.queued_ns;
        k->last_begin_ns = now;
        observe(k, KEEL_OWN_QUEUE_DELAY, k->last_delay_ns, now);
    }
    k->q.running++;
    k->q.running_bulk += is_bulk(w);
    w->req.data = w;
    keel_assert(uv_queue_work(k->rt->loop, &w->req, run_work, after_work) == 0);
}

/* A job whose deadline has passed is taken off the queue and left to its call, which is about to cancel it. */
static void dispatch(struct keel_worker *k)
{
    const struct keel_guard *guard = k->rt->guard;
    int64_t now = keel_mono_ns();
    while (k->q.n > 0 && k->q.running < k->q.threads) {
        struct keel_work *w = (struct keel_work *)guard->next_job(k->rt->guard_self, &k->q, now);
        if (w == NULL)
            break;
        w->queued = false;
        if (w->base.must || w->base.deadline_ns > now)
            begin_work(k, w, now);
    }
    update_load(k, now);
}

static void after_work(uv_work_t *req, int status)
{
    struct keel_work *w = req->data;
    struct keel_worker *k = w->rt->worker;
    (void)status; /* what was given to the pool is never taken back */
    w->running = false;
    k->q.running--;
    k->q.running_bulk -= is_bulk(w);
    dispatch(k);
    w->done(w);
}

void keel_worker_submit(struct keel_rt *rt, struct keel_work *w)
{
    struct keel_worker *k = rt->worker;
    struct keel_job **tail = &k->q.tail[w->base.level];
    w->rt = rt;
    w->base.next = NULL;
    w->base.queued_ns = keel_mono_ns();
    w->queued = true;
    if (*tail != NULL)
        (*tail)->next = &w->base;
    else
        k->q.head[w->base.level] = &w->base;
    *tail = &w->base;
    k->q.n++;
    dispatch(k);
}

bool keel_worker_cancel(struct keel_rt *rt, struct keel_work *w)
{
    struct keel_queue *q = &rt->worker->q;
    struct keel_job *before = NULL, *at = q->head[w->base.level];
    if (w->running)
        return false;
    if (!w->queued)
        return true;
    for (; at != &w->base; at = at->next)
        before = at;
    if (before != NULL)
        before->next = at->next;
    else
        q->head[w->base.level] = at->next;
    if (at->next == NULL)
        q->tail[w->base.level] = before;
    w->queued = false;
    q->n--;
    rt->load.queued = q->n;
    return true;
}

/* What the loop has been late by all the time: one late tick is a turn that was long or a machine that was away, and it
 * is over; calls that come now would be refused for nothing. */
static int64_t standing_lag(struct keel_worker *k, int64_t lag)
{
    k->lag_ns[k->lag_at++ % LAGS] = lag;
    for (size_t i = 0; i < LAGS; i++)
        lag = k->lag_ns[i] < lag ? k->lag_ns[i] : lag;
    return lag;
}

/* How late a timer is says how long the loop's turns are. */
static void on_tick(uv_timer_t *t)
{
    struct keel_worker *k = t->data;
    int64_t now = keel_mono_ns(), late = now - k->due_ns;
    int64_t lag = late > KEEL_MS ? late : 0; /* the loop's clock has whole milliseconds */
    k->rt->load.loop_lag_ns = standing_lag(k, lag);
    k->due_ns = now + TICK_MS * KEEL_MS;
    update_load(k, now);
    observe(k, KEEL_OWN_LOOP_LAG, lag, now);
    keel_observe(k->rt, "loop_lag", lag);
    keel_observe(k->rt, "queue_delay", k->rt->load.queue_delay_ns);
    uv_timer_start(t, on_tick, TICK_MS, 0);
}

/* Whether the nice value can be raised and set back depends on rights that only a try shows. */
static void try_renice(void *arg)
{
    (void)arg;
    id_t tid = (id_t)syscall(SYS_gettid);
    base_nice = getpriority(PRIO_PROCESS, 0);
    can_renice = setpriority(PRIO_PROCESS, tid, base_nice + 1) == 0 && setpriority(PRIO_PROCESS, tid, base_nice) == 0;
}

static size_t wanted_threads(const struct keel_rt *rt)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (rt->core->workers > 0)
        return (size_t)rt->core->workers;
    return cores > 2 ? (size_t)cores : 2;
}

void keel_worker_open(struct keel_rt *rt)
{
    struct keel_worker *k = keel_alloc(1, sizeof *k);
    char text[16];
    uv_thread_t probe;
    k->rt = rt;
    k->q.threads = (uint32_t)wanted_threads(rt);
    /* libuv reads it once, with the first job of the process. */
    snprintf(text, sizeof text, "%u", k->q.threads + SPARE_THREADS);
    setenv("UV_THREADPOOL_SIZE", text, 1);
    keel_assert(uv_thread_create(&probe, try_renice, NULL) == 0);
    uv_thread_join(&probe);
    uv_timer_init(rt->loop, &k->tick);
    k->tick.data = k;
    uv_update_time(rt->loop);
    k->due_ns = keel_mono_ns() + TICK_MS * KEEL_MS;
    uv_timer_start(&k->tick, on_tick, TICK_MS, 0);
    uv_unref((uv_handle_t *)&k->tick);
    rt->worker = k;
}

static void on_closed(uv_handle_t *h)
{
    keel_free(h->data);
}

void keel_worker_close(struct keel_rt *rt)
{
    keel_assert(rt->worker->q.n == 0 && rt->worker->q.running == 0);
    uv_close((uv_handle_t *)&rt->worker->tick, on_closed);
    rt->worker = NULL;
}
