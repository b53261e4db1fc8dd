/*
 * Lanes over threads. Jobs wait in queues of our own, filed by level; one goes to a thread only when one is free,
 * and the guard says which. So nothing that is critical waits behind what is not.
 *
 * Urgent jobs, and in plain mode all, run on libuv's pool, whose own queue is always empty. In hybrid mode bulk jobs have
 * threads of their own, made nice for good as they start: that needs no rights, while taking it back, as a shared pool would
 * have to, does; and a thread that only lowers itself once it runs has been given a whole turn of the processor by then.
 */
#include <errno.h>
#include <stdatomic.h>
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
#define BULK_TURN_NS 100000000 /* the longest that the kernel takes */
#define SHORT_TURN_NS 400000   /* less than a kernel gives by itself, 0.7 ms and more */
#define TICK_MS 100
#define LAGS 3 /* ticks that must all be late before the lag counts as load */
#define SPARE_THREADS 2 /* for sources, which do not wait in the lanes */

struct bulk_thread {
    struct keel_worker *k;
    uv_thread_t id;
    uv_sem_t go;
    struct keel_work *work; /* in hand; NULL: it waits. The loop's */
    _Atomic(struct keel_work *) todo; /* the same until the thread has taken it up */
    atomic_bool ends;
};

/* What a bulk thread frees between two jobs. */
struct garbage { struct garbage *next; struct keel_arena *arena; void *block; };

struct keel_worker {
    struct keel_rt *rt;
    struct keel_queue q;
    struct bulk_thread *bulk;
    uint32_t n_bulk;
    uv_async_t done_signal;
    uv_mutex_t done_lock;   /* of the two that follow */
    struct keel_work *done; /* by bulk threads, last first */
    struct garbage *garbage;
    uv_timer_t tick;
    int64_t due_ns;        /* when the tick should run */
    int64_t lag_ns[LAGS];  /* of the last ticks */
    size_t lag_at;
    int64_t last_delay_ns; /* of the job that began last */
    int64_t last_begin_ns;
};

/* ---- on a worker ---- */

static void run_work(uv_work_t *req)
{
    struct keel_work *w = req->data;
    w->status = w->fn(w->job, w->stop);
}

