/* Double-entry arithmetic of fills, opening balances and cash; marks; daily performance. See
 * ledger.h. */
#include "ledger.h"

#include <math.h>
#include <string.h>

#include "keel/stats.h"

const char *portfolio_account_name(enum portfolio_account account)
{
    static const char *const name[PORTFOLIO_N_ACCOUNT] = {"cash", "position", "realized_pnl",
                                                          "fees", "capital"};
    return name[account];
}

static void symbol_copy(char to[PORTFOLIO_SYMBOL], const char *from)
{
    size_t n = strlen(from);
    if (n > PORTFOLIO_SYMBOL - 1)
        n = PORTFOLIO_SYMBOL - 1;
    memcpy(to, from, n);
    to[n] = '\0';
}

void portfolio_position_init(struct portfolio_position *p, const char *symbol, int64_t multiplier)
{
    *p = (struct portfolio_position){.multiplier = multiplier};
    symbol_copy(p->symbol, symbol);
}

/* ---- planning ---- */

static void post(struct portfolio_plan *plan, enum portfolio_account account, keel_i128 amount)
{
    if (amount != 0)
        plan->posting[plan->n_postings++] = (struct portfolio_posting){account, amount};
}

static keel_i128 postings_sum(const struct portfolio_plan *plan)
{
    keel_i128 sum = 0;
    for (size_t i = 0; i < plan->n_postings; i++)
        sum += plan->posting[i].amount;
    return sum;
}

/* Adds without looking until one sum fails; st remembers. */
static void add(enum keel_status *st, keel_i128 *to, keel_i128 amount)
{
    if (*st == KEEL_OK)
        *st = keel_money_add(*to, amount, to);
}

static void sub(enum keel_status *st, keel_i128 *from, keel_i128 amount)
{
    if (*st == KEEL_OK)
        *st = keel_money_sub(*from, amount, from);
}

static int64_t magnitude(int64_t v)
{
    return v < 0 ? -v : v;
}

/* What a fill splits into: the part that closes and the part that opens; either may be empty. */
struct split {
    int64_t closing;           /* quantity closed, >= 0 */
    keel_i128 closed_cost;     /* the position's cost that goes with it, signed */
    keel_i128 closed_notional; /* of the fill's notional, signed as the fill */
    keel_i128 opened_notional;
};

static enum keel_status split_fill(const struct portfolio_position *p, int64_t signed_quantity,
                                   keel_i128 signed_notional, struct split *out)
{
    struct split s = {.opened_notional = signed_notional};
    enum keel_status st = KEEL_OK;
    if (p->quantity != 0 && (p->quantity < 0) != (signed_quantity < 0)) {
        int64_t held = magnitude(p->quantity), filled = magnitude(signed_quantity);
        s.closing = filled < held ? filled : held;
        s.closed_cost = p->cost;
        s.closed_notional = signed_notional;
        if (s.closing < held)
            st = keel_money_share(p->cost, s.closing, held, &s.closed_cost);
        else if (s.closing < filled)
            st = keel_money_share(signed_notional, s.closing, filled, &s.closed_notional);
        s.opened_notional = signed_notional - s.closed_notional;
    }
    if (st == KEEL_OK)
        *out = s;
    return st;
}

enum keel_status portfolio_plan_fill(const struct portfolio_totals *totals,
                                     const struct portfolio_position *position,
                                     const struct portfolio_fill *fill, struct portfolio_plan *out)
{
    struct portfolio_plan plan = {.totals = *totals, .has_position = true, .position = *position};
    struct portfolio_position *p = &plan.position;
    struct split s = {0};
    int64_t quantity = fill->is_sell ? -fill->quantity : fill->quantity;
    if (fill->quantity <= 0 || fill->price <= 0)
        return KEEL_INVALID;
    enum keel_status st = keel_notional(fill->price, fill->quantity, p->multiplier, &plan.notional);
    keel_i128 notional = fill->is_sell ? -plan.notional : plan.notional;
    if (st == KEEL_OK)
        st = split_fill(position, quantity, notional, &s);
    if (st == KEEL_OK)
        st = keel_dec_add(p->quantity, quantity, &p->quantity);
    if (st == KEEL_OK && p->quantity == INT64_MIN)
        st = KEEL_TOOBIG; /* has no magnitude */
    if (st != KEEL_OK)
        return st;

    /* A long position is closed by a negative notional, a short one (negative cost) by a positive
     * one. */
    keel_i128 cost_change = 0;
    add(&st, &plan.realized, -s.closed_notional);
    sub(&st, &plan.realized, s.closed_cost);
    add(&st, &cost_change, s.opened_notional);
    sub(&st, &cost_change, s.closed_cost);
    sub(&st, &plan.cash, notional);
    sub(&st, &plan.cash, fill->fee);
    add(&st, &p->cost, cost_change);
    add(&st, &p->realized, plan.realized);
    add(&st, &plan.totals.cash, plan.cash);
    add(&st, &plan.totals.realized, plan.realized);
    add(&st, &plan.totals.fees, fill->fee);
    if (st != KEEL_OK)
        return st;
    post(&plan, PORTFOLIO_CASH, plan.cash);
    post(&plan, PORTFOLIO_POSITION, cost_change);
    post(&plan, PORTFOLIO_REALIZED, -plan.realized);
    post(&plan, PORTFOLIO_FEES, fill->fee);
    keel_assert(postings_sum(&plan) == 0);
    *out = plan;
    return KEEL_OK;
}

