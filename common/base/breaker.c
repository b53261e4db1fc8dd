/*
 * Circuit breaker: after a run of failures the target is left alone for a while, then probed with a
 * few calls before all of them are let through again.
 *
 * The idea: one generation number says which tickets still matter. It moves with every transition
 * and with every permit of half-open, so a ticket is judged by comparing numbers, and a caller that
 * comes back late, twice or never cannot disturb anything.
 *
 * What an outcome does:
 *   OK, SLOW          the target answered: ends a run of failures, a success in half-open. SLOW speaks
 *                     against it only through the slow rate of the window.
 *   FAILURE, TIMEOUT  extends the run, counts in the failure rate, opens again from half-open.
 *   the others        return the permit and move nothing.
 *
 * An expired permit is as if it had never been given. Every change of mode, and a reset, starts from
 * an empty window.
 *
 * A time window is a ring of buckets whose bounds are whole multiples of their length: the one being
 * filled and the nine before it, so that it looks back on 0.9 to 1.0 of its length. Buckets are emptied
 * when a result enters them; who only looks is told what would be left.
 */
#include "keel/breaker.h"

#include <stddef.h>
#include <string.h>

#include "keel/num.h"
#include "keel/rng.h"
#include "keel/status.h"

#define RING_FAILURE 1u
#define RING_SLOW 2u

#define MAX_WINDOW_S 600

/* A probe in flight decides soon; nobody should stay away for the whole life of its permit. */
#define PROBE_RETRY_NS INT64_C(1000000000)

