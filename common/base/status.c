/* The status list as lookups, and the way out when the program itself is wrong. */
#include "keel/status.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    int http;
    bool counts;
    const char *text;
} rows[] = {
#define X(name, http, counts, text) [KEEL_##name] = {http, counts, text},
    KEEL_STATUS_MAP(X)
#undef X
};

/* In lower case, which the preprocessor cannot make of the list's names. */
static const char *const names[] = {
    [KEEL_OK] = "ok",
    [KEEL_INVALID] = "invalid",
    [KEEL_UNAUTHORIZED] = "unauthorized",
    [KEEL_FORBIDDEN] = "forbidden",
    [KEEL_NOTFOUND] = "notfound",
    [KEEL_METHOD] = "method",
    [KEEL_CONFLICT] = "conflict",
    [KEEL_TOOBIG] = "toobig",
    [KEEL_MEDIA] = "media",
    [KEEL_UNDEFINED] = "undefined",
    [KEEL_RATE] = "rate",
    [KEEL_SHED] = "shed",
    [KEEL_OPEN] = "open",
    [KEEL_DRAINING] = "draining",
    [KEEL_CANCELLED] = "cancelled",
    [KEEL_UNAVAILABLE] = "unavailable",
    [KEEL_UPSTREAM] = "upstream",
    [KEEL_TIMEOUT] = "timeout",
    [KEEL_INTERNAL] = "internal",
};
_Static_assert(KEEL_COUNT(names) == KEEL_N_STATUS, "every status has a name");

const char *keel_status_name(enum keel_status st)
{
    keel_assert((size_t)st < KEEL_N_STATUS);
    return names[st];
}

int keel_status_http(enum keel_status st)
{
    keel_assert((size_t)st < KEEL_N_STATUS);
    return rows[st].http;
}

bool keel_status_counts(enum keel_status st)
{
    keel_assert((size_t)st < KEEL_N_STATUS);
    return rows[st].counts;
}

const char *keel_status_text(enum keel_status st)
{
    keel_assert((size_t)st < KEEL_N_STATUS);
    return rows[st].text;
}

_Noreturn void keel_panic(const char *file, int line, const char *what)
{
    fprintf(stderr, "keel: %s:%d: broken assumption: %s\n", file, line, what);
    abort();
}
