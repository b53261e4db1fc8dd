/*
 * The risk engine as a whole, without sockets: calls through the loopback, bus records handed in, the real store in a
 * directory of its own. The pre-trade figures are the examples of bodies.md; the others are worked out beside their
 * tests.
 */
#include <arpa/inet.h>
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "answers.h"
#include "call_priv.h"
#include "handed.h"
#include "keel/clock.h"
#include "ops.h"
#include "tree.h"

#define T0 1767607200000000000LL /* 2026-01-05T10:00:00Z */
#define SECOND 1000000000LL

static char dir[64];
static struct keel_rt *rt;
static struct keel_arena *arena;
static uint64_t seq;
static int64_t now_ns; /* ts_init of the next record */

static void start(const char *more)
{
    char err[256] = "", data[96], name[] = "risk", redis[] = "--redis-url=", level[] = "--log-level=error",
         strategy[] = "--strategy-url=http://127.0.0.1:9", last[128];

    snprintf(data, sizeof data, "--data-dir=%s/data", dir);
    snprintf(last, sizeof last, "%s", more ? more : "");
    char *argv[] = {name, data, redis, level, strategy, last, NULL};
    rt = keel_rt_new(&risk_engine, more ? 6 : 5, argv, err, sizeof err);
    ck_assert_msg(rt != NULL, "%s", err);
    /* Ticks come when a test says so. */
    keel_timers_stop(rt);
}

static void again(const char *more)
{
    keel_rt_free(rt);
    start(more);
}

