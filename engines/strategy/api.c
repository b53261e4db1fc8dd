/*
 * Strategies as data, lists, cancels, trading state. Lists and single orders are read from the file
 * on a worker, so nothing is shown before it is committed; a change is a transaction, and memory
 * follows when it is back.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "keel/clock.h"
#include "ops.h"

KEEL_RECORD_TABLE(strategy_options, STRATEGY_OPTIONS);
KEEL_RECORD_TABLE(strategy_parameters, STRATEGY_PARAMETERS);
KEEL_RECORD_TABLE(execute_request, EXECUTE_REQUEST);
KEEL_RECORD_TABLE(execute_internal, EXECUTE_INTERNAL);
KEEL_RECORD_TABLE(strategy_request, STRATEGY_REQUEST);
KEEL_RECORD_TABLE(strategy_path, STRATEGY_PATH);
KEEL_RECORD_TABLE(deploy_request, DEPLOY_REQUEST);
KEEL_RECORD_TABLE(deployment_path, DEPLOYMENT_PATH);
KEEL_RECORD_TABLE(backtest_bar_row, BACKTEST_BAR_ROW);
KEEL_RECORD_TABLE(backtest_request, BACKTEST_REQUEST);
KEEL_RECORD_TABLE(list_query, LIST_QUERY);
KEEL_RECORD_TABLE(orders_query, ORDERS_QUERY);
KEEL_RECORD_TABLE(portfolio_query, PORTFOLIO_QUERY);
KEEL_RECORD_TABLE(order_path, ORDER_PATH);
KEEL_RECORD_TABLE(trading_state_request, TRADING_STATE_REQUEST);

static const char statuses[] = "draft|deployed|running|stopped";
static const char kinds[] = "none|" STRATEGY_KINDS; /* as enum signal_kind */

const char *strategy_status_name(enum strategy_status s)
{
    static const char *const name[] = {"draft", "deployed", "running", "stopped"};

    return name[s];
}

static int64_t int_cell(const char *cell)
{
    int64_t v = 0;

    return cell != NULL && keel_i64_parse(cell, strlen(cell), &v) == KEEL_OK ? v : 0;
}

static enum keel_status read_failed(struct keel_call *c)
{
    return keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL,
                        "the journal could not be read");
}

/* Members that every list ends with; more: there is a row after the last one shown. */
static void end_list(struct keel_json *w, size_t n, bool more, int64_t last)
{
    keel_json_end(w);
    keel_json_u64(w, "count", n);
    if (more)
        keel_json_i64(w, "next", last);
    else
        keel_json_null(w, "next");
    keel_json_end(w);
}

/* ---- definitions ---- */

static void rule_of(const struct strategy_parameters *p, struct strategy_def *d)
{
    struct signal_rule *r = &d->rule;

    snprintf(r->fast, sizeof r->fast, "%s", p->fast);
    snprintf(r->slow, sizeof r->slow, "%s", p->slow);
    r->rsi_low = p->rsi_low;
    r->rsi_high = p->rsi_high;
    r->threshold = p->threshold;
    snprintf(r->model, sizeof r->model, "%s", p->model_id);
    r->quantity = p->has_quantity ? p->quantity : 0;
    r->notional = p->has_notional ? p->notional : 0;
    r->max_position = p->has_max_position ? p->max_position
                      : r->notional > 0   ? r->notional
                                          : r->quantity;
    r->long_only = p->long_only;
    r->lot = p->lot;
    r->tick = p->tick;
    r->price_offset_bps = p->price_offset_bps;
    d->order_type = (enum order_type)p->order_type;
    d->tif = (enum order_tif)p->time_in_force;
    d->max_age_ns = p->has_max_age_s ? (int64_t)(p->max_age_s * 1e9) : 0;
    d->valid_ms = p->valid_ms;
}

void strategy_def_forget(struct strategy_def *d)
{
    for (size_t i = 0; i < d->memory.cap; i++)
        keel_free(d->memory.slot[i].value);
    strategy_map_fini(&d->memory);
}

/* "BTCUSDT,ETHUSDT" */
static void split_symbols(const char *text, struct strategy_def *d)
{
    while (*text != '\0' && d->n_symbols < STRATEGY_SYMBOLS) {
        size_t n = strcspn(text, ",");

        if (n > 0 && n <= ORDER_SYMBOL_LEN)
            memcpy(d->symbol[d->n_symbols++], text, n);
        text += n + (text[n] == ',');
    }
}

enum keel_status strategy_def_row(struct strategy_def *d, const char *const *cell)
{
    struct keel_arena *a = keel_arena_new(2048);
    const struct keel_jval *json;
    const char *why;
    struct keel_record_error err;
    struct strategy_parameters p;
    int status = keel_enum_index(statuses, cell[3], strlen(cell[3]));
    int kind = keel_enum_index(kinds, cell[4], strlen(cell[4]));
    enum keel_status st = KEEL_INTERNAL;

