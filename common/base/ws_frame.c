/*
 * The WebSocket frame decoder is a small machine: header bytes until the header is whole, then payload, unmasked
 * where it goes. All that a header alone can prove wrong is refused before its payload comes: reserved bits, unknown
 * opcodes, a length in more bytes than it needs, a message beyond the limit.
 */
#include "keel/ws_frame.h"

#include <string.h>
#include <strings.h>

#include "keel/arena.h"
#include "keel/status.h"

enum { FIRST_CAP = 512 };

/* ---- UTF-8 ---- */

/* What may follow the first byte of a character (Unicode 15, table 3-7). */
static bool utf8_begin(struct keel_utf8 *u, unsigned char c)
{
    u->low = 0x80;
    u->high = 0xBF;
    if (c < 0x80)
        return true;
    if (c < 0xC2 || c > 0xF4)
        return false;
    u->left = c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    if (c == 0xE0)
        u->low = 0xA0;
    else if (c == 0xED)
        u->high = 0x9F;
    else if (c == 0xF0)
        u->low = 0x90;
    else if (c == 0xF4)
        u->high = 0x8F;
    return true;
}

bool keel_utf8_feed(struct keel_utf8 *u, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (u->left == 0) {
            if (!utf8_begin(u, c))
                return false;
            continue;
        }
        if (c < u->low || c > u->high)
            return false;
        u->left--;
        u->low = 0x80;
        u->high = 0xBF;
    }
    return true;
}

bool keel_utf8_whole(const struct keel_utf8 *u)
{
    return u->left == 0;
}

/* ---- decoding ---- */

void keel_ws_decoder_init(struct keel_ws_decoder *d, size_t max_message)
{
    memset(d, 0, sizeof *d);
    d->max_message = max_message;
}

void keel_ws_decoder_fini(struct keel_ws_decoder *d)
{
    keel_free(d->message);
    d->message = NULL;
}

static void fail(struct keel_ws_decoder *d, struct keel_ws_event *ev, uint16_t code, const char *why)
{
    d->has_failed = true;
    *ev = (struct keel_ws_event){.what = KEEL_WS_FAILED, .code = code, .data = why, .len = strlen(why)};
}

static bool is_control(unsigned opcode)
{
    return opcode >= KEEL_WS_CLOSE;
}

/* What the first two bytes prove wrong, or NULL. */
static const char *first_bytes_wrong(const struct keel_ws_decoder *d)
{
    unsigned opcode = d->header[0] & 0x0F, len = d->header[1] & 0x7F;
    bool final = (d->header[0] & 0x80) != 0;

    if (d->header[0] & 0x70)
        return "a reserved bit is set";
    if (opcode > KEEL_WS_PONG || (opcode > KEEL_WS_BINARY && opcode < KEEL_WS_CLOSE))
        return "the opcode is reserved";
    if (!(d->header[1] & 0x80))
        return "a client's frames are masked";
    if (is_control(opcode) && !final)
        return "a control frame is not fragmented";
    if (is_control(opcode) && len > KEEL_WS_MAX_CONTROL)
        return "a control frame has at most 125 bytes";
    if (opcode == KEEL_WS_CONTINUATION && !d->in_message)
        return "there is no message to continue";
    if ((opcode == KEEL_WS_TEXT || opcode == KEEL_WS_BINARY) && d->in_message)
        return "the message before is not finished";
    return NULL;
}

static size_t header_size(unsigned char second)
{
    unsigned len = second & 0x7F;

    return 2u + (len == 126 ? 2u : len == 127 ? 8u : 0u) + (second & 0x80 ? 4u : 0u);
}

