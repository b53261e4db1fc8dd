/* State of the engine: opening, publishing, the bars in the store, and the timer that stands in for a silent market. */
#include <string.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "ops.h"

KEEL_RECORD_TABLE(md_options, MD_OPTIONS);

const char md_schema[] =
    "CREATE TABLE IF NOT EXISTS bar (symbol TEXT, spec TEXT, ts_close INTEGER, ts_open INTEGER NOT NULL,"
    " open TEXT NOT NULL, high TEXT NOT NULL, low TEXT NOT NULL, close TEXT NOT NULL, volume TEXT NOT NULL,"
    " buy_volume TEXT, vwap TEXT, trades INTEGER, PRIMARY KEY (symbol, spec, ts_close)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS instrument (symbol TEXT PRIMARY KEY, base_currency TEXT NOT NULL,"
    " quote_currency TEXT NOT NULL, tick TEXT NOT NULL, lot TEXT NOT NULL, multiplier TEXT NOT NULL,"
    " fee_taker TEXT NOT NULL, fee_maker TEXT NOT NULL) WITHOUT ROWID;";

/*
 * The market lives in memory only, and after a failed commit the engine is closed and opened again: feeds that
 * are running must survive that, so what is not in the file is kept here, by process, until the store itself is
 * closed.
 */
static struct md *alive;

static void copy_text(char *to, size_t cap, const char *from)
{
    size_t n = strlen(from);

    if (n > cap - 1)
        n = cap - 1;
    memcpy(to, from, n);
    to[n] = '\0';
}

static bool dec_cell(const char *text, int64_t *out)
{
    return text != NULL && keel_dec_parse(text, strlen(text), out) == KEEL_OK;
}

static enum keel_status load_instrument(void *ctx, int n, const char *const *cell)
{
    struct md *md = ctx;
    char name[MARKET_SYMBOL_LEN + 1];
    struct market_instrument in = {0};
    struct market_symbol *s;

    if (n != 8 || !keel_symbol_normalise(cell[0], name) || !dec_cell(cell[3], &in.tick) ||
        !dec_cell(cell[4], &in.lot) || !dec_cell(cell[5], &in.multiplier) || !dec_cell(cell[6], &in.fee_taker) ||
        !dec_cell(cell[7], &in.fee_maker))
        return KEEL_INTERNAL;
    s = market_add(md->market, name);
    if (s == NULL) {
        keel_log(KEEL_LOG_WARN, "instrument_not_loaded", "symbol=%s detail=max_symbols are known", name);
        return KEEL_OK;
    }
    copy_text(in.symbol, sizeof in.symbol, name);
    copy_text(in.base_currency, sizeof in.base_currency, cell[1]);
    copy_text(in.quote_currency, sizeof in.quote_currency, cell[2]);
    s->instrument = in;
    s->is_configured = true;
    return KEEL_OK;
}

static enum keel_status market_of_options(const struct md_options *o, struct market_conf *conf)
{
    *conf = (struct market_conf){.max_symbols = (size_t)o->max_symbols, .stale_ns = o->book_stale_ms * 1000000};
    conf->dflt = (struct market_instrument){.tick = o->default_tick, .lot = o->default_lot,
                                            .multiplier = o->default_multiplier, .fee_taker = o->default_fee_taker,
                                            .fee_maker = o->default_fee_maker};
    copy_text(conf->dflt.quote_currency, sizeof conf->dflt.quote_currency, o->default_currency);
    for (size_t i = 0; i < o->n_bar_specs; i++) {
        if (bars_width(o->bar_specs[i], &conf->width_ns[conf->n_widths++]) != KEEL_OK) {
            keel_log(KEEL_LOG_ERROR, "bad_option", "field=bar_specs value=%s detail=not 100 ms to 7 d, like 1s or 5m",
                     o->bar_specs[i]);
            return KEEL_INVALID;
        }
    }
    return KEEL_OK;
}

