/*
 * From a feature vector or a prediction to what a strategy wants. A signal is an event: it is given
 * when the figures enter a zone (fast average above slow, RSI below its lower bound, imbalance or
 * the probability of a rise beyond the threshold), not while they stay there. Pure.
 */
#ifndef STRATEGY_SIGNAL_H
#define STRATEGY_SIGNAL_H

#include "keel/arena.h"
#include "order.h"

#define SIGNAL_INPUTS   2
#define SIGNAL_NAME_LEN 32

enum signal_kind { SIGNAL_NONE, SIGNAL_MA_CROSS, SIGNAL_RSI_REVERSION, SIGNAL_IMBALANCE, SIGNAL_MODEL };

struct signal_rule {
    enum signal_kind kind;
    char fast[SIGNAL_NAME_LEN],
        slow[SIGNAL_NAME_LEN];  /* ma_cross: names of the two averages: "ema_12" */
    double rsi_low, rsi_high;   /* 0..100 */
    double threshold;           /* of the book imbalance, 0..1; of a probability, 0.5..1 */
    char model[SIGNAL_NAME_LEN]; /* model: whose predictions it acts on */
    int64_t quantity, notional; /* one of them > 0: size of an order */
    int64_t max_position; /* > 0, in the unit of the size: |position| with its open orders stays
                             within */
    bool long_only;
    int64_t lot, tick;       /* steps of quantity and price, > 0 */
    double price_offset_bps; /* > 0: behind the touch of its own side; <= 0: that far through the
                                other side's */
};

/* NULL, or one sentence on what is wrong with the rule. */
const char *signal_rule_wrong(const struct signal_rule *r);

/* Names of the features the rule looks at; returns how many (0 for a model: its one figure is the
 * probability of a rise). */
size_t signal_inputs(const struct signal_rule *r, char name[SIGNAL_INPUTS][SIGNAL_NAME_LEN]);

/* What is remembered between two vectors of a symbol; zeroed at first, when nothing is known and
 * nothing is signalled. */
struct signal_memory {
    bool known;
    int zone; /* +1 wants to buy, -1 to sell, 0 neither */
};

struct signal_view {
    double value[SIGNAL_INPUTS]; /* of signal_inputs, in its order; of a model P(rise) */
    int64_t close;               /* price at 1e-9, > 0 */
    int64_t position;            /* the strategy's own, signed */
    int64_t open_buy, open_sell; /* what its open and unknown orders may still fill */
};

struct signal_wish {
    enum order_side side;
    int64_t quantity;
    const char *reason; /* the figures; in a */
};

/* Updates *m; true when there is something to do, then *out is filled. */
bool signal_next(const struct signal_rule *r, struct signal_memory *m, const struct signal_view *v,
                 struct keel_arena *a, struct signal_wish *out);

/* Limit price by price_offset_bps from the touch, to the tick in our favour. KEEL_UNDEFINED without
 * the needed side (bid, ask at 1e-9; 0: none) or when it does not come out > 0. */
enum keel_status signal_price(const struct signal_rule *r, enum order_side side, int64_t bid,
                              int64_t ask, int64_t *out);

#endif
