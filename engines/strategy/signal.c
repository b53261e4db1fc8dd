/* The four rules differ only in which zone the figures are in; entering a zone, sizes and bounds
 * are common. */
#include "signal.h"

#include <math.h>
#include <string.h>

const char *signal_rule_wrong(const struct signal_rule *r)
{
    if (r->kind == SIGNAL_NONE)
        return "kind is missing: there is nothing to run";
    if (r->kind == SIGNAL_MA_CROSS && strcmp(r->fast, r->slow) == 0)
        return "fast and slow must be different averages";
    if (r->kind == SIGNAL_RSI_REVERSION &&
        !(r->rsi_low > 0 && r->rsi_low < r->rsi_high && r->rsi_high < 100))
        return "0 < rsi_low < rsi_high < 100 must hold";
    if (r->kind == SIGNAL_IMBALANCE && !(r->threshold > 0 && r->threshold < 1))
        return "threshold must be between 0 and 1";
    if (r->kind == SIGNAL_MODEL && !(r->threshold >= 0.5 && r->threshold < 1))
        return "threshold is a probability: 0.5 <= threshold < 1 must hold";
    if ((r->quantity > 0) == (r->notional > 0))
        return "exactly one of quantity and notional must be given";
    if (r->max_position <= 0)
        return "max_position must be given and > 0";
    return r->lot > 0 && r->tick > 0 ? NULL : "lot and tick must be > 0";
}

static void named(char *out, const char *name)
{
    memcpy(out, name, strlen(name) + 1);
}

size_t signal_inputs(const struct signal_rule *r, char name[SIGNAL_INPUTS][SIGNAL_NAME_LEN])
{
    switch (r->kind) {
    case SIGNAL_MA_CROSS:
        named(name[0], r->fast);
        named(name[1], r->slow);
        return 2;
    case SIGNAL_RSI_REVERSION:
        named(name[0], "rsi_14");
        return 1;
    case SIGNAL_IMBALANCE:
        named(name[0], "book_imbalance");
        return 1;
    case SIGNAL_MODEL:
    case SIGNAL_NONE:
        break;
    }
    return 0;
}

static int zone_of(const struct signal_rule *r, const struct signal_view *v, int before)
{
    double x = v->value[0];

    switch (r->kind) {
    case SIGNAL_MA_CROSS:
        /* Equal averages have not crossed: the side they were on stays. */
        return x > v->value[1] ? 1 : x < v->value[1] ? -1 : before;
    case SIGNAL_RSI_REVERSION:
        return x < r->rsi_low ? 1 : x > r->rsi_high ? -1 : 0;
    case SIGNAL_IMBALANCE:
        return x > r->threshold ? 1 : x < -r->threshold ? -1 : 0;
    case SIGNAL_MODEL:
        return x > r->threshold ? 1 : 1 - x > r->threshold ? -1 : 0;
    case SIGNAL_NONE:
        break;
    }
    return 0;
}

/* A size of the rule as a quantity. notional / close: both are at 1e-9, so money per price gives
 * units of 1e-9. */
static int64_t as_quantity(const struct signal_rule *r, int64_t size, int64_t close)
{
    int64_t q = size;

    if (r->notional > 0 && keel_money_per((keel_i128)size, close, &q) != KEEL_OK)
        return 0;
    return q;
}

static int64_t sized(const struct signal_rule *r, enum order_side side, const struct signal_view *v)
{
    int64_t most = as_quantity(r, r->max_position, v->close);
    int64_t q = as_quantity(r, r->notional > 0 ? r->notional : r->quantity, v->close);
    int64_t room = side == ORDER_BUY ? most - v->position - v->open_buy
                                     : v->position - v->open_sell + (r->long_only ? 0 : most);

    if (q > room)
        q = room;
    return q <= 0 ? 0 : q - q % r->lot;
}

static const char *reason_of(const struct signal_rule *r, const struct signal_view *v, bool buys,
                             struct keel_arena *a)
{
    char name[SIGNAL_INPUTS][SIGNAL_NAME_LEN] = {"", ""};

    signal_inputs(r, name);
    if (r->kind == SIGNAL_MA_CROSS)
        return keel_arena_printf(a, "%s %.9g crossed %s %s %.9g", name[0], v->value[0],
                                 buys ? "above" : "below", name[1], v->value[1]);
    if (r->kind == SIGNAL_RSI_REVERSION)
        return keel_arena_printf(a, "%s %.6g %s %.6g", name[0], v->value[0],
                                 buys ? "fell below" : "rose above",
                                 buys ? r->rsi_low : r->rsi_high);
    if (r->kind == SIGNAL_MODEL)
        return keel_arena_printf(a, "%s: %s with probability %.6g, above %.6g", r->model,
                                 buys ? "up" : "down", buys ? v->value[0] : 1 - v->value[0],
                                 r->threshold);
    return keel_arena_printf(a, "%s %.6g went beyond %.6g", name[0], v->value[0],
                             buys ? r->threshold : -r->threshold);
}

bool signal_next(const struct signal_rule *r, struct signal_memory *m, const struct signal_view *v,
                 struct keel_arena *a, struct signal_wish *out)
{
    int before = m->zone, zone = zone_of(r, v, before);
    bool enters = m->known && zone != before && zone != 0;

    /* Equal averages at the very first vector say nothing about a side. */
    m->known = m->known || r->kind != SIGNAL_MA_CROSS || zone != 0;
    m->zone = zone;
    if (!enters)
        return false;

    enum order_side side = zone > 0 ? ORDER_BUY : ORDER_SELL;
    int64_t q = sized(r, side, v);

    if (q == 0)
        return false;
    *out = (struct signal_wish){side, q, reason_of(r, v, side == ORDER_BUY, a)};
    return true;
}

enum keel_status signal_price(const struct signal_rule *r, enum order_side side, int64_t bid,
                              int64_t ask, int64_t *out)
{
    bool passive = r->price_offset_bps > 0;
    bool buys = side == ORDER_BUY;
    int64_t touch = buys == passive ? bid : ask, price;
    double away = fabs(r->price_offset_bps) * 1e-4;
    /* A passive buyer and an aggressive seller go down from the touch; the others up. */
    bool down = buys == passive;

    if (touch <= 0 ||
        keel_dec_from_f64(keel_dec_to_f64(touch) * (down ? 1 - away : 1 + away), &price) != KEEL_OK)
        return KEEL_UNDEFINED;
    /* To the tick in our favour: the limit is never worse than what was asked for. */
    price += price % r->tick == 0 ? 0 : buys ? -(price % r->tick) : r->tick - price % r->tick;
    if (price <= 0)
        return KEEL_UNDEFINED;
    *out = price;
    return KEEL_OK;
}
