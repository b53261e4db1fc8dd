/*
 * POST /strategies/{strategy_id}/test. The bars come with the request or, a page after the other,
 * from marketdata; they are read, run and the answer is printed on a worker.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ops.h"

#define DAY_NS     86400000000000LL
#define PAGE       500 /* bars of a page of marketdata: what the loop parses at once */
#define MOST_PAGES (BACKTEST_BARS / PAGE)
#define POINTS     500 /* most points of the curve shown */

struct test {
    const struct backtest_request *request;
    struct keel_arena *arena;
    struct signal_rule rule; /* the definition may go while the test runs */
    struct backtest_conf conf;
    const char *symbol;
    char spec[17];
    const struct keel_jval *page[MOST_PAGES]; /* arrays of bars, newest first; none: the request's */
    size_t n_pages;
    int64_t oldest_ns; /* close of the oldest bar fetched */
    struct backtest_bar *bar;
    size_t n;
    struct backtest_result *result;
    struct keel_json w;              /* the answer, its object still open */
    const char *code, *field, *why; /* when the worker refused */
};

/* ---- on the worker ---- */

static enum keel_status refuse(struct test *t, const char *code, const char *field, const char *why)
{
    t->code = code;
    t->field = field;
    t->why = why;
    return KEEL_INVALID;
}

static enum keel_status take_bar(struct test *t, const struct backtest_bar_row *row)
{
    struct backtest_bar *b = &t->bar[t->n];
    const char *field, *why;

    *b = (struct backtest_bar){.ts_close = row->ts_close,
                               .open = row->open,
                               .high = row->high,
                               .low = row->low,
                               .close = row->close,
                               .volume = row->volume,
                               .vwap = row->vwap,
                               .has_vwap = row->has_vwap};
    why = backtest_bar_wrong(b, t->n > 0 ? b - 1 : NULL, &field);
    if (why != NULL)
        return refuse(t, "out_of_range", keel_arena_printf(t->arena, "bars[%zu].%s", t->n, field), why);
    t->n++;
    return KEEL_OK;
}

static enum keel_status take_given(struct test *t)
{
    const struct backtest_request *q = t->request;
    enum keel_status st = KEEL_OK;

    t->bar = keel_arena_array(t->arena, q->n_bars, sizeof *t->bar);
    for (size_t i = 0; i < q->n_bars && st == KEEL_OK; i++)
        st = take_bar(t, &q->bars[i]);
    return st;
}

/* Pages and the bars of a page are newest first. */
static enum keel_status take_fetched(struct test *t)
{
    enum keel_status st = KEEL_OK;
    const struct keel_jval **value = keel_arena_array(t->arena, MOST_PAGES * PAGE, sizeof(void *));
    size_t n = 0;

    for (size_t i = 0; i < t->n_pages; i++)
        for (const struct keel_jval *v = t->page[i]->child; v != NULL && n < MOST_PAGES * PAGE; v = v->next)
            value[n++] = v;
    t->bar = keel_arena_array(t->arena, n, sizeof *t->bar);
    while (n > 0 && st == KEEL_OK) {
        struct backtest_bar_row row;
        struct keel_record_error err;

        if (keel_record_decode(&backtest_bar_row_fields, t->arena, value[--n], &row, NULL, &err) != KEEL_OK)
            return refuse(t, err.code, err.field, err.detail);
        st = take_bar(t, &row);
    }
    return st;
}

/* Only the newest days. */
static void cut(struct test *t)
{
    size_t skip = 0;

    if (!t->request->has_duration_days || t->n == 0)
        return;

    int64_t from = t->bar[t->n - 1].ts_close - t->request->duration_days * DAY_NS;

    while (t->bar[skip].ts_close <= from)
        skip++;
    t->bar += skip;
    t->n -= skip;
}

static bool has_volume(const struct test *t)
{
    size_t i = 0;

    while (i < t->n && t->bar[i].volume == 0)
        i++;
    return i < t->n;
}

static enum keel_status check(struct test *t)
{
    if (t->n < 2)
        return refuse(t, "too_few_bars", "bars", "at least 2 bars are needed");
    if (t->n * t->conf.resamples > BACKTEST_DRAWS)
        return refuse(t, "out_of_range", "resamples",
                      keel_arena_printf(t->arena, "%zu bars leave room for %zu resamples", t->n,
                                        BACKTEST_DRAWS / t->n));
    return t->conf.participation == 0 || has_volume(t)
               ? KEEL_OK
               : refuse(t, "no_volume", "participation",
                        "no bar has a volume, so nothing could fill: participation 0 fills without");
}

