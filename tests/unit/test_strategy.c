/*
 * The strategy engine by loopback: whole calls on stores of their own. Risk is played by a thread
 * with a socket that answers as bodies.md says risk does, or not at all. Figures are those of
 * bodies.md or worked out beside the test. Most tests run plain, whose budget is 30 s, so that a
 * slow machine changes no outcome; what the 48 ms do is tested under the hybrid guard.
 */
#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sqlite3.h>

#include "answers.h"
#include "call_priv.h"
#include "keel/clock.h"
#include "ops.h"

static char dir[256];
static struct keel_rt *rt;
static struct keel_arena *arena;
static const char *answer;

/* ---- risk, played ---- */

enum { APPROVES, DENIES, FAILS, BABBLES, ANOTHER_ID };
static atomic_int risk_does, risk_asked;
static atomic_bool risk_mute; /* does not say what the trading state is */
static int risk_fd = -1;
static int risk_port;
static pthread_t risk_thread;
static char risk_last[4096]; /* body of the last check; read only after its answer */

static void take_text(const char *body, const char *name, char *out, size_t cap)
{
    char quoted[64];
    const char *at;
    size_t n = 0;
    snprintf(quoted, sizeof quoted, "\"%s\":\"", name);
    at = strstr(body, quoted);
    for (at = at != NULL ? at + strlen(quoted) : ""; at[n] != '\0' && at[n] != '"' && n + 1 < cap;
         n++)
        out[n] = at[n];
    out[n] = '\0';
}

static void risk_reply(int fd, const char *request, const char *body)
{
    char id[80], text[1024], head[256];
    int http = 200, does = atomic_load(&risk_does);
    take_text(body, "client_order_id", id, sizeof id);
    if (strncmp(request, "GET", 3) == 0 && atomic_load(&risk_mute))
        http = 500, snprintf(text, sizeof text, "{}");
    else if (strncmp(request, "GET", 3) == 0)
        snprintf(
            text, sizeof text,
            "{\"state\":\"ACTIVE\",\"scopes\":[{\"portfolio_id\":null,\"state\":\"ACTIVE\"}]}");
    else if (does == FAILS)
        http = 500, snprintf(text, sizeof text, "{\"detail\":\"no\"}");
    else if (does == BABBLES)
        snprintf(text, sizeof text, "{\"decision\":{\"approved\":true}}");
    else
        snprintf(text, sizeof text,
                 "{\"status\":\"completed\",\"decision\":{\"approved\":%s,\"basis\":\"live\","
                 "\"client_order_id\":\"%s\","
                 "\"denials\":[%s]}}",
                 does == DENIES ? "false" : "true", does == ANOTHER_ID ? "somebody" : id,
                 does == DENIES ? "{\"code\":\"POSITION_SIZE\",\"limit_id\":\"pos_btc\",\"limit\":"
                                  "\"2\",\"value\":\"2.5\","
                                  "\"headroom\":\"-0.5\"}"
                                : "");
    if (strncmp(request, "POST", 4) == 0) {
        snprintf(risk_last, sizeof risk_last, "%s", body);
        atomic_fetch_add(&risk_asked, 1);
    }
    snprintf(head, sizeof head,
             "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
             "Connection: close\r\n\r\n",
             http, strlen(text));
    /* The engine may have gone with its question open; that is no matter of the test's. */
    (void)send(fd, head, strlen(head), MSG_NOSIGNAL);
    (void)send(fd, text, strlen(text), MSG_NOSIGNAL);
}

static void *risk_run(void *arg)
{
    (void)arg;
    for (;;) {
        int fd = accept(risk_fd, NULL, NULL);
        char buf[8192] = "";
        size_t n = 0, want = SIZE_MAX;
        if (fd < 0)
            return NULL;
        while (n < want && n + 1 < sizeof buf) {
            ssize_t got = read(fd, buf + n, sizeof buf - 1 - n);
            if (got <= 0)
                break;
            n += (size_t)got;
            buf[n] = '\0';
            const char *end = strstr(buf, "\r\n\r\n"), *len = strcasestr(buf, "content-length:");
            if (end != NULL)
                want = (size_t)(end - buf) + 4 +
                       (len != NULL && len < end ? strtoul(len + 15, NULL, 10) : 0);
        }
        const char *body = strstr(buf, "\r\n\r\n");
        if (body != NULL)
            risk_reply(fd, buf, body + 4);
        close(fd);
    }
}

static void risk_start(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    risk_fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(risk_fd, (struct sockaddr *)&at, sizeof at), 0);
    ck_assert_int_eq(listen(risk_fd, 16), 0);
    ck_assert_int_eq(getsockname(risk_fd, (struct sockaddr *)&at, &len), 0);
    risk_port = ntohs(at.sin_port);
    atomic_store(&risk_does, APPROVES);
    ck_assert_int_eq(pthread_create(&risk_thread, NULL, risk_run, NULL), 0);
}

/* From here on nobody listens. */
static void risk_stop(void)
{
    if (risk_fd < 0)
        return;
    shutdown(risk_fd, SHUT_RDWR);
    pthread_join(risk_thread, NULL);
    close(risk_fd);
    risk_fd = -1;
}

/* ---- set-up ---- */

static void start_with(const char *option)
{
    bool bounded = strncmp(option, "--send_deadline_ms", 18) == 0;
    char data[300], url[128], more[128], send[64], err[256] = "";
    char name[] = "strategy-engine", redis[] = "--redis_url=", level[] = "--log_level=error";
    char nobody[] = "--marketdata_url=http://127.0.0.1:1";
    snprintf(send, sizeof send, "--send_deadline_ms=20000");
    snprintf(data, sizeof data, "--data_dir=%s", dir);
    snprintf(url, sizeof url, "--risk_url=http://127.0.0.1:%d", risk_port);
    snprintf(more, sizeof more, "%s", option);
    char *argv[] = {name, data, redis, level, nobody, url, bounded ? more : send, more, NULL};
    rt =
        keel_rt_new(&strategy_engine, option[0] != '\0' && !bounded ? 8 : 7, argv, err, sizeof err);
    ck_assert_msg(rt != NULL, "%s", err);
}

static void open_with(const char *option)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/keel_strategy_XXXXXX", tmp != NULL ? tmp : P_tmpdir);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    arena = keel_arena_new(65536);
    risk_start();
    start_with(option);
}

static void open_engine(void)
{
    setenv("ENABLE_HYBRID", "false", 1);
    open_with("");
}

static void restart(void)
{
    keel_rt_free(rt);
    start_with("");
}

static void close_engine(void)
{
    keel_rt_free(rt);
    keel_arena_free(arena);
    risk_stop();
    DIR *d = opendir(dir);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        unlink(path);
    }
    closedir(d);
    rmdir(dir);
}

static int ask(const char *method, const char *path, const char *body)
{
    return keel_loopback(rt, method, path, body, arena, &answer);
}

static void want(const char *method, const char *path, const char *body, int http)
{
    int got = ask(method, path, body);
    ck_assert_msg(got == http, "%s %s %s: %d, not %d: %s", method, path, body != NULL ? body : "",
                  got, http, answer);
}

