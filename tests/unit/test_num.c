/*
 * Exact decimals and time as text. The figures of products, shares and quotients were computed with
 * Python's fractions (round() of a Fraction is half to even), day counts and stamps with its datetime.
 */
#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/num.h"
#include "keel/rng.h"
#include "sanitized.h"

__extension__ typedef unsigned __int128 u128;

static keel_i128 money(const char *text)
{
    keel_i128 v = 0;
    ck_assert_msg(keel_money_parse(text, strlen(text), &v) == KEEL_OK, "%s", text);
    return v;
}

/* st, and where it is KEEL_OK the value, are what the row says; NULL is an overflow. */
static void check_money(enum keel_status st, keel_i128 got, const char *want)
{
    char text[KEEL_MONEY_TEXT];
    if (want == NULL) {
        ck_assert_int_eq(st, KEEL_TOOBIG);
        return;
    }
    ck_assert_int_eq(st, KEEL_OK);
    ck_assert_uint_eq(keel_money_print(got, text), strlen(want));
    ck_assert_str_eq(text, want);
}

/* ---- decimals as text ---- */

static const struct {
    const char *text;
    enum keel_status st;
    int64_t v;
} dec_case[] = {
    {"0", KEEL_OK, 0},
    {"-0", KEEL_OK, 0},
    {"-0.0e5", KEEL_OK, 0},
    {"1", KEEL_OK, 1000000000},
    {"61659.7", KEEL_OK, 61659700000000},
    {"-0.5", KEEL_OK, -500000000},
    {"1e-9", KEEL_OK, 1},
    {"1E5", KEEL_OK, 100000000000000},
    {"1e+5", KEEL_OK, 100000000000000},
    {"1.5e3", KEEL_OK, 1500000000000},
    {"0007", KEEL_OK, 7000000000},
    {"10e-10", KEEL_OK, 1},
    {"0.1000000000000000000000000000000000000000000000000000000000000000", KEEL_OK, 100000000},
    {"100000000000000000000000000000000000000000000000000e-50", KEEL_OK, 1000000000},
    {"0.00000000000000000000000000000000000000000000000001e50", KEEL_OK, 1000000000},
    {"0e99999999999999999999999999", KEEL_OK, 0},
    {"9223372036.854775807", KEEL_OK, INT64_MAX},
    {"-9223372036.854775808", KEEL_OK, INT64_MIN},
    {"9223372036.854775808", KEEL_TOOBIG, 0},
    {"-9223372036.854775809", KEEL_TOOBIG, 0},
    {"1e-10", KEEL_TOOBIG, 0},
    {"0.1234567891", KEEL_TOOBIG, 0},
    {"1e10", KEEL_TOOBIG, 0},
    {"1e999999999", KEEL_TOOBIG, 0},
    {"1e-999999999999999999999999999", KEEL_TOOBIG, 0},
    {"1e99999999999999999999999999999", KEEL_TOOBIG, 0},
    {"99999999999999999999999999999999999999999999999999999999", KEEL_TOOBIG, 0},
    {"", KEEL_INVALID, 0},
    {"-", KEEL_INVALID, 0},
    {"+1", KEEL_INVALID, 0},
    {".5", KEEL_INVALID, 0},
    {"1.", KEEL_INVALID, 0},
    {"1.e5", KEEL_INVALID, 0},
    {"1e", KEEL_INVALID, 0},
    {"1e+", KEEL_INVALID, 0},
    {"--1", KEEL_INVALID, 0},
    {" 1", KEEL_INVALID, 0},
    {"1 ", KEEL_INVALID, 0},
    {"1,5", KEEL_INVALID, 0},
    {"0x10", KEEL_INVALID, 0},
    {"NaN", KEEL_INVALID, 0},
    {"inf", KEEL_INVALID, 0},
};

START_TEST(dec_parse)
{
    int64_t v = 77;
    const char *text = dec_case[_i].text;
    enum keel_status st = keel_dec_parse(text, strlen(text), &v);
    ck_assert_msg(st == dec_case[_i].st, "%s: %s", text, keel_status_name(st));
    ck_assert_msg(v == (st == KEEL_OK ? dec_case[_i].v : 77), "%s: %" PRId64, text, v);
}
END_TEST

static const struct {
    int64_t v;
    const char *text;
} print_case[] = {
    {0, "0"},
    {1, "0.000000001"},
    {-1, "-0.000000001"},
    {500000000, "0.5"},
    {61659700000000, "61659.7"},
    {-1000000000, "-1"},
    {10000000000, "10"},
    {INT64_MAX, "9223372036.854775807"},
    {INT64_MIN, "-9223372036.854775808"},
};

