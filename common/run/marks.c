/*
 * A set of sequence numbers, kept as a low mark and the sorted, disjoint, non-touching ranges above it. Numbers come nearly
 * in order, so the set is nearly always a low mark alone.
 */
#include <string.h>

#include "bus_priv.h"
#include "keel/arena.h"

void keel_marks_fini(struct keel_marks *m)
{
    keel_free(m->range);
    *m = (struct keel_marks){0};
}

/* Index of the first range that ends at or after seq. */
static size_t range_at(const struct keel_marks *m, uint64_t seq)
{
    size_t lo = 0, hi = m->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (m->range[mid].b < seq)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool keel_marks_has(const struct keel_marks *m, uint64_t seq)
{
    if (seq <= m->low)
        return true;
    size_t i = range_at(m, seq);
    return i < m->n && m->range[i].a <= seq;
}

static void range_remove(struct keel_marks *m, size_t at, size_t n)
{
    memmove(m->range + at, m->range + at + n, (m->n - at - n) * sizeof *m->range);
    m->n -= n;
}

/* The low mark takes in what it now touches. */
static void settle_low(struct keel_marks *m)
{
    size_t n = 0;
    while (n < m->n && m->range[n].a <= m->low + 1) {
        if (m->range[n].b > m->low)
            m->low = m->range[n].b;
        n++;
    }
    if (n > 0)
        range_remove(m, 0, n);
}

static void range_insert(struct keel_marks *m, size_t at, struct keel_range r)
{
    if (m->n == m->cap) {
        m->cap = m->cap == 0 ? 8 : m->cap * 2;
        m->range = keel_realloc(m->range, m->cap, sizeof *m->range);
    }
    memmove(m->range + at + 1, m->range + at, (m->n - at) * sizeof *m->range);
    m->range[at] = r;
    m->n++;
}

void keel_marks_add_range(struct keel_marks *m, uint64_t a, uint64_t b)
{
    if (b < a || b <= m->low)
        return;
    if (a <= m->low + 1) {
        m->low = b;
        settle_low(m);
        return;
    }
    /* Ranges that overlap or touch [a, b] become one with it. */
    size_t first = range_at(m, a - 1), last = first;
    while (last < m->n && m->range[last].a <= b + 1) {
        if (m->range[last].a < a)
            a = m->range[last].a;
        if (m->range[last].b > b)
            b = m->range[last].b;
        last++;
    }
    if (last > first) {
        m->range[first] = (struct keel_range){a, b};
        range_remove(m, first + 1, last - first - 1);
        return;
    }
    range_insert(m, first, (struct keel_range){a, b});
    if (m->n > KEEL_MARKS_MAX) {
        m->low = m->range[0].b;
        range_remove(m, 0, 1);
    }
}

bool keel_marks_add(struct keel_marks *m, uint64_t seq)
{
    if (seq == m->low + 1 && m->n == 0) {
        m->low = seq;
        return true;
    }
    if (keel_marks_has(m, seq))
        return false;
    keel_marks_add_range(m, seq, seq);
    return true;
}

bool keel_marks_missing(const struct keel_marks *m, uint64_t lo, uint64_t hi, struct keel_range *out)
{
    if (lo <= m->low)
        lo = m->low + 1;
    size_t i = range_at(m, lo);
    if (i < m->n && m->range[i].a <= lo)
        lo = m->range[i++].b + 1;
    if (lo > hi)
        return false;
    out->a = lo;
    out->b = i < m->n && m->range[i].a <= hi ? m->range[i].a - 1 : hi;
    return true;
}
