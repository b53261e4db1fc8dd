/* The limits that options configure, for the guard. A wrong one stops start-up in either mode. */
#include <stdio.h>
#include <string.h>

#include "call_priv.h"

/* The engine's own row of that name over HTTP, or n_ops. */
static size_t row_of(const struct keel_rt *rt, const char *name, size_t len)
{
    for (size_t i = 0; i < rt->engine->n_ops; i++)
        if (strlen(rt->ops[i].id) == len && memcmp(rt->ops[i].id, name, len) == 0 && keel_is_limited(&rt->ops[i]))
            return i;
    return rt->n_ops;
}

static void set_all(const struct keel_rt *rt, struct keel_rate *route, struct keel_rate rate)
{
    for (size_t i = 0; i < rt->engine->n_ops; i++)
        if (keel_is_limited(&rt->ops[i]) && route[i].gap_ns == 0)
            route[i] = rate;
}

/* Names first, * last: it is every row that is not named. */
static enum keel_status read_routes(struct keel_rt *rt, struct keel_rate *route, char *err, size_t cap)
{
    struct keel_rate rest = {0};
    for (size_t i = 0; i < rt->core->n_rate_per_route; i++) {
        const char *text = rt->core->rate_per_route[i], *at = strchr(text, '=');
        struct keel_rate rate;
        if (at == NULL || !keel_rate_parse(at + 1, strlen(at + 1), &rate)) {
            snprintf(err, cap, "rate_per_route: %s: must be OP=RATE or OP=RATE:BURST, 0.001 to 1000000 a second", text);
            return KEEL_INVALID;
        }
        size_t len = (size_t)(at - text), row = row_of(rt, text, len);
        if (len == 1 && text[0] == '*') {
            rest = rate;
        } else if (row < rt->n_ops) {
            route[row] = rate;
        } else {
            snprintf(err, cap, "rate_per_route: %s: %s has no operation of that name that can be limited", text,
                     rt->engine->name);
            return KEEL_INVALID;
        }
    }
    set_all(rt, route, rest);
    return KEEL_OK;
}

enum keel_status keel_limits_read(struct keel_rt *rt, const struct keel_limits **out, char *err, size_t cap)
{
    const struct keel_core_options *o = rt->core;
    struct keel_limits *l = keel_arena_alloc(rt->arena, sizeof *l);
    struct keel_rate *route = keel_arena_array(rt->arena, rt->n_ops, sizeof *route);
    if (o->rate_per_client[0] != '\0' && !keel_rate_parse(o->rate_per_client, strlen(o->rate_per_client), &l->client)) {
        snprintf(err, cap, "rate_per_client=%s: must be RATE or RATE:BURST, 0.001 to 1000000 a second",
                 o->rate_per_client);
        return KEEL_INVALID;
    }
    enum keel_status st = o->has_rate_per_route ? read_routes(rt, route, err, cap) : KEEL_OK;
    l->route = route;
    l->adaptive = o->adaptive_concurrency;
    l->max_calls = (uint32_t)o->max_calls;
    *out = l;
    return st;
}
