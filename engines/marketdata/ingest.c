/*
 * POST /data/ingest. Each item is judged on its own: a bad one is refused with its index, code and field, the
 * others are taken. Decoding is pure and moves to a worker when the body is large; taking happens in one step,
 * published before it is applied, so that an item refused for want of room has changed nothing.
 */
#include <string.h>

#include "ops.h"

KEEL_RECORD_TABLE(md_ingest, MD_INGEST);

#define LARGE 16384 /* bytes of data that are not decoded on the loop */

/* Everything may be absent here: what is missing is this item's rejection, not the request's. */
#define INGEST_ITEM(X, S)                                                                                              \
    X(S, STR, symbol, KEEL_OPT, 0, 256, "", "symbol")                                                                  \
    X(S, STR, data_type, KEEL_OPT, 0, 32, "", "tick, trade, quote, bar or level2")                                     \
    X(S, STR, source, KEEL_OPT, 0, 64, "", "who sends it")                                                             \
    X(S, TIME, timestamp, KEEL_OPT, 0, 0, "", "when it happened")                                                      \
    X(S, F64, latency_ms, KEEL_OPT, 0, 0, "ms", "as the sender measured it; not used")                                 \
    X(S, JSON, data, KEEL_OPT, 2, MD_INGEST_BYTES, "", "by data_type")
KEEL_RECORD(ingest_item, INGEST_ITEM);
KEEL_RECORD_TABLE(ingest_item, INGEST_ITEM);

#define INGEST_TRADE(X, S)                                                                                             \
    X(S, DEC, price, NULL, 0, 0, "price", "price")                                                                     \
    X(S, DEC, size, NULL, 0, 0, "quantity", "size")                                                                    \
    X(S, ENUM, side, "NONE", 0, 0, KEEL_AGGRESSOR, "who took liquidity")                                               \
    X(S, STR, trade_id, KEEL_OPT, 1, 64, "", "the venue's id")                                                         \
    X(S, REST, other, KEEL_OPT, 0, 0, "", "ignored")
KEEL_RECORD(ingest_trade, INGEST_TRADE);
KEEL_RECORD_TABLE(ingest_trade, INGEST_TRADE);

#define INGEST_QUOTE(X, S)                                                                                             \
    X(S, DEC, bid, NULL, 0, 0, "price", "best bid")                                                                    \
    X(S, DEC, bid_size, NULL, 0, 0, "quantity", "size at the best bid")                                                \
    X(S, DEC, ask, NULL, 0, 0, "price", "best ask")                                                                    \
    X(S, DEC, ask_size, NULL, 0, 0, "quantity", "size at the best ask")                                                \
    X(S, REST, other, KEEL_OPT, 0, 0, "", "ignored")
KEEL_RECORD(ingest_quote, INGEST_QUOTE);
KEEL_RECORD_TABLE(ingest_quote, INGEST_QUOTE);

#define INGEST_BAR(X, S)                                                                                               \
    X(S, STR, spec, NULL, 2, 15, "", "1m, ...")                                                                        \
    X(S, DEC, open, NULL, 0, 0, "price", "first")                                                                      \
    X(S, DEC, high, NULL, 0, 0, "price", "highest")                                                                    \
    X(S, DEC, low, NULL, 0, 0, "price", "lowest")                                                                      \
    X(S, DEC, close, NULL, 0, 0, "price", "last")                                                                      \
    X(S, MONEY, volume, NULL, 0, 0, "quantity", "sum of sizes")                                                        \
    X(S, REST, other, KEEL_OPT, 0, 0, "", "ignored")
KEEL_RECORD(ingest_bar, INGEST_BAR);
KEEL_RECORD_TABLE(ingest_bar, INGEST_BAR);

#define INGEST_LEVEL2(X, S)                                                                                            \
    X(S, BOOL, snapshot, "false", 0, 0, "", "the whole book, not a difference")                                        \
    X(S, I64, first_seq, KEEL_OPT, 0, 0, "", "first of the numbers it covers")                                         \
    X(S, I64, last_seq, KEEL_OPT, 0, 0, "", "last of them; first_seq alone is not enough")                             \
    X(S, PAIRS, bids, NULL, 0, 5000, "[price, quantity]", "any order; quantity 0 removes")                             \
    X(S, PAIRS, asks, NULL, 0, 5000, "[price, quantity]", "any order; quantity 0 removes")                             \
    X(S, REST, other, KEEL_OPT, 0, 0, "", "ignored")
KEEL_RECORD(ingest_level2, INGEST_LEVEL2);
KEEL_RECORD_TABLE(ingest_level2, INGEST_LEVEL2);

