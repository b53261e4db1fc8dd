/*
 * The websocket engine without a network: bus records handed in, sessions over a socket pair, as http.c would attach
 * them. What clients see on a real connection is tests/integration/test_websocket.py; here are the tables and the
 * bounds.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "call_priv.h"
#include "keel/clock.h"
#include "keel/ws_frame.h"
#include "ops.h"
#include "tree.h"
#include "ws_priv.h"

static char dir[64];
static struct keel_rt *rt;
static struct keel_arena *arena;

static void setup(void)
{
    char err[256] = "", data[96], name[] = "websocket", redis[] = "--redis-url=", level[] = "--log-level=error",
         channels[] = "--max-channels=16", history[] = "--history-bytes=4096";

    snprintf(dir, sizeof dir, "/tmp/keel-websocket-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(data, sizeof data, "--data-dir=%s/data", dir);
    setenv("ENABLE_HYBRID", "true", 1);
    char *argv[] = {name, data, redis, level, channels, history, NULL};
    rt = keel_rt_new(&websocket_engine, 6, argv, err, sizeof err);
    ck_assert_msg(rt != NULL, "%s", err);
    arena = keel_arena_new(1 << 16);
}

static void teardown(void)
{
    keel_rt_free(rt);
    keel_arena_free(arena);
    tree_remove(dir);
}

static struct hub *hub(void)
{
    return &((struct ws_state *)keel_state(rt))->hub;
}

/* ---- a client over a socket pair ---- */

struct client { int fd; struct keel_ws *ws; int http; bool given_back; };

static void on_answer(void *ctx, const struct keel_answer *ans)
{
    ((struct client *)ctx)->http = ans->http;
}

static void give_back(void *ctx)
{
    ((struct client *)ctx)->given_back = true;
}

static void join(struct client *c, const char *path)
{
    struct keel_route route = {0};
    struct keel_request rq = {.method = "GET", .path = path, .body = "", .arrived_ns = keel_mono_ns()};
    int pair[2];

    ck_assert(keel_route_find(rt, arena, "GET", path, &route));
    rq.params = route.params;
    rq.n_params = route.n_params;
    rq.ws = c->ws = keel_ws_new(rt, route.op);
    keel_call_http(rt, route.op, &rq, on_answer, c);
    if (c->http != 200) {
        keel_ws_refused(c->ws);
        return;
    }
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    c->fd = pair[1];
    keel_ws_attach(c->ws, pair[0], NULL, 0, (struct keel_ws_upgrade){.give_back = give_back, .ctx = c});
}

static void leave(struct client *c)
{
    close(c->fd);
    while (!c->given_back)
        uv_run(rt->loop, UV_RUN_ONCE);
}

/* Masked with zeros, so that it reads as it is. */
static void say(struct client *c, const char *text)
{
    unsigned char frame[2048];
    size_t at = keel_ws_header(frame, KEEL_WS_TEXT, strlen(text));

    frame[1] |= 0x80;
    memset(frame + at, 0, 4);
    memcpy(frame + at + 4, text, strlen(text));
    ck_assert_int_eq((int)write(c->fd, frame, at + 4 + strlen(text)), (int)(at + 4 + strlen(text)));
    for (int i = 0; i < 3; i++)
        uv_run(rt->loop, UV_RUN_NOWAIT);
}

/* What has come, headers and all, NUL ended. */
static const char *heard(struct client *c)
{
    static char text[1 << 20];
    ssize_t n;

    uv_run(rt->loop, UV_RUN_NOWAIT);
    n = recv(c->fd, text, sizeof text - 1, MSG_DONTWAIT);
    text[n > 0 ? n : 0] = '\0';
    for (ssize_t i = 0; i < n; i++) /* a NUL in a header ends no text */
        text[i] = text[i] == '\0' ? ' ' : text[i];
    return text;
}

static int count(const char *text, const char *what)
{
    int n = 0;

    for (const char *p = text; (p = strstr(p, what)) != NULL; p++)
        n++;
    return n;
}

/* ---- the bus ---- */

static enum keel_status settled;

static void on_settled(void *ctx, struct keel_call *call, enum keel_status st)
{
    (void)ctx;
    (void)call;
    settled = st;
}

