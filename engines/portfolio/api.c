/* The HTTP ops except fills (bus.c): portfolios, opening balances, the ledger, performance. */
#include <math.h>
#include <string.h>

#include "ops.h"

KEEL_RECORD_TABLE(portfolio_create, PORTFOLIO_CREATE);
KEEL_RECORD_TABLE(portfolio_create_with, PORTFOLIO_CREATE_WITH);
KEEL_RECORD_TABLE(portfolio_list, PORTFOLIO_LIST);
KEEL_RECORD_TABLE(portfolio_one, PORTFOLIO_ONE);
KEEL_RECORD_TABLE(portfolio_positions, PORTFOLIO_POSITIONS);
KEEL_RECORD_TABLE(portfolio_opening, PORTFOLIO_OPENING);
KEEL_RECORD_TABLE(portfolio_ledger, PORTFOLIO_LEDGER);
KEEL_RECORD_TABLE(portfolio_period, PORTFOLIO_PERIOD);

#define MAX_OPENINGS  1000
#define DAY_NS        86400000000000LL
#define DAYS_PER_YEAR 365

static enum keel_status no_portfolio(struct keel_call *c, const char *id)
{
    return keel_fail(c, KEEL_NOTFOUND, "there is no portfolio %s", id);
}

/* ---- one portfolio as JSON ---- */

static void write_head(struct keel_call *c, const struct portfolio *p)
{
    struct keel_json *w = &c->out;
    char name[32];
    keel_json_str(w, "portfolio_id", p->id);
    keel_json_str(w, "portfolio_name", p->name);
    keel_json_str(w, "currency", p->currency);
    if (p->created_ns != 0)
        keel_json_time(w, "created_at", p->created_ns);
    keel_json_str(w, "optimization_method",
                  keel_enum_name(keel_field_find(&portfolio_create_fields, "optimization_method"),
                                 p->method, name, sizeof name));
    keel_json_str(w, "rebalance_frequency",
                  keel_enum_name(keel_field_find(&portfolio_create_fields, "rebalance_frequency"),
                                 p->frequency, name, sizeof name));
}

/* Everything of one instant: cash, equity, realised, unrealised and fees belong together. */
static void write_balances(struct keel_call *c, const struct portfolio *p)
{
    struct keel_json *w = &c->out;
    struct portfolio_equity equity;
    struct keel_account account =
        portfolio_account_record(c->rt, p, &p->book.totals, NULL, 0, &equity);
    keel_json_moneynum(w, "initial_value", p->book.totals.capital);
    keel_json_moneynum(w, "cash_balance", p->book.totals.cash);
    if (equity.is_known)
        keel_json_moneynum(w, "total_value", equity.equity);
    else
        keel_json_null(w, "total_value");
    portfolio_write_account(w, "account", &account);
}

/* Positions [from, to) of the book. */
static void write_positions(struct keel_call *c, const struct portfolio *p, size_t from, size_t to)
{
    keel_json_arr(&c->out, "positions");
    for (size_t i = from; i < to; i++) {
        struct keel_position r = portfolio_position_record(c->rt, p, &p->book.position[i]);
        portfolio_write_position(&c->out, NULL, &r);
    }
    keel_json_end(&c->out);
}

/* Names what is null in what write_balances and write_positions wrote. */
static void write_undefined(struct keel_call *c, const struct portfolio *p, bool balances, size_t from, size_t to)
{
    bool open = false;
    if (balances) {
        struct portfolio_equity equity;
        struct keel_account account =
            portfolio_account_record(c->rt, p, &p->book.totals, NULL, 0, &equity);
        portfolio_undefined_account(c, &open, p, &account);
        if (!account.has_equity)
            keel_json_str(&c->out, "total_value", "equity is undefined");
    }
    for (size_t i = from; i < to; i++) {
        struct keel_position r = portfolio_position_record(c->rt, p, &p->book.position[i]);
        portfolio_undefined_position(c, &open, keel_arena_printf(c->arena, "positions[%zu]", i - from), &r);
    }
    if (open)
        keel_json_end(&c->out);
}

