/*
 * Circuit breaker against a second one that is written here in the slowest, most obvious way. It
 * keeps lists of what happened, with stamps, and works out everything it is asked from those lists
 * each time: what the window holds, which permits are out, how long probes have gone without a
 * result. Millions of seeded random events under random settings; after every one of them all that
 * can be seen is compared.
 *
 * The one thing the model does not repeat is the jitter of a wait: it checks the range and takes
 * the drawn value over.
 *
 * KEEL_SOAK=N makes it N times as long, KEEL_SEED=N begins elsewhere.
 */
#include <check.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/breaker.h"
#include "keel/status.h"

#define MS  INT64_C(1000000)
#define SEC (1000 * MS)

enum { ROUNDS = 1500, EVENTS = 4000, TICKETS = 48, MOST = EVENTS + 1 };

static uint64_t n_event, n_round;

/* Check's own assertions write to a file each, which is too slow for millions. */
#define must(cond, what)                                                                           \
    do {                                                                                           \
        if (!(cond))                                                                               \
            ck_abort_msg("round %" PRIu64 " event %" PRIu64 ": %s", n_round, n_event, what);       \
    } while (0)

/* ---- the model ---- */

/* A result that counted while closed; its bucket is a whole number of bucket lengths since time
 * zero. */
struct result {
    int64_t bucket;
    bool failed, slow;
};

/* In half-open, in order: a permit given, or the result of one that was still good. */
struct happening {
    uint64_t id;
    int64_t at;
    bool is_result, gone;
};

struct model {
    struct keel_breaker_conf conf;
    enum keel_breaker_mode mode;
    enum keel_breaker_state state;
    uint64_t period; /* changes of state or mode so far */
    struct result result[MOST];
    size_t n_results;
    uint32_t run; /* of failures, probes' included */
    struct happening happening[MOST];
    size_t n_happenings;
    uint32_t good_probes, fruitless;
    int64_t retry_at;
    uint64_t refused, would_refuse, failures;
    int64_t changed_at;
    const char *why;
    enum keel_breaker_state from;
};

struct model_ticket {
    uint64_t id, period;
    bool counts, is_probe;
};

static void enter(struct model *m, enum keel_breaker_state s, const char *why, int64_t at)
{
    m->from = m->state;
    m->state = s;
    m->why = why;
    m->changed_at = at;
    m->period++;
    m->n_happenings = 0;
    m->good_probes = 0;
}

static void forget_all(struct model *m)
{
    m->n_results = 0;
    m->run = m->fruitless = 0;
    m->retry_at = 0;
}

/* Wait without jitter: the first one doubled for each fruitless probe, but not beyond the cap. */
static int64_t wait_of(const struct model *m)
{
    int64_t wait = m->conf.recovery_ns;
    for (uint32_t i = 0; i < m->fruitless && wait < m->conf.recovery_cap_ns; i++)
        wait *= 2;
    return wait < m->conf.recovery_cap_ns ? wait : m->conf.recovery_cap_ns;
}

/* drawn: when the breaker under test means to probe. */
static void open_at(struct model *m, const char *why, int64_t at, int64_t drawn)
{
    int64_t wait = wait_of(m);
    enter(m, KEEL_OPENED, why, at);
    must(drawn - at >= wait && drawn - at <= wait + (int64_t)((double)wait * m->conf.jitter),
         "the wait drawn");
    m->retry_at = drawn;
}

static void close_at(struct model *m, const char *why, int64_t at)
{
    enter(m, KEEL_CLOSED, why, at);
    forget_all(m);
}

static uint32_t permits_out(const struct model *m, int64_t now)
{
    uint32_t n = 0;
    for (size_t i = 0; i < m->n_happenings; i++) {
        const struct happening *h = &m->happening[i];
        n += !h->is_result && !h->gone && now < h->at + m->conf.permit_ns;
    }
    return n;
}

