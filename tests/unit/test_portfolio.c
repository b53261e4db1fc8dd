/*
 * The portfolio engine by loopback: whole calls on a store of their own, no sockets but the one on which a strategy
 * is played that has fills to hand out. Figures are those of bodies.md or worked out beside the test.
 */
#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "answers.h"
#include "call_priv.h"
#include "keel/clock.h"
#include "ops.h"

static char dir[256];
static struct keel_rt *rt;
static struct keel_arena *arena;
static const char *answer;
static const char *strategy_url = "http://127.0.0.1:1"; /* nobody listens */

/* ---- set-up ---- */

static void start(void)
{
    char data[300], strategy[128], err[256] = "";
    char name[] = "portfolio-engine", redis[] = "--redis_url=", level[] = "--log_level=error";
    snprintf(data, sizeof data, "--data_dir=%s", dir);
    snprintf(strategy, sizeof strategy, "--strategy_url=%s", strategy_url);
    char *argv[] = {name, data, redis, strategy, level, NULL};
    rt = keel_rt_new(&portfolio_engine, 5, argv, err, sizeof err);
    ck_assert_msg(rt != NULL, "%s", err);
}

static void open_engine(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/keel_portfolio_XXXXXX", tmp != NULL ? tmp : P_tmpdir);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    arena = keel_arena_new(65536);
    setenv("ENABLE_HYBRID", "false", 1); /* no deadline of ours: a commit takes what the disk takes */
    start();
}

static void close_engine(void)
{
    keel_rt_free(rt);
    keel_arena_free(arena);
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
    ck_assert_msg(got == http, "%s %s %s: %d, not %d: %s", method, path, body != NULL ? body : "", got, http, answer);
}

/* The text of a member, by names from the top: "account.cash". */
static const char *member(const char *path)
{
    const struct keel_jval *v = answer_find(answer_parse(arena, answer), path);

    if (v == NULL)
        return "(absent)";
    return v->type == KEEL_JNULL ? "(null)" : v->text != NULL ? v->text : "(object)";
}

static void same(const char *path, const char *text)
{
    ck_assert_msg(strcmp(member(path), text) == 0, "%s is %s, not %s, in %s", path, member(path), text, answer);
}

static void on_settled(void *ctx, struct keel_call *call, enum keel_status st)
{
    (void)call;
    *(enum keel_status *)ctx = st;
}

/* A record of the bus, as the bus would hand it over. */
static enum keel_status record(const char *op, const char *payload)
{
    enum keel_status st = KEEL_WAIT;
    struct keel_header h = {.ts_init = keel_wall_ns(), .seq = 1};
    keel_call_record(rt, keel_op_find(rt, op), &h, payload, strlen(payload), on_settled, &st);
    while (st == KEEL_WAIT)
        uv_run(rt->loop, UV_RUN_ONCE);
    return st;
}

static void quote(const char *symbol, const char *bid, const char *ask_price)
{
    const char *payload = keel_arena_printf(
        arena, "{\"symbol\":\"%s\",\"bid\":\"%s\",\"bid_size\":\"1\",\"ask\":\"%s\",\"ask_size\":\"1\"}", symbol, bid,
        ask_price);
    ck_assert_int_eq(record("quote", payload), KEEL_OK);
}

#define EXAMPLE                                                                                                      \
    "{\"trade_id\":\"PAPER-7781\",\"client_order_id\":\"desk-20261122-0001\",\"strategy_id\":\"manual\","            \
    "\"venue\":\"paper\",\"symbol\":\"BTCUSDT\",\"side\":\"BUY\",\"quantity\":\"0.5\",\"price\":\"%s\","             \
    "\"fee\":{\"amount\":\"12.33196\",\"currency\":\"USDT\"},\"ts_event\":\"2026-11-22T17:51:04.123456789Z\"%s}"

static const char *example(const char *price, const char *more)
{
    return keel_arena_printf(arena, EXAMPLE, price, more);
}

