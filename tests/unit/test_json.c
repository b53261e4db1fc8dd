/*
 * JSON in and out. What is valid is RFC 8259, narrowed by json.h (depth, \u0000, duplicate names);
 * well-formed UTF-8 is table 3-7 of the Unicode standard.
 */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cjson/cJSON.h>

#include "keel/json.h"
#include "keel/rng.h"
#include "sanitized.h"

static struct keel_arena *arena;

static void setup(void)
{
    arena = keel_arena_new(4096);
}

static void teardown(void)
{
    keel_arena_free(arena);
}

/* Parses a copy of exactly n bytes, so that the sanitizer sees a read beyond them. */
static enum keel_status parse(const char *text, size_t n, const struct keel_jval **out, const char **why)
{
    char *copy = malloc(n > 0 ? n : 1);
    memcpy(copy, text, n);
    enum keel_status st = keel_json_parse(arena, copy, n, out, why);
    free(copy);
    return st;
}

static const struct keel_jval *parse_ok(const char *text)
{
    const struct keel_jval *v = NULL;
    const char *why = "";
    enum keel_status st = keel_json_parse(arena, text, strlen(text), &v, &why);
    ck_assert_msg(st == KEEL_OK, "%s: %s", text, why);
    return v;
}

static const char *again(const struct keel_jval *v)
{
    struct keel_json w;
    keel_json_init(&w, arena, 0);
    keel_json_val(&w, NULL, v);
    return keel_json_text(&w);
}

/* ---- reading ---- */

static const struct {
    const char *text, *again;
} good[] = {
    {"null", "null"},
    {" \t\r\n true ", "true"},
    {"false", "false"},
    {"0", "0"},
    {"-0", "-0"},
    {"-0.5e-3", "-0.5e-3"},
    {"1E+5", "1E+5"},
    {"123456789012345678901234567890", "123456789012345678901234567890"},
    {"9007199254740993", "9007199254740993"},
    {"\"\"", "\"\""},
    {"\"a\\u0041\\n\\/\\\\\\\"\"", "\"aA\\n/\\\\\\\"\""},
    {"\"\\u20ac \xE2\x82\xAC \\ud834\\udd1e\"", "\"\xE2\x82\xAC \xE2\x82\xAC \xF0\x9D\x84\x9E\""},
    {"\"\xF4\x8F\xBF\xBF\"", "\"\xF4\x8F\xBF\xBF\""},
    {"\"\\u001f\x7F\"", "\"\\u001f\x7F\""},
    {"[]", "[]"},
    {"{}", "{}"},
    {"[ ]", "[]"},
    {"[1, [2,[ ]] ,\"x,]\"]", "[1,[2,[]],\"x,]\"]"},
    {" { \"a\" : { \"b\" : [ 1 , 2.50 ] } , \"c\\\"}\" : null } ", "{\"a\":{\"b\":[1,2.50]},\"c\\\"}\":null}"},
    {"{\"a\":1,\"A\":2,\"\":3}", "{\"a\":1,\"A\":2,\"\":3}"},
};

START_TEST(reads)
{
    ck_assert_str_eq(again(parse_ok(good[_i].text)), good[_i].again);
}
END_TEST

