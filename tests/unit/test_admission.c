/*
 * Rates against a bucket that is refilled by the book, clients against a table without bounds, the adaptive bound in
 * front of a simulated server, the retry budget by its arithmetic. All on passed-in time.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "keel/admission.h"
#include "keel/rng.h"
#include "keel/status.h"

#define MS INT64_C(1000000)
#define SEC (1000 * MS)

/* ---- rate ---- */

static const struct { const char *text; bool ok; int64_t gap_ns, burst; } parse_case[] = {
    {"1000", true, MS, 1000},
    {"1000:200", true, MS, 200},
    {"0.5", true, 2 * SEC, 1},
    {"0.5:3", true, 2 * SEC, 3},
    {"3:1", true, 333333334, 1}, /* rounded up: 3 in a second are never exceeded */
    {"2.9", true, 344827587, 2},
    {"1000000:1000000", true, 1000, 1000000},
    {"0.001", true, 1000 * SEC, 1},
    {"0", false, 0, 0},
    {"0.0009", false, 0, 0},
    {"1000001", false, 0, 0},
    {"10:0", false, 0, 0},
    {"10:1000001", false, 0, 0},
    {"10:", false, 0, 0},
    {":10", false, 0, 0},
    {"-1", false, 0, 0},
    {"10/s", false, 0, 0},
    {"", false, 0, 0},
    {"nan", false, 0, 0},
};

START_TEST(rate_parse)
{
    struct keel_rate r = {0};
    bool ok = keel_rate_parse(parse_case[_i].text, strlen(parse_case[_i].text), &r);
    ck_assert_msg(ok == parse_case[_i].ok, "%s", parse_case[_i].text);
    if (!ok)
        return;
    ck_assert_int_eq(r.gap_ns, parse_case[_i].gap_ns);
    ck_assert_int_eq(r.burst_ns, (parse_case[_i].burst - 1) * parse_case[_i].gap_ns);
}
END_TEST

START_TEST(rate_off)
{
    const struct keel_rate off = {0};
    ck_assert_int_eq(keel_rate_wait(&off, INT64_MAX, 0), 0);
}
END_TEST

/* 10 a second, 3 at once: the wait that is named is the shortest that helps. */
START_TEST(rate_wait_is_exact)
{
    const struct keel_rate r = {100 * MS, 200 * MS};
    int64_t full = 0, now = 5 * SEC;
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(keel_rate_wait(&r, full, now), 0);
        full = keel_rate_taken(&r, full, now);
    }
    ck_assert_int_eq(keel_rate_wait(&r, full, now), 100 * MS);
    now += 30 * MS;
    ck_assert_int_eq(keel_rate_wait(&r, full, now), 70 * MS);
    ck_assert_int_eq(keel_rate_wait(&r, full, now + 70 * MS - 1), 1);
    ck_assert_int_eq(keel_rate_wait(&r, full, now + 70 * MS), 0);
    ck_assert_int_eq(keel_rate_wait(&r, full, now + SEC), 0);
}
END_TEST

/* The bucket of the textbook: tokens flow in with time, a call takes one. */
START_TEST(rate_is_a_token_bucket)
{
    const struct keel_rate r = {7 * MS, 4 * 7 * MS};
    const int64_t cap = 5 * r.gap_ns; /* tokens, in ns of their making */
    struct keel_rng rng;
    int64_t full = 0, now = SEC, tokens = cap, passed = 0;
    keel_rng_seed(&rng, 11);
    for (int i = 0; i < 200000; i++) {
        int64_t step = (int64_t)keel_rng_below(&rng, 12 * (uint64_t)MS);
        now += step;
        tokens = tokens + step < cap ? tokens + step : cap;
        bool book = tokens >= r.gap_ns;
        ck_assert_int_eq(keel_rate_wait(&r, full, now) == 0, book);
        if (!book) {
            ck_assert_int_eq(keel_rate_wait(&r, full, now), r.gap_ns - tokens);
            continue;
        }
        tokens -= r.gap_ns;
        full = keel_rate_taken(&r, full, now);
        passed++;
    }
    ck_assert_int_gt(passed, 100000);
}
END_TEST

/* ---- clients ---- */