static const char *fill_of(const char *trade_id, const char *symbol, const char *side, const char *quantity,
                           const char *price)
{
    return keel_arena_printf(
        arena,
        "{\"trade_id\":\"%s\",\"client_order_id\":\"o-%s\",\"strategy_id\":\"s\",\"venue\":\"paper\","
        "\"symbol\":\"%s\",\"side\":\"%s\",\"quantity\":\"%s\",\"price\":\"%s\","
        "\"fee\":{\"amount\":\"0\",\"currency\":\"USDT\"},\"ts_event\":\"2026-11-22T17:51:04Z\"}",
        trade_id, trade_id, symbol, side, quantity, price);
}

/* ---- tests ---- */

START_TEST(main_is_there_from_the_start)
{
    open_engine();
    want("GET", "/portfolios/main", NULL, 200);
    same("portfolio_id", "main");
    same("account.cash", "1000000");
    same("account.equity", "1000000");
    same("account.equity_change", "0");
    same("initial_value", "1000000");
    same("ledger.sum", "0");
    same("fills", "0");
    same("last_fill_no", "0");
    want("GET", "/portfolios/nobody", NULL, 404);
    close_engine();
}
END_TEST

START_TEST(the_published_fill)
{
    open_engine();
    quote("BTCUSDT", "61659.7", "61659.8");
    want("POST", "/portfolios/main/fills", example("61659.8", ""), 200);
    ck_assert_str_eq(
        answer,
        "{\"status\":\"applied\",\"portfolio_id\":\"main\",\"trade_id\":\"PAPER-7781\","
        "\"position\":{\"symbol\":\"BTCUSDT\",\"quantity\":\"0.5\",\"avg_cost\":\"61659.8\",\"mark\":\"61659.75\","
        "\"market_value\":\"30829.875\",\"realized_pnl\":\"0\",\"unrealized_pnl\":\"-0.025\"},"
        "\"account\":{\"currency\":\"USDT\",\"cash\":\"969157.76804\",\"equity\":\"999987.64304\","
        "\"realized_pnl\":\"0\",\"unrealized_pnl\":\"-0.025\",\"fees\":\"12.33196\","
        "\"equity_change\":\"-12.35696\"},\"ledger\":{\"entry_id\":2,\"sum\":\"0\"}}");
    want("POST", "/portfolios/main/fills", example("61659.8", ",\"liquidity\":\"TAKER\""), 200);
    same("status", "duplicate");
    same("ledger.entry_id", "2");
    same("account.cash", "969157.76804");
    want("POST", "/portfolios/main/fills", example("61659.9", ""), 409);
    want("GET", "/portfolios/main", NULL, 200);
    same("fills", "1");
    same("ledger.entries", "2");
    same("cash_balance", "969157.76804");
    same("total_value", "999987.64304");
    close_engine();
}
END_TEST

START_TEST(without_a_mark_nothing_is_made_up)
{
    open_engine();
    want("POST", "/portfolios/main/fills", fill_of("1", "ETHUSDT", "SELL", "2", "100"), 200);
    same("position.quantity", "-2");
    same("position.avg_cost", "100");
    same("position.mark", "(null)");
    same("position.market_value", "(null)");
    same("position.unrealized_pnl", "(null)");
    same("account.equity", "(null)");
    same("account.unrealized_pnl", "(null)");
    same("account.equity_change", "(null)");
    same("account.cash", "1000200");
    same("undefined.equity", "no fresh price of ETHUSDT");
    same("undefined.unrealized_pnl", "no fresh price of ETHUSDT");
    same("undefined.equity_change", "no fresh price of ETHUSDT");
    ck_assert_ptr_nonnull(strstr(answer, "\"position.mark\":\"no fresh price of ETHUSDT\""));
    ck_assert_ptr_nonnull(strstr(answer, "\"position.market_value\":\"no fresh price of ETHUSDT\""));
    ck_assert_ptr_nonnull(strstr(answer, "\"position.unrealized_pnl\":\"no fresh price of ETHUSDT\""));
    ck_assert_ptr_null(strstr(answer, "\"position.avg_cost\""));
    want("GET", "/portfolios/main", NULL, 200);
    same("undefined.equity", "no fresh price of ETHUSDT");
    ck_assert_int_eq(record("trade", "{\"symbol\":\"ETHUSDT\",\"price\":\"90\",\"size\":\"1\"}"), KEEL_OK);
    want("GET", "/portfolios/main/positions", NULL, 200);
    same("positions.0.mark", "90");
    same("positions.0.market_value", "-180");
    same("positions.0.unrealized_pnl", "20");
    want("POST", "/portfolios/main/fills", fill_of("2", "ETHUSDT", "BUY", "2", "95"), 200);
    same("position.quantity", "0");
    same("position.avg_cost", "(null)");
    same("position.realized_pnl", "10");
    same("account.equity_change", "10");
    close_engine();
}
END_TEST

