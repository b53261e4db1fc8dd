/*
 * Health: what the engine needs, and since when it has it. A tick a second asks what can be asked without
 * waiting; peers are asked every five seconds, and every second while one is away. The answers of /health, /health/live and /health/ready are made
 * then, so that asking costs nothing. Only what an engine cannot do without (its store, required probes, durable
 * records nobody could apply) makes it unhealthy; everything else that is away degrades it.
 */
#include "rt.h"

#include "keel/clock.h"
#include "keel/log.h"

#include <stdio.h>
#include <string.h>

#define PEER_PERIOD_NS INT64_C(5000000000)
#define AWAY_PERIOD_NS INT64_C(900000000) /* while one is away; the tick comes once a second */
#define PEER_DEADLINE_NS INT64_C(2000000000)
#define FULL 0.8 /* of Redis' maxmemory */

enum { MAX_DETAIL = 160 };
enum state { STATE_OFF, STATE_HEALTHY, STATE_DEGRADED, STATE_UNHEALTHY };
enum view { VIEW_HEALTH, VIEW_LIVE, VIEW_READY, N_VIEWS };

struct dependency {
    const char *name;
    enum state state;
    char detail[MAX_DETAIL];
    int64_t since_wall_ns;
};

struct keel_health {
    struct dependency *rows;
    size_t n;
    size_t first_peer, n_peers;
    int64_t peers_asked_ns; /* 0: never */
    enum state overall;
    struct keel_arena *arena; /* the prebuilt texts */
    struct keel_prebuilt views[N_VIEWS];
    bool was_ready, was_draining;
};

static const char *const state_name[] = {"off", "healthy", "degraded", "unhealthy"};
static const char *const view_id[N_VIEWS] = {"health", "health_live", "health_ready"};

/* ---- dependencies ---- */

static void set(struct dependency *d, enum state state, const char *detail)
{
    bool changed = d->state != state;

    snprintf(d->detail, sizeof d->detail, "%s", detail);
    if (!changed)
        return;
    d->state = state;
    d->since_wall_ns = keel_wall_ns();
    keel_log(state <= STATE_HEALTHY ? KEEL_LOG_INFO : KEEL_LOG_WARN, "dependency_changed",
             "name=%s status=%s detail=%s", d->name, state_name[state], detail);
}

static void add(struct keel_health *h, const char *name, enum state state, const char *detail)
{
    struct dependency *d = &h->rows[h->n++];

    d->name = name;
    d->state = state;
    d->since_wall_ns = keel_wall_ns();
    snprintf(d->detail, sizeof d->detail, "%s", detail);
}

static struct dependency *find(struct keel_health *h, const char *name)
{
    for (size_t i = 0; i < h->n; i++)
        if (strcmp(h->rows[i].name, name) == 0)
            return &h->rows[i];
    return NULL;
}

static size_t count_names(const char *const *names)
{
    size_t n = 0;

    while (names != NULL && names[n] != NULL)
        n++;
    return n;
}

static struct keel_health *open_health(struct keel_rt *rt)
{
    const struct keel_engine *e = rt->engine;
    struct keel_health *h = keel_alloc(1, sizeof *h);

    h->n_peers = rt->peers != NULL ? count_names(e->peers) : 0;
    h->rows = keel_alloc(4 + h->n_peers + e->n_probes, sizeof *h->rows);
    h->arena = keel_arena_new(8192);
    h->overall = STATE_HEALTHY;
    if (rt->store != NULL)
        add(h, "store", STATE_HEALTHY, "");
    if (rt->bus != NULL) {
        add(h, "redis", STATE_DEGRADED, "not connected yet");
        add(h, "dead_letters", STATE_HEALTHY, "");
    } else {
        add(h, "redis", STATE_OFF, rt->standby ? "not used by a standby" : "REDIS_URL is empty");
    }
    if (rt->standby)
        add(h, "lease", STATE_DEGRADED, "standby");
    rt->health = h;
    if (rt->standby)
        return h;
    h->first_peer = h->n;
    for (size_t i = 0; i < h->n_peers; i++)
        add(h, e->peers[i], STATE_DEGRADED, "not asked yet");
    for (size_t i = 0; i < e->n_probes; i++)
        add(h, e->probes[i].id, STATE_HEALTHY, "");
    return h;
}

static void ask_store(struct keel_rt *rt, struct keel_health *h)
{
    bool ok;

    if (rt->store == NULL)
        return;
    ok = keel_store_ok(rt->store);
    set(find(h, "store"), ok ? STATE_HEALTHY : STATE_UNHEALTHY, ok ? "" : keel_store_why(rt->store));
}

