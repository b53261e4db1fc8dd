/* Load: see load.h. One epoll, one timerfd for the schedule, buffers made before the first request. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "keel/arena.h"
#include "keel/status.h"

enum { BUFFER = 64 * 1024, SLOTS = 16, EVENTS = 256, GRACE_S = 5, WAIT_NS = 10000000 };

enum slot_kind { SLOT_N, SLOT_NOW, SLOT_CONNECTION };

static const struct { const char *text; int width; } slot_form[] = {
    [SLOT_N] = {"{n}", 16}, [SLOT_NOW] = {"{now}", 19}, [SLOT_CONNECTION] = {"{c}", 4}};

struct slot { enum slot_kind kind; size_t at; };

struct client {
    int fd;
    unsigned index;
    bool is_busy;
    int64_t due_ns, from_ns, not_before_ns; /* from: what latency counts from */
    size_t sent, got;
    size_t head_len, body_len;  /* of the answer; head_len 0: its header is not whole */
    int status, retry_after_s;
    bool closes;
    char *request, *answer;     /* answer: made when one first comes in pieces */
    char *text;                 /* the answer in hand: answer, or the load's buffer */
};

struct load {
    const struct load_conf *conf;
    struct load_result *out;
    struct sockaddr_in address;
    char *request;
    size_t request_len;
    struct slot slot[SLOTS];
    size_t n_slots;
    struct client *clients;
    struct client **idle;
    unsigned n_idle, n_busy;
    char *buffer;               /* of answers that arrive whole; one for all, so that it stays in the cache */
    int epoll, timer;
    int64_t start_ns, count_ns, end_ns; /* counted are requests due from count_ns to before end_ns */
    uint64_t n, due;                    /* open loop: sent, and fallen due */
    uint64_t fresh;                     /* the first that fell due just now; none before found a free connection */
};

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t mono_ns(void)
{
    return now_ns(CLOCK_MONOTONIC);
}

/* ---- the request ---- */

/* Copies text with room for what each request fills in; false: too many places. */
static bool expand(struct load *l, const char *text, char *to, size_t cap, size_t *at)
{
    while (*text != '\0') {
        size_t k = 0;
        while (k < KEEL_COUNT(slot_form) && strncmp(text, slot_form[k].text, strlen(slot_form[k].text)) != 0)
            k++;
        if (*at + 32 > cap || (k < KEEL_COUNT(slot_form) && l->n_slots == SLOTS))
            return false;
        if (k == KEEL_COUNT(slot_form)) {
            to[(*at)++] = *text++;
            continue;
        }
        l->slot[l->n_slots++] = (struct slot){(enum slot_kind)k, *at};
        memset(to + *at, '0', (size_t)slot_form[k].width);
        *at += (size_t)slot_form[k].width;
        text += strlen(slot_form[k].text);
    }
    return true;
}

static size_t add(char *to, size_t cap, size_t at, const char *text)
{
    size_t n = strlen(text);

    keel_assert(at + n < cap);
    memcpy(to + at, text, n);
    return at + n;
}

/* The body is expanded twice: its length stands in the header before it. */
static bool make_request(struct load *l)
{
    const struct load_conf *c = l->conf;
    size_t path = strlen(c->path), body = c->body != NULL ? strlen(c->body) : 0, length = 0, at;
    size_t cap = 2 * (path + body) + 1024 + (c->headers != NULL ? strlen(c->headers) : 0) + 64 * SLOTS;
    char line[160];

    l->request = keel_alloc(1, cap);
    if (body > 0 && !expand(l, c->body, l->request, cap, &length))
        return false;
    l->n_slots = 0;
    at = add(l->request, cap, 0, c->method);
    at = add(l->request, cap, at, " ");
    if (!expand(l, c->path, l->request, cap, &at))
        return false;
    snprintf(line, sizeof line, " HTTP/1.1\r\nHost: %s:%u\r\n", c->host, (unsigned)c->port);
    at = add(l->request, cap, at, line);
    if (c->headers != NULL)
        at = add(l->request, cap, at, c->headers);
    if (body > 0) {
        snprintf(line, sizeof line, "Content-Type: application/json\r\nContent-Length: %zu\r\n", length);
        at = add(l->request, cap, at, line);
    }
    at = add(l->request, cap, at, "\r\n");
    if (body > 0 && !expand(l, c->body, l->request, cap, &at))
        return false;
    l->request_len = at;
    return true;
}

static void put_digits(char *to, int width, uint64_t v)
{
    for (int i = width - 1; i >= 0; i--, v /= 10)
        to[i] = (char)('0' + v % 10);
}

