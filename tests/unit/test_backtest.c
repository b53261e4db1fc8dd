/*
 * Backtests on constructed bars. Figures are worked out by hand from backtest.h and written beside
 * the case; a whole run on 23 years of real bars is checked against a second implementation in
 * tests/integration/test_backtest.py.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backtest.h"
#include "keel/rng.h"

#define D(x)  ((int64_t)((x)*100000) * (KEEL_SCALE / 100000))
#define MIN_NS 60000000000LL

static struct keel_arena *arena;
static const atomic_bool go_on;

static void set_up(void)
{
    arena = keel_arena_new(1 << 16);
}

static void tear_down(void)
{
    keel_arena_free(arena);
}

static struct signal_rule cross(void)
{
    return (struct signal_rule){.kind = SIGNAL_MA_CROSS,
                                .fast = "sma_10",
                                .slow = "sma_20",
                                .quantity = D(1),
                                .max_position = D(1),
                                .lot = D(0.001),
                                .tick = D(0.01)};
}

static struct backtest_conf conf_of(const struct signal_rule *r)
{
    return (struct backtest_conf){.rule = r,
                                  .type = ORDER_MARKET,
                                  .tif = ORDER_IOC,
                                  .spread = D(0.0002),
                                  .taker_rate = D(0.0004),
                                  .maker_rate = D(0.0002),
                                  .cash = (keel_i128)D(1000),
                                  .seed = 1};
}

/* Bars of a minute that open where the one before closed. */
static size_t bars_of(const double *close, size_t n, struct backtest_bar *out)
{
    for (size_t i = 0; i < n; i++) {
        int64_t o = D(close[i > 0 ? i - 1 : 0]), c = D(close[i]);

        out[i] = (struct backtest_bar){.ts_close = (int64_t)(i + 1) * MIN_NS,
                                       .open = o,
                                       .high = o > c ? o : c,
                                       .low = o < c ? o : c,
                                       .close = c,
                                       .volume = (keel_i128)D(100)};
    }
    return n;
}

/* 20 bars of 100, then what is given. The 21st decides which average is above, a cross is later. */
static size_t after_quiet(const double *more, size_t n, struct backtest_bar *out)
{
    double close[64];

    for (size_t i = 0; i < 20; i++)
        close[i] = 100;
    memcpy(close + 20, more, n * sizeof *more);
    return bars_of(close, 20 + n, out);
}

static struct backtest_result *run(const struct backtest_conf *c, const struct backtest_bar *b, size_t n)
{
    struct backtest_result *out = keel_arena_alloc(arena, sizeof *out);

    ck_assert_int_eq(backtest_run(c, b, n, arena, &go_on, out), KEEL_OK);
    return out;
}

#define ck_money(got, want)                                                                        \
    do {                                                                                           \
        char text[KEEL_MONEY_TEXT];                                                                \
        keel_money_print(got, text);                                                               \
        ck_assert_str_eq(text, want);                                                              \
    } while (0)

/* ---- one trade, by hand ---- */

/* 90, 120, 110: averages 99 < 99.5, then 101 > 100.5: bought at the open after, then held. */
START_TEST(a_cross_by_hand)
{
    static const double more[] = {90, 120, 110, 110};
    struct signal_rule rule = cross();
    struct backtest_conf c = conf_of(&rule);
    struct backtest_bar b[24];
    struct backtest_result *r = run(&c, b, after_quiet(more, 4, b));

    ck_assert_uint_eq(r->n, 24);
    ck_assert_uint_eq(r->signals, 1);
    ck_assert_uint_eq(r->fills, 1);
    ck_assert_int_eq(r->fill[0].side, ORDER_BUY);
    ck_assert_int_eq(r->fill[0].ts, b[21].ts_close); /* the open of the bar after */
    ck_assert_int_eq(r->fill[0].price, D(120.012));  /* 120 and half of 2 bps */
    ck_assert_int_eq(r->fill[0].quantity, D(1));
    ck_money(r->fill[0].fee, "0.0480048");       /* 120.012 * 0.0004 */
    ck_money(r->cash, "879.9399952");            /* 1000 - 120.012 - 0.0480048 */
    ck_money(r->equity[21], "1000");             /* seen, not yet bought */
    ck_money(r->equity[23], "989.9399952");      /* and 110 */
    ck_assert_uint_eq(r->in_market, 2);
    ck_assert_uint_eq(r->trades, 0);
    ck_assert_double_eq_tol(r->measure[BACKTEST_TOTAL_RETURN].value, -0.0100600048, 1e-15);
    ck_assert_double_eq_tol(r->measure[BACKTEST_MAX_DRAWDOWN].value, 0.0100600048, 1e-15);
    ck_assert_double_eq_tol(r->measure[BACKTEST_BUY_AND_HOLD].value, 0.1, 1e-15);
    ck_assert_ptr_null(r->measure[BACKTEST_TOTAL_RETURN].why);
    ck_assert_str_eq(r->measure[BACKTEST_SHARPE].why, "23 of 30 returns");
    ck_assert_str_eq(r->measure[BACKTEST_WIN_RATE].why, "nothing was closed");
}
END_TEST