static void ask_bus(struct keel_rt *rt, struct keel_health *h, int64_t now)
{
    char detail[MAX_DETAIL] = "";
    int64_t away_ns;
    size_t dead;

    if (rt->bus == NULL)
        return;
    away_ns = keel_bus_away_ns(rt);
    if (away_ns != 0)
        snprintf(detail, sizeof detail, "away for %.0f s", (double)(now - away_ns) / 1e9);
    else if (!keel_bus_connected(rt))
        snprintf(detail, sizeof detail, "not connected");
    else if (keel_bus_memory(rt) >= FULL)
        snprintf(detail, sizeof detail, "%.0f %% of maxmemory is in use", keel_bus_memory(rt) * 100);
    set(find(h, "redis"), detail[0] == '\0' ? STATE_HEALTHY : STATE_DEGRADED, detail);
    dead = keel_bus_dead_durable(rt);
    detail[0] = '\0';
    if (dead > 0)
        snprintf(detail, sizeof detail, "%zu durable records wait for replay or discard: GET /bus/dead", dead);
    set(find(h, "dead_letters"), dead > 0 ? STATE_UNHEALTHY : STATE_HEALTHY, detail);
}

static void ask_standby(struct keel_rt *rt, struct keel_health *h)
{
    char detail[MAX_DETAIL];
    const char *owner = keel_lease_owner(rt);

    snprintf(detail, sizeof detail, "standby: %s is at work", owner[0] != '\0' ? owner : "another instance");
    set(find(h, "lease"), STATE_DEGRADED, detail);
}

static void ask_probes(struct keel_rt *rt, struct keel_health *h)
{
    for (size_t i = 0; i < rt->engine->n_probes; i++) {
        const struct keel_probe *p = &rt->engine->probes[i];
        char detail[MAX_DETAIL] = "";
        bool ok = p->run(rt, rt->state, detail, sizeof detail) == KEEL_PROBE_OK;
        detail[sizeof detail - 1] = '\0';
        set(&h->rows[h->first_peer + h->n_peers + i],
            ok ? STATE_HEALTHY : p->required ? STATE_UNHEALTHY : STATE_DEGRADED, detail);
    }
}

static const char *why_silent(enum keel_status st)
{
    switch (st) {
    case KEEL_UNAVAILABLE:
        return "cannot be reached";
    case KEEL_OPEN:
        return "its circuit is open";
    case KEEL_TIMEOUT:
        return "did not answer in 2 s";
    default:
        return keel_status_text(st);
    }
}

static void on_peer(struct keel_rt *rt, void *ctx, const struct keel_reply *reply)
{
    char detail[MAX_DETAIL] = "";
    struct dependency *d;

    if (rt->health == NULL) /* closed meanwhile */
        return;
    d = find(rt->health, ctx);
    if (reply->status != KEEL_OK)
        snprintf(detail, sizeof detail, "%s", why_silent(reply->status));
    else if (reply->http != 200)
        snprintf(detail, sizeof detail, "GET /health/live answers %d", reply->http);
    set(d, detail[0] == '\0' ? STATE_HEALTHY : STATE_DEGRADED, detail);
}

static void ask_peers(struct keel_rt *rt, struct keel_health *h, int64_t now)
{
    int64_t period = PEER_PERIOD_NS;

    for (size_t i = 0; i < h->n_peers; i++)
        if (h->rows[h->first_peer + i].state != STATE_HEALTHY)
            period = AWAY_PERIOD_NS;
    if (h->n_peers == 0 || rt->draining || (h->peers_asked_ns != 0 && now - h->peers_asked_ns < period))
        return;
    h->peers_asked_ns = now;
    for (size_t i = 0; i < h->n_peers; i++) {
        const char *peer = rt->engine->peers[i];
        struct keel_peer_req rq = {.peer = peer, .method = "GET", .path = "/health/live", .probe = true};
        keel_peer_fetch(rt, &rq, now + PEER_DEADLINE_NS, NULL, on_peer, (void *)(uintptr_t)peer);
    }
}

static void judge(struct keel_health *h)
{
    enum state worst = STATE_HEALTHY;

    for (size_t i = 0; i < h->n; i++)
        if (h->rows[i].state > worst)
            worst = h->rows[i].state;
    if (worst == h->overall)
        return;
    keel_log(worst == STATE_HEALTHY ? KEEL_LOG_INFO : worst == STATE_DEGRADED ? KEEL_LOG_WARN : KEEL_LOG_ERROR,
             "health_changed", "from=%s to=%s", state_name[h->overall], state_name[worst]);
    h->overall = worst;
}

/* ---- what is said about it ---- */

static double uptime_seconds(const struct keel_rt *rt)
{
    return (double)(keel_mono_ns() - rt->started_ns) / 1e9;
}

