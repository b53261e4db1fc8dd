/*
 * A table of bars: CSV, plain or gzip, with a header that names date or time, open, high, low, close and maybe
 * volume and symbol (or name, ticker). A stamp is taken as the bar's opening and the shortest distance between
 * two rows of a symbol as its width, so a bar is known at its close and never before. The rows are sorted by
 * time in memory.
 */
#include "io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DAY_NS 86400000000000LL
#define COLUMNS 64
#define SYMBOLS 65536
#define BADS 100000 /* bad rows kept for their line; more are counted in the last */

enum { DATE, TIME, OPEN, HIGH, LOW, CLOSE, VOLUME, SYMBOL, N_COLUMN };

struct ohlcv_row { int64_t ts, open, high, low, close; keel_i128 volume; uint32_t symbol; };
struct ohlcv_bad { uint64_t line; const char *why; };

struct ohlcv {
    struct io_lines *in;
    struct io_conf *conf;
    int column[N_COLUMN]; /* -1: absent */
    char (*symbol)[MARKET_SYMBOL_LEN + 1];
    size_t n_symbols, cap_symbols;
    struct ohlcv_row *row;
    size_t n_rows, cap_rows, at;
    struct ohlcv_bad *bad;
    size_t n_bad, cap_bad, bad_at;
    int64_t width;
    char spec[BARS_SPEC_LEN], digest[KEEL_SHA256_TEXT], why[200];
    bool loaded, ended;
};

/* Fields of one line, cut in place, quotes taken off. */
static size_t fields(char *text, char *field[COLUMNS])
{
    size_t n = 0;
    char *p = text;

    while (n < COLUMNS) {
        bool quoted = *p == '"';
        char *end = quoted ? strchr(p + 1, '"') : NULL;
        char *comma = strchr(end != NULL ? end : p, ',');
        field[n++] = end != NULL ? p + 1 : p;
        if (end != NULL)
            *end = '\0';
        if (comma == NULL)
            break;
        *comma = '\0';
        p = comma + 1;
    }
    return n;
}

static const struct { const char *name; int column; } headings[] = {
    {"date", DATE}, {"datetime", DATE}, {"timestamp", DATE}, {"ts", DATE}, {"open_time", DATE}, {"time", TIME},
    {"open", OPEN}, {"high", HIGH}, {"low", LOW}, {"close", CLOSE}, {"volume", VOLUME}, {"symbol", SYMBOL},
    {"name", SYMBOL}, {"ticker", SYMBOL},
};

static bool header(char *text, int column[N_COLUMN])
{
    char *field[COLUMNS];
    size_t n;

    /* Files from spreadsheets begin with a byte order mark. */
    if (strncmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3;
    n = fields(text, field);
    for (int i = 0; i < N_COLUMN; i++)
        column[i] = -1;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof headings / sizeof headings[0]; k++) {
            if (strcasecmp(field[i], headings[k].name) == 0 && column[headings[k].column] < 0)
                column[headings[k].column] = (int)i;
        }
    }
    if (column[DATE] < 0) {
        column[DATE] = column[TIME];
        column[TIME] = -1;
    }
    return column[DATE] >= 0 && column[OPEN] >= 0 && column[HIGH] >= 0 && column[LOW] >= 0 && column[CLOSE] >= 0;
}

static enum keel_status ohlcv_open(void *cfg, void **self, char *why, size_t why_cap)
{
    struct io_conf *conf = cfg;
    struct ohlcv *o = keel_alloc(1, sizeof *o);
    enum keel_status st = io_lines_open(conf->path, &o->in, why, why_cap);
    char *text;
    size_t len;

    if (st == KEEL_OK && (io_lines_next(o->in, &text, &len) != IO_LINE || !header(text, o->column))) {
        snprintf(why, why_cap, "the first line names no date, open, high, low, close");
        st = KEEL_INVALID;
    }
    o->symbol = keel_alloc(1, sizeof *o->symbol);
    o->cap_symbols = 1;
    if (st == KEEL_OK && o->column[SYMBOL] < 0 && !io_file_symbol(conf->path, ".", o->symbol[0])) {
        snprintf(why, why_cap, "neither a column nor the file's name says the symbol");
        st = KEEL_INVALID;
    }
    if (st == KEEL_OK) {
        o->n_symbols = o->column[SYMBOL] < 0;
        o->conf = conf;
        *self = o;
        return KEEL_OK;
    }
    io_lines_close(o->in);
    keel_free(o->symbol);
    keel_free(o);
    return st;
}

static void ohlcv_close(void *self)
{
    struct ohlcv *o = self;

    io_lines_close(o->in);
    keel_free(o->symbol);
    keel_free(o->row);
    keel_free(o->bad);
    keel_free(o);
}

