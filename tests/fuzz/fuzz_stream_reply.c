/*
 * Any reply, any header: stream_reply.c reads no byte that is not there and prints what it parsed so that it parses again.
 *
 * Input: the first byte chooses. Even: a tree of replies is built from the rest (see build) and read in every way; odd: the
 * rest is a header.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <hiredis/hiredis.h>

#include "bus_priv.h"
#include "keel/rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_NODES = 400, MAX_DEPTH = 7 };

struct input { const uint8_t *at, *end; };
struct pool { struct redisReply node[MAX_NODES]; struct redisReply *slot[MAX_NODES * 8]; size_t n, slots; };

static uint8_t byte(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

/* A node: type byte; then elements (count byte), a text (length byte; exactly that many bytes, no NUL after), or nothing. */
static struct redisReply *build(struct pool *p, struct input *in, int depth)
{
    if (p->n == MAX_NODES)
        return NULL;
    struct redisReply *r = &p->node[p->n++];
    memset(r, 0, sizeof *r);
    r->type = byte(in) % 8;
    if (r->type == REDIS_REPLY_ARRAY && depth < MAX_DEPTH) {
        size_t n = byte(in) % 9;
        if (p->slots + n > KEEL_COUNT(p->slot))
            n = 0;
        r->elements = n;
        r->element = n > 0 ? &p->slot[p->slots] : NULL;
        p->slots += n;
        for (size_t i = 0; i < n; i++)
            r->element[i] = build(p, in, depth + 1);
    } else if (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS || r->type == REDIS_REPLY_ERROR) {
        size_t n = byte(in), have = (size_t)(in->end - in->at);
        r->len = n < have ? n : have;
        r->str = malloc((size_t)r->len + 1); /* its own block, so that the sanitizer sees an overrun */
        if (r->str == NULL)
            abort();
        memcpy(r->str, in->at, (size_t)r->len);
        r->str[r->len] = '\0';
        in->at += r->len;
    } else if (r->type == REDIS_REPLY_INTEGER) {
        r->integer = byte(in);
    }
    return r;
}

static void head(const char *s, size_t n)
{
    struct keel_envelope e, again;
    char buf[KEEL_HEAD_TEXT];
    size_t len = keel_head_stamp(s, n, 12345, buf);
    if (keel_head_parse(s, n, &e) != NULL)
        return;
    if (len == 0 && n <= KEEL_HEAD_TEXT - 32)
        abort();
    len = keel_head_print(e.env, e.mode, &e.h, buf);
    if (len >= sizeof buf || keel_head_parse(buf, len, &again) != NULL || memcmp(&e, &again, sizeof e) != 0)
        abort();
}

static void entry(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    size_t *sum = ctx;
    const char *s;
    size_t n;
    char id[KEEL_SID_TEXT];
    struct keel_sid same;
    *sum += key_len + (key_len > 0 ? (size_t)(unsigned char)key[key_len - 1] : 0);
    if (!keel_sid_parse(id, keel_sid_print(e->id, id), &same) || keel_sid_cmp(same, e->id) != 0)
        abort();
    if (keel_entry_field(e, "reason", &s, &n) && n > 0)
        *sum += (size_t)(unsigned char)s[n - 1];
    head(e->h, e->h_len);
}

static void reply(struct input in)
{
    static struct pool p;
    size_t sum = 0;
    int64_t v;
    struct keel_sid id;
    p.n = p.slots = 0;
    const struct redisReply *r = build(&p, &in, 0);
    keel_stream_parse(r, entry, &sum);
    keel_range_parse(r, entry, &sum);
    keel_reply_int(keel_reply_at(r, 3), &v);
    keel_reply_sid(keel_reply_at(keel_reply_at(r, 0), 0), &id);
    keel_reply_sid(keel_reply_member(keel_reply_at(r, 0), "last-delivered-id"), &id);
    keel_reply_is(r, "OK");
    const char *error = keel_reply_error(r);
    sum += error != NULL ? strlen(error) : 0;
    for (size_t i = 0; i < p.n; i++)
        free(p.node[i].str);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % 2 == 0) {
        reply((struct input){data + 1, data + size});
        return 0;
    }
    char *exact = malloc(size); /* one byte more than the header, and no NUL */
    if (exact == NULL)
        abort();
    memcpy(exact, data + 1, size - 1);
    head(exact, size - 1);
    free(exact);
    return 0;
}

#ifdef KEEL_FUZZ_MAIN
enum { MUTATIONS = 200000, CAP = 4096 };

static size_t seed_entry(uint8_t *to)
{
    static const char h[] = "1 main paper strategy.critical.fill hybrid-strategy-engine k7q2 41 ma%20in 1 2 - 4 00-ab-cd-01";
    size_t n = 0;
    const uint8_t shape[] = {0, 2, 1, 2, 2, 1, 1, 'A', 2, 1, 2, 2, 1, 3, '1', '-', '0', 2, 4, 1, 1, 'h', 1, sizeof h - 1};
    memcpy(to, shape, sizeof shape);
    n += sizeof shape;
    memcpy(to + n, h, sizeof h - 1);
    n += sizeof h - 1;
    memcpy(to + n, "\x01\x01p\x01\x02{}", 7);
    return n + 7;
}

static size_t seed_head(uint8_t *to)
{
    static const char h[] = "\x01" "1 main sim marketdata.quote hybrid-marketdata-engine k7 9 BTCUSDT 1 2 3 4 -";
    memcpy(to, h, sizeof h - 1);
    return sizeof h - 1;
}

static void mutate(uint64_t seed)
{
    static uint8_t buf[CAP];
    struct keel_rng rng;
    keel_rng_seed(&rng, seed);
    size_t n = seed % 2 == 0 ? seed_entry(buf) : seed_head(buf);
    for (uint64_t k = keel_rng_below(&rng, 12); k > 0; k--) {
        size_t at = (size_t)keel_rng_below(&rng, n);
        switch (keel_rng_below(&rng, 4)) {
        case 0: buf[at] = (uint8_t)keel_rng_u64(&rng); break;
        case 1: buf[at] ^= (uint8_t)(1u << keel_rng_below(&rng, 8)); break;
        case 2: n = at + 1; break;
        default:
            if (n + 1 < CAP) {
                memmove(buf + at + 1, buf + at, n - at);
                n++;
            }
            break;
        }
    }
    LLVMFuzzerTestOneInput(buf, n);
}

int main(int argc, char **argv)
{
    static uint8_t buf[1 << 16];
    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");
        if (f == NULL) {
            fprintf(stderr, "cannot read %s\n", argv[i]);
            return 1;
        }
        size_t n = fread(buf, 1, sizeof buf, f);
        fclose(f);
        LLVMFuzzerTestOneInput(buf, n);
    }
    for (uint64_t seed = 0; seed < MUTATIONS; seed++)
        mutate(seed);
    printf("%d files, %d mutations\n", argc - 1, MUTATIONS);
    return 0;
}
#endif
