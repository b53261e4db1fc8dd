/*
 * From what arrived to a struct: path, query and body are put together as one JSON object, so that one
 * decoder checks them all and a handler does not see where a field came from. Also the two other texts of a
 * request, its query string and its trace context.
 */
#include <string.h>

#include "call_priv.h"

static enum keel_status refuse(struct keel_record_error *err, const char *code, const char *field, const char *detail)
{
    *err = (struct keel_record_error){code, field, detail};
    return KEEL_INVALID;
}

static struct keel_jval *text_node(struct keel_arena *a, enum keel_jtype type, const char *name, const char *text,
                                   size_t len)
{
    struct keel_jval *v = keel_arena_alloc(a, sizeof *v);
    v->type = type;
    v->name = name;
    v->text = text;
    v->len = len;
    return v;
}

static struct keel_jval *scalar(struct keel_arena *a, enum keel_ftype type, const char *name, const char *text,
                                size_t len)
{
    int64_t whole;
    double real;
    bool number = false;
    switch (type) {
    case KEEL_BOOL:
        if ((len == 4 && memcmp(text, "true", 4) == 0) || (len == 1 && *text == '1') ||
            (len == 5 && memcmp(text, "false", 5) == 0) || (len == 1 && *text == '0')) {
            struct keel_jval *v = text_node(a, KEEL_JBOOL, name, NULL, 0);
            v->boolean = *text == 't' || *text == '1';
            return v;
        }
        break;
    case KEEL_I64:
    case KEEL_TIME:
    case KEEL_I64S:
        number = keel_i64_parse(text, len, &whole) == KEEL_OK;
        break;
    case KEEL_F64:
    case KEEL_F64S:
        number = keel_f64_parse(text, len, &real) == KEEL_OK;
        break;
    default:
        break;
    }
    return text_node(a, number ? KEEL_JNUM : KEEL_JSTR, name, keel_arena_strndup(a, text, len), len);
}

/* "a,b,c"; the empty text is the empty array. */
static struct keel_jval *array(struct keel_arena *a, enum keel_ftype type, const char *name, const char *text)
{
    struct keel_jval *v = text_node(a, KEEL_JARR, name, NULL, 0);
    const struct keel_jval **link = &v->child;
    while (*text != '\0') {
        size_t n = strcspn(text, ",");
        struct keel_jval *item = scalar(a, type, NULL, text, n);
        *link = item;
        link = &item->next;
        v->len++;
        text += n + (text[n] == ',');
    }
    return v;
}

struct keel_jval *keel_text_jval(struct keel_arena *a, const struct keel_field *f, const char *name, const char *text)
{
    const struct keel_jval *parsed;
    const char *why;
    size_t len = strlen(text);
    switch (f != NULL ? f->type : KEEL_STR) {
    case KEEL_F64S:
    case KEEL_I64S:
    case KEEL_DECS:
    case KEEL_STRS:
        return array(a, f->type, name, text);
    case KEEL_JSON:
    case KEEL_PAIRS:
    case KEEL_REC:
    case KEEL_RECS:
    case KEEL_MAP:
        if (keel_json_parse(a, keel_arena_strndup(a, text, len), len, &parsed, &why) == KEEL_OK) {
            struct keel_jval *v = keel_arena_alloc(a, sizeof *v);
            *v = *parsed;
            v->name = name;
            return v;
        }
        break;
    default:
        break;
    }
    return scalar(a, f != NULL ? f->type : KEEL_STR, name, text, len);
}

/* Puts one parameter before the members of obj. One that the body repeats must say the same. */
static enum keel_status add_param(const struct keel_fields *takes, const struct keel_param *p, struct keel_arena *a,
                                  struct keel_jval *obj, struct keel_record_error *err)
{
    struct keel_jval *v = keel_text_jval(a, keel_field_find(takes, p->name), p->name, p->value);
    const struct keel_jval *same = keel_jget(obj, p->name);
    if (same != NULL && same->type != KEEL_JNULL) {
        if (same->text != NULL && v->text != NULL && strcmp(same->text, v->text) == 0)
            return KEEL_OK;
        return refuse(err, "mismatch", p->name, keel_arena_printf(a, "%s is given twice, and differently", p->name));
    }
    v->next = obj->child;
    obj->child = v;
    obj->len++;
    return KEEL_OK;
}

static enum keel_status parse_body(const struct keel_op *op, const struct keel_request *rq, struct keel_arena *a,
                                   struct keel_jval *obj, struct keel_record_error *err)
{
    const struct keel_jval *body;
    const char *why = "";
    if (rq->body_len == 0)
        return KEEL_OK;
    if (keel_json_parse(a, rq->body, rq->body_len, &body, &why) != KEEL_OK)
        return refuse(err, "invalid_json", NULL, why);
    if (body->type == KEEL_JOBJ) {
        *obj = *body;
        return KEEL_OK;
    }
    if (body->type == KEEL_JARR && (op->flags & KEEL_BARE_ARRAY) != 0) {
        struct keel_jval *member = keel_arena_alloc(a, sizeof *member);
        *member = *body;
        member->name = op->bare;
        obj->child = member;
        obj->len = 1;
        return KEEL_OK;
    }
    return refuse(err, "wrong_type", NULL, "the body must be a JSON object");
}

