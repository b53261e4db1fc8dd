/* State of the engine: streams, columns of inputs, and the versions of the model, which outlive the process in the
 * store. */
#include "ops.h"

#include <string.h>

#include "io_onnx.h"
#include "keel/clock.h"
#include "keel/log.h"

KEEL_RECORD_TABLE(ml_options, ML_OPTIONS);
KEEL_RECORD_TABLE(ml_weights, ML_WEIGHTS);
KEEL_RECORD_TABLE(ml_about, ML_ABOUT);

const char ml_schema[] =
    "CREATE TABLE IF NOT EXISTS models(model_id TEXT NOT NULL, version INTEGER NOT NULL,"
    " trained_ns INTEGER NOT NULL, weights TEXT NOT NULL, sha256 TEXT NOT NULL, about TEXT NOT NULL,"
    " PRIMARY KEY(model_id, version));"
    "CREATE TABLE IF NOT EXISTS serving(model_id TEXT PRIMARY KEY, version INTEGER NOT NULL,"
    " previous INTEGER NOT NULL);";

const struct ml_info ml_models[ML_MODELS] = {
    [ML_PRICE] = {"price_model", "price_model_v2_hybrid", "price_prediction",
                  "logistic regression on feature vectors: direction over a horizon", true, false},
    [ML_REGIME] = {"regime_detector", "regime_detector_v3_neural", "regime_detection", "market regime", false, false},
    [ML_VOLATILITY] = {"volatility_forecaster", "volatility_forecaster_hybrid", "volatility_forecasting",
                       "RiskMetrics EWMA, lambda 0.94, of bar log returns: volatility of the next bar", false, true},
    [ML_RISK] = {"risk_predictor", "risk_predictor_neural", "risk_prediction", "risk of a portfolio", false, false},
    [ML_PORTFOLIO] = {"portfolio_optimizer", "portfolio_optimizer_hybrid", "portfolio_optimization",
                      "weights of a portfolio", false, false},
    [ML_ANOMALY] = {"anomaly_detector", "anomaly_detector_neural", "anomaly_detection",
                    "robust z-score of return, ofi, spread_bps and book_imbalance over 128 vectors", false, true},
};

enum ml_model ml_find_model(const char *id)
{
    int m = 0;

    while (m < ML_MODELS && strcmp(ml_models[m].id, id) != 0 && strcmp(ml_models[m].alias, id) != 0)
        m++;
    return (enum ml_model)m;
}

/* ---- series ---- */

static uint64_t hash(uint64_t h, const char *text)
{
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h;
}

static bool is_of(const struct ml_series *r, const char *symbol, const char *spec)
{
    return strcmp(r->live.symbol, symbol) == 0 && strcmp(r->live.spec, spec) == 0;
}

static struct ml_series **slot_of(const struct ml_state *s, const char *symbol, const char *spec)
{
    uint64_t h = hash(hash(14695981039346656037u, symbol) * 31, spec);
    uint32_t i = (uint32_t)h & (s->cap - 1);

    while (s->series[i] && !is_of(s->series[i], symbol, spec))
        i = (i + 1) & (s->cap - 1);
    return &s->series[i];
}

struct ml_series *ml_find_series(const struct ml_state *s, const char *symbol, const char *spec)
{
    for (uint32_t i = 0; *spec == 0 && i < s->n_specs; i++) {
        struct ml_series *r = *slot_of(s, symbol, s->spec[i]);
        if (r)
            return r;
    }
    return *spec ? *slot_of(s, symbol, spec) : NULL;
}

/* Seconds of "1s", "5m", "1h", "1d"; unknown kinds come last. */
static int64_t span(const char *spec)
{
    int64_t n = 0;

    for (; *spec >= '0' && *spec <= '9'; spec++)
        n = n * 10 + (*spec - '0');
    return *spec == 's' ? n : *spec == 'm' ? n * 60 : *spec == 'h' ? n * 3600 : *spec == 'd' ? n * 86400 : INT64_MAX;
}

