/*
 * Long work: its route answers 202, what becomes of it is asked under /jobs/{id}. A bounded number of jobs
 * is remembered, the oldest that are over make room. The ids of those that are not over stand in a file, so
 * that after a restart they can be said to have been interrupted instead of being unknown.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call_priv.h"
#include "keel/clock.h"
#include "keel/log.h"

#define MAX_JOBS 1000
#define MAX_RESULTS (64U << 20) /* bytes of all results together */

struct keel_job_entry {
    char id[40];
    char op[64];
    enum keel_job_state state;
    struct keel_call *call; /* NULL once it is over */
    int64_t submitted_ns, began_ns, ended_ns; /* wall clock; 0: not yet */
    int http;
    char *body;
    size_t len;
};

struct keel_jobs {
    struct keel_job_entry *ring[MAX_JOBS]; /* oldest first */
    size_t n, bytes;
    uint64_t count;
    char path[576];
};

static const char *const state_names[] = {"queued", "running", "done", "failed", "cancelled", "interrupted"};

static struct keel_jobs *jobs_of(struct keel_rt *rt)
{
    return *keel_calls_jobs(rt);
}

static bool is_over(const struct keel_job_entry *e)
{
    return e->state >= KEEL_JOB_DONE;
}

static void forget(struct keel_jobs *js, size_t i)
{
    struct keel_job_entry *e = js->ring[i];
    js->bytes -= e->len;
    js->n--;
    memmove(&js->ring[i], &js->ring[i + 1], (js->n - i) * sizeof js->ring[0]);
    keel_free(e->body);
    keel_free(e);
}

/* The oldest that is over, or n. */
static size_t oldest_over(const struct keel_jobs *js)
{
    size_t i = 0;
    while (i < js->n && !is_over(js->ring[i]))
        i++;
    return i;
}

static struct keel_job_entry *append(struct keel_jobs *js)
{
    if (js->n == MAX_JOBS) {
        size_t old = oldest_over(js);
        if (old == js->n)
            return NULL;
        forget(js, old);
    }
    struct keel_job_entry *e = keel_alloc(1, sizeof *e);
    js->ring[js->n++] = e;
    return e;
}

/* ---- the file ---- */

/* Written beside and moved over, so that a kill leaves the old or the new one. */
static void save(const struct keel_jobs *js)
{
    char beside[600];
    snprintf(beside, sizeof beside, "%s.new", js->path);
    FILE *f = fopen(beside, "we");
    bool ok = f != NULL;
    for (size_t i = 0; ok && i < js->n; i++) {
        const struct keel_job_entry *e = js->ring[i];
        if (!is_over(e) || e->state == KEEL_JOB_INTERRUPTED)
            ok = fprintf(f, "%s %s %lld\n", e->id, e->op, (long long)e->submitted_ns) > 0;
    }
    if (f != NULL)
        ok = fclose(f) == 0 && ok;
    if (!ok || rename(beside, js->path) != 0)
        keel_log_often(KEEL_LOG_WARN, "jobs_not_saved", "file=%s", js->path);
}

static void load(struct keel_jobs *js)
{
    char id[40], op[64];
    long long submitted;
    FILE *f = fopen(js->path, "re");
    if (f == NULL)
        return;
    while (js->n < MAX_JOBS && fscanf(f, "%39s %63s %lld", id, op, &submitted) == 3) {
        struct keel_job_entry *e = append(js);
        memcpy(e->id, id, sizeof id);
        memcpy(e->op, op, sizeof op);
        e->submitted_ns = submitted;
        e->state = KEEL_JOB_INTERRUPTED;
    }
    fclose(f);
}

/* ---- for call.c ---- */

void keel_jobs_open(struct keel_rt *rt)
{
    struct keel_jobs *js = keel_alloc(1, sizeof *js);
    snprintf(js->path, sizeof js->path, "%s/%s.jobs", rt->core->data_dir, rt->engine->name);
    load(js);
    *keel_calls_jobs(rt) = js;
}

void keel_jobs_close(struct keel_rt *rt)
{
    struct keel_jobs *js = jobs_of(rt);
    while (js != NULL && js->n > 0)
        forget(js, js->n - 1);
    keel_free(js);
    *keel_calls_jobs(rt) = NULL;
}

