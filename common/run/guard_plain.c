/*
 * The guard of plain mode: one budget for all ops, everything is admitted, jobs run in the order they
 * came. It counts, so that /health and /metrics have figures, and protects nothing.
 */
#include <string.h>

#include "keel/arena.h"
#include "keel/guard.h"
#include "keel/text.h"

#define BUDGET_NS INT64_C(30000000000)

struct plain {
    const struct keel_target_conf *targets; /* borrowed, of the process' life */
    uint32_t n_targets;
    uint64_t (*outcomes)[KEEL_N_OUTCOME]; /* a row a target */
};

static const char *const outcome_name[KEEL_N_OUTCOME] = {
    "ok", "slow", "failure", "timeout", "rejected", "cancelled", "client",
};

static bool is_counted(const struct keel_target_conf *t)
{
    return t->op == NULL || (t->op->flags & KEEL_PREBUILT) == 0;
}

/* An op itself, not an alternative of one or a dependency. */
static bool is_op(const struct keel_target_conf *t)
{
    return t->op != NULL && is_counted(t) && strcmp(t->name, t->op->id) == 0;
}

static enum keel_status plain_open(const struct keel_guard_env *env, void **self)
{
    struct plain *g = keel_alloc(1, sizeof(*g));
    g->targets = env->targets;
    g->n_targets = env->n_targets;
    g->outcomes = keel_alloc(env->n_targets, sizeof(*g->outcomes));
    *self = g;
    return KEEL_OK;
}

static void plain_close(void *self)
{
    struct plain *g = self;
    if (g == NULL)
        return;
    keel_free(g->outcomes);
    keel_free(g);
}

static int64_t plain_budget(void *self, const struct keel_op *op)
{
    (void)self;
    return (op->flags & KEEL_MUST) != 0 ? INT64_MAX : BUDGET_NS;
}

static enum keel_status plain_admit(void *self, uint32_t target, int64_t now_ns, int64_t left_ns,
                                    struct keel_permit *permit, struct keel_refusal *why)
{
    (void)self;
    (void)left_ns;
    (void)why;
    *permit = (struct keel_permit){target, {0, -1, now_ns}, now_ns};
    return KEEL_OK;
}

static enum keel_status plain_admit_client(void *self, uint32_t target, uint64_t client, int64_t now_ns, int64_t left_ns,
                                           struct keel_permit *permit, struct keel_refusal *why)
{
    (void)client;
    return plain_admit(self, target, now_ns, left_ns, permit, why);
}

static enum keel_status plain_pick(void *self, const struct keel_pick *ask, int64_t now_ns, struct keel_permit *permit,
                                   struct keel_refusal *why)
{
    why->reason = ask->because;
    return plain_admit(self, ask->first, now_ns, ask->left_ns, permit, why);
}

/* The core files jobs by level; the order of arrival is that of their stamps. */
static struct keel_job *plain_next_job(void *self, struct keel_queue *q, int64_t now_ns)
{
    (void)self;
    (void)now_ns;
    if (q->n == 0 || q->running >= q->threads)
        return NULL;
    size_t first = 0;
    for (size_t i = 1; i < KEEL_COUNT(q->head); i++)
        if (q->head[i] != NULL && (q->head[first] == NULL || q->head[i]->queued_ns < q->head[first]->queued_ns))
            first = i;
    struct keel_job *job = q->head[first];
    if (job == NULL)
        return NULL;
    q->head[first] = job->next;
    if (job->next == NULL)
        q->tail[first] = NULL;
    job->next = NULL;
    q->n--;
    return job;
}

static void plain_refused(void *self, uint32_t target, enum keel_outcome o)
{
    struct plain *g = self;
    keel_assert(target < g->n_targets && (uint32_t)o < KEEL_N_OUTCOME);
    if (is_counted(&g->targets[target]))
        g->outcomes[target][o]++;
}

static void plain_settle(void *self, struct keel_permit permit, enum keel_outcome o, int64_t latency_ns, int64_t now_ns)
{
    (void)latency_ns;
    (void)now_ns;
    plain_refused(self, permit.target, o);
}

static uint64_t count_of(const uint64_t outcomes[KEEL_N_OUTCOME])
{
    uint64_t n = 0;
    for (size_t o = 0; o < KEEL_N_OUTCOME; o++)
        n += outcomes[o];
    return n;
}

static void write_counts(struct keel_json *w, const char *key, uint64_t count, uint64_t errors)
{
    keel_json_obj(w, key);
    keel_json_u64(w, "count", count);
    keel_json_u64(w, "errors", errors);
    keel_json_end(w);
}

static void plain_health(void *self, struct keel_json *w, int64_t now_ns, int64_t wall_ns)
{
    const struct plain *g = self;
    (void)now_ns;
    (void)wall_ns;
    keel_json_obj(w, "circuit_breaker");
    keel_json_str(w, "state", "disabled");
    keel_json_i64(w, "failure_count", 0);
    keel_json_null(w, "last_failure_time");
    keel_json_end(w);

    uint64_t count = 0, errors = 0;
    keel_json_obj(w, "performance");
    keel_json_obj(w, "operations");
    for (uint32_t i = 0; i < g->n_targets; i++) {
        if (!is_op(&g->targets[i]))
            continue;
        uint64_t n = count_of(g->outcomes[i]);
        uint64_t bad = g->outcomes[i][KEEL_OUT_FAILURE] + g->outcomes[i][KEEL_OUT_TIMEOUT];
        write_counts(w, g->targets[i].name, n, bad);
        count += n;
        errors += bad;
    }
    keel_json_end(w);
    write_counts(w, "overall", count, errors);
    keel_json_end(w);
}

static void plain_metrics(void *self, struct keel_text *out, const char *engine, int64_t now_ns)
{
    const struct plain *g = self;
    (void)now_ns;
    keel_text_add(out, "# HELP keel_op_calls_total Calls by operation and outcome.\n"
                       "# TYPE keel_op_calls_total counter\n");
    for (uint32_t i = 0; i < g->n_targets; i++)
        for (size_t o = 0; o < KEEL_N_OUTCOME; o++)
            if (is_counted(&g->targets[i]) && (o == KEEL_OUT_OK || g->outcomes[i][o] != 0))
                keel_text_add(out, "keel_op_calls_total{engine=\"%s\",op=\"%s\",outcome=\"%s\"} %llu\n", engine,
                              g->targets[i].name, outcome_name[o], (unsigned long long)g->outcomes[i][o]);
}

const struct keel_guard keel_guard_plain = {
    .name = "plain",
    .open = plain_open,
    .budget_ns = plain_budget,
    .admit = plain_admit,
    .admit_client = plain_admit_client,
    .pick = plain_pick,
    .next_job = plain_next_job,
    .settle = plain_settle,
    .refused = plain_refused,
    .health = plain_health,
    .metrics = plain_metrics,
    .close = plain_close,
};
