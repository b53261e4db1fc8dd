/*
 * Records: one decoder for bodies, messages and options. A value comes as JSON; text (a path or
 * query parameter, an option, a default) is turned into the JSON value it stands for first, so that
 * every value passes the same checks. Decoding goes member by member, then row by row for what is
 * absent. An error is built once, with the dotted path of where it was found.
 *
 * Bounds: both 0, none; max < min, no upper one.
 */
#include "keel/record.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Where we are in nested records: a chain on the stack, printed only when something is wrong. */
struct path {
    const struct path *up;
    const char *name; /* NULL: [index] */
    size_t index;
};

struct ctx {
    struct keel_arena *a;
    struct keel_ignored *ignored;
    struct keel_record_error *err;
};

static void *at(void *base, size_t offset)
{
    return (char *)base + offset;
}

static const void *at_const(const void *base, size_t offset)
{
    return (const char *)base + offset;
}

/* Array fields differ in what they point at; a pointer is stored as bytes. */
static void set_pointer(void *out, size_t offset, const void *p)
{
    memcpy(at(out, offset), &p, sizeof p);
}

static const void *get_pointer(const void *rec, size_t offset)
{
    const void *p;
    memcpy(&p, at_const(rec, offset), sizeof p);
    return p;
}

static void set_count(const struct keel_field *row, void *out, size_t n)
{
    *(size_t *)at(out, row->n_at) = n;
}

static const char *path_text(struct ctx *c, const struct path *p)
{
    if (p == NULL)
        return "";
    const char *up = path_text(c, p->up);
    if (p->name == NULL)
        return keel_arena_printf(c->a, "%s[%zu]", up, p->index);
    return keel_arena_printf(c->a, "%s%s%.128s", up, *up != '\0' ? "." : "", p->name);
}

/* fmt goes on after the field's path. */
static enum keel_status fail(struct ctx *c, const struct path *p, const char *code, const char *fmt,
                             ...) __attribute__((cold, format(printf, 4, 5)));
static enum keel_status fail(struct ctx *c, const struct path *p, const char *code, const char *fmt,
                             ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *field = path_text(c, p);
    const char *rest = keel_arena_vprintf(c->a, fmt, ap);
    va_end(ap);
    const char *subject = *field != '\0' ? field : "the value";
    if (c->err != NULL)
        *c->err = (struct keel_record_error){
            .code = code, .field = field, .detail = keel_arena_printf(c->a, "%s %s", subject, rest)};
    return KEEL_INVALID;
}

/* ---- bounds ---- */

static bool has_bounds(const struct keel_field *row)
{
    return row->min != 0 || row->max != 0;
}

static enum keel_status out_of_range(struct ctx *c, const struct path *p, const struct keel_field *row)
{
    if (row->max < row->min)
        return fail(c, p, "out_of_range", "must be at least %.15g", row->min);
    return fail(c, p, "out_of_range", "must be between %.15g and %.15g", row->min, row->max);
}

static enum keel_status check_f64(struct ctx *c, const struct path *p, const struct keel_field *row,
                                  double v)
{
    bool is_outside = v < row->min || (row->max >= row->min && v > row->max);
    return has_bounds(row) && is_outside ? out_of_range(c, p, row) : KEEL_OK;
}

/* A bound in units of 1 as units of 1e-9, exact to the unit; far bounds stop where no value goes. */
static keel_i128 bound_units(double bound)
{
    const double far = 1e28;
    double b = bound > far ? far : bound < -far ? -far : bound;
    keel_i128 whole = (keel_i128)b;
    double rest = (b - (double)whole) * 1e9;
    return whole * KEEL_SCALE + (keel_i128)(rest < 0 ? rest - 0.5 : rest + 0.5);
}

/* So far from its bounds that no rounding of a double matters; nearly every figure is. */
static bool is_well_inside(const struct keel_field *row, double v)
{
    double slack = 1e-12 * (fabs(v) + fabs(row->min) + fabs(row->max));
    return v > row->min + slack && (row->max < row->min || v < row->max - slack);
}

