/* What a REDIS_URL may say, what is wrong with the others, and that nothing shown of it is a secret. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "keel/redis_url.h"
#include "keel/status.h"

/* host:port of every host, then path, service, user, password, db; "" for what is absent. */
static const struct { const char *url, *hosts, *path, *service, *user, *password; int db; } good[] = {
    {"redis://127.0.0.1:6379/0", "127.0.0.1:6379 ", "", "", "", "", 0},
    {"redis://localhost", "localhost:6379 ", "", "", "", "", 0},
    {"redis://localhost/", "localhost:6379 ", "", "", "", "", 0},
    {"redis://:secret@redis:6379/3", "redis:6379 ", "", "", "", "secret", 3},
    {"redis://user:p%40ss@[::1]:7000", "::1:7000 ", "", "", "user", "p@ss", 0},
    {"redis://user@h?db=65535", "h:6379 ", "", "", "user", "", 65535},
    {"redis://a:b:c@h", "h:6379 ", "", "", "a", "b:c", 0},
    {"redis://[::1]", "::1:6379 ", "", "", "", "", 0},
    {"rediss://h:1", "h:1 ", "", "", "", "", 0},
    {"unix:///run/redis.sock", "", "/run/redis.sock", "", "", "", 0},
    {"unix://u:p@/run/r?db=2", "", "/run/r", "", "u", "p", 2},
    {"redis+sentinel://a,b:1,[::2]:3/main", "a:26379 b:1 ::2:3 ", "", "main", "", "", 0},
    {"redis+sentinel://u:p@a/my%2Fmain?db=4", "a:26379 ", "", "my/main", "u", "p", 4},
    {"rediss+sentinel://a,b/main?ca=/x", "a:26379 b:26379 ", "", "main", "", "", 0},
};

START_TEST(taken)
{
    struct keel_redis_url u;
    char hosts[256] = "";
    const char *why = keel_redis_url_parse(good[_i].url, &u);
    ck_assert_msg(why == NULL, "%s: %s", good[_i].url, why != NULL ? why : "");
    for (size_t i = 0; i < u.n_hosts; i++)
        snprintf(hosts + strlen(hosts), sizeof hosts - strlen(hosts), "%s:%d ", u.host[i].name, u.host[i].port);
    ck_assert_str_eq(hosts, good[_i].hosts);
    ck_assert_str_eq(u.path, good[_i].path);
    ck_assert_str_eq(u.service, good[_i].service);
    ck_assert_str_eq(u.user, good[_i].user);
    ck_assert_str_eq(u.password, good[_i].password);
    ck_assert_int_eq(u.db, good[_i].db);
}
END_TEST

static const struct { const char *url, *why; } bad[] = {
    {"", "begin with"}, {"http://localhost", "begin with"}, {"redis:/h", "begin with"}, {"redis+sentinel:h", "begin with"},
    {"redis://", "no host"}, {"redis://:6379", "no host"}, {"redis://u:p@", "no host"},
    {"redis://h:0", "port"}, {"redis://h:65536", "port"}, {"redis://h:12x", "port"}, {"redis://h:", "port"},
    {"redis://h:+1", "port"}, {"redis://[::1", "bracket"}, {"redis://[::1]7", "colon"}, {"redis://[::1]:", "port"},
    {"redis://a,b:1", "several"}, {"redis://h/x", "database"}, {"redis://h/-1", "database"}, {"redis://h/65536", "database"},
    {"redis://h?db=", "database"}, {"redis://:a%zz@h", "password"}, {"redis://:a%4@h", "password"}, {"redis://:a%00@h", "password"},
    {"redis://%@h", "user"}, {"unix://relative", "absolute"}, {"unix://", "absolute"},
    {"unix:///aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
     "108 bytes"},
    {"redis+sentinel://a:1", "service"}, {"redis+sentinel://a:1/", "service"}, {"redis+sentinel://a,,b/main", "no host"},
    {"redis+sentinel://a:0/main", "port"}, {"redis+sentinel://1,2,3,4,5,6,7,8,9/main", "8 hosts"},
    {"redis://h?ca=/x", "parameter ca;"}, {"redis://h?timeout=1", "parameter timeout;"}, {"rediss://h?cas=/x", "parameter cas;"},
    {"rediss://h?ca=", "ca"}, {"rediss://h?cert=/x", "together"}, {"rediss://h?key=/x", "together"},
    {"redis://h?sentinel_password=x", "parameter sentinel_password;"}, {"redis+sentinel://h/s?sentinel_password=", "empty"},
    {"redis+sentinel://h/s?sentinel_user=", "empty"},
    {"redis+sentinel://h/s?ca=/x", "parameter ca; there are db, sentinel_user"},
    {"rediss+sentinel://h/s?x=1", "ca, cert, key, sentinel_user, sentinel_password"},
};

