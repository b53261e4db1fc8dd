/*
 * Exact decimals and time as text. A decimal text is read into a 128-bit mantissa without trailing
 * zeros and a power of ten, from which every target type takes what it can hold exactly. Products
 * of three decimals need 192 bits and are divided limb by limb, so each result is rounded once.
 */
#include "keel/num.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "f64.h"

__extension__ typedef unsigned __int128 u128;

#define SCALE_DIGITS 9
#define NS_PER_DAY (86400LL * 1000000000LL)

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* ---- reading ---- */

struct decimal {
    bool is_negative, is_wide; /* wide: more significant digits than mantissa holds */
    u128 mantissa;             /* its last digit is not 0, unless it is 0 */
    int64_t exponent;          /* value = mantissa * 10^exponent */
};

static const uint64_t power10[] = {
    UINT64_C(1), UINT64_C(10), UINT64_C(100), UINT64_C(1000), UINT64_C(10000), UINT64_C(100000), UINT64_C(1000000),
    UINT64_C(10000000), UINT64_C(100000000), UINT64_C(1000000000), UINT64_C(10000000000), UINT64_C(100000000000),
    UINT64_C(1000000000000), UINT64_C(10000000000000), UINT64_C(100000000000000), UINT64_C(1000000000000000),
    UINT64_C(10000000000000000), UINT64_C(100000000000000000), UINT64_C(1000000000000000000), UINT64_C(10000000000000000000)};

/* Appends zeros and then one digit to the mantissa. */
static void append_digit(struct decimal *d, size_t zeros, unsigned digit)
{
    if (d->mantissa < power10[15] && zeros < 4) { /* stays below 1e19: nearly every figure */
        d->mantissa = (uint64_t)d->mantissa * power10[zeros + 1] + digit;
        return;
    }
    if (d->is_wide)
        return;
    u128 m = d->mantissa;
    if (m != 0) {
        for (size_t i = 0; i <= zeros; i++) {
            if (__builtin_mul_overflow(m, (u128)10, &m)) {
                d->is_wide = true;
                return;
            }
        }
    }
    d->is_wide = __builtin_add_overflow(m, (u128)digit, &m);
    d->mantissa = m;
}

static const char *scan_digits(const char *p, const char *end, struct decimal *d, size_t *zeros)
{
    for (; p < end && is_digit(*p); p++) {
        if (*p == '0') {
            ++*zeros;
        } else {
            append_digit(d, *zeros, (unsigned)(*p - '0'));
            *zeros = 0;
        }
    }
    return p;
}

/* NULL when there is no digit. The value stops growing far beyond any exponent that matters. */
static const char *scan_exponent(const char *p, const char *end, int64_t *out)
{
    bool is_negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+'))
        p++;
    const char *start = p;
    int64_t e = 0;
    for (; p < end && is_digit(*p); p++) {
        if (e < INT64_MAX / 1000)
            e = e * 10 + (*p - '0');
    }
    *out = is_negative ? -e : e;
    return p > start ? p : NULL;
}

static bool scan_decimal(const char *s, size_t n, struct decimal *d)
{
    const char *p = s, *end = s + n;
    size_t zeros = 0;
    int64_t exponent = 0;
    *d = (struct decimal){.is_negative = n > 0 && *s == '-'};
    p += d->is_negative;
    const char *whole = p;
    p = scan_digits(p, end, d, &zeros);
    if (p == whole)
        return false;
    size_t places = 0;
    if (p < end && *p == '.') {
        const char *fraction = ++p;
        p = scan_digits(p, end, d, &zeros);
        places = (size_t)(p - fraction);
        if (places == 0)
            return false;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p = scan_exponent(p + 1, end, &exponent);
        if (p == NULL)
            return false;
    }
    d->exponent = exponent + (int64_t)zeros - (int64_t)places;
    return p == end;
}

/* Magnitude and sign to a signed 128-bit integer. */
static enum keel_status with_sign(u128 magnitude, bool is_negative, keel_i128 *out)
{
    u128 most = ((u128)1 << 127) - (is_negative ? 0 : 1);
    if (magnitude > most)
        return KEEL_TOOBIG;
    *out = (keel_i128)(is_negative ? (u128)0 - magnitude : magnitude);
    return KEEL_OK;
}

