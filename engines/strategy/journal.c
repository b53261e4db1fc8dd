/*
 * The journal: orders, events and fills in the engine's store, and what the loop needs of them in
 * memory. Whoever changes an order does it here: memory first, then one transaction with the row,
 * the event, the fills and the bus records. The order is `busy` until the file has them; calls wait
 * for that, and the venue hears of a cancel only then.
 *
 * What the venue reports is applied as a difference: fills that are not known yet, then the state.
 * So a report may come twice, late, or not at all, and the answer to a query mends what was lost.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "ops.h"

enum { MAX_HOLDINGS = 65536, MAX_HALTS = 4096 };

const char strategy_schema[] =
    "CREATE TABLE IF NOT EXISTS strategies(strategy_id TEXT PRIMARY KEY, strategy_name TEXT NOT "
    "NULL, version TEXT NOT NULL,"
    " status TEXT NOT NULL, kind TEXT NOT NULL, portfolio_id TEXT NOT NULL, venue TEXT NOT NULL, "
    "symbols TEXT NOT NULL,"
    " spec TEXT NOT NULL, parameters TEXT NOT NULL, created_ns INTEGER NOT NULL, updated_ns "
    "INTEGER NOT NULL,"
    " execution_no INTEGER NOT NULL, realized_before TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS orders(order_no INTEGER PRIMARY KEY, client_order_id TEXT NOT NULL "
    "UNIQUE,"
    " venue_order_id TEXT NOT NULL, venue TEXT NOT NULL, portfolio_id TEXT NOT NULL, strategy_id "
    "TEXT NOT NULL,"
    " symbol TEXT NOT NULL, side TEXT NOT NULL, order_type TEXT NOT NULL, time_in_force TEXT NOT "
    "NULL,"
    " state TEXT NOT NULL, quantity TEXT NOT NULL, price TEXT, filled TEXT NOT NULL, notional TEXT "
    "NOT NULL,"
    " fee TEXT NOT NULL, currency TEXT NOT NULL, realized TEXT NOT NULL, reduce_only INTEGER NOT "
    "NULL,"
    " partially INTEGER NOT NULL, valid_ms INTEGER NOT NULL, reason TEXT NOT NULL, denials TEXT,"
    " fallback_reason TEXT NOT NULL, ts_created INTEGER NOT NULL, ts_event INTEGER NOT NULL, "
    "ts_recv INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS orders_open ON orders(order_no) WHERE state NOT IN"
    " ('DENIED', 'REJECTED', 'FILLED', 'CANCELED', 'EXPIRED');"
    "CREATE TABLE IF NOT EXISTS order_events(event_no INTEGER PRIMARY KEY, order_no INTEGER NOT "
    "NULL, event TEXT NOT NULL,"
    " state TEXT NOT NULL, detail TEXT NOT NULL, ts_event INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS fills(fill_no INTEGER PRIMARY KEY, venue TEXT NOT NULL, trade_id "
    "TEXT NOT NULL,"
    " client_order_id TEXT NOT NULL, strategy_id TEXT NOT NULL, portfolio_id TEXT NOT NULL, symbol "
    "TEXT NOT NULL,"
    " side TEXT NOT NULL, quantity TEXT NOT NULL, price TEXT NOT NULL, fee TEXT NOT NULL, currency "
    "TEXT NOT NULL,"
    " liquidity TEXT NOT NULL, ts_event INTEGER NOT NULL, UNIQUE(venue, trade_id));"
    "CREATE INDEX IF NOT EXISTS fills_order ON fills(client_order_id);"
    "CREATE TABLE IF NOT EXISTS decisions(order_no INTEGER PRIMARY KEY, traceparent TEXT NOT NULL, "
    "decision TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS trading_states(portfolio_id TEXT PRIMARY KEY, state TEXT NOT NULL, "
    "reason TEXT NOT NULL,"
    " ts_event INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS executions(execution_no INTEGER PRIMARY KEY, strategy_id TEXT NOT "
    "NULL,"
    " started_ns INTEGER NOT NULL, stopped_ns INTEGER, realized TEXT);"
    "CREATE TABLE IF NOT EXISTS deployments(deployment_no INTEGER PRIMARY KEY, strategy_id TEXT "
    "NOT NULL,"
    " status TEXT NOT NULL, stages_completed TEXT NOT NULL, detail TEXT NOT NULL, started_ns "
    "INTEGER NOT NULL,"
    " completed_ns INTEGER NOT NULL);";

static uint64_t generations;

int64_t strategy_now(struct strategy_state *s)
{
    return keel_session_ns(s->rt);
}

const char *strategy_name_of(const char *names, int index, char *buf, size_t cap)
{
    const struct keel_field row = {.unit = names};

    return keel_enum_name(&row, index, buf, cap);
}

static void copy(char *to, size_t cap, const char *from)
{
    size_t n = strlen(from);

    n = n < cap ? n : cap - 1;
    memcpy(to, from, n);
    to[n] = '\0';
}

/* ---- lists ---- */

static void list_add(struct strategy_list *l, struct strategy_entry *e)
{
    e->prev = l->last;
    e->next = NULL;
    if (l->last != NULL)
        l->last->next = e;
    else
        l->first = e;
    l->last = e;
    l->n++;
}