/* why: a part of the sentence. */
static const struct {
    const char *text;
    size_t n; /* 0: strlen */
    const char *why;
} bad[] = {
    {" ", 0, "malformed"},
    {"01", 0, "number"},
    {"-01", 0, "number"},
    {"1.", 0, "number"},
    {"[.5]", 0, "unexpected"},
    {"+1", 0, "unexpected"},
    {"-", 0, "number"},
    {"--1", 0, "number"},
    {"1e", 0, "number"},
    {"1e+", 0, "number"},
    {"1.5.2", 0, "number"},
    {"1-2", 0, "number"},
    {"0x10", 0, "number"},
    {"1a", 0, "number"},
    {"NaN", 0, "unexpected"},
    {"nan", 0, "unexpected"},
    {"Infinity", 0, "unexpected"},
    {"[-Infinity]", 0, "number"},
    {"0.00000000000000000000000000000000000000000000000000000000000001", 0, "63 characters"},
    {"tru", 0, "unexpected"},
    {"truefalse", 0, "follows"},
    {"nul", 0, "unexpected"},
    {"True", 0, "unexpected"},
    {"'a'", 0, "unexpected"},
    {"{a:1}", 0, "unexpected"},
    {"{\"a\":1", 0, "brackets"},
    {"{\"a\":1,", 0, "brackets"},
    {"{\"a\":1,}", 0, "malformed"},
    {"{\"a\"}", 0, "malformed"},
    {"{\"a\",1}", 0, "malformed"},
    {"{1:2}", 0, "malformed"},
    {"[1,]", 0, "malformed"},
    {"[,1]", 0, "malformed"},
    {"[1 2]", 0, "malformed"},
    {"[1:2]", 0, "malformed"},
    {"[1}", 0, "malformed"},
    {"{]", 0, "malformed"},
    {"][", 0, "malformed"},
    {"]", 0, "malformed"},
    {"[", 0, "brackets"},
    {"[1] 2", 0, "follows"},
    {"{} {}", 0, "follows"},
    {"1 ,", 0, "follows"},
    {"[1]\0", 4, "unexpected"},
    {"\xEF\xBB\xBF[]", 0, "unexpected"},
    {"[1]\x0B", 0, "unexpected"},
    {"// c\n1", 0, "unexpected"},
    {"\"", 0, "does not end"},
    {"\"abc", 0, "does not end"},
    {"\"abc\\", 0, "does not end"},
    {"\"abc\\\"", 0, "does not end"},
    {"\"\\u12", 0, "does not end"},
    {"\"\\q\"", 0, "malformed"},
    {"\"\\u12G4\"", 0, "hexadecimal"},
    {"\"\\u0000\"", 0, "u0000"},
    {"{\"\\u0000\":1}", 0, "u0000"},
    {"\"\\ud834\"", 0, "malformed"},
    {"\"\\udd1e\"", 0, "malformed"},
    {"\"\\ud834\\u0041\"", 0, "malformed"},
    {"\"a\nb\"", 0, "control"},
    {"\"a\0b\"", 5, "control"},
    {"\"\x80\"", 0, "UTF-8"},
    {"\"\xC0\xAF\"", 0, "UTF-8"},
    {"\"\xC2\"", 0, "UTF-8"},
    {"\"\xC2", 0, "UTF-8"},
    {"\"\xE0\x80\xAF\"", 0, "UTF-8"},
    {"\"\xED\xA0\x80\"", 0, "UTF-8"},
    {"\"\xE2\x82\"", 0, "UTF-8"},
    {"\"\xF0\x8F\xBF\xBF\"", 0, "UTF-8"},
    {"\"\xF4\x90\x80\x80\"", 0, "UTF-8"},
    {"\"\xF5\x80\x80\x80\"", 0, "UTF-8"},
    {"\"\xFF\"", 0, "UTF-8"},
    {"{\"a\":1,\"a\":2}", 0, "twice"},
    {"{\"a\":1,\"\\u0061\":2}", 0, "twice"},
    {"[{\"x\":{\"b\":1,\"c\":2,\"b\":3}}]", 0, "twice"},
};

START_TEST(refuses)
{
    const struct keel_jval *v = NULL;
    const char *why = NULL;
    size_t n = bad[_i].n > 0 ? bad[_i].n : strlen(bad[_i].text);
    ck_assert_msg(parse(bad[_i].text, n, &v, &why) == KEEL_INVALID, "accepted: %s", bad[_i].text);
    ck_assert_ptr_null(v);
    ck_assert_ptr_nonnull(why);
    ck_assert_msg(strstr(why, bad[_i].why) != NULL, "%s: %s", bad[_i].text, why);
}
END_TEST

START_TEST(refuses_empty)
{
    const struct keel_jval *v = NULL;
    const char *why = NULL;
    ck_assert_int_eq(keel_json_parse(arena, NULL, 0, &v, &why), KEEL_INVALID);
    ck_assert_str_eq(why, "the text is empty");
}
END_TEST

START_TEST(depth)
{
    char text[80];
    const struct keel_jval *v = NULL;
    const char *why = "";
    for (size_t deep = 31; deep <= 34; deep++) {
        memset(text, '[', deep);
        memset(text + deep, ']', deep);
        enum keel_status want = deep <= 32 ? KEEL_OK : KEEL_INVALID;
        ck_assert_int_eq(parse(text, 2 * deep, &v, &why), want);
    }
    ck_assert_ptr_nonnull(strstr(why, "deeper"));
}
END_TEST

