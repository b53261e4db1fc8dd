/* Bar by bar: what rests and what was signalled meets the bar, then the bar's close is seen. */
#include "backtest.h"

#include <string.h>

#include "feature_set.h"
#include "performance.h"
#include "venue.h"

#define DAY_NS  86400000000000LL
#define YEAR_NS (365 * DAY_NS)
#define LOOK    256 /* bars between two looks at *stop */

const char *const backtest_measure_names[BACKTEST_N] = {
#define X(id, name, factor) name,
    BACKTEST_MEASURES(X)
#undef X
};
const double backtest_measure_factors[BACKTEST_N] = {
#define X(id, name, factor) factor,
    BACKTEST_MEASURES(X)
#undef X
};

/* ---- what may be run ---- */

const char *backtest_bar_wrong(const struct backtest_bar *b, const struct backtest_bar *before,
                               const char **field)
{
    *field = "low";
    if (b->low <= 0)
        return "prices must be > 0";
    if (b->low > b->open || b->low > b->close)
        return "low must not be above open or close";
    *field = "high";
    if (b->high < b->open || b->high < b->close)
        return "high must not be below open or close";
    *field = "volume";
    if (b->volume < 0)
        return "volume must be >= 0";
    *field = "vwap";
    if (b->has_vwap && b->vwap <= 0)
        return "vwap must be > 0";
    *field = "ts_close";
    return before == NULL || b->ts_close > before->ts_close
               ? NULL
               : "bars must be in order: ts_close must be later than that of the bar before";
}

/* FEAT_N: there is none of that name. */
static enum feat_id feature_of(const char *name)
{
    size_t i = 0;

    while (i < FEAT_N && strcmp(feat_defs[i].name, name) != 0)
        i++;
    return (enum feat_id)i;
}

const char *backtest_rule_wrong(const struct signal_rule *r, struct keel_arena *a)
{
    char name[SIGNAL_INPUTS][SIGNAL_NAME_LEN];
    size_t n = signal_inputs(r, name);

    if (r->kind == SIGNAL_MODEL)
        return "a model's predictions of the past are not kept: only rules on bars can be tested";
    for (size_t k = 0; k < n; k++) {
        enum feat_id id = feature_of(name[k]);

        if (id == FEAT_N)
            return keel_arena_printf(a, "there is no feature %s", name[k]);
        if (strcmp(feat_defs[id].type, "microstructure") == 0)
            return keel_arena_printf(a, "%s is of quotes, which bars do not show", name[k]);
    }
    return NULL;
}

/* ---- a run ---- */

struct resting {
    enum order_side side;
    int64_t price, leaves, created_ns;
    bool filled; /* in part */
};

struct run {
    const struct backtest_conf *conf;
    const struct backtest_bar *bar;
    size_t n;
    struct backtest_result *out;
    struct feat_set features;
    enum feat_id input[SIGNAL_INPUTS];
    size_t n_inputs;
    struct signal_memory memory;
    struct keel_arena *reasons; /* of a signal: nobody reads them */
    struct resting open[BACKTEST_OPEN];
    size_t n_open;
    struct venue_ticket order; /* that arrives at the next open; quantity 0: none */
    int64_t left;              /* quantity that may still fill in the bar at hand */
};

/* Bid and ask around a price, half the spread away, rounded against us; 0: there is none. */
static void quote(const struct run *r, int64_t price, int64_t *bid, int64_t *ask)
{
    int64_t half = (r->conf->spread + 1) / 2;
    int64_t away = (int64_t)(((keel_i128)price * half + KEEL_SCALE - 1) / KEEL_SCALE);

    if (keel_dec_sub(price, away, bid) != KEEL_OK)
        *bid = 0;
    if (keel_dec_add(price, away, ask) != KEEL_OK)
        *ask = 0;
}

static enum keel_status take(struct run *r, enum order_side side, int64_t price, int64_t quantity,
                             bool maker, int64_t ts)
{
    struct backtest_result *o = r->out;
    struct backtest_fill f = {
        .ts = ts, .price = price, .quantity = quantity, .side = side, .maker = maker};
    int64_t held = o->position.quantity;
    keel_i128 notional, cash, net;

    if (venue_fee(price, quantity, maker ? r->conf->maker_rate : r->conf->taker_rate, &notional,
                  &f.fee) != KEEL_OK ||
        order_position_fill(&o->position, side, quantity, notional, f.fee, &f.realized) !=
            KEEL_OK ||
        keel_money_add(o->cash, side == ORDER_BUY ? -notional : notional, &cash) != KEEL_OK ||
        keel_money_sub(cash, f.fee, &o->cash) != KEEL_OK ||
        keel_money_add(o->traded, notional, &o->traded) != KEEL_OK ||
        keel_money_sub(f.realized, f.fee, &net) != KEEL_OK)
        return KEEL_TOOBIG;
    if (side == ORDER_BUY ? held < 0 : held > 0) {
        o->trades++;
        o->wins += net > 0;
        if (keel_money_add(o->won, net > 0 ? net : 0, &o->won) != KEEL_OK ||
            keel_money_add(o->lost, net < 0 ? -net : 0, &o->lost) != KEEL_OK)
            return KEEL_TOOBIG;
    }
    if (o->fills < BACKTEST_FILLS)
        o->fill[o->fills] = f;
    o->fills++;
    r->left -= quantity;
    return KEEL_OK;
}