static enum keel_status check_units(struct ctx *c, const struct path *p, const struct keel_field *row,
                                    keel_i128 v)
{
    if (!has_bounds(row) || is_well_inside(row, (double)v * 1e-9))
        return KEEL_OK;
    bool is_outside =
        v < bound_units(row->min) || (row->max >= row->min && v > bound_units(row->max));
    return is_outside ? out_of_range(c, p, row) : KEEL_OK;
}

/* Length of a text or count of an array. */
static enum keel_status check_count(struct ctx *c, const struct path *p, const struct keel_field *row,
                                    size_t n, bool is_text)
{
    const char *what = is_text ? "bytes" : "elements";
    if (!has_bounds(row))
        return KEEL_OK;
    if ((double)n < row->min)
        return fail(c, p, is_text ? "too_short" : "too_few", "must have at least %.15g %s", row->min,
                    what);
    if (row->max >= row->min && (double)n > row->max)
        return fail(c, p, is_text ? "too_long" : "too_many", "must have at most %.15g %s", row->max,
                    what);
    return KEEL_OK;
}

/* ---- single values ---- */

static bool is_number_or_text(const struct keel_jval *v)
{
    return v->type == KEEL_JNUM || v->type == KEEL_JSTR;
}

static enum keel_status wrong_type(struct ctx *c, const struct path *p, const char *what)
{
    return fail(c, p, "wrong_type", "must be %s", what);
}

static enum keel_status take_i64(struct ctx *c, const struct path *p, const struct keel_jval *v,
                                 int64_t *out)
{
    enum keel_status st = is_number_or_text(v) ? keel_i64_parse(v->text, v->len, out) : KEEL_INVALID;
    if (st == KEEL_TOOBIG)
        return fail(c, p, "out_of_range", "must fit a signed 64-bit integer");
    return st == KEEL_OK ? KEEL_OK : wrong_type(c, p, "an integer");
}

static enum keel_status take_f64(struct ctx *c, const struct path *p, const struct keel_jval *v,
                                 double *out)
{
    enum keel_status st = is_number_or_text(v) ? keel_f64_parse(v->text, v->len, out) : KEEL_INVALID;
    if (st == KEEL_TOOBIG)
        return fail(c, p, "out_of_range", "must be within the range of a double");
    return st == KEEL_OK ? KEEL_OK : wrong_type(c, p, "a number");
}

static enum keel_status take_money(struct ctx *c, const struct path *p, const struct keel_jval *v,
                                   keel_i128 *out)
{
    enum keel_status st = is_number_or_text(v) ? keel_money_parse(v->text, v->len, out) : KEEL_INVALID;
    if (st == KEEL_TOOBIG)
        return fail(c, p, "inexact", "cannot be kept exactly: give a string with at most 9 decimals");
    return st == KEEL_OK ? KEEL_OK : wrong_type(c, p, "a decimal number");
}

static enum keel_status take_dec(struct ctx *c, const struct path *p, const struct keel_jval *v,
                                 int64_t *out)
{
    keel_i128 units = 0;
    enum keel_status st = take_money(c, p, v, &units);
    if (st != KEEL_OK)
        return st;
    if (units < INT64_MIN || units > INT64_MAX)
        return fail(c, p, "out_of_range", "must be between -9223372036.854775808 and 9223372036.854775807");
    *out = (int64_t)units;
    return KEEL_OK;
}

static enum keel_status take_str(struct ctx *c, const struct path *p, const struct keel_jval *v,
                                 const char **out)
{
    if (v->type != KEEL_JSTR)
        return wrong_type(c, p, "a string");
    *out = keel_arena_strndup(c->a, v->text, v->len);
    return KEEL_OK;
}

