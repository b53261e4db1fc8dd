/* State of the engine and its rows in the store: loading with proof, writing, the records that go
 * out. See ops.h. */
#include <stdlib.h>
#include <string.h>

#include "keel/log.h"
#include "ops.h"

KEEL_RECORD_TABLE(portfolio_options, PORTFOLIO_OPTIONS);

const char portfolio_schema[] =
    "CREATE TABLE IF NOT EXISTS portfolio (portfolio_id TEXT PRIMARY KEY, no INTEGER NOT NULL, "
    "name TEXT NOT NULL,"
    " currency TEXT NOT NULL, method INTEGER NOT NULL, frequency INTEGER NOT NULL, cash TEXT NOT "
    "NULL,"
    " capital TEXT NOT NULL, realized TEXT NOT NULL, fees TEXT NOT NULL, entries INTEGER NOT NULL,"
    " fills INTEGER NOT NULL, created_ns INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS position (portfolio_id TEXT, symbol TEXT, quantity TEXT NOT NULL,"
    " multiplier TEXT NOT NULL, cost TEXT NOT NULL, realized TEXT NOT NULL,"
    " PRIMARY KEY (portfolio_id, symbol));" /* in the order of their rowids they came */
    "CREATE TABLE IF NOT EXISTS entry (entry_id INTEGER PRIMARY KEY, portfolio_id TEXT NOT NULL, "
    "kind TEXT NOT NULL,"
    " ref TEXT NOT NULL, ts_event INTEGER NOT NULL, ts_recv INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS entry_of_portfolio ON entry (portfolio_id, entry_id);"
    "CREATE TABLE IF NOT EXISTS posting (entry_id INTEGER, no INTEGER, account TEXT NOT NULL, "
    "symbol TEXT,"
    " currency TEXT NOT NULL, amount TEXT NOT NULL, PRIMARY KEY (entry_id, no)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS origin (entry_id INTEGER PRIMARY KEY, portfolio_id TEXT NOT NULL, "
    "client_order_id TEXT NOT NULL, trace_id TEXT NOT NULL, booked_ns INTEGER NOT NULL);"
    "CREATE INDEX IF NOT EXISTS origin_of_order ON origin (portfolio_id, client_order_id);"
    "CREATE TABLE IF NOT EXISTS fill (portfolio_id TEXT, venue TEXT, trade_id TEXT, fill_no "
    "INTEGER,"
    " entry_id INTEGER NOT NULL, content TEXT NOT NULL, PRIMARY KEY (portfolio_id, venue, "
    "trade_id)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS fill_of_trade ON fill (venue, trade_id);"
    "CREATE INDEX IF NOT EXISTS fill_of_number ON fill (fill_no) WHERE fill_no IS NOT NULL;"
    "CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY CHECK (id = 1), last_fill_no "
    "INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS equity (portfolio_id TEXT, ts INTEGER, equity TEXT NOT NULL, "
    "capital TEXT NOT NULL,"
    " PRIMARY KEY (portfolio_id, ts)) WITHOUT ROWID;";

/* ---- portfolios in memory ---- */

static struct portfolio *find_any(const struct portfolio_state *s, const char *id)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->all[i].id, id) == 0)
            return &s->all[i];
    return NULL;
}

struct portfolio *portfolio_get(const struct portfolio_state *s, const char *id)
{
    struct portfolio *p = find_any(s, id);
    return p != NULL && !p->is_pending ? p : NULL;
}

bool portfolio_id_taken(const struct portfolio_state *s, const char *id)
{
    return find_any(s, id) != NULL;
}

static void text_copy(char *to, size_t cap, const char *from)
{
    size_t n = strlen(from);
    if (n > cap - 1)
        n = cap - 1;
    memcpy(to, from, n);
    to[n] = '\0';
}

struct portfolio *portfolio_add(struct portfolio_state *s, const char *id, const char *name,
                                const char *currency)
{
    if (s->n == s->max)
        return NULL;
    struct portfolio *p = &s->all[s->n++];
    *p = (struct portfolio){.no = ++s->last_no, .is_pending = true};
    text_copy(p->id, sizeof p->id, id);
    text_copy(p->name, sizeof p->name, name);
    text_copy(p->currency, sizeof p->currency, currency);
    return p;
}