START_TEST(dec_print)
{
    char text[KEEL_DEC_TEXT];
    size_t n = keel_dec_print(print_case[_i].v, text);
    ck_assert_str_eq(text, print_case[_i].text);
    ck_assert_uint_eq(n, strlen(text));
}
END_TEST

static const char *const money_text[] = {
    "0", "0.000000001", "-0.000000001", "969157.76804", "1000000000000000000", "1000000000000000001.5",
    "-1000000000000000000000000000.000000001", "170141183460469231731687303715.884105727",
    "-170141183460469231731687303715.884105728", NULL};

START_TEST(money_text_round_trip)
{
    char text[KEEL_MONEY_TEXT];
    for (const char *const *t = money_text; *t != NULL; t++) {
        keel_money_print(money(*t), text);
        ck_assert_str_eq(text, *t);
    }
    keel_i128 v = 0;
    const char *over = "170141183460469231731687303715.884105728";
    ck_assert_int_eq(keel_money_parse(over, strlen(over), &v), KEEL_TOOBIG);
    const char *under = "-170141183460469231731687303715.884105729";
    ck_assert_int_eq(keel_money_parse(under, strlen(under), &v), KEEL_TOOBIG);
}
END_TEST

START_TEST(random_round_trips)
{
    struct keel_rng r;
    char text[KEEL_MONEY_TEXT];
    keel_rng_seed(&r, 20261122);
    for (int i = 0; i < CASES(30000); i++) {
        int64_t v = (int64_t)(keel_rng_u64(&r) >> keel_rng_below(&r, 64)), got = ~v;
        v = keel_rng_below(&r, 2) == 0 ? v : -(v / 2);
        size_t n = keel_dec_print(v, text);
        ck_assert_int_eq(keel_dec_parse(text, n, &got), KEEL_OK);
        ck_assert_msg(got == v, "%s is not %" PRId64, text, v);

        keel_i128 m = (keel_i128)v * (int64_t)(keel_rng_u64(&r) >> (1 + keel_rng_below(&r, 62)));
        keel_i128 back = ~m;
        n = keel_money_print(m, text);
        ck_assert_int_eq(keel_money_parse(text, n, &back), KEEL_OK);
        ck_assert_msg(back == m, "%s", text);
    }
}
END_TEST

/* Short figures are read by a way of their own; with an exponent of nothing they are not. */
START_TEST(short_like_long)
{
    static const char characters[] = "00123456789999999999.-+ ";
    struct keel_rng r;
    char text[32];
    int n_valid = 0;
    keel_rng_seed(&r, 20261123);
    for (int i = 0; i < CASES(300000); i++) {
        size_t n = keel_rng_below(&r, 23), kinds = keel_rng_below(&r, 8) == 0 ? sizeof characters - 1 : 20;
        for (size_t k = 0; k < n; k++)
            text[k] = characters[keel_rng_below(&r, kinds)];
        if (n > 0 && keel_rng_below(&r, 2) == 0)
            text[keel_rng_below(&r, n)] = '.';
        if (n > 0 && keel_rng_below(&r, 3) == 0)
            text[0] = '-';
        memcpy(text + n, "e0", 3);
        keel_i128 got = 1, want = 1;
        enum keel_status st = keel_money_parse(text, n + 2, &want);
        ck_assert_msg(keel_money_parse(text, n, &got) == st, "%.*s", (int)n, text);
        ck_assert_msg(got == want, "%.*s", (int)n, text);
        n_valid += st == KEEL_OK;
    }
    ck_assert_int_gt(n_valid, CASES(100000));
}
END_TEST

/* ---- products and quotients ---- */

static const struct {
    int64_t price, quantity, multiplier;
    const char *want;
} notional_case[] = {
    {61659800000000, 500000000, 1000000000, "30829.9"},
    {1, 500000000, 1000000000, "0"},
    {3, 500000000, 1000000000, "0.000000002"},
    {-1, 500000000, 1000000000, "0"},
    {-3, 500000000, 1000000000, "-0.000000002"},
    {5, -500000000, 1000000000, "-0.000000002"},
    {1, 500000001, 1000000000, "0.000000001"},
    {-1, 499999999, 1000000000, "0"},
    {INT64_MAX, INT64_MAX, 1000000000, "85070591730234615847.396907784"},
    {INT64_MIN, INT64_MIN, 1000000000, "85070591730234615865.843651858"},
    {INT64_MIN, INT64_MAX, -1000000000, "85070591730234615856.620279821"},
    {INT64_MAX, INT64_MAX, INT64_MAX, NULL},
    {INT64_MIN, INT64_MIN, INT64_MIN, NULL},
    {INT64_MAX, 1000000000, 1000000000, "9223372036.854775807"},
    {INT64_MIN, 1000000000, 1000000000, "-9223372036.854775808"},
    {0, 5, 7, "0"},
    {1000000, 1000000, 500000, "0"},
    {1000000, 1000000, 1500000, "0.000000002"},
    {1000000, 1000000, -2500000, "-0.000000002"},
    {8261657684473197624, -799679753453616, 591937865765, "-3910744284069402065.653725014"},
    {-8531699129511414324, 757380690437978, 262293031824, "-1694870471139935131.698029738"},
    {941655628529072089, -568346298707249, 248882401374, "-133198499095694423.374736042"},
    {-1905908760335480075, -130232100332852, 610085427121, "151429609458269772.152657963"},
    {-6766730261175167285, -476232763526590, 131171247085, "422704413804226841.852079704"},
    {3357357195551156271, 551229794570437, 601713882579, "1113577030507485348.643573733"},
};