static void write_fill(struct keel_json *w, const struct backtest_fill *f)
{
    char name[8];

    keel_json_obj(w, NULL);
    keel_json_time(w, "ts_event", f->ts);
    keel_json_str(w, "side", strategy_name_of(KEEL_SIDES, (int)f->side, name, sizeof name));
    keel_json_dec(w, "quantity", f->quantity);
    keel_json_dec(w, "price", f->price);
    keel_json_money(w, "fee", f->fee);
    keel_json_money(w, "realized_pnl", f->realized);
    keel_json_str(w, "liquidity", f->maker ? "MAKER" : "TAKER");
    keel_json_end(w);
}

static void write_measures(struct keel_json *w, const struct backtest_result *r)
{
    for (size_t i = 0; i < BACKTEST_N; i++) {
        const struct backtest_value *v = &r->measure[i];

        if (v->why == NULL)
            keel_json_f64(w, backtest_measure_names[i], v->value * backtest_measure_factors[i]);
        else
            keel_json_null(w, backtest_measure_names[i]);
    }
}

static void write_money(struct keel_json *w, const struct test *t)
{
    const struct backtest_result *r = t->result;
    keel_i128 equity = r->equity[r->n - 1];

    keel_json_money(w, "initial_cash", t->conf.cash);
    keel_json_money(w, "final_equity", equity);
    keel_json_money(w, "realized_pnl", r->position.realized);
    /* equity - cash at the start = realised + unrealised - fees, exactly */
    keel_json_money(w, "unrealized_pnl", equity - t->conf.cash - r->position.realized + r->position.fees);
    keel_json_money(w, "fees", r->position.fees);
    keel_json_money(w, "traded", r->traded);
    keel_json_dec(w, "position", r->position.quantity);
}

static void write_result(struct keel_json *w, const struct test *t)
{
    const struct backtest_result *r = t->result;

    keel_json_obj(w, "result");
    keel_json_str(w, "symbol", t->symbol);
    keel_json_str(w, "spec", t->n_pages > 0 ? t->spec : NULL);
    keel_json_str(w, "bars_of", t->n_pages > 0 ? "marketdata" : "request");
    keel_json_u64(w, "bars", r->n);
    keel_json_time(w, "from", t->bar[0].ts_close);
    keel_json_time(w, "to", t->bar[r->n - 1].ts_close);
    write_money(w, t);
    keel_json_bool(w, "ruined", r->ruined);
    write_measures(w, r);
    keel_json_f64(w, "in_market_pct", 100 * (double)r->in_market / (double)r->n);
    keel_json_u64(w, "signals", r->signals);
    keel_json_u64(w, "signals_not_sent", r->not_sent);
    keel_json_u64(w, "orders_unfilled", r->unfilled);
    keel_json_u64(w, "orders_resting", r->resting);
    keel_json_u64(w, "fills", r->fills);
    keel_json_u64(w, "trades", r->trades);
    keel_json_u64(w, "trades_won", r->wins);
    keel_json_f64(w, "periods_per_year", r->ppy);
    keel_json_end(w);
}

static void write_assumptions(struct keel_json *w, const struct test *t)
{
    keel_json_obj(w, "assumptions");
    keel_json_str(w, "fills", "an order arrives at the open of the bar after its signal; one that rests fills at its "
                              "price when an open reaches it or a range goes through it");
    keel_json_dec(w, "spread_bps", t->request->spread_bps);
    keel_json_dec(w, "participation", t->conf.participation);
    keel_json_dec(w, "taker_fee", t->conf.taker_rate);
    keel_json_dec(w, "maker_fee", t->conf.maker_rate);
    keel_json_u64(w, "resamples", t->conf.resamples);
    keel_json_f64(w, "confidence", BACKTEST_CONFIDENCE);
    keel_json_u64(w, "seed", t->conf.seed);
    keel_json_end(w);
}

