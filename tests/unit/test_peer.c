/*
 * The peer client against a server in the same loop whose manners the test chooses: answers, silence, a hang-up after
 * the request was read. What matters most: nothing is sent twice, and the status says whether anything was sent.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "keel/clock.h"
#include "rt.h"

enum manner { ANSWER, ANSWER_AND_CLOSE, HANG_UP, SILENCE, HUGE_ANSWER, HALF_ANSWER };

struct conn {
    uv_tcp_t tcp;
    uv_write_t write;
    char in[8192];
    size_t len;
};

static uv_loop_t loop;
static uv_tcp_t listener;
static struct keel_core_options core;
static const struct keel_engine engine = {.name = "probe"};
static struct keel_rt rt;
static char base_url[64];

/* The script of the server: the manner of the nth request, the last one for all that follow. */
static const enum manner *script;
static size_t n_script;
static bool hybrid;
static const char *answer_status, *answer_body;
static size_t n_requests, n_connections, n_sends;
static char last[8192]; /* the last whole request */
static char huge[9 << 20];

/* What the client was told, in order. */
static struct {
    enum keel_status status;
    int http;
    char body[256];
    size_t len;
} told[8];
static size_t n_told;

/* Stands before the C library's, so what libcurl sends is counted; the server writes by other means. */
ssize_t send(int fd, const void *data, size_t n, int flags)
{
    n_sends++;
    return sendto(fd, data, n, flags, NULL, 0);
}

/* ---- the server ---- */

static void on_conn_closed(uv_handle_t *h)
{
    free(h->data);
}

static void on_written(uv_write_t *w, int status)
{
    struct conn *c = w->data;
    (void)status;
    if (!uv_is_closing((uv_handle_t *)&c->tcp))
        uv_close((uv_handle_t *)&c->tcp, on_conn_closed);
}

static void on_written_kept(uv_write_t *w, int status)
{
    (void)w;
    (void)status;
}

static void answer(struct conn *c, size_t claimed, const char *body, size_t len, bool close)
{
    static char head[256];
    int n =
        snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                 answer_status, claimed);
    uv_buf_t bufs[2] = {uv_buf_init(head, (unsigned)n), uv_buf_init((char *)(uintptr_t)body, (unsigned)len)};
    c->write.data = c;
    uv_write(&c->write, (uv_stream_t *)&c->tcp, bufs, 2, close ? on_written : on_written_kept);
}

static void serve(struct conn *c)
{
    enum manner m = script[n_requests < n_script ? n_requests : n_script - 1];
    snprintf(last, sizeof last, "%s", c->in);
    n_requests++;
    switch (m) {
    case ANSWER:
        answer(c, strlen(answer_body), answer_body, strlen(answer_body), false);
        break;
    case ANSWER_AND_CLOSE:
        answer(c, strlen(answer_body), answer_body, strlen(answer_body), true);
        break;
    case HANG_UP:
        uv_close((uv_handle_t *)&c->tcp, on_conn_closed);
        break;
    case SILENCE:
        break;
    case HUGE_ANSWER:
        answer(c, sizeof huge, huge, sizeof huge, true);
        break;
    case HALF_ANSWER:
        answer(c, 100, "{\"half\":", 8, true);
        break;
    }
}

/* Length of the request at the start of in, or 0 while it is not whole. */
static size_t request_length(const struct conn *c)
{
    const char *end = strstr(c->in, "\r\n\r\n"), *at = strcasestr(c->in, "content-length:");
    if (end == NULL)
        return 0;
    size_t body = at != NULL && at < end ? strtoul(at + 15, NULL, 10) : 0;
    size_t whole = (size_t)(end - c->in) + 4 + body;
    return c->len >= whole ? whole : 0;
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct conn *c = h->data;
    (void)suggested;
    *buf = uv_buf_init(c->in + c->len, (unsigned)(sizeof c->in - 1 - c->len));
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = s->data;
    (void)buf;
    if (n < 0) {
        if (!uv_is_closing((uv_handle_t *)s))
            uv_close((uv_handle_t *)s, on_conn_closed);
        return;
    }
    c->len += (size_t)n;
    c->in[c->len] = '\0';
    if (request_length(c) > 0) {
        c->len = 0;
        serve(c);
    }
}

