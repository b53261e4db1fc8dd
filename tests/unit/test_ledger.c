/*
 * The ledger. Expected figures are worked out by hand from the definitions in ledger.h (bodies.md for the published
 * example); the random runs need no oracle: they check what must hold for any sequence of fills.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "keel/rng.h"
#include "ledger.h"

static int64_t dec(const char *s)
{
    int64_t v = 0;
    ck_assert_int_eq(keel_dec_parse(s, strlen(s), &v), KEEL_OK);
    return v;
}

static keel_i128 money(const char *s)
{
    keel_i128 v = 0;
    ck_assert_int_eq(keel_money_parse(s, strlen(s), &v), KEEL_OK);
    return v;
}

static void same_money(keel_i128 got, const char *want, const char *what, int line)
{
    char text[KEEL_MONEY_TEXT];
    keel_money_print(got, text);
    ck_assert_msg(got == money(want), "line %d: %s is %s, not %s", line, what, text, want);
}
#define MONEY(got, want) same_money(got, want, #got, __LINE__)

/* ---- a book with room ---- */

#define ROOM 16
static struct portfolio_position room[ROOM];
static struct portfolio_book book;

static void book_open(const char *cash)
{
    struct portfolio_plan plan;
    memset(room, 0, sizeof room);
    book = (struct portfolio_book){.position = room, .cap = ROOM};
    ck_assert_int_eq(portfolio_plan_cash(&book.totals, money(cash), &plan), KEEL_OK);
    portfolio_apply(&book, &plan);
}

static struct portfolio_position position_of(const struct portfolio_book *b, const char *symbol)
{
    struct portfolio_position fresh;
    const struct portfolio_position *p = portfolio_find(b, symbol);
    portfolio_position_init(&fresh, symbol, KEEL_SCALE);
    return p != NULL ? *p : fresh;
}

static keel_i128 plan_sum(const struct portfolio_plan *plan)
{
    keel_i128 sum = 0;
    for (size_t i = 0; i < plan->n_postings; i++)
        sum += plan->posting[i].amount;
    return sum;
}

static struct portfolio_plan fill(const char *symbol, bool is_sell, const char *quantity, const char *price,
                                  const char *fee)
{
    struct portfolio_fill f = {is_sell, dec(quantity), dec(price), money(fee)};
    struct portfolio_position p = position_of(&book, symbol);
    struct portfolio_plan plan;
    ck_assert_int_eq(portfolio_plan_fill(&book.totals, &p, &f, &plan), KEEL_OK);
    ck_assert(plan_sum(&plan) == 0);
    portfolio_apply(&book, &plan);
    ck_assert(portfolio_sum(&book) == 0);
    return plan;
}

static void equity_at(const char *symbol, const char *mark, struct portfolio_value *v, struct portfolio_equity *e)
{
    struct portfolio_position p = position_of(&book, symbol);
    ck_assert_int_eq(portfolio_value_at(&p, mark != NULL, mark != NULL ? dec(mark) : 0, v), KEEL_OK);
    portfolio_equity_start(e);
    ck_assert_int_eq(portfolio_equity_add(e, v), KEEL_OK);
    ck_assert_int_eq(portfolio_equity_finish(e, &book.totals), KEEL_OK);
}

/* ---- worked examples ---- */

START_TEST(the_published_example)
{
    struct portfolio_value v;
    struct portfolio_equity e;
    book_open("1000000");
    fill("BTCUSDT", false, "0.5", "61659.8", "12.33196");
    MONEY(book.totals.cash, "969157.76804");
    MONEY(book.totals.fees, "12.33196");
    equity_at("BTCUSDT", "61659.75", &v, &e);
    MONEY(v.market_value, "30829.875");
    MONEY(v.unrealized, "-0.025");
    MONEY(e.equity, "999987.64304");
    MONEY(e.change, "-12.35696");
    int64_t avg = 0;
    ck_assert_int_eq(portfolio_avg_cost(&room[0], &avg), KEEL_OK);
    ck_assert_int_eq(avg, dec("61659.8"));
}
END_TEST