/* The kernel's struct sched_attr, version 0; not every libc has it. */
struct sched_wish {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

/*
 * Of this thread, and of those that it starts. From Linux 6.12 on who runs may finish a turn, of 1.4 ms or so, before a
 * thread that wakes on the same core gets it, however nice the one and urgent the other; unless the turn of the one that wakes
 * is the shorter. A turn's length gives nobody more or less of the processor. Older kernels do not look at it.
 */
static int ask_for_turns(int nice, uint64_t ns)
{
    struct sched_wish w = {.size = sizeof w, .nice = nice, .runtime_ns = ns};
    return syscall(SYS_sched_setattr, 0, &w, 0) == 0 ? 0 : errno;
}

void keel_take_short_turns(void)
{
    int err = ask_for_turns(getpriority(PRIO_PROCESS, 0), SHORT_TURN_NS);
    if (err != 0)
        keel_log(KEEL_LOG_INFO, "turns_not_short", "detail=%s", strerror(err));
}

static void give_way(void)
{
    int nice = getpriority(PRIO_PROCESS, 0) + BULK_NICE;
    if (setpriority(PRIO_PROCESS, 0, nice) != 0)
        keel_log(KEEL_LOG_WARN, "bulk_not_nice", "detail=%s", strerror(errno));
    int err = ask_for_turns(nice < 19 ? nice : 19, BULK_TURN_NS);
    if (err != 0)
        keel_log(KEEL_LOG_INFO, "bulk_turn_not_long", "detail=%s", strerror(err));
}

static void free_garbage(struct keel_worker *k)
{
    uv_mutex_lock(&k->done_lock);
    struct garbage *g = k->garbage;
    k->garbage = NULL;
    uv_mutex_unlock(&k->done_lock);
    while (g != NULL) {
        struct garbage *next = g->next;
        keel_arena_free(g->arena);
        keel_free(g->block);
        keel_free(g);
        g = next;
    }
}

static void run_job(struct keel_worker *k, struct keel_work *w)
{
    w->status = w->fn(w->job, w->stop);
    uv_mutex_lock(&k->done_lock);
    w->next_done = k->done;
    k->done = w;
    uv_mutex_unlock(&k->done_lock);
    uv_async_send(&k->done_signal);
}

static void run_bulk(void *arg)
{
    struct bulk_thread *t = arg;
    give_way();
    while (!atomic_load(&t->ends)) {
        struct keel_work *w = atomic_exchange(&t->todo, NULL);
        if (w != NULL)
            run_job(t->k, w);
        free_garbage(t->k);
        uv_sem_wait(&t->go);
    }
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

/* NULL: all have something in hand. */
static struct bulk_thread *idle_thread(struct keel_worker *k)
{
    for (struct bulk_thread *t = k->bulk; t < k->bulk + k->n_bulk; t++)
        if (t->work == NULL)
            return t;
    return NULL;
}

/* The guard lets no more of them run than there are threads. */
static void begin_bulk(struct keel_worker *k, struct keel_work *w)
{
    struct bulk_thread *t = idle_thread(k);
    keel_assert(t != NULL);
    uv_ref((uv_handle_t *)&k->done_signal);
    w->thread = t;
    t->work = w;
    atomic_store(&t->todo, w);
    uv_sem_post(&t->go);
}

/* Who is at work frees it afterwards. */
void keel_worker_free(struct keel_rt *rt, struct keel_arena *a, void *block)
{
    struct keel_worker *k = rt->worker;
    if (k == NULL || k->n_bulk == 0) {
        keel_arena_free(a);
        keel_free(block);
        return;
    }
    struct garbage *g = keel_alloc(1, sizeof *g);
    *g = (struct garbage){NULL, a, block};
    uv_mutex_lock(&k->done_lock);
    g->next = k->garbage;
    k->garbage = g;
    uv_mutex_unlock(&k->done_lock);
    struct bulk_thread *t = idle_thread(k);
    if (t != NULL)
        uv_sem_post(&t->go);
}

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
    k->q.running_bulk += keel_job_is_bulk(&w->base);
    if (keel_job_is_bulk(&w->base) && k->n_bulk > 0) {
        begin_bulk(k, w);
        return;
    }
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

static void work_ended(struct keel_worker *k, struct keel_work *w)
{
    w->running = false;
    k->q.running--;
    k->q.running_bulk -= keel_job_is_bulk(&w->base);
    dispatch(k);
    w->done(w);
}

static void after_work(uv_work_t *req, int status)
{
    struct keel_work *w = req->data;
    (void)status; /* what was given to the pool is never taken back */
    work_ended(w->rt->worker, w);
}

static void after_bulk(uv_async_t *signal)
{
    struct keel_worker *k = signal->data;
    uv_mutex_lock(&k->done_lock);
    struct keel_work *w = k->done;
    k->done = NULL;
    bool has_garbage = k->garbage != NULL;
    uv_mutex_unlock(&k->done_lock);
    while (w != NULL) {
        struct keel_work *next = w->next_done;
        w->thread->work = NULL;
        work_ended(k, w);
        w = next;
    }
    struct bulk_thread *t = has_garbage ? idle_thread(k) : NULL;
    if (t != NULL)
        uv_sem_post(&t->go);
    if (k->q.running_bulk == 0)
        uv_unref((uv_handle_t *)signal);
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

static size_t wanted_threads(const struct keel_rt *rt)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (rt->core->workers > 0)
        return (size_t)rt->core->workers;
    return cores > 2 ? (size_t)cores : 2;
}

static void open_bulk(struct keel_worker *k)
{
    k->n_bulk = keel_bulk_places(&k->q);
    k->bulk = keel_alloc(k->n_bulk, sizeof *k->bulk);
    keel_assert(uv_mutex_init(&k->done_lock) == 0);
    keel_assert(uv_async_init(k->rt->loop, &k->done_signal, after_bulk) == 0);
    k->done_signal.data = k;
    uv_unref((uv_handle_t *)&k->done_signal);
    for (uint32_t i = 0; i < k->n_bulk; i++) {
        k->bulk[i].k = k;
        keel_assert(uv_sem_init(&k->bulk[i].go, 0) == 0);
        keel_assert(uv_thread_create(&k->bulk[i].id, run_bulk, &k->bulk[i]) == 0);
    }
}

static void close_bulk(struct keel_worker *k)
{
    for (uint32_t i = 0; i < k->n_bulk; i++) {
        atomic_store(&k->bulk[i].ends, true);
        uv_sem_post(&k->bulk[i].go);
        uv_thread_join(&k->bulk[i].id);
        uv_sem_destroy(&k->bulk[i].go);
    }
    free_garbage(k);
    uv_mutex_destroy(&k->done_lock);
    keel_free(k->bulk);
}

void keel_worker_open(struct keel_rt *rt)
{
    struct keel_worker *k = keel_alloc(1, sizeof *k);
    char text[16];
    k->rt = rt;
    k->q.threads = (uint32_t)wanted_threads(rt);
    /* libuv reads it once, with the first job of the process. */
    snprintf(text, sizeof text, "%u", k->q.threads + SPARE_THREADS);
    setenv("UV_THREADPOOL_SIZE", text, 1);
    if (rt->guard->hybrid)
        open_bulk(k);
    uv_timer_init(rt->loop, &k->tick);
    k->tick.data = k;
    uv_update_time(rt->loop);
    k->due_ns = keel_mono_ns() + TICK_MS * KEEL_MS;
    uv_timer_start(&k->tick, on_tick, TICK_MS, 0);
    uv_unref((uv_handle_t *)&k->tick);
    rt->worker = k;
}

/* threads: how many jobs run at a time; bulk_threads: how many of them, in hybrid mode, may be those of bulk calls. */
void keel_worker_threads(const struct keel_rt *rt, struct keel_json *w)
{
    keel_json_u64(w, "threads", rt->worker->q.threads);
    keel_json_u64(w, "bulk_threads", rt->worker->n_bulk);
}

static void on_closed(uv_handle_t *h)
{
    keel_free(h->data);
}

static void on_signal_closed(uv_handle_t *h)
{
    struct keel_worker *k = h->data;
    uv_close((uv_handle_t *)&k->tick, on_closed);
}

void keel_worker_close(struct keel_rt *rt)
{
    struct keel_worker *k = rt->worker;
    keel_assert(k->q.n == 0 && k->q.running == 0);
    rt->worker = NULL;
    if (k->n_bulk == 0) {
        uv_close((uv_handle_t *)&k->tick, on_closed);
        return;
    }
    close_bulk(k);
    uv_timer_stop(&k->tick);
    uv_close((uv_handle_t *)&k->done_signal, on_signal_closed);
}
