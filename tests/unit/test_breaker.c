/*
 * Circuit breaker: named cases. What no one thought of is in test_breaker_model.c.
 */
#include <check.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "keel/breaker.h"
#include "keel/status.h"

#define MS INT64_C(1000000)
#define SEC (1000 * MS)

/* ---- named cases ---- */

static struct keel_breaker_conf exact_conf(void)
{
    struct keel_breaker_conf c = keel_breaker_defaults();
    c.jitter = 0;
    return c;
}

static struct keel_breaker_ticket admit_ok(struct keel_breaker *b, int64_t now)
{
    struct keel_breaker_ticket t = {0};
    int64_t retry = 0;
    ck_assert_msg(keel_breaker_admit(b, now, &t, &retry), "refused at %" PRId64, now);
    return t;
}

static int64_t admit_no(struct keel_breaker *b, int64_t now)
{
    struct keel_breaker_ticket t = {0};
    int64_t retry = -1;
    ck_assert_msg(!keel_breaker_admit(b, now, &t, &retry), "admitted at %" PRId64, now);
    ck_assert_int_ge(retry, 0);
    return retry;
}

static void run_calls(struct keel_breaker *b, uint32_t n, enum keel_outcome o, int64_t now)
{
    for (uint32_t i = 0; i < n; i++)
        keel_breaker_settle(b, admit_ok(b, now), o, now);
}

static const char *last_reason(const struct keel_breaker *b)
{
    ck_assert_uint_gt(b->n_transitions, 0);
    return b->last[(b->n_transitions - 1) % KEEL_COUNT(b->last)].reason;
}

static const struct {
    const char *why;
    struct { uint32_t n; enum keel_outcome o; } run[4];
    const char *reason; /* NULL: stays closed */
} open_case[] = {
    {"four failures are not five", {{4, KEEL_OUT_FAILURE}}, NULL},
    {"five consecutive failures", {{5, KEEL_OUT_FAILURE}}, "consecutive_failures"},
    {"timeouts count as failures", {{3, KEEL_OUT_FAILURE}, {2, KEEL_OUT_TIMEOUT}}, "consecutive_failures"},
    {"an OK ends the run", {{4, KEEL_OUT_FAILURE}, {1, KEEL_OUT_OK}, {4, KEEL_OUT_FAILURE}}, NULL},
    {"a slow answer ends the run too", {{4, KEEL_OUT_FAILURE}, {1, KEEL_OUT_SLOW}, {4, KEEL_OUT_FAILURE}}, NULL},
    {"what does not count does not end it", {{4, KEEL_OUT_FAILURE}, {9, KEEL_OUT_CLIENT}, {1, KEEL_OUT_FAILURE}},
     "consecutive_failures"},
    {"15 slow of 19: too few calls", {{4, KEEL_OUT_OK}, {15, KEEL_OUT_SLOW}}, NULL},
    {"16 slow of 20", {{4, KEEL_OUT_OK}, {16, KEEL_OUT_SLOW}}, "slow_rate"},
    {"15 slow of 20", {{5, KEEL_OUT_OK}, {15, KEEL_OUT_SLOW}}, NULL},
    {"client errors never move it", {{500, KEEL_OUT_CLIENT}}, NULL},
    {"rejections never move it", {{500, KEEL_OUT_REJECTED}}, NULL},
    {"cancellations never move it", {{500, KEEL_OUT_CANCELLED}}, NULL},
};

START_TEST(opens_or_not)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    keel_breaker_init(&b, &c);
    for (size_t i = 0; i < KEEL_COUNT(open_case[_i].run); i++)
        run_calls(&b, open_case[_i].run[i].n, open_case[_i].run[i].o, SEC);
    if (open_case[_i].reason == NULL) {
        ck_assert_msg(b.state == KEEL_CLOSED && b.n_transitions == 0, "%s: %s", open_case[_i].why,
                      keel_breaker_state_name(&b));
    } else {
        ck_assert_msg(b.state == KEEL_OPENED, "%s: %s", open_case[_i].why, keel_breaker_state_name(&b));
        ck_assert_str_eq(last_reason(&b), open_case[_i].reason);
        ck_assert_int_eq(admit_no(&b, SEC), 60 * SEC);
    }
}
END_TEST