static void list_del(struct strategy_list *l, struct strategy_entry *e)
{
    if (e->prev != NULL)
        e->prev->next = e->next;
    else
        l->first = e->next;
    if (e->next != NULL)
        e->next->prev = e->prev;
    else
        l->last = e->prev;
    l->n--;
}

static void wake(struct strategy_state *s, struct strategy_entry *e, enum keel_status st)
{
    while (e->waiters != NULL) {
        struct strategy_waiter *w = e->waiters;

        e->waiters = w->next;
        keel_wake(s->rt, w->token, st);
        keel_free(w);
    }
}

void strategy_entry_free(struct strategy_entry *e)
{
    keel_free(e->denials);
    keel_free(e->trades);
    keel_free(e);
}

/* The oldest closed orders leave memory; one that a call or a transaction holds waits for the next
 * time. */
static void evict(struct strategy_state *s)
{
    struct strategy_entry *e = s->closed.first;

    while (e != NULL && s->closed.n > (size_t)s->opt->max_closed_orders && e->busy == 0 &&
           e->waiters == NULL) {
        struct strategy_entry *next = e->next;

        list_del(&s->closed, e);
        strategy_map_del(&s->orders, e->o.client_order_id);
        strategy_bloom_add(&s->evicted, e->o.client_order_id);
        strategy_entry_free(e);
        e = next;
    }
}

struct strategy_entry *strategy_order_find(struct strategy_state *s, const char *client_order_id)
{
    return strategy_map_get(&s->orders, client_order_id);
}

/* ---- holdings, trading states, marks ---- */

struct strategy_holding *strategy_holding_of(struct strategy_state *s, char owner, const char *id,
                                             const char *symbol, bool make)
{
    char key[sizeof((struct strategy_holding *)0)->key];
    struct strategy_holding *h;

    snprintf(key, sizeof key, "%c/%s/%s", owner, id, symbol);
    h = strategy_map_get(&s->holdings, key);
    if (h == NULL && make && s->holdings.n < MAX_HOLDINGS) {
        h = keel_alloc(1, sizeof *h);
        memcpy(h->key, key, sizeof key);
        strategy_map_put(&s->holdings, h->key, h);
    }
    return h;
}

/* Around every change of an order: what it may still fill leaves the sums (-1) and comes back (+1).
 */
static void count_open(struct strategy_entry *e, int sign)
{
    for (int i = 0; i < 2; i++)
        if (e->holding[i] != NULL)
            e->holding[i]->open[e->o.side] += sign * order_leaves(&e->o);
}

static int halt_of(struct strategy_state *s, const char *portfolio_id)
{
    const struct strategy_halt *h = strategy_map_get(&s->halts, portfolio_id);

    return h == NULL ? STRATEGY_ACTIVE : h->state;
}

int strategy_trading_state(struct strategy_state *s, const char *portfolio_id)
{
    int all = halt_of(s, "-"), own = halt_of(s, portfolio_id);

    return all > own ? all : own;
}

void strategy_set_trading_state(struct strategy_state *s, const char *portfolio_id, int state)
{
    struct strategy_halt *h = strategy_map_get(&s->halts, portfolio_id);

    if (h == NULL && s->halts.n < MAX_HALTS) {
        h = keel_alloc(1, sizeof *h);
        copy(h->portfolio_id, sizeof h->portfolio_id, portfolio_id);
        strategy_map_put(&s->halts, h->portfolio_id, h);
    }
    if (h != NULL)
        h->state = state;
    else /* More portfolios than places: the state holds for all rather than for none. */
        strategy_set_trading_state(s, "-", state > halt_of(s, "-") ? state : halt_of(s, "-"));
}

const struct strategy_mark *strategy_mark_of(struct strategy_state *s, const char *symbol)
{
    const struct strategy_mark *m = strategy_map_get(&s->marks, symbol);
    bool fresh = m != NULL && m->bid > 0 && m->ask > 0 &&
                 strategy_now(s) - m->ts_ns <= s->opt->venue_max_age_ms * 1000000;

    return fresh ? m : NULL;
}

/* ---- records ---- */

#define PUT(out, field, v) ((out)->field = (v), (out)->has_##field = true)

void strategy_order_record(const struct strategy_entry *e, struct keel_order *out)
{
    const struct order *o = &e->o;
    int64_t avg;

    memset(out, 0, sizeof *out);
    PUT(out, client_order_id, o->client_order_id);
    if (o->venue_order_id[0] != '\0')
        PUT(out, venue_order_id, o->venue_order_id);
    PUT(out, venue, o->venue);
    PUT(out, portfolio_id, o->portfolio_id);
    PUT(out, strategy_id, o->strategy_id);
    PUT(out, symbol, o->symbol);
    PUT(out, side, (int)o->side);
    PUT(out, order_type, (int)o->type);
    PUT(out, time_in_force, (int)o->tif);
    PUT(out, state, (int)o->state);
    PUT(out, quantity, o->quantity);
    PUT(out, filled_quantity, o->filled);
    PUT(out, leaves_quantity, order_leaves(o));
    if (o->has_price)
        PUT(out, price, o->price);
    if (order_avg_price(o, &avg) == KEEL_OK)
        PUT(out, avg_fill_price, avg);
    PUT(&out->fee, amount, o->fee);
    PUT(&out->fee, currency, o->currency);
    out->has_fee = true;
    PUT(out, realized_pnl, o->realized);
    PUT(out, reduce_only, o->reduce_only);
    PUT(out, partially, o->partially);
    if (o->reason[0] != '\0')
        PUT(out, reason, o->reason);
    PUT(out, ts_event, o->ts_event);
}