static void on_connection(uv_stream_t *server, int status)
{
    struct conn *c = calloc(1, sizeof *c);
    ck_assert_int_eq(status, 0);
    ck_assert_ptr_nonnull(c);
    uv_tcp_init(&loop, &c->tcp);
    c->tcp.data = c;
    ck_assert_int_eq(uv_accept(server, (uv_stream_t *)&c->tcp), 0);
    n_connections++;
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
}

/* ---- set-up ---- */

static void open_all(const enum manner *manners, size_t n)
{
    struct sockaddr_in addr;
    int len = sizeof addr;
    script = manners;
    n_script = n;
    answer_status = "200 OK";
    answer_body = "{\"ok\":true}";
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    uv_tcp_init(&loop, &listener);
    uv_ip4_addr("127.0.0.1", 0, &addr);
    ck_assert_int_eq(uv_tcp_bind(&listener, (const struct sockaddr *)&addr, 0), 0);
    ck_assert_int_eq(uv_listen((uv_stream_t *)&listener, 16, on_connection), 0);
    uv_tcp_getsockname(&listener, (struct sockaddr *)&addr, &len);
    snprintf(base_url, sizeof base_url, "http://127.0.0.1:%d/", ntohs(addr.sin_port));
    rt = (struct keel_rt){.engine = &engine, .loop = &loop, .core = &core,
                          .guard = hybrid ? &keel_guard_hybrid : &keel_guard_plain};
    static const char *const names[] = {"risk"};
    static const char *const urls[] = {base_url};
    ck_assert_int_eq(keel_peers_open(&rt, names, urls, 1), KEEL_OK);
}

static void close_walk(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, h == (uv_handle_t *)&listener ? NULL : on_conn_closed);
}

