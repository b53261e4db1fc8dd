/*
 * From a request to an order and its answer. The order of steps is the promise: decode, ask risk
 * with a reservation, the SUBMITTED row in the journal, its commit, the venue, the report in the
 * journal, the answer. Up to the row nothing was sent and 503 or 504 may be answered; from the row
 * on the call is past its point of no return and the worst answer is 202.
 *
 * One step, exec_next, runs after every wait from the row on and acts by where the order is. A
 * repeat of the same id and body enters there as well: it waits for what the first call waits for
 * and answers the same order.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "ops.h"

#define TARGET_MS 50.0
#define MS        1000000LL

/* One execute under way; the order as asked, until there is an entry of it. */
struct exec {
    struct strategy_entry as;
    bool id_given; /* by the caller: it may be known already */
    bool owner;    /* this call made the order: it sends it */
    bool sent;
    bool replayed;
    int64_t collar; /* > 0: bound of a MARKET order's price */
    const char *basis;               /* JSON of what the signal rests on, or NULL */
    int64_t asked_ns, answered_ns;   /* wall clock; 0: risk was not asked */
    const struct keel_jval *decision; /* risk's, or NULL */
};

const char *const execute_fallbacks[] = {"reduce_only", NULL};

static enum keel_status exec_next(struct keel_call *c);

/* ---- the request ---- */

bool strategy_is_id(const char *s)
{
    static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";

    return s[0] != '\0' && s[strspn(s, ok)] == '\0';
}

const char *strategy_symbol(struct keel_arena *a, const char *s)
{
    char *symbol = keel_arena_alloc(a, ORDER_SYMBOL_LEN + 1);

    return keel_symbol_normalise(s, symbol) ? symbol : NULL;
}

static enum keel_status bad(struct keel_call *c, const char *code, const char *field,
                            const char *detail)
{
    return keel_fail_as(c, KEEL_INVALID, code, field, "%s", detail);
}

static enum keel_status take_id(struct keel_call *c, const struct execute_request *r,
                                struct exec *x)
{
    struct strategy_state *s = c->state;
    const char *header = keel_call_header(c, "Idempotency-Key");
    const char *id = r->has_client_order_id ? r->client_order_id : header;

    x->id_given = id != NULL;
    if (id == NULL) {
        snprintf(x->as.o.client_order_id, sizeof x->as.o.client_order_id, "P-%s-%" PRIu64, s->epoch,
                 ++s->n_ids);
        return KEEL_OK;
    }
    if (header != NULL && strcmp(id, header) != 0)
        return bad(c, "mismatch", "client_order_id", "client_order_id and Idempotency-Key differ");
    if (!strategy_is_id(id) || strlen(id) > ORDER_ID_LEN)
        return bad(c, "out_of_range", "client_order_id",
                   "client_order_id must be 1 to 64 letters, digits, dots, colons, dashes and "
                   "underscores");
    snprintf(x->as.o.client_order_id, sizeof x->as.o.client_order_id, "%s", id);
    return KEEL_OK;
}

static enum keel_status take_order(struct keel_call *c, const struct execute_request *r,
                                   struct exec *x)
{
    struct strategy_state *s = c->state;
    struct order *o = &x->as.o;
    const char *symbol = strategy_symbol(c->arena, r->symbol);

    if (symbol == NULL)
        return bad(c, "bad_symbol", "symbol", "symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}");
    o->side = r->side == 0 ? ORDER_BUY : ORDER_SELL;
    o->type = r->has_order_type && r->order_type == (int)ORDER_MARKET ? ORDER_MARKET : ORDER_LIMIT;
    o->tif = (enum order_tif)r->time_in_force;
    if (o->type == ORDER_LIMIT && !r->has_price)
        return bad(c, "missing", "price", "price is needed unless order_type is MARKET");
    if (o->type == ORDER_MARKET && r->has_price)
        return bad(c, "mismatch", "price", "a MARKET order has no price");
    if (o->type == ORDER_MARKET && (o->tif == ORDER_GTC || o->tif == ORDER_DAY))
        return bad(c, "out_of_range", "time_in_force", "a MARKET order cannot rest: IOC or FOK");
    snprintf(o->symbol, sizeof o->symbol, "%s", symbol);
    snprintf(o->strategy_id, sizeof o->strategy_id, "%s", r->strategy_id);
    snprintf(o->currency, sizeof o->currency, "%s", s->opt->quote_currency);
    o->quantity = r->quantity;
    o->has_price = r->has_price;
    o->price = r->has_price ? r->price : 0;
    o->reduce_only = r->reduce_only;
    x->as.valid_ms = r->has_valid_ms ? r->valid_ms : 0;
    x->as.ts_recv = c->rec->ts_recv;
    return KEEL_OK;
}