static bool ask(struct keel_clients *t, const struct keel_rate *r, uint64_t client, int64_t now)
{
    int64_t *full = keel_clients_stamp(t, client, now);
    if (keel_rate_wait(r, *full, now) != 0)
        return false;
    *full = keel_rate_taken(r, *full, now);
    return true;
}

START_TEST(clients_are_apart)
{
    const struct keel_rate r = {SEC, 0};
    struct keel_clients *t = keel_clients_new(1);
    for (uint64_t c = 1; c <= 500; c++) {
        ck_assert(ask(t, &r, c, SEC));
        ck_assert(!ask(t, &r, c, SEC));
    }
    ck_assert(ask(t, &r, 1, 2 * SEC));
    ck_assert_uint_eq(keel_clients_crowded(t), 0);
    keel_clients_free(t);
}
END_TEST

/* One who is limited stays so while a flood of other names, far more than the table holds, passes through it. */
START_TEST(a_flood_forgets_nobody)
{
    const struct keel_rate r = {SEC, 9 * SEC};
    struct keel_clients *t = keel_clients_new((uint64_t)_i);
    const uint64_t culprit = 77;
    int64_t now = SEC;
    int passed = 0;
    for (uint64_t c = 1000; c < 41000; c++) {
        now += MS / 10;
        ask(t, &r, c, now);
        passed += ask(t, &r, culprit, now);
    }
    /* ten at once and one a second in the four seconds that passed, whatever the others did */
    ck_assert_int_le(passed, 14);
    ck_assert_int_ge(passed, 1);
    ck_assert_uint_gt(keel_clients_crowded(t), 0);
    keel_clients_free(t);
}
END_TEST

/* Against a table without bounds: what passes here would have passed there, for each client. */
START_TEST(nobody_is_undercharged)
{
    enum { MANY = 20000 };
    const struct keel_rate r = {50 * MS, 3 * 50 * MS};
    static int64_t exact[MANY];
    struct keel_clients *t = keel_clients_new(5);
    struct keel_rng rng;
    int64_t now = SEC;
    long passed = 0, wrong = 0;
    memset(exact, 0, sizeof exact);
    keel_rng_seed(&rng, 3);
    for (int i = 0; i < 400000; i++) {
        double u = keel_rng_f64(&rng);
        size_t k = (size_t)(u * u * u * MANY); /* some ask often, most seldom */
        now += (int64_t)keel_rng_below(&rng, 4000);
        if (!ask(t, &r, k + 1, now))
            continue;
        wrong += keel_rate_wait(&r, exact[k], now) != 0;
        exact[k] = keel_rate_taken(&r, exact[k], now);
        passed++;
    }
    ck_assert_int_eq(wrong, 0);
    ck_assert_int_gt(passed, 10000);
    keel_clients_free(t);
}
END_TEST

/* ---- adaptive bound ---- */

/*
 * A server of `servers` places with a queue without end before it. Calls come at a fixed rate; what the bound refuses is
 * gone. Events in order of time; each call is served for service_ns times an exponential draw of mean 1, at least a half.
 */
enum { INSIDE = 4096 };
struct sim {
    struct keel_aimd a;
    struct keel_rng rng;
    int64_t now, next_ns, gap_ns, service_ns;
    size_t servers, n, in_service; /* inside: [0, in_service) are served, the others wait in their order */
    struct { int64_t start_ns, end_ns; } inside[INSIDE];
    long done, over, refused;
    uint32_t lowest, highest; /* limit */
};

static void sim_serve(struct sim *s)
{
    while (s->in_service < s->servers && s->in_service < s->n) {
        double draw = 0.5 + 0.5 * keel_rng_exponential(&s->rng);
        s->inside[s->in_service++].end_ns = s->now + (int64_t)((double)s->service_ns * draw);
    }
}

static void sim_leave(struct sim *s, size_t k)
{
    int64_t latency = s->now - s->inside[k].start_ns;
    s->done++;
    s->over += latency > s->a.target_ns;
    keel_aimd_settle(&s->a, s->inside[k].start_ns, latency, s->now);
    memmove(&s->inside[k], &s->inside[k + 1], (s->n - k - 1) * sizeof s->inside[0]);
    s->n--;
    s->in_service--;
}

