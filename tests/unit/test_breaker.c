/*
 * Circuit breaker: named cases, and two million seeded random events against a second breaker that is
 * written here in the slowest, most obvious way: it keeps every outcome and every permit in lists and
 * counts them anew each time it is asked.
 */
#include <check.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/breaker.h"
#include "keel/status.h"

#define MS INT64_C(1000000)
#define SEC (1000 * MS)

/* ---- the reference model ---- */

enum { MODEL_KEEP = 256, MODEL_TICKETS = 64 };

struct model_permit { uint64_t ticket; int64_t expires; };

struct model {
    struct keel_breaker_conf conf;
    enum keel_breaker_state state;
    enum keel_breaker_mode mode;
    uint64_t period; /* counts every change of state */
    enum keel_outcome seen[MODEL_KEEP]; /* oldest first; only what counts */
    uint32_t n_seen;
    uint32_t run, successes, fruitless;
    int64_t retry_at;
    struct model_permit permit[MODEL_KEEP];
    uint32_t n_permits;
};

struct model_ticket { uint64_t id, period; bool probe; };

static void model_enter(struct model *m, enum keel_breaker_state s)
{
    m->state = s;
    m->period++;
    m->successes = 0;
    m->n_permits = 0;
}

static void model_fresh(struct model *m, enum keel_breaker_state s)
{
    model_enter(m, s);
    m->n_seen = m->run = m->fruitless = 0;
    m->retry_at = 0;
}

/* Shortest wait before the next probe; the jitter comes on top. */
static int64_t model_wait(const struct model *m)
{
    int64_t wait = m->conf.recovery_ns;
    for (uint32_t i = 0; i < m->fruitless; i++) {
        wait *= 2;
        if (wait > m->conf.recovery_cap_ns)
            return m->conf.recovery_cap_ns;
    }
    return wait;
}

static uint32_t model_permits_out(const struct model *m, int64_t now)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_permits; i++)
        n += m->permit[i].expires > now;
    return n;
}

static bool model_would_admit(const struct model *m, int64_t now)
{
    if (m->mode == KEEL_MODE_FORCED_OPEN)
        return false;
    if (m->state == KEEL_OPENED)
        return now >= m->retry_at;
    return m->state == KEEL_CLOSED || model_permits_out(m, now) < m->conf.permits;
}

/* Earliest moment worth coming back: a wait that ends, a permit that runs out, at most a second. */
static int64_t model_retry_after(const struct model *m, int64_t now)
{
    if (m->mode == KEEL_MODE_FORCED_OPEN)
        return m->conf.recovery_ns;
    if (m->state == KEEL_OPENED)
        return m->retry_at - now;
    int64_t wait = SEC;
    for (uint32_t i = 0; i < m->n_permits; i++)
        if (m->permit[i].expires > now && m->permit[i].expires - now < wait)
            wait = m->permit[i].expires - now;
    return wait;
}

static bool model_admit(struct model *m, int64_t now, uint64_t id, struct model_ticket *t)
{
    if (!model_would_admit(m, now))
        return false;
    if (m->state == KEEL_OPENED)
        model_enter(m, KEEL_HALF_OPEN);
    *t = (struct model_ticket){id, m->period, m->state == KEEL_HALF_OPEN};
    if (t->probe) {
        for (uint32_t i = m->n_permits; i-- > 0;)
            if (m->permit[i].expires <= now)
                m->permit[i] = m->permit[--m->n_permits];
        m->permit[m->n_permits++] = (struct model_permit){id, now + m->conf.permit_ns};
    }
    return true;
}

static uint32_t model_count(const struct model *m, enum keel_outcome a, enum keel_outcome b, uint32_t *of)
{
    uint32_t n = m->n_seen < m->conf.window ? m->n_seen : m->conf.window, hits = 0;
    for (uint32_t i = m->n_seen - n; i < m->n_seen; i++)
        hits += m->seen[i] == a || m->seen[i] == b;
    *of = n;
    return hits;
}

static bool model_must_open(const struct model *m)
{
    uint32_t n;
    uint32_t bad = model_count(m, KEEL_OUT_FAILURE, KEEL_OUT_TIMEOUT, &n);
    uint32_t slow = model_count(m, KEEL_OUT_SLOW, KEEL_OUT_SLOW, &n);
    return m->run >= m->conf.failures ||
           (n >= m->conf.min_calls && ((bad > 0 && (double)bad / n >= m->conf.failure_rate) ||
                                       (slow > 0 && (double)slow / n >= m->conf.slow_rate)));
}

static bool model_give_back(struct model *m, uint64_t id, int64_t now)
{
    for (uint32_t i = 0; i < m->n_permits; i++) {
        if (m->permit[i].ticket != id)
            continue;
        bool alive = m->permit[i].expires > now;
        m->permit[i] = m->permit[--m->n_permits];
        return alive;
    }
    return false;
}