enum keel_status api_get(struct keel_call *c)
{
    const struct portfolio_one *arg = c->arg;
    const struct portfolio_state *s = c->state;
    const struct portfolio *p = portfolio_get(s, arg->portfolio_id);
    if (p == NULL)
        return no_portfolio(c, arg->portfolio_id);
    keel_json_obj(&c->out, NULL);
    write_head(c, p);
    write_balances(c, p);
    write_positions(c, p, 0, p->book.n);
    write_undefined(c, p, true, 0, p->book.n);
    keel_json_i64(&c->out, "last_fill_no", s->last_fill_no);
    keel_json_i64(&c->out, "fills", p->fills);
    keel_json_obj(&c->out, "ledger");
    keel_json_i64(&c->out, "entries", p->entries);
    keel_json_money(&c->out, "sum", portfolio_sum(&p->book));
    keel_json_end(&c->out);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_list(struct keel_call *c)
{
    const struct portfolio_list *arg = c->arg;
    const struct portfolio_state *s = c->state;
    size_t i = s->n;
    if (arg->has_after) {
        const struct portfolio *last = portfolio_get(s, arg->after);
        if (last == NULL)
            return keel_fail_as(c, KEEL_INVALID, "invalid", "after",
                                "after must be the next of the answer before");
        i = (size_t)(last - s->all);
    }
    const char *next = NULL;
    int64_t count = 0;
    keel_json_obj(&c->out, NULL);
    keel_json_arr(&c->out, "portfolios");
    for (const char *written = NULL; i > 0 && next == NULL; i--) {
        const struct portfolio *p = &s->all[i - 1];
        if (p->is_pending)
            continue;
        if (count == arg->limit) {
            next = written;
            break;
        }
        keel_json_obj(&c->out, NULL);
        write_head(c, p);
        write_balances(c, p);
        write_undefined(c, p, true, 0, 0);
        keel_json_i64(&c->out, "positions_count", (int64_t)p->book.n);
        keel_json_end(&c->out);
        written = p->id;
        count++;
    }
    keel_json_end(&c->out);
    keel_json_i64(&c->out, "count", count);
    keel_json_str(&c->out, "next", next);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_positions(struct keel_call *c)
{
    const struct portfolio_positions *arg = c->arg;
    const struct portfolio *p = portfolio_get(c->state, arg->portfolio_id);
    size_t from = 0, to;
    if (p == NULL)
        return no_portfolio(c, arg->portfolio_id);
    while (arg->has_after && from < p->book.n && strcmp(p->book.position[from].symbol, arg->after) != 0)
        from++;
    if (arg->has_after && from++ == p->book.n)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "after", "after must be the next of an answer");
    to = p->book.n - from > (size_t)arg->limit ? from + (size_t)arg->limit : p->book.n;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "portfolio_id", p->id);
    write_positions(c, p, from, to);
    write_undefined(c, p, false, from, to);
    keel_json_i64(&c->out, "count", (int64_t)(to - from));
    keel_json_str(&c->out, "next", to < p->book.n ? p->book.position[to - 1].symbol : NULL);
    keel_json_end(&c->out);
    return KEEL_OK;
}

/* ---- creating ---- */

struct creation {
    char id[PORTFOLIO_ID];
    const char *const *symbols;
    size_t n_symbols;
};

static bool is_id(const char *id)
{
    size_t n = strlen(id);
    for (size_t i = 0; i < n; i++) {
        char ch = id[i];
        bool plain =
            (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
        if (!plain && (i == 0 || (ch != '.' && ch != '_' && ch != '-')))
            return false;
    }
    return n > 0 && n < PORTFOLIO_ID;
}

static enum keel_status create_answer(struct keel_call *c, const char *status)
{
    const struct creation *x = c->ctx;
    const struct portfolio *p = portfolio_get(c->state, x->id);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", status);
    if (p != NULL) {
        write_head(c, p);
        write_balances(c, p);
        write_positions(c, p, 0, p->book.n);
        write_undefined(c, p, true, 0, p->book.n);
    } else {
        keel_json_str(&c->out, "portfolio_id", x->id);
    }
    keel_write_ignored(c);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status create_late(struct keel_call *c)
{
    return create_answer(c, "unknown");
}

static enum keel_status create_stored(struct keel_call *c)
{
    const struct creation *x = c->ctx;
    struct portfolio_state *s = c->state;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->all[i].id, x->id) == 0)
            s->all[i].is_pending = false;
    return create_answer(c, "created");
}

