/*
 * What a portfolio may come to hold. Expected figures are worked out by hand from the definitions in exposure.h; the
 * random runs need no oracle: whatever the order of arrival, nothing that may still reach the position may be left out,
 * and in the end nothing may be held.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exposure.h"
#include "keel/rng.h"
#include "sanitized.h"

#define U KEEL_SCALE
#define MOST INT64_MAX

static void same_money(keel_i128 got, keel_i128 want, const char *why)
{
    char text[2][KEEL_MONEY_TEXT];

    keel_money_print(got, text[0]);
    keel_money_print(want, text[1]);
    ck_assert_msg(got == want, "%s: %s, not %s", why, text[0], text[1]);
}

/* ---- one order ---- */

enum step_kind { END, RECORD, LAST, FILL };
struct step { enum step_kind kind; int64_t quantity, filled; };

static const struct {
    const char *why;
    enum risk_phase from;
    int64_t quantity;
    struct step step[6];
    int64_t leaves;
    bool done;
} entry_case[] = {
    {"a reservation holds all of it", RISK_RESERVED, 10, {{END, 0, 0}}, 10, false},
    {"so does an open order", RISK_RESERVED, 10, {{RECORD, 10, 0}}, 10, false},
    {"filled for strategy, not yet here", RISK_OPEN, 10, {{RECORD, 10, 4}}, 10, false},
    {"filled here", RISK_OPEN, 10, {{RECORD, 10, 4}, {FILL, 4, 0}}, 6, false},
    {"ended without a fill", RISK_OPEN, 10, {{LAST, 10, 0}}, 0, true},
    {"ended, fills on their way", RISK_OPEN, 10, {{LAST, 10, 7}}, 7, false},
    {"ended, one fill here", RISK_OPEN, 10, {{FILL, 3, 0}, {LAST, 10, 7}}, 4, false},
    {"ended, all fills here", RISK_OPEN, 10, {{FILL, 3, 0}, {LAST, 10, 7}, {FILL, 4, 0}}, 0, true},
    {"ended stays ended", RISK_OPEN, 10, {{LAST, 10, 7}, {RECORD, 10, 3}}, 7, false},
    {"a late fill is told by a later last record", RISK_OPEN, 10, {{LAST, 10, 2}, {LAST, 10, 5}}, 5, false},
    {"an order made larger", RISK_OPEN, 10, {{RECORD, 15, 0}, {FILL, 10, 0}}, 5, false},
    {"made smaller: held until the end", RISK_OPEN, 10, {{RECORD, 6, 0}}, 10, false},
    {"filled whole, its end not heard yet", RISK_OPEN, 10, {{FILL, 10, 0}}, 0, false},
    {"a fill of an unheard order", RISK_FOUND, 0, {{FILL, 4, 0}}, 0, false},
    {"its record says how much there is", RISK_FOUND, 0, {{FILL, 4, 0}, {RECORD, 10, 4}}, 6, false},
    {"or that it is over", RISK_FOUND, 0, {{FILL, 4, 0}, {LAST, 10, 4}}, 0, true},
    {"fills beyond any number", RISK_OPEN, 10, {{FILL, MOST, 0}, {FILL, MOST, 0}}, 0, false},
};

START_TEST(entries)
{
    struct risk_entry e = {.phase = entry_case[_i].from, .quantity = entry_case[_i].quantity};

    for (const struct step *s = entry_case[_i].step; s->kind != END; s++) {
        if (s->kind == FILL)
            risk_entry_fill(&e, s->quantity);
        else
            risk_entry_record(&e, s->kind == LAST, s->quantity, s->filled);
    }
    ck_assert_msg(risk_leaves(&e) == entry_case[_i].leaves, "%s: %lld", entry_case[_i].why, (long long)risk_leaves(&e));
    ck_assert_msg(risk_entry_done(&e) == entry_case[_i].done, "%s", entry_case[_i].why);
}
END_TEST

/*
 * One order's life as strategy tells it: SUBMITTED, ACCEPTED, a PARTIALLY_FILLED a fill but the last, its end, and the
 * fills themselves, in any order. Reserved before, or not.
 */
