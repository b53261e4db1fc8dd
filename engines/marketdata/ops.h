/*
 * The marketdata engine: its state, what its files share, and the steps of its ops.
 *
 * Whatever the source, an event goes one way: it is published, then applied to the market, then what it made
 * due (bars that are over, a book that changed) is published. Feeds come in slices whose room on the bus was
 * asked for before; what clients put in with /data/ingest is refused item by item when there is none.
 */
#ifndef MARKETDATA_OPS_H
#define MARKETDATA_OPS_H

#include "io.h"
#include "keel/call.h"
#include "keel/contract.h"
#include "keel/engine.h"
#include "keel/store.h"
#include "market.h"

#define MD_FEEDS 64         /* kept in the list */
#define MD_RUNNING 16       /* at a time */
#define MD_BAD 20           /* bad records kept with their line */
#define MD_PENDING 256      /* store transactions a feed may be ahead of the disk */
#define MD_INGEST_ITEMS 5000
#define MD_INGEST_BYTES (1 << 20)

#define MD_OPTIONS(X, S)                                                                                               \
    X(S, I64, book_stale_ms, "30000", 100, 86400000, "ms", "a book silent for so long (session time) is STALE")        \
    X(S, STRS, bar_specs, "1s,1m", 0, 8, "", "widths of the bars built from trades; the first is the finest")          \
    X(S, STRS, feed_dirs, KEEL_OPT, 0, 64, "", "directories a replay may read besides DATA_DIR, separated by commas")  \
    X(S, I64, max_symbols, "1000", 16, 65536, "", "symbols known at a time")                                           \
    X(S, DEC, default_tick, "0.000000001", 1e-9, 1e6, "price", "price step of a symbol that no instrument names")      \
    X(S, DEC, default_lot, "0.000000001", 1e-9, 1e6, "quantity", "quantity step of such a symbol")                     \
    X(S, DEC, default_multiplier, "1", 1e-9, 1e6, "", "value of one unit of quantity at price 1")                      \
    X(S, STR, default_currency, "USDT", 1, 12, "", "currency such a symbol is priced in: that of portfolio main")      \
    X(S, DEC, default_fee_taker, "0.0004", 0, 1, "fraction", "fee on what takes liquidity")                            \
    X(S, DEC, default_fee_maker, "0.0002", 0, 1, "fraction", "fee on what gives liquidity")
KEEL_RECORD(md_options, MD_OPTIONS);

#define MD_LIST_ROWS(X, S)                                                                                             \
    X(S, I64, limit, "100", 1, KEEL_LIST_MAX, "", "most items of the answer")                                          \
    X(S, STR, after, KEEL_OPT, 1, 64, "", "next of the answer before")
KEEL_RECORD(md_list, MD_LIST_ROWS);

#define MD_SYMBOL_ROW(X, S) X(S, STR, symbol, NULL, 1, 32, "", "symbol")
KEEL_RECORD(md_symbol, MD_SYMBOL_ROW);

#define MD_INSTRUMENTS(X, S)                                                                                           \
    MD_LIST_ROWS(X, S)                                                                                                 \
    X(S, STR, symbol, KEEL_OPT, 1, 32, "", "only this one")
KEEL_RECORD(md_instruments, MD_INSTRUMENTS);

#define MD_INSTRUMENT(X, S)                                                                                            \
    MD_SYMBOL_ROW(X, S)                                                                                                \
    X(S, DEC, tick, KEEL_OPT, 1e-9, 1e6, "price", "price step")                                                        \
    X(S, DEC, lot, KEEL_OPT, 1e-9, 1e6, "quantity", "quantity step")                                                   \
    X(S, DEC, multiplier, KEEL_OPT, 1e-9, 1e6, "", "value of one unit of quantity at price 1")                         \
    X(S, STR, base_currency, KEEL_OPT, 0, 12, "", "what is traded")                                                    \
    X(S, STR, quote_currency, KEEL_OPT, 1, 12, "", "what it is priced in")                                             \
    X(S, DEC, fee_taker, KEEL_OPT, -1, 1, "fraction", "of the notional; below 0: a rebate")                            \
    X(S, DEC, fee_maker, KEEL_OPT, -1, 1, "fraction", "of the notional; below 0: a rebate")
KEEL_RECORD(md_instrument, MD_INSTRUMENT);

