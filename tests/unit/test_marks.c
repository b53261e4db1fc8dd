/* marks.c against a plain bitmap of the same numbers, and the cases where ranges meet. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "bus_priv.h"
#include "keel/rng.h"

enum { MOST = 600 };

struct model { bool has[MOST + 2]; };

static uint64_t low_of(const struct model *m)
{
    uint64_t low = 0;
    while (low < MOST && m->has[low + 1])
        low++;
    return low;
}

static void compare(const struct keel_marks *m, const struct model *want)
{
    ck_assert_uint_eq(m->low, low_of(want));
    for (uint64_t i = 1; i <= MOST; i++)
        ck_assert_msg(keel_marks_has(m, i) == want->has[i], "number %llu", (unsigned long long)i);
    for (size_t i = 0; i < m->n; i++) {
        ck_assert_uint_le(m->range[i].a, m->range[i].b);
        ck_assert_uint_gt(m->range[i].a, (i == 0 ? m->low : m->range[i - 1].b) + 1);
    }
}

/* Every order of arrival gives the set of what arrived. */
START_TEST(random_order)
{
    struct keel_marks m = {0};
    struct model want = {0};
    struct keel_rng rng;
    keel_rng_seed(&rng, (uint64_t)_i + 1);
    for (int step = 0; step < 500; step++) {
        uint64_t a = 1 + keel_rng_below(&rng, MOST), b = a + keel_rng_below(&rng, 4);
        if (b > MOST)
            b = MOST;
        if (keel_rng_below(&rng, 3) == 0) {
            keel_marks_add_range(&m, a, b);
            for (uint64_t i = a; i <= b; i++)
                want.has[i] = true;
        } else {
            ck_assert(keel_marks_add(&m, a) == !want.has[a]);
            want.has[a] = true;
        }
        if (step % 25 == 0)
            compare(&m, &want);
    }
    compare(&m, &want);
    keel_marks_fini(&m);
}
END_TEST

START_TEST(missing_runs)
{
    struct keel_marks m = {0};
    struct model want = {0};
    struct keel_rng rng;
    struct keel_range hole;
    keel_rng_seed(&rng, (uint64_t)_i + 77);
    for (int i = 0; i < 200; i++) {
        uint64_t a = 1 + keel_rng_below(&rng, MOST);
        keel_marks_add(&m, a);
        want.has[a] = true;
    }
    uint64_t lo = 1 + keel_rng_below(&rng, MOST / 2), hi = lo + keel_rng_below(&rng, MOST / 2), at = lo;
    bool found[MOST + 2] = {false};
    while (at <= hi && keel_marks_missing(&m, at, hi, &hole)) {
        ck_assert_uint_ge(hole.a, at);
        ck_assert_uint_le(hole.b, hi);
        for (uint64_t i = hole.a; i <= hole.b; i++)
            found[i] = true;
        at = hole.b + 1;
    }
    for (uint64_t i = lo; i <= hi; i++)
        ck_assert_msg(found[i] == !want.has[i], "number %llu of [%llu, %llu]", (unsigned long long)i,
                      (unsigned long long)lo, (unsigned long long)hi);
    keel_marks_fini(&m);
}
END_TEST

START_TEST(in_order_needs_no_memory)
{
    struct keel_marks m = {0};
    for (uint64_t i = 1; i <= 100000; i++)
        ck_assert(keel_marks_add(&m, i));
    ck_assert_uint_eq(m.low, 100000);
    ck_assert_ptr_null(m.range);
    ck_assert(!keel_marks_add(&m, 1));
    ck_assert(!keel_marks_add(&m, 100000));
    keel_marks_fini(&m);
}
END_TEST

/* A hole is closed by its last number, and the low mark takes in all that it then touches. */
START_TEST(hole_closes)
{
    struct keel_marks m = {0};
    struct keel_range hole;
    keel_marks_add_range(&m, 1, 4);
    keel_marks_add_range(&m, 7, 9);
    keel_marks_add_range(&m, 11, 12);
    ck_assert_uint_eq(m.low, 4);
    ck_assert(keel_marks_missing(&m, 1, UINT64_MAX, &hole));
    ck_assert_uint_eq(hole.a, 5);
    ck_assert_uint_eq(hole.b, 6);
    keel_marks_add(&m, 6);
    keel_marks_add(&m, 10);
    ck_assert_uint_eq(m.n, 1);
    keel_marks_add(&m, 5);
    ck_assert_uint_eq(m.low, 12);
    ck_assert_uint_eq(m.n, 0);
    ck_assert(!keel_marks_missing(&m, 1, 12, &hole));
    keel_marks_fini(&m);
}
END_TEST

/* Holes beyond the bound are given up from the oldest on; what was added is never forgotten. */
START_TEST(bounded)
{
    struct keel_marks m = {0};
    uint64_t last = 2 * (KEEL_MARKS_MAX + 100);
    for (uint64_t i = 2; i <= last; i += 2)
        keel_marks_add(&m, i);
    ck_assert_uint_le(m.n, KEEL_MARKS_MAX);
    for (uint64_t i = 2; i <= last; i += 2)
        ck_assert(keel_marks_has(&m, i));
    ck_assert(!keel_marks_has(&m, last - 1));
    ck_assert(keel_marks_has(&m, 1));
    keel_marks_fini(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("marks");
    TCase *tc = tcase_create("marks");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, random_order, 0, 20);
    tcase_add_loop_test(tc, missing_runs, 0, 50);
    tcase_add_test(tc, in_order_needs_no_memory);
    tcase_add_test(tc, hole_closes);
    tcase_add_test(tc, bounded);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
