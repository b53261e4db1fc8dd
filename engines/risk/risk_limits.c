/* Limits: see risk_limits.h. */
#include "risk_limits.h"

#include <string.h>

keel_i128 risk_limit_magnitude(enum risk_limit_type type, keel_i128 value)
{
    bool loss = type == RISK_DAILY_LOSS || type == RISK_VAR_95 || type == RISK_VAR_99;

    return loss && value < 0 ? -value : value;
}

static bool names(const char *of_limit, const char *given)
{
    return of_limit[0] == 0 || strcmp(of_limit, given) == 0;
}

bool risk_limit_applies(const struct risk_limit *l, const char *portfolio, const char *strategy, const char *symbol)
{
    return l->enabled && names(l->portfolio, portfolio) && names(l->strategy, strategy) && names(l->symbol, symbol);
}

void risk_limit_check(const struct risk_limit *l, struct risk_figure value, struct risk_check *out)
{
    *out = (struct risk_check){.limit = l, .value = value};
    if (!value.defined)
        return;
    if (keel_money_sub(l->value, value.value, &out->headroom) != KEEL_OK) {
        out->value.defined = false;
        return;
    }
    out->ok = out->headroom >= 0;
}

bool risk_limit_of_portfolio(enum risk_limit_type type)
{
    return type != RISK_NOTIONAL && type != RISK_ORDER_RATE;
}

const char *risk_state_denies(enum risk_state state, bool reduces)
{
    if (state == RISK_HALTED)
        return "TRADING_HALTED";
    return state == RISK_REDUCING && !reduces ? "REDUCING_ONLY" : "";
}
