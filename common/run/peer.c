/*
 * Calls to other engines: libcurl's multi interface on the loop, connections kept alive, one
 * breaker a peer.
 *
 * Nothing but a GET is sent twice. libcurl would resend a request by itself when a kept connection turns out
 * to be dead; it asks before each sending, though, and for the second one of an unsafe request it hears no. Header and
 * body leave in one piece: in two, the peer's loop would wake twice for one request.
 *
 * A GET whose connection broke is asked once more (hybrid mode), within a budget of a tenth of the requests to that peer:
 * a peer that breaks all of them is not asked twice as often. What it answered, and a connection it refused, is final.
 */
#include "rt.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <curl/curl.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "keel/rng.h"

enum { MAX_REPLY = 8 << 20, MAX_PEERS = 16, IDLE_S = 30, KEPT = 32, MOMENT_NS = 1000000000 };

struct known {
    const char *name, *url;
    bool answered; /* ever */
    int64_t silent_ns; /* since when it has been asked all the time and has answered nothing; 0: it has */
    int64_t ended_ns;  /* the last request to it */
    int64_t told_ns;   /* when its breaker last heard that it was silent */
    uint32_t n_open;
    struct keel_retry_budget budget;
};

struct request {
    struct keel_peers *peers;
    CURL *easy;
    struct curl_slist *headers;
    char *body;
    size_t body_len;
    bool is_safe, was_begun; /* was_begun: libcurl has asked whether it may send it */
    char *reply;
    size_t reply_len, reply_cap;
    bool too_big;
    enum keel_status refused; /* != KEEL_OK: never handed to libcurl */
    struct keel_permit permit;
    bool has_permit;
    bool may_retry;
    int64_t start_ns, deadline_ns;
    struct known *peer; /* NULL: nobody we know, so it is refused */
    keel_reply_fn *done;
    void *ctx;
    struct request *next, **link;
};

struct keel_peers {
    struct keel_rt *rt;
    CURLM *multi;
    uv_timer_t timer; /* libcurl's */
    uv_timer_t soon;  /* hands back what was refused, on the next turn */
    struct known known[MAX_PEERS];
    size_t n;
    struct request *running, *refused, **refused_end;
    struct keel_rng rng;
    bool closing;
    bool retries; /* in hybrid mode */
    int handles;
};

struct watch {
    uv_poll_t poll;
    struct keel_peers *peers;
    curl_socket_t fd;
};

/* ---- the request's life ---- */

static struct request *request_new(struct keel_peers *p, keel_reply_fn *done, void *ctx)
{
    struct request *r = keel_alloc(1, sizeof *r);
    r->peers = p;
    r->done = done;
    r->ctx = ctx;
    return r;
}

static void request_link(struct request *r)
{
    r->next = r->peers->running;
    r->link = &r->peers->running;
    if (r->next != NULL)
        r->next->link = &r->next;
    r->peers->running = r;
}

static void request_free(struct request *r)
{
    if (r->link != NULL) {
        *r->link = r->next;
        if (r->next != NULL)
            r->next->link = r->link;
    }
    if (r->easy != NULL) {
        curl_multi_remove_handle(r->peers->multi, r->easy);
        curl_easy_cleanup(r->easy);
    }
    curl_slist_free_all(r->headers);
    keel_free(r->body);
    keel_free(r->reply);
    keel_free(r);
}

/* A silence of which nobody has heard for a while is over. */
static void asked(struct known *k, int64_t now_ns)
{
    if (k->silent_ns == 0 || (k->n_open == 0 && now_ns - k->ended_ns > MOMENT_NS))
        k->silent_ns = now_ns;
    k->n_open++;
}

static void request_finish(struct request *r, struct keel_reply *reply, enum keel_outcome outcome)
{
    bool answered = r->peer != NULL && r->peer->answered;
    if (r->easy != NULL) {
        r->peer->n_open--;
        r->peer->ended_ns = keel_mono_ns();
    }
    /* Who has never answered is still starting: that must not open a breaker before the first call. */
    if (reply->status == KEEL_UNAVAILABLE && !answered)
        outcome = KEEL_OUT_CANCELLED;
    if (r->has_permit)
        keel_dep_settle(r->peers->rt, r->permit, outcome);
    reply->body = r->reply != NULL ? r->reply : "";
    reply->len = r->reply_len;
    r->done(r->peers->rt, r->ctx, reply);
    request_free(r);
}

