/*
 * The mathematics of ml. Logistic regression against Spector & Mazzeo (shared/vectors, values as Stata and statsmodels
 * print them), EWMA against the RiskMetrics recursion, purging and embargo as properties over irregular streams,
 * training on constructed data whose answer is known, robust scores against medians worked out beside the test.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/json.h"
#include "keel/rng.h"
#include "logit.h"
#include "stream.h"
#include "train.h"

static struct keel_arena *arena;

static void setup(void)
{
    arena = keel_arena_new(1 << 20);
}

static void teardown(void)
{
    keel_arena_free(arena);
}

/* A file of shared/vectors; NULL: not there, and the test is to return. */
static char *file_text(const char *name)
{
    const char *dir = getenv("KEEL_SHARED"),
               *path = keel_arena_printf(arena, "%s/vectors/%s", dir ? dir : "../shared", name);
    size_t cap = 1 << 16, n;
    char *text = keel_arena_alloc(arena, cap);
    FILE *f = fopen(path, "r");

    if (!f) {
        printf("skipped: no %s\n", path);
        ck_assert_msg(getenv("CI") == NULL, "no %s", path);
        return NULL;
    }
    n = fread(text, 1, cap, f);
    fclose(f);
    ck_assert_uint_lt(n, cap);
    return text;
}

static const struct keel_jval *vectors(const char *name)
{
    const struct keel_jval *v = NULL;
    const char *text = file_text(name), *why = "";

    ck_assert_msg(!text || keel_json_parse(arena, text, strlen(text), &v, &why) == KEEL_OK, "%s: %s", name, why);
    return v;
}

static double number(const struct keel_jval *v)
{
    ck_assert(v != NULL && v->type == KEEL_JNUM);
    return strtod(v->text, NULL);
}

static const struct keel_jval *item(const struct keel_jval *v, size_t i)
{
    ck_assert(v != NULL && v->type == KEEL_JARR && i < v->len);
    for (v = v->child; i > 0; i--)
        v = v->next;
    return v;
}

/* ---- logistic regression ---- */

/* spector.csv: obs,gpa,tuce,psi,grade */
static size_t spector(double x[64 * 3], double y[64])
{
    char *line, *next = file_text("spector.csv");
    size_t n = 0;

    if (!next)
        return 0;
    next = strchr(next, '\n') + 1;
    while (n < 64 && (line = next)[0] != '\0') {
        double obs;
        ck_assert_int_eq(sscanf(line, "%lf,%lf,%lf,%lf,%lf", &obs, &x[n * 3], &x[n * 3 + 1], &x[n * 3 + 2], &y[n]), 5);
        n++;
        next = line + strcspn(line, "\n");
        next += *next == '\n';
    }
    return n;
}

START_TEST(logit_spector)
{
    const struct keel_jval *want = vectors("logit_spector.json");
    double x[64 * 3], y[64];
    size_t n = spector(x, y);
    struct ml_logit got;

    if (!want || n == 0)
        return;
    ck_assert_uint_eq(n, 32);
    ck_assert_int_eq(ml_logit_fit(x, y, n, 3, 0, NULL, &got), KEEL_OK);
    ck_assert_double_eq_tol(got.intercept, number(item(keel_jget(want, "coef"), 0)), 1e-9);
    for (size_t j = 0; j < 3; j++)
        ck_assert_double_eq_tol(got.weight[j], number(item(keel_jget(want, "coef"), j + 1)), 1e-9);
    ck_assert_double_eq_tol(got.loglik, number(keel_jget(want, "loglik")), 1e-10);
}
END_TEST

/* With no inputs the fit is the log-odds of the base rate, and the log-likelihood that of the null model. */
START_TEST(logit_null)
{
    const struct keel_jval *want = vectors("logit_spector.json");
    double x[64 * 3], y[64];
    size_t n = spector(x, y);
    struct ml_logit got;

    if (!want || n == 0)
        return;
    ck_assert_int_eq(ml_logit_fit(x, y, n, 0, 0, NULL, &got), KEEL_OK);
    ck_assert_double_eq_tol(got.intercept, log(11.0 / 21.0), 1e-12);
    ck_assert_double_eq_tol(got.loglik, number(keel_jget(want, "loglik_null")), 1e-10);
}
END_TEST