static void fill_in(struct load *l, struct client *c)
{
    static uint64_t unique;

    if (unique == 0)
        unique = (uint64_t)now_ns(CLOCK_REALTIME) / 1000;
    for (size_t i = 0; i < l->n_slots; i++) {
        const struct slot *s = &l->slot[i];
        uint64_t v = s->kind == SLOT_N ? unique++
                     : s->kind == SLOT_NOW ? (uint64_t)now_ns(CLOCK_REALTIME)
                                           : c->index;
        put_digits(c->request + s->at, slot_form[s->kind].width, v);
    }
}

/* ---- connections ---- */

static bool dial(struct load *l, struct client *c)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return false;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&l->address, sizeof l->address) != 0 ||
        fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &e) != 0) {
        close(c->fd);
        c->fd = -1;
        return false;
    }
    return true;
}

static bool is_counted(const struct load *l, const struct client *c)
{
    return c->due_ns >= l->count_ns && c->due_ns < l->end_ns;
}

static void hang_up(struct load *l, struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (!c->is_busy)
        return;
    c->is_busy = false;
    l->n_busy--;
    l->idle[l->n_idle++] = c;
}

static void broke(struct load *l, struct client *c)
{
    if (c->is_busy && is_counted(l, c))
        l->out->broken++;
    hang_up(l, c);
}

static void push(struct load *l, struct client *c)
{
    while (c->sent < l->request_len) {
        ssize_t n = send(c->fd, c->request + c->sent, l->request_len - c->sent, MSG_NOSIGNAL);
        if (n > 0) {
            c->sent += (size_t)n;
            continue;
        }
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            epoll_ctl(l->epoll, EPOLL_CTL_MOD, c->fd, &e);
        else if (n < 0 && errno == EINTR)
            continue;
        else
            broke(l, c);
        return;
    }
}

static void ask(struct load *l, struct client *c, int64_t due_ns, int64_t from_ns)
{
    c->is_busy = true;
    c->due_ns = due_ns;
    c->from_ns = from_ns;
    c->sent = c->got = c->head_len = c->body_len = 0;
    l->n_busy++;
    if (is_counted(l, c))
        l->out->sent++;
    if (c->fd < 0 && !dial(l, c)) {
        broke(l, c);
        return;
    }
    fill_in(l, c);
    push(l, c);
}

/* ---- answers ---- */

/* false: not whole yet. An answer without a length this cannot follow; its status becomes 0. */
static bool read_head(struct client *c)
{
    char *end, *line;
    bool has_length = false;

    c->text[c->got] = '\0';
    end = strstr(c->text, "\r\n\r\n");
    if (end == NULL)
        return false;
    c->head_len = (size_t)(end - c->text) + 4;
    c->status = strncmp(c->text, "HTTP/1.", 7) == 0 ? (int)strtol(c->text + 9, NULL, 10) : 0;
    c->closes = false;
    c->retry_after_s = 0;
    for (line = strstr(c->text, "\r\n"); line != NULL && line < end; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, "Content-Length:", 15) == 0) {
            c->body_len = (size_t)strtoull(line + 17, NULL, 10);
            has_length = true;
        } else if (strncasecmp(line + 2, "Retry-After:", 12) == 0) {
            c->retry_after_s = (int)strtol(line + 14, NULL, 10);
        } else if (strncasecmp(line + 2, "Connection: close", 17) == 0) {
            c->closes = true;
        }
    }
    if (!has_length || c->status < 100 || c->status > 599) {
        c->status = 0;
        c->closes = true;
        c->body_len = 0;
    }
    return true;
}

static void note_answer(struct load *l, struct client *c, int64_t now)
{
    struct load_result *r = l->out;

    if (!is_counted(l, c))
        return;
    if (r->answered < LOAD_EXACT)
        r->took_ns[r->answered] = (uint64_t)(now - c->from_ns);
    r->answered++;
    r->status[c->status]++;
    keel_hist_add(&r->hist, (uint64_t)(now - c->from_ns), l->conf->target_ns);
    if ((c->status < 200 || c->status > 299) && r->sample[0] == '\0') {
        size_t n = c->got - c->head_len < sizeof r->sample ? c->got - c->head_len : sizeof r->sample - 1;
        memcpy(r->sample, c->text + c->head_len, n);
    }
}

static void next(struct load *l, struct client *c, int64_t now);

static void finish(struct load *l, struct client *c)
{
    int64_t now = mono_ns();

    note_answer(l, c, now);
    if (l->conf->obeys && (c->status == 429 || c->status == 503))
        c->not_before_ns = now + (int64_t)c->retry_after_s * 1000000000;
    if (c->closes) {
        hang_up(l, c);
        return;
    }
    c->is_busy = false;
    l->n_busy--;
    next(l, c, now);
}