static bool was_sent(CURL *easy)
{
    long bytes = 0;
    curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &bytes);
    return bytes > 0;
}

static enum keel_outcome outcome_of(int http)
{
    if (http < 500 || http == 503)
        return KEEL_OUT_OK;
    return http == 504 ? KEEL_OUT_SLOW : KEEL_OUT_FAILURE;
}

/*
 * Who does not answer within what the caller could spare is slow; a failure is who has answered nobody for longer than a
 * moment. Those who waited together say it once: a second of silence that sixty orders hear is no worse than one that three
 * do. Otherwise a disk that is away for a fifth of a second would stop all orders for ten.
 */
static enum keel_outcome silence_of(const struct request *r)
{
    struct known *k = r->peer;
    int64_t now = keel_mono_ns();
    if (!r->has_permit || r->start_ns < k->told_ns)
        return KEEL_OUT_CANCELLED;
    k->told_ns = now;
    return now - k->silent_ns > MOMENT_NS ? KEEL_OUT_TIMEOUT : KEEL_OUT_SLOW;
}

/* X-Deadline-Ms of a repeat: it only shrinks, so the line it stands in has room. */
static void deadline_lower(struct request *r, long left_ms)
{
    static const char name[] = "X-Deadline-Ms:";
    for (struct curl_slist *line = r->headers; line != NULL; line = line->next)
        if (strncmp(line->data, name, sizeof name - 1) == 0)
            snprintf(line->data, strlen(line->data) + 1, "%s %ld", name, left_ms);
}

static bool is_broken(CURLcode code)
{
    return code == CURLE_GOT_NOTHING || code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR ||
           code == CURLE_PARTIAL_FILE;
}

/* The breaker hears of the first attempt and may forbid the second, which needs as much time as the first took. */
static bool retry(struct request *r, CURLcode code)
{
    struct keel_peers *p = r->peers;
    struct keel_refusal why = {0};
    int64_t now = keel_mono_ns(), left = r->deadline_ns - now;
    uint32_t dep = r->permit.target;
    if (!r->may_retry || !is_broken(code) || left <= now - r->start_ns || left < 1000000 || p->closing)
        return false;
    r->may_retry = false;
    if (r->has_permit) {
        r->has_permit = false;
        keel_dep_settle(p->rt, r->permit, KEEL_OUT_FAILURE);
        if (keel_dep_admit(p->rt, dep, &r->permit, &why) != KEEL_OK)
            return false;
        r->has_permit = true;
    }
    if (!keel_retry_take(&r->peer->budget, now)) {
        if (r->has_permit)
            keel_dep_settle(p->rt, r->permit, KEEL_OUT_CANCELLED);
        r->has_permit = false;
        return false;
    }
    curl_multi_remove_handle(p->multi, r->easy);
    r->reply_len = 0;
    deadline_lower(r, (long)((left + 999999) / 1000000));
    curl_easy_setopt(r->easy, CURLOPT_FRESH_CONNECT, 1L); /* and so libcurl does not send it again by itself */
    curl_easy_setopt(r->easy, CURLOPT_TIMEOUT_MS, (long)((left + 999999) / 1000000));
    keel_assert(curl_multi_add_handle(p->multi, r->easy) == CURLM_OK);
    return true;
}