const char *portfolio_symbol(struct keel_arena *a, const char *text)
{
    char *symbol = keel_arena_alloc(a, PORTFOLIO_SYMBOL);
    return keel_symbol_normalise(text, symbol) ? symbol : NULL;
}

struct portfolio_position portfolio_position_of(const struct portfolio *p, const char *symbol)
{
    struct portfolio_position fresh;
    const struct portfolio_position *held = portfolio_find(&p->book, symbol);
    if (held != NULL)
        return *held;
    /* Multipliers other than 1 come with instruments; see contract.h: a fill has none. */
    portfolio_position_init(&fresh, symbol, KEEL_SCALE);
    return fresh;
}

static void book_reserve(struct portfolio_book *b, size_t n)
{
    if (b->cap >= n)
        return;
    size_t cap = b->cap * 2 > n ? b->cap * 2 : n;
    b->position = keel_realloc(b->position, cap, sizeof *b->position);
    b->cap = cap;
}

enum keel_status portfolio_make_room(struct keel_rt *rt, struct portfolio *p, const char *symbol)
{
    const struct portfolio_options *o = keel_options(rt);
    if (portfolio_find(&p->book, symbol) != NULL)
        return KEEL_OK;
    if (p->book.n >= (size_t)o->max_positions)
        return KEEL_TOOBIG;
    book_reserve(&p->book, p->book.n + 1);
    return KEEL_OK;
}

/* ---- numbers of fills ---- */

bool portfolio_numbers_has(const struct portfolio_numbers *k, int64_t fill_no)
{
    if (fill_no <= k->low)
        return true;
    for (size_t i = 0; i < k->n; i++)
        if (k->above[i] == fill_no)
            return true;
    return false;
}

/* above is sorted, so what touches low is at its start. */
static void numbers_settle(struct portfolio_numbers *k)
{
    size_t taken = 0;
    while (taken < k->n && k->above[taken] == k->low + 1) {
        k->low++;
        taken++;
    }
    if (taken > 0) {
        k->n -= taken;
        memmove(k->above, k->above + taken, k->n * sizeof *k->above);
    }
}

enum keel_status portfolio_numbers_add(struct portfolio_numbers *k, int64_t fill_no)
{
    if (portfolio_numbers_has(k, fill_no))
        return KEEL_OK;
    if (k->n == PORTFOLIO_HOLES && fill_no != k->low + 1)
        return KEEL_UNAVAILABLE;
    if (fill_no == k->low + 1) {
        k->low++;
    } else {
        size_t at = k->n;
        while (at > 0 && k->above[at - 1] > fill_no)
            at--;
        memmove(k->above + at + 1, k->above + at, (k->n - at) * sizeof *k->above);
        k->above[at] = fill_no;
        k->n++;
    }
    numbers_settle(k);
    return KEEL_OK;
}

/* ---- loading ---- */

static keel_i128 money_cell(const char *cell)
{
    keel_i128 v = 0;
    keel_assert(cell != NULL && keel_money_parse(cell, strlen(cell), &v) == KEEL_OK);
    return v;
}

static int64_t dec_cell(const char *cell)
{
    int64_t v = 0;
    keel_assert(cell != NULL && keel_dec_parse(cell, strlen(cell), &v) == KEEL_OK);
    return v;
}

static int64_t int_cell(const char *cell)
{
    int64_t v = 0;
    keel_assert(cell != NULL && keel_i64_parse(cell, strlen(cell), &v) == KEEL_OK);
    return v;
}

static enum keel_status load_portfolio(void *ctx, int n, const char *const *cell)
{
    struct portfolio_state *s = ctx;
    (void)n;
    struct portfolio *p = portfolio_add(s, cell[0], cell[2], cell[3]);
    if (p == NULL) {
        keel_log(KEEL_LOG_ERROR, "too_many_portfolios", "max_portfolios=%zu", s->max);
        return KEEL_TOOBIG;
    }
    p->no = int_cell(cell[1]);
    p->method = (int)int_cell(cell[4]);
    p->frequency = (int)int_cell(cell[5]);
    p->book.totals = (struct portfolio_totals){.cash = money_cell(cell[6]),
                                               .capital = money_cell(cell[7]),
                                               .realized = money_cell(cell[8]),
                                               .fees = money_cell(cell[9])};
    p->entries = int_cell(cell[10]);
    p->fills = int_cell(cell[11]);
    p->created_ns = int_cell(cell[12]);
    p->is_pending = false;
    p->is_stored = true;
    s->last_no = p->no;
    return KEEL_OK;
}

