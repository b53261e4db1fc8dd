/*
 * Indicators against TA-Lib's own series (shared/vectors/talib_daily_*.csv, 12 digits), the StockCharts RSI example and closed
 * forms; streaming against a direct recomputation over 200,000 bars.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "feature_set.h"
#include "keel/rng.h"

#define BARS 252
#define COLS 37

static double ohlcv[BARS][5], want[BARS][COLS];
static char head[COLS][32];
static int n_bars, n_cols;

static const char *shared_path(const char *name, char *buf, size_t cap)
{
    const char *dir = getenv("KEEL_SHARED");

    snprintf(buf, cap, "%s/vectors/%s", dir ? dir : "../shared", name);
    return buf;
}

static void skip(const char *what)
{
    printf("skipped: %s is not below KEEL_SHARED\n", what);
    exit(getenv("CI") ? 1 : 77);
}

static int cells(char *line, char *cell[], int most)
{
    int n = 0;

    line[strcspn(line, "\r\n")] = 0;
    for (char *p = line; n < most;) {
        char *comma = strchr(p, ',');
        cell[n++] = p;
        if (!comma)
            break;
        *comma = 0;
        p = comma + 1;
    }
    return n;
}

static void load(void)
{
    char path[512], line[4096], *cell[COLS];
    FILE *f = fopen(shared_path("talib_daily_ohlcv.csv", path, sizeof path), "r");

    if (!f)
        skip("vectors/talib_daily_ohlcv.csv");
    if (!fgets(line, sizeof line, f))
        exit(1);
    int first = strncmp(line, "bar", 3) == 0 || strncmp(line, "date", 4) == 0;
    while (fgets(line, sizeof line, f) && n_bars < BARS) {
        cells(line, cell, COLS);
        for (int k = 0; k < 5; k++)
            ohlcv[n_bars][k] = strtod(cell[first + k], NULL);
        n_bars++;
    }
    fclose(f);
    f = fopen(shared_path("talib_daily_outputs.csv", path, sizeof path), "r");
    if (!f)
        skip("vectors/talib_daily_outputs.csv");
    if (!fgets(line, sizeof line, f))
        exit(1);
    n_cols = cells(line, cell, COLS);
    for (int k = 0; k < n_cols; k++)
        snprintf(head[k], sizeof head[k], "%s", cell[k]);
    for (int i = 0; i < BARS && fgets(line, sizeof line, f); i++) {
        int n = cells(line, cell, COLS);
        for (int k = 0; k < n_cols; k++)
            want[i][k] = k < n && cell[k][0] ? strtod(cell[k], NULL) : NAN;
    }
    fclose(f);
}

static const struct { const char *column; enum feat_id id; int from; } series[] = {
    {"sma20", FEAT_SMA_20, 19},      {"rsi14", FEAT_RSI_14, 14},           {"atr14", FEAT_ATR_14, 14},
    {"macd", FEAT_MACD, 33},         {"macd_signal", FEAT_MACD_SIGNAL, 33}, {"macd_hist", FEAT_MACD_HISTOGRAM, 33},
    {"bb20_2_upper", FEAT_BB_UPPER, 19}, {"bb20_2_middle", FEAT_BB_MIDDLE, 19}, {"bb20_2_lower", FEAT_BB_LOWER, 19},
    {"mom10", FEAT_MOMENTUM_10, 10}, {"roc10", FEAT_ROC_10, 10},
};

static struct feat_bar bar_at(int i)
{
    return (struct feat_bar){.high = ohlcv[i][1], .low = ohlcv[i][2], .close = ohlcv[i][3], .volume = ohlcv[i][4],
                             .has_range = true, .has_volume = true};
}

START_TEST(talib_series)
{
    struct feat_set s;
    struct feat_value v;
    int col = -1, compared = 0;

    for (int k = 0; k < n_cols; k++)
        if (strcmp(head[k], series[_i].column) == 0)
            col = k;
    ck_assert_msg(col >= 0, "no column %s", series[_i].column);
    ck_assert_int_eq(n_bars, BARS);
    feat_init(&s);
    for (int i = 0; i < n_bars; i++) {
        struct feat_bar b = bar_at(i);
        feat_add_bar(&s, &b);
        feat_get(&s, series[_i].id, &v);
        if (isnan(want[i][col])) {
            ck_assert_msg(i < series[_i].from, "%s has no value at bar %d", series[_i].column, i);
            continue;
        }
        ck_assert_msg(v.ready, "%s not ready at bar %d", series[_i].column, i);
        ck_assert_double_eq_tol(v.value, want[i][col], 1e-9 * fmax(1, fabs(want[i][col])));
        compared++;
    }
    ck_assert_int_ge(compared, BARS - 34);
}
END_TEST

START_TEST(ema_ten)
{
    /* EMA(10) of the same bars, and the straight line of ema_short.json: an EMA lags it by (n - 1) / 2. */
    struct ind_ema e;
    int col = -1;

    for (int k = 0; k < n_cols; k++)
        if (strcmp(head[k], "ema10") == 0)
            col = k;
    ind_ema_init(&e, 10);
    for (int i = 0; i < n_bars; i++) {
        ind_ema_add(&e, ohlcv[i][3]);
        ck_assert_int_eq(ind_ema_ready(&e), !isnan(want[i][col]));
        if (ind_ema_ready(&e))
            ck_assert_double_eq_tol(e.value, want[i][col], 1e-9);
    }
    ind_ema_init(&e, 3);
    for (int i = 1; i <= 10; i++) {
        ind_ema_add(&e, i);
        if (i >= 3)
            ck_assert_double_eq_tol(e.value, i - 1, 1e-12);
    }
}
END_TEST

