/*
 * Fills, whichever way they come (bus, POST, pulled from strategy), prices for the marks, and the
 * timer that creates the portfolio main, asks strategy for missing fills and keeps equity points.
 *
 * A fill's identity is venue and trade_id: the file is asked first, so the same fill changes
 * nothing a second time, and another one under that identity is refused.
 */
#include <string.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "ops.h"

#define PULL_NS    2000000000LL
#define PULL_LIMIT 500
#define MINUTE_NS  60000000000LL

struct fill_ctx {
    const char *content; /* what must be the same under the same identity */
    bool is_new;
    struct portfolio_plan plan;
    int64_t entry_id, entries, fills;
    int64_t low; /* of strategy's numbers, once this is committed */
    struct keel_position position;
    struct keel_account account;
};

/* ---- answers ---- */

static enum keel_status fill_late(struct keel_call *c)
{
    const struct keel_fill *f = c->arg;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", "unknown");
    keel_json_str(&c->out, "portfolio_id", f->portfolio_id);
    keel_json_str(&c->out, "trade_id", f->trade_id);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static void fill_answer(struct keel_call *c, const struct portfolio *p)
{
    const struct fill_ctx *x = c->ctx;
    const struct keel_fill *f = c->arg;
    if (c->op->on.kind != KEEL_ON_HTTP)
        return;
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "status", x->is_new ? "applied" : "duplicate");
    keel_json_str(&c->out, "portfolio_id", p->id);
    keel_json_str(&c->out, "trade_id", f->trade_id);
    portfolio_write_position(&c->out, "position", &x->position);
    portfolio_write_account(&c->out, "account", &x->account);
    keel_json_obj(&c->out, "ledger");
    keel_json_i64(&c->out, "entry_id", x->entry_id);
    keel_json_money(&c->out, "sum", portfolio_sum(&p->book));
    keel_json_end(&c->out);
    bool open = false;
    portfolio_undefined_position(c, &open, "position", &x->position);
    portfolio_undefined_account(c, &open, p, &x->account);
    if (open)
        keel_json_end(&c->out);
    keel_write_ignored(c);
    keel_json_end(&c->out);
}

/* The records of a portfolio and a position as they are, or as a plan will make them. */
static void fill_records(struct keel_call *c, const struct portfolio *p,
                         const struct portfolio_totals *totals,
                         const struct portfolio_position *position, struct portfolio_equity *equity)
{
    struct fill_ctx *x = c->ctx;
    x->position = portfolio_position_record(c->rt, p, position);
    x->account = portfolio_account_record(c->rt, p, totals, position, 1, equity);
}

/* ---- after the commit ---- */

static enum keel_status fill_stored(struct keel_call *c)
{
    struct portfolio_state *s = c->state;
    const struct fill_ctx *x = c->ctx;
    const struct keel_fill *f = c->arg;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_wait_status(c);
    struct portfolio *p = portfolio_get(s, f->portfolio_id);
    keel_assert(p != NULL);
    if (x->low > s->last_fill_no)
        s->last_fill_no = x->low;
    if (x->is_new) {
        keel_assert(portfolio_make_room(c->rt, p, f->symbol) == KEEL_OK);
        portfolio_apply(&p->book, &x->plan);
        p->entries = x->entries;
        p->fills = x->fills;
        if (c->rec->ts_recv != 0)
            keel_observe(c->rt, "market_to_position",
                         c->wall_ns + (int64_t)(keel_elapsed_ms(c) * 1e6) - c->rec->ts_recv);
    }
    fill_answer(c, p);
    return KEEL_OK;
}

/* ---- deciding ---- */

static void put_number(struct keel_txn *t, const struct portfolio_state *s)
{
    keel_txn_exec(t,
                  "INSERT INTO progress (id, last_fill_no) VALUES (1, ?)"
                  " ON CONFLICT (id) DO UPDATE SET last_fill_no = excluded.last_fill_no",
                  "i", s->numbers.low);
}

