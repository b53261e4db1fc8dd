/*
 * stream_reply.c: the replies are RESP text as a Redis 7.0 sends it (written down from redis-cli's own protocol), read by
 * hiredis; the headers follow the field order of the bus.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <hiredis/hiredis.h>

#include "bus_priv.h"

static redisReader *reader;

static struct redisReply *parse(const char *resp)
{
    void *reply = NULL;
    reader = redisReaderCreate();
    ck_assert_int_eq(redisReaderFeed(reader, resp, strlen(resp)), REDIS_OK);
    ck_assert_int_eq(redisReaderGetReply(reader, &reply), REDIS_OK);
    ck_assert_ptr_nonnull(reply);
    return reply;
}

static void drop(struct redisReply *r)
{
    freeReplyObject(r);
    redisReaderFree(reader);
}

struct got { size_t n; char text[512]; };

static void note(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    struct got *got = ctx;
    char id[KEEL_SID_TEXT];
    size_t at = strlen(got->text);
    keel_sid_print(e->id, id);
    snprintf(got->text + at, sizeof got->text - at, "%.*s %s %s%.*s %.*s;", (int)key_len, key, id, e->gone ? "gone" : "",
             (int)e->h_len, e->h, (int)e->p_len, e->p);
    got->n++;
}

#define ENTRY(id, h, p) "*2\r\n$3\r\n" id "\r\n*4\r\n$1\r\nh\r\n$1\r\n" h "\r\n$1\r\np\r\n$1\r\n" p "\r\n"

static const struct { const char *why, *resp; size_t bad; const char *want; } stream_case[] = {
    {"nothing came in time", "*-1\r\n", 0, ""},
    {"nil as RESP3 clients see it", "$-1\r\n", 0, ""},
    {"one stream, two entries", "*1\r\n*2\r\n$1\r\nA\r\n*2\r\n" ENTRY("1-0", "x", "y") ENTRY("1-1", "u", "v"), 0,
     "A 1-0 x y;A 1-1 u v;"},
    {"two streams", "*2\r\n*2\r\n$1\r\nA\r\n*1\r\n" ENTRY("1-0", "x", "y") "*2\r\n$1\r\nB\r\n*1\r\n" ENTRY("2-0", "u", "v"), 0,
     "A 1-0 x y;B 2-0 u v;"},
    {"pending entry that was trimmed", "*1\r\n*2\r\n$1\r\nA\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*-1\r\n" ENTRY("1-1", "u", "v"), 0,
     "A 1-0 gone ;A 1-1 u v;"},
    {"fields in another order, and one more",
     "*1\r\n*2\r\n$1\r\nA\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*6\r\n$1\r\nz\r\n$1\r\n9\r\n$1\r\np\r\n$1\r\ny\r\n$1\r\nh\r\n$1\r\nx\r\n", 0,
     "A 1-0 x y;"},
    {"no h and no p: an entry all the same", "*1\r\n*2\r\n$1\r\nA\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nk\r\n$1\r\nv\r\n", 0,
     "A 1-0  ;"},
    {"an odd number of fields", "*1\r\n*2\r\n$1\r\nA\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*3\r\n$1\r\nh\r\n$1\r\nx\r\n$1\r\np\r\n", 0,
     "A 1-0 x ;"},
    {"an id that is none", "*1\r\n*2\r\n$1\r\nA\r\n*2\r\n" ENTRY("1_0", "x", "y") ENTRY("1-1", "u", "v"), 1, "A 1-1 u v;"},
    {"an entry that is a number", "*1\r\n*2\r\n$1\r\nA\r\n*2\r\n:7\r\n" ENTRY("1-1", "u", "v"), 1, "A 1-1 u v;"},
    {"a field that is a number", "*1\r\n*2\r\n$1\r\nA\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*4\r\n$1\r\nh\r\n:5\r\n$1\r\np\r\n$1\r\ny\r\n", 0,
     "A 1-0  y;"},
    {"a stream without entries", "*1\r\n*1\r\n$1\r\nA\r\n", 1, ""},
    {"not a list at all", ":1\r\n", 1, ""},
    {"an error", "-NOGROUP No such key\r\n", 1, ""},
};

START_TEST(streams)
{
    struct got got = {0};
    struct redisReply *r = parse(stream_case[_i].resp);
    size_t bad = keel_stream_parse(r, note, &got);
    ck_assert_msg(bad == stream_case[_i].bad, "%s: %zu bad", stream_case[_i].why, bad);
    ck_assert_msg(strcmp(got.text, stream_case[_i].want) == 0, "%s: %s", stream_case[_i].why, got.text);
    drop(r);
}
END_TEST

START_TEST(range_and_members)
{
    struct got got = {0};
    struct redisReply *r = parse("*2\r\n" ENTRY("5-1", "x", "y") ENTRY("6-0", "u", "v"));
    ck_assert_uint_eq(keel_range_parse(r, note, &got), 0);
    ck_assert_str_eq(got.text, " 5-1 x y; 6-0 u v;");
    drop(r);
    int64_t pending = 0;
    struct keel_sid id;
    r = parse("*6\r\n$4\r\nname\r\n$1\r\ng\r\n$7\r\npending\r\n:3\r\n$17\r\nlast-delivered-id\r\n$5\r\n12-34\r\n");
    ck_assert(keel_reply_int(keel_reply_member(r, "pending"), &pending));
    ck_assert_int_eq(pending, 3);
    ck_assert(keel_reply_sid(keel_reply_member(r, "last-delivered-id"), &id));
    ck_assert_uint_eq(id.ms, 12);
    ck_assert_uint_eq(id.n, 34);
    ck_assert(keel_reply_is(keel_reply_member(r, "name"), "g"));
    ck_assert_ptr_null(keel_reply_member(r, "lag"));
    ck_assert(!keel_reply_int(NULL, &pending));
    drop(r);
}
END_TEST

static const struct { const char *text; bool good; uint64_t ms, n; } id_case[] = {
    {"0-0", true, 0, 0},
    {"1700000000000-7", true, 1700000000000, 7},
    {"18446744073709551615-18446744073709551615", true, UINT64_MAX, UINT64_MAX},
    {"18446744073709551616-0", false, 0, 0},
    {"1", false, 0, 0}, {"", false, 0, 0}, {"-", false, 0, 0}, {"1-", false, 0, 0}, {"-1", false, 0, 0},
    {"1-2-3", false, 0, 0}, {"+1-2", false, 0, 0}, {"1 -2", false, 0, 0},
};

START_TEST(ids)
{
    struct keel_sid id = {99, 99};
    char text[KEEL_SID_TEXT];
    ck_assert_msg(keel_sid_parse(id_case[_i].text, strlen(id_case[_i].text), &id) == id_case[_i].good, "%s",
                  id_case[_i].text);
    if (!id_case[_i].good) {
        ck_assert_uint_eq(id.ms, 99);
        return;
    }
    ck_assert_uint_eq(id.ms, id_case[_i].ms);
    ck_assert_uint_eq(id.n, id_case[_i].n);
    ck_assert_uint_eq(keel_sid_print(id, text), strlen(id_case[_i].text));
    ck_assert_str_eq(text, id_case[_i].text);
}
END_TEST

START_TEST(ids_in_order)
{
    struct keel_sid a = {5, 0}, b = {5, 1}, c = {4, UINT64_MAX};
    ck_assert_int_lt(keel_sid_cmp(a, b), 0);
    ck_assert_int_gt(keel_sid_cmp(a, c), 0);
    ck_assert_int_eq(keel_sid_cmp(a, a), 0);
    ck_assert_int_eq(keel_sid_cmp(keel_sid_before(a), c), 0);
    ck_assert_int_eq(keel_sid_cmp(keel_sid_before(b), a), 0);
    struct keel_sid zero = {0, 0};
    ck_assert_int_eq(keel_sid_cmp(keel_sid_before(zero), zero), 0);
}
END_TEST

static struct keel_header header(const char *key)
{
    struct keel_header h = {.topic = "strategy.critical.fill", .producer = "hybrid-strategy-engine", .epoch = "k7q2",
                            .seq = 41, .ts_event = 1795369864123456789, .ts_init = 1795369864123456790, .ts_recv = 0,
                            .ts_publish = 1795369864123456792,
                            .traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"};
    snprintf(h.key, sizeof h.key, "%s", key);
    return h;
}

START_TEST(head_text)
{
    char buf[KEEL_HEAD_TEXT];
    struct keel_header h = header("main");
    ck_assert_uint_eq(keel_head_print("main", "paper", &h, buf), strlen(buf));
    ck_assert_str_eq(buf, "1 main paper strategy.critical.fill hybrid-strategy-engine k7q2 41 main 1795369864123456789 "
                          "1795369864123456790 - 1795369864123456792 "
                          "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
}
END_TEST

static const char *const keys[] = {"", "main", "a b", "100%", "%20", "\t", "\x01", "zw\xc3\xb6lf",
                                   "0123456789012345678901234567890123456789012345678901234567890123456789 "};

START_TEST(head_round_trip)
{
    char buf[KEEL_HEAD_TEXT], again[KEEL_HEAD_TEXT];
    struct keel_header h = header(keys[_i]);
    struct keel_envelope e;
    size_t n = keel_head_print("prod", "live", &h, buf);
    const char *why = keel_head_parse(buf, n, &e);
    ck_assert_msg(why == NULL, "%s: %s", why, buf);
    ck_assert_str_eq(e.env, "prod");
    ck_assert_str_eq(e.mode, "live");
    ck_assert_str_eq(e.h.key, h.key);
    ck_assert_str_eq(e.h.topic, h.topic);
    ck_assert_str_eq(e.h.producer, h.producer);
    ck_assert_str_eq(e.h.epoch, h.epoch);
    ck_assert_str_eq(e.h.traceparent, h.traceparent);
    ck_assert_uint_eq(e.h.seq, h.seq);
    ck_assert_int_eq(e.h.ts_event, h.ts_event);
    ck_assert_int_eq(e.h.ts_init, h.ts_init);
    ck_assert_int_eq(e.h.ts_recv, h.ts_recv);
    ck_assert_int_eq(e.h.ts_publish, h.ts_publish);
    /* Stamping changes ts_publish and nothing else. */
    n = keel_head_stamp(buf, n, -5, again);
    ck_assert_uint_eq(n, strlen(again));
    ck_assert_ptr_null(keel_head_parse(again, n, &e));
    ck_assert_int_eq(e.h.ts_publish, -5);
    ck_assert_str_eq(e.h.key, h.key);
    ck_assert_str_eq(e.h.traceparent, h.traceparent);
}
END_TEST