static void request_done(struct request *r, CURLcode code)
{
    if (code != CURLE_OK && retry(r, code))
        return;
    struct keel_reply reply = {.status = KEEL_OK};
    enum keel_outcome outcome = KEEL_OUT_FAILURE;
    if (code == CURLE_OK) {
        long http = 0;
        curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &http);
        reply.http = (int)http;
        outcome = outcome_of(reply.http);
        r->peer->answered = true;
        r->peer->silent_ns = 0;
    } else {
        bool timeout = code == CURLE_OPERATION_TIMEDOUT;
        r->reply_len = 0;
        if (r->reply != NULL)
            r->reply[0] = '\0';
        reply.status = !was_sent(r->easy) ? KEEL_UNAVAILABLE
                       : timeout          ? KEEL_TIMEOUT
                                          : KEEL_UPSTREAM;
        outcome = timeout ? silence_of(r) : KEEL_OUT_FAILURE;
        const char *url = "";
        curl_easy_getinfo(r->easy, CURLINFO_EFFECTIVE_URL, &url);
        keel_log_often(KEEL_LOG_WARN, "peer_failed", "url=%s detail=%s", url,
                       r->too_big ? "the answer exceeds 8 MiB" : curl_easy_strerror(code));
    }
    request_finish(r, &reply, outcome);
}

static void collect(struct keel_peers *p)
{
    CURLMsg *msg;
    int left;
    while ((msg = curl_multi_info_read(p->multi, &left)) != NULL) {
        char *self = NULL;
        if (msg->msg != CURLMSG_DONE)
            continue;
        CURLcode code = msg->data.result;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &self);
        request_done((struct request *)(void *)self, code);
    }
}

/* ---- libcurl on the loop ---- */

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct watch *w = poll->data;
    struct keel_peers *p = w->peers;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0, running;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    curl_multi_socket_action(p->multi, w->fd, flags, &running);
    collect(p);
}

static void on_watch_closed(uv_handle_t *handle)
{
    keel_free(handle->data);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    struct keel_peers *p = ctx;
    struct watch *w = socket_ctx;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w != NULL) {
            curl_multi_assign(p->multi, fd, NULL);
            uv_close((uv_handle_t *)&w->poll, on_watch_closed);
        }
        return 0;
    }
    if (w == NULL) {
        w = keel_alloc(1, sizeof *w);
        w->peers = p;
        w->fd = fd;
        if (uv_poll_init_socket(p->rt->loop, &w->poll, fd) != 0) {
            keel_free(w);
            return -1;
        }
        w->poll.data = w;
        curl_multi_assign(p->multi, fd, w);
    }
    int events = 0;
    if (what & CURL_POLL_IN)
        events |= UV_READABLE;
    if (what & CURL_POLL_OUT)
        events |= UV_WRITABLE;
    uv_poll_start(&w->poll, events, on_poll);
    return 0;
}

