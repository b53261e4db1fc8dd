/* The simulated market: repeatable to the last bit, consistent in itself, and moving as its regimes say. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "keel/stats.h"
#include "keel/sha256.h"
#include "sim.h"

static struct keel_arena *arena;

static void setup(void)
{
    arena = keel_arena_new(1 << 16);
}

static void teardown(void)
{
    keel_arena_free(arena);
}

static void hash_levels(struct keel_sha256 *h, const struct book_level *l, size_t n)
{
    keel_sha256_add(h, &n, sizeof n);
    if (n > 0)
        keel_sha256_add(h, l, n * sizeof *l);
}

/* Every figure of the first n events. */
static void hash_events(uint64_t seed, size_t n, char out[KEEL_SHA256_TEXT])
{
    struct market_event ev[SIM_OUT];
    struct keel_sha256 h;
    struct sim s;

    keel_sha256_init(&h);
    ck_assert_int_eq(sim_init(&s, seed, SIM_START_NS, 0, SIM_RATE, NULL, 0), KEEL_OK);
    for (size_t seen = 0; seen < n;) {
        size_t k = sim_step(&s, arena, ev);
        for (size_t i = 0; i < k && seen < n; i++, seen++) {
            keel_sha256_add(&h, &ev[i].ts_init, sizeof ev[i].ts_init);
            keel_sha256_add(&h, ev[i].symbol, strlen(ev[i].symbol) + 1);
            keel_sha256_add(&h, &ev[i].kind, sizeof ev[i].kind);
            if (ev[i].kind == MARKET_QUOTE)
                keel_sha256_add(&h, &ev[i].u.quote, sizeof ev[i].u.quote);
            if (ev[i].kind == MARKET_TRADE) {
                keel_sha256_add(&h, &ev[i].u.trade.price, sizeof(int64_t));
                keel_sha256_add(&h, &ev[i].u.trade.size, sizeof(int64_t));
                keel_sha256_add(&h, &ev[i].u.trade.side, sizeof(int));
            }
            if (ev[i].kind == MARKET_DEPTH) {
                hash_levels(&h, ev[i].u.depth.bids, ev[i].u.depth.n_bids);
                hash_levels(&h, ev[i].u.depth.asks, ev[i].u.depth.n_asks);
            }
        }
        keel_arena_reset(arena);
    }
    keel_sha256_text(&h, out);
}

START_TEST(repeats)
{
    char a[KEEL_SHA256_TEXT], b[KEEL_SHA256_TEXT], c[KEEL_SHA256_TEXT];

    hash_events(7, 5000, a);
    hash_events(7, 5000, b);
    hash_events(8, 5000, c);
    ck_assert_str_eq(a, b);
    ck_assert_str_ne(a, c);
}
END_TEST

static bool holds(const struct book_side *side, int64_t price, int64_t qty)
{
    for (size_t i = 0; i < side->n; i++) {
        if (side->lv[i].price == price)
            return side->lv[i].qty >= qty;
    }
    return false;
}

