/*
 * A source (feed, replay, simulator) is open/next/close on a worker. next fills a batch; the loop hands it to the source's op in
 * slices: when its pace says so, when the outbox has room, and when the slowest reader is within the window. Nothing is dropped.
 */
#ifndef KEEL_SOURCE_H
#define KEEL_SOURCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/status.h"

struct keel_rt;

/* Items are an array of the adapter's own structs; each begins with int64_t ts_init (session time, not falling). */
struct keel_batch { struct keel_arena *arena; void *items; size_t item_size, n, cap; };

struct keel_source_ops {
    const char *name;
    size_t item_size, batch_cap;
    /* cfg is what keel_source_start was given (kept alive by the starter until close). why: one line, at most 200 bytes. */
    enum keel_status (*open)(void *cfg, void **self, char *why, size_t why_cap);
    /* Fills b (emptied before) with up to b->cap items; memory they point at comes from b->arena. KEEL_OK with n == 0: the end.
     * A failure ends the source; why says which file and line. */
    enum keel_status (*next)(void *self, struct keel_batch *b, const atomic_bool *stop, char *why, size_t why_cap);
    void (*close)(void *self);
};

/* What the op's begin sees: items [0, n) of this slice are to be handled now, all of them. */
struct keel_slice { struct keel_source *source; void *ctx; const void *items; size_t item_size, n; bool first, last;
                    enum keel_status ended; const char *why; /* last: how the source ended */ };

struct keel_source;

/*
 * speed: 0 is max, 1 real time by ts_init, N times that. per_item: most bus records one item gives rise to (room is asked for
 * before the slice). op_id: a row with KEEL_SOURCE. ctx comes back in the slice. From a step or open, on the loop.
 */
enum keel_status keel_source_start(struct keel_rt *rt, const char *op_id, const struct keel_source_ops *ops, void *cfg,
                                   void *ctx, double speed, size_t per_item, struct keel_source **out);
/* Ends it after the slice in hand; the op still gets its last slice (n may be 0). */
void keel_source_stop(struct keel_source *s);

#endif
