/* Matching of the paper venue; see the header. Taking from levels is one function for arriving and
 * resting orders alike. */
#include "venue.h"

void venue_show(struct venue_depth *d, const struct venue_level *shown, size_t n)
{
    struct venue_depth next = {.n = 0};

    for (size_t i = 0; i < n && next.n < VENUE_LEVELS; i++) {
        struct venue_level l = {shown[i].price, shown[i].size, 0};

        if (l.price <= 0 || l.size <= 0)
            continue;
        for (size_t k = 0; k < d->n; k++)
            if (d->level[k].price == l.price && d->level[k].size == l.size)
                l.taken = d->level[k].taken;
        next.level[next.n++] = l;
    }
    *d = next;
}

/* The limit of a buyer is the most it pays, that of a seller the least it gets. */
static bool within(enum order_side side, int64_t limit, int64_t price)
{
    return side == ORDER_BUY ? price <= limit : price >= limit;
}

static struct venue_depth *opposite(struct venue_book *b, enum order_side side)
{
    return &b->side[side == ORDER_BUY ? ORDER_SELL : ORDER_BUY];
}

/* What is there for t, at most t->quantity. */
static int64_t available(const struct venue_depth *d, const struct venue_ticket *t)
{
    int64_t sum = 0;

    for (size_t i = 0; i < d->n && sum < t->quantity; i++) {
        int64_t left = d->level[i].size - d->level[i].taken;

        if (t->has_price && !within(t->side, t->price, d->level[i].price))
            break;
        sum = left < t->quantity - sum ? sum + left : t->quantity;
    }
    return sum;
}

static int64_t take(struct venue_depth *d, const struct venue_ticket *t, struct venue_match *match,
                    size_t *n)
{
    int64_t sum = 0;

    *n = 0;
    for (size_t i = 0; i < d->n && sum < t->quantity; i++) {
        struct venue_level *l = &d->level[i];
        int64_t left = l->size - l->taken, want = t->quantity - sum;
        int64_t q = left < want ? left : want;

        if (t->has_price && !within(t->side, t->price, l->price))
            break;
        if (q == 0)
            continue;
        l->taken += q;
        sum += q;
        match[(*n)++] = (struct venue_match){l->price, q};
    }
    return sum;
}

static const char *unfit(const struct venue_book *b, const struct venue_ticket *t, int64_t now_ns,
                         int64_t max_age_ns)
{
    enum order_side other = t->side == ORDER_BUY ? ORDER_SELL : ORDER_BUY;

    if (b == NULL || (b->side[ORDER_BUY].n == 0 && b->side[ORDER_SELL].n == 0))
        return "no_liquidity";
    if (b->state != VENUE_LIVE || now_ns - b->ts_ns > max_age_ns)
        return "book_not_live";
    return t->type == ORDER_MARKET && b->side[other].n == 0 ? "no_liquidity" : NULL;
}

void venue_arrive(struct venue_book *b, const struct venue_ticket *t, int64_t now_ns,
                  int64_t max_age_ns, struct venue_result *out)
{
    *out = (struct venue_result){.verdict = VENUE_REJECTED, .reason = ""};

    const char *why = unfit(b, t, now_ns, max_age_ns);

    if (why != NULL) {
        out->reason = why;
        return;
    }

    struct venue_depth *d = opposite(b, t->side);

    if (t->tif == ORDER_FOK && available(d, t) < t->quantity) {
        out->verdict = VENUE_CANCELED;
        out->reason = "not_fillable";
        return;
    }
    if (take(d, t, out->match, &out->n) == t->quantity) {
        out->verdict = VENUE_FILLED;
    } else if (t->type == ORDER_LIMIT && (t->tif == ORDER_GTC || t->tif == ORDER_DAY)) {
        out->verdict = VENUE_RESTS;
    } else {
        out->verdict = VENUE_CANCELED;
        out->reason = "no_liquidity";
    }
}

int64_t venue_cross(struct venue_book *b, enum order_side side, int64_t price, int64_t leaves)
{
    struct venue_ticket t = {.side = side, .has_price = true, .price = price, .quantity = leaves};
    struct venue_match match[VENUE_LEVELS];
    size_t n;

    return b->state == VENUE_LIVE ? take(opposite(b, side), &t, match, &n) : 0;
}

bool venue_through(enum order_side side, int64_t price, int64_t trade_price)
{
    return side == ORDER_BUY ? trade_price < price : trade_price > price;
}

enum keel_status venue_fee(int64_t price, int64_t quantity, int64_t rate, keel_i128 *notional,
                           keel_i128 *fee)
{
    keel_i128 n, f;

    if (keel_notional(price, quantity, KEEL_SCALE, &n) != KEEL_OK ||
        keel_money_rate(n, rate, &f) != KEEL_OK)
        return KEEL_TOOBIG;
    *notional = n;
    *fee = f;
    return KEEL_OK;
}
