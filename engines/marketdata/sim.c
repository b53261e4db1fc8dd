/* The simulated market of sim.h. */
#include "sim.h"

#include <math.h>
#include <string.h>

#define SECOND 1e9
#define HALF_SPREAD 3e-5 /* of the price */
#define LEVEL_MONEY 2e4  /* usual value of a level, quote currency */

static const struct { const char *symbol; int64_t price; double beta, own_vol; } start[SIM_SYMBOLS] = {
    {"BTCUSDT", 61659700000000, 1.0, 0.5}, {"ETHUSDT", 2650000000000, 1.1, 0.7}, {"SOLUSDT", 155000000000, 1.3, 1.0},
    {"BNBUSDT", 520000000000, 0.8, 0.6},   {"XRPUSDT", 600000000, 0.9, 0.9},     {"ADAUSDT", 350000000, 1.1, 1.0},
    {"DOGEUSDT", 105000000, 1.3, 1.2},     {"LTCUSDT", 62000000000, 0.9, 0.8},
};

/* Volatility as a fraction a square-root second, mean stay in seconds, and chance to rise when left. */
static const struct { double vol, stay_s, up; } regimes[] = {{1.5e-5, 120, 1}, {4e-5, 60, 0.4}, {1.2e-4, 20, 0}};

enum keel_status sim_init(struct sim *s, uint64_t seed, int64_t start_ns, int64_t duration_ns, double rate,
                          const char *const *symbols, size_t n)
{
    memset(s, 0, sizeof *s);
    keel_rng_seed(&s->rng, seed);
    s->now_ns = start_ns;
    s->end_ns = duration_ns > 0 ? start_ns + duration_ns : INT64_MAX;
    s->rate = rate;
    s->regime = 1;
    s->regime_until_ns = start_ns + (int64_t)(keel_rng_exponential(&s->rng) * regimes[1].stay_s * SECOND);
    for (size_t i = 0; i < (n == 0 ? SIM_SYMBOLS : n); i++) {
        const struct market_instrument *in;
        struct sim_coin *c = &s->coin[s->n];
        size_t k = 0;

        while (k < SIM_SYMBOLS && strcmp(start[k].symbol, n == 0 ? start[i].symbol : symbols[i]) != 0)
            k++;
        if (k == SIM_SYMBOLS || s->n == SIM_SYMBOLS)
            return KEEL_NOTFOUND;
        in = market_builtin(start[k].symbol);
        c->instrument = in;
        c->fair = (double)(start[k].price / in->tick);
        c->beta = start[k].beta;
        c->own_vol = start[k].own_vol;
        c->half = fmax(0.6, c->fair * HALF_SPREAD);
        c->gap = fmax(1, c->half / 2);
        c->size = fmax(1, LEVEL_MONEY / (keel_dec_to_f64(start[k].price) * keel_dec_to_f64(in->lot)));
        c->at_ns = start_ns;
        s->n++;
    }
    return KEEL_OK;
}

static int64_t lots(struct sim *s, const struct sim_coin *c, double share)
{
    return 1 + (int64_t)(keel_rng_exponential(&s->rng) * c->size * share);
}

static void level_remove(struct sim_side *side, size_t i)
{
    memmove(side->lv + i, side->lv + i + 1, (side->n - i - 1) * sizeof *side->lv);
    side->n--;
}

/* sign +1: asks, prices rise away from the best; -1: bids. A full side loses its worst level. */
static void level_add(struct sim_side *side, int sign, int64_t price, int64_t qty)
{
    size_t i = 0;

    while (i < side->n && sign * side->lv[i].price < sign * price)
        i++;
    if (i < side->n && side->lv[i].price == price) {
        side->lv[i].qty += qty;
        return;
    }
    if (i == SIM_LEVELS || price < 1)
        return;
    if (side->n == SIM_LEVELS)
        side->n--;
    memmove(side->lv + i + 1, side->lv + i, (side->n - i) * sizeof *side->lv);
    side->lv[i] = (struct book_level){price, qty};
    side->n++;
}

/* The nearest price to the fair one at which a maker quotes this side, never at or through the other side's best. */
static int64_t maker_price(const struct sim_coin *c, int sign)
{
    const struct sim_side *other = sign > 0 ? &c->bid : &c->ask;
    int64_t p = sign > 0 ? (int64_t)ceil(c->fair + c->half) : (int64_t)floor(c->fair - c->half);

    if (other->n > 0 && sign * p <= sign * other->lv[0].price)
        p = other->lv[0].price + sign;
    return p;
}

