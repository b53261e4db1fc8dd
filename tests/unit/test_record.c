/*
 * Records: every type at both sides of its bounds, from JSON and from text, what is absent, what is
 * unknown, and the way back to JSON. The rules are those of record.h and of bodies.md.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "keel/contract.h"
#include "keel/record.h"
#include "keel/text.h"

/* ---- a record of every type ---- */

#define LEVEL(X, S)                                                                                \
    X(S, DEC, price, NULL, 0, 0, "price", "price")                                                 \
    X(S, I64, count, "1", 1, 9, "", "orders")                                                      \
    X(S, STR, note, KEEL_OPT, 0, 4, "", "note")
KEEL_RECORD(level, LEVEL);
KEEL_RECORD_TABLE(level, LEVEL);

#define ALL(X, S)                                                                                  \
    X(S, BOOL, flag, KEEL_OPT, 0, 0, "", "")                                                       \
    X(S, I64, i, KEEL_OPT, -5, 100, "", "")                                                        \
    X(S, I64, from_one, KEEL_OPT, 1, 0, "", "")                                                    \
    X(S, I64, any, KEEL_OPT, 0, 0, "", "")                                                         \
    X(S, F64, f, KEEL_OPT, 0.5, 0.9999, "fraction", "")                                            \
    X(S, F64, f_any, KEEL_OPT, 0, 0, "", "")                                                       \
    X(S, DEC, d, KEEL_OPT, 1e-9, 9.2e9, "price", "")                                               \
    X(S, DEC, d_any, KEEL_OPT, 0, 0, "price", "")                                                  \
    X(S, MONEY, m, KEEL_OPT, -1e15, 1e15, "currency", "")                                          \
    X(S, MONEY, m_any, KEEL_OPT, 0, 0, "currency", "")                                             \
    X(S, TIME, t, KEEL_OPT, 0, 0, "", "")                                                          \
    X(S, ENUM, e, KEEL_OPT, 0, 0, "BUY|SELL|buy_all", "")                                          \
    X(S, STR, s, KEEL_OPT, 2, 4, "", "")                                                           \
    X(S, JSON, j, KEEL_OPT, 0, 12, "", "")                                                         \
    X(S, F64S, fs, KEEL_OPT, 2, 3, "", "")                                                         \
    X(S, I64S, is, KEEL_OPT, 0, 3, "", "")                                                         \
    X(S, DECS, ds, KEEL_OPT, 0, 3, "", "")                                                         \
    X(S, STRS, ss, KEEL_OPT, 0, 3, "", "")                                                         \
    X(S, PAIRS, ps, KEEL_OPT, 0, 2, "", "")                                                        \
    X(S, REC(level), one, KEEL_OPT, 0, 0, "", "")                                                  \
    X(S, RECS(level), many, KEEL_OPT, 0, 2, "", "")                                                \
    X(S, MAP, map, KEEL_OPT, 0, 2, "", "")                                                         \
    X(S, LEGACY, old, KEEL_OPT, 0, 0, "", "")
KEEL_RECORD(all, ALL);
KEEL_RECORD_TABLE(all, ALL);

static struct keel_arena *arena;

static void setup(void)
{
    arena = keel_arena_new(4096);
}

static void teardown(void)
{
    keel_arena_free(arena);
}

static enum keel_status decode(const struct keel_fields *f, const char *text, void *out,
                               struct keel_ignored *ignored, struct keel_record_error *err)
{
    const struct keel_jval *v = NULL;
    const char *why = "";
    ck_assert_msg(keel_json_parse(arena, text, strlen(text), &v, &why) == KEEL_OK, "%s: %s", text, why);
    return keel_record_decode(f, arena, v, out, ignored, err);
}

static const char *encode(const struct keel_fields *f, const void *rec)
{
    struct keel_json w;
    keel_json_init(&w, arena, 0);
    keel_json_obj(&w, NULL);
    keel_record_encode(f, rec, &w);
    keel_json_end(&w);
    return keel_json_text(&w);
}

/* want: the record written again, or "code field" of the refusal. */
static void check(enum keel_status st, const struct keel_record_error *err, const struct all *rec,
                  const char *input, const char *want)
{
    const char *got = st == KEEL_OK ? encode(&all_fields, rec)
                                    : keel_arena_printf(arena, "%s %s", err->code, err->field);
    ck_assert_msg(strcmp(got, want) == 0, "%s\n gives %s\n not   %s", input, got, want);
    if (st != KEEL_OK)
        ck_assert_msg(strncmp(err->detail, err->field, strlen(err->field)) == 0, "%s", err->detail);
}

