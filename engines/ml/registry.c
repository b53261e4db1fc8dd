/*
 * The models and their versions: listing, training, promotion. A version is stored with all that made it before it is
 * served, and serving it is the change of one pointer.
 */
#include "ops.h"

#include <string.h>

#include "keel/clock.h"
#include "keel/log.h"

KEEL_RECORD_TABLE(ml_model_ref, ML_MODEL_REF);
KEEL_RECORD_TABLE(ml_train_request, ML_TRAIN_REQUEST);
KEEL_RECORD_TABLE(ml_promote, ML_PROMOTE);

/* ---- listing ---- */

static bool any_stream_ready(const struct ml_state *s, enum ml_model m)
{
    for (uint32_t i = 0; i < s->cap; i++) {
        const struct ml_series *r = s->series[i];
        if (r && (m == ML_VOLATILITY ? r->live.volatility.n >= ML_VOLATILITY_MIN : r->live.scores.any))
            return true;
    }
    return false;
}

static const char *status_of(const struct ml_state *s, enum ml_model m)
{
    if (ml_models[m].streaming)
        return any_stream_ready(s, m) ? "ready" : "warming";
    if (ml_models[m].trained)
        return s->serving ? "ready" : s->n_versions > 0 ? "not_promoted" : "untrained";
    return "disabled";
}

static void write_weights(struct keel_json *w, const struct ml_state *s, const struct ml_version *v)
{
    const char *names[ML_INPUTS];
    const struct ml_weights rec = {.schema_hash = v->schema,
                                   .has_schema_hash = true,
                                   .spec = v->spec,
                                   .has_spec = true,
                                   .horizon = v->horizon,
                                   .has_horizon = true,
                                   .mean_move = v->fit.mean_move,
                                   .has_mean_move = true,
                                   .intercept = v->fit.intercept,
                                   .has_intercept = true,
                                   .inputs = names,
                                   .has_inputs = true,
                                   .n_inputs = v->fit.d,
                                   .mean = v->fit.mean,
                                   .has_mean = true,
                                   .n_mean = v->fit.d,
                                   .sd = v->fit.sd,
                                   .has_sd = true,
                                   .n_sd = v->fit.d,
                                   .weight = v->fit.weight,
                                   .has_weight = true,
                                   .n_weight = v->fit.d};

    for (uint32_t j = 0; j < v->fit.d; j++)
        names[j] = s->columns.name[v->fit.input[j]];
    keel_record_encode(&ml_weights_fields, &rec, w);
}

static void write_version(struct keel_json *w, const struct ml_state *s, const struct ml_version *v)
{
    keel_json_obj(w, NULL);
    keel_json_i64(w, "version", v->version);
    keel_json_time(w, "trained_at", v->trained_ns);
    keel_json_bool(w, "serving", v == s->serving);
    keel_json_str(w, "sha256", v->sha256);
    keel_json_obj(w, "training");
    keel_record_encode(&ml_about_fields, &v->about, w);
    keel_json_end(w);
    keel_json_obj(w, "weights");
    write_weights(w, s, v);
    keel_json_end(w);
    keel_json_end(w);
}

static void write_model(struct keel_json *w, const struct ml_state *s, enum ml_model m, bool with_versions)
{
    const struct ml_info *i = &ml_models[m];
    const struct ml_version *v = m == ML_PRICE ? s->serving : NULL;

    keel_json_obj(w, NULL);
    keel_json_str(w, "model_id", i->id);
    keel_json_str(w, "model_type", i->type);
    keel_json_str(w, "status", status_of(s, m));
    keel_json_bool(w, "enabled", v != NULL || i->streaming);
    if (v || i->streaming)
        keel_json_i64(w, "version", v ? v->version : 1);
    else
        keel_json_null(w, "version");
    if (v)
        keel_json_f64(w, "accuracy", v->about.accuracy);
    else
        keel_json_null(w, "accuracy");
    if (v)
        keel_json_time(w, "last_trained", v->trained_ns);
    else
        keel_json_null(w, "last_trained");
    keel_json_str(w, "alias", i->alias);
    keel_json_str(w, "description", i->help);
    keel_json_str(w, "backend", i->trained || i->streaming ? ML_BACKEND : NULL);
    if (with_versions) {
        keel_json_arr(w, "versions");
        for (uint32_t k = s->n_versions; m == ML_PRICE && k-- > 0;)
            write_version(w, s, s->version[k]);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void write_backend(struct keel_json *w, const char *name, const char *hardware, const char *reason)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "backend", name);
    keel_json_bool(w, "used", hardware != NULL);
    keel_json_str(w, "hardware", hardware);
    keel_json_str(w, "reason", reason);
    keel_json_end(w);
}