#define FILLS 6
static size_t life(struct keel_rng *rng, struct step *step, int64_t *quantity, int64_t *filled)
{
    size_t n = 0, fills = keel_rng_below(rng, FILLS + 1);
    bool whole = fills > 0 && keel_rng_below(rng, 2) == 0;

    *filled = 0;
    step[n++] = (struct step){RECORD, 0, 0};
    step[n++] = (struct step){RECORD, 0, 0};
    for (size_t i = 0; i < fills; i++) {
        int64_t q = 1 + (int64_t)keel_rng_below(rng, 1000);
        *filled += q;
        step[n++] = (struct step){FILL, q, 0};
        if (i + 1 < fills || !whole)
            step[n++] = (struct step){RECORD, 0, *filled};
    }
    *quantity = whole ? *filled : *filled + 1 + (int64_t)keel_rng_below(rng, 1000);
    step[n++] = (struct step){LAST, 0, *filled};
    for (size_t i = 0; i < n; i++)
        if (step[i].kind != FILL)
            step[i].quantity = *quantity;
    return n;
}

static void shuffle(struct keel_rng *rng, struct step *step, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = keel_rng_below(rng, i);
        struct step one = step[i - 1];
        step[i - 1] = step[j];
        step[j] = one;
    }
}

START_TEST(any_order_of_arrival)
{
    struct keel_rng rng;

    keel_rng_seed(&rng, 20261122 + (uint64_t)_i);
    for (int run = 0; run < CASES(2000); run++) {
        struct step step[2 * FILLS + 4];
        int64_t quantity, filled, arrived = 0;
        size_t n = life(&rng, step, &quantity, &filled), ended = n, over = n;
        bool reserved = keel_rng_below(&rng, 2) == 0;
        struct risk_entry e = {.phase = reserved ? RISK_RESERVED : RISK_FOUND, .quantity = reserved ? quantity : 0};

        shuffle(&rng, step, n);
        for (size_t i = 0; i < n; i++) {
            bool was_done = risk_entry_done(&e);
            if (step[i].kind == FILL) {
                risk_entry_fill(&e, step[i].quantity);
                arrived += step[i].quantity;
            } else {
                risk_entry_record(&e, step[i].kind == LAST, step[i].quantity, step[i].filled);
            }
            if (step[i].kind == LAST)
                ended = i;
            /* Before its end is heard of, all of it may fill; after, exactly what has filled and is not here. */
            if (e.phase != RISK_FOUND)
                ck_assert_int_eq(risk_leaves(&e), (ended < n ? filled : quantity) - arrived);
            else
                ck_assert_msg(ended == n, "an order that ended is known");
            ck_assert_int_ge(risk_leaves(&e), 0);
            ck_assert_msg(!was_done || risk_entry_done(&e), "done is for good");
            if (risk_entry_done(&e) && over == n)
                over = i;
            ck_assert_int_eq(risk_entry_done(&e), ended < n && arrived == filled);
        }
        ck_assert(over < n && risk_entry_done(&e));
        ck_assert_int_eq(e.phase, RISK_ENDED);
        ck_assert_int_eq(e.filled, filled);
        ck_assert_int_eq(e.end_filled, filled);
        ck_assert_int_eq(e.quantity, quantity);
    }
}
END_TEST

/* The same with two orders a side against the position they make: the worst case covers every position that comes. */
START_TEST(worst_case_covers_what_comes)
{
    struct keel_rng rng;

    keel_rng_seed(&rng, 7 + (uint64_t)_i);
    for (int run = 0; run < CASES(500); run++) {
        struct { struct step step[2 * FILLS + 4]; size_t n, at; struct risk_entry e; } o[4];
        struct risk_line line = {.position = (int64_t)keel_rng_below(&rng, 4001) - 2000};
        int64_t worst[4 * (2 * FILLS + 4) + 1], position[4 * (2 * FILLS + 4) + 1];
        size_t left = 0, seen = 0;

        for (int i = 0; i < 4; i++) {
            int64_t quantity, filled;
            o[i].n = life(&rng, o[i].step, &quantity, &filled);
            o[i].at = 0;
            o[i].e = (struct risk_entry){.side = i % 2, .phase = RISK_RESERVED, .quantity = quantity};
            shuffle(&rng, o[i].step, o[i].n);
            left += o[i].n;
        }
        for (;; left--) {
            size_t i;
            line.buys = line.sells = 0;
            for (i = 0; i < 4; i++)
                *(o[i].e.side == RISK_SIDE_BUY ? &line.buys : &line.sells) += risk_leaves(&o[i].e);
            ck_assert_int_eq(risk_worst_quantity(&line, &worst[seen]), KEEL_OK);
            position[seen++] = line.position;
            if (left == 0)
                break;
            do {
                i = keel_rng_below(&rng, 4);
            } while (o[i].at == o[i].n);
            struct step *s = &o[i].step[o[i].at++];
            if (s->kind == FILL) {
                risk_entry_fill(&o[i].e, s->quantity);
                line.position += o[i].e.side == RISK_SIDE_BUY ? s->quantity : -s->quantity;
            } else {
                risk_entry_record(&o[i].e, s->kind == LAST, s->quantity, s->filled);
            }
        }
        for (size_t i = 0; i < seen; i++)
            for (size_t later = i; later < seen; later++)
                ck_assert_int_le(llabs(position[later]), worst[i]);
        ck_assert_int_eq(worst[seen - 1], llabs(position[seen - 1]));
    }
}
END_TEST

