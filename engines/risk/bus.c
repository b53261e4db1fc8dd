/* What the bus brings to risk, and its timers. An effect is one transaction, and its applied-mark travels with it. */
#include "ops.h"

#include <stdio.h>
#include <string.h>

#include "keel/clock.h"

#define LOOKUPS_A_TICK 20
#define SWEEP_AT_A_TIME 16
#define VAR_EVERY_NS 10000000000LL

static enum keel_status committed(struct keel_call *c)
{
    return keel_wait_status(c);
}

static enum keel_status commit(struct keel_call *c, struct keel_txn *t)
{
    return keel_await_store(c, t, committed);
}

static bool is_terminal(int state)
{
    static const char *const names[] = {"DENIED", "REJECTED", "FILLED", "CANCELED", "EXPIRED"};

    for (size_t i = 0; i < KEEL_COUNT(names); i++)
        if (state == keel_enum_index(KEEL_ORDER_STATES, names[i], strlen(names[i])))
            return true;
    return false;
}

/* The entry of an order or a fill, made when it is not there. NULL: it ended before, or the table is full (*full). */
static struct risk_entry *entry_for(struct keel_call *c, const char *id, const char *portfolio, const char *strategy,
                                    const char *symbol, int side, bool *full)
{
    struct risk_engine_state *s = c->state;
    struct risk_entry *e = risk_find_entry(s, id);

    *full = false;
    if (e)
        return e;
    if (risk_was_seen(&s->ended, id, ""))
        return NULL;
    e = risk_add_entry(c->rt, s, id);
    if (!e) {
        *full = true;
        return NULL;
    }
    snprintf(e->portfolio, sizeof e->portfolio, "%s", portfolio);
    snprintf(e->strategy, sizeof e->strategy, "%s", strategy);
    snprintf(e->symbol, sizeof e->symbol, "%s", symbol);
    e->side = side;
    e->phase = RISK_FOUND;
    e->created_ns = c->wall_ns;
    return e;
}

static void save_and_drop(struct risk_engine_state *s, struct keel_txn *t, struct risk_entry *e)
{
    risk_save_entry(t, e);
    if (!risk_entry_done(e))
        return;
    risk_mark_seen(&s->ended, e->id, "");
    risk_drop_entry(s, e);
}

/* After a change of either figure: how long they have differed by as much as they do. */
static void compare(struct risk_holding *h, int64_t now_ns)
{
    int64_t differs = 0;

    if (h->has_theirs && keel_dec_sub(h->theirs, h->quantity, &differs) != KEEL_OK)
        differs = INT64_MAX;
    if (differs != h->differs)
        h->differs_since_ns = differs != 0 ? now_ns : 0;
    h->differs = differs;
}

/* Fills and adjustments by their identity; memory and file forget the oldest together. */
static void remember_trade(struct risk_engine_state *s, struct keel_txn *t, const char *venue, const char *trade_id)
{
    risk_mark_seen(&s->trades, venue, trade_id);
    keel_txn_exec(t, "INSERT OR IGNORE INTO trades(venue, trade_id) VALUES(?,?)", "ss", venue, trade_id);
    keel_txn_exec(t, "DELETE FROM trades WHERE n <= (SELECT max(n) FROM trades) - 262144", "");
}

/* Under what a trade is remembered that portfolio was the first to tell of; no venue of strategy's is named so. */
static const char *foreign(struct keel_call *c, const char *venue)
{
    return keel_arena_printf(c->arena, "portfolio: %s", venue);
}

enum keel_status bus_order(struct keel_call *c)
{
    const struct keel_order *o = c->arg;
    struct risk_engine_state *s = c->state;
    struct keel_txn *t;
    struct risk_entry *e;
    bool full, ended = is_terminal(o->state);

