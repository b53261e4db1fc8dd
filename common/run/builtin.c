/*
 * The operations every engine has, whatever it does: what it is, how it is, how it performs, its circuit breakers, its
 * metrics, its contract, its jobs.
 */
#include "call_priv.h"
#include "rt.h"

#include "keel/clock.h"

#include <dirent.h>
#include <inttypes.h>
#include <string.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define BREAKER_REF(X, S) X(S, STR, name, NULL, 1, 64, "", "a breaker, as GET /hybrid/circuit-breakers names it")
KEEL_RECORD(breaker_ref, BREAKER_REF);
KEEL_RECORD_TABLE(breaker_ref, BREAKER_REF);
KEEL_RECORD_TABLE(keel_job_ref, KEEL_JOB_REF);

/* ---- what the engine is ---- */

static enum keel_status root_begin(struct keel_call *c)
{
    const struct keel_rt *rt = c->rt;

    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "engine", rt->engine->name);
    keel_json_str(&c->out, "title", rt->engine->title);
    keel_json_str(&c->out, "version", KEEL_VERSION);
    keel_json_arr(&c->out, "operations");
    for (size_t i = 0; i < rt->n_ops; i++) {
        const struct keel_op *op = &rt->ops[i];
        if (op->on.kind != KEEL_ON_HTTP && op->on.kind != KEEL_ON_WS)
            continue;
        keel_json_obj(&c->out, NULL);
        keel_json_str(&c->out, "id", op->id);
        keel_json_str(&c->out, "method", op->on.kind == KEEL_ON_WS ? "GET" : op->on.method);
        keel_json_str(&c->out, "path", op->on.path);
        keel_json_str(&c->out, "help", op->help);
        keel_json_end(&c->out);
    }
    keel_json_end(&c->out);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status openapi_begin(struct keel_call *c)
{
    keel_openapi_write(c->rt, &c->out);
    return KEEL_OK;
}

/* HTTP answers these without a call; this is how they look from inside. */
static enum keel_status health_begin(struct keel_call *c)
{
    const struct keel_prebuilt *now = keel_health_prebuilt(c->rt, c->op);

    keel_json_raw(&c->out, NULL, now->body, now->len);
    c->http = now->http;
    return KEEL_OK;
}

/* ---- the hybrid guard ---- */

static double us(int64_t ns)
{
    return (double)ns / 1000.0;
}

static void write_load(const struct keel_rt *rt, struct keel_json *w)
{
    keel_json_obj(w, "load");
    keel_json_fix(w, "loop_lag_us", us(rt->load.loop_lag_ns), 1);
    keel_json_fix(w, "queue_delay_us", us(rt->load.queue_delay_ns), 1);
    keel_json_u64(w, "queued_jobs", rt->load.queued);
    keel_json_u64(w, "calls_in_flight", rt->load.in_flight);
    keel_json_end(w);
}

static void write_hardware(const struct keel_rt *rt, struct keel_json *w)
{
    keel_json_obj(w, "hardware");
    keel_json_obj(w, "cpu");
    keel_json_i64(w, "cores", sysconf(_SC_NPROCESSORS_ONLN));
    keel_json_u64(w, "usable", uv_available_parallelism());
    keel_worker_threads(rt, w);
    keel_json_end(w);
    if (rt->engine->hardware != NULL)
        rt->engine->hardware(rt->state, w);
    keel_json_end(w);
}

static enum keel_status performance_begin(struct keel_call *c)
{
    struct keel_rt *rt = c->rt;

    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "engine", rt->engine->name);
    rt->guard->performance(rt->guard_self, &c->out, keel_mono_ns(), keel_wall_ns());
    if (rt->bus != NULL) {
        keel_json_obj(&c->out, "bus");
        keel_bus_performance(rt, &c->out);
        keel_json_end(&c->out);
    } else {
        keel_json_null(&c->out, "bus");
    }
    write_load(rt, &c->out);
    keel_peers_json(rt, &c->out);
    write_hardware(rt, &c->out);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status breakers_begin(struct keel_call *c)
{
    struct keel_rt *rt = c->rt;

    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "engine", rt->engine->name);
    keel_json_arr(&c->out, "circuit_breakers");
    rt->guard->tick(rt->guard_self, keel_mono_ns());
    rt->guard->breakers(rt->guard_self, &c->out, keel_mono_ns(), keel_wall_ns());
    keel_json_end(&c->out);
    keel_json_end(&c->out);
    return KEEL_OK;
}