/* A member by names from the top: "order.fills.0.price". */
static const char *member(const char *path)
{
    const struct keel_jval *v = answer_find(answer_parse(arena, answer), path);

    if (v == NULL)
        return "(absent)";
    if (v->type == KEEL_JBOOL)
        return v->boolean ? "true" : "false";
    return v->type == KEEL_JNULL ? "(null)" : v->text != NULL ? v->text : "(object)";
}

static void same(const char *path, const char *text)
{
    ck_assert_msg(strcmp(member(path), text) == 0, "%s is %s, not %s, in %s", path, member(path),
                  text, answer);
}

static void on_settled(void *ctx, struct keel_call *call, enum keel_status st)
{
    (void)call;
    *(enum keel_status *)ctx = st;
}

static int64_t session_ns;

/* A record of the bus, as the bus would hand it over; each a millisecond of session time after the
 * other. */
static void record(const char *op, const char *topic, const char *payload)
{
    enum keel_status st = KEEL_WAIT;
    struct keel_header h = {.ts_init = session_ns += 1000000, .seq = 1, .ts_recv = keel_wall_ns()};
    snprintf(h.topic, sizeof h.topic, "%s", topic);
    keel_call_record(rt, keel_op_find(rt, op), &h, payload, strlen(payload), on_settled, &st);
    while (st == KEEL_WAIT)
        uv_run(rt->loop, UV_RUN_ONCE);
    ck_assert_int_eq(st, KEEL_OK);
}

static void quote(const char *symbol, const char *bid, const char *bid_size, const char *offer,
                  const char *offer_size)
{
    record("quote", "marketdata.quote",
           keel_arena_printf(arena,
                             "{\"symbol\":\"%s\",\"bid\":\"%s\",\"bid_size\":\"%s\",\"ask\":\"%s\","
                             "\"ask_size\":\"%s\"}",
                             symbol, bid, bid_size, offer, offer_size));
}

/* Bids 99 x 5, asks 101 x 3, as one changing display. */
static void market(void)
{
    quote("BTCUSDT", "99", "5", "101", "3");
}

static const char *order(const char *id, const char *side, const char *quantity, const char *more)
{
    return keel_arena_printf(
        arena,
        "{\"client_order_id\":\"%s\",\"symbol\":\"BTCUSDT\",\"side\":\"%s\",\"quantity\":\"%s\"%s}",
        id, side, quantity, more);
}

/* Runs an op that otherwise a timer runs. */
static void run(const char *op)
{
    ck_assert_int_eq(keel_spawn_rt(rt, op, NULL), KEEL_OK);
    while (keel_calls_live(rt) > 0)
        uv_run(rt->loop, UV_RUN_ONCE);
}

/* Turns the loop until the order's state is that; the test's own time limit ends a vain wait. */
static void until(const char *id, const char *state)
{
    do {
        uv_run(rt->loop, UV_RUN_ONCE);
        want("GET", keel_arena_printf(arena, "/orders/%s", id), NULL, 200);
    } while (strcmp(member("state"), state) != 0);
}

static void sql(const char *file, const char *text)
{
    sqlite3 *db = NULL;
    char path[300], *why = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_msg(sqlite3_exec(db, text, NULL, NULL, &why) == SQLITE_OK, "%s", why);
    sqlite3_close(db);
}

static const char *sql_text(const char *file, const char *query)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_prepare_v2(db, query, -1, &stmt, NULL), SQLITE_OK);
    const char *text = sqlite3_step(stmt) == SQLITE_ROW
                           ? keel_arena_strdup(arena, (const char *)sqlite3_column_text(stmt, 0))
                           : "(none)";
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return text;
}

#define LIMIT(p) ",\"price\":\"" p "\""
#define GTC(p)   LIMIT(p) ",\"time_in_force\":\"GTC\""

/* ---- execution ---- */

#define EXAMPLE(q)                                                                                 \
    "{\"client_order_id\":\"desk-20261122-0001\",\"symbol\":\"BTCUSDT\",\"side\":\"BUY\","         \
    "\"quantity\":" q ","                                                                          \
    "\"order_type\":\"LIMIT\",\"price\":\"61660\",\"time_in_force\":\"IOC\",\"reduce_only\":"      \
    "false}"

START_TEST(the_published_order)
{
    open_engine();
    quote("BTCUSDT", "61659.7", "2.311", "61659.8", "0.874");
    want("POST", "/strategies/manual/execute", EXAMPLE("\"0.5\""), 200);
    same("status", "executed");
    same("execution_id", "desk-20261122-0001");
    same("strategy_id", "manual");
    same("pnl", "0");
    same("trade_details.quantity", "0.5");
    same("trade_details.price", "61659.8");
    same("replayed", "false");
    same("fallback", "false");
    same("performance.hybrid_optimized", "false");
    same("order.venue_order_id", "PAPER-1");
    same("order.portfolio_id", "main");
    same("order.state", "FILLED");
    same("order.leaves_quantity", "0");
    same("order.avg_fill_price", "61659.8");
    same("order.fee.amount", "12.33196");
    same("order.fee.currency", "USDT");
    same("order.partially", "false");
    same("order.fills.0.trade_id", "PAPER-1");
    same("order.fills.0.fee.amount", "12.33196");
    same("order.fills.0.liquidity", "TAKER");
    same("order.fills.1", "(absent)");
    ck_assert_str_eq(
        risk_last,
        "{\"order\":{\"client_order_id\":\"desk-20261122-0001\",\"strategy_id\":\"manual\","
        "\"symbol\":\"BTCUSDT\",\"side\":\"BUY\",\"quantity\":\"0.5\",\"order_type\":\"LIMIT\","
        "\"price\":\"61660\"},\"reserve\":true}");
    want("POST", "/orders", EXAMPLE("0.5"), 200); /* the same order, the quantity as a number */
    same("replayed", "true");
    same("order.state", "FILLED");
    ck_assert_int_eq(atomic_load(&risk_asked), 1);
    want("POST", "/orders", EXAMPLE("\"0.6\""), 409);
    same("code", "idempotency_conflict");
    want("GET", "/orders/desk-20261122-0001", NULL, 200);
    same("state", "FILLED");
    same("fills.0.price", "61659.8");
    ck_assert_uint_eq(strlen(member("decision.trace_id")), 32);
    same("decision.basis", "(absent)"); /* by hand */
    same("decision.risk.decision.approved", "true");
    ck_assert_int_lt(strcmp(member("decision.risk.asked_at"), member("decision.submitted_at")), 0);
    want("GET", "/fills?after=0", NULL, 200);
    same("fills.0.fill_no", "1");
    same("fills.0.portfolio_id", "main");
    same("count", "1");
    same("next", "(null)");
    want("GET", "/fills?after=1", NULL, 200);
    same("count", "0");
    close_engine();
}
END_TEST