/* At most 19 digits, 9 of them after a point, and nothing else: nearly every figure. False: read it the long way. */
static bool parse_short(const char *s, size_t n, keel_i128 *out)
{
    bool is_negative = n > 0 && *s == '-';
    const char *first = s + is_negative, *end = s + n, *point = end;
    uint64_t v = 0;
    if (end - first < 1 || end - first > 19 || !is_digit(*first) || !is_digit(end[-1]))
        return false;
    for (const char *p = first; p < end; p++) {
        if (is_digit(*p))
            v = v * 10 + (uint64_t)(*p - '0');
        else if (*p == '.' && point == end)
            point = p;
        else
            return false;
    }
    ptrdiff_t places = point < end ? end - point - 1 : 0;
    if (places > SCALE_DIGITS)
        return false;
    keel_i128 units = (keel_i128)v * power10[SCALE_DIGITS - places];
    *out = is_negative ? -units : units;
    return true;
}

enum keel_status keel_money_parse(const char *s, size_t n, keel_i128 *out)
{
    struct decimal d;
    if (parse_short(s, n, out))
        return KEEL_OK;
    if (!scan_decimal(s, n, &d))
        return KEEL_INVALID;
    u128 m = d.mantissa;
    if (m == 0 && !d.is_wide) {
        *out = 0;
        return KEEL_OK;
    }
    int64_t shift = d.exponent + SCALE_DIGITS;
    if (d.is_wide || shift < 0 || shift > 38)
        return KEEL_TOOBIG;
    for (int64_t step; shift > 0; shift -= step) {
        step = shift < 18 ? shift : 18;
        if (__builtin_mul_overflow(m, (u128)power10[step], &m))
            return KEEL_TOOBIG;
    }
    return with_sign(m, d.is_negative, out);
}

static enum keel_status narrow(keel_i128 v, int64_t *out)
{
    if (v < INT64_MIN || v > INT64_MAX)
        return KEEL_TOOBIG;
    *out = (int64_t)v;
    return KEEL_OK;
}

enum keel_status keel_dec_parse(const char *s, size_t n, int64_t *out)
{
    keel_i128 v = 0;
    enum keel_status st = keel_money_parse(s, n, &v);
    return st == KEEL_OK ? narrow(v, out) : st;
}

enum keel_status keel_i64_parse(const char *s, size_t n, int64_t *out)
{
    bool is_negative = n > 0 && s[0] == '-';
    size_t i = is_negative ? 1 : 0;
    if (i == n)
        return KEEL_INVALID;
    int64_t v = 0;
    bool fits = true;
    for (; i < n; i++) {
        if (!is_digit(s[i]))
            return KEEL_INVALID;
        int64_t digit = s[i] - '0';
        /* Counts downwards, because the smallest number has no positive twin. */
        fits = fits && !__builtin_mul_overflow(v, (int64_t)10, &v) &&
               !__builtin_sub_overflow(v, digit, &v);
    }
    if (!fits || (!is_negative && v == INT64_MIN))
        return KEEL_TOOBIG;
    *out = is_negative ? v : -v;
    return KEEL_OK;
}

/* Powers of ten that a double holds exactly. */
static const double exact_power[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                     1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                     1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

enum keel_status keel_f64_parse(const char *s, size_t n, double *out)
{
    struct decimal d;
    char text[1024];
    if (!scan_decimal(s, n, &d))
        return KEEL_INVALID;
    int64_t e = d.exponent;
    if (!d.is_wide && d.mantissa <= ((u128)1 << 53) && e >= -22 && e <= 22) {
        /* Both operands are exact, so the one rounding is the right one (Clinger 1990). */
        double m = (double)d.mantissa;
        double v = e < 0 ? m / exact_power[-e] : m * exact_power[e];
        *out = d.is_negative ? -v : v;
        return KEEL_OK;
    }
    if (!d.is_wide && d.mantissa > 0 && d.mantissa <= UINT64_MAX && keel_f64_scale((uint64_t)d.mantissa, e, out)) {
        *out = d.is_negative ? -*out : *out;
        return KEEL_OK;
    }
    if (n >= sizeof text)
        return KEEL_TOOBIG;
    memcpy(text, s, n);
    text[n] = '\0';
    double v = strtod(text, NULL);
    if (!isfinite(v))
        return KEEL_TOOBIG;
    *out = v;
    return KEEL_OK;
}

/* ---- printing ---- */

static inline char *digits_print(char *end, uint64_t v, int width)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324"
                                "25262728293031323334353637383940414243444546474849"
                                "50515253545556575859606162636465666768697071727374"
                                "75767778798081828384858687888990919293949596979899";
    for (; v >= 10; width -= 2) {
        end -= 2;
        memcpy(end, pairs + 2 * (v % 100), 2);
        v /= 100;
    }
    for (; v > 0 || width > 0; width--) {
        *--end = (char)('0' + v % 10);
        v /= 10;
    }
    return end;
}