START_TEST(rsi_published)
{
    /* StockCharts' worked example: 70.53278948 at the 15th close, 37.77295211 at the 33rd. */
    static const double close[] = {44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245, 45.8433, 46.0826, 45.8931,
                                   46.0328, 45.614,  46.282,  46.282,  46.0028, 46.0328, 46.4116, 46.2222, 45.6439, 46.2122, 46.2521,
                                   45.7137, 46.4515, 45.7835, 45.3548, 44.0288, 44.1783, 44.2181, 44.5672, 43.4205, 42.6628, 43.1314};
    struct ind_rsi r;

    ind_rsi_init(&r, 14);
    for (size_t i = 0; i < sizeof close / sizeof close[0]; i++) {
        ind_rsi_add(&r, close[i]);
        ck_assert_int_eq(ind_rsi_ready(&r), i >= 14);
        if (i == 14)
            ck_assert_double_eq_tol(ind_rsi_value(&r), 70.53278948, 1e-8);
    }
    ck_assert_double_eq_tol(ind_rsi_value(&r), 37.77295211, 1e-8);
}
END_TEST

START_TEST(no_drift)
{
    /* 200,000 bars with a fall of the scale by 10^4 half way: the sliding window equals one computed afresh. */
    struct ind_window w;
    struct keel_rng rng;
    double last[20], mean, m2, scale = 1e4;

    keel_rng_seed(&rng, 42);
    ind_window_init(&w, 20);
    for (int i = 0; i < 200000; i++) {
        if (i == 100000)
            scale = 1;
        last[i % 20] = scale * (1 + 0.01 * keel_rng_normal(&rng));
        ind_window_add(&w, last[i % 20]);
        if (i < 20 || i % 97 != 0)
            continue;
        mean = m2 = 0;
        for (int k = 0; k < 20; k++)
            mean += last[k] / 20;
        for (int k = 0; k < 20; k++)
            m2 += (last[k] - mean) * (last[k] - mean);
        ck_assert_double_eq_tol(w.mean, mean, 1e-9 * mean);
        if (i < 100000 || i > 100040)
            ck_assert_double_eq_tol(ind_window_sd(&w), sqrt(m2 / 20), 1e-9 * mean);
    }
}
END_TEST

START_TEST(order_flow)
{
    /* Cont, Kukanov & Stoikov (2014), equation 3, case by case: bid up adds the new size, bid down takes the old one away,
       an unchanged bid adds the difference; the ask mirrors it. */
    static const struct { struct ind_quote a, b; double e; } c[] = {
        {{100, 5, 101, 7}, {100, 8, 101, 7}, 3},   {{100, 5, 101, 7}, {100.5, 2, 101, 7}, 2},
        {{100, 5, 101, 7}, {99.5, 9, 101, 7}, -5}, {{100, 5, 101, 7}, {100, 5, 101, 3}, 4},
        {{100, 5, 101, 7}, {100, 5, 100.5, 4}, -4}, {{100, 5, 101, 7}, {100, 5, 101.5, 9}, 7},
    };
    double v;

    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++)
        ck_assert_double_eq_tol(ind_ofi(&c[i].a, &c[i].b), c[i].e, 1e-12);
    ck_assert(ind_microprice(&(struct ind_quote){100, 3, 101, 1}, &v));
    ck_assert_double_eq_tol(v, 100.75, 1e-12);
    ck_assert(!ind_microprice(&(struct ind_quote){100, 0, 101, 0}, &v));
    ck_assert(ind_imbalance(3, 1, &v));
    ck_assert_double_eq_tol(v, 0.5, 1e-12);
    ck_assert(ind_spread_bps(&(struct ind_quote){99, 1, 101, 1}, &v));
    ck_assert_double_eq_tol(v, 200, 1e-9);
}
END_TEST

