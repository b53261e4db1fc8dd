/*
 * LEAN minute bars: a folder named by its symbol that holds YYYYMMDD_trade.csv and YYYYMMDD_quote.csv, or a
 * folder of such folders. All files are merged by time. A row is known when its minute is over, so that is its
 * stamp: quote bars give the best bid and ask as they closed, trade bars are bars. Prices are in 1/10000, times
 * in ms since midnight in New York.
 */
#include "io.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MINUTE_NS 60000000000LL
#define HOUR_NS (60 * MINUTE_NS)
#define DAY_NS (24 * HOUR_NS)

struct lean_file {
    char *rel; /* symbol folder and name, or the name */
    char symbol[MARKET_SYMBOL_LEN + 1], digest[KEEL_SHA256_TEXT];
    bool is_trade;
    int64_t midnight; /* local wall time, ns since 1970 */
};

/* The files of one symbol and kind, one after the other, and the row that comes next. */
struct lean_stream {
    size_t at, end;
    struct io_lines *in;
    struct market_event head;
    bool has_head;
    int64_t newest;
    char detail[128];
};

struct lean {
    struct io_conf *conf;
    char root[IO_PATH];
    struct lean_file *file;
    size_t n_files, cap_files;
    struct lean_stream *stream;
    size_t n_streams;
    int64_t newest;
    bool ended;
    char why[200];
};

/* ---- New York ---- */
/* Day of the n-th (1..4) Sunday of a month, or the last one (n 5). */
static int64_t sunday(int year, int month, int n)
{
    int64_t first = keel_days_from_civil(year, month, 1);
    int64_t next = month == 12 ? keel_days_from_civil(year + 1, 1, 1) : keel_days_from_civil(year, month + 1, 1);
    int64_t day = first + (10 - (first % 7 + 7) % 7) % 7 + 7 * (n - 1); /* 1970-01-01 was a Thursday */
    return day < next ? day : day - 7;
}

int64_t io_new_york_to_utc(int64_t local_ns)
{
    int64_t day = local_ns / DAY_NS - (local_ns % DAY_NS < 0), begin, end;
    int year = (int)(1970 + day / 366);

    while (keel_days_from_civil(year + 1, 1, 1) <= day)
        year++;
    while (keel_days_from_civil(year, 1, 1) > day)
        year--;
    begin = year >= 2007 ? sunday(year, 3, 2) : year >= 1987 ? sunday(year, 4, 1) : sunday(year, 4, 5);
    end = year >= 2007 ? sunday(year, 11, 1) : sunday(year, 10, 5);
    if (year >= 1967 && local_ns >= begin * DAY_NS + 2 * HOUR_NS && local_ns < end * DAY_NS + 2 * HOUR_NS)
        return local_ns + 4 * HOUR_NS;
    return local_ns + 5 * HOUR_NS;
}

/* ---- the folder ---- */
static bool civil_day(const char *s, int64_t *day)
{
    int v[8], year, month, mday;

    for (int i = 0; i < 8; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        v[i] = s[i] - '0';
    }
    year = v[0] * 1000 + v[1] * 100 + v[2] * 10 + v[3];
    month = v[4] * 10 + v[5];
    mday = v[6] * 10 + v[7];
    if (year < 1900 || month < 1 || month > 12 || mday < 1)
        return false;
    *day = keel_days_from_civil(year, month, mday);
    return *day < (month == 12 ? keel_days_from_civil(year + 1, 1, 1) : keel_days_from_civil(year, month + 1, 1));
}

/* YYYYMMDD_trade.csv, YYYYMMDD_quote.csv, either with .gz */
static bool file_name(const char *name, bool *is_trade, int64_t *day)
{
    const char *rest = name + 8;

    if (strlen(name) < 18 || !civil_day(name, day))
        return false;
    *is_trade = strncmp(rest, "_trade.csv", 10) == 0;
    return (*is_trade || strncmp(rest, "_quote.csv", 10) == 0) && (rest[10] == '\0' || strcmp(rest + 10, ".gz") == 0);
}

