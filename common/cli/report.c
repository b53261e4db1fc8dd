/*
 * The report of a session. Every figure is read from the engine that owns it; every check compares what two of them say
 * independently, or recomputes money from the fills themselves. `ok` covers counts and money, never latency.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

#define MAX_SYMBOLS 1024
#define MAX_CHECKS 40
#define CALL_MS 10000

struct holding {
    const char *symbol;
    int64_t strategy, portfolio, risk;
};

struct check {
    const char *name, *detail;
    bool ok;
};

struct report {
    struct cli_session *s;
    struct keel_arena *a;
    struct check check[MAX_CHECKS];
    size_t n_checks;
    const struct keel_jval *bus[KEEL_ENGINES], *perf[KEEL_ENGINES], *series[KEEL_ENGINES];
    const struct keel_jval *feed, *portfolio, *account, *risk; /* account: a member of portfolio */
    const struct keel_jval *model;                             /* what price_model serves, or NULL */
    int64_t model_orders, model_fills;                         /* of the strategy that acts on its predictions */
    struct holding held[MAX_SYMBOLS];
    size_t n_held;
    int64_t n_fills, last_fill_no;
    keel_i128 cash, fees; /* recomputed from the fills */
    bool money_ok;
    int64_t orders[16], n_orders, partially, denied;
};

static const char *const states[] = {"INITIALIZED", "DENIED",         "SUBMITTED",       "ACCEPTED", "REJECTED",
                                     "TRIGGERED",   "PENDING_UPDATE", "PENDING_CANCEL",  "PARTIALLY_FILLED",
                                     "FILLED",      "CANCELED",       "EXPIRED",         "UNKNOWN"};