/* Known already: nothing but its number may be news. */
static enum keel_status fill_again(struct keel_call *c, const struct portfolio *p, bool had_number)
{
    struct portfolio_state *s = c->state;
    struct fill_ctx *x = c->ctx;
    const struct keel_fill *f = c->arg;
    struct portfolio_equity equity;
    x->plan.position = portfolio_position_of(p, f->symbol);
    fill_records(c, p, &p->book.totals, &x->plan.position, &equity);
    bool number_is_news = f->has_fill_no && !had_number;
    if (number_is_news && portfolio_numbers_add(&s->numbers, f->fill_no) != KEEL_OK)
        return keel_fail(c, KEEL_UNAVAILABLE, "too many fills are missing below fill_no %lld",
                         (long long)f->fill_no);
    if (!number_is_news && c->op->on.kind != KEEL_ON_TOPIC) {
        fill_answer(c, p);
        return KEEL_OK;
    }
    /* From the bus there is the mark to write, even when nothing else changes. */
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));
    if (number_is_news) {
        keel_txn_exec(
            t, "UPDATE fill SET fill_no = ? WHERE portfolio_id = ? AND venue = ? AND trade_id = ?",
            "isss", f->fill_no, p->id, f->venue, f->trade_id);
        put_number(t, s);
    }
    x->low = s->numbers.low;
    keel_commit_point(c, fill_late);
    return keel_await_store(c, t, fill_stored);
}

/* Which order and trace an entry is of, and when it was written by the machine's clock. */
static void put_origin(struct keel_txn *t, struct keel_call *c, const struct portfolio *p)
{
    const struct fill_ctx *x = c->ctx;
    const struct keel_fill *f = c->arg;
    keel_txn_exec(t,
                  "INSERT INTO origin (entry_id, portfolio_id, client_order_id, trace_id, booked_ns)"
                  " VALUES (?, ?, ?, ?, ?)",
                  "isssi", x->entry_id, p->id, f->client_order_id, keel_trace_id(c), keel_wall_ns());
}

static struct keel_txn *fill_rows(struct keel_call *c, struct portfolio *p)
{
    enum { FILL = 1 }; /* of the adjustment's kinds */
    struct portfolio_state *s = c->state;
    struct fill_ctx *x = c->ctx;
    const struct keel_fill *f = c->arg;
    struct portfolio_equity equity;
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));
    const char *ref = keel_arena_printf(c->arena, "%s %s", f->venue, f->trade_id);
    if (!p->is_stored)
        keel_assert(portfolio_put_new(c, t, p, p->book.totals.capital) == KEEL_OK);
    x->entries = p->entries + 1;
    x->fills = p->fills + 1;
    x->entry_id = portfolio_put_entry(t, s, p, "fill", ref, f->symbol, &x->plan, f->ts_event,
                                      c->rec->ts_recv);
    put_origin(t, c, p);
    keel_txn_exec(
        t,
        f->has_fill_no
            ? "INSERT INTO fill (portfolio_id, venue, trade_id, entry_id, content, fill_no)"
              " VALUES (?, ?, ?, ?, ?, ?)"
            : "INSERT INTO fill (portfolio_id, venue, trade_id, entry_id, content)"
              " VALUES (?, ?, ?, ?, ?)",
        f->has_fill_no ? "sssisi" : "sssis", p->id, f->venue, f->trade_id, x->entry_id, x->content,
        f->fill_no);
    portfolio_put_position(t, p, &x->plan.position);
    portfolio_put(t, p, &x->plan.totals, x->entries, x->fills);
    if (f->has_fill_no)
        put_number(t, s);
    else
        portfolio_put_adjustment(
            t, c, p,
            &(struct keel_adjustment){.kind = FILL,
                                      .symbol = f->symbol,
                                      .quantity = f->side == 1 ? -f->quantity : f->quantity,
                                      .price = f->price,
                                      .cash = x->plan.cash,
                                      .venue = f->venue,
                                      .trade_id = f->trade_id},
            x->entry_id, f->ts_event);
    fill_records(c, p, &x->plan.totals, &x->plan.position, &equity);
    portfolio_put_equity(t, p, &x->plan.totals, &equity, keel_session_ns(c->rt));
    keel_txn_publish(t, c, "portfolio.priority.position", p->id, f->ts_event,
                     keel_session_ns(c->rt), &x->position);
    keel_txn_publish(t, c, "portfolio.priority.account", p->id, f->ts_event, keel_session_ns(c->rt),
                     &x->account);
    return t;
}

