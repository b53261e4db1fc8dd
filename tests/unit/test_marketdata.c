/*
 * The market's state (pure), and the whole engine without sockets and without Redis: feeds, ingest, and what is
 * answered. Counts of the real files are those of shared/data/README.md.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "keel/clock.h"
#include "ops.h"
#include "rt.h"
#include "tree.h"

/* ---- the market ---- */

static struct market *m;
static struct market_counts counts;

static void market_setup(void)
{
    struct market_conf conf = {.max_symbols = 16, .n_widths = 1, .stale_ns = 30000000000, .width_ns = {1000000000}};

    m = market_new(&conf);
    memset(&counts, 0, sizeof counts);
}

static void market_teardown(void)
{
    market_free(m);
}

static struct market_event trade_at(int64_t ts, int64_t price, const char *id)
{
    return (struct market_event){.ts_init = ts, .ts_event = ts, .kind = MARKET_TRADE, .symbol = "X",
                                 .u.trade = {price * KEEL_SCALE, KEEL_SCALE, 1, id}};
}

START_TEST(table_is_bounded)
{
    char name[16];

    for (int i = 0; i < 16; i++) {
        snprintf(name, sizeof name, "S%d", i);
        ck_assert_ptr_nonnull(market_add(m, name));
        ck_assert_ptr_eq(market_add(m, name), market_find(m, name));
    }
    ck_assert_ptr_null(market_add(m, "S16"));
    ck_assert_ptr_null(market_find(m, "S16"));
    ck_assert_uint_eq(market_size(m), 16);
}
END_TEST

START_TEST(ring_keeps_the_newest)
{
    struct market_symbol *s = market_add(m, "X");

    for (int64_t i = 1; i <= 2500; i++) {
        struct market_event ev = trade_at(i, i, NULL);
        market_apply(m, s, &ev, "test", &counts);
        ck_assert_int_eq(market_point_back(s, 0)->ts_event, i);
        ck_assert_uint_eq(s->ring_n, i < MARKET_RING ? (size_t)i : MARKET_RING);
    }
    for (size_t i = 0; i < MARKET_RING; i++)
        ck_assert_int_eq(market_point_back(s, i)->ts_event, 2500 - (int64_t)i);
    ck_assert_uint_eq(market_stored(m), MARKET_RING);
    ck_assert(counts.trade_volume == 2500 * (keel_i128)KEEL_SCALE);
}
END_TEST

START_TEST(bars_of_another_session)
{
    struct market_symbol *s = market_add(m, "X");
    struct bars_bar b = {0};

    for (int64_t i = 1; i <= 1500; i++) {
        b.ts_close = i * 10;
        market_keep_bar(s, "1s", &b);
    }
    ck_assert_uint_eq(market_bars_of(s, "1s")->n, MARKET_RING);
    ck_assert_int_eq(market_bar_back(market_bars_of(s, "1s"), 999)->ts_close, 5010);
    b.ts_close = 20;
    market_keep_bar(s, "1s", &b);
    ck_assert_uint_eq(market_bars_of(s, "1s")->n, 1);
    ck_assert_ptr_null(market_bars_of(s, "1m"));
    for (int i = 0; i < 3 * MARKET_SPECS; i++) {
        char spec[16];
        snprintf(spec, sizeof spec, "%dm", i + 1);
        market_keep_bar(s, spec, &b);
    }
    ck_assert_uint_eq(s->n_history, MARKET_SPECS);
}
END_TEST

START_TEST(owner_and_session)
{
    struct market_symbol *s = market_add(m, "X");
    struct market_due due[MARKET_DUE_MAX];
    struct market_event ev = trade_at(1500000000, 10, "a");

    ck_assert(market_claim(s, 1, m));
    ck_assert(!market_claim(s, 2, m));
    market_apply(m, s, &ev, "test", &counts);
    ck_assert(market_is_duplicate(s, &ev));
    ck_assert_uint_eq(market_due(m, s, 1999999999, due, &counts), 0);
    ck_assert_uint_eq(market_due(m, s, 2000000000, due, &counts), 1);
    ck_assert_int_eq(due[0].bar.ts_close, 2000000000);
    ck_assert_str_eq(due[0].spec, "1s");
    ev = trade_at(2500000000, 10, "b");
    ck_assert(!market_is_duplicate(s, &ev));
    market_apply(m, s, &ev, "test", &counts);
    market_release(m, 1);
    /* The bar that was open when its feed ended is gone. */
    ck_assert_uint_eq(market_due(m, s, 9000000000, due, &counts), 0);
    ck_assert(market_claim(s, 2, m));
    ck_assert(!s->has_trade && !s->day.has_price);
}
END_TEST

