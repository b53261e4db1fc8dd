/*
 * One connection to Redis that is kept up: connects, authenticates, answers for every command exactly once, gives
 * up on a connection that has gone silent, and comes back with a growing pause.
 *
 * hiredis has no command timeout and says nothing about a half-open connection, so each command carries a
 * deadline; answers come in order, so only the oldest one is looked at. A connection is only ever freed from the
 * tick, never from inside one of hiredis' callbacks. The adapter to libuv is our own: an error of the poll (status
 * < 0) must reach hiredis.
 *
 * Behind Sentinel every connection begins with a question to one of the sentinels, which have a password of their
 * own, and counts as up only when the server says itself that it is the master: what a sentinel knows may be old.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <hiredis/async.h>
#include <hiredis/hiredis.h>

#include "bus_priv.h"
#include "keel/clock.h"
#include "keel/log.h"
#include "keel/redis_url.h"
#include "keel/rng.h"

#define ANSWER_NS (2 * KEEL_S_NS)  /* a command that does not block is answered within this */
#define CONNECT_NS (3 * KEEL_S_NS)
#define BACKOFF_MIN_NS (100 * KEEL_MS_NS)
#define BACKOFF_MAX_NS (2 * KEEL_S_NS)

enum state { AWAY, RESOLVING, CONNECTING, UP }; /* CONNECTING lasts until every greeting is answered */

struct command {
    struct command *next;
    struct keel_link *link;
    keel_reply_done_fn *fn;
    void *ctx;
    int64_t deadline_ns;
};

/* Outlives the connection by the loop's next turn. */
struct poller { uv_poll_t handle; redisAsyncContext *ac; struct keel_link *link; int events; };

/* Outlives the link when the name server is slow. */
struct resolving { uv_getaddrinfo_t req; struct keel_link *link; };

struct keel_link {
    uv_loop_t *loop;
    char name[32];
    struct keel_redis_url to;
    struct keel_redis_host at; /* where it connects: the host, one of the sentinels, or the master they named */
    size_t sentinel;           /* asked last */
    bool at_sentinel, knows_master;
    struct keel_tls *tls;
    void (*up)(void *ctx);
    void (*down)(void *ctx);
    void *ctx;
    enum state state;
    redisAsyncContext *ac;
    struct resolving *resolving;
    struct command *first, *last, *spare;
    size_t pending;
    int greetings; /* answers still to come before it counts as up */
    bool doomed, overdue, was_up;
    bool is_corked, has_unsent; /* what add_write leaves alone until push() */
    char why[160];
    int64_t retry_at_ns, backoff_ns, give_up_ns;
    struct keel_rng rng;
};

/* ---- the address ---- */

bool keel_link_url_check(const char *url, char *why, size_t cap)
{
    struct keel_redis_url u;
    const char *wrong = keel_redis_url_parse(url, &u);
    if (wrong == NULL && u.is_tls)
        wrong = keel_tls_check(&u);
    snprintf(why, cap, "%s", wrong != NULL ? wrong : "");
    return wrong == NULL;
}

/* ---- libuv under hiredis ---- */

static void fail_soon(struct keel_link *l, const char *why)
{
    if (l->doomed)
        return;
    l->doomed = true;
    snprintf(l->why, sizeof l->why, "%s", why);
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    struct poller *p = handle->data;
    /* hiredis finds out by itself what is wrong with the socket when it tries to use it. */
    if (status < 0)
        events = UV_READABLE | UV_WRITABLE;
    if (p->ac != NULL && (events & UV_READABLE) != 0)
        redisAsyncHandleRead(p->ac);
    if (p->ac != NULL && (events & UV_WRITABLE) != 0)
        redisAsyncHandleWrite(p->ac);
    if (p->ac != NULL && status < 0 && p->link != NULL)
        fail_soon(p->link, uv_strerror(status));
}

static void poller_set(struct poller *p, int events)
{
    if (events == p->events)
        return;
    p->events = events;
    if (events != 0)
        uv_poll_start(&p->handle, events, on_poll);
    else
        uv_poll_stop(&p->handle);
}

