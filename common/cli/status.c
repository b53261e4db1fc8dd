/* keel status, order, logs, tail: the client side. */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "keel/redis_url.h"

#define CALL_MS 5000

static bool offset_of(const char *text, int *out)
{
    int64_t v = 0;

    if (text && !cli_int("--port-offset", text, 0, 50000, &v))
        return false;
    *out = (int)v;
    return true;
}

static const char *member(const struct keel_jval *v, const char *name)
{
    const struct keel_jval *m = keel_jget(v, name);

    return m && m->text ? m->text : "-";
}

int cli_status(int argc, char **argv)
{
    static const struct cli_opt opts[] = {{"--port-offset", "N", "added to every engine's port"}};
    const char *val[1] = {0};
    struct keel_arena *a;
    bool help;
    int offset, away = 0;

    if (!cli_options(argc, argv, "usage: keel status [options]\nOne line per engine; exit 1 when one is not healthy.", opts, 1,
                     val, NULL, NULL, &help) || !offset_of(val[0], &offset))
        return 2;
    if (help)
        return 0;
    a = keel_arena_new(1 << 16);
    printf("%-11s %-10s %-10s %10s %10s %s\n", "engine", "health", "breaker", "uptime s", "calls", "what is away");
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        struct cli_reply r = cli_http(a, "GET", cli_url(a, cli_engines[i].name, offset, "/health"), NULL, CALL_MS);
        const struct keel_jval *deps = keel_jget(r.json, "dependencies");
        const char *status = r.json ? keel_jstr(r.json, "status") : "away";

        away += strcmp(status, "healthy") != 0;
        printf("%-11s %-10s %-10s %10s %10s", cli_engines[i].name, status,
               r.json ? keel_jstr(keel_jget(r.json, "circuit_breaker"), "state") : "-", member(r.json, "uptime_seconds"),
               member(keel_jget(keel_jget(r.json, "performance"), "overall"), "count"));
        for (const struct keel_jval *d = deps ? deps->child : NULL; d; d = d->next)
            if (strcmp(keel_jstr(d, "status"), "healthy") != 0)
                printf(" %s (%s)", d->name, keel_jstr(d, "detail"));
        printf("%s%s\n", r.http ? "" : " ", r.http ? "" : r.why);
    }
    keel_arena_free(a);
    return away ? 1 : 0;
}

static int print_reply(struct cli_reply r)
{
    if (r.http == 0)
        fprintf(stderr, "keel: %s\n", r.why);
    else
        printf("%s\n", r.body);
    return r.http >= 200 && r.http < 300 ? 0 : 1;
}

int cli_order(int argc, char **argv)
{
    enum { ID, TYPE, PRICE, TIF, REDUCE, OFFSET, N };
    static const struct cli_opt opts[N] = {
        {"--id", "ID", "client_order_id (default: chosen by strategy)"},
        {"--type", "TYPE", "LIMIT (default when --price is given) or MARKET"},
        {"--price", "P", "limit price"},
        {"--tif", "TIF", "IOC (default), FOK, GTC or DAY"},
        {"--reduce-only", NULL, "may only reduce the position"},
        {"--port-offset", "N", "added to every engine's port"},
    };
    const char *val[N] = {0}, *rest[4];
    size_t n = 4;
    struct keel_arena *a;
    struct keel_json w;
    bool help;
    int offset, rc;

    if (!cli_options(argc, argv,
                     "usage: keel order BUY|SELL SYMBOL QUANTITY [options]\n"
                     "       keel order show ID [options]\n       keel order cancel ID [options]",
                     opts, N, val, rest, &n, &help) || !offset_of(val[OFFSET], &offset))
        return 2;
    if (help)
        return 0;
    a = keel_arena_new(1 << 16);
    if (n == 2 && (strcmp(rest[0], "show") == 0 || strcmp(rest[0], "cancel") == 0)) {
        rc = print_reply(cli_http(a, rest[0][0] == 's' ? "GET" : "DELETE",
                                  cli_url(a, "strategy", offset, keel_arena_printf(a, "/orders/%s", rest[1])), NULL, CALL_MS));
    } else if (n == 3) {
        keel_json_init(&w, a, 512);
        keel_json_obj(&w, NULL);
        keel_json_str(&w, "side", rest[0]);
        keel_json_str(&w, "symbol", rest[1]);
        keel_json_str(&w, "quantity", rest[2]);
        if (val[ID])
            keel_json_str(&w, "client_order_id", val[ID]);
        if (val[TYPE])
            keel_json_str(&w, "order_type", val[TYPE]);
        if (val[PRICE])
            keel_json_str(&w, "price", val[PRICE]);
        if (val[TIF])
            keel_json_str(&w, "time_in_force", val[TIF]);
        if (val[REDUCE])
            keel_json_bool(&w, "reduce_only", true);
        keel_json_end(&w);
        rc = print_reply(cli_http(a, "POST", cli_url(a, "strategy", offset, "/orders"), keel_json_text(&w), CALL_MS));
    } else {
        fprintf(stderr, "keel: order takes BUY|SELL SYMBOL QUANTITY, show ID or cancel ID (see --help)\n");
        rc = 2;
    }
    keel_arena_free(a);
    return rc;
}

