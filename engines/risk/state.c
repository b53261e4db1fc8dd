/* The risk engine's tables in memory, their rows in the store, and the decision on an order. */
#include "ops.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SEEN_TRADES 262144
#define SEEN_ENDED 65536

KEEL_RECORD_TABLE(risk_options, RISK_OPTIONS);

const char risk_schema[] =
    "CREATE TABLE IF NOT EXISTS portfolios(portfolio_id TEXT PRIMARY KEY, currency TEXT NOT NULL, cash TEXT NOT NULL,"
    " base TEXT NOT NULL, day INTEGER NOT NULL, fills INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS holdings(portfolio_id TEXT NOT NULL, symbol TEXT NOT NULL, quantity TEXT NOT NULL,"
    " PRIMARY KEY(portfolio_id, symbol)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS entries(client_order_id TEXT PRIMARY KEY, portfolio_id TEXT NOT NULL,"
    " strategy_id TEXT NOT NULL, symbol TEXT NOT NULL, side INTEGER NOT NULL, phase INTEGER NOT NULL,"
    " quantity TEXT NOT NULL, filled TEXT NOT NULL, end_filled TEXT NOT NULL, price TEXT NOT NULL,"
    " created_ns INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS ended(n INTEGER PRIMARY KEY AUTOINCREMENT, client_order_id TEXT NOT NULL UNIQUE);"
    "CREATE TABLE IF NOT EXISTS trades(n INTEGER PRIMARY KEY AUTOINCREMENT, venue TEXT NOT NULL,"
    " trade_id TEXT NOT NULL, UNIQUE(venue, trade_id));"
    "CREATE TABLE IF NOT EXISTS limits(n INTEGER PRIMARY KEY AUTOINCREMENT, limit_id TEXT NOT NULL UNIQUE,"
    " limit_type TEXT NOT NULL, limit_value TEXT NOT NULL, enabled INTEGER NOT NULL, action INTEGER NOT NULL,"
    " portfolio_id TEXT NOT NULL, strategy_id TEXT NOT NULL, symbol TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS breaches(n INTEGER PRIMARY KEY AUTOINCREMENT, breach_id TEXT NOT NULL UNIQUE,"
    " portfolio_id TEXT NOT NULL, breach_type TEXT NOT NULL, limit_id TEXT NOT NULL, current_value TEXT,"
    " limit_value TEXT, severity INTEGER NOT NULL, detail TEXT NOT NULL,"
    " opened_ns INTEGER NOT NULL, resolved_ns INTEGER);"
    "CREATE TABLE IF NOT EXISTS states(portfolio_id TEXT PRIMARY KEY, state INTEGER NOT NULL, reason TEXT NOT NULL,"
    " told INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;";

/* ---- small tables ---- */

static void put(char *to, size_t cap, const char *from)
{
    snprintf(to, cap, "%s", from);
}

uint64_t risk_hash(uint64_t h, const char *text)
{
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 1099511628211u;
    return (h ^ 255) * 1099511628211u;
}

uint64_t risk_name_hash(const char *text)
{
    return risk_hash(14695981039346656037u, text);
}

static void identity(const char *a, const char *b, uint64_t out[2])
{
    out[0] = risk_hash(risk_name_hash(a), b);
    out[1] = risk_hash(risk_hash(0x9e3779b97f4a7c15u, b), a);
}

static void seen_init(struct risk_seen *seen, uint32_t cap)
{
    seen->cap = cap;
    seen->key = keel_alloc(cap, sizeof *seen->key);
    seen->slot = keel_alloc((size_t)cap * 2, sizeof *seen->slot);
}

static uint32_t *seen_slot(const struct risk_seen *seen, const uint64_t k[2])
{
    uint32_t mask = seen->cap * 2 - 1, i = (uint32_t)k[0] & mask;

    while (seen->slot[i] != 0 && memcmp(seen->key[seen->slot[i] - 1], k, 16) != 0)
        i = (i + 1) & mask;
    return &seen->slot[i];
}

bool risk_was_seen(const struct risk_seen *seen, const char *a, const char *b)
{
    uint64_t k[2];

    identity(a, b, k);
    return *seen_slot(seen, k) != 0;
}

/* Open addressing cannot just clear a slot: what follows in its run is put in again. */
static void forget(struct risk_seen *seen, const uint64_t k[2])
{
    uint32_t mask = seen->cap * 2 - 1, i = (uint32_t)(seen_slot(seen, k) - seen->slot);

    seen->slot[i] = 0;
    for (i = (i + 1) & mask; seen->slot[i] != 0; i = (i + 1) & mask) {
        uint32_t index = seen->slot[i];
        seen->slot[i] = 0;
        *seen_slot(seen, seen->key[index - 1]) = index;
    }
}

void risk_mark_seen(struct risk_seen *seen, const char *a, const char *b)
{
    uint64_t k[2];

    identity(a, b, k);
    if (*seen_slot(seen, k) != 0)
        return;
    if (seen->n == seen->cap)
        forget(seen, seen->key[seen->at]);
    else
        seen->n++;
    memcpy(seen->key[seen->at], k, 16);
    *seen_slot(seen, k) = seen->at + 1;
    seen->at = (seen->at + 1) % seen->cap;
}

