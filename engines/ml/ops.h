/*
 * The ml engine: its state and the steps of its ops. Predictions are answered on the loop from memory that is there: a
 * model's version is never changed once it is made, and promoting one is the change of a pointer on the same loop, so
 * nothing is locked. Only long batches are computed elsewhere, from copies.
 */
#ifndef KEEL_ML_OPS_H
#define KEEL_ML_OPS_H

#include "keel/call.h"
#include "keel/contract.h"
#include "keel/engine.h"
#include "keel/sha256.h"
#include "stream.h"
#include "train.h"

#define ML_NAME 49      /* bytes of a feature's name and its NUL; longer ones are no inputs */
#define ML_SPECS 8      /* kinds of bars there may be */
#define ML_VERSIONS 16  /* of a model that are kept, newest first to be kept */
#define ML_TRAIN_MOST 8192 /* vectors of one training: what the loop copies in well under a millisecond */
#define ML_BATCH 1000   /* predictions of a batch, at most */
#define ML_MAX_AGE_MS 2000
#define ML_BACKEND "c"  /* the only back end that runs models here */

enum ml_model { ML_PRICE, ML_REGIME, ML_VOLATILITY, ML_RISK, ML_PORTFOLIO, ML_ANOMALY, ML_MODELS };
struct ml_info {
    const char *id, *alias, *type; /* alias: the first version's id */
    const char *help;
    bool trained, streaming;       /* has to be trained; needs only observations; neither: not there yet */
};
extern const struct ml_info ml_models[ML_MODELS];

/* ---- what is stored of a version; the SHA-256 is of the text of ml_weights ---- */

#define ML_WEIGHTS(X, S)                                                                                       \
    X(S, STR, schema_hash, NULL, 16, 16, "", "of the vectors it was trained on")                               \
    X(S, STR, spec, NULL, 2, 16, "", "bars of those vectors")                                                  \
    X(S, I64, horizon, NULL, 1, 1000, "vectors", "the prediction is about the price that many vectors later")  \
    X(S, F64, mean_move, NULL, 0, 0, "fraction", "mean absolute return over the horizon in training")          \
    X(S, F64, intercept, NULL, 0, 0, "", "log-odds at the mean of all inputs")                                 \
    X(S, STRS, inputs, NULL, 1, ML_INPUTS, "", "features; relative to the close where they are prices")        \
    X(S, F64S, mean, NULL, 1, ML_INPUTS, "", "of each input in training")                                      \
    X(S, F64S, sd, NULL, 1, ML_INPUTS, "", "sample deviation; 0: the input was constant and is not used")      \
    X(S, F64S, weight, NULL, 1, ML_INPUTS, "", "log-odds for one sd")
KEEL_RECORD(ml_weights, ML_WEIGHTS);

#define ML_ABOUT(X, S)                                                                                         \
    X(S, I64, seed, NULL, 0, 0, "", "of the bootstrap")                                                        \
    X(S, F64, l2, NULL, 0, 0, "", "penalty on the weights")                                                    \
    X(S, BOOL, automatic, NULL, 0, 0, "", "trained because enough vectors were there, not by a request")       \
    X(S, TIME, window_from, NULL, 0, 0, "", "first vector trained on")                                         \
    X(S, TIME, window_to, NULL, 0, 0, "", "last vector trained on")                                            \
    X(S, I64, rows, NULL, 0, 0, "vectors", "trained on")                                                       \
    X(S, I64, flat, NULL, 0, 0, "vectors", "left out: the price did not change over the horizon")              \
    X(S, I64, incomplete, NULL, 0, 0, "vectors", "left out: an input was missing")                             \
    X(S, I64, tested, NULL, 0, 0, "vectors", "tested in the walk-forward, after being unseen")                 \
    X(S, I64, folds, NULL, 0, 0, "", "of the walk-forward")                                                    \
    X(S, F64, accuracy, NULL, 0, 0, "fraction", "of the tested")                                               \
    X(S, F64, log_loss, NULL, 0, 0, "", "mean over the tested")                                                \
    X(S, F64, brier, NULL, 0, 0, "", "mean over the tested")                                                   \
    X(S, F64, baseline_accuracy, NULL, 0, 0, "fraction", "of always saying the majority class")                \
    X(S, F64, baseline_log_loss, NULL, 0, 0, "", "of always saying the base rate")                             \
    X(S, F64, baseline_brier, NULL, 0, 0, "", "of always saying the base rate")                                \
    X(S, F64, share_better, NULL, 0, 1, "fraction", "of 500 block-bootstrap resamples: lower log-loss") \
    X(S, BOOL, better, NULL, 0, 0, "", "lower log-loss than the baseline")
