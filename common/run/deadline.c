/*
 * All deadlines of the process behind one timerfd: a binary min-heap, the descriptor armed for the
 * earliest. It is armed again only when something earlier comes; when what it was armed for has gone it
 * fires once for nothing, which costs less than disarming it for every call that ended in time.
 */
#include <stdint.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "call_priv.h"
#include "keel/clock.h"

struct keel_ticks {
    uv_poll_t poll;
    int fd;
    int64_t armed_ns; /* INT64_MAX: not armed */
    struct keel_tick **heap; /* [1, n] */
    size_t n, cap;
};

static void place(struct keel_ticks *ts, size_t pos, struct keel_tick *t)
{
    ts->heap[pos] = t;
    t->pos = pos;
}

static void sift_up(struct keel_ticks *ts, size_t pos, struct keel_tick *t)
{
    for (; pos > 1 && ts->heap[pos / 2]->at_ns > t->at_ns; pos /= 2)
        place(ts, pos, ts->heap[pos / 2]);
    place(ts, pos, t);
}

static void sift_down(struct keel_ticks *ts, size_t pos, struct keel_tick *t)
{
    while (2 * pos <= ts->n) {
        size_t child = 2 * pos;
        if (child < ts->n && ts->heap[child + 1]->at_ns < ts->heap[child]->at_ns)
            child++;
        if (ts->heap[child]->at_ns >= t->at_ns)
            break;
        place(ts, pos, ts->heap[child]);
        pos = child;
    }
    place(ts, pos, t);
}

static void arm(struct keel_ticks *ts)
{
    int64_t at = ts->n > 0 ? ts->heap[1]->at_ns : INT64_MAX;
    if (at >= ts->armed_ns)
        return;
    struct itimerspec when = {.it_value = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000}};
    if (at <= 0) /* zero would disarm */
        when.it_value = (struct timespec){.tv_nsec = 1};
    keel_assert(timerfd_settime(ts->fd, TFD_TIMER_ABSTIME, &when, NULL) == 0);
    ts->armed_ns = at;
}

void keel_tick_clear(struct keel_ticks *ts, struct keel_tick *t)
{
    size_t pos = t->pos;
    if (pos == 0)
        return;
    t->pos = 0;
    struct keel_tick *last = ts->heap[ts->n--];
    if (last == t)
        return;
    if (pos > 1 && ts->heap[pos / 2]->at_ns > last->at_ns)
        sift_up(ts, pos, last);
    else
        sift_down(ts, pos, last);
}

void keel_tick_set(struct keel_ticks *ts, struct keel_tick *t, int64_t at_ns)
{
    keel_tick_clear(ts, t);
    if (ts->n + 2 > ts->cap) {
        ts->cap = ts->cap == 0 ? 64 : 2 * ts->cap;
        ts->heap = keel_realloc(ts->heap, ts->cap, sizeof(struct keel_tick *));
    }
    t->at_ns = at_ns;
    sift_up(ts, ++ts->n, t);
    arm(ts);
}

static void on_timer(uv_poll_t *poll, int status, int events)
{
    struct keel_ticks *ts = poll->data;
    uint64_t fired;
    (void)status;
    (void)events;
    if (read(ts->fd, &fired, sizeof fired) < 0)
        return; /* armed anew since: it will fire again */
    ts->armed_ns = INT64_MAX;
    int64_t now = keel_mono_ns();
    while (ts->n > 0 && ts->heap[1]->at_ns <= now) {
        struct keel_tick *t = ts->heap[1];
        keel_tick_clear(ts, t);
        t->fn(t);
    }
    arm(ts);
}

struct keel_ticks *keel_ticks_open(uv_loop_t *loop)
{
    struct keel_ticks *ts = keel_alloc(1, sizeof *ts);
    ts->armed_ns = INT64_MAX;
    ts->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    keel_assert(ts->fd >= 0);
    keel_assert(uv_poll_init(loop, &ts->poll, ts->fd) == 0);
    ts->poll.data = ts;
    keel_assert(uv_poll_start(&ts->poll, UV_READABLE, on_timer) == 0);
    return ts;
}

static void on_closed(uv_handle_t *h)
{
    struct keel_ticks *ts = h->data;
    close(ts->fd);
    keel_free(ts->heap);
    keel_free(ts);
}

void keel_ticks_close(struct keel_ticks *ts)
{
    uv_close((uv_handle_t *)&ts->poll, on_closed);
}
