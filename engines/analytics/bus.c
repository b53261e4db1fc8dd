/*
 * The state and what feeds it: account records and one look at portfolio a period (equity), fills (closed trades), bars
 * (returns of symbols and of the market). Nothing is stored: after a restart portfolio is asked, and the rest comes
 * with the bus.
 *
 * Equity between two words of portfolio is unknown and stays so; every figure of it here is portfolio's own, digit by
 * digit.
 */
#include <string.h>

#include "keel/log.h"
#include "ops.h"

KEEL_RECORD_TABLE(ana_options, ANA_OPTIONS);

#define YEAR_NS         (365 * 86400000000000LL)
#define SAMPLE_NS       2000000000LL
#define PUBLISH_NS      1000000000LL
#define SESSION_BACK_NS 3600000000000LL /* as the session clock has it */
#define MAX_MAP         64              /* metrics of a published record */

/* ---- state ---- */

enum keel_status ana_open(struct keel_rt *rt, void *state)
{
    struct ana_state *s = state;
    const struct ana_options *o = keel_options(rt);

    s->most = (size_t)o->max_portfolios;
    s->portfolio = keel_alloc(s->most, sizeof *s->portfolio);
    s->period_ns = o->period_s * 1000000000LL;
    s->ppy = (double)YEAR_NS / (double)s->period_ns;
    s->sampled = INT64_MIN;
    s->market.cap = (size_t)o->max_symbols;
    s->market.series_cap = (size_t)o->symbol_returns;
    s->market.symbol = keel_alloc(s->market.cap, sizeof *s->market.symbol);
    s->market.returns = (struct ana_series){.at = keel_alloc(s->market.series_cap, sizeof(struct ana_return)),
                                            .cap = s->market.series_cap};
    return KEEL_OK;
}

void ana_close(struct keel_rt *rt, void *state)
{
    struct ana_state *s = state;

    (void)rt;
    for (size_t i = 0; i < s->n; i++) {
        keel_free(s->portfolio[i].curve.at);
        keel_free(s->portfolio[i].trades.at);
        keel_free(s->portfolio[i].trades.holding);
    }
    for (size_t i = 0; i < s->market.n; i++)
        keel_free(s->market.symbol[i].returns.at);
    keel_free(s->market.returns.at);
    keel_free(s->market.symbol);
    keel_free(s->portfolio);
}

struct ana_portfolio *ana_portfolio_find(struct ana_state *s, const char *id)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->portfolio[i].id, id) == 0)
            return &s->portfolio[i];
    return NULL;
}

struct ana_portfolio *ana_portfolio_of(struct keel_call *c, const char *id)
{
    struct ana_state *s = c->state;
    struct ana_portfolio *p = ana_portfolio_find(s, id);
    size_t len = strlen(id);

    if (p)
        return p;
    if (s->n == s->most || len >= sizeof p->id) {
        keel_log_often(KEEL_LOG_WARN, "portfolios_full", "portfolio=%s max_portfolios=%zu", id, s->most);
        return NULL;
    }
    p = &s->portfolio[s->n++];
    memcpy(p->id, id, len + 1);
    size_t points = (size_t)((const struct ana_options *)keel_options(c->rt))->max_points;
    p->curve = (struct ana_curve){.at = keel_alloc(points, sizeof *p->curve.at), .cap = points};
    p->trades = (struct ana_trades){.at = keel_alloc(points, sizeof *p->trades.at),
                                    .cap = points,
                                    .holding = keel_alloc(ANA_HOLDINGS, sizeof *p->trades.holding),
                                    .cap_holdings = ANA_HOLDINGS};
    s->look_again = true; /* what it began with is portfolio's to say, and not only in the next period */
    return p;
}

