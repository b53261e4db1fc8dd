/* Seeded random numbers: xoshiro256** seeded by splitmix64; the same seed gives the same stream everywhere. */
#ifndef KEEL_RNG_H
#define KEEL_RNG_H

#include <stdint.h>

/* The next output of splitmix64 (Steele, Lea & Flood 2014): what generators are seeded by. */
uint64_t keel_splitmix64(uint64_t *state);

struct keel_rng { uint64_t s[4]; double spare; int has_spare; };

void keel_rng_seed(struct keel_rng *r, uint64_t seed);
uint64_t keel_rng_u64(struct keel_rng *r);
double keel_rng_f64(struct keel_rng *r);                 /* [0, 1), 53 bits */
uint64_t keel_rng_below(struct keel_rng *r, uint64_t n); /* [0, n), unbiased; n > 0 */
double keel_rng_normal(struct keel_rng *r);              /* mean 0, sd 1 (polar method) */
double keel_rng_exponential(struct keel_rng *r);         /* mean 1 */

#endif
