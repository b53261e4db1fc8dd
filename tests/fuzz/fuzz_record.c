/*
 * Fuzzer of everything that reads text from outside into numbers and records: the JSON parser, the
 * record decoder from JSON and from text, and the number and time parsers below them. Beyond "no
 * crash" it holds what was accepted to its word: written out and read again it is the same.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/contract.h"
#include "keel/json.h"
#include "keel/record.h"
#include "keel/rng.h"

#define FUZZ_LEVEL(X, S)                                                                           \
    X(S, DEC, price, NULL, 0, 0, "price", "")                                                      \
    X(S, STR, note, KEEL_OPT, 0, 8, "", "")                                                        \
    X(S, REST, rest, KEEL_OPT, 0, 0, "", "")
KEEL_RECORD(fuzz_level, FUZZ_LEVEL);
KEEL_RECORD_TABLE(fuzz_level, FUZZ_LEVEL);

#define FUZZ_ALL(X, S)                                                                             \
    X(S, BOOL, flag, "no", 0, 0, "", "")                                                           \
    X(S, I64, i, KEEL_OPT, 0, 0, "", "")                                                           \
    X(S, F64, f, KEEL_OPT, 0, 0, "", "")                                                           \
    X(S, DEC, d, KEEL_OPT, 0, 0, "", "")                                                           \
    X(S, MONEY, m, KEEL_OPT, 0, 0, "", "")                                                         \
    X(S, TIME, t, KEEL_OPT, 0, 0, "", "")                                                          \
    X(S, ENUM, e, KEEL_OPT, 0, 0, "BUY|SELL", "")                                                  \
    X(S, STR, s, KEEL_OPT, 0, 64, "", "")                                                          \
    X(S, JSON, j, KEEL_OPT, 0, 0, "", "")                                                          \
    X(S, F64S, fs, KEEL_OPT, 0, 16, "", "")                                                        \
    X(S, I64S, is, KEEL_OPT, 0, 16, "", "")                                                        \
    X(S, DECS, ds, KEEL_OPT, 0, 16, "", "")                                                        \
    X(S, STRS, ss, "a,b", 0, 16, "", "")                                                           \
    X(S, PAIRS, ps, KEEL_OPT, 0, 16, "", "")                                                       \
    X(S, REC(fuzz_level), one, KEEL_OPT, 0, 0, "", "")                                             \
    X(S, RECS(fuzz_level), many, KEEL_OPT, 0, 16, "", "")                                          \
    X(S, MAP, map, KEEL_OPT, 0, 16, "", "")                                                        \
    X(S, LEGACY, old, KEEL_OPT, 0, 0, "", "")                                                      \
    X(S, REST, rest, KEEL_OPT, 0, 0, "", "")
KEEL_RECORD(fuzz_all, FUZZ_ALL);
KEEL_RECORD_TABLE(fuzz_all, FUZZ_ALL);

static const struct keel_fields *const tables[] = {&fuzz_all_fields, &keel_fill_fields, &keel_order_fields,
                                                   &keel_book_fields, &keel_vector_fields};

static const char *encode(struct keel_arena *a, const struct keel_fields *f, const void *rec)
{
    struct keel_json w;
    keel_json_init(&w, a, 0);
    keel_json_obj(&w, NULL);
    keel_record_encode(f, rec, &w);
    keel_json_end(&w);
    keel_assert(!w.bad);
    return keel_json_text(&w);
}

static const struct keel_jval *parse_ours(struct keel_arena *a, const char *text)
{
    const struct keel_jval *v = NULL;
    const char *why = "";
    keel_assert(keel_json_parse(a, text, strlen(text), &v, &why) == KEEL_OK);
    return v;
}

static void try_record(struct keel_arena *a, const struct keel_fields *f, const struct keel_jval *v)
{
    struct keel_ignored ignored = {.n = 0};
    struct keel_record_error err = {0};
    void *rec = keel_arena_alloc(a, f->size);
    if (keel_record_decode(f, a, v, rec, &ignored, &err) != KEEL_OK) {
        keel_assert(err.code != NULL && err.field != NULL && strlen(err.detail) > 0);
        return;
    }
    const char *text = encode(a, f, rec);
    keel_assert(keel_record_decode(f, a, parse_ours(a, text), rec, NULL, &err) == KEEL_OK);
    keel_assert(strcmp(text, encode(a, f, rec)) == 0);
}

static void try_json(struct keel_arena *a, const char *text, size_t n)
{
    const struct keel_jval *v = NULL;
    const char *why = NULL;
    struct keel_json w, w2;
    if (keel_json_parse(a, text, n, &v, &why) != KEEL_OK) {
        keel_assert(why != NULL && v == NULL);
        return;
    }
    keel_json_init(&w, a, n);
    keel_json_val(&w, NULL, v);
    const char *again = keel_json_text(&w);
    keel_assert(keel_utf8_valid(again, w.len));
    keel_json_init(&w2, a, n);
    keel_json_val(&w2, NULL, parse_ours(a, again));
    keel_assert(strcmp(again, keel_json_text(&w2)) == 0);
    for (size_t i = 0; i < KEEL_COUNT(tables); i++)
        try_record(a, tables[i], v);
}

static void try_text(struct keel_arena *a, const char *text)
{
    const struct keel_fields *f = &fuzz_all_fields;
    for (size_t i = 0; i < f->n; i++) {
        struct fuzz_all rec;
        struct keel_record_error err = {0};
        memset(&rec, 0, sizeof rec);
        if (keel_record_set(f, a, &rec, f->rows[i].name, text, &err) != KEEL_OK)
            keel_assert(err.code != NULL && err.field != NULL && strlen(err.detail) > 0);
        else
            parse_ours(a, encode(a, f, &rec));
    }
}

static void try_numbers(const char *text, size_t n)
{
    char printed[KEEL_MONEY_TEXT];
    keel_i128 m = 0, m2 = 1;
    int64_t v = 0, v2 = 1;
    double x = 0;
    if (keel_money_parse(text, n, &m) == KEEL_OK)
        keel_assert(keel_money_parse(printed, keel_money_print(m, printed), &m2) == KEEL_OK && m == m2);
    if (keel_dec_parse(text, n, &v) == KEEL_OK)
        keel_assert(keel_dec_parse(printed, keel_dec_print(v, printed), &v2) == KEEL_OK && v == v2);
    if (keel_time_parse(text, n, &v) == KEEL_OK)
        keel_assert(keel_time_parse(printed, keel_time_print(v, printed), &v2) == KEEL_OK && v == v2);
    if (keel_f64_parse(text, n, &x) == KEEL_OK)
        keel_assert(x == x && x - x == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct keel_arena *arena;
    if (arena == NULL)
        arena = keel_arena_new(1 << 16);
    keel_arena_reset(arena);
    /* A heap copy of exactly this size, so that the sanitizer sees the first byte too many. */
    char *text = keel_alloc(size + 1, 1);
    char *exact = keel_alloc(size, 1);
    memcpy(text, data, size);
    memcpy(exact, data, size);
    try_json(arena, exact, size);
    try_numbers(exact, size);
    try_text(arena, text);
    keel_free(exact);
    keel_free(text);
    return 0;
}

