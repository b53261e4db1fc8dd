/* Labels, purged walk-forward folds, standardisation, fit and figures. */
#include "train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "keel/rng.h"
#include "keel/stats.h"

#define LEAST_TRAINED 30  /* samples of a fold's training part */
#define FIRST_TRAINED 0.4 /* share of the samples before the first test */
#define MOSTLY 0.8        /* an input is used when this share of the vectors has it */
#define RESAMPLES 500

/* ---- samples ---- */

static int by_time(const void *a, const void *b)
{
    const struct ml_sample *p = a, *q = b;

    if (p->row->ts != q->row->ts)
        return p->row->ts < q->row->ts ? -1 : 1;
    return p->series < q->series ? -1 : p->series > q->series;
}

struct ml_sample *ml_samples(const struct ml_train_job *job, uint32_t need, size_t *n, size_t *flat, size_t *incomplete)
{
    struct ml_sample *out;
    size_t most = 0;

    for (size_t s = 0; s < job->n_series; s++)
        most += job->series[s].n;
    out = keel_arena_array(job->arena, most, sizeof *out);
    *n = *flat = *incomplete = 0;
    for (size_t s = 0; s < job->n_series; s++)
        for (size_t i = 0; i + job->horizon < job->series[s].n; i++) {
            const struct ml_row *row = &job->series[s].row[i];
            double move = job->series[s].row[i + job->horizon].close / row->close - 1;
            bool whole = (row->present & need) == need, moved = move > 0 || move < 0;
            *flat += !moved;
            *incomplete += moved && !whole;
            if (moved && whole)
                out[(*n)++] = (struct ml_sample){row, (uint32_t)s, (uint32_t)i, move > 0, move};
        }
    qsort(out, *n, sizeof *out, by_time);
    return out;
}

/* Inputs that most of the labelled vectors have. */
static uint32_t usual_inputs(const struct ml_train_job *job)
{
    size_t have[ML_INPUTS] = {0}, n = 0;
    uint32_t need = 0;

    for (size_t s = 0; s < job->n_series; s++)
        for (size_t i = 0; i + job->horizon < job->series[s].n; i++, n++)
            for (int j = 0; j < ML_INPUTS; j++)
                have[j] += job->series[s].row[i].present >> j & 1;
    for (int j = 0; j < ML_INPUTS; j++)
        if (n > 0 && (double)have[j] >= MOSTLY * (double)n)
            need |= 1U << j;
    return need;
}

/* ---- purging ---- */

size_t ml_first_at(const struct ml_train_series *s, int64_t from)
{
    size_t lo = 0, hi = s->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->row[mid].ts < from)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool ml_may_train(const struct ml_train_job *job, const struct ml_sample *s, size_t first_test)
{
    return s->at + job->horizon + job->embargo < first_test;
}

/* ---- one fit ---- */

struct matrix {
    double *x, *y;
    size_t n;
};

static void put_row(struct matrix *m, const struct ml_fit *f, const struct ml_sample *s)
{
    for (uint32_t j = 0; j < f->d; j++)
        m->x[m->n * f->d + j] = s->row->x[f->input[j]];
    m->y[m->n++] = s->y;
}

/* Standardises m by its own moments, which go into f, and fits. */
static enum keel_status fit_matrix(const struct ml_train_job *job, struct matrix *m, const atomic_bool *stop,
                                   struct ml_fit *f)
{
    struct ml_logit got;
    enum keel_status st;