static bool same_body(const struct strategy_entry *a, const struct strategy_entry *b)
{
    const struct order *p = &a->o, *q = &b->o;

    return strcmp(p->strategy_id, q->strategy_id) == 0 && strcmp(p->symbol, q->symbol) == 0 &&
           p->side == q->side && p->type == q->type && p->tif == q->tif &&
           p->quantity == q->quantity && p->has_price == q->has_price && p->price == q->price &&
           p->reduce_only == q->reduce_only && a->valid_ms == b->valid_ms;
}

/* ---- answers ---- */

static const char *status_of(const struct order *o)
{
    if (o->state == ORDER_FILLED)
        return "executed";
    if (o->filled > 0)
        return "partially_executed";
    return order_is_closed(o->state) ? "canceled" : "accepted";
}

static void write_trade_details(struct keel_json *w, const struct order *o)
{
    char side[8];
    int64_t avg;

    keel_json_obj(w, "trade_details");
    keel_json_str(w, "symbol", o->symbol);
    keel_json_decnum(w, "quantity", o->filled > 0 ? o->filled : o->quantity);
    keel_json_str(w, "side", strategy_name_of(KEEL_SIDES, (int)o->side, side, sizeof side));
    if (order_avg_price(o, &avg) == KEEL_OK)
        keel_json_decnum(w, "price", avg);
    else if (o->has_price)
        keel_json_decnum(w, "price", o->price);
    else
        keel_json_null(w, "price");
    keel_json_end(w);
}

static void write_answer(struct keel_call *c, const struct strategy_entry *e, const char *status,
                         bool replayed)
{
    struct keel_json *w = &c->out;
    double ms = keel_elapsed_ms(c);

    keel_json_obj(w, NULL);
    keel_json_str(w, "status", status);
    keel_json_str(w, "execution_id", e->o.client_order_id);
    keel_json_str(w, "strategy_id", e->o.strategy_id);
    keel_json_moneynum(w, "pnl", e->o.realized);
    keel_json_fix(w, "execution_time_ms", ms, 3);
    write_trade_details(w, &e->o);
    keel_json_obj(w, "performance");
    keel_json_fix(w, "latency_ms", ms, 3);
    keel_json_bool(w, "hybrid_optimized", keel_is_hybrid(c->rt));
    keel_json_bool(w, "meets_sla", ms < TARGET_MS);
    keel_json_end(w);
    keel_json_bool(w, "replayed", replayed);
    keel_json_bool(w, "fallback", e->fallback_reason[0] != '\0');
    if (e->fallback_reason[0] != '\0')
        keel_json_str(w, "fallback_reason", e->fallback_reason);
    strategy_order_write(e, w, "order");
    keel_write_ignored(c);
    keel_json_end(w);
}

static void fail_order(struct keel_call *c, const struct strategy_entry *e, bool replayed)
{
    struct keel_json w;

    keel_json_init(&w, c->arena, 512);
    strategy_order_write(e, &w, NULL);
    const char *text = keel_json_text(&w);

    keel_fail_member(c, "order", text, w.len);
    keel_fail_member(c, "replayed", replayed ? "true" : "false", replayed ? 4 : 5);
}

/* The order as the file has it. owner: this call made it. */
static enum keel_status answer(struct keel_call *c, const struct strategy_entry *e, bool owner)
{
    const struct order *o = &e->o;