static enum keel_status fill_new(struct keel_call *c, struct portfolio *p)
{
    struct portfolio_state *s = c->state;
    struct fill_ctx *x = c->ctx;
    const struct keel_fill *f = c->arg;
    struct portfolio_fill fill = {
        .is_sell = f->side == 1, .quantity = f->quantity, .price = f->price, .fee = f->fee.amount};
    struct portfolio_position position = portfolio_position_of(p, f->symbol);
    if (portfolio_make_room(c->rt, p, f->symbol) != KEEL_OK)
        return keel_fail_as(c, KEEL_TOOBIG, "max_positions", "symbol",
                            "the portfolio holds as many symbols as it may");
    enum keel_status st = portfolio_plan_fill(&p->book.totals, &position, &fill, &x->plan);
    if (st != KEEL_OK)
        return keel_fail(c, st, "the fill takes a sum of the ledger out of its range");
    if (f->has_fill_no && portfolio_numbers_add(&s->numbers, f->fill_no) != KEEL_OK)
        return keel_fail(c, KEEL_UNAVAILABLE, "too many fills are missing below fill_no %lld",
                         (long long)f->fill_no);
    x->is_new = true;
    x->low = s->numbers.low;
    struct keel_txn *t = fill_rows(c, p);
    keel_commit_point(c, fill_late);
    return keel_await_store(c, t, fill_stored);
}

static enum keel_status fill_looked_up(struct keel_call *c)
{
    struct fill_ctx *x = c->ctx;
    const struct keel_fill *f = c->arg;
    if (keel_wait_status(c) != KEEL_OK)
        return keel_fail_as(c, keel_wait_status(c), "store_unavailable", NULL,
                            "the fills could not be read");
    struct portfolio *p = portfolio_get(c->state, f->portfolio_id);
    if (p == NULL)
        return keel_fail(c, KEEL_NOTFOUND, "there is no portfolio %s", f->portfolio_id);
    if (c->rows->n == 0)
        return fill_new(c, p);
    if (strcmp(KEEL_CELL(c->rows, 0, 0), x->content) != 0)
        return keel_fail_as(c, KEEL_CONFLICT, "trade_conflict", "trade_id",
                            "%s %s is known with another content", f->venue, f->trade_id);
    const char *entry = KEEL_CELL(c->rows, 0, 1);
    keel_assert(keel_i64_parse(entry, strlen(entry), &x->entry_id) == KEEL_OK);
    return fill_again(c, p, KEEL_CELL(c->rows, 0, 2) != NULL);
}

/* Neither the number nor who took liquidity is part of what a fill is. */
static const char *content_of(struct keel_call *c, const struct keel_fill *f)
{
    struct keel_json w;
    struct keel_fill core = *f;
    core.has_fill_no = core.has_liquidity = false;
    keel_json_init(&w, c->arena, 512);
    keel_json_obj(&w, NULL);
    keel_record_encode(&keel_fill_fields, &core, &w);
    keel_json_end(&w);
    return keel_json_text(&w);
}

enum keel_status bus_fill(struct keel_call *c)
{
    struct keel_fill *f = c->arg;
    const char *symbol = portfolio_symbol(c->arena, f->symbol);
    if (symbol == NULL)
        return keel_fail_as(c, KEEL_INVALID, "bad_symbol", "symbol",
                            "symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}");
    f->symbol = symbol;
    const struct portfolio *p = portfolio_get(c->state, f->portfolio_id);
    if (p == NULL)
        return keel_fail(c, KEEL_NOTFOUND, "there is no portfolio %s", f->portfolio_id);
    if (f->fee.amount != 0 && strcmp(f->fee.currency, p->currency) != 0)
        return keel_fail_as(c, KEEL_UNDEFINED, "no_fx_rate", "fee.currency",
                            "no rate from %s to %s is known", f->fee.currency, p->currency);
    struct fill_ctx *x = keel_arena_alloc(c->arena, sizeof *x);
    x->content = content_of(c, f);
    c->ctx = x;
    return keel_await_read(
        c, "SELECT content, entry_id, fill_no FROM fill WHERE venue = ? AND trade_id = ?", "ss",
        fill_looked_up, f->venue, f->trade_id);
}

/* ---- prices ---- */

static struct portfolio_mark *mark_for(struct keel_call *c, const char *symbol, int64_t *at_ns)
{
    struct portfolio_state *s = c->state;
    struct portfolio_mark *k = portfolio_mark_of(&s->marks, symbol);
    *at_ns = c->rec->ts_init != 0 ? c->rec->ts_init : keel_session_ns(c->rt);
    if (k == NULL)
        keel_log_often(KEEL_LOG_WARN, "marks_full", "symbol=%s", symbol);
    return k;
}

enum keel_status bus_quote(struct keel_call *c)
{
    const struct keel_quote *q = c->arg;
    int64_t at_ns;
    struct portfolio_mark *k = mark_for(c, q->symbol, &at_ns);
    if (k != NULL && at_ns >= k->quote_ns) {
        k->bid = q->bid;
        k->ask = q->ask;
        k->quote_ns = at_ns;
    }
    return KEEL_OK;
}