static const struct {
    const char *in, *want;
} json_case[] = {
    {"{}", "{}"},
    {"null", "{}"},
    {"[]", "wrong_type "},
    {"1", "wrong_type "},
    {"{\"i\":null,\"s\":null,\"one\":null,\"many\":null,\"old\":null}", "{}"},
    {"{\"nothing\":1}", "unknown_field nothing"},
    {"{\"nothing\":null}", "unknown_field nothing"},

    {"{\"flag\":true}", "{\"flag\":true}"},
    {"{\"flag\":false}", "{\"flag\":false}"},
    {"{\"flag\":1}", "wrong_type flag"},
    {"{\"flag\":\"true\"}", "wrong_type flag"},

    {"{\"i\":-5}", "{\"i\":-5}"},
    {"{\"i\":-6}", "out_of_range i"},
    {"{\"i\":100}", "{\"i\":100}"},
    {"{\"i\":101}", "out_of_range i"},
    {"{\"i\":\"42\"}", "{\"i\":42}"},
    {"{\"i\":\"\"}", "wrong_type i"},
    {"{\"i\":\" 4\"}", "wrong_type i"},
    {"{\"i\":1.5}", "wrong_type i"},
    {"{\"i\":true}", "wrong_type i"},
    {"{\"i\":[1]}", "wrong_type i"},
    {"{\"from_one\":0}", "out_of_range from_one"},
    {"{\"from_one\":1}", "{\"from_one\":1}"},
    {"{\"from_one\":9223372036854775807}", "{\"from_one\":9223372036854775807}"},
    {"{\"any\":-9223372036854775808}", "{\"any\":-9223372036854775808}"},
    {"{\"any\":9007199254740993}", "{\"any\":9007199254740993}"},
    {"{\"any\":9223372036854775808}", "out_of_range any"},

    {"{\"f\":0.5}", "{\"f\":0.5}"},
    {"{\"f\":0.49999999999999}", "out_of_range f"},
    {"{\"f\":0.9999}", "{\"f\":0.9999}"},
    {"{\"f\":0.99991}", "out_of_range f"},
    {"{\"f\":\"0.75\"}", "{\"f\":0.75}"},
    {"{\"f\":\"x\"}", "wrong_type f"},
    {"{\"f_any\":-1e300}", "{\"f_any\":-1e+300}"},
    {"{\"f_any\":1e309}", "out_of_range f_any"},
    {"{\"f_any\":\"NaN\"}", "wrong_type f_any"},
    {"{\"f_any\":{}}", "wrong_type f_any"},

    {"{\"d\":1e-9}", "{\"d\":\"0.000000001\"}"},
    {"{\"d\":0}", "out_of_range d"},
    {"{\"d\":9200000000}", "{\"d\":\"9200000000\"}"},
    {"{\"d\":9200000000.000000001}", "out_of_range d"},
    {"{\"d\":61659.7}", "{\"d\":\"61659.7\"}"},
    {"{\"d\":\"61659.7\"}", "{\"d\":\"61659.7\"}"},
    {"{\"d\":1E5}", "{\"d\":\"100000\"}"},
    {"{\"d\":0.1234567891}", "inexact d"},
    {"{\"d\":\"0.1234567891\"}", "inexact d"},
    {"{\"d\":1e999999999}", "inexact d"},
    {"{\"d\":\"abc\"}", "wrong_type d"},
    {"{\"d\":false}", "wrong_type d"},
    {"{\"d_any\":-0}", "{\"d_any\":\"0\"}"},
    {"{\"d_any\":-9223372036.854775808}", "{\"d_any\":\"-9223372036.854775808\"}"},
    {"{\"d_any\":9223372036.854775807}", "{\"d_any\":\"9223372036.854775807\"}"},
    {"{\"d_any\":9223372036.854775808}", "out_of_range d_any"},

    {"{\"m\":1000000000000000}", "{\"m\":\"1000000000000000\"}"},
    {"{\"m\":1000000000000000.000000001}", "out_of_range m"},
    {"{\"m\":\"-1000000000000000\"}", "{\"m\":\"-1000000000000000\"}"},
    {"{\"m\":\"-1000000000000000.000000001\"}", "out_of_range m"},
    {"{\"m_any\":\"170141183460469231731687303715.884105727\"}",
     "{\"m_any\":\"170141183460469231731687303715.884105727\"}"},
    {"{\"m_any\":\"170141183460469231731687303715.884105728\"}", "inexact m_any"},
    {"{\"m_any\":0.0000000001}", "inexact m_any"},

    {"{\"t\":\"2026-11-22T17:51:04.12+01:00\"}", "{\"t\":\"2026-11-22T16:51:04.120000000Z\"}"},
    {"{\"t\":1795369864120000001}", "{\"t\":\"2026-11-22T17:51:04.120000001Z\"}"},
    {"{\"t\":\"1795369864120000001\"}", "{\"t\":\"2026-11-22T17:51:04.120000001Z\"}"},
    {"{\"t\":1.5}", "wrong_type t"},
    {"{\"t\":\"yesterday\"}", "wrong_type t"},
    {"{\"t\":{}}", "wrong_type t"},

    {"{\"e\":\"SELL\"}", "{\"e\":\"SELL\"}"},
    {"{\"e\":\"sell\"}", "{\"e\":\"SELL\"}"},
    {"{\"e\":\"BUY_ALL\"}", "{\"e\":\"buy_all\"}"},
    {"{\"e\":\"BU\"}", "bad_enum e"},
    {"{\"e\":\"BUY|SELL\"}", "bad_enum e"},
    {"{\"e\":\"\"}", "bad_enum e"},
    {"{\"e\":1}", "bad_enum e"},

    {"{\"s\":\"a\"}", "too_short s"},
    {"{\"s\":\"ab\"}", "{\"s\":\"ab\"}"},
    {"{\"s\":\"abcd\"}", "{\"s\":\"abcd\"}"},
    {"{\"s\":\"abcde\"}", "too_long s"},
    {"{\"s\":\"\\u20ac\\u20ac\"}", "too_long s"},
    {"{\"s\":12}", "wrong_type s"},

    {"{\"j\":[1, {} ]}", "{\"j\":[1, {} ]}"},
    {"{\"j\":{\"a\": 1}}", "{\"j\":{\"a\": 1}}"},
    {"{\"j\":\"\\u0041\\\"\"}", "{\"j\":\"A\\\"\"}"},
    {"{\"j\":1.50}", "{\"j\":1.50}"},
    {"{\"j\":false}", "{\"j\":false}"},
    {"{\"j\":[1,2,3,4,56]}", "{\"j\":[1,2,3,4,56]}"},
    {"{\"j\":[1,2,3,4,567]}", "too_long j"},

    {"{\"fs\":[1]}", "too_few fs"},
    {"{\"fs\":[1,\"2.5\"]}", "{\"fs\":[1,2.5]}"},
    {"{\"fs\":[1,2,3]}", "{\"fs\":[1,2,3]}"},
    {"{\"fs\":[1,2,3,4]}", "too_many fs"},
    {"{\"fs\":[1,null]}", "wrong_type fs[1]"},
    {"{\"fs\":[1,2,1e400]}", "out_of_range fs[2]"},
    {"{\"fs\":1}", "wrong_type fs"},
    {"{\"is\":[]}", "{\"is\":[]}"},
    {"{\"is\":[9223372036854775807,-1]}", "{\"is\":[9223372036854775807,-1]}"},
    {"{\"is\":[1,1.5]}", "wrong_type is[1]"},
    {"{\"ds\":[0.1,\"2\"]}", "{\"ds\":[\"0.1\",\"2\"]}"},
    {"{\"ds\":[1e-10]}", "inexact ds[0]"},
    {"{\"ss\":[\"a\",\"\"]}", "{\"ss\":[\"a\",\"\"]}"},
    {"{\"ss\":[\"a\",1]}", "wrong_type ss[1]"},
    {"{\"ss\":[\"a\",\"b\",\"c\",\"d\"]}", "too_many ss"},

    {"{\"ps\":[[1,\"2\"],[0.5,0]]}", "{\"ps\":[[\"1\",\"2\"],[\"0.5\",\"0\"]]}"},
    {"{\"ps\":[[1,2],[3]]}", "wrong_type ps[1]"},
    {"{\"ps\":[[1,2,3]]}", "wrong_type ps[0]"},
    {"{\"ps\":[[1,1e-10]]}", "inexact ps[0][1]"},
    {"{\"ps\":[1]}", "wrong_type ps[0]"},
    {"{\"ps\":[[1,1],[1,1],[1,1]]}", "too_many ps"},

    {"{\"one\":{\"price\":2}}", "{\"one\":{\"price\":\"2\",\"count\":1}}"},
    {"{\"one\":{\"note\":\"x\",\"price\":2,\"count\":9}}",
     "{\"one\":{\"price\":\"2\",\"count\":9,\"note\":\"x\"}}"},
    {"{\"one\":{}}", "missing one.price"},
    {"{\"one\":{\"price\":2,\"count\":10}}", "out_of_range one.count"},
    {"{\"one\":{\"price\":2,\"x\":10}}", "unknown_field one.x"},
    {"{\"one\":[]}", "wrong_type one"},
    {"{\"many\":[]}", "{\"many\":[]}"},
    {"{\"many\":[{\"price\":1},{\"price\":2,\"count\":3}]}",
     "{\"many\":[{\"price\":\"1\",\"count\":1},{\"price\":\"2\",\"count\":3}]}"},
    {"{\"many\":[{\"price\":1},{\"note\":\"abcde\",\"price\":1}]}", "too_long many[1].note"},
    {"{\"many\":[{\"price\":1},null]}", "wrong_type many[1]"},
    {"{\"many\":[{\"price\":1},{\"price\":1},{\"price\":1}]}", "too_many many"},

    {"{\"map\":{}}", "{\"map\":{}}"},
    {"{\"map\":{\"sma\":1.5,\"x y\":-2}}", "{\"map\":{\"sma\":1.5,\"x y\":-2}}"},
    {"{\"map\":{\"a\":1,\"b\":2,\"c\":3}}", "too_many map"},
    {"{\"map\":{\"a\":\"x\"}}", "wrong_type map.a"},
    {"{\"map\":{\"a\":null}}", "wrong_type map.a"},
    {"{\"map\":[]}", "wrong_type map"},
};

