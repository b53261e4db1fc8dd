/*
 * The table as documents: OpenAPI 3.1 for clients, and the description that --describe prints for the scripts
 * that generate files. Both are read off the same rows as the router and the decoder, so they cannot say
 * anything else than what happens.
 */
#include "rt.h"

#include <stdio.h>
#include <string.h>

enum { MAX_RECORDS = 128 };

static const char *const level_name[] = {"critical", "high", "normal", "low"};
static const char *const scope_name[] = {"read", "any", "trade", "admin", "engine", "engine_or_admin"};
static const char *const on_name[] = {"http", "topic", "timer", "websocket", "source", "call"};
static const char *const type_name[] = {
    [KEEL_BOOL] = "bool",     [KEEL_I64] = "i64",       [KEEL_F64] = "f64",     [KEEL_DEC] = "decimal",
    [KEEL_MONEY] = "money",   [KEEL_TIME] = "time",     [KEEL_ENUM] = "enum",   [KEEL_STR] = "string",
    [KEEL_JSON] = "json",     [KEEL_F64S] = "f64s",     [KEEL_I64S] = "i64s",   [KEEL_DECS] = "decimals",
    [KEEL_STRS] = "strings",  [KEEL_PAIRS] = "pairs",   [KEEL_REC] = "record",  [KEEL_RECS] = "records",
    [KEEL_MAP] = "map",       [KEEL_LEGACY] = "legacy", [KEEL_REST] = "rest"};

static bool is_required(const struct keel_field *f)
{
    return f->dflt == NULL && f->type != KEEL_LEGACY && f->type != KEEL_REST;
}

static bool has_default(const struct keel_field *f)
{
    return f->dflt != NULL && f->dflt[0] != KEEL_OPT[0];
}

/* ---- schemas ---- */

/* Nested records, each written once as a component. */
struct records { const struct keel_fields *at[MAX_RECORDS]; size_t n; };

static void collect(struct records *r, const struct keel_fields *fields)
{
    for (size_t i = 0; fields != NULL && i < fields->n; i++) {
        const struct keel_fields *sub = fields->rows[i].sub;
        size_t k = 0;
        while (k < r->n && r->at[k] != sub)
            k++;
        if (sub == NULL || k < r->n)
            continue;
        keel_assert(r->n < MAX_RECORDS);
        r->at[r->n++] = sub;
        collect(r, sub);
    }
}

static void write_types(struct keel_json *w, const char *first, const char *second)
{
    keel_json_arr(w, "type");
    keel_json_str(w, NULL, first);
    keel_json_str(w, NULL, second);
    keel_json_end(w);
}

static bool is_bounded(const struct keel_field *f)
{
    return f->min < f->max || f->min > f->max || f->min > 0 || f->min < 0;
}

static void write_bounds(struct keel_json *w, const struct keel_field *f, const char *low, const char *high)
{
    if (!is_bounded(f))
        return;
    keel_json_f64(w, low, f->min);
    keel_json_f64(w, high, f->max);
}

static void write_enum(struct keel_json *w, const char *names)
{
    keel_json_arr(w, "enum");
    while (*names != '\0') {
        size_t n = strcspn(names, "|");
        keel_json_strn(w, NULL, names, n);
        names += n + (names[n] == '|');
    }
    keel_json_end(w);
}

static void write_default(struct keel_json *w, const struct keel_field *f)
{
    int64_t whole;
    double real;
    size_t n;

    if (!has_default(f))
        return;
    n = strlen(f->dflt);
    if (f->type == KEEL_I64 && keel_i64_parse(f->dflt, n, &whole) == KEEL_OK)
        keel_json_i64(w, "default", whole);
    else if (f->type == KEEL_F64 && keel_f64_parse(f->dflt, n, &real) == KEEL_OK)
        keel_json_f64(w, "default", real);
    else if (f->type == KEEL_BOOL)
        keel_json_bool(w, "default", strcmp(f->dflt, "true") == 0);
    else if (f->type < KEEL_JSON)
        keel_json_str(w, "default", f->dflt);
}

/* Decimals are taken as numbers and as strings. */
static void write_decimal(struct keel_json *w)
{
    write_types(w, "number", "string");
    keel_json_str(w, "format", "decimal");
}

