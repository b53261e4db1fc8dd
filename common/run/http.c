/*
 * HTTP on the engine's one loop, and the only file that knows libmicrohttpd. The library has no thread of its
 * own: its epoll descriptor is watched by the loop, its timeout is a loop timer, and it is run again after
 * whatever may have given it work. It knows neither slow clients nor an answer to being full, so connections
 * carry a phase and a stamp of our own: a sweep cuts what is late, and beyond max_connections the answer is 503.
 * A request becomes a call; while the call waits, its connection is suspended.
 */
#include "call_priv.h"
#include "ws_priv.h"

#include "keel/clock.h"
#include "keel/log.h"
#include "keel/ws_frame.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <microhttpd.h>

enum {
    MAX_BODY = 64 * 1024,
    MAX_PATH = 2048,
    MAX_QUERY = 64,
    MAX_DISCARD = 1024 * 1024, /* read beyond the limit so that a client gets its answer rather than a reset */
    HEADER_BYTES = 8 * 1024,   /* of engines that do not say */
    SPARE = 32,                /* the server's limit lies this far above ours: it never reaches it, we answer 503 */
    OVER_MS = 1000,            /* patience with a connection above the limit */
    BACKLOG = 1024,
    SWEEP_MS = 200,
    MAX_RUNS = 8,
    ARENA_BYTES = 2048,
    LAST_BYTES = 512,          /* texts of the last route, of a usual path */
    BULK_SLICE_NS = 50000,    /* of a turn of the loop for calls that are not urgent, and at least one of them */
    STUBBORN = 3,              /* refused calls in a row, none with the pause before it that was asked for; the next ... */
    STUBBORN_MS = 20,          /* ... waits so long, and each one after it so much longer, ... */
    STUBBORN_MOST_MS = 240,    /* ... but never more */
    OBEYED_MS = 1000,          /* the least Retry-After there is */
    SPARE_ARENAS = 64,
    N_KEPT = 64,               /* responses for use again ... */
    MAX_KEPT = 4096,           /* ... and the largest body of one */
    SMALL_BODY = 1024,         /* memory for one of a usual size is kept with its connection */
    PIECE = 32 * 1024,         /* of a larger answer so much is sent at once, then others have their turn */
    N_PREBUILT = 3
};

enum phase { PHASE_HEADER, PHASE_BODY, PHASE_ANSWER, PHASE_IDLE, PHASE_CUT, PHASE_UPGRADED };

/* Clients ask for the same again and again: the row that a connection's last method and path led to. */
struct last_route {
    struct keel_arena *arena;  /* of the texts; NULL: there is none yet */
    const char *method, *path; /* path NULL: led to no row */
    const struct keel_op *op;
    const struct keel_param *params;
    size_t n_params;
};

/* The headers that are looked at for every request; one walk over all there are finds them. */
enum known { HOST, ORIGIN, AUTHORIZATION, CONTENT_TYPE, TRACEPARENT, X_DEADLINE_MS, N_KNOWN };

struct connection {
    struct connection *prev, *next;
    struct keel_http *h;
    struct MHD_Connection *mhd;
    int fd;
    enum phase phase;
    int64_t since_ns, answered_ns; /* answered_ns: when the call before had settled; 0: there was none */
    bool over;                 /* came when max_connections were there */
    bool asked, suspended;     /* the call was made; it has not answered yet */
    bool is_deferred;          /* suspended, the call is still to be made */
    struct connection *next_deferred;
    unsigned n_refused;        /* calls refused in a row, each sooner after the one before than Retry-After said */
    bool is_slowed;            /* suspended until the tick, the call is still to be made */
    struct keel_tick slowed;
    int64_t came_ns;           /* of the request in hand, once it is whole */
    struct last_route last;
    /* the request in hand */
    struct keel_arena *arena;  /* NULL between requests */
    struct keel_arena *part;   /* of the call's memory, with a large answer in it */
    const char *large;         /* that answer, or its copy */
    const char *known[N_KNOWN]; /* its headers of which the server has to know, NULL: absent */
    const struct keel_op *op;
    struct keel_request request;
    char *body;                /* a small one is kept for the next request */
    size_t body_len, body_cap, body_max, seen;
    size_t declared;           /* length of the body; 0: it does not say */
    struct MHD_Response *response;
    bool is_shared;            /* response is one of the prebuilt or kept */
    struct kept *kept;         /* its response is of this request until that has ended */
    bool closes;               /* where this request ends cannot be trusted, or is not waited for */
    unsigned code;
    struct keel_ws *ws;        /* of an upgrade, until the socket is handed over */
    struct MHD_UpgradeResponseHandle *upgrade; /* PHASE_UPGRADED: how the socket comes back */
};

/* One of /health, /health/live, /health/ready as last made; [1] also closes the connection. */
struct prebuilt {
    const struct keel_op *op;
    struct { struct MHD_Response *response; uint64_t version; int64_t date_s; unsigned code; } as[2];
};

/*
 * The response to a call that has ended. To make one takes the server twenty allocations, most of them for headers that
 * every answer has; so the next answer as long takes it over, with its own body, trace and timing in it.
 */
struct kept {
    struct MHD_Response *response; /* NULL: none yet */
    char *body;
    size_t len;
    struct changing { char *value; size_t len; } date, trace_id, timing; /* headers in response; value NULL: not yet */
    bool is_used;
};

struct keel_http {
    struct keel_rt *rt;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    uv_timer_t timer, sweep;
    uv_prepare_t prepare;
    uv_check_t check;
    int n_closing;
    uint16_t port;
    bool is_quiesced;
    bool is_running;           /* inside MHD_run */
    bool again;                /* the server must run again before the loop may block */
    struct connection *connections;
    uint32_t n_connections, n_requests_in_hand, n_suspended;
    uint64_t n_requests, n_refused, n_timed_out, n_slowed;
    struct keel_arena *arenas[SPARE_ARENAS];
    size_t n_arenas;
    struct prebuilt prebuilt[N_PREBUILT];
    struct kept kept[N_KEPT];  /* by the length of the body */
    /* when what this turn of the loop reads had arrived at the latest: see Tracker in system.md 3 */
    int64_t prepare_ns, turn_ns, arrived_ns;
    struct connection *deferred, **last_deferred; /* in the order they came */
    int64_t bulk_ns;           /* what calls that are not urgent have taken of this turn */
    uv_idle_t spin;            /* keeps the loop from blocking while there are deferred ones */
    int64_t run_ns;            /* when the server last began to run: near enough for phases, which last seconds */
    int64_t date_s;            /* second of date */
    char date[32];
    uint64_t prepare_idle_ns;
    bool is_stamped;
};

/* ---- when requests arrive ---- */