/* The rest comes later, when the buffer has seen other answers. */
static void keep(struct load *l, struct client *c)
{
    if (c->text != l->buffer)
        return;
    if (c->answer == NULL)
        c->answer = keel_alloc(1, BUFFER + 1);
    memcpy(c->answer, c->text, c->got < BUFFER ? c->got : BUFFER);
    c->text = c->answer;
}

static void pull(struct load *l, struct client *c)
{
    for (;;) {
        /* Of a body that is larger than the buffer only the length is kept. */
        size_t at = c->got < BUFFER ? c->got : c->head_len;
        ssize_t n;

        if (c->got == 0)
            c->text = l->buffer;
        n = recv(c->fd, c->text + at, BUFFER - at, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (n <= 0) {
            broke(l, c);
            return;
        }
        c->got += (size_t)n;
        if (c->head_len == 0 && !read_head(c)) {
            if (c->got >= BUFFER) {
                broke(l, c);
                return;
            }
            continue;
        }
        if (c->head_len == BUFFER || c->got >= c->head_len + c->body_len) {
            finish(l, c);
            return;
        }
    }
    if (c->got > 0)
        keep(l, c);
}

/* ---- the schedule ---- */

static int64_t due_at(const struct load *l, uint64_t i)
{
    return l->start_ns + (int64_t)((double)i * 1e9 / l->conf->rate);
}

static void ask_due(struct load *l, struct client *c, int64_t now)
{
    uint64_t i = l->n++;
    int64_t due = due_at(l, i), from = i < l->fresh ? due : now;

    ask(l, c, due, from);
    if (i >= l->fresh && is_counted(l, c))
        keel_hist_add(&l->out->late, (uint64_t)(now - due), 0);
}

/* A client that is free asks what is due, or waits. */
static void next(struct load *l, struct client *c, int64_t now)
{
    if (now < c->not_before_ns)
        l->idle[l->n_idle++] = c;
    else if (l->conf->rate <= 0 && now < l->end_ns)
        ask(l, c, now, now);
    else if (l->conf->rate > 0 && l->n < l->due)
        ask_due(l, c, now);
    else
        l->idle[l->n_idle++] = c;
}

static void arm(struct load *l)
{
    int64_t at = due_at(l, l->due);
    struct itimerspec t = {.it_value = {.tv_sec = (time_t)(at / 1000000000), .tv_nsec = (long)(at % 1000000000)}};

    if (at < l->end_ns)
        timerfd_settime(l->timer, TFD_TIMER_ABSTIME, &t, NULL);
}

/* Whoever is free and may ask: at the beginning, after a connection was closed, after a wait. */
static void wake_idle(struct load *l)
{
    unsigned n = l->n_idle;
    int64_t now = mono_ns();

    if (l->conf->rate > 0 && l->n == l->due)
        return;
    l->n_idle = 0; /* each of them comes back at most once, so never onto one that was not looked at */
    for (unsigned i = 0; i < n; i++)
        next(l, l->idle[i], now);
}

static void on_schedule(struct load *l)
{
    uint64_t times;
    int64_t now = mono_ns();

    if (read(l->timer, &times, sizeof times) < 0 && errno != EAGAIN)
        return;
    l->fresh = l->due;
    while (due_at(l, l->due) <= now && due_at(l, l->due) < l->end_ns)
        l->due++;
    wake_idle(l);
    l->fresh = UINT64_MAX;
    arm(l);
}

static void turn(struct load *l, int64_t until_ns)
{
    struct epoll_event events[EVENTS];
    int64_t left = l->conf->spins ? 0 : until_ns - mono_ns();
    if (l->n_idle > 0 && left > WAIT_NS && l->conf->rate <= 0)
        left = WAIT_NS;
    int n = epoll_wait(l->epoll, events, EVENTS, left > 0 ? (int)(left / 1000000) + 1 : 0);

    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;
        if (c == NULL) {
            on_schedule(l);
            continue;
        }
        if (c->fd >= 0 && (events[i].events & EPOLLOUT)) {
            struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
            epoll_ctl(l->epoll, EPOLL_CTL_MOD, c->fd, &e);
            push(l, c);
        }
        if (c->fd >= 0 && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
            pull(l, c);
    }
    wake_idle(l);
}

/* Ctrl-C ends the counted part; once more, and the program. */
static volatile sig_atomic_t is_over;

static void on_signal(int number)
{
    (void)number;
    is_over = 1;
}

static void watch_signals(void)
{
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

static void drive(struct load *l)
{
    int64_t give_up;

    l->start_ns = mono_ns();
    l->count_ns = l->start_ns + (int64_t)(l->conf->warm_up_s * 1e9);
    l->end_ns = l->count_ns + (int64_t)(l->conf->seconds * 1e9);
    give_up = l->end_ns + (int64_t)GRACE_S * 1000000000;
    l->fresh = UINT64_MAX;
    if (l->conf->rate > 0)
        arm(l);
    wake_idle(l);
    while (mono_ns() < l->end_ns && !is_over)
        turn(l, l->end_ns);
    if (is_over) {
        l->end_ns = mono_ns();
        give_up = l->end_ns + (int64_t)GRACE_S * 1000000000;
    }
    while ((l->n_busy > 0 || l->n < l->due) && mono_ns() < give_up)
        turn(l, give_up);
}

/* ---- begin and end ---- */

static bool open_all(struct load *l, char *why, size_t cap)
{
    const struct load_conf *c = l->conf;
    struct epoll_event e = {.events = EPOLLIN};
    const char *host = strcmp(c->host, "localhost") == 0 ? "127.0.0.1" : c->host;

    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    keel_assert(l->epoll >= 0 && l->timer >= 0);
    epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->timer, &e);
    l->address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(c->port)};
    if (inet_pton(AF_INET, host, &l->address.sin_addr) != 1) {
        snprintf(why, cap, "%s is no IPv4 address", c->host);
        return false;
    }
    if (!make_request(l)) {
        snprintf(why, cap, "path and body have more than %d places to fill in", SLOTS);
        return false;
    }
    for (unsigned i = 0; i < c->connections; i++) {
        struct client *k = &l->clients[i];
        k->index = i;
        k->request = keel_alloc(1, l->request_len);
        memcpy(k->request, l->request, l->request_len);
        l->idle[l->n_idle++] = k;
        if (!dial(l, k)) {
            snprintf(why, cap, "cannot connect to %s:%u: %s", c->host, (unsigned)c->port, strerror(errno));
            return false;
        }
    }
    return true;
}

