/*
 * Matching of the paper venue, case by case and as properties: filled and left add up to what was
 * asked, no fill is worse than the limit, and one display of a level never gives more than it
 * shows.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "keel/rng.h"
#include "map.h"
#include "venue.h"

#define D(x) ((int64_t)((x)*1000) * (KEEL_SCALE / 1000))
#define AGE  D(60)

/* Bids 99 x 5, 98 x 7; asks 101 x 3, 102 x 4, 105 x 10. */
static struct venue_book book(void)
{
    static const struct venue_level bids[] = {{D(99), D(5), 0}, {D(98), D(7), 0}};
    static const struct venue_level asks[] = {
        {D(101), D(3), 0}, {D(102), D(4), 0}, {D(105), D(10), 0}};
    struct venue_book b = {.state = VENUE_LIVE, .ts_ns = 0};

    venue_show(&b.side[ORDER_BUY], bids, KEEL_COUNT(bids));
    venue_show(&b.side[ORDER_SELL], asks, KEEL_COUNT(asks));
    return b;
}

static const struct {
    const char *why;
    enum order_side side;
    enum order_type type;
    enum order_tif tif;
    double price, quantity;
    enum venue_verdict verdict;
    const char *reason;
    double fill[4][2]; /* price, quantity */
} match_case[] = {
    {"IOC within the touch",
     ORDER_BUY,
     ORDER_LIMIT,
     ORDER_IOC,
     101,
     2,
     VENUE_FILLED,
     "",
     {{101, 2}}},
    {"IOC through two levels",
     ORDER_BUY,
     ORDER_LIMIT,
     ORDER_IOC,
     103,
     6,
     VENUE_FILLED,
     "",
     {{101, 3}, {102, 3}}},
    {"IOC cancels what is left",
     ORDER_BUY,
     ORDER_LIMIT,
     ORDER_IOC,
     101,
     9,
     VENUE_CANCELED,
     "no_liquidity",
     {{101, 3}}},
    {"IOC below the market",
     ORDER_BUY,
     ORDER_LIMIT,
     ORDER_IOC,
     100,
     1,
     VENUE_CANCELED,
     "no_liquidity",
     {{0, 0}}},
    {"seller's limit",
     ORDER_SELL,
     ORDER_LIMIT,
     ORDER_IOC,
     98.5,
     6,
     VENUE_CANCELED,
     "no_liquidity",
     {{99, 5}}},
    {"seller through two levels",
     ORDER_SELL,
     ORDER_LIMIT,
     ORDER_IOC,
     98,
     6,
     VENUE_FILLED,
     "",
     {{99, 5}, {98, 1}}},
    {"FOK that fits",
     ORDER_BUY,
     ORDER_LIMIT,
     ORDER_FOK,
     102,
     7,
     VENUE_FILLED,
     "",
     {{101, 3}, {102, 4}}},
    {"FOK one unit too big",
     ORDER_BUY,
     ORDER_LIMIT,
     ORDER_FOK,
     102,
     7.001,
     VENUE_CANCELED,
     "not_fillable",
     {{0, 0}}},
    {"GTC takes, then rests",
     ORDER_BUY,
     ORDER_LIMIT,
     ORDER_GTC,
     101,
     5,
     VENUE_RESTS,
     "",
     {{101, 3}}},
    {"GTC rests", ORDER_SELL, ORDER_LIMIT, ORDER_GTC, 100, 5, VENUE_RESTS, "", {{0, 0}}},
    {"DAY rests", ORDER_BUY, ORDER_LIMIT, ORDER_DAY, 100.5, 5, VENUE_RESTS, "", {{0, 0}}},
    {"MARKET", ORDER_SELL, ORDER_MARKET, ORDER_IOC, 0, 7, VENUE_FILLED, "", {{99, 5}, {98, 2}}},
    {"MARKET deeper than the book",
     ORDER_BUY,
     ORDER_MARKET,
     ORDER_IOC,
     0,
     20,
     VENUE_CANCELED,
     "no_liquidity",
     {{101, 3}, {102, 4}, {105, 10}}},
    {"MARKET inside its collar",
     ORDER_BUY,
     ORDER_MARKET,
     ORDER_IOC,
     102,
     20,
     VENUE_CANCELED,
     "no_liquidity",
     {{101, 3}, {102, 4}}},
    {"MARKET FOK",
     ORDER_BUY,
     ORDER_MARKET,
     ORDER_FOK,
     0,
     17,
     VENUE_FILLED,
     "",
     {{101, 3}, {102, 4}, {105, 10}}},
};

