/*
 * What a portfolio may come to hold: positions as fills made them, and every order that may still fill. Pure; the
 * arrays are the caller's. Prices and quantities are int64_t at 1e-9, money is 128-bit at 1e-9.
 *
 * Exposure is never undercounted: an order counts with all of its quantity that has not reached the position as fills,
 * whatever its records say of what filled; once it has ended, only with what filled and has not arrived here yet.
 */
#ifndef KEEL_RISK_EXPOSURE_H
#define KEEL_RISK_EXPOSURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/num.h"
#include "keel/status.h"

#define RISK_ID 65
#define RISK_SYMBOL 33
#define RISK_SIDE_BUY 0
#define RISK_SIDE_SELL 1

/* RISK_FOUND: only fills came yet, so nobody knows how much more of it may come. */
enum risk_phase { RISK_RESERVED, RISK_OPEN, RISK_ENDED, RISK_FOUND };

/* An order that holds headroom. */
struct risk_entry {
    char id[RISK_ID], portfolio[RISK_ID], strategy[RISK_ID], symbol[RISK_SYMBOL];
    int side;
    enum risk_phase phase;
    int64_t quantity;   /* asked; RISK_FOUND: what its fills showed so far */
    int64_t filled;     /* that reached the position here */
    int64_t end_filled; /* RISK_ENDED: what its last record says was filled */
    int64_t price;      /* limit, or the worst price a market order was checked at; 0: unknown */
    int64_t created_ns; /* machine's wall clock */
    uint64_t body;      /* hash of the order as it was checked; 0: never checked here */
};

/* What may still move the position: >= 0. RISK_FOUND: 0, and its line is `unknown`. */
int64_t risk_leaves(const struct risk_entry *e);
/* An order record: phase by its state, quantity and filled as it says. An ended order stays ended. */
void risk_entry_record(struct risk_entry *e, bool ended, int64_t quantity, int64_t filled);
/* A fill reached the position. */
void risk_entry_fill(struct risk_entry *e, int64_t quantity);
/* Nothing is held any more. */
bool risk_entry_done(const struct risk_entry *e);

/* One symbol of a portfolio with what its orders may add. */
struct risk_line {
    int64_t position, buys, sells; /* signed; leaves of buys and of sells, >= 0 */
    int64_t mark;
    bool has_mark;
    bool unknown; /* an order may bring any quantity */
};

/* The larger of |position + all buys| and |position - all sells|. KEEL_TOOBIG on overflow; unknown: KEEL_UNDEFINED. */
enum keel_status risk_worst_quantity(const struct risk_line *l, int64_t *out);
/* quantity at the mark, signed as quantity. KEEL_UNDEFINED without a mark. */
enum keel_status risk_value(const struct risk_line *l, int64_t quantity, keel_i128 *out);
/* An order of this side and quantity only brings the position closer to zero, if all open ones of its side fill too. */
bool risk_reduces(const struct risk_line *l, int side, int64_t quantity);

struct risk_totals {
    keel_i128 gross, worst_gross, net, largest; /* by marks; worst_gross with all open orders; largest |market value| */
    keel_i128 equity;                           /* cash + net */
    bool defined, worst_defined;                /* every position (every line) has a mark; no line is unknown */
    size_t positions;
};
/* Sums n lines. KEEL_TOOBIG on overflow. */
enum keel_status risk_sum(const struct risk_line *l, size_t n, keel_i128 cash, struct risk_totals *out);

/* a / b at 1e-9, half to even; b > 0. KEEL_TOOBIG on overflow. */
enum keel_status risk_ratio(keel_i128 a, keel_i128 b, keel_i128 *out);

#endif
