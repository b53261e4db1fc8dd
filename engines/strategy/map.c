/*
 * Linear probing at a load of at most one half; a removal shifts back what it would otherwise hide,
 * so there are no tombstones and a table that churns stays as fast as a new one.
 */
#include "map.h"

#include <stdint.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/status.h"

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static size_t hash(const char *s)
{
    uint64_t h = 14695981039346656037ULL;

    for (; *s != '\0'; s++)
        h = (h ^ (unsigned char)*s) * 1099511628211ULL;
    return (size_t)(h ^ (h >> 32));
}

static size_t place(const struct strategy_map *m, const char *key)
{
    size_t i = hash(key) & (m->cap - 1);

    while (m->slot[i].key != NULL && strcmp(m->slot[i].key, key) != 0)
        i = (i + 1) & (m->cap - 1);
    return i;
}

void *strategy_map_get(const struct strategy_map *m, const char *key)
{
    return m->cap == 0 ? NULL : m->slot[place(m, key)].value;
}

static void grow(struct strategy_map *m)
{
    struct strategy_map next = {.n = m->n, .cap = m->cap == 0 ? 64 : m->cap * 2};

    next.slot = keel_alloc(next.cap, sizeof *next.slot);
    for (size_t i = 0; i < m->cap; i++)
        if (m->slot[i].key != NULL)
            next.slot[place(&next, m->slot[i].key)] = m->slot[i];
    keel_free(m->slot);
    *m = next;
}

void strategy_map_put(struct strategy_map *m, const char *key, void *value)
{
    if (2 * (m->n + 1) > m->cap)
        grow(m);

    size_t i = place(m, key);

    keel_assert(m->slot[i].key == NULL);
    m->slot[i] = (struct strategy_slot){key, value};
    m->n++;
}

void *strategy_map_del(struct strategy_map *m, const char *key)
{
    if (m->cap == 0)
        return NULL;

    size_t mask = m->cap - 1, hole = place(m, key);
    void *value = m->slot[hole].value;

    if (m->slot[hole].key == NULL)
        return NULL;
    m->slot[hole] = (struct strategy_slot){NULL, NULL};
    m->n--;
    for (size_t i = (hole + 1) & mask; m->slot[i].key != NULL; i = (i + 1) & mask) {
        size_t home = hash(m->slot[i].key) & mask;

        /* Its probe passes the hole: it must move there to stay reachable. */
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            m->slot[hole] = m->slot[i];
            m->slot[i] = (struct strategy_slot){NULL, NULL};
            hole = i;
        }
    }
    return value;
}

void strategy_map_fini(struct strategy_map *m)
{
    keel_free(m->slot);
    *m = (struct strategy_map){0};
}