static enum keel_status load_position(void *ctx, int n, const char *const *cell)
{
    const struct portfolio_state *s = ctx;
    struct portfolio *p = find_any(s, cell[0]);
    (void)n;
    if (p == NULL)
        return KEEL_UPSTREAM;
    book_reserve(&p->book, p->book.n + 1);
    struct portfolio_position *position = &p->book.position[p->book.n++];
    portfolio_position_init(position, cell[1], dec_cell(cell[3]));
    position->quantity = dec_cell(cell[2]);
    position->cost = money_cell(cell[4]);
    position->realized = money_cell(cell[5]);
    return KEEL_OK;
}

static enum keel_status load_number(void *ctx, int n, const char *const *cell)
{
    struct portfolio_state *s = ctx;
    (void)n;
    return portfolio_numbers_add(&s->numbers, int_cell(cell[0]));
}

static enum keel_status load_int(void *ctx, int n, const char *const *cell)
{
    (void)n;
    *(int64_t *)ctx = int_cell(cell[0]);
    return KEEL_OK;
}

/* ---- proof: the postings give the balances ---- */

struct proof {
    const struct portfolio_state *s;
    struct portfolio_book *rest;
};

/* Takes a posting off the balance it went to. */
static enum keel_status prove_posting(void *ctx, int n, const char *const *cell)
{
    const struct proof *proof = ctx;
    const struct portfolio *p = find_any(proof->s, cell[0]);
    (void)n;
    if (p == NULL)
        return KEEL_UPSTREAM;
    struct portfolio_book *rest = &proof->rest[p - proof->s->all];
    keel_i128 amount = money_cell(cell[3]);
    if (strcmp(cell[1], portfolio_account_name(PORTFOLIO_CASH)) == 0) {
        rest->totals.cash -= amount;
    } else if (strcmp(cell[1], portfolio_account_name(PORTFOLIO_REALIZED)) == 0) {
        rest->totals.realized += amount;
    } else if (strcmp(cell[1], portfolio_account_name(PORTFOLIO_FEES)) == 0) {
        rest->totals.fees -= amount;
    } else if (strcmp(cell[1], portfolio_account_name(PORTFOLIO_CAPITAL)) == 0) {
        rest->totals.capital += amount;
    } else {
        struct portfolio_position *position = portfolio_find(rest, cell[2] != NULL ? cell[2] : "");
        if (position == NULL)
            return KEEL_UPSTREAM;
        position->cost -= amount;
    }
    return KEEL_OK;
}

static bool nothing_left(const struct portfolio_book *rest)
{
    bool good = rest->totals.cash == 0 && rest->totals.realized == 0 && rest->totals.fees == 0 &&
                rest->totals.capital == 0;
    for (size_t i = 0; i < rest->n; i++)
        good = good && rest->position[i].cost == 0;
    return good;
}

static enum keel_status prove(struct keel_rt *rt, const struct portfolio_state *s)
{
    struct proof proof = {s, keel_alloc(s->n + 1, sizeof *proof.rest)};
    for (size_t i = 0; i < s->n; i++) {
        proof.rest[i] = s->all[i].book;
        proof.rest[i].position = keel_alloc(s->all[i].book.n + 1, sizeof *proof.rest[i].position);
        if (s->all[i].book.n > 0)
            memcpy(proof.rest[i].position, s->all[i].book.position,
                   s->all[i].book.n * sizeof *proof.rest[i].position);
    }
    enum keel_status st = keel_store_each(keel_store(rt),
                                          "SELECT e.portfolio_id, p.account, p.symbol, p.amount"
                                          " FROM posting p JOIN entry e ON e.entry_id = p.entry_id",
                                          prove_posting, &proof);
    for (size_t i = 0; i < s->n; i++) {
        if (st == KEEL_OK && !nothing_left(&proof.rest[i])) {
            keel_log(KEEL_LOG_ERROR, "ledger_mismatch", "portfolio_id=%s", s->all[i].id);
            st = KEEL_UPSTREAM;
        }
        keel_free(proof.rest[i].position);
    }
    keel_free(proof.rest);
    return st;
}

