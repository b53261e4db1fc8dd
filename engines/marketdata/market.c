/* State of all symbols; see market.h. A fixed hash table of names, everything else grows to a bound. */
#include "market.h"

#include <string.h>

#include "keel/arena.h"

#define DAY_NS 86400000000000LL
#define RATE_WINDOW_NS 10000000000LL
#define RATE_WINDOWS 3       /* seen before a collapse is called one */
#define RATE_COLLAPSE 0.1    /* of the mean so far */

struct market {
    struct market_conf conf;
    struct market_symbol **all, **slot;
    size_t n, n_slots;
    uint64_t stored;
};

#define COIN(base, tick_, lot_)                                                                                        \
    {.symbol = base "USDT", .base_currency = base, .quote_currency = "USDT", .tick = tick_, .lot = lot_,               \
     .multiplier = KEEL_SCALE, .fee_taker = 400000, .fee_maker = 200000}
static const struct market_instrument builtins[] = {
    COIN("BTC", 100000000, 1000000),  COIN("ETH", 10000000, 1000000), COIN("SOL", 10000000, 10000000),
    COIN("BNB", 10000000, 10000000),  COIN("XRP", 100000, 100000000), COIN("ADA", 100000, 1000000000),
    COIN("DOGE", 10000, 1000000000),  COIN("LTC", 10000000, 1000000),
};

const struct market_instrument *market_builtins(size_t *n)
{
    *n = KEEL_COUNT(builtins);
    return builtins;
}

const struct market_instrument *market_builtin(const char *symbol)
{
    for (size_t i = 0; i < KEEL_COUNT(builtins); i++) {
        if (strcmp(builtins[i].symbol, symbol) == 0)
            return &builtins[i];
    }
    return NULL;
}

struct market *market_new(const struct market_conf *conf)
{
    struct market *m = keel_alloc(1, sizeof *m);

    m->conf = *conf;
    m->n_slots = 16;
    while (m->n_slots < conf->max_symbols * 2)
        m->n_slots *= 2;
    m->slot = keel_alloc(m->n_slots, sizeof *m->slot);
    m->all = keel_alloc(conf->max_symbols, sizeof *m->all);
    return m;
}

void market_free(struct market *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < m->n; i++) {
        struct market_symbol *s = m->all[i];
        book_fini(&s->book);
        for (size_t k = 0; k < s->n_history; k++)
            keel_free(s->history[k].ring);
        keel_free(s->ring);
        keel_free(s);
    }
    keel_free(m->all);
    keel_free(m->slot);
    keel_free(m);
}

const struct market_conf *market_conf(const struct market *m)
{
    return &m->conf;
}

static size_t slot_of(const struct market *m, const char *name)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    size_t at;

    for (const char *p = name; *p != '\0'; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    for (at = (size_t)h & (m->n_slots - 1); m->slot[at] != NULL; at = (at + 1) & (m->n_slots - 1)) {
        if (strcmp(m->slot[at]->instrument.symbol, name) == 0)
            break;
    }
    return at;
}

struct market_symbol *market_find(const struct market *m, const char *name)
{
    return m->slot[slot_of(m, name)];
}

void market_begin(struct market_symbol *s, const struct market *m)
{
    book_reset(&s->book);
    s->has_book = s->has_quote = s->has_trade = s->has_last = s->book_changed = false;
    s->trade_id[0] = '\0';
    s->book_shown = BOOK_SYNCING;
    s->book_shown_ns = INT64_MIN / 2;
    memset(&s->day, 0, sizeof s->day);
    for (size_t i = 0; i < m->conf.n_widths; i++)
        bars_init(&s->build[i], m->conf.width_ns[i]);
    for (size_t i = 0; i < KEEL_COUNT(s->newest_event); i++)
        s->newest_event[i] = INT64_MIN;
}

struct market_symbol *market_add(struct market *m, const char *name)
{
    size_t at = slot_of(m, name), n = strlen(name);
    const struct market_instrument *known = market_builtin(name);
    struct market_symbol *s = m->slot[at];

    keel_assert(n <= MARKET_SYMBOL_LEN);
    if (s != NULL)
        return s;
    if (m->n == m->conf.max_symbols)
        return NULL;
    s = keel_alloc(1, sizeof *s);
    s->instrument = known != NULL ? *known : m->conf.dflt;
    memcpy(s->instrument.symbol, name, n + 1);
    book_init(&s->book);
    market_begin(s, m);
    m->slot[at] = m->all[m->n++] = s;
    return s;
}

