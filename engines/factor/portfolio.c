/*
 * What a portfolio gets from exposures and model: the portfolio engine says what is held and what it is worth, the
 * weights are market value by equity.
 */
#include "ops.h"

#include <math.h>
#include <string.h>

KEEL_RECORD_TABLE(factor_portfolio_query, FACTOR_PORTFOLIO);

struct holding { const struct factor_symbol *symbol; double weight; };
struct holdings {
    struct holding *h;
    size_t n;
    double equity, gross;       /* currency: of the account; sum of |market value| */
    struct factor_reason *left_out;  /* what has no exposures */
    size_t n_left_out;
};

static const char *escaped(struct keel_arena *a, const char *text)
{
    char *out = keel_arena_alloc(a, 3 * strlen(text) + 1), *to = out;

    for (; *text; text++) {
        unsigned char ch = (unsigned char)*text;

        if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || strchr("-._~", ch)) {
            *to++ = (char)ch;
            continue;
        }
        *to++ = '%';
        *to++ = "0123456789ABCDEF"[ch >> 4];
        *to++ = "0123456789ABCDEF"[ch & 15];
    }
    return out;
}

static enum keel_status ask_portfolio(struct keel_call *c, keel_step_fn *next)
{
    const struct factor_portfolio_query *q = c->arg;

    return keel_await_peer(c, &(struct keel_peer_req){.peer = "portfolio", .method = "GET",
                                                      .path = keel_arena_printf(c->arena, "/portfolios/%s",
                                                                                escaped(c->arena, q->portfolio_id))},
                           next);
}

/* Money of a peer's answer, a decimal string. */
static bool money(const struct keel_jval *v, const char *name, double *out)
{
    const char *text = keel_jstr(v, name);
    keel_i128 m;

    if (keel_money_parse(text, strlen(text), &m) != KEEL_OK)
        return false;
    *out = keel_money_to_f64(m);
    return true;
}

static void take_position(struct keel_call *c, const struct keel_jval *p, struct holdings *out)
{
    const char *name = keel_jstr(p, "symbol");
    const struct factor_symbol *sym = factor_symbol_find(c->state, name, false);
    double value;

    if (strcmp(keel_jstr(p, "quantity"), "0") == 0)
        return;
    if (!money(p, "market_value", &value)) {
        out->left_out[out->n_left_out++] = (struct factor_reason){name, "it has no market value"};
        return;
    }
    out->gross += fabs(value);
    if (!sym)
        out->left_out[out->n_left_out++] = (struct factor_reason){name, "no bar of it has been seen"};
    else
        out->h[out->n++] = (struct holding){sym, value / out->equity};
}

static enum keel_status take_portfolio(struct keel_call *c, struct holdings *out)
{
    const struct factor_portfolio_query *q = c->arg;
    const struct keel_jval *list = keel_jget(c->peer.json, "positions");

    if (c->peer.status != KEEL_OK)
        return keel_fail_as(c, c->peer.status == KEEL_OPEN ? KEEL_UNAVAILABLE : c->peer.status,
                            "portfolio_unavailable", NULL, "portfolio did not answer");
    if (c->peer.http == 404)
        return keel_fail_as(c, KEEL_NOTFOUND, "unknown_portfolio", "portfolio_id", "there is no portfolio %s",
                            q->portfolio_id);
    if (c->peer.http == 503)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "portfolio_unavailable", NULL, "portfolio is not ready");
    if (c->peer.http != 200 || !list || list->type != KEEL_JARR)
        return keel_fail_as(c, KEEL_UPSTREAM, "portfolio_answer", NULL, "portfolio answered %d without positions",
                            c->peer.http);
    if (!money(keel_jget(c->peer.json, "account"), "equity", &out->equity) || !(out->equity > 0))
        return keel_fail_as(c, KEEL_UNDEFINED, "equity_undefined", NULL,
                            "weights are market value by equity, and the equity of %s is unknown or not > 0",
                            q->portfolio_id);
    out->h = keel_arena_array(c->arena, list->len, sizeof *out->h);
    out->left_out = keel_arena_array(c->arena, list->len * 2, sizeof *out->left_out);
    for (const struct keel_jval *p = list->child; p; p = p->next)
        take_position(c, p, out);
    return KEEL_OK;
}

static void write_coverage(struct keel_json *w, const struct holdings *h, double covered)
{
    if (h->gross > 0)
        keel_json_fix(w, "coverage", covered * h->equity / h->gross, 6);
    else
        keel_json_null(w, "coverage");
    factor_write_reasons(w, "left_out", h->left_out, h->n_left_out);
}

