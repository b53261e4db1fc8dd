/*
 * The process: options, guard, the parts in the order they rest on one another, the loop, and the drain in
 * the opposite order. What can be wrong is found before the first connection is taken.
 */
#include <netdb.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "call_priv.h"
#include "ws_priv.h"
#include "keel/clock.h"
#include "keel/contract.h"
#include "keel/log.h"

#define MAX_TARGETS 512
#define FLUSH_NS (2000 * KEEL_MS) /* the outbox has at least this long in the drain */
#define STUCK_NS (2000 * KEEL_MS) /* so long may work that was told to stop go on */
#define PROBE_SECONDS 3
#define BUS_WAIT_NS (1000 * KEEL_MS) /* readiness waits so long for Redis */
#define BUS_WAIT_MS 10               /* and looks so often */
#define KEPT_BLOCK (4 * 1024 * 1024) /* larger blocks of memory go back to the kernel with their call */
#define KEPT_BYTES (8 * 1024 * 1024) /* so much that is free is kept, of each thread */

enum stage { RUNNING, DRAIN_CALLS, DRAIN_WORK, DRAIN_OUTBOX, DRAINED };

struct process {
    struct keel_rt rt; /* first */
    uv_loop_t loop;
    uv_timer_t second, start, drain;
    uv_signal_t terminate, interrupt;
    bool has_loop, has_timers, has_signals, is_open; /* is_open: the engine is */
    const struct keel_peer_urls *urls;
    const struct keel_breaker_options *breaker;
    enum stage stage;
    int64_t stage_until_ns;
};

static struct process *process_of(struct keel_rt *rt)
{
    return (struct process *)rt;
}

/* ---- what a step or open may ask ---- */

void *keel_state(struct keel_rt *rt)
{
    return rt->state;
}

const void *keel_options(struct keel_rt *rt)
{
    return rt->options;
}

const char *keel_data_dir(struct keel_rt *rt)
{
    return rt->core->data_dir;
}

const char *keel_mode(struct keel_rt *rt)
{
    static const char *const names[] = {"live", "paper", "sim"};
    return names[rt->core->keel_mode];
}

bool keel_is_hybrid(struct keel_rt *rt)
{
    return rt->guard->hybrid;
}

const char *keel_engine_name(struct keel_rt *rt)
{
    return rt->engine->name;
}

/* ---- the table ---- */

static void all_ops(struct keel_rt *rt)
{
    const struct { const struct keel_op *rows; size_t n; } parts[] = {
        {rt->engine->ops, rt->engine->n_ops},
        {keel_builtin_ops, keel_n_builtin_ops},
        {keel_bus_ops, keel_n_bus_ops},
    };
    size_t n = 0;
    for (size_t i = 0; i < KEEL_COUNT(parts); i++)
        n += parts[i].n;
    struct keel_op *ops = keel_arena_array(rt->arena, n, sizeof *ops);
    rt->ops = ops;
    for (size_t i = 0; i < KEEL_COUNT(parts); i++) {
        if (parts[i].n > 0)
            memcpy(ops + rt->n_ops, parts[i].rows, parts[i].n * sizeof *ops);
        rt->n_ops += parts[i].n;
    }
}

static struct keel_target_conf *add_target(struct keel_rt *rt, const struct keel_op *op)
{
    keel_assert(rt->n_targets < MAX_TARGETS);
    struct keel_target_conf *t = &rt->targets[rt->n_targets++];
    t->op = op;
    t->level = op != NULL ? op->level : KEEL_CRITICAL;
    if (op != NULL)
        t->target_ns = (uint64_t)((op->target_ms > 0 ? (double)op->target_ms : op->deadline_ms) * (double)KEEL_MS);
    return t;
}

