/*
 * Analytics over HTTP. The equity is asked of portfolio in each call, so that it is portfolio's to the last digit; when
 * portfolio does not answer in half of the level's time, its last word is used and the answer says so. The deeper
 * levels run on a worker in stages; a stage begins only while the level's time lasts, and the answer names the last one
 * that was finished. The levels are alternatives of one another: one that of late took longer than is left is not begun.
 */
#include <math.h>
#include <string.h>

#include "ops.h"

KEEL_RECORD_TABLE(ana_realtime, ANA_REALTIME);
KEEL_RECORD_TABLE(ana_performance, ANA_PERFORMANCE);
KEEL_RECORD_TABLE(ana_symbol_query, ANA_SYMBOL);

#define DAY_NS  86400000000000LL
#define IN_TIME 0.85 /* of the level's time: the rest is for the answer */
#define ASK_NS  200000000LL

struct api_ctx {
    struct ana_portfolio *p;
    struct ana_analysis a;
    enum ana_level wanted, begun, depth; /* begun: the level that was chosen */
    const char *not_begun;             /* why that is not the one that was wanted */
    const char *stale;                 /* portfolio did not answer: why */
    const struct keel_jval *positions; /* of its answer */
    const char *symbol;
    const struct keel_jval *features; /* of a symbol; NULL: none */
    const char *no_features;          /* why */
    size_t from;
    double budget_ms, begun_ms;
};

/* In capitals; KEEL_INVALID fails the call: it is no symbol. */
static enum keel_status take_symbol(struct keel_call *c, const char *text, const char **out)
{
    char *symbol = keel_arena_alloc(c->arena, KEEL_SYMBOL_LEN + 1);

    if (!keel_symbol_normalise(text, symbol))
        return keel_fail_as(c, KEEL_INVALID, "bad_symbol", "symbol",
                            "symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}");
    *out = symbol;
    return KEEL_OK;
}

/* ---- asking portfolio ---- */

static enum keel_status ask_portfolio(struct keel_call *c, const char *id, int64_t budget_ns, keel_step_fn *next)
{
    const struct keel_peer_req req = {
        .peer = "portfolio", .method = "GET", .path = ana_portfolio_path(c->arena, id), .budget_ns = budget_ns};

    return keel_await_peer(c, &req, next);
}

/* Its answer becomes the last point. Without one, what is known has to do; nothing known is a failure. */
static enum keel_status take_portfolio(struct keel_call *c, const char *id)
{
    struct api_ctx *x = c->ctx;
    struct ana_state *s = c->state;
    enum keel_status st = keel_wait_status(c);

    if (st == KEEL_OK && c->peer.http == 404)
        return keel_fail(c, KEEL_NOTFOUND, "there is no portfolio %s", id);
    if (st == KEEL_OK && c->peer.http == 200) {
        x->p = ana_portfolio_of(c, id);
        if (!x->p)
            return keel_fail_as(c, KEEL_TOOBIG, "too_many_portfolios", "portfolio_id",
                                "max_portfolios (%zu) are followed", s->most);
        st = ana_observe(s, x->p, c->peer.json, keel_session_ns(c->rt));
        if (st == KEEL_OK) {
            x->positions = keel_jget(c->peer.json, "positions");
            return KEEL_OK;
        }
    }
    x->p = ana_portfolio_find(s, id);
    if (!x->p || x->p->curve.n == 0)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "portfolio_unavailable", NULL,
                            "portfolio did not answer, and nothing is known of %s", id);
    char at[KEEL_TIME_TEXT];
    keel_time_print(x->p->ts, at);
    x->stale = keel_arena_printf(c->arena, "portfolio did not answer (%s); its last word is of %s",
                                 st == KEEL_OK ? "wrong answer" : keel_status_name(st), at);
    c->fallback_reason = x->stale;
    return KEEL_OK;
}

/* ---- writing figures ---- */

struct undefined {
    const char *name, *why;
};
struct undefined_list {
    struct undefined at[ANA_N + 16];
    size_t n;
};

static void add_undefined(struct undefined_list *u, const char *name, const char *why)
{
    if (u->n < KEEL_COUNT(u->at))
        u->at[u->n++] = (struct undefined){name, why};
}

static void write_null(struct keel_json *w, struct undefined_list *u, const char *name, const char *why)
{
    keel_json_null(w, name);
    add_undefined(u, name, why);
}