static void write_ref(struct keel_json *w, const char *name)
{
    char ref[128];

    snprintf(ref, sizeof ref, "#/components/schemas/%s", name);
    keel_json_str(w, "$ref", ref);
}

static void write_items(struct keel_json *w, const struct keel_field *f)
{
    keel_json_str(w, "type", "array");
    write_bounds(w, f, "minItems", "maxItems");
    keel_json_obj(w, "items");
    switch (f->type) {
    case KEEL_F64S:
        keel_json_str(w, "type", "number");
        break;
    case KEEL_I64S:
        keel_json_str(w, "type", "integer");
        break;
    case KEEL_STRS:
        keel_json_str(w, "type", "string");
        break;
    case KEEL_DECS:
        write_decimal(w);
        break;
    case KEEL_PAIRS:
        keel_json_str(w, "type", "array");
        keel_json_i64(w, "minItems", 2);
        keel_json_i64(w, "maxItems", 2);
        keel_json_obj(w, "items");
        write_decimal(w);
        keel_json_end(w);
        break;
    default:
        write_ref(w, f->sub->name);
        break;
    }
    keel_json_end(w);
}

/* The members of the schema of one field, into the open object. */
static void write_shape(struct keel_json *w, const struct keel_field *f)
{
    switch (f->type) {
    case KEEL_BOOL:
        keel_json_str(w, "type", "boolean");
        break;
    case KEEL_I64:
        keel_json_str(w, "type", "integer");
        keel_json_str(w, "format", "int64");
        write_bounds(w, f, "minimum", "maximum");
        break;
    case KEEL_F64:
        keel_json_str(w, "type", "number");
        keel_json_str(w, "format", "double");
        write_bounds(w, f, "minimum", "maximum");
        break;
    case KEEL_DEC:
    case KEEL_MONEY:
        write_decimal(w);
        write_bounds(w, f, "minimum", "maximum");
        break;
    case KEEL_TIME:
        write_types(w, "string", "integer");
        keel_json_str(w, "format", "date-time");
        break;
    case KEEL_ENUM:
        keel_json_str(w, "type", "string");
        write_enum(w, f->unit);
        break;
    case KEEL_STR:
        keel_json_str(w, "type", "string");
        write_bounds(w, f, "minLength", "maxLength");
        break;
    case KEEL_JSON:
        write_bounds(w, f, "x-min-bytes", "x-max-bytes");
        break;
    case KEEL_F64S:
    case KEEL_I64S:
    case KEEL_DECS:
    case KEEL_STRS:
    case KEEL_PAIRS:
    case KEEL_RECS:
        write_items(w, f);
        break;
    case KEEL_REC:
        write_ref(w, f->sub->name);
        break;
    case KEEL_MAP:
        keel_json_str(w, "type", "object");
        write_bounds(w, f, "minProperties", "maxProperties");
        keel_json_obj(w, "additionalProperties");
        write_types(w, "number", "string");
        keel_json_end(w);
        break;
    case KEEL_LEGACY:
        keel_json_bool(w, "deprecated", true);
        break;
    case KEEL_REST:
        break;
    }
}

static void write_field(struct keel_json *w, const char *key, const struct keel_field *f)
{
    keel_json_obj(w, key);
    write_shape(w, f);
    write_default(w, f);
    if (f->help != NULL && *f->help != '\0')
        keel_json_str(w, "description", f->help);
    if (f->type != KEEL_ENUM && f->unit != NULL && *f->unit != '\0')
        keel_json_str(w, "x-unit", f->unit);
    keel_json_end(w);
}

static bool in_path(const char *path, const char *name)
{
    size_t n = strlen(name);

    for (const char *at = strchr(path, '{'); at != NULL; at = strchr(at + 1, '{'))
        if (strncmp(at + 1, name, n) == 0 && at[n + 1] == '}')
            return true;
    return false;
}

