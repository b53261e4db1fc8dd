/*
 * Every outcome a call can have, in one list: name, HTTP code, whether it counts against a
 * breaker, text for people. Functions that can fail return enum keel_status; out-parameters are
 * untouched unless it is KEEL_OK.
 */
#ifndef KEEL_STATUS_H
#define KEEL_STATUS_H

#include <stdbool.h>
#include <stddef.h>

#define KEEL_COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define KEEL_STATUS_MAP(X)                                                                         \
    X(OK, 200, false, "ok")                                                                        \
    X(INVALID, 400, false, "the request is malformed")                                             \
    X(UNAUTHORIZED, 401, false, "no valid token")                                                  \
    X(FORBIDDEN, 403, false, "the token's scope does not allow this")                              \
    X(NOTFOUND, 404, false, "no such thing")                                                       \
    X(METHOD, 405, false, "the path does not take this method")                                    \
    X(CONFLICT, 409, false, "the state does not allow this")                                       \
    X(TOOBIG, 413, false, "input exceeds a limit")                                                 \
    X(MEDIA, 415, false, "the body must be application/json")                                      \
    X(UNDEFINED, 422, false, "the result is undefined for this input")                             \
    X(RATE, 429, false, "too many requests")                                                       \
    X(SHED, 503, false, "refused to protect more critical work")                                   \
    X(OPEN, 503, false, "circuit open")                                                            \
    X(DRAINING, 503, false, "shutting down")                                                       \
    X(CANCELLED, 504, false, "its turn did not come in time")                                      \
    X(UNAVAILABLE, 503, false, "a needed dependency is away")                                      \
    X(UPSTREAM, 502, true, "a dependency failed")                                                  \
    X(TIMEOUT, 504, true, "deadline passed")                                                       \
    X(INTERNAL, 500, true, "a bug on our side")

enum keel_status {
#define X(name, http, counts, text) KEEL_##name,
    KEEL_STATUS_MAP(X)
#undef X
    KEEL_N_STATUS,
    KEEL_WAIT = KEEL_N_STATUS /* a step's answer when the call goes on later; never leaves the core */
};

/* "invalid", "timeout", ...: also the default `code` of a problem body. */
const char *keel_status_name(enum keel_status st);
int keel_status_http(enum keel_status st);
bool keel_status_counts(enum keel_status st);
const char *keel_status_text(enum keel_status st);

/* States what only a bug can break; logs and aborts; never compiled out. */
#define keel_assert(cond) ((cond) ? (void)0 : keel_panic(__FILE__, __LINE__, #cond))
_Noreturn void keel_panic(const char *file, int line, const char *what) __attribute__((cold));

#endif