static void sim_run(struct sim *s, int64_t span_ns)
{
    int64_t until = s->now + span_ns;
    s->done = s->over = s->refused = 0;
    s->lowest = s->highest = keel_aimd_limit(&s->a);
    while (s->now < until) {
        size_t first = s->in_service;
        for (size_t k = 0; k < s->in_service; k++)
            if (first == s->in_service || s->inside[k].end_ns < s->inside[first].end_ns)
                first = k;
        if (first < s->in_service && s->inside[first].end_ns <= s->next_ns) {
            s->now = s->inside[first].end_ns;
            sim_leave(s, first);
        } else {
            s->now = s->next_ns;
            s->next_ns += (int64_t)((double)s->gap_ns * keel_rng_exponential(&s->rng));
            if (s->n < INSIDE && keel_aimd_admit(&s->a, s->n))
                s->inside[s->n++].start_ns = s->now;
            else
                s->refused++;
        }
        sim_serve(s);
        uint32_t limit = keel_aimd_limit(&s->a);
        s->lowest = limit < s->lowest ? limit : s->lowest;
        s->highest = limit > s->highest ? limit : s->highest;
    }
}

static struct sim *sim_new(size_t servers, int64_t service_ns, int64_t gap_ns)
{
    struct sim *s = calloc(1, sizeof *s);
    ck_assert_ptr_nonnull(s);
    keel_aimd_init(&s->a, 4, 1024, 50 * MS);
    keel_rng_seed(&s->rng, 9);
    s->servers = servers;
    s->service_ns = service_ns;
    s->gap_ns = gap_ns;
    return s;
}

/* Eight places of 10 ms take 800 a second; twice as many come. Without a bound the wait grows without end. */
START_TEST(aimd_converges)
{
    struct sim *s = sim_new(8, 10 * MS, SEC / 1600);
    sim_run(s, 30 * SEC);
    sim_run(s, 60 * SEC);
    ck_assert_int_ge(s->done, 60 * 800 * 95 / 100); /* the server has enough to do */
    ck_assert_int_le(s->over, s->done * 15 / 100);  /* a tenth may be over, and the rounds that find it out */
    /* 40 ms of waiting at 800 a second are 32 calls, and 8 are served. */
    ck_assert_uint_ge(s->lowest, 8);
    ck_assert_uint_le(s->highest, 80);
    free(s);
}
END_TEST

/* Overload of a few percent, for an hour: what a drifting baseline would take for normal. */
START_TEST(aimd_does_not_drift)
{
    struct sim *s = sim_new(8, 10 * MS, SEC / 830);
    sim_run(s, 60 * SEC);
    for (int minute = 0; minute < 60; minute++) {
        sim_run(s, 60 * SEC);
        ck_assert_uint_le(s->highest, 96);
        ck_assert_int_le(s->over, s->done / 4);
    }
    free(s);
}
END_TEST

START_TEST(aimd_leaves_light_load_alone)
{
    struct sim *s = sim_new(8, 10 * MS, SEC / 200);
    sim_run(s, 60 * SEC);
    ck_assert_int_eq(s->refused, 0);
    ck_assert_uint_eq(s->lowest, 64);
    ck_assert_uint_eq(s->highest, 64);
    ck_assert_uint_eq(s->a.n_cuts, 0);
    free(s);
}
END_TEST

/* Nothing that the bound can do helps a server that is slow by itself: it stays at its least, and comes back. */
START_TEST(aimd_keeps_its_bounds)
{
    struct sim *s = sim_new(8, 200 * MS, SEC / 400);
    sim_run(s, 60 * SEC);
    sim_run(s, 60 * SEC);
    ck_assert_uint_eq(s->lowest, 4);
    ck_assert_uint_eq(s->highest, 4);
    ck_assert_int_gt(s->done, 0);
    s->service_ns = 10 * MS;
    s->gap_ns = SEC / 700; /* below what it can take: the bound must not be in the way for long */
    sim_run(s, 5 * SEC);
    sim_run(s, 60 * SEC);
    ck_assert_int_le(s->refused, s->done / 50);
    free(s);
}
END_TEST

