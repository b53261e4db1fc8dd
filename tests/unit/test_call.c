/*
 * The life of a call, under both guards (loop index 0: plain, 1: hybrid), on a small engine of its own.
 * What is expected follows from system.md 2 to 7; trace contexts from the examples of W3C Trace Context,
 * section 3.2.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "call_priv.h"
#include "loopback_engine.h"
#include "tree.h"

#define MAX_CALLS 16

static char dir[64];
static struct keel_rt *rt;
static struct lb_state *state;
static struct keel_arena *arena;

static struct keel_rt *engine_new(char *err, size_t cap, const char *more)
{
    char data[80];
    snprintf(data, sizeof data, "--data-dir=%s/data", dir);
    char name[] = "test", redis[] = "--redis-url=", calls[] = "--max-calls=16", workers[] = "--workers", one[] = "1",
         level[] = "--log-level=error", last[128];
    snprintf(last, sizeof last, "%s", more != NULL ? more : "");
    char *argv[] = {name, data, redis, calls, workers, one, level, last, NULL};
    return keel_rt_new(&loopback_engine, more != NULL ? 8 : 7, argv, err, cap);
}

static void start_with(int hybrid, const char *option)
{
    char err[256] = "";
    setenv("ENABLE_HYBRID", hybrid ? "true" : "OFF", 1);
    rt = engine_new(err, sizeof err, option);
    ck_assert_msg(rt != NULL, "%s", err);
    ck_assert_int_eq(keel_is_hybrid(rt), hybrid);
    state = keel_state(rt);
}

static void start(int hybrid)
{
    start_with(hybrid, NULL);
}

static void setup(void)
{
    snprintf(dir, sizeof dir, "/tmp/keel-call-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    arena = keel_arena_new(65536);
}

static void teardown(void)
{
    keel_rt_free(rt);
    rt = NULL;
    keel_arena_free(arena);
    tree_remove(dir);
}

/* Turns the loop until cond; a bound turns a hang into a failure. */
#define TURN_UNTIL(cond)                                                                                               \
    do {                                                                                                               \
        int64_t turn_end_ = keel_mono_ns() + 60000000000;                                                              \
        while (!(cond)) {                                                                                              \
            ck_assert_msg(keel_mono_ns() < turn_end_, "never: " #cond);                                                \
            uv_run(rt->loop, UV_RUN_ONCE);                                                                             \
        }                                                                                                              \
    } while (0)

/* The timer row of the engine holds a slot now and then. */
static void expect_all_slots(void)
{
    TURN_UNTIL(keel_call_slots(rt) == MAX_CALLS);
}

/* ---- a client that waits beside others ---- */

struct client {
    struct keel_request rq;
    struct keel_route route;
    const char *limit_ms, *traceparent, *body;
    int done, http, order;
    int64_t done_ns, late_ns; /* late_ns: how long the process was away since it came */
    uint64_t client;
    char headers[512], type[64];
    char *gives;   /* its body's memory, to be taken over; NULL again when it was */
};
static int n_done;

static const char *header_of(void *ctx, const char *name)
{
    const struct client *c = ctx;
    if (strcmp(name, "X-Deadline-Ms") == 0)
        return c->limit_ms;
    return strcmp(name, "traceparent") == 0 ? c->traceparent : NULL;
}

static void on_answer(void *ctx, const struct keel_answer *ans)
{
    struct client *c = ctx;
    size_t len = 0;
    c->done++;
    c->order = ++n_done;
    c->http = ans->http;
    c->done_ns = keel_mono_ns();
    c->body = keel_arena_strndup(arena, ans->body, ans->len);
    snprintf(c->type, sizeof c->type, "%s", ans->type);
    for (size_t i = 0; i < ans->n_headers; i++)
        len += (size_t)snprintf(c->headers + len, sizeof c->headers - len, "%s: %s\n", ans->headers[i].name,
                                ans->headers[i].value);
}

static char *give_body(void *ctx)
{
    struct client *c = ctx;
    char *body = c->gives;
    c->gives = NULL;
    return body;
}

static void ask(struct client *c, const char *path, const char *body)
{
    ck_assert(keel_route_find(rt, arena, "POST", path, &c->route));
    c->rq = (struct keel_request){.method = "POST", .path = path, .params = c->route.params,
                                  .n_params = c->route.n_params, .body = body, .body_len = strlen(body),
                                  .header = header_of, .give_body = c->gives != NULL ? give_body : NULL, .ctx = c,
                                  .scope = KEEL_SCOPE_TRADE, .arrived_ns = keel_mono_ns() - c->late_ns,
                                  .client = c->client};
    keel_call_http(rt, c->route.op, &c->rq, on_answer, c);
}

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

static uint64_t outcomes(const char *op, const char *outcome)
{
    struct keel_text t;
    char row[160];
    keel_text_init(&t, arena, 4096);
    rt->guard->metrics(rt->guard_self, &t, "loopback", keel_mono_ns());
    snprintf(row, sizeof row, "op=\"%s\",outcome=\"%s\"} ", op, outcome);
    const char *at = strstr(t.buf, row);
    return at != NULL ? strtoull(at + strlen(row), NULL, 10) : 0;
}

/* ---- answers ---- */

static const struct {
    const char *why, *method, *path, *body;
    int http;
    const char *part; /* of the answer */
} answer_case[] = {
    {"inline", "GET", "/inline/ada?n=3", NULL, 200, "{\"name\":\"ada\",\"n\":3}"},
    {"escaped path", "GET", "/inline/a%20b", NULL, 200, "\"name\":\"a b\""},
    {"escaped query", "POST", "/post?name=a%2Bb+c", NULL, 200, "\"name\":\"a+b c\""},
    {"body", "POST", "/post", "{\"name\":\"bob\"}", 200, "{\"name\":\"bob\",\"n\":0}"},
    {"no such path", "GET", "/nowhere", NULL, 404, "\"code\":\"notfound\""},
    {"no such method", "DELETE", "/post", NULL, 405, "\"code\":\"method\""},
    {"broken JSON", "POST", "/post", "{\"name\":", 400, "\"code\":\"invalid_json\""},
    {"no object", "POST", "/post", "[1]", 400, "\"code\":\"wrong_type\""},
    {"bare array", "POST", "/bare", "[{\"word\":\"x\"}]", 200, "nobody"},
    {"unknown member", "POST", "/post", "{\"nam\":\"x\"}", 400, "\"field\":\"nam\""},
    {"unknown parameter", "GET", "/inline/ada?m=3", NULL, 400, "\"code\":\"unknown_field\""},
    {"out of range", "GET", "/inline/ada?n=64", NULL, 400, "\"code\":\"out_of_range\""},
    {"not a number", "GET", "/inline/ada?n=6x", NULL, 400, "\"field\":\"n\""},
    {"path and body agree", "GET", "/inline/ada?name=ada", NULL, 200, "ada"},
    {"path and query differ", "GET", "/inline/ada?name=bob", NULL, 400, "\"code\":\"mismatch\""},
    {"takes nothing", "POST", "/nothing", "{\"a\":1}", 400, "\"field\":\"a\""},
    {"takes nothing, empty object", "POST", "/nothing", "{}", 200, "{\"spawned_n\":0}"},
    {"fails", "POST", "/post", "{\"name\":\"eve\",\"fail\":true}", 409,
     "\"detail\":\"eve asked to fail\",\"code\":\"no_luck\",\"field\":\"fail\""},
    {"fails with more", "POST", "/post", "{\"fail\":true}", 409, "\"denials\":[1,2]"},
    {"work", "POST", "/work", "{\"n\":10}", 200, "{\"sum\":55}"},
    {"work fails", "POST", "/work", "{\"n\":9}", 422, "\"detail\":\"the work failed\""},
    {"sleep", "POST", "/sleep", "{\"sleep_ms\":3}", 200, "nobody"},
};

START_TEST(answers)
{
    start(1);
    for (size_t i = 0; i < KEEL_COUNT(answer_case); i++) {
        const char *body = "";
        int http = keel_loopback(rt, answer_case[i].method, answer_case[i].path, answer_case[i].body, arena, &body);
        const char *why = answer_case[i].why;
        ck_assert_msg(http == answer_case[i].http && has(body, answer_case[i].part), "%s: %d %s", why, http, body);
        ck_assert_msg(http < 400 || has(body, "\"type\":\"about:blank\",\"title\":"), "%s: %s", why, body);
    }
    expect_all_slots();
}
END_TEST

START_TEST(too_big)
{
    char body[400], most[300];
    const char *answer;
    start(_i);
    snprintf(body, sizeof body, "{\"name\":\"x\"%*s}", 256 - 12 + 1, "");
    snprintf(most, sizeof most, "{\"name\":\"x\"%*s}", 256 - 12, "");
    ck_assert_uint_eq(strlen(most), 256);
    ck_assert_int_eq(keel_loopback(rt, "POST", "/post", most, arena, &answer), 200);
    ck_assert_int_eq(keel_loopback(rt, "POST", "/post", body, arena, &answer), 413);
    ck_assert(has(answer, "\"code\":\"toobig\""));
}
END_TEST

START_TEST(headers)
{
    struct client ok = {.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"};
    struct client bad = {0}, limit = {0};
    start(_i);
    ask(&ok, "/post", "{}");
    ck_assert_int_eq(ok.http, 200);
    ck_assert_str_eq(ok.type, "application/json");
    ck_assert(has(ok.headers, "X-Trace-Id: 4bf92f3577b34da6a3ce929d0e0e4736\n"));
    ck_assert(has(ok.headers, "Server-Timing: app;dur="));
    ck_assert(has(ok.headers, "Cache-Control: no-store\n"));
    ck_assert(has(ok.headers, "X-Content-Type-Options: nosniff\n"));
    ck_assert(!has(ok.headers, "Retry-After"));
    bad.traceparent = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
    ask(&bad, "/post", "{\"fail\":true}");
    ck_assert_str_eq(bad.type, "application/problem+json");
    ck_assert(has(bad.body, "\"trace_id\":\""));
    ck_assert(!has(bad.headers, "X-Trace-Id: 00000000000000000000000000000000"));
    limit.limit_ms = "soon";
    ask(&limit, "/post", "{}");
    ck_assert_int_eq(limit.http, 400);
    ck_assert(has(limit.body, "\"field\":\"X-Deadline-Ms\""));
    expect_all_slots();
}
END_TEST

/* Hexadecimal and lower case, every digit at every place sooner or later, and no two the same. */
START_TEST(new_trace_ids)
{
    static const char digits[] = "0123456789abcdef", name[] = "X-Trace-Id: ";
    enum { N = 400, LEN = 32 };
    static char ids[N][LEN + 1];
    bool seen[LEN][16] = {{0}};
    start(_i);
    for (int i = 0; i < N; i++) {
        struct client c = {0};
        ask(&c, "/post", "{}");
        const char *at = strstr(c.headers, name);
        ck_assert(at != NULL);
        memcpy(ids[i], at + sizeof name - 1, LEN);
        ck_assert_int_eq(at[sizeof name - 1 + LEN], '\n');
        for (int k = 0; k < LEN; k++) {
            const char *digit = memchr(digits, ids[i][k], 16);
            ck_assert_msg(digit != NULL, "%s", ids[i]);
            seen[k][digit - digits] = true;
        }
        for (int k = 0; k < i; k++)
            ck_assert_str_ne(ids[k], ids[i]);
    }
    for (int k = 0; k < LEN * 16; k++)
        ck_assert_msg(seen[k / 16][k % 16], "%c at %d", digits[k % 16], k / 16);
    expect_all_slots();
}
END_TEST

static const struct { const char *text; bool ok; } trace_case[] = {
    {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true},
    {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true},
    {"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-will-come", true},
    {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false},
    {"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more", false},
    {"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false},
    {"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false},
    {"00-00000000000000000000000000000000-00f067aa0ba902b7-01", false},
    {"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false},
    {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", false},
    {"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false},
    {"", false},
};

START_TEST(traceparent)
{
    char trace[33], flags[3];
    ck_assert_int_eq(keel_traceparent_parse(trace_case[_i].text, trace, flags), trace_case[_i].ok);
    if (trace_case[_i].ok)
        ck_assert_str_eq(trace, "4bf92f3577b34da6a3ce929d0e0e4736");
}
END_TEST

/* ---- deadlines ---- */

static const struct { const char *why, *path, *body, *code; bool parked; } deadline_case[] = {
    {"running work", "/work", "{\"name\":\"forever\"}", "\"code\":\"timeout\"", false},
    {"parked", "/park", "{}", "\"code\":\"timeout\"", true},
    {"asleep", "/sleep", "{\"sleep_ms\":900}", "\"code\":\"timeout\"", false},
};

START_TEST(deadline)
{
    for (int guard = 0; guard < 2; guard++) {
        struct client c = {.limit_ms = "100"}; /* it must have begun by then */
        start(guard);
        int64_t t0 = keel_mono_ns();
        ask(&c, deadline_case[_i].path, deadline_case[_i].body);
        ck_assert_int_eq(c.done, 0);
        TURN_UNTIL(c.done);
        ck_assert_msg(c.http == 504 && has(c.body, deadline_case[_i].code), "%s: %d %s", deadline_case[_i].why, c.http,
                      c.body);
        ck_assert_int_ge(c.done_ns - t0, 100 * KEEL_MS);
        if (deadline_case[_i].parked) { /* what held it comes back: it is gone, but its permit was kept for that */
            ck_assert_ptr_nonnull(keel_call_of(rt, state->token[0]));
            ck_assert(!keel_wake(rt, state->token[0], KEEL_OK));
            ck_assert_ptr_null(keel_call_of(rt, state->token[0]));
        }
        expect_all_slots();
        ck_assert_int_eq(c.done, 1);
        ck_assert_int_eq(state->ended, 0);
        const char *op = deadline_case[_i].path + 1;
        ck_assert_uint_eq(outcomes(op, "cancelled"), 1); /* its caller was impatient; its row gives a second */
        keel_rt_free(rt);
    }
    rt = NULL;
}
END_TEST

START_TEST(abandoned_for_good)
{
    struct client c = {.limit_ms = "100"};
    start(_i);
    ask(&c, "/park", "{}");
    expect_all_slots(); /* nobody wakes it: the slot comes back at four times the deadline */
    ck_assert_int_ge(keel_mono_ns() - c.rq.arrived_ns, 400 * KEEL_MS);
    ck_assert_uint_eq(outcomes("park", "cancelled"), 1);
    ck_assert(!keel_wake(rt, state->token[0], KEEL_OK));
}
END_TEST

START_TEST(four_deadlines_are_a_timeout)
{
    struct client c = {0};
    start(1);
    ask(&c, "/park", "{}");
    TURN_UNTIL(c.done);
    ck_assert_int_eq(c.http, 504);
    expect_all_slots();
    ck_assert_int_ge(keel_mono_ns() - c.rq.arrived_ns, 4000 * KEEL_MS);
    ck_assert_uint_eq(outcomes("park", "timeout"), 1);
}
END_TEST

/* Twenty of them, if they counted as slow, would open it for everybody. */
START_TEST(impatient_callers_open_no_circuit)
{
    start(1);
    for (int i = 0; i < 30; i++) {
        struct client c = {.limit_ms = "2"};
        ask(&c, "/sleep", "{\"sleep_ms\":10}");
        TURN_UNTIL(c.done);
        ck_assert_msg(c.http == 504, "%d: %d %s", i, c.http, c.body);
    }
    struct client patient = {0};
    ask(&patient, "/sleep", "{\"sleep_ms\":10}");
    TURN_UNTIL(patient.done);
    ck_assert_msg(patient.http == 200, "%d %s", patient.http, patient.body);
    expect_all_slots();
    ck_assert_uint_eq(outcomes("sleep", "cancelled"), 30);
}
END_TEST

/* One worker: the second job waits for the first and never begins. */
START_TEST(queued_work_is_cancelled)
{
    struct client first = {.limit_ms = "200"}, second = {.limit_ms = "20"};
    start(_i);
    keel_timers_stop(rt);
    atomic_store(&lb_works, 0);
    ask(&first, "/work", "{\"name\":\"forever\"}");
    ask(&second, "/work", "{\"n\":1}");
    ck_assert_uint_eq(rt->load.queued, 1);
    ck_assert_uint_eq(keel_call_slots(rt), MAX_CALLS - 2);
    TURN_UNTIL(second.done);
    ck_assert_int_eq(first.done, 0);
    ck_assert_uint_eq(keel_call_slots(rt), MAX_CALLS - 1); /* its slot is free, and no thread is */
    ck_assert_int_eq(second.http, 504);
    ck_assert(has(second.body, "\"code\":\"cancelled\""));
    ck_assert_uint_eq(rt->load.queued, 0);
    ck_assert_uint_eq(outcomes("work", "cancelled"), 1);
    TURN_UNTIL(first.done);
    expect_all_slots();
    ck_assert_int_eq(atomic_load(&lb_works), 1); /* it never ran */
}
END_TEST

/* What waits for nothing is answered, however late; it teaches the breaker nothing. Who set a deadline gets it. */
START_TEST(late_inline)
{
    struct client hurried = {.limit_ms = "20", .late_ns = 40000 * KEEL_MS}, waits = {.late_ns = 40000 * KEEL_MS};
    start(_i);
    for (int i = 0; i < 60; i++) {
        struct client c = {.late_ns = 40000 * KEEL_MS};
        ask(&c, "/post", "{}");
        ck_assert_msg(c.http == 200, "%d: %d %s", i, c.http, c.body);
    }
    ck_assert_uint_eq(outcomes("post", "ok"), 60);
    ask(&hurried, "/post", "{}");
    ask(&waits, "/work", "{}");
    ck_assert_int_eq(hurried.http, 504);
    ck_assert_int_eq(waits.http, 504);
    ck_assert(has(hurried.body, "\"code\":\"cancelled\"") && has(waits.body, "\"code\":\"cancelled\""));
    expect_all_slots();
}
END_TEST

/* ---- large bodies ---- */

/* Members and blanks, on the heap so that a sanitizer sees who reads them after free. */
static char *large(const char *members)
{
    char *body = keel_alloc(1, 40001);
    memset(body, ' ', 40000);
    memcpy(body, members, strlen(members));
    body[39999] = '}';
    return body;
}

static const struct { const char *why, *path, *members, *part; int http; } large_case[] = {
    {"worked", "/work", "{\"n\":4", "{\"sum\":10}", 200},
    {"inline", "/bare", "{\"name\":\"ada\"", "\"name\":\"ada\"", 200},
    {"keyed", "/commit-work", "{\"name\":\"ada\"", "\"name\":\"ada\"", 200},
    {"job", "/long", "{\"n\":4", "\"job_id\":", 202},
    {"bad field", "/work", "{\"n\":64", "\"field\":\"n\"", 400},
    {"unknown field", "/long", "{\"m\":1", "\"field\":\"m\"", 400},
    {"bad JSON", "/work", "{\"n\":4,", "\"code\":\"invalid_json\"", 400},
};

START_TEST(large_body)
{
    for (int guard = 0; guard < 2; guard++) {
        struct client c = {0};
        char *body = large(large_case[_i].members);
        start(guard);
        ask(&c, large_case[_i].path, body);
        if (guard == 1)
            ck_assert_int_eq(c.done, 0); /* it was no step of the loop */
        TURN_UNTIL(c.done);
        ck_assert_msg(c.http == large_case[_i].http && has(c.body, large_case[_i].part), "%s: %d %s", large_case[_i].why,
                      c.http, c.body);
        expect_all_slots();
        keel_rt_free(rt);
        keel_free(body);
    }
    rt = NULL;
}
END_TEST

/* Who reads it on a worker takes the body over; what its reading left behind, some megabytes, a bulk thread frees. */
START_TEST(large_body_is_taken_over)
{
    for (int round = 0; round < 12; round++) {
        struct client c[3] = {{.http = 0}};
        int guard = round % 2;
        start(guard);
        for (size_t i = 0; i < KEEL_COUNT(c); i++) {
            char *body = large("{\"n\":4,\"m\":[1");
            for (size_t at = 14; at < 39000; at += 2)
                memcpy(body + at, ",1", 2);
            body[39998] = ']';
            c[i].gives = body;
            ask(&c[i], "/work", body);
            ck_assert(guard == 1 ? c[i].gives == NULL : c[i].gives == body);
        }
        TURN_UNTIL(c[0].done && c[1].done && c[2].done);
        for (size_t i = 0; i < KEEL_COUNT(c); i++) {
            ck_assert_msg(c[i].http == 400 && has(c[i].body, "\"field\":\"m\""), "%d %s", c[i].http, c[i].body);
            keel_free(c[i].gives);
        }
        expect_all_slots();
        keel_rt_free(rt);
    }
    rt = NULL;
}
END_TEST

/* The key is known once the body is read: in order from there on. */
START_TEST(large_bodies_of_a_key)
{
    struct client a = {0}, b = {0};
    char *first = large("{\"name\":\"ada\",\"n\":1"), *second = large("{\"name\":\"ada\",\"n\":2");
    start(1);
    ask(&a, "/keyed", first);
    ask(&b, "/keyed", second);
    TURN_UNTIL(state->n_order == 1 && rt->load.queued == 0);
    ck_assert(keel_wake(rt, state->token[1], KEEL_OK));
    TURN_UNTIL(state->n_order == 2);
    ck_assert(keel_wake(rt, state->token[2], KEEL_OK));
    TURN_UNTIL(a.done && b.done);
    ck_assert(a.http == 200 && b.http == 200 && a.order < b.order);
    expect_all_slots();
    keel_free(first);
    keel_free(second);
}
END_TEST

/* One worker, and it is taken: the body is never read, the op never begins. */
START_TEST(large_body_expires)
{
    struct client first = {.limit_ms = "300"}, c = {.limit_ms = "20"};
    char *body = large("{\"n\":4");
    start(1);
    ask(&first, "/work", "{\"name\":\"forever\"}");
    ask(&c, "/work", body);
    TURN_UNTIL(c.done);
    ck_assert_int_eq(c.http, 504);
    ck_assert(has(c.body, "\"code\":\"cancelled\""));
    ck_assert_int_eq(state->began, 1);
    ck_assert_uint_eq(outcomes("work", "cancelled"), 1);
    TURN_UNTIL(first.done);
    expect_all_slots();
    keel_free(body);
}
END_TEST

/* The client is told and its body goes while a worker still reads. */
START_TEST(large_body_while_draining)
{
    for (int round = 0; round < 20; round++) {
        struct client c = {0};
        char *body = large("{\"n\":4");
        start(1);
        ask(&c, "/work", body);
        keel_calls_abort(rt);
        ck_assert_int_eq(c.done, 1);
        ck_assert_int_eq(c.http, 503);
        memset(body, 'x', 40000);
        keel_free(body);
        ck_assert_int_eq(state->began, 0);
        expect_all_slots();
        keel_rt_free(rt);
    }
    rt = NULL;
}
END_TEST

/* One worker: the job that came last, and kept its row's level, goes first; plain knows no levels. */
START_TEST(lowered)
{
    struct client first = {.limit_ms = "100"}, deep = {0}, urgent = {0};
    start(_i);
    ask(&first, "/work", "{\"name\":\"forever\"}");
    ask(&deep, "/deep", "{\"n\":1}");
    ask(&urgent, "/deep", "{}");
    TURN_UNTIL(first.done && deep.done && urgent.done);
    ck_assert_int_eq(deep.http, 200);
    ck_assert_int_eq(urgent.http, 200);
    ck_assert_int_eq(urgent.order < deep.order, _i == 1);
    expect_all_slots();
}
END_TEST

/* Of what is ready in the same turn the urgent goes first, the rest in its order; plain has one order. */
START_TEST(urgent_steps_first)
{
    struct client first = {0}, second = {0}, urgent = {0};
    start(_i);
    ask(&first, "/park", "{\"n\":1}");
    ask(&second, "/park", "{\"n\":2}");
    ask(&urgent, "/urgent", "{\"n\":3}");
    for (int n = 1; n <= 3; n++)
        ck_assert(keel_wake(rt, state->token[n], KEEL_OK));
    TURN_UNTIL(first.done && second.done && urgent.done);
    ck_assert_int_lt(first.order, second.order);
    ck_assert_int_eq(urgent.order < first.order, _i == 1);
    ck_assert_int_eq(urgent.order > second.order, _i == 0);
    expect_all_slots();
}
END_TEST

START_TEST(must_never_expires)
{
    struct client c = {.limit_ms = "20"};
    start(_i);
    ask(&c, "/must", "{\"name\":\"halt\"}");
    TURN_UNTIL(c.done);
    ck_assert_int_eq(c.http, 202);
    ck_assert(has(c.body, "\"status\":\"unknown\""));
    ck_assert(keel_wake(rt, state->token[0], KEEL_OK));
    TURN_UNTIL(state->ended == 1);
    expect_all_slots();
}
END_TEST

/* ---- past the point of no return ---- */

START_TEST(commit_in_time)
{
    struct client c = {0};
    start(_i);
    ask(&c, "/commit", "{\"name\":\"ada\"}");
    ck_assert(keel_wake(rt, state->token[0], KEEL_OK));
    ck_assert_int_eq(c.done, 0); /* not nested in the one that wakes */
    TURN_UNTIL(c.done);
    ck_assert_int_eq(c.http, 200);
    ck_assert_uint_eq(outcomes("commit", "ok"), 1);
    expect_all_slots();
}
END_TEST

START_TEST(commit_late)
{
    struct client c = {.limit_ms = "20"}, behind = {.limit_ms = "1000"};
    start(_i);
    ask(&c, "/commit", "{\"name\":\"ada\"}");
    TURN_UNTIL(c.done);
    ck_assert_int_eq(c.http, 202);
    ck_assert_str_eq(c.body, "{\"status\":\"unknown\",\"name\":\"ada\"}");
    ask(&behind, "/keyed", "{\"name\":\"ada\",\"n\":1}"); /* the key is still held */
    ck_assert_uint_eq(state->n_order, 0);
    struct keel_call *call = keel_call_of(rt, state->token[0]);
    ck_assert_ptr_nonnull(call);
    ck_assert(keel_client_gone(call));
    ck_assert_int_gt(keel_left_ns(call), 1000 * KEEL_MS); /* the remaining steps have a budget of their own */
    ck_assert(keel_wake(rt, state->token[0], KEEL_OK));
    TURN_UNTIL(state->n_order == 1);
    ck_assert_int_eq(state->ended, 1);
    ck_assert_int_eq(c.done, 1);
    keel_wake(rt, state->token[1], KEEL_OK);
    TURN_UNTIL(behind.done);
    ck_assert_int_eq(behind.http, 200);
    expect_all_slots();
}
END_TEST

/* The answer is written while the worker has the arena. */
START_TEST(commit_late_beside_work)
{
    struct client c = {.limit_ms = "20"};
    start(_i);
    ask(&c, "/commit-work", "{\"name\":\"forever\"}");
    TURN_UNTIL(c.done);
    ck_assert_int_eq(c.http, 202);
    ck_assert(has(c.body, "forever"));
    ck_assert_int_eq(state->ended, 0); /* not abandoned: it is not even told to stop */
    keel_rt_free(rt);
    rt = NULL;
}
END_TEST

START_TEST(failed_wait)
{
    struct client c = {0};
    start(_i);
    ask(&c, "/park", "{}");
    ck_assert(keel_wake(rt, state->token[0], KEEL_UNAVAILABLE));
    ck_assert(!keel_wake(rt, state->token[0], KEEL_OK));
    TURN_UNTIL(c.done);
    ck_assert_int_eq(c.http, 503);
    ck_assert(has(c.headers, "Retry-After: 1\n"));
    ck_assert(has(c.body, "the wait failed"));
    ck_assert_uint_eq(outcomes("park", "rejected"), 1);
    expect_all_slots();
}
END_TEST

/* ---- keys ---- */

START_TEST(one_at_a_time)
{
    static const int expected[] = {0, 5, 1, 3, 4};
    struct client same[5] = {0}, other = {0};
    char body[64];
    start(_i);
    same[2].limit_ms = "20"; /* leaves the middle of the queue without having run */
    for (int i = 0; i < 5; i++) {
        snprintf(body, sizeof body, "{\"name\":\"ada\",\"n\":%d}", i);
        ask(&same[i], "/keyed", keel_arena_strdup(arena, body));
    }
    ask(&other, "/keyed", "{\"name\":\"bob\",\"n\":5}");
    TURN_UNTIL(same[2].done);
    ck_assert_int_eq(same[2].http, 504);
    ck_assert(has(same[2].body, "\"code\":\"cancelled\""));
    keel_wake(rt, state->token[5], KEEL_OK);
    for (size_t i = 0; i < 5; i++) {
        int n = expected[i];
        TURN_UNTIL(state->n_order > i);
        if (n == 5)
            continue;
        ck_assert_uint_eq(state->n_order, i == 0 ? 2 : i + 1); /* the next one has not begun */
        ck_assert(keel_wake(rt, state->token[n], KEEL_OK));
    }
    TURN_UNTIL(same[4].done && other.done);
    ck_assert_mem_eq(state->order, expected, sizeof expected);
    ck_assert(same[0].order < same[1].order && same[1].order < same[3].order && same[3].order < same[4].order);
    expect_all_slots();
}
END_TEST

/* ---- spawn and records ---- */

struct settled { int n; enum keel_status st; char problem[128]; };

static void on_settled(void *ctx, struct keel_call *c, enum keel_status st)
{
    struct settled *s = ctx;
    s->n++;
    s->st = st;
    snprintf(s->problem, sizeof s->problem, "%s", keel_call_problem(c));
}

static const struct keel_op *op_of(const char *id)
{
    const struct keel_op *op = keel_op_find(rt, id);
    ck_assert_ptr_nonnull(op);
    return op;
}

static const char *padded(const char *body)
{
    return keel_arena_printf(arena, "%*s%s", 20000, "", body);
}

/* In hybrid mode a worker reads them, and who comes meanwhile passes; then they wait for their key as others do. */
START_TEST(large_bodies)
{
    static const int expected[2][3] = {{0, 1, 2}, {2, 0, 1}};
    struct client large[2] = {0}, small = {0}, broken = {0};
    start(_i);
    ask(&large[0], "/keyed", padded("{\"name\":\"ada\",\"n\":0}"));
    ask(&large[1], "/keyed", padded("{\"name\":\"ada\",\"n\":1}"));
    ask(&small, "/keyed", "{\"name\":\"ada\",\"n\":2}");
    ask(&broken, "/keyed", padded("{\"name\":"));
    for (size_t i = 0; i < 3; i++) {
        TURN_UNTIL(state->n_order > i);
        ck_assert_uint_eq(state->n_order, i + 1);
        ck_assert(keel_wake(rt, state->token[expected[_i][i]], KEEL_OK));
    }
    TURN_UNTIL(large[0].done && large[1].done && small.done && broken.done);
    ck_assert_mem_eq(state->order, expected[_i], sizeof expected[_i]);
    ck_assert(large[0].http == 200 && large[1].http == 200 && small.http == 200);
    ck_assert_int_eq(broken.http, 400);
    ck_assert(has(broken.body, "\"code\":\"invalid_json\""));
    expect_all_slots();
}
END_TEST

START_TEST(spawn_copies)
{
    const struct keel_header h = {.topic = "marketdata.quote", .seq = 9, .ts_init = 5000, .ts_recv = 77,
                                  .traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"};
    static const char quote[] =
        "{\"symbol\":\"BTCUSDT\",\"bid\":\"1\",\"bid_size\":\"1\",\"ask\":\"2\",\"ask_size\":\"1\"}";
    struct settled s = {0};
    start(_i);
    keel_call_record(rt, op_of("record"), &h, quote, strlen(quote), on_settled, &s);
    ck_assert_int_eq(s.n, 1);
    ck_assert_int_eq(s.st, KEEL_OK);
    ck_assert_int_eq(state->spawned_n, 0); /* soon, not nested */
    TURN_UNTIL(state->spawned_n == 7);
    ck_assert_str_eq(state->spawned_name, "child/deep");
    ck_assert_str_eq(state->spawned_trace, h.traceparent);
    ck_assert_int_eq(state->spawned_ts_recv, 77);
    ck_assert_int_ge(keel_session_ns(rt), 5000);
    ck_assert_int_lt(keel_session_ns(rt), 5000 + 60000 * KEEL_MS); /* the record's, plus what has passed since */
    expect_all_slots();
}
END_TEST

START_TEST(record_fails)
{
    const struct keel_header h = {.topic = "x"};
    struct settled bad = {0}, late = {0};
    start(_i);
    keel_call_record(rt, op_of("post"), &h, "{\"n\":99}", 8, on_settled, &bad);
    ck_assert_int_eq(bad.st, KEEL_INVALID);
    ck_assert_msg(has(bad.problem, "out_of_range: ") && has(bad.problem, "n"), "%s", bad.problem);
    keel_call_record(rt, op_of("keyed"), &h, "{\"n\":1}", 7, on_settled, &late);
    ck_assert_int_eq(late.n, 0);
    keel_wake(rt, state->token[1], KEEL_UPSTREAM);
    TURN_UNTIL(late.n == 1);
    ck_assert_int_eq(late.st, KEEL_UPSTREAM);
    ck_assert_uint_eq(outcomes("keyed", "failure"), 1);
    expect_all_slots();
}
END_TEST

/* ---- bounds ---- */

START_TEST(slots_are_bounded)
{
    struct client c[MAX_CALLS] = {0}, more = {0};
    struct settled record = {0};
    const struct keel_header h = {.topic = "x"};
    const char *answer;
    char body[32];
    start(_i);
    keel_timers_stop(rt);
    for (int i = 0; i < MAX_CALLS; i++) {
        snprintf(body, sizeof body, "{\"n\":%d}", i);
        ask(&c[i], "/urgent", keel_arena_strdup(arena, body));
    }
    ck_assert_uint_eq(keel_call_slots(rt), 0);
    ck_assert_uint_eq(rt->load.in_flight, MAX_CALLS);
    ask(&more, "/post", "{}");
    ck_assert_int_eq(more.http, 503);
    ck_assert(has(more.headers, "Retry-After: 1\n"));
    keel_call_record(rt, op_of("post"), &h, "{}", 2, on_settled, &record);
    ck_assert_int_eq(record.st, KEEL_SHED);
    ck_assert_int_eq(keel_loopback(rt, "GET", "/health", NULL, arena, &answer), 200);
    for (int i = 0; i < MAX_CALLS; i++)
        ck_assert(keel_wake(rt, state->token[i], KEEL_OK));
    expect_all_slots();
    for (int i = 0; i < MAX_CALLS; i++)
        ck_assert_int_eq(c[i].http, 200);
}
END_TEST

/* A flood of normal calls: hybrid keeps places for what is critical, plain does not. */
START_TEST(a_flood_of_normal_calls)
{
    enum { HELD = 12 };
    struct client c[MAX_CALLS] = {0}, urgent = {0};
    char body[32];
    int answered = 0;
    start(_i);
    keel_timers_stop(rt);
    for (int i = 0; i < MAX_CALLS; i++) {
        snprintf(body, sizeof body, "{\"n\":%d}", i);
        ask(&c[i], "/park", keel_arena_strdup(arena, body));
        answered += c[i].done;
    }
    ck_assert_int_eq(answered, _i ? MAX_CALLS - HELD : 0);
    for (int i = _i ? HELD : MAX_CALLS; i < MAX_CALLS; i++) {
        ck_assert_int_eq(c[i].http, 503);
        ck_assert_msg(has(c[i].body, "\"code\":\"bulkhead_full\""), "%s", c[i].body);
        ck_assert(has(c[i].headers, "Retry-After: 1\n"));
    }
    ask(&urgent, "/urgent", "{\"n\":20}");
    ck_assert_int_eq(urgent.done, _i ? 0 : 1);
    if (_i) {
        keel_wake(rt, state->token[20], KEEL_OK);
        TURN_UNTIL(urgent.done);
        ck_assert_int_eq(urgent.http, 200);
        ck_assert_uint_eq(outcomes("park", "rejected"), MAX_CALLS - HELD);
    } else {
        ck_assert_int_eq(urgent.http, 503);
        ck_assert(has(urgent.body, "\"code\":\"no_call_slot\""));
    }
    for (int i = 0; i < (_i ? HELD : MAX_CALLS); i++)
        ck_assert(keel_wake(rt, state->token[i], KEEL_OK));
    expect_all_slots();
}
END_TEST

/* ---- refusals: each names its reason and says when to come back ---- */

static void lag(void)
{
    rt->load.loop_lag_ns = 5000 * KEEL_MS;
}

static void delay(void)
{
    rt->load.queue_delay_ns = 5000 * KEEL_MS;
}

static void force_open(void)
{
    ck_assert_int_eq(rt->guard->change(rt->guard_self, "post", "force-open", keel_mono_ns()), KEEL_OK);
}

static void shut_ways(void)
{
    ck_assert_int_eq(rt->guard->change(rt->guard_self, "route.neural", "force-open", keel_mono_ns()), KEEL_OK);
    ck_assert_int_eq(rt->guard->change(rt->guard_self, "route.cpu", "force-open", keel_mono_ns()), KEEL_OK);
}

static void break_op(void)
{
    for (int i = 0; i < 5; i++) {
        struct client c = {0};
        ask(&c, "/route", "{\"fail\":true}");
        TURN_UNTIL(c.done);
        ck_assert_int_eq(c.http, 500);
    }
}

static void once(void)
{
    struct client c = {.client = 5};
    ask(&c, "/post", "{}");
    ck_assert_int_eq(c.http, 200);
}

static void fill_slots(void)
{
    static struct client c[MAX_CALLS];
    memset(c, 0, sizeof c);
    keel_timers_stop(rt);
    while (keel_call_slots(rt) > 0)
        ask(&c[keel_call_slots(rt) - 1], "/urgent", "{}");
}

/* All that normal calls may take, of twelve. */
static void fill_normal(void)
{
    static struct client c[12];
    memset(c, 0, sizeof c);
    keel_timers_stop(rt);
    for (int i = 0; i < 12; i++) {
        ask(&c[i], "/park", "{}");
        ck_assert_int_eq(c[i].done, 0);
    }
}

static void drain(void)
{
    rt->draining = true;
}

static const struct {
    const char *code, *option, *path;
    long least, most; /* s of Retry-After; the machine may be away for a while between two calls */
    void (*before)(void);
    int http;
    bool plain; /* it exists there, too */
} refusal_case[] = {
    {"rate_limited", "--rate-per-client=0.01", "/post", 60, 100, once, 429, false},
    {"rate_limited", "--rate-per-route=post=0.005:1,inline=7", "/post", 160, 200, once, 429, false},
    {"rate_limited", "--rate-per-route=inline=7,*=0.005", "/post", 160, 200, once, 429, false},
    {"loop_lag", NULL, "/post", 1, 1, lag, 503, false},
    {"queue_delay", NULL, "/post", 1, 1, delay, 503, false},
    {"forced_open", NULL, "/post", 1, 120, force_open, 503, false},
    {"circuit_open", NULL, "/route", 1, 120, break_op, 503, false},
    {"forced_open", NULL, "/route", 1, 120, shut_ways, 503, false}, /* all its alternatives */
    {"bulkhead_full", NULL, "/post", 1, 1, fill_normal, 503, false},
    {"concurrency_limit", "--adaptive-concurrency=true", "/park", 1, 1, fill_normal, 503, false},
    {"no_call_slot", NULL, "/post", 1, 1, fill_slots, 503, true},
    {"draining", NULL, "/post", 1, 1, drain, 503, true},
};

START_TEST(refusals)
{
    struct client c = {.client = 5};
    int hybrid = _i % 2, k = _i / 2;
    if (!hybrid && !refusal_case[k].plain)
        return;
    start_with(hybrid, refusal_case[k].option);
    refusal_case[k].before();
    ask(&c, refusal_case[k].path, "{}");
    ck_assert_msg(c.http == refusal_case[k].http, "%s: %d %s", refusal_case[k].code, c.http, c.body);
    const char *code = keel_arena_printf(arena, "\"code\":\"%s\"", refusal_case[k].code);
    ck_assert_msg(has(c.body, code), "no %s in %s", code, c.body);
    const char *retry = strstr(c.headers, "Retry-After: ");
    ck_assert_msg(retry != NULL, "%s: %s", code, c.headers);
    long seconds = strtol(retry + 13, NULL, 10);
    ck_assert_msg(seconds >= refusal_case[k].least && seconds <= refusal_case[k].most, "%s: %s", code, retry);
    rt->load = (struct keel_load){0};
}
END_TEST

/* The header has whole seconds, rounded up. */
START_TEST(retry_after_is_exact)
{
    struct client c = {.client = 5}, other = {.client = 6};
    start_with(1, "--rate-per-client=0.01:1");
    ask(&c, "/post", "{}");
    c.done = 0;
    ask(&c, "/post", "{}");
    ck_assert_int_eq(c.http, 429);
    const char *at = strstr(c.body, "\"retry_after_ms\":");
    ck_assert_msg(at != NULL, "%s", c.body);
    long ms = strtol(at + 17, NULL, 10), seconds = (ms + 999) / 1000;
    ck_assert(ms >= 60000 && ms <= 100000);
    ck_assert(has(c.headers, keel_arena_printf(arena, "Retry-After: %ld\n", seconds)));
    ask(&other, "/post", "{}");
    ck_assert_int_eq(other.http, 200);
    expect_all_slots();
}
END_TEST

/* One turn that was long, or one moment in which the machine was away, sheds nobody; standing lag does. */
START_TEST(standing_lag)
{
    const struct timespec stall = {.tv_nsec = 160 * KEEL_MS};
    start(1);
    keel_timers_stop(rt);
    for (int tick = 1; tick <= 3; tick++) {
        ck_assert_int_eq(rt->load.loop_lag_ns, 0);
        nanosleep(&stall, NULL); /* what the loop is late by */
        uv_run(rt->loop, UV_RUN_NOWAIT);
    }
    ck_assert_int_ge(rt->load.loop_lag_ns, 30 * KEEL_MS);
    rt->load.loop_lag_ns = 0;
}
END_TEST

/* ---- alternatives ---- */

START_TEST(first_way)
{
    struct client c = {0};
    start(_i);
    ask(&c, "/route", "{}");
    TURN_UNTIL(c.done);
    ck_assert_str_eq(c.body, "{\"backend\":\"neural\",\"fallback\":false}");
    expect_all_slots();
}
END_TEST

START_TEST(way_behind_an_open_circuit)
{
    struct client c = {0};
    start(_i);
    break_op();
    if (_i)
        ck_assert_int_eq(rt->guard->change(rt->guard_self, "route", "reset", keel_mono_ns()), KEEL_OK);
    ask(&c, "/route", "{}");
    TURN_UNTIL(c.done);
    ck_assert_int_eq(c.http, 200);
    if (_i)
        ck_assert_str_eq(c.body, "{\"backend\":\"cpu\",\"fallback\":true,\"fallback_reason\":\"neural: circuit_open\"}");
    else
        ck_assert_str_eq(c.body, "{\"backend\":\"neural\",\"fallback\":false}");
    expect_all_slots();
}
END_TEST

/* It took 30 ms, twice; a call that has 20 goes another way. */
START_TEST(way_that_does_not_fit)
{
    struct client c = {.limit_ms = "20"};
    start(_i);
    for (int i = 0; i < 2; i++) {
        struct client slow = {0};
        ask(&slow, "/route", "{\"sleep_ms\":30}");
        TURN_UNTIL(slow.done);
        ck_assert_int_eq(slow.http, 200);
    }
    ask(&c, "/route", "{}");
    TURN_UNTIL(c.done);
    if (c.http == 504) /* the machine was away for 20 ms */
        return;
    if (_i)
        ck_assert_str_eq(c.body, "{\"backend\":\"cpu\",\"fallback\":true,\"fallback_reason\":\"neural: latency\"}");
    else
        ck_assert_str_eq(c.body, "{\"backend\":\"neural\",\"fallback\":false}");
    expect_all_slots();
}
END_TEST

START_TEST(draining)
{
    struct client c = {0}, parked = {0}, committed = {0};
    start(_i);
    ask(&parked, "/park", "{}");
    ask(&committed, "/commit", "{\"n\":1}");
    rt->draining = true;
    ask(&c, "/post", "{}");
    ck_assert_int_eq(c.http, 503);
    ck_assert(has(c.body, "\"code\":\"draining\""));
    keel_calls_abort(rt);
    ck_assert_int_eq(parked.http, 503);
    ck_assert_int_eq(committed.http, 202);
    expect_all_slots();
}
END_TEST

/* ---- timers ---- */

START_TEST(timer_never_overlaps)
{
    start(_i);
    TURN_UNTIL(state->ticks >= 4);
    ck_assert_int_eq(state->worst_tick, 1);
}
END_TEST

/* ---- jobs ---- */

static const char *job_path(const char *body)
{
    const char *at = strstr(body, "\"job_id\":\"");
    ck_assert_ptr_nonnull(at);
    at += strlen("\"job_id\":\"");
    return keel_arena_printf(arena, "/jobs/%.*s", (int)strcspn(at, "\""), at);
}

START_TEST(job_runs)
{
    const char *answer = "";
    struct client c = {0};
    start(_i);
    ask(&c, "/long", "{\"n\":4}");
    ck_assert_int_eq(c.http, 202);
    const char *path = job_path(c.body);
    ck_assert(has(c.headers, keel_arena_printf(arena, "Location: %s\n", path)));
    ck_assert(has(c.body, "\"status\":\"running\""));
    for (int i = 0; i < 1000 && !has(answer, "\"status\":\"done\""); i++) {
        ck_assert_int_eq(keel_loopback(rt, "GET", path, NULL, arena, &answer), 200);
        uv_run(rt->loop, UV_RUN_ONCE);
    }
    ck_assert_msg(has(answer, "\"result\":{\"sum\":10}"), "%s", answer);
    ck_assert_int_eq(keel_loopback(rt, "DELETE", path, NULL, arena, &answer), 200);
    ck_assert_int_eq(keel_loopback(rt, "GET", path, NULL, arena, &answer), 404);
    expect_all_slots();
}
END_TEST

START_TEST(job_is_cancelled)
{
    const char *answer = "";
    struct client running = {0}, queued = {0};
    start(_i);
    ask(&running, "/long", "{\"name\":\"forever\"}");
    ask(&queued, "/long", "{\"n\":4}");
    const char *first = job_path(running.body), *second = job_path(queued.body);
    ck_assert_int_eq(keel_loopback(rt, "DELETE", second, NULL, arena, &answer), 200);
    ck_assert(has(answer, "\"status\":\"cancelled\""));
    ck_assert_int_eq(keel_loopback(rt, "DELETE", first, NULL, arena, &answer), 200);
    expect_all_slots();
    keel_loopback(rt, "GET", first, NULL, arena, &answer);
    ck_assert_msg(has(answer, "\"status\":\"cancelled\"") && has(answer, "cancelled by its caller"), "%s", answer);
}
END_TEST

START_TEST(job_is_interrupted)
{
    const char *answer = "";
    struct client c = {0};
    start(_i);
    ask(&c, "/long", "{\"name\":\"forever\"}");
    const char *path = job_path(c.body);
    keel_rt_free(rt);
    start(_i);
    ck_assert_int_eq(keel_loopback(rt, "GET", path, NULL, arena, &answer), 200);
    ck_assert_msg(has(answer, "\"status\":\"interrupted\",\"progress\":null"), "%s", answer);
}
END_TEST

/* ---- sources ---- */

static const struct { const char *why; int64_t n, step_ns, fail_at; double speed; enum keel_status end; int64_t items; }
source_case[] = {
    {"all at once", 1050, 1000000, 0, 0, KEEL_OK, 1050},
    {"exactly one batch", 100, 1, 0, 0, KEEL_OK, 100},
    {"none", 0, 1, 0, 0, KEEL_OK, 0},
    {"paced, 50 items in 25 ms", 50, 10000000, 0, 20, KEEL_OK, 50},
    {"bad line", 500, 1, 131, 0, KEEL_INVALID, 130},
    {"cannot be opened", -1, 1, 0, 0, KEEL_NOTFOUND, 0},
};

START_TEST(source_runs)
{
    struct lb_feed feed = {source_case[_i].n, 0, source_case[_i].step_ns, source_case[_i].fail_at};
    double speed = source_case[_i].speed;
    struct keel_source *source;
    int64_t items = source_case[_i].items, t0 = keel_mono_ns();
    start(1);
    ck_assert_int_eq(keel_source_start(rt, "slice", &lb_feed_ops, &feed, NULL, speed, 1, &source), KEEL_OK);
    TURN_UNTIL(state->last_slices == 1);
    ck_assert_int_eq(state->items, items);
    ck_assert_int_eq(state->item_sum, items * (items + 1) / 2);
    ck_assert(state->in_order);
    ck_assert_uint_le(state->most_items, 64);
    ck_assert_int_eq(state->source_end, source_case[_i].end);
    if (speed > 0) /* the last item is 490 ms of its own time after the first */
        ck_assert_int_ge(keel_mono_ns() - t0, 24 * KEEL_MS);
    TURN_UNTIL(keel_sources_idle(rt));
    if (items > 0)
        ck_assert_int_ge(keel_session_ns(rt), state->last_ts);
    ck_assert_int_eq(state->last_slices, 1);
    if (source_case[_i].n >= 0)
        ck_assert_int_eq(feed.at, -1); /* closed */
    expect_all_slots();
}
END_TEST

START_TEST(source_is_stopped)
{
    struct lb_feed feed = {.n = 1000000000, .step_ns = 1};
    struct keel_source *source;
    start(_i);
    ck_assert_int_eq(keel_source_start(rt, "slice", &lb_feed_ops, &feed, NULL, 0, 1, &source), KEEL_OK);
    TURN_UNTIL(state->items > 500);
    ck_assert(keel_sources_at_max(rt));
    int64_t before = keel_session_ns(rt);
    ck_assert_int_eq(keel_session_ns(rt), before); /* at most speed no time passes between records */
    keel_source_stop(source);
    TURN_UNTIL(keel_sources_idle(rt));
    ck_assert_int_eq(state->last_slices, 1);
    ck_assert_int_eq(state->source_end, KEEL_CANCELLED);
    ck_assert_int_eq(state->item_sum, state->items * (state->items + 1) / 2);
}
END_TEST

/* ---- start-up ---- */

static const struct { const char *option, *why; } bad_option[] = {
    {"--max-calls=3", "max_calls=3 (command line)"},
    {"--max-calls=many", "max_calls=many"},
    {"--no-such-thing=1", "no such option"},
    {"--port", "a value is missing"},
    {"--rate-per-client=fast", "rate_per_client=fast"},
    {"--rate-per-client=10:0", "rate_per_client=10:0"},
    {"--rate-per-route=post", "rate_per_route: post"},
    {"--rate-per-route=post=0", "rate_per_route: post=0"},
    {"--rate-per-route=nothing=5,no_such=5", "rate_per_route: no_such=5"},
    {"--rate-per-route=must=5", "rate_per_route: must=5"},
    {"--rate-per-route=record=5", "rate_per_route: record=5"},
    {"stray", "an option begins with --"},
    {"--config=/nonexistent/x.json", "config /nonexistent/x.json: "},
    {"--http-host=0.0.0.0", "READ_TOKEN"},
    {"--read-token-file=/nonexistent/token", "read_token_file: /nonexistent/token"},
};

START_TEST(bad_options)
{
    char err[256] = "";
    rt = engine_new(err, sizeof err, bad_option[_i].option);
    ck_assert_msg(rt == NULL, "%s was taken", bad_option[_i].option);
    ck_assert_msg(has(err, bad_option[_i].why), "%s: %s", bad_option[_i].option, err);
    ck_assert_msg(strchr(err, '\n') == NULL, "%s", err);
}
END_TEST

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    ck_assert(fputs(text, f) >= 0 && fclose(f) == 0);
}

START_TEST(precedence)
{
    char err[256] = "", path[96], option[112];
    snprintf(path, sizeof path, "%s/c.json", dir);
    snprintf(option, sizeof option, "--config=%s", path);
    write_file(path, "{\"max_calls\":99,\"workers\":7,\"drain_ms\":17,\"idle_timeout_ms\":2222,"
                     "\"priority_topics\":[\"a\",\"b\"]}");
    setenv("DRAIN_MS", "18", 1);
    setenv("BODY_TIMEOUT_MS", "", 1); /* as compose passes on what is not set */
    setenv("RISK_URL", "http://risk:1", 1);
    rt = engine_new(err, sizeof err, option);
    ck_assert_msg(rt != NULL, "%s", err);
    ck_assert_int_eq(rt->core->max_calls, MAX_CALLS);     /* command line over file */
    ck_assert_int_eq(rt->core->drain_ms, 18);             /* environment over file */
    ck_assert_int_eq(rt->core->idle_timeout_ms, 2222);    /* file over default */
    ck_assert_int_eq(rt->core->body_timeout_ms, 10000);   /* default */
    ck_assert_uint_eq(rt->core->n_priority_topics, 2);
    ck_assert_str_eq(rt->core->priority_topics[1], "b");
    ck_assert_str_eq(keel_peer_url(rt, "risk"), "http://risk:1");
    ck_assert_str_eq(rt->producer, "hybrid-loopback-engine");
    keel_rt_free(rt);
    write_file(path, "{\"max_cals\":99}");
    rt = engine_new(err, sizeof err, option);
    ck_assert_ptr_null(rt);
    ck_assert_msg(has(err, "max_cals: no such option"), "%s", err);
}
END_TEST

static const struct { const char *text; int on; } hybrid_case[] = {
    {"", 1},      {"TRUE", 1}, {"1", 1},  {"Yes", 1},  {"on", 1},    {"False", 0},
    {"0", 0},     {"NO", 0},   {"off", 0}, {"maybe", -1}, {"2", -1},
};

START_TEST(hybrid_switch)
{
    char err[256] = "";
    setenv("ENABLE_HYBRID", hybrid_case[_i].text, 1);
    rt = engine_new(err, sizeof err, NULL);
    if (hybrid_case[_i].on < 0) {
        ck_assert_ptr_null(rt);
        ck_assert_msg(has(err, "ENABLE_HYBRID="), "%s", err);
    } else {
        ck_assert_ptr_nonnull(rt);
        ck_assert_int_eq(keel_is_hybrid(rt), hybrid_case[_i].on);
        const char *answer;
        int http = keel_loopback(rt, "GET", "/hybrid/circuit-breakers", NULL, arena, &answer);
        ck_assert_int_eq(http, hybrid_case[_i].on ? 200 : 404);
        ck_assert(hybrid_case[_i].on || has(answer, "ENABLE_HYBRID"));
    }
}
END_TEST

START_TEST(data_dir_is_locked)
{
    char err[256] = "", pid[32];
    start(_i);
    ck_assert_ptr_null(engine_new(err, sizeof err, NULL));
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    ck_assert_msg(has(err, pid), "%s", err);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("call");
    TCase *tc = tcase_create("call");
    tcase_set_timeout(tc, 30);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, answers);
    tcase_add_loop_test(tc, too_big, 0, 2);
    tcase_add_loop_test(tc, headers, 0, 2);
    tcase_add_loop_test(tc, new_trace_ids, 0, 2);
    tcase_add_loop_test(tc, traceparent, 0, (int)KEEL_COUNT(trace_case));
    tcase_add_loop_test(tc, deadline, 0, (int)KEEL_COUNT(deadline_case));
    tcase_add_loop_test(tc, abandoned_for_good, 0, 2);
    tcase_add_test(tc, four_deadlines_are_a_timeout);
    tcase_add_test(tc, impatient_callers_open_no_circuit);
    tcase_add_loop_test(tc, queued_work_is_cancelled, 0, 2);
    tcase_add_loop_test(tc, must_never_expires, 0, 2);
    tcase_add_loop_test(tc, commit_in_time, 0, 2);
    tcase_add_loop_test(tc, late_inline, 0, 2);
    tcase_add_loop_test(tc, large_body, 0, KEEL_COUNT(large_case));
    tcase_add_test(tc, large_body_is_taken_over);
    tcase_add_test(tc, large_bodies_of_a_key);
    tcase_add_test(tc, large_body_expires);
    tcase_add_test(tc, large_body_while_draining);
    tcase_add_loop_test(tc, lowered, 0, 2);
    tcase_add_loop_test(tc, urgent_steps_first, 0, 2);
    tcase_add_loop_test(tc, commit_late, 0, 2);
    tcase_add_loop_test(tc, commit_late_beside_work, 0, 2);
    tcase_add_loop_test(tc, failed_wait, 0, 2);
    tcase_add_loop_test(tc, one_at_a_time, 0, 2);
    tcase_add_loop_test(tc, large_bodies, 0, 2);
    tcase_add_loop_test(tc, spawn_copies, 0, 2);
    tcase_add_loop_test(tc, record_fails, 0, 2);
    tcase_add_loop_test(tc, slots_are_bounded, 0, 2);
    tcase_add_loop_test(tc, a_flood_of_normal_calls, 0, 2);
    tcase_add_loop_test(tc, refusals, 0, 2 * (int)KEEL_COUNT(refusal_case));
    tcase_add_test(tc, retry_after_is_exact);
    tcase_add_test(tc, standing_lag);
    tcase_add_loop_test(tc, first_way, 0, 2);
    tcase_add_loop_test(tc, way_behind_an_open_circuit, 0, 2);
    tcase_add_loop_test(tc, way_that_does_not_fit, 0, 2);
    tcase_add_loop_test(tc, draining, 0, 2);
    tcase_add_loop_test(tc, timer_never_overlaps, 0, 2);
    tcase_add_loop_test(tc, job_runs, 0, 2);
    tcase_add_loop_test(tc, job_is_cancelled, 0, 2);
    tcase_add_loop_test(tc, job_is_interrupted, 0, 2);
    tcase_add_loop_test(tc, source_runs, 0, (int)KEEL_COUNT(source_case));
    tcase_add_loop_test(tc, source_is_stopped, 0, 2);
    tcase_add_loop_test(tc, bad_options, 0, (int)KEEL_COUNT(bad_option));
    tcase_add_test(tc, precedence);
    tcase_add_loop_test(tc, hybrid_switch, 0, (int)KEEL_COUNT(hybrid_case));
    tcase_add_loop_test(tc, data_dir_is_locked, 0, 2);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
