/*
 * Small engines for the tests of the bus, in the places of strategy (publishes), portfolio (applies) and marketdata (a live feed).
 *
 *   bus_peer strategy ...   POST /emit {count, first, portfolios}: durable fills, one transaction each, and memory signals;
 *                           POST /flood {count}: a source of that many signals, as fast as it may;
 *                           POST /pair and /pair/high {first}: a fill that is committed, and another once POST /release has come
 *   bus_peer marketdata ... POST /quotes {count, first, portfolios}: quotes of that many symbols, the bid is the number
 *   bus_peer portfolio ...  every fill becomes a row of the table got, in the transaction that holds its mark; the rows have
 *                           no key, so that a fill applied twice is two rows
 *
 * A fill whose price is 13 is refused as its sender's fault, one at 14 ends the process while it is in hand. POST /hold makes
 * everything fail as our own fault, POST /fail {commits} the next commits.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "keel/call.h"
#include "keel/clock.h"
#include "keel/contract.h"
#include "keel/source.h"
#include "keel/store.h"
#include "outbox.h"
#include "rt.h"

#define EMIT(X, S)                                                                                                     \
    X(S, I64, count, "1", 1, 100000, "", "fills")                                                                      \
    X(S, I64, first, "1", 1, 0, "", "number of the first")                                                             \
    X(S, I64, portfolios, "1", 1, 100, "", "keys to spread them over")                                                 \
    X(S, DEC, price, "100", 0, 0, "price", "of each")                                                                  \
    X(S, I64, signals, "0", 0, 100000, "", "memory records besides")
KEEL_RECORD(emit, EMIT);
KEEL_RECORD_TABLE(emit, EMIT);

#define HOLD(X, S)                                                                                                     \
    X(S, BOOL, on, NULL, 0, 0, "", "fail every fill as unavailable")                                                   \
    X(S, BOOL, any_price, "false", 0, 0, "", "13 is a price, too")                                                     \
    X(S, I64, slow_us, "0", 0, 10000, "us", "what a fill takes on the loop")
KEEL_RECORD(hold, HOLD);
KEEL_RECORD_TABLE(hold, HOLD);

#define PAIR(X, S) X(S, I64, first, "1", 1, 0, "", "number of the first")
KEEL_RECORD(pair, PAIR);
KEEL_RECORD_TABLE(pair, PAIR);

#define FAIL(X, S) X(S, I64, commits, NULL, 0, 1000, "", "how many fail")
KEEL_RECORD(fail, FAIL);
KEEL_RECORD_TABLE(fail, FAIL);

static enum keel_status fail_begin(struct keel_call *c)
{
    const struct fail *arg = c->arg;
    keel_store_fail_next(keel_store(c->rt), (int)arg->commits);
    keel_json_obj(&c->out, NULL);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS sent(fill_no INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS got(at INTEGER PRIMARY KEY AUTOINCREMENT, portfolio TEXT, trade_id TEXT, fill_no INTEGER);";

/* ---- the producer ---- */

struct run { int64_t left, next; };
struct flood { int64_t left; };
struct producer { struct flood flood; uint64_t pair; /* the call that waits */ };

static struct keel_txn *fill_of(struct keel_call *c, int64_t n, const char *portfolio, int64_t price)
{
    char trade[32];
    snprintf(trade, sizeof trade, "T-%lld", (long long)n);
    struct keel_fill fill = {
        .trade_id = trade, .has_trade_id = true, .client_order_id = trade, .has_client_order_id = true,
        .strategy_id = "manual", .has_strategy_id = true, .venue = "paper", .has_venue = true,
        .portfolio_id = portfolio, .has_portfolio_id = true, .symbol = "BTCUSDT", .has_symbol = true,
        .side = 0, .has_side = true, .quantity = KEEL_SCALE, .has_quantity = true, .price = price,
        .has_price = true, .fee = {.amount = 0, .has_amount = true, .currency = "USDT", .has_currency = true},
        .has_fee = true, .fill_no = n, .has_fill_no = true, .ts_event = 1, .has_ts_event = true};
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));
    keel_txn_exec(t, "INSERT INTO sent VALUES(?1)", "i", n);
    keel_txn_publish(t, c, "strategy.critical.fill", portfolio, 1, 1, &fill);
    return t;
}

