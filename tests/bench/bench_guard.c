/*
 * What the guard costs a call: breaker and tracker alone, then the whole of it with the two clock
 * reads that a call needs anyway. Prints the median of several rounds in nanoseconds, the ratio of the
 * whole to two clock reads alone, and how often the heap was asked after the start.
 */
#include <stdio.h>
#include <stdlib.h>

#include "alloc_count.h"
#include "keel/clock.h"
#include "keel/guard.h"

enum { ROUNDS = 15, CALLS = 400000 };

enum { OPS = 24 };

static struct keel_op ops[OPS];
static struct keel_target_conf targets[OPS];
static void *guard_self;
static struct keel_breaker breaker;
static struct keel_tracker *tracker, *minute;
static volatile int64_t sink; /* keeps the clock reads */

static void two_clocks(uint32_t i)
{
    (void)i;
    int64_t start = keel_mono_ns();
    sink = keel_mono_ns() - start;
}

static void breaker_alone(uint32_t i)
{
    struct keel_breaker_ticket t = {0};
    int64_t retry = 0;
    if (keel_breaker_admit(&breaker, i, &t, &retry))
        keel_breaker_settle(&breaker, t, KEEL_OUT_OK, i);
}

static void tracker_alone(uint32_t i)
{
    keel_tracker_add(tracker, i, 1000 + i % 4096, KEEL_OUT_OK);
}

/* Each call is the first of a new second, the one before it having had 100 calls in 60 buckets: what a second costs. */
static int64_t second_ns;

static void a_second(uint32_t i)
{
    (void)i;
    second_ns += INT64_C(1000000000);
    for (uint64_t k = 0; k < 100; k++)
        keel_tracker_add(minute, second_ns, 100000 + k * 5000, KEEL_OUT_OK);
}

static void look_at_minute(uint32_t i)
{
    (void)i;
    struct keel_track_view v;
    keel_tracker_view(minute, second_ns, 60, &v);
    sink = (int64_t)v.p99_ns;
}

/* One op after the other, so that their state is not always the warmest line of the cache. */
static void whole(uint32_t i)
{
    int64_t start = keel_mono_ns();
    struct keel_permit p;
    struct keel_refusal why;
    if (keel_guard_hybrid.admit(guard_self, i % OPS, start, 1000000, &p, &why) != KEEL_OK)
        return;
    int64_t end = keel_mono_ns();
    keel_guard_hybrid.settle(guard_self, p, KEEL_OUT_OK, end - start, end);
}

static void whole_one_op(uint32_t i)
{
    whole(i - i % OPS);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double round_ns(void (*fn)(uint32_t), uint32_t calls)
{
    int64_t start = keel_mono_ns();
    for (uint32_t i = 0; i < calls; i++)
        fn(i);
    return (double)(keel_mono_ns() - start) / calls;
}

static void open_all(void)
{
    static const struct keel_engine engine = {.name = "bench"};
    static const struct keel_load load;
    for (size_t i = 0; i < OPS; i++) {
        ops[i] = (struct keel_op){.id = "op", .on = KEEL_POST("/op"), .level = KEEL_CRITICAL, .deadline_ms = 100};
        targets[i] = (struct keel_target_conf){"op", &ops[i], KEEL_CRITICAL, 50000000};
    }
    struct keel_guard_env env = {.engine = &engine, .targets = targets, .n_targets = OPS, .load = &load, .seed = 1};
    struct keel_breaker_conf conf = keel_breaker_defaults();
    keel_breaker_init(&breaker, &conf);
    tracker = keel_tracker_new(50000000);
    minute = keel_tracker_new(50000000);
    keel_guard_hybrid.open(&env, &guard_self);
}

int main(void)
{
    static const struct { const char *name; void (*fn)(uint32_t); uint32_t calls; } what[] = {
        {"two clock reads", two_clocks, CALLS},
        {"breaker admit + settle", breaker_alone, CALLS},
        {"tracker add", tracker_alone, CALLS},
        {"guard admit + settle + clocks, one op", whole_one_op, CALLS},
        {"guard admit + settle + clocks, 24 ops", whole, CALLS},
        {"tracker, a second of 100 calls and its end", a_second, CALLS / 100},
        {"tracker, a look at the last minute", look_at_minute, CALLS / 400},
    };
    static double ns[KEEL_COUNT(what)][ROUNDS];

    open_all();
    unsigned long before = n_allocations;
    /* Taken in turns, so that a slow spell of the machine falls on all of them. */
    for (size_t r = 0; r < ROUNDS; r++)
        for (size_t k = 0; k < KEEL_COUNT(what); k++)
            ns[k][r] = round_ns(what[k].fn, what[k].calls);
    unsigned long during = n_allocations - before;

    for (size_t k = 0; k < KEEL_COUNT(what); k++) {
        qsort(ns[k], ROUNDS, sizeof(ns[k][0]), by_size);
        printf("%-44s %7.1f ns\n", what[k].name, ns[k][ROUNDS / 2]);
    }
    printf("%-44s %7.2f x\n", "one op / two clock reads", ns[3][ROUNDS / 2] / ns[0][ROUNDS / 2]);
    printf("%-44s %7.2f x\n", "24 ops / two clock reads", ns[4][ROUNDS / 2] / ns[0][ROUNDS / 2]);
    if (COUNTS_ALLOCATIONS)
        printf("%-44s %7lu\n", "allocations after start", during);
    keel_guard_hybrid.close(guard_self);
    keel_tracker_free(tracker);
    keel_tracker_free(minute);
    return during == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