START_TEST(arriving)
{
    struct venue_book b = book();
    struct venue_ticket t = {match_case[_i].side,     match_case[_i].type,
                             match_case[_i].tif,      match_case[_i].price > 0,
                             D(match_case[_i].price), D(match_case[_i].quantity)};
    struct venue_result r;
    size_t n = 0;

    venue_arrive(&b, &t, 0, AGE, &r);
    ck_assert_msg(r.verdict == match_case[_i].verdict, "%s: verdict %d", match_case[_i].why,
                  r.verdict);
    ck_assert_str_eq(r.reason, match_case[_i].reason);
    for (; n < 4 && match_case[_i].fill[n][1] > 0; n++) {
        ck_assert_msg(n < r.n, "%s: %zu fills", match_case[_i].why, r.n);
        ck_assert_int_eq(r.match[n].price, D(match_case[_i].fill[n][0]));
        ck_assert_int_eq(r.match[n].quantity, D(match_case[_i].fill[n][1]));
    }
    ck_assert_msg(n == r.n, "%s: %zu fills", match_case[_i].why, r.n);
}
END_TEST

static const struct {
    const char *why;
    enum venue_book_state state;
    int64_t ts;
    bool bids, asks, none;
    enum order_type type;
    const char *reason;
} unfit_case[] = {
    {"syncing", VENUE_SYNCING, 0, true, true, false, ORDER_LIMIT, "book_not_live"},
    {"stale", VENUE_STALE, 0, true, true, false, ORDER_LIMIT, "book_not_live"},
    {"desync", VENUE_DESYNC, 0, true, true, false, ORDER_MARKET, "book_not_live"},
    {"too old", VENUE_LIVE, -AGE - 1, true, true, false, ORDER_LIMIT, "book_not_live"},
    {"never shown", VENUE_LIVE, 0, true, true, true, ORDER_LIMIT, "no_liquidity"},
    {"empty", VENUE_LIVE, 0, false, false, false, ORDER_LIMIT, "no_liquidity"},
    {"MARKET without the other side", VENUE_LIVE, 0, true, false, false, ORDER_MARKET,
     "no_liquidity"},
};

START_TEST(never_fills_on_an_unfit_book)
{
    struct venue_book b = book(), before;
    struct venue_ticket t = {ORDER_BUY, unfit_case[_i].type,
                             ORDER_IOC, unfit_case[_i].type == ORDER_LIMIT,
                             D(200),    D(1)};
    struct venue_result r;

    b.state = unfit_case[_i].state;
    b.ts_ns = unfit_case[_i].ts;
    b.side[ORDER_BUY].n *= unfit_case[_i].bids;
    b.side[ORDER_SELL].n *= unfit_case[_i].asks;
    before = b;
    venue_arrive(unfit_case[_i].none ? NULL : &b, &t, 0, AGE, &r);
    ck_assert_msg(r.verdict == VENUE_REJECTED, "%s", unfit_case[_i].why);
    ck_assert_str_eq(r.reason, unfit_case[_i].reason);
    ck_assert_uint_eq(r.n, 0);
    ck_assert_mem_eq(&b, &before, sizeof b);
    ck_assert(b.state == VENUE_LIVE || venue_cross(&b, ORDER_BUY, D(200), D(1)) == 0);
}
END_TEST

/* Exactly as old as allowed is still good. */
START_TEST(age_bound)
{
    struct venue_book b = book();
    struct venue_ticket t = {ORDER_BUY, ORDER_LIMIT, ORDER_IOC, true, D(101), D(1)};
    struct venue_result r;

    venue_arrive(&b, &t, AGE, AGE, &r);
    ck_assert_int_eq(r.verdict, VENUE_FILLED);
}
END_TEST

