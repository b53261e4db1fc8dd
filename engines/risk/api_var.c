/* Risk over HTTP: value at risk and stress tests, of live or supplied positions. */
#include "monte_carlo.h"
#include "ops.h"

#include <stdlib.h>
#include <string.h>

#define STRESS_FIGURES 10000
#define SIMULATIONS    10000 /* unless the request says */
#define SEED           1
#define METHODS        "historical|parametric|monte_carlo"

enum method { HISTORICAL, PARAMETRIC, MONTE_CARLO };

#define RISK_VAR_REQUEST(X, S)                                                                                      \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                                           \
    X(S, RECS(risk_position_in), positions, KEEL_OPT, 0, 1000, "", "instead of the live ones")                      \
    X(S, ENUM, method, KEEL_OPT, 0, 0, METHODS, "absent: historical, and monte_carlo with num_simulations")         \
    X(S, F64S, returns, KEEL_OPT, 2, 100000, "fraction", "returns of the whole portfolio, instead of the bus's own") \
    X(S, F64S, covariance, KEEL_OPT, 1, 65536, "", "of the log returns of positions over the horizon, row by row")   \
    X(S, I64, num_simulations, KEEL_OPT, 100, 1000000, "", "monte_carlo: how many; absent: 10000")                   \
    X(S, I64, seed, KEEL_OPT, 0, -1, "", "monte_carlo: the same seed gives the same figures; absent: 1")             \
    X(S, F64, degrees_of_freedom, KEEL_OPT, 2.1, 1000, "", "monte_carlo: of Student t; absent: the normal law")      \
    X(S, LEGACY, portfolio_value, KEEL_OPT, 0, 0, "", "of the first version; positions carry their values")
KEEL_RECORD(risk_var_request, RISK_VAR_REQUEST);
KEEL_RECORD_TABLE(risk_var_request, RISK_VAR_REQUEST);

#define RISK_SCENARIO(X, S)                                                                                         \
    X(S, STR, name, NULL, 1, 64, "", "name")                                                                        \
    X(S, MAP, shocks, KEEL_OPT, 0, 1000, "fraction", "symbol to price change, -0.3 is -30 %")                       \
    X(S, F64, default_shock, "0", -1, 100, "fraction", "of symbols that shocks does not name")
KEEL_RECORD(risk_scenario, RISK_SCENARIO);
KEEL_RECORD_TABLE(risk_scenario, RISK_SCENARIO);

#define RISK_STRESS_REQUEST(X, S)                                                                                   \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                                           \
    X(S, RECS(risk_position_in), positions, KEEL_OPT, 0, 1000, "", "instead of the live ones")                      \
    X(S, RECS(risk_scenario), scenarios, NULL, 1, 100, "", "what happens")
KEEL_RECORD(risk_stress_request, RISK_STRESS_REQUEST);
KEEL_RECORD_TABLE(risk_stress_request, RISK_STRESS_REQUEST);

/* ---- positions ---- */

struct position { const char *symbol; double value; }; /* symbol "": not given */

/* The request's positions, symbols in capitals. */
static enum keel_status supplied_positions(struct keel_call *c, const struct risk_position_in *in, size_t n,
                                           struct position **out)
{
    struct position *p = keel_arena_array(c->arena, n, sizeof *p);

    for (size_t i = 0; i < n; i++) {
        p[i] = (struct position){in[i].symbol, keel_money_to_f64(in[i].market_value)};
        if (*in[i].symbol && !(p[i].symbol = risk_symbol_of(c->arena, in[i].symbol)))
            return risk_bad_symbol(c, keel_arena_printf(c->arena, "positions[%zu].symbol", i));
    }
    *out = p;
    return KEEL_OK;
}

static int by_symbol(const void *a, const void *b)
{
    return strcmp(((const struct position *)a)->symbol, ((const struct position *)b)->symbol);
}

/* One a symbol, in the order of symbols; returns how many. */
static size_t merge_positions(struct position *p, size_t n)
{
    size_t kept = 0;

    qsort(p, n, sizeof *p, by_symbol);
    for (size_t i = 0; i < n; i++) {
        if (kept > 0 && strcmp(p[kept - 1].symbol, p[i].symbol) == 0)
            p[kept - 1].value += p[i].value;
        else
            p[kept++] = p[i];
    }
    return kept;
}