START_TEST(logit_undefined)
{
    static const struct {
        const char *why;
        double x[12], y[6];
        size_t d;
        double l2;
        enum keel_status st;
    } tc[] = {
        {"one class", {1, 2, 3, 4, 5, 6}, {1, 1, 1, 1, 1, 1}, 1, 0, KEEL_UNDEFINED},
        {"separable, no penalty", {1, 2, 3, 4, 5, 6}, {0, 0, 0, 1, 1, 1}, 1, 0, KEEL_UNDEFINED},
        {"separable, penalty", {1, 2, 3, 4, 5, 6}, {0, 0, 0, 1, 1, 1}, 1, 1, KEEL_OK},
        {"collinear, no penalty", {1, 2, 2, 4, 3, 6, 4, 8, 5, 10, 6, 12}, {0, 1, 0, 1, 0, 1}, 2, 0, KEEL_UNDEFINED},
        {"collinear, penalty", {1, 2, 2, 4, 3, 6, 4, 8, 5, 10, 6, 12}, {0, 1, 0, 1, 0, 1}, 2, 1, KEEL_OK},
    };
    struct ml_logit got;

    ck_assert_msg(ml_logit_fit(tc[_i].x, tc[_i].y, 6, tc[_i].d, tc[_i].l2, NULL, &got) == tc[_i].st, "%s", tc[_i].why);
}
END_TEST

/* At the maximum the gradient of the penalised likelihood is 0: X'(y - p) = l2 w, 1'(y - p) = 0. */
START_TEST(logit_penalised_maximum)
{
    enum { N = 200, K = 3 };
    double x[N * K], y[N], g[K + 1] = {0}, l2 = 2.5;
    struct keel_rng rng;
    struct ml_logit got;

    keel_rng_seed(&rng, 7);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < K; j++)
            x[i * K + j] = keel_rng_normal(&rng);
        y[i] = keel_rng_f64(&rng) < ml_sigmoid(0.3 + x[i * K] - 0.5 * x[i * K + 2]);
    }
    ck_assert_int_eq(ml_logit_fit(x, y, N, K, l2, NULL, &got), KEEL_OK);
    for (int i = 0; i < N; i++) {
        double z = got.intercept;
        for (int j = 0; j < K; j++)
            z += got.weight[j] * x[i * K + j];
        g[K] += y[i] - ml_sigmoid(z);
        for (int j = 0; j < K; j++)
            g[j] += (y[i] - ml_sigmoid(z)) * x[i * K + j];
    }
    ck_assert_double_eq_tol(g[K], 0, 1e-8);
    for (int j = 0; j < K; j++)
        ck_assert_double_eq_tol(g[j], l2 * got.weight[j], 1e-8);
}
END_TEST

START_TEST(logit_stops)
{
    const double x[] = {1, 2, 3, 4}, y[] = {0, 1, 0, 1};
    atomic_bool stop = true;
    struct ml_logit got;

    ck_assert_int_eq(ml_logit_fit(x, y, 4, 1, 1, &stop, &got), KEEL_CANCELLED);
}
END_TEST

/* ---- streams ---- */