static void check(struct report *r, const char *name, bool ok, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void check(struct report *r, const char *name, bool ok, const char *fmt, ...)
{
    va_list ap;

    keel_assert(r->n_checks < MAX_CHECKS);
    va_start(ap, fmt);
    r->check[r->n_checks++] = (struct check){name, keel_arena_vprintf(r->a, fmt, ap), ok};
    va_end(ap);
}

static struct cli_reply ask(struct report *r, const char *engine, const char *method, const char *path, const char *body)
{
    return cli_http(r->a, method, cli_url(r->a, engine, r->s->port_offset, path), body, CALL_MS);
}

static int64_t num(const struct keel_jval *v)
{
    int64_t out = 0;

    if (v && (v->type == KEEL_JNUM || v->type == KEEL_JSTR))
        (void)keel_i64_parse(v->text, v->len, &out);
    return out;
}

static bool money(const struct keel_jval *v, keel_i128 *out)
{
    return v && (v->type == KEEL_JNUM || v->type == KEEL_JSTR) && keel_money_parse(v->text, v->len, out) == KEEL_OK;
}

static bool dec(const struct keel_jval *v, int64_t *out)
{
    return v && (v->type == KEEL_JNUM || v->type == KEEL_JSTR) && keel_dec_parse(v->text, v->len, out) == KEEL_OK;
}

static const char *show(struct report *r, keel_i128 v)
{
    char buf[KEEL_MONEY_TEXT];

    return keel_arena_strndup(r->a, buf, keel_money_print(v, buf));
}

static struct holding *hold(struct report *r, const char *symbol)
{
    for (size_t i = 0; i < r->n_held; i++)
        if (strcmp(r->held[i].symbol, symbol) == 0)
            return &r->held[i];
    keel_assert(r->n_held < MAX_SYMBOLS);
    r->held[r->n_held] = (struct holding){.symbol = symbol};
    return &r->held[r->n_held++];
}

/* ---- reading ---- */

static void read_fill(struct report *r, const struct keel_jval *f)
{
    struct holding *h;
    int64_t q, p;
    keel_i128 notional, fee;
    bool buy = strcmp(keel_jstr(f, "side"), "BUY") == 0;

    r->last_fill_no = num(keel_jget(f, "fill_no"));
    if (strcmp(keel_jstr(f, "portfolio_id"), r->s->portfolio) != 0)
        return;
    h = hold(r, keel_jstr(f, "symbol"));
    r->n_fills++;
    r->model_fills += strcmp(keel_jstr(f, "strategy_id"), r->s->model_strategy) == 0;
    if (!dec(keel_jget(f, "quantity"), &q) || !dec(keel_jget(f, "price"), &p) ||
        !money(keel_jget(keel_jget(f, "fee"), "amount"), &fee) ||
        keel_notional(p, q, KEEL_SCALE, &notional) != KEEL_OK) {
        r->money_ok = false;
        return;
    }
    h->strategy += buy ? q : -q;
    r->cash += (buy ? -notional : notional) - fee;
    r->fees += fee;
}

static bool read_fills(struct report *r)
{
    int64_t after = 0;

    for (;;) {
        struct cli_reply got = ask(r, "strategy", "GET", keel_arena_printf(r->a, "/fills?after=%" PRId64 "&limit=1000", after), NULL);
        const struct keel_jval *list = keel_jget(got.json, "fills");

        if (got.http != 200 || !list)
            return false;
        for (const struct keel_jval *f = list->child; f; f = f->next)
            read_fill(r, f);
        if (list->len == 0 || r->last_fill_no == after)
            return true;
        after = r->last_fill_no;
    }
}

static bool read_orders(struct report *r)
{
    const char *after = "";

    for (;;) {
        struct cli_reply got = ask(r, "strategy", "GET",
                                   keel_arena_printf(r->a, "/orders?portfolio_id=%s&limit=1000%s%s", r->s->portfolio,
                                                     *after ? "&after=" : "", after), NULL);
        const struct keel_jval *list = keel_jget(got.json, "orders"), *next = keel_jget(got.json, "next");

        if (got.http != 200 || !list)
            return false;
        for (const struct keel_jval *o = list->child; o; o = o->next) {
            const struct keel_jval *part = keel_jget(o, "partially");
            for (size_t k = 0; k < KEEL_COUNT(states); k++)
                if (strcmp(states[k], keel_jstr(o, "state")) == 0)
                    r->orders[k]++;
            r->n_orders++;
            r->partially += part && part->boolean;
        }
        if (!next || next->type == KEEL_JNULL)
            return true;
        after = next->text;
    }
}

static int64_t num_of(const struct keel_jval *v, const char *name)
{
    return num(keel_jget(v, name));
}

static bool read_model(struct report *r)
{
    struct cli_reply orders = ask(r, "strategy", "GET",
                                  keel_arena_printf(r->a, "/orders?strategy_id=%s&limit=1000", r->s->model_strategy), NULL);
    struct cli_reply got = ask(r, "ml", "GET", "/models/price_model", NULL);
    const struct keel_jval *versions = keel_jget(got.json, "versions");

    r->model_orders = num_of(orders.json, "count");
    for (const struct keel_jval *v = versions ? versions->child : NULL; v; v = v->next)
        if (keel_jget(v, "serving") && keel_jget(v, "serving")->boolean)
            r->model = v;
    return orders.http == 200 && got.http == 200;
}

static bool read_portfolio(struct report *r)
{
    struct cli_reply got = ask(r, "portfolio", "GET", keel_arena_printf(r->a, "/portfolios/%s", r->s->portfolio), NULL);
    struct cli_reply pos = ask(r, "portfolio", "GET",
                               keel_arena_printf(r->a, "/portfolios/%s/positions?limit=1000", r->s->portfolio), NULL);
    const struct keel_jval *list = keel_jget(pos.json, "positions");

    r->portfolio = got.http == 200 ? got.json : NULL;
    r->account = keel_jget(r->portfolio, "account");
    if (!r->account || !list)
        return false;
    for (const struct keel_jval *p = list->child; p; p = p->next)
        if (!dec(keel_jget(p, "quantity"), &hold(r, keel_jstr(p, "symbol"))->portfolio))
            return false;
    return true;
}

static bool read_risk(struct report *r)
{
    struct cli_reply got = ask(r, "risk", "POST", keel_arena_printf(r->a, "/risk/report/%s", r->s->portfolio), "{}");
    const struct keel_jval *list = keel_jget(got.json, "positions");

    r->risk = got.http == 200 ? got.json : NULL;
    if (!list)
        return false;
    for (const struct keel_jval *p = list->child; p; p = p->next)
        if (!dec(keel_jget(p, "quantity"), &hold(r, keel_jstr(p, "symbol"))->risk))
            return false;
    return true;
}

static void read_engines(struct report *r)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        struct cli_reply m = ask(r, cli_engines[i].name, "GET", "/metrics", NULL);
        struct cli_reply p = ask(r, cli_engines[i].name, "GET", "/hybrid/performance", NULL);

        r->bus[i] = keel_jget(m.json, "bus");
        r->series[i] = keel_jget(m.json, "series");
        r->perf[i] = p.http == 200 ? p.json : NULL; /* plain engines have none */
    }
}