/* One failure in two, never five in a row: only the rate sees it, at the twentieth call and not before. */
START_TEST(failure_rate_opens)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    keel_breaker_init(&b, &c);
    for (int i = 0; i < 20; i++) {
        ck_assert_int_eq(b.state, KEEL_CLOSED);
        run_calls(&b, 1, i % 2 == 0 ? KEEL_OUT_OK : KEEL_OUT_FAILURE, SEC);
    }
    ck_assert_int_eq(b.state, KEEL_OPENED);
    ck_assert_str_eq(last_reason(&b), "failure_rate");
    ck_assert_double_eq(keel_breaker_failure_rate(&b, SEC), 0.5);
}
END_TEST

/* The window forgets: old failures leave it one by one. */
START_TEST(window_forgets)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    c.failures = 1000;
    c.failure_rate = 2;
    keel_breaker_init(&b, &c);
    run_calls(&b, 60, KEEL_OUT_FAILURE, SEC);
    run_calls(&b, 40, KEEL_OUT_OK, SEC);
    ck_assert_double_eq(keel_breaker_failure_rate(&b, SEC), 0.6);
    run_calls(&b, 50, KEEL_OUT_SLOW, SEC);
    ck_assert_double_eq(keel_breaker_failure_rate(&b, SEC), 0.1);
    ck_assert_double_eq(keel_breaker_slow_rate(&b, SEC), 0.5);
}
END_TEST

/* A minute's cool-down and the recovery after it, on time that is passed in. */
START_TEST(recovers_after_a_minute)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    keel_breaker_init(&b, &c);
    run_calls(&b, 5, KEEL_OUT_FAILURE, SEC);
    ck_assert_int_eq(admit_no(&b, 61 * SEC - 1), 1);
    ck_assert(!keel_breaker_would_admit(&b, 61 * SEC - 1));
    ck_assert(keel_breaker_would_admit(&b, 61 * SEC));
    ck_assert_int_eq(b.state, KEEL_OPENED); /* asking changed nothing */
    struct keel_breaker_ticket one = admit_ok(&b, 61 * SEC), two = admit_ok(&b, 61 * SEC);
    ck_assert_str_eq(keel_breaker_state_name(&b), "half_open");
    ck_assert_int_eq(admit_no(&b, 61 * SEC), SEC);
    keel_breaker_settle(&b, one, KEEL_OUT_OK, 62 * SEC);
    keel_breaker_settle(&b, two, KEEL_OUT_SLOW, 62 * SEC);
    ck_assert_int_eq(b.state, KEEL_HALF_OPEN);
    run_calls(&b, 1, KEEL_OUT_OK, 62 * SEC);
    ck_assert_int_eq(b.state, KEEL_CLOSED);
    ck_assert_str_eq(last_reason(&b), "recovered");
    ck_assert_uint_eq(b.n_transitions, 3);
    ck_assert_uint_eq(b.consecutive_failures, 0);
    ck_assert_int_eq(b.last_failure_ns, SEC);
}
END_TEST

/* 60 s, then doubled by each fruitless probe up to eight times as long, and from the start again after a recovery. */
START_TEST(waits_double_up_to_the_cap)
{
    static const int64_t wait_s[] = {60, 120, 240, 480, 480, 480};
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    keel_breaker_init(&b, &c);
    int64_t now = SEC;
    run_calls(&b, 5, KEEL_OUT_FAILURE, now);
    for (size_t i = 0; i < KEEL_COUNT(wait_s); i++) {
        ck_assert_int_eq(b.retry_at_ns - now, wait_s[i] * SEC);
        now = b.retry_at_ns;
        run_calls(&b, 1, KEEL_OUT_FAILURE, now);
        ck_assert_str_eq(last_reason(&b), "probe_failed");
    }
    now = b.retry_at_ns;
    run_calls(&b, 3, KEEL_OUT_OK, now);
    ck_assert_int_eq(b.state, KEEL_CLOSED);
    run_calls(&b, 5, KEEL_OUT_FAILURE, now);
    ck_assert_int_eq(b.retry_at_ns - now, 60 * SEC);
}
END_TEST