/*
 * libuv counts the time its polls block. A poll that blocked returned when the first event came; one that did not found
 * events that may have waited since the poll before. On a connection that was answered since, the request came after that
 * answer: without this a busy engine would refuse what has just arrived for what the turn before has cost.
 */
static void stamp_turn(struct keel_http *h)
{
    uint64_t blocked;

    if (h->is_stamped)
        return;
    h->is_stamped = true;
    blocked = uv_metrics_idle_time(h->rt->loop) - h->prepare_idle_ns;
    h->arrived_ns = blocked > 0 ? h->prepare_ns + (int64_t)blocked : h->turn_ns;
    h->turn_ns = h->prepare_ns + (int64_t)blocked;
}

/* ---- running the server ---- */

static void on_timer(uv_timer_t *timer);
static void call_deferred(struct keel_http *h, int64_t slice_ns);

/* The server itself would print one for every answer. */
static void print_date(struct keel_http *h)
{
    int64_t now_s = keel_wall_ns() / 1000000000;
    time_t t = (time_t)now_s;
    struct tm tm;

    if (now_s == h->date_s)
        return;
    h->date_s = now_s;
    gmtime_r(&t, &tm);
    strftime(h->date, sizeof h->date, "%a, %d %b %Y %H:%M:%S GMT", &tm); /* no setlocale here: names are English */
}

static void run(struct keel_http *h)
{
    MHD_UNSIGNED_LONG_LONG ms = 0;
    bool has_timeout = false;

    keel_assert(!h->is_running);
    h->is_running = true;
    h->run_ns = keel_mono_ns();
    print_date(h);
    for (int i = 0; i < MAX_RUNS; i++) {
        h->again = false;
        MHD_run(h->daemon);
        has_timeout = MHD_get_timeout(h->daemon, &ms) == MHD_YES;
        if (!h->again && !(has_timeout && ms == 0))
            break;
    }
    h->is_running = false;
    keel_bus_let_go(h->rt);
    if (h->again || (has_timeout && ms == 0))
        uv_timer_start(&h->timer, on_timer, 0, 0); /* the loop's other work first */
    else if (has_timeout)
        uv_timer_start(&h->timer, on_timer, (uint64_t)ms, 0);
    else
        uv_timer_stop(&h->timer);
}

static void on_timer(uv_timer_t *timer)
{
    run(timer->data);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct keel_http *h = poll->data;

    (void)status;
    (void)events;
    stamp_turn(h);
    run(h);
}

/* Calls that settled in this turn have resumed connections: one run serves them all. */
static void on_check(uv_check_t *check)
{
    struct keel_http *h = check->data;

    stamp_turn(h);
    h->bulk_ns = 0;
    call_deferred(h, BULK_SLICE_NS);
    if (h->again)
        run(h);
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct keel_http *h = prepare->data;

    if (h->again)
        run(h);
    h->prepare_ns = keel_mono_ns();
    h->rt->wall_offset_ns = keel_wall_ns() - h->prepare_ns;
    h->prepare_idle_ns = uv_metrics_idle_time(h->rt->loop);
    h->is_stamped = false;
}

/* ---- connections ---- */

/* N_KNOWN: none of them. */
static enum known known_header(const char *name, size_t len)
{
    static const struct { const char *name; size_t len; } names[N_KNOWN] = {
        [HOST] = {"Host", 4}, [ORIGIN] = {"Origin", 6}, [AUTHORIZATION] = {"Authorization", 13},
        [CONTENT_TYPE] = {"Content-Type", 12}, [TRACEPARENT] = {"traceparent", 11},
        [X_DEADLINE_MS] = {"X-Deadline-Ms", 13}};
    size_t i = 0;

    while (i < N_KNOWN && (names[i].len != len || strcasecmp(names[i].name, name) != 0))
        i++;
    return (enum known)i;
}

static const char *header(struct connection *c, const char *name)
{
    enum known known = known_header(name, strlen(name));

    return known < N_KNOWN ? c->known[known] : MHD_lookup_connection_value(c->mhd, MHD_HEADER_KIND, name);
}

static struct connection *connection_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info->socket_context;
}

static void enter(struct connection *c, enum phase phase)
{
    c->phase = phase;
    c->since_ns = c->h->run_ns;
}

/* The server sees the end of the stream and closes. */
static void cut(struct connection *c)
{
    c->phase = PHASE_CUT;
    shutdown(c->fd, SHUT_RDWR);
}

static void drop_response(struct connection *c)
{
    if (c->response != NULL && !c->is_shared)
        MHD_destroy_response(c->response);
    c->response = NULL;
    c->is_shared = false;
}

static void release_kept(struct connection *c)
{
    if (c->kept != NULL)
        c->kept->is_used = false;
    c->kept = NULL;
}

static void free_body(struct connection *c)
{
    keel_free(c->body);
    c->body = NULL;
    c->body_cap = 0;
}

static void end_request(struct connection *c)
{
    struct keel_http *h = c->h;

    if (c->arena == NULL)
        return;
    keel_assert(!c->suspended);
    if (c->ws != NULL)
        keel_ws_refused(c->ws); /* the client left before its upgrade */
    c->ws = NULL;
    drop_response(c);
    release_kept(c);
    if (c->part != NULL)
        keel_worker_free(h->rt, c->part, NULL);
    c->part = NULL;
    if (c->body_cap > SMALL_BODY)
        free_body(c);
    if (h->n_arenas < SPARE_ARENAS) {
        keel_arena_reset(c->arena);
        h->arenas[h->n_arenas++] = c->arena;
    } else {
        keel_arena_free(c->arena);
    }
    c->arena = NULL;
    c->op = NULL;
    c->body_len = c->seen = 0;
    c->asked = c->closes = false;
    h->n_requests_in_hand--;
    if (c->phase != PHASE_CUT)
        enter(c, PHASE_IDLE);
}

static void open_connection(struct keel_http *h, struct MHD_Connection *mhd, void **slot)
{
    struct connection *c = keel_alloc(1, sizeof *c);

    c->h = h;
    c->mhd = mhd;
    c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    enter(c, PHASE_HEADER);
    c->next = h->connections;
    if (c->next != NULL)
        c->next->prev = c;
    h->connections = c;
    h->n_connections++;
    c->over = h->n_connections > (uint64_t)h->rt->core->max_connections;
    *slot = c;
}

