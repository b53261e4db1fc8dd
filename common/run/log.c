/*
 * Log lines. A caller names its fields in the format ("peer=%s detail=%s"); the text is formatted once and
 * cut at the names of the format, so a value that happens to hold " x=" stays one value.
 *
 * A write(2) takes as long as whoever takes the lines: a disk that is away for seconds, a pipe that nobody reads. The loop
 * must not wait for these, so a thread of its own writes.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "keel/num.h"

#define TEXT_BYTES 2048
#define LINE_BYTES 6144
#define OFTEN_SLOTS 64
#define QUEUE_BYTES (256 * 1024)
#define FLUSH_NS INT64_C(1000000000)

static struct { char engine[32]; enum keel_log_level min; bool human; } conf = {"", KEEL_LOG_INFO, false};

static struct { const char *event; int64_t last_ns; uint64_t left_out; } often[OFTEN_SLOTS];
static pthread_mutex_t often_lock = PTHREAD_MUTEX_INITIALIZER;

/* Lines on their way to the thread that writes them; all but `is_on` is the lock's. */
static struct {
    atomic_bool is_on;
    bool stops, is_writing;
    pthread_mutex_t lock;
    pthread_cond_t more, written;
    pthread_t thread;
    char *text, *other; /* QUEUE_BYTES each: what waits, and what is being written */
    size_t len;
    uint64_t n_left_out;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER, .written = PTHREAD_COND_INITIALIZER};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void keel_log_open(const char *engine, enum keel_log_level min)
{
    snprintf(conf.engine, sizeof conf.engine, "%s", engine);
    conf.min = min;
    conf.human = isatty(STDERR_FILENO) == 1;
}

struct line { char buf[LINE_BYTES]; size_t len; };

static void put(struct line *l, const char *s, size_t n)
{
    size_t room = sizeof l->buf - 8 - l->len; /* the line's end always fits */
    if (n > room)
        n = room;
    memcpy(l->buf + l->len, s, n);
    l->len += n;
}

static void put_str(struct line *l, const char *s)
{
    put(l, s, strlen(s));
}

static void put_escaped(struct line *l, const char *s, size_t n)
{
    put_str(l, "\"");
    for (size_t i = 0; i < n && l->len < sizeof l->buf - 32; i++) {
        unsigned char ch = (unsigned char)s[i];
        char esc[8];
        if (ch == '"' || ch == '\\') {
            snprintf(esc, sizeof esc, "\\%c", ch);
            put_str(l, esc);
        } else if (ch < 0x20 || ch == 0x7f) {
            snprintf(esc, sizeof esc, "\\u%04x", ch);
            put_str(l, esc);
        } else {
            put(l, s + i, 1);
        }
    }
    put_str(l, "\"");
}

/* Digits with at most one point: what JSON shows as a number. Exponents stay text, for ids look like them. */
static bool is_number(const char *s, size_t n)
{
    size_t i = n > 0 && s[0] == '-', digits = 0, points = 0;
    if (n == 0 || n > 20 || (i + 1 < n && s[i] == '0' && s[i + 1] != '.'))
        return false;
    for (; i < n; i++) {
        if (s[i] == '.' && digits > 0 && i + 1 < n)
            points++;
        else if (s[i] >= '0' && s[i] <= '9')
            digits++;
        else
            return false;
    }
    return digits > 0 && points <= 1;
}

static bool is_plain(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char ch = (unsigned char)s[i];
        if (ch <= ' ' || ch == '"' || ch == 0x7f)
            return false;
    }
    return n > 0;
}

static bool is_name_char(char ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || ch == '_';
}

/* Next "name=" of the format at *at; false at its end. */
static bool next_name(const char **at, char *name, size_t cap)
{
    for (const char *p = *at; *p != '\0'; p++) {
        if (p != *at && p[-1] != ' ')
            continue;
        size_t n = 0;
        while (is_name_char(p[n]))
            n++;
        if (n == 0 || p[n] != '=' || n >= cap)
            continue;
        memcpy(name, p, n);
        name[n] = '\0';
        *at = p + n + 1;
        return true;
    }
    return false;
}

static void put_field(struct line *l, const char *name, const char *value, size_t n)
{
    put_str(l, conf.human ? " " : ",\"");
    put_str(l, name);
    put_str(l, conf.human ? "=" : "\":");
    if (is_number(value, n) || (conf.human && is_plain(value, n)))
        put(l, value, n);
    else
        put_escaped(l, value, n);
}

static void put_fields(struct line *l, const char *fmt, const char *text)
{
    char name[32], following[32], mark[36];
    const char *at = fmt, *value = text;
    if (!next_name(&at, name, sizeof name)) {
        put_field(l, "msg", text, strlen(text));
        return;
    }
    value += strncmp(text, name, strlen(name)) == 0 ? strlen(name) + 1 : 0;
    for (;;) {
        bool more = next_name(&at, following, sizeof following);
        const char *end = NULL;
        if (more) {
            snprintf(mark, sizeof mark, " %s=", following);
            end = strstr(value, mark);
        }
        if (end == NULL) {
            put_field(l, name, value, strlen(value));
            return;
        }
        put_field(l, name, value, (size_t)(end - value));
        value = end + strlen(mark);
        memcpy(name, following, sizeof name);
    }
}

static void write_all(const char *text, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t w = write(STDERR_FILENO, text + done, len - done);
        if (w > 0)
            done += (size_t)w;
        else if (errno != EINTR)
            return;
    }
}