static enum keel_status emit_one(struct keel_call *c)
{
    const struct emit *arg = c->arg;
    struct run *run = c->ctx;
    char portfolio[32];
    if (keel_wait_status(c) != KEEL_OK && run->left < arg->count)
        return keel_wait_status(c);
    if (run->left == 0) {
        keel_json_obj(&c->out, NULL);
        keel_json_i64(&c->out, "emitted", arg->count);
        keel_json_end(&c->out);
        return KEEL_OK;
    }
    struct keel_txn *t = NULL;
    /* Many transactions at a time, as an engine under load has them; the call waits for the last of a batch. */
    for (int i = 0; i < 32 && run->left > 0; i++, run->left--, run->next++) {
        if (t != NULL)
            keel_txn_commit(c->rt, t, NULL, NULL);
        snprintf(portfolio, sizeof portfolio, "p%lld", (long long)(run->next % arg->portfolios));
        t = fill_of(c, run->next, portfolio, arg->price);
    }
    return keel_await_store(c, t, emit_one);
}

static enum keel_status emit_signal(struct keel_call *c)
{
    struct keel_signal rec = {
        .strategy_id = "manual", .has_strategy_id = true, .symbol = "BTCUSDT", .has_symbol = true, .has_side = true,
        .quantity = KEEL_SCALE, .has_quantity = true, .reason = "test", .has_reason = true};
    return keel_publish(c, "strategy.priority.signal", "BTCUSDT", 1, 1, &rec);
}

static enum keel_status emit_begin(struct keel_call *c)
{
    const struct emit *arg = c->arg;
    struct run *run = keel_arena_alloc(c->arena, sizeof *run);
    for (int64_t i = 0; i < arg->signals; i++) {
        enum keel_status st = emit_signal(c);
        if (st != KEEL_OK)
            return st;
    }
    run->left = arg->count;
    run->next = arg->first;
    c->ctx = run;
    return emit_one(c);
}

