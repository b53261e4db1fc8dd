/* The order book of book.h. One array a side, binary search, memmove. */
#include "book.h"

#include <string.h>

#include "keel/arena.h"

struct book_waiting { struct book_delta d; struct book_level *levels; };

void book_init(struct book *b)
{
    memset(b, 0, sizeof *b);
}

static void waiting_drop(struct book *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        keel_free(b->waiting[i].levels);
    memmove(b->waiting, b->waiting + n, (b->n_waiting - n) * sizeof *b->waiting);
    b->n_waiting -= n;
}

void book_fini(struct book *b)
{
    if (b->n_waiting > 0)
        waiting_drop(b, b->n_waiting);
    keel_free(b->waiting);
    keel_free(b->bid.lv);
    keel_free(b->ask.lv);
    memset(b, 0, sizeof *b);
}

void book_reset(struct book *b)
{
    struct book fresh = {.bid = b->bid, .ask = b->ask, .waiting = b->waiting, .n_waiting = b->n_waiting,
                         .applied = b->applied, .dropped = b->dropped, .gaps = b->gaps, .crossed = b->crossed};
    fresh.bid.n = fresh.ask.n = 0;
    if (fresh.n_waiting > 0)
        waiting_drop(&fresh, fresh.n_waiting);
    *b = fresh;
}

/* First index whose price is not worse than `price`, counting from the worst. sign +1 bids, -1 asks. */
static size_t side_find(const struct book_side *s, int64_t price, int sign)
{
    size_t lo = 0, hi = s->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        bool worse = sign > 0 ? s->lv[mid].price < price : s->lv[mid].price > price;
        if (worse)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void side_room(struct book_side *s)
{
    if (s->n < s->cap)
        return;
    s->cap = s->cap == 0 ? 64 : s->cap * 2;
    s->lv = keel_realloc(s->lv, s->cap, sizeof *s->lv);
}

static void side_set(struct book_side *s, struct book_level l, int sign)
{
    size_t at = side_find(s, l.price, sign);
    bool found = at < s->n && s->lv[at].price == l.price;

    if (found && l.qty > 0) {
        s->lv[at].qty = l.qty;
    } else if (found) {
        memmove(s->lv + at, s->lv + at + 1, (s->n - at - 1) * sizeof *s->lv);
        s->n--;
    } else if (l.qty > 0) {
        if (s->n == BOOK_MAX_LEVELS) {
            if (at == 0)
                return;
            memmove(s->lv, s->lv + 1, (s->n - 1) * sizeof *s->lv);
            s->n--;
            at--;
        }
        side_room(s);
        memmove(s->lv + at + 1, s->lv + at, (s->n - at) * sizeof *s->lv);
        s->lv[at] = l;
        s->n++;
    }
}

static void put(struct book *b, const struct book_delta *d, int64_t now_ns)
{
    for (size_t i = 0; i < d->n_bids; i++)
        side_set(&b->bid, d->bids[i], 1);
    for (size_t i = 0; i < d->n_asks; i++)
        side_set(&b->ask, d->asks[i], -1);
    b->has_seq = d->has_seq;
    b->last_seq = d->last_seq;
    b->changed_ns = now_ns;
}

static void wait_for_snapshot(struct book *b, const struct book_delta *d)
{
    struct book_waiting *w;
    size_t n = d->n_bids + d->n_asks;

    if (b->waiting == NULL)
        b->waiting = keel_alloc(BOOK_MAX_WAITING, sizeof *b->waiting);
    if (b->n_waiting == BOOK_MAX_WAITING) {
        waiting_drop(b, 1);
        b->dropped++;
    }
    w = &b->waiting[b->n_waiting++];
    w->d = *d;
    w->levels = keel_alloc(n > 0 ? n : 1, sizeof *w->levels);
    if (d->n_bids > 0)
        memcpy(w->levels, d->bids, d->n_bids * sizeof *w->levels);
    if (d->n_asks > 0)
        memcpy(w->levels + d->n_bids, d->asks, d->n_asks * sizeof *w->levels);
    w->d.bids = w->levels;
    w->d.asks = w->levels + d->n_bids;
}

static void desync(struct book *b)
{
    b->state = BOOK_DESYNC;
    b->bid.n = b->ask.n = 0;
}

/* Older than what the book holds already. */
static bool is_old(const struct book *b, const struct book_delta *d)
{
    if (!d->has_seq || !b->has_seq)
        return false;
    return d->rule == BOOK_FUTURES && b->straddle ? d->last_seq < b->last_seq : d->last_seq <= b->last_seq;
}

static bool follows(const struct book *b, const struct book_delta *d)
{
    if (!d->has_seq || !b->has_seq)
        return true;
    if (d->rule == BOOK_FUTURES)
        return b->straddle ? d->first_seq <= b->last_seq : d->prev_seq == b->last_seq;
    if (d->rule == BOOK_SPOT && b->straddle)
        return d->first_seq <= b->last_seq + 1;
    return d->first_seq == b->last_seq + 1;
}

static bool is_crossed(const struct book *b)
{
    const struct book_level *bid = book_best(&b->bid), *ask = book_best(&b->ask);
    return bid != NULL && ask != NULL && bid->price > ask->price;
}

/* A difference on a book that has its snapshot. False: it opened a hole and was not applied. */
static bool advance(struct book *b, const struct book_delta *d, int64_t now_ns)
{
    if (is_old(b, d)) {
        b->dropped++;
        return true;
    }
    if (!follows(b, d)) {
        b->gaps++;
        desync(b);
        return false;
    }
    put(b, d, now_ns);
    b->straddle = false;
    b->applied++;
    b->state = BOOK_LIVE;
    if (is_crossed(b)) {
        b->crossed++;
        desync(b);
    }
    return true;
}

static void take_snapshot(struct book *b, const struct book_delta *d, int64_t now_ns)
{
    size_t i = 0;

    b->bid.n = b->ask.n = 0;
    put(b, d, now_ns);
    b->straddle = true;
    b->state = BOOK_LIVE;
    if (is_crossed(b)) {
        b->crossed++;
        desync(b);
        return;
    }
    while (i < b->n_waiting && b->state == BOOK_LIVE && advance(b, &b->waiting[i].d, now_ns))
        i++;
    /* After a hole the rest waits for a newer snapshot. */
    if (i > 0)
        waiting_drop(b, i);
}

bool book_apply(struct book *b, const struct book_delta *d, int64_t now_ns)
{
    uint64_t before = b->applied;
    enum book_state state = b->state;

    if (d->snapshot) {
        take_snapshot(b, d, now_ns);
        return true;
    }
    if (b->state == BOOK_SYNCING || b->state == BOOK_DESYNC)
        wait_for_snapshot(b, d);
    else if (!advance(b, d, now_ns))
        wait_for_snapshot(b, d);
    return b->applied != before || b->state != state;
}

bool book_age(struct book *b, int64_t now_ns, int64_t stale_ns)
{
    if (b->state != BOOK_LIVE || now_ns - b->changed_ns < stale_ns)
        return false;
    b->state = BOOK_STALE;
    return true;
}

size_t book_top(const struct book_side *s, size_t n, struct book_level *out)
{
    if (n > s->n)
        n = s->n;
    for (size_t i = 0; i < n; i++)
        out[i] = s->lv[s->n - 1 - i];
    return n;
}

const struct book_level *book_best(const struct book_side *s)
{
    return s->n > 0 ? &s->lv[s->n - 1] : NULL;
}