static void fill_record(const struct strategy_entry *e, const struct strategy_trade *t,
                        struct keel_fill *out)
{
    const struct order *o = &e->o;

    memset(out, 0, sizeof *out);
    PUT(out, trade_id, t->trade_id);
    PUT(out, client_order_id, o->client_order_id);
    PUT(out, strategy_id, o->strategy_id);
    PUT(out, venue, o->venue);
    PUT(out, portfolio_id, o->portfolio_id);
    PUT(out, symbol, o->symbol);
    PUT(out, side, (int)o->side);
    PUT(out, quantity, t->quantity);
    PUT(out, price, t->price);
    PUT(&out->fee, amount, t->fee);
    PUT(&out->fee, currency, o->currency);
    out->has_fee = true;
    PUT(out, liquidity, t->maker ? 0 : 1);
    PUT(out, fill_no, t->fill_no);
    PUT(out, ts_event, t->ts_event);
}

void strategy_order_write(const struct strategy_entry *e, struct keel_json *w, const char *key)
{
    struct keel_order r;

    strategy_order_record(e, &r);
    keel_json_obj(w, key);
    keel_record_encode(&keel_order_fields, &r, w);
    keel_json_arr(w, "fills");
    for (size_t i = 0; i < e->n_trades; i++) {
        const struct strategy_trade *t = &e->trades[i];

        keel_json_obj(w, NULL);
        keel_json_str(w, "trade_id", t->trade_id);
        keel_json_dec(w, "quantity", t->quantity);
        keel_json_dec(w, "price", t->price);
        keel_json_obj(w, "fee");
        keel_json_money(w, "amount", t->fee);
        keel_json_str(w, "currency", e->o.currency);
        keel_json_end(w);
        keel_json_str(w, "liquidity", t->maker ? "MAKER" : "TAKER");
        keel_json_end(w);
    }
    keel_json_end(w);
    if (e->decision != NULL)
        keel_json_raw(w, "decision", e->decision, strlen(e->decision));
    keel_json_end(w);
}

/* ---- rows ---- */

static int64_t int_cell(const char *cell)
{
    int64_t v = 0;

    return cell != NULL && keel_i64_parse(cell, strlen(cell), &v) == KEEL_OK ? v : 0;
}

static bool dec_cell(const char *cell, int64_t *out)
{
    return cell != NULL && keel_dec_parse(cell, strlen(cell), out) == KEEL_OK;
}

static bool money_cell(const char *cell, keel_i128 *out)
{
    return cell != NULL && keel_money_parse(cell, strlen(cell), out) == KEEL_OK;
}

static int index_cell(const char *names, const char *cell)
{
    return cell == NULL ? -1 : keel_enum_index(names, cell, strlen(cell));
}

enum keel_status strategy_order_row(struct strategy_entry *e, const char *const *cell)
{
    struct order *o = &e->o;
    int side = index_cell(KEEL_SIDES, cell[7]), type = index_cell(KEEL_ORDER_TYPES, cell[8]);
    int tif = index_cell(KEEL_TIFS, cell[9]), state = index_cell(KEEL_ORDER_STATES, cell[10]);

    e->order_no = int_cell(cell[0]);
    copy(o->client_order_id, sizeof o->client_order_id, cell[1]);
    copy(o->venue_order_id, sizeof o->venue_order_id, cell[2]);
    copy(o->venue, sizeof o->venue, cell[3]);
    copy(o->portfolio_id, sizeof o->portfolio_id, cell[4]);
    copy(o->strategy_id, sizeof o->strategy_id, cell[5]);
    copy(o->symbol, sizeof o->symbol, cell[6]);
    copy(o->currency, sizeof o->currency, cell[16]);
    copy(o->reason, sizeof o->reason, cell[21]);
    copy(e->fallback_reason, sizeof e->fallback_reason, cell[23]);
    if (side < 0 || type < 0 || tif < 0 || state < 0)
        return KEEL_INTERNAL;
    o->side = (enum order_side)side;
    o->type = (enum order_type)type;
    o->tif = (enum order_tif)tif;
    o->state = (enum order_state)state;
    o->has_price = cell[12] != NULL;
    o->reduce_only = int_cell(cell[18]) != 0;
    o->partially = int_cell(cell[19]) != 0;
    e->valid_ms = int_cell(cell[20]);
    e->ts_created = int_cell(cell[24]);
    o->ts_event = int_cell(cell[25]);
    e->ts_recv = int_cell(cell[26]);
    e->sent = true;
    if (cell[22] != NULL) {
        size_t n = strlen(cell[22]) + 1;

        e->denials = keel_alloc(n, 1);
        memcpy(e->denials, cell[22], n);
    }
    bool good = dec_cell(cell[11], &o->quantity) &&
                (!o->has_price || dec_cell(cell[12], &o->price)) &&
                dec_cell(cell[13], &o->filled) && money_cell(cell[14], &o->notional) &&
                money_cell(cell[15], &o->fee) && money_cell(cell[17], &o->realized);
    return good ? KEEL_OK : KEEL_INTERNAL;
}