/* ---- open and close ---- */

static enum keel_status load(struct keel_rt *rt, struct portfolio_state *s)
{
    struct keel_store *store = keel_store(rt);
    enum keel_status st =
        keel_store_each(store,
                        "SELECT portfolio_id, no, name, currency, method, frequency, cash, capital,"
                        " realized, fees, entries, fills, created_ns FROM portfolio ORDER BY no",
                        load_portfolio, s);
    if (st == KEEL_OK)
        st = keel_store_each(store,
                             "SELECT portfolio_id, symbol, quantity, multiplier, cost, realized "
                             "FROM position ORDER BY rowid",
                             load_position, s);
    if (st == KEEL_OK)
        st = keel_store_each(store, "SELECT coalesce(max(entry_id), 0) FROM entry", load_int,
                             &s->last_entry);
    if (st == KEEL_OK)
        st = keel_store_each(store, "SELECT last_fill_no FROM progress", load_int, &s->numbers.low);
    if (st == KEEL_OK)
        st = keel_store_each(store,
                             "SELECT f.fill_no FROM fill f WHERE f.fill_no >"
                             " coalesce((SELECT last_fill_no FROM progress), 0) ORDER BY f.fill_no",
                             load_number, s);
    return st == KEEL_OK ? prove(rt, s) : st;
}

enum keel_status portfolio_open(struct keel_rt *rt, void *state)
{
    struct portfolio_state *s = state;
    const struct portfolio_options *o = keel_options(rt);
    s->max = (size_t)o->max_portfolios;
    s->all = keel_alloc(s->max, sizeof *s->all);
    s->stale_ns = o->mark_stale_ms * 1000000;
    s->numbers.above = keel_alloc(PORTFOLIO_HOLES, sizeof *s->numbers.above);
    s->marks.cap = 16;
    while (s->marks.cap - s->marks.cap / 4 < (size_t)o->max_symbols)
        s->marks.cap *= 2;
    s->marks.slot = keel_alloc(s->marks.cap, sizeof *s->marks.slot);
    enum keel_status st = load(rt, s);
    if (st != KEEL_OK) {
        keel_log(KEEL_LOG_ERROR, "ledger_not_loaded", "status=%s", keel_status_name(st));
        return st;
    }
    s->last_fill_no = s->numbers.low;
    if (find_any(s, PORTFOLIO_MAIN) == NULL) {
        struct portfolio_plan plan;
        struct portfolio_totals none = {0};
        struct portfolio *p = portfolio_add(s, PORTFOLIO_MAIN, PORTFOLIO_MAIN, o->currency);
        if (p == NULL || o->initial_cash < 0 ||
            portfolio_plan_cash(&none, o->initial_cash, &plan) != KEEL_OK)
            return KEEL_INVALID;
        portfolio_apply(&p->book, &plan);
        p->frequency = keel_enum_index(PORTFOLIO_FREQUENCIES, "manual", strlen("manual"));
        p->is_pending = false; /* it is written with the first transaction that concerns it */
    }
    return KEEL_OK;
}

void portfolio_close(struct keel_rt *rt, void *state)
{
    struct portfolio_state *s = state;
    (void)rt;
    for (size_t i = 0; i < s->n; i++)
        keel_free(s->all[i].book.position);
    keel_free(s->all);
    keel_free(s->numbers.above);
    keel_free(s->marks.slot);
    *s = (struct portfolio_state){0};
}

/* ---- rows ---- */

void portfolio_put(struct keel_txn *t, const struct portfolio *p,
                   const struct portfolio_totals *totals, int64_t entries, int64_t fills)
{
    keel_txn_exec(t,
                  "INSERT INTO portfolio (portfolio_id, no, name, currency, method, frequency, "
                  "cash, capital, realized, fees,"
                  " entries, fills, created_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                  " ON CONFLICT (portfolio_id) DO UPDATE SET cash = excluded.cash, capital = "
                  "excluded.capital,"
                  " realized = excluded.realized, fees = excluded.fees, entries = "
                  "excluded.entries, fills = excluded.fills",
                  "sissiimmmmiii", p->id, p->no, p->name, p->currency, (int64_t)p->method,
                  (int64_t)p->frequency, &totals->cash, &totals->capital, &totals->realized,
                  &totals->fees, entries, fills, p->created_ns);
}