static void write_figure(struct keel_call *c, const struct ana_analysis *a, int f, struct undefined_list *u)
{
    const struct ana_value *v = &a->value[f];
    const struct ana_figure_def *def = &ana_figure_defs[f];
    double shown = v->value * def->factor;

    if (v->is_defined && isfinite(shown))
        keel_json_f64(&c->out, def->name, shown == 0 ? 0 : shown); /* no -0 */
    else if (v->is_defined || v->why)
        write_null(&c->out, u, def->name, v->is_defined ? "out of range" : v->why);
    else
        write_null(&c->out, u, def->name, keel_arena_printf(c->arena, "%zu of %zu %s", v->have, v->need, v->of));
}

static void write_undefined(struct keel_json *w, const struct undefined_list *u)
{
    if (u->n == 0)
        return;
    keel_json_obj(w, "undefined");
    for (size_t i = 0; i < u->n; i++)
        keel_json_str(w, u->at[i].name, u->at[i].why);
    keel_json_end(w);
}

static void write_fallback(struct keel_json *w, const char *reason)
{
    keel_json_bool(w, "fallback", reason != NULL);
    if (reason)
        keel_json_str(w, "fallback_reason", reason);
}

/* What the figures rest on. */
static void write_basis(struct keel_call *c, const struct ana_analysis *a, const char *benchmark)
{
    struct keel_json *w = &c->out;

    keel_json_obj(w, "basis");
    keel_json_u64(w, "returns", a->in.steps.n_returns);
    keel_json_u64(w, "gaps", a->in.steps.n_growth - a->in.steps.n_returns);
    keel_json_str(w, "benchmark", benchmark);
    keel_json_u64(w, "benchmark_returns", a->in.n_pairs);
    keel_json_u64(w, "fills", a->in.trades.fills);
    keel_json_u64(w, "closed_trades", a->in.trades.closed);
    keel_json_u64(w, "rolling_window", ANA_ROLLING);
    keel_json_str(w, "var_method", "historical, one period, a fraction of equity");
    keel_json_f64(w, "risk_free_rate", 0);
    keel_json_end(w);
}

/* ---- realtime ---- */

static const char *level_name(struct keel_call *c, enum ana_level level)
{
    char *buf = keel_arena_alloc(c->arena, 32);

    return keel_enum_name(keel_field_find(&ana_realtime_fields, "complexity"), (int)level, buf, 32);
}

/* The largest position's share of all, by size. */
static void write_concentration(struct keel_json *w, const struct api_ctx *x, struct undefined_list *u)
{
    double gross = 0, largest = 0;

    if (!x->positions || x->positions->type != KEEL_JARR) {
        write_null(w, u, "concentration_risk", "portfolio did not answer");
        return;
    }
    for (const struct keel_jval *k = x->positions->child; k; k = k->next) {
        const struct keel_jval *value = keel_jget(k, "market_value");
        keel_i128 money;
        if (!value || (value->type != KEEL_JSTR && value->type != KEEL_JNUM) ||
            keel_money_parse(value->text, value->len, &money) != KEEL_OK) {
            write_null(w, u, "concentration_risk", "a position has no mark");
            return;
        }
        double size = fabs(keel_money_to_f64(money));
        gross += size;
        largest = fmax(largest, size);
    }
    keel_json_f64(w, "concentration_risk", gross > 0 ? largest / gross : 0);
}

static void write_deep(struct keel_call *c, struct undefined_list *u)
{
    struct api_ctx *x = c->ctx;
    struct keel_json *w = &c->out;

    if (x->depth < ANA_COMPREHENSIVE)
        return;
    keel_json_obj(w, "risk_analysis");
    write_concentration(w, x, u);
    write_null(w, u, "sector_exposure", "no engine knows the sector of a symbol");
    keel_json_end(w);
    write_basis(c, &x->a, "equal_weight");
    if (x->depth < ANA_INSTITUTIONAL)
        return;
    write_null(w, u, "country_exposure", "no engine knows the country of a symbol");
    write_null(w, u, "stress_testing",
               "no scenario is given; risk computes those that are: /risk/stress-test/{portfolio_id}");
    write_null(w, u, "attribution_analysis", "the benchmark's weights by sector are not known");
    keel_json_obj(w, "bootstrap");
    keel_json_u64(w, "resamples", x->a.bootstrap.done);
    keel_json_f64(w, "confidence", ANA_INTERVAL);
    keel_json_i64(w, "seed", (int64_t)x->a.in.seed);
    keel_json_end(w);
}

