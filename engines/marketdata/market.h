/*
 * The market as this engine knows it: events of any source in, state and decisions out. One event changes one
 * symbol; what it makes publishable beyond itself (bars that are over, a book that changed) is asked for with
 * market_due.
 *
 * A symbol belongs to at most one running feed (its owner). Its clock is then that feed's events, so that the
 * same data gives the same bars however slowly it is read; a symbol without an owner follows the engine's
 * session clock.
 */
#ifndef MARKETDATA_MARKET_H
#define MARKETDATA_MARKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bars.h"
#include "book.h"
#include "keel/num.h"

#define MARKET_SYMBOL_LEN 32
#define MARKET_CURRENCY_LEN 12
#define MARKET_ID_LEN 64
#define MARKET_SOURCE_LEN 16
#define MARKET_SPECS 8           /* bar widths built from trades, at most */
#define MARKET_RING 1000         /* points and bars of a spec kept a symbol */
#define MARKET_BOOK_NS 100000000 /* a changed book is published at most this often a symbol, session time */

enum market_kind {
    MARKET_QUOTE, MARKET_TRADE, MARKET_BAR, MARKET_DEPTH,
    MARKET_OTHER, /* a sound record that is not used */
    MARKET_BAD,   /* a record that could not be read */
    MARKET_END    /* the data is over: its digest, or of which symbol */
};

struct market_quote { int64_t bid, bid_size, ask, ask_size; };
/* side: order of KEEL_AGGRESSOR: 0 unknown, 1 buyer, 2 seller took liquidity. id may be NULL. */
struct market_trade { int64_t price, size; int side; const char *id; };
struct market_given { const char *spec; struct bars_bar bar; };
struct market_bad { uint64_t line; const char *detail; };

struct market_event {
    int64_t ts_init, ts_event; /* ts_init first and never falling within a feed: see keel/source.h */
    enum market_kind kind;
    const char *symbol;        /* NULL for BAD and OTHER; END: NULL, or the symbol whose clock ends here */
    union {
        struct market_quote quote;
        struct market_trade trade;
        struct market_given bar;
        struct book_delta depth;
        struct market_bad bad;
        const char *digest;
    } u;
};

struct market_instrument {
    char symbol[MARKET_SYMBOL_LEN + 1];
    char base_currency[MARKET_CURRENCY_LEN + 1], quote_currency[MARKET_CURRENCY_LEN + 1];
    int64_t tick, lot, multiplier, fee_taker, fee_maker; /* decs; fees are fractions of the notional */
};

/* What a symbol did since UTC midnight of its clock, or since a feed took it over. */
struct market_day {
    int64_t day, open, high, low, close, trades;
    keel_i128 volume, notional;
    bool has_price, has_flow; /* has_flow: every volume came with its price, so that a mean is defined */
};

struct market_point {
    enum market_kind kind;
    int64_t ts_event, ts_init;
    char source[MARKET_SOURCE_LEN + 1];
    char text[MARKET_ID_LEN + 1]; /* a trade's id, a bar's spec */
    union {
        struct market_quote quote;
        struct { int64_t price, size; int side; } trade;
        struct bars_bar bar;
        struct { bool snapshot, has_seq; int64_t first_seq, last_seq; size_t n_bids, n_asks; } depth;
    } u;
};

struct market_bars { char spec[BARS_SPEC_LEN]; struct bars_bar *ring; size_t n, at, cap; };

struct market_symbol {
    struct market_instrument instrument;
    bool is_configured;
    uint32_t owner; /* the running feed's number; 0: none */
    uint32_t feed;  /* the feed its data came from last; 0: none */
    int64_t clock_ns, clock_at_ns; /* newest ts_init, and the machine's clock then; kept by whoever applies events */
    struct book book;
    bool has_book, has_quote, has_trade, has_last;
    struct market_quote quote;
    int64_t quote_event, last; /* last: last trade, or close of the last given bar */
    struct market_trade trade;
    int64_t trade_event;
    char trade_id[MARKET_ID_LEN + 1];
    struct market_day day;
    struct bars_builder build[MARKET_SPECS];
    struct market_bars history[MARKET_SPECS];
    size_t n_history;
    bool book_changed;
    enum book_state book_shown;
    int64_t book_event, book_init, book_shown_ns;
    int64_t newest_event[MARKET_DEPTH + 1];
    struct market_point *ring;
    size_t ring_n, ring_at, ring_cap;
};