bool keel_jobs_room(struct keel_rt *rt)
{
    const struct keel_jobs *js = jobs_of(rt);
    return js->n < MAX_JOBS || oldest_over(js) < js->n;
}

struct keel_job_entry *keel_jobs_add(struct keel_rt *rt, struct keel_call *c)
{
    struct keel_jobs *js = jobs_of(rt);
    struct keel_job_entry *e = append(js);
    if (e == NULL)
        return NULL;
    snprintf(e->id, sizeof e->id, "J-%s-%llu", rt->epoch, (unsigned long long)++js->count);
    snprintf(e->op, sizeof e->op, "%s", c->op->id);
    e->call = c;
    e->submitted_ns = c->wall_ns;
    save(js);
    return e;
}

const char *keel_jobs_id(const struct keel_job_entry *e)
{
    return e->id;
}

const char *keel_jobs_state(const struct keel_job_entry *e)
{
    return state_names[e->state];
}

void keel_jobs_running(struct keel_job_entry *e)
{
    e->state = KEEL_JOB_RUNNING;
    e->began_ns = keel_wall_ns();
}

void keel_jobs_over(struct keel_rt *rt, struct keel_job_entry *e, enum keel_job_state state, int http, const char *body,
                    size_t len)
{
    struct keel_jobs *js = jobs_of(rt);
    e->call = NULL;
    e->state = state;
    e->http = http;
    e->ended_ns = keel_wall_ns();
    e->body = keel_alloc(len + 1, 1);
    memcpy(e->body, body, len);
    e->len = len;
    js->bytes += len;
    for (size_t old; js->bytes > MAX_RESULTS && (old = oldest_over(js)) < js->n && js->ring[old] != e;)
        forget(js, old);
    save(js);
}

/* ---- GET, DELETE /jobs/{job_id}: rows of builtin.c ---- */

static size_t find(struct keel_call *c)
{
    const struct keel_jobs *js = jobs_of(c->rt);
    const struct keel_job_ref *ref = c->arg;
    size_t i = 0;
    while (i < js->n && strcmp(js->ring[i]->id, ref->job_id) != 0)
        i++;
    return i;
}

static void write_time(struct keel_json *w, const char *key, int64_t ns)
{
    if (ns != 0)
        keel_json_time(w, key, ns);
    else
        keel_json_null(w, key);
}

static void write_entry(struct keel_json *w, const struct keel_job_entry *e)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "job_id", e->id);
    keel_json_str(w, "op", e->op);
    keel_json_str(w, "status", state_names[e->state]);
    if (e->state == KEEL_JOB_DONE)
        keel_json_f64(w, "progress", 1);
    else
        keel_json_null(w, "progress"); /* work does not tell how far it is */
    keel_json_time(w, "submitted_at", e->submitted_ns);
    write_time(w, "began_at", e->began_ns);
    write_time(w, "ended_at", e->ended_ns);
    if (e->body != NULL)
        keel_json_raw(w, e->state == KEEL_JOB_DONE ? "result" : "error", e->body, e->len);
    keel_json_end(w);
}

enum keel_status keel_jobs_get(struct keel_call *c)
{
    const struct keel_jobs *js = jobs_of(c->rt);
    size_t i = find(c);
    if (i == js->n)
        return keel_fail(c, KEEL_NOTFOUND, "no such job, or it was so long ago that it is forgotten");
    write_entry(&c->out, js->ring[i]);
    return KEEL_OK;
}

/* Cancels one that is not over, forgets one that is. */
enum keel_status keel_jobs_delete(struct keel_call *c)
{
    struct keel_jobs *js = jobs_of(c->rt);
    size_t i = find(c);
    if (i == js->n)
        return keel_fail(c, KEEL_NOTFOUND, "no such job, or it was so long ago that it is forgotten");
    struct keel_job_entry *e = js->ring[i];
    if (e->call != NULL && keel_call_cancel(e->call) != KEEL_OK)
        return keel_fail(c, KEEL_CONFLICT, "the job is past the point where it could be cancelled");
    write_entry(&c->out, e);
    if (is_over(e) && e->state != KEEL_JOB_CANCELLED) {
        forget(js, i);
        save(js);
    }
    return KEEL_OK;
}
