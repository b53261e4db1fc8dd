/*
 * Fuzzer of the WebSocket decoder. The first byte says where the rest is cut. Beyond "no crash": however the bytes are cut,
 * the events are the same; text is UTF-8, nothing passes its limit, a close code may be sent, and nothing follows an end.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/json.h"
#include "keel/num.h"
#include "keel/rng.h"
#include "keel/status.h"
#include "keel/ws_frame.h"

enum { LIMIT = 4096 };

/* What happened, as one number (FNV-1a over every event). */
struct trace { uint64_t hash; bool ended; };

static void mix(struct trace *t, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        t->hash = (t->hash ^ p[i]) * 1099511628211u;
}

static void check(struct trace *t, const struct keel_ws_event *ev)
{
    unsigned char what = (unsigned char)ev->what;
    keel_assert(!t->ended);
    t->ended = ev->what == KEEL_WS_GOT_CLOSE || ev->what == KEEL_WS_FAILED;
    if (ev->what == KEEL_WS_MESSAGE)
        keel_assert(ev->len <= LIMIT && (!ev->is_text || keel_utf8_valid(ev->data, ev->len)));
    else
        keel_assert(ev->len <= KEEL_WS_MAX_CONTROL);
    if (ev->what == KEEL_WS_GOT_CLOSE)
        keel_assert(ev->code >= 1000 && ev->code <= 4999 && (ev->len == 0 || keel_utf8_valid(ev->data, ev->len)));
    if (ev->what == KEEL_WS_FAILED)
        keel_assert(ev->code == 1002 || ev->code == 1007 || ev->code == 1009);
    mix(t, &what, 1);
    mix(t, &ev->code, sizeof ev->code);
    if (ev->len > 0)
        mix(t, ev->data, ev->len);
}

static uint64_t decode(const uint8_t *data, size_t n, size_t piece)
{
    struct trace t = {.hash = 14695981039346656037u};
    struct keel_ws_decoder d;
    keel_ws_decoder_init(&d, LIMIT);
    for (size_t at = 0; at < n;) {
        size_t len = n - at < piece ? n - at : piece, done = 0;
        char *exact = keel_alloc(len, 1); /* so that the sanitizer sees the first byte too many */
        struct keel_ws_event ev;
        memcpy(exact, data + at, len);
        do {
            size_t used = keel_ws_decode(&d, exact + done, len - done, &ev);
            keel_assert(used <= len - done);
            done += used;
            if (ev.what != KEEL_WS_NOTHING)
                check(&t, &ev);
        } while (ev.what != KEEL_WS_NOTHING);
        keel_assert(done == len);
        keel_free(exact);
        at += len;
    }
    keel_ws_decoder_fini(&d);
    return t.hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    uint64_t whole = decode(data + 1, size - 1, size);
    keel_assert(whole == decode(data + 1, size - 1, 1));
    keel_assert(whole == decode(data + 1, size - 1, 1 + data[0] % 16));
    return 0;
}

#ifdef KEEL_FUZZ_MAIN
/* Any compiler: fuzz_ws_frame FILE... runs each file, then seeded mutations of it. */

enum { MOST_INPUT = 1 << 16, MUTATIONS = 5000 };

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

/* Flips a bit, sets a byte, removes some or repeats some. */
static size_t mutate(struct keel_rng *r, uint8_t *buf, size_t n)
{
    size_t at = keel_rng_below(r, n), len = 1 + keel_rng_below(r, n - at);
    switch (keel_rng_below(r, 4)) {
    case 0:
        buf[at] ^= (uint8_t)(1u << keel_rng_below(r, 8));
        return n;
    case 1:
        buf[at] = (uint8_t)keel_rng_below(r, 256);
        return n;
    case 2:
        len = len < n ? len : n - 1;
        memmove(buf + at, buf + at + len, n - at - len);
        return n - len;
    default:
        if (n + len > MOST_INPUT)
            return n;
        memmove(buf + at + len, buf + at, n - at);
        return n + len;
    }
}

int main(int argc, char **argv)
{
    static uint8_t seed[MOST_INPUT], buf[MOST_INPUT];
    struct keel_rng r;
    keel_rng_seed(&r, 1);
    for (int i = 1; i < argc; i++) {
        size_t size = read_file(argv[i], seed);
        LLVMFuzzerTestOneInput(seed, size);
        for (int k = 0; k < MUTATIONS; k++) {
            size_t n = size;
            memcpy(buf, seed, size);
            for (uint64_t steps = 1 + keel_rng_below(&r, 4); steps > 0 && n > 1; steps--)
                n = mutate(&r, buf, n);
            LLVMFuzzerTestOneInput(buf, n);
        }
    }
    printf("%d inputs, %d mutations each\n", argc - 1, MUTATIONS);
    return argc > 1 ? 0 : 2;
}
#endif