/* Returns whether it opened, so that the caller can take over the jittered wait. */
static bool model_settle(struct model *m, struct model_ticket t, enum keel_outcome o, int64_t now)
{
    if (m->mode != KEEL_MODE_NORMAL || t.period != m->period)
        return false;
    if (t.probe && !model_give_back(m, t.id, now))
        return false;
    if (o == KEEL_OUT_REJECTED || o == KEEL_OUT_CANCELLED || o == KEEL_OUT_CLIENT)
        return false;
    bool failed = o == KEEL_OUT_FAILURE || o == KEEL_OUT_TIMEOUT;
    m->run = failed ? m->run + 1 : t.probe ? m->run : 0;
    if (t.probe && failed)
        m->fruitless++;
    if (t.probe && !failed && ++m->successes >= m->conf.successes)
        model_fresh(m, KEEL_CLOSED);
    if (!t.probe) {
        if (m->n_seen == MODEL_KEEP) {
            memmove(m->seen, m->seen + 1, sizeof(m->seen[0]) * (MODEL_KEEP - 1));
            m->n_seen--;
        }
        m->seen[m->n_seen++] = o;
    }
    bool opens = t.probe ? failed : model_must_open(m);
    if (opens)
        model_enter(m, KEEL_OPENED);
    return opens;
}

/* ---- comparing ---- */

/* The test's own randomness, so that a fault in the core's cannot hide one here: xorshift64 (Marsaglia 2003). */
static uint64_t draw_state;
static uint64_t draw(uint64_t below)
{
    draw_state ^= draw_state << 13;
    draw_state ^= draw_state >> 7;
    draw_state ^= draw_state << 17;
    return (draw_state >> 11) % below;
}

static uint32_t permits_out(const struct keel_breaker *b, int64_t now)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < KEEL_BREAKER_PERMITS; i++)
        n += b->permit_expiry[i] > now;
    return n;
}

static void compare(const struct keel_breaker *b, const struct model *m, int64_t now, uint64_t event)
{
    uint32_t n, bad = model_count(m, KEEL_OUT_FAILURE, KEEL_OUT_TIMEOUT, &n);
    uint32_t slow = model_count(m, KEEL_OUT_SLOW, KEEL_OUT_SLOW, &n);
    bool same = b->state == m->state && b->mode == m->mode && b->retry_at_ns == m->retry_at &&
                permits_out(b, now) == model_permits_out(m, now) && b->ring_n == n && b->ring_failures == bad &&
                b->ring_slow == slow && b->consecutive_failures == m->run && b->half_open_successes == m->successes &&
                b->reopened == m->fruitless && keel_breaker_would_admit(b, now) == model_would_admit(m, now);
    ck_assert_msg(same,
                  "event %" PRIu64 ": state %d/%d mode %d/%d retry %" PRId64 "/%" PRId64 " permits %u/%u calls %u/%u "
                  "failures %u/%u slow %u/%u run %u/%u successes %u/%u reopened %u/%u",
                  event, b->state, m->state, b->mode, m->mode, b->retry_at_ns, m->retry_at, permits_out(b, now),
                  model_permits_out(m, now), b->ring_n, n, b->ring_failures, bad, b->ring_slow, slow,
                  b->consecutive_failures, m->run, b->half_open_successes, m->successes, b->reopened, m->fruitless);
}

/* The model does not repeat the jitter: it checks its range and takes the drawn value over. */
static void take_over_wait(const struct keel_breaker *b, struct model *m, int64_t now)
{
    int64_t wait = model_wait(m), got = b->retry_at_ns - now;
    ck_assert_int_ge(got, wait);
    ck_assert_int_le(got, wait + (int64_t)((double)wait * m->conf.jitter));
    m->retry_at = b->retry_at_ns;
}

struct pair { struct keel_breaker b; struct model m; };

struct held { struct keel_breaker_ticket real; struct model_ticket ideal; bool used; };