START_TEST(from_json)
{
    struct all rec;
    struct keel_record_error err = {0};
    enum keel_status st = decode(&all_fields, json_case[_i].in, &rec, NULL, &err);
    check(st, &err, &rec, json_case[_i].in, json_case[_i].want);
}
END_TEST

static const struct {
    const char *name, *text, *want;
} text_case[] = {
    {"flag", "TRUE", "{\"flag\":true}"},
    {"flag", "yes", "{\"flag\":true}"},
    {"flag", "1", "{\"flag\":true}"},
    {"flag", "off", "{\"flag\":false}"},
    {"flag", "0", "{\"flag\":false}"},
    {"flag", "No", "{\"flag\":false}"},
    {"flag", "2", "wrong_type flag"},
    {"flag", "", "wrong_type flag"},
    {"i", "100", "{\"i\":100}"},
    {"i", "101", "out_of_range i"},
    {"i", "ten", "wrong_type i"},
    {"f", "0.5", "{\"f\":0.5}"},
    {"d", "61659.7", "{\"d\":\"61659.7\"}"},
    {"d", "1e-10", "inexact d"},
    {"m", "-0.5", "{\"m\":\"-0.5\"}"},
    {"t", "2026-11-22T17:51:04", "{\"t\":\"2026-11-22T17:51:04.000000000Z\"}"},
    {"e", "buy", "{\"e\":\"BUY\"}"},
    {"s", "12", "{\"s\":\"12\"}"},
    {"s", "", "too_short s"},
    {"s", "\xFF\xFE", "wrong_type s"},
    {"j", "[1]", "{\"j\":[1]}"},
    {"j", "[1", "wrong_type j"},
    {"j", "", "wrong_type j"},
    {"j", "1,2", "wrong_type j"},
    {"j", "1],[2", "wrong_type j"},
    {"fs", "1, 2.5", "{\"fs\":[1,2.5]}"},
    {"fs", "1,", "wrong_type fs[1]"},
    {"is", "1,2,3", "{\"is\":[1,2,3]}"},
    {"ds", "0.1", "{\"ds\":[\"0.1\"]}"},
    {"ss", " a b , c ", "{\"ss\":[\"a b\",\"c\"]}"},
    {"ss", "", "{\"ss\":[]}"},
    {"ss", "a,b,c,d", "too_many ss"},
    {"ps", "[[1,2]]", "{\"ps\":[[\"1\",\"2\"]]}"},
    {"one", "{\"price\":1}", "{\"one\":{\"price\":\"1\",\"count\":1}}"},
    {"one", "{}", "missing one.price"},
    {"map", "{\"a\":1}", "{\"map\":{\"a\":1}}"},
    {"old", "whatever", "{}"},
    {"other", "1", "unknown_field other"},
};

