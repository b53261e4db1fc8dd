/*
 * Limits and what they decide. Pure. Every value and limit is a number at 1e-9 in the unit of its type: a quantity,
 * money, a ratio or a count.
 */
#ifndef KEEL_RISK_LIMITS_H
#define KEEL_RISK_LIMITS_H

#include "exposure.h"

#define RISK_LIMIT_TYPES \
    "position_size|notional|gross_exposure|portfolio_value|leverage|concentration|daily_loss|order_rate|var_95|var_99"
enum risk_limit_type {
    RISK_POSITION_SIZE,  /* largest |quantity| of the symbol if every open order filled the wrong way */
    RISK_NOTIONAL,       /* of one order */
    RISK_GROSS_EXPOSURE, /* sum of |market value| with all open orders at their worst */
    RISK_PORTFOLIO_VALUE, /* the first version's name of gross_exposure */
    RISK_LEVERAGE,       /* gross_exposure over equity */
    RISK_CONCENTRATION,  /* the symbol's worst market value over equity */
    RISK_DAILY_LOSS,     /* equity at the start of the UTC day less equity; a magnitude */
    RISK_ORDER_RATE,     /* orders of the last second of session time, this one included */
    RISK_VAR_95, RISK_VAR_99, /* one period, magnitudes */
    RISK_N_TYPES
};

#define RISK_ACTIONS "deny|warn|reduce"
enum risk_action { RISK_DENY, RISK_WARN, RISK_REDUCE };

/* Every check walks all of them: what rules most of them out comes first. */
struct risk_limit {
    keel_i128 value; /* loss types: magnitude */
    enum risk_limit_type type;
    enum risk_action action;
    bool enabled;
    char symbol[RISK_SYMBOL], strategy[RISK_ID], portfolio[RISK_ID]; /* "": all */
    char id[RISK_ID];
};

/* Loss types take -50000 and 50000 for the same limit. */
keel_i128 risk_limit_magnitude(enum risk_limit_type type, keel_i128 value);

/* A figure that may be undefined. */
struct risk_figure { keel_i128 value; bool defined; };

struct risk_check { const struct risk_limit *limit; struct risk_figure value; keel_i128 headroom; bool ok; };

/* limit applies to an order (or, with "" for strategy and symbol, to the portfolio as it is). */
bool risk_limit_applies(const struct risk_limit *l, const char *portfolio, const char *strategy, const char *symbol);
/* value <= limit; an undefined value is not ok. */
void risk_limit_check(const struct risk_limit *l, struct risk_figure value, struct risk_check *out);
/* About the portfolio: it holds without an order too, and never stops what reduces. The others are about one order. */
bool risk_limit_of_portfolio(enum risk_limit_type type);

#define RISK_STATES "ACTIVE|REDUCING|HALTED"
enum risk_state { RISK_ACTIVE, RISK_REDUCING, RISK_HALTED };
/* "" when the state lets the order pass, else the denial's code. */
const char *risk_state_denies(enum risk_state state, bool reduces);

#endif
