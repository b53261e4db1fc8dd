/*
 * Options are records: the core's, its breakers', the addresses of the nine engines, the engine's own. Every value,
 * wherever it came from, becomes a member of one JSON object a record, so the one decoder checks them all
 * and names what is wrong.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus_priv.h"
#include "call_priv.h"
#include "keel/redis_url.h"

#define MAX_FILE (1U << 20)

KEEL_RECORD_TABLE(keel_core_options, KEEL_CORE_OPTIONS);
KEEL_RECORD_TABLE(keel_peer_urls, KEEL_PEER_URLS);
KEEL_RECORD_TABLE(keel_breaker_options, KEEL_BREAKER_OPTIONS);

static const char *const secrets[] = {"read_token", "trade_token", "admin_token", "engine_token", "redis_password",
                                      "redis_sentinel_password"};

struct reader {
    const struct keel_engine *engine;
    struct keel_arena *a;
    int argc;
    char **argv;
    const struct keel_jval *file; /* NULL: there is none */
    const char *path;
    char *err;
    size_t cap;
};

struct value { const char *text; const struct keel_jval *json; const char *from; };

__attribute__((format(printf, 2, 3))) static enum keel_status refuse(const struct reader *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->err, r->cap, fmt, ap);
    va_end(ap);
    return KEEL_INVALID;
}

/* ---- where a value comes from ---- */

/* "--max-calls" and "--max_calls=9" name max_calls; *text: what follows '=', NULL without. */
static bool is_arg(const char *arg, const char *name, const char **text)
{
    if (strncmp(arg, "--", 2) != 0)
        return false;
    arg += 2;
    for (; *name != '\0'; name++, arg++) {
        if (*arg != *name && !(*arg == '-' && *name == '_'))
            return false;
    }
    *text = *arg == '=' ? arg + 1 : NULL;
    return *arg == '=' || *arg == '\0';
}

static const struct keel_field *field_of(const struct reader *r, const char *name)
{
    const struct keel_field *f = keel_field_find(&keel_core_options_fields, name);
    if (f == NULL)
        f = keel_field_find(&keel_peer_urls_fields, name);
    if (f == NULL)
        f = keel_field_find(&keel_breaker_options_fields, name);
    return f == NULL && r->engine->options != NULL ? keel_field_find(r->engine->options, name) : f;
}

static bool is_secret_file(const char *name)
{
    for (size_t i = 0; i < KEEL_COUNT(secrets); i++) {
        size_t n = strlen(secrets[i]);
        if (strncmp(name, secrets[i], n) == 0 && strcmp(name + n, "_file") == 0)
            return true;
    }
    return false;
}

/* Name of the argument at i, as the tables have it; NULL: it is none. */
static const char *arg_name(const struct reader *r, int i)
{
    const char *arg = r->argv[i];
    if (strncmp(arg, "--", 2) != 0 || arg[2] == '\0')
        return NULL;
    char *name = keel_arena_strndup(r->a, arg + 2, strcspn(arg + 2, "="));
    for (char *p = name; *p != '\0'; p++)
        *p = *p == '-' ? '_' : *p;
    return name;
}

static bool takes_no_text(const struct keel_field *f, const char *next)
{
    return f != NULL && f->type == KEEL_BOOL && (next == NULL || strncmp(next, "--", 2) == 0);
}

/* The last argument of that name wins. */
static struct value from_args(const struct reader *r, const char *name)
{
    struct value v = {0};
    for (int i = 1; i < r->argc; i++) {
        const char *text;
        const char *next = i + 1 < r->argc ? r->argv[i + 1] : NULL;
        if (!is_arg(r->argv[i], name, &text))
            continue;
        v.from = "command line";
        v.text = text != NULL ? text : takes_no_text(field_of(r, name), next) ? "true" : next;
    }
    return v;
}

static const char *upper(struct keel_arena *a, const char *name)
{
    char *s = keel_arena_strdup(a, name);
    for (char *p = s; *p != '\0'; p++)
        *p = *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;
    return s;
}

/* Compose files pass on what is not set as an empty text: that counts only where an empty text is a value. */
static struct value from_environment(const struct reader *r, const char *name, const struct keel_field *f)
{
    const char *text = getenv(upper(r->a, name));
    if (text == NULL || (text[0] == '\0' && (f == NULL || f->type != KEEL_STR || f->min > 0)))
        return (struct value){0};
    return (struct value){.text = text, .from = "environment"};
}