/* Jitter spreads the waits over their range, and the same seed draws the same ones. */
START_TEST(jitter_is_seeded)
{
    struct keel_breaker_conf c = keel_breaker_defaults();
    int64_t least = INT64_MAX, most = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct keel_breaker a, b;
        c.seed = seed;
        keel_breaker_init(&a, &c);
        keel_breaker_init(&b, &c);
        run_calls(&a, 5, KEEL_OUT_FAILURE, SEC);
        run_calls(&b, 5, KEEL_OUT_FAILURE, SEC);
        ck_assert_int_eq(a.retry_at_ns, b.retry_at_ns);
        int64_t wait = a.retry_at_ns - SEC;
        ck_assert(wait >= 60 * SEC && wait < 66 * SEC);
        least = wait < least ? wait : least;
        most = wait > most ? wait : most;
    }
    ck_assert_int_lt(least, 61 * SEC);
    ck_assert_int_gt(most, 65 * SEC);
}
END_TEST

/* Whatever becomes of a probe, its place is free again: at once, or when its permit expires. */
START_TEST(permits_never_leak)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    c.successes = 1000;
    keel_breaker_init(&b, &c);
    run_calls(&b, 5, KEEL_OUT_FAILURE, SEC);
    int64_t now = 61 * SEC;
    for (int i = 0; i < 300; i++)
        run_calls(&b, 1, (enum keel_outcome)(KEEL_OUT_REJECTED + i % 3), now);
    ck_assert_uint_eq(b.half_open_successes, 0);
    for (int i = 0; i < 300; i++) {
        admit_ok(&b, now);
        admit_ok(&b, now);
        admit_no(&b, now + 30 * SEC - 1);
        now += 30 * SEC;
    }
    ck_assert_int_eq(b.state, KEEL_HALF_OPEN);
}
END_TEST

START_TEST(stale_tickets_count_nowhere)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    keel_breaker_init(&b, &c);
    struct keel_breaker_ticket old = admit_ok(&b, SEC);
    run_calls(&b, 5, KEEL_OUT_FAILURE, SEC);
    struct keel_breaker_ticket probe = admit_ok(&b, 61 * SEC);
    keel_breaker_settle(&b, old, KEEL_OUT_FAILURE, 61 * SEC);
    ck_assert_int_eq(b.state, KEEL_HALF_OPEN);
    /* The probe's permit expires and another takes its place: the first may say what it likes. */
    struct keel_breaker_ticket later = admit_ok(&b, 91 * SEC);
    ck_assert_int_eq(later.slot, probe.slot);
    keel_breaker_settle(&b, probe, KEEL_OUT_FAILURE, 91 * SEC);
    ck_assert_int_eq(b.state, KEEL_HALF_OPEN);
    /* Settled twice counts once. */
    keel_breaker_settle(&b, later, KEEL_OUT_OK, 91 * SEC);
    keel_breaker_settle(&b, later, KEEL_OUT_OK, 91 * SEC);
    ck_assert_uint_eq(b.half_open_successes, 1);
    run_calls(&b, 2, KEEL_OUT_OK, 91 * SEC);
    ck_assert_int_eq(b.state, KEEL_CLOSED);
    for (int i = 0; i < 10; i++) {
        keel_breaker_settle(&b, old, KEEL_OUT_FAILURE, 92 * SEC);
        keel_breaker_settle(&b, probe, KEEL_OUT_FAILURE, 92 * SEC);
        keel_breaker_settle(&b, (struct keel_breaker_ticket){0, -1, 0}, KEEL_OUT_FAILURE, 92 * SEC);
    }
    ck_assert_int_eq(b.state, KEEL_CLOSED);
    ck_assert_uint_eq(b.seen.calls, 0);
}
END_TEST