/* ---- the bus: received = published ---- */

static const struct keel_jval *published(const struct keel_jval *const bus[KEEL_ENGINES], const char *topic)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        size_t n = strlen(cli_engines[i].name);
        if (strncmp(topic, cli_engines[i].name, n) == 0 && topic[n] == '.')
            return keel_jget(keel_jget(bus[i], "published"), topic);
    }
    return NULL;
}

/* Names the first reader that has not handled what was published since the session began; false when all have. */
static bool behind(const struct cli_session *s, const struct keel_jval *const bus[KEEL_ENGINES], char *why, size_t cap)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        const struct keel_jval *got = keel_jget(bus[i], "received"), *before = keel_jget(s->bus[i], "received");

        if (!bus[i]) {
            snprintf(why, cap, "%s does not answer", cli_engines[i].name);
            return true;
        }
        if (num(keel_jget(bus[i], "unsent")) || num(keel_jget(bus[i], "backlog"))) {
            snprintf(why, cap, "%s: %" PRId64 " unsent, %" PRId64 " in hand", cli_engines[i].name,
                     num(keel_jget(bus[i], "unsent")), num(keel_jget(bus[i], "backlog")));
            return true;
        }
        for (const struct keel_jval *t = got ? got->child : NULL; t; t = t->next) {
            int64_t handled = num(t) - num(keel_jget(before, t->name));
            int64_t sent = num(published(bus, t->name)) - num(published(s->bus, t->name));

            if (handled != sent) {
                snprintf(why, cap, "%s has handled %" PRId64 " of %" PRId64 " records of %s", cli_engines[i].name, handled, sent,
                         t->name);
                return true;
            }
        }
    }
    return false;
}

static void read_bus(const struct cli_session *s, struct keel_arena *a, const struct keel_jval *bus[KEEL_ENGINES])
{
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        bus[i] = keel_jget(cli_http(a, "GET", cli_url(a, cli_engines[i].name, s->port_offset, "/metrics"), NULL, CALL_MS).json, "bus");
}

/* All records published and handled so far; -1: something is under way. */
static int64_t carried(const struct keel_jval *const bus[KEEL_ENGINES])
{
    static const char *const counts[] = {"published", "received"};
    int64_t n = 0;

    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        if (num(keel_jget(bus[i], "unsent")) || num(keel_jget(bus[i], "backlog")))
            return -1;
        for (size_t k = 0; k < KEEL_COUNT(counts); k++) {
            const struct keel_jval *of = keel_jget(bus[i], counts[k]);
            for (const struct keel_jval *t = of ? of->child : NULL; t; t = t->next)
                n += num(t);
        }
    }
    return n;
}

void cli_session_begin(struct cli_session *s)
{
    enum { LOOKS = 50, STILL = 3 };
    int64_t last = -1;
    int still = 0;

    for (int i = 0; i < LOOKS && still < STILL; i++) {
        int64_t n;

        read_bus(s, s->a, s->bus);
        n = carried(s->bus);
        still = n >= 0 && n == last ? still + 1 : 0;
        last = n;
        if (still < STILL)
            cli_nap(50);
    }
}

bool cli_settled(struct cli_session *s, char *why, size_t cap)
{
    struct keel_arena *a = keel_arena_new(1 << 16);
    const struct keel_jval *bus[KEEL_ENGINES];
    bool settled;

    read_bus(s, a, bus);
    settled = !behind(s, bus, why, cap);
    keel_arena_free(a);
    return settled;
}

/* ---- checks ---- */

/* The first dependency of a health answer that is not well, with its detail. */
static const char *what_is_away(struct report *r, const struct keel_jval *health)
{
    const struct keel_jval *deps = keel_jget(health, "dependencies");

    for (const struct keel_jval *d = deps ? deps->child : NULL; d; d = d->next)
        if (strcmp(keel_jstr(d, "status"), "healthy") != 0)
            return keel_arena_printf(r->a, " (%s: %s)", d->name, keel_jstr(d, "detail"));
    return "";
}

