/*
 * A small engine that shows every way a call can go: inline, on a worker, parked, asleep, behind a key,
 * past its point of no return, as a job, spawned by another. For tests of the core; it has no store, no bus
 * and no socket.
 */
#ifndef LOOPBACK_ENGINE_H
#define LOOPBACK_ENGINE_H

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "keel/call.h"
#include "keel/clock.h"
#include "keel/contract.h"
#include "keel/source.h"

#define LB_MAX_ORDER 64

struct lb_state {
    uint64_t token[LB_MAX_ORDER]; /* of parked calls, by n */
    int order[LB_MAX_ORDER];      /* n of keyed calls as they began */
    size_t n_order;
    int spawned_n, ticks, in_tick, worst_tick, ended, began;
    char spawned_name[32], spawned_trace[64];
    int64_t spawned_ts_recv;
    int64_t items, item_sum, last_ts;
    int slices, last_slices;
    size_t most_items;
    enum keel_status source_end;
    bool in_order;
};

#define LB_INNER(X, S) X(S, STR, word, NULL, 1, 16, "", "a word")
KEEL_RECORD(lb_inner, LB_INNER);
#define LB_ARG(X, S)                                                                               \
    X(S, STR, name, "nobody", 1, 16, "", "who")                                                    \
    X(S, I64, n, "0", 0, 63, "", "which")                                                          \
    X(S, I64, sleep_ms, "0", 0, 1000, "ms", "how long to sleep")                                   \
    X(S, BOOL, fail, "false", 0, 0, "", "fail at the end")                                         \
    X(S, RECS(lb_inner), inner, KEEL_OPT, 0, 8, "", "nested")
KEEL_RECORD(lb_arg, LB_ARG);
KEEL_RECORD_TABLE(lb_inner, LB_INNER);
KEEL_RECORD_TABLE(lb_arg, LB_ARG);

/* What the worker sees: sums 1..n, or runs until it is told to stop. */
struct lb_job { int64_t n, sum; bool forever; };

static enum keel_status lb_answer(struct keel_call *c)
{
    const struct lb_arg *arg = c->arg;
    struct lb_state *s = c->state;
    s->ended++;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail(c, keel_wait_status(c), "the wait failed");
    if (arg->fail) {
        keel_fail_member(c, "denials", "[1,2]", 5);
        return keel_fail_as(c, KEEL_CONFLICT, "no_luck", "fail", "%s asked to fail", arg->name);
    }
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "name", arg->name);
    keel_json_i64(&c->out, "n", arg->n);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status lb_work_begin(struct keel_call *c)
{
    const struct lb_arg *arg = c->arg;
    struct lb_job *job = keel_arena_alloc(c->arena, sizeof *job);
    ((struct lb_state *)c->state)->began++;
    job->n = arg->n;
    job->forever = strcmp(arg->name, "forever") == 0;
    c->job = job;
    return KEEL_OK;
}

static atomic_int lb_works; /* jobs that a worker began */

/* forever ends by the flag; the bound only keeps a failing test from hanging. */
static enum keel_status lb_work(void *ctx, const atomic_bool *stop)
{
    struct lb_job *job = ctx;
    atomic_fetch_add(&lb_works, 1);
    int64_t until = keel_mono_ns() + 5000000000;
    for (int64_t i = 1; i <= job->n; i++)
        job->sum += i;
    while (job->forever && !atomic_load(stop) && keel_mono_ns() < until) {
    }
    return job->sum == 45 ? KEEL_UNDEFINED : KEEL_OK;
}