static void write_backends(struct keel_json *w, const struct ml_state *s)
{
    keel_json_arr(w, "backends");
    write_backend(w, ML_BACKEND, "CPU", NULL);
    write_backend(w, "onnx", NULL, s->onnx);
    keel_json_end(w);
}

void ml_hardware(const void *state, struct keel_json *w)
{
    const struct ml_state *s = state;

    write_backends(w, s);
    keel_json_obj(w, "predictions");
    keel_json_u64(w, ML_BACKEND, s->computed);
    keel_json_end(w);
}

enum keel_status api_models(struct keel_call *c)
{
    const struct ml_state *s = c->state;
    struct keel_json *w = &c->out;

    keel_json_obj(w, NULL);
    keel_json_arr(w, "models");
    for (int m = 0; m < ML_MODELS; m++)
        write_model(w, s, (enum ml_model)m, false);
    keel_json_end(w);
    keel_json_i64(w, "count", ML_MODELS);
    keel_json_null(w, "next");
    write_backends(w, s);
    keel_json_end(w);
    return KEEL_OK;
}

/* The model of a path, or the failure. */
static enum keel_status model_of(struct keel_call *c, const char *id, enum ml_model *out)
{
    *out = ml_find_model(id);
    return *out == ML_MODELS ? keel_fail(c, KEEL_NOTFOUND, "there is no model %s", id) : KEEL_OK;
}

enum keel_status api_model(struct keel_call *c)
{
    const struct ml_model_ref *r = c->arg;
    enum ml_model m;
    enum keel_status st = model_of(c, r->model_id, &m);

    if (st == KEEL_OK)
        write_model(&c->out, c->state, m, true);
    return st;
}

/* Versions are managed under the model's own id: calls of one id run one at a time, an alias would run beside them. */
static enum keel_status trainable(struct keel_call *c, const char *id)
{
    enum ml_model m;
    enum keel_status st = model_of(c, id, &m);

    if (st != KEEL_OK)
        return st;
    if (strcmp(id, ml_models[m].id) != 0)
        return keel_fail(c, KEEL_NOTFOUND, "%s is an alias; its versions are those of %s", id, ml_models[m].id);
    if (ml_models[m].trained)
        return KEEL_OK;
    if (ml_models[m].streaming)
        return keel_fail_as(c, KEEL_UNDEFINED, "not_trainable", "model_id",
                            "%s learns from its stream and is not trained", ml_models[m].id);
    return keel_fail_as(c, KEEL_UNDEFINED, "model_disabled", "model_id", "%s cannot be trained yet", ml_models[m].id);
}

/* ---- training: copy the vectors, fit on a worker, store, serve ---- */

struct training {
    struct ml_train_job job;
    char schema[17], spec[17];
    struct ml_version version;
};

static const char *fullest_spec(const struct ml_state *s)
{
    const char *best = "";
    size_t most = 0;

    for (uint32_t k = 0; k < s->n_specs; k++) {
        size_t n = 0;
        for (uint32_t i = 0; i < s->cap; i++)
            if (s->series[i] && strcmp(s->series[i]->live.spec, s->spec[k]) == 0)
                n += s->series[i]->n;
        if (n > most) {
            most = n;
            best = s->spec[k];
        }
    }
    return best;
}