static struct value find(const struct reader *r, const char *name, const struct keel_field *f)
{
    struct value v = from_args(r, name);
    if (v.from == NULL)
        v = from_environment(r, name, f);
    if (v.from == NULL && (v.json = keel_jget(r->file, name)) != NULL)
        v.from = r->path;
    return v;
}

/* ---- the command line ---- */

static const struct { const char *name; enum keel_verb verb; } verbs[] = {
    {"help", KEEL_HELP},           {"version", KEEL_VERSION_TEXT}, {"print_config", KEEL_PRINT_CONFIG},
    {"check_config", KEEL_CHECK_CONFIG}, {"describe", KEEL_DESCRIBE},    {"probe", KEEL_PROBE},
};

static const enum keel_verb *verb_of(const char *name)
{
    for (size_t i = 0; i < KEEL_COUNT(verbs); i++) {
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i].verb;
    }
    return NULL;
}

static enum keel_status check_args(struct reader *r, struct keel_opts *o)
{
    for (int i = 1; i < r->argc; i++) {
        const char *arg = r->argv[i], *name = arg_name(r, i);
        const char *next = i + 1 < r->argc ? r->argv[i + 1] : NULL;
        if (name == NULL)
            return refuse(r, "%s: an option begins with --; see --help", arg);
        const enum keel_verb *verb = verb_of(name);
        const struct keel_field *f = field_of(r, name);
        if (verb != NULL) {
            o->verb = *verb;
            continue;
        }
        if (f == NULL && strcmp(name, "config") != 0 && !is_secret_file(name))
            return refuse(r, "%s: no such option; see --help", arg);
        if (strchr(arg, '=') != NULL || takes_no_text(f, next))
            continue;
        if (next == NULL)
            return refuse(r, "%s: a value is missing", arg);
        i++;
    }
    return KEEL_OK;
}

/* ---- files ---- */

/* Text of a file of at most max bytes; NULL with errno. */
static char *read_file(struct keel_arena *a, const char *path, size_t max, size_t *len)
{
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return NULL;
    char *text = keel_arena_alloc(a, max + 2);
    *len = fread(text, 1, max + 1, f);
    int error = ferror(f) ? EIO : *len > max ? EFBIG : 0;
    fclose(f);
    errno = error;
    text[*len] = '\0';
    return error == 0 ? text : NULL;
}

static enum keel_status read_config(struct reader *r)
{
    struct value given = from_args(r, "config");
    size_t len;
    const char *why = "";
    r->path = given.text != NULL ? given.text : keel_arena_printf(r->a, "config/%s.json", r->engine->name);
    char *text = read_file(r->a, r->path, MAX_FILE, &len);
    if (text == NULL && given.text == NULL && errno == ENOENT)
        return KEEL_OK;
    if (text == NULL)
        return refuse(r, "config %s: %s", r->path, strerror(errno));
    if (keel_json_parse(r->a, text, len, &r->file, &why) != KEEL_OK || r->file->type != KEEL_JOBJ)
        return refuse(r, "config %s: %s", r->path, why[0] != '\0' ? why : "not a JSON object");
    for (const struct keel_jval *m = r->file->child; m != NULL; m = m->next) {
        if (field_of(r, m->name) == NULL && !is_secret_file(m->name))
            return refuse(r, "config %s: %s: no such option", r->path, m->name);
    }
    return KEEL_OK;
}

/* READ_TOKEN_FILE and its like: the file's first line. */
static enum keel_status read_secret(const struct reader *r, const char *name, struct value *v)
{
    const char *file_name = keel_arena_printf(r->a, "%s_file", name);
    struct value file = find(r, file_name, NULL);
    size_t len;
    const char *path = file.text != NULL ? file.text : file.json != NULL ? file.json->text : NULL;
    if (path == NULL)
        return KEEL_OK;
    if (v->from != NULL && v->text != NULL && v->text[0] != '\0')
        return refuse(r, "%s and %s are both given", name, file_name);
    char *text = read_file(r->a, path, 4096, &len);
    if (text == NULL)
        return refuse(r, "%s: %s: %s", file_name, path, strerror(errno));
    text[strcspn(text, "\r\n")] = '\0';
    if (text[0] == '\0')
        return refuse(r, "%s: %s is empty", file_name, path);
    *v = (struct value){.text = text, .from = path};
    return KEEL_OK;
}

