/* Time bars against a direct recomputation from the same trades. */
#include <check.h>
#include <stdlib.h>

#include "bars.h"
#include "keel/arena.h"
#include "keel/rng.h"

#define TRADES 5000
static struct { int64_t ts, price, size; int side; } trade[TRADES];

static void setup(void)
{
    struct keel_rng rng;
    int64_t ts = 1700000000123456789;

    keel_rng_seed(&rng, 11);
    for (int i = 0; i < TRADES; i++) {
        /* Now and then nothing for a while, so that there are empty periods. */
        ts += (int64_t)(keel_rng_exponential(&rng) * 2e8) + (keel_rng_below(&rng, 100) == 0 ? 7000000000 : 0);
        trade[i].ts = ts;
        trade[i].price = 100 * KEEL_SCALE + (int64_t)keel_rng_below(&rng, 2000) * 10000000;
        trade[i].size = (1 + (int64_t)keel_rng_below(&rng, 500)) * 1000000;
        trade[i].side = (int)keel_rng_below(&rng, 3);
    }
}

/* The trades of the bar's period, summed anew. Returns how many there are. */
static int recompute(const struct bars_bar *bar, struct bars_bar *out)
{
    int n = 0;

    *out = (struct bars_bar){.ts_open = bar->ts_open, .ts_close = bar->ts_close, .has_flow = true};
    for (int i = 0; i < TRADES; i++) {
        if (trade[i].ts < bar->ts_open || trade[i].ts >= bar->ts_close)
            continue;
        if (n++ == 0)
            out->open = out->high = out->low = trade[i].price;
        out->high = trade[i].price > out->high ? trade[i].price : out->high;
        out->low = trade[i].price < out->low ? trade[i].price : out->low;
        out->close = trade[i].price;
        out->volume += trade[i].size;
        out->buy_volume += trade[i].side == 1 ? trade[i].size : 0;
        /* Prices on 0.01 and sizes on 0.001: the product is exact at 1e-9. */
        out->notional += (keel_i128)trade[i].price * trade[i].size / KEEL_SCALE;
    }
    out->trades = n;
    return n;
}

static void same(const struct bars_bar *bar)
{
    struct bars_bar want;

    ck_assert_int_gt(recompute(bar, &want), 0);
    ck_assert_int_eq(bar->open, want.open);
    ck_assert_int_eq(bar->high, want.high);
    ck_assert_int_eq(bar->low, want.low);
    ck_assert_int_eq(bar->close, want.close);
    ck_assert(bar->volume == want.volume && bar->buy_volume == want.buy_volume && bar->notional == want.notional);
    ck_assert_int_eq(bar->trades, want.trades);
}

static const int64_t width_case[] = {1000000000, 60000000000, 250000000};

START_TEST(recomputed)
{
    struct bars_builder b;
    struct bars_bar bar;
    int64_t trades = 0, bars = 0, last_close = 0, width = width_case[_i];

    bars_init(&b, width);
    for (int i = 0; i < TRADES; i++) {
        if (bars_close(&b, trade[i].ts, &bar)) {
            same(&bar);
            ck_assert_int_eq(bar.ts_close - bar.ts_open, width);
            ck_assert_int_eq(bar.ts_open % width, 0);
            ck_assert_int_ge(bar.ts_open, last_close);
            /* Published by a trade that comes after it. */
            ck_assert_int_le(bar.ts_close, trade[i].ts);
            last_close = bar.ts_close;
            trades += bar.trades;
            bars++;
        }
        bars_add(&b, trade[i].ts, trade[i].price, trade[i].size, trade[i].side);
    }
    ck_assert(!bars_close(&b, b.bar.ts_close - 1, &bar));
    ck_assert(bars_close(&b, b.bar.ts_close, &bar));
    same(&bar);
    ck_assert_int_eq(trades + bar.trades, TRADES);
    /* No bar for an empty period: at one second many are. */
    if (width == 1000000000)
        ck_assert_int_lt(bars + 1, (trade[TRADES - 1].ts - trade[0].ts) / width);
    ck_assert(!bars_close(&b, INT64_MAX, &bar));
}
END_TEST

START_TEST(mean_price)
{
    struct bars_builder b;
    int64_t vwap;
    struct bars_bar given = {.volume = 5};

    bars_init(&b, 1000000000);
    bars_add(&b, 1, 10 * KEEL_SCALE, 3 * KEEL_SCALE, 1);
    bars_add(&b, 2, 20 * KEEL_SCALE, KEEL_SCALE, 2);
    ck_assert(bars_vwap(&b.bar, &vwap));
    ck_assert_int_eq(vwap, 12500000000); /* (3 * 10 + 1 * 20) / 4 */
    ck_assert(b.bar.buy_volume == 3 * (keel_i128)KEEL_SCALE);
    ck_assert(!bars_vwap(&given, &vwap));
}
END_TEST

static const struct { const char *spec; int64_t ns; const char *canonical;
} spec_case[] = {
    {"1s", 1000000000, "1s"},
    {"60s", 60000000000, "1m"},
    {"1m", 60000000000, "1m"},
    {"250ms", 250000000, "250ms"},
    {"1h", 3600000000000, "1h"},
    {"90m", 5400000000000, "90m"},
    {"1d", 86400000000000, "1d"},
    {"0s", 0, NULL},
    {"1", 0, NULL},
    {"m", 0, NULL},
    {"", 0, NULL},
    {"-1s", 0, NULL},
    {"8d", 0, NULL},
    {"1 m", 0, NULL},
    {"99999999999d", 0, NULL},
    {"50ms", 0, NULL},
    {"1mm", 0, NULL},
};

START_TEST(specs)
{
    int64_t ns = 0;
    char text[BARS_SPEC_LEN];
    enum keel_status st = bars_width(spec_case[_i].spec, &ns);

    ck_assert_msg((st == KEEL_OK) == (spec_case[_i].canonical != NULL), "%s", spec_case[_i].spec);
    ck_assert_int_eq(ns, spec_case[_i].ns);
    if (st != KEEL_OK)
        return;
    bars_spec(ns, text);
    ck_assert_str_eq(text, spec_case[_i].canonical);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bars");
    TCase *tc = tcase_create("bars");
    SRunner *sr;
    int bad;

    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_loop_test(tc, recomputed, 0, sizeof width_case / sizeof width_case[0]);
    tcase_add_test(tc, mean_price);
    tcase_add_loop_test(tc, specs, 0, sizeof spec_case / sizeof spec_case[0]);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    bad = srunner_ntests_failed(sr);
    srunner_free(sr);
    return bad != 0;
}
