/*
 * JSON in and out.
 *
 * Reading goes over the text once. The text is copied into the arena first; strings are decoded and ended in that
 * copy, so that a value costs one node and no text of its own. Numbers are checked and kept as written.
 *
 * Writing appends to a buffer that doubles in an arena.
 */
#include "keel/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline)) /* what every member of every answer goes through */
#define MOST_DEPTH 32
#define MOST_NUMBER 63 /* characters */
#define FEW_MEMBERS 16

/* ---- text ---- */

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

/* Not below 0x20, not '"', not '\\', not beyond ASCII. */
static bool is_plain(unsigned char c)
{
    static const uint32_t special[8] = {0xFFFFFFFF, 1u << ('"' - 32), 1u << ('\\' - 64), 0,
                                        0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF};
    return (special[c >> 5] >> (c & 31) & 1) == 0;
}

/*
 * Eight bytes at once: the top bit of each that is not plain, and perhaps of some after the first such. A byte less than
 * m sets its top bit when m is taken from each; one above 0x7F has it set.
 */
static uint64_t special_bits(uint64_t x)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    uint64_t quote = x ^ ones * '"', backslash = x ^ ones * '\\';
    return (x | (x - ones * 0x20) | ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash)) & tops;
}

/* How many of the n bytes at s are plain. */
static size_t plain_length(const char *s, size_t n)
{
    uint64_t x, special;
    size_t i = 0;
    for (; n - i >= sizeof x; i += sizeof x) {
        memcpy(&x, s + i, sizeof x);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        x = __builtin_bswap64(x); /* the first byte is the lowest */
#endif
        special = special_bits(x);
        if (special != 0)
            return i + (size_t)__builtin_ctzll(special) / 8;
    }
    while (i < n && is_plain((unsigned char)s[i]))
        i++;
    return i;
}

/* ---- reading ---- */

struct reader {
    struct keel_arena *a;
    const char *start, *p, *end;
    char *copy; /* of the text */
    int depth;
    const char *why; /* NULL while all is well */
};

static const char malformed[] = "the JSON is malformed";

__attribute__((cold)) static bool refuse(struct reader *r, const char *why)
{
    if (r->why == NULL)
        r->why = why;
    return false;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* True: there is a character more, and it is c. */
static bool next_is(const struct reader *r, char c)
{
    return r->p < r->end && *r->p == c;
}

static inline void skip_space(struct reader *r)
{
    while (r->p < r->end && is_space(*r->p))
        r->p++;
}

/* A token stands where it may not, or there is none; why: of a token. */
__attribute__((cold)) static bool misplaced(struct reader *r, const char *why)
{
    static const char tokens[] = "{}[],:\"-0123456789tfn";
    if (r->p == r->end)
        return refuse(r, r->depth > 0 ? "brackets are not closed" : why);
    return refuse(r, memchr(tokens, *r->p, sizeof tokens - 1) != NULL ? why : "unexpected character");
}

/* ---- strings ---- */

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* The four digits after "\u". */
static bool take_hex(struct reader *r, uint32_t *out)
{
    uint32_t v = 0;
    if (r->end - r->p < 4)
        return refuse(r, "a string does not end");
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(r->p[i]);
        if (digit < 0)
            return refuse(r, "\\u is not followed by four hexadecimal digits");
        v = v << 4 | (uint32_t)digit;
    }
    if (v == 0)
        return refuse(r, "\\u0000 is not accepted");
    r->p += 4;
    *out = v;
    return true;
}

/* A character beyond U+FFFF is two of them, the high half first. */
static bool take_unicode(struct reader *r, uint32_t *out)
{
    uint32_t low = 0;
    if (!take_hex(r, out))
        return false;
    if (*out < 0xD800 || *out > 0xDFFF)
        return true;
    bool is_pair = *out < 0xDC00 && r->end - r->p > 1 && r->p[0] == '\\' && r->p[1] == 'u';
    if (is_pair) {
        r->p += 2;
        if (!take_hex(r, &low))
            return false;
    }
    if (low < 0xDC00 || low > 0xDFFF)
        return refuse(r, "the JSON is malformed: half of a surrogate pair");
    *out = 0x10000 + ((*out & 0x3FF) << 10 | (low & 0x3FF));
    return true;
}