    snprintf(d->id, sizeof d->id, "%s", cell[0]);
    snprintf(d->portfolio_id, sizeof d->portfolio_id, "%s", cell[5]);
    snprintf(d->venue, sizeof d->venue, "%s", cell[6]);
    snprintf(d->spec, sizeof d->spec, "%s", cell[8]);
    split_symbols(cell[7], d);
    if (status >= 0 && kind >= 0 &&
        keel_json_parse(a, cell[9], strlen(cell[9]), &json, &why) == KEEL_OK &&
        keel_record_decode(&strategy_parameters_fields, a, json, &p, NULL, &err) == KEEL_OK) {
        rule_of(&p, d);
        d->status = (enum strategy_status)status;
        d->rule.kind = (enum signal_kind)kind;
        d->execution_no = int_cell(cell[12]);
        st = keel_money_parse(cell[13], strlen(cell[13]), &d->realized_before);
    }
    keel_arena_free(a);
    return st;
}

static void write_def(struct keel_json *w, const char *const *cell)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "strategy_id", cell[0]);
    keel_json_str(w, "strategy_name", cell[1]);
    keel_json_str(w, "version", cell[2]);
    keel_json_str(w, "status", cell[3]);
    keel_json_str(w, "kind", strcmp(cell[4], "none") == 0 ? NULL : cell[4]);
    keel_json_str(w, "portfolio_id", cell[5]);
    keel_json_str(w, "venue", cell[6]);
    keel_json_arr(w, "symbols");
    for (const char *s = cell[7]; *s != '\0';) {
        size_t n = strcspn(s, ",");

        keel_json_strn(w, NULL, s, n);
        s += n + (s[n] == ',');
    }
    keel_json_end(w);
    keel_json_str(w, "spec", cell[8]);
    keel_json_raw(w, "parameters", cell[9], strlen(cell[9]));
    keel_json_time(w, "created_at", int_cell(cell[10]));
    keel_json_time(w, "updated_at", int_cell(cell[11]));
}

static enum keel_status strategies_read(struct keel_call *c)
{
    const struct list_query *q = c->arg;
    size_t n = 0, limit = (size_t)q->limit;

    if (keel_wait_status(c) != KEEL_OK)
        return read_failed(c);
    keel_json_obj(&c->out, NULL);
    keel_json_arr(&c->out, "strategies");
    for (; n < c->rows->n && n < limit; n++) {
        write_def(&c->out, &KEEL_CELL(c->rows, n, 0));
        keel_json_end(&c->out);
    }
    end_list(&c->out, n, c->rows->n > limit, n > 0 ? int_cell(KEEL_CELL(c->rows, n - 1, 14)) : 0);
    return KEEL_OK;
}

enum keel_status api_strategies(struct keel_call *c)
{
    const struct list_query *q = c->arg;

    return keel_await_read(c,
                           "SELECT " STRATEGY_COLUMNS
                           ", rowid FROM strategies WHERE rowid < ? ORDER BY rowid DESC LIMIT ?",
                           "ii", strategies_read, q->has_after ? q->after : INT64_MAX,
                           q->limit + 1);
}

/* The symbol of a holding of that strategy, NULL if it is of another. */
static const char *symbol_held(const struct strategy_slot *slot, const char *strategy_id)
{
    size_t n = strlen(strategy_id);
    bool its = slot->key != NULL && slot->key[0] == 's' &&
               strncmp(slot->key + 2, strategy_id, n) == 0 && slot->key[2 + n] == '/';

    return its ? slot->key + 3 + n : NULL;
}

