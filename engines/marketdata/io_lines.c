/*
 * Lines of a file, plain or gzip (told by its first bytes), with a bound on their length. Bytes are hashed as
 * they are read, so the digest is that of the file itself.
 */
#include "io.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#define RAW (64 * 1024)
#define TEXT (IO_LINE_MAX + RAW)

struct io_lines {
    FILE *f;
    bool is_gzip, has_z, between, at_end, skipping; /* between: a gzip member ended and none has begun */
    z_stream z;
    struct keel_sha256 sha;
    uint64_t no;
    size_t start, end;
    char why[200];
    unsigned char raw[RAW];
    char text[TEXT + 1];
};

const char *io_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

bool io_file_symbol(const char *path, const char *ends, char out[MARKET_SYMBOL_LEN + 1])
{
    char name[MARKET_SYMBOL_LEN + 1] = "";
    const char *base = io_base_name(path);
    size_t n = strcspn(base, ends);

    if (n >= sizeof name)
        return false;
    memcpy(name, base, n);
    return keel_symbol_normalise(name, out);
}

static size_t read_raw(struct io_lines *l)
{
    size_t n = fread(l->raw, 1, RAW, l->f);
    keel_sha256_add(&l->sha, l->raw, n);
    return n;
}

uint64_t io_file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
}

enum keel_status io_lines_open(const char *path, struct io_lines **out, char *why, size_t why_cap)
{
    struct io_lines *l = keel_alloc(1, sizeof *l);
    size_t n;

    l->f = fopen(path, "rb");
    if (l->f == NULL) {
        snprintf(why, why_cap, "%.120s: %s", io_base_name(path), strerror(errno));
        keel_free(l);
        return KEEL_NOTFOUND;
    }
    keel_sha256_init(&l->sha);
    n = read_raw(l);
    l->is_gzip = n >= 2 && l->raw[0] == 0x1f && l->raw[1] == 0x8b;
    if (l->is_gzip) {
        l->z.next_in = l->raw;
        l->z.avail_in = (uInt)n;
        keel_assert(inflateInit2(&l->z, 15 + 16) == Z_OK);
        l->has_z = true;
    } else {
        memcpy(l->text, l->raw, n);
        l->end = n;
        l->at_end = n == 0;
    }
    *out = l;
    return KEEL_OK;
}

static bool failed(struct io_lines *l, const char *what)
{
    snprintf(l->why, sizeof l->why, "%s after line %llu", what, (unsigned long long)l->no);
    return false;
}

static bool fill_gzip(struct io_lines *l)
{
    int got;

    if (l->z.avail_in == 0) {
        size_t n = read_raw(l);
        l->z.next_in = l->raw;
        l->z.avail_in = (uInt)n;
        if (n == 0) {
            l->at_end = true;
            return l->between || failed(l, "the file ends in the middle of its gzip data");
        }
    }
    if (l->between)
        inflateReset(&l->z);
    l->between = false;
    l->z.next_out = (unsigned char *)l->text + l->end;
    l->z.avail_out = (uInt)(TEXT - l->end);
    got = inflate(&l->z, Z_NO_FLUSH);
    l->end = TEXT - l->z.avail_out;
    l->between = got == Z_STREAM_END;
    return got == Z_OK || got == Z_STREAM_END || got == Z_BUF_ERROR || failed(l, "damaged gzip data");
}

static bool fill(struct io_lines *l)
{
    size_t n;

    if (l->is_gzip)
        return fill_gzip(l);
    n = read_raw(l);
    memcpy(l->text + l->end, l->raw, n);
    l->end += n;
    l->at_end = n == 0;
    return !ferror(l->f) || failed(l, "the file cannot be read");
}

static enum io_line hand_out(struct io_lines *l, size_t stop, size_t next, char **text, size_t *len)
{
    *text = l->text + l->start;
    *len = stop - l->start;
    if (*len > 0 && (*text)[*len - 1] == '\r')
        (*len)--;
    (*text)[*len] = '\0';
    l->start = next;
    l->no++;
    if (!l->skipping)
        return IO_LINE;
    l->skipping = false;
    return IO_LINE_LONG;
}

enum io_line io_lines_next(struct io_lines *l, char **text, size_t *len)
{
    if (l->why[0] != '\0')
        return IO_LINE_FAILED;
    for (;;) {
        char *nl = memchr(l->text + l->start, '\n', l->end - l->start);
        if (nl != NULL)
            return hand_out(l, (size_t)(nl - l->text), (size_t)(nl - l->text) + 1, text, len);
        if (l->at_end && (l->start < l->end || l->skipping))
            return hand_out(l, l->end, l->end, text, len);
        if (l->at_end)
            return IO_LINE_END;
        if (l->end - l->start >= IO_LINE_MAX) {
            l->skipping = true;
            l->start = l->end = 0;
        } else if (l->start > 0) {
            memmove(l->text, l->text + l->start, l->end - l->start);
            l->end -= l->start;
            l->start = 0;
        }
        if (!fill(l))
            return IO_LINE_FAILED;
    }
}

uint64_t io_lines_no(const struct io_lines *l)
{
    return l->no;
}

const char *io_lines_why(const struct io_lines *l)
{
    return l->why;
}

uint64_t io_lines_bytes(const struct io_lines *l)
{
    return l->sha.len;
}

void io_lines_digest(const struct io_lines *l, char out[KEEL_SHA256_TEXT])
{
    struct keel_sha256 copy = l->sha;
    keel_sha256_text(&copy, out);
}

void io_lines_close(struct io_lines *l)
{
    if (l == NULL)
        return;
    if (l->has_z)
        inflateEnd(&l->z);
    fclose(l->f);
    keel_free(l);
}

struct market_event *io_push(struct keel_batch *b, const struct market_event *ev)
{
    struct market_event *to = (struct market_event *)b->items + b->n++;

    *to = *ev;
    return to;
}

void io_push_bad(struct keel_batch *b, int64_t ts, uint64_t line, const char *fmt, ...)
{
    struct market_event ev = {.ts_init = ts, .ts_event = ts, .kind = MARKET_BAD, .u.bad.line = line};
    va_list ap;

    va_start(ap, fmt);
    ev.u.bad.detail = keel_arena_vprintf(b->arena, fmt, ap);
    va_end(ap);
    io_push(b, &ev);
}

void io_push_end(struct keel_batch *b, int64_t ts, const char *digest)
{
    struct market_event ev = {.ts_init = ts, .ts_event = ts, .kind = MARKET_END,
                              .u.digest = keel_arena_strdup(b->arena, digest)};
    io_push(b, &ev);
}