static const struct {
    const char *why, *path, *body;
    int http;
} refused[] = {
    {"unknown portfolio", "/portfolios/nobody/fills", EXAMPLE, 404},
    {"quantity 0", "/portfolios/main/fills",
     "{\"trade_id\":\"1\",\"client_order_id\":\"a\",\"strategy_id\":\"s\",\"venue\":\"v\",\"symbol\":\"A\",\"side\":"
     "\"BUY\","
     "\"quantity\":\"0\",\"price\":\"1\",\"fee\":{\"amount\":\"0\",\"currency\":\"USDT\"},\"ts_event\":\"2026-11-"
     "22T17:51:04Z\"}",
     400},
    {"no identity", "/portfolios/main/fills",
     "{\"client_order_id\":\"a\",\"strategy_id\":\"s\",\"venue\":\"v\",\"symbol\":\"A\",\"side\":\"BUY\","
     "\"quantity\":\"1\",\"price\":\"1\",\"fee\":{\"amount\":\"0\",\"currency\":\"USDT\"},\"ts_event\":\"2026-11-"
     "22T17:51:04Z\"}",
     400},
    {"a fee in another currency: there is no rate", "/portfolios/main/fills",
     "{\"trade_id\":\"1\",\"client_order_id\":\"a\",\"strategy_id\":\"s\",\"venue\":\"v\",\"symbol\":\"A\",\"side\":"
     "\"BUY\","
     "\"quantity\":\"1\",\"price\":\"1\",\"fee\":{\"amount\":\"1\",\"currency\":\"BNB\"},\"ts_event\":\"2026-11-"
     "22T17:51:04Z\"}",
     422},
    {"no symbol", "/portfolios/main/fills",
     "{\"trade_id\":\"1\",\"client_order_id\":\"a\",\"strategy_id\":\"s\",\"venue\":\"v\",\"symbol\":\"A "
     "B\",\"side\":\"BUY\","
     "\"quantity\":\"1\",\"price\":\"1\",\"fee\":{\"amount\":\"0\",\"currency\":\"USDT\"},\"ts_event\":\"2026-11-"
     "22T17:51:04Z\"}",
     400},
    {"no money", "/portfolios", "{\"portfolio_name\":\"x\"}", 400},
    {"two figures", "/portfolios", "{\"portfolio_name\":\"x\",\"initial_value\":100,\"cash_balance\":10}", 400},
    {"a debt", "/portfolios", "{\"portfolio_name\":\"x\",\"initial_value\":-1}", 400},
    {"an id that is none", "/portfolios", "{\"portfolio_name\":\"x\",\"initial_value\":1,\"portfolio_id\":\"a/b\"}",
     400},
    {"the id of another", "/portfolios", "{\"portfolio_name\":\"x\",\"initial_value\":1,\"portfolio_id\":\"main\"}",
     409},
    {"a symbol twice", "/portfolios/with-symbols",
     "{\"portfolio_name\":\"x\",\"initial_value\":1,\"symbols\":[\"A\",\"a\"]}", 400},
    {"a position without cost", "/portfolios/main/positions", "{\"positions\":{\"A\":{\"quantity\":1}}}", 400},
    {"a position of nothing", "/portfolios/main/positions", "{\"positions\":{\"A\":{\"quantity\":0,\"avg_cost\":1}}}",
     400},
    {"a price finer than 1e-9", "/portfolios/main/positions",
     "{\"positions\":{\"A\":{\"quantity\":1,\"avg_cost\":\"0.0000000001\"}}}", 400},
    {"no positions", "/portfolios/main/positions", "{\"positions\":{}}", 400},
    {"positions of nobody", "/portfolios/nobody/positions", "{\"positions\":{\"A\":{\"quantity\":1,\"avg_cost\":1}}}",
     404},
};

