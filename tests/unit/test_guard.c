/*
 * Both guards and the engine's own series, on synthetic ops and passed-in time: what is admitted, in
 * which order jobs run, what breaker and tracker learn, and what the reports say.
 */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/guard.h"
#include "keel/text.h"
#include "rt.h"

#define MS INT64_C(1000000)
#define SEC (1000 * MS)
/* 2026-11-22T17:51:04Z: date -u -d @1795369864 */
#define WALL_NS (INT64_C(1795369864) * SEC)

static const struct keel_op ops[] = {
    {.id = "check", .on = KEEL_POST("/check"), .level = KEEL_CRITICAL, .deadline_ms = 95},
    {.id = "high", .on = KEEL_POST("/high"), .level = KEEL_HIGH},
    {.id = "normal", .on = KEEL_GET("/normal"), .level = KEEL_NORMAL, .deadline_ms = 250},
    {.id = "low", .on = KEEL_EVERY(1000), .level = KEEL_LOW, .deadline_ms = 100},
    {.id = "fill", .on = KEEL_TOPIC("x.critical.fill", KEEL_SHARE), .level = KEEL_LOW, .flags = KEEL_MUST},
    {.id = "health", .on = KEEL_GET("/health"), .level = KEEL_LOW, .flags = KEEL_PREBUILT},
    {.id = "stream", .on = KEEL_WS("/ws"), .level = KEEL_NORMAL},
};
enum { CHECK, HIGH, NORMAL, LOW, FILL, HEALTH, STREAM, REDUCE_ONLY, PEER, N_TARGETS };

static const struct keel_target_conf targets[N_TARGETS] = {
    [CHECK] = {"check", &ops[CHECK], KEEL_CRITICAL, (uint64_t)(100 * MS)},
    [HIGH] = {"high", &ops[HIGH], KEEL_HIGH, 0},
    [NORMAL] = {"normal", &ops[NORMAL], KEEL_NORMAL, (uint64_t)(250 * MS)},
    [LOW] = {"low", &ops[LOW], KEEL_LOW, (uint64_t)(100 * MS)},
    [FILL] = {"fill", &ops[FILL], KEEL_LOW, (uint64_t)(100 * MS)},
    [HEALTH] = {"health", &ops[HEALTH], KEEL_LOW, 0},
    [STREAM] = {"stream", &ops[STREAM], KEEL_NORMAL, 0},
    [REDUCE_ONLY] = {"check.reduce_only", &ops[CHECK], KEEL_CRITICAL, 0},
    [PEER] = {"dep.peer.risk", NULL, KEEL_NORMAL, (uint64_t)(50 * MS)},
};

static const struct keel_engine engine = {
    .name = "risk", .ops = ops, .n_ops = KEEL_COUNT(ops), .breaker = {3, 15000, 2, 10000},
};
static const struct keel_engine bare_engine = {.name = "bare", .ops = ops, .n_ops = KEEL_COUNT(ops)};

static const struct keel_guard *guard;
static void *self;
static struct keel_load load;
static const struct keel_limits *limits; /* NULL: none */
static struct keel_arena *arena;
static struct { char target[64]; uint8_t from, to; const char *reason; } seen[32];
static size_t n_seen;

static void on_transition(void *ctx, const char *target, const struct keel_breaker_event *ev)
{
    ck_assert_ptr_eq(ctx, &load);
    ck_assert_uint_lt(n_seen, KEEL_COUNT(seen));
    snprintf(seen[n_seen].target, sizeof(seen[0].target), "%s", target);
    seen[n_seen].from = ev->from;
    seen[n_seen].to = ev->to;
    seen[n_seen++].reason = ev->reason;
}

static void open_guard(const struct keel_guard *g, const struct keel_engine *e)
{
    struct keel_guard_env env = {.engine = e, .targets = targets, .n_targets = N_TARGETS, .load = &load, .seed = 7,
                                 .transition = on_transition, .ctx = &load, .limits = limits};
    guard = g;
    memset(&load, 0, sizeof(load));
    n_seen = 0;
    arena = keel_arena_new(65536);
    ck_assert_int_eq(guard->open(&env, &self), KEEL_OK);
}

static void close_guard(void)
{
    guard->close(self);
    keel_arena_free(arena);
}

static void setup_plain(void)
{
    open_guard(&keel_guard_plain, &engine);
}

static void setup_hybrid(void)
{
    open_guard(&keel_guard_hybrid, &engine);
}

/* One whole call; returns what admit said. */
static enum keel_status call(uint32_t target, enum keel_outcome o, int64_t latency_ns, int64_t now)
{
    struct keel_permit p;
    struct keel_refusal why;
    enum keel_status st = guard->admit(self, target, now, SEC, &p, &why);
    if (st == KEEL_OK)
        guard->settle(self, p, o, latency_ns, now + (latency_ns > 0 ? latency_ns : 0));
    return st;
}

static void calls(int n, uint32_t target, enum keel_outcome o, int64_t latency_ns, int64_t now)
{
    for (int i = 0; i < n; i++)
        ck_assert_int_eq(call(target, o, latency_ns, now), KEEL_OK);
}

/* ---- reading reports: "a.b.0.c" walks members and elements ---- */

static const struct keel_jval *walk(const struct keel_jval *v, const char *path)
{
    char part[64];
    while (*path != '\0' && v != NULL) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof(part), "%.*s", (int)n, path);
        path += n + (path[n] == '.');
        if (v->type == KEEL_JARR) {
            long i = strtol(part, NULL, 10);
            for (v = v->child; v != NULL && i > 0; i--)
                v = v->next;
        } else {
            v = keel_jget(v, part);
        }
    }
    return v;
}

static const char *text_at(const struct keel_jval *v, const char *path)
{
    const struct keel_jval *at = walk(v, path);
    ck_assert_msg(at != NULL, "no %s", path);
    return at->type == KEEL_JNULL ? "null" : at->text;
}

typedef void report_fn(void *g, struct keel_json *w, int64_t now_ns, int64_t wall_ns);

static const struct keel_jval *report(report_fn *fn, bool array, int64_t now)
{
    struct keel_json w;
    const struct keel_jval *v = NULL;
    const char *why = "";
    keel_json_init(&w, arena, 4096);
    if (array)
        keel_json_arr(&w, NULL);
    else
        keel_json_obj(&w, NULL);
    fn(self, &w, now, WALL_NS);
    keel_json_end(&w);
    ck_assert(!w.bad);
    const char *text = keel_json_text(&w);
    ck_assert_msg(keel_json_parse(arena, text, strlen(text), &v, &why) == KEEL_OK, "%s in %s", why, text);
    return v;
}

#define ck_report(v, path, want) ck_assert_str_eq(text_at(v, path), want)

static const char *metrics(void)
{
    struct keel_text t;
    keel_text_init(&t, arena, 4096);
    guard->metrics(self, &t, "risk", 10 * SEC);
    return t.buf;
}

/* ---- budgets ---- */

static const struct { const struct keel_guard *g; const struct keel_engine *e; uint32_t op; int64_t want_ns; }
    budget_case[] = {
        {&keel_guard_plain, &engine, CHECK, 30 * SEC},
        {&keel_guard_plain, &engine, HIGH, 30 * SEC},
        {&keel_guard_plain, &engine, FILL, INT64_MAX},
        {&keel_guard_hybrid, &engine, CHECK, 95 * MS},
        {&keel_guard_hybrid, &engine, HIGH, 10 * SEC}, /* the row's call timeout */
        {&keel_guard_hybrid, &engine, FILL, INT64_MAX},
        {&keel_guard_hybrid, &bare_engine, HIGH, 30 * SEC},
};

START_TEST(budget)
{
    open_guard(budget_case[_i].g, budget_case[_i].e);
    ck_assert_int_eq(guard->budget_ns(self, &ops[budget_case[_i].op]), budget_case[_i].want_ns);
    close_guard();
}
END_TEST

/* ---- admission ---- */