size_t market_size(const struct market *m)
{
    return m->n;
}

struct market_symbol *market_at(const struct market *m, size_t i)
{
    return m->all[i];
}

uint64_t market_stored(const struct market *m)
{
    return m->stored;
}

bool market_claim(struct market_symbol *s, uint32_t owner, const struct market *m)
{
    if (s->owner == owner)
        return true;
    if (s->owner != 0)
        return false;
    s->owner = s->feed = owner;
    market_begin(s, m);
    return true;
}

void market_release(struct market *m, uint32_t owner)
{
    for (size_t i = 0; i < m->n; i++) {
        struct market_symbol *s = m->all[i];
        if (s->owner != owner)
            continue;
        s->owner = 0;
        /* A bar that was open when the data ended never saw its close. */
        for (size_t k = 0; k < m->conf.n_widths; k++)
            bars_init(&s->build[k], m->conf.width_ns[k]);
    }
}

/* The next place of a ring that grows by doubling up to MARKET_RING. *n counts what is held. */
static size_t ring_next(size_t *n, size_t *at, size_t *cap, void **ring, size_t size)
{
    size_t place;

    if (*n == *cap && *cap < MARKET_RING) {
        *cap = *cap == 0 ? 16 : *cap * 2 < MARKET_RING ? *cap * 2 : MARKET_RING;
        *ring = keel_realloc(*ring, *cap, size);
        *at = *n;
    }
    place = *at;
    *at = *at + 1 == *cap && *cap == MARKET_RING ? 0 : *at + 1;
    if (*n < *cap)
        (*n)++;
    return place;
}

static void copy_text(char *to, size_t cap, const char *from)
{
    size_t n = 0;

    while (from != NULL && from[n] != '\0' && n + 1 < cap) {
        to[n] = from[n];
        n++;
    }
    to[n] = '\0';
}

static void keep_point(struct market *m, struct market_symbol *s, const struct market_event *ev, const char *source)
{
    void *ring = s->ring;
    size_t held = s->ring_n, at = ring_next(&s->ring_n, &s->ring_at, &s->ring_cap, &ring, sizeof *s->ring);
    struct market_point *p;

    s->ring = ring;
    m->stored += s->ring_n - held;
    p = &s->ring[at];
    memset(p, 0, sizeof *p);
    p->kind = ev->kind;
    p->ts_event = ev->ts_event;
    p->ts_init = ev->ts_init;
    copy_text(p->source, sizeof p->source, source);
    switch (ev->kind) {
    case MARKET_QUOTE:
        p->u.quote = ev->u.quote;
        break;
    case MARKET_TRADE:
        p->u.trade.price = ev->u.trade.price;
        p->u.trade.size = ev->u.trade.size;
        p->u.trade.side = ev->u.trade.side;
        copy_text(p->text, sizeof p->text, ev->u.trade.id);
        break;
    case MARKET_BAR:
        p->u.bar = ev->u.bar.bar;
        copy_text(p->text, sizeof p->text, ev->u.bar.spec);
        break;
    default:
        p->u.depth.snapshot = ev->u.depth.snapshot;
        p->u.depth.has_seq = ev->u.depth.has_seq;
        p->u.depth.first_seq = ev->u.depth.first_seq;
        p->u.depth.last_seq = ev->u.depth.last_seq;
        p->u.depth.n_bids = ev->u.depth.n_bids;
        p->u.depth.n_asks = ev->u.depth.n_asks;
    }
}

static void day_add(struct market_day *d, int64_t now_ns, int64_t open, int64_t high, int64_t low, int64_t close,
                    keel_i128 volume)
{
    int64_t day = now_ns / DAY_NS - (now_ns % DAY_NS < 0);

    if (!d->has_price || d->day != day) {
        *d = (struct market_day){.day = day, .open = open, .high = high, .low = low, .has_price = true,
                                 .has_flow = true};
    }
    if (high > d->high)
        d->high = high;
    if (low < d->low)
        d->low = low;
    d->close = close;
    d->volume += volume;
}