static void check_engines(struct report *r)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        struct cli_reply h = ask(r, cli_engines[i].name, "GET", "/health", NULL);
        const char *status = keel_jstr(h.json, "status");

        if (strcmp(status, "healthy") != 0) {
            check(r, "engines_healthy", false, "%s is %s%s", cli_engines[i].name, h.http ? status : "away",
                  what_is_away(r, h.json));
            return;
        }
    }
    check(r, "engines_healthy", true, "nine of nine");
}

static void check_bus(struct report *r)
{
    char why[200];
    int64_t dropped = 0, dead = 0;

    if (r->s->restarts > 0)
        check(r, "received_is_published", true, "not compared: %u restarts, counts start anew with a process", r->s->restarts);
    else if (behind(r->s, r->bus, why, sizeof why))
        check(r, "received_is_published", false, "%s", why);
    else
        check(r, "received_is_published", true, "every reader has handled every record of its topics");
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        dropped += num(keel_jget(r->bus[i], "dropped"));
        dead += num(keel_jget(r->bus[i], "dead"));
    }
    check(r, "nothing_dropped", dropped == 0 && dead == 0, "%" PRId64 " dropped, %" PRId64 " dead letters", dropped, dead);
}

static void check_positions(struct report *r)
{
    char q[3][KEEL_DEC_TEXT];

    for (size_t i = 0; i < r->n_held; i++) {
        const struct holding *h = &r->held[i];
        if (h->strategy == h->portfolio && h->strategy == h->risk)
            continue;
        keel_dec_print(h->strategy, q[0]);
        keel_dec_print(h->portfolio, q[1]);
        keel_dec_print(h->risk, q[2]);
        check(r, "positions_agree", false, "%s: fills say %s, portfolio %s, risk %s", h->symbol, q[0], q[1], q[2]);
        return;
    }
    check(r, "positions_agree", true, "%zu symbols: sum of fills = portfolio = risk", r->n_held);
}

static void check_money(struct report *r)
{
    keel_i128 cash, equity, real, unreal, fees, change, sum, value;
    const struct keel_jval *ledger = keel_jget(r->portfolio, "ledger");

    if (!money(keel_jget(ledger, "sum"), &sum))
        check(r, "ledger_sums_to_zero", false, "no ledger sum");
    else
        check(r, "ledger_sums_to_zero", sum == 0, "%s over %s entries", show(r, sum),
              keel_jget(ledger, "entries") ? keel_jget(ledger, "entries")->text : "?");
    if (!money(keel_jget(r->account, "cash"), &cash) || !money(keel_jget(r->account, "fees"), &fees)) {
        check(r, "cash_is_fills", false, "the portfolio gives no cash or fees");
        return;
    }
    value = r->s->initial_cash + r->cash;
    check(r, "cash_is_fills", r->money_ok && cash == value, "portfolio %s, recomputed from %" PRId64 " fills %s",
          show(r, cash), r->n_fills, show(r, value));
    check(r, "fees_are_fills", fees == r->fees, "portfolio %s, sum of the fills' fees %s", show(r, fees), show(r, r->fees));
    if (!money(keel_jget(r->account, "equity"), &equity) || !money(keel_jget(r->account, "realized_pnl"), &real) ||
        !money(keel_jget(r->account, "unrealized_pnl"), &unreal) || !money(keel_jget(r->account, "equity_change"), &change)) {
        check(r, "equity_is_pnl", false, "a position has no fresh mark, so equity is null");
        return;
    }
    check(r, "equity_is_pnl", change == real + unreal - fees && equity == r->s->initial_cash + change,
          "change %s = realised %s + unrealised %s - fees %s", show(r, change), show(r, real), show(r, unreal), show(r, fees));
}

static void check_orders(struct report *r)
{
    int64_t open = r->n_orders - r->orders[1] - r->orders[4] - r->orders[9] - r->orders[10] - r->orders[11];
    int64_t held = num(keel_jget(r->risk, "reservations")) + num(keel_jget(r->risk, "open_orders"));

    check(r, "orders_ended", open == 0, "%" PRId64 " of %" PRId64 " orders are still open or unknown", open, r->n_orders);
    check(r, "reservations_released", r->risk && held == 0, "risk holds headroom for %" PRId64 " orders", held);
}

static const struct keel_jval *series(struct report *r, const char *engine, const char *name)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        if (strcmp(cli_engines[i].name, engine) == 0)
            return keel_jget(r->series[i], name);
    return NULL;
}