START_TEST(no_mark_is_unknown_unless_flat)
{
    struct portfolio_value v;
    struct portfolio_equity e;
    book_open("100");
    fill("A", false, "1", "10", "0");
    equity_at("A", NULL, &v, &e);
    ck_assert(!v.is_known);
    ck_assert(!e.is_known);
    fill("A", true, "1", "11", "0");
    equity_at("A", NULL, &v, &e);
    ck_assert(v.is_known);
    MONEY(e.equity, "101");
    MONEY(e.change, "1");
    int64_t avg;
    ck_assert_int_eq(portfolio_avg_cost(&room[0], &avg), KEEL_UNDEFINED);
}
END_TEST

/* Each step: a fill of one symbol, and the position after it. Costs by hand: share = cost * part / whole, half to
 * even. */
static const struct {
    const char *why;
    bool is_sell;
    const char *quantity, *price, *fee, *held, *cost, *realized, *cash;
} step[] = {
    {"open long", false, "2", "0.3", "0", "2", "0.6", "0", "-0.6"},
    {"add", false, "1", "0.4", "0", "3", "1", "0", "-1"},
    {"a third: 0.333333333", true, "1", "1", "0", "2", "0.666666667", "0.666666667", "0"},
    {"half of an odd cost goes to the even unit", true, "1", "1", "0", "1", "0.333333333", "1.333333333", "1"},
    {"the rest", true, "1", "1", "0", "0", "0", "2", "2"},
    {"long again", false, "2", "100", "0.5", "2", "200", "2", "-198.5"},
    {"through zero: closes 2, opens 1 short", true, "3", "110", "0", "-1", "-110", "22", "131.5"},
    {"short more", true, "1", "120", "0", "-2", "-230", "22", "251.5"},
    {"buy half of the short back", false, "1", "105", "0", "-1", "-115", "32", "146.5"},
    {"through zero the other way", false, "4", "100", "1", "3", "300", "47", "-254.5"},
    {"a rebate is a negative fee", true, "3", "100", "-0.25", "0", "0", "47", "45.75"},
};

START_TEST(steps_by_hand)
{
    keel_i128 fees = 0;
    book_open("1000");
    for (size_t i = 0; i < KEEL_COUNT(step); i++) {
        fill("A", step[i].is_sell, step[i].quantity, step[i].price, step[i].fee);
        const struct portfolio_position *p = portfolio_find(&book, "A");
        fees += money(step[i].fee);
        ck_assert_msg(p->quantity == dec(step[i].held), "%s: quantity", step[i].why);
        ck_assert_msg(p->cost == money(step[i].cost), "%s: cost", step[i].why);
        ck_assert_msg(p->realized == money(step[i].realized), "%s: realised", step[i].why);
        ck_assert_msg(book.totals.cash == money("1000") + money(step[i].cash), "%s: cash", step[i].why);
        ck_assert_msg(book.totals.fees == fees, "%s: fees", step[i].why);
    }
}
END_TEST

START_TEST(notional_is_rounded_once_half_to_even)
{
    book_open("10");
    /* 0.000000001 * 0.5 is half a unit: to even, 0; 3 times that is 1.5 units: 2. */
    struct portfolio_plan a = fill("A", false, "0.000000001", "0.5", "0");
    struct portfolio_plan b = fill("B", false, "0.000000003", "0.5", "0");
    MONEY(a.notional, "0");
    MONEY(b.notional, "0.000000002");
    ck_assert_uint_eq(a.n_postings, 0);
    ck_assert_uint_eq(b.n_postings, 2);
    MONEY(book.totals.cash, "9.999999998");
}
END_TEST