static void all_targets(struct keel_rt *rt)
{
    static const char *const own[] = {"redis_publish", "redis_read", "store"};
    struct keel_target_conf *t;
    rt->targets = keel_arena_array(rt->arena, MAX_TARGETS, sizeof *rt->targets);
    for (size_t i = 0; i < rt->n_ops; i++) {
        t = add_target(rt, &rt->ops[i]);
        snprintf(t->name, sizeof t->name, "%s", rt->ops[i].id);
    }
    for (size_t i = 0; i < rt->n_ops; i++) {
        for (const char *const *f = rt->ops[i].fallbacks; f != NULL && *f != NULL; f++) {
            t = add_target(rt, &rt->ops[i]);
            t->target_ns = 0; /* it is judged by what a call has left for it */
            snprintf(t->name, sizeof t->name, "%s.%s", rt->ops[i].id, *f);
        }
    }
    for (size_t i = 0; i < KEEL_COUNT(own); i++) {
        t = add_target(rt, NULL);
        snprintf(t->name, sizeof t->name, "dep.%s", own[i]);
    }
    for (const char *const *p = rt->engine->peers; p != NULL && *p != NULL; p++) {
        t = add_target(rt, NULL);
        snprintf(t->name, sizeof t->name, "dep.peer.%s", *p);
    }
}

/* ---- dependencies behind breakers ---- */

uint32_t keel_dep(struct keel_rt *rt, const char *name)
{
    char full[64];
    uint32_t i = (uint32_t)rt->n_ops;
    snprintf(full, sizeof full, "dep.%s", name);
    while (i < rt->n_targets && strcmp(rt->targets[i].name, full) != 0)
        i++;
    keel_assert(i < rt->n_targets);
    return i;
}

enum keel_status keel_dep_admit(struct keel_rt *rt, uint32_t dep, struct keel_permit *p, struct keel_refusal *why)
{
    return rt->guard->admit(rt->guard_self, dep, keel_mono_ns(), INT64_MAX, p, why);
}

void keel_dep_settle(struct keel_rt *rt, struct keel_permit p, enum keel_outcome o)
{
    int64_t now = keel_mono_ns();
    rt->guard->settle(rt->guard_self, p, o, now - p.start_ns, now);
}

/* ---- guard ---- */

static const char *breaker_state(uint8_t state)
{
    static const char *const names[] = {"closed", "open", "half_open"};
    return state < KEEL_COUNT(names) ? names[state] : "unknown";
}

/* A transition is an event: log, and the engine's own topic. */
static void on_transition(void *ctx, const char *target, const struct keel_breaker_event *ev)
{
    struct keel_rt *rt = ctx;
    const char *from = breaker_state(ev->from), *to = breaker_state(ev->to);
    char name[64];
    keel_log(KEEL_LOG_WARN, "breaker", "target=%s from=%s to=%s reason=%s", target, from, to, ev->reason);
    snprintf(name, sizeof name, "%s.critical.breaker", rt->engine->name);
    const struct keel_topic *topic = keel_topic_find(name);
    enum keel_lane lane = keel_topic_lane(name);
    if (rt->bus == NULL || topic == NULL || !keel_bus_reserve(rt, lane, 1))
        return;
    struct keel_breaker_event_rec rec = {.engine = rt->engine->name, .has_engine = true, .target = target,
                                         .has_target = true, .from = from, .has_from = true, .to = to, .has_to = true,
                                         .reason = ev->reason, .has_reason = true};
    struct keel_arena *a = keel_arena_new(1024);
    struct keel_json w;
    keel_json_init(&w, a, 256);
    keel_json_obj(&w, NULL);
    keel_record_encode(topic->fields, &rec, &w);
    keel_json_end(&w);
    int64_t session = keel_session_ns(rt);
    const struct keel_outgoing o = {.topic = topic, .key = "-", .ts_event = session, .ts_init = session,
                                    .ts_recv = keel_wall_ns(), .traceparent = "", .payload = keel_json_text(&w),
                                    .len = w.len};
    keel_bus_send(rt, &o);
    keel_arena_free(a);
}

/* The one place that reads it. */
static enum keel_status read_hybrid(bool *on, char *err, size_t cap)
{
    static const char *const yes[] = {"true", "1", "yes", "on"}, *const no[] = {"false", "0", "no", "off"};
    const char *text = getenv("ENABLE_HYBRID");
    *on = text == NULL || text[0] == '\0';
    if (*on)
        return KEEL_OK;
    for (size_t i = 0; i < KEEL_COUNT(yes); i++) {
        *on = strcasecmp(text, yes[i]) == 0;
        if (*on || strcasecmp(text, no[i]) == 0)
            return KEEL_OK;
    }
    snprintf(err, cap, "ENABLE_HYBRID=%s: must be true, 1, yes or on, or false, 0, no or off", text);
    return KEEL_INVALID;
}