static void add_read(void *data)
{
    struct poller *p = data;
    poller_set(p, p->events | UV_READABLE);
}

static void del_read(void *data)
{
    struct poller *p = data;
    poller_set(p, p->events & ~UV_READABLE);
}

static void add_write(void *data)
{
    struct poller *p = data;
    if (p->link != NULL && p->link->is_corked)
        p->link->has_unsent = true;
    else
        poller_set(p, p->events | UV_WRITABLE);
}

/*
 * Written at once: to wait for the socket to be writable, which it is, costs two changes of the poll set and a
 * turn of the loop. An error stays in the context and is dealt with where hiredis finds it, in the poll.
 */
static void push(struct keel_link *l)
{
    int done = 0;
    l->is_corked = false;
    if (!l->has_unsent || l->ac == NULL)
        return;
    l->has_unsent = false;
    if ((l->ac->c.flags & REDIS_CONNECTED) == 0 || redisBufferWrite(&l->ac->c, &done) != REDIS_OK || !done)
        add_write(l->ac->ev.data);
}

static void del_write(void *data)
{
    struct poller *p = data;
    poller_set(p, p->events & ~UV_WRITABLE);
}

static void on_poller_closed(uv_handle_t *handle)
{
    keel_free(handle->data);
}

static void cleanup(void *data)
{
    struct poller *p = data;
    p->ac = NULL;
    p->link = NULL;
    uv_close((uv_handle_t *)&p->handle, on_poller_closed);
}

static bool attach(struct keel_link *l, redisAsyncContext *ac)
{
    struct poller *p = keel_alloc(1, sizeof *p);
    if (uv_poll_init(l->loop, &p->handle, ac->c.fd) != 0) {
        keel_free(p);
        return false;
    }
    p->handle.data = p;
    p->ac = ac;
    p->link = l;
    ac->ev.data = p;
    ac->ev.addRead = add_read;
    ac->ev.delRead = del_read;
    ac->ev.addWrite = add_write;
    ac->ev.delWrite = del_write;
    ac->ev.cleanup = cleanup;
    return true;
}

/* ---- commands ---- */

void keel_argn(struct keel_args *a, const char *s, size_t n)
{
    keel_assert(a->n < (int)KEEL_COUNT(a->v));
    a->v[a->n] = s;
    a->len[a->n++] = n;
}

void keel_arg(struct keel_args *a, const char *s)
{
    keel_argn(a, s, strlen(s));
}

static bool is_demoted(const struct redisReply *reply)
{
    const char *error = keel_reply_error(reply);
    return error != NULL && strncmp(error, "READONLY", 8) == 0;
}

static void on_answer(redisAsyncContext *ac, void *reply, void *data)
{
    struct command *cmd = data;
    struct keel_link *l = cmd->link;
    keel_reply_done_fn *fn = cmd->fn;
    void *ctx = cmd->ctx;
    (void)ac;
    keel_assert(l->first == cmd);
    l->first = cmd->next;
    if (l->first == NULL)
        l->last = NULL;
    l->pending--;
    cmd->next = l->spare;
    l->spare = cmd;
    if (reply == NULL)
        l->state = AWAY; /* so that fn's own next command is refused at once */
    else if (l->to.service[0] != '\0' && is_demoted(reply))
        fail_soon(l, "it is no longer the master");
    if (fn != NULL)
        fn(ctx, reply);
}

static bool command_send(struct keel_link *l, const struct keel_args *a, int64_t wait_ns, keel_reply_done_fn *fn,
                         void *ctx)
{
    const char *argv[KEEL_COUNT(a->v)];
    struct command *cmd = l->spare;
    if (cmd != NULL)
        l->spare = cmd->next;
    else
        cmd = keel_alloc(1, sizeof *cmd);
    *cmd = (struct command){.link = l, .fn = fn, .ctx = ctx, .deadline_ns = keel_mono_ns() + wait_ns + ANSWER_NS};
    memcpy(argv, a->v, (size_t)a->n * sizeof *argv);
    bool was_corked = l->is_corked;
    l->is_corked = true;
    bool taken = redisAsyncCommandArgv(l->ac, on_answer, cmd, a->n, argv, a->len) == REDIS_OK;
    if (!was_corked)
        push(l);
    if (!taken) {
        cmd->next = l->spare;
        l->spare = cmd;
        return false;
    }
    if (l->last != NULL)
        l->last->next = cmd;
    else
        l->first = cmd;
    l->last = cmd;
    l->pending++;
    return true;
}