static int64_t gauge(struct report *r, const char *engine, const char *name)
{
    const struct keel_jval *v = series(r, engine, name);

    return num(v);
}

static const struct keel_jval *bus_of(const struct report *r, const char *engine)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        if (strcmp(cli_engines[i].name, engine) == 0)
            return r->bus[i];
    return NULL;
}

/*
 * Three independent counts: what the bus handed to ml, what ml says became of each record, and what the bus took from it. Every
 * vector that found the model ready is a prediction or a refusal of a type.
 */
static void check_predictions(struct report *r)
{
    const struct keel_jval *in = keel_jget(bus_of(r, "ml"), "received");
    int64_t vectors = num_of(in, "features.priority.vector"), bars = num_of(in, "marketdata.priority.bar");
    int64_t ready = gauge(r, "ml", "vectors_ready"), price = gauge(r, "ml", "price_predictions");
    int64_t missing = gauge(r, "ml", "vectors_missing"), range = gauge(r, "ml", "vectors_out_of_range");
    int64_t before = gauge(r, "ml", "vectors_model_disabled");
    int64_t other = gauge(r, "ml", "vectors_other_kind") + gauge(r, "ml", "vectors_repeated");
    int64_t volatility = gauge(r, "ml", "volatility_predictions"), sent = num(published(r->bus, "ml.priority.prediction"));
    int64_t warming = gauge(r, "ml", "bars_warming") + gauge(r, "ml", "bars_repeated");

    if (r->s->restarts > 0) {
        check(r, "features_are_predictions", true, "not compared: %u restarts, counts start anew with a process", r->s->restarts);
        return;
    }
    check(r, "features_are_predictions",
          (vectors > 0 || bars == 0) && vectors == ready + before + other && ready == price + missing + range,
          "%" PRId64 " vectors = %" PRId64 " before a model was trained + %" PRId64 " of other bars + %" PRId64 " ready; these = %"
          PRId64 " predicted + %" PRId64 " missing + %" PRId64 " out_of_range", vectors, before, other, ready, price, missing, range);
    check(r, "predictions_published", sent == price + volatility && bars == volatility + warming,
          "%" PRId64 " records = %" PRId64 " prices + %" PRId64 " volatilities; %" PRId64 " bars = these + %" PRId64 " warming",
          sent, price, volatility, bars, warming);
}

/* What analytics calls total_value is a JSON number; its digits are compared, not its double. */
static void check_analytics(struct report *r)
{
    struct cli_reply got = ask(r, "analytics", "POST", keel_arena_printf(r->a, "/analytics/realtime/%s", r->s->portfolio),
                               "{\"complexity\":\"simple\"}");
    keel_i128 theirs = 0, ours = 0;
    bool known = money(keel_jget(keel_jget(keel_jget(got.json, "result"), "metrics"), "total_value"), &theirs) &&
                 money(keel_jget(r->account, "equity"), &ours);

    if (got.http == 404)
        return; /* this engine does not serve it */
    check(r, "analytics_equity_is_portfolios", known && ours == theirs,
          "analytics %s, portfolio %s", known ? show(r, theirs) : "null", known ? show(r, ours) : "null");
}

/* ---- writing ---- */

static void write_market(struct report *r, struct keel_json *w)
{
    static const char *const counts[] = {"records", "bad_records", "quotes", "trades", "trade_volume",
                                         "book_updates_applied", "sequence_gaps", "bars", "symbols"};

    keel_json_obj(w, "market");
    for (size_t i = 0; i < KEEL_COUNT(counts); i++)
        if (keel_jget(r->feed, counts[i]))
            keel_json_val(w, counts[i], keel_jget(r->feed, counts[i]));
    keel_json_end(w);
}

static int64_t total(const struct keel_jval *map)
{
    int64_t n = 0;

    for (const struct keel_jval *v = map ? map->child : NULL; v; v = v->next)
        n += num(v);
    return n;
}

