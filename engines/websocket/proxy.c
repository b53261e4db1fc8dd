/* Passes an allowed request on to its engine and the answer back as it came. */
#include "ops.h"

#include <string.h>

#include "keel/text.h"

KEEL_RECORD_TABLE(ws_api, WS_API);

enum { PREFIX = sizeof "/api/" - 1 };

/* The engine of a row's path, which begins with /api/{engine}/. */
static const char *engine_of(const char *path)
{
    size_t n = strcspn(path + PREFIX, "/");

    for (size_t i = 0; ws_peers[i] != NULL; i++)
        if (strlen(ws_peers[i]) == n && memcmp(ws_peers[i], path + PREFIX, n) == 0)
            return ws_peers[i];
    return NULL;
}

static void add_escaped(struct keel_text *t, const char *s)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

    for (; *s != '\0'; s++) {
        if (strchr(plain, *s) != NULL)
            keel_text_add(t, "%c", *s);
        else
            keel_text_add(t, "%%%02X", (unsigned char)*s);
    }
}

static bool in_path(const char *path, const char *name)
{
    const char *at = path;
    size_t n = strlen(name);

    while ((at = strchr(at, '{')) != NULL) {
        at++;
        if (strncmp(at, name, n) == 0 && at[n] == '}')
            return true;
    }
    return false;
}

/* The path as received, then what the query named. KEEL_INVALID: a parameter that would make it another path. */
static enum keel_status target_of(struct keel_call *c, const char *engine, const char **out)
{
    const struct keel_fields *f = c->op->takes;
    struct keel_text t;
    char sign = '?';

    keel_text_init(&t, c->arena, 256);
    keel_text_add(&t, "%s", c->path + PREFIX + strlen(engine));
    for (size_t i = 0; f == &ws_api_fields && i < f->n; i++) {
        const struct keel_field *row = &f->rows[i];
        const char *value;
        if (!*(const bool *)((const char *)c->arg + row->has_at))
            continue;
        memcpy(&value, (const char *)c->arg + row->at, sizeof value);
        if (in_path(c->op->on.path, row->name)) {
            if (strcmp(value, ".") == 0 || strcmp(value, "..") == 0)
                return keel_fail_as(c, KEEL_INVALID, "bad_path", row->name, "%s cannot be . or ..", row->name);
            continue;
        }
        keel_text_add(&t, "%c%s=", sign, row->name);
        add_escaped(&t, value);
        sign = '&';
    }
    *out = t.buf;
    return KEEL_OK;
}

static enum keel_status answer(struct keel_call *c)
{
    const char *engine = engine_of(c->op->on.path);
    const struct keel_reply *r = &c->peer;
    enum keel_status st = keel_wait_status(c);

    if (st != KEEL_OK)
        return keel_fail_as(c, st, "peer_away", NULL, "%s did not answer", engine);
    if (r->json == NULL)
        return keel_fail_as(c, KEEL_UPSTREAM, "bad_answer", NULL, "%s did not answer with JSON", engine);
    keel_json_raw(&c->out, NULL, r->body, r->len);
    if (r->http != 200)
        c->http = r->http;
    if (r->http >= 400)
        c->type = "application/problem+json";
    return KEEL_OK;
}

enum keel_status api_forward(struct keel_call *c)
{
    const char *engine = engine_of(c->op->on.path), *authorization = keel_call_header(c, "Authorization"), *path = NULL;
    enum keel_status st = target_of(c, engine, &path);

    if (st != KEEL_OK)
        return st;
    /* Never this engine's own token: the caller's, or none. */
    return keel_await_peer(c, &(struct keel_peer_req){.peer = engine, .method = c->op->on.method, .path = path,
                                                      .body = c->raw_len > 0 ? c->raw : NULL, .body_len = c->raw_len,
                                                      .authorization = authorization != NULL ? authorization : ""},
                           answer);
}
