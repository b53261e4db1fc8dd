/*
 * The records of every bus topic: the only thing engines share. Prices and quantities are DEC, money is MONEY, both
 * decimal strings on the bus. A record's header (bus) carries key, ts_event, ts_init and ts_recv; they are not repeated here
 * unless a body of bodies.md has them.
 */
#ifndef KEEL_CONTRACT_H
#define KEEL_CONTRACT_H

#include "keel/bus.h"
#include "keel/record.h"

#define KEEL_SIDES "BUY|SELL"
#define KEEL_ORDER_STATES                                                                          \
    "INITIALIZED|DENIED|SUBMITTED|ACCEPTED|REJECTED|TRIGGERED|PENDING_UPDATE|PENDING_CANCEL|"      \
    "PARTIALLY_FILLED|FILLED|CANCELED|EXPIRED|UNKNOWN"
#define KEEL_ORDER_TYPES "MARKET|LIMIT"
#define KEEL_TIFS "IOC|FOK|GTC|DAY"
#define KEEL_TRADING_STATES "ACTIVE|REDUCING|HALTED"
#define KEEL_BOOK_STATES "SYNCING|LIVE|STALE|DESYNC"
#define KEEL_AGGRESSOR "NONE|BUY|SELL"
#define KEEL_FEED_STATES "STARTED|COMPLETED|FAILED|STOPPED"
#define KEEL_SYMBOL_LEN 32

/* marketdata.quote: best bid and ask. Normal, memory. key symbol. */
#define KEEL_QUOTE(X, S)                                                                           \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, DEC, bid, NULL, 0, 0, "price", "best bid")                                                \
    X(S, DEC, bid_size, NULL, 0, 9.2e9, "quantity", "size at the best bid")                        \
    X(S, DEC, ask, NULL, 0, 0, "price", "best ask")                                                \
    X(S, DEC, ask_size, NULL, 0, 9.2e9, "quantity", "size at the best ask")
KEEL_RECORD(keel_quote, KEEL_QUOTE);

/* marketdata.trade. Normal, memory. key symbol. */
#define KEEL_TRADE_REC(X, S)                                                                       \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, DEC, price, NULL, 0, 0, "price", "price")                                                 \
    X(S, DEC, size, NULL, 0, 9.2e9, "quantity", "size")                                            \
    X(S, ENUM, side, "NONE", 0, 0, KEEL_AGGRESSOR, "who took liquidity")                           \
    X(S, STR, trade_id, KEEL_OPT, 1, 64, "", "the venue's id")
KEEL_RECORD(keel_trade, KEEL_TRADE_REC);

/* marketdata.book: the top of the book as it is, at most 10 levels a side, best first. Normal, memory. key symbol. */
#define KEEL_BOOK_REC(X, S)                                                                        \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, ENUM, state, NULL, 0, 0, KEEL_BOOK_STATES, "LIVE: may be traded on")                      \
    X(S, I64, last_seq, KEEL_OPT, 0, 0, "", "the venue's sequence number")                         \
    X(S, PAIRS, bids, NULL, 0, 50, "[price, quantity]", "best first")                              \
    X(S, PAIRS, asks, NULL, 0, 50, "[price, quantity]", "best first")
KEEL_RECORD(keel_book, KEEL_BOOK_REC);

/* marketdata.priority.bar: published at its close, never before. key symbol. Quote bars (LEAN) have no volume. */
#define KEEL_BAR(X, S)                                                                             \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, STR, spec, NULL, 2, 16, "", "1s, 1m, ...")                                                \
    X(S, TIME, ts_open, NULL, 0, 0, "", "first instant, included")                                 \
    X(S, TIME, ts_close, NULL, 0, 0, "", "last instant, excluded")                                 \
    X(S, DEC, open, NULL, 0, 0, "price", "first trade")                                            \
    X(S, DEC, high, NULL, 0, 0, "price", "highest trade")                                          \
    X(S, DEC, low, NULL, 0, 0, "price", "lowest trade")                                            \
    X(S, DEC, close, NULL, 0, 0, "price", "last trade")                                            \
    X(S, MONEY, volume, NULL, 0, 0, "quantity", "sum of sizes")                                    \
    X(S, MONEY, buy_volume, KEEL_OPT, 0, 0, "quantity", "taken by buyers")                         \
    X(S, DEC, vwap, KEEL_OPT, 0, 0, "price", "volume-weighted mean price")                         \
    X(S, I64, trades, "0", 0, 0, "", "number of trades")