    if (keel_client_gone(c))
        return KEEL_OK;
    switch (o->state) {
    case ORDER_DENIED:
        fail_order(c, e, !owner);
        keel_fail_member(c, "denials", e->denials != NULL ? e->denials : "[]",
                         e->denials != NULL ? strlen(e->denials) : 2);
        return keel_fail_as(c, KEEL_UNDEFINED, "risk_denied", NULL, "%s", o->reason);
    case ORDER_REJECTED:
        fail_order(c, e, !owner);
        return keel_fail_as(c, KEEL_UNDEFINED, "venue_rejected", NULL, "%s", o->reason);
    case ORDER_SUBMITTED:
    case ORDER_UNKNOWN:
        c->http = 202;
        write_answer(c, e, "unknown", !owner);
        return KEEL_OK;
    case ORDER_CANCELED:
        if (owner && strcmp(o->reason, "send_deadline") == 0) {
            fail_order(c, e, false);
            return keel_fail_as(c, KEEL_TIMEOUT, "send_deadline", NULL,
                                "the order was journaled after its send deadline and was not sent");
        }
        break;
    default:
        break;
    }
    write_answer(c, e, status_of(o), !owner);
    return KEEL_OK;
}

/* 202 when the deadline passes first; it may also end the call itself when the outcome stays open.
 */
static enum keel_status exec_late(struct keel_call *c)
{
    const struct exec *x = c->ctx;
    struct keel_json *w = &c->out;

    c->http = 202;
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "unknown");
    keel_json_str(w, "execution_id", x->as.o.client_order_id);
    keel_json_str(w, "strategy_id", x->as.o.strategy_id);
    keel_json_str(w, "client_order_id", x->as.o.client_order_id);
    keel_json_bool(w, "replayed", x->replayed);
    keel_json_str(w, "detail",
                  "the outcome is open: ask GET /orders/{client_order_id}, or repeat this request");
    keel_json_end(w);
    return KEEL_OK;
}

/* ---- from the row on ---- */

static enum keel_status exec_send(struct keel_call *c, struct strategy_entry *e)
{
    struct strategy_state *s = c->state;
    struct exec *x = c->ctx;
    int64_t valid_ms = e->valid_ms > 0 ? e->valid_ms : s->opt->send_deadline_ms,
            now = keel_mono_ns();
    const char *why = e->unsent_reason;

    if (why == NULL && strategy_trading_state(s, e->o.portfolio_id) == STRATEGY_HALTED)
        why = "trading_halted";
    if (why == NULL && now - c->start_ns > valid_ms * MS)
        why = "send_deadline";
    e->sent = true;
    if (why != NULL) {
        strategy_order_event(s, c, e, ORDER_EV_CANCEL, why);
        return strategy_order_wait(c, e, exec_next);
    }
    if (c->rec->topic[0] != '\0')
        keel_observe(c->rt, "market_to_order", keel_wall_ns() - c->rec->ts_recv);

    struct venue_ticket t = {e->o.side,
                             e->o.type,
                             e->o.tif,
                             e->o.has_price || x->collar > 0,
                             e->o.has_price ? e->o.price : x->collar,
                             e->o.quantity};
    enum keel_status st = strategy_order_wait(c, e, exec_next);

    x->sent = true;
    e->asked_ns = now;
    e->cause = c;
    paper_submit(s->venue, e->o.client_order_id, e->o.symbol, &t, strategy_now(s));
    return st;
}

static enum keel_status exec_next(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    struct exec *x = c->ctx;
    struct strategy_entry *e = strategy_order_find(s, x->as.o.client_order_id);

    if (e == NULL && x->sent)
        return keel_client_gone(c) ? KEEL_OK : exec_late(c);
    if (e == NULL)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL,
                            "the journal could not be written: nothing was sent");
    if (e->cause == c)
        e->cause = NULL;
    if (e->busy > 0)
        return strategy_order_wait(c, e, exec_next);
    if (e->o.state == ORDER_SUBMITTED && x->owner && !e->sent)
        return exec_send(c, e);
    if (e->o.state == ORDER_SUBMITTED) {
        if (x->owner)
            e->cause = c;
        return strategy_order_wait(c, e, exec_next);
    }
    return answer(c, e, x->owner);
}

static enum keel_status exec_repeat(struct keel_call *c, struct strategy_entry *e)
{
    struct exec *x = c->ctx;

    if (!same_body(&x->as, e))
        return keel_fail_as(c, KEEL_CONFLICT, "idempotency_conflict", "client_order_id",
                            "client_order_id %s belongs to an order with another body",
                            e->o.client_order_id);
    x->replayed = true;
    x->sent = true;
    keel_commit_point(c, exec_late);
    return exec_next(c);
}