static void close_connection(struct connection *c)
{
    struct keel_http *h = c->h;

    end_request(c);
    free_body(c);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        h->connections = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    h->n_connections--;
    keel_arena_free(c->last.arena);
    /* After its limit or for want of descriptors the server listens again only at the start of a later run. */
    h->again = true;
    keel_free(c);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **slot, enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        open_connection(cls, mhd, slot);
    else if (*slot != NULL)
        close_connection(*slot);
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls, enum MHD_RequestTerminationCode why)
{
    (void)cls;
    (void)mhd;
    (void)why;
    if (*con_cls != NULL)
        end_request(*con_cls);
    *con_cls = NULL;
}

/* The request line is there. On a new connection the time for the header has run since it was accepted. */
static void *on_request_line(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct connection *c = connection_of(mhd);

    (void)cls;
    (void)uri;
    if (c->phase == PHASE_IDLE)
        enter(c, PHASE_HEADER);
    return NULL;
}

/* The router undoes escapes itself, segment by segment. */
static size_t keep_escapes(void *cls, struct MHD_Connection *mhd, char *text)
{
    (void)cls;
    (void)mhd;
    return strlen(text);
}

static int64_t patience_ms(const struct connection *c)
{
    const struct keel_core_options *o = c->h->rt->core;

    switch (c->phase) {
    case PHASE_HEADER:
        return c->over && o->header_timeout_ms > OVER_MS ? OVER_MS : o->header_timeout_ms;
    case PHASE_BODY:
        return o->body_timeout_ms;
    case PHASE_IDLE:
        return c->h->is_quiesced ? 0 : o->idle_timeout_ms;
    case PHASE_ANSWER: /* the call has its deadline, a client that does not read the server's own timeout */
    case PHASE_CUT:
    case PHASE_UPGRADED: /* ws.c has its own */
        break;
    }
    return INT64_MAX / 1000000;
}

static void on_sweep(uv_timer_t *timer)
{
    struct keel_http *h = timer->data;
    int64_t now = keel_mono_ns();

    keel_tick_in(h->rt, timer, on_sweep, SWEEP_MS);
    for (struct connection *c = h->connections; c != NULL; c = c->next) {
        if (now - c->since_ns < patience_ms(c) * 1000000)
            continue;
        if (c->phase != PHASE_IDLE)
            h->n_timed_out++;
        cut(c);
    }
    run(h);
}

/* ---- answers ---- */

static bool is_closing(const struct connection *c)
{
    return c->h->is_quiesced || c->h->rt->draining || c->over || c->closes;
}

static struct MHD_Response *add_headers(struct MHD_Response *r, const struct keel_http *h, const struct keel_answer *answer,
                                        bool closes)
{
    keel_assert(r != NULL);
    MHD_add_response_header(r, "Date", h->date);
    MHD_add_response_header(r, "Content-Type", answer->type != NULL ? answer->type : "application/json");
    for (size_t i = 0; i < answer->n_headers; i++)
        MHD_add_response_header(r, answer->headers[i].name, answer->headers[i].value);
    if (closes)
        MHD_add_response_header(r, "Connection", "close");
    return r;
}

static struct MHD_Response *make_response(const struct keel_http *h, const struct keel_answer *answer,
                                          enum MHD_ResponseMemoryMode mode, bool closes)
{
    /* the server only reads it */
    return add_headers(MHD_create_response_from_buffer(answer->len, (void *)(uintptr_t)answer->body, mode), h, answer, closes);
}

static ssize_t next_piece(void *cls, uint64_t at, char *to, size_t most)
{
    const struct connection *c = cls;

    memcpy(to, c->large + at, most); /* the server asks for no more than there is */
    return (ssize_t)most;
}

/* The headers that every call's answer has, in its order; those that change come last. */
enum { TRACE_ID = 2, TIMING, N_USUAL };

