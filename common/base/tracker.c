/*
 * How long one operation takes: a log-linear histogram for all time, and the same once more for each
 * of the last twelve slices of 5 s, so that a window is a sum of whole slices.
 *
 * Windows: "60 s" is the slice being filled and the eleven before it, so it covers the last 55 to
 * 60 s; "10 s" is the slice being filled and the one before it, the last 5 to 10 s. Nothing older
 * than its name says is ever in a window. Slices are cleared when time reaches them, by add and by
 * view, so there is no timer. About 64 KB a tracker, all of it allocated by keel_tracker_new.
 */
#include "keel/tracker.h"

#include <string.h>

#include "keel/arena.h"

#define SUB_BITS 5
#define SUB (1u << SUB_BITS)
#define MAX_EXP 41 /* of the last octave */

#define SLICES 12
#define SLICE_NS INT64_C(5000000000)
#define SLICES_OF_10S 2

struct keel_tracker {
    uint64_t target_ns;
    uint64_t outcomes[KEEL_N_OUTCOME];
    int64_t slice_end_ns; /* of the current one */
    uint32_t current;
    struct keel_hist all;
    struct keel_hist slice[SLICES];
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

static void hist_put(struct keel_hist *h, uint32_t index, uint64_t ns, uint64_t target_ns)
{
    h->n++;
    h->over += target_ns != 0 && ns > target_ns;
    if (ns > h->max_ns)
        h->max_ns = ns;
    h->sum_ns += (double)ns;
    /* A full bucket stays full: after four thousand million calls of one length, shares hardly move. */
    if (h->count[index] != UINT32_MAX)
        h->count[index]++;
}

void keel_hist_add(struct keel_hist *h, uint64_t ns, uint64_t target_ns)
{
    hist_put(h, keel_hist_index(ns), ns, target_ns);
}

uint64_t keel_hist_quantile(const struct keel_hist *h, double q)
{
    if (h->n == 0)
        return 0;
    uint32_t last = keel_hist_index(h->max_ns);
    uint64_t total = 0; /* not n: a bucket may be full */
    for (uint32_t i = 0; i <= last; i++)
        total += h->count[i];
    /* The product may come out a rounding error above the whole number that is meant. */
    double need = q * (double)total * (1 - 1e-12);
    uint64_t seen = 0;
    for (uint32_t i = 0; i <= last; i++) {
        seen += h->count[i];
        if (seen > 0 && (double)seen >= need) {
            uint64_t upper = keel_hist_upper(i);
            return upper < h->max_ns ? upper : h->max_ns;
        }
    }
    return h->max_ns;
}

static void hist_merge(struct keel_hist *into, const struct keel_hist *h)
{
    if (h->n == 0)
        return;
    into->n += h->n;
    into->over += h->over;
    into->sum_ns += h->sum_ns;
    if (h->max_ns > into->max_ns)
        into->max_ns = h->max_ns;
    for (uint32_t i = 0; i <= keel_hist_index(h->max_ns); i++)
        into->count[i] += h->count[i];
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

/* Moves to the slice of now, clearing what is entered. Time that runs backwards stays where it is. */
static void advance(struct keel_tracker *t, int64_t now_ns)
{
    if (now_ns < t->slice_end_ns)
        return;
    int64_t steps = (now_ns - t->slice_end_ns) / SLICE_NS + 1;
    t->slice_end_ns += steps * SLICE_NS;
    for (int64_t i = 0; i < steps && i < SLICES; i++) {
        t->current = (t->current + 1) % SLICES;
        if (t->slice[t->current].n != 0)
            memset(&t->slice[t->current], 0, sizeof(t->slice[0]));
    }
}

void keel_tracker_add(struct keel_tracker *t, int64_t now_ns, uint64_t ns, enum keel_outcome o)
{
    advance(t, now_ns);
    uint32_t index = keel_hist_index(ns);
    hist_put(&t->all, index, ns, t->target_ns);
    hist_put(&t->slice[t->current], index, ns, t->target_ns);
    t->outcomes[o]++;
}

void keel_tracker_count(struct keel_tracker *t, enum keel_outcome o)
{
    t->outcomes[o]++;
}

uint64_t keel_tracker_outcome(const struct keel_tracker *t, enum keel_outcome o)
{
    return t->outcomes[o];
}

static void view_of(const struct keel_hist *h, struct keel_track_view *out)
{
    *out = (struct keel_track_view){
        .n = h->n,
        .over = h->over,
        .max_ns = h->max_ns,
        .p50_ns = keel_hist_quantile(h, 0.5),
        .p90_ns = keel_hist_quantile(h, 0.9),
        .p95_ns = keel_hist_quantile(h, 0.95),
        .p99_ns = keel_hist_quantile(h, 0.99),
        .p999_ns = keel_hist_quantile(h, 0.999),
        .mean_ns = h->n == 0 ? 0 : h->sum_ns / (double)h->n,
    };
}

void keel_tracker_view(struct keel_tracker *t, int64_t now_ns, int window_s, struct keel_track_view *out)
{
    if (window_s == 0) {
        view_of(&t->all, out);
        return;
    }
    advance(t, now_ns);
    struct keel_hist sum = {0};
    uint32_t n = window_s <= 10 ? SLICES_OF_10S : SLICES;
    for (uint32_t i = 0; i < n; i++)
        hist_merge(&sum, &t->slice[(t->current + SLICES - i) % SLICES]);
    view_of(&sum, out);
}

uint64_t keel_tracker_target(const struct keel_tracker *t)
{
    return t->target_ns;
}

const struct keel_hist *keel_tracker_hist(const struct keel_tracker *t)
{
    return &t->all;
}
