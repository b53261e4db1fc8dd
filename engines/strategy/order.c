/*
 * The state machine is one table: which event is allowed in which states, and where it leads. Two
 * targets are not a state: BY_FILLS is what the filled quantity says, KEEP is where it is unless
 * the order is now complete; they carry the races (a fill before the acceptance, a fill while a
 * cancel is on its way, a late fill found by reconciliation).
 */
#include "order.h"

#define S(name) (1U << ORDER_##name)

enum { BY_FILLS = ORDER_N_STATE, KEEP };

#define RESTING (S(ACCEPTED) | S(TRIGGERED) | S(PARTIALLY_FILLED))
#define PENDING (S(PENDING_UPDATE) | S(PENDING_CANCEL))
#define LIVE    (S(SUBMITTED) | RESTING | PENDING | S(UNKNOWN))

static const struct {
    enum order_event event;
    unsigned from;
    int to;
} rule[] = {
    {ORDER_EV_DENY, S(INITIALIZED), ORDER_DENIED},
    {ORDER_EV_SUBMIT, S(INITIALIZED), ORDER_SUBMITTED},
    {ORDER_EV_ACCEPT, S(SUBMITTED) | S(UNKNOWN), BY_FILLS},
    {ORDER_EV_ACCEPT, S(PARTIALLY_FILLED) | PENDING, KEEP},
    {ORDER_EV_REJECT, S(SUBMITTED) | S(UNKNOWN) | S(PENDING_CANCEL), ORDER_REJECTED},
    {ORDER_EV_TRIGGER, S(ACCEPTED) | S(UNKNOWN), ORDER_TRIGGERED},
    {ORDER_EV_ASK_UPDATE, RESTING, ORDER_PENDING_UPDATE},
    {ORDER_EV_UPDATE, S(PENDING_UPDATE) | S(UNKNOWN), BY_FILLS},
    {ORDER_EV_UPDATE, S(PENDING_CANCEL), KEEP},
    {ORDER_EV_ASK_CANCEL, S(SUBMITTED) | S(PENDING_UPDATE) | RESTING, ORDER_PENDING_CANCEL},
    {ORDER_EV_REFUSE_CANCEL, S(PENDING_CANCEL) | S(UNKNOWN), BY_FILLS},
    {ORDER_EV_FILL, S(SUBMITTED) | S(UNKNOWN) | RESTING, BY_FILLS},
    {ORDER_EV_FILL, PENDING, KEEP},
    {ORDER_EV_CANCEL, LIVE, ORDER_CANCELED},
    {ORDER_EV_EXPIRE, LIVE, ORDER_EXPIRED},
    {ORDER_EV_LOSE, S(SUBMITTED) | PENDING, ORDER_UNKNOWN},
    {ORDER_EV_LATE_FILL, S(CANCELED) | S(EXPIRED), KEEP},
};

static const char *const state_name[ORDER_N_STATE] = {
    "INITIALIZED", "DENIED",         "SUBMITTED",      "ACCEPTED",         "REJECTED",
    "TRIGGERED",   "PENDING_UPDATE", "PENDING_CANCEL", "PARTIALLY_FILLED", "FILLED",
    "CANCELED",    "EXPIRED",        "UNKNOWN"};

static const char *const event_name[ORDER_N_EVENT] = {
    "denied",       "submitted", "accepted",     "rejected",       "triggered",
    "update_asked", "updated",   "cancel_asked", "cancel_refused", "filled",
    "canceled",     "expired",   "lost",         "filled_late"};

const char *order_state_name(enum order_state s)
{
    return state_name[s];
}

const char *order_event_name(enum order_event e)
{
    return event_name[e];
}

bool order_is_closed(enum order_state s)
{
    return ((1U << s) & (S(DENIED) | S(REJECTED) | S(FILLED) | S(CANCELED) | S(EXPIRED))) != 0;
}

int64_t order_leaves(const struct order *o)
{
    return order_is_closed(o->state) ? 0 : o->quantity - o->filled;
}