enum keel_status portfolio_plan_opening(const struct portfolio_totals *totals,
                                        const struct portfolio_position *position, int64_t quantity,
                                        int64_t avg_cost, struct portfolio_plan *out)
{
    struct portfolio_plan plan = {.totals = *totals, .has_position = true, .position = *position};
    if (position->quantity != 0 || position->cost != 0 || position->realized != 0)
        return KEEL_CONFLICT;
    if (quantity == 0 || quantity == INT64_MIN || avg_cost < 0)
        return KEEL_INVALID;
    keel_i128 cost = 0;
    enum keel_status st = keel_notional(avg_cost, quantity, position->multiplier, &cost);
    add(&st, &plan.totals.capital, cost);
    if (st != KEEL_OK)
        return st;
    plan.position.quantity = quantity;
    plan.position.cost = cost;
    post(&plan, PORTFOLIO_POSITION, cost);
    post(&plan, PORTFOLIO_CAPITAL, -cost);
    *out = plan;
    return KEEL_OK;
}

enum keel_status portfolio_plan_cash(const struct portfolio_totals *totals, keel_i128 amount,
                                     struct portfolio_plan *out)
{
    struct portfolio_plan plan = {.totals = *totals, .cash = amount};
    enum keel_status st = KEEL_OK;
    add(&st, &plan.totals.cash, amount);
    add(&st, &plan.totals.capital, amount);
    if (st != KEEL_OK)
        return st;
    post(&plan, PORTFOLIO_CASH, amount);
    post(&plan, PORTFOLIO_CAPITAL, -amount);
    *out = plan;
    return KEEL_OK;
}

/* ---- the book ---- */

struct portfolio_position *portfolio_find(const struct portfolio_book *b, const char *symbol)
{
    for (size_t i = 0; i < b->n; i++)
        if (strcmp(b->position[i].symbol, symbol) == 0)
            return &b->position[i];
    return NULL;
}

void portfolio_apply(struct portfolio_book *b, const struct portfolio_plan *plan)
{
    b->totals = plan->totals;
    if (!plan->has_position)
        return;
    struct portfolio_position *p = portfolio_find(b, plan->position.symbol);
    if (p == NULL) {
        keel_assert(b->n < b->cap);
        p = &b->position[b->n++];
    }
    *p = plan->position;
}

keel_i128 portfolio_sum(const struct portfolio_book *b)
{
    keel_i128 sum = b->totals.cash - b->totals.realized + b->totals.fees - b->totals.capital;
    for (size_t i = 0; i < b->n; i++)
        sum += b->position[i].cost;
    return sum;
}

enum keel_status portfolio_avg_cost(const struct portfolio_position *p, int64_t *out)
{
    if (p->quantity == 0)
        return KEEL_UNDEFINED;
    int64_t per_unit = 0;
    enum keel_status st = keel_money_per(p->cost, p->quantity, &per_unit);
    if (st == KEEL_OK && p->multiplier != KEEL_SCALE)
        st = keel_money_per(per_unit, p->multiplier, &per_unit);
    if (st == KEEL_OK)
        *out = per_unit;
    return st;
}