/* 20130208, seconds to nanoseconds since 1970, 2013-02-08, 2013-02-08 09:30[:00], RFC 3339. */
static bool stamp(const char *date, const char *time, int64_t *out)
{
    char text[64];
    size_t n = strlen(date);
    int64_t v;

    if (n == 8 && strspn(date, "0123456789") == 8) {
        snprintf(text, sizeof text, "%.4s-%.2s-%.2s", date, date + 4, date + 6);
    } else if (strspn(date, "0123456789") == n) {
        if (keel_i64_parse(date, n, &v) != KEEL_OK || n < 10 || n > 19)
            return false;
        *out = v * (n < 12 ? 1000000000 : n < 15 ? 1000000 : n < 18 ? 1000 : 1);
        return true;
    } else {
        snprintf(text, sizeof text, "%.40s", date);
    }
    n = strlen(text);
    if (n == 10)
        snprintf(text + n, sizeof text - n, "T%.12s", time != NULL ? time : "00:00:00");
    else if (n > 10 && text[10] == ' ')
        text[10] = 'T';
    n = strlen(text);
    if (n == 16)
        snprintf(text + n, sizeof text - n, ":00");
    return keel_time_parse(text, strlen(text), out) == KEEL_OK;
}

static uint32_t symbol_index(struct ohlcv *o, const char *name)
{
    /* Tables come sorted by symbol or repeat the same few, so the search starts where the last one ended. */
    size_t last = o->n_rows > 0 ? o->row[o->n_rows - 1].symbol : 0;

    for (size_t i = 0; i < o->n_symbols; i++) {
        size_t k = (last + i) % o->n_symbols;
        if (strcmp(o->symbol[k], name) == 0)
            return (uint32_t)k;
    }
    if (o->n_symbols == SYMBOLS)
        return UINT32_MAX;
    if (o->n_symbols == o->cap_symbols) {
        o->cap_symbols *= 2;
        o->symbol = keel_realloc(o->symbol, o->cap_symbols, sizeof *o->symbol);
    }
    memcpy(o->symbol[o->n_symbols], name, sizeof *o->symbol);
    return (uint32_t)o->n_symbols++;
}

static const char *take_row(struct ohlcv *o, char *text, struct ohlcv_row *r)
{
    char *field[COLUMNS], symbol[MARKET_SYMBOL_LEN + 1];
    const char *time = NULL;
    int64_t *price[] = {&r->open, &r->high, &r->low, &r->close};
    size_t n = fields(text, field);

    for (int i = 0; i < N_COLUMN; i++) {
        if (o->column[i] >= (int)n)
            return "the row is short";
    }
    if (o->column[TIME] >= 0)
        time = field[o->column[TIME]];
    if (!stamp(field[o->column[DATE]], time, &r->ts))
        return "not a date or time";
    for (int i = 0; i < 4; i++) {
        const char *f = field[o->column[OPEN + i]];
        if (keel_dec_parse(f, strlen(f), price[i]) != KEEL_OK || *price[i] <= 0)
            return "not a price";
    }
    if (r->low > r->open || r->low > r->close || r->high < r->open || r->high < r->close)
        return "high and low do not contain open and close";
    if (o->column[VOLUME] >= 0) {
        const char *f = field[o->column[VOLUME]];
        if (keel_money_parse(f, strlen(f), &r->volume) != KEEL_OK || r->volume < 0)
            return "volume is no quantity";
    }
    if (o->column[SYMBOL] >= 0) {
        const char *f = field[o->column[SYMBOL]];
        if (!keel_symbol_normalise(f, symbol))
            return "not a symbol";
        r->symbol = symbol_index(o, symbol);
        if (r->symbol == UINT32_MAX)
            return "too many symbols";
    }
    return NULL;
}

static void keep_bad(struct ohlcv *o, const char *why)
{
    if (o->n_bad == o->cap_bad) {
        o->cap_bad = o->cap_bad == 0 ? 64 : o->cap_bad * 2;
        o->bad = keel_realloc(o->bad, o->cap_bad, sizeof *o->bad);
    }
    o->bad[o->n_bad++] = (struct ohlcv_bad){io_lines_no(o->in), why};
}

static bool load(struct ohlcv *o, const atomic_bool *stop)
{
    char *text;
    size_t len;

    for (;;) {
        struct ohlcv_row r = {0};
        const char *bad;
        enum io_line got = io_lines_next(o->in, &text, &len);
        if (got == IO_LINE_END || atomic_load(stop))
            return true;
        if (got == IO_LINE_FAILED) {
            snprintf(o->why, sizeof o->why, "%s", io_lines_why(o->in));
            return true; /* what was read is handed out before the failure */
        }
        if (len == 0)
            continue;
        bad = got == IO_LINE_LONG ? "the line is too long" : take_row(o, text, &r);
        if (bad == NULL && o->n_rows == o->cap_rows) {
            o->cap_rows = o->cap_rows == 0 ? 1024 : o->cap_rows * 2;
            o->row = keel_realloc(o->row, o->cap_rows, sizeof *o->row);
        }
        if (bad == NULL)
            o->row[o->n_rows++] = r;
        else
            keep_bad(o, bad);
        if (o->n_rows > IO_OHLCV_ROWS || o->n_bad > BADS) {
            snprintf(o->why, sizeof o->why, "more than %d rows, or %d bad ones", IO_OHLCV_ROWS, BADS);
            return false;
        }
    }
}