void portfolio_put_position(struct keel_txn *t, const struct portfolio *p,
                            const struct portfolio_position *position)
{
    keel_txn_exec(
        t,
        "INSERT INTO position (portfolio_id, symbol, quantity, multiplier, cost, realized)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (portfolio_id, symbol) DO UPDATE SET"
        " quantity = excluded.quantity, cost = excluded.cost, realized = excluded.realized",
        "ssDDmm", p->id, position->symbol, position->quantity, position->multiplier,
        &position->cost, &position->realized);
}

int64_t portfolio_put_entry(struct keel_txn *t, struct portfolio_state *s,
                            const struct portfolio *p, const char *kind, const char *ref,
                            const char *symbol, const struct portfolio_plan *plan, int64_t ts_event,
                            int64_t ts_recv)
{
    int64_t entry_id = ++s->last_entry;
    keel_txn_exec(t,
                  "INSERT INTO entry (entry_id, portfolio_id, kind, ref, ts_event, ts_recv) VALUES "
                  "(?, ?, ?, ?, ?, ?)",
                  "isssii", entry_id, p->id, kind, ref, ts_event, ts_recv);
    for (size_t i = 0; i < plan->n_postings; i++) {
        const struct portfolio_posting *posting = &plan->posting[i];
        keel_txn_exec(t,
                      "INSERT INTO posting (entry_id, no, account, symbol, currency, amount) "
                      "VALUES (?, ?, ?, ?, ?, ?)",
                      "iisssm", entry_id, (int64_t)i + 1, portfolio_account_name(posting->account),
                      posting->account == PORTFOLIO_POSITION ? symbol : NULL, p->currency,
                      &posting->amount);
    }
    return entry_id;
}

void portfolio_put_equity(struct keel_txn *t, const struct portfolio *p,
                          const struct portfolio_totals *totals, const struct portfolio_equity *e,
                          int64_t now_ns)
{
    if (!e->is_known)
        return;
    keel_txn_exec(
        t, "INSERT OR REPLACE INTO equity (portfolio_id, ts, equity, capital) VALUES (?, ?, ?, ?)",
        "simm", p->id, now_ns, &e->equity, &totals->capital);
}

void portfolio_put_adjustment(struct keel_txn *t, struct keel_call *c, const struct portfolio *p,
                              const struct keel_adjustment *change, int64_t entry_id,
                              int64_t ts_event)
{
    struct keel_adjustment a = *change;
    a.adjustment_id = keel_arena_printf(c->arena, "entry-%lld", (long long)entry_id);
    a.portfolio_id = p->id;
    a.currency = p->currency;
    a.has_adjustment_id = a.has_portfolio_id = a.has_kind = a.has_currency = a.has_cash = true;
    a.has_symbol = a.has_quantity = a.has_price = a.symbol != NULL;
    a.has_venue = a.venue != NULL;
    a.has_trade_id = a.trade_id != NULL;
    keel_txn_publish(t, c, "portfolio.critical.adjustment", p->id, ts_event, keel_session_ns(c->rt),
                     &a);
}

enum keel_status portfolio_put_new(struct keel_call *c, struct keel_txn *t, struct portfolio *p,
                                   keel_i128 cash)
{
    enum { CASH = 2 }; /* of the adjustment's kinds */
    struct portfolio_totals none = {0};
    struct portfolio_plan plan;
    struct portfolio_equity equity;
    int64_t now = keel_session_ns(c->rt);
    enum keel_status st = portfolio_plan_cash(&none, cash, &plan);
    if (st != KEEL_OK)
        return st;
    p->book.totals = plan.totals;
    p->created_ns = c->wall_ns;
    p->entries = 1;
    p->is_stored = true;
    int64_t entry_id = portfolio_put_entry(t, c->state, p, "cash", "initial", NULL, &plan, now, 0);
    portfolio_put(t, p, &plan.totals, p->entries, 0);
    portfolio_put_adjustment(t, c, p, &(struct keel_adjustment){.kind = CASH, .cash = cash},
                             entry_id, now);
    struct keel_account account =
        portfolio_account_record(c->rt, p, &plan.totals, NULL, 0, &equity);
    portfolio_put_equity(t, p, &plan.totals, &equity, now);
    keel_txn_publish(t, c, "portfolio.priority.account", p->id, now, now, &account);
    return KEEL_OK;
}