START_TEST(an_opening_balance)
{
    struct portfolio_plan plan;
    struct portfolio_value v;
    struct portfolio_equity e;
    struct portfolio_position p;
    book_open("100");
    portfolio_position_init(&p, "A", KEEL_SCALE);
    ck_assert_int_eq(portfolio_plan_opening(&book.totals, &p, dec("-2"), dec("50"), &plan), KEEL_OK);
    ck_assert(plan_sum(&plan) == 0);
    portfolio_apply(&book, &plan);
    MONEY(book.totals.capital, "0");
    MONEY(room[0].cost, "-100");
    equity_at("A", "45", &v, &e);
    MONEY(v.unrealized, "10");
    MONEY(e.equity, "10");
    MONEY(e.change, "10");
    ck_assert_int_eq(portfolio_plan_opening(&book.totals, &room[0], dec("1"), dec("1"), &plan), KEEL_CONFLICT);
    fill("A", false, "2", "45", "0");
    ck_assert_int_eq(portfolio_plan_opening(&book.totals, &room[0], dec("1"), dec("1"), &plan), KEEL_CONFLICT);
    ck_assert_int_eq(portfolio_plan_opening(&book.totals, &p, 0, dec("1"), &plan), KEEL_INVALID);
    ck_assert_int_eq(portfolio_plan_opening(&book.totals, &p, dec("1"), dec("-1"), &plan), KEEL_INVALID);
}
END_TEST

START_TEST(a_multiplier_scales_money_not_price)
{
    struct portfolio_plan plan;
    struct portfolio_position p;
    struct portfolio_fill f = {false, dec("2"), dec("4000.25"), 0};
    book_open("1000000");
    portfolio_position_init(&p, "ES", dec("50"));
    ck_assert_int_eq(portfolio_plan_fill(&book.totals, &p, &f, &plan), KEEL_OK);
    portfolio_apply(&book, &plan);
    MONEY(room[0].cost, "400025");
    int64_t avg = 0;
    ck_assert_int_eq(portfolio_avg_cost(&room[0], &avg), KEEL_OK);
    ck_assert_int_eq(avg, dec("4000.25"));
    struct portfolio_value v;
    struct portfolio_equity e;
    equity_at("ES", "4001", &v, &e);
    MONEY(e.change, "75");
}
END_TEST

START_TEST(what_does_not_fit_changes_nothing)
{
    struct portfolio_plan plan = {.n_postings = 99};
    struct portfolio_position p;
    struct portfolio_totals before;
    book_open("1");
    before = book.totals;
    portfolio_position_init(&p, "A", KEEL_SCALE);
    struct portfolio_fill bad[] = {{false, 0, 1, 0}, {false, -1, 1, 0}, {false, 1, 0, 0}};
    for (size_t i = 0; i < KEEL_COUNT(bad); i++)
        ck_assert_int_eq(portfolio_plan_fill(&book.totals, &p, &bad[i], &plan), KEEL_INVALID);
    struct portfolio_fill big = {false, INT64_MAX, 1, 0};
    p.quantity = INT64_MAX;
    ck_assert_int_eq(portfolio_plan_fill(&book.totals, &p, &big, &plan), KEEL_TOOBIG);
    struct portfolio_fill costly = {false, dec("1"), dec("1"), ((keel_i128)1 << 126) + ((keel_i128)1 << 125)};
    portfolio_position_init(&p, "A", KEEL_SCALE);
    book.totals.fees = costly.fee;
    ck_assert_int_eq(portfolio_plan_fill(&book.totals, &p, &costly, &plan), KEEL_TOOBIG);
    ck_assert_uint_eq(plan.n_postings, 99);
    ck_assert(book.totals.cash == before.cash);
}
END_TEST

/* ---- any sequence ---- */

enum { SYMBOLS = 5, FILLS = 2000 };
struct random_fill {
    int symbol;
    struct portfolio_fill f;
};
static const char *const symbols[SYMBOLS] = {"A", "B", "C", "D", "E"};

static struct random_fill draw(struct keel_rng *r)
{
    /* Few quantities, so that closes to the last unit and flips are common; odd prices, so that rounding is. */
    static const int64_t quantity[] = {1, 333333333, 500000001, 1000000000, 2000000003, 7123456789};
    struct random_fill x = {.symbol = (int)keel_rng_below(r, SYMBOLS)};
    x.f.is_sell = keel_rng_below(r, 2) != 0;
    x.f.quantity = quantity[keel_rng_below(r, KEEL_COUNT(quantity))];
    x.f.price = (int64_t)keel_rng_below(r, 100000000000000) + 1;
    x.f.fee = (keel_i128)keel_rng_below(r, 1000000000) - 100000000;
    return x;
}

