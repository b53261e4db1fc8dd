/*
 * From method and path to the row of the table. A path is split into segments before its escapes are undone, so
 * an escaped slash stays inside its segment. A literal segment beats a parameter, the leftmost first. A scan of
 * the table costs less than a microsecond at the sixty rows an engine has, so there is no index to keep.
 */
#include "rt.h"

#include <string.h>

enum { MAX_SEGMENTS = 16 };

struct segment { const char *s; size_t n; bool has_slash; }; /* an escaped one */
struct split { struct segment at[MAX_SEGMENTS]; size_t n; };

static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE"};

static int method_index(const char *method)
{
    for (size_t i = 0; i < KEEL_COUNT(methods); i++)
        if (strcmp(method, methods[i]) == 0)
            return (int)i;
    return -1;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Bytes of the well-formed UTF-8 character at s (Unicode 15, table 3-7), 0 when there is none. */
static size_t utf8_char(const unsigned char *s, size_t n)
{
    unsigned char c = s[0], low = 0x80, high = 0xBF;
    size_t more = 1;

    if (c < 0x80)
        return 1;
    if (c >= 0xE0 && c <= 0xEF)
        more = 2;
    else if (c >= 0xF0 && c <= 0xF4)
        more = 3;
    else if (c < 0xC2 || c > 0xDF)
        return 0;
    if (c == 0xE0)
        low = 0xA0;
    else if (c == 0xED)
        high = 0x9F;
    else if (c == 0xF0)
        low = 0x90;
    else if (c == 0xF4)
        high = 0x8F;
    if (n <= more || s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i <= more; i++)
        if (s[i] < 0x80 || s[i] > 0xBF)
            return 0;
    return more + 1;
}

static bool is_utf8(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t step = utf8_char((const unsigned char *)s + i, n - i);
        if (step == 0)
            return false;
        i += step;
    }
    return true;
}

