/*
 * WebSocket sessions on the loop. http.c hands over the socket of an upgrade; from there frames are read and written
 * here.
 *
 * Sending: a push puts a reference to a shared block into the session's own ring. Before the loop blocks, each
 * session that got something composes its frames into one buffer and sends once. What the socket does not take stays
 * in the ring, which is bounded in messages and bytes; a session that stays full is closed as a slow client.
 */
#include "call_priv.h"
#include "ws_priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "keel/ws.h"
#include "keel/ws_frame.h"

enum {
    MAX_MESSAGE = 64 * 1024,
    MOST_BLOCKS = 512,            /* that wait for one client ... */
    MOST_BYTES = 1024 * 1024,     /* ... and what they hold */
    FIRST_RING = 16,
    COMPOSE = 256 * 1024,         /* of one send */
    READ = 64 * 1024,
    SEND_BUFFER = 64 * 1024,      /* the kernel's share: a client that does not read is seen soon */
    STAMP_ROOM = 64,
    MOST_FRAMES = 64,             /* calls of one session in flight */
    SWEEP_MS = 200,
    MISSED_PONGS = 2,
    LINGER_MS = 5000,             /* a close frame that was sent waits for its answer */
    SLOW_LINGER_MS = 60000,       /* one that was not yet sent, for the client to read what is before it */
    DRAIN_MS = 1000
};

struct keel_ws_block {
    uint32_t refs;
    enum keel_ws_opcode opcode;
    bool is_stamped;
    int64_t stamp_ns;
    size_t len;
    char text[];
};

struct item { struct keel_ws_block *block; uint64_t number; };

enum state { UPGRADING, OPEN, CLOSING, ENDED };

struct keel_ws {
    struct keel_ws *prev, *next;
    struct keel_wss *all;
    const struct keel_op *op, *frame_op;
    const struct keel_ws_hooks *hooks;
    void *ctx;
    char id[24];
    enum state state;
    uv_poll_t poll;
    int fd, events;
    struct keel_ws_upgrade upgrade;
    struct keel_ws_decoder decoder;
    /* what waits */
    struct item *ring;
    size_t cap, head, n, bytes, sent_of_first;
    bool is_dirty, is_blocked, has_no_bound;
    /* closing */
    bool close_queued, peer_closed, is_cut;
    int64_t refused_ns, closing_ns, ping_ns; /* monotonic */
    int unanswered;
    size_t n_holds;           /* calls of its frames, and its handle while that closes */
    struct keel_ws_info info;
    uint64_t number;
};

struct keel_wss {
    struct keel_rt *rt;
    struct keel_ws *sessions;
    size_t n, n_closing_handles;
    struct keel_ws **dirty;
    size_t n_dirty, dirty_cap, turn;
    uint64_t serial;
    uv_prepare_t prepare;
    uv_timer_t sweep;
    int64_t draining_ns;
    bool is_closing;
    char in[READ], out[COMPOSE];
};

/* ---- blocks ---- */

static struct keel_ws_block *new_block(enum keel_ws_opcode opcode, const char *text, size_t len)
{
    struct keel_ws_block *b = keel_alloc(1, sizeof *b + len);

    b->refs = 1;
    b->opcode = opcode;
    b->len = len;
    if (len > 0)
        memcpy(b->text, text, len);
    return b;
}

struct keel_ws_block *keel_ws_block_new(const char *json, size_t len, enum keel_ws_stamp stamp, int64_t stamp_ns)
{
    struct keel_ws_block *b = new_block(KEEL_WS_TEXT, json, len);

    b->is_stamped = stamp == KEEL_WS_STAMPED;
    b->stamp_ns = stamp_ns;
    keel_assert(!b->is_stamped || (len > 2 && json[0] == '{' && json[1] != '}'));
    return b;
}

struct keel_ws_block *keel_ws_block_keep(struct keel_ws_block *b)
{
    b->refs++;
    return b;
}

void keel_ws_block_drop(struct keel_ws_block *b)
{
    if (b != NULL && --b->refs == 0)
        keel_free(b);
}

/* ---- a session's queue ---- */