/* When probes will have gone without a result for too long; 0: none waits. */
static int64_t verdict_due(const struct model *m)
{
    int64_t due = 0;
    for (size_t i = 0; i < m->n_happenings && m->conf.half_open_ns > 0; i++) {
        if (m->happening[i].is_result)
            due = 0;
        else if (due == 0)
            due = m->happening[i].at + m->conf.half_open_ns;
    }
    return due;
}

static void pass_time(struct model *m, int64_t now, int64_t drawn)
{
    if (m->mode == KEEL_MODE_FORCED_OPEN || m->mode == KEEL_MODE_DISABLED)
        return;
    int64_t due = m->state == KEEL_HALF_OPEN ? verdict_due(m) : 0;
    if (due != 0 && now >= due && m->conf.half_open_next == KEEL_CLOSED) {
        close_at(m, "probes_undecided", due);
    } else if (due != 0 && now >= due) {
        m->fruitless++;
        open_at(m, "probes_undecided", due, drawn);
    }
    if (m->state == KEEL_OPENED && now >= m->retry_at)
        enter(m, KEEL_HALF_OPEN, "wait_over", m->retry_at);
}

/* Earliest moment worth coming back: a wait that ends, a permit that runs out, at most a second. */
static int64_t come_back_in(const struct model *m, int64_t now)
{
    if (m->mode == KEEL_MODE_FORCED_OPEN)
        return m->conf.recovery_ns;
    if (m->state == KEEL_OPENED)
        return m->retry_at - now;
    int64_t wait = SEC;
    for (size_t i = 0; i < m->n_happenings; i++) {
        const struct happening *h = &m->happening[i];
        int64_t left = h->at + m->conf.permit_ns - now;
        if (!h->is_result && !h->gone && left > 0 && left < wait)
            wait = left;
    }
    return wait;
}

static bool model_admit(struct model *m, int64_t now, uint64_t id, int64_t drawn,
                        struct model_ticket *t)
{
    pass_time(m, now, drawn);
    *t = (struct model_ticket){id, m->period, false, false};
    bool yes = m->state == KEEL_CLOSED ||
               (m->state == KEEL_HALF_OPEN && permits_out(m, now) < m->conf.permits);
    if (yes) {
        t->counts = m->mode != KEEL_MODE_DISABLED;
        t->is_probe = m->state == KEEL_HALF_OPEN;
        if (t->is_probe)
            m->happening[m->n_happenings++] = (struct happening){.id = id, .at = now};
    } else if (m->mode == KEEL_MODE_METRICS_ONLY) {
        m->would_refuse++;
        return true;
    } else {
        m->refused++;
    }
    return yes;
}

static int64_t bucket_of(const struct model *m, int64_t at)
{
    int64_t b = m->conf.window_ns == 0 ? 0 : at / (m->conf.window_ns / 10);
    int64_t newest = m->n_results == 0 ? 0 : m->result[m->n_results - 1].bucket;
    return b > newest ? b : newest; /* no time before that of the newest result */
}

static struct keel_breaker_counts window_of(const struct model *m, int64_t now)
{
    struct keel_breaker_counts c = {0};
    int64_t bucket = bucket_of(m, now);
    for (size_t i = 0; i < m->n_results; i++) {
        const struct result *r = &m->result[i];
        if (m->conf.window_ns > 0 ? r->bucket <= bucket - 10 : i + m->conf.window < m->n_results)
            continue;
        c.calls++;
        c.failures += r->failed;
        c.slow += r->slow;
    }
    return c;
}

static const char *must_open(const struct model *m, int64_t now)
{
    struct keel_breaker_counts c = window_of(m, now);
    if (m->run >= m->conf.failures)
        return "consecutive_failures";
    if (c.calls < m->conf.min_calls)
        return NULL;
    if (c.failures > 0 && (double)c.failures / c.calls >= m->conf.failure_rate)
        return "failure_rate";
    return c.slow > 0 && (double)c.slow / c.calls >= m->conf.slow_rate ? "slow_rate" : NULL;
}

