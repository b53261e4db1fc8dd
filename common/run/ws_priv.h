/* What http.c, main.c and call.c share with ws.c. */
#ifndef KEEL_RUN_WS_PRIV_H
#define KEEL_RUN_WS_PRIV_H

#include "rt.h"

#include "keel/ws.h"

/* How the socket of an upgrade goes back to the server, once. */
struct keel_ws_upgrade { void (*give_back)(void *ctx); void *ctx; };

/* The session of an upgrade call that is about to be made: it ends in exactly one of refused and attach. */
struct keel_ws *keel_ws_new(struct keel_rt *rt, const struct keel_op *op);
void keel_ws_refused(struct keel_ws *ws);
/* extra: what came behind the request in the same segment. */
void keel_ws_attach(struct keel_ws *ws, int fd, const char *extra, size_t n, struct keel_ws_upgrade upgrade);

void keel_wss_open(struct keel_rt *rt);
void keel_wss_drain(struct keel_rt *rt); /* closes all with 1001; over within a second */
void keel_wss_end(struct keel_rt *rt);   /* what is still open, at once */
void keel_wss_close(struct keel_rt *rt);
size_t keel_wss_live(const struct keel_rt *rt);

/* ---- call.c ---- */
/* A client's message becomes a call of op. payload must live until done; done runs exactly once. */
void keel_call_frame(struct keel_rt *rt, const struct keel_op *op, struct keel_ws *ws, const char *payload, size_t len,
                     keel_settled_fn *done, void *ctx);
/* Code and detail of a failed call, NULL where it has none. */
void keel_call_failure(const struct keel_call *call, const char **code, const char **detail);

#endif
