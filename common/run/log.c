/*
 * Log lines. A caller names its fields in the format ("peer=%s detail=%s"); the text is formatted once and
 * cut at the names of the format, so a value that happens to hold " x=" stays one value. Each line is one
 * write(2).
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "keel/num.h"

#define TEXT_BYTES 2048
#define LINE_BYTES 6144
#define OFTEN_SLOTS 64

static struct { char engine[32]; enum keel_log_level min; bool human; } conf = {"", KEEL_LOG_INFO, false};

static struct { const char *event; int64_t last_ns; uint64_t left_out; } often[OFTEN_SLOTS];
static pthread_mutex_t often_lock = PTHREAD_MUTEX_INITIALIZER;

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
    size_t done = 0;
    while (done < l.len) {
        ssize_t w = write(STDERR_FILENO, l.buf + done, l.len - done);
        if (w > 0)
            done += (size_t)w;
        else if (errno != EINTR)
            return;
    }
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