struct risk_portfolio *risk_find_portfolio(struct risk_engine_state *s, const char *id)
{
    for (size_t i = 0; i < s->n_portfolios; i++)
        if (strcmp(s->portfolio[i].id, id) == 0)
            return &s->portfolio[i];
    return NULL;
}

struct risk_portfolio *risk_make_portfolio(struct keel_rt *rt, struct risk_engine_state *s, const char *id)
{
    const struct risk_options *o = keel_options(rt);
    struct risk_portfolio *p = risk_find_portfolio(s, id);

    if (p || s->n_portfolios == (size_t)o->max_portfolios)
        return p;
    p = &s->portfolio[s->n_portfolios++];
    put(p->id, sizeof p->id, id);
    p->day = INT64_MIN;
    return p;
}

struct risk_symbol *risk_find_symbol(struct keel_rt *rt, struct risk_engine_state *s, const char *name, bool create)
{
    const struct risk_options *o = keel_options(rt);
    uint32_t i = (uint32_t)risk_name_hash(name) & (s->symbol_cap - 1);

    for (; s->symbol_slot[i] != 0; i = (i + 1) & (s->symbol_cap - 1))
        if (strcmp(s->symbol[s->symbol_slot[i] - 1].name, name) == 0)
            return &s->symbol[s->symbol_slot[i] - 1];
    if (!create || s->n_symbols == (size_t)o->max_symbols || strlen(name) >= RISK_SYMBOL)
        return NULL;
    put(s->symbol[s->n_symbols].name, RISK_SYMBOL, name);
    s->symbol_slot[i] = (uint32_t)++s->n_symbols;
    return &s->symbol[s->n_symbols - 1];
}

struct risk_holding *risk_holding_of(struct risk_portfolio *p, struct risk_symbol *sym, bool create)
{
    for (size_t i = 0; i < p->n_holdings; i++)
        if (p->holding[i].symbol == sym)
            return &p->holding[i];
    if (!create)
        return NULL;
    if (p->n_holdings == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 16;
        p->holding = keel_realloc(p->holding, p->cap, sizeof *p->holding);
    }
    p->holding[p->n_holdings] = (struct risk_holding){.symbol = sym};
    return &p->holding[p->n_holdings++];
}

static uint32_t *entry_slot(const struct risk_engine_state *s, const char *id)
{
    uint32_t i = (uint32_t)risk_name_hash(id) & (s->entry_cap - 1);

    while (s->entry_slot[i] != 0 && strcmp(s->entry[s->entry_slot[i] - 1].id, id) != 0)
        i = (i + 1) & (s->entry_cap - 1);
    return &s->entry_slot[i];
}

struct risk_entry *risk_find_entry(struct risk_engine_state *s, const char *id)
{
    uint32_t index = *entry_slot(s, id);

    return index ? &s->entry[index - 1] : NULL;
}

struct risk_entry *risk_add_entry(struct keel_rt *rt, struct risk_engine_state *s, const char *id)
{
    const struct risk_options *o = keel_options(rt);
    struct risk_entry *e = &s->entry[s->n_entries];

    if (s->n_entries == (size_t)o->max_orders)
        return NULL;
    *e = (struct risk_entry){0};
    put(e->id, RISK_ID, id);
    *entry_slot(s, id) = (uint32_t)++s->n_entries;
    return e;
}

void risk_drop_entry(struct risk_engine_state *s, struct risk_entry *e)
{
    struct risk_entry *last = &s->entry[s->n_entries - 1];
    uint32_t i = (uint32_t)(entry_slot(s, e->id) - s->entry_slot);

    if (e != last)
        *entry_slot(s, last->id) = (uint32_t)(e - s->entry) + 1;
    s->entry_slot[i] = 0;
    *e = *last;
    s->n_entries--;
    for (i = (i + 1) & (s->entry_cap - 1); s->entry_slot[i] != 0; i = (i + 1) & (s->entry_cap - 1)) {
        uint32_t index = s->entry_slot[i];
        s->entry_slot[i] = 0;
        *entry_slot(s, s->entry[index - 1].id) = index;
    }
}

struct risk_scope *risk_scope_of(struct risk_engine_state *s, const char *portfolio, bool create)
{
    for (size_t i = 0; i < s->n_scopes; i++)
        if (strcmp(s->scope[i].portfolio, portfolio) == 0)
            return &s->scope[i];
    if (!create)
        return NULL;
    s->scope = keel_realloc(s->scope, s->n_scopes + 1, sizeof *s->scope);
    s->scope[s->n_scopes] = (struct risk_scope){.told = true};
    put(s->scope[s->n_scopes].portfolio, RISK_ID, portfolio);
    return &s->scope[s->n_scopes++];
}

enum risk_state risk_state_of(struct risk_engine_state *s, const char *portfolio, const char **reason)
{
    const struct risk_scope *all = &s->scope[0], *own = risk_scope_of(s, portfolio, false);
    const struct risk_scope *strict = own && own->state > all->state ? own : all;

    if (reason)
        *reason = strict->reason;
    return strict->state;
}

