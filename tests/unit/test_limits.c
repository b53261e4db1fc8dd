/* Limits: both sides of every bound. Expected outcomes follow from the definitions in risk_limits.h. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "risk_limits.h"

#define U KEEL_SCALE
#define HUGE_MONEY ((keel_i128)1 << 126)

static const char *const type_name[RISK_N_TYPES] = {
    "position_size", "notional",   "gross_exposure", "portfolio_value", "leverage",
    "concentration", "daily_loss", "order_rate",     "var_95",          "var_99"};

static const struct {
    const char *why;
    keel_i128 limit;
    struct risk_figure value;
    bool ok, defined;
    keel_i128 headroom;
} check_case[] = {
    {"below", 2 * U, {U / 2, true}, true, true, 3 * U / 2},
    {"exactly", 2 * U, {2 * U, true}, true, true, 0},
    {"one unit above", 2 * U, {2 * U + 1, true}, false, true, -1},
    {"far above", 2 * U, {5 * U / 2, true}, false, true, -U / 2},
    {"a limit of nothing takes nothing", 0, {0, true}, true, true, 0},
    {"and no more", 0, {1, true}, false, true, -1},
    {"a gain where a loss is limited", 100 * U, {-5 * U, true}, true, true, 105 * U},
    {"undefined is not within", 2 * U, {0, false}, false, false, 0},
    {"no headroom can be told", -HUGE_MONEY, {HUGE_MONEY + (HUGE_MONEY - 1), true}, false, false, 0},
};

/* What a type limits makes no difference to how. */
START_TEST(checks)
{
    for (int type = 0; type < RISK_N_TYPES; type++) {
        struct risk_limit l = {.type = (enum risk_limit_type)type, .value = check_case[_i].limit, .enabled = true};
        struct risk_check got;

        risk_limit_check(&l, check_case[_i].value, &got);
        ck_assert_ptr_eq(got.limit, &l);
        ck_assert_msg(got.ok == check_case[_i].ok, "%s: %s", type_name[type], check_case[_i].why);
        ck_assert_msg(got.value.defined == check_case[_i].defined, "%s: %s", type_name[type], check_case[_i].why);
        ck_assert_msg(got.headroom == check_case[_i].headroom, "%s: %s", type_name[type], check_case[_i].why);
    }
}
END_TEST

/* By type: is -50000 the limit 50000; does it hold for the portfolio, and so never stop what reduces. */
static const struct { enum risk_limit_type type; bool loss, of_portfolio; } type_case[] = {
    {RISK_POSITION_SIZE, false, true},   {RISK_NOTIONAL, false, false},      {RISK_GROSS_EXPOSURE, false, true},
    {RISK_PORTFOLIO_VALUE, false, true}, {RISK_LEVERAGE, false, true},       {RISK_CONCENTRATION, false, true},
    {RISK_DAILY_LOSS, true, true},       {RISK_ORDER_RATE, false, false},    {RISK_VAR_95, true, true},
    {RISK_VAR_99, true, true},
};

START_TEST(types)
{
    enum risk_limit_type type = type_case[_i].type;
    keel_i128 minus = risk_limit_magnitude(type, -50000 * U);

    ck_assert(risk_limit_magnitude(type, 50000 * U) == 50000 * U);
    ck_assert(risk_limit_magnitude(type, 0) == 0);
    ck_assert_msg(minus == (type_case[_i].loss ? 50000 * U : -50000 * U), "%s", type_name[type]);
    ck_assert_msg(risk_limit_of_portfolio(type) == type_case[_i].of_portfolio, "%s", type_name[type]);
    ck_assert_int_eq(_i, type);
}
END_TEST

static const struct {
    const char *why;
    struct risk_limit limit;
    bool applies;
} scope_case[] = {
    {"of all", {.enabled = true}, true},
    {"not enabled", {.enabled = false}, false},
    {"its portfolio", {.enabled = true, .portfolio = "main"}, true},
    {"another portfolio", {.enabled = true, .portfolio = "mai"}, false},
    {"its strategy", {.enabled = true, .strategy = "manual"}, true},
    {"another strategy", {.enabled = true, .strategy = "manuals"}, false},
    {"its symbol", {.enabled = true, .symbol = "BTCUSDT"}, true},
    {"another symbol", {.enabled = true, .symbol = "ETHUSDT"}, false},
    {"all three", {.enabled = true, .portfolio = "main", .strategy = "manual", .symbol = "BTCUSDT"}, true},
    {"two of three", {.enabled = true, .portfolio = "main", .strategy = "manual", .symbol = "ETHUSDT"}, false},
};

START_TEST(scopes)
{
    ck_assert_msg(risk_limit_applies(&scope_case[_i].limit, "main", "manual", "BTCUSDT") == scope_case[_i].applies,
                  "%s", scope_case[_i].why);
}
END_TEST

static const struct { enum risk_state state; bool reduces; const char *code; } state_case[] = {
    {RISK_ACTIVE, false, ""},                {RISK_ACTIVE, true, ""},
    {RISK_REDUCING, false, "REDUCING_ONLY"}, {RISK_REDUCING, true, ""},
    {RISK_HALTED, false, "TRADING_HALTED"},  {RISK_HALTED, true, "TRADING_HALTED"},
};

START_TEST(states)
{
    ck_assert_str_eq(risk_state_denies(state_case[_i].state, state_case[_i].reduces), state_case[_i].code);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("limits");
    TCase *tc = tcase_create("limits");

    tcase_add_loop_test(tc, checks, 0, (int)KEEL_COUNT(check_case));
    tcase_add_loop_test(tc, types, 0, (int)KEEL_COUNT(type_case));
    tcase_add_loop_test(tc, scopes, 0, (int)KEEL_COUNT(scope_case));
    tcase_add_loop_test(tc, states, 0, (int)KEEL_COUNT(state_case));
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