/* With printf and digit by digit, which is how it was done before. */
static size_t print_slowly(keel_i128 v, char *buf)
{
    uint64_t high = 0, low = 0; /* 18 digits of the whole part each, at most 30 in all */
    u128 rest = v < 0 ? (u128)0 - (u128)v : (u128)v;
    uint64_t fraction = (uint64_t)(rest % 1000000000);
    rest /= 1000000000;
    low = (uint64_t)(rest % UINT64_C(1000000000000000000));
    high = (uint64_t)(rest / UINT64_C(1000000000000000000));
    int n = high > 0 ? sprintf(buf, "%s%" PRIu64 "%018" PRIu64 ".%09" PRIu64, v < 0 ? "-" : "", high, low, fraction)
                     : sprintf(buf, "%s%" PRIu64 ".%09" PRIu64, v < 0 ? "-" : "", low, fraction);
    while (buf[n - 1] == '0')
        n--;
    n -= buf[n - 1] == '.';
    buf[n] = '\0';
    return (size_t)n;
}

static keel_i128 read_slowly(const char *text)
{
    keel_i128 v = 0;
    int places = -1;
    for (const char *p = text + (*text == '-'); *p != '\0'; p++) {
        if (*p == '.') {
            places = 0;
        } else {
            v = v * 10 + (*p - '0');
            places += places >= 0;
        }
    }
    for (places = places < 0 ? 0 : places; places < 9; places++)
        v *= 10;
    return *text == '-' ? -v : v;
}

START_TEST(same_as_slowly)
{
    char got[KEEL_MONEY_TEXT], want[64];
    struct keel_rng r;
    keel_rng_seed(&r, 7);
    for (int i = 0; i < CASES(30000); i++) {
        /* At most 2^120, so that reading slowly does not overflow; in half of them the last digits are zeros. */
        keel_i128 v = (keel_i128)keel_rng_u64(&r) << 56 | (keel_i128)(keel_rng_u64(&r) >> 8);
        v >>= keel_rng_below(&r, 120);
        if (i % 2 == 0)
            v -= v % (int64_t)pow(10, (double)keel_rng_below(&r, 18));
        v = keel_rng_below(&r, 2) == 0 ? v : -v;
        size_t n = print_slowly(v, want);
        ck_assert_uint_eq(keel_money_print(v, got), n);
        ck_assert_str_eq(got, want);
        ck_assert(money(want) == v && read_slowly(want) == v);
        if (v < INT64_MIN || v > INT64_MAX)
            continue;
        ck_assert_uint_eq(keel_dec_print((int64_t)v, got), n);
        ck_assert_str_eq(got, want);
        int width = (int)keel_rng_below(&r, 22);
        uint64_t u = (uint64_t)(v < 0 ? -v : v);
        char *end = want + 40, *p = keel_digits_print(end, u, width);
        *end = '\0';
        n = (size_t)sprintf(got, "%0*" PRIu64, width, u);
        ck_assert_str_eq(p, width == 0 && u == 0 ? "" : got);
    }
}
END_TEST

/* At each power of ten and beside it, where the number of digits changes. */
START_TEST(u64_print)
{
    char got[32], want[32];
    uint64_t power = 1;
    for (int n = 0; n < 20; n++, power *= 10) {
        const uint64_t v[] = {power - 1, power, power + 1, UINT64_MAX - power, UINT64_MAX};
        for (size_t i = 0; i < KEEL_COUNT(v); i++) {
            *keel_u64_print(got, v[i]) = '\0';
            sprintf(want, "%" PRIu64, v[i]);
            ck_assert_str_eq(got, want);
        }
    }
}
END_TEST

