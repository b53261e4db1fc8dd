/* Who may do what: system.md 2, Access. Expected outcomes are read off that paragraph. */
#include "rt.h"

#include <arpa/inet.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct keel_core_options no_tokens = {
    .http_host = "127.0.0.1", .read_token = "", .trade_token = "", .admin_token = "", .engine_token = "",
    .allowed_hosts = "risk-engine, proxy.example", .keel_mode = 1};

static struct keel_core_options all_tokens(void)
{
    struct keel_core_options o = no_tokens;

    o.read_token = "r-token";
    o.trade_token = "t-token";
    o.admin_token = "a-token";
    o.engine_token = "e-token";
    return o;
}

static enum keel_status ask(struct keel_core_options *o, enum keel_scope scope, const char *method, const char *token,
                            const char *host, const char *origin, const char *type, enum keel_scope *granted)
{
    struct keel_rt rt;
    const struct keel_op op = {.id = "x", .on = {.kind = KEEL_ON_HTTP, .method = method, .path = "/x"}, .scope = scope};
    const char *why = NULL;
    enum keel_status st;

    memset(&rt, 0, sizeof rt);
    rt.core = o;
    st = keel_authorize(&rt, &op, method, token, host, origin, type, false, granted, &why);
    ck_assert(st == KEEL_OK || (why != NULL && *why != '\0'));
    return st;
}

/* Rows: what the op needs. Columns: no token, wrong token, read, trade, engine, admin. */
enum { OK = KEEL_OK, NO = KEEL_UNAUTHORIZED, SMALL = KEEL_FORBIDDEN };
static const struct { enum keel_scope need; int st[6]; } scope_case[] = {
    {KEEL_SCOPE_ANY, {OK, OK, OK, OK, OK, OK}},
    {KEEL_SCOPE_READ, {NO, NO, OK, OK, OK, OK}},
    {KEEL_SCOPE_TRADE, {NO, NO, SMALL, OK, OK, OK}},
    {KEEL_SCOPE_ADMIN, {NO, NO, SMALL, SMALL, SMALL, OK}},
    {KEEL_SCOPE_ENGINE, {NO, NO, SMALL, SMALL, OK, SMALL}},
    {KEEL_SCOPE_ENGINE_OR_ADMIN, {NO, NO, SMALL, SMALL, OK, OK}},
};
static const char *const tokens[] = {NULL, "Bearer x-token", "Bearer r-token", "bearer t-token", "BEARER  e-token",
                                     "Bearer a-token "};
static const enum keel_scope token_scope[] = {KEEL_SCOPE_READ, KEEL_SCOPE_READ, KEEL_SCOPE_READ, KEEL_SCOPE_TRADE,
                                              KEEL_SCOPE_ENGINE, KEEL_SCOPE_ADMIN};

START_TEST(scopes)
{
    struct keel_core_options o = all_tokens();

    for (size_t i = 0; i < KEEL_COUNT(tokens); i++) {
        enum keel_scope granted = KEEL_SCOPE_ANY;
        enum keel_status st = ask(&o, scope_case[_i].need, "GET", tokens[i], "localhost", NULL, NULL, &granted);
        ck_assert_msg((int)st == scope_case[_i].st[i], "need %d, %s: %s", (int)scope_case[_i].need,
                      tokens[i] != NULL ? tokens[i] : "none", keel_status_name(st));
        if (st == KEEL_OK && scope_case[_i].need != KEEL_SCOPE_ANY)
            ck_assert_int_eq(granted, token_scope[i]);
        if (scope_case[_i].need == KEEL_SCOPE_ANY)
            ck_assert_int_eq(granted, KEEL_SCOPE_READ);
    }
}
END_TEST

START_TEST(without_tokens_everything_is_allowed)
{
    enum keel_scope granted = KEEL_SCOPE_READ;

    for (size_t i = 0; i < KEEL_COUNT(scope_case); i++)
        ck_assert_int_eq(ask(&no_tokens, scope_case[i].need, "GET", NULL, NULL, NULL, NULL, &granted), KEEL_OK);
    ck_assert_int_eq(granted, KEEL_SCOPE_ADMIN);
}
END_TEST

