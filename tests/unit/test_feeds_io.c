/*
 * Adapters of marketdata against real files (counts of shared/data/README.md, which were computed there with other
 * programs) and against small files written here. Real files are skipped where shared/ is absent, except in CI.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "io.h"
#include "tree.h"

static char dir[64];
static struct keel_arena *arena;

static void setup(void)
{
    snprintf(dir, sizeof dir, "/tmp/keel-feeds-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    arena = keel_arena_new(1 << 16);
}

static void teardown(void)
{
    keel_arena_free(arena);
    tree_remove(dir);
}

/* Path below shared/data, or NULL when it is not there. */
static const char *shared(const char *what)
{
    static char path[1024];
    const char *root = getenv("KEEL_SHARED");
    struct stat st;

    snprintf(path, sizeof path, "%s/data/%s", root != NULL ? root : "../shared", what);
    if (stat(path, &st) == 0)
        return path;
    ck_assert_msg(getenv("CI") == NULL, "%s is missing", path);
    printf("skipped: %s is not there\n", path);
    return NULL;
}

static const char *write_file(const char *name, const void *data, size_t n)
{
    static char path[512];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    fclose(f);
    return path;
}

static const char *write_text(const char *name, const char *text)
{
    return write_file(name, text, strlen(text));
}

static const char *write_gzip(const char *name, const char *text, size_t keep)
{
    static unsigned char out[65536];
    z_stream z = {0};

    ck_assert_int_eq(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)(uintptr_t)text;
    z.avail_in = (uInt)strlen(text);
    z.next_out = out;
    z.avail_out = sizeof out;
    ck_assert_int_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return write_file(name, out, keep < z.total_out ? keep : z.total_out);
}

/* What a whole source gave, and the market it made. */
struct run {
    struct market *m;
    struct market_counts c;
    enum keel_status st;
    char why[200], digest[KEEL_SHA256_TEXT], first_bad[200];
    uint64_t first_bad_line, buys;
    int64_t newest;
    bool fell; /* ts_init went back */
};

static void take(struct run *r, const struct market_event *ev)
{
    struct market_due due[MARKET_DUE_MAX];
    struct market_symbol *s = ev->symbol != NULL ? market_add(r->m, ev->symbol) : NULL;

    r->fell = r->fell || ev->ts_init < r->newest;
    r->newest = ev->ts_init;
    market_count(s, ev, &r->c);
    if (ev->kind == MARKET_END && ev->u.digest != NULL)
        snprintf(r->digest, sizeof r->digest, "%s", ev->u.digest);
    if (ev->kind == MARKET_BAD && r->first_bad_line == 0) {
        r->first_bad_line = ev->u.bad.line;
        snprintf(r->first_bad, sizeof r->first_bad, "%s", ev->u.bad.detail);
    }
    r->buys += ev->kind == MARKET_TRADE && ev->u.trade.side == 1;
    if (s == NULL)
        return;
    market_due(r->m, s, ev->ts_init, due, &r->c);
    market_apply(r->m, s, ev, "test", &r->c);
}

static void run(struct run *r, const struct keel_source_ops *ops, struct io_conf *conf)
{
    struct market_conf mc = {.max_symbols = 600, .stale_ns = 30000000000, .n_widths = 0};
    struct keel_batch b = {.arena = arena, .item_size = ops->item_size, .cap = ops->batch_cap};
    atomic_bool stop = false;
    void *self = NULL;

    memset(r, 0, sizeof *r);
    r->m = market_new(&mc);
    b.items = keel_alloc(b.cap, b.item_size);
    r->st = ops->open(conf, &self, r->why, sizeof r->why);
    if (r->st == KEEL_OK) {
        do {
            keel_arena_reset(arena);
            b.n = 0;
            r->st = ops->next(self, &b, &stop, r->why, sizeof r->why);
            for (size_t i = 0; r->st == KEEL_OK && i < b.n; i++)
                take(r, (const struct market_event *)b.items + i);
        } while (r->st == KEEL_OK && b.n > 0);
        ops->close(self);
    }
    keel_free(b.items);
}

static void replay(struct run *r, const char *path)
{
    struct io_conf conf = {0};
    snprintf(conf.path, sizeof conf.path, "%s", path);
    run(r, &io_replay, &conf);
}