static uint32_t clamp_u32(uint32_t v, uint32_t lo, uint32_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

struct keel_breaker_conf keel_breaker_defaults(void)
{
    return (struct keel_breaker_conf){
        .failures = 5,
        .successes = 3,
        .recovery_ns = INT64_C(60000000000),
        .recovery_cap_ns = INT64_C(480000000000),
        .window = 100,
        .min_calls = 20,
        .failure_rate = 0.5,
        .slow_rate = 0.8,
        .permits = 2,
        .permit_ns = INT64_C(30000000000),
        .half_open_next = KEEL_OPENED,
        .jitter = 0.1,
        .seed = 1,
    };
}

bool keel_breaker_window_parse(const char *text, struct keel_breaker_conf *c)
{
    size_t n = strlen(text);
    int64_t v = 0;
    if (n > 6 && strncmp(text, "count:", 6) == 0 && keel_i64_parse(text + 6, n - 6, &v) == KEEL_OK && v >= 1 &&
        v <= KEEL_BREAKER_WINDOW) {
        c->window = (uint32_t)v;
        c->window_ns = 0;
        return true;
    }
    if (n > 6 && strncmp(text, "time:", 5) == 0 && text[n - 1] == 's' &&
        keel_i64_parse(text + 5, n - 6, &v) == KEEL_OK && v >= 1 && v <= MAX_WINDOW_S) {
        c->window_ns = v * INT64_C(1000000000);
        return true;
    }
    return false;
}

void keel_breaker_init(struct keel_breaker *b, const struct keel_breaker_conf *conf)
{
    memset(b, 0, sizeof(*b));
    b->conf = *conf;
    struct keel_breaker_conf *c = &b->conf;
    c->failures = clamp_u32(c->failures, 1, UINT32_MAX);
    c->successes = clamp_u32(c->successes, 1, UINT32_MAX);
    c->window = clamp_u32(c->window, 1, KEEL_BREAKER_WINDOW);
    if (c->window_ns < 0)
        c->window_ns = 0;
    c->min_calls = clamp_u32(c->min_calls, 1, c->window_ns > 0 ? UINT32_MAX : c->window);
    b->bucket_ns = c->window_ns / KEEL_BREAKER_BUCKETS;
    if (b->bucket_ns == 0)
        b->bucket_ns = 1;
    c->permits = clamp_u32(c->permits, 1, KEEL_BREAKER_PERMITS);
    if (c->recovery_ns < 0)
        c->recovery_ns = 0;
    if (c->recovery_cap_ns < c->recovery_ns)
        c->recovery_cap_ns = c->recovery_ns;
    if (c->permit_ns < 1)
        c->permit_ns = 1;
    if (c->half_open_ns < 0)
        c->half_open_ns = 0;
    if (c->half_open_next != KEEL_CLOSED)
        c->half_open_next = KEEL_OPENED;
    /* Written so that a NaN becomes 0 too. */
    if (!(c->jitter > 0))
        c->jitter = 0;
    if (c->jitter > 1)
        c->jitter = 1;
    b->rng = c->seed;
    b->generation = 1; /* a ticket of generation 0 never counts */
}

static void transition(struct keel_breaker *b, enum keel_breaker_state to, const char *reason, int64_t now_ns)
{
    b->last[b->n_transitions % KEEL_COUNT(b->last)] =
        (struct keel_breaker_event){now_ns, b->state, (uint8_t)to, reason};
    b->n_transitions++;
    b->state = (uint8_t)to;
    b->generation++;
    b->half_open_successes = 0;
    b->verdict_due_ns = 0;
    memset(b->permit_expiry, 0, sizeof(b->permit_expiry));
}

static void clear_counts(struct keel_breaker *b)
{
    b->consecutive_failures = 0;
    b->reopened = 0;
    b->opened_at_ns = 0;
    b->retry_at_ns = 0;
    b->seen = (struct keel_breaker_counts){0};
    b->ring_at = 0;
    b->bucket_end_ns = 0;
    memset(b->bucket, 0, sizeof(b->bucket));
}

static int64_t open_wait(struct keel_breaker *b)
{
    int64_t wait = b->conf.recovery_ns, cap = b->conf.recovery_cap_ns;
    for (uint32_t i = 0; i < b->reopened && wait > 0 && wait < cap; i++)
        wait = wait > cap / 2 ? cap : wait * 2;
    struct keel_rng r;
    keel_rng_seed(&r, b->rng++);
    return wait + (int64_t)((double)wait * b->conf.jitter * keel_rng_f64(&r));
}

static void open_circuit(struct keel_breaker *b, const char *reason, int64_t now_ns)
{
    transition(b, KEEL_OPENED, reason, now_ns);
    b->opened_at_ns = now_ns;
    b->retry_at_ns = now_ns + open_wait(b);
}

static void close_circuit(struct keel_breaker *b, const char *reason, int64_t now_ns)
{
    transition(b, KEEL_CLOSED, reason, now_ns);
    clear_counts(b);
}

void keel_breaker_tick(struct keel_breaker *b, int64_t now_ns)
{
    if (b->mode == KEEL_MODE_FORCED_OPEN)
        return;
    int64_t due_ns = b->verdict_due_ns;
    if (b->state == KEEL_HALF_OPEN && due_ns != 0 && now_ns >= due_ns) {
        if (b->conf.half_open_next == KEEL_CLOSED) {
            close_circuit(b, "probes_undecided", due_ns);
        } else {
            b->reopened++;
            open_circuit(b, "probes_undecided", due_ns);
        }
    }
    if (b->state == KEEL_OPENED && now_ns >= b->retry_at_ns)
        transition(b, KEEL_HALF_OPEN, "wait_over", b->retry_at_ns);
}

/* Index of a place that is free or whose permit has expired, or -1. */
static int32_t free_slot(const struct keel_breaker *b, int64_t now_ns)
{
    for (uint32_t i = 0; i < b->conf.permits; i++)
        if (b->permit_expiry[i] <= now_ns)
            return (int32_t)i;
    return -1;
}

static int64_t until_permit(const struct keel_breaker *b, int64_t now_ns)
{
    int64_t wait = PROBE_RETRY_NS;
    for (uint32_t i = 0; i < b->conf.permits; i++)
        if (b->permit_expiry[i] - now_ns < wait)
            wait = b->permit_expiry[i] - now_ns;
    return wait;
}

static bool refuse(struct keel_breaker *b, int64_t wait_ns, int64_t *retry_after_ns)
{
    if (b->mode == KEEL_MODE_METRICS_ONLY) {
        b->n_would_reject++;
        return true;
    }
    b->n_rejected++;
    *retry_after_ns = wait_ns;
    return false;
}

/* In any state but closed. */
static bool admit_probe(struct keel_breaker *b, int64_t now_ns, struct keel_breaker_ticket *t, int64_t *retry_after_ns)
{
    if (b->state == KEEL_OPENED)
        return refuse(b, b->retry_at_ns - now_ns, retry_after_ns);
    int32_t slot = free_slot(b, now_ns);
    if (slot < 0)
        return refuse(b, until_permit(b, now_ns), retry_after_ns);
    b->permit_gen[slot] = ++b->generation;
    b->permit_expiry[slot] = now_ns + b->conf.permit_ns;
    if (b->verdict_due_ns == 0 && b->conf.half_open_ns > 0)
        b->verdict_due_ns = now_ns + b->conf.half_open_ns;
    *t = (struct keel_breaker_ticket){b->generation, slot, now_ns};
    return true;
}

bool keel_breaker_admit(struct keel_breaker *b, int64_t now_ns, struct keel_breaker_ticket *t, int64_t *retry_after_ns)
{
    /* Nobody knows when an operator will let go; one recovery time is as good a guess as any. */
    if (b->mode == KEEL_MODE_FORCED_OPEN)
        return refuse(b, b->conf.recovery_ns, retry_after_ns);
    if (b->state != KEEL_CLOSED)
        keel_breaker_tick(b, now_ns);
    if (b->state == KEEL_CLOSED) {
        *t = (struct keel_breaker_ticket){b->generation, -1, now_ns};
        return true;
    }
    /* Where METRICS_ONLY lets in what it would refuse, the result counts nowhere: there would have been none. */
    *t = (struct keel_breaker_ticket){0, -1, now_ns};
    return admit_probe(b, now_ns, t, retry_after_ns);
}

bool keel_breaker_would_admit(const struct keel_breaker *b, int64_t now_ns)
{
    if (b->mode == KEEL_MODE_FORCED_OPEN)
        return false;
    if (b->state == KEEL_CLOSED || b->mode == KEEL_MODE_METRICS_ONLY)
        return true;
    struct keel_breaker then = *b;
    keel_breaker_tick(&then, now_ns);
    return then.state == KEEL_CLOSED || (then.state == KEEL_HALF_OPEN && free_slot(&then, now_ns) >= 0);
}

static void count(struct keel_breaker_counts *c, uint8_t bits)
{
    c->calls++;
    c->failures += bits & RING_FAILURE;
    c->slow += (bits & RING_SLOW) >> 1;
}

static void forget(struct keel_breaker_counts *c, struct keel_breaker_counts old)
{
    c->calls -= old.calls;
    c->failures -= old.failures;
    c->slow -= old.slow;
}

static void ring_push(struct keel_breaker *b, uint8_t bits)
{
    if (b->seen.calls == b->conf.window) {
        uint8_t old = b->ring[b->ring_at];
        forget(&b->seen, (struct keel_breaker_counts){1, old & RING_FAILURE, (old & RING_SLOW) >> 1});
    }
    b->ring[b->ring_at] = bits;
    count(&b->seen, bits);
    if (++b->ring_at == b->conf.window)
        b->ring_at = 0;
}

/* Buckets between the one being filled and that of now; time that runs backwards stays where it is. */
static int64_t buckets_behind(const struct keel_breaker *b, int64_t now_ns)
{
    return now_ns < b->bucket_end_ns ? 0 : (now_ns - b->bucket_end_ns) / b->bucket_ns + 1;
}

static void buckets_advance(struct keel_breaker *b, int64_t now_ns)
{
    int64_t steps = buckets_behind(b, now_ns);
    b->bucket_end_ns += steps * b->bucket_ns;
    for (int64_t i = 0; i < steps && i < KEEL_BREAKER_BUCKETS; i++) {
        b->bucket_at = (b->bucket_at + 1) % KEEL_BREAKER_BUCKETS;
        forget(&b->seen, b->bucket[b->bucket_at]);
        b->bucket[b->bucket_at] = (struct keel_breaker_counts){0};
    }
}

static void window_push(struct keel_breaker *b, uint8_t bits, int64_t now_ns)
{
    if (b->conf.window_ns == 0) {
        ring_push(b, bits);
        return;
    }
    if (now_ns >= b->bucket_end_ns)
        buckets_advance(b, now_ns);
    count(&b->seen, bits);
    count(&b->bucket[b->bucket_at], bits);
}

struct keel_breaker_counts keel_breaker_window(const struct keel_breaker *b, int64_t now_ns)
{
    struct keel_breaker_counts c = b->seen;
    if (b->conf.window_ns == 0 || c.calls == 0)
        return c;
    int64_t steps = buckets_behind(b, now_ns);
    for (int64_t i = 1; i <= steps && i <= KEEL_BREAKER_BUCKETS; i++)
        forget(&c, b->bucket[(b->bucket_at + (uint32_t)i) % KEEL_BREAKER_BUCKETS]);
    return c;
}

static double share(uint32_t part, uint32_t of)
{
    return of == 0 ? 0 : (double)part / (double)of;
}

/* Why the circuit must open now, or NULL. */
static const char *verdict(const struct keel_breaker *b)
{
    const struct keel_breaker_counts *c = &b->seen;
    if (b->consecutive_failures >= b->conf.failures)
        return "consecutive_failures";
    /* The healthy path ends here, without a division. */
    if (c->calls < b->conf.min_calls || (c->failures | c->slow) == 0)
        return NULL;
    if (c->failures > 0 && share(c->failures, c->calls) >= b->conf.failure_rate)
        return "failure_rate";
    if (c->slow > 0 && share(c->slow, c->calls) >= b->conf.slow_rate)
        return "slow_rate";
    return NULL;
}

static void note_failure(struct keel_breaker *b, int64_t now_ns)
{
    b->n_failures++;
    b->consecutive_failures++;
    b->last_failure_ns = now_ns;
}

static void settle_closed(struct keel_breaker *b, bool failed, bool slow, int64_t now_ns)
{
    if (failed)
        note_failure(b, now_ns);
    else
        b->consecutive_failures = 0;
    window_push(b, (uint8_t)((failed ? RING_FAILURE : 0) | (slow ? RING_SLOW : 0)), now_ns);
    const char *why = verdict(b);
    if (why != NULL)
        open_circuit(b, why, now_ns);
}

static void settle_probe(struct keel_breaker *b, bool failed, int64_t now_ns)
{
    if (failed) {
        note_failure(b, now_ns);
        b->reopened++;
        open_circuit(b, "probe_failed", now_ns);
    } else if (++b->half_open_successes >= b->conf.successes) {
        close_circuit(b, "recovered", now_ns);
    }
}

/* Whether the ticket still matters; gives its place back. */
static bool take_back(struct keel_breaker *b, struct keel_breaker_ticket t, int64_t now_ns)
{
    if (t.slot < 0)
        return b->mode != KEEL_MODE_DISABLED && b->state == KEEL_CLOSED && t.generation == b->generation;
    if (b->state != KEEL_HALF_OPEN || (uint32_t)t.slot >= b->conf.permits || b->permit_gen[t.slot] != t.generation ||
        b->permit_expiry[t.slot] <= now_ns)
        return false;
    b->permit_expiry[t.slot] = 0;
    b->verdict_due_ns = 0;
    return true;
}

void keel_breaker_settle(struct keel_breaker *b, struct keel_breaker_ticket t, enum keel_outcome o, int64_t now_ns)
{
    if (b->state != KEEL_CLOSED)
        keel_breaker_tick(b, now_ns);
    if (!take_back(b, t, now_ns) || o > KEEL_OUT_TIMEOUT)
        return;
    bool failed = o == KEEL_OUT_FAILURE || o == KEEL_OUT_TIMEOUT;
    if (t.slot < 0)
        settle_closed(b, failed, o == KEEL_OUT_SLOW, now_ns);
    else
        settle_probe(b, failed, now_ns);
}

void keel_breaker_reset(struct keel_breaker *b, int64_t now_ns)
{
    keel_breaker_tick(b, now_ns);
    if (b->mode == KEEL_MODE_FORCED_OPEN)
        b->mode = KEEL_MODE_NORMAL;
    close_circuit(b, "reset", now_ns);
}

void keel_breaker_set_mode(struct keel_breaker *b, enum keel_breaker_mode m, int64_t now_ns)
{
    static const char *const reason[] = {"enabled", "forced", "disabled", "metrics_only"};
    if (b->mode == m)
        return;
    keel_breaker_tick(b, now_ns);
    b->mode = (uint8_t)m;
    if (m == KEEL_MODE_FORCED_OPEN) {
        transition(b, KEEL_OPENED, reason[m], now_ns);
        clear_counts(b);
        b->opened_at_ns = now_ns;
    } else {
        close_circuit(b, reason[m], now_ns);
    }
}

double keel_breaker_failure_rate(const struct keel_breaker *b, int64_t now_ns)
{
    struct keel_breaker_counts c = keel_breaker_window(b, now_ns);
    return share(c.failures, c.calls);
}

double keel_breaker_slow_rate(const struct keel_breaker *b, int64_t now_ns)
{
    struct keel_breaker_counts c = keel_breaker_window(b, now_ns);
    return share(c.slow, c.calls);
}

uint32_t keel_breaker_permits_out(const struct keel_breaker *b, int64_t now_ns)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->conf.permits; i++)
        n += b->permit_expiry[i] > now_ns;
    return n;
}

const char *keel_breaker_state_name(const struct keel_breaker *b)
{
    static const char *const names[] = {"closed", "open", "half_open"};
    if (b->mode == KEEL_MODE_FORCED_OPEN)
        return "forced_open";
    if (b->mode == KEEL_MODE_DISABLED)
        return "disabled";
    return names[b->state];
}
