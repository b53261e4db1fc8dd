/*
 * Latency tracker: bucket arithmetic over every bucket, quantiles against sorting the samples, exact
 * counts over target, and windows on time that is passed in.
 */
#include <check.h>
#include <inttypes.h>
#include <stdbool.h>
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
        keel_tracker_count(t, SEC, KEEL_OUT_REJECTED);
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
    {10, 10, 290},
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

enum { CALLS = 6000 };

struct call { int64_t second; uint64_t ns; enum keel_outcome o; bool measured; };

static struct call made[CALLS];
static uint64_t sorted[CALLS];

/* Everything of one window by its definition: the calls of the second of `look` and of those before it. */
static void check_window(struct keel_tracker *t, int n_made, int64_t look, int window_s)
{
    static const uint64_t parts[] = {500, 900, 950, 990, 999};
    uint64_t n = 0, over = 0, outcomes[KEEL_N_OUTCOME] = {0};
    double sum = 0;
    struct keel_track_view v;
    for (int i = 0; i < n_made; i++) {
        if (window_s != 0 && made[i].second <= look / SEC - window_s)
            continue;
        outcomes[made[i].o]++;
        if (!made[i].measured)
            continue;
        over += made[i].ns > keel_tracker_target(t);
        sum += (double)made[i].ns;
        sorted[n++] = made[i].ns;
    }
    qsort(sorted, n, sizeof(sorted[0]), by_size);
    keel_tracker_view(t, look, window_s, &v);
    ck_assert_msg(v.n == n && v.over == over && v.max_ns == (n > 0 ? sorted[n - 1] : 0) &&
                      memcmp(v.outcomes, outcomes, sizeof(outcomes)) == 0,
                  "window %d after %d calls: %" PRIu64 " calls, not %" PRIu64 "; %" PRIu64 " over, not %" PRIu64,
                  window_s, n_made, v.n, n, v.over, over);
    ck_assert_double_eq_tol(v.mean_ns, n > 0 ? sum / (double)n : 0, 1e-9 * (1 + v.mean_ns));
    const uint64_t got[] = {v.p50_ns, v.p90_ns, v.p95_ns, v.p99_ns, v.p999_ns};
    for (size_t p = 0; n > 0 && p < KEEL_COUNT(parts); p++) {
        uint64_t want = exact_quantile(sorted, n, parts[p]);
        ck_assert_msg(got[p] >= want && (double)(got[p] - want) <= 0.032 * (double)want,
                      "window %d after %d calls, %" PRIu64 "/1000: %" PRIu64 " is not %" PRIu64, window_s, n_made,
                      parts[p], got[p], want);
    }
}

/* Calls in bursts and lulls, latencies over all octaves or close together, looks now and later, seconds nobody looked
 * at and seconds without a call. */
START_TEST(windows_against_sorting)
{
    struct keel_tracker *t = keel_tracker_new(1000000);
    static const int windows[] = {0, 10, 60};
    int64_t now = 7 * SEC;
    for (int i = 0; i < CALLS; i++) {
        bool burst = i / 500 % 2 == 0;
        now += (int64_t)(draw() % (burst ? 20 : 900)) * MS + (int64_t)(draw() % 1000000);
        now += draw() % 300 == 0 ? (int64_t)(draw() % 90) * SEC : 0;
        uint64_t ns = i / 1000 % 2 == 0 ? draw() >> (64 - 1 - draw() % 41) : 900000 + draw() % 200000;
        enum keel_outcome o = (enum keel_outcome)(draw() % KEEL_N_OUTCOME);
        made[i] = (struct call){now / SEC, ns, o, draw() % 5 != 0};
        if (made[i].measured)
            keel_tracker_add(t, now, ns, o);
        else
            keel_tracker_count(t, now, o);
        if (draw() % 20 != 0)
            continue;
        now += draw() % 4 == 0 ? (int64_t)(draw() % 70) * SEC : 0;
        for (size_t w = 0; w < KEEL_COUNT(windows); w++)
            check_window(t, i + 1, now, windows[w]);
    }
    for (int64_t later = 0; later < 70; later++)
        check_window(t, CALLS, now + later * SEC, 60);
    keel_tracker_free(t);
}
END_TEST

/* More different latencies a second than there is room for: quantiles are those of the newest seconds, counts are still
 * those of all. Latencies tell the second they are of. */
START_TEST(a_minute_too_full)
{
    enum { EACH = 1100, MINUTE = 200 };
    struct keel_tracker *t = keel_tracker_new(100);
    struct keel_track_view v;
    for (uint64_t s = 0; s < MINUTE; s++)
        for (uint64_t i = 0; i < EACH; i++)
            keel_tracker_add(t, (int64_t)s * SEC + 1, keel_hist_upper((uint32_t)(i + s % 100)), KEEL_OUT_OK);
    keel_tracker_view(t, (MINUTE - 1) * SEC + 1, 60, &v);
    ck_assert_uint_eq(v.n, 60 * EACH);
    ck_assert_uint_eq(v.max_ns, keel_hist_upper(EACH - 1 + 99));
    ck_assert_double_lt((double)keel_hist_index(v.p50_ns), 100 + EACH / 2.0);
    ck_assert_double_gt((double)keel_hist_index(v.p50_ns), 50 + EACH / 2.0); /* the older half begins lower */
    /* Whole seconds, each call of them once. */
    struct keel_track_sum sum = {0};
    uint64_t total = 0;
    keel_tracker_collect(t, (MINUTE - 1) * SEC + 1, 60, &sum);
    for (size_t i = 0; i < KEEL_HIST_BUCKETS; i++)
        total += sum.hist.count[i];
    ck_assert_uint_eq(total % EACH, 0);
    ck_assert_uint_ge(total, 10 * EACH);
    ck_assert_uint_lt(total, 60 * EACH);
    keel_tracker_view(t, (MINUTE + 60) * SEC, 60, &v);
    ck_assert_uint_eq(v.n + v.max_ns + v.p50_ns, 0);
    keel_tracker_add(t, (MINUTE + 60) * SEC, 77, KEEL_OUT_OK);
    keel_tracker_view(t, (MINUTE + 61) * SEC, 10, &v);
    ck_assert_uint_eq(v.p50_ns, 77);
    keel_tracker_free(t);
}
END_TEST

/* A stamp from before the current second is filed in it, not in one that holds another time. */
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
    tcase_add_test(tc, windows_against_sorting);
    tcase_add_test(tc, a_minute_too_full);
    tcase_add_test(tc, time_running_backwards);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