START_TEST(from_text)
{
    struct all rec;
    struct keel_record_error err = {0};
    memset(&rec, 0, sizeof rec);
    enum keel_status st =
        keel_record_set(&all_fields, arena, &rec, text_case[_i].name, text_case[_i].text, &err);
    check(st, &err, &rec, text_case[_i].text, text_case[_i].want);
}
END_TEST

#define DEEP(X, S) X(S, JSON, j, KEEL_OPT, 0, 0, "", "")
KEEL_RECORD(deep, DEEP);
KEEL_RECORD_TABLE(deep, DEEP);

/* ---- what is absent ---- */

#define DEFAULTS(X, S)                                                                             \
    X(S, STR, id, NULL, 1, 8, "", "")                                                              \
    X(S, I64, n, "7", 1, 9, "", "")                                                                \
    X(S, STRS, names, "a,b", 0, 9, "", "")                                                         \
    X(S, REC(level), top, "{\"price\":3}", 0, 0, "", "")                                           \
    X(S, REC(level), must, NULL, 0, 0, "", "")                                                     \
    X(S, REC(level), may, KEEL_OPT, 0, 0, "", "")                                                  \
    X(S, STR, free, KEEL_OPT, 0, 9, "", "")                                                        \
    X(S, JSON, raw, KEEL_OPT, 0, 9, "", "")                                                        \
    X(S, F64S, list, KEEL_OPT, 0, 9, "", "")