static enum keel_status open_guard(struct keel_rt *rt, const struct keel_breaker_options *breaker, bool hybrid)
{
    struct keel_guard_env env = {.engine = rt->engine, .targets = rt->targets, .n_targets = rt->n_targets,
                                 .load = &rt->load, .transition = on_transition, .ctx = rt, .breaker = breaker,
                                 .limits = rt->limits};
    keel_assert(getrandom(&env.seed, sizeof env.seed, 0) == (ssize_t)sizeof env.seed);
    rt->guard = hybrid ? &keel_guard_hybrid : &keel_guard_plain;
    enum keel_status st = rt->guard->open(&env, &rt->guard_self);
    if (st == KEEL_OK || !hybrid)
        return st;
    keel_log(KEEL_LOG_ERROR, "hybrid_unavailable", "status=%s", keel_status_name(st));
    rt->hybrid_reason = "the hybrid guard could not be opened; serving plain";
    rt->guard = &keel_guard_plain;
    return rt->guard->open(&env, &rt->guard_self);
}

/* ---- opening ---- */

static void base36(char *out, size_t cap, uint64_t v)
{
    char digits[16];
    size_t n = 0, at = 0;
    for (; v > 0 && n < sizeof digits; v /= 36)
        digits[n++] = "0123456789abcdefghijklmnopqrstuvwxyz"[v % 36];
    while (n > 0 && at + 1 < cap)
        out[at++] = digits[--n];
    out[at] = '\0';
}

static void identify(struct keel_rt *rt)
{
    const char *instance = rt->core->instance;
    rt->started_ns = keel_mono_ns();
    rt->started_wall_ns = keel_wall_ns();
    rt->wall_offset_ns = rt->started_wall_ns - rt->started_ns;
    base36(rt->epoch, sizeof rt->epoch, (uint64_t)rt->started_wall_ns);
    /* Whoever takes over from a single writer goes on under its name: its records, its pending entries, its positions. */
    if (rt->engine->single_writer)
        instance = "";
    snprintf(rt->producer, sizeof rt->producer, "hybrid-%s-engine%s%s", rt->engine->name,
             instance[0] != '\0' ? "-" : "", instance);
}

static enum keel_status failed(char *err, size_t cap, const char *what, enum keel_status st)
{
    snprintf(err, cap, "%s cannot be opened: %s; see the log", what, keel_status_text(st));
    return st;
}

/* State rests on what is in the file: after a failed commit it is read again. */
static void on_store_failed(struct keel_rt *rt)
{
    const struct keel_engine *engine = rt->engine;
    keel_lease_look(rt);
    keel_log(KEEL_LOG_ERROR, "state_reload", NULL);
    if (engine->close != NULL)
        engine->close(rt, rt->state);
    memset(rt->state, 0, engine->state_size);
    keel_bus_reload(rt);
    if (engine->open != NULL && engine->open(rt, rt->state) != KEEL_OK) {
        keel_log(KEEL_LOG_ERROR, "state_reload_failed", NULL);
        keel_log_flush();
        abort(); /* the supervisor starts anew; nothing unsaved is lost */
    }
}

static enum keel_status open_peers(struct keel_rt *rt, const struct keel_peer_urls *urls)
{
    static const char *const names[] = {"analytics", "risk",     "factor",     "ml",       "features",
                                        "websocket", "strategy", "marketdata", "portfolio"};
    const char *const url[] = {urls->analytics_url, urls->risk_url,     urls->factor_url,
                               urls->ml_url,        urls->features_url, urls->websocket_url,
                               urls->strategy_url,  urls->marketdata_url, urls->portfolio_url};
    return keel_peers_open(rt, names, url, KEEL_COUNT(names));
}