static const struct keel_param usual[N_USUAL] = {
    {"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}, [TRACE_ID] = {"X-Trace-Id", NULL},
    [TIMING] = {"Server-Timing", NULL}};

/* Nearly always the same constant. */
static bool is_same(const char *x, const char *y)
{
    return x == y || strcmp(x, y) == 0;
}

/* JSON with no other header. */
static bool is_usual(const struct keel_answer *answer)
{
    if (answer->n_headers != N_USUAL || (answer->type != NULL && !is_same(answer->type, "application/json")))
        return false;
    for (size_t i = 0; i < N_USUAL; i++) {
        const struct keel_param *is = &answer->headers[i];
        if (!is_same(is->name, usual[i].name) || (i < TRACE_ID && !is_same(is->value, usual[i].value)))
            return false;
    }
    return true;
}

static void drop_kept(struct kept *k)
{
    if (k->response != NULL)
        MHD_destroy_response(k->response);
    keel_free(k->body);
    *k = (struct kept){0};
}

/*
 * The server keeps a copy of a value, which it reads when it sends: one as long is written over it. To take the header
 * out and add it again takes six calls of the allocator.
 */
static void replace_header(struct MHD_Response *r, const char *name, struct changing *now, const char *value)
{
    size_t len = strlen(value);

    if (now->value == NULL || now->len != len) {
        if (now->value != NULL)
            MHD_del_response_header(r, name, now->value);
        MHD_add_response_header(r, name, value);
        *now = (struct changing){(char *)(uintptr_t)MHD_get_response_header(r, name), len};
    } else {
        memcpy(now->value, value, len);
    }
}

/* A new one has the headers that never change. */
static void renew_kept(struct kept *k, const struct keel_answer *answer)
{
    drop_kept(k);
    k->len = answer->len;
    k->body = keel_alloc(k->len + 1, 1);
    k->response = MHD_create_response_from_buffer(k->len, k->body, MHD_RESPMEM_PERSISTENT);
    keel_assert(k->response != NULL);
    MHD_add_response_header(k->response, "Content-Type", "application/json");
    for (size_t i = 0; i < TRACE_ID; i++)
        MHD_add_response_header(k->response, answer->headers[i].name, answer->headers[i].value);
}

/* false: the answer is not of the usual kind, or another request's is in its place. */
static bool use_kept(struct connection *c, const struct keel_answer *answer)
{
    struct kept *k = &c->h->kept[answer->len % N_KEPT];

    if (k->is_used || answer->len > MAX_KEPT || is_closing(c) || !is_usual(answer))
        return false;
    if (k->response == NULL || k->len != answer->len)
        renew_kept(k, answer);
    memcpy(k->body, answer->body, k->len);
    replace_header(k->response, "Date", &k->date, c->h->date);
    replace_header(k->response, "X-Trace-Id", &k->trace_id, answer->headers[TRACE_ID].value);
    replace_header(k->response, "Server-Timing", &k->timing, answer->headers[TIMING].value);
    k->is_used = true;
    c->kept = k;
    c->response = k->response;
    c->is_shared = true;
    return true;
}

/* In one piece it would take the loop for as long as it takes to copy it, twice. */
static void set_large(struct connection *c, const struct keel_answer *answer)
{
    keel_assert(c->part == NULL);
    if (answer->arena != NULL)
        c->part = keel_arena_part(answer->arena, answer->body);
    c->large = c->part != NULL ? answer->body : keel_arena_strndup(c->arena, answer->body, answer->len);
    c->response = add_headers(MHD_create_response_from_callback(answer->len, PIECE, next_piece, c, NULL), c->h, answer,
                              is_closing(c));
}

static void set_answer(struct connection *c, const struct keel_answer *answer)
{
    struct keel_answer own = *answer;

    drop_response(c);
    release_kept(c);
    c->code = (unsigned)answer->http;
    if (use_kept(c, answer))
        return;
    if (answer->len > PIECE) {
        set_large(c, answer);
        return;
    }
    own.body = keel_arena_strndup(c->arena, answer->body, answer->len); /* the request's memory outlives its answer */
    c->response = make_response(c->h, &own, MHD_RESPMEM_PERSISTENT, is_closing(c));
}

/* ---- the upgrade of a WebSocket row ---- */

static void give_back(void *ctx)
{
    struct connection *c = ctx;

    MHD_upgrade_action(c->upgrade, MHD_UPGRADE_ACTION_CLOSE);
    c->h->again = true;
    if (!c->h->is_running)
        uv_timer_start(&c->h->timer, on_timer, 0, 0);
}

/* The server keeps the connection's memory until the socket is given back; what the request held ends here. */
static void on_upgrade(void *cls, struct MHD_Connection *mhd, void *con_cls, const char *extra, size_t n, MHD_socket fd,
                       struct MHD_UpgradeResponseHandle *handle)
{
    struct connection *c = cls;
    struct keel_ws *ws = c->ws;

    (void)mhd;
    (void)con_cls;
    c->ws = NULL;
    end_request(c);
    enter(c, PHASE_UPGRADED);
    c->upgrade = handle;
    keel_ws_attach(ws, fd, extra, n, (struct keel_ws_upgrade){.give_back = give_back, .ctx = c});
}

static void set_upgrade(struct connection *c)
{
    char accept[KEEL_WS_ACCEPT + 1];

    drop_response(c);
    keel_ws_accept(header(c, "Sec-WebSocket-Key"), accept);
    c->response = MHD_create_response_for_upgrade(on_upgrade, c);
    keel_assert(c->response != NULL);
    MHD_add_response_header(c->response, "Upgrade", "websocket");
    MHD_add_response_header(c->response, "Sec-WebSocket-Accept", accept);
    if (keel_ws_has_token(header(c, "Sec-WebSocket-Protocol"), "keel.v1"))
        MHD_add_response_header(c->response, "Sec-WebSocket-Protocol", "keel.v1");
    c->code = MHD_HTTP_SWITCHING_PROTOCOLS;
}

static void set_answer_of_call(struct connection *c, const struct keel_answer *answer)
{
    if (c->ws != NULL && answer->http == 200) {
        set_upgrade(c);
        return;
    }
    if (c->ws != NULL)
        keel_ws_refused(c->ws);
    c->ws = NULL;
    set_answer(c, answer);
}

/* The call has settled: at once, or later while the connection sleeps. */
static void on_answer(void *ctx, const struct keel_answer *answer)
{
    struct connection *c = ctx;

    c->n_refused = answer->http == 503 || answer->http == 429 ? c->n_refused + 1 : 0;
    c->answered_ns = answer->settled_ns > 0 ? answer->settled_ns : keel_mono_ns();
    set_answer_of_call(c, answer);
    if (!c->suspended)
        return;
    c->suspended = false;
    c->h->n_suspended--;
    MHD_resume_connection(c->mhd);
    c->h->again = true;
}

static void add_header(struct keel_answer *answer, const char *name, const char *value)
{
    keel_assert(answer->n_headers < KEEL_COUNT(answer->headers));
    answer->headers[answer->n_headers++] = (struct keel_param){name, value};
}

/* As on every answer that keel_problem or a call makes. */
static void add_usual_headers(struct keel_answer *answer)
{
    add_header(answer, "Cache-Control", "no-store");
    add_header(answer, "X-Content-Type-Options", "nosniff");
}

/* Nothing of the request is looked at any more; its body is read and forgotten. */
static void refuse(struct connection *c, enum keel_status st, const char *code, const char *detail, const char *header,
                   const char *value)
{
    struct keel_answer answer = {0};

    c->h->n_refused++;
    keel_problem(c->arena, st, code, NULL, detail, NULL, &answer);
    if (header != NULL)
        add_header(&answer, header, value);
    set_answer(c, &answer);
}

/* Refusals of HTTP itself, which no status of ours stands for. */
static void refuse_http(struct connection *c, int http, const char *title, const char *code, const char *detail,
                        const char *header, const char *value)
{
    struct keel_answer answer = {.http = http, .type = "application/problem+json"};
    struct keel_json w;

    c->h->n_refused++;
    keel_json_init(&w, c->arena, 256);
    keel_json_obj(&w, NULL);
    keel_json_str(&w, "type", "about:blank");
    keel_json_str(&w, "title", title);
    keel_json_i64(&w, "status", http);
    keel_json_str(&w, "detail", detail);
    keel_json_str(&w, "code", code);
    keel_json_end(&w);
    answer.body = keel_json_text(&w);
    answer.len = w.len;
    add_usual_headers(&answer);
    if (header != NULL)
        add_header(&answer, header, value);
    set_answer(c, &answer);
}

static enum MHD_Result queue_response(struct connection *c)
{
    enum MHD_Result queued = MHD_queue_response(c->mhd, c->code, c->response);

    drop_response(c);
    return queued;
}

/* ---- the prebuilt answers ---- */

static struct prebuilt *prebuilt_of(struct keel_http *h, const struct keel_op *op)
{
    for (size_t i = 0; i < N_PREBUILT; i++) {
        if (h->prebuilt[i].op == NULL)
            h->prebuilt[i].op = op;
        if (h->prebuilt[i].op == op)
            return &h->prebuilt[i];
    }
    return NULL;
}

/* false: op has no prebuilt answer. */
static bool use_prebuilt(struct connection *c)
{
    const struct keel_prebuilt *now = keel_health_prebuilt(c->h->rt, c->op);
    struct prebuilt *p = now != NULL ? prebuilt_of(c->h, c->op) : NULL;
    bool closes = is_closing(c);

    if (p == NULL)
        return false;
    if (p->as[closes].response == NULL || p->as[closes].version != now->version ||
        p->as[closes].date_s != c->h->date_s) {
        struct keel_answer answer = {.http = now->http, .body = now->body, .len = now->len};
        add_usual_headers(&answer);
        if (p->as[closes].response != NULL)
            MHD_destroy_response(p->as[closes].response);
        p->as[closes].response = make_response(c->h, &answer, MHD_RESPMEM_MUST_COPY, closes);
        p->as[closes].version = now->version;
        p->as[closes].date_s = c->h->date_s;
        p->as[closes].code = (unsigned)now->http;
    }
    c->response = p->as[closes].response;
    c->code = p->as[closes].code;
    c->is_shared = true;
    return true;
}

/* ---- a request: header ---- */

static const char *request_header(void *ctx, const char *name)
{
    return header(ctx, name);
}

/* The request still points at it, but does not look at it any more. */
static char *give_body(void *ctx)
{
    struct connection *c = ctx;
    char *body = c->body;

    c->body = NULL;
    c->body_cap = 0;
    return body;
}

struct query { struct connection *c; struct keel_param *rows; size_t n; bool is_bad; };

static enum MHD_Result on_query(void *cls, enum MHD_ValueKind kind, const char *key, const char *value)
{
    struct query *q = cls;
    char *k = keel_arena_strdup(q->c->arena, key), *v = keel_arena_strdup(q->c->arena, value != NULL ? value : "");
    size_t k_len = strlen(k), v_len = strlen(v);

    (void)kind;
    if (q->n == MAX_QUERY || !keel_unescape(k, &k_len) || !keel_unescape(v, &v_len)) {
        q->is_bad = true;
        return MHD_NO;
    }
    q->rows[q->n++] = (struct keel_param){k, v};
    return MHD_YES;
}

static bool read_query(struct connection *c)
{
    struct query q = {.c = c};
    int n = MHD_get_connection_values(c->mhd, MHD_GET_ARGUMENT_KIND, NULL, NULL);

    if (n <= 0)
        return true;
    if (n > MAX_QUERY)
        return false;
    q.rows = keel_arena_array(c->arena, MAX_QUERY, sizeof *q.rows);
    MHD_get_connection_values(c->mhd, MHD_GET_ARGUMENT_KIND, on_query, &q);
    c->request.query = q.rows;
    c->request.n_query = q.n;
    return !q.is_bad;
}

static bool is_well_escaped(struct keel_arena *a, const char *path, size_t len)
{
    size_t plain = 0;

    while (plain < len && path[plain] != '%' && (unsigned char)path[plain] < 0x80)
        plain++;
    return plain == len || keel_unescape(keel_arena_strndup(a, path, len), &len);
}

/* Emptied: what it led to is forgotten. */
static struct keel_arena *arena_of_last(struct connection *c)
{
    struct keel_arena *a = c->last.arena;

    if (a == NULL)
        a = keel_arena_new(LAST_BYTES);
    else
        keel_arena_reset(a);
    c->last = (struct last_route){.arena = a};
    return a;
}

static void keep_route(struct last_route *last, const struct keel_request *rq, const struct keel_route *route)
{
    struct keel_param *params = keel_arena_array(last->arena, route->n_params, sizeof *params);

    memcpy(params, route->params, route->n_params * sizeof *params);
    last->method = keel_arena_strdup(last->arena, rq->method);
    last->path = keel_arena_strdup(last->arena, rq->path);
    last->op = route->op;
    last->params = params;
    last->n_params = route->n_params;
}

/* The path's row, or the refusal is set. */
static const struct keel_op *find_op(struct connection *c, const char *path)
{
    struct keel_route route;
    size_t len = strlen(path);

    if (len > MAX_PATH) {
        refuse_http(c, 414, "the path is too long", "path_too_long", "a path has at most 2048 bytes", NULL, NULL);
        return NULL;
    }
    if (path[0] != '/' || !is_well_escaped(c->arena, path, len)) {
        refuse(c, KEEL_INVALID, "bad_path", "the path does not begin with /, or has a broken escape, a NUL or no UTF-8",
               NULL, NULL);
        return NULL;
    }
    if (keel_route_find(c->h->rt, arena_of_last(c), c->request.method, path, &route)) {
        keep_route(&c->last, &c->request, &route);
        return route.op;
    }
    if (route.allow[0] != '\0')
        refuse(c, KEEL_METHOD, NULL, keel_arena_printf(c->arena, "this path takes %s", route.allow), "Allow",
               route.allow);
    else
        refuse(c, KEEL_NOTFOUND, NULL, "no operation has this path; GET / lists them", NULL, NULL);
    return NULL;
}

/*
 * A page cannot set headers of a WebSocket; its token comes as one of the protocols it offers, keel.bearer.<token> with
 * %XX for what a protocol may not have. NULL: there is none.
 */
static const char *offered_token(struct connection *c)
{
    static const char prefix[] = "keel.bearer.";
    const char *offer = header(c, "Sec-WebSocket-Protocol");

    while (offer != NULL && *offer != '\0') {
        offer += strspn(offer, ", \t");
        size_t n = strcspn(offer, ", \t"), skip = sizeof prefix - 1;
        if (n > skip && strncmp(offer, prefix, skip) == 0) {
            char *text = keel_arena_printf(c->arena, "Bearer %.*s", (int)(n - skip), offer + skip);
            size_t len = strlen(text);
            return keel_unescape(text, &len) ? text : NULL;
        }
        offer += n;
    }
    return NULL;
}

static void check_access(struct connection *c, bool has_body)
{
    const char *why = NULL, *authorization = c->known[AUTHORIZATION];

    if (authorization == NULL && c->op->on.kind == KEEL_ON_WS)
        authorization = offered_token(c);

    enum keel_status st = keel_authorize(c->h->rt, c->op, c->request.method, authorization, c->known[HOST],
                                         c->known[ORIGIN], c->known[CONTENT_TYPE], has_body, &c->request.scope, &why);

    if (st == KEEL_UNAUTHORIZED)
        refuse(c, st, NULL, why, "WWW-Authenticate", "Bearer");
    else if (st != KEEL_OK)
        refuse(c, st, NULL, why, NULL, NULL);
    else
        c->request.client =
            keel_client_of(c->h->rt, c->op, c->request.scope,
                           MHD_get_connection_info(c->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
}

/* RFC 6455, 4.2.1; what the server library leaves to us. */
static void check_upgrade(struct connection *c)
{
    const char *version = header(c, "Sec-WebSocket-Version");

    if (strcmp(c->request.method, "GET") != 0 || !keel_ws_has_token(header(c, "Upgrade"), "websocket") ||
        !keel_ws_has_token(header(c, "Connection"), "upgrade") || version == NULL || strcmp(version, "13") != 0) {
        refuse_http(c, 426, "upgrade required", "upgrade_required", "this path speaks WebSocket, version 13", "Upgrade",
                    "websocket");
        MHD_add_response_header(c->response, "Sec-WebSocket-Version", "13");
    } else if (!keel_ws_key_valid(header(c, "Sec-WebSocket-Key"))) {
        refuse(c, KEEL_INVALID, "bad_key", "Sec-WebSocket-Key is base64 of 16 bytes", NULL, NULL);
    }
}

/* Sets c->op, and c->response when the header is enough to know the answer. */
static void look_at_header(struct connection *c, const char *path, bool has_body)
{
    struct last_route *last = &c->last;
    bool is_same = last->path != NULL && strcmp(last->path, path) == 0 && strcmp(last->method, c->request.method) == 0;

    c->op = is_same ? last->op : find_op(c, path);
    if (c->op == NULL)
        return;
    c->request.method = last->method;
    c->request.path = last->path;
    c->request.params = last->params;
    c->request.n_params = last->n_params;
    if ((c->op->flags & KEEL_PREBUILT) && !has_body && use_prebuilt(c))
        return;
    if (c->over) {
        refuse(c, KEEL_SHED, "too_many_connections", "max_connections are open already", "Retry-After", "1");
        return;
    }
    if (c->h->rt->draining || c->h->is_quiesced) {
        refuse(c, KEEL_DRAINING, NULL, "the engine is shutting down", "Retry-After", "1");
        return;
    }
    check_access(c, has_body);
    if (c->response != NULL)
        return;
    if (c->op->on.kind == KEEL_ON_WS)
        check_upgrade(c);
    if (c->response == NULL && !read_query(c))
        refuse(c, KEEL_INVALID, "bad_query", "the query has a broken escape, a NUL, no UTF-8 or over 64 parameters",
               NULL, NULL);
}

/* What says where the body ends; two opinions on that are how requests are smuggled past a proxy. */
struct framing { struct connection *c; int lengths, encodings, hosts; bool is_chunked; unsigned long long declared; };

/* Of a header that comes twice the first counts, as for the server. */
static enum MHD_Result on_header(void *cls, enum MHD_ValueKind kind, const char *name, size_t len, const char *value,
                                 size_t value_len)
{
    struct framing *f = cls;
    enum known known = known_header(name, len);

    (void)kind;
    (void)value_len;
    if (known < N_KNOWN) {
        f->hosts += known == HOST;
        if (f->c->known[known] == NULL)
            f->c->known[known] = value;
    } else if (len == 14 && strcasecmp(name, "Content-Length") == 0) {
        f->lengths++;
        f->declared = strtoull(value, NULL, 10);
    } else if (len == 17 && strcasecmp(name, "Transfer-Encoding") == 0) {
        f->encodings++;
        f->is_chunked = strcasecmp(value, "chunked") == 0;
    }
    return MHD_YES;
}

static bool is_framed(const struct framing *f)
{
    return f->lengths + f->encodings <= 1 && f->hosts <= 1 && (f->encodings == 0 || f->is_chunked);
}

/* Before the body: the server reads none of it and closes. */
static enum MHD_Result refuse_now(struct connection *c, enum keel_status st, const char *code, const char *detail)
{
    c->closes = true;
    refuse(c, st, code, detail, NULL, NULL);
    return queue_response(c);
}

static struct keel_arena *take_arena(struct keel_http *h)
{
    return h->n_arenas > 0 ? h->arenas[--h->n_arenas] : keel_arena_new(ARENA_BYTES);
}

static const char *too_big(struct connection *c)
{
    return keel_arena_printf(c->arena, "a body here has at most %zu bytes", c->body_max);
}

static enum MHD_Result begin_request(struct connection *c, const char *path, const char *method)
{
    struct framing f = {.c = c};

    enter(c, PHASE_BODY);
    c->h->n_requests++;
    c->h->n_requests_in_hand++;
    c->arena = take_arena(c->h);
    if (c->over && c->h->n_connections <= (uint64_t)c->h->rt->core->max_connections)
        c->over = false; /* others have left meanwhile */
    c->request = (struct keel_request){
        .method = method, .path = path, .header = request_header, .give_body = give_body, .ctx = c,
        .scope = KEEL_SCOPE_READ};
    memset(c->known, 0, sizeof c->known);
    MHD_get_connection_values_n(c->mhd, MHD_HEADER_KIND, on_header, &f);
    if (!is_framed(&f))
        return refuse_now(c, KEEL_INVALID, "bad_framing",
                          "one Host, and at most one of Content-Length and Transfer-Encoding: chunked");
    look_at_header(c, path, f.encodings > 0 || f.declared > 0);
    c->body_max = c->op != NULL && c->op->max_body > 0 ? c->op->max_body : MAX_BODY;
    c->declared = f.declared;
    return f.declared > c->body_max ? refuse_now(c, KEEL_TOOBIG, NULL, too_big(c)) : MHD_YES;
}

/* ---- a request: body and call ---- */

static void append_body(struct connection *c, const char *data, size_t n)
{
    if (c->body_len + n > c->body_cap) {
        size_t cap = c->declared > SMALL_BODY ? c->declared : SMALL_BODY;
        while (cap < c->body_len + n)
            cap *= 2;
        c->body = keel_realloc(c->body, cap, 1);
        c->body_cap = cap;
    }
    memcpy(c->body + c->body_len, data, n);
    c->body_len += n;
}

static void take_body(struct connection *c, const char *data, size_t n)
{
    c->seen += n;
    if (c->response == NULL && c->seen > c->body_max) {
        c->closes = true;
        refuse(c, KEEL_TOOBIG, NULL, too_big(c), NULL, NULL);
    }
    if (c->response == NULL)
        append_body(c, data, n);
    else if (c->seen > c->body_max + MAX_DISCARD)
        cut(c);
}

/*
 * Urgent calls are made as their requests are read. Of the others a turn of the loop makes as many as fit into its
 * slice; the rest wait, in order, and urgent requests that come meanwhile pass them. A guard without lanes takes all in
 * order.
 */
static bool is_deferrable(const struct connection *c)
{
    const struct keel_rt *rt = c->h->rt;

    return rt->guard->hybrid && c->op->level >= KEEL_NORMAL && c->op->on.kind == KEEL_ON_HTTP &&
           !(c->op->flags & KEEL_MUST) && !rt->draining && !c->h->is_quiesced;
}

static void call_now(struct connection *c)
{
    struct keel_http *h = c->h;
    int64_t began_ns = is_deferrable(c) ? keel_mono_ns() : 0;

    if (strcmp(c->request.method, "HEAD") == 0)
        c->request.method = "GET"; /* the server leaves the body out */
    c->request.body = c->body_len > 0 ? c->body : "";
    c->request.body_len = c->body_len;
    c->request.arrived_ns = c->came_ns;
    if (c->op->on.kind == KEEL_ON_WS)
        c->request.ws = c->ws = keel_ws_new(h->rt, c->op);
    keel_call_http(h->rt, c->op, &c->request, on_answer, c);
    if (began_ns > 0)
        h->bulk_ns += keel_mono_ns() - began_ns;
}

static void wait_for_answer(struct connection *c)
{
    c->suspended = true;
    c->h->n_suspended++;
    MHD_suspend_connection(c->mhd);
}

static void on_spin(uv_idle_t *spin)
{
    (void)spin;
}

static void defer(struct connection *c)
{
    struct keel_http *h = c->h;

    c->is_deferred = true;
    c->next_deferred = NULL;
    if (h->deferred == NULL)
        h->last_deferred = &h->deferred;
    *h->last_deferred = c;
    h->last_deferred = &c->next_deferred;
    uv_idle_start(&h->spin, on_spin);
    wait_for_answer(c);
}

/* A suspended connection cannot close, so all of them are still there. */
static void call_deferred(struct keel_http *h, int64_t slice_ns)
{
    while (h->deferred != NULL && h->bulk_ns < slice_ns) {
        struct connection *c = h->deferred;
        h->deferred = c->next_deferred;
        c->is_deferred = false;
        call_now(c);
    }
    if (h->deferred == NULL)
        uv_idle_stop(&h->spin);
}

/*
 * Who asks again at once after every refusal costs more than an order: some hundred such clients took the processor that
 * the orders of all others needed. So the next request on such a connection is taken up a moment later, as if it had been
 * read later; what must not wait is taken up at once, and so is what other engines send, each for somebody else.
 */
static bool is_stubborn(struct connection *c)
{
    const struct keel_rt *rt = c->h->rt;

    if (c->n_refused == 0)
        return false;
    if (c->came_ns - c->answered_ns >= OBEYED_MS * 1000000LL)
        c->n_refused = 0;
    return c->n_refused >= STUBBORN && rt->guard->hybrid && c->request.client != 0 && !(c->op->flags & KEEL_MUST) &&
           !rt->draining && !c->h->is_quiesced;
}

/* A suspended connection cannot close: it is still there. */
static void take_up(struct connection *c)
{
    c->is_slowed = false;
    c->came_ns = keel_mono_ns();
    call_now(c);
}

static void on_slowed(struct keel_tick *tick)
{
    take_up((struct connection *)((char *)tick - offsetof(struct connection, slowed)));
}

static void slow_down(struct connection *c)
{
    int64_t ms = (int64_t)STUBBORN_MS * (c->n_refused - STUBBORN + 1);

    c->h->n_slowed++;
    c->is_slowed = true;
    c->slowed.fn = on_slowed;
    keel_tick_set(keel_call_ticks(c->h->rt), &c->slowed,
                  keel_mono_ns() + (ms < STUBBORN_MOST_MS ? ms : STUBBORN_MOST_MS) * 1000000);
    wait_for_answer(c);
}

static void take_up_slowed(struct keel_http *h)
{
    for (struct connection *c = h->connections; c != NULL; c = c->next) {
        if (!c->is_slowed)
            continue;
        keel_tick_clear(keel_call_ticks(h->rt), &c->slowed);
        take_up(c);
    }
}

static enum MHD_Result make_call(struct connection *c)
{
    struct keel_http *h = c->h;

    c->asked = true;
    enter(c, PHASE_ANSWER);
    c->came_ns = c->answered_ns > h->arrived_ns ? c->answered_ns : h->arrived_ns;
    if (is_stubborn(c)) {
        slow_down(c);
        return MHD_YES;
    }
    if ((h->deferred != NULL || h->bulk_ns >= BULK_SLICE_NS) && is_deferrable(c)) {
        defer(c);
        return MHD_YES;
    }
    call_now(c);
    if (c->response != NULL)
        return queue_response(c);
    wait_for_answer(c);
    return MHD_YES;
}

/* The server calls with the header only, then with pieces of the body, last with none; and again after a resume. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *path, const char *method,
                                  const char *version, const char *data, size_t *n, void **con_cls)
{
    struct connection *c = *con_cls;

    (void)cls;
    (void)version;
    if (c == NULL) {
        *con_cls = c = connection_of(mhd);
        return begin_request(c, path, method);
    }
    if (c->closes && c->response == NULL)
        return MHD_NO; /* answered before its body, of which nothing is wanted */
    if (*n > 0) {
        take_body(c, data, *n);
        *n = 0;
        return MHD_YES;
    }
    if (c->response == NULL) {
        keel_assert(!c->asked);
        return make_call(c);
    }
    enter(c, PHASE_ANSWER);
    return queue_response(c);
}

/* ---- open and close ---- */

__attribute__((format(printf, 2, 0))) static void on_log(void *cls, const char *fmt, va_list ap)
{
    char line[256];

    (void)cls;
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = '\0';
    keel_log_often(KEEL_LOG_DEBUG, "http_server", "detail=%s", line);
}

static enum keel_status listen_failed(struct keel_rt *rt, int port, const char *detail)
{
    keel_log(KEEL_LOG_ERROR, "http_listen_failed", "host=%s port=%d detail=%s", rt->core->http_host, port, detail);
    return KEEL_UNAVAILABLE;
}

static enum keel_status open_socket(struct keel_rt *rt, int *out)
{
    int port = rt->core->has_port ? (int)rt->core->port : rt->engine->port, one = 1, fd, rc;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    char service[8];

    snprintf(service, sizeof service, "%d", port);
    rc = getaddrinfo(rt->core->http_host, service, &hints, &found);
    if (rc != 0)
        return listen_failed(rt, port, gai_strerror(rc));
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
        bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        *out = fd;
    else
        rc = errno;
    freeaddrinfo(found);
    if (rc == 0)
        return KEEL_OK;
    if (fd >= 0)
        close(fd);
    return listen_failed(rt, port, strerror(rc));
}

static uint16_t bound_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t n = sizeof address;
    uint16_t port = 0;

    if (getsockname(fd, (struct sockaddr *)&address, &n) == 0) {
        if (address.ss_family == AF_INET6)
            port = ((struct sockaddr_in6 *)&address)->sin6_port;
        else
            port = ((struct sockaddr_in *)&address)->sin_port;
    }
    return ntohs(port);
}

/* Whoever waits for the file never sees half of it. */
static enum keel_status write_port_file(const char *path, uint16_t port)
{
    char temporary[600];
    bool ok = false;
    FILE *f;

    if (*path == '\0')
        return KEEL_OK;
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    f = fopen(temporary, "we");
    if (f != NULL) {
        ok = fprintf(f, "%u\n", (unsigned)port) > 0;
        ok = fclose(f) == 0 && ok && rename(temporary, path) == 0;
    }
    if (ok)
        return KEEL_OK;
    keel_log(KEEL_LOG_ERROR, "port_file_failed", "path=%s detail=%s", path, strerror(errno));
    return KEEL_UNAVAILABLE;
}

/* A descriptor a connection, and some for the rest of the engine. */
static void raise_descriptor_limit(int64_t connections)
{
    struct rlimit limit;
    rlim_t want = (rlim_t)connections + SPARE + 256;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= want)
        return;
    limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : want;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < want)
        keel_log(KEEL_LOG_WARN, "few_descriptors", "limit=%llu wanted=%llu", (unsigned long long)limit.rlim_cur,
                 (unsigned long long)want);
}