/* The cash it starts with: one of the two first-version fields, or both with the same figure. */
static enum keel_status starting_cash(struct keel_call *c, const struct portfolio_create *arg,
                                      keel_i128 *out)
{
    if (!arg->has_initial_value && !arg->has_cash_balance)
        return keel_fail_as(c, KEEL_INVALID, "missing", "initial_value",
                            "initial_value or cash_balance is required");
    if (arg->has_initial_value && arg->has_cash_balance && arg->initial_value != arg->cash_balance)
        return keel_fail_as(c, KEEL_INVALID, "conflict", "cash_balance",
                            "a portfolio starts with cash only: cash_balance must equal "
                            "initial_value; positions are"
                            " opened with POST /portfolios/{portfolio_id}/positions");
    keel_i128 cash = arg->has_cash_balance ? arg->cash_balance : arg->initial_value;
    if (cash < 0)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range",
                            arg->has_cash_balance ? "cash_balance" : "initial_value",
                            "a portfolio cannot start with a debt");
    *out = cash;
    return KEEL_OK;
}

static enum keel_status creation_symbols(struct keel_call *c, const char *const *symbols, size_t n,
                                         struct creation *x)
{
    const struct portfolio_options *o = keel_options(c->rt);
    const char **list = keel_arena_array(c->arena, n + 1, sizeof *list);
    if (n > (size_t)o->max_positions)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "symbols", "at most %lld symbols",
                            (long long)o->max_positions);
    for (size_t i = 0; i < n; i++) {
        list[i] = portfolio_symbol(c->arena, symbols[i]);
        if (list[i] == NULL)
            return keel_fail_as(c, KEEL_INVALID, "bad_symbol", "symbols",
                                "a symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}");
        for (size_t k = 0; k < i; k++)
            if (strcmp(list[k], list[i]) == 0)
                return keel_fail_as(c, KEEL_INVALID, "duplicate", "symbols", "%s is there twice",
                                    list[i]);
    }
    x->symbols = list;
    x->n_symbols = n;
    return KEEL_OK;
}

static enum keel_status creation_id(struct keel_call *c, const struct portfolio_create *arg,
                                    struct creation *x)
{
    struct portfolio_state *s = c->state;
    const char *id = arg->portfolio_id;
    if (!arg->has_portfolio_id) {
        int64_t no = s->last_no;
        do
            id = keel_arena_printf(c->arena, "P-%lld", (long long)++no);
        while (portfolio_id_taken(s, id));
    }
    if (!is_id(id))
        return keel_fail_as(
            c, KEEL_INVALID, "invalid", "portfolio_id",
            "portfolio_id must begin with a letter or digit and hold only these and . _ -");
    if (portfolio_id_taken(s, id))
        return keel_fail_as(c, KEEL_CONFLICT, "exists", "portfolio_id", "there is a portfolio %s",
                            id);
    memcpy(x->id, id, strlen(id) + 1);
    return KEEL_OK;
}

