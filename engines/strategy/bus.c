/*
 * What comes over the bus and what time brings: market data to the venue and to our own marks,
 * vectors and predictions to signals and their orders, cancels of orders that rested too long, and the
 * reconciliation of the journal with the venue.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "ops.h"

enum { SWEEP_RESTING = 500 /* resting orders asked for a sweep */, LOST_NS = 1000000000 };

/* ---- market data ---- */

static void mark(struct strategy_state *s, const char *symbol, bool whole, int64_t bid, int64_t ask)
{
    struct strategy_mark *m = strategy_map_get(&s->marks, symbol);

    if (m == NULL && s->marks.n >= (size_t)s->opt->max_symbols)
        return;
    if (m == NULL) {
        m = keel_alloc(1, sizeof *m);
        snprintf(m->symbol, sizeof m->symbol, "%s", symbol);
        strategy_map_put(&s->marks, m->symbol, m);
    }
    if (m->whole && !whole)
        return;
    m->whole = whole;
    m->bid = bid;
    m->ask = ask;
    m->ts_ns = strategy_now(s);
}

enum keel_status bus_quote(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct keel_quote *q = c->arg;
    struct venue_level bid = {q->bid, q->bid_size, 0}, ask = {q->ask, q->ask_size, 0};

    paper_show(s->venue, q->symbol, false, VENUE_LIVE, &bid, 1, &ask, 1, strategy_now(s));
    mark(s, q->symbol, false, q->bid, q->ask);
    return KEEL_OK;
}

static size_t levels(const struct keel_pair *pair, size_t n, struct venue_level *out)
{
    size_t k = 0;

    for (; k < n && k < VENUE_LEVELS; k++)
        out[k] = (struct venue_level){pair[k].p, pair[k].q, 0};
    return k;
}

enum keel_status bus_book(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct keel_book *b = c->arg;
    struct venue_level bids[VENUE_LEVELS], asks[VENUE_LEVELS];
    size_t n_bids = levels(b->bids, b->n_bids, bids), n_asks = levels(b->asks, b->n_asks, asks);
    bool live = b->state == (int)VENUE_LIVE;

    paper_show(s->venue, b->symbol, true, (enum venue_book_state)b->state, bids, n_bids, asks,
               n_asks, strategy_now(s));
    mark(s, b->symbol, true, live && n_bids > 0 ? bids[0].price : 0,
         live && n_asks > 0 ? asks[0].price : 0);
    return KEEL_OK;
}

enum keel_status bus_trade(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct keel_trade *t = c->arg;

    paper_trade(s->venue, t->symbol, t->price, t->size, strategy_now(s));
    return KEEL_OK;
}

/* ---- signals ---- */

/* FNV-1a, 64 bits (Fowler, Noll, Vo): a stable short name where the long one does not fit. */
static uint64_t short_name(const char *a, const char *b)
{
    uint64_t h = 14695981039346656037ULL;

    for (; *a != '\0'; a++)
        h = (h ^ (unsigned char)*a) * 1099511628211ULL;
    h *= 1099511628211ULL;
    for (; *b != '\0'; b++)
        h = (h ^ (unsigned char)*b) * 1099511628211ULL;
    return h;
}

/* What a signal comes from. */
struct cause {
    const char *symbol, *prediction_id;
    const struct keel_vector *vector; /* NULL: of the prediction, which is the record at hand */
    int64_t as_of, bid, ask;          /* bid, ask: 0 when there is none */
};

/* The same cause makes the same id, so a repeated one makes no second order. */
static const char *signal_id(struct keel_call *c, const struct strategy_def *d,
                             const struct cause *of)
{
    const char *id = keel_arena_printf(c->arena, "%s-%" PRId64 "-%s", d->id, of->as_of, of->symbol);

    return strlen(id) <= ORDER_ID_LEN
               ? id
               : keel_arena_printf(c->arena, "%016" PRIx64 "-%" PRId64,
                                   short_name(d->id, of->symbol), of->as_of);
}

static bool find_inputs(const struct strategy_def *d, const struct keel_vector *v,
                        double value[SIGNAL_INPUTS])
{
    char name[SIGNAL_INPUTS][SIGNAL_NAME_LEN];
    size_t n = signal_inputs(&d->rule, name), found = 0;

    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < v->n_features; i++)
            if (strcmp(v->features[i].name, name[k]) == 0) {
                value[k] = v->features[i].value;
                found++;
                break;
            }
    return n > 0 && found == n;
}