START_TEST(modes)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    keel_breaker_init(&b, &c);
    ck_assert_str_eq(keel_breaker_state_name(&b), "closed");

    keel_breaker_set_mode(&b, KEEL_MODE_FORCED_OPEN, SEC);
    ck_assert_str_eq(keel_breaker_state_name(&b), "forced_open");
    ck_assert_str_eq(last_reason(&b), "forced");
    ck_assert_int_eq(admit_no(&b, 10000 * SEC), 60 * SEC); /* no wait ends it */

    keel_breaker_set_mode(&b, KEEL_MODE_NORMAL, 10000 * SEC);
    ck_assert_str_eq(last_reason(&b), "enabled");
    ck_assert_str_eq(keel_breaker_state_name(&b), "closed");

    run_calls(&b, 5, KEEL_OUT_FAILURE, 10000 * SEC);
    ck_assert_str_eq(keel_breaker_state_name(&b), "open");
    keel_breaker_set_mode(&b, KEEL_MODE_DISABLED, 10000 * SEC);
    ck_assert_str_eq(keel_breaker_state_name(&b), "disabled");
    ck_assert_str_eq(last_reason(&b), "disabled");
    run_calls(&b, 100, KEEL_OUT_FAILURE, 10000 * SEC);
    ck_assert_uint_eq(b.seen.calls, 0);

    uint64_t before = b.n_transitions;
    keel_breaker_set_mode(&b, KEEL_MODE_DISABLED, 10000 * SEC);
    ck_assert_uint_eq(b.n_transitions, before);

    keel_breaker_set_mode(&b, KEEL_MODE_FORCED_OPEN, 10000 * SEC);
    keel_breaker_reset(&b, 10000 * SEC);
    ck_assert_str_eq(last_reason(&b), "reset");
    ck_assert_str_eq(keel_breaker_state_name(&b), "closed");
    run_calls(&b, 1, KEEL_OUT_OK, 10000 * SEC);
}
END_TEST

/* Ten buckets of a second: failures leave it second by second, whoever looks and whenever. */
START_TEST(time_window)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    c.failures = 1000;
    c.failure_rate = c.slow_rate = 2;
    c.window_ns = 10 * SEC;
    keel_breaker_init(&b, &c);
    for (int64_t s = 100; s < 110; s++) {
        run_calls(&b, 1, KEEL_OUT_FAILURE, s * SEC);
        run_calls(&b, 1, KEEL_OUT_OK, s * SEC + SEC - 1);
    }
    ck_assert_uint_eq(keel_breaker_window(&b, 110 * SEC - 1).calls, 20);
    ck_assert_uint_eq(keel_breaker_window(&b, 110 * SEC).calls, 18); /* second 100 has left */
    ck_assert_uint_eq(keel_breaker_window(&b, 113 * SEC).failures, 6);
    ck_assert_double_eq(keel_breaker_failure_rate(&b, 113 * SEC), 0.5);
    ck_assert_uint_eq(keel_breaker_window(&b, 119 * SEC).calls, 0);
    ck_assert_double_eq(keel_breaker_failure_rate(&b, 1000 * SEC), 0);
    ck_assert_uint_eq(keel_breaker_window(&b, 109 * SEC).calls, 20); /* looking changed nothing */
    run_calls(&b, 1, KEEL_OUT_SLOW, 113 * SEC);
    ck_assert_uint_eq(b.seen.calls, 13);
    ck_assert_uint_eq(b.seen.slow, 1);
}
END_TEST

