/* Predictions from what is in memory: of a live vector, or of the figures of a request; a refusal says what is lacking.
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

/* The live stream of a request. */
static enum keel_status live(const struct ml_state *s, const struct ml_ask *in, const char *spec,
                             struct ml_series **out, struct ml_refusal *why)
{
    char symbol[KEEL_SYMBOL_LEN + 1];

    if (!in->has_symbol)
        return refuse(why, "missing", "symbol", "symbol says which stream to predict from");
    *out = symbol_of(in->symbol, symbol) ? ml_find_series(s, symbol, in->has_spec ? in->spec : spec) : NULL;
    if (!*out)
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

static void ignore(struct keel_call *c, const char *name)
{
    for (size_t i = 0; i < c->ignored.n; i++)
        if (strcmp(c->ignored.names[i], name) == 0)
            return;
    if (c->ignored.n < KEEL_COUNT(c->ignored.names))
        c->ignored.names[c->ignored.n++] = name;
}

/* ---- price_model ---- */

enum ml_lack ml_price(const struct ml_version *v, const struct ml_row *row, struct ml_answer *out, uint32_t *which)
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
    out->has_target = row->close > 0 && keel_dec_from_f64(row->close * (1 + out->change), &out->target) == KEEL_OK;
    return ML_NONE;
}

/* The inputs of a request as a row; close is current_price, 0 when there is none. */
static enum keel_status row_of(struct keel_call *c, const struct ml_version *v, const struct ml_ask *in,
                               struct ml_row *row, struct ml_refusal *why)
{
    const struct ml_state *s = c->state;

    row->close = in->has_current_price ? keel_dec_to_f64(in->current_price) : 0;
    for (uint32_t j = 0; j < v->fit.d; j++) {
        uint32_t k = v->fit.input[j];
        const struct keel_named *f = find(in, s->input[k]);
        if (!f)
            continue; /* ml_score names the first one that is missing */
        if (s->how[k] != ML_PLAIN && row->close <= 0)
            return refuse(why, "missing", "current_price", "%s is taken relative to current_price", f->name);
        row->x[k] = ml_take(s->how[k], f->value, row->close);
        row->present |= 1U << k;
    }
    for (size_t i = 0; i < in->n_features; i++) {
        bool used = false;
        for (uint32_t j = 0; j < v->fit.d; j++)
            used = used || strcmp(s->input[v->fit.input[j]], in->features[i].name) == 0;
        if (!used)
            ignore(c, in->features[i].name);
    }
    return KEEL_OK;
}

static enum keel_status live_row(const struct ml_state *s, const struct ml_ask *in, int64_t now, struct ml_row *row,
                                 struct ml_answer *out, struct ml_refusal *why)
{
    const struct ml_version *v = s->serving;
    struct ml_series *r = NULL;
    const struct ml_row *newest;
    enum keel_status st;

    if (in->has_spec && strcmp(in->spec, v->spec) != 0)
        return refuse(why, "out_of_range", "spec", "the model was trained on bars of %s", v->spec);
    st = live(s, in, v->spec, &r, why);
    if (st != KEEL_OK)
        return st;
    newest = ml_newest(s, r);
    if (!newest)
        return refuse(why, "missing", "symbol", "there is no vector of %s yet", r->symbol);
    if (strcmp(r->schema, v->schema) != 0)
        return refuse(why, "missing", "symbol", "vectors are of schema %s, the model of %s", r->schema, v->schema);
    *row = *newest;
    if (in->has_current_price)
        row->close = keel_dec_to_f64(in->current_price);
    out->spec = r->spec;
    return fresh(in, newest->ts, now, out, why);
}

static enum keel_status predict_price(struct keel_call *c, const struct ml_ask *in, int64_t now, struct ml_answer *out,
                                      struct ml_refusal *why)
{
    const struct ml_state *s = c->state;
    const struct ml_version *v = s->serving;
    struct ml_row row = {0};
    uint32_t which = 0;
    enum keel_status st;