static enum keel_status take_enum(struct ctx *c, const struct path *p, const struct keel_field *row,
                                  const struct keel_jval *v, int *out)
{
    int i = v->type == KEEL_JSTR ? keel_enum_index(row->unit, v->text, v->len) : -1;
    if (i < 0)
        return fail(c, p, "bad_enum", "must be one of %s", row->unit);
    *out = i;
    return KEEL_OK;
}

/* Any value as text: as it stands in the input, or a scalar written again. */
static enum keel_status take_json(struct ctx *c, const struct path *p, const struct keel_field *row,
                                  const struct keel_jval *v, void *out)
{
    const char *text = v->raw;
    size_t n = v->raw_len;
    if (v->type != KEEL_JARR && v->type != KEEL_JOBJ) {
        struct keel_json w;
        keel_json_init(&w, c->a, v->len + 8);
        keel_json_val(&w, NULL, v);
        text = keel_json_text(&w);
        n = w.len;
    }
    enum keel_status st = check_count(c, p, row, n, true);
    if (st == KEEL_OK) {
        set_pointer(out, row->at, keel_arena_strndup(c->a, text, n));
        set_count(row, out, n);
    }
    return st;
}

static enum keel_status take_scalar(struct ctx *c, const struct path *p, const struct keel_field *row,
                                    const struct keel_jval *v, void *out)
{
    void *slot = at(out, row->at);
    enum keel_status st = KEEL_OK;
    switch (row->type) {
    case KEEL_BOOL:
        if (v->type != KEEL_JBOOL)
            return wrong_type(c, p, "true or false");
        *(bool *)slot = v->boolean;
        return KEEL_OK;
    case KEEL_I64:
        st = take_i64(c, p, v, slot);
        return st == KEEL_OK ? check_f64(c, p, row, (double)*(int64_t *)slot) : st;
    case KEEL_F64:
        st = take_f64(c, p, v, slot);
        return st == KEEL_OK ? check_f64(c, p, row, *(double *)slot) : st;
    case KEEL_DEC:
        st = take_dec(c, p, v, slot);
        return st == KEEL_OK ? check_units(c, p, row, *(int64_t *)slot) : st;
    case KEEL_MONEY:
        st = take_money(c, p, v, slot);
        return st == KEEL_OK ? check_units(c, p, row, *(keel_i128 *)slot) : st;
    case KEEL_TIME:
        if (!is_number_or_text(v) || keel_time_parse(v->text, v->len, slot) != KEEL_OK)
            return wrong_type(c, p, "an RFC 3339 time or integer nanoseconds");
        return check_f64(c, p, row, (double)*(int64_t *)slot);
    case KEEL_ENUM:
        return take_enum(c, p, row, v, slot);
    default:
        keel_assert(row->type == KEEL_STR);
        st = take_str(c, p, v, slot);
        return st == KEEL_OK ? check_count(c, p, row, v->len, true) : st;
    }
}

/* ---- arrays and maps ---- */

static enum keel_status take_pair(struct ctx *c, const struct path *p, const struct keel_jval *v,
                                  struct keel_pair *out)
{
    if (v->type != KEEL_JARR || v->len != 2)
        return wrong_type(c, p, "an array of two numbers");
    struct path first = {.up = p, .index = 0}, second = {.up = p, .index = 1};
    enum keel_status st = take_dec(c, &first, v->child, &out->p);
    return st == KEEL_OK ? take_dec(c, &second, v->child->next, &out->q) : st;
}

static enum keel_status take_record(struct ctx *c, const struct path *p, const struct keel_fields *f,
                                    const struct keel_jval *obj, void *out);

static size_t element_size(const struct keel_field *row)
{
    switch (row->type) {
    case KEEL_STRS:
        return sizeof(const char *);
    case KEEL_PAIRS:
        return sizeof(struct keel_pair);
    case KEEL_RECS:
        return row->sub->size;
    default:
        return sizeof(int64_t);
    }
}
_Static_assert(sizeof(double) == sizeof(int64_t), "elements of F64S, I64S and DECS are as large");

