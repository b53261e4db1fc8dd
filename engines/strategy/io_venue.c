/*
 * The paper venue's memory and file. Matching is decided on the loop and committed by the store
 * thread; the report is made when the commit is back, from what that commit holds. After a failed
 * commit memory is ahead of the file and is thrown away.
 */
#include "io_venue.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/log.h"
#include "keel/store.h"
#include "bloom.h"
#include "map.h"

#define DAY_NS (86400LL * 1000000000LL)

enum { MAX_FILLS = 1000 }; /* of one order; the rest is canceled then */

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS orders(order_no INTEGER PRIMARY KEY, client_order_id TEXT NOT NULL "
    "UNIQUE,"
    " symbol TEXT NOT NULL, side INTEGER NOT NULL, order_type INTEGER NOT NULL, time_in_force "
    "INTEGER NOT NULL,"
    " price TEXT, quantity TEXT NOT NULL, filled TEXT NOT NULL, state INTEGER NOT NULL, reason "
    "TEXT NOT NULL,"
    " ts_event INTEGER NOT NULL, ts_expire INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS orders_state ON orders(state);"
    "CREATE TABLE IF NOT EXISTS trades(trade_no INTEGER PRIMARY KEY, order_no INTEGER NOT NULL, "
    "quantity TEXT NOT NULL,"
    " price TEXT NOT NULL, fee TEXT NOT NULL, maker INTEGER NOT NULL, ts_event INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS trades_order ON trades(order_no);"
    /* The venue's evidence as the outside names it. */
    "CREATE VIEW IF NOT EXISTS venue_trades AS SELECT 'PAPER-' || t.trade_no AS trade_id, "
    "o.client_order_id AS"
    " client_order_id, t.quantity AS quantity, t.price AS price, t.fee AS fee FROM trades t JOIN "
    "orders o USING(order_no);";

#define ORDER_COLUMNS                                                                              \
    "o.order_no, o.client_order_id, o.symbol, o.side, o.order_type, o.time_in_force, o.price, "    \
    "o.quantity, o.filled,"                                                                        \
    " o.state, o.reason, o.ts_event, o.ts_expire"
#define TRADE_COLUMNS                                                                              \
    "o.client_order_id, t.trade_no, t.quantity, t.price, t.fee, t.maker, t.ts_event"

struct vorder {
    char client_order_id[ORDER_ID_LEN + 1], venue_order_id[PAPER_ID_LEN + 1],
        symbol[ORDER_SYMBOL_LEN + 1], reason[32];
    int64_t no;
    struct venue_ticket ticket;
    int64_t filled, ts_event, ts_expire; /* ts_expire 0: never */
    enum paper_state state;
    struct paper_fill *fills;
    size_t n_fills, cap_fills, n_stored; /* n_stored: fills that some transaction holds */
    uint32_t busy;                       /* transactions under way */
    struct vorder *next; /* resting: of its symbol and side, best first; closed: younger */
};

struct vsymbol {
    char symbol[ORDER_SYMBOL_LEN + 1];
    struct venue_book book;
    bool has_book;
    struct vorder *resting[2];
};

/* A report that a fault holds back. */
struct held {
    char client_order_id[ORDER_ID_LEN + 1];
    int ticks;
    struct held *next;
};

struct paper {
    struct keel_rt *rt;
    struct keel_store *store;
    struct paper_conf conf;
    paper_report_fn *report;
    void *ctx;
    uint64_t generation;
    struct strategy_map orders, symbols;
    struct vorder *oldest_closed, *newest_closed;
    size_t n_closed;
    int64_t last_order_no, last_trade_no;
    size_t inflight;
    bool broken;  /* a commit failed: memory is ahead of the file */
    struct strategy_bloom evicted; /* ids that the file knows and memory does not */
    struct held *held;
    struct paper *next;
};

/* A transaction under way and what its report will say. It may come back when the venue that sent
 * it is closed. */
struct commit {
    uint64_t generation;
    struct keel_store *store;
    struct vorder *order;
    size_t n_fills;
    int64_t filled, ts_event;
    enum paper_state state;
};

/* Open venues (one a process; tests have several), so that a commit that comes back late finds its
 * own or none. */
static struct paper *venues;
static uint64_t generations;

/* ---- reports ---- */

static void tell(struct paper *p, const struct vorder *v, enum paper_state state, size_t n_fills,
                 int64_t filled, int64_t ts_event, bool answer)
{
    struct paper_report r = {.client_order_id = v->client_order_id,
                             .venue_order_id = v->venue_order_id,
                             .state = state,
                             .reason =
                                 state == PAPER_OPEN || state == PAPER_FILLED ? "" : v->reason,
                             .currency = p->conf.currency,
                             .filled = filled,
                             .ts_event = ts_event,
                             .fills = v->fills,
                             .n_fills = n_fills,
                             .answer = answer};

    p->report(p->ctx, &r);
}

static void tell_all(struct paper *p, const struct vorder *v, bool answer)
{
    tell(p, v, v->state, v->n_fills, v->filled, v->ts_event, answer);
}

static void hold(struct paper *p, const struct vorder *v)
{
    struct held *h = keel_alloc(1, sizeof *h), **at = &p->held;

    memcpy(h->client_order_id, v->client_order_id, sizeof h->client_order_id);
    h->ticks = 2;
    while (*at != NULL)
        at = &(*at)->next;
    *at = h;
}

static void tell_due(struct paper *p, const struct commit *k)
{
    if (p->conf.fault == PAPER_DROPS)
        return;
    if (p->conf.fault == PAPER_DELAYS) {
        hold(p, k->order);
        return;
    }
    tell(p, k->order, k->state, k->n_fills, k->filled, k->ts_event, false);
    if (p->conf.fault == PAPER_REPEATS)
        tell(p, k->order, k->state, k->n_fills, k->filled, k->ts_event, false);
}

/* ---- lists ---- */

static struct vsymbol *symbol_of(struct paper *p, const char *symbol)
{
    struct vsymbol *y = strategy_map_get(&p->symbols, symbol);

    if (y != NULL || p->symbols.n >= p->conf.max_symbols || strlen(symbol) > ORDER_SYMBOL_LEN)
        return y;
    y = keel_alloc(1, sizeof *y);
    memcpy(y->symbol, symbol, strlen(symbol));
    strategy_map_put(&p->symbols, y->symbol, y);
    return y;
}

/* Better price first, then older. */
static bool before(const struct vorder *a, const struct vorder *b)
{
    if (a->ticket.price != b->ticket.price)
        return a->ticket.side == ORDER_BUY ? a->ticket.price > b->ticket.price
                                           : a->ticket.price < b->ticket.price;
    return a->no < b->no;
}

static void rest(struct paper *p, struct vorder *v)
{
    struct vsymbol *y = symbol_of(p, v->symbol);

    if (y == NULL)
        return;

    struct vorder **at = &y->resting[v->ticket.side];

    while (*at != NULL && before(*at, v))
        at = &(*at)->next;
    v->next = *at;
    *at = v;
}

static void unrest(struct paper *p, struct vorder *v)
{
    struct vsymbol *y = strategy_map_get(&p->symbols, v->symbol);

    for (struct vorder **at = y == NULL ? NULL : &y->resting[v->ticket.side];
         at != NULL && *at != NULL; at = &(*at)->next)
        if (*at == v) {
            *at = v->next;
            break;
        }
    v->next = NULL;
}

static void forget(struct vorder *v)
{
    keel_free(v->fills);
    keel_free(v);
}

/* Closed orders leave memory oldest first, but none whose commit is under way. */
static void keep_closed(struct paper *p, struct vorder *v)
{
    if (p->newest_closed != NULL)
        p->newest_closed->next = v;
    else
        p->oldest_closed = v;
    p->newest_closed = v;
    v->next = NULL;
    p->n_closed++;
    while (p->n_closed > p->conf.keep_closed && p->oldest_closed->busy == 0 &&
           p->oldest_closed != v) {
        struct vorder *old = p->oldest_closed;

        p->oldest_closed = old->next;
        p->n_closed--;
        strategy_map_del(&p->orders, old->client_order_id);
        strategy_bloom_add(&p->evicted, old->client_order_id);
        forget(old);
    }
}

/* ---- the file ---- */

static enum keel_status dec_cell(const char *cell, int64_t *out)
{
    return cell == NULL ? KEEL_INVALID : keel_dec_parse(cell, strlen(cell), out);
}

static int64_t int_cell(const char *cell)
{
    int64_t v = 0;

    return cell != NULL && keel_i64_parse(cell, strlen(cell), &v) == KEEL_OK ? v : 0;
}

static enum keel_status order_row(struct vorder *v, const char *const *cell)
{
    v->no = int_cell(cell[0]);
    snprintf(v->venue_order_id, sizeof v->venue_order_id, "PAPER-%" PRId64, v->no);
    snprintf(v->client_order_id, sizeof v->client_order_id, "%s", cell[1]);
    snprintf(v->symbol, sizeof v->symbol, "%s", cell[2]);
    v->ticket.side = int_cell(cell[3]) == ORDER_BUY ? ORDER_BUY : ORDER_SELL;
    v->ticket.type = int_cell(cell[4]) == ORDER_MARKET ? ORDER_MARKET : ORDER_LIMIT;
    v->ticket.tif = (enum order_tif)int_cell(cell[5]);
    v->ticket.has_price = cell[6] != NULL;
    v->state = (enum paper_state)int_cell(cell[9]);
    snprintf(v->reason, sizeof v->reason, "%s", cell[10]);
    v->ts_event = int_cell(cell[11]);
    v->ts_expire = int_cell(cell[12]);
    if ((v->ticket.has_price && dec_cell(cell[6], &v->ticket.price) != KEEL_OK) ||
        dec_cell(cell[7], &v->ticket.quantity) != KEEL_OK ||
        dec_cell(cell[8], &v->filled) != KEEL_OK)
        return KEEL_INTERNAL;
    return KEEL_OK;
}

static struct paper_fill *add_fill(struct vorder *v)
{
    if (v->n_fills == v->cap_fills) {
        v->cap_fills = v->cap_fills == 0 ? 4 : v->cap_fills * 2;
        v->fills = keel_realloc(v->fills, v->cap_fills, sizeof *v->fills);
    }
    memset(&v->fills[v->n_fills], 0, sizeof *v->fills);
    return &v->fills[v->n_fills++];
}

static void name_trade(struct paper_fill *f, int64_t trade_no)
{
    snprintf(f->trade_id, sizeof f->trade_id, "PAPER-%" PRId64, trade_no);
}

static enum keel_status trade_row(struct vorder *v, const char *const *cell)
{
    struct paper_fill *f = add_fill(v);

    name_trade(f, int_cell(cell[1]));
    f->maker = int_cell(cell[5]) != 0;
    f->ts_event = int_cell(cell[6]);
    v->n_stored = v->n_fills;
    if (dec_cell(cell[2], &f->quantity) != KEEL_OK || dec_cell(cell[3], &f->price) != KEEL_OK ||
        keel_money_parse(cell[4], strlen(cell[4]), &f->fee) != KEEL_OK)
        return KEEL_INTERNAL;
    return KEEL_OK;
}

static enum keel_status load_order(void *ctx, int n, const char *const *cell)
{
    struct paper *p = ctx;
    struct vorder *v = keel_alloc(1, sizeof *v);
    enum keel_status st = order_row(v, cell);

    (void)n;
    strategy_map_put(&p->orders, v->client_order_id, v);
    if (v->state == PAPER_OPEN)
        rest(p, v);
    else
        keep_closed(p, v);
    return st;
}

/* Of every order there ever was, when those that memory keeps are in it. */
static enum keel_status load_id(void *ctx, int n, const char *const *cell)
{
    struct paper *p = ctx;

    (void)n;
    if (strategy_map_get(&p->orders, cell[0]) == NULL)
        strategy_bloom_add(&p->evicted, cell[0]);
    return KEEL_OK;
}

static enum keel_status load_trade(void *ctx, int n, const char *const *cell)
{
    struct paper *p = ctx;
    struct vorder *v = strategy_map_get(&p->orders, cell[0]);

    (void)n;
    return v == NULL ? KEEL_OK : trade_row(v, cell);
}

static enum keel_status load_counts(void *ctx, int n, const char *const *cell)
{
    struct paper *p = ctx;

    (void)n;
    p->last_order_no = int_cell(cell[0]);
    p->last_trade_no = int_cell(cell[1]);
    return KEEL_OK;
}

static enum keel_status load(struct paper *p)
{
    char from[96], sql[512];
    enum keel_status st;

    p->generation = ++generations;
    p->broken = false;
    p->inflight = 0;
    snprintf(from, sizeof from,
             "o.state = %d OR o.order_no > (SELECT max(order_no) FROM orders) - %zu", PAPER_OPEN,
             p->conf.keep_closed);
    if ((st = keel_store_each(p->store,
                              "SELECT coalesce(max(order_no), 0), (SELECT coalesce(max(trade_no), 0)"
                              " FROM trades) FROM orders",
                              load_counts, p)) != KEEL_OK)
        return st;
    snprintf(sql, sizeof sql, "SELECT " ORDER_COLUMNS " FROM orders o WHERE %s ORDER BY o.order_no",
             from);
    if ((st = keel_store_each(p->store, sql, load_order, p)) != KEEL_OK ||
        (st = keel_store_each(p->store, "SELECT client_order_id FROM orders", load_id, p)) != KEEL_OK)
        return st;
    snprintf(sql, sizeof sql,
             "SELECT " TRADE_COLUMNS " FROM trades t JOIN orders o USING(order_no) WHERE %s"
             " ORDER BY t.trade_no",
             from);
    return keel_store_each(p->store, sql, load_trade, p);
}

/* Orders go, the market's view stays: what was taken of a level is at worst a little too much. */
static void unload(struct paper *p)
{
    for (size_t i = 0; i < p->orders.cap; i++)
        if (p->orders.slot[i].key != NULL)
            forget(p->orders.slot[i].value);
    strategy_map_fini(&p->orders);
    strategy_bloom_fini(&p->evicted);
    for (size_t i = 0; i < p->symbols.cap; i++)
        if (p->symbols.slot[i].key != NULL) {
            struct vsymbol *y = p->symbols.slot[i].value;

            y->resting[ORDER_BUY] = y->resting[ORDER_SELL] = NULL;
        }
    p->oldest_closed = p->newest_closed = NULL;
    p->n_closed = 0;
}

static void reload(struct paper *p)
{
    unload(p);
    if (load(p) != KEEL_OK) {
        keel_log(KEEL_LOG_ERROR, "paper_reload_failed", NULL);
        p->broken = true;
    }
}

static struct paper *venue_of(const struct commit *k)
{
    for (struct paper *p = venues; p != NULL; p = p->next)
        if (p->store == k->store)
            return p;
    return NULL;
}

static void commit_done(struct keel_rt *rt, void *ctx, enum keel_status st)
{
    struct commit *k = ctx;
    struct paper *p = venue_of(k);

    (void)rt;
    if (p != NULL && p->generation == k->generation) {
        p->inflight--;
        k->order->busy--;
        if (st != KEEL_OK)
            p->broken = true;
        else
            tell_due(p, k);
        if (p->broken && p->inflight == 0)
            reload(p);
    } else if (p != NULL && st == KEEL_OK) {
        /* The venue was opened again while this was under way: the file is now ahead of what was
         * read. */
        reload(p);
    }
    keel_free(k);
}

static void store_order(struct paper *p, struct vorder *v)
{
    struct keel_txn *t = keel_txn_new(p->store);
    struct commit *k = keel_alloc(1, sizeof *k);
    char price[KEEL_DEC_TEXT];

    keel_dec_print(v->ticket.price, price);
    keel_txn_exec(
        t,
        "INSERT INTO orders VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(order_no) DO UPDATE SET"
        " filled = excluded.filled, state = excluded.state, reason = excluded.reason,"
        " ts_event = excluded.ts_event",
        "issiiisDDisii", v->no, v->client_order_id, v->symbol, (int64_t)v->ticket.side,
        (int64_t)v->ticket.type, (int64_t)v->ticket.tif, v->ticket.has_price ? price : NULL,
        v->ticket.quantity, v->filled, (int64_t)v->state, v->reason, v->ts_event, v->ts_expire);
    for (; v->n_stored < v->n_fills; v->n_stored++) {
        const struct paper_fill *f = &v->fills[v->n_stored];

        keel_txn_exec(t, "INSERT INTO trades VALUES(?,?,?,?,?,?,?)", "iiDDmii",
                      int_cell(f->trade_id + strlen("PAPER-")), v->no, f->quantity, f->price,
                      &f->fee, (int64_t)f->maker, f->ts_event);
    }
    *k = (struct commit){p->generation, p->store, v, v->n_fills, v->filled, v->ts_event, v->state};
    v->busy++;
    p->inflight++;
    keel_txn_commit(p->rt, t, commit_done, k);
}

/* ---- matching ---- */

static void close_order(struct paper *p, struct vorder *v, enum paper_state state,
                        const char *reason, int64_t now_ns)
{
    unrest(p, v);
    v->state = state;
    v->ts_event = now_ns;
    snprintf(v->reason, sizeof v->reason, "%s", reason);
    keep_closed(p, v);
}

/* False: the figures do not fit, nothing was filled. */
static bool fill(struct paper *p, struct vorder *v, struct venue_match m, bool maker,
                 int64_t now_ns)
{
    keel_i128 notional, fee;

    if (venue_fee(m.price, m.quantity, maker ? p->conf.maker_rate : p->conf.taker_rate, &notional,
                  &fee) != KEEL_OK)
        return false;

    struct paper_fill *f = add_fill(v);

    name_trade(f, ++p->last_trade_no);
    f->quantity = m.quantity;
    f->price = m.price;
    f->fee = fee;
    f->maker = maker;
    f->ts_event = now_ns;
    v->filled += m.quantity;
    v->ts_event = now_ns;
    return true;
}

static void fill_resting(struct paper *p, struct vorder *v, int64_t quantity, int64_t now_ns)
{
    if (!fill(p, v, (struct venue_match){v->ticket.price, quantity}, true, now_ns))
        close_order(p, v, PAPER_CANCELED, "out_of_range", now_ns);
    else if (v->filled == v->ticket.quantity)
        close_order(p, v, PAPER_FILLED, "", now_ns);
    else if (v->n_fills >= MAX_FILLS)
        close_order(p, v, PAPER_CANCELED, "too_many_fills", now_ns);
    store_order(p, v);
}

static void expire(struct paper *p, struct vsymbol *y, int64_t now_ns)
{
    for (int side = 0; side < 2; side++)
        for (struct vorder *v = y->resting[side], *next; v != NULL; v = next) {
            next = v->next;
            if (v->ts_expire > 0 && now_ns >= v->ts_expire) {
                close_order(p, v, PAPER_EXPIRED, "end_of_day", v->ts_expire);
                store_order(p, v);
            }
        }
}

static void cross_resting(struct paper *p, struct vsymbol *y, int64_t now_ns)
{
    for (int side = 0; side < 2; side++)
        for (struct vorder *v = y->resting[side], *next; v != NULL; v = next) {
            int64_t q = venue_cross(&y->book, v->ticket.side, v->ticket.price,
                                    v->ticket.quantity - v->filled);

            next = v->next;
            if (q == 0)
                break;
            fill_resting(p, v, q, now_ns);
        }
}

/* ---- commands ---- */

static struct vorder *order_new(struct paper *p, const char *client_order_id, const char *symbol,
                                const struct venue_ticket *t, int64_t now_ns)
{
    struct vorder *v = keel_alloc(1, sizeof *v);

    v->no = ++p->last_order_no;
    snprintf(v->venue_order_id, sizeof v->venue_order_id, "PAPER-%" PRId64, v->no);
    snprintf(v->client_order_id, sizeof v->client_order_id, "%s", client_order_id);
    snprintf(v->symbol, sizeof v->symbol, "%s", symbol);
    v->ticket = *t;
    v->ts_event = now_ns;
    v->ts_expire = t->tif == ORDER_DAY ? (now_ns / DAY_NS + 1) * DAY_NS : 0;
    strategy_map_put(&p->orders, v->client_order_id, v);
    return v;
}

static void arrive(struct paper *p, struct vorder *v, int64_t now_ns)
{
    struct vsymbol *y = strategy_map_get(&p->symbols, v->symbol);
    struct venue_result r;

    venue_arrive(y == NULL ? NULL : &y->book, &v->ticket, now_ns, p->conf.max_age_ns, &r);
    for (size_t i = 0; i < r.n; i++)
        if (!fill(p, v, r.match[i], false, now_ns)) {
            close_order(p, v, v->filled > 0 ? PAPER_CANCELED : PAPER_REJECTED, "out_of_range",
                        now_ns);
            return;
        }
    if (r.verdict == VENUE_RESTS)
        rest(p, v);
    else
        close_order(p, v,
                    r.verdict == VENUE_FILLED     ? PAPER_FILLED
                    : r.verdict == VENUE_CANCELED ? PAPER_CANCELED
                                                  : PAPER_REJECTED,
                    r.reason, now_ns);
}

/* An order that left memory, from the file: the caller forgets it. NULL: the venue never heard of
 * it. */
struct found {
    struct vorder *order;
};

static enum keel_status found_order(void *ctx, int n, const char *const *cell)
{
    struct found *f = ctx;

    (void)n;
    f->order = keel_alloc(1, sizeof *f->order);
    return order_row(f->order, cell);
}

static enum keel_status found_trade(void *ctx, int n, const char *const *cell)
{
    (void)n;
    return trade_row(((struct found *)ctx)->order, cell);
}

/* KEEL_UNAVAILABLE: the file could not be read, so nothing is known either way. */
static enum keel_status find_old(struct paper *p, const char *client_order_id, struct vorder **out)
{
    struct found f = {NULL};
    char sql[512];
    enum keel_status st;

    *out = NULL;
    if (!strategy_bloom_maybe(&p->evicted, client_order_id) || strchr(client_order_id, '\'') != NULL)
        return KEEL_OK;
    snprintf(sql, sizeof sql,
             "SELECT " ORDER_COLUMNS " FROM orders o WHERE o.client_order_id = '%s'",
             client_order_id);
    st = keel_store_each(p->store, sql, found_order, &f);
    if (st == KEEL_OK && f.order != NULL) {
        snprintf(sql, sizeof sql,
                 "SELECT " TRADE_COLUMNS " FROM trades t JOIN orders o USING(order_no)"
                 " WHERE o.order_no = %" PRId64 " ORDER BY t.trade_no",
                 f.order->no);
        st = keel_store_each(p->store, sql, found_trade, &f);
    }
    if (st != KEEL_OK && f.order != NULL)
        forget(f.order);
    else
        *out = f.order;
    return st;
}

static void tell_unknown(struct paper *p, const char *client_order_id, enum paper_state state,
                         const char *reason, int64_t now_ns, bool answer)
{
    struct paper_report r = {.client_order_id = client_order_id,
                             .venue_order_id = "",
                             .state = state,
                             .reason = reason,
                             .currency = p->conf.currency,
                             .ts_event = now_ns,
                             .answer = answer};

    p->report(p->ctx, &r);
}

void paper_submit(struct paper *p, const char *client_order_id, const char *symbol,
                  const struct venue_ticket *t, int64_t now_ns)
{
    struct vorder *v = strategy_map_get(&p->orders, client_order_id), *old = NULL;

    if (p->broken || (v == NULL && find_old(p, client_order_id, &old) != KEEL_OK)) {
        tell_unknown(p, client_order_id, PAPER_REJECTED, "venue_unavailable", now_ns, false);
        return;
    }
    if (v == NULL && old == NULL) {
        v = order_new(p, client_order_id, symbol, t, now_ns);
        arrive(p, v, now_ns);
        store_order(p, v);
    } else if (old != NULL) {
        tell_all(p, old, false);
        forget(old);
    } else if (v->busy == 0) {
        tell_all(p, v, false);
    }
}

void paper_cancel(struct paper *p, const char *client_order_id, int64_t now_ns)
{
    struct vorder *v = strategy_map_get(&p->orders, client_order_id);

    if (p->broken || v == NULL || v->state != PAPER_OPEN) {
        paper_query(p, client_order_id);
        return;
    }
    close_order(p, v, PAPER_CANCELED, "requested", now_ns);
    store_order(p, v);
}

void paper_query(struct paper *p, const char *client_order_id)
{
    struct vorder *v = strategy_map_get(&p->orders, client_order_id), *old;

    if (p->broken || (v != NULL && v->busy > 0))
        return;
    if (v != NULL) {
        tell_all(p, v, true);
    } else if (find_old(p, client_order_id, &old) == KEEL_OK) {
        if (old == NULL) {
            tell_unknown(p, client_order_id, PAPER_UNKNOWN, "never_sent", 0, true);
        } else {
            tell_all(p, old, true);
            forget(old);
        }
    }
}

/* ---- the market ---- */

void paper_show(struct paper *p, const char *symbol, bool whole, enum venue_book_state state,
                const struct venue_level *bids, size_t n_bids, const struct venue_level *asks,
                size_t n_asks, int64_t now_ns)
{
    struct vsymbol *y = symbol_of(p, symbol);

    if (y == NULL || (y->has_book && !whole))
        return;
    y->has_book = whole;
    y->book.state = state;
    y->book.ts_ns = now_ns;
    venue_show(&y->book.side[ORDER_BUY], bids, n_bids);
    venue_show(&y->book.side[ORDER_SELL], asks, n_asks);
    if (p->broken)
        return;
    expire(p, y, now_ns);
    cross_resting(p, y, now_ns);
}

void paper_trade(struct paper *p, const char *symbol, int64_t price, int64_t size, int64_t now_ns)
{
    struct vsymbol *y = strategy_map_get(&p->symbols, symbol);

    if (y == NULL || p->broken || y->book.state != VENUE_LIVE)
        return;
    expire(p, y, now_ns);
    for (int side = 0; side < 2; side++) {
        int64_t left = size;

        for (struct vorder *v = y->resting[side], *next; v != NULL && left > 0; v = next) {
            int64_t leaves = v->ticket.quantity - v->filled, q = leaves < left ? leaves : left;

            next = v->next;
            if (!venue_through(v->ticket.side, v->ticket.price, price))
                break;
            left -= q;
            fill_resting(p, v, q, now_ns);
        }
    }
}

void paper_tick(struct paper *p, int64_t now_ns)
{
    struct held *due = NULL, **last = &due;

    for (size_t i = 0; i < p->symbols.cap && !p->broken; i++)
        if (p->symbols.slot[i].key != NULL)
            expire(p, p->symbols.slot[i].value, now_ns);
    for (struct held **at = &p->held; *at != NULL;) {
        struct held *h = *at;

        if (--h->ticks > 0) {
            at = &h->next;
            continue;
        }
        *at = h->next;
        h->next = NULL;
        *last = h;
        last = &h->next;
    }
    while (due != NULL) {
        struct held *h = due;
        const struct vorder *v = strategy_map_get(&p->orders, h->client_order_id);

        due = h->next;
        if (v != NULL && v->busy == 0)
            tell_all(p, v, false);
        keel_free(h);
    }
}

bool paper_broken(const struct paper *p)
{
    return p->broken;
}

void paper_fail_next(struct paper *p, int n)
{
    keel_store_fail_next(p->store, n);
}

/* ---- opening and closing ---- */

enum keel_status paper_open(struct keel_rt *rt, const struct paper_conf *conf,
                            paper_report_fn *report, void *ctx, struct paper **out)
{
    struct paper *p = keel_alloc(1, sizeof *p);
    enum keel_status st;

    *p = (struct paper){.rt = rt, .conf = *conf, .report = report, .ctx = ctx};
    st = keel_store_open(rt, "paper", schema, &p->store);
    if (st == KEEL_OK)
        st = load(p);
    p->next = venues;
    venues = p;
    if (st != KEEL_OK) {
        paper_close(p);
        return KEEL_UNAVAILABLE;
    }
    *out = p;
    return KEEL_OK;
}

void paper_close(struct paper *p)
{
    if (p == NULL)
        return;
    for (struct paper **at = &venues; *at != NULL; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    unload(p);
    for (size_t i = 0; i < p->symbols.cap; i++)
        keel_free(p->symbols.slot[i].value);
    strategy_map_fini(&p->symbols);
    for (struct held *h = p->held, *next; h != NULL; h = next) {
        next = h->next;
        keel_free(h);
    }
    keel_free(p);
}