static void close_all(struct load *l)
{
    for (unsigned i = 0; i < l->conf->connections; i++) {
        struct client *c = &l->clients[i];
        if (c->request != NULL && c->fd >= 0)
            close(c->fd);
        keel_free(c->request);
        keel_free(c->answer);
    }
    close(l->timer);
    close(l->epoll);
    keel_free(l->request);
    keel_free(l->buffer);
    keel_free(l->idle);
    keel_free(l->clients);
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static bool pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
}

bool load_run(const struct load_conf *conf, struct load_result *out, char *why, size_t cap)
{
    struct load l = {.conf = conf, .out = out};
    struct rlimit files = {conf->connections + 64, conf->connections + 64}, have;
    bool ok;

    memset(out, 0, sizeof *out);
    keel_assert(conf->connections >= 1 && conf->connections <= LOAD_CONNECTIONS);
    if (conf->cpu >= 0 && !pin(conf->cpu)) {
        snprintf(why, cap, "cannot run on core %d", conf->cpu);
        return false;
    }
    if (getrlimit(RLIMIT_NOFILE, &have) == 0 && have.rlim_cur < files.rlim_cur && have.rlim_max >= files.rlim_cur) {
        have.rlim_cur = files.rlim_cur;
        setrlimit(RLIMIT_NOFILE, &have);
    }
    l.clients = keel_alloc(conf->connections, sizeof *l.clients);
    l.idle = keel_alloc(conf->connections, sizeof *l.idle);
    l.buffer = keel_alloc(1, BUFFER + 1);
    ok = open_all(&l, why, cap);
    if (ok) {
        watch_signals();
        drive(&l);
        out->seconds = l.end_ns > l.count_ns ? (double)(l.end_ns - l.count_ns) * 1e-9 : 0;
        if (conf->rate > 0) /* all that fell due in the counted part, sent or not */
            for (uint64_t i = l.n; i < l.due; i++)
                out->unanswered += due_at(&l, i) >= l.count_ns;
        out->unanswered += out->sent - out->answered - out->broken;
        if (out->answered <= LOAD_EXACT)
            qsort(out->took_ns, out->answered, sizeof out->took_ns[0], by_size);
    }
    close_all(&l);
    return ok;
}

uint64_t load_quantile(const struct load_result *r, double q)
{
    /* The product may come out a rounding error above the whole number that is meant. */
    double rank = ceil(q * (double)r->answered * (1 - 1e-12));

    if (r->answered == 0 || r->answered > LOAD_EXACT)
        return keel_hist_quantile(&r->hist, q);
    return r->took_ns[rank < 1 ? 0 : (uint64_t)rank - 1];
}
