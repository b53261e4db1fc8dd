/* Risk over HTTP: checks, report, limits, breaches, trading state. */
#include "ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

KEEL_RECORD_TABLE(risk_position_in, RISK_POSITION_REC);

#define RISK_ORDER_REC(X, S)                                                                                        \
    X(S, STR, client_order_id, NULL, 1, 64, "", "the order's id")                                                   \
    X(S, STR, strategy_id, NULL, 1, 64, "", "its strategy")                                                         \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                                    \
    X(S, ENUM, side, NULL, 0, 0, KEEL_SIDES, "side")                                                                \
    X(S, DEC, quantity, NULL, 1e-9, 9.2e9, "quantity", "how much")                                                  \
    X(S, ENUM, order_type, "LIMIT", 0, 0, KEEL_ORDER_TYPES, "type")                                                 \
    X(S, DEC, price, KEEL_OPT, 1e-9, 9.2e9, "price", "needed unless MARKET")                                        \
    X(S, ENUM, time_in_force, KEEL_OPT, 0, 0, KEEL_TIFS, "time in force")                                           \
    X(S, BOOL, reduce_only, KEEL_OPT, 0, 0, "", "may only reduce")                                                  \
    X(S, STR, venue, KEEL_OPT, 1, 32, "", "venue")
KEEL_RECORD(risk_order_in, RISK_ORDER_REC);
KEEL_RECORD_TABLE(risk_order_in, RISK_ORDER_REC);

#define RISK_CHECK_REQUEST(X, S)                                                                                    \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                                           \
    X(S, MONEY, portfolio_value, KEEL_OPT, -RISK_MONEY_MOST, RISK_MONEY_MOST, "currency", "supplied form: equity")   \
    X(S, RECS(risk_position_in), positions, KEEL_OPT, 0, 1000, "", "supplied form: positions")                      \
    X(S, REC(risk_order_in), order, KEEL_OPT, 0, 0, "", "pre-trade form: the order")                                \
    X(S, BOOL, reserve, "false", 0, 0, "", "hold the headroom under the order's id")
KEEL_RECORD(risk_check_request, RISK_CHECK_REQUEST);
KEEL_RECORD_TABLE(risk_check_request, RISK_CHECK_REQUEST);

#define RISK_REPORT_REQUEST(X, S) X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")
KEEL_RECORD(risk_report_request, RISK_REPORT_REQUEST);
KEEL_RECORD_TABLE(risk_report_request, RISK_REPORT_REQUEST);

#define RISK_LIMIT_ROW(X, S)                                                                                        \
    X(S, STR, limit_id, NULL, 1, 64, "", "identity")                                                                \
    X(S, ENUM, limit_type, NULL, 0, 0, RISK_LIMIT_TYPES, "what is limited")                                         \
    X(S, MONEY, limit_value, NULL, -RISK_MONEY_MOST, RISK_MONEY_MOST, "", "its type's unit; losses: a magnitude") \
    X(S, BOOL, enabled, "true", 0, 0, "", "acts")                                                                   \
    X(S, ENUM, action, "deny", 0, 0, RISK_ACTIONS, "deny orders; warn: breach only; reduce: also sets REDUCING")    \
    X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "absent: all")                                                     \
    X(S, STR, strategy_id, KEEL_OPT, 1, 64, "", "absent: all")                                                      \
    X(S, STR, symbol, KEEL_OPT, 1, 32, "", "absent: all")                                                           \
    X(S, LEGACY, current_value, KEEL_OPT, 0, 0, "", "of the first version; computed here")
KEEL_RECORD(risk_limit_row, RISK_LIMIT_ROW);
KEEL_RECORD_TABLE(risk_limit_row, RISK_LIMIT_ROW);

#define RISK_LIMITS_QUERY(X, S)                                                                                     \
    X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "absent: all")                                                     \
    X(S, STR, after, KEEL_OPT, 1, 64, "", "the `next` of the page before")                                          \
    X(S, I64, limit, "100", 1, 1000, "", "how many")
KEEL_RECORD(risk_limits_query, RISK_LIMITS_QUERY);
KEEL_RECORD_TABLE(risk_limits_query, RISK_LIMITS_QUERY);

#define RISK_LIMIT_REF(X, S) X(S, STR, limit_id, NULL, 1, 64, "", "identity")
KEEL_RECORD(risk_limit_ref, RISK_LIMIT_REF);
KEEL_RECORD_TABLE(risk_limit_ref, RISK_LIMIT_REF);

#define RISK_BREACH_QUERY(X, S)                                                                                     \
    X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "absent: all")                                                     \
    X(S, BOOL, open, KEEL_OPT, 0, 0, "", "true: only open ones; false: only resolved ones")                         \
    X(S, I64, after, KEEL_OPT, 1, 0, "", "the `next` of the page before")                                           \
    X(S, I64, limit, "100", 1, 1000, "", "how many")
KEEL_RECORD(risk_breach_query, RISK_BREACH_QUERY);
KEEL_RECORD_TABLE(risk_breach_query, RISK_BREACH_QUERY);