START_TEST(refused)
{
    struct keel_redis_url u;
    const char *why = keel_redis_url_parse(bad[_i].url, &u);
    ck_assert_msg(why != NULL && strstr(why, bad[_i].why) != NULL, "'%s': %s", bad[_i].url, why != NULL ? why : "taken");
}
END_TEST

START_TEST(files_of_tls)
{
    struct keel_redis_url u;
    ck_assert_ptr_null(keel_redis_url_parse("rediss://h?ca=/a%20b&cert=/c&key=/k", &u));
    ck_assert(u.is_tls);
    ck_assert_str_eq(u.ca, "/a b");
    ck_assert_str_eq(u.cert, "/c");
    ck_assert_str_eq(u.key, "/k");
}
END_TEST

static const struct { const char *url, *shown; } display[] = {
    {"redis://h:1/2?db=3", "redis://h:1/2?db=3"}, {"redis://h?", "redis://h"}, {"redis://u:p@h", "redis://:(set)@h"},
    {"rediss://u@h?ca=/c&cert=/d&key=/k", "rediss://:(set)@h?ca=/c&cert=/d&key=/k"}, {"redis://h?pw=1&db=2", "redis://h?(set)&db=2"},
    {"unix:///run/r", "unix:///run/r"}, {"nonsense", "nonsense"}, {"is it?", "is it?"}, {"", ""},
};

START_TEST(what_is_shown)
{
    struct keel_arena *a = keel_arena_new(1024);
    ck_assert_str_eq(keel_redis_url_shown(a, display[_i].url), display[_i].shown);
    keel_arena_free(a);
}
END_TEST

START_TEST(access_to_sentinels)
{
    static const char password[] = "p@ss:/?#&%";
    struct keel_arena *a = keel_arena_new(1024);
    struct keel_redis_url u;
    ck_assert_ptr_null(keel_redis_url_parse("rediss+sentinel://m:n@a/s?sentinel_user=b%20b&sentinel_password=c%26", &u));
    ck_assert(u.is_tls);
    ck_assert_str_eq(u.user, "m");
    ck_assert_str_eq(u.password, "n");
    ck_assert_str_eq(u.sentinel_user, "b b");
    ck_assert_str_eq(u.sentinel_password, "c&");
    for (int has_more = 0; has_more < 2; has_more++) {
        const char *url = keel_redis_url_with_sentinel(a, has_more ? "redis+sentinel://a,b/s?db=3&sentinel_user=bob"
                                                                    : "redis+sentinel://a,b/s", password);
        ck_assert_msg(keel_redis_url_parse(url, &u) == NULL, "%s", url);
        ck_assert_str_eq(u.sentinel_password, password);
        ck_assert_str_eq(u.service, "s");
        ck_assert_int_eq(u.db, has_more ? 3 : 0);
        ck_assert_str_eq(keel_redis_url_shown(a, url), has_more ? "redis+sentinel://a,b/s?db=3&sentinel_user=bob&sentinel_password=(set)"
                                                                : "redis+sentinel://a,b/s?sentinel_password=(set)");
        ck_assert_str_eq(keel_redis_url_with_sentinel(a, url, "other"), url);
    }
    keel_arena_free(a);
}
END_TEST