static void mark_dirty(struct keel_ws *ws)
{
    struct keel_wss *all = ws->all;

    if (ws->is_dirty || ws->is_blocked || ws->state == UPGRADING)
        return;
    if (all->n_dirty == all->dirty_cap) {
        all->dirty_cap = all->dirty_cap == 0 ? 64 : 2 * all->dirty_cap;
        all->dirty = keel_realloc(all->dirty, all->dirty_cap, sizeof(struct keel_ws *));
    }
    ws->is_dirty = true;
    all->dirty[all->n_dirty++] = ws;
}

static void enqueue(struct keel_ws *ws, struct keel_ws_block *b)
{
    if (ws->n == ws->cap) {
        size_t cap = ws->cap == 0 ? FIRST_RING : 2 * ws->cap;
        struct item *ring = keel_alloc(cap, sizeof *ring);
        for (size_t i = 0; i < ws->n; i++)
            ring[i] = ws->ring[(ws->head + i) % ws->cap];
        keel_free(ws->ring);
        ws->ring = ring;
        ws->cap = cap;
        ws->head = 0;
    }
    ws->ring[(ws->head + ws->n++) % ws->cap] =
        (struct item){keel_ws_block_keep(b), b->is_stamped ? ++ws->number : 0};
    ws->bytes += b->len;
    mark_dirty(ws);
}

static void dequeue(struct keel_ws *ws)
{
    struct keel_ws_block *b = ws->ring[ws->head].block;

    ws->bytes -= b->len;
    ws->head = (ws->head + 1) % ws->cap;
    ws->n--;
    keel_ws_block_drop(b);
}

static bool has_room(const struct keel_ws *ws, size_t len)
{
    return ws->has_no_bound || (ws->n < MOST_BLOCKS && ws->bytes + len <= MOST_BYTES);
}

/* Without a bound: what the protocol itself owes the client, at most a handful at a time. */
static void enqueue_own(struct keel_ws *ws, enum keel_ws_opcode opcode, const char *data, size_t len)
{
    struct keel_ws_block *b = new_block(opcode, data, len);

    enqueue(ws, b);
    keel_ws_block_drop(b);
}

/* ---- ending ---- */

static void tell_closed(struct keel_ws *ws)
{
    const struct keel_ws_hooks *hooks = ws->hooks;

    ws->hooks = NULL;
    if (hooks != NULL && hooks->closed != NULL)
        hooks->closed(ws->all->rt, ws);
}

static void free_if_over(struct keel_ws *ws)
{
    if (ws->state != ENDED || ws->n_holds > 0 || ws->is_dirty)
        return;
    keel_free(ws);
}

static void handle_closed(struct keel_wss *all)
{
    if (--all->n_closing_handles > 0 || !all->is_closing)
        return;
    keel_free(all->dirty);
    keel_free(all);
}

static void on_poll_closed(uv_handle_t *handle)
{
    struct keel_ws *ws = handle->data;

    struct keel_wss *all = ws->all;

    ws->n_holds--; /* the handle's own */
    free_if_over(ws);
    handle_closed(all);
}

static void forget(struct keel_ws *ws)
{
    struct keel_wss *all = ws->all;

    while (ws->n > 0)
        dequeue(ws);
    keel_free(ws->ring);
    keel_ws_decoder_fini(&ws->decoder);
    if (ws->prev != NULL)
        ws->prev->next = ws->next;
    else
        all->sessions = ws->next;
    if (ws->next != NULL)
        ws->next->prev = ws->prev;
    all->n--;
    ws->state = ENDED;
}

/* The socket goes back to the server, which closes it. */
static void end(struct keel_ws *ws)
{
    if (ws->state == ENDED)
        return;
    tell_closed(ws);
    uv_poll_stop(&ws->poll);
    uv_close((uv_handle_t *)&ws->poll, on_poll_closed);
    ws->all->n_closing_handles++;
    ws->n_holds++;
    forget(ws);
    ws->upgrade.give_back(ws->upgrade.ctx);
}

void keel_ws_close(struct keel_ws *ws, uint16_t code, const char *reason)
{
    char payload[KEEL_WS_MAX_CONTROL];

    if (ws->close_queued || ws->state == ENDED)
        return;
    ws->close_queued = true;
    enqueue_own(ws, KEEL_WS_CLOSE, payload, keel_ws_close_payload(payload, code, reason));
    ws->closing_ns = keel_mono_ns();
    if (ws->state == OPEN)
        ws->state = CLOSING;
    tell_closed(ws);
}