/* The positions that a portfolio holds, at their marks. */
static enum keel_status live_positions(struct keel_call *c, const char *portfolio, struct position **out, size_t *n)
{
    struct risk_portfolio *p = risk_find_portfolio(c->state, portfolio);
    struct risk_view v;

    if (!p)
        return risk_unknown_portfolio(c, portfolio);
    if (risk_look(c->rt, c->state, p, NULL, c->arena, &v) != KEEL_OK || !v.totals.defined)
        return keel_fail_as(c, KEEL_UNDEFINED, "no_mark", NULL, "a position has no mark");
    *out = keel_arena_array(c->arena, v.n, sizeof **out);
    *n = 0;
    for (size_t i = 0; i < v.n; i++) {
        keel_i128 money;
        if (v.line[i].position != 0 && risk_value(&v.line[i], v.line[i].position, &money) == KEEL_OK)
            (*out)[(*n)++] = (struct position){v.symbol[i]->name, keel_money_to_f64(money)};
    }
    return KEEL_OK;
}

/* ---- value at risk ---- */

static const double confidence[] = {0.95, 0.99};

/* What the worker computes, from one of profit, growth and covariance. */
struct var_job {
    struct keel_arena *arena;
    enum method method;
    double value; /* of the portfolio */
    size_t n;     /* returns that profit or growth have */
    double *profit, *growth; /* growth: n rows of k */
    const double *covariance, *position; /* k rows of k; values of the k that are simulated */
    size_t k;
    struct risk_simulation simulation;
    bool is_defined;
    const char *why, *wrong; /* why it is not; what is wrong with the request's covariance */
    struct risk_estimate at[KEEL_COUNT(confidence)];
};

/* The law of a covariance that the request brings: its mean is 0. */
static enum keel_status given_law(struct var_job *j, const atomic_bool *stop, struct risk_law *law,
                                  struct risk_factors *f)
{
    enum keel_status st;

    if (!risk_is_symmetric(j->covariance, j->k)) {
        j->wrong = "not_symmetric";
        return KEEL_INVALID;
    }
    if ((st = risk_factor(j->covariance, j->k, j->arena, stop, f)) == KEEL_INVALID)
        j->wrong = "not_semidefinite";
    *law = (struct risk_law){j->k, keel_arena_array(j->arena, j->k, sizeof *law->mean), j->covariance};
    return st;
}

static enum keel_status simulate(struct var_job *j, const atomic_bool *stop)
{
    struct risk_law law;
    struct risk_factors f;
    enum keel_status st;

    if (j->covariance) {
        st = given_law(j, stop, &law, &f);
    } else {
        law = risk_sample_law(j->growth, j->n, j->k, j->arena);
        st = risk_factor(law.covariance, j->k, j->arena, stop, &f);
    }
    return st != KEEL_OK ? st
                         : risk_monte_carlo(&f, law.mean, j->position, &j->simulation, confidence,
                                            KEEL_COUNT(confidence), j->arena, stop, j->at);
}

static enum keel_status parametric(struct var_job *j, const atomic_bool *stop)
{
    struct risk_law law;
    struct risk_factors f;
    enum keel_status st = j->covariance ? given_law(j, stop, &law, &f) : KEEL_OK;

    for (size_t i = 0; i < KEEL_COUNT(confidence) && st == KEEL_OK; i++)
        st = j->covariance ? risk_var_normal(0, risk_linear_sd(j->position, j->covariance, j->k), confidence[i],
                                             &j->at[i].loss)
                           : risk_var_parametric(j->profit, j->n, confidence[i], &j->at[i].loss);
    return st;
}

static enum keel_status historical(struct var_job *j)
{
    struct risk_var loss[KEEL_COUNT(confidence)];
    enum keel_status st = risk_var_historical(j->profit, j->n, confidence, KEEL_COUNT(confidence), j->arena, loss);

    for (size_t i = 0; i < KEEL_COUNT(confidence) && st == KEEL_OK; i++)
        j->at[i].loss = loss[i];
    return st;
}

static enum keel_status var_work(void *job, const atomic_bool *stop)
{
    struct var_job *j = job;
    enum keel_status st;