#ifdef KEEL_FUZZ_MAIN
/* Any compiler: fuzz_record [-n MUTATIONS] FILE... runs each file, then seeded mutations of it. */

enum { MOST_INPUT = 1 << 16 };

static size_t read_file(const char *name, uint8_t *buf)
{
    FILE *f = fopen(name, "rb");
    if (f == NULL) {
        perror(name);
        exit(1);
    }
    size_t n = fread(buf, 1, MOST_INPUT, f);
    fclose(f);
    return n;
}

static size_t insert(uint8_t *buf, size_t n, size_t at, const void *what, size_t len)
{
    if (n + len > MOST_INPUT)
        return n;
    memmove(buf + at + len, buf + at, n - at);
    memcpy(buf + at, what, len);
    return n + len;
}

static size_t mutate(struct keel_rng *r, uint8_t *buf, size_t n)
{
    static const char *const tokens[] = {
        "\"", "{", "}", "[", "]", ",", ":", "-", "0", ".", "e9", "1e-9", "null", "true", "\\u0041",
        "\\ud834", "9223372036854775808", "0.0000000001", "\xC3\xA9", "\xFF", "\"price\":1,", "[[1,2]]"};
    uint8_t piece[64];
    size_t at = keel_rng_below(r, n + 1), left = n - at, len;
    switch (keel_rng_below(r, 5)) {
    case 0:
        if (left > 0)
            buf[at] ^= (uint8_t)(1u << keel_rng_below(r, 8));
        return n;
    case 1:
        if (left > 0)
            buf[at] = (uint8_t)keel_rng_below(r, 256);
        return n;
    case 2:
        len = keel_rng_below(r, (left < 16 ? left : 16) + 1);
        memmove(buf + at, buf + at + len, left - len);
        return n - len;
    case 3:
        len = left < sizeof piece ? left : sizeof piece;
        memcpy(piece, buf + at, len);
        return insert(buf, n, keel_rng_below(r, n + 1), piece, len);
    default: {
        const char *token = tokens[keel_rng_below(r, KEEL_COUNT(tokens))];
        return insert(buf, n, at, token, strlen(token));
    }
    }
}

int main(int argc, char **argv)
{
    static uint8_t seed[MOST_INPUT], buf[MOST_INPUT];
    struct keel_rng r;
    int64_t mutations = 2000;
    int first = 1;
    if (argc > 2 && strcmp(argv[1], "-n") == 0) {
        if (keel_i64_parse(argv[2], strlen(argv[2]), &mutations) != KEEL_OK)
            return 2;
        first = 3;
    }
    keel_rng_seed(&r, 1);
    for (int i = first; i < argc; i++) {
        size_t size = read_file(argv[i], seed);
        LLVMFuzzerTestOneInput(seed, size);
        for (int64_t k = 0; k < mutations; k++) {
            size_t n = size;
            memcpy(buf, seed, size);
            for (uint64_t steps = 1 + keel_rng_below(&r, 4); steps > 0; steps--)
                n = mutate(&r, buf, n);
            LLVMFuzzerTestOneInput(buf, n);
        }
    }
    printf("%d inputs, %lld mutations each\n", argc - first, (long long)mutations);
    return argc > first ? 0 : 2;
}
#endif
