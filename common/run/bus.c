/*
 * The bus as the rest of the process sees it: opening and closing, the tick that drives its parts, what is shown of it, and
 * the ops under /bus. Sending is outbox.c, reading bus_read.c.
 */
#include "keel/bus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus_priv.h"
#include "keel/clock.h"
#include "keel/log.h"

enum { SHORT_TICK_MS = 10, LONG_TICK_MS = 100, OUTBOX_LIMIT = 500, DEAD_SCAN = 1000, OUTBOX_BYTES = 6 << 20 };

/* Every bus of the process: a transaction knows its store only, and its completion may come after the bus is gone. */
static struct keel_bus *buses;

/* ---- names ---- */

struct keel_bus *keel_bus_of_rt(const struct keel_rt *rt)
{
    struct keel_bus *b = buses;
    while (b != NULL && b->rt != rt)
        b = b->next;
    return b;
}

struct keel_bus *keel_bus_of_store(const struct keel_store *store)
{
    struct keel_bus *b = buses;
    while (b != NULL && b->rt->store != store)
        b = b->next;
    return b;
}

void keel_bus_copy(char *to, size_t cap, const char *s)
{
    size_t n = s != NULL ? strlen(s) : 0;
    if (n >= cap)
        n = cap - 1;
    if (n > 0)
        memcpy(to, s, n);
    to[n] = '\0';
}

enum keel_lane keel_bus_lane(const struct keel_bus *b, const char *topic)
{
    const struct keel_core_options *core = b->rt->core;
    if (!core->has_priority_topics)
        return keel_topic_lane(topic);
    for (size_t i = 0; i < core->n_priority_topics; i++)
        if (strncmp(topic, core->priority_topics[i], strlen(core->priority_topics[i])) == 0)
            return strstr(core->priority_topics[i], ".critical") != NULL ? KEEL_LANE_CRITICAL : KEEL_LANE_PRIORITY;
    return KEEL_LANE_NORMAL;
}

void keel_bus_stream_name(const char *engine, enum keel_lane lane, char buf[64])
{
    static const char *const suffix[KEEL_N_LANE] = {":critical", ":priority", ""};
    snprintf(buf, 64, "nautilus-%.24s-hybrid-streams%s", engine, suffix[lane]);
}

void keel_bus_key(const struct keel_bus *b, const char *name, const char *suffix, char buf[128])
{
    snprintf(buf, 128, "%s%s%s", b->env, name, suffix);
}

/* ---- the tick ---- */

static void on_tick(uv_timer_t *timer);

void keel_bus_soon(struct keel_bus *b)
{
    if (!b->closing)
        uv_timer_start(&b->tick, on_tick, 0, 0);
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* its being there keeps the loop from sleeping */
}

void keel_bus_breathe(struct keel_bus *b)
{
    if (b->breathing || b->closing)
        return;
    b->breathing = true;
    uv_idle_start(&b->idle, on_idle);
}

static void on_check(uv_check_t *check)
{
    struct keel_bus *b = check->data;
    if (b->in == NULL || keel_in_run(b) || !b->breathing)
        return;
    b->breathing = false;
    uv_idle_stop(&b->idle);
}

static void count_dead(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    struct keel_bus *b = ctx;
    const char *s;
    size_t n;
    (void)key;
    (void)key_len;
    b->dead_durable += keel_entry_field(e, "durable", &s, &n) && n == 1 && s[0] == '1';
}

static void on_dead_scanned(void *ctx, const struct redisReply *reply)
{
    struct keel_bus *b = ctx;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        return;
    b->dead_durable = 0;
    keel_range_parse(reply, count_dead, b);
}

static void on_dead_len(void *ctx, const struct redisReply *reply)
{
    struct keel_bus *b = ctx;
    int64_t n;
    KEEL_ARGS(a);
    if (!keel_reply_int(reply, &n) || (uint64_t)n == b->dead_len)
        return;
    b->dead_len = (uint64_t)n;
    keel_arg(&a, "XREVRANGE");
    keel_arg(&a, b->dead_key);
    keel_arg(&a, "+");
    keel_arg(&a, "-");
    keel_arg(&a, "COUNT");
    keel_arg(&a, "1000");
    keel_link_send(b->control, &a, 0, on_dead_scanned, b);
}

/*
 * A durable record that cannot be applied leaves its portfolio in doubt: until an operator has replayed or discarded it, risk
 * lets only what reduces pass. Risk is told until it has taken it; its state is latched and outlives both of us.
 */