static enum keel_status exposures_answer(struct keel_call *c)
{
    const struct factor_portfolio_query *q = c->arg;
    const struct factor_options *o = keel_options(c->rt);
    struct factor_universe u;
    struct holdings h = {0};
    double sum[FACTOR_N] = {0}, covered = 0;
    struct keel_json *w = &c->out;
    enum keel_status st = take_portfolio(c, &h);

    if (st == KEEL_OK)
        st = factor_universe_of(c, &u);
    if (st != KEEL_OK)
        return st;
    for (size_t i = 0; i < h.n; i++) {
        size_t row = factor_row(&u, h.h[i].symbol);
        const char *why = "";

        if (row == SIZE_MAX) {
            factor_member(c->state, o, h.h[i].symbol, c->arena, &why);
            h.left_out[h.n_left_out++] = (struct factor_reason){h.h[i].symbol->name, why};
            continue;
        }
        covered += fabs(h.h[i].weight);
        for (int f = 0; f < FACTOR_N; f++)
            if (u.section.has[row] >> f & 1)
                sum[f] += h.h[i].weight * u.section.z[row * FACTOR_N + (size_t)f];
    }
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "portfolio_id", q->portfolio_id);
    keel_json_str(w, "weights", "market value by equity, signed");
    keel_json_time(w, "as_of", u.as_of);
    keel_json_i64(w, "universe", (int64_t)u.n);
    keel_json_obj(w, "exposures");
    for (int f = 0; f < FACTOR_N; f++)
        if (u.section.defined >> f & 1)
            keel_json_f64(w, factor_defs[f].name, sum[f]);
        else
            keel_json_null(w, factor_defs[f].name);
    keel_json_end(w);
    write_coverage(w, &h, covered);
    keel_json_obj(w, "undefined");
    for (int f = 0; f < FACTOR_N; f++)
        if (!(u.section.defined >> f & 1))
            keel_json_str(w, factor_defs[f].name, factor_why_undefined(c->arena, &u.section, f));
    keel_json_end(w);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_exposures(struct keel_call *c)
{
    struct factor_universe u;
    /* Asked first: without a cross-section nobody needs to be asked. */
    enum keel_status st = factor_universe_of(c, &u);

    return st == KEEL_OK ? ask_portfolio(c, exposures_answer) : st;
}

/* ---- attribution of the bar of the model ---- */

static size_t model_row(const struct factor_model *m, const struct factor_symbol *sym)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->symbol[i] == sym)
            return i;
    return SIZE_MAX;
}

static void write_contributions(struct keel_json *w, const struct factor_model *m, const double *exposure)
{
    keel_json_arr(w, "factors");
    for (size_t j = 0; j < m->k; j++) {
        keel_json_obj(w, NULL);
        keel_json_str(w, "factor_id", m->column[j]);
        keel_json_str(w, "kind", factor_kind_of(m, j));
        keel_json_f64(w, "exposure", exposure[j]);
        keel_json_f64(w, "return", m->e.factor[j]);
        keel_json_f64(w, "contribution", exposure[j] * m->e.factor[j]);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static enum keel_status attribution_answer(struct keel_call *c)
{
    const struct factor_portfolio_query *q = c->arg;
    const struct factor_state *s = c->state;
    const struct factor_model *m = s->model;
    struct holdings h = {0};
    double exposure[FACTOR_COLUMNS] = {0}, total = 0, specific = 0, covered = 0;
    struct keel_json *w = &c->out;
    enum keel_status st = take_portfolio(c, &h);

    if (st != KEEL_OK)
        return st;
    for (size_t i = 0; i < h.n; i++) {
        size_t row = model_row(m, h.h[i].symbol);

        if (row == SIZE_MAX) {
            h.left_out[h.n_left_out++] = (struct factor_reason){h.h[i].symbol->name, "it is not in the model"};
            continue;
        }
        covered += fabs(h.h[i].weight);
        total += h.h[i].weight * m->ret[row];
        specific += h.h[i].weight * m->e.residual[row];
        for (size_t j = 0; j < m->k; j++)
            exposure[j] += h.h[i].weight * m->design[row * m->k + j];
    }
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "portfolio_id", q->portfolio_id);
    keel_json_str(w, "weights", "market value by equity, signed, as they are now");
    keel_json_time(w, "as_of", m->as_of);
    keel_json_f64(w, "total_return", total);
    keel_json_f64(w, "specific_return", specific);
    write_contributions(w, m, exposure);
    write_coverage(w, &h, covered);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_attribution(struct keel_call *c)
{
    const struct factor_state *s = c->state;

    return s->model ? ask_portfolio(c, attribution_answer) : factor_no_model(c);
}