struct item { struct market_event ev; const char *source; struct keel_record_error bad; /* code NULL: sound */ };
struct job {
    struct keel_arena *a;
    const char *text;
    size_t len, n;
    int64_t wall_ns;
    struct item *item;
    const char *why; /* the array itself is no good */
    struct keel_ignored ignored;
};

static bool refuse(struct item *it, const char *code, const char *field, const char *detail)
{
    it->bad = (struct keel_record_error){code, field, detail};
    return false;
}

static bool positive(struct job *j, struct item *it, int64_t v, const char *field)
{
    return v > 0 || refuse(it, "out_of_range", field, keel_arena_printf(j->a, "%s must be > 0", field));
}

static bool not_negative(struct job *j, struct item *it, int64_t v, const char *field)
{
    return v >= 0 || refuse(it, "out_of_range", field, keel_arena_printf(j->a, "%s must be >= 0", field));
}

static bool fields_of(struct job *j, struct item *it, const struct keel_fields *f, const struct keel_jval *data,
                      void *out)
{
    return keel_record_decode(f, j->a, data, out, &j->ignored, &it->bad) == KEEL_OK;
}

static bool take_trade(struct job *j, struct item *it, const struct keel_jval *data)
{
    struct ingest_trade r;

    it->ev.kind = MARKET_TRADE;
    if (!fields_of(j, it, &ingest_trade_fields, data, &r) || !positive(j, it, r.price, "price") ||
        !positive(j, it, r.size, "size"))
        return false;
    it->ev.u.trade = (struct market_trade){r.price, r.size, r.side, r.has_trade_id ? r.trade_id : NULL};
    return true;
}

static bool take_quote(struct job *j, struct item *it, const struct keel_jval *data)
{
    struct ingest_quote r;

    it->ev.kind = MARKET_QUOTE;
    if (!fields_of(j, it, &ingest_quote_fields, data, &r) || !positive(j, it, r.bid, "bid") ||
        !positive(j, it, r.ask, "ask") || !not_negative(j, it, r.bid_size, "bid_size") ||
        !not_negative(j, it, r.ask_size, "ask_size"))
        return false;
    it->ev.u.quote = (struct market_quote){r.bid, r.bid_size, r.ask, r.ask_size};
    return r.bid <= r.ask || refuse(it, "crossed", "bid", "bid must not be above ask");
}

static bool take_bar(struct job *j, struct item *it, const struct keel_jval *data)
{
    struct ingest_bar r;
    struct bars_bar *b = &it->ev.u.bar.bar;
    char *spec = keel_arena_alloc(j->a, BARS_SPEC_LEN);
    int64_t width;

    it->ev.kind = MARKET_BAR;
    if (!fields_of(j, it, &ingest_bar_fields, data, &r) || !positive(j, it, r.low, "low"))
        return false;
    if (bars_width(r.spec, &width) != KEEL_OK)
        return refuse(it, "out_of_range", "spec", "spec must be 100 ms to 7 d, like 1s or 5m");
    if (r.volume < 0)
        return refuse(it, "out_of_range", "volume", "volume must be >= 0");
    if (r.low > r.open || r.low > r.close || r.high < r.open || r.high < r.close)
        return refuse(it, "out_of_range", "high", "high and low must contain open and close");
    bars_spec(width, spec);
    it->ev.u.bar.spec = spec;
    *b = (struct bars_bar){.ts_open = it->ev.ts_event - width, .ts_close = it->ev.ts_event, .open = r.open,
                           .high = r.high, .low = r.low, .close = r.close, .volume = r.volume};
    return true;
}

static const struct book_level *levels(struct job *j, const struct keel_pair *pair, size_t n)
{
    struct book_level *l = keel_arena_array(j->a, n, sizeof *l);

    for (size_t i = 0; i < n; i++) {
        if (pair[i].p <= 0 || pair[i].q < 0)
            return NULL;
        l[i] = (struct book_level){pair[i].p, pair[i].q};
    }
    return l;
}