static enum keel_status take_element(struct ctx *c, const struct path *p, const struct keel_field *row,
                                     const struct keel_jval *v, void *slot)
{
    switch (row->type) {
    case KEEL_F64S:
        return take_f64(c, p, v, slot);
    case KEEL_I64S:
        return take_i64(c, p, v, slot);
    case KEEL_DECS:
        return take_dec(c, p, v, slot);
    case KEEL_STRS:
        return take_str(c, p, v, slot);
    case KEEL_PAIRS:
        return take_pair(c, p, v, slot);
    default:
        return take_record(c, p, row->sub, v, slot);
    }
}

static enum keel_status take_array(struct ctx *c, const struct path *p, const struct keel_field *row,
                                   const struct keel_jval *v, void *out)
{
    if (v->type != KEEL_JARR)
        return wrong_type(c, p, "an array");
    enum keel_status st = check_count(c, p, row, v->len, false);
    if (st != KEEL_OK)
        return st;
    size_t size = element_size(row);
    char *elements = keel_arena_array(c->a, v->len, size);
    struct path here = {.up = p};
    for (const struct keel_jval *e = v->child; e != NULL; e = e->next, here.index++) {
        st = take_element(c, &here, row, e, elements + here.index * size);
        if (st != KEEL_OK)
            return st;
    }
    set_pointer(out, row->at, elements);
    set_count(row, out, v->len);
    return KEEL_OK;
}

static enum keel_status take_map(struct ctx *c, const struct path *p, const struct keel_field *row,
                                 const struct keel_jval *v, void *out)
{
    if (v->type != KEEL_JOBJ)
        return wrong_type(c, p, "an object of numbers");
    enum keel_status st = check_count(c, p, row, v->len, false);
    if (st != KEEL_OK)
        return st;
    struct keel_named *members = keel_arena_array(c->a, v->len, sizeof *members);
    size_t n = 0;
    for (const struct keel_jval *m = v->child; m != NULL; m = m->next, n++) {
        struct path here = {.up = p, .name = m->name};
        members[n].name = keel_arena_strdup(c->a, m->name);
        st = take_f64(c, &here, m, &members[n].value);
        if (st != KEEL_OK)
            return st;
    }
    set_pointer(out, row->at, members);
    set_count(row, out, n);
    return KEEL_OK;
}

/* ---- fields and records ---- */

static void note_ignored(struct ctx *c, const struct path *p)
{
    if (c->ignored != NULL && c->ignored->n < KEEL_COUNT(c->ignored->names))
        c->ignored->names[c->ignored->n++] = path_text(c, p);
}

static enum keel_status take_field(struct ctx *c, const struct path *p, const struct keel_field *row,
                                   const struct keel_jval *v, void *out)
{
    enum keel_status st = KEEL_OK;
    switch (row->type) {
    case KEEL_JSON:
        st = take_json(c, p, row, v, out);
        break;
    case KEEL_F64S:
    case KEEL_I64S:
    case KEEL_DECS:
    case KEEL_STRS:
    case KEEL_PAIRS:
    case KEEL_RECS:
        st = take_array(c, p, row, v, out);
        break;
    case KEEL_MAP:
        st = take_map(c, p, row, v, out);
        break;
    case KEEL_REC:
        /* An option may be set again by a source of higher rank. */
        memset(at(out, row->at), 0, row->sub->size);
        st = take_record(c, p, row->sub, v, at(out, row->at));
        break;
    case KEEL_LEGACY:
        note_ignored(c, p);
        break;
    default:
        st = take_scalar(c, p, row, v, out);
        break;
    }
    if (st == KEEL_OK)
        *(bool *)at(out, row->has_at) = true;
    return st;
}

static bool is_word(const char *text, const char *words)
{
    return keel_enum_index(words, text, strlen(text)) >= 0;
}