/* ---- loading ---- */

struct loading { struct keel_rt *rt; struct risk_engine_state *s; };

static int64_t dec_of(const char *text)
{
    int64_t v = 0;

    (void)keel_dec_parse(text, strlen(text), &v);
    return v;
}

static keel_i128 money_of(const char *text)
{
    keel_i128 v = 0;

    (void)keel_money_parse(text, strlen(text), &v);
    return v;
}

static int64_t int_of(const char *text)
{
    int64_t v = 0;

    (void)keel_i64_parse(text, strlen(text), &v);
    return v;
}

static enum keel_status load_portfolio(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;
    struct risk_portfolio *p = risk_make_portfolio(l->rt, l->s, cell[0]);

    (void)n;
    if (!p)
        return KEEL_TOOBIG;
    put(p->currency, sizeof p->currency, cell[1]);
    p->cash = money_of(cell[2]);
    p->base = money_of(cell[3]);
    p->day = int_of(cell[4]);
    p->fills = int_of(cell[5]);
    return KEEL_OK;
}

static enum keel_status load_holding(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;
    struct risk_portfolio *p = risk_find_portfolio(l->s, cell[0]);
    struct risk_symbol *sym = risk_find_symbol(l->rt, l->s, cell[1], true);

    (void)n;
    if (!p || !sym)
        return KEEL_TOOBIG;
    risk_holding_of(p, sym, true)->quantity = dec_of(cell[2]);
    return KEEL_OK;
}

static enum keel_status load_entry(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;
    struct risk_entry *e = risk_add_entry(l->rt, l->s, cell[0]);

    (void)n;
    if (!e)
        return KEEL_TOOBIG;
    put(e->portfolio, RISK_ID, cell[1]);
    put(e->strategy, RISK_ID, cell[2]);
    put(e->symbol, RISK_SYMBOL, cell[3]);
    e->side = (int)int_of(cell[4]);
    e->phase = (enum risk_phase)int_of(cell[5]);
    e->quantity = dec_of(cell[6]);
    e->filled = dec_of(cell[7]);
    e->end_filled = dec_of(cell[8]);
    e->price = dec_of(cell[9]);
    e->created_ns = int_of(cell[10]);
    e->body = (uint64_t)int_of(cell[11]);
    return KEEL_OK;
}

static enum keel_status load_ended(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;

    (void)n;
    risk_mark_seen(&l->s->ended, cell[0], "");
    return KEEL_OK;
}

static enum keel_status load_trade(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;

    (void)n;
    risk_mark_seen(&l->s->trades, cell[0], cell[1]);
    return KEEL_OK;
}

static enum keel_status load_limit(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;
    const struct risk_options *o = keel_options(l->rt);
    struct risk_limit *limit;
    int type = keel_enum_index(RISK_LIMIT_TYPES, cell[1], strlen(cell[1]));

    (void)n;
    if (type < 0 || l->s->n_limits == (size_t)o->max_limits)
        return KEEL_TOOBIG;
    limit = &l->s->limit[l->s->n_limits++];
    *limit = (struct risk_limit){.type = (enum risk_limit_type)type, .value = money_of(cell[2]),
                                 .enabled = int_of(cell[3]) != 0, .action = (enum risk_action)int_of(cell[4])};
    put(limit->id, RISK_ID, cell[0]);
    put(limit->portfolio, RISK_ID, cell[5]);
    put(limit->strategy, RISK_ID, cell[6]);
    put(limit->symbol, RISK_SYMBOL, cell[7]);
    return KEEL_OK;
}

static struct risk_breach *new_breach(struct risk_engine_state *s)
{
    if (s->n_breaches == s->cap_breaches) {
        s->cap_breaches = s->cap_breaches ? 2 * s->cap_breaches : 16;
        s->breach = keel_realloc(s->breach, s->cap_breaches, sizeof *s->breach);
    }
    s->breach[s->n_breaches] = (struct risk_breach){.severity = 0};
    return &s->breach[s->n_breaches++];
}

static enum keel_status load_breach(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;
    struct risk_breach *b = new_breach(l->s);

    (void)n;
    put(b->id, RISK_ID, cell[0]);
    put(b->portfolio, RISK_ID, cell[1]);
    put(b->type, sizeof b->type, cell[2]);
    put(b->limit_id, RISK_ID, cell[3]);
    b->current = cell[4] ? money_of(cell[4]) : 0;
    b->limit = cell[5] ? money_of(cell[5]) : 0;
    b->severity = (int)int_of(cell[6]);
    return KEEL_OK;
}

static enum keel_status load_last_breach(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;

    (void)n;
    l->s->next_breach = cell[0] ? (uint64_t)int_of(cell[0]) : 0;
    return KEEL_OK;
}

static enum keel_status load_state(void *ctx, int n, const char *const *cell)
{
    struct loading *l = ctx;
    struct risk_scope *sc = risk_scope_of(l->s, cell[0], true);

    (void)n;
    sc->state = (enum risk_state)int_of(cell[1]);
    put(sc->reason, sizeof sc->reason, cell[2]);
    sc->told = int_of(cell[3]) != 0;
    return KEEL_OK;
}

