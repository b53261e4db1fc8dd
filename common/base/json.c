/*
 * JSON in and out.
 *
 * Reading goes over the text three times: a strict scan of what cJSON is lenient about (numbers,
 * UTF-8, control characters, depth, \u0000), cJSON itself, and a walk that turns cJSON's tree into
 * ours while a cursor moves through the text, so that numbers keep their digits and objects their
 * extent. cJSON allocates from the caller's arena for the length of its parse and frees nothing.
 *
 * Writing appends to a buffer that doubles in an arena.
 */
#include "keel/json.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#define MOST_DEPTH 32
#define MOST_NUMBER 63 /* characters cJSON looks at */
#define FEW_MEMBERS 16

/* ---- UTF-8 ---- */

/* Bytes of the character at s, 1 to 4, or 0 when it is malformed; n > 0. */
static size_t utf8_length(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80)
        return 1;
    if (n < 2 || p[0] < 0xC2 || p[0] > 0xF4 || (p[1] & 0xC0) != 0x80)
        return 0;
    if (p[0] < 0xE0)
        return 2;
    if (n < 3 || (p[2] & 0xC0) != 0x80)
        return 0;
    /* Too short a code point, surrogates; then the same for four bytes, and beyond U+10FFFF. */
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F))
        return 0;
    if (p[0] < 0xF0)
        return 3;
    if (n < 4 || (p[3] & 0xC0) != 0x80)
        return 0;
    return (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F) ? 0 : 4;
}

bool keel_utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t step = utf8_length(s + i, n - i);
        if (step == 0)
            return false;
        i += step;
    }
    return true;
}

/* ---- the strict scan ---- */

struct scan {
    const char *start, *p, *end;
    const char *why; /* NULL while all is well */
};

static void refuse(struct scan *s, const char *why)
{
    if (s->why == NULL)
        s->why = why;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The four digits after "\u". cJSON takes wrong ones for 0, and 0 ends its string early. */
static void scan_unicode(struct scan *s)
{
    if (s->end - s->p < 4) {
        refuse(s, "a string does not end");
        return;
    }
    for (int i = 0; i < 4; i++) {
        if (!is_hex(s->p[i]))
            refuse(s, "\\u is not followed by four hexadecimal digits");
    }
    if (memcmp(s->p, "0000", 4) == 0)
        refuse(s, "\\u0000 is not accepted");
    s->p += 4;
}

static void scan_string(struct scan *s)
{
    for (s->p++; s->why == NULL && s->p < s->end;) {
        unsigned char c = (unsigned char)*s->p;
        if (c == '"') {
            s->p++;
            return;
        }
        if (c < 0x20) {
            refuse(s, "a string holds a control character");
        } else if (c == '\\') {
            bool is_unicode = s->end - s->p > 1 && s->p[1] == 'u';
            s->p += s->end - s->p > 1 ? 2 : 1;
            if (is_unicode)
                scan_unicode(s);
        } else {
            size_t step = utf8_length(s->p, (size_t)(s->end - s->p));
            if (step == 0)
                refuse(s, "the text is not valid UTF-8");
            s->p += step;
        }
    }
    refuse(s, "a string does not end");
}

static size_t scan_digits(struct scan *s)
{
    const char *from = s->p;
    while (s->p < s->end && is_digit(*s->p))
        s->p++;
    return (size_t)(s->p - from);
}

static bool scan_number_parts(struct scan *s)
{
    s->p += *s->p == '-';
    const char *whole = s->p;
    size_t n = scan_digits(s);
    if (n == 0 || (n > 1 && *whole == '0'))
        return false;
    if (s->p < s->end && *s->p == '.') {
        s->p++;
        if (scan_digits(s) == 0)
            return false;
    }
    if (s->p < s->end && (*s->p == 'e' || *s->p == 'E')) {
        s->p++;
        if (s->p < s->end && (*s->p == '+' || *s->p == '-'))
            s->p++;
        if (scan_digits(s) == 0)
            return false;
    }
    return s->p == s->end || is_space(*s->p) || strchr(",]}", *s->p) != NULL;
}

static void scan_number(struct scan *s)
{
    const char *from = s->p;
    if (!scan_number_parts(s))
        refuse(s, "a number is malformed");
    else if (s->p - from > MOST_NUMBER)
        refuse(s, "a number has more than 63 characters");
}

static void scan_word(struct scan *s)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < KEEL_COUNT(words); i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(s->end - s->p) >= n && memcmp(s->p, words[i], n) == 0) {
            s->p += n;
            return;
        }
    }
    refuse(s, "unexpected character");
}