/* Why the order is made, for its row: what it rests on, what risk said, and when (machine's clock). */
static void note_decision(struct keel_call *c)
{
    enum { MOST = 8192 };
    struct exec *x = c->ctx;
    struct keel_json w;

    keel_json_init(&w, c->arena, 1024);
    keel_json_obj(&w, NULL);
    keel_json_str(&w, "trace_id", keel_trace_id(c));
    if (c->rec->ts_recv != 0)
        keel_json_time(&w, "received_at", c->rec->ts_recv);
    keel_json_time(&w, "decided_at", c->wall_ns);
    if (x->basis != NULL)
        keel_json_raw(&w, "basis", x->basis, strlen(x->basis));
    if (x->asked_ns != 0) {
        keel_json_obj(&w, "risk");
        keel_json_time(&w, "asked_at", x->asked_ns);
        keel_json_time(&w, "answered_at", x->answered_ns);
        if (x->decision != NULL && x->decision->type == KEEL_JOBJ && x->decision->raw_len < MOST)
            keel_json_raw(&w, "decision", x->decision->raw, x->decision->raw_len);
        keel_json_end(&w);
    }
    keel_json_time(&w, "submitted_at", keel_wall_ns());
    keel_json_end(&w);
    x->as.decision = keel_json_text(&w);
    snprintf(x->as.traceparent, sizeof x->as.traceparent, "%s", c->rec->traceparent);
}

static enum keel_status exec_submit(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    struct exec *x = c->ctx;

    note_decision(c);
    struct strategy_entry *e = strategy_order_new(s, c, &x->as, ORDER_EV_SUBMIT, NULL);

    if (e == NULL)
        return keel_fail_as(c, KEEL_SHED, "too_many_orders", NULL,
                            "there is no room for another open order");
    x->owner = true;
    keel_commit_point(c, exec_late);
    return strategy_order_wait(c, e, exec_next);
}

static enum keel_status exec_deny(struct keel_call *c, const char *reason, const char *denials)
{
    struct strategy_state *s = c->state;
    struct exec *x = c->ctx;

    snprintf(x->as.o.reason, sizeof x->as.o.reason, "%s", reason);
    note_decision(c);

    struct strategy_entry *e = strategy_order_new(s, c, &x->as, ORDER_EV_DENY, denials);

    if (e == NULL)
        return keel_fail_as(c, KEEL_SHED, "too_many_orders", NULL,
                            "there is no room for another open order");
    e->sent = true;
    x->owner = true;
    return strategy_order_wait(c, e, exec_next);
}

/* ---- when risk cannot be asked ---- */

/* NULL: the order only lowers what this journal is sure of, inside the collar. Else why it may not
 * go unchecked. */
static const char *not_reducing(struct strategy_state *s, struct exec *x)
{
    const struct order *o = &x->as.o;
    const struct strategy_holding *h =
        strategy_holding_of(s, 'p', o->portfolio_id, o->symbol, false);
    const struct strategy_mark *m = strategy_mark_of(s, o->symbol);
    int64_t price, mid, low, high;

    if (!s->trading_known || strategy_trading_state(s, o->portfolio_id) == STRATEGY_HALTED)
        return "the trading state is unknown or HALTED";
    if (!s->reconciled)
        return "the journal is not reconciled with the venue";
    if (h == NULL || !order_reduces(h->position.quantity, h->open[o->side], o->side, o->quantity))
        return "the order does not reduce the position";
    if (m == NULL)
        return "there is no fresh price for the collar";
    mid = m->bid + (m->ask - m->bid) / 2;
    if (keel_dec_from_f64(keel_dec_to_f64(mid) * (1 - s->opt->collar_bps * 1e-4), &low) !=
            KEEL_OK ||
        keel_dec_from_f64(keel_dec_to_f64(mid) * (1 + s->opt->collar_bps * 1e-4), &high) != KEEL_OK)
        return "the collar cannot be computed";
    x->collar = o->side == ORDER_BUY ? high : low;
    price = o->has_price ? o->price : mid;
    return price >= low && price <= high ? NULL : "the price is outside the collar";
}

static enum keel_status exec_unchecked(struct keel_call *c, const char *away)
{
    struct strategy_state *s = c->state;
    struct exec *x = c->ctx;
    bool refuse = s->opt->risk_fallback == 1 ||
                  (s->opt->risk_fallback == 0 && strcmp(x->as.o.venue, "paper") != 0);
    const char *why = refuse ? "risk_fallback is refuse" : not_reducing(s, x);