static enum keel_status strategy_read(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct strategy_path *p = c->arg;

    if (keel_wait_status(c) != KEEL_OK)
        return read_failed(c);
    if (c->rows->n == 0)
        return keel_fail_as(c, KEEL_NOTFOUND, "not_found", "strategy_id", "there is no strategy %s",
                            p->strategy_id);
    write_def(&c->out, &KEEL_CELL(c->rows, 0, 0));
    keel_json_arr(&c->out, "positions");
    for (size_t i = 0; i < s->holdings.cap; i++) {
        const struct strategy_holding *h = s->holdings.slot[i].value;
        const char *symbol = symbol_held(&s->holdings.slot[i], p->strategy_id);

        if (symbol == NULL)
            continue;
        keel_json_obj(&c->out, NULL);
        keel_json_str(&c->out, "symbol", symbol);
        keel_json_dec(&c->out, "quantity", h->position.quantity);
        keel_json_money(&c->out, "cost", h->position.cost);
        keel_json_money(&c->out, "realized_pnl", h->position.realized);
        keel_json_money(&c->out, "fees", h->position.fees);
        keel_json_end(&c->out);
    }
    keel_json_end(&c->out);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_strategy_get(struct keel_call *c)
{
    const struct strategy_path *p = c->arg;

    return keel_await_read(c, "SELECT " STRATEGY_COLUMNS " FROM strategies WHERE strategy_id = ?",
                           "s", strategy_read, p->strategy_id);
}

/* ---- POST /strategies ---- */

struct create {
    struct strategy_def def;
    char *symbols;
    const char *parameters;
    int64_t now_ns;
};

/* symbol is one of "A,B,C". */
static bool listed(const char *symbols, const char *symbol)
{
    size_t n = strlen(symbol);

    for (const char *at = symbols; (at = strstr(at, symbol)) != NULL; at += n)
        if ((at == symbols || at[-1] == ',') && (at[n] == ',' || at[n] == '\0'))
            return true;
    return false;
}

static enum keel_status take_symbols(struct keel_call *c, const struct strategy_request *r,
                                     struct create *x)
{
    size_t len = 0;

    x->symbols = keel_arena_alloc(c->arena, STRATEGY_SYMBOLS * (ORDER_SYMBOL_LEN + 1) + 1);
    for (size_t i = 0; i < r->n_symbols; i++) {
        const char *symbol = strategy_symbol(c->arena, r->symbols[i]);

        if (symbol == NULL || listed(x->symbols, symbol))
            return keel_fail_as(
                c, KEEL_INVALID, symbol == NULL ? "bad_symbol" : "duplicate", "symbols",
                "symbols must be different ones of the form [A-Z0-9][A-Z0-9._-]{0,31}");
        if (len > 0)
            x->symbols[len++] = ',';
        memcpy(x->symbols + len, symbol, strlen(symbol));
        len += strlen(symbol);
    }
    split_symbols(x->symbols, &x->def);
    return KEEL_OK;
}

static enum keel_status take_parameters(struct keel_call *c, const struct strategy_request *r,
                                        struct create *x)
{
    struct strategy_parameters p = r->parameters;
    struct keel_record_error err;
    struct keel_json w;

    /* Without any, the defaults of the table. */
    if (!r->has_parameters &&
        keel_record_decode(&strategy_parameters_fields, c->arena, NULL, &p, NULL, &err) != KEEL_OK)
        return keel_fail(c, KEEL_INTERNAL, "the defaults of the parameters are wrong");
    keel_json_init(&w, c->arena, 512);
    keel_json_obj(&w, NULL);
    keel_record_encode(&strategy_parameters_fields, &p, &w);
    keel_json_end(&w);
    x->parameters = keel_json_text(&w);
    rule_of(&p, &x->def);
    x->def.rule.kind = r->has_kind ? (enum signal_kind)(r->kind + 1) : SIGNAL_NONE;
    return KEEL_OK;
}

static enum keel_status take_names(struct keel_call *c, const struct strategy_request *r,
                                   struct create *x)
{
    struct strategy_state *s = c->state;

    if (r->has_strategy_id)
        snprintf(x->def.id, sizeof x->def.id, "%s", r->strategy_id);
    else
        snprintf(x->def.id, sizeof x->def.id, "S-%s-%" PRIu64, s->epoch, ++s->n_ids);
    if (!strategy_is_id(x->def.id))
        return keel_fail_as(
            c, KEEL_INVALID, "out_of_range", "strategy_id",
            "strategy_id must be letters, digits, dots, colons, dashes and underscores");
    if (!strategy_is_id(r->portfolio_id))
        return keel_fail_as(
            c, KEEL_INVALID, "out_of_range", "portfolio_id",
            "portfolio_id must be letters, digits, dots, colons, dashes and underscores");
    if (strcmp(r->venue, "paper") != 0)
        return keel_fail_as(c, KEEL_UNDEFINED, "venue_unknown", "venue",
                            "there is no venue %s: paper is the only one", r->venue);
    snprintf(x->def.portfolio_id, sizeof x->def.portfolio_id, "%s", r->portfolio_id);
    snprintf(x->def.venue, sizeof x->def.venue, "%s", r->venue);
    snprintf(x->def.spec, sizeof x->def.spec, "%s", r->spec);
    if (strategy_map_get(&s->strategies, x->def.id) != NULL)
        return keel_fail_as(c, KEEL_CONFLICT, "exists", "strategy_id",
                            "there is a strategy %s already", x->def.id);
    if (s->strategies.n >= (size_t)s->opt->max_strategies)
        return keel_fail_as(c, KEEL_CONFLICT, "too_many_strategies", NULL,
                            "max_strategies (%" PRId64 ") is reached", s->opt->max_strategies);
    return KEEL_OK;
}

static enum keel_status strategy_created(struct keel_call *c)
{
    const struct strategy_request *r = c->arg;
    const struct create *x = c->ctx;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "created");
    keel_json_str(&c->out, "strategy_id", x->def.id);
    keel_json_str(&c->out, "strategy_name", r->strategy_name);
    keel_json_str(&c->out, "version", r->version);
    keel_write_ignored(c);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_strategy_post(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct strategy_request *r = c->arg;
    struct create *x = keel_arena_alloc(c->arena, sizeof *x);
    enum keel_status st;

    c->ctx = x;
    x->now_ns = keel_wall_ns();
    if ((st = take_names(c, r, x)) != KEEL_OK || (st = take_symbols(c, r, x)) != KEEL_OK ||
        (st = take_parameters(c, r, x)) != KEEL_OK)
        return st;

    struct strategy_def *d = keel_alloc(1, sizeof *d);
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));
    char kind[16];

    *d = x->def;
    strategy_map_put(&s->strategies, d->id, d);
    keel_txn_exec(
        t, "INSERT INTO strategies(" STRATEGY_COLUMNS ") VALUES(?,?,?,?,?,?,?,?,?,?,?,?,0,'0')",
        "ssssssssssii", d->id, r->strategy_name, r->version, strategy_status_name(d->status),
        strategy_name_of(kinds, (int)d->rule.kind, kind, sizeof kind), d->portfolio_id, d->venue,
        x->symbols, d->spec, x->parameters, x->now_ns, x->now_ns);
    return keel_await_store(c, t, strategy_created);
}