#define RISK_BREACH_REF(X, S) X(S, STR, breach_id, NULL, 1, 64, "", "identity")
KEEL_RECORD(risk_breach_ref, RISK_BREACH_REF);
KEEL_RECORD_TABLE(risk_breach_ref, RISK_BREACH_REF);

#define RISK_STATE_REQUEST(X, S)                                                                                    \
    X(S, ENUM, state, NULL, 0, 0, RISK_STATES, "REDUCING: only what reduces; HALTED: nothing")                      \
    X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "absent: all")                                                     \
    X(S, STR, reason, KEEL_OPT, 1, 240, "", "why; needed for ACTIVE")
KEEL_RECORD(risk_state_request, RISK_STATE_REQUEST);
KEEL_RECORD_TABLE(risk_state_request, RISK_STATE_REQUEST);

#define RISK_STATE_QUERY(X, S) X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "absent: of all, and every scope")
KEEL_RECORD(risk_state_query, RISK_STATE_QUERY);
KEEL_RECORD_TABLE(risk_state_query, RISK_STATE_QUERY);

static const struct keel_field state_row = {.unit = RISK_STATES}, type_row = {.unit = RISK_LIMIT_TYPES},
                               action_row = {.unit = RISK_ACTIONS}, severity_row = {.unit = RISK_SEVERITIES};

static const char *name_of(const struct keel_field *row, int value)
{
    static char text[4][32];
    static int at;

    at = (at + 1) % 4;
    return keel_enum_name(row, value, text[at], sizeof text[at]);
}

static void put_figure(struct keel_json *w, const char *key, struct risk_figure f)
{
    if (f.defined)
        keel_json_money(w, key, f.value);
    else
        keel_json_null(w, key);
}

static void put_number(struct keel_json *w, const char *key, struct risk_figure f)
{
    if (f.defined)
        keel_json_moneynum(w, key, f.value);
    else
        keel_json_null(w, key);
}

/* A loss counts up in here and down in the answers, where a gain is no loss. */
static void put_loss(struct keel_json *w, const char *key, struct risk_figure f)
{
    put_number(w, key, (struct risk_figure){f.value > 0 ? -f.value : 0, f.defined});
}

const char *risk_symbol_of(struct keel_arena *a, const char *text)
{
    char *symbol = keel_arena_alloc(a, RISK_SYMBOL);

    return keel_symbol_normalise(text, symbol) ? symbol : NULL;
}

enum keel_status risk_bad_symbol(struct keel_call *c, const char *field)
{
    return keel_fail_as(c, KEEL_INVALID, "bad_symbol", field, "%s must be of the form [A-Z0-9][A-Z0-9._-]{0,31}",
                        field);
}

enum keel_status risk_unknown_portfolio(struct keel_call *c, const char *id)
{
    return keel_fail_as(c, KEEL_NOTFOUND, "unknown_portfolio", "portfolio_id", "no portfolio %s", id);
}

/* ---- what a portfolio is, in the first version's words ---- */

struct result {
    struct risk_figure exposure, value, leverage, concentration, var_95;
    size_t positions;
    const char *why_var;
    double took_ms; /* until the answer was begun */
};

static struct risk_figure ratio(keel_i128 a, keel_i128 b)
{
    struct risk_figure f = {0};

    f.defined = b > 0 && risk_ratio(a, b, &f.value) == KEEL_OK;
    return f;
}

static void put_result(struct keel_call *c, const char *portfolio, const struct result *r)
{
    struct keel_json *w = &c->out;

    keel_json_obj(w, "risk_result");
    keel_json_str(w, "portfolio_id", portfolio);
    put_number(w, "total_exposure", r->exposure);
    put_number(w, "portfolio_value", r->value);
    put_number(w, "leverage", r->leverage);
    put_number(w, "concentration_ratio", r->concentration);
    put_loss(w, "var_95", r->var_95);
    keel_json_i64(w, "position_count", (int64_t)r->positions);
    keel_json_fix(w, "check_timestamp", (double)(c->wall_ns / 1000000) / 1000, 3);
    keel_json_fix(w, "processing_time_ms", r->took_ms, 3);
    keel_json_bool(w, "critical_path", c->op->level == KEEL_CRITICAL);
    keel_json_end(w);
}

static void put_undefined(struct keel_json *w, const struct result *r)
{
    keel_json_obj(w, "undefined");
    if (!r->exposure.defined)
        keel_json_str(w, "total_exposure", "a position has no mark");
    if (!r->value.defined)
        keel_json_str(w, "portfolio_value", "a position has no mark");
    if (!r->leverage.defined)
        keel_json_str(w, "leverage", r->value.defined ? "portfolio value is not above 0" : "a position has no mark");
    if (!r->concentration.defined)
        keel_json_str(w, "concentration_ratio", "a position has no mark");
    if (!r->var_95.defined)
        keel_json_str(w, "var_95", r->why_var);
    keel_json_end(w);
}

static void put_breach(struct keel_json *w, const char *id, const char *type, struct risk_figure current,
                       struct risk_figure limit, const char *severity)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "breach_id", id);
    keel_json_str(w, "breach_type", type);
    put_number(w, "current_value", current);
    put_number(w, "limit_value", limit);
    keel_json_str(w, "severity", severity);
    keel_json_end(w);
}