static const struct { const char *why; struct keel_load load; int64_t left_ns; enum keel_status want[N_TARGETS]; }
    admit_case[] = {
#define W(c, h, n, l)                                                                                                  \
    {[CHECK] = KEEL_##c, [HIGH] = KEEL_##h, [NORMAL] = KEEL_##n, [LOW] = KEEL_##l, [STREAM] = KEEL_##n}
        {"no load", {0, 0, 0, 0}, SEC, W(OK, OK, OK, OK)},
        {"lag 20 ms is borne", {20 * MS, 0, 0, 0}, SEC, W(OK, OK, OK, OK)},
        {"lag 21 ms", {21 * MS, 0, 0, 0}, SEC, W(OK, OK, OK, SHED)},
        {"lag 101 ms", {101 * MS, 0, 0, 0}, SEC, W(OK, OK, SHED, SHED)},
        {"lag 501 ms", {501 * MS, 0, 0, 0}, SEC, W(OK, SHED, SHED, SHED)},
        {"lag 2001 ms", {2001 * MS, 0, 0, 0}, SEC, W(SHED, SHED, SHED, SHED)},
        {"queue 201 ms", {0, 201 * MS, 0, 0}, SEC, W(OK, OK, OK, SHED)},
        {"queue 501 ms", {0, 501 * MS, 0, 0}, SEC, W(OK, OK, SHED, SHED)},
        {"queue 2001 ms", {0, 2001 * MS, 0, 0}, SEC, W(OK, SHED, SHED, SHED)},
        {"queue of an hour", {0, 3600 * SEC, 0, 0}, SEC, W(OK, SHED, SHED, SHED)},
        {"deadline passed", {0, 0, 0, 0}, 0,
         {[CHECK] = KEEL_CANCELLED, [HIGH] = KEEL_CANCELLED, [NORMAL] = KEEL_CANCELLED, [LOW] = KEEL_CANCELLED,
          [STREAM] = KEEL_CANCELLED, [REDUCE_ONLY] = KEEL_CANCELLED, [PEER] = KEEL_CANCELLED}},
#undef W
};

/* What must not be lost and what is prebuilt are always let in; steps inside a call are not shed. */
START_TEST(admission)
{
    struct keel_permit p;
    struct keel_refusal why = {0};
    load = admit_case[_i].load;
    for (uint32_t t = 0; t < N_TARGETS; t++) {
        enum keel_status st = guard->admit(self, t, SEC, admit_case[_i].left_ns, &p, &why);
        ck_assert_msg(st == admit_case[_i].want[t], "%s: %s is %s", admit_case[_i].why, targets[t].name,
                      keel_status_name(st));
        if (st == KEEL_OK) {
            ck_assert_uint_eq(p.target, t);
            guard->settle(self, p, KEEL_OUT_OK, 1000, SEC);
        } else {
            ck_assert_int_eq(why.status, st);
            ck_assert_ptr_nonnull(why.reason);
        }
        if (st == KEEL_SHED)
            ck_assert_int_eq(why.retry_after_ns, SEC);
    }
}
END_TEST

START_TEST(plain_admits_everything)
{
    struct keel_permit p;
    struct keel_refusal why;
    load = (struct keel_load){3600 * SEC, 3600 * SEC, 1000, 1000};
    for (uint32_t t = 0; t < N_TARGETS; t++)
        for (int i = 0; i < 100; i++) {
            ck_assert_int_eq(guard->admit(self, t, SEC, -1, &p, &why), KEEL_OK);
            guard->settle(self, p, KEEL_OUT_FAILURE, 1000, SEC);
        }
}
END_TEST

static enum keel_status fall_back(struct keel_refusal *why);

/* ---- bulkheads ---- */

/* Sixteen slots: low work has eight, with normal work twelve, with high work fourteen, the rest is for critical calls. */
START_TEST(bulkheads_nest)
{
    static const struct keel_limits sixteen = {.max_calls = 16};
    static const struct { uint32_t target; size_t room; } step[] = {{LOW, 8}, {NORMAL, 4}, {HIGH, 2}};
    struct keel_permit held[16];
    struct keel_refusal why = {0};
    size_t n = 0;
    close_guard();
    limits = &sixteen;
    open_guard(&keel_guard_hybrid, &engine);
    for (size_t s = 0; s < KEEL_COUNT(step); s++) {
        for (size_t i = 0; i < step[s].room; i++)
            ck_assert_int_eq(guard->admit(self, step[s].target, SEC, SEC, &held[n++], &why), KEEL_OK);
        for (size_t k = 0; k <= s; k++) { /* neither the level nor those below it */
            ck_assert_int_eq(guard->admit(self, step[k].target, SEC, SEC, &held[15], &why), KEEL_SHED);
            ck_assert_str_eq(why.reason, "bulkhead_full");
            ck_assert_int_eq(why.retry_after_ns, SEC);
        }
    }
    ck_assert_int_eq(guard->admit(self, FILL, SEC, SEC, &held[n++], &why), KEEL_OK); /* low, but it must */
    calls(100, CHECK, KEEL_OUT_OK, MS, SEC);
    const struct keel_jval *v = report(guard->performance, false, SEC);
    ck_report(v, "admission.bulkheads.low.in_flight", "9");
    ck_report(v, "admission.bulkheads.low.limit", "8");
    ck_report(v, "admission.bulkheads.high.limit", "14");
    ck_report(v, "admission.bulkheads.critical.limit", "null");
    ck_report(v, "admission.refused.low.bulkhead_full", "3");
    ck_report(v, "operations.low.shed", "3");
    ck_report(v, "operations.low.rejected", "0");
    guard->settle(self, held[0], KEEL_OUT_OK, MS, SEC);
    guard->settle(self, held[1], KEEL_OUT_OK, MS, SEC);
    ck_assert_int_eq(guard->admit(self, HIGH, SEC, SEC, &held[0], &why), KEEL_OK); /* what is free is free for it */
    ck_assert_int_eq(guard->admit(self, HIGH, SEC, SEC, &held[1], &why), KEEL_SHED);
    limits = NULL;
}
END_TEST

/* Nobody waits for what an engine asks of itself: late is late, but no reason to refuse the next. */
START_TEST(spawned_calls_are_never_slow)
{
    static const struct keel_op own_ops[] = {
        {.id = "asked", .on = KEEL_POST("/asked"), .level = KEEL_CRITICAL, .deadline_ms = 1000},
        {.id = "spawned", .on = KEEL_SPAWNED, .level = KEEL_CRITICAL, .deadline_ms = 1000},
    };
    static const struct keel_target_conf two[] = {{"asked", &own_ops[0], KEEL_CRITICAL, (uint64_t)(50 * MS)},
                                                  {"spawned", &own_ops[1], KEEL_CRITICAL, (uint64_t)(50 * MS)}};
    static const struct keel_engine own = {.name = "own", .ops = own_ops, .n_ops = 2, .breaker = {3, 15000, 2, 10000}};
    const struct keel_guard_env env = {.engine = &own, .targets = two, .n_targets = 2, .load = &load, .seed = 7};
    bool was_refused[2] = {false, false};
    struct keel_refusal why = {0};
    guard->close(self);
    guard = &keel_guard_hybrid;
    ck_assert_int_eq(guard->open(&env, &self), KEEL_OK);
    for (uint32_t t = 0; t < 2; t++) {
        for (int64_t i = 0; i < 100; i++) {
            struct keel_permit p;
            int64_t at = SEC + i * SEC / 10;
            if (guard->admit(self, t, at, SEC, &p, &why) == KEEL_OK)
                guard->settle(self, p, KEEL_OUT_OK, 400 * MS, at + 400 * MS);
            else
                was_refused[t] = true;
        }
    }
    ck_assert(was_refused[0]);
    ck_assert(!was_refused[1]);
}
END_TEST

/* An op that says how many of it may be in flight is bounded whatever its level has. */
START_TEST(places_of_an_op)
{
    static const struct keel_op few = {.id = "few", .on = KEEL_POST("/few"), .level = KEEL_CRITICAL, .places = 2};
    static const struct keel_target_conf target = {"few", &few, KEEL_CRITICAL, 0};
    static const struct keel_engine own = {.name = "few", .ops = &few, .n_ops = 1, .breaker = {3, 15000, 2, 10000}};
    const struct keel_guard_env env = {.engine = &own, .targets = &target, .n_targets = 1, .load = &load, .seed = 7};
    struct keel_permit held[3];
    struct keel_refusal why = {0};
    guard->close(self);
    guard = _i == 1 ? &keel_guard_hybrid : &keel_guard_plain;
    ck_assert_int_eq(guard->open(&env, &self), KEEL_OK);
    for (size_t i = 0; i < 2; i++)
        ck_assert_int_eq(guard->admit(self, 0, SEC, SEC, &held[i], &why), KEEL_OK);
    ck_assert_int_eq(guard->admit(self, 0, SEC, SEC, &held[2], &why), _i == 1 ? KEEL_SHED : KEEL_OK);
    if (_i == 1)
        ck_assert_str_eq(why.reason, "bulkhead_full");
    guard->settle(self, held[0], KEEL_OUT_OK, MS, SEC);
    ck_assert_int_eq(guard->admit(self, 0, SEC, SEC, &held[0], &why), KEEL_OK);
}
END_TEST

/* ---- rates ---- */

static enum keel_status ask_as(uint64_t client, uint32_t target, int64_t now, struct keel_refusal *why)
{
    struct keel_permit p;
    enum keel_status st = guard->admit_client(self, target, client, now, SEC, &p, why);
    if (st == KEEL_OK)
        guard->settle(self, p, KEEL_OUT_OK, MS, now);
    return st;
}

static void open_limited(const struct keel_limits *l)
{
    close_guard();
    limits = l;
    open_guard(&keel_guard_hybrid, &engine);
    limits = NULL;
}

/* A client has 2 at once and one a second; CHECK has 3 at once and one in two seconds from all of them. */
static const struct keel_rate route_rates[N_TARGETS] = {[CHECK] = {2 * SEC, 4 * SEC}};
static const struct keel_limits rated = {.client = {SEC, SEC}, .route = route_rates, .max_calls = 100};

START_TEST(rates)
{
    struct keel_refusal why = {0};
    int64_t now = 100 * SEC;
    open_limited(&rated);
    ck_assert_int_eq(ask_as(7, CHECK, now, &why), KEEL_OK);
    ck_assert_int_eq(ask_as(7, HIGH, now, &why), KEEL_OK);
    ck_assert_int_eq(ask_as(7, CHECK, now + 400 * MS, &why), KEEL_RATE);
    ck_assert_str_eq(why.reason, "client_rate");
    ck_assert_int_eq(why.retry_after_ns, 600 * MS);
    ck_assert_int_eq(ask_as(8, CHECK, now + 400 * MS, &why), KEEL_OK); /* who was refused used nothing up */
    ck_assert_int_eq(ask_as(8, CHECK, now + 400 * MS, &why), KEEL_OK);
    ck_assert_int_eq(ask_as(9, CHECK, now + 400 * MS, &why), KEEL_RATE);
    ck_assert_str_eq(why.reason, "route_rate");
    ck_assert_int_eq(why.retry_after_ns, 1600 * MS);
    ck_assert_int_eq(ask_as(7, CHECK, now + 400 * MS, &why), KEEL_RATE); /* both: the longer wait is the true one */
    ck_assert_int_eq(why.retry_after_ns, 1600 * MS);
    ck_assert_int_eq(ask_as(9, HIGH, now + 400 * MS, &why), KEEL_OK); /* the route was charged to nobody */
    ck_assert_int_eq(ask_as(9, HIGH, now + 400 * MS, &why), KEEL_OK);
    ck_assert_int_eq(ask_as(9, CHECK, now + 2000 * MS, &why), KEEL_OK);
    const struct keel_jval *v = report(guard->performance, false, now);
    ck_report(v, "admission.refused.check.client_rate", "2");
    ck_report(v, "admission.refused.check.route_rate", "1");
    ck_report(v, "operations.check.rejected", "3");
    ck_report(v, "operations.check.outcomes.rejected", "3");
    ck_report(v, "admission.rate_limits.client.per_second", "1");
    ck_report(v, "admission.rate_limits.client.burst", "2");
    ck_report(v, "admission.rate_limits.check.per_second", "0.5");
    ck_assert_ptr_nonnull(
        strstr(metrics(), "keel_refused_total{engine=\"risk\",op=\"check\",reason=\"client_rate\"} 2\n"));
}
END_TEST

/* Never on what must not be refused, on health, on the bus, on timers, on steps of a call, on engines of ours. */
START_TEST(rates_spare)
{
    static const uint32_t spared[] = {LOW, FILL, HEALTH, STREAM, REDUCE_ONLY, PEER};
    struct keel_refusal why;
    open_limited(&rated);
    for (int i = 0; i < 20; i++) {
        for (size_t k = 0; k < KEEL_COUNT(spared); k++)
            ck_assert_int_eq(ask_as(7, spared[k], SEC, &why), KEEL_OK);
        ck_assert_int_eq(ask_as(0, HIGH, SEC, &why), KEEL_OK);
    }
}
END_TEST

/* ---- the adaptive bound ---- */

START_TEST(adaptive)
{
    static const struct keel_limits l = {.adaptive = true, .max_calls = 100};
    struct keel_permit held[64];
    struct keel_refusal why;
    open_limited(&l);
    for (int i = 0; i < 64; i++)
        ck_assert_int_eq(guard->admit(self, CHECK, SEC, SEC, &held[i], &why), KEEL_OK);
    ck_assert_int_eq(ask_as(1, CHECK, SEC, &why), KEEL_SHED);
    ck_assert_str_eq(why.reason, "concurrency_limit");
    for (int i = 0; i < 64; i++) /* twice the target; client errors say nothing */
        guard->settle(self, held[i], i < 7 ? KEEL_OUT_SLOW : KEEL_OUT_CLIENT, 200 * MS, SEC + 200 * MS);
    const struct keel_jval *v = report(guard->performance, false, 2 * SEC);
    ck_report(v, "admission.adaptive.check.limit", "32");
    ck_report(v, "admission.adaptive.check.min", "4");
    ck_report(v, "admission.adaptive.check.max", "100");
    ck_report(v, "admission.adaptive.check.cuts", "1");
    ck_report(v, "admission.adaptive.normal.max", "75"); /* its bulkhead */
    ck_assert_ptr_null(walk(v, "admission.adaptive.high"));  /* it has no target */
    ck_assert_ptr_null(walk(v, "admission.adaptive.fill"));
    ck_assert_ptr_nonnull(strstr(metrics(), "keel_concurrency_limit{engine=\"risk\",op=\"check\"} 32\n"));
}
END_TEST

/* ---- alternatives ---- */

static const struct keel_op deep_op = {.id = "deep", .on = KEEL_POST("/deep"), .level = KEEL_CRITICAL};
enum { DEEP, D_BEST, D_GOOD, D_PLAIN, N_DEEP };
static const struct keel_target_conf deep_targets[N_DEEP] = {
    {"deep", &deep_op, KEEL_CRITICAL, 0},
    {"deep.best", &deep_op, KEEL_CRITICAL, 0},
    {"deep.good", &deep_op, KEEL_CRITICAL, 0},
    {"deep.plain", &deep_op, KEEL_CRITICAL, 0},
};
static const struct keel_engine deep_engine = {.name = "deep", .ops = &deep_op, .n_ops = 1,
                                               .breaker = {3, 15000, 2, 10000}};

static void open_deep(const struct keel_guard *g)
{
    struct keel_guard_env env = {.engine = &deep_engine, .targets = deep_targets, .n_targets = N_DEEP, .load = &load,
                                 .seed = 7};
    guard->close(self);
    guard = g;
    ck_assert_int_eq(guard->open(&env, &self), KEEL_OK);
}

/* The one that is chosen, run for took_ns; N_DEEP when none may. */
static uint32_t choose(uint32_t from, int64_t left_ns, int64_t took_ns, enum keel_outcome o, int64_t now,
                       const char **reason)
{
    const struct keel_pick ask = {from, N_DEEP - from, left_ns, NULL};
    struct keel_refusal why = {0};
    struct keel_permit p = {0};
    enum keel_status st = guard->pick(self, &ask, now, &p, &why);
    *reason = why.reason;
    if (st != KEEL_OK) {
        ck_assert_int_eq(st, KEEL_OPEN);
        ck_assert_int_gt(why.retry_after_ns, 0);
        return N_DEEP;
    }
    guard->settle(self, p, o, took_ns, now + took_ns);
    return p.target;
}

#define CHOOSE(from, left, took, now) choose(from, left, took, KEEL_OUT_OK, now, &reason)

START_TEST(chosen_by_latency)
{
    const char *reason;
    int64_t now = 1000 * SEC;
    open_deep(&keel_guard_hybrid);
    ck_assert_uint_eq(CHOOSE(D_BEST, MS, 300 * MS, now), D_BEST); /* nothing is known of it yet */
    ck_assert_ptr_null(reason);
    ck_assert_uint_eq(CHOOSE(D_BEST, 300 * MS, 300 * MS, now + SEC), D_BEST); /* it fits exactly */
    ck_assert_uint_eq(CHOOSE(D_BEST, 299 * MS, 40 * MS, now + 2 * SEC), D_GOOD);
    ck_assert_str_eq(reason, "latency");
    ck_assert_uint_eq(CHOOSE(D_GOOD, 299 * MS, 40 * MS, now + 2 * SEC), D_GOOD); /* asked for: no fallback */
    ck_assert_ptr_null(reason);
    ck_assert_uint_eq(CHOOSE(D_BEST, 20 * MS, 10 * MS, now + 3 * SEC), D_PLAIN);
    ck_assert_uint_eq(CHOOSE(D_BEST, 0, 10 * MS, now + 3 * SEC), D_PLAIN); /* the last is not passed over */
    const struct keel_jval *v = report(guard->performance, false, now + 5 * SEC);
    ck_report(v, "alternatives.deep.0.name", "best");
    ck_report(v, "alternatives.deep.0.count", "2");
    ck_report(v, "alternatives.deep.0.passed_over", "3");
    ck_report(v, "alternatives.deep.0.recent_us", "300000");
    ck_report(v, "alternatives.deep.0.last_reason", "null");
    ck_report(v, "alternatives.deep.1.count", "2");
    ck_report(v, "alternatives.deep.1.as_fallback", "1");
    ck_report(v, "alternatives.deep.2.as_fallback", "2");
    ck_report(v, "alternatives.deep.2.last_reason", "latency");
    ck_report(v, "alternatives.deep.2.last_fallback", "2026-11-22T17:51:02.000000000Z");
    ck_report(v, "performance_summary.fallback_usage", "3");
    /* half a minute after its last trial one call finds out whether it is still so */
    ck_assert_uint_eq(CHOOSE(D_BEST, 20 * MS, 10 * MS, now + 30 * SEC), D_PLAIN);
    ck_assert_uint_eq(CHOOSE(D_BEST, 20 * MS, 10 * MS, now + 31 * SEC), D_BEST);
    ck_assert_uint_eq(CHOOSE(D_BEST, 20 * MS, 10 * MS, now + 31 * SEC), D_BEST); /* it is not */
}
END_TEST

/* One slow run says nothing, three of eight do, and they are forgotten. */
START_TEST(latency_is_forgotten)
{
    const char *reason;
    int64_t now = 1000 * SEC;
    open_deep(&keel_guard_hybrid);
    CHOOSE(D_BEST, SEC, 500 * MS, now);
    ck_assert_uint_eq(CHOOSE(D_BEST, 20 * MS, 10 * MS, now), D_BEST);
    for (int i = 0; i < 50; i++)
        ck_assert_uint_eq(CHOOSE(D_BEST, SEC, 10 * MS, now), D_BEST);
    for (int i = 0; i < 2; i++) {
        CHOOSE(D_BEST, SEC, 500 * MS, now);
        ck_assert_uint_eq(CHOOSE(D_BEST, 20 * MS, 10 * MS, now), D_BEST);
    }
    CHOOSE(D_BEST, SEC, 500 * MS, now);
    ck_assert_uint_eq(CHOOSE(D_BEST, 20 * MS, 5 * MS, now), D_GOOD);
    for (int i = 0; i < 8; i++)
        CHOOSE(D_BEST, SEC, 10 * MS, now);
    ck_assert_uint_eq(CHOOSE(D_BEST, 20 * MS, 10 * MS, now), D_BEST);
    for (int i = 0; i < 50; i++) /* what failed says nothing of how long it takes */
        choose(D_GOOD, SEC, 400 * MS, KEEL_OUT_CLIENT, now, &reason);
    ck_assert_uint_eq(CHOOSE(D_GOOD, 20 * MS, 10 * MS, now), D_GOOD);
}
END_TEST

START_TEST(chosen_by_breaker)
{
    const char *reason;
    int64_t now = 1000 * SEC;
    open_deep(&keel_guard_hybrid);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(choose(D_BEST, SEC, MS, KEEL_OUT_FAILURE, now, &reason), D_BEST);
    ck_assert_uint_eq(CHOOSE(D_BEST, SEC, MS, now), D_GOOD);
    ck_assert_str_eq(reason, "circuit_open");
    guard->change(self, "deep.good", "force-open", now);
    ck_assert_uint_eq(CHOOSE(D_GOOD, SEC, MS, now), D_PLAIN);
    ck_assert_str_eq(reason, "forced_open");
    guard->change(self, "deep.plain", "force-open", now);
    ck_assert_uint_eq(CHOOSE(D_BEST, SEC, MS, now), N_DEEP);
    guard->change(self, "deep.good", "enable", now);
    CHOOSE(D_GOOD, SEC, 300 * MS, now);
    /* the last is shut: better one that may be too slow than none */
    ck_assert_uint_eq(CHOOSE(D_GOOD, 20 * MS, MS, now), D_GOOD);
    ck_assert_uint_eq(CHOOSE(D_BEST, SEC, MS, now + 20 * SEC), D_BEST); /* its trial */
}
END_TEST

START_TEST(fallback_of_the_op_itself)
{
    struct keel_refusal why = {0};
    ck_assert_int_eq(fall_back(&why), KEEL_OK);
    ck_assert_str_eq(why.reason, "risk is away");
    const struct keel_jval *v = report(guard->performance, false, SEC);
    ck_report(v, "alternatives.check.0.last_reason", "risk is away");
    guard->change(self, "check.reduce_only", "force-open", SEC);
    ck_assert_int_eq(fall_back(&why), KEEL_OPEN);
    ck_assert_str_eq(why.reason, "forced_open");
}
END_TEST

START_TEST(plain_takes_the_first)
{
    const char *reason;
    open_deep(&keel_guard_plain);
    for (int i = 0; i < 100; i++) {
        ck_assert_uint_eq(choose(D_GOOD, MS, SEC, KEEL_OUT_FAILURE, SEC, &reason), D_GOOD);
        ck_assert_ptr_null(reason);
    }
}
END_TEST

/* ---- breakers ---- */

START_TEST(breaker_of_a_target)
{
    calls(3, CHECK, KEEL_OUT_FAILURE, MS, SEC);
    struct keel_permit p;
    struct keel_refusal why;
    ck_assert_int_eq(guard->admit(self, CHECK, SEC + MS, SEC, &p, &why), KEEL_OPEN);
    ck_assert_str_eq(why.reason, "circuit_open");
    /* 15 s and up to a tenth of it, from when the third failure was settled */
    ck_assert(why.retry_after_ns >= 15 * SEC && why.retry_after_ns <= 16500 * MS);
    ck_assert_int_eq(call(HIGH, KEEL_OUT_OK, MS, SEC), KEEL_OK);
    ck_assert_int_eq(call(REDUCE_ONLY, KEEL_OUT_OK, MS, SEC), KEEL_OK);
    calls(2, CHECK, KEEL_OUT_OK, MS, 20 * SEC);
    ck_assert_uint_eq(n_seen, 3);
    ck_assert_str_eq(seen[0].target, "check");
    ck_assert_str_eq(seen[0].reason, "consecutive_failures");
    ck_assert_str_eq(seen[1].reason, "wait_over");
    ck_assert_str_eq(seen[2].reason, "recovered");
    ck_assert_uint_eq(seen[2].from, KEEL_HALF_OPEN);
    ck_assert_uint_eq(seen[2].to, KEEL_CLOSED);
}
END_TEST

static const struct { const char *why; uint32_t target; enum keel_outcome o; int64_t latency_ns; bool opens; }
    slow_case[] = {
        {"in time but over target", CHECK, KEEL_OUT_OK, 101 * MS, true},
        {"exactly on target", CHECK, KEEL_OUT_OK, 100 * MS, false},
        {"no target", HIGH, KEEL_OUT_OK, 3600 * SEC, false},
        {"not measured", CHECK, KEEL_OUT_OK, -1, false},
        {"late by its own work", HIGH, KEEL_OUT_SLOW, MS, true},
        {"a slow client error is the client's", CHECK, KEEL_OUT_CLIENT, SEC, false},
        {"a slow dependency", PEER, KEEL_OUT_OK, 51 * MS, true},
};

START_TEST(slow_answers)
{
    for (int i = 0; i < 19; i++)
        ck_assert_int_eq(call(slow_case[_i].target, slow_case[_i].o, slow_case[_i].latency_ns, SEC), KEEL_OK);
    ck_assert_uint_eq(n_seen, 0);
    call(slow_case[_i].target, slow_case[_i].o, slow_case[_i].latency_ns, SEC);
    ck_assert_msg(n_seen == (slow_case[_i].opens ? 1 : 0), "%s", slow_case[_i].why);
    if (slow_case[_i].opens)
        ck_assert_str_eq(seen[0].reason, "slow_rate");
}
END_TEST

/* Its breaker opens, and everything still runs. */
START_TEST(must_is_never_refused)
{
    calls(100, FILL, KEEL_OUT_FAILURE, MS, SEC);
    ck_assert_uint_eq(n_seen, 1);
    ck_assert_uint_eq(seen[0].to, KEEL_OPENED);
    calls(20, FILL, KEEL_OUT_OK, MS, 100 * SEC);
    ck_assert_str_eq(seen[n_seen - 1].reason, "recovered");
    ck_assert_int_eq(guard->change(self, "fill", "force-open", 100 * SEC), KEEL_OK);
    calls(20, FILL, KEEL_OUT_OK, MS, 100 * SEC);
}
END_TEST

/* Prebuilt and WebSocket rows have none. */
START_TEST(rows_without_breaker)
{
    calls(100, HEALTH, KEEL_OUT_FAILURE, MS, SEC);
    calls(100, STREAM, KEEL_OUT_FAILURE, MS, SEC);
    ck_assert_uint_eq(n_seen, 0);
    ck_assert_int_eq(guard->change(self, "health", "reset", SEC), KEEL_NOTFOUND);
    ck_assert_int_eq(guard->change(self, "stream", "reset", SEC), KEEL_NOTFOUND);
}
END_TEST

/* Nobody calls: the timer tells of the change, as of when it was due. */
START_TEST(told_by_the_timer)
{
    calls(3, CHECK, KEEL_OUT_FAILURE, MS, SEC);
    guard->tick(self, 15 * SEC);
    ck_assert_uint_eq(n_seen, 1);
    guard->tick(self, 18 * SEC);
    guard->tick(self, 19 * SEC);
    ck_assert_uint_eq(n_seen, 2);
    ck_assert_uint_eq(seen[1].to, KEEL_HALF_OPEN);
    ck_report(report(guard->breakers, true, 19 * SEC), "0.state", "half_open");
    const char *text = metrics();
    ck_assert_ptr_nonnull(strstr(
        text, "keel_breaker_transitions_total{engine=\"risk\",target=\"check\",from=\"closed\",to=\"open\"} 1\n"));
    ck_assert_ptr_nonnull(strstr(
        text, "keel_breaker_transitions_total{engine=\"risk\",target=\"check\",from=\"open\",to=\"half_open\"} 1\n"));
}
END_TEST

START_TEST(metrics_only_refuses_nothing)
{
    guard->change(self, "check", "metrics-only", SEC);
    calls(40, CHECK, KEEL_OUT_FAILURE, MS, SEC);
    ck_assert_uint_eq(n_seen, 2);
    const struct keel_jval *v = report(guard->breakers, true, 2 * SEC);
    ck_report(v, "0.state", "open");
    ck_report(v, "0.mode", "metrics_only");
    ck_report(v, "0.rejected", "0");
    ck_report(v, "0.would_reject", "37");
    ck_report(report(guard->health, false, 2 * SEC), "circuit_breaker.state", "closed");
    ck_assert_ptr_nonnull(strstr(
        metrics(), "keel_breaker_rejected_total{engine=\"risk\",target=\"check\",refused=\"false\"} 37\n"));
}
END_TEST

/* An operator's settings go over the engine's table; what is not set stays. */
START_TEST(options_of_breakers)
{
    struct keel_breaker_options o = {.breaker_window = "time:10s", .breaker_min_calls = 4, .breaker_failure_rate = 0.25,
                                     .breaker_failures = 1000, .breaker_recovery_ms = 2000, .breaker_permits = 1,
                                     .breaker_recovery_max_ms = 4000, .breaker_half_open_ms = 3000};
    struct keel_guard_env env = {.engine = &engine, .targets = targets, .n_targets = N_TARGETS, .load = &load, .seed = 7,
                                 .transition = on_transition, .ctx = &load, .breaker = &o};
    guard->close(self);
    ck_assert_int_eq(guard->open(&env, &self), KEEL_OK);
    calls(3, CHECK, KEEL_OUT_OK, MS, SEC);
    calls(30, CHECK, KEEL_OUT_SLOW, MS, 2 * SEC); /* that rate is off */
    calls(30, CHECK, KEEL_OUT_OK, MS, 30 * SEC);
    calls(9, CHECK, KEEL_OUT_FAILURE, MS, 31 * SEC);
    ck_assert_uint_eq(n_seen, 0);
    calls(1, CHECK, KEEL_OUT_FAILURE, MS, 31 * SEC);
    ck_assert_str_eq(seen[0].reason, "failure_rate");
    const struct keel_jval *v = report(guard->breakers, true, 32 * SEC);
    ck_report(v, "0.window.kind", "time");
    ck_report(v, "0.window.seconds", "10");
    ck_report(v, "0.window.calls", "40");
    ck_report(v, "0.window.failures", "10");
    ck_report(v, "0.permits.limit", "1");
    ck_report(report(guard->performance, false, SEC), "circuit_breaker_status.config.recovery_timeout", "2");
    ck_report(report(guard->performance, false, SEC), "circuit_breaker_status.config.success_threshold", "2");

    o.breaker_mode = 1;
    guard->close(self);
    ck_assert_int_eq(guard->open(&env, &self), KEEL_OK);
    ck_report(report(guard->breakers, true, SEC), "0.mode", "disabled");
}
END_TEST

static const struct { const char *target, *change; enum keel_status st; const char *reason; } change_case[] = {
    {"check", "reset", KEEL_OK, "reset"},
    {"check", "force-open", KEEL_OK, "forced"},
    {"check", "disable", KEEL_OK, "disabled"},
    {"check", "metrics-only", KEEL_OK, "metrics_only"},
    {"check", "enable", KEEL_OK, NULL}, /* as it was */
    {"check", "explode", KEEL_NOTFOUND, NULL},
    {"check.reduce_only", "reset", KEEL_OK, "reset"},
    {"dep.peer.risk", "force-open", KEEL_OK, "forced"},
    {"nothing", "reset", KEEL_NOTFOUND, NULL},
};

START_TEST(change)
{
    ck_assert_int_eq(guard->change(self, change_case[_i].target, change_case[_i].change, SEC), change_case[_i].st);
    ck_assert_uint_eq(n_seen, change_case[_i].reason != NULL ? 1 : 0);
    if (change_case[_i].reason == NULL)
        return;
    ck_assert_str_eq(seen[0].target, change_case[_i].target);
    ck_assert_str_eq(seen[0].reason, change_case[_i].reason);
}
END_TEST

START_TEST(forced_open_and_back)
{
    struct keel_permit p;
    struct keel_refusal why;
    guard->change(self, "check", "force-open", SEC);
    ck_assert_int_eq(guard->admit(self, CHECK, 1000 * SEC, SEC, &p, &why), KEEL_OPEN);
    ck_assert_str_eq(why.reason, "forced_open");
    guard->change(self, "check", "enable", 1000 * SEC);
    calls(1, CHECK, KEEL_OUT_OK, MS, 1000 * SEC);
}
END_TEST

/* ---- the queues ---- */

static struct keel_job jobs[256];
static struct keel_queue queue;
static size_t n_jobs;

static struct keel_job *push(enum keel_level lane, enum keel_level level, bool must)
{
    struct keel_job *j = &jobs[n_jobs];
    *j = (struct keel_job){NULL, level, (int64_t)n_jobs, SEC, must};
    n_jobs++;
    if (queue.tail[lane] != NULL)
        queue.tail[lane]->next = j;
    else
        queue.head[lane] = j;
    queue.tail[lane] = j;
    queue.n++;
    return j;
}

static void fresh_queue(uint32_t threads)
{
    memset(&queue, 0, sizeof(queue));
    memset(jobs, 0, sizeof(jobs));
    n_jobs = 0;
    queue.threads = threads;
}

/* Jobs are queued as the letters of `waiting` (c h n l, M: a low one that must run); each letter of `runs` is a job
 * taken and finished at once, '-' that none may start. Already running: bulk and urgent. */
static const struct {
    const char *why;
    uint32_t threads, bulk, urgent;
    const char *waiting, *runs, *plain;
} queue_case[] = {
    {"nothing waits", 2, 0, 0, "", "-", "-"},
    {"urgent first, whatever came first", 2, 0, 0, "lnhc", "chnl-", "lnhc-"},
    {"arrival within a level", 2, 0, 0, "ncnc", "ccnn-", "ncnc-"},
    {"no thread is free", 2, 1, 1, "c", "-", "-"},
    {"the last thread is for urgent work", 2, 1, 0, "nnh", "h-", "nnh-"},
    {"three threads, two of them bulk", 3, 2, 0, "lc", "c-", "lc-"},
    {"three threads, one of them bulk", 3, 1, 0, "lc", "cl-", "lc-"},
    {"one thread takes all", 1, 0, 0, "lc", "cl-", "lc-"},
    {"what must run is urgent", 2, 1, 0, "nM", "M-", "nM-"},
    {"bulk gets a turn after 16 urgent ones", 2, 0, 0, "nccccccccccccccccccc", "ccccccccccccccccnccc-", NULL},
    {"low gets one after 16 normal ones", 2, 0, 0, "lnnnnnnnnnnnnnnnnnn", "nnnnnnnnnnnnnnnnlnn-", NULL},
    {"high gets one after 16 critical ones", 2, 0, 0, "hcccccccccccccccccc", "cccccccccccccccchcc-", NULL},
    {"no turn for bulk without a place", 2, 1, 0, "nccccccccccccccccccc", "ccccccccccccccccccc-", NULL},
};

static char letter(const struct keel_job *j)
{
    return j == NULL ? '-' : j->must ? 'M' : "chnl"[j->level];
}

static void check_order(const char *why, const char *waiting, const char *runs)
{
    for (const char *c = waiting; *c != '\0'; c++) {
        enum keel_level level = *c == 'M' ? KEEL_LOW : (enum keel_level)(strchr("chnl", *c) - "chnl");
        push(level, level, *c == 'M');
    }
    for (const char *c = runs; *c != '\0'; c++) {
        struct keel_job *j = guard->next_job(self, &queue, 2 * SEC);
        ck_assert_msg(letter(j) == *c, "%s: %c instead of %c at %d", why, letter(j), *c, (int)(c - runs));
        ck_assert(j == NULL || j->next == NULL);
    }
}

START_TEST(lanes)
{
    fresh_queue(queue_case[_i].threads);
    queue.running_bulk = queue_case[_i].bulk;
    queue.running = queue_case[_i].bulk + queue_case[_i].urgent;
    check_order(queue_case[_i].why, queue_case[_i].waiting, queue_case[_i].runs);
}
END_TEST

START_TEST(plain_lanes)
{
    if (queue_case[_i].plain == NULL)
        return;
    fresh_queue(queue_case[_i].threads);
    queue.running_bulk = queue_case[_i].bulk;
    queue.running = queue_case[_i].bulk + queue_case[_i].urgent;
    check_order(queue_case[_i].why, queue_case[_i].waiting, queue_case[_i].plain);
}
END_TEST

/* A random mix comes out whole: nothing is lost, doubled or reordered within its lane, and no bulk job waits for more
 * than it was promised. */
START_TEST(lanes_lose_nothing)
{
    uint64_t x = 42;
    fresh_queue(2);
    for (size_t i = 0; i < KEEL_COUNT(jobs); i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407); /* Knuth's MMIX */
        enum keel_level level = (enum keel_level)(x >> 62);
        push(level, level, false);
    }
    int64_t last[4] = {-1, -1, -1, -1};
    size_t taken = 0, since[4] = {0};
    for (struct keel_job *j; (j = guard->next_job(self, &queue, SEC)) != NULL; taken++) {
        ck_assert_int_gt(j->queued_ns, last[j->level]);
        last[j->level] = j->queued_ns;
        since[j->level] = 0;
        for (size_t lane = 0; lane < 4; lane++)
            if (queue.head[lane] != NULL && lane != j->level)
                ck_assert_uint_le(++since[lane], 16 + 3);
    }
    ck_assert_uint_eq(taken, KEEL_COUNT(jobs));
    ck_assert_uint_eq(queue.n, 0);
    for (size_t lane = 0; lane < 4; lane++)
        ck_assert(queue.head[lane] == NULL && queue.tail[lane] == NULL);
}
END_TEST

