/*
 * Doubles as the shortest decimal that reads back, after R. Giulietti, "The Schubfach way to render doubles" (2020), and decimals
 * as the nearest double, after D. Lemire, "Number parsing at a gigabyte per second" (2021). Both multiply by a power
 * of ten of 128 bits, rounded up.
 */
#include "f64.h"

#include <stdlib.h>
#include <string.h>

#include "keel/num.h"

__extension__ typedef unsigned __int128 u128;

enum { E_MIN = -292, E_MAX = 324 };

struct power { uint64_t high, low; }; /* 2^127 <= high, low < 2^128 */

static struct power powers[E_MAX - E_MIN + 1];

/* The highest 256 bits of five limbs, the lowest first. */
static void normalise(const uint64_t n[5], uint64_t m[4])
{
    int shift = n[4] == 0 ? 0 : 64 - __builtin_clzll(n[4]);
    for (int i = 0; i < 4; i++)
        m[i] = shift == 0 ? n[i] : n[i] >> shift | n[i + 1] << (64 - shift);
}

static void times_ten(uint64_t m[4])
{
    uint64_t n[5];
    u128 carry = 0;
    for (int i = 0; i < 4; i++) {
        carry += (u128)m[i] * 10;
        n[i] = (uint64_t)carry;
        carry >>= 64;
    }
    n[4] = (uint64_t)carry;
    normalise(n, m);
}

/* A tenth; 16 tenths, as the point is not kept. */
static void tenth(uint64_t m[4])
{
    uint64_t n[5];
    u128 rest = m[3] >> 60;
    n[4] = (uint64_t)(rest / 10);
    rest %= 10;
    for (int i = 3; i >= 0; i--) {
        rest = rest << 64 | (m[i] << 4 | (i > 0 ? m[i - 1] >> 60 : 0));
        n[i] = (uint64_t)(rest / 10);
        rest %= 10;
    }
    normalise(n, m);
}

static void keep(int e, const uint64_t m[4])
{
    u128 g = (u128)m[3] << 64 | m[2];
    g += (m[1] | m[0]) != 0;
    powers[e - E_MIN] = (struct power){(uint64_t)(g >> 64), (uint64_t)g};
}

/* Before main, in some microseconds. With 256 bits at hand the 128 kept are right: at the worst 324 steps lost a bit each at
 * the other end. */
__attribute__((constructor)) static void make_powers(void)
{
    uint64_t m[4] = {0, 0, 0, UINT64_C(1) << 63};
    for (int e = 0; e <= E_MAX; e++, times_ten(m))
        keep(e, m);
    memcpy(m, (uint64_t[4]){0, 0, 0, UINT64_C(1) << 63}, sizeof m);
    for (int e = -1; e >= E_MIN; e--) {
        tenth(m);
        keep(e, m);
    }
}

static struct power power_of(int e)
{
    return powers[e - E_MIN];
}

/* floor(log2(10^e)), floor(log10(2^e)), floor(log10(3/4 * 2^e)): fixed-point logarithms, good beyond +-1200. */
static int log2_pow10(int e)
{
    return (e * 1741647) >> 19;
}

static int log10_pow2(int e)
{
    return (e * 1262611) >> 22;
}

static int log10_three_quarters_pow2(int e)
{
    return (e * 1262611 - 524031) >> 22;
}

/* The upper 64 bits of g * c / 2^64; the last of them also says whether anything was below. */
static uint64_t round_to_odd(struct power g, uint64_t c)
{
    u128 low = (u128)g.low * c;
    u128 high = (u128)g.high * c + (uint64_t)(low >> 64);
    return (uint64_t)(high >> 64) | ((uint64_t)high > 1);
}

struct digits { uint64_t d; int k; }; /* d * 10^k */