static void put_open_breaches(struct keel_call *c, const char *portfolio)
{
    struct risk_engine_state *s = c->state;

    keel_json_arr(&c->out, "breaches");
    for (size_t i = 0; i < s->n_breaches; i++)
        if (strcmp(s->breach[i].portfolio, portfolio) == 0)
            put_breach(&c->out, s->breach[i].id, s->breach[i].type, (struct risk_figure){s->breach[i].current, true},
                       (struct risk_figure){s->breach[i].limit, true}, name_of(&severity_row, s->breach[i].severity));
    keel_json_end(&c->out);
}

static void open_answer(struct keel_call *c, const char *portfolio, struct result *r)
{
    r->took_ms = keel_elapsed_ms(c);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "completed");
    keel_json_str(&c->out, "portfolio_id", portfolio);
    put_result(c, portfolio, r);
}

static void close_answer(struct keel_call *c, const struct result *r)
{
    keel_json_fix(&c->out, "processing_time_ms", r->took_ms, 3);
    keel_json_bool(&c->out, "critical_path", c->op->level == KEEL_CRITICAL);
    keel_write_ignored(c);
    keel_json_end(&c->out);
}

/* ---- supplied form: arithmetic on what the caller says ---- */

static enum keel_status sum_supplied(struct keel_call *c, const struct risk_position_in *p, size_t n, keel_i128 *gross,
                                     keel_i128 *largest)
{
    *gross = *largest = 0;
    for (size_t i = 0; i < n; i++) {
        keel_i128 v = p[i].market_value < 0 ? -p[i].market_value : p[i].market_value;
        if (v > *largest)
            *largest = v;
        if (keel_money_add(*gross, v, gross) != KEEL_OK)
            return keel_fail_as(c, KEEL_INVALID, "out_of_range", "positions", "the sum of market values does not fit");
    }
    return KEEL_OK;
}

static enum keel_status check_supplied(struct keel_call *c, const struct risk_check_request *q)
{
    struct risk_engine_state *s = c->state;
    struct result r = {.positions = q->n_positions, .why_var = "supplied positions carry no returns"};
    keel_i128 gross, largest;
    enum keel_status st = sum_supplied(c, q->positions, q->n_positions, &gross, &largest);

    if (st != KEEL_OK)
        return st;
    if (!q->has_portfolio_value)
        return keel_fail_as(c, KEEL_INVALID, "missing", "portfolio_value", "positions need portfolio_value");
    if (q->portfolio_value <= 0)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "portfolio_value", "portfolio_value must be > 0");
    r.exposure = (struct risk_figure){gross, true};
    r.value = (struct risk_figure){q->portfolio_value, true};
    r.leverage = ratio(gross, q->portfolio_value);
    r.concentration = gross > 0 ? ratio(largest, gross) : (struct risk_figure){0, true};
    open_answer(c, q->portfolio_id, &r);
    keel_json_arr(&c->out, "breaches");
    for (size_t i = 0; i < s->n_limits; i++) {
        const struct risk_limit *l = &s->limit[i];
        struct risk_check check;
        struct risk_figure f;

        if ((l->type != RISK_LEVERAGE && l->type != RISK_CONCENTRATION && l->type != RISK_GROSS_EXPOSURE &&
             l->type != RISK_PORTFOLIO_VALUE) || l->strategy[0] || l->symbol[0] ||
            !risk_limit_applies(l, q->portfolio_id, "", ""))
            continue;
        f = l->type == RISK_LEVERAGE        ? r.leverage
            : l->type == RISK_CONCENTRATION ? ratio(largest, q->portfolio_value)
                                            : r.exposure;
        risk_limit_check(l, f, &check);
        if (!check.ok)
            put_breach(&c->out, keel_arena_join(c->arena, "supplied", "-", l->id), name_of(&type_row, (int)l->type), f,
                       (struct risk_figure){l->value, true}, "CRITICAL");
    }
    keel_json_end(&c->out);
    put_undefined(&c->out, &r);
    keel_json_obj(&c->out, "decision");
    keel_json_bool(&c->out, "approved", false);
    keel_json_str(&c->out, "basis", "supplied");
    keel_json_end(&c->out);
    close_answer(c, &r);
    return KEEL_OK;
}

/* ---- live form ---- */

static enum keel_status live_result(struct keel_call *c, struct risk_portfolio *p, struct result *r)
{
    struct risk_view v;
    struct risk_live_var var;

    if (risk_look(c->rt, c->state, p, NULL, c->arena, &v) != KEEL_OK)
        return keel_fail(c, KEEL_UNDEFINED, "the portfolio's exposure does not fit");
    risk_live_var(&v, c->arena, &var);
    *r = (struct result){.exposure = {v.totals.gross, v.totals.defined}, .value = {v.totals.equity, v.totals.defined},
                         .positions = v.totals.positions, .var_95 = var.var_95};
    if (v.totals.defined) {
        r->leverage = ratio(v.totals.gross, v.totals.equity);
        r->concentration = v.totals.gross > 0 ? ratio(v.totals.largest, v.totals.gross) : (struct risk_figure){0, true};
    }
    r->why_var = keel_arena_printf(c->arena, "%zu of %d returns", var.returns, RISK_MIN_RETURNS);
    return KEEL_OK;
}