static void write_dependencies(const struct keel_health *h, struct keel_json *w)
{
    keel_json_obj(w, "dependencies");
    for (size_t i = 0; i < h->n; i++) {
        const struct dependency *d = &h->rows[i];
        keel_json_obj(w, d->name);
        keel_json_str(w, "status", state_name[d->state]);
        keel_json_str(w, "detail", d->detail[0] != '\0' ? d->detail : NULL);
        keel_json_time(w, "since", d->since_wall_ns);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static const char *hybrid_reason(const struct keel_rt *rt)
{
    if (rt->hybrid_reason != NULL)
        return rt->hybrid_reason;
    return rt->guard->hybrid ? "hybrid mode is on" : "hybrid mode is off";
}

static const struct keel_health *current(struct keel_rt *rt)
{
    if (rt->health == NULL)
        keel_health_tick(rt);
    return rt->health;
}

void keel_health_write(struct keel_rt *rt, struct keel_json *w)
{
    const struct keel_health *h = current(rt);

    keel_json_obj(w, NULL);
    keel_json_str(w, "status", state_name[h->overall]);
    keel_json_str(w, "engine", rt->engine->name);
    keel_json_str(w, "version", KEEL_VERSION);
    keel_json_fix(w, "uptime_seconds", uptime_seconds(rt), 3);
    keel_json_bool(w, "ready", rt->ready && !rt->draining);
    keel_json_bool(w, "draining", rt->draining);
    if (rt->engine->single_writer) {
        keel_json_str(w, "role", rt->standby ? "standby" : "active");
        keel_json_i64(w, "fencing_epoch", keel_lease_epoch(rt));
    }
    keel_json_bool(w, "hybrid_integration", rt->guard->hybrid);
    keel_json_str(w, "hybrid_reason", hybrid_reason(rt));
    keel_json_bool(w, "messagebus_connected", rt->bus != NULL && keel_bus_connected(rt));
    rt->guard->health(rt->guard_self, w, keel_mono_ns(), keel_wall_ns());
    write_dependencies(h, w);
    keel_json_end(w);
}

int keel_health_http(struct keel_rt *rt)
{
    return rt->draining || current(rt)->overall == STATE_UNHEALTHY ? 503 : 200;
}

static void write_live(const struct keel_rt *rt, struct keel_json *w)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "alive");
    keel_json_str(w, "engine", rt->engine->name);
    keel_json_fix(w, "uptime_seconds", uptime_seconds(rt), 3);
    keel_json_end(w);
}

static const char *not_ready_because(const struct keel_rt *rt)
{
    if (rt->draining)
        return "shutting down";
    if (rt->standby)
        return "standby: another instance is at work";
    if (!rt->ready)
        return "starting";
    return rt->health->overall == STATE_UNHEALTHY ? "unhealthy: GET /health says why" : NULL;
}

static void write_ready(const struct keel_rt *rt, struct keel_json *w)
{
    const char *reason = not_ready_because(rt);

    keel_json_obj(w, NULL);
    keel_json_str(w, "status", reason == NULL ? "ready" : "not_ready");
    keel_json_str(w, "engine", rt->engine->name);
    keel_json_str(w, "reason", reason);
    keel_json_end(w);
}

static void set_view(struct keel_prebuilt *view, int http, struct keel_json *w)
{
    view->http = http;
    view->body = keel_json_text(w);
    view->len = w->len;
    view->version++;
}

static void build(struct keel_rt *rt, struct keel_health *h)
{
    struct keel_json w;

    keel_arena_reset(h->arena);
    h->was_ready = rt->ready;
    h->was_draining = rt->draining;
    keel_json_init(&w, h->arena, 4096);
    keel_health_write(rt, &w);
    set_view(&h->views[VIEW_HEALTH], keel_health_http(rt), &w);
    keel_json_init(&w, h->arena, 256);
    write_live(rt, &w);
    set_view(&h->views[VIEW_LIVE], 200, &w);
    keel_json_init(&w, h->arena, 256);
    write_ready(rt, &w);
    set_view(&h->views[VIEW_READY], not_ready_because(rt) == NULL ? 200 : 503, &w);
}

void keel_health_tick(struct keel_rt *rt)
{
    struct keel_health *h = rt->health != NULL ? rt->health : open_health(rt);
    int64_t now = keel_mono_ns();

    if (rt->standby) {
        ask_standby(rt, h);
    } else {
        ask_store(rt, h);
        ask_bus(rt, h, now);
        ask_peers(rt, h, now);
        ask_probes(rt, h);
    }
    judge(h);
    build(rt, h);
}

const struct keel_prebuilt *keel_health_prebuilt(struct keel_rt *rt, const struct keel_op *op)
{
    struct keel_health *h;

    if (rt->health == NULL)
        keel_health_tick(rt);
    h = rt->health;
    if (h->was_ready != rt->ready || h->was_draining != rt->draining)
        build(rt, h);
    for (size_t i = 0; i < N_VIEWS; i++)
        if (strcmp(op->id, view_id[i]) == 0)
            return &h->views[i];
    return NULL;
}

void keel_health_close(struct keel_rt *rt)
{
    struct keel_health *h = rt->health;

    if (h == NULL)
        return;
    rt->health = NULL;
    keel_arena_free(h->arena);
    keel_free(h->rows);
    keel_free(h);
}