static void on_second(uv_timer_t *t)
{
    struct keel_rt *rt = t->data;
    keel_tick_in(rt, t, on_second, 1000);
    if (rt->guard->tick != NULL)
        rt->guard->tick(rt->guard_self, keel_mono_ns());
    keel_health_tick(rt);
}

static void start_timers(struct process *p)
{
    uv_timer_init(&p->loop, &p->second);
    uv_timer_init(&p->loop, &p->start);
    uv_timer_init(&p->loop, &p->drain);
    p->second.data = p->start.data = p->drain.data = p;
    keel_tick_in(&p->rt, &p->second, on_second, 1000);
    p->has_timers = true;
}

/* What a standby has, too: it answers /health, and refuses the rest. */
static enum keel_status open_base(struct process *p, bool hybrid, char *err, size_t cap)
{
    struct keel_rt *rt = &p->rt;
    size_t size = rt->engine->state_size > 0 ? rt->engine->state_size : 1;
    enum keel_status st = keel_lease_open(rt, err, cap);
    if (st != KEEL_OK)
        return st;
    keel_assert(uv_loop_init(&p->loop) == 0);
    p->has_loop = true;
    rt->loop = &p->loop;
    if ((st = open_guard(rt, p->breaker, hybrid)) != KEEL_OK)
        return failed(err, cap, "the guard", st);
    rt->state = keel_alloc(1, size);
    keel_worker_open(rt);
    keel_calls_open(rt);
    keel_jobs_open(rt);
    keel_wss_open(rt); /* before what also runs before the loop blocks: the last started is the first called */
    keel_store_on_fail(rt, on_store_failed);
    start_timers(p);
    return KEEL_OK;
}

/* What only the instance at work has. The store first: opening it ends the right of whoever had it to write. */
static enum keel_status open_work(struct process *p, char *err, size_t cap)
{
    struct keel_rt *rt = &p->rt;
    const struct keel_engine *engine = rt->engine;
    enum keel_status st;
    if (rt->store == NULL && (st = keel_stores_open(rt)) != KEEL_OK)
        return failed(err, cap, "the store", st);
    if ((st = keel_bus_open(rt)) != KEEL_OK)
        return failed(err, cap, "the bus", st);
    if ((st = open_peers(rt, p->urls)) != KEEL_OK)
        return failed(err, cap, "the peer client", st);
    if (engine->open != NULL && (st = engine->open(rt, rt->state)) != KEEL_OK)
        return failed(err, cap, "the engine", st);
    p->is_open = true;
    keel_lease_taken(rt);
    keel_timers_start(rt);
    keel_health_tick(rt);
    return KEEL_OK;
}

/* Options and the table: all that can be checked without touching anything. */
static struct process *prepare(const struct keel_engine *engine, int argc, char **argv, struct keel_opts *o, char *err,
                               size_t cap)
{
    struct process *p = keel_alloc(1, sizeof *p);
    struct keel_rt *rt = &p->rt;
    const char *why;
    rt->engine = engine;
    rt->arena = keel_arena_new(65536);
    if (keel_opts_read(o, engine, argc, argv, rt->arena, err, cap) != KEEL_OK)
        goto failed;
    rt->core = o->core;
    rt->options = o->own;
    p->urls = o->urls;
    p->breaker = o->breaker;
    all_ops(rt);
    if ((why = keel_table_check(engine, rt->ops, rt->n_ops, rt->arena)) != NULL) {
        snprintf(err, cap, "the table of %s is wrong: %s", engine->name, why);
        goto failed;
    }
    all_targets(rt);
    if (rt->core == NULL) /* --help, --version: nothing is opened */
        return p;
    if (keel_auth_check(rt, &why) != KEEL_OK) {
        snprintf(err, cap, "%s", why);
        goto failed;
    }
    if (keel_limits_read(rt, &rt->limits, err, cap) != KEEL_OK)
        goto failed;
    identify(rt);
    keel_log_open(engine->name, (enum keel_log_level)rt->core->log_level);
    return p;
failed:
    keel_arena_free(rt->arena);
    keel_free(p);
    return NULL;
}

/* ---- closing ---- */

