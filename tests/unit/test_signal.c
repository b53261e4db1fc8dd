/* Signals on constructed vectors. Expected zones, sizes and prices are worked out by hand from the
 * rules of signal.h. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "signal.h"

#define D(x) ((int64_t)((x)*1000) * (KEEL_SCALE / 1000))

static struct keel_arena *arena;

static void set_up(void)
{
    arena = keel_arena_new(4096);
}

static void tear_down(void)
{
    keel_arena_free(arena);
}

static struct signal_rule rule(enum signal_kind kind)
{
    struct signal_rule r = {.kind = kind,
                            .fast = "sma_10",
                            .slow = "sma_20",
                            .rsi_low = 30,
                            .rsi_high = 70,
                            .threshold = 0.6,
                            .model = "price_model",
                            .quantity = D(1),
                            .max_position = D(1),
                            .lot = D(0.001),
                            .tick = D(0.01)};

    return r;
}

/* A walk of vectors: what each signals. 'B', 'S' or '-'. */
static const struct {
    const char *why;
    enum signal_kind kind;
    double value[8][2];
    const char *says;
} walk_case[] = {
    {"averages cross up, stay, cross down",
     SIGNAL_MA_CROSS,
     {{9, 10}, {10.5, 10}, {11, 10}, {9, 10}, {8, 10}},
     "-B-S-"},
    {"the first vector is no cross", SIGNAL_MA_CROSS, {{11, 10}, {12, 10}, {9, 10}}, "--S"},
    {"touching is not crossing",
     SIGNAL_MA_CROSS,
     {{9, 10}, {10, 10}, {9, 10}, {10, 10}, {11, 10}},
     "----B"},
    {"equal at first says nothing", SIGNAL_MA_CROSS, {{10, 10}, {11, 10}, {9, 10}}, "--S"},
    {"rsi falls below and rises above",
     SIGNAL_RSI_REVERSION,
     {{50, 0}, {29, 0}, {25, 0}, {50, 0}, {71, 0}, {75, 0}, {50, 0}, {29.9, 0}},
     "-B--S--B"},
    {"at the bound is not beyond it", SIGNAL_RSI_REVERSION, {{50, 0}, {30, 0}, {70, 0}}, "---"},
    {"rsi starts below", SIGNAL_RSI_REVERSION, {{20, 0}, {25, 0}, {50, 0}, {20, 0}}, "---B"},
    {"imbalance, both ways",
     SIGNAL_IMBALANCE,
     {{0, 0}, {0.7, 0}, {0.9, 0}, {0.2, 0}, {-0.61, 0}, {-0.6, 0}, {0.61, 0}},
     "-B--S-B"},
    {"a model that is sure of a rise, then of a fall",
     SIGNAL_MODEL,
     {{0.5, 0}, {0.59, 0}, {0.61, 0}, {0.8, 0}, {0.41, 0}, {0.39, 0}, {0.7, 0}},
     "--B--SB"},
    {"a model at its threshold is not sure enough", SIGNAL_MODEL, {{0.5, 0}, {0.6, 0}}, "--"},
    {"a model's first word is no signal", SIGNAL_MODEL, {{0.9, 0}, {0.9, 0}, {0.2, 0}}, "--S"},
};

START_TEST(walks)
{
    struct signal_rule r = rule(walk_case[_i].kind);
    struct signal_memory m = {0};

    for (size_t i = 0; i < strlen(walk_case[_i].says); i++) {
        struct signal_view v = {.value = {walk_case[_i].value[i][0], walk_case[_i].value[i][1]},
                                .close = D(100)};
        struct signal_wish w;
        bool says = signal_next(&r, &m, &v, arena, &w);
        char got = !says ? '-' : w.side == ORDER_BUY ? 'B' : 'S';

        ck_assert_msg(got == walk_case[_i].says[i], "%s: vector %zu says %c", walk_case[_i].why, i,
                      got);
        ck_assert(!says || (w.quantity == D(1) && strlen(w.reason) > 5 && strlen(w.reason) <= 160));
    }
}
END_TEST