/* Quotes, trades and depth tell one story: the book rebuilt from the depth explains both. */
START_TEST(consistent)
{
    struct market_conf mc = {.max_symbols = 16, .stale_ns = 30000000000};
    struct market *m = market_new(&mc);
    struct market_counts c = {0};
    struct market_event ev[SIM_OUT];
    struct sim s;
    int64_t newest = SIM_START_NS;
    size_t buys = 0;

    ck_assert_int_eq(sim_init(&s, (uint64_t)_i, SIM_START_NS, 600000000000, SIM_RATE, NULL, 0), KEEL_OK);
    for (;;) {
        size_t k = sim_step(&s, arena, ev);
        if (k == 0)
            break;
        for (size_t i = 0; i < k; i++) {
            struct market_symbol *sym = market_add(m, ev[i].symbol);
            const struct market_instrument *in = &sym->instrument;
            ck_assert_int_ge(ev[i].ts_init, newest);
            ck_assert_int_eq(ev[i].ts_event, ev[i].ts_init);
            newest = ev[i].ts_init;
            if (ev[i].kind == MARKET_TRADE) {
                const struct market_trade *t = &ev[i].u.trade;
                ck_assert(t->side == 1 || t->side == 2);
                ck_assert(t->price % in->tick == 0 && t->size % in->lot == 0 && t->size > 0);
                /* It takes from a level that stood there before the order. */
                ck_assert(holds(t->side == 1 ? &sym->book.ask : &sym->book.bid, t->price, t->size));
                buys += t->side == 1;
            }
            market_count(sym, &ev[i], &c);
            market_apply(m, sym, &ev[i], "sim", &c);
            if (ev[i].kind == MARKET_DEPTH) {
                ck_assert_int_eq(sym->book.state, BOOK_LIVE);
                ck_assert_int_lt(book_best(&sym->book.bid)->price, book_best(&sym->book.ask)->price);
                ck_assert_uint_ge(sym->book.bid.n, SIM_DEPTH);
                ck_assert_uint_ge(sym->book.ask.n, SIM_DEPTH);
                ck_assert_uint_le(sym->book.ask.n, SIM_LEVELS);
            }
            if (ev[i].kind == MARKET_QUOTE) {
                ck_assert_int_eq(ev[i].u.quote.bid, book_best(&sym->book.bid)->price);
                ck_assert_int_eq(ev[i].u.quote.bid_size, book_best(&sym->book.bid)->qty);
                ck_assert_int_eq(ev[i].u.quote.ask, book_best(&sym->book.ask)->price);
                ck_assert_int_eq(ev[i].u.quote.ask_size, book_best(&sym->book.ask)->qty);
            }
        }
        keel_arena_reset(arena);
    }
    ck_assert_uint_eq(market_size(m), 8);
    ck_assert_uint_eq(c.sequence_gaps + c.crossed + c.book_updates_dropped, 0);
    /* 600 s at 40 orders a second: a Poisson count of 24,000, sd 155; a few change nothing. */
    ck_assert_uint_gt(c.book_updates_applied, 22000);
    ck_assert_uint_lt(c.book_updates_applied, 24800);
    ck_assert_uint_gt(c.trades, 3000);
    ck_assert(buys * 10 > c.trades * 3 && buys * 10 < c.trades * 7);
    ck_assert_int_lt(newest, SIM_START_NS + 600000000000);
    market_free(m);
}
END_TEST

/* Returns of one second are larger in the wild regime than in the calm one: volatility really switches. */
START_TEST(regimes_differ)
{
    struct market_event ev[SIM_OUT];
    struct keel_moments move[3] = {{0}};
    struct sim s;
    const char *one[] = {"BTCUSDT"};
    double last = 0;
    int64_t second = 0;

    ck_assert_int_eq(sim_init(&s, 3, SIM_START_NS, 4000000000000, 10, one, 1), KEEL_OK);
    while (sim_step(&s, arena, ev) > 0) {
        keel_arena_reset(arena);
        if (s.now_ns / 1000000000 == second)
            continue;
        if (last > 0)
            keel_moments_add(&move[s.regime], log(s.coin[0].fair / last));
        last = s.coin[0].fair;
        second = s.now_ns / 1000000000;
    }
    for (int i = 0; i < 3; i++)
        ck_assert_uint_gt(move[i].n, 50);
    ck_assert_double_gt(keel_moments_var(&move[1]), 2 * keel_moments_var(&move[0]));
    ck_assert_double_gt(keel_moments_var(&move[2]), 2 * keel_moments_var(&move[1]));
}
END_TEST

START_TEST(choices)
{
    struct sim s;
    const char *two[] = {"XRPUSDT", "ADAUSDT"}, *none[] = {"AAPL"};
    struct market_event ev[SIM_OUT];

    ck_assert_int_eq(sim_init(&s, 1, SIM_START_NS, 1, 40, none, 1), KEEL_NOTFOUND);
    ck_assert_int_eq(sim_init(&s, 1, SIM_START_NS, 10000000000, 40, two, 2), KEEL_OK);
    ck_assert_uint_eq(sim_step(&s, arena, ev), 2);
    ck_assert_str_eq(ev[0].symbol, "XRPUSDT");
    ck_assert_int_eq(ev[0].kind, MARKET_DEPTH);
    ck_assert(ev[0].u.depth.snapshot);
    ck_assert_int_eq(ev[1].kind, MARKET_QUOTE);
    ck_assert_int_eq(ev[1].ts_init, SIM_START_NS);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sim");
    TCase *tc = tcase_create("sim");
    SRunner *sr;
    int bad;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, repeats);
    tcase_add_loop_test(tc, consistent, 1, 6);
    tcase_add_test(tc, regimes_differ);
    tcase_add_test(tc, choices);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    bad = srunner_ntests_failed(sr);
    srunner_free(sr);
    return bad != 0;
}
