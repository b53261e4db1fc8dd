/* SHA-256 (FIPS 180-4) of a stream of bytes: the identity of data and of trained weights. */
#ifndef KEEL_SHA256_H
#define KEEL_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define KEEL_SHA256_TEXT 65 /* 64 hex digits and NUL */

struct keel_sha256 { uint32_t h[8]; uint64_t len; uint8_t block[64]; };

void keel_sha256_init(struct keel_sha256 *s);
void keel_sha256_add(struct keel_sha256 *s, const void *data, size_t n);
/* Ends the stream; s must be initialised again before further use. */
void keel_sha256_text(struct keel_sha256 *s, char out[KEEL_SHA256_TEXT]);

#endif