static const struct {
    const char *why;
    double quantity, notional, max, position, open_buy, open_sell, close;
    bool long_only;
    enum order_side side;
    double expect; /* 0: no signal */
} size_case[] = {
    {"as asked", 1, 0, 5, 0, 0, 0, 100, false, ORDER_BUY, 1},
    {"room is less", 1, 0, 5, 4.5, 0, 0, 100, false, ORDER_BUY, 0.5},
    {"no room", 1, 0, 5, 5, 0, 0, 100, false, ORDER_BUY, 0},
    {"open orders take room", 1, 0, 5, 4, 0.75, 0, 100, false, ORDER_BUY, 0.25},
    {"over the bound already", 1, 0, 5, 7, 0, 0, 100, false, ORDER_BUY, 0},
    {"sells out of a long", 1, 0, 5, 3, 0, 0, 100, false, ORDER_SELL, 1},
    {"sells short to the bound", 10, 0, 5, 3, 0, 0, 100, false, ORDER_SELL, 8},
    {"long only sells what it holds", 10, 0, 5, 3, 0, 0, 100, true, ORDER_SELL, 3},
    {"long only, less what it sells already", 10, 0, 5, 3, 0, 2, 100, true, ORDER_SELL, 1},
    {"long only with nothing", 1, 0, 5, 0, 0, 0, 100, true, ORDER_SELL, 0},
    {"notional: 1000 at 64 is 15.625", 0, 1000, 2000, 0, 0, 0, 64, false, ORDER_BUY, 15.625},
    {"notional: on the lot, downwards (1000 / 3)", 0, 1000, 2000, 0, 0, 0, 3, false, ORDER_BUY,
     333.333},
    {"notional: the bound is money, too (2000 / 64 = 31.25)", 0, 1000, 2000, 20, 0, 0, 64, false,
     ORDER_BUY, 11.25},
    {"smaller than a lot", 0.0005, 0, 5, 0, 0, 0, 100, false, ORDER_BUY, 0},
};

START_TEST(sizes)
{
    struct signal_rule r = rule(SIGNAL_IMBALANCE);
    struct signal_memory m = {.known = true};
    struct signal_view v = {.value = {size_case[_i].side == ORDER_BUY ? 0.9 : -0.9, 0},
                            .close = D(size_case[_i].close),
                            .position = D(size_case[_i].position),
                            .open_buy = D(size_case[_i].open_buy),
                            .open_sell = D(size_case[_i].open_sell)};
    struct signal_wish w;

    r.quantity = (int64_t)(size_case[_i].quantity * 1e9);
    r.notional = D(size_case[_i].notional);
    r.max_position = D(size_case[_i].max);
    r.long_only = size_case[_i].long_only;
    bool says = signal_next(&r, &m, &v, arena, &w);

    ck_assert_msg(says == (size_case[_i].expect > 0), "%s", size_case[_i].why);
    if (says) {
        ck_assert_int_eq(w.side, size_case[_i].side);
        ck_assert_msg(w.quantity == D(size_case[_i].expect), "%s: %lld", size_case[_i].why,
                      (long long)w.quantity);
    }
}
END_TEST

/* bid 100.00, ask 100.10, tick 0.01: 10 bps of 100 are 0.10, of 100.10 are 0.1001. */
static const struct {
    double bps;
    enum order_side side;
    double expect;
} price_case[] = {
    {0, ORDER_BUY, 100.10},   {0, ORDER_SELL, 100.00},  {10, ORDER_BUY, 99.90},
    {10, ORDER_SELL, 100.21}, {-10, ORDER_BUY, 100.20}, {-10, ORDER_SELL, 99.90},
};