static enum keel_status create(struct keel_call *c, const struct portfolio_create *arg,
                               const char *const *symbols, size_t n)
{
    struct creation *x = keel_arena_alloc(c->arena, sizeof *x);
    keel_i128 cash = 0;
    c->ctx = x;
    enum keel_status st = starting_cash(c, arg, &cash);
    if (st == KEEL_OK)
        st = creation_symbols(c, symbols, n, x);
    if (st == KEEL_OK)
        st = creation_id(c, arg, x);
    if (st != KEEL_OK)
        return st;
    struct portfolio *p = portfolio_add(c->state, x->id, arg->portfolio_name, arg->currency);
    if (p == NULL)
        return keel_fail_as(c, KEEL_CONFLICT, "max_portfolios", NULL,
                            "there are as many portfolios as there may be");
    p->method = arg->optimization_method;
    p->frequency = arg->rebalance_frequency;
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));
    keel_assert(portfolio_put_new(c, t, p, cash) == KEEL_OK);
    for (size_t i = 0; i < n; i++) {
        struct portfolio_plan flat = {.totals = p->book.totals,
                                      .has_position = true,
                                      .position = portfolio_position_of(p, x->symbols[i])};
        keel_assert(portfolio_make_room(c->rt, p, x->symbols[i]) == KEEL_OK);
        portfolio_apply(&p->book, &flat);
        portfolio_put_position(t, p, &flat.position);
    }
    keel_commit_point(c, create_late);
    return keel_await_store(c, t, create_stored);
}

enum keel_status api_create(struct keel_call *c)
{
    return create(c, c->arg, NULL, 0);
}

enum keel_status api_create_with(struct keel_call *c)
{
    const struct portfolio_create_with *arg = c->arg;
    struct portfolio_create base = {.portfolio_id = arg->portfolio_id,
                                    .has_portfolio_id = arg->has_portfolio_id,
                                    .portfolio_name = arg->portfolio_name,
                                    .initial_value = arg->initial_value,
                                    .has_initial_value = arg->has_initial_value,
                                    .cash_balance = arg->cash_balance,
                                    .has_cash_balance = arg->has_cash_balance,
                                    .currency = arg->currency,
                                    .optimization_method = arg->optimization_method,
                                    .rebalance_frequency = arg->rebalance_frequency};
    return create(c, &base, arg->symbols, arg->n_symbols);
}

/* ---- opening balances ---- */

struct opening {
    const char *symbol;
    int64_t quantity, avg_cost;
    struct portfolio_plan plan;
};
struct openings {
    struct opening *item;
    size_t n;
    int64_t entries, entry_id;
};

static void ignore(struct keel_call *c, const char *name)
{
    for (size_t i = 0; i < c->ignored.n; i++)
        if (strcmp(c->ignored.names[i], name) == 0)
            return;
    if (c->ignored.n < KEEL_COUNT(c->ignored.names))
        c->ignored.names[c->ignored.n++] = keel_arena_strdup(c->arena, name);
}

static enum keel_status opening_number(struct keel_call *c, const struct keel_jval *item,
                                       const char *symbol, const char *name, int64_t *out)
{
    const struct keel_jval *v = keel_jget(item, name);
    const char *field = keel_arena_printf(c->arena, "positions.%s.%s", symbol, name);
    if (v == NULL || v->type == KEEL_JNULL)
        return keel_fail_as(c, KEEL_INVALID, "missing", field, "%s is required", name);
    if (v->type != KEEL_JNUM && v->type != KEEL_JSTR)
        return keel_fail_as(c, KEEL_INVALID, "wrong_type", field,
                            "%s must be a number or a decimal string", name);
    enum keel_status st = keel_dec_parse(v->text, v->len, out);
    if (st == KEEL_TOOBIG)
        return keel_fail_as(c, KEEL_INVALID, "inexact", field,
                            "%s must be a multiple of 0.000000001 below 9.2e9; send a string",
                            name);
    if (st != KEEL_OK)
        return keel_fail_as(c, KEEL_INVALID, "wrong_type", field, "%s is no decimal", name);
    return KEEL_OK;
}