/* Half of the calls fail, two a second: in a time window of 20 s that is a rate, in one of 5 s never enough calls. */
START_TEST(time_window_opens)
{
    static const struct { int64_t window_s; bool opens; } window[] = {{20, true}, {5, false}};
    for (size_t w = 0; w < KEEL_COUNT(window); w++) {
        struct keel_breaker b;
        struct keel_breaker_conf c = exact_conf();
        c.window_ns = window[w].window_s * SEC;
        keel_breaker_init(&b, &c);
        for (int64_t s = 1; s < 100 && b.state == KEEL_CLOSED; s++) {
            run_calls(&b, 1, KEEL_OUT_OK, s * SEC);
            run_calls(&b, 1, KEEL_OUT_FAILURE, s * SEC);
        }
        ck_assert_int_eq(b.state, window[w].opens ? KEEL_OPENED : KEEL_CLOSED);
    }
}
END_TEST

static const struct { const char *text; uint32_t window; int64_t window_ns; } window_case[] = {
    {"count:1", 1, 0},        {"count:1000", 1000, 0},  {"time:1s", 100, SEC},  {"time:600s", 100, 600 * SEC},
    {"count:0", 0, 0},        {"count:1001", 0, 0},     {"time:0s", 0, 0},      {"time:601s", 0, 0},
    {"count:", 0, 0},         {"count:-5", 0, 0},       {"count:5x", 0, 0},     {"time:10", 0, 0},
    {"time:10ms", 0, 0},      {"time:s", 0, 0},         {"100", 0, 0},          {"", 0, 0},
    {"count:99999999999999999999", 0, 0},
};

START_TEST(window_is_parsed)
{
    struct keel_breaker_conf c = exact_conf();
    bool good = window_case[_i].window > 0;
    ck_assert_msg(keel_breaker_window_parse(window_case[_i].text, &c) == good, "%s", window_case[_i].text);
    ck_assert_uint_eq(c.window, good ? window_case[_i].window : 100);
    ck_assert_int_eq(c.window_ns, good ? window_case[_i].window_ns : 0);
}
END_TEST

/* It goes through every state, counts what it would refuse, and refuses nothing. */
START_TEST(metrics_only)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = exact_conf();
    keel_breaker_init(&b, &c);
    keel_breaker_set_mode(&b, KEEL_MODE_METRICS_ONLY, SEC);
    ck_assert_str_eq(last_reason(&b), "metrics_only");
    run_calls(&b, 5, KEEL_OUT_FAILURE, SEC);
    ck_assert_str_eq(keel_breaker_state_name(&b), "open");
    ck_assert(keel_breaker_would_admit(&b, SEC));
    run_calls(&b, 10, KEEL_OUT_OK, 2 * SEC); /* what it would have refused teaches it nothing */
    ck_assert_uint_eq(b.n_would_reject, 10);
    ck_assert_uint_eq(b.n_rejected, 0);
    ck_assert_int_eq(b.state, KEEL_OPENED);
    struct keel_breaker_ticket one = admit_ok(&b, 61 * SEC), two = admit_ok(&b, 61 * SEC), three = admit_ok(&b, 61 * SEC);
    ck_assert_uint_eq(b.n_would_reject, 11);
    keel_breaker_settle(&b, three, KEEL_OUT_FAILURE, 61 * SEC);
    ck_assert_int_eq(b.state, KEEL_HALF_OPEN);
    keel_breaker_settle(&b, one, KEEL_OUT_OK, 61 * SEC);
    keel_breaker_settle(&b, two, KEEL_OUT_OK, 61 * SEC);
    run_calls(&b, 1, KEEL_OUT_OK, 61 * SEC);
    ck_assert_int_eq(b.state, KEEL_CLOSED);
    keel_breaker_reset(&b, 62 * SEC);
    ck_assert_int_eq(b.mode, KEEL_MODE_METRICS_ONLY);
}
END_TEST

