/* What the bus brings: bars, quotes and books of marketdata; what it gets: one vector a closed bar. */
#include "ops.h"

#include <string.h>

enum keel_status feat_open(struct keel_rt *rt, void *state)
{
    struct feat_state *s = state;
    const struct feat_options *o = keel_options(rt);

    s->most = (uint32_t)o->max_symbols;
    for (s->cap = 64; s->cap < 2 * s->most; s->cap *= 2)
        ;
    s->symbol = keel_alloc(s->cap, sizeof *s->symbol);
    feat_schema_hash(s->schema);
    return KEEL_OK;
}

void feat_close(struct keel_rt *rt, void *state)
{
    struct feat_state *s = state;

    (void)rt;
    keel_free(s->symbol);
}

struct feat_symbol *feat_find(struct feat_state *s, const char *name, bool create)
{
    uint64_t h = 14695981039346656037u;
    struct feat_symbol *sym;

    if (strlen(name) > KEEL_SYMBOL_LEN)
        return NULL;
    for (const char *p = name; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    for (uint32_t i = (uint32_t)h & (s->cap - 1);; i = (i + 1) & (s->cap - 1)) {
        sym = &s->symbol[i];
        if (sym->name[0] == 0)
            break;
        if (strcmp(sym->name, name) == 0)
            return sym;
    }
    if (!create || s->n == s->most)
        return NULL;
    s->n++;
    memcpy(sym->name, name, strlen(name) + 1);
    return sym;
}

/* Seconds of "1s", "5m", "1h", "1d"; unknown kinds come last. */
static int64_t span(const char *spec)
{
    int64_t n = 0;

    for (; *spec >= '0' && *spec <= '9'; spec++)
        n = n * 10 + (*spec - '0');
    return *spec == 's' ? n : *spec == 'm' ? n * 60 : *spec == 'h' ? n * 3600 : *spec == 'd' ? n * 86400 : INT64_MAX;
}

struct feat_set *feat_set_of(struct feat_symbol *sym, const char *spec, bool create)
{
    uint32_t best = 0;

    for (uint32_t i = 0; i < sym->n; i++) {
        if (strcmp(sym->on[i].spec, spec) == 0)
            return &sym->on[i].set;
        if (span(sym->on[i].spec) < span(sym->on[best].spec))
            best = i;
    }
    if (*spec == 0)
        return sym->n > 0 ? &sym->on[best].set : NULL;
    if (!create || sym->n == FEAT_SPECS || strlen(spec) >= sizeof sym->on[0].spec)
        return NULL;
    memcpy(sym->on[sym->n].spec, spec, strlen(spec) + 1);
    feat_init(&sym->on[sym->n].set);
    if (sym->has_quote)
        feat_add_quote(&sym->on[sym->n].set, &sym->quote);
    return &sym->on[sym->n++].set;
}

static void fill_vector(struct keel_call *c, struct feat_state *s, struct feat_symbol *sym, const struct feat_set *set,
                        const struct keel_bar *bar, struct keel_vector *v)
{
    struct keel_named *named = keel_arena_array(c->arena, FEAT_N, sizeof *named);
    struct feat_value value;

    *v = (struct keel_vector){.symbol = bar->symbol, .has_symbol = true, .spec = bar->spec, .has_spec = true,
                              .schema_hash = s->schema, .has_schema_hash = true, .ts_close = bar->ts_close,
                              .has_ts_close = true, .close = bar->close, .has_close = true, .features = named,
                              .has_features = true};
    for (int i = 0; i < FEAT_N; i++) {
        feat_get(set, (enum feat_id)i, &value);
        if (value.ready)
            named[v->n_features++] = (struct keel_named){feat_defs[i].name, value.value};
    }
    if (sym->has_quote && keel_dec_from_f64(sym->quote.bid, &v->bid) == KEEL_OK &&
        keel_dec_from_f64(sym->quote.ask, &v->ask) == KEEL_OK)
        v->has_bid = v->has_ask = true;
}

enum keel_status bus_bar(struct keel_call *c)
{
    const struct keel_bar *bar = c->arg;
    struct feat_state *s = c->state;
    struct feat_symbol *sym = feat_find(s, bar->symbol, true);
    struct feat_set *set = sym ? feat_set_of(sym, bar->spec, true) : NULL;
    struct keel_vector v;

    if (!set)
        return keel_fail_as(c, KEEL_TOOBIG, "too_many_symbols", "symbol", "max_symbols (%u) symbols of %d kinds of bars are followed",
                            s->most, FEAT_SPECS);
    if (bar->close <= 0)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "close", "close must be > 0");
    feat_add_bar(set, &(struct feat_bar){.high = keel_dec_to_f64(bar->high), .low = keel_dec_to_f64(bar->low),
                                         .close = keel_dec_to_f64(bar->close), .volume = keel_money_to_f64(bar->volume),
                                         .vwap = keel_dec_to_f64(bar->vwap), .has_range = true, .has_volume = true,
                                         .has_vwap = bar->has_vwap, .ts_close = bar->ts_close});
    fill_vector(c, s, sym, set, bar, &v);
    return keel_publish(c, "features.priority.vector", bar->symbol, bar->ts_close, 0, &v);
}

enum keel_status bus_quote(struct keel_call *c)
{
    const struct keel_quote *q = c->arg;
    struct feat_symbol *sym = feat_find(c->state, q->symbol, true);

    if (!sym)
        return keel_fail_as(c, KEEL_TOOBIG, "too_many_symbols", "symbol", "max_symbols are followed");
    sym->quote = (struct ind_quote){keel_dec_to_f64(q->bid), keel_dec_to_f64(q->bid_size), keel_dec_to_f64(q->ask),
                                    keel_dec_to_f64(q->ask_size)};
    sym->has_quote = true;
    for (uint32_t i = 0; i < sym->n; i++)
        feat_add_quote(&sym->on[i].set, &sym->quote);
    return KEEL_OK;
}

static double top(const struct keel_pair *side, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n && i < 10; i++)
        sum += keel_dec_to_f64(side[i].q);
    return sum;
}

enum keel_status bus_book(struct keel_call *c)
{
    const struct keel_book *b = c->arg;
    struct feat_symbol *sym = feat_find(c->state, b->symbol, true);
    bool live = b->state == keel_enum_index(KEEL_BOOK_STATES, "LIVE", 4);

    if (!sym)
        return keel_fail_as(c, KEEL_TOOBIG, "too_many_symbols", "symbol", "max_symbols are followed");
    for (uint32_t i = 0; i < sym->n; i++)
        feat_add_book(&sym->on[i].set, live ? top(b->bids, b->n_bids) : 0, live ? top(b->asks, b->n_asks) : 0);
    return KEEL_OK;
}
