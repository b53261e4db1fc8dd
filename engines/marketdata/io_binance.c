/*
 * A raw capture of Binance's WebSocket streams: lines `<local receive time in ns> <JSON>`, plain or gzip. Read
 * are depthUpdate, bookTicker, trade and the REST depth snapshot that a book needs; other streams are sound
 * records that are not used. ts_init is the local stamp, ts_event the venue's: the two clocks may differ by
 * more than the latency.
 */
#include "io.h"

#include <stdio.h>
#include <string.h>

#include "keel/json.h"

struct binance {
    struct io_lines *in;
    struct io_conf *conf;
    int64_t newest;
    char symbol[MARKET_SYMBOL_LEN + 1]; /* of the newest depthUpdate: the snapshot does not name its own */
    bool ended;
};

static enum keel_status binance_open(void *cfg, void **self, char *why, size_t why_cap)
{
    struct io_conf *conf = cfg;
    struct binance *b = keel_alloc(1, sizeof *b);
    enum keel_status st = io_lines_open(conf->path, &b->in, why, why_cap);

    if (st != KEEL_OK) {
        keel_free(b);
        return st;
    }
    /* Until a depthUpdate says better, what the file is called: btcusdt_20240808.gz. */
    (void)io_file_symbol(conf->path, "_.-@", b->symbol);
    b->conf = conf;
    atomic_store(&conf->total, io_file_size(conf->path));
    *self = b;
    return KEEL_OK;
}

static void binance_close(void *self)
{
    struct binance *b = self;
    io_lines_close(b->in);
    keel_free(b);
}

static bool dec_of(const struct keel_jval *v, int64_t least, int64_t *out)
{
    return v != NULL && (v->type == KEEL_JSTR || v->type == KEEL_JNUM) &&
           keel_dec_parse(v->text, v->len, out) == KEEL_OK && *out >= least;
}

static bool int_of(const struct keel_jval *obj, const char *name, int64_t *out)
{
    const struct keel_jval *v = keel_jget(obj, name);
    return v != NULL && v->type == KEEL_JNUM && keel_i64_parse(v->text, v->len, out) == KEEL_OK;
}

/*
 * Transaction time, else event time, else the local stamp. Milliseconds, or microseconds where the stream was
 * asked for them.
 */
static int64_t event_time(const struct keel_jval *obj, int64_t local)
{
    int64_t t;

    if ((!int_of(obj, "T", &t) && !int_of(obj, "E", &t)) || t <= 0 || t > 9000000000000000)
        return local;
    return t > 100000000000000 ? t * 1000 : t * 1000000;
}

static bool levels_of(const struct keel_jval *arr, struct keel_arena *a, const struct book_level **out, size_t *n)
{
    struct book_level *l;
    size_t i = 0;

    if (arr == NULL || arr->type != KEEL_JARR || arr->len > BOOK_MAX_LEVELS)
        return false;
    l = keel_arena_array(a, arr->len, sizeof *l);
    for (const struct keel_jval *v = arr->child; v != NULL; v = v->next, i++) {
        const struct keel_jval *p = v->type == KEEL_JARR ? v->child : NULL;
        if (p == NULL || !dec_of(p, 1, &l[i].price) || !dec_of(p->next, 0, &l[i].qty))
            return false;
    }
    *out = l;
    *n = arr->len;
    return true;
}

static const char *take_snapshot(const struct keel_jval *obj, struct keel_arena *a, struct market_event *ev)
{
    struct book_delta *d = &ev->u.depth;

    ev->kind = MARKET_DEPTH;
    d->snapshot = d->has_seq = true;
    if (!int_of(obj, "lastUpdateId", &d->last_seq) || !levels_of(keel_jget(obj, "bids"), a, &d->bids, &d->n_bids) ||
        !levels_of(keel_jget(obj, "asks"), a, &d->asks, &d->n_asks))
        return "not a depth snapshot";
    d->first_seq = d->last_seq;
    return NULL;
}

static const char *take_depth(const struct keel_jval *obj, struct keel_arena *a, struct market_event *ev)
{
    struct book_delta *d = &ev->u.depth;

    ev->kind = MARKET_DEPTH;
    d->has_seq = true;
    d->rule = int_of(obj, "pu", &d->prev_seq) ? BOOK_FUTURES : BOOK_SPOT;
    if (!int_of(obj, "U", &d->first_seq) || !int_of(obj, "u", &d->last_seq) || d->first_seq > d->last_seq)
        return "depthUpdate without a valid U and u";
    if (!levels_of(keel_jget(obj, "b"), a, &d->bids, &d->n_bids) ||
        !levels_of(keel_jget(obj, "a"), a, &d->asks, &d->n_asks))
        return "depthUpdate with a level that is not [price, quantity]";
    return NULL;
}

static const char *take_quote(const struct keel_jval *obj, struct market_event *ev)
{
    struct market_quote *q = &ev->u.quote;

    ev->kind = MARKET_QUOTE;
    if (!dec_of(keel_jget(obj, "b"), 1, &q->bid) || !dec_of(keel_jget(obj, "B"), 0, &q->bid_size) ||
        !dec_of(keel_jget(obj, "a"), 1, &q->ask) || !dec_of(keel_jget(obj, "A"), 0, &q->ask_size))
        return "bookTicker without valid b, B, a, A";
    return q->bid > q->ask ? "bookTicker with bid above ask" : NULL;
}