/* ---- lines ---- */

static const struct {
    const char *why;
    struct risk_line line;
    enum keel_status st;
    int64_t worst;
} worst_case[] = {
    {"nothing", {.position = 0}, KEEL_OK, 0},
    {"a position alone", {.position = -5}, KEEL_OK, 5},
    {"buys add to a long one", {.position = 5, .buys = 3, .sells = 2}, KEEL_OK, 8},
    {"sells may turn it round", {.position = 5, .buys = 3, .sells = 20}, KEEL_OK, 15},
    {"buys may turn a short one round", {.position = -5, .buys = 12, .sells = 1}, KEEL_OK, 7},
    {"orders on both sides do not net", {.buys = 7, .sells = 7}, KEEL_OK, 7},
    {"as large as there is", {.position = MOST - 3, .buys = 3}, KEEL_OK, MOST},
    {"one more", {.position = MOST - 3, .buys = 4}, KEEL_TOOBIG, 0},
    {"as small as there is", {.position = INT64_MIN + 4, .sells = 3}, KEEL_OK, MOST},
    {"its magnitude does not fit", {.position = INT64_MIN + 4, .sells = 4}, KEEL_TOOBIG, 0},
    {"an order of unknown size", {.position = 1, .unknown = true}, KEEL_UNDEFINED, 0},
};

START_TEST(worst_quantity)
{
    int64_t got = 0;
    enum keel_status st = risk_worst_quantity(&worst_case[_i].line, &got);

    ck_assert_msg(st == worst_case[_i].st, "%s: %s", worst_case[_i].why, keel_status_name(st));
    ck_assert_msg(got == worst_case[_i].worst, "%s: %lld", worst_case[_i].why, (long long)got);
}
END_TEST

static const struct {
    const char *why;
    struct risk_line line;
    int side;
    int64_t quantity;
    bool reduces;
} reduce_case[] = {
    {"flat: nothing reduces", {.position = 0}, RISK_SIDE_SELL, 1, false},
    {"part of a long position", {.position = 10}, RISK_SIDE_SELL, 9, true},
    {"all of it", {.position = 10}, RISK_SIDE_SELL, 10, true},
    {"more than it", {.position = 10}, RISK_SIDE_SELL, 11, false},
    {"the other side adds", {.position = 10}, RISK_SIDE_BUY, 1, false},
    {"all of a short position", {.position = -10}, RISK_SIDE_BUY, 10, true},
    {"one too many", {.position = -10}, RISK_SIDE_BUY, 11, false},
    {"a short position is not sold smaller", {.position = -10}, RISK_SIDE_SELL, 1, false},
    {"what is left by open sells", {.position = 10, .sells = 6}, RISK_SIDE_SELL, 4, true},
    {"open sells take the rest", {.position = 10, .sells = 6}, RISK_SIDE_SELL, 5, false},
    {"open sells take all", {.position = 10, .sells = 11}, RISK_SIDE_SELL, 1, false},
    {"open buys may never fill", {.position = 10, .buys = 50}, RISK_SIDE_SELL, 11, false},
    {"left by open buys", {.position = -10, .buys = 10}, RISK_SIDE_BUY, 1, false},
    {"an unknown order may take it all", {.position = 10, .unknown = true}, RISK_SIDE_SELL, 1, false},
    {"a position without a magnitude", {.position = INT64_MIN}, RISK_SIDE_BUY, 1, false},
};

START_TEST(reducing)
{
    ck_assert_msg(risk_reduces(&reduce_case[_i].line, reduce_case[_i].side, reduce_case[_i].quantity) ==
                      reduce_case[_i].reduces,
                  "%s", reduce_case[_i].why);
}
END_TEST

/* ---- sums ---- */