static char *put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        *to++ = (char)c;
        return to;
    }
    if (c < 0x800) {
        *to++ = (char)(0xC0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *to++ = (char)(0xE0 | c >> 12);
        } else {
            *to++ = (char)(0xF0 | c >> 18);
            *to++ = (char)(0x80 | (c >> 12 & 0x3F));
        }
        *to++ = (char)(0x80 | (c >> 6 & 0x3F));
    }
    *to++ = (char)(0x80 | (c & 0x3F));
    return to;
}

/* At a backslash. What it stands for is never longer than what it is written with. */
static char *take_escape(struct reader *r, char *to)
{
    static const char letter[] = "\"\\/bfnrt", stands_for[] = "\"\\/\b\f\n\r\t";
    uint32_t c = 0;
    if (r->end - r->p < 2) {
        refuse(r, "a string does not end");
        return to;
    }
    char kind = r->p[1];
    r->p += 2;
    if (kind == 'u')
        return take_unicode(r, &c) ? put_utf8(to, c) : to;
    const char *at = memchr(letter, kind, sizeof letter - 1);
    if (at == NULL)
        refuse(r, "the JSON is malformed: no such escape");
    else
        *to++ = stands_for[at - letter];
    return to;
}

/* What is not plain, up to the closing quote; returns where the decoded text has got to. */
static char *take_special(struct reader *r, char *to)
{
    size_t left = (size_t)(r->end - r->p), step;
    if (*r->p == '\\')
        return take_escape(r, to);
    if ((unsigned char)*r->p < 0x20) {
        refuse(r, "a string holds a control character");
        return to;
    }
    step = utf8_length(r->p, left);
    if (step == 0)
        refuse(r, "the text is not valid UTF-8");
    memmove(to, r->p, step);
    r->p += step;
    return to + step;
}

/* At the opening quote. *out is in the copy and NUL ended; nearly always it is there already. */
static bool take_string(struct reader *r, const char **out, size_t *len)
{
    char *text = r->copy + (++r->p - r->start), *to = text;
    while (r->why == NULL && r->p < r->end) {
        size_t plain = plain_length(r->p, (size_t)(r->end - r->p));
        if (to != r->copy + (r->p - r->start))
            memmove(to, r->p, plain);
        to += plain;
        r->p += plain;
        if (next_is(r, '"')) {
            r->p++;
            *to = '\0';
            *out = text;
            *len = (size_t)(to - text);
            return true;
        }
        if (r->p < r->end)
            to = take_special(r, to);
    }
    return refuse(r, "a string does not end");
}

/* ---- numbers and words ---- */

static size_t skip_digits(struct reader *r)
{
    const char *from = r->p;
    while (r->p < r->end && is_digit(*r->p))
        r->p++;
    return (size_t)(r->p - from);
}

static bool skip_number(struct reader *r)
{
    r->p += *r->p == '-';
    const char *whole = r->p;
    size_t n = skip_digits(r);
    if (n == 0 || (n > 1 && *whole == '0'))
        return false;
    if (next_is(r, '.')) {
        r->p++;
        if (skip_digits(r) == 0)
            return false;
    }
    if (next_is(r, 'e') || next_is(r, 'E')) {
        r->p++;
        if (next_is(r, '+') || next_is(r, '-'))
            r->p++;
        if (skip_digits(r) == 0)
            return false;
    }
    return r->p == r->end || is_space(*r->p) || *r->p == ',' || *r->p == ']' || *r->p == '}';
}

/* Ended in the copy where the next token begins, which is read from the text itself. */
static bool take_number(struct reader *r, struct keel_jval *v)
{
    const char *from = r->p;
    v->type = KEEL_JNUM;
    if (!skip_number(r))
        return refuse(r, "a number is malformed");
    v->len = (size_t)(r->p - from);
    if (v->len > MOST_NUMBER)
        return refuse(r, "a number has more than 63 characters");
    v->text = r->copy + (from - r->start);
    r->copy[r->p - r->start] = '\0';
    return true;
}

static bool take_word(struct reader *r, struct keel_jval *v)
{
    static const struct { const char *word; size_t n; enum keel_jtype type; } words[] = {
        {"true", 4, KEEL_JBOOL}, {"false", 5, KEEL_JBOOL}, {"null", 4, KEEL_JNULL}};
    for (size_t i = 0; i < KEEL_COUNT(words); i++) {
        size_t n = words[i].n;
        if ((size_t)(r->end - r->p) >= n && memcmp(r->p, words[i].word, n) == 0) {
            v->type = words[i].type;
            v->boolean = i == 0;
            r->p += n;
            return true;
        }
    }
    return refuse(r, "unexpected character");
}