static void on_timer(uv_timer_t *timer)
{
    struct keel_peers *p = timer->data;
    int running;
    curl_multi_socket_action(p->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(p);
}

static int on_timeout_wanted(CURLM *multi, long ms, void *ctx)
{
    struct keel_peers *p = ctx;
    (void)multi;
    if (p->closing)
        return 0;
    if (ms < 0)
        uv_timer_stop(&p->timer);
    else
        uv_timer_start(&p->timer, on_timer, (uint64_t)ms, 0);
    return 0;
}

static int before_sending(void *ctx, char *to, char *from, int to_port, int from_port)
{
    struct request *r = ctx;
    bool may = r->is_safe || !r->was_begun;
    (void)to;
    (void)from;
    (void)to_port;
    (void)from_port;
    r->was_begun = true;
    return may ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

static size_t on_reply_bytes(char *from, size_t size, size_t n, void *ctx)
{
    struct request *r = ctx;
    size_t bytes = size * n;
    if (bytes > MAX_REPLY - r->reply_len) {
        r->too_big = true;
        return 0;
    }
    if (r->reply_len + bytes + 1 > r->reply_cap) {
        r->reply_cap = (r->reply_len + bytes + 1) * 2;
        r->reply = keel_realloc(r->reply, r->reply_cap, 1);
    }
    memcpy(r->reply + r->reply_len, from, bytes);
    r->reply_len += bytes;
    r->reply[r->reply_len] = '\0';
    return bytes;
}

/* ---- sending ---- */

static void header_add(struct request *r, const char *name, const char *value)
{
    size_t cap = strlen(name) + strlen(value) + 3;
    char *line = keel_alloc(cap, 1);
    /* A name without value takes the header away that libcurl would send. */
    snprintf(line, cap, value[0] != '\0' ? "%s: %s" : "%s:", name, value);
    struct curl_slist *longer = curl_slist_append(r->headers, line);
    keel_assert(longer != NULL);
    r->headers = longer;
    keel_free(line);
}

static void headers_set(struct request *r, const struct keel_peer_req *req, const char *traceparent,
                        long left_ms)
{
    const struct keel_core_options *core = r->peers->rt->core;
    char text[320];
    header_add(r, "Accept", "application/json");
    header_add(r, "Expect", "");
    if (req->body != NULL)
        header_add(r, "Content-Type", "application/json");
    if (req->authorization != NULL && req->authorization[0] != '\0') {
        header_add(r, "Authorization", req->authorization);
    } else if (req->authorization == NULL && core->engine_token != NULL &&
               core->engine_token[0] != '\0') {
        snprintf(text, sizeof text, "Bearer %s", core->engine_token);
        header_add(r, "Authorization", text);
    }
    if (traceparent != NULL)
        header_add(r, "traceparent", traceparent);
    snprintf(text, sizeof text, "%ld", left_ms);
    header_add(r, "X-Deadline-Ms", text);
}

static bool is_safe(const char *method)
{
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
}

static void easy_set(struct request *r, const struct keel_peer_req *req, const char *url,
                     long left_ms)
{
    CURL *e = r->easy;
    curl_easy_setopt(e, CURLOPT_URL, url);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, left_ms);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, left_ms);
    /* Below the server's own idle timeout, so that it is seldom the server that closes first. */
    curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, (long)IDLE_S);
    curl_easy_setopt(e, CURLOPT_PRIVATE, r);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, r->headers);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_reply_bytes);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, r);
    if (r->body != NULL) {
        curl_easy_setopt(e, CURLOPT_POST, 1L);
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_len);
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, r->body);
    }
    curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, before_sending);
    curl_easy_setopt(e, CURLOPT_PREREQDATA, r);
    curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, req->method);
}

static uint32_t dep_of(const struct keel_rt *rt, const char *peer)
{
    char name[64];
    snprintf(name, sizeof name, "dep.peer.%s", peer);
    for (uint32_t i = 0; i < rt->n_targets; i++)
        if (strcmp(rt->targets[i].name, name) == 0)
            return i;
    return UINT32_MAX; /* not one of the engine's peers: no breaker */
}

static void on_soon(uv_timer_t *timer)
{
    struct keel_peers *p = timer->data;
    struct request *list = p->refused;
    p->refused = NULL;
    p->refused_end = &p->refused;
    while (list != NULL) {
        struct request *r = list;
        list = r->next;
        r->next = NULL;
        struct keel_reply reply = {.status = r->refused};
        request_finish(r, &reply, KEEL_OUT_CANCELLED);
    }
}

static void refuse(struct request *r, enum keel_status st)
{
    struct keel_peers *p = r->peers;
    r->refused = st;
    *p->refused_end = r;
    p->refused_end = &r->next;
    if (!p->closing)
        uv_timer_start(&p->soon, on_soon, 0, 0);
}

static int64_t left_of(struct keel_rt *rt, const struct keel_peer_req *req, int64_t deadline_ns,
                       int64_t now_ns)
{
    int64_t timeout_ms =
        rt->engine->breaker.call_timeout_ms > 0 ? rt->engine->breaker.call_timeout_ms : 30000;
    int64_t left = timeout_ms * 1000000;
    if (req->budget_ns > 0 && req->budget_ns < left)
        left = req->budget_ns;
    if (deadline_ns != INT64_MAX && deadline_ns - now_ns < left)
        left = deadline_ns - now_ns;
    return left;
}