static struct strategy_trade *trade_add(struct strategy_entry *e)
{
    if (e->n_trades == e->cap_trades) {
        e->cap_trades = e->cap_trades == 0 ? 4 : e->cap_trades * 2;
        e->trades = keel_realloc(e->trades, e->cap_trades, sizeof *e->trades);
    }
    memset(&e->trades[e->n_trades], 0, sizeof *e->trades);
    return &e->trades[e->n_trades++];
}

enum keel_status strategy_trade_row(struct strategy_entry *e, const char *const *cell)
{
    struct strategy_trade *t = trade_add(e);

    t->fill_no = int_cell(cell[0]);
    copy(t->trade_id, sizeof t->trade_id, cell[2]);
    t->maker = strcmp(cell[12], "MAKER") == 0;
    t->ts_event = int_cell(cell[13]);
    bool good = dec_cell(cell[8], &t->quantity) && dec_cell(cell[9], &t->price) &&
                money_cell(cell[10], &t->fee);
    return good ? KEEL_OK : KEEL_INTERNAL;
}

const char strategy_order_sql[] =
    "SELECT *, (SELECT decision FROM decisions WHERE decisions.order_no = o.order_no) FROM"
    " (SELECT " STRATEGY_ORDER_COLUMNS " FROM orders WHERE client_order_id = ?1) o LEFT JOIN"
    " (SELECT " STRATEGY_FILL_COLUMNS " FROM fills WHERE client_order_id = ?1) ORDER BY fill_no";

struct strategy_entry *strategy_order_of_rows(const struct keel_rows *r)
{
    struct strategy_entry *e = keel_alloc(1, sizeof *e);
    enum keel_status st = strategy_order_row(e, &KEEL_CELL(r, 0, 0));

    for (size_t i = 0; i < r->n && st == KEEL_OK; i++)
        if (KEEL_CELL(r, i, STRATEGY_N_ORDER_COLUMNS) != NULL)
            st = strategy_trade_row(e, &KEEL_CELL(r, i, STRATEGY_N_ORDER_COLUMNS));
    if (st == KEEL_OK)
        return e;
    strategy_entry_free(e);
    return NULL;
}

/* ---- transactions ---- */

/* A transaction of one order under way; by name, for the order may be gone when it comes back. */
struct commit {
    uint64_t generation;
    char client_order_id[ORDER_ID_LEN + 1];
};

static void send_cancel(struct strategy_state *s, struct strategy_entry *e)
{
    if (!e->cancel_due || e->busy > 0 || !e->sent || order_is_closed(e->o.state))
        return;
    e->cancel_due = false;
    paper_cancel(s->venue, e->o.client_order_id, strategy_now(s));
}

static void commit_done(struct keel_rt *rt, void *ctx, enum keel_status st)
{
    struct strategy_state *s = keel_state(rt);
    struct commit *k = ctx;
    struct strategy_entry *e = strategy_order_find(s, k->client_order_id);
    bool same = s->generation == k->generation;

    keel_free(k);
    if (!same) {
        /* Loaded again while this was under way: if it got into the file, the file is ahead of what
         * was read. */
        if (st == KEEL_OK && s->generation != 0) {
            strategy_journal_unload(s);
            if (strategy_journal_load(s) != KEEL_OK)
                keel_log(KEEL_LOG_ERROR, "journal_reload_failed", NULL);
        }
        return;
    }
    keel_assert(e != NULL && e->busy > 0);
    e->busy--;
    if (st != KEEL_OK) {
        /* Memory is wrong now; the core opens the engine again from the file. */
        wake(s, e, st);
        return;
    }
    if (e->busy == 0) {
        wake(s, e, KEEL_OK);
        send_cancel(s, e);
    }
}

static void commit_order(struct strategy_state *s, struct strategy_entry *e, struct keel_txn *t)
{
    struct commit *k = keel_alloc(1, sizeof *k);

    k->generation = s->generation;
    copy(k->client_order_id, sizeof k->client_order_id, e->o.client_order_id);
    e->busy++;
    keel_txn_commit(s->rt, t, commit_done, k);
}

static void log_event(struct keel_txn *t, const struct strategy_entry *e, enum order_event ev,
                      const char *detail, int64_t ts_event)
{
    keel_txn_exec(
        t, "INSERT INTO order_events(order_no, event, state, detail, ts_event) VALUES(?,?,?,?,?)",
        "isssi", e->order_no, order_event_name(ev), order_state_name(e->o.state), detail, ts_event);
}

static void publish_order(struct strategy_state *s, struct keel_call *c, struct keel_txn *t,
                          const struct strategy_entry *e)
{
    struct keel_order r;

    strategy_order_record(e, &r);
    keel_txn_publish(t, c, "strategy.critical.order", e->o.portfolio_id, e->o.ts_event,
                     strategy_now(s), &r);
}

