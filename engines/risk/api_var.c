/* Risk over HTTP: value at risk and stress tests, of live or supplied positions. */
#include "ops.h"

#include <stdlib.h>
#include <string.h>

#define STRESS_FIGURES 10000

#define RISK_VAR_REQUEST(X, S)                                                                                      \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                                           \
    X(S, RECS(risk_position_in), positions, KEEL_OPT, 0, 1000, "", "instead of the live ones")                      \
    X(S, ENUM, method, "historical", 0, 0, "historical|parametric", "method")                                       \
    X(S, F64S, returns, KEEL_OPT, 2, 100000, "fraction", "returns of the whole portfolio, instead of the bus's own") \
    X(S, LEGACY, num_simulations, KEEL_OPT, 0, 0, "", "of the first version; nothing is simulated")                 \
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

struct position { const char *symbol; double value; }; /* symbol "": not given */

static int by_symbol(const void *a, const void *b)
{
    return strcmp(((const struct position *)a)->symbol, ((const struct position *)b)->symbol);
}

/* The request's positions in capitals, one a symbol, in order. */
static enum keel_status supplied_positions(struct keel_call *c, const struct risk_position_in *in, size_t n,
                                           struct position **out, size_t *n_out)
{
    struct position *p = keel_arena_array(c->arena, n + 1, sizeof *p);
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        p[i] = (struct position){in[i].symbol, keel_money_to_f64(in[i].market_value)};
        if (*in[i].symbol && !(p[i].symbol = risk_symbol_of(c->arena, in[i].symbol)))
            return risk_bad_symbol(c, keel_arena_printf(c->arena, "positions[%zu].symbol", i));
    }
    qsort(p, n, sizeof *p, by_symbol);
    for (size_t i = 0; i < n; i++) {
        if (kept > 0 && strcmp(p[kept - 1].symbol, p[i].symbol) == 0)
            p[kept - 1].value += p[i].value;
        else
            p[kept++] = p[i];
    }
    *out = p;
    *n_out = kept;
    return KEEL_OK;
}

/* The positions that a portfolio holds, at their marks. */
static enum keel_status live_positions(struct keel_call *c, const char *portfolio, struct risk_view *v)
{
    struct risk_portfolio *p = risk_find_portfolio(c->state, portfolio);

    if (!p)
        return risk_unknown_portfolio(c, portfolio);
    if (risk_look(c->rt, c->state, p, NULL, c->arena, v) != KEEL_OK || !v->totals.defined)
        return keel_fail_as(c, KEEL_UNDEFINED, "no_mark", NULL, "a position has no mark");
    return KEEL_OK;
}

/* ---- value at risk ---- */

/* What the worker computes; it sorts up to 100000 profits. */
struct var_job {
    struct keel_arena *arena;
    double value, *profit;
    size_t n;
    bool parametric, defined;
    struct risk_var at[2]; /* of confidence[] */
};

static const double confidence[] = {0.95, 0.99};

static enum keel_status var_work(void *job, const atomic_bool *stop)
{
    struct var_job *j = job;

    (void)stop;
    if (j->n < RISK_MIN_RETURNS)
        return KEEL_OK;
    j->defined = j->parametric ? risk_var_parametric(j->profit, j->n, 0.95, &j->at[0]) == KEEL_OK &&
                                     risk_var_parametric(j->profit, j->n, 0.99, &j->at[1]) == KEEL_OK
                               : risk_var_historical(j->profit, j->n, confidence, 2, j->arena, j->at) == KEEL_OK;
    return KEEL_OK;
}