    e = entry_for(c, o->client_order_id, o->portfolio_id, o->strategy_id, o->symbol, o->side, &full);
    if (full)
        return keel_fail(c, KEEL_UNAVAILABLE, "max_orders hold headroom already");
    t = keel_txn_new(keel_store(c->rt));
    if (e) {
        risk_entry_record(e, ended, o->quantity, o->filled_quantity);
        if (o->has_price && o->price > 0)
            e->price = o->price;
        save_and_drop(s, t, e);
    }
    return commit(c, t);
}

/* Day and base of the loss limit: what was put in, until a UTC day of the session begins with a defined equity. */
static bool roll_day(struct keel_call *c, struct risk_portfolio *p)
{
    const struct risk_engine_state *s = c->state;
    struct risk_view v;
    int64_t day = keel_session_ns(c->rt) / 86400000000000LL;

    /* Before the market's first record there is no session, only the machine's clock. */
    if (!s->has_market || day == p->day)
        return false;
    if (p->day == INT64_MIN) {
        p->day = day;
        return true;
    }
    if (risk_look(c->rt, c->state, p, NULL, c->arena, &v) != KEEL_OK || !v.totals.defined)
        return false;
    p->day = day;
    p->base = v.totals.equity;
    return true;
}

/* Cash and position once the fill has reached them. */
static enum keel_status after_fill(const struct risk_portfolio *p, const struct risk_holding *h,
                                   const struct keel_fill *f, keel_i128 *cash, int64_t *quantity)
{
    bool buy = f->side == RISK_SIDE_BUY;
    enum keel_status st;
    keel_i128 notional;

    if ((st = keel_notional(f->price, f->quantity, KEEL_SCALE, &notional)) != KEEL_OK ||
        (st = buy ? keel_money_sub(p->cash, notional, cash) : keel_money_add(p->cash, notional, cash)) != KEEL_OK ||
        (st = keel_money_sub(*cash, f->fee.amount, cash)) != KEEL_OK)
        return st;
    return buy ? keel_dec_add(h->quantity, f->quantity, quantity) : keel_dec_sub(h->quantity, f->quantity, quantity);
}

/* A fill that somebody gave to portfolio before strategy told of it is in the position already, but not in its order. */
enum keel_status bus_fill(struct keel_call *c)
{
    const struct keel_fill *f = c->arg;
    struct risk_engine_state *s = c->state;
    struct risk_portfolio *p = risk_make_portfolio(c->rt, s, f->portfolio_id);
    struct risk_symbol *sym = risk_find_symbol(c->rt, s, f->symbol, true);
    struct risk_holding *h;
    struct risk_entry *e;
    struct keel_txn *t;
    keel_i128 cash;
    int64_t quantity;
    bool full, applied = risk_was_seen(&s->trades, foreign(c, f->venue), f->trade_id);

    if (!p || !sym)
        return keel_fail(c, KEEL_UNAVAILABLE, "no room for another portfolio or symbol");
    if (risk_was_seen(&s->trades, f->venue, f->trade_id))
        return commit(c, keel_txn_new(keel_store(c->rt)));
    if (f->fee.amount != 0 && p->currency[0] && strcmp(f->fee.currency, p->currency) != 0)
        return keel_fail_as(c, KEEL_UNDEFINED, "no_fx_rate", "fee.currency", "no rate from %s to %s is known",
                            f->fee.currency, p->currency);
    h = risk_holding_of(p, sym, true);
    if (after_fill(p, h, f, &cash, &quantity) != KEEL_OK)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "quantity", "the fill does not fit the portfolio's money");
    e = entry_for(c, f->client_order_id, f->portfolio_id, f->strategy_id, f->symbol, f->side, &full);
    if (full)
        return keel_fail(c, KEEL_UNAVAILABLE, "max_orders hold headroom already");
    t = keel_txn_new(keel_store(c->rt));
    (void)roll_day(c, p);
    if (!applied) {
        p->cash = cash;
        h->quantity = quantity;
    }
    p->fills++;
    compare(h, c->start_ns);
    remember_trade(s, t, f->venue, f->trade_id);
    if (e) {
        risk_entry_fill(e, f->quantity);
        save_and_drop(s, t, e);
    }
    risk_save_holding(t, p, h);
    risk_save_portfolio(t, p);
    return commit(c, t);
}

