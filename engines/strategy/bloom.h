/*
 * Which names may have been seen: a Bloom filter (Bloom, 1970) that grows. It forgets nothing and never says no to a
 * name that was added; to one in some hundreds of others it says yes as well, so a yes has to be looked up.
 */
#ifndef STRATEGY_BLOOM_H
#define STRATEGY_BLOOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STRATEGY_BLOOM_PARTS = 16 };

/* Parts of which each has room for twice the names of the one before, two bytes a name; {0} is an empty filter. */
struct strategy_bloom {
    uint64_t *part[STRATEGY_BLOOM_PARTS];
    size_t n_parts, n; /* n: names in the last part */
};

void strategy_bloom_add(struct strategy_bloom *b, const char *name);
bool strategy_bloom_maybe(const struct strategy_bloom *b, const char *name);
/* Frees what it holds; the filter is empty then. */
void strategy_bloom_fini(struct strategy_bloom *b);

#endif