/* The last bar's wish has no bar to fill in. */
START_TEST(a_signal_at_the_end)
{
    static const double more[] = {90, 120};
    struct signal_rule rule = cross();
    struct backtest_conf c = conf_of(&rule);
    struct backtest_bar b[22];
    struct backtest_result *r = run(&c, b, after_quiet(more, 2, b));

    ck_assert_uint_eq(r->signals, 1);
    ck_assert_uint_eq(r->not_sent, 1);
    ck_assert_uint_eq(r->fills, 0);
}
END_TEST

/* ---- how orders meet bars: the signal is at bar 21 (close 120), the rest is varied ---- */

static const struct {
    const char *why;
    enum order_type type;
    enum order_tif tif;
    double offset_bps, participation, max_age_s;
    double open, low[3]; /* of the bars after the signal; 0: as the closes, 120 */
    size_t fills, unfilled, resting;
    double price, quantity; /* of the first fill */
    bool maker;
} meeting[] = {
    {"a limit through the other side fills at the touch", ORDER_LIMIT, ORDER_IOC, -10, 0, 0, 0, {0},
     1, 0, 0, 120.012, 1, false},
    {"a gap beyond the limit: nothing", ORDER_LIMIT, ORDER_IOC, -10, 0, 0, 130, {120}, 0, 1, 0, 0, 0, false},
    {"the touch of the bar that is, not of the one that was seen", ORDER_LIMIT, ORDER_IOC, -10, 0, 0, 115,
     {115}, 1, 0, 0, 115.0115, 1, false},
    /* bid 119.988, 20 bps behind it: 119.748024, to the tick 119.74 */
    {"behind the touch, never reached", ORDER_LIMIT, ORDER_GTC, 20, 0, 0, 0, {0}, 0, 0, 1, 0, 0, false},
    {"touched is not through", ORDER_LIMIT, ORDER_GTC, 20, 0, 0, 0, {120, 119.74}, 0, 0, 1, 0, 0, false},
    {"gone through", ORDER_LIMIT, ORDER_GTC, 20, 0, 0, 0, {120, 119.73}, 1, 0, 0, 119.74, 1, true},
    {"gone through in the bar it arrives in", ORDER_LIMIT, ORDER_GTC, 20, 0, 0, 0, {119.5}, 1, 0, 0, 119.74, 1,
     true},
    {"an IOC does not rest", ORDER_LIMIT, ORDER_IOC, 20, 0, 0, 0, {119.5}, 0, 1, 0, 0, 0, false},
    {"too old to fill", ORDER_LIMIT, ORDER_GTC, 20, 0, 60, 0, {120, 119.5}, 0, 1, 0, 0, 0, false},
    {"old enough only after", ORDER_LIMIT, ORDER_GTC, 20, 0, 120, 0, {120, 119.5}, 1, 0, 0, 119.74, 1, true},
    {"a share of the volume", ORDER_MARKET, ORDER_IOC, 0, 0.004, 0, 0, {0}, 1, 0, 0, 120.012, 0.4, false},
    {"all or nothing", ORDER_MARKET, ORDER_FOK, 0, 0.004, 0, 0, {0}, 0, 1, 0, 0, 0, false},
    {"in parts, a bar each", ORDER_LIMIT, ORDER_GTC, 20, 0.004, 0, 0, {119, 119, 119}, 3, 0, 0, 119.74, 0.4,
     true},
    {"what is left rests", ORDER_LIMIT, ORDER_GTC, -10, 0.004, 0, 0, {0}, 3, 0, 0, 120.012, 0.4, false},
};