/* Evenly spaced; the last always. */
static void write_curve(struct keel_json *w, const struct test *t)
{
    const struct backtest_result *r = t->result;
    size_t every = (r->n + POINTS - 1) / POINTS;

    keel_json_arr(w, "equity_curve");
    for (size_t i = (r->n - 1) % every; i < r->n; i += every) {
        keel_json_obj(w, NULL);
        keel_json_time(w, "ts", t->bar[i].ts_close);
        keel_json_money(w, "equity", r->equity[i]);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void print(struct test *t)
{
    const struct backtest_result *r = t->result;
    struct keel_json *w = &t->w;

    keel_json_init(w, t->arena, 64 << 10);
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "strategy_id", t->request->strategy_id);
    keel_json_str(w, "test_type", "backtest");
    write_result(w, t);
    write_assumptions(w, t);
    keel_json_arr(w, "fills");
    for (size_t i = 0; i < r->fills && i < BACKTEST_FILLS; i++)
        write_fill(w, &r->fill[i]);
    keel_json_end(w);
    keel_json_bool(w, "fills_cut", r->fills > BACKTEST_FILLS);
    write_curve(w, t);
    keel_json_obj(w, "undefined");
    for (size_t i = 0; i < BACKTEST_N; i++)
        if (r->measure[i].why != NULL)
            keel_json_str(w, backtest_measure_names[i], r->measure[i].why);
    keel_json_end(w);
}

static enum keel_status test_work(void *job, const atomic_bool *stop)
{
    struct test *t = job;
    enum keel_status st = t->n_pages > 0 ? take_fetched(t) : take_given(t);

    if (st != KEEL_OK)
        return st;
    cut(t);
    if ((st = check(t)) != KEEL_OK)
        return st;
    t->result = keel_arena_alloc(t->arena, sizeof *t->result);
    st = backtest_run(&t->conf, t->bar, t->n, t->arena, stop, t->result);
    if (st == KEEL_OK)
        print(t);
    return st;
}

/* ---- on the loop ---- */

static enum keel_status test_done(struct keel_call *c)
{
    struct test *t = c->ctx;
    enum keel_status st = keel_wait_status(c);

    if (st == KEEL_INVALID && t->n_pages > 0) /* nothing of it is in the request */
        return keel_fail_as(c, KEEL_UNDEFINED, t->code, NULL, "marketdata's bars of %s: %s", t->symbol, t->why);
    if (st == KEEL_INVALID)
        return keel_fail_as(c, st, t->code, t->field, "%s", t->why);
    if (st == KEEL_TOOBIG)
        return keel_fail_as(c, KEEL_UNDEFINED, "does_not_fit", NULL,
                            "a figure of the run does not fit: sizes and cash are too large for these prices");
    if (st != KEEL_OK)
        return keel_fail(c, st, "the test did not end in time");
    c->out = t->w;
    keel_json_fix(&c->out, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_write_ignored(c);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status ask_for_bars(struct keel_call *c, int64_t before_ns);

static bool is_enough(const struct test *t, int64_t newest_ns)
{
    int64_t from;

    return t->n_pages == MOST_PAGES ||
           (t->request->has_duration_days &&
            keel_dec_sub(newest_ns, t->request->duration_days * DAY_NS, &from) == KEEL_OK && t->oldest_ns <= from);
}

static bool close_of(const struct keel_jval *bar, int64_t *ns)
{
    const char *text = keel_jstr(bar, "ts_close");

    return keel_time_parse(text, strlen(text), ns) == KEEL_OK;
}

static enum keel_status bars_came(struct keel_call *c)
{
    struct test *t = c->ctx;
    const struct keel_reply *r = &c->peer;
    const struct keel_jval *bars = keel_jget(r->json, "bars"), *next = keel_jget(r->json, "next"), *last;
    int64_t newest_ns;

    if (r->status != KEEL_OK)
        return keel_fail_as(c, KEEL_UNAVAILABLE, "marketdata_unavailable", NULL,
                            "marketdata has the bars and did not answer (%s); or give bars",
                            keel_status_name(r->status));
    if (r->http == 404)
        return keel_fail_as(c, KEEL_NOTFOUND, "not_found", "symbol", "marketdata does not know %s", t->symbol);
    if (r->http == 400)
        return keel_fail_as(c, KEEL_UNDEFINED, "no_bars", NULL, "marketdata: %s", keel_jstr(r->json, "detail"));
    if (r->http != 200 || bars == NULL || bars->type != KEEL_JARR)
        return keel_fail(c, KEEL_UPSTREAM, "marketdata answered %d without bars", r->http);
    if (bars->child == NULL)
        return t->n_pages > 0 ? keel_await_work(c, test_work, t, test_done)
                              : keel_fail_as(c, KEEL_UNDEFINED, "no_bars", "symbol",
                                             "marketdata has no bars of %s, spec %s", t->symbol, t->spec);
    for (last = bars->child; last->next != NULL;)
        last = last->next;
    t->page[t->n_pages++] = bars;
    if (!close_of(last, &t->oldest_ns) || !close_of(t->page[0]->child, &newest_ns))
        return keel_fail(c, KEEL_UPSTREAM, "marketdata answered a bar without ts_close");
    if (next == NULL || next->type == KEEL_JNULL || is_enough(t, newest_ns))
        return keel_await_work(c, test_work, t, test_done);
    return ask_for_bars(c, t->oldest_ns);
}

static enum keel_status ask_for_bars(struct keel_call *c, int64_t before_ns)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const struct test *t = c->ctx;

    if (t->spec[strspn(t->spec, plain)] != '\0')
        return keel_fail_as(c, KEEL_UNDEFINED, "no_bars", NULL, "there are no bars of spec %s", t->spec);

    const struct keel_peer_req req = {
        .peer = "marketdata",
        .method = "GET",
        .path = keel_arena_printf(c->arena, "/bars/%s?spec=%s&limit=%d&after=%" PRId64, t->symbol, t->spec, PAGE,
                                  before_ns)};

    return keel_await_peer(c, &req, bars_came);
}

static enum keel_status take_symbol(struct keel_call *c, const struct strategy_def *d, struct test *t)
{
    const struct backtest_request *q = t->request;

    t->symbol = q->has_symbol ? strategy_symbol(c->arena, q->symbol)
                : d->n_symbols == 1 ? keel_arena_strdup(c->arena, d->symbol[0]) : NULL;
    if (t->symbol != NULL || (q->has_bars && !q->has_symbol))
        return KEEL_OK;
    return q->has_symbol
               ? keel_fail_as(c, KEEL_INVALID, "bad_symbol", "symbol",
                              "symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}")
               : keel_fail_as(c, KEEL_INVALID, "missing", "symbol",
                              "strategy %s trades more than one symbol: say which", d->id);
}

/* Whether the definition can be tested at all. */
static enum keel_status check_rule(struct keel_call *c, const struct strategy_def *d)
{
    const char *why;

    if (d->rule.kind == SIGNAL_NONE)
        return keel_fail_as(c, KEEL_CONFLICT, "no_kind", NULL,
                            "strategy %s has no kind: it only executes what it is told to", d->id);
    if ((why = strategy_def_wrong(d)) != NULL || (why = backtest_rule_wrong(&d->rule, c->arena)) != NULL)
        return keel_fail_as(c, KEEL_UNDEFINED, "invalid_definition", "parameters", "%s", why);
    return KEEL_OK;
}

enum keel_status api_backtest(struct keel_call *c)
{
    struct strategy_state *s = c->state;
    const struct backtest_request *q = c->arg;
    struct test *t = keel_arena_alloc(c->arena, sizeof *t);
    struct strategy_def *d;
    enum keel_status st;

    if (q->test_type != 0)
        return keel_fail_as(c, KEEL_UNDEFINED, "not_a_test", "test_type",
                            "paper trading is what a started strategy does at the venue paper: deploy and start it");
    t->request = q;
    t->arena = c->arena;
    if ((st = strategy_def_find(c, q->strategy_id, &d)) != KEEL_OK || (st = check_rule(c, d)) != KEEL_OK ||
        (st = take_symbol(c, d, t)) != KEEL_OK)
        return st;
    t->rule = d->rule;
    snprintf(t->spec, sizeof t->spec, "%s", d->spec);
    t->conf = (struct backtest_conf){.rule = &t->rule,
                                     .type = d->order_type,
                                     .tif = d->tif,
                                     .max_age_ns = d->max_age_ns,
                                     .spread = q->spread_bps / 10000,
                                     .participation = q->participation,
                                     .taker_rate = q->has_taker_fee ? q->taker_fee : s->opt->taker_fee,
                                     .maker_rate = q->has_maker_fee ? q->maker_fee : s->opt->maker_fee,
                                     .cash = q->initial_cash,
                                     .ppy = q->has_periods_per_year ? q->periods_per_year : 0,
                                     .resamples = (size_t)q->resamples,
                                     .seed = (uint64_t)q->seed};
    c->ctx = t;
    return q->has_bars ? keel_await_work(c, test_work, t, test_done) : ask_for_bars(c, INT64_MAX);
}