/* Keeps the kinds of bars sorted; false when there are too many. */
static bool know_spec(struct ml_state *s, const char *spec)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < s->n_specs; i++)
        if (strcmp(s->spec[i], spec) == 0)
            return true;
    if (s->n_specs == ML_SPECS || strlen(spec) >= sizeof s->spec[0])
        return false;
    while (at < s->n_specs && span(s->spec[at]) <= span(spec))
        at++;
    memmove(s->spec[at + 1], s->spec[at], (s->n_specs - at) * sizeof s->spec[0]);
    memcpy(s->spec[at], spec, strlen(spec) + 1);
    s->n_specs++;
    return true;
}

struct ml_series *ml_series_of(struct ml_state *s, const char *symbol, const char *spec)
{
    struct ml_series **slot = slot_of(s, symbol, spec);

    if (*slot || s->n == s->most || strlen(symbol) > KEEL_SYMBOL_LEN || !know_spec(s, spec))
        return *slot;
    *slot = keel_alloc(1, sizeof **slot + s->kept * sizeof(struct ml_row));
    memcpy((*slot)->live.symbol, symbol, strlen(symbol) + 1);
    memcpy((*slot)->live.spec, spec, strlen(spec) + 1);
    s->n++;
    return *slot;
}

void ml_series_reset(struct ml_series *r)
{
    memset(r->watched, 0, sizeof r->watched);
    memset(r->live.scale, 0, sizeof r->live.scale);
    r->live.scores = (struct ml_scores){0};
    r->live.has_vector = false;
    r->n = r->head = 0;
}

const struct ml_row *ml_newest(const struct ml_live *l)
{
    return l->has_vector ? &l->vector : NULL;
}

void ml_push(struct ml_state *s, struct ml_series *r, const struct ml_row *row)
{
    if (r->n == s->kept) {
        r->head = (r->head + 1) % s->kept;
        r->n--;
    }
    r->row[(r->head + r->n++) % s->kept] = *row;
    r->live.vector = *row;
    r->live.has_vector = true;
}

uint32_t ml_column(struct ml_state *s, const char *name)
{
    struct ml_columns *c = &s->columns;

    for (uint32_t i = 0; i < c->n; i++)
        if (strcmp(c->name[i], name) == 0)
            return i;
    if (c->n == ML_INPUTS || strlen(name) >= ML_NAME)
        return ML_INPUTS;
    memcpy(c->name[c->n], name, strlen(name) + 1);
    c->how[c->n] = ml_how_of(name);
    return c->n++;
}

/* ---- versions ---- */

struct ml_version *ml_version_of(struct ml_state *s, int64_t version)
{
    for (uint32_t i = 0; i < s->n_versions; i++)
        if (s->version[i]->version == version)
            return s->version[i];
    return NULL;
}

static bool decode(const struct keel_fields *f, struct keel_arena *a, const char *text, void *out)
{
    const struct keel_jval *v;
    struct keel_record_error err;
    const char *why;

    return keel_json_parse(a, text, strlen(text), &v, &why) == KEEL_OK &&
           keel_record_decode(f, a, v, out, NULL, &err) == KEEL_OK;
}

static bool fill_fit(struct ml_state *s, const struct ml_weights *w, struct ml_fit *f)
{
    f->d = (uint32_t)w->n_inputs;
    f->intercept = w->intercept;
    f->mean_move = w->mean_move;
    for (uint32_t j = 0; j < f->d; j++) {
        uint32_t column = ml_column(s, w->inputs[j]);
        if (column == ML_INPUTS)
            return false;
        f->input[j] = (uint8_t)column;
        f->mean[j] = w->mean[j];
        f->sd[j] = w->sd[j];
        f->weight[j] = w->weight[j];
    }
    return true;
}

