/* Bars in; once a second, when any came, the exposures of the whole cross-section out. */
#include "ops.h"

#include <string.h>

#define SLICE 128 /* records a step publishes */

enum keel_status bus_bar(struct keel_call *c)
{
    const struct factor_options *o = keel_options(c->rt);
    const struct keel_bar *bar = c->arg;
    struct factor_state *s = c->state;
    struct factor_symbol *sym;

    if (strcmp(bar->spec, o->bar_spec) != 0)
        return KEEL_OK;
    if (bar->close <= 0)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "close", "close must be > 0");
    if (bar->volume < 0)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "volume", "volume must be >= 0");
    if (bar->ts_close <= bar->ts_open)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "ts_close", "ts_close must be after ts_open");
    sym = factor_symbol_find(s, bar->symbol, true);
    if (!sym)
        return keel_fail_as(c, KEEL_TOOBIG, "too_many_symbols", "symbol", "max_symbols (%u) symbols are followed",
                            s->most);
    if (!factor_history_add(&sym->history, &s->conf, bar->ts_close, keel_dec_to_f64(bar->close),
                            keel_money_to_f64(bar->volume)))
        return KEEL_OK;
    s->bar_ns = bar->ts_close - bar->ts_open;
    s->latest_ns = bar->ts_close;
    s->bars++;
    return KEEL_OK;
}

struct publication { struct factor_universe u; size_t at; uint64_t bars; };

static enum keel_status publish_one(struct keel_call *c, const struct factor_universe *u, size_t row)
{
    struct keel_named *named = keel_arena_array(c->arena, FACTOR_N, sizeof *named);
    struct keel_exposures r = {.symbol = u->symbol[row]->name,
                               .has_symbol = true,
                               .as_of = u->as_of,
                               .has_as_of = true,
                               .universe = (int64_t)u->n,
                               .has_universe = true,
                               .exposures = named,
                               .has_exposures = true};

    for (int f = 0; f < FACTOR_N; f++)
        if (u->section.has[row] >> f & 1)
            named[r.n_exposures++] =
                (struct keel_named){factor_defs[f].name, u->section.z[row * FACTOR_N + (size_t)f]};
    return keel_publish(c, "factor.priority.exposures", r.symbol, u->as_of, 0, &r);
}

static enum keel_status publish_slice(struct keel_call *c)
{
    struct publication *p = c->ctx;
    struct factor_state *s = c->state;

    for (size_t end = p->at + SLICE; p->at < p->u.n && p->at < end; p->at++) {
        enum keel_status st = publish_one(c, &p->u, p->at);

        /* Nothing of this turn leaves; the next turn publishes the cross-section as it is then. */
        if (st != KEEL_OK)
            return st;
    }
    if (p->at < p->u.n)
        return keel_await_timer(c, 1, publish_slice);
    s->published = p->bars;
    return KEEL_OK;
}

enum keel_status timer_publish(struct keel_call *c)
{
    struct factor_state *s = c->state;
    struct publication *p = keel_arena_alloc(c->arena, sizeof *p);

    if (s->published == s->bars)
        return KEEL_OK;
    p->bars = s->bars;
    if (factor_universe_of(c, &p->u) != KEEL_OK) {
        /* Too small a universe is no failure: there is nothing to say. */
        s->published = s->bars;
        return KEEL_OK;
    }
    c->ctx = p;
    return publish_slice(c);
}