/* The last word of the row's path is the change. */
static enum keel_status breaker_change(struct keel_call *c)
{
    const struct breaker_ref *arg = c->arg;
    const char *change = strrchr(c->op->on.path, '/') + 1;

    if (c->rt->guard->change(c->rt->guard_self, arg->name, change, keel_mono_ns()) != KEEL_OK)
        return keel_fail_as(c, KEEL_NOTFOUND, NULL, "name", "there is no breaker %s", arg->name);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "ok");
    keel_json_str(&c->out, "name", arg->name);
    keel_json_str(&c->out, "change", change);
    keel_json_end(&c->out);
    return KEEL_OK;
}

/* ---- metrics ---- */

struct process { double cpu_s; uint64_t rss_bytes, virtual_bytes, fds, max_fds; };

static uint64_t count_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint64_t n = 0;

    if (dir == NULL)
        return 0;
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir))
        n += e->d_name[0] != '.';
    closedir(dir);
    return n - 1; /* without the directory's own */
}

static struct process read_process(void)
{
    struct process p = {0};
    struct rusage use;
    struct rlimit limit;
    unsigned long long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f != NULL) {
        if (fscanf(f, "%llu %llu", &pages, &resident) != 2)
            pages = resident = 0;
        fclose(f);
    }
    p.virtual_bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    p.rss_bytes = resident * (uint64_t)sysconf(_SC_PAGESIZE);
    if (getrusage(RUSAGE_SELF, &use) == 0)
        p.cpu_s = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                  (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        p.max_fds = (uint64_t)limit.rlim_cur;
    p.fds = count_descriptors();
    return p;
}

static double uptime_seconds(const struct keel_rt *rt)
{
    return (double)(keel_mono_ns() - rt->started_ns) / 1e9;
}

