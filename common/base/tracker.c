/*
 * How long one operation takes: a log-linear histogram for the second that is being filled, one for all time
 * before it, and the sixty seconds of a minute.
 *
 * The idea of the windows: when a second is over, its histogram is added to that of all time, written down as
 * pairs (steps to the next bucket in use, its count) of mostly one byte each, into a ring of bytes, and emptied.
 * A window is the sum of its seconds, worked out when somebody looks. So a call costs one histogram whatever the
 * windows are, and few lines of memory: an op that is seldom called finds none of them in a cache. The end of a
 * second costs the op that is called next well under a microsecond, and an op that nobody calls costs nothing;
 * there is no timer. Nothing older than its name says is in a window.
 *
 * About 47 KB a tracker, all of it allocated by keel_tracker_new. The ring has room for about 190
 * different buckets a second, sixty seconds long; beyond that the oldest seconds lose their histogram
 * first, so that quantiles of the minute lean to its newer part. Counts, maximum and mean of a second
 * are kept beside it and stay exact.
 */
#include "keel/tracker.h"

#include <stdbool.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/status.h"

#define SUB_BITS 5
#define SUB (1u << SUB_BITS)
#define MAX_EXP 41 /* of the last octave */

#define SECONDS 60
#define SECOND_NS INT64_C(1000000000)
#define RING_BYTES 32768u /* a power of two; more than one second can ever need */
#define PAIR_BYTES 8u     /* at most: two for the steps, five for the count */

/* at, len: its pairs in the ring. */
struct second { uint64_t n, over, max_ns; double sum_ns; uint32_t at, len; uint32_t outcomes[KEEL_N_OUTCOME]; };

struct keel_tracker {
    uint64_t target_ns;
    int64_t second_end_ns; /* of the current one */
    uint32_t current, ring_at, ring_used;
    uint32_t now_outcomes[KEEL_N_OUTCOME];
    struct keel_hist now; /* the current second */
    struct keel_hist all; /* all time but the current second */
    uint64_t outcomes[KEEL_N_OUTCOME]; /* the same */
    struct second second[SECONDS];
    uint8_t ring[RING_BYTES];
};

uint32_t keel_hist_index(uint64_t ns)
{
    if (ns < SUB)
        return (uint32_t)ns;
    uint32_t exp = 63u - (uint32_t)__builtin_clzll(ns);
    if (exp > MAX_EXP)
        return KEEL_HIST_BUCKETS - 1;
    uint32_t sub = (uint32_t)(ns >> (exp - SUB_BITS)) - SUB;
    return SUB + (exp - SUB_BITS) * SUB + sub;
}

uint64_t keel_hist_upper(uint32_t index)
{
    if (index < SUB)
        return index;
    if (index >= KEEL_HIST_BUCKETS)
        index = KEEL_HIST_BUCKETS - 1;
    uint32_t shift = (index - SUB) / SUB;
    uint64_t sub = (index - SUB) % SUB;
    return ((SUB + sub + 1) << shift) - 1;
}

/* A full bucket stays full: after four thousand million calls of one length, shares hardly move. */
static void count_add(uint32_t *count, uint32_t n)
{
    *count = n < UINT32_MAX - *count ? *count + n : UINT32_MAX;
}

void keel_hist_add(struct keel_hist *h, uint64_t ns, uint64_t target_ns)
{
    h->n++;
    h->over += target_ns != 0 && ns > target_ns;
    if (ns > h->max_ns)
        h->max_ns = ns;
    h->sum_ns += (double)ns;
    count_add(&h->count[keel_hist_index(ns)], 1);
}

void keel_hist_quantiles(const struct keel_hist *h, const double *q, size_t n, uint64_t *out)
{
    uint32_t last = keel_hist_index(h->max_ns);
    uint64_t total = 0; /* not n: a bucket may be full */
    for (uint32_t i = 0; i <= last; i++)
        total += h->count[i];
    uint64_t seen = 0;
    size_t k = 0;
    for (uint32_t i = 0; i <= last && k < n; i++) {
        seen += h->count[i];
        /* The product may come out a rounding error above the whole number that is meant. */
        while (k < n && seen > 0 && (double)seen >= q[k] * (double)total * (1 - 1e-12)) {
            uint64_t upper = keel_hist_upper(i);
            out[k++] = upper < h->max_ns ? upper : h->max_ns;
        }
    }
    for (; k < n; k++)
        out[k] = h->max_ns;
}