static enum keel_status opening_read(struct keel_call *c, const struct keel_jval *item,
                                     struct opening *out)
{
    const char *text = item->name != NULL ? item->name : keel_jstr(item, "symbol");
    out->symbol = item->type == KEEL_JOBJ ? portfolio_symbol(c->arena, text) : NULL;
    if (out->symbol == NULL)
        return keel_fail_as(
            c, KEEL_INVALID, "bad_symbol", "positions",
            "each position is an object under a symbol of the form [A-Z0-9][A-Z0-9._-]{0,31}");
    enum keel_status st = opening_number(c, item, out->symbol, "quantity", &out->quantity);
    if (st == KEEL_OK)
        st = opening_number(c, item, out->symbol, "avg_cost", &out->avg_cost);
    for (const struct keel_jval *m = item->child; m != NULL; m = m->next)
        if (strcmp(m->name, "quantity") != 0 && strcmp(m->name, "avg_cost") != 0 &&
            strcmp(m->name, "symbol") != 0)
            ignore(c, m->name);
    return st;
}

static enum keel_status openings_read(struct keel_call *c, struct openings *x)
{
    const struct portfolio_opening *arg = c->arg;
    const struct keel_jval *top = NULL;
    const char *why = "";
    if (keel_json_parse(c->arena, arg->positions, arg->n_positions, &top, &why) != KEEL_OK)
        return keel_fail_as(c, KEEL_INVALID, "wrong_type", "positions", "%s", why);
    if ((top->type != KEEL_JOBJ && top->type != KEEL_JARR) || top->len == 0 ||
        top->len > MAX_OPENINGS)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "positions",
                            "positions must hold 1 to %d positions", MAX_OPENINGS);
    x->item = keel_arena_array(c->arena, top->len, sizeof *x->item);
    for (const struct keel_jval *item = top->child; item != NULL; item = item->next) {
        struct opening *o = &x->item[x->n];
        enum keel_status st = opening_read(c, item, o);
        if (st != KEEL_OK)
            return st;
        for (size_t i = 0; i < x->n; i++)
            if (strcmp(x->item[i].symbol, o->symbol) == 0)
                return keel_fail_as(c, KEEL_INVALID, "duplicate", "positions", "%s is there twice",
                                    o->symbol);
        x->n++;
    }
    return KEEL_OK;
}

/* Each is planned on the totals that the one before will leave. */
static enum keel_status openings_plan(struct keel_call *c, struct portfolio *p, struct openings *x)
{
    const struct portfolio_options *o = keel_options(c->rt);
    struct portfolio_totals totals = p->book.totals;
    size_t n_new = 0;
    for (size_t i = 0; i < x->n; i++) {
        struct opening *item = &x->item[i];
        struct portfolio_position position = portfolio_position_of(p, item->symbol);
        enum keel_status st =
            portfolio_plan_opening(&totals, &position, item->quantity, item->avg_cost, &item->plan);
        n_new += portfolio_find(&p->book, item->symbol) == NULL;
        if (st == KEEL_CONFLICT)
            return keel_fail_as(
                c, st, "exists", "positions",
                "%s has a position or has traded; an opening balance never overwrites",
                item->symbol);
        if (st != KEEL_OK)
            return keel_fail_as(
                c, KEEL_INVALID, "out_of_range", "positions",
                "%s: quantity must not be 0, avg_cost not below 0, their product within range",
                item->symbol);
        totals = item->plan.totals;
    }
    if (p->book.n + n_new > (size_t)o->max_positions)
        return keel_fail_as(c, KEEL_CONFLICT, "max_positions", "positions",
                            "a portfolio holds at most %lld symbols", (long long)o->max_positions);
    return KEEL_OK;
}