static enum keel_status record(const char *op, const char *topic, const char *key, const char *payload)
{
    struct keel_header h = {.ts_event = 1767607200000000000LL, .ts_init = 1767607200000000000LL,
                            .ts_publish = keel_wall_ns()};

    snprintf(h.topic, sizeof h.topic, "%s", topic);
    snprintf(h.key, sizeof h.key, "%s", key);
    keel_call_record(rt, keel_op_find(rt, op), &h, payload, strlen(payload), on_settled, NULL);
    return settled;
}

static const struct { const char *op, *topic, *key, *type, *channel; } topic_case[] = {
    {"marketdata", "marketdata.book", "BTCUSDT", "market_data", "marketdata.book:BTCUSDT"},
    {"marketdata", "marketdata.critical.feed", "-", "system", "marketdata.critical.feed:-"},
    {"strategy", "strategy.critical.fill", "main", "trade_update", "strategy.critical.fill:main"},
    {"strategy", "strategy.critical.order", "main", "trade_update", "strategy.critical.order:main"},
    {"strategy", "strategy.priority.signal", "BTCUSDT", "data", "strategy.priority.signal:BTCUSDT"},
    {"risk", "risk.critical.breach", "main", "risk_alert", "risk.critical.breach:main"},
    {"risk", "risk.critical.breaker", "", "system", "risk.critical.breaker:-"},
    {"portfolio", "portfolio.priority.account", "main", "data", "portfolio.priority.account:main"},
    {"features", "features.critical.breaker", "-", "system", "features.critical.breaker:-"},
};

START_TEST(types)
{
    struct client c = {0};
    char want[256];

    join(&c, "/ws/stream");
    say(&c, "{\"type\":\"subscribe\",\"topics\":[\"*\"]}");
    heard(&c);
    ck_assert_int_eq(record(topic_case[_i].op, topic_case[_i].topic, topic_case[_i].key, "{\"x\":[1,2.50]}"), KEEL_OK);
    snprintf(want, sizeof want,
             "{\"message_id\":\"c1-3\",\"type\":\"%s\",\"topic\":\"%s\",\"data\":{\"x\":[1,2.50]},"
             "\"timestamp\":\"2026-01-05T10:00:00.000000000Z\",\"epoch\":\"%s\",\"seq\":1}",
             topic_case[_i].type, topic_case[_i].channel, hub()->epoch);
    const char *got = heard(&c);
    ck_assert_msg(strstr(got, want) != NULL, "%s\n%s", want, got);
    leave(&c);
}
END_TEST

static const struct { const char *pattern; bool covers; } pattern_case[] = {
    {"strategy.critical.fill:main", true}, {"strategy.critical.fill", true},    {"strategy.critical.*", true},
    {"strategy.*", true},                  {"*", true},                         {"strategy.critical.fill:m*", true},
    {"strategy.critical.fill:*", true},    {"strategy.critical.order", false},  {"strategy.critical.fill:mai", false},
    {"strategy.critical.fill:x*", false},  {"risk.*", false},
};

/* Whether the subscription comes before the channel's first message or after it. */
START_TEST(patterns)
{
    char frame[160];

    for (int after = 0; after < 2; after++) {
        struct client c = {0};
        join(&c, "/ws/stream");
        snprintf(frame, sizeof frame, "{\"type\":\"subscribe\",\"topics\":[\"%s\"]}", pattern_case[_i].pattern);
        say(&c, frame);
        heard(&c);
        record("strategy", "strategy.critical.fill", "main", "{\"n\":1}");
        ck_assert_msg(count(heard(&c), "\"n\":1") == pattern_case[_i].covers, "%s, %d", pattern_case[_i].pattern,
                      after);
        leave(&c);
    }
}
END_TEST