static void make(struct sim *s, struct sim_coin *c, int sign)
{
    struct sim_side *side = sign > 0 ? &c->ask : &c->bid;
    int64_t best = maker_price(c, sign);

    /* Quotes that the fair price has reached are withdrawn, far ones give way to a better one. */
    while (side->n > 0 && sign * ((double)side->lv[0].price - c->fair) < 0.3 * c->half)
        level_remove(side, 0);
    if (side->n == 0 || sign * (side->lv[0].price - best) > (int64_t)c->gap)
        level_add(side, sign, best, lots(s, c, 1));
    while (side->n < SIM_DEPTH) {
        int64_t step = 1 + (int64_t)keel_rng_below(&s->rng, (uint64_t)(2 * c->gap));
        int64_t price = side->lv[side->n - 1].price + sign * step;
        if (price < 1)
            break;
        level_add(side, sign, price, lots(s, c, 1));
    }
}

/*
 * Takes from the best level on while a level is better than `limit` ticks; each level touched is a trade at its
 * price.
 */
static size_t take(struct sim_side *side, int sign, int64_t want, double limit, struct book_level trade[SIM_TRADES])
{
    size_t n = 0;

    while (want > 0 && side->n > 0 && n < SIM_TRADES && sign * (limit - (double)side->lv[0].price) > 0) {
        int64_t q = want < side->lv[0].qty ? want : side->lv[0].qty;
        trade[n++] = (struct book_level){side->lv[0].price, q};
        side->lv[0].qty -= q;
        want -= q;
        if (side->lv[0].qty == 0)
            level_remove(side, 0);
    }
    return n;
}

/* An uninformed order: it trades, joins or leaves the book. Returns the trades; *sign +1: it bought. */
static size_t noise(struct sim *s, struct sim_coin *c, int *sign, struct book_level trade[SIM_TRADES])
{
    double kind = keel_rng_f64(&s->rng);
    struct sim_side *side;

    *sign = keel_rng_u64(&s->rng) >> 63 ? 1 : -1;
    side = *sign > 0 ? &c->ask : &c->bid;
    if (kind < 0.3)
        return take(side, *sign, lots(s, c, 0.4), *sign * 1e18, trade);
    if (kind < 0.65) {
        int64_t away = (int64_t)(keel_rng_exponential(&s->rng) * c->gap * 2);
        level_add(side, *sign, maker_price(c, *sign) + *sign * away, lots(s, c, 0.5));
    } else {
        size_t i = (size_t)keel_rng_below(&s->rng, side->n);
        side->lv[i].qty -= lots(s, c, 0.5);
        if (side->lv[i].qty <= 0)
            level_remove(side, i);
    }
    return 0;
}

static void move_fair(struct sim *s, struct sim_coin *c)
{
    double own = c->own_vol * regimes[s->regime].vol * sqrt((double)(s->now_ns - c->at_ns) / SECOND);

    c->fair += c->fair * (c->beta * (s->common - c->common_seen) + own * keel_rng_normal(&s->rng));
    c->fair = fmax(c->fair, 4 * (c->half + c->gap * SIM_LEVELS));
    c->common_seen = s->common;
    c->at_ns = s->now_ns;
}

static void pass_time(struct sim *s)
{
    int64_t step = 1 + (int64_t)(keel_rng_exponential(&s->rng) / s->rate * SECOND);

    s->now_ns += step;
    while (s->now_ns >= s->regime_until_ns) {
        s->regime += keel_rng_f64(&s->rng) < regimes[s->regime].up ? 1 : -1;
        s->regime_until_ns += 1 + (int64_t)(keel_rng_exponential(&s->rng) * regimes[s->regime].stay_s * SECOND);
    }
    s->common += regimes[s->regime].vol * sqrt((double)step / SECOND) * keel_rng_normal(&s->rng);
}