/* What the bar's open shows, of what may still fill. */
static void show(const struct run *r, const struct backtest_bar *b, struct venue_book *book)
{
    struct venue_level bid = {.size = r->left}, ask = {.size = r->left};

    *book = (struct venue_book){.state = VENUE_LIVE};
    quote(r, b->open, &bid.price, &ask.price);
    venue_show(&book->side[ORDER_BUY], &bid, 1);
    venue_show(&book->side[ORDER_SELL], &ask, 1);
}

static void leave(struct run *r, size_t i)
{
    r->out->unfilled += !r->open[i].filled;
    r->n_open--;
    memmove(&r->open[i], &r->open[i + 1], (r->n_open - i) * sizeof r->open[0]);
}

static enum keel_status fill_resting(struct run *r, size_t i, int64_t quantity, int64_t ts)
{
    struct resting *o = &r->open[i];

    if (quantity > r->left)
        quantity = r->left;
    if (quantity == 0)
        return KEEL_OK;
    o->leaves -= quantity;
    o->filled = true;
    return take(r, o->side, o->price, quantity, true, ts);
}

/* What a resting order gets at the bar's open or, when the range goes through its price, inside. */
static int64_t gets(const struct run *r, const struct resting *o, const struct backtest_bar *b,
                    bool at_open)
{
    struct venue_book book;

    if (!at_open)
        return venue_through(o->side, o->price, o->side == ORDER_BUY ? b->low : b->high) ? o->leaves
                                                                                        : 0;
    show(r, b, &book);
    return venue_cross(&book, o->side, o->price, o->leaves);
}

/* Oldest first. */
static enum keel_status meet_resting(struct run *r, const struct backtest_bar *b, bool at_open,
                                     int64_t ts)
{
    for (size_t i = 0; i < r->n_open;) {
        enum keel_status st = fill_resting(r, i, gets(r, &r->open[i], b, at_open), ts);

        if (st != KEEL_OK)
            return st;
        if (r->open[i].leaves == 0)
            leave(r, i);
        else
            i++;
    }
    return KEEL_OK;
}

static enum keel_status meet_order(struct run *r, const struct backtest_bar *b, int64_t ts)
{
    struct venue_book book;
    struct venue_result res;
    int64_t leaves = r->order.quantity;

    if (leaves == 0)
        return KEEL_OK;
    show(r, b, &book);
    venue_arrive(&book, &r->order, 0, 0, &res);
    for (size_t i = 0; i < res.n; i++) {
        enum keel_status st =
            take(r, r->order.side, res.match[i].price, res.match[i].quantity, false, ts);

        if (st != KEEL_OK)
            return st;
        leaves -= res.match[i].quantity;
    }
    if (res.verdict == VENUE_RESTS)
        r->open[r->n_open++] = (struct resting){.side = r->order.side,
                                                .price = r->order.price,
                                                .leaves = leaves,
                                                .created_ns = ts,
                                                .filled = res.n > 0};
    else
        r->out->unfilled += res.n == 0;
    r->order.quantity = 0;
    return KEEL_OK;
}

/* Orders of a day that is over; orders that rested too long. now: an instant of the bar. */
static void expire(struct run *r, int64_t now, bool by_age)
{
    for (size_t i = 0; i < r->n_open;) {
        const struct resting *o = &r->open[i];
        bool over = by_age ? r->conf->max_age_ns > 0 && now - o->created_ns >= r->conf->max_age_ns
                           : r->conf->tif == ORDER_DAY && now / DAY_NS != o->created_ns / DAY_NS;

        if (over)
            leave(r, i);
        else
            i++;
    }
}

/* ---- the close ---- */

static void see(struct run *r, const struct backtest_bar *b)
{
    feat_add_bar(&r->features,
                 &(struct feat_bar){.high = keel_dec_to_f64(b->high),
                                    .low = keel_dec_to_f64(b->low),
                                    .close = keel_dec_to_f64(b->close),
                                    .volume = keel_money_to_f64(b->volume),
                                    .vwap = keel_dec_to_f64(b->vwap),
                                    .has_range = true,
                                    .has_volume = true,
                                    .has_vwap = b->has_vwap,
                                    .ts_close = b->ts_close});
}