static bool give_back(struct model *m, uint64_t id, int64_t now)
{
    for (size_t i = 0; i < m->n_happenings; i++) {
        struct happening *h = &m->happening[i];
        if (h->is_result || h->id != id || h->gone)
            continue;
        if (now >= h->at + m->conf.permit_ns)
            return false;
        h->gone = true;
        m->happening[m->n_happenings++] =
            (struct happening){.id = id, .at = now, .is_result = true};
        return true;
    }
    return false;
}

static void settle_probe(struct model *m, bool failed, int64_t now, int64_t drawn)
{
    if (failed) {
        m->fruitless++;
        open_at(m, "probe_failed", now, drawn);
    } else if (++m->good_probes >= m->conf.successes) {
        close_at(m, "recovered", now);
    }
}

static void model_settle(struct model *m, struct model_ticket t, enum keel_outcome o, int64_t now,
                         int64_t drawn)
{
    pass_time(m, now, drawn);
    if (!t.counts || t.period != m->period || (t.is_probe && !give_back(m, t.id, now)))
        return;
    if (o == KEEL_OUT_REJECTED || o == KEEL_OUT_CANCELLED || o == KEEL_OUT_CLIENT)
        return;
    bool failed = o == KEEL_OUT_FAILURE || o == KEEL_OUT_TIMEOUT;
    m->failures += failed;
    if (failed)
        m->run++;
    else if (!t.is_probe)
        m->run = 0;
    if (t.is_probe) {
        settle_probe(m, failed, now, drawn);
        return;
    }
    m->result[m->n_results] = (struct result){bucket_of(m, now), failed, o == KEEL_OUT_SLOW};
    m->n_results++;
    const char *why = must_open(m, now);
    if (why != NULL)
        open_at(m, why, now, drawn);
}

static void model_mode(struct model *m, enum keel_breaker_mode mode, int64_t now, int64_t drawn)
{
    static const char *const why[] = {"enabled", "forced", "disabled", "metrics_only"};
    if (m->mode == mode)
        return;
    pass_time(m, now, drawn);
    m->mode = mode;
    if (mode == KEEL_MODE_FORCED_OPEN) {
        enter(m, KEEL_OPENED, why[mode], now);
        forget_all(m);
    } else {
        close_at(m, why[mode], now);
    }
}

/* ---- the walk ---- */

/* The test's own randomness, so that a fault in the core's cannot hide one here: xorshift64
 * (Marsaglia 2003). */
static uint64_t draw_state;
static uint64_t draw(uint64_t below)
{
    draw_state ^= draw_state << 13;
    draw_state ^= draw_state >> 7;
    draw_state ^= draw_state << 17;
    return (draw_state >> 11) % below;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    uint64_t n = text != NULL ? strtoull(text, NULL, 10) : 0;
    return n > 0 ? n : otherwise;
}

struct held {
    struct keel_breaker_ticket real;
    struct model_ticket ideal;
    bool used, done;
};

static struct keel_breaker b;
static struct keel_breaker
    watched; /* lives through the same, and is looked at by a timer all the time */
static struct model m;
static struct held held[TICKETS];
static int64_t now;
static bool never_back; /* time of this round only goes on */