/* false, with nothing begun, when the address is too long. */
static bool request_start(struct request *r, const struct keel_peer_req *req, const char *base,
                          const char *traceparent, int64_t left_ns)
{
    char url[2048];
    size_t base_len = strlen(base);
    while (base_len > 0 && base[base_len - 1] == '/')
        base_len--;
    int len = snprintf(url, sizeof url, "%.*s%s", (int)base_len, base, req->path);
    long left_ms = (long)((left_ns + 999999) / 1000000);
    if (len < 0 || (size_t)len >= sizeof url)
        return false;
    if (req->body != NULL) {
        r->body = keel_alloc(req->body_len + 1, 1);
        memcpy(r->body, req->body, req->body_len);
        r->body_len = req->body_len;
    }
    r->easy = curl_easy_init();
    keel_assert(r->easy != NULL);
    headers_set(r, req, traceparent, left_ms);
    easy_set(r, req, url, left_ms);
    request_link(r);
    asked(r->peer, r->start_ns);
    keel_assert(curl_multi_add_handle(r->peers->multi, r->easy) == CURLM_OK);
    return true;
}

static struct known *known_of(struct keel_rt *rt, const char *name)
{
    for (size_t i = 0; rt->peers != NULL && i < rt->peers->n; i++)
        if (strcmp(rt->peers->known[i].name, name) == 0)
            return &rt->peers->known[i];
    return NULL;
}

void keel_peer_fetch(struct keel_rt *rt, const struct keel_peer_req *req, int64_t deadline_ns,
                     const char *traceparent, keel_reply_fn *done, void *ctx)
{
    keel_assert(rt->peers != NULL);
    keel_lease_hold(rt, keel_mono_ns());
    struct request *r = request_new(rt->peers, done, ctx);
    r->peer = known_of(rt, req->peer);
    const char *base = r->peer != NULL ? r->peer->url : NULL;
    int64_t left_ns = left_of(rt, req, deadline_ns, keel_mono_ns());
    uint32_t dep = req->probe ? UINT32_MAX : dep_of(rt, req->peer);
    struct keel_refusal why = {.status = KEEL_OPEN};
    if (base == NULL || left_ns <= 0 || rt->peers->closing) {
        refuse(r, KEEL_UNAVAILABLE);
        return;
    }
    if (dep != UINT32_MAX) {
        if (keel_dep_admit(rt, dep, &r->permit, &why) != KEEL_OK) {
            refuse(r, KEEL_OPEN);
            return;
        }
        r->has_permit = true;
    }
    r->start_ns = keel_mono_ns();
    r->deadline_ns = r->start_ns + left_ns;
    r->is_safe = is_safe(req->method);
    r->may_retry = rt->peers->retries && r->is_safe && !req->probe;
    keel_retry_request(&r->peer->budget, r->start_ns);
    if (!request_start(r, req, base, traceparent, left_ns))
        refuse(r, KEEL_UNAVAILABLE);
}

/* ---- as a wait of a call ---- */

struct waiter {
    uint64_t token;
};

static void wake_with_reply(struct keel_rt *rt, void *ctx, const struct keel_reply *reply)
{
    struct waiter *w = ctx;
    uint64_t token = w->token;
    struct keel_call *c = keel_call_of(rt, token);
    keel_free(w);
    if (c == NULL)
        return;
    c->peer = *reply;
    c->peer.body = keel_arena_strndup(c->arena, reply->body, reply->len);
    c->peer.json = NULL;
    const char *why;
    if (reply->len > 0)
        keel_json_parse(c->arena, c->peer.body, reply->len, &c->peer.json, &why);
    keel_wake(rt, token, reply->status);
}

/* A new span of the call's trace. */
static const char *span_of(struct keel_call *c)
{
    const char *trace = keel_trace_id(c);
    if (trace == NULL || trace[0] == '\0')
        return NULL;
    uint64_t span = keel_rng_u64(&c->rt->peers->rng) | 1u;
    return keel_arena_printf(c->arena, "00-%s-%016llx-01", trace, (unsigned long long)span);
}

enum keel_status keel_await_peer(struct keel_call *c, const struct keel_peer_req *req,
                                 keel_step_fn *next)
{
    struct waiter *w = keel_alloc(1, sizeof *w);
    keel_await_wake(c, next, &w->token);
    keel_peer_fetch(c->rt, req, c->deadline_ns, span_of(c), wake_with_reply, w);
    return KEEL_WAIT;
}

/* ---- opening and closing ---- */

static void on_timer_closed(uv_handle_t *handle)
{
    struct keel_peers *p = handle->data;
    if (--p->handles == 0)
        keel_free(p);
}