static struct keel_breaker_conf random_conf(void)
{
    struct keel_breaker_conf c = keel_breaker_defaults();
    c.failures = (uint32_t)(1 + draw(12));
    c.successes = (uint32_t)(1 + draw(5));
    c.recovery_ns = (int64_t)(1 + draw(5)) * SEC;
    c.recovery_cap_ns = c.recovery_ns * (int64_t)(1 + draw(10));
    c.window = (uint32_t)(1 + draw(KEEL_BREAKER_WINDOW));
    c.min_calls = (uint32_t)(1 + draw(c.window));
    c.failure_rate = draw(4) == 0 ? 2 : 0.1 + 0.1 * (double)draw(9);
    c.slow_rate = draw(4) == 0 ? 2 : 0.1 + 0.1 * (double)draw(9);
    c.permits = (uint32_t)(1 + draw(KEEL_BREAKER_PERMITS));
    c.permit_ns = (int64_t)(1 + draw(3000)) * MS;
    c.jitter = draw(2) == 0 ? 0 : 0.1 * (double)draw(10);
    c.seed = draw(UINT64_C(1) << 40);
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

static void step_admit(struct pair *p, struct held *h, int64_t now, uint64_t event)
{
    struct model before = p->m;
    int64_t retry = -1;
    bool got = keel_breaker_admit(&p->b, now, &h->real, &retry);
    ck_assert_msg(got == model_admit(&p->m, now, event, &h->ideal), "event %" PRIu64 ": admit says %d", event, got);
    h->used = got;
    if (!got)
        ck_assert_int_eq(retry, model_retry_after(&before, now));
}

static void step_settle(struct pair *p, struct held *h, int64_t now, uint64_t badness)
{
    enum keel_outcome o = random_outcome(badness);
    keel_breaker_settle(&p->b, h->real, o, now);
    if (model_settle(&p->m, h->ideal, o, now))
        take_over_wait(&p->b, &p->m, now);
    /* One probe in eight is kept and settled again later, which must count nowhere. */
    h->used = h->ideal.probe && draw(8) == 0;
}

static void step_operator(struct pair *p, int64_t now)
{
    uint64_t what = draw(4);
    if (what == 0) {
        keel_breaker_reset(&p->b, now);
        p->m.mode = KEEL_MODE_NORMAL;
        model_fresh(&p->m, KEEL_CLOSED);
        return;
    }
    enum keel_breaker_mode mode = (enum keel_breaker_mode)(what - 1);
    keel_breaker_set_mode(&p->b, mode, now);
    if (p->m.mode != mode)
        model_fresh(&p->m, mode == KEEL_MODE_FORCED_OPEN ? KEEL_OPENED : KEEL_CLOSED);
    p->m.mode = mode;
}

#define MODEL_ROUNDS 500
#define MODEL_EVENTS 5000 /* a round: 2.5 million in all */

START_TEST(model)
{
    static struct pair p;
    static struct held held[MODEL_TICKETS];
    uint64_t opened = 0, closed = 0, probes = 0, event = 0;

    draw_state = UINT64_C(0x9e3779b97f4a7c15);
    for (int round = 0; round < MODEL_ROUNDS; round++) {
        struct keel_breaker_conf conf = random_conf();
        uint64_t badness = draw(60), hurry = 1 + draw(2000);
        memset(&p.m, 0, sizeof(p.m));
        memset(held, 0, sizeof(held));
        p.m.conf = conf;
        keel_breaker_init(&p.b, &conf);
        int64_t now = (int64_t)draw(1000) * SEC;
        for (int i = 0; i < MODEL_EVENTS; i++, event++) {
            struct held *h = &held[draw(MODEL_TICKETS)];
            uint64_t kind = draw(1000);
            uint8_t was = p.b.state;
            /* Modes are left again soon, or there would be little else to see. */
            if (kind < 3 || (p.m.mode != KEEL_MODE_NORMAL && kind < 50))
                step_operator(&p, now);
            else if (kind < 600 && !h->used)
                step_admit(&p, h, now, event + 1);
            else if (kind < 600 && draw(40) == 0)
                h->used = false; /* never settled */
            else if (h->used)
                step_settle(&p, h, now, badness);
            now += (int64_t)draw(hurry) * MS / 10;
            if (draw(200) == 0)
                now += (int64_t)draw(10) * SEC;
            compare(&p.b, &p.m, now, event);
            opened += was != KEEL_OPENED && p.b.state == KEEL_OPENED;
            closed += was == KEEL_HALF_OPEN && p.b.state == KEEL_CLOSED;
            probes += p.b.state == KEEL_HALF_OPEN;
        }
    }
    /* The walk must have been through everything, or it proved nothing. */
    ck_assert_uint_ge(event, 2000000);
    ck_assert_uint_gt(opened, 5000);
    ck_assert_uint_gt(closed, 1000);
    ck_assert_uint_gt(probes, 50000);
    printf("model: %" PRIu64 " events, opened %" PRIu64 ", recovered %" PRIu64 ", in half-open %" PRIu64 "\n", event,
           opened, closed, probes);
}
END_TEST

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
    ck_assert_double_eq(keel_breaker_failure_rate(&b), 0.5);
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
    ck_assert_double_eq(keel_breaker_failure_rate(&b), 0.6);
    run_calls(&b, 50, KEEL_OUT_SLOW, SEC);
    ck_assert_double_eq(keel_breaker_failure_rate(&b), 0.1);
    ck_assert_double_eq(keel_breaker_slow_rate(&b), 0.5);
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
    ck_assert_uint_eq(b.ring_n, 0);
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
    ck_assert_uint_eq(b.ring_n, 0);

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

/* Settings out of range are brought into it instead of writing outside the arrays. */
START_TEST(settings_are_clamped)
{
    struct keel_breaker b;
    struct keel_breaker_conf c = {.window = 1000, .permits = 100, .jitter = -1, .min_calls = 5000};
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
    tcase_add_test(tc, settings_are_clamped);
    tcase_add_test(tc, model);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
