/*
 * What the bus brings: vectors for the price model, the anomaly detector and training, bars for the volatility; what it
 * gets: predictions and anomalies. Records are published before state changes, so that a refused one can be taken
 * again.
 */
#include "ops.h"

#include <math.h>
#include <string.h>

static enum keel_status full(struct keel_call *c)
{
    return keel_fail_as(c, KEEL_TOOBIG, "too_many_symbols", "symbol",
                        "max_series (%u) series on %d kinds of bars are followed",
                        ((const struct ml_state *)c->state)->most, ML_SPECS);
}

/* Sends what a model says of a record that closes at as_of. */
static enum keel_status publish(struct keel_call *c, const struct ml_live *l, int64_t as_of, const struct ml_answer *a)
{
    char id[32];
    struct keel_prediction p = {.prediction_id = id,
                                .has_prediction_id = true,
                                .model_id = ml_models[a->model].id,
                                .has_model_id = true,
                                .version = a->version,
                                .has_version = true,
                                .symbol = l->symbol,
                                .has_symbol = true,
                                .spec = l->spec,
                                .has_spec = true,
                                .confidence = a->confidence,
                                .has_confidence = true,
                                .backend = ML_BACKEND,
                                .has_backend = true,
                                .as_of = as_of,
                                .has_as_of = true,
                                .expires_at = as_of + ML_MAX_AGE_MS * 1000000LL,
                                .has_expires_at = true};

    ((struct ml_state *)c->state)->computed++;
    ml_prediction_id(c->state, id);
    if (a->model == ML_PRICE) {
        p.direction = keel_enum_index("UP|DOWN|FLAT", a->direction, strlen(a->direction));
        p.change_percent = a->change;
        p.target_price = a->target;
        p.has_direction = p.has_change_percent = true;
        p.has_target_price = a->has_target;
    } else {
        p.value = a->volatility;
        p.has_value = true;
    }
    return keel_publish(c, "ml.priority.prediction", l->symbol, as_of, 0, &p);
}

/* What the session's report compares with the bus. */
static void show_counts(struct keel_call *c)
{
    static const char *const names[ML_SAID] = {
        [ML_SAID_REPEATED] = "vectors_repeated",
        [ML_SAID_DISABLED] = "vectors_model_disabled",
        [ML_SAID_OTHER_KIND] = "vectors_other_kind",
        [ML_SAID_MISSING] = "vectors_missing",
        [ML_SAID_OUT_OF_RANGE] = "vectors_out_of_range",
        [ML_SAID_PRICE] = "price_predictions",
        [ML_SAID_BAR_REPEATED] = "bars_repeated",
        [ML_SAID_WARMING] = "bars_warming",
        [ML_SAID_VOLATILITY] = "volatility_predictions",
    };
    const struct ml_state *s = c->state;

    keel_gauge(c->rt, "vectors_ready", (double)s->ready_vectors);
    for (int k = 0; k < ML_SAID; k++)
        keel_gauge(c->rt, names[k], (double)s->said[k]);
}

static enum keel_status counted(struct keel_call *c, enum ml_said what)
{
    ((struct ml_state *)c->state)->said[what]++;
    show_counts(c);
    return KEEL_OK;
}

/* The vector's kind of bars and its features are those of the model that serves. */
static bool is_ready_for(const struct ml_state *s, const struct keel_vector *v)
{
    const struct ml_version *m = s->serving;

    return m && strcmp(m->spec, v->spec) == 0 && strcmp(m->schema, v->schema_hash) == 0;
}

static enum keel_status say_anomaly(struct keel_call *c, const struct ml_live *l, int64_t as_of,
                                    const struct ml_scores *s)
{
    const struct ml_options *o = keel_options(c->rt);
    const struct keel_anomaly a = {.model_id = ml_models[ML_ANOMALY].id,
                                   .has_model_id = true,
                                   .symbol = l->symbol,
                                   .has_symbol = true,
                                   .score = s->z[s->farthest],
                                   .has_score = true,
                                   .threshold = o->anomaly_threshold,
                                   .has_threshold = true,
                                   .feature = ml_watched[s->farthest],
                                   .has_feature = true,
                                   .as_of = as_of,
                                   .has_as_of = true};

    if (!s->any || !(s->z[s->farthest] > o->anomaly_threshold))
        return KEEL_OK;
    return keel_publish(c, "ml.critical.anomaly", l->symbol, as_of, 0, &a);
}

static enum keel_status say_price(struct keel_call *c, const struct ml_live *l, const struct keel_vector *v,
                                  const struct ml_row *row, enum ml_said *said)
{
    const struct ml_state *s = c->state;
    struct ml_answer a = {0};
    uint32_t which;

    *said = s->serving ? ML_SAID_OTHER_KIND : ML_SAID_DISABLED;
    if (!is_ready_for(s, v))
        return KEEL_OK;
    switch (ml_price(s->serving, row, row->close, &a, &which)) {
    case ML_MISSING:
        *said = ML_SAID_MISSING;
        return KEEL_OK;
    case ML_OUT_OF_RANGE:
        *said = ML_SAID_OUT_OF_RANGE;
        return KEEL_OK;
    case ML_NONE:
        break;
    }
    *said = ML_SAID_PRICE;
    return publish(c, l, row->ts, &a);
}

/* ---- automatic training ---- */