/* Vectors of the newest definitions only; a mixture would train on columns that mean different things. */
static const struct ml_series *newest_stream(const struct ml_state *s, const char *spec, size_t *count)
{
    const struct ml_series *newest = NULL;

    *count = 0;
    for (uint32_t i = 0; i < s->cap; i++) {
        const struct ml_series *r = s->series[i];
        if (!r || r->n == 0 || strcmp(r->live.spec, spec) != 0)
            continue;
        ++*count;
        if (!newest || r->live.vector.ts > newest->live.vector.ts)
            newest = r;
    }
    return newest;
}

/* The newest `most` vectors of r, oldest first. */
static struct ml_train_series copy_rows(struct keel_arena *a, const struct ml_state *s, const struct ml_series *r,
                                        size_t most)
{
    size_t n = r->n < most ? r->n : most, from = (r->head + r->n - n) % s->kept;
    size_t first = s->kept - from < n ? s->kept - from : n;
    struct ml_row *row = keel_arena_array(a, n, sizeof *row);

    memcpy(row, r->row + from, first * sizeof *row);
    memcpy(row + first, r->row, (n - first) * sizeof *row);
    return (struct ml_train_series){row, n};
}

static bool take_vectors(struct keel_call *c, struct training *t, const char *spec)
{
    const struct ml_state *s = c->state;
    size_t count;
    const struct ml_series *newest = newest_stream(s, spec, &count);

    if (!newest)
        return false;
    memcpy(t->schema, newest->live.schema, sizeof t->schema);
    memcpy(t->spec, newest->live.spec, sizeof t->spec);
    t->job.series = keel_arena_array(c->arena, count, sizeof *t->job.series);
    for (uint32_t i = 0; i < s->cap; i++) {
        const struct ml_series *r = s->series[i];
        if (r && r->n > 0 && strcmp(r->live.spec, t->spec) == 0 && strcmp(r->live.schema, t->schema) == 0)
            t->job.series[t->job.n_series++] = copy_rows(c->arena, s, r, ML_TRAIN_MOST / count + 1);
    }
    return true;
}

enum keel_status api_train(struct keel_call *c)
{
    const struct ml_train_request *r = c->arg;
    const struct ml_state *s = c->state;
    struct training *t = keel_arena_alloc(c->arena, sizeof *t);
    enum keel_status st = trainable(c, r->model_id);

    if (st != KEEL_OK)
        return st;
    t->job.horizon = t->job.embargo = (size_t)r->horizon;
    t->job.folds = (size_t)r->folds;
    t->job.l2 = r->l2;
    t->job.seed = (uint64_t)r->seed;
    t->job.arena = c->arena;
    if (!take_vectors(c, t, r->has_spec ? r->spec : fullest_spec(s)))
        return keel_fail_as(c, KEEL_UNDEFINED, "missing", "spec", "there are no vectors%s%s to train on",
                            r->has_spec ? " on bars of " : "", r->has_spec ? r->spec : "");
    c->ctx = t;
    c->job = &t->job;
    return KEEL_OK;
}