struct verdict { struct risk_decision d; struct risk_order o; struct risk_portfolio *p; };

static void put_check(struct keel_json *w, const struct risk_check *k, const char *code)
{
    keel_json_obj(w, NULL);
    if (code)
        keel_json_str(w, "code", code);
    if (k) {
        keel_json_str(w, "limit_id", k->limit->id);
        if (!code)
            keel_json_str(w, "limit_type", name_of(&type_row, (int)k->limit->type));
        keel_json_money(w, "limit", k->limit->value);
        put_figure(w, "value", k->value);
        put_figure(w, "headroom", (struct risk_figure){k->headroom, k->value.defined});
    }
    keel_json_end(w);
}

static void put_decision(struct keel_call *c, const struct verdict *v)
{
    struct keel_json *w = &c->out;

    keel_json_obj(w, "decision");
    keel_json_bool(w, "approved", v->d.approved);
    keel_json_str(w, "basis", "live");
    keel_json_str(w, "trading_state", name_of(&state_row, (int)v->d.state));
    keel_json_str(w, "client_order_id", v->o.id);
    keel_json_bool(w, "reserved", v->d.held);
    keel_json_time(w, "as_of", keel_session_ns(c->rt));
    keel_json_arr(w, "checks");
    for (size_t i = 0; i < v->d.n_checks; i++)
        put_check(w, &v->d.check[i], NULL);
    keel_json_end(w);
    keel_json_arr(w, "denials");
    for (size_t i = 0; i < v->d.n_denials; i++)
        put_check(w, v->d.denial[i].check, v->d.denial[i].code);
    keel_json_end(w);
    keel_json_end(w);
}

static enum keel_status answer_order(struct keel_call *c)
{
    struct verdict *v = c->ctx;
    struct result r = {0};
    const char *id = v->p ? v->p->id : ((const struct risk_check_request *)c->arg)->portfolio_id;
    enum keel_status st = keel_wait_status(c);

    if (st != KEEL_OK)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL,
                            "the reservation could not be stored; nothing is reserved");
    if (v->p && (st = live_result(c, v->p, &r)) != KEEL_OK)
        return st;
    r.why_var = r.why_var ? r.why_var : "unknown portfolio";
    open_answer(c, id, &r);
    put_open_breaches(c, id);
    put_undefined(&c->out, &r);
    put_decision(c, v);
    close_answer(c, &r);
    return KEEL_OK;
}

static uint64_t hash_order(const char *portfolio, const struct risk_order_in *o, const char *symbol)
{
    char text[3][KEEL_DEC_TEXT];
    uint64_t h = risk_hash(risk_hash(risk_name_hash(portfolio), o->strategy_id), symbol);

    keel_dec_print(o->quantity, text[0]);
    keel_dec_print(o->has_price ? o->price : 0, text[1]);
    snprintf(text[2], sizeof text[2], "%d %d", o->side, o->order_type);
    h = risk_hash(risk_hash(risk_hash(h, text[0]), text[1]), text[2]);
    return h ? h : 1;
}

/* What the order itself breaks of limits about one order, which the sweep does not see. True: t has rows. */
static bool breaches_of_order(struct keel_call *c, struct keel_txn *t, const struct verdict *v)
{
    bool any = false;

    for (size_t i = 0; i < v->d.n_checks; i++) {
        const struct risk_check *k = &v->d.check[i];
        const struct risk_limit *l = k->limit;
        const char *detail = keel_arena_printf(c->arena, "order %s: limit %s is exceeded", v->o.id, l->id);

        if (k->ok || !k->value.defined || l->action == RISK_DENY || risk_limit_of_portfolio(l->type))
            continue;
        any |= risk_raise(c->rt, c->state, t, v->p->id, name_of(&type_row, (int)l->type), l->id, k->value.value,
                          l->value, l->action == RISK_WARN ? RISK_MEDIUM : RISK_CRITICAL, detail);
        if (l->action == RISK_REDUCE && risk_state_of(c->state, v->p->id, NULL) == RISK_ACTIVE) {
            risk_set_state(c->state, t, c, v->p->id, RISK_REDUCING, detail);
            any = true;
        }
    }
    return any;
}

/* Asked with reserve: what was decided leaves its marks before the answer does. */
static enum keel_status reserve(struct keel_call *c, struct verdict *v)
{
    struct risk_engine_state *s = c->state;
    const struct risk_options *opt = keel_options(c->rt);
    bool is_new = v->d.approved && !v->d.held;
    struct keel_txn *t;
    struct risk_entry *e;

