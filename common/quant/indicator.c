/* Streaming indicators: see indicator.h for conventions and sources. */
#include "indicator.h"

#include <math.h>

void ind_window_init(struct ind_window *w, uint32_t n)
{
    *w = (struct ind_window){.n = n};
}

static void recompute(struct ind_window *w)
{
    double sum = 0;

    for (uint32_t i = 0; i < w->have; i++)
        sum += w->x[i];
    w->mean = sum / w->have;
    w->m2 = 0;
    for (uint32_t i = 0; i < w->have; i++)
        w->m2 += (w->x[i] - w->mean) * (w->x[i] - w->mean);
}

void ind_window_add(struct ind_window *w, double x)
{
    double old = w->x[w->at], before = w->mean;

    w->x[w->at] = x;
    w->at = (w->at + 1) % w->n;
    if (w->have < w->n) {
        w->have++;
        w->mean += (x - before) / w->have;
        w->m2 += (x - before) * (x - w->mean);
    } else {
        w->mean += (x - old) / w->n;
        w->m2 += (x - old) * (x - w->mean + old - before);
    }
    if (w->at == 0)
        recompute(w);
}

bool ind_window_ready(const struct ind_window *w)
{
    return w->have == w->n;
}

double ind_window_ago(const struct ind_window *w, uint32_t k)
{
    return w->x[(w->at + 2 * w->n - 1 - k) % w->n];
}

double ind_window_sd(const struct ind_window *w)
{
    return w->m2 > 0 ? sqrt(w->m2 / w->n) : 0;
}

double ind_window_ssd(const struct ind_window *w)
{
    return w->m2 > 0 && w->n > 1 ? sqrt(w->m2 / (w->n - 1)) : 0;
}

void ind_ema_init(struct ind_ema *e, uint32_t n)
{
    *e = (struct ind_ema){.n = n};
}

void ind_ema_add(struct ind_ema *e, double x)
{
    if (e->have < e->n) {
        e->seed += x;
        if (++e->have == e->n)
            e->value = e->seed / e->n;
        return;
    }
    e->value += (x - e->value) * 2.0 / (e->n + 1.0);
}

bool ind_ema_ready(const struct ind_ema *e)
{
    return e->have == e->n;
}

void ind_rsi_init(struct ind_rsi *r, uint32_t n)
{
    *r = (struct ind_rsi){.n = n};
}

/* have counts values; the first gives no change. */
void ind_rsi_add(struct ind_rsi *r, double x)
{
    double change = x - r->last, up = change > 0 ? change : 0, down = change < 0 ? -change : 0;

    r->last = x;
    if (r->have == 0) {
        r->have = 1;
        return;
    }
    if (r->have <= r->n) {
        r->gain += up;
        r->loss += down;
        if (r->have++ == r->n) {
            r->gain /= r->n;
            r->loss /= r->n;
        }
        return;
    }
    r->gain += (up - r->gain) / r->n;
    r->loss += (down - r->loss) / r->n;
}

bool ind_rsi_ready(const struct ind_rsi *r)
{
    return r->have > r->n;
}

double ind_rsi_value(const struct ind_rsi *r)
{
    double all = r->gain + r->loss;

    return all > 0 ? 100.0 * r->gain / all : 50.0;
}

void ind_macd_init(struct ind_macd *m, uint32_t fast, uint32_t slow, uint32_t signal)
{
    m->seen = 0;
    ind_ema_init(&m->fast, fast);
    ind_ema_init(&m->slow, slow);
    ind_ema_init(&m->signal, signal);
}

void ind_macd_add(struct ind_macd *m, double x)
{
    ind_ema_add(&m->slow, x);
    if (m->seen++ >= m->slow.n - m->fast.n)
        ind_ema_add(&m->fast, x);
    if (ind_macd_ready(m))
        ind_ema_add(&m->signal, ind_macd_value(m));
}

bool ind_macd_ready(const struct ind_macd *m)
{
    return ind_ema_ready(&m->slow);
}

double ind_macd_value(const struct ind_macd *m)
{
    return m->fast.value - m->slow.value;
}

void ind_atr_init(struct ind_atr *a, uint32_t n)
{
    *a = (struct ind_atr){.n = n};
}

void ind_atr_add(struct ind_atr *a, double high, double low, double close)
{
    double range = fmax(high - low, fmax(fabs(high - a->close), fabs(low - a->close)));

    a->close = close;
    if (!a->started) {
        a->started = true;
        return;
    }
    if (a->have < a->n) {
        a->seed += range;
        if (++a->have == a->n)
            a->value = a->seed / a->n;
        return;
    }
    a->value += (range - a->value) / a->n;
}

bool ind_atr_ready(const struct ind_atr *a)
{
    return a->have == a->n;
}

/* Neumaier (1974). */
static void add(double *sum, double *c, double x)
{
    double t = *sum + x;

    *c += fabs(*sum) >= fabs(x) ? (*sum - t) + x : (x - t) + *sum;
    *sum = t;
}

void ind_vwap_add(struct ind_vwap *w, double price, double volume)
{
    add(&w->pv, &w->pv_c, price * volume);
    add(&w->v, &w->v_c, volume);
}

bool ind_vwap_ready(const struct ind_vwap *w)
{
    return w->v + w->v_c > 0;
}

double ind_vwap_value(const struct ind_vwap *w)
{
    return (w->pv + w->pv_c) / (w->v + w->v_c);
}

bool ind_microprice(const struct ind_quote *q, double *out)
{
    double size = q->bid_size + q->ask_size;

    if (!(size > 0))
        return false;
    *out = (q->bid * q->ask_size + q->ask * q->bid_size) / size;
    return true;
}

bool ind_imbalance(double bid_size, double ask_size, double *out)
{
    if (!(bid_size + ask_size > 0))
        return false;
    *out = (bid_size - ask_size) / (bid_size + ask_size);
    return true;
}

bool ind_spread_bps(const struct ind_quote *q, double *out)
{
    double mid = (q->bid + q->ask) / 2;

    if (!(mid > 0))
        return false;
    *out = 1e4 * (q->ask - q->bid) / mid;
    return true;
}

double ind_ofi(const struct ind_quote *before, const struct ind_quote *now)
{
    double e = 0;

    if (now->bid >= before->bid)
        e += now->bid_size;
    if (now->bid <= before->bid)
        e -= before->bid_size;
    if (now->ask <= before->ask)
        e -= now->ask_size;
    if (now->ask >= before->ask)
        e += before->ask_size;
    return e;
}