/* ---- records ---- */

/* A value that does not fit is one we do not know. */
static struct portfolio_value value_now(struct keel_rt *rt,
                                        const struct portfolio_position *position)
{
    const struct portfolio_state *s = keel_state(rt);
    struct portfolio_value v = {.is_known = false};
    int64_t mark = 0;
    bool has =
        portfolio_mark_price(&s->marks, position->symbol, keel_session_ns(rt), s->stale_ns, &mark);
    if (portfolio_value_at(position, has, mark, &v) != KEEL_OK)
        v.is_known = false;
    return v;
}

struct keel_position portfolio_position_record(struct keel_rt *rt, const struct portfolio *p,
                                               const struct portfolio_position *position)
{
    struct portfolio_value v = value_now(rt, position);
    struct keel_position r = {.portfolio_id = p->id,
                              .has_portfolio_id = true,
                              .symbol = position->symbol,
                              .has_symbol = true,
                              .quantity = position->quantity,
                              .has_quantity = true,
                              .realized_pnl = position->realized,
                              .has_realized_pnl = true};
    r.has_avg_cost = portfolio_avg_cost(position, &r.avg_cost) == KEEL_OK;
    r.has_mark = v.has_mark;
    r.mark = v.mark;
    r.has_market_value = r.has_unrealized_pnl = v.is_known;
    r.market_value = v.market_value;
    r.unrealized_pnl = v.unrealized;
    return r;
}

static bool equity_add(struct keel_rt *rt, struct portfolio_equity *e,
                       const struct portfolio_position *position)
{
    struct portfolio_value v = value_now(rt, position);
    return portfolio_equity_add(e, &v) == KEEL_OK;
}

/* Equity of the book with changed in place of its own positions of the same symbols. */
static struct portfolio_equity equity_with(struct keel_rt *rt, const struct portfolio *p,
                                           const struct portfolio_totals *totals,
                                           const struct portfolio_position *changed,
                                           size_t n_changed)
{
    struct portfolio_equity e;
    struct portfolio_book own = p->book;
    bool fits = true;
    portfolio_equity_start(&e);
    for (size_t i = 0; i < n_changed; i++)
        fits = equity_add(rt, &e, &changed[i]) && fits;
    for (size_t i = 0; i < own.n; i++) {
        bool is_changed = false;
        for (size_t k = 0; k < n_changed; k++)
            is_changed = is_changed || strcmp(changed[k].symbol, own.position[i].symbol) == 0;
        if (!is_changed)
            fits = equity_add(rt, &e, &own.position[i]) && fits;
    }
    if (!fits || portfolio_equity_finish(&e, totals) != KEEL_OK)
        e.is_known = false;
    return e;
}

struct keel_account portfolio_account_record(struct keel_rt *rt, const struct portfolio *p,
                                             const struct portfolio_totals *totals,
                                             const struct portfolio_position *changed,
                                             size_t n_changed, struct portfolio_equity *equity)
{
    const struct portfolio_state *s = keel_state(rt);
    struct portfolio_equity e = equity_with(rt, p, totals, changed, n_changed);
    struct keel_account r = {.portfolio_id = p->id,
                             .has_portfolio_id = true,
                             .currency = p->currency,
                             .has_currency = true,
                             .cash = totals->cash,
                             .has_cash = true,
                             .realized_pnl = totals->realized,
                             .has_realized_pnl = true,
                             .fees = totals->fees,
                             .has_fees = true,
                             .last_fill_no = s->numbers.low,
                             .has_last_fill_no = true};
    r.has_equity = r.has_unrealized_pnl = r.has_equity_change = e.is_known;
    r.equity = e.equity;
    r.unrealized_pnl = e.unrealized;
    r.equity_change = e.change;
    *equity = e;
    return r;
}

static void write_dec(struct keel_json *w, const char *key, bool has, int64_t v)
{
    if (has)
        keel_json_dec(w, key, v);
    else
        keel_json_null(w, key);
}