static bool inputs(const struct run *r, struct signal_view *v)
{
    for (size_t k = 0; k < r->n_inputs; k++) {
        struct feat_value f;

        feat_get(&r->features, r->input[k], &f);
        if (!f.ready)
            return false;
        v->value[k] = f.value;
    }
    return r->n_inputs > 0;
}

/* last: there is no bar in which an order could fill. */
static void consider(struct run *r, const struct backtest_bar *b, bool last)
{
    const struct backtest_conf *c = r->conf;
    struct signal_view v = {.close = b->close, .position = r->out->position.quantity};
    struct signal_wish wish;
    int64_t bid, ask, price = 0;

    for (size_t i = 0; i < r->n_open; i++)
        *(r->open[i].side == ORDER_BUY ? &v.open_buy : &v.open_sell) += r->open[i].leaves;
    keel_arena_reset(r->reasons);
    if (!inputs(r, &v) || !signal_next(c->rule, &r->memory, &v, r->reasons, &wish))
        return;
    r->out->signals++;
    quote(r, b->close, &bid, &ask);
    if (last || r->n_open == BACKTEST_OPEN ||
        (c->type == ORDER_LIMIT && signal_price(c->rule, wish.side, bid, ask, &price) != KEEL_OK)) {
        r->out->not_sent++;
        return;
    }
    r->order = (struct venue_ticket){.side = wish.side,
                                     .type = c->type,
                                     .tif = c->tif,
                                     .has_price = c->type == ORDER_LIMIT,
                                     .price = price,
                                     .quantity = wish.quantity};
}

static enum keel_status mark(struct run *r, size_t i)
{
    const struct order_position *p = &r->out->position;
    bool is_short = p->quantity < 0;
    keel_i128 value;

    if (keel_notional(r->bar[i].close, is_short ? -p->quantity : p->quantity, KEEL_SCALE,
                      &value) != KEEL_OK ||
        keel_money_add(r->out->cash, is_short ? -value : value, &r->out->equity[i]) != KEEL_OK)
        return KEEL_TOOBIG;
    r->out->in_market += p->quantity != 0;
    return KEEL_OK;
}

/* Share of the bar's volume that may fill; all there is when volume is no bound. */
static int64_t room(const struct run *r, const struct backtest_bar *b)
{
    keel_i128 share;

    if (r->conf->participation == 0 ||
        keel_money_rate(b->volume, r->conf->participation, &share) != KEEL_OK || share > INT64_MAX)
        return INT64_MAX;
    return (int64_t)share;
}

static enum keel_status step(struct run *r, size_t i)
{
    const struct backtest_bar *b = &r->bar[i];
    int64_t opened = i > 0 ? r->bar[i - 1].ts_close : b->ts_close;
    enum keel_status st;

    r->left = room(r, b);
    expire(r, b->ts_close - 1, false);
    if ((st = meet_resting(r, b, true, opened)) != KEEL_OK ||
        (st = meet_order(r, b, opened)) != KEEL_OK ||
        (st = meet_resting(r, b, false, b->ts_close)) != KEEL_OK)
        return st;
    expire(r, b->ts_close, true);
    see(r, b);
    if ((st = mark(r, i)) != KEEL_OK)
        return st;
    r->out->n = i + 1;
    r->out->ruined = r->out->equity[i] <= 0;
    if (!r->out->ruined)
        consider(r, b, i + 1 == r->n);
    return KEEL_OK;
}

/* ---- measures ---- */

static void put(struct backtest_result *out, enum backtest_measure id, enum keel_status st,
                double value, const char *why)
{
    out->measure[id] = (struct backtest_value){st == KEEL_OK ? value : 0, st == KEEL_OK ? NULL : why};
}

static void of_returns(const struct backtest_conf *c, const double *ret, size_t n,
                       struct keel_arena *a, const atomic_bool *stop, struct backtest_result *out)
{
    static const struct {
        enum backtest_measure id;
        perf_measure_fn *fn;
        const char *why;
    } row[] = {
        {BACKTEST_ANNUAL_RETURN, perf_annual_return, "it does not fit"},
        {BACKTEST_VOLATILITY, perf_volatility, "it does not fit"},
        {BACKTEST_SHARPE, perf_sharpe, "the returns do not vary"},
        {BACKTEST_SORTINO, perf_sortino, "no return is below 0"},
        {BACKTEST_CALMAR, perf_calmar, "there was no drawdown"},
    };
    struct perf_bootstrap b;
    double v = 0, high = 0;
    enum keel_status st;

