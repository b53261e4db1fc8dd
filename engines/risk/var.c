/* Value at risk: see var.h. */
#include "var.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "keel/stats.h"

static bool all_finite(const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

bool risk_var_is_finite(struct risk_var v)
{
    return isfinite(v.var) && isfinite(v.es);
}

/* How far from the lowest of n the quantile lies. */
static double place(size_t n, double confidence)
{
    return (double)(n - 1) * (1 - confidence);
}

size_t risk_tail(size_t n, double confidence)
{
    size_t m = (size_t)place(n, confidence) + 2; /* the quantile is between the last two of them */

    return m < n ? m : n;
}

struct risk_var risk_var_lowest(const double *x, size_t n, double confidence)
{
    size_t m = risk_tail(n, confidence), k = 0;
    double q = keel_quantile_sorted(x, n, 1 - confidence);
    /* Where the quantile is one of the x, that one belongs to the tail, though rounding may put q a hair below it. */
    double last = place(n, confidence) + 1e-9;
    struct keel_sum sum = {0};

    for (; k < m && (x[k] <= q || (double)k <= last); k++)
        keel_sum_add(&sum, x[k]);
    /* Those equal to the quantile may be anywhere behind. */
    for (size_t i = m; i < n && x[m - 1] <= q; i++)
        if (x[i] <= q) {
            keel_sum_add(&sum, x[i]);
            k++;
        }
    return (struct risk_var){.var = -q, .es = -keel_sum_value(&sum) / (double)k};
}

enum keel_status risk_var_historical(const double *x, size_t n, const double *confidence, size_t m,
                                     struct keel_arena *a, struct risk_var *out)
{
    struct risk_var *v = keel_arena_array(a, m, sizeof *v);
    size_t tail = 0;
    double *lowest;

    if (n < 2 || !all_finite(x, n))
        return KEEL_UNDEFINED;
    for (size_t i = 0; i < m; i++) {
        if (!(confidence[i] > 0 && confidence[i] < 1))
            return KEEL_UNDEFINED;
        if (risk_tail(n, confidence[i]) > tail)
            tail = risk_tail(n, confidence[i]);
    }
    lowest = keel_arena_array(a, n, sizeof *lowest);
    memcpy(lowest, x, n * sizeof *lowest);
    keel_lowest_f64(lowest, n, tail);
    for (size_t i = 0; i < m; i++) {
        v[i] = risk_var_lowest(lowest, n, confidence[i]);
        if (!risk_var_is_finite(v[i]))
            return KEEL_UNDEFINED;
    }
    memcpy(out, v, m * sizeof *v);
    return KEEL_OK;
}

enum keel_status risk_var_normal(double mean, double sd, double confidence, struct risk_var *out)
{
    struct risk_var v;
    double z;

    if (!isfinite(mean) || !isfinite(sd) || sd < 0 || !(confidence > 0 && confidence < 1))
        return KEEL_UNDEFINED;
    z = keel_norm_inv(confidence);
    v = (struct risk_var){.var = z * sd - mean, .es = sd * keel_norm_pdf(z) / (1 - confidence) - mean};
    if (!risk_var_is_finite(v))
        return KEEL_UNDEFINED;
    *out = v;
    return KEEL_OK;
}

enum keel_status risk_var_parametric(const double *x, size_t n, double confidence, struct risk_var *out)
{
    struct keel_moments m = {0};

    if (n < 2 || !all_finite(x, n))
        return KEEL_UNDEFINED;
    for (size_t i = 0; i < n; i++)
        keel_moments_add(&m, x[i]);
    return risk_var_normal(m.mean, sqrt(keel_moments_var(&m)), confidence, out);
}

void risk_closes_add(struct risk_closes *c, int64_t ts, double close)
{
    uint32_t newest = (c->at + RISK_CLOSES - 1) % RISK_CLOSES;

    if (!(close > 0) || (c->n > 0 && ts <= c->ts[newest]))
        return;
    c->ts[c->at] = ts;
    c->close[c->at] = close;
    c->at = (c->at + 1) % RISK_CLOSES;
    if (c->n < RISK_CLOSES)
        c->n++;
}

static uint32_t slot(const struct risk_closes *c, uint32_t i)
{
    return (c->at + RISK_CLOSES - c->n + i) % RISK_CLOSES;
}

/*
 * The rule for bars that do not all come: growth[i] is c's close over the one before, at the bars i and i - 1 of first,
 * or 0 where c has not both of them as neighbours. A bar in between would make the return another one.
 */
static void growths_along(const struct risk_closes *first, const struct risk_closes *c, double growth[RISK_CLOSES])
{
    uint32_t at = 0;

    for (uint32_t i = 1; i < first->n; i++) {
        int64_t from = first->ts[slot(first, i - 1)], to = first->ts[slot(first, i)];

        while (at < c->n && c->ts[slot(c, at)] < from)
            at++;
        if (at + 1 >= c->n || c->ts[slot(c, at)] != from || c->ts[slot(c, at + 1)] != to)
            growth[i] = 0;
        else
            growth[i] = c->close[slot(c, at + 1)] / c->close[slot(c, at)];
    }
}

size_t risk_profits(const struct risk_closes *const *closes, const double *value, size_t k, double *out)
{
    double profit[RISK_CLOSES] = {0}, growth[RISK_CLOSES];
    bool missing[RISK_CLOSES] = {false};
    uint32_t first = k > 0 ? closes[0]->n : 0;
    size_t n = 0;

    for (size_t s = 0; s < k; s++) {
        growths_along(closes[0], closes[s], growth);
        for (uint32_t i = 1; i < first; i++) {
            missing[i] |= growth[i] == 0;
            profit[i] += value[s] * (growth[i] - 1);
        }
    }
    for (uint32_t i = 1; i < first; i++)
        if (!missing[i])
            out[n++] = profit[i];
    return n;
}

size_t risk_growths(const struct risk_closes *const *closes, size_t k, double *out)
{
    double growth[RISK_CLOSES];
    bool missing[RISK_CLOSES] = {false};
    uint32_t first = k > 0 ? closes[0]->n : 0;
    size_t n = 0;

    for (size_t s = 0; s < k; s++) {
        growths_along(closes[0], closes[s], growth);
        for (uint32_t i = 1; i < first; i++) {
            missing[i] |= growth[i] == 0;
            out[(i - 1) * k + s] = growth[i];
        }
    }
    for (uint32_t i = 1; i < first; i++)
        if (!missing[i])
            memmove(out + k * n++, out + (i - 1) * k, k * sizeof *out);
    return n;
}
