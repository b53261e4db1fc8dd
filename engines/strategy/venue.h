/*
 * How the paper venue matches: one order against what the market shows, levels best first. What it
 * took of a level stays taken until that level changes, so the same displayed size never fills
 * twice. Resting orders wait behind everybody: they fill only when the opposite side reaches their
 * price or a trade goes through it. Pure.
 */
#ifndef STRATEGY_VENUE_H
#define STRATEGY_VENUE_H

#include "order.h"

#define VENUE_LEVELS 10 /* a side, as marketdata.book shows */

enum venue_book_state {
    VENUE_SYNCING,
    VENUE_LIVE,
    VENUE_STALE,
    VENUE_DESYNC
}; /* as KEEL_BOOK_STATES */

struct venue_level {
    int64_t price, size, taken;
};
struct venue_depth {
    struct venue_level level[VENUE_LEVELS];
    size_t n;
}; /* best first */
struct venue_book {
    enum venue_book_state state;
    int64_t ts_ns;              /* session time when it was last shown */
    struct venue_depth side[2]; /* of ORDER_BUY: the bids; of ORDER_SELL: the asks */
};

/*
 * Replaces one side by the levels shown now, best first; those without price or size and those past
 * VENUE_LEVELS are left out. A level with the same price and size as before keeps what was taken of
 * it.
 */
void venue_show(struct venue_depth *d, const struct venue_level *shown, size_t n);

struct venue_ticket {
    enum order_side side;
    enum order_type type;
    enum order_tif tif;
    bool has_price; /* a MARKET order may have one: no fill is worse (the collar) */
    int64_t price, quantity;
};

enum venue_verdict { VENUE_RESTS, VENUE_FILLED, VENUE_CANCELED, VENUE_REJECTED };
struct venue_match {
    int64_t price, quantity;
};
struct venue_result {
    enum venue_verdict verdict;
    const char *reason; /* CANCELED, REJECTED: a constant word; else "" */
    struct venue_match match[VENUE_LEVELS];
    size_t n;
};

/*
 * An arriving order. b NULL: nothing was ever shown of the symbol. REJECTED without touching
 * anything: "no_liquidity" when nothing is shown (for MARKET: on the other side), "book_not_live"
 * unless it is LIVE and at most max_age_ns old. MARKET and IOC take what is there and cancel the
 * rest; FOK takes all or nothing; GTC and DAY rest with the rest.
 */
void venue_arrive(struct venue_book *b, const struct venue_ticket *t, int64_t now_ns,
                  int64_t max_age_ns, struct venue_result *out);

/* Quantity a resting order gets from the opposite side now showing its price or better (it fills at
 * its own price); that much of those levels is taken. 0 unless the book is LIVE. */
int64_t venue_cross(struct venue_book *b, enum order_side side, int64_t price, int64_t leaves);
/* A trade at trade_price went through a resting order's price: strictly, for at it somebody was
 * before us. */
bool venue_through(enum order_side side, int64_t price, int64_t trade_price);

/* notional * rate; rate as a fraction at 1e-9 (0.0004 is 400000). KEEL_TOOBIG on overflow. */
enum keel_status venue_fee(int64_t price, int64_t quantity, int64_t rate, keel_i128 *notional,
                           keel_i128 *fee);

#endif
