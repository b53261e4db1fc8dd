/* Equity curve, closed trades, returns of symbols: kept in rings, read as plain arrays. */
#include "curve.h"

#include <math.h>
#include <string.h>

#define DAY_NS 86400000000000LL

/* Place of element i of a ring. */
static size_t place(size_t first, size_t i, size_t cap)
{
    return (first + i) % cap;
}

/* Place for one more element; the oldest goes when there is no room. */
static size_t grow(size_t *first, size_t *n, size_t cap)
{
    if (*n < cap)
        return place(*first, (*n)++, cap);
    size_t at = *first;
    *first = place(*first, 1, cap);
    return at;
}

int64_t ana_period(int64_t ts, int64_t period_ns)
{
    return ts / period_ns - (ts % period_ns < 0);
}

/* ---- equity ---- */

const struct ana_point *ana_curve_at(const struct ana_curve *c, size_t i)
{
    return &c->at[place(c->first, i, c->cap)];
}

void ana_curve_add(struct ana_curve *c, const struct ana_point *p, int64_t period_ns)
{
    bool replaces = c->n > (c->is_open_set ? 1 : 0) &&
                    ana_period(ana_curve_at(c, c->n - 1)->ts, period_ns) == ana_period(p->ts, period_ns);

    if (!replaces && c->n == c->cap)
        c->is_open_set = false;
    c->at[replaces ? place(c->first, c->n - 1, c->cap) : grow(&c->first, &c->n, c->cap)] = *p;
}

void ana_curve_open(struct ana_curve *c, const struct ana_point *p)
{
    struct ana_point opening = *p;

    if (c->is_open_set || c->n == c->cap)
        return;
    if (c->n > 0 && opening.ts > ana_curve_at(c, 0)->ts)
        opening.ts = ana_curve_at(c, 0)->ts;
    c->first = place(c->first, c->cap - 1, c->cap);
    c->n++;
    c->at[c->first] = opening;
    c->is_open_set = true;
}

enum keel_status ana_growth(const struct ana_point *from, const struct ana_point *to, double *out)
{
    double base = keel_money_to_f64(from->equity);
    keel_i128 gain, flow;

    if (!(base > 0) || keel_money_sub(to->equity, from->equity, &gain) != KEEL_OK ||
        keel_money_sub(to->capital, from->capital, &flow) != KEEL_OK || keel_money_sub(gain, flow, &gain) != KEEL_OK)
        return KEEL_UNDEFINED;
    *out = keel_money_to_f64(gain) / base;
    return KEEL_OK;
}

enum keel_status ana_curve_steps(const struct ana_curve *c, size_t from, int64_t period_ns, struct ana_steps *out)
{
    out->n_growth = out->n_returns = 0;
    for (size_t i = from + 1; i < c->n; i++) {
        const struct ana_point *a = ana_curve_at(c, i - 1), *b = ana_curve_at(c, i);
        int64_t step = ana_period(b->ts, period_ns) - ana_period(a->ts, period_ns);
        double g;
        if (ana_growth(a, b, &g) != KEEL_OK)
            return KEEL_UNDEFINED;
        out->growth[out->n_growth++] = g;
        if (step != 0 && step != 1) /* 0: from the opening to the rest of its own period */
            continue;
        out->returns[out->n_returns] = g;
        out->period[out->n_returns++] = ana_period(b->ts, period_ns);
    }
    return KEEL_OK;
}

size_t ana_curve_since(const struct ana_curve *c, int64_t ts)
{
    size_t i = c->n;

    while (i > 0 && ana_curve_at(c, i - 1)->ts >= ts &&
           (i == c->n || ana_curve_at(c, i - 1)->ts <= ana_curve_at(c, i)->ts))
        i--;
    return i > 0 && i < c->n ? i - 1 : i;
}

int64_t ana_curve_start(const struct ana_curve *c, size_t i)
{
    bool is_other = i + 1 < c->n && ana_curve_at(c, i + 1)->ts < ana_curve_at(c, i)->ts;

    return ana_curve_at(c, i + is_other)->ts;
}

size_t ana_curve_day_base(const struct ana_curve *c)
{
    size_t i = c->n - 1;
    int64_t day = ana_period(ana_curve_at(c, i)->ts, DAY_NS);

    while (i > 0 && ana_period(ana_curve_at(c, i)->ts, DAY_NS) == day)
        i--;
    return i;
}

/* ---- trades ---- */

static struct ana_holding *holding_of(struct ana_trades *t, const char *symbol)
{
    for (size_t i = 0; i < t->n_holdings; i++)
        if (strcmp(t->holding[i].symbol, symbol) == 0)
            return &t->holding[i];
    return NULL;
}

enum keel_status ana_hold(struct ana_trades *t, const char *symbol, double quantity, double cost)
{
    struct ana_holding *h = holding_of(t, symbol);
    size_t len = strlen(symbol);

    if (quantity == 0) {
        if (h)
            *h = t->holding[--t->n_holdings];
        return KEEL_OK;
    }
    if (!h) {
        if (t->n_holdings == t->cap_holdings || len >= sizeof t->holding->symbol)
            return KEEL_TOOBIG;
        h = &t->holding[t->n_holdings++];
        memcpy(h->symbol, symbol, len + 1);
    }
    h->quantity = quantity;
    h->cost = cost;
    return KEEL_OK;
}