static void setup(void)
{
    snprintf(dir, sizeof dir, "/tmp/keel-risk-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    arena = keel_arena_new(1 << 20);
    seq = 0;
    now_ns = T0;
    setenv("ENABLE_HYBRID", "false", 1); /* no deadline of ours: a commit takes what the disk takes */
    start(NULL);
}

static void teardown(void)
{
    keel_rt_free(rt);
    rt = NULL;
    keel_arena_free(arena);
    tree_remove(dir);
}

static struct risk_engine_state *state(void)
{
    return keel_state(rt);
}

/* ---- asking ---- */

struct reply { bool done; int http; const char *body; };

static void on_answer(void *ctx, const struct keel_answer *ans)
{
    struct reply *r = ctx;

    *r = (struct reply){true, ans->http, keel_arena_strndup(arena, ans->body, ans->len)};
}

/* As the loopback, with any scope. */
static struct reply ask_as(enum keel_scope scope, const char *method, const char *path, const char *body)
{
    struct reply r = {0};
    struct keel_route route = {0};
    struct keel_request rq = {.method = method, .path = path, .body = body, .body_len = strlen(body), .scope = scope,
                              .arrived_ns = keel_mono_ns()};

    ck_assert(keel_route_find(rt, arena, method, path, &route) && route.op);
    rq.params = route.params;
    rq.n_params = route.n_params;
    keel_call_http(rt, route.op, &rq, on_answer, &r);
    while (!r.done)
        uv_run(rt->loop, UV_RUN_ONCE);
    return r;
}

static const struct keel_jval *ask_at(int line, int http, const char *method, const char *path, const char *body)
{
    const char *answer = NULL;
    int got = keel_loopback(rt, method, path, body, arena, &answer);

    ck_assert_msg(got == http, "line %d: %s %s: %d, not %d: %s", line, method, path, got, http, answer);
    return answer_parse(arena, answer);
}
#define ASK(http, method, path, body) ask_at(__LINE__, http, method, path, body)

/* Strings as '...', numbers as printed, arrays as [count], objects as {count}. */
#define IS(v, path, want) answer_is(__LINE__, arena, v, path, want)

/* Figures that are doubles. */
static void near(const struct keel_jval *v, const char *path, double want)
{
    const struct keel_jval *f = answer_find(v, path);

    ck_assert_msg(f && f->type == KEEL_JNUM, "%s", path);
    ck_assert_double_eq_tol(strtod(f->text, NULL), want, 1e-9);
}

/* A figure of a simulation: within four of the standard errors that the answer has too. */
static void within(const struct keel_jval *v, const char *name, double want, const char *error)
{
    const struct keel_jval *result = answer_find(v, "var_result"), *f = answer_find(result, name),
                           *e = answer_find(answer_find(result, "standard_error"), error);

    ck_assert_msg(f && f->type == KEEL_JNUM && e && e->type == KEEL_JNUM, "%s", name);
    ck_assert_double_gt(strtod(e->text, NULL), 0);
    ck_assert_double_eq_tol(strtod(f->text, NULL), want, 4 * strtod(e->text, NULL));
}

/* The check of one limit in a decision. */
static const struct keel_jval *check_of(const struct keel_jval *v, const char *limit_id)
{
    for (const struct keel_jval *k = answer_find(v, "decision.checks")->child; k; k = k->next)
        if (strcmp(keel_jstr(k, "limit_id"), limit_id) == 0)
            return k;
    ck_abort_msg("no check of %s", limit_id);
    return NULL;
}

/* ---- records and ticks ---- */

static enum keel_status record_of(const char *op_id, const char *payload)
{
    return handed_record(rt, op_id, "main", ++seq, now_ns, payload);
}

static void record(const char *op_id, const char *payload)
{
    ck_assert_int_eq(record_of(op_id, payload), KEEL_OK);
}

static void tick(const char *op_id)
{
    ck_assert_int_eq(keel_spawn_rt(rt, op_id, NULL), KEEL_OK);
    while (keel_calls_live(rt) > 0)
        uv_run(rt->loop, UV_RUN_ONCE);
}

static void cash(const char *id, const char *amount)
{
    record("adjustment", keel_arena_printf(arena,
                                           "{\"adjustment_id\":\"%s\",\"portfolio_id\":\"main\",\"kind\":\"CASH\","
                                           "\"currency\":\"USDT\",\"cash\":\"%s\"}",
                                           id, amount));
}

static void quote(const char *symbol, const char *bid, const char *ask)
{
    record("quote",
           keel_arena_printf(arena,
                             "{\"symbol\":\"%s\",\"bid\":\"%s\",\"bid_size\":\"1\",\"ask\":\"%s\",\"ask_size\":\"1\"}",
                             symbol, bid, ask));
}

static void order(const char *id, const char *side, const char *quantity, const char *state_name, const char *filled)
{
    record("order", keel_arena_printf(arena,
        "{\"client_order_id\":\"%s\",\"venue\":\"paper\",\"portfolio_id\":\"main\",\"strategy_id\":\"manual\","
        "\"symbol\":\"BTCUSDT\",\"side\":\"%s\",\"order_type\":\"LIMIT\",\"time_in_force\":\"IOC\",\"state\":\"%s\","
        "\"quantity\":\"%s\",\"filled_quantity\":\"%s\",\"price\":\"61660\",\"ts_event\":%lld}",
        id, side, state_name, quantity, filled, (long long)now_ns));
}

static const char *fill_text(const char *trade, const char *id, const char *side, const char *quantity,
                             const char *price, const char *fee, const char *currency)
{
    return keel_arena_printf(arena,
                             "{\"trade_id\":\"%s\",\"client_order_id\":\"%s\",\"strategy_id\":\"manual\",\"venue\":"
                             "\"paper\",\"portfolio_id\":\"main\","
                             "\"symbol\":\"BTCUSDT\",\"side\":\"%s\",\"quantity\":\"%s\",\"price\":\"%s\",\"fee\":{"
                             "\"amount\":\"%s\",\"currency\":\"%s\"},"
                             "\"ts_event\":%lld}",
                             trade, id, side, quantity, price, fee, currency, (long long)now_ns);
}

static void fill(const char *trade, const char *id, const char *side, const char *quantity, const char *price,
                 const char *fee)
{
    record("fill", fill_text(trade, id, side, quantity, price, fee, "USDT"));
}

/* main with a million and the examples' market. */
static void market(void)
{
    cash("entry-1", "1000000");
    quote("BTCUSDT", "61659.7", "61659.8");
}

static const char *order_body(const char *id, const char *side, const char *quantity, const char *price, bool reserve)
{
    const char *limit = price ? keel_arena_printf(arena, "\"order_type\":\"LIMIT\",\"price\":\"%s\"", price)
                              : "\"order_type\":\"MARKET\"";

    return keel_arena_printf(arena,
                             "{\"order\":{\"client_order_id\":\"%s\",\"strategy_id\":\"manual\",\"symbol\":\"BTCUSDT\","
                             "\"side\":\"%s\",\"quantity\":\"%s\",%s},\"reserve\":%s}",
                             id, side, quantity, limit, reserve ? "true" : "false");
}

#define CHECK_MAIN "/risk/critical-check/main"
#define CHECK(id, side, quantity, price, reserve) \
    ASK(200, "POST", CHECK_MAIN, order_body(id, side, quantity, price, reserve))

static const struct keel_jval *report(void)
{
    return ASK(200, "POST", "/risk/report/main", "{}");
}

static void limit(const char *body)
{
    ASK(200, "POST", "/risk/limits", body);
}

#define POS_BTC \
    "{\"limit_id\":\"pos_btc\",\"limit_type\":\"position_size\",\"limit_value\":2,\"enabled\":true,\"symbol\":" \
    "\"BTCUSDT\"}"

/* ---- the check ---- */

START_TEST(unknown_portfolio)
{
    const struct keel_jval *v = CHECK("o1", "BUY", "1", "100", true);

    IS(v, "decision.approved", "false");
    IS(v, "decision.basis", "'live'");
    IS(v, "decision.denials", "[1]");
    IS(v, "decision.denials.0.code", "'UNKNOWN_PORTFOLIO'");
    IS(v, "decision.reserved", "false");
    IS(v, "risk_result.portfolio_value", "null");
    v = ASK(404, "POST", CHECK_MAIN, "{}");
    IS(v, "code", "'unknown_portfolio'");
    ASK(404, "POST", "/risk/report/main", "{}");
    ASK(404, "POST", "/risk/portfolio-var/main", "{}");
    ASK(404, "POST", "/risk/stress-test/main", "{\"scenarios\":[{\"name\":\"down\"}]}");
    ck_assert_uint_eq(state()->n_entries, 0);
    ck_assert_uint_eq(state()->n_portfolios, 0);
    ck_assert_uint_eq(state()->n_symbols, 0);
}
END_TEST

/* bodies.md: arithmetic on what the caller says. 30829.9 + 12000; / 100000; 30829.9 / 42829.9 */
START_TEST(supplied)
{
    const struct keel_jval *v =
        ASK(200, "POST", "/risk/critical-check/nobody",
            "{\"portfolio_value\":100000,\"positions\":[{\"symbol\":\"BTCUSDT\",\"market_value\":30829.9,"
            "\"colour\":\"red\"},{\"symbol\":\"ETHUSDT\",\"market_value\":\"-12000\"}]}");

    IS(v, "risk_result.total_exposure", "42829.9");
    IS(v, "risk_result.portfolio_value", "100000");
    IS(v, "risk_result.leverage", "0.428299");
    IS(v, "risk_result.concentration_ratio", "0.7198219");
    IS(v, "risk_result.var_95", "null");
    IS(v, "risk_result.position_count", "2");
    IS(v, "undefined.var_95", "'supplied positions carry no returns'");
    IS(v, "decision.basis", "'supplied'");
    IS(v, "decision.approved", "false");
    IS(v, "ignored", "[1]");
    /* default_concentration is 0.25 of equity; 0.308299 is more. */
    IS(v, "breaches", "[1]");
    IS(v, "breaches.0.breach_type", "'concentration'");
    IS(v, "breaches.0.current_value", "0.308299");
    IS(v, "breaches.0.limit_value", "0.25");
    ck_assert_uint_eq(state()->n_breaches, 0);
    v = ASK(200, "POST", "/risk/check/nobody", "{\"portfolio_value\":\"1\",\"positions\":[]}");
    IS(v, "risk_result.total_exposure", "0");
    IS(v, "risk_result.critical_path", "false");
}
END_TEST

static const struct { const char *why, *body; int http; const char *code, *field;
} bad_check[] = {
    {"an unknown member", "{\"unheard\":1}", 400, "'unknown_field'", "'unheard'"},
    {"positions without a value", "{\"positions\":[]}", 400, "'missing'", "'portfolio_value'"},
    {"no equity", "{\"portfolio_value\":0}", 400, "'out_of_range'", "'portfolio_value'"},
    {"more than any market", "{\"portfolio_value\":\"2000000000000000000000000\"}", 400, "'out_of_range'",
     "'portfolio_value'"},
    {"a LIMIT order without a price",
     "{\"order\":{\"client_order_id\":\"a\",\"strategy_id\":\"s\",\"symbol\":\"B\",\"side\":\"BUY\","
     "\"quantity\":1}}",
     400, "'missing'", "'order.price'"},
    {"no symbol",
     "{\"order\":{\"client_order_id\":\"a\",\"strategy_id\":\"s\",\"symbol\":\"B C\",\"side\":\"BUY\",\"price\":1,"
     "\"quantity\":1}}",
     400, "'bad_symbol'", "'order.symbol'"},
    {"nothing to do",
     "{\"order\":{\"client_order_id\":\"a\",\"strategy_id\":\"s\",\"symbol\":\"B\",\"side\":\"BUY\",\"price\":1,"
     "\"quantity\":0}}",
     400, "'out_of_range'", "'order.quantity'"},
    {"both forms",
     "{\"portfolio_value\":1,\"order\":{\"client_order_id\":\"a\",\"strategy_id\":\"s\",\"symbol\":\"B\",\"side\":"
     "\"BUY\","
     "\"price\":1,\"quantity\":1}}",
     400, "'conflict'", "'order'"},
};

START_TEST(refused_bodies)
{
    const struct keel_jval *v = ASK(bad_check[_i].http, "POST", CHECK_MAIN, bad_check[_i].body);

    IS(v, "code", bad_check[_i].code);
    IS(v, "field", bad_check[_i].field);
}
END_TEST

START_TEST(the_example)
{
    const struct keel_jval *v;

    market();
    limit(POS_BTC);
    v = CHECK("desk-20261122-0001", "BUY", "0.5", "61660", true);
    IS(v, "status", "'completed'");
    IS(v, "risk_result.total_exposure", "0");
    IS(v, "risk_result.portfolio_value", "1000000");
    IS(v, "risk_result.leverage", "0");
    IS(v, "risk_result.concentration_ratio", "0");
    IS(v, "risk_result.var_95", "null");
    IS(v, "undefined.var_95", "'0 of 60 returns'");
    IS(v, "risk_result.critical_path", "true");
    IS(v, "breaches", "[0]");
    IS(v, "decision.approved", "true");
    IS(v, "decision.trading_state", "'ACTIVE'");
    IS(v, "decision.reserved", "true");
    IS(v, "decision.denials", "[0]");
    IS(check_of(v, "pos_btc"), "limit_type", "'position_size'");
    IS(check_of(v, "pos_btc"), "limit", "'2'");
    IS(check_of(v, "pos_btc"), "value", "'0.5'");
    IS(check_of(v, "pos_btc"), "headroom", "'1.5'");
    IS(check_of(v, "default_notional"), "value", "'30830'");            /* 0.5 at its limit */
    IS(check_of(v, "default_gross"), "value", "'30829.875'");           /* 0.5 at the mark */
    IS(check_of(v, "default_leverage"), "value", "'0.030829875'");
    IS(check_of(v, "default_order_rate"), "value", "'1'");

    order("desk-20261122-0001", "BUY", "0.5", "SUBMITTED", "0");
    fill("PAPER-7781", "desk-20261122-0001", "BUY", "0.5", "61659.8", "12.33196");
    order("desk-20261122-0001", "BUY", "0.5", "FILLED", "0.5");
    v = CHECK("desk-2", "BUY", "2", "61660", true);
    IS(v, "decision.approved", "false");
    IS(v, "decision.reserved", "false");
    IS(v, "decision.denials.0.code", "'NOTIONAL'");
    IS(v, "decision.denials.1.limit_id", "'pos_btc'");
    ASK(200, "DELETE", "/risk/limits?limit_id=default_notional", NULL);
    ASK(200, "DELETE", "/risk/limits?limit_id=default_concentration", NULL);
    v = CHECK("desk-2", "BUY", "2", "61660", false);
    IS(v, "decision.denials", "[1]");
    IS(v, "decision.denials.0.code", "'POSITION_SIZE'");
    IS(v, "decision.denials.0.limit_id", "'pos_btc'");
    IS(v, "decision.denials.0.limit", "'2'");
    IS(v, "decision.denials.0.value", "'2.5'");
    IS(v, "decision.denials.0.headroom", "'-0.5'");
    v = ASK(200, "POST", CHECK_MAIN, "{}");
    IS(v, "risk_result.total_exposure", "30829.875");
    IS(v, "risk_result.portfolio_value", "999987.64304");
    IS(v, "risk_result.position_count", "1");
    IS(v, "decision", "absent");
}
END_TEST

START_TEST(a_reservation_is_held_once)
{
    const struct keel_jval *v;
    const char *body = order_body("r1", "BUY", "0.5", "61660", true);

    market();
    limit(POS_BTC);
    for (int i = 0; i < 3; i++) {
        v = ASK(200, "POST", CHECK_MAIN, body);
        IS(v, "decision.approved", "true");
        IS(v, "decision.reserved", "true");
        IS(check_of(v, "pos_btc"), "value", "'0.5'");
        IS(check_of(v, "default_order_rate"), "value", "'1'");
    }
    IS(report(), "reservations", "1");
    v = CHECK("r2", "BUY", "1.6", "61660", false);
    IS(check_of(v, "pos_btc"), "value", "'2.1'");
    IS(v, "decision.reserved", "false");
    ck_assert_uint_eq(state()->n_entries, 1);

    /* Another body under its id; the symbol's case is none. */
    v = ASK(409, "POST", CHECK_MAIN, order_body("r1", "BUY", "0.6", "61660", true));
    IS(v, "code", "'idempotency_conflict'");
    ASK(409, "POST", CHECK_MAIN, order_body("r1", "SELL", "0.5", "61660", true));
    ASK(409, "POST", CHECK_MAIN, order_body("r1", "BUY", "0.5", NULL, true));
    ASK(409, "POST", "/risk/critical-check/other", body);
    ASK(200, "POST", CHECK_MAIN,
        "{\"order\":{\"client_order_id\":\"r1\",\"strategy_id\":\"manual\",\"symbol\":\"btcusdt\","
        "\"side\":\"BUY\",\"quantity\":0.5,\"price\":61660.0},\"reserve\":true}");

    /* It outlives the process. */
    again(NULL);
    quote("BTCUSDT", "61659.7", "61659.8");
    IS(report(), "reservations", "1");
    v = ASK(200, "POST", CHECK_MAIN, body);
    IS(check_of(v, "pos_btc"), "value", "'0.5'");

    /* Partly filled, it still counts once: 0.2 here, 0.3 to come. */
    order("r1", "BUY", "0.5", "SUBMITTED", "0");
    fill("t1", "r1", "BUY", "0.2", "61660", "0");
    v = ASK(200, "POST", CHECK_MAIN, body);
    IS(check_of(v, "pos_btc"), "value", "'0.5'");
    order("r1", "BUY", "0.5", "CANCELED", "0.2");
    v = ASK(409, "POST", CHECK_MAIN, body);
    IS(v, "code", "'order_ended'");
    IS(report(), "reservations", "0");
    IS(report(), "open_orders", "0");
    again(NULL);
    ASK(409, "POST", CHECK_MAIN, body);
}
END_TEST

START_TEST(a_commit_that_fails_reserves_nothing)
{
    const struct keel_jval *v;

    market();
    keel_store_fail_next(keel_store(rt), 1);
    v = ASK(503, "POST", CHECK_MAIN, order_body("f1", "BUY", "0.5", "61660", true));
    IS(v, "code", "'store_unavailable'");
    while (state()->n_entries > 0)
        uv_run(rt->loop, UV_RUN_ONCE);
    quote("BTCUSDT", "61659.7", "61659.8");
    IS(report(), "reservations", "0");
    IS(report(), "cash", "'1000000'");
    v = CHECK("f1", "BUY", "0.5", "61660", true);
    IS(v, "decision.reserved", "true");
    IS(check_of(v, "default_order_rate"), "value", "'1'");
    IS(report(), "reservations", "1");
}
END_TEST

START_TEST(many_orders_come_and_go)
{
    market();
    limit("{\"limit_id\":\"default_order_rate\",\"limit_type\":\"order_rate\",\"limit_value\":1024}");
    for (int i = 0; i < 200; i++) {
        const char *id = keel_arena_printf(arena, "m%d", i);
        IS(CHECK(id, "BUY", "0.001", "61660", true), "decision.approved", "true");
    }
    ck_assert_uint_eq(state()->n_entries, 200);
    for (int i = 0; i < 200; i += 2)
        order(keel_arena_printf(arena, "m%d", i), "BUY", "0.001", "CANCELED", "0");
    ck_assert_uint_eq(state()->n_entries, 100);
    for (int i = 0; i < 200; i++) {
        const struct risk_entry *e = risk_find_entry(state(), keel_arena_printf(arena, "m%d", i));
        ck_assert_msg((e != NULL) == (i % 2 == 1), "m%d", i);
        ck_assert(!e || strcmp(e->id, keel_arena_printf(arena, "m%d", i)) == 0);
    }
    IS(check_of(CHECK("m200", "SELL", "0.001", "61660", false), "default_gross"), "value",
       "'6165.975'"); /* 0.1 of buys */
}
END_TEST

START_TEST(no_more_than_max_orders)
{
    const struct keel_jval *v;

    again("--max-orders=16");
    market();
    for (int i = 0; i < 16; i++)
        CHECK(keel_arena_printf(arena, "x%d", i), "BUY", "0.001", "61660", true);
    v = ASK(503, "POST", CHECK_MAIN, order_body("x16", "BUY", "0.001", "61660", true));
    IS(v, "detail", "'max_orders hold headroom already'");
    CHECK("x3", "BUY", "0.001", "61660", true);
    order("x7", "BUY", "0.001", "REJECTED", "0");
    CHECK("x16", "BUY", "0.001", "61660", true);
}
END_TEST

/* ---- orders and fills ---- */

START_TEST(fills_in_any_order)
{
    const struct keel_jval *v;

    market();
    /* A fill of an order that nobody told of: how much more of it may come is unknown, so nothing may be added. */
    fill("t1", "u1", "BUY", "0.2", "60000", "1");
    v = CHECK("n1", "BUY", "0.1", "61660", false);
    IS(v, "decision.approved", "false");
    IS(v, "decision.denials.0.code", "'LIMIT_UNDEFINED'");
    v = report();
    IS(v, "positions.0.quantity", "'0.2'");
    IS(v, "worst_gross_exposure", "null");
    IS(v, "gross_exposure", "'12331.95'"); /* 0.2 * 61659.75 */
    IS(v, "cash", "'987999'");             /* 1000000 - 0.2 * 60000 - 1 */
    again(NULL);
    quote("BTCUSDT", "61659.7", "61659.8");
    IS(report(), "worst_gross_exposure", "null");
    /* Its record tells: 0.3 in all. */
    order("u1", "BUY", "0.3", "PARTIALLY_FILLED", "0.2");
    v = CHECK("n1", "BUY", "0.1", "61660", false);
    IS(v, "decision.approved", "true");
    IS(check_of(v, "default_gross"), "value", "'24663.9'"); /* 0.4 * 61659.75 */
    /* The end before the last fill. */
    order("u1", "BUY", "0.3", "FILLED", "0.3");
    IS(report(), "worst_gross_exposure", "'18497.925'"); /* 0.3 * 61659.75 */
    IS(report(), "open_orders", "1");
    fill("t2", "u1", "BUY", "0.1", "60000", "0");
    v = report();
    IS(v, "open_orders", "0");
    IS(v, "positions.0.quantity", "'0.3'");
    IS(v, "fills", "2");
    /* The same fills and records once more, and a late one. */
    fill("t2", "u1", "BUY", "0.1", "60000", "0");
    order("u1", "BUY", "0.3", "ACCEPTED", "0");
    v = report();
    IS(v, "fills", "2");
    IS(v, "open_orders", "0");
    IS(v, "positions.0.quantity", "'0.3'");
    fill("t3", "u1", "SELL", "0.3", "62000", "0");
    v = report();
    IS(v, "positions", "[0]");
    IS(v, "equity", "'1000599'"); /* 987999 - 6000 + 18600 */
}
END_TEST

START_TEST(a_fee_in_another_currency)
{
    market();
    ck_assert_int_eq(record_of("fill", fill_text("t1", "o1", "BUY", "1", "100", "1", "EUR")), KEEL_UNDEFINED);
    IS(report(), "positions", "[0]");
    IS(report(), "open_orders", "0");
    record("fill", fill_text("t1", "o1", "BUY", "1", "100", "0", "EUR"));
    IS(report(), "positions", "[1]");
}
END_TEST

START_TEST(adjustments)
{
    const struct keel_jval *v;

    cash("entry-1", "1000");
    record("adjustment",
           "{\"adjustment_id\":\"entry-2\",\"portfolio_id\":\"main\",\"kind\":\"OPENING\",\"currency\":\"USDT\","
           "\"symbol\":\"BTCUSDT\",\"quantity\":\"-2\",\"price\":\"100\"}");
    record("adjustment",
           "{\"adjustment_id\":\"entry-3\",\"portfolio_id\":\"main\",\"kind\":\"FILL\",\"currency\":\"USDT\","
           "\"symbol\":\"BTCUSDT\",\"quantity\":\"3\",\"price\":\"110\",\"cash\":\"-331\"}");
    cash("entry-1", "1000");
    quote("BTCUSDT", "109", "111");
    v = report();
    IS(v, "cash", "'669'");
    IS(v, "positions.0.quantity", "'1'");
    IS(v, "equity", "'779'");
    IS(v, "fills", "0");
    /* What was put in is 1000 - 200; so 21 were lost: 2 * 10 short, 1 of fee. */
    v = CHECK("a1", "BUY", "0.1", "100", false);
    IS(check_of(v, "default_daily_loss"), "value", "'21'");
}
END_TEST

/* Somebody gave portfolio the fill that strategy tells of, too: one trade, in either order, however often, over a restart. */
START_TEST(a_fill_told_twice)
{
    static const char foreign[] =
        "{\"adjustment_id\":\"entry-9\",\"portfolio_id\":\"main\",\"kind\":\"FILL\",\"currency\":\"USDT\","
        "\"symbol\":\"BTCUSDT\",\"quantity\":\"1\",\"price\":\"100\",\"cash\":\"-101\",\"venue\":\"paper\","
        "\"trade_id\":\"t1\"}";
    const struct keel_jval *v;

    market();
    for (int i = 0; i < 4; i++) {
        if (i == 2)
            again(NULL);
        if ((i + _i) % 2 == 0)
            record("adjustment", foreign);
        else
            fill("t1", "o1", "BUY", "1", "100", "1");
    }
    order("o1", "BUY", "1", "FILLED", "1");
    v = report();
    IS(v, "cash", "'999899'");
    IS(v, "positions.0.quantity", "'1'");
    IS(v, "fills", "1");
    IS(v, "open_orders", "0");
    fill("t2", "o2", "BUY", "1", "100", "1"); /* another trade */
    IS(report(), "positions.0.quantity", "'2'");
}
END_TEST

/* ---- marks ---- */

START_TEST(no_mark_denies)
{
    const struct keel_jval *v;
    size_t symbols;

    market();
    limit(POS_BTC);
    symbols = state()->n_symbols;
    v = ASK(200, "POST", CHECK_MAIN,
            "{\"order\":{\"client_order_id\":\"e1\",\"strategy_id\":\"manual\",\"symbol\":\"NOPRICE\","
            "\"side\":\"BUY\",\"quantity\":1,\"price\":1},\"reserve\":true}");
    IS(v, "decision.approved", "false");
    IS(v, "decision.denials.0.code", "'NO_MARK'");
    IS(v, "decision.denials.1.code", "'LIMIT_UNDEFINED'");
    ck_assert_uint_eq(state()->n_symbols, symbols);
    /* 61 s of session later the quote is too old, a last trade of 30 s ago is not, and then a bar is what there is. */
    record("trade", "{\"symbol\":\"BTCUSDT\",\"price\":\"61000\",\"size\":\"1\"}");
    now_ns += 61 * SECOND;
    quote("ETHUSDT", "100", "102");
    v = CHECK("e2", "BUY", "0.1", "61660", false);
    IS(v, "decision.denials.0.code", "'NO_MARK'");
    record("trade", "{\"symbol\":\"BTCUSDT\",\"price\":\"61000\",\"size\":\"1\"}");
    v = CHECK("e2", "BUY", "0.1", "61660", false);
    IS(check_of(v, "default_gross"), "value", "'6100'");
    quote("BTCUSDT", "62000", "62001");
    v = CHECK("e2", "BUY", "0.1", "61660", false);
    IS(check_of(v, "default_gross"), "value", "'6200.05'");
    /* A crossed quote is none. */
    quote("BTCUSDT", "70000", "62001");
    v = CHECK("e2", "BUY", "0.1", "61660", false);
    IS(check_of(v, "default_gross"), "value", "'6200.05'");
    v = CHECK("e3", "BUY", "0.1", NULL, false);
    IS(check_of(v, "default_notional"), "value", "'6262.0505'"); /* 62000.5 and a collar of 1 % */
    v = CHECK("e4", "SELL", "0.1", "1", false);
    IS(check_of(v, "default_notional"), "value", "'6200.05'"); /* worth its mark, though offered for less */
    v = CHECK("e5", "SELL", "0.1", "70000", false);
    IS(check_of(v, "default_notional"), "value", "'7000'");
    /* What reduces needs no mark: a feed that is silent must not hold anybody in a position. */
    fill("t1", "p1", "BUY", "1", "60000", "0");
    order("p1", "BUY", "1", "FILLED", "1");
    now_ns += 61 * SECOND;
    quote("ETHUSDT", "100", "102");
    v = CHECK("e6", "SELL", "1", "61000", false);
    IS(v, "decision.approved", "true");
    v = CHECK("e7", "SELL", "1", NULL, false);
    IS(v, "decision.denials.0.code", "'NO_MARK'");
    v = ASK(200, "POST", CHECK_MAIN, "{}");
    IS(v, "risk_result.portfolio_value", "null");
    IS(v, "undefined.portfolio_value", "'a position has no mark'");
}
END_TEST

/* ---- limits ---- */

START_TEST(default_limits)
{
    const struct keel_jval *v = ASK(200, "GET", "/risk/limits", NULL);

    IS(v, "count", "6");
    IS(v, "limits.5.limit_id", "'default_notional'");
    IS(v, "limits.5.limit_value", "100000");
    IS(v, "limits.5.action", "'deny'");
    IS(v, "limits.5.enabled", "true");
    IS(v, "limits.5.portfolio_id", "null");
    IS(v, "next", "null");
    for (int i = 0; i < 6; i++) {
        v = ASK(200, "GET", "/risk/limits?limit=1", NULL);
        const char *id = keel_jstr(answer_find(v, "limits.0"), "limit_id");
        ASK(200, "DELETE", keel_arena_printf(arena, "/risk/limits?limit_id=%s", id), NULL);
    }
    /* Taken away, they stay away; and without limits nothing passes. */
    again(NULL);
    IS(ASK(200, "GET", "/risk/limits", NULL), "count", "0");
    market();
    v = CHECK("l1", "BUY", "0.1", "61660", false);
    IS(v, "decision.approved", "false");
    IS(v, "decision.denials", "[1]");
    IS(v, "decision.denials.0.code", "'NO_LIMITS'");
}
END_TEST

START_TEST(no_default_limits)
{
    keel_rt_free(rt);
    tree_remove(dir);
    start("--default-limits=false");
    IS(ASK(200, "GET", "/risk/limits", NULL), "count", "0");
}
END_TEST

START_TEST(limits_made_and_changed)
{
    const struct keel_jval *v =
        ASK(200, "POST", "/risk/limits",
            "{\"limit_id\":\"loss\",\"limit_type\":\"daily_loss\","
            "\"limit_value\":-50000,\"current_value\":3,\"portfolio_id\":\"main\",\"action\":\"reduce\"}");

    IS(v, "status", "'created'");
    IS(v, "limit.limit_value", "50000");
    IS(v, "ignored.0", "'current_value'");
    v = ASK(200, "POST", "/risk/limits",
            "{\"limit_id\":\"btc\",\"limit_type\":\"position_size\",\"limit_value\":\"2.5\","
            "\"symbol\":\"btcusdt\",\"strategy_id\":\"manual\"}");
    IS(v, "limit.symbol", "'BTCUSDT'");
    IS(v, "limit.limit_value", "2.5");
    /* Changing one keeps its place. */
    v = ASK(200, "POST", "/risk/limits",
            "{\"limit_id\":\"loss\",\"limit_type\":\"daily_loss\",\"limit_value\":\"40000\"}");
    IS(v, "status", "'updated'");
    for (int i = 0; i < 2; i++) {
        v = ASK(200, "GET", "/risk/limits?limit=2", NULL);
        IS(v, "count", "2");
        IS(v, "limits.0.limit_id", "'btc'");
        IS(v, "limits.1.limit_id", "'loss'");
        IS(v, "limits.1.limit_value", "40000");
        IS(v, "limits.1.portfolio_id", "null");
        IS(v, "next", "'loss'");
        v = ASK(200, "GET", "/risk/limits?limit=1000&after=loss", NULL);
        IS(v, "count", "6");
        IS(v, "next", "null");
        again(NULL);
    }
    ASK(400, "GET", "/risk/limits?after=nobody", NULL);
    IS(ASK(200, "DELETE", "/risk/limits?limit_id=btc", NULL), "status", "'deleted'");
    ASK(404, "DELETE", "/risk/limits?limit_id=btc", NULL);
    IS(ASK(200, "GET", "/risk/limits", NULL), "limits.0.limit_id", "'loss'");
}
END_TEST

static const struct { const char *why, *body, *field;
} bad_limit[] = {
    {"no value", "{\"limit_id\":\"a\",\"limit_type\":\"notional\"}", "'limit_value'"},
    {"no such type", "{\"limit_id\":\"a\",\"limit_type\":\"mood\",\"limit_value\":1}", "'limit_type'"},
    {"below nothing", "{\"limit_id\":\"a\",\"limit_type\":\"notional\",\"limit_value\":-1}", "'limit_value'"},
    {"more than is counted", "{\"limit_id\":\"a\",\"limit_type\":\"order_rate\",\"limit_value\":1025}",
     "'limit_value'"},
    {"no symbol", "{\"limit_id\":\"a\",\"limit_type\":\"notional\",\"limit_value\":1,\"symbol\":\"B/C\"}", "'symbol'"},
    {"no such action", "{\"limit_id\":\"a\",\"limit_type\":\"notional\",\"limit_value\":1,\"action\":\"pray\"}",
     "'action'"},
};

START_TEST(refused_limits)
{
    IS(ASK(400, "POST", "/risk/limits", bad_limit[_i].body), "field", bad_limit[_i].field);
    IS(ASK(200, "GET", "/risk/limits", NULL), "count", "6");
}
END_TEST

START_TEST(order_rate)
{
    const struct keel_jval *v;

    market();
    limit("{\"limit_id\":\"rate\",\"limit_type\":\"order_rate\",\"limit_value\":3}");
    limit("{\"limit_id\":\"rate_eth\",\"limit_type\":\"order_rate\",\"limit_value\":3,\"symbol\":\"ETHUSDT\"}");
    limit("{\"limit_id\":\"rate_robot\",\"limit_type\":\"order_rate\",\"limit_value\":3,\"strategy_id\":\"robot\"}");
    for (int i = 0; i < 3; i++) {
        CHECK("asked-only", "BUY", "0.001", "61660", false);
        v = CHECK(keel_arena_printf(arena, "q%d", i), "BUY", "0.001", "61660", true);
        IS(v, "decision.approved", "true");
    }
    v = CHECK("q3", "BUY", "0.001", "61660", true);
    IS(v, "decision.denials", "[1]");
    IS(v, "decision.denials.0.code", "'ORDER_RATE'");
    IS(v, "decision.denials.0.value", "'4'");
    IS(CHECK("q2", "BUY", "0.001", "61660", true), "decision.approved", "true");
    /* Those of another strategy count for the portfolio, not for this one. */
    v = ASK(200, "POST", CHECK_MAIN,
            "{\"order\":{\"client_order_id\":\"z\",\"strategy_id\":\"robot\",\"symbol\":\"BTCUSDT\","
            "\"side\":\"BUY\",\"quantity\":\"0.001\",\"price\":\"61660\"}}");
    IS(check_of(v, "rate"), "value", "'4'");
    IS(check_of(v, "rate_robot"), "value", "'1'");
    /* By the session's clock, which has gone on with ours since the quote. */
    now_ns += 60 * SECOND;
    quote("BTCUSDT", "61659.7", "61659.8");
    v = CHECK("q3", "BUY", "0.001", "61660", true);
    IS(v, "decision.approved", "true");
    IS(check_of(v, "rate"), "value", "'1'");
}
END_TEST

START_TEST(daily_loss)
{
    const struct keel_jval *v;

    market();
    limit("{\"limit_id\":\"default_daily_loss\",\"limit_type\":\"daily_loss\",\"limit_value\":-1000}");
    fill("t1", "d1", "BUY", "1", "61659.75", "0");
    order("d1", "BUY", "1", "FILLED", "1");
    tick("sweep");
    quote("BTCUSDT", "60659.7", "60659.8"); /* 1000 down */
    v = CHECK("d2", "BUY", "0.1", "60660", false);
    IS(check_of(v, "default_daily_loss"), "value", "'1000'");
    IS(v, "decision.approved", "true");
    quote("BTCUSDT", "60658.7", "60659.8");
    v = CHECK("d2", "BUY", "0.1", "60660", false);
    IS(v, "decision.denials.0.code", "'DAILY_LOSS'");
    IS(v, "decision.denials.0.value", "'1000.5'");
    v = CHECK("d3", "SELL", "1", "60000", false);
    IS(v, "decision.approved", "true");
    /* A day that began without a session, after a restart, is not begun by the machine's clock. */
    again(NULL);
    tick("sweep");
    quote("BTCUSDT", "60658.7", "60659.8");
    tick("sweep");
    v = CHECK("d2", "BUY", "0.1", "60660", false);
    IS(check_of(v, "default_daily_loss"), "value", "'1000.5'");
    /* The next day starts from what there is. */
    now_ns += 86400 * SECOND;
    quote("BTCUSDT", "60558.7", "60559.8");
    tick("sweep");
    quote("BTCUSDT", "60548.7", "60549.8");
    v = CHECK("d2", "BUY", "0.1", "60660", false);
    IS(check_of(v, "default_daily_loss"), "value", "'10'");
    IS(v, "decision.approved", "true");
}
END_TEST

/* ---- breaches ---- */

START_TEST(breaches)
{
    const struct keel_jval *v;

    market();
    fill("t1", "b1", "BUY", "1", "61659.75", "0");
    order("b1", "BUY", "1", "FILLED", "1");
    tick("sweep");
    IS(ASK(200, "GET", "/risk/breaches", NULL), "count", "0");
    limit("{\"limit_id\":\"gross\",\"limit_type\":\"gross_exposure\",\"limit_value\":\"60000\",\"action\":\"warn\"}");
    limit("{\"limit_id\":\"size\",\"limit_type\":\"position_size\",\"limit_value\":\"0.5\",\"symbol\":\"ETHUSDT\"}");
    tick("sweep");
    tick("sweep"); /* what is open is not opened again */
    v = ASK(200, "GET", "/risk/breaches", NULL);
    IS(v, "count", "1");
    IS(v, "breaches.0.breach_id", "'B-1'");
    IS(v, "breaches.0.breach_type", "'gross_exposure'");
    IS(v, "breaches.0.limit_id", "'gross'");
    IS(v, "breaches.0.current_value", "61659.75");
    IS(v, "breaches.0.limit_value", "60000");
    IS(v, "breaches.0.severity", "'MEDIUM'");
    IS(v, "breaches.0.resolved", "false");
    IS(v, "next", "null");
    v = CHECK("b2", "SELL", "0.5", "61000", false);
    IS(v, "breaches", "[1]");
    IS(v, "breaches.0.current_value", "61659.75");
    IS(v, "decision.approved", "true");
    IS(ASK(200, "GET", "/risk/trading-state", NULL), "state", "'ACTIVE'");

    /* Open after a restart; still exceeded when closed, so another one opens. */
    again(NULL);
    quote("BTCUSDT", "61659.7", "61659.8");
    IS(ASK(200, "POST", CHECK_MAIN, "{}"), "breaches.0.breach_id", "'B-1'");
    IS(ASK(200, "POST", "/risk/breaches/B-1/resolve", "{}"), "status", "'resolved'");
    ASK(404, "POST", "/risk/breaches/B-1/resolve", "{}");
    IS(ASK(200, "POST", CHECK_MAIN, "{}"), "breaches", "[0]");
    tick("sweep");
    v = ASK(200, "GET", "/risk/breaches?limit=1", NULL);
    IS(v, "breaches.0.breach_id", "'B-2'");
    v = ASK(200, "GET", keel_arena_printf(arena, "/risk/breaches?limit=1&after=%s", keel_jstr(v, "next")), NULL);
    IS(v, "breaches.0.breach_id", "'B-1'");
    IS(v, "breaches.0.resolved", "true");
    IS(v, "next", "null");
    IS(ASK(200, "GET", "/risk/breaches?open=true", NULL), "count", "1");
    IS(ASK(200, "GET", "/risk/breaches?open=false&portfolio_id=main", NULL), "count", "1");
    IS(ASK(200, "GET", "/risk/breaches?portfolio_id=other", NULL), "count", "0");
    ASK(400, "GET", "/risk/breaches?limit=1001", NULL);
}
END_TEST

START_TEST(a_limit_that_reduces)
{
    const struct keel_jval *v;

    market();
    fill("t1", "b1", "BUY", "1", "61659.75", "0");
    order("b1", "BUY", "1", "FILLED", "1");
    limit("{\"limit_id\":\"size\",\"limit_type\":\"position_size\",\"limit_value\":\"0.5\",\"action\":\"reduce\"}");
    tick("sweep");
    v = ASK(200, "GET", "/risk/trading-state?portfolio_id=main", NULL);
    IS(v, "state", "'REDUCING'");
    IS(v, "reason", "'limit size is exceeded'");
    IS(ASK(200, "GET", "/risk/trading-state", NULL), "state", "'ACTIVE'");
    IS(ASK(200, "GET", "/risk/breaches", NULL), "breaches.0.severity", "'CRITICAL'");
    v = CHECK("b2", "SELL", "1", "61000", false);
    IS(v, "decision.approved", "true");
    IS(v, "decision.trading_state", "'REDUCING'");
    v = CHECK("b3", "BUY", "0.1", "61660", false);
    IS(v, "decision.denials.0.code", "'REDUCING_ONLY'");
}
END_TEST

START_TEST(limits_of_one_order)
{
    const struct keel_jval *v;

    market();
    limit("{\"limit_id\":\"warn\",\"limit_type\":\"notional\",\"limit_value\":\"1000\",\"action\":\"warn\"}");
    v = CHECK("w1", "BUY", "0.1", "61660", false);
    IS(v, "decision.approved", "true");
    IS(check_of(v, "warn"), "headroom", "'-5166'");
    ck_assert_uint_eq(state()->n_breaches, 0);
    CHECK("w1", "BUY", "0.1", "61660", true);
    CHECK("w1", "BUY", "0.1", "61660", true);
    v = ASK(200, "GET", "/risk/breaches", NULL);
    IS(v, "count", "1");
    IS(v, "breaches.0.breach_type", "'notional'");
    IS(v, "breaches.0.current_value", "6166");
    IS(v, "breaches.0.detail", "'order w1: limit warn is exceeded'");
    /* reduce: the order is denied and the portfolio REDUCING. */
    limit("{\"limit_id\":\"stop\",\"limit_type\":\"notional\",\"limit_value\":\"7000\",\"action\":\"reduce\"}");
    v = CHECK("w2", "BUY", "0.12", "61660", true);
    IS(v, "decision.approved", "false");
    IS(v, "decision.reserved", "false");
    IS(ASK(200, "GET", "/risk/trading-state?portfolio_id=main", NULL), "state", "'REDUCING'");
    IS(ASK(200, "GET", "/risk/breaches?open=true", NULL), "count", "2");
}
END_TEST

START_TEST(positions_that_differ)
{
    static const char theirs[] = "{\"portfolio_id\":\"main\",\"symbol\":\"BTCUSDT\",\"quantity\":\"0.9\"}";
    const struct keel_jval *v;
    int64_t until;

    again("--mismatch-ms=100");
    market();
    fill("t1", "p1", "BUY", "1", "61659.75", "0");
    order("p1", "BUY", "1", "FILLED", "1");
    record("position", theirs);
    tick("sweep");
    IS(ASK(200, "GET", "/risk/breaches", NULL), "count", "0");
    for (until = keel_mono_ns() + 60 * SECOND; state()->n_breaches == 0 && keel_mono_ns() < until;)
        tick("sweep");
    v = ASK(200, "GET", "/risk/breaches", NULL);
    IS(v, "breaches.0.breach_type", "'position_mismatch'");
    IS(v, "breaches.0.current_value", "0.9");
    IS(v, "breaches.0.limit_value", "1");
    IS(v, "breaches.0.detail", "'BTCUSDT: portfolio holds 0.9, risk 1'");
    ck_assert_int_ne(state()->portfolio[0].holding[0].differs_since_ns, 0);
    fill("t2", "p2", "SELL", "0.1", "61659.75", "0");
    ck_assert_int_eq(state()->portfolio[0].holding[0].differs_since_ns, 0);
}
END_TEST

/* ---- trading state ---- */

static const struct keel_jval *put_state(enum keel_scope scope, int http, const char *body)
{
    struct reply r = ask_as(scope, "PUT", "/risk/trading-state", body);

    ck_assert_msg(r.http == http, "%s: %d, not %d: %s", body, r.http, http, r.body);
    return answer_parse(arena, r.body);
}

START_TEST(trading_state)
{
    const struct keel_jval *v = ASK(200, "GET", "/risk/trading-state", NULL);

    IS(v, "state", "'ACTIVE'");
    IS(v, "portfolios", "[0]");
    market();
    fill("t1", "s0", "BUY", "1", "61659.75", "0");
    order("s0", "BUY", "1", "FILLED", "1");

    v = put_state(KEEL_SCOPE_TRADE, 200, "{\"state\":\"REDUCING\",\"portfolio_id\":\"main\"}");
    IS(v, "before", "'ACTIVE'");
    IS(v, "state", "'REDUCING'");
    IS(CHECK("s1", "BUY", "0.1", "61660", false), "decision.denials.0.code", "'REDUCING_ONLY'");
    IS(CHECK("s2", "SELL", "1", "61000", false), "decision.approved", "true");
    IS(CHECK("s3", "SELL", "1.1", "61000", false), "decision.denials.0.code", "'REDUCING_ONLY'");
    /* One reduces; both together would turn the position round. */
    IS(CHECK("s2", "SELL", "0.6", "61000", true), "decision.approved", "true");
    IS(CHECK("s4", "SELL", "0.6", "61000", true), "decision.denials.0.code", "'REDUCING_ONLY'");

    /* Latched: less freedom with trade scope, more only for an admin who says why. */
    v = put_state(KEEL_SCOPE_TRADE, 403, "{\"state\":\"ACTIVE\",\"portfolio_id\":\"main\",\"reason\":\"enough\"}");
    IS(v, "code", "'admin_needed'");
    put_state(KEEL_SCOPE_ENGINE, 403, "{\"state\":\"ACTIVE\",\"portfolio_id\":\"main\",\"reason\":\"enough\"}");
    v = put_state(KEEL_SCOPE_ADMIN, 400, "{\"state\":\"ACTIVE\",\"portfolio_id\":\"main\"}");
    IS(v, "field", "'reason'");
    put_state(KEEL_SCOPE_TRADE, 200, "{\"state\":\"HALTED\",\"reason\":\"fire\"}");
    put_state(KEEL_SCOPE_TRADE, 403, "{\"state\":\"REDUCING\",\"reason\":\"less fire\"}");

    /* The stricter of all and own holds. */
    v = ASK(200, "GET", "/risk/trading-state", NULL);
    IS(v, "state", "'HALTED'");
    IS(v, "reason", "'fire'");
    IS(v, "portfolios", "[1]");
    IS(v, "portfolios.0.portfolio_id", "'main'");
    IS(v, "portfolios.0.state", "'REDUCING'");
    IS(CHECK("s5", "SELL", "0.1", "61000", false), "decision.denials.0.code", "'TRADING_HALTED'");
    IS(CHECK("s2", "SELL", "0.6", "61000", true), "decision.approved", "false");

    again(NULL);
    quote("BTCUSDT", "61659.7", "61659.8");
    IS(ASK(200, "GET", "/risk/trading-state?portfolio_id=main", NULL), "state", "'HALTED'");
    v = put_state(KEEL_SCOPE_ADMIN, 200, "{\"state\":\"ACTIVE\",\"reason\":\"out\"}");
    IS(v, "before", "'HALTED'");
    IS(ASK(200, "GET", "/risk/trading-state?portfolio_id=main", NULL), "state", "'REDUCING'");
    IS(ASK(200, "GET", "/risk/trading-state?portfolio_id=other", NULL), "state", "'ACTIVE'");
    put_state(KEEL_SCOPE_ADMIN, 200, "{\"state\":\"ACTIVE\",\"portfolio_id\":\"main\",\"reason\":\"looked at\"}");
    IS(CHECK("s6", "BUY", "0.1", "61660", false), "decision.approved", "true");
    IS(ASK(200, "GET", "/risk/trading-state", NULL), "strategy_knows", "false"); /* it is away */
    ASK(400, "PUT", "/risk/trading-state", "{\"state\":\"MERRY\"}");
}
END_TEST

START_TEST(reduce_only)
{
    static const char format[] =
        "{\"order\":{\"client_order_id\":\"%s\",\"strategy_id\":\"manual\",\"symbol\":\"BTCUSDT\","
        "\"side\":\"%s\",\"quantity\":\"0.1\",\"price\":\"61660\",\"reduce_only\":true}}";
    const struct keel_jval *v;
    char body[300];

    market();
    snprintf(body, sizeof body, format, "o1", "SELL");
    v = ASK(200, "POST", CHECK_MAIN, body);
    IS(v, "decision.denials.0.code", "'REDUCE_ONLY'");
    fill("t1", "s0", "BUY", "0.1", "61659.75", "0");
    order("s0", "BUY", "0.1", "FILLED", "0.1");
    v = ASK(200, "POST", CHECK_MAIN, body);
    IS(v, "decision.approved", "true");
}
END_TEST

START_TEST(states_are_bounded)
{
    again("--max-portfolios=2");
    cash("entry-1", "1");
    put_state(KEEL_SCOPE_ADMIN, 200, "{\"state\":\"HALTED\",\"portfolio_id\":\"a\"}");
    put_state(KEEL_SCOPE_ADMIN, 200, "{\"state\":\"HALTED\",\"portfolio_id\":\"b\"}");
    put_state(KEEL_SCOPE_ADMIN, 409, "{\"state\":\"HALTED\",\"portfolio_id\":\"c\"}");
    put_state(KEEL_SCOPE_ADMIN, 200, "{\"state\":\"HALTED\",\"portfolio_id\":\"main\"}");
    put_state(KEEL_SCOPE_ADMIN, 200, "{\"state\":\"HALTED\",\"portfolio_id\":\"b\"}");
}
END_TEST

/* ---- value at risk and stress ---- */

static void bars(int n)
{
    for (int i = 0; i < n; i++) {
        /* Returns -10 % and +11.1 % in turns: 100, 90, 100, ... */
        const char *close = i % 2 ? "90" : "100";
        now_ns += 60 * SECOND;
        record("bar", keel_arena_printf(arena,
                                        "{\"symbol\":\"BTCUSDT\",\"spec\":\"1m\",\"ts_open\":%lld,\"ts_close\":%lld,"
                                        "\"open\":\"1\",\"high\":\"1\",\"low\":\"1\","
                                        "\"close\":\"%s\",\"volume\":\"1\"}",
                                        (long long)(now_ns - 60 * SECOND), (long long)now_ns, close));
    }
}

START_TEST(live_value_at_risk)
{
    const struct keel_jval *v;

    cash("entry-1", "100000");
    bars(60);
    quote("BTCUSDT", "100", "100");
    fill("t1", "v1", "BUY", "10", "100", "0");
    order("v1", "BUY", "10", "FILLED", "10");
    v = ASK(200, "POST", CHECK_MAIN, "{}");
    IS(v, "risk_result.var_95", "null");
    IS(v, "undefined.var_95", "'59 of 60 returns'");
    v = ASK(200, "POST", "/risk/portfolio-var/main", "{}");
    IS(v, "var_result.var_95", "null");
    IS(v, "var_result.returns", "59");
    limit("{\"limit_id\":\"var\",\"limit_type\":\"var_95\",\"limit_value\":150}");
    v = CHECK("v2", "BUY", "1", "100", false);
    IS(v, "decision.denials.0.code", "'LIMIT_UNDEFINED'");
    bars(1);
    quote("BTCUSDT", "100", "100");
    v = ASK(200, "POST", CHECK_MAIN, "{}");
    IS(v, "risk_result.var_95", "-100"); /* half of 60 profits are -10 % of 1000 */
    v = ASK(200, "POST", "/risk/portfolio-var/main", "{}");
    near(v, "var_result.var_95", -100);
    near(v, "var_result.expected_shortfall_99", -100);
    IS(v, "var_result.portfolio_value", "1000");
    IS(v, "undefined", "{0}");
    /* 10 + 5 is 150 of value at risk, and not more. */
    v = CHECK("v2", "BUY", "5", "100", false);
    IS(check_of(v, "var"), "value", "'150'");
    IS(v, "decision.approved", "true");
    v = CHECK("v3", "BUY", "5.1", "100", false);
    IS(v, "decision.denials", "[1]");
    IS(v, "decision.denials.0.code", "'VAR_95'");
    v = CHECK("v4", "SELL", "10", "100", false);
    IS(check_of(v, "var"), "value", "'0'");
    v = report();
    IS(v, "var.var_95", "-100");
    IS(v, "var.returns", "60");
}
END_TEST

/*
 * 60 log returns, half of them log(0.9), the others -log(0.9): mean 0, sample deviation -log(0.9) * sqrt(60 / 59). The
 * quantile of the lognormal profit of 1000 is 1000 * (1 - exp(-z * deviation)).
 */
START_TEST(live_simulation)
{
    const double deviation = 0.10624965;
    const struct keel_jval *v;

    cash("entry-1", "100000");
    bars(60);
    quote("BTCUSDT", "100", "100");
    fill("t1", "v1", "BUY", "10", "100", "0");
    v = ASK(200, "POST", "/risk/portfolio-var/main", "{\"method\":\"monte_carlo\"}");
    IS(v, "var_result.var_95", "null");
    IS(v, "var_result.returns", "59");
    IS(v, "var_result.num_simulations", "0");
    IS(v, "var_result.standard_error.var_95", "null");
    IS(v, "undefined.var_95", "'59 of 60 returns'");
    IS(v, "undefined.standard_error", "'59 of 60 returns'");
    bars(1);
    quote("BTCUSDT", "100", "100");
    v = ASK(200, "POST", "/risk/portfolio-var/main", "{\"num_simulations\":200000}");
    IS(v, "var_result.method", "'monte_carlo'");
    IS(v, "var_result.num_simulations", "200000");
    IS(v, "var_result.returns", "60");
    IS(v, "var_result.portfolio_value", "1000");
    within(v, "var_95", -1000 * (1 - exp(-1.6448536269514722 * deviation)), "var_95");
    within(v, "var_99", -1000 * (1 - exp(-2.3263478740408408 * deviation)), "var_99");
    IS(v, "undefined", "{0}");
}
END_TEST

START_TEST(supplied_value_at_risk)
{
    static const char body[] =
        "{\"positions\":[{\"symbol\":\"A\",\"market_value\":600},{\"symbol\":\"B\",\"market_value\":\"400\"}],"
        "\"portfolio_value\":7,%s\"returns\":[%s]}";
    char returns[2048] = "", text[4096];
    const struct keel_jval *v;
    size_t n = 0;

    /* 101 returns -0.050, -0.049, ..., 0.050: the 5 % quantile is the sixth, -0.045; those at or below it average
     * -0.0475. */
    for (int i = -50; i <= 50; i++)
        n += (size_t)snprintf(returns + n, sizeof returns - n, "%s%d.0e-3", i > -50 ? "," : "", i);
    snprintf(text, sizeof text, body, "", returns);
    v = ASK(200, "POST", "/risk/portfolio-var/nobody", text);
    IS(v, "var_result.portfolio_value", "1000");
    IS(v, "var_result.returns", "101");
    IS(v, "var_result.num_simulations", "0");
    near(v, "var_result.var_95", -45);
    near(v, "var_result.expected_shortfall_95", -47.5);
    near(v, "var_result.var_99", -49);
    IS(v, "ignored", "[1]");
    /* Normal: mean 0, sample deviation sqrt(sum i^2 / 100) = sqrt(858.5) per mille; z is 1.6448536269514722. */
    snprintf(text, sizeof text, body, "\"method\":\"parametric\",", returns);
    v = ASK(200, "POST", "/risk/portfolio-var/nobody", text);
    IS(v, "var_result.method", "'parametric'");
    near(v, "var_result.var_95", -1.6448536269514722 * 29.300170647967224);
    v = ASK(200, "POST", "/risk/portfolio-var/nobody",
            "{\"positions\":[{\"symbol\":\"A\",\"market_value\":1}],\"returns\":[0.1,0.2]}");
    IS(v, "var_result.var_95", "null");
    IS(v, "undefined.var_95", "'2 of 60 returns'");
    v = ASK(200, "POST", "/risk/portfolio-var/nobody", "{\"positions\":[{\"symbol\":\"A\",\"market_value\":1}]}");
    IS(v, "var_result.returns", "0");
}
END_TEST

#define VAR_NOBODY "/risk/portfolio-var/nobody"
/* In this order v'Cv is 436 (1.6e13 * 4e-12 + 2 * 2.4e13 * 1e-12 + 3.6e13 * 9e-12), in the symbols' order 336. */
#define TWO "\"positions\":[{\"symbol\":\"B\",\"market_value\":4e6},{\"symbol\":\"a\",\"market_value\":6e6}]"
#define COVARIANCE "\"covariance\":[4e-12,1e-12,1e-12,9e-12]"
#define SIXTY \
    "0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02," \
    "0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02," \
    "0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02,0.01,-0.01,0.02,-0.02"

/* Changes so small that profits are linear in them: value at risk is z times the root of v'Cv. */
START_TEST(given_covariance)
{
    static const double z95 = 1.6448536269514722, z99 = 2.3263478740408408, es95 = 2.0627128075074257;
    const double sigma = 20.8806130178211; /* root of 436 */
    const struct keel_jval *v =
        ASK(200, "POST", VAR_NOBODY, "{\"method\":\"parametric\"," TWO "," COVARIANCE "}");

    near(v, "var_result.var_95", -z95 * sigma);
    near(v, "var_result.var_99", -z99 * sigma);
    near(v, "var_result.expected_shortfall_95", -es95 * sigma);
    IS(v, "var_result.num_simulations", "0");
    IS(v, "var_result.returns", "0");
    IS(v, "var_result.seed", "absent");
    IS(v, "undefined", "{0}");
    v = ASK(200, "POST", VAR_NOBODY, "{\"num_simulations\":100000," TWO "," COVARIANCE "}");
    IS(v, "var_result.method", "'monte_carlo'");
    IS(v, "var_result.portfolio_value", "10000000");
    IS(v, "var_result.num_simulations", "100000");
    IS(v, "var_result.seed", "1");
    IS(v, "var_result.distribution", "'normal'");
    within(v, "var_95", -z95 * sigma, "var_95");
    within(v, "var_99", -z99 * sigma, "var_99");
    within(v, "expected_shortfall_95", -es95 * sigma, "var_99");
    /* t4 of the same variance: 2.6494919067906837 at 99 % (shared/vectors/var_es_parametric.json). */
    v = ASK(200, "POST", VAR_NOBODY,
            "{\"method\":\"monte_carlo\",\"num_simulations\":100000,\"degrees_of_freedom\":4," TWO "," COVARIANCE "}");
    IS(v, "var_result.distribution", "'student_t'");
    within(v, "var_99", -2.6494919067906837 * sigma, "var_99");
}
END_TEST

static const char *var_95_of(const char *more)
{
    const char *body = keel_arena_printf(arena, "{\"method\":\"monte_carlo\",%s" TWO "," COVARIANCE "}", more);

    return answer_find(ASK(200, "POST", VAR_NOBODY, body), "var_result.var_95")->text;
}

START_TEST(seeds)
{
    const char *one = var_95_of("");

    ck_assert_str_eq(one, var_95_of("\"seed\":1,"));
    ck_assert_str_eq(one, var_95_of("\"seed\":1,\"num_simulations\":10000,"));
    ck_assert_str_ne(one, var_95_of("\"seed\":0,"));
    ck_assert_str_ne(one, var_95_of("\"seed\":9223372036854775807,"));
    ck_assert_str_ne(one, var_95_of("\"num_simulations\":10001,"));
    ck_assert_str_ne(one, var_95_of("\"degrees_of_freedom\":1000,"));
}
END_TEST

/*
 * Returns of the whole portfolio: log(1 + r) of +-1 % and +-2 % has the mean -0.000125021 and the sample deviation
 * 0.0159468 (Python's statistics.fmean and stdev).
 */
START_TEST(simulated_returns)
{
    const struct keel_jval *v = ASK(200, "POST", VAR_NOBODY,
                                    "{\"num_simulations\":100000," TWO ",\"returns\":[" SIXTY "]}");

    IS(v, "var_result.method", "'monte_carlo'");
    IS(v, "var_result.returns", "60");
    within(v, "var_95", -1e7 * (1 - exp(-0.000125021 - 1.6448536269514722 * 0.0159468)), "var_95");
    v = ASK(200, "POST", VAR_NOBODY, "{\"num_simulations\":100," TWO ",\"returns\":[0.1,0.2]}");
    IS(v, "var_result.num_simulations", "0");
    IS(v, "undefined.var_95", "'2 of 60 returns'");
    v = ASK(400, "POST", VAR_NOBODY, "{\"num_simulations\":100," TWO ",\"returns\":[0.1,-1]}");
    IS(v, "code", "'out_of_range'");
    IS(v, "field", "'returns[1]'");
    ASK(200, "POST", VAR_NOBODY, "{\"num_simulations\":100," TWO ",\"returns\":[0.1,-0.9999999999999999]}");
    ASK(200, "POST", VAR_NOBODY, "{" TWO ",\"returns\":[0.1,-1]}"); /* of history it is one like others */
}
END_TEST

START_TEST(few_simulations)
{
    const struct keel_jval *v = ASK(200, "POST", VAR_NOBODY, "{\"num_simulations\":300," TWO "," COVARIANCE "}");

    IS(v, "undefined", "{1}");
    IS(v, "undefined.standard_error", "'too few simulations'");
    IS(v, "var_result.standard_error.var_99", "null");
    ck_assert_int_eq(answer_find(v, "var_result.standard_error.var_95")->type, KEEL_JNUM);
    ck_assert_int_eq(answer_find(v, "var_result.var_99")->type, KEEL_JNUM);
    v = ASK(200, "POST", VAR_NOBODY,
            "{\"method\":\"monte_carlo\",\"positions\":[{\"symbol\":\"A\",\"market_value\":1}],\"covariance\":[1e6]}");
    IS(v, "var_result.var_95", "null");
    IS(v, "var_result.num_simulations", "0");
    IS(v, "undefined.var_95", "'a figure is beyond what a number holds'");
}
END_TEST

#define HUGE_5  "-1e308,1e308,-1e308,1e308,-1e308"
#define HUGE_30 HUGE_5 "," HUGE_5 "," HUGE_5 "," HUGE_5 "," HUGE_5 "," HUGE_5
static const char *const huge_method[] = {"historical", "parametric"};

/* Finite returns whose sum or deviation is not: null with a reason, and no error of ours. */
START_TEST(huge_returns)
{
    const struct keel_jval *v =
        ASK(200, "POST", VAR_NOBODY,
            keel_arena_printf(arena,
                              "{\"method\":\"%s\",\"positions\":[{\"symbol\":\"A\",\"market_value\":1}],"
                              "\"returns\":[" HUGE_30 "," HUGE_30 "]}",
                              huge_method[_i]));

    IS(v, "var_result.expected_shortfall_95", "null");
    IS(v, "undefined.expected_shortfall_95", "'a figure is beyond what a number holds'");
}
END_TEST

#define MC "\"method\":\"monte_carlo\","
#define ONE "\"positions\":[{\"symbol\":\"A\",\"market_value\":1}]"
static const struct { const char *why, *body, *code, *field; } bad_var[] = {
    {"too few", "{\"num_simulations\":99," TWO "," COVARIANCE "}", "'out_of_range'", "'num_simulations'"},
    {"too many", "{\"num_simulations\":1000001," TWO "," COVARIANCE "}", "'out_of_range'", "'num_simulations'"},
    {"negative seed", "{" MC "\"seed\":-1," TWO "," COVARIANCE "}", "'out_of_range'", "'seed'"},
    {"no variance", "{" MC "\"degrees_of_freedom\":2.09," TWO "," COVARIANCE "}", "'out_of_range'",
     "'degrees_of_freedom'"},
    {"as good as normal", "{" MC "\"degrees_of_freedom\":1000.1," TWO "," COVARIANCE "}", "'out_of_range'",
     "'degrees_of_freedom'"},
    {"another method", "{\"method\":\"jackknife\"," TWO "}", "'bad_enum'", "'method'"},
    {"history does not simulate", "{\"method\":\"historical\",\"num_simulations\":1000," TWO "}", "'conflict'",
     "'num_simulations'"},
    {"nor does a formula", "{\"method\":\"parametric\",\"num_simulations\":1000," TWO "}", "'conflict'",
     "'num_simulations'"},
    {"a seed of history", "{\"method\":\"historical\",\"seed\":1," TWO "}", "'conflict'", "'seed'"},
    {"a seed alone", "{\"seed\":1," TWO "}", "'conflict'", "'seed'"},
    {"degrees of freedom of a formula", "{\"method\":\"parametric\",\"degrees_of_freedom\":4," TWO "}", "'conflict'",
     "'degrees_of_freedom'"},
    {"a covariance of history", "{\"method\":\"historical\"," TWO "," COVARIANCE "}", "'conflict'", "'covariance'"},
    {"a covariance alone", "{" TWO "," COVARIANCE "}", "'conflict'", "'covariance'"},
    {"two sources", "{" MC TWO "," COVARIANCE ",\"returns\":[" SIXTY "]}", "'conflict'", "'returns'"},
    {"a covariance of nothing", "{" MC COVARIANCE "}", "'missing'", "'positions'"},
    {"a row too few", "{" MC TWO ",\"covariance\":[1,0]}", "'length'", "'covariance'"},
    {"a number too many", "{" MC TWO ",\"covariance\":[1,0,0,1,1]}", "'length'", "'covariance'"},
    {"no positions", "{" MC "\"positions\":[],\"covariance\":[1]}", "'length'", "'covariance'"},
    {"not one number", "{" MC TWO ",\"covariance\":[]}", "'too_few'", "'covariance'"},
    {"upper half only", "{" MC TWO ",\"covariance\":[4,1,0,9]}", "'not_symmetric'", "'covariance'"},
    {"the same for a formula", "{\"method\":\"parametric\"," TWO ",\"covariance\":[4,1,0,9]}", "'not_symmetric'",
     "'covariance'"},
    {"no covariance", "{" MC TWO ",\"covariance\":[1,2,2,1]}", "'not_semidefinite'", "'covariance'"},
    {"a negative variance", "{\"method\":\"parametric\"," ONE ",\"covariance\":[-1]}", "'not_semidefinite'",
     "'covariance'"},
    {"without a symbol",
     "{" MC "\"positions\":[{\"symbol\":\"A\",\"market_value\":1},{\"market_value\":1}],\"covariance\":[1,0,0,1]}",
     "'missing'", "'positions[1].symbol'"},
    {"twice the same",
     "{" MC "\"positions\":[{\"symbol\":\"A\",\"market_value\":1},{\"symbol\":\"a\",\"market_value\":1}],"
     "\"covariance\":[1,0,0,1]}",
     "'duplicate'", "'positions'"},
    {"a symbol that is none",
     "{" MC "\"positions\":[{\"symbol\":\"A\",\"market_value\":1},{\"symbol\":\"?\",\"market_value\":1}],"
     "\"covariance\":[1,0,0,1]}",
     "'bad_symbol'", "'positions[1].symbol'"},
};

START_TEST(refused_value_at_risk)
{
    const struct keel_jval *v = ASK(400, "POST", VAR_NOBODY, bad_var[_i].body);

    IS(v, "code", bad_var[_i].code);
    IS(v, "field", bad_var[_i].field);
}
END_TEST

/* The other side of each bound. */
static const char *const good_var[] = {
    "{\"num_simulations\":100," TWO "," COVARIANCE "}",
    "{" MC "\"degrees_of_freedom\":2.1," TWO "," COVARIANCE "}",
    "{" MC "\"num_simulations\":1000000," ONE ",\"covariance\":[1e-4]}",
    "{" MC TWO ",\"covariance\":[4,6,6,9]}", /* singular */
    "{" MC TWO ",\"covariance\":[0,0,0,0]}",
    "{\"method\":\"parametric\"," TWO ",\"covariance\":[0,0,0,0]}",
    "{\"method\":null,\"num_simulations\":null," TWO "}",
};

START_TEST(accepted_value_at_risk)
{
    ASK(200, "POST", VAR_NOBODY, good_var[_i]);
}
END_TEST

/* n positions of 1 and what comes behind them. */
static const char *many_positions(size_t n, const char *more)
{
    char *text = keel_arena_text(arena, n * 48 + strlen(more) + 64);
    size_t at = (size_t)sprintf(text, "{\"positions\":[");

    for (size_t i = 0; i < n; i++)
        at += (size_t)sprintf(text + at, "%s{\"symbol\":\"S%zu\",\"market_value\":1}", i ? "," : "", i);
    sprintf(text + at, "],%s}", more);
    return text;
}

/* 4e9 / (k (k + 100)): 10013 for 584 positions, 9981 for 585, 3636 for 1000. */
START_TEST(work_is_bounded)
{
    const struct keel_jval *v;

    ASK(200, "POST", VAR_NOBODY, many_positions(584, MC "\"seed\":1"));
    v = ASK(400, "POST", VAR_NOBODY, many_positions(585, MC "\"seed\":1"));
    IS(v, "code", "'out_of_range'");
    IS(v, "field", "'num_simulations'");
    IS(v, "detail", "'585 positions leave room for 9981 simulations'");
    ASK(200, "POST", VAR_NOBODY, many_positions(1000, "\"num_simulations\":3636"));
    ASK(400, "POST", VAR_NOBODY, many_positions(1000, "\"num_simulations\":3637"));
    /* Returns of the whole are one position. */
    ASK(200, "POST", VAR_NOBODY, many_positions(1000, "\"num_simulations\":1000000,\"returns\":[0.1,0.2]"));
}
END_TEST

START_TEST(too_many_positions)
{
    const struct keel_jval *v;

    for (int i = 0; i <= 1000; i++) {
        const char *symbol = keel_arena_printf(arena, "S%d", i);
        record("adjustment", keel_arena_printf(arena,
                                               "{\"adjustment_id\":\"%s\",\"portfolio_id\":\"main\",\"kind\":"
                                               "\"OPENING\",\"currency\":\"USDT\",\"symbol\":\"%s\","
                                               "\"quantity\":\"1\",\"price\":\"100\"}",
                                               symbol, symbol));
        quote(symbol, "100", "100");
        if (i == 999)
            ASK(200, "POST", "/risk/portfolio-var/main", "{\"num_simulations\":100}");
    }
    v = ASK(422, "POST", "/risk/portfolio-var/main", "{\"num_simulations\":100}");
    IS(v, "code", "'too_many_positions'");
    v = ASK(200, "POST", "/risk/portfolio-var/main", "{}");
    IS(v, "var_result.portfolio_value", "100100");
}
END_TEST

/* As large as a covariance may be, each number with 17 digits: it fits into a body. */
START_TEST(largest_covariance)
{
    enum { K = 256 };
    char *text = keel_arena_text(arena, K * K * 26 + 64);
    size_t at = (size_t)sprintf(text, "\"num_simulations\":100,\"covariance\":[");
    const struct keel_jval *v;

    for (size_t i = 0; i < K * K; i++)
        at += (size_t)sprintf(text + at, "%s%.16e", i ? "," : "", i % (K + 1) == 0 ? 1.2345678901234567e-4 : 0);
    sprintf(text + at, "]");
    v = ASK(200, "POST", VAR_NOBODY, many_positions(K, text));
    IS(v, "var_result.num_simulations", "100");
    sprintf(text + at, ",0]");
    v = ASK(400, "POST", VAR_NOBODY, many_positions(K, text));
    IS(v, "code", "'too_many'");
}
END_TEST

START_TEST(stress)
{
    const struct keel_jval *v = ASK(
        200, "POST", "/risk/stress-test/nobody",
        "{\"positions\":[{\"symbol\":\"btcusdt\",\"market_value\":600},{\"symbol\":\"ETHUSDT\",\"market_value\":-100},"
        "{\"symbol\":\"BTCUSDT\",\"market_value\":400},{\"market_value\":50}],"
        "\"scenarios\":[{\"name\":\"crash\",\"shocks\":{\"BTCUSDT\":-0.5,\"ethusdt\":-0.25,\"XRPUSDT\":1}},"
        "{\"name\":\"all up\",\"default_shock\":0.5,\"shocks\":{\"ETHUSDT\":0}}]}");
    char body[16384];
    size_t n = 0;

    IS(v, "basis", "'supplied'");
    IS(v, "scenarios", "[2]");
    IS(v, "scenarios.0.name", "'crash'");
    IS(v, "scenarios.0.by_symbol", "{2}");
    IS(v, "scenarios.0.by_symbol.BTCUSDT", "-500");
    IS(v, "scenarios.0.by_symbol.ETHUSDT", "25");
    IS(v, "scenarios.0.pnl", "-475");
    IS(v, "scenarios.1.by_symbol.ETHUSDT", "0");
    IS(v, "scenarios.1.pnl", "525"); /* half of 1000 and of 50 */
    ASK(400, "POST", "/risk/stress-test/nobody", "{\"positions\":[],\"scenarios\":[]}");
    IS(ASK(400, "POST", "/risk/stress-test/nobody",
           "{\"positions\":[],\"scenarios\":[{\"name\":\"x\",\"shocks\":{\"A\":-2}}]}"), "field", "'scenarios.shocks'");

    /* The portfolio as it is, at its marks. */
    market();
    fill("t1", "s1", "SELL", "0.5", "61659.75", "0");
    order("s1", "SELL", "0.5", "FILLED", "0.5");
    v = ASK(200, "POST", "/risk/stress-test/main", "{\"scenarios\":[{\"name\":\"up\",\"default_shock\":0.1}]}");
    IS(v, "basis", "'live'");
    IS(v, "scenarios.0.by_symbol.BTCUSDT", "-3082.9875");
    now_ns += 3600 * SECOND;
    quote("ETHUSDT", "1", "2");
    v = ASK(422, "POST", "/risk/stress-test/main", "{\"scenarios\":[{\"name\":\"up\",\"default_shock\":0.1}]}");
    IS(v, "code", "'no_mark'");

    /* 200 symbols under 51 scenarios are more figures than one answer has. */
    n += (size_t)snprintf(body, sizeof body, "{\"positions\":[");
    for (int i = 0; i < 200; i++)
        n += (size_t)snprintf(body + n, sizeof body - n, "%s{\"symbol\":\"S%d\",\"market_value\":1}", i ? "," : "", i);
    n += (size_t)snprintf(body + n, sizeof body - n, "],\"scenarios\":[");
    for (int i = 0; i < 51; i++)
        n += (size_t)snprintf(body + n, sizeof body - n, "%s{\"name\":\"n%d\"}", i ? "," : "", i);
    snprintf(body + n, sizeof body - n, "]}");
    v = ASK(400, "POST", "/risk/stress-test/nobody", body);
    IS(v, "detail", "'200 positions leave room for 50 scenarios'");
}
END_TEST

/* ---- strategy: a server on the engine's own loop ---- */

static struct {
    uv_tcp_t listener;
    char seen[1024]; /* first lines of the requests with their bodies, one a line; /health is left out */
} strategy;

struct conn {
    uv_tcp_t tcp;
    uv_write_t write;
    char in[2048];
    size_t len;
};

/* What GET /orders/{client_order_id} and PUT /trading-state answer. */
static const char *strategy_answer(const char *request)
{
    static const struct { const char *line, *status, *body; } answer[] = {
        {"GET /orders/open1 ", "200 OK", "{\"state\":\"ACCEPTED\",\"quantity\":\"0.7\",\"filled_quantity\":\"0\"}"},
        {"GET /orders/over1 ", "200 OK", "{\"state\":\"CANCELED\",\"quantity\":\"0.5\",\"filled_quantity\":\"0\"}"},
        {"GET /orders/found1 ", "200 OK", "{\"state\":\"FILLED\",\"quantity\":\"0.3\",\"filled_quantity\":\"0.3\"}"},
        {"GET /orders/odd1 ", "200 OK", "{\"state\":\"BEWITCHED\"}"},
        {"GET /orders/gone%2F1 ", "404 Not Found", "{}"},
        {"PUT /trading-state ", "200 OK", "{}"},
        {"GET /health", "200 OK", "{}"},
    };

    for (size_t i = 0; i < KEEL_COUNT(answer); i++)
        if (strncmp(request, answer[i].line, strlen(answer[i].line)) == 0)
            return keel_arena_printf(arena, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\n"
                                            "Content-Length: %zu\r\n\r\n%s", answer[i].status, strlen(answer[i].body),
                                     answer[i].body);
    return "HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
}

static void on_closed(uv_handle_t *h)
{
    keel_free(h->data);
}

static void on_written(uv_write_t *w, int status)
{
    struct conn *c = w->data;

    (void)status;
    uv_close((uv_handle_t *)&c->tcp, on_closed);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct conn *c = h->data;

    (void)suggested;
    *buf = uv_buf_init(c->in + c->len, (unsigned)(sizeof c->in - 1 - c->len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *unused)
{
    struct conn *c = stream->data;
    const char *end, *length, *text;
    size_t used = strlen(strategy.seen);
    uv_buf_t out;

    (void)unused;
    if (n <= 0) {
        uv_close((uv_handle_t *)stream, on_closed);
        return;
    }
    c->len += (size_t)n;
    c->in[c->len] = 0;
    end = strstr(c->in, "\r\n\r\n");
    length = strcasestr(c->in, "content-length:");
    if (!end || strlen(end + 4) < (length && length < end ? strtoul(length + 15, NULL, 10) : 0))
        return;
    if (strncmp(c->in, "GET /health", 11) != 0)
        snprintf(strategy.seen + used, sizeof strategy.seen - used, "%.*s %s\n", (int)strcspn(c->in, "\r"), c->in,
                 end + 4);
    text = strategy_answer(c->in);
    out = uv_buf_init((char *)(uintptr_t)text, (unsigned)strlen(text));
    uv_read_stop(stream);
    c->write.data = c;
    uv_write(&c->write, stream, &out, 1, on_written);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct conn *c = keel_alloc(1, sizeof *c);

    ck_assert_int_eq(status, 0);
    uv_tcp_init(rt->loop, &c->tcp);
    c->tcp.data = c;
    ck_assert_int_eq(uv_accept(listener, (uv_stream_t *)&c->tcp), 0);
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
}

static void strategy_start(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&strategy, 0, sizeof strategy);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    again(keel_arena_printf(arena, "--strategy-url=http://127.0.0.1:%d", ntohs(at.sin_port)));
    uv_tcp_init(rt->loop, &strategy.listener);
    ck_assert_int_eq(uv_tcp_open(&strategy.listener, fd), 0);
    ck_assert_int_eq(uv_listen((uv_stream_t *)&strategy.listener, 16, on_connection), 0);
}

static void strategy_stop(void)
{
    uv_close((uv_handle_t *)&strategy.listener, NULL);
}

static void grow_old(void)
{
    for (size_t i = 0; i < state()->n_entries; i++)
        state()->entry[i].created_ns -= 31 * SECOND;
}

START_TEST(reservations_without_an_order)
{
    static const char *const id[] = {"open1", "over1", "gone/1", "odd1"};
    const struct keel_jval *v;

    strategy_start();
    market();
    for (size_t i = 0; i < KEEL_COUNT(id); i++)
        IS(CHECK(id[i], "BUY", "0.5", "61660", true), "decision.approved", "true");
    fill("t1", "found1", "SELL", "0.3", "61660", "0");
    tick("lookup");
    ck_assert_msg(strategy.seen[0] == 0, "asked before 30 s were over: %s", strategy.seen);
    grow_old();
    tick("lookup");
    v = report();
    IS(v, "reservations", "1"); /* odd1: its answer says nothing */
    IS(v, "open_orders", "1");
    IS(v, "worst_gross_exposure", "'55493.775'"); /* 0.5 of odd1 and 0.7 of open1 against -0.3: 0.9 * 61659.75 */
    ck_assert_int_eq(risk_find_entry(state(), "open1")->quantity, 7 * KEEL_SCALE / 10);
    /* What never became an order may yet; what ended may not. */
    IS(CHECK("gone/1", "BUY", "0.1", "61660", false), "decision.approved", "true");
    ASK(409, "POST", CHECK_MAIN, order_body("over1", "BUY", "0.5", "61660", true));
    ASK(409, "POST", CHECK_MAIN, order_body("found1", "SELL", "0.3", "61660", true));
    strategy.seen[0] = 0;
    tick("lookup");
    ck_assert_str_eq(strategy.seen, "GET /orders/odd1 HTTP/1.1 \n");
    strategy_stop();
    again(NULL);
    IS(report(), "reservations", "1");
    IS(report(), "open_orders", "1");
    /* Strategy is away: nothing is released. */
    grow_old();
    tick("lookup");
    IS(report(), "reservations", "1");
}
END_TEST

START_TEST(strategy_is_told)
{
    put_state(KEEL_SCOPE_TRADE, 200, "{\"state\":\"REDUCING\",\"portfolio_id\":\"main\",\"reason\":\"early\"}");
    while (keel_calls_live(rt) > 0)
        uv_run(rt->loop, UV_RUN_ONCE);
    IS(ASK(200, "GET", "/risk/trading-state", NULL), "portfolios.0.strategy_knows", "false");
    strategy_start();
    tick("tell");
    ck_assert_str_eq(
        strategy.seen,
        "PUT /trading-state HTTP/1.1 {\"state\":\"REDUCING\",\"portfolio_id\":\"main\",\"reason\":\"early\"}\n");
    IS(ASK(200, "GET", "/risk/trading-state", NULL), "portfolios.0.strategy_knows", "true");
    /* A change is told at once, and once. */
    strategy.seen[0] = 0;
    put_state(KEEL_SCOPE_TRADE, 200, "{\"state\":\"HALTED\",\"reason\":\"fire\"}");
    while (keel_calls_live(rt) > 0)
        uv_run(rt->loop, UV_RUN_ONCE);
    tick("tell");
    ck_assert_str_eq(strategy.seen, "PUT /trading-state HTTP/1.1 {\"state\":\"HALTED\",\"reason\":\"fire\"}\n");
    IS(ASK(200, "GET", "/risk/trading-state", NULL), "strategy_knows", "true");
    strategy_stop();
    again(NULL);
    IS(ASK(200, "GET", "/risk/trading-state", NULL), "strategy_knows", "true");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("risk");
    TCase *check = tcase_create("check"), *limits = tcase_create("limits"), *figures = tcase_create("figures"),
          *peers = tcase_create("peers");
    TCase *all[] = {check, limits, figures, peers};

    tcase_add_test(check, unknown_portfolio);
    tcase_add_test(check, supplied);
    tcase_add_loop_test(check, refused_bodies, 0, (int)KEEL_COUNT(bad_check));
    tcase_add_test(check, the_example);
    tcase_add_test(check, a_reservation_is_held_once);
    tcase_add_test(check, a_commit_that_fails_reserves_nothing);
    tcase_add_test(check, many_orders_come_and_go);
    tcase_add_test(check, no_more_than_max_orders);
    tcase_add_test(check, fills_in_any_order);
    tcase_add_test(check, a_fee_in_another_currency);
    tcase_add_test(check, adjustments);
    tcase_add_loop_test(check, a_fill_told_twice, 0, 2);
    tcase_add_test(check, no_mark_denies);
    tcase_add_test(check, reduce_only);
    tcase_add_test(limits, default_limits);
    tcase_add_test(limits, no_default_limits);
    tcase_add_test(limits, limits_made_and_changed);
    tcase_add_loop_test(limits, refused_limits, 0, (int)KEEL_COUNT(bad_limit));
    tcase_add_test(limits, order_rate);
    tcase_add_test(limits, daily_loss);
    tcase_add_test(limits, breaches);
    tcase_add_test(limits, a_limit_that_reduces);
    tcase_add_test(limits, limits_of_one_order);
    tcase_add_test(limits, positions_that_differ);
    tcase_add_test(limits, trading_state);
    tcase_add_test(limits, states_are_bounded);
    tcase_add_test(peers, reservations_without_an_order);
    tcase_add_test(peers, strategy_is_told);
    tcase_add_test(figures, live_value_at_risk);
    tcase_add_test(figures, live_simulation);
    tcase_add_test(figures, supplied_value_at_risk);
    tcase_add_test(figures, given_covariance);
    tcase_add_test(figures, seeds);
    tcase_add_test(figures, simulated_returns);
    tcase_add_test(figures, few_simulations);
    tcase_add_loop_test(figures, huge_returns, 0, (int)KEEL_COUNT(huge_method));
    tcase_add_loop_test(figures, refused_value_at_risk, 0, (int)KEEL_COUNT(bad_var));
    tcase_add_loop_test(figures, accepted_value_at_risk, 0, (int)KEEL_COUNT(good_var));
    tcase_add_test(figures, work_is_bounded);
    tcase_add_test(figures, largest_covariance);
    tcase_add_test(figures, too_many_positions);
    tcase_add_test(figures, stress);
    for (size_t i = 0; i < KEEL_COUNT(all); i++) {
        tcase_add_checked_fixture(all[i], setup, teardown);
        tcase_set_timeout(all[i], 60);
        suite_add_tcase(suite, all[i]);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
