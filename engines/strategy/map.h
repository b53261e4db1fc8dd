/* Names to things: a hash table with open addressing that grows. What bounds it is up to its owner.
 */
#ifndef STRATEGY_MAP_H
#define STRATEGY_MAP_H

#include <stddef.h>

struct strategy_slot {
    const char *key;
    void *value;
};
struct strategy_map {
    struct strategy_slot *slot;
    size_t n, cap;
};

/* NULL when there is none. */
void *strategy_map_get(const struct strategy_map *m, const char *key);
/* key is borrowed for as long as it is in (it usually lives in value) and must not be in yet. */
void strategy_map_put(struct strategy_map *m, const char *key, void *value);
/* Takes it out; NULL when there is none. */
void *strategy_map_del(struct strategy_map *m, const char *key);
/* Frees the table, not the values. To walk: every slot[i] with a key, i < cap. */
void strategy_map_fini(struct strategy_map *m);

#endif