static bool take_level2(struct job *j, struct item *it, const struct keel_jval *data)
{
    struct ingest_level2 r;
    struct book_delta *d = &it->ev.u.depth;

    it->ev.kind = MARKET_DEPTH;
    if (!fields_of(j, it, &ingest_level2_fields, data, &r))
        return false;
    *d = (struct book_delta){.snapshot = r.snapshot,
                             .has_seq = r.has_last_seq,
                             .rule = BOOK_PLAIN,
                             .last_seq = r.last_seq,
                             .first_seq = r.has_first_seq ? r.first_seq : r.last_seq,
                             .n_bids = r.n_bids,
                             .n_asks = r.n_asks};
    if (r.has_first_seq && !r.has_last_seq)
        return refuse(it, "missing", "last_seq", "last_seq is required with first_seq");
    if (d->first_seq > d->last_seq)
        return refuse(it, "out_of_range", "first_seq", "first_seq must not be above last_seq");
    d->bids = levels(j, r.bids, r.n_bids);
    d->asks = levels(j, r.asks, r.n_asks);
    if (d->bids == NULL || d->asks == NULL)
        return refuse(it, "out_of_range", d->bids == NULL ? "bids" : "asks", "prices must be > 0, quantities >= 0");
    return true;
}

static bool take_data(struct job *j, struct item *it, const char *type, const struct keel_jval *data)
{
    if (strcmp(type, "trade") == 0 || strcmp(type, "tick") == 0)
        return take_trade(j, it, data);
    if (strcmp(type, "quote") == 0)
        return take_quote(j, it, data);
    if (strcmp(type, "bar") == 0)
        return take_bar(j, it, data);
    if (strcmp(type, "level2") == 0)
        return take_level2(j, it, data);
    return refuse(it, "unsupported", "data_type",
                  keel_arena_printf(j->a, "data_type %.32s is none of tick, trade, quote, bar, level2", type));
}

static bool missing(struct job *j, struct item *it, const char *field)
{
    return refuse(it, "missing", field, keel_arena_printf(j->a, "%s is required", field));
}

static bool take_item(struct job *j, struct item *it, const struct keel_jval *v)
{
    char *symbol = keel_arena_alloc(j->a, MARKET_SYMBOL_LEN + 1);
    struct ingest_item r;
    const struct keel_jval *data = keel_jget(v, "data");

    if (v->type != KEEL_JOBJ)
        return refuse(it, "wrong_type", "data", "an item must be an object");
    if (keel_record_decode(&ingest_item_fields, j->a, v, &r, &j->ignored, &it->bad) != KEEL_OK)
        return false;
    it->source = r.source;
    if (!r.has_symbol)
        return missing(j, it, "symbol");
    if (!keel_symbol_normalise(r.symbol, symbol))
        return refuse(it, "bad_symbol", "symbol", "symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}");
    if (!r.has_data_type)
        return missing(j, it, "data_type");
    if (!r.has_timestamp)
        return missing(j, it, "timestamp");
    if (r.timestamp > j->wall_ns)
        return refuse(it, "ahead_of_clock", "timestamp", "timestamp is ahead of the clock");
    if (r.timestamp <= 0)
        return refuse(it, "out_of_range", "timestamp", "timestamp must be after 1970");
    if (data == NULL || data->type != KEEL_JOBJ)
        return missing(j, it, "data");
    it->ev.symbol = symbol;
    it->ev.ts_event = r.timestamp;
    it->ev.ts_init = j->wall_ns;
    return take_data(j, it, r.data_type, data);
}

static enum keel_status decode(void *job, const atomic_bool *stop)
{
    struct job *j = job;
    const struct keel_jval *arr;
    size_t i = 0;

    if (keel_json_parse(j->a, j->text, j->len, &arr, &j->why) != KEEL_OK)
        return KEEL_INVALID;
    if (arr->type != KEEL_JARR || arr->len == 0 || arr->len > MD_INGEST_ITEMS) {
        j->why = arr->type == KEEL_JARR ? "data must hold 1 to 5000 items" : "data must be an array";
        return KEEL_INVALID;
    }
    j->n = arr->len;
    j->item = keel_arena_array(j->a, j->n, sizeof *j->item);
    for (const struct keel_jval *v = arr->child; v != NULL; v = v->next, i++) {
        if (i % 256 == 0 && atomic_load(stop))
            return KEEL_CANCELLED;
        take_item(j, &j->item[i], v);
    }
    return KEEL_OK;
}

/* ---- on the loop ---- */