static void write_stages(struct report *r, struct keel_json *w)
{
    keel_json_obj(w, "stages");
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        keel_json_obj(w, cli_engines[i].name);
        keel_json_i64(w, "received", total(keel_jget(r->bus[i], "received")));
        keel_json_i64(w, "published", total(keel_jget(r->bus[i], "published")));
        keel_json_i64(w, "dropped", num(keel_jget(r->bus[i], "dropped")));
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void write_latency(struct report *r, struct keel_json *w)
{
    static const char *const what[][2] = {{"strategy", "market_to_order"}, {"portfolio", "market_to_position"}};

    keel_json_obj(w, "latency_us");
    for (size_t i = 0; i < 2; i++) {
        const struct keel_jval *v = series(r, what[i][0], what[i][1]);
        keel_json_obj(w, what[i][1]);
        if (keel_jget(v, "p50_us"))
            keel_json_val(w, "p50", keel_jget(v, "p50_us"));
        else
            keel_json_null(w, "p50");
        if (keel_jget(v, "p99_us"))
            keel_json_val(w, "p99", keel_jget(v, "p99_us"));
        else
            keel_json_null(w, "p99");
        keel_json_end(w);
    }
    keel_json_end(w);
}

/* The critical operations of system.md 1 by their op ids. */
static const char *const critical[][2] = {
    {"marketdata", "ingest"},      {"marketdata", "feed_slice"},     {"features", "calculate"},
    {"ml", "critical_predict"},
    {"strategy", "execute"},       {"strategy", "execute_internal"}, {"risk", "critical_check"},
    {"portfolio", "fill"},         {"analytics", "realtime"}, {"factor", "calculate"},
};

static const struct keel_jval *operation(struct report *r, size_t k)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        if (strcmp(cli_engines[i].name, critical[k][0]) == 0)
            return keel_jget(keel_jget(r->perf[i], "operations"), critical[k][1]);
    return NULL;
}

static void write_critical(struct report *r, struct keel_json *w)
{
    keel_json_obj(w, "critical");
    for (size_t k = 0; k < KEEL_COUNT(critical); k++) {
        const struct keel_jval *op = operation(r, k), *all = keel_jget(op, "all");
        if (!all || num(keel_jget(op, "count")) == 0)
            continue;
        keel_json_obj(w, keel_arena_printf(r->a, "%s.%s", critical[k][0], critical[k][1]));
        keel_json_val(w, "count", keel_jget(op, "count"));
        keel_json_val(w, "p50_us", keel_jget(all, "p50_us"));
        keel_json_val(w, "p99_us", keel_jget(all, "p99_us"));
        keel_json_val(w, "target_us", keel_jget(op, "target_us"));
        keel_json_end(w);
    }
    keel_json_end(w);
}

/*
 * Five are asked for in any session, two more with an order, one more with a fill: eight in a session that traded. A plain
 * engine has no histograms, so there is nothing to show of it.
 */
static void check_critical(struct report *r)
{
    size_t hybrid = 0, shown = 0, expected = 5 + (r->n_orders > 0 ? 2u : 0u) + (r->n_fills > 0 ? 1u : 0u);
    const char *without = "";

    for (size_t i = 0; i < KEEL_ENGINES; i++)
        hybrid += r->perf[i] != NULL;
    for (size_t k = 0; k < KEEL_COUNT(critical); k++)
        if (num_of(keel_jget(operation(r, k), "all"), "count") > 0)
            shown++;
        else
            without = keel_arena_printf(r->a, "%s %s.%s", without, critical[k][0], critical[k][1]);
    if (hybrid < KEEL_ENGINES)
        check(r, "critical_operations", true, "not compared: %zu of %d engines are hybrid", hybrid, KEEL_ENGINES);
    else
        check(r, "critical_operations", shown >= expected, "%zu have figures, %zu expected; without:%s", shown, expected,
              *without ? without : " none");
}