/* The situation of market() for each: 3 offered at 101, 5 wanted at 99. */
static const struct {
    const char *why, *side, *quantity, *more;
    int http;
    const char *status, *state, *filled, *reason;
} way[] = {
    {"filled", "BUY", "2", LIMIT("101"), 200, "executed", "FILLED", "2", "(absent)"},
    {"in part", "BUY", "4", LIMIT("101"), 200, "partially_executed", "CANCELED", "3",
     "no_liquidity"},
    {"not at all", "BUY", "1", LIMIT("100"), 200, "canceled", "CANCELED", "0", "no_liquidity"},
    {"FOK", "BUY", "4", LIMIT("101") ",\"time_in_force\":\"FOK\"", 200, "canceled", "CANCELED", "0",
     "not_fillable"},
    {"rests", "SELL", "1", GTC("100"), 200, "accepted", "ACCEPTED", "0", "(absent)"},
    {"rests with the rest", "SELL", "6", GTC("99"), 200, "partially_executed", "PARTIALLY_FILLED",
     "5", "(absent)"},
    {"market", "SELL", "5", ",\"order_type\":\"MARKET\"", 200, "executed", "FILLED", "5",
     "(absent)"},
    {"no price", "BUY", "1", "", 400, "400", "", "", ""},
    {"market with a price", "BUY", "1", LIMIT("101") ",\"order_type\":\"MARKET\"", 400, "400", "",
     "", ""},
    {"market that rests", "BUY", "1", ",\"order_type\":\"MARKET\",\"time_in_force\":\"GTC\"", 400,
     "400", "", "", ""},
    {"no quantity", "BUY", "0", LIMIT("101"), 400, "400", "", "", ""},
    {"reduce_only with nothing to reduce", "SELL", "1", LIMIT("99") ",\"reduce_only\":true", 422,
     "422", "", "", ""},
};

START_TEST(ways_of_an_order)
{
    open_engine();
    market();
    want("POST", "/orders", order("w", way[_i].side, way[_i].quantity, way[_i].more), way[_i].http);
    same("status", way[_i].status);
    if (way[_i].http == 200) {
        same("order.state", way[_i].state);
        same("order.filled_quantity", way[_i].filled);
        same("order.reason", way[_i].reason);
        same("order.partially",
             strcmp(way[_i].status, "partially_executed") == 0 ? "true" : "false");
        /* The venue's own evidence says the same. */
        ck_assert_str_eq(
            sql_text("paper.db", "SELECT coalesce(sum(quantity), 0) FROM venue_trades"),
            way[_i].filled);
    }
    close_engine();
}
END_TEST

START_TEST(an_unfit_market_is_rejected)
{
    open_engine();
    want("POST", "/orders", order("a", "BUY", "1", LIMIT("101")), 422);
    same("code", "venue_rejected");
    same("detail", "no_liquidity");
    same("order.state", "REJECTED");
    record("book", "marketdata.book",
           "{\"symbol\":\"BTCUSDT\",\"state\":\"STALE\",\"bids\":[[\"99\",\"5\"]],\"asks\":[["
           "\"101\",\"3\"]]}");
    want("POST", "/orders", order("b", "BUY", "1", LIMIT("101")), 422);
    same("detail", "book_not_live");
    market(); /* a quote does not speak for a symbol that has a book */
    want("POST", "/orders", order("c", "BUY", "1", LIMIT("101")), 422);
    same("detail", "book_not_live");
    record("book", "marketdata.book",
           "{\"symbol\":\"BTCUSDT\",\"state\":\"LIVE\",\"bids\":[[\"99\",\"5\"]],\"asks\":[["
           "\"101\",\"1\"],[\"102\",\"2\"]]}");
    want("POST", "/orders", order("d", "BUY", "2", LIMIT("102")), 200);
    same("order.state", "FILLED");
    same("order.avg_fill_price", "101.5");
    same("order.fills.1.price", "102");
    close_engine();
}
END_TEST

START_TEST(ids)
{
    open_engine();
    market();
    want("POST", "/orders",
         "{\"symbol\":\"btcusdt\",\"side\":\"BUY\",\"quantity\":1,\"price\":101}", 200);
    same("order.symbol", "BTCUSDT");
    ck_assert_int_eq(strncmp(member("execution_id"), "P-", 2), 0);
    want("POST", "/orders", order("a b", "BUY", "1", LIMIT("101")), 400);
    want("POST", "/orders", order("x'y", "BUY", "1", LIMIT("101")), 400);
    want("POST", "/orders", "{\"symbol\":\"-B\",\"side\":\"BUY\",\"quantity\":1,\"price\":101}",
         400);
    want("POST", "/orders", order("a", "BUY", "1", LIMIT("101") ",\"strategy_id\":\"other\""), 400);
    want("POST", "/strategies/nobody/execute", order("a", "BUY", "1", LIMIT("101")), 404);
    want("GET", "/orders/nobody", NULL, 404);
    want("DELETE", "/orders/nobody", NULL, 404);
    close_engine();
}
END_TEST

/* Bought 1 at 101 and 1 at 103; sold 1 at 99: cost of half of 204 is 102, so -3. */
START_TEST(profit_and_loss)
{
    open_engine();
    quote("BTCUSDT", "99", "5", "101", "1");
    want("POST", "/orders", order("a", "BUY", "1", LIMIT("101")), 200);
    quote("BTCUSDT", "99", "5", "103", "1");
    want("POST", "/orders", order("b", "BUY", "1", LIMIT("103")), 200);
    want("POST", "/orders", order("c", "SELL", "1", LIMIT("99") ",\"reduce_only\":true"), 200);
    same("pnl", "-3");
    same("order.realized_pnl", "-3");
    want("GET", "/strategies/manual", NULL, 200);
    same("positions.0.symbol", "BTCUSDT");
    same("positions.0.quantity", "1");
    same("positions.0.cost", "102");
    same("positions.0.realized_pnl", "-3");
    close_engine();
}
END_TEST

/* ---- risk ---- */

START_TEST(a_denied_order)
{
    open_engine();
    market();
    atomic_store(&risk_does, DENIES);
    for (int i = 0; i < 2; i++) {
        want("POST", "/orders", order("a", "BUY", "1", LIMIT("101")), 422);
        same("code", "risk_denied");
        same("detail", "POSITION_SIZE pos_btc");
        same("denials.0.headroom", "-0.5");
        same("order.state", "DENIED");
        same("replayed", i == 0 ? "false" : "true");
    }
    want("GET", "/orders/a", NULL, 200);
    same("state", "DENIED");
    ck_assert_str_eq(sql_text("paper.db", "SELECT count(*) FROM orders"), "0");
    close_engine();
}
END_TEST

START_TEST(what_is_no_approval_is_none)
{
    static const int does[] = {FAILS, BABBLES, ANOTHER_ID};

    open_engine();
    market();
    for (size_t i = 0; i < KEEL_COUNT(does); i++) {
        atomic_store(&risk_does, does[i]);
        want("POST", "/orders", order("a", "BUY", "1", LIMIT("101")), 503);
        same("code", "risk_unavailable");
    }
    want("GET", "/orders/a", NULL, 404);
    ck_assert_str_eq(sql_text("paper.db", "SELECT count(*) FROM orders"), "0");
    atomic_store(&risk_does, APPROVES); /* nothing was sent, so the id is free */
    want("POST", "/orders", order("a", "BUY", "1", LIMIT("101")), 200);
    same("replayed", "false");
    close_engine();
}
END_TEST