/*
 * Checks each token by itself; how they follow one another is cJSON's business. Brackets must be
 * even at the end, because cJSON 1.7.15 reads one byte too many of an object that stops at a comma.
 */
static void scan_all(struct scan *s)
{
    int depth = 0;
    while (s->why == NULL && s->p < s->end) {
        char c = *s->p;
        if (c == '"') {
            scan_string(s);
        } else if (c == '-' || is_digit(c)) {
            scan_number(s);
        } else if (c == 't' || c == 'f' || c == 'n') {
            scan_word(s);
        } else if (c == '[' || c == '{') {
            if (++depth > MOST_DEPTH)
                refuse(s, "nested deeper than 32 levels");
            s->p++;
        } else if (is_space(c) || c == ',' || c == ':' || c == ']' || c == '}') {
            depth -= c == ']' || c == '}';
            s->p++;
        } else {
            refuse(s, "unexpected character");
        }
    }
    if (depth != 0)
        refuse(s, "brackets are not closed");
}

/* ---- cJSON on an arena ---- */

static _Thread_local struct keel_arena *parse_arena;
static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;

static void *hook_malloc(size_t n)
{
    return parse_arena != NULL ? keel_arena_alloc(parse_arena, n) : malloc(n);
}

static void hook_free(void *p)
{
    if (parse_arena == NULL)
        free(p);
}

static void set_hooks(void)
{
    cJSON_Hooks hooks = {hook_malloc, hook_free};
    cJSON_InitHooks(&hooks);
}

static const cJSON *parse_tree(struct keel_arena *a, struct scan *s)
{
    pthread_once(&hooks_once, set_hooks);
    const char *stop = NULL;
    parse_arena = a;
    const cJSON *tree = cJSON_ParseWithLengthOpts(s->start, (size_t)(s->end - s->start), &stop, false);
    parse_arena = NULL;
    s->p = stop != NULL ? stop : s->start;
    if (tree == NULL)
        refuse(s, "the JSON is malformed");
    while (tree != NULL && s->p < s->end && is_space(*s->p))
        s->p++;
    if (tree != NULL && s->p < s->end)
        refuse(s, "something follows the JSON value");
    return tree;
}

/* ---- the walk ---- */

struct walk {
    struct keel_arena *a;
    const char *p, *end; /* the cursor */
    const char *why;
};

/* Moves the cursor to the next token that is more than punctuation; ends of containers included. */
static void skip_to_token(struct walk *w)
{
    while (w->p < w->end && (is_space(*w->p) || *w->p == ',' || *w->p == ':'))
        w->p++;
    keel_assert(w->p < w->end);
}

static void skip_string(struct walk *w)
{
    skip_to_token(w);
    for (w->p++; *w->p != '"'; w->p++)
        w->p += *w->p == '\\';
    w->p++;
}

static int by_name(const void *x, const void *y)
{
    return strcmp(*(const char *const *)x, *(const char *const *)y);
}

static bool has_duplicate(struct keel_arena *a, const struct keel_jval *first, size_t n)
{
    if (n <= FEW_MEMBERS) {
        for (const struct keel_jval *x = first; x != NULL; x = x->next) {
            for (const struct keel_jval *y = x->next; y != NULL; y = y->next) {
                if (strcmp(x->name, y->name) == 0)
                    return true;
            }
        }
        return false;
    }
    const char **names = keel_arena_array(a, n, sizeof *names);
    size_t i = 0;
    for (const struct keel_jval *x = first; x != NULL; x = x->next)
        names[i++] = x->name;
    qsort(names, n, sizeof *names, by_name);
    for (i = 1; i < n; i++) {
        if (strcmp(names[i - 1], names[i]) == 0)
            return true;
    }
    return false;
}

static struct keel_jval *walk_value(struct walk *w, const cJSON *node);