START_TEST(day_statistics)
{
    struct market_symbol *s = market_add(m, "X");
    const int64_t day = 86400000000000;
    struct market_event ev[] = {trade_at(day, 10, NULL), trade_at(day + 1, 13, NULL), trade_at(day + 2, 9, NULL),
                                trade_at(2 * day, 20, NULL)};

    for (int i = 0; i < 3; i++)
        market_apply(m, s, &ev[i], "test", &counts);
    ck_assert_int_eq(s->day.open, 10 * KEEL_SCALE);
    ck_assert_int_eq(s->day.high, 13 * KEEL_SCALE);
    ck_assert_int_eq(s->day.low, 9 * KEEL_SCALE);
    ck_assert_int_eq(s->day.close, 9 * KEEL_SCALE);
    ck_assert_int_eq(s->day.trades, 3);
    ck_assert(s->day.notional == 32 * (keel_i128)KEEL_SCALE);
    market_apply(m, s, &ev[3], "test", &counts);
    ck_assert_int_eq(s->day.open, 20 * KEEL_SCALE);
    ck_assert_int_eq(s->day.trades, 1);
}
END_TEST

/* A book is shown when its state turns, else at most every 100 ms, and never loses its last change. */
START_TEST(book_is_conflated)
{
    struct market_symbol *s = market_add(m, "X");
    struct book_level bid = {100, 1}, ask = {101, 1};
    struct market_event ev = {.ts_init = 1000000000, .kind = MARKET_DEPTH, .symbol = "X",
                              .u.depth = {.snapshot = true, .bids = &bid, .asks = &ask, .n_bids = 1, .n_asks = 1}};
    struct market_due due;

    market_apply(m, s, &ev, "test", &counts);
    ck_assert_uint_eq(market_due_book(m, s, ev.ts_init, &due), 1);
    ck_assert_uint_eq(market_due_book(m, s, ev.ts_init, &due), 0);
    ev.u.depth.snapshot = false;
    for (int i = 1; i <= 99; i++) {
        bid.qty = i;
        ev.ts_init = 1000000000 + i * 1000000;
        market_apply(m, s, &ev, "test", &counts);
        ck_assert_uint_eq(market_due_book(m, s, ev.ts_init, &due), 0);
    }
    ck_assert_uint_eq(market_due_book(m, s, 1100000000, &due), 1);
    ck_assert_int_eq(s->book_init, 1099000000);
    /* Silent for 30 s: STALE, shown at once and once. */
    ck_assert_uint_eq(market_due_book(m, s, 31098999999, &due), 0);
    ck_assert_uint_eq(market_due_book(m, s, 31099000000, &due), 1);
    ck_assert_int_eq(s->book.state, BOOK_STALE);
    ck_assert_uint_eq(market_due_book(m, s, 90000000000, &due), 0);
    bid.price = 102;
    ev.ts_init = 31099000001;
    market_apply(m, s, &ev, "test", &counts);
    ck_assert_int_eq(s->book.state, BOOK_DESYNC);
    ck_assert_uint_eq(market_due_book(m, s, ev.ts_init, &due), 1);
    ck_assert_uint_eq(counts.crossed, 1);
}
END_TEST

/* 10 records a second for 100 s, then one every 8 s: a collapse, though the feed is up. */
START_TEST(rate_collapse)
{
    struct market_event ev = {.ts_init = 1, .ts_event = 1, .kind = MARKET_DEPTH, .symbol = "X"};
    struct market_symbol *s = market_add(m, "X");

    for (int i = 0; i < 1000; i++) {
        ev.ts_init = ev.ts_event = 1 + i * 100000000LL;
        market_count(s, &ev, &counts);
    }
    ck_assert_uint_eq(counts.rate_collapses, 0);
    for (int i = 0; i < 5; i++) {
        ev.ts_init += 8000000000;
        ev.ts_event = ev.ts_init + 5;
        market_count(s, &ev, &counts);
    }
    ck_assert_uint_ge(counts.rate_collapses, 2);
    ck_assert_int_eq(counts.least_delay_ns, -5);
    ev.ts_event = 3;
    market_count(s, &ev, &counts);
    ck_assert_uint_eq(counts.out_of_order, 1);
}
END_TEST

/* ---- the engine ---- */

static char dir[64];
static struct keel_arena *arena;
static struct keel_rt *rt;

static const char *shared_data(void)
{
    static char path[1024];
    const char *root = getenv("KEEL_SHARED");

    snprintf(path, sizeof path, "%s/data", root != NULL ? root : "../shared");
    return path;
}

static void start(void)
{
    char err[300] = "", arg[6][1100] = {"marketdata-engine", "--data-dir", "", "--redis-url=", "--feed-dirs", ""};
    char *argv[] = {arg[0], arg[1], arg[2], arg[3], arg[4], arg[5], NULL};

    snprintf(arg[2], sizeof arg[2], "%s", dir);
    snprintf(arg[5], sizeof arg[5], "%s", shared_data());
    rt = keel_rt_new(&marketdata_engine, 6, argv, err, sizeof err);
    ck_assert_msg(rt != NULL, "%s", err);
}