START_TEST(risk_away)
{
    open_engine();
    market();
    want("POST", "/orders", order("long", "BUY", "2", LIMIT("101")), 200);
    run("sweep"); /* asks risk for the trading state, and reconciles */
    risk_stop();
    want("POST", "/orders", order("more", "BUY", "1", LIMIT("101")), 503);
    want("POST", "/orders", order("turn", "SELL", "2.1", LIMIT("99")), 503);
    want("POST", "/orders", order("cheap", "SELL", "1", LIMIT("94")),
         503); /* mid 100, collar 500 bps: 95 */
    want("POST", "/orders", order("part", "SELL", "0.5", GTC("100")), 200);
    same("fallback", "true");
    same("order.state", "ACCEPTED");
    want("POST", "/orders", order("both", "SELL", "2", LIMIT("99")),
         503); /* 0.5 of the 2 is spoken for */
    want("POST", "/orders", order("out", "SELL", "1", ",\"order_type\":\"MARKET\""), 200);
    same("status", "executed");
    same("fallback", "true");
    ck_assert_ptr_nonnull(strstr(member("fallback_reason"), "reduce_only"));
    want("PUT", "/trading-state", "{\"state\":\"REDUCING\",\"reason\":\"test\"}", 200);
    want("POST", "/orders", order("reducing", "SELL", "0.1", LIMIT("99")), 200);
    want("PUT", "/trading-state",
         "{\"state\":\"HALTED\",\"portfolio_id\":\"main\",\"reason\":\"test\"}", 200);
    same("canceling", "1");
    until("part", "CANCELED");
    want("POST", "/orders", order("halted", "SELL", "0.1", LIMIT("99")), 422);
    same("denials.0.code", "TRADING_HALTED");
    close_engine();
}
END_TEST

START_TEST(risk_away_and_the_trading_state_unknown)
{
    atomic_store(&risk_mute, true);
    open_engine();
    market();
    want("POST", "/orders", order("long", "BUY", "2", LIMIT("101")), 200);
    risk_stop();
    want("POST", "/orders", order("out", "SELL", "1", LIMIT("99")), 503);
    ck_assert_ptr_nonnull(strstr(member("detail"), "trading state"));
    close_engine();
}
END_TEST

START_TEST(risk_away_and_refused)
{
    setenv("ENABLE_HYBRID", "false", 1);
    open_with("--risk_fallback=refuse");
    market();
    want("POST", "/orders", order("long", "BUY", "2", LIMIT("101")), 200);
    run("sweep");
    risk_stop();
    want("POST", "/orders", order("out", "SELL", "1", LIMIT("99")), 503);
    ck_assert_ptr_nonnull(strstr(member("detail"), "refuse"));
    close_engine();
}
END_TEST

START_TEST(the_collar_bounds_a_market_order)
{
    open_engine();
    quote("BTCUSDT", "99", "5", "101", "3");
    want("POST", "/orders", order("long", "BUY", "3", LIMIT("101")), 200);
    record("book", "marketdata.book",
           "{\"symbol\":\"BTCUSDT\",\"state\":\"LIVE\",\"bids\":[[\"99\",\"1\"],[\"95\",\"1\"],["
           "\"94\",\"5\"]],\"asks\":[[\"101\",\"1\"]]}");
    run("sweep");
    risk_stop();
    want("POST", "/orders", order("out", "SELL", "3", ",\"order_type\":\"MARKET\""), 200);
    same("order.state", "CANCELED");
    same("order.filled_quantity", "2"); /* 94 is below 95 */
    close_engine();
}
END_TEST

/* ---- what rests ---- */

START_TEST(resting_orders)
{
    open_engine();
    market();
    want("POST", "/orders", order("a", "BUY", "2", GTC("100")), 200);
    want("POST", "/orders", order("b", "BUY", "2", GTC("100.5")), 200);
    record("trade", "marketdata.trade",
           "{\"symbol\":\"BTCUSDT\",\"price\":\"100\",\"size\":\"9\"}");
    until("b", "FILLED"); /* through 100.5, only at 100 */
    same("avg_fill_price", "100.5");
    same("fee.amount", "0.0402"); /* 2 x 100.5 x 0.0002 */
    same("fills.0.liquidity", "MAKER");
    want("GET", "/orders/a", NULL, 200);
    same("state", "ACCEPTED");
    quote("BTCUSDT", "99", "5", "100", "1.5");
    until("a", "PARTIALLY_FILLED");
    same("filled_quantity", "1.5");
    quote("BTCUSDT", "99", "4", "100", "1.5"); /* the same display gives nothing more */
    want("DELETE", "/orders/a", NULL, 200);
    same("state", "CANCELED");
    same("filled_quantity", "1.5");
    same("reason", "requested");
    want("DELETE", "/orders/a", NULL, 200);
    want("DELETE", "/orders/b", NULL, 409);
    want("POST", "/orders", order("c", "BUY", "1", GTC("98")), 200);
    want("POST", "/orders", order("d", "SELL", "1", GTC("110")), 200);
    want("DELETE", "/orders?portfolio_id=other", NULL, 202);
    same("count", "0");
    want("DELETE", "/orders?portfolio_id=main", NULL, 202);
    same("count", "2");
    until("c", "CANCELED");
    until("d", "CANCELED");
    want("GET", "/orders?state=CANCELED&limit=2", NULL, 200);
    same("count", "2");
    same("orders.0.client_order_id", "d");
    const char *next = member("next");
    want("GET", keel_arena_printf(arena, "/orders?state=CANCELED&after=%s", next), NULL, 200);
    same("count", "1");
    same("orders.0.client_order_id", "a");
    same("next", "(null)");
    close_engine();
}
END_TEST

START_TEST(a_day_order_ends_with_the_day)
{
    open_engine();
    market();
    want("POST", "/orders", order("a", "BUY", "1", LIMIT("98") ",\"time_in_force\":\"DAY\""), 200);
    same("order.state", "ACCEPTED");
    session_ns += 86400LL * 1000000000;
    quote("BTCUSDT", "97", "5", "97.5", "3"); /* crosses, but a day too late */
    until("a", "EXPIRED");
    same("filled_quantity", "0");
    close_engine();
}
END_TEST

START_TEST(a_restart_keeps_everything)
{
    open_engine();
    market();
    want("POST", "/orders", order("a", "BUY", "2", LIMIT("101")), 200);
    want("POST", "/orders", order("b", "BUY", "2", GTC("98")), 200);
    want("PUT", "/trading-state",
         "{\"state\":\"REDUCING\",\"portfolio_id\":\"main\",\"reason\":\"test\"}", 200);
    restart();
    want("GET", "/strategies/manual", NULL, 200);
    same("positions.0.quantity", "2");
    want("POST", "/orders", order("a", "BUY", "2", LIMIT("101")), 200);
    same("replayed", "true");
    same("order.fills.0.trade_id", "PAPER-1");
    ck_assert_str_eq(sql_text("strategy.db", "SELECT state FROM trading_states"), "REDUCING");
    quote("BTCUSDT", "97", "5", "98", "9"); /* b rests at the venue still */
    until("b", "FILLED");
    want("GET", "/fills", NULL, 200);
    same("fills.1.fill_no", "2");
    same("fills.1.trade_id", "PAPER-2");
    same("fills.1.liquidity", "MAKER");
    close_engine();
}
END_TEST

