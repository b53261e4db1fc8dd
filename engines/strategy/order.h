/*
 * An order and what may happen to it; a position and what a fill does to it. Pure: the journal, the
 * venue and the clock are the caller's. Prices and quantities are at 1e-9, money is 128-bit at
 * 1e-9.
 */
#ifndef STRATEGY_ORDER_H
#define STRATEGY_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/num.h"
#include "keel/status.h"

/* Each in the order of the contract's names (KEEL_SIDES, KEEL_ORDER_TYPES, KEEL_TIFS,
 * KEEL_ORDER_STATES). */
enum order_side { ORDER_BUY, ORDER_SELL };
enum order_type { ORDER_MARKET, ORDER_LIMIT };
enum order_tif { ORDER_IOC, ORDER_FOK, ORDER_GTC, ORDER_DAY };
enum order_state {
    ORDER_INITIALIZED,
    ORDER_DENIED,
    ORDER_SUBMITTED,
    ORDER_ACCEPTED,
    ORDER_REJECTED,
    ORDER_TRIGGERED,
    ORDER_PENDING_UPDATE,
    ORDER_PENDING_CANCEL,
    ORDER_PARTIALLY_FILLED,
    ORDER_FILLED,
    ORDER_CANCELED,
    ORDER_EXPIRED,
    ORDER_UNKNOWN,
    ORDER_N_STATE
};

/*
 * What happens to an order. LOSE: no report came in time, only venue evidence (any event but LOSE)
 * ends the UNKNOWN it leads to. LATE_FILL: a fill that reconciliation found after the order was
 * closed; nothing else may bring one.
 */
enum order_event {
    ORDER_EV_DENY,
    ORDER_EV_SUBMIT,
    ORDER_EV_ACCEPT,
    ORDER_EV_REJECT,
    ORDER_EV_TRIGGER,
    ORDER_EV_ASK_UPDATE,
    ORDER_EV_UPDATE,
    ORDER_EV_ASK_CANCEL,
    ORDER_EV_REFUSE_CANCEL,
    ORDER_EV_FILL,
    ORDER_EV_CANCEL,
    ORDER_EV_EXPIRE,
    ORDER_EV_LOSE,
    ORDER_EV_LATE_FILL,
    ORDER_N_EVENT
};

#define ORDER_ID_LEN     64
#define ORDER_SYMBOL_LEN 32

struct order {
    char client_order_id[ORDER_ID_LEN + 1], venue_order_id[ORDER_ID_LEN + 1];
    char portfolio_id[ORDER_ID_LEN + 1], strategy_id[ORDER_ID_LEN + 1];
    char venue[33], symbol[ORDER_SYMBOL_LEN + 1], currency[13], reason[241];
    enum order_side side;
    enum order_type type;
    enum order_tif tif;
    enum order_state state;
    bool has_price, reduce_only, partially; /* partially: a report left it filled in part */
    int64_t price, quantity, filled;        /* filled <= quantity, always */
    keel_i128 notional, fee, realized;      /* sums over the fills; realized before fees */
    int64_t ts_event;                       /* of its last event, session time */
};

const char *order_state_name(enum order_state s);
const char *order_event_name(enum order_event e); /* "submitted", "filled", ... as in the journal */
bool order_is_closed(enum order_state s);         /* DENIED, REJECTED, FILLED, CANCELED, EXPIRED */
/* quantity - filled while it may still fill, else 0. */
int64_t order_leaves(const struct order *o);

/*
 * An event other than a fill. KEEL_CONFLICT: the state does not allow it (a REJECT after a fill
 * included); *o is unchanged.
 */
enum keel_status order_apply(struct order *o, enum order_event ev, int64_t ts_event);

/* One fill: quantity > 0, its notional, fee and realised P&L. */
struct order_fill {
    int64_t quantity, ts_event;
    keel_i128 notional, fee, realized;
};
/*
 * ev is ORDER_EV_FILL or ORDER_EV_LATE_FILL. KEEL_CONFLICT: the state does not allow it.
 * KEEL_TOOBIG: more than was ordered, or a sum overflows. *o is unchanged unless KEEL_OK.
 */
enum keel_status order_fill(struct order *o, enum order_event ev, const struct order_fill *f);
/* Mean price of the fills. KEEL_UNDEFINED without any. */
enum keel_status order_avg_price(const struct order *o, int64_t *out);

/* quantity is signed; cost has its sign: what was paid for a long, what was received for a short.
 */
struct order_position {
    int64_t quantity;
    keel_i128 cost, realized, fees;
};

/*
 * A fill of quantity > 0 with its notional > 0. What closes takes its rounded share of the cost
 * (all of it at the last unit) and of the notional; the rest opens. *realized: P&L of the part that
 * closed, before fees. At every time: sum of sales - sum of purchases = realized - cost, exactly.
 * KEEL_TOOBIG on overflow.
 */
enum keel_status order_position_fill(struct order_position *p, enum order_side side,
                                     int64_t quantity, keel_i128 notional, keel_i128 fee,
                                     keel_i128 *realized);
/* side lowers |position|, and by no more than what open orders of that side (open, > 0) leave of
 * it. */
bool order_reduces(int64_t position, int64_t open, enum order_side side, int64_t quantity);

#endif
