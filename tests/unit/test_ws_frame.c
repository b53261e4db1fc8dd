/*
 * The WebSocket codec. Frames are those of RFC 6455 section 5.7 and cases after the Autobahn list's headings; the
 * accept key is the RFC's own example (1.3). Every input is decoded in one piece and again a byte at a time, with the
 * same outcome.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/status.h"
#include "keel/ws_frame.h"

#define BYTES(s) s, sizeof s - 1
#define MASK "\x37\xfa\x21\x3d"

struct outcome { char text[512]; };

static void note(struct outcome *o, const struct keel_ws_event *ev)
{
    static const char *const names[] = {"", "message", "ping", "pong", "close", "failed"};
    size_t at = strlen(o->text);

    if (ev->what == KEEL_WS_GOT_CLOSE)
        snprintf(o->text + at, sizeof o->text - at, "close %u %.*s;", ev->code, (int)ev->len,
                 ev->len > 0 ? ev->data : "");
    else if (ev->what == KEEL_WS_FAILED)
        snprintf(o->text + at, sizeof o->text - at, "failed %u;", ev->code);
    else
        snprintf(o->text + at, sizeof o->text - at, "%s %.*s;",
                 ev->what == KEEL_WS_MESSAGE && !ev->is_text ? "binary" : names[ev->what], (int)ev->len, ev->data);
}

static void feed(struct keel_ws_decoder *d, const char *data, size_t n, struct outcome *o)
{
    struct keel_ws_event ev;

    do {
        /* a heap copy of exactly this size: the sanitizer sees a byte read too many */
        char *exact = keel_alloc(n > 0 ? n : 1, 1);
        memcpy(exact, data, n);
        size_t used = keel_ws_decode(d, exact, n, &ev);
        keel_free(exact);
        ck_assert_uint_le(used, n);
        data += used;
        n -= used;
        if (ev.what != KEEL_WS_NOTHING)
            note(o, &ev);
    } while (ev.what != KEEL_WS_NOTHING);
    ck_assert_uint_eq(n, 0);
}

static void decode(const char *data, size_t n, size_t piece, struct outcome *o)
{
    struct keel_ws_decoder d;

    o->text[0] = '\0';
    keel_ws_decoder_init(&d, 65536);
    for (size_t i = 0; i < n; i += piece)
        feed(&d, data + i, n - i < piece ? n - i : piece, o);
    keel_ws_decoder_fini(&d);
}

/* Where frames stand unmasked in a case, `masked` puts the mask of zeros there: what is masked looks as it is. */
#define Z "\0\0\0\0"

