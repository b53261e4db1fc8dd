/* A call without a socket: the router and the call's whole life, for tests. */
#include <string.h>

#include "call_priv.h"
#include "keel/clock.h"

struct loopback {
    struct keel_arena *a;
    bool done;
    int http;
    const char *body;
};

static void on_answer(void *ctx, const struct keel_answer *ans)
{
    struct loopback *l = ctx;
    l->done = true;
    l->http = ans->http;
    l->body = keel_arena_strndup(l->a, ans->body, ans->len);
}

static void refuse(struct loopback *l, enum keel_status st, const char *detail)
{
    struct keel_answer ans;
    keel_problem(l->a, st, NULL, NULL, detail, NULL, &ans);
    on_answer(l, &ans);
}

int keel_loopback(struct keel_rt *rt, const char *method, const char *path, const char *body, struct keel_arena *a,
                  const char **answer)
{
    struct loopback l = {.a = a};
    struct keel_route route = {0};
    struct keel_param query[64];
    struct keel_request rq = {.method = method, .query = query, .scope = KEEL_SCOPE_ADMIN};
    size_t end = strcspn(path, "?");
    rq.path = keel_arena_strndup(a, path, end);
    rq.body = body != NULL ? body : "";
    rq.body_len = strlen(rq.body);
    const char *text = path[end] == '?' ? path + end + 1 : "";
    if (!keel_route_find(rt, a, method, rq.path, &route))
        refuse(&l, route.allow[0] != '\0' ? KEEL_METHOD : KEEL_NOTFOUND, NULL);
    else if (route.op->on.kind == KEEL_ON_WS)
        refuse(&l, KEEL_INVALID, "a WebSocket needs a connection");
    else if (keel_query_split(a, text, query, KEEL_COUNT(query), &rq.n_query) != KEEL_OK)
        refuse(&l, KEEL_INVALID, "the query is malformed");
    else {
        rq.params = route.params;
        rq.n_params = route.n_params;
        rq.arrived_ns = keel_mono_ns();
        keel_call_http(rt, route.op, &rq, on_answer, &l);
    }
    while (!l.done)
        uv_run(rt->loop, UV_RUN_ONCE);
    *answer = l.body;
    return l.http;
}