/* Labelled vectors of the kind of bars that has most. */
static uint64_t labelled(const struct ml_state *s, size_t horizon)
{
    uint64_t most = 0;

    for (uint32_t k = 0; k < s->n_specs; k++) {
        uint64_t n = 0;
        for (uint32_t i = 0; i < s->cap; i++)
            if (s->series[i] && strcmp(s->series[i]->live.spec, s->spec[k]) == 0 && s->series[i]->n > horizon)
                n += s->series[i]->n - horizon;
        most = n > most ? n : most;
    }
    return most;
}

/* Once; what is there is counted again after as many vectors as were lacking. */
static void maybe_train(struct keel_call *c)
{
    const struct ml_options *o = keel_options(c->rt);
    struct ml_state *s = c->state;
    struct ml_train_request r = {.model_id = ml_models[ML_PRICE].id,
                                 .has_model_id = true,
                                 .promote = true,
                                 .has_promote = true,
                                 .horizon = o->train_horizon,
                                 .has_horizon = true,
                                 .folds = 4,
                                 .has_folds = true,
                                 .l2 = 10,
                                 .has_l2 = true,
                                 .seed = o->train_seed,
                                 .has_seed = true};
    uint64_t have;

    if (s->train_at == 0 || ++s->vectors < s->train_at)
        return;
    have = labelled(s, (size_t)o->train_horizon);
    if (have < (uint64_t)o->train_after_vectors)
        s->train_at = s->vectors + (uint64_t)o->train_after_vectors - have;
    else if (keel_spawn(c, "train_itself", &r) == KEEL_OK)
        s->train_at = 0;
}

/* ---- records ---- */

static void take_features(struct ml_state *s, const struct keel_vector *v, struct ml_row *row)
{
    *row = (struct ml_row){.ts = v->ts_close, .close = keel_dec_to_f64(v->close)};
    for (size_t i = 0; i < v->n_features; i++) {
        uint32_t k = ml_column(s, v->features[i].name);
        if (k == ML_INPUTS)
            continue;
        row->x[k] = ml_take(s->columns.how[k], v->features[i].value, row->close);
        row->present |= 1U << k;
    }
}

enum keel_status bus_vector(struct keel_call *c)
{
    const struct keel_vector *v = c->arg;
    struct ml_state *s = c->state;
    struct ml_series *r = ml_series_of(s, v->symbol, v->spec);
    struct ml_live *l = r ? &r->live : NULL;
    const struct ml_row *newest = r ? ml_newest(l) : NULL;
    double x[ML_WATCHED];
    bool has[ML_WATCHED];
    struct ml_scores scores;
    struct ml_row row;
    enum keel_status st;
    enum ml_said said;

    if (!r)
        return full(c);
    if (v->close <= 0)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "close", "close must be > 0");
    if (newest && newest->ts == v->ts_close && strcmp(l->schema, v->schema_hash) == 0)
        return counted(c, ML_SAID_REPEATED);
    if (newest && (v->ts_close < newest->ts || strcmp(l->schema, v->schema_hash) != 0)) {
        ml_series_reset(r);
        newest = NULL;
    }
    take_features(s, v, &row);
    ml_watch(l->scale, v->features, v->n_features, row.close, newest ? newest->close : 0, x, has, &scores);
    st = say_price(c, l, v, &row, &said);
    if (st == KEEL_OK)
        st = say_anomaly(c, l, row.ts, &scores);
    if (st != KEEL_OK)
        return st;
    memcpy(l->schema, v->schema_hash, strlen(v->schema_hash) + 1);
    for (int k = 0; k < ML_WATCHED; k++)
        if (has[k]) {
            ml_window_add(&r->watched[k], x[k]);
            l->scale[k] = ml_window_scale(&r->watched[k]);
        }
    l->scores = scores;
    ml_push(s, r, &row);
    s->ready_vectors += is_ready_for(s, v);
    maybe_train(c);
    return counted(c, said);
}

enum keel_status bus_bar(struct keel_call *c)
{
    const struct keel_bar *bar = c->arg;
    struct ml_state *s = c->state;
    struct ml_series *r = ml_series_of(s, bar->symbol, bar->spec);
    struct ml_live *l = r ? &r->live : NULL;
    double close = keel_dec_to_f64(bar->close);
    struct ml_ewma next;
    enum keel_status st = KEEL_OK;

    if (!r)
        return full(c);
    if (bar->close <= 0)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "close", "close must be > 0");
    if (bar->ts_close == l->bar_ts)
        return counted(c, ML_SAID_BAR_REPEATED);
    /* A stream that begins anew says nothing about the one before. */
    next = bar->ts_close < l->bar_ts ? (struct ml_ewma){0} : l->volatility;
    if (bar->ts_close > l->bar_ts && l->bar_close > 0)
        ml_ewma_add(&next, log(close / l->bar_close), ML_LAMBDA);
    if (next.n >= ML_VOLATILITY_MIN) {
        struct ml_answer a = {0};
        ml_volatility(&next, &a);
        st = publish(c, l, bar->ts_close, &a);
    }
    if (st != KEEL_OK)
        return st;
    l->volatility = next;
    l->bar_ts = bar->ts_close;
    l->bar_close = close;
    return counted(c, next.n >= ML_VOLATILITY_MIN ? ML_SAID_VOLATILITY : ML_SAID_WARMING);
}