static void close_all(void)
{
    keel_peers_close(&rt);
    uv_run(&loop, UV_RUN_NOWAIT);
    uv_walk(&loop, close_walk, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}

static void on_told(struct keel_rt *r, void *ctx, const struct keel_reply *reply)
{
    ck_assert_ptr_eq(r, &rt);
    ck_assert_ptr_eq(ctx, told);
    told[n_told].status = reply->status;
    told[n_told].http = reply->http;
    told[n_told].len = reply->len;
    snprintf(told[n_told].body, sizeof told[0].body, "%s", reply->body);
    n_told++;
}

static void fetch(const char *method, const char *body, int64_t budget_ms)
{
    struct keel_peer_req req = {.peer = "risk",
                                .method = method,
                                .path = "/risk/check",
                                .body = body,
                                .body_len = body != NULL ? strlen(body) : 0,
                                .budget_ns = budget_ms * 1000000};
    size_t before = n_told;
    keel_peer_fetch(&rt, &req, INT64_MAX, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", on_told, told);
    ck_assert_uint_eq(n_told, before); /* never before it returns */
    while (n_told == before)
        uv_run(&loop, UV_RUN_ONCE);
}

/* ---- tests ---- */

START_TEST(an_answer_and_its_headers)
{
    static const enum manner manners[] = {ANSWER};
    open_all(manners, 1);
    core.engine_token = "secret";
    fetch("POST", "{\"a\":1}", 2000);
    ck_assert_int_eq(told[0].status, KEEL_OK);
    ck_assert_int_eq(told[0].http, 200);
    ck_assert_str_eq(told[0].body, "{\"ok\":true}");
    ck_assert_int_eq(strncmp(last, "POST /risk/check HTTP/1.1\r\n", 27), 0);
    ck_assert_ptr_nonnull(strstr(last, "Authorization: Bearer secret\r\n"));
    ck_assert_ptr_nonnull(strstr(last, "Content-Type: application/json\r\n"));
    ck_assert_ptr_nonnull(strstr(last, "Content-Length: 7\r\n"));
    ck_assert_ptr_nonnull(strstr(last, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"));
    ck_assert_ptr_nonnull(strstr(last, "X-Deadline-Ms: 2000\r\n"));
    ck_assert_ptr_null(strcasestr(last, "expect:"));
    ck_assert_ptr_nonnull(strstr(last, "\r\n\r\n{\"a\":1}"));
    core.engine_token = "";
    fetch("GET", NULL, 2000);
    ck_assert_ptr_null(strcasestr(last, "authorization"));
    ck_assert_ptr_null(strcasestr(last, "content-type"));
    fetch("PUT", "{}", 2000);
    ck_assert_int_eq(strncmp(last, "PUT /risk/check HTTP/1.1\r\n", 26), 0);
    ck_assert_uint_eq(n_connections, 1); /* kept alive */
    ck_assert_uint_eq(n_requests, 3);
    close_all();
}
END_TEST

START_TEST(an_error_answer_is_an_answer)
{
    static const enum manner manners[] = {ANSWER};
    open_all(manners, 1);
    answer_status = "422 Unprocessable";
    answer_body = "{\"code\":\"risk_denied\"}";
    fetch("POST", "{}", 2000);
    ck_assert_int_eq(told[0].status, KEEL_OK);
    ck_assert_int_eq(told[0].http, 422);
    ck_assert_str_eq(told[0].body, "{\"code\":\"risk_denied\"}");
    close_all();
}
END_TEST

static const struct {
    const char *method, *body;
} once_case[] = {
    {"POST", "{\"order\":1}"}, {"PATCH", "{\"order\":1}"},
    {"PUT", "{\"state\":1}"},  {"POST", NULL},
    {"DELETE", NULL},          {"POST", ""},
};

/* A second piece would wake the peer a second time. */
START_TEST(a_request_leaves_in_one_piece)
{
    static const enum manner manners[] = {ANSWER};
    open_all(manners, 1);
    n_sends = 0;
    for (size_t i = 0; i < KEEL_COUNT(once_case); i++)
        fetch(once_case[i].method, once_case[i].body, 2000);
    ck_assert_uint_eq(n_connections, 1); /* also those without a body */
    ck_assert_uint_eq(n_sends, KEEL_COUNT(once_case));
    close_all();
}
END_TEST

/* The server reads the second request on a kept connection and hangs up: an HTTP library would send it again. */
START_TEST(nothing_is_sent_twice)
{
    static const enum manner manners[] = {ANSWER, HANG_UP, ANSWER};
    hybrid = true;
    open_all(manners, 3);
    fetch("GET", NULL, 2000);
    ck_assert_int_eq(told[0].status, KEEL_OK);
    fetch(once_case[_i].method, once_case[_i].body, 2000);
    ck_assert_uint_eq(n_requests, 2);
    ck_assert_int_eq(told[1].status, KEEL_UPSTREAM);
    ck_assert_uint_eq(told[1].len, 0);
    fetch(once_case[_i].method, once_case[_i].body, 2000);
    ck_assert_int_eq(told[2].status, KEEL_OK);
    ck_assert_uint_eq(n_requests, 3);
    close_all();
}
END_TEST

static uint64_t shown(const char *member)
{
    struct keel_arena *a = keel_arena_new(4096);
    struct keel_json w;
    const struct keel_jval *v = NULL;
    const char *why = "";
    int64_t n = -1;
    keel_json_init(&w, a, 512);
    keel_json_obj(&w, NULL);
    keel_peers_json(&rt, &w);
    keel_json_end(&w);
    const char *text = keel_json_text(&w);
    ck_assert_int_eq(keel_json_parse(a, text, strlen(text), &v, &why), KEEL_OK);
    const struct keel_jval *at = keel_jget(keel_jget(keel_jget(v, "peers"), "risk"), member);
    ck_assert_ptr_nonnull(at);
    ck_assert_int_eq(keel_i64_parse(at->text, at->len, &n), KEEL_OK);
    keel_arena_free(a);
    return (uint64_t)n;
}

/* The connection breaks as the first request is read; a new one would do. */
static const struct { const char *why; bool hybrid; enum manner first; enum keel_status st; size_t requests; }
    retry_case[] = {
        {"hung up", true, HANG_UP, KEEL_OK, 2},
        {"half an answer", true, HALF_ANSWER, KEEL_OK, 2},
        {"an answer is an answer", true, ANSWER, KEEL_OK, 1},
        {"what is silent is not asked again", true, SILENCE, KEEL_TIMEOUT, 1},
        {"too big a one would be so again", true, HUGE_ANSWER, KEEL_UPSTREAM, 1},
        {"plain", false, HANG_UP, KEEL_UPSTREAM, 1},
};

START_TEST(a_broken_get_is_repeated)
{
    const enum manner manners[] = {retry_case[_i].first, ANSWER};
    hybrid = retry_case[_i].hybrid;
    memset(huge, ' ', sizeof huge);
    open_all(manners, 2);
    fetch("GET", NULL, retry_case[_i].first == SILENCE ? 60 : 5000);
    ck_assert_msg(told[0].status == retry_case[_i].st, "%s: %s", retry_case[_i].why, keel_status_name(told[0].status));
    ck_assert_uint_eq(n_requests, retry_case[_i].requests);
    ck_assert_uint_eq(n_told, 1);
    if (retry_case[_i].st == KEEL_OK)
        ck_assert_str_eq(told[0].body, "{\"ok\":true}"); /* nothing of the first */
    ck_assert_uint_eq(shown("requests"), 1);
    ck_assert_uint_eq(shown("retries"), retry_case[_i].requests - 1);
    const char *deadline = strstr(last, "X-Deadline-Ms: ");
    ck_assert_ptr_nonnull(deadline);
    ck_assert_int_le(strtol(deadline + 15, NULL, 10), 5000);
    close_all();
}
END_TEST

/* Once, and not for everyone: three in a minute when there are few requests. */
START_TEST(repeats_have_a_budget)
{
    static const enum manner manners[] = {HANG_UP};
    hybrid = true;
    open_all(manners, 1);
    for (size_t i = 0; i < 7; i++) {
        fetch("GET", NULL, 5000);
        ck_assert_int_eq(told[i].status, KEEL_UPSTREAM);
    }
    ck_assert_uint_eq(n_requests, 7 + 3);
    ck_assert_uint_eq(shown("requests"), 7);
    ck_assert_uint_eq(shown("retries"), 3);
    ck_assert_uint_eq(shown("retries_refused"), 4);
    close_all();
}
END_TEST

/* Its breaker opens with the first attempt: there is no second. */
START_TEST(no_repeat_past_a_breaker)
{
    static const enum manner manners[] = {HANG_UP};
    static const struct keel_engine opens_at_once = {.name = "probe", .breaker = {1, 60000, 1, 10000}};
    static struct keel_target_conf dep = {"dep.peer.risk", NULL, KEEL_CRITICAL, 0};
    static struct keel_load load;
    const struct keel_guard_env env = {.engine = &opens_at_once, .targets = &dep, .n_targets = 1, .load = &load};
    hybrid = true;
    open_all(manners, 1);
    rt.targets = &dep;
    rt.n_targets = 1;
    ck_assert_int_eq(rt.guard->open(&env, &rt.guard_self), KEEL_OK);
    fetch("GET", NULL, 5000);
    ck_assert_int_eq(told[0].status, KEEL_UPSTREAM);
    ck_assert_uint_eq(n_requests, 1);
    const struct keel_peer_req req = {.peer = "risk", .method = "GET", .path = "/"};
    keel_peer_fetch(&rt, &req, INT64_MAX, NULL, on_told, told);
    while (n_told < 2)
        uv_run(&loop, UV_RUN_NOWAIT); /* a turn that handed it back would wait for the next event */
    ck_assert_int_eq(told[1].status, KEEL_OPEN);
    ck_assert_uint_eq(n_requests, 1);
    ck_assert_uint_eq(shown("retries"), 0);
    close_all();
    rt.guard->close(rt.guard_self);
}
END_TEST

START_TEST(a_connection_closed_while_idle_is_replaced)
{
    static const enum manner manners[] = {ANSWER_AND_CLOSE};
    open_all(manners, 1);
    for (size_t i = 0; i < 3; i++) {
        fetch("POST", "{}", 2000);
        ck_assert_int_eq(told[i].status, KEEL_OK);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    ck_assert_uint_eq(n_requests, 3);
    ck_assert_uint_eq(n_connections, 3);
    close_all();
}
END_TEST

START_TEST(silence_is_a_timeout)
{
    static const enum manner manners[] = {SILENCE};
    open_all(manners, 1);
    int64_t from = keel_mono_ns();
    fetch("POST", "{}", 60);
    int64_t took = keel_mono_ns() - from;
    ck_assert_int_eq(told[0].status, KEEL_TIMEOUT);
    ck_assert_int_ge(took, 50 * 1000000);
    close_all();
}
END_TEST

static enum keel_outcome heard[16]; /* by the breaker of risk */
static size_t n_heard;

static void hear(void *self, struct keel_permit p, enum keel_outcome o, int64_t latency_ns, int64_t now_ns)
{
    (void)self;
    (void)p;
    (void)latency_ns;
    (void)now_ns;
    heard[n_heard++] = o;
}

/* open_all with a breaker of risk that writes down what it hears. */
static void open_heard(const enum manner *manners, size_t n)
{
    static struct keel_target_conf dep = {.name = "dep.peer.risk"};
    static struct keel_guard spy;
    open_all(manners, n);
    spy = keel_guard_plain;
    spy.settle = hear;
    rt.guard = &spy;
    rt.targets = &dep;
    rt.n_targets = 1;
    n_heard = 0;
}

/* Those who wait while a disk is away for a moment say little against the peer; a second does. */
START_TEST(a_moment_of_silence)
{
    static const enum manner manners[] = {SILENCE, SILENCE, ANSWER, SILENCE, SILENCE, SILENCE, SILENCE};
    static const struct { int64_t budget_ms; enum keel_outcome heard; bool pauses; } step[] = {
        {20, KEEL_OUT_SLOW, false},    {20, KEEL_OUT_SLOW, false},  {60000, KEEL_OUT_OK, false}, {20, KEEL_OUT_SLOW, false},
        {1010, KEEL_OUT_TIMEOUT, false}, {20, KEEL_OUT_TIMEOUT, false},
        {20, KEEL_OUT_SLOW, true}, /* nobody has asked: it is not known what it would have said */
    };
    const struct timespec pause = {.tv_sec = 1, .tv_nsec = 50000000};
    open_heard(manners, 7);
    for (size_t i = 0; i < KEEL_COUNT(step); i++) {
        if (step[i].pauses)
            nanosleep(&pause, NULL);
        fetch("POST", "{}", step[i].budget_ms);
        ck_assert_msg(heard[i] == step[i].heard, "%zu: %d", i, (int)heard[i]);
    }
    close_all();
}
END_TEST

/* Nor are they as many as there are who wait. Who was asked after the first had given up is heard again. */
START_TEST(who_waits_together_says_it_once)
{
    static const enum manner manners[] = {SILENCE};
    static const enum keel_outcome want[] = {KEEL_OUT_SLOW, KEEL_OUT_CANCELLED, KEEL_OUT_CANCELLED, KEEL_OUT_SLOW};
    const struct keel_peer_req req = {.peer = "risk", .method = "POST", .path = "/", .body = "{}"};
    open_heard(manners, 1);
    for (int i = 0; i < 3; i++)
        keel_peer_fetch(&rt, &req, keel_mono_ns() + 30 * INT64_C(1000000), NULL, on_told, told);
    while (n_told < 3)
        uv_run(&loop, UV_RUN_ONCE);
    fetch("POST", "{}", 20);
    ck_assert_uint_eq(n_heard, KEEL_COUNT(want));
    for (size_t i = 0; i < KEEL_COUNT(want); i++)
        ck_assert_msg(heard[i] == want[i], "%zu: %d", i, (int)heard[i]);
    close_all();
}
END_TEST

START_TEST(half_an_answer_is_none)
{
    static const enum manner manners[] = {HALF_ANSWER};
    open_all(manners, 1);
    fetch("POST", "{}", 2000);
    ck_assert_int_eq(told[0].status, KEEL_UPSTREAM);
    ck_assert_str_eq(told[0].body, "");
    close_all();
}
END_TEST

START_TEST(too_big_an_answer_is_none)
{
    static const enum manner manners[] = {HUGE_ANSWER};
    open_all(manners, 1);
    memset(huge, ' ', sizeof huge);
    fetch("GET", NULL, 5000);
    ck_assert_int_eq(told[0].status, KEEL_UPSTREAM);
    ck_assert_uint_eq(told[0].len, 0);
    close_all();
}
END_TEST

START_TEST(nobody_listens)
{
    static const enum manner manners[] = {ANSWER};
    open_all(manners, 1);
    uv_close((uv_handle_t *)&listener, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
    fetch("POST", "{}", 2000);
    ck_assert_int_eq(told[0].status, KEEL_UNAVAILABLE);
    struct keel_peer_req req = {.peer = "risk", .method = "GET", .path = "/"};
    keel_peer_fetch(&rt, &req, keel_mono_ns() - 1, NULL, on_told, told); /* its deadline has passed */
    req.peer = "nobody";
    keel_peer_fetch(&rt, &req, INT64_MAX, NULL, on_told, told);
    while (n_told < 3)
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert_int_eq(told[1].status, KEEL_UNAVAILABLE);
    ck_assert_int_eq(told[2].status, KEEL_UNAVAILABLE);
    ck_assert_uint_eq(n_requests, 0);
    close_all();
}
END_TEST

START_TEST(closing_tells_who_waits)
{
    static const enum manner manners[] = {SILENCE};
    open_all(manners, 1);
    struct keel_peer_req req = {.peer = "risk", .method = "POST", .path = "/a", .body = "{}", .body_len = 2};
    keel_peer_fetch(&rt, &req, INT64_MAX, NULL, on_told, told);
    while (n_requests == 0)
        uv_run(&loop, UV_RUN_ONCE);
    keel_peer_fetch(&rt, &req, INT64_MAX, NULL, on_told, told);
    close_all();
    ck_assert_uint_eq(n_told, 2);
    ck_assert_int_eq(told[0].status, KEEL_UNAVAILABLE); /* the younger: nothing had left */
    ck_assert_int_eq(told[1].status, KEEL_UPSTREAM);
}
END_TEST

START_TEST(addresses)
{
    static const enum manner manners[] = {ANSWER};
    open_all(manners, 1);
    ck_assert_str_eq(keel_peer_url(&rt, "risk"), base_url);
    ck_assert_ptr_null(keel_peer_url(&rt, "nobody"));
    close_all();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("peer");
    TCase *tc = tcase_create("peer");
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, an_answer_and_its_headers);
    tcase_add_test(tc, an_error_answer_is_an_answer);
    tcase_add_test(tc, a_request_leaves_in_one_piece);
    tcase_add_loop_test(tc, nothing_is_sent_twice, 0, (int)KEEL_COUNT(once_case));
    tcase_add_loop_test(tc, a_broken_get_is_repeated, 0, (int)KEEL_COUNT(retry_case));
    tcase_add_test(tc, repeats_have_a_budget);
    tcase_add_test(tc, no_repeat_past_a_breaker);
    tcase_add_test(tc, a_connection_closed_while_idle_is_replaced);
    tcase_add_test(tc, silence_is_a_timeout);
    tcase_add_test(tc, a_moment_of_silence);
    tcase_add_test(tc, who_waits_together_says_it_once);
    tcase_add_test(tc, half_an_answer_is_none);
    tcase_add_test(tc, too_big_an_answer_is_none);
    tcase_add_test(tc, nobody_listens);
    tcase_add_test(tc, closing_tells_who_waits);
    tcase_add_test(tc, addresses);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