    if (!v)
        return refuse(why, "model_disabled", "model_id", "price_model is not trained; POST /models/price_model/train");
    if (in->has_features) {
        out->spec = "";
        st = fresh(in, now, now, out, why);
        if (st == KEEL_OK)
            st = row_of(c, v, in, &row, why);
    } else if (in->has_symbol)
        st = live_row(s, in, now, &row, out, why);
    else
        st = refuse(why, "missing", "symbol", "symbol or features say what to predict from");
    if (st != KEEL_OK)
        return st;
    switch (ml_price(v, &row, out, &which)) {
    case ML_MISSING:
        return refuse(why, "missing", "features", "%s is missing", s->input[v->fit.input[which]]);
    case ML_OUT_OF_RANGE:
        return refuse(why, "out_of_range", "features",
                      "%s is farther than %g standard deviations from all that was trained on",
                      s->input[v->fit.input[which]], ML_FARTHEST);
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

static enum keel_status predict_volatility(struct keel_call *c, const struct ml_ask *in, int64_t now,
                                           struct ml_answer *out, struct ml_refusal *why)
{
    struct ml_series *r = NULL;
    enum keel_status st = live(c->state, in, "", &r, why);

    if (st != KEEL_OK)
        return st;
    if (r->volatility.n < ML_VOLATILITY_MIN)
        return refuse(why, "missing", "symbol", "%llu of %d returns of %s are there",
                      (unsigned long long)r->volatility.n, ML_VOLATILITY_MIN, r->symbol);
    for (size_t i = 0; i < in->n_features; i++)
        ignore(c, in->features[i].name);
    ml_volatility(&r->volatility, out);
    out->spec = r->spec;
    return fresh(in, r->bar_ts, now, out, why);
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
static void score_given(struct keel_call *c, const struct ml_ask *in, const struct ml_series *r, struct ml_scores *out)
{
    double x[ML_WATCHED];
    bool has[ML_WATCHED];
    const struct ml_row *newest = ml_newest(c->state, r);

    ml_watch(r->scale, in->features, in->n_features, in->has_current_price ? keel_dec_to_f64(in->current_price) : 0,
             newest ? newest->close : 0, x, has, out);
    for (size_t i = 0; i < in->n_features; i++) {
        bool used = false;
        for (int k = ML_W_RETURN + 1; k < ML_WATCHED; k++)
            used = used || strcmp(in->features[i].name, ml_watched[k]) == 0;
        if (!used)
            ignore(c, in->features[i].name);
    }
}

static uint32_t most_seen(const struct ml_series *r)
{
    uint32_t n = 0;

    for (int k = 0; k < ML_WATCHED; k++)
        n = r->scale[k].n > n ? r->scale[k].n : n;
    return n;
}

static enum keel_status predict_anomaly(struct keel_call *c, const struct ml_ask *in, int64_t now,
                                        struct ml_answer *out, struct ml_refusal *why)
{
    const struct ml_options *o = keel_options(c->rt);
    const struct ml_row *newest;
    struct ml_series *r = NULL;
    enum keel_status st = live(c->state, in, "", &r, why);

    if (st != KEEL_OK)
        return st;
    newest = ml_newest(c->state, r);
    out->scores = r->scores;
    if (in->has_features)
        score_given(c, in, r, &out->scores);
    if (!newest || !out->scores.any)
        return refuse(why, "missing", "symbol",
                      "%u of %d vectors of %s are there, or none of the figures that are watched", most_seen(r),
                      ML_WINDOW_MIN, r->symbol);
    out->model = ML_ANOMALY;
    out->version = 1;
    out->quality = "OK";
    out->threshold = o->anomaly_threshold;
    out->observations = most_seen(r);
    out->confidence = (double)out->observations / ML_WINDOW;
    out->spec = r->spec;
    return fresh(in, in->has_features ? now : newest->ts, now, out, why);
}

/* ---- any ---- */

enum keel_status ml_predict(struct keel_call *c, enum ml_model model, const struct ml_ask *in, struct ml_answer *out,
                            struct ml_refusal *why)
{
    struct ml_state *s = c->state;
    int64_t now = keel_session_ns(c->rt);
    enum keel_status st;

    *out = (struct ml_answer){.model = model};
    if (in->has_portfolio_value && model != ML_VOLATILITY)
        ignore(c, "portfolio_value");
    switch (model) {
    case ML_PRICE:
        st = predict_price(c, in, now, out, why);
        break;
    case ML_VOLATILITY:
        st = predict_volatility(c, in, now, out, why);
        break;
    case ML_ANOMALY:
        st = predict_anomaly(c, in, now, out, why);
        break;
    default:
        return refuse(why, "model_disabled", "model_id", "%s is not trained", ml_models[model].id);
    }
    s->computed += st == KEEL_OK;
    return st;
}