/* ---- deploy, start, stop, delete ---- */

enum keel_status strategy_def_find(struct keel_call *c, const char *id, struct strategy_def **out)
{
    struct strategy_state *s = c->state;

    *out = strategy_map_get(&s->strategies, id);
    return *out != NULL ? KEEL_OK
                        : keel_fail_as(c, KEEL_NOTFOUND, "not_found", "strategy_id",
                                       "there is no strategy %s", id);
}

static struct keel_txn *change_status(struct keel_call *c, struct strategy_def *d,
                                      enum strategy_status status)
{
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));

    d->status = status;
    keel_txn_exec(t,
                  "UPDATE strategies SET status = ?, execution_no = ?, realized_before = ?, "
                  "updated_ns = ? WHERE strategy_id = ?",
                  "simis", strategy_status_name(d->status), d->execution_no, &d->realized_before,
                  keel_wall_ns(), d->id);
    return t;
}

const char *strategy_def_wrong(const struct strategy_def *d)
{
    if (d->rule.kind == SIGNAL_NONE)
        return NULL; /* it executes what it is told to */
    if (d->order_type == ORDER_MARKET && (d->tif == ORDER_GTC || d->tif == ORDER_DAY))
        return "a MARKET order cannot rest: time_in_force must be IOC or FOK";
    return signal_rule_wrong(&d->rule);
}

struct deploy {
    int64_t no;
    const char *wrong;
};

static enum keel_status deployed(struct keel_call *c)
{
    const struct deploy_request *r = c->arg;
    const struct deploy *x = c->ctx;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    if (x->wrong != NULL)
        return keel_fail_as(c, KEEL_UNDEFINED, "invalid_definition", "parameters",
                            "deployment D-%" PRId64 ": %s", x->no, x->wrong);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "deployed");
    keel_json_str(&c->out, "pipeline_id", keel_arena_printf(c->arena, "D-%" PRId64, x->no));
    keel_json_str(&c->out, "strategy_id", r->strategy_id);
    keel_json_str(&c->out, "deployment_type", "direct");
    keel_json_arr(&c->out, "stages");
    keel_json_str(&c->out, NULL, "validate");
    keel_json_str(&c->out, NULL, "store");
    keel_json_end(&c->out);
    keel_write_ignored(c);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_deploy(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct deploy_request *r = c->arg;
    struct deploy *x = keel_arena_alloc(c->arena, sizeof *x);
    struct strategy_def *d;
    struct keel_txn *t;
    enum keel_status st = strategy_def_find(c, r->strategy_id, &d);

    if (st != KEEL_OK)
        return st;
    if (d->status == STRATEGY_RUNNING)
        return keel_fail_as(c, KEEL_CONFLICT, "running", NULL,
                            "strategy %s is running: stop it first", d->id);
    c->ctx = x;
    x->wrong = strategy_def_wrong(d);
    x->no = ++s->last_deployment_no;
    t = x->wrong == NULL ? change_status(c, d, STRATEGY_DEPLOYED) : keel_txn_new(keel_store(c->rt));
    keel_txn_exec(t, "INSERT INTO deployments VALUES(?,?,?,?,?,?,?)", "issssii", x->no, d->id,
                  x->wrong == NULL ? "deployed" : "failed",
                  x->wrong == NULL ? "validate,store" : "", x->wrong == NULL ? "" : x->wrong,
                  c->wall_ns, keel_wall_ns());
    return keel_await_store(c, t, deployed);
}

static enum keel_status deployment_read(struct keel_call *c)
{
    const struct deployment_path *p = c->arg;
    struct keel_json *w = &c->out;

    if (keel_wait_status(c) != KEEL_OK)
        return read_failed(c);
    if (c->rows->n == 0)
        return keel_fail_as(c, KEEL_NOTFOUND, "not_found", "pipeline_id",
                            "there is no deployment %s", p->pipeline_id);

    const char *const *cell = &KEEL_CELL(c->rows, 0, 0);
    bool done = strcmp(cell[2], "deployed") == 0;

