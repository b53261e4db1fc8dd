/*
 * The factor engine as a whole, without a bus: bars handed in, calls through the loopback, portfolio played by a
 * child process. Symbol i of eight closes bar t at 1000 + 100 i + ((i+3) t^2 + 7 (i+1) t) mod (41 + 2 i) with
 * volume 1 + (t (i+2)) mod 7 + 10 i; the figures expected of that were computed with Python's statistics and math
 * modules from the formulas of factor_model.h (lookback 20, reversal over 5 bars, 30 bars), the regression by
 * normal equations.
 */
#include <arpa/inet.h>
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answers.h"
#include "call_priv.h"
#include "handed.h"
#include "ops.h"

#define T0 1767607200000000000LL /* 2026-01-05T10:00:00Z */
#define MINUTE 60000000000LL
#define SYMBOLS 8
#define BARS 30

static struct keel_rt *rt;
static struct keel_arena *arena;
static uint64_t seq;
static pid_t portfolio;

/* ---- portfolio's part ---- */

static const struct { const char *id, *status, *body; } portfolios[] = {
    {"main", "200 OK",
     "{\"account\":{\"equity\":\"10000\"},\"positions\":[{\"symbol\":\"S0\",\"quantity\":\"4\",\"market_value\":"
     "\"5000\"},"
     "{\"symbol\":\"S7\",\"quantity\":\"-1\",\"market_value\":\"-2500\"},{\"symbol\":\"S3\",\"quantity\":\"0\","
     "\"market_value\":null},"
     "{\"symbol\":\"GOLD\",\"quantity\":\"1\",\"market_value\":\"2500\"},{\"symbol\":\"S1\",\"quantity\":\"1\","
     "\"market_value\":null}]}"},
    {"unvalued", "200 OK", "{\"account\":{\"equity\":null},\"positions\":[]}"},
    {"broken", "200 OK", "{\"account\":{}}"},
    {"none", "404 Not Found", "{\"code\":\"unknown_portfolio\"}"},
};

static void serve_one(int fd)
{
    char request[2048], reply[2048], path[96];
    ssize_t n = read(fd, request, sizeof request - 1);

    request[n > 0 ? n : 0] = 0;
    for (size_t i = 0; i < KEEL_COUNT(portfolios); i++) {
        int len;

        snprintf(path, sizeof path, "GET /portfolios/%s HTTP", portfolios[i].id);
        if (strncmp(request, path, strlen(path)) != 0)
            continue;
        len = snprintf(
            reply, sizeof reply,
            "HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
            portfolios[i].status, strlen(portfolios[i].body), portfolios[i].body);
        if (write(fd, reply, (size_t)len) != len)
            _exit(1);
    }
    close(fd);
}