static enum keel_status pair_end(struct keel_call *c)
{
    const size_t *waited = c->ctx;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    keel_json_obj(&c->out, NULL);
    keel_json_u64(&c->out, "waited", *waited);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status pair_second(struct keel_call *c)
{
    const struct pair *arg = c->arg;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    return keel_await_store(c, fill_of(c, arg->first + 1, "p0", 100 * KEEL_SCALE), pair_end);
}

static enum keel_status pair_first(struct keel_call *c)
{
    struct producer *s = c->state;
    size_t *waited = c->ctx;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    *waited = c->rt->bus->out->stream[KEEL_LANE_CRITICAL].waiting;
    return keel_await_wake(c, pair_second, &s->pair);
}

static enum keel_status pair_begin(struct keel_call *c)
{
    const struct pair *arg = c->arg;
    c->ctx = keel_arena_alloc(c->arena, sizeof(size_t));
    return keel_await_store(c, fill_of(c, arg->first, "p0", 100 * KEEL_SCALE), pair_first);
}

static enum keel_status release_begin(struct keel_call *c)
{
    const struct producer *s = c->state;
    keel_json_obj(&c->out, NULL);
    keel_json_bool(&c->out, "released", keel_wake(c->rt, s->pair, KEEL_OK));
    keel_json_end(&c->out);
    return KEEL_OK;
}

/* A source that has nothing but numbers. */
struct flood_item { int64_t ts_init; };

static enum keel_status flood_open(void *cfg, void **self, char *why, size_t cap)
{
    (void)why;
    (void)cap;
    *self = cfg;
    return KEEL_OK;
}

static enum keel_status flood_next(void *self, struct keel_batch *b, const atomic_bool *stop, char *why, size_t cap)
{
    struct flood *f = self;
    struct flood_item *item = b->items;
    (void)stop;
    (void)why;
    (void)cap;
    for (; f->left > 0 && b->n < b->cap; f->left--)
        item[b->n++].ts_init = 1;
    return KEEL_OK;
}

static void flood_close(void *self)
{
    (void)self;
}

static const struct keel_source_ops flood_ops = {.name = "flood", .item_size = sizeof(struct flood_item), .batch_cap = 4096,
                                                 .open = flood_open, .next = flood_next, .close = flood_close};

static enum keel_status flood_slice(struct keel_call *c)
{
    for (size_t i = 0; i < c->slice->n; i++) {
        enum keel_status st = emit_signal(c);
        if (st != KEEL_OK)
            return st;
    }
    return KEEL_OK;
}

static enum keel_status flood_begin(struct keel_call *c)
{
    const struct emit *arg = c->arg;
    struct flood *f = &((struct producer *)c->state)->flood;
    struct keel_source *source;
    f->left = arg->count;
    enum keel_status st = keel_source_start(c->rt, "slice", &flood_ops, f, NULL, 0, 1, &source);
    keel_json_obj(&c->out, NULL);
    keel_json_end(&c->out);
    return st;
}

static const struct keel_op strategy_ops[] = {
    {.id = "emit", .on = KEEL_POST("/emit"), .level = KEEL_CRITICAL, .deadline_ms = 60000, .scope = KEEL_SCOPE_TRADE,
     .takes = &emit_fields, .begin = emit_begin, .flags = KEEL_MUST},
    {.id = "flood", .on = KEEL_POST("/flood"), .level = KEEL_CRITICAL, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &emit_fields, .begin = flood_begin},
    {.id = "pair", .on = KEEL_POST("/pair"), .level = KEEL_CRITICAL, .deadline_ms = 60000, .scope = KEEL_SCOPE_TRADE,
     .takes = &pair_fields, .begin = pair_begin},
    {.id = "pair_high", .on = KEEL_POST("/pair/high"), .level = KEEL_HIGH, .deadline_ms = 60000, .scope = KEEL_SCOPE_TRADE,
     .takes = &pair_fields, .begin = pair_begin},
    {.id = "release", .on = KEEL_POST("/release"), .level = KEEL_HIGH, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .begin = release_begin},
    {.id = "slice", .on = KEEL_SOURCE, .level = KEEL_NORMAL, .deadline_ms = 1000, .begin = flood_slice},
    {.id = "fail", .on = KEEL_POST("/fail"), .level = KEEL_HIGH, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &fail_fields, .begin = fail_begin},
};
static const char *const strategy_topics[] = {"strategy.critical.fill", "strategy.priority.signal", NULL};
static const struct keel_engine strategy = {
    .name = "strategy", .title = "test", .port = 8700, .ops = strategy_ops, .n_ops = KEEL_COUNT(strategy_ops),
    .publishes = strategy_topics, .schema = schema, .state_size = sizeof(struct producer),
};

/* ---- the live feed ---- */

static enum keel_status quotes_begin(struct keel_call *c)
{
    const struct emit *arg = c->arg;
    for (int64_t i = arg->first; i < arg->first + arg->count; i++) {
        char symbol[32];
        snprintf(symbol, sizeof symbol, "S%lld", (long long)(i % arg->portfolios));
        struct keel_quote q = {.symbol = symbol, .has_symbol = true, .bid = i * KEEL_SCALE, .has_bid = true,
                               .bid_size = KEEL_SCALE, .has_bid_size = true, .ask = i * KEEL_SCALE, .has_ask = true,
                               .ask_size = KEEL_SCALE, .has_ask_size = true};
        enum keel_status st = keel_publish(c, "marketdata.quote", symbol, 1, 1, &q);
        if (st != KEEL_OK)
            return st;
    }
    keel_json_obj(&c->out, NULL);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static const struct keel_op feed_ops[] = {
    {.id = "quotes", .on = KEEL_POST("/quotes"), .level = KEEL_CRITICAL, .deadline_ms = 5000, .scope = KEEL_SCOPE_TRADE,
     .takes = &emit_fields, .begin = quotes_begin, .flags = KEEL_LIVE},
};
static const char *const feed_topics[] = {"marketdata.quote", NULL};
static const struct keel_engine feed = {
    .name = "marketdata", .title = "test", .port = 8800, .ops = feed_ops, .n_ops = KEEL_COUNT(feed_ops),
    .publishes = feed_topics,
};

/* ---- the consumer ---- */

enum { SYMBOLS = 8 };
struct state { bool hold, any_price; int64_t signals, slow_ns, quotes, bid[SYMBOLS]; };

static enum keel_status fill_end(struct keel_call *c)
{
    return keel_wait_status(c);
}

static enum keel_status fill_begin(struct keel_call *c)
{
    const struct keel_fill *fill = c->arg;
    const struct state *s = c->state;
    if (fill->price == 13 * KEEL_SCALE && !s->any_price)
        return keel_fail(c, KEEL_INVALID, "13 is no price");
    if (fill->price == 14 * KEEL_SCALE)
        kill(getpid(), SIGKILL);
    if (s->hold)
        return keel_fail(c, KEEL_UNAVAILABLE, "held");
    for (int64_t until_ns = keel_mono_ns() + s->slow_ns; s->slow_ns > 0 && keel_mono_ns() < until_ns;)
        ;
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));
    keel_txn_exec(t, "INSERT INTO got(portfolio, trade_id, fill_no) VALUES(?1, ?2, ?3)", "ssi", fill->portfolio_id,
                  fill->trade_id, fill->fill_no);
    return keel_await_store(c, t, fill_end);
}