static const struct { const char *url, *user; } merged[] = {
    {"redis://h:1/2?db=3", ""}, {"redis://bob@h", "bob"}, {"redis://bob:@h", "bob"}, {"redis://@h", ""}, {"unix:///run/r", ""},
    {"unix://bob@/run/r", "bob"}, {"redis+sentinel://a,b/main", ""}, {"redis+sentinel://bob@a,b/main", "bob"},
};

START_TEST(password_from_elsewhere)
{
    static const char password[] = "p@ss:/?#%";
    struct keel_arena *a = keel_arena_new(1024);
    struct keel_redis_url before, u;
    const char *url = keel_redis_url_with(a, merged[_i].url, password);
    ck_assert_ptr_null(keel_redis_url_parse(merged[_i].url, &before));
    ck_assert_msg(keel_redis_url_parse(url, &u) == NULL, "%s", url);
    ck_assert_str_eq(u.password, password);
    ck_assert_str_eq(u.user, merged[_i].user);
    ck_assert_str_eq(u.path, before.path);
    ck_assert_str_eq(u.service, before.service);
    ck_assert_mem_eq(u.host, before.host, sizeof u.host);
    ck_assert_int_eq(u.db, before.db);
    ck_assert_ptr_null(strstr(keel_redis_url_shown(a, url), "%40"));
    ck_assert_str_eq(keel_redis_url_with(a, "redis://:own@h", password), "redis://:own@h");
    keel_arena_free(a);
}
END_TEST

/* Good or not: what stands before the last @ is never shown, nor what a message could take for a parameter. */
static const char *const secret[] = {
    "redis://:hunter2@h", "redis://u:hunter2@h:x/9", "redis://u:12?hunter2@h", "redis+sentinel://u:hunter2@a,b/main",
    "unix://:hunter2@/run/r", "rediss://u:hunter2@h?ca=/x", "http://u:hunter2@h", "redis://u:a/hunter2@h", "redis://u:1?hunter2=@h",
    "unix://a:1/x?hunter2@/y", "redis+sentinel://a/s?sentinel_password=hunter2", "redis+sentinel://u:hunter2@a/s?sentinel_password=hunter2&db=1",
    "redis+sentinel://a/s?sentinel_password=x@hunter2", "redis+sentinel://a/s?sentinel_password=hunter2@x", "redis://h?sentinel_password=hunter2",
    "redis+sentinel://u:a?sentinel_password=b&hunter2@h/s", "redis+sentinel://a/s?sentinel_pasword=hunter2&db=1", "redis://h?hunter2",
    "redis://h?x=1?hunter2", "redis://u@h?password=hunter2",
};

START_TEST(secrets_are_not_shown)
{
    struct keel_arena *a = keel_arena_new(1024);
    struct keel_redis_url u;
    const char *why = keel_redis_url_parse(secret[_i], &u);
    ck_assert_ptr_null(strstr(keel_redis_url_shown(a, secret[_i]), "hunter"));
    ck_assert_msg(why == NULL || strstr(why, "hunter") == NULL, "%s", why);
    keel_arena_free(a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("redis_url");
    TCase *tc = tcase_create("redis_url");
    tcase_add_loop_test(tc, taken, 0, (int)KEEL_COUNT(good));
    tcase_add_loop_test(tc, refused, 0, (int)KEEL_COUNT(bad));
    tcase_add_test(tc, files_of_tls);
    tcase_add_loop_test(tc, what_is_shown, 0, (int)KEEL_COUNT(display));
    tcase_add_test(tc, access_to_sentinels);
    tcase_add_loop_test(tc, password_from_elsewhere, 0, (int)KEEL_COUNT(merged));
    tcase_add_loop_test(tc, secrets_are_not_shown, 0, (int)KEEL_COUNT(secret));
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