static bool find(enum order_state state, enum order_event ev, int64_t filled, int64_t quantity,
                 enum order_state *to)
{
    for (size_t i = 0; i < KEEL_COUNT(rule); i++) {
        if (rule[i].event != ev || (rule[i].from & (1U << state)) == 0)
            continue;
        if (rule[i].to < ORDER_N_STATE)
            *to = (enum order_state)rule[i].to;
        else if (filled == quantity)
            *to = ORDER_FILLED;
        else if (rule[i].to == KEEP)
            *to = state;
        else
            *to = filled > 0 ? ORDER_PARTIALLY_FILLED : ORDER_ACCEPTED;
        return true;
    }
    return false;
}

enum keel_status order_apply(struct order *o, enum order_event ev, int64_t ts_event)
{
    enum order_state to;

    if (ev == ORDER_EV_FILL || ev == ORDER_EV_LATE_FILL || (ev == ORDER_EV_REJECT && o->filled > 0))
        return KEEL_CONFLICT;
    if (!find(o->state, ev, o->filled, o->quantity, &to))
        return KEEL_CONFLICT;
    o->state = to;
    o->ts_event = ts_event;
    return KEEL_OK;
}

enum keel_status order_fill(struct order *o, enum order_event ev, const struct order_fill *f)
{
    enum order_state to;
    keel_i128 notional, fee, realized;

    if (ev != ORDER_EV_FILL && ev != ORDER_EV_LATE_FILL)
        return KEEL_CONFLICT;
    if (f->quantity <= 0 || f->quantity > o->quantity - o->filled)
        return KEEL_TOOBIG;
    if (!find(o->state, ev, o->filled + f->quantity, o->quantity, &to))
        return KEEL_CONFLICT;
    if (keel_money_add(o->notional, f->notional, &notional) != KEEL_OK ||
        keel_money_add(o->fee, f->fee, &fee) != KEEL_OK ||
        keel_money_add(o->realized, f->realized, &realized) != KEEL_OK)
        return KEEL_TOOBIG;
    o->filled += f->quantity;
    o->notional = notional;
    o->fee = fee;
    o->realized = realized;
    o->state = to;
    o->ts_event = f->ts_event;
    return KEEL_OK;
}

enum keel_status order_avg_price(const struct order *o, int64_t *out)
{
    return o->filled == 0 ? KEEL_UNDEFINED : keel_money_per(o->notional, o->filled, out);
}

static int64_t magnitude(int64_t v)
{
    return v < 0 ? -v : v;
}

enum keel_status order_position_fill(struct order_position *p, enum order_side side,
                                     int64_t quantity, keel_i128 notional, keel_i128 fee,
                                     keel_i128 *realized)
{
    struct order_position next = *p;
    int64_t sign = side == ORDER_BUY ? 1 : -1;
    bool closes = (p->quantity > 0 && sign < 0) || (p->quantity < 0 && sign > 0);
    int64_t held = magnitude(p->quantity);
    int64_t closed = !closes ? 0 : quantity < held ? quantity : held;
    keel_i128 out_notional = 0, out_cost = 0, gain = 0;

    if (quantity <= 0)
        return KEEL_INVALID;
    if (closed == quantity)
        out_notional = notional;
    else if (closed > 0 && keel_money_share(notional, closed, quantity, &out_notional) != KEEL_OK)
        return KEEL_TOOBIG;
    if (closed == held)
        out_cost = closes ? p->cost : 0;
    else if (closed > 0 && keel_money_share(p->cost, closed, held, &out_cost) != KEEL_OK)
        return KEEL_TOOBIG;

    if (closed > 0 && keel_money_sub(-sign * out_notional, out_cost, &gain) != KEEL_OK)
        return KEEL_TOOBIG;
    if (keel_dec_add(p->quantity, sign * quantity, &next.quantity) != KEEL_OK ||
        keel_money_sub(p->cost, out_cost, &next.cost) != KEEL_OK ||
        keel_money_add(next.cost, sign * (notional - out_notional), &next.cost) != KEEL_OK ||
        keel_money_add(p->realized, gain, &next.realized) != KEEL_OK ||
        keel_money_add(p->fees, fee, &next.fees) != KEEL_OK)
        return KEEL_TOOBIG;
    *p = next;
    *realized = gain;
    return KEEL_OK;
}

bool order_reduces(int64_t position, int64_t open, enum order_side side, int64_t quantity)
{
    bool opposite = side == ORDER_SELL ? position > 0 : position < 0;

    return opposite && quantity <= magnitude(position) - open;
}