enum keel_status keel_peers_open(struct keel_rt *rt, const char *const *names,
                                 const char *const *urls, size_t n)
{
    struct keel_peers *p = keel_alloc(1, sizeof *p);
    keel_assert(n <= MAX_PEERS);
    keel_assert(curl_global_init(CURL_GLOBAL_NOTHING) == CURLE_OK);
    p->rt = rt;
    p->retries = rt->guard != NULL && rt->guard->hybrid;
    p->multi = curl_multi_init();
    keel_assert(p->multi != NULL);
    p->refused_end = &p->refused;
    p->n = n;
    for (size_t i = 0; i < n; i++) {
        p->known[i].name = names[i];
        p->known[i].url = urls[i];
    }
    keel_rng_seed(&p->rng, (uint64_t)keel_wall_ns() ^ ((uint64_t)getpid() << 40));
    uv_timer_init(rt->loop, &p->timer);
    uv_timer_init(rt->loop, &p->soon);
    p->timer.data = p->soon.data = p;
    p->handles = 2;
    curl_multi_setopt(p->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(p->multi, CURLMOPT_SOCKETDATA, p);
    curl_multi_setopt(p->multi, CURLMOPT_TIMERFUNCTION, on_timeout_wanted);
    curl_multi_setopt(p->multi, CURLMOPT_TIMERDATA, p);
    curl_multi_setopt(p->multi, CURLMOPT_MAXCONNECTS, (long)KEPT);
    rt->peers = p;
    return KEEL_OK;
}

void keel_peers_close(struct keel_rt *rt)
{
    struct keel_peers *p = rt->peers;
    if (p == NULL)
        return;
    p->closing = true;
    while (p->running != NULL) {
        struct request *r = p->running;
        struct keel_reply reply = {.status = was_sent(r->easy) ? KEEL_UPSTREAM : KEEL_UNAVAILABLE};
        r->reply_len = 0;
        request_finish(r, &reply, KEEL_OUT_CANCELLED);
    }
    while (p->refused != NULL)
        on_soon(&p->soon);
    curl_multi_cleanup(p->multi);
    curl_global_cleanup();
    rt->peers = NULL;
    uv_close((uv_handle_t *)&p->timer, on_timer_closed);
    uv_close((uv_handle_t *)&p->soon, on_timer_closed);
}

/* main.c gives the address of every engine, from its option. */
const char *keel_peer_url(struct keel_rt *rt, const char *engine)
{
    const struct known *k = known_of(rt, engine);
    return k != NULL ? k->url : NULL;
}

/* ---- what is shown ---- */

void keel_peers_json(struct keel_rt *rt, struct keel_json *w)
{
    const struct keel_peers *p = rt->peers;
    keel_json_obj(w, "peers");
    for (size_t i = 0; p != NULL && i < p->n; i++) {
        if (p->known[i].budget.n_requests == 0)
            continue;
        keel_json_obj(w, p->known[i].name);
        keel_json_u64(w, "requests", p->known[i].budget.n_requests);
        keel_json_u64(w, "retries", p->known[i].budget.n_retried);
        keel_json_u64(w, "retries_refused", p->known[i].budget.n_refused);
        keel_json_end(w);
    }
    keel_json_end(w);
}

void keel_peers_metrics(struct keel_rt *rt, struct keel_text *out)
{
    static const char *const family[] = {"requests", "retries", "retries_refused"};
    const struct keel_peers *p = rt->peers;
    for (size_t f = 0; f < KEEL_COUNT(family); f++) {
        keel_text_add(out, "# TYPE keel_peer_%s_total counter\n", family[f]);
        for (size_t i = 0; p != NULL && i < p->n; i++) {
            const struct keel_retry_budget *b = &p->known[i].budget;
            const uint64_t n[] = {b->n_requests, b->n_retried, b->n_refused};
            if (b->n_requests != 0)
                keel_text_add(out, "keel_peer_%s_total{engine=\"%s\",peer=\"%s\"} %llu\n", family[f],
                              rt->engine->name, p->known[i].name, (unsigned long long)n[f]);
        }
    }
}