/* A million brackets, names or digits are refused or read in time that grows with their number only. */
START_TEST(hostile_sizes)
{
    enum { MANY = 1000000 };
    char *text = malloc(MANY);
    const struct keel_jval *v = NULL;
    const char *why = "";
    memset(text, '[', MANY);
    ck_assert_int_eq(keel_json_parse(arena, text, MANY, &v, &why), KEEL_INVALID);
    memset(text, '9', MANY);
    ck_assert_int_eq(keel_json_parse(arena, text, MANY, &v, &why), KEEL_INVALID);

    struct keel_json w;
    for (int duplicate = 0; duplicate <= 1; duplicate++) {
        keel_json_init(&w, arena, 0);
        keel_json_obj(&w, NULL);
        for (int i = 0; i < 50000; i++)
            keel_json_i64(&w, keel_arena_printf(arena, "name%d", i - (i == 49999 && duplicate)), i);
        keel_json_end(&w);
        const char *all = keel_json_text(&w);
        clock_t start = clock();
        enum keel_status want = duplicate ? KEEL_INVALID : KEEL_OK;
        ck_assert_int_eq(keel_json_parse(arena, all, w.len, &v, &why), want);
        /* Comparing each with each takes 1.25e9 comparisons, many seconds. */
        ck_assert(clock() - start < 2 * CLOCKS_PER_SEC);
    }
    ck_assert_uint_eq(v->len, 50000);
    free(text);
}
END_TEST

START_TEST(tree)
{
    const char *text = " {\"s\":\"x\\ty\",\"n\":61659.70,\"t\":true,\"z\":null,\"o\":{ \"p\" : [1, 2] },\"e\":[ ]} ";
    const struct keel_jval *v = parse_ok(text), *c;
    ck_assert_int_eq(v->type, KEEL_JOBJ);
    ck_assert_uint_eq(v->len, 6);
    ck_assert_ptr_null(v->name);
    ck_assert_ptr_eq(v->raw, text + 1);
    ck_assert_uint_eq(v->raw_len, strlen(text) - 2);
    ck_assert_str_eq(keel_jstr(v, "s"), "x\ty");
    ck_assert_uint_eq(keel_jget(v, "s")->len, 3);
    ck_assert_str_eq(keel_jstr(v, "n"), "");
    ck_assert_str_eq(keel_jstr(v, "absent"), "");
    c = keel_jget(v, "n");
    ck_assert_int_eq(c->type, KEEL_JNUM);
    ck_assert_uint_eq(c->len, 8);
    ck_assert_str_eq(c->text, "61659.70");
    ck_assert_str_eq(c->name, "n");
    ck_assert(keel_jget(v, "t")->type == KEEL_JBOOL && keel_jget(v, "t")->boolean);
    ck_assert_int_eq(keel_jget(v, "z")->type, KEEL_JNULL);
    c = keel_jget(v, "o");
    ck_assert(c->raw_len == 16 && memcmp(c->raw, "{ \"p\" : [1, 2] }", 16) == 0);
    c = keel_jget(c, "p");
    ck_assert(c->raw_len == 6 && memcmp(c->raw, "[1, 2]", 6) == 0);
    ck_assert_str_eq(c->child->next->text, "2");
    ck_assert_ptr_null(c->child->next->next);
    c = keel_jget(v, "e");
    ck_assert(c->len == 0 && c->child == NULL && c->raw_len == 3);
    ck_assert_ptr_null(keel_jget(NULL, "x"));
    ck_assert_ptr_null(keel_jget(c, "x"));
}
END_TEST

static void *parse_often(void *arg)
{
    struct keel_arena *own = keel_arena_new(1024);
    for (int i = 0; i < 2000; i++) {
        const char *text = "{\"a\":[1,2,{\"b\":\"some longer text than a node\"}],\"c\":3.5}", *why;
        const struct keel_jval *v = NULL;
        keel_arena_reset(own);
        if (keel_json_parse(own, text, strlen(text), &v, &why) != KEEL_OK || v->len != 2)
            *(int *)arg = 1;
    }
    keel_arena_free(own);
    return NULL;
}

START_TEST(threads)
{
    pthread_t thread[4];
    int wrong[4] = {0};
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&thread[i], NULL, parse_often, &wrong[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        ck_assert_int_eq(wrong[i], 0);
    }
}
END_TEST

/* ---- beside cJSON, which is another's reading of the same text ---- */

static size_t random_text(struct keel_rng *r, char *to)
{
    static const char *const pieces[] = {"\\n", "\\\"", "\\u20ac", "\\ud83d\\ude00", "\xE2\x82\xAC",
                                         "\xF0\x9F\x98\x80", "\\/", "\x7F", "\\u0001", "\\\\", "a", "b", "0"};
    size_t n = 0;
    to[n++] = '"';
    for (uint64_t k = keel_rng_below(r, 24); k > 0; k--) {
        const char *piece = pieces[keel_rng_below(r, KEEL_COUNT(pieces))];
        memcpy(to + n, piece, strlen(piece));
        n += strlen(piece);
    }
    to[n++] = '"';
    return n;
}