    for (uint32_t j = 0; j < f->d; j++) {
        struct keel_moments mo = {0};
        for (size_t i = 0; i < m->n; i++)
            keel_moments_add(&mo, m->x[i * f->d + j]);
        f->mean[j] = mo.mean;
        f->sd[j] = sqrt(keel_moments_var(&mo));
        /* A constant column says nothing; rounding must not blow it up. */
        if (!(f->sd[j] > 1e-12 * (1 + fabs(f->mean[j]))))
            f->sd[j] = 0;
        for (size_t i = 0; i < m->n; i++) {
            double *x = &m->x[i * f->d + j];
            *x = f->sd[j] > 0 ? (*x - f->mean[j]) / f->sd[j] : 0;
        }
    }
    /* Without a penalty a constant or collinear column would have no maximum. */
    st = ml_logit_fit(m->x, m->y, m->n, f->d, job->l2, stop, &got);
    if (st != KEEL_OK)
        return st;
    memcpy(f->weight, got.weight, sizeof f->weight);
    f->intercept = got.intercept;
    return KEEL_OK;
}

static double probability(const struct ml_fit *f, const double *x)
{
    double z = f->intercept;

    for (uint32_t j = 0; j < f->d; j++)
        if (f->sd[j] > 0)
            z += f->weight[j] * (x[f->input[j]] - f->mean[j]) / f->sd[j];
    return ml_sigmoid(z);
}

enum ml_lack ml_score(const struct ml_fit *fit, const double *x, uint32_t present, double *p, uint32_t *which)
{
    for (uint32_t j = 0; j < fit->d; j++) {
        *which = j;
        if (!(present >> fit->input[j] & 1))
            return ML_MISSING;
        if (fit->sd[j] > 0 && !(fabs(x[fit->input[j]] - fit->mean[j]) <= ML_FARTHEST * fit->sd[j]))
            return ML_OUT_OF_RANGE;
    }
    *p = probability(fit, x);
    return ML_NONE;
}

/* ---- walk-forward ---- */

struct tally {
    struct ml_figures model, base;
    double *gain;
    size_t n;
};

static double log_loss(double p, double y)
{
    double q = y > 0.5 ? p : 1 - p;

    return -log(fmax(q, 1e-15));
}

static void count(struct ml_figures *f, double p, double y)
{
    f->accuracy += (p >= 0.5) == (y > 0.5);
    f->log_loss += log_loss(p, y);
    f->brier += (p - y) * (p - y);
}

/* Tests samples [from, to) on a fit of what may be trained on before them; a fold too thin to fit is left out. */
static enum keel_status run_fold(const struct ml_train_job *job, const struct ml_sample *all, size_t from, size_t to,
                                 struct matrix *m, const atomic_bool *stop, struct ml_fit *f, struct tally *t)
{
    size_t *first = keel_arena_array(job->arena, job->n_series, sizeof *first), ones = 0;
    enum keel_status st;

    for (size_t s = 0; s < job->n_series; s++)
        first[s] = ml_first_at(&job->series[s], all[from].row->ts);
    m->n = 0;
    for (size_t i = 0; i < from; i++)
        if (ml_may_train(job, &all[i], first[all[i].series])) {
            ones += all[i].y > 0.5;
            put_row(m, f, &all[i]);
        }
    if (m->n < LEAST_TRAINED || ones == 0 || ones == m->n)
        return KEEL_OK;
    st = fit_matrix(job, m, stop, f);
    if (st != KEEL_OK)
        return st;
    double rate = (double)ones / (double)m->n;
    for (size_t i = from; i < to; i++) {
        double p = probability(f, all[i].row->x), y = all[i].y;
        count(&t->model, p, y);
        count(&t->base, rate, y);
        t->gain[t->n++] = log_loss(rate, y) - log_loss(p, y);
    }
    f->metrics.folds++;
    return KEEL_OK;
}

/* Circular block bootstrap: labels overlap over the horizon, so single vectors would not be independent. */
static double share_better(const struct ml_train_job *job, const struct tally *t)
{
    size_t block = (size_t)ceil(cbrt((double)t->n)), won = 0;
    struct keel_rng rng;

    if (block < job->horizon * job->n_series)
        block = job->horizon * job->n_series;
    keel_rng_seed(&rng, job->seed);
    for (int k = 0; k < RESAMPLES; k++) {
        double sum = 0;
        for (size_t done = 0; done < t->n;) {
            size_t at = (size_t)keel_rng_below(&rng, t->n);
            for (size_t i = 0; i < block && done < t->n; i++, done++)
                sum += t->gain[(at + i) % t->n];
        }
        won += sum > 0;
    }
    return (double)won / RESAMPLES;
}