START_TEST(binance_real)
{
    const char *path = shared("binance_ws/usdm/btcusdt_20240808.gz");
    const struct market_symbol *s;
    struct run r;

    if (path == NULL)
        return;
    replay(&r, path);
    ck_assert_msg(r.st == KEEL_OK, "%s", r.why);
    ck_assert_uint_eq(r.c.records, 93954);
    ck_assert_uint_eq(r.c.bad_records, 0);
    ck_assert_uint_eq(r.c.quotes, 66089);
    ck_assert_uint_eq(r.c.trades, 21313);
    ck_assert_uint_eq(r.buys, 9616);
    ck_assert(r.c.trade_volume == 2429366 * (keel_i128)1000000);
    ck_assert_uint_eq(r.c.book_updates_applied, 6547);
    ck_assert_uint_eq(r.c.book_updates_dropped, 4);
    ck_assert_uint_eq(r.c.sequence_gaps, 0);
    ck_assert_uint_eq(r.c.crossed, 0);
    ck_assert_uint_eq(r.c.duplicates, 0);
    ck_assert_int_eq(r.c.ts_first, 1723161255030314667);
    ck_assert_int_eq(r.c.ts_last, 1723161599833492584);
    /* The capture host's clock is about 1.27 s behind the venue's. */
    ck_assert_int_lt(r.c.least_delay_ns, -1200000000);
    s = market_find(r.m, "BTCUSDT");
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(s->book.state, BOOK_LIVE);
    ck_assert_uint_eq(s->book.bid.n, 5018);
    ck_assert_uint_eq(s->book.ask.n, 4578);
    ck_assert_int_eq(book_best(&s->book.bid)->price, 61659700000000);
    ck_assert_int_eq(book_best(&s->book.ask)->price, 61659800000000);
    ck_assert_int_eq(s->quote.bid, 61659700000000);
    ck_assert_int_eq(s->quote.ask, 61659800000000);
    /* SHA256SUMS of shared/data */
    ck_assert_str_eq(r.digest, "0ad7b3a0f5cff220761ea890cfd6e3c15f6899edc7f94637ec915043d7a72251");
    market_free(r.m);
}
END_TEST

static const struct { const char *path; uint64_t trades, quotes; } lean_case[] = {
    {"lean_us_equity_minute/aig", 2558, 3042},
    {"lean_us_equity_minute/ibm", 2566, 3398},
    {"lean_us_equity_minute/spy", 4839, 5412},
    {"lean_us_equity_minute", 2558 + 2566 + 4839, 3042 + 3398 + 5412},
};

START_TEST(lean_real)
{
    const char *path = shared(lean_case[_i].path);
    struct run r;

    if (path == NULL)
        return;
    replay(&r, path);
    ck_assert_msg(r.st == KEEL_OK, "%s", r.why);
    ck_assert_msg(r.c.bad_records == 0, "line %d: %s", (int)r.first_bad_line, r.first_bad);
    ck_assert_uint_eq(r.c.bars, lean_case[_i].trades);
    ck_assert_uint_eq(r.c.quotes, lean_case[_i].quotes);
    ck_assert_uint_eq(r.c.records, lean_case[_i].trades + lean_case[_i].quotes);
    ck_assert(!r.fell);
    ck_assert_uint_eq(market_size(r.m), _i == 3 ? 3 : 1);
    ck_assert_uint_eq(strlen(r.digest), 64);
    market_free(r.m);
}
END_TEST

START_TEST(ohlcv_real)
{
    const char *path = shared("sp500_5yr/all_stocks_5yr.csv.gz");
    struct run r;

    if (path == NULL)
        return;
    replay(&r, path);
    ck_assert_msg(r.st == KEEL_OK, "%s", r.why);
    ck_assert_uint_eq(r.c.records + r.c.bad_records, 619040);
    ck_assert_uint_eq(r.c.bad_records, 23);
    ck_assert_uint_eq(r.c.bars, 619017);
    ck_assert_uint_eq(market_size(r.m), 505);
    ck_assert(!r.fell);
    ck_assert_ptr_nonnull(market_bars_of(market_find(r.m, "AAPL"), "1d"));
    market_free(r.m);
}
END_TEST