uint64_t keel_hist_quantile(const struct keel_hist *h, double q)
{
    uint64_t ns;
    keel_hist_quantiles(h, &q, 1, &ns);
    return ns;
}

static void totals_merge(struct keel_hist *into, const struct keel_hist *h)
{
    into->n += h->n;
    into->over += h->over;
    into->sum_ns += h->sum_ns;
    if (h->max_ns > into->max_ns)
        into->max_ns = h->max_ns;
}

static void hist_merge(struct keel_hist *into, const struct keel_hist *h)
{
    if (h->n == 0)
        return;
    totals_merge(into, h);
    for (uint32_t i = 0; i <= keel_hist_index(h->max_ns); i++)
        count_add(&into->count[i], h->count[i]);
}

struct keel_tracker *keel_tracker_new(uint64_t target_ns)
{
    struct keel_tracker *t = keel_alloc(1, sizeof(*t));
    t->target_ns = target_ns;
    return t;
}

void keel_tracker_free(struct keel_tracker *t)
{
    keel_free(t);
}

/* ---- the minute ---- */

static void ring_put(struct keel_tracker *t, struct second *s, uint32_t v)
{
    for (; v >= 0x80; v >>= 7) {
        t->ring[t->ring_at] = (uint8_t)(v | 0x80);
        t->ring_at = (t->ring_at + 1) % RING_BYTES;
        s->len++;
    }
    t->ring[t->ring_at] = (uint8_t)v;
    t->ring_at = (t->ring_at + 1) % RING_BYTES;
    s->len++;
}