START_TEST(what_is_wrong_changes_nothing)
{
    open_engine();
    const char *body = strcmp(refused[_i].body, EXAMPLE) == 0 ? example("1", "") : refused[_i].body;
    int http = ask("POST", refused[_i].path, body);
    ck_assert_msg(http == refused[_i].http, "%s: %d: %s", refused[_i].why, http, answer);
    want("GET", "/portfolios/main", NULL, 200);
    same("account.cash", "1000000");
    same("fills", "0");
    want("GET", "/portfolios", NULL, 200);
    same("count", "1");
    close_engine();
}
END_TEST

START_TEST(opening_balances)
{
    open_engine();
    quote("AAPL", "110", "110");
    quote("MSFT", "90", "90");
    want("POST", "/portfolios/main/positions",
         "{\"positions\":{\"aapl\":{\"quantity\":10,\"avg_cost\":100,\"market_value\":1,\"unrealized_pnl\":2},"
         "\"MSFT\":{\"quantity\":\"-5\",\"avg_cost\":\"100\"}}}",
         200);
    same("status", "opened");
    same("positions.0.symbol", "AAPL");
    same("positions.0.unrealized_pnl", "100");
    same("positions.1.unrealized_pnl", "50");
    same("account.cash", "1000000"); /* positions were brought in, not bought */
    same("account.equity", "1000650");
    same("account.equity_change", "150");
    same("ledger.sum", "0");
    same("ignored.0", "market_value");
    want("POST", "/portfolios/main/positions", "{\"positions\":{\"AAPL\":{\"quantity\":1,\"avg_cost\":1}}}", 409);
    want("POST", "/portfolios/main/positions", "{\"positions\":[{\"symbol\":\"IBM\",\"quantity\":1,\"avg_cost\":1}]}",
         200);
    want("GET", "/portfolios/main", NULL, 200);
    same("ledger.entries", "4");
    same("initial_value", "1000501");
    close_engine();
}
END_TEST

START_TEST(portfolios_are_made_and_listed)
{
    open_engine();
    want("POST", "/portfolios",
         "{\"portfolio_name\":\"One\",\"cash_balance\":\"250.5\",\"optimization_method\":\"risk_parity\"}", 200);
    same("status", "created");
    same("portfolio_id", "P-2");
    same("cash_balance", "250.5");
    same("optimization_method", "risk_parity");
    want("POST", "/portfolios/with-symbols",
         "{\"portfolio_name\":\"Two\",\"portfolio_id\":\"two\",\"initial_value\":7,\"symbols\":[\"spy\",\"QQQ\"]}",
         200);
    same("positions.0.symbol", "SPY");
    same("positions.1.quantity", "0");
    want("GET", "/portfolios?limit=2", NULL, 200);
    same("portfolios.0.portfolio_id", "two");
    same("portfolios.1.portfolio_id", "P-2");
    same("count", "2");
    same("next", "P-2");
    want("GET", "/portfolios?limit=2&after=P-2", NULL, 200);
    same("portfolios.0.portfolio_id", "main");
    same("next", "(null)");
    want("POST", "/portfolios/two/positions", "{\"positions\":{\"SPY\":{\"quantity\":1,\"avg_cost\":2}}}", 200);
    want("GET", "/portfolios?after=nobody", NULL, 400);
    close_engine();
}
END_TEST