static const char *realtime_reason(struct keel_call *c)
{
    const struct api_ctx *x = c->ctx;
    const char *cut = x->not_begun;

    if (x->depth == x->wanted)
        return x->stale;
    if (x->depth < x->begun)
        cut = keel_arena_printf(c->arena, "%s did not fit into %.0f ms", level_name(c, x->begun), x->budget_ms);
    return x->stale ? keel_arena_printf(c->arena, "%s; %s", x->stale, cut) : cut;
}

static enum keel_status realtime_answer(struct keel_call *c)
{
    struct api_ctx *x = c->ctx;
    struct keel_json *w = &c->out;
    struct undefined_list *u = keel_arena_alloc(c->arena, sizeof *u);

    keel_choice_done(c, x->depth < x->begun ? KEEL_OUT_SLOW : KEEL_OUT_OK);
    c->fallback_reason = realtime_reason(c);
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "portfolio_id", x->p->id);
    keel_json_obj(w, "result");
    keel_json_str(w, "portfolio_id", x->p->id);
    keel_json_time(w, "timestamp", x->p->ts);
    keel_json_obj(w, "metrics");
    if (x->p->has_equity)
        keel_json_moneynum(w, "total_value", x->p->equity);
    else
        write_null(w, u, "total_value", keel_arena_strdup(c->arena, x->p->why));
    for (int f = 0; f < ANA_N; f++)
        if (ana_figure_defs[f].level <= x->depth)
            write_figure(c, &x->a, f, u);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c) - x->begun_ms, 3);
    keel_json_end(w);
    write_deep(c, u);
    keel_json_str(w, "complexity", level_name(c, x->depth));
    keel_json_u64(w, "data_points_processed", x->a.in.points);
    keel_json_end(w);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_str(w, "complexity", level_name(c, x->depth));
    keel_json_bool(w, "real_time_path", true);
    keel_json_str(w, "complexity_requested", level_name(c, x->wanted));
    write_fallback(w, c->fallback_reason);
    keel_json_f64(w, "periods_per_year", x->a.in.ppy);
    write_undefined(w, u);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

static bool in_time(struct keel_call *c)
{
    const struct api_ctx *x = c->ctx;

    return keel_elapsed_ms(c) < IN_TIME * x->budget_ms;
}

/* The bootstrap, slice by slice. */
static enum keel_status realtime_drawn(struct keel_call *c)
{
    struct api_ctx *x = c->ctx;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail(c, keel_wait_status(c), "the level could not be computed");
    if (!in_time(c))
        return realtime_answer(c);
    if (!ana_is_drawn(&x->a))
        return keel_await_work(c, ana_bootstrap_work, &x->a, realtime_drawn);
    ana_institutional(&x->a);
    x->depth = ANA_INSTITUTIONAL;
    return realtime_answer(c);
}

static enum keel_status realtime_comprehended(struct keel_call *c)
{
    struct api_ctx *x = c->ctx;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail(c, keel_wait_status(c), "the level could not be computed");
    x->depth = ANA_COMPREHENSIVE;
    if (x->begun < ANA_INSTITUTIONAL || !in_time(c))
        return realtime_answer(c);
    return keel_await_work(c, ana_bootstrap_work, &x->a, realtime_drawn);
}

const char *const ana_level_names[] = {"institutional", "comprehensive", "standard", "simple", NULL};

/* The deepest level that fits into what is left of the time. */
static enum keel_status choose_level(struct keel_call *c)
{
    struct api_ctx *x = c->ctx;
    size_t which;

    c->fallback_reason = NULL;
    enum keel_status st = keel_choose(c, (size_t)(ANA_INSTITUTIONAL - x->wanted),
                                      (int64_t)((IN_TIME * x->budget_ms - x->begun_ms) * 1e6), &which);
    if (st == KEEL_OK) {
        x->begun = (enum ana_level)(ANA_INSTITUTIONAL - which);
        x->not_begun = c->fallback_reason;
    }
    return st;
}

static enum keel_status realtime_asked(struct keel_call *c)
{
    const struct ana_realtime *arg = c->arg;
    struct ana_state *s = c->state;
    struct api_ctx *x = c->ctx;
    enum keel_status st = take_portfolio(c, arg->portfolio_id);