    if (is_new && s->n_entries == (size_t)opt->max_orders)
        return keel_fail(c, KEEL_UNAVAILABLE, "max_orders hold headroom already");
    t = keel_txn_new(keel_store(c->rt));
    if (is_new) {
        e = risk_add_entry(c->rt, s, v->o.id);
        snprintf(e->portfolio, sizeof e->portfolio, "%s", v->p->id);
        snprintf(e->strategy, sizeof e->strategy, "%s", v->o.strategy);
        snprintf(e->symbol, sizeof e->symbol, "%s", v->o.symbol);
        e->side = v->o.side;
        e->phase = RISK_RESERVED;
        e->quantity = v->o.quantity;
        e->price = v->d.worst_price;
        e->created_ns = c->wall_ns;
        e->body = v->o.body;
        risk_save_entry(t, e);
        risk_count_order(c->rt, v->p, &v->o);
        v->d.held = true;
    }
    /* A repeat has nothing to write, yet its answer must not overtake the commit of the first. */
    if (!breaches_of_order(c, t, v) && !v->d.held) {
        keel_txn_drop(t);
        return answer_order(c);
    }
    return keel_await_store(c, t, answer_order);
}

static enum keel_status check_order(struct keel_call *c, const struct risk_check_request *q)
{
    struct risk_engine_state *s = c->state;
    const struct risk_order_in *o = &q->order;
    struct verdict *v = keel_arena_alloc(c->arena, sizeof *v);
    const struct risk_entry *e = risk_find_entry(s, o->client_order_id);
    const char *symbol = risk_symbol_of(c->arena, o->symbol);
    static const int market = 0;

    if (!symbol)
        return risk_bad_symbol(c, "order.symbol");
    if (o->order_type != market && !o->has_price)
        return keel_fail_as(c, KEEL_INVALID, "missing", "order.price", "a LIMIT order needs a price");
    v->p = risk_find_portfolio(s, q->portfolio_id);
    v->o = (struct risk_order){.id = o->client_order_id, .strategy = o->strategy_id, .symbol = symbol, .side = o->side,
                               .quantity = o->quantity, .price = o->order_type == market ? 0 : o->price,
                               .reduce_only = o->reduce_only, .body = hash_order(q->portfolio_id, o, symbol)};
    c->ctx = v;
    if (e && e->body != v->o.body)
        return keel_fail_as(c, KEEL_CONFLICT, "idempotency_conflict", "order.client_order_id",
                            "%s was checked with another body", v->o.id);
    if (e ? e->phase == RISK_ENDED : risk_was_seen(&s->ended, v->o.id, ""))
        return keel_fail_as(c, KEEL_CONFLICT, "order_ended", "order.client_order_id", "%s has ended already", v->o.id);
    if (!v->p) {
        v->d = (struct risk_decision){.denial = keel_arena_alloc(c->arena, sizeof *v->d.denial), .n_denials = 1,
                                      .state = risk_state_of(s, q->portfolio_id, NULL)};
        v->d.denial[0].code = "UNKNOWN_PORTFOLIO";
        return answer_order(c);
    }
    risk_decide(c->rt, s, v->p, &v->o, c->arena, &v->d);
    return q->reserve ? reserve(c, v) : answer_order(c);
}

enum keel_status api_check(struct keel_call *c)
{
    const struct risk_check_request *q = c->arg;
    struct risk_portfolio *p;
    struct result r;
    enum keel_status st;

    if (q->has_order && (q->has_positions || q->has_portfolio_value))
        return keel_fail_as(c, KEEL_INVALID, "conflict", "order",
                            "order goes with neither positions nor portfolio_value");
    if (q->has_order)
        return check_order(c, q);
    if (q->has_positions || q->has_portfolio_value)
        return check_supplied(c, q);
    if (!(p = risk_find_portfolio(c->state, q->portfolio_id)))
        return risk_unknown_portfolio(c, q->portfolio_id);
    if ((st = live_result(c, p, &r)) != KEEL_OK)
        return st;
    open_answer(c, p->id, &r);
    put_open_breaches(c, p->id);
    put_undefined(&c->out, &r);
    close_answer(c, &r);
    return KEEL_OK;
}

/* ---- report ---- */

enum keel_status api_report(struct keel_call *c)
{
    const struct risk_report_request *q = c->arg;
    struct risk_engine_state *s = c->state;
    struct risk_portfolio *p = risk_find_portfolio(s, q->portfolio_id);
    struct keel_json *w = &c->out;
    struct risk_view v;
    struct risk_live_var var;
    int64_t reserved = 0, open = 0;