static void write_inputs(struct keel_json *w, const struct strategy_def *d, const struct keel_vector *v)
{
    char name[SIGNAL_INPUTS][SIGNAL_NAME_LEN];
    size_t n = signal_inputs(&d->rule, name);

    keel_json_obj(w, "vector");
    keel_json_str(w, "spec", v->spec);
    keel_json_time(w, "ts_close", v->ts_close);
    keel_json_dec(w, "close", v->close);
    keel_json_str(w, "schema_hash", v->schema_hash);
    keel_json_obj(w, "features");
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < v->n_features; i++)
            if (strcmp(v->features[i].name, name[k]) == 0)
                keel_json_f64(w, name[k], v->features[i].value);
    keel_json_end(w);
    keel_json_end(w);
}

/* What the signal rests on: the inputs of its rule and the bar they are of, or the prediction, and the quote its limit is set by. */
static const char *basis_of(struct keel_call *c, const struct strategy_def *d, const struct cause *of,
                            const struct signal_wish *wish)
{
    struct keel_json w;

    keel_json_init(&w, c->arena, 512);
    keel_json_obj(&w, NULL);
    keel_json_str(&w, "reason", wish->reason);
    keel_json_obj(&w, "quote");
    if (of->bid > 0)
        keel_json_dec(&w, "bid", of->bid);
    if (of->ask > 0)
        keel_json_dec(&w, "ask", of->ask);
    keel_json_str(&w, "seen", of->vector != NULL && of->vector->has_bid && of->vector->has_ask ? "with the vector" : "by strategy");
    keel_json_end(&w);
    if (of->vector != NULL)
        write_inputs(&w, d, of->vector);
    else
        keel_json_raw(&w, "prediction", c->raw, c->raw_len);
    keel_json_end(&w);
    return keel_json_text(&w);
}

#define PUT(out, field, v) ((out)->field = (v), (out)->has_##field = true)

static enum keel_status order_of_signal(struct keel_call *c, const struct strategy_def *d,
                                        const struct cause *of, const struct signal_wish *wish)
{
    struct execute_internal in = {.has_request = true};
    struct keel_signal out = {0};
    const char *id = signal_id(c, d, of);
    int64_t price = 0;

    if (d->order_type == ORDER_LIMIT &&
        signal_price(&d->rule, wish->side, of->bid, of->ask, &price) != KEEL_OK)
        return keel_fail(c, KEEL_UNDEFINED, "there is no price to set the limit by");
    PUT(&out, strategy_id, d->id);
    PUT(&out, symbol, of->symbol);
    PUT(&out, side, (int)wish->side);
    PUT(&out, quantity, wish->quantity);
    PUT(&out, reason, wish->reason);
    PUT(&out, client_order_id, id);
    if (of->vector == NULL)
        PUT(&out, prediction_id, of->prediction_id);
    PUT(&in.request, strategy_id, d->id);
    PUT(&in.request, client_order_id, id);
    PUT(&in.request, symbol, of->symbol);
    PUT(&in.request, side, (int)wish->side);
    PUT(&in.request, quantity, wish->quantity);
    PUT(&in.request, order_type, (int)d->order_type);
    if (d->order_type == ORDER_LIMIT)
        PUT(&in.request, price, price);
    PUT(&in.request, time_in_force, (int)d->tif);
    PUT(&in.request, valid_ms, d->valid_ms);

    PUT(&in, basis, basis_of(c, d, of, wish));
    in.n_basis = strlen(in.basis);

    enum keel_status st =
        keel_publish(c, "strategy.priority.signal", of->symbol, of->as_of, 0, &out);

    return st == KEEL_OK ? keel_spawn(c, "execute_internal", &in) : st;
}

static bool trades(const struct strategy_def *d, const char *symbol)
{
    for (size_t i = 0; i < d->n_symbols; i++)
        if (strcmp(d->symbol[i], symbol) == 0)
            return true;
    return d->n_symbols == 0;
}

static struct strategy_memory *memory_of(struct strategy_state *s, struct strategy_def *d,
                                         const char *symbol)
{
    struct strategy_memory *m = strategy_map_get(&d->memory, symbol);

    if (m == NULL && d->memory.n < (size_t)s->opt->max_symbols) {
        m = keel_alloc(1, sizeof *m);
        snprintf(m->symbol, sizeof m->symbol, "%s", symbol);
        strategy_map_put(&d->memory, m->symbol, m);
    }
    return m;
}