static size_t random_json(struct keel_rng *r, char *to, int deep)
{
    static const char *const scalars[] = {"true", "false", "null", " 0", "-12.50 ", "\t1e5", "61659.7",
                                          "123456789012345"};
    uint64_t kind = keel_rng_below(r, deep > 0 ? 5 : 2), members = keel_rng_below(r, 20);
    size_t n = 0;
    if (kind == 0)
        return random_text(r, to);
    if (kind == 1)
        return (size_t)sprintf(to, "%s", scalars[keel_rng_below(r, KEEL_COUNT(scalars))]);
    to[n++] = kind == 2 ? '[' : '{';
    for (uint64_t i = 0; i < members; i++) {
        if (kind != 2)
            n += (size_t)sprintf(to + n, "\"k%d\" :", (int)i);
        n += random_json(r, to + n, deep - 1);
        n += (size_t)sprintf(to + n, i + 1 < members ? " ," : " ");
    }
    to[n++] = kind == 2 ? ']' : '}';
    return n;
}

static void same_tree(const struct keel_jval *v, const cJSON *node)
{
    const cJSON *c = node->child;
    if (v->name != NULL)
        ck_assert_str_eq(v->name, node->string);
    switch (v->type) {
    case KEEL_JNULL:
        ck_assert(cJSON_IsNull(node));
        break;
    case KEEL_JBOOL:
        ck_assert(v->boolean ? cJSON_IsTrue(node) : cJSON_IsFalse(node));
        break;
    case KEEL_JNUM:
        ck_assert(cJSON_IsNumber(node) && strtod(v->text, NULL) == node->valuedouble);
        break;
    case KEEL_JSTR:
        ck_assert(cJSON_IsString(node));
        ck_assert_str_eq(v->text, node->valuestring);
        ck_assert_uint_eq(v->len, strlen(v->text));
        break;
    default:
        ck_assert(v->type == KEEL_JARR ? cJSON_IsArray(node) : cJSON_IsObject(node));
        ck_assert_uint_eq(v->len, (size_t)cJSON_GetArraySize(node));
        for (const struct keel_jval *child = v->child; child != NULL; child = child->next, c = c->next)
            same_tree(child, c);
    }
}

/* Whole texts are read alike; of damaged ones cJSON takes whatever we take, and as the same. */
START_TEST(reads_like_cjson)
{
    static char text[4 << 20];
    struct keel_rng r;
    keel_rng_seed(&r, 5);
    for (int i = 0; i < 3000; i++) {
        size_t n = random_json(&r, text, (int)keel_rng_below(&r, 4));
        bool is_whole = i % 2 == 0;
        for (uint64_t k = is_whole ? 0 : 1 + keel_rng_below(&r, 3); k > 0; k--)
            text[keel_rng_below(&r, n)] = "\"\\{}[],:0x \x01\xE2"[keel_rng_below(&r, 13)];
        const struct keel_jval *v = NULL;
        const char *why = "";
        keel_arena_reset(arena);
        enum keel_status st = keel_json_parse(arena, text, n, &v, &why);
        ck_assert_msg(st == KEEL_OK || !is_whole, "%.*s: %s", (int)n, text, why);
        if (st != KEEL_OK)
            continue;
        cJSON *other = cJSON_ParseWithLength(text, n);
        ck_assert_msg(other != NULL, "cJSON refuses %.*s", (int)n, text);
        same_tree(v, other);
        cJSON_Delete(other);
    }
}
END_TEST

START_TEST(utf8)
{
    ck_assert(keel_utf8_valid("", 0));
    ck_assert(keel_utf8_valid("a\0\xC2\x80\xEF\xBF\xBF\xF0\x90\x80\x80", 11));
    ck_assert(!keel_utf8_valid("a\xC2", 2));
    ck_assert(!keel_utf8_valid("\xE2\x82\xC0", 3));
}
END_TEST

/* ---- writing ---- */