    if (!p)
        return risk_unknown_portfolio(c, q->portfolio_id);
    if (risk_look(c->rt, s, p, NULL, c->arena, &v) != KEEL_OK)
        return keel_fail(c, KEEL_UNDEFINED, "the portfolio's exposure does not fit");
    risk_live_var(&v, c->arena, &var);
    for (size_t i = 0; i < s->n_entries; i++)
        if (strcmp(s->entry[i].portfolio, p->id) == 0) {
            reserved += s->entry[i].phase == RISK_RESERVED;
            open += s->entry[i].phase != RISK_RESERVED;
        }
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "portfolio_id", p->id);
    keel_json_arr(w, "positions");
    for (size_t i = 0; i < v.n; i++) {
        keel_i128 money;
        if (v.line[i].position == 0)
            continue;
        keel_json_obj(w, NULL);
        keel_json_str(w, "symbol", v.symbol[i]->name);
        keel_json_dec(w, "quantity", v.line[i].position);
        if (v.line[i].has_mark && risk_value(&v.line[i], v.line[i].position, &money) == KEEL_OK) {
            keel_json_dec(w, "mark", v.line[i].mark);
            keel_json_money(w, "market_value", money);
        } else {
            keel_json_null(w, "mark");
            keel_json_null(w, "market_value");
        }
        keel_json_end(w);
    }
    keel_json_end(w);
    keel_json_i64(w, "fills", p->fills);
    keel_json_i64(w, "reservations", reserved);
    keel_json_i64(w, "open_orders", open);
    keel_json_money(w, "cash", p->cash);
    put_figure(w, "equity", (struct risk_figure){v.totals.equity, v.totals.defined});
    put_figure(w, "gross_exposure", (struct risk_figure){v.totals.gross, v.totals.defined});
    put_figure(w, "worst_gross_exposure", (struct risk_figure){v.totals.worst_gross, v.totals.worst_defined});
    keel_json_str(w, "trading_state", name_of(&state_row, (int)risk_state_of(s, p->id, NULL)));
    keel_json_arr(w, "limits");
    for (size_t i = 0; i < s->n_limits; i++) {
        const struct risk_limit *l = &s->limit[i];
        struct risk_check check;
        if (!risk_limit_of_portfolio(l->type) || l->strategy[0] || !risk_limit_applies(l, p->id, "", l->symbol))
            continue;
        risk_limit_check(l, risk_portfolio_figure(p, &v, l, &var), &check);
        put_check(w, &check, NULL);
    }
    keel_json_end(w);
    put_open_breaches(c, p->id);
    keel_json_obj(w, "var");
    put_loss(w, "var_95", var.var_95);
    put_loss(w, "expected_shortfall_95", var.es_95);
    put_loss(w, "var_99", var.var_99);
    put_loss(w, "expected_shortfall_99", var.es_99);
    keel_json_i64(w, "returns", (int64_t)var.returns);
    keel_json_end(w);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_end(w);
    return KEEL_OK;
}

/* ---- limits ---- */

static void put_limit(struct keel_json *w, const char *key, const struct risk_limit *l)
{
    keel_json_obj(w, key);
    keel_json_str(w, "limit_id", l->id);
    keel_json_str(w, "limit_type", name_of(&type_row, (int)l->type));
    keel_json_moneynum(w, "limit_value", l->value);
    keel_json_bool(w, "enabled", l->enabled);
    keel_json_str(w, "action", name_of(&action_row, (int)l->action));
    keel_json_str(w, "portfolio_id", l->portfolio[0] ? l->portfolio : NULL);
    keel_json_str(w, "strategy_id", l->strategy[0] ? l->strategy : NULL);
    keel_json_str(w, "symbol", l->symbol[0] ? l->symbol : NULL);
    keel_json_end(w);
}

static struct risk_limit *find_limit(struct risk_engine_state *s, const char *id)
{
    for (size_t i = 0; i < s->n_limits; i++)
        if (strcmp(s->limit[i].id, id) == 0)
            return &s->limit[i];
    return NULL;
}

enum keel_status api_limits_list(struct keel_call *c)
{
    const struct risk_limits_query *q = c->arg;
    struct risk_engine_state *s = c->state;
    const struct risk_limit *last = q->has_after ? find_limit(s, q->after) : NULL;
    size_t i = last ? (size_t)(last - s->limit) : s->n_limits;
    int64_t n = 0;

    if (q->has_after && !last)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "after", "no limit %s: begin anew", q->after);
    keel_json_obj(&c->out, NULL);
    keel_json_arr(&c->out, "limits");
    for (last = NULL; i > 0; i--) {
        const struct risk_limit *l = &s->limit[i - 1];
        if (q->has_portfolio_id && strcmp(l->portfolio, q->portfolio_id) != 0)
            continue;
        if (n == q->limit)
            break;
        put_limit(&c->out, NULL, l);
        last = l;
        n++;
    }
    keel_json_end(&c->out);
    keel_json_i64(&c->out, "count", n);
    keel_json_str(&c->out, "next", i > 0 && last ? last->id : NULL);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status stored(struct keel_call *c)
{
    return keel_wait_status(c) == KEEL_OK
               ? KEEL_OK
               : keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL, "the change was not stored");
}

enum keel_status api_limits_put(struct keel_call *c)
{
    const struct risk_limit_row *q = c->arg;
    const struct risk_options *o = keel_options(c->rt);
    struct risk_engine_state *s = c->state;
    struct risk_limit *l = find_limit(s, q->limit_id), next = {.type = (enum risk_limit_type)q->limit_type,
                                                               .enabled = q->enabled,
                                                               .action = (enum risk_action)q->action};
    const char *symbol = q->has_symbol ? risk_symbol_of(c->arena, q->symbol) : "";
    struct keel_txn *t;

