/*
 * Doubles and decimals: the exact part between keel_f64_parse and keel_f64_print.
 */
#ifndef KEEL_F64_H
#define KEEL_F64_H

#include <stdbool.h>
#include <stdint.h>

/* m * 10^e rounded to the nearest double, m above 0. False: 128 bits of the power do not decide it, or the result is not a
 * normal number, or e is out of [-292, 324]. */
bool keel_f64_scale(uint64_t m, int64_t e, double *out);

#endif
