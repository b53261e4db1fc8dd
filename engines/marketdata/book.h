/*
 * A level-2 order book: price levels of both sides, kept by a venue's numbered differences.
 *
 * A book is usable only while it is provably the venue's: differences that come before a snapshot wait, the
 * snapshot takes those that fit it, and from then on every difference must follow the one before. A hole, or a
 * bid above an ask, makes it DESYNC until the next snapshot. Bid equal to ask (locked) is valid.
 *
 * Levels are sorted arrays with the best one last, so that the usual change, near the best, moves few bytes.
 */
#ifndef MARKETDATA_BOOK_H
#define MARKETDATA_BOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BOOK_MAX_LEVELS 16384  /* a side; the level farthest from the best gives way */
#define BOOK_MAX_WAITING 1024  /* differences that wait for a snapshot; the oldest gives way */

/* Order of KEEL_BOOK_STATES. */
enum book_state { BOOK_SYNCING, BOOK_LIVE, BOOK_STALE, BOOK_DESYNC };

/*
 * How a venue numbers its differences.
 *   PLAIN    first_seq is the last one + 1; without numbers every difference is taken as it comes
 *   SPOT     Binance spot: drop last <= L; the first has first <= L + 1 <= last; then first is the last one + 1
 *   FUTURES  Binance USD-M: drop last < L; the first has first <= L <= last; then prev_seq is the last one's last_seq
 */
enum book_rule { BOOK_PLAIN, BOOK_SPOT, BOOK_FUTURES };

struct book_level { int64_t price, qty; }; /* decs; qty 0 in a difference removes the level */

struct book_delta {
    bool snapshot, has_seq;
    enum book_rule rule;
    int64_t first_seq, last_seq, prev_seq;
    const struct book_level *bids, *asks; /* any order */
    size_t n_bids, n_asks;
};

struct book_side { struct book_level *lv; size_t n, cap; }; /* best last */
struct book_waiting;

struct book {
    enum book_state state;
    struct book_side bid, ask;
    bool has_seq, straddle; /* straddle: the next difference is the first after a snapshot */
    enum book_rule rule;
    int64_t last_seq, changed_ns; /* session time of the last difference or snapshot that was applied */
    struct book_waiting *waiting;
    size_t n_waiting;
    uint64_t applied, dropped, gaps, crossed; /* differences applied and left out; holes; times it was crossed */
};

void book_init(struct book *b);
void book_fini(struct book *b);
/* Empty and SYNCING again; the counters stay. */
void book_reset(struct book *b);

/*
 * Takes one snapshot or difference at session time now_ns. Copies what it keeps. True when the state or a level
 * changed.
 */
bool book_apply(struct book *b, const struct book_delta *d, int64_t now_ns);
/* LIVE becomes STALE when nothing was applied for stale_ns. True when it did. */
bool book_age(struct book *b, int64_t now_ns, int64_t stale_ns);

/* The best n levels into out, best first; returns how many there are. */
size_t book_top(const struct book_side *s, size_t n, struct book_level *out);
/* NULL when the side is empty. */
const struct book_level *book_best(const struct book_side *s);

#endif