START_TEST(two_patterns_one_message)
{
    struct client c = {0};

    join(&c, "/ws/stream");
    say(&c, "{\"type\":\"subscribe\",\"topics\":[\"risk.*\",\"risk.priority.var\",\"risk.priority.var:main\"]}");
    heard(&c);
    record("risk", "risk.priority.var", "main", "{\"n\":1}");
    ck_assert_int_eq(count(heard(&c), "\"n\":1"), 1);
    say(&c, "{\"type\":\"unsubscribe\",\"topics\":[\"risk.*\",\"risk.priority.var:main\"]}");
    heard(&c);
    record("risk", "risk.priority.var", "main", "{\"n\":2}");
    ck_assert_int_eq(count(heard(&c), "\"n\":2"), 1);
    say(&c, "{\"type\":\"unsubscribe\",\"topics\":[\"risk.priority.var\"]}");
    heard(&c);
    record("risk", "risk.priority.var", "main", "{\"n\":3}");
    ck_assert_int_eq(count(heard(&c), "\"n\":3"), 0);
    leave(&c);
    ck_assert_uint_eq(hub()->n_clients, 0);
}
END_TEST

START_TEST(channels_are_bounded)
{
    char key[16];

    for (int i = 0; i < 16; i++) {
        snprintf(key, sizeof key, "S%d", i);
        ck_assert_int_eq(record("ml", "ml.priority.prediction", key, "{\"n\":1}"), KEEL_OK);
    }
    ck_assert_int_eq(record("ml", "ml.priority.prediction", "S16", "{\"n\":1}"), KEEL_OK);
    ck_assert_uint_eq(hub()->refused, 1);
    ck_assert_int_eq(record("ml", "ml.priority.prediction", "S3", "{\"n\":2}"), KEEL_OK);
    ck_assert_uint_eq(hub()->n_channels, 16);
}
END_TEST

/* history_bytes is 4096: some twenty messages of this size, whichever channels they are of. */
START_TEST(history_is_bounded)
{
    struct hub_channel *a, *b;

    for (int i = 0; i < 300; i++)
        record("ml", "ml.priority.prediction", "A", "{\"n\":1}");
    a = hub_find(hub(), "ml.priority.prediction:A", false);
    ck_assert_uint_eq(a->seq, 300);
    ck_assert_uint_le(hub()->kept_bytes, 4096);
    ck_assert_uint_ge(a->seq + 1 - a->first, 15);
    ck_assert_uint_le(a->seq + 1 - a->first, 30);
    for (int i = 0; i < 10; i++)
        record("ml", "ml.priority.prediction", "B", "{\"n\":1}");
    b = hub_find(hub(), "ml.priority.prediction:B", false);
    ck_assert_uint_eq(b->seq, 10);
    ck_assert_uint_le(hub()->kept_bytes, 4096);
}
END_TEST

/* A client that does not read: so much and no more waits for it; when it reads, the gap is exact and the
 * stream goes on. */
START_TEST(a_slow_client)
{
    struct client c = {0};
    static char pad[4200], all[8 << 20];
    size_t len = 0;
    char want[128];

    join(&c, "/ws/stream");
    say(&c, "{\"type\":\"subscribe\",\"topics\":[\"analytics.realtime\"]}");
    heard(&c);
    snprintf(pad, sizeof pad, "{\"pad\":\"%4000d\"}", 1);
    for (int i = 0; i < 1000; i++) {
        record("analytics", "analytics.realtime", "main", pad);
        uv_run(rt->loop, UV_RUN_NOWAIT);
    }
    ck_assert_uint_gt(keel_ws_info(c.ws).refused, 0);
    ck_assert_uint_le(keel_ws_info(c.ws).queued, 512);
    for (int idle = 0; idle < 20; idle++) {
        const char *got = heard(&c);
        size_t n = strlen(got);
        ck_assert_uint_lt(len + n, sizeof all);
        memcpy(all + len, got, n + 1);
        len += n;
        if (n > 0)
            idle = 0;
    }
    int data = count(all, "\"type\":\"data\"");
    ck_assert_int_eq(count(all, "\"event\":\"gap\""), 1);
    snprintf(want, sizeof want, "\"event\":\"gap\",\"missed\":%d,\"reason\":\"slow_client\"", 1000 - data);
    ck_assert_msg(strstr(all, want) != NULL, "%s: %.300s", want, strstr(all, "\"gap\""));
    record("analytics", "analytics.realtime", "main", "{\"n\":7}");
    ck_assert_ptr_nonnull(strstr(heard(&c), "\"seq\":1001}"));
    leave(&c);
}
END_TEST