KEEL_RECORD(defaults, DEFAULTS);
KEEL_RECORD_TABLE(defaults, DEFAULTS);

START_TEST(absent)
{
    struct defaults r;
    struct keel_record_error err = {0};
    ck_assert_int_eq(decode(&defaults_fields, "{}", &r, NULL, &err), KEEL_INVALID);
    ck_assert_str_eq(err.code, "missing");
    ck_assert_str_eq(err.field, "id");
    ck_assert_str_eq(err.detail, "id is required");
    ck_assert_int_eq(keel_record_decode(&defaults_fields, arena, NULL, &r, NULL, &err), KEEL_INVALID);
    ck_assert_int_eq(decode(&defaults_fields, "{\"id\":\"x\"}", &r, NULL, &err), KEEL_INVALID);
    ck_assert_str_eq(err.field, "must");

    ck_assert_int_eq(decode(&defaults_fields, "{\"id\":\"x\",\"must\":{\"price\":1}}", &r, NULL, &err), KEEL_OK);
    ck_assert(r.has_id && r.has_n && r.has_names && r.has_top && r.has_must);
    ck_assert(!r.has_may && !r.has_free && !r.has_raw && !r.has_list);
    ck_assert_int_eq(r.n, 7);
    ck_assert_uint_eq(r.n_names, 2);
    ck_assert_str_eq(r.names[1], "b");
    ck_assert_int_eq(r.top.price, 3 * KEEL_SCALE);
    ck_assert_int_eq(r.top.count, 1);
    ck_assert_str_eq(r.top.note, "");
    ck_assert_int_eq(r.may.price, 0);
    ck_assert(!r.may.has_price);
    ck_assert_str_eq(r.free, "");
    ck_assert_str_eq(r.raw, "");
    ck_assert_uint_eq(r.n_list, 0);
}
END_TEST

/* Options: the sources one after the other, defaults last, a later source overrules. */
START_TEST(set_then_finish)
{
    struct defaults r;
    struct keel_record_error err = {0};
    memset(&r, 0, sizeof r);
    ck_assert_int_eq(keel_record_set(&defaults_fields, arena, &r, "n", "3", &err), KEEL_OK);
    ck_assert_int_eq(keel_record_set(&defaults_fields, arena, &r, "n", "4", &err), KEEL_OK);
    ck_assert_int_eq(keel_record_finish(&defaults_fields, arena, &r, &err), KEEL_INVALID);
    ck_assert_str_eq(err.field, "id");
    ck_assert_int_eq(keel_record_set(&defaults_fields, arena, &r, "id", "x", &err), KEEL_OK);
    const char *first = "{\"price\":1,\"note\":\"old\",\"count\":5}";
    ck_assert_int_eq(keel_record_set(&defaults_fields, arena, &r, "must", first, &err), KEEL_OK);
    ck_assert_int_eq(keel_record_set(&defaults_fields, arena, &r, "must", "{\"price\":2}", &err), KEEL_OK);
    ck_assert_int_eq(keel_record_finish(&defaults_fields, arena, &r, &err), KEEL_OK);
    ck_assert_int_eq(r.n, 4);
    ck_assert_int_eq(r.must.price, 2 * KEEL_SCALE);
    ck_assert_int_eq(r.must.count, 1);
    ck_assert_str_eq(r.must.note, "");
}
END_TEST

/* ---- fields nobody uses ---- */

#define LOOSE(X, S)                                                                                \
    X(S, I64, n, KEEL_OPT, 0, 0, "", "")                                                           \
    X(S, LEGACY, old, KEEL_OPT, 0, 0, "", "")                                                      \
    X(S, REST, rest, KEEL_OPT, 0, 0, "", "")