enum keel_status bus_adjustment(struct keel_call *c)
{
    const struct keel_adjustment *a = c->arg;
    struct risk_engine_state *s = c->state;
    struct risk_portfolio *p = risk_make_portfolio(c->rt, s, a->portfolio_id);
    struct risk_symbol *sym = a->has_symbol ? risk_find_symbol(c->rt, s, a->symbol, true) : NULL;
    struct risk_holding *h = NULL;
    struct keel_txn *t;
    keel_i128 cash, put_in = a->cash, cost = 0;
    int64_t quantity = 0;

    if (!p || (a->has_symbol && !sym))
        return keel_fail(c, KEEL_UNAVAILABLE, "no room for another portfolio or symbol");
    /* No venue has an empty name, so an adjustment is no trade's namesake. */
    if (risk_was_seen(&s->trades, "", a->adjustment_id) ||
        (a->has_trade_id && risk_was_seen(&s->trades, a->venue, a->trade_id)))
        return commit(c, keel_txn_new(keel_store(c->rt)));
    if (sym) {
        h = risk_holding_of(p, sym, true);
        if (keel_dec_add(h->quantity, a->quantity, &quantity) != KEEL_OK ||
            keel_notional(a->price, a->quantity, KEEL_SCALE, &cost) != KEEL_OK)
            return keel_fail_as(c, KEEL_INVALID, "out_of_range", "quantity", "the adjustment does not fit");
    }
    /* A foreign fill pays with cash for what it brings, so it puts nothing in but its fee. */
    if (keel_money_add(p->cash, a->cash, &cash) != KEEL_OK || keel_money_add(put_in, cost, &put_in) != KEEL_OK ||
        keel_money_add(p->base, put_in, &put_in) != KEEL_OK)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "cash",
                            "the adjustment does not fit the portfolio's money");
    t = keel_txn_new(keel_store(c->rt));
    snprintf(p->currency, sizeof p->currency, "%s", a->currency);
    p->cash = cash;
    if (a->kind != keel_enum_index("OPENING|FILL|CASH", "FILL", 4))
        p->base = put_in;
    if (h) {
        h->quantity = quantity;
        compare(h, c->start_ns);
        risk_save_holding(t, p, h);
    }
    remember_trade(s, t, "", a->adjustment_id);
    if (a->has_trade_id)
        remember_trade(s, t, foreign(c, a->venue), a->trade_id);
    risk_save_portfolio(t, p);
    return commit(c, t);
}

enum keel_status bus_position(struct keel_call *c)
{
    const struct keel_position *r = c->arg;
    struct risk_engine_state *s = c->state;
    struct risk_portfolio *p = risk_find_portfolio(s, r->portfolio_id);
    struct risk_symbol *sym = risk_find_symbol(c->rt, s, r->symbol, true);
    struct risk_holding *h = p && sym ? risk_holding_of(p, sym, true) : NULL;

    if (h) {
        h->theirs = r->quantity;
        h->has_theirs = true;
        compare(h, c->start_ns);
    }
    return KEEL_OK;
}

/* ---- prices ---- */

static struct risk_symbol *priced(struct keel_call *c, const char *symbol)
{
    struct risk_engine_state *s = c->state;

    s->has_market = true;
    return risk_find_symbol(c->rt, s, symbol, true);
}

enum keel_status bus_quote(struct keel_call *c)
{
    const struct keel_quote *q = c->arg;
    struct risk_symbol *sym = priced(c, q->symbol);
    int64_t sum;

    if (sym && q->bid > 0 && q->ask >= q->bid && keel_dec_add(q->bid, q->ask, &sum) == KEEL_OK) {
        sym->mid = sum / 2;
        sym->mid_ts = c->rec->ts_init;
    }
    return KEEL_OK;
}