bool keel_link_send(struct keel_link *l, const struct keel_args *a, int64_t wait_ns, keel_reply_done_fn *fn, void *ctx)
{
    return l->state == UP && !l->doomed && command_send(l, a, wait_ns, fn, ctx);
}

void keel_link_cork(struct keel_link *l)
{
    l->is_corked = true;
}

void keel_link_uncork(struct keel_link *l)
{
    push(l);
}

/* ---- coming and going ---- */

static void lost(struct keel_link *l, const char *why)
{
    bool was_up = l->was_up;
    l->ac = NULL;
    l->state = AWAY;
    l->doomed = l->overdue = l->was_up = l->has_unsent = l->knows_master = false;
    if (l->at_sentinel)
        l->sentinel = (l->sentinel + 1) % l->to.n_hosts;
    l->backoff_ns = l->backoff_ns == 0 ? BACKOFF_MIN_NS : l->backoff_ns * 2;
    if (l->backoff_ns > BACKOFF_MAX_NS)
        l->backoff_ns = BACKOFF_MAX_NS;
    int64_t jitter = (int64_t)keel_rng_below(&l->rng, (uint64_t)(l->backoff_ns / 4));
    l->retry_at_ns = keel_mono_ns() + l->backoff_ns * 3 / 4 + jitter;
    keel_log_often(KEEL_LOG_WARN, "redis_away", "link=%s detail=%s", l->name, why);
    if (was_up && l->down != NULL)
        l->down(l->ctx);
}

/* From the tick or at the end only. */
static void drop(struct keel_link *l, const char *why)
{
    redisAsyncContext *ac = l->ac;
    l->state = AWAY;
    l->ac = NULL;
    if (ac != NULL) {
        ac->data = NULL;
        redisAsyncFree(ac);
    }
    lost(l, why);
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct keel_link *l = ac->data;
    char why[160];
    if (l == NULL)
        return;
    snprintf(why, sizeof why, "%s", status != REDIS_OK && ac->errstr != NULL ? ac->errstr : "the connection was closed");
    lost(l, why);
}

static void on_greeting(void *ctx, const struct redisReply *reply)
{
    struct keel_link *l = ctx;
    const char *error = keel_reply_error(reply);
    if (reply == NULL)
        return;
    if (error != NULL) {
        fail_soon(l, error);
        return;
    }
    if (--l->greetings > 0 || l->doomed)
        return;
    l->state = UP;
    l->was_up = true;
    l->backoff_ns = 0;
    keel_log(KEEL_LOG_DEBUG, "redis_up", "link=%s", l->name);
    if (l->up != NULL)
        l->up(l->ctx);
}

/* Of a sentinel: ask no more, the tick goes on to the master. */
static void on_master_named(void *ctx, const struct redisReply *reply)
{
    struct keel_link *l = ctx;
    const char *host, *port, *error = keel_reply_error(reply);
    size_t host_n, port_n;
    int64_t v;
    if (reply == NULL)
        return;
    if (keel_reply_text(keel_reply_at(reply, 0), &host, &host_n) && host_n > 0 && host_n < sizeof l->at.name &&
        keel_reply_text(keel_reply_at(reply, 1), &port, &port_n) && keel_i64_parse(port, port_n, &v) == KEEL_OK &&
        v > 0 && v <= 65535) {
        memcpy(l->at.name, host, host_n);
        l->at.name[host_n] = '\0';
        l->at.port = (int)v;
        l->knows_master = true;
    } else {
        fail_soon(l, error != NULL ? error : "the sentinel knows no such service");
    }
}

static void on_role(void *ctx, const struct redisReply *reply)
{
    struct keel_link *l = ctx;
    if (reply != NULL && keel_reply_error(reply) == NULL && !keel_reply_is(keel_reply_at(reply, 0), "master"))
        fail_soon(l, "the server that the sentinel named is not the master yet");
    on_greeting(ctx, reply);
}

