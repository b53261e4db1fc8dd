/*
 * The analytics engine as a whole, without its own sockets: calls through the loopback, bus records handed in, and one
 * small server on the engine's own loop that answers as portfolio and features do. Figures are worked out beside their
 * tests; the first is the example of bodies.md.
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

#define T0     1767607200000000000LL /* 2026-01-05T10:00:00Z */
#define SECOND 1000000000LL
#define MINUTE (60 * SECOND)

static char dir[64];
static struct keel_rt *rt;
static struct keel_arena *arena;
static uint64_t seq;
static int64_t now_ns; /* ts_init of the next record */

/* ---- portfolio and features ---- */

static struct {
    uv_tcp_t listener;
    int port;
    char main_body[4096], list_body[4096], features_body[4096];
    int main_http, features_http, asked;
} peer;

struct conn {
    uv_tcp_t tcp;
    uv_write_t write;
    char in[2048];
    size_t len;
};

static const char *answer_to(const char *request)
{
    const char *body = "{}";
    int http = 200;

    if (strncmp(request, "GET /portfolios/main ", 21) == 0) {
        body = peer.main_body;
        http = peer.main_http;
        peer.asked++;
    } else if (strncmp(request, "GET /portfolios?limit=1000 ", 27) == 0) {
        body = peer.list_body;
        peer.asked++;
    } else if (strncmp(request, "GET /features/", 14) == 0) {
        body = peer.features_body;
        http = peer.features_http;
    } else if (strncmp(request, "GET /health", 11) != 0) {
        http = 404;
    }
    return keel_arena_printf(arena,
                             "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nConnection: close\r\n"
                             "Content-Length: %zu\r\n\r\n%s",
                             http, strlen(body), body);
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

    (void)unused;
    if (n <= 0) {
        uv_close((uv_handle_t *)stream, on_closed);
        return;
    }
    c->len += (size_t)n;
    c->in[c->len] = 0;
    if (!strstr(c->in, "\r\n\r\n"))
        return;
    const char *text = answer_to(c->in);
    uv_buf_t out = uv_buf_init((char *)(uintptr_t)text, (unsigned)strlen(text));
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

/* ---- the engine ---- */

/* Without a server nobody listens. */
static void start(const char *more, bool with_peer)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char err[256] = "", data[96], portfolio[64], features[64], last[128];
    char name[] = "analytics", redis[] = "--redis-url=", level[] = "--log-level=error";

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    snprintf(data, sizeof data, "--data-dir=%s/data", dir);
    snprintf(portfolio, sizeof portfolio, "--portfolio-url=http://127.0.0.1:%d", ntohs(at.sin_port));
    snprintf(features, sizeof features, "--features-url=http://127.0.0.1:%d", ntohs(at.sin_port));
    snprintf(last, sizeof last, "%s", more ? more : "");
    char *argv[] = {name, data, redis, level, portfolio, features, last, NULL};
    rt = keel_rt_new(&analytics_engine, more ? 7 : 6, argv, err, sizeof err);
    ck_assert_msg(rt != NULL, "%s", err);
    keel_timers_stop(rt);
    memset(&peer, 0, sizeof peer);
    peer.main_http = peer.features_http = 200;
    if (!with_peer) {
        close(fd);
        return;
    }
    uv_tcp_init(rt->loop, &peer.listener);
    ck_assert_int_eq(uv_tcp_open(&peer.listener, fd), 0);
    ck_assert_int_eq(uv_listen((uv_stream_t *)&peer.listener, 16, on_connection), 0);
}

