/* The factor model: raw exposures, cross-sections, estimation. */
#include "factor_model.h"

#include <math.h>
#include <string.h>

#include "keel/stats.h"
#include "linear.h"

#define MAD_TO_SD 1.4826022185056018 /* 1 / the normal distribution's third quartile */

const struct factor_def factor_defs[FACTOR_N] = {
#define X(id, name, title, category, unit, formula) {name, title, category, unit, formula},
    FACTOR_MAP(X)
#undef X
};

int factor_find(const char *name)
{
    for (int f = 0; f < FACTOR_N; f++)
        if (strcmp(factor_defs[f].name, name) == 0)
            return f;
    return -1;
}

/* ---- a symbol ---- */

void factor_history_init(struct factor_history *h, const struct factor_conf *conf, double *storage)
{
    *h = (struct factor_history){.log_close = storage, .notional = storage + conf->lookback + 1};
}

/* Place in the rings of the bar that closed `ago` bars before the newest. */
static uint32_t place(const struct factor_history *h, const struct factor_conf *conf, uint32_t ago)
{
    uint32_t cap = conf->lookback + 1;

    return (h->at + cap - 1 - ago) % cap;
}

static double log_return(const struct factor_history *h, const struct factor_conf *conf, uint32_t from, uint32_t to)
{
    return h->log_close[place(h, conf, to)] - h->log_close[place(h, conf, from)];
}

static void put(struct factor_point *p, enum factor_id id, bool ok, double value)
{
    if (!ok || !isfinite(value))
        return;
    p->raw[id] = value;
    p->has |= 1u << id;
}

static void measure(const struct factor_history *h, const struct factor_conf *conf, struct factor_point *p)
{
    struct keel_moments r = {0}, impact = {0}, traded = {0};
    uint32_t n = p->have, k = conf->reversal;

    for (uint32_t i = 0; i < n; i++) {
        double x = log_return(h, conf, i + 1, i), v = h->notional[place(h, conf, i)];

        keel_moments_add(&r, x);
        keel_moments_add(&traded, v);
        if (v > 0)
            keel_moments_add(&impact, fabs(x) / v);
    }
    put(p, FACTOR_MOMENTUM, n > k, n > k ? log_return(h, conf, n, k) / (n - k) : 0);
    put(p, FACTOR_REVERSAL, n >= k, n >= k ? -log_return(h, conf, k, 0) : 0);
    put(p, FACTOR_VOLATILITY, n >= 2, sqrt(keel_moments_var(&r)));
    put(p, FACTOR_LIQUIDITY, impact.mean > 0, impact.mean > 0 ? -log(impact.mean) : 0);
    put(p, FACTOR_SIZE, traded.mean > 0, traded.mean > 0 ? log(traded.mean) : 0);
}

const struct factor_point *factor_newest(const struct factor_history *h)
{
    return h->points ? &h->recent[(h->points - 1) % FACTOR_RECENT] : NULL;
}

bool factor_history_add(struct factor_history *h, const struct factor_conf *conf, int64_t ts_close, double close,
                        double volume)
{
    const struct factor_point *last = factor_newest(h);
    struct factor_point *p;

    if (last && last->ts_close == ts_close)
        return false;
    if (last && last->ts_close > ts_close)
        factor_history_init(h, conf, h->log_close);
    h->log_close[h->at] = log(close);
    h->notional[h->at] = close * volume;
    h->at = (h->at + 1) % (conf->lookback + 1);
    h->n += h->n <= conf->lookback;
    p = &h->recent[h->points++ % FACTOR_RECENT];
    *p = (struct factor_point){.ts_close = ts_close, .have = h->n - 1};
    p->ret = p->have ? expm1(log_return(h, conf, 1, 0)) : 0;
    measure(h, conf, p);
    return true;
}

bool factor_pair(const struct factor_history *h, int64_t ts, const struct factor_point **at,
                 const struct factor_point **before)
{
    for (uint32_t ago = 0; ago + 1 < FACTOR_RECENT && ago + 1 < h->points; ago++) {
        const struct factor_point *p = &h->recent[(h->points - 1 - ago) % FACTOR_RECENT];

        if (p->ts_close != ts)
            continue;
        *at = p;
        *before = &h->recent[(h->points - 2 - ago) % FACTOR_RECENT];
        return true;
    }
    return false;
}