static bool is_flushed(struct keel_rt *rt)
{
    return (rt->store == NULL || keel_store_queued(rt->store) == 0) &&
           (rt->bus == NULL || !keel_bus_connected(rt) || keel_bus_idle(rt));
}

/* What is in flight ends now; what a worker has, as soon as it looks at its stop flag. */
static void end_calls(struct process *p)
{
    struct keel_rt *rt = &p->rt;
    rt->draining = true;
    keel_timers_stop(rt);
    keel_sources_stop(rt);
    keel_calls_abort(rt);
    while (keel_calls_live(rt) > 0 || !keel_sources_idle(rt)) {
        uv_run(rt->loop, UV_RUN_ONCE);
        keel_calls_abort(rt);
    }
}

static void close_handles(struct process *p)
{
    uv_handle_t *timers[] = {(uv_handle_t *)&p->second, (uv_handle_t *)&p->start, (uv_handle_t *)&p->drain};
    uv_handle_t *signals[] = {(uv_handle_t *)&p->terminate, (uv_handle_t *)&p->interrupt};
    for (size_t i = 0; p->has_timers && i < KEEL_COUNT(timers); i++)
        uv_close(timers[i], NULL);
    for (size_t i = 0; p->has_signals && i < KEEL_COUNT(signals); i++)
        uv_close(signals[i], NULL);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&p->loop) != 0)
        keel_log(KEEL_LOG_ERROR, "handles_left_open", NULL);
}

/* Completions of the store may publish, those of peers may look at state: so in this order. */
static void close_parts(struct process *p)
{
    struct keel_rt *rt = &p->rt;
    if (rt->calls != NULL)
        end_calls(p);
    keel_lease_stop(rt);
    keel_http_close(rt);
    keel_wss_close(rt);
    keel_stores_close(rt);
    keel_bus_close(rt);
    keel_peers_close(rt);
    keel_health_close(rt);
    if (p->is_open && rt->engine->close != NULL)
        rt->engine->close(rt, rt->state);
    keel_free(rt->state);
    if (rt->calls != NULL) {
        keel_sources_close(rt);
        keel_jobs_close(rt);
        keel_calls_close(rt);
        keel_worker_close(rt);
    }
    if (rt->guard_self != NULL)
        rt->guard->close(rt->guard_self);
    keel_series_close(rt);
}

void keel_rt_free(struct keel_rt *rt)
{
    struct process *p = process_of(rt);
    if (rt == NULL)
        return;
    if (p->has_loop) {
        close_parts(p);
        close_handles(p);
    }
    keel_lease_close(rt);
    keel_arena_free(rt->arena);
    keel_free(p);
}

struct keel_rt *keel_rt_new(const struct keel_engine *engine, int argc, char **argv, char *err, size_t cap)
{
    struct keel_opts o;
    bool hybrid;
    if (read_hybrid(&hybrid, err, cap) != KEEL_OK)
        return NULL;
    struct process *p = prepare(engine, argc, argv, &o, err, cap);
    if (p == NULL)
        return NULL;
    if (o.core == NULL || open_base(p, hybrid, err, cap) != KEEL_OK || open_work(p, err, cap) != KEEL_OK) {
        keel_rt_free(&p->rt);
        return NULL;
    }
    p->rt.ready = true;
    return &p->rt;
}

/* ---- the drain ---- */

static void enter(struct process *p, enum stage stage, int64_t at_most_ns)
{
    p->stage = stage;
    p->stage_until_ns = keel_mono_ns() + at_most_ns;
}

