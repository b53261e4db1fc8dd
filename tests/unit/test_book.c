/* The order book against a naive model, its numbering rules case by case, and SHA-256 against FIPS 180-4's examples. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "book.h"
#include "keel/arena.h"
#include "keel/rng.h"
#include "keel/status.h"
#include "keel/sha256.h"

static struct book b;

static void setup(void)
{
    book_init(&b);
}

static void teardown(void)
{
    book_fini(&b);
}

#define MODEL 400
/* The naive book: quantity by price. */
struct model { int64_t bid[MODEL], ask[MODEL]; };

static void same(const struct book_side *side, const int64_t *model, int sign)
{
    struct book_level top[MODEL];
    size_t n = book_top(side, MODEL, top), k = 0;

    for (int i = 0; i < MODEL; i++) {
        int price = sign > 0 ? MODEL - 1 - i : i;
        if (model[price] == 0)
            continue;
        ck_assert_uint_lt(k, n);
        ck_assert_int_eq(top[k].price, price + 1);
        ck_assert_int_eq(top[k].qty, model[price]);
        k++;
    }
    ck_assert_uint_eq(k, n);
}

/* Bids below 200 and asks above, so that it never crosses; four in ten changes remove. */
START_TEST(random_changes)
{
    struct keel_rng rng;
    struct model m = {{0}, {0}};
    struct book_delta first = {.snapshot = true};

    keel_rng_seed(&rng, (uint64_t)_i);
    book_apply(&b, &first, 1);
    for (int round = 0; round < 3000; round++) {
        struct book_level bid[8], ask[8];
        struct book_delta d = {.bids = bid, .asks = ask, .n_bids = keel_rng_below(&rng, 8),
                               .n_asks = keel_rng_below(&rng, 8)};
        for (size_t i = 0; i < d.n_bids; i++) {
            int64_t p = (int64_t)keel_rng_below(&rng, 200);
            bid[i] =
                (struct book_level){p + 1, keel_rng_below(&rng, 10) < 4 ? 0 : 1 + (int64_t)keel_rng_below(&rng, 99)};
            m.bid[p] = bid[i].qty;
        }
        for (size_t i = 0; i < d.n_asks; i++) {
            int64_t p = 200 + (int64_t)keel_rng_below(&rng, 200);
            ask[i] =
                (struct book_level){p + 1, keel_rng_below(&rng, 10) < 4 ? 0 : 1 + (int64_t)keel_rng_below(&rng, 99)};
            m.ask[p] = ask[i].qty;
        }
        book_apply(&b, &d, round + 2);
        if (round % 50 == 0) {
            same(&b.bid, m.bid, 1);
            same(&b.ask, m.ask, -1);
        }
    }
    same(&b.bid, m.bid, 1);
    same(&b.ask, m.ask, -1);
    ck_assert_int_eq(b.state, BOOK_LIVE);
    ck_assert_uint_eq(b.applied, 3000);
}
END_TEST

/* One step: a snapshot ('s') or a difference (first, last, prev), and what the book must be after it. */
struct step { char what; int64_t first, last, prev; enum book_state state; uint64_t applied, dropped, gaps; };
static const struct { const char *why; enum book_rule rule; struct step step[8]; } rule_case[] = {
    {"futures: buffered ones that straddle",
     BOOK_FUTURES,
     {{'d', 1, 5, 0, BOOK_SYNCING, 0, 0, 0},
      {'d', 6, 12, 5, BOOK_SYNCING, 0, 0, 0},
      {'s', 0, 10, 0, BOOK_LIVE, 1, 1, 0},
      {'d', 15, 20, 12, BOOK_LIVE, 2, 1, 0},
      {'d', 22, 25, 21, BOOK_DESYNC, 2, 1, 1},
      {'d', 26, 30, 25, BOOK_DESYNC, 2, 1, 1},
      {'s', 0, 27, 0, BOOK_LIVE, 3, 2, 1}}},
    {"futures: last equal to the snapshot's is applied",
     BOOK_FUTURES,
     {{'d', 6, 10, 5, BOOK_SYNCING, 0, 0, 0}, {'s', 0, 10, 0, BOOK_LIVE, 1, 0, 0}}},
    {"futures: a snapshot too old",
     BOOK_FUTURES,
     {{'d', 6, 12, 5, BOOK_SYNCING, 0, 0, 0},
      {'s', 0, 3, 0, BOOK_DESYNC, 0, 0, 1},
      {'s', 0, 8, 0, BOOK_LIVE, 1, 0, 1}}},
    {"futures: the snapshot before any difference",
     BOOK_FUTURES,
     {{'s', 0, 10, 0, BOOK_LIVE, 0, 0, 0},
      {'d', 4, 9, 3, BOOK_LIVE, 0, 1, 0},
      {'d', 10, 14, 9, BOOK_LIVE, 1, 1, 0},
      {'d', 15, 16, 14, BOOK_LIVE, 2, 1, 0}}},
    {"spot: first straddles last + 1",
     BOOK_SPOT,
     {{'d', 5, 10, 0, BOOK_SYNCING, 0, 0, 0},
      {'d', 11, 12, 0, BOOK_SYNCING, 0, 0, 0},
      {'s', 0, 10, 0, BOOK_LIVE, 1, 1, 0},
      {'d', 13, 13, 0, BOOK_LIVE, 2, 1, 0},
      {'d', 15, 15, 0, BOOK_DESYNC, 2, 1, 1}}},
    {"plain: each follows the one before",
     BOOK_PLAIN,
     {{'s', 0, 10, 0, BOOK_LIVE, 0, 0, 0},
      {'d', 11, 12, 0, BOOK_LIVE, 1, 0, 0},
      {'d', 11, 12, 0, BOOK_LIVE, 1, 1, 0},
      {'d', 14, 14, 0, BOOK_DESYNC, 1, 1, 1}}},
};