    keel_json_obj(w, NULL);
    keel_json_str(w, "pipeline_id", p->pipeline_id);
    keel_json_str(w, "strategy_id", cell[1]);
    keel_json_str(w, "deployment_type", "direct");
    keel_json_str(w, "current_stage", done ? "store" : "validate");
    keel_json_str(w, "status", cell[2]);
    keel_json_time(w, "started_at", int_cell(cell[5]));
    keel_json_time(w, "completed_at", int_cell(cell[6]));
    keel_json_i64(w, "stages_completed", done ? 2 : 0);
    keel_json_i64(w, "total_stages", 2);
    keel_json_obj(w, "results");
    keel_json_str(w, "validate", done ? "passed" : cell[4]);
    if (done)
        keel_json_str(w, "store", "committed");
    keel_json_end(w);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_deployment(struct keel_call *c)
{
    const struct deployment_path *p = c->arg;
    int64_t no = strncmp(p->pipeline_id, "D-", 2) == 0 ? int_cell(p->pipeline_id + 2) : 0;

    return keel_await_read(c, "SELECT * FROM deployments WHERE deployment_no = ?", "i",
                           deployment_read, no);
}

/* What the strategy has realised so far, over all its symbols. */
static keel_i128 realized_of(struct strategy_state *s, const struct strategy_def *d)
{
    keel_i128 sum = 0;

    for (size_t i = 0; i < s->holdings.cap; i++)
        if (symbol_held(&s->holdings.slot[i], d->id) != NULL)
            sum += ((const struct strategy_holding *)s->holdings.slot[i].value)->position.realized;
    return sum;
}

struct run {
    int64_t no, started_ns, stopped_ns; /* stopped_ns 0: it runs */
    keel_i128 pnl;
};

static enum keel_status run_changed(struct keel_call *c)
{
    const struct strategy_path *p = c->arg;
    const struct run *x = c->ctx;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "execution_id", keel_arena_printf(c->arena, "E-%" PRId64, x->no));
    keel_json_str(&c->out, "strategy_id", p->strategy_id);
    keel_json_str(&c->out, "status", x->stopped_ns == 0 ? "running" : "stopped");
    keel_json_time(&c->out, "start_time", x->started_ns);
    if (x->stopped_ns != 0) {
        keel_json_fix(&c->out, "duration_minutes",
                      (double)(x->stopped_ns - x->started_ns) / 6e10, 3);
        keel_json_moneynum(&c->out, "pnl", x->pnl);
    }
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_start(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct strategy_path *p = c->arg;
    struct run *x = keel_arena_alloc(c->arena, sizeof *x);
    struct strategy_def *d;
    struct keel_txn *t;
    enum keel_status st = strategy_def_find(c, p->strategy_id, &d);

    if (st != KEEL_OK)
        return st;
    if (d->status != STRATEGY_DEPLOYED && d->status != STRATEGY_STOPPED)
        return keel_fail_as(c, KEEL_CONFLICT,
                            d->status == STRATEGY_RUNNING ? "running" : "not_deployed", NULL,
                            "strategy %s is %s", d->id, strategy_status_name(d->status));
    if (d->rule.kind == SIGNAL_NONE)
        return keel_fail_as(c, KEEL_CONFLICT, "no_kind", NULL,
                            "strategy %s has no kind: it only executes what it is told to", d->id);
    d->execution_no = ++s->last_execution_no;
    d->realized_before = realized_of(s, d);
    strategy_def_forget(d);
    d->started_ns = keel_wall_ns();
    *x = (struct run){.no = d->execution_no, .started_ns = d->started_ns};
    c->ctx = x;
    t = change_status(c, d, STRATEGY_RUNNING);
    keel_txn_exec(t, "INSERT INTO executions VALUES(?,?,?,NULL,NULL)", "isi", x->no, d->id,
                  x->started_ns);
    return keel_await_store(c, t, run_changed);
}

enum keel_status api_stop(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct strategy_path *p = c->arg;
    struct run *x = keel_arena_alloc(c->arena, sizeof *x);
    struct strategy_def *d;
    struct keel_txn *t;
    enum keel_status st = strategy_def_find(c, p->strategy_id, &d);

    if (st != KEEL_OK)
        return st;
    if (d->status != STRATEGY_RUNNING)
        return keel_fail_as(c, KEEL_CONFLICT, "not_running", NULL, "strategy %s is %s", d->id,
                            strategy_status_name(d->status));
    *x = (struct run){.no = d->execution_no,
                      .started_ns = d->started_ns,
                      .stopped_ns = keel_wall_ns(),
                      .pnl = realized_of(s, d) - d->realized_before};
    c->ctx = x;
    d->execution_no = 0;
    t = change_status(c, d, STRATEGY_STOPPED);
    keel_txn_exec(t, "UPDATE executions SET stopped_ns = ?, realized = ? WHERE execution_no = ?",
                  "imi", x->stopped_ns, &x->pnl, x->no);
    for (struct strategy_entry *e = s->open.first, *next; e != NULL; e = next) {
        next = e->next;
        if (strcmp(e->o.strategy_id, d->id) == 0)
            strategy_order_cancel(s, c, e, "strategy_stopped");
    }
    return keel_await_store(c, t, run_changed);
}

static enum keel_status executions_read(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct list_query *q = c->arg;
    struct keel_json *w = &c->out;
    size_t n = 0, limit = (size_t)q->limit;

    if (keel_wait_status(c) != KEEL_OK)
        return read_failed(c);
    keel_json_obj(w, NULL);
    keel_json_arr(w, "executions");
    for (; n < c->rows->n && n < limit; n++) {
        const char *const *cell = &KEEL_CELL(c->rows, n, 0);
        const struct strategy_def *d = strategy_map_get(&s->strategies, cell[1]);
        int64_t from = int_cell(cell[2]), to = cell[3] != NULL ? int_cell(cell[3]) : keel_wall_ns();
        keel_i128 pnl = 0;

        if (cell[4] != NULL)
            (void)keel_money_parse(cell[4], strlen(cell[4]), &pnl);
        else if (d != NULL)
            pnl = realized_of(s, d) - d->realized_before;
        keel_json_obj(w, NULL);
        keel_json_str(w, "execution_id", keel_arena_printf(c->arena, "E-%s", cell[0]));
        keel_json_str(w, "strategy_id", cell[1]);
        keel_json_str(w, "status", cell[3] == NULL ? "running" : "stopped");
        keel_json_time(w, "start_time", from);
        if (cell[3] == NULL)
            keel_json_null(w, "end_time");
        else
            keel_json_time(w, "end_time", to);
        keel_json_fix(w, "duration_minutes", (double)(to - from) / 6e10, 3);
        keel_json_moneynum(w, "pnl", pnl);
        keel_json_end(w);
    }
    end_list(&c->out, n, c->rows->n > limit, n > 0 ? int_cell(KEEL_CELL(c->rows, n - 1, 0)) : 0);
    return KEEL_OK;
}

enum keel_status api_executions(struct keel_call *c)
{
    const struct list_query *q = c->arg;

