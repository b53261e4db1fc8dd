/*
 * Orders and positions. The table of allowed events is the one of the published order state
 * machines (order states of the contract), written out state by state; money is checked against
 * identities that hold whatever the fills: quantity is conserved, and sales - purchases = realised
 * - cost to the last unit.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "keel/rng.h"
#include "order.h"

#define D(x) ((int64_t)((x)*1000) * (KEEL_SCALE / 1000))

/* Where each event leads from each state with nothing filled (of 10), "" where it is refused; in
 * the order of the events. */
static const struct {
    const char *state, *deny, *submit, *accept, *reject, *trigger, *ask_update, *update,
        *ask_cancel, *refuse_cancel, *fill1, *cancel, *expire, *lose, *late1;
} allowed[ORDER_N_STATE] = {
    {"INITIALIZED", "DENIED", "SUBMITTED", "", "", "", "", "", "", "", "", "", "", "", ""},
    {"DENIED", "", "", "", "", "", "", "", "", "", "", "", "", "", ""},
    {"SUBMITTED", "", "", "ACCEPTED", "REJECTED", "", "", "", "PENDING_CANCEL", "",
     "PARTIALLY_FILLED", "CANCELED", "EXPIRED", "UNKNOWN", ""},
    {"ACCEPTED", "", "", "", "", "TRIGGERED", "PENDING_UPDATE", "", "PENDING_CANCEL", "",
     "PARTIALLY_FILLED", "CANCELED", "EXPIRED", "", ""},
    {"REJECTED", "", "", "", "", "", "", "", "", "", "", "", "", "", ""},
    {"TRIGGERED", "", "", "", "", "", "PENDING_UPDATE", "", "PENDING_CANCEL", "",
     "PARTIALLY_FILLED", "CANCELED", "EXPIRED", "", ""},
    {"PENDING_UPDATE", "", "", "PENDING_UPDATE", "", "", "", "ACCEPTED", "PENDING_CANCEL", "",
     "PENDING_UPDATE", "CANCELED", "EXPIRED", "UNKNOWN", ""},
    {"PENDING_CANCEL", "", "", "PENDING_CANCEL", "REJECTED", "", "", "PENDING_CANCEL", "",
     "ACCEPTED", "PENDING_CANCEL", "CANCELED", "EXPIRED", "UNKNOWN", ""},
    {"PARTIALLY_FILLED", "", "", "PARTIALLY_FILLED", "", "", "PENDING_UPDATE", "", "PENDING_CANCEL",
     "", "PARTIALLY_FILLED", "CANCELED", "EXPIRED", "", ""},
    {"FILLED", "", "", "", "", "", "", "", "", "", "", "", "", "", ""},
    {"CANCELED", "", "", "", "", "", "", "", "", "", "", "", "", "", "CANCELED"},
    {"EXPIRED", "", "", "", "", "", "", "", "", "", "", "", "", "", "EXPIRED"},
    {"UNKNOWN", "", "", "ACCEPTED", "REJECTED", "TRIGGERED", "", "ACCEPTED", "", "ACCEPTED",
     "PARTIALLY_FILLED", "CANCELED", "EXPIRED", "", ""},
};

static struct order in_state(enum order_state s, int64_t filled)
{
    struct order o = {.state = s, .quantity = D(10), .filled = filled};

    return o;
}

static enum keel_status happen(struct order *o, enum order_event ev, int64_t quantity)
{
    struct order_fill f = {.quantity = quantity, .ts_event = 7, .notional = quantity};

    return ev == ORDER_EV_FILL || ev == ORDER_EV_LATE_FILL ? order_fill(o, ev, &f)
                                                           : order_apply(o, ev, 7);
}