static void engine_setup(void)
{
    snprintf(dir, sizeof dir, "/tmp/keel-md-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    arena = keel_arena_new(1 << 16);
    start();
}

static void engine_teardown(void)
{
    keel_rt_free(rt);
    keel_arena_free(arena);
    tree_remove(dir);
}

static const struct keel_jval *ask(const char *method, const char *path, const char *body, int http)
{
    const struct keel_jval *v = NULL;
    const char *answer = NULL, *why = "";
    int got = keel_loopback(rt, method, path, body, arena, &answer);

    ck_assert_msg(got == http, "%s %s: %d, not %d: %s", method, path, got, http, answer);
    ck_assert_msg(keel_json_parse(arena, answer, strlen(answer), &v, &why) == KEEL_OK, "%s: %s", path, why);
    return v;
}

/* Member by dotted path; its text ("true", "false", "null" too). */
static const char *text(const struct keel_jval *v, const char *path)
{
    char name[64];

    for (; *path != '\0' && v != NULL;) {
        size_t n = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        if (v->type == KEEL_JARR) {
            long i = strtol(name, NULL, 10);
            for (v = v->child; v != NULL && i > 0; i--)
                v = v->next;
        } else {
            v = keel_jget(v, name);
        }
        path += n + (path[n] == '.');
    }
    if (v == NULL)
        return "(none)";
    if (v->type == KEEL_JNULL)
        return "null";
    if (v->type == KEEL_JBOOL)
        return v->boolean ? "true" : "false";
    return v->text != NULL ? v->text : "(tree)";
}

#define SAYS(v, path, want)                                                                                          \
    ck_assert_msg(strcmp(text(v, path), want) == 0, "%s is %s, not %s", path, text(v, path), want)

/* Until the feed is over; its last answer. */
static const struct keel_jval *follow(const char *feed_id)
{
    const char *path = keel_arena_printf(arena, "/feeds/%s", feed_id);
    const struct keel_jval *v = ask("GET", path, NULL, 200);

    while (strcmp(text(v, "state"), "STARTED") == 0) {
        uv_run(rt->loop, UV_RUN_ONCE);
        v = ask("GET", path, NULL, 200);
    }
    while (keel_store_queued(rt->store) > 0) /* bars are read from the file */
        uv_run(rt->loop, UV_RUN_ONCE);
    return v;
}

static bool have(const char *what)
{
    const char *path = keel_arena_printf(arena, "%s/%s", shared_data(), what);
    struct stat st;

    if (stat(path, &st) == 0)
        return true;
    ck_assert_msg(getenv("CI") == NULL, "%s is missing", path);
    printf("skipped: %s is not there\n", path);
    return false;
}

static const struct keel_jval *replay(const char *id, const char *what)
{
    ask("POST", "/feeds", keel_arena_printf(arena, "{\"kind\":\"replay\",\"feed_id\":\"%s\",\"path\":\"%s/%s\"}", id,
                                            shared_data(), what), 200);
    return follow(id);
}

START_TEST(binance_session)
{
    const struct keel_jval *v;

    if (!have("binance_ws/usdm/btcusdt_20240808.gz"))
        return;
    v = replay("b", "binance_ws/usdm/btcusdt_20240808.gz");
    SAYS(v, "state", "COMPLETED");
    SAYS(v, "format", "binance");
    SAYS(v, "records", "93954");
    SAYS(v, "bad_records", "0");
    SAYS(v, "quotes", "66089");
    SAYS(v, "trades", "21313");
    SAYS(v, "trade_volume", "2429.366");
    SAYS(v, "book_updates_applied", "6547");
    SAYS(v, "sequence_gaps", "0");
    SAYS(v, "progress", "1");
    SAYS(v, "symbols.BTCUSDT.best_bid", "61659.7");
    SAYS(v, "symbols.BTCUSDT.best_ask", "61659.8");
    v = ask("GET", "/orderbook/btcusdt?depth=1", NULL, 200);
    SAYS(v, "bids.0.0", "61659.7");
    SAYS(v, "asks.0.0", "61659.8");
    SAYS(v, "bid_levels", "5018");
    /* 23:54:15 to 23:59:59.8: the bars of five minutes are over, the sixth was not. */
    v = ask("GET", "/bars/BTCUSDT?spec=1m", NULL, 200);
    SAYS(v, "count", "5");
    SAYS(v, "bars.4.ts_close", "2024-08-08T23:55:00.000000000Z");
    v = ask("GET", "/bars/BTCUSDT?spec=1m&limit=2", NULL, 200);
    v = ask("GET", keel_arena_printf(arena, "/bars/BTCUSDT?limit=100&after=%s", text(v, "next")), NULL, 200);
    SAYS(v, "count", "3");
}
END_TEST

START_TEST(lean_session)
{
    const struct keel_jval *v;

    if (!have("lean_us_equity_minute"))
        return;
    v = replay("l", "lean_us_equity_minute");
    SAYS(v, "state", "COMPLETED");
    SAYS(v, "quotes", "11852");
    SAYS(v, "bars", "9963");
    SAYS(v, "bad_records", "0");
    SAYS(v, "trades", "0");
    v = ask("GET", "/symbols?limit=2", NULL, 200);
    SAYS(v, "symbols.0.symbol", "AIG");
    SAYS(v, "next", "IBM");
    v = ask("GET", "/symbols?after=IBM", NULL, 200);
    SAYS(v, "symbols.0.symbol", "SPY");
    ask("GET", "/orderbook/SPY", NULL, 404);
    v = ask("POST", "/feeds/sniff",
            keel_arena_printf(arena, "{\"path\":\"%s/lean_us_equity_minute\"}", shared_data()), 200);
    SAYS(v, "bar_spec", "1m");
}
END_TEST

#define SIM(id, seed) "{\"kind\":\"simulate\",\"feed_id\":\"" id "\",\"seed\":" seed ",\"duration_s\":120,\"speed\":0}"

/* Bars and all, the same seed gives the same session; the bars that end with it are closed. */
START_TEST(simulated_session)
{
    const char *one, *two, *three, *book_one, *book_two, *answer;
    const struct keel_jval *v;

    ask("POST", "/feeds", SIM("s1", "7"), 200);
    v = follow("s1");
    SAYS(v, "state", "COMPLETED");
    SAYS(v, "sequence_gaps", "0");
    SAYS(v, "ts_first", "2026-01-02T14:30:00.000000000Z");
    keel_loopback(rt, "GET", "/bars/ETHUSDT?spec=1s&limit=1000", NULL, arena, &one);
    keel_loopback(rt, "GET", "/orderbook/ETHUSDT", NULL, arena, &book_one);
    v = ask("GET", "/bars/ETHUSDT?spec=1m", NULL, 200);
    SAYS(v, "count", "2");
    ask("POST", "/feeds", SIM("s2", "7"), 200);
    follow("s2");
    keel_loopback(rt, "GET", "/bars/ETHUSDT?spec=1s&limit=1000", NULL, arena, &two);
    keel_loopback(rt, "GET", "/orderbook/ETHUSDT", NULL, arena, &book_two);
    ck_assert_str_eq(one, two);
    ck_assert_str_eq(book_one, book_two);
    ask("POST", "/feeds", SIM("s3", "8"), 200);
    follow("s3");
    keel_loopback(rt, "GET", "/bars/ETHUSDT?spec=1s&limit=1000", NULL, arena, &three);
    ck_assert_str_ne(one, three);
    v = ask("GET", "/feeds?limit=2", NULL, 200);
    SAYS(v, "feeds.0.feed_id", "s3");
    SAYS(v, "next", "s2");
    v = ask("GET", "/feeds?after=s2", NULL, 200);
    SAYS(v, "feeds.0.feed_id", "s1");
    SAYS(v, "next", "null");
    ck_assert_int_eq(keel_loopback(rt, "GET", "/symbols/ethusdt/snapshot", NULL, arena, &answer), 200);
    ck_assert_int_eq(keel_loopback(rt, "POST", "/symbols/ethusdt/snapshot", NULL, arena, &answer), 200);
}
END_TEST

START_TEST(one_feed_a_symbol)
{
    const struct keel_jval *v;

    ask("POST", "/feeds", "{\"kind\":\"simulate\",\"feed_id\":\"a\",\"symbols\":[\"btcusdt\",\"ETHUSDT\"]}", 200);
    v = ask("POST", "/feeds", "{\"kind\":\"simulate\",\"symbols\":[\"ETHUSDT\"]}", 409);
    SAYS(v, "code", "owned_by_feed");
    v = ask("POST", "/feeds", "{\"kind\":\"simulate\",\"feed_id\":\"a\",\"symbols\":[\"SOLUSDT\"]}", 409);
    SAYS(v, "code", "feed_exists");
    v = ask("POST", "/data/ingest", "{\"data\":[{\"symbol\":\"BTCUSDT\",\"data_type\":\"trade\",\"timestamp\":1,"
                                    "\"data\":{\"price\":1,\"size\":1}}]}", 422);
    SAYS(v, "code", "all_rejected");
    SAYS(v, "rejected.0.code", "owned_by_feed");
    v = ask("DELETE", "/feeds/a", NULL, 200);
    SAYS(v, "state", "STOPPED");
    ask("POST", "/feeds", "{\"kind\":\"simulate\",\"symbols\":[\"ETHUSDT\"],\"duration_s\":1,\"speed\":0}", 200);
    ask("DELETE", "/feeds/a", NULL, 200);
    ask("GET", "/feeds/a", NULL, 404);
}
END_TEST

/* A replay shows its symbols as it goes: the first that another feed runs on ends it. */
START_TEST(replay_into_a_running_feed)
{
    const struct keel_jval *v;
    char path[200];
    FILE *f;

    snprintf(path, sizeof path, "%s/t.csv", dir);
    f = fopen(path, "w");
    fputs("date,open,high,low,close,volume,symbol\n2020-01-02,1,1,1,1,1,AAA\n2020-01-02,1,1,1,1,1,BTCUSDT\n", f);
    fclose(f);
    ask("POST", "/feeds", "{\"kind\":\"simulate\",\"feed_id\":\"a\",\"symbols\":[\"BTCUSDT\"]}", 200);
    ask("POST", "/feeds", keel_arena_printf(arena, "{\"path\":\"%s\",\"feed_id\":\"r\"}", path), 200);
    v = follow("r");
    SAYS(v, "state", "FAILED");
    SAYS(v, "detail", "BTCUSDT: another feed runs on it");
    ask("POST", "/feeds", keel_arena_printf(arena, "{\"path\":\"%s\",\"feed_id\":\"q\",\"symbols\":[\"aaa\"]}", path),
        200);
    v = follow("q");
    SAYS(v, "state", "COMPLETED");
    SAYS(v, "bars", "1");
    SAYS(v, "other_records", "1");
}
END_TEST

static const struct { const char *body; int http; const char *code; } feed_case[] = {
    {"{}", 400, "missing"},
    {"{\"kind\":\"replay\"}", 400, "missing"},
    {"{\"kind\":\"simulate\",\"speed\":0}", 400, "missing"},
    {"{\"kind\":\"simulate\",\"symbols\":[\"AAPL\"]}", 404, "notfound"},
    {"{\"kind\":\"simulate\",\"symbols\":[\"BTCUSDT\",\"btcusdt\"]}", 400, "out_of_range"},
    {"{\"kind\":\"simulate\",\"symbols\":[\"no good\"]}", 400, "bad_symbol"},
    {"{\"kind\":\"simulate\",\"rate\":0}", 400, "out_of_range"},
    {"{\"kind\":\"simulate\",\"feed_id\":\"a/b\"}", 400, "out_of_range"},
    {"{\"kind\":\"simulate\",\"colour\":1}", 400, "unknown_field"},
    {"{\"path\":\"/etc/passwd\"}", 403, "path_forbidden"},
    {"{\"path\":\"/etc/not/there\"}", 403, "path_forbidden"},
    {"{\"path\":\"relative\"}", 403, "path_forbidden"},
};

START_TEST(feeds_refused)
{
    SAYS(ask("POST", "/feeds", feed_case[_i].body, feed_case[_i].http), "code", feed_case[_i].code);
    SAYS(ask("GET", "/feeds", NULL, 200), "count", "0");
}
END_TEST

START_TEST(paths)
{
    const struct keel_jval *v;
    char link[200];

    v = ask("POST", "/feeds", keel_arena_printf(arena, "{\"path\":\"%s/none.csv\"}", dir), 404);
    SAYS(v, "field", "path");
    v = ask("POST", "/feeds", keel_arena_printf(arena, "{\"path\":\"%s/../%s/../../etc/passwd\"}", dir, dir + 5), 403);
    /* A link inside that leads outside is outside. */
    snprintf(link, sizeof link, "%s/link", dir);
    ck_assert_int_eq(symlink("/etc/passwd", link), 0);
    ask("POST", "/feeds", keel_arena_printf(arena, "{\"path\":\"%s\"}", link), 403);
    /* A directory of the same beginning is another directory. */
    ask("POST", "/feeds", keel_arena_printf(arena, "{\"path\":\"%s-evil\"}", dir), 403);
}
END_TEST

/* The body and the answer of bodies.md. */
START_TEST(ingest_of_the_first_version)
{
    const struct keel_jval *v = ask(
        "POST", "/data/ingest",
        "{\"data\":[{\"symbol\":\"btcusdt\",\"data_type\":\"quote\",\"source\":\"internal\","
        "\"timestamp\":\"2024-11-22T17:51:04.120000000Z\",\"latency_ms\":1.2,"
        "\"data\":{\"bid\":61659.7,\"bid_size\":2.311,\"ask\":\"61659.8\",\"ask_size\":\"0.874\",\"venue\":\"x\"}},"
        "{\"symbol\":\"BTCUSDT\",\"data_type\":\"trade\",\"source\":\"internal\","
        "\"timestamp\":\"2024-11-22T17:51:04.121\","
        "\"data\":{\"price\":-1,\"size\":0.5}}]}",
        200);

    SAYS(v, "status", "partial");
    SAYS(v, "count", "1");
    SAYS(v, "total_stored", "1");
    SAYS(v, "rejected.0.index", "1");
    SAYS(v, "rejected.0.code", "out_of_range");
    SAYS(v, "rejected.0.field", "price");
    SAYS(v, "rejected.0.detail", "price must be > 0");
    SAYS(v, "rejected.1", "(none)");
    SAYS(v, "ignored.0", "venue");
    v = ask("GET", "/data/BTCUSDT?data_type=quote", NULL, 200);
    SAYS(v, "count", "1");
    SAYS(v, "data.0.timestamp", "2024-11-22T17:51:04.120000000Z");
    SAYS(v, "data.0.data.bid", "61659.7");
    SAYS(v, "data.0.source", "internal");
    SAYS(ask("GET", "/data/BTCUSDT?data_type=trade", NULL, 200), "count", "0");
    SAYS(ask("GET", "/data/BTCUSDT?from=2024-11-22T17:51:04.121Z", NULL, 200), "count", "0");
    SAYS(ask("GET", "/data/BTCUSDT?to=2024-11-22T17:51:04.121Z", NULL, 200), "count", "1");
    SAYS(ask("GET", "/symbols/BTCUSDT/snapshot", NULL, 200), "quote.ask", "61659.8");
    ask("GET", "/data/NOPE", NULL, 404);
}
END_TEST

#define ITEM(type, data) "{\"symbol\":\"X\",\"data_type\":\"" type "\",\"timestamp\":5,\"data\":" data "}"
static const struct { const char *item, *code, *field; } item_case[] = {
    {ITEM("trade", "{\"price\":1,\"size\":1}"), NULL, NULL},
    {ITEM("tick", "{\"price\":\"1.5\",\"size\":1,\"side\":\"SELL\",\"trade_id\":\"7\"}"), NULL, NULL},
    {ITEM("trade", "{\"price\":1}"), "missing", "size"},
    {ITEM("trade", "{\"price\":1,\"size\":0}"), "out_of_range", "size"},
    {ITEM("trade", "{\"price\":1e300,\"size\":1}"), "inexact", "price"},
    {ITEM("trade", "{\"price\":1.0000000001,\"size\":1}"), "inexact", "price"},
    {ITEM("trade", "{\"price\":[],\"size\":1}"), "wrong_type", "price"},
    {ITEM("quote", "{\"bid\":2,\"bid_size\":1,\"ask\":1,\"ask_size\":1}"), "crossed", "bid"},
    {ITEM("quote", "{\"bid\":1,\"bid_size\":1,\"ask\":1,\"ask_size\":0}"), NULL, NULL},
    {ITEM("quote", "{\"bid\":1,\"bid_size\":-1,\"ask\":1,\"ask_size\":0}"), "out_of_range", "bid_size"},
    {ITEM("bar", "{\"spec\":\"1m\",\"open\":1,\"high\":2,\"low\":1,\"close\":2,\"volume\":3}"), NULL, NULL},
    {ITEM("bar", "{\"spec\":\"1m\",\"open\":1,\"high\":2,\"low\":1,\"close\":3,\"volume\":3}"), "out_of_range",
     "high"},
    {ITEM("bar", "{\"spec\":\"soon\",\"open\":1,\"high\":2,\"low\":1,\"close\":2,\"volume\":3}"), "out_of_range",
     "spec"},
    {ITEM("bar", "{\"spec\":\"1m\",\"open\":1,\"high\":2,\"low\":1,\"close\":2,\"volume\":-3}"), "out_of_range",
     "volume"},
    {ITEM("level2", "{\"snapshot\":true,\"bids\":[[1,2]],\"asks\":[[2,2]]}"), NULL, NULL},
    {ITEM("level2", "{\"snapshot\":true,\"bids\":[[3,2]],\"asks\":[[2,2]]}"), "crossed", "bids"},
    {ITEM("level2", "{\"snapshot\":true,\"bids\":[[0,2]],\"asks\":[[2,2]]}"), "out_of_range", "bids"},
    {ITEM("level2", "{\"first_seq\":3,\"bids\":[],\"asks\":[]}"), "missing", "last_seq"},
    {ITEM("news", "{}"), "unsupported", "data_type"},
    {"{\"symbol\":\"X\",\"data_type\":\"trade\",\"data\":{\"price\":1,\"size\":1}}", "missing", "timestamp"},
    {"{\"symbol\":\"X\",\"data_type\":\"trade\",\"timestamp\":\"soon\",\"data\":{}}", "wrong_type", "timestamp"},
    {"{\"symbol\":\"X\",\"data_type\":\"trade\",\"timestamp\":\"2200-01-01T00:00:00Z\",\"data\":{}}",
     "ahead_of_clock", "timestamp"},
    {"{\"symbol\":\"X\",\"data_type\":\"trade\",\"timestamp\":5}", "missing", "data"},
    {"{\"symbol\":\"X\",\"timestamp\":5,\"data\":{}}", "missing", "data_type"},
    {"{\"data_type\":\"trade\",\"timestamp\":5,\"data\":{}}", "missing", "symbol"},
    {"{\"symbol\":\"no good\",\"data_type\":\"trade\",\"timestamp\":5,\"data\":{}}", "bad_symbol", "symbol"},
    {"{\"symbol\":\"X\",\"data_type\":\"trade\",\"timestamp\":5,\"colour\":1,\"data\":{}}", "unknown_field",
     "colour"},
    {"7", "wrong_type", "data"},
};

START_TEST(ingest_items)
{
    const char *body = keel_arena_printf(arena, "{\"data\":[%s]}", item_case[_i].item);
    const struct keel_jval *v = ask("POST", "/data/ingest", body, item_case[_i].code == NULL ? 200 : 422);

    SAYS(v, "status", item_case[_i].code == NULL ? "ingested" : "422");
    if (item_case[_i].code != NULL) {
        SAYS(v, "code", "all_rejected");
        SAYS(v, "rejected.0.code", item_case[_i].code);
        SAYS(v, "rejected.0.field", item_case[_i].field);
    }
}
END_TEST

START_TEST(ingest_bounds)
{
    const char *item = ITEM("trade", "{\"price\":1,\"size\":1}");
    size_t n = strlen(item), at;
    char *body = malloc(5002 * (n + 1) + 32);
    const struct keel_jval *v;

    /* The bounds are looked at, not the speed of a sanitizer: plain engines have a budget of 30 s for everything. */
    keel_rt_free(rt);
    setenv("ENABLE_HYBRID", "false", 1);
    start();
    unsetenv("ENABLE_HYBRID");
    for (int k = 5000; k <= 5001; k++) {
        at = (size_t)snprintf(body, 32, "{\"data\":[");
        for (int i = 0; i < k; i++) {
            memcpy(body + at, item, n);
            body[at + n] = i == k - 1 ? ']' : ',';
            at += n + 1;
        }
        memcpy(body + at, "}", 2);
        v = ask("POST", "/data/ingest", body, k == 5000 ? 200 : 400);
        if (k == 5000)
            SAYS(v, "count", "5000");
        else
            SAYS(v, "field", "data");
    }
    free(body);
    ask("POST", "/data/ingest", "{\"data\":[]}", 400);
    ask("POST", "/data/ingest", "{\"data\":{}}", 400);
    ask("POST", "/data/ingest", "{}", 400);
}
END_TEST

static void level2(const char *rest, int http)
{
    ask("POST", "/data/ingest",
        keel_arena_printf(arena,
                          "{\"data\":[{\"symbol\":\"L\",\"data_type\":\"level2\",\"timestamp\":5,"
                          "\"data\":{%s}}]}",
                          rest),
        http);
}

START_TEST(book_is_never_served_in_desync)
{
    const struct keel_jval *v;

    level2("\"first_seq\":5,\"last_seq\":6,\"bids\":[[\"10\",\"1\"]],\"asks\":[]", 200);
    SAYS(ask("GET", "/orderbook/L", NULL, 409), "code", "book_syncing");
    level2("\"snapshot\":true,\"last_seq\":4,\"bids\":[[\"9\",\"1\"]],\"asks\":[[\"11\",\"2\"]]", 200);
    v = ask("GET", "/orderbook/l?depth=5", NULL, 200);
    SAYS(v, "state", "LIVE");
    SAYS(v, "last_seq", "6");
    SAYS(v, "bids.0.0", "10");
    SAYS(v, "bids.1.0", "9");
    level2("\"first_seq\":8,\"last_seq\":8,\"bids\":[[\"10\",\"0\"]],\"asks\":[]", 422);
    SAYS(ask("GET", "/orderbook/L", NULL, 409), "code", "book_desync");
    level2("\"snapshot\":true,\"last_seq\":9,\"bids\":[[\"9\",\"1\"]],\"asks\":[[\"11\",\"2\"]]", 200);
    SAYS(ask("GET", "/orderbook/L", NULL, 200), "bids.0.0", "9");
    ask("GET", "/orderbook/L?depth=0", NULL, 400);
}
END_TEST

START_TEST(duplicate_trades)
{
    const char *body = "{\"data\":[" ITEM("trade", "{\"price\":1,\"size\":1,\"trade_id\":\"7\"}") "]}";

    ask("POST", "/data/ingest", body, 200);
    SAYS(ask("POST", "/data/ingest", body, 422), "rejected.0.code", "duplicate");
    SAYS(ask("GET", "/symbols/X/snapshot", NULL, 200), "daily_stats.volume", "1");
}
END_TEST

/* The first version's feed body, and what is counted into it. */
START_TEST(ingest_feed)
{
    const struct keel_jval *v;

    v = ask("POST", "/feeds", "{\"symbol\":\"X\",\"data_source\":\"yahoo\",\"data_types\":[\"tick\"]}", 200);
    SAYS(v, "kind", "ingest");
    ask("POST", "/data/ingest", "{\"data\":[" ITEM("trade", "{\"price\":1,\"size\":3}") "]}", 200);
    v = ask("GET", keel_arena_printf(arena, "/feeds/%s", text(v, "feed_id")), NULL, 200);
    SAYS(v, "trades", "1");
    SAYS(v, "trade_volume", "3");
    SAYS(v, "symbols.X.last", "1");
}
END_TEST

static void truncated_capture(const char *path)
{
    FILE *from, *to;
    char buf[4096];

    from = fopen(keel_arena_printf(arena, "%s/binance_ws/usdm/btcusdt_20240808.gz", shared_data()), "rb");
    to = fopen(path, "wb");
    for (int i = 0; i < 100; i++) {
        size_t n = fread(buf, 1, sizeof buf, from);
        ck_assert_uint_eq(fwrite(buf, 1, n, to), n);
    }
    fclose(from);
    fclose(to);
}

START_TEST(truncated_file)
{
    const struct keel_jval *v;
    const char *path = keel_arena_printf(arena, "%s/cut.gz", dir);

    if (!have("binance_ws/usdm/btcusdt_20240808.gz"))
        return;
    truncated_capture(path);
    ask("POST", "/feeds", keel_arena_printf(arena, "{\"path\":\"%s\",\"feed_id\":\"t\"}", path), 200);
    v = follow("t");
    SAYS(v, "state", "FAILED");
    ck_assert_ptr_nonnull(strstr(text(v, "detail"), "middle of its gzip data"));
    ck_assert_int_gt(strtol(text(v, "trades"), NULL, 10), 1000);
    SAYS(v, "data_sha256", "null");
}
END_TEST

#define MINUTE "{\"data\":[" ITEM("bar", "{\"spec\":\"1m\",\"open\":1,\"high\":2,\"low\":1,\"close\":2,\"volume\":3}") "]}"

/* Instruments and minute bars outlive the process. */
START_TEST(restart)
{
    const struct keel_jval *v;

    v = ask("GET", "/instruments?symbol=btcusdt", NULL, 200);
    SAYS(v, "instruments.0.tick", "0.1");
    SAYS(v, "instruments.0.fee_taker", "0.0004");
    SAYS(v, "instruments.0.basis", "builtin");
    SAYS(v, "default_instrument.lot", "0.000000001");
    v = ask("POST", "/instruments", "{\"symbol\":\"spy\",\"tick\":\"0.01\",\"lot\":1,\"quote_currency\":\"USD\"}", 200);
    SAYS(v, "symbol", "SPY");
    SAYS(v, "multiplier", "1");
    ask("POST", "/instruments", "{\"symbol\":\"spy\",\"tick\":0}", 400);
    ask("POST", "/data/ingest", MINUTE, 200);
    keel_rt_free(rt);
    start();
    v = ask("GET", "/instruments?symbol=SPY", NULL, 200);
    SAYS(v, "instruments.0.quote_currency", "USD");
    SAYS(v, "instruments.0.tick", "0.01");
    SAYS(v, "instruments.0.basis", "configured");
    v = ask("GET", "/bars/X", NULL, 200);
    SAYS(v, "count", "1");
    SAYS(v, "bars.0.volume", "3");
    SAYS(v, "bars.0.vwap", "null");
}
END_TEST

/* A disk that fails costs the bars of that moment, not the running feed; who ingested them is told. */
START_TEST(failed_commit)
{
    const struct keel_jval *v;

    keel_store_fail_next(keel_store(rt), 1);
    SAYS(ask("POST", "/data/ingest", MINUTE, 503), "code", "store_unavailable");
    SAYS(ask("GET", "/bars/X", NULL, 200), "count", "0");
    ask("POST", "/data/ingest", MINUTE, 200);
    SAYS(ask("GET", "/bars/X", NULL, 200), "count", "1"); /* there when the answer is */

    ask("POST", "/feeds", "{\"kind\":\"simulate\",\"feed_id\":\"a\",\"symbols\":[\"ETHUSDT\"]}", 200);
    keel_store_fail_next(keel_store(rt), 1);
    ask("POST", "/instruments", "{\"symbol\":\"SPY\",\"tick\":\"0.01\"}", 503);
    SAYS(ask("GET", "/feeds/a", NULL, 200), "state", "STARTED");
    v = ask("GET", "/instruments?symbol=SPY", NULL, 200);
    SAYS(v, "instruments.0.basis", "default");
    SAYS(ask("DELETE", "/feeds/a", NULL, 200), "state", "STOPPED");
}
END_TEST

START_TEST(subscriptions)
{
    const struct keel_jval *v = ask("GET", "/subscriptions", NULL, 200);

    SAYS(v, "all_symbols", "true");
    SAYS(v, "subscriptions.3.published", "true");
    v = ask("POST", "/subscriptions", "{\"symbols\":[\"spy\"],\"data_types\":[\"tick\"],\"callback_url\":\"x\"}", 200);
    SAYS(v, "symbols.0", "SPY");
    SAYS(v, "subscriptions.0.published", "false");
    SAYS(v, "subscriptions.1.published", "true");
    SAYS(v, "ignored.0", "callback_url");
    ask("POST", "/subscriptions", "{\"data_types\":[\"smells\"]}", 400);
    SAYS(ask("POST", "/subscriptions", "{}", 200), "all_symbols", "true");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("marketdata");
    TCase *pure = tcase_create("market"), *engine = tcase_create("engine");
    SRunner *sr;
    int bad;

    tcase_add_checked_fixture(pure, market_setup, market_teardown);
    tcase_add_test(pure, table_is_bounded);
    tcase_add_test(pure, ring_keeps_the_newest);
    tcase_add_test(pure, bars_of_another_session);
    tcase_add_test(pure, owner_and_session);
    tcase_add_test(pure, day_statistics);
    tcase_add_test(pure, book_is_conflated);
    tcase_add_test(pure, rate_collapse);
    suite_add_tcase(s, pure);
    tcase_add_checked_fixture(engine, engine_setup, engine_teardown);
    tcase_set_timeout(engine, 100);
    tcase_add_test(engine, binance_session);
    tcase_add_test(engine, lean_session);
    tcase_add_test(engine, simulated_session);
    tcase_add_test(engine, one_feed_a_symbol);
    tcase_add_test(engine, replay_into_a_running_feed);
    tcase_add_loop_test(engine, feeds_refused, 0, KEEL_COUNT(feed_case));
    tcase_add_test(engine, paths);
    tcase_add_test(engine, ingest_of_the_first_version);
    tcase_add_loop_test(engine, ingest_items, 0, KEEL_COUNT(item_case));
    tcase_add_test(engine, ingest_bounds);
    tcase_add_test(engine, book_is_never_served_in_desync);
    tcase_add_test(engine, duplicate_trades);
    tcase_add_test(engine, ingest_feed);
    tcase_add_test(engine, truncated_file);
    tcase_add_test(engine, restart);
    tcase_add_test(engine, failed_commit);
    tcase_add_test(engine, subscriptions);
    suite_add_tcase(s, engine);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    bad = srunner_ntests_failed(sr);
    srunner_free(sr);
    return bad != 0;
}