static enum keel_status decode_none(const struct keel_request *rq, const struct keel_jval *obj, struct keel_arena *a,
                                    struct keel_record_error *err)
{
    const char *extra = rq->n_query > 0 ? rq->query[0].name : obj->child != NULL ? obj->child->name : NULL;
    if (extra == NULL)
        return KEEL_OK;
    const char *name = keel_arena_strdup(a, extra);
    return refuse(err, "unknown_field", name, keel_arena_printf(a, "%s is not a field of this operation", name));
}

enum keel_status keel_decode_request(const struct keel_op *op, const struct keel_request *rq, struct keel_arena *a,
                                     void **arg, struct keel_ignored *ignored, struct keel_record_error *err)
{
    struct keel_jval obj = {.type = KEEL_JOBJ};
    enum keel_status st = parse_body(op, rq, a, &obj, err);
    if (st != KEEL_OK)
        return st;
    if (op->takes == NULL)
        return decode_none(rq, &obj, a, err);
    for (size_t i = 0; i < rq->n_query && st == KEEL_OK; i++)
        st = add_param(op->takes, &rq->query[i], a, &obj, err);
    for (size_t i = 0; i < rq->n_params && st == KEEL_OK; i++)
        st = add_param(op->takes, &rq->params[i], a, &obj, err);
    if (st != KEEL_OK)
        return st;
    void *out = keel_arena_alloc(a, op->takes->size);
    st = keel_record_decode(op->takes, a, &obj, out, ignored, err);
    if (st == KEEL_OK)
        *arg = out;
    return st;
}

static const struct keel_param *copy_params(struct keel_arena *a, const struct keel_param *from, size_t n)
{
    struct keel_param *to = keel_arena_array(a, n, sizeof *to);
    for (size_t i = 0; i < n; i++)
        to[i] = (struct keel_param){keel_arena_strdup(a, from[i].name), keel_arena_strdup(a, from[i].value)};
    return to;
}

const struct keel_request *keel_request_copy(struct keel_arena *a, const struct keel_request *rq, bool has_body)
{
    struct keel_request *copy = keel_arena_alloc(a, sizeof *copy);
    *copy = (struct keel_request){.query = copy_params(a, rq->query, rq->n_query), .n_query = rq->n_query,
                                  .params = copy_params(a, rq->params, rq->n_params), .n_params = rq->n_params,
                                  .body = has_body ? rq->body : keel_arena_strndup(a, rq->body, rq->body_len),
                                  .body_len = rq->body_len};
    return copy;
}

enum keel_status keel_decode_record(const struct keel_fields *takes, const char *payload, size_t len,
                                    struct keel_arena *a, void **arg, struct keel_ignored *ignored,
                                    struct keel_record_error *err)
{
    const struct keel_jval *body;
    const char *why = "";
    if (takes == NULL)
        return KEEL_OK;
    if (keel_json_parse(a, payload, len, &body, &why) != KEEL_OK)
        return refuse(err, "invalid_json", NULL, why);
    if (body->type != KEEL_JOBJ)
        return refuse(err, "wrong_type", NULL, "the record must be a JSON object");
    void *out = keel_arena_alloc(a, takes->size);
    enum keel_status st = keel_record_decode(takes, a, body, out, ignored, err);
    if (st == KEEL_OK)
        *arg = out;
    return st;
}

static char *unescape(struct keel_arena *a, const char *s, size_t n)
{
    char *out = keel_arena_strndup(a, s, n);
    for (char *p = out; *p != '\0'; p++)
        *p = *p == '+' ? ' ' : *p;
    return keel_unescape(out, &n) ? out : NULL;
}

enum keel_status keel_query_split(struct keel_arena *a, const char *query, struct keel_param *out, size_t cap,
                                  size_t *n)
{
    *n = 0;
    while (*query != '\0') {
        size_t len = strcspn(query, "&"), name = strcspn(query, "=&");
        if (len > 0) {
            const char *value = name < len ? query + name + 1 : query + len;
            if (*n == cap)
                return KEEL_TOOBIG;
            out[*n].name = unescape(a, query, name);
            out[*n].value = unescape(a, value, (size_t)(query + len - value));
            if (out[*n].name == NULL || out[*n].value == NULL)
                return KEEL_INVALID;
            (*n)++;
        }
        query += len + (query[len] == '&');
    }
    return KEEL_OK;
}

/* n lower-case hex digits, not all zero unless zero_ok. */
static bool is_id(const char *s, size_t n, bool zero_ok)
{
    bool zero = true;
    for (size_t i = 0; i < n; i++) {
        if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f')))
            return false;
        zero = zero && s[i] == '0';
    }
    return zero_ok || !zero;
}

bool keel_traceparent_parse(const char *text, char *trace, char *flags)
{
    size_t n = text != NULL ? strlen(text) : 0;
    if (n < 55 || text[2] != '-' || text[35] != '-' || text[52] != '-')
        return false;
    bool version0 = text[0] == '0' && text[1] == '0';
    if (!is_id(text, 2, true) || (text[0] == 'f' && text[1] == 'f') || (n > 55 && (version0 || text[55] != '-')))
        return false;
    if (!is_id(text + 3, 32, false) || !is_id(text + 36, 16, false) || !is_id(text + 53, 2, true))
        return false;
    memcpy(trace, text + 3, 32);
    trace[32] = '\0';
    memcpy(flags, text + 53, 2);
    flags[2] = '\0';
    return true;
}