/* A row is never known before its minute is over. */
START_TEST(lean_stamps)
{
    char path[600];
    const struct market_bars *bars;
    struct run r;

    snprintf(path, sizeof path, "%s/abc", dir);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    write_text("abc/20131004_trade.csv", "34200000,1000000,1010000,990000,1005000,300\n"
                                         "34260000,10050,10050,10050\n"
                                         "34320000,1000000,990000,1010000,1005000,300\n");
    write_text("abc/20131004_quote.csv",
               "34200000,1000000,1000100,1000000,1000100,5,1000300,1000300,1000200,1000200,7\n"
               "34260000,,,,,,1000300,1000300,1000200,1000200,7\n");
    replay(&r, dir);
    ck_assert_msg(r.st == KEEL_OK, "%s", r.why);
    ck_assert_uint_eq(r.c.bars, 1);
    ck_assert_uint_eq(r.c.quotes, 1);
    ck_assert_uint_eq(r.c.bad_records, 3);
    bars = market_bars_of(market_find(r.m, "ABC"), "1m");
    ck_assert_ptr_nonnull(bars);
    /* 2013-10-04T13:31:00Z: 09:30 in New York is 13:30 UTC in summer, and the minute has to end. */
    ck_assert_int_eq(market_bar_back(bars, 0)->ts_close, 1380893460000000000);
    ck_assert_int_eq(market_bar_back(bars, 0)->ts_open, 1380893400000000000);
    ck_assert_int_eq(market_bar_back(bars, 0)->high, 101 * KEEL_SCALE);
    ck_assert(market_bar_back(bars, 0)->volume == 300 * (keel_i128)KEEL_SCALE);
    ck_assert_int_eq(market_find(r.m, "ABC")->quote.bid, 100010000000);
    ck_assert_int_eq(market_find(r.m, "ABC")->quote.ask_size, 7 * KEEL_SCALE);
    market_free(r.m);
}
END_TEST

/* Wall time in New York and UTC, ns / 1e9; computed with Python's zoneinfo (America/New_York). */
static const struct { const char *why; int64_t local, utc; } ny_case[] = {
    {"winter", 1705311000, 1705329000},
    {"before spring change 2013", 1362880740, 1362898740},
    {"after spring change 2013", 1362884400, 1362898800},
    {"summer", 1380879000, 1380893400},
    {"last day of summer time 2013", 1383436740, 1383451140},
    {"after autumn change 2013", 1383445800, 1383463800},
    {"2006: first Sunday of April", 1143950400, 1143964800},
    {"2006: the day before", 1143892800, 1143910800},
    {"2006: last Sunday of October", 1162090800, 1162108800},
    {"2006: the day before that", 1162036800, 1162051200},
    {"1998: March is winter", 890386200, 890404200},
    {"2007: March is summer", 1174383000, 1174397400},
    {"2007: early November is summer", 1194091200, 1194105600},
    {"1980: last Sunday of April", 325684800, 325699200},
    {"1980: a week earlier", 325080000, 325098000},
    {"2021 new year", 1609459200, 1609477200},
    {"1969", -15854400, -15840000},
};

START_TEST(new_york)
{
    ck_assert_msg(io_new_york_to_utc(ny_case[_i].local * 1000000000) == ny_case[_i].utc * 1000000000, "%s",
                  ny_case[_i].why);
}
END_TEST

static const char capture[] =
    "1700000000000000001 {\"stream\":\"x@trade\",\"data\":{\"e\":\"trade\",\"E\":1700000000001,\"T\":1700000000000,"
    "\"s\":\"XUSDT\",\"t\":1,\"p\":\"10.5\",\"q\":\"2\",\"X\":\"MARKET\",\"m\":true}}\n"
    "not a line\n"
    "1700000000000000002 {\"broken\n"
    "1700000000000000003 {\"stream\":\"x@bookTicker\",\"data\":{\"e\":\"bookTicker\",\"u\":1,\"s\":\"XUSDT\","
    "\"b\":\"-1\",\"B\":\"1\",\"a\":\"10.6\",\"A\":\"1\",\"T\":1,\"E\":1}}\n"
    "1700000000000000004 {\"stream\":\"x@markPrice\",\"data\":{\"e\":\"markPriceUpdate\",\"s\":\"XUSDT\"}}\n"
    "1700000000000000005 {\"stream\":\"x@trade\",\"data\":{\"e\":\"trade\",\"E\":1700000000001,\"T\":1700000000000,"
    "\"s\":\"XUSDT\",\"t\":2,\"p\":\"10.6\",\"q\":\"3\",\"X\":\"MARKET\",\"m\":false}}";