static void walk_children(struct walk *w, const cJSON *node, struct keel_jval *v)
{
    struct keel_jval *last = NULL;
    v->raw = w->p++;
    for (const cJSON *c = node->child; c != NULL; c = c->next) {
        if (v->type == KEEL_JOBJ)
            skip_string(w);
        struct keel_jval *child = walk_value(w, c);
        if (last == NULL)
            v->child = child;
        else
            last->next = child;
        last = child;
        v->len++;
    }
    skip_to_token(w);
    v->raw_len = (size_t)(++w->p - v->raw);
    if (v->type == KEEL_JOBJ && has_duplicate(w->a, v->child, v->len))
        w->why = "an object names a member twice";
}

static void walk_number(struct walk *w, struct keel_jval *v)
{
    const char *from = w->p;
    while (w->p < w->end && (is_digit(*w->p) || strchr("+-.eE", *w->p) != NULL))
        w->p++;
    v->len = (size_t)(w->p - from);
    v->text = keel_arena_strndup(w->a, from, v->len);
}

/* Depth is bounded by the scan. */
static struct keel_jval *walk_value(struct walk *w, const cJSON *node)
{
    struct keel_jval *v = keel_arena_alloc(w->a, sizeof *v);
    v->name = node->string;
    skip_to_token(w);
    if (cJSON_IsObject(node) || cJSON_IsArray(node)) {
        v->type = cJSON_IsObject(node) ? KEEL_JOBJ : KEEL_JARR;
        walk_children(w, node, v);
    } else if (cJSON_IsString(node)) {
        v->type = KEEL_JSTR;
        v->text = node->valuestring;
        v->len = strlen(v->text);
        skip_string(w);
    } else if (cJSON_IsNumber(node)) {
        v->type = KEEL_JNUM;
        walk_number(w, v);
    } else {
        v->type = cJSON_IsNull(node) ? KEEL_JNULL : KEEL_JBOOL;
        v->boolean = cJSON_IsTrue(node);
        w->p += *w->p == 'f' ? 5 : 4;
    }
    return v;
}

enum keel_status keel_json_parse(struct keel_arena *a, const char *text, size_t len,
                                 const struct keel_jval **out, const char **why)
{
    const cJSON *tree = NULL;
    if (len == 0) {
        *why = "the text is empty";
        return KEEL_INVALID;
    }
    struct scan s = {.start = text, .p = text, .end = text + len};
    scan_all(&s);
    if (s.why == NULL)
        tree = parse_tree(a, &s);
    if (s.why != NULL) {
        *why = keel_arena_printf(a, "%s (byte %zu)", s.why, (size_t)(s.p - text));
        return KEEL_INVALID;
    }
    struct walk w = {.a = a, .p = text, .end = text + len};
    const struct keel_jval *v = walk_value(&w, tree);
    if (w.why != NULL) {
        *why = w.why;
        return KEEL_INVALID;
    }
    *out = v;
    return KEEL_OK;
}

const struct keel_jval *keel_jget(const struct keel_jval *v, const char *name)
{
    if (v == NULL || v->type != KEEL_JOBJ)
        return NULL;
    for (const struct keel_jval *c = v->child; c != NULL; c = c->next) {
        if (strcmp(c->name, name) == 0)
            return c;
    }
    return NULL;
}

const char *keel_jstr(const struct keel_jval *v, const char *name)
{
    const struct keel_jval *c = keel_jget(v, name);
    return c != NULL && c->type == KEEL_JSTR ? c->text : "";
}

/* ---- writing ---- */

void keel_json_init(struct keel_json *w, struct keel_arena *a, size_t cap)
{
    size_t room = cap < 64 ? 64 : cap;
    *w = (struct keel_json){.a = a, .buf = keel_arena_alloc(a, room), .cap = room};
}

/* Makes room for n more bytes and the NUL, and returns where they go. */
static char *room_for(struct keel_json *w, size_t n)
{
    if (n >= w->cap - w->len) {
        size_t cap = w->cap;
        while (n >= cap - w->len)
            cap *= 2;
        char *buf = keel_arena_alloc(w->a, cap);
        memcpy(buf, w->buf, w->len);
        w->buf = buf;
        w->cap = cap;
    }
    return w->buf + w->len;
}

static void put(struct keel_json *w, const char *s, size_t n)
{
    if (n == 0)
        return;
    memcpy(room_for(w, n), s, n);
    w->len += n;
}