const char *ana_portfolio_path(struct keel_arena *a, const char *id)
{
    static const char hex[] = "0123456789ABCDEF";
    char *path = keel_arena_alloc(a, sizeof "/portfolios/" + 3 * strlen(id)), *to = path + strlen("/portfolios/");

    memcpy(path, "/portfolios/", strlen("/portfolios/"));
    for (const unsigned char *p = (const unsigned char *)id; *p; p++) {
        if ((*p >= '0' && *p <= '9') || (*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z') || strchr("-_.~", *p)) {
            *to++ = (char)*p;
        } else {
            *to++ = '%';
            *to++ = hex[*p >> 4];
            *to++ = hex[*p & 15];
        }
    }
    return path;
}

/* ---- what portfolio says ---- */

static bool money_at(const struct keel_jval *v, const char *name, keel_i128 *out)
{
    const struct keel_jval *m = keel_jget(v, name);

    return m && (m->type == KEEL_JSTR || m->type == KEEL_JNUM) && keel_money_parse(m->text, m->len, out) == KEEL_OK;
}

static double number_at(const struct keel_jval *v, const char *name)
{
    keel_i128 m;

    return money_at(v, name, &m) ? keel_money_to_f64(m) : 0;
}

static int64_t fill_no_at(const struct keel_jval *v)
{
    const struct keel_jval *f = keel_jget(v, "last_fill_no");
    int64_t n;

    return f && f->type == KEEL_JNUM && keel_i64_parse(f->text, f->len, &n) == KEEL_OK ? n : -1;
}

/* Ours are as good as portfolio's until it is known to have seen the very same fills. */
static void adopt(struct ana_state *s, struct ana_portfolio *p, const struct keel_jval *v)
{
    const struct keel_jval *positions = keel_jget(v, "positions");
    int64_t fill_no = fill_no_at(v);

    if (!positions || positions->type != KEEL_JARR || fill_no < 0 || (p->is_seeded && fill_no != s->fill_no))
        return;
    p->trades.n_holdings = 0;
    for (const struct keel_jval *k = positions->child; k; k = k->next)
        if (ana_hold(&p->trades, keel_jstr(k, "symbol"), number_at(k, "quantity"), number_at(k, "avg_cost")) != KEEL_OK)
            keel_log_often(KEEL_LOG_WARN, "holdings_full", "portfolio=%s symbol=%s", p->id, keel_jstr(k, "symbol"));
    p->is_seeded = true;
    if (fill_no > p->fill_no)
        p->fill_no = fill_no;
}

/* Two engines' session clocks differ a little; what is said later is later. More than that is another session. */
static void add_point(struct ana_state *s, struct ana_portfolio *p, struct ana_point point)
{
    int64_t last = p->curve.n > 0 ? ana_curve_at(&p->curve, p->curve.n - 1)->ts : point.ts;

    if (point.ts < last && last - point.ts < SESSION_BACK_NS)
        point.ts = last;
    p->has_equity = true;
    p->equity = point.equity;
    p->ts = point.ts;
    ana_curve_add(&p->curve, &point, s->period_ns);
}

/*
 * A portfolio began with what was put in: that is a point, too. Portfolio says it in every look, so that it is known
 * whether its first account record was read or was there before this engine.
 */
static void add_opening(struct ana_portfolio *p, const struct keel_jval *v, int64_t ts)
{
    struct ana_point opening = {.ts = ts};
    const char *created = keel_jstr(v, "created_at");

    if (!money_at(v, "initial_value", &opening.equity) || opening.equity <= 0 ||
        keel_time_parse(created, strlen(created), &opening.ts) != KEEL_OK)
        return;
    if (opening.ts > ts) /* created by the machine's clock, before a session of an earlier time */
        opening.ts = ts;
    opening.capital = opening.equity;
    ana_curve_open(&p->curve, &opening);
}

enum keel_status ana_observe(struct ana_state *s, struct ana_portfolio *p, const struct keel_jval *v, int64_t ts)
{
    const struct keel_jval *account = keel_jget(v, "account");
    const char *why = keel_jstr(keel_jget(v, "undefined"), "equity");
    struct ana_point point = {.ts = ts, .fill_no = fill_no_at(v)};
    keel_i128 change;

    if (!account || !keel_jget(account, "equity"))
        return KEEL_UPSTREAM;
    adopt(s, p, v);
    add_opening(p, v, ts);
    if (money_at(account, "equity", &point.equity) && money_at(account, "equity_change", &change) &&
        keel_money_sub(point.equity, change, &point.capital) == KEEL_OK) {
        add_point(s, p, point);
        return KEEL_OK;
    }
    p->has_equity = false;
    p->ts = ts;
    if (*why == 0)
        why = "portfolio cannot value it";
    size_t len = strlen(why) < sizeof p->why ? strlen(why) : sizeof p->why - 1;
    memcpy(p->why, why, len);
    p->why[len] = 0;
    return KEEL_OK;
}

/* ---- an analysis of it ---- */

static void mean_equity(const struct ana_curve *curve, size_t from, struct ana_input *in)
{
    double sum = 0;

    for (size_t i = from; i < curve->n; i++)
        sum += keel_money_to_f64(ana_curve_at(curve, i)->equity);
    in->mean_equity = in->points > 0 ? sum / (double)in->points : 0;
}

void ana_prepare(struct keel_call *c, const struct ana_portfolio *p, size_t from, const struct ana_series *benchmark,
                 struct ana_analysis *a)
{
    const struct ana_state *s = c->state;
    const struct ana_options *o = keel_options(c->rt);
    struct ana_input *in = &a->in;
    size_t n = p->curve.n > from ? p->curve.n - from : 0;

    *a = (struct ana_analysis){.in = {.points = n,
                                      .ppy = s->ppy,
                                      .min_returns = (size_t)o->min_returns,
                                      .seed = (uint64_t)o->bootstrap_seed,
                                      .arena = c->arena}};
    in->steps = (struct ana_steps){.growth = keel_arena_array(c->arena, n, sizeof(double)),
                                   .returns = keel_arena_array(c->arena, n, sizeof(double)),
                                   .period = keel_arena_array(c->arena, n, sizeof(int64_t))};
    in->is_broken = ana_curve_steps(&p->curve, from, s->period_ns, &in->steps) != KEEL_OK;
    if (n > 1)
        in->has_day = ana_growth(ana_curve_at(&p->curve, ana_curve_day_base(&p->curve)),
                                 ana_curve_at(&p->curve, p->curve.n - 1), &in->day_change) == KEEL_OK;
    mean_equity(&p->curve, from, in);
    in->trades = ana_trades_since(&p->trades, from > 0 && n > 0 ? ana_curve_start(&p->curve, from) : INT64_MIN);
    if (benchmark) {
        in->own = keel_arena_array(c->arena, in->steps.n_returns, sizeof(double));
        in->bench = keel_arena_array(c->arena, in->steps.n_returns, sizeof(double));
        in->n_pairs = ana_pair(in->steps.returns, in->steps.period, in->steps.n_returns, benchmark, in->own, in->bench);
    }
}

/* The standard level, at most once a second a portfolio. */
static enum keel_status publish(struct keel_call *c, struct ana_portfolio *p)
{
    struct ana_analysis *a = keel_arena_alloc(c->arena, sizeof *a);
    struct keel_named *named = keel_arena_array(c->arena, MAX_MAP, sizeof *named);
    struct keel_analytics r = {.portfolio_id = p->id,
                               .has_portfolio_id = true,
                               .timestamp = p->ts,
                               .has_timestamp = true,
                               .complexity = "standard",
                               .has_complexity = true,
                               .equity = p->equity,
                               .has_equity = p->has_equity,
                               .has_data_points = true,
                               .metrics = named,
                               .has_metrics = true};
    enum keel_status st;

    if (p->published_ns != 0 && c->start_ns - p->published_ns < PUBLISH_NS)
        return KEEL_OK;
    ana_prepare(c, p, 0, NULL, a);
    ana_simple(a);
    ana_standard(a);
    r.data_points = (int64_t)a->in.points;
    for (int f = 0; f < ANA_N; f++)
        if (a->value[f].is_defined)
            named[r.n_metrics++] =
                (struct keel_named){ana_figure_defs[f].name, a->value[f].value * ana_figure_defs[f].factor};
    st = keel_publish(c, "analytics.realtime", p->id, 0, 0, &r);
    if (st == KEEL_OK)
        p->published_ns = c->start_ns;
    return st;
}

/* ---- records ---- */

enum keel_status bus_account(struct keel_call *c)
{
    const struct keel_account *r = c->arg;
    struct ana_portfolio *p = ana_portfolio_of(c, r->portfolio_id);
    struct ana_point point = {.ts = c->rec->ts_init != 0 ? c->rec->ts_init : keel_session_ns(c->rt),
                              .equity = r->equity,
                              .fill_no = r->last_fill_no};

    if (!p || !r->has_equity || !r->has_equity_change)
        return KEEL_OK; /* without a mark its equity is unknown: no point */
    if (keel_money_sub(r->equity, r->equity_change, &point.capital) != KEEL_OK)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "equity_change", "equity less its change is out of range");
    add_point(c->state, p, point);
    return publish(c, p); /* the same record again is the same point */
}