/* The server's timeout is one of inactivity; ours are shorter, it is left with clients that do not read. */
static unsigned inactivity_seconds(const struct keel_core_options *o)
{
    int64_t ms = o->idle_timeout_ms;

    if (o->body_timeout_ms > ms)
        ms = o->body_timeout_ms;
    if (o->header_timeout_ms > ms)
        ms = o->header_timeout_ms;
    return (unsigned)(ms / 1000) + 2;
}

static struct MHD_Daemon *start_server(struct keel_http *h, int fd)
{
    const struct keel_core_options *o = h->rt->core;
    size_t header_bytes = h->rt->engine->header_bytes > 0 ? h->rt->engine->header_bytes : (size_t)HEADER_BYTES;

    return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | MHD_USE_ERROR_LOG |
                                MHD_USE_SUPPRESS_DATE_NO_CLOCK, 0, NULL,
                            NULL, on_request, h,
                            MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                            MHD_OPTION_LISTEN_SOCKET, fd,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)o->max_connections + SPARE,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, 2 * header_bytes, /* the request's half, the answer's */
                            MHD_OPTION_CONNECTION_TIMEOUT, inactivity_seconds(o),
                            MHD_OPTION_STRICT_FOR_CLIENT, 1,
                            MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
                            MHD_OPTION_URI_LOG_CALLBACK, on_request_line, h,
                            MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
                            MHD_OPTION_END);
}

