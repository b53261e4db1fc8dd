/* What the engine knows, over HTTP: symbols, snapshots, instruments, points, bars, books, and what is published. */
#include <stdlib.h>
#include <string.h>

#include "ops.h"

KEEL_RECORD_TABLE(md_list, MD_LIST_ROWS);
KEEL_RECORD_TABLE(md_symbol, MD_SYMBOL_ROW);
KEEL_RECORD_TABLE(md_instruments, MD_INSTRUMENTS);
KEEL_RECORD_TABLE(md_instrument, MD_INSTRUMENT);
KEEL_RECORD_TABLE(md_data, MD_DATA);
KEEL_RECORD_TABLE(md_bars, MD_BARS);
KEEL_RECORD_TABLE(md_book, MD_BOOK);
KEEL_RECORD_TABLE(md_subscribe, MD_SUBSCRIBE);

static const char *const book_state_name[] = {"SYNCING", "LIVE", "STALE", "DESYNC"};
static const char *const side_name[] = {"NONE", "BUY", "SELL"};

/* Upper-cases and finds; NOTFOUND when nothing is known of it. */
static enum keel_status find(struct keel_call *c, const char *text, struct market_symbol **out)
{
    char name[MARKET_SYMBOL_LEN + 1];
    enum keel_status st = md_name(c, text, name);

    if (st != KEEL_OK)
        return st;
    *out = market_find(md_of(c)->market, name);
    return *out != NULL ? KEEL_OK : keel_fail(c, KEEL_NOTFOUND, "no symbol %s", name);
}

static bool has_data(const struct market_symbol *s)
{
    return s->ring_n > 0 || s->has_book || s->owner != 0;
}

static void end_list(struct keel_json *w, int64_t count, const char *next)
{
    keel_json_end(w);
    keel_json_i64(w, "count", count);
    keel_json_str(w, "next", next);
    keel_json_end(w);
}

static void write_dec(struct keel_json *w, const char *key, bool has, int64_t v)
{
    if (has)
        keel_json_dec(w, key, v);
    else
        keel_json_null(w, key);
}

/* ---- lists by name: symbols, instruments ---- */

static int by_name(const void *a_, const void *b_)
{
    const struct market_symbol *const *a = a_, *const *b = b_;
    return strcmp((*a)->instrument.symbol, (*b)->instrument.symbol);
}

/* All symbols, or those that have data, in the order of their names. */
static struct market_symbol **sorted(struct keel_call *c, bool with_data, size_t *n)
{
    const struct market *m = md_of(c)->market;
    struct market_symbol **all = keel_arena_array(c->arena, market_size(m) + 1, sizeof *all);

    *n = 0;
    for (size_t i = 0; i < market_size(m); i++) {
        struct market_symbol *s = market_at(m, i);
        if (!with_data || has_data(s))
            all[(*n)++] = s;
    }
    qsort(all, *n, sizeof *all, by_name);
    return all;
}

static void write_symbol(struct keel_json *w, const struct md *md, const struct market_symbol *s)
{
    const struct md_feed *f = md_feed_by_no(md, s->owner);

    keel_json_obj(w, NULL);
    keel_json_str(w, "symbol", s->instrument.symbol);
    write_dec(w, "last", s->has_last, s->last);
    write_dec(w, "bid", s->has_quote, s->quote.bid);
    write_dec(w, "ask", s->has_quote, s->quote.ask);
    keel_json_str(w, "book_state", s->has_book ? book_state_name[s->book.state] : NULL);
    keel_json_str(w, "feed_id", f != NULL ? f->feed_id : NULL);
    keel_json_u64(w, "points", s->ring_n);
    keel_json_end(w);
}

enum keel_status api_symbols(struct keel_call *c)
{
    const struct md_list *q = c->arg;
    const struct md *md = md_of(c);
    size_t n, i = 0;
    struct market_symbol **all = sorted(c, true, &n);
    int64_t count = 0;

    while (q->has_after && i < n && strcmp(all[i]->instrument.symbol, q->after) <= 0)
        i++;
    keel_json_obj(&c->out, NULL);
    keel_json_arr(&c->out, "symbols");
    for (; i < n && count < q->limit; i++, count++)
        write_symbol(&c->out, md, all[i]);
    end_list(&c->out, count, i < n && count > 0 ? all[i - 1]->instrument.symbol : NULL);
    return KEEL_OK;
}

