/*
 * Records: one list is the struct, the validation, the error text and the documentation. Request
 * bodies, bus messages and options are all records.
 *
 *   #define VAR_REQUEST(X, S)                                                                  \
 *       X(S, STR,  portfolio_id, NULL,   1,   64,     "",         "which portfolio")           \
 *       X(S, F64S, returns,      NULL,   2,   100000, "fraction", "period returns")            \
 *       X(S, F64,  confidence,   "0.95", 0.5, 0.9999, "fraction", "confidence level")          \
 *       X(S, DEC,  price,        KEEL_OPT, 0, 9e9,    "quote currency", "limit price")         \
 *       X(S, ENUM, side,         NULL,   0,   0,      "BUY|SELL", "which side")                \
 *       X(S, RECS(level), bids,  KEEL_OPT, 0, 5000,   "",         "best first")
 *   KEEL_RECORD(var_request, VAR_REQUEST);         header: struct var_request, var_request_fields
 *   KEEL_RECORD_TABLE(var_request, VAR_REQUEST);   source: the rows
 *
 * Columns: S (the record's name, passed on), type, field, default (text, passes the same parser as
 * input; NULL: required; KEEL_OPT: may be absent), min, max, unit (ENUM: the names), help.
 * min and max bound the value (numbers), the length (STR, JSON) or the count (arrays, MAP); both 0
 * on a number means unbounded.
 * Every field f comes with `bool has_f` (given, or defaulted) and arrays with `size_t n_f`.
 * A JSON null counts as absent.
 */
#ifndef KEEL_RECORD_H
#define KEEL_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/json.h"
#include "keel/num.h"
#include "keel/status.h"

enum keel_ftype {
    KEEL_BOOL, KEEL_I64, KEEL_F64, KEEL_DEC, KEEL_MONEY, KEEL_TIME, KEEL_ENUM, KEEL_STR, KEEL_JSON,
    KEEL_F64S, KEEL_I64S, KEEL_DECS, KEEL_STRS, KEEL_PAIRS, KEEL_REC, KEEL_RECS, KEEL_MAP,
    KEEL_LEGACY, /* accepted whatever it holds, listed in `ignored`: a field of the first version */
    KEEL_REST    /* so are all members that no row names */
};

#define KEEL_OPT ((const char *)"\001")

/* A number with its name (KEEL_MAP). */
struct keel_named { const char *name; double value; };
/* One [price, quantity] (KEEL_PAIRS). */
struct keel_pair { int64_t p, q; };

struct keel_fields;
struct keel_field {
    const char *name;
    enum keel_ftype type;
    const char *dflt;
    double min, max;
    const char *unit, *help;
    size_t at, has_at, n_at; /* offsets in the struct */
    const struct keel_fields *sub; /* KEEL_REC, KEEL_RECS */
};
struct keel_fields {
    const char *name;
    const struct keel_field *rows;
    size_t n, size;
};

/* Declarations of one field by type. REC and RECS take the sub-record's name. */
#define KEEL_D_BOOL(f)   bool f; bool has_##f;
#define KEEL_D_I64(f)    int64_t f; bool has_##f;
#define KEEL_D_F64(f)    double f; bool has_##f;
#define KEEL_D_DEC(f)    int64_t f; bool has_##f;
#define KEEL_D_MONEY(f)  keel_i128 f; bool has_##f;
#define KEEL_D_TIME(f)   int64_t f; bool has_##f;
#define KEEL_D_ENUM(f)   int f; bool has_##f;              /* index into unit's names */
#define KEEL_D_STR(f)    const char *f; bool has_##f;      /* "" when absent */
#define KEEL_D_JSON(f)   const char *f; bool has_##f; size_t n_##f; /* raw text, "" when absent */
#define KEEL_D_F64S(f)   const double *f; bool has_##f; size_t n_##f;
#define KEEL_D_I64S(f)   const int64_t *f; bool has_##f; size_t n_##f;
#define KEEL_D_DECS(f)   const int64_t *f; bool has_##f; size_t n_##f;
#define KEEL_D_STRS(f)   const char *const *f; bool has_##f; size_t n_##f;
#define KEEL_D_PAIRS(f)  const struct keel_pair *f; bool has_##f; size_t n_##f;
#define KEEL_D_MAP(f)    const struct keel_named *f; bool has_##f; size_t n_##f;
#define KEEL_D_LEGACY(f) bool has_##f;
#define KEEL_D_REST(f)   bool has_##f;
#define KEEL_D_REC(s)    struct s KEEL_D_ONE_
#define KEEL_D_ONE_(f)   f; bool has_##f;
#define KEEL_D_RECS(s)   const struct s *KEEL_D_MANY_
#define KEEL_D_MANY_(f)  f; bool has_##f; size_t n_##f;