static size_t escape(char *to, unsigned char c)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
    const char *at = memchr(plain, c, sizeof plain - 1);
    if (at != NULL) {
        to[0] = '\\';
        to[1] = letter[at - plain];
        return 2;
    }
    memcpy(to, "\\u00", 4);
    to[4] = hex[c >> 4];
    to[5] = hex[c & 15];
    return 6;
}

/* Not below 0x20, not '"', not '\\', not beyond ASCII. */
static bool is_plain(unsigned char c)
{
    static const uint32_t special[8] = {0xFFFFFFFF, 1u << ('"' - 32), 1u << ('\\' - 64), 0,
                                        0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF};
    return (special[c >> 5] >> (c & 31) & 1) == 0;
}

/* What is not UTF-8 becomes U+FFFD, so that the output is always valid. */
static char *put_special(char *p, const char *s, size_t n, size_t *used)
{
    unsigned char c = (unsigned char)*s;
    size_t step;

    *used = 1;
    if (c < 0x80)
        return p + escape(p, c);
    step = utf8_length(s, n);
    memcpy(p, step > 0 ? s : "\xEF\xBF\xBD", step > 0 ? step : 3);
    *used = step > 0 ? step : 1;
    return p + (step > 0 ? step : 3);
}

static void put_string(struct keel_json *w, const char *s, size_t n)
{
    size_t plain = 0, used;

    while (plain < n && is_plain((unsigned char)s[plain]))
        plain++;
    char *p = room_for(w, plain + (n - plain) * 6 + 2), *start = p;
    *p++ = '"';
    memcpy(p, s, plain); /* nearly always all of it */
    p += plain;
    for (size_t i = plain; i < n;) {
        if (is_plain((unsigned char)s[i])) {
            *p++ = s[i++];
        } else {
            p = put_special(p, s + i, n - i, &used);
            i += used;
        }
    }
    *p++ = '"';
    w->len += (size_t)(p - start);
}

/* Comma and key before a value. */
static void begin_value(struct keel_json *w, const char *key)
{
    uint64_t bit = UINT64_C(1) << w->depth;
    keel_assert((key != NULL) == ((w->is_object & bit) != 0));
    keel_assert(w->depth > 0 || w->len == 0);
    if ((w->has_member & bit) != 0)
        put(w, ",", 1);
    w->has_member |= bit;
    if (key != NULL) {
        put_string(w, key, strlen(key));
        put(w, ":", 1);
    }
}

static void open_container(struct keel_json *w, const char *key, bool is_object)
{
    begin_value(w, key);
    keel_assert(w->depth < 63);
    uint64_t bit = UINT64_C(1) << ++w->depth;
    w->has_member &= ~bit;
    w->is_object = is_object ? w->is_object | bit : w->is_object & ~bit;
    put(w, is_object ? "{" : "[", 1);
}

void keel_json_obj(struct keel_json *w, const char *key)
{
    open_container(w, key, true);
}

void keel_json_arr(struct keel_json *w, const char *key)
{
    open_container(w, key, false);
}

void keel_json_end(struct keel_json *w)
{
    keel_assert(w->depth > 0);
    bool is_object = (w->is_object >> w->depth & 1) != 0;
    put(w, is_object ? "}" : "]", 1);
    w->depth--;
}

void keel_json_raw(struct keel_json *w, const char *key, const char *json, size_t n)
{
    begin_value(w, key);
    put(w, json, n);
}

void keel_json_str(struct keel_json *w, const char *key, const char *s)
{
    if (s == NULL)
        keel_json_null(w, key);
    else
        keel_json_strn(w, key, s, strlen(s));
}

void keel_json_strn(struct keel_json *w, const char *key, const char *s, size_t n)
{
    begin_value(w, key);
    put_string(w, s, n);
}

/* Digits of v before end; returns the first. */
static char *digits_before(char *end, uint64_t v)
{
    do {
        *--end = (char)('0' + v % 10);
        v /= 10;
    } while (v > 0);
    return end;
}

void keel_json_i64(struct keel_json *w, const char *key, int64_t v)
{
    char text[24], *end = text + sizeof text;
    char *p = digits_before(end, v < 0 ? UINT64_C(0) - (uint64_t)v : (uint64_t)v);
    if (v < 0)
        *--p = '-';
    keel_json_raw(w, key, p, (size_t)(end - p));
}

void keel_json_u64(struct keel_json *w, const char *key, uint64_t v)
{
    char text[24], *end = text + sizeof text;
    char *p = digits_before(end, v);
    keel_json_raw(w, key, p, (size_t)(end - p));
}

