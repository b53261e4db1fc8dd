/* Definitions, exposures of a symbol, correlations. */
#include "ops.h"

#include <string.h>

KEEL_RECORD_TABLE(factor_calculate, FACTOR_CALCULATE);
KEEL_RECORD_TABLE(factor_correlations, FACTOR_CORRELATIONS);
KEEL_RECORD_TABLE(factor_symbol_query, FACTOR_SYMBOL);
KEEL_RECORD_TABLE(factor_category_query, FACTOR_CATEGORY);

/* ---- definitions ---- */

static void write_definition(struct keel_call *c, int f)
{
    const struct factor_state *s = c->state;
    struct keel_json *w = &c->out;

    keel_json_obj(w, NULL);
    keel_json_str(w, "factor_id", factor_defs[f].name);
    keel_json_str(w, "name", factor_defs[f].title);
    keel_json_str(w, "category", factor_defs[f].category);
    keel_json_str(w, "formula", factor_defs[f].formula);
    keel_json_i64(w, "lookback", f == FACTOR_REVERSAL ? s->conf.reversal : s->conf.lookback);
    keel_json_str(w, "unit", factor_defs[f].unit);
    keel_json_end(w);
}

/* Ends the open object. */
static void write_definitions(struct keel_call *c, const char *category)
{
    const struct factor_options *o = keel_options(c->rt);
    const struct factor_state *s = c->state;
    struct keel_json *w = &c->out;
    int64_t n = 0;

    keel_json_arr(w, "definitions");
    for (int f = 0; f < FACTOR_N; f++) {
        if (category && strcmp(factor_defs[f].category, category) != 0)
            continue;
        write_definition(c, f);
        n++;
    }
    keel_json_end(w);
    keel_json_i64(w, "count", n);
    keel_json_null(w, "next");
    keel_json_str(w, "bar_spec", o->bar_spec);
    keel_json_str(w, "symbols",
                  "n: returns observed, at most lookback; k: reversal_bars; C[i]: close i bars ago; "
                  "r[i] = ln(C[i] / C[i+1]); V[i] = C[i] * volume of bar i; bars without trades are not counted");
    keel_json_i64(w, "k", s->conf.reversal);
    keel_json_str(
        w, "standardisation",
        "over the symbols that are fresh and have min_bars returns: clipped to the median +- 3 * 1.4826 median "
        "absolute deviations, then mean 0 and sample deviation 1");
    keel_json_end(w);
}

enum keel_status api_definitions(struct keel_call *c)
{
    keel_json_obj(&c->out, NULL);
    write_definitions(c, NULL);
    return KEEL_OK;
}

enum keel_status api_category(struct keel_call *c)
{
    const struct factor_category_query *q = c->arg;
    int f = 0;

    while (f < FACTOR_N && strcmp(factor_defs[f].category, q->category) != 0)
        f++;
    if (f == FACTOR_N)
        return keel_fail_as(c, KEEL_NOTFOUND, "unknown_category", "category",
                            "there is no factor of category %s; the categories are technical and liquidity",
                            q->category);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "category", q->category);
    write_definitions(c, q->category);
    return KEEL_OK;
}

/* ---- exposures of a symbol ---- */

struct answer { const char *symbol; struct factor_universe u; size_t row; double took_ms; };

static enum keel_status look(struct keel_call *c, const char *symbol, struct answer *out)
{
    const struct factor_options *o = keel_options(c->rt);
    struct factor_state *s = c->state;
    char *name = keel_arena_alloc(c->arena, KEEL_SYMBOL_LEN + 1);
    const char *why = "";
    const struct factor_symbol *sym;
    double before = keel_elapsed_ms(c);
    enum keel_status st;

    if (!keel_symbol_normalise(symbol, name))
        return keel_fail_as(c, KEEL_INVALID, "bad_symbol", "symbol",
                            "symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}");
    sym = factor_symbol_find(s, name, false);
    if (!sym)
        return keel_fail_as(c, KEEL_NOTFOUND, "unknown_symbol", "symbol", "no %s bar of %s has been seen",
                            o->bar_spec, name);
    st = factor_universe_of(c, &out->u);
    if (st != KEEL_OK)
        return st;
    if (!factor_member(s, o, sym, c->arena, &why))
        return keel_fail_as(c, KEEL_UNDEFINED, "not_in_universe", "symbol", "%s is not in the cross-section: %s",
                            name, why);
    out->symbol = name;
    out->row = factor_row(&out->u, sym);
    out->took_ms = keel_elapsed_ms(c) - before;
    return KEEL_OK;
}

static const char *why_null(struct keel_call *c, const struct answer *a, int f)
{
    if (a->u.point[a->row]->has >> f & 1)
        return factor_why_undefined(c->arena, &a->u.section, f);
    return f == FACTOR_SIZE ? "nothing traded in the lookback" : "no bar that traded moved in the lookback";
}