static const struct { uint64_t whole, fraction; int width; const char *want; } fixed_case[] = {
    {0, 0, 0, "0"}, {7, 0, 9, "7"}, {0, 1, 3, "0.001"}, {12, 100, 3, "12.1"}, {12, 120, 3, "12.12"}, {99, 999, 3, "99.999"},
    {10, 1, 9, "10.000000001"}, {10, 900000000, 9, "10.9"}, {UINT64_MAX, 10, 2, "18446744073709551615.1"},
};

START_TEST(fixed_print)
{
    char got[48];
    *keel_fixed_print(got, fixed_case[_i].whole, fixed_case[_i].fraction, fixed_case[_i].width) = '\0';
    ck_assert_str_eq(got, fixed_case[_i].want);
}
END_TEST

START_TEST(notional)
{
    keel_i128 got = 0;
    enum keel_status st = keel_notional(notional_case[_i].price, notional_case[_i].quantity,
                                        notional_case[_i].multiplier, &got);
    check_money(st, got, notional_case[_i].want);
}
END_TEST

static const struct {
    const char *money;
    int64_t part, whole;
    const char *want;
} share_case[] = {
    {"100", 1, 3, "33.333333333"},
    {"-100", 1, 3, "-33.333333333"},
    {"100", 2, 3, "66.666666667"},
    {"100", -2, 3, "-66.666666667"},
    {"0.000000001", 1, 2, "0"},
    {"0.000000003", 1, 2, "0.000000002"},
    {"-0.000000001", 1, 2, "0"},
    {"-0.000000003", 1, 2, "-0.000000002"},
    {"-0.000000005", -1, -2, "-0.000000002"},
    {"170141183460469231731687303715.884105727", 1, 1, "170141183460469231731687303715.884105727"},
    {"170141183460469231731687303715.884105727", 2, 1, NULL},
    {"-170141183460469231731687303715.884105728", 1, 1, "-170141183460469231731687303715.884105728"},
    {"-170141183460469231731687303715.884105728", -1, 1, NULL},
    {"-170141183460469231731687303715.884105728", 1, -2, "85070591730234615865843651857.942052864"},
    {"170141183460469231731687303715.884105727", INT64_MAX, INT64_MAX, "170141183460469231731687303715.884105727"},
    {"-170141183460469231731687303715.884105728", INT64_MIN, INT64_MIN, "-170141183460469231731687303715.884105728"},
    {"170141183460469231731687303715.884105727", INT64_MAX, INT64_MIN, "-170141183460469231713240559642.174554111"},
    {"0", 5, -7, "0"},
    {"-64789364482966445455284544016.271743966", 225996925362, 6275583194575471908,
     "-2333201029342563097858.448441594"},
    {"21828151036655213096244712918.05295037", 641949871889, 4179889217547446151, "3352380417817975110648.983066529"},
    {"-2008851311140420042618907658.42302935", 631711757120, 4844083813885485141, "-261972137623985850914.427381576"},
    {"57209231986660419535367508941.885754062", 829637194965, 1401810986818664494, "33858278468218777642977.444926772"},
    {"-71729054085004865314723314039.908545566", 738571248117, 7051922673539936134,
     "-7512421711683396510994.142082652"},
};

START_TEST(money_share)
{
    keel_i128 got = 0;
    enum keel_status st =
        keel_money_share(money(share_case[_i].money), share_case[_i].part, share_case[_i].whole, &got);
    check_money(st, got, share_case[_i].want);
}
END_TEST

static const struct {
    const char *money;
    int64_t quantity;
    const char *want;
} per_case[] = {
    {"30829.9", 500000000, "61659.8"},
    {"1", 3000000000, "0.333333333"},
    {"-1", 3000000000, "-0.333333333"},
    {"2", 3000000000, "0.666666667"},
    {"0.000000001", 2000000000, "0"},
    {"0.000000003", 2000000000, "0.000000002"},
    {"-0.000000003", 2000000000, "-0.000000002"},
    {"9223372036.854775807", 1000000000, "9223372036.854775807"},
    {"9223372036.854775808", 1000000000, NULL},
    {"-9223372036.854775808", 1000000000, "-9223372036.854775808"},
    {"-9223372036.854775809", 1000000000, NULL},
    {"100000000000", 1, NULL},
};

START_TEST(money_per)
{
    int64_t got = 0;
    enum keel_status st = keel_money_per(money(per_case[_i].money), per_case[_i].quantity, &got);
    check_money(st, got, per_case[_i].want);
}
END_TEST

/* The fee of the example in bodies.md: 30829.9 at 4 basis points. */
START_TEST(money_rate)
{
    keel_i128 got = 0;
    enum keel_status st = keel_money_rate(money("30829.9"), 400000, &got);
    check_money(st, got, "12.33196");
    st = keel_money_rate(money("0.000000005"), 500000000, &got);
    check_money(st, got, "0.000000002");
    st = keel_money_rate(money("0.000000007"), -500000000, &got);
    check_money(st, got, "-0.000000004");
}
END_TEST