/* v as units / 10^places, without trailing zeros; |units| < 2^53. */
static size_t print_fixed(char *to, double units, int places)
{
    char text[32], *end = text + sizeof text;
    uint64_t u = (uint64_t)fabs(units);
    for (; places > 0 && u % 10 == 0; places--)
        u /= 10;
    char *p = end;
    for (int i = 0; i < places; i++) {
        *--p = (char)('0' + u % 10);
        u /= 10;
    }
    if (places > 0)
        *--p = '.';
    p = digits_before(p, u);
    if (units < 0)
        *--p = '-';
    memcpy(to, p, (size_t)(end - p));
    return (size_t)(end - p);
}

#define EXACT 9007199254740992.0 /* 2^53 */

static size_t print_f64(char text[40], double v)
{
    static const double power[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};
    /* The fewest places whose quotient is v itself: nearly every price and ratio ends here. */
    for (int places = 0; places < (int)KEEL_COUNT(power); places++) {
        double units = rint(v * power[places]);
        if (!(fabs(units) < EXACT))
            break;
        if (units / power[places] == v)
            return print_fixed(text, units, places);
    }
    int n = 0;
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(text, 40, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    return (size_t)n;
}

void keel_json_f64(struct keel_json *w, const char *key, double v)
{
    char text[40];
    if (!isfinite(v)) {
        w->bad = true;
        keel_json_null(w, key);
        return;
    }
    keel_json_raw(w, key, text, print_f64(text, v));
}

void keel_json_fix(struct keel_json *w, const char *key, double v, int digits)
{
    static const double power[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12};
    keel_assert(digits >= 0 && digits < (int)KEEL_COUNT(power));
    double units = rint(v * power[digits]);
    char text[40];
    /* Beyond 2^53 units there is nothing left to round. */
    if (!(fabs(units) < EXACT))
        keel_json_f64(w, key, v);
    else
        keel_json_raw(w, key, text, print_fixed(text, units, digits));
}

void keel_json_bool(struct keel_json *w, const char *key, bool v)
{
    keel_json_raw(w, key, v ? "true" : "false", v ? 4 : 5);
}

void keel_json_null(struct keel_json *w, const char *key)
{
    keel_json_raw(w, key, "null", 4);
}

void keel_json_dec(struct keel_json *w, const char *key, int64_t v)
{
    char text[KEEL_DEC_TEXT];
    keel_json_strn(w, key, text, keel_dec_print(v, text));
}

void keel_json_decnum(struct keel_json *w, const char *key, int64_t v)
{
    char text[KEEL_DEC_TEXT];
    keel_json_raw(w, key, text, keel_dec_print(v, text));
}

void keel_json_money(struct keel_json *w, const char *key, keel_i128 v)
{
    char text[KEEL_MONEY_TEXT];
    keel_json_strn(w, key, text, keel_money_print(v, text));
}

void keel_json_moneynum(struct keel_json *w, const char *key, keel_i128 v)
{
    char text[KEEL_MONEY_TEXT];
    keel_json_raw(w, key, text, keel_money_print(v, text));
}

void keel_json_time(struct keel_json *w, const char *key, int64_t ns)
{
    char text[KEEL_TIME_TEXT];
    keel_json_strn(w, key, text, keel_time_print(ns, text));
}

void keel_json_val(struct keel_json *w, const char *key, const struct keel_jval *v)
{
    switch (v->type) {
    case KEEL_JNULL:
        keel_json_null(w, key);
        break;
    case KEEL_JBOOL:
        keel_json_bool(w, key, v->boolean);
        break;
    case KEEL_JNUM:
        keel_json_raw(w, key, v->text, v->len);
        break;
    case KEEL_JSTR:
        keel_json_strn(w, key, v->text, v->len);
        break;
    case KEEL_JARR:
    case KEEL_JOBJ:
        open_container(w, key, v->type == KEEL_JOBJ);
        for (const struct keel_jval *c = v->child; c != NULL; c = c->next)
            keel_json_val(w, c->name, c);
        keel_json_end(w);
        break;
    }
}

const char *keel_json_text(struct keel_json *w)
{
    keel_assert(w->depth == 0);
    *room_for(w, 0) = '\0';
    return w->buf;
}