static enum keel_status fill_apply(struct keel_call *c, struct ana_portfolio *p)
{
    const struct keel_fill *f = c->arg;
    struct ana_state *s = c->state;
    double quantity = keel_dec_to_f64(f->quantity);

    if (f->has_fill_no && f->fill_no > s->fill_no)
        s->fill_no = f->fill_no;
    if (f->has_fill_no && f->fill_no <= p->fill_no)
        return KEEL_OK;
    if (f->has_fill_no)
        p->fill_no = f->fill_no;
    if (ana_trades_fill(&p->trades, f->symbol, f->side == 1 ? -quantity : quantity, keel_dec_to_f64(f->price),
                        keel_money_to_f64(f->fee.amount),
                        c->rec->ts_init != 0 ? c->rec->ts_init : f->ts_event) != KEEL_OK)
        keel_log_often(KEEL_LOG_WARN, "holdings_full", "portfolio=%s symbol=%s", p->id, f->symbol);
    return KEEL_OK;
}

/* The first fill of a portfolio: what it held before decides what the fill closes. */
static enum keel_status fill_seeded(struct keel_call *c)
{
    struct ana_portfolio *p = c->ctx;
    enum keel_status st = keel_wait_status(c);

    if (st == KEEL_OK && c->peer.http == 404)
        return KEEL_OK;
    if (st == KEEL_OK && c->peer.http == 200)
        adopt(c->state, p, c->peer.json);
    if (!p->is_seeded)
        return keel_fail(c, KEEL_UNAVAILABLE, "portfolio does not say what %s holds", p->id);
    return fill_apply(c, p);
}

