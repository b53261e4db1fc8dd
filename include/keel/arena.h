/*
 * Bump allocator: what a call needs lives exactly as long as the call. Nothing is freed one by one.
 * Sizes are checked against their bounds before memory is asked for; running out is fatal.
 */
#ifndef KEEL_ARENA_H
#define KEEL_ARENA_H

#include <stdarg.h>
#include <stddef.h>

struct keel_arena;

/* first: bytes of the first chunk, kept over resets; later chunks double and are freed by reset. */
struct keel_arena *keel_arena_new(size_t first);
void keel_arena_free(struct keel_arena *a); /* NULL is fine */
void keel_arena_reset(struct keel_arena *a);
/* As reset; but what that would free, when it is more than so many bytes, is returned for somebody who has the time. Else NULL. */
struct keel_arena *keel_arena_shed(struct keel_arena *a, size_t most);
/* The chunk with that block, taken out of a, which loses all blocks in it. NULL: it is the first one, which a keeps. */
struct keel_arena *keel_arena_part(struct keel_arena *a, const void *block);
size_t keel_arena_used(const struct keel_arena *a);

/* Zeroed, aligned to 16, never NULL. size 0 gives a valid pointer. */
void *keel_arena_alloc(struct keel_arena *a, size_t size);
/* As alloc for n * size; an overflowing product is fatal. */
void *keel_arena_array(struct keel_arena *a, size_t n, size_t size);
/* As alloc, but what it holds is left to the caller, who writes all of it: large texts would be written twice. */
char *keel_arena_text(struct keel_arena *a, size_t size);
char *keel_arena_strndup(struct keel_arena *a, const char *s, size_t n);
char *keel_arena_strdup(struct keel_arena *a, const char *s);
/* x, between and y as one text. */
char *keel_arena_join(struct keel_arena *a, const char *x, const char *between, const char *y);
char *keel_arena_printf(struct keel_arena *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
char *keel_arena_vprintf(struct keel_arena *a, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));

/* Heap for state of the engine's life: zeroed; fatal when memory is out. */
void *keel_alloc(size_t n, size_t size);
void *keel_realloc(void *p, size_t n, size_t size); /* the new part is not zeroed */
void keel_free(void *p);

#endif