static enum keel_status load_meta(void *ctx, int n, const char *const *cell)
{
    (void)n;
    *(bool *)ctx = cell[0] != NULL;
    return KEEL_OK;
}

/* What the session is held to until people set their own; all deny. */
static const struct { const char *id; enum risk_limit_type type; const char *value; } defaults[] = {
    {"default_notional", RISK_NOTIONAL, "100000"},        {"default_gross", RISK_GROSS_EXPOSURE, "1000000"},
    {"default_leverage", RISK_LEVERAGE, "3"},             {"default_concentration", RISK_CONCENTRATION, "0.25"},
    {"default_daily_loss", RISK_DAILY_LOSS, "50000"},     {"default_order_rate", RISK_ORDER_RATE, "200"},
};

static void make_defaults(struct keel_rt *rt, struct risk_engine_state *s)
{
    struct keel_txn *t = keel_txn_new(keel_store(rt));
    char type[32];
    static const struct keel_field row = {.unit = RISK_LIMIT_TYPES};

    for (size_t i = 0; i < KEEL_COUNT(defaults); i++) {
        struct risk_limit *l = &s->limit[s->n_limits++];
        *l = (struct risk_limit){.type = defaults[i].type, .value = money_of(defaults[i].value), .enabled = true};
        put(l->id, RISK_ID, defaults[i].id);
        keel_txn_exec(
            t,
            "INSERT INTO limits(limit_id, limit_type, limit_value, enabled, action, portfolio_id, strategy_id, symbol)"
            " VALUES(?,?,?,1,0,'','','')",
            "sss", l->id, keel_enum_name(&row, (int)l->type, type, sizeof type), defaults[i].value);
    }
    keel_txn_exec(t, "INSERT OR IGNORE INTO meta VALUES('limits_made','1')", "");
    keel_txn_commit(rt, t, NULL, NULL);
}

enum keel_status risk_open(struct keel_rt *rt, void *state)
{
    static const struct { const char *sql; keel_row_fn *each; } loads[] = {
        {"SELECT portfolio_id, currency, cash, base, day, fills FROM portfolios", load_portfolio},
        {"SELECT portfolio_id, symbol, quantity FROM holdings", load_holding},
        {"SELECT client_order_id, portfolio_id, strategy_id, symbol, side, phase, quantity, filled, end_filled, price,"
         " created_ns, body FROM entries",
         load_entry},
        {"SELECT client_order_id FROM (SELECT n, client_order_id FROM ended ORDER BY n DESC LIMIT 65536) ORDER BY n",
         load_ended},
        {"SELECT venue, trade_id FROM (SELECT n, venue, trade_id FROM trades ORDER BY n DESC LIMIT 262144) ORDER BY n",
         load_trade},
        {"SELECT limit_id, limit_type, limit_value, enabled, action, portfolio_id, strategy_id, symbol FROM limits"
         " ORDER BY n",
         load_limit},
        {"SELECT breach_id, portfolio_id, breach_type, limit_id, current_value, limit_value, severity FROM breaches"
         " WHERE resolved_ns IS NULL ORDER BY n",
         load_breach},
        {"SELECT max(n) FROM breaches", load_last_breach},
        {"SELECT portfolio_id, state, reason, told FROM states", load_state},
    };
    struct risk_engine_state *s = state;
    const struct risk_options *o = keel_options(rt);
    struct loading l = {rt, s};
    bool made = false;
    enum keel_status st = KEEL_OK;

    s->portfolio = keel_alloc((size_t)o->max_portfolios, sizeof *s->portfolio);
    s->symbol = keel_alloc((size_t)o->max_symbols, sizeof *s->symbol);
    for (s->symbol_cap = 64; s->symbol_cap < 2 * (uint32_t)o->max_symbols; s->symbol_cap *= 2)
        ;
    s->symbol_slot = keel_alloc(s->symbol_cap, sizeof *s->symbol_slot);
    s->entry = keel_alloc((size_t)o->max_orders, sizeof *s->entry);
    for (s->entry_cap = 64; s->entry_cap < 2 * (uint32_t)o->max_orders; s->entry_cap *= 2)
        ;
    s->entry_slot = keel_alloc(s->entry_cap, sizeof *s->entry_slot);
    s->limit = keel_alloc((size_t)o->max_limits, sizeof *s->limit);
    seen_init(&s->trades, SEEN_TRADES);
    seen_init(&s->ended, SEEN_ENDED);
    (void)risk_scope_of(s, "", true);
    for (size_t i = 0; i < KEEL_COUNT(loads) && st == KEEL_OK; i++)
        st = keel_store_each(keel_store(rt), loads[i].sql, loads[i].each, &l);
    if (st == KEEL_OK)
        st = keel_store_each(keel_store(rt), "SELECT value FROM meta WHERE name = 'limits_made'", load_meta, &made);
    if (st == KEEL_OK && !made && o->default_limits)
        make_defaults(rt, s);
    return st;
}