/* With one token in use the scopes of the others have none: nobody gets in as them, not even with an empty token. */
START_TEST(unset_token_is_refused)
{
    struct keel_core_options o = no_tokens;
    enum keel_scope granted;

    o.read_token = "r-token";
    ck_assert_int_eq(ask(&o, KEEL_SCOPE_READ, "GET", "Bearer r-token", NULL, NULL, NULL, &granted), KEEL_OK);
    ck_assert_int_eq(ask(&o, KEEL_SCOPE_TRADE, "GET", "Bearer r-token", NULL, NULL, NULL, &granted), KEEL_FORBIDDEN);
    ck_assert_int_eq(ask(&o, KEEL_SCOPE_TRADE, "GET", "Bearer ", NULL, NULL, NULL, &granted), KEEL_UNAUTHORIZED);
    ck_assert_int_eq(ask(&o, KEEL_SCOPE_TRADE, "GET", "", NULL, NULL, NULL, &granted), KEEL_UNAUTHORIZED);
    ck_assert_int_eq(ask(&o, KEEL_SCOPE_READ, "GET", "Bearer r-toke", NULL, NULL, NULL, &granted), KEEL_UNAUTHORIZED);
    ck_assert_int_eq(ask(&o, KEEL_SCOPE_READ, "GET", "Bearer r-tokenn", NULL, NULL, NULL, &granted), KEEL_UNAUTHORIZED);
    ck_assert_int_eq(ask(&o, KEEL_SCOPE_READ, "GET", "Basic r-token", NULL, NULL, NULL, &granted), KEEL_UNAUTHORIZED);
}
END_TEST

static const struct { const char *host, *origin, *type; enum keel_status st; } page_case[] = {
    {"127.0.0.1:8200", NULL, "application/json", KEEL_OK},
    {"127.0.0.1", NULL, "application/json; charset=utf-8", KEEL_OK},
    {"[::1]:8200", NULL, "Application/JSON ;x=y", KEEL_OK},
    {"LocalHost:1", NULL, "application/json", KEEL_OK},
    {"risk-engine:8200", NULL, "application/json", KEEL_OK},
    {"Proxy.Example", NULL, "application/json", KEEL_OK},
    {"10.0.0.7:8200", NULL, "application/json", KEEL_OK},
    {NULL, NULL, "application/json", KEEL_FORBIDDEN},
    {"", NULL, "application/json", KEEL_FORBIDDEN},
    {"evil.example", NULL, "application/json", KEEL_FORBIDDEN},
    {"localhost.evil.example", NULL, "application/json", KEEL_FORBIDDEN},
    {"risk-engin", NULL, "application/json", KEEL_FORBIDDEN},
    {"risk-engine,", NULL, "application/json", KEEL_FORBIDDEN},
    {"127.0.0.1:80x", NULL, "application/json", KEEL_FORBIDDEN},
    {"127.0.0.1:123456", NULL, "application/json", KEEL_FORBIDDEN},
    {"127.1", NULL, "application/json", KEEL_FORBIDDEN},
    {"[::1", NULL, "application/json", KEEL_FORBIDDEN},
    {"[", NULL, "application/json", KEEL_FORBIDDEN},
    {"[127.0.0.1]", NULL, "application/json", KEEL_FORBIDDEN},
    {"::1", NULL, "application/json", KEEL_FORBIDDEN},
    {"localhost:8200", "http://localhost:8200", "application/json", KEEL_OK},
    {"localhost:8200", "HTTP://LOCALHOST:8200", "application/json", KEEL_OK},
    {"localhost", "http://localhost:80", "application/json", KEEL_OK},
    {"localhost:443", "https://localhost", "application/json", KEEL_OK},
    {"localhost:8200", "http://localhost:8300", "application/json", KEEL_FORBIDDEN},
    {"localhost:8200", "http://localhost", "application/json", KEEL_FORBIDDEN},
    {"localhost:8200", "http://127.0.0.1:8200", "application/json", KEEL_FORBIDDEN},
    {"localhost:8200", "http://evil.example", "application/json", KEEL_FORBIDDEN},
    {"localhost:8200", "null", "application/json", KEEL_FORBIDDEN},
    {"localhost:8200", "", "application/json", KEEL_FORBIDDEN},
    {"localhost:8200", "file://localhost:8200", "application/json", KEEL_FORBIDDEN},
    {"localhost:8200", NULL, NULL, KEEL_MEDIA},
    {"localhost:8200", NULL, "", KEEL_MEDIA},
    {"localhost:8200", NULL, "text/plain", KEEL_MEDIA},
    {"localhost:8200", NULL, "application/json2", KEEL_MEDIA},
    {"localhost:8200", NULL, "application/x-www-form-urlencoded", KEEL_MEDIA},
};

START_TEST(pages)
{
    static const char *const unsafe[] = {"POST", "PUT", "PATCH", "DELETE"};
    enum keel_scope granted;

    for (size_t i = 0; i < KEEL_COUNT(unsafe); i++) {
        enum keel_status st = ask(&no_tokens, KEEL_SCOPE_TRADE, unsafe[i], NULL, page_case[_i].host,
                                  page_case[_i].origin, page_case[_i].type, &granted);
        ck_assert_msg(st == page_case[_i].st, "%s host %s origin %s type %s: %s", unsafe[i],
                      page_case[_i].host != NULL ? page_case[_i].host : "-",
                      page_case[_i].origin != NULL ? page_case[_i].origin : "-",
                      page_case[_i].type != NULL ? page_case[_i].type : "-", keel_status_name(st));
    }
    ck_assert_int_eq(ask(&no_tokens, KEEL_SCOPE_READ, "GET", NULL, page_case[_i].host, page_case[_i].origin, NULL,
                         &granted),
                     KEEL_OK);
}
END_TEST

