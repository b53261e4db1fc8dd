/*
 * The regression over the live universe.
 *
 * The returns are those of one bar, the same for all: the median of the symbols' newest closes, so that one symbol
 * that is ahead or behind does not decide. The exposures are those of the bar before, so that no return explains
 * itself.
 */
#include "ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

KEEL_RECORD_TABLE(factor_estimate_request, FACTOR_ESTIMATE);

void factor_model_free(struct factor_model *m)
{
    if (!m)
        return;
    keel_arena_free(m->arena);
    keel_free(m);
}

/* ---- the cross-section of the regression ---- */

struct estimation {
    struct factor_model m; /* in the call's arena */
    struct factor_cross cross;
    struct keel_arena *arena;
    const struct factor_point **before; /* of each symbol: the bar before the one that is explained */
    const char **sector_of;             /* of each symbol; NULL: a model without sectors */
    struct factor_section section;
    int style[FACTOR_N];
    enum keel_status st;
};

static void leave_out(struct estimation *x, const char *symbol, const char *why)
{
    x->m.left_out[x->m.n_left_out++] = (struct factor_reason){symbol, why};
}

/* *out: the sector of each symbol of the state, NULL for none. Symbols that are not followed do not matter. */
static enum keel_status parse_sectors(struct keel_call *c, const struct factor_estimate_request *r, const char ***out)
{
    struct factor_state *s = c->state;
    const char **sector = keel_arena_array(c->arena, s->n, sizeof *sector), *why;
    const struct keel_jval *top;

    if (keel_json_parse(c->arena, r->sectors, r->n_sectors, &top, &why) != KEEL_OK || top->type != KEEL_JOBJ)
        return keel_fail_as(c, KEEL_INVALID, "wrong_type", "sectors", "sectors must be an object of symbols");
    for (const struct keel_jval *v = top->child; v; v = v->next) {
        char name[KEEL_SYMBOL_LEN + 1];
        const struct factor_symbol *sym =
            keel_symbol_normalise(v->name, name) ? factor_symbol_find(s, name, false) : NULL;

        if (v->type != KEEL_JSTR || v->len == 0 || v->len > 64)
            return keel_fail_as(c, KEEL_INVALID, "wrong_type", keel_arena_printf(c->arena, "sectors.%s", v->name),
                                "a sector is a text of 1 to 64 bytes");
        if (sym)
            sector[sym - s->symbol] = v->text;
    }
    *out = sector;
    return KEEL_OK;
}

