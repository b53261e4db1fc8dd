/* The feature set: which indicators there are and how a bar, a quote or a book reaches them. */
#include "feature_set.h"

#include <math.h>

#define DAY_NS 86400000000000LL

const struct feat_def feat_defs[FEAT_N] = {
#define X(id, name, type, params, need, help) {name, type, params, help, need},
    FEAT_MAP(X)
#undef X
};

void feat_init(struct feat_set *s)
{
    *s = (struct feat_set){.day = INT64_MIN};
    ind_window_init(&s->sma10, 10);
    ind_window_init(&s->sma20, 20);
    ind_window_init(&s->sma50, 50);
    ind_window_init(&s->returns, 20);
    ind_window_init(&s->closes, 11);
    ind_window_init(&s->volumes, 20);
    ind_ema_init(&s->ema12, 12);
    ind_ema_init(&s->ema26, 26);
    ind_rsi_init(&s->rsi, 14);
    ind_macd_init(&s->macd, 12, 26, 9);
    ind_atr_init(&s->atr, 14);
}

void feat_add_bar(struct feat_set *s, const struct feat_bar *bar)
{
    int64_t day = (bar->ts_close - 1) / DAY_NS; /* a bar that closes at midnight belongs to the day before */

    if (bar->ts_close != 0 && day != s->day) {
        s->vwap = (struct ind_vwap){0};
        s->day = day;
    }
    if (s->bars > 0)
        ind_window_add(&s->returns, log(bar->close / s->last_close));
    ind_window_add(&s->sma10, bar->close);
    ind_window_add(&s->sma20, bar->close);
    ind_window_add(&s->sma50, bar->close);
    ind_window_add(&s->closes, bar->close);
    ind_ema_add(&s->ema12, bar->close);
    ind_ema_add(&s->ema26, bar->close);
    ind_rsi_add(&s->rsi, bar->close);
    ind_macd_add(&s->macd, bar->close);
    if (bar->has_range)
        ind_atr_add(&s->atr, bar->high, bar->low, bar->close);
    if (bar->has_volume) {
        ind_window_add(&s->volumes, bar->volume);
        ind_vwap_add(&s->vwap, bar->has_vwap ? bar->vwap : bar->close, bar->volume);
    }
    s->last_close = bar->close;
    s->ts_close = bar->ts_close;
    s->ofi_closed = s->ofi;
    s->ofi = 0;
    s->bars++;
}

void feat_add_quote(struct feat_set *s, const struct ind_quote *q)
{
    if (s->quotes > 0)
        s->ofi += ind_ofi(&s->quote, q);
    s->quote = *q;
    if (s->quotes < UINT32_MAX)
        s->quotes++;
}

void feat_add_book(struct feat_set *s, double bid_size, double ask_size)
{
    s->book_bid = bid_size;
    s->book_ask = ask_size;
}

static void set(struct feat_value *v, bool ready, uint32_t have, double value)
{
    v->ready = ready && isfinite(value);
    v->value = v->ready ? value : 0;
    v->have = have;
}

static void bands(const struct feat_set *s, enum feat_id id, struct feat_value *v)
{
    const struct ind_window *w = &s->sma20;
    double half = 2 * ind_window_sd(w), value = w->mean;

    if (id == FEAT_BB_UPPER)
        value = w->mean + half;
    else if (id == FEAT_BB_LOWER)
        value = w->mean - half;
    else if (id == FEAT_BB_WIDTH)
        value = w->mean > 0 ? 2 * half / w->mean : NAN;
    set(v, ind_window_ready(w), w->have, value);
}

static void macd(const struct feat_set *s, enum feat_id id, struct feat_value *v)
{
    const struct ind_macd *m = &s->macd;
    double value = ind_macd_value(m);

    if (id == FEAT_MACD) {
        set(v, ind_macd_ready(m), m->slow.have, value);
        return;
    }
    set(v, ind_ema_ready(&m->signal), m->slow.have + (m->signal.have ? m->signal.have - 1 : 0),
        id == FEAT_MACD_SIGNAL ? m->signal.value : value - m->signal.value);
}