static struct keel_breaker_conf random_conf(int64_t *step_ns)
{
    struct keel_breaker_conf c = keel_breaker_defaults();
    c.failures = (uint32_t)(1 + draw(draw(2) == 0 ? 6 : 40));
    c.successes = (uint32_t)(1 + draw(5));
    c.recovery_ns = (int64_t)(1 + draw(5000)) * MS;
    c.recovery_cap_ns = c.recovery_ns * (int64_t)(1 + draw(10)) + (int64_t)draw(1000);
    c.window = (uint32_t)(1 + draw(draw(8) == 0 ? KEEL_BREAKER_WINDOW : 40));
    c.window_ns = draw(2) == 0 ? 0 : 10 * (int64_t)(1 + draw(UINT64_C(1000000000)));
    c.min_calls = (uint32_t)(1 + draw(c.window < 30 ? c.window : 30));
    c.failure_rate = draw(4) == 0 ? 2 : 0.1 + 0.1 * (double)draw(9);
    c.slow_rate = draw(4) == 0 ? 2 : 0.1 + 0.1 * (double)draw(9);
    c.permits = (uint32_t)(1 + draw(KEEL_BREAKER_PERMITS));
    c.permit_ns = (int64_t)(1 + draw(3000)) * MS;
    c.half_open_ns = draw(3) == 0 ? 0 : (int64_t)(1 + draw(6000)) * MS;
    c.half_open_next = draw(2) == 0 ? KEEL_OPENED : KEEL_CLOSED;
    c.jitter = draw(2) == 0 ? 0 : 0.1 * (double)draw(10);
    c.seed = draw(UINT64_C(1) << 40);
    /* So that a window holds a few calls up to a few hundred. */
    *step_ns =
        c.window_ns > 0 ? c.window_ns / (int64_t)(1 + draw(300)) : (int64_t)(1 + draw(200)) * MS;
    return c;
}

static enum keel_outcome random_outcome(uint64_t badness)
{
    uint64_t d = draw(100);
    if (d < badness)
        return draw(3) == 0 ? KEEL_OUT_TIMEOUT : KEEL_OUT_FAILURE;
    if (d < badness + 15)
        return KEEL_OUT_SLOW;
    return d < 90 ? KEEL_OUT_OK : (enum keel_outcome)(KEEL_OUT_REJECTED + draw(3));
}

static void step_admit(struct held *h)
{
    int64_t retry = -1, retry_watched = -1;
    struct keel_breaker_ticket twin;
    bool got = keel_breaker_admit(&b, now, &h->real, &retry);
    bool want = model_admit(&m, now, n_event + 1, b.retry_at_ns, &h->ideal);
    must(got == want, "what admit says");
    must(got || retry == come_back_in(&m, now), "when to come back");
    if (never_back) {
        must(keel_breaker_admit(&watched, now, &twin, &retry_watched) == got &&
                 retry == retry_watched,
             "a timer's look");
        must(!got || (twin.generation == h->real.generation && twin.slot == h->real.slot),
             "the ticket");
    }
    h->used = got;
    h->done = false;
}

static void settle_both(struct keel_breaker_ticket t, enum keel_outcome o)
{
    keel_breaker_settle(&b, t, o, now);
    if (never_back)
        keel_breaker_settle(&watched, t, o, now);
}

static void step_settle(struct held *h, uint64_t badness)
{
    enum keel_outcome o = random_outcome(badness);
    /* A second result of a call let in while closed counts again as long as nothing has changed:
     * not asked for. */
    if (h->done && !h->ideal.is_probe && h->ideal.period == m.period)
        return;
    settle_both(h->real, o);
    model_settle(&m, h->ideal, o, now, b.retry_at_ns);
    h->done = true;
    h->used = draw(8) == 0; /* kept, and settled again later */
}

/* Tickets nobody was given. */
static void step_forged(void)
{
    struct keel_breaker_ticket t = {0, (int32_t)draw(12) - 2, now};
    settle_both(t, KEEL_OUT_FAILURE);
    pass_time(&m, now, b.retry_at_ns);
}