START_TEST(sums)
{
    keel_i128 m = 5, most = money("170141183460469231731687303715.884105727");
    int64_t d = 5;
    ck_assert_int_eq(keel_money_add(most, 1, &m), KEEL_TOOBIG);
    ck_assert_int_eq(keel_money_sub(-most, 2, &m), KEEL_TOOBIG);
    ck_assert(m == 5);
    ck_assert_int_eq(keel_money_add(most, -1, &m), KEEL_OK);
    ck_assert(m == most - 1);
    ck_assert_int_eq(keel_money_sub(-most, 1, &m), KEEL_OK);
    ck_assert(m == -most - 1);
    ck_assert_int_eq(keel_dec_add(INT64_MAX, 1, &d), KEEL_TOOBIG);
    ck_assert_int_eq(keel_dec_sub(INT64_MIN, 1, &d), KEEL_TOOBIG);
    ck_assert_int_eq(d, 5);
    ck_assert_int_eq(keel_dec_add(INT64_MAX, INT64_MIN, &d), KEEL_OK);
    ck_assert_int_eq(d, -1);
    ck_assert_int_eq(keel_dec_sub(-1, INT64_MAX, &d), KEEL_OK);
    ck_assert_int_eq(d, INT64_MIN);
}
END_TEST

START_TEST(steps)
{
    ck_assert(keel_dec_on_step(61659700000000, 100000000));
    ck_assert(!keel_dec_on_step(61659750000000, 100000000));
    ck_assert(keel_dec_on_step(-300, 3));
    ck_assert(!keel_dec_on_step(-301, 3));
    ck_assert(keel_dec_on_step(0, 7));
    ck_assert(keel_dec_on_step(INT64_MIN, 1));
}
END_TEST

/* ---- doubles and integers ---- */

static const struct {
    double v;
    enum keel_status st;
    int64_t units;
} from_f64_case[] = {
    {0, KEEL_OK, 0},
    {-0.5, KEEL_OK, -500000000},
    {61659.7, KEEL_OK, 61659700000000},
    {1e-9, KEEL_OK, 1},
    {4e-10, KEEL_OK, 0},
    {6e-10, KEEL_OK, 1},
    {0.1, KEEL_OK, 100000000},
    /* The double nearest 9.2e9 + 0.1 is 9200000000.1000003815 (Python's decimal). */
    {9200000000.1, KEEL_OK, 9200000000100000381},
    {-9223372036.0, KEEL_OK, -9223372036000000000},
    {9223372036.9, KEEL_TOOBIG, 0},
    {1e300, KEEL_TOOBIG, 0},
    {-INFINITY, KEEL_TOOBIG, 0},
    {NAN, KEEL_TOOBIG, 0},
};

START_TEST(dec_from_f64)
{
    int64_t got = 77;
    ck_assert_int_eq(keel_dec_from_f64(from_f64_case[_i].v, &got), from_f64_case[_i].st);
    ck_assert_int_eq(got, from_f64_case[_i].st == KEEL_OK ? from_f64_case[_i].units : 77);
}
END_TEST

START_TEST(to_f64)
{
    ck_assert(keel_dec_to_f64(61659700000000) == 61659.7);
    ck_assert(keel_dec_to_f64(-1) == -1e-9);
    ck_assert(keel_money_to_f64(money("969157.76804")) == 969157.76804);
    ck_assert(keel_money_to_f64(-money("1000000000000000000000")) == -1e21);
}
END_TEST

static const struct {
    const char *text;
    enum keel_status st;
    int64_t v;
} i64_case[] = {
    {"0", KEEL_OK, 0},
    {"-0", KEEL_OK, 0},
    {"42", KEEL_OK, 42},
    {"9223372036854775807", KEEL_OK, INT64_MAX},
    {"-9223372036854775808", KEEL_OK, INT64_MIN},
    {"9223372036854775808", KEEL_TOOBIG, 0},
    {"-9223372036854775809", KEEL_TOOBIG, 0},
    {"99999999999999999999999", KEEL_TOOBIG, 0},
    {"99999999999999999999999x", KEEL_INVALID, 0},
    {"", KEEL_INVALID, 0},
    {"-", KEEL_INVALID, 0},
    {"+1", KEEL_INVALID, 0},
    {"1.0", KEEL_INVALID, 0},
    {"1e3", KEEL_INVALID, 0},
    {" 1", KEEL_INVALID, 0},
};

