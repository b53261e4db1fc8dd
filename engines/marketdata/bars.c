/* Time bars of bars.h. */
#include "bars.h"

#include <string.h>

#define MS 1000000LL

static const struct { const char *unit; int64_t ns; } units[] = {
    {"ms", MS}, {"s", 1000 * MS}, {"m", 60000 * MS}, {"h", 3600000 * MS}, {"d", 86400000 * MS},
};
#define N_UNITS (sizeof units / sizeof units[0])

enum keel_status bars_width(const char *spec, int64_t *width_ns)
{
    int64_t n = 0;
    const char *p = spec;

    while (*p >= '0' && *p <= '9' && n < 1000000)
        n = n * 10 + (*p++ - '0');
    for (size_t i = 0; i < N_UNITS; i++) {
        if (strcmp(p, units[i].unit) != 0)
            continue;
        if (n * units[i].ns / units[i].ns != n || n * units[i].ns < 100 * MS || n * units[i].ns > 7 * units[4].ns)
            return KEEL_INVALID;
        *width_ns = n * units[i].ns;
        return KEEL_OK;
    }
    return KEEL_INVALID;
}

void bars_spec(int64_t width_ns, char out[BARS_SPEC_LEN])
{
    char digits[24];
    size_t n = 0, at = 0, u = N_UNITS - 1;
    int64_t v;

    while (u > 0 && width_ns % units[u].ns != 0)
        u--;
    for (v = width_ns / units[u].ns; v > 0 && n < sizeof digits; v /= 10)
        digits[n++] = (char)('0' + v % 10);
    while (n > 0 && at < BARS_SPEC_LEN - 3)
        out[at++] = digits[--n];
    memcpy(out + at, units[u].unit, strlen(units[u].unit) + 1);
}

void bars_init(struct bars_builder *b, int64_t width_ns)
{
    memset(b, 0, sizeof *b);
    b->width_ns = width_ns;
}

bool bars_close(struct bars_builder *b, int64_t now_ns, struct bars_bar *out)
{
    if (!b->is_open || now_ns < b->bar.ts_close)
        return false;
    *out = b->bar;
    b->is_open = false;
    return true;
}

static void start(struct bars_builder *b, int64_t now_ns, int64_t price)
{
    int64_t into = now_ns % b->width_ns;

    memset(&b->bar, 0, sizeof b->bar);
    b->bar.ts_open = now_ns - (into < 0 ? into + b->width_ns : into);
    b->bar.ts_close = b->bar.ts_open + b->width_ns;
    b->bar.open = b->bar.high = b->bar.low = price;
    b->bar.has_flow = true;
    b->is_open = true;
}

void bars_add(struct bars_builder *b, int64_t now_ns, int64_t price, int64_t size, int side)
{
    keel_i128 notional = 0;

    if (!b->is_open)
        start(b, now_ns, price);
    if (price > b->bar.high)
        b->bar.high = price;
    if (price < b->bar.low)
        b->bar.low = price;
    b->bar.close = price;
    b->bar.volume += size;
    if (side == 1)
        b->bar.buy_volume += size;
    if (keel_notional(price, size, KEEL_SCALE, &notional) == KEEL_OK)
        b->bar.notional += notional;
    b->bar.trades++;
}

bool bars_vwap(const struct bars_bar *bar, int64_t *vwap)
{
    if (!bar->has_flow || bar->volume <= 0 || bar->volume > INT64_MAX)
        return false;
    return keel_money_per(bar->notional, (int64_t)bar->volume, vwap) == KEEL_OK;
}