struct market_counts {
    uint64_t records, bad_records, other_records, quotes, trades, bars;
    uint64_t book_updates_applied, book_updates_dropped, sequence_gaps, crossed, snapshots;
    uint64_t duplicates, out_of_order, rate_collapses;
    keel_i128 trade_volume;
    bool has_time;
    int64_t ts_first, ts_last;
    int64_t least_delay_ns; /* smallest ts_init - ts_event: latency plus clock offset; below 0 the clocks differ */
    bool has_delay, is_ticking;
    int64_t window_start;
    uint64_t window_n, windows;
    double window_mean;
};

struct market_conf {
    size_t max_symbols, n_widths;
    int64_t stale_ns, width_ns[MARKET_SPECS];
    struct market_instrument dflt; /* of symbols that nothing names */
};

enum market_due_kind { MARKET_DUE_BAR, MARKET_DUE_BOOK };
struct market_due {
    enum market_due_kind kind;
    struct market_symbol *sym;
    char spec[BARS_SPEC_LEN];
    struct bars_bar bar;
};
#define MARKET_DUE_MAX (MARKET_SPECS + 1)

struct market;

struct market *market_new(const struct market_conf *conf);
void market_free(struct market *m); /* NULL is fine */
const struct market_conf *market_conf(const struct market *m);

struct market_symbol *market_find(const struct market *m, const char *name); /* NULL: unknown */
struct market_symbol *market_add(struct market *m, const char *name);        /* NULL: max_symbols are there */
size_t market_size(const struct market *m);
struct market_symbol *market_at(const struct market *m, size_t i);           /* in order of appearance */
uint64_t market_stored(const struct market *m);                              /* points held in all rings */
/* The instrument a symbol is built in with (the simulator's eight), or NULL. */
const struct market_instrument *market_builtin(const char *symbol);
const struct market_instrument *market_builtins(size_t *n);

/* False: another feed runs on it. A new owner begins a new session. */
bool market_claim(struct market_symbol *s, uint32_t owner, const struct market *m);
/* A new session: empty book, no quote, no open bar, no day. Points and bars that are over stay. */
void market_begin(struct market_symbol *s, const struct market *m);
void market_release(struct market *m, uint32_t owner);

/* The same trade as the one before, by the venue's id. */
bool market_is_duplicate(const struct market_symbol *s, const struct market_event *ev);
/* Takes a QUOTE, TRADE, BAR or DEPTH of symbol s and counts it. source: shown with the point. */
void market_apply(struct market *m, struct market_symbol *s, const struct market_event *ev, const char *source,
                  struct market_counts *c);
/* Counts what every record has: stamps, rate, order. s NULL: none. */
void market_count(struct market_symbol *s, const struct market_event *ev, struct market_counts *c);
/* Bars over at now_ns and the book if it has to be shown; at most MARKET_DUE_MAX. Counted into c. */
size_t market_due(struct market *m, struct market_symbol *s, int64_t now_ns, struct market_due out[MARKET_DUE_MAX],
                  struct market_counts *c);
/* Only the book's part of it: 0 or 1. */
size_t market_due_book(struct market *m, struct market_symbol *s, int64_t now_ns, struct market_due *out);
/* Keeps a bar for market_bars_of. A bar not newer than the last begins a new series. */
void market_keep_bar(struct market_symbol *s, const char *spec, const struct bars_bar *bar);
const struct market_bars *market_bars_of(const struct market_symbol *s, const char *spec);
/* i-th newest; i < b->n. */
const struct bars_bar *market_bar_back(const struct market_bars *b, size_t i);
const struct market_point *market_point_back(const struct market_symbol *s, size_t i);

#endif