static void setup(void)
{
    snprintf(dir, sizeof dir, "/tmp/w-analytics-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    arena = keel_arena_new(1 << 20);
    seq = 0;
    now_ns = T0;
    setenv("ENABLE_HYBRID", "false", 1);
}

static void teardown(void)
{
    if (peer.listener.loop)
        uv_close((uv_handle_t *)&peer.listener, NULL);
    keel_rt_free(rt);
    rt = NULL;
    keel_arena_free(arena);
    tree_remove(dir);
}

static struct ana_state *state(void)
{
    return keel_state(rt);
}

/* ---- asking ---- */

static const struct keel_jval *ask_at(int line, int http, const char *method, const char *path, const char *body)
{
    const char *answer = NULL;
    int got = keel_loopback(rt, method, path, body, arena, &answer);

    ck_assert_msg(got == http, "line %d: %s %s: %d, not %d: %s", line, method, path, got, http, answer);
    return answer_parse(arena, answer);
}
#define ASK(http, method, path, body) ask_at(__LINE__, http, method, path, body)
#define REALTIME(level)               ASK(200, "POST", "/analytics/realtime/main", "{\"complexity\":\"" level "\"}")

static const struct keel_jval *find(const struct keel_jval *v, const char *path)
{
    char whole[128];

    if (keel_jget(v, path))
        return keel_jget(v, path);
    while (v && *path) {
        size_t n = strcspn(path, "/");
        snprintf(whole, sizeof whole, "%.*s", (int)n, path);
        v = keel_jget(v, whole);
        path += path[n] ? n + 1 : n;
    }
    return v;
}

static void is_at(int line, const struct keel_jval *v, const char *path, const char *want)
{
    const char *got = answer_text(arena, find(v, path));

    ck_assert_msg(strcmp(got, want) == 0, "line %d: %s is %s, not %s", line, path, got, want);
}
/* Strings as '...', numbers as printed; "a/b" is b in a. */
#define IS(v, path, want)     is_at(__LINE__, v, path, want)
#define METRIC(v, name, want) is_at(__LINE__, v, "result/metrics/" name, want)

static double value_at(const struct keel_jval *v, const char *path)
{
    const struct keel_jval *f = find(v, path);

    ck_assert_msg(f && f->type == KEEL_JNUM, "%s is no number", path);
    return strtod(f->text, NULL);
}

static void near(const struct keel_jval *v, const char *path, double want)
{
    double got = value_at(v, path);

    ck_assert_msg(fabs(got - want) <= 1e-9 * fmax(1, fabs(want)), "%s is %.15g, not %.15g", path, got, want);
}

/* ---- records ---- */

static enum keel_status record_of(const char *op_id, const char *payload)
{
    keel_session_saw(rt, now_ns); /* as if a bar had come just before */
    return handed_record(rt, op_id, "main", ++seq, now_ns, payload);
}

static void record(const char *op_id, const char *payload)
{
    ck_assert_int_eq(record_of(op_id, payload), KEEL_OK);
}

static void settle(void)
{
    while (keel_calls_live(rt) > 0)
        uv_run(rt->loop, UV_RUN_ONCE);
}

static void tick(void)
{
    ck_assert_int_eq(keel_spawn_rt(rt, "sample", NULL), KEEL_OK);
    settle();
}

static void account(const char *equity, const char *change)
{
    record("account",
           keel_arena_printf(arena,
                             "{\"portfolio_id\":\"main\",\"currency\":\"USDT\",\"cash\":\"1\",\"equity\":\"%s\","
                             "\"equity_change\":\"%s\",\"last_fill_no\":1}",
                             equity, change));
}

static enum keel_status fill(int no, const char *side, const char *quantity, const char *price, const char *fee)
{
    return record_of(
        "fill",
        keel_arena_printf(
            arena,
            "{\"trade_id\":\"t%d\",\"client_order_id\":\"c%d\",\"strategy_id\":\"manual\",\"venue\":\"paper\","
            "\"portfolio_id\":\"main\",\"symbol\":\"BTCUSDT\",\"side\":\"%s\",\"quantity\":\"%s\",\"price\":\"%s\","
            "\"fee\":{\"amount\":\"%s\",\"currency\":\"USDT\"},\"fill_no\":%d,\"ts_event\":%lld}",
            no, no, side, quantity, price, fee, no, (long long)now_ns));
}

static void bar(const char *symbol, const char *close, int64_t ts_close)
{
    now_ns = ts_close;
    record("bar",
           keel_arena_printf(
               arena,
               "{\"symbol\":\"%s\",\"spec\":\"1m\",\"ts_open\":%lld,\"ts_close\":%lld,\"open\":\"%s\",\"high\":\"%s\","
               "\"low\":\"%s\",\"close\":\"%s\",\"volume\":\"1\"}",
               symbol, (long long)(ts_close - MINUTE), (long long)ts_close, close, close, close, close));
}

/* What portfolio says of main from now on; equity NULL: it cannot be valued. */
static void portfolio_says(const char *equity, const char *change, int fill_no, const char *positions)
{
    const char *q = equity ? "\"" : "", *e = equity ? equity : "null", *d = equity ? change : "null";
    const char *body = keel_arena_printf(
        arena,
        "\"portfolio_id\":\"main\",\"created_at\":\"2026-01-05T10:00:00.000000000Z\",\"initial_value\":1000000,"
        "\"total_value\":%s,\"account\":{\"currency\":\"USDT\",\"cash\":\"1\",\"equity\":%s%s%s,\"equity_change\":%s%s%"
        "s}",
        e, q, e, q, q, d, q);

    snprintf(peer.main_body, sizeof peer.main_body, "{%s,\"positions\":[%s],\"last_fill_no\":%d%s}", body, positions,
             fill_no, equity ? "" : ",\"undefined\":{\"equity\":\"no fresh price of BTCUSDT\"}");
    snprintf(peer.list_body, sizeof peer.list_body, "{\"portfolios\":[{%s}],\"count\":1,\"next\":null}", body);
}

#define POSITION "{\"symbol\":\"BTCUSDT\",\"quantity\":\"0.5\",\"avg_cost\":\"61659.8\",\"market_value\":\"30829.875\"}"

/* ---- tests ---- */

START_TEST(the_example)
{
    const struct keel_jval *v;

    start(NULL, true);
    account("1000000", "0");
    now_ns += SECOND;
    portfolio_says("999987.64304", "-12.35696", 1, POSITION);
    account("999987.64304", "-12.35696");
    v = REALTIME("standard");
    IS(v, "status", "'completed'");
    IS(v, "portfolio_id", "'main'");
    IS(v, "result/portfolio_id", "'main'");
    METRIC(v, "total_value", "999987.64304");
    near(v, "result/metrics/daily_change_pct", -0.001235696);
    METRIC(v, "sharpe_ratio", "null");
    METRIC(v, "volatility_pct", "null");
    near(v, "result/metrics/max_drawdown_pct", 0.001235696);
    ck_assert(value_at(v, "result/metrics/processing_time_ms") >= 0);
    ck_assert_uint_eq(find(v, "result/metrics")->len, 6);
    IS(v, "result/complexity", "'standard'");
    IS(v, "result/data_points_processed", "2");
    IS(v, "complexity", "'standard'");
    IS(v, "complexity_requested", "'standard'");
    IS(v, "real_time_path", "true");
    IS(v, "fallback", "false");
    IS(v, "periods_per_year", "525600");
    IS(v, "undefined/sharpe_ratio", "'1 of 30 returns'");
    IS(v, "undefined/volatility_pct", "'1 of 30 returns'");
    ck_assert_uint_eq(find(v, "undefined")->len, 2);
    v = ASK(200, "GET", "/analytics/realtime/main?complexity=simple", NULL);
    METRIC(v, "total_value", "999987.64304");
    METRIC(v, "sharpe_ratio", "absent");
    ck_assert_uint_eq(find(v, "result/metrics")->len, 3);
    IS(ASK(200, "GET", "/analytics/realtime/main", NULL), "complexity", "'standard'");
}
END_TEST

static const struct {
    const char *why, *path, *body;
    int http;
} refused[] = {
    {"a level there is not", "/analytics/realtime/main", "{\"complexity\":\"deep\"}", 400},
    {"a field there is not", "/analytics/realtime/main", "{\"depth\":1}", 400},
    {"no JSON", "/analytics/realtime/main", "{", 400},
    {"a portfolio there is not", "/analytics/realtime/nobody", "{}", 404},
    {"a benchmark that is no symbol", "/analytics/performance/main", "{\"symbol\":\"-A\"}", 400},
    {"a period of nothing", "/analytics/performance/main", "{\"period_days\":0}", 400},
    {"a portfolio there is not", "/analytics/performance/nobody", "{}", 404},
};

START_TEST(refusals)
{
    start(NULL, true);
    portfolio_says("1", "0", 0, "");
    ASK(refused[_i].http, "POST", refused[_i].path, refused[_i].body);
    ck_assert_uint_eq(state()->n, 0);
}
END_TEST

/* The curve begins with what was put in, whichever comes first: the record of it, a look at portfolio, or only that. */
START_TEST(opening)
{
    static const char *const order[] = {"record, look", "look, record", "look", "record, turn of the timer"};
    const struct ana_curve *c;

    start(NULL, true);
    keel_session_saw(rt, T0 + SECOND);
    now_ns = T0 + SECOND;
    portfolio_says("999900", "-100", 1, "");
    for (const char *at = order[_i]; at; at = strchr(at, ',')) {
        at += strspn(at, ", ");
        if (*at == 'r')
            account("999900", "-100");
        else if (*at == 'l')
            near(REALTIME("simple"), "result/metrics/daily_change_pct", -0.01);
        else
            tick();
    }
    c = &state()->portfolio[0].curve;
    ck_assert_uint_eq(c->n, 2);
    ck_assert(ana_curve_at(c, 0)->equity == (keel_i128)1000000 * KEEL_SCALE);
    ck_assert(ana_curve_at(c, 1)->equity == (keel_i128)999900 * KEEL_SCALE);
    near(REALTIME("simple"), "result/metrics/daily_change_pct", -0.01);
}
END_TEST

/* A portfolio that is new is looked at before the period is over. */
START_TEST(opening_within_a_period)
{
    const struct ana_curve *c;

    start(NULL, true);
    keel_session_saw(rt, T0);
    snprintf(peer.list_body, sizeof peer.list_body, "{\"portfolios\":[],\"count\":0,\"next\":null}");
    tick();
    account("999900", "-100");
    portfolio_says("999900", "-100", 1, "");
    tick();
    ck_assert_int_eq(peer.asked, 2);
    c = &state()->portfolio[0].curve;
    ck_assert_uint_eq(c->n, 2);
    ck_assert(ana_curve_at(c, 0)->equity == (keel_i128)1000000 * KEEL_SCALE);
    tick();
    ck_assert_int_eq(peer.asked, 2);
}
END_TEST

START_TEST(exact_money)
{
    start(NULL, true);
    portfolio_says("123456789012345678901.123456789", "-0.000000001", 0, "");
    METRIC(REALTIME("simple"), "total_value", "123456789012345678901.123456789");
    /* Portfolio now, not what was heard before. */
    account("5", "0");
    METRIC(REALTIME("simple"), "total_value", "123456789012345678901.123456789");
}
END_TEST

START_TEST(no_mark)
{
    const struct keel_jval *v;

    start(NULL, true);
    portfolio_says(NULL, NULL, 0,
                   "{\"symbol\":\"BTCUSDT\",\"quantity\":\"1\",\"avg_cost\":\"1\",\"market_value\":null}");
    v = REALTIME("comprehensive");
    METRIC(v, "total_value", "null");
    IS(v, "undefined/total_value", "'no fresh price of BTCUSDT'");
    METRIC(v, "daily_change_pct", "null");
    IS(v, "result/risk_analysis/concentration_risk", "null");
    IS(v, "undefined/concentration_risk", "'a position has no mark'");
    IS(v, "fallback", "false");
}
END_TEST

START_TEST(portfolio_away)
{
    const struct keel_jval *v;

    start(NULL, false);
    IS(ASK(503, "POST", "/analytics/realtime/main", "{}"), "code", "'portfolio_unavailable'");
    account("1000.5", "0.5");
    v = REALTIME("standard");
    METRIC(v, "total_value", "1000.5");
    IS(v, "fallback", "true");
    ck_assert(strstr(keel_jstr(v, "fallback_reason"), "its last word is of 2026-01-05T10:00:00"));
    IS(v, "complexity", "'standard'");
    /* A fill cannot be judged without knowing what was held: it is asked for again. */
    ck_assert_int_eq(fill(1, "BUY", "1", "10", "0"), KEEL_UNAVAILABLE);
    ck_assert_uint_eq(state()->portfolio[0].trades.n, 0);
}
END_TEST

/* n minutes of equity, the first of them the opening: up 1 of 10000 and down 1 of 20000 by turns. */
static void minutes(int n)
{
    keel_i128 equity = (keel_i128)1000000 * KEEL_SCALE;
    char text[KEEL_MONEY_TEXT], change[KEEL_MONEY_TEXT];

    for (int i = 0; i < n; i++) {
        keel_money_print(equity, text);
        keel_money_print(equity - (keel_i128)1000000 * KEEL_SCALE, change);
        if (i > 0)
            account(text, change);
        now_ns += MINUTE;
        equity += i % 2 ? -equity / 20000 : equity / 10000;
    }
    now_ns -= MINUTE;
    portfolio_says(text, change, 1, POSITION);
}

START_TEST(every_level)
{
    const struct keel_jval *v;
    double r[2] = {0.0001, -0.00005}, mean = 0.000025, sd = 0.000075 * sqrt(400.0 / 399);

    start(NULL, true);
    minutes(401);
    v = REALTIME("institutional");
    IS(v, "complexity", "'institutional'");
    IS(v, "fallback", "false");
    IS(v, "result/data_points_processed", "401");
    IS(v, "result/basis/returns", "400");
    IS(v, "result/basis/gaps", "0");
    /* 200 returns of each size: mean, sample deviation and Sharpe ratio in closed form; steps are cut at 1e-9 of a
     * dollar. */
    ck_assert_double_eq_tol(value_at(v, "result/metrics/sharpe_ratio"), mean / sd * sqrt(525600), 1e-6);
    ck_assert_double_eq_tol(value_at(v, "result/metrics/volatility_pct"), sd * sqrt(525600) * 100, 1e-8);
    ck_assert_double_eq_tol(value_at(v, "result/metrics/max_drawdown_pct"), 0.005, 1e-9);
    ck_assert_double_eq_tol(value_at(v, "result/metrics/total_return_pct"),
                            100 * (pow((1 + r[0]) * (1 + r[1]), 200) - 1), 1e-8);
    ck_assert_double_eq_tol(value_at(v, "result/metrics/omega_ratio"), 2, 1e-7);
    ck_assert_double_eq_tol(value_at(v, "result/metrics/var_95"), -0.00005, 1e-12);
    ck_assert_double_eq_tol(value_at(v, "result/metrics/var_99"), -0.00005, 1e-12);
    ck_assert_double_eq_tol(value_at(v, "result/metrics/expected_shortfall"), -0.00005, 1e-12);
    ck_assert(value_at(v, "result/metrics/sharpe_low") < value_at(v, "result/metrics/sharpe_ratio"));
    ck_assert(value_at(v, "result/metrics/sharpe_high") > value_at(v, "result/metrics/sharpe_ratio"));
    ck_assert_double_eq_tol(value_at(v, "result/metrics/skewness"), 0, 1e-7);
    METRIC(v, "beta", "null");
    IS(v, "undefined/beta", "'0 of 30 returns with a benchmark'");
    IS(v, "undefined/win_rate_pct", "'0 of 1 closed trades'");
    METRIC(v, "turnover", "0");
    IS(v, "result/bootstrap/resamples", "1000");
    IS(v, "result/bootstrap/seed", "1");
    near(v, "result/risk_analysis/concentration_risk", 1);
    IS(v, "result/stress_testing", "null");
    IS(v, "undefined/attribution_analysis", "'the benchmark's weights by sector are not known'");
    /* Each null is named, and nothing else is. */
    for (const struct keel_jval *k = find(v, "result/metrics")->child; k; k = k->next)
        ck_assert_msg((k->type == KEEL_JNULL) == (keel_jget(keel_jget(v, "undefined"), k->name) != NULL), "%s",
                      k->name);
    /* The same seed gives the same interval; a level has those below it. */
    const struct keel_jval *again = REALTIME("institutional"), *deep = REALTIME("comprehensive");
    ck_assert(value_at(again, "result/metrics/sharpe_low") == value_at(v, "result/metrics/sharpe_low"));
    IS(deep, "result/metrics/expected_shortfall", "absent");
    IS(deep, "result/bootstrap", "absent");
    IS(deep, "complexity", "'comprehensive'");
    for (const struct keel_jval *k = find(deep, "result/metrics")->child; k; k = k->next)
        ck_assert_ptr_nonnull(keel_jget(find(v, "result/metrics"), k->name));
}
END_TEST

START_TEST(cut_short)
{
    const struct keel_jval *v;

    /* The bootstrap of 2000 returns draws 2 million of them: that is more than a millisecond on any machine. */
    start("--institutional-ms=1", true);
    minutes(2001);
    v = REALTIME("institutional");
    ck_assert_str_ne(keel_jstr(v, "complexity"), "institutional");
    IS(v, "complexity_requested", "'institutional'");
    IS(v, "fallback", "true");
    ck_assert_ptr_nonnull(strstr(keel_jstr(v, "fallback_reason"), "institutional did not fit into 1 ms"));
    IS(v, "result/metrics/sharpe_low", "absent");
    ck_assert_str_eq(keel_jstr(v, "complexity"), keel_jstr(find(v, "result"), "complexity"));
    /* The other levels have their own time. */
    IS(REALTIME("comprehensive"), "complexity", "'comprehensive'");
}
END_TEST

/* Hybrid mode learns what a level takes here, and does not begin it when that is more than is left. */
START_TEST(level_by_latency)
{
    const struct keel_jval *v;
    int tries = 0;

    setenv("ENABLE_HYBRID", "true", 1);
    start("--institutional-ms=1", true);
    minutes(2001);
    do
        v = REALTIME("institutional");
    while (!strstr(keel_jstr(v, "fallback_reason"), "institutional: latency") && ++tries < 20);
    ck_assert_str_eq(keel_jstr(v, "complexity_requested"), "institutional");
    ck_assert_str_ne(keel_jstr(v, "complexity"), "institutional");
    ck_assert_msg(tries < 20, "%s", keel_jstr(v, "fallback_reason"));
}
END_TEST

START_TEST(level_by_breaker)
{
    const struct keel_jval *v;

    setenv("ENABLE_HYBRID", _i ? "true" : "false", 1);
    start(NULL, true);
    minutes(61);
    if (_i)
        ck_assert_int_eq(rt->guard->change(rt->guard_self, "realtime.institutional", "force-open", 1), KEEL_OK);
    v = REALTIME("institutional");
    if (_i) {
        ck_assert_str_ne(keel_jstr(v, "complexity"), "institutional");
        IS(v, "fallback", "true");
        ck_assert_ptr_nonnull(strstr(keel_jstr(v, "fallback_reason"), "institutional: forced_open"));
        IS(v, "result/bootstrap", "absent");
    } else {
        IS(v, "complexity", "'institutional'");
    }
}
END_TEST

START_TEST(benchmark)
{
    const struct keel_jval *v;
    keel_i128 equity = (keel_i128)1000000 * KEEL_SCALE;
    double price = 100;
    char text[KEEL_MONEY_TEXT], change[KEEL_MONEY_TEXT];

    /* The portfolio moves half as much as BTCUSDT in each minute; a bar that closes on the minute belongs to the one
     * before. */
    start(NULL, true);
    portfolio_says("1000000", "0", 1, POSITION);
    for (int i = 0; i < 42; i++) {
        double r = 0.002 * ((i * 7) % 5 - 2);
        price *= 1 + r;
        equity += (keel_i128)(keel_money_to_f64(equity) * r / 2 * 1e9);
        keel_money_print(equity, text);
        keel_money_print(equity - (keel_i128)1000000 * KEEL_SCALE, change);
        now_ns = T0 + i * MINUTE + 30 * SECOND;
        account(text, change);
        portfolio_says(text, change, 1, POSITION);
        bar("BTCUSDT", keel_arena_printf(arena, "%.9f", price), T0 + (i + 1) * MINUTE);
        settle(); /* the look at portfolio that a bar gives rise to */
    }
    v = REALTIME("comprehensive");
    ck_assert_double_eq_tol(value_at(v, "result/metrics/beta"), 0.5, 1e-5);
    ck_assert_double_eq_tol(value_at(v, "result/metrics/alpha"), 0, 0.01);
    IS(v, "result/basis/benchmark", "'equal_weight'");
    v = ASK(200, "POST", "/analytics/performance/main", "{\"symbol\":\"btcusdt\",\"period_days\":1}");
    ck_assert_double_eq_tol(value_at(v, "result/beta"), 0.5, 1e-5);
    IS(v, "basis/benchmark", "'BTCUSDT'");
    IS(v, "result/period_start", "'2026-01-05T10:00:00.000000000Z'"); /* the opening */
    IS(v, "result/data_source", "'portfolio'");
    v = ASK(200, "POST", "/analytics/performance/main", "{\"symbol\":\"SPY.SMART\"}");
    IS(v, "result/beta", "null");
    IS(v, "undefined/beta", "'0 of 30 returns with a benchmark'");
    ck_assert(value_at(v, "result/volatility_pct") > 0); /* without a benchmark nothing else changes */
}
END_TEST

START_TEST(closed_trades)
{
    const struct keel_jval *v;

    start(NULL, true);
    portfolio_says("1000000", "0", 1, POSITION); /* 0.5 at 61659.8, fill 1 included */
    ck_assert_int_eq(fill(1, "BUY", "0.5", "61659.8", "1"), KEEL_OK);
    ck_assert_uint_eq(state()->portfolio[0].trades.n, 0);
    ck_assert_int_eq(fill(2, "SELL", "0.25", "61759.8", "1"), KEEL_OK); /* +25 - 1 */
    ck_assert_int_eq(fill(2, "SELL", "0.25", "61759.8", "1"), KEEL_OK); /* the same again is nothing */
    ck_assert_int_eq(fill(3, "SELL", "0.25", "61619.8", "2"), KEEL_OK); /* -10 - 2 */
    ck_assert_int_eq(fill(4, "SELL", "1", "61619.8", "2"), KEEL_OK);    /* opens a short */
    ck_assert_int_eq(peer.asked, 1);
    portfolio_says(
        "1000000", "0", 4,
        "{\"symbol\":\"BTCUSDT\",\"quantity\":\"-1\",\"avg_cost\":\"61619.8\",\"market_value\":\"-61619.8\"}");
    v = REALTIME("comprehensive");
    near(v, "result/metrics/win_rate_pct", 50);
    near(v, "result/metrics/profit_factor", 2);
    near(v, "result/metrics/turnover", (0.25 * 61759.8 + 0.25 * 61619.8 + 61619.8) / 1000000);
    IS(v, "result/basis/closed_trades", "2");
    IS(v, "result/basis/fills", "3");
    /* An opening balance that the bus did not bring: in step by fill number, portfolio's word is taken. */
    portfolio_says("1000000", "0", 4,
                   "{\"symbol\":\"BTCUSDT\",\"quantity\":\"-2\",\"avg_cost\":\"60000\",\"market_value\":\"-1\"}");
    REALTIME("simple");
    ck_assert_double_eq(state()->portfolio[0].trades.holding[0].quantity, -2);
    /* Not in step: ours stays. */
    portfolio_says("1000000", "0", 3, "");
    REALTIME("simple");
    ck_assert_uint_eq(state()->portfolio[0].trades.n_holdings, 1);
}
END_TEST

START_TEST(one_look_a_period)
{
    const struct ana_curve *c;

    start(NULL, true);
    portfolio_says("1000010", "10", 0, "");
    tick();
    ck_assert_int_eq(peer.asked, 1);
    ck_assert_uint_eq(state()->n, 1);
    c = &state()->portfolio[0].curve;
    ck_assert_uint_eq(c->n, 2); /* the opening and what is there now: a restart is no new beginning */
    ck_assert(ana_curve_at(c, 0)->equity == (keel_i128)1000000 * KEEL_SCALE);
    tick();
    ck_assert_int_eq(peer.asked, 1); /* once a period */
    bar("BTCUSDT", "100", T0 + MINUTE);
    settle();
    ck_assert_int_eq(peer.asked, 2);
    portfolio_says("1000020", "20", 0, "");
    bar("BTCUSDT", "101", T0 + 2 * MINUTE);
    settle();
    ck_assert_int_eq(peer.asked, 3);
    bar("ETHUSDT", "101", T0 + 2 * MINUTE);
    settle();
    ck_assert_int_eq(peer.asked, 3);
    /* A look on the boundary is what the period before ended with. */
    ck_assert(ana_curve_at(c, c->n - 1)->equity == (keel_i128)1000020 * KEEL_SCALE);
    ck_assert_int_eq(ana_curve_at(c, c->n - 1)->ts, T0 + 2 * MINUTE - 1);
}
END_TEST

START_TEST(clocks_that_differ)
{
    const struct ana_curve *c;

    /* Portfolio hears every quote, this engine only bars: its session clock may lag. That is no step back in time. */
    start(NULL, true);
    account("1000000", "0");
    now_ns = T0 + 2 * MINUTE;
    account("1000010", "10");
    c = &state()->portfolio[0].curve;
    rt->session_ns = T0 + MINUTE;
    portfolio_says("1000020", "20", 0, "");
    IS(REALTIME("simple"), "result/timestamp", "'2026-01-05T10:02:00.000000000Z'");
    ck_assert_uint_eq(c->n, 3); /* the opening first */
    ck_assert(ana_curve_at(c, 2)->equity == (keel_i128)1000020 * KEEL_SCALE);
    /* A session of another day is one. */
    rt->session_ns = T0 - 24 * 60 * MINUTE;
    METRIC(REALTIME("simple"), "total_value", "1000020");
    ck_assert_uint_eq(c->n, 4);
}
END_TEST

START_TEST(bounded)
{
    start("--max-portfolios=1", true);
    account("1", "0");
    record("account",
           "{\"portfolio_id\":\"two\",\"currency\":\"USDT\",\"cash\":\"1\",\"equity\":\"2\",\"equity_change\":\"0\"}");
    ck_assert_uint_eq(state()->n, 1);
    /* No mark: no point. */
    record("account", "{\"portfolio_id\":\"main\",\"currency\":\"USDT\",\"cash\":\"1\"}");
    ck_assert_uint_eq(state()->portfolio[0].curve.n, 1);
    ck_assert_int_eq(record_of("bar", "{\"symbol\":\"A\",\"spec\":\"1m\",\"ts_open\":1,\"ts_close\":2,\"open\":\"0\","
                                      "\"high\":\"0\",\"low\":\"0\",\"close\":\"0\",\"volume\":\"0\"}"),
                     KEEL_INVALID);
}
END_TEST

static const char *const no_symbol[] = {"A%20B", "-A", "_A", ".", "A%2FB", "%C3%84"};

START_TEST(indicators)
{
    const struct keel_jval *v;

    start(NULL, true);
    snprintf(peer.features_body, sizeof peer.features_body,
             "{\"status\":\"completed\",\"symbol\":\"BTCUSDT\",\"feature_set\":{\"timestamp\":\"2026-01-05T10:00:00."
             "000000000Z\","
             "\"total_features\":2,\"features\":{\"sma_20\":{\"value\":61653.0963,\"type\":\"trend\",\"confidence\":1},"
             "\"bb_upper\":{\"value\":61700.25,\"type\":\"volatility\",\"confidence\":1}}},"
             "\"not_ready\":{\"sma_50\":{\"have\":23,\"need\":50}}}");
    v = ASK(200, "GET", "/analytics/technical-indicators/btcusdt?limit=100", NULL);
    IS(v, "symbol", "'BTCUSDT'");
    IS(v, "indicators/sma_20", "61653.0963");
    IS(v, "indicators/bollinger_bands/upper", "61700.25");
    IS(v, "indicators/sma_50", "null");
    IS(v, "undefined/sma_50", "'23 of 50 bars'");
    IS(v, "indicators/stochastic/k", "null");
    IS(keel_jget(v, "undefined"), "stochastic.k", "'features has no such indicator'");
    IS(v, "data_points_used", "23");
    bar("BTCUSDT", "100", T0 + MINUTE);
    bar("BTCUSDT", "110", T0 + 2 * MINUTE);
    bar("BTCUSDT", "110", T0 + 3 * MINUTE);
    v = ASK(200, "GET", "/analytics/symbol/BTCUSDT", NULL);
    near(v, "performance/total_return_pct", 10);
    IS(v, "performance/sharpe_ratio", "null");
    IS(v, "undefined/sharpe_ratio", "'1 of 30 returns'");
    IS(v, "technical_indicators/sma_20", "61653.0963");
    IS(v, "bars/count", "3");
    IS(v, "fallback", "false");
    peer.features_http = 404;
    ASK(404, "GET", "/analytics/technical-indicators/NONE", NULL);
    ASK(404, "GET", "/analytics/symbol/NONE", NULL);
    v = ASK(200, "GET", "/analytics/symbol/BTCUSDT", NULL);
    IS(v, "fallback", "true");
    IS(v, "undefined/sma_20", "'features does not follow the symbol'");
    for (size_t i = 0; i < KEEL_COUNT(no_symbol); i++) {
        v = ASK(400, "GET", keel_arena_printf(arena, "/analytics/symbol/%s", no_symbol[i]), NULL);
        IS(v, "code", "'bad_symbol'");
        IS(v, "field", "'symbol'");
        ck_assert_ptr_nonnull(strstr(keel_jstr(v, "detail"), "[A-Z0-9][A-Z0-9._-]{0,31}"));
    }
    v = ASK(400, "GET", "/analytics/technical-indicators/ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456", NULL); /* 33 */
    IS(v, "field", "'symbol'");
    ck_assert_ptr_nonnull(strstr(keel_jstr(v, "detail"), "32"));
    peer.features_http = 500;
    ASK(503, "GET", "/analytics/technical-indicators/BTCUSDT", NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("analytics");
    TCase *tc = tcase_create("analytics");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, the_example);
    tcase_add_loop_test(tc, refusals, 0, (int)KEEL_COUNT(refused));
    tcase_add_loop_test(tc, opening, 0, 4);
    tcase_add_test(tc, opening_within_a_period);
    tcase_add_test(tc, exact_money);
    tcase_add_test(tc, no_mark);
    tcase_add_test(tc, portfolio_away);
    tcase_add_test(tc, every_level);
    tcase_add_test(tc, cut_short);
    tcase_add_test(tc, level_by_latency);
    tcase_add_loop_test(tc, level_by_breaker, 0, 2);
    tcase_add_test(tc, benchmark);
    tcase_add_test(tc, closed_trades);
    tcase_add_test(tc, one_look_a_period);
    tcase_add_test(tc, clocks_that_differ);
    tcase_add_test(tc, bounded);
    tcase_add_test(tc, indicators);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