char *keel_digits_print(char *end, uint64_t v, int width)
{
    return digits_print(end, v, width);
}

static int digits_of(uint64_t v)
{
    uint64_t least = v | 1; /* 0 has a digit too */
    int n = (64 - __builtin_clzll(least)) * 1233 >> 12; /* log10 2 = 1233 / 4096 */
    return n + (least >= power10[n]);
}

char *keel_u64_print(char *to, uint64_t v)
{
    char *end = to + digits_of(v);
    digits_print(end, v, 1);
    return end;
}

/* Behind the whole part: a point and the digits up to the last that is not 0. */
static char *fraction_print(char *point, uint64_t fraction, int width)
{
    if (fraction == 0)
        return point;
    for (; fraction % 1000 == 0; width -= 3)
        fraction /= 1000;
    for (; fraction % 10 == 0; width--)
        fraction /= 10;
    *point = '.';
    digits_print(point + 1 + width, fraction, width);
    return point + 1 + width;
}

char *keel_fixed_print(char *to, uint64_t whole, uint64_t fraction, int width)
{
    return fraction_print(keel_u64_print(to, whole), fraction, width);
}

static char *whole_print(char *to, u128 whole)
{
    const uint64_t limb = 1000000000000000000u;
    if (whole < limb)
        return keel_u64_print(to, (uint64_t)whole);
    to = keel_u64_print(to, (uint64_t)(whole / limb)) + 18; /* of what is below 2^98 */
    keel_digits_print(to, (uint64_t)(whole % limb), 18);
    return to;
}

static size_t print_units(u128 magnitude, bool is_negative, char *buf)
{
    const uint64_t scale = (uint64_t)KEEL_SCALE;
    char *p = buf;
    *p = '-';
    p += is_negative;
    /* Division of 128 bits is a call, of 64 bits an instruction; most figures fit. */
    if (magnitude <= UINT64_MAX)
        p = keel_fixed_print(p, (uint64_t)magnitude / scale, (uint64_t)magnitude % scale, SCALE_DIGITS);
    else
        p = fraction_print(whole_print(p, magnitude / scale), (uint64_t)(magnitude % scale), SCALE_DIGITS);
    *p = '\0';
    return (size_t)(p - buf);
}

size_t keel_money_print(keel_i128 v, char buf[KEEL_MONEY_TEXT])
{
    return print_units(v < 0 ? (u128)0 - (u128)v : (u128)v, v < 0, buf);
}

size_t keel_dec_print(int64_t v, char buf[KEEL_DEC_TEXT])
{
    return print_units(v < 0 ? (u128)0 - (u128)(keel_i128)v : (u128)v, v < 0, buf);
}

/* ---- to and from double ---- */

double keel_dec_to_f64(int64_t v)
{
    return (double)v / 1e9;
}

double keel_money_to_f64(keel_i128 v)
{
    return (double)v / 1e9;
}

enum keel_status keel_dec_from_f64(double v, int64_t *out)
{
    double product = v * 1e9;
    if (!(fabs(product) < 9.3e18))
        return KEEL_TOOBIG;
    /* The product's own rounding error counts: it can exceed a unit for large v. */
    double units = rint(product);
    double rest = rint((product - units) + fma(v, 1e9, -product));
    return narrow((keel_i128)units + (keel_i128)rest, out);
}

/* ---- products and quotients ---- */

static uint64_t magnitude64(int64_t v)
{
    return v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v;
}

static u128 magnitude128(keel_i128 v)
{
    return v < 0 ? (u128)0 - (u128)v : (u128)v;
}

/* a * b / d, half to even; the product has up to 192 bits. */
static enum keel_status mul_div(u128 a, uint64_t b, uint64_t d, bool is_negative, keel_i128 *out)
{
    u128 low = (u128)(uint64_t)a * b;
    u128 high = (a >> 64) * b + (low >> 64);
    uint64_t limb[3] = {(uint64_t)(high >> 64), (uint64_t)high, (uint64_t)low};
    uint64_t quotient[3], rest = 0;
    for (int i = 0; i < 3; i++) {
        u128 part = ((u128)rest << 64) | limb[i];
        quotient[i] = (uint64_t)(part / d);
        rest = (uint64_t)(part % d);
    }
    if (quotient[0] != 0)
        return KEEL_TOOBIG;
    u128 q = ((u128)quotient[1] << 64) | quotient[2];
    bool is_up = rest > d - rest || (rest == d - rest && (q & 1) != 0);
    if (__builtin_add_overflow(q, (u128)is_up, &q))
        return KEEL_TOOBIG;
    return with_sign(q, is_negative, out);
}