static void insert_order(struct keel_txn *t, const struct strategy_entry *e)
{
    const struct order *o = &e->o;
    char price[KEEL_DEC_TEXT], side[8], type[8], tif[8];

    keel_dec_print(o->price, price);
    keel_txn_exec(t,
                  "INSERT INTO orders(" STRATEGY_ORDER_COLUMNS
                  ") VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                  "issssssssssDsDmmsmiiisssiii", e->order_no, o->client_order_id, o->venue_order_id,
                  o->venue, o->portfolio_id, o->strategy_id, o->symbol,
                  strategy_name_of(KEEL_SIDES, (int)o->side, side, sizeof side),
                  strategy_name_of(KEEL_ORDER_TYPES, (int)o->type, type, sizeof type),
                  strategy_name_of(KEEL_TIFS, (int)o->tif, tif, sizeof tif),
                  order_state_name(o->state), o->quantity, o->has_price ? price : NULL, o->filled,
                  &o->notional, &o->fee, o->currency, &o->realized, (int64_t)o->reduce_only,
                  (int64_t)o->partially, e->valid_ms, o->reason, e->denials, e->fallback_reason,
                  e->ts_created, o->ts_event, e->ts_recv);
}

static void insert_decision(struct keel_txn *t, struct strategy_entry *e)
{
    if (e->decision != NULL)
        keel_txn_exec(t, "INSERT INTO decisions(order_no, traceparent, decision) VALUES(?,?,?)",
                      "iss", e->order_no, e->traceparent, e->decision);
    e->decision = NULL;
}

static void update_order(struct keel_txn *t, const struct strategy_entry *e)
{
    const struct order *o = &e->o;

    keel_txn_exec(t,
                  "UPDATE orders SET venue_order_id = ?, state = ?, filled = ?, notional = ?, fee "
                  "= ?, realized = ?,"
                  " partially = ?, reason = ?, ts_event = ? WHERE order_no = ?",
                  "ssDmmmisii", o->venue_order_id, order_state_name(o->state), o->filled,
                  &o->notional, &o->fee, &o->realized, (int64_t)o->partially, o->reason,
                  o->ts_event, e->order_no);
}

static void insert_fill(struct keel_txn *t, const struct strategy_entry *e,
                        const struct strategy_trade *f)
{
    const struct order *o = &e->o;
    char side[8];

    keel_txn_exec(
        t, "INSERT INTO fills(" STRATEGY_FILL_COLUMNS ") VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        "isssssssDDmssi", f->fill_no, o->venue, f->trade_id, o->client_order_id, o->strategy_id,
        o->portfolio_id, o->symbol, strategy_name_of(KEEL_SIDES, (int)o->side, side, sizeof side),
        f->quantity, f->price, &f->fee, o->currency, f->maker ? "MAKER" : "TAKER", f->ts_event);
}

/* ---- changes of an order ---- */

struct strategy_entry *strategy_order_new(struct strategy_state *s, struct keel_call *c,
                                          const struct strategy_entry *as, enum order_event ev,
                                          const char *denials)
{
    struct strategy_holding *portfolio =
        strategy_holding_of(s, 'p', as->o.portfolio_id, as->o.symbol, true);
    struct strategy_holding *strategy =
        strategy_holding_of(s, 's', as->o.strategy_id, as->o.symbol, true);

    if (portfolio == NULL || strategy == NULL || s->open.n >= (size_t)s->opt->max_open_orders)
        return NULL;

    struct strategy_entry *e = keel_alloc(1, sizeof *e);
    struct keel_txn *t = keel_txn_new(keel_store(s->rt));

    *e = *as;
    e->order_no = ++s->last_order_no;
    e->ts_created = strategy_now(s);
    e->holding[0] = portfolio;
    e->holding[1] = strategy;
    if (denials != NULL) {
        size_t n = strlen(denials) + 1;

        e->denials = keel_alloc(n, 1);
        memcpy(e->denials, denials, n);
    }
    keel_assert(order_apply(&e->o, ev, e->ts_created) == KEEL_OK);
    strategy_map_put(&s->orders, e->o.client_order_id, e);
    list_add(order_is_closed(e->o.state) ? &s->closed : &s->open, e);
    count_open(e, 1);
    insert_order(t, e);
    insert_decision(t, e);
    log_event(t, e, ev, e->o.reason, e->o.ts_event);
    publish_order(s, c, t, e);
    commit_order(s, e, t);
    evict(s);
    return e;
}

/* After a change that may have closed it. */
static void settle(struct strategy_state *s, struct strategy_entry *e, bool was_closed)
{
    if (!was_closed && order_is_closed(e->o.state)) {
        list_del(&s->open, e);
        list_add(&s->closed, e);
        evict(s);
    }
}

bool strategy_order_event(struct strategy_state *s, struct keel_call *c, struct strategy_entry *e,
                          enum order_event ev, const char *reason)
{
    bool was_closed = order_is_closed(e->o.state);
    struct keel_txn *t;

    count_open(e, -1);
    enum keel_status st = order_apply(&e->o, ev, strategy_now(s));
    count_open(e, 1);
    if (st != KEEL_OK)
        return false;
    copy(e->o.reason, sizeof e->o.reason, reason);
    t = keel_txn_new(keel_store(s->rt));
    update_order(t, e);
    log_event(t, e, ev, reason, e->o.ts_event);
    publish_order(s, c, t, e);
    commit_order(s, e, t);
    settle(s, e, was_closed);
    return true;
}

void strategy_order_cancel(struct strategy_state *s, struct keel_call *c, struct strategy_entry *e,
                           const char *reason)
{
    if (order_is_closed(e->o.state))
        return;
    if (!e->sent) {
        e->unsent_reason = reason;
        return;
    }
    e->cancel_due = true;
    /* An UNKNOWN order stays that until the venue says otherwise, but the cancel goes out all the
     * same. */
    if (e->o.state == ORDER_PENDING_CANCEL ||
        !strategy_order_event(s, c, e, ORDER_EV_ASK_CANCEL, reason))
        send_cancel(s, e);
}

