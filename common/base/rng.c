/* xoshiro256** (Blackman & Vigna 2018), seeded by splitmix64; every draw uses only integers and libm. */
#include "keel/rng.h"

#include <math.h>

uint64_t keel_splitmix64(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

void keel_rng_seed(struct keel_rng *r, uint64_t seed)
{
    *r = (struct keel_rng){{0}, 0, 0};
    for (int i = 0; i < 4; i++)
        r->s[i] = keel_splitmix64(&seed);
}

static uint64_t rotate(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

uint64_t keel_rng_u64(struct keel_rng *r)
{
    uint64_t *s = r->s;
    uint64_t result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

double keel_rng_f64(struct keel_rng *r)
{
    return (double)(keel_rng_u64(r) >> 11) * 0x1p-53;
}

uint64_t keel_rng_below(struct keel_rng *r, uint64_t n)
{
    /* The first 2^64 mod n draws would favour small results. */
    uint64_t least = (UINT64_C(0) - n) % n, x;
    do {
        x = keel_rng_u64(r);
    } while (x < least);
    return x % n;
}

/* Marsaglia's polar method makes two at a time; the second waits for the next call. */
double keel_rng_normal(struct keel_rng *r)
{
    double u, v, s;
    if (r->has_spare) {
        r->has_spare = 0;
        return r->spare;
    }
    do {
        u = 2 * keel_rng_f64(r) - 1;
        v = 2 * keel_rng_f64(r) - 1;
        s = u * u + v * v;
    } while (s >= 1 || s == 0);
    double factor = sqrt(-2 * log(s) / s);
    r->spare = v * factor;
    r->has_spare = 1;
    return u * factor;
}

double keel_rng_exponential(struct keel_rng *r)
{
    return -log1p(-keel_rng_f64(r));
}
