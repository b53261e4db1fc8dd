/* Weighted least squares by Householder reflections. */
#include "linear.h"

#include <math.h>

#define DEPENDENT 1e-10

/* The matrix column by column, the right side as one column more. */
struct qr { double *col, *scale; size_t n, k; };

static double *column(const struct qr *q, size_t j)
{
    return q->col + j * q->n;
}

static double norm(const double *x, size_t n)
{
    double most = 0, sum = 0;

    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs(x[i]));
    if (!(most > 0))
        return 0;
    for (size_t i = 0; i < n; i++)
        sum += (x[i] / most) * (x[i] / most);
    return most * sqrt(sum);
}

static enum keel_status load(struct qr *q, const double *x, const double *y, const double *w)
{
    for (size_t i = 0; i < q->n; i++) {
        double root = w ? sqrt(w[i]) : 1;

        if (!(root > 0) || !isfinite(root) || !isfinite(y[i]))
            return KEEL_UNDEFINED;
        for (size_t j = 0; j < q->k; j++) {
            column(q, j)[i] = root * x[i * q->k + j];
            if (!isfinite(column(q, j)[i]))
                return KEEL_UNDEFINED;
        }
        column(q, q->k)[i] = root * y[i];
    }
    for (size_t j = 0; j < q->k; j++) {
        q->scale[j] = norm(column(q, j), q->n);
        if (!(q->scale[j] > 0))
            return KEEL_UNDEFINED;
        for (size_t i = 0; i < q->n; i++)
            column(q, j)[i] /= q->scale[j];
    }
    return KEEL_OK;
}

/* Leaves R in the upper triangle of the first k columns and Q'y in the last one. */
static enum keel_status reflect(struct qr *q)
{
    for (size_t j = 0; j < q->k; j++) {
        double *v = column(q, j) + j;
        size_t m = q->n - j;
        double length = norm(v, m), head;

        if (length < DEPENDENT)
            return KEEL_UNDEFINED;
        /* The sign that adds: the first element never cancels. */
        head = v[0] > 0 ? -length : length;
        v[0] -= head;
        for (size_t c = j + 1; c <= q->k; c++) {
            double *t = column(q, c) + j, dot = 0;

            for (size_t i = 0; i < m; i++)
                dot += v[i] * t[i];
            dot /= head * v[0];
            for (size_t i = 0; i < m; i++)
                t[i] += dot * v[i];
        }
        v[0] = head;
    }
    return KEEL_OK;
}

static void invert(const struct qr *q, double *inv)
{
    for (size_t c = 0; c < q->k; c++) {
        inv[c * q->k + c] = 1 / column(q, c)[c];
        for (size_t r = c; r-- > 0;) {
            double sum = 0;

            for (size_t i = r + 1; i <= c; i++)
                sum += column(q, i)[r] * inv[i * q->k + c];
            inv[r * q->k + c] = -sum / column(q, r)[r];
        }
    }
}

static void finish(const struct qr *q, struct keel_arena *a, struct factor_ls *out)
{
    size_t k = q->k;
    const double *y = column(q, k);
    double *inv = keel_arena_array(a, k * k, sizeof *inv);

    out->beta = keel_arena_array(a, k, sizeof *out->beta);
    out->cov = keel_arena_array(a, k * k, sizeof *out->cov);
    invert(q, inv);
    for (size_t r = k; r-- > 0;) {
        double sum = y[r];

        for (size_t c = r + 1; c < k; c++)
            sum -= column(q, c)[r] * out->beta[c];
        out->beta[r] = sum / column(q, r)[r];
    }
    for (size_t r = 0; r < k; r++)
        for (size_t c = 0; c < k; c++) {
            double sum = 0;

            for (size_t i = r > c ? r : c; i < k; i++)
                sum += inv[r * k + i] * inv[c * k + i];
            out->cov[r * k + c] = sum / (q->scale[r] * q->scale[c]);
        }
    for (size_t j = 0; j < k; j++)
        out->beta[j] /= q->scale[j];
    out->rss = 0;
    for (size_t i = k; i < q->n; i++)
        out->rss += y[i] * y[i];
}

enum keel_status factor_least_squares(const double *x, const double *y, const double *w, size_t n, size_t k,
                                      struct keel_arena *a, struct factor_ls *out)
{
    struct qr q = {.n = n, .k = k};

    if (k == 0 || n < k)
        return KEEL_UNDEFINED;
    q.col = keel_arena_array(a, (k + 1) * n, sizeof *q.col);
    q.scale = keel_arena_array(a, k, sizeof *q.scale);
    if (load(&q, x, y, w) != KEEL_OK || reflect(&q) != KEEL_OK)
        return KEEL_UNDEFINED;
    finish(&q, a, out);
    return KEEL_OK;
}