START_TEST(ewma_riskmetrics)
{
    const struct keel_jval *v = vectors("ewma_riskmetrics.json"), *ex, *days;
    struct ml_ewma e = {0};
    double lambda;

    if (!v)
        return;
    ex = keel_jget(v, "example");
    lambda = number(keel_jget(ex, "lambda"));
    for (size_t i = 0; i < keel_jget(ex, "returns")->len; i++) {
        ml_ewma_add(&e, number(item(keel_jget(ex, "returns"), i)), lambda);
        ck_assert_double_eq_tol(e.variance, number(item(keel_jget(ex, "variance"), i)), 1e-18);
    }
    /* The observed share of the weight is 1 - tolerance after the document's effective number of days. */
    days = keel_jget(v, "effective_days");
    for (size_t i = 0; i < days->len; i++) {
        double k = number(keel_jget(item(days, i), "K")), tolerance = number(keel_jget(item(days, i), "tolerance"));
        lambda = number(keel_jget(item(days, i), "lambda"));
        e.n = (uint64_t)ceil(k);
        ck_assert(1 - ml_ewma_weight(&e, lambda) <= tolerance);
        e.n = (uint64_t)floor(k);
        ck_assert(1 - ml_ewma_weight(&e, lambda) >= tolerance);
    }
}
END_TEST

static int by_value(const void *a, const void *b)
{
    const double *p = a, *q = b;

    return *p < *q ? -1 : *p > *q;
}