/* "a, b" as an array of strings; the blank text has no elements. */
static struct keel_jval *split_text(struct ctx *c, const char *text)
{
    struct keel_jval *v = keel_arena_alloc(c->a, sizeof *v), *last = NULL;
    v->type = KEEL_JARR;
    if (text[strspn(text, " ")] == '\0')
        return v;
    for (const char *p = text; p != NULL;) {
        p += strspn(p, " ");
        size_t whole = strcspn(p, ","), n = whole;
        while (n > 0 && p[n - 1] == ' ')
            n--;
        struct keel_jval *e = keel_arena_alloc(c->a, sizeof *e);
        *e = (struct keel_jval){.type = KEEL_JSTR, .text = p, .len = n};
        if (last == NULL)
            v->child = e;
        else
            last->next = e;
        last = e;
        v->len++;
        p = p[whole] == ',' ? p + whole + 1 : NULL;
    }
    return v;
}

/* Read inside an array, so that a value as deep as can be still fits into its record's object. */
static enum keel_status json_from_text(struct ctx *c, const struct path *p, const char *text,
                                       const struct keel_jval **out)
{
    const char *inside = keel_arena_printf(c->a, "[%s]", text), *why = "one value is expected";
    const struct keel_jval *v = NULL;
    if (keel_json_parse(c->a, inside, strlen(inside), &v, &why) != KEEL_OK || v->len != 1)
        return fail(c, p, "wrong_type", "must be JSON: %s", why);
    *out = v->child;
    return KEEL_OK;
}

/* The JSON value that text stands for; *v is blank and may become it. */
static enum keel_status from_text(struct ctx *c, const struct path *p, const struct keel_field *row,
                                  const char *text, struct keel_jval *v, const struct keel_jval **out)
{
    switch (row->type) {
    case KEEL_BOOL:
        v->type = KEEL_JBOOL;
        v->boolean = !is_word(text, "false|0|no|off"); /* what most defaults are */
        if (v->boolean && !is_word(text, "true|1|yes|on"))
            return wrong_type(c, p, "true or false");
        *out = v;
        return KEEL_OK;
    case KEEL_F64S:
    case KEEL_I64S:
    case KEEL_DECS:
    case KEEL_STRS:
        *out = split_text(c, text);
        return KEEL_OK;
    case KEEL_JSON:
    case KEEL_PAIRS:
    case KEEL_MAP:
    case KEEL_REC:
    case KEEL_RECS:
        return json_from_text(c, p, text, out);
    default:
        v->type = KEEL_JSTR;
        v->text = text;
        v->len = strlen(text);
        *out = v;
        return KEEL_OK;
    }
}

static enum keel_status take_text(struct ctx *c, const struct path *p, const struct keel_field *row,
                                  const char *text, void *out)
{
    struct keel_jval own = {0};
    const struct keel_jval *v = NULL;
    enum keel_status st = from_text(c, p, row, text, &own, &v);
    return st == KEEL_OK ? take_field(c, p, row, v, out) : st;
}

/* Rows that were not given: the default, nothing, or an error. */
static enum keel_status finish(struct ctx *c, const struct path *up, const struct keel_fields *f,
                               void *out)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct keel_field *row = &f->rows[i];
        struct path p = {.up = up, .name = row->name};
        if (row->type == KEEL_LEGACY || row->type == KEEL_REST || *(bool *)at(out, row->has_at))
            continue;
        if (row->dflt == NULL)
            return fail(c, &p, "missing", "is required");
        if (row->dflt[0] != KEEL_OPT[0]) {
            enum keel_status st = take_text(c, &p, row, row->dflt, out);
            if (st != KEEL_OK)
                return st;
        } else if (row->type == KEEL_STR || row->type == KEEL_JSON) {
            set_pointer(out, row->at, "");
        }
    }
    return KEEL_OK;
}

const struct keel_field *keel_field_find(const struct keel_fields *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++) {
        if (f->rows[i].name[0] == name[0] && f->rows[i].type != KEEL_REST && strcmp(f->rows[i].name, name) == 0)
            return &f->rows[i];
    }
    return NULL;
}

