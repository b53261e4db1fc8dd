/*
 * Which adapter reads a path, judged by what is there and not by its name; the source that picks it; and
 * whether a path may be read at all.
 */
#define _XOPEN_SOURCE 700 /* realpath */
#include "io.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static bool is_binance(const char *text, size_t len)
{
    size_t digits = strspn(text, "0123456789");
    return digits >= 16 && digits <= 19 && digits + 2 < len && text[digits] == ' ' && text[digits + 1] == '{';
}

static bool names(const char *text, const char *word)
{
    size_t n = strlen(word);

    for (const char *p = text; *p != '\0'; p++) {
        if (strncasecmp(p, word, n) == 0)
            return true;
    }
    return false;
}

static bool is_ohlcv(const char *text)
{
    return (names(text, "date") || names(text, "time") || names(text, "ts")) && names(text, "open") &&
           names(text, "high") && names(text, "low") && names(text, "close");
}

static enum io_format sniff_file(const char *path, char *why, size_t why_cap)
{
    struct io_lines *in;
    enum io_format f = IO_AUTO;
    char *text;
    size_t len;

    if (io_lines_open(path, &in, why, why_cap) != KEEL_OK)
        return IO_AUTO;
    if (io_lines_next(in, &text, &len) != IO_LINE)
        snprintf(why, why_cap, "no first line can be read: %.120s", io_lines_why(in));
    else if (is_binance(text, len))
        f = IO_BINANCE;
    else if (is_ohlcv(text))
        f = IO_OHLCV;
    else
        snprintf(why, why_cap, "neither a capture (`<ns> <json>`) nor a table with date, open, high, low, close");
    io_lines_close(in);
    return f;
}

enum io_format io_sniff(const char *path, char *why, size_t why_cap)
{
    struct stat st;

    if (stat(path, &st) != 0) {
        snprintf(why, why_cap, "%.120s is not there", io_base_name(path));
        return IO_AUTO;
    }
    /* A folder can only be LEAN's; its adapter says what is missing. */
    return S_ISDIR(st.st_mode) ? IO_LEAN : sniff_file(path, why, why_cap);
}

enum keel_status io_bar_spec(const char *path, enum io_format format, char out[BARS_SPEC_LEN], char *why,
                             size_t why_cap)
{
    out[0] = '\0';
    if (format == IO_LEAN)
        memcpy(out, "1m", 3);
    return format == IO_OHLCV ? io_ohlcv_spec(path, out, why, why_cap) : KEEL_OK;
}

static bool lies_in(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && (path[n] == '\0' || path[n] == '/' || strcmp(dir, "/") == 0);
}

static bool allowed(const char *real, const char *const *dirs, size_t n)
{
    char dir[PATH_MAX];

    for (size_t i = 0; i < n; i++) {
        if (dirs[i][0] != '\0' && realpath(dirs[i], dir) != NULL && lies_in(real, dir))
            return true;
    }
    return false;
}

enum keel_status io_resolve(const char *path, const char *const *dirs, size_t n, char out[IO_PATH])
{
    char real[PATH_MAX], parent[IO_PATH];
    char *slash;

    if (strlen(path) >= IO_PATH)
        return KEEL_FORBIDDEN;
    if (realpath(path, real) != NULL) {
        if (!allowed(real, dirs, n) || strlen(real) >= IO_PATH)
            return KEEL_FORBIDDEN;
        memcpy(out, real, strlen(real) + 1);
        return KEEL_OK;
    }
    /* What lies outside is forbidden whether it is there or not. */
    snprintf(parent, sizeof parent, "%s", path);
    slash = strrchr(parent, '/');
    if (errno != ENOENT || slash == NULL)
        return KEEL_FORBIDDEN;
    slash[slash == parent] = '\0';
    return realpath(parent, real) != NULL && allowed(real, dirs, n) ? KEEL_NOTFOUND : KEEL_FORBIDDEN;
}

struct replay { const struct keel_source_ops *ops; void *self; };

static enum keel_status replay_open(void *cfg, void **self, char *why, size_t why_cap)
{
    static const struct keel_source_ops *const by_format[] = {
        [IO_BINANCE] = &io_binance, [IO_LEAN] = &io_lean, [IO_OHLCV] = &io_ohlcv};
    struct io_conf *conf = cfg;
    enum io_format format = conf->format != IO_AUTO ? conf->format : io_sniff(conf->path, why, why_cap);
    struct replay *r;
    enum keel_status st;

    if (format == IO_AUTO)
        return KEEL_INVALID;
    atomic_store(&conf->found, (int)format);
    r = keel_alloc(1, sizeof *r);
    r->ops = by_format[format];
    st = r->ops->open(cfg, &r->self, why, why_cap);
    if (st != KEEL_OK) {
        keel_free(r);
        return st;
    }
    *self = r;
    return KEEL_OK;
}

static enum keel_status replay_next(void *self, struct keel_batch *b, const atomic_bool *stop, char *why,
                                    size_t why_cap)
{
    struct replay *r = self;
    return r->ops->next(r->self, b, stop, why, why_cap);
}

static void replay_close(void *self)
{
    struct replay *r = self;
    r->ops->close(r->self);
    keel_free(r);
}

const struct keel_source_ops io_replay = {
    .name = "replay", .item_size = sizeof(struct market_event), .batch_cap = IO_BATCH,
    .open = replay_open, .next = replay_next, .close = replay_close,
};