bool market_is_duplicate(const struct market_symbol *s, const struct market_event *ev)
{
    return ev->kind == MARKET_TRADE && ev->u.trade.id != NULL && s->has_trade && s->trade_id[0] != '\0' &&
           strcmp(s->trade_id, ev->u.trade.id) == 0;
}

static void apply_trade(struct market *m, struct market_symbol *s, const struct market_event *ev)
{
    const struct market_trade *t = &ev->u.trade;
    keel_i128 notional = 0;

    s->trade = *t;
    s->trade.id = NULL;
    copy_text(s->trade_id, sizeof s->trade_id, t->id);
    s->trade_event = ev->ts_event;
    s->has_trade = s->has_last = true;
    s->last = t->price;
    day_add(&s->day, ev->ts_init, t->price, t->price, t->price, t->price, t->size);
    s->day.trades++;
    if (keel_notional(t->price, t->size, KEEL_SCALE, &notional) == KEEL_OK)
        s->day.notional += notional;
    else
        s->day.has_flow = false;
    for (size_t i = 0; i < m->conf.n_widths; i++)
        bars_add(&s->build[i], ev->ts_init, t->price, t->size, t->side);
}

static void apply_bar(struct market_symbol *s, const struct market_event *ev)
{
    const struct bars_bar *b = &ev->u.bar.bar;

    s->has_last = true;
    s->last = b->close;
    /* The last instant inside: a bar that ends at midnight belongs to the day it covers. */
    day_add(&s->day, ev->ts_init - 1, b->open, b->high, b->low, b->close, b->volume);
    s->day.trades += b->trades;
    s->day.notional += b->notional;
    s->day.has_flow = s->day.has_flow && b->has_flow;
    market_keep_bar(s, ev->u.bar.spec, b);
}

static void apply_depth(struct market_symbol *s, const struct market_event *ev, struct market_counts *c)
{
    struct book *b = &s->book;
    uint64_t applied = b->applied, dropped = b->dropped, gaps = b->gaps, crossed = b->crossed;

    s->has_book = true;
    if (book_apply(b, &ev->u.depth, ev->ts_init)) {
        s->book_changed = true;
        s->book_event = ev->ts_event;
        s->book_init = ev->ts_init;
    }
    c->book_updates_applied += b->applied - applied;
    c->book_updates_dropped += b->dropped - dropped;
    c->sequence_gaps += b->gaps - gaps;
    c->crossed += b->crossed - crossed;
    c->snapshots += ev->u.depth.snapshot;
}

void market_apply(struct market *m, struct market_symbol *s, const struct market_event *ev, const char *source,
                  struct market_counts *c)
{
    switch (ev->kind) {
    case MARKET_QUOTE:
        s->quote = ev->u.quote;
        s->quote_event = ev->ts_event;
        s->has_quote = true;
        c->quotes++;
        break;
    case MARKET_TRADE:
        apply_trade(m, s, ev);
        c->trades++;
        c->trade_volume += ev->u.trade.size;
        break;
    case MARKET_BAR:
        apply_bar(s, ev);
        c->bars++;
        c->trade_volume += ev->u.bar.bar.volume;
        break;
    case MARKET_DEPTH:
        apply_depth(s, ev, c);
        break;
    case MARKET_OTHER:
    case MARKET_BAD:
    case MARKET_END:
        return;
    }
    keep_point(m, s, ev, source);
}

/* A feed that is up but nearly silent is as bad as one that is down: its rate is watched against its own past. */
static void watch_rate(struct market_counts *c, int64_t now_ns)
{
    int64_t full;

    if (c->window_start == 0)
        c->window_start = now_ns;
    full = (now_ns - c->window_start) / RATE_WINDOW_NS;
    if (full > 0) {
        /* Of several windows over at once, all but the first were empty. */
        bool collapsed = full > 1 || (double)c->window_n < RATE_COLLAPSE * c->window_mean;
        if (c->windows >= RATE_WINDOWS && collapsed)
            c->rate_collapses++;
        c->windows++;
        c->window_mean += ((double)c->window_n - c->window_mean) / (double)c->windows;
        c->window_start += full * RATE_WINDOW_NS;
        c->window_n = 0;
    }
    c->window_n++;
}