/* Levels of `now` that differ from `was`, and those that are gone with quantity 0; in decs. */
static const struct book_level *changes(const struct sim_coin *c, const struct sim_side *was,
                                        const struct sim_side *now, int sign, struct keel_arena *a, size_t *n)
{
    struct book_level *out = keel_arena_array(a, was->n + now->n, sizeof *out);
    size_t i = 0, k = 0;

    *n = 0;
    while (i < was->n || k < now->n) {
        struct book_level l;
        bool old = k == now->n || (i < was->n && sign * was->lv[i].price < sign * now->lv[k].price);
        bool same = !old && i < was->n && was->lv[i].price == now->lv[k].price;

        l = old ? (struct book_level){was->lv[i].price, 0} : now->lv[k];
        if (!same || was->lv[i].qty != now->lv[k].qty)
            out[(*n)++] = (struct book_level){l.price * c->instrument->tick, l.qty * c->instrument->lot};
        i += old || same;
        k += !old;
    }
    return out;
}

static struct market_event event(const struct sim *s, const struct sim_coin *c, enum market_kind kind)
{
    return (struct market_event){.ts_init = s->now_ns, .ts_event = s->now_ns, .kind = kind,
                                 .symbol = c->instrument->symbol};
}

static bool same_best(const struct sim_side *a, const struct sim_side *b)
{
    return a->n > 0 && b->n > 0 && a->lv[0].price == b->lv[0].price && a->lv[0].qty == b->lv[0].qty;
}

/* What became of the book since bid and ask were as given: a difference (or the first snapshot) and maybe a quote. */
static size_t show(const struct sim *s, struct sim_coin *c, const struct sim_side *bid, const struct sim_side *ask,
                   struct keel_arena *a, struct market_event *out)
{
    const struct market_instrument *in = c->instrument;
    struct market_event depth = event(s, c, MARKET_DEPTH), quote = event(s, c, MARKET_QUOTE);
    struct book_delta *d = &depth.u.depth;
    size_t n = 0;

    d->bids = changes(c, bid, &c->bid, -1, a, &d->n_bids);
    d->asks = changes(c, ask, &c->ask, 1, a, &d->n_asks);
    if (d->n_bids + d->n_asks == 0)
        return 0;
    d->snapshot = !c->is_open;
    d->has_seq = true;
    d->first_seq = d->last_seq = ++c->seq;
    c->is_open = true;
    out[n++] = depth;
    if (same_best(bid, &c->bid) && same_best(ask, &c->ask))
        return n;
    quote.u.quote = (struct market_quote){
        .bid = c->bid.lv[0].price * in->tick, .bid_size = c->bid.lv[0].qty * in->lot,
        .ask = c->ask.lv[0].price * in->tick, .ask_size = c->ask.lv[0].qty * in->lot,
    };
    out[n++] = quote;
    return n;
}

size_t sim_step(struct sim *s, struct keel_arena *a, struct market_event out[SIM_OUT])
{
    struct book_level trade[SIM_TRADES];
    struct sim_side bid, ask;
    struct sim_coin *c;
    size_t n_trades, n = 0;
    int sign = 1;

    if (s->n_open < s->n) {
        c = &s->coin[s->n_open++];
        bid = c->bid;
        ask = c->ask;
        make(s, c, 1);
        make(s, c, -1);
        return show(s, c, &bid, &ask, a, out);
    }
    while (n == 0) {
        pass_time(s);
        if (s->now_ns >= s->end_ns)
            return 0;
        c = &s->coin[keel_rng_below(&s->rng, s->n)];
        move_fair(s, c);
        bid = c->bid;
        ask = c->ask;
        if ((double)c->ask.lv[0].price < c->fair)
            n_trades = take(&c->ask, sign = 1, lots(s, c, 2), c->fair, trade);
        else if ((double)c->bid.lv[0].price > c->fair)
            n_trades = take(&c->bid, sign = -1, lots(s, c, 2), c->fair, trade);
        else
            n_trades = noise(s, c, &sign, trade);
        make(s, c, 1);
        make(s, c, -1);
        for (size_t i = 0; i < n_trades; i++) {
            struct market_event ev = event(s, c, MARKET_TRADE);
            ev.u.trade = (struct market_trade){
                .price = trade[i].price * c->instrument->tick, .size = trade[i].qty * c->instrument->lot,
                .side = sign > 0 ? 1 : 2, .id = keel_arena_printf(a, "%lld", (long long)++c->trades),
            };
            out[n++] = ev;
        }
        n += show(s, c, &bid, &ask, a, out + n);
    }
    return n;
}