    for (size_t i = 0; i < KEEL_COUNT(row); i++) {
        st = row[i].fn(ret, n, out->ppy, &v);
        put(out, row[i].id, st, v, row[i].why);
    }
    st = perf_probabilistic_sharpe(ret, n, &v);
    put(out, BACKTEST_PROBABILISTIC_SHARPE, st, v, "the returns do not vary");
    perf_bootstrap_init(&b, ret, n, out->ppy, c->resamples, c->seed, a);
    perf_bootstrap_run(&b, c->resamples, stop);
    st = perf_bootstrap_interval(&b, BACKTEST_CONFIDENCE, &v, &high);
    put(out, BACKTEST_SHARPE_LOW, st, v, "the resamples do not vary, or there are none");
    put(out, BACKTEST_SHARPE_HIGH, st, high, "the resamples do not vary, or there are none");
}

static void of_trades(struct backtest_result *o)
{
    put(o, BACKTEST_WIN_RATE, o->trades > 0 ? KEEL_OK : KEEL_UNDEFINED,
        o->trades > 0 ? (double)o->wins / (double)o->trades : 0, "nothing was closed");
    put(o, BACKTEST_PROFIT_FACTOR, o->lost > 0 ? KEEL_OK : KEEL_UNDEFINED,
        o->lost > 0 ? keel_money_to_f64(o->won) / keel_money_to_f64(o->lost) : 0,
        o->trades > 0 ? "no trade lost" : "nothing was closed");
}

/* Of the equity itself, so that they stand when it was used up. */
static void of_equity(const struct run *r)
{
    struct backtest_result *o = r->out;
    double peak = keel_money_to_f64(r->conf->cash), start = peak, worst = 0, now = peak;

    for (size_t i = 0; i < o->n; i++) {
        now = keel_money_to_f64(o->equity[i]);
        if (now > peak)
            peak = now;
        if ((peak - now) / peak > worst)
            worst = (peak - now) / peak;
    }
    put(o, BACKTEST_TOTAL_RETURN, KEEL_OK, now / start - 1, NULL);
    put(o, BACKTEST_MAX_DRAWDOWN, KEEL_OK, worst, NULL);
    put(o, BACKTEST_BUY_AND_HOLD, KEEL_OK,
        keel_dec_to_f64(r->bar[o->n - 1].close) / keel_dec_to_f64(r->bar[0].close) - 1, NULL);
}

static void measure(struct run *r, struct keel_arena *a, const atomic_bool *stop)
{
    struct backtest_result *o = r->out;
    size_t n = o->ruined ? 0 : o->n - 1;
    double *ret = keel_arena_array(a, n, sizeof *ret);
    const char *why = o->ruined ? "the equity was used up"
                                : keel_arena_printf(a, "%zu of %d returns", n, BACKTEST_MIN_RETURNS);

    o->ppy = r->conf->ppy > 0 ? r->conf->ppy
                              : (double)YEAR_NS * (double)(r->n - 1) /
                                    (double)(r->bar[r->n - 1].ts_close - r->bar[0].ts_close);
    for (size_t i = 0; i < n; i++)
        ret[i] = keel_money_to_f64(o->equity[i + 1]) / keel_money_to_f64(o->equity[i]) - 1;
    for (size_t i = 0; i < BACKTEST_N; i++)
        put(o, (enum backtest_measure)i, KEEL_UNDEFINED, 0, why);
    if (n >= BACKTEST_MIN_RETURNS)
        of_returns(r->conf, ret, n, a, stop, o);
    of_equity(r);
    of_trades(o);
}

enum keel_status backtest_run(const struct backtest_conf *conf, const struct backtest_bar *bars,
                              size_t n, struct keel_arena *a, const atomic_bool *stop,
                              struct backtest_result *out)
{
    char name[SIGNAL_INPUTS][SIGNAL_NAME_LEN];
    struct run *r = keel_arena_alloc(a, sizeof *r);
    enum keel_status st = KEEL_OK;

    *r = (struct run){.conf = conf, .bar = bars, .n = n, .out = out};
    *out = (struct backtest_result){.cash = conf->cash,
                                    .equity = keel_arena_array(a, n, sizeof *out->equity)};
    feat_init(&r->features);
    r->n_inputs = signal_inputs(conf->rule, name);
    for (size_t k = 0; k < r->n_inputs; k++)
        r->input[k] = feature_of(name[k]);
    r->reasons = keel_arena_new(512);
    for (size_t i = 0; i < n && st == KEEL_OK && !out->ruined; i++)
        st = i % LOOK == 0 && atomic_load(stop) ? KEEL_CANCELLED : step(r, i);
    keel_arena_free(r->reasons);
    out->resting = r->n_open;
    if (st == KEEL_OK) {
        measure(r, a, stop);
        st = atomic_load(stop) ? KEEL_CANCELLED : KEEL_OK;
    }
    return st;
}