static void reduce(struct keel_bus *b, const char *portfolio)
{
    size_t i = 0;
    if (strcmp(portfolio, "-") == 0 || b->n_reducing + 1 == KEEL_COUNT(b->reducing))
        portfolio = ""; /* all of them */
    while (i < b->n_reducing && strcmp(b->reducing[i].portfolio, portfolio) != 0)
        i++;
    if (i == b->n_reducing && i < KEEL_COUNT(b->reducing)) {
        b->reducing[b->n_reducing++] = (struct keel_reducing){.bus = b};
        keel_bus_copy(b->reducing[i].portfolio, sizeof b->reducing[i].portfolio, portfolio);
    }
}

static void on_reducing(struct keel_rt *rt, void *ctx, const struct keel_reply *reply)
{
    struct keel_reducing *r = ctx;
    (void)rt;
    r->asking = false;
    r->done = reply->status == KEEL_OK && reply->http < 300;
    if (!r->done)
        keel_log_often(KEEL_LOG_ERROR, "reducing_not_taken", "portfolio=%s http=%d detail=%s", r->portfolio, reply->http,
                       keel_status_text(reply->status));
}

static void tell_reducing(struct keel_bus *b)
{
    for (size_t i = 0; i < b->n_reducing; i++) {
        struct keel_reducing *r = &b->reducing[i];
        struct keel_arena *a;
        struct keel_json w;
        struct keel_peer_req req = {.peer = "risk", .method = "PUT", .path = "/risk/trading-state", .budget_ns = KEEL_S_NS};
        if (r->done || r->asking || b->rt->peers == NULL)
            continue;
        a = keel_arena_new(1024);
        keel_json_init(&w, a, 256);
        keel_json_obj(&w, NULL);
        keel_json_str(&w, "state", "REDUCING");
        if (r->portfolio[0] != '\0')
            keel_json_str(&w, "portfolio_id", r->portfolio);
        keel_json_str(&w, "reason", keel_arena_printf(a, "%s has a durable record among its dead letters", b->rt->engine->name));
        keel_json_end(&w);
        req.body = keel_json_text(&w);
        req.body_len = w.len;
        r->asking = true;
        keel_peer_fetch(b->rt, &req, keel_mono_ns() + KEEL_S_NS, NULL, on_reducing, r);
        keel_arena_free(a);
    }
}

void keel_bus_dead_added(struct keel_bus *b, bool durable, const char *key)
{
    b->dead_durable += durable;
    b->dead_len = UINT64_MAX; /* count again */
    if (durable)
        reduce(b, key);
}

static double info_number(const char *text, size_t n, const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i + len < n; i++)
        if ((i == 0 || text[i - 1] == '\n') && memcmp(text + i, name, len) == 0 && text[i + len] == ':')
            return strtod(text + i + len + 1, NULL);
    return 0;
}

static void on_memory(void *ctx, const struct redisReply *reply)
{
    struct keel_bus *b = ctx;
    const char *text;
    size_t n;
    if (!keel_reply_text(reply, &text, &n))
        return;
    double most = info_number(text, n, "maxmemory");
    b->memory = most > 0 ? info_number(text, n, "used_memory") / most : 0;
    if (b->memory > 0.8)
        keel_log_often(KEEL_LOG_WARN, "redis_memory", "fraction=%.3f", b->memory);
}

static void control_second(struct keel_bus *b)
{
    KEEL_ARGS(len);
    KEEL_ARGS(info);
    tell_reducing(b);
    keel_arg(&len, "XLEN");
    keel_arg(&len, b->dead_key);
    keel_link_send(b->control, &len, 0, on_dead_len, b);
    keel_arg(&info, "INFO");
    keel_arg(&info, "memory");
    keel_link_send(b->control, &info, 0, on_memory, b);
}