START_TEST(a_display_fills_once)
{
    struct venue_book b = book();
    struct venue_ticket t = {ORDER_BUY, ORDER_LIMIT, ORDER_IOC, true, D(101), D(2)};
    static const struct venue_level same[] = {{D(101), D(3), 0}, {D(102), D(4), 0}};
    static const struct venue_level other[] = {{D(101), D(2.5), 0}};
    struct venue_result r;

    venue_arrive(&b, &t, 0, AGE, &r);
    ck_assert_int_eq(r.match[0].quantity, D(2));
    venue_show(&b.side[ORDER_SELL], same, 2); /* shown again, unchanged: 1 of 3 is left */
    venue_arrive(&b, &t, 0, AGE, &r);
    ck_assert_int_eq(r.verdict, VENUE_CANCELED);
    ck_assert_int_eq(r.match[0].quantity, D(1));
    venue_arrive(&b, &t, 0, AGE, &r);
    ck_assert_uint_eq(r.n, 0);
    venue_show(&b.side[ORDER_SELL], other, 1); /* it changed: a new display */
    venue_arrive(&b, &t, 0, AGE, &r);
    ck_assert_int_eq(r.verdict, VENUE_FILLED);
}
END_TEST

START_TEST(bad_levels_are_left_out)
{
    static const struct venue_level shown[] = {{0, D(1), 0}, {D(100), 0, 0}, {D(99), D(1), 0}};
    struct venue_depth d = {.n = 0};
    struct venue_level many[VENUE_LEVELS + 3];

    venue_show(&d, shown, KEEL_COUNT(shown));
    ck_assert_uint_eq(d.n, 1);
    ck_assert_int_eq(d.level[0].price, D(99));
    for (size_t i = 0; i < KEEL_COUNT(many); i++)
        many[i] = (struct venue_level){D(100) + (int64_t)i, D(1), 0};
    venue_show(&d, many, KEEL_COUNT(many));
    ck_assert_uint_eq(d.n, VENUE_LEVELS);
}
END_TEST

START_TEST(resting)
{
    struct venue_book b = book();

    ck_assert_int_eq(venue_cross(&b, ORDER_BUY, D(100.9), D(1)), 0);
    ck_assert_int_eq(venue_cross(&b, ORDER_BUY, D(101), D(2)), D(2));
    ck_assert_int_eq(venue_cross(&b, ORDER_BUY, D(102), D(9)),
                     D(5)); /* 1 of 101 and 4 of 102 are left */
    ck_assert_int_eq(venue_cross(&b, ORDER_BUY, D(102), D(9)), 0);
    ck_assert_int_eq(venue_cross(&b, ORDER_SELL, D(99), D(9)), D(5));
    ck_assert(!venue_through(ORDER_BUY, D(100), D(100)));
    ck_assert(venue_through(ORDER_BUY, D(100), D(100) - 1));
    ck_assert(!venue_through(ORDER_BUY, D(100), D(100) + 1));
    ck_assert(!venue_through(ORDER_SELL, D(100), D(100)));
    ck_assert(venue_through(ORDER_SELL, D(100), D(100) + 1));
}
END_TEST

/* bodies.md: 0.5 at 61659.8 as taker costs 12.33196. Maker, half the rate, half of it. */
START_TEST(fee_of_the_example)
{
    char text[KEEL_MONEY_TEXT];
    keel_i128 notional, fee;

    ck_assert_int_eq(venue_fee(61659800000000, 500000000, 400000, &notional, &fee), KEEL_OK);
    keel_money_print(fee, text);
    ck_assert_str_eq(text, "12.33196");
    keel_money_print(notional, text);
    ck_assert_str_eq(text, "30829.9");
    ck_assert_int_eq(venue_fee(61659800000000, 500000000, 200000, &notional, &fee), KEEL_OK);
    keel_money_print(fee, text);
    ck_assert_str_eq(text, "6.16598");
}
END_TEST

/* Random books and orders: conservation, limits, levels in order, nothing taken that was not shown.
 */