/* Critical jobs that never end coming: of 1,700 that run, the low lane gets a hundred. */
START_TEST(low_work_moves)
{
    size_t low = 0;
    fresh_queue(2);
    for (size_t i = 0; i < 100; i++)
        push(KEEL_LOW, KEEL_LOW, false);
    for (size_t i = 0; i < 1700; i++) {
        struct keel_job urgent = {.level = KEEL_CRITICAL, .deadline_ns = SEC};
        queue.head[KEEL_CRITICAL] = queue.tail[KEEL_CRITICAL] = &urgent;
        queue.n++;
        struct keel_job *j = guard->next_job(self, &queue, SEC);
        ck_assert_ptr_nonnull(j);
        low += j->level == KEEL_LOW;
        if (j->level == KEEL_LOW) {
            ck_assert_ptr_eq(queue.head[KEEL_CRITICAL], &urgent);
            queue.head[KEEL_CRITICAL] = queue.tail[KEEL_CRITICAL] = NULL;
            queue.n--;
        }
    }
    ck_assert_uint_eq(low, 100);
}
END_TEST

/* ---- reports ---- */

START_TEST(plain_reports)
{
    calls(5, CHECK, KEEL_OUT_OK, MS, SEC);
    calls(2, CHECK, KEEL_OUT_FAILURE, MS, SEC);
    calls(1, HIGH, KEEL_OUT_TIMEOUT, MS, SEC);
    calls(4, HIGH, KEEL_OUT_CLIENT, MS, SEC);
    calls(9, HEALTH, KEEL_OUT_OK, MS, SEC);
    calls(9, PEER, KEEL_OUT_FAILURE, MS, SEC);
    guard->refused(self, HIGH, KEEL_OUT_CANCELLED);
    const struct keel_jval *v = report(guard->health, false, 2 * SEC);
    ck_report(v, "circuit_breaker.state", "disabled");
    ck_report(v, "circuit_breaker.failure_count", "0");
    ck_report(v, "circuit_breaker.last_failure_time", "null");
    ck_report(v, "performance.operations.check.count", "7");
    ck_report(v, "performance.operations.check.errors", "2");
    ck_report(v, "performance.operations.high.count", "6");
    ck_report(v, "performance.operations.high.errors", "1");
    ck_report(v, "performance.overall.count", "13");
    ck_report(v, "performance.overall.errors", "3");
    ck_assert_ptr_null(walk(v, "performance.operations.health"));
    ck_assert_ptr_nonnull(
        strstr(metrics(), "keel_op_calls_total{engine=\"risk\",op=\"check\",outcome=\"failure\"} 2\n"));
}
END_TEST