/* Rows of one field by type: KEEL_R_<type> gives the enum, the count's offset and the sub-table. */
#define KEEL_R_BOOL   KEEL_R0_(KEEL_BOOL)
#define KEEL_R_I64    KEEL_R0_(KEEL_I64)
#define KEEL_R_F64    KEEL_R0_(KEEL_F64)
#define KEEL_R_DEC    KEEL_R0_(KEEL_DEC)
#define KEEL_R_MONEY  KEEL_R0_(KEEL_MONEY)
#define KEEL_R_TIME   KEEL_R0_(KEEL_TIME)
#define KEEL_R_ENUM   KEEL_R0_(KEEL_ENUM)
#define KEEL_R_STR    KEEL_R0_(KEEL_STR)
#define KEEL_R_LEGACY KEEL_RX_(KEEL_LEGACY)
#define KEEL_R_REST   KEEL_RX_(KEEL_REST)
#define KEEL_R_JSON   KEEL_RN_(KEEL_JSON)
#define KEEL_R_F64S   KEEL_RN_(KEEL_F64S)
#define KEEL_R_I64S   KEEL_RN_(KEEL_I64S)
#define KEEL_R_DECS   KEEL_RN_(KEEL_DECS)
#define KEEL_R_STRS   KEEL_RN_(KEEL_STRS)
#define KEEL_R_PAIRS  KEEL_RN_(KEEL_PAIRS)
#define KEEL_R_MAP    KEEL_RN_(KEEL_MAP)
#define KEEL_R_REC(s)  KEEL_RS_(KEEL_REC, s)
#define KEEL_R_RECS(s) KEEL_RM_(KEEL_RECS, s)
/* Each expands to the name of a row maker that is then called with (S, field, ...). */
#define KEEL_R0_(t) {KEEL_ROW_TYPE_(t), KEEL_ROW_PLAIN_
#define KEEL_RX_(t) {KEEL_ROW_TYPE_(t), KEEL_ROW_EMPTY_
#define KEEL_RN_(t) {KEEL_ROW_TYPE_(t), KEEL_ROW_MANY_
#define KEEL_RS_(t, s) {KEEL_ROW_TYPE_(t), .sub = &s##_fields, KEEL_ROW_PLAIN_
#define KEEL_RM_(t, s) {KEEL_ROW_TYPE_(t), .sub = &s##_fields, KEEL_ROW_MANY_
#define KEEL_ROW_TYPE_(t) .type = t
#define KEEL_ROW_PLAIN_(S, f) .at = offsetof(struct S, f), .has_at = offsetof(struct S, has_##f)
#define KEEL_ROW_EMPTY_(S, f) .at = offsetof(struct S, has_##f), .has_at = offsetof(struct S, has_##f)
#define KEEL_ROW_MANY_(S, f)                                                                       \
    .at = offsetof(struct S, f), .has_at = offsetof(struct S, has_##f), .n_at = offsetof(struct S, n_##f)

#define KEEL_DECL_(S, type, f, d, lo, hi, u, h) KEEL_D_##type(f)
#define KEEL_ROW_(S, type_, f, d, lo, hi, u, h)                                                    \
    KEEL_R_##type_(S, f), .name = #f, .dflt = d, .min = lo, .max = hi, .unit = u, .help = h},

#define KEEL_RECORD(name, LIST)                                                                    \
    struct name { LIST(KEEL_DECL_, name) };                                                        \
    extern const struct keel_fields name##_fields
#define KEEL_RECORD_TABLE(rec, LIST)                                                               \
    static const struct keel_field rec##_rows[] = {LIST(KEEL_ROW_, rec)};                          \
    const struct keel_fields rec##_fields = {.name = #rec, .rows = rec##_rows,                     \
        .n = sizeof rec##_rows / sizeof rec##_rows[0], .size = sizeof(struct rec)}

struct keel_record_error {
    const char *code;  /* "missing", "wrong_type", "out_of_range", "unknown_field", "inexact", ... */
    const char *field; /* dotted path: "bids[3].price"; arena */
    const char *detail;/* one sentence with the bound; arena */
};
struct keel_ignored { size_t n; const char *names[32]; };

/*
 * obj NULL or a JSON object -> *out (f->size bytes, zeroed first). KEEL_INVALID fills *err.
 * Whatever *out points at lives in a. ignored may be NULL.
 */
enum keel_status keel_record_decode(const struct keel_fields *f, struct keel_arena *a,
                                    const struct keel_jval *obj, void *out,
                                    struct keel_ignored *ignored, struct keel_record_error *err);
/* One field from text (a path parameter, a query parameter, an option). name must be a row of f. */
enum keel_status keel_record_set(const struct keel_fields *f, struct keel_arena *a, void *out,
                                 const char *name, const char *text, struct keel_record_error *err);
/* After a series of keel_record_set: applies defaults, KEEL_INVALID when a required one is missing. */
enum keel_status keel_record_finish(const struct keel_fields *f, struct keel_arena *a, void *out,
                                    struct keel_record_error *err);
/* Writes the members that are has_ into the open object of w. Money and decimals as strings. */
void keel_record_encode(const struct keel_fields *f, const void *rec, struct keel_json *w);
const struct keel_field *keel_field_find(const struct keel_fields *f, const char *name);
/* Name of an ENUM's value, from the row's unit; writes into buf, returns buf. */
const char *keel_enum_name(const struct keel_field *row, int value, char *buf, size_t cap);
/* Index of name among "A|B|C" or -1. */
int keel_enum_index(const char *names, const char *name, size_t len);

#endif