START_TEST(the_ledger_is_paged_and_balanced)
{
    open_engine();
    for (int i = 0; i < 5; i++) {
        const char *id = keel_arena_printf(arena, "t%d", i);
        want("POST", "/portfolios/main/fills", fill_of(id, "A", i % 2 ? "SELL" : "BUY", "3", i % 2 ? "1.1" : "1"),
             200);
    }
    want("GET", "/portfolios/main/ledger?limit=4", NULL, 200);
    same("count", "4");
    same("next", "3");
    same("entries.0.entry_id", "6");
    same("entries.0.kind", "fill");
    same("entries.0.ref", "paper t4");
    same("entries.1.sum", "0");
    /* The second sale of 3 at 1.1, bought at 1: cash 3.3, cost -3, realised 0.3 (a credit). */
    same("entries.1.postings.0.account", "cash");
    same("entries.1.postings.0.amount", "3.3");
    same("entries.1.postings.1.symbol", "A");
    same("entries.1.postings.1.amount", "-3");
    same("entries.1.postings.2.account", "realized_pnl");
    same("entries.1.postings.2.amount", "-0.3");
    want("GET", "/portfolios/main/ledger?limit=4&after=3", NULL, 200);
    same("count", "2");
    same("next", "(null)");
    same("entries.1.kind", "cash");
    same("entries.1.postings.0.amount", "1000000");
    want("GET", "/portfolios/main/ledger?client_order_id=o-t3", NULL, 200);
    same("count", "1");
    same("entries.0.ref", "paper t3");
    same("entries.0.client_order_id", "o-t3");
    ck_assert_uint_eq(strlen(member("entries.0.trace_id")), 32);
    ck_assert_str_ne(member("entries.0.booked_at"), "(absent)");
    want("GET", "/portfolios/main/ledger?client_order_id=o-t9", NULL, 200);
    same("count", "0");
    want("GET", "/portfolios/nobody/ledger", NULL, 404);
    close_engine();
}
END_TEST

START_TEST(a_restart_finds_the_same)
{
    open_engine();
    quote("BTCUSDT", "61659.7", "61659.8");
    want("POST", "/portfolios/main/fills", example("61659.8", ",\"fill_no\":1"), 200);
    want("POST", "/portfolios/main/fills", fill_of("x", "A", "SELL", "0.333333333", "3.000000001"), 200);
    want("POST", "/portfolios", "{\"portfolio_name\":\"One\",\"cash_balance\":5}", 200);
    want("GET", "/portfolios/main", NULL, 200);
    const char *cash = keel_arena_strdup(arena, member("account.cash"));
    keel_rt_free(rt);
    start();
    want("GET", "/portfolios/main", NULL, 200);
    same("account.cash", cash);
    same("positions.0.quantity", "0.5");
    same("positions.0.avg_cost", "61659.8");
    same("positions.1.quantity", "-0.333333333");
    same("fills", "2");
    same("ledger.entries", "3");
    same("last_fill_no", "1");
    want("POST", "/portfolios/main/fills", example("61659.8", ""), 200);
    same("status", "duplicate");
    want("GET", "/portfolios/P-2", NULL, 200);
    close_engine();
}
END_TEST

START_TEST(a_failed_commit_leaves_nothing)
{
    open_engine();
    want("POST", "/portfolios/main/fills", fill_of("1", "A", "BUY", "1", "10"), 200);
    keel_store_fail_next(keel_store(rt), 1);
    want("POST", "/portfolios/main/fills", fill_of("2", "A", "BUY", "1", "10"), 503);
    same("code", "store_unavailable");
    want("GET", "/portfolios/main", NULL, 200);
    same("account.cash", "999990");
    same("fills", "1");
    want("POST", "/portfolios/main/fills", fill_of("2", "A", "BUY", "1", "10"), 200);
    same("status", "applied");
    same("account.cash", "999980");
    close_engine();
}
END_TEST

START_TEST(fills_of_one_portfolio_do_not_mix)
{
    open_engine();
    enum keel_status st[20];
    struct keel_header h = {.ts_init = keel_wall_ns()};
    const struct keel_op *op = keel_op_find(rt, "fill_pulled");
    for (int i = 0; i < 20; i++) {
        const char *id = keel_arena_printf(arena, "b%d", i / 2); /* each twice, at the same time */
        const char *body = keel_arena_printf(arena, "%.*s,\"portfolio_id\":\"main\",\"fill_no\":%d}",
                                             (int)strlen(fill_of(id, "A", "BUY", "1", "10")) - 1,
                                             fill_of(id, "A", "BUY", "1", "10"), i / 2 + 1);
        st[i] = KEEL_WAIT;
        keel_call_record(rt, op, &h, body, strlen(body), on_settled, &st[i]);
    }
    for (int i = 0; i < 20; i++) {
        while (st[i] == KEEL_WAIT)
            uv_run(rt->loop, UV_RUN_ONCE);
        ck_assert_int_eq(st[i], KEEL_OK);
    }
    want("GET", "/portfolios/main", NULL, 200);
    same("fills", "10");
    same("last_fill_no", "10");
    same("account.cash", "999900");
    close_engine();
}
END_TEST

