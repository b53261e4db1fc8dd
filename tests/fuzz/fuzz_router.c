/*
 * Any method and path through the router, and any three header values through the checks of access. Input: method,
 * space, path, and optionally lines of Host, Origin and Authorization.
 *   clang -fsanitize=fuzzer,address,undefined ...        the fuzzer's own main
 *   cc -DKEEL_FUZZ_MAIN ...; fuzz_router [-n MUTATIONS] [-s SEED] FILE...
 */
#include "rt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW(id_, ...) {.id = id_, .on = __VA_ARGS__, .scope = KEEL_SCOPE_TRADE}

static const struct keel_op ops[] = {
    ROW("predict_any", KEEL_POST("/ml/predict/{model_id}")), ROW("predict_price", KEEL_POST("/ml/predict/price")),
    ROW("model", KEEL_GET("/models/{id}")),                  ROW("model_drop", KEEL_DELETE("/models/{id}")),
    ROW("two", KEEL_PUT("/p/{id}/q/{name}")),                ROW("left", KEEL_GET("/x/a/{name}")),
    ROW("right", KEEL_GET("/x/{id}/b")),                     ROW("root", KEEL_GET("/")),
    ROW("stream", KEEL_WS("/ws/{id}")),
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "fuzz_router: %s\n", what);
    abort();
}

/* The row's pattern with the parameters put in, split the same way, is the path that came. */
static void check_found(const struct keel_route *r, const char *path)
{
    const char *pattern = r->op->on.path;
    size_t used = 0;

    must(r->allow[0] == '\0', "an allowed list beside a row");
    while (*pattern == '/') {
        size_t n = strcspn(++pattern, "/"), m = strcspn(++path, "/"), len = m;
        char *segment = malloc(m + 1);
        must(segment != NULL, "memory");
        memcpy(segment, path, m);
        segment[m] = '\0';
        must(keel_unescape(segment, &len), "a broken escape was routed");
        if (*pattern == '{') {
            must(used < r->n_params && len > 0, "a parameter is missing");
            must(strlen(r->params[used].value) == len && memcmp(r->params[used].value, segment, len) == 0,
                 "a parameter differs from the path");
            used++;
        } else {
            must(len == n && memcmp(segment, pattern, n) == 0, "a literal segment differs from the path");
        }
        free(segment);
        pattern += n;
        path += m;
    }
    must(*path == '\0' && used == r->n_params, "path or parameters are left over");
}

static char *next_part(char **rest, const char *ends)
{
    char *part = *rest;

    if (part == NULL)
        return NULL;
    *rest = part + strcspn(part, ends);
    if (**rest == '\0')
        *rest = NULL;
    else
        *(*rest)++ = '\0';
    return part;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct keel_core_options core = {.http_host = "127.0.0.1", .read_token = "", .trade_token = "secret",
                                     .admin_token = "", .engine_token = "",
                                     .allowed_hosts = "risk,proxy.example", .keel_mode = 1};
    struct keel_arena *a = keel_arena_new(1024);
    char *text = keel_arena_strndup(a, (const char *)data, strnlen((const char *)data, size)), *rest = text;
    const char *method = next_part(&rest, " "), *path = next_part(&rest, "\n"), *host = next_part(&rest, "\n"),
               *origin = next_part(&rest, "\n"), *token = next_part(&rest, "\n"), *why = NULL;
    struct keel_route route;
    struct keel_rt rt;
    enum keel_scope scope;

    memset(&rt, 0, sizeof rt);
    rt.ops = ops;
    rt.n_ops = KEEL_COUNT(ops);
    rt.core = &core;
    if (path == NULL)
        path = "";
    if (keel_route_find(&rt, a, method, path, &route))
        check_found(&route, path);
    else
        must(route.op == NULL && strlen(route.allow) < sizeof route.allow, "no row, and yet something of it");
    if (keel_authorize(&rt, &ops[0], "POST", token, host, origin, "application/json", false, &scope, &why) == KEEL_OK)
        must(token != NULL && strstr(token, "secret") != NULL, "no token, and yet allowed");
    keel_arena_free(a);
    return 0;
}

#ifdef KEEL_FUZZ_MAIN
#include "keel/rng.h"

enum { SEED_BYTES = 4096 };

static void mutate_once(struct keel_rng *rng, uint8_t *data, size_t *n)
{
    static const char *const words[] = {"/", "%", "%2F", "{id}", "//", "[::1]", ":", "http://",
                                        "GET ", "\n", "%00", "%ff"};
    const char *word = words[keel_rng_u64(rng) % KEEL_COUNT(words)];
    size_t at = *n > 0 ? (size_t)(keel_rng_u64(rng) % *n) : 0, len = strlen(word);

    switch (keel_rng_u64(rng) % 4) {
    case 0: /* another byte */
        if (*n > 0)
            data[at] = (uint8_t)keel_rng_u64(rng);
        break;
    case 1: /* a byte less */
        if (*n > 0) {
            memmove(data + at, data + at + 1, *n - at - 1);
            (*n)--;
        }
        break;
    case 2: /* a word more */
        if (*n + len <= SEED_BYTES) {
            memmove(data + at + len, data + at, *n - at);
            memcpy(data + at, word, len);
            *n += len;
        }
        break;
    default: /* cut off */
        *n = at;
        break;
    }
}

static size_t read_seed(const char *path, uint8_t *out)
{
    FILE *f = fopen(path, "rb");
    size_t n;

    must(f != NULL, path);
    n = fread(out, 1, SEED_BYTES, f);
    fclose(f);
    return n;
}

int main(int argc, char **argv)
{
    unsigned long mutations = 20000, seed = 1;
    static uint8_t original[SEED_BYTES], data[SEED_BYTES];
    struct keel_rng rng;
    int files = 0;

    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && strcmp(argv[i], "-n") == 0) {
            mutations = strtoul(argv[++i], NULL, 10);
            continue;
        }
        if (i + 1 < argc && strcmp(argv[i], "-s") == 0) {
            seed = strtoul(argv[++i], NULL, 10);
            continue;
        }
        size_t n = read_seed(argv[i], original);
        LLVMFuzzerTestOneInput(original, n);
        keel_rng_seed(&rng, seed);
        for (unsigned long k = 0; k < mutations; k++) {
            size_t m = n;
            memcpy(data, original, n);
            for (uint64_t left = 1 + keel_rng_u64(&rng) % 6; left > 0; left--)
                mutate_once(&rng, data, &m);
            LLVMFuzzerTestOneInput(data, m);
        }
        files++;
    }
    printf("fuzz_router: %d seeds, %lu mutations each\n", files, mutations);
    return files > 0 ? 0 : 1;
}
#endif