    if (why == NULL && !keel_fall_back(c, execute_fallbacks[0], away))
        why = "the circuit of reduce_only is open";
    if (why != NULL)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "risk_unavailable", NULL,
                            "%s; %s: nothing was sent", away, why);
    snprintf(x->as.fallback_reason, sizeof x->as.fallback_reason, "%s: %s", execute_fallbacks[0],
             away);
    return exec_submit(c);
}

/* ---- risk ---- */

static const char *away_reason(const struct keel_reply *r)
{
    if (r->status == KEEL_OK)
        return "risk could not answer";
    return r->status == KEEL_OPEN      ? "risk's circuit is open"
           : r->status == KEEL_TIMEOUT ? "risk did not answer in time"
                                       : "risk is away";
}

static enum keel_status exec_denied(struct keel_call *c, const struct keel_jval *denials)
{
    const struct keel_jval *first = denials != NULL ? denials->child : NULL;
    const char *limit = keel_jstr(first, "limit_id"), *code = keel_jstr(first, "code");
    const char *text = NULL;

    if (denials != NULL && denials->type == KEEL_JARR && denials->raw_len < 4000)
        text = keel_arena_strndup(c->arena, denials->raw, denials->raw_len);
    return exec_deny(c,
                     keel_arena_printf(c->arena, "%s%s%s", code[0] != '\0' ? code : "denied",
                                       limit[0] != '\0' ? " " : "", limit),
                     text);
}

static enum keel_status exec_decided(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    struct exec *x = c->ctx;
    const struct keel_reply *r = &c->peer;
    const struct keel_jval *d = keel_jget(r->json, "decision"),
                           *approved = keel_jget(d, "approved");
    bool about_it = strcmp(keel_jstr(d, "client_order_id"), x->as.o.client_order_id) == 0;
    struct strategy_entry *e = strategy_order_find(s, x->as.o.client_order_id);

    x->answered_ns = keel_wall_ns();
    x->decision = d;
    /* The same id came a second time while risk was asked: the first to be decided made the order.
     */
    if (e != NULL)
        return exec_repeat(c, e);
    if (strategy_trading_state(s, x->as.o.portfolio_id) == STRATEGY_HALTED)
        return exec_deny(c, "TRADING_HALTED", "[{\"code\":\"TRADING_HALTED\"}]");
    if (r->status != KEEL_OK || r->http >= 500 || r->http == 429)
        return exec_unchecked(c, away_reason(r));
    if (r->http == 200 && about_it && approved != NULL && approved->type == KEEL_JBOOL) {
        if (!approved->boolean)
            return exec_denied(c, keel_jget(d, "denials"));
        if (strcmp(keel_jstr(d, "basis"), "live") == 0)
            return exec_submit(c);
    }
    return keel_fail_as(c, KEEL_UNAVAILABLE, "risk_unavailable", NULL,
                        "risk answered %d without a decision: nothing was sent", r->http);
}

static const char *risk_body(struct keel_call *c, const struct order *o)
{
    struct keel_json w;
    char name[8];

    keel_json_init(&w, c->arena, 384);
    keel_json_obj(&w, NULL);
    keel_json_obj(&w, "order");
    keel_json_str(&w, "client_order_id", o->client_order_id);
    keel_json_str(&w, "strategy_id", o->strategy_id);
    keel_json_str(&w, "symbol", o->symbol);
    keel_json_str(&w, "side", strategy_name_of(KEEL_SIDES, (int)o->side, name, sizeof name));
    keel_json_dec(&w, "quantity", o->quantity);
    keel_json_str(&w, "order_type",
                  strategy_name_of(KEEL_ORDER_TYPES, (int)o->type, name, sizeof name));
    if (o->has_price)
        keel_json_dec(&w, "price", o->price);
    keel_json_end(&w);
    keel_json_bool(&w, "reserve", true);
    keel_json_end(&w);
    return keel_json_text(&w);
}

static enum keel_status ask_risk(struct keel_call *c)
{
    struct exec *x = c->ctx;
    const char *body = risk_body(c, &x->as.o);
    int64_t left = keel_left_ns(c);
    struct keel_peer_req req = {
        .peer = "risk", .method = "POST", .body = body, .body_len = strlen(body)};