size_t strategy_cancel_all(struct strategy_state *s, struct keel_call *c, const char *portfolio_id,
                           const char *reason)
{
    size_t n = 0;

    for (struct strategy_entry *e = s->open.first, *next; e != NULL; e = next) {
        next = e->next;
        if (portfolio_id != NULL && strcmp(e->o.portfolio_id, portfolio_id) != 0)
            continue;
        strategy_order_cancel(s, c, e, reason);
        n++;
    }
    return n;
}

enum keel_status strategy_order_wait(struct keel_call *c, struct strategy_entry *e,
                                     keel_step_fn *next)
{
    struct strategy_waiter *w = keel_alloc(1, sizeof *w);

    keel_await_wake(c, next, &w->token);
    w->next = e->waiters;
    e->waiters = w;
    return KEEL_WAIT;
}

/* ---- reports ---- */

/* What one report changes; the transaction exists from the first change on. */
struct change {
    struct strategy_state *s;
    struct strategy_entry *e;
    struct keel_txn *txn;
    bool ask_again;
};

static struct keel_txn *change_txn(struct change *ch)
{
    if (ch->txn == NULL)
        ch->txn = keel_txn_new(keel_store(ch->s->rt));
    return ch->txn;
}

static bool knows(const struct strategy_entry *e, size_t at, const char *trade_id)
{
    if (at < e->n_trades && strcmp(e->trades[at].trade_id, trade_id) == 0)
        return true;
    for (size_t i = 0; i < e->n_trades; i++)
        if (strcmp(e->trades[i].trade_id, trade_id) == 0)
            return true;
    return false;
}

/* A fill that no call waits for still belongs to its order's trace. */
static void publish_fill(struct change *ch, const struct keel_fill *r)
{
    struct strategy_entry *e = ch->e;
    struct keel_header origin = {.seq = 0};
    struct keel_call nobody = {.rt = ch->s->rt, .rec = &origin};

    copy(origin.traceparent, sizeof origin.traceparent, e->traceparent);
    keel_txn_publish(ch->txn,
                     e->cause != NULL                ? e->cause
                     : origin.traceparent[0] != '\0' ? &nobody
                                                     : NULL,
                     "strategy.critical.fill", e->o.portfolio_id, r->ts_event, strategy_now(ch->s),
                     r);
}

/* Order, both holdings, journal, bus: all of it or nothing. */
static bool apply_fill(struct change *ch, const struct paper_fill *f, enum order_event ev)
{
    struct strategy_entry *e = ch->e;
    struct order_position own = e->holding[0]->position, its = e->holding[1]->position;
    struct order next = e->o;
    struct order_fill fill = {.quantity = f->quantity, .ts_event = f->ts_event, .fee = f->fee};
    keel_i128 ignored;

    if (keel_notional(f->price, f->quantity, KEEL_SCALE, &fill.notional) != KEEL_OK ||
        order_position_fill(&own, e->o.side, f->quantity, fill.notional, f->fee, &fill.realized) !=
            KEEL_OK ||
        order_position_fill(&its, e->o.side, f->quantity, fill.notional, f->fee, &ignored) !=
            KEEL_OK ||
        order_fill(&next, ev, &fill) != KEEL_OK)
        return false;

    struct strategy_trade *t = trade_add(e);
    struct keel_fill r;

    copy(t->trade_id, sizeof t->trade_id, f->trade_id);
    t->fill_no = ++ch->s->last_fill_no;
    t->quantity = f->quantity;
    t->price = f->price;
    t->fee = f->fee;
    t->maker = f->maker;
    t->ts_event = f->ts_event;
    e->holding[0]->position = own;
    e->holding[1]->position = its;
    count_open(e, -1);
    e->o = next;
    count_open(e, 1);
    insert_fill(change_txn(ch), e, t);
    log_event(ch->txn, e, ev, t->trade_id, f->ts_event);
    fill_record(e, t, &r);
    publish_fill(ch, &r);
    return true;
}

static void apply_fills(struct change *ch, const struct paper_report *r)
{
    struct strategy_entry *e = ch->e;

    for (size_t i = 0; i < r->n_fills; i++) {
        bool late = order_is_closed(e->o.state);

        if (knows(e, i, r->fills[i].trade_id))
            continue;
        if (late && !r->answer) {
            /* Only reconciliation may add to a closed order: the answer to a query is that. */
            ch->ask_again = true;
            return;
        }
        if (!apply_fill(ch, &r->fills[i], late ? ORDER_EV_LATE_FILL : ORDER_EV_FILL)) {
            keel_log(KEEL_LOG_ERROR, "fill_refused", "client_order_id=%s trade_id=%s state=%s",
                     e->o.client_order_id, r->fills[i].trade_id, order_state_name(e->o.state));
            return;
        }
    }
}

