/* Keys: one call of a key has it, the others wait in a list that hangs on it. All owners are in one bounded hash. */
#include <string.h>

#include "call_impl.h"

static uint64_t hash_text(const char *s)
{
    uint64_t h = 14695981039346656037U;
    for (; *s != '\0'; s++)
        h = (h ^ (unsigned char)*s) * 1099511628211U;
    return h ^ h >> 32;
}

void keel_key_set(struct call *c)
{
    const struct keel_op *op = c->pub.op;
    if (op->key == NULL || op->takes == NULL || c->pub.arg == NULL)
        return;
    const struct keel_field *f = keel_field_find(op->takes, op->key);
    keel_assert(f != NULL);
    const char *base = c->pub.arg;
    bool has;
    memcpy(&has, base + f->has_at, sizeof has);
    if (!has)
        return;
    if (f->type == KEEL_STR) {
        const char *text;
        memcpy(&text, base + f->at, sizeof text);
        c->key = keel_arena_join(c->pub.arena, op->key, "=", text);
    } else if (f->type == KEEL_ENUM) {
        int value;
        memcpy(&value, base + f->at, sizeof value);
        c->key = keel_arena_printf(c->pub.arena, "%s=%d", op->key, value);
    } else {
        int64_t value;
        keel_assert(f->type == KEEL_I64 || f->type == KEEL_DEC || f->type == KEEL_TIME);
        memcpy(&value, base + f->at, sizeof value);
        c->key = keel_arena_printf(c->pub.arena, "%s=%lld", op->key, (long long)value);
    }
    c->key_hash = hash_text(c->key);
}

static struct call **key_place(struct keel_calls *cs, const struct call *c)
{
    struct call **at = &cs->bucket[c->key_hash & (cs->n_buckets - 1)];
    while (*at != NULL && ((*at)->key_hash != c->key_hash || strcmp((*at)->key, c->key) != 0))
        at = &(*at)->key_chain;
    return at;
}

bool keel_key_take(struct call *c)
{
    if (c->key == NULL || c->owns_key)
        return true;
    struct call **at = key_place(c->pub.rt->calls, c), *owner = *at;
    c->key_chain = c->key_prev = c->key_next = c->key_tail = NULL;
    if (owner == NULL) {
        *at = c;
        c->owns_key = true;
        return true;
    }
    struct call *last = owner->key_tail != NULL ? owner->key_tail : owner;
    last->key_next = c;
    c->key_prev = last;
    owner->key_tail = c;
    c->phase = KEYED;
    return false;
}

void keel_key_leave(struct call *c)
{
    struct call *owner = *key_place(c->pub.rt->calls, c);
    c->key_prev->key_next = c->key_next;
    if (c->key_next != NULL)
        c->key_next->key_prev = c->key_prev;
    else
        owner->key_tail = c->key_prev != owner ? c->key_prev : NULL;
    c->key_prev = c->key_next = NULL;
}

void keel_key_give(struct call *c)
{
    if (!c->owns_key)
        return;
    struct call **at = key_place(c->pub.rt->calls, c), *heir = c->key_next;
    keel_assert(*at == c);
    c->owns_key = false;
    if (heir == NULL) {
        *at = c->key_chain;
        return;
    }
    heir->key_chain = c->key_chain;
    heir->key_prev = NULL;
    heir->key_tail = c->key_tail != heir ? c->key_tail : NULL;
    heir->owns_key = true;
    *at = heir;
    keel_call_ready(heir);
}