static struct md **place_of(const struct keel_rt *rt)
{
    struct md **at = &alive;

    while (*at != NULL && (*at)->rt != rt)
        at = &(*at)->next;
    return at;
}

static void forget(struct md **at)
{
    struct md *md = *at;

    *at = md->next;
    while (md->feeds != NULL) {
        struct md_feed *f = md->feeds;
        md->feeds = f->next;
        md_feed_free(f);
    }
    market_free(md->market);
    keel_free(md->published);
    keel_free(md);
}

static struct md *begin(struct keel_rt *rt, const struct market_conf *conf)
{
    struct md *md = keel_alloc(1, sizeof *md);
    size_t n;
    const struct market_instrument *builtin = market_builtins(&n);

    md->rt = rt;
    md->market = market_new(conf);
    md->published_kinds = MD_PUB_ALL;
    md->next = alive;
    alive = md;
    for (size_t i = 0; i < n; i++)
        market_add(md->market, builtin[i].symbol);
    return md;
}

enum keel_status md_open(struct keel_rt *rt, void *state)
{
    struct market_conf conf;
    struct md *md = *place_of(rt);
    bool is_new = md == NULL;
    enum keel_status st;

    if (is_new) {
        st = market_of_options(keel_options(rt), &conf);
        if (st != KEEL_OK)
            return st;
        md = begin(rt, &conf);
    }
    st = keel_store_each(keel_store(rt),
                         "SELECT symbol, base_currency, quote_currency, tick, lot, multiplier, fee_taker,"
                         " fee_maker FROM instrument",
                         load_instrument, md);
    if (st != KEEL_OK && is_new)
        forget(place_of(rt));
    else
        ((struct md_state *)state)->md = md;
    return st;
}

void md_close(struct keel_rt *rt, void *state)
{
    struct md **at = place_of(rt);

    (void)state;
    if (keel_store(rt) == NULL && *at != NULL)
        forget(at);
}

/* ---- publishing ---- */

static bool is_published(const struct md *md, unsigned kind, const char *symbol)
{
    return (md->published_kinds & kind) != 0 &&
           (md->n_published == 0 ||
            md_in_list(symbol, (const char(*)[MARKET_SYMBOL_LEN + 1]) md->published, md->n_published));
}

static enum keel_status publish_bar(struct keel_call *c, const struct md *md, const char *symbol, const char *spec,
                                    const struct bars_bar *b, int64_t ts_event, int64_t ts_init)
{
    struct keel_bar r = {
        .symbol = symbol, .has_symbol = true, .spec = spec, .has_spec = true,
        .ts_open = b->ts_open, .has_ts_open = true, .ts_close = b->ts_close, .has_ts_close = true,
        .open = b->open, .has_open = true, .high = b->high, .has_high = true, .low = b->low, .has_low = true,
        .close = b->close, .has_close = true, .volume = b->volume, .has_volume = true,
        .buy_volume = b->buy_volume, .has_buy_volume = b->has_flow, .trades = b->trades, .has_trades = true,
    };

    if (!is_published(md, MD_PUB_BAR, symbol))
        return KEEL_OK;
    r.has_vwap = bars_vwap(b, &r.vwap);
    return keel_publish(c, "marketdata.priority.bar", symbol, ts_event, ts_init, &r);
}

static enum keel_status publish_book(struct keel_call *c, const struct md *md, const struct market_symbol *s)
{
    struct book_level top[10];
    struct keel_pair bids[10], asks[10];
    struct keel_book r = {.symbol = s->instrument.symbol, .has_symbol = true, .state = (int)s->book.state,
                          .has_state = true, .last_seq = s->book.last_seq, .has_last_seq = s->book.has_seq,
                          .bids = bids, .has_bids = true, .asks = asks, .has_asks = true};

