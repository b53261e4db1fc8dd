/* keel dead: the records an engine could not take, and what becomes of them. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

#define CALL_MS 15000

static const char usage[] =
    "usage: keel dead [ENGINE] [list] [options]\n"
    "       keel dead ENGINE show ID [options]\n"
    "       keel dead ENGINE replay ID [options]\n"
    "       keel dead ENGINE discard ID [options]\n"
    "Dead letters: records that an engine refused, or that killed it MAX_DELIVERIES times. list without an ENGINE asks all of them;\n"
    "replay runs one again and forgets it when that goes well. replay and discard need ADMIN_TOKEN where tokens are in use.";

static const char *text(const struct keel_jval *v, const char *name)
{
    const struct keel_jval *m = keel_jget(v, name);
    return m != NULL && m->text != NULL ? m->text : "-";
}

static int complain(const char *engine, const struct cli_reply *r)
{
    if (r->http == 0)
        fprintf(stderr, "keel: %s: %s\n", engine, r->why);
    else
        fprintf(stderr, "keel: %s: %d %s\n", engine, r->http, text(r->json, "detail"));
    return 1;
}

static void print_letter(const char *engine, const struct keel_jval *d)
{
    const struct keel_jval *durable = keel_jget(d, "durable");
    bool is_durable = durable != NULL && durable->type == KEEL_JBOOL && durable->boolean;
    printf("%-11s %-22s %-32s %-18s %-7s %s\n", engine, text(d, "id"), text(d, "topic"), text(d, "reason"),
           is_durable ? "durable" : "", text(d, "detail"));
}

/* Newest first, page by page. */
static int list(struct keel_arena *a, const char *engine, int offset, size_t *count)
{
    const char *after = "";
    for (;;) {
        const char *path = keel_arena_printf(a, "/bus/dead?limit=500%s%s", after[0] != '\0' ? "&after=" : "", after);
        struct cli_reply r = cli_http(a, "GET", cli_url(a, engine, offset, path), NULL, CALL_MS);
        const struct keel_jval *dead = keel_jget(r.json, "dead"), *next = keel_jget(r.json, "next");
        if (r.http != 200)
            return complain(engine, &r);
        for (const struct keel_jval *d = dead != NULL ? dead->child : NULL; d != NULL; d = d->next, (*count)++)
            print_letter(engine, d);
        if (next == NULL || next->type != KEEL_JSTR)
            return 0;
        after = next->text;
    }
}

static int list_all(struct keel_arena *a, const char *engine, int offset)
{
    size_t count = 0;
    int rc = 0;
    printf("%-11s %-22s %-32s %-18s %-7s %s\n", "engine", "id", "topic", "reason", "", "detail");
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        if (engine == NULL || strcmp(engine, cli_engines[i].name) == 0)
            rc |= list(a, cli_engines[i].name, offset, &count);
    if (rc == 0)
        printf("%zu dead letter%s\n", count, count == 1 ? "" : "s");
    return rc;
}

static int act(struct keel_arena *a, const char *engine, int offset, const char *verb, const char *id)
{
    bool shows = strcmp(verb, "show") == 0;
    const char *path = keel_arena_printf(a, "/bus/dead/%s%s%s", id, shows ? "" : "/", shows ? "" : verb);
    struct cli_reply r = cli_http(a, shows ? "GET" : "POST", cli_url(a, engine, offset, path), shows ? NULL : "{}", CALL_MS);
    if (r.http != 200)
        return complain(engine, &r);
    printf("%s\n", r.body);
    return 0;
}

static bool is_engine(const char *name)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        if (strcmp(name, cli_engines[i].name) == 0)
            return true;
    return false;
}

static bool is_id(const char *s)
{
    return s[0] != '\0' && strspn(s, "0123456789-") == strlen(s);
}

int cli_dead(int argc, char **argv)
{
    static const struct cli_opt opts[] = {{"--port-offset", "N", "added to every engine's port"}};
    const char *val[1] = {0}, *rest[3] = {0}, *engine = NULL;
    size_t n = 3, at = 0;
    int64_t offset = 0;
    bool help;
    int rc = 2;

    if (!cli_options(argc, argv, usage, opts, 1, val, rest, &n, &help) ||
        (val[0] != NULL && !cli_int("--port-offset", val[0], 0, 50000, &offset)))
        return 2;
    if (help)
        return 0;
    if (n > 0 && is_engine(rest[0]))
        engine = rest[at++];
    struct keel_arena *a = keel_arena_new(1 << 16);
    if (n == at || (n == at + 1 && strcmp(rest[at], "list") == 0))
        rc = list_all(a, engine, (int)offset);
    else if (engine != NULL && n == 3 && is_id(rest[2]) &&
             (strcmp(rest[1], "show") == 0 || strcmp(rest[1], "replay") == 0 || strcmp(rest[1], "discard") == 0))
        rc = act(a, engine, (int)offset, rest[1], rest[2]);
    else
        fprintf(stderr, "keel: dead takes [ENGINE] list, or ENGINE show|replay|discard ID (see --help)\n");
    keel_arena_free(a);
    return rc;
}
