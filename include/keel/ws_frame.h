/*
 * WebSocket framing (RFC 6455), the server's side: a strict decoder that takes bytes as they come, and what is needed
 * to answer. Pure: no sockets. No extension is ever agreed, so every reserved bit is an error.
 */
#ifndef KEEL_WS_FRAME_H
#define KEEL_WS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum keel_ws_opcode { KEEL_WS_CONTINUATION = 0, KEEL_WS_TEXT = 1, KEEL_WS_BINARY = 2, KEEL_WS_CLOSE = 8,
                      KEEL_WS_PING = 9, KEEL_WS_PONG = 10 };

enum { KEEL_WS_MAX_CONTROL = 125, KEEL_WS_MAX_HEADER = 14, KEEL_WS_ACCEPT = 28, KEEL_WS_NO_CODE = 1005 };

/* What a piece of input has completed. data lives until the next decode; it is not NUL ended. */
enum keel_ws_what { KEEL_WS_NOTHING, KEEL_WS_MESSAGE, KEEL_WS_GOT_PING, KEEL_WS_GOT_PONG, KEEL_WS_GOT_CLOSE,
                   KEEL_WS_FAILED };
struct keel_ws_event {
    enum keel_ws_what what;
    bool is_text;       /* of a message */
    const char *data;   /* message, payload of a ping or pong, reason of a close, or why it failed */
    size_t len;
    uint16_t code;      /* of a close (1005: none was given), or the one to fail the connection with */
};

/* UTF-8 (RFC 3629) a byte at a time, so that a wrong byte is found when it arrives. Zeros: the beginning. */
struct keel_utf8 { uint8_t left, low, high; };
bool keel_utf8_feed(struct keel_utf8 *u, const char *s, size_t n); /* false: these bytes can begin no valid text */
bool keel_utf8_whole(const struct keel_utf8 *u);                   /* it does not end inside a character */

struct keel_ws_decoder {
    size_t max_message;
    unsigned char header[KEEL_WS_MAX_HEADER];
    uint8_t n_header;
    bool in_payload, in_message, is_text, is_final, has_failed;
    uint8_t opcode;
    unsigned char mask[4];
    uint64_t left, at;  /* of the frame's payload: still to come; its place, for the mask */
    char *message;
    size_t len, cap;
    struct keel_utf8 utf8;
    char control[KEEL_WS_MAX_CONTROL];
    size_t n_control;
};

/* max_message: bytes of a whole message; what is longer fails with 1009 as soon as a header says so. */
void keel_ws_decoder_init(struct keel_ws_decoder *d, size_t max_message);
void keel_ws_decoder_fini(struct keel_ws_decoder *d);
/*
 * Takes bytes up to the first thing that is complete; returns how many. Call again with the rest until ev->what is
 * KEEL_WS_NOTHING. After KEEL_WS_FAILED and KEEL_WS_GOT_CLOSE everything that follows is taken and ignored.
 */
size_t keel_ws_decode(struct keel_ws_decoder *d, const char *data, size_t n, struct keel_ws_event *ev);

/* Header of an unmasked, final frame; returns its length, at most 10. */
size_t keel_ws_header(unsigned char *out, enum keel_ws_opcode opcode, size_t len);
/* Payload of a close frame into out[125]; 1005 gives an empty one; a long reason is cut at a character. */
size_t keel_ws_close_payload(char *out, uint16_t code, const char *reason);

/* Sec-WebSocket-Key: base64 of 16 bytes. */
bool keel_ws_key_valid(const char *key);
/* Sec-WebSocket-Accept of that key; out holds KEEL_WS_ACCEPT characters and a NUL. */
void keel_ws_accept(const char *key, char *out);
/* Whether a header's comma-separated list names token, in any case. */
bool keel_ws_has_token(const char *list, const char *token);

#endif