enum keel_status keel_notional(int64_t price, int64_t quantity, int64_t multiplier, keel_i128 *out)
{
    u128 value = (u128)magnitude64(price) * magnitude64(quantity);
    bool is_negative = (price < 0) != ((quantity < 0) != (multiplier < 0));
    return mul_div(value, magnitude64(multiplier), (uint64_t)KEEL_SCALE * (uint64_t)KEEL_SCALE,
                   is_negative, out);
}

enum keel_status keel_money_share(keel_i128 money, int64_t part, int64_t whole, keel_i128 *out)
{
    keel_assert(whole != 0);
    bool is_negative = (money < 0) != ((part < 0) != (whole < 0));
    return mul_div(magnitude128(money), magnitude64(part), magnitude64(whole), is_negative, out);
}

enum keel_status keel_money_rate(keel_i128 money, int64_t rate, keel_i128 *out)
{
    return keel_money_share(money, rate, KEEL_SCALE, out);
}

enum keel_status keel_money_per(keel_i128 money, int64_t quantity, int64_t *out)
{
    keel_i128 price = 0;
    enum keel_status st = keel_money_share(money, KEEL_SCALE, quantity, &price);
    return st == KEEL_OK ? narrow(price, out) : st;
}

enum keel_status keel_money_add(keel_i128 a, keel_i128 b, keel_i128 *out)
{
    keel_i128 sum;
    if (__builtin_add_overflow(a, b, &sum))
        return KEEL_TOOBIG;
    *out = sum;
    return KEEL_OK;
}

enum keel_status keel_money_sub(keel_i128 a, keel_i128 b, keel_i128 *out)
{
    keel_i128 difference;
    if (__builtin_sub_overflow(a, b, &difference))
        return KEEL_TOOBIG;
    *out = difference;
    return KEEL_OK;
}

enum keel_status keel_dec_add(int64_t a, int64_t b, int64_t *out)
{
    int64_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return KEEL_TOOBIG;
    *out = sum;
    return KEEL_OK;
}

enum keel_status keel_dec_sub(int64_t a, int64_t b, int64_t *out)
{
    int64_t difference;
    if (__builtin_sub_overflow(a, b, &difference))
        return KEEL_TOOBIG;
    *out = difference;
    return KEEL_OK;
}

bool keel_dec_on_step(int64_t v, int64_t step)
{
    keel_assert(step > 0);
    return v % step == 0;
}

/* ---- time ---- */

/*
 * Years are counted from March, so that the leap day is a year's last and the months before it
 * follow one formula; 400 years are 146097 days, and 719468 days lie between 0000-03-01 and 1970.
 */
int64_t keel_days_from_civil(int y, int m, int d)
{
    int64_t year = (int64_t)y - (m <= 2 ? 1 : 0);
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t of_era = year - era * 400;
    int64_t month = m > 2 ? m - 3 : m + 9;
    int64_t day_of_year = (153 * month + 2) / 5 + d - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719468;
}

static void civil_from_days(int64_t days, int *y, int *m, int *d)
{
    int64_t shifted = days + 719468;
    int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    int64_t of_era = shifted - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t day_of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * day_of_year + 2) / 153;
    *d = (int)(day_of_year - (153 * month + 2) / 5 + 1);
    *m = (int)(month < 10 ? month + 3 : month - 9);
    *y = (int)(year + era * 400 + (*m <= 2 ? 1 : 0));
}

size_t keel_time_print(int64_t ns, char buf[KEEL_TIME_TEXT])
{
    static const char form[] = "0000-00-00T00:00:00.000000000Z";
    int64_t days = ns / NS_PER_DAY - (ns % NS_PER_DAY < 0 ? 1 : 0);
    /* Unsigned: midnight of the earliest day lies below the range, the difference does not. */
    uint64_t rest = (uint64_t)ns - (uint64_t)days * (uint64_t)NS_PER_DAY;
    uint64_t second = rest / (uint64_t)KEEL_SCALE;
    int y, m, d;
    civil_from_days(days, &y, &m, &d);
    memcpy(buf, form, sizeof form);
    keel_digits_print(buf + 4, (uint64_t)y, 4);
    keel_digits_print(buf + 7, (uint64_t)m, 2);
    keel_digits_print(buf + 10, (uint64_t)d, 2);
    keel_digits_print(buf + 13, second / 3600, 2);
    keel_digits_print(buf + 16, second / 60 % 60, 2);
    keel_digits_print(buf + 19, second % 60, 2);
    keel_digits_print(buf + 29, rest % (uint64_t)KEEL_SCALE, 9);
    return sizeof form - 1;
}