static void on_tick(uv_timer_t *timer)
{
    struct keel_bus *b = timer->data;
    int64_t now_ns = keel_mono_ns();
    bool hurry = b->draining || keel_out_is_watched(b, now_ns);
    uint64_t every_ms = LONG_TICK_MS;
    keel_lease_hold(b->rt, now_ns);
    keel_out_tick(b, now_ns);
    if (b->has_redis) {
        keel_link_tick(b->control, now_ns);
        if (b->in != NULL) {
            hurry |= keel_in_is_advancing(b);
            keel_in_tick(b, now_ns);
        }
        if (now_ns >= b->second_at_ns && keel_link_is_up(b->control) && !b->draining) {
            b->second_at_ns = now_ns + KEEL_S_NS;
            control_second(b);
            keel_out_second(b, now_ns);
            if (b->in != NULL)
                keel_in_second(b, now_ns);
        }
        if (keel_bus_connected(b->rt))
            b->away_since_ns = 0;
        else if (b->away_since_ns == 0)
            b->away_since_ns = now_ns;
    } else {
        every_ms = 1000;
    }
    /* A part may have asked for a turn of its own meanwhile. */
    if (!uv_is_active((uv_handle_t *)timer))
        keel_tick_in(b->rt, timer, on_tick, hurry ? SHORT_TICK_MS : every_ms);
}

static void on_control_up(void *ctx)
{
    struct keel_bus *b = ctx;
    b->dead_len = UINT64_MAX;
    keel_out_control_up(b);
    if (b->in != NULL)
        keel_in_control_up(b);
}

void keel_bus_look_again(struct keel_rt *rt)
{
    if (rt->bus != NULL && rt->bus->in != NULL)
        keel_in_control_up(rt->bus);
}

/* ---- life ---- */

static enum keel_status complain(const char *what, const char *detail)
{
    keel_log(KEEL_LOG_ERROR, "bus_options", "option=%s detail=%s", what, detail);
    return KEEL_INVALID;
}

enum keel_status keel_bus_open(struct keel_rt *rt)
{
    struct keel_bus *b;
    if (strlen(rt->producer) >= sizeof b->producer)
        return complain("instance", "with the engine's name it is longer than the 47 bytes of a producer");
    b = keel_alloc(1, sizeof *b);
    b->rt = rt;
    b->has_redis = rt->core->redis_url[0] != '\0';
    b->is_hybrid = rt->guard->hybrid;
    b->topics = keel_topics(&b->n_topics);
    b->published = keel_alloc(b->n_topics, sizeof *b->published);
    b->received = keel_alloc(b->n_topics, sizeof *b->received);
    b->conflated = keel_alloc(b->n_topics, sizeof *b->conflated);
    b->dropped = keel_alloc(b->n_topics, sizeof *b->dropped);
    keel_bus_copy(b->producer, sizeof b->producer, rt->producer);
    if (strcmp(rt->core->keel_env, "main") != 0)
        snprintf(b->env, sizeof b->env, "%s:", rt->core->keel_env);
    snprintf(b->group, sizeof b->group, "%.40s-hybrid-group", rt->engine->name);
    char name[64];
    keel_bus_stream_name(rt->engine->name, KEEL_LANE_NORMAL, name);
    keel_bus_key(b, name, ":dead", b->dead_key);
    keel_bus_key(b, name, ":fetched", b->deaths_key);
    b->next = buses;
    buses = b;
    uv_timer_init(rt->loop, &b->tick);
    uv_check_init(rt->loop, &b->check);
    uv_idle_init(rt->loop, &b->idle);
    b->tick.data = b->check.data = b->idle.data = b;
    b->handles = 3;
    if (b->has_redis) {
        rt->bus = b;
        b->away_since_ns = keel_mono_ns();
        b->control = keel_link_new(&(struct keel_link_conf){.loop = rt->loop, .url = rt->core->redis_url,
                                                            .name = "control", .up = on_control_up, .ctx = b});
    }
    enum keel_status st = keel_out_open(b);
    if (st != KEEL_OK) {
        keel_bus_close(rt);
        return st;
    }
    keel_bus_soon(b);
    return KEEL_OK;
}

void keel_bus_read(struct keel_rt *rt)
{
    struct keel_bus *b = rt->bus;
    if (b == NULL || b->in != NULL)
        return;
    keel_in_open(b);
    uv_check_start(&b->check, on_check);
    keel_bus_soon(b);
}

void keel_bus_stop_reading(struct keel_rt *rt)
{
    struct keel_bus *b = rt->bus;
    if (b == NULL)
        return;
    b->draining = true;
    if (b->in != NULL)
        keel_in_stop(b);
    keel_out_flush(b);
    keel_bus_soon(b);
}

