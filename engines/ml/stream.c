/* Streaming state: the window is kept sorted beside its order of arrival, so that median and MAD are one walk. */
#include "stream.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const struct {
    const char *name;
    enum ml_how how;
} relative[] = {
    {"sma_10", ML_LEVEL},        {"sma_20", ML_LEVEL},     {"sma_50", ML_LEVEL},     {"ema_12", ML_LEVEL},
    {"ema_26", ML_LEVEL},        {"bb_upper", ML_LEVEL},   {"bb_middle", ML_LEVEL},  {"bb_lower", ML_LEVEL},
    {"vwap", ML_LEVEL},          {"microprice", ML_LEVEL}, {"macd", ML_SPAN},        {"macd_signal", ML_SPAN},
    {"macd_histogram", ML_SPAN}, {"atr_14", ML_SPAN},      {"momentum_10", ML_SPAN},
};

enum ml_how ml_how_of(const char *name)
{
    for (size_t i = 0; i < KEEL_COUNT(relative); i++)
        if (strcmp(relative[i].name, name) == 0)
            return relative[i].how;
    return ML_PLAIN;
}

double ml_take(enum ml_how how, double value, double close)
{
    return how == ML_LEVEL ? value / close - 1 : how == ML_SPAN ? value / close : value;
}

void ml_ewma_add(struct ml_ewma *e, double r, double lambda)
{
    e->variance = e->n == 0 ? r * r : lambda * e->variance + (1 - lambda) * r * r;
    e->n++;
}

double ml_ewma_weight(const struct ml_ewma *e, double lambda)
{
    return 1 - pow(lambda, (double)e->n);
}

/* First place in the sorted window whose value is not below x. */
static uint32_t place(const struct ml_window *w, double x)
{
    uint32_t lo = 0, hi = w->n;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (w->sorted[mid] < x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void ml_window_add(struct ml_window *w, double x)
{
    uint32_t i;

    if (w->n == ML_WINDOW) {
        i = place(w, w->recent[w->at]);
        w->n--;
        memmove(w->sorted + i, w->sorted + i + 1, (w->n - i) * sizeof *w->sorted);
    }
    i = place(w, x);
    memmove(w->sorted + i + 1, w->sorted + i, (w->n - i) * sizeof *w->sorted);
    w->sorted[i] = x;
    w->n++;
    w->recent[w->at] = x;
    w->at = (w->at + 1) % ML_WINDOW;
}

double ml_window_median(const struct ml_window *w)
{
    return w->n % 2 ? w->sorted[w->n / 2] : (w->sorted[w->n / 2 - 1] + w->sorted[w->n / 2]) / 2;
}

/* k-th smallest |x - m|, k from 0: deviations grow away from the median on both sides, so that merging gives them in
 * order. */
static double deviation(const struct ml_window *w, double m, uint32_t k)
{
    uint32_t up = place(w, m), down = up;
    double last = 0;

    for (uint32_t i = 0; i <= k; i++)
        if (up == w->n || (down > 0 && m - w->sorted[down - 1] <= w->sorted[up] - m))
            last = m - w->sorted[--down];
        else
            last = w->sorted[up++] - m;
    return last;
}

double ml_window_mad(const struct ml_window *w)
{
    double m = ml_window_median(w), high = deviation(w, m, w->n / 2);

    return w->n % 2 ? high : (deviation(w, m, w->n / 2 - 1) + high) / 2;
}

struct ml_scale ml_window_scale(const struct ml_window *w)
{
    struct ml_scale s = {.n = w->n};

    if (w->n < ML_WINDOW_MIN)
        return s;
    s.median = ml_window_median(w);
    s.width = fmax(1.4826 * ml_window_mad(w), deviation(w, s.median, (uint32_t)(0.95 * (w->n - 1))) / 1.959964);
    for (uint32_t i = 0; s.width <= 0 && i < w->n; i++)
        s.squares += (w->sorted[i] - s.median) * (w->sorted[i] - s.median);
    return s;
}

enum keel_status ml_scale_score(const struct ml_scale *s, double x, double *score)
{
    double off = x - s->median, width = s->width;

    if (s->n < ML_WINDOW_MIN)
        return KEEL_UNDEFINED;
    if (width <= 0)
        width = sqrt((off * off + s->squares) / (s->n + 1));
    *score = width > 0 ? fabs(off) / width : 0;
    return KEEL_OK;
}