static void check_capture(const struct run *r)
{
    ck_assert_msg(r->st == KEEL_OK, "%s", r->why);
    ck_assert_uint_eq(r->c.trades, 2);
    ck_assert_uint_eq(r->buys, 1);
    ck_assert(r->c.trade_volume == 5 * (keel_i128)KEEL_SCALE);
    ck_assert_uint_eq(r->c.records, 3);
    ck_assert_uint_eq(r->c.other_records, 1);
    ck_assert_uint_eq(r->c.bad_records, 3);
    ck_assert_uint_eq(r->first_bad_line, 2);
}

START_TEST(binance_bad_rows)
{
    struct run r;

    replay(&r, write_text("plain.txt", capture));
    check_capture(&r);
    market_free(r.m);
    replay(&r, write_gzip("packed", capture, SIZE_MAX));
    check_capture(&r);
    market_free(r.m);
}
END_TEST

START_TEST(truncated_gzip)
{
    static char text[40000];
    size_t n = 0;
    struct run r;

    for (int i = 0; i < 200; i++)
        n += (size_t)snprintf(
            text + n, sizeof text - n,
            "17000000000000%05d {\"data\":{\"e\":\"trade\",\"T\":1700000000000,\"s\":\"XUSDT\",\"t\":%d,"
            "\"p\":\"%d.25\",\"q\":\"1\",\"m\":true}}\n",
            i, i, i * 7919 % 1000 + 1);
    replay(&r, write_gzip("whole.gz", text, SIZE_MAX));
    ck_assert_int_eq(r.st, KEEL_OK);
    ck_assert_uint_eq(r.c.trades, 200);
    market_free(r.m);
    replay(&r, write_gzip("cut.gz", text, 1200));
    ck_assert_int_ne(r.st, KEEL_OK);
    ck_assert_msg(strstr(r.why, "middle of its gzip data after line") != NULL, "%s", r.why);
    ck_assert_uint_gt(r.c.trades, 0);
    ck_assert_uint_lt(r.c.trades, 200);
    ck_assert_uint_eq(r.c.bad_records, 0);
    ck_assert_str_eq(r.digest, "");
    market_free(r.m);
}
END_TEST

START_TEST(long_line)
{
    size_t n = 3 * IO_LINE_MAX;
    char *text = malloc(n + sizeof capture);
    struct run r;

    memset(text, '1', n);
    text[19] = ' ';
    text[20] = '{';
    text[n - 1] = '\n';
    memcpy(text + n, capture, sizeof capture);
    {
        struct io_conf conf = {.format = IO_BINANCE};
        snprintf(conf.path, sizeof conf.path, "%s", write_file("long", text, n + sizeof capture - 1));
        run(&r, &io_replay, &conf);
    }
    ck_assert_uint_eq(r.c.bad_records, 4);
    ck_assert_uint_eq(r.c.trades, 2);
    ck_assert_uint_eq(r.first_bad_line, 1);
    market_free(r.m);
    free(text);
}
END_TEST