enum keel_status bus_fill(struct keel_call *c)
{
    const struct keel_fill *f = c->arg;
    struct ana_portfolio *p = ana_portfolio_of(c, f->portfolio_id);
    struct keel_peer_req req = {
        .peer = "portfolio", .method = "GET", .path = ana_portfolio_path(c->arena, f->portfolio_id)};

    if (!p)
        return KEEL_OK;
    if (p->is_seeded)
        return fill_apply(c, p);
    c->ctx = p;
    return keel_await_peer(c, &req, fill_seeded);
}

static bool is_due(struct keel_call *c)
{
    const struct ana_state *s = c->state;

    return c->start_ns >= s->asking_until_ns &&
           (s->look_again || ana_period(keel_session_ns(c->rt), s->period_ns) != s->sampled);
}

enum keel_status bus_bar(struct keel_call *c)
{
    const struct keel_bar *b = c->arg;
    struct ana_state *s = c->state;
    enum keel_status st = ana_market_bar(&s->market, b->symbol, keel_dec_to_f64(b->close), b->ts_close, s->period_ns);

    if (st == KEEL_INVALID)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "close", "close must be > 0");
    if (st != KEEL_OK)
        keel_log_often(KEEL_LOG_WARN, "symbols_full", "symbol=%s max_symbols=%zu", b->symbol, s->market.cap);
    if (is_due(c))
        (void)keel_spawn(c, "sample", NULL); /* not taken: the timer asks again */
    return KEEL_OK;
}

/* ---- one look a period ---- */

/* A look just after a boundary shows what the period before ended with; one that comes later belongs to its own. */
static int64_t sample_ts(const struct ana_state *s, const struct ana_portfolio *p, int64_t now_ns)
{
    int64_t boundary = ana_period(now_ns, s->period_ns) * s->period_ns;
    int64_t last = p->curve.n > 0 ? ana_curve_at(&p->curve, p->curve.n - 1)->ts : INT64_MIN;

    return now_ns - boundary <= s->period_ns / 10 && last < boundary ? boundary - 1 : now_ns;
}

static enum keel_status sampled(struct keel_call *c)
{
    struct ana_state *s = c->state;
    const struct keel_jval *list = keel_jget(c->peer.json, "portfolios");
    int64_t now = keel_session_ns(c->rt);
    enum keel_status st = KEEL_OK;

    s->asking_until_ns = 0;
    if (keel_wait_status(c) != KEEL_OK || c->peer.http != 200 || !list || list->type != KEEL_JARR) {
        s->look_again = true;
        return KEEL_OK; /* its breaker and its health tell */
    }
    bool again = s->look_again; /* for one that was met since the question */
    s->sampled = ana_period(now, s->period_ns);
    for (const struct keel_jval *v = list->child; v; v = v->next) {
        struct ana_portfolio *p = ana_portfolio_of(c, keel_jstr(v, "portfolio_id"));
        if (!p || ana_observe(s, p, v, sample_ts(s, p, now)) != KEEL_OK || !p->has_equity)
            continue;
        enum keel_status one = publish(c, p);
        st = st == KEEL_OK ? one : st;
    }
    s->look_again = again;
    return st;
}

enum keel_status timer_sample(struct keel_call *c)
{
    struct ana_state *s = c->state;
    const struct keel_peer_req req = {
        .peer = "portfolio", .method = "GET", .path = "/portfolios?limit=1000", .budget_ns = SAMPLE_NS};

    if (!is_due(c))
        return KEEL_OK;
    s->look_again = false;
    s->asking_until_ns = c->start_ns + SAMPLE_NS;
    return keel_await_peer(c, &req, sampled);
}