/* view: figures and close; the holdings are filled in here. Returns whether an order came of it. */
static bool consider(struct keel_call *c, struct strategy_def *d, struct strategy_memory *m,
                     const struct cause *of, struct signal_view *view)
{
    const struct strategy_holding *h = strategy_holding_of(c->state, 's', d->id, of->symbol, false);
    struct signal_memory next = m->signal;
    struct signal_wish wish;
    bool signals;

    if (h != NULL) {
        view->position = h->position.quantity;
        view->open_buy = h->open[ORDER_BUY];
        view->open_sell = h->open[ORDER_SELL];
    }
    signals = signal_next(&d->rule, &next, view, c->arena, &wish);
    if (signals) {
        enum keel_status st = order_of_signal(c, d, of, &wish);

        if (st != KEEL_OK) {
            /* Not remembered, so the next record signals it again if it still holds. */
            keel_log_often(KEEL_LOG_WARN, "signal_not_executed",
                           "strategy_id=%s symbol=%s status=%s", d->id, of->symbol,
                           keel_status_name(st));
            return false;
        }
    }
    m->signal = next;
    return signals;
}

static void consider_vector(struct keel_call *c, struct strategy_def *d,
                            const struct keel_vector *v)
{
    struct strategy_state *s = c->state;
    const struct strategy_mark *mark = strategy_mark_of(s, v->symbol);
    struct strategy_memory *m = memory_of(s, d, v->symbol);
    struct signal_view view = {.close = v->close};
    const struct cause of = {.symbol = v->symbol,
                             .vector = v,
                             .as_of = v->ts_close,
                             .bid = v->has_bid ? v->bid : mark != NULL ? mark->bid : 0,
                             .ask = v->has_ask ? v->ask : mark != NULL ? mark->ask : 0};

    if (m != NULL && v->close > 0 && find_inputs(d, v, view.value))
        consider(c, d, m, &of, &view);
}

enum keel_status bus_vector(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct keel_vector *v = c->arg;

    for (size_t i = 0; i < s->strategies.cap; i++) {
        struct strategy_def *d = s->strategies.slot[i].value;

        if (d != NULL && d->status == STRATEGY_RUNNING && strcmp(d->spec, v->spec) == 0 &&
            trades(d, v->symbol))
            consider_vector(c, d, v);
    }
    return KEEL_OK;
}

/* ---- predictions ---- */

static double rise_of(const struct keel_prediction *p)
{
    enum { UP, DOWN };

    return p->direction == UP ? p->confidence : p->direction == DOWN ? 1 - p->confidence : 0.5;
}

/* One that a newer one has replaced. A stamp older than its whole validity is of a session that began anew. */
static bool is_replaced(const struct keel_prediction *p, const struct strategy_memory *m)
{
    return p->as_of <= m->predicted_ns && m->predicted_ns - p->as_of < p->expires_at - p->as_of;
}

static bool is_of_model(const struct strategy_def *d, const struct keel_prediction *p)
{
    return d->status == STRATEGY_RUNNING && d->rule.kind == SIGNAL_MODEL &&
           strcmp(d->rule.model, p->model_id) == 0 &&
           (!p->has_spec || strcmp(d->spec, p->spec) == 0) && trades(d, p->symbol);
}

static void consider_prediction(struct keel_call *c, struct strategy_def *d,
                                const struct keel_prediction *p)
{
    struct strategy_state *s = c->state;
    const struct strategy_mark *mark = strategy_mark_of(s, p->symbol);
    struct strategy_memory *m = memory_of(s, d, p->symbol);
    struct signal_view view = {.value = {rise_of(p)}};
    struct cause of = {.symbol = p->symbol, .prediction_id = p->prediction_id, .as_of = p->as_of};

    if (m == NULL || is_replaced(p, m))
        return;
    m->predicted_ns = p->as_of;
    if (strategy_now(s) >= p->expires_at) {
        s->predictions_expired++;
        return;
    }
    if (mark == NULL)
        return;
    of.bid = mark->bid;
    of.ask = mark->ask;
    view.close = mark->bid + (mark->ask - mark->bid) / 2;
    s->model_signals += consider(c, d, m, &of, &view);
}