int cli_logs(int argc, char **argv)
{
    static const struct cli_opt opts[] = {{"--data-dir", "DIR", "of the system (default ./data)"}};
    const char *val[1] = {0}, *rest[1] = {0};
    size_t n = 1;
    bool help;

    if (!cli_options(argc, argv, "usage: keel logs [ENGINE] [options]\nPrints what the engines logged.", opts, 1, val, rest, &n, &help))
        return 2;
    if (help)
        return 0;
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        char path[1024], line[4096];
        FILE *f;

        if (n == 1 && strcmp(rest[0], cli_engines[i].name) != 0)
            continue;
        snprintf(path, sizeof path, "%s/logs/%s.log", val[0] ? val[0] : "data", cli_engines[i].name);
        f = fopen(path, "r");
        if (!f) {
            fprintf(stderr, "keel: %s: %s\n", path, strerror(errno));
            return 1;
        }
        while (fgets(line, sizeof line, f))
            fputs(line, stdout);
        fclose(f);
    }
    return 0;
}

/* ---- tail ---- */

static redisContext *dial(const struct keel_redis_url *u)
{
    struct timeval limit = {5, 0};
    redisContext *c = u->path[0] != '\0' ? redisConnectUnixWithTimeout(u->path, limit)
                                         : redisConnectWithTimeout(u->host[0].name, u->host[0].port, limit);
    if (c && !c->err && u->password[0] != '\0' && u->user[0] != '\0')
        freeReplyObject(redisCommand(c, "AUTH %s %s", u->user, u->password));
    else if (c && !c->err && u->password[0] != '\0')
        freeReplyObject(redisCommand(c, "AUTH %s", u->password));
    if (c && !c->err && u->db != 0)
        freeReplyObject(redisCommand(c, "SELECT %lld", (long long)u->db));
    return c;
}

/* Field number k (from 0) of the header, which is separated by single spaces. */
static const char *field(const char *h, int k, size_t *n)
{
    while (k-- > 0 && (h = strchr(h, ' ')))
        h++;
    *n = h ? strcspn(h, " ") : 0;
    return h;
}

static void print_entry(const redisReply *e, const char *topic)
{
    size_t n = 0;
    const char *h = NULL, *p = NULL, *t;

    if (e->elements < 2 || e->element[1]->type != REDIS_REPLY_ARRAY)
        return;
    for (size_t i = 0; i + 1 < e->element[1]->elements; i += 2) {
        const char *name = e->element[1]->element[i]->str;
        if (name && strcmp(name, "h") == 0)
            h = e->element[1]->element[i + 1]->str;
        else if (name && strcmp(name, "p") == 0)
            p = e->element[1]->element[i + 1]->str;
    }
    t = h ? field(h, 3, &n) : NULL;
    if (t && p && n == strlen(topic) && strncmp(t, topic, n) == 0)
        printf("%s %s\n", h, p);
}

int cli_tail(int argc, char **argv)
{
    static const struct cli_opt opts[] = {
        {"--redis-url", "URL", "the system's Redis (default: REDIS_URL, else redis://127.0.0.1:6379)"},
        {"--env", "NAME", "KEEL_ENV of the system (default main)"},
    };
    const char *val[2] = {0}, *rest[1] = {0}, *url;
    char stream[200], last[64] = "$", engine[32];
    size_t n = 1;
    struct keel_redis_url where;
    const char *why;
    redisContext *c;
    bool help;

    if (!cli_options(argc, argv, "usage: keel tail TOPIC [options]\nFollows a topic, e.g. strategy.critical.fill: header, then body.",
                     opts, 2, val, rest, &n, &help))
        return 2;
    if (help)
        return 0;
    if (n != 1 || !strchr(rest[0], '.')) {
        fprintf(stderr, "keel: tail takes one topic, for example strategy.critical.fill\n");
        return 2;
    }
    url = val[0] ? val[0] : getenv("REDIS_URL") ? getenv("REDIS_URL") : "redis://127.0.0.1:6379";
    why = keel_redis_url_parse(url, &where);
    if (why == NULL && (where.is_tls || where.service[0] != '\0'))
        why = "tail speaks redis:// and unix:// only";
    if (why != NULL) {
        fprintf(stderr, "keel: redis-url: %s\n", why);
        return 2;
    }
    c = dial(&where);
    if (!c || c->err) {
        fprintf(stderr, "keel: cannot reach Redis: %s\n", c ? c->errstr : "out of memory");
        return 1;
    }
    snprintf(engine, sizeof engine, "%.*s", (int)strcspn(rest[0], "."), rest[0]);
    snprintf(stream, sizeof stream, "%s%snautilus-%s-hybrid-streams%s", val[1] ? val[1] : "", val[1] ? ":" : "", engine,
             strncmp(rest[0] + strlen(engine), ".critical.", 10) == 0   ? ":critical"
             : strncmp(rest[0] + strlen(engine), ".priority.", 10) == 0 ? ":priority"
                                                                        : "");
    cli_catch_signals();
    while (!cli_interrupted) {
        redisReply *r = redisCommand(c, "XREAD COUNT 256 BLOCK 1000 STREAMS %s %s", stream, last);
        if (!r) {
            fprintf(stderr, "keel: %s\n", c->errstr);
            break;
        }
        if (r->type == REDIS_REPLY_ARRAY && r->elements > 0 && r->element[0]->elements == 2) {
            const redisReply *list = r->element[0]->element[1];
            for (size_t i = 0; i < list->elements; i++) {
                print_entry(list->element[i], rest[0]);
                snprintf(last, sizeof last, "%s", list->element[i]->element[0]->str);
            }
            fflush(stdout);
        }
        freeReplyObject(r);
    }
    redisFree(c);
    return 0;
}