KEEL_RECORD(ml_about, ML_ABOUT);

struct ml_version {
    int64_t version, trained_ns, horizon;
    char schema[17], spec[17], sha256[KEEL_SHA256_TEXT];
    struct ml_fit fit; /* input[] are columns */
    struct ml_about about;
};

/* ---- streams ---- */

enum { ML_W_RETURN, ML_W_OFI, ML_W_SPREAD, ML_W_IMBALANCE, ML_WATCHED };
extern const char *const ml_watched[ML_WATCHED];

struct ml_scores { double z[ML_WATCHED]; bool has[ML_WATCHED]; uint32_t farthest; bool any; };

/* The newest of a series, and all of it that a prediction reads. */
struct ml_live {
    char symbol[KEEL_SYMBOL_LEN + 1], spec[17], schema[17];
    int64_t bar_ts; /* close of the last bar; 0: none */
    double bar_close;
    struct ml_ewma volatility;
    struct ml_scale scale[ML_WATCHED]; /* of the windows */
    struct ml_scores scores;           /* of the vector */
    bool has_vector;
    struct ml_row vector;
};

struct ml_series {
    struct ml_live live;
    struct ml_window watched[ML_WATCHED];
    size_t n, head; /* ring of vectors; head: oldest */
    struct ml_row row[];
};

/* Which input is in which column of a vector, and how it is taken. */
struct ml_columns {
    char name[ML_INPUTS][ML_NAME];
    enum ml_how how[ML_INPUTS];
    uint32_t n;
};

/* What became of a vector that price_model was asked about, and of a bar for the volatility. */
enum ml_said {
    ML_SAID_REPEATED, ML_SAID_DISABLED, ML_SAID_OTHER_KIND, /* other_kind: bars or features the model does not know */
    ML_SAID_MISSING, ML_SAID_OUT_OF_RANGE, ML_SAID_PRICE,   /* of a vector that found the model ready */
    ML_SAID_BAR_REPEATED, ML_SAID_WARMING, ML_SAID_VOLATILITY,
    ML_SAID
};

struct ml_state {
    struct ml_series **series; /* open addressing on symbol and spec; cap is a power of two */
    uint32_t cap, n, most, kept;
    char spec[ML_SPECS][17];   /* shortest first */
    uint32_t n_specs;
    struct ml_columns columns;
    struct ml_version *version[ML_VERSIONS], *serving; /* of price_model, oldest first */
    uint32_t n_versions;
    int64_t last_version, previous; /* previous: what rollback goes back to; 0: nothing */
    uint64_t vectors, train_at;     /* seen; automatic training is tried from this many on; 0: never (again) */
    uint32_t epoch;
    uint64_t predictions, computed; /* ids given; what the back end in C has answered, in batches too */
    uint64_t ready_vectors, said[ML_SAID]; /* of this process: vectors that found a model ready; all by what became */
    char onnx[200]; /* why ONNX Runtime is not used */
};

#define ML_OPTIONS(X, S)                                                                                       \
    X(S, I64, max_series, "1000", 1, 100000, "series", "symbols times kinds of bars, at most") \
    X(S, I64, vectors_kept, "1000", 100, 100000, "vectors", "of each series, to train on")                     \
    X(S, I64, train_after_vectors, "300", 0, 1000000, "vectors", \
      "labelled vectors after which price_model is trained once; 0: only on request") \
    X(S, I64, train_horizon, "5", 1, 1000, "vectors", "horizon of that training")                              \
    X(S, I64, train_seed, "1", 0, 0, "", "seed of that training")                                              \
    X(S, F64, anomaly_threshold, "6", 1, 1000, "", "robust z-scores above are anomalies")