START_TEST(writes)
{
    struct keel_json w;
    keel_json_init(&w, arena, 0);
    keel_json_obj(&w, NULL);
    keel_json_str(&w, "s", "q\" b\\ \b\f\n\r\t \x01\x1F \x7F \xE2\x82\xAC bad\xFF\xC2");
    keel_json_str(&w, "none", NULL);
    keel_json_strn(&w, "k\"y", "abc", 2);
    keel_json_i64(&w, "min", INT64_MIN);
    keel_json_u64(&w, "max", UINT64_MAX);
    keel_json_arr(&w, "a");
    keel_json_bool(&w, NULL, true);
    keel_json_bool(&w, NULL, false);
    keel_json_obj(&w, NULL);
    keel_json_end(&w);
    keel_json_arr(&w, NULL);
    keel_json_end(&w);
    keel_json_null(&w, NULL);
    keel_json_end(&w);
    keel_json_dec(&w, "d", 500000000);
    keel_json_decnum(&w, "dn", -61659700000000);
    keel_json_money(&w, "m", (keel_i128)969157768040000);
    keel_json_moneynum(&w, "mn", -(keel_i128)1);
    keel_json_time(&w, "t", 1795369864120000000);
    keel_json_raw(&w, "r", "[1]", 3);
    keel_json_end(&w);
    ck_assert_str_eq(keel_json_text(&w),
                     "{\"s\":\"q\\\" b\\\\ \\b\\f\\n\\r\\t \\u0001\\u001f \x7F \xE2\x82\xAC "
                     "bad\xEF\xBF\xBD\xEF\xBF\xBD\","
                     "\"none\":null,\"k\\\"y\":\"ab\",\"min\":-9223372036854775808,\"max\":18446744073709551615,"
                     "\"a\":[true,false,{},[],null],\"d\":\"0.5\",\"dn\":-61659.7,\"m\":\"969157.76804\","
                     "\"mn\":-0.000000001,\"t\":\"2026-11-22T17:51:04.120000000Z\",\"r\":[1]}");
    ck_assert(!w.bad);
}
END_TEST

static const char *f64_text(double v, int digits, bool *is_bad)
{
    struct keel_json w;
    keel_json_init(&w, arena, 0);
    if (digits < 0)
        keel_json_f64(&w, NULL, v);
    else
        keel_json_fix(&w, NULL, v, digits);
    *is_bad = w.bad;
    return keel_json_text(&w);
}

/* Digits as Python's repr and round() give them (subnormals keep 15), without exponent where that is short. */
static const struct {
    double v;
    int digits; /* -1: all */
    const char *text;
} f64_case[] = {
    {0, -1, "0"},
    {-0.0, -1, "0"},
    {1, -1, "1"},
    {-2.5, -1, "-2.5"},
    {0.1, -1, "0.1"},
    {0.1 + 0.2, -1, "0.30000000000000004"},
    {61659.7, -1, "61659.7"},
    {12345678.000000001, -1, "12345678.000000002"},
    {1.0 / 3, -1, "0.3333333333333333"},
    {1e-7, -1, "0.0000001"},
    {1e15, -1, "1000000000000000"},
    {1e22, -1, "1e+22"},
    {1.7976931348623157e308, -1, "1.7976931348623157e+308"},
    {5e-324, -1, "5e-324"},
    {0.018123, 3, "0.018"},
    {61653.09631, 4, "61653.0963"},
    {2.5, 0, "2"},
    {-0.0001, 3, "0"},
    {100, 2, "100"},
    {99.999, 2, "100"},
    {-1.005, 1, "-1"},
    {1e300, 3, "1e+300"},
};

START_TEST(writes_f64)
{
    bool is_bad = true;
    ck_assert_str_eq(f64_text(f64_case[_i].v, f64_case[_i].digits, &is_bad), f64_case[_i].text);
    ck_assert(!is_bad);
}
END_TEST

/* Byte by byte, as it was before texts were looked at in words. */
static size_t quote_slowly(const char *s, size_t n, char *to)
{
    char *p = to;
    *p++ = '"';
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"' || s[i] == '\\')
            *p++ = '\\';
        if ((unsigned char)s[i] < 0x20)
            p += sprintf(p, s[i] == '\n' ? "\\n" : "\\u%04x", (unsigned)s[i]);
        else if ((unsigned char)s[i] < 0x80)
            *p++ = s[i];
        else
            p += sprintf(p, "\xEF\xBF\xBD");
    }
    *p++ = '"';
    *p = '\0';
    return (size_t)(p - to);
}