void risk_close(struct keel_rt *rt, void *state)
{
    struct risk_engine_state *s = state;

    (void)rt;
    for (size_t i = 0; i < s->n_portfolios; i++)
        keel_free(s->portfolio[i].holding);
    keel_free(s->portfolio);
    keel_free(s->symbol);
    keel_free(s->symbol_slot);
    keel_free(s->entry);
    keel_free(s->entry_slot);
    keel_free(s->limit);
    keel_free(s->scope);
    keel_free(s->breach);
    keel_free(s->trades.key);
    keel_free(s->trades.slot);
    keel_free(s->ended.key);
    keel_free(s->ended.slot);
}

/* ---- saving ---- */

void risk_save_portfolio(struct keel_txn *t, const struct risk_portfolio *p)
{
    keel_txn_exec(t, "INSERT OR REPLACE INTO portfolios VALUES(?,?,?,?,?,?)", "ssmmii", p->id, p->currency, &p->cash,
                  &p->base, p->day, p->fills);
}

void risk_save_holding(struct keel_txn *t, const struct risk_portfolio *p, const struct risk_holding *h)
{
    keel_txn_exec(t, "INSERT OR REPLACE INTO holdings VALUES(?,?,?)", "ssD", p->id, h->symbol->name, h->quantity);
}

void risk_save_entry(struct keel_txn *t, const struct risk_entry *e)
{
    if (risk_entry_done(e)) {
        keel_txn_exec(t, "DELETE FROM entries WHERE client_order_id = ?", "s", e->id);
        keel_txn_exec(t, "INSERT OR IGNORE INTO ended(client_order_id) VALUES(?)", "s", e->id);
        keel_txn_exec(t, "DELETE FROM ended WHERE n <= (SELECT max(n) FROM ended) - 65536", "");
        return;
    }
    keel_txn_exec(t, "INSERT OR REPLACE INTO entries VALUES(?,?,?,?,?,?,?,?,?,?,?,?)", "ssssiiDDDDii", e->id,
                  e->portfolio, e->strategy, e->symbol, (int64_t)e->side, (int64_t)e->phase, e->quantity, e->filled,
                  e->end_filled, e->price, e->created_ns, (int64_t)e->body);
}

bool risk_raise(struct keel_rt *rt, struct risk_engine_state *s, struct keel_txn *t, const char *portfolio,
                const char *type, const char *limit_id, keel_i128 current, keel_i128 limit, int severity,
                const char *detail)
{
    struct risk_breach *b;
    struct keel_breach rec;

    for (size_t i = 0; i < s->n_breaches; i++)
        if (strcmp(s->breach[i].portfolio, portfolio) == 0 && strcmp(s->breach[i].limit_id, limit_id) == 0)
            return false;
    b = new_breach(s);
    snprintf(b->id, sizeof b->id, "B-%" PRIu64, ++s->next_breach);
    put(b->portfolio, RISK_ID, portfolio);
    put(b->type, sizeof b->type, type);
    put(b->limit_id, RISK_ID, limit_id);
    b->current = current;
    b->limit = limit;
    b->severity = severity;
    keel_txn_exec(
        t,
        "INSERT INTO breaches(breach_id, portfolio_id, breach_type, limit_id, current_value, limit_value, severity,"
        " detail, opened_ns) VALUES(?,?,?,?,?,?,?,?,?)",
        "ssssmmisi", b->id, b->portfolio, b->type, b->limit_id, &current, &limit, (int64_t)severity, detail,
        keel_session_ns(rt));
    rec = (struct keel_breach){.breach_id = b->id,
                               .has_breach_id = true,
                               .portfolio_id = b->portfolio,
                               .has_portfolio_id = true,
                               .breach_type = b->type,
                               .has_breach_type = true,
                               .current_value = current,
                               .has_current_value = true,
                               .limit_value = limit,
                               .has_limit_value = true,
                               .severity = severity,
                               .has_severity = true,
                               .detail = detail,
                               .has_detail = true,
                               .has_resolved = true};
    keel_txn_publish(t, NULL, "risk.critical.breach", b->portfolio, keel_session_ns(rt), 0, &rec);
    return true;
}

void risk_set_state(struct risk_engine_state *s, struct keel_txn *t, struct keel_call *c, const char *portfolio,
                    enum risk_state state, const char *reason)
{
    struct risk_scope *sc = risk_scope_of(s, portfolio, true);
    struct keel_trading_state rec = {.state = (int)state, .has_state = true, .portfolio_id = portfolio,
                                     .has_portfolio_id = *portfolio != 0, .reason = reason, .has_reason = true};

    sc->state = state;
    sc->told = false;
    put(sc->reason, sizeof sc->reason, reason);
    keel_txn_exec(t, "INSERT OR REPLACE INTO states VALUES(?,?,?,0)", "sis", portfolio, (int64_t)state, reason);
    keel_txn_publish(t, c, "risk.critical.trading_state", *portfolio ? portfolio : "-", 0, 0, &rec);
}

/* ---- looking ---- */

