/*
 * The paper venue: a second party with a file and transactions of its own (DATA_DIR/paper.db). The
 * engine knows it only by commands and reports. A report leaves after the venue's own commit and
 * tells all that the venue knows of the order, fills from the first on: so any report may be
 * dropped, delayed or repeated, and the next one, or the answer to a query, heals it. Every command
 * is idempotent by client_order_id. All on the loop thread.
 */
#ifndef STRATEGY_IO_VENUE_H
#define STRATEGY_IO_VENUE_H

#include "venue.h"

struct keel_rt;
struct paper;

#define PAPER_ID_LEN 31

/* Faults for tests: reports (not answers to queries) are dropped, held back until the second tick,
 * or given twice. */
enum paper_fault { PAPER_HONEST, PAPER_DROPS, PAPER_DELAYS, PAPER_REPEATS };

struct paper_conf {
    int64_t taker_rate, maker_rate; /* fractions of the notional, at 1e-9 */
    int64_t max_age_ns; /* a book not shown for so long (session time) is not traded on */
    char currency[13];  /* of the fees */
    enum paper_fault fault;
    size_t max_symbols,
        keep_closed; /* symbols it follows; closed orders it keeps in memory (the file keeps all) */
};

/* UNKNOWN: it never heard of the order. */
enum paper_state {
    PAPER_OPEN,
    PAPER_FILLED,
    PAPER_CANCELED,
    PAPER_EXPIRED,
    PAPER_REJECTED,
    PAPER_UNKNOWN
};

struct paper_fill {
    char trade_id[PAPER_ID_LEN + 1];
    int64_t quantity, price, ts_event;
    keel_i128 fee;
    bool maker;
};

struct paper_report {
    const char *client_order_id, *venue_order_id;
    enum paper_state state;
    const char *reason, *currency;
    int64_t filled, ts_event;
    const struct paper_fill
        *fills; /* all of them, oldest first; their quantities add up to filled */
    size_t n_fills;
    bool answer; /* to a query */
};
/* Borrowed for the call. May send commands. */
typedef void paper_report_fn(void *ctx, const struct paper_report *r);

/* Opens the file and takes up the open orders. KEEL_UNAVAILABLE: it cannot be opened or read. */
enum keel_status paper_open(struct keel_rt *rt, const struct paper_conf *conf,
                            paper_report_fn *report, void *ctx, struct paper **out);
void paper_close(struct paper *p); /* NULL is fine */

/* now_ns is session time. An id that is known is not traded again: its report is given again. */
void paper_submit(struct paper *p, const char *client_order_id, const char *symbol,
                  const struct venue_ticket *t, int64_t now_ns);
void paper_cancel(struct paper *p, const char *client_order_id, int64_t now_ns);
/* Answers before it returns; not at all while a commit of that order is under way, for its report
 * is coming. */
void paper_query(struct paper *p, const char *client_order_id);

/* What the market shows of a symbol, best first. From the first whole book on, single quotes of
 * that symbol are passed over. */
void paper_show(struct paper *p, const char *symbol, bool whole, enum venue_book_state state,
                const struct venue_level *bids, size_t n_bids, const struct venue_level *asks,
                size_t n_asks, int64_t now_ns);
void paper_trade(struct paper *p, const char *symbol, int64_t price, int64_t size, int64_t now_ns);
/* About five times a second: DAY orders expire, reports that a fault holds back come out. */
void paper_tick(struct paper *p, int64_t now_ns);
/* A commit failed and memory could not be read again from the file. */
bool paper_broken(const struct paper *p);
/* For fault injection: its next n commits fail. */
void paper_fail_next(struct paper *p, int n);

#endif