/* ---- sending ---- */

static size_t put_prefix(const struct keel_ws *ws, const struct item *it, char *out)
{
    if (!it->block->is_stamped)
        return 0;
    return (size_t)snprintf(out, STAMP_ROOM, "{\"message_id\":\"%s-%llu\",", ws->id, (unsigned long long)it->number);
}

/* One frame; out has room for it. The same each time, so a frame of which a part was sent can be made again. */
static size_t compose_one(const struct keel_ws *ws, const struct item *it, char *out)
{
    const struct keel_ws_block *b = it->block;
    char prefix[STAMP_ROOM];
    size_t n = put_prefix(ws, it, prefix), skip = b->is_stamped ? 1 : 0, at;

    at = keel_ws_header((unsigned char *)out, b->opcode, n + b->len - skip);
    memcpy(out + at, prefix, n);
    memcpy(out + at + n, b->text + skip, b->len - skip);
    return at + n + b->len - skip;
}

static size_t most_size(const struct item *it)
{
    return it->block->len + STAMP_ROOM + KEEL_WS_MAX_HEADER;
}

static void watch(struct keel_ws *ws);

/* The first `sent` bytes of the composed frames are the kernel's now. */
static void account(struct keel_ws *ws, const size_t *sizes, size_t n, size_t sent)
{
    int64_t now = keel_wall_ns();

    for (size_t i = 0; i < n && sent >= sizes[i]; i++) {
        const struct keel_ws_block *b = ws->ring[ws->head].block;
        sent -= sizes[i];
        if (b->opcode == KEEL_WS_TEXT)
            ws->info.sent++;
        if (b->stamp_ns != 0)
            keel_observe(ws->all->rt, "delivery", now - b->stamp_ns);
        dequeue(ws);
        ws->sent_of_first = 0;
    }
    ws->sent_of_first += sent;
}

