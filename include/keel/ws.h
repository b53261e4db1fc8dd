/*
 * WebSocket sessions. A KEEL_WS row's begin is the upgrade call: call->ws is the session that will be; KEEL_OK
 * upgrades, a failure refuses. What it pushes is sent right after the upgrade. Each text message of the client is a
 * call of the row <id>_frame (KEEL_SPAWNED), with call->ws; a failed one answers the client with an error message.
 *
 * What is pushed in one turn of the loop leaves in one send per session. Nobody waits for a slow client: what its
 * socket does not take waits in a queue of its own, bounded; beyond that a push is refused, and it is told once there
 * is room.
 */
#ifndef KEEL_WS_H
#define KEEL_WS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct keel_rt;
struct keel_ws;

/* A message, shared by all sessions it goes to. */
struct keel_ws_block;

enum keel_ws_stamp {
    KEEL_WS_PLAIN,  /* sent as it is */
    KEEL_WS_STAMPED /* a JSON object with members: sent with "message_id":"<session>-<n>" before them */
};

struct keel_ws_hooks {
    /* There is room again after a push was refused. While the session ends as a slow client, everything
     * pushed has room. */
    void (*drained)(struct keel_rt *rt, struct keel_ws *ws);
    /* It takes nothing more; the last that is heard of it. Also when the upgrade comes to nothing. */
    void (*closed)(struct keel_rt *rt, struct keel_ws *ws);
};

/* For begin of the upgrade call. */
void keel_ws_own(struct keel_ws *ws, const struct keel_ws_hooks *hooks, void *ctx);
void *keel_ws_ctx(const struct keel_ws *ws);
const char *keel_ws_id(const struct keel_ws *ws); /* "c1" */

/* Copies the text. stamp_ns: wall clock from which the series "delivery" is measured to each send; 0: not measured. */
struct keel_ws_block *keel_ws_block_new(const char *json, size_t len, enum keel_ws_stamp stamp, int64_t stamp_ns);
struct keel_ws_block *keel_ws_block_keep(struct keel_ws_block *b);
void keel_ws_block_drop(struct keel_ws_block *b); /* NULL is fine */

/* False: the session's queue is full, or it is closing; nothing was queued. */
bool keel_ws_push(struct keel_ws *ws, struct keel_ws_block *b);
/* Sends what is queued, then the close frame. */
void keel_ws_close(struct keel_ws *ws, uint16_t code, const char *reason);

bool keel_ws_is_closing(const struct keel_ws *ws);

struct keel_ws_info {
    int64_t opened_ns;         /* wall clock */
    uint64_t sent, received, refused; /* messages */
    size_t queued;
};
struct keel_ws_info keel_ws_info(const struct keel_ws *ws);

#endif