enum keel_status bus_prediction(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct keel_prediction *p = c->arg;

    if (!p->has_direction || !p->has_confidence)
        return KEEL_OK; /* of a model that does not say where the price goes */
    for (size_t i = 0; i < s->strategies.cap; i++) {
        struct strategy_def *d = s->strategies.slot[i].value;

        if (d != NULL && is_of_model(d, p))
            consider_prediction(c, d, p);
    }
    keel_gauge(c->rt, "model_signals", (double)s->model_signals);
    keel_gauge(c->rt, "predictions_expired", (double)s->predictions_expired);
    return KEEL_OK;
}

/* ---- timers ---- */

/* Every 200 ms of machine time; ages are of session time. */
enum keel_status timer_tick(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    int64_t now = strategy_now(s);

    paper_tick(s->venue, now);
    for (struct strategy_entry *e = s->open.first, *next; e != NULL; e = next) {
        const struct strategy_def *d = strategy_map_get(&s->strategies, e->o.strategy_id);
        bool rests = e->o.state == ORDER_ACCEPTED || e->o.state == ORDER_PARTIALLY_FILLED;

        next = e->next;
        if (rests && d != NULL && d->max_age_ns > 0 && now - e->ts_created >= d->max_age_ns)
            strategy_order_cancel(s, c, e, "max_age");
    }
    return KEEL_OK;
}

static bool in_flight(const struct order *o)
{
    return o->state == ORDER_SUBMITTED || o->state == ORDER_UNKNOWN ||
           o->state == ORDER_PENDING_CANCEL || o->state == ORDER_PENDING_UPDATE;
}

/* What is in flight is asked for each time, what rests in turn: so a lost report is missed for a
 * short while only. */
static void reconcile(struct strategy_state *s, struct keel_call *c)
{
    int64_t now = keel_mono_ns(), from = s->sweep_at;
    size_t asked = 0;
    bool unresolved = false;

    s->sweep_at = 0;
    for (struct strategy_entry *e = s->open.first, *next; e != NULL; e = next) {
        bool flight = in_flight(&e->o), old = e->order_no <= s->loaded_order_no;

        next = e->next;
        if (e->busy > 0 || !e->sent) {
            unresolved = unresolved || old;
            continue;
        }
        if (!flight && (e->order_no <= from || asked == SWEEP_RESTING)) {
            if (asked == SWEEP_RESTING && s->sweep_at == 0)
                s->sweep_at = e->order_no - 1;
            continue;
        }
        asked += !flight;
        paper_query(s->venue, e->o.client_order_id);
        unresolved = unresolved || (old && in_flight(&e->o) && e->busy == 0);
        if (e->o.state == ORDER_SUBMITTED && e->busy == 0 && now - e->asked_ns > LOST_NS)
            strategy_order_event(s, c, e, ORDER_EV_LOSE, "no_report");
    }
    if (!unresolved && !s->reconciled) {
        s->reconciled = true;
        keel_log(KEEL_LOG_INFO, "reconciled", "open=%zu", s->open.n);
    }
}

static enum keel_status risk_answered(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct keel_jval *list = keel_jget(c->peer.json, "scopes");
    const char *all = keel_jstr(c->peer.json, "state");
    int state = keel_enum_index(KEEL_TRADING_STATES, all, strlen(all));

    if (c->peer.status != KEEL_OK || c->peer.http != 200 || state < 0 || s->trading_known)
        return KEEL_OK;
    strategy_set_trading_state(s, "-", state);
    if (state == STRATEGY_HALTED)
        strategy_cancel_all(s, c, NULL, "trading_halted");
    for (const struct keel_jval *v = list != NULL && list->type == KEEL_JARR ? list->child : NULL;
         v != NULL; v = v->next) {
        const char *id = keel_jstr(v, "portfolio_id"), *name = keel_jstr(v, "state");
        int own = keel_enum_index(KEEL_TRADING_STATES, name, strlen(name));

        if (!strategy_is_id(id) || own < 0)
            continue;
        strategy_set_trading_state(s, id, own);
        if (own == STRATEGY_HALTED)
            strategy_cancel_all(s, c, id, "trading_halted");
    }
    s->trading_known = true;
    keel_log(KEEL_LOG_INFO, "trading_state_known", "state=%s", all);
    return KEEL_OK;
}

/* Every second. */
enum keel_status timer_sweep(struct keel_call *c)
{
    struct strategy_state *s = c->state;

    reconcile(s, c);
    keel_gauge(c->rt, "open_orders", (double)s->open.n);
    if (s->trading_known)
        return KEEL_OK;

    const struct keel_peer_req req = {
        .peer = "risk", .method = "GET", .path = "/risk/trading-state"};

    return keel_await_peer(c, &req, risk_answered);
}