/* ---- a cross-section ---- */

/* Reorders x so that x[k] is what sorting would put there, nothing before it is greater and nothing after it less
 * (Hoare's FIND). O(n) on average. */
static double select_kth(double *x, size_t n, size_t k)
{
    size_t from = 0, to = n - 1;

    while (from < to) {
        double pivot = x[k];
        size_t i = from, j = to;

        for (;;) {
            while (x[i] < pivot)
                i++;
            while (x[j] > pivot)
                j--;
            if (i <= j) {
                double t = x[i];

                x[i++] = x[j];
                x[j] = t;
                if (j == 0)
                    break;
                j--;
            }
            if (i > j)
                break;
        }
        if (j < k)
            from = i;
        if (k < i)
            to = j;
    }
    return x[k];
}

/* Mean of the two in the middle when n is even; n >= 1. Reorders x. */
static double median_of(double *x, size_t n)
{
    double upper = select_kth(x, n, n / 2), lower = x[0];

    if (n % 2 == 1)
        return upper;
    for (size_t i = 1; i < n / 2; i++)
        lower = fmax(lower, x[i]);
    return (lower + upper) / 2;
}

/* Clips to the median +- FACTOR_CLIP robust deviations, then mean 0 and deviation 1; false: the values do not
 * differ. */
static bool standardise_factor(struct factor_section *s, size_t n, int f, double *x, double *work)
{
    struct keel_moments m = {0};
    double median, deviation, sd, most = 0;
    size_t k = 0;

    for (size_t i = 0; i < n; i++)
        if (s->has[i] >> f & 1)
            work[k++] = s->z[i * FACTOR_N + (size_t)f];
    memcpy(x, work, k * sizeof *x);
    median = median_of(work, k);
    for (size_t i = 0; i < k; i++)
        work[i] = fabs(x[i] - median);
    deviation = MAD_TO_SD * median_of(work, k);
    for (size_t i = 0; i < k; i++) {
        /* When more than half of the values are equal, there is no scale to clip by. */
        if (deviation > 0)
            x[i] = fmin(fmax(x[i], median - FACTOR_CLIP * deviation), median + FACTOR_CLIP * deviation);
        keel_moments_add(&m, x[i]);
        most = fmax(most, fabs(x[i]));
    }
    sd = sqrt(keel_moments_var(&m));
    /* A spread that is rounding of the values is none. */
    if (!(sd > 1e-12 * most))
        return false;
    for (size_t i = 0, j = 0; i < n; i++)
        if (s->has[i] >> f & 1)
            s->z[i * FACTOR_N + (size_t)f] = (x[j++] - m.mean) / sd;
    return true;
}

void factor_standardise(const struct factor_point *const *point, size_t n, struct keel_arena *a,
                        struct factor_section *out)
{
    double *x = keel_arena_array(a, n, sizeof *x), *work = keel_arena_array(a, n, sizeof *work);

    *out = (struct factor_section){.z = keel_arena_array(a, n * FACTOR_N, sizeof *out->z),
                                   .has = keel_arena_array(a, n, sizeof *out->has)};
    for (size_t i = 0; i < n; i++) {
        out->has[i] = point[i]->has;
        for (int f = 0; f < FACTOR_N; f++) {
            out->z[i * FACTOR_N + (size_t)f] = point[i]->raw[f];
            out->count[f] += point[i]->has >> f & 1;
        }
    }
    for (int f = 0; f < FACTOR_N; f++)
        if (out->count[f] >= FACTOR_UNIVERSE && standardise_factor(out, n, f, x, work))
            out->defined |= 1u << f;
    for (size_t i = 0; i < n; i++)
        out->has[i] &= out->defined;
}

enum keel_status factor_correlation(const struct factor_section *s, size_t n, int f, int g, double *out)
{
    unsigned both = 1u << f | 1u << g;
    struct keel_moments x = {0}, y = {0};
    double cross = 0;
    int a = f < g ? f : g, b = f < g ? g : f; /* one order, so that (f, g) is (g, f) to the last bit */