    return keel_await_read(
        c,
        "SELECT execution_no, strategy_id, started_ns, stopped_ns, realized FROM executions"
        " WHERE execution_no < ? ORDER BY execution_no DESC LIMIT ?",
        "ii", executions_read, q->has_after ? q->after : INT64_MAX, q->limit + 1);
}

static enum keel_status strategy_deleted(struct keel_call *c)
{
    const struct strategy_path *p = c->arg;

    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "deleted");
    keel_json_str(&c->out, "strategy_id", p->strategy_id);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_strategy_delete(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct strategy_path *p = c->arg;
    struct strategy_def *d;
    struct keel_txn *t;
    enum keel_status st = strategy_def_find(c, p->strategy_id, &d);

    if (st != KEEL_OK)
        return st;
    if (strcmp(d->id, STRATEGY_MANUAL) == 0)
        return keel_fail_as(c, KEEL_CONFLICT, "permanent", NULL, "manual always exists");
    if (d->status == STRATEGY_RUNNING)
        return keel_fail_as(c, KEEL_CONFLICT, "running", NULL,
                            "strategy %s is running: stop it first", d->id);
    for (const struct strategy_entry *e = s->open.first; e != NULL; e = e->next)
        if (strcmp(e->o.strategy_id, d->id) == 0)
            return keel_fail_as(c, KEEL_CONFLICT, "open_orders", NULL,
                                "strategy %s has open orders", d->id);
    t = keel_txn_new(keel_store(c->rt));
    keel_txn_exec(t, "DELETE FROM strategies WHERE strategy_id = ?", "s", d->id);
    strategy_map_del(&s->strategies, d->id);
    strategy_def_forget(d);
    keel_free(d);
    return keel_await_store(c, t, strategy_deleted);
}

/* ---- orders ---- */

/*
 * A page of rows as JSON. A thousand of them take milliseconds to print: more than a few are printed by a worker, so that
 * an order never waits behind a list.
 */
enum { PAGE_INLINE = 10 };

struct page {
    const struct keel_rows *rows;
    const char *name;
    size_t n;
    enum keel_status (*write)(struct keel_json *w, const char *const *cell);
    struct keel_json w; /* the whole answer: the loop copies nothing */
};

static enum keel_status page_work(void *job, const atomic_bool *stop)
{
    struct page *p = job;
    enum keel_status st = KEEL_OK;

    keel_json_obj(&p->w, NULL);
    keel_json_arr(&p->w, p->name);
    for (size_t i = 0; i < p->n && st == KEEL_OK && !atomic_load(stop); i++)
        st = p->write(&p->w, &KEEL_CELL(p->rows, i, 0));
    if (st != KEEL_OK)
        return st;
    end_list(&p->w, p->n, p->rows->n > p->n, p->n > 0 ? int_cell(KEEL_CELL(p->rows, p->n - 1, 0)) : 0);
    return KEEL_OK;
}

static enum keel_status page_printed(struct keel_call *c)
{
    struct page *p = c->ctx;

    if (keel_wait_status(c) == KEEL_INTERNAL)
        return keel_fail(c, KEEL_INTERNAL, "a row of the journal cannot be read");
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    c->out = p->w;
    return KEEL_OK;
}

static enum keel_status page_of(struct keel_call *c, const char *name, int64_t limit,
                                enum keel_status (*write)(struct keel_json *w, const char *const *cell))
{
    static const atomic_bool never;
    struct page *p;

