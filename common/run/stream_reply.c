/*
 * Redis replies and record headers to plain values. Pure: no socket, no clock, no state, so that all of it can be fuzzed;
 * whatever a reply looks like, a reader of it finds out by these functions and nothing else.
 */
#include <string.h>

#include <hiredis/hiredis.h>

#include "bus_priv.h"
#include "keel/num.h"

/* ---- ids ---- */

int keel_sid_cmp(struct keel_sid a, struct keel_sid b)
{
    if (a.ms != b.ms)
        return a.ms < b.ms ? -1 : 1;
    return a.n < b.n ? -1 : a.n > b.n;
}

static bool u64_parse(const char *s, size_t n, uint64_t *out)
{
    uint64_t v = 0;
    if (n == 0 || n > 20)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        uint64_t digit = (uint64_t)(s[i] - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

static size_t u64_print(uint64_t v, char *buf)
{
    char back[20];
    size_t n = 0;
    do
        back[n++] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    for (size_t i = 0; i < n; i++)
        buf[i] = back[n - 1 - i];
    return n;
}

bool keel_sid_parse(const char *s, size_t n, struct keel_sid *out)
{
    const char *dash = n > 0 ? memchr(s, '-', n) : NULL;
    struct keel_sid id;
    if (dash == NULL || !u64_parse(s, (size_t)(dash - s), &id.ms) ||
        !u64_parse(dash + 1, n - (size_t)(dash - s) - 1, &id.n))
        return false;
    *out = id;
    return true;
}

size_t keel_sid_print(struct keel_sid id, char buf[KEEL_SID_TEXT])
{
    size_t n = u64_print(id.ms, buf);
    buf[n++] = '-';
    n += u64_print(id.n, buf + n);
    buf[n] = '\0';
    return n;
}

struct keel_sid keel_sid_before(struct keel_sid id)
{
    if (id.n > 0)
        return (struct keel_sid){id.ms, id.n - 1};
    if (id.ms > 0)
        return (struct keel_sid){id.ms - 1, UINT64_MAX};
    return id;
}

/* ---- replies ---- */

const char *keel_reply_error(const struct redisReply *r)
{
    return r != NULL && r->type == REDIS_REPLY_ERROR ? (r->str != NULL ? r->str : "") : NULL;
}

bool keel_reply_is_nil(const struct redisReply *r)
{
    return r != NULL && r->type == REDIS_REPLY_NIL;
}

size_t keel_reply_n(const struct redisReply *r)
{
    return r != NULL && r->type == REDIS_REPLY_ARRAY && r->element != NULL ? r->elements : 0;
}

const struct redisReply *keel_reply_at(const struct redisReply *r, size_t i)
{
    return i < keel_reply_n(r) ? r->element[i] : NULL;
}

bool keel_reply_text(const struct redisReply *r, const char **s, size_t *n)
{
    if (r == NULL || (r->type != REDIS_REPLY_STRING && r->type != REDIS_REPLY_STATUS) || r->str == NULL)
        return false;
    *s = r->str;
    *n = (size_t)r->len;
    return true;
}

bool keel_reply_is(const struct redisReply *r, const char *text)
{
    const char *s;
    size_t n;
    return keel_reply_text(r, &s, &n) && n == strlen(text) && memcmp(s, text, n) == 0;
}

bool keel_reply_int(const struct redisReply *r, int64_t *out)
{
    if (r == NULL || r->type != REDIS_REPLY_INTEGER)
        return false;
    *out = r->integer;
    return true;
}

bool keel_reply_sid(const struct redisReply *r, struct keel_sid *out)
{
    const char *s;
    size_t n;
    return keel_reply_text(r, &s, &n) && keel_sid_parse(s, n, out);
}

const struct redisReply *keel_reply_member(const struct redisReply *r, const char *name)
{
    size_t n = keel_reply_n(r);
    for (size_t i = 0; i + 1 < n; i += 2)
        if (keel_reply_is(r->element[i], name))
            return r->element[i + 1];
    return NULL;
}

/* ---- entries ---- */

bool keel_entry_field(const struct keel_entry *e, const char *name, const char **s, size_t *n)
{
    return keel_reply_text(keel_reply_member(e->fields, name), s, n);
}

bool keel_entry_parse(const struct redisReply *r, struct keel_entry *out)
{
    struct keel_entry e = {.h = "", .p = ""};
    if (keel_reply_n(r) != 2 || !keel_reply_sid(r->element[0], &e.id))
        return false;
    e.fields = r->element[1];
    e.gone = keel_reply_is_nil(e.fields);
    if (!e.gone && keel_reply_n(e.fields) == 0)
        return false;
    keel_entry_field(&e, "h", &e.h, &e.h_len);
    keel_entry_field(&e, "p", &e.p, &e.p_len);
    *out = e;
    return true;
}

static size_t entries_parse(const struct redisReply *list, const char *key, size_t key_len, keel_entry_fn *fn, void *ctx)
{
    size_t bad = 0, n = keel_reply_n(list);
    for (size_t i = 0; i < n; i++) {
        struct keel_entry e;
        if (keel_entry_parse(list->element[i], &e))
            fn(ctx, key, key_len, &e);
        else
            bad++;
    }
    return bad;
}

size_t keel_stream_parse(const struct redisReply *r, keel_entry_fn *fn, void *ctx)
{
    size_t bad = 0, n = keel_reply_n(r);
    if (n == 0)
        return keel_reply_is_nil(r) || (r != NULL && r->type == REDIS_REPLY_ARRAY) ? 0 : 1;
    for (size_t i = 0; i < n; i++) {
        const struct redisReply *stream = r->element[i];
        const char *key;
        size_t key_len;
        if (keel_reply_n(stream) == 2 && keel_reply_text(stream->element[0], &key, &key_len))
            bad += entries_parse(stream->element[1], key, key_len, fn, ctx);
        else
            bad++;
    }
    return bad;
}

size_t keel_range_parse(const struct redisReply *r, keel_entry_fn *fn, void *ctx)
{
    return entries_parse(r, "", 0, fn, ctx);
}

/* ---- the header ---- */

enum { N_FIELDS = 13, F_SCHEMA = 0, F_ENV, F_MODE, F_TOPIC, F_PRODUCER, F_EPOCH, F_SEQ, F_KEY, F_EVENT, F_INIT, F_RECV,
       F_PUBLISH, F_TRACE };

struct part { const char *s; size_t n; };

/* Exactly N_FIELDS words with one space between, none of them empty. */
static bool split(const char *s, size_t n, struct part out[N_FIELDS])
{
    size_t at = 0, count = 0;
    while (count < N_FIELDS) {
        const char *space = at < n ? memchr(s + at, ' ', n - at) : NULL;
        size_t end = space != NULL ? (size_t)(space - s) : n;
        if (end <= at)
            return false;
        out[count++] = (struct part){s + at, end - at};
        at = end + 1;
        if (space == NULL)
            break;
    }
    return count == N_FIELDS && at == n + 1;
}

static bool is_empty(struct part f)
{
    return f.n == 1 && f.s[0] == '-';
}

static bool word(struct part f, char *to, size_t cap)
{
    if (is_empty(f)) {
        to[0] = '\0';
        return true;
    }
    if (f.n >= cap)
        return false;
    for (size_t i = 0; i < f.n; i++) {
        if ((unsigned char)f.s[i] <= ' ')
            return false;
        to[i] = f.s[i];
    }
    to[f.n] = '\0';
    return true;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool unescape(char *s)
{
    char *to = s;
    for (; *s != '\0'; s++) {
        if (*s != '%') {
            *to++ = *s;
            continue;
        }
        int hi = hex(s[1]), lo = hi < 0 ? -1 : hex(s[2]);
        if (lo < 0 || hi * 16 + lo == 0)
            return false;
        *to++ = (char)(hi * 16 + lo);
        s += 2;
    }
    *to = '\0';
    return true;
}

static bool stamp(struct part f, int64_t *out)
{
    if (is_empty(f)) {
        *out = 0;
        return true;
    }
    return keel_i64_parse(f.s, f.n, out) == KEEL_OK;
}

static bool key_of(struct part f, char to[72])
{
    char text[72 * 3];
    if (!word(f, text, sizeof text) || !unescape(text) || strlen(text) >= 72)
        return false;
    if (strcmp(text, "-") == 0)
        text[0] = '\0'; /* escaped or not, it stands for none */
    memcpy(to, text, strlen(text) + 1);
    return true;
}

const char *keel_head_parse(const char *s, size_t n, struct keel_envelope *out)
{
    struct part f[N_FIELDS];
    struct keel_envelope e = {0};
    struct keel_header *h = &e.h;
    if (!split(s, n, f))
        return "malformed_header";
    if (f[F_SCHEMA].n != 1 || f[F_SCHEMA].s[0] != '1')
        return "unknown_schema";
    bool good = word(f[F_ENV], e.env, sizeof e.env) && word(f[F_MODE], e.mode, sizeof e.mode) &&
                word(f[F_TOPIC], h->topic, sizeof h->topic) && word(f[F_PRODUCER], h->producer, sizeof h->producer) &&
                word(f[F_EPOCH], h->epoch, sizeof h->epoch) && u64_parse(f[F_SEQ].s, f[F_SEQ].n, &h->seq) &&
                key_of(f[F_KEY], h->key) && stamp(f[F_EVENT], &h->ts_event) && stamp(f[F_INIT], &h->ts_init) &&
                stamp(f[F_RECV], &h->ts_recv) && stamp(f[F_PUBLISH], &h->ts_publish) &&
                word(f[F_TRACE], h->traceparent, sizeof h->traceparent);
    if (!good || h->topic[0] == '\0' || h->producer[0] == '\0' || h->epoch[0] == '\0' || h->seq == 0 ||
        h->seq > INT64_MAX)
        return "malformed_header";
    *out = e;
    return NULL;
}

struct line { char *buf; size_t n; };

static void put(struct line *l, const char *s)
{
    size_t n = strlen(s);
    if (l->n > 0)
        l->buf[l->n++] = ' ';
    memcpy(l->buf + l->n, n > 0 ? s : "-", n > 0 ? n : 1);
    l->n += n > 0 ? n : 1;
}

static void put_u64(struct line *l, uint64_t v, bool negative)
{
    char text[24];
    size_t n = 0;
    if (negative)
        text[n++] = '-';
    n += u64_print(v, text + n);
    text[n] = '\0';
    put(l, text);
}

static void put_stamp(struct line *l, int64_t v)
{
    if (v == 0)
        put(l, "");
    else
        put_u64(l, v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v, v < 0);
}

/* What word() refuses, and the '%' that marks an escape. */
static void put_key(struct line *l, const char *key)
{
    static const char digits[] = "0123456789ABCDEF";
    char text[72 * 3];
    size_t n = 0;
    for (; *key != '\0'; key++) {
        unsigned char c = (unsigned char)*key;
        if (c > ' ' && c != '%' && c != 0x7f) {
            text[n++] = *key;
            continue;
        }
        text[n++] = '%';
        text[n++] = digits[c >> 4];
        text[n++] = digits[c & 15];
    }
    text[n] = '\0';
    put(l, text);
}

size_t keel_head_print(const char *env, const char *mode, const struct keel_header *h, char buf[KEEL_HEAD_TEXT])
{
    struct line l = {buf, 0};
    put(&l, "1");
    put(&l, env);
    put(&l, mode);
    put(&l, h->topic);
    put(&l, h->producer);
    put(&l, h->epoch);
    put_u64(&l, h->seq, false);
    put_key(&l, h->key);
    put_stamp(&l, h->ts_event);
    put_stamp(&l, h->ts_init);
    put_stamp(&l, h->ts_recv);
    put_stamp(&l, h->ts_publish);
    put(&l, h->traceparent);
    buf[l.n] = '\0';
    return l.n;
}

size_t keel_head_stamp(const char *head, size_t n, int64_t ts_publish, char buf[KEEL_HEAD_TEXT])
{
    struct part f[N_FIELDS];
    if (n > KEEL_HEAD_TEXT - 32 || !split(head, n, f))
        return 0;
    struct line l = {buf, (size_t)(f[F_PUBLISH].s - head) - 1};
    memcpy(buf, head, l.n);
    put_stamp(&l, ts_publish);
    buf[l.n++] = ' ';
    memcpy(buf + l.n, f[F_TRACE].s, f[F_TRACE].n);
    l.n += f[F_TRACE].n;
    buf[l.n] = '\0';
    return l.n;
}