static void write_instrument(struct keel_json *w, const char *key, const struct market_instrument *in,
                             const char *basis)
{
    keel_json_obj(w, key);
    keel_json_str(w, "symbol", in->symbol[0] != '\0' ? in->symbol : NULL);
    keel_json_dec(w, "tick", in->tick);
    keel_json_dec(w, "lot", in->lot);
    keel_json_dec(w, "multiplier", in->multiplier);
    keel_json_str(w, "base_currency", in->base_currency[0] != '\0' ? in->base_currency : NULL);
    keel_json_str(w, "quote_currency", in->quote_currency);
    keel_json_dec(w, "fee_taker", in->fee_taker);
    keel_json_dec(w, "fee_maker", in->fee_maker);
    keel_json_str(w, "basis", basis);
    keel_json_end(w);
}

static const char *basis_of(const struct market_symbol *s)
{
    return s->is_configured ? "configured" : market_builtin(s->instrument.symbol) != NULL ? "builtin" : "default";
}

enum keel_status api_instruments(struct keel_call *c)
{
    const struct md_instruments *q = c->arg;
    size_t n, i = 0;
    struct market_symbol **all = sorted(c, false, &n), *only = NULL;
    int64_t count = 0;
    enum keel_status st = q->has_symbol ? find(c, q->symbol, &only) : KEEL_OK;

    if (st != KEEL_OK)
        return st;
    if (only != NULL) {
        all[0] = only;
        n = 1;
    }
    while (q->has_after && i < n && strcmp(all[i]->instrument.symbol, q->after) <= 0)
        i++;
    keel_json_obj(&c->out, NULL);
    write_instrument(&c->out, "default_instrument", &market_conf(md_of(c)->market)->dflt, "default");
    keel_json_arr(&c->out, "instruments");
    for (; i < n && count < q->limit; i++, count++)
        write_instrument(&c->out, NULL, &all[i]->instrument, basis_of(all[i]));
    end_list(&c->out, count, i < n && count > 0 ? all[i - 1]->instrument.symbol : NULL);
    return KEEL_OK;
}

static enum keel_status instrument_stored(struct keel_call *c)
{
    const struct market_instrument *in = c->ctx;
    struct market_symbol *s = NULL;
    enum keel_status st = keel_wait_status(c);

    if (st != KEEL_OK)
        return st;
    s = market_add(md_of(c)->market, in->symbol);
    if (s != NULL) {
        s->instrument = *in;
        s->is_configured = true;
    }
    write_instrument(&c->out, NULL, in, "configured");
    return KEEL_OK;
}

static void put_text(char *to, size_t cap, const char *from)
{
    size_t n = strlen(from);

    keel_assert(n < cap);
    memcpy(to, from, n + 1);
}

/* What the body leaves out stays as it is. */
enum keel_status api_instrument_post(struct keel_call *c)
{
    const struct md_instrument *q = c->arg;
    struct md *md = md_of(c);
    struct market_instrument *in = keel_arena_alloc(c->arena, sizeof *in);
    char name[MARKET_SYMBOL_LEN + 1];
    const struct market_symbol *s;
    struct keel_txn *txn;
    enum keel_status st = md_name(c, q->symbol, name);

    if (st != KEEL_OK)
        return st;
    s = market_add(md->market, name);
    if (s == NULL)
        return keel_fail_as(c, KEEL_CONFLICT, "too_many_symbols", "symbol", "MAX_SYMBOLS symbols are known already");
    *in = s->instrument;
    in->tick = q->has_tick ? q->tick : in->tick;
    in->lot = q->has_lot ? q->lot : in->lot;
    in->multiplier = q->has_multiplier ? q->multiplier : in->multiplier;
    in->fee_taker = q->has_fee_taker ? q->fee_taker : in->fee_taker;
    in->fee_maker = q->has_fee_maker ? q->fee_maker : in->fee_maker;
    if (q->has_base_currency)
        put_text(in->base_currency, sizeof in->base_currency, q->base_currency);
    if (q->has_quote_currency)
        put_text(in->quote_currency, sizeof in->quote_currency, q->quote_currency);
    txn = keel_txn_new(keel_store(c->rt));
    keel_txn_exec(txn, "INSERT OR REPLACE INTO instrument VALUES (?,?,?,?,?,?,?,?)", "sssDDDDD", in->symbol,
                  in->base_currency, in->quote_currency, in->tick, in->lot, in->multiplier, in->fee_taker,
                  in->fee_maker);
    c->ctx = in;
    return keel_await_store(c, txn, instrument_stored);
}