    if (keel_wait_status(c) != KEEL_OK)
        return read_failed(c);
    p = keel_arena_alloc(c->arena, sizeof *p);
    *p = (struct page){.rows = c->rows, .name = name, .write = write,
                       .n = c->rows->n < (size_t)limit ? c->rows->n : (size_t)limit};
    keel_json_init(&p->w, c->arena, 512 + p->n * 512);
    c->ctx = p;
    if (p->n > PAGE_INLINE)
        return keel_await_work(c, page_work, p, page_printed);
    if (page_work(p, &never) != KEEL_OK)
        return keel_fail(c, KEEL_INTERNAL, "a row of the journal cannot be read");
    return page_printed(c);
}

static enum keel_status write_order(struct keel_json *w, const char *const *cell)
{
    struct strategy_entry *e = keel_alloc(1, sizeof *e);
    enum keel_status st = strategy_order_row(e, cell);
    struct keel_order r;

    strategy_order_record(e, &r);
    keel_json_obj(w, NULL);
    keel_record_encode(&keel_order_fields, &r, w);
    keel_json_end(w);
    strategy_entry_free(e);
    return st == KEEL_OK ? KEEL_OK : KEEL_INTERNAL;
}

static enum keel_status orders_read(struct keel_call *c)
{
    const struct orders_query *q = c->arg;

    return page_of(c, "orders", q->limit, write_order);
}

enum keel_status api_orders(struct keel_call *c)
{
    const struct orders_query *q = c->arg;
    const char *symbol = q->has_symbol ? strategy_symbol(c->arena, q->symbol) : NULL;

    if (q->has_symbol && symbol == NULL)
        return keel_fail_as(c, KEEL_INVALID, "bad_symbol", "symbol",
                            "symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}");
    return keel_await_read(
        c,
        "SELECT " STRATEGY_ORDER_COLUMNS " FROM orders WHERE order_no < ?1 AND (?2 IS NULL OR"
        " portfolio_id = ?2) AND (?3 IS NULL OR strategy_id = ?3) AND (?4 IS NULL OR symbol = ?4) "
        "AND"
        " (?5 IS NULL OR state = ?5) ORDER BY order_no DESC LIMIT ?6",
        "issssi", orders_read, q->has_after ? q->after : INT64_MAX,
        q->has_portfolio_id ? q->portfolio_id : NULL, q->has_strategy_id ? q->strategy_id : NULL,
        symbol,
        q->has_state ? order_state_name((enum order_state)q->state) : NULL, q->limit + 1);
}

static enum keel_status order_read(struct keel_call *c)
{
    const struct order_path *p = c->arg;
    struct strategy_entry *e;

    if (keel_wait_status(c) != KEEL_OK)
        return read_failed(c);
    if (c->rows->n == 0)
        return keel_fail_as(c, KEEL_NOTFOUND, "not_found", "client_order_id",
                            "there is no order %s", p->client_order_id);
    e = strategy_order_of_rows(c->rows);
    if (e == NULL)
        return keel_fail(c, KEEL_INTERNAL, "the journal's row of %s cannot be read",
                         p->client_order_id);
    e->decision = KEEL_CELL(c->rows, 0, STRATEGY_DECISION_COLUMN);
    strategy_order_write(e, &c->out, NULL);
    strategy_entry_free(e);
    return KEEL_OK;
}

enum keel_status api_order_get(struct keel_call *c)
{
    const struct order_path *p = c->arg;

    return keel_await_read(c, strategy_order_sql, "s", order_read, p->client_order_id);
}

static enum keel_status order_closed(struct keel_call *c, const struct strategy_entry *e)
{
    if (e->o.state != ORDER_CANCELED)
        return keel_fail_as(c, KEEL_CONFLICT, "order_closed", NULL, "order %s is %s",
                            e->o.client_order_id, order_state_name(e->o.state));
    strategy_order_write(e, &c->out, NULL);
    return KEEL_OK;
}

static enum keel_status cancel_next(struct keel_call *c)
{
    const struct order_path *p = c->arg;
    struct strategy_entry *e = strategy_order_find(c->state, p->client_order_id);

    if (keel_client_gone(c))
        return KEEL_OK;
    if (e == NULL)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL,
                            "the journal could not be written");
    if (e->busy > 0 || !order_is_closed(e->o.state))
        return strategy_order_wait(c, e, cancel_next);
    return order_closed(c, e);
}

static enum keel_status cancel_old(struct keel_call *c)
{
    const struct order_path *p = c->arg;
    struct strategy_entry *e;
    enum keel_status st;

