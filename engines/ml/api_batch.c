/*
 * Many predictions of one model in one call. A batch is bulk: the loop looks up what it is computed from and leaves the
 * rest to a worker; short ones, where handing over costs more than it saves, it computes by the same function itself.
 */
#include "ops.h"

#include <string.h>

#include "keel/clock.h"

KEEL_RECORD_TABLE(ml_batch_request, ML_BATCH_REQUEST);

/*
 * A short batch: a hundred predictions take 45 us, a quarter of what a step of bulk work may. Matching eight given
 * features takes as long as one more prediction.
 */
enum { SHORT = 100, FEATURES_EACH = 8 };

/*
 * Of a long batch, the streams that are looked up and copied in one turn of the loop: 9 us; 55 where nothing of them is
 * in a cache, 90 where each is searched for, in vain, among eight kinds of bars.
 */
enum { SLICE = 128 };

enum { STOP_EVERY = 64, RESULT_BYTES = 512 /* more than most take */ };

/* ---- on a worker, or on the loop ---- */

static bool write_result(struct ml_batch *b, size_t i, int64_t began_ns)
{
    struct keel_json *w = &b->w;
    struct ml_refusal why = {0};
    struct ml_answer a;
    bool ok = ml_predict(&b->basis, b->live[i], &b->in[i], &b->ignored, &a, &why) == KEEL_OK;

    keel_json_obj(w, NULL);
    keel_json_u64(w, "index", i);
    keel_json_bool(w, "success", ok);
    if (ok) {
        ml_write_prediction(w, &a, &b->in[i], false);
        keel_json_f64(w, "confidence", a.confidence);
        keel_json_str(w, "quality", a.quality);
        keel_json_i64(w, "version", a.version);
        keel_json_time(w, "as_of", a.as_of);
        keel_json_time(w, "expires_at", a.expires);
    } else {
        keel_json_null(w, "prediction");
        keel_json_null(w, "confidence");
        keel_json_str(w, "code", why.code);
        keel_json_str(w, "field", why.field);
        keel_json_str(w, "detail", why.detail);
    }
    keel_json_str(w, "hardware_used", ok ? "CPU" : NULL);
    keel_json_fix(w, "processing_time_ms", (double)(keel_mono_ns() - began_ns) * 1e-6, 3);
    keel_json_end(w);
    return ok;
}

enum keel_status ml_batch_work(void *job, const atomic_bool *stop)
{
    struct ml_batch *b = job;
    struct keel_json *w = &b->w;

    keel_json_obj(w, NULL);
    keel_json_str(w, "model_id", ml_models[b->basis.model].id);
    keel_json_u64(w, "batch_size", b->n);
    keel_json_arr(w, "results");
    for (size_t i = 0; i < b->n; i++) {
        if (i % STOP_EVERY == 0 && atomic_load(stop))
            return KEEL_CANCELLED;
        b->succeeded += write_result(b, i, keel_mono_ns());
    }
    keel_json_end(w);
    keel_json_u64(w, "succeeded", b->succeeded);
    keel_json_str(w, "backend", b->backend);
    return KEEL_OK;
}

/* ---- on the loop ---- */

static enum keel_status batch_model(struct keel_call *c, const struct ml_batch_request *r, enum ml_model *out)
{
    int m = ML_MODELS;

    if (!r->has_model_id && !r->has_model_type)
        return keel_fail_as(c, KEEL_INVALID, "missing", "model_id", "model_id or model_type says which model to ask");
    if (r->has_model_id)
        m = (int)ml_find_model(r->model_id);
    else
        for (m = 0; m < ML_MODELS && strcmp(ml_models[m].type, r->model_type) != 0; m++)
            ;
    if (m == ML_MODELS)
        return keel_fail(c, KEEL_NOTFOUND, "there is no model %s", r->has_model_id ? r->model_id : r->model_type);
    *out = (enum ml_model)m;
    return KEEL_OK;
}

static bool is_short(const struct ml_batch *b)
{
    size_t features = 0;

    for (size_t i = 0; i < b->n; i++)
        features += b->in[i].n_features;
    return b->n + features / FEATURES_EACH <= SHORT;
}

static enum keel_status computed(struct keel_call *c)
{
    struct ml_state *s = c->state;
    struct ml_batch *b = c->ctx;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    s->computed += b->succeeded;
    c->ignored = b->ignored;
    c->out = b->w;
    keel_json_fix(&c->out, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_write_ignored(c);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status compute_here(struct keel_call *c, struct ml_batch *b)
{
    static const atomic_bool never;

    for (; b->found < b->n; b->found++)
        b->live[b->found] = ml_live_of(c->state, &b->basis, &b->in[b->found]);
    (void)ml_batch_work(b, &never);
    return computed(c);
}

static const void *copy(struct keel_arena *a, const void *from, size_t size)
{
    return from != NULL ? memcpy(keel_arena_text(a, size), from, size) : NULL;
}

/*
 * Each stream is as it is in its turn; from one turn to the next nothing of the state is held. One that is asked about
 * several times in a row, with prices to compare perhaps, is copied once.
 */
static enum keel_status find_slice(struct keel_call *c)
{
    struct ml_batch *b = c->ctx;
    const struct ml_live *before = NULL, *live;

    for (size_t end = b->found + SLICE; b->found < b->n && b->found < end; b->found++) {
        live = ml_live_of(c->state, &b->basis, &b->in[b->found]);
        b->live[b->found] = live && live == before ? b->live[b->found - 1] : copy(c->arena, live, sizeof *live);
        before = live;
    }
    return b->found < b->n ? keel_await_timer(c, 0, find_slice) : keel_await_work(c, ml_batch_work, b, computed);
}

static enum keel_status compute_elsewhere(struct keel_call *c, struct ml_batch *b)
{
    b->basis.serving = copy(c->arena, b->basis.serving, sizeof *b->basis.serving);
    b->basis.columns = copy(c->arena, b->basis.columns, sizeof *b->basis.columns);
    return find_slice(c);
}

enum keel_status api_batch(struct keel_call *c)
{
    const struct ml_batch_request *r = c->arg;
    struct ml_batch *b = keel_arena_alloc(c->arena, sizeof *b);
    enum ml_model m = ML_MODELS;
    enum keel_status st = batch_model(c, r, &m);

    if (st == KEEL_OK)
        st = ml_choose_backend(c, &b->backend);
    if (st != KEEL_OK)
        return st;
    b->basis = ml_basis_of(c, m);
    b->in = r->inputs;
    b->n = r->n_inputs;
    b->live = keel_arena_array(c->arena, b->n, sizeof *b->live);
    b->ignored = c->ignored;
    keel_json_init(&b->w, c->arena, 256 + b->n * RESULT_BYTES);
    c->ctx = b;
    return is_short(b) ? compute_here(c, b) : compute_elsewhere(c, b);
}