/* Probes that never answer: after the longest wait on to the next state, as of when it was due, whoever notices. */
START_TEST(longest_wait_in_half_open)
{
    for (int next = KEEL_CLOSED; next <= KEEL_OPENED; next++) {
        struct keel_breaker b;
        struct keel_breaker_conf c = exact_conf();
        c.half_open_ns = 50 * SEC;
        c.half_open_next = (enum keel_breaker_state)next;
        keel_breaker_init(&b, &c);
        run_calls(&b, 5, KEEL_OUT_FAILURE, SEC);
        keel_breaker_tick(&b, 61 * SEC - 1);
        ck_assert_int_eq(b.state, KEEL_OPENED);
        keel_breaker_tick(&b, 61 * SEC);
        keel_breaker_tick(&b, 500 * SEC);
        ck_assert_int_eq(b.state, KEEL_HALF_OPEN); /* an idle target rests here */
        struct keel_breaker_ticket lost = admit_ok(&b, 500 * SEC);
        run_calls(&b, 1, KEEL_OUT_CLIENT, 520 * SEC); /* an answer, though it says nothing: the clock begins anew */
        admit_ok(&b, 530 * SEC);
        keel_breaker_tick(&b, 580 * SEC - 1);
        ck_assert_int_eq(b.state, KEEL_HALF_OPEN);
        keel_breaker_tick(&b, 590 * SEC);
        ck_assert_int_eq(b.state, next);
        ck_assert_str_eq(last_reason(&b), "probes_undecided");
        ck_assert_int_eq(b.last[(b.n_transitions - 1) % KEEL_COUNT(b.last)].at_ns, 580 * SEC);
        if (next == KEEL_OPENED)
            ck_assert_int_eq(b.retry_at_ns, 700 * SEC); /* 120 s: a fruitless probe */
        keel_breaker_settle(&b, lost, KEEL_OUT_FAILURE, 590 * SEC);
        ck_assert_int_eq(b.state, next);
    }
}
END_TEST

/* Settings out of range are brought into it instead of writing outside the arrays. */
START_TEST(settings_are_clamped)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = {.window = 2000, .permits = 100, .jitter = -1, .min_calls = 5000};
    keel_breaker_init(&b, &c);
    ck_assert_uint_eq(b.conf.window, KEEL_BREAKER_WINDOW);
    ck_assert_uint_eq(b.conf.min_calls, KEEL_BREAKER_WINDOW);
    ck_assert_uint_eq(b.conf.permits, KEEL_BREAKER_PERMITS);
    ck_assert_uint_eq(b.conf.failures, 1);
    ck_assert_uint_eq(b.conf.successes, 1);
    ck_assert_double_eq(b.conf.jitter, 0);
    run_calls(&b, 1000, KEEL_OUT_OK, SEC);
    run_calls(&b, 1, KEEL_OUT_FAILURE, SEC);
    ck_assert_int_eq(b.state, KEEL_OPENED);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("breaker");
    TCase *tc = tcase_create("breaker");
    tcase_set_timeout(tc, 110);
    tcase_add_loop_test(tc, opens_or_not, 0, KEEL_COUNT(open_case));
    tcase_add_test(tc, failure_rate_opens);
    tcase_add_test(tc, window_forgets);
    tcase_add_test(tc, recovers_after_a_minute);
    tcase_add_test(tc, waits_double_up_to_the_cap);
    tcase_add_test(tc, jitter_is_seeded);
    tcase_add_test(tc, permits_never_leak);
    tcase_add_test(tc, stale_tickets_count_nowhere);
    tcase_add_test(tc, modes);
    tcase_add_test(tc, time_window);
    tcase_add_test(tc, time_window_opens);
    tcase_add_loop_test(tc, window_is_parsed, 0, KEEL_COUNT(window_case));
    tcase_add_test(tc, metrics_only);
    tcase_add_test(tc, longest_wait_in_half_open);
    tcase_add_test(tc, settings_are_clamped);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
