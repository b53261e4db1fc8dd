/* Where Redis is and how to get in, as one URL says it. docs/containers.md has the forms. */
#ifndef KEEL_REDIS_URL_H
#define KEEL_REDIS_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"

#define KEEL_REDIS_HOSTS 8

struct keel_redis_url {
    char path[256];    /* unix:// */
    struct keel_redis_host { char name[256]; int port; } host[KEEL_REDIS_HOSTS];
    size_t n_hosts;
    char service[64];  /* redis+sentinel://: hosts are sentinels, and this is what they know the master by */
    char sentinel_user[64], sentinel_password[256]; /* of the sentinels themselves */
    char user[64], password[256];
    int64_t db;
    bool is_tls;       /* rediss://; with sentinels theirs and the master's connections */
    char ca[256], cert[256], key[256];
    char why[144];
};

/* NULL, or what is wrong with it; never a secret. */
const char *keel_redis_url_parse(const char *url, struct keel_redis_url *out);
/* The same with that password, where it has none. url must be a good one. */
const char *keel_redis_url_with(struct keel_arena *a, const char *url, const char *password);
/* The same with that password for the sentinels, where it has none; NULL: it is no good one with sentinels. */
const char *keel_redis_url_with_sentinel(struct keel_arena *a, const char *url, const char *password);
/* The same with (set) for users and passwords, whether it is a good one or not. */
const char *keel_redis_url_shown(struct keel_arena *a, const char *url);

#endif