enum keel_status portfolio_value_at(const struct portfolio_position *p, bool has_mark, int64_t mark,
                                    struct portfolio_value *out)
{
    struct portfolio_value v = {
        .has_mark = has_mark, .mark = mark, .is_known = has_mark || p->quantity == 0};
    enum keel_status st = KEEL_OK;
    if (v.is_known && p->quantity != 0) {
        st = keel_notional(mark, p->quantity, p->multiplier, &v.market_value);
        if (st == KEEL_OK)
            st = keel_money_sub(v.market_value, p->cost, &v.unrealized);
    }
    if (st == KEEL_OK)
        *out = v;
    return st;
}

void portfolio_equity_start(struct portfolio_equity *e)
{
    *e = (struct portfolio_equity){.is_known = true};
}

enum keel_status portfolio_equity_add(struct portfolio_equity *e, const struct portfolio_value *v)
{
    enum keel_status st = KEEL_OK;
    e->is_known = e->is_known && v->is_known;
    if (!e->is_known)
        return KEEL_OK;
    add(&st, &e->market_value, v->market_value);
    add(&st, &e->unrealized, v->unrealized);
    return st;
}

enum keel_status portfolio_equity_finish(struct portfolio_equity *e,
                                         const struct portfolio_totals *t)
{
    enum keel_status st = KEEL_OK;
    if (!e->is_known)
        return KEEL_OK;
    e->equity = t->cash;
    e->change = t->realized;
    add(&st, &e->equity, e->market_value);
    add(&st, &e->change, e->unrealized);
    sub(&st, &e->change, t->fees);
    return st;
}

/* ---- marks ---- */

static size_t hash(const char *s)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (; *s != '\0'; s++)
        h = (h ^ (unsigned char)*s) * 1099511628211u;
    return (size_t)(h ^ (h >> 32));
}

static struct portfolio_mark *mark_slot(const struct portfolio_marks *m, const char *symbol)
{
    size_t at = hash(symbol) & (m->cap - 1);
    while (m->slot[at].symbol[0] != '\0' && strcmp(m->slot[at].symbol, symbol) != 0)
        at = (at + 1) & (m->cap - 1);
    return &m->slot[at];
}

struct portfolio_mark *portfolio_mark_of(struct portfolio_marks *m, const char *symbol)
{
    struct portfolio_mark *slot = mark_slot(m, symbol);
    if (slot->symbol[0] == '\0') {
        if (m->n >= m->cap - m->cap / 4)
            return NULL;
        symbol_copy(slot->symbol, symbol);
        m->n++;
    }
    return slot;
}

static bool is_fresh(int64_t at_ns, int64_t now_ns, int64_t stale_ns)
{
    return at_ns != 0 && now_ns - at_ns <= stale_ns;
}

bool portfolio_mark_price(const struct portfolio_marks *m, const char *symbol, int64_t now_ns,
                          int64_t stale_ns, int64_t *out)
{
    const struct portfolio_mark *k = mark_slot(m, symbol);
    if (is_fresh(k->quote_ns, now_ns, stale_ns))
        *out = (int64_t)(((keel_i128)k->bid + k->ask) / 2);
    else if (is_fresh(k->trade_ns, now_ns, stale_ns))
        *out = k->last;
    else if (is_fresh(k->bar_ns, now_ns, stale_ns))
        *out = k->close;
    else
        return false;
    return true;
}

/* ---- performance ---- */

enum keel_status portfolio_perform(const struct portfolio_day *day, size_t n,
                                   struct portfolio_performance *out)
{
    struct keel_moments m = {0};
    double wealth = 1, peak = 1, drawdown = 0;
    if (n < 2)
        return KEEL_UNDEFINED;
    for (size_t i = 1; i < n; i++) {
        const struct portfolio_day *from = &day[i - 1], *to = &day[i];
        if (!(from->equity > 0))
            return KEEL_UNDEFINED;
        double r = (to->equity - from->equity - (to->capital - from->capital)) / from->equity;
        keel_moments_add(&m, r);
        wealth *= 1 + r;
        if (wealth > peak)
            peak = wealth;
        if ((peak - wealth) / peak > drawdown)
            drawdown = (peak - wealth) / peak;
    }
    *out = (struct portfolio_performance){.total_return = wealth - 1,
                                          .mean = m.mean,
                                          .sd = sqrt(keel_moments_var(&m)),
                                          .max_drawdown = drawdown,
                                          .returns = n - 1};
    return KEEL_OK;
}