/* Which model predicted, from when on, against which baseline, and what was traded on it. */
static void write_models(struct report *r, struct keel_json *w)
{
    static const char *const figures[] = {"rows", "tested", "accuracy", "baseline_accuracy", "log_loss", "baseline_log_loss", "better"};
    const struct keel_jval *t = keel_jget(r->model, "training");

    keel_json_obj(w, "models");
    keel_json_obj(w, "price_model");
    if (r->model)
        keel_json_val(w, "version", keel_jget(r->model, "version"));
    else
        keel_json_null(w, "version");
    keel_json_i64(w, "vectors_before_ready", gauge(r, "ml", "vectors_model_disabled"));
    keel_json_i64(w, "vectors_ready", gauge(r, "ml", "vectors_ready"));
    keel_json_i64(w, "predictions", gauge(r, "ml", "price_predictions"));
    keel_json_obj(w, "refused");
    keel_json_i64(w, "missing", gauge(r, "ml", "vectors_missing"));
    keel_json_i64(w, "out_of_range", gauge(r, "ml", "vectors_out_of_range"));
    keel_json_end(w);
    if (t) {
        keel_json_obj(w, "training");
        for (size_t i = 0; i < KEEL_COUNT(figures); i++)
            if (keel_jget(t, figures[i]))
                keel_json_val(w, figures[i], keel_jget(t, figures[i]));
        keel_json_end(w);
    } else
        keel_json_null(w, "training");
    keel_json_i64(w, "signals", gauge(r, "strategy", "model_signals"));
    keel_json_i64(w, "expired", gauge(r, "strategy", "predictions_expired"));
    keel_json_i64(w, "orders", r->model_orders);
    keel_json_i64(w, "fills", r->model_fills);
    keel_json_end(w);
    keel_json_end(w);
}

static bool all_ok(const struct report *r)
{
    for (size_t i = 0; i < r->n_checks; i++)
        if (!r->check[i].ok)
            return false;
    return true;
}

static const char *as_json(struct report *r, size_t *len)
{
    struct keel_json w;
    const struct keel_jval *change = keel_jget(r->account, "equity_change"), *ledger = keel_jget(r->portfolio, "ledger");

    keel_json_init(&w, r->a, 16384);
    keel_json_obj(&w, NULL);
    keel_json_bool(&w, "ok", all_ok(r));
    keel_json_arr(&w, "checks");
    for (size_t i = 0; i < r->n_checks; i++) {
        keel_json_obj(&w, NULL);
        keel_json_str(&w, "name", r->check[i].name);
        keel_json_bool(&w, "ok", r->check[i].ok);
        keel_json_str(&w, "detail", r->check[i].detail);
        keel_json_end(&w);
    }
    keel_json_end(&w);
    write_market(r, &w);
    write_stages(r, &w);
    keel_json_obj(&w, "orders");
    for (size_t k = 0; k < KEEL_COUNT(states); k++)
        if (r->orders[k])
            keel_json_i64(&w, states[k], r->orders[k]);
    keel_json_end(&w);
    keel_json_i64(&w, "orders_partially_filled", r->partially);
    keel_json_i64(&w, "fills", r->n_fills);
    keel_json_str(&w, "ledger_sum", keel_jget(ledger, "sum") ? keel_jget(ledger, "sum")->text : NULL);
    keel_json_str(&w, "equity_change", change && change->type != KEEL_JNULL ? change->text : NULL);
    write_models(r, &w);
    write_latency(r, &w);
    write_critical(r, &w);
    if (r->s->simulated)
        keel_json_i64(&w, "seed", r->s->seed);
    else
        keel_json_null(&w, "seed");
    keel_json_str(&w, "data_sha256", *keel_jstr(r->feed, "data_sha256") ? keel_jstr(r->feed, "data_sha256") : NULL);
    keel_json_end(&w);
    *len = w.len;
    return keel_json_text(&w);
}

static const char *text(const struct keel_jval *v, const char *name)
{
    const struct keel_jval *m = keel_jget(v, name);

    return m && m->text ? m->text : "-";
}