static void add_file(struct lean *l, const char *dir, const char *name, const char *symbol, bool is_trade, int64_t day)
{
    struct lean_file *f;
    size_t n = strlen(dir) + strlen(name) + 2;

    if (l->n_files == l->cap_files) {
        l->cap_files = l->cap_files == 0 ? 64 : l->cap_files * 2;
        l->file = keel_realloc(l->file, l->cap_files, sizeof *l->file);
    }
    f = &l->file[l->n_files++];
    memset(f, 0, sizeof *f);
    f->rel = keel_alloc(n, 1);
    snprintf(f->rel, n, "%s%s%s", dir, dir[0] != '\0' ? "/" : "", name);
    memcpy(f->symbol, symbol, sizeof f->symbol);
    f->is_trade = is_trade;
    f->midnight = day * DAY_NS;
}

/* Adds the files of root/dir; dir "" is the root itself. False: too many. */
static bool scan(struct lean *l, const char *dir, bool deeper)
{
    char path[IO_PATH + 300], symbol[MARKET_SYMBOL_LEN + 1];
    struct dirent *e;
    struct stat st;
    bool ok = true;
    DIR *d;
    const char *folder = dir[0] != '\0' ? dir : io_base_name(l->root);

    snprintf(path, sizeof path, "%s/%s", l->root, dir);
    d = opendir(path);
    while (d != NULL && ok && (e = readdir(d)) != NULL) {
        bool is_trade;
        int64_t day;
        if (e->d_name[0] == '.')
            continue;
        if (file_name(e->d_name, &is_trade, &day)) {
            if (keel_symbol_normalise(folder, symbol))
                add_file(l, dir, e->d_name, symbol, is_trade, day);
            ok = l->n_files < IO_LEAN_FILES;
        } else if (deeper) {
            snprintf(path, sizeof path, "%s/%.255s", l->root, e->d_name);
            if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
                ok = scan(l, e->d_name, false);
        }
    }
    if (d != NULL)
        closedir(d);
    return ok;
}

static int by_stream(const void *a_, const void *b_)
{
    const struct lean_file *a = a_, *b = b_;
    int c = strcmp(a->symbol, b->symbol);

    if (c == 0)
        c = a->is_trade - b->is_trade;
    return c != 0 ? c : (a->midnight > b->midnight) - (a->midnight < b->midnight);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct lean_file *)a)->rel, ((const struct lean_file *)b)->rel);
}

static void lean_close(void *self)
{
    struct lean *l = self;

    for (size_t i = 0; i < l->n_streams; i++)
        io_lines_close(l->stream[i].in);
    for (size_t i = 0; i < l->n_files; i++)
        keel_free(l->file[i].rel);
    keel_free(l->stream);
    keel_free(l->file);
    keel_free(l);
}

static void group(struct lean *l)
{
    qsort(l->file, l->n_files, sizeof *l->file, by_stream);
    l->stream = keel_alloc(l->n_files, sizeof *l->stream);
    for (size_t i = 0; i < l->n_files; i++) {
        const struct lean_file *f = &l->file[i];
        if (i == 0 || strcmp(f->symbol, f[-1].symbol) != 0 || f->is_trade != f[-1].is_trade)
            l->stream[l->n_streams++].at = i;
        l->stream[l->n_streams - 1].end = i + 1;
    }
}

static enum keel_status lean_open(void *cfg, void **self, char *why, size_t why_cap)
{
    struct io_conf *conf = cfg;
    struct lean *l = keel_alloc(1, sizeof *l);
    size_t n;

    l->conf = conf;
    snprintf(l->root, sizeof l->root, "%s", conf->path);
    for (n = strlen(l->root); n > 1 && l->root[n - 1] == '/'; n--)
        l->root[n - 1] = '\0';
    if (!scan(l, "", true)) {
        snprintf(why, why_cap, "more than %d files", IO_LEAN_FILES);
    } else if (l->n_files == 0) {
        snprintf(why, why_cap, "no YYYYMMDD_trade.csv or YYYYMMDD_quote.csv in a folder named by a symbol");
    } else {
        group(l);
        atomic_store(&conf->total, l->n_files);
        if (l->n_streams <= IO_LEAN_STREAMS) {
            *self = l;
            return KEEL_OK;
        }
        snprintf(why, why_cap, "more than %d symbols", IO_LEAN_STREAMS / 2);
        l->n_streams = 0;
    }
    lean_close(l);
    return KEEL_INVALID;
}