/* ---- the records ---- */

static bool is_secret(const char *name)
{
    for (size_t i = 0; i < KEEL_COUNT(secrets); i++) {
        if (strcmp(secrets[i], name) == 0)
            return true;
    }
    return false;
}

static enum keel_status decode(const struct reader *r, const struct keel_fields *fields, void *out)
{
    struct keel_jval obj = {.type = KEEL_JOBJ};
    struct keel_record_error bad = {0};
    for (size_t i = 0; i < fields->n; i++) {
        const struct keel_field *f = &fields->rows[i];
        struct value v = find(r, f->name, f);
        if (is_secret(f->name) && read_secret(r, f->name, &v) != KEEL_OK)
            return KEEL_INVALID;
        if (v.from == NULL)
            continue;
        struct keel_jval *node = keel_arena_alloc(r->a, sizeof *node);
        if (v.text != NULL)
            node = keel_text_jval(r->a, f, f->name, v.text);
        else
            *node = *v.json;
        node->next = obj.child;
        obj.child = node;
        obj.len++;
    }
    if (keel_record_decode(fields, r->a, &obj, out, NULL, &bad) == KEEL_OK)
        return KEEL_OK;
    char *name = keel_arena_strdup(r->a, bad.field != NULL ? bad.field : "");
    name[strcspn(name, ".[")] = '\0';
    struct value v = find(r, name, keel_field_find(fields, name));
    const char *given = v.text != NULL ? v.text : v.json != NULL ? v.json->text : NULL;
    const char *shown = given != NULL && !is_secret(name) ? keel_redis_url_shown(r->a, given) : "";
    return refuse(r, "%s%s%.120s (%s): %s", name, shown[0] != '\0' ? "=" : "", shown, v.from != NULL ? v.from : "default",
                  bad.detail != NULL ? bad.detail : bad.code);
}

static enum keel_status complete_redis_url(const struct reader *r, struct keel_core_options *core)
{
    char why[160];
    if (core->redis_url[0] != '\0' && !keel_link_url_check(core->redis_url, why, sizeof why))
        return refuse(r, "redis_url=%s: %s", keel_redis_url_shown(r->a, core->redis_url), why);
    if (core->redis_url[0] != '\0' && core->redis_password[0] != '\0')
        core->redis_url = keel_redis_url_with(r->a, core->redis_url, core->redis_password);
    if (core->redis_sentinel_password[0] == '\0')
        return KEEL_OK;
    const char *whole = keel_redis_url_with_sentinel(r->a, core->redis_url, core->redis_sentinel_password);
    if (whole == NULL)
        return refuse(r, "redis_sentinel_password: redis_url=%s names no sentinels",
                      keel_redis_url_shown(r->a, core->redis_url));
    core->redis_url = whole;
    return KEEL_OK;
}

/* What no single row can say. */
static enum keel_status check_breaker(const struct reader *r, const struct keel_breaker_options *o)
{
    struct keel_breaker_conf c = keel_breaker_defaults();
    if (!keel_breaker_window_parse(o->breaker_window, &c))
        return refuse(r, "breaker_window=%s: must be count:N with N from 1 to %d, or time:Ns with N from 1 to 600",
                      o->breaker_window, KEEL_BREAKER_WINDOW);
    if (c.window_ns == 0 && o->breaker_min_calls > c.window)
        return refuse(r, "breaker_min_calls=%lld: more than breaker_window=%s ever holds",
                      (long long)o->breaker_min_calls, o->breaker_window);
    if (o->breaker_recovery_max_ms != 0 && o->breaker_recovery_max_ms < o->breaker_recovery_ms)
        return refuse(r, "breaker_recovery_max_ms=%lld: less than breaker_recovery_ms=%lld",
                      (long long)o->breaker_recovery_max_ms, (long long)o->breaker_recovery_ms);
    return KEEL_OK;
}

