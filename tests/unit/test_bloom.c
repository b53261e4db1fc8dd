/* The filter of used ids: what was added is never denied, what was not seldom claimed, while it grows. The share of
 * false claims is compared with the one that Bloom's formula gives for 16 bits and 8 probes a name, 0.06 % of a part. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "bloom.h"

enum { MANY = 300000, NAME = 80 };

/* Ids as callers make them: they differ in a few digits at the end, or at the start. */
static const struct {
    const char *before, *after;
} form[] = {
    {"desk-20261122-", ""},
    {"", "-a"},
    {"P-k3j9x0q1b2c4-", ""},
    {"an-id-that-is-as-long-as-one-may-be-and-differs-at-its-end-", ""},
};

static void name_of(char out[NAME], int kind, int i)
{
    snprintf(out, NAME, "%s%d%s", form[kind].before, i, form[kind].after);
}

START_TEST(an_empty_one_knows_nothing)
{
    struct strategy_bloom b = {.n_parts = 0};

    ck_assert(!strategy_bloom_maybe(&b, "a"));
    ck_assert(!strategy_bloom_maybe(&b, ""));
    strategy_bloom_fini(&b);
}
END_TEST

START_TEST(grows_and_denies_nothing)
{
    struct strategy_bloom b = {.n_parts = 0};
    char name[NAME];
    size_t denied = 0, false_claims = 0;

    for (int i = 0; i < MANY; i++) {
        name_of(name, _i, i);
        strategy_bloom_add(&b, name);
        denied += !strategy_bloom_maybe(&b, name);
    }
    /* 16,384 in the first part, twice as many in each that follows: 4 hold 245,760. */
    ck_assert_uint_eq(b.n_parts, 5);
    ck_assert_uint_eq(b.n, MANY - 245760);
    for (int i = 0; i < MANY; i++) {
        name_of(name, _i, i);
        denied += !strategy_bloom_maybe(&b, name);
        name_of(name, _i, MANY + i);
        false_claims += strategy_bloom_maybe(&b, name);
    }
    ck_assert_uint_eq(denied, 0);
    /* Four full parts and one that is hardly filled: 4 times 0.0574 %. */
    ck_assert_msg(false_claims > MANY * 0.0018 && false_claims < MANY * 0.0029, "%zu", false_claims);
    strategy_bloom_fini(&b);
    ck_assert(!strategy_bloom_maybe(&b, name));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bloom");
    TCase *tc = tcase_create("bloom");
    SRunner *sr;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, an_empty_one_knows_nothing);
    tcase_add_loop_test(tc, grows_and_denies_nothing, 0, (int)(sizeof form / sizeof form[0]));
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