static const struct { const char *why, *in; size_t n; const char *out; } cases[] = {
    {"RFC 5.7: masked Hello", BYTES("\x81\x85" MASK "\x7f\x9f\x4d\x51\x58"), "message Hello;"},
    {"empty text", BYTES("\x81\x80" Z), "message ;"},
    {"binary", BYTES("\x82\x82" Z "ab"), "binary ab;"},
    {"two frames at once", BYTES("\x81\x81" Z "a\x81\x81" Z "b"), "message a;message b;"},
    {"three fragments", BYTES("\x01\x82" Z "He\x00\x81" Z "l\x80\x82" Z "lo"), "message Hello;"},
    {"empty fragments", BYTES("\x01\x80" Z "\x00\x80" Z "\x80\x80" Z), "message ;"},
    {"a ping between fragments", BYTES("\x01\x83" Z "Hel\x89\x81" Z "p\x80\x82" Z "lo"), "ping p;message Hello;"},
    {"ping without payload", BYTES("\x89\x80" Z), "ping ;"},
    {"pong nobody asked for", BYTES("\x8a\x82" Z "hi"), "pong hi;"},
    {"unmasked", BYTES("\x81\x05Hello"), "failed 1002;"},
    {"RSV1", BYTES("\xc1\x80" Z), "failed 1002;"},
    {"RSV2", BYTES("\xa1\x80" Z), "failed 1002;"},
    {"RSV3 of a ping", BYTES("\x99\x80" Z), "failed 1002;"},
    {"opcode 3", BYTES("\x83\x80" Z), "failed 1002;"},
    {"opcode 7", BYTES("\x87\x80" Z), "failed 1002;"},
    {"opcode 11", BYTES("\x8b\x80" Z), "failed 1002;"},
    {"opcode 15", BYTES("\x8f\x80" Z), "failed 1002;"},
    {"a ping in pieces", BYTES("\x09\x80" Z), "failed 1002;"},
    {"a ping of 126: refused by its second byte", BYTES("\x89\xfe"), "failed 1002;"},
    {"nothing to continue", BYTES("\x80\x80" Z), "failed 1002;"},
    {"continued after its end", BYTES("\x81\x81" Z "a\x80\x80" Z), "message a;failed 1002;"},
    {"text inside a message", BYTES("\x01\x81" Z "a\x81\x81" Z "b"), "failed 1002;"},
    {"length 5 in two bytes", BYTES("\x81\xfe\x00\x05" Z), "failed 1002;"},
    {"length 125 in two bytes", BYTES("\x81\xfe\x00\x7d" Z), "failed 1002;"},
    {"length 65535 in eight bytes", BYTES("\x81\xff\0\0\0\0\0\0\xff\xff" Z), "failed 1002;"},
    {"length with the highest bit", BYTES("\x81\xff\x80\0\0\0\0\x01\0\0" Z), "failed 1002;"},
    {"2^62 bytes: refused by the header", BYTES("\x81\xff\x40\0\0\0\0\0\0\0" Z), "failed 1009;"},
    {"65537 bytes: refused by the header", BYTES("\x81\xff\0\0\0\0\0\x01\0\x01" Z), "failed 1009;"},
    {"two bytes of UTF-8 over an edge", BYTES("\x01\x81" Z "\xc3\x80\x81" Z "\xa9"), "message \xc3\xa9;"},
    {"text that is not UTF-8", BYTES("\x81\x82" Z "\xc3("), "failed 1007;"},
    {"fail fast: the second byte, before the rest", BYTES("\x01\xfe\x03\xe8" Z "a\xff"), "failed 1007;"},
    {"text that ends inside a character", BYTES("\x81\x81" Z "\xc3"), "failed 1007;"},
    {"a surrogate", BYTES("\x81\x83" Z "\xed\xa0\x80"), "failed 1007;"},
    {"overlong", BYTES("\x81\x82" Z "\xc0\xaf"), "failed 1007;"},
    {"beyond U+10FFFF", BYTES("\x81\x84" Z "\xf4\x90\x80\x80"), "failed 1007;"},
    {"binary may hold anything", BYTES("\x82\x82" Z "\xc3("), "binary \xc3(;"},
    {"close without code", BYTES("\x88\x80" Z), "close 1005 ;"},
    {"close with a reason", BYTES("\x88\x85" Z "\x03\xe8" "bye"), "close 1000 bye;"},
    {"close of one byte", BYTES("\x88\x81" Z "\x03"), "failed 1002;"},
    {"close, reason not UTF-8", BYTES("\x88\x83" Z "\x03\xe8\xff"), "failed 1007;"},
    {"nothing counts after a close", BYTES("\x88\x82" Z "\x03\xe8\x81\x81" Z "a"), "close 1000 ;"},
    {"nothing counts after a failure", BYTES("\xc1\x80" Z "\x81\x81" Z "a"), "failed 1002;"},
};

START_TEST(frames)
{
    struct outcome whole, bytes;

    decode(cases[_i].in, cases[_i].n, cases[_i].n, &whole);
    ck_assert_msg(strcmp(whole.text, cases[_i].out) == 0, "%s: %s", cases[_i].why, whole.text);
    decode(cases[_i].in, cases[_i].n, 1, &bytes);
    ck_assert_msg(strcmp(bytes.text, cases[_i].out) == 0, "%s, by bytes: %s", cases[_i].why, bytes.text);
}
END_TEST

/* RFC 6455, 7.4.1 and 7.4.2. */
START_TEST(close_codes)
{
    char in[] = "\x88\x82" Z "??", want[32];
    struct outcome got;

    for (unsigned code = 0; code <= 5100; code++) {
        bool good = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
        in[6] = (char)(unsigned char)(code >> 8);
        in[7] = (char)(unsigned char)(code & 0xFF);
        decode(in, sizeof in - 1, sizeof in - 1, &got);
        snprintf(want, sizeof want, good ? "close %u ;" : "failed 1002;", code);
        ck_assert_msg(strcmp(got.text, want) == 0, "%u: %s", code, got.text);
    }
}
END_TEST

