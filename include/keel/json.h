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
    uint64_t has_member; /* bit d: something was written at depth d */
    uint64_t is_object;
    bool bad; /* a non-finite number was written (as null): a bug of the caller */
};

void keel_json_init(struct keel_json *w, struct keel_arena *a, size_t cap);
/* key is NULL inside arrays and at the top. */
void keel_json_obj(struct keel_json *w, const char *key);
void keel_json_arr(struct keel_json *w, const char *key);
void keel_json_end(struct keel_json *w); /* closes the innermost object or array */
void keel_json_str(struct keel_json *w, const char *key, const char *s); /* NULL writes null */
void keel_json_strn(struct keel_json *w, const char *key, const char *s, size_t n);
void keel_json_i64(struct keel_json *w, const char *key, int64_t v);
void keel_json_u64(struct keel_json *w, const char *key, uint64_t v);
void keel_json_f64(struct keel_json *w, const char *key, double v);         /* shortest that reads back */
void keel_json_fix(struct keel_json *w, const char *key, double v, int digits); /* rounded to digits */
void keel_json_bool(struct keel_json *w, const char *key, bool v);
void keel_json_null(struct keel_json *w, const char *key);
void keel_json_dec(struct keel_json *w, const char *key, int64_t v);       /* "0.5" */
void keel_json_decnum(struct keel_json *w, const char *key, int64_t v);    /* 0.5 */
void keel_json_money(struct keel_json *w, const char *key, keel_i128 v);   /* "969157.76804" */
void keel_json_moneynum(struct keel_json *w, const char *key, keel_i128 v);/* 969157.76804 */
void keel_json_time(struct keel_json *w, const char *key, int64_t ns);     /* "2026-..." */
void keel_json_raw(struct keel_json *w, const char *key, const char *json, size_t n);
/* The value as read, written again. */
void keel_json_val(struct keel_json *w, const char *key, const struct keel_jval *v);
/* NUL ended; every object and array must be closed. */
const char *keel_json_text(struct keel_json *w);

#endif