static void step_operator(void)
{
    uint64_t what = draw(5);
    struct keel_breaker copy = b;
    keel_breaker_tick(&copy, now);
    int64_t drawn = copy.retry_at_ns; /* the change clears it */
    if (what == 4) {
        keel_breaker_reset(&b, now);
        keel_breaker_reset(&watched, now);
        pass_time(&m, now, drawn);
        if (m.mode == KEEL_MODE_FORCED_OPEN)
            m.mode = KEEL_MODE_NORMAL;
        close_at(&m, "reset", now);
        return;
    }
    keel_breaker_set_mode(&b, (enum keel_breaker_mode)what, now);
    keel_breaker_set_mode(&watched, (enum keel_breaker_mode)what, now);
    model_mode(&m, (enum keel_breaker_mode)what, now, drawn);
}

static double share(uint32_t part, uint32_t of)
{
    return of == 0 ? 0 : (double)part / of;
}

static void compare(void)
{
    struct keel_breaker_counts want = window_of(&m, now), got = keel_breaker_window(&b, now);
    uint32_t out = permits_out(&m, now);
    const struct keel_breaker_event *ev = &b.last[(b.n_transitions - 1) % KEEL_COUNT(b.last)];
    bool same = b.state == m.state && b.mode == m.mode && b.retry_at_ns == m.retry_at &&
                keel_breaker_permits_out(&b, now) == out && got.calls == want.calls &&
                got.failures == want.failures && got.slow == want.slow &&
                b.consecutive_failures == m.run && b.half_open_successes == m.good_probes &&
                b.reopened == m.fruitless && b.n_rejected == m.refused &&
                b.n_would_reject == m.would_refuse && b.n_failures == m.failures &&
                b.n_transitions == m.period &&
                (m.state != KEEL_HALF_OPEN || b.verdict_due_ns == verdict_due(&m));
    if (!same)
        ck_abort_msg("round %" PRIu64 " event %" PRIu64 ": state %d/%d mode %d/%d retry %" PRId64
                     "/%" PRId64 " permits %u/%u calls %u/%u failures %u/%u slow %u/%u run %u/%u "
                     "good %u/%u fruitless %u/%u"
                     " transitions %" PRIu64 "/%" PRIu64 " due %" PRId64 "/%" PRId64
                     " rejected %" PRIu64 "/%" PRIu64,
                     n_round, n_event, b.state, m.state, b.mode, m.mode, b.retry_at_ns, m.retry_at,
                     keel_breaker_permits_out(&b, now), out, got.calls, want.calls, got.failures,
                     want.failures, got.slow, want.slow, b.consecutive_failures, m.run,
                     b.half_open_successes, m.good_probes, b.reopened, m.fruitless, b.n_transitions,
                     m.period, b.verdict_due_ns, verdict_due(&m), b.n_rejected, m.refused);
    if (m.period > 0)
        must(ev->at_ns == m.changed_at && ev->from == m.from && ev->to == m.state &&
                 strcmp(ev->reason, m.why) == 0,
             "the transition");
    must(keel_breaker_failure_rate(&b, now) == share(want.failures, want.calls),
         "the failure rate");
    must(keel_breaker_slow_rate(&b, now) == share(want.slow, want.calls), "the slow rate");
}

/* Asking whether it would let in changes nothing, and is what it then does. */
static void compare_would_admit(void)
{
    struct keel_breaker copy = b;
    struct keel_breaker_ticket t;
    int64_t retry;
    bool would = keel_breaker_would_admit(&b, now);
    must(would == keel_breaker_admit(&copy, now, &t, &retry), "what it would admit");
}

/* It makes no difference whether a timer looked in between. */
static void compare_watched(void)
{
    struct keel_breaker copy = b;
    keel_breaker_tick(&copy, now);
    keel_breaker_tick(&watched, now);
    must(copy.state == watched.state && copy.generation == watched.generation &&
             copy.retry_at_ns == watched.retry_at_ns &&
             copy.n_transitions == watched.n_transitions &&
             copy.verdict_due_ns == watched.verdict_due_ns && copy.reopened == watched.reopened &&
             memcmp(copy.permit_expiry, watched.permit_expiry, sizeof(copy.permit_expiry)) == 0,
         "a timer's look");
}