/* Everyone is answered before the server stops, for it cannot stop with a connection that waits. */
static void on_drain(uv_timer_t *t)
{
    struct process *p = t->data;
    struct keel_rt *rt = &p->rt;
    bool over = keel_mono_ns() >= p->stage_until_ns;
    bool quiet = keel_calls_live(rt) == 0 && keel_sources_idle(rt) && keel_wss_live(rt) == 0 &&
                 (rt->http == NULL || keel_http_stats(rt).waiting == 0);
    switch (p->stage) {
    case DRAIN_CALLS:
        if (!quiet && !over)
            return;
        keel_calls_abort(rt);
        keel_http_close(rt);
        enter(p, DRAIN_WORK, STUCK_NS);
        return;
    case DRAIN_WORK:
        if (!quiet && !over) {
            keel_calls_abort(rt);
            return;
        }
        if (!quiet) {
            keel_log(KEEL_LOG_ERROR, "work_does_not_stop", "calls=%zu", keel_calls_live(rt));
            keel_log_flush();
            _exit(1);
        }
        enter(p, DRAIN_OUTBOX, FLUSH_NS);
        return;
    case DRAIN_OUTBOX:
        if (!is_flushed(rt) && !over)
            return;
        p->stage = DRAINED;
        uv_timer_stop(t);
        uv_stop(rt->loop);
        return;
    default:
        return;
    }
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct process *p = s->data;
    struct keel_rt *rt = &p->rt;
    if (p->stage != RUNNING)
        _exit(130);
    keel_log(KEEL_LOG_INFO, "draining", "signal=%d calls=%zu", signum, keel_calls_live(rt));
    rt->ready = false;
    rt->draining = true;
    uv_timer_stop(&p->start);
    keel_bus_stop_reading(rt);
    keel_timers_stop(rt);
    keel_sources_stop(rt);
    if (rt->engine->drain != NULL && p->is_open)
        rt->engine->drain(rt, rt->state);
    keel_http_quiesce(rt);
    enter(p, DRAIN_CALLS, rt->core->drain_ms * KEEL_MS);
    uv_timer_start(&p->drain, on_drain, 0, 5);
}

/* ---- running ---- */

static void watch_signals(struct process *p)
{
    uv_signal_init(&p->loop, &p->terminate);
    uv_signal_init(&p->loop, &p->interrupt);
    p->terminate.data = p->interrupt.data = p;
    uv_signal_start(&p->terminate, on_signal, SIGTERM);
    uv_signal_start(&p->interrupt, on_signal, SIGINT);
    p->has_signals = true;
}

/* Ready once Redis answers, or when it has had its time: it is no condition, but the first health should know it. */
static void on_start(uv_timer_t *t)
{
    struct process *p = t->data;
    struct keel_rt *rt = &p->rt;
    int64_t away_ns = keel_bus_away_ns(rt);
    if (away_ns != 0 && keel_mono_ns() - away_ns < BUS_WAIT_NS)
        return;
    uv_timer_stop(t);
    keel_health_tick(rt);
    rt->ready = true;
    keel_log(KEEL_LOG_INFO, "ready", "version=%s guard=%s host=%s port=%u mode=%s", KEEL_VERSION, rt->guard->name,
             rt->core->http_host, (unsigned)keel_http_port(rt), keel_mode(rt));
}

static void go_to_work(struct process *p)
{
    keel_bus_read(&p->rt);
    uv_timer_start(&p->start, on_start, 0, BUS_WAIT_MS);
}

/* A standby's turn. A store that was stopped in the middle of a commit stays locked: it is asked for again. */
static void take_over(struct keel_rt *rt)
{
    struct process *p = process_of(rt);
    char err[512] = "";
    if (keel_stores_open(rt) != KEEL_OK)
        return;
    keel_health_close(rt);
    if (open_work(p, err, sizeof err) == KEEL_OK) {
        go_to_work(p);
        return;
    }
    keel_log(KEEL_LOG_ERROR, "takeover_failed", "detail=%s", err);
    rt->exit_code = 1;
    uv_stop(rt->loop);
}

static int run(struct process *p, bool hybrid, char *err, size_t cap)
{
    struct keel_rt *rt = &p->rt;
    signal(SIGPIPE, SIG_IGN);
    keel_log_start();
    if (hybrid)
        keel_take_short_turns();
    enum keel_status st = open_base(p, hybrid, err, cap);
    if (st == KEEL_OK && !rt->standby)
        st = open_work(p, err, cap);
    if (st == KEEL_OK) {
        watch_signals(p);
        keel_health_tick(rt);
        st = keel_http_open(rt);
        if (st != KEEL_OK)
            failed(err, cap, "the HTTP server", st);
    }
    if (st != KEEL_OK) {
        keel_rt_free(rt);
        keel_log_stop();
        return 1;
    }
    keel_lease_watch(rt, take_over);
    if (!rt->standby)
        go_to_work(p);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    int code = rt->exit_code;
    keel_log(KEEL_LOG_INFO, "stopped", "code=%d", code);
    keel_rt_free(rt);
    keel_log_stop();
    return code;
}

