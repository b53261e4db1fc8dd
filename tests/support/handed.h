/* A bus record handed to a row as the reader would, and waited for. */
#ifndef HANDED_H
#define HANDED_H

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "call_priv.h"
#include "keel/clock.h"

static inline void handed_settled(void *ctx, struct keel_call *call, enum keel_status st)
{
    int *out = ctx;

    if (st != KEEL_OK && call)
        fprintf(stderr, "record: %s\n", keel_call_problem(call));
    *out = (int)st;
}

/* ts: of the event and of the session. */
static inline enum keel_status handed_record(struct keel_rt *rt, const char *op_id, const char *key, uint64_t seq,
                                             int64_t ts, const char *payload)
{
    const struct keel_op *op = keel_op_find(rt, op_id);
    struct keel_header h = {.producer = "hybrid-test-engine", .epoch = "e1", .seq = seq, .ts_event = ts, .ts_init = ts,
                            .ts_recv = keel_wall_ns()};
    int st = -1;

    ck_assert(op != NULL);
    snprintf(h.topic, sizeof h.topic, "%s", op->on.path);
    snprintf(h.key, sizeof h.key, "%s", key);
    keel_call_record(rt, op, &h, payload, strlen(payload), handed_settled, &st);
    while (st < 0)
        uv_run(rt->loop, UV_RUN_ONCE);
    return (enum keel_status)st;
}

#endif