static double median_of(double *x, size_t n)
{
    qsort(x, n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* Against sorting the last ML_WINDOW values and their deviations anew, ties included. */
START_TEST(window_is_median_and_mad)
{
    double all[600], copy[ML_WINDOW];
    struct ml_window w = {0};
    struct keel_rng rng;

    keel_rng_seed(&rng, 11);
    for (size_t i = 0; i < KEEL_COUNT(all); i++) {
        size_t from = i + 1 > ML_WINDOW ? i + 1 - ML_WINDOW : 0, n = i + 1 - from;
        double m;
        all[i] = i % 3 == 0 ? (double)keel_rng_below(&rng, 4) : keel_rng_normal(&rng);
        ml_window_add(&w, all[i]);
        memcpy(copy, all + from, n * sizeof *copy);
        m = median_of(copy, n);
        ck_assert(m == ml_window_median(&w));
        for (size_t k = 0; k < n; k++)
            copy[k] = fabs(all[from + k] - m);
        ck_assert_double_eq_tol(median_of(copy, n), ml_window_mad(&w), 1e-15);
    }
}
END_TEST

static enum keel_status score(const struct ml_window *w, double x, double *z)
{
    struct ml_scale s = ml_window_scale(w);

    return ml_scale_score(&s, x, z);
}

START_TEST(window_scores)
{
    struct ml_window w = {0};
    double z = -1;

    for (int i = 0; i < ML_WINDOW_MIN - 1; i++)
        ml_window_add(&w, i % 5);
    ck_assert_int_eq(score(&w, 100, &z), KEEL_UNDEFINED);
    ml_window_add(&w, (ML_WINDOW_MIN - 1) % 5);
    /* 0 1 2 3 4 six times: median 2, deviations 2 1 0 1 2, MAD 1 */
    ck_assert_int_eq(score(&w, 100, &z), KEEL_OK);
    ck_assert_double_eq_tol(z, 98 / 1.4826, 1e-12);
    ck_assert_int_eq(score(&w, 2, &z), KEEL_OK);
    ck_assert_double_eq(z, 0);
}
END_TEST

/* A constant stream: no deviation scores 0, the first one the root of n + 1. */
START_TEST(window_of_one_value)
{
    struct ml_window w = {0};
    double z;

    for (int i = 0; i < 99; i++)
        ml_window_add(&w, 5);
    ck_assert_int_eq(score(&w, 5, &z), KEEL_OK);
    ck_assert_double_eq(z, 0);
    ck_assert_int_eq(score(&w, 5.25, &z), KEEL_OK);
    ck_assert_double_eq_tol(z, 10, 1e-12);
}
END_TEST

/* A figure that mostly stands still: what it does in one of ten is usual, in one of forty it is not. */
START_TEST(window_of_ticks)
{
    static const struct {
        int period;
        bool is_anomaly;
    } tc[] = {{10, false}, {40, true}};
    struct ml_window w = {0};
    struct keel_rng rng;
    double z = 0;

    keel_rng_seed(&rng, 8);
    for (int i = 0; i < ML_WINDOW; i++)
        ml_window_add(&w, (i % tc[_i].period == 0 ? 2 : 1) + 1e-4 * keel_rng_normal(&rng));
    ck_assert_int_eq(score(&w, 2, &z), KEEL_OK);
    ck_assert_msg((z > 6) == tc[_i].is_anomaly, "%g", z);
}
END_TEST

/* One outlier in a normal stream is found, and no other value scores above 6. */
START_TEST(window_finds_the_outlier)
{
    struct ml_window w = {0};
    struct keel_rng rng;
    int flagged = 0;

    keel_rng_seed(&rng, 3);
    for (int i = 0; i < 2000; i++) {
        double x = i == 1234 ? 12.0 : keel_rng_normal(&rng), z = 0;
        if (score(&w, x, &z) == KEEL_OK && z > 6) {
            flagged++;
            ck_assert_int_eq(i, 1234);
        }
        ml_window_add(&w, x);
    }
    ck_assert_int_eq(flagged, 1);
}
END_TEST

START_TEST(inputs_are_relative)
{
    ck_assert_double_eq_tol(ml_take(ml_how_of("sma_20"), 101, 100), 0.01, 1e-15);
    ck_assert_double_eq_tol(ml_take(ml_how_of("atr_14"), 2, 100), 0.02, 1e-15);
    ck_assert_double_eq(ml_take(ml_how_of("rsi_14"), 55, 100), 55);
}
END_TEST

/* ---- training ---- */

enum { SERIES = 3, ROWS = 400 };
static struct ml_row rows[SERIES][ROWS];
static struct ml_train_series series[SERIES];

/*
 * Streams with irregular times. Input 0 drives the next return with the strength given, input 1 is noise, input 2 is
 * constant, input 3 is rarely there. Returns and inputs are drawn from one seed.
 */
static struct ml_train_job make_job(double strength, size_t horizon, uint64_t seed)
{
    struct keel_rng rng;

    keel_rng_seed(&rng, seed);
    for (int s = 0; s < SERIES; s++) {
        int64_t ts = 1000;
        double close = 100 * (s + 1);
        for (int i = 0; i < ROWS; i++) {
            ts += 1 + (int64_t)keel_rng_below(&rng, 5);
            double signal = keel_rng_normal(&rng);
            rows[s][i] = (struct ml_row){.ts = ts,
                                         .close = close,
                                         .present = 7U | (i % 10 == 0 ? 8U : 0U),
                                         .x = {signal, keel_rng_normal(&rng), 4.2, 1.0}};
            close *= exp(0.001 * (strength * signal + keel_rng_normal(&rng)));
        }
        series[s] = (struct ml_train_series){rows[s], ROWS};
    }
    return (struct ml_train_job){.series = series,
                                 .n_series = SERIES,
                                 .horizon = horizon,
                                 .embargo = horizon,
                                 .folds = 4,
                                 .l2 = 1,
                                 .seed = 5,
                                 .arena = arena};
}

/* For every cut in time: what may be trained on ends, with its label and the embargo, before the first test vector. */
START_TEST(purge_and_embargo)
{
    struct ml_train_job job = make_job(1, (size_t)_i + 1, 21);
    size_t n, flat, incomplete, admitted = 0;
    struct ml_sample *all = ml_samples(&job, 7, &n, &flat, &incomplete);

    ck_assert_uint_eq(n + flat + incomplete, SERIES * (ROWS - job.horizon));
    for (size_t k = 1; k < n; k++)
        ck_assert(all[k - 1].row->ts <= all[k].row->ts);
    for (size_t cut = n / 10; cut < n; cut += n / 10) {
        int64_t from = all[cut].row->ts;
        for (size_t k = 0; k < n; k++) {
            const struct ml_train_series *s = &series[all[k].series];
            size_t first = ml_first_at(s, from), end = all[k].at + job.horizon;
            ck_assert(first == s->n || s->row[first].ts >= from);
            ck_assert(first == 0 || s->row[first - 1].ts < from);
            if (!ml_may_train(&job, &all[k], first)) {
                /* and nothing is left out without a reason */
                ck_assert(end + job.embargo >= first);
                continue;
            }
            admitted++;
            ck_assert(s->row[end].ts < from);
            ck_assert(first - end > job.embargo);
        }
    }
    ck_assert_uint_gt(admitted, 0);
}
END_TEST

/* The label of a vector is the sign of the move to the close `horizon` vectors on; unchanged prices have none. */
START_TEST(labels)
{
    struct ml_row r[6] = {{1, 10, 1, {0}}, {2, 11, 1, {0}}, {3, 10, 1, {0}},
                          {4, 9, 0, {0}},  {5, 12, 1, {0}}, {6, 9, 1, {0}}};
    struct ml_train_series s = {r, 6};
    struct ml_train_job job = {.series = &s, .n_series = 1, .horizon = 2, .embargo = 2, .arena = arena};
    size_t n, flat, incomplete;
    struct ml_sample *all = ml_samples(&job, 1, &n, &flat, &incomplete);

    /* 10 -> 10 flat; 11 -> 9 down; 10 -> 12 up; 9 -> 9 flat (and lacks the input); the last two have no label yet */
    ck_assert_uint_eq(n, 2);
    ck_assert_uint_eq(flat, 2);
    ck_assert_uint_eq(incomplete, 0);
    ck_assert_double_eq(all[0].y, 0);
    ck_assert_double_eq_tol(all[0].move, 9.0 / 11 - 1, 1e-15);
    ck_assert_double_eq(all[1].y, 1);
}
END_TEST

/* A driver of 2 deviations of noise: sign right with probability 1/2 + atan(2) / pi = 0.852 (bivariate normal
 * orthants). */
START_TEST(learns_what_is_there)
{
    struct ml_train_job job = make_job(2, 1, 33);
    atomic_bool stop = false;
    double p;
    uint32_t which;

    ck_assert_int_eq(ml_train_work(&job, &stop), KEEL_OK);
    ck_assert_uint_eq(job.fit.d, 3);
    ck_assert(job.fit.metrics.better);
    ck_assert_uint_eq(job.fit.metrics.folds, 4);
    /* 3 standard errors of about 700 tested */
    ck_assert_double_eq_tol(job.fit.metrics.model.accuracy, 0.852, 0.041);
    ck_assert_double_eq(job.fit.metrics.share_better, 1);
    ck_assert(job.fit.weight[0] > 10 * fabs(job.fit.weight[1]));
    ck_assert(job.fit.sd[2] == 0 && job.fit.weight[2] == 0);
    ck_assert_int_eq(ml_score(&job.fit, (double[ML_INPUTS]){2, 0, 4.2}, 7, &p, &which), ML_NONE);
    ck_assert(p > 0.9);
    ck_assert_int_eq(ml_score(&job.fit, (double[ML_INPUTS]){2, 0, 4.2}, 5, &p, &which), ML_MISSING);
    ck_assert_uint_eq(which, 1);
    ck_assert_int_eq(ml_score(&job.fit, (double[ML_INPUTS]){200, 0, 4.2}, 7, &p, &which), ML_OUT_OF_RANGE);
    ck_assert_uint_eq(which, 0);
}
END_TEST

/* Noise alone: nothing is learnt, and the figures say so: log-loss about log 2, no clear gain over the base rate. */
START_TEST(noise_is_noise)
{
    struct ml_train_job job = make_job(0, 1, 44);
    atomic_bool stop = false;

    ck_assert_int_eq(ml_train_work(&job, &stop), KEEL_OK);
    ck_assert_double_eq_tol(job.fit.metrics.model.log_loss, log(2), 0.02);
    ck_assert_double_eq_tol(job.fit.metrics.model.accuracy, 0.5, 0.06);
    ck_assert(job.fit.metrics.share_better < 0.99);
}
END_TEST

/* Weights come from the data alone; the seed moves the bootstrap only. */
START_TEST(same_seed_same_model)
{
    atomic_bool stop = false;
    struct ml_train_job a = make_job(0.3, 5, 55), b, other;

    ck_assert_int_eq(ml_train_work(&a, &stop), KEEL_OK);
    b = make_job(0.3, 5, 55);
    ck_assert_int_eq(ml_train_work(&b, &stop), KEEL_OK);
    ck_assert_mem_eq(&a.fit, &b.fit, sizeof a.fit);
    other = make_job(0.3, 5, 55);
    other.seed = 6;
    ck_assert_int_eq(ml_train_work(&other, &stop), KEEL_OK);
    ck_assert_mem_eq(a.fit.weight, other.fit.weight, sizeof a.fit.weight);
    ck_assert(a.fit.metrics.share_better != other.fit.metrics.share_better);
    other = make_job(0.3, 5, 56);
    ck_assert_int_eq(ml_train_work(&other, &stop), KEEL_OK);
    ck_assert(a.fit.weight[0] != other.fit.weight[0]);
}
END_TEST

/*
 * Nothing of a test vector reaches the model that predicts it: the figures of a stream stay the same, to the last bit,
 * when the inputs of vectors that are too young to be tested or trained on before a test are changed, and change when a
 * tested one is.
 */
START_TEST(the_future_changes_nothing)
{
    atomic_bool stop = false;
    struct ml_train_job job = make_job(1, 5, 66);
    struct ml_metrics before;

    job.n_series = 1;
    job.folds = 1;
    ck_assert_int_eq(ml_train_work(&job, &stop), KEEL_OK);
    before = job.fit.metrics;
    /* The purged zone: after 40 % of the samples the first test vector begins; the 10 before it are label window and
     * embargo. */
    size_t n, flat, incomplete, first;
    struct ml_sample *all = ml_samples(&job, 7, &n, &flat, &incomplete);
    first = all[(size_t)(0.4 * (double)n)].at;
    for (size_t i = first - 10; i < first; i++)
        rows[0][i].x[0] += 3;
    ck_assert_int_eq(ml_train_work(&job, &stop), KEEL_OK);
    ck_assert_mem_eq(&before, &job.fit.metrics, sizeof before);
    rows[0][first - 11].x[0] += 3;
    ck_assert_int_eq(ml_train_work(&job, &stop), KEEL_OK);
    ck_assert(before.model.log_loss != job.fit.metrics.model.log_loss);
}
END_TEST

START_TEST(too_little_to_train)
{
    atomic_bool stop = false, stopped = true;
    struct ml_train_job job = make_job(1, 5, 77);

    ck_assert_int_eq(ml_train_work(&job, &stopped), KEEL_CANCELLED);
    for (int s = 0; s < SERIES; s++)
        series[s].n = 20;
    ck_assert_int_eq(ml_train_work(&job, &stop), KEEL_UNDEFINED);
    ck_assert_ptr_nonnull(job.why);
    series[0].n = series[1].n = series[2].n = 0;
    ck_assert_int_eq(ml_train_work(&job, &stop), KEEL_UNDEFINED);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ml_models");
    TCase *tc = tcase_create("ml_models");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, logit_spector);
    tcase_add_test(tc, logit_null);
    tcase_add_loop_test(tc, logit_undefined, 0, 5);
    tcase_add_test(tc, logit_penalised_maximum);
    tcase_add_test(tc, logit_stops);
    tcase_add_test(tc, ewma_riskmetrics);
    tcase_add_test(tc, window_is_median_and_mad);
    tcase_add_test(tc, window_scores);
    tcase_add_test(tc, window_of_one_value);
    tcase_add_loop_test(tc, window_of_ticks, 0, 2);
    tcase_add_test(tc, window_finds_the_outlier);
    tcase_add_test(tc, inputs_are_relative);
    tcase_add_loop_test(tc, purge_and_embargo, 0, 8);
    tcase_add_test(tc, labels);
    tcase_add_test(tc, learns_what_is_there);
    tcase_add_test(tc, noise_is_noise);
    tcase_add_test(tc, same_seed_same_model);
    tcase_add_test(tc, the_future_changes_nothing);
    tcase_add_test(tc, too_little_to_train);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed > 0;
}