START_TEST(ohlcv_table)
{
    struct run r;
    const struct market_bars *bars;

    replay(&r, write_text("t.csv", "Date,Open,High,Low,Close,Volume,Name\r\n"
                                   "2020-01-02 09:31,2,3,1,2.5,10,bbb\r\n"
                                   "2020-01-02 09:30,1,3,1,2,5,bbb\r\n"
                                   "2020-01-02 09:30,1,1,1,1,7,\"AAA\"\r\n"
                                   "2020-01-02 09:31,,1,1,1,7,AAA\r\n"
                                   "yesterday,1,1,1,1,7,AAA\r\n"
                                   "2020-01-02 09:31,1,1,2,1,7,AAA\r\n"));
    ck_assert_msg(r.st == KEEL_OK, "%s", r.why);
    ck_assert_uint_eq(r.c.bars, 3);
    ck_assert_uint_eq(r.c.bad_records, 3);
    ck_assert_uint_eq(r.first_bad_line, 5);
    ck_assert(!r.fell);
    bars = market_bars_of(market_find(r.m, "BBB"), "1m");
    ck_assert_ptr_nonnull(bars);
    ck_assert_uint_eq(bars->n, 2);
    /* 2020-01-02T09:32:00Z */
    ck_assert_int_eq(market_bar_back(bars, 0)->ts_close, 1577957520000000000);
    ck_assert_int_eq(market_bar_back(bars, 0)->close, 2500000000);
    market_free(r.m);
}
END_TEST

static const struct { const char *why, *text; enum io_format format; } sniff_case[] = {
    {"capture", "1700000000000000001 {\"e\":1}\n", IO_BINANCE},
    {"table", "time,open,high,low,close\n1,1,1,1,1\n", IO_OHLCV},
    {"table without close", "time,open,high,low\n", IO_AUTO},
    {"prose", "Dear reader,\n", IO_AUTO},
    {"empty", "", IO_AUTO},
};

START_TEST(sniffing)
{
    char why[200] = "";

    ck_assert_msg(io_sniff(write_text("x", sniff_case[_i].text), why, sizeof why) == sniff_case[_i].format, "%s",
                  sniff_case[_i].why);
    ck_assert((sniff_case[_i].format == IO_AUTO) == (why[0] != '\0'));
    ck_assert_int_eq(io_sniff(write_gzip("y", sniff_case[_i].text, SIZE_MAX), why, sizeof why), sniff_case[_i].format);
    ck_assert_int_eq(io_sniff("/nowhere/at/all", why, sizeof why), IO_AUTO);
}
END_TEST

/* An adapter that finds nothing says so and leaves nothing behind. */
START_TEST(nothing_there)
{
    struct run r;

    replay(&r, dir);
    ck_assert_int_ne(r.st, KEEL_OK);
    ck_assert_str_ne(r.why, "");
    market_free(r.m);
    replay(&r, "/nowhere/at/all");
    ck_assert_int_ne(r.st, KEEL_OK);
    market_free(r.m);
}
END_TEST

START_TEST(simulator_source)
{
    struct io_conf conf = {.seed = 5, .start_ns = SIM_START_NS, .duration_ns = 60000000000, .rate = 40,
                           .symbols = {"ETHUSDT"}, .n_symbols = 1};
    struct run r;

    run(&r, &io_sim, &conf);
    ck_assert_int_eq(r.st, KEEL_OK);
    ck_assert_uint_eq(market_size(r.m), 1);
    ck_assert_uint_gt(r.c.trades, 100);
    ck_assert_uint_gt(r.c.book_updates_applied, 1000);
    ck_assert_uint_eq(r.c.sequence_gaps, 0);
    ck_assert(!r.fell && r.newest == SIM_START_NS + 60000000000);
    market_free(r.m);
    snprintf(conf.symbols[0], sizeof conf.symbols[0], "NOPE");
    run(&r, &io_sim, &conf);
    ck_assert_int_eq(r.st, KEEL_NOTFOUND);
    market_free(r.m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("feeds_io");
    TCase *tc = tcase_create("feeds_io");
    SRunner *sr;
    int bad;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, binance_real);
    tcase_add_loop_test(tc, lean_real, 0, KEEL_COUNT(lean_case));
    tcase_add_test(tc, ohlcv_real);
    tcase_add_test(tc, lean_stamps);
    tcase_add_loop_test(tc, new_york, 0, KEEL_COUNT(ny_case));
    tcase_add_test(tc, binance_bad_rows);
    tcase_add_test(tc, truncated_gzip);
    tcase_add_test(tc, long_line);
    tcase_add_test(tc, ohlcv_table);
    tcase_add_loop_test(tc, sniffing, 0, KEEL_COUNT(sniff_case));
    tcase_add_test(tc, nothing_there);
    tcase_add_test(tc, simulator_source);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    bad = srunner_ntests_failed(sr);
    srunner_free(sr);
    return bad != 0;
}