/* Members of an object's schema, without what the path says. */
static void write_object(struct keel_json *w, const struct keel_fields *fields, const char *path)
{
    bool open = false;

    keel_json_str(w, "type", "object");
    keel_json_obj(w, "properties");
    for (size_t i = 0; i < fields->n; i++) {
        open |= fields->rows[i].type == KEEL_REST;
        if (fields->rows[i].type != KEEL_REST && !in_path(path, fields->rows[i].name))
            write_field(w, fields->rows[i].name, &fields->rows[i]);
    }
    keel_json_end(w);
    keel_json_arr(w, "required");
    for (size_t i = 0; i < fields->n; i++)
        if (is_required(&fields->rows[i]) && !in_path(path, fields->rows[i].name))
            keel_json_str(w, NULL, fields->rows[i].name);
    keel_json_end(w);
    keel_json_bool(w, "additionalProperties", open);
}

/* ---- paths ---- */

static bool is_safe(const struct keel_op *op)
{
    return strcmp(op->on.method, "GET") == 0;
}

static void write_parameter(struct keel_json *w, const struct keel_field *f, bool is_path)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "name", f->name);
    keel_json_str(w, "in", is_path ? "path" : "query");
    keel_json_bool(w, "required", is_path || is_required(f));
    write_field(w, "schema", f);
    keel_json_end(w);
}

/* GET and DELETE take the rest of their fields from the query, the others from the body. */
static void write_input(struct keel_json *w, const struct keel_op *op)
{
    bool by_query = is_safe(op) || strcmp(op->on.method, "DELETE") == 0;
    size_t n_body = 0;

    if (op->takes == NULL)
        return;
    keel_json_arr(w, "parameters");
    for (size_t i = 0; i < op->takes->n; i++) {
        const struct keel_field *f = &op->takes->rows[i];
        bool is_path = in_path(op->on.path, f->name);
        if (f->type == KEEL_REST)
            continue;
        if (is_path || by_query)
            write_parameter(w, f, is_path);
        else
            n_body++;
    }
    keel_json_end(w);
    if (by_query || n_body == 0)
        return;
    keel_json_obj(w, "requestBody");
    keel_json_obj(w, "content");
    keel_json_obj(w, "application/json");
    keel_json_obj(w, "schema");
    write_object(w, op->takes, op->on.path);
    for (int i = 0; i < 4; i++)
        keel_json_end(w);
}

static void write_answer(struct keel_json *w, const char *code, const char *description, const char *type,
                         const char *schema)
{
    keel_json_obj(w, code);
    keel_json_str(w, "description", description);
    keel_json_obj(w, "content");
    keel_json_obj(w, type);
    keel_json_obj(w, "schema");
    if (schema != NULL)
        write_ref(w, schema);
    else
        keel_json_str(w, "type", "object");
    for (int i = 0; i < 4; i++)
        keel_json_end(w);
}

static void write_problem(struct keel_json *w, enum keel_status st)
{
    char code[8];

    snprintf(code, sizeof code, "%d", keel_status_http(st));
    write_answer(w, code, keel_status_text(st), "application/problem+json", "problem");
}

static void write_answers(struct keel_json *w, const struct keel_op *op)
{
    static const enum keel_status every[] = {KEEL_INVALID, KEEL_NOTFOUND, KEEL_OPEN, KEEL_TIMEOUT};

    keel_json_obj(w, "responses");
    if (op->flags & KEEL_JOB)
        write_answer(w, "202", "accepted; GET /jobs/{job_id} follows it", "application/json", NULL);
    else
        write_answer(w, "200", "ok", "application/json", NULL);
    if (op->scope != KEEL_SCOPE_ANY) {
        write_problem(w, KEEL_UNAUTHORIZED);
        write_problem(w, KEEL_FORBIDDEN);
    }
    if (!is_safe(op)) {
        write_problem(w, KEEL_TOOBIG);
        write_problem(w, KEEL_MEDIA);
        write_problem(w, KEEL_UNDEFINED);
    }
    if (!(op->flags & KEEL_PREBUILT))
        for (size_t i = 0; i < KEEL_COUNT(every); i++)
            write_problem(w, every[i]);
    write_answer(w, "default", "any other failure", "application/problem+json", "problem");
    keel_json_end(w);
}

