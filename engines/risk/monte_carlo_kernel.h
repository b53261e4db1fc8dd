/*
 * The inner loops of monte_carlo.c, included once for each instruction set with
 *
 *   WIDTH         doubles in a vector: 2, 4 or 8
 *   KERNEL(name)  the name of a type or function for this set
 *   TARGET        the attribute that lets the compiler use the set, or nothing
 *
 * Made of additions, multiplications, divisions and square roots, each rounded by itself, and of operations on bits;
 * sums are over positions, never over simulations. So what comes out does not depend on the set. The lanes are eight
 * whatever the width; narrower vectors take them in groups.
 */
#define INLINE static inline __attribute__((always_inline)) TARGET
#define VD KERNEL(vd)
#define VU KERNEL(vu)

typedef double VD __attribute__((vector_size(8 * WIDTH)));
typedef uint64_t VU __attribute__((vector_size(8 * WIDTH)));

#define ONE_BITS UINT64_C(0x3FF0000000000000)
#define MANTISSA UINT64_C(0x000FFFFFFFFFFFFF)
#define SIGN     UINT64_C(0x8000000000000000)
#define LN2_HIGH 6.93147180369123816490e-01 /* ends in zeros: times an exponent it is exact */
#define LN2_LOW  1.90821492927058770002e-10

INLINE VD KERNEL(load)(const double *p)
{
    VD v;

    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void KERNEL(store)(double *p, VD v)
{
    memcpy(p, &v, sizeof v);
}

/* a where the mask's bits are set, else b. */
INLINE VD KERNEL(choose)(VU mask, VD a, VD b)
{
    return (VD)(((VU)a & mask) | ((VU)b & ~mask));
}

/* ---- elementary functions ---- */

/*
 * Natural logarithm of x > 0 that is no subnormal, within 1 ulp. x = 2^n (1 + f) with 1 + f from the root of 1/2 to
 * that of 2, and log(1 + f) by the odd series of s = f / (2 + f): fdlibm's e_log.c (Sun Microsystems, 1993).
 */
INLINE VD KERNEL(log)(VD x)
{
    const uint64_t root = UINT64_C(0x3FE6A09E00000000); /* of 1/2, its last bits left out */
    VU bits = (VU)x + (ONE_BITS - root);
    VD f = (VD)((bits & MANTISSA) + root) - 1.0;
    VD n = (VD)(bits >> 52 | UINT64_C(0x4330000000000000)) - (0x1p52 + 1023);
    VD s = f / (2.0 + f), z = s * s, w = z * z, half = 0.5 * f * f;
    VD even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    VD odd = z * (6.666666666666735130e-01 +
                  w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));

    return n * LN2_HIGH - ((half - (s * (half + (odd + even)) + n * LN2_LOW)) - f);
}

/*
 * exp(x) - 1 within 2 ulp; infinite above 709. x = n ln 2 + r with |r| <= ln 2 / 2, and exp(r) - 1 by Taylor's series
 * up to r^13: what is left out is below 2^-55 of it.
 */
INLINE VD KERNEL(expm1)(VD x)
{
    const double rounder = 0x1.8p52; /* what it is added to is rounded to an integer, which is then in the last bits */
    VD zero = {0};
    VU low = (VU)(x < -708.0), high = (VU)(x > 709.0);
    VD within = KERNEL(choose)(low, zero - 708.0, KERNEL(choose)(high, zero, x));
    VD shifted = within * 1.44269504088896338700e+00 + rounder, n = shifted - rounder;
    VD r = (within - n * LN2_HIGH) - n * LN2_LOW, r2 = r * r, r4 = r2 * r2;
    VD a = (1 / 6.0 + r * (1 / 24.0)) + r2 * (1 / 120.0 + r * (1 / 720.0));
    VD b = (1 / 5040.0 + r * (1 / 40320.0)) + r2 * (1 / 362880.0 + r * (1 / 3628800.0));
    VD c = (1 / 39916800.0 + r * (1 / 479001600.0)) + r2 * (1 / 6227020800.0);
    VD small = r + (0.5 * r2 + r2 * r * (a + r4 * (b + r4 * c)));
    VD power = (VD)(((VU)shifted << 52) + ONE_BITS);

    return KERNEL(choose)(high, zero + (double)INFINITY, power * small + (power - 1.0));
}

/*
 * The point of the unit circle that the bits name: the first two say the quadrant, the next 52 the place in it. Sine
 * and cosine up to a quarter of pi by fdlibm's k_sin.c and k_cos.c.
 */
