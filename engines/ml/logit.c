/* Newton's method on the penalised log-likelihood; the normal matrix is at most 33 x 33 and lives on the stack. */
#include "logit.h"

#include <math.h>
#include <string.h>

#define D (ML_INPUTS + 1) /* the intercept comes first */
#define MOST_STEPS 60

struct problem {
    const double *x, *y;
    size_t n, d;
    double l2;
};

double ml_sigmoid(double z)
{
    double e = exp(-fabs(z));

    return z >= 0 ? 1 / (1 + e) : e / (1 + e);
}

static double predictor(const double *beta, const double *x, size_t d)
{
    double z = beta[0];

    for (size_t j = 0; j < d; j++)
        z += beta[j + 1] * x[j];
    return z;
}

static double loglik(const struct problem *p, const double *beta)
{
    double sum = 0;

    for (size_t i = 0; i < p->n; i++) {
        double z = predictor(beta, p->x + i * p->d, p->d);
        /* log sigmoid(z) for y = 1, log sigmoid(-z) for y = 0, without overflow */
        double u = p->y[i] > 0.5 ? z : -z;
        sum += u >= 0 ? -log1p(exp(-u)) : u - log1p(exp(u));
    }
    return sum;
}

static double penalty(const struct problem *p, const double *beta)
{
    double sum = 0;

    for (size_t j = 1; j <= p->d; j++)
        sum += beta[j] * beta[j];
    return p->l2 / 2 * sum;
}

/* Gradient of the penalised log-likelihood and its negative Hessian (lower triangle). */
static void derivatives(const struct problem *p, const double *beta, double g[D], double h[D][D])
{
    size_t m = p->d + 1;
    double row[D];

    memset(g, 0, D * sizeof *g);
    memset(h, 0, D * sizeof *h);
    row[0] = 1;
    for (size_t i = 0; i < p->n; i++) {
        memcpy(row + 1, p->x + i * p->d, p->d * sizeof *row);
        double q = ml_sigmoid(predictor(beta, row + 1, p->d)), w = q * (1 - q);
        for (size_t a = 0; a < m; a++) {
            double wa = w * row[a];
            g[a] += (p->y[i] - q) * row[a];
            for (size_t b = 0; b <= a; b++)
                h[a][b] += wa * row[b];
        }
    }
    for (size_t j = 1; j < m; j++) {
        g[j] -= p->l2 * beta[j];
        h[j][j] += p->l2;
    }
}

/* Solves h s = g in place by Cholesky; false when h is not positive definite. */
static bool solve(double h[D][D], double g[D], size_t m)
{
    for (size_t a = 0; a < m; a++) {
        double whole = h[a][a];
        for (size_t b = 0; b <= a; b++) {
            double sum = h[a][b];
            for (size_t k = 0; k < b; k++)
                sum -= h[a][k] * h[b][k];
            if (a != b)
                h[a][b] = sum / h[b][b];
            else if (sum <= 1e-13 * whole)
                return false;
            else
                h[a][a] = sqrt(sum);
        }
    }
    for (size_t a = 0; a < m; a++) {
        for (size_t k = 0; k < a; k++)
            g[a] -= h[a][k] * g[k];
        g[a] /= h[a][a];
    }
    for (size_t a = m; a-- > 0;) {
        for (size_t k = a + 1; k < m; k++)
            g[a] -= h[k][a] * g[k];
        g[a] /= h[a][a];
    }
    return true;
}

static bool two_classes(const double *y, size_t n)
{
    size_t ones = 0;

    for (size_t i = 0; i < n; i++)
        ones += y[i] > 0.5;
    return ones > 0 && ones < n;
}

/* One Newton step from beta; returns its largest relative size, below 0 when there is none. */
static double step(const struct problem *p, double beta[D], double *value)
{
    double g[D], h[D][D], next[D] = {0}, most = 0, got = 0;
    size_t m = p->d + 1;

    derivatives(p, beta, g, h);
    if (!solve(h, g, m))
        return -1;
    for (int halved = 0; halved < 40; halved++) {
        for (size_t j = 0; j < m; j++)
            next[j] = beta[j] + g[j];
        got = loglik(p, next) - penalty(p, next);
        if (got >= *value - 1e-12 * fabs(*value))
            break;
        for (size_t j = 0; j < m; j++)
            g[j] /= 2;
    }
    for (size_t j = 0; j < m; j++)
        most = fmax(most, fabs(g[j]) / (1 + fabs(next[j])));
    memcpy(beta, next, m * sizeof *beta);
    *value = got;
    return most;
}

enum keel_status ml_logit_fit(const double *x, const double *y, size_t n, size_t d, double l2, const atomic_bool *stop,
                              struct ml_logit *out)
{
    struct problem p = {x, y, n, d, l2};
    double beta[D] = {0}, value;

    if (d > ML_INPUTS || !two_classes(y, n))
        return KEEL_UNDEFINED;
    value = loglik(&p, beta);
    for (int i = 1; i <= MOST_STEPS; i++) {
        if (stop && atomic_load(stop))
            return KEEL_CANCELLED;
        double moved = step(&p, beta, &value);
        /* Coefficients that run away mean that the inputs separate the classes. */
        if (moved < 0 || !isfinite(value) || fabs(value) < 1e-9 * (double)n)
            return KEEL_UNDEFINED;
        if (moved > 1e-10)
            continue;
        *out = (struct ml_logit){.intercept = beta[0], .loglik = value + penalty(&p, beta), .steps = i};
        memcpy(out->weight, beta + 1, d * sizeof *beta);
        return KEEL_OK;
    }
    return KEEL_UNDEFINED;
}