    if (!symbol)
        return risk_bad_symbol(c, "symbol");
    next.value = risk_limit_magnitude(next.type, q->limit_value);
    if (next.value < 0)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "limit_value", "limit_value must be >= 0");
    if (next.type == RISK_ORDER_RATE && next.value > (keel_i128)RISK_RATE * KEEL_SCALE)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "limit_value", "at most %d orders a second are counted",
                            RISK_RATE);
    if (!l && s->n_limits == (size_t)o->max_limits)
        return keel_fail_as(c, KEEL_CONFLICT, "too_many_limits", NULL, "there are max_limits (%zu) already",
                            s->n_limits);
    snprintf(next.id, RISK_ID, "%s", q->limit_id);
    snprintf(next.portfolio, RISK_ID, "%s", q->portfolio_id);
    snprintf(next.strategy, RISK_ID, "%s", q->strategy_id);
    snprintf(next.symbol, RISK_SYMBOL, "%s", symbol);
    t = keel_txn_new(keel_store(c->rt));
    keel_txn_exec(
        t,
        "INSERT INTO limits(limit_id, limit_type, limit_value, enabled, action, portfolio_id, strategy_id, symbol)"
        " VALUES(?,?,?,?,?,?,?,?) ON CONFLICT(limit_id) DO UPDATE SET limit_type = excluded.limit_type,"
        " limit_value = excluded.limit_value, enabled = excluded.enabled, action = excluded.action,"
        " portfolio_id = excluded.portfolio_id, strategy_id = excluded.strategy_id, symbol = excluded.symbol",
        "ssmiisss", next.id, name_of(&type_row, (int)next.type), &next.value, (int64_t)next.enabled,
        (int64_t)next.action, next.portfolio, next.strategy, next.symbol);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", l ? "updated" : "created");
    put_limit(&c->out, "limit", &next);
    keel_json_str(&c->out, "limit_id", next.id);
    keel_write_ignored(c);
    keel_json_end(&c->out);
    *(l ? l : &s->limit[s->n_limits++]) = next;
    return keel_await_store(c, t, stored);
}

enum keel_status api_limits_delete(struct keel_call *c)
{
    const struct risk_limit_ref *q = c->arg;
    struct risk_engine_state *s = c->state;
    struct risk_limit *l = find_limit(s, q->limit_id);
    struct keel_txn *t;

    if (!l)
        return keel_fail_as(c, KEEL_NOTFOUND, "unknown_limit", "limit_id", "no limit %s", q->limit_id);
    t = keel_txn_new(keel_store(c->rt));
    keel_txn_exec(t, "DELETE FROM limits WHERE limit_id = ?", "s", l->id);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "deleted");
    keel_json_str(&c->out, "limit_id", l->id);
    keel_json_end(&c->out);
    memmove(l, l + 1, (size_t)(&s->limit[--s->n_limits] - l) * sizeof *l);
    return keel_await_store(c, t, stored);
}

/* ---- breaches ---- */

static enum keel_status breaches_read(struct keel_call *c)
{
    const struct risk_breach_query *q = c->arg;
    struct keel_json *w = &c->out;
    const char *last = NULL;
    int64_t n = 0;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL, "the breaches could not be read");
    keel_json_obj(w, NULL);
    keel_json_arr(w, "breaches");
    for (size_t i = 0; i < c->rows->n && n < q->limit; i++, n++) {
        int64_t at = 0;
        int64_t severity = 0;
        keel_json_obj(w, NULL);
        keel_json_str(w, "breach_id", KEEL_CELL(c->rows, i, 1));
        keel_json_str(w, "portfolio_id", KEEL_CELL(c->rows, i, 2));
        keel_json_str(w, "breach_type", KEEL_CELL(c->rows, i, 3));
        keel_json_str(w, "limit_id", KEEL_CELL(c->rows, i, 4));
        keel_json_raw(w, "current_value", KEEL_CELL(c->rows, i, 5), strlen(KEEL_CELL(c->rows, i, 5)));
        keel_json_raw(w, "limit_value", KEEL_CELL(c->rows, i, 6), strlen(KEEL_CELL(c->rows, i, 6)));
        (void)keel_i64_parse(KEEL_CELL(c->rows, i, 7), strlen(KEEL_CELL(c->rows, i, 7)), &severity);
        keel_json_str(w, "severity", name_of(&severity_row, (int)severity));
        keel_json_str(w, "detail", KEEL_CELL(c->rows, i, 8));
        (void)keel_i64_parse(KEEL_CELL(c->rows, i, 9), strlen(KEEL_CELL(c->rows, i, 9)), &at);
        keel_json_time(w, "ts_event", at);
        keel_json_bool(w, "resolved", KEEL_CELL(c->rows, i, 10) != NULL);
        keel_json_end(w);
        last = KEEL_CELL(c->rows, i, 0);
    }
    keel_json_end(w);
    keel_json_i64(w, "count", n);
    keel_json_str(w, "next", c->rows->n > (size_t)q->limit ? last : NULL);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_breaches(struct keel_call *c)
{
    const struct risk_breach_query *q = c->arg;

    return keel_await_read(
        c,
        "SELECT n, breach_id, portfolio_id, breach_type, limit_id, current_value, limit_value, severity, detail,"
        " opened_ns, resolved_ns FROM breaches WHERE n < ? AND (? = '' OR portfolio_id = ?)"
        " AND (? = 0 OR (resolved_ns IS NULL) = ?) ORDER BY n DESC LIMIT ?",
        "issiii", breaches_read, q->has_after ? q->after : INT64_MAX, q->portfolio_id, q->portfolio_id,
        (int64_t)q->has_open, (int64_t)q->open, q->limit + 1);
}

