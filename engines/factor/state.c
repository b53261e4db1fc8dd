/* Symbols, and the cross-section of those that are fresh and have enough history. */
#include "ops.h"

#include <string.h>

KEEL_RECORD_TABLE(factor_options, FACTOR_OPTIONS);

enum keel_status factor_open(struct keel_rt *rt, void *state)
{
    struct factor_state *s = state;
    const struct factor_options *o = keel_options(rt);

    s->most = (uint32_t)o->max_symbols;
    for (s->cap = 64; s->cap < 2 * s->most; s->cap *= 2)
        ;
    s->slot = keel_alloc(s->cap, sizeof *s->slot);
    s->symbol = keel_alloc(s->most, sizeof *s->symbol);
    s->conf = (struct factor_conf){.lookback = (uint32_t)o->lookback, .reversal = (uint32_t)o->reversal_bars,
                                   .least_bars = (uint32_t)(o->min_bars < o->lookback ? o->min_bars : o->lookback)};
    return KEEL_OK;
}

void factor_close(struct keel_rt *rt, void *state)
{
    struct factor_state *s = state;

    (void)rt;
    for (uint32_t i = 0; i < s->n; i++)
        keel_free(s->symbol[i].history.log_close);
    keel_free(s->symbol);
    keel_free(s->slot);
    factor_model_free(s->model);
}

struct factor_symbol *factor_symbol_find(struct factor_state *s, const char *name, bool create)
{
    uint64_t h = 14695981039346656037u;
    struct factor_symbol *sym;
    uint32_t at;

    for (const char *p = name; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    for (at = (uint32_t)h & (s->cap - 1); s->slot[at]; at = (at + 1) & (s->cap - 1))
        if (strcmp(s->symbol[s->slot[at] - 1].name, name) == 0)
            return &s->symbol[s->slot[at] - 1];
    if (!create || s->n == s->most || strlen(name) > KEEL_SYMBOL_LEN)
        return NULL;
    sym = &s->symbol[s->n++];
    s->slot[at] = s->n;
    memcpy(sym->name, name, strlen(name) + 1);
    factor_history_init(&sym->history, &s->conf, keel_alloc(2 * ((size_t)s->conf.lookback + 1), sizeof(double)));
    return sym;
}

const struct factor_point *factor_member(const struct factor_state *s, const struct factor_options *o,
                                         const struct factor_symbol *sym, struct keel_arena *a, const char **why)
{
    const struct factor_point *p = factor_newest(&sym->history);
    int64_t behind = p->ts_close > s->latest_ns ? p->ts_close - s->latest_ns : s->latest_ns - p->ts_close;

    if (p->have < s->conf.least_bars) {
        *why = keel_arena_printf(a, "%u of %u returns of %s bars", p->have, s->conf.least_bars, o->bar_spec);
        return NULL;
    }
    /* Either side: bars far ahead of the one that came last are those of an earlier session. */
    if (behind / o->stale_bars > s->bar_ns) {
        *why = keel_arena_printf(a, "its newest bar is more than %lld bars away", (long long)o->stale_bars);
        return NULL;
    }
    return p;
}

enum keel_status factor_universe_of(struct keel_call *c, struct factor_universe *out)
{
    const struct factor_options *o = keel_options(c->rt);
    struct factor_state *s = c->state;
    struct factor_universe u = {.as_of = INT64_MIN};
    const char *why;

    u.symbol = keel_arena_array(c->arena, s->n, sizeof *u.symbol);
    u.point = keel_arena_array(c->arena, s->n, sizeof *u.point);
    for (uint32_t i = 0; i < s->n; i++) {
        u.symbol[u.n] = &s->symbol[i];
        u.point[u.n] = factor_member(s, o, &s->symbol[i], c->arena, &why);
        if (!u.point[u.n])
            continue;
        u.as_of = u.point[u.n]->ts_close > u.as_of ? u.point[u.n]->ts_close : u.as_of;
        u.n++;
    }
    if (u.n < FACTOR_UNIVERSE)
        return keel_fail_as(c, KEEL_UNDEFINED, "universe_too_small", NULL,
                            "%zu symbols have %u fresh returns of %s bars; a cross-section needs %d", u.n,
                            s->conf.least_bars, o->bar_spec, FACTOR_UNIVERSE);
    factor_standardise(u.point, u.n, c->arena, &u.section);
    *out = u;
    return KEEL_OK;
}

size_t factor_row(const struct factor_universe *u, const struct factor_symbol *sym)
{
    for (size_t i = 0; i < u->n; i++)
        if (u->symbol[i] == sym)
            return i;
    return SIZE_MAX;
}

enum keel_status factor_ids_of(struct keel_call *c, const char *const *names, size_t n, int ids[FACTOR_N],
                               size_t *n_ids)
{
    unsigned seen = 0;

    for (size_t i = 0; i < n; i++) {
        int f = factor_find(names[i]);

        if (f < 0)
            return keel_fail_as(c, KEEL_INVALID, "unknown_factor", keel_arena_printf(c->arena, "factor_ids[%zu]", i),
                                "there is no factor %s; GET /factors/definitions names those there are", names[i]);
        if (seen >> f & 1)
            return keel_fail_as(c, KEEL_INVALID, "duplicate", keel_arena_printf(c->arena, "factor_ids[%zu]", i),
                                "%s is there twice", names[i]);
        seen |= 1u << f;
        ids[i] = f;
    }
    for (int f = 0; n == 0 && f < FACTOR_N; f++)
        ids[f] = f;
    *n_ids = n ? n : FACTOR_N;
    return KEEL_OK;
}

const char *factor_why_undefined(struct keel_arena *a, const struct factor_section *s, int f)
{
    if (s->count[f] < FACTOR_UNIVERSE)
        return keel_arena_printf(a, "%zu of %d symbols have a value", s->count[f], FACTOR_UNIVERSE);
    return "the symbols do not differ";
}