bool keel_bus_idle(struct keel_rt *rt)
{
    struct keel_bus *b = rt->bus;
    if (b == NULL)
        return true;
    if (!keel_out_is_idle(b) || (b->in != NULL && !keel_in_is_idle(b)))
        return false;
    return !b->draining || keel_link_pending(b->control) == 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct keel_bus *b = handle->data;
    if (--b->handles > 0)
        return;
    keel_free(b->published);
    keel_free(b->received);
    keel_free(b->conflated);
    keel_free(b->dropped);
    keel_free(b);
}

void keel_bus_close(struct keel_rt *rt)
{
    struct keel_bus *b = keel_bus_of_rt(rt), **at = &buses;
    if (b == NULL)
        return;
    b->closing = true;
    if (keel_out_unsent(b) > 0)
        keel_log(KEEL_LOG_WARN, "bus_closed_unsent", "records=%zu", keel_out_unsent(b));
    /* Connections first: their answers refer to the rest. */
    if (b->in != NULL)
        keel_in_stop(b);
    keel_link_free(b->control);
    keel_in_free(b);
    keel_out_free(b);
    while (*at != b)
        at = &(*at)->next;
    *at = b->next;
    rt->bus = NULL;
    uv_close((uv_handle_t *)&b->tick, on_closed);
    uv_close((uv_handle_t *)&b->check, on_closed);
    uv_close((uv_handle_t *)&b->idle, on_closed);
}

bool keel_bus_connected(struct keel_rt *rt)
{
    struct keel_bus *b = rt->bus;
    return b != NULL && keel_link_is_up(b->control) && keel_out_is_up(b) && (b->in == NULL || keel_in_is_up(b));
}

int64_t keel_bus_away_ns(struct keel_rt *rt)
{
    return rt->bus != NULL ? rt->bus->away_since_ns : 0;
}

size_t keel_bus_dead_durable(struct keel_rt *rt)
{
    return rt->bus != NULL ? rt->bus->dead_durable : 0;
}

double keel_bus_memory(struct keel_rt *rt)
{
    return rt->bus != NULL ? rt->bus->memory : 0;
}

/* ---- what is shown ---- */

static const char *const lane_name[KEEL_N_LANE] = {"critical", "priority", "normal"};

