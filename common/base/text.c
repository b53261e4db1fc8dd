/* Text that grows in an arena; NUL ended at all times. */
#include "keel/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "keel/status.h"

void keel_text_init(struct keel_text *t, struct keel_arena *a, size_t cap)
{
    size_t room = cap < 64 ? 64 : cap;
    *t = (struct keel_text){.a = a, .buf = keel_arena_alloc(a, room), .cap = room};
}

static void grow(struct keel_text *t, size_t need)
{
    size_t cap = t->cap;
    while (cap < need)
        cap *= 2;
    char *buf = keel_arena_alloc(t->a, cap);
    memcpy(buf, t->buf, t->len);
    t->buf = buf;
    t->cap = cap;
}

void keel_text_add(struct keel_text *t, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(t->buf + t->len, t->cap - t->len, fmt, ap);
    keel_assert(n >= 0);
    if ((size_t)n >= t->cap - t->len) {
        grow(t, t->len + (size_t)n + 1);
        vsnprintf(t->buf + t->len, t->cap - t->len, fmt, again);
    }
    t->len += (size_t)n;
    va_end(again);
    va_end(ap);
}