    if (keel_wait_status(c) != KEEL_OK)
        return read_failed(c);
    if (c->rows->n == 0)
        return keel_fail_as(c, KEEL_NOTFOUND, "not_found", "client_order_id",
                            "there is no order %s", p->client_order_id);
    e = strategy_order_of_rows(c->rows);
    if (e == NULL)
        return keel_fail(c, KEEL_INTERNAL, "the journal's row of %s cannot be read",
                         p->client_order_id);
    st = order_closed(c, e);
    strategy_entry_free(e);
    return st;
}

enum keel_status api_order_delete(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct order_path *p = c->arg;
    struct strategy_entry *e = strategy_order_find(s, p->client_order_id);

    if (e == NULL)
        return keel_await_read(c, strategy_order_sql, "s", cancel_old, p->client_order_id);
    strategy_order_cancel(s, c, e, "requested");
    return cancel_next(c);
}

enum keel_status api_orders_delete(struct keel_call *c)
{
    const struct portfolio_query *q = c->arg;
    size_t n =
        strategy_cancel_all(c->state, c, q->has_portfolio_id ? q->portfolio_id : NULL, "requested");

    c->http = 202;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "canceling");
    keel_json_u64(&c->out, "count", n);
    keel_json_end(&c->out);
    return KEEL_OK;
}

/* ---- fills ---- */

static enum keel_status write_fill(struct keel_json *w, const char *const *cell)
{
    struct strategy_entry *e = keel_alloc(1, sizeof *e);
    enum keel_status st = strategy_trade_row(e, cell);

    if (st == KEEL_OK) {
        const struct strategy_trade *t = &e->trades[0];

        keel_json_obj(w, NULL);
        keel_json_str(w, "trade_id", cell[2]);
        keel_json_str(w, "client_order_id", cell[3]);
        keel_json_str(w, "strategy_id", cell[4]);
        keel_json_str(w, "venue", cell[1]);
        keel_json_str(w, "portfolio_id", cell[5]);
        keel_json_str(w, "symbol", cell[6]);
        keel_json_str(w, "side", cell[7]);
        keel_json_dec(w, "quantity", t->quantity);
        keel_json_dec(w, "price", t->price);
        keel_json_obj(w, "fee");
        keel_json_money(w, "amount", t->fee);
        keel_json_str(w, "currency", cell[11]);
        keel_json_end(w);
        keel_json_str(w, "liquidity", cell[12]);
        keel_json_i64(w, "fill_no", t->fill_no);
        keel_json_time(w, "ts_event", t->ts_event);
        keel_json_end(w);
    }
    strategy_entry_free(e);
    return st == KEEL_OK ? KEEL_OK : KEEL_INTERNAL;
}

static enum keel_status fills_read(struct keel_call *c)
{
    const struct list_query *q = c->arg;

    return page_of(c, "fills", q->limit, write_fill);
}

enum keel_status api_fills(struct keel_call *c)
{
    const struct list_query *q = c->arg;

    /* High, because portfolio catches up by it; a long page is bulk all the same. */
    if (q->limit > PAGE_INLINE)
        keel_lower(c, KEEL_NORMAL);
    return keel_await_read(
        c, "SELECT " STRATEGY_FILL_COLUMNS " FROM fills WHERE fill_no > ? ORDER BY fill_no LIMIT ?",
        "ii", fills_read, q->has_after ? q->after : 0, q->limit + 1);
}

/* ---- trading state ---- */

static enum keel_status trading_state_set(struct keel_call *c)
{
    const struct trading_state_request *r = c->arg;
    const size_t *n = c->ctx;
    char name[16];

    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "applied");
    keel_json_str(&c->out, "state",
                  strategy_name_of(KEEL_TRADING_STATES, r->state, name, sizeof name));
    if (r->has_portfolio_id)
        keel_json_str(&c->out, "portfolio_id", r->portfolio_id);
    keel_json_u64(&c->out, "canceling", *n);
    keel_json_end(&c->out);
    return KEEL_OK;
}

/* HALTED: what is open in its scope is canceled; what is not sent yet never is. */
enum keel_status api_trading_state(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct trading_state_request *r = c->arg;
    const char *scope = r->has_portfolio_id ? r->portfolio_id : "-";
    size_t *n = keel_arena_alloc(c->arena, sizeof *n);
    struct keel_txn *t;
    char name[16];

    if (r->has_portfolio_id && !strategy_is_id(r->portfolio_id))
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "portfolio_id", "%s is no portfolio",
                            r->portfolio_id);
    strategy_set_trading_state(s, scope, r->state);
    /* A state of one portfolio does not say what holds for all. */
    s->trading_known = s->trading_known || !r->has_portfolio_id;
    t = keel_txn_new(keel_store(c->rt));
    keel_txn_exec(t, "INSERT OR REPLACE INTO trading_states VALUES(?,?,?,?)", "sssi", scope,
                  strategy_name_of(KEEL_TRADING_STATES, r->state, name, sizeof name), r->reason,
                  strategy_now(s));
    *n = r->state == STRATEGY_HALTED
             ? strategy_cancel_all(s, c, r->has_portfolio_id ? scope : NULL, "trading_halted")
             : 0;
    c->ctx = n;
    return keel_await_store(c, t, trading_state_set);
}