static enum keel_status var_answer(struct keel_call *c)
{
    const struct risk_var_request *q = c->arg;
    const struct var_job *j = c->ctx;
    const struct { const char *name; double loss; } figure[] = {{"var_95", j->at[0].var}, {"var_99", j->at[1].var},
                                                                {"expected_shortfall_95", j->at[0].es},
                                                                {"expected_shortfall_99", j->at[1].es}};
    struct keel_json *w = &c->out;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "portfolio_id", q->portfolio_id);
    keel_json_obj(w, "var_result");
    keel_json_f64(w, "portfolio_value", j->value);
    keel_json_str(w, "method", j->parametric ? "parametric" : "historical");
    for (size_t i = 0; i < KEEL_COUNT(figure); i++) {
        if (j->defined)
            keel_json_f64(w, figure[i].name, figure[i].loss > 0 ? -figure[i].loss : 0);
        else
            keel_json_null(w, figure[i].name);
    }
    keel_json_i64(w, "num_simulations", 0); /* the first version's field: nothing is simulated */
    keel_json_i64(w, "returns", (int64_t)j->n);
    keel_json_end(w);
    keel_json_obj(w, "undefined");
    for (size_t i = 0; i < KEEL_COUNT(figure) && !j->defined; i++)
        keel_json_str(w, figure[i].name, keel_arena_printf(c->arena, "%zu of %d returns", j->n, RISK_MIN_RETURNS));
    keel_json_end(w);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

/* Values of the request's or the live positions, with the closes they rest on; k of them. */
static enum keel_status var_positions(struct keel_call *c, const struct risk_var_request *q,
                                      const struct risk_closes ***closes, double **value, size_t *k)
{
    static const struct risk_closes none;
    struct position *given = NULL;
    struct risk_view v = {0};
    size_t n = 0;
    enum keel_status st = q->has_positions ? supplied_positions(c, q->positions, q->n_positions, &given, &n)
                                           : live_positions(c, q->portfolio_id, &v);

    if (st != KEEL_OK)
        return st;
    *closes = keel_arena_array(c->arena, n + v.n + 1, sizeof **closes);
    *value = keel_arena_array(c->arena, n + v.n + 1, sizeof **value);
    for (size_t i = 0; i < n; i++) {
        const struct risk_symbol *sym = risk_find_symbol(c->rt, c->state, given[i].symbol, false);
        (*closes)[*k] = sym ? &sym->closes : &none;
        (*value)[(*k)++] = given[i].value;
    }
    for (size_t i = 0; i < v.n; i++) {
        keel_i128 money;
        if (v.line[i].position == 0 || risk_value(&v.line[i], v.line[i].position, &money) != KEEL_OK)
            continue;
        (*closes)[*k] = &v.symbol[i]->closes;
        (*value)[(*k)++] = keel_money_to_f64(money);
    }
    return KEEL_OK;
}

enum keel_status api_var(struct keel_call *c)
{
    const struct risk_var_request *q = c->arg;
    struct var_job *j = keel_arena_alloc(c->arena, sizeof *j);
    const struct risk_closes **closes = NULL;
    double *value = NULL;
    size_t k = 0;
    enum keel_status st = var_positions(c, q, &closes, &value, &k);

    if (st != KEEL_OK)
        return st;
    *j = (struct var_job){.arena = c->arena, .parametric = q->method == 1, .n = q->n_returns};
    for (size_t i = 0; i < k; i++)
        j->value += value[i];
    j->profit = keel_arena_array(c->arena, q->has_returns ? q->n_returns : RISK_CLOSES, sizeof *j->profit);
    for (size_t i = 0; i < q->n_returns; i++)
        j->profit[i] = q->returns[i] * j->value;
    if (!q->has_returns)
        j->n = risk_profits(closes, value, k, j->profit);
    c->ctx = j;
    return keel_await_work(c, var_work, j, var_answer);
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
    struct risk_view v = {0};
    struct position *p = NULL;
    struct keel_named **shock = keel_arena_array(c->arena, q->n_scenarios, sizeof *shock);
    size_t n = 0;
    enum keel_status st = q->has_positions ? supplied_positions(c, q->positions, q->n_positions, &p, &n)
                                           : live_positions(c, q->portfolio_id, &v);

    for (size_t i = 0; i < q->n_scenarios && st == KEEL_OK; i++)
        st = shocks_of(c, &q->scenarios[i], &shock[i]);
    if (st != KEEL_OK)
        return st;
    if (v.n > 0)
        p = keel_arena_array(c->arena, v.n, sizeof *p);
    for (size_t i = 0; i < v.n; i++) {
        keel_i128 money;
        if (v.line[i].position != 0 && risk_value(&v.line[i], v.line[i].position, &money) == KEEL_OK)
            p[n++] = (struct position){v.symbol[i]->name, keel_money_to_f64(money)};
    }
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