    if (st != KEEL_OK)
        return st;
    x->begun_ms = keel_elapsed_ms(c);
    st = choose_level(c);
    if (st != KEEL_OK)
        return st;
    ana_prepare(c, x->p, 0, x->begun >= ANA_COMPREHENSIVE ? &s->market.returns : NULL, &x->a);
    /* A change is to the equity of now: without it there is none. */
    x->a.in.has_day = x->a.in.has_day && x->p->has_equity;
    ana_simple(&x->a);
    if (x->begun == ANA_SIMPLE || !in_time(c))
        return realtime_answer(c);
    ana_standard(&x->a);
    x->depth = ANA_STANDARD;
    if (x->begun == ANA_STANDARD || !in_time(c))
        return realtime_answer(c);
    return keel_await_work(c, ana_comprehensive_work, &x->a, realtime_comprehended);
}

enum keel_status api_realtime(struct keel_call *c)
{
    const struct ana_realtime *arg = c->arg;
    const struct ana_options *o = keel_options(c->rt);
    const int64_t budget[] = {o->simple_ms, o->standard_ms, o->comprehensive_ms, o->institutional_ms};
    struct api_ctx *x = keel_arena_alloc(c->arena, sizeof *x);

    x->wanted = (enum ana_level)arg->complexity;
    if (x->wanted >= ANA_COMPREHENSIVE)
        keel_lower(c, KEEL_NORMAL); /* seconds of these must not take the threads from what is wanted within milliseconds */
    x->depth = ANA_SIMPLE;
    x->budget_ms = (double)budget[arg->complexity];
    if (c->deadline_ns != INT64_MAX) /* the caller's may be shorter */
        x->budget_ms = fmin(x->budget_ms, (double)(c->deadline_ns - c->start_ns) * 1e-6);
    c->ctx = x;
    return ask_portfolio(c, arg->portfolio_id, (int64_t)(x->budget_ms * 0.5e6), realtime_asked);
}

/* ---- performance over a period ---- */

static enum keel_status performance_answer(struct keel_call *c)
{
    static const enum ana_figure figure[] = {ANA_TOTAL_RETURN, ANA_SHARPE,        ANA_MAX_DRAWDOWN, ANA_VOLATILITY,
                                             ANA_BETA,         ANA_ALPHA,         ANA_CALMAR,       ANA_SORTINO,
                                             ANA_WIN_RATE,     ANA_PROFIT_FACTOR, ANA_TURNOVER};
    const struct ana_performance *arg = c->arg;
    struct api_ctx *x = c->ctx;
    struct keel_json *w = &c->out;
    struct undefined_list *u = keel_arena_alloc(c->arena, sizeof *u);
    const struct ana_curve *curve = &x->p->curve;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail(c, keel_wait_status(c), "the figures could not be computed");
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "portfolio_id", x->p->id);
    keel_json_i64(w, "period_days", arg->period_days);
    keel_json_obj(w, "result");
    for (size_t i = 0; i < KEEL_COUNT(figure); i++)
        write_figure(c, &x->a, (int)figure[i], u);
    if (x->a.in.points > 0) {
        keel_json_time(w, "period_start", ana_curve_start(curve, x->from));
        keel_json_time(w, "period_end", ana_curve_at(curve, x->from + x->a.in.points - 1)->ts);
    } else {
        write_null(w, u, "period_start", "there is no equity point");
        write_null(w, u, "period_end", "there is no equity point");
    }
    keel_json_str(w, "data_source", "portfolio");
    keel_json_end(w);
    write_basis(c, &x->a, x->symbol ? x->symbol : "equal_weight");
    keel_json_u64(w, "data_points_processed", x->a.in.points);
    keel_json_f64(w, "periods_per_year", x->a.in.ppy);
    write_fallback(w, x->stale);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    write_undefined(w, u);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

static enum keel_status performance_asked(struct keel_call *c)
{
    const struct ana_performance *arg = c->arg;
    struct ana_state *s = c->state;
    struct api_ctx *x = c->ctx;
    const struct ana_series *benchmark = &s->market.returns;
    enum keel_status st = take_portfolio(c, arg->portfolio_id);

    if (st != KEEL_OK)
        return st;
    if (x->symbol) {
        const struct ana_symbol *k = ana_symbol_find(&s->market, x->symbol);
        benchmark = k ? &k->returns : NULL;
    }
    x->from = ana_curve_since(&x->p->curve, keel_session_ns(c->rt) - arg->period_days * DAY_NS);
    ana_prepare(c, x->p, x->from, benchmark, &x->a);
    ana_standard(&x->a);
    return keel_await_work(c, ana_comprehensive_work, &x->a, performance_answer);
}