/* The edges of the three forms of a length, there and back. */
START_TEST(lengths)
{
    static const size_t edge[] = {0, 1, 125, 126, 127, 65535, 65536};
    static const size_t header[] = {2, 2, 2, 4, 4, 4, 10};
    size_t n = edge[_i];
    unsigned char *frame = keel_alloc(n + KEEL_WS_MAX_HEADER, 1);
    struct keel_ws_decoder d;
    struct keel_ws_event ev;

    size_t at = keel_ws_header(frame, KEEL_WS_BINARY, n);
    ck_assert_uint_eq(at, header[_i]);
    ck_assert_uint_eq(frame[0], 0x82);
    frame[1] |= 0x80;
    memcpy(frame + at, "\x01\x02\x03\x04", 4);
    for (size_t i = 0; i < n; i++)
        frame[at + 4 + i] = (unsigned char)((i * 7) ^ (1 + i % 4));
    keel_ws_decoder_init(&d, 65536);
    ck_assert_uint_eq(keel_ws_decode(&d, (char *)frame, at + 4 + n, &ev), at + 4 + n);
    ck_assert_int_eq(ev.what, KEEL_WS_MESSAGE);
    ck_assert_uint_eq(ev.len, n);
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(ev.data[i], (char)(unsigned char)(i * 7));
    keel_ws_decoder_fini(&d);
    keel_free(frame);
}
END_TEST

/* The limit holds for the sum of the fragments, from the header that would pass it. */
START_TEST(fragments_beyond_the_limit)
{
    struct keel_ws_decoder d;
    struct outcome o = {""};

    keel_ws_decoder_init(&d, 8);
    feed(&d, BYTES("\x01\x85" Z "aaaaa"), &o);
    feed(&d, BYTES("\x00\x83" Z "bbb"), &o);
    ck_assert_str_eq(o.text, "");
    feed(&d, BYTES("\x80\x81" Z), &o);
    ck_assert_str_eq(o.text, "failed 1009;");
    keel_ws_decoder_fini(&d);
}
END_TEST

START_TEST(handshake)
{
    char accept[KEEL_WS_ACCEPT + 1];

    keel_ws_accept("dGhlIHNhbXBsZSBub25jZQ==", accept);
    ck_assert_str_eq(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    ck_assert(keel_ws_key_valid("dGhlIHNhbXBsZSBub25jZQ=="));
    ck_assert(!keel_ws_key_valid(NULL));
    ck_assert(!keel_ws_key_valid(""));
    ck_assert(!keel_ws_key_valid("dGhlIHNhbXBsZSBub25jZQ"));
    ck_assert(!keel_ws_key_valid("dGhlIHNhbXBsZSBub25jZQ==="));
    ck_assert(!keel_ws_key_valid("dGhlIHNhbXBsZSBub25jZR==")); /* a bit beyond the sixteenth byte */
    ck_assert(!keel_ws_key_valid("dGhlIHNhbXBsZSBub25j!Q=="));
    ck_assert(keel_ws_has_token("keep-alive, Upgrade", "upgrade"));
    ck_assert(keel_ws_has_token("websocket", "websocket"));
    ck_assert(!keel_ws_has_token("websocket2, h2c", "websocket"));
    ck_assert(!keel_ws_has_token("", "websocket"));
    ck_assert(!keel_ws_has_token(NULL, "websocket"));
}
END_TEST

START_TEST(close_payload)
{
    char out[KEEL_WS_MAX_CONTROL], reason[200];

    ck_assert_uint_eq(keel_ws_close_payload(out, 1005, "unsaid"), 0);
    ck_assert_uint_eq(keel_ws_close_payload(out, 1013, "slow_client"), 13);
    ck_assert_mem_eq(out, "\x03\xf5slow_client", 13);
    /* 122 bytes, then characters of two: the one that would pass 123 is left out whole */
    memset(reason, 'a', 122);
    memcpy(reason + 122, "\xc3\xa9\xc3\xa9", 5);
    ck_assert_uint_eq(keel_ws_close_payload(out, 1000, reason), 124);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ws_frame");
    TCase *tc = tcase_create("codec");

    tcase_add_loop_test(tc, frames, 0, (int)KEEL_COUNT(cases));
    tcase_add_test(tc, close_codes);
    tcase_add_loop_test(tc, lengths, 0, 7);
    tcase_add_test(tc, fragments_beyond_the_limit);
    tcase_add_test(tc, handshake);
    tcase_add_test(tc, close_payload);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