enum keel_status bus_trade(struct keel_call *c)
{
    const struct keel_trade *t = c->arg;
    struct risk_symbol *sym = priced(c, t->symbol);

    if (sym && t->price > 0) {
        sym->last = t->price;
        sym->last_ts = c->rec->ts_init;
    }
    return KEEL_OK;
}

enum keel_status bus_bar(struct keel_call *c)
{
    const struct keel_bar *b = c->arg;
    const struct risk_options *o = keel_options(c->rt);
    struct risk_symbol *sym = priced(c, b->symbol);

    if (!sym || b->close <= 0)
        return KEEL_OK;
    sym->bar = b->close;
    sym->bar_ts = c->rec->ts_init;
    if (strcmp(b->spec, o->var_spec) == 0)
        risk_closes_add(&sym->closes, b->ts_close, keel_dec_to_f64(b->close));
    return KEEL_OK;
}

/* ---- timers ---- */

static bool sweep_mismatch(struct keel_call *c, struct keel_txn *t, struct risk_portfolio *p)
{
    const struct risk_options *o = keel_options(c->rt);
    bool raised = false;

    for (size_t i = 0; i < p->n_holdings; i++) {
        const struct risk_holding *h = &p->holding[i];
        char theirs[KEEL_DEC_TEXT], ours[KEEL_DEC_TEXT];

        if (h->differs_since_ns == 0 || c->start_ns - h->differs_since_ns < o->mismatch_ms * 1000000)
            continue;
        keel_dec_print(h->theirs, theirs);
        keel_dec_print(h->quantity, ours);
        raised |= risk_raise(
            c->rt, c->state, t, p->id, "position_mismatch", keel_arena_printf(c->arena, "mismatch:%s", h->symbol->name),
            h->theirs, h->quantity, RISK_CRITICAL,
            keel_arena_printf(c->arena, "%s: portfolio holds %s, risk %s", h->symbol->name, theirs, ours));
    }
    return raised;
}

static bool sweep_limits(struct keel_call *c, struct keel_txn *t, struct risk_portfolio *p)
{
    static const struct keel_field row = {.unit = RISK_LIMIT_TYPES};
    struct risk_engine_state *s = c->state;
    struct risk_view v;
    struct risk_live_var var;
    bool changed = false, has_var = false;
    char type[32];

    if (risk_look(c->rt, s, p, NULL, c->arena, &v) != KEEL_OK)
        return false;
    for (size_t i = 0; i < s->n_limits; i++) {
        const struct risk_limit *l = &s->limit[i];
        const char *detail = "";
        struct risk_check check;

        if (!risk_limit_of_portfolio(l->type) || l->strategy[0] || !risk_limit_applies(l, p->id, "", l->symbol))
            continue;
        if (!has_var && (l->type == RISK_VAR_95 || l->type == RISK_VAR_99)) {
            risk_live_var(&v, c->arena, &var);
            has_var = true;
        }
        risk_limit_check(l, risk_portfolio_figure(p, &v, l, &var), &check);
        if (check.ok || !check.value.defined)
            continue;
        detail = keel_arena_printf(c->arena, "limit %s is exceeded", l->id);
        changed |=
            risk_raise(c->rt, s, t, p->id, keel_enum_name(&row, (int)l->type, type, sizeof type), l->id,
                       check.value.value, l->value, l->action == RISK_WARN ? RISK_MEDIUM : RISK_CRITICAL, detail);
        if (l->action == RISK_REDUCE && risk_state_of(s, p->id, NULL) == RISK_ACTIVE) {
            risk_set_state(s, t, c, p->id, RISK_REDUCING, detail);
            changed = true;
        }
    }
    return changed;
}

static enum keel_status publish_var(struct keel_call *c, struct risk_portfolio *p)
{
    struct risk_view v;
    struct risk_live_var var;
    int64_t now = keel_session_ns(c->rt);
    struct keel_var rec;