static enum keel_status openings_late(struct keel_call *c)
{
    const struct portfolio_opening *arg = c->arg;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "unknown");
    keel_json_str(&c->out, "portfolio_id", arg->portfolio_id);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status openings_stored(struct keel_call *c)
{
    const struct portfolio_opening *arg = c->arg;
    const struct openings *x = c->ctx;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    struct portfolio *p = portfolio_get(c->state, arg->portfolio_id);
    keel_assert(p != NULL);
    for (size_t i = 0; i < x->n; i++) {
        keel_assert(portfolio_make_room(c->rt, p, x->item[i].symbol) == KEEL_OK);
        portfolio_apply(&p->book, &x->item[i].plan);
    }
    p->entries = x->entries;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "opened");
    keel_json_str(&c->out, "portfolio_id", p->id);
    write_positions(c, p, 0, p->book.n);
    write_balances(c, p);
    write_undefined(c, p, true, 0, p->book.n);
    keel_json_obj(&c->out, "ledger");
    keel_json_i64(&c->out, "entry_id", x->entry_id);
    keel_json_money(&c->out, "sum", portfolio_sum(&p->book));
    keel_json_end(&c->out);
    keel_write_ignored(c);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static struct keel_txn *openings_rows(struct keel_call *c, struct portfolio *p, struct openings *x)
{
    enum { OPENING = 0 }; /* of the adjustment's kinds */
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));
    const struct portfolio_totals *totals = &x->item[x->n - 1].plan.totals;
    struct portfolio_position *changed = keel_arena_array(c->arena, x->n, sizeof *changed);
    struct portfolio_equity equity;
    int64_t now = keel_session_ns(c->rt);
    if (!p->is_stored)
        keel_assert(portfolio_put_new(c, t, p, p->book.totals.capital) == KEEL_OK);
    for (size_t i = 0; i < x->n; i++) {
        const struct opening *o = &x->item[i];
        changed[i] = o->plan.position;
        x->entry_id =
            portfolio_put_entry(t, c->state, p, "opening", o->symbol, o->symbol, &o->plan, now, 0);
        portfolio_put_position(t, p, &changed[i]);
        portfolio_put_adjustment(t, c, p,
                                 &(struct keel_adjustment){.kind = OPENING,
                                                           .symbol = o->symbol,
                                                           .quantity = o->quantity,
                                                           .price = o->avg_cost},
                                 x->entry_id, now);
        struct keel_position record = portfolio_position_record(c->rt, p, &changed[i]);
        keel_txn_publish(t, c, "portfolio.priority.position", p->id, now, now, &record);
    }
    x->entries = p->entries + (int64_t)x->n;
    portfolio_put(t, p, totals, x->entries, p->fills);
    struct keel_account account =
        portfolio_account_record(c->rt, p, totals, changed, x->n, &equity);
    portfolio_put_equity(t, p, totals, &equity, now);
    keel_txn_publish(t, c, "portfolio.priority.account", p->id, now, now, &account);
    return t;
}

enum keel_status api_open_positions(struct keel_call *c)
{
    const struct portfolio_opening *arg = c->arg;
    struct openings *x = keel_arena_alloc(c->arena, sizeof *x);
    struct portfolio *p = portfolio_get(c->state, arg->portfolio_id);
    c->ctx = x;
    if (p == NULL)
        return no_portfolio(c, arg->portfolio_id);
    enum keel_status st = openings_read(c, x);
    if (st == KEEL_OK)
        st = openings_plan(c, p, x);
    if (st != KEEL_OK)
        return st;
    struct keel_txn *t = openings_rows(c, p, x);
    keel_commit_point(c, openings_late);
    return keel_await_store(c, t, openings_stored);
}

/* ---- the ledger ---- */

static keel_i128 money_cell(const char *cell)
{
    keel_i128 v = 0;
    keel_assert(cell != NULL && keel_money_parse(cell, strlen(cell), &v) == KEEL_OK);
    return v;
}

static int64_t int_cell(const char *cell)
{
    int64_t v = 0;
    keel_assert(cell != NULL && keel_i64_parse(cell, strlen(cell), &v) == KEEL_OK);
    return v;
}

enum {
    ENTRY_ID,
    ENTRY_KIND,
    ENTRY_REF,
    ENTRY_TS,
    ENTRY_ORDER,
    ENTRY_TRACE,
    ENTRY_BOOKED,
    POSTING_ACCOUNT,
    POSTING_SYMBOL,
    POSTING_CURRENCY,
    POSTING_AMOUNT
};