KEEL_RECORD(loose, LOOSE);
KEEL_RECORD_TABLE(loose, LOOSE);
#define OUTER(X, S) X(S, RECS(loose), data, NULL, 0, 0, "", "")
KEEL_RECORD(outer, OUTER);
KEEL_RECORD_TABLE(outer, OUTER);

START_TEST(ignored)
{
    struct outer r;
    struct keel_ignored ig = {.n = 0};
    struct keel_record_error err = {0};
    const char *text = "{\"data\":[{\"n\":1},{\"old\":[1],\"rest\":2,\"x\":{\"y\":1}}]}";
    ck_assert_int_eq(decode(&outer_fields, text, &r, &ig, &err), KEEL_OK);
    ck_assert_uint_eq(ig.n, 3);
    ck_assert_str_eq(ig.names[0], "data[1].old");
    ck_assert_str_eq(ig.names[1], "data[1].rest");
    ck_assert_str_eq(ig.names[2], "data[1].x");
    ck_assert(r.data[0].has_n && !r.data[0].has_old && !r.data[0].has_rest);
    ck_assert(!r.data[1].has_n && r.data[1].has_old && r.data[1].has_rest);
    ck_assert_int_eq(decode(&outer_fields, text, &r, NULL, &err), KEEL_OK);

    /* More of them than there is room to name. */
    struct keel_json w;
    struct loose l;
    keel_json_init(&w, arena, 0);
    keel_json_obj(&w, NULL);
    for (int i = 0; i < 40; i++)
        keel_json_i64(&w, keel_arena_printf(arena, "x%d", i), i);
    keel_json_end(&w);
    ig.n = 0;
    ck_assert_int_eq(decode(&loose_fields, keel_json_text(&w), &l, &ig, &err), KEEL_OK);
    ck_assert_uint_eq(ig.n, 32);
}
END_TEST

/* ---- details and lookups ---- */

START_TEST(details)
{
    static const struct {
        const char *in, *detail;
    } row[] = {
        {"{\"f\":2}", "f must be between 0.5 and 0.9999"},
        {"{\"from_one\":0}", "from_one must be at least 1"},
        {"{\"e\":\"HOLD\"}", "e must be one of BUY|SELL|buy_all"},
        {"{\"s\":\"abcde\"}", "s must have at most 4 bytes"},
        {"{\"fs\":[]}", "fs must have at least 2 elements"},
        {"{\"d\":0.1234567891}", "d cannot be kept exactly: give a string with at most 9 decimals"},
        {"{\"x\":1}", "x is not a field of all"},
        {"[]", "the value must be a JSON object"},
    };
    for (size_t i = 0; i < KEEL_COUNT(row); i++) {
        struct all rec;
        struct keel_record_error err = {0};
        const struct keel_jval *v = NULL;
        const char *why;
        ck_assert_int_eq(keel_json_parse(arena, row[i].in, strlen(row[i].in), &v, &why), KEEL_OK);
        ck_assert_int_eq(keel_record_decode(&all_fields, arena, v, &rec, NULL, &err), KEEL_INVALID);
        ck_assert_str_eq(err.detail, row[i].detail);
        ck_assert_int_eq(keel_record_decode(&all_fields, arena, v, &rec, NULL, NULL), KEEL_INVALID);
    }
}
END_TEST

START_TEST(enums)
{
    char name[16];
    const struct keel_field *row = keel_field_find(&all_fields, "e");
    ck_assert_str_eq(keel_enum_name(row, 0, name, sizeof name), "BUY");
    ck_assert_str_eq(keel_enum_name(row, 2, name, sizeof name), "buy_all");
    ck_assert_int_eq(keel_enum_index("a|A|b", "A", 1), 1);
    ck_assert_int_eq(keel_enum_index("a|A|b", "B", 1), 2);
    ck_assert_int_eq(keel_enum_index("a|A|b", "", 0), -1);
    ck_assert_int_eq(keel_enum_index("a|A|b", "a|A", 3), -1);
    ck_assert_ptr_null(keel_field_find(&loose_fields, "rest"));
    ck_assert_ptr_nonnull(keel_field_find(&loose_fields, "old"));
}
END_TEST

