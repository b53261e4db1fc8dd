/* The router and the check of tables. Expected matches follow from system.md 2 and RFC 3986, worked out by hand. */
#include "rt.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static struct keel_arena *arena;

#define ID_FIELDS(X, S)                                                                                                \
    X(S, STR, model_id, KEEL_OPT, 1, 64, "", "model")                                                                  \
    X(S, STR, id, KEEL_OPT, 1, 64, "", "some id")                                                                      \
    X(S, STR, name, KEEL_OPT, 1, 64, "", "some name")                                                                  \
    X(S, F64S, list, KEEL_OPT, 0, 10, "", "a list")
KEEL_RECORD(id_record, ID_FIELDS);
KEEL_RECORD_TABLE(id_record, ID_FIELDS);

static enum keel_status step(struct keel_call *c)
{
    (void)c;
    return KEEL_OK;
}

static enum keel_status work(void *job, const atomic_bool *stop)
{
    (void)job;
    (void)stop;
    return KEEL_OK;
}

#define ROW(id_, ...)                                                                                                  \
    {.id = id_, .on = __VA_ARGS__, .scope = KEEL_SCOPE_TRADE, .takes = &id_record_fields, .begin = step}

static const struct keel_op ops[] = {
    ROW("predict_any", KEEL_POST("/ml/predict/{model_id}")),
    ROW("predict_price", KEEL_POST("/ml/predict/price")),
    ROW("model", KEEL_GET("/models/{id}")),
    ROW("model_drop", KEEL_DELETE("/models/{id}")),
    ROW("model_patch", KEEL_PATCH("/models/{id}")),
    ROW("left_literal", KEEL_GET("/x/a/{name}")),
    ROW("right_literal", KEEL_GET("/x/{id}/b")),
    ROW("two", KEEL_PUT("/p/{id}/q/{name}")),
    ROW("root", KEEL_GET("/")),
    {.id = "stream", .on = KEEL_WS("/ws/{id}"), .scope = KEEL_SCOPE_READ},
    {.id = "tick", .on = KEEL_EVERY(100), .begin = step},
};

static struct keel_rt runtime(const struct keel_op *rows, size_t n)
{
    struct keel_rt rt;

    memset(&rt, 0, sizeof rt);
    rt.ops = rows;
    rt.n_ops = n;
    return rt;
}

static const struct {
    const char *method, *path;
    const char *id;     /* NULL: none */
    const char *params; /* name=value;... */
    const char *allow;
} route_case[] = {
    {"POST", "/ml/predict/price", "predict_price", "", ""},
    {"POST", "/ml/predict/p%72ice", "predict_price", "", ""},
    {"POST", "/ml/predict/other", "predict_any", "model_id=other;", ""},
    {"POST", "/ml/predict/a%2Fb", "predict_any", "model_id=a/b;", ""},
    {"POST", "/ml/predict/%C3%A9+", "predict_any", "model_id=\xC3\xA9+;", ""},
    {"POST", "/ml/predict/", NULL, "", ""},
    {"POST", "/ml/predict/price/", NULL, "", ""},
    {"POST", "/ml/predict", NULL, "", ""},
    {"POST", "/ml/predict/%", NULL, "", ""},
    {"POST", "/ml/predict/%4", NULL, "", ""},
    {"POST", "/ml/predict/%zz", NULL, "", ""},
    {"POST", "/ml/predict/%00", NULL, "", ""},
    {"POST", "/ml/predict/%ff", NULL, "", ""},
    {"POST", "/ml/predict%2Fprice", NULL, "", ""},
    {"GET", "/ml/predict/price", NULL, "", "POST"},
    {"OPTIONS", "/models/7", NULL, "", "GET, HEAD, PATCH, DELETE"},
    {"POST", "/models/7", NULL, "", "GET, HEAD, PATCH, DELETE"},
    {"GET", "/models/7", "model", "id=7;", ""},
    {"HEAD", "/models/7", "model", "id=7;", ""},
    {"DELETE", "/models/7", "model_drop", "id=7;", ""},
    {"PATCH", "/models/7", "model_patch", "id=7;", ""},
    {"get", "/models/7", NULL, "", "GET, HEAD, PATCH, DELETE"},
    {"GET", "/x/a/b", "left_literal", "name=b;", ""},
    {"GET", "/x/c/b", "right_literal", "id=c;", ""},
    {"GET", "/x/c/d", NULL, "", ""},
    {"PUT", "/p/1/q/2", "two", "id=1;name=2;", ""},
    {"GET", "/", "root", "", ""},
    {"POST", "/", NULL, "", "GET, HEAD"},
    {"GET", "//", NULL, "", ""},
    {"GET", "", NULL, "", ""},
    {"GET", "models/7", NULL, "", ""},
    {"GET", "/ws/1", "stream", "id=1;", ""},
    {"GET", "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s", NULL, "", ""},
};