static void micro(const struct feat_set *s, enum feat_id id, struct feat_value *v)
{
    double value = 0;
    bool ok = s->quotes > 0;

    if (id == FEAT_MICROPRICE)
        ok = ok && ind_microprice(&s->quote, &value);
    else if (id == FEAT_SPREAD_BPS)
        ok = ok && ind_spread_bps(&s->quote, &value);
    else if (id == FEAT_BOOK_IMBALANCE)
        ok = ind_imbalance(s->book_bid, s->book_ask, &value) ||
             (ok && ind_imbalance(s->quote.bid_size, s->quote.ask_size, &value));
    else {
        ok = s->quotes > 1 && s->bars > 0;
        value = s->ofi_closed;
    }
    set(v, ok, s->quotes > 2 ? 2 : s->quotes, value);
}

void feat_get(const struct feat_set *s, enum feat_id id, struct feat_value *v)
{
    const struct ind_window *c = &s->closes;

    switch (id) {
    case FEAT_SMA_10:
        set(v, ind_window_ready(&s->sma10), s->sma10.have, s->sma10.mean);
        break;
    case FEAT_SMA_20:
        set(v, ind_window_ready(&s->sma20), s->sma20.have, s->sma20.mean);
        break;
    case FEAT_SMA_50:
        set(v, ind_window_ready(&s->sma50), s->sma50.have, s->sma50.mean);
        break;
    case FEAT_EMA_12:
        set(v, ind_ema_ready(&s->ema12), s->ema12.have, s->ema12.value);
        break;
    case FEAT_EMA_26:
        set(v, ind_ema_ready(&s->ema26), s->ema26.have, s->ema26.value);
        break;
    case FEAT_RSI_14:
        set(v, ind_rsi_ready(&s->rsi), s->rsi.have, ind_rsi_value(&s->rsi));
        break;
    case FEAT_MACD:
    case FEAT_MACD_SIGNAL:
    case FEAT_MACD_HISTOGRAM:
        macd(s, id, v);
        break;
    case FEAT_BB_UPPER:
    case FEAT_BB_MIDDLE:
    case FEAT_BB_LOWER:
    case FEAT_BB_WIDTH:
        bands(s, id, v);
        break;
    case FEAT_ATR_14:
        set(v, ind_atr_ready(&s->atr), s->atr.have + s->atr.started, s->atr.value);
        break;
    case FEAT_REALIZED_VOL_20:
        set(v, ind_window_ready(&s->returns), s->returns.have + (s->bars > 0), ind_window_ssd(&s->returns));
        break;
    case FEAT_MOMENTUM_10:
        set(v, ind_window_ready(c), c->have, ind_window_ago(c, 0) - ind_window_ago(c, 10));
        break;
    case FEAT_ROC_10:
        set(v, ind_window_ready(c), c->have, 100 * (ind_window_ago(c, 0) / ind_window_ago(c, 10) - 1));
        break;
    case FEAT_VWAP:
        set(v, ind_vwap_ready(&s->vwap), ind_vwap_ready(&s->vwap), ind_vwap_value(&s->vwap));
        break;
    case FEAT_VOLUME_SMA_20:
        set(v, ind_window_ready(&s->volumes), s->volumes.have, s->volumes.mean);
        break;
    default:
        micro(s, id, v);
    }
}

static uint64_t fnv(uint64_t h, const char *s)
{
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 1099511628211u;
    return (h ^ ';') * 1099511628211u;
}

void feat_schema_hash(char out[17])
{
    uint64_t h = 14695981039346656037u;

    for (int i = 0; i < FEAT_N; i++)
        h = fnv(fnv(h, feat_defs[i].name), feat_defs[i].params);
    for (int i = 0; i < 16; i++)
        out[i] = "0123456789abcdef"[(h >> (60 - 4 * i)) & 15];
    out[16] = 0;
}