/* ---- values ---- */

static int by_name(const void *x, const void *y)
{
    return strcmp(*(const char *const *)x, *(const char *const *)y);
}

static bool has_duplicate(struct keel_arena *a, const struct keel_jval *first, size_t n)
{
    if (n <= FEW_MEMBERS) {
        for (const struct keel_jval *x = first; x != NULL; x = x->next) {
            for (const struct keel_jval *y = x->next; y != NULL; y = y->next) {
                if (x->name[0] == y->name[0] && strcmp(x->name, y->name) == 0)
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

static struct keel_jval *take_value(struct reader *r);

static bool take_name(struct reader *r, const char **name)
{
    size_t len;
    skip_space(r);
    if (!next_is(r, '"'))
        return misplaced(r, malformed);
    if (!take_string(r, name, &len))
        return false;
    skip_space(r);
    if (!next_is(r, ':'))
        return misplaced(r, malformed);
    r->p++;
    return true;
}

/* Members or elements up to the closing bracket. */
static bool take_children(struct reader *r, struct keel_jval *v, char closing)
{
    const struct keel_jval **link = &v->child;
    for (;;) {
        const char *name = NULL;
        if (v->type == KEEL_JOBJ && !take_name(r, &name))
            return false;
        struct keel_jval *child = take_value(r);
        if (child == NULL)
            return false;
        child->name = name;
        *link = child;
        link = &child->next;
        v->len++;
        skip_space(r);
        if (next_is(r, closing))
            return true;
        if (!next_is(r, ','))
            return misplaced(r, malformed);
        r->p++;
    }
}

static bool take_container(struct reader *r, struct keel_jval *v)
{
    char closing = *r->p == '{' ? '}' : ']';
    v->type = *r->p == '{' ? KEEL_JOBJ : KEEL_JARR;
    v->raw = r->p;
    if (++r->depth > MOST_DEPTH)
        return refuse(r, "nested deeper than 32 levels");
    r->p++;
    skip_space(r);
    if (!next_is(r, closing) && !take_children(r, v, closing))
        return false;
    r->p++;
    r->depth--;
    v->raw_len = (size_t)(r->p - v->raw);
    if (v->type == KEEL_JOBJ && has_duplicate(r->a, v->child, v->len))
        return refuse(r, "an object names a member twice");
    return true;
}

/* NULL: refused. Its depth is bounded. */
static struct keel_jval *take_value(struct reader *r)
{
    struct keel_jval *v = keel_arena_alloc(r->a, sizeof *v);
    bool is_taken;
    skip_space(r);
    char c = r->p < r->end ? *r->p : '\0';
    if (c == '"') {
        v->type = KEEL_JSTR;
        is_taken = take_string(r, &v->text, &v->len);
    } else if (c == '{' || c == '[') {
        is_taken = take_container(r, v);
    } else if (c == '-' || is_digit(c)) {
        is_taken = take_number(r, v);
    } else if (c == 't' || c == 'f' || c == 'n') {
        is_taken = take_word(r, v);
    } else {
        is_taken = misplaced(r, malformed);
    }
    return is_taken ? v : NULL;
}

enum keel_status keel_json_parse(struct keel_arena *a, const char *text, size_t len,
                                 const struct keel_jval **out, const char **why)
{
    if (len == 0) {
        *why = "the text is empty";
        return KEEL_INVALID;
    }
    struct reader r = {.a = a, .start = text, .p = text, .end = text + len, .copy = keel_arena_strndup(a, text, len)};
    const struct keel_jval *v = take_value(&r);
    skip_space(&r);
    if (r.why == NULL && r.p < r.end)
        misplaced(&r, "something follows the JSON value");
    if (r.why != NULL) {
        *why = keel_arena_printf(a, "%s (byte %zu)", r.why, (size_t)(r.p - text));
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
    *w = (struct keel_json){.a = a, .buf = keel_arena_text(a, room), .cap = room};
}

static void grow(struct keel_json *w, size_t n)
{
    size_t cap = w->cap;
    while (n >= cap - w->len)
        cap *= 2;
    char *buf = keel_arena_text(w->a, cap);
    memcpy(buf, w->buf, w->len);
    w->buf = buf;
    w->cap = cap;
}

/* Makes room for n more bytes and the NUL, and returns where they go. */
static inline char *room_for(struct keel_json *w, size_t n)
{
    if (n >= w->cap - w->len)
        grow(w, n);
    return w->buf + w->len;
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

#define SHORT 64 /* up to here room is made for the worst case */

/* Room that s in quotes takes at most. */
static size_t most_quoted(const char *s, size_t n)
{
    size_t plain = n > SHORT ? plain_length(s, n) : 0;
    return plain + (n - plain) * 6 + 2;
}

/* A vector register; signed, so that what is beyond ASCII is less than a space too. */
typedef signed char bytes16 __attribute__((vector_size(16)));
typedef uint64_t words16 __attribute__((vector_size(16)));

static ALWAYS_INLINE bool are_plain(bytes16 x)
{
    words16 special = (words16)((x < ' ') | (x == '"') | (x == '\\'));
    return (special[0] | special[1]) == 0;
}

/* Copies s; false: not all of it is plain. There is room for all n. A last piece may have bytes of the one before it. */
static ALWAYS_INLINE bool copy_plain(char *to, const char *s, size_t n)
{
    bytes16 x;
    uint64_t head, tail;
    uint32_t first, last;
    bool plain = true;
    if (n >= sizeof x) {
        for (size_t i = 0; i < n - sizeof x; i += sizeof x) {
            memcpy(&x, s + i, sizeof x);
            memcpy(to + i, &x, sizeof x);
            plain &= are_plain(x);
        }
        memcpy(&x, s + n - sizeof x, sizeof x);
        memcpy(to + n - sizeof x, &x, sizeof x);
        return plain & are_plain(x);
    }
    if (n >= sizeof head) {
        memcpy(&head, s, sizeof head);
        memcpy(&tail, s + n - sizeof tail, sizeof tail);
        memcpy(to, &head, sizeof head);
        memcpy(to + n - sizeof tail, &tail, sizeof tail);
        return are_plain((bytes16)(words16){head, tail});
    }
    if (n >= sizeof first) {
        memcpy(&first, s, sizeof first);
        memcpy(&last, s + n - sizeof last, sizeof last);
        memcpy(to, &first, sizeof first);
        memcpy(to + n - sizeof last, &last, sizeof last);
        return special_bits((uint64_t)first << 32 | last) == 0;
    }
    for (size_t i = 0; i < n; i++) {
        to[i] = s[i];
        plain &= is_plain((unsigned char)s[i]);
    }
    return plain;
}

static char *put_escaped(char *p, const char *s, size_t n)
{
    size_t used;
    for (size_t i = 0; i < n; i += used) {
        if (is_plain((unsigned char)s[i])) {
            *p++ = s[i];
            used = 1;
        } else {
            p = put_special(p, s + i, n - i, &used);
        }
    }
    return p;
}

static ALWAYS_INLINE char *put_quoted(char *p, const char *s, size_t n)
{
    *p++ = '"';
    p = copy_plain(p, s, n) ? p + n : put_escaped(p, s, n); /* nearly always plain */
    *p++ = '"';
    return p;
}

/* Comma and key before a value, for which n bytes of room are left; returns where it goes. */
static inline char *begin_value(struct keel_json *w, struct keel_key key, size_t n)
{
    keel_assert((key.text != NULL) == ((w->is_object & 1) != 0));
    keel_assert(w->depth > 0 || w->len == 0);
    char *p = room_for(w, most_quoted(key.text, key.len) + 2 + n);
    *p = ',';
    p += w->has_member & 1;
    w->has_member |= 1;
    if (key.text != NULL) {
        p = put_quoted(p, key.text, key.len);
        *p++ = ':';
    }
    return p;
}

static inline void end_value(struct keel_json *w, const char *p)
{
    w->len = (size_t)(p - w->buf);
}

static void open_container(struct keel_json *w, struct keel_key key, bool is_object)
{
    char *p = begin_value(w, key, 1);
    keel_assert(w->depth < 63);
    w->depth++;
    w->has_member <<= 1;
    w->is_object = w->is_object << 1 | is_object;
    *p++ = is_object ? '{' : '[';
    end_value(w, p);
}

void keel_json_put_obj(struct keel_json *w, struct keel_key key)
{
    open_container(w, key, true);
}

void keel_json_put_arr(struct keel_json *w, struct keel_key key)
{
    open_container(w, key, false);
}

void keel_json_end(struct keel_json *w)
{
    keel_assert(w->depth > 0);
    *room_for(w, 1) = (w->is_object & 1) != 0 ? '}' : ']';
    w->len++;
    w->depth--;
    w->has_member >>= 1;
    w->is_object >>= 1;
}

void keel_json_put_raw(struct keel_json *w, struct keel_key key, const char *json, size_t n)
{
    char *p = begin_value(w, key, n);
    if (n > 0)
        memcpy(p, json, n);
    end_value(w, p + n);
}

void keel_json_put_strn(struct keel_json *w, struct keel_key key, const char *s, size_t n)
{
    char *p = begin_value(w, key, most_quoted(s, n));
    end_value(w, put_quoted(p, s, n));
}

void keel_json_put_str(struct keel_json *w, struct keel_key key, const char *s)
{
    if (s == NULL)
        keel_json_put_raw(w, key, "null", 4);
    else
        keel_json_put_strn(w, key, s, strlen(s));
}

void keel_json_put_i64(struct keel_json *w, struct keel_key key, int64_t v)
{
    char *p = begin_value(w, key, KEEL_DEC_TEXT);
    *p = '-';
    p += v < 0;
    end_value(w, keel_u64_print(p, v < 0 ? UINT64_C(0) - (uint64_t)v : (uint64_t)v));
}

void keel_json_put_u64(struct keel_json *w, struct keel_key key, uint64_t v)
{
    char *p = begin_value(w, key, KEEL_DEC_TEXT);
    end_value(w, keel_u64_print(p, v));
}

#define EXACT 9007199254740992.0 /* 2^53 */

void keel_json_put_f64(struct keel_json *w, struct keel_key key, double v)
{
    if (!isfinite(v)) {
        w->bad = true;
        keel_json_put_raw(w, key, "null", 4);
        return;
    }
    char *p = begin_value(w, key, KEEL_F64_TEXT);
    end_value(w, p + keel_f64_print(v, p));
}

void keel_json_put_fix(struct keel_json *w, struct keel_key key, double v, int digits)
{
    static const uint64_t power[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000};
    keel_assert(digits >= 0 && digits < (int)KEEL_COUNT(power));
    double units = rint(v * (double)power[digits]);
    /* Beyond 2^53 units there is nothing left to round. */
    if (!(fabs(units) < EXACT)) {
        keel_json_put_f64(w, key, v);
        return;
    }
    char *p = begin_value(w, key, KEEL_F64_TEXT);
    uint64_t u = (uint64_t)fabs(units);
    *p = '-';
    p += units < 0;
    end_value(w, keel_fixed_print(p, u / power[digits], u % power[digits], digits));
}

void keel_json_put_dec(struct keel_json *w, struct keel_key key, int64_t v)
{
    char *p = begin_value(w, key, KEEL_DEC_TEXT + 2);
    *p++ = '"';
    p += keel_dec_print(v, p);
    *p++ = '"';
    end_value(w, p);
}

void keel_json_put_decnum(struct keel_json *w, struct keel_key key, int64_t v)
{
    char *p = begin_value(w, key, KEEL_DEC_TEXT);
    end_value(w, p + keel_dec_print(v, p));
}

void keel_json_put_money(struct keel_json *w, struct keel_key key, keel_i128 v)
{
    char *p = begin_value(w, key, KEEL_MONEY_TEXT + 2);
    *p++ = '"';
    p += keel_money_print(v, p);
    *p++ = '"';
    end_value(w, p);
}

void keel_json_put_moneynum(struct keel_json *w, struct keel_key key, keel_i128 v)
{
    char *p = begin_value(w, key, KEEL_MONEY_TEXT);
    end_value(w, p + keel_money_print(v, p));
}

void keel_json_put_time(struct keel_json *w, struct keel_key key, int64_t ns)
{
    char text[KEEL_TIME_TEXT];
    keel_json_put_strn(w, key, text, keel_time_print(ns, text));
}

void keel_json_put_val(struct keel_json *w, struct keel_key key, const struct keel_jval *v)
{
    switch (v->type) {
    case KEEL_JNULL:
        keel_json_put_raw(w, key, "null", 4);
        break;
    case KEEL_JBOOL:
        keel_json_put_raw(w, key, v->boolean ? "true" : "false", v->boolean ? 4 : 5);
        break;
    case KEEL_JNUM:
        keel_json_put_raw(w, key, v->text, v->len);
        break;
    case KEEL_JSTR:
        keel_json_put_strn(w, key, v->text, v->len);
        break;
    case KEEL_JARR:
    case KEEL_JOBJ:
        open_container(w, key, v->type == KEEL_JOBJ);
        for (const struct keel_jval *c = v->child; c != NULL; c = c->next)
            keel_json_put_val(w, keel_key(c->name), c);
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