START_TEST(meetings)
{
    static const double more[] = {90, 120, 120, 120, 120};
    struct signal_rule rule = cross();
    struct backtest_conf c = conf_of(&rule);
    struct backtest_bar b[25];
    size_t n = after_quiet(more, 5, b);

    rule.price_offset_bps = meeting[_i].offset_bps;
    c.type = meeting[_i].type;
    c.tif = meeting[_i].tif;
    c.participation = D(meeting[_i].participation);
    c.max_age_ns = (int64_t)(meeting[_i].max_age_s * 1e9);
    if (meeting[_i].open > 0)
        b[22].open = D(meeting[_i].open);
    if (b[22].open > b[22].high)
        b[22].high = b[22].open;
    for (size_t i = 0; i < 3; i++)
        if (meeting[_i].low[i] > 0)
            b[22 + i].low = D(meeting[_i].low[i]);

    struct backtest_result *r = run(&c, b, n);

    ck_assert_msg(r->fills == meeting[_i].fills, "%s: %zu fills", meeting[_i].why, r->fills);
    ck_assert_msg(r->unfilled == meeting[_i].unfilled, "%s: %zu unfilled", meeting[_i].why, r->unfilled);
    ck_assert_msg(r->resting == meeting[_i].resting, "%s: %zu rest", meeting[_i].why, r->resting);
    if (r->fills == 0)
        return;
    ck_assert_int_eq(r->fill[0].price, D(meeting[_i].price));
    ck_assert_int_eq(r->fill[0].quantity, D(meeting[_i].quantity));
    ck_assert_int_eq(r->fill[0].maker, meeting[_i].maker);
    for (size_t i = 1; i < r->fills; i++) /* a bar's share is taken once */
        ck_assert_int_gt(r->fill[i].ts, r->fill[i - 1].ts);
}
END_TEST

/* Signalled in the last minute of a day: good for the next one, whose last bar is far off. */
START_TEST(a_day_order)
{
    static const double more[] = {90, 120, 120, 120, 120};
    struct signal_rule rule = cross();
    struct backtest_conf c = conf_of(&rule);
    struct backtest_bar b[25];
    size_t n = after_quiet(more, 5, b);

    rule.price_offset_bps = 20;
    c.type = ORDER_LIMIT;
    c.tif = ORDER_DAY;
    ck_assert_uint_eq(run(&c, b, n)->resting, 1);
    for (size_t i = 23; i < n; i++)
        b[i].ts_close += 24 * 60 * MIN_NS;
    b[24].low = D(100);
    ck_assert_uint_eq(run(&c, b, n)->fills, 0);
    ck_assert_uint_eq(run(&c, b, n)->unfilled, 1);
    c.tif = ORDER_GTC;
    ck_assert_uint_eq(run(&c, b, n)->fills, 1);
    c.tif = ORDER_DAY;
    b[23].ts_close = 24 * 60 * MIN_NS; /* a bar that ends at midnight is of the day */
    b[23].low = D(100);
    ck_assert_uint_eq(run(&c, b, n)->fills, 1);
}
END_TEST

/* Short one at 99.99 with 10 of cash when the price goes to 120: nothing is left. */
START_TEST(the_equity_is_used_up)
{
    static const double more[] = {110, 80, 80, 80, 120, 60, 60, 120, 60};
    struct signal_rule rule = cross();
    struct backtest_conf c = conf_of(&rule);
    struct backtest_bar b[29];
    size_t n = after_quiet(more, 9, b);

    c.cash = (keel_i128)D(10);

    struct backtest_result *r = run(&c, b, n);

    ck_assert(r->ruined);
    ck_assert_uint_eq(r->n, 25);
    ck_assert_uint_eq(r->fills, 1);
    ck_assert_int_eq(r->fill[0].side, ORDER_SELL);
    ck_assert(r->equity[24] <= 0);
    ck_assert(r->measure[BACKTEST_TOTAL_RETURN].value <= -1);
    ck_assert_str_eq(r->measure[BACKTEST_SHARPE].why, "the equity was used up");
}
END_TEST