/* ---- a strategy that has fills ---- */

static int listener = -1;
static uv_tcp_t server;
static int n_asked;
static char asked[8][128];

struct conn {
    uv_tcp_t tcp;
    uv_write_t write;
    char in[4096], out[4096];
    size_t len;
};

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

static void reply(struct conn *c)
{
    static const char two[] =
        "{\"fills\":[%.*s,\"portfolio_id\":\"main\",\"fill_no\":1},%.*s,\"portfolio_id\":\"main\",\"fill_no\":2}],"
        "\"count\":2,\"next\":null}";
    const char *a = fill_of("p1", "A", "BUY", "1", "10"), *b = fill_of("p2", "A", "BUY", "1", "12");
    char body[2048] = "{\"fills\":[],\"count\":0,\"next\":null}";
    if (strstr(c->in, "after=0&") != NULL)
        snprintf(body, sizeof body, two, (int)strlen(a) - 1, a, (int)strlen(b) - 1, b);
    if (strncmp(c->in, "GET /fills", 10) == 0) /* the engine's health asks too */
        snprintf(asked[n_asked++ % 8], sizeof asked[0], "%.*s", (int)strcspn(c->in, "\r"), c->in);
    int n = snprintf(c->out, sizeof c->out,
                     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    uv_buf_t buf = uv_buf_init(c->out, (unsigned)n);
    uv_write(&c->write, (uv_stream_t *)&c->tcp, &buf, 1, NULL);
}

static void on_alloc(uv_handle_t *h, size_t n, uv_buf_t *buf)
{
    struct conn *c = h->data;
    (void)n;
    *buf = uv_buf_init(c->in, sizeof c->in - 1);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = s->data;
    (void)buf;
    if (n < 0) {
        uv_close((uv_handle_t *)s, on_closed);
        return;
    }
    c->in[n] = '\0';
    reply(c);
}

static void on_connection(uv_stream_t *s, int status)
{
    struct conn *c = calloc(1, sizeof *c);
    ck_assert_int_eq(status, 0);
    uv_tcp_init(rt->loop, &c->tcp);
    c->tcp.data = c;
    uv_accept(s, (uv_stream_t *)&c->tcp);
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
}

START_TEST(missing_fills_are_asked_for)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    static char url[64];
    listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(listener, (const struct sockaddr *)&addr, len), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", ntohs(addr.sin_port));
    strategy_url = url;
    open_engine();
    uv_tcp_init(rt->loop, &server);
    ck_assert_int_eq(uv_tcp_open(&server, listener), 0);
    ck_assert_int_eq(uv_listen((uv_stream_t *)&server, 8, on_connection), 0);
    const struct portfolio_state *s = rt->state;
    while (!s->is_caught_up)
        uv_run(rt->loop, UV_RUN_ONCE);
    ck_assert_msg(n_asked == 2, "%d: %s, %s, %s", n_asked, asked[0], asked[1], asked[2]);
    ck_assert_str_eq(asked[0], "GET /fills?after=0&limit=500 HTTP/1.1");
    ck_assert_str_eq(asked[1], "GET /fills?after=2&limit=500 HTTP/1.1");
    want("GET", "/portfolios/main", NULL, 200);
    same("fills", "2");
    same("last_fill_no", "2");
    same("account.cash", "999978");
    uv_close((uv_handle_t *)&server, NULL);
    close_engine();
}
END_TEST