static const struct { const char *host, *origin; enum keel_status st; } upgrade_case[] = {
    {"evil.example", NULL, KEEL_FORBIDDEN},
    {"localhost:1", "http://evil.example", KEEL_FORBIDDEN},
    {"localhost:1", "http://localhost:1", KEEL_OK},
    {"localhost:1", NULL, KEEL_OK},
};

START_TEST(websocket_checks_the_page_too)
{
    const struct keel_op op = {.id = "x", .on = KEEL_WS("/ws"), .scope = KEEL_SCOPE_READ};
    struct keel_rt rt;
    enum keel_scope granted;
    const char *why;

    memset(&rt, 0, sizeof rt);
    rt.core = &no_tokens;
    ck_assert_int_eq(keel_authorize(&rt, &op, "GET", NULL, upgrade_case[_i].host, upgrade_case[_i].origin, NULL, false,
                                    &granted, &why),
                     upgrade_case[_i].st);
}
END_TEST

/* The Host that was allowed last is known by its text; nothing else is. */
START_TEST(one_good_host_lets_no_other_in)
{
    char long_one[120], listed[160];
    const char *const host[] = {"10.0.0.7:8200", "proxy.example", "risk-engine:8200", long_one};
    const char *const not[] = {NULL, "", "10.0.0.7:8200x", "10.0.0.7:820x", "proxy.exampl", "proxy.example.evil", "evil.example"};
    struct keel_core_options o = {.read_token = "", .trade_token = "", .admin_token = "", .engine_token = "",
                                  .allowed_hosts = listed};
    struct keel_rt rt;
    const struct keel_op op = {.id = "x", .on = {.kind = KEEL_ON_HTTP, .method = "POST", .path = "/x"},
                               .scope = KEEL_SCOPE_TRADE};
    enum keel_scope granted;
    const char *why;

    memset(&rt, 0, sizeof rt);
    rt.core = &o;
    snprintf(listed, sizeof listed, "proxy.example,%0100d,risk-engine", 0);
    snprintf(long_one, sizeof long_one, "%0100d", 0);
    for (size_t i = 0; i < KEEL_COUNT(host); i++) {
        for (int again = 0; again < 2; again++) {
            ck_assert_msg(keel_authorize(&rt, &op, "POST", NULL, host[i], NULL, "application/json", true, &granted, &why) ==
                              KEEL_OK, "%s", host[i]);
            for (size_t k = 0; k < KEEL_COUNT(not); k++)
                ck_assert_msg(keel_authorize(&rt, &op, "POST", NULL, not[k], NULL, "application/json", true, &granted,
                                             &why) == KEEL_FORBIDDEN, "%s after %s", not[k], host[i]);
        }
    }
    /* What fits a cut copy of a long one is still another. */
    long_one[79] = '\0';
    ck_assert_int_eq(keel_authorize(&rt, &op, "POST", NULL, long_one, NULL, "application/json", true, &granted, &why),
                     KEEL_FORBIDDEN);
}
END_TEST

START_TEST(safe_methods_take_no_body)
{
    const struct keel_op op = {.id = "x", .on = KEEL_GET("/x"), .scope = KEEL_SCOPE_READ};
    struct keel_rt rt;
    enum keel_scope granted;
    const char *why;

    memset(&rt, 0, sizeof rt);
    rt.core = &no_tokens;
    ck_assert_int_eq(keel_authorize(&rt, &op, "GET", NULL, NULL, NULL, NULL, true, &granted, &why), KEEL_INVALID);
    ck_assert_int_eq(keel_authorize(&rt, &op, "HEAD", NULL, NULL, NULL, NULL, false, &granted, &why), KEEL_OK);
}
END_TEST

static const struct { const char *host; bool token, open; int mode; enum keel_status st; } start_case[] = {
    {"127.0.0.1", false, false, 1, KEEL_OK},    {"127.8.9.1", false, false, 1, KEEL_OK},
    {"::1", false, false, 1, KEEL_OK},
    {"localhost", false, false, 0, KEEL_OK},    {"0.0.0.0", false, false, 1, KEEL_INVALID},
    {"::", false, false, 1, KEEL_INVALID},      {"10.0.0.1", false, false, 1, KEEL_INVALID},
    {"example", false, false, 1, KEEL_INVALID}, {"0.0.0.0", true, false, 0, KEEL_OK},
    {"0.0.0.0", false, true, 1, KEEL_OK},       {"0.0.0.0", false, true, 2, KEEL_OK},
    {"0.0.0.0", false, true, 0, KEEL_INVALID},  {"::ffff:127.0.0.1", false, false, 1, KEEL_INVALID},
};