static enum keel_status lb_work_end(struct keel_call *c)
{
    const struct lb_job *job = c->job;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail(c, keel_wait_status(c), "the work failed");
    keel_json_obj(&c->out, NULL);
    keel_json_i64(&c->out, "sum", job->sum);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status lb_deep(struct keel_call *c)
{
    if (((const struct lb_arg *)c->arg)->n > 0)
        keel_lower(c, KEEL_NORMAL);
    lb_work_begin(c);
    return keel_await_work(c, lb_work, c->job, lb_work_end);
}

static enum keel_status lb_park(struct keel_call *c)
{
    const struct lb_arg *arg = c->arg;
    struct lb_state *s = c->state;
    s->began++;
    return keel_await_wake(c, lb_answer, &s->token[arg->n]);
}

static enum keel_status lb_keyed(struct keel_call *c)
{
    const struct lb_arg *arg = c->arg;
    struct lb_state *s = c->state;
    s->order[s->n_order++] = (int)arg->n;
    return lb_park(c);
}

static enum keel_status lb_sleep(struct keel_call *c)
{
    return keel_await_timer(c, ((const struct lb_arg *)c->arg)->sleep_ms, lb_answer);
}

static const char *const lb_ways[] = {"neural", "cpu", NULL};

static enum keel_status lb_route_end(struct keel_call *c)
{
    const size_t *which = c->ctx;
    if (((const struct lb_arg *)c->arg)->fail)
        return keel_fail(c, KEEL_INTERNAL, "%s broke", lb_ways[*which]);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "backend", lb_ways[*which]);
    keel_json_bool(&c->out, "fallback", c->fallback_reason != NULL);
    if (c->fallback_reason != NULL)
        keel_json_str(&c->out, "fallback_reason", c->fallback_reason);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status lb_route(struct keel_call *c)
{
    size_t *which = keel_arena_alloc(c->arena, sizeof *which);
    enum keel_status st = keel_choose(c, 0, keel_left_ns(c), which);
    if (st != KEEL_OK)
        return st;
    c->ctx = which;
    return keel_await_timer(c, ((const struct lb_arg *)c->arg)->sleep_ms, lb_route_end);
}

static enum keel_status lb_late(struct keel_call *c)
{
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "unknown");
    keel_json_str(&c->out, "name", ((const struct lb_arg *)c->arg)->name);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status lb_commit(struct keel_call *c)
{
    keel_commit_point(c, lb_late);
    return lb_park(c);
}

/* Past its commit point while a worker has the arena. */
static enum keel_status lb_commit_work(struct keel_call *c)
{
    keel_commit_point(c, lb_late);
    lb_work_begin(c);
    return keel_await_work(c, lb_work, c->job, lb_answer);
}

static enum keel_status lb_spawn(struct keel_call *c)
{
    char word[] = "deep", name[] = "child";
    const struct lb_inner inner[] = {{.word = word, .has_word = true}};
    const struct lb_arg arg = {.name = name, .has_name = true, .n = 7, .has_n = true, .inner = inner, .has_inner = true,
                               .n_inner = 1};
    enum keel_status st = keel_spawn(c, "child", &arg);
    memset(word, 'x', sizeof word - 1); /* the copy must not see this */
    memset(name, 'x', sizeof name - 1);
    if (st != KEEL_OK)
        return st;
    keel_json_obj(&c->out, NULL);
    keel_json_i64(&c->out, "spawned_n", ((struct lb_state *)c->state)->spawned_n); /* 0: not nested */
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status lb_child(struct keel_call *c)
{
    const struct lb_arg *arg = c->arg;
    struct lb_state *s = c->state;
    s->spawned_n = (int)arg->n;
    snprintf(s->spawned_name, sizeof s->spawned_name, "%s/%s", arg->name, arg->n_inner == 1 ? arg->inner[0].word : "");
    snprintf(s->spawned_trace, sizeof s->spawned_trace, "%s", c->rec->traceparent);
    s->spawned_ts_recv = c->rec->ts_recv;
    return KEEL_OK;
}

static enum keel_status lb_tick_end(struct keel_call *c)
{
    ((struct lb_state *)c->state)->in_tick--;
    return KEEL_OK;
}

/* Takes longer than its period. */
static enum keel_status lb_tick(struct keel_call *c)
{
    struct lb_state *s = c->state;
    s->ticks++;
    if (++s->in_tick > s->worst_tick)
        s->worst_tick = s->in_tick;
    return keel_await_timer(c, 12, lb_tick_end);
}

/* ---- a source: n items of 1, 2, 3, ... ---- */

struct lb_item { int64_t ts_init, value; };
struct lb_feed { int64_t n, at, step_ns, fail_at; };

static enum keel_status lb_feed_open(void *cfg, void **self, char *why, size_t cap)
{
    struct lb_feed *f = cfg;
    if (f->n < 0) {
        snprintf(why, cap, "no such feed");
        return KEEL_NOTFOUND;
    }
    *self = f;
    return KEEL_OK;
}

static enum keel_status lb_feed_next(void *self, struct keel_batch *b, const atomic_bool *stop, char *why, size_t cap)
{
    struct lb_feed *f = self;
    struct lb_item *items = b->items;
    (void)stop;
    while (b->n < b->cap && f->at < f->n) {
        if (f->fail_at != 0 && f->at + 1 == f->fail_at) {
            snprintf(why, cap, "line %lld is bad", (long long)f->fail_at);
            return KEEL_INVALID;
        }
        f->at++;
        items[b->n++] = (struct lb_item){1000 + f->at * f->step_ns, f->at};
    }
    return KEEL_OK;
}

static void lb_feed_close(void *self)
{
    struct lb_feed *f = self;
    f->at = -1;
}

static const struct keel_source_ops lb_feed_ops = {"counting", sizeof(struct lb_item), 100, lb_feed_open, lb_feed_next,
                                                   lb_feed_close};

static enum keel_status lb_slice(struct keel_call *c)
{
    struct lb_state *s = c->state;
    const struct lb_item *items = c->slice->items;
    s->slices++;
    if (c->slice->n > s->most_items)
        s->most_items = c->slice->n;
    for (size_t i = 0; i < c->slice->n; i++) {
        s->in_order = s->in_order && items[i].value == s->items + 1;
        s->items++;
        s->item_sum += items[i].value;
        s->last_ts = items[i].ts_init;
    }
    if (c->slice->last) {
        s->last_slices++;
        s->source_end = c->slice->ended;
    }
    return KEEL_OK;
}

static enum keel_status lb_open(struct keel_rt *rt, void *state)
{
    (void)rt;
    ((struct lb_state *)state)->in_order = true;
    return KEEL_OK;
}

static const struct keel_op lb_ops[] = {
    {.id = "inline", .on = KEEL_GET("/inline/{name}"), .level = KEEL_CRITICAL, .deadline_ms = 1000,
     .takes = &lb_arg_fields, .begin = lb_answer, .help = "Answers at once."},
    {.id = "post", .on = KEEL_POST("/post"), .level = KEEL_NORMAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .max_body = 256, .flags = KEEL_INLINE, .begin = lb_answer, .help = "Takes a body."},
    {.id = "bare", .on = KEEL_POST("/bare"), .level = KEEL_NORMAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .flags = KEEL_BARE_ARRAY, .bare = "inner", .begin = lb_answer, .help = "Takes an array."},
    {.id = "nothing", .on = KEEL_POST("/nothing"), .level = KEEL_NORMAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .begin = lb_spawn, .help = "Takes nothing, spawns child."},
    {.id = "child", .on = KEEL_SPAWNED, .level = KEEL_NORMAL, .deadline_ms = 1000, .takes = &lb_arg_fields,
     .begin = lb_child, .help = "Spawned."},
    {.id = "work", .on = KEEL_POST("/work"), .level = KEEL_NORMAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .begin = lb_work_begin, .work = lb_work, .end = lb_work_end, .help = "Runs on a worker."},
    {.id = "deep", .on = KEEL_POST("/deep"), .level = KEEL_CRITICAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .begin = lb_deep, .help = "Works; above n = 0 less urgently."},
    {.id = "park", .on = KEEL_POST("/park"), .level = KEEL_NORMAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .begin = lb_park, .help = "Waits to be woken."},
    {.id = "urgent", .on = KEEL_POST("/urgent"), .level = KEEL_CRITICAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .begin = lb_park, .help = "Waits to be woken, and is critical."},
    {.id = "route", .on = KEEL_POST("/route"), .level = KEEL_CRITICAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .begin = lb_route, .fallbacks = lb_ways, .help = "Has two ways to its answer."},
    {.id = "keyed", .on = KEEL_POST("/keyed"), .level = KEEL_NORMAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .key = "name", .begin = lb_keyed, .help = "One at a time by name."},
    {.id = "sleep", .on = KEEL_POST("/sleep"), .level = KEEL_NORMAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .begin = lb_sleep, .help = "Waits for a timer."},
    {.id = "commit", .on = KEEL_POST("/commit"), .level = KEEL_NORMAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .key = "name", .begin = lb_commit, .help = "Waits past its point of no return."},
    {.id = "commit_work", .on = KEEL_POST("/commit-work"), .level = KEEL_NORMAL, .deadline_ms = 1000,
     .scope = KEEL_SCOPE_TRADE, .takes = &lb_arg_fields, .begin = lb_commit_work, .help = "Works past it."},
    {.id = "must", .on = KEEL_POST("/must"), .level = KEEL_CRITICAL, .scope = KEEL_SCOPE_TRADE, .takes = &lb_arg_fields,
     .flags = KEEL_MUST, .begin = lb_park, .help = "Never expires."},
    {.id = "long", .on = KEEL_POST("/long"), .level = KEEL_NORMAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &lb_arg_fields, .flags = KEEL_JOB, .begin = lb_work_begin, .work = lb_work, .end = lb_work_end,
     .help = "A job."},
    {.id = "record", .on = KEEL_TOPIC("marketdata.quote", KEEL_EACH), .level = KEEL_HIGH, .deadline_ms = 1000,
     .takes = &keel_quote_fields, .begin = lb_spawn, .help = "A record that spawns."},
    {.id = "tick", .on = KEEL_EVERY(5), .level = KEEL_LOW, .deadline_ms = 1000, .begin = lb_tick, .help = "A timer."},
    {.id = "slice", .on = KEEL_SOURCE, .level = KEEL_NORMAL, .begin = lb_slice, .help = "Items of a source."},
};

static const struct keel_engine loopback_engine = {
    .name = "loopback", .title = "Loopback", .port = 8999, .ops = lb_ops, .n_ops = KEEL_COUNT(lb_ops),
    .state_size = sizeof(struct lb_state), .open = lb_open,
};

#endif