static uint64_t big_endian(const unsigned char *p, size_t n)
{
    uint64_t v = 0;

    for (size_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

/* The declared length; false: in more bytes than it needs, or with the highest bit. */
static bool payload_length(const unsigned char *header, uint64_t *out)
{
    unsigned len = header[1] & 0x7F;

    *out = len == 126 ? big_endian(header + 2, 2) : len == 127 ? big_endian(header + 2, 8) : len;
    return !(len == 126 && *out < 126) && !(len == 127 && (*out <= 0xFFFF || *out >> 63 != 0));
}

static void begin_payload(struct keel_ws_decoder *d, struct keel_ws_event *ev)
{
    if (!payload_length(d->header, &d->left)) {
        fail(d, ev, 1002, "the length is not in its shortest form");
        return;
    }
    memcpy(d->mask, d->header + d->n_header - 4, 4);
    d->opcode = d->header[0] & 0x0F;
    d->at = 0;
    d->in_payload = true;
    d->n_header = 0;
    if (is_control(d->opcode)) {
        d->n_control = 0;
        return;
    }
    d->is_final = (d->header[0] & 0x80) != 0;
    if (d->opcode != KEEL_WS_CONTINUATION) {
        d->in_message = true;
        d->is_text = d->opcode == KEEL_WS_TEXT;
        d->len = 0;
        d->utf8 = (struct keel_utf8){0};
    }
    if (d->left > d->max_message - d->len)
        fail(d, ev, 1009, "the message is too big");
}

/* The first two bytes say how long the header is; they are judged before more is waited for. */
static size_t take_header(struct keel_ws_decoder *d, const char *data, size_t n, struct keel_ws_event *ev)
{
    size_t used = 0;

    while (used < n) {
        d->header[d->n_header++] = (unsigned char)data[used++];
        if (d->n_header == 2) {
            const char *why = first_bytes_wrong(d);
            if (why != NULL) {
                fail(d, ev, 1002, why);
                return used;
            }
        }
        if (d->n_header >= 2 && d->n_header == header_size(d->header[1])) {
            begin_payload(d, ev);
            return used;
        }
    }
    return used;
}

static void unmask(struct keel_ws_decoder *d, char *out, const char *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (char)((unsigned char)data[i] ^ d->mask[(d->at + i) & 3]);
    d->at += n;
    d->left -= n;
}

static void reserve(struct keel_ws_decoder *d, size_t need)
{
    size_t cap = d->cap == 0 ? FIRST_CAP : d->cap;

    if (need <= d->cap)
        return;
    while (cap < need)
        cap *= 2;
    d->message = keel_realloc(d->message, cap, 1);
    d->cap = cap;
}

static bool may_be_sent(uint16_t code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

static void end_close(struct keel_ws_decoder *d, struct keel_ws_event *ev)
{
    struct keel_utf8 u = {0};
    uint16_t code = KEEL_WS_NO_CODE;

    if (d->n_control == 1) {
        fail(d, ev, 1002, "a close code has two bytes");
        return;
    }
    if (d->n_control >= 2) {
        code = (uint16_t)((unsigned char)d->control[0] << 8 | (unsigned char)d->control[1]);
        if (!may_be_sent(code)) {
            fail(d, ev, 1002, "the close code may not be sent");
            return;
        }
        if (!keel_utf8_feed(&u, d->control + 2, d->n_control - 2) || !keel_utf8_whole(&u)) {
            fail(d, ev, 1007, "the reason is not UTF-8");
            return;
        }
    }
    *ev = (struct keel_ws_event){.what = KEEL_WS_GOT_CLOSE, .code = code};
    if (d->n_control > 2) {
        ev->data = d->control + 2;
        ev->len = d->n_control - 2;
    }
    d->has_failed = true; /* nothing may follow */
}

static void end_message(struct keel_ws_decoder *d, struct keel_ws_event *ev)
{
    if (d->is_text && !keel_utf8_whole(&d->utf8)) {
        fail(d, ev, 1007, "the text ends inside a character");
        return;
    }
    d->in_message = false;
    *ev = (struct keel_ws_event){.what = KEEL_WS_MESSAGE, .is_text = d->is_text,
                                 .data = d->len > 0 ? d->message : "", .len = d->len};
}

static void end_frame(struct keel_ws_decoder *d, struct keel_ws_event *ev)
{
    d->in_payload = false;
    if (d->opcode == KEEL_WS_CLOSE)
        end_close(d, ev);
    else if (is_control(d->opcode))
        *ev = (struct keel_ws_event){.what = d->opcode == KEEL_WS_PING ? KEEL_WS_GOT_PING : KEEL_WS_GOT_PONG,
                                     .data = d->control, .len = d->n_control};
    else if (d->is_final)
        end_message(d, ev);
}

static size_t take_payload(struct keel_ws_decoder *d, const char *data, size_t n, struct keel_ws_event *ev)
{
    size_t take = d->left < n ? (size_t)d->left : n;

    if (is_control(d->opcode)) {
        unmask(d, d->control + d->n_control, data, take);
        d->n_control += take;
    } else if (take > 0) {
        reserve(d, d->len + take);
        unmask(d, d->message + d->len, data, take);
        if (d->is_text && !keel_utf8_feed(&d->utf8, d->message + d->len, take)) {
            fail(d, ev, 1007, "the text is not UTF-8");
            return take;
        }
        d->len += take;
    }
    if (d->left == 0)
        end_frame(d, ev);
    return take;
}

size_t keel_ws_decode(struct keel_ws_decoder *d, const char *data, size_t n, struct keel_ws_event *ev)
{
    size_t used = 0;

    *ev = (struct keel_ws_event){.what = KEEL_WS_NOTHING};
    while (!d->has_failed && ev->what == KEEL_WS_NOTHING) {
        if (d->in_payload)
            used += take_payload(d, data + used, n - used, ev);
        else if (used < n)
            used += take_header(d, data + used, n - used, ev);
        else
            return used;
        /* A frame without payload ends with its header, also where the input does. */
        if (used == n && !(d->in_payload && d->left == 0))
            return used;
    }
    return d->has_failed && ev->what == KEEL_WS_NOTHING ? n : used;
}

/* ---- encoding ---- */

size_t keel_ws_header(unsigned char *out, enum keel_ws_opcode opcode, size_t len)
{
    size_t n = len < 126 ? 0 : len <= 0xFFFF ? 2 : 8;

    out[0] = (unsigned char)(0x80u | (unsigned)opcode);
    out[1] = (unsigned char)(n == 0 ? len : n == 2 ? 126 : 127);
    for (size_t i = 0; i < n; i++)
        out[2 + i] = (unsigned char)((uint64_t)len >> (8 * (n - 1 - i)));
    return 2 + n;
}

size_t keel_ws_close_payload(char *out, uint16_t code, const char *reason)
{
    size_t n = strlen(reason);

    if (code == KEEL_WS_NO_CODE)
        return 0;
    if (n > KEEL_WS_MAX_CONTROL - 2) {
        n = KEEL_WS_MAX_CONTROL - 2;
        while (n > 0 && ((unsigned char)reason[n] & 0xC0) == 0x80)
            n--;
    }
    out[0] = (char)(unsigned char)(code >> 8);
    out[1] = (char)(unsigned char)(code & 0xFF);
    memcpy(out + 2, reason, n);
    return 2 + n;
}

/* ---- the handshake: SHA-1 (FIPS 180-4), where it protects nothing, and base64 (RFC 4648) ---- */

static uint32_t rotate(uint32_t x, unsigned n)
{
    return x << n | x >> (32 - n);
}

static void sha1_block(uint32_t h[5], const unsigned char *p)
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];

    for (size_t i = 0; i < 16; i++)
        w[i] = (uint32_t)big_endian(p + 4 * i, 4);
    for (size_t i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (size_t i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? ((b & c) | (~b & d)) + 0x5A827999u
                     : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1u
                     : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDCu
                              : (b ^ c ^ d) + 0xCA62C1D6u;
        uint32_t t = rotate(a, 5) + f + e + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = t;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

/* n at most 119: two blocks. */
static void sha1(const char *s, size_t n, unsigned char out[20])
{
    uint32_t h[5] = {0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
    unsigned char text[128] = {0};
    size_t blocks = n + 9 <= 64 ? 1 : 2;

    keel_assert(n + 9 <= sizeof text);
    memcpy(text, s, n);
    text[n] = 0x80;
    for (size_t i = 0; i < 4; i++)
        text[64 * blocks - 1 - i] = (unsigned char)((8 * n) >> (8 * i));
    for (size_t i = 0; i < blocks; i++)
        sha1_block(h, text + 64 * i);
    for (size_t i = 0; i < 20; i++)
        out[i] = (unsigned char)(h[i / 4] >> (8 * (3 - i % 4)));
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool keel_ws_key_valid(const char *key)
{
    const char *last;

    if (key == NULL || strspn(key, alphabet) != 22 || strcmp(key + 22, "==") != 0)
        return false;
    last = strchr(alphabet, key[21]);
    return (last - alphabet) % 16 == 0; /* the bits beyond 16 bytes are 0 */
}

void keel_ws_accept(const char *key, char *out)
{
    static const char magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[24 + sizeof magic];
    unsigned char digest[21] = {0};

    keel_assert(strlen(key) == 24);
    memcpy(text, key, 24);
    memcpy(text + 24, magic, sizeof magic);
    sha1(text, 24 + sizeof magic - 1, digest);
    for (size_t i = 0; i < 7; i++) {
        uint32_t v = (uint32_t)big_endian(digest + 3 * i, 3);
        for (size_t k = 0; k < 4; k++)
            out[4 * i + k] = alphabet[v >> (6 * (3 - k)) & 63];
    }
    out[KEEL_WS_ACCEPT - 1] = '=';
    out[KEEL_WS_ACCEPT] = '\0';
}

bool keel_ws_has_token(const char *list, const char *token)
{
    size_t want = strlen(token);

    while (list != NULL && *list != '\0') {
        list += strspn(list, ", \t");
        size_t n = strcspn(list, ","), end = n;
        while (end > 0 && (list[end - 1] == ' ' || list[end - 1] == '\t'))
            end--;
        if (end == want && strncasecmp(list, token, want) == 0)
            return true;
        list += n;
    }
    return false;
}