static void mean_of(struct ml_figures *f, size_t n)
{
    f->accuracy /= (double)n;
    f->log_loss /= (double)n;
    f->brier /= (double)n;
}

static enum keel_status walk_forward(const struct ml_train_job *job, const struct ml_sample *all, size_t n,
                                     struct matrix *m, const atomic_bool *stop, struct ml_fit *f)
{
    struct tally t = {.gain = keel_arena_array(job->arena, n, sizeof(double))};
    size_t from = (size_t)(FIRST_TRAINED * (double)n);

    for (size_t k = 1; k <= job->folds; k++) {
        size_t to = (size_t)((FIRST_TRAINED + (1 - FIRST_TRAINED) * (double)k / (double)job->folds) * (double)n);
        /* Vectors of one instant stay together; otherwise the train part would hold the test's own moment. */
        for (to = k == job->folds || to > n ? n : to; to < n && to > 0 && all[to].row->ts == all[to - 1].row->ts; to++)
            ;
        for (; k == 1 && from > 0 && all[from].row->ts == all[from - 1].row->ts; from--)
            ;
        if (to <= from)
            continue;
        enum keel_status st = run_fold(job, all, from, to, m, stop, f, &t);
        if (st != KEEL_OK)
            return st;
        from = to;
    }
    if (t.n == 0)
        return KEEL_UNDEFINED;
    mean_of(&t.model, t.n);
    mean_of(&t.base, t.n);
    f->metrics.tested = t.n;
    f->metrics.model = t.model;
    f->metrics.baseline = t.base;
    f->metrics.better = t.model.log_loss < t.base.log_loss;
    f->metrics.share_better = share_better(job, &t);
    return KEEL_OK;
}

/* ---- all of it ---- */

static enum keel_status lacking(struct ml_train_job *job, enum keel_status st, const char *why)
{
    job->why = why;
    return st;
}

static void describe(struct ml_fit *f, const struct ml_sample *all, size_t n)
{
    struct keel_sum moves = {0};

    for (size_t i = 0; i < n; i++)
        keel_sum_add(&moves, fabs(all[i].move));
    f->mean_move = keel_sum_value(&moves) / (double)n;
    f->from_ns = all[0].row->ts;
    f->to_ns = all[n - 1].row->ts;
    f->rows = n;
}

enum keel_status ml_train_work(void *arg, const atomic_bool *stop)
{
    struct ml_train_job *job = arg;
    struct ml_fit f = {0};
    uint32_t need = usual_inputs(job);
    struct ml_sample *all;
    struct matrix m;
    enum keel_status st;
    size_t n;

    for (uint32_t j = 0; j < ML_INPUTS; j++)
        if (need >> j & 1)
            f.input[f.d++] = (uint8_t)j;
    if (f.d == 0)
        return lacking(job, KEEL_UNDEFINED, "no feature is in most of the vectors");
    all = ml_samples(job, need, &n, &f.flat, &f.incomplete);
    if (n < 2 * LEAST_TRAINED)
        return lacking(job, KEEL_UNDEFINED, "there are too few labelled vectors");
    m = (struct matrix){keel_arena_array(job->arena, n * f.d, sizeof(double)),
                        keel_arena_array(job->arena, n, sizeof(double)), 0};
    st = walk_forward(job, all, n, &m, stop, &f);
    if (st != KEEL_OK)
        return lacking(job, st, "no fold of the walk-forward could be fitted");
    m.n = 0;
    for (size_t i = 0; i < n; i++)
        put_row(&m, &f, &all[i]);
    st = fit_matrix(job, &m, stop, &f);
    if (st != KEEL_OK)
        return lacking(job, st, "the fit has no maximum");
    describe(&f, all, n);
    job->fit = f;
    return KEEL_OK;
}