void keel_bus_performance(struct keel_rt *rt, struct keel_json *w)
{
    struct keel_bus *b = rt->bus;
    if (b == NULL)
        return;
    keel_json_bool(w, "connected", keel_bus_connected(rt));
    keel_json_fix(w, "redis_memory_fraction", b->memory, 4);
    keel_json_u64(w, "unsent", keel_out_unsent(b));
    keel_json_obj(w, "lanes");
    for (int i = 0; i < KEEL_N_LANE; i++) {
        const struct keel_lane_stats *s = &b->lane[i];
        keel_json_obj(w, lane_name[i]);
        keel_in_lane_json(b, (enum keel_lane)i, w);
        keel_json_u64(w, "sent", s->sent);
        keel_json_u64(w, "received", s->received);
        keel_json_u64(w, "dropped", s->dropped);
        keel_json_u64(w, "conflated", s->conflated);
        keel_json_u64(w, "gaps", s->gaps);
        keel_json_u64(w, "resent", s->resent);
        keel_json_u64(w, "retried", s->retried);
        keel_json_u64(w, "dead", s->dead);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void by_topic(const struct keel_bus *b, const char *name, const uint64_t *n, struct keel_json *w)
{
    keel_json_obj(w, name);
    for (size_t i = 0; i < b->n_topics; i++)
        if (n[i] > 0)
            keel_json_u64(w, b->topics[i].name, n[i]);
    keel_json_end(w);
}

void keel_bus_counts(struct keel_rt *rt, struct keel_json *w)
{
    struct keel_bus *b = keel_bus_of_rt(rt);
    uint64_t dropped = 0, dead = 0;
    if (b == NULL)
        return;
    for (int i = 0; i < KEEL_N_LANE; i++) {
        dropped += b->lane[i].dropped;
        dead += b->lane[i].dead;
    }
    by_topic(b, "published", b->published, w);
    by_topic(b, "received", b->received, w);
    by_topic(b, "conflated_by_topic", b->conflated, w);
    by_topic(b, "dropped_by_topic", b->dropped, w);
    keel_json_u64(w, "dropped", dropped);
    keel_json_u64(w, "duplicates", b->duplicates);
    keel_json_u64(w, "dead", dead);
    keel_json_u64(w, "unsent", keel_out_unsent(b));
    keel_json_u64(w, "backlog", keel_in_backlog(b, -1));
    keel_json_u64(w, "acked", b->acked);
    keel_json_obj(w, "by_producer");
    keel_in_producers_json(b, w);
    keel_json_end(w);
}

void keel_bus_metrics(struct keel_rt *rt, struct keel_text *out)
{
    static const struct { const char *name; size_t at; } what[] = {
        {"sent", offsetof(struct keel_lane_stats, sent)},       {"received", offsetof(struct keel_lane_stats, received)},
        {"dropped", offsetof(struct keel_lane_stats, dropped)}, {"conflated", offsetof(struct keel_lane_stats, conflated)},
        {"gaps", offsetof(struct keel_lane_stats, gaps)},       {"resent", offsetof(struct keel_lane_stats, resent)},
        {"retried", offsetof(struct keel_lane_stats, retried)}, {"dead", offsetof(struct keel_lane_stats, dead)},
    };
    struct keel_bus *b = rt->bus;
    const char *engine = rt->engine->name;
    if (b == NULL)
        return;
    keel_text_add(out, "# TYPE keel_bus_connected gauge\nkeel_bus_connected{engine=\"%s\"} %d\n", engine,
                  (int)keel_bus_connected(rt));
    keel_text_add(out, "# TYPE keel_bus_unsent gauge\nkeel_bus_unsent{engine=\"%s\"} %zu\n", engine, keel_out_unsent(b));
    keel_text_add(out, "# TYPE keel_bus_dead_durable gauge\nkeel_bus_dead_durable{engine=\"%s\"} %zu\n", engine,
                  b->dead_durable);
    keel_text_add(out, "# TYPE keel_bus_backlog gauge\n");
    for (int i = 0; i < KEEL_N_LANE; i++)
        keel_text_add(out, "keel_bus_backlog{engine=\"%s\",lane=\"%s\"} %zu\n", engine, lane_name[i], keel_in_backlog(b, i));
    keel_in_metrics(b, lane_name, out);
    keel_text_add(out, "# TYPE keel_bus_records_total counter\n");
    for (int i = 0; i < KEEL_N_LANE; i++)
        for (size_t k = 0; k < KEEL_COUNT(what); k++) {
            uint64_t n;
            memcpy(&n, (const char *)&b->lane[i] + what[k].at, sizeof n);
            keel_text_add(out, "keel_bus_records_total{engine=\"%s\",lane=\"%s\",what=\"%s\"} %llu\n", engine, lane_name[i],
                          what[k].name, (unsigned long long)n);
        }
    keel_text_add(out, "# TYPE keel_bus_duplicates_total counter\nkeel_bus_duplicates_total{engine=\"%s\"} %llu\n", engine,
                  (unsigned long long)b->duplicates);
}

/* ---- GET /bus/outbox ---- */

#define KEEL_BUS_OUTBOX(X, S)                                                                                          \
    X(S, STR, stream, NULL, 1, 63, "", "stream of this engine")                                                        \
    X(S, STR, epoch, KEEL_OPT, 1, 23, "", "epoch the reader knows; absent: whatever it is")                            \
    X(S, I64, from_seq, "1", 1, 0, "", "first number wanted")
KEEL_RECORD(keel_bus_outbox, KEEL_BUS_OUTBOX);
KEEL_RECORD_TABLE(keel_bus_outbox, KEEL_BUS_OUTBOX);
KEEL_RECORD_TABLE(keel_bus_load, KEEL_BUS_LOAD);

static const char outbox_sql[] =
    "SELECT seq, h, p FROM keel_outbox WHERE stream = ?1 AND seq >= ?2 ORDER BY seq LIMIT 501";

static void outbox_write(struct keel_call *c, const struct keel_rows *rows, uint64_t last_seq)
{
    struct keel_json *w = &c->out;
    size_t n = 0, bytes = 0;
    keel_json_obj(w, NULL);
    keel_json_str(w, "producer", c->rt->producer);
    keel_json_str(w, "epoch", keel_out_epoch(keel_bus_of_rt(c->rt)));
    keel_json_arr(w, "records");
    for (; rows != NULL && n < rows->n && n < OUTBOX_LIMIT && bytes < OUTBOX_BYTES; n++) {
        const char *h = KEEL_CELL(rows, n, 1), *p = KEEL_CELL(rows, n, 2);
        keel_json_obj(w, NULL);
        keel_json_str(w, "h", h);
        keel_json_raw(w, "p", p, strlen(p));
        keel_json_end(w);
        bytes += strlen(h) + strlen(p);
    }
    keel_json_end(w);
    keel_json_u64(w, "count", n);
    if (rows != NULL && n < rows->n)
        keel_json_raw(w, "next", KEEL_CELL(rows, n, 0), strlen(KEEL_CELL(rows, n, 0)));
    else
        keel_json_null(w, "next");
    keel_json_u64(w, "last_seq", last_seq);
    keel_json_end(w);
}

static enum keel_status outbox_rows(struct keel_call *c)
{
    const uint64_t *settled = c->ctx;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    outbox_write(c, c->rows, *settled);
    return KEEL_OK;
}

static enum keel_status api_outbox(struct keel_call *c)
{
    const struct keel_bus_outbox *arg = c->arg;
    struct keel_bus *b = keel_bus_of_rt(c->rt);
    if (b == NULL || c->rt->store == NULL || (arg->has_epoch && strcmp(arg->epoch, keel_out_epoch(b)) != 0)) {
        if (b == NULL)
            return keel_fail(c, KEEL_UNAVAILABLE, "the bus is closed");
        outbox_write(c, NULL, 0);
        return KEEL_OK;
    }
    /* Taken before the read, so that a number up to it which the rows lack does not exist. */
    uint64_t *settled = keel_arena_alloc(c->arena, sizeof *settled);
    *settled = keel_out_settled(b, arg->stream);
    c->ctx = settled;
    return keel_await_read(c, outbox_sql, "si", outbox_rows, arg->stream, arg->from_seq);
}

/* ---- GET /bus/dead; POST /bus/dead/{id}/replay, /discard ---- */

#define KEEL_BUS_DEAD(X, S)                                                                                            \
    X(S, I64, limit, "100", 1, 1000, "", "most letters wanted")                                                        \
    X(S, STR, after, KEEL_OPT, 3, 43, "", "next of the page before")
KEEL_RECORD(keel_bus_dead, KEEL_BUS_DEAD);
KEEL_RECORD_TABLE(keel_bus_dead, KEEL_BUS_DEAD);

#define KEEL_BUS_LETTER(X, S) X(S, STR, id, NULL, 3, 43, "", "id of the dead letter")
KEEL_RECORD(keel_bus_letter, KEEL_BUS_LETTER);
KEEL_RECORD_TABLE(keel_bus_letter, KEEL_BUS_LETTER);

/* A parked call that an answer of Redis wakes. */
struct parked { struct keel_rt *rt; uint64_t token; };

static struct keel_call *unpark(struct parked *p, struct parked *out)
{
    *out = *p;
    keel_free(p);
    return keel_call_of(out->rt, out->token);
}

static enum keel_status redis_away(struct keel_call *c)
{
    return keel_fail(c, KEEL_UNAVAILABLE, "Redis is away");
}

static enum keel_status ask_redis(struct keel_call *c, const struct keel_args *a, keel_reply_done_fn *fn,
                                  keel_step_fn *next)
{
    struct keel_bus *b = c->rt->bus;
    if (b == NULL || !keel_link_is_up(b->control))
        return redis_away(c);
    struct parked *p = keel_alloc(1, sizeof *p);
    p->rt = c->rt;
    if (!keel_link_send(b->control, a, 0, fn, p)) {
        keel_free(p);
        return redis_away(c);
    }
    return keel_await_wake(c, next, &p->token);
}

static void letter_text(struct keel_json *w, const struct keel_entry *e, const char *field, const char *key)
{
    const char *s;
    size_t n;
    if (keel_entry_field(e, field, &s, &n))
        keel_json_strn(w, key, s, n);
    else
        keel_json_null(w, key);
}

static void letter_write(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    struct keel_json *w = ctx;
    char id[KEEL_SID_TEXT];
    const char *durable;
    size_t n;
    (void)key;
    (void)key_len;
    keel_sid_print(e->id, id);
    keel_json_obj(w, NULL);
    keel_json_str(w, "id", id);
    letter_text(w, e, "topic", "topic");
    letter_text(w, e, "reason", "reason");
    letter_text(w, e, "detail", "detail");
    letter_text(w, e, "stream", "origin");
    letter_text(w, e, "id", "entry");
    keel_json_bool(w, "durable", keel_entry_field(e, "durable", &durable, &n) && n == 1 && durable[0] == '1');
    letter_text(w, e, "h", "h");
    letter_text(w, e, "p", "p");
    keel_json_end(w);
}

static void on_letters(void *ctx, const struct redisReply *reply)
{
    struct parked p;
    struct keel_call *c = unpark(ctx, &p);
    enum keel_status st = reply != NULL && keel_reply_error(reply) == NULL ? KEEL_OK : KEEL_UNAVAILABLE;
    if (c != NULL && st == KEEL_OK) {
        const struct keel_bus_dead *arg = c->arg;
        size_t n = keel_reply_n(reply);
        struct keel_entry last;
        char next[KEEL_SID_TEXT];
        keel_json_obj(&c->out, NULL);
        keel_json_arr(&c->out, "dead");
        keel_range_parse(reply, letter_write, &c->out);
        keel_json_end(&c->out);
        keel_json_u64(&c->out, "count", n);
        if (n == (size_t)arg->limit && keel_entry_parse(keel_reply_at(reply, n - 1), &last)) {
            keel_sid_print(last.id, next);
            keel_json_str(&c->out, "next", next);
        } else {
            keel_json_null(&c->out, "next");
        }
        keel_json_end(&c->out);
    }
    keel_wake(p.rt, p.token, st);
}

static enum keel_status answered(struct keel_call *c)
{
    return keel_wait_status(c) == KEEL_UNAVAILABLE ? redis_away(c) : keel_wait_status(c);
}

static enum keel_status api_dead(struct keel_call *c)
{
    const struct keel_bus_dead *arg = c->arg;
    struct keel_sid after;
    KEEL_ARGS(a);
    char limit[24];
    if (arg->has_after && !keel_sid_parse(arg->after, strlen(arg->after), &after))
        return keel_fail_as(c, KEEL_INVALID, NULL, "after", "after is no id of a dead letter");
    snprintf(limit, sizeof limit, "%lld", (long long)arg->limit);
    keel_arg(&a, "XREVRANGE");
    keel_arg(&a, c->rt->bus != NULL ? c->rt->bus->dead_key : "");
    keel_arg(&a, arg->has_after ? keel_arena_printf(c->arena, "(%s", arg->after) : "+");
    keel_arg(&a, "-");
    keel_arg(&a, "COUNT");
    keel_arg(&a, limit);
    return ask_redis(c, &a, on_letters, answered);
}

static enum keel_status no_such_letter(struct keel_call *c, const char *id)
{
    return keel_fail(c, KEEL_NOTFOUND, "there is no dead letter %s", id);
}

static void on_one_letter(void *ctx, const struct redisReply *reply)
{
    struct parked p;
    struct keel_call *c = unpark(ctx, &p);
    enum keel_status st = reply != NULL && keel_reply_error(reply) == NULL ? KEEL_OK : KEEL_UNAVAILABLE;
    if (st == KEEL_OK && keel_reply_n(reply) == 0)
        st = KEEL_NOTFOUND;
    if (c != NULL && st == KEEL_OK)
        keel_range_parse(reply, letter_write, &c->out);
    keel_wake(p.rt, p.token, st);
}

static enum keel_status shown(struct keel_call *c)
{
    const struct keel_bus_letter *arg = c->arg;
    return keel_wait_status(c) == KEEL_NOTFOUND ? no_such_letter(c, arg->id) : answered(c);
}

static enum keel_status discarded(struct keel_call *c)
{
    const struct keel_bus_letter *arg = c->arg;
    if (keel_wait_status(c) == KEEL_NOTFOUND)
        return no_such_letter(c, arg->id);
    if (keel_wait_status(c) != KEEL_OK)
        return answered(c);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "discarded");
    keel_json_str(&c->out, "id", arg->id);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static void on_discarded(void *ctx, const struct redisReply *reply)
{
    struct parked p;
    struct keel_call *c = unpark(ctx, &p);
    int64_t n = 0;
    if (c != NULL && c->rt->bus != NULL)
        keel_bus_dead_added(c->rt->bus, false, "");
    keel_wake(p.rt, p.token, !keel_reply_int(reply, &n) ? KEEL_UNAVAILABLE : n > 0 ? KEEL_OK : KEEL_NOTFOUND);
}

static enum keel_status check_letter(struct keel_call *c)
{
    const struct keel_bus_letter *arg = c->arg;
    struct keel_sid id;
    if (!keel_sid_parse(arg->id, strlen(arg->id), &id))
        return no_such_letter(c, arg->id);
    return c->rt->bus != NULL ? KEEL_OK : redis_away(c);
}

static enum keel_status api_discard(struct keel_call *c)
{
    const struct keel_bus_letter *arg = c->arg;
    KEEL_ARGS(a);
    enum keel_status st = check_letter(c);
    if (st != KEEL_OK)
        return st;
    keel_arg(&a, "XDEL");
    keel_arg(&a, c->rt->bus->dead_key);
    keel_arg(&a, arg->id);
    return ask_redis(c, &a, on_discarded, discarded);
}

static enum keel_status read_letter(struct keel_call *c, keel_reply_done_fn *on_reply, keel_step_fn *next)
{
    const struct keel_bus_letter *arg = c->arg;
    KEEL_ARGS(a);
    enum keel_status st = check_letter(c);
    if (st != KEEL_OK)
        return st;
    keel_arg(&a, "XRANGE");
    keel_arg(&a, c->rt->bus->dead_key);
    keel_arg(&a, arg->id);
    keel_arg(&a, arg->id);
    return ask_redis(c, &a, on_reply, next);
}

static enum keel_status api_dead_one(struct keel_call *c)
{
    return read_letter(c, on_one_letter, shown);
}

static enum keel_status replayed(struct keel_call *c)
{
    const struct keel_bus_letter *arg = c->arg;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c); /* keel_fail has been told why */
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "replayed");
    keel_json_str(&c->out, "id", arg->id);
    keel_json_end(&c->out);
    return KEEL_OK;
}