bool risk_mark(struct keel_rt *rt, const struct risk_symbol *sym, int64_t *out)
{
    const struct risk_options *o = keel_options(rt);
    int64_t oldest = keel_session_ns(rt) - o->mark_stale_ms * 1000000;

    if (sym->mid_ts != 0 && sym->mid_ts >= oldest)
        *out = sym->mid;
    else if (sym->last_ts != 0 && sym->last_ts >= oldest)
        *out = sym->last;
    else if (sym->bar_ts != 0 && sym->bar_ts >= oldest)
        *out = sym->bar;
    else
        return false;
    return true;
}

static struct risk_line *line_of(struct risk_view *v, const struct risk_engine_state *s, struct risk_symbol *sym)
{
    uint32_t *at = &v->at[sym - s->symbol];

    if (*at == 0) {
        v->symbol[v->n] = sym;
        v->line[v->n] = (struct risk_line){0};
        *at = (uint32_t)++v->n;
    }
    return &v->line[*at - 1];
}

enum keel_status risk_look(struct keel_rt *rt, struct risk_engine_state *s, const struct risk_portfolio *p,
                           const char *except, struct keel_arena *a, struct risk_view *v)
{
    const struct risk_options *o = keel_options(rt);
    size_t most = p->n_holdings + s->n_entries, symbols = (size_t)o->max_symbols;

    if (most > symbols)
        most = symbols;
    /* One more: the caller's order may be the first in its symbol. */
    *v = (struct risk_view){.symbol = keel_arena_array(a, most + 1, sizeof *v->symbol),
                            .line = keel_arena_array(a, most + 1, sizeof *v->line),
                            .at = keel_arena_array(a, symbols, sizeof *v->at)};
    for (size_t i = 0; i < p->n_holdings; i++)
        if (p->holding[i].quantity != 0)
            line_of(v, s, p->holding[i].symbol)->position = p->holding[i].quantity;
    for (size_t i = 0; i < s->n_entries; i++) {
        const struct risk_entry *e = &s->entry[i];
        struct risk_symbol *sym;
        struct risk_line *l;
        int64_t *sum;

        if ((risk_leaves(e) == 0 && e->phase != RISK_FOUND) || strcmp(e->portfolio, p->id) != 0 ||
            (except && strcmp(e->id, except) == 0))
            continue;
        sym = risk_find_symbol(rt, s, e->symbol, true);
        if (!sym)
            return KEEL_TOOBIG;
        l = line_of(v, s, sym);
        l->unknown |= e->phase == RISK_FOUND;
        sum = e->side == RISK_SIDE_BUY ? &l->buys : &l->sells;
        if (keel_dec_add(*sum, risk_leaves(e), sum) != KEEL_OK)
            return KEEL_TOOBIG;
    }
    for (size_t i = 0; i < v->n; i++)
        v->line[i].has_mark = risk_mark(rt, v->symbol[i], &v->line[i].mark);
    return risk_sum(v->line, v->n, p->cash, &v->totals);
}

static struct risk_figure figure_of(double x)
{
    struct risk_figure f = {0};
    int64_t units;

    /* Statistics: the nearest value within a price's range is exact enough, and beyond it undefined. */
    f.defined = keel_dec_from_f64(x, &units) == KEEL_OK;
    f.value = f.defined ? units : 0;
    return f;
}

void risk_live_var(const struct risk_view *v, struct keel_arena *a, struct risk_live_var *out)
{
    const struct risk_closes **closes = keel_arena_array(a, v->n + 1, sizeof *closes);
    double *value = keel_arena_array(a, v->n + 1, sizeof *value),
           *profit = keel_arena_array(a, RISK_CLOSES, sizeof *profit);
    static const double confidence[] = {0.95, 0.99};
    struct risk_var x[KEEL_COUNT(confidence)];
    size_t k = 0;

    *out = (struct risk_live_var){0};
    for (size_t i = 0; i < v->n; i++) {
        keel_i128 money;
        if (v->line[i].position == 0)
            continue;
        if (risk_value(&v->line[i], v->line[i].position, &money) != KEEL_OK)
            return;
        closes[k] = &v->symbol[i]->closes;
        value[k++] = keel_money_to_f64(money);
    }
    out->returns = risk_profits(closes, value, k, profit);
    if (out->returns < RISK_MIN_RETURNS ||
        risk_var_historical(profit, out->returns, confidence, KEEL_COUNT(confidence), a, x) != KEEL_OK)
        return;
    out->var_95 = figure_of(x[0].var);
    out->es_95 = figure_of(x[0].es);
    out->var_99 = figure_of(x[1].var);
    out->es_99 = figure_of(x[1].es);
}

static struct risk_figure over_equity(keel_i128 amount, const struct risk_totals *t)
{
    struct risk_figure f = {0};

    f.defined = t->defined && t->equity > 0 && risk_ratio(amount, t->equity, &f.value) == KEEL_OK;
    return f;
}

static struct risk_figure loss_of(const struct risk_portfolio *p, const struct risk_totals *t)
{
    struct risk_figure f = {0};

    f.defined = t->defined && keel_money_sub(p->base, t->equity, &f.value) == KEEL_OK;
    if (f.defined && f.value < 0)
        f.value = 0;
    return f;
}

static struct risk_figure largest_share(const struct risk_view *v, const char *symbol)
{
    struct risk_figure f = {.defined = true};

