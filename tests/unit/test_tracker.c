/*
 * Latency tracker: bucket arithmetic over every bucket, quantiles against sorting the samples, exact
 * counts over target, and windows on time that is passed in.
 */
#include <check.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "keel/status.h"
#include "keel/tracker.h"

#define MS INT64_C(1000000)
#define SEC (1000 * MS)

/* Bounds worked out by hand from the definition: 32 buckets of 1 ns, then 32 an octave. */
static const struct { uint64_t ns; uint32_t index; uint64_t upper; } bucket_case[] = {
    {0, 0, 0},
    {31, 31, 31},
    {32, 32, 32},
    {63, 63, 63},
    {64, 64, 65},
    {65, 64, 65},
    {66, 65, 67},
    {127, 95, 127},
    {1000, 190, 1007},                                  /* octave 512..1023 in steps of 16 */
    {1000000, 509, 1015807},                            /* octave 2^19 in steps of 2^14 */
    {(UINT64_C(1) << 42) - 1, 1215, (UINT64_C(1) << 42) - 1},
    {UINT64_C(1) << 42, 1215, (UINT64_C(1) << 42) - 1}, /* the last bucket takes what is beyond */
    {UINT64_MAX, 1215, (UINT64_C(1) << 42) - 1},
};

START_TEST(bucket)
{
    ck_assert_uint_eq(keel_hist_index(bucket_case[_i].ns), bucket_case[_i].index);
    ck_assert_uint_eq(keel_hist_upper(bucket_case[_i].index), bucket_case[_i].upper);
}
END_TEST

/* Buckets touch without gap or overlap, and none is wider than a thirty-second of its smallest value. */
START_TEST(buckets_cover)
{
    uint64_t lower = 0;
    for (uint32_t i = 0; i < KEEL_HIST_BUCKETS; i++) {
        uint64_t upper = keel_hist_upper(i);
        ck_assert_uint_eq(keel_hist_index(lower), i);
        ck_assert_uint_eq(keel_hist_index(upper), i);
        ck_assert_uint_le((upper - lower) * 32, lower);
        lower = upper + 1;
    }
    ck_assert_uint_eq(lower, UINT64_C(1) << 42);
}
END_TEST

