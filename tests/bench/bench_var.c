/*
 * What value at risk costs: simulations of 50 positions with their factors and figures, and history of 500 and of 100,000
 * profits at both confidences. Prints the median of several rounds in milliseconds. peer_numpy.py does the same
 * simulation, of the same positions.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "keel/clock.h"
#include "keel/rng.h"
#include "monte_carlo.h"
#include "var.h"

enum { ROUNDS = 15, POSITIONS = 50, PROFITS = 100000 };

static const double confidence[] = {0.95, 0.99};
static const atomic_bool go_on;
static double covariance[POSITIONS * POSITIONS], value[POSITIONS], mean[POSITIONS], profit[PROFITS];
static volatile double sink; /* keeps the figures */

/* Volatilities from 1 to 3 %, correlations that fall with the distance; two positions of three are long. */
static void open_all(void)
{
    struct keel_rng r;

    for (int i = 0; i < POSITIONS; i++) {
        value[i] = i % 3 == 2 ? -1e5 : 1e5;
        for (int j = 0; j < POSITIONS; j++)
            covariance[i * POSITIONS + j] =
                (0.01 + 0.0004 * i) * (0.01 + 0.0004 * j) * pow(0.9, i > j ? i - j : j - i);
    }
    keel_rng_seed(&r, 1);
    for (int i = 0; i < PROFITS; i++)
        profit[i] = keel_rng_normal(&r);
}

static void simulate(struct keel_arena *a, size_t n, double freedom)
{
    struct risk_simulation s = {.n = n, .seed = 1, .freedom = freedom};
    struct risk_estimate e[KEEL_COUNT(confidence)];
    struct risk_factors f;

    if (risk_factor(covariance, POSITIONS, a, &go_on, &f) != KEEL_OK ||
        risk_monte_carlo(&f, mean, value, &s, confidence, KEEL_COUNT(confidence), a, &go_on, e) != KEEL_OK)
        abort();
    sink = e[0].loss.es;
}

static void history(struct keel_arena *a, size_t n)
{
    struct risk_var v[KEEL_COUNT(confidence)];

    if (risk_var_historical(profit, n, confidence, KEEL_COUNT(confidence), a, v) != KEEL_OK)
        abort();
    sink = v[0].es;
}

static void large(struct keel_arena *a)
{
    simulate(a, 100000, 0);
}

static void student(struct keel_arena *a)
{
    simulate(a, 100000, 4);
}

static void small(struct keel_arena *a)
{
    simulate(a, 10000, 0);
}

static void long_history(struct keel_arena *a)
{
    history(a, PROFITS);
}

static void short_history(struct keel_arena *a)
{
    history(a, 500);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void)
{
    static const struct { const char *name; void (*fn)(struct keel_arena *); } what[] = {
        {"Monte Carlo, 100,000 x 50, normal", large},
        {"Monte Carlo, 100,000 x 50, Student t", student},
        {"Monte Carlo, 10,000 x 50, normal", small},
        {"historical, 100,000 profits", long_history},
        {"historical, 500 profits", short_history},
    };
    static double ms[KEEL_COUNT(what)][ROUNDS];
    struct keel_arena *a = keel_arena_new(1 << 22);

    open_all();
    /* Taken in turns, so that a slow spell of the machine falls on all of them. */
    for (size_t r = 0; r < ROUNDS; r++)
        for (size_t k = 0; k < KEEL_COUNT(what); k++) {
            int64_t start = keel_mono_ns();
            what[k].fn(a);
            ms[k][r] = (double)(keel_mono_ns() - start) / 1e6;
            keel_arena_reset(a);
        }
    for (size_t k = 0; k < KEEL_COUNT(what); k++) {
        qsort(ms[k], ROUNDS, sizeof ms[k][0], by_size);
        printf("%-44s %9.4f ms\n", what[k].name, ms[k][ROUNDS / 2]);
    }
    keel_arena_free(a);
    return EXIT_SUCCESS;
}