static const char *take_trade(const struct keel_jval *obj, struct keel_arena *a, struct market_event *ev)
{
    const struct keel_jval *m = keel_jget(obj, "m"), *id = keel_jget(obj, "t");
    const char *how = keel_jstr(obj, "X");

    ev->kind = MARKET_TRADE;
    /* Insurance fund and liquidation settlements carry no market price. */
    if (how[0] != '\0' && strcmp(how, "MARKET") != 0) {
        ev->kind = MARKET_OTHER;
        return NULL;
    }
    if (!dec_of(keel_jget(obj, "p"), 1, &ev->u.trade.price) || !dec_of(keel_jget(obj, "q"), 1, &ev->u.trade.size) ||
        m == NULL || m->type != KEEL_JBOOL || id == NULL || id->type != KEEL_JNUM)
        return "trade without valid t, p, q, m";
    /* m: the buyer was the maker, so a seller took. */
    ev->u.trade.side = m->boolean ? 2 : 1;
    ev->u.trade.id = keel_arena_strndup(a, id->text, id->len);
    return NULL;
}

static const char *take_message(struct binance *self, const struct keel_jval *root, struct keel_arena *a,
                                struct market_event *ev)
{
    const struct keel_jval *obj = keel_jget(root, "data");
    char symbol[MARKET_SYMBOL_LEN + 1];
    const char *kind, *s;

    if (obj == NULL)
        obj = root;
    if (obj->type != KEEL_JOBJ)
        return "not a JSON object";
    ev->ts_event = event_time(obj, ev->ts_init);
    kind = keel_jstr(obj, "e");
    s = keel_jstr(obj, "s");
    if (keel_jget(obj, "lastUpdateId") != NULL) {
        ev->symbol = keel_arena_strdup(a, self->symbol);
        return self->symbol[0] == '\0' ? "a snapshot before any depthUpdate" : take_snapshot(obj, a, ev);
    }
    if (!keel_symbol_normalise(s, symbol)) {
        ev->kind = MARKET_OTHER;
        return kind[0] != '\0' ? "no valid symbol" : NULL;
    }
    ev->symbol = keel_arena_strdup(a, symbol);
    if (strcmp(kind, "depthUpdate") == 0) {
        memcpy(self->symbol, symbol, sizeof symbol);
        return take_depth(obj, a, ev);
    }
    /* Spot's bookTicker has no e. */
    if (strcmp(kind, "bookTicker") == 0 || (kind[0] == '\0' && keel_jget(obj, "B") != NULL))
        return take_quote(obj, ev);
    if (strcmp(kind, "trade") == 0)
        return take_trade(obj, a, ev);
    ev->kind = MARKET_OTHER;
    return NULL;
}

static void take_line(struct binance *self, struct keel_batch *b, const char *text, size_t len)
{
    struct market_event ev = {0};
    const char *space = memchr(text, ' ', len), *why = NULL;
    const struct keel_jval *root;
    int64_t local;

    if (space == NULL || keel_i64_parse(text, (size_t)(space - text), &local) != KEEL_OK || local <= 0) {
        io_push_bad(b, self->newest, io_lines_no(self->in), "the line does not begin with a stamp in ns");
        return;
    }
    if (local > self->newest)
        self->newest = local;
    ev.ts_init = self->newest;
    if (keel_json_parse(b->arena, space + 1, len - (size_t)(space + 1 - text), &root, &why) == KEEL_OK)
        why = take_message(self, root, b->arena, &ev);
    if (why != NULL)
        io_push_bad(b, self->newest, io_lines_no(self->in), "%.160s", why);
    else
        io_push(b, &ev);
}

static enum keel_status binance_next(void *self_, struct keel_batch *b, const atomic_bool *stop, char *why,
                                     size_t why_cap)
{
    struct binance *self = self_;
    char digest[KEEL_SHA256_TEXT], *text;
    size_t len;

    while (b->n < b->cap && !self->ended && !atomic_load(stop)) {
        switch (io_lines_next(self->in, &text, &len)) {
        case IO_LINE:
            if (len > 0)
                take_line(self, b, text, len);
            break;
        case IO_LINE_LONG:
            io_push_bad(b, self->newest, io_lines_no(self->in), "a line of more than %d bytes", IO_LINE_MAX);
            break;
        case IO_LINE_END:
            io_lines_digest(self->in, digest);
            io_push_end(b, self->newest, digest);
            self->ended = true;
            break;
        case IO_LINE_FAILED:
            /* What was read goes out first; the next call comes back here. */
            if (b->n > 0)
                return KEEL_OK;
            snprintf(why, why_cap, "%s", io_lines_why(self->in));
            return KEEL_UPSTREAM;
        }
    }
    atomic_store(&self->conf->done, io_lines_bytes(self->in));
    return KEEL_OK;
}

const struct keel_source_ops io_binance = {
    .name = "binance", .item_size = sizeof(struct market_event), .batch_cap = IO_BATCH,
    .open = binance_open, .next = binance_next, .close = binance_close,
};
