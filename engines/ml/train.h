/*
 * Training of price_model: feature vectors in, a logistic regression out, with figures from data it had not seen.
 *
 * Label: the sign of the return over the next `horizon` vectors of the same series; vectors whose price does not change
 * by then, or that lack an input, take no part. Validation: walk-forward. Each fold is fitted on the past only, purged:
 * a training vector's label window, and `embargo` vectors more, end before the first test vector. Inputs are
 * standardised by what the training part alone shows. The figures are of all test vectors together, beside a baseline
 * that knows only the base rate of each fold's training part. The model itself is then fitted on everything.
 */
#ifndef ML_TRAIN_H
#define ML_TRAIN_H

#include "keel/arena.h"
#include "logit.h"

/* One feature vector, inputs already taken relative (stream.h). Bit i of present: x[i] is there. */
struct ml_row {
    int64_t ts;
    double close;
    uint32_t present;
    double x[ML_INPUTS];
};

/* A series of a symbol, oldest first, ts rising. */
struct ml_train_series {
    const struct ml_row *row;
    size_t n;
};

struct ml_figures {
    double accuracy, log_loss, brier;
};

struct ml_metrics {
    size_t tested, folds; /* vectors, and folds that could be fitted */
    struct ml_figures model, baseline;
    double share_better; /* of block-bootstrap resamples of the test vectors: the model's log-loss is lower */
    bool better;         /* lower log-loss than the baseline */
};

struct ml_fit {
    uint32_t d;               /* inputs used */
    uint8_t input[ML_INPUTS]; /* which column of ml_row.x */
    double mean[ML_INPUTS], sd[ML_INPUTS], weight[ML_INPUTS], intercept;
    double mean_move;              /* mean |return| over the horizon in training, a fraction */
    int64_t from_ns, to_ns;        /* first and last vector trained on */
    size_t rows, flat, incomplete; /* trained on; left out: price unchanged, an input missing */
    struct ml_metrics metrics;
};

struct ml_train_job {
    struct ml_train_series *series;
    size_t n_series, horizon, embargo, folds; /* horizon >= 1, embargo >= horizon, folds >= 1 */
    double l2;
    uint64_t seed; /* of the bootstrap */
    struct keel_arena *arena;
    struct ml_fit fit; /* the result */
    const char *why;   /* KEEL_UNDEFINED: one sentence */
};

/*
 * KEEL_UNDEFINED  too few labelled vectors, one class only, or no input that most vectors have
 * KEEL_CANCELLED  *stop became true
 * Same job and seed, same result. 10,000 vectors of 20 inputs: about 0.2 s.
 */
enum keel_status ml_train_work(void *job, const atomic_bool *stop);

/* ---- its parts, for tests ---- */

struct ml_sample {
    const struct ml_row *row;
    uint32_t series, at;
    double y, move;
};
/* Labelled samples of all series in order of time (then series); *n of them. */
struct ml_sample *ml_samples(const struct ml_train_job *job, uint32_t need, size_t *n, size_t *flat,
                             size_t *incomplete);
/* First vector at or after `from`, or n. */
size_t ml_first_at(const struct ml_train_series *s, int64_t from);
/* Its label window and the embargo end before the first test vector of its series. */
bool ml_may_train(const struct ml_train_job *job, const struct ml_sample *s, size_t first_test);

/* ---- inference ---- */

#define ML_FARTHEST 10.0 /* standard deviations of the training data; beyond, the model knows nothing */

enum ml_lack { ML_NONE, ML_MISSING, ML_OUT_OF_RANGE };
/* P(price rises over the horizon) of inputs x (bit i of present: x[i] is there); *which: index into fit->input on a
 * lack. */
enum ml_lack ml_score(const struct ml_fit *fit, const double *x, uint32_t present, double *p, uint32_t *which);

#endif
