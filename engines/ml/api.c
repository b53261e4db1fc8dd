/* Single predictions over HTTP. The critical path is one look-up, one dot product and the answer. */
#include "ops.h"

KEEL_RECORD_TABLE(ml_ask, ML_ASK);
KEEL_RECORD_TABLE(ml_request, ML_REQUEST);

static void write_price(struct keel_json *w, const struct ml_answer *a)
{
    keel_json_str(w, "direction", a->direction);
    keel_json_f64(w, "change_percent", a->change);
    if (a->has_target)
        keel_json_decnum(w, "target_price", a->target);
    else
        keel_json_null(w, "target_price");
}

static void write_volatility(struct keel_json *w, const struct ml_answer *a, const struct ml_ask *in)
{
    keel_i128 move;
    int64_t rate;

    keel_json_f64(w, "volatility", a->volatility);
    keel_json_i64(w, "horizon_bars", 1);
    keel_json_str(w, "spec", a->spec);
    keel_json_u64(w, "observations", a->observations);
    if (in->has_portfolio_value && keel_dec_from_f64(a->volatility, &rate) == KEEL_OK &&
        keel_money_rate(in->portfolio_value, rate, &move) == KEEL_OK)
        keel_json_money(w, "portfolio_move", move);
}

static void write_anomaly(struct keel_json *w, const struct ml_answer *a)
{
    const struct ml_scores *s = &a->scores;

    keel_json_bool(w, "is_anomaly", s->z[s->farthest] > a->threshold);
    keel_json_f64(w, "anomaly_score", s->z[s->farthest]);
    keel_json_f64(w, "threshold", a->threshold);
    keel_json_str(w, "feature", ml_watched[s->farthest]);
    keel_json_obj(w, "scores");
    for (int k = 0; k < ML_WATCHED; k++)
        if (s->has[k])
            keel_json_f64(w, ml_watched[k], s->z[k]);
    keel_json_end(w);
    keel_json_u64(w, "observations", a->observations);
}

void ml_write_prediction(struct keel_json *w, const struct ml_answer *a, const struct ml_ask *in, bool critical)
{
    keel_json_obj(w, "prediction");
    if (a->model == ML_PRICE)
        write_price(w, a);
    else if (a->model == ML_VOLATILITY)
        write_volatility(w, a, in);
    else
        write_anomaly(w, a);
    keel_json_f64(w, "confidence", a->confidence);
    keel_json_str(w, "used_hardware", "CPU");
    keel_json_bool(w, "critical_path", critical);
    keel_json_end(w);
    if (a->model == ML_PRICE && !a->has_target) {
        keel_json_obj(w, "undefined");
        keel_json_str(w, "target_price", "there is no current_price");
        keel_json_end(w);
    }
}

const char *const ml_backends[] = {ML_BACKEND, NULL};

enum keel_status ml_choose_backend(struct keel_call *c, const char **name)
{
    size_t which = 0;
    enum keel_status st = keel_choose(c, 0, keel_left_ns(c), &which);

    *name = ml_backends[which];
    return st;
}

static void write_fallback(struct keel_call *c)
{
    keel_json_bool(&c->out, "fallback", c->fallback_reason != NULL);
    if (c->fallback_reason != NULL)
        keel_json_str(&c->out, "fallback_reason", c->fallback_reason);
}

static void write_members(struct keel_call *c, const struct ml_answer *a, const struct ml_ask *in, bool critical,
                          const char *backend)
{
    struct keel_json *w = &c->out;
    char id[32];

    ml_prediction_id(c->state, id);
    keel_json_str(w, "status", "success");
    keel_json_str(w, "prediction_id", id);
    keel_json_str(w, "model_id", ml_models[a->model].id);
    ml_write_prediction(w, a, in, critical);
    keel_json_f64(w, "confidence", a->confidence);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_str(w, "hardware_used", "CPU");
    keel_json_bool(w, "critical_path", critical);
    keel_json_str(w, "quality", a->quality);
    keel_json_i64(w, "version", a->version);
    keel_json_str(w, "backend", backend);
    keel_json_time(w, "as_of", a->as_of);
    keel_json_time(w, "expires_at", a->expires);
    write_fallback(c);
}

static enum keel_status predict_one(struct keel_call *c, enum ml_model m, const struct ml_ask *in, struct ml_answer *a,
                                    const char **backend)
{
    struct ml_state *s = c->state;
    struct ml_basis b = ml_basis_of(c, m);
    struct ml_refusal why = {0};
    enum keel_status st = ml_choose_backend(c, backend);

    if (st != KEEL_OK)
        return st;
    st = ml_predict(&b, ml_live_of(s, &b, in), in, &c->ignored, a, &why);
    s->computed += st == KEEL_OK;
    return st == KEEL_OK ? KEEL_OK : keel_fail_as(c, st, why.code, why.field, "%s", why.detail);
}

static struct ml_ask ask_of(const struct ml_request *r)
{
    return (struct ml_ask){.symbol = r->symbol,
                           .has_symbol = r->has_symbol,
                           .spec = r->spec,
                           .has_spec = r->has_spec,
                           .features = r->features,
                           .has_features = r->has_features,
                           .n_features = r->n_features,
                           .current_price = r->current_price,
                           .has_current_price = r->has_current_price,
                           .portfolio_value = r->portfolio_value,
                           .has_portfolio_value = r->has_portfolio_value,
                           .max_age_ms = r->max_age_ms,
                           .has_max_age_ms = true};
}

static enum keel_status by_id(struct keel_call *c, bool critical)
{
    const struct ml_request *r = c->arg;
    struct ml_ask in = ask_of(r);
    enum ml_model m = ml_find_model(r->model_id);
    struct ml_answer a;
    const char *backend;
    enum keel_status st;

    if (m == ML_MODELS)
        return keel_fail(c, KEEL_NOTFOUND, "there is no model %s", r->model_id);
    st = predict_one(c, m, &in, &a, &backend);
    if (st != KEEL_OK)
        return st;
    keel_json_obj(&c->out, NULL);
    write_members(c, &a, &in, critical, backend);
    keel_write_ignored(c);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_critical(struct keel_call *c)
{
    return by_id(c, true);
}

enum keel_status api_predict(struct keel_call *c)
{
    return by_id(c, false);
}

/* The first version's routes by subject: its members at the top, beside those of every prediction. */
static enum keel_status by_subject(struct keel_call *c, enum ml_model m, const char *subject)
{
    const struct ml_ask *in = c->arg;
    struct ml_answer a;
    const char *backend;
    enum keel_status st = predict_one(c, m, in, &a, &backend);

    if (st != KEEL_OK)
        return st;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "prediction_type", subject);
    if (m == ML_PRICE) {
        keel_json_str(&c->out, "predicted_direction", a.direction);
        keel_json_f64(&c->out, "predicted_change_percent", a.change);
    } else
        keel_json_f64(&c->out, "predicted_volatility", a.volatility);
    write_members(c, &a, in, false, backend);
    keel_write_ignored(c);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_price(struct keel_call *c)
{
    return by_subject(c, ML_PRICE, "price");
}

enum keel_status api_regime(struct keel_call *c)
{
    return by_subject(c, ML_REGIME, "regime");
}

enum keel_status api_volatility(struct keel_call *c)
{
    return by_subject(c, ML_VOLATILITY, "volatility");
}