START_TEST(hybrid_health_fields)
{
    const struct keel_jval *v = report(guard->health, false, SEC);
    ck_report(v, "circuit_breaker.state", "closed");
    ck_report(v, "circuit_breaker.last_failure_time", "null");
    ck_report(v, "performance.operations.check.within_target", "null");
    calls(3, CHECK, KEEL_OUT_OK, 50 * MS, 10 * SEC);
    calls(1, CHECK, KEEL_OUT_OK, 100 * MS + 1, 10 * SEC);
    calls(3, PEER, KEEL_OUT_FAILURE, -1, 10 * SEC);
    v = report(guard->health, false, 14 * SEC + 500 * MS);
    ck_report(v, "circuit_breaker.state", "open");
    ck_report(v, "circuit_breaker.failure_count", "3");
    ck_report(v, "circuit_breaker.last_failure_time", "2026-11-22T17:50:59.500000000Z");
    ck_report(v, "performance.operations.check.count", "4");
    ck_report(v, "performance.operations.check.errors", "0");
    ck_report(v, "performance.operations.check.target_us", "100000");
    ck_report(v, "performance.operations.check.within_target", "0.75");
    ck_report(v, "performance.operations.high.target_us", "null");
    ck_report(v, "performance.overall.count", "4");
    ck_assert_ptr_null(walk(v, "performance.operations.health"));
}
END_TEST