START_TEST(every_state_and_event)
{
    const char *const *to = &allowed[_i].deny;

    ck_assert_str_eq(allowed[_i].state, order_state_name((enum order_state)_i));
    for (int ev = 0; ev < ORDER_N_EVENT; ev++) {
        struct order o = in_state((enum order_state)_i, 0), before = o;
        enum keel_status st = happen(&o, (enum order_event)ev, D(1));

        if (to[ev][0] == '\0') {
            ck_assert_msg(st == KEEL_CONFLICT, "%s must refuse %s", allowed[_i].state,
                          order_event_name((enum order_event)ev));
            ck_assert_mem_eq(&o, &before, sizeof o);
            continue;
        }
        ck_assert_msg(st == KEEL_OK, "%s must allow %s", allowed[_i].state,
                      order_event_name((enum order_event)ev));
        ck_assert_str_eq(order_state_name(o.state), to[ev]);
        ck_assert_int_eq(o.ts_event, 7);
    }
}
END_TEST

START_TEST(closed_states)
{
    static const char closed[] = "DENIED REJECTED FILLED CANCELED EXPIRED";

    for (int s = 0; s < ORDER_N_STATE; s++) {
        bool is = strstr(closed, order_state_name((enum order_state)s)) != NULL;
        struct order o = in_state((enum order_state)s, D(4));

        ck_assert_int_eq(order_is_closed((enum order_state)s), is);
        ck_assert_int_eq(order_leaves(&o), is ? 0 : D(6));
    }
}
END_TEST

/* Sequences that only a race can make, and where they must end. */
static const struct {
    const char *why;
    struct {
        enum order_event ev;
        int q;
    } step[6];
    const char *end;
    int filled;
} race_case[] = {
    {"a fill before the acceptance",
     {{ORDER_EV_SUBMIT, 0}, {ORDER_EV_FILL, 4}, {ORDER_EV_ACCEPT, 0}},
     "PARTIALLY_FILLED",
     4},
    {"filled before the acceptance", {{ORDER_EV_SUBMIT, 0}, {ORDER_EV_FILL, 10}}, "FILLED", 10},
    {"a fill while the cancel is on its way",
     {{ORDER_EV_SUBMIT, 0}, {ORDER_EV_ACCEPT, 0}, {ORDER_EV_ASK_CANCEL, 0}, {ORDER_EV_FILL, 3}},
     "PENDING_CANCEL",
     3},
    {"the last fill while the cancel is on its way",
     {{ORDER_EV_SUBMIT, 0}, {ORDER_EV_ASK_CANCEL, 0}, {ORDER_EV_ACCEPT, 0}, {ORDER_EV_FILL, 10}},
     "FILLED",
     10},
    {"canceled after a part",
     {{ORDER_EV_SUBMIT, 0}, {ORDER_EV_FILL, 4}, {ORDER_EV_ASK_CANCEL, 0}, {ORDER_EV_CANCEL, 0}},
     "CANCELED",
     4},
    {"the cancel refused after a part",
     {{ORDER_EV_SUBMIT, 0},
      {ORDER_EV_FILL, 4},
      {ORDER_EV_ASK_CANCEL, 0},
      {ORDER_EV_REFUSE_CANCEL, 0}},
     "PARTIALLY_FILLED",
     4},
    {"a late fill",
     {{ORDER_EV_SUBMIT, 0}, {ORDER_EV_ACCEPT, 0}, {ORDER_EV_CANCEL, 0}, {ORDER_EV_LATE_FILL, 4}},
     "CANCELED",
     4},
    {"late fills of all of it",
     {{ORDER_EV_SUBMIT, 0}, {ORDER_EV_CANCEL, 0}, {ORDER_EV_LATE_FILL, 4}, {ORDER_EV_LATE_FILL, 6}},
     "FILLED",
     10},
    {"lost, then filled in part by evidence",
     {{ORDER_EV_SUBMIT, 0}, {ORDER_EV_LOSE, 0}, {ORDER_EV_FILL, 2}},
     "PARTIALLY_FILLED",
     2},
    {"lost, then never sent by evidence",
     {{ORDER_EV_SUBMIT, 0}, {ORDER_EV_LOSE, 0}, {ORDER_EV_REJECT, 0}},
     "REJECTED",
     0},
};