/* ---- --probe ---- */

static long own_port(const struct keel_rt *rt)
{
    long port = rt->core->has_port ? (long)rt->core->port : (long)rt->engine->port;
    char text[16] = "";
    if (port != 0)
        return port;
    FILE *f = fopen(rt->core->port_file, "re");
    if (f == NULL)
        return 0;
    int64_t read_port = 0;
    if (fgets(text, sizeof text, f) != NULL)
        keel_i64_parse(text, strcspn(text, "\r\n"), &read_port);
    fclose(f);
    return (long)read_port;
}

static bool answers_200(int fd)
{
    static const char request[] = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    char status[16] = "";
    size_t have = 0;
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != (ssize_t)sizeof request - 1)
        return false;
    while (have < 12) {
        ssize_t n = recv(fd, status + have, 12 - have, 0);
        if (n <= 0)
            return false;
        have += (size_t)n;
    }
    return strncmp(status, "HTTP/1.1 200", 12) == 0;
}

/* A container's health check: 0 when this engine's own port answers 200. */
static int probe(const struct keel_rt *rt)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *at = NULL;
    const struct timeval limit = {.tv_sec = PROBE_SECONDS};
    const char *host = rt->core->http_host;
    char port[16];
    bool ok = false;
    if (strcmp(host, "0.0.0.0") == 0)
        host = "127.0.0.1";
    else if (strcmp(host, "::") == 0)
        host = "::1";
    snprintf(port, sizeof port, "%ld", own_port(rt));
    if (getaddrinfo(host, port, &hints, &at) != 0)
        return 1;
    int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
        connect(fd, at->ai_addr, at->ai_addrlen) == 0)
        ok = answers_200(fd);
    if (fd >= 0)
        close(fd);
    freeaddrinfo(at);
    return ok ? 0 : 1;
}

/* ---- main ---- */

static void describe(const struct keel_rt *rt)
{
    struct keel_json w;
    keel_json_init(&w, rt->arena, 65536);
    keel_describe_write(rt->engine, rt->ops, rt->n_ops, &w);
    puts(keel_json_text(&w));
}

/*
 * What a call frees the next one takes: by default every large body and answer goes back to the kernel and is faulted in
 * again, page by page, and the loop, which frees what workers have taken, spends a third of its time there under bulk work.
 */
static void keep_memory(void)
{
    mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK);
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
}

int keel_main(int argc, char **argv, const struct keel_engine *engine)
{
    struct keel_opts o;
    char err[512] = "";
    bool hybrid;
    int code = 0;
    struct process *p = NULL;
    keep_memory();
    if (read_hybrid(&hybrid, err, sizeof err) == KEEL_OK)
        p = prepare(engine, argc, argv, &o, err, sizeof err);
    if (p == NULL) {
        fprintf(stderr, "%s-engine: %s\n", engine->name, err);
        return 1;
    }
    switch (o.verb) {
    case KEEL_HELP:
        keel_opts_help(engine);
        break;
    case KEEL_VERSION_TEXT:
        printf("%s-engine %s\n", engine->name, KEEL_VERSION);
        break;
    case KEEL_PRINT_CONFIG:
        keel_opts_print(&o, engine, p->rt.arena);
        break;
    case KEEL_CHECK_CONFIG:
        puts("ok");
        break;
    case KEEL_DESCRIBE:
        describe(&p->rt);
        break;
    case KEEL_PROBE:
        code = probe(&p->rt);
        break;
    default:
        code = run(p, hybrid, err, sizeof err);
        if (err[0] != '\0')
            fprintf(stderr, "%s-engine: %s\n", engine->name, err);
        return code;
    }
    keel_rt_free(&p->rt);
    return code;
}