    if (!is_published(md, MD_PUB_BOOK, s->instrument.symbol))
        return KEEL_OK;
    r.n_bids = book_top(&s->book.bid, 10, top);
    for (size_t i = 0; i < r.n_bids; i++)
        bids[i] = (struct keel_pair){top[i].price, top[i].qty};
    r.n_asks = book_top(&s->book.ask, 10, top);
    for (size_t i = 0; i < r.n_asks; i++)
        asks[i] = (struct keel_pair){top[i].price, top[i].qty};
    return keel_publish(c, "marketdata.book", s->instrument.symbol, s->book_event, s->book_init, &r);
}

static enum keel_status publish_quote(struct keel_call *c, const struct market_event *ev)
{
    struct keel_quote r = {.symbol = ev->symbol, .has_symbol = true, .bid = ev->u.quote.bid, .has_bid = true,
                           .bid_size = ev->u.quote.bid_size, .has_bid_size = true, .ask = ev->u.quote.ask,
                           .has_ask = true, .ask_size = ev->u.quote.ask_size, .has_ask_size = true};
    return keel_publish(c, "marketdata.quote", ev->symbol, ev->ts_event, ev->ts_init, &r);
}

static enum keel_status publish_trade(struct keel_call *c, const struct market_event *ev)
{
    const struct market_trade *t = &ev->u.trade;
    struct keel_trade r = {.symbol = ev->symbol, .has_symbol = true, .price = t->price, .has_price = true,
                           .size = t->size, .has_size = true, .side = t->side, .has_side = true, .trade_id = t->id,
                           .has_trade_id = t->id != NULL};
    return keel_publish(c, "marketdata.trade", ev->symbol, ev->ts_event, ev->ts_init, &r);
}

static void store_bar(struct md *md, const char *symbol, const char *spec, const struct bars_bar *b)
{
    keel_i128 volume = b->volume, buys = b->buy_volume;
    char text[KEEL_DEC_TEXT];
    int64_t vwap;
    bool has_vwap = bars_vwap(b, &vwap);

    if (strcmp(spec, "1m") != 0)
        return;
    if (md->txn == NULL)
        md->txn = keel_txn_new(keel_store(md->rt));
    if (has_vwap)
        keel_dec_print(vwap, text);
    if (b->has_flow)
        keel_txn_exec(md->txn, "INSERT OR REPLACE INTO bar VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", "ssiiDDDDmmsi", symbol,
                      spec, b->ts_close, b->ts_open, b->open, b->high, b->low, b->close, &volume, &buys,
                      has_vwap ? text : NULL, b->trades);
    else
        keel_txn_exec(md->txn, "INSERT OR REPLACE INTO bar VALUES (?,?,?,?,?,?,?,?,?,NULL,NULL,NULL)", "ssiiDDDDm",
                      symbol, spec, b->ts_close, b->ts_open, b->open, b->high, b->low, b->close, &volume);
}

void md_bars_written(struct md *md, enum keel_status st)
{
    if (st == KEEL_OK)
        return;
    md->bars_lost++;
    keel_log_often(KEEL_LOG_ERROR, "bars_not_stored", "status=%s", keel_status_name(st));
}

static void bars_written(struct keel_rt *rt, void *ctx, enum keel_status st)
{
    struct md *md = ctx;

    (void)rt;
    md->pending--;
    md_bars_written(md, st);
}

void md_flush(struct md *md)
{
    struct keel_txn *txn = md->txn;

    if (txn == NULL)
        return;
    md->txn = NULL;
    md->pending++;
    keel_txn_commit(md->rt, txn, bars_written, md);
}

enum keel_status md_await_bars(struct keel_call *c, struct md *md, keel_step_fn *next)
{
    struct keel_txn *txn = md->txn;

    md->txn = NULL;
    return txn != NULL ? keel_await_store(c, txn, next) : KEEL_OK;
}