/* ---- one symbol ---- */

static void write_day(struct keel_json *w, const struct market_day *d)
{
    int64_t vwap;

    keel_json_obj(w, "daily_stats");
    keel_json_decnum(w, "open", d->open);
    keel_json_decnum(w, "high", d->high);
    keel_json_decnum(w, "low", d->low);
    keel_json_decnum(w, "close", d->close);
    keel_json_moneynum(w, "volume", d->volume);
    keel_json_i64(w, "trades", d->trades);
    if (d->has_flow && d->volume > 0 && d->volume <= INT64_MAX &&
        keel_money_per(d->notional, (int64_t)d->volume, &vwap) == KEEL_OK)
        keel_json_decnum(w, "vwap", vwap);
    else
        keel_json_null(w, "vwap");
    keel_json_end(w);
}

enum keel_status api_snapshot(struct keel_call *c)
{
    const struct md_symbol *q = c->arg;
    struct market_symbol *s = NULL;
    struct keel_json *w = &c->out;
    enum keel_status st = find(c, q->symbol, &s);

    if (st != KEEL_OK)
        return st;
    if (!has_data(s))
        return keel_fail(c, KEEL_NOTFOUND, "no data of %s", s->instrument.symbol);
    keel_json_obj(w, NULL);
    keel_json_str(w, "symbol", s->instrument.symbol);
    if (s->clock_ns != 0)
        keel_json_time(w, "timestamp", s->clock_ns);
    else
        keel_json_null(w, "timestamp");
    if (s->has_trade) {
        keel_json_obj(w, "last_trade");
        keel_json_decnum(w, "price", s->trade.price);
        keel_json_decnum(w, "size", s->trade.size);
        keel_json_str(w, "side", side_name[s->trade.side]);
        keel_json_str(w, "trade_id", s->trade_id[0] != '\0' ? s->trade_id : NULL);
        keel_json_time(w, "timestamp", s->trade_event);
        keel_json_end(w);
    } else {
        keel_json_null(w, "last_trade");
    }
    if (s->has_quote) {
        keel_json_obj(w, "quote");
        keel_json_decnum(w, "bid", s->quote.bid);
        keel_json_decnum(w, "bid_size", s->quote.bid_size);
        keel_json_decnum(w, "ask", s->quote.ask);
        keel_json_decnum(w, "ask_size", s->quote.ask_size);
        keel_json_time(w, "timestamp", s->quote_event);
        keel_json_end(w);
    } else {
        keel_json_null(w, "quote");
    }
    if (s->day.has_price)
        write_day(w, &s->day);
    else
        keel_json_null(w, "daily_stats");
    keel_json_str(w, "book_state", s->has_book ? book_state_name[s->book.state] : NULL);
    keel_json_end(w);
    return KEEL_OK;
}

static void write_side(struct keel_json *w, const char *key, const struct book_level *l, size_t n)
{
    keel_json_arr(w, key);
    for (size_t i = 0; i < n; i++) {
        keel_json_arr(w, NULL);
        keel_json_dec(w, NULL, l[i].price);
        keel_json_dec(w, NULL, l[i].qty);
        keel_json_end(w);
    }
    keel_json_end(w);
}

enum keel_status api_book(struct keel_call *c)
{
    const struct md_book *q = c->arg;
    struct book_level *top = keel_arena_array(c->arena, (size_t)q->depth, sizeof *top);
    struct market_symbol *s = NULL;
    struct keel_json *w = &c->out;
    enum keel_status st = find(c, q->symbol, &s);