START_TEST(market)
{
    struct client c = {0}, bad = {0};
    const char *got;

    join(&bad, "/ws/market-data/BTC:USDT");
    ck_assert_int_eq(bad.http, 400);
    join(&c, "/ws/market-data/btcusdt");
    record("trade", "marketdata.trade", "BTCUSDT", "{\"symbol\":\"BTCUSDT\",\"price\":\"61660.1\",\"size\":\"0.25\"}");
    got = heard(&c);
    ck_assert_msg(strstr(got, "\"price\":61660.1,\"bid\":null,\"ask\":null,\"volume\":0.25,") != NULL, "%s", got);
    ck_assert_ptr_nonnull(strstr(got, "\"undefined\":{\"bid\":\"no quote yet\",\"ask\":\"no quote yet\"}"));
    record("trade", "marketdata.trade", "BTCUSDT", "{\"symbol\":\"BTCUSDT\",\"price\":\"61660\",\"size\":\"0.5\"}");
    record("quote", "marketdata.quote", "BTCUSDT",
           "{\"symbol\":\"BTCUSDT\",\"bid\":\"61659.7\",\"bid_size\":\"1\",\"ask\":\"61659.8\",\"ask_size\":\"1\"}");
    record("quote", "marketdata.quote", "ETHUSDT",
           "{\"symbol\":\"ETHUSDT\",\"bid\":\"1\",\"bid_size\":\"1\",\"ask\":\"2\",\"ask_size\":\"1\"}");
    got = heard(&c);
    ck_assert_int_eq(count(got, "\"message_type\":\"market_data\""), 2);
    ck_assert_ptr_nonnull(strstr(got, "\"price\":61660,\"bid\":61659.7,\"ask\":61659.8,\"volume\":0.75,"));
    ck_assert_int_eq(count(got, "ETHUSDT"), 0);
    say(&c, "{\"type\":\"heartbeat\"}"); /* it takes no messages */
    ck_assert_ptr_nonnull(strstr(heard(&c), "takes_no_messages"));
    leave(&c);
}
END_TEST

/* Nobody is there: eight engines are away, this one answers for itself. */
START_TEST(system_alone)
{
    const char *answer;

    ck_assert_int_eq(keel_loopback(rt, "GET", "/system", NULL, arena, &answer), 200);
    ck_assert_int_eq(count(answer, "\"age_ms\""), 9);
    ck_assert_ptr_nonnull(strstr(answer, "\"engine\":\"websocket\""));
}
END_TEST

/* The page and what it loads are whole, of the right kind, and may load nothing else. */
START_TEST(the_page)
{
    const char *answer;

    ck_assert_int_eq(keel_loopback(rt, "GET", "/dashboard", NULL, arena, &answer), 200);
    ck_assert_ptr_eq(strstr(answer, "<!doctype html>"), answer);
    for (const char *at = answer; (at = strstr(at, "=\"/dashboard/")) != NULL; at += 2) {
        const char *path = keel_arena_strndup(arena, at + 2, strcspn(at + 2, "\"")), *file;
        ck_assert_int_eq(keel_loopback(rt, "GET", path, NULL, arena, &file), 200);
        ck_assert_ptr_null(strstr(file, "http://127"));
    }
    ck_assert_ptr_null(strstr(answer, "src=\"http"));
    ck_assert_ptr_null(strstr(answer, "style="));
    ck_assert_ptr_null(strstr(answer, "onclick"));
    ck_assert_int_eq(keel_loopback(rt, "GET", "/dashboard/nothing.js", NULL, arena, &answer), 404);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("websocket");
    TCase *tc = tcase_create("engine");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, types, 0, (int)KEEL_COUNT(topic_case));
    tcase_add_loop_test(tc, patterns, 0, (int)KEEL_COUNT(pattern_case));
    tcase_add_test(tc, two_patterns_one_message);
    tcase_add_test(tc, channels_are_bounded);
    tcase_add_test(tc, history_is_bounded);
    tcase_add_test(tc, a_slow_client);
    tcase_add_test(tc, market);
    tcase_add_test(tc, system_alone);
    tcase_add_test(tc, the_page);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