static void start_handles(struct keel_http *h)
{
    uv_loop_t *loop = h->rt->loop;

    uv_loop_configure(loop, UV_METRICS_IDLE_TIME);
    h->prepare_ns = h->turn_ns = h->arrived_ns = h->run_ns = keel_mono_ns();
    h->prepare_idle_ns = uv_metrics_idle_time(loop);
    uv_poll_init(loop, &h->poll, MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd);
    uv_timer_init(loop, &h->timer);
    uv_timer_init(loop, &h->sweep);
    uv_prepare_init(loop, &h->prepare);
    uv_check_init(loop, &h->check);
    uv_idle_init(loop, &h->spin);
    h->spin.data = h->poll.data = h->timer.data = h->sweep.data = h->prepare.data = h->check.data = h;
    uv_poll_start(&h->poll, UV_READABLE, on_readable);
    keel_tick_in(h->rt, &h->sweep, on_sweep, SWEEP_MS);
    uv_prepare_start(&h->prepare, on_prepare);
    uv_check_start(&h->check, on_check);
}

enum keel_status keel_http_open(struct keel_rt *rt)
{
    struct keel_http *h;
    enum keel_status st;
    int fd = -1;

    raise_descriptor_limit(rt->core->max_connections);
    st = open_socket(rt, &fd);
    if (st != KEEL_OK)
        return st;
    h = keel_alloc(1, sizeof *h);
    h->rt = rt;
    h->port = bound_port(fd);
    h->daemon = start_server(h, fd);
    if (h->daemon == NULL) {
        close(fd);
        keel_free(h);
        return listen_failed(rt, 0, "the HTTP server did not start");
    }
    start_handles(h);
    rt->http = h;
    keel_log(KEEL_LOG_INFO, "http_listening", "host=%s port=%u", rt->core->http_host, (unsigned)h->port);
    return write_port_file(rt->core->port_file, h->port);
}