enum keel_status keel_opts_read(struct keel_opts *o, const struct keel_engine *engine, int argc, char **argv,
                                struct keel_arena *a, char *err, size_t cap)
{
    struct reader r = {.engine = engine, .a = a, .argc = argc, .argv = argv, .err = err, .cap = cap};
    *o = (struct keel_opts){.verb = KEEL_RUN};
    enum keel_status st = check_args(&r, o);
    if (st != KEEL_OK || o->verb == KEEL_HELP || o->verb == KEEL_VERSION_TEXT)
        return st;
    o->core = keel_arena_alloc(a, sizeof *o->core);
    o->urls = keel_arena_alloc(a, sizeof *o->urls);
    o->breaker = keel_arena_alloc(a, sizeof *o->breaker);
    o->own = engine->options != NULL ? keel_arena_alloc(a, engine->options->size) : NULL;
    st = read_config(&r);
    if (st == KEEL_OK)
        st = decode(&r, &keel_core_options_fields, o->core);
    if (st == KEEL_OK)
        st = complete_redis_url(&r, o->core);
    if (st == KEEL_OK)
        st = decode(&r, &keel_peer_urls_fields, o->urls);
    if (st == KEEL_OK)
        st = decode(&r, &keel_breaker_options_fields, o->breaker);
    if (st == KEEL_OK)
        st = check_breaker(&r, o->breaker);
    if (st == KEEL_OK && engine->options != NULL)
        st = decode(&r, engine->options, o->own);
    return st;
}

/* ---- showing them ---- */

static void help_row(const struct keel_field *f)
{
    char name[64], bounds[64] = "";
    snprintf(name, sizeof name, "--%s", f->name);
    for (char *p = name + 2; *p != '\0'; p++)
        *p = *p == '_' ? '-' : *p;
    if (f->min < f->max)
        snprintf(bounds, sizeof bounds, ", %.15g to %.15g", f->min, f->max);
    const char *dflt = f->dflt == NULL ? "required" : f->dflt[0] == KEEL_OPT[0] ? "optional" : f->dflt;
    dflt = dflt[0] != '\0' ? dflt : "empty";
    printf("  %-26s %s [%s%s%s%s]\n", name, f->help, dflt, bounds, f->unit[0] != '\0' ? ", " : "", f->unit);
}

static void help_table(const char *title, const struct keel_fields *fields)
{
    if (fields == NULL)
        return;
    printf("\n%s\n", title);
    for (size_t i = 0; i < fields->n; i++)
        help_row(&fields->rows[i]);
}

void keel_opts_help(const struct keel_engine *engine)
{
    printf("%s-engine %s: %s\n\n", engine->name, KEEL_VERSION, engine->title != NULL ? engine->title : engine->name);
    printf("Options are given as --name value or --name=value, as environment variables (the name in capitals,\n"
           "_ for -) or as members of the file named by --config (config/%s.json), in falling order of precedence.\n"
           "ENABLE_HYBRID (environment) is on unless it says false, 0, no or off.\n\n",
           engine->name);
    printf("  --config FILE              read options from FILE\n"
           "  --print-config             show every option as it is, and end\n"
           "  --check-config             check options and tables, and end\n"
           "  --describe                 the engine's table as JSON, and end\n"
           "  --probe                    ask GET /health of the engine that runs here; 0 when it answers 200\n"
           "  --version, --help\n");
    help_table("Options of this engine:", engine->options);
    help_table("Options of every engine:", &keel_core_options_fields);
    help_table("Circuit breakers:", &keel_breaker_options_fields);
    help_table("Addresses:", &keel_peer_urls_fields);
}

static const char *hidden(const char *secret)
{
    return secret[0] != '\0' ? "(set)" : "";
}

void keel_opts_print(const struct keel_opts *o, const struct keel_engine *engine, struct keel_arena *a)
{
    struct keel_core_options core = *o->core;
    struct keel_json w;
    core.read_token = hidden(core.read_token);
    core.trade_token = hidden(core.trade_token);
    core.admin_token = hidden(core.admin_token);
    core.engine_token = hidden(core.engine_token);
    core.redis_url = keel_redis_url_shown(a, core.redis_url);
    core.redis_password = hidden(core.redis_password);
    core.redis_sentinel_password = hidden(core.redis_sentinel_password);
    keel_json_init(&w, a, 4096);
    keel_json_obj(&w, NULL);
    keel_record_encode(&keel_core_options_fields, &core, &w);
    keel_record_encode(&keel_breaker_options_fields, o->breaker, &w);
    keel_record_encode(&keel_peer_urls_fields, o->urls, &w);
    if (engine->options != NULL)
        keel_record_encode(engine->options, o->own, &w);
    keel_json_end(&w);
    puts(keel_json_text(&w));
}