START_TEST(random_matching)
{
    struct keel_rng rng;

    keel_rng_seed(&rng, (uint64_t)_i + 11);
    for (int round = 0; round < 2000; round++) {
        struct venue_book b = {.state = VENUE_LIVE};
        struct venue_level ask[VENUE_LEVELS], bid = {D(90), D(1), 0};
        int64_t price = D(100), shown = 0, reachable = 0;
        size_t n = 1 + keel_rng_below(&rng, VENUE_LEVELS);

        for (size_t i = 0; i < n; i++) {
            price += 1 + (int64_t)keel_rng_below(&rng, 1000000000);
            ask[i] = (struct venue_level){price, 1 + (int64_t)keel_rng_below(&rng, 1000000000), 0};
            shown += ask[i].size;
        }
        venue_show(&b.side[ORDER_BUY], &bid, 1);
        venue_show(&b.side[ORDER_SELL], ask, n);

        int64_t limit = D(100) + (int64_t)keel_rng_below(&rng, (uint64_t)(price - D(100) + 1)),
                total = 0;

        for (size_t i = 0; i < n; i++)
            reachable += ask[i].price <= limit ? ask[i].size : 0;
        for (int k = 0; k < 4; k++) {
            struct venue_ticket t = {
                ORDER_BUY, ORDER_LIMIT, (enum order_tif)keel_rng_below(&rng, 4),
                true,      limit,       1 + (int64_t)keel_rng_below(&rng, (uint64_t)shown)};
            struct venue_result r;
            int64_t sum = 0;

            venue_arrive(&b, &t, 0, AGE, &r);
            for (size_t i = 0; i < r.n; i++) {
                ck_assert_int_le(r.match[i].price, limit);
                ck_assert_int_gt(r.match[i].quantity, 0);
                ck_assert(i == 0 || r.match[i].price > r.match[i - 1].price);
                sum += r.match[i].quantity;
            }
            total += sum;
            int64_t left = reachable - (total - sum), want = t.quantity < left ? t.quantity : left;

            ck_assert_int_eq(sum, t.tif == ORDER_FOK && want < t.quantity ? 0 : want);
            ck_assert_int_eq(r.verdict == VENUE_FILLED, sum == t.quantity);
            ck_assert(r.verdict != VENUE_RESTS || t.tif == ORDER_GTC || t.tif == ORDER_DAY);
        }
        ck_assert_int_le(total, reachable);
    }
}
END_TEST

/* The map against a plain array, with many removals. */
START_TEST(map_agrees_with_an_array)
{
    static char key[400][8];
    static int value[400];
    bool in[400] = {false};
    struct strategy_map m = {0};
    struct keel_rng rng;
    size_t n = 0;

    keel_rng_seed(&rng, 5);
    for (int i = 0; i < 400; i++) {
        key[i][0] = (char)('a' + i % 26);
        key[i][1] = (char)('a' + i / 26);
        value[i] = i;
    }
    for (int round = 0; round < 20000; round++) {
        size_t i = keel_rng_below(&rng, 400);

        if (in[i])
            ck_assert_ptr_eq(strategy_map_del(&m, key[i]), &value[i]);
        else
            strategy_map_put(&m, key[i], &value[i]);
        in[i] = !in[i];
        n = in[i] ? n + 1 : n - 1;
        i = keel_rng_below(&rng, 400);
        ck_assert_ptr_eq(strategy_map_get(&m, key[i]), in[i] ? &value[i] : NULL);
        ck_assert_uint_eq(m.n, n);
    }
    for (int i = 0; i < 400; i++)
        ck_assert_ptr_eq(strategy_map_get(&m, key[i]), in[i] ? &value[i] : NULL);
    ck_assert_ptr_null(strategy_map_del(&m, "none"));
    strategy_map_fini(&m);
    ck_assert_ptr_null(strategy_map_get(&m, "a"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("venue");
    TCase *tc = tcase_create("venue");
    SRunner *sr;

    tcase_add_loop_test(tc, arriving, 0, (int)KEEL_COUNT(match_case));
    tcase_add_loop_test(tc, never_fills_on_an_unfit_book, 0, (int)KEEL_COUNT(unfit_case));
    tcase_add_test(tc, age_bound);
    tcase_add_test(tc, a_display_fills_once);
    tcase_add_test(tc, bad_levels_are_left_out);
    tcase_add_test(tc, resting);
    tcase_add_test(tc, fee_of_the_example);
    tcase_add_loop_test(tc, random_matching, 0, 3);
    tcase_add_test(tc, map_agrees_with_an_array);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
