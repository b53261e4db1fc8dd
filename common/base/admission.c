/* Rates, clients, the adaptive bound and the retry budget. */
#include "keel/admission.h"

#include <string.h>

#include "keel/arena.h"
#include "keel/num.h"
#include "keel/rng.h"

#define SECOND INT64_C(1000000000)

/* ---- rate ---- */

#define RATE_MIN 0.001
#define RATE_MAX 1e6

static bool number(const char *text, size_t len, double least, double *out)
{
    return keel_f64_parse(text, len, out) == KEEL_OK && *out >= least && *out <= RATE_MAX;
}

bool keel_rate_parse(const char *text, size_t len, struct keel_rate *out)
{
    const char *colon = memchr(text, ':', len);
    size_t n = colon != NULL ? (size_t)(colon - text) : len;
    double rate, burst;
    if (!number(text, n, RATE_MIN, &rate))
        return false;
    if (colon == NULL)
        burst = rate < 1 ? 1 : rate;
    else if (!number(colon + 1, len - n - 1, 1, &burst))
        return false;
    /* Rounded up: what passes is never above the rate. */
    int64_t gap = (int64_t)((double)SECOND / rate);
    out->gap_ns = (double)gap * rate < (double)SECOND ? gap + 1 : gap;
    out->burst_ns = ((int64_t)burst - 1) * out->gap_ns;
    return true;
}

int64_t keel_rate_wait(const struct keel_rate *r, int64_t full_ns, int64_t now_ns)
{
    int64_t wait = full_ns - now_ns - r->burst_ns;
    return r->gap_ns != 0 && wait > 0 ? wait : 0;
}

int64_t keel_rate_taken(const struct keel_rate *r, int64_t full_ns, int64_t now_ns)
{
    return (full_ns > now_ns ? full_ns : now_ns) + r->gap_ns;
}

/* ---- clients ---- */

enum { SETS = 512, WAYS = 8 };

struct keel_clients {
    uint64_t key[2];
    uint64_t n_crowded;
    struct { uint64_t client; int64_t full_ns; } place[SETS][WAYS]; /* client 0: never used */
};

struct keel_clients *keel_clients_new(uint64_t seed)
{
    struct keel_clients *c = keel_alloc(1, sizeof *c);
    struct keel_rng rng;
    keel_rng_seed(&rng, seed);
    c->key[0] = keel_rng_u64(&rng);
    c->key[1] = keel_rng_u64(&rng) | 1;
    return c;
}

void keel_clients_free(struct keel_clients *c)
{
    keel_free(c);
}

/* Keyed by a secret, so that nobody can choose names that share a set. */
static size_t set_of(const struct keel_clients *c, uint64_t client)
{
    uint64_t x = (client ^ c->key[0]) * c->key[1];
    x = (x ^ x >> 32) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ c->key[0] ^ x >> 29) * c->key[1];
    return (size_t)(x >> 55);
}

int64_t *keel_clients_stamp(struct keel_clients *c, uint64_t client, int64_t now_ns)
{
    size_t set = set_of(c, client), least = 0;
    for (size_t i = 0; i < WAYS; i++) {
        if (c->place[set][i].client == client)
            return &c->place[set][i].full_ns;
        if (c->place[set][i].full_ns < c->place[set][least].full_ns)
            least = i;
    }
    c->n_crowded += c->place[set][least].full_ns > now_ns;
    c->place[set][least].client = client;
    return &c->place[set][least].full_ns;
}

uint64_t keel_clients_crowded(const struct keel_clients *c)
{
    return c->n_crowded;
}

/* ---- adaptive bound ---- */

enum { ROUND_MIN = 16, BEGIN = 64 };
#define CUT_MOST 0.25
#define CUT_LEAST 0.75
#define SHARE_OVER 0.1
#define GROWTH (1.0 / 32)

static double clamp(double x, double least, double most)
{
    return x < least ? least : x > most ? most : x;
}

void keel_aimd_init(struct keel_aimd *a, uint32_t min, uint32_t max, int64_t target_ns)
{
    *a = (struct keel_aimd){.min = min, .max = max, .target_ns = target_ns};
    a->limit = clamp(BEGIN, min, max);
}

uint32_t keel_aimd_limit(const struct keel_aimd *a)
{
    return (uint32_t)a->limit;
}

bool keel_aimd_admit(struct keel_aimd *a, uint64_t in_flight)
{
    uint32_t limit = keel_aimd_limit(a);
    a->reached = a->reached || in_flight + 1 >= limit;
    return in_flight < limit;
}

static void next_round(struct keel_aimd *a, double limit, int64_t now_ns)
{
    a->limit = clamp(limit, a->min, a->max);
    a->round_ns = now_ns;
    a->n = a->n_over = 0;
    a->over_ns = 0;
    a->reached = false;
}

void keel_aimd_settle(struct keel_aimd *a, int64_t start_ns, int64_t latency_ns, int64_t now_ns)
{
    /* What began under another bound says nothing about this one; counted, one spell would be punished many times. */
    if (start_ns < a->round_ns)
        return;
    double need = a->limit > ROUND_MIN ? a->limit : ROUND_MIN;
    a->n++;
    if (latency_ns > a->target_ns) {
        a->n_over++;
        a->over_ns += (double)latency_ns;
    }
    if (a->n_over > need * SHARE_OVER) {
        double by = (double)a->target_ns * a->n_over / a->over_ns;
        a->n_cuts += a->limit > a->min;
        next_round(a, a->limit * clamp(by, CUT_MOST, CUT_LEAST), now_ns);
    } else if (a->n >= need) {
        double step = clamp(a->limit * GROWTH, 1, a->max);
        bool rises = a->reached && a->limit < a->max;
        a->n_rises += rises;
        next_round(a, rises ? a->limit + step : a->limit, now_ns);
    }
}

/* ---- retries ---- */

#define PART_NS (10 * SECOND)
enum { RETRY_MIN = 3, REQUESTS_A_RETRY = 10 };

static void turn(struct keel_retry_budget *b, int64_t now_ns)
{
    int64_t part = now_ns / PART_NS;
    if (part - b->part >= KEEL_RETRY_PARTS)
        b->part = part - KEEL_RETRY_PARTS;
    while (b->part < part) {
        b->part++;
        b->requests[b->part % KEEL_RETRY_PARTS] = b->retries[b->part % KEEL_RETRY_PARTS] = 0;
    }
}

void keel_retry_request(struct keel_retry_budget *b, int64_t now_ns)
{
    turn(b, now_ns);
    b->n_requests++;
    b->requests[b->part % KEEL_RETRY_PARTS]++;
}

bool keel_retry_take(struct keel_retry_budget *b, int64_t now_ns)
{
    uint64_t requests = 0, retries = 0;
    turn(b, now_ns);
    for (size_t i = 0; i < KEEL_RETRY_PARTS; i++) {
        requests += b->requests[i];
        retries += b->retries[i];
    }
    if (retries >= RETRY_MIN && (retries + 1) * REQUESTS_A_RETRY > requests) {
        b->n_refused++;
        return false;
    }
    b->retries[b->part % KEEL_RETRY_PARTS]++;
    b->n_retried++;
    return true;
}