static int start_portfolio(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    ck_assert(bind(fd, (struct sockaddr *)&at, len) == 0 && listen(fd, 8) == 0);
    ck_assert(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    portfolio = fork();
    if (portfolio == 0)
        for (;;) {
            int conn = accept(fd, NULL, NULL);

            if (conn < 0)
                _exit(0);
            serve_one(conn);
        }
    close(fd);
    return ntohs(at.sin_port);
}

static void stop_portfolio(void)
{
    if (portfolio <= 0)
        return;
    kill(portfolio, SIGKILL);
    waitpid(portfolio, NULL, 0);
    portfolio = 0;
}

static void setup(void)
{
    char err[256] = "", name[] = "factor", redis[] = "--redis-url=", level[] = "--log-level=error",
         look[] = "--lookback=20", least[] = "--min-bars=12", most[] = "--max-symbols=9", url[64];

    arena = keel_arena_new(1 << 20);
    seq = 0;
    setenv("ENABLE_HYBRID", "false", 1);
    snprintf(url, sizeof url, "--portfolio-url=http://127.0.0.1:%d", start_portfolio());
    char *argv[] = {name, redis, level, look, least, most, url, NULL};
    rt = keel_rt_new(&factor_engine, 7, argv, err, sizeof err);
    ck_assert_msg(rt != NULL, "%s", err);
    /* Ticks come when a test says so. */
    keel_timers_stop(rt);
}

static void teardown(void)
{
    keel_rt_free(rt);
    keel_arena_free(arena);
    stop_portfolio();
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

/* Strings as '...', numbers as printed, arrays as [count], objects as {count}. */
#define IS(v, path, want) answer_is(__LINE__, arena, v, path, want)

static double number(const struct keel_jval *v, const char *path)
{
    const struct keel_jval *f = answer_find(v, path);

    ck_assert_msg(f && f->type == KEEL_JNUM, "%s is no number", path);
    return strtod(f->text, NULL);
}
#define NEAR(v, path, want) ck_assert_double_eq_tol(number(v, path), want, 1e-10)

/* ---- bars ---- */

static enum keel_status bar_of(const char *symbol, const char *spec, int64_t ts_close, double close, double volume)
{
    const char *payload = keel_arena_printf(arena,
        "{\"symbol\":\"%s\",\"spec\":\"%s\",\"ts_open\":%lld,\"ts_close\":%lld,\"open\":\"%.9g\",\"high\":\"%.9g\","
        "\"low\":\"%.9g\",\"close\":\"%.9g\",\"volume\":\"%.9g\",\"trades\":1}",
        symbol, spec, (long long)(ts_close - MINUTE), (long long)ts_close, close, close, close, close, volume);

    return handed_record(rt, "bar", symbol, ++seq, ts_close, payload);
}

static double close_of(int i, int t)
{
    return 1000 + 100 * i + ((i + 3) * t * t + 7 * (i + 1) * t) % (41 + 2 * i);
}

static double volume_of(int i, int t)
{
    return 1 + (t * (i + 2)) % 7 + 10 * i;
}

static void feed(int symbols, int from, int to)
{
    for (int t = from; t < to; t++)
        for (int i = 0; i < symbols; i++)
            ck_assert_int_eq(bar_of(keel_arena_printf(arena, "S%d", i), "1m", T0 + (t + 1) * MINUTE, close_of(i, t),
                                    volume_of(i, t)), KEEL_OK);
}

/* ---- definitions ---- */

START_TEST(definitions)
{
    const struct keel_jval *v = ASK(200, "GET", "/factors/definitions", "");

    IS(v, "definitions", "[5]");
    IS(v, "count", "5");
    IS(v, "definitions.0.factor_id", "'momentum'");
    IS(v, "definitions.0.lookback", "20");
    IS(v, "definitions.1.lookback", "5");
    IS(v, "bar_spec", "'1m'");
    v = ASK(200, "GET", "/factors/categories/liquidity", "");
    IS(v, "count", "2");
    IS(v, "definitions.1.factor_id", "'size'");
    IS(v, "definitions.1.category", "'liquidity'");
    IS(ASK(404, "GET", "/factors/categories/macro", ""), "code", "'unknown_category'");
}
END_TEST

/* ---- a universe that is too small ---- */

START_TEST(too_small)
{
    IS(ASK(404, "POST", "/factors/calculate/S0", ""), "code", "'unknown_symbol'");
    feed(1, 0, BARS);
    IS(ASK(422, "POST", "/factors/calculate/S0", ""), "code", "'universe_too_small'");
    feed(4, 0, BARS);
    IS(ASK(422, "POST", "/factors/calculate/S0", ""), "code", "'universe_too_small'");
    IS(ASK(422, "GET", "/factors/results/S0", ""), "code", "'universe_too_small'");
    IS(ASK(422, "POST", "/factors/correlations", ""), "code", "'universe_too_small'");
    IS(ASK(422, "POST", "/factors/model/estimate", "{}"), "code", "'universe_too_small'");
    IS(ASK(422, "GET", "/factors/exposures/main", ""), "code", "'universe_too_small'");
    IS(ASK(404, "GET", "/factors/model", ""), "code", "'no_model'");
    IS(ASK(404, "GET", "/factors/attribution/main", ""), "code", "'no_model'");
}
END_TEST

/* Eleven returns are too few for a member, twelve are enough; confidence is their share of twenty. */
START_TEST(warming_up)
{
    const struct keel_jval *v;

    feed(5, 0, 12);
    IS(ASK(422, "POST", "/factors/calculate/S0", ""), "code", "'universe_too_small'");
    feed(5, 12, 13);
    v = ASK(200, "POST", "/factors/calculate/S0", "");
    IS(v, "universe", "5");
    IS(v, "results.0.confidence", "0.6");
    IS(v, "results.1.factor_id", "'reversal'");
    IS(v, "results.1.confidence", "1");
    feed(6, 13, 16);
    v = ASK(422, "POST", "/factors/calculate/S5", "");
    IS(v, "code", "'not_in_universe'");
    IS(ASK(200, "POST", "/factors/calculate/S0", ""), "universe", "5");
}
END_TEST

/* ---- exposures ---- */

static const double z0[] = {-0.79135878842, 0.3503706983, 1.340764886899, -2.058520824748, -1.98435328691};
static const double z7[] = {-1.6864266629, 0.453337317892, -0.720890224402, 0.976679878353, 1.03660210209};

START_TEST(exposures)
{
    const struct keel_jval *v;

    feed(SYMBOLS, 0, BARS);
    v = ASK(200, "POST", "/factors/calculate/s0", "");
    IS(v, "status", "'completed'");
    IS(v, "symbol", "'S0'");
    IS(v, "requested_factors", "5");
    IS(v, "count", "5");
    IS(v, "universe", "8");
    IS(v, "last_updated", "'2026-01-05T10:30:00.000000000Z'");
    IS(v, "results.3.factor_id", "'liquidity'");
    IS(v, "results.3.symbol", "'S0'");
    IS(v, "results.3.timestamp", "'2026-01-05T10:30:00.000000000Z'");
    IS(v, "results.3.confidence", "1");
    IS(v, "undefined", "absent");
    ck_assert_double_lt(number(v, "results.3.data_age_seconds"), 60);
    ck_assert_double_ge(number(v, "results.3.calculation_time_ms"), 0);
    for (int f = 0; f < FACTOR_N; f++)
        NEAR(v, keel_arena_printf(arena, "results.%d.value", f), z0[f]);
    v = ASK(200, "GET", "/factors/results/S7", "");
    for (int f = 0; f < FACTOR_N; f++)
        NEAR(v, keel_arena_printf(arena, "results.%d.value", f), z7[f]);
}
END_TEST

START_TEST(bodies)
{
    static const char *const same[] = {"[\"volatility\",\"momentum\"]",
                                       "{\"factor_ids\":[\"volatility\",\"momentum\"]}"};
    const struct keel_jval *v;

    feed(SYMBOLS, 0, BARS);
    for (size_t i = 0; i < 2; i++) {
        v = ASK(200, "POST", "/factors/calculate/S0", same[i]);
        IS(v, "requested_factors", "2");
        IS(v, "results", "[2]");
        IS(v, "results.0.factor_id", "'volatility'");
        NEAR(v, "results.0.value", z0[FACTOR_VOLATILITY]);
        NEAR(v, "results.1.value", z0[FACTOR_MOMENTUM]);
    }
    v = ASK(400, "POST", "/factors/calculate/-S", "");
    IS(v, "code", "'bad_symbol'");
    IS(v, "field", "'symbol'");
    IS(ASK(400, "GET", "/factors/results/S%200", NULL), "code", "'bad_symbol'");
    v = ASK(400, "POST", "/factors/calculate/S0", "[\"momentum\",\"TF5_SMA_20\"]");
    IS(v, "code", "'unknown_factor'");
    IS(v, "field", "'factor_ids[1]'");
    ck_assert_ptr_nonnull(strstr(keel_jstr(v, "detail"), "TF5_SMA_20"));
    IS(ASK(400, "POST", "/factors/calculate/S0", "[\"size\",\"size\"]"), "code", "'duplicate'");
    IS(ASK(400, "POST", "/factors/calculate/S0", "{\"factors\":[]}"), "code", "'unknown_field'");
    IS(ASK(400, "POST", "/factors/model/estimate", "[\"momentum\"]"), "code", "'wrong_type'");
}
END_TEST

/* Quote bars have no volume: no liquidity and no size, but the three that need prices only. */
START_TEST(without_volume)
{
    const struct keel_jval *v;

    for (int t = 0; t < BARS; t++)
        for (int i = 0; i < 5; i++)
            bar_of(keel_arena_printf(arena, "S%d", i), "1m", T0 + (t + 1) * MINUTE, close_of(i, t), 0);
    v = ASK(200, "POST", "/factors/calculate/S0", "");
    IS(v, "count", "5");
    IS(v, "results.3.value", "null");
    IS(v, "results.4.value", "null");
    IS(v, "undefined", "{2}");
    IS(v, "undefined.size", "'nothing traded in the lookback'");
    number(v, "results.0.value");
    IS(ASK(422, "POST", "/factors/model/estimate", "{}"), "code", "'universe_too_small'");
    v = ASK(200, "POST", "/factors/correlations", "[\"momentum\",\"size\"]");
    IS(v, "correlations.momentum.size", "null");
    IS(v, "undefined.size", "'0 of 5 symbols have a value'");
}
END_TEST

START_TEST(stale)
{
    feed(SYMBOLS, 0, BARS);
    feed(5, BARS, BARS + 10);
    IS(ASK(200, "POST", "/factors/calculate/S7", ""), "universe", "8");
    feed(5, BARS + 10, BARS + 11);
    IS(ASK(200, "POST", "/factors/calculate/S0", ""), "universe", "5");
    IS(ASK(422, "POST", "/factors/calculate/S7", ""), "code", "'not_in_universe'");
}
END_TEST

START_TEST(bars_refused)
{
    struct factor_state *s = keel_state(rt);

    ck_assert_int_eq(bar_of("S0", "1s", T0, 100, 1), KEEL_OK);
    ck_assert_uint_eq(s->n, 0);
    ck_assert_int_eq(bar_of("S0", "1m", T0, 0, 1), KEEL_INVALID);
    ck_assert_int_eq(bar_of("S0", "1m", T0, 100, -1), KEEL_INVALID);
    ck_assert_uint_eq(s->n, 0);
    ck_assert_int_eq(bar_of("S0", "1m", T0, 100, 1), KEEL_OK);
    ck_assert_int_eq(bar_of("S0", "1m", T0, 100, 1), KEEL_OK);
    ck_assert_uint_eq(s->bars, 1);
    for (int i = 1; i < 9; i++)
        ck_assert_int_eq(bar_of(keel_arena_printf(arena, "S%d", i), "1m", T0, 100, 1), KEEL_OK);
    ck_assert_int_eq(bar_of("S9", "1m", T0, 100, 1), KEEL_TOOBIG);
    ck_assert_uint_eq(s->n, 9);
}
END_TEST

/* A new session of the same symbols, earlier than the one before: what is left of that one is stale. */
START_TEST(new_session)
{
    struct factor_state *s = keel_state(rt);

    feed(SYMBOLS, 100, 100 + BARS);
    feed(6, 0, BARS);
    IS(ASK(200, "POST", "/factors/calculate/S0", ""), "universe", "6");
    IS(ASK(200, "POST", "/factors/calculate/S0", ""), "last_updated", "'2026-01-05T10:30:00.000000000Z'");
    ck_assert_uint_eq(s->n, SYMBOLS);
}
END_TEST

START_TEST(correlations)
{
    const struct keel_jval *v;

    feed(SYMBOLS, 0, BARS);
    v = ASK(200, "POST", "/factors/correlations", "");
    IS(v, "correlations", "{5}");
    IS(v, "correlations.size.size", "1");
    NEAR(v, "correlations.momentum.volatility", 0.140929129417);
    NEAR(v, "correlations.volatility.momentum", 0.140929129417);
    IS(v, "universe", "8");
    IS(v, "undefined", "{0}");
}
END_TEST

/* ---- model ---- */

START_TEST(estimate)
{
    const struct keel_jval *v;

    feed(SYMBOLS, 0, BARS);
    ASK(200, "POST", "/factors/model/estimate", "{\"factor_ids\":[\"momentum\",\"volatility\"]}");
    v = ASK(200, "GET", "/factors/model", "");
    IS(v, "as_of", "'2026-01-05T10:30:00.000000000Z'");
    IS(v, "exposures_as_of", "'2026-01-05T10:29:00.000000000Z'");
    IS(v, "symbols", "8");
    IS(v, "factors", "[3]");
    IS(v, "factors.0.factor_id", "'market'");
    IS(v, "factors.1.kind", "'style'");
    NEAR(v, "factors.0.return", 0.018912978858023424);
    NEAR(v, "factors.1.return", 0.001943348313083295);
    NEAR(v, "factors.2.return", 0.00408333335539278);
    NEAR(v, "residuals.S0", -0.014016823776747787);
    NEAR(v, "r2", 0.15979281594156924);
    NEAR(v, "factors.1.t", number(v, "factors.1.return") / number(v, "factors.1.standard_error"));
    IS(v, "left_out", "{0}");
    v = ASK(200, "POST", "/factors/model/estimate", "{}");
    IS(v, "factors", "[6]");
}
END_TEST

START_TEST(sectors)
{
    const struct keel_jval *v;

    feed(SYMBOLS, 0, BARS);
    v = ASK(200, "POST", "/factors/model/estimate",
            "{\"factor_ids\":[\"momentum\"],\"sectors\":{\"S0\":\"even\",\"s1\":\"odd\",\"S2\":\"even\",\"S3\":"
            "\"odd\",\"S4\":\"even\","
            "\"S5\":\"odd\",\"S6\":\"even\",\"S7\":\"odd\",\"GOLD\":\"metal\"}}");
    IS(v, "factors", "[4]");
    IS(v, "factors.1.factor_id", "'even'");
    IS(v, "factors.1.kind", "'sector'");
    NEAR(v, "factors.0.return", 0.019405514766616033);
    NEAR(v, "factors.1.return", 0.00526835512388542);
    NEAR(v, "factors.2.return", -0.00526835512388542);
    NEAR(v, "factors.1.standard_error", number(v, "factors.2.standard_error"));
    v = ASK(422, "POST", "/factors/model/estimate", "{\"sectors\":{\"S0\":\"a\",\"S1\":\"b\"}}");
    IS(v, "code", "'universe_too_small'");
    v = ASK(200, "POST", "/factors/model/estimate",
            "{\"factor_ids\":[\"size\"],\"sectors\":{\"S0\":\"a\",\"S1\":\"a\",\"S2\":\"b\",\"S3\":\"b\",\"S4\":"
            "\"a\"}}");
    IS(v, "symbols", "5");
    IS(v, "left_out.S7", "'sectors does not name it'");
    IS(ASK(400, "POST", "/factors/model/estimate", "{\"sectors\":{\"S0\":1}}"), "field", "'sectors.S0'");
    IS(ASK(400, "POST", "/factors/model/estimate", "{\"sectors\":[]}"), "code", "'wrong_type'");
}
END_TEST

/* A symbol one bar ahead does not move the bar that is explained. */
START_TEST(one_ahead)
{
    const struct keel_jval *v;

    feed(SYMBOLS, 0, BARS);
    feed(3, BARS, BARS + 1);
    v = ASK(200, "POST", "/factors/model/estimate", "{\"factor_ids\":[\"momentum\",\"volatility\"]}");
    IS(v, "as_of", "'2026-01-05T10:30:00.000000000Z'");
    NEAR(v, "factors.1.return", 0.001943348313083295);
    feed(5, BARS, BARS + 1);
    v = ASK(200, "POST", "/factors/model/estimate", "{\"factor_ids\":[\"momentum\"]}");
    IS(v, "as_of", "'2026-01-05T10:31:00.000000000Z'");
    IS(v, "symbols", "5");
    IS(v, "left_out.S6", "'no bar closed at as_of'");
}
END_TEST

/* ---- a portfolio: half of the equity in S0, a quarter short in S7 ---- */

START_TEST(of_portfolio)
{
    static const double want[] = {0.025927271514919914, 0.06185101967719217, 0.8506049995499151, -1.2734303819625086,
                                  -1.2513271689773546};
    const struct keel_jval *v;

    feed(SYMBOLS, 0, BARS);
    v = ASK(200, "GET", "/factors/exposures/main", "");
    for (int f = 0; f < FACTOR_N; f++)
        NEAR(v, keel_arena_printf(arena, "exposures.%s", factor_defs[f].name), want[f]);
    NEAR(v, "coverage", 0.75);
    IS(v, "left_out", "{2}");
    IS(v, "left_out.GOLD", "'no bar of it has been seen'");
    IS(v, "left_out.S1", "'it has no market value'");
    ASK(200, "POST", "/factors/model/estimate", "{\"factor_ids\":[\"momentum\",\"volatility\"]}");
    v = ASK(200, "GET", "/factors/attribution/main", "");
    NEAR(v, "total_return", 0.0038754554294900267);
    NEAR(v, "specific_return", -0.006056843516357971);
    NEAR(v, "factors.0.exposure", 0.25);
    NEAR(v, "factors.1.exposure", 0.8185894658076421);
    NEAR(v, "factors.2.exposure", 0.8848774908580892);
    NEAR(v, "total_return", number(v, "specific_return") + number(v, "factors.0.contribution") +
                                number(v, "factors.1.contribution") + number(v, "factors.2.contribution"));
    IS(ASK(404, "GET", "/factors/exposures/none", ""), "code", "'unknown_portfolio'");
    IS(ASK(422, "GET", "/factors/exposures/unvalued", ""), "code", "'equity_undefined'");
    IS(ASK(502, "GET", "/factors/exposures/broken", ""), "code", "'portfolio_answer'");
    stop_portfolio();
    IS(ASK(503, "GET", "/factors/attribution/main", ""), "code", "'portfolio_unavailable'");
}
END_TEST

/* ---- publishing ---- */

START_TEST(publishing)
{
    struct factor_state *s = keel_state(rt);

    for (int round = 0; round < 2; round++) {
        feed(SYMBOLS, round * BARS, (round + 1) * BARS);
        ck_assert_uint_ne(s->published, s->bars);
        ck_assert_int_eq(keel_spawn_rt(rt, "publish", NULL), KEEL_OK);
        while (keel_calls_live(rt) > 0)
            uv_run(rt->loop, UV_RUN_ONCE);
        ck_assert_uint_eq(s->published, s->bars);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("factor");
    TCase *tc = tcase_create("factor");
    SRunner *runner;
    int failed;

    suite_add_tcase(suite, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, definitions);
    tcase_add_test(tc, too_small);
    tcase_add_test(tc, warming_up);
    tcase_add_test(tc, exposures);
    tcase_add_test(tc, bodies);
    tcase_add_test(tc, without_volume);
    tcase_add_test(tc, stale);
    tcase_add_test(tc, bars_refused);
    tcase_add_test(tc, new_session);
    tcase_add_test(tc, correlations);
    tcase_add_test(tc, estimate);
    tcase_add_test(tc, sectors);
    tcase_add_test(tc, one_ahead);
    tcase_add_test(tc, of_portfolio);
    tcase_add_test(tc, publishing);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