static void about_of(const struct ml_train_request *r, bool automatic, const struct ml_fit *f, struct ml_about *a)
{
    const struct ml_metrics *m = &f->metrics;

    *a = (struct ml_about){.seed = r->seed,
                           .has_seed = true,
                           .l2 = r->l2,
                           .has_l2 = true,
                           .automatic = automatic,
                           .has_automatic = true,
                           .window_from = f->from_ns,
                           .has_window_from = true,
                           .window_to = f->to_ns,
                           .has_window_to = true,
                           .rows = (int64_t)f->rows,
                           .has_rows = true,
                           .flat = (int64_t)f->flat,
                           .has_flat = true,
                           .incomplete = (int64_t)f->incomplete,
                           .has_incomplete = true,
                           .tested = (int64_t)m->tested,
                           .has_tested = true,
                           .folds = (int64_t)m->folds,
                           .has_folds = true,
                           .accuracy = m->model.accuracy,
                           .has_accuracy = true,
                           .log_loss = m->model.log_loss,
                           .has_log_loss = true,
                           .brier = m->model.brier,
                           .has_brier = true,
                           .baseline_accuracy = m->baseline.accuracy,
                           .has_baseline_accuracy = true,
                           .baseline_log_loss = m->baseline.log_loss,
                           .has_baseline_log_loss = true,
                           .baseline_brier = m->baseline.brier,
                           .has_baseline_brier = true,
                           .share_better = m->share_better,
                           .has_share_better = true,
                           .better = m->better,
                           .has_better = true};
}

static const char *text_of(struct keel_call *c, const struct ml_state *s, const struct ml_version *v, bool weights)
{
    struct keel_json w;

    keel_json_init(&w, c->arena, 4096);
    keel_json_obj(&w, NULL);
    if (weights)
        write_weights(&w, s, v);
    else
        keel_record_encode(&ml_about_fields, &v->about, &w);
    keel_json_end(&w);
    return keel_json_text(&w);
}

/* The oldest version that neither serves nor is what rollback goes back to. */
static uint32_t oldest_spare(const struct ml_state *s)
{
    uint32_t i = 0;

    while (s->version[i] == s->serving || s->version[i]->version == s->previous)
        i++;
    return i;
}

static enum keel_status train_stored(struct keel_call *c);

enum keel_status train_fitted(struct keel_call *c)
{
    const struct ml_train_request *r = c->arg;
    struct ml_state *s = c->state;
    struct training *t = c->ctx;
    struct ml_version *v = &t->version;
    struct keel_txn *txn;
    struct keel_sha256 sha;
    const char *weights;

    if (keel_wait_status(c) == KEEL_UNDEFINED)
        return keel_fail_as(c, KEEL_UNDEFINED, "not_trained", NULL, "%s", t->job.why);
    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail(c, keel_wait_status(c), "the training was not finished");
    *v = (struct ml_version){
        .version = ++s->last_version, .trained_ns = keel_wall_ns(), .horizon = r->horizon, .fit = t->job.fit};
    memcpy(v->schema, t->schema, sizeof v->schema);
    memcpy(v->spec, t->spec, sizeof v->spec);
    about_of(r, c->op->on.kind == KEEL_ON_CALL, &v->fit, &v->about);
    weights = text_of(c, s, v, true);
    keel_sha256_init(&sha);
    keel_sha256_add(&sha, weights, strlen(weights));
    keel_sha256_text(&sha, v->sha256);
    txn = keel_txn_new(keel_store(c->rt));
    keel_txn_exec(txn, "INSERT INTO models VALUES('price_model',?,?,?,?,?)", "iisss", v->version, v->trained_ns,
                  weights, v->sha256, text_of(c, s, v, false));
    if (v->about.better || r->promote)
        keel_txn_exec(txn, "INSERT OR REPLACE INTO serving VALUES('price_model',?,?)", "ii", v->version,
                      s->serving ? s->serving->version : (int64_t)0);
    if (s->n_versions == ML_VERSIONS)
        keel_txn_exec(txn, "DELETE FROM models WHERE model_id = 'price_model' AND version = ?", "i",
                      s->version[oldest_spare(s)]->version);
    return keel_await_store(c, txn, train_stored);
}

/* From here on v serves; what served before is what rollback goes back to. */
static void serve(struct ml_state *s, struct ml_version *v)
{
    s->previous = s->serving ? s->serving->version : 0;
    s->serving = v;
}

static const char *promotion(const struct ml_version *v, bool asked)
{
    if (v->about.better)
        return "its log-loss is below the baseline's";
    return asked ? "not better than the baseline; promoted because it was asked for"
                 : "not better than the baseline, so not promoted; POST /models/price_model/promote serves it all the "
                   "same";
}