/* One send of what fits. False: the socket takes no more for now, or it is broken. */
static bool send_some(struct keel_ws *ws)
{
    char *out = ws->all->out, *made = out;
    size_t sizes[MOST_BLOCKS], n = 0, len = 0, skip = ws->sent_of_first;
    ssize_t sent;

    if (most_size(&ws->ring[ws->head]) > COMPOSE) /* larger than usual: by itself */
        made = keel_alloc(1, most_size(&ws->ring[ws->head]));
    for (; n < ws->n && n < MOST_BLOCKS; n++) {
        const struct item *it = &ws->ring[(ws->head + n) % ws->cap];
        if (n > 0 && (made != out || len + most_size(it) > COMPOSE))
            break;
        size_t size = compose_one(ws, it, made + len);
        sizes[n] = n == 0 ? size - skip : size;
        len += size;
    }
    do
        sent = send(ws->fd, made + skip, len - skip, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (made != out)
        keel_free(made);
    if (sent < 0) {
        ws->is_cut = errno != EAGAIN && errno != EWOULDBLOCK;
        return false;
    }
    account(ws, sizes, n, (size_t)sent);
    return (size_t)sent == len - skip;
}

static void say_drained(struct keel_ws *ws)
{
    if (ws->refused_ns == 0 || ws->n > MOST_BLOCKS / 2 || ws->bytes > MOST_BYTES / 2)
        return;
    ws->refused_ns = 0;
    if (ws->hooks != NULL && ws->hooks->drained != NULL)
        ws->hooks->drained(ws->all->rt, ws);
}

/* After the close frame was sent: what the client still sends is read and forgotten, or a reset could overtake it. */
static void after_close_frame(struct keel_ws *ws)
{
    if (ws->peer_closed) {
        end(ws);
        return;
    }
    ws->closing_ns = keel_mono_ns();
    if (ws->decoder.has_failed)
        shutdown(ws->fd, SHUT_WR);
}

static void flush(struct keel_ws *ws)
{
    if (ws->state == UPGRADING || ws->state == ENDED)
        return;
    while (ws->n > 0 && !ws->is_cut) {
        bool all_of_it = send_some(ws);
        if (!all_of_it || ws->n == 0)
            say_drained(ws); /* may push more */
        if (!all_of_it)
            break;
    }
    if (ws->is_cut) {
        end(ws);
        return;
    }
    ws->is_blocked = ws->n > 0;
    watch(ws);
    if (ws->n == 0 && ws->close_queued)
        after_close_frame(ws);
}

bool keel_ws_push(struct keel_ws *ws, struct keel_ws_block *b)
{
    if (ws->close_queued || ws->state == ENDED)
        return false;
    if (!has_room(ws, b->len) && ws->state == OPEN && !ws->is_blocked) {
        while (ws->n > 0 && !ws->is_cut && send_some(ws)) {
        }
        ws->is_blocked = ws->n > 0 && !ws->is_cut;
        mark_dirty(ws); /* a broken one ends in its flush */
        if (ws->is_blocked)
            watch(ws);
    }
    if (!has_room(ws, b->len)) {
        ws->info.refused++;
        if (ws->refused_ns == 0)
            ws->refused_ns = keel_mono_ns();
        return false;
    }
    enqueue(ws, b);
    return true;
}

/* Before the loop blocks: one send for each session that got something. Each turn begins with another one. */
static void on_prepare(uv_prepare_t *handle)
{
    struct keel_wss *all = handle->data;
    size_t n = all->n_dirty, first;

    if (n == 0)
        return;
    first = all->turn++ % n;
    for (size_t i = 0; i < n; i++) {
        struct keel_ws *ws = all->dirty[(first + i) % n];
        ws->is_dirty = false;
        all->dirty[(first + i) % n] = NULL;
        if (!ws->is_blocked)
            flush(ws);
        free_if_over(ws);
    }
    /* What a flush made dirty anew stands behind the first n. */
    memmove(all->dirty, all->dirty + n, (all->n_dirty - n) * sizeof(struct keel_ws *));
    all->n_dirty -= n;
}

/* ---- receiving ---- */

struct frame { struct keel_ws *ws; size_t len; char text[]; };

static void push_error(struct keel_ws *ws, const char *code, const char *detail)
{
    struct keel_arena *a = keel_arena_new(1024);
    struct keel_ws_block *b;
    struct keel_json w;

    keel_json_init(&w, a, 512);
    keel_json_obj(&w, NULL);
    keel_json_str(&w, "type", "error");
    keel_json_str(&w, "topic", "connection");
    keel_json_obj(&w, "data");
    keel_json_str(&w, "code", code);
    keel_json_str(&w, "detail", detail);
    keel_json_end(&w);
    keel_json_time(&w, "timestamp", keel_wall_ns());
    keel_json_end(&w);
    b = keel_ws_block_new(keel_json_text(&w), w.len, KEEL_WS_STAMPED, 0);
    keel_ws_push(ws, b);
    keel_ws_block_drop(b);
    keel_arena_free(a);
}

static void on_frame_settled(void *ctx, struct keel_call *call, enum keel_status st)
{
    struct frame *f = ctx;
    struct keel_ws *ws = f->ws;
    const char *code = NULL, *detail = NULL;

    ws->n_holds--;
    if (st != KEEL_OK && ws->state != ENDED) {
        keel_call_failure(call, &code, &detail);
        push_error(ws, code != NULL ? code : keel_status_name(st), detail != NULL ? detail : keel_status_text(st));
    }
    keel_free(f);
    free_if_over(ws);
}

static void on_text(struct keel_ws *ws, const char *text, size_t len)
{
    struct frame *f;

    ws->info.received++;
    if (ws->frame_op == NULL || ws->n_holds >= MOST_FRAMES) {
        keel_ws_close(ws, 1008, ws->frame_op == NULL ? "takes_no_messages" : "too_many_messages");
        return;
    }
    f = keel_alloc(1, sizeof *f + len);
    f->ws = ws;
    f->len = len;
    memcpy(f->text, text, len);
    ws->n_holds++;
    keel_call_frame(ws->all->rt, ws->frame_op, ws, f->text, len, on_frame_settled, f);
}

static void on_close_frame(struct keel_ws *ws, uint16_t code)
{
    ws->peer_closed = true;
    keel_ws_close(ws, code, "");
    if (ws->n == 0)
        end(ws); /* ours was sent before */
}

static void on_event(struct keel_ws *ws, const struct keel_ws_event *ev)
{
    switch (ev->what) {
    case KEEL_WS_MESSAGE:
        if (ev->is_text)
            on_text(ws, ev->data, ev->len);
        else
            keel_ws_close(ws, 1003, "text_only");
        break;
    case KEEL_WS_GOT_PING:
        if (has_room(ws, ev->len))
            enqueue_own(ws, KEEL_WS_PONG, ev->data, ev->len);
        break;
    case KEEL_WS_GOT_PONG:
        ws->unanswered = 0;
        break;
    case KEEL_WS_GOT_CLOSE:
        on_close_frame(ws, ev->code);
        break;
    case KEEL_WS_FAILED:
        keel_ws_close(ws, ev->code, ev->data);
        break;
    case KEEL_WS_NOTHING:
        break;
    }
}

static void take_bytes(struct keel_ws *ws, const char *data, size_t n)
{
    struct keel_ws_event ev = {.what = KEEL_WS_NOTHING};

    do {
        size_t used = keel_ws_decode(&ws->decoder, data, n, &ev);
        data += used;
        n -= used;
        if (ws->close_queued && ev.what != KEEL_WS_GOT_CLOSE)
            continue; /* only the answer to our close matters now */
        on_event(ws, &ev);
    } while (ev.what != KEEL_WS_NOTHING && ws->state != ENDED);
}

static void on_readable(struct keel_ws *ws)
{
    ssize_t n = recv(ws->fd, ws->all->in, READ, MSG_DONTWAIT);

    if (n > 0)
        take_bytes(ws, ws->all->in, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        end(ws);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct keel_ws *ws = poll->data;

    if (status < 0) {
        end(ws);
        return;
    }
    if (events & UV_READABLE)
        on_readable(ws);
    if ((events & UV_WRITABLE) && ws->state != ENDED)
        flush(ws);
}

static void watch(struct keel_ws *ws)
{
    int events = UV_READABLE | (ws->is_blocked ? UV_WRITABLE : 0);

    if (events != ws->events && uv_poll_start(&ws->poll, events, on_poll) == 0)
        ws->events = events;
}

/* ---- the sweep: pings, stalled clients, closes that nobody answers ---- */

static void end_as_slow(struct keel_ws *ws)
{
    keel_log_often(KEEL_LOG_INFO, "slow_client", "session=%s queued=%zu refused=%llu", ws->id, ws->n,
                   (unsigned long long)ws->info.refused);
    ws->has_no_bound = true;
    ws->refused_ns = 0;
    if (ws->hooks != NULL && ws->hooks->drained != NULL)
        ws->hooks->drained(ws->all->rt, ws);
    keel_ws_close(ws, 1013, "slow_client");
    ws->has_no_bound = false;
}

static void sweep_open(struct keel_ws *ws, int64_t now)
{
    const struct keel_core_options *o = ws->all->rt->core;

    if (ws->refused_ns != 0 && now - ws->refused_ns >= o->ws_stalled_ms * KEEL_MS) {
        end_as_slow(ws);
    } else if (now - ws->ping_ns >= o->ws_ping_ms * KEEL_MS) {
        if (ws->unanswered == MISSED_PONGS) {
            keel_ws_close(ws, 1008, "no_pong");
            return;
        }
        ws->ping_ns = now;
        ws->unanswered++;
        enqueue_own(ws, KEEL_WS_PING, "keel", 4);
    }
}

static void on_sweep(uv_timer_t *timer)
{
    struct keel_wss *all = timer->data;
    int64_t now = keel_mono_ns(), waited;

    keel_tick_in(all->rt, timer, on_sweep, SWEEP_MS);
    for (struct keel_ws *ws = all->sessions, *next; ws != NULL; ws = next) {
        next = ws->next;
        waited = now - ws->closing_ns;
        if (ws->state == OPEN)
            sweep_open(ws, now);
        else if (ws->state == CLOSING && (waited >= (ws->n > 0 ? SLOW_LINGER_MS : LINGER_MS) * KEEL_MS ||
                                          (all->draining_ns != 0 && now - all->draining_ns >= DRAIN_MS * KEEL_MS)))
            end(ws);
    }
}

/* ---- between http.c and here ---- */

struct keel_ws *keel_ws_new(struct keel_rt *rt, const struct keel_op *op)
{
    struct keel_wss *all = rt->wss;
    struct keel_ws *ws = keel_alloc(1, sizeof *ws);
    char frame[96];

    ws->all = all;
    ws->op = op;
    ws->fd = -1;
    snprintf(frame, sizeof frame, "%s_frame", op->id);
    ws->frame_op = keel_op_find(rt, frame);
    snprintf(ws->id, sizeof ws->id, "c%llu", (unsigned long long)++all->serial);
    ws->info.opened_ns = keel_wall_ns();
    keel_ws_decoder_init(&ws->decoder, MAX_MESSAGE);
    ws->next = all->sessions;
    if (ws->next != NULL)
        ws->next->prev = ws;
    all->sessions = ws;
    all->n++;
    return ws;
}

void keel_ws_refused(struct keel_ws *ws)
{
    tell_closed(ws);
    forget(ws);
    free_if_over(ws);
}

void keel_ws_attach(struct keel_ws *ws, int fd, const char *extra, size_t n, struct keel_ws_upgrade upgrade)
{
    int size = SEND_BUFFER;

    ws->fd = fd;
    ws->upgrade = upgrade;
    ws->ping_ns = keel_mono_ns();
    ws->state = ws->close_queued ? CLOSING : OPEN;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    uv_poll_init(ws->all->rt->loop, &ws->poll, fd);
    ws->poll.data = ws;
    watch(ws);
    if (ws->n > 0)
        mark_dirty(ws);
    if (n > 0)
        take_bytes(ws, extra, n);
    if (ws->all->draining_ns != 0 && ws->state != ENDED)
        keel_ws_close(ws, 1001, "going_away");
}

/* ---- what an engine asks ---- */

void keel_ws_own(struct keel_ws *ws, const struct keel_ws_hooks *hooks, void *ctx)
{
    ws->hooks = hooks;
    ws->ctx = ctx;
}

void *keel_ws_ctx(const struct keel_ws *ws)
{
    return ws->ctx;
}

const char *keel_ws_id(const struct keel_ws *ws)
{
    return ws->id;
}

bool keel_ws_is_closing(const struct keel_ws *ws)
{
    return ws->close_queued || ws->state == ENDED;
}

struct keel_ws_info keel_ws_info(const struct keel_ws *ws)
{
    struct keel_ws_info info = ws->info;

    info.queued = ws->n;
    return info;
}

/* ---- opening and closing ---- */

void keel_wss_open(struct keel_rt *rt)
{
    struct keel_wss *all = keel_alloc(1, sizeof *all);

    all->rt = rt;
    uv_prepare_init(rt->loop, &all->prepare);
    uv_timer_init(rt->loop, &all->sweep);
    all->prepare.data = all->sweep.data = all;
    uv_prepare_start(&all->prepare, on_prepare);
    keel_tick_in(rt, &all->sweep, on_sweep, SWEEP_MS);
    rt->wss = all;
}

size_t keel_wss_live(const struct keel_rt *rt)
{
    return rt->wss != NULL ? rt->wss->n : 0;
}

void keel_wss_drain(struct keel_rt *rt)
{
    struct keel_wss *all = rt->wss;

    if (all == NULL || all->draining_ns != 0)
        return;
    all->draining_ns = keel_mono_ns();
    for (struct keel_ws *ws = all->sessions; ws != NULL; ws = ws->next)
        if (ws->state == OPEN)
            keel_ws_close(ws, 1001, "going_away");
}

void keel_wss_end(struct keel_rt *rt)
{
    struct keel_wss *all = rt->wss;

    for (struct keel_ws *ws = all != NULL ? all->sessions : NULL, *next; ws != NULL; ws = next) {
        next = ws->next;
        if (ws->state != UPGRADING)
            end(ws);
    }
}

static void on_own_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

void keel_wss_close(struct keel_rt *rt)
{
    struct keel_wss *all = rt->wss;

    if (all == NULL)
        return;
    keel_wss_end(rt);
    on_prepare(&all->prepare); /* lets go of what was dirty */
    all->n_closing_handles += 2;
    all->is_closing = true;
    uv_close((uv_handle_t *)&all->prepare, on_own_closed);
    uv_close((uv_handle_t *)&all->sweep, on_own_closed);
    rt->wss = NULL;
}