START_TEST(old_orders_are_looked_up_in_the_file)
{
    setenv("ENABLE_HYBRID", "false", 1);
    open_with("--max_closed_orders=2");
    for (int i = 0; i < 6; i++) {
        quote("BTCUSDT", "99", "5", "101", i % 2 == 0 ? "1" : "2");
        want("POST", "/orders", order(keel_arena_printf(arena, "o%d", i), "BUY", "1", LIMIT("101")),
             200);
    }
    ck_assert_uint_le(((struct strategy_state *)rt->state)->orders.n, 3);
    want("POST", "/orders", order("o0", "BUY", "1", LIMIT("101")), 200);
    same("replayed", "true");
    same("order.fills.0.trade_id", "PAPER-1");
    want("POST", "/orders", order("o0", "BUY", "2", LIMIT("101")), 409);
    want("DELETE", "/orders/o0", NULL, 409);
    for (int again = 0; again < 2; again++) {
        const struct strategy_state *s = rt->state;

        ck_assert(strategy_bloom_maybe(&s->evicted, "o0") && strategy_bloom_maybe(&s->evicted, "o3"));
        ck_assert(!strategy_bloom_maybe(&s->evicted, "o5") && !strategy_bloom_maybe(&s->evicted, "new"));
        if (again == 0) {
            keel_rt_free(rt);
            start_with("--max_closed_orders=2");
        }
    }
    want("POST", "/orders", order("o3", "BUY", "1", LIMIT("101")), 200);
    same("replayed", "true");
    quote("BTCUSDT", "99", "5", "101", "1");
    want("POST", "/orders", order("new", "BUY", "1", LIMIT("101")), 200);
    same("replayed", "false");
    close_engine();
}
END_TEST

/* ---- when things go wrong ---- */

static const struct {
    const char *option;
} fault[] = {
    {"--venue_fault=drop_reports"},
    {"--venue_fault=delay_reports"},
    {"--venue_fault=repeat_reports"},
};

/* Whatever becomes of the reports: in the end the journal and the venue's evidence agree, and
 * nothing is there twice. */
START_TEST(faulty_reports)
{
    setenv("ENABLE_HYBRID", "false", 1);
    open_with(fault[_i].option);
    market();
    want("POST", "/orders", order("a", "BUY", "4", LIMIT("101")), 200);
    same("order.state", "CANCELED");
    same("order.filled_quantity", "3");
    want("POST", "/orders", order("b", "BUY", "2", GTC("98")), 200);
    quote("BTCUSDT", "97", "5", "98", "1");
    until("b", "PARTIALLY_FILLED");
    quote("BTCUSDT", "97", "5", "98", "1.5");
    until("b", "FILLED");
    want("GET", "/fills", NULL, 200);
    same("count", "3");
    same("fills.2.fill_no", "3");
    ck_assert_str_eq(
        sql_text("paper.db", "SELECT group_concat(trade_id || quantity) FROM venue_trades"),
        sql_text("strategy.db", "SELECT group_concat(trade_id || quantity) FROM fills"));
    want("GET", "/strategies/manual", NULL, 200);
    same("positions.0.quantity", "5");
    close_engine();
}
END_TEST

/* Under the hybrid guard the client has its 202 at the deadline; the order is resolved by asking
 * the venue. */
START_TEST(a_lost_report_is_202_and_then_found)
{
    const char *id = "";

    setenv("ENABLE_HYBRID", "true", 1);
    open_with("--venue_fault=drop_reports");
    market();
    for (int i = 0, http = 503; i < 20 && http != 202; i++) {
        id = keel_arena_printf(arena, "a%d", i);
        http = ask("POST", "/orders", order(id, "BUY", "1", LIMIT("101")));
        ck_assert_msg(http == 202 || http == 503, "%d: %s", http,
                      answer); /* 503: risk too slow for this machine's load */
    }
    same("status", "unknown");
    same("execution_id", id);
    until(id, "FILLED");
    want("POST", "/orders", order(id, "BUY", "1", LIMIT("101")), 200);
    same("replayed", "true");
    same("status", "executed");
    close_engine();
}
END_TEST

START_TEST(a_failed_commit_sends_nothing)
{
    open_engine();
    market();
    want("POST", "/orders", order("a", "BUY", "1", LIMIT("101")), 200);
    keel_store_fail_next(rt->store, 1);
    want("POST", "/orders", order("b", "BUY", "1", LIMIT("101")), 503);
    same("code", "store_unavailable");
    want("GET", "/orders/b", NULL, 404);
    ck_assert_str_eq(sql_text("paper.db", "SELECT count(*) FROM orders"), "1");
    quote("BTCUSDT", "99", "5", "101", "2");
    want("POST", "/orders", order("b", "BUY", "1", LIMIT("101")), 200);
    same("replayed", "false");
    want("GET", "/fills", NULL, 200);
    same("fills.1.fill_no", "2");
    same("count", "2");
    close_engine();
}
END_TEST

/* The venue filled, but our journal could not say so: the fill is found by asking, once, with the
 * next number. */
START_TEST(a_fill_the_journal_missed)
{
    open_engine();
    market();
    want("POST", "/orders", order("a", "BUY", "2", GTC("98")), 200);
    keel_store_fail_next(rt->store, 1);
    quote("BTCUSDT", "97", "5", "98", "9");
    until("a", "FILLED");
    want("GET", "/fills", NULL, 200);
    same("count", "1");
    same("fills.0.fill_no", "1");
    want("GET", "/strategies/manual", NULL, 200);
    same("positions.0.quantity", "2");
    close_engine();
}
END_TEST

START_TEST(the_venues_file_fails)
{
    open_engine();
    market();
    paper_fail_next(((struct strategy_state *)rt->state)->venue, 1);
    /* Sent, and the venue does not know it: only its own word, given when asked, ends that. */
    int http = ask("POST", "/orders", order("a", "BUY", "1", LIMIT("101")));
    ck_assert_msg(http == 422 || http == 202, "%d %s", http, answer);
    until("a", "REJECTED");
    same("reason", "never_sent");
    want("GET", "/fills", NULL, 200);
    same("count", "0");
    market();
    want("POST", "/orders", order("b", "BUY", "1", LIMIT("101")), 200);
    same("order.state", "FILLED");
    close_engine();
}
END_TEST

/* kill -9 between the journal's commit and the venue's, and between the venue's and the journal's.
 */