/* ---- rows ---- */
/* Up to cap comma-separated fields, cut in place; returns how many there are, cap + 1 when there are more. */
static size_t split(char *text, char *field[], size_t cap)
{
    size_t n = 0;

    for (char *p = text; p != NULL; n++) {
        char *comma = strchr(p, ',');
        if (n == cap)
            return cap + 1;
        field[n] = p;
        if (comma != NULL)
            *comma++ = '\0';
        p = comma;
    }
    return n;
}

/* 1/10000 to a dec. */
static bool price_of(const char *s, int64_t *out)
{
    int64_t v;

    if (keel_dec_parse(s, strlen(s), &v) != KEEL_OK || v <= 0 || v % 10000 != 0)
        return false;
    *out = v / 10000;
    return true;
}

static bool is_sound(int64_t open, int64_t high, int64_t low, int64_t close)
{
    return low <= open && low <= close && high >= open && high >= close;
}

static const char *quote_row(char **f, size_t n, struct market_event *ev)
{
    struct market_quote *q = &ev->u.quote;
    int64_t v[8];

    if (n != 11)
        return "a quote row has 11 fields";
    for (size_t i = 0; i < 8; i++) {
        if (!price_of(f[i < 4 ? 1 + i : 2 + i], &v[i]))
            return "a side is absent or no price";
    }
    ev->kind = MARKET_QUOTE;
    q->bid = v[3];
    q->ask = v[7];
    if (keel_dec_parse(f[5], strlen(f[5]), &q->bid_size) != KEEL_OK || q->bid_size < 0 ||
        keel_dec_parse(f[10], strlen(f[10]), &q->ask_size) != KEEL_OK || q->ask_size < 0)
        return "a size is no quantity";
    if (!is_sound(v[0], v[1], v[2], v[3]) || !is_sound(v[4], v[5], v[6], v[7]))
        return "high and low do not contain open and close";
    return q->bid > q->ask ? "bid above ask" : NULL;
}

static const char *trade_row(char **f, size_t n, struct market_event *ev)
{
    struct bars_bar *b = &ev->u.bar.bar;

    ev->kind = MARKET_BAR;
    ev->u.bar.spec = "1m";
    if (n != 6)
        return "a trade row has 6 fields";
    if (!price_of(f[1], &b->open) || !price_of(f[2], &b->high) || !price_of(f[3], &b->low) ||
        !price_of(f[4], &b->close))
        return "not a price";
    if (keel_money_parse(f[5], strlen(f[5]), &b->volume) != KEEL_OK || b->volume < 0)
        return "volume is no quantity";
    b->ts_open = ev->ts_init - MINUTE_NS;
    b->ts_close = ev->ts_init;
    return is_sound(b->open, b->high, b->low, b->close) ? NULL : "high and low do not contain open and close";
}

static const char *row(const struct lean_file *f, char *text, struct market_event *ev)
{
    char *field[11];
    size_t n = split(text, field, 11);
    int64_t ms;

    if (keel_i64_parse(field[0], strlen(field[0]), &ms) != KEEL_OK || ms < 0 || ms * 1000000 >= DAY_NS)
        return "the row does not begin with ms since midnight";
    ev->ts_init = ev->ts_event = io_new_york_to_utc(f->midnight + ms * 1000000) + MINUTE_NS;
    ev->symbol = f->symbol;
    return f->is_trade ? trade_row(field, n, ev) : quote_row(field, n, ev);
}

static void set_head(struct lean_stream *s, const struct market_event *ev, const char *bad, const struct lean_file *f)
{
    s->head = *ev;
    s->has_head = true;
    if (bad == NULL && ev->ts_init < s->newest)
        bad = "earlier than the row before";
    if (bad == NULL) {
        s->newest = ev->ts_init;
        return;
    }
    snprintf(s->detail, sizeof s->detail, "%.60s: %.60s", f->rel, bad);
    s->head = (struct market_event){.ts_init = s->newest, .ts_event = s->newest, .kind = MARKET_BAD,
                                    .u.bad = {io_lines_no(s->in), s->detail}};
}