static const struct { const char *head, *why; } bad_head[] = {
    {"", "malformed_header"},
    {"1", "malformed_header"},
    {"2 main paper t p e 1 k 1 1 1 1 -", "unknown_schema"},
    {"1 main paper t p e 1 k 1 1 1 1", "malformed_header"},
    {"1 main paper t p e 1 k 1 1 1 1 - -", "malformed_header"},
    {"1 main paper t p e 1 k 1 1 1 1  ", "malformed_header"},
    {"1 main paper t p e 1 k 1  1 1 -", "malformed_header"},
    {" 1 main paper t p e 1 k 1 1 1 1", "malformed_header"},
    {"1 main paper t p e 0 k 1 1 1 1 -", "malformed_header"},
    {"1 main paper t p e -1 k 1 1 1 1 -", "malformed_header"},
    {"1 main paper t p e 9223372036854775808 k 1 1 1 1 -", "malformed_header"},
    {"1 main paper t p e 1 k%2 1 1 1 1 -", "malformed_header"},
    {"1 main paper t p e 1 k%00 1 1 1 1 -", "malformed_header"},
    {"1 main paper t p e 1 k%zz 1 1 1 1 -", "malformed_header"},
    {"1 main paper t p e 1 k 1.5 1 1 1 -", "malformed_header"},
    {"1 main paper - p e 1 k 1 1 1 1 -", "malformed_header"},
    {"1 main paper t - e 1 k 1 1 1 1 -", "malformed_header"},
    {"1 main paper t p - 1 k 1 1 1 1 -", "malformed_header"},
    {"1 main toolongmode t p e 1 k 1 1 1 1 -", "malformed_header"},
    {"1 main paper t p e 1 012345678901234567890123456789012345678901234567890123456789012345678901 1 1 1 1 -",
     "malformed_header"},
};

START_TEST(head_refused)
{
    struct keel_envelope e;
    const char *why = keel_head_parse(bad_head[_i].head, strlen(bad_head[_i].head), &e);
    ck_assert_msg(why != NULL && strcmp(why, bad_head[_i].why) == 0, "'%s': %s", bad_head[_i].head,
                  why != NULL ? why : "taken");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("stream_reply");
    TCase *tc = tcase_create("stream_reply");
    tcase_add_loop_test(tc, streams, 0, (int)KEEL_COUNT(stream_case));
    tcase_add_test(tc, range_and_members);
    tcase_add_loop_test(tc, ids, 0, (int)KEEL_COUNT(id_case));
    tcase_add_test(tc, ids_in_order);
    tcase_add_test(tc, head_text);
    tcase_add_loop_test(tc, head_round_trip, 0, (int)KEEL_COUNT(keys));
    tcase_add_loop_test(tc, head_refused, 0, (int)KEEL_COUNT(bad_head));
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