static uint64_t draw_state = 88172645463325252u; /* xorshift64 (Marsaglia 2003) */
static uint64_t draw(void)
{
    draw_state ^= draw_state << 13;
    draw_state ^= draw_state >> 7;
    return draw_state ^= draw_state << 17;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The q-quantile by its definition: the smallest sample with at least q of all at or below it. q = parts / 1000. */
static uint64_t exact_quantile(const uint64_t *sorted, uint64_t n, uint64_t parts)
{
    uint64_t rank = (parts * n + 999) / 1000;
    return sorted[rank == 0 ? 0 : rank - 1];
}

enum { SAMPLES = 20000 };

/* Sizes from a few samples to many, spread evenly over the octaves from nanoseconds to minutes. */
START_TEST(quantiles_against_sorting)
{
    static const uint64_t parts[] = {0, 1, 500, 900, 950, 990, 999, 1000};
    static uint64_t x[SAMPLES];
    static struct keel_hist h;
    static const uint64_t sizes[] = {1, 2, 3, 10, 100, 1000, SAMPLES};
    for (size_t s = 0; s < KEEL_COUNT(sizes); s++) {
        memset(&h, 0, sizeof(h));
        uint64_t over = 0, target = 50000000;
        for (uint64_t i = 0; i < sizes[s]; i++) {
            x[i] = draw() >> (64 - 1 - draw() % 41);
            over += x[i] > target;
            keel_hist_add(&h, x[i], target);
        }
        qsort(x, sizes[s], sizeof(x[0]), by_size);
        ck_assert_uint_eq(h.n, sizes[s]);
        ck_assert_uint_eq(h.over, over);
        ck_assert_uint_eq(h.max_ns, x[sizes[s] - 1]);
        uint64_t before = 0;
        for (size_t p = 0; p < KEEL_COUNT(parts); p++) {
            uint64_t want = exact_quantile(x, sizes[s], parts[p]);
            uint64_t got = keel_hist_quantile(&h, (double)parts[p] / 1000);
            ck_assert_msg(got >= want && (double)(got - want) <= 0.032 * (double)want,
                          "n %" PRIu64 " q %" PRIu64 ": %" PRIu64 " is not %" PRIu64, sizes[s], parts[p], got, want);
            ck_assert_uint_ge(got, before);
            ck_assert_uint_le(got, h.max_ns);
            before = got;
        }
        ck_assert_uint_eq(before, h.max_ns);
    }
}
END_TEST

START_TEST(empty_is_zero)
{
    struct keel_tracker *t = keel_tracker_new(5);
    struct keel_track_view v;
    static const int windows[] = {0, 10, 60};
    for (size_t i = 0; i < KEEL_COUNT(windows); i++) {
        memset(&v, 0xff, sizeof(v));
        keel_tracker_view(t, 100 * SEC, windows[i], &v);
        ck_assert_uint_eq(v.n + v.over + v.max_ns + v.p50_ns + v.p999_ns, 0);
        ck_assert_double_eq(v.mean_ns, 0);
    }
    ck_assert_uint_eq(keel_tracker_target(t), 5);
    keel_tracker_free(t);
    keel_tracker_free(NULL);
}
END_TEST

/* A bucket that is full stays full, and the quantiles still come from the buckets. */
START_TEST(full_bucket)
{
    static struct keel_hist h;
    memset(&h, 0, sizeof(h));
    keel_hist_add(&h, 1000, 0);
    keel_hist_add(&h, 9000, 0);
    h.n += UINT32_MAX;
    h.count[keel_hist_index(1000)] = UINT32_MAX;
    keel_hist_add(&h, 1000, 0);
    ck_assert_uint_eq(h.count[keel_hist_index(1000)], UINT32_MAX);
    ck_assert_uint_eq(keel_hist_quantile(&h, 0.999), 1007);
    ck_assert_uint_eq(keel_hist_quantile(&h, 1), 9000);
}
END_TEST

/* Exactly on target is within it. */
START_TEST(over_target_is_exact)
{
    struct keel_tracker *t = keel_tracker_new((uint64_t)(50 * MS));
    struct keel_track_view v;
    for (int64_t i = -500; i < 500; i++)
        keel_tracker_add(t, SEC, (uint64_t)(50 * MS + i), KEEL_OUT_OK);
    keel_tracker_view(t, SEC, 0, &v);
    ck_assert_uint_eq(v.n, 1000);
    ck_assert_uint_eq(v.over, 499);
    keel_tracker_view(t, SEC, 60, &v);
    ck_assert_uint_eq(v.over, 499);
    keel_tracker_free(t);

    t = keel_tracker_new(0);
    keel_tracker_add(t, SEC, UINT64_MAX, KEEL_OUT_OK);
    keel_tracker_view(t, SEC, 0, &v);
    ck_assert_uint_eq(v.over, 0);
    ck_assert_uint_eq(v.max_ns, UINT64_MAX);
    keel_tracker_free(t);
}
END_TEST

START_TEST(outcomes_are_counted)
{
    struct keel_tracker *t = keel_tracker_new(0);
    struct keel_track_view v;
    for (int o = 0; o < KEEL_N_OUTCOME; o++)
        for (int i = 0; i <= o; i++)
            keel_tracker_add(t, SEC, 10, (enum keel_outcome)o);
    for (int i = 0; i < 3; i++)
        keel_tracker_count(t, KEEL_OUT_REJECTED);
    for (int o = 0; o < KEEL_N_OUTCOME; o++)
        ck_assert_uint_eq(keel_tracker_outcome(t, (enum keel_outcome)o),
                          (unsigned)(o + 1 + (o == KEEL_OUT_REJECTED ? 3 : 0)));
    keel_tracker_view(t, SEC, 0, &v);
    ck_assert_uint_eq(v.n, KEEL_N_OUTCOME * (KEEL_N_OUTCOME + 1) / 2); /* what never ran has no latency */
    keel_tracker_free(t);
}
END_TEST

/* One call a second, its latency the number of the second in microseconds; the window is looked at in second 299. */
static const struct { int window_s; uint64_t n, oldest_us; } window_case[] = {
    {0, 300, 0},
    {10, 10, 290}, /* slices [290, 295) and [295, 300) */
    {60, 60, 240},
};

START_TEST(window)
{
    struct keel_tracker *t = keel_tracker_new(0);
    struct keel_track_view v;
    for (int64_t s = 0; s < 300; s++)
        keel_tracker_add(t, s * SEC, (uint64_t)s * 1000, KEEL_OUT_OK);
    keel_tracker_view(t, 299 * SEC, window_case[_i].window_s, &v);
    ck_assert_uint_eq(v.n, window_case[_i].n);
    ck_assert_uint_eq(v.max_ns, 299000);
    ck_assert_double_eq_tol(v.mean_ns, 1000 * ((double)window_case[_i].oldest_us + 299) / 2, 1e-6);
    keel_tracker_free(t);
}
END_TEST

/* However calls and looks are spread over time, a window never holds what is older than its name, and holds all that is
 * younger by more than a slice. */
START_TEST(windows_hold_what_they_say)
{
    enum { KEEP = 4000 };
    static int64_t at[KEEP];
    struct keel_tracker *t = keel_tracker_new(0);
    struct keel_track_view v;
    static const int windows[] = {10, 60};
    int64_t now = 7 * SEC;
    for (int i = 0; i < KEEP; i++) {
        now += (int64_t)(draw() % 400) * MS + (draw() % 100 == 0 ? (int64_t)(draw() % 90) * SEC : 0);
        at[i] = now;
        keel_tracker_add(t, now, 5, KEEL_OUT_OK);
        int64_t look = now + (draw() % 50 == 0 ? (int64_t)(draw() % 70) * SEC : 0);
        for (size_t w = 0; w < KEEL_COUNT(windows); w++) {
            uint64_t most = 0, least = 0;
            for (int k = 0; k <= i; k++) {
                most += look - at[k] <= windows[w] * SEC;
                least += look - at[k] <= (windows[w] - 5) * SEC;
            }
            keel_tracker_view(t, look, windows[w], &v);
            ck_assert_msg(v.n >= least && v.n <= most, "window %d: %" PRIu64 " not in [%" PRIu64 ", %" PRIu64 "]",
                          windows[w], v.n, least, most);
        }
        now = look;
    }
    keel_tracker_view(t, now + 61 * SEC, 60, &v);
    ck_assert_uint_eq(v.n, 0);
    keel_tracker_view(t, now + 61 * SEC, 0, &v);
    ck_assert_uint_eq(v.n, KEEP);
    keel_tracker_free(t);
}
END_TEST

/* A stamp from before the current slice is filed in it, not in one that holds another time. */
START_TEST(time_running_backwards)
{
    struct keel_tracker *t = keel_tracker_new(0);
    struct keel_track_view v;
    keel_tracker_add(t, 100 * SEC, 5, KEEL_OUT_OK);
    keel_tracker_add(t, 50 * SEC, 5, KEEL_OUT_OK);
    keel_tracker_view(t, 100 * SEC, 10, &v);
    ck_assert_uint_eq(v.n, 2);
    keel_tracker_free(t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tracker");
    TCase *tc = tcase_create("tracker");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, bucket, 0, KEEL_COUNT(bucket_case));
    tcase_add_test(tc, buckets_cover);
    tcase_add_test(tc, quantiles_against_sorting);
    tcase_add_test(tc, empty_is_zero);
    tcase_add_test(tc, full_bucket);
    tcase_add_test(tc, over_target_is_exact);
    tcase_add_test(tc, outcomes_are_counted);
    tcase_add_loop_test(tc, window, 0, KEEL_COUNT(window_case));
    tcase_add_test(tc, windows_hold_what_they_say);
    tcase_add_test(tc, time_running_backwards);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