/* It grows only when it was reached, and one bad round cuts it once. */
START_TEST(aimd_by_hand)
{
    struct keel_aimd a;
    keel_aimd_init(&a, 2, 1000, 10 * MS);
    for (int i = 0; i < 7; i++) {
        ck_assert_uint_eq(keel_aimd_limit(&a), 64);
        keel_aimd_settle(&a, SEC + i, 11 * MS, SEC + 12 * MS);
    }
    ck_assert_uint_eq(keel_aimd_limit(&a), 48); /* the seventh of 64 is more than a tenth; 10/11 is no cut worth making */
    for (int i = 0; i < 1000; i++)
        keel_aimd_settle(&a, SEC + i, 11 * MS, SEC + 13 * MS); /* they began before the cut */
    ck_assert_uint_eq(keel_aimd_limit(&a), 48);
    for (int i = 0; i < 1000; i++)
        keel_aimd_settle(&a, 2 * SEC + i, MS, 2 * SEC + MS + i);
    ck_assert_uint_eq(keel_aimd_limit(&a), 48); /* nobody asked for more */
    ck_assert(!keel_aimd_admit(&a, 48));
    ck_assert(keel_aimd_admit(&a, 47));
    for (int i = 0; i < 48; i++)
        keel_aimd_settle(&a, 3 * SEC + i, 10 * MS, 3 * SEC + MS + i);
    ck_assert_uint_eq(keel_aimd_limit(&a), 49); /* by a 32nd */
    for (int i = 0; i < 5; i++)
        keel_aimd_settle(&a, 4 * SEC + i, 20 * MS, 5 * SEC);
    ck_assert_uint_eq(keel_aimd_limit(&a), 24); /* twice the target: half of it */
    for (int i = 0; i < 3; i++)
        keel_aimd_settle(&a, 6 * SEC + i, 3600 * SEC, 7 * SEC);
    ck_assert_uint_eq(keel_aimd_limit(&a), 6); /* a quarter at least */
    ck_assert_uint_eq(a.n_cuts, 3);
    ck_assert_uint_eq(a.n_rises, 1);
}
END_TEST

/* ---- retries ---- */

START_TEST(retries)
{
    struct keel_retry_budget b = {0};
    int64_t now = 1000 * SEC;
    for (int i = 0; i < 3; i++)
        ck_assert(keel_retry_take(&b, now)); /* three, whatever was asked */
    ck_assert(!keel_retry_take(&b, now));
    for (int i = 0; i < 39; i++)
        keel_retry_request(&b, now);
    ck_assert(!keel_retry_take(&b, now));
    keel_retry_request(&b, now);
    ck_assert(keel_retry_take(&b, now)); /* the fourth of forty */
    ck_assert(!keel_retry_take(&b, now));
    ck_assert(!keel_retry_take(&b, now + 49 * SEC));
    ck_assert(keel_retry_take(&b, now + 60 * SEC)); /* forgotten, the requests too */
    ck_assert_uint_eq(b.n_retried, 5);
    ck_assert_uint_eq(b.n_refused, 4);
}
END_TEST

/* A dead peer and a steady stream of requests: a tenth more, never twice as many. */
START_TEST(retries_do_not_multiply)
{
    struct keel_retry_budget b = {0};
    long requests = 0, sent = 0;
    for (int64_t now = 0; now < 600 * SEC; now += 10 * MS) {
        keel_retry_request(&b, now);
        requests++;
        sent += keel_retry_take(&b, now);
    }
    ck_assert_int_le(sent, requests / 10 + 3);
    ck_assert_int_ge(sent, requests / 12);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("admission");
    TCase *tc = tcase_create("admission");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, rate_parse, 0, (int)KEEL_COUNT(parse_case));
    tcase_add_test(tc, rate_off);
    tcase_add_test(tc, rate_wait_is_exact);
    tcase_add_test(tc, rate_is_a_token_bucket);
    tcase_add_test(tc, clients_are_apart);
    tcase_add_loop_test(tc, a_flood_forgets_nobody, 0, 3);
    tcase_add_test(tc, nobody_is_undercharged);
    tcase_add_test(tc, aimd_converges);
    tcase_add_test(tc, aimd_does_not_drift);
    tcase_add_test(tc, aimd_leaves_light_load_alone);
    tcase_add_test(tc, aimd_keeps_its_bounds);
    tcase_add_test(tc, aimd_by_hand);
    tcase_add_test(tc, retries);
    tcase_add_test(tc, retries_do_not_multiply);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