static void print(struct report *r)
{
    const struct keel_jval *lat;

    printf("\n%s\n", r->s->title);
    printf("market     %s records (%s bad): %s quotes, %s trades, volume %s, %s book updates, %s gaps, %s bars\n",
           text(r->feed, "records"), text(r->feed, "bad_records"), text(r->feed, "quotes"), text(r->feed, "trades"),
           text(r->feed, "trade_volume"), text(r->feed, "book_updates_applied"), text(r->feed, "sequence_gaps"),
           text(r->feed, "bars"));
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        printf("%-10s received %-8" PRId64 " published %-8" PRId64 " dropped %" PRId64 "\n", cli_engines[i].name,
               total(keel_jget(r->bus[i], "received")), total(keel_jget(r->bus[i], "published")),
               num(keel_jget(r->bus[i], "dropped")));
    printf("orders     %" PRId64 ":", r->n_orders);
    for (size_t k = 0; k < KEEL_COUNT(states); k++)
        if (r->orders[k])
            printf(" %" PRId64 " %s", r->orders[k], states[k]);
    printf("; %" PRId64 " ever partially filled; %" PRId64 " fills\n", r->partially, r->n_fills);
    printf("account    cash %s, equity %s, realised %s, unrealised %s, fees %s, change %s\n", text(r->account, "cash"),
           text(r->account, "equity"), text(r->account, "realized_pnl"), text(r->account, "unrealized_pnl"),
           text(r->account, "fees"), text(r->account, "equity_change"));
    if (r->model)
        printf("model      price_model %s: log-loss %.6s, base rate's %.6s; ready after %" PRId64 " vectors, %" PRId64
               " predictions, %" PRId64 " orders, %" PRId64 " fills\n",
               text(r->model, "version"), text(keel_jget(r->model, "training"), "log_loss"),
               text(keel_jget(r->model, "training"), "baseline_log_loss"), gauge(r, "ml", "vectors_model_disabled"),
               gauge(r, "ml", "price_predictions"), r->model_orders, r->model_fills);
    else
        printf("model      price_model: not trained, %" PRId64 " vectors are too few\n", gauge(r, "ml", "vectors_model_disabled"));
    for (size_t i = 0; i < 2; i++) {
        lat = i == 0 ? series(r, "strategy", "market_to_order") : series(r, "portfolio", "market_to_position");
        printf("latency    market to %-9s p50 %s us, p99 %s us\n", i == 0 ? "order" : "position", text(lat, "p50_us"), text(lat, "p99_us"));
    }
    for (size_t k = 0; k < KEEL_COUNT(critical); k++) {
        const struct keel_jval *op = operation(r, k), *all = keel_jget(op, "all");
        if (all && num(keel_jget(op, "count")) > 0)
            printf("critical   %s.%-18s %8s calls, p50 %s us, p99 %s us, target %s us\n", critical[k][0], critical[k][1],
                   text(op, "count"), text(all, "p50_us"), text(all, "p99_us"), text(op, "target_us"));
    }
    for (size_t i = 0; i < r->n_checks; i++)
        printf("%s %s: %s\n", r->check[i].ok ? "  ok  " : "FAILED", r->check[i].name, r->check[i].detail);
    printf("%s\n", all_ok(r) ? "session ok" : "SESSION NOT OK");
}

bool cli_report(struct cli_session *s, const char *file)
{
    struct report *r = keel_alloc(1, sizeof *r);
    bool ok;

    r->s = s;
    r->a = s->a;
    r->money_ok = true;
    r->feed = ask(r, "marketdata", "GET", keel_arena_printf(r->a, "/feeds/%s", s->feed_id), NULL).json;
    check(r, "feed_completed", strcmp(keel_jstr(r->feed, "state"), "COMPLETED") == 0, "%s%s%s", keel_jstr(r->feed, "state"),
          *keel_jstr(r->feed, "detail") ? ": " : "", keel_jstr(r->feed, "detail"));
    /* Timers go on publishing after a session (value at risk, health): look until a moment finds nothing under way. */
    for (int i = 0; i < 40; i++) {
        char why[200];
        read_engines(r);
        if (!behind(r->s, r->bus, why, sizeof why))
            break;
        cli_nap(50);
    }
    check_engines(r);
    check_bus(r);
    if (!read_fills(r) || !read_orders(r) || !read_portfolio(r) || !read_risk(r) || !read_model(r)) {
        check(r, "figures_read", false, "strategy, portfolio, risk or ml did not give its figures");
    } else {
        int64_t there = num(keel_jget(r->portfolio, "fills")), risk = num(keel_jget(r->risk, "fills"));
        check(r, "fills_agree", there == r->n_fills && risk == r->n_fills,
              "strategy %" PRId64 ", portfolio %" PRId64 ", risk %" PRId64, r->n_fills, there, risk);
        check_positions(r);
        check_money(r);
        check_orders(r);
        check_analytics(r);
        check_predictions(r);
        check_critical(r);
    }
    print(r);
    if (file) {
        size_t len;
        const char *json = as_json(r, &len);
        FILE *f = fopen(file, "w");
        if (!f || fwrite(json, 1, len, f) != len || fputc('\n', f) == EOF || fclose(f) != 0) {
            fprintf(stderr, "keel: cannot write %s\n", file);
            keel_free(r);
            return false;
        }
    }
    ok = all_ok(r);
    keel_free(r);
    return ok;
}
