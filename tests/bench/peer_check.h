/*
 * What the peers of bench_http do with risk's critical check when they do more than answer a fixed body: parse it with
 * cJSON, add up, print the same members with cJSON. The way such a handler is usually written.
 */
#ifndef KEEL_PEER_CHECK_H
#define KEEL_PEER_CHECK_H

#include <stddef.h>

/* The answer, to be freed with free(); NULL: not such a body. */
char *peer_check(const char *body, size_t len);

/* The whole file with a NUL after it; ends the program when it cannot be read. */
char *peer_file(const char *path, size_t *len);

/* A listening socket on 127.0.0.1; ends the program when there is none. */
int peer_listen(int port);

#endif
