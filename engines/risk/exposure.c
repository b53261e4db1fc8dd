/* Exposure: see exposure.h. */
#include "exposure.h"

int64_t risk_leaves(const struct risk_entry *e)
{
    int64_t whole = e->phase == RISK_ENDED ? e->end_filled : e->quantity;

    return whole > e->filled ? whole - e->filled : 0;
}

void risk_entry_record(struct risk_entry *e, bool ended, int64_t quantity, int64_t filled)
{
    if (quantity > e->quantity)
        e->quantity = quantity;
    if (e->phase == RISK_ENDED) {
        if (filled > e->end_filled)
            e->end_filled = filled;
        return;
    }
    e->phase = ended ? RISK_ENDED : RISK_OPEN;
    if (ended)
        e->end_filled = filled;
}

void risk_entry_fill(struct risk_entry *e, int64_t quantity)
{
    if (keel_dec_add(e->filled, quantity, &e->filled) != KEEL_OK)
        e->filled = INT64_MAX;
    if (e->filled > e->quantity)
        e->quantity = e->filled;
}

bool risk_entry_done(const struct risk_entry *e)
{
    return e->phase == RISK_ENDED && risk_leaves(e) == 0;
}

static int64_t magnitude(int64_t v)
{
    return v < 0 ? -v : v;
}

enum keel_status risk_worst_quantity(const struct risk_line *l, int64_t *out)
{
    int64_t up, down;

    if (l->unknown)
        return KEEL_UNDEFINED;
    if (keel_dec_add(l->position, l->buys, &up) != KEEL_OK || keel_dec_sub(l->position, l->sells, &down) != KEEL_OK ||
        up == INT64_MIN || down == INT64_MIN)
        return KEEL_TOOBIG;
    *out = magnitude(up) > magnitude(down) ? magnitude(up) : magnitude(down);
    return KEEL_OK;
}

enum keel_status risk_value(const struct risk_line *l, int64_t quantity, keel_i128 *out)
{
    if (quantity == 0) {
        *out = 0;
        return KEEL_OK;
    }
    return l->has_mark ? keel_notional(l->mark, quantity, KEEL_SCALE, out) : KEEL_UNDEFINED;
}

bool risk_reduces(const struct risk_line *l, int side, int64_t quantity)
{
    int64_t open = side == RISK_SIDE_BUY ? l->buys : l->sells, room;

    if (l->unknown || l->position == INT64_MIN)
        return false;
    room = side == RISK_SIDE_BUY ? -l->position : l->position;
    return room > 0 && open <= room && quantity <= room - open;
}

static keel_i128 abs_money(keel_i128 v)
{
    return v < 0 ? -v : v;
}

enum keel_status risk_sum(const struct risk_line *l, size_t n, keel_i128 cash, struct risk_totals *out)
{
    struct risk_totals t = {.defined = true, .worst_defined = true};
    enum keel_status st = KEEL_OK;

    for (size_t i = 0; i < n && st == KEEL_OK; i++) {
        keel_i128 value = 0, worst = 0;
        int64_t quantity = 0;

        t.positions += l[i].position != 0;
        if ((st = risk_worst_quantity(&l[i], &quantity)) == KEEL_TOOBIG)
            break;
        if (risk_value(&l[i], l[i].position, &value) != KEEL_OK)
            t.defined = false;
        if (st != KEEL_OK || risk_value(&l[i], quantity, &worst) != KEEL_OK)
            t.worst_defined = false;
        if (abs_money(value) > t.largest)
            t.largest = abs_money(value);
        if ((st = keel_money_add(t.gross, abs_money(value), &t.gross)) == KEEL_OK &&
            (st = keel_money_add(t.net, value, &t.net)) == KEEL_OK)
            st = keel_money_add(t.worst_gross, abs_money(worst), &t.worst_gross);
    }
    if (st == KEEL_OK && (st = keel_money_add(cash, t.net, &t.equity)) == KEEL_OK)
        *out = t;
    return st;
}

enum keel_status risk_ratio(keel_i128 a, keel_i128 b, keel_i128 *out)
{
    const keel_i128 most = (((keel_i128)1) << 96);
    bool negative = a < 0;
    keel_i128 n, q, rest;

    if (b <= 0 || a > most || a < -most)
        return KEEL_TOOBIG;
    n = abs_money(a) * KEEL_SCALE;
    q = n / b;
    rest = n % b;
    if (rest > b - rest || (rest == b - rest && (q & 1)))
        q++;
    *out = negative ? -q : q;
    return KEEL_OK;
}