KEEL_RECORD(ml_options, ML_OPTIONS);

/* ---- requests ---- */

#define ML_ASK(X, S)                                                                                           \
    X(S, STR, symbol, KEEL_OPT, 1, 32, "", "predict from its live vector")                                     \
    X(S, STR, spec, KEEL_OPT, 2, 16, "", "kind of bars; absent: the model's, or the shortest there is")        \
    X(S, MAP, features, KEEL_OPT, 1, 256, "", "name to value: predict from these instead")                     \
    X(S, DEC, current_price, KEEL_OPT, 1e-9, 9.2e9, "price", \
      "price that target_price starts from; needed with features that are prices") \
    X(S, MONEY, portfolio_value, KEEL_OPT, 0, 0, "currency", "volatility: also give the move of this much money") \
    X(S, I64, max_age_ms, "2000", 1, 86400000, "ms", "an older vector is refused")                             \
    X(S, LEGACY, time_horizon, KEEL_OPT, 0, 0, "", "of the first version; the model has its own")              \
    X(S, LEGACY, timestamp, KEEL_OPT, 0, 0, "", "of the first version")                                        \
    X(S, LEGACY, volume, KEEL_OPT, 0, 0, "", "of the first version")
#define ML_REQUEST(X, S) X(S, STR, model_id, NULL, 1, 64, "", "model") ML_ASK(X, S)
KEEL_RECORD(ml_ask, ML_ASK);
KEEL_RECORD(ml_request, ML_REQUEST);

#define ML_BATCH_REQUEST(X, S)                                                                                 \
    X(S, RECS(ml_ask), inputs, NULL, 1, ML_BATCH, "", "what to predict from, each as for one prediction")      \
    X(S, STR, model_id, KEEL_OPT, 1, 64, "", "model")                                                          \
    X(S, STR, model_type, KEEL_OPT, 1, 64, "", "instead of model_id: the model of that type")
KEEL_RECORD(ml_batch_request, ML_BATCH_REQUEST);

#define ML_MODEL_REF(X, S) X(S, STR, model_id, NULL, 1, 64, "", "model")
KEEL_RECORD(ml_model_ref, ML_MODEL_REF);

#define ML_TRAIN_REQUEST(X, S)                                                                                 \
    X(S, STR, model_id, NULL, 1, 64, "", "model")                                                              \
    X(S, BOOL, promote, "false", 0, 0, "", "serve it even when it is not better than the baseline")            \
    X(S, I64, horizon, "5", 1, 1000, "vectors", "label: sign of the return over that many vectors")            \
    X(S, I64, folds, "4", 1, 20, "", "of the walk-forward")                                                    \
    X(S, F64, l2, "10", 1e-6, 1e6, "", "penalty on the standardised weights")                                  \
    X(S, I64, seed, "1", 0, 0, "", "of the bootstrap")                                                         \
    X(S, STR, spec, KEEL_OPT, 2, 16, "", "kind of bars; absent: the one with most vectors")
KEEL_RECORD(ml_train_request, ML_TRAIN_REQUEST);

#define ML_PROMOTE(X, S)                                                                                       \
    X(S, STR, model_id, NULL, 1, 64, "", "model")                                                              \
    X(S, I64, version, NULL, 1, 0, "", "version to serve")
KEEL_RECORD(ml_promote, ML_PROMOTE);

/* ---- predictions ---- */

struct ml_refusal { const char *code, *field; char detail[200]; };

/*
 * What all predictions of a call are made by. With what is asked and a struct ml_live it is all that a prediction is
 * computed from: of copies a worker computes it while the state goes on.
 */
struct ml_basis {
    enum ml_model model;
    const struct ml_version *serving; /* price_model's; NULL: none */
    const struct ml_columns *columns;
    double threshold; /* of anomalies */
    int64_t now_ns;   /* of the session */
};

struct ml_answer {
    enum ml_model model;
    int64_t version, as_of, expires;
    const char *quality;
    double confidence; /* price: probability of the direction; else the share of the lookback that was observed */
    const char *direction; /* price */
    double change;
    int64_t target;
    bool has_target;
    double volatility;     /* volatility: of one bar, a fraction */
    uint64_t observations;
    struct ml_scores scores; /* anomaly */
    double threshold;
    const char *spec;      /* "" for features of a request */
};