    if (!j->covariance && j->n < RISK_MIN_RETURNS) {
        j->why = keel_arena_printf(j->arena, "%zu of %d returns", j->n, RISK_MIN_RETURNS);
        return KEEL_OK;
    }
    st = j->method == MONTE_CARLO  ? simulate(j, stop)
         : j->method == PARAMETRIC ? parametric(j, stop)
                                   : historical(j);
    j->is_defined = st == KEEL_OK;
    if (st != KEEL_UNDEFINED)
        return st;
    j->why = "a figure is beyond what a number holds";
    return KEEL_OK;
}

/* Of a simulation: how far its figures would move with another seed. */
static void put_errors(struct keel_json *w, const struct var_job *j, const char *const *name)
{
    keel_json_obj(w, "standard_error");
    for (size_t i = 0; i < KEEL_COUNT(confidence); i++) {
        if (j->at[i].has_error)
            keel_json_f64(w, name[i], j->at[i].error);
        else
            keel_json_null(w, name[i]);
    }
    keel_json_end(w);
}

static enum keel_status var_answer(struct keel_call *c)
{
    static const char *const name[] = {"var_95", "var_99", "expected_shortfall_95", "expected_shortfall_99"};
    static const struct keel_field methods = {.unit = METHODS};
    const struct risk_var_request *q = c->arg;
    const struct var_job *j = c->ctx;
    const double loss[] = {j->at[0].loss.var, j->at[1].loss.var, j->at[0].loss.es, j->at[1].loss.es};
    bool simulated = j->method == MONTE_CARLO;
    struct keel_json *w = &c->out;
    char method[16];

    if (j->wrong)
        return keel_fail_as(c, KEEL_INVALID, j->wrong, "covariance",
                            "covariance must be symmetric (within 1e-9) and positive semidefinite");
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "portfolio_id", q->portfolio_id);
    keel_json_obj(w, "var_result");
    keel_json_f64(w, "portfolio_value", j->value);
    keel_json_str(w, "method", keel_enum_name(&methods, (int)j->method, method, sizeof method));
    for (size_t i = 0; i < KEEL_COUNT(name); i++) {
        if (j->is_defined)
            keel_json_f64(w, name[i], loss[i] > 0 ? -loss[i] : 0);
        else
            keel_json_null(w, name[i]);
    }
    keel_json_i64(w, "num_simulations", simulated && j->is_defined ? (int64_t)j->simulation.n : 0);
    keel_json_i64(w, "returns", (int64_t)j->n);
    if (simulated) {
        keel_json_u64(w, "seed", j->simulation.seed);
        keel_json_str(w, "distribution", j->simulation.freedom > 0 ? "student_t" : "normal");
        put_errors(w, j, name);
    }
    keel_json_end(w);
    keel_json_obj(w, "undefined");
    for (size_t i = 0; i < KEEL_COUNT(name) && !j->is_defined; i++)
        keel_json_str(w, name[i], j->why);
    if (simulated && !(j->at[0].has_error && j->at[1].has_error))
        keel_json_str(w, "standard_error", j->is_defined ? "too few simulations" : j->why);
    keel_json_end(w);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

/* What does not go together. */
static enum keel_status var_conflict(struct keel_call *c, const struct risk_var_request *q, enum method method)
{
    const char *simulated = q->has_num_simulations        ? "num_simulations"
                            : q->has_seed                 ? "seed"
                            : q->has_degrees_of_freedom ? "degrees_of_freedom"
                                                          : NULL;

    if (simulated && method != MONTE_CARLO)
        return keel_fail_as(c, KEEL_INVALID, "conflict", simulated, "%s goes with the method monte_carlo", simulated);
    if (q->has_covariance && method == HISTORICAL)
        return keel_fail_as(c, KEEL_INVALID, "conflict", "covariance",
                            "covariance goes with the methods parametric and monte_carlo");
    if (q->has_covariance && q->has_returns)
        return keel_fail_as(c, KEEL_INVALID, "conflict", "returns", "returns and covariance exclude each other");
    if (q->has_covariance && !q->has_positions)
        return keel_fail_as(c, KEEL_INVALID, "missing", "positions", "covariance needs the positions that it is of");
    return KEEL_OK;
}