    for (size_t i = 0; i < v->n; i++) {
        struct risk_figure one = {0};
        keel_i128 value;
        int64_t quantity;

        if (*symbol && strcmp(v->symbol[i]->name, symbol) != 0)
            continue;
        if (risk_worst_quantity(&v->line[i], &quantity) != KEEL_OK ||
            risk_value(&v->line[i], quantity, &value) != KEEL_OK)
            return (struct risk_figure){0};
        one = over_equity(value, &v->totals);
        if (!one.defined)
            return one;
        if (one.value > f.value)
            f.value = one.value;
    }
    return f;
}

static struct risk_figure largest_quantity(const struct risk_view *v, const char *symbol)
{
    struct risk_figure f = {.defined = true};

    for (size_t i = 0; i < v->n; i++) {
        int64_t quantity;

        if (*symbol && strcmp(v->symbol[i]->name, symbol) != 0)
            continue;
        if (risk_worst_quantity(&v->line[i], &quantity) != KEEL_OK)
            return (struct risk_figure){0};
        if (quantity > f.value)
            f.value = quantity;
    }
    return f;
}

struct risk_figure risk_portfolio_figure(const struct risk_portfolio *p, const struct risk_view *v,
                                         const struct risk_limit *l, const struct risk_live_var *var)
{
    switch (l->type) {
    case RISK_POSITION_SIZE:
        return largest_quantity(v, l->symbol);
    case RISK_GROSS_EXPOSURE:
    case RISK_PORTFOLIO_VALUE:
        return (struct risk_figure){v->totals.worst_gross, v->totals.worst_defined};
    case RISK_LEVERAGE:
        return v->totals.worst_defined ? over_equity(v->totals.worst_gross, &v->totals) : (struct risk_figure){0};
    case RISK_CONCENTRATION:
        return largest_share(v, l->symbol);
    case RISK_DAILY_LOSS:
        return loss_of(p, &v->totals);
    case RISK_VAR_95:
        return v->totals.positions == 0 ? (struct risk_figure){0, true} : var->var_95;
    case RISK_VAR_99:
        return v->totals.positions == 0 ? (struct risk_figure){0, true} : var->var_99;
    default:
        return (struct risk_figure){0};
    }
}

/* ---- deciding ---- */

/* Orders of the last second that the limit is about. */
static int64_t recent_orders(const struct risk_portfolio *p, const struct risk_limit *l, int64_t now)
{
    uint64_t strategy = risk_name_hash(l->strategy), symbol = risk_name_hash(l->symbol);
    int64_t n = 0;

    for (uint32_t i = 0; i < p->rate_n; i++)
        n += p->rate[i].at_ns > now - 1000000000 && p->rate[i].at_ns <= now &&
             (!l->strategy[0] || p->rate[i].strategy == strategy) && (!l->symbol[0] || p->rate[i].symbol == symbol);
    return n;
}

void risk_count_order(struct keel_rt *rt, struct risk_portfolio *p, const struct risk_order *o)
{
    p->rate[p->rate_at] =
        (struct risk_passed){keel_session_ns(rt), risk_name_hash(o->strategy), risk_name_hash(o->symbol)};
    p->rate_at = (p->rate_at + 1) % RISK_RATE;
    if (p->rate_n < RISK_RATE)
        p->rate_n++;
}

/* What a decision looks at. */
struct looking {
    struct keel_rt *rt;
    const struct risk_portfolio *p;
    const struct risk_order *o;
    struct keel_arena *a;
    struct risk_view view; /* with the order still open */
    size_t line;           /* the order's */
    bool held;
    int64_t quantity, price; /* what of the order may still come, and the worst it is valued at */
    struct risk_live_var var;
    bool has_var;
};

/* Value at risk once the order has filled. */
static struct risk_figure order_var(struct looking *k, const struct risk_limit *l)
{
    struct risk_view after = k->view;
    int64_t *position;

    after.line = keel_arena_array(k->a, after.n, sizeof *after.line);
    memcpy(after.line, k->view.line, after.n * sizeof *after.line);
    position = &after.line[k->line].position;
    if ((k->o->side == RISK_SIDE_BUY ? keel_dec_add(*position, k->quantity, position)
                                     : keel_dec_sub(*position, k->quantity, position)) != KEEL_OK)
        return (struct risk_figure){0};
    after.totals.positions = 0;
    for (size_t i = 0; i < after.n; i++)
        after.totals.positions += after.line[i].position != 0;
    if (!k->has_var)
        risk_live_var(&after, k->a, &k->var);
    k->has_var = true;
    return risk_portfolio_figure(k->p, &after, l, &k->var);
}

static struct risk_figure order_figure(struct looking *k, const struct risk_limit *l)
{
    struct risk_figure f = {0};
    int64_t n;