/* The stream's next row into head; none is left when has_head stays false. */
static enum keel_status refill(struct lean *l, struct lean_stream *s)
{
    char path[2 * IO_PATH], *text;
    size_t len;

    s->has_head = false;
    while (s->at < s->end) {
        struct lean_file *f = &l->file[s->at];
        struct market_event ev = {0};
        if (s->in == NULL) {
            snprintf(path, sizeof path, "%s/%s", l->root, f->rel);
            if (io_lines_open(path, &s->in, l->why, sizeof l->why) != KEEL_OK)
                return KEEL_UPSTREAM;
        }
        switch (io_lines_next(s->in, &text, &len)) {
        case IO_LINE:
            if (len == 0)
                break;
            set_head(s, &ev, row(f, text, &ev), f);
            return KEEL_OK;
        case IO_LINE_LONG:
            set_head(s, &ev, "the line is too long", f);
            return KEEL_OK;
        case IO_LINE_END:
            io_lines_digest(s->in, f->digest);
            atomic_fetch_add(&l->conf->done, 1);
            io_lines_close(s->in);
            s->in = NULL;
            s->at++;
            break;
        case IO_LINE_FAILED:
            snprintf(l->why, sizeof l->why, "%.90s: %.90s", f->rel, io_lines_why(s->in));
            return KEEL_UPSTREAM;
        }
    }
    return KEEL_OK;
}

static void push_head(struct lean *l, struct lean_stream *s, struct keel_batch *b)
{
    struct market_event *ev = io_push(b, &s->head);

    /* A bad first row has no stamp of its own. */
    if (ev->ts_init < l->newest)
        ev->ts_init = ev->ts_event = l->newest;
    l->newest = ev->ts_init;
    if (ev->kind == MARKET_BAD)
        ev->u.bad.detail = keel_arena_strdup(b->arena, ev->u.bad.detail);
    else
        ev->symbol = keel_arena_strdup(b->arena, ev->symbol);
}

/* One file: its digest. More: that of the lines "<digest>  <name>" in the order of names, as sha256sum prints them. */
static void push_digest(struct lean *l, struct keel_batch *b)
{
    char digest[KEEL_SHA256_TEXT];
    struct keel_sha256 sha;

    qsort(l->file, l->n_files, sizeof *l->file, by_name);
    keel_sha256_init(&sha);
    for (size_t i = 0; i < l->n_files; i++) {
        keel_sha256_add(&sha, l->file[i].digest, KEEL_SHA256_TEXT - 1);
        keel_sha256_add(&sha, "  ", 2);
        keel_sha256_add(&sha, l->file[i].rel, strlen(l->file[i].rel));
        keel_sha256_add(&sha, "\n", 1);
    }
    keel_sha256_text(&sha, digest);
    io_push_end(b, l->newest, l->n_files == 1 ? l->file[0].digest : digest);
}

static enum keel_status lean_next(void *self, struct keel_batch *b, const atomic_bool *stop, char *why, size_t why_cap)
{
    struct lean *l = self;

    while (b->n < b->cap && !l->ended && l->why[0] == '\0' && !atomic_load(stop)) {
        struct lean_stream *next = NULL;
        for (size_t i = 0; i < l->n_streams && l->why[0] == '\0'; i++) {
            struct lean_stream *s = &l->stream[i];
            if (!s->has_head && s->at < s->end && refill(l, s) != KEEL_OK)
                break;
            if (s->has_head && (next == NULL || s->head.ts_init < next->head.ts_init))
                next = s;
        }
        if (l->why[0] != '\0')
            break;
        if (next != NULL) {
            push_head(l, next, b);
            next->has_head = false;
        } else {
            push_digest(l, b);
            l->ended = true;
        }
    }
    if (l->why[0] == '\0' || b->n > 0)
        return KEEL_OK;
    snprintf(why, why_cap, "%s", l->why);
    return KEEL_UPSTREAM;
}

const struct keel_source_ops io_lean = {
    .name = "lean", .item_size = sizeof(struct market_event), .batch_cap = IO_BATCH,
    .open = lean_open, .next = lean_next, .close = lean_close,
};