/* A row of the covariance is of one position, so each must have a name of its own. */
static enum keel_status check_covariance(struct keel_call *c, const struct risk_var_request *q,
                                         const struct position *p)
{
    size_t k = q->n_positions;
    struct position *sorted = keel_arena_array(c->arena, k, sizeof *sorted);

    if (q->n_covariance != k * k)
        return keel_fail_as(c, KEEL_INVALID, "length", "covariance", "%zu positions need %zu numbers, not %zu", k,
                            k * k, q->n_covariance);
    for (size_t i = 0; i < k; i++)
        if (!*(sorted[i] = p[i]).symbol)
            return keel_fail_as(c, KEEL_INVALID, "missing", keel_arena_printf(c->arena, "positions[%zu].symbol", i),
                                "with covariance every position needs a symbol");
    qsort(sorted, k, sizeof *sorted, by_symbol);
    for (size_t i = 1; i < k; i++)
        if (strcmp(sorted[i - 1].symbol, sorted[i].symbol) == 0)
            return keel_fail_as(c, KEEL_INVALID, "duplicate", "positions", "with covariance %s may be there only once",
                                sorted[i].symbol);
    return KEEL_OK;
}

static enum keel_status var_positions(struct keel_call *c, const struct risk_var_request *q, struct position **p,
                                      size_t *k)
{
    enum keel_status st;

    if (!q->has_positions)
        return live_positions(c, q->portfolio_id, p, k);
    st = supplied_positions(c, q->positions, q->n_positions, p);
    *k = q->n_positions;
    if (st != KEEL_OK)
        return st;
    if (q->has_covariance)
        return check_covariance(c, q, *p);
    *k = merge_positions(*p, *k);
    return KEEL_OK;
}

/* The closes that the positions rest on. */
static const struct risk_closes **closes_of(struct keel_call *c, const struct position *p, size_t k)
{
    static const struct risk_closes none;
    const struct risk_closes **closes = keel_arena_array(c->arena, k, sizeof *closes);

    for (size_t i = 0; i < k; i++) {
        const struct risk_symbol *sym = risk_find_symbol(c->rt, c->state, p[i].symbol, false);
        closes[i] = sym ? &sym->closes : &none;
    }
    return closes;
}

/* Profits of the portfolio, from its own returns or its positions' closes. */
static void take_profits(struct keel_call *c, const struct risk_var_request *q, const struct position *p,
                         struct var_job *j)
{
    j->n = q->n_returns;
    j->profit = keel_arena_array(c->arena, q->has_returns ? j->n : RISK_CLOSES, sizeof *j->profit);
    for (size_t i = 0; i < q->n_returns; i++)
        j->profit[i] = q->returns[i] * j->value;
    if (!q->has_returns)
        j->n = risk_profits(closes_of(c, p, j->k), j->position, j->k, j->profit);
}

/* As if the portfolio were one position. */
static enum keel_status take_returns(struct keel_call *c, const struct risk_var_request *q, struct var_job *j)
{
    j->n = q->n_returns;
    j->growth = keel_arena_array(c->arena, j->n, sizeof *j->growth);
    for (size_t i = 0; i < j->n; i++) {
        j->growth[i] = 1 + q->returns[i];
        if (!(j->growth[i] > 0))
            return keel_fail_as(c, KEEL_INVALID, "out_of_range", keel_arena_printf(c->arena, "returns[%zu]", i),
                                "a return must be above -1: nothing has no logarithm");
    }
    return KEEL_OK;
}

/* What is simulated, unless that is more work than a request may ask for. */
static enum keel_status take_growths(struct keel_call *c, const struct risk_var_request *q, const struct position *p,
                                     struct var_job *j)
{
    if (q->has_returns) {
        j->k = 1;
        j->position = &j->value;
    }
    if (j->k > RISK_FACTORS)
        return keel_fail_as(c, KEEL_UNDEFINED, "too_many_positions", NULL, "%zu positions; at most %d are simulated",
                            j->k, RISK_FACTORS);
    if (j->k > 0 && j->simulation.n > risk_simulations(j->k))
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "num_simulations",
                            "%zu positions leave room for %zu simulations", j->k, risk_simulations(j->k));
    if (q->has_returns)
        return take_returns(c, q, j);
    if (j->covariance)
        return KEEL_OK;
    j->growth = keel_arena_array(c->arena, RISK_CLOSES * j->k, sizeof *j->growth);
    j->n = risk_growths(closes_of(c, p, j->k), j->k, j->growth);
    return KEEL_OK;
}

enum keel_status api_var(struct keel_call *c)
{
    const struct risk_var_request *q = c->arg;
    struct var_job *j = keel_arena_alloc(c->arena, sizeof *j);
    struct position *p = NULL;
    double *value;
    enum keel_status st;