static int by_symbol(const void *a_, const void *b_)
{
    const struct ohlcv_row *a = a_, *b = b_;

    if (a->symbol != b->symbol)
        return a->symbol < b->symbol ? -1 : 1;
    return (a->ts > b->ts) - (a->ts < b->ts);
}

static int by_time(const void *a_, const void *b_)
{
    const struct ohlcv_row *a = a_, *b = b_;

    if (a->ts != b->ts)
        return a->ts < b->ts ? -1 : 1;
    return a->symbol < b->symbol ? -1 : a->symbol > b->symbol;
}

static void sort(struct ohlcv *o)
{
    o->width = INT64_MAX;
    qsort(o->row, o->n_rows, sizeof *o->row, by_symbol);
    for (size_t i = 1; i < o->n_rows; i++) {
        int64_t step = o->row[i].ts - o->row[i - 1].ts;
        if (o->row[i].symbol == o->row[i - 1].symbol && step > 0 && step < o->width)
            o->width = step;
    }
    if (o->width == INT64_MAX)
        o->width = DAY_NS;
    bars_spec(o->width, o->spec);
    qsort(o->row, o->n_rows, sizeof *o->row, by_time);
}

static void push_row(struct ohlcv *o, struct keel_batch *b)
{
    const struct ohlcv_row *r = &o->row[o->at++];
    struct market_event ev = {.ts_init = r->ts + o->width, .ts_event = r->ts + o->width, .kind = MARKET_BAR,
                              .symbol = keel_arena_strdup(b->arena, o->symbol[r->symbol])};

    ev.u.bar.spec = keel_arena_strdup(b->arena, o->spec);
    ev.u.bar.bar = (struct bars_bar){.ts_open = r->ts, .ts_close = r->ts + o->width, .open = r->open, .high = r->high,
                                     .low = r->low, .close = r->close, .volume = r->volume};
    io_push(b, &ev);
}

static enum keel_status ohlcv_next(void *self, struct keel_batch *b, const atomic_bool *stop, char *why, size_t why_cap)
{
    struct ohlcv *o = self;

    if (!o->loaded) {
        o->loaded = true;
        if (!load(o, stop))
            o->n_rows = o->n_bad = 0;
        if (o->n_rows > 0)
            sort(o);
        io_lines_digest(o->in, o->digest);
        atomic_store(&o->conf->total, o->n_rows);
    }
    while (b->n < b->cap && !o->ended && !atomic_load(stop)) {
        int64_t ts = o->n_rows == 0 ? 0 : o->row[o->at < o->n_rows ? o->at : o->n_rows - 1].ts + o->width;
        if (o->bad_at < o->n_bad) {
            io_push_bad(b, ts, o->bad[o->bad_at].line, "%s", o->bad[o->bad_at].why);
            o->bad_at++;
        } else if (o->at < o->n_rows) {
            push_row(o, b);
        } else {
            o->ended = true;
            if (o->why[0] == '\0')
                io_push_end(b, ts, o->digest);
        }
    }
    atomic_store(&o->conf->done, o->at);
    if (o->why[0] == '\0' || b->n > 0)
        return KEEL_OK;
    snprintf(why, why_cap, "%s", o->why);
    return KEEL_UPSTREAM;
}

enum keel_status io_ohlcv_spec(const char *path, char out[BARS_SPEC_LEN], char *why, size_t why_cap)
{
    static const atomic_bool never = false;
    struct io_conf conf = {0};
    struct ohlcv *o;
    void *self;
    enum keel_status st;

    snprintf(conf.path, sizeof conf.path, "%s", path);
    st = ohlcv_open(&conf, &self, why, why_cap);
    if (st != KEEL_OK)
        return st;
    o = self;
    if (load(o, &never) && o->n_rows > 0) {
        sort(o);
        memcpy(out, o->spec, sizeof o->spec);
    } else {
        snprintf(why, why_cap, "no row can be read: %.120s", o->n_bad > 0 ? o->bad[0].why : o->why);
        st = KEEL_INVALID;
    }
    ohlcv_close(o);
    return st;
}

const struct keel_source_ops io_ohlcv = {
    .name = "ohlcv", .item_size = sizeof(struct market_event), .batch_cap = IO_BATCH,
    .open = ohlcv_open, .next = ohlcv_next, .close = ohlcv_close,
};