static void apply_random(struct portfolio_book *b, const struct random_fill *x)
{
    struct portfolio_position p = position_of(b, symbols[x->symbol]);
    struct portfolio_plan plan;
    ck_assert_int_eq(portfolio_plan_fill(&b->totals, &p, &x->f, &plan), KEEL_OK);
    ck_assert(plan_sum(&plan) == 0);
    portfolio_apply(b, &plan);
}

START_TEST(invariants_of_random_fills)
{
    struct keel_rng r;
    keel_i128 traded[SYMBOLS] = {0}, fees = 0, start = money("1000000");
    int64_t held[SYMBOLS] = {0};
    keel_rng_seed(&r, (uint64_t)_i + 1);
    book_open("1000000");
    for (int n = 0; n < FILLS; n++) {
        struct random_fill x = draw(&r);
        keel_i128 notional = 0;
        ck_assert_int_eq(keel_notional(x.f.price, x.f.quantity, KEEL_SCALE, &notional), KEEL_OK);
        traded[x.symbol] += x.f.is_sell ? -notional : notional;
        held[x.symbol] += x.f.is_sell ? -x.f.quantity : x.f.quantity;
        fees += x.f.fee;
        apply_random(&book, &x);

        keel_i128 costs = 0, unrealized = 0, realized = 0;
        struct portfolio_equity e;
        portfolio_equity_start(&e);
        for (size_t i = 0; i < book.n; i++) {
            const struct portfolio_position *p = &book.position[i];
            int s = p->symbol[0] - 'A';
            struct portfolio_value v;
            ck_assert_int_eq(p->quantity, held[s]);
            /* What was paid in all is either in the position or realised, to the last unit. */
            ck_assert(p->cost - p->realized == traded[s]);
            ck_assert(p->quantity != 0 || p->cost == 0);
            ck_assert(p->quantity <= 0 || p->cost >= 0);
            ck_assert(p->quantity >= 0 || p->cost <= 0);
            costs += p->cost;
            realized += p->realized;
            ck_assert_int_eq(portfolio_value_at(p, true, x.f.price, &v), KEEL_OK);
            ck_assert_int_eq(portfolio_equity_add(&e, &v), KEEL_OK);
            unrealized += v.unrealized;
        }
        ck_assert_int_eq(portfolio_equity_finish(&e, &book.totals), KEEL_OK);
        ck_assert(portfolio_sum(&book) == 0);
        ck_assert(book.totals.realized == realized);
        ck_assert(book.totals.fees == fees);
        ck_assert(book.totals.cash + costs == start + realized - fees);
        ck_assert(e.change == realized + unrealized - fees);
        ck_assert(e.equity - start == e.change);
    }
}
END_TEST

/* What happens in one symbol does not depend on when it happens in another. */
START_TEST(symbols_do_not_mix)
{
    static struct random_fill x[FILLS];
    static struct portfolio_position other_room[ROOM];
    struct portfolio_book other = {.position = other_room, .cap = ROOM};
    struct keel_rng r;
    keel_rng_seed(&r, (uint64_t)_i + 100);
    book_open("0");
    for (int n = 0; n < FILLS; n++) {
        x[n] = draw(&r);
        apply_random(&book, &x[n]);
    }
    for (int s = 0; s < SYMBOLS; s++)
        for (int n = 0; n < FILLS; n++)
            if (x[n].symbol == s)
                apply_random(&other, &x[n]);
    ck_assert(book.totals.cash == other.totals.cash);
    ck_assert(book.totals.realized == other.totals.realized);
    ck_assert(book.totals.fees == other.totals.fees);
    for (size_t i = 0; i < other.n; i++) {
        const struct portfolio_position *p = portfolio_find(&book, other.position[i].symbol);
        ck_assert_ptr_nonnull(p);
        ck_assert_int_eq(p->quantity, other.position[i].quantity);
        ck_assert(p->cost == other.position[i].cost);
        ck_assert(p->realized == other.position[i].realized);
    }
}
END_TEST

/* ---- marks ---- */