/* Wishes for orders that never fill, again and again: only so many rest. */
START_TEST(too_many_rest)
{
    enum { N = 1200 };
    struct signal_rule rule = {.kind = SIGNAL_RSI_REVERSION, .rsi_low = 45, .rsi_high = 55, .quantity = D(1),
                               .max_position = D(1000), .lot = D(0.001), .tick = D(0.01),
                               .price_offset_bps = 1000};
    struct backtest_conf c = conf_of(&rule);
    struct backtest_bar b[N];
    double close[N];

    for (size_t i = 0; i < N; i++)
        close[i] = 100 + 2 * ((i / 7) % 2 ? (double)(i % 7) : 6 - (double)(i % 7)) / 6;
    c.type = ORDER_LIMIT;
    c.tif = ORDER_GTC;

    struct backtest_result *r = run(&c, b, bars_of(close, N, b));

    ck_assert_uint_eq(r->fills, 0);
    ck_assert_uint_eq(r->resting, BACKTEST_OPEN);
    ck_assert_uint_gt(r->not_sent, 10);
    ck_assert_uint_eq(r->signals, r->resting + r->not_sent);
}
END_TEST

/* The bar's own vwap, when it has one, and not its close, is what the feature is made of. */
START_TEST(a_bars_vwap)
{
    static const double more[] = {90, 120, 110, 110};
    struct signal_rule rule = cross();
    struct backtest_conf c = conf_of(&rule);
    struct backtest_bar b[24];
    size_t n = after_quiet(more, 4, b);

    snprintf(rule.fast, sizeof rule.fast, "vwap");
    ck_assert_uint_eq(run(&c, b, n)->signals, 1); /* crosses as the prices do */
    for (size_t i = 0; i < n; i++) {
        b[i].has_vwap = true;
        b[i].vwap = D(50);
    }
    ck_assert_uint_eq(run(&c, b, n)->signals, 0); /* always below */
}
END_TEST

/* ---- what holds on any bars ---- */

enum { WALK = 600 };

static void walk(uint64_t seed, struct backtest_bar *b)
{
    struct keel_rng rng;
    double price = 100;

    keel_rng_seed(&rng, seed);
    for (size_t i = 0; i < WALK; i++) {
        double o = price * (1 + 0.002 * keel_rng_normal(&rng)), close = o * (1 + 0.01 * keel_rng_normal(&rng));
        double up = 1 + 0.004 * keel_rng_f64(&rng), down = 1 - 0.004 * keel_rng_f64(&rng);

        b[i] = (struct backtest_bar){.ts_close = (int64_t)(i + 1) * 3600 * KEEL_SCALE,
                                     .open = D(o),
                                     .close = D(close),
                                     .high = D((o > close ? o : close) * up),
                                     .low = D((o < close ? o : close) * down),
                                     .volume = (keel_i128)D(30 * keel_rng_f64(&rng))};
        price = close;
    }
}

/* Rules, sizes and orders of all kinds, by the case. */
static void case_of(int i, struct signal_rule *rule, struct backtest_conf *c)
{
    *rule = cross();
    if (i % 3 == 1)
        *rule = (struct signal_rule){.kind = SIGNAL_RSI_REVERSION, .rsi_low = 40, .rsi_high = 60,
                                     .lot = 1, .tick = D(0.01)};
    if (i % 3 == 2)
        snprintf(rule->fast, sizeof rule->fast, "ema_12");
    rule->quantity = i % 2 ? 0 : D(1.5);
    rule->notional = i % 2 ? D(250) : 0;
    rule->max_position = i % 2 ? D(700) : D(4);
    rule->long_only = i % 5 == 0;
    rule->price_offset_bps = i % 4 == 0 ? 40 : -30;
    *c = conf_of(rule);
    c->type = i % 4 == 3 ? ORDER_MARKET : ORDER_LIMIT;
    c->tif = i % 4 == 0 ? (i % 8 == 0 ? ORDER_GTC : ORDER_DAY) : i % 4 == 1 ? ORDER_FOK
             : i % 4 == 2 ? ORDER_GTC : ORDER_IOC;
    c->participation = c->tif == ORDER_FOK ? 0 : D(0.02);
    c->spread = i % 2 ? 300001 : D(0.0002);
    c->max_age_ns = i % 6 == 0 ? 20 * 3600 * KEEL_SCALE : 0;
}

static const struct backtest_bar *bar_closing(const struct backtest_bar *b, int64_t ts)
{
    while (b->ts_close != ts)
        b++;
    return b;
}