/* The call stays parked: it is woken again when the record it asked for has settled. */
static void on_letter(void *ctx, const struct redisReply *reply)
{
    struct parked p;
    struct keel_call *c = unpark(ctx, &p);
    struct keel_entry e;
    enum keel_status st = KEEL_OK;
    if (c == NULL)
        return;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        st = redis_away(c);
    else if (!keel_entry_parse(keel_reply_at(reply, 0), &e) || e.gone)
        st = no_such_letter(c, ((const struct keel_bus_letter *)c->arg)->id);
    else if (c->rt->bus == NULL || keel_in_replay(c->rt->bus, &e, p.token) != KEEL_OK)
        st = keel_fail(c, KEEL_CONFLICT, "no row of this engine takes the record");
    if (st != KEEL_OK)
        keel_wake(p.rt, p.token, st);
}

static enum keel_status api_replay(struct keel_call *c)
{
    return read_letter(c, on_letter, replayed);
}

const struct keel_op keel_bus_ops[] = {
    {.id = "bus_outbox", .on = KEEL_GET("/bus/outbox"), .level = KEEL_HIGH, .deadline_ms = 3000,
     .takes = &keel_bus_outbox_fields, .begin = api_outbox, .help = "Durable records of the last 24 hours, from a number on."},
    {.id = "bus_dead", .on = KEEL_GET("/bus/dead"), .level = KEEL_NORMAL, .deadline_ms = 3000,
     .takes = &keel_bus_dead_fields, .begin = api_dead, .help = "Records this engine could not take, newest first."},
    {.id = "bus_dead_one", .on = KEEL_GET("/bus/dead/{id}"), .level = KEEL_NORMAL, .deadline_ms = 3000,
     .takes = &keel_bus_letter_fields, .begin = api_dead_one, .help = "One of them."},
    {.id = "bus_dead_replay", .on = KEEL_POST("/bus/dead/{id}/replay"), .level = KEEL_NORMAL, .deadline_ms = 10000,
     .scope = KEEL_SCOPE_ADMIN, .takes = &keel_bus_letter_fields, .begin = api_replay,
     .help = "Runs a dead letter again; it is gone when that goes well."},
    {.id = "bus_dead_discard", .on = KEEL_POST("/bus/dead/{id}/discard"), .level = KEEL_NORMAL, .deadline_ms = 3000,
     .scope = KEEL_SCOPE_ADMIN, .takes = &keel_bus_letter_fields, .begin = api_discard, .help = "Deletes a dead letter."},
    {.id = "bus_load", .on = KEEL_SPAWNED, .level = KEEL_HIGH, .deadline_ms = 10000, .takes = &keel_bus_load_fields,
     .begin = keel_out_load_begin, .help = "Durable records of the file that wait to be sent."},
};
const size_t keel_n_bus_ops = KEEL_COUNT(keel_bus_ops);
