/*
 * Inside the guard of hybrid mode: what guard_hybrid.c decides by and guard_report.c shows.
 */
#ifndef KEEL_GUARD_HYBRID_H
#define KEEL_GUARD_HYBRID_H

#include "keel/guard.h"

struct target {
    const struct keel_target_conf *conf; /* borrowed, of the process' life */
    bool tracked, guarded, must, is_op, is_alternative;
    struct keel_breaker breaker;
    struct keel_tracker *tracker;
    uint64_t seen_transitions;
    uint64_t admitted, rejected, shed, openings;
    uint64_t transitions[3][3]; /* by state left and entered; a change of mode is one too */
    uint64_t in_flight;
};

struct hybrid {
    struct keel_guard_env env;
    struct keel_breaker_row row; /* the engine's, defaults filled in */
    struct target *targets;
    uint32_t passed_over[4]; /* a lane's, since its last turn */
};

void keel_hybrid_health(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
void keel_hybrid_performance(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
void keel_hybrid_breakers(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
void keel_hybrid_metrics(void *self, struct keel_text *out, const char *engine, int64_t now_ns);

#endif
