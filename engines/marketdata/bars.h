/*
 * Time bars from trades. A bar covers [ts_open, ts_close) of session time, on a grid counted from 1970, and is
 * closed by the clock, never before ts_close. A trade belongs to the bar in which it became known (ts_init), so
 * no bar ever holds what could not have been in it when it was published, and none needs correcting. A period
 * without trades has no bar.
 */
#ifndef MARKETDATA_BARS_H
#define MARKETDATA_BARS_H

#include <stdbool.h>
#include <stdint.h>

#include "keel/num.h"

#define BARS_SPEC_LEN 16

struct bars_bar {
    int64_t ts_open, ts_close;
    int64_t open, high, low, close; /* decs */
    keel_i128 volume, buy_volume;   /* money scale: 1e-9 */
    keel_i128 notional;             /* sum of price * size, each rounded to 1e-9 */
    int64_t trades;
    bool has_flow;                  /* buy_volume, notional and trades are known */
};

struct bars_builder {
    int64_t width_ns;
    bool is_open;
    struct bars_bar bar;
};

/* "250ms", "1s", "5m", "1h", "1d" -> width in ns. KEEL_INVALID: something else, or not in 100 ms .. 7 d. */
enum keel_status bars_width(const char *spec, int64_t *width_ns);
/* The shortest spec of that width: 60 s is "1m". */
void bars_spec(int64_t width_ns, char out[BARS_SPEC_LEN]);

void bars_init(struct bars_builder *b, int64_t width_ns);
/* A bar whose ts_close is at or before now_ns is closed into *out. */
bool bars_close(struct bars_builder *b, int64_t now_ns, struct bars_bar *out);
/* After bars_close for the same instant. side: 0 unknown, 1 buyer, 2 seller took liquidity. */
void bars_add(struct bars_builder *b, int64_t now_ns, int64_t price, int64_t size, int side);
/* False: no volume, or the bar was not made from trades, or it does not fit. */
bool bars_vwap(const struct bars_bar *bar, int64_t *vwap);

#endif