INLINE void KERNEL(circle)(VU bits, VD *cosine, VD *sine)
{
    VD x = ((VD)(bits << 2 >> 12 | ONE_BITS) - 1.5) * 1.57079632679489655800e+00;
    VD z = x * x, w = z * z, half = 0.5 * z, near = 1.0 - half;
    VD s = 8.33333333332248946124e-03 + z * (-1.98412698298579493134e-04 + z * 2.75573137070700676789e-06) +
           z * w * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10);
    VD c = z * (4.16666666666666019037e-02 + z * (-1.38888888888741095749e-03 + z * 2.48015872894767294178e-05)) +
           w * w * (-2.75573143513906633035e-07 + z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11));
    VU swap = -(bits >> 62 & 1);

    s = x + z * x * (-1.66666666666666324348e-01 + z * s);
    c = near + (((1.0 - near) - half) + z * c);
    *cosine = (VD)((VU)KERNEL(choose)(swap, s, c) ^ ((bits ^ bits << 1) & SIGN));
    *sine = (VD)((VU)KERNEL(choose)(swap, c, s) ^ (bits & SIGN));
}

/* ---- random numbers ---- */

INLINE void KERNEL(enter)(const struct risk_lanes *lanes, size_t at, VU s[4])
{
    for (size_t i = 0; i < 4; i++)
        memcpy(&s[i], lanes->s[i] + at, sizeof s[i]);
}

INLINE void KERNEL(leave)(struct risk_lanes *lanes, size_t at, const VU s[4])
{
    for (size_t i = 0; i < 4; i++)
        memcpy(lanes->s[i] + at, &s[i], sizeof s[i]);
}

INLINE VU KERNEL(next)(VU s[4])
{
    VU sum = s[0] + s[3], result = (sum << 23 | sum >> 41) + s[0], t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = s[3] << 45 | s[3] >> 19;
    return result;
}

/* In (0, 1], steps of 2^-52. */
INLINE VD KERNEL(uniform)(VU s[4])
{
    return 2.0 - (VD)(KERNEL(next)(s) >> 12 | ONE_BITS);
}

/* Rows of RISK_BLOCK normals by Box & Muller (1958): a lane's uniform gives the radius, its next output the point. */
INLINE void KERNEL(normals)(struct risk_lanes *lanes, size_t rows, double *out)
{
    enum { PAIRS = RISK_BLOCK / (2 * RISK_LANES) };

    for (size_t at = 0; at < RISK_LANES; at += WIDTH) {
        VU s[4];

        KERNEL(enter)(lanes, at, s);
        for (size_t row = 0; row < rows; row++) {
            _Alignas(64) double radius[PAIRS * WIDTH];
            double *to = out + row * RISK_BLOCK + at;
            VD cosine[PAIRS], sine[PAIRS];

            for (size_t i = 0; i < PAIRS; i++) {
                KERNEL(store)(radius + i * WIDTH, -2.0 * KERNEL(log)(KERNEL(uniform)(s)));
                KERNEL(circle)(KERNEL(next)(s), &cosine[i], &sine[i]);
            }
            for (size_t i = 0; i < PAIRS * WIDTH; i++)
                radius[i] = sqrt(radius[i]);
            for (size_t i = 0; i < PAIRS; i++) {
                VD r = KERNEL(load)(radius + i * WIDTH);
                KERNEL(store)(to + 2 * i * RISK_LANES, r * cosine[i]);
                KERNEL(store)(to + (2 * i + 1) * RISK_LANES, r * sine[i]);
            }
        }
        KERNEL(leave)(lanes, at, s);
    }
}

INLINE void KERNEL(uniforms)(struct risk_lanes *lanes, double *out)
{
    for (size_t at = 0; at < RISK_LANES; at += WIDTH) {
        VU s[4];

        KERNEL(enter)(lanes, at, s);
        for (size_t i = at; i < RISK_BLOCK; i += RISK_LANES)
            KERNEL(store)(out + i, KERNEL(uniform)(s));
        KERNEL(leave)(lanes, at, s);
    }
}

/*
 * What makes normals of a simulation Student t's of the same variance: the root of (freedom - 2) / chi-square. Half a
 * chi-square is a gamma variate, by Marsaglia & Tsang (2000): each round draws a candidate for every simulation, and
 * those without one take it if it passes, which 95 % and more do.
 */