void market_count(struct market_symbol *s, const struct market_event *ev, struct market_counts *c)
{
    int64_t delay = ev->ts_init - ev->ts_event;

    if (ev->kind == MARKET_END)
        return;
    if (ev->kind == MARKET_BAD) {
        c->bad_records++;
        return;
    }
    c->records++;
    if (!c->has_time)
        c->ts_first = ev->ts_init;
    c->has_time = true;
    c->ts_last = ev->ts_init;
    if (ev->kind == MARKET_OTHER) {
        c->other_records++;
        return;
    }
    if (!c->has_delay || delay < c->least_delay_ns)
        c->least_delay_ns = delay;
    c->has_delay = true;
    c->is_ticking = c->is_ticking || ev->kind == MARKET_DEPTH;
    if (c->is_ticking)
        watch_rate(c, ev->ts_init);
    if (s == NULL)
        return;
    if (ev->ts_event < s->newest_event[ev->kind])
        c->out_of_order++;
    else
        s->newest_event[ev->kind] = ev->ts_event;
}

size_t market_due_book(struct market *m, struct market_symbol *s, int64_t now_ns, struct market_due *out)
{
    bool turned;

    if (!s->has_book)
        return 0;
    if (book_age(&s->book, now_ns, m->conf.stale_ns)) {
        s->book_changed = true;
        s->book_event = s->book_init = now_ns;
    }
    turned = s->book.state != s->book_shown;
    if (!s->book_changed || (!turned && now_ns - s->book_shown_ns < MARKET_BOOK_NS))
        return 0;
    out->kind = MARKET_DUE_BOOK;
    out->sym = s;
    s->book_changed = false;
    s->book_shown = s->book.state;
    s->book_shown_ns = now_ns;
    return 1;
}

size_t market_due(struct market *m, struct market_symbol *s, int64_t now_ns, struct market_due out[MARKET_DUE_MAX],
                  struct market_counts *c)
{
    size_t n = 0;

    for (size_t i = 0; i < m->conf.n_widths; i++) {
        if (!bars_close(&s->build[i], now_ns, &out[n].bar))
            continue;
        out[n].kind = MARKET_DUE_BAR;
        out[n].sym = s;
        bars_spec(m->conf.width_ns[i], out[n].spec);
        market_keep_bar(s, out[n].spec, &out[n].bar);
        c->bars++;
        n++;
    }
    return n + market_due_book(m, s, now_ns, &out[n]);
}

static struct market_bars *history_of(struct market_symbol *s, const char *spec)
{
    struct market_bars *h;

    for (size_t i = 0; i < s->n_history; i++) {
        if (strcmp(s->history[i].spec, spec) == 0)
            return &s->history[i];
    }
    if (s->n_history == MARKET_SPECS) {
        /* More widths than a symbol keeps: the newest takes the last place. */
        keel_free(s->history[MARKET_SPECS - 1].ring);
        s->n_history--;
    }
    h = &s->history[s->n_history++];
    memset(h, 0, sizeof *h);
    copy_text(h->spec, sizeof h->spec, spec);
    return h;
}

void market_keep_bar(struct market_symbol *s, const char *spec, const struct bars_bar *bar)
{
    struct market_bars *h = history_of(s, spec);
    void *ring = h->ring;
    size_t at;

    if (h->n > 0 && bar->ts_close <= market_bar_back(h, 0)->ts_close)
        h->n = h->at = 0;
    at = ring_next(&h->n, &h->at, &h->cap, &ring, sizeof *h->ring);
    h->ring = ring;
    h->ring[at] = *bar;
}

const struct market_bars *market_bars_of(const struct market_symbol *s, const char *spec)
{
    for (size_t i = 0; i < s->n_history; i++) {
        if (strcmp(s->history[i].spec, spec) == 0)
            return &s->history[i];
    }
    return NULL;
}

/* Rings are filled from 0; once full they have MARKET_RING places and `at` is the oldest. */
static size_t back(size_t n, size_t at, size_t i)
{
    return n < MARKET_RING ? n - 1 - i : (at + MARKET_RING - 1 - i) % MARKET_RING;
}

const struct bars_bar *market_bar_back(const struct market_bars *b, size_t i)
{
    return &b->ring[back(b->n, b->at, i)];
}

const struct market_point *market_point_back(const struct market_symbol *s, size_t i)
{
    return &s->ring[back(s->ring_n, s->ring_at, i)];
}
