/*
 * Indicators as O(1) streaming updates. Each is a struct that starts as zeros and its window, and an add function; nothing allocates.
 * Conventions are TA-Lib's where TA-Lib owns the name. Values are plain doubles in the unit of the input.
 */
#ifndef KEEL_QUANT_INDICATOR_H
#define KEEL_QUANT_INDICATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IND_WINDOW 64 /* longest window */

/*
 * Mean and sum of squared deviations of the last n values. The sliding update is recomputed from the window every n
 * values, so rounding never builds up.
 */
struct ind_window {
    double x[IND_WINDOW], mean, m2;
    uint32_t n, at, have; /* n <= IND_WINDOW; have <= n */
};
void ind_window_init(struct ind_window *w, uint32_t n);
void ind_window_add(struct ind_window *w, double x);
bool ind_window_ready(const struct ind_window *w);
/* The value added k values ago, 0 <= k < have; k = 0 is the newest. */
double ind_window_ago(const struct ind_window *w, uint32_t k);
double ind_window_sd(const struct ind_window *w);  /* population, n */
double ind_window_ssd(const struct ind_window *w); /* sample, n - 1 */

/* Exponential mean, factor 2 / (n + 1), seeded with the mean of the first n values. */
struct ind_ema { double value, seed; uint32_t n, have; };
void ind_ema_init(struct ind_ema *e, uint32_t n);
void ind_ema_add(struct ind_ema *e, double x);
bool ind_ema_ready(const struct ind_ema *e);

/* Wilder (1978): mean gain and loss, seeded with the mean of the first n changes; 50 when nothing moved. */
struct ind_rsi { double gain, loss, last; uint32_t n, have; };
void ind_rsi_init(struct ind_rsi *r, uint32_t n);
void ind_rsi_add(struct ind_rsi *r, double x);
bool ind_rsi_ready(const struct ind_rsi *r);
double ind_rsi_value(const struct ind_rsi *r);

/* Both means are seeded so that they start at value number slow (TA-Lib); the signal is an EMA of the difference. */
struct ind_macd { struct ind_ema fast, slow, signal; uint32_t seen; };
void ind_macd_init(struct ind_macd *m, uint32_t fast, uint32_t slow, uint32_t signal);
void ind_macd_add(struct ind_macd *m, double x);
bool ind_macd_ready(const struct ind_macd *m);
double ind_macd_value(const struct ind_macd *m);

/* Wilder's average true range, seeded with the mean of the first n true ranges; the first bar has none. */
struct ind_atr { double value, seed, close; uint32_t n, have; bool started; };
void ind_atr_init(struct ind_atr *a, uint32_t n);
void ind_atr_add(struct ind_atr *a, double high, double low, double close);
bool ind_atr_ready(const struct ind_atr *a);

/* Compensated sum of price * volume over volume since the last reset. */
struct ind_vwap { double pv, pv_c, v, v_c; };
void ind_vwap_add(struct ind_vwap *w, double price, double volume);
bool ind_vwap_ready(const struct ind_vwap *w);
double ind_vwap_value(const struct ind_vwap *w);

/* Best bid and ask with their sizes. */
struct ind_quote { double bid, bid_size, ask, ask_size; };
/* (bid * ask_size + ask * bid_size) / (bid_size + ask_size); false when both sizes are 0. */
bool ind_microprice(const struct ind_quote *q, double *out);
/* (bid_size - ask_size) / (bid_size + ask_size), -1 to 1. */
bool ind_imbalance(double bid_size, double ask_size, double *out);
/* 10^4 * (ask - bid) / mid. */
bool ind_spread_bps(const struct ind_quote *q, double *out);
/* Order-flow imbalance of one change of the best quotes: Cont, Kukanov & Stoikov (2014), equation 3. */
double ind_ofi(const struct ind_quote *before, const struct ind_quote *now);

#endif