/* CHECK goes on by its only alternative. */
static enum keel_status fall_back(struct keel_refusal *why)
{
    const struct keel_pick ask = {REDUCE_ONLY, 1, INT64_MAX, "risk is away"};
    struct keel_refusal none;
    struct keel_permit p;
    enum keel_status st = guard->pick(self, &ask, SEC, &p, why != NULL ? why : &none);
    if (st == KEEL_OK)
        guard->settle(self, p, KEEL_OUT_OK, MS, SEC);
    return st;
}

START_TEST(hybrid_performance_fields)
{
    struct keel_permit held;
    struct keel_refusal why;
    calls(8, CHECK, KEEL_OUT_OK, MS, SEC);
    calls(2, CHECK, KEEL_OUT_OK, 101 * MS, SEC);
    calls(2, CHECK, KEEL_OUT_TIMEOUT, 200 * MS, SEC);
    calls(1, CHECK, KEEL_OUT_CLIENT, MS, SEC);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(fall_back(NULL), KEEL_OK);
    guard->refused(self, CHECK, KEEL_OUT_CANCELLED);
    guard->admit(self, CHECK, SEC, -1, &held, &why); /* too late: cancelled */
    load.loop_lag_ns = 10 * SEC;
    guard->admit(self, CHECK, SEC, SEC, &held, &why); /* shed */
    load.loop_lag_ns = 0;
    guard->change(self, "check", "force-open", SEC);
    guard->admit(self, CHECK, SEC, SEC, &held, &why); /* refused by the breaker */
    guard->change(self, "check", "enable", SEC);
    ck_assert_int_eq(guard->admit(self, CHECK, SEC, SEC, &held, &why), KEEL_OK); /* and this one still runs */

    const struct keel_jval *v = report(guard->performance, false, 30 * SEC);
    ck_report(v, "operations.check.count", "17");
    ck_report(v, "operations.check.outcomes.ok", "10");
    ck_report(v, "operations.check.outcomes.slow", "0");
    ck_report(v, "operations.check.outcomes.timeout", "2");
    ck_report(v, "operations.check.outcomes.rejected", "2");
    ck_report(v, "operations.check.outcomes.cancelled", "2");
    ck_report(v, "operations.check.outcomes.client", "1");
    ck_report(v, "operations.check.errors", "2");
    ck_report(v, "operations.check.rejected", "1");
    ck_report(v, "operations.check.shed", "1");
    ck_report(v, "operations.check.timeouts", "2");
    ck_report(v, "operations.check.in_flight", "1");
    ck_report(v, "operations.check.all.count", "13");
    ck_report(v, "operations.check.all.max_us", "200000");
    ck_report(v, "operations.check.all.p50_us", "1015.807"); /* the bound of the bucket that holds 1 ms */
    ck_report(v, "operations.check.all.p999_us", "200000");
    ck_report(v, "operations.check.last_10s.count", "0");
    ck_report(v, "operations.check.last_60s.count", "13");
    ck_report(v, "operations.check.target_us", "100000");
    ck_report(v, "operations.check.over_target", "4");
    ck_assert_double_eq_tol(strtod(text_at(v, "operations.check.within_target"), NULL), 9.0 / 13, 1e-15);
    ck_report(v, "operations.check.all.over_target", "4");
    ck_report(v, "operations.check.last_60s.over_target", "4");
    ck_report(v, "operations.check.last_60s.errors", "2");
    ck_report(v, "operations.check.last_60s.outcomes.cancelled", "2"); /* one of them without a stamp of its own */
    ck_report(v, "operations.check.last_60s.outcomes.rejected", "2");
    ck_assert_double_eq_tol(strtod(text_at(v, "operations.check.last_60s.within_target"), NULL), 9.0 / 13, 1e-15);
    ck_report(v, "operations.check.last_10s.within_target", "null");
    ck_report(v, "operations.high.all.within_target", "null");
    ck_report(v, "overall.all.count", "13");
    ck_report(v, "overall.last_60s.max_us", "200000");
    ck_report(v, "overall.last_60s.outcomes.timeout", "2");
    ck_report(v, "overall.last_10s.count", "0");
    ck_assert_double_eq_tol(strtod(text_at(v, "overall.all.within_target"), NULL), 9.0 / 13, 1e-15);
    ck_report(v, "overall.count", "17");
    ck_report(v, "active_operations", "1");
    ck_report(v, "total_metrics", "13");
    ck_report(v, "performance_summary.check.total_operations", "17");
    ck_report(v, "performance_summary.circuit_breaker_activations", "1");
    ck_report(v, "performance_summary.fallback_usage", "3");
    ck_report(v, "circuit_breaker_status.config.failure_threshold", "3");
    ck_report(v, "circuit_breaker_status.config.recovery_timeout", "15");
    ck_assert_double_eq_tol(strtod(text_at(v, "performance_summary.check.success_rate"), NULL), 1000.0 / 12, 1e-12);
    /* names with a dot in them */
    ck_assert_str_eq(keel_jget(walk(v, "fallbacks"), "check.reduce_only")->text, "3");
    ck_assert_str_eq(text_at(keel_jget(walk(v, "dependencies"), "dep.peer.risk"), "count"), "0");
    guard->settle(self, held, KEEL_OUT_OK, MS, 31 * SEC);
    ck_report(report(guard->performance, false, 31 * SEC), "operations.check.in_flight", "0");
}
END_TEST