KEEL_RECORD(keel_bar, KEEL_BAR);

/* marketdata.critical.feed. Critical, memory. key "-". */
#define KEEL_FEED_REC(X, S)                                                                        \
    X(S, STR, feed_id, NULL, 1, 64, "", "feed")                                                    \
    X(S, STR, kind, NULL, 1, 16, "", "simulate, replay or ingest")                                 \
    X(S, ENUM, state, NULL, 0, 0, KEEL_FEED_STATES, "what became of it")                           \
    X(S, STR, detail, KEEL_OPT, 0, 240, "", "why it failed")                                       \
    X(S, I64, seed, KEEL_OPT, 0, 0, "", "of a simulation")                                         \
    X(S, I64, records, "0", 0, 0, "", "records decoded so far")
KEEL_RECORD(keel_feed, KEEL_FEED_REC);

/* features.priority.vector: one a closed bar. Memory. key symbol. */
#define KEEL_VECTOR(X, S)                                                                          \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, STR, spec, NULL, 2, 16, "", "bars it was computed on")                                    \
    X(S, STR, schema_hash, NULL, 16, 16, "", "hash of the feature definitions")                    \
    X(S, TIME, ts_close, NULL, 0, 0, "", "close of the bar")                                       \
    X(S, DEC, close, NULL, 0, 0, "price", "close of the bar")                                      \
    X(S, DEC, bid, KEEL_OPT, 0, 0, "price", "best bid then")                                       \
    X(S, DEC, ask, KEEL_OPT, 0, 0, "price", "best ask then")                                       \
    X(S, MAP, features, NULL, 0, 256, "", "name to value; what is not ready is absent")
KEEL_RECORD(keel_vector, KEEL_VECTOR);

/* strategy.priority.signal. Memory. key symbol. */
#define KEEL_SIGNAL(X, S)                                                                          \
    X(S, STR, strategy_id, NULL, 1, 64, "", "strategy")                                            \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, ENUM, side, NULL, 0, 0, KEEL_SIDES, "what it wants")                                      \
    X(S, DEC, quantity, NULL, 0, 0, "quantity", "how much")                                        \
    X(S, STR, reason, NULL, 0, 160, "", "the figures that made it")                                \
    X(S, STR, client_order_id, KEEL_OPT, 1, 64, "", "the order it became")                         \
    X(S, STR, prediction_id, KEEL_OPT, 1, 64, "", "the prediction it acts on")
KEEL_RECORD(keel_signal, KEEL_SIGNAL);

#define KEEL_FEE(X, S)                                                                             \
    X(S, MONEY, amount, NULL, 0, 0, "currency", "fee, > 0 is paid")                                \
    X(S, STR, currency, NULL, 1, 12, "", "currency")
KEEL_RECORD(keel_fee, KEEL_FEE);