START_TEST(prices)
{
    struct signal_rule r = rule(SIGNAL_IMBALANCE);
    int64_t price = 0;

    r.price_offset_bps = price_case[_i].bps;
    ck_assert_int_eq(signal_price(&r, price_case[_i].side, D(100), D(100.1), &price), KEEL_OK);
    ck_assert_msg(llabs(price - (int64_t)(price_case[_i].expect * 100 + 0.5) * 10000000) == 0,
                  "%g bps: %lld", price_case[_i].bps, (long long)price);
}
END_TEST

START_TEST(no_price)
{
    struct signal_rule r = rule(SIGNAL_IMBALANCE);
    int64_t price = -1;

    ck_assert_int_eq(signal_price(&r, ORDER_BUY, D(100), 0, &price), KEEL_UNDEFINED);
    ck_assert_int_eq(signal_price(&r, ORDER_SELL, 0, D(100), &price), KEEL_UNDEFINED);
    r.price_offset_bps = 5;
    ck_assert_int_eq(signal_price(&r, ORDER_BUY, 0, D(100), &price), KEEL_UNDEFINED);
    r.tick = D(1000); /* a bid of 100 on a tick of 1000 would be a price of 0 */
    ck_assert_int_eq(signal_price(&r, ORDER_BUY, D(100), D(101), &price), KEEL_UNDEFINED);
    ck_assert_int_eq(price, -1);
}
END_TEST

START_TEST(names_of_the_inputs)
{
    char name[SIGNAL_INPUTS][SIGNAL_NAME_LEN];
    struct signal_rule r = rule(SIGNAL_MA_CROSS);

    ck_assert_uint_eq(signal_inputs(&r, name), 2);
    ck_assert_str_eq(name[0], "sma_10");
    ck_assert_str_eq(name[1], "sma_20");
    r.kind = SIGNAL_RSI_REVERSION;
    ck_assert_uint_eq(signal_inputs(&r, name), 1);
    ck_assert_str_eq(name[0], "rsi_14");
    r.kind = SIGNAL_IMBALANCE;
    ck_assert_uint_eq(signal_inputs(&r, name), 1);
    ck_assert_str_eq(name[0], "book_imbalance");
    r.kind = SIGNAL_NONE;
    ck_assert_uint_eq(signal_inputs(&r, name), 0);
    r.kind = SIGNAL_MODEL; /* acts on predictions, so no vector moves it */
    ck_assert_uint_eq(signal_inputs(&r, name), 0);
}
END_TEST

START_TEST(wrong_rules)
{
    struct signal_rule good = rule(SIGNAL_MA_CROSS), r = good;

    ck_assert_ptr_null(signal_rule_wrong(&r));
    r.kind = SIGNAL_NONE;
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
    r = good;
    memcpy(r.slow, r.fast, sizeof r.slow);
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
    r = good;
    r.notional = D(5);
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
    r.quantity = r.notional = 0;
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
    r = good;
    r.max_position = 0;
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
    r = good;
    r.tick = 0;
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
    r = good;
    r.kind = SIGNAL_RSI_REVERSION;
    ck_assert_ptr_null(signal_rule_wrong(&r));
    r.rsi_low = 70;
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
    r = good;
    r.kind = SIGNAL_IMBALANCE;
    r.threshold = 1;
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
    r.kind = SIGNAL_MODEL;
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
    r.threshold = 0.5;
    ck_assert_ptr_null(signal_rule_wrong(&r));
    r.threshold = 0.49; /* both sides of it would be zones at once */
    ck_assert_ptr_nonnull(signal_rule_wrong(&r));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("signal");
    TCase *tc = tcase_create("signal");
    SRunner *sr;

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_loop_test(tc, walks, 0, (int)KEEL_COUNT(walk_case));
    tcase_add_loop_test(tc, sizes, 0, (int)KEEL_COUNT(size_case));
    tcase_add_loop_test(tc, prices, 0, (int)KEEL_COUNT(price_case));
    tcase_add_test(tc, no_price);
    tcase_add_test(tc, names_of_the_inputs);
    tcase_add_test(tc, wrong_rules);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
