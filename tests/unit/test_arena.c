/* Memory of a call: what keel/arena.h promises. */
#include "keel/arena.h"

#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static bool is_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0)
            return false;
    return true;
}

START_TEST(zeroed_and_aligned)
{
    struct keel_arena *a = keel_arena_new(256);
    for (int round = 0; round < 3; round++) {
        for (size_t n = 0; n < 700; n += 7) {
            unsigned char *p = keel_arena_alloc(a, n);
            ck_assert_uint_eq((uintptr_t)p % 16, 0);
            ck_assert(is_zero(p, n));
            memset(p, 0xA5, n); /* the next round gets it again */
        }
        keel_arena_reset(a);
        ck_assert_uint_eq(keel_arena_used(a), 0);
    }
    keel_arena_free(a);
}
END_TEST

/* Both ways the arena is empty afterwards and goes on being used. */
START_TEST(shed)
{
    struct keel_arena *a = keel_arena_new(256);
    for (int round = 0; round < 3; round++) {
        char *small = keel_arena_text(a, 200), *large = keel_arena_text(a, 5000);
        memset(small, 's', 200);
        memset(large, 'l', 5000);
        ck_assert_ptr_null(keel_arena_shed(a, 100000)); /* freed, as by a reset */
        ck_assert_uint_eq(keel_arena_used(a), 0);

        large = keel_arena_text(a, 5000);
        memset(large, 'l', 5000);
        struct keel_arena *rest = keel_arena_shed(a, 4000);
        ck_assert_ptr_nonnull(rest);
        ck_assert_uint_eq(keel_arena_used(a), 0);
        memset(keel_arena_text(a, 5000), 'x', 5000); /* memory of its own */
        ck_assert(large[0] == 'l' && large[4999] == 'l');
        ck_assert_uint_ge(keel_arena_used(rest), 5000);
        ck_assert(is_zero(keel_arena_alloc(rest, 64), 64)); /* an arena like any other */
        keel_arena_free(rest);
        keel_arena_reset(a);
    }
    ck_assert_ptr_null(keel_arena_shed(a, 0)); /* nothing but the first chunk */
    keel_arena_free(a);
}
END_TEST

/* Only the chunk with the block leaves, wherever it is in the chain. */
START_TEST(part)
{
    for (size_t which = 0; which < 3; which++) {
        struct keel_arena *a = keel_arena_new(256);
        char *first = keel_arena_text(a, 200), *block[3];
        size_t size[3];
        for (size_t i = 0; i < 3; i++) {
            size[i] = 5000U << i * 2; /* more than the chunk before it has left */
            block[i] = keel_arena_text(a, size[i]);
            memset(block[i], 'a' + (int)i, size[i]);
        }
        ck_assert_ptr_null(keel_arena_part(a, first));
        ck_assert_ptr_null(keel_arena_part(a, &which));
        struct keel_arena *p = keel_arena_part(a, block[which] + size[which] - 1);
        ck_assert_ptr_nonnull(p);
        ck_assert_ptr_null(keel_arena_part(a, block[which]));
        memset(keel_arena_text(a, 100000), 'x', 100000); /* both go on */
        memset(keel_arena_text(p, 100000), 'y', 100000);
        for (size_t i = 0; i < 3; i++)
            ck_assert(block[i][0] == 'a' + (int)i && block[i][size[i] - 1] == 'a' + (int)i);
        keel_arena_free(which % 2 == 0 ? a : p);
        keel_arena_free(which % 2 == 0 ? p : a);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("arena");
    TCase *tc = tcase_create("arena");
    tcase_add_test(tc, zeroed_and_aligned);
    tcase_add_test(tc, shed);
    tcase_add_test(tc, part);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
