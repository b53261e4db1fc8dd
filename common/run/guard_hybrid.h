/*
 * Inside the guard of hybrid mode: what guard_hybrid.c decides by and guard_report.c shows.
 */
#ifndef KEEL_GUARD_HYBRID_H
#define KEEL_GUARD_HYBRID_H

#include "keel/admission.h"
#include "keel/guard.h"

enum keel_gate_reason { KEEL_GATE_CLIENT, KEEL_GATE_ROUTE, KEEL_GATE_BULKHEAD, KEEL_GATE_CONCURRENCY, KEEL_N_GATE };

/* What guard_admission.c keeps of a target. */
struct gate {
    bool bounds, learns; /* what follows is to be asked before, told after a call */
    bool per_client;
    uint32_t places; /* most calls in flight; 0: not bounded here */
    struct keel_rate rate; /* of the op as a whole */
    int64_t full_ns;
    struct keel_aimd *aimd; /* NULL: off */
    uint64_t refused[KEEL_N_GATE];
    /* of an alternative */
    int64_t took_ns[8], recent_ns; /* the last runs; what most of them kept to, 0: not known */
    uint32_t n_took;
    bool on_trial; /* runs although it was too slow, to find out whether it still is */
    int64_t tried_ns, last_ns;     /* chosen last; chosen last in place of another */
    uint64_t n_fallback, n_passed_over;
    char last_reason[80];
};

struct target {
    const struct keel_target_conf *conf; /* borrowed, of the process' life */
    bool tracked, guarded, must, is_op, is_alternative;
    uint64_t slow_ns; /* what takes longer is slow to the breaker; 0: nothing is */
    struct keel_tracker *tracker;
    uint64_t in_flight, admitted, seen_transitions;
    struct gate gate;
    struct keel_breaker breaker;
    uint64_t rejected, shed, openings;
    uint64_t transitions[3][3]; /* by state left and entered; a change of mode is one too */
};

struct hybrid {
    struct keel_guard_env env;
    struct keel_breaker_row row; /* the engine's, defaults filled in */
    struct target *targets;
    struct target own[KEEL_N_OWN]; /* tracked, never refused */
    int64_t now_ns;                /* newest time the guard was told */
    uint32_t passed_over[4]; /* a lane's, since its last turn */
    uint32_t busy[4];        /* calls in flight, by level */
    uint32_t places[4];      /* most of them of a level and all below it */
    struct keel_rate client_rate;
    struct keel_clients *clients; /* NULL: no limit */
};

void keel_gate_open(struct hybrid *g);
void keel_gate_close(struct hybrid *g);
enum keel_status keel_gate_bounds(struct hybrid *g, struct target *t, uint64_t client, int64_t now_ns,
                                  struct keel_refusal *why);
enum keel_status keel_gate_full(struct target *t, struct keel_refusal *why);
void keel_gate_settled(struct target *t, struct keel_permit p, enum keel_outcome o, int64_t latency_ns, int64_t now_ns);
enum keel_status keel_hybrid_pick(void *self, const struct keel_pick *ask, int64_t now_ns, struct keel_permit *permit,
                                  struct keel_refusal *why);
void keel_hybrid_admission(const struct hybrid *g, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
void keel_hybrid_admission_metrics(const struct hybrid *g, struct keel_text *out, const char *engine);

void keel_hybrid_health(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
void keel_hybrid_performance(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
void keel_hybrid_breakers(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns);
void keel_hybrid_metrics(void *self, struct keel_text *out, const char *engine, int64_t now_ns);

#endif