START_TEST(races)
{
    struct order o = in_state(ORDER_INITIALIZED, 0);

    for (size_t i = 0; i < 6 && (i == 0 || race_case[_i].step[i].ev != ORDER_EV_DENY); i++)
        ck_assert_msg(happen(&o, race_case[_i].step[i].ev, D(race_case[_i].step[i].q)) == KEEL_OK,
                      "%s: step %zu", race_case[_i].why, i);
    ck_assert_msg(strcmp(order_state_name(o.state), race_case[_i].end) == 0, "%s: %s",
                  race_case[_i].why, order_state_name(o.state));
    ck_assert_int_eq(o.filled, D(race_case[_i].filled));
}
END_TEST

START_TEST(refusals_change_nothing)
{
    struct order o = in_state(ORDER_PARTIALLY_FILLED, D(9)), before = o;

    ck_assert_int_eq(happen(&o, ORDER_EV_FILL, D(1) + 1), KEEL_TOOBIG);
    ck_assert_int_eq(happen(&o, ORDER_EV_FILL, 0), KEEL_TOOBIG);
    ck_assert_int_eq(happen(&o, ORDER_EV_FILL, -1), KEEL_TOOBIG);
    o.state = before.state = ORDER_UNKNOWN; /* what was filled in part cannot have been rejected */
    ck_assert_int_eq(happen(&o, ORDER_EV_REJECT, 0), KEEL_CONFLICT);
    ck_assert_mem_eq(&o, &before, sizeof o);
}
END_TEST

/* 2 at 100.1 and 1 at 100.4: 300.6 / 3 = 100.2. */
START_TEST(average_price)
{
    struct order o = {.state = ORDER_ACCEPTED, .quantity = D(3)};
    struct order_fill a = {.quantity = D(2)}, b = {.quantity = D(1)};
    int64_t avg = -1;

    ck_assert_int_eq(order_avg_price(&o, &avg), KEEL_UNDEFINED);
    ck_assert_int_eq(avg, -1);
    ck_assert_int_eq(keel_notional(D(100.1), D(2), KEEL_SCALE, &a.notional), KEEL_OK);
    ck_assert_int_eq(keel_notional(D(100.4), D(1), KEEL_SCALE, &b.notional), KEEL_OK);
    ck_assert_int_eq(order_fill(&o, ORDER_EV_FILL, &a), KEEL_OK);
    ck_assert_int_eq(order_fill(&o, ORDER_EV_FILL, &b), KEEL_OK);
    ck_assert_int_eq(o.state, ORDER_FILLED);
    ck_assert_int_eq(order_avg_price(&o, &avg), KEEL_OK);
    ck_assert_int_eq(avg, D(100.2));
}
END_TEST

/* Worked by hand: quantity, price -> position, cost, realised of that fill. */
static const struct {
    const char *why;
    int64_t q, price, position;
    double cost, realized;
} walk[] = {
    {"buys 2 at 100", D(2), D(100), D(2), 200, 0},
    {"buys 1 at 103", D(1), D(103), D(3), 303, 0},
    {"sells 1 at 110: a third of 303 leaves", D(-1), D(110), D(2), 202, 9},
    {"sells 5 at 90: 2 close, 3 open short", D(-5), D(90), D(-3), -270, -22},
    {"sells 1 at 94 more", D(-1), D(94), D(-4), -364, 0},
    {"buys 1 back at 80: a quarter of 364 came in", D(1), D(80), D(-3), -273, 11},
    {"buys 3 at 91: flat", D(3), D(91), D(0), 0, 0},
};