enum keel_status api_performance(struct keel_call *c)
{
    const struct ana_performance *arg = c->arg;
    struct api_ctx *x = keel_arena_alloc(c->arena, sizeof *x);
    enum keel_status st = arg->has_symbol ? take_symbol(c, arg->symbol, &x->symbol) : KEEL_OK;

    if (st != KEEL_OK)
        return st;
    c->ctx = x;
    return ask_portfolio(c, arg->portfolio_id, ASK_NS, performance_asked);
}

/* ---- symbols ---- */

static enum keel_status ask_features(struct keel_call *c, keel_step_fn *next)
{
    const struct ana_symbol_query *q = c->arg;
    struct api_ctx *x = keel_arena_alloc(c->arena, sizeof *x);
    struct keel_peer_req req = {.peer = "features", .method = "GET", .budget_ns = ASK_NS};
    enum keel_status st = take_symbol(c, q->symbol, &x->symbol);

    if (st != KEEL_OK)
        return st;
    req.path = keel_arena_printf(c->arena, "/features/%s", x->symbol);
    c->ctx = x;
    return keel_await_peer(c, &req, next);
}

static void take_features(struct keel_call *c)
{
    struct api_ctx *x = c->ctx;

    if (keel_wait_status(c) == KEEL_OK && c->peer.http == 200)
        x->features = c->peer.json;
    x->no_features = keel_wait_status(c) == KEEL_OK && c->peer.http == 404 ? "features does not follow the symbol"
                                                                           : "features did not answer";
}

/* One figure of features under our name; the number is written as features wrote it. */
static void write_indicator(struct keel_call *c, const char *name, const char *theirs, const char *shown,
                            struct undefined_list *u)
{
    const struct api_ctx *x = c->ctx;
    const struct keel_jval *value =
        keel_jget(keel_jget(keel_jget(keel_jget(x->features, "feature_set"), "features"), theirs), "value");
    const struct keel_jval *missing = keel_jget(keel_jget(x->features, "not_ready"), theirs);
    const struct keel_jval *have = keel_jget(missing, "have"), *need = keel_jget(missing, "need");

    if (value && value->type == KEEL_JNUM) {
        keel_json_val(&c->out, name, value);
        return;
    }
    keel_json_null(&c->out, name);
    if (have && need && have->type == KEEL_JNUM && need->type == KEEL_JNUM)
        add_undefined(u, shown, keel_arena_printf(c->arena, "%s of %s bars", have->text, need->text));
    else
        add_undefined(u, shown, x->features ? "features has no such indicator" : x->no_features);
}

static void write_indicators(struct keel_call *c, const char *key, struct undefined_list *u)
{
    static const char *const plain[] = {"sma_20", "sma_50",      "ema_12",         "ema_26", "rsi_14",
                                        "macd",   "macd_signal", "macd_histogram", "atr_14"};
    struct keel_json *w = &c->out;

    keel_json_obj(w, key);
    for (size_t i = 0; i < KEEL_COUNT(plain); i++)
        write_indicator(c, plain[i], plain[i], plain[i], u);
    keel_json_obj(w, "bollinger_bands");
    write_indicator(c, "upper", "bb_upper", "bollinger_bands.upper", u);
    write_indicator(c, "middle", "bb_middle", "bollinger_bands.middle", u);
    write_indicator(c, "lower", "bb_lower", "bollinger_bands.lower", u);
    keel_json_end(w);
    keel_json_obj(w, "stochastic");
    write_indicator(c, "k", "stochastic_k", "stochastic.k", u);
    write_indicator(c, "d", "stochastic_d", "stochastic.d", u);
    keel_json_end(w);
    keel_json_end(w);
}

/* Bars that the indicators rest on, as far as features says: at most the 50 of the longest. */
static void write_bars_used(struct keel_call *c)
{
    const struct api_ctx *x = c->ctx;
    const struct keel_jval *have = keel_jget(keel_jget(keel_jget(x->features, "not_ready"), "sma_50"), "have");
    int64_t n = x->features ? 50 : 0;

    if (have && have->type == KEEL_JNUM)
        (void)keel_i64_parse(have->text, have->len, &n);
    keel_json_i64(&c->out, "data_points_used", n);
}

