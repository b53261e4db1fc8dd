/* Calls to other engines: HTTP with keep-alive through libcurl's multi interface on the loop, one breaker a peer. Hybrid mode
 * repeats a GET whose connection broke, once and within a budget; nothing else is sent twice. */
#ifndef KEEL_PEER_H
#define KEEL_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/json.h"

struct keel_rt;

struct keel_peer_req {
    const char *peer;   /* engine name: its URL is the option <PEER>_URL */
    const char *method; /* "GET", "POST", ... */
    const char *path;   /* with query, already escaped */
    const char *body;   /* JSON or NULL; copied */
    size_t body_len;
    int64_t budget_ns;  /* 0: what the call has left, else the smaller of the two */
    const char *authorization; /* NULL: the engine's own token */
    bool probe;         /* asks only whether it is there: passes an open breaker and does not move it */
};

struct keel_reply {
    enum keel_status status; /* OK: an answer came (any http code); UNAVAILABLE: nothing was sent; OPEN: breaker open, nothing sent;
                                TIMEOUT, UPSTREAM: it may have been carried out */
    int http;
    const char *body;        /* NUL ended; call's arena */
    size_t len;
    const struct keel_jval *json; /* body parsed, or NULL */
};

#endif
