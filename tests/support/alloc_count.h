/*
 * Counts what a thread asks of the heap, by standing in front of the C library's own functions. The sanitizers do the same,
 * so with them nothing is counted: COUNTS_ALLOCATIONS says which. For one file of a program.
 */
#ifndef ALLOC_COUNT_H
#define ALLOC_COUNT_H

#include <stdlib.h>

#include "sanitized.h"

#if IS_SANITIZED || !defined(__GLIBC__)
#define COUNTS_ALLOCATIONS 0
#else
#define COUNTS_ALLOCATIONS 1
#endif

static __thread unsigned long n_allocations;

#if COUNTS_ALLOCATIONS
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);

void *malloc(size_t size)
{
    n_allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    n_allocations++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    n_allocations++;
    return __libc_realloc(p, size);
}
#endif

#endif