START_TEST(vwap_of_the_body)
{
    /* bodies.md: four closes and volumes give 61653.0963 and nothing else is ready. */
    static const double p[] = {61650.1, 61655.4, 61648.0, 61659.7}, q[] = {12.1, 8.4, 9.9, 10.2};
    struct feat_set s;
    struct feat_value v;
    int ready = 0;

    feat_init(&s);
    for (int i = 0; i < 4; i++)
        feat_add_bar(&s, &(struct feat_bar){.close = p[i], .volume = q[i], .has_volume = true});
    for (int i = 0; i < FEAT_N; i++) {
        feat_get(&s, (enum feat_id)i, &v);
        ready += v.ready;
    }
    ck_assert_int_eq(ready, 1);
    feat_get(&s, FEAT_VWAP, &v);
    ck_assert_double_eq_tol(v.value, 61653.0963, 5e-5);
    feat_get(&s, FEAT_SMA_20, &v);
    ck_assert_uint_eq(v.have, 4);
    ck_assert(!v.ready);
}
END_TEST

START_TEST(vwap_of_a_day)
{
    /* The UTC day resets it; a bar that closes at midnight still belongs to the day that ends. */
    const int64_t day = 86400000000000LL;
    struct feat_set s;
    struct feat_value v;

    feat_init(&s);
    feat_add_bar(&s, &(struct feat_bar){.close = 100, .volume = 1, .has_volume = true, .ts_close = day - 1});
    feat_add_bar(&s, &(struct feat_bar){.close = 200, .volume = 3, .has_volume = true, .ts_close = day});
    feat_get(&s, FEAT_VWAP, &v);
    ck_assert_double_eq_tol(v.value, 175, 1e-12);
    feat_add_bar(&s, &(struct feat_bar){.close = 300, .volume = 2, .has_volume = true, .ts_close = day + 1});
    feat_get(&s, FEAT_VWAP, &v);
    ck_assert_double_eq_tol(v.value, 300, 1e-12);
}
END_TEST

START_TEST(realised_volatility)
{
    /* Returns that alternate between +r and -r: the sample deviation of 20 of them is r * sqrt(20 / 19). */
    struct feat_set s;
    struct feat_value v;
    double price = 100;

    feat_init(&s);
    for (int i = 0; i < 21; i++) {
        feat_get(&s, FEAT_REALIZED_VOL_20, &v);
        ck_assert(!v.ready);
        feat_add_bar(&s, &(struct feat_bar){.close = price});
        price *= exp(i % 2 ? -0.01 : 0.01);
    }
    feat_get(&s, FEAT_REALIZED_VOL_20, &v);
    ck_assert(v.ready);
    ck_assert_double_eq_tol(v.value, 0.01 * sqrt(20.0 / 19), 1e-12);
}
END_TEST

START_TEST(schema)
{
    char a[17], b[17];

    feat_schema_hash(a);
    feat_schema_hash(b);
    ck_assert_str_eq(a, b);
    ck_assert_uint_eq(strspn(a, "0123456789abcdef"), 16);
}
END_TEST

int main(void)
{
    load(); /* before there is anything to free */

    Suite *suite = suite_create("indicators");
    TCase *tc = tcase_create("indicators");
    SRunner *runner;
    int failed;

    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, talib_series, 0, (int)(sizeof series / sizeof series[0]));
    tcase_add_test(tc, ema_ten);
    tcase_add_test(tc, rsi_published);
    tcase_add_test(tc, no_drift);
    tcase_add_test(tc, order_flow);
    tcase_add_test(tc, vwap_of_the_body);
    tcase_add_test(tc, vwap_of_a_day);
    tcase_add_test(tc, realised_volatility);
    tcase_add_test(tc, schema);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
