/*
 * The feature set of one symbol on one kind of bar. feat_add_bar is the only update of the bar features, whether bars come from the
 * bus or from a request, so batch equals streaming on every bar.
 */
#ifndef KEEL_QUANT_FEATURE_SET_H
#define KEEL_QUANT_FEATURE_SET_H

#include "indicator.h"

/* id, name, type, parameters (part of the schema hash), observations it needs, help */
#define FEAT_MAP(X)                                                                                          \
    X(SMA_10, "sma_10", "trend", "10", 10, "mean of 10 closes")                                              \
    X(SMA_20, "sma_20", "trend", "20", 20, "mean of 20 closes")                                              \
    X(SMA_50, "sma_50", "trend", "50", 50, "mean of 50 closes")                                              \
    X(EMA_12, "ema_12", "trend", "12", 12, "exponential mean, 12 closes, SMA seed")                          \
    X(EMA_26, "ema_26", "trend", "26", 26, "exponential mean, 26 closes, SMA seed")                          \
    X(RSI_14, "rsi_14", "momentum", "14", 15, "relative strength index, Wilder, 0 to 100")                   \
    X(MACD, "macd", "momentum", "12,26", 26, "ema 12 less ema 26, both from close 26")                       \
    X(MACD_SIGNAL, "macd_signal", "momentum", "12,26,9", 34, "exponential mean of 9 macd")                   \
    X(MACD_HISTOGRAM, "macd_histogram", "momentum", "12,26,9", 34, "macd less its signal")                   \
    X(BB_UPPER, "bb_upper", "volatility", "20,2", 20, "mean + 2 population deviations of 20 closes")         \
    X(BB_MIDDLE, "bb_middle", "volatility", "20,2", 20, "mean of 20 closes")                                 \
    X(BB_LOWER, "bb_lower", "volatility", "20,2", 20, "mean - 2 population deviations of 20 closes")         \
    X(BB_WIDTH, "bb_width", "volatility", "20,2", 20, "(upper - lower) / middle")                            \
    X(ATR_14, "atr_14", "volatility", "14", 15, "average true range, Wilder")                                \
    X(REALIZED_VOL_20, "realized_vol_20", "volatility", "20", 21, "sample deviation of 20 log returns, a bar") \
    X(MOMENTUM_10, "momentum_10", "momentum", "10", 11, "close less the close 10 bars before")               \
    X(ROC_10, "roc_10", "momentum", "10", 11, "percent change over 10 bars")                                 \
    X(VWAP, "vwap", "volume", "utc_day", 1, "volume-weighted mean price of the UTC day")                     \
    X(VOLUME_SMA_20, "volume_sma_20", "volume", "20", 20, "mean of 20 volumes")                              \
    X(MICROPRICE, "microprice", "microstructure", "l1", 1, "mid weighted by the opposite sizes")             \
    X(BOOK_IMBALANCE, "book_imbalance", "microstructure", "l10", 1, "(bid - ask) / (bid + ask) size, 10 levels, else the touch") \
    X(OFI, "ofi", "microstructure", "bar", 2, "order-flow imbalance since the last bar, in size")            \
    X(SPREAD_BPS, "spread_bps", "microstructure", "l1", 1, "bid-ask spread in basis points of mid")

enum feat_id {
#define X(id, name, type, params, need, help) FEAT_##id,
    FEAT_MAP(X)
#undef X
    FEAT_N
};

struct feat_def { const char *name, *type, *params, *help; uint32_t need; };
extern const struct feat_def feat_defs[FEAT_N];

struct feat_bar {
    double high, low, close, volume;
    double vwap;      /* of the bar, when has_vwap; else its close stands for it */
    bool has_range;   /* high and low are known */
    bool has_volume, has_vwap;
    int64_t ts_close; /* ns; the UTC day resets vwap; 0: no calendar */
};

struct feat_set {
    struct ind_window sma10, sma20, sma50, returns, closes, volumes;
    struct ind_ema ema12, ema26;
    struct ind_rsi rsi;
    struct ind_macd macd;
    struct ind_atr atr;
    struct ind_vwap vwap;
    struct ind_quote quote;
    double book_bid, book_ask; /* summed sizes of up to 10 levels; both 0: no book */
    double ofi, ofi_closed;    /* running, and as the last bar closed */
    uint32_t bars, quotes;
    int64_t day, ts_close;
    double last_close;
};

/* One feature's state: value when ready, else how much of what it needs is there. */
struct feat_value { double value; bool ready; uint32_t have; };

void feat_init(struct feat_set *s);
/* close > 0; volume >= 0; all finite (the caller's records see to it). */
void feat_add_bar(struct feat_set *s, const struct feat_bar *bar);
void feat_add_quote(struct feat_set *s, const struct ind_quote *q);
/* Sums of the sizes of up to 10 levels a side. */
void feat_add_book(struct feat_set *s, double bid_size, double ask_size);
void feat_get(const struct feat_set *s, enum feat_id id, struct feat_value *out);
/* FNV-1a, 64 bits, over names and parameters of all definitions, as 16 hex digits and a NUL. */
void feat_schema_hash(char out[17]);

#endif