/* What the runtime measures of itself stands beside the operations and is none of them. */
START_TEST(own_operations)
{
    calls(1, CHECK, KEEL_OUT_OK, MS, SEC);
    for (int64_t i = 1; i <= 100; i++)
        guard->observe(self, KEEL_OWN_LOOP_LAG, i * MS, SEC);
    guard->observe(self, KEEL_OWN_QUEUE_DELAY, -5, SEC);
    const struct keel_jval *v = report(guard->performance, false, 2 * SEC);
    ck_report(v, "operations.loop_lag.count", "100");
    ck_assert_double_eq_tol(strtod(text_at(v, "operations.loop_lag.last_10s.p99_us"), NULL), 99000, 0.032 * 99000);
    ck_report(v, "operations.loop_lag.target_us", "null");
    ck_report(v, "operations.queue_delay.all.max_us", "0");
    ck_report(v, "overall.count", "1");
    ck_report(v, "overall.all.count", "1");
    ck_report(v, "total_metrics", "1");
    ck_assert_ptr_null(walk(report(guard->health, false, 2 * SEC), "performance.operations.loop_lag"));
    ck_assert_ptr_nonnull(
        strstr(metrics(), "keel_op_duration_seconds_count{engine=\"risk\",op=\"loop_lag\"} 100\n"));
}
END_TEST