static enum keel_status signal_begin(struct keel_call *c)
{
    struct state *s = c->state;
    if (s->hold)
        return keel_fail(c, KEEL_UNAVAILABLE, "held");
    s->signals++;
    return KEEL_OK;
}

static enum keel_status quote_begin(struct keel_call *c)
{
    const struct keel_quote *q = c->arg;
    struct state *s = c->state;
    s->quotes++;
    if (q->symbol[0] == 'S' && q->symbol[1] >= '0' && q->symbol[1] < '0' + SYMBOLS)
        s->bid[q->symbol[1] - '0'] = q->bid / KEEL_SCALE;
    return KEEL_OK;
}

static enum keel_status hold_begin(struct keel_call *c)
{
    const struct hold *arg = c->arg;
    struct state *s = c->state;
    s->hold = arg->on;
    s->any_price = arg->any_price;
    s->slow_ns = arg->slow_us * 1000;
    keel_json_obj(&c->out, NULL);
    keel_json_i64(&c->out, "signals", s->signals);
    keel_json_i64(&c->out, "quotes", s->quotes);
    keel_json_arr(&c->out, "bids");
    for (int i = 0; i < SYMBOLS; i++)
        keel_json_i64(&c->out, NULL, s->bid[i]);
    keel_json_end(&c->out);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static const struct keel_op portfolio_ops[] = {
    {.id = "fill", .on = KEEL_TOPIC("strategy.critical.fill", KEEL_SHARE), .level = KEEL_CRITICAL,
     .takes = &keel_fill_fields, .key = "portfolio_id", .begin = fill_begin, .flags = KEEL_MUST},
    {.id = "signal", .on = KEEL_TOPIC("strategy.priority.signal", KEEL_EACH), .level = KEEL_HIGH, .deadline_ms = 1000,
     .takes = &keel_signal_fields, .begin = signal_begin},
    {.id = "quote", .on = KEEL_TOPIC("marketdata.quote", KEEL_EACH), .level = KEEL_HIGH, .deadline_ms = 1000,
     .takes = &keel_quote_fields, .key = "symbol", .begin = quote_begin},
    {.id = "hold", .on = KEEL_POST("/hold"), .level = KEEL_HIGH, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &hold_fields, .begin = hold_begin},
    {.id = "fail", .on = KEEL_POST("/fail"), .level = KEEL_HIGH, .deadline_ms = 1000, .scope = KEEL_SCOPE_TRADE,
     .takes = &fail_fields, .begin = fail_begin},
};
static const struct keel_engine portfolio = {
    .name = "portfolio", .title = "test", .port = 8900, .ops = portfolio_ops, .n_ops = KEEL_COUNT(portfolio_ops),
    .schema = schema, .state_size = sizeof(struct state),
};

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    const struct keel_engine *const roles[] = {&strategy, &portfolio, &feed};
    for (size_t i = 0; i < KEEL_COUNT(roles); i++)
        if (strcmp(argv[1], roles[i]->name) == 0)
            return keel_main(argc - 1, argv + 1, roles[i]);
    return 2;
}