    if (st != KEEL_OK)
        return st;
    if (!s->has_book)
        return keel_fail(c, KEEL_NOTFOUND, "no book of %s", s->instrument.symbol);
    if (s->book.state == BOOK_DESYNC)
        return keel_fail_as(c, KEEL_CONFLICT, "book_desync", NULL,
                            "the book of %s lost its sequence and waits for a snapshot", s->instrument.symbol);
    if (s->book.state == BOOK_SYNCING)
        return keel_fail_as(c, KEEL_CONFLICT, "book_syncing", NULL, "the book of %s waits for its first snapshot",
                            s->instrument.symbol);
    keel_json_obj(w, NULL);
    keel_json_str(w, "symbol", s->instrument.symbol);
    keel_json_str(w, "state", book_state_name[s->book.state]);
    keel_json_time(w, "timestamp", s->book_event);
    if (s->book.has_seq)
        keel_json_i64(w, "last_seq", s->book.last_seq);
    else
        keel_json_null(w, "last_seq");
    write_side(w, "bids", top, book_top(&s->book.bid, (size_t)q->depth, top));
    write_side(w, "asks", top, book_top(&s->book.ask, (size_t)q->depth, top));
    keel_json_u64(w, "bid_levels", s->book.bid.n);
    keel_json_u64(w, "ask_levels", s->book.ask.n);
    keel_json_end(w);
    return KEEL_OK;
}

/* ---- points ---- */

static void write_point_data(struct keel_json *w, const struct market_point *p)
{
    keel_json_obj(w, "data");
    switch (p->kind) {
    case MARKET_QUOTE:
        keel_json_decnum(w, "bid", p->u.quote.bid);
        keel_json_decnum(w, "bid_size", p->u.quote.bid_size);
        keel_json_decnum(w, "ask", p->u.quote.ask);
        keel_json_decnum(w, "ask_size", p->u.quote.ask_size);
        break;
    case MARKET_TRADE:
        keel_json_decnum(w, "price", p->u.trade.price);
        keel_json_decnum(w, "size", p->u.trade.size);
        keel_json_str(w, "side", side_name[p->u.trade.side]);
        keel_json_str(w, "trade_id", p->text[0] != '\0' ? p->text : NULL);
        break;
    case MARKET_BAR:
        keel_json_str(w, "spec", p->text);
        keel_json_decnum(w, "open", p->u.bar.open);
        keel_json_decnum(w, "high", p->u.bar.high);
        keel_json_decnum(w, "low", p->u.bar.low);
        keel_json_decnum(w, "close", p->u.bar.close);
        keel_json_moneynum(w, "volume", p->u.bar.volume);
        break;
    default:
        keel_json_bool(w, "snapshot", p->u.depth.snapshot);
        if (p->u.depth.has_seq) {
            keel_json_i64(w, "first_seq", p->u.depth.first_seq);
            keel_json_i64(w, "last_seq", p->u.depth.last_seq);
        }
        keel_json_u64(w, "bid_changes", p->u.depth.n_bids);
        keel_json_u64(w, "ask_changes", p->u.depth.n_asks);
    }
    keel_json_end(w);
}

static void write_point(struct keel_json *w, const struct market_symbol *s, const struct market_point *p)
{
    static const char *const type[] = {"quote", "trade", "bar", "level2"};

    keel_json_obj(w, NULL);
    keel_json_str(w, "symbol", s->instrument.symbol);
    keel_json_str(w, "data_type", type[p->kind]);
    keel_json_str(w, "source", p->source[0] != '\0' ? p->source : NULL);
    keel_json_time(w, "timestamp", p->ts_event);
    keel_json_time(w, "received", p->ts_init);
    write_point_data(w, p);
    keel_json_end(w);
}

enum keel_status api_data(struct keel_call *c)
{
    static const int kind_of[] = {-1, MARKET_TRADE, MARKET_TRADE, MARKET_QUOTE, MARKET_BAR, MARKET_DEPTH};
    const struct md_data *q = c->arg;
    struct market_symbol *s = NULL;
    int64_t n = 0;
    enum keel_status st = find(c, q->symbol, &s);