START_TEST(hybrid_breakers_fields)
{
    calls(3, CHECK, KEEL_OUT_FAILURE, 0, SEC);
    const struct keel_jval *v = report(guard->breakers, true, 2 * SEC);
    ck_assert_uint_eq(v->len, N_TARGETS - 2); /* neither the prebuilt nor the WebSocket row */
    ck_report(v, "0.name", "check");
    ck_report(v, "0.state", "open");
    ck_report(v, "0.mode", "normal");
    ck_report(v, "0.consecutive_failures", "3");
    ck_report(v, "0.failure_rate", "1");
    ck_report(v, "0.slow_rate", "0");
    ck_report(v, "0.window.size", "100");
    ck_report(v, "0.window.calls", "3");
    ck_report(v, "0.permits.limit", "2");
    ck_report(v, "0.permits.in_use", "0");
    ck_report(v, "0.last_failure_time", "2026-11-22T17:51:03.000000000Z");
    ck_report(v, "0.transitions.0.from", "closed");
    ck_report(v, "0.transitions.0.to", "open");
    ck_report(v, "0.transitions.0.reason", "consecutive_failures");
    ck_report(v, "0.transitions.0.at", "2026-11-22T17:51:03.000000000Z");
    /* 15 s and at most a tenth after the failure */
    ck_assert_str_ge(text_at(v, "0.next_probe"), "2026-11-22T17:51:18.000000000Z");
    ck_assert_str_le(text_at(v, "0.next_probe"), "2026-11-22T17:51:19.500000000Z");
    ck_report(v, "1.state", "closed");
    ck_report(v, "1.next_probe", "null");

    struct keel_permit held;
    struct keel_refusal why;
    ck_assert_int_eq(guard->admit(self, CHECK, 20 * SEC, SEC, &held, &why), KEEL_OK);
    guard->change(self, "high", "disable", 20 * SEC);
    guard->change(self, "normal", "force-open", 20 * SEC);
    v = report(guard->breakers, true, 20 * SEC);
    ck_report(v, "0.state", "half_open");
    ck_report(v, "0.permits.in_use", "1");
    ck_report(v, "0.next_probe", "null");
    ck_report(v, "1.state", "disabled");
    ck_report(v, "2.state", "forced_open");
    ck_report(v, "2.mode", "forced_open");
    ck_report(v, "2.next_probe", "null");
}
END_TEST