static void one_event(uint64_t badness)
{
    struct held *h = &held[draw(TICKETS)];
    uint64_t kind = draw(1000);
    /* Modes are left again soon, or there would be little else to see. */
    if (kind < 3 || (m.mode != KEEL_MODE_NORMAL && m.mode != KEEL_MODE_METRICS_ONLY && kind < 50))
        step_operator();
    else if (kind < 20)
        step_forged();
    else if (kind < 60) {
        keel_breaker_tick(&b, now);
        pass_time(&m, now, b.retry_at_ns);
    } else if (!h->used)
        step_admit(h);
    else if (kind < 75)
        h->used = false; /* never settled */
    else
        step_settle(h, badness);
}

/* The very moment at which something is due, where an error of one would hide otherwise. */
static void advance_to_due(void)
{
    int64_t at[] = {m.retry_at, verdict_due(&m), b.permit_expiry[draw(KEEL_BREAKER_PERMITS)],
                    b.bucket_end_ns};
    int64_t to = at[draw(KEEL_COUNT(at))] - (int64_t)draw(2);
    if (to > now && to < now + 3600 * SEC)
        now = to;
}

static void advance(int64_t step_ns)
{
    if (draw(20) == 0) {
        advance_to_due();
        return;
    }
    now += (int64_t)draw((uint64_t)step_ns + 1);
    if (draw(250) == 0)
        now += (int64_t)draw(20) * SEC;
    if (!never_back && draw(50) == 0)
        now -= (int64_t)draw((uint64_t)step_ns * 5 + 1);
    if (now < 1)
        now = 1;
}

static uint64_t visited[3][4];

static void one_round(void)
{
    int64_t step_ns;
    struct keel_breaker_conf conf = random_conf(&step_ns);
    uint64_t badness = draw(60);
    memset(&m, 0, sizeof(m));
    memset(held, 0, sizeof(held));
    never_back = draw(3) != 0;
    /* A place whose permit has run out goes to another; that it would be good again is not worth
     * modelling. */
    if (!never_back)
        conf.permit_ns = INT64_C(1000000) * SEC;
    m.conf = conf;
    keel_breaker_init(&b, &conf);
    keel_breaker_init(&watched, &conf);
    now = (int64_t)(1 + draw(1000)) * SEC;
    for (int i = 0; i < EVENTS; i++, n_event++) {
        one_event(badness);
        compare();
        advance(step_ns);
        if (i % 4 == 0)
            compare_would_admit();
        if (never_back && i % 3 == 0)
            compare_watched();
        visited[b.state][b.mode]++;
    }
}

START_TEST(model)
{
    uint64_t rounds = ROUNDS * number("KEEL_SOAK", 1);
    draw_state = number("KEEL_SEED", UINT64_C(0x9e3779b97f4a7c15));
    for (n_round = 0; n_round < rounds; n_round++)
        one_round();
    /* The walk must have been through everything, or it proved nothing. */
    for (int mode = 0; mode < 4; mode++)
        for (int state = 0; state < 3; state++) {
            bool possible = mode == KEEL_MODE_FORCED_OPEN ? state == KEEL_OPENED
                            : mode == KEEL_MODE_DISABLED  ? state == KEEL_CLOSED
                                                          : true;
            ck_assert_msg(possible == (visited[state][mode] > 0), "state %d mode %d: %" PRIu64,
                          state, mode, visited[state][mode]);
        }
    ck_assert_uint_gt(visited[KEEL_HALF_OPEN][KEEL_MODE_NORMAL], n_event / 50);
    ck_assert_uint_gt(visited[KEEL_OPENED][KEEL_MODE_NORMAL], n_event / 50);
    printf("model: %" PRIu64 " events in %" PRIu64 " rounds\n", n_event, n_round);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("breaker_model");
    TCase *tc = tcase_create("model");
    tcase_set_timeout(tc, 0);
    tcase_add_test(tc, model);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