void keel_http_quiesce(struct keel_rt *rt)
{
    struct keel_http *h = rt->http;
    MHD_socket fd;

    if (h == NULL || h->is_quiesced)
        return;
    call_deferred(h, INT64_MAX);
    take_up_slowed(h);
    h->is_quiesced = true;
    fd = MHD_quiesce_daemon(h->daemon);
    if (fd != MHD_INVALID_SOCKET)
        close(fd);
    keel_wss_drain(rt);
    on_sweep(&h->sweep); /* closes what is idle */
}

static void on_closed(uv_handle_t *handle)
{
    struct keel_http *h = handle->data;

    if (--h->n_closing == 0)
        keel_free(h);
}

void keel_http_close(struct keel_rt *rt)
{
    struct keel_http *h = rt->http;

    if (h == NULL)
        return;
    keel_http_quiesce(rt);
    keel_wss_end(rt);
    keel_assert(h->n_suspended == 0); /* the server aborts otherwise */
    run(h);
    uv_handle_t *handles[] = {(uv_handle_t *)&h->poll, (uv_handle_t *)&h->timer, (uv_handle_t *)&h->sweep,
                              (uv_handle_t *)&h->prepare, (uv_handle_t *)&h->check, (uv_handle_t *)&h->spin};
    h->n_closing = (int)KEEL_COUNT(handles);
    for (size_t i = 0; i < KEEL_COUNT(handles); i++)
        uv_close(handles[i], on_closed);
    MHD_stop_daemon(h->daemon);
    for (size_t i = 0; i < N_KEPT; i++)
        drop_kept(&h->kept[i]);
    for (size_t i = 0; i < N_PREBUILT; i++)
        for (size_t k = 0; k < 2; k++)
            if (h->prebuilt[i].as[k].response != NULL)
                MHD_destroy_response(h->prebuilt[i].as[k].response);
    while (h->n_arenas > 0)
        keel_arena_free(h->arenas[--h->n_arenas]);
    rt->http = NULL;
}

uint16_t keel_http_port(const struct keel_rt *rt)
{
    return rt->http != NULL ? rt->http->port : 0;
}

struct keel_http_stats keel_http_stats(const struct keel_rt *rt)
{
    const struct keel_http *h = rt->http;

    if (h == NULL)
        return (struct keel_http_stats){0};
    return (struct keel_http_stats){.requests = h->n_requests, .refused = h->n_refused, .timed_out = h->n_timed_out,
                                    .slowed = h->n_slowed, .connections = h->n_connections,
                                    .waiting = h->n_requests_in_hand};
}