/* What a record points at outlives the tree and the text it was read from. */
START_TEST(owns_its_memory)
{
    struct keel_arena *tree = keel_arena_new(64);
    char *text = strdup("{\"s\":\"abc\",\"j\":[1,2],\"ss\":[\"x\"],\"map\":{\"k\":1}}");
    const struct keel_jval *v = NULL;
    const char *why;
    struct all rec;
    ck_assert_int_eq(keel_json_parse(tree, text, strlen(text), &v, &why), KEEL_OK);
    ck_assert_int_eq(keel_record_decode(&all_fields, arena, v, &rec, NULL, NULL), KEEL_OK);
    memset(text, '#', strlen(text));
    free(text);
    keel_arena_free(tree);
    ck_assert_str_eq(encode(&all_fields, &rec), "{\"s\":\"abc\",\"j\":[1,2],\"ss\":[\"x\"],\"map\":{\"k\":1}}");
    ck_assert_uint_eq(rec.n_j, 5);
}
END_TEST

/* As deep as JSON may be, a value from text would not fit into the object of its record. */
START_TEST(deep_text)
{
    static const char *const text[] = {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
                                       "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"};
    for (size_t i = 0; i < KEEL_COUNT(text); i++) {
        struct deep rec;
        struct keel_record_error err = {0};
        memset(&rec, 0, sizeof rec);
        enum keel_status st = keel_record_set(&deep_fields, arena, &rec, "j", text[i], &err);
        ck_assert_int_eq(st, strlen(text[i]) == 62 ? KEEL_OK : KEEL_INVALID);
        if (st == KEEL_OK)
            ck_assert_int_eq(decode(&deep_fields, encode(&deep_fields, &rec), &rec, NULL, &err), KEEL_OK);
    }
}
END_TEST

/* ---- the contract ---- */

static const char fill_text[] =
    "{\"trade_id\":\"PAPER-7781\",\"client_order_id\":\"desk-20261122-0001\",\"strategy_id\":\"manual\","
    "\"venue\":\"paper\",\"portfolio_id\":\"main\",\"symbol\":\"BTCUSDT\",\"side\":\"BUY\",\"quantity\":\"0.5\","
    "\"price\":\"61659.8\",\"fee\":{\"amount\":\"12.33196\",\"currency\":\"USDT\"},\"fill_no\":1,"
    "\"ts_event\":\"2026-11-22T17:51:04.123456789Z\"}";

START_TEST(fill)
{
    struct keel_fill f;
    struct keel_record_error err = {0};
    ck_assert_int_eq(decode(&keel_fill_fields, fill_text, &f, NULL, &err), KEEL_OK);
    ck_assert_str_eq(f.venue, "paper");
    ck_assert_int_eq(f.price, 61659800000000);
    ck_assert(f.fee.amount == 12331960000);
    ck_assert_int_eq(f.ts_event, 1795369864123456789);
    ck_assert(!f.has_liquidity);
    ck_assert_str_eq(encode(&keel_fill_fields, &f), fill_text);
}
END_TEST

/* No record of the system has a default that its own bounds refuse. */
START_TEST(defaults_are_valid)
{
    size_t n;
    const struct keel_topic *topics = keel_topics(&n);
    for (size_t i = 0; i < n; i++) {
        const struct keel_fields *f = topics[i].fields;
        void *rec = keel_arena_alloc(arena, f->size);
        for (size_t k = 0; k < f->n; k++) {
            const char *text = f->rows[k].dflt;
            struct keel_record_error err = {.detail = ""};
            if (text != NULL && text[0] != KEEL_OPT[0])
                ck_assert_msg(keel_record_set(f, arena, rec, f->rows[k].name, text, &err) == KEEL_OK,
                              "%s: %s", f->name, err.detail);
        }
    }
}
END_TEST

START_TEST(topics)
{
    static const struct {
        const char *name, *record;
        bool durable;
        enum keel_lane lane;
    } row[] = {
        {"marketdata.quote", "keel_quote", false, KEEL_LANE_NORMAL},
        {"marketdata.priority.bar", "keel_bar", false, KEEL_LANE_PRIORITY},
        {"strategy.critical.order", "keel_order", true, KEEL_LANE_CRITICAL},
        {"strategy.critical.fill", "keel_fill", true, KEEL_LANE_CRITICAL},
        {"portfolio.priority.position", "keel_position", true, KEEL_LANE_PRIORITY},
        {"portfolio.critical.adjustment", "keel_adjustment", true, KEEL_LANE_CRITICAL},
        {"ml.critical.breaker", "keel_breaker_event_rec", false, KEEL_LANE_CRITICAL},
    };
    size_t n, breakers = 0;
    const struct keel_topic *all = keel_topics(&n);
    for (size_t i = 0; i < KEEL_COUNT(row); i++) {
        const struct keel_topic *t = keel_topic_find(row[i].name);
        ck_assert_msg(t != NULL, "%s", row[i].name);
        ck_assert_str_eq(t->fields->name, row[i].record);
        ck_assert(t->durable == row[i].durable);
        ck_assert_int_eq(keel_topic_lane(t->name), row[i].lane);
    }
    for (size_t i = 0; i < n; i++) {
        breakers += strstr(all[i].name, ".critical.breaker") != NULL;
        ck_assert_ptr_eq(keel_topic_find(all[i].name), &all[i]);
    }
    ck_assert_uint_eq(breakers, 9);
    ck_assert_ptr_null(keel_topic_find("marketdata"));
    ck_assert_int_eq(keel_topic_lane("critical"), KEEL_LANE_NORMAL);
    ck_assert_int_eq(keel_topic_lane("user.note.critical.x"), KEEL_LANE_NORMAL);
}
END_TEST