START_TEST(totals)
{
    /* Long 0.5 at 61659.75 with a buy of 0.5; short 2 at 100 with sells of 3 and buys of 10; flat. */
    const struct risk_line line[] = {
        {.position = U / 2, .buys = U / 2, .mark = 61659750000000, .has_mark = true},
        {.position = -2 * U, .buys = 10 * U, .sells = 3 * U, .mark = 100 * U, .has_mark = true},
        {.position = 0},
    };
    struct risk_totals t;

    ck_assert_int_eq(risk_sum(line, 3, (keel_i128)969157767840000, &t), KEEL_OK);
    ck_assert(t.defined && t.worst_defined);
    ck_assert_uint_eq(t.positions, 2);
    same_money(t.gross, (keel_i128)30829875000000 + 200 * U, "0.5 * 61659.75 + 2 * 100");
    same_money(t.net, (keel_i128)30829875000000 - 200 * U, "0.5 * 61659.75 - 2 * 100");
    same_money(t.largest, (keel_i128)30829875000000, "0.5 * 61659.75");
    same_money(t.equity, (keel_i128)969157767840000 + 30829875000000 - 200 * U, "cash and net");
    same_money(t.worst_gross, (keel_i128)61659750000000 + 800 * U, "1 * 61659.75 + 8 * 100");
}
END_TEST

START_TEST(totals_without_marks)
{
    struct risk_line line[] = {{.position = U, .mark = 10 * U, .has_mark = true}, {.buys = U}};
    struct risk_totals t, before;

    /* An order in a symbol without a mark: the portfolio as it is has its figures, its worst case has not. */
    ck_assert_int_eq(risk_sum(line, 2, 0, &t), KEEL_OK);
    ck_assert(t.defined && !t.worst_defined);
    same_money(t.gross, 10 * U, "gross");
    line[1].position = -1;
    ck_assert_int_eq(risk_sum(line, 2, 0, &t), KEEL_OK);
    ck_assert(!t.defined && !t.worst_defined);
    line[1] = (struct risk_line){.position = U, .mark = 3 * U, .has_mark = true, .unknown = true};
    ck_assert_int_eq(risk_sum(line, 2, 0, &t), KEEL_OK);
    ck_assert_msg(t.defined && !t.worst_defined, "an order of unknown size has a position, and no worst case");
    ck_assert_int_eq(risk_sum(line, 0, 5, &t), KEEL_OK);
    same_money(t.equity, 5, "cash alone");
    before = t;
    line[0] = (struct risk_line){.position = MOST, .buys = 1};
    ck_assert_int_eq(risk_sum(line, 1, 0, &t), KEEL_TOOBIG);
    ck_assert_msg(t.equity == before.equity && t.gross == before.gross, "untouched by a failure");
}
END_TEST

static const struct {
    const char *why;
    keel_i128 a, b;
    enum keel_status st;
    keel_i128 want;
} ratio_case[] = {
    {"a whole", 6 * U, 2 * U, KEEL_OK, 3 * U},
    {"a third, down", U, 3 * U, KEEL_OK, 333333333},
    {"two thirds, up", 2 * U, 3 * U, KEEL_OK, 666666667},
    {"half of the last place, to even below", 1, 2 * U, KEEL_OK, 0},
    {"half of the last place, to even above", 3, 2 * U, KEEL_OK, 2},
    {"negative", -2 * U, 3 * U, KEEL_OK, -666666667},
    {"nothing", 0, U, KEEL_OK, 0},
    {"by nothing", U, 0, KEEL_TOOBIG, 0},
    {"by less than nothing", U, -U, KEEL_TOOBIG, 0},
    {"as large as it takes", ((keel_i128)1) << 96, (keel_i128)U << 64, KEEL_OK, ((keel_i128)1) << 32},
    {"larger", (((keel_i128)1) << 96) + 1, U, KEEL_TOOBIG, 0},
    {"smaller than the smallest", (-(((keel_i128)1) << 96)) - 1, U, KEEL_TOOBIG, 0},
};

START_TEST(ratios)
{
    keel_i128 got = 0;
    enum keel_status st = risk_ratio(ratio_case[_i].a, ratio_case[_i].b, &got);

    ck_assert_msg(st == ratio_case[_i].st, "%s: %s", ratio_case[_i].why, keel_status_name(st));
    same_money(got, ratio_case[_i].want, ratio_case[_i].why);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("exposure");
    TCase *orders = tcase_create("orders"), *lines = tcase_create("lines");

    tcase_add_loop_test(orders, entries, 0, (int)KEEL_COUNT(entry_case));
    tcase_add_loop_test(orders, any_order_of_arrival, 0, 4);
    tcase_add_loop_test(orders, worst_case_covers_what_comes, 0, 4);
    tcase_add_loop_test(lines, worst_quantity, 0, (int)KEEL_COUNT(worst_case));
    tcase_add_loop_test(lines, reducing, 0, (int)KEEL_COUNT(reduce_case));
    tcase_add_test(lines, totals);
    tcase_add_test(lines, totals_without_marks);
    tcase_add_loop_test(lines, ratios, 0, (int)KEEL_COUNT(ratio_case));
    suite_add_tcase(suite, orders);
    suite_add_tcase(suite, lines);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