static void on_sentinel_greeting(void *ctx, const struct redisReply *reply)
{
    const char *error = keel_reply_error(reply);
    if (error != NULL)
        fail_soon(ctx, error);
}

static bool authenticate(struct keel_link *l, const char *user, const char *password, keel_reply_done_fn *fn)
{
    KEEL_ARGS(a);
    if (password[0] == '\0')
        return false;
    keel_arg(&a, "AUTH");
    if (user[0] != '\0')
        keel_arg(&a, user);
    keel_arg(&a, password);
    return command_send(l, &a, 0, fn, l);
}

static void ask_sentinel(struct keel_link *l)
{
    KEEL_ARGS(a);
    authenticate(l, l->to.sentinel_user, l->to.sentinel_password, on_sentinel_greeting);
    keel_arg(&a, "SENTINEL");
    keel_arg(&a, "get-master-addr-by-name");
    keel_arg(&a, l->to.service);
    command_send(l, &a, 0, on_master_named, l);
}

static void greet(struct keel_link *l)
{
    KEEL_ARGS(select);
    KEEL_ARGS(role);
    KEEL_ARGS(ping);
    char db[24];
    l->greetings = authenticate(l, l->to.user, l->to.password, on_greeting);
    if (l->to.db != 0) {
        snprintf(db, sizeof db, "%lld", (long long)l->to.db);
        keel_arg(&select, "SELECT");
        keel_arg(&select, db);
        l->greetings += command_send(l, &select, 0, on_greeting, l);
    }
    if (l->to.service[0] != '\0') {
        keel_arg(&role, "ROLE");
        l->greetings += command_send(l, &role, 0, on_role, l);
    }
    keel_arg(&ping, "PING"); /* also refused while Redis is loading its data */
    l->greetings += command_send(l, &ping, 0, on_greeting, l);
}

static void on_connect(const redisAsyncContext *ac, int status)
{
    struct keel_link *l = ac->data;
    char why[160];
    if (l == NULL)
        return;
    if (status == REDIS_OK) {
        if (l->at_sentinel)
            ask_sentinel(l);
        else
            greet(l);
        return;
    }
    /* hiredis frees the connection itself when this returns. */
    snprintf(why, sizeof why, "%s", ac->errstr != NULL && ac->errstr[0] != '\0' ? ac->errstr : "cannot connect");
    l->ac = NULL;
    lost(l, why);
}

static void connect_to(struct keel_link *l, const char *host)
{
    redisAsyncContext *ac = host != NULL ? redisAsyncConnect(host, l->at.port) : redisAsyncConnectUnix(l->to.path);
    char why[160] = "out of descriptors";
    if (ac == NULL || ac->err != 0 ||
        (l->tls != NULL && !keel_tls_start(l->tls, &ac->c, l->at.name, why, sizeof why)) || !attach(l, ac)) {
        if (ac != NULL && ac->err != 0)
            snprintf(why, sizeof why, "%s", ac->errstr);
        if (ac != NULL)
            redisAsyncFree(ac);
        lost(l, why);
        return;
    }
    ac->data = l;
    l->ac = ac;
    l->state = CONNECTING;
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    redisAsyncSetConnectCallback(ac, on_connect);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct resolving *r = req->data;
    struct keel_link *l = r->link;
    char host[64] = "";
    if (l != NULL) {
        l->resolving = NULL;
        l->state = AWAY;
        if (status == 0 && found->ai_family == AF_INET)
            uv_ip4_name((const struct sockaddr_in *)(const void *)found->ai_addr, host, sizeof host);
        else if (status == 0 && found->ai_family == AF_INET6)
            uv_ip6_name((const struct sockaddr_in6 *)(const void *)found->ai_addr, host, sizeof host);
        if (host[0] != '\0')
            connect_to(l, host);
        else
            lost(l, status != 0 ? uv_strerror(status) : "the host has no address");
    }
    if (found != NULL)
        uv_freeaddrinfo(found);
    keel_free(r);
}