    if (st != KEEL_OK)
        return st;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "symbol", s->instrument.symbol);
    keel_json_arr(&c->out, "data");
    for (size_t i = 0; i < s->ring_n && n < q->limit; i++) {
        const struct market_point *p = market_point_back(s, i);
        if ((kind_of[q->data_type] >= 0 && (int)p->kind != kind_of[q->data_type]) ||
            (q->has_from && p->ts_event < q->from) || (q->has_to && p->ts_event >= q->to))
            continue;
        write_point(&c->out, s, p);
        n++;
    }
    /* What is kept is one page. */
    end_list(&c->out, n, NULL);
    return KEEL_OK;
}

/* ---- bars ---- */

static void write_money(struct keel_json *w, const char *key, bool has, keel_i128 v)
{
    if (has)
        keel_json_money(w, key, v);
    else
        keel_json_null(w, key);
}

static void write_bar(struct keel_json *w, const struct bars_bar *b)
{
    int64_t vwap = 0;
    bool has_vwap = bars_vwap(b, &vwap);

    keel_json_obj(w, NULL);
    keel_json_time(w, "ts_open", b->ts_open);
    keel_json_time(w, "ts_close", b->ts_close);
    keel_json_dec(w, "open", b->open);
    keel_json_dec(w, "high", b->high);
    keel_json_dec(w, "low", b->low);
    keel_json_dec(w, "close", b->close);
    keel_json_money(w, "volume", b->volume);
    write_money(w, "buy_volume", b->has_flow, b->buy_volume);
    write_dec(w, "vwap", has_vwap, vwap);
    if (b->has_flow)
        keel_json_i64(w, "trades", b->trades);
    else
        keel_json_null(w, "trades");
    keel_json_end(w);
}

static void begin_bars(struct keel_json *w, const char *symbol, const char *spec)
{
    keel_json_obj(w, NULL);
    keel_json_str(w, "symbol", symbol);
    keel_json_str(w, "spec", spec);
    keel_json_arr(w, "bars");
}

static void write_stored(struct keel_json *w, const struct keel_rows *r, size_t row)
{
    static const char *const key[] = {"open", "high", "low", "close", "volume", "buy_volume", "vwap"};
    int64_t ts = 0;

    keel_json_obj(w, NULL);
    for (size_t i = 0; i < 2; i++) {
        const char *text = KEEL_CELL(r, row, i);
        if (text != NULL && keel_i64_parse(text, strlen(text), &ts) == KEEL_OK)
            keel_json_time(w, i == 0 ? "ts_open" : "ts_close", ts);
    }
    for (size_t i = 0; i < KEEL_COUNT(key); i++)
        keel_json_str(w, key[i], KEEL_CELL(r, row, i + 2));
    if (KEEL_CELL(r, row, 9) != NULL)
        keel_json_raw(w, "trades", KEEL_CELL(r, row, 9), strlen(KEEL_CELL(r, row, 9)));
    else
        keel_json_null(w, "trades");
    keel_json_end(w);
}

static enum keel_status stored_bars(struct keel_call *c)
{
    const struct md_bars *q = c->arg;
    const char *symbol = c->ctx;
    size_t n = c->rows->n;
    enum keel_status st = keel_wait_status(c);
    const char *next = NULL;

    if (st != KEEL_OK)
        return st;
    if (n > (size_t)q->limit) {
        n = (size_t)q->limit;
        next = KEEL_CELL(c->rows, n - 1, 1);
    }
    begin_bars(&c->out, symbol, q->spec);
    for (size_t i = 0; i < n; i++)
        write_stored(&c->out, c->rows, i);
    end_list(&c->out, (int64_t)n, next);
    return KEEL_OK;
}

static enum keel_status kept_bars(struct keel_call *c, const struct market_symbol *s)
{
    const struct md_bars *q = c->arg;
    const struct market_bars *bars = market_bars_of(s, q->spec);
    int64_t n = 0, last = 0;
    size_t i = 0;
    bool more;

    while (bars != NULL && q->has_after && i < bars->n && market_bar_back(bars, i)->ts_close >= q->after)
        i++;
    begin_bars(&c->out, s->instrument.symbol, q->spec);
    for (; bars != NULL && i < bars->n && n < q->limit; i++, n++) {
        write_bar(&c->out, market_bar_back(bars, i));
        last = market_bar_back(bars, i)->ts_close;
    }
    more = bars != NULL && i < bars->n && n > 0;
    end_list(&c->out, n, more ? keel_arena_printf(c->arena, "%lld", (long long)last) : NULL);
    return KEEL_OK;
}