/* Of the decimals that read back as c * 2^q the shortest, of these the nearest. */
static struct digits shortest(uint64_t c, int q)
{
    bool is_odd = (c & 1) != 0;
    /* The gap below a power of two is half the gap above. */
    bool is_uneven = c == UINT64_C(1) << 52 && q > -1074;
    int k = is_uneven ? log10_three_quarters_pow2(q) : log10_pow2(q);
    int h = q + log2_pow10(-k) + 1;
    struct power g = power_of(-k);
    uint64_t lower = round_to_odd(g, (4 * c - (is_uneven ? 1 : 2)) << h) + is_odd;
    uint64_t v = round_to_odd(g, (4 * c) << h);
    uint64_t upper = round_to_odd(g, (4 * c + 2) << h) - is_odd;
    uint64_t s = v / 4;
    if (s >= 10) {
        uint64_t tens = s / 10;
        bool down = lower <= 40 * tens, up = 40 * tens + 40 <= upper;
        if (down != up)
            return (struct digits){tens + up, k + 1};
    }
    bool down = lower <= 4 * s, up = 4 * s + 4 <= upper;
    if (down != up)
        return (struct digits){s + up, k};
    uint64_t middle = 4 * s + 2;
    return (struct digits){s + (v > middle || (v == middle && (s & 1) != 0)), k};
}

static struct digits digits_of(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    uint64_t fraction = bits & ((UINT64_C(1) << 52) - 1);
    int exponent = (int)(bits >> 52 & 0x7ff);
    struct digits r = exponent == 0 ? shortest(fraction, -1074) : shortest(fraction | UINT64_C(1) << 52, exponent - 1075);
    for (; r.d % 10 == 0; r.k++)
        r.d /= 10;
    return r;
}

static char *put(char *to, const char *text, int n)
{
    memcpy(to, text, (size_t)n);
    return to + n;
}

static char *put_zeros(char *to, int n)
{
    memset(to, '0', (size_t)n);
    return to + n;
}

size_t keel_f64_print(double v, char buf[KEEL_F64_TEXT])
{
    char text[24], *end = text + sizeof text, *to = buf;
    if (v < 0)
        *to++ = '-';
    if (v == 0) {
        *to++ = '0';
        return (size_t)(to - buf);
    }
    struct digits r = digits_of(v);
    char *digit = keel_digits_print(end, r.d, 1);
    int n = (int)(end - digit), exponent = r.k + n - 1;
    if (exponent < -9 || exponent > 16) {
        to = put(to, digit, 1);
        if (n > 1) {
            *to++ = '.';
            to = put(to, digit + 1, n - 1);
        }
        *to++ = 'e';
        *to++ = exponent < 0 ? '-' : '+';
        char *p = keel_digits_print(end, (uint64_t)abs(exponent), 1);
        to = put(to, p, (int)(end - p));
    } else if (exponent < 0) {
        to = put(to, "0.", 2);
        to = put_zeros(to, -exponent - 1);
        to = put(to, digit, n);
    } else if (r.k < 0) {
        to = put(to, digit, n + r.k);
        *to++ = '.';
        to = put(to, digit + n + r.k, -r.k);
    } else {
        to = put(to, digit, n);
        to = put_zeros(to, r.k);
    }
    return (size_t)(to - buf);
}

bool keel_f64_scale(uint64_t m, int64_t e, double *out)
{
    if (e < E_MIN || e > E_MAX)
        return false;
    struct power g = power_of((int)e);
    int zeros = __builtin_clzll(m);
    m <<= zeros;
    u128 product = (u128)m * g.high + (uint64_t)(((u128)m * g.low) >> 64); /* within 1 of the true one */
    int shift = product >> 127 != 0 ? 75 : 74; /* 53 bits stay */
    u128 rest = product & (((u128)1 << shift) - 1), half = (u128)1 << (shift - 1);
    if (rest + 1 >= half && rest <= half + 1)
        return false;
    int exponent = shift + 64 + log2_pow10((int)e) - 127 - zeros;
    if (exponent < -1074 || exponent > 970)
        return false;
    uint64_t mantissa = (uint64_t)(product >> shift) + (rest > half);
    uint64_t bits = ((uint64_t)(exponent + 1075) << 52) + (mantissa - (UINT64_C(1) << 52));
    memcpy(out, &bits, sizeof bits);
    return true;
}