static int by_time(const void *a, const void *b)
{
    int64_t x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* The close that at least half of the universe has reached. */
static int64_t median_close(const struct factor_universe *u, struct keel_arena *a)
{
    int64_t *t = keel_arena_array(a, u->n, sizeof *t);

    for (size_t i = 0; i < u->n; i++)
        t[i] = u->point[i]->ts_close;
    qsort(t, u->n, sizeof *t, by_time);
    return t[(u->n - 1) / 2];
}

static const char *why_not_pair(const struct factor_state *s, bool paired, const struct factor_point *before,
                                const char *sector, bool with_sectors)
{
    if (!paired)
        return "no bar closed at as_of";
    if (before->have < s->conf.least_bars)
        return "too few returns before as_of";
    if (!(before->has >> FACTOR_SIZE & 1))
        return "nothing traded: it has no weight";
    return with_sectors && !sector ? "sectors does not name it" : NULL;
}

/* Symbols that have the bar, enough history before it, a weight and, where asked for, a sector. */
static void gather(struct keel_call *c, const struct factor_universe *u, const char *const *sectors,
                   struct estimation *x)
{
    const struct factor_state *s = c->state;
    const struct factor_point *at = NULL, *before = NULL;

    x->m.as_of = median_close(u, c->arena);
    x->m.exposures_as_of = INT64_MIN;
    for (size_t i = 0; i < u->n; i++) {
        const struct factor_symbol *sym = u->symbol[i];
        const char *sector = sectors ? sectors[sym - s->symbol] : NULL;
        bool paired = factor_pair(&sym->history, x->m.as_of, &at, &before);
        const char *why = why_not_pair(s, paired, before, sector, sectors != NULL);

        if (why) {
            leave_out(x, sym->name, why);
            continue;
        }
        x->m.symbol[x->m.n] = sym;
        x->m.ret[x->m.n] = at->ret;
        x->before[x->m.n] = before;
        x->sector_of[x->m.n] = sector;
        x->m.exposures_as_of = before->ts_close > x->m.exposures_as_of ? before->ts_close : x->m.exposures_as_of;
        x->m.n++;
    }
}

/* Styles of the request; without one, those that are defined. Symbols that lack one of them leave. */
static enum keel_status choose_styles(struct keel_call *c, const struct factor_estimate_request *r,
                                      struct estimation *x)
{
    int ids[FACTOR_N];
    size_t n, kept = 0;
    unsigned need = 0;
    enum keel_status st = factor_ids_of(c, r->factor_ids, r->n_factor_ids, ids, &n);

    if (st != KEEL_OK)
        return st;
    factor_standardise(x->before, x->m.n, c->arena, &x->section);
    for (size_t i = 0; i < n; i++) {
        const char *name = factor_defs[ids[i]].name;

        if (x->section.defined >> ids[i] & 1) {
            x->style[x->cross.n_styles++] = ids[i];
            need |= 1u << ids[i];
            continue;
        }
        if (r->has_factor_ids)
            return keel_fail_as(c, KEEL_UNDEFINED, "factor_undefined", "factor_ids", "%s: %s", name,
                                factor_why_undefined(c->arena, &x->section, ids[i]));
        x->m.undefined[x->m.n_undefined++] =
            (struct factor_reason){name, factor_why_undefined(c->arena, &x->section, ids[i])};
    }
    for (size_t i = 0; i < x->m.n; i++) {
        if ((x->section.has[i] & need) != need) {
            leave_out(x, x->m.symbol[i]->name, "it lacks one of the styles");
            continue;
        }
        x->m.symbol[kept] = x->m.symbol[i];
        x->m.ret[kept] = x->m.ret[i];
        x->before[kept] = x->before[i];
        x->sector_of[kept] = x->sector_of[i];
        memmove(&x->section.z[kept * FACTOR_N], &x->section.z[i * FACTOR_N], FACTOR_N * sizeof(double));
        kept++;
    }
    x->m.n = kept;
    return KEEL_OK;
}

/* Names of the columns; sectors in the order in which symbols bring them. */
static enum keel_status name_columns(struct keel_call *c, bool with_sectors, struct estimation *x)
{
    x->m.column = keel_arena_array(c->arena, FACTOR_COLUMNS, sizeof *x->m.column);
    x->m.column[x->m.k++] = "market";
    for (size_t i = 0; with_sectors && i < x->m.n; i++) {
        size_t j = 1;

        while (j < x->m.k && strcmp(x->m.column[j], x->sector_of[i]) != 0)
            j++;
        if (j < x->m.k)
            continue;
        if (j > FACTOR_SECTORS)
            return keel_fail_as(c, KEEL_TOOBIG, "too_many_sectors", "sectors", "a model has at most %d sectors",
                                FACTOR_SECTORS);
        x->m.column[x->m.k++] = x->sector_of[i];
    }
    x->m.n_sectors = x->m.k - 1;
    for (size_t j = 0; j < x->cross.n_styles; j++)
        x->m.column[x->m.k++] = factor_defs[x->style[j]].name;
    return KEEL_OK;
}

static void fill(struct keel_call *c, struct estimation *x)
{
    size_t n = x->m.n, k = x->m.k, s = x->cross.n_styles, m = x->m.n_sectors;
    double *weight = keel_arena_array(c->arena, n, sizeof *weight);
    double *sector = keel_arena_array(c->arena, n * m, sizeof *sector);
    double *style = keel_arena_array(c->arena, n * s, sizeof *style);

    x->m.design = keel_arena_array(c->arena, n * k, sizeof *x->m.design);
    for (size_t i = 0; i < n; i++) {
        double *row = &x->m.design[i * k];

        /* The root of the mean notional; its logarithm is the exposure. */
        weight[i] = exp(x->before[i]->raw[FACTOR_SIZE] / 2);
        row[0] = 1;
        for (size_t j = 0; j < m; j++)
            row[1 + j] = sector[i * m + j] = strcmp(x->m.column[1 + j], x->sector_of[i]) == 0;
        for (size_t j = 0; j < s; j++)
            row[1 + m + j] = style[i * s + j] = x->section.z[i * FACTOR_N + (size_t)x->style[j]];
    }
    x->cross = (struct factor_cross){.n = n, .n_sectors = m, .n_styles = s, .ret = x->m.ret, .weight = weight,
                                     .sector = sector, .style = style};
}

enum keel_status api_estimate(struct keel_call *c)
{
    const struct factor_estimate_request *r = c->arg;
    const char **sectors = NULL;
    struct estimation *x = keel_arena_alloc(c->arena, sizeof *x);
    struct factor_universe u;
    size_t need;
    enum keel_status st = r->has_sectors ? parse_sectors(c, r, &sectors) : KEEL_OK;

    if (st == KEEL_OK)
        st = factor_universe_of(c, &u);
    if (st != KEEL_OK)
        return st;
    x->arena = c->arena;
    x->m.symbol = keel_arena_array(c->arena, u.n, sizeof *x->m.symbol);
    x->m.ret = keel_arena_array(c->arena, u.n, sizeof *x->m.ret);
    x->m.left_out = keel_arena_array(c->arena, u.n, sizeof *x->m.left_out);
    x->m.undefined = keel_arena_array(c->arena, FACTOR_N, sizeof *x->m.undefined);
    x->before = keel_arena_array(c->arena, u.n, sizeof *x->before);
    x->sector_of = keel_arena_array(c->arena, u.n, sizeof *x->sector_of);
    gather(c, &u, (const char *const *)sectors, x);
    st = choose_styles(c, r, x);
    if (st == KEEL_OK)
        st = name_columns(c, sectors != NULL, x);
    if (st != KEEL_OK)
        return st;
    need = (x->m.n_sectors ? x->m.n_sectors : 1) + x->cross.n_styles + 1;
    if (x->cross.n_styles == 0 || x->m.n < need)
        return keel_fail_as(c, KEEL_UNDEFINED, "universe_too_small", NULL,
                            "%zu symbols share a bar, with history, weight and sector; %zu styles need %zu of them",
                            x->m.n, x->cross.n_styles, need);
    fill(c, x);
    c->job = x;
    return KEEL_OK;
}

enum keel_status factor_estimate_work(void *job, const atomic_bool *stop)
{
    struct estimation *x = job;

    (void)stop; /* milliseconds at the largest universe */
    x->st = factor_estimate_cross(&x->cross, x->arena, &x->m.e);
    return KEEL_OK;
}

/* ---- keeping it ---- */

static void *keep(struct keel_arena *a, const void *p, size_t n, size_t size)
{
    void *out = keel_arena_array(a, n, size);

    if (n > 0)
        memcpy(out, p, n * size);
    return out;
}

static struct factor_reason *keep_reasons(struct keel_arena *a, const struct factor_reason *from, size_t n)
{
    struct factor_reason *out = keel_arena_array(a, n, sizeof *out);

    for (size_t i = 0; i < n; i++)
        out[i] = (struct factor_reason){keel_arena_strdup(a, from[i].what), keel_arena_strdup(a, from[i].why)};
    return out;
}

static struct factor_model *model_copy(const struct factor_model *m)
{
    struct factor_model *out = keel_alloc(1, sizeof *out);
    struct keel_arena *a = keel_arena_new(4096);

    *out = *m;
    out->arena = a;
    out->column = keel_arena_array(a, m->k, sizeof *out->column);
    for (size_t j = 0; j < m->k; j++)
        out->column[j] = keel_arena_strdup(a, m->column[j]);
    out->symbol = keep(a, m->symbol, m->n, sizeof *m->symbol);
    out->design = keep(a, m->design, m->n * m->k, sizeof *m->design);
    out->ret = keep(a, m->ret, m->n, sizeof *m->ret);
    out->e.factor = keep(a, m->e.factor, m->k, sizeof *m->e.factor);
    out->e.error = keep(a, m->e.error, m->k, sizeof *m->e.error);
    out->e.residual = keep(a, m->e.residual, m->n, sizeof *m->e.residual);
    out->left_out = keep_reasons(a, m->left_out, m->n_left_out);
    out->undefined = keep_reasons(a, m->undefined, m->n_undefined);
    return out;
}

const char *factor_kind_of(const struct factor_model *m, size_t j)
{
    return j == 0 ? "market" : j <= m->n_sectors ? "sector" : "style";
}

void factor_write_reasons(struct keel_json *w, const char *key, const struct factor_reason *l, size_t n)
{
    keel_json_obj(w, key);
    for (size_t i = 0; i < n; i++)
        keel_json_str(w, l[i].what, l[i].why);
    keel_json_end(w);
}

static void write_factors(struct keel_json *w, const struct factor_model *m)
{
    keel_json_arr(w, "factors");
    for (size_t j = 0; j < m->k; j++) {
        keel_json_obj(w, NULL);
        keel_json_str(w, "factor_id", m->column[j]);
        keel_json_str(w, "kind", factor_kind_of(m, j));
        keel_json_f64(w, "return", m->e.factor[j]);
        keel_json_f64(w, "standard_error", m->e.error[j]);
        if (m->e.error[j] > 0)
            keel_json_f64(w, "t", m->e.factor[j] / m->e.error[j]);
        else
            keel_json_null(w, "t");
        keel_json_end(w);
    }
    keel_json_end(w);
}

static enum keel_status answer_model(struct keel_call *c, const struct factor_model *m)
{
    const struct factor_options *o = keel_options(c->rt);
    struct keel_json *w = &c->out;

    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "method",
                  "weighted least squares of one bar's returns on the market and the sectors, whose returns sum to "
                  "zero, then "
                  "of what is left on the styles; weights: root of the mean notional a bar");
    keel_json_str(w, "bar_spec", o->bar_spec);
    keel_json_time(w, "as_of", m->as_of);
    keel_json_time(w, "exposures_as_of", m->exposures_as_of);
    keel_json_i64(w, "symbols", (int64_t)m->n);
    if (m->e.has_r2)
        keel_json_f64(w, "r2", m->e.r2);
    else
        keel_json_null(w, "r2");
    write_factors(w, m);
    keel_json_obj(w, "residuals");
    for (size_t i = 0; i < m->n; i++)
        keel_json_f64(w, m->symbol[i]->name, m->e.residual[i]);
    keel_json_end(w);
    factor_write_reasons(w, "left_out", m->left_out, m->n_left_out);
    keel_json_obj(w, "undefined");
    for (size_t i = 0; i < m->n_undefined; i++)
        keel_json_str(w, m->undefined[i].what, m->undefined[i].why);
    if (!m->e.has_r2)
        keel_json_str(w, "r2", "the returns do not differ");
    keel_json_end(w);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_estimate_end(struct keel_call *c)
{
    struct factor_state *s = c->state;
    struct estimation *x = c->job;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    if (x->st != KEEL_OK)
        return keel_fail_as(c, KEEL_UNDEFINED, "dependent", "factor_ids",
                            "one of the market, the sectors and the styles is a combination of the others");
    factor_model_free(s->model);
    s->model = model_copy(&x->m);
    return answer_model(c, s->model);
}

enum keel_status factor_no_model(struct keel_call *c)
{
    return keel_fail_as(c, KEEL_NOTFOUND, "no_model", NULL,
                        "no model has been estimated: POST /factors/model/estimate");
}

enum keel_status api_model(struct keel_call *c)
{
    const struct factor_state *s = c->state;

    return s->model ? answer_model(c, s->model) : factor_no_model(c);
}