/* Cash, position and equity are what the fills make them; none is at a price the bar did not show. */
START_TEST(conserved)
{
    struct backtest_bar b[WALK];
    struct signal_rule rule;
    struct backtest_conf c;
    keel_i128 cash, notional;
    size_t trades = 0, wins = 0;
    int64_t held = 0;

    walk((uint64_t)_i + 11, b);
    case_of(_i, &rule, &c);

    struct backtest_result *r = run(&c, b, WALK);

    ck_assert_uint_gt(r->fills, 5);
    ck_assert_uint_le(r->fills, BACKTEST_FILLS);
    cash = c.cash;
    for (size_t i = 0; i < r->fills; i++) {
        const struct backtest_fill *f = &r->fill[i];
        /* A maker's stamp is the end of its bar, or the open; a taker's the open: the close before. */
        const struct backtest_bar *at = bar_closing(b, f->ts), *next = at + 1;
        int64_t away = (int64_t)(((keel_i128)next->open * ((c.spread + 1) / 2) + KEEL_SCALE - 1) / KEEL_SCALE);

        ck_assert_int_eq(keel_notional(f->price, f->quantity, KEEL_SCALE, &notional), KEEL_OK);
        cash += (f->side == ORDER_BUY ? -notional : notional) - f->fee;
        if (f->side == ORDER_BUY ? held < 0 : held > 0) {
            trades++;
            wins += f->realized > f->fee;
        }
        held += f->side == ORDER_BUY ? f->quantity : -f->quantity;
        if (!f->maker)
            ck_assert_int_eq(f->price, f->side == ORDER_BUY ? next->open + away : next->open - away);
        else if (f->side == ORDER_BUY)
            ck_assert(f->price > at->low || f->price >= next->open + away);
        else
            ck_assert(f->price < at->high || f->price <= next->open - away);
        ck_assert(!rule.long_only || held >= 0);
    }
    ck_assert(cash == r->cash);
    ck_assert_uint_eq(trades, r->trades);
    ck_assert_uint_eq(wins, r->wins);
    ck_assert_double_eq_tol(r->ppy, 365 * 24, 1e-6);
    ck_assert_int_eq(held, r->position.quantity);
    ck_assert_int_eq(keel_notional(b[r->n - 1].close, held < 0 ? -held : held, KEEL_SCALE, &notional), KEEL_OK);
    ck_assert(r->equity[r->n - 1] == cash + (held < 0 ? -notional : notional));
    /* realised + unrealised - fees, exactly */
    ck_assert(r->equity[r->n - 1] - c.cash ==
              r->position.realized + (held < 0 ? -notional : notional) - r->position.cost - r->position.fees);
}
END_TEST

/* What a run did up to a bar does not depend on the bars after it. */
START_TEST(no_look_ahead)
{
    static const size_t cut[] = {40, 41, 97, 250, 251, 433, WALK - 1};
    struct backtest_bar b[WALK];
    struct signal_rule rule;
    struct backtest_conf c;

    walk((uint64_t)_i + 11, b);
    case_of(_i, &rule, &c);

    struct backtest_result *all = run(&c, b, WALK);

    for (size_t k = 0; k < KEEL_COUNT(cut); k++) {
        struct backtest_result *part = run(&c, b, cut[k]);
        size_t n = 0;

        ck_assert(memcmp(part->equity, all->equity, cut[k] * sizeof all->equity[0]) == 0);
        while (n < all->fills && n < part->fills && all->fill[n].ts == part->fill[n].ts &&
               all->fill[n].price == part->fill[n].price && all->fill[n].quantity == part->fill[n].quantity)
            n++;
        ck_assert_uint_eq(n, part->fills);
        ck_assert(n == all->fills || all->fill[n].ts >= b[cut[k] - 1].ts_close);
    }
}
END_TEST

START_TEST(stopped)
{
    static const atomic_bool stop = true;
    struct backtest_bar b[WALK];
    struct signal_rule rule = cross();
    struct backtest_conf c = conf_of(&rule);
    struct backtest_result *out = keel_arena_alloc(arena, sizeof *out);

    walk(1, b);
    ck_assert_int_eq(backtest_run(&c, b, WALK, arena, &stop, out), KEEL_CANCELLED);
}
END_TEST