enum keel_status md_publish_event(struct keel_call *c, struct md *md, const struct market_event *ev)
{
    switch (ev->kind) {
    case MARKET_QUOTE:
        return is_published(md, MD_PUB_QUOTE, ev->symbol) ? publish_quote(c, ev) : KEEL_OK;
    case MARKET_TRADE:
        return is_published(md, MD_PUB_TRADE, ev->symbol) ? publish_trade(c, ev) : KEEL_OK;
    case MARKET_BAR:
        return publish_bar(c, md, ev->symbol, ev->u.bar.spec, &ev->u.bar.bar, ev->ts_event, ev->ts_init);
    default:
        return KEEL_OK;
    }
}

void md_publish_due(struct keel_call *c, struct md *md, const struct market_due *due, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct bars_bar *b = &due[i].bar;
        const char *symbol = due[i].sym->instrument.symbol;
        enum keel_status st = KEEL_OK;
        if (due[i].kind == MARKET_DUE_BAR) {
            store_bar(md, symbol, due[i].spec, b);
            st = publish_bar(c, md, symbol, due[i].spec, b, b->ts_close, b->ts_close);
        } else {
            st = publish_book(c, md, due[i].sym);
        }
        if (st == KEEL_OK)
            continue;
        md->unpublished++;
        keel_log_often(KEEL_LOG_WARN, "not_published", "symbol=%s what=%s status=%s", symbol,
                       due[i].kind == MARKET_DUE_BAR ? "bar" : "book", keel_status_name(st));
    }
}

void md_take(struct keel_call *c, struct md *md, struct market_symbol *s, const struct market_event *ev,
             const char *source, struct market_counts *counts)
{
    struct market_due due[MARKET_DUE_MAX];

    /* What is over by now closes before the event can count into it. */
    md_publish_due(c, md, due, market_due(md->market, s, ev->ts_init, due, counts));
    market_apply(md->market, s, ev, source, counts);
    if (ev->kind == MARKET_BAR)
        store_bar(md, ev->symbol, ev->u.bar.spec, &ev->u.bar.bar);
    if (ev->kind == MARKET_DEPTH)
        md_publish_due(c, md, due, market_due_book(md->market, s, ev->ts_init, due));
    s->clock_ns = ev->ts_init;
    s->clock_at_ns = keel_mono_ns();
}

/* ---- the timer ---- */

/* A symbol without a feed is on its own clock: its newest stamp, and the time that has passed since. */
static void sweep_symbol(struct keel_call *c, struct md *md, struct market_symbol *s, int64_t now_ns)
{
    const struct md_feed *f = md_feed_by_no(md, s->owner);
    struct market_due due[MARKET_DUE_MAX];
    int64_t clock = s->clock_ns + (now_ns - s->clock_at_ns);

    if (s->clock_ns == 0)
        return;
    if (s->owner == 0)
        md_publish_due(c, md, due, market_due(md->market, s, clock, due, &md->ingested));
    else if (f != NULL && f->speed > 0)
        md_publish_due(c, md, due, market_due_book(md->market, s, clock, due));
}

enum keel_status timer_sweep(struct keel_call *c)
{
    struct md *md = md_of(c);
    int64_t now = keel_mono_ns();
    size_t running = 0;

    for (size_t i = 0; i < market_size(md->market); i++)
        sweep_symbol(c, md, market_at(md->market, i), now);
    md_flush(md);
    md_feeds_say(c, md);
    for (const struct md_feed *f = md->feeds; f != NULL; f = f->next)
        running += f->source != NULL;
    keel_gauge(md->rt, "feeds_running", (double)running);
    keel_gauge(md->rt, "symbols_known", (double)market_size(md->market));
    keel_gauge(md->rt, "points_held", (double)market_stored(md->market));
    keel_gauge(md->rt, "bars_not_stored", (double)md->bars_lost);
    keel_gauge(md->rt, "records_unpublished", (double)md->unpublished);
    return KEEL_OK;
}