enum keel_status bus_trade(struct keel_call *c)
{
    const struct keel_trade *t = c->arg;
    int64_t at_ns;
    struct portfolio_mark *k = mark_for(c, t->symbol, &at_ns);
    if (k != NULL && at_ns >= k->trade_ns) {
        k->last = t->price;
        k->trade_ns = at_ns;
    }
    return KEEL_OK;
}

enum keel_status bus_bar(struct keel_call *c)
{
    const struct keel_bar *b = c->arg;
    int64_t at_ns;
    struct portfolio_mark *k = mark_for(c, b->symbol, &at_ns);
    if (k != NULL && at_ns >= k->bar_ns) {
        k->close = b->close;
        k->bar_ns = at_ns;
    }
    return KEEL_OK;
}

/* ---- the timer ---- */

static enum keel_status tick_stored(struct keel_call *c)
{
    return keel_wait_status(c);
}

static enum keel_status create_main(struct keel_call *c, struct portfolio *p)
{
    struct keel_txn *t = keel_txn_new(keel_store(c->rt));
    keel_assert(portfolio_put_new(c, t, p, p->book.totals.capital) == KEEL_OK);
    return keel_await_store(c, t, tick_stored);
}

/* Each missing fill becomes a call of its own, in its portfolio's turn. */
static enum keel_status fills_pulled(struct keel_call *c)
{
    struct portfolio_state *s = c->state;
    const struct keel_jval *fills = keel_jget(c->peer.json, "fills");
    if (keel_wait_status(c) != KEEL_OK || c->peer.http != 200 || fills == NULL ||
        fills->type != KEEL_JARR)
        return KEEL_OK; /* its breaker and its health tell; the next turn asks again */
    for (const struct keel_jval *item = fills->child; item != NULL; item = item->next) {
        struct keel_fill f;
        struct keel_ignored ignored = {.n = 0};
        struct keel_record_error err = {0};
        if (keel_record_decode(&keel_fill_fields, c->arena, item, &f, &ignored, &err) != KEEL_OK ||
            !f.has_fill_no)
            keel_log_often(KEEL_LOG_ERROR, "pulled_fill_malformed", "field=%s detail=%s",
                           err.field ? err.field : "fill_no", err.detail ? err.detail : "");
        else if (!portfolio_numbers_has(&s->numbers, f.fill_no) &&
                 keel_spawn(c, "fill_pulled", &f) != KEEL_OK)
            break;
    }
    s->is_caught_up = s->is_caught_up || fills->len == 0;
    return KEEL_OK;
}

static enum keel_status pull_fills(struct keel_call *c)
{
    struct portfolio_state *s = c->state;
    s->pulled_at_ns = c->start_ns;
    struct keel_peer_req req = {.peer = "strategy", .method = "GET", .budget_ns = PULL_NS};
    req.path = keel_arena_printf(c->arena, "/fills?after=%lld&limit=%d", (long long)s->numbers.low,
                                 PULL_LIMIT);
    return keel_await_peer(c, &req, fills_pulled);
}

/* One equity point a session minute of every portfolio that has traded and can be valued. */
static struct keel_txn *equity_points(struct keel_call *c, int64_t now_ns)
{
    struct portfolio_state *s = c->state;
    struct keel_txn *t = NULL;
    for (size_t i = 0; i < s->n; i++) {
        struct portfolio *p = &s->all[i];
        struct portfolio_equity equity;
        if (p->is_pending || !p->is_stored || p->book.n == 0 ||
            p->equity_minute == now_ns / MINUTE_NS)
            continue;
        p->equity_minute = now_ns / MINUTE_NS;
        portfolio_account_record(c->rt, p, &p->book.totals, NULL, 0, &equity);
        if (!equity.is_known)
            continue;
        if (t == NULL)
            t = keel_txn_new(keel_store(c->rt));
        portfolio_put_equity(t, p, &p->book.totals, &equity, now_ns);
    }
    return t;
}

enum keel_status timer_tick(struct keel_call *c)
{
    struct portfolio_state *s = c->state;
    struct portfolio *p = portfolio_get(s, PORTFOLIO_MAIN);
    if (p != NULL && !p->is_stored)
        return create_main(c, p);
    bool is_due = s->pulled_at_ns == 0 || c->start_ns - s->pulled_at_ns >= PULL_NS;
    if ((!s->is_caught_up || s->numbers.n > 0) && is_due)
        return pull_fills(c);
    struct keel_txn *t = equity_points(c, keel_session_ns(c->rt));
    return t != NULL ? keel_await_store(c, t, tick_stored) : KEEL_OK;
}