static uint32_t ring_get(const struct keel_tracker *t, uint32_t *at)
{
    uint32_t v = 0;
    for (uint32_t shift = 0;; shift += 7) {
        uint8_t byte = t->ring[*at];
        *at = (*at + 1) % RING_BYTES;
        v |= (uint32_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return v;
    }
}

static void ring_drop(struct keel_tracker *t, struct second *s)
{
    t->ring_used -= s->len;
    s->len = 0;
}

/* The oldest give way: they are what lies before the place where the ring goes on. */
static void ring_make_room(struct keel_tracker *t)
{
    for (uint32_t i = 1; i < SECONDS && RING_BYTES - t->ring_used < PAIR_BYTES * KEEL_HIST_BUCKETS; i++)
        ring_drop(t, &t->second[(t->current + i) % SECONDS]);
}

/* Writes the current second down and empties its histogram. */
static void finish_second(struct keel_tracker *t)
{
    struct second *s = &t->second[t->current];
    for (size_t o = 0; o < KEEL_N_OUTCOME; o++)
        t->outcomes[o] += t->now_outcomes[o];
    memcpy(s->outcomes, t->now_outcomes, sizeof(s->outcomes));
    memset(t->now_outcomes, 0, sizeof(t->now_outcomes));
    if (t->now.n == 0)
        return;
    ring_make_room(t);
    totals_merge(&t->all, &t->now);
    s->n = t->now.n;
    s->over = t->now.over;
    s->max_ns = t->now.max_ns;
    s->sum_ns = t->now.sum_ns;
    s->at = t->ring_at;
    uint32_t before = 0, last = keel_hist_index(t->now.max_ns);
    for (uint32_t i = 0; i <= last; i++) {
        if (t->now.count[i] == 0)
            continue;
        ring_put(t, s, i - before);
        ring_put(t, s, t->now.count[i]);
        count_add(&t->all.count[i], t->now.count[i]);
        t->now.count[i] = 0;
        before = i;
    }
    t->ring_used += s->len;
    t->now.n = t->now.over = t->now.max_ns = 0;
    t->now.sum_ns = 0;
}

/* Moves to the second of now, forgetting what is entered. Time that runs backwards stays where it is. */
static void advance(struct keel_tracker *t, int64_t now_ns)
{
    int64_t steps = (now_ns - t->second_end_ns) / SECOND_NS + 1;
    finish_second(t);
    t->second_end_ns += steps * SECOND_NS;
    for (int64_t i = 0; i < steps && i < SECONDS; i++) {
        t->current = (t->current + 1) % SECONDS;
        ring_drop(t, &t->second[t->current]);
        t->second[t->current] = (struct second){0};
    }
}

void keel_tracker_add(struct keel_tracker *t, int64_t now_ns, uint64_t ns, enum keel_outcome o)
{
    if (now_ns >= t->second_end_ns)
        advance(t, now_ns);
    keel_hist_add(&t->now, ns, t->target_ns);
    t->now_outcomes[o]++;
}

void keel_tracker_count(struct keel_tracker *t, int64_t now_ns, enum keel_outcome o)
{
    if (now_ns >= t->second_end_ns)
        advance(t, now_ns);
    t->now_outcomes[o]++;
}

uint64_t keel_tracker_outcome(const struct keel_tracker *t, enum keel_outcome o)
{
    return t->outcomes[o] + t->now_outcomes[o];
}

/* ---- looking ---- */

static void second_merge(const struct keel_tracker *t, const struct second *s, struct keel_track_sum *sum)
{
    for (size_t o = 0; o < KEEL_N_OUTCOME; o++)
        sum->outcomes[o] += s->outcomes[o];
    sum->hist.n += s->n;
    sum->hist.over += s->over;
    sum->hist.sum_ns += s->sum_ns;
    if (s->max_ns > sum->hist.max_ns)
        sum->hist.max_ns = s->max_ns;
    uint32_t at = s->at, end = (s->at + s->len) % RING_BYTES, bucket = 0;
    while (at != end) {
        bucket += ring_get(t, &at);
        sum->hist.count[bucket] += ring_get(t, &at);
    }
}

void keel_tracker_collect(struct keel_tracker *t, int64_t now_ns, int window_s, struct keel_track_sum *sum)
{
    if (now_ns >= t->second_end_ns)
        advance(t, now_ns);
    bool all = window_s == 0;
    hist_merge(&sum->hist, &t->now);
    if (all)
        hist_merge(&sum->hist, &t->all);
    for (size_t o = 0; o < KEEL_N_OUTCOME; o++)
        sum->outcomes[o] += (all ? t->outcomes[o] : 0) + t->now_outcomes[o];
    uint32_t n = all ? 0 : window_s <= 10 ? 10 : SECONDS;
    for (uint32_t i = 1; i < n; i++)
        second_merge(t, &t->second[(t->current + SECONDS - i) % SECONDS], sum);
}

void keel_track_merge(struct keel_track_sum *into, const struct keel_track_sum *sum)
{
    hist_merge(&into->hist, &sum->hist);
    for (size_t o = 0; o < KEEL_N_OUTCOME; o++)
        into->outcomes[o] += sum->outcomes[o];
}

void keel_track_view_of(const struct keel_track_sum *sum, struct keel_track_view *out)
{
    static const double q[] = {0.5, 0.9, 0.95, 0.99, 0.999};
    const struct keel_hist *h = &sum->hist;
    uint64_t at[KEEL_COUNT(q)];
    keel_hist_quantiles(h, q, KEEL_COUNT(q), at);
    *out = (struct keel_track_view){
        .n = h->n,
        .over = h->over,
        .max_ns = h->max_ns,
        .p50_ns = at[0],
        .p90_ns = at[1],
        .p95_ns = at[2],
        .p99_ns = at[3],
        .p999_ns = at[4],
        .mean_ns = h->n == 0 ? 0 : h->sum_ns / (double)h->n,
    };
    memcpy(out->outcomes, sum->outcomes, sizeof(out->outcomes));
}

void keel_tracker_view(struct keel_tracker *t, int64_t now_ns, int window_s, struct keel_track_view *out)
{
    struct keel_track_sum sum = {0};
    keel_tracker_collect(t, now_ns, window_s, &sum);
    keel_track_view_of(&sum, out);
}

uint64_t keel_tracker_target(const struct keel_tracker *t)
{
    return t->target_ns;
}

void keel_tracker_hist(const struct keel_tracker *t, struct keel_hist *out)
{
    *out = t->all;
    hist_merge(out, &t->now);
}

uint64_t keel_tracker_n(const struct keel_tracker *t)
{
    return t->all.n + t->now.n;
}

uint64_t keel_tracker_over(const struct keel_tracker *t)
{
    return t->all.over + t->now.over;
}

double keel_tracker_sum_ns(const struct keel_tracker *t)
{
    return t->all.sum_ns + t->now.sum_ns;
}