START_TEST(the_chain_of_marks)
{
    struct portfolio_mark slot[8] = {{.bid = 0}};
    struct portfolio_marks m = {.slot = slot, .cap = 8};
    const int64_t second = 1000000000, now = 1000 * second, stale = 60 * second;
    int64_t mark = 0;
    ck_assert(!portfolio_mark_price(&m, "A", now, stale, &mark));
    struct portfolio_mark *k = portfolio_mark_of(&m, "A");
    k->close = 90;
    k->bar_ns = now - 60 * second;
    ck_assert(portfolio_mark_price(&m, "A", now, stale, &mark));
    ck_assert_int_eq(mark, 90);
    ck_assert(!portfolio_mark_price(&m, "A", now + 1, stale, &mark));
    k->last = 95;
    k->trade_ns = now;
    ck_assert(portfolio_mark_price(&m, "A", now, stale, &mark));
    ck_assert_int_eq(mark, 95);
    k->bid = INT64_MAX - 3;
    k->ask = INT64_MAX - 1;
    k->quote_ns = now - 59 * second;
    ck_assert(portfolio_mark_price(&m, "A", now, stale, &mark));
    ck_assert_int_eq(mark, INT64_MAX - 2);
    ck_assert(portfolio_mark_price(&m, "A", now + 2 * second, stale, &mark));
    ck_assert_int_eq(mark, 95); /* the quote has gone stale, the trade has not */
    ck_assert_ptr_eq(portfolio_mark_of(&m, "A"), k);
    static const char *const more[] = {"B", "C", "D", "E", "F", "G", "H"};
    size_t made = 1;
    for (size_t i = 0; i < KEEL_COUNT(more); i++)
        made += portfolio_mark_of(&m, more[i]) != NULL;
    ck_assert_uint_eq(made, 6);
    ck_assert(!portfolio_mark_price(&m, "H", now, stale, &mark));
}
END_TEST

/* ---- performance ---- */

START_TEST(returns_leave_capital_out)
{
    /* 10 %, -10 %, and 5 of 99 while 50 were paid in: 1.1 * 0.9 * (1 + 5/99) = 1.04. */
    const struct portfolio_day day[] = {{1, 100, 100}, {2, 110, 100}, {3, 99, 100}, {5, 154, 150}};
    struct portfolio_performance p;
    ck_assert_int_eq(portfolio_perform(day, 4, &p), KEEL_OK);
    ck_assert_uint_eq(p.returns, 3);
    ck_assert_double_eq_tol(p.total_return, 0.04, 1e-12);
    ck_assert_double_eq_tol(p.max_drawdown, 0.1, 1e-12);
    ck_assert_double_eq_tol(p.mean, (5.0 / 99) / 3, 1e-12);
    /* sum of squares about the mean, over n - 1 = 2 */
    double a = 0.1 - p.mean, b = -0.1 - p.mean, c = 5.0 / 99 - p.mean;
    ck_assert_double_eq_tol(p.sd * p.sd, (a * a + b * b + c * c) / 2, 1e-12);
    ck_assert_int_eq(portfolio_perform(day, 1, &p), KEEL_UNDEFINED);
    const struct portfolio_day broke[] = {{1, 0, 100}, {2, 110, 100}};
    ck_assert_int_eq(portfolio_perform(broke, 2, &p), KEEL_UNDEFINED);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ledger");
    TCase *tc = tcase_create("ledger");
    tcase_add_test(tc, the_published_example);
    tcase_add_test(tc, no_mark_is_unknown_unless_flat);
    tcase_add_test(tc, steps_by_hand);
    tcase_add_test(tc, notional_is_rounded_once_half_to_even);
    tcase_add_test(tc, an_opening_balance);
    tcase_add_test(tc, a_multiplier_scales_money_not_price);
    tcase_add_test(tc, what_does_not_fit_changes_nothing);
    tcase_add_loop_test(tc, invariants_of_random_fills, 0, 5);
    tcase_add_loop_test(tc, symbols_do_not_mix, 0, 5);
    tcase_add_test(tc, the_chain_of_marks);
    tcase_add_test(tc, returns_leave_capital_out);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
