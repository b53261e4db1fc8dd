/* Text that grows in an arena: for Prometheus and the like. */
#ifndef KEEL_TEXT_H
#define KEEL_TEXT_H
#include <stddef.h>
#include "keel/arena.h"
struct keel_text { struct keel_arena *a; char *buf; size_t len, cap; };
void keel_text_init(struct keel_text *t, struct keel_arena *a, size_t cap);
void keel_text_add(struct keel_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#endif