static void write_operation(struct keel_json *w, const struct keel_op *op)
{
    char method[8] = "";

    for (size_t i = 0; op->on.method[i] != '\0' && i < sizeof method - 1; i++)
        method[i] = (char)(op->on.method[i] | 0x20);
    keel_json_obj(w, method);
    keel_json_str(w, "operationId", op->id);
    if (op->help != NULL)
        keel_json_str(w, "summary", op->help);
    keel_json_str(w, "x-level", level_name[op->level]);
    keel_json_str(w, "x-scope", scope_name[op->scope]);
    if (op->deadline_ms > 0)
        keel_json_f64(w, "x-deadline-ms", op->deadline_ms);
    if (op->target_ms > 0)
        keel_json_i64(w, "x-target-ms", op->target_ms);
    write_input(w, op);
    write_answers(w, op);
    if (op->scope != KEEL_SCOPE_ANY) {
        keel_json_arr(w, "security");
        keel_json_obj(w, NULL); /* none needed: an engine without tokens */
        keel_json_end(w);
        keel_json_obj(w, NULL);
        keel_json_arr(w, "bearer");
        keel_json_end(w);
        keel_json_end(w);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static bool is_http(const struct keel_op *op)
{
    return op->on.kind == KEEL_ON_HTTP;
}

static bool seen_before(const struct keel_rt *rt, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (is_http(&rt->ops[k]) && strcmp(rt->ops[k].on.path, rt->ops[i].on.path) == 0)
            return true;
    return false;
}

static void write_paths(struct keel_json *w, const struct keel_rt *rt)
{
    keel_json_obj(w, "paths");
    for (size_t i = 0; i < rt->n_ops; i++) {
        if (!is_http(&rt->ops[i]) || seen_before(rt, i))
            continue;
        keel_json_obj(w, rt->ops[i].on.path);
        for (size_t k = i; k < rt->n_ops; k++)
            if (is_http(&rt->ops[k]) && strcmp(rt->ops[k].on.path, rt->ops[i].on.path) == 0)
                write_operation(w, &rt->ops[k]);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void write_problem_schema(struct keel_json *w)
{
    static const char *const members[] = {"type", "title", "detail", "code", "field", "trace_id"};

    keel_json_obj(w, "problem");
    keel_json_str(w, "type", "object");
    keel_json_str(w, "description", "RFC 9457");
    keel_json_obj(w, "properties");
    for (size_t i = 0; i < KEEL_COUNT(members); i++) {
        keel_json_obj(w, members[i]);
        keel_json_str(w, "type", "string");
        keel_json_end(w);
    }
    keel_json_obj(w, "status");
    keel_json_str(w, "type", "integer");
    keel_json_end(w);
    keel_json_end(w);
    keel_json_end(w);
}

static void write_components(struct keel_json *w, const struct keel_rt *rt)
{
    struct records records = {.n = 0};

    for (size_t i = 0; i < rt->n_ops; i++)
        if (is_http(&rt->ops[i]))
            collect(&records, rt->ops[i].takes);
    keel_json_obj(w, "components");
    keel_json_obj(w, "schemas");
    write_problem_schema(w);
    for (size_t i = 0; i < records.n; i++) {
        keel_json_obj(w, records.at[i]->name);
        write_object(w, records.at[i], "");
        keel_json_end(w);
    }
    keel_json_end(w);
    keel_json_obj(w, "securitySchemes");
    keel_json_obj(w, "bearer");
    keel_json_str(w, "type", "http");
    keel_json_str(w, "scheme", "bearer");
    keel_json_end(w);
    keel_json_end(w);
    keel_json_end(w);
}

void keel_openapi_write(struct keel_rt *rt, struct keel_json *w)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "openapi", "3.1.0");
    keel_json_obj(w, "info");
    keel_json_str(w, "title", rt->engine->title != NULL ? rt->engine->title : rt->engine->name);
    keel_json_str(w, "version", KEEL_VERSION);
    keel_json_end(w);
    write_paths(w, rt);
    write_components(w, rt);
    keel_json_end(w);
}

/* ---- the description ---- */

static void describe_fields(struct keel_json *w, const char *key, const struct keel_fields *fields)
{
    keel_json_arr(w, key);
    for (size_t i = 0; fields != NULL && i < fields->n; i++) {
        const struct keel_field *f = &fields->rows[i];
        keel_json_obj(w, NULL);
        keel_json_str(w, "name", f->name);
        keel_json_str(w, "type", type_name[f->type]);
        keel_json_bool(w, "required", is_required(f));
        keel_json_str(w, "default", has_default(f) ? f->dflt : NULL);
        if (is_bounded(f)) {
            keel_json_f64(w, "min", f->min);
            keel_json_f64(w, "max", f->max);
        }
        keel_json_str(w, "unit", f->unit);
        keel_json_str(w, "help", f->help);
        if (f->sub != NULL)
            describe_fields(w, "fields", f->sub);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void describe_names(struct keel_json *w, const char *key, const char *const *names)
{
    keel_json_arr(w, key);
    for (; names != NULL && *names != NULL; names++)
        keel_json_str(w, NULL, *names);
    keel_json_end(w);
}

static void describe_flags(struct keel_json *w, unsigned flags)
{
    static const struct { unsigned flag; const char *name; } names[] = {
        {KEEL_MUST, "must"}, {KEEL_JOB, "job"}, {KEEL_HYBRID_ONLY, "hybrid_only"}, {KEEL_PREBUILT, "prebuilt"}, {KEEL_LIVE, "live"},
        {KEEL_INLINE, "inline"}, {KEEL_BARE_ARRAY, "bare_array"}};

    keel_json_arr(w, "flags");
    for (size_t i = 0; i < KEEL_COUNT(names); i++)
        if (flags & names[i].flag)
            keel_json_str(w, NULL, names[i].name);
    keel_json_end(w);
}

static void describe_op(struct keel_json *w, const struct keel_op *op)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "id", op->id);
    keel_json_str(w, "on", on_name[op->on.kind]);
    if (op->on.method != NULL)
        keel_json_str(w, "method", op->on.method);
    if (op->on.path != NULL)
        keel_json_str(w, op->on.kind == KEEL_ON_TOPIC ? "topic" : "path", op->on.path);
    if (op->on.kind == KEEL_ON_TOPIC)
        keel_json_str(w, "read", op->on.read == KEEL_SHARE ? "share" : "each");
    if (op->on.kind == KEEL_ON_TIMER)
        keel_json_i64(w, "every_ms", op->on.every_ms);
    keel_json_str(w, "level", level_name[op->level]);
    keel_json_f64(w, "deadline_ms", op->deadline_ms);
    keel_json_f64(w, "target_ms", op->target_ms > 0 ? (double)op->target_ms : op->deadline_ms);
    if (is_http(op) || op->on.kind == KEEL_ON_WS)
        keel_json_str(w, "scope", scope_name[op->scope]);
    if (op->max_body > 0)
        keel_json_u64(w, "max_body", op->max_body);
    keel_json_str(w, "key", op->key);
    keel_json_bool(w, "works", op->work != NULL);
    describe_flags(w, op->flags);
    describe_names(w, "fallbacks", op->fallbacks);
    keel_json_str(w, "help", op->help);
    describe_fields(w, "fields", op->takes);
    keel_json_end(w);
}

void keel_describe_write(const struct keel_engine *engine, const struct keel_op *ops, size_t n, struct keel_json *w)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "engine", engine->name);
    keel_json_str(w, "title", engine->title);
    keel_json_str(w, "version", KEEL_VERSION);
    keel_json_i64(w, "port", engine->port);
    keel_json_bool(w, "has_store", engine->schema != NULL);
    keel_json_arr(w, "ops");
    for (size_t i = 0; i < n; i++)
        describe_op(w, &ops[i]);
    keel_json_end(w);
    describe_names(w, "publishes", engine->publishes);
    describe_names(w, "peers", engine->peers);
    keel_json_arr(w, "probes");
    for (size_t i = 0; i < engine->n_probes; i++) {
        keel_json_obj(w, NULL);
        keel_json_str(w, "id", engine->probes[i].id);
        keel_json_bool(w, "required", engine->probes[i].required);
        keel_json_end(w);
    }
    keel_json_end(w);
    describe_fields(w, "core_options", &keel_core_options_fields);
    describe_fields(w, "options", engine->options);
    keel_json_end(w);
}