enum keel_status ana_trades_fill(struct ana_trades *t, const char *symbol, double signed_quantity, double price,
                                 double fee, int64_t ts)
{
    const struct ana_holding *h = holding_of(t, symbol);
    double held = h ? h->quantity : 0, cost = h ? h->cost : 0, after = held + signed_quantity;
    double closed = held * signed_quantity < 0 ? fmin(fabs(held), fabs(signed_quantity)) : 0;
    struct ana_trade trade = {.ts = ts, .notional = fabs(signed_quantity) * price, .closes = closed > 0};
    enum keel_status st;

    /* Quantities are multiples of 1e-9: what is less is the rounding of doubles. */
    if (fabs(after) < 5e-10)
        after = 0;
    if (closed > 0)
        trade.pnl = (price - cost) * copysign(closed, held) - fee * closed / fabs(signed_quantity);
    if (closed == 0)
        cost = (cost * fabs(held) + price * fabs(signed_quantity)) / fabs(after);
    else if (after * held < 0)
        cost = price;
    st = ana_hold(t, symbol, after, cost);
    if (st == KEEL_OK)
        t->at[grow(&t->first, &t->n, t->cap)] = trade;
    return st;
}

struct ana_trade_sums ana_trades_since(const struct ana_trades *t, int64_t ts)
{
    struct ana_trade_sums s = {0};

    for (size_t i = 0; i < t->n; i++) {
        const struct ana_trade *k = &t->at[place(t->first, i, t->cap)];
        if (k->ts < ts)
            continue;
        s.fills++;
        s.notional += k->notional;
        s.closed += k->closes;
        s.wins += k->closes && k->pnl > 0;
        s.profit += fmax(k->pnl, 0);
        s.loss += fmax(-k->pnl, 0);
    }
    return s;
}

/* ---- returns of symbols ---- */

const struct ana_return *ana_series_at(const struct ana_series *s, size_t i)
{
    return &s->at[place(s->first, i, s->cap)];
}

void ana_series_add(struct ana_series *s, int64_t period, double value)
{
    s->at[grow(&s->first, &s->n, s->cap)] = (struct ana_return){period, value};
}

struct ana_symbol *ana_symbol_find(const struct ana_market *m, const char *name)
{
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->symbol[i].name, name) == 0)
            return &m->symbol[i];
    return NULL;
}

static void start_series(struct ana_series *s)
{
    s->first = s->n = 0;
}

/* The period is over: its returns are known. */
static void close_period(struct ana_market *m)
{
    double sum = 0;
    size_t n = 0;

    for (size_t i = 0; i < m->n; i++) {
        struct ana_symbol *k = &m->symbol[i];
        if (k->bars == 0 || k->period != m->period || k->close_before == 0 || k->before != m->period - 1)
            continue;
        double value = k->close / k->close_before - 1;
        ana_series_add(&k->returns, m->period, value);
        sum += value;
        n++;
    }
    if (n > 0)
        ana_series_add(&m->returns, m->period, sum / (double)n);
}

/* Another, older session: what is known of the one before cannot be continued. */
static void start_again(struct ana_market *m)
{
    for (size_t i = 0; i < m->n; i++) {
        start_series(&m->symbol[i].returns);
        m->symbol[i].close_before = 0;
        m->symbol[i].bars = 0;
    }
    start_series(&m->returns);
}

static struct ana_symbol *symbol_new(struct ana_market *m, const char *name)
{
    size_t len = strlen(name);
    struct ana_symbol *k;

    if (m->n == m->cap || len >= sizeof k->name)
        return NULL;
    k = &m->symbol[m->n++];
    memcpy(k->name, name, len + 1);
    k->returns = (struct ana_series){.at = keel_alloc(m->series_cap, sizeof(struct ana_return)), .cap = m->series_cap};
    return k;
}

enum keel_status ana_market_bar(struct ana_market *m, const char *name, double close, int64_t ts_close,
                                int64_t period_ns)
{
    struct ana_symbol *k = ana_symbol_find(m, name);
    int64_t period =
        ana_period(ts_close - 1, period_ns); /* a bar that closes on the boundary belongs to the period before */

    if (!(close > 0))
        return KEEL_INVALID;
    if (!k && !(k = symbol_new(m, name)))
        return KEEL_TOOBIG;
    if (m->period - period > DAY_NS / period_ns)
        start_again(m);
    else if (period > m->period)
        close_period(m);
    else if (period < m->period)
        return KEEL_OK;
    m->period = period;
    if (k->bars > 0 && k->period != period) {
        k->before = k->period;
        k->close_before = k->close;
    }
    k->period = period;
    k->close = close;
    k->ts_close = ts_close;
    k->bars++;
    return KEEL_OK;
}

size_t ana_pair(const double *returns, const int64_t *period, size_t n, const struct ana_series *s, double *own,
                double *bench)
{
    size_t k = 0, j = 0;

    for (size_t i = 0; i < n; i++) {
        /* Periods rise, but for the start of another session: the search begins anew there. */
        if (i > 0 && period[i] < period[i - 1])
            j = 0;
        while (j < s->n && ana_series_at(s, j)->period < period[i])
            j++;
        if (j == s->n || ana_series_at(s, j)->period != period[i])
            continue;
        own[k] = returns[i];
        bench[k++] = ana_series_at(s, j)->value;
    }
    return k;
}