    switch (l->type) {
    case RISK_POSITION_SIZE:
        return largest_quantity(&k->view, k->o->symbol);
    case RISK_CONCENTRATION:
        return largest_share(&k->view, k->o->symbol);
    case RISK_NOTIONAL:
        f.defined = k->price > 0 && keel_notional(k->price, k->o->quantity, KEEL_SCALE, &f.value) == KEEL_OK;
        return f;
    case RISK_ORDER_RATE:
        n = recent_orders(k->p, l, keel_session_ns(k->rt));
        return (struct risk_figure){(keel_i128)(k->held && n > 0 ? n : n + 1) * KEEL_SCALE, true};
    case RISK_VAR_95:
    case RISK_VAR_99:
        return order_var(k, l);
    default:
        return risk_portfolio_figure(k->p, &k->view, l, NULL);
    }
}

static void deny(struct risk_decision *d, const char *code, const struct risk_check *check)
{
    d->denial[d->n_denials++] = (struct risk_denial){code, check};
    d->approved = false;
}

static const char *const codes[RISK_N_TYPES] = {"POSITION_SIZE", "NOTIONAL",      "GROSS_EXPOSURE", "PORTFOLIO_VALUE",
                                                "LEVERAGE",      "CONCENTRATION", "DAILY_LOSS",     "ORDER_RATE",
                                                "VAR_95",        "VAR_99"};

/*
 * The worst price the order is valued at; 0: unknown. A buy pays at most its limit. What is sold is worth its mark even
 * when it is offered for less. Without a limit it is the mark and the collar, whichever way it goes.
 */
static int64_t worst_price(const struct risk_options *opt, const struct risk_order *o, const struct risk_line *line)
{
    int64_t price = o->price;

    if (o->price == 0 && line->has_mark)
        return keel_dec_from_f64(keel_dec_to_f64(line->mark) * (1 + opt->collar), &price) == KEEL_OK ? price : 0;
    return o->side == RISK_SIDE_SELL && line->has_mark && line->mark > price ? line->mark : price;
}

/* The portfolio without the order, then whether it reduces, then with the order. False: it does not fit. */
static bool look_for(struct looking *k, struct risk_engine_state *s, struct risk_decision *d)
{
    const struct risk_entry *own = risk_find_entry(s, k->o->id);
    struct risk_symbol *sym;
    struct risk_line *line;
    int64_t *sum;

    if (risk_look(k->rt, s, k->p, k->o->id, k->a, &k->view) != KEEL_OK)
        return false;
    if ((sym = risk_find_symbol(k->rt, s, k->o->symbol, false)) != NULL) {
        line = line_of(&k->view, s, sym);
        line->has_mark = risk_mark(k->rt, sym, &line->mark);
    } else {
        /* Nobody has a price of it, and asking makes no place in the table. */
        sym = keel_arena_alloc(k->a, sizeof *sym);
        put(sym->name, RISK_SYMBOL, k->o->symbol);
        k->view.symbol[k->view.n] = sym;
        line = &k->view.line[k->view.n++];
    }
    k->line = (size_t)(line - k->view.line);
    k->held = d->held = own != NULL;
    k->quantity = own ? risk_leaves(own) : k->o->quantity;
    k->price = d->worst_price = worst_price(keel_options(k->rt), k->o, line);
    d->reduces = risk_reduces(line, k->o->side, k->quantity);
    sum = k->o->side == RISK_SIDE_BUY ? &line->buys : &line->sells;
    return keel_dec_add(*sum, k->quantity, sum) == KEEL_OK &&
           risk_sum(k->view.line, k->view.n, k->p->cash, &k->view.totals) == KEEL_OK;
}

void risk_decide(struct keel_rt *rt, struct risk_engine_state *s, struct risk_portfolio *p, const struct risk_order *o,
                 struct keel_arena *a, struct risk_decision *d)
{
    struct looking *k = keel_arena_alloc(a, sizeof *k);

    *k = (struct looking){.rt = rt, .p = p, .o = o, .a = a};
    *d = (struct risk_decision){.approved = true, .check = keel_arena_array(a, s->n_limits + 1, sizeof *d->check),
                                .denial = keel_arena_array(a, s->n_limits + 8, sizeof *d->denial),
                                .state = risk_state_of(s, p->id, NULL)};
    if (!look_for(k, s, d)) {
        deny(d, "LIMIT_UNDEFINED", NULL);
        return;
    }
    if (*risk_state_denies(d->state, d->reduces))
        deny(d, risk_state_denies(d->state, d->reduces), NULL);
    if (o->reduce_only && !d->reduces)
        deny(d, "REDUCE_ONLY", NULL);
    if (k->price == 0 || (!k->view.line[k->line].has_mark && !d->reduces))
        deny(d, "NO_MARK", NULL);
    for (size_t i = 0; i < s->n_limits; i++) {
        struct risk_check *check = &d->check[d->n_checks];
        struct risk_limit *l;

        if (!risk_limit_applies(&s->limit[i], p->id, o->strategy, o->symbol))
            continue;
        l = keel_arena_alloc(a, sizeof *l);
        *l = s->limit[i];
        risk_limit_check(l, order_figure(k, l), check);
        d->n_checks++;
        if (check->ok || l->action == RISK_WARN || (d->reduces && risk_limit_of_portfolio(l->type)))
            continue;
        deny(d, check->value.defined ? codes[l->type] : "LIMIT_UNDEFINED", check);
    }
    if (d->n_checks == 0)
        deny(d, "NO_LIMITS", NULL);
}