/* The equity would be more than 128 bits hold. */
START_TEST(what_does_not_fit)
{
    static const double more[] = {90, 120, 110, 110};
    struct signal_rule rule = cross();
    struct backtest_conf c = conf_of(&rule);
    struct backtest_bar b[24];
    size_t n = after_quiet(more, 4, b);
    struct backtest_result *out = keel_arena_alloc(arena, sizeof *out);

    c.cash = ((keel_i128)1 << 126) + (((keel_i128)1 << 126) - 1); /* the most there is */
    b[22].close = b[22].high = b[23].open = INT64_MAX;
    b[23].close = b[23].high = INT64_MAX;
    rule.quantity = rule.max_position = D(1e6);
    ck_assert_int_eq(backtest_run(&c, b, n, arena, &go_on, out), KEEL_TOOBIG);
}
END_TEST

/* ---- what may be run ---- */

static const struct {
    struct backtest_bar bar;
    const char *field; /* NULL: good */
} bar_case[] = {
    {{.ts_close = 2, .open = 5, .high = 9, .low = 4, .close = 6, .volume = 1}, NULL},
    {{.ts_close = 2, .open = 5, .high = 5, .low = 5, .close = 5}, NULL},
    {{.ts_close = 1, .open = 5, .high = 5, .low = 5, .close = 5}, "ts_close"},
    {{.ts_close = 2, .open = 5, .high = 5, .low = 0, .close = 5}, "low"},
    {{.ts_close = 2, .open = 5, .high = 9, .low = 6, .close = 7}, "low"},
    {{.ts_close = 2, .open = 8, .high = 9, .low = 6, .close = 5}, "low"},
    {{.ts_close = 2, .open = 8, .high = 7, .low = 6, .close = 7}, "high"},
    {{.ts_close = 2, .open = 6, .high = 7, .low = 6, .close = 8}, "high"},
    {{.ts_close = 2, .open = 5, .high = 5, .low = 5, .close = 5, .volume = -1}, "volume"},
    {{.ts_close = 2, .open = 5, .high = 5, .low = 5, .close = 5, .has_vwap = true}, "vwap"},
};

START_TEST(bars)
{
    const struct backtest_bar before = {.ts_close = 1};
    const char *field, *why = backtest_bar_wrong(&bar_case[_i].bar, &before, &field);

    ck_assert_int_eq(why == NULL, bar_case[_i].field == NULL);
    if (why != NULL)
        ck_assert_str_eq(field, bar_case[_i].field);
}
END_TEST

START_TEST(rules)
{
    struct signal_rule r = cross();

    ck_assert_ptr_null(backtest_rule_wrong(&r, arena));
    snprintf(r.fast, sizeof r.fast, "spread_bps");
    ck_assert_ptr_nonnull(strstr(backtest_rule_wrong(&r, arena), "spread_bps is of quotes"));
    snprintf(r.fast, sizeof r.fast, "sma_11");
    ck_assert_str_eq(backtest_rule_wrong(&r, arena), "there is no feature sma_11");
    r.kind = SIGNAL_RSI_REVERSION;
    ck_assert_ptr_null(backtest_rule_wrong(&r, arena));
    r.kind = SIGNAL_IMBALANCE;
    ck_assert_ptr_nonnull(strstr(backtest_rule_wrong(&r, arena), "book_imbalance"));
    r.kind = SIGNAL_MODEL;
    ck_assert_ptr_nonnull(backtest_rule_wrong(&r, arena));
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("backtest");
    Suite *s = suite_create("backtest");

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, a_cross_by_hand);
    tcase_add_test(tc, a_signal_at_the_end);
    tcase_add_loop_test(tc, meetings, 0, (int)KEEL_COUNT(meeting));
    tcase_add_test(tc, a_day_order);
    tcase_add_test(tc, the_equity_is_used_up);
    tcase_add_test(tc, too_many_rest);
    tcase_add_test(tc, a_bars_vwap);
    tcase_add_loop_test(tc, conserved, 0, 24);
    tcase_add_loop_test(tc, no_look_ahead, 0, 24);
    tcase_add_test(tc, stopped);
    tcase_add_test(tc, what_does_not_fit);
    tcase_add_loop_test(tc, bars, 0, (int)KEEL_COUNT(bar_case));
    tcase_add_test(tc, rules);
    suite_add_tcase(s, tc);

    SRunner *sr = srunner_create(s);

    srunner_run_all(sr, CK_ENV);

    int failed = srunner_ntests_failed(sr);

    srunner_free(sr);
    return failed > 0;
}
