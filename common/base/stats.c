/* Moments, sums, quantiles and the normal distribution, each once for all engines. */
#include "keel/stats.h"

#include <math.h>
#include <stdlib.h>

/* ---- moments and sums ---- */

void keel_moments_add(struct keel_moments *m, double x)
{
    double from_mean = x - m->mean;
    m->n++;
    m->mean += from_mean / (double)m->n;
    m->m2 += from_mean * (x - m->mean);
}

double keel_moments_var(const struct keel_moments *m)
{
    return m->n < 2 ? 0 : m->m2 / (double)(m->n - 1);
}

double keel_moments_pvar(const struct keel_moments *m)
{
    return m->n < 1 ? 0 : m->m2 / (double)m->n;
}

void keel_sum_add(struct keel_sum *s, double x)
{
    double sum = s->s + x;
    /* What was lost is known exactly from the larger of the two. */
    s->c += fabs(s->s) >= fabs(x) ? (s->s - sum) + x : (x - sum) + s->s;
    s->s = sum;
}

double keel_sum_value(const struct keel_sum *s)
{
    return s->s + s->c;
}

/* ---- order ---- */

double keel_quantile_sorted(const double *sorted, size_t n, double q)
{
    keel_assert(n >= 1 && q >= 0 && q <= 1);
    double place = (double)(n - 1) * q;
    size_t i = (size_t)place;
    if (i + 1 >= n)
        return sorted[n - 1];
    return sorted[i] + (place - (double)i) * (sorted[i + 1] - sorted[i]);
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

void keel_sort_f64(double *x, size_t n)
{
    if (n > 1)
        qsort(x, n, sizeof *x, by_value);
}

static void order_two(double *low, double *high)
{
    if (*high < *low) {
        double x = *low;
        *low = *high;
        *high = x;
    }
}

/* Hoare's partition about the median of first, middle and last: n >= 3, 0 < how many are in the lower part < n. */
static size_t partition(double *x, size_t n)
{
    size_t i = 0, j = n - 1, middle = n / 2;
    double pivot;

    order_two(&x[0], &x[middle]);
    order_two(&x[middle], &x[j]);
    order_two(&x[0], &x[middle]);
    pivot = x[middle];
    for (;;) {
        while (x[i] < pivot)
            i++;
        while (pivot < x[j])
            j--;
        if (i >= j)
            return j + 1;
        order_two(&x[i++], &x[j--]);
    }
}

void keel_lowest_f64(double *x, size_t n, size_t m)
{
    size_t low = 0, high = n; /* what is before low is of the lowest m, what is from high on is not */

    /* Pivots that keep falling near an end leave the rest to the sort. */
    for (int round = 0; m < high && high - low > 16 && round < 64; round++) {
        size_t split = low + partition(x + low, high - low);
        if (m <= split)
            high = split;
        else
            low = split;
    }
    keel_sort_f64(x, high);
}

/* ---- normal distribution ---- */

#define SQRT_2 1.41421356237309504880
#define SQRT_2_PI 2.50662827463100050242

double keel_norm_pdf(double x)
{
    return exp(-0.5 * x * x) / SQRT_2_PI;
}

double keel_norm_cdf(double x)
{
    return 0.5 * erfc(-x / SQRT_2);
}

/* Quotient of two polynomials of degree 7, coefficients from the constant term up. */
static double rational(const double up[8], const double down[8], double x)
{
    double p = up[7], q = down[7];
    for (int i = 6; i >= 0; i--) {
        p = p * x + up[i];
        q = q * x + down[i];
    }
    return p / q;
}

/* AS 241, PPND16: one rational function about the middle, one for each of two stretches of tail. */
double keel_norm_inv(double p)
{
    static const double middle_up[8] = {
        3.3871328727963666080e0, 1.3314166789178437745e+2, 1.9715909503065514427e+3,
        1.3731693765509461125e+4, 4.5921953931549871457e+4, 6.7265770927008700853e+4,
        3.3430575583588128105e+4, 2.5090809287301226727e+3};
    static const double middle_down[8] = {
        1.0, 4.2313330701600911252e+1, 6.8718700749205790830e+2, 5.3941960214247511077e+3,
        2.1213794301586595867e+4, 3.9307895800092710610e+4, 2.8729085735721942674e+4,
        5.2264952788528545610e+3};
    static const double near_up[8] = {
        1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
        3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
        2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static const double near_down[8] = {
        1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
        1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
        1.05075007164441684324e-9};
    static const double far_up[8] = {
        6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
        2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
        2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static const double far_down[8] = {
        1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
        7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
        2.04426310338993978564e-15};
    keel_assert(p > 0 && p < 1);
    double q = p - 0.5;
    if (fabs(q) <= 0.425)
        return q * rational(middle_up, middle_down, 0.180625 - q * q);
    double r = sqrt(-log(q < 0 ? p : 1 - p));
    double x = r <= 5 ? rational(near_up, near_down, r - 1.6) : rational(far_up, far_down, r - 5);
    return q < 0 ? -x : x;
}