    if (!((struct risk_engine_state *)c->state)->has_market || now - p->var_at_ns < VAR_EVERY_NS ||
        risk_look(c->rt, c->state, p, NULL, c->arena, &v) != KEEL_OK || v.totals.positions == 0)
        return KEEL_OK;
    p->var_at_ns = now;
    risk_live_var(&v, c->arena, &var);
    rec = (struct keel_var){.portfolio_id = p->id, .has_portfolio_id = true, .method = "historical", .has_method = true,
                            .var_95 = keel_money_to_f64(var.var_95.value), .has_var_95 = var.var_95.defined,
                            .es_95 = keel_money_to_f64(var.es_95.value), .has_es_95 = var.es_95.defined,
                            .var_99 = keel_money_to_f64(var.var_99.value), .has_var_99 = var.var_99.defined,
                            .es_99 = keel_money_to_f64(var.es_99.value), .has_es_99 = var.es_99.defined,
                            .returns = (int64_t)var.returns, .has_returns = true};
    return keel_publish(c, "risk.priority.var", p->id, now, 0, &rec);
}

/* A few portfolios a time, so that no tick takes long: with more of them each is looked at less often. */
enum keel_status timer_sweep(struct keel_call *c)
{
    struct risk_engine_state *s = c->state;
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));
    bool changed = false;

    for (size_t i = 0; i < s->n_portfolios && i < SWEEP_AT_A_TIME; i++) {
        struct risk_portfolio *p = &s->portfolio[s->sweep_at++ % s->n_portfolios];
        if (roll_day(c, p)) {
            risk_save_portfolio(t, p);
            changed = true;
        }
        changed |= sweep_mismatch(c, t, p);
        changed |= sweep_limits(c, t, p);
        /* A full outbox only means that this figure comes a second later. */
        (void)publish_var(c, p);
    }
    if (changed)
        return commit(c, t);
    keel_txn_drop(t);
    return KEEL_OK;
}

struct lookup { char id[LOOKUPS_A_TICK][RISK_ID]; size_t n, at; };

/* Neither an order nor a fill says yet how much of it may come. */
static bool is_doubtful(const struct risk_entry *e)
{
    return e->phase == RISK_RESERVED || e->phase == RISK_FOUND;
}