/* Exactly count digits at p, or -1. */
static int fixed_digits(const char *p, const char *end, int count)
{
    int v = 0;
    if (end - p < count)
        return -1;
    for (int i = 0; i < count; i++) {
        if (!is_digit(p[i]))
            return -1;
        v = v * 10 + (p[i] - '0');
    }
    return v;
}

static int days_of_month(int y, int m)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool is_leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    return days[m - 1] + (m == 2 && is_leap ? 1 : 0);
}

/* "hh:mm" at p; -1 when it is not that or out of its range. */
static int minutes_of_day(const char *p, const char *end)
{
    int hour = fixed_digits(p, end, 2);
    if (hour < 0 || hour > 23 || end - p < 5 || p[2] != ':')
        return -1;
    int minute = fixed_digits(p + 3, end, 2);
    return minute < 0 || minute > 59 ? -1 : hour * 60 + minute;
}

/* [.fraction] at *p, at most 9 digits, to nanoseconds; -1 when malformed. */
static int64_t fraction_ns(const char **p, const char *end)
{
    if (*p == end || **p != '.')
        return 0;
    const char *start = ++*p;
    int64_t ns = 0, unit = KEEL_SCALE;
    for (; *p < end && is_digit(**p) && unit > 1; ++*p) {
        unit /= 10;
        ns += unit * (**p - '0');
    }
    return *p > start ? ns : -1;
}

/* [Z|+hh:mm|-hh:mm] up to end, in minutes to subtract. */
static bool zone_minutes(const char *p, const char *end, int *out)
{
    *out = 0;
    if (p == end || (end - p == 1 && (*p == 'Z' || *p == 'z')))
        return true;
    if (end - p != 6 || (*p != '+' && *p != '-'))
        return false;
    int minutes = minutes_of_day(p + 1, end);
    *out = *p == '-' ? -minutes : minutes;
    return minutes >= 0;
}

enum keel_status keel_time_parse(const char *s, size_t n, int64_t *out)
{
    const char *end = s + n;
    if (n < 5 || s[4] != '-' || !is_digit(s[0]))
        return keel_i64_parse(s, n, out) == KEEL_OK ? KEEL_OK : KEEL_INVALID;
    if (n < 19 || s[7] != '-' || (s[10] != 'T' && s[10] != 't' && s[10] != ' ') || s[16] != ':')
        return KEEL_INVALID;
    int y = fixed_digits(s, end, 4), m = fixed_digits(s + 5, end, 2);
    int d = fixed_digits(s + 8, end, 2), minute = minutes_of_day(s + 11, end);
    int second = fixed_digits(s + 17, end, 2), zone;
    if (y < 0 || m < 1 || m > 12 || d < 1 || d > days_of_month(y, m) || minute < 0 ||
        second < 0 || second > 59)
        return KEEL_INVALID;
    const char *p = s + 19;
    int64_t ns = fraction_ns(&p, end);
    if (ns < 0 || !zone_minutes(p, end, &zone))
        return KEEL_INVALID;
    int64_t seconds = keel_days_from_civil(y, m, d) * 86400 + (minute - zone) * 60 + second;
    return narrow((keel_i128)seconds * KEEL_SCALE + ns, out) == KEEL_OK ? KEEL_OK : KEEL_INVALID;
}

/* ---- symbols ---- */

bool keel_symbol_normalise(const char *text, char out[33])
{
    char name[33];
    size_t n = 0;
    for (; text[n] != '\0'; n++) {
        char c = text[n] >= 'a' && text[n] <= 'z' ? (char)(text[n] - 'a' + 'A') : text[n];
        bool plain = is_digit(c) || (c >= 'A' && c <= 'Z');
        if (n == sizeof name - 1 || (!plain && (n == 0 || (c != '.' && c != '_' && c != '-'))))
            return false;
        name[n] = c;
    }
    if (n == 0)
        return false;
    name[n] = '\0';
    memcpy(out, name, n + 1);
    return true;
}