#define MD_TYPES "all|tick|trade|quote|bar|level2"
#define MD_DATA(X, S)                                                                                                  \
    MD_SYMBOL_ROW(X, S)                                                                                                \
    X(S, ENUM, data_type, "all", 0, 0, MD_TYPES, "kind of point; tick is trade")                                       \
    X(S, I64, limit, "100", 1, KEEL_LIST_MAX, "", "most items of the answer")                                          \
    X(S, TIME, from, KEEL_OPT, 0, 0, "", "first instant, included")                                                    \
    X(S, TIME, to, KEEL_OPT, 0, 0, "", "last instant, excluded")
KEEL_RECORD(md_data, MD_DATA);

#define MD_BARS(X, S)                                                                                                  \
    MD_SYMBOL_ROW(X, S)                                                                                                \
    X(S, STR, spec, "1m", 2, 16, "", "1s, 1m, 1d, ...")                                                                \
    X(S, I64, limit, "100", 1, KEEL_LIST_MAX, "", "most items of the answer")                                          \
    X(S, TIME, after, KEEL_OPT, 0, 0, "", "next of the answer before")
KEEL_RECORD(md_bars, MD_BARS);

#define MD_BOOK(X, S)                                                                                                  \
    MD_SYMBOL_ROW(X, S)                                                                                                \
    X(S, I64, depth, "10", 1, 5000, "levels", "levels a side")
KEEL_RECORD(md_book, MD_BOOK);

#define MD_FEED_KINDS "simulate|replay|ingest"
#define MD_FORMATS "auto|binance|lean|ohlcv"
#define MD_FEED(X, S)                                                                                                \
    X(S, STR, feed_id, KEEL_OPT, 1, 64, "", "absent: one is made")                                                   \
    X(S, ENUM, kind, KEEL_OPT, 0, 0, MD_FEED_KINDS, "absent: by the other fields")                                   \
    X(S, I64, seed, "1", 0, 0, "", "simulate: the same seed gives the same session")                                 \
    X(S, F64, duration_s, "0", 0, 31622400, "s", "simulate: session time; 0: until stopped")                         \
    X(S, F64, rate, "40", 0.1, 100000, "1/s", "simulate: orders a second, all symbols together")                     \
    X(S, TIME, start, KEEL_OPT, 0, 0, "", "simulate: when the session begins; absent: 2026-01-02T14:30:00Z")         \
    X(S, F64, speed, KEEL_OPT, 0, 1000000, "",                                                                       \
      "session seconds a second; 0: as fast as the slowest reader. Absent: 1 for simulate, 0 for replay")            \
    X(S, STRS, symbols, KEEL_OPT, 0, 256, "", "only these; absent: all")                                             \
    X(S, STR, path, KEEL_OPT, 1, 1000, "", "replay: file or folder, in DATA_DIR or one of feed_dirs")                \
    X(S, ENUM, format, "auto", 0, 0, MD_FORMATS, "replay: auto looks at the content")                                \
    X(S, STR, symbol, KEEL_OPT, 1, 32, "", "ingest: one symbol (the first version's body)")                          \
    X(S, STR, data_source, KEEL_OPT, 0, 64, "", "ingest: who sends it")                                              \
    X(S, STRS, data_types, KEEL_OPT, 0, 16, "", "ingest: what it sends")
KEEL_RECORD(md_feed_request, MD_FEED);

#define MD_FEED_ONE(X, S) X(S, STR, feed_id, NULL, 1, 64, "", "feed")
KEEL_RECORD(md_feed_one, MD_FEED_ONE);

#define MD_SNIFF(X, S)                                                                                                 \
    X(S, STR, path, NULL, 1, 1000, "", "file or folder, in DATA_DIR or one of feed_dirs")                              \
    X(S, ENUM, format, "auto", 0, 0, MD_FORMATS, "auto looks at the content")
KEEL_RECORD(md_sniff, MD_SNIFF);

#define MD_SUBSCRIBE(X, S)                                                                                             \
    X(S, STRS, symbols, KEEL_OPT, 0, 256, "", "only these are published; absent or empty: all")                        \
    X(S, STRS, data_types, KEEL_OPT, 0, 16, "", "quote, trade (or tick), bar, level2; absent or empty: all")           \
    X(S, LEGACY, callback_url, KEEL_OPT, 0, 0, "", "never called")
KEEL_RECORD(md_subscribe, MD_SUBSCRIBE);

#define MD_INGEST(X, S)                                                                                              \
    X(S, JSON, data, NULL, 2, MD_INGEST_BYTES, "",                                                                   \
      "array of {symbol, data_type, source, timestamp, data}, at most 5000")
KEEL_RECORD(md_ingest, MD_INGEST);

