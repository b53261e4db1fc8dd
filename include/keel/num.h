/*
 * Exact decimals, and the other scalars of a body as text: times, symbols. A price or quantity is int64_t
 * at 1e-9 ("dec"); money is a 128-bit integer at 1e-9 ("money"). The only header that may use __int128 and the overflow builtins.
 */
#ifndef KEEL_NUM_H
#define KEEL_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/status.h"

__extension__ typedef __int128 keel_i128;

#define KEEL_SCALE 1000000000LL /* units of 1e-9 in 1 */
#define KEEL_DEC_TEXT 24        /* bytes that hold any printed dec and its NUL */
#define KEEL_MONEY_TEXT 48      /* bytes that hold any printed money and its NUL */

/*
 * Decimal text to units of 1e-9: [-]digits[.digits][(e|E)[+-]digits], no space, no '+'.
 * KEEL_INVALID  not a number;  KEEL_TOOBIG  does not fit, or is not a multiple of 1e-9
 */
enum keel_status keel_dec_parse(const char *s, size_t n, int64_t *out);
enum keel_status keel_money_parse(const char *s, size_t n, keel_i128 *out);

/* Shortest exact text, no exponent: 500000000 -> "0.5". Returns the length. */
size_t keel_dec_print(int64_t v, char buf[KEEL_DEC_TEXT]);
size_t keel_money_print(keel_i128 v, char buf[KEEL_MONEY_TEXT]);

/* Digits of v, at least width of them, ending before end, without a NUL; returns the first. */
char *keel_digits_print(char *end, uint64_t v, int width);
/* v, without a NUL; returns the end. At most 20 digits. */
char *keel_u64_print(char *to, uint64_t v);
/* whole, and unless fraction is 0 a point and fraction's width digits without the last zeros; returns the end. */
char *keel_fixed_print(char *to, uint64_t whole, uint64_t fraction, int width);

/* For statistics and display only, never for money that is kept. */
double keel_dec_to_f64(int64_t v);
double keel_money_to_f64(keel_i128 v);
/* Nearest dec of a finite double; KEEL_TOOBIG when it does not fit. */
enum keel_status keel_dec_from_f64(double v, int64_t *out);

/* price * quantity * multiplier (each at 1e-9), rounded once, half to even, to 1e-9. KEEL_TOOBIG on overflow. */
enum keel_status keel_notional(int64_t price, int64_t quantity, int64_t multiplier, keel_i128 *out);
/* money * part / whole, rounded half to even; whole != 0. KEEL_TOOBIG on overflow. */
enum keel_status keel_money_share(keel_i128 money, int64_t part, int64_t whole, keel_i128 *out);
/* money * rate (dec, e.g. a fee rate), half to even. */
enum keel_status keel_money_rate(keel_i128 money, int64_t rate, keel_i128 *out);
/* money / quantity as a dec price, half to even; quantity != 0. KEEL_TOOBIG when it does not fit. */
enum keel_status keel_money_per(keel_i128 money, int64_t quantity, int64_t *out);

/* Checked sums: KEEL_TOOBIG on overflow. */
enum keel_status keel_money_add(keel_i128 a, keel_i128 b, keel_i128 *out);
enum keel_status keel_money_sub(keel_i128 a, keel_i128 b, keel_i128 *out);
enum keel_status keel_dec_add(int64_t a, int64_t b, int64_t *out);
enum keel_status keel_dec_sub(int64_t a, int64_t b, int64_t *out);

/* v is a multiple of step (step > 0). */
bool keel_dec_on_step(int64_t v, int64_t step);

/* ---- time as text; nanoseconds UTC ---- */
#define KEEL_TIME_TEXT 32
/* RFC 3339, nanoseconds, Z: "2026-11-22T17:51:04.120000000Z". Returns the length. */
size_t keel_time_print(int64_t ns, char buf[KEEL_TIME_TEXT]);
/* RFC 3339 with any offset, the same without zone (UTC), or integer nanoseconds. KEEL_INVALID otherwise. */
enum keel_status keel_time_parse(const char *s, size_t n, int64_t *out);
/* Days since 1970-01-01 of a civil date (proleptic Gregorian). */
int64_t keel_days_from_civil(int y, int m, int d);

/* ---- symbols ---- */
/* text in capitals, if that is [A-Z0-9][A-Z0-9._-]{0,31}; false: it is no symbol, and out is as it was. */
bool keel_symbol_normalise(const char *text, char out[33]);

/* Strict signed decimal integer. KEEL_INVALID / KEEL_TOOBIG. */
enum keel_status keel_i64_parse(const char *s, size_t n, int64_t *out);
/* Strict finite double, the nearest. */
enum keel_status keel_f64_parse(const char *s, size_t n, double *out);
enum { KEEL_F64_TEXT = 32 };
/* The shortest decimal that reads back as v, which is finite; no NUL. Returns the length. */
size_t keel_f64_print(double v, char buf[KEEL_F64_TEXT]);

#endif
