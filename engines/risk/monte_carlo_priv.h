/* What monte_carlo.c and its inner loops share, and what the tests look at: the loops of each instruction set. */
#ifndef KEEL_RISK_MONTE_CARLO_PRIV_H
#define KEEL_RISK_MONTE_CARLO_PRIV_H

#include "monte_carlo.h"

enum {
    RISK_LANES = 8,  /* generators side by side, whatever the width of a vector */
    RISK_BLOCK = 64, /* simulations at a time: their normals and one row of factors stay in the nearest cache */
    RISK_ROWS = 4    /* positions at a time: each normal that is read is used so often */
};

/* Eight of xoshiro256++ (Blackman & Vigna 2018); a lane's state is s[0..3][lane]. */
struct risk_lanes { uint64_t s[4][RISK_LANES]; };
/* Lane 0 takes the first four outputs of splitmix64, lane 1 the next four, and so on. */
void risk_lanes_seed(struct risk_lanes *lanes, uint64_t seed);

/* Positions in the order of the factors. */
struct risk_model {
    size_t k, rank;
    const double *l, *mean, *value;
    bool is_t;
    double shape, slope, spread; /* of the chi-square: Marsaglia & Tsang's d and c; (freedom - 2) / 2 */
};
struct risk_model risk_model_of(const struct risk_factors *f, const double *mean, const double *value, double freedom,
                                struct keel_arena *a);

struct risk_kernel {
    const char *name;
    void (*logs)(double *x, size_t n); /* natural logarithms, in place; each x > 0 and no subnormal */
    /* Profits of the next RISK_BLOCK simulations; normal has room for rank rows of as many. */
    void (*block)(const struct risk_model *m, struct risk_lanes *lanes, double *normal, double *profit);
};
/* Those that this processor can run, the fastest last; returns how many. */
size_t risk_kernels(const struct risk_kernel **all);

/*
 * n profits in the order of their simulation; *profit has room for the next multiple of RISK_BLOCK. The first n of more
 * are the same. KEEL_CANCELLED: *stop became true.
 */
enum keel_status risk_simulate(const struct risk_kernel *kernel, const struct risk_model *m, size_t n, uint64_t seed,
                               struct keel_arena *a, const atomic_bool *stop, double *profit);

#endif