static enum keel_status technical_asked(struct keel_call *c)
{
    struct api_ctx *x = c->ctx;
    struct keel_json *w = &c->out;
    struct undefined_list *u = keel_arena_alloc(c->arena, sizeof *u);

    take_features(c);
    if (!x->features && keel_wait_status(c) == KEEL_OK && c->peer.http == 404)
        return keel_fail(c, KEEL_NOTFOUND, "%s: %s", x->symbol, x->no_features);
    if (!x->features)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "features_unavailable", NULL, "%s", x->no_features);
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "symbol", x->symbol);
    write_indicators(c, "indicators", u);
    write_bars_used(c);
    keel_json_str(w, "timestamp", keel_jstr(keel_jget(x->features, "feature_set"), "timestamp"));
    keel_json_str(w, "data_source", "features");
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    write_undefined(w, u);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_technical(struct keel_call *c)
{
    return ask_features(c, technical_asked);
}

static enum keel_status symbol_answer(struct keel_call *c)
{
    static const enum ana_figure figure[] = {ANA_TOTAL_RETURN, ANA_VOLATILITY, ANA_SHARPE, ANA_SORTINO,
                                             ANA_MAX_DRAWDOWN, ANA_BETA,       ANA_VAR_95};
    struct api_ctx *x = c->ctx;
    const struct ana_state *s = c->state;
    const struct ana_symbol *k = ana_symbol_find(&s->market, x->symbol);
    struct keel_json *w = &c->out;
    struct undefined_list *u = keel_arena_alloc(c->arena, sizeof *u);

    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail(c, keel_wait_status(c), "the figures could not be computed");
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "symbol", x->symbol);
    keel_json_obj(w, "performance");
    for (size_t i = 0; i < KEEL_COUNT(figure); i++)
        write_figure(c, &x->a, (int)figure[i], u);
    keel_json_end(w);
    write_indicators(c, "technical_indicators", u);
    keel_json_obj(w, "bars");
    keel_json_u64(w, "count", k ? k->bars : 0);
    if (k && k->bars > 0) {
        keel_json_f64(w, "last_close", k->close);
        keel_json_time(w, "last", k->ts_close);
    }
    keel_json_end(w);
    keel_json_u64(w, "data_points_processed", x->a.in.steps.n_returns);
    keel_json_str(w, "benchmark", "equal_weight");
    keel_json_f64(w, "periods_per_year", x->a.in.ppy);
    write_fallback(w, x->features ? NULL : x->no_features);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    write_undefined(w, u);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

/* A symbol's returns as the steps of a curve. */
static void prepare_symbol(struct keel_call *c, const struct ana_symbol *k, struct ana_analysis *a)
{
    const struct ana_state *s = c->state;
    const struct ana_options *o = keel_options(c->rt);
    size_t n = k ? k->returns.n : 0;
    struct ana_input *in = &a->in;

    *a = (struct ana_analysis){
        .in = {.points = n > 0 ? n + 1 : 0, .ppy = s->ppy, .min_returns = (size_t)o->min_returns, .arena = c->arena}};
    in->steps = (struct ana_steps){.growth = keel_arena_array(c->arena, n, sizeof(double)),
                                   .period = keel_arena_array(c->arena, n, sizeof(int64_t)),
                                   .n_growth = n,
                                   .n_returns = n};
    for (size_t i = 0; i < n; i++) {
        in->steps.growth[i] = ana_series_at(&k->returns, i)->value;
        in->steps.period[i] = ana_series_at(&k->returns, i)->period;
    }
    in->steps.returns = in->steps.growth;
    in->own = keel_arena_array(c->arena, n, sizeof(double));
    in->bench = keel_arena_array(c->arena, n, sizeof(double));
    in->n_pairs = ana_pair(in->steps.returns, in->steps.period, n, &s->market.returns, in->own, in->bench);
}

static enum keel_status symbol_asked(struct keel_call *c)
{
    struct api_ctx *x = c->ctx;
    const struct ana_state *s = c->state;
    const struct ana_symbol *k = ana_symbol_find(&s->market, x->symbol);

    take_features(c);
    if (!x->features && !k)
        return keel_fail(c, KEEL_NOTFOUND, "no bar of %s has come; %s", x->symbol, x->no_features);
    prepare_symbol(c, k, &x->a);
    ana_standard(&x->a);
    return keel_await_work(c, ana_comprehensive_work, &x->a, symbol_answer);
}

enum keel_status api_symbol(struct keel_call *c)
{
    return ask_features(c, symbol_asked);
}