/* Bars of a minute are in the store and outlive the process; others are kept in memory. Newest first. */
enum keel_status api_bars(struct keel_call *c)
{
    static const char sql[] =
        "SELECT ts_open, ts_close, open, high, low, close, volume, buy_volume, vwap, trades FROM bar"
        " WHERE symbol = ? AND spec = ? AND ts_close < ? ORDER BY ts_close DESC LIMIT ?";
    const struct md_bars *q = c->arg;
    char *name = keel_arena_alloc(c->arena, MARKET_SYMBOL_LEN + 1);
    const struct market_symbol *s;
    int64_t width;
    enum keel_status st = md_name(c, q->symbol, name);

    if (st != KEEL_OK)
        return st;
    if (bars_width(q->spec, &width) != KEEL_OK)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "spec", "spec must be 100 ms to 7 d, like 1s or 5m");
    if (strcmp(q->spec, "1m") == 0) {
        c->ctx = name;
        return keel_await_read(c, sql, "ssii", stored_bars, name, q->spec, q->has_after ? q->after : INT64_MAX,
                               q->limit + 1);
    }
    s = market_find(md_of(c)->market, name);
    return s != NULL ? kept_bars(c, s) : keel_fail(c, KEEL_NOTFOUND, "no symbol %s", name);
}

/* ---- what is published ---- */

static const struct { const char *type, *topic; unsigned kind; } publications[] = {
    {"quote", "marketdata.quote", MD_PUB_QUOTE},
    {"trade", "marketdata.trade", MD_PUB_TRADE},
    {"bar", "marketdata.priority.bar", MD_PUB_BAR},
    {"level2", "marketdata.book", MD_PUB_BOOK},
};

enum keel_status api_subscriptions(struct keel_call *c)
{
    const struct md *md = md_of(c);
    struct keel_json *w = &c->out;

    keel_json_obj(w, NULL);
    keel_json_arr(w, "subscriptions");
    for (size_t i = 0; i < KEEL_COUNT(publications); i++) {
        keel_json_obj(w, NULL);
        keel_json_str(w, "topic", publications[i].topic);
        keel_json_str(w, "data_type", publications[i].type);
        keel_json_bool(w, "published", (md->published_kinds & publications[i].kind) != 0);
        keel_json_end(w);
    }
    keel_json_end(w);
    keel_json_arr(w, "symbols");
    for (size_t i = 0; i < md->n_published; i++)
        keel_json_str(w, NULL, md->published[i]);
    keel_json_end(w);
    keel_json_bool(w, "all_symbols", md->n_published == 0);
    keel_json_u64(w, "count", KEEL_COUNT(publications));
    keel_json_null(w, "next");
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

/* Feeds of the bus are limited for every reader: what is left out here is not on the bus. */
enum keel_status api_subscribe(struct keel_call *c)
{
    const struct md_subscribe *q = c->arg;
    struct md *md = md_of(c);
    char (*symbols)[MARKET_SYMBOL_LEN + 1];
    unsigned kinds = q->n_data_types == 0 ? MD_PUB_ALL : 0;
    enum keel_status st;

    for (size_t i = 0; i < q->n_data_types; i++) {
        const char *type = strcmp(q->data_types[i], "tick") == 0 ? "trade" : q->data_types[i];
        size_t k = 0;
        while (k < KEEL_COUNT(publications) && strcmp(publications[k].type, type) != 0)
            k++;
        if (k == KEEL_COUNT(publications))
            return keel_fail_as(c, KEEL_INVALID, "out_of_range", "data_types",
                                "data_types are quote, trade (or tick), bar, level2");
        kinds |= publications[k].kind;
    }
    st = md_symbols(c, q->symbols, q->n_symbols, &symbols);
    if (st != KEEL_OK)
        return st;
    keel_free(md->published);
    md->published = symbols;
    md->n_published = q->n_symbols;
    md->published_kinds = kinds;
    return api_subscriptions(c);
}