    *j = (struct var_job){.arena = c->arena, .covariance = q->has_covariance ? q->covariance : NULL};
    j->method = q->has_method            ? (enum method)q->method
                : q->has_num_simulations ? MONTE_CARLO
                                         : HISTORICAL;
    j->simulation = (struct risk_simulation){.n = q->has_num_simulations ? (size_t)q->num_simulations : SIMULATIONS,
                                             .seed = q->has_seed ? (uint64_t)q->seed : SEED,
                                             .freedom = q->degrees_of_freedom};
    if ((st = var_conflict(c, q, j->method)) != KEEL_OK || (st = var_positions(c, q, &p, &j->k)) != KEEL_OK)
        return st;
    j->position = value = keel_arena_array(c->arena, j->k, sizeof *value);
    for (size_t i = 0; i < j->k; i++)
        j->value += value[i] = p[i].value;
    if (j->method == MONTE_CARLO)
        st = take_growths(c, q, p, j);
    else if (!j->covariance)
        take_profits(c, q, p, j);
    c->ctx = j;
    return st != KEEL_OK ? st : keel_await_work(c, var_work, j, var_answer);
}

/* ---- stress ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct keel_named *)a)->name, ((const struct keel_named *)b)->name);
}

/* The shocks of a scenario by symbol in capitals, in order. */
static enum keel_status shocks_of(struct keel_call *c, const struct risk_scenario *sc, struct keel_named **out)
{
    struct keel_named *shock = keel_arena_array(c->arena, sc->n_shocks + 1, sizeof *shock);

    for (size_t i = 0; i < sc->n_shocks; i++) {
        shock[i] = (struct keel_named){risk_symbol_of(c->arena, sc->shocks[i].name), sc->shocks[i].value};
        if (!shock[i].name)
            return risk_bad_symbol(c, "scenarios.shocks");
        if (shock[i].value < -1 || shock[i].value > 100)
            return keel_fail_as(c, KEEL_INVALID, "out_of_range", "scenarios.shocks",
                                "a shock must be between -1 and 100");
    }
    qsort(shock, sc->n_shocks, sizeof *shock, by_name);
    *out = shock;
    return KEEL_OK;
}

static void put_scenario(struct keel_json *w, const struct risk_scenario *sc, const struct keel_named *shock,
                         const struct position *p, size_t n)
{
    double pnl = 0;

    keel_json_obj(w, NULL);
    keel_json_str(w, "name", sc->name);
    keel_json_obj(w, "by_symbol");
    for (size_t i = 0; i < n; i++) {
        const struct keel_named key = {.name = p[i].symbol},
                                *own = bsearch(&key, shock, sc->n_shocks, sizeof *shock, by_name);
        double one = p[i].value * (own ? own->value : sc->default_shock);
        pnl += one;
        if (*p[i].symbol)
            keel_json_f64(w, p[i].symbol, one);
    }
    keel_json_end(w);
    keel_json_f64(w, "pnl", pnl);
    keel_json_end(w);
}

enum keel_status api_stress(struct keel_call *c)
{
    const struct risk_stress_request *q = c->arg;
    struct keel_json *w = &c->out;
    struct position *p = NULL;
    struct keel_named **shock = keel_arena_array(c->arena, q->n_scenarios, sizeof *shock);
    size_t n = q->n_positions;
    enum keel_status st = q->has_positions ? supplied_positions(c, q->positions, n, &p)
                                           : live_positions(c, q->portfolio_id, &p, &n);

    for (size_t i = 0; i < q->n_scenarios && st == KEEL_OK; i++)
        st = shocks_of(c, &q->scenarios[i], &shock[i]);
    if (st != KEEL_OK)
        return st;
    if (q->has_positions)
        n = merge_positions(p, n);
    if (n * q->n_scenarios > STRESS_FIGURES)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "scenarios", "%zu positions leave room for %zu scenarios",
                            n, STRESS_FIGURES / n);
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "portfolio_id", q->portfolio_id);
    keel_json_arr(w, "scenarios");
    for (size_t i = 0; i < q->n_scenarios; i++)
        put_scenario(w, &q->scenarios[i], shock[i], p, n);
    keel_json_end(w);
    keel_json_str(w, "basis", q->has_positions ? "supplied" : "live");
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

