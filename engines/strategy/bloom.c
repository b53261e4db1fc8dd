/*
 * A part that is full stays as it is and a larger one takes over (Almeida and others, "Scalable Bloom Filters", 2007),
 * so that no call pays for moving what is in. With 16 bits a name and 8 of them set, a full part says yes to 0.06 % of
 * the names that it does not have.
 */
#include "bloom.h"

#include "keel/arena.h"
#include "keel/status.h"

enum { FIRST_BITS = 18, BITS_A_NAME = 16, PROBES = 8 };

/* FNV-1a, 64 bits, and the finaliser of MurmurHash3 behind it: each of its bits depends on all of the name. */
static uint64_t hash(const char *s)
{
    uint64_t h = 14695981039346656037ULL;

    for (; *s != '\0'; s++)
        h = (h ^ (unsigned char)*s) * 1099511628211ULL;
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdULL;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ULL;
    return h ^ (h >> 33);
}

static size_t bits_of(size_t part)
{
    return (size_t)1 << (FIRST_BITS + part);
}

/* The place of a name's probe in a part (Kirsch and Mitzenmacher: two hashes make them all). */
static size_t bit_of(uint64_t h, size_t probe, size_t part)
{
    uint32_t low = (uint32_t)h, high = (uint32_t)(h >> 32) | 1;

    return (low + (uint64_t)probe * high) & (bits_of(part) - 1);
}

void strategy_bloom_add(struct strategy_bloom *b, const char *name)
{
    uint64_t h = hash(name);

    if (b->n_parts == 0 || (b->n == bits_of(b->n_parts - 1) / BITS_A_NAME && b->n_parts < STRATEGY_BLOOM_PARTS)) {
        b->part[b->n_parts] = keel_alloc(bits_of(b->n_parts) / 64, sizeof *b->part[0]);
        b->n_parts++;
        b->n = 0;
    }

    size_t last = b->n_parts - 1;

    for (size_t i = 0; i < PROBES; i++) {
        size_t bit = bit_of(h, i, last);

        b->part[last][bit / 64] |= 1ULL << (bit % 64);
    }
    b->n++;
}

bool strategy_bloom_maybe(const struct strategy_bloom *b, const char *name)
{
    uint64_t h = hash(name);

    for (size_t part = 0; part < b->n_parts; part++) {
        size_t i = 0;

        while (i < PROBES && (b->part[part][bit_of(h, i, part) / 64] >> (bit_of(h, i, part) % 64) & 1) != 0)
            i++;
        if (i == PROBES)
            return true;
    }
    return false;
}

void strategy_bloom_fini(struct strategy_bloom *b)
{
    for (size_t i = 0; i < b->n_parts; i++)
        keel_free(b->part[i]);
    *b = (struct strategy_bloom){.n_parts = 0};
}