static const struct keel_field *rest_row(const struct keel_fields *f)
{
    for (size_t i = 0; i < f->n; i++) {
        if (f->rows[i].type == KEEL_REST)
            return &f->rows[i];
    }
    return NULL;
}

static enum keel_status unknown_field(struct ctx *c, const struct path *p, const struct keel_fields *f)
{
    return fail(c, p, "unknown_field", "is not a field of %s", f->name);
}

static enum keel_status take_member(struct ctx *c, const struct path *p, const struct keel_fields *f,
                                    const struct keel_jval *m, void *out)
{
    const struct keel_field *row = keel_field_find(f, m->name), *rest;
    if (row != NULL)
        return m->type == KEEL_JNULL ? KEEL_OK : take_field(c, p, row, m, out);
    rest = rest_row(f);
    if (rest == NULL)
        return unknown_field(c, p, f);
    *(bool *)at(out, rest->has_at) = true;
    note_ignored(c, p);
    return KEEL_OK;
}

/* out is zeroed. */
static enum keel_status take_record(struct ctx *c, const struct path *p, const struct keel_fields *f,
                                    const struct keel_jval *obj, void *out)
{
    if (obj->type != KEEL_JOBJ)
        return wrong_type(c, p, "a JSON object");
    for (const struct keel_jval *m = obj->child; m != NULL; m = m->next) {
        struct path here = {.up = p, .name = m->name};
        enum keel_status st = take_member(c, &here, f, m, out);
        if (st != KEEL_OK)
            return st;
    }
    return finish(c, p, f, out);
}

enum keel_status keel_record_decode(const struct keel_fields *f, struct keel_arena *a,
                                    const struct keel_jval *obj, void *out,
                                    struct keel_ignored *ignored, struct keel_record_error *err)
{
    struct ctx c = {.a = a, .ignored = ignored, .err = err};
    memset(out, 0, f->size);
    if (obj == NULL || obj->type == KEEL_JNULL)
        return finish(&c, NULL, f, out);
    return take_record(&c, NULL, f, obj, out);
}

enum keel_status keel_record_set(const struct keel_fields *f, struct keel_arena *a, void *out,
                                 const char *name, const char *text, struct keel_record_error *err)
{
    struct ctx c = {.a = a, .err = err};
    struct path p = {.name = name};
    const struct keel_field *row = keel_field_find(f, name);
    if (row == NULL)
        return unknown_field(&c, &p, f);
    return keel_utf8_valid(text, strlen(text)) ? take_text(&c, &p, row, text, out) : wrong_type(&c, &p, "valid UTF-8");
}

enum keel_status keel_record_finish(const struct keel_fields *f, struct keel_arena *a, void *out,
                                    struct keel_record_error *err)
{
    struct ctx c = {.a = a, .err = err};
    return finish(&c, NULL, f, out);
}

/* ---- writing ---- */

static void encode_array(const struct keel_field *row, const void *rec, struct keel_json *w)
{
    const void *all = get_pointer(rec, row->at);
    size_t n = *(const size_t *)at_const(rec, row->n_at), size = element_size(row);
    keel_json_arr(w, row->name);
    for (size_t i = 0; i < n; i++) {
        const void *e = at_const(all, i * size);
        if (row->type == KEEL_F64S) {
            keel_json_f64(w, NULL, *(const double *)e);
        } else if (row->type == KEEL_I64S) {
            keel_json_i64(w, NULL, *(const int64_t *)e);
        } else if (row->type == KEEL_DECS) {
            keel_json_dec(w, NULL, *(const int64_t *)e);
        } else if (row->type == KEEL_STRS) {
            keel_json_str(w, NULL, *(const char *const *)e);
        } else if (row->type == KEEL_PAIRS) {
            keel_json_arr(w, NULL);
            keel_json_dec(w, NULL, ((const struct keel_pair *)e)->p);
            keel_json_dec(w, NULL, ((const struct keel_pair *)e)->q);
            keel_json_end(w);
        } else {
            keel_json_obj(w, NULL);
            keel_record_encode(row->sub, e, w);
            keel_json_end(w);
        }
    }
    keel_json_end(w);
}