static void write_money(struct keel_json *w, const char *key, bool has, keel_i128 v)
{
    if (has)
        keel_json_money(w, key, v);
    else
        keel_json_null(w, key);
}

void portfolio_write_position(struct keel_json *w, const char *key, const struct keel_position *r)
{
    keel_json_obj(w, key);
    keel_json_str(w, "symbol", r->symbol);
    keel_json_dec(w, "quantity", r->quantity);
    write_dec(w, "avg_cost", r->has_avg_cost, r->avg_cost);
    write_dec(w, "mark", r->has_mark, r->mark);
    write_money(w, "market_value", r->has_market_value, r->market_value);
    keel_json_money(w, "realized_pnl", r->realized_pnl);
    write_money(w, "unrealized_pnl", r->has_unrealized_pnl, r->unrealized_pnl);
    keel_json_end(w);
}

void portfolio_write_account(struct keel_json *w, const char *key, const struct keel_account *r)
{
    keel_json_obj(w, key);
    keel_json_str(w, "currency", r->currency);
    keel_json_money(w, "cash", r->cash);
    write_money(w, "equity", r->has_equity, r->equity);
    keel_json_money(w, "realized_pnl", r->realized_pnl);
    write_money(w, "unrealized_pnl", r->has_unrealized_pnl, r->unrealized_pnl);
    keel_json_money(w, "fees", r->fees);
    write_money(w, "equity_change", r->has_equity_change, r->equity_change);
    keel_json_end(w);
}

static void undefined(struct keel_call *c, bool *open, const char *name, const char *why)
{
    if (!*open)
        keel_json_obj(&c->out, "undefined");
    *open = true;
    keel_json_str(&c->out, name, why);
}

void portfolio_undefined_position(struct keel_call *c, bool *open, const char *path,
                                  const struct keel_position *r)
{
    const char *unpriced = keel_arena_printf(c->arena, "no fresh price of %s", r->symbol),
               *why = r->has_mark ? "it is out of range" : unpriced;
    if (!r->has_avg_cost)
        undefined(c, open, keel_arena_printf(c->arena, "%s.avg_cost", path), "the position is flat");
    if (!r->has_mark)
        undefined(c, open, keel_arena_printf(c->arena, "%s.mark", path), unpriced);
    if (!r->has_market_value)
        undefined(c, open, keel_arena_printf(c->arena, "%s.market_value", path), why);
    if (!r->has_unrealized_pnl)
        undefined(c, open, keel_arena_printf(c->arena, "%s.unrealized_pnl", path), why);
}

/* The account can be valued only when every position can: names the first that cannot. */
void portfolio_undefined_account(struct keel_call *c, bool *open, const struct portfolio *p,
                                 const struct keel_account *r)
{
    const char *why = "a price was missing";
    if (r->has_equity)
        return;
    for (size_t i = 0; i < p->book.n; i++) {
        struct keel_position one = portfolio_position_record(c->rt, p, &p->book.position[i]);
        if (one.has_market_value)
            continue;
        why = keel_arena_printf(c->arena, "no fresh price of %s", one.symbol);
        break;
    }
    undefined(c, open, "equity", why);
    undefined(c, open, "unrealized_pnl", why);
    undefined(c, open, "equity_change", why);
}

/* ---- probes ---- */

enum keel_probe_state portfolio_probe_ledger(struct keel_rt *rt, void *state, char *detail,
                                             size_t cap)
{
    const struct portfolio_state *s = state;
    (void)rt;
    for (size_t i = 0; i < s->n; i++) {
        if (portfolio_sum(&s->all[i].book) != 0) {
            text_copy(detail, cap, "the accounts of a portfolio do not sum to zero");
            return KEEL_PROBE_AWAY;
        }
    }
    return KEEL_PROBE_OK;
}

enum keel_probe_state portfolio_probe_fills(struct keel_rt *rt, void *state, char *detail,
                                            size_t cap)
{
    const struct portfolio_state *s = state;
    (void)rt;
    if (s->numbers.n == 0)
        return KEEL_PROBE_OK;
    text_copy(detail, cap, "a fill of strategy is missing and being asked for");
    return KEEL_PROBE_AWAY;
}