/* ---- the arena below it all ---- */

START_TEST(arena_blocks)
{
    struct keel_arena *a = keel_arena_new(256);
    ck_assert_uint_eq(keel_arena_used(a), 0);
    for (int round = 0; round < 3; round++) {
        for (size_t size = 0; size < 400; size++) {
            unsigned char *p = keel_arena_alloc(a, size);
            ck_assert_uint_eq((uintptr_t)p % 16, 0);
            for (size_t i = 0; i < size; i++)
                ck_assert_uint_eq(p[i], 0);
            memset(p, 0xAA, size);
        }
        ck_assert_uint_ge(keel_arena_used(a), 400 * 399 / 2);
        keel_arena_reset(a);
        ck_assert_uint_eq(keel_arena_used(a), 0);
    }
    char *longer = keel_arena_printf(a, "%0500d|%s", 7, "end");
    ck_assert_uint_eq(strlen(longer), 504);
    ck_assert_str_eq(longer + 499, "7|end");
    ck_assert_str_eq(keel_arena_strndup(a, "abcdef", 3), "abc");
    keel_arena_free(a);
    keel_arena_free(NULL);
}
END_TEST

START_TEST(text_grows)
{
    struct keel_text t;
    keel_text_init(&t, arena, 0);
    ck_assert_str_eq(t.buf, "");
    for (int i = 0; i < 1000; i++)
        keel_text_add(&t, "%d,", i);
    ck_assert_uint_eq(t.len, 10 * 2 + 90 * 3 + 900 * 4);
    ck_assert_uint_eq(strlen(t.buf), t.len);
    ck_assert_str_eq(t.buf + t.len - 8, "998,999,");
    ck_assert_int_eq(strncmp(t.buf, "0,1,2,", 6), 0);
}
END_TEST

/* Names are a second list beside that of status.h: each is its enumerator in lower case. */
START_TEST(statuses)
{
    static const char *const upper[] = {
#define X(name, http, counts, text) #name,
        KEEL_STATUS_MAP(X)
#undef X
    };
    for (int st = 0; st < KEEL_N_STATUS; st++) {
        const char *name = keel_status_name((enum keel_status)st);
        ck_assert_int_eq(strcasecmp(name, upper[st]), 0);
        ck_assert_uint_eq(strcspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"), strlen(name));
    }
    ck_assert_int_eq(keel_status_http(KEEL_SHED), 503);
    ck_assert(keel_status_counts(KEEL_TIMEOUT) && !keel_status_counts(KEEL_CANCELLED));
    ck_assert_str_eq(keel_status_text(KEEL_OPEN), "circuit open");
}
END_TEST

START_TEST(array_too_large)
{
    keel_arena_array(arena, SIZE_MAX / 8, 16);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("record");
    TCase *tc = tcase_create("record");
    suite_add_tcase(s, tc);
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, from_json, 0, KEEL_COUNT(json_case));
    tcase_add_loop_test(tc, from_text, 0, KEEL_COUNT(text_case));
    tcase_add_test(tc, absent);
    tcase_add_test(tc, set_then_finish);
    tcase_add_test(tc, ignored);
    tcase_add_test(tc, details);
    tcase_add_test(tc, enums);
    tcase_add_test(tc, owns_its_memory);
    tcase_add_test(tc, deep_text);
    tcase_add_test(tc, fill);
    tcase_add_test(tc, defaults_are_valid);
    tcase_add_test(tc, topics);
    tcase_add_test(tc, arena_blocks);
    tcase_add_test(tc, text_grows);
    tcase_add_test(tc, statuses);
    tcase_add_test_raise_signal(tc, array_too_large, 6); /* SIGABRT */
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