/* A batch: what it is computed from, and its answer. */
struct ml_batch {
    struct ml_basis basis;
    const struct ml_ask *in;
    const struct ml_live **live; /* what each of them asks about, NULL: nothing; the first `found` are there */
    size_t n, found;
    const char *backend;
    struct keel_ignored ignored;
    uint64_t succeeded;
    struct keel_json w; /* the answer but for how long it took and what was ignored */
};

extern const struct keel_engine ml_engine;
extern const char ml_schema[];

/* state.c */
enum keel_status ml_open(struct keel_rt *rt, void *state);
void ml_close(struct keel_rt *rt, void *state);
void ml_hardware(const void *state, struct keel_json *w); /* back ends, predictions of each that ran */
/* ML_MODELS when there is none; takes aliases. */
enum ml_model ml_find_model(const char *id);
struct ml_series *ml_find_series(const struct ml_state *s, const char *symbol, const char *spec);
/* Also creates it; NULL when there is no room. */
struct ml_series *ml_series_of(struct ml_state *s, const char *symbol, const char *spec);
/* Forgets the stream: it began anew, or its features are defined differently. */
void ml_series_reset(struct ml_series *r);
const struct ml_row *ml_newest(const struct ml_live *l); /* NULL: there is no vector yet */
void ml_push(struct ml_state *s, struct ml_series *r, const struct ml_row *row);
/* Column of a feature, ML_INPUTS when there is no room for it. */
uint32_t ml_column(struct ml_state *s, const char *name);
struct ml_version *ml_version_of(struct ml_state *s, int64_t version);
/* From the stored texts; the SHA-256 must be that of weights. In a; NULL and *why when it cannot be used. */
struct ml_version *ml_version_read(struct ml_state *s, struct keel_arena *a, const char *weights, const char *sha256,
                                   const char *about, const char **why);

/* predict.c */
/* As things are now; pointers are into the state. */
struct ml_basis ml_basis_of(const struct keel_call *c, enum ml_model model);
/* The stream that it asks about; NULL: there is none, or it needs none. */
const struct ml_live *ml_live_of(const struct ml_state *s, const struct ml_basis *b, const struct ml_ask *in);
/*
 * Of what is given alone. Features that are not used go to ignored.
 *
 * KEEL_UNDEFINED with *why (code stale_input, missing, out_of_range or model_disabled) when there is no prediction.
 */
enum keel_status ml_predict(const struct ml_basis *b, const struct ml_live *live, const struct ml_ask *in,
                            struct keel_ignored *ignored, struct ml_answer *out, struct ml_refusal *why);
/* The price model on a row, from that price on (0: none); UP, DOWN or FLAT by the probability. */
enum ml_lack ml_price(const struct ml_version *v, const struct ml_row *row, double price, struct ml_answer *out,
                      uint32_t *which);
void ml_volatility(const struct ml_ewma *e, struct ml_answer *out);
/* Scores of the watched figures against their windows; close_before 0: no return yet. */
void ml_watch(const struct ml_scale scale[ML_WATCHED], const struct keel_named *f, size_t n, double close,
              double close_before, double x[ML_WATCHED], bool has[ML_WATCHED], struct ml_scores *out);
/* Next id of this process. */
void ml_prediction_id(struct ml_state *s, char out[32]);

/* api.c */
/* Members that all answers share. */
void ml_write_prediction(struct keel_json *w, const struct ml_answer *a, const struct ml_ask *in, bool critical);
/* The back end that the call runs on. */
enum keel_status ml_choose_backend(struct keel_call *c, const char **name);

extern const char *const ml_backends[]; /* best first: alternatives of a prediction */

/* api_batch.c */
keel_work_fn ml_batch_work; /* of a struct ml_batch; KEEL_CANCELLED: *stop became true */

keel_step_fn api_predict, api_critical, api_price, api_regime, api_volatility, api_batch, api_models, api_model;
keel_step_fn api_train, train_fitted, api_promote, api_rollback;
keel_step_fn bus_vector, bus_bar;

#endif