START_TEST(position_by_hand)
{
    struct order_position p = {0};

    for (size_t i = 0; i < KEEL_COUNT(walk); i++) {
        int64_t q = walk[i].q < 0 ? -walk[i].q : walk[i].q;
        keel_i128 notional, realized;

        ck_assert_int_eq(keel_notional(walk[i].price, q, KEEL_SCALE, &notional), KEEL_OK);
        ck_assert_int_eq(order_position_fill(&p, walk[i].q > 0 ? ORDER_BUY : ORDER_SELL, q,
                                             notional, 5, &realized),
                         KEEL_OK);
        ck_assert_msg(p.quantity == walk[i].position, "%s", walk[i].why);
        ck_assert_msg(keel_money_to_f64(p.cost) == walk[i].cost, "%s: cost %f", walk[i].why,
                      keel_money_to_f64(p.cost));
        ck_assert_msg(keel_money_to_f64(realized) == walk[i].realized, "%s: %f", walk[i].why,
                      keel_money_to_f64(realized));
    }
    ck_assert(p.fees == 5 * (int)KEEL_COUNT(walk));
    ck_assert_double_eq(keel_money_to_f64(p.realized), 9 - 22 + 11);
}
END_TEST

START_TEST(money_is_conserved)
{
    struct keel_rng rng;
    struct order_position p = {0};
    keel_i128 cash = 0, sum = 0;

    keel_rng_seed(&rng, (uint64_t)_i + 1);
    for (int i = 0; i < 3000; i++) {
        enum order_side side = keel_rng_below(&rng, 2) == 0 ? ORDER_BUY : ORDER_SELL;
        int64_t q = 1 + (int64_t)keel_rng_below(&rng, 5000000000u),
                price = 1 + (int64_t)keel_rng_below(&rng, 70000000000000u);
        keel_i128 notional, realized;

        ck_assert_int_eq(keel_notional(price, q, KEEL_SCALE, &notional), KEEL_OK);
        ck_assert_int_eq(order_position_fill(&p, side, q, notional, 0, &realized), KEEL_OK);
        cash += side == ORDER_SELL ? notional : -notional;
        sum += realized;
        ck_assert(cash == p.realized - p.cost);
        ck_assert(sum == p.realized);
        ck_assert(p.quantity != 0 || p.cost == 0);
        ck_assert(p.quantity == 0 || (p.quantity > 0) == (p.cost > 0) || p.cost == 0);
    }
}
END_TEST

START_TEST(overflow_changes_nothing)
{
    struct order_position p = {.quantity = INT64_MAX - 5, .cost = 1000}, before = p;
    keel_i128 realized = -1;

    ck_assert_int_eq(order_position_fill(&p, ORDER_BUY, 6, 1, 0, &realized), KEEL_TOOBIG);
    ck_assert_mem_eq(&p, &before, sizeof p);
    ck_assert(realized == -1);
}
END_TEST

static const struct {
    int64_t position, open;
    enum order_side side;
    int64_t quantity;
    bool reduces;
} reduce_case[] = {
    {5, 0, ORDER_SELL, 5, true},  {5, 0, ORDER_SELL, 6, false},  {5, 2, ORDER_SELL, 3, true},
    {5, 2, ORDER_SELL, 4, false}, {5, 0, ORDER_BUY, 1, false},   {-5, 0, ORDER_BUY, 5, true},
    {-5, 1, ORDER_BUY, 5, false}, {-5, 0, ORDER_SELL, 1, false}, {0, 0, ORDER_SELL, 1, false},
    {0, 0, ORDER_BUY, 1, false},
};

START_TEST(reduces)
{
    ck_assert_int_eq(order_reduces(reduce_case[_i].position, reduce_case[_i].open,
                                   reduce_case[_i].side, reduce_case[_i].quantity),
                     reduce_case[_i].reduces);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("order");
    TCase *tc = tcase_create("order");
    SRunner *sr;

    tcase_add_loop_test(tc, every_state_and_event, 0, ORDER_N_STATE);
    tcase_add_test(tc, closed_states);
    tcase_add_loop_test(tc, races, 0, (int)KEEL_COUNT(race_case));
    tcase_add_test(tc, refusals_change_nothing);
    tcase_add_test(tc, average_price);
    tcase_add_test(tc, position_by_hand);
    tcase_add_loop_test(tc, money_is_conserved, 0, 5);
    tcase_add_test(tc, overflow_changes_nothing);
    tcase_add_loop_test(tc, reduces, 0, (int)KEEL_COUNT(reduce_case));
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