struct md_feed {
    struct md_feed *next;
    uint32_t no;
    char feed_id[65];
    int kind, state; /* indices of MD_FEED_KINDS and KEEL_FEED_STATES */
    bool failed_here; /* stopped by us: detail says why */
    char detail[240], data_source[65];
    struct io_conf conf;
    double speed;
    char (*filter)[MARKET_SYMBOL_LEN + 1];
    size_t n_filter;
    struct market_counts c;
    struct { uint64_t line; char detail[160]; } bad[MD_BAD];
    size_t n_bad;
    char digest[KEEL_SHA256_TEXT];
    struct keel_source *source; /* NULL: not running */
    int said;                   /* the state published last; -1: none yet */
    uint64_t waiter;            /* a DELETE that waits for its end; 0: none */
    int64_t started_ns, ended_ns;
    size_t neighbour;           /* next symbol whose due bars are looked at */
};

enum { MD_PUB_QUOTE = 1, MD_PUB_TRADE = 2, MD_PUB_BAR = 4, MD_PUB_BOOK = 8, MD_PUB_ALL = 15 };

struct md {
    struct md *next; /* see md_open */
    struct keel_rt *rt;
    struct market *market;
    struct md_feed *feeds; /* newest first */
    size_t n_feeds;
    uint32_t last_no;
    struct market_counts ingested; /* by no feed's symbol list */
    unsigned published_kinds; /* MD_PUB_*: what is published, of which symbols (none: all) */
    char (*published)[MARKET_SYMBOL_LEN + 1];
    size_t n_published;
    struct keel_txn *txn; /* bars of the step at hand */
    size_t pending;       /* transactions queued and not committed yet */
    uint64_t bars_lost, unpublished;
};
struct md_state { struct md *md; };

extern const struct keel_engine marketdata_engine;

/* ---- state.c ---- */
extern const char md_schema[];
enum keel_status md_open(struct keel_rt *rt, void *state);
void md_close(struct keel_rt *rt, void *state);
static inline struct md *md_of(const struct keel_call *c)
{
    return ((const struct md_state *)c->state)->md;
}
/* The event itself: quote, trade or given bar. KEEL_SHED: no room, and nothing has changed. */
enum keel_status md_publish_event(struct keel_call *c, struct md *md, const struct market_event *ev);
/* Bars and books that are due; a 1m bar is also written to the store with the step's transaction. */
void md_publish_due(struct keel_call *c, struct md *md, const struct market_due *due, size_t n);
/* Applies a published event and publishes what it made due. */
void md_take(struct keel_call *c, struct md *md, struct market_symbol *s, const struct market_event *ev,
             const char *source, struct market_counts *counts);
/* Ends the step: queues the transaction of its bars. */
void md_flush(struct md *md);
/* The same for a step that answers somebody: the answer waits for them. KEEL_OK: there are none. */
enum keel_status md_await_bars(struct keel_call *c, struct md *md, keel_step_fn *next);
/* What became of them: those that were lost are counted and logged. */
void md_bars_written(struct md *md, enum keel_status st);
keel_step_fn timer_sweep;

/* ---- feed.c ---- */
struct md_feed *md_feed_find(const struct md *md, const char *feed_id);
struct md_feed *md_feed_by_no(const struct md *md, uint32_t no); /* NULL: 0 or no longer listed */
/* The ingest feed that names the symbol, or NULL. */
struct md_feed *md_feed_for_ingest(const struct md *md, const char *symbol);
void md_feed_free(struct md_feed *f);
/* Publishes the states that found no room. */
void md_feeds_say(struct keel_call *c, struct md *md);
bool md_in_list(const char *symbol, const char (*list)[MARKET_SYMBOL_LEN + 1], size_t n);
/*
 * n symbols of a request, upper-cased; NULL with the call failed: one of them is no symbol. Heap; n 0 gives
 * NULL too.
 */
enum keel_status md_symbols(struct keel_call *c, const char *const *names, size_t n,
                            char (**out)[MARKET_SYMBOL_LEN + 1]);
/* Upper-cases one symbol of a request or fails the call. */
enum keel_status md_name(struct keel_call *c, const char *text, char out[MARKET_SYMBOL_LEN + 1]);
keel_step_fn api_feeds_get, api_feed_get, api_feed_post, api_feed_delete, api_feed_sniff, feed_slice;

/* ---- ingest.c, api.c ---- */
keel_step_fn api_ingest, api_symbols, api_snapshot, api_instruments, api_instrument_post, api_data, api_bars, api_book,
    api_subscriptions, api_subscribe;

#endif