static bool is_address(const char *host)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    return uv_ip4_addr(host, 0, &v4) == 0 || uv_ip6_addr(host, 0, &v6) == 0;
}

/* hiredis would look the name up on the loop thread; so it only ever gets addresses. */
static void begin(struct keel_link *l, int64_t now_ns)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    l->give_up_ns = now_ns + CONNECT_NS;
    l->at_sentinel = l->to.service[0] != '\0' && !l->knows_master;
    if (!l->knows_master)
        l->at = l->to.host[l->at_sentinel ? l->sentinel : 0];
    if (l->to.path[0] != '\0' || is_address(l->at.name)) {
        connect_to(l, l->to.path[0] != '\0' ? NULL : l->at.name);
        return;
    }
    struct resolving *r = keel_alloc(1, sizeof *r);
    r->link = l;
    r->req.data = r;
    if (uv_getaddrinfo(l->loop, &r->req, on_resolved, l->at.name, NULL, &hints) != 0) {
        keel_free(r);
        lost(l, "the host cannot be looked up");
        return;
    }
    l->resolving = r;
    l->state = RESOLVING;
}

static void watch_answers(struct keel_link *l, int64_t now_ns)
{
    bool late = l->first != NULL && now_ns > l->first->deadline_ns;
    /* After a stall of our own the answer may lie in the socket: the loop gets one turn to read it. */
    if (late && l->overdue)
        drop(l, "no answer");
    else
        l->overdue = late;
}

/* The sentinel has answered: its connection has served, and the one to the master begins at once. */
static void go_to_master(struct keel_link *l, int64_t now_ns)
{
    redisAsyncContext *ac = l->ac;
    l->state = AWAY;
    l->ac = NULL;
    l->has_unsent = false;
    ac->data = NULL;
    redisAsyncFree(ac);
    begin(l, now_ns);
}

void keel_link_tick(struct keel_link *l, int64_t now_ns)
{
    if (l->at_sentinel && l->knows_master && l->ac != NULL && !l->doomed)
        go_to_master(l, now_ns);
    else if (l->doomed && l->ac != NULL) {
        char why[sizeof l->why];
        memcpy(why, l->why, sizeof why);
        drop(l, why);
    } else if (l->state == AWAY && l->ac == NULL && now_ns >= l->retry_at_ns) {
        begin(l, now_ns);
    } else if (l->state == CONNECTING && now_ns > l->give_up_ns) {
        drop(l, "no connection in time");
    } else if (l->state == UP) {
        watch_answers(l, now_ns);
    }
}

/* ---- life ---- */

bool keel_link_is_up(const struct keel_link *l)
{
    return l->state == UP && !l->doomed;
}

size_t keel_link_pending(const struct keel_link *l)
{
    return l->pending;
}

struct keel_link *keel_link_new(const struct keel_link_conf *conf)
{
    struct keel_link *l = keel_alloc(1, sizeof *l);
    l->loop = conf->loop;
    l->up = conf->up;
    l->down = conf->down;
    l->ctx = conf->ctx;
    snprintf(l->name, sizeof l->name, "%s", conf->name);
    keel_assert(keel_redis_url_parse(conf->url, &l->to) == NULL);
    if (l->to.is_tls)
        keel_assert((l->tls = keel_tls_new(&l->to)) != NULL);
    keel_rng_seed(&l->rng, (uint64_t)keel_mono_ns() ^ ((uint64_t)getpid() << 40) ^ (uint64_t)(uintptr_t)l);
    return l;
}

void keel_link_free(struct keel_link *l)
{
    if (l == NULL)
        return;
    l->up = l->down = NULL;
    l->state = AWAY;
    if (l->ac != NULL) {
        redisAsyncContext *ac = l->ac;
        l->ac = NULL;
        ac->data = NULL;
        redisAsyncFree(ac);
    }
    if (l->resolving != NULL) {
        l->resolving->link = NULL;
        uv_cancel((uv_req_t *)&l->resolving->req);
    }
    while (l->spare != NULL) {
        struct command *cmd = l->spare;
        l->spare = cmd->next;
        keel_free(cmd);
    }
    keel_tls_free(l->tls);
    keel_free(l);
}