static void write_result(struct keel_call *c, const struct answer *a, int f)
{
    const struct factor_state *s = c->state;
    const struct factor_point *p = a->u.point[a->row];
    int64_t age = keel_session_ns(c->rt) - p->ts_close;
    uint32_t need = f == FACTOR_REVERSAL ? s->conf.reversal : s->conf.lookback;
    struct keel_json *w = &c->out;

    keel_json_obj(w, NULL);
    keel_json_str(w, "factor_id", factor_defs[f].name);
    keel_json_str(w, "symbol", a->symbol);
    keel_json_time(w, "timestamp", p->ts_close);
    if (a->u.section.has[a->row] >> f & 1)
        keel_json_f64(w, "value", a->u.section.z[a->row * FACTOR_N + (size_t)f]);
    else
        keel_json_null(w, "value");
    keel_json_fix(w, "confidence", p->have < need ? (double)p->have / need : 1, 4);
    keel_json_fix(w, "data_age_seconds", age > 0 ? (double)age / 1e9 : 0, 3);
    keel_json_fix(w, "calculation_time_ms", a->took_ms, 3);
    keel_json_end(w);
}

/* Ends the open object. */
static void write_results(struct keel_call *c, const struct answer *a, const int *ids, size_t n)
{
    struct keel_json *w = &c->out;
    bool any = false;

    keel_json_arr(w, "results");
    for (size_t i = 0; i < n; i++)
        write_result(c, a, ids[i]);
    keel_json_end(w);
    keel_json_i64(w, "count", (int64_t)n);
    keel_json_time(w, "last_updated", a->u.as_of);
    keel_json_i64(w, "universe", (int64_t)a->u.n);
    for (size_t i = 0; i < n; i++) {
        if (a->u.section.has[a->row] >> ids[i] & 1)
            continue;
        if (!any)
            keel_json_obj(w, "undefined");
        any = true;
        keel_json_str(w, factor_defs[ids[i]].name, why_null(c, a, ids[i]));
    }
    if (any)
        keel_json_end(w);
    keel_json_end(w);
}

enum keel_status api_calculate(struct keel_call *c)
{
    const struct factor_calculate *r = c->arg;
    struct keel_json *w = &c->out;
    struct answer a;
    int ids[FACTOR_N];
    size_t n;
    enum keel_status st = factor_ids_of(c, r->factor_ids, r->n_factor_ids, ids, &n);

    if (st == KEEL_OK)
        st = look(c, r->symbol, &a);
    if (st != KEEL_OK)
        return st;
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "symbol", a.symbol);
    keel_json_i64(w, "requested_factors", (int64_t)n);
    write_results(c, &a, ids, n);
    return KEEL_OK;
}

enum keel_status api_results(struct keel_call *c)
{
    const struct factor_symbol_query *q = c->arg;
    struct answer a;
    int ids[FACTOR_N];
    size_t n;
    enum keel_status st = factor_ids_of(c, NULL, 0, ids, &n);

    if (st == KEEL_OK)
        st = look(c, q->symbol, &a);
    if (st != KEEL_OK)
        return st;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "symbol", a.symbol);
    write_results(c, &a, ids, n);
    return KEEL_OK;
}

/* ---- correlations ---- */

enum keel_status api_correlations(struct keel_call *c)
{
    const struct factor_correlations *r = c->arg;
    struct keel_json *w = &c->out;
    struct factor_universe u;
    int ids[FACTOR_N];
    size_t n;
    double value;
    enum keel_status st = factor_ids_of(c, r->factor_ids, r->n_factor_ids, ids, &n);

    if (st == KEEL_OK)
        st = factor_universe_of(c, &u);
    if (st != KEEL_OK)
        return st;
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "method", "Pearson correlation of exposures across the universe");
    keel_json_time(w, "as_of", u.as_of);
    keel_json_i64(w, "universe", (int64_t)u.n);
    keel_json_obj(w, "correlations");
    for (size_t i = 0; i < n; i++) {
        keel_json_obj(w, factor_defs[ids[i]].name);
        for (size_t j = 0; j < n; j++) {
            if (factor_correlation(&u.section, u.n, ids[i], ids[j], &value) == KEEL_OK)
                keel_json_f64(w, factor_defs[ids[j]].name, value);
            else
                keel_json_null(w, factor_defs[ids[j]].name);
        }
        keel_json_end(w);
    }
    keel_json_end(w);
    keel_json_obj(w, "undefined");
    for (size_t i = 0; i < n; i++)
        if (!(u.section.defined >> ids[i] & 1))
            keel_json_str(w, factor_defs[ids[i]].name, factor_why_undefined(c->arena, &u.section, ids[i]));
    keel_json_end(w);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_end(w);
    return KEEL_OK;
}