    req.path = keel_arena_printf(c->arena, "/risk/critical-check/%s", x->as.o.portfolio_id);
    /* The row, its commit and the venue need their part of what is left, and so does the fallback.
     */
    x->asked_ns = keel_wall_ns();
    req.budget_ns = left == INT64_MAX ? 0 : left > 30 * MS ? left - 15 * MS : left / 2 + 1;
    return keel_await_peer(c, &req, exec_decided);
}

/* ---- from the request to risk ---- */

static enum keel_status exec_new(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    struct exec *x = c->ctx;
    struct order *o = &x->as.o;
    const struct strategy_def *d = strategy_map_get(&s->strategies, o->strategy_id);
    const struct strategy_holding *h;

    if (d == NULL)
        return keel_fail_as(c, KEEL_NOTFOUND, "not_found", "strategy_id", "there is no strategy %s",
                            o->strategy_id);
    if (d->status != STRATEGY_DEPLOYED && d->status != STRATEGY_RUNNING)
        return keel_fail_as(c, KEEL_CONFLICT, "not_deployed", NULL,
                            "strategy %s is %s: deploy it first", d->id,
                            strategy_status_name(d->status));
    snprintf(o->portfolio_id, sizeof o->portfolio_id, "%s", d->portfolio_id);
    snprintf(o->venue, sizeof o->venue, "%s", d->venue);
    if (strategy_trading_state(s, o->portfolio_id) == STRATEGY_HALTED)
        return exec_deny(c, "TRADING_HALTED", "[{\"code\":\"TRADING_HALTED\"}]");
    h = strategy_holding_of(s, 'p', o->portfolio_id, o->symbol, false);
    if (o->reduce_only &&
        (h == NULL || !order_reduces(h->position.quantity, h->open[o->side], o->side, o->quantity)))
        return exec_deny(c, "REDUCE_ONLY", "[{\"code\":\"REDUCE_ONLY\"}]");
    return ask_risk(c);
}

/* The id left memory long ago, or is new after all: the file tells. */
static enum keel_status exec_old(struct keel_call *c)
{
    const struct exec *x = c->ctx;
    struct strategy_entry *e;
    enum keel_status st;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL,
                            "the journal could not be read: nothing was sent");
    if (c->rows->n == 0) { /* unless it came a second time while the file was read */
        e = strategy_order_find(c->state, x->as.o.client_order_id);
        return e != NULL ? exec_repeat(c, e) : exec_new(c);
    }
    e = strategy_order_of_rows(c->rows);
    if (e == NULL)
        return keel_fail(c, KEEL_INTERNAL, "the journal's row of %s cannot be read",
                         x->as.o.client_order_id);
    if (same_body(&x->as, e))
        st = answer(c, e, false);
    else
        st = keel_fail_as(c, KEEL_CONFLICT, "idempotency_conflict", "client_order_id",
                          "client_order_id %s belongs to an order with another body",
                          e->o.client_order_id);
    strategy_entry_free(e);
    return st;
}

static enum keel_status exec_begin(struct keel_call *c, const struct execute_request *r,
                                   const char *basis)
{
    struct strategy_state *s = c->state;
    struct exec *x = keel_arena_alloc(c->arena, sizeof *x);
    struct strategy_entry *e;
    enum keel_status st;

    c->ctx = x;
    x->basis = basis;
    if ((st = take_id(c, r, x)) != KEEL_OK || (st = take_order(c, r, x)) != KEEL_OK)
        return st;
    e = strategy_order_find(s, x->as.o.client_order_id);
    if (e != NULL)
        return exec_repeat(c, e);
    if (x->id_given && strategy_bloom_maybe(&s->evicted, x->as.o.client_order_id))
        return keel_await_read(c, strategy_order_sql, "s", exec_old, x->as.o.client_order_id);
    return exec_new(c);
}

enum keel_status api_execute(struct keel_call *c)
{
    return exec_begin(c, c->arg, NULL);
}

enum keel_status api_order_post(struct keel_call *c)
{
    const struct execute_request *r = c->arg;

    if (strcmp(r->strategy_id, STRATEGY_MANUAL) != 0)
        return bad(c, "out_of_range", "strategy_id",
                   "orders of a strategy go to /strategies/{strategy_id}/execute");
    return exec_begin(c, r, NULL);
}

/* A signal's order; nobody waits for the answer. */
enum keel_status call_execute(struct keel_call *c)
{
    const struct execute_internal *in = c->arg;

    return exec_begin(c, &in->request, in->has_basis ? in->basis : NULL);
}