enum keel_status api_resolve(struct keel_call *c)
{
    const struct risk_breach_ref *q = c->arg;
    struct risk_engine_state *s = c->state;
    struct keel_txn *t;

    for (size_t i = 0; i < s->n_breaches; i++) {
        struct risk_breach *b = &s->breach[i];
        struct keel_breach rec;
        if (strcmp(b->id, q->breach_id) != 0)
            continue;
        t = keel_txn_new(keel_store(c->rt));
        keel_txn_exec(t, "UPDATE breaches SET resolved_ns = ? WHERE breach_id = ?", "is", c->wall_ns, b->id);
        rec = (struct keel_breach){.breach_id = b->id,
                                   .has_breach_id = true,
                                   .portfolio_id = b->portfolio,
                                   .has_portfolio_id = true,
                                   .breach_type = b->type,
                                   .has_breach_type = true,
                                   .current_value = b->current,
                                   .has_current_value = true,
                                   .limit_value = b->limit,
                                   .has_limit_value = true,
                                   .severity = b->severity,
                                   .has_severity = true,
                                   .resolved = true,
                                   .has_resolved = true};
        keel_txn_publish(t, c, "risk.critical.breach", b->portfolio, 0, 0, &rec);
        keel_json_obj(&c->out, NULL);
        keel_json_str(&c->out, "status", "resolved");
        keel_json_str(&c->out, "breach_id", b->id);
        keel_json_end(&c->out);
        *b = s->breach[--s->n_breaches];
        return keel_await_store(c, t, stored);
    }
    return keel_fail_as(c, KEEL_NOTFOUND, "unknown_breach", "breach_id", "no open breach %s", q->breach_id);
}

/* ---- trading state ---- */

/* The state that holds; the list is what single portfolios are held to on their own. */
enum keel_status api_state_get(struct keel_call *c)
{
    const struct risk_state_query *q = c->arg;
    struct risk_engine_state *s = c->state;
    struct keel_json *w = &c->out;
    const char *reason = s->scope[0].reason;
    enum risk_state state = q->has_portfolio_id ? risk_state_of(s, q->portfolio_id, &reason) : s->scope[0].state;

    keel_json_obj(w, NULL);
    keel_json_str(w, "state", name_of(&state_row, (int)state));
    keel_json_str(w, "portfolio_id", q->has_portfolio_id ? q->portfolio_id : NULL);
    keel_json_str(w, "reason", reason);
    keel_json_bool(w, "strategy_knows", s->scope[0].told);
    keel_json_arr(w, "portfolios");
    for (size_t i = 1; i < s->n_scopes; i++) {
        const struct risk_scope *sc = &s->scope[i];
        keel_json_obj(w, NULL);
        keel_json_str(w, "portfolio_id", sc->portfolio);
        keel_json_str(w, "state", name_of(&state_row, (int)sc->state));
        keel_json_str(w, "reason", sc->reason);
        keel_json_bool(w, "strategy_knows", sc->told);
        keel_json_end(w);
    }
    keel_json_end(w);
    keel_json_end(w);
    return KEEL_OK;
}

/* Strategy hears of it at once; the timer asks again until it knows. */
static enum keel_status state_stored(struct keel_call *c)
{
    enum keel_status st = stored(c);

    if (st == KEEL_OK)
        (void)keel_spawn(c, "tell", NULL);
    return st;
}

enum keel_status api_state_put(struct keel_call *c)
{
    const struct risk_state_request *q = c->arg;
    struct risk_engine_state *s = c->state;
    const struct risk_scope *now = risk_scope_of(s, q->portfolio_id, false);
    enum risk_state next = (enum risk_state)q->state, is = now ? now->state : RISK_ACTIVE;
    enum keel_scope scope = keel_call_scope(c);
    const struct risk_options *opt = keel_options(c->rt);
    struct keel_txn *t;

    if (!now && !risk_find_portfolio(s, q->portfolio_id) && s->n_scopes > (size_t)opt->max_portfolios)
        return keel_fail_as(c, KEEL_CONFLICT, "too_many_portfolios", "portfolio_id",
                            "max_portfolios have a state already");
    /* Latched: every step towards more freedom needs an admin who says why. */
    if (next < is && scope != KEEL_SCOPE_ADMIN)
        return keel_fail_as(c, KEEL_FORBIDDEN, "admin_needed", "state", "from %s to %s needs admin scope",
                            name_of(&state_row, (int)is), name_of(&state_row, (int)next));
    if (next < is && !*q->reason)
        return keel_fail_as(c, KEEL_INVALID, "missing", "reason", "from %s to %s needs a reason",
                            name_of(&state_row, (int)is), name_of(&state_row, (int)next));
    t = keel_txn_new(keel_store(c->rt));
    risk_set_state(s, t, c, q->portfolio_id, next, q->reason);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "set");
    keel_json_str(&c->out, "state", name_of(&state_row, (int)next));
    keel_json_str(&c->out, "portfolio_id", q->has_portfolio_id ? q->portfolio_id : NULL);
    keel_json_str(&c->out, "before", name_of(&state_row, (int)is));
    keel_json_str(&c->out, "reason", q->reason);
    keel_json_end(&c->out);
    return keel_await_store(c, t, state_stored);
}