static void encode_map(const struct keel_field *row, const void *rec, struct keel_json *w)
{
    const struct keel_named *members = get_pointer(rec, row->at);
    size_t n = *(const size_t *)at_const(rec, row->n_at);
    keel_json_obj(w, row->name);
    for (size_t i = 0; i < n; i++)
        keel_json_f64(w, members[i].name, members[i].value);
    keel_json_end(w);
}

static void encode_field(const struct keel_field *row, const void *rec, struct keel_json *w)
{
    const void *slot = at_const(rec, row->at);
    char name[64];
    switch (row->type) {
    case KEEL_BOOL:
        keel_json_bool(w, row->name, *(const bool *)slot);
        break;
    case KEEL_I64:
        keel_json_i64(w, row->name, *(const int64_t *)slot);
        break;
    case KEEL_F64:
        keel_json_f64(w, row->name, *(const double *)slot);
        break;
    case KEEL_DEC:
        keel_json_dec(w, row->name, *(const int64_t *)slot);
        break;
    case KEEL_MONEY:
        keel_json_money(w, row->name, *(const keel_i128 *)slot);
        break;
    case KEEL_TIME:
        keel_json_time(w, row->name, *(const int64_t *)slot);
        break;
    case KEEL_ENUM:
        keel_json_str(w, row->name, keel_enum_name(row, *(const int *)slot, name, sizeof name));
        break;
    case KEEL_STR:
        keel_json_str(w, row->name, *(const char *const *)slot);
        break;
    case KEEL_JSON:
        keel_json_raw(w, row->name, *(const char *const *)slot,
                      *(const size_t *)at_const(rec, row->n_at));
        break;
    case KEEL_MAP:
        encode_map(row, rec, w);
        break;
    case KEEL_REC:
        keel_json_obj(w, row->name);
        keel_record_encode(row->sub, slot, w);
        keel_json_end(w);
        break;
    case KEEL_LEGACY:
    case KEEL_REST:
        break;
    default:
        encode_array(row, rec, w);
        break;
    }
}

void keel_record_encode(const struct keel_fields *f, const void *rec, struct keel_json *w)
{
    for (size_t i = 0; i < f->n; i++) {
        if (*(const bool *)at_const(rec, f->rows[i].has_at))
            encode_field(&f->rows[i], rec, w);
    }
}

/* ---- enums ---- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool is_same(const char *x, const char *y, size_t n, bool any_case)
{
    for (size_t i = 0; i < n; i++) {
        if (x[i] != y[i] && !(any_case && lower(x[i]) == lower(y[i])))
            return false;
    }
    return true;
}

/* Names are short: a loop is done before strcspn has prepared itself. */
static size_t name_length(const char *p)
{
    size_t n = 0;
    while (p[n] != '\0' && p[n] != '|')
        n++;
    return n;
}

static int name_index(const char *names, const char *name, size_t len, bool any_case)
{
    int index = 0;
    for (const char *p = names;; index++) {
        size_t n = name_length(p);
        if (n == len && is_same(p, name, n, any_case))
            return index;
        if (p[n] == '\0')
            return -1;
        p += n + 1;
    }
}

int keel_enum_index(const char *names, const char *name, size_t len)
{
    int exact = name_index(names, name, len, false);
    return exact >= 0 ? exact : name_index(names, name, len, true);
}

const char *keel_enum_name(const struct keel_field *row, int value, char *buf, size_t cap)
{
    const char *p = row->unit;
    keel_assert(value >= 0);
    for (int i = 0; i < value; i++) {
        p = strchr(p, '|');
        keel_assert(p != NULL);
        p++;
    }
    size_t n = name_length(p);
    keel_assert(n < cap);
    memcpy(buf, p, n);
    buf[n] = '\0';
    return buf;
}