START_TEST(numbering)
{
    for (size_t i = 0; i < KEEL_COUNT(rule_case[_i].step) && rule_case[_i].step[i].what != 0; i++) {
        const struct step *s = &rule_case[_i].step[i];
        struct book_level bid = {100, 1}, ask = {101, 1};
        struct book_delta d = {.snapshot = s->what == 's',
                               .has_seq = true,
                               .rule = rule_case[_i].rule,
                               .first_seq = s->first,
                               .last_seq = s->last,
                               .prev_seq = s->prev,
                               .bids = &bid,
                               .asks = &ask,
                               .n_bids = 1,
                               .n_asks = 1};
        book_apply(&b, &d, (int64_t)i);
        ck_assert_msg(b.state == s->state && b.applied == s->applied && b.dropped == s->dropped && b.gaps == s->gaps,
                      "%s, step %zu: state %d applied %d dropped %d gaps %d", rule_case[_i].why, i, b.state,
                      (int)b.applied, (int)b.dropped, (int)b.gaps);
        if (b.state != BOOK_LIVE)
            ck_assert_ptr_null(book_best(&b.bid));
    }
}
END_TEST

START_TEST(crossed_and_locked)
{
    struct book_level bid = {100, 1}, ask = {101, 1};
    struct book_delta d = {.snapshot = true, .bids = &bid, .asks = &ask, .n_bids = 1, .n_asks = 1};

    book_apply(&b, &d, 1);
    d.snapshot = false;
    bid.price = 101;
    book_apply(&b, &d, 2);
    ck_assert_int_eq(b.state, BOOK_LIVE);
    bid.price = 102;
    ck_assert(book_apply(&b, &d, 3));
    ck_assert_int_eq(b.state, BOOK_DESYNC);
    ck_assert_uint_eq(b.crossed, 1);
    d.snapshot = true;
    book_apply(&b, &d, 4);
    ck_assert_int_eq(b.state, BOOK_DESYNC);
    bid.price = 100;
    book_apply(&b, &d, 5);
    ck_assert_int_eq(b.state, BOOK_LIVE);
}
END_TEST

START_TEST(staleness)
{
    struct book_delta d = {.snapshot = true};

    ck_assert(!book_age(&b, 1000, 10));
    book_apply(&b, &d, 100);
    ck_assert(!book_age(&b, 109, 10));
    ck_assert(book_age(&b, 110, 10));
    ck_assert(!book_age(&b, 111, 10));
    ck_assert_int_eq(b.state, BOOK_STALE);
    d.snapshot = false;
    ck_assert(book_apply(&b, &d, 112));
    ck_assert_int_eq(b.state, BOOK_LIVE);
}
END_TEST

/* Neither levels nor waiting differences grow beyond their bounds, and the best levels survive. */
START_TEST(bounds)
{
    struct book_level l;
    struct book_delta d = {.bids = &l, .n_bids = 1};

    for (int i = 0; i < BOOK_MAX_WAITING + 10; i++) {
        l = (struct book_level){i + 1, 1};
        book_apply(&b, &d, i);
    }
    ck_assert_uint_eq(b.n_waiting, BOOK_MAX_WAITING);
    ck_assert_uint_eq(b.dropped, 10);
    d.snapshot = true;
    book_apply(&b, &d, 1);
    d.snapshot = false;
    for (int i = 0; i < BOOK_MAX_LEVELS + 100; i++) {
        l = (struct book_level){1 + (i * 7919LL) % (BOOK_MAX_LEVELS + 100), 1};
        book_apply(&b, &d, i);
    }
    ck_assert_uint_eq(b.bid.n, BOOK_MAX_LEVELS);
    ck_assert_int_ge(book_best(&b.bid)->price, BOOK_MAX_LEVELS);
    book_reset(&b);
    ck_assert_int_eq(b.state, BOOK_SYNCING);
    ck_assert_ptr_null(book_best(&b.bid));
}
END_TEST

/* FIPS 180-2 appendix B (one block, two blocks, a million times "a"), and the empty message. */
static const struct { const char *text; size_t times; const char *digest; } sha_case[] = {
    {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {"aaaaaaaaaa", 100000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
};

START_TEST(sha256_examples)
{
    char text[KEEL_SHA256_TEXT];
    struct keel_sha256 s;

    keel_sha256_init(&s);
    for (size_t i = 0; i < sha_case[_i].times; i++)
        keel_sha256_add(&s, sha_case[_i].text, strlen(sha_case[_i].text));
    keel_sha256_text(&s, text);
    ck_assert_str_eq(text, sha_case[_i].digest);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("book");
    TCase *tc = tcase_create("book");
    SRunner *sr;
    int bad;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, random_changes, 0, 4);
    tcase_add_loop_test(tc, numbering, 0, KEEL_COUNT(rule_case));
    tcase_add_test(tc, crossed_and_locked);
    tcase_add_test(tc, staleness);
    tcase_add_test(tc, bounds);
    tcase_add_loop_test(tc, sha256_examples, 0, KEEL_COUNT(sha_case));
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    bad = srunner_ntests_failed(sr);
    srunner_free(sr);
    return bad != 0;
}