static void apply_event(struct change *ch, enum order_event ev, const char *reason,
                        int64_t ts_event)
{
    struct strategy_entry *e = ch->e;

    count_open(e, -1);
    enum keel_status st = order_apply(&e->o, ev, ts_event);
    count_open(e, 1);
    if (st != KEEL_OK)
        return;
    /* Why a cancel was asked for says more than that it was asked for. */
    if (reason[0] != '\0' && !(ev == ORDER_EV_CANCEL && e->o.reason[0] != '\0'))
        copy(e->o.reason, sizeof e->o.reason, reason);
    log_event(change_txn(ch), e, ev, reason, ts_event);
}

static void apply_state(struct change *ch, const struct paper_report *r)
{
    struct strategy_entry *e = ch->e;
    enum order_state now = e->o.state;
    bool in_flight = now == ORDER_SUBMITTED || now == ORDER_UNKNOWN;

    switch (r->state) {
    case PAPER_OPEN:
        if (in_flight)
            apply_event(ch, ORDER_EV_ACCEPT, "", r->ts_event);
        else if (now == ORDER_PENDING_CANCEL && r->answer)
            e->cancel_due = true;
        break;
    case PAPER_CANCELED:
        apply_event(ch, ORDER_EV_CANCEL, r->reason, r->ts_event);
        break;
    case PAPER_EXPIRED:
        apply_event(ch, ORDER_EV_EXPIRE, r->reason, r->ts_event);
        break;
    case PAPER_REJECTED:
        apply_event(ch, ORDER_EV_REJECT, r->reason, r->ts_event);
        break;
    case PAPER_UNKNOWN:
        if (in_flight || now == ORDER_PENDING_CANCEL)
            apply_event(ch, ORDER_EV_REJECT, r->reason, strategy_now(ch->s));
        else if (!order_is_closed(now))
            keel_log_often(KEEL_LOG_ERROR, "order_unknown_at_venue", "client_order_id=%s state=%s",
                           e->o.client_order_id, order_state_name(now));
        break;
    case PAPER_FILLED: /* the fills have said so */
        break;
    }
}

void strategy_report(void *ctx, const struct paper_report *r)
{
    struct strategy_state *s = ctx;
    struct strategy_entry *e = strategy_order_find(s, r->client_order_id);
    struct change ch = {.s = s, .e = e};

    if (e == NULL) {
        if (!strategy_bloom_maybe(&s->evicted, r->client_order_id))
            keel_log_often(KEEL_LOG_WARN, "report_without_order", "client_order_id=%s",
                           r->client_order_id);
        return;
    }

    bool was_closed = order_is_closed(e->o.state);

    apply_fills(&ch, r);
    if (r->venue_order_id[0] != '\0' && e->o.venue_order_id[0] == '\0')
        copy(e->o.venue_order_id, sizeof e->o.venue_order_id, r->venue_order_id);
    if (e->o.filled == r->filled)
        apply_state(&ch, r);
    if (e->o.state == ORDER_FILLED)
        e->o.reason[0] = '\0';
    if (ch.txn != NULL) {
        e->o.partially = e->o.partially || (e->o.filled > 0 && e->o.filled < e->o.quantity);
        update_order(ch.txn, e);
        publish_order(s, e->cause, ch.txn, e);
        commit_order(s, e, ch.txn);
        settle(s, e, was_closed);
    } else {
        send_cancel(s, e);
    }
    if (ch.ask_again)
        paper_query(s->venue, r->client_order_id);
}

/* ---- loading ---- */

static enum keel_status load_def(void *ctx, int n, const char *const *cell)
{
    struct strategy_state *s = ctx;
    struct strategy_def *d = keel_alloc(1, sizeof *d);

    (void)n;
    if (strategy_def_row(d, cell) != KEEL_OK) {
        keel_free(d);
        return KEEL_INTERNAL;
    }
    strategy_map_put(&s->strategies, d->id, d);
    return KEEL_OK;
}

static enum keel_status load_run(void *ctx, int n, const char *const *cell)
{
    struct strategy_state *s = ctx;
    struct strategy_def *d = strategy_map_get(&s->strategies, cell[0]);

    (void)n;
    if (d != NULL)
        d->started_ns = int_cell(cell[1]);
    return KEEL_OK;
}

static enum keel_status load_order(void *ctx, int n, const char *const *cell)
{
    struct strategy_state *s = ctx;
    struct strategy_entry *e = keel_alloc(1, sizeof *e);
    enum keel_status st = strategy_order_row(e, cell);

    (void)n;
    strategy_map_put(&s->orders, e->o.client_order_id, e);
    list_add(order_is_closed(e->o.state) ? &s->closed : &s->open, e);
    e->holding[0] = strategy_holding_of(s, 'p', e->o.portfolio_id, e->o.symbol, true);
    e->holding[1] = strategy_holding_of(s, 's', e->o.strategy_id, e->o.symbol, true);
    if (st != KEEL_OK || e->holding[0] == NULL || e->holding[1] == NULL)
        return KEEL_INTERNAL;
    count_open(e, 1);
    return KEEL_OK;
}

/* Of every order there ever was, when those that memory keeps are in it. */
static enum keel_status load_id(void *ctx, int n, const char *const *cell)
{
    struct strategy_state *s = ctx;

    (void)n;
    if (strategy_order_find(s, cell[0]) == NULL)
        strategy_bloom_add(&s->evicted, cell[0]);
    return KEEL_OK;
}

static enum keel_status load_trace(void *ctx, int n, const char *const *cell)
{
    struct strategy_state *s = ctx;
    struct strategy_entry *e = strategy_order_find(s, cell[0]);