START_TEST(i64_parse)
{
    int64_t v = 77;
    const char *text = i64_case[_i].text;
    ck_assert_msg(keel_i64_parse(text, strlen(text), &v) == i64_case[_i].st, "%s", text);
    ck_assert_int_eq(v, i64_case[_i].st == KEEL_OK ? i64_case[_i].v : 77);
}
END_TEST

/* strtod of the C library is the independent implementation. */
static const char *const f64_text[] = {
    "0", "-0", "1", "61659.7", "0.1", "1e22", "1e23", "-1e-22", "123456789012345678", "9007199254740993",
    "2.2250738585072014e-308", "4.9e-324", "1.7976931348623157e308", "3.141592653589793238462643383279",
    "0.000000000000000000000000000001e30", "1e-400", "8.5e-5", "179769313486231580000000000000000000"};

START_TEST(f64_parse)
{
    double v = 77;
    const char *text = f64_text[_i];
    ck_assert_int_eq(keel_f64_parse(text, strlen(text), &v), KEEL_OK);
    double want = strtod(text, NULL);
    ck_assert_msg(v == want && signbit(v) == signbit(want), "%s: %.17g", text, v);
}
END_TEST

static double f64_of(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* A finite one: any bits, or what figures look like. */
static double any_f64(struct keel_rng *r)
{
    double v;
    switch (keel_rng_below(r, 4)) {
    case 0: return keel_rng_normal(r) * 100;
    case 1: return (double)(int64_t)keel_rng_u64(r) / 1e9;
    case 2: return ldexp(1, (int)keel_rng_below(r, 2098) - 1074); /* the gap below is half the gap above */
    default:
        do
            v = f64_of(keel_rng_u64(r));
        while (!isfinite(v));
        return v;
    }
}

/* Digits of a decimal text, without zeros at either end. */
static size_t significant(const char *text, char digits[64])
{
    size_t n = 0;
    for (; *text != '\0' && *text != 'e'; text++)
        if (*text >= '0' && *text <= '9' && (n > 0 || *text != '0'))
            digits[n++] = *text;
    while (n > 0 && digits[n - 1] == '0')
        n--;
    digits[n] = '\0';
    return n;
}

/* printf with as many digits, and with one less, and strtod are the independent implementation. */
START_TEST(f64_print)
{
    struct keel_rng r;
    keel_rng_seed(&r, 20261124);
    for (int i = 0; i < CASES(100000); i++) {
        double v = any_f64(&r), got = 77;
        char text[KEEL_F64_TEXT + 1] = "", nearest[64], digits[64], same[64];
        size_t len = keel_f64_print(v, text);
        ck_assert_uint_lt(len, KEEL_F64_TEXT);
        text[len] = '\0';
        ck_assert_msg(strtod(text, NULL) == v, "%s is not %.17g", text, v);
        ck_assert_int_eq(keel_f64_parse(text, len, &got), KEEL_OK);
        ck_assert_msg(got == v, "%s was read as %.17g", text, got);
        if (v == 0)
            continue;
        int n = (int)significant(text, digits);
        snprintf(nearest, sizeof nearest, "%.*e", n - 1, v);
        significant(nearest, same);
        ck_assert_msg(strcmp(digits, same) == 0 || strtod(nearest, NULL) != v, "%s, nearer is %s", text, nearest);
        snprintf(nearest, sizeof nearest, "%.*e", n > 1 ? n - 2 : 0, v);
        ck_assert_msg(n == 1 || strtod(nearest, NULL) != v, "%s, shorter is %s", text, nearest);
    }
}
END_TEST

/* Integers of 64 bits are often half way between two doubles. */
START_TEST(f64_parse_like_strtod)
{
    struct keel_rng r;
    keel_rng_seed(&r, 20261125);
    for (int i = 0; i < CASES(200000); i++) {
        char text[64];
        double got = 77;
        int e = keel_rng_below(&r, 4) == 0 ? 0 : (int)keel_rng_below(&r, 660) - 340;
        size_t len = (size_t)snprintf(text, sizeof text, "%" PRIu64 "e%d", keel_rng_u64(&r) >> keel_rng_below(&r, 64), e);
        double want = strtod(text, NULL);
        enum keel_status st = keel_f64_parse(text, len, &got);
        ck_assert_msg(st == (isfinite(want) ? KEEL_OK : KEEL_TOOBIG), "%s", text);
        ck_assert_msg(st != KEEL_OK || got == want, "%s: %.17g, not %.17g", text, got, want);
    }
}
END_TEST

START_TEST(f64_refused)
{
    static const char *const bad[] = {"", "-", "+1", ".5", "1.", "nan", "inf", "0x1p3", "1e", " 1", "1 "};
    double v = 77;
    for (size_t i = 0; i < KEEL_COUNT(bad); i++)
        ck_assert_msg(keel_f64_parse(bad[i], strlen(bad[i]), &v) == KEEL_INVALID, "%s", bad[i]);
    ck_assert_int_eq(keel_f64_parse("1e309", 5, &v), KEEL_TOOBIG);
    ck_assert_int_eq(keel_f64_parse("-1e999999999999", 15, &v), KEEL_TOOBIG);
    ck_assert(v == 77);
}
END_TEST

/* ---- time ---- */

static const struct {
    const char *text;
    enum keel_status st;
    int64_t ns;
} time_case[] = {
    {"1970-01-01T00:00:00Z", KEEL_OK, 0},
    {"2026-11-22T17:51:04.120000000Z", KEEL_OK, 1795369864120000000},
    {"2026-11-22T17:51:04.12z", KEEL_OK, 1795369864120000000},
    {"2026-11-22t17:51:04.12", KEEL_OK, 1795369864120000000},
    {"2026-11-22 17:51:04.12", KEEL_OK, 1795369864120000000},
    {"2026-11-22T23:21:04.12+05:30", KEEL_OK, 1795369864120000000},
    {"2026-11-22T07:51:04.12-10:00", KEEL_OK, 1795369864120000000},
    {"2026-11-23T00:51:04.12+07:00", KEEL_OK, 1795369864120000000},
    {"1795369864120000000", KEEL_OK, 1795369864120000000},
    {"-1", KEEL_OK, -1},
    {"0", KEEL_OK, 0},
    {"2024-02-29T23:59:59.999999999Z", KEEL_OK, 1709251199999999999},
    {"2000-02-29T00:00:00Z", KEEL_OK, 951782400000000000},
    {"1969-12-31T23:59:59.999999999Z", KEEL_OK, -1},
    {"1677-09-21T00:12:43.145224192Z", KEEL_OK, INT64_MIN},
    {"2262-04-11T23:47:16.854775807Z", KEEL_OK, INT64_MAX},
    {"1677-09-21T00:12:43.145224191Z", KEEL_INVALID, 0},
    {"2262-04-11T23:47:16.854775808Z", KEEL_INVALID, 0},
    {"9999-12-31T23:59:59Z", KEEL_INVALID, 0},
    {"2023-02-29T00:00:00Z", KEEL_INVALID, 0},
    {"1900-02-29T00:00:00Z", KEEL_INVALID, 0},
    {"2024-04-31T00:00:00Z", KEEL_INVALID, 0},
    {"2024-13-01T00:00:00Z", KEEL_INVALID, 0},
    {"2024-00-01T00:00:00Z", KEEL_INVALID, 0},
    {"2024-01-00T00:00:00Z", KEEL_INVALID, 0},
    {"2024-01-01T24:00:00Z", KEEL_INVALID, 0},
    {"2024-01-01T00:60:00Z", KEEL_INVALID, 0},
    {"2024-01-01T00:00:60Z", KEEL_INVALID, 0},
    {"2024-01-01T00:00:00.Z", KEEL_INVALID, 0},
    {"2024-01-01T00:00:00.1234567890Z", KEEL_INVALID, 0},
    {"2024-01-01T00:00:00+5:30", KEEL_INVALID, 0},
    {"2024-01-01T00:00:00+24:00", KEEL_INVALID, 0},
    {"2024-01-01T00:00:00+00:60", KEEL_INVALID, 0},
    {"2024-01-01T00:00:00ZZ", KEEL_INVALID, 0},
    {"2024-01-01T00:00Z", KEEL_INVALID, 0},
    {"2024-01-01", KEEL_INVALID, 0},
    {"2024-1-01T00:00:00Z", KEEL_INVALID, 0},
    {"24-01-01T00:00:00Z", KEEL_INVALID, 0},
    {"1.5", KEEL_INVALID, 0},
    {"9223372036854775808", KEEL_INVALID, 0},
    {"", KEEL_INVALID, 0},
    {"now", KEEL_INVALID, 0},
};

START_TEST(time_parse)
{
    int64_t ns = 77;
    const char *text = time_case[_i].text;
    ck_assert_msg(keel_time_parse(text, strlen(text), &ns) == time_case[_i].st, "%s", text);
    ck_assert_msg(ns == (time_case[_i].st == KEEL_OK ? time_case[_i].ns : 77), "%s: %" PRId64, text, ns);
}
END_TEST

START_TEST(time_print)
{
    static const struct {
        int64_t ns;
        const char *text;
    } row[] = {
        {0, "1970-01-01T00:00:00.000000000Z"},
        {-1, "1969-12-31T23:59:59.999999999Z"},
        {1795369864120000000, "2026-11-22T17:51:04.120000000Z"},
        {951782400000000000, "2000-02-29T00:00:00.000000000Z"},
        {INT64_MIN, "1677-09-21T00:12:43.145224192Z"},
        {INT64_MAX, "2262-04-11T23:47:16.854775807Z"},
    };
    char text[KEEL_TIME_TEXT];
    for (size_t i = 0; i < KEEL_COUNT(row); i++) {
        ck_assert_uint_eq(keel_time_print(row[i].ns, text), strlen(row[i].text));
        ck_assert_str_eq(text, row[i].text);
    }
}
END_TEST

START_TEST(time_round_trip)
{
    struct keel_rng r;
    char text[KEEL_TIME_TEXT];
    keel_rng_seed(&r, 3);
    for (int i = 0; i < CASES(30000); i++) {
        int64_t ns = (int64_t)keel_rng_u64(&r), got = ~ns;
        size_t n = keel_time_print(ns, text);
        ck_assert_int_eq(keel_time_parse(text, n, &got), KEEL_OK);
        ck_assert_msg(got == ns, "%s", text);
    }
}
END_TEST

START_TEST(days)
{
    static const struct {
        int y, m, d;
        int64_t days;
    } row[] = {
        {1677, 9, 22, -106751}, {1970, 1, 1, 0},      {1900, 2, 28, -25509},  {1900, 3, 1, -25508},
        {2000, 2, 29, 11016},   {2024, 2, 29, 19782}, {2100, 3, 1, 47541},    {2261, 12, 31, 106650},
        {1969, 12, 31, -1},     {1, 1, 1, -719162},   {9999, 12, 31, 2932896},
    };
    for (size_t i = 0; i < KEEL_COUNT(row); i++)
        ck_assert_int_eq(keel_days_from_civil(row[i].y, row[i].m, row[i].d), row[i].days);
}
END_TEST

/* ---- symbols ---- */

static const struct { const char *text, *name; } symbol_case[] = {
    {"btcusdt", "BTCUSDT"}, {"SPY.SMART", "SPY.SMART"}, {"1inch-usd_p", "1INCH-USD_P"}, {"", NULL}, {".A", NULL},
    {"-A", NULL}, {"_A", NULL}, {"A B", NULL}, {"A/B", NULL}, {"A[", NULL}, {"A@", NULL}, {"A`", NULL}, {"A{", NULL},
    {"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345", "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"},
    {"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456", NULL}, {"\xc3\xa4", NULL},
};

START_TEST(symbols)
{
    char out[33] = "-";
    bool ok = keel_symbol_normalise(symbol_case[_i].text, out);

    ck_assert_msg(ok == (symbol_case[_i].name != NULL), "%s", symbol_case[_i].text);
    ck_assert_str_eq(out, ok ? symbol_case[_i].name : "-");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("num");
    TCase *tc = tcase_create("num");
    suite_add_tcase(s, tc);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, dec_parse, 0, KEEL_COUNT(dec_case));
    tcase_add_loop_test(tc, dec_print, 0, KEEL_COUNT(print_case));
    tcase_add_test(tc, money_text_round_trip);
    tcase_add_test(tc, random_round_trips);
    tcase_add_test(tc, short_like_long);
    tcase_add_test(tc, same_as_slowly);
    tcase_add_test(tc, u64_print);
    tcase_add_loop_test(tc, fixed_print, 0, KEEL_COUNT(fixed_case));
    tcase_add_loop_test(tc, notional, 0, KEEL_COUNT(notional_case));
    tcase_add_loop_test(tc, money_share, 0, KEEL_COUNT(share_case));
    tcase_add_loop_test(tc, money_per, 0, KEEL_COUNT(per_case));
    tcase_add_test(tc, money_rate);
    tcase_add_test(tc, sums);
    tcase_add_test(tc, steps);
    tcase_add_loop_test(tc, dec_from_f64, 0, KEEL_COUNT(from_f64_case));
    tcase_add_test(tc, to_f64);
    tcase_add_loop_test(tc, i64_parse, 0, KEEL_COUNT(i64_case));
    tcase_add_loop_test(tc, f64_parse, 0, KEEL_COUNT(f64_text));
    tcase_add_test(tc, f64_print);
    tcase_add_test(tc, f64_parse_like_strtod);
    tcase_add_test(tc, f64_refused);
    tcase_add_loop_test(tc, time_parse, 0, KEEL_COUNT(time_case));
    tcase_add_test(tc, time_print);
    tcase_add_test(tc, time_round_trip);
    tcase_add_test(tc, days);
    tcase_add_loop_test(tc, symbols, 0, KEEL_COUNT(symbol_case));
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