INLINE void KERNEL(scales)(const struct risk_model *m, struct risk_lanes *lanes, double *scale)
{
    _Alignas(64) double normal[RISK_BLOCK], uniform[RISK_BLOCK];
    size_t left;

    for (size_t i = 0; i < RISK_BLOCK; i++)
        scale[i] = 0; /* none yet */
    do {
        left = 0;
        KERNEL(normals)(lanes, 1, normal);
        KERNEL(uniforms)(lanes, uniform);
        for (size_t i = 0; i < RISK_BLOCK; i += WIDTH) {
            VD x = KERNEL(load)(normal + i), had = KERNEL(load)(scale + i), t = 1.0 + m->slope * x, v = t * t * t;
            VD bound = 0.5 * x * x + m->shape * (1.0 - v + KERNEL(log)(v));
            VU takes = (VU)(had == 0.0) & (VU)(v > 0.0) & (VU)(KERNEL(log)(KERNEL(load)(uniform + i)) < bound);
            KERNEL(store)(scale + i, KERNEL(choose)(takes, m->spread / (m->shape * v), had));
        }
        for (size_t i = 0; i < RISK_BLOCK; i++)
            left += scale[i] == 0;
    } while (left > 0);
    for (size_t i = 0; i < RISK_BLOCK; i++)
        scale[i] = sqrt(scale[i]);
}

/* ---- profits ---- */

/* out = l normal for some rows of l, each sum in the order of the columns. */
INLINE void KERNEL(product)(const double *l, size_t stride, size_t rows, size_t columns, const double *normal,
                            double *out)
{
    enum { ACROSS = WIDTH == 8 ? 4 : 2 }; /* with RISK_ROWS as many sums as there are registers for */

    for (size_t at = 0; at < RISK_BLOCK; at += ACROSS * WIDTH) {
        VD sum[RISK_ROWS][ACROSS] = {0};

        for (size_t j = 0; j < columns; j++) {
            VD z[ACROSS];
            for (size_t c = 0; c < ACROSS; c++)
                z[c] = KERNEL(load)(normal + j * RISK_BLOCK + at + c * WIDTH);
            for (size_t r = 0; r < rows; r++)
                for (size_t c = 0; c < ACROSS; c++)
                    sum[r][c] += l[r * stride + j] * z[c];
        }
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < ACROSS; c++)
                KERNEL(store)(out + r * RISK_BLOCK + at + c * WIDTH, sum[r][c]);
    }
}

/* Adds what positions i, i + 1, ... bring. */
INLINE void KERNEL(positions)(const struct risk_model *m, size_t i, size_t rows, const double *normal,
                              const double *scale, double *profit)
{
    _Alignas(64) double x[RISK_ROWS * RISK_BLOCK];

    KERNEL(product)(m->l + i * m->rank, m->rank, rows, i + rows < m->rank ? i + rows : m->rank, normal, x);
    for (size_t s = 0; s < RISK_BLOCK; s += WIDTH) {
        VD sum = KERNEL(load)(profit + s), by = KERNEL(load)(scale + s);
        for (size_t r = 0; r < rows; r++)
            sum += m->value[i + r] * KERNEL(expm1)(m->mean[i + r] + by * KERNEL(load)(x + r * RISK_BLOCK + s));
        KERNEL(store)(profit + s, sum);
    }
}

TARGET static void KERNEL(block)(const struct risk_model *m, struct risk_lanes *lanes, double *normal, double *profit)
{
    _Alignas(64) double scale[RISK_BLOCK];
    size_t i = 0;

    for (size_t s = 0; s < RISK_BLOCK; s++) {
        scale[s] = 1;
        profit[s] = 0;
    }
    if (m->is_t)
        KERNEL(scales)(m, lanes, scale);
    KERNEL(normals)(lanes, m->rank, normal);
    for (; i + RISK_ROWS <= m->k; i += RISK_ROWS)
        KERNEL(positions)(m, i, RISK_ROWS, normal, scale, profit);
    for (; i < m->k; i++)
        KERNEL(positions)(m, i, 1, normal, scale, profit);
}

TARGET static void KERNEL(logs)(double *x, size_t n)
{
    for (size_t i = 0; i < n; i += WIDTH) {
        size_t some = n - i < WIDTH ? n - i : WIDTH;
        VD v = (VD){0} + 1.0;

        memcpy(&v, x + i, some * sizeof *x);
        v = KERNEL(log)(v);
        memcpy(x + i, &v, some * sizeof *x);
    }
}

#undef INLINE
#undef VD
#undef VU
#undef ONE_BITS
#undef MANTISSA
#undef SIGN
#undef LN2_HIGH
#undef LN2_LOW
#undef WIDTH
#undef KERNEL
#undef TARGET