START_TEST(route_found)
{
    struct keel_rt rt = runtime(ops, KEEL_COUNT(ops));
    struct keel_route route;
    char params[256] = "";
    bool found = keel_route_find(&rt, arena, route_case[_i].method, route_case[_i].path, &route);

    ck_assert_msg(found == (route_case[_i].id != NULL), "%s %s", route_case[_i].method, route_case[_i].path);
    ck_assert_str_eq(route.allow, route_case[_i].allow);
    if (!found)
        return;
    ck_assert_str_eq(route.op->id, route_case[_i].id);
    for (size_t i = 0; i < route.n_params; i++) {
        size_t at = strlen(params);
        snprintf(params + at, sizeof params - at, "%s=%s;", route.params[i].name, route.params[i].value);
    }
    ck_assert_str_eq(params, route_case[_i].params);
}
END_TEST

static const struct { const char *in, *out; } escape_case[] = {
    {"plain", "plain"}, {"%41%62", "Ab"},       {"a%20b", "a b"},           {"", ""},
    {"%", NULL},        {"%1", NULL},           {"%g1", NULL},              {"x%4", NULL},
    {"%00", NULL},      {"%C3%A9", "\xC3\xA9"}, {"%C0%80", NULL},           {"%ED%A0%80", NULL},
    {"%F4%90%80%80", NULL}, {"%E2%82", NULL},   {"%F0%9F%98%80", "\xF0\x9F\x98\x80"}, {"%25", "%"},
};

START_TEST(escapes)
{
    char text[64];
    size_t len = strlen(escape_case[_i].in);
    bool ok;

    memcpy(text, escape_case[_i].in, len + 1);
    ok = keel_unescape(text, &len);
    ck_assert_msg(ok == (escape_case[_i].out != NULL), "%s", escape_case[_i].in);
    if (ok) {
        ck_assert_str_eq(text, escape_case[_i].out);
        ck_assert_uint_eq(len, strlen(escape_case[_i].out));
    }
}
END_TEST

/* Each is wrong in one way; `says` is part of the reason. */
static const struct { const char *says; struct keel_op rows[2]; size_t n; } table_case[] = {
    {NULL, {ROW("a", KEEL_POST("/a/{id}")), ROW("b", KEEL_POST("/a/b"))}, 2},
    {NULL, {ROW("a", KEEL_POST("/a/{id}")), ROW("b", KEEL_PUT("/a/{name}"))}, 2},
    {NULL, {ROW("a", KEEL_TOPIC("ml.*", KEEL_EACH))}, 1},
    {NULL, {ROW("a", KEEL_TOPIC("strategy.critical.fill", KEEL_SHARE))}, 1},
    {"two operations are called a", {ROW("a", KEEL_POST("/a")), ROW("a", KEEL_POST("/b"))}, 2},
    {"same path", {ROW("a", KEEL_POST("/a/{id}")), ROW("b", KEEL_POST("/a/{name}"))}, 2},
    {"no id", {ROW("A", KEEL_POST("/a"))}, 1},
    {"no id", {ROW(NULL, KEEL_POST("/a"))}, 1},
    {"no such method", {{.id = "a", .on = {.kind = KEEL_ON_HTTP, .method = "HEAD", .path = "/"}, .begin = step}}, 1},
    {"begins with /", {ROW("a", KEEL_POST("a"))}, 1},
    {"empty segment", {ROW("a", KEEL_POST("/a/"))}, 1},
    {"is no field", {ROW("a", KEEL_POST("/a/{absent}"))}, 1},
    {"not closed", {ROW("a", KEEL_POST("/a/{id"))}, 1},
    {"brace", {ROW("a", KEEL_POST("/a/b{id}"))}, 1},
    {"period", {ROW("a", KEEL_EVERY(0))}, 1},
    {"no topic", {ROW("a", KEEL_TOPIC("strategy.critical.nonsense", KEEL_SHARE))}, 1},
    {"no begin", {{.id = "a", .on = KEEL_GET("/a")}}, 1},
    {"work and end", {{.id = "a", .on = KEEL_GET("/a"), .begin = step, .end = step}}, 1},
    {"work and end", {{.id = "a", .on = KEEL_GET("/a"), .begin = step, .work = work}}, 1},
    {"its key", {{.id = "a", .on = KEEL_GET("/a"), .begin = step, .key = "id"}}, 1},
    {"its key", {{.id = "a", .on = KEEL_GET("/a"), .begin = step, .takes = &id_record_fields, .key = "absent"}}, 1},
    {"out of range", {{.id = "a", .on = KEEL_GET("/a"), .begin = step, .deadline_ms = -1}}, 1},
    {"needs a scope", {{.id = "a", .on = KEEL_POST("/a"), .begin = step, .scope = KEEL_SCOPE_ANY}}, 1},
    {"bare array", {{.id = "a", .on = KEEL_GET("/a"), .begin = step, .flags = KEEL_BARE_ARRAY, .bare = "list"}}, 1},
    {"is no field", {{.id = "a", .on = KEEL_GET("/a/{id}"), .begin = step}}, 1},
};