bool keel_unescape(char *s, size_t *len)
{
    size_t out = 0;

    for (size_t i = 0; i < *len; i++) {
        char c = s[i];
        if (c == '%') {
            int high = i + 2 < *len ? hex(s[i + 1]) : -1;
            int low = i + 2 < *len ? hex(s[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0')
            return false;
        s[out++] = c;
    }
    s[out] = '\0';
    *len = out;
    return is_utf8(s, out);
}

static bool is_plain(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] == '%' || (unsigned char)s[i] >= 0x80)
            return false;
    return true;
}

static bool split_path(struct keel_arena *a, const char *path, struct split *out)
{
    out->n = 0;
    while (*path == '/') {
        size_t n = strcspn(++path, "/");
        if (out->n == MAX_SEGMENTS)
            return false;
        struct segment *seg = &out->at[out->n++];
        *seg = (struct segment){path, n, false};
        if (!is_plain(path, n)) {
            char *copy = keel_arena_strndup(a, path, n);
            if (!keel_unescape(copy, &seg->n))
                return false;
            seg->s = copy;
            seg->has_slash = memchr(copy, '/', seg->n) != NULL;
        }
        path += n;
    }
    return out->n > 0 && *path == '\0';
}

static bool is_param(const char *segment)
{
    return segment[0] == '{';
}

/* rank: the first segment's bit is the highest; set where the pattern is literal. A parameter is never empty. */
static bool match(const char *pattern, const struct split *path, unsigned *rank)
{
    unsigned r = 0;

    for (size_t i = 0; i < path->n; i++) {
        const struct segment *seg = &path->at[i];
        if (*pattern++ != '/')
            return false;
        if (is_param(pattern)) {
            if (seg->n == 0)
                return false;
            pattern = strchr(pattern, '}') + 1;
            r <<= 1;
            continue;
        }
        size_t same = 0; /* most rows end at the first letters: a call of strncmp would cost more */
        while (same < seg->n && pattern[same] == seg->s[same])
            same++;
        if (same < seg->n || (pattern[same] != '/' && pattern[same] != '\0'))
            return false;
        if (seg->has_slash)
            return false;
        r = r << 1 | 1;
        pattern += seg->n;
    }
    *rank = r;
    return *pattern == '\0';
}

static const char *op_method(const struct keel_op *op)
{
    return op->on.kind == KEEL_ON_WS ? "GET" : op->on.method;
}

static bool has_path(const struct keel_op *op)
{
    return op->on.kind == KEEL_ON_HTTP || op->on.kind == KEEL_ON_WS;
}

/* By the first letters of method and path: false for nearly all rows, at the price of two comparisons. */
static bool may_match(const struct keel_op *op, const char *method, const struct split *path)
{
    const char *pattern = op->on.path + 1;

    return op_method(op)[0] == method[0] && (*pattern == path->at[0].s[0] || is_param(pattern) || path->at[0].n == 0);
}

/* The methods that the path takes. */
static void write_allow(const struct keel_rt *rt, const struct split *path, char *out)
{
    unsigned seen = 0, rank;
    size_t at = 0;

    for (size_t i = 0; i < rt->n_ops; i++)
        if (has_path(&rt->ops[i]) && match(rt->ops[i].on.path, path, &rank))
            seen |= 1u << method_index(op_method(&rt->ops[i]));
    for (size_t i = 0; i < KEEL_COUNT(methods); i++) {
        if (!(seen & 1u << i))
            continue;
        const char *parts[] = {at > 0 ? ", " : "", methods[i], i == 0 ? ", HEAD" : ""};
        for (size_t k = 0; k < KEEL_COUNT(parts); k++) {
            size_t n = strlen(parts[k]);
            memcpy(out + at, parts[k], n + 1);
            at += n;
        }
    }
}

static void take_params(struct keel_arena *a, const char *pattern, const struct split *path, struct keel_route *out)
{
    for (size_t i = 0; i < path->n; i++) {
        size_t n = strcspn(++pattern, "/");
        if (is_param(pattern))
            out->params[out->n_params++] = (struct keel_param){
                .name = keel_arena_strndup(a, pattern + 1, n - 2),
                .value = keel_arena_strndup(a, path->at[i].s, path->at[i].n)};
        pattern += n;
    }
}

bool keel_route_find(struct keel_rt *rt, struct keel_arena *a, const char *method, const char *path,
                     struct keel_route *out)
{
    const char *want = strcmp(method, "HEAD") == 0 ? "GET" : method;
    const struct keel_op *best = NULL;
    unsigned best_rank = 0, rank;
    struct split parts;

    memset(out, 0, sizeof *out);
    if (!split_path(a, path, &parts))
        return false;
    for (size_t i = 0; i < rt->n_ops; i++) {
        const struct keel_op *op = &rt->ops[i];
        if (has_path(op) && may_match(op, want, &parts) && match(op->on.path, &parts, &rank) &&
            strcmp(op_method(op), want) == 0 && (best == NULL || rank > best_rank)) {
            best = op;
            best_rank = rank;
        }
    }
    if (best == NULL) {
        write_allow(rt, &parts, out->allow);
        return false;
    }
    out->op = best;
    take_params(a, best->on.path, &parts, out);
    return true;
}

/* ---- the check of a table at start-up ---- */

static bool is_id(const char *s)
{
    return s != NULL && *s != '\0' && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(s);
}

static const struct keel_field *row_of(const struct keel_op *op, const char *name)
{
    return op->takes == NULL ? NULL : keel_field_find(op->takes, name);
}

static const char *check_segment(const struct keel_op *op, const char *s, size_t n, struct keel_arena *a)
{
    if (!is_param(s))
        return memchr(s, '{', n) != NULL || memchr(s, '}', n) != NULL || memchr(s, '%', n) != NULL
                   ? keel_arena_printf(a, "%s: a brace or escape inside a segment of %s", op->id, op->on.path)
                   : NULL;
    if (n < 3 || s[n - 1] != '}')
        return keel_arena_printf(a, "%s: a parameter of %s is not closed", op->id, op->on.path);
    const char *name = keel_arena_strndup(a, s + 1, n - 2);
    if (!is_id(name))
        return keel_arena_printf(a, "%s: {%s} is no name", op->id, name);
    if (op->on.kind == KEEL_ON_HTTP && row_of(op, name) == NULL)
        return keel_arena_printf(a, "%s: {%s} is no field of what it takes", op->id, name);
    return NULL;
}

static const char *check_path(const struct keel_op *op, struct keel_arena *a)
{
    const char *path = op->on.path, *why = NULL;
    size_t segments = 0, params = 0;

    if (path == NULL || path[0] != '/')
        return keel_arena_printf(a, "%s: a path begins with /", op->id);
    while (*path == '/' && why == NULL) {
        size_t n = strcspn(++path, "/");
        if (n == 0 && strcmp(op->on.path, "/") != 0)
            return keel_arena_printf(a, "%s: %s has an empty segment", op->id, op->on.path);
        segments++;
        params += is_param(path);
        why = check_segment(op, path, n, a);
        path += n;
    }
    if (why == NULL && (segments > MAX_SEGMENTS || params > KEEL_COUNT(((struct keel_route *)0)->params)))
        why = keel_arena_printf(a, "%s: %s is too deep", op->id, op->on.path);
    return why;
}

static const char *check_trigger(const struct keel_op *op, struct keel_arena *a)
{
    int method;

    switch (op->on.kind) {
    case KEEL_ON_HTTP:
        method = op->on.method == NULL ? -1 : method_index(op->on.method);
        if (method < 0)
            return keel_arena_printf(a, "%s: no such method", op->id);
        if (method > 0 && op->scope == KEEL_SCOPE_ANY)
            return keel_arena_printf(a, "%s: what changes something needs a scope", op->id);
        return check_path(op, a);
    case KEEL_ON_WS:
        return check_path(op, a);
    case KEEL_ON_TOPIC:
        if (op->on.path == NULL || op->takes == NULL)
            return keel_arena_printf(a, "%s: a topic row names its topic and what it takes", op->id);
        if (strchr(op->on.path, '*') == NULL && keel_topic_find(op->on.path) == NULL)
            return keel_arena_printf(a, "%s: the contract has no topic %s", op->id, op->on.path);
        return NULL;
    case KEEL_ON_TIMER:
        return op->on.every_ms > 0 ? NULL : keel_arena_printf(a, "%s: a timer needs a period", op->id);
    case KEEL_ON_SOURCE:
    case KEEL_ON_CALL:
        return NULL;
    }
    return keel_arena_printf(a, "%s: no such trigger", op->id);
}

static const char *check_op(const struct keel_op *op, struct keel_arena *a)
{
    if (!is_id(op->id))
        return keel_arena_printf(a, "\"%s\" is no id of an operation", op->id == NULL ? "" : op->id);
    if (op->begin == NULL && op->on.kind != KEEL_ON_WS)
        return keel_arena_printf(a, "%s: no begin", op->id);
    if ((op->end == NULL) != (op->work == NULL))
        return keel_arena_printf(a, "%s: work and end come together", op->id);
    if (op->deadline_ms < 0 || op->target_ms < 0 || (unsigned)op->level > KEEL_LOW ||
        (unsigned)op->scope > KEEL_SCOPE_ENGINE_OR_ADMIN)
        return keel_arena_printf(a, "%s: deadline, target, level or scope out of range", op->id);
    if (op->key != NULL && row_of(op, op->key) == NULL)
        return keel_arena_printf(a, "%s: its key %s is no field of what it takes", op->id, op->key);
    if ((op->flags & KEEL_BARE_ARRAY) && (op->bare == NULL || row_of(op, op->bare) == NULL))
        return keel_arena_printf(a, "%s: the bare array has no field to go to", op->id);
    return check_trigger(op, a);
}

/* Same literals in the same places: no path could tell them apart. */
static bool same_paths(const char *p, const char *q)
{
    while (*p == '/' && *q == '/') {
        size_t n = strcspn(++p, "/"), m = strcspn(++q, "/");
        if (is_param(p) != is_param(q) || (!is_param(p) && (n != m || memcmp(p, q, n) != 0)))
            return false;
        p += n;
        q += m;
    }
    return *p == *q;
}

static const char *check_pair(const struct keel_op *x, const struct keel_op *y, struct keel_arena *a)
{
    if (strcmp(x->id, y->id) == 0)
        return keel_arena_printf(a, "two operations are called %s", x->id);
    if (has_path(x) && has_path(y) && strcmp(op_method(x), op_method(y)) == 0 && same_paths(x->on.path, y->on.path))
        return keel_arena_printf(a, "%s and %s take the same path %s", x->id, y->id, x->on.path);
    return NULL;
}

static bool is_listed(const char *const *names, const char *name)
{
    for (; names != NULL && *names != NULL; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

/* A probe's result stands in /health beside what the core itself reports there. */
static const char *check_probes(const struct keel_engine *e, struct keel_arena *a)
{
    static const char *const taken[] = {"store", "redis", "dead_letters", NULL};

    for (size_t i = 0; i < e->n_probes; i++) {
        const char *id = e->probes[i].id;
        if (!is_id(id) || e->probes[i].run == NULL || is_listed(taken, id) || is_listed(e->peers, id))
            return keel_arena_printf(a, "probe %zu has no function, or no name of its own", i);
        for (size_t k = 0; k < i; k++)
            if (strcmp(e->probes[k].id, id) == 0)
                return keel_arena_printf(a, "two probes are called %s", id);
    }
    return NULL;
}

const char *keel_table_check(const struct keel_engine *engine, const struct keel_op *ops, size_t n,
                             struct keel_arena *a)
{
    if (engine->name == NULL || !is_id(engine->name))
        return "the engine has no name";
    for (size_t i = 0; i < n; i++) {
        const char *why = check_op(&ops[i], a);
        for (size_t k = 0; k < i && why == NULL; k++)
            why = check_pair(&ops[k], &ops[i], a);
        if (why != NULL)
            return why;
    }
    for (const char *const *t = engine->publishes; t != NULL && *t != NULL; t++)
        if (keel_topic_find(*t) == NULL)
            return keel_arena_printf(a, "the contract has no topic %s", *t);
    return check_probes(engine, a);
}