START_TEST(start_up)
{
    struct keel_core_options o = no_tokens;
    struct keel_rt rt;
    const char *why = NULL;
    enum keel_status st;

    memset(&rt, 0, sizeof rt);
    rt.core = &o;
    o.http_host = start_case[_i].host;
    o.admin_token = start_case[_i].token ? "secret" : "";
    o.allow_unauthenticated = start_case[_i].open;
    o.keel_mode = start_case[_i].mode;
    st = keel_auth_check(&rt, &why);
    ck_assert_msg(st == start_case[_i].st, "%s: %s", start_case[_i].host, keel_status_name(st));
    ck_assert(st == KEEL_OK || why != NULL);
}
END_TEST

static uint64_t client_at(const struct keel_core_options *o, enum keel_scope need, enum keel_scope scope,
                          const char *address)
{
    struct keel_core_options core = *o;
    const struct keel_rt rt = {.core = &core};
    const struct keel_op op = {.id = "x", .scope = need};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    struct sockaddr_in v4 = {.sin_family = AF_INET};

    if (inet_pton(AF_INET, address, &v4.sin_addr) == 1)
        return keel_client_of(&rt, &op, scope, (const struct sockaddr *)(const void *)&v4);
    ck_assert_int_eq(inet_pton(AF_INET6, address, &v6.sin6_addr), 1);
    return keel_client_of(&rt, &op, scope, (const struct sockaddr *)(const void *)&v6);
}

/* By address: the same client or not. */
static const struct { const char *a, *b; bool same; } client_case[] = {
    {"10.0.0.1", "10.0.0.1", true},
    {"10.0.0.1", "10.0.0.2", false},
    {"10.0.0.1", "::ffff:10.0.0.1", true},
    {"::ffff:10.0.0.1", "::ffff:10.0.0.2", false},
    {"2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true}, /* one network is one client */
    {"2001:db8:0:1::1", "2001:db8:0:2::1", false},
    {"::1", "127.0.0.1", false},
};

START_TEST(clients_by_address)
{
    uint64_t a = client_at(&no_tokens, KEEL_SCOPE_READ, KEEL_SCOPE_ADMIN, client_case[_i].a);
    uint64_t b = client_at(&no_tokens, KEEL_SCOPE_READ, KEEL_SCOPE_ADMIN, client_case[_i].b);

    ck_assert_msg((a == b) == client_case[_i].same, "%s, %s", client_case[_i].a, client_case[_i].b);
    ck_assert(a != 0 && b != 0);
}
END_TEST

/* With tokens the address says nothing; other engines are nobody's clients. */
START_TEST(clients_by_token)
{
    struct keel_core_options o = all_tokens();
    uint64_t read = client_at(&o, KEEL_SCOPE_READ, KEEL_SCOPE_READ, "10.0.0.1");

    ck_assert_uint_ne(read, 0);
    ck_assert_uint_eq(client_at(&o, KEEL_SCOPE_READ, KEEL_SCOPE_READ, "10.0.0.2"), read);
    ck_assert_uint_ne(client_at(&o, KEEL_SCOPE_READ, KEEL_SCOPE_TRADE, "10.0.0.1"), read);
    ck_assert_uint_eq(client_at(&o, KEEL_SCOPE_READ, KEEL_SCOPE_ENGINE, "10.0.0.1"), 0);
    ck_assert_uint_ne(client_at(&o, KEEL_SCOPE_ANY, KEEL_SCOPE_READ, "10.0.0.1"),
                      client_at(&o, KEEL_SCOPE_ANY, KEEL_SCOPE_READ, "10.0.0.2")); /* it shows no token */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("auth");
    TCase *tc = tcase_create("auth");
    SRunner *runner = srunner_create(suite);
    int failed;

    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, scopes, 0, (int)KEEL_COUNT(scope_case));
    tcase_add_test(tc, without_tokens_everything_is_allowed);
    tcase_add_test(tc, unset_token_is_refused);
    tcase_add_loop_test(tc, pages, 0, (int)KEEL_COUNT(page_case));
    tcase_add_loop_test(tc, websocket_checks_the_page_too, 0, (int)KEEL_COUNT(upgrade_case));
    tcase_add_test(tc, one_good_host_lets_no_other_in);
    tcase_add_test(tc, safe_methods_take_no_body);
    tcase_add_loop_test(tc, clients_by_address, 0, (int)KEEL_COUNT(client_case));
    tcase_add_test(tc, clients_by_token);
    tcase_add_loop_test(tc, start_up, 0, (int)KEEL_COUNT(start_case));
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