    for (size_t i = 0; i < n; i++) {
        const double *z = &s->z[i * FACTOR_N];

        if ((s->has[i] & both) != both)
            continue;
        /* Welford's update of the co-moment: the mean of x after, of y before this value. */
        keel_moments_add(&x, z[a]);
        cross += (z[a] - x.mean) * (z[b] - y.mean);
        keel_moments_add(&y, z[b]);
    }
    if (x.n < FACTOR_UNIVERSE || !(x.m2 > 0) || !(y.m2 > 0))
        return KEEL_UNDEFINED;
    *out = f == g ? 1 : fmax(-1, fmin(1, cross / sqrt(x.m2 * y.m2)));
    return KEEL_OK;
}

/* ---- estimation ---- */

/* Market and sectors but the last, of which every other is the difference. */
static double *market_design(const struct factor_cross *c, size_t k, struct keel_arena *a)
{
    double *x = keel_arena_array(a, c->n * k, sizeof *x);
    size_t last = c->n_sectors ? c->n_sectors - 1 : 0;

    for (size_t i = 0; i < c->n; i++) {
        x[i * k] = 1;
        for (size_t j = 1; j < k; j++)
            x[i * k + j] = c->sector[i * c->n_sectors + j - 1] - c->sector[i * c->n_sectors + last];
    }
    return x;
}

static void take_market(const struct factor_cross *c, const struct factor_ls *ls, size_t k,
                        struct factor_estimate *out)
{
    double variance = ls->rss / (double)(c->n - k), sum = 0, var = 0;

    for (size_t j = 0; j < k; j++) {
        out->factor[j] = ls->beta[j];
        out->error[j] = sqrt(variance * ls->cov[j * k + j]);
    }
    if (c->n_sectors == 0)
        return;
    for (size_t j = 1; j < k; j++) {
        sum += ls->beta[j];
        for (size_t i = 1; i < k; i++)
            var += ls->cov[j * k + i];
    }
    out->factor[k] = -sum;
    out->error[k] = sqrt(variance * fmax(var, 0));
}

static void subtract(double *y, const double *x, const double *beta, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < k; j++)
            y[i] -= x[i * k + j] * beta[j];
}

static void take_r2(const struct factor_cross *c, double rss, struct factor_estimate *out)
{
    double total = 0, sum = 0, mean, tss = 0;

    for (size_t i = 0; i < c->n; i++) {
        total += c->weight[i];
        sum += c->weight[i] * c->ret[i];
    }
    mean = sum / total;
    for (size_t i = 0; i < c->n; i++)
        tss += c->weight[i] * (c->ret[i] - mean) * (c->ret[i] - mean);
    out->has_r2 = tss > 0;
    out->r2 = tss > 0 ? 1 - rss / tss : 0;
}

enum keel_status factor_estimate_cross(const struct factor_cross *c, struct keel_arena *a,
                                       struct factor_estimate *out)
{
    size_t k = c->n_sectors ? c->n_sectors : 1, first = 1 + c->n_sectors, s = c->n_styles;
    struct factor_ls market, style;
    struct factor_estimate e;
    double *x;

    if (s == 0 || c->n <= k + s)
        return KEEL_UNDEFINED;
    e = (struct factor_estimate){.factor = keel_arena_array(a, first + s, sizeof *e.factor),
                                 .error = keel_arena_array(a, first + s, sizeof *e.error),
                                 .residual = keel_arena_array(a, c->n, sizeof *e.residual)};
    memcpy(e.residual, c->ret, c->n * sizeof *e.residual);
    x = market_design(c, k, a);
    if (factor_least_squares(x, c->ret, c->weight, c->n, k, a, &market) != KEEL_OK)
        return KEEL_UNDEFINED;
    take_market(c, &market, k, &e);
    subtract(e.residual, x, market.beta, c->n, k);
    if (factor_least_squares(c->style, e.residual, c->weight, c->n, s, a, &style) != KEEL_OK)
        return KEEL_UNDEFINED;
    for (size_t j = 0; j < s; j++) {
        e.factor[first + j] = style.beta[j];
        e.error[first + j] = sqrt(style.rss / (double)(c->n - k - s) * style.cov[j * s + j]);
    }
    subtract(e.residual, c->style, style.beta, c->n, s);
    take_r2(c, style.rss, &e);
    *out = e;
    return KEEL_OK;
}