START_TEST(table)
{
    const struct keel_engine engine = {.name = "unit"};
    const char *why = keel_table_check(&engine, table_case[_i].rows, table_case[_i].n, arena);

    if (table_case[_i].says == NULL)
        ck_assert_msg(why == NULL, "%s", why);
    else
        ck_assert_msg(why != NULL && strstr(why, table_case[_i].says) != NULL, "%s: %s", table_case[_i].says,
                      why != NULL ? why : "accepted");
}
END_TEST

static enum keel_probe_state probe(struct keel_rt *rt, void *state, char *detail, size_t cap)
{
    (void)rt;
    (void)state;
    (void)detail;
    (void)cap;
    return KEEL_PROBE_OK;
}

START_TEST(table_of_engine)
{
    const struct keel_probe twice[] = {{.id = "prices", .run = probe}, {.id = "prices", .run = probe}};
    const struct keel_probe reserved[] = {{.id = "redis", .run = probe}};
    const char *const unknown[] = {"unit.nonsense", NULL};
    struct keel_engine engine = {.name = "unit"};

    ck_assert_ptr_null(keel_table_check(&engine, ops, KEEL_COUNT(ops), arena));
    engine.publishes = unknown;
    ck_assert_ptr_nonnull(keel_table_check(&engine, ops, KEEL_COUNT(ops), arena));
    engine.publishes = NULL;
    engine.probes = twice;
    engine.n_probes = 2;
    ck_assert_ptr_nonnull(keel_table_check(&engine, ops, KEEL_COUNT(ops), arena));
    engine.n_probes = 1;
    ck_assert_ptr_null(keel_table_check(&engine, ops, KEEL_COUNT(ops), arena));
    engine.probes = reserved;
    ck_assert_ptr_nonnull(keel_table_check(&engine, ops, KEEL_COUNT(ops), arena));
}
END_TEST

/* Whatever the path holds once its parameters are put in, the same row comes back. */
START_TEST(every_row_finds_itself)
{
    struct keel_rt rt = runtime(ops, KEEL_COUNT(ops));

    for (size_t i = 0; i < KEEL_COUNT(ops); i++) {
        struct keel_route route;
        char path[128];
        size_t n = 0;
        if (ops[i].on.path == NULL)
            continue;
        for (const char *p = ops[i].on.path; *p != '\0'; p++) {
            path[n++] = *p == '{' ? 'v' : *p;
            if (*p == '{')
                p = strchr(p, '}');
        }
        path[n] = '\0';
        ck_assert(keel_route_find(&rt, arena, ops[i].on.kind == KEEL_ON_WS ? "GET" : ops[i].on.method, path, &route));
        ck_assert_str_eq(route.op->id, ops[i].id);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("router");
    TCase *tc = tcase_create("router");
    SRunner *runner = srunner_create(suite);
    int failed;

    arena = keel_arena_new(4096);
    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, route_found, 0, (int)KEEL_COUNT(route_case));
    tcase_add_loop_test(tc, escapes, 0, (int)KEEL_COUNT(escape_case));
    tcase_add_loop_test(tc, table, 0, (int)KEEL_COUNT(table_case));
    tcase_add_test(tc, table_of_engine);
    tcase_add_test(tc, every_row_finds_itself);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    keel_arena_free(arena);
    return failed == 0 ? 0 : 1;
}