static const char *escaped(struct keel_arena *a, const char *text)
{
    char *out = keel_arena_alloc(a, 3 * strlen(text) + 1), *to = out;

    for (; *text; text++) {
        unsigned char ch = (unsigned char)*text;
        bool plain =
            (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || strchr("-._~", ch);
        to += snprintf(to, 4, plain ? "%c" : "%%%02X", ch);
    }
    return out;
}

/* Strategy's answer on an order, read into its entry. False: it says nothing that can be used. */
static bool take_order(const struct keel_jval *answer, struct risk_entry *e)
{
    const struct keel_jval *o = keel_jget(answer, "order") ? keel_jget(answer, "order") : answer;
    const char *state = keel_jstr(o, "state"), *filled = keel_jstr(o, "filled_quantity"),
               *asked = keel_jstr(o, "quantity");
    int at = keel_enum_index(KEEL_ORDER_STATES, state, strlen(state));
    int64_t done, quantity;

    if (at < 0 || keel_dec_parse(filled, strlen(filled), &done) != KEEL_OK ||
        keel_dec_parse(asked, strlen(asked), &quantity) != KEEL_OK)
        return false;
    risk_entry_record(e, is_terminal(at), quantity, done);
    return true;
}

static enum keel_status lookup_next(struct keel_call *c);

static enum keel_status lookup_done(struct keel_call *c)
{
    struct lookup *l = c->ctx;
    struct risk_engine_state *s = c->state;
    struct risk_entry *e = risk_find_entry(s, l->id[l->at]);
    struct keel_txn *t;

    if (keel_wait_status(c) != KEEL_OK || c->peer.status != KEEL_OK)
        return KEEL_OK; /* strategy is away: asked again on the next tick */
    l->at++;
    if (!e || !is_doubtful(e))
        return lookup_next(c);
    t = keel_txn_new(keel_store(c->rt));
    if (c->peer.http == 404) {
        /* Nothing was sent, and the id may yet become an order: it did not end. */
        keel_txn_exec(t, "DELETE FROM entries WHERE client_order_id = ?", "s", e->id);
        risk_drop_entry(s, e);
    } else if (c->peer.http == 200 && take_order(c->peer.json, e)) {
        save_and_drop(s, t, e);
    } else {
        keel_txn_drop(t);
        return lookup_next(c);
    }
    return keel_await_store(c, t, lookup_next);
}

static enum keel_status lookup_next(struct keel_call *c)
{
    struct lookup *l = c->ctx;

    if (l->at == l->n || keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    return keel_await_peer(c, &(struct keel_peer_req){.peer = "strategy", .method = "GET", .budget_ns = 2000000000,
                                                      .path = keel_arena_printf(c->arena, "/orders/%s",
                                                                                escaped(c->arena, l->id[l->at]))},
                           lookup_done);
}

enum keel_status timer_lookup(struct keel_call *c)
{
    const struct risk_options *o = keel_options(c->rt);
    struct risk_engine_state *s = c->state;
    struct lookup *l = keel_arena_alloc(c->arena, sizeof *l);

    for (size_t i = 0; i < s->n_entries && l->n < LOOKUPS_A_TICK; i++)
        if (is_doubtful(&s->entry[i]) && c->wall_ns - s->entry[i].created_ns > o->reservation_ms * 1000000)
            memcpy(l->id[l->n++], s->entry[i].id, RISK_ID);
    c->ctx = l;
    return lookup_next(c);
}

struct telling { char portfolio[RISK_ID]; enum risk_state state; };

static enum keel_status told(struct keel_call *c)
{
    const struct telling *w = c->ctx;
    struct risk_engine_state *s = c->state;
    struct risk_scope *sc = risk_scope_of(s, w->portfolio, false);
    struct keel_txn *t;

    if (keel_wait_status(c) != KEEL_OK || c->peer.status != KEEL_OK || c->peer.http >= 300)
        return KEEL_OK; /* again on the next tick */
    if (!sc || sc->state != w->state)
        return KEEL_OK;
    sc->told = true;
    t = keel_txn_new(keel_store(c->rt));
    keel_txn_exec(t, "UPDATE states SET told = 1 WHERE portfolio_id = ? AND state = ?", "si", w->portfolio,
                  (int64_t)w->state);
    return commit(c, t);
}

/* Strategy is told of every change until it acknowledges. */
enum keel_status timer_tell(struct keel_call *c)
{
    struct risk_engine_state *s = c->state;
    static const struct keel_field row = {.unit = RISK_STATES};
    struct telling *w = keel_arena_alloc(c->arena, sizeof *w);
    char name[16];
    struct keel_json body;

    for (size_t i = 0; i < s->n_scopes; i++) {
        /* In turn: one that strategy does not take keeps no other waiting. */
        const struct risk_scope *sc = &s->scope[s->tell_at++ % s->n_scopes];
        if (sc->told)
            continue;
        memcpy(w->portfolio, sc->portfolio, RISK_ID);
        w->state = sc->state;
        keel_json_init(&body, c->arena, 256);
        keel_json_obj(&body, NULL);
        keel_json_str(&body, "state", keel_enum_name(&row, (int)w->state, name, sizeof name));
        if (w->portfolio[0])
            keel_json_str(&body, "portfolio_id", w->portfolio);
        keel_json_str(&body, "reason", sc->reason);
        keel_json_end(&body);
        c->ctx = w;
        return keel_await_peer(c, &(struct keel_peer_req){.peer = "strategy", .method = "PUT", .path = "/trading-state",
                                                          .body = keel_json_text(&body), .body_len = body.len,
                                                          .budget_ns = 2000000000}, told);
    }
    return KEEL_OK;
}