static size_t write_entry(struct keel_call *c, size_t row)
{
    const struct keel_rows *r = c->rows;
    struct keel_json *w = &c->out;
    const char *id = KEEL_CELL(r, row, ENTRY_ID);
    keel_i128 sum = 0;
    keel_json_obj(w, NULL);
    keel_json_i64(w, "entry_id", int_cell(id));
    keel_json_str(w, "kind", KEEL_CELL(r, row, ENTRY_KIND));
    keel_json_str(w, "ref", KEEL_CELL(r, row, ENTRY_REF));
    keel_json_time(w, "ts_event", int_cell(KEEL_CELL(r, row, ENTRY_TS)));
    if (KEEL_CELL(r, row, ENTRY_ORDER) != NULL) {
        keel_json_str(w, "client_order_id", KEEL_CELL(r, row, ENTRY_ORDER));
        keel_json_str(w, "trace_id", KEEL_CELL(r, row, ENTRY_TRACE));
        keel_json_time(w, "booked_at", int_cell(KEEL_CELL(r, row, ENTRY_BOOKED)));
    }
    keel_json_arr(w, "postings");
    for (; row < r->n && strcmp(KEEL_CELL(r, row, ENTRY_ID), id) == 0; row++) {
        if (KEEL_CELL(r, row, POSTING_ACCOUNT) == NULL)
            continue; /* an entry that moved nothing */
        keel_i128 amount = money_cell(KEEL_CELL(r, row, POSTING_AMOUNT));
        sum += amount;
        keel_json_obj(w, NULL);
        keel_json_str(w, "account", KEEL_CELL(r, row, POSTING_ACCOUNT));
        keel_json_str(w, "symbol", KEEL_CELL(r, row, POSTING_SYMBOL));
        keel_json_str(w, "currency", KEEL_CELL(r, row, POSTING_CURRENCY));
        keel_json_money(w, "amount", amount);
        keel_json_end(w);
    }
    keel_json_end(w);
    keel_json_money(w, "sum", sum);
    keel_json_end(w);
    return row;
}

static enum keel_status ledger_read(struct keel_call *c)
{
    const struct portfolio_ledger *arg = c->arg;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail_as(c, keel_wait_status(c), "store_unavailable", NULL,
                            "the ledger could not be read");
    int64_t count = 0;
    size_t row = 0;
    const char *last = NULL;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "portfolio_id", arg->portfolio_id);
    keel_json_arr(&c->out, "entries");
    while (row < c->rows->n && count < arg->limit) {
        last = KEEL_CELL(c->rows, row, ENTRY_ID);
        row = write_entry(c, row);
        count++;
    }
    keel_json_end(&c->out);
    keel_json_i64(&c->out, "count", count);
    if (row < c->rows->n)
        keel_json_i64(&c->out, "next", int_cell(last));
    else
        keel_json_null(&c->out, "next");
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_ledger(struct keel_call *c)
{
    const struct portfolio_ledger *arg = c->arg;
    if (portfolio_get(c->state, arg->portfolio_id) == NULL)
        return no_portfolio(c, arg->portfolio_id);
    return keel_await_read(
        c,
        "SELECT e.entry_id, e.kind, e.ref, e.ts_event, o.client_order_id, o.trace_id, o.booked_ns,"
        " p.account, p.symbol, p.currency, p.amount"
        " FROM (SELECT * FROM entry WHERE portfolio_id = ?1 AND entry_id < ?2 AND (?4 IS NULL OR"
        " entry_id IN (SELECT entry_id FROM origin WHERE portfolio_id = ?1 AND client_order_id = ?4))"
        " ORDER BY entry_id DESC LIMIT ?3) e"
        " LEFT JOIN origin o ON o.entry_id = e.entry_id"
        " LEFT JOIN posting p ON p.entry_id = e.entry_id ORDER BY e.entry_id DESC, p.no",
        "siis", ledger_read, arg->portfolio_id, arg->has_after ? arg->after : INT64_MAX,
        arg->limit + 1, arg->has_client_order_id ? arg->client_order_id : NULL);
}

/* ---- performance ---- */

struct undefined {
    const char *name, *reason;
};