struct ml_version *ml_version_read(struct ml_state *s, struct keel_arena *a, const char *weights, const char *sha256,
                                   const char *about, const char **why)
{
    struct ml_version *v = keel_arena_alloc(a, sizeof *v);
    struct ml_weights w;
    struct keel_sha256 sha;

    keel_sha256_init(&sha);
    keel_sha256_add(&sha, weights, strlen(weights));
    keel_sha256_text(&sha, v->sha256);
    *why = "the SHA-256 is not that of the weights";
    if (strcmp(v->sha256, sha256) != 0)
        return NULL;
    *why = "the stored texts are malformed";
    if (!decode(&ml_weights_fields, a, weights, &w) || !decode(&ml_about_fields, a, about, &v->about) ||
        w.n_mean != w.n_inputs || w.n_sd != w.n_inputs || w.n_weight != w.n_inputs)
        return NULL;
    *why = "there is no room for its inputs";
    if (!fill_fit(s, &w, &v->fit))
        return NULL;
    v->horizon = w.horizon;
    memcpy(v->schema, w.schema_hash, strlen(w.schema_hash) + 1);
    memcpy(v->spec, w.spec, strlen(w.spec) + 1);
    return v;
}

/* ---- open and close ---- */

struct loading {
    struct ml_state *s;
    struct keel_arena *a;
};

static int64_t int_cell(const char *cell)
{
    int64_t v = 0;

    if (cell)
        (void)keel_i64_parse(cell, strlen(cell), &v);
    return v;
}

static enum keel_status load_version(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;
    struct ml_state *s = l->s;
    const char *why = "";
    struct ml_version *v;

    (void)n;
    s->last_version = int_cell(cell[0]);
    if (s->n_versions == ML_VERSIONS)
        return KEEL_OK;
    v = ml_version_read(s, l->a, cell[2], cell[3], cell[4], &why);
    if (!v) {
        keel_log(KEEL_LOG_ERROR, "model_not_loaded", "model=price_model version=%s detail=%s", cell[0], why);
        return KEEL_OK;
    }
    s->version[s->n_versions] = keel_alloc(1, sizeof *v);
    *s->version[s->n_versions] = *v;
    s->version[s->n_versions]->version = int_cell(cell[0]);
    s->version[s->n_versions++]->trained_ns = int_cell(cell[1]);
    return KEEL_OK;
}

static enum keel_status load_serving(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;

    (void)n;
    l->s->serving = ml_version_of(l->s, int_cell(cell[0]));
    l->s->previous = int_cell(cell[1]);
    return KEEL_OK;
}

enum keel_status ml_open(struct keel_rt *rt, void *state)
{
    struct ml_state *s = state;
    const struct ml_options *o = keel_options(rt);
    struct loading l = {s, keel_arena_new(1 << 16)};
    enum keel_status st;

    s->most = (uint32_t)o->max_series;
    s->kept = (uint32_t)o->vectors_kept;
    for (s->cap = 64; s->cap < 2 * s->most; s->cap *= 2)
        ;
    s->series = keel_alloc(s->cap, sizeof(struct ml_series *));
    s->epoch = (uint32_t)(keel_wall_ns() / 1000000000);
    st = keel_store_each(keel_store(rt),
                         "SELECT version, trained_ns, weights, sha256, about FROM models"
                         " WHERE model_id = 'price_model' ORDER BY version",
                         load_version, &l);
    if (st == KEEL_OK)
        st = keel_store_each(keel_store(rt), "SELECT version, previous FROM serving WHERE model_id = 'price_model'",
                             load_serving, &l);
    keel_arena_free(l.a);
    s->train_at = s->last_version == 0 ? (uint64_t)o->train_after_vectors : 0;
    (void)ml_onnx_probe(s->onnx, sizeof s->onnx);
    return st;
}

void ml_close(struct keel_rt *rt, void *state)
{
    struct ml_state *s = state;

    (void)rt;
    for (uint32_t i = 0; s->series && i < s->cap; i++)
        keel_free(s->series[i]);
    keel_free(s->series);
    for (uint32_t i = 0; i < s->n_versions; i++)
        keel_free(s->version[i]);
}