START_TEST(killed_in_between)
{
    open_engine();
    market();
    want("POST", "/orders", order("sent", "BUY", "2", LIMIT("101")), 200);
    want("POST", "/orders", order("unsent", "BUY", "1", LIMIT("101")), 200);
    want("POST", "/orders", order("rests", "BUY", "1", GTC("98")), 200);
    keel_rt_free(rt);
    sql("strategy.db", "DELETE FROM fills; UPDATE orders SET state = 'SUBMITTED', filled = '0', "
                       "notional = '0', fee = '0',"
                       " venue_order_id = '', reason = ''");
    sql("paper.db", "DELETE FROM trades WHERE order_no = 2; DELETE FROM orders WHERE order_no = 2");
    start_with("");
    run("sweep");
    until("sent", "FILLED");
    same("fills.0.trade_id", "PAPER-1");
    same("venue_order_id", "PAPER-1");
    until("unsent", "REJECTED");
    same("reason", "never_sent");
    until("rests", "ACCEPTED");
    want("GET", "/fills", NULL, 200);
    same("count", "1");
    run("sweep");
    want("GET", "/fills", NULL, 200);
    same("count", "1");
    close_engine();
}
END_TEST

static void on_release(uv_timer_t *t)
{
    ck_assert_int_eq(sqlite3_exec(t->data, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    uv_close((uv_handle_t *)t, NULL);
}

/* The journal's file is held for 20 ms, so that the order's row is on disk after its deadline. */
START_TEST(a_late_order_is_not_sent)
{
    setenv("ENABLE_HYBRID", "false", 1);
    open_with("--send_deadline_ms=1");
    market();
    sqlite3 *other = NULL;
    uv_timer_t held = {0};
    ck_assert_int_eq(sqlite3_open(keel_arena_printf(arena, "%s/strategy.db", dir), &other),
                     SQLITE_OK);
    sqlite3_busy_timeout(other, 5000);
    ck_assert_int_eq(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    uv_timer_init(rt->loop, &held);
    held.data = other;
    uv_timer_start(&held, on_release, 20, 0);

    want("POST", "/orders", order("a", "BUY", "0.01", LIMIT("101")), 504);
    same("code", "send_deadline");
    same("order.state", "CANCELED");
    sqlite3_close(other);
    ck_assert_str_eq(
        sql_text("paper.db", "SELECT count(*) FROM orders WHERE client_order_id = 'a'"), "0");
    want("POST", "/orders", order("a", "BUY", "0.01", LIMIT("101")), 200);
    same("status", "canceled");
    same("replayed", "true");
    close_engine();
}
END_TEST

/* ---- strategies ---- */

#define RULE "\"fast\":\"sma_10\",\"slow\":\"sma_20\",\"quantity\":\"0.5\""

/* A fresh display, the vector of a bar that closed just then, and a minute passes. */
static void vector(double fast, double slow)
{
    market();
    record("vector", "features.priority.vector",
           keel_arena_printf(arena,
                             "{\"symbol\":\"BTCUSDT\",\"spec\":\"1m\",\"schema_hash\":"
                             "\"0123456789abcdef\",\"ts_close\":%lld,"
                             "\"close\":\"100\",\"bid\":\"99\",\"ask\":\"101\",\"features\":{\"sma_"
                             "10\":%g,\"sma_20\":%g}}",
                             (long long)(session_ns / 1000000000 * 1000000000), fast, slow));
    session_ns += 60LL * 1000000000;
    while (keel_calls_live(rt) > 0)
        uv_run(rt->loop, UV_RUN_ONCE);
}

START_TEST(a_strategy_trades)
{
    open_engine();
    want("POST", "/strategies",
         "{\"strategy_id\":\"trend\",\"strategy_name\":\"trend\",\"kind\":\"ma_cross\",\"symbols\":"
         "[\"btcusdt\"],"
         "\"code\":\"x = 1\",\"risk_limits\":{},\"parameters\":{" RULE ",\"colour\":\"red\"}}",
         200);
    same("status", "created");
    ck_assert_ptr_nonnull(strstr(answer, "colour"));
    want("POST", "/strategies/trend/execute", order("x", "BUY", "1", LIMIT("101")), 409);
    same("code", "not_deployed");
    want("POST", "/strategies/trend/start", "{}", 409);
    want("POST", "/strategies/trend/deploy", "{\"deployment_type\":\"canary\"}", 200);
    same("status", "deployed");
    want("GET", keel_arena_printf(arena, "/deployments/%s/status", member("pipeline_id")), NULL,
         200);
    same("stages_completed", "2");
    want("POST", "/strategies/trend/start", "{}", 200);
    same("status", "running");
    vector(9, 10);
    vector(11, 10);
    want("GET", "/orders?strategy_id=trend", NULL, 200);
    same("count", "1");
    same("orders.0.side", "BUY");
    same("orders.0.state", "FILLED");
    same("orders.0.price", "101");
    ck_assert_int_eq(strncmp(member("orders.0.client_order_id"), "trend-", 6), 0);
    want("GET", keel_arena_printf(arena, "/orders/%s", member("orders.0.client_order_id")), NULL, 200);
    same("decision.basis.vector.features.sma_10", "11");
    same("decision.basis.vector.features.sma_20", "10");
    same("decision.basis.quote.ask", "101");
    vector(12, 10); /* still above: no event */
    vector(9, 10);
    want("GET", "/orders?strategy_id=trend", NULL, 200);
    same("count", "2");
    same("orders.0.side", "SELL");
    same(
        "orders.0.quantity",
        "0.5"); /* max_position is the quantity: from +0.5 no further than -0.5, one order of 0.5 */
    same("orders.0.realized_pnl", "-1"); /* bought at 101, sold at 99 */
    want("GET", "/strategies/trend", NULL, 200);
    same("status", "running");
    same("symbols.0", "BTCUSDT");
    same("parameters.quantity", "0.5");
    want("DELETE", "/strategies/trend", NULL, 409);
    want("POST", "/strategies/trend/stop", "{}", 200);
    same("pnl", "-1");
    want("GET", "/executions", NULL, 200);
    same("executions.0.status", "stopped");
    same("executions.0.pnl", "-1");
    vector(11, 10);
    want("GET", "/orders?strategy_id=trend", NULL, 200);
    same("count", "2");
    want("DELETE", "/strategies/trend", NULL, 200);
    want("GET", "/strategies/trend", NULL, 404);
    want("GET", "/strategies", NULL, 200);
    same("count", "1");
    same("strategies.0.strategy_id", "manual");
    close_engine();
}
END_TEST

START_TEST(the_same_vector_makes_one_order)
{
    open_engine();
    want(
        "POST", "/strategies",
        "{\"strategy_id\":\"t\",\"strategy_name\":\"t\",\"kind\":\"ma_cross\",\"parameters\":{" RULE
        "}}",
        200);
    want("POST", "/strategies/t/deploy", NULL, 200);
    want("POST", "/strategies/t/start", NULL, 200);
    market();
    int64_t from = session_ns;
    vector(9, 10);
    vector(11, 10);
    restart(); /* the zone is forgotten, the orders are not */
    session_ns = from;
    vector(9, 10);
    vector(11, 10);
    want("GET", "/orders?strategy_id=t", NULL, 200);
    same("count", "1");
    close_engine();
}
END_TEST

/* What model says of BTCUSDT's price at session second `at`; to be used until `until`. */
static void predict(const char *model, const char *spec, const char *says, double confidence, int64_t at,
                    int64_t until)
{
    record("prediction", "ml.priority.prediction",
           keel_arena_printf(arena,
                             "{\"prediction_id\":\"P-%lld\",\"model_id\":\"%s\",\"version\":1,\"symbol\":"
                             "\"BTCUSDT\",\"spec\":\"%s\",\"direction\":\"%s\",\"confidence\":%g,"
                             "\"backend\":\"c\",\"as_of\":%lld,\"expires_at\":%lld}",
                             (long long)at, model, spec, says, confidence, (long long)at,
                             (long long)until));
    while (keel_calls_live(rt) > 0)
        uv_run(rt->loop, UV_RUN_ONCE);
}

static void orders_are(const char *n)
{
    want("GET", "/orders?strategy_id=m", NULL, 200);
    same("count", n);
}

#define MINUTE (60LL * 1000000000)

START_TEST(a_strategy_acts_on_predictions)
{
    open_engine();
    want("POST", "/strategies",
         "{\"strategy_id\":\"m\",\"strategy_name\":\"m\",\"kind\":\"model\",\"parameters\":{"
         "\"threshold\":0.6,\"notional\":\"50\",\"max_position\":\"100\",\"lot\":\"0.1\"}}",
         200);
    want("POST", "/strategies/m/deploy", NULL, 200);
    want("POST", "/strategies/m/start", NULL, 200);
    market();
    int64_t t = session_ns;
    predict("price_model", "1m", "UP", 0.55, t, t + MINUTE);
    predict("price_model", "1m", "UP", 0.59, t + 1, t + MINUTE);
    orders_are("0"); /* not sure enough */
    predict("price_model", "5m", "UP", 0.9, t + 2, t + MINUTE);
    predict("other_model", "1m", "UP", 0.9, t + 2, t + MINUTE);
    orders_are("0"); /* of other bars, of another model */
    predict("price_model", "1m", "UP", 0.61, t + 3, t + MINUTE);
    orders_are("1");
    same("orders.0.side", "BUY");
    same("orders.0.state", "FILLED");
    same("orders.0.quantity", "0.5"); /* 50 at the middle of 99 and 101 */
    same("orders.0.price", "101");
    predict("price_model", "1m", "DOWN", 0.9, t + 3, t + MINUTE);
    predict("price_model", "1m", "DOWN", 0.9, t + 2, t + MINUTE);
    orders_are("1"); /* the newest has been acted on: one that is not newer is of no interest */
    predict("price_model", "1m", "DOWN", 0.9, t + 4, t + 5);
    orders_are("1"); /* expired on the way */
    vector(9, 10);
    vector(11, 10);
    orders_are("1"); /* vectors are not what it acts on */
    market();
    t = session_ns;
    predict("price_model", "1m", "DOWN", 0.7, t, t + MINUTE);
    orders_are("2");
    same("orders.0.side", "SELL");
    want("POST", "/strategies/m/stop", "{}", 200);
    predict("price_model", "1m", "UP", 0.9, t + 1, t + MINUTE);
    orders_are("2");
    close_engine();
}
END_TEST

START_TEST(no_prediction_trades_without_a_market)
{
    open_engine();
    want("POST", "/strategies",
         "{\"strategy_id\":\"m\",\"strategy_name\":\"m\",\"kind\":\"model\",\"parameters\":{"
         "\"threshold\":0.6,\"quantity\":\"1\"}}",
         200);
    want("POST", "/strategies/m/deploy", NULL, 200);
    want("POST", "/strategies/m/start", NULL, 200);
    int64_t t = session_ns;
    predict("price_model", "1m", "FLAT", 0.5, t, t + MINUTE);
    predict("price_model", "1m", "UP", 0.9, t + 1, t + MINUTE);
    orders_are("0");
    market();
    predict("price_model", "1m", "FLAT", 0.5, t + 2, t + MINUTE);
    predict("price_model", "1m", "UP", 0.9, t + 3, t + MINUTE);
    orders_are("1");
    close_engine();
}
END_TEST

START_TEST(resting_orders_of_a_strategy_age)
{
    open_engine();
    want(
        "POST", "/strategies",
        "{\"strategy_id\":\"p\",\"strategy_name\":\"p\",\"kind\":\"ma_cross\",\"parameters\":{" RULE
        ",\"time_in_force\":\"GTC\",\"price_offset_bps\":100,\"max_age_s\":90}}",
        200);
    want("POST", "/strategies/p/deploy", NULL, 200);
    want("POST", "/strategies/p/start", NULL, 200);
    vector(9, 10);
    vector(11, 10);
    want("GET", "/orders", NULL, 200);
    same("orders.0.state", "ACCEPTED");
    same("orders.0.price", "98.01"); /* 99 less 1 % */
    const char *id = member("orders.0.client_order_id");
    market(); /* a minute has passed */
    run("tick");
    want("GET", keel_arena_printf(arena, "/orders/%s", id), NULL, 200);
    same("state", "ACCEPTED");
    session_ns += 40LL * 1000000000;
    market();
    run("tick");
    until(id, "CANCELED");
    same("reason", "max_age");
    close_engine();
}
END_TEST

static const struct {
    const char *why, *body;
    int create, deploy;
} definition[] = {
    {"no name", "{\"strategy_id\":\"s\"}", 400, 0},
    {"an id that is none", "{\"strategy_id\":\"a/b\",\"strategy_name\":\"s\"}", 400, 0},
    {"the id of another", "{\"strategy_id\":\"manual\",\"strategy_name\":\"s\"}", 409, 0},
    {"an unknown field", "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"unheard\":1}", 400, 0},
    {"another venue", "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"venue\":\"nyse\"}", 422, 0},
    {"a symbol twice",
     "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"symbols\":[\"A\",\"B\",\"b\"]}", 400, 0},
    {"nothing but a name", "{\"strategy_id\":\"s\",\"strategy_name\":\"s\"}", 200, 200},
    {"no size", "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"kind\":\"imbalance\"}", 200, 422},
    {"two sizes",
     "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"kind\":\"imbalance\",\"parameters\":{"
     "\"quantity\":1,\"notional\":1}}",
     200, 422},
    {"one average",
     "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"kind\":\"ma_cross\",\"parameters\":{"
     "\"quantity\":1,"
     "\"fast\":\"sma_10\",\"slow\":\"sma_10\"}}",
     200, 422},
    {"a market order that rests",
     "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"kind\":\"imbalance\",\"parameters\":{"
     "\"quantity\":1,"
     "\"order_type\":\"MARKET\",\"time_in_force\":\"GTC\"}}",
     200, 422},
    {"a model that acts on less than even odds",
     "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"kind\":\"model\",\"parameters\":{\"quantity\":1,"
     "\"threshold\":0.4}}",
     200, 422},
    {"good",
     "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"kind\":\"rsi_reversion\",\"parameters\":{"
     "\"notional\":\"100\"}}",
     200, 200},
};

START_TEST(definitions)
{
    open_engine();
    want("POST", "/strategies", definition[_i].body, definition[_i].create);
    if (definition[_i].create == 200) {
        want("POST", "/strategies/s/deploy", NULL, definition[_i].deploy);
        want("GET", "/deployments/D-1/status", NULL, 200);
        same("status", definition[_i].deploy == 200 ? "deployed" : "failed");
        want("GET", "/strategies/s", NULL, 200);
        same("status", definition[_i].deploy == 200 ? "deployed" : "draft");
    }
    close_engine();
}
END_TEST

/* ---- backtests: the figures are test_backtest.c's ---- */

#define CROSSES(more)                                                                              \
    "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"kind\":\"ma_cross\",\"parameters\":{"                \
    "\"quantity\":1}" more "}"
#define BAR(ts, figures) "{\"ts_close\":" ts "," figures "}"
#define FIVES    "\"open\":5,\"high\":5,\"low\":5,\"close\":5,\"volume\":1"
#define TWO_BARS "\"bars\":[" BAR("1", FIVES) "," BAR("2", FIVES) "]"

static const struct {
    const char *why, *create, *body;
    int http;
    const char *code, *field;
} testing[] = {
    {"no such strategy", NULL, "{}", 404, "not_found", "strategy_id"},
    {"nothing to run", "{\"strategy_id\":\"s\",\"strategy_name\":\"s\"}", "{" TWO_BARS "}", 409, "no_kind",
     NULL},
    {"a rule on quotes",
     "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"kind\":\"imbalance\",\"parameters\":{"
     "\"quantity\":1}}",
     "{" TWO_BARS "}", 422, "invalid_definition", "parameters"},
    {"no size", "{\"strategy_id\":\"s\",\"strategy_name\":\"s\",\"kind\":\"rsi_reversion\"}",
     "{" TWO_BARS "}", 422, "invalid_definition", "parameters"},
    {"which symbol", CROSSES(""), "{}", 400, "missing", "symbol"},
    {"no symbol", CROSSES(""), "{\"symbol\":\"a/b\"}", 400, "bad_symbol", "symbol"},
    {"a spec that would be another request", CROSSES(",\"symbols\":[\"A\"],\"spec\":\"1m&x=1\""), "{}", 422,
     "no_bars", NULL},
    {"nobody has the bars", CROSSES(",\"symbols\":[\"A\"]"), "{}", 503, "marketdata_unavailable", NULL},
    {"one bar", CROSSES(""), "{\"bars\":[" BAR("1", FIVES) "]}", 400, "too_few", "bars"},
    {"one bar of the last day", CROSSES(""),
     "{\"duration_days\":1,\"bars\":[" BAR("1", FIVES) "," BAR("86400000000001", FIVES) "]}", 400, "too_few_bars",
     "bars"},
    {"out of order", CROSSES(""), "{\"bars\":[" BAR("2", FIVES) "," BAR("2", FIVES) "]}", 400, "out_of_range",
     "bars[1].ts_close"},
    {"a time beyond all", CROSSES(""), "{\"bars\":[" BAR("-9223372036854775808", FIVES) "," BAR("1", FIVES) "]}", 400,
     "out_of_range", "bars[0].ts_close"},
    {"the times farthest apart", CROSSES(""),
     "{\"duration_days\":36500,\"bars\":[" BAR("-2000000000000000000", FIVES) "," BAR("6999999999999999999", FIVES) ","
     BAR("7000000000000000000", FIVES) "]}", 200, NULL, NULL},
    {"a high that is none", CROSSES(""),
     "{\"bars\":[" BAR("1", FIVES) "," BAR("2", "\"open\":5,\"high\":5,\"low\":5,\"close\":6") "]}", 400,
     "out_of_range", "bars[1].high"},
    {"nothing was traded", CROSSES(""),
     "{\"bars\":[" BAR("1", "\"open\":5,\"high\":5,\"low\":5,\"close\":5") ","
     BAR("2", "\"open\":5,\"high\":5,\"low\":5,\"close\":5") "]}",
     400, "no_volume", "participation"},
    {"paper trading is no test", CROSSES(""), "{\"test_type\":\"paper_trading\"}", 422, "not_a_test", "test_type"},
    {"no cash", CROSSES(""), "{\"initial_cash\":0," TWO_BARS "}", 400, "out_of_range", "initial_cash"},
    {"good", CROSSES(""), "{" TWO_BARS "}", 200, NULL, NULL},
};

START_TEST(what_can_be_tested)
{
    open_engine();
    if (testing[_i].create != NULL)
        want("POST", "/strategies", testing[_i].create, 200);
    want("POST", "/strategies/s/test", testing[_i].body, testing[_i].http);
    if (testing[_i].code != NULL)
        same("code", testing[_i].code);
    if (testing[_i].field != NULL)
        same("field", testing[_i].field);
    close_engine();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("strategy");
    TCase *tc = tcase_create("strategy");
    SRunner *sr;

    session_ns = 1767364200LL * 1000000000; /* 2026-01-02T14:30:00Z */
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, the_published_order);
    tcase_add_loop_test(tc, ways_of_an_order, 0, (int)KEEL_COUNT(way));
    tcase_add_test(tc, an_unfit_market_is_rejected);
    tcase_add_test(tc, ids);
    tcase_add_test(tc, profit_and_loss);
    tcase_add_test(tc, a_denied_order);
    tcase_add_test(tc, what_is_no_approval_is_none);
    tcase_add_test(tc, risk_away);
    tcase_add_test(tc, risk_away_and_the_trading_state_unknown);
    tcase_add_test(tc, risk_away_and_refused);
    tcase_add_test(tc, the_collar_bounds_a_market_order);
    tcase_add_test(tc, resting_orders);
    tcase_add_test(tc, a_day_order_ends_with_the_day);
    tcase_add_test(tc, a_restart_keeps_everything);
    tcase_add_test(tc, old_orders_are_looked_up_in_the_file);
    tcase_add_loop_test(tc, faulty_reports, 0, (int)KEEL_COUNT(fault));
    tcase_add_test(tc, a_lost_report_is_202_and_then_found);
    tcase_add_test(tc, a_failed_commit_sends_nothing);
    tcase_add_test(tc, a_fill_the_journal_missed);
    tcase_add_test(tc, the_venues_file_fails);
    tcase_add_test(tc, killed_in_between);
    tcase_add_test(tc, a_late_order_is_not_sent);
    tcase_add_test(tc, a_strategy_trades);
    tcase_add_test(tc, the_same_vector_makes_one_order);
    tcase_add_test(tc, a_strategy_acts_on_predictions);
    tcase_add_test(tc, no_prediction_trades_without_a_market);
    tcase_add_test(tc, resting_orders_of_a_strategy_age);
    tcase_add_loop_test(tc, definitions, 0, (int)KEEL_COUNT(definition));
    tcase_add_loop_test(tc, what_can_be_tested, 0, (int)KEEL_COUNT(testing));
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