/* Counts under each bound are those of the samples themselves, and nothing comes before its family's header. */
START_TEST(hybrid_metrics_lines)
{
    uint64_t x = 1, sample[2000];
    for (size_t i = 0; i < KEEL_COUNT(sample); i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sample[i] = (x >> 20) % (UINT64_C(1) << (10 + i % 26));
        call(HIGH, KEEL_OUT_OK, (int64_t)sample[i], SEC);
    }
    calls(2, CHECK, KEEL_OUT_OK, 150 * MS, SEC);
    calls(3, PEER, KEEL_OUT_FAILURE, -1, SEC);
    const char *text = metrics();
    size_t bounds = 0;
    static const char head[] = "keel_op_duration_seconds_bucket{engine=\"risk\",op=\"high\",le=\"";
    for (const char *at = text; (at = strstr(at, head)) != NULL; bounds++) {
        at += sizeof(head) - 1;
        char *end = NULL;
        double le = strtod(at, &end);
        uint64_t below = 0, want = strtoull(end + 3, NULL, 10);
        for (size_t i = 0; i < KEEL_COUNT(sample); i++)
            below += (double)sample[i] <= le * 1e9 + 0.5;
        ck_assert_msg(below == want, "le %.9f: %" PRIu64 " counted, %" PRIu64 " written", le, below, want);
    }
    ck_assert_uint_eq(bounds, 22);
    static const char *const lines[] = {
        "keel_op_calls_total{engine=\"risk\",op=\"high\",outcome=\"ok\"} 2000\n",
        "keel_op_calls_total{engine=\"risk\",op=\"dep.peer.risk\",outcome=\"failure\"} 3\n",
        "keel_op_duration_seconds_count{engine=\"risk\",op=\"high\"} 2000\n",
        "keel_op_duration_seconds_sum{engine=\"risk\",op=\"check\"} 0.300000000\n",
        "keel_op_over_target_total{engine=\"risk\",op=\"check\"} 2\n",
        "keel_breaker_state{engine=\"risk\",target=\"check\"} 1\n",
        "keel_breaker_state{engine=\"risk\",target=\"dep.peer.risk\"} 3\n",
    };
    for (size_t i = 0; i < KEEL_COUNT(lines); i++)
        ck_assert_msg(strstr(text, lines[i]) != NULL, "no %s", lines[i]);
    ck_assert(strstr(text, "# TYPE keel_op_duration_seconds histogram\n") < strstr(text, head));
    ck_assert_ptr_null(strstr(text, "op=\"health\""));
}
END_TEST

/* ---- series ---- */

static void setup_arena(void)
{
    arena = keel_arena_new(65536);
}

static void teardown_arena(void)
{
    keel_arena_free(arena);
}

static void series_report(void *rt, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
{
    (void)now_ns;
    (void)wall_ns;
    keel_series_json(rt, w);
}

START_TEST(series)
{
    struct keel_rt one = {.engine = &engine}, two = {.engine = &bare_engine};
    for (int64_t i = 1; i <= 100; i++)
        keel_observe(&one, "market_to_order", i * MS);
    keel_observe(&one, "market_to_order", -5);
    keel_gauge(&one, "books", 3);
    keel_gauge(&one, "books", 2.5);
    keel_gauge(&two, "books", 7);
    self = &one;
    const struct keel_jval *v = report(series_report, false, 0);
    ck_assert_uint_eq(v->len, 2);
    ck_report(v, "market_to_order.count", "101");
    ck_report(v, "market_to_order.max_us", "100000");
    ck_assert_double_eq_tol(strtod(text_at(v, "market_to_order.p50_us"), NULL), 50000, 0.032 * 50000);
    ck_assert_double_eq_tol(strtod(text_at(v, "market_to_order.mean_us"), NULL), 5050e3 / 101, 1e-3);
    ck_report(v, "books", "2.5");

    struct keel_text t;
    keel_text_init(&t, arena, 256);
    keel_series_metrics(&one, &t);
    ck_assert_ptr_nonnull(strstr(t.buf, "keel_market_to_order_duration_seconds_count{engine=\"risk\"} 101\n"));
    ck_assert_ptr_nonnull(strstr(t.buf, "keel_books{engine=\"risk\"} 2.5\n"));

    keel_series_close(&one);
    ck_assert_uint_eq(report(series_report, false, 0)->len, 0);
    self = &two;
    ck_report(report(series_report, false, 0), "books", "7");
    keel_series_close(&two);
}
END_TEST

/* The table is bounded: what does not fit is left out, what was there goes on. */
START_TEST(series_are_bounded)
{
    struct keel_rt rt = {.engine = &engine};
    char name[32];
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "series_%d", i);
        keel_gauge(&rt, name, i);
        keel_observe(&rt, "one_too_many", i);
    }
    self = &rt;
    const struct keel_jval *v = report(series_report, false, 0);
    ck_assert_uint_eq(v->len, 64);
    ck_report(v, "series_62", "62");
    ck_report(v, "one_too_many.count", "100");
    keel_series_close(&rt);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("guard");

    TCase *both = tcase_create("both");
    tcase_add_loop_test(both, budget, 0, KEEL_COUNT(budget_case));
    suite_add_tcase(s, both);

    TCase *plain = tcase_create("plain");
    tcase_add_checked_fixture(plain, setup_plain, close_guard);
    tcase_add_test(plain, plain_admits_everything);
    tcase_add_test(plain, plain_takes_the_first);
    tcase_add_loop_test(plain, plain_lanes, 0, KEEL_COUNT(queue_case));
    tcase_add_test(plain, plain_reports);
    suite_add_tcase(s, plain);

    TCase *hybrid = tcase_create("hybrid");
    tcase_add_checked_fixture(hybrid, setup_hybrid, close_guard);
    tcase_add_loop_test(hybrid, admission, 0, KEEL_COUNT(admit_case));
    tcase_add_test(hybrid, bulkheads_nest);
    tcase_add_test(hybrid, spawned_calls_are_never_slow);
    tcase_add_loop_test(hybrid, places_of_an_op, 0, 2);
    tcase_add_test(hybrid, rates);
    tcase_add_test(hybrid, rates_spare);
    tcase_add_test(hybrid, adaptive);
    tcase_add_test(hybrid, chosen_by_latency);
    tcase_add_test(hybrid, latency_is_forgotten);
    tcase_add_test(hybrid, chosen_by_breaker);
    tcase_add_test(hybrid, fallback_of_the_op_itself);
    tcase_add_test(hybrid, breaker_of_a_target);
    tcase_add_loop_test(hybrid, slow_answers, 0, KEEL_COUNT(slow_case));
    tcase_add_test(hybrid, must_is_never_refused);
    tcase_add_test(hybrid, rows_without_breaker);
    tcase_add_loop_test(hybrid, change, 0, KEEL_COUNT(change_case));
    tcase_add_test(hybrid, forced_open_and_back);
    tcase_add_test(hybrid, told_by_the_timer);
    tcase_add_test(hybrid, metrics_only_refuses_nothing);
    tcase_add_test(hybrid, options_of_breakers);
    tcase_add_loop_test(hybrid, lanes, 0, KEEL_COUNT(queue_case));
    tcase_add_test(hybrid, lanes_lose_nothing);
    tcase_add_test(hybrid, low_work_moves);
    tcase_add_test(hybrid, hybrid_health_fields);
    tcase_add_test(hybrid, hybrid_performance_fields);
    tcase_add_test(hybrid, own_operations);
    tcase_add_test(hybrid, hybrid_breakers_fields);
    tcase_add_test(hybrid, hybrid_metrics_lines);
    suite_add_tcase(s, hybrid);

    TCase *own = tcase_create("series");
    tcase_add_checked_fixture(own, setup_arena, teardown_arena);
    tcase_add_test(own, series);
    tcase_add_test(own, series_are_bounded);
    suite_add_tcase(s, own);

    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
