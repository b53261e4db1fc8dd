/*
 * Predictions: of a live vector, or of the figures of a request; a refusal says what is lacking. What there is to go
 * by is looked up first (ml_basis_of, ml_live_of); the rest sees no state, so that a worker may do it for a batch.
 */
#include "ops.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *const ml_watched[ML_WATCHED] = {"return", "ofi", "spread_bps", "book_imbalance"};

static enum keel_status refuse(struct ml_refusal *why, const char *code, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static enum keel_status refuse(struct ml_refusal *why, const char *code, const char *field, const char *fmt, ...)
{
    va_list ap;

    why->code = code;
    why->field = field;
    va_start(ap, fmt);
    vsnprintf(why->detail, sizeof why->detail, fmt, ap);
    va_end(ap);
    return KEEL_UNDEFINED;
}

void ml_prediction_id(struct ml_state *s, char out[32])
{
    snprintf(out, 32, "P-%08x-%llu", (unsigned)s->epoch, (unsigned long long)++s->predictions);
}

/* Upper case, as symbols are kept; false when it is too long to be one. */
static bool symbol_of(const char *text, char out[KEEL_SYMBOL_LEN + 1])
{
    size_t n = strlen(text);

    if (n > KEEL_SYMBOL_LEN)
        return false;
    for (size_t i = 0; i <= n; i++)
        out[i] = text[i] >= 'a' && text[i] <= 'z' ? (char)(text[i] - 'a' + 'A') : text[i];
    return true;
}

struct ml_basis ml_basis_of(const struct keel_call *c, enum ml_model model)
{
    const struct ml_state *s = c->state;
    const struct ml_options *o = keel_options(c->rt);

    return (struct ml_basis){.model = model,
                             .serving = s->serving,
                             .columns = &s->columns,
                             .threshold = o->anomaly_threshold,
                             .now_ns = keel_session_ns(c->rt)};
}

const struct ml_live *ml_live_of(const struct ml_state *s, const struct ml_basis *b, const struct ml_ask *in)
{
    const char *spec = in->has_spec ? in->spec : b->model == ML_PRICE && b->serving ? b->serving->spec : "";
    char symbol[KEEL_SYMBOL_LEN + 1];
    const struct ml_series *r;

    if (!in->has_symbol || (b->model == ML_PRICE && in->has_features) || !symbol_of(in->symbol, symbol))
        return NULL;
    r = ml_find_series(s, symbol, spec);
    return r ? &r->live : NULL;
}

/* There is a stream, of bars of that kind if it says one. */
static enum keel_status found(const struct ml_live *l, const struct ml_ask *in, const char *spec,
                              struct ml_refusal *why)
{
    if (!in->has_symbol)
        return refuse(why, "missing", "symbol", "symbol says which stream to predict from");
    if (!l)
        return refuse(why, "missing", "symbol", "there is no stream of %s%s%s", in->symbol, *spec ? " on bars of " : "",
                      spec);
    return KEEL_OK;
}

static enum keel_status fresh(const struct ml_ask *in, int64_t as_of, int64_t now, struct ml_answer *out,
                              struct ml_refusal *why)
{
    int64_t age_ms = (now - as_of) / 1000000;

    if (age_ms > in->max_age_ms)
        return refuse(why, "stale_input", "symbol", "the newest input is %lld ms old, max_age_ms is %lld",
                      (long long)age_ms, (long long)in->max_age_ms);
    out->as_of = as_of;
    out->expires = as_of + in->max_age_ms * 1000000;
    return KEEL_OK;
}

static const struct keel_named *find(const struct ml_ask *in, const char *name)
{
    for (size_t i = 0; i < in->n_features; i++)
        if (strcmp(in->features[i].name, name) == 0)
            return &in->features[i];
    return NULL;
}

static void ignore(struct keel_ignored *g, const char *name)
{
    for (size_t i = 0; i < g->n; i++)
        if (strcmp(g->names[i], name) == 0)
            return;
    if (g->n < KEEL_COUNT(g->names))
        g->names[g->n++] = name;
}

/* ---- price_model ---- */

enum ml_lack ml_price(const struct ml_version *v, const struct ml_row *row, double price, struct ml_answer *out,
                      uint32_t *which)
{
    double p = 0;
    enum ml_lack lack = ml_score(&v->fit, row->x, row->present, &p, which);

    if (lack != ML_NONE)
        return lack;
    out->model = ML_PRICE;
    out->version = v->version;
    out->quality = v->about.better ? "OK" : "BELOW_BASELINE";
    out->direction = p > 0.5 ? "UP" : p < 0.5 ? "DOWN" : "FLAT";
    out->confidence = fmax(p, 1 - p);
    /* What the probability is worth: the mean move of the training window, up with p and down with 1 - p. */
    out->change = (2 * p - 1) * v->fit.mean_move;
    out->has_target = price > 0 && keel_dec_from_f64(price * (1 + out->change), &out->target) == KEEL_OK;
    return ML_NONE;
}

/* The inputs of a request as a row; price: that prices are relative to, 0 when there is none. */
static enum keel_status row_of(const struct ml_basis *b, const struct ml_ask *in, double price,
                               struct keel_ignored *ignored, struct ml_row *row, struct ml_refusal *why)
{
    const struct ml_fit *fit = &b->serving->fit;
    const struct ml_columns *columns = b->columns;

    for (uint32_t j = 0; j < fit->d; j++) {
        uint32_t k = fit->input[j];
        const struct keel_named *f = find(in, columns->name[k]);
        if (!f)
            continue; /* ml_score names the first one that is missing */
        if (columns->how[k] != ML_PLAIN && price <= 0)
            return refuse(why, "missing", "current_price", "%s is taken relative to current_price", f->name);
        row->x[k] = ml_take(columns->how[k], f->value, price);
        row->present |= 1U << k;
    }
    for (size_t i = 0; i < in->n_features; i++) {
        bool used = false;
        for (uint32_t j = 0; j < fit->d; j++)
            used = used || strcmp(columns->name[fit->input[j]], in->features[i].name) == 0;
        if (!used)
            ignore(ignored, in->features[i].name);
    }
    return KEEL_OK;
}

/* The stream's newest vector, if it is what the model knows. */
static enum keel_status live_row(const struct ml_basis *b, const struct ml_live *l, const struct ml_ask *in,
                                 const struct ml_row **row, struct ml_answer *out, struct ml_refusal *why)
{
    const struct ml_version *v = b->serving;
    enum keel_status st;

    if (in->has_spec && strcmp(in->spec, v->spec) != 0)
        return refuse(why, "out_of_range", "spec", "the model was trained on bars of %s", v->spec);
    st = found(l, in, v->spec, why);
    if (st != KEEL_OK)
        return st;
    *row = ml_newest(l);
    if (!*row)
        return refuse(why, "missing", "symbol", "there is no vector of %s yet", l->symbol);
    if (strcmp(l->schema, v->schema) != 0)
        return refuse(why, "missing", "symbol", "vectors are of schema %s, the model of %s", l->schema, v->schema);
    out->spec = l->spec;
    return fresh(in, (*row)->ts, b->now_ns, out, why);
}

static enum keel_status predict_price(const struct ml_basis *b, const struct ml_live *l, const struct ml_ask *in,
                                      struct keel_ignored *ignored, struct ml_answer *out, struct ml_refusal *why)
{
    const struct ml_version *v = b->serving;
    double price = in->has_current_price ? keel_dec_to_f64(in->current_price) : 0;
    struct ml_row given = {0};
    const struct ml_row *row = &given;
    uint32_t which = 0;
    enum keel_status st;

    if (!v)
        return refuse(why, "model_disabled", "model_id", "price_model is not trained; POST /models/price_model/train");
    if (in->has_features) {
        out->spec = "";
        st = fresh(in, b->now_ns, b->now_ns, out, why);
        if (st == KEEL_OK)
            st = row_of(b, in, price, ignored, &given, why);
    } else if (in->has_symbol)
        st = live_row(b, l, in, &row, out, why);
    else
        st = refuse(why, "missing", "symbol", "symbol or features say what to predict from");
    if (st != KEEL_OK)
        return st;
    switch (ml_price(v, row, in->has_current_price ? price : row->close, out, &which)) {
    case ML_MISSING:
        return refuse(why, "missing", "features", "%s is missing", b->columns->name[v->fit.input[which]]);
    case ML_OUT_OF_RANGE:
        return refuse(why, "out_of_range", "features",
                      "%s is farther than %g standard deviations from all that was trained on",
                      b->columns->name[v->fit.input[which]], ML_FARTHEST);
    case ML_NONE:
        break;
    }
    return KEEL_OK;
}

/* ---- volatility_forecaster ---- */

void ml_volatility(const struct ml_ewma *e, struct ml_answer *out)
{
    out->model = ML_VOLATILITY;
    out->version = 1;
    out->quality = "OK";
    out->volatility = sqrt(e->variance);
    out->observations = e->n;
    out->confidence = ml_ewma_weight(e, ML_LAMBDA);
}

static enum keel_status predict_volatility(const struct ml_basis *b, const struct ml_live *l, const struct ml_ask *in,
                                           struct keel_ignored *ignored, struct ml_answer *out, struct ml_refusal *why)
{
    enum keel_status st = found(l, in, "", why);

    if (st != KEEL_OK)
        return st;
    if (l->volatility.n < ML_VOLATILITY_MIN)
        return refuse(why, "missing", "symbol", "%llu of %d returns of %s are there",
                      (unsigned long long)l->volatility.n, ML_VOLATILITY_MIN, l->symbol);
    for (size_t i = 0; i < in->n_features; i++)
        ignore(ignored, in->features[i].name);
    ml_volatility(&l->volatility, out);
    out->spec = l->spec;
    return fresh(in, l->bar_ts, b->now_ns, out, why);
}

/* ---- anomaly_detector ---- */

void ml_watch(const struct ml_scale scale[ML_WATCHED], const struct keel_named *f, size_t n, double close,
              double close_before, double x[ML_WATCHED], bool has[ML_WATCHED], struct ml_scores *out)
{
    *out = (struct ml_scores){0};
    for (int k = 0; k < ML_WATCHED; k++) {
        has[k] = k == ML_W_RETURN && close_before > 0 && close > 0;
        x[k] = has[k] ? log(close / close_before) : 0;
        for (size_t i = 0; k != ML_W_RETURN && i < n && !has[k]; i++)
            if (strcmp(f[i].name, ml_watched[k]) == 0) {
                has[k] = true;
                x[k] = f[i].value;
            }
        out->has[k] = has[k] && ml_scale_score(&scale[k], x[k], &out->z[k]) == KEEL_OK;
        if (out->has[k] && (!out->any || out->z[k] > out->z[out->farthest]))
            out->farthest = (uint32_t)k;
        out->any = out->any || out->has[k];
    }
}

/* Features of a request are scored against the windows of the symbol's stream. */
static void score_given(const struct ml_ask *in, const struct ml_live *l, struct keel_ignored *ignored,
                        struct ml_scores *out)
{
    double x[ML_WATCHED];
    bool has[ML_WATCHED];
    const struct ml_row *newest = ml_newest(l);

    ml_watch(l->scale, in->features, in->n_features, in->has_current_price ? keel_dec_to_f64(in->current_price) : 0,
             newest ? newest->close : 0, x, has, out);
    for (size_t i = 0; i < in->n_features; i++) {
        bool used = false;
        for (int k = ML_W_RETURN + 1; k < ML_WATCHED; k++)
            used = used || strcmp(in->features[i].name, ml_watched[k]) == 0;
        if (!used)
            ignore(ignored, in->features[i].name);
    }
}

static uint32_t most_seen(const struct ml_live *l)
{
    uint32_t n = 0;

    for (int k = 0; k < ML_WATCHED; k++)
        n = l->scale[k].n > n ? l->scale[k].n : n;
    return n;
}

static enum keel_status predict_anomaly(const struct ml_basis *b, const struct ml_live *l, const struct ml_ask *in,
                                        struct keel_ignored *ignored, struct ml_answer *out, struct ml_refusal *why)
{
    const struct ml_row *newest;
    enum keel_status st = found(l, in, "", why);

    if (st != KEEL_OK)
        return st;
    newest = ml_newest(l);
    out->scores = l->scores;
    if (in->has_features)
        score_given(in, l, ignored, &out->scores);
    if (!newest || !out->scores.any)
        return refuse(why, "missing", "symbol",
                      "%u of %d vectors of %s are there, or none of the figures that are watched", most_seen(l),
                      ML_WINDOW_MIN, l->symbol);
    out->model = ML_ANOMALY;
    out->version = 1;
    out->quality = "OK";
    out->threshold = b->threshold;
    out->observations = most_seen(l);
    out->confidence = (double)out->observations / ML_WINDOW;
    out->spec = l->spec;
    return fresh(in, in->has_features ? b->now_ns : newest->ts, b->now_ns, out, why);
}

/* ---- any ---- */

enum keel_status ml_predict(const struct ml_basis *b, const struct ml_live *live, const struct ml_ask *in,
                            struct keel_ignored *ignored, struct ml_answer *out, struct ml_refusal *why)
{
    *out = (struct ml_answer){.model = b->model};
    if (in->has_portfolio_value && b->model != ML_VOLATILITY)
        ignore(ignored, "portfolio_value");
    switch (b->model) {
    case ML_PRICE:
        return predict_price(b, live, in, ignored, out, why);
    case ML_VOLATILITY:
        return predict_volatility(b, live, in, ignored, out, why);
    case ML_ANOMALY:
        return predict_anomaly(b, live, in, ignored, out, why);
    default:
        return refuse(why, "model_disabled", "model_id", "%s is not trained", ml_models[b->model].id);
    }
}