/* strategy.critical.order: an order as it is after its last event. Durable. key portfolio. */
#define KEEL_ORDER(X, S)                                                                           \
    X(S, STR, client_order_id, NULL, 1, 64, "", "identity")                                        \
    X(S, STR, venue_order_id, KEEL_OPT, 1, 64, "", "the venue's id")                               \
    X(S, STR, venue, NULL, 1, 32, "", "venue")                                                     \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                          \
    X(S, STR, strategy_id, NULL, 1, 64, "", "strategy")                                            \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, ENUM, side, NULL, 0, 0, KEEL_SIDES, "side")                                               \
    X(S, ENUM, order_type, NULL, 0, 0, KEEL_ORDER_TYPES, "type")                                   \
    X(S, ENUM, time_in_force, NULL, 0, 0, KEEL_TIFS, "time in force")                              \
    X(S, ENUM, state, NULL, 0, 0, KEEL_ORDER_STATES, "state")                                      \
    X(S, DEC, quantity, NULL, 0, 0, "quantity", "asked")                                           \
    X(S, DEC, filled_quantity, "0", 0, 0, "quantity", "filled")                                    \
    X(S, DEC, leaves_quantity, "0", 0, 0, "quantity", "may still fill")                            \
    X(S, DEC, price, KEEL_OPT, 0, 0, "price", "limit")                                             \
    X(S, DEC, avg_fill_price, KEEL_OPT, 0, 0, "price", "mean of the fills")                        \
    X(S, REC(keel_fee), fee, KEEL_OPT, 0, 0, "", "sum of the fills' fees")                         \
    X(S, MONEY, realized_pnl, "0", 0, 0, "currency", "by strategy's own journal")                  \
    X(S, BOOL, reduce_only, "false", 0, 0, "", "may only reduce")                                  \
    X(S, BOOL, partially, "false", 0, 0, "", "was ever partially filled")                          \
    X(S, STR, reason, KEEL_OPT, 0, 240, "", "why it was denied, rejected or canceled")             \
    X(S, TIME, ts_event, NULL, 0, 0, "", "of its last event")
KEEL_RECORD(keel_order, KEEL_ORDER);

/* strategy.critical.fill, and the body of POST /portfolios/{portfolio_id}/fills. Durable. key portfolio. */
#define KEEL_FILL(X, S)                                                                            \
    X(S, STR, trade_id, NULL, 1, 64, "", "with venue: the identity")                               \
    X(S, STR, client_order_id, NULL, 1, 64, "", "order")                                           \
    X(S, STR, strategy_id, NULL, 1, 64, "", "strategy")                                            \
    X(S, STR, venue, NULL, 1, 32, "", "venue")                                                     \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                          \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, ENUM, side, NULL, 0, 0, KEEL_SIDES, "side of the order")                                  \
    X(S, DEC, quantity, NULL, 1e-9, 9.2e9, "quantity", "filled")                                   \
    X(S, DEC, price, NULL, 1e-9, 9.2e9, "price", "price")                                          \
    X(S, REC(keel_fee), fee, NULL, 0, 0, "", "fee of this fill")                                   \
    X(S, ENUM, liquidity, KEEL_OPT, 0, 0, "MAKER|TAKER", "who waited")                             \
    X(S, I64, fill_no, KEEL_OPT, 1, 0, "", "strategy's count of fills, from 1, without holes")     \
    X(S, TIME, ts_event, NULL, 0, 0, "", "when it happened")
KEEL_RECORD(keel_fill, KEEL_FILL);

/* risk.critical.breach. Durable. key portfolio. */
#define KEEL_BREACH(X, S)                                                                          \
    X(S, STR, breach_id, NULL, 1, 64, "", "identity")                                              \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                          \
    X(S, STR, breach_type, NULL, 1, 48, "", "limit type, or position_mismatch")                    \
    X(S, MONEY, current_value, KEEL_OPT, 0, 0, "", "what was found")                               \
    X(S, MONEY, limit_value, KEEL_OPT, 0, 0, "", "what is allowed")                                \
    X(S, ENUM, severity, NULL, 0, 0, "LOW|MEDIUM|HIGH|CRITICAL", "severity")                       \
    X(S, STR, detail, KEEL_OPT, 0, 240, "", "one sentence")                                        \
    X(S, BOOL, resolved, "false", 0, 0, "", "closed")
KEEL_RECORD(keel_breach, KEEL_BREACH);

/* risk.critical.trading_state. Durable. key portfolio ("-": all). */
#define KEEL_TRADING_STATE(X, S)                                                                   \
    X(S, ENUM, state, NULL, 0, 0, KEEL_TRADING_STATES, "REDUCING: only what reduces; HALTED: nothing") \
    X(S, STR, portfolio_id, KEEL_OPT, 1, 64, "", "absent: all")                                    \
    X(S, STR, reason, KEEL_OPT, 0, 240, "", "why")
KEEL_RECORD(keel_trading_state, KEEL_TRADING_STATE);