static void family(struct keel_text *t, const char *name, const char *type, const char *help)
{
    keel_text_add(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void plain_series(struct keel_text *t, const char *name, const char *type, const char *help, double value)
{
    family(t, name, type, help);
    keel_text_add(t, "%s %.17g\n", name, value);
}

static void engine_series(struct keel_text *t, const struct keel_rt *rt, const char *name, const char *type,
                          const char *help, double value)
{
    family(t, name, type, help);
    keel_text_add(t, "%s{engine=\"%s\"} %.17g\n", name, rt->engine->name, value);
}

static void process_metrics(struct keel_text *t, const struct keel_rt *rt)
{
    struct process p = read_process();

    plain_series(t, "process_cpu_seconds_total", "counter", "CPU time, user and system.", p.cpu_s);
    plain_series(t, "process_resident_memory_bytes", "gauge", "Resident memory.", (double)p.rss_bytes);
    plain_series(t, "process_virtual_memory_bytes", "gauge", "Virtual memory.", (double)p.virtual_bytes);
    plain_series(t, "process_open_fds", "gauge", "Open descriptors.", (double)p.fds);
    plain_series(t, "process_max_fds", "gauge", "Most descriptors the process may open.", (double)p.max_fds);
    plain_series(t, "process_start_time_seconds", "gauge", "Start, seconds since 1970.",
                 (double)rt->started_wall_ns / 1e9);
}

static void runtime_metrics(struct keel_text *t, struct keel_rt *rt)
{
    struct keel_http_stats http = keel_http_stats(rt);

    family(t, "keel_build_info", "gauge", "Always 1; what runs stands in the labels.");
    keel_text_add(t, "keel_build_info{engine=\"%s\",version=\"%s\",guard=\"%s\"} 1\n", rt->engine->name, KEEL_VERSION,
                  rt->guard->name);
    engine_series(t, rt, "keel_uptime_seconds", "gauge", "Time since start.", uptime_seconds(rt));
    engine_series(t, rt, "keel_ready", "gauge", "1 when ready for traffic.", rt->ready && !rt->draining);
    engine_series(t, rt, "keel_healthy", "gauge", "1 while /health answers 200.", keel_health_http(rt) == 200);
    engine_series(t, rt, "keel_loop_lag_seconds", "gauge", "How late the loop came to its timers.",
                  (double)rt->load.loop_lag_ns / 1e9);
    engine_series(t, rt, "keel_queue_delay_seconds", "gauge", "How long jobs waited for a worker.",
                  (double)rt->load.queue_delay_ns / 1e9);
    engine_series(t, rt, "keel_queued_jobs", "gauge", "Jobs waiting for a worker.", rt->load.queued);
    engine_series(t, rt, "keel_calls_in_flight", "gauge", "Calls begun and not settled.", rt->load.in_flight);
    engine_series(t, rt, "keel_http_requests_total", "counter", "HTTP requests whose header came.",
                  (double)http.requests);
    engine_series(t, rt, "keel_http_refused_total", "counter", "Requests refused before a call existed.",
                  (double)http.refused);
    engine_series(t, rt, "keel_http_timed_out_total", "counter", "Connections cut over a late header or body.",
                  (double)http.timed_out);
    engine_series(t, rt, "keel_http_slowed_total", "counter",
                  "Requests taken up later because their client asks again and again without the pause it was told.",
                  (double)http.slowed);
    engine_series(t, rt, "keel_http_connections", "gauge", "Open HTTP connections.", http.connections);
}

static void write_text_metrics(struct keel_call *c)
{
    struct keel_rt *rt = c->rt;
    struct keel_text t;

    keel_text_init(&t, c->arena, 16384);
    runtime_metrics(&t, rt);
    rt->guard->metrics(rt->guard_self, &t, rt->engine->name, keel_mono_ns());
    if (rt->bus != NULL)
        keel_bus_metrics(rt, &t);
    keel_peers_metrics(rt, &t);
    keel_series_metrics(rt, &t);
    process_metrics(&t, rt);
    c->type = "text/plain; version=0.0.4; charset=utf-8";
    keel_json_raw(&c->out, NULL, t.buf, t.len);
}

static bool is_containerized(void)
{
    return access("/.dockerenv", F_OK) == 0 || getenv("KEEL_CONTAINER") != NULL;
}

static void write_json_metrics(struct keel_call *c)
{
    struct keel_rt *rt = c->rt;
    struct keel_json *w = &c->out;
    struct process p = read_process();
    uint64_t requests = keel_http_stats(rt).requests;
    double up_s = uptime_seconds(rt);

    keel_json_obj(w, NULL);
    keel_json_str(w, "engine", rt->engine->name);
    keel_json_fix(w, "uptime_seconds", up_s, 3);
    keel_json_str(w, "engine_type", rt->engine->name);
    keel_json_bool(w, "containerized", is_containerized());
    keel_json_u64(w, "requests_processed", requests);
    keel_json_fix(w, "requests_per_second", up_s > 0 ? (double)requests / up_s : 0, 3);
    keel_json_bool(w, "messagebus_connected", rt->bus != NULL && keel_bus_connected(rt));
    write_load(rt, w);
    keel_json_obj(w, "process");
    keel_json_fix(w, "cpu_seconds", p.cpu_s, 3);
    keel_json_u64(w, "resident_bytes", p.rss_bytes);
    keel_json_u64(w, "open_fds", p.fds);
    keel_json_end(w);
    keel_json_obj(w, "bus");
    if (rt->bus != NULL)
        keel_bus_counts(rt, w);
    keel_json_end(w);
    keel_json_obj(w, "series");
    keel_series_json(rt, w);
    keel_json_end(w);
    keel_json_end(w);
}

static enum keel_status metrics_begin(struct keel_call *c)
{
    const char *accept = keel_call_header(c, "Accept");

    if (accept != NULL && strstr(accept, "application/json") != NULL)
        write_json_metrics(c);
    else
        write_text_metrics(c);
    return KEEL_OK;
}

/* ---- the rows ---- */

#define BREAKER_CHANGE(id_, path_, help_)                                                                              \
    {.id = id_, .on = KEEL_POST("/hybrid/circuit-breakers/{name}/" path_), .level = KEEL_CRITICAL,                     \
     .scope = KEEL_SCOPE_ADMIN, .flags = KEEL_MUST | KEEL_HYBRID_ONLY, .takes = &breaker_ref_fields,                   \
     .begin = breaker_change, .help = help_}

const struct keel_op keel_builtin_ops[] = {
    {.id = "root", .on = KEEL_GET("/"), .level = KEEL_NORMAL, .begin = root_begin,
     .help = "Name and operations of the engine."},
    {.id = "health", .on = KEEL_GET("/health"), .level = KEEL_CRITICAL, .scope = KEEL_SCOPE_ANY, .flags = KEEL_PREBUILT,
     .begin = health_begin, .help = "Health, dependencies, breakers and performance in short."},
    {.id = "health_live", .on = KEEL_GET("/health/live"), .level = KEEL_CRITICAL, .scope = KEEL_SCOPE_ANY,
     .flags = KEEL_PREBUILT, .begin = health_begin, .help = "200 while the loop turns."},
    {.id = "health_ready", .on = KEEL_GET("/health/ready"), .level = KEEL_CRITICAL, .scope = KEEL_SCOPE_ANY,
     .flags = KEEL_PREBUILT, .begin = health_begin, .help = "200 when ready for traffic."},
    {.id = "hybrid_performance", .on = KEEL_GET("/hybrid/performance"), .level = KEEL_HIGH, .flags = KEEL_HYBRID_ONLY,
     .begin = performance_begin, .help = "Latency, outcomes and load of every operation."},
    {.id = "circuit_breakers", .on = KEEL_GET("/hybrid/circuit-breakers"), .level = KEEL_HIGH,
     .flags = KEEL_HYBRID_ONLY, .begin = breakers_begin, .help = "Every circuit breaker."},
    BREAKER_CHANGE("circuit_breaker_reset", "reset", "Closes the breaker and forgets its window."),
    BREAKER_CHANGE("circuit_breaker_force_open", "force-open", "Keeps the breaker open."),
    BREAKER_CHANGE("circuit_breaker_disable", "disable", "The breaker lets everything through."),
    BREAKER_CHANGE("circuit_breaker_metrics_only", "metrics-only",
                   "The breaker counts and shows what it would do, and lets everything through."),
    BREAKER_CHANGE("circuit_breaker_enable", "enable", "The breaker works as it should."),
    {.id = "metrics", .on = KEEL_GET("/metrics"), .level = KEEL_HIGH, .begin = metrics_begin,
     .help = "Prometheus text, or JSON to Accept: application/json."},
    {.id = "openapi", .on = KEEL_GET("/openapi.json"), .level = KEEL_NORMAL, .begin = openapi_begin,
     .help = "OpenAPI 3.1 of this engine."},
    {.id = "job", .on = KEEL_GET("/jobs/{job_id}"), .level = KEEL_NORMAL, .takes = &keel_job_ref_fields,
     .begin = keel_jobs_get, .help = "State, progress and result of long work."},
    {.id = "job_cancel", .on = KEEL_DELETE("/jobs/{job_id}"), .level = KEEL_HIGH, .scope = KEEL_SCOPE_TRADE,
     .takes = &keel_job_ref_fields, .begin = keel_jobs_delete, .help = "Cancels long work."},
};
const size_t keel_n_builtin_ops = KEEL_COUNT(keel_builtin_ops);