static void enqueue(const char *line, size_t len)
{
    pthread_mutex_lock(&queue.lock);
    if (len <= QUEUE_BYTES - queue.len) {
        memcpy(queue.text + queue.len, line, len);
        queue.len += len;
    } else {
        queue.n_left_out++;
    }
    pthread_cond_signal(&queue.more);
    pthread_mutex_unlock(&queue.lock);
}

__attribute__((format(printf, 4, 0))) static void write_line(enum keel_log_level level, const char *event,
                                                              uint64_t repeated, const char *fmt, va_list ap)
{
    char text[TEXT_BYTES], stamp[KEEL_TIME_TEXT], count[24];
    struct line l;
    l.len = 0;
    size_t n = keel_time_print(keel_wall_ns(), stamp);
    if (conf.human) {
        put(&l, stamp + 11, n > 23 ? 12 : 0);
        put_str(&l, " ");
        put_str(&l, level_names[level]);
        put_str(&l, " ");
        put_str(&l, event);
    } else {
        put_str(&l, "{\"ts\":\"");
        put(&l, stamp, n);
        put_str(&l, "\",\"level\":\"");
        put_str(&l, level_names[level]);
        put_str(&l, "\",\"engine\":\"");
        put_str(&l, conf.engine);
        put_str(&l, "\",\"event\":\"");
        put_str(&l, event);
        put_str(&l, "\"");
    }
    if (fmt != NULL) {
        vsnprintf(text, sizeof text, fmt, ap);
        put_fields(&l, fmt, text);
    }
    if (repeated > 0) {
        int m = snprintf(count, sizeof count, "%llu", (unsigned long long)repeated);
        put_field(&l, "repeated", count, (size_t)m);
    }
    if (!conf.human)
        l.buf[l.len++] = '}';
    l.buf[l.len++] = '\n';
    if (atomic_load(&queue.is_on))
        enqueue(l.buf, l.len);
    else
        write_all(l.buf, l.len);
}

void keel_log(enum keel_log_level level, const char *event, const char *fmt, ...)
{
    if (level < conf.min)
        return;
    va_list ap;
    va_start(ap, fmt);
    write_line(level, event, 0, fmt, ap);
    va_end(ap);
}

/* Whether the event may be written now; *left_out: how many were not since the last one. */
static bool its_turn(const char *event, uint64_t *left_out)
{
    int64_t now = keel_mono_ns();
    bool yes = true;
    pthread_mutex_lock(&often_lock);
    size_t slot = 0;
    while (slot < OFTEN_SLOTS && often[slot].event != NULL && strcmp(often[slot].event, event) != 0)
        slot++;
    if (slot < OFTEN_SLOTS) {
        yes = often[slot].event == NULL || now - often[slot].last_ns >= 1000000000;
        often[slot].event = event;
        *left_out = often[slot].left_out;
        often[slot].left_out = yes ? 0 : often[slot].left_out + 1;
        if (yes)
            often[slot].last_ns = now;
    }
    pthread_mutex_unlock(&often_lock);
    return yes;
}

void keel_log_often(enum keel_log_level level, const char *event, const char *fmt, ...)
{
    uint64_t left_out = 0;
    if (level < conf.min || !its_turn(event, &left_out))
        return;
    va_list ap;
    va_start(ap, fmt);
    write_line(level, event, left_out, fmt, ap);
    va_end(ap);
}

/* ---- the thread that writes ---- */

static void *write_queued(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&queue.lock);
    while (queue.len > 0 || !queue.stops) {
        if (queue.len == 0) {
            pthread_cond_wait(&queue.more, &queue.lock);
            continue;
        }
        char *text = queue.text;
        size_t len = queue.len;
        uint64_t n_left_out = queue.n_left_out;
        queue.text = queue.other;
        queue.other = text;
        queue.len = 0;
        queue.n_left_out = 0;
        queue.is_writing = true;
        pthread_mutex_unlock(&queue.lock);
        if (n_left_out > 0) /* where they are missing, for there is room now */
            keel_log(KEEL_LOG_WARN, "log_lines_left_out", "lines=%llu", (unsigned long long)n_left_out);
        write_all(text, len);
        pthread_mutex_lock(&queue.lock);
        queue.is_writing = false;
        pthread_cond_broadcast(&queue.written);
    }
    pthread_mutex_unlock(&queue.lock);
    return NULL;
}

void keel_log_start(void)
{
    sigset_t all, before;
    queue.text = malloc(QUEUE_BYTES);
    queue.other = malloc(QUEUE_BYTES);
    queue.stops = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop's */
    bool is_on = queue.text != NULL && queue.other != NULL && pthread_create(&queue.thread, NULL, write_queued, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    atomic_store(&queue.is_on, is_on);
}

static bool is_written(void)
{
    return queue.len == 0 && !queue.is_writing;
}

void keel_log_flush(void)
{
    int64_t until_ns = keel_wall_ns() + FLUSH_NS;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    if (!atomic_load(&queue.is_on))
        return;
    pthread_mutex_lock(&queue.lock);
    while (!is_written() && pthread_cond_timedwait(&queue.written, &queue.lock, &until) == 0)
        ;
    pthread_mutex_unlock(&queue.lock);
}

/* A thread that is stuck in its write is left behind, with what it has. */
void keel_log_stop(void)
{
    if (!atomic_load(&queue.is_on))
        return;
    keel_log_flush();
    atomic_store(&queue.is_on, false);
    pthread_mutex_lock(&queue.lock);
    queue.stops = true;
    bool is_stuck = !is_written();
    pthread_cond_signal(&queue.more);
    pthread_mutex_unlock(&queue.lock);
    if (is_stuck) {
        pthread_detach(queue.thread);
        return;
    }
    pthread_join(queue.thread, NULL);
    free(queue.text);
    free(queue.other);
}