/* risk.priority.var. Memory. key portfolio. Losses of the horizon as money, >= 0 is a loss (the domain's sign). */
#define KEEL_VAR(X, S)                                                                             \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                          \
    X(S, STR, method, NULL, 1, 24, "", "historical or parametric")                                 \
    X(S, F64, var_95, KEEL_OPT, 0, 0, "currency", "value at risk, 95 %, one period")               \
    X(S, F64, es_95, KEEL_OPT, 0, 0, "currency", "expected shortfall, 95 %")                       \
    X(S, F64, var_99, KEEL_OPT, 0, 0, "currency", "value at risk, 99 %")                           \
    X(S, F64, es_99, KEEL_OPT, 0, 0, "currency", "expected shortfall, 99 %")                       \
    X(S, I64, returns, "0", 0, 0, "", "returns it rests on")
KEEL_RECORD(keel_var, KEEL_VAR);

/* portfolio.priority.position. Durable. key portfolio. */
#define KEEL_POSITION(X, S)                                                                        \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                          \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, DEC, quantity, NULL, 0, 0, "quantity", "signed")                                          \
    X(S, DEC, avg_cost, KEEL_OPT, 0, 0, "price", "absent when flat")                               \
    X(S, DEC, mark, KEEL_OPT, 0, 0, "price", "absent: no fresh price")                             \
    X(S, MONEY, market_value, KEEL_OPT, 0, 0, "currency", "quantity at the mark")                  \
    X(S, MONEY, realized_pnl, "0", 0, 0, "currency", "before fees")                                \
    X(S, MONEY, unrealized_pnl, KEEL_OPT, 0, 0, "currency", "market value less cost")
KEEL_RECORD(keel_position, KEEL_POSITION);

/* portfolio.priority.account. Durable. key portfolio. */
#define KEEL_ACCOUNT(X, S)                                                                         \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                          \
    X(S, STR, currency, NULL, 1, 12, "", "currency")                                               \
    X(S, MONEY, cash, NULL, 0, 0, "currency", "cash")                                              \
    X(S, MONEY, equity, KEEL_OPT, 0, 0, "currency", "cash and market values")                      \
    X(S, MONEY, realized_pnl, "0", 0, 0, "currency", "before fees")                                \
    X(S, MONEY, unrealized_pnl, KEEL_OPT, 0, 0, "currency", "sum over positions")                  \
    X(S, MONEY, fees, "0", 0, 0, "currency", "paid")                                               \
    X(S, MONEY, equity_change, KEEL_OPT, 0, 0, "currency", "realised + unrealised - fees")         \
    X(S, I64, last_fill_no, "0", 0, 0, "", "strategy's fills applied so far, without holes")
KEEL_RECORD(keel_account, KEEL_ACCOUNT);

/* portfolio.critical.adjustment: what changes a position and is not strategy's. Durable. key portfolio. */
#define KEEL_ADJUSTMENT(X, S)                                                                      \
    X(S, STR, adjustment_id, NULL, 1, 96, "", "identity")                                          \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                          \
    X(S, ENUM, kind, NULL, 0, 0, "OPENING|FILL|CASH", "opening balance, foreign fill, or initial cash") \
    X(S, STR, currency, NULL, 1, 12, "", "currency")                                               \
    X(S, STR, symbol, KEEL_OPT, 1, 32, "", "absent for CASH")                                      \
    X(S, DEC, quantity, KEEL_OPT, 0, 0, "quantity", "signed change")                               \
    X(S, DEC, price, KEEL_OPT, 0, 0, "price", "price")                                             \
    X(S, MONEY, cash, "0", 0, 0, "currency", "signed change of cash")                              \
    X(S, STR, venue, KEEL_OPT, 1, 32, "", "of a FILL: with trade_id, the fill's identity")         \
    X(S, STR, trade_id, KEEL_OPT, 1, 64, "", "of a FILL")
KEEL_RECORD(keel_adjustment, KEEL_ADJUSTMENT);

