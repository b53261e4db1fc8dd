/*
 * Bump allocator: a chain of chunks, the last of which is filled. Under the address sanitizer every
 * block is followed by poisoned bytes, so that overruns inside a chunk are found as well.
 */
#include "keel/arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/status.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(HAVE_ASAN)
#define HAVE_ASAN 1
#endif
#ifdef HAVE_ASAN
#include <sanitizer/asan_interface.h>
#define RED_ZONE ((size_t)16)
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define RED_ZONE ((size_t)0)
#endif

#define ALIGN ((size_t)16)
#define SMALL ((size_t)128)
#define LEAST_CHUNK ((size_t)256)
#define MOST_BYTES (SIZE_MAX / 4)

struct chunk {
    struct chunk *next;
    size_t cap, used, unused_; /* the last keeps the data aligned */
};
_Static_assert(sizeof(struct chunk) % 16 == 0, "data after the header is aligned");

struct keel_arena {
    struct chunk *first, *last;
};

static _Noreturn void out_of_memory(void)
{
    fputs("keel: out of memory\n", stderr);
    abort();
}

static size_t product(size_t n, size_t size)
{
    if (size != 0 && n > MOST_BYTES / size)
        out_of_memory();
    return n * size;
}

static unsigned char *chunk_data(struct chunk *c)
{
    return (unsigned char *)(c + 1);
}

static struct chunk *chunk_new(size_t cap)
{
    struct chunk *c = malloc(sizeof *c + cap);
    if (c == NULL)
        out_of_memory();
    *c = (struct chunk){.cap = cap};
    ASAN_POISON_MEMORY_REGION(chunk_data(c), cap);
    return c;
}

static void chunks_free(struct chunk *c)
{
    while (c != NULL) {
        struct chunk *next = c->next;
        ASAN_UNPOISON_MEMORY_REGION(chunk_data(c), c->cap);
        free(c);
        c = next;
    }
}

struct keel_arena *keel_arena_new(size_t first)
{
    struct keel_arena *a = keel_alloc(1, sizeof *a);
    size_t cap = first < LEAST_CHUNK ? LEAST_CHUNK : product(first, 1);
    a->first = a->last = chunk_new((cap + ALIGN - 1) & ~(ALIGN - 1));
    return a;
}

void keel_arena_free(struct keel_arena *a)
{
    if (a == NULL)
        return;
    chunks_free(a->first);
    free(a);
}

void keel_arena_reset(struct keel_arena *a)
{
    chunks_free(a->first->next);
    a->first->next = NULL;
    a->first->used = 0;
    a->last = a->first;
    ASAN_POISON_MEMORY_REGION(chunk_data(a->first), a->first->cap);
}

struct keel_arena *keel_arena_shed(struct keel_arena *a, size_t most)
{
    struct keel_arena *rest = NULL;
    size_t sum = 0;
    for (const struct chunk *c = a->first->next; c != NULL; c = c->next)
        sum += c->cap;
    if (sum > most) {
        rest = keel_alloc(1, sizeof *rest);
        *rest = (struct keel_arena){a->first->next, a->last};
        a->first->next = NULL;
    }
    keel_arena_reset(a);
    return rest;
}

struct keel_arena *keel_arena_part(struct keel_arena *a, const void *block)
{
    struct chunk *before = a->first;
    uintptr_t p = (uintptr_t)block;
    for (struct chunk *c = before->next; c != NULL; before = c, c = c->next) {
        uintptr_t data = (uintptr_t)chunk_data(c);
        if (p < data || p >= data + c->used)
            continue;
        before->next = c->next;
        if (a->last == c)
            a->last = before;
        c->next = NULL;
        struct keel_arena *part = keel_alloc(1, sizeof *part);
        *part = (struct keel_arena){c, c};
        return part;
    }
    return NULL;
}

size_t keel_arena_used(const struct keel_arena *a)
{
    size_t sum = 0;
    for (const struct chunk *c = a->first; c != NULL; c = c->next)
        sum += c->used;
    return sum;
}

/* need: of the block with its red zone */
static inline unsigned char *take(struct keel_arena *a, size_t size, size_t *need)
{
    if (size > MOST_BYTES)
        out_of_memory();
    /* A block of no bytes still gets an address of its own. */
    *need = ((size > 0 ? size : 1) + RED_ZONE + ALIGN - 1) & ~(ALIGN - 1);
    if (*need > a->last->cap - a->last->used) {
        size_t cap = product(a->last->cap, 2);
        struct chunk *c = chunk_new(cap < *need ? *need : cap);
        a->last->next = c;
        a->last = c;
    }
    unsigned char *p = chunk_data(a->last) + a->last->used;
    a->last->used += *need;
    ASAN_UNPOISON_MEMORY_REGION(p, *need);
    return p;
}

void *keel_arena_alloc(struct keel_arena *a, size_t size)
{
    size_t need;
    unsigned char *p = take(a, size, &need);
    if (need > SMALL)
        memset(p, 0, need);
    for (size_t i = 0; need <= SMALL && i < need; i += ALIGN) /* most blocks: a call would cost more */
        memset(p + i, 0, ALIGN);
    ASAN_POISON_MEMORY_REGION(p + size, need - size);
    return p;
}

char *keel_arena_text(struct keel_arena *a, size_t size)
{
    size_t need;
    unsigned char *p = take(a, size, &need);
    ASAN_POISON_MEMORY_REGION(p + size, need - size);
    return (char *)p;
}

void *keel_arena_array(struct keel_arena *a, size_t n, size_t size)
{
    return keel_arena_alloc(a, product(n, size));
}

char *keel_arena_strndup(struct keel_arena *a, const char *s, size_t n)
{
    char *copy = keel_arena_text(a, n + 1);
    if (n > 0)
        memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

char *keel_arena_strdup(struct keel_arena *a, const char *s)
{
    return keel_arena_strndup(a, s, strlen(s));
}

char *keel_arena_join(struct keel_arena *a, const char *x, const char *between, const char *y)
{
    size_t n = strlen(x), gap = strlen(between), m = strlen(y);
    char *s = keel_arena_text(a, n + gap + m + 1);
    memcpy(s, x, n);
    memcpy(s + n, between, gap);
    memcpy(s + n + gap, y, m + 1);
    return s;
}

char *keel_arena_printf(struct keel_arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *s = keel_arena_vprintf(a, fmt, ap);
    va_end(ap);
    return s;
}

char *keel_arena_vprintf(struct keel_arena *a, const char *fmt, va_list ap)
{
    char most[256];
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(most, sizeof most, fmt, ap);
    keel_assert(n >= 0);
    char *s = keel_arena_alloc(a, (size_t)n + 1);
    if ((size_t)n < sizeof most)
        memcpy(s, most, (size_t)n);
    else
        vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

void *keel_alloc(size_t n, size_t size)
{
    size_t bytes = product(n, size);
    void *p = calloc(1, bytes > 0 ? bytes : 1);
    if (p == NULL)
        out_of_memory();
    return p;
}

void *keel_realloc(void *p, size_t n, size_t size)
{
    size_t bytes = product(n, size);
    void *q = realloc(p, bytes > 0 ? bytes : 1);
    if (q == NULL)
        out_of_memory();
    return q;
}

void keel_free(void *p)
{
    free(p);
}
