/*
 * JSON in and out. Reading: a tree in an arena whose numbers keep their text, so that
 * decimals and 64-bit integers never pass through a double. Writing: a small escaping writer into
 * a buffer that grows in an arena.
 */
#ifndef KEEL_JSON_H
#define KEEL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/num.h"
#include "keel/status.h"

/* ---- reading ---- */
enum keel_jtype { KEEL_JNULL, KEEL_JBOOL, KEEL_JNUM, KEEL_JSTR, KEEL_JARR, KEEL_JOBJ };

struct keel_jval {
    enum keel_jtype type;
    bool boolean;
    const char *name; /* member name inside an object, else NULL */
    const char *text; /* KEEL_JSTR: the decoded string, NUL ended; KEEL_JNUM: the digits as written */
    size_t len;       /* of text; KEEL_JARR, KEEL_JOBJ: number of children */
    const char *raw;  /* KEEL_JARR, KEEL_JOBJ: first byte of the value in the input ... */
    size_t raw_len;   /* ... and its length; the input must outlive the tree for these */
    const struct keel_jval *child, *next;
};

/*
 * The whole text must be one JSON value: valid UTF-8, no duplicate member names, at most 32 deep,
 * no \u0000. KEEL_INVALID puts one sentence into *why (arena).
 * About 1 us for 300 bytes; memory 64 bytes a node and the text once more, from a.
 */
enum keel_status keel_json_parse(struct keel_arena *a, const char *text, size_t len,
                                 const struct keel_jval **out, const char **why);
/* Member of an object, or NULL (also when v is NULL or no object). */
const struct keel_jval *keel_jget(const struct keel_jval *v, const char *name);
/* "" when it is no string. */
const char *keel_jstr(const struct keel_jval *v, const char *name);

/* Well-formed UTF-8 (RFC 3629). */
bool keel_utf8_valid(const char *s, size_t n);

/* ---- writing ---- */
struct keel_json {
    struct keel_arena *a;
    char *buf; /* not NUL ended until keel_json_text */
    size_t len, cap;
    uint32_t depth;
    uint64_t has_member; /* bit 0: something was written into the innermost value that is open, bit 1: into the one around it ... */
    uint64_t is_object;  /* the same */
    bool bad; /* a non-finite number was written (as null): a bug of the caller */
};

/* A member's name; of a literal the compiler knows how long it is. */
struct keel_key { const char *text; size_t len; };
static inline struct keel_key keel_key(const char *text)
{
    return (struct keel_key){text, text != NULL ? strlen(text) : 0};
}

void keel_json_init(struct keel_json *w, struct keel_arena *a, size_t cap);
void keel_json_end(struct keel_json *w); /* closes the innermost object or array */

void keel_json_put_obj(struct keel_json *w, struct keel_key key);
void keel_json_put_arr(struct keel_json *w, struct keel_key key);
void keel_json_put_str(struct keel_json *w, struct keel_key key, const char *s);
void keel_json_put_strn(struct keel_json *w, struct keel_key key, const char *s, size_t n);
void keel_json_put_i64(struct keel_json *w, struct keel_key key, int64_t v);
void keel_json_put_u64(struct keel_json *w, struct keel_key key, uint64_t v);
void keel_json_put_f64(struct keel_json *w, struct keel_key key, double v);
void keel_json_put_fix(struct keel_json *w, struct keel_key key, double v, int digits);
void keel_json_put_dec(struct keel_json *w, struct keel_key key, int64_t v);
void keel_json_put_decnum(struct keel_json *w, struct keel_key key, int64_t v);
void keel_json_put_money(struct keel_json *w, struct keel_key key, keel_i128 v);
void keel_json_put_moneynum(struct keel_json *w, struct keel_key key, keel_i128 v);
void keel_json_put_time(struct keel_json *w, struct keel_key key, int64_t ns);
void keel_json_put_raw(struct keel_json *w, struct keel_key key, const char *json, size_t n);
void keel_json_put_val(struct keel_json *w, struct keel_key key, const struct keel_jval *v);

/* What handlers write with. key is NULL inside arrays and at the top. */
static inline void keel_json_obj(struct keel_json *w, const char *key)
{
    keel_json_put_obj(w, keel_key(key));
}

static inline void keel_json_arr(struct keel_json *w, const char *key)
{
    keel_json_put_arr(w, keel_key(key));
}

static inline void keel_json_raw(struct keel_json *w, const char *key, const char *json, size_t n)
{
    keel_json_put_raw(w, keel_key(key), json, n);
}

static inline void keel_json_null(struct keel_json *w, const char *key)
{
    keel_json_raw(w, key, "null", 4);
}

static inline void keel_json_bool(struct keel_json *w, const char *key, bool v)
{
    keel_json_raw(w, key, v ? "true" : "false", v ? 4 : 5);
}

static inline void keel_json_strn(struct keel_json *w, const char *key, const char *s, size_t n)
{
    keel_json_put_strn(w, keel_key(key), s, n);
}

static inline void keel_json_str(struct keel_json *w, const char *key, const char *s) /* NULL writes null */
{
    keel_json_put_str(w, keel_key(key), s);
}

static inline void keel_json_i64(struct keel_json *w, const char *key, int64_t v)
{
    keel_json_put_i64(w, keel_key(key), v);
}

static inline void keel_json_u64(struct keel_json *w, const char *key, uint64_t v)
{
    keel_json_put_u64(w, keel_key(key), v);
}

static inline void keel_json_f64(struct keel_json *w, const char *key, double v) /* shortest that reads back */
{
    keel_json_put_f64(w, keel_key(key), v);
}

static inline void keel_json_fix(struct keel_json *w, const char *key, double v, int digits) /* rounded to digits */
{
    keel_json_put_fix(w, keel_key(key), v, digits);
}

static inline void keel_json_dec(struct keel_json *w, const char *key, int64_t v) /* "0.5" */
{
    keel_json_put_dec(w, keel_key(key), v);
}

static inline void keel_json_decnum(struct keel_json *w, const char *key, int64_t v) /* 0.5 */
{
    keel_json_put_decnum(w, keel_key(key), v);
}

static inline void keel_json_money(struct keel_json *w, const char *key, keel_i128 v) /* "969157.76804" */
{
    keel_json_put_money(w, keel_key(key), v);
}

static inline void keel_json_moneynum(struct keel_json *w, const char *key, keel_i128 v) /* 969157.76804 */
{
    keel_json_put_moneynum(w, keel_key(key), v);
}

static inline void keel_json_time(struct keel_json *w, const char *key, int64_t ns) /* "2026-..." */
{
    keel_json_put_time(w, keel_key(key), ns);
}

/* The value as read, written again. */
static inline void keel_json_val(struct keel_json *w, const char *key, const struct keel_jval *v)
{
    keel_json_put_val(w, keel_key(key), v);
}

/* NUL ended; every object and array must be closed. */
const char *keel_json_text(struct keel_json *w);

#endif