static bool apply(struct keel_call *c, struct md *md, struct job *j, struct item *it)
{
    const char *symbol = it->ev.symbol;
    struct market_symbol *s = market_add(md->market, symbol);
    struct md_feed *f = md_feed_for_ingest(md, symbol);
    struct market_counts *counts = f != NULL ? &f->c : &md->ingested;
    uint32_t no = f != NULL ? f->no : 0;
    uint64_t gaps = counts->sequence_gaps, crossed = counts->crossed;

    if (s == NULL)
        return refuse(it, "too_many_symbols", "symbol", "MAX_SYMBOLS symbols are known already");
    if (s->owner != 0) {
        const struct md_feed *owner = md_feed_by_no(md, s->owner);
        return refuse(it, "owned_by_feed", "symbol",
                      keel_arena_printf(j->a, "feed %s runs on %s", owner != NULL ? owner->feed_id : "", symbol));
    }
    if (s->feed != no) {
        market_begin(s, md->market);
        s->feed = no;
        s->clock_ns = 0;
    }
    if (market_is_duplicate(s, &it->ev)) {
        counts->duplicates++;
        return refuse(it, "duplicate", "trade_id", "the trade before had the same id");
    }
    if (md_publish_event(c, md, &it->ev) != KEEL_OK)
        return refuse(it, "outbox_full", "data", "the outbox has no room; try again later");
    /* The clock of a symbol does not go back when the machine's does. */
    if (it->ev.ts_init < s->clock_ns)
        it->ev.ts_init = s->clock_ns;
    market_count(s, &it->ev, counts);
    md_take(c, md, s, &it->ev, it->source, counts);
    if (counts->sequence_gaps != gaps)
        return refuse(it, "sequence_gap", "first_seq", "it does not follow the one before; send a snapshot");
    if (counts->crossed != crossed)
        return refuse(it, "crossed", "bids", "a bid is above an ask; send a snapshot");
    return true;
}

static void write_rejected(struct keel_json *w, const struct job *j)
{
    keel_json_arr(w, "rejected");
    for (size_t i = 0; i < j->n; i++) {
        const struct keel_record_error *e = &j->item[i].bad;
        if (e->code == NULL)
            continue;
        keel_json_obj(w, NULL);
        keel_json_u64(w, "index", i);
        keel_json_str(w, "code", e->code);
        keel_json_str(w, "field", e->field);
        keel_json_str(w, "detail", e->detail);
        keel_json_end(w);
    }
    keel_json_end(w);
}

/*
 * Members of the problem that answers when every item was refused. The call itself does not fail: an item that leaves
 * a gap is refused and has put its book out of step, which the bus must still hear of.
 */
static void begin_problem(struct keel_call *c)
{
    c->http = keel_status_http(KEEL_UNDEFINED);
    c->type = "application/problem+json";
    keel_json_str(&c->out, "type", "about:blank");
    keel_json_str(&c->out, "title", keel_status_text(KEEL_UNDEFINED));
    keel_json_i64(&c->out, "status", c->http);
    keel_json_str(&c->out, "detail", "every item was rejected");
    keel_json_str(&c->out, "code", "all_rejected");
    keel_json_str(&c->out, "trace_id", keel_trace_id(c));
}

static enum keel_status bars_stored(struct keel_call *c)
{
    enum keel_status st = keel_wait_status(c);

    md_bars_written(md_of(c), st);
    return st == KEEL_OK ? KEEL_OK
                         : keel_fail_as(c, KEEL_UNAVAILABLE, "store_unavailable", NULL,
                                        "the minute bars could not be stored: send them again");
}

static enum keel_status take(struct keel_call *c)
{
    struct job *j = c->job;
    struct md *md = md_of(c);
    size_t rejected = 0;
    enum keel_status st = keel_wait_status(c);

    if (st == KEEL_INVALID)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "data", "%s", j->why);
    if (st != KEEL_OK)
        return st;
    for (size_t i = 0; i < j->n; i++) {
        if (j->item[i].bad.code == NULL)
            apply(c, md, j, &j->item[i]);
        rejected += j->item[i].bad.code != NULL;
    }
    keel_json_obj(&c->out, NULL);
    if (rejected == j->n)
        begin_problem(c);
    else
        keel_json_str(&c->out, "status", rejected == 0 ? "ingested" : "partial");
    keel_json_u64(&c->out, "count", j->n - rejected);
    keel_json_u64(&c->out, "total_stored", market_stored(md->market));
    write_rejected(&c->out, j);
    c->ignored = j->ignored;
    keel_write_ignored(c);
    keel_json_end(&c->out);
    return md_await_bars(c, md, bars_stored);
}

enum keel_status api_ingest(struct keel_call *c)
{
    static const atomic_bool never = false;
    const struct md_ingest *q = c->arg;
    struct job *j = keel_arena_alloc(c->arena, sizeof *j);
    enum keel_status st;

    j->a = c->arena;
    j->text = q->data;
    j->len = q->n_data;
    j->wall_ns = c->wall_ns;
    c->job = j;
    if (j->len > LARGE)
        return keel_await_work(c, decode, j, take);
    st = decode(j, &never);
    if (st == KEEL_OK)
        return take(c);
    return keel_fail_as(c, KEEL_INVALID, "out_of_range", "data", "%s", j->why);
}