static enum keel_status train_stored(struct keel_call *c)
{
    const struct ml_train_request *r = c->arg;
    struct ml_state *s = c->state;
    const struct training *t = c->ctx;
    struct keel_json *w = &c->out;
    struct ml_version *v;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL, "the version could not be stored");
    if (s->n_versions == ML_VERSIONS) {
        uint32_t old = oldest_spare(s);
        keel_free(s->version[old]);
        memmove(s->version + old, s->version + old + 1, (--s->n_versions - old) * sizeof(struct ml_version *));
    }
    v = s->version[s->n_versions++] = keel_alloc(1, sizeof *v);
    *v = t->version;
    if (v->about.better || r->promote)
        serve(s, v);
    keel_log(KEEL_LOG_INFO, "model_trained",
             "model=price_model version=%lld rows=%lld log_loss=%.6f baseline=%.6f promoted=%s", (long long)v->version,
             (long long)v->about.rows, v->about.log_loss, v->about.baseline_log_loss,
             s->serving == v ? "true" : "false");
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "trained");
    keel_json_str(w, "model_id", ml_models[ML_PRICE].id);
    keel_json_bool(w, "promoted", s->serving == v);
    keel_json_str(w, "promotion", promotion(v, r->promote));
    keel_json_arr(w, "versions");
    write_version(w, s, v);
    keel_json_end(w);
    keel_json_end(w);
    return KEEL_OK;
}

/* ---- promotion ---- */

static enum keel_status promoted(struct keel_call *c)
{
    struct ml_state *s = c->state;
    const int64_t *to = c->ctx;
    struct ml_version *v = ml_version_of(s, to[0]);
    struct keel_json *w = &c->out;

    if (keel_wait_status(c) != KEEL_OK || !v)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL, "the promotion could not be stored");
    s->serving = v;
    s->previous = to[1];
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "promoted");
    keel_json_str(w, "model_id", ml_models[ML_PRICE].id);
    keel_json_i64(w, "version", v->version);
    if (to[1] != 0)
        keel_json_i64(w, "previous", to[1]);
    else
        keel_json_null(w, "previous");
    keel_json_str(w, "sha256", v->sha256);
    keel_json_end(w);
    return KEEL_OK;
}

/* Stores that `version` serves, then lets it. */
static enum keel_status promote(struct keel_call *c, int64_t version, int64_t previous)
{
    struct keel_txn *txn = keel_txn_new(keel_store(c->rt));
    int64_t *to = keel_arena_array(c->arena, 2, sizeof *to);

    to[0] = version;
    to[1] = previous;
    c->ctx = to;
    keel_txn_exec(txn, "INSERT OR REPLACE INTO serving VALUES('price_model',?,?)", "ii", version, previous);
    return keel_await_store(c, txn, promoted);
}

enum keel_status api_promote(struct keel_call *c)
{
    const struct ml_promote *r = c->arg;
    struct ml_state *s = c->state;
    enum keel_status st = trainable(c, r->model_id);

    if (st != KEEL_OK)
        return st;
    if (!ml_version_of(s, r->version))
        return keel_fail(c, KEEL_NOTFOUND, "there is no version %lld of %s", (long long)r->version, r->model_id);
    /* Promoting what serves must not forget what there was before it. */
    return promote(c, r->version, s->serving && s->serving->version != r->version ? s->serving->version : s->previous);
}

enum keel_status api_rollback(struct keel_call *c)
{
    const struct ml_model_ref *r = c->arg;
    struct ml_state *s = c->state;
    enum keel_status st = trainable(c, r->model_id);

    if (st != KEEL_OK)
        return st;
    if (!ml_version_of(s, s->previous))
        return keel_fail_as(c, KEEL_CONFLICT, "no_previous_version", NULL, "%s has no version to go back to",
                            r->model_id);
    return promote(c, s->previous, 0);
}