/* ml.priority.prediction: one a feature vector of a model that is ready. Memory. key symbol. */
#define KEEL_PREDICTION(X, S)                                                                      \
    X(S, STR, prediction_id, NULL, 1, 64, "", "identity")                                          \
    X(S, STR, model_id, NULL, 1, 64, "", "model")                                                  \
    X(S, I64, version, NULL, 1, 0, "", "of the model")                                             \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, STR, spec, KEEL_OPT, 2, 16, "", "bars of the vector it rests on")                         \
    X(S, ENUM, direction, KEEL_OPT, 0, 0, "UP|DOWN|FLAT", "price models")                          \
    X(S, F64, change_percent, KEEL_OPT, 0, 0, "fraction", "expected change of the price")          \
    X(S, DEC, target_price, KEEL_OPT, 0, 0, "price", "price after that change")                    \
    X(S, F64, value, KEEL_OPT, 0, 0, "", "other models: volatility of a bar, score, probability")  \
    X(S, F64, confidence, KEEL_OPT, 0, 1, "fraction", "probability of what is said")               \
    X(S, STR, backend, NULL, 1, 32, "", "what ran it: c, onnx-cpu, ...")                           \
    X(S, TIME, as_of, NULL, 0, 0, "", "stamp of the input")                                        \
    X(S, TIME, expires_at, NULL, 0, 0, "", "not to be used from here on")
KEEL_RECORD(keel_prediction, KEEL_PREDICTION);

/* ml.critical.anomaly. Memory. key symbol. */
#define KEEL_ANOMALY(X, S)                                                                         \
    X(S, STR, model_id, NULL, 1, 64, "", "model")                                                  \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, F64, score, NULL, 0, 0, "", "how far from usual")                                         \
    X(S, F64, threshold, NULL, 0, 0, "", "scores above are anomalies")                             \
    X(S, STR, feature, NULL, 1, 64, "", "the feature that is farthest")                            \
    X(S, TIME, as_of, NULL, 0, 0, "", "stamp of the input")
KEEL_RECORD(keel_anomaly, KEEL_ANOMALY);

/* factor.priority.exposures: a symbol within the universe of that moment. Memory. key symbol. */
#define KEEL_EXPOSURES(X, S)                                                                       \
    X(S, STR, symbol, NULL, 1, 32, "", "symbol")                                                   \
    X(S, TIME, as_of, NULL, 0, 0, "", "stamp of the cross-section")                                \
    X(S, I64, universe, NULL, 1, 0, "symbols", "size of the cross-section")                        \
    X(S, MAP, exposures, NULL, 0, 64, "", "factor to cross-sectional z-score")
KEEL_RECORD(keel_exposures, KEEL_EXPOSURES);

/* analytics.realtime. Memory. key portfolio. */
#define KEEL_ANALYTICS(X, S)                                                                       \
    X(S, STR, portfolio_id, NULL, 1, 64, "", "portfolio")                                          \
    X(S, TIME, timestamp, NULL, 0, 0, "", "of the figures")                                        \
    X(S, STR, complexity, NULL, 1, 16, "", "simple, standard, comprehensive or institutional")     \
    X(S, MONEY, equity, KEEL_OPT, 0, 0, "currency", "as portfolio said it last")                   \
    X(S, I64, data_points, "0", 0, 0, "", "points of the equity curve it rests on")                \
    X(S, MAP, metrics, NULL, 0, 64, "", "name to value; what is undefined is absent")
KEEL_RECORD(keel_analytics, KEEL_ANALYTICS);

/* {engine}.critical.breaker. Memory. key "-". */
#define KEEL_BREAKER_REC(X, S)                                                                     \
    X(S, STR, engine, NULL, 1, 32, "", "engine")                                                   \
    X(S, STR, target, NULL, 1, 64, "", "operation or dependency")                                  \
    X(S, STR, from, NULL, 1, 16, "", "state before")                                               \
    X(S, STR, to, NULL, 1, 16, "", "state after")                                                  \
    X(S, STR, reason, KEEL_OPT, 0, 64, "", "why")
KEEL_RECORD(keel_breaker_event_rec, KEEL_BREAKER_REC);

#endif