    (void)n;
    if (e != NULL)
        copy(e->traceparent, sizeof e->traceparent, cell[1]);
    return KEEL_OK;
}

/* Every fill there ever was makes the positions; those of orders in memory are kept with them. */
static enum keel_status load_fill(void *ctx, int n, const char *const *cell)
{
    struct strategy_state *s = ctx;
    struct strategy_entry *e = strategy_order_find(s, cell[3]);
    struct strategy_holding *own = strategy_holding_of(s, 'p', cell[5], cell[6], true);
    struct strategy_holding *its = strategy_holding_of(s, 's', cell[4], cell[6], true);
    int side = index_cell(KEEL_SIDES, cell[7]);
    int64_t quantity, price;
    keel_i128 notional, fee, realized;

    (void)n;
    if (own == NULL || its == NULL || side < 0 || !dec_cell(cell[8], &quantity) ||
        !dec_cell(cell[9], &price) || !money_cell(cell[10], &fee) ||
        keel_notional(price, quantity, KEEL_SCALE, &notional) != KEEL_OK ||
        order_position_fill(&own->position, (enum order_side)side, quantity, notional, fee,
                            &realized) != KEEL_OK ||
        order_position_fill(&its->position, (enum order_side)side, quantity, notional, fee,
                            &realized) != KEEL_OK)
        return KEEL_INTERNAL;
    s->last_fill_no = int_cell(cell[0]);
    return e == NULL ? KEEL_OK : strategy_trade_row(e, cell);
}

static enum keel_status load_halt(void *ctx, int n, const char *const *cell)
{
    int state = index_cell(KEEL_TRADING_STATES, cell[1]);

    (void)n;
    if (state < 0)
        return KEEL_INTERNAL;
    strategy_set_trading_state(ctx, cell[0], state);
    return KEEL_OK;
}

static enum keel_status load_counts(void *ctx, int n, const char *const *cell)
{
    struct strategy_state *s = ctx;

    (void)n;
    s->last_order_no = s->loaded_order_no = int_cell(cell[0]);
    s->last_execution_no = int_cell(cell[1]);
    s->last_deployment_no = int_cell(cell[2]);
    return KEEL_OK;
}

enum keel_status strategy_journal_load(struct strategy_state *s)
{
    struct keel_store *store = keel_store(s->rt);
    char sql[900];
    enum keel_status st;

    s->generation = ++generations;
    s->last_fill_no = 0;
    s->reconciled = false;
    snprintf(sql, sizeof sql,
             "SELECT " STRATEGY_ORDER_COLUMNS
             " FROM orders WHERE state NOT IN ('DENIED', 'REJECTED', 'FILLED', 'CANCELED',"
             " 'EXPIRED') OR order_no > (SELECT max(order_no) FROM orders) - %" PRId64
             " ORDER BY order_no",
             s->opt->max_closed_orders);
    if ((st = keel_store_each(
             store,
             "SELECT (SELECT coalesce(max(order_no), 0) FROM orders), (SELECT "
             "coalesce(max(execution_no), 0)"
             " FROM executions), (SELECT coalesce(max(deployment_no), 0) FROM deployments)",
             load_counts, s)) != KEEL_OK ||
        (st = keel_store_each(store, "SELECT " STRATEGY_COLUMNS " FROM strategies", load_def, s)) !=
            KEEL_OK ||
        (st = keel_store_each(store,
                              "SELECT strategy_id, started_ns FROM executions"
                              " WHERE stopped_ns IS NULL",
                              load_run, s)) != KEEL_OK ||
        (st = keel_store_each(store, "SELECT portfolio_id, state FROM trading_states", load_halt,
                              s)) != KEEL_OK ||
        (st = keel_store_each(store, sql, load_order, s)) != KEEL_OK ||
        (st = keel_store_each(store, "SELECT client_order_id FROM orders", load_id, s)) != KEEL_OK ||
        (st = keel_store_each(store,
                              "SELECT client_order_id, traceparent FROM orders JOIN decisions USING"
                              " (order_no) WHERE state NOT IN ('DENIED', 'REJECTED', 'FILLED', 'CANCELED',"
                              " 'EXPIRED')",
                              load_trace, s)) != KEEL_OK)
        return st;
    return keel_store_each(store, "SELECT " STRATEGY_FILL_COLUMNS " FROM fills ORDER BY fill_no",
                           load_fill, s);
}

static void free_values(struct strategy_map *m)
{
    for (size_t i = 0; i < m->cap; i++)
        keel_free(m->slot[i].value);
    strategy_map_fini(m);
}

void strategy_journal_unload(struct strategy_state *s)
{
    for (size_t i = 0; i < s->orders.cap; i++)
        if (s->orders.slot[i].key != NULL) {
            wake(s, s->orders.slot[i].value, KEEL_UNAVAILABLE);
            strategy_entry_free(s->orders.slot[i].value);
        }
    strategy_map_fini(&s->orders);
    strategy_bloom_fini(&s->evicted);
    free_values(&s->holdings);
    for (size_t i = 0; i < s->strategies.cap; i++)
        if (s->strategies.slot[i].key != NULL)
            strategy_def_forget(s->strategies.slot[i].value);
    free_values(&s->strategies);
    free_values(&s->halts);
    s->open = s->closed = (struct strategy_list){NULL, NULL, 0};
}