START_TEST(numbers_of_fills)
{
    int64_t above[PORTFOLIO_HOLES];
    struct portfolio_numbers k = {.above = above};
    static const int64_t order[] = {1, 3, 5, 4, 3, 7};
    for (size_t i = 0; i < KEEL_COUNT(order); i++)
        ck_assert_int_eq(portfolio_numbers_add(&k, order[i]), KEEL_OK);
    ck_assert_int_eq(k.low, 1);
    ck_assert_uint_eq(k.n, 4);
    ck_assert(portfolio_numbers_has(&k, 5));
    ck_assert(!portfolio_numbers_has(&k, 2));
    ck_assert_int_eq(portfolio_numbers_add(&k, 2), KEEL_OK);
    ck_assert_int_eq(k.low, 5);
    ck_assert_uint_eq(k.n, 1);
    for (int64_t i = 0; i < PORTFOLIO_HOLES - 1; i++)
        ck_assert_int_eq(portfolio_numbers_add(&k, 100 + i), KEEL_OK);
    ck_assert_int_eq(portfolio_numbers_add(&k, 9), KEEL_UNAVAILABLE);
    ck_assert_int_eq(portfolio_numbers_add(&k, 6), KEEL_OK);
    ck_assert_int_eq(k.low, 7);
}
END_TEST

static void on_put(struct keel_rt *r, void *ctx, enum keel_status st)
{
    (void)r;
    *(enum keel_status *)ctx = st;
}

START_TEST(performance_of_daily_equity)
{
    open_engine();
    want("GET", "/portfolios/main/performance", NULL, 200);
    same("total_return_pct", "(null)");
    want("POST", "/portfolios", "{\"portfolio_name\":\"p\",\"portfolio_id\":\"p\",\"initial_value\":100}", 200);
    /* Ends of three days before today (whose point is the 100 of the start): 80, 100, 90: 25 %, -10 %, 11.1 %. */
    static const char *const equity[] = {"80", "100", "90"};
    int64_t today = keel_wall_ns() / 86400000000000 * 86400000000000;
    enum keel_status st = KEEL_WAIT;
    struct keel_txn *t = keel_txn_new(keel_store(rt));
    for (int i = 0; i < 3; i++) {
        int64_t ts = today + (i - 3) * 86400000000000;
        keel_txn_exec(t, "INSERT INTO equity VALUES ('p', ?, '50', '100')", "i", ts + 1);
        keel_txn_exec(t, "INSERT INTO equity VALUES ('p', ?, ?, '100')", "is", ts + 2, equity[i]);
    }
    keel_txn_commit(rt, t, on_put, &st);
    while (st == KEEL_WAIT)
        uv_run(rt->loop, UV_RUN_ONCE);
    ck_assert_int_eq(st, KEEL_OK);
    want("GET", "/portfolios/p/performance?period_days=30", NULL, 200);
    same("days", "4");
    ck_assert_double_eq_tol(strtod(member("total_return_pct"), NULL), 25.0, 1e-9); /* 100 / 80 */
    ck_assert_double_eq_tol(strtod(member("max_drawdown_pct"), NULL), 10.0, 1e-9);
    /* python3: statistics.stdev([.25, -.1, 1/9]) * 365**.5 * 100; mean / stdev * 365**.5 */
    ck_assert_double_eq_tol(strtod(member("volatility_pct"), NULL), 336.7013489042024, 1e-9);
    ck_assert_double_eq_tol(strtod(member("sharpe_ratio"), NULL), 9.435221635407594, 1e-9);
    same("undefined", "(absent)");
    want("GET", "/portfolios/p/performance?period_days=0", NULL, 400);
    want("GET", "/portfolios/nobody/performance", NULL, 404);
    close_engine();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("portfolio");
    TCase *tc = tcase_create("portfolio");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, main_is_there_from_the_start);
    tcase_add_test(tc, the_published_fill);
    tcase_add_test(tc, without_a_mark_nothing_is_made_up);
    tcase_add_loop_test(tc, what_is_wrong_changes_nothing, 0, (int)KEEL_COUNT(refused));
    tcase_add_test(tc, opening_balances);
    tcase_add_test(tc, portfolios_are_made_and_listed);
    tcase_add_test(tc, the_ledger_is_paged_and_balanced);
    tcase_add_test(tc, a_restart_finds_the_same);
    tcase_add_test(tc, a_failed_commit_leaves_nothing);
    tcase_add_test(tc, fills_of_one_portfolio_do_not_mix);
    tcase_add_test(tc, missing_fills_are_asked_for);
    tcase_add_test(tc, numbers_of_fills);
    tcase_add_test(tc, performance_of_daily_equity);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
