/*
 * A simulated market: order flow moves a book, and quotes, trades and depth are read off that one book, so they
 * always agree. The same seed gives the same events to the last bit.
 *
 * Each symbol has a hidden fair price: a random walk with a part common to all symbols, whose volatility
 * switches between three regimes (a Markov chain in session time). Orders arrive as a Poisson stream. Informed
 * takers trade when the book lags the fair price, others trade, add and cancel at random, makers follow. All
 * prices are whole ticks, all sizes whole lots.
 */
#ifndef MARKETDATA_SIM_H
#define MARKETDATA_SIM_H

#include "keel/arena.h"
#include "keel/rng.h"
#include "market.h"

#define SIM_START_NS 1767364200000000000LL /* 2026-01-02T14:30:00Z */
#define SIM_RATE 40.0                      /* orders a second, all symbols together */
#define SIM_SYMBOLS 8
#define SIM_DEPTH 10                       /* levels a side that makers keep up */
#define SIM_LEVELS 16
#define SIM_TRADES 6                       /* levels one order takes at most */
#define SIM_OUT (SIM_TRADES + 2)           /* events of one step at most */

struct sim_side { struct book_level lv[SIM_LEVELS]; size_t n; }; /* ticks and lots, best first */

struct sim_coin {
    const struct market_instrument *instrument;
    double fair, beta, own_vol, common_seen; /* fair in ticks */
    double half, gap, size;                  /* half spread and level distance in ticks, usual lots of a level */
    int64_t at_ns, seq, trades;
    bool is_open;
    struct sim_side bid, ask;
};

struct sim {
    struct keel_rng rng;
    struct sim_coin coin[SIM_SYMBOLS];
    size_t n, n_open;
    int64_t now_ns, end_ns, regime_until_ns; /* end_ns INT64_MAX: none */
    int regime;
    double common, rate;
};

/*
 *   symbols      n of market_builtins' names, n <= SIM_SYMBOLS; n 0: all eight
 *   duration_ns  session time; 0: no end
 * KEEL_NOTFOUND: a symbol the simulator has not.
 */
enum keel_status sim_init(struct sim *s, uint64_t seed, int64_t start_ns, int64_t duration_ns, double rate,
                          const char *const *symbols, size_t n);
/* The events of the next order, at most SIM_OUT; 0 at the end. What they point at lives in a. */
size_t sim_step(struct sim *s, struct keel_arena *a, struct market_event out[SIM_OUT]);

#endif