static void write_f64_or(struct keel_call *c, const char *name, const char *reason, double v,
                         struct undefined *u, size_t *n)
{
    if (reason == NULL) {
        keel_json_f64(&c->out, name, v);
        return;
    }
    keel_json_null(&c->out, name);
    u[(*n)++] = (struct undefined){name, reason};
}

static void write_figures(struct keel_call *c, const struct portfolio_day *day, size_t n)
{
    struct portfolio_performance f = {0};
    struct undefined u[4];
    size_t n_undefined = 0;
    const char *none = NULL, *no_sd = NULL;
    if (portfolio_perform(day, n, &f) != KEEL_OK)
        none = n < 2 ? keel_arena_printf(c->arena, "%zu of 2 days", n)
                     : "a day's equity is not above 0";
    no_sd = none;
    if (none == NULL && f.returns < 2)
        no_sd = "1 of 2 returns";
    double year = sqrt((double)DAYS_PER_YEAR);
    write_f64_or(c, "total_return_pct", none, f.total_return * 100, u, &n_undefined);
    write_f64_or(c, "max_drawdown_pct", none, f.max_drawdown * 100, u, &n_undefined);
    write_f64_or(c, "volatility_pct", no_sd, f.sd * year * 100, u, &n_undefined);
    if (no_sd == NULL && !(f.sd > 0))
        no_sd = "the returns do not vary";
    write_f64_or(c, "sharpe_ratio", no_sd, no_sd == NULL ? f.mean / f.sd * year : 0, u,
                 &n_undefined);
    if (n_undefined == 0)
        return;
    keel_json_obj(&c->out, "undefined");
    for (size_t i = 0; i < n_undefined; i++)
        keel_json_str(&c->out, u[i].name, u[i].reason);
    keel_json_end(&c->out);
}

static enum keel_status performance_read(struct keel_call *c)
{
    const struct portfolio_period *arg = c->arg;
    const struct keel_rows *r = c->rows;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail_as(c, keel_wait_status(c), "store_unavailable", NULL,
                            "the equity points could not be read");
    struct portfolio_day *day = keel_arena_array(c->arena, r->n + 1, sizeof *day);
    for (size_t i = 0; i < r->n; i++) {
        day[i].day = int_cell(KEEL_CELL(r, i, 0));
        day[i].equity = keel_money_to_f64(money_cell(KEEL_CELL(r, i, 1)));
        day[i].capital = keel_money_to_f64(money_cell(KEEL_CELL(r, i, 2)));
    }
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "portfolio_id", arg->portfolio_id);
    keel_json_i64(&c->out, "period_days", arg->period_days);
    keel_json_i64(&c->out, "days", (int64_t)r->n);
    if (r->n > 0) {
        keel_json_time(&c->out, "period_start", day[0].day * DAY_NS);
        keel_json_time(&c->out, "period_end", (day[r->n - 1].day + 1) * DAY_NS);
        keel_json_moneynum(&c->out, "start_value", money_cell(KEEL_CELL(r, 0, 1)));
        keel_json_moneynum(&c->out, "end_value", money_cell(KEEL_CELL(r, r->n - 1, 1)));
    }
    keel_json_i64(&c->out, "periods_per_year", DAYS_PER_YEAR);
    keel_json_i64(&c->out, "risk_free_rate", 0);
    write_figures(c, day, r->n);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_performance(struct keel_call *c)
{
    const struct portfolio_period *arg = c->arg;
    if (portfolio_get(c->state, arg->portfolio_id) == NULL)
        return no_portfolio(c, arg->portfolio_id);
    /* SQLite takes the other columns from the row that holds the greatest ts of the day. */
    return keel_await_read(c,
                           "SELECT ts / 86400000000000, equity, capital, max(ts) FROM equity"
                           " WHERE portfolio_id = ? AND ts >= ? GROUP BY 1 ORDER BY 1",
                           "si", performance_read, arg->portfolio_id,
                           keel_session_ns(c->rt) - arg->period_days * DAY_NS);
}