/* Every length up to 40, what has to be escaped at every place of it, as key and as value. */
START_TEST(quotes_everywhere)
{
    static const char special[] = "\"\\\n\x01\x1F\x7F\x80\xFF !#[]";
    char text[41], quoted[512], want[1200];
    for (size_t n = 0; n <= 40; n++) {
        for (size_t at = 0; at < n; at++) {
            for (size_t k = 0; k < sizeof special - 1; k++) {
                memset(text, 'z', n);
                text[n] = '\0';
                text[at] = special[k];
                text[n - 1 - at] = special[(k + at) % (sizeof special - 1)];
                quote_slowly(text, n, quoted);
                snprintf(want, sizeof want, "{%s:%s}", quoted, quoted);
                struct keel_json w;
                keel_arena_reset(arena);
                keel_json_init(&w, arena, 0);
                keel_json_obj(&w, NULL);
                keel_json_strn(&w, text, text, n);
                keel_json_end(&w);
                ck_assert_str_eq(keel_json_text(&w), want);
            }
        }
    }
}
END_TEST

/* Against printf: the digits before the place are those of the nearest multiple, which printf prints exactly. */
START_TEST(fixed_like_printf)
{
    struct keel_rng r;
    keel_rng_seed(&r, 12);
    for (int i = 0; i < CASES(50000); i++) {
        int digits = (int)keel_rng_below(&r, 7);
        double units = rint((keel_rng_f64(&r) - 0.5) * pow(10, (double)keel_rng_below(&r, 15)));
        double v = units / pow(10, digits);
        char want[64];
        bool is_bad;
        int n = snprintf(want, sizeof want, "%.*f", digits, v);
        while (digits > 0 && want[n - 1] == '0')
            n--;
        n -= want[n - 1] == '.';
        want[n] = '\0';
        keel_arena_reset(arena);
        ck_assert_str_eq(f64_text(v, digits, &is_bad), strcmp(want, "-0") == 0 ? "0" : want);
    }
}
END_TEST

START_TEST(writes_non_finite)
{
    bool is_bad = false;
    ck_assert_str_eq(f64_text(NAN, -1, &is_bad), "null");
    ck_assert(is_bad);
    is_bad = false;
    ck_assert_str_eq(f64_text(-INFINITY, 2, &is_bad), "null");
    ck_assert(is_bad);
}
END_TEST

START_TEST(f64_reads_back)
{
    struct keel_rng r;
    keel_rng_seed(&r, 11);
    for (int i = 0; i < CASES(50000); i++) {
        uint64_t bits = keel_rng_u64(&r);
        double v, got = 0;
        bool is_bad;
        memcpy(&v, &bits, sizeof v);
        if (i % 2 == 0)
            v = (keel_rng_f64(&r) - 0.5) * 1e6;
        if (!isfinite(v))
            continue;
        keel_arena_reset(arena);
        const char *text = f64_text(v, -1, &is_bad);
        ck_assert_int_eq(keel_f64_parse(text, strlen(text), &got), KEEL_OK);
        ck_assert_msg(got == v, "%s is not %.17g", text, v);
    }
}
END_TEST

/* The writer's misuse is a bug of ours and ends the process. */
START_TEST(member_without_name)
{
    struct keel_json w;
    keel_json_init(&w, arena, 0);
    keel_json_obj(&w, NULL);
    keel_json_i64(&w, NULL, 1);
}
END_TEST

START_TEST(not_closed)
{
    struct keel_json w;
    keel_json_init(&w, arena, 0);
    keel_json_arr(&w, NULL);
    keel_json_text(&w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("json");
    TCase *tc = tcase_create("json");
    suite_add_tcase(s, tc);
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, reads, 0, KEEL_COUNT(good));
    tcase_add_loop_test(tc, refuses, 0, KEEL_COUNT(bad));
    tcase_add_test(tc, refuses_empty);
    tcase_add_test(tc, depth);
    tcase_add_test(tc, hostile_sizes);
    tcase_add_test(tc, tree);
    tcase_add_test(tc, threads);
    tcase_add_test(tc, reads_like_cjson);
    tcase_add_test(tc, utf8);
    tcase_add_test(tc, writes);
    tcase_add_loop_test(tc, writes_f64, 0, KEEL_COUNT(f64_case));
    tcase_add_test(tc, quotes_everywhere);
    tcase_add_test(tc, fixed_like_printf);
    tcase_add_test(tc, writes_non_finite);
    tcase_add_test(tc, f64_reads_back);
    tcase_add_test_raise_signal(tc, member_without_name, 6); /* SIGABRT */
    tcase_add_test_raise_signal(tc, not_closed, 6);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
