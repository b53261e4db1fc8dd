/*
 * redis://[user:password@]host[:port][/db], the same as rediss:// with ca, cert and key,
 * unix://[user:password@]/path, redis+sentinel:// or rediss+sentinel://[user:password@]host[:port][,...]/service with
 * sentinel_user and sentinel_password. Parameters follow a question mark. What is left over is an error: a misspelt
 * parameter must not become a default.
 */
#include "keel/redis_url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/num.h"
#include "keel/text.h"

#define REDIS_PORT 6379
#define SENTINEL_PORT 26379
#define PATH_MAX_UNIX 108
#define SENTINEL_PASSWORD "sentinel_password"

struct span { const char *s; size_t n; };

static struct span until(struct span *rest, char c)
{
    const char *at = memchr(rest->s, c, rest->n);
    struct span head = {rest->s, at != NULL ? (size_t)(at - rest->s) : rest->n};
    size_t used = head.n + (at != NULL);
    *rest = (struct span){rest->s + used, rest->n - used};
    return head;
}

static bool is_text(struct span s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.s, text, s.n) == 0;
}

static const char *last_at(struct span s)
{
    while (s.n > 0 && s.s[s.n - 1] != '@')
        s.n--;
    return s.n > 0 ? s.s + s.n - 1 : NULL;
}

static bool copy(struct span from, char *to, size_t cap)
{
    if (from.n >= cap)
        return false;
    memcpy(to, from.s, from.n);
    to[from.n] = '\0';
    return true;
}

static bool unescape(struct span from, char *to, size_t cap)
{
    size_t len = 0;
    for (size_t i = 0; i < from.n; i++) {
        char c = from.s[i];
        if (c == '%') {
            char text[3] = {0}, *end;
            if (i + 2 >= from.n)
                return false;
            memcpy(text, from.s + i + 1, 2);
            c = (char)strtol(text, &end, 16);
            if (end != text + 2 || c == '\0')
                return false;
            i += 2;
        }
        if (len + 1 >= cap)
            return false;
        to[len++] = c;
    }
    to[len] = '\0';
    return true;
}

static const char *user_parse(struct span s, struct keel_redis_url *u)
{
    struct span user = until(&s, ':');
    if (!unescape(user, u->user, sizeof u->user))
        return "the user is longer than 63 bytes or badly escaped";
    if (!unescape(s, u->password, sizeof u->password))
        return "the password is longer than 255 bytes or badly escaped";
    return NULL;
}

/* Takes "user:password@" off the front. */
static const char *credentials(struct span *s, struct keel_redis_url *u)
{
    const char *at = last_at(*s);
    if (at == NULL)
        return NULL;
    struct span user = {s->s, (size_t)(at - s->s)};
    *s = (struct span){at + 1, s->n - user.n - 1};
    return user_parse(user, u);
}

static const char *host_parse(struct span s, int port, struct keel_redis_url *u)
{
    struct keel_redis_host *h = &u->host[u->n_hosts];
    struct span name = s, rest = s;
    int64_t v;
    if (u->n_hosts == KEEL_REDIS_HOSTS)
        return "more than 8 hosts";
    if (s.n > 0 && s.s[0] == '[') {
        rest = (struct span){s.s + 1, s.n - 1};
        if (memchr(rest.s, ']', rest.n) == NULL)
            return "the bracket of the host is not closed";
        name = until(&rest, ']');
        if (rest.n > 0 && rest.s[0] != ':')
            return "after the host comes a colon and the port";
        rest = rest.n > 0 ? (struct span){rest.s + 1, rest.n - 1} : (struct span){NULL, 0};
    } else {
        name = until(&rest, ':');
        if (name.n == s.n)
            rest.s = NULL;
    }
    if (name.n == 0 || !copy(name, h->name, sizeof h->name))
        return "no host, or one longer than 255 bytes";
    h->port = port;
    if (rest.s != NULL && (keel_i64_parse(rest.s, rest.n, &v) != KEEL_OK || v < 1 || v > 65535))
        return "the port is no number from 1 to 65535";
    if (rest.s != NULL)
        h->port = (int)v;
    u->n_hosts++;
    return NULL;
}

static const char *db_parse(struct span s, struct keel_redis_url *u)
{
    if (keel_i64_parse(s.s, s.n, &u->db) != KEEL_OK || u->db < 0 || u->db > 65535)
        return "the database is no number from 0 to 65535";
    return NULL;
}

static const char *parameter(struct span name, struct span value, struct keel_redis_url *u)
{
    const bool tls = u->is_tls, sentinel = u->service[0] != '\0';
    static const char bad_path[] = "the path in ca, cert or key is empty, longer than 255 bytes or badly escaped",
                      bad_user[] = "sentinel_user is empty, longer than 63 bytes or badly escaped",
                      bad_password[] = SENTINEL_PASSWORD " is empty, longer than 255 bytes or badly escaped";
    const struct { const char *name; bool is_there; char *to; size_t cap; const char *why; } texts[] = {
        {"ca", tls, u->ca, sizeof u->ca, bad_path},
        {"cert", tls, u->cert, sizeof u->cert, bad_path},
        {"key", tls, u->key, sizeof u->key, bad_path},
        {"sentinel_user", sentinel, u->sentinel_user, sizeof u->sentinel_user, bad_user},
        {SENTINEL_PASSWORD, sentinel, u->sentinel_password, sizeof u->sentinel_password, bad_password}};
    if (is_text(name, "db"))
        return db_parse(value, u);
    for (size_t i = 0; i < KEEL_COUNT(texts); i++)
        if (texts[i].is_there && is_text(name, texts[i].name))
            return value.n > 0 && unescape(value, texts[i].to, texts[i].cap) ? NULL : texts[i].why;
    /* A question mark in a password that was not escaped must not bring the rest of it to light. */
    size_t shown = 0;
    while (shown < name.n && shown < 32 && ((name.s[shown] >= 'a' && name.s[shown] <= 'z') || name.s[shown] == '_'))
        shown++;
    snprintf(u->why, sizeof u->why, "unknown parameter %.*s; there are db%s%s", shown == name.n ? (int)shown : 0, name.s,
             tls ? ", ca, cert, key" : "", sentinel ? ", sentinel_user, " SENTINEL_PASSWORD : "");
    return u->why;
}

static const char *parameters(struct span s, struct keel_redis_url *u)
{
    const char *why = NULL;
    while (why == NULL && s.n > 0) {
        struct span value = until(&s, '&'), name = until(&value, '=');
        why = parameter(name, value, u);
    }
    if (why == NULL && (u->cert[0] == '\0') != (u->key[0] == '\0'))
        why = "cert and key come together";
    return why;
}

static const char *unix_parse(struct span s, struct keel_redis_url *u)
{
    struct span front = {s.s, 0};
    const char *slash = memchr(s.s, '/', s.n), *why;
    if (slash != NULL)
        front.n = (size_t)(slash - s.s);
    if (front.n > 0 && front.s[front.n - 1] == '@') {
        if ((why = credentials(&front, u)) != NULL)
            return why;
        s = (struct span){slash, s.n - (size_t)(slash - s.s)};
    }
    if (s.n == 0 || s.s[0] != '/' || s.n >= PATH_MAX_UNIX || !copy(s, u->path, sizeof u->path))
        return "the path of the socket must be absolute and shorter than 108 bytes";
    return NULL;
}

static const char *tcp_parse(struct span s, struct keel_redis_url *u)
{
    struct span hosts = until(&s, '/');
    const char *why = credentials(&hosts, u);
    if (why == NULL && memchr(hosts.s, ',', hosts.n) != NULL)
        why = "several hosts are for redis+sentinel:// and rediss+sentinel://";
    if (why == NULL)
        why = host_parse(hosts, REDIS_PORT, u);
    if (why == NULL && s.n > 0)
        why = db_parse(s, u);
    return why;
}

static const char *sentinel_parse(struct span s, struct keel_redis_url *u)
{
    struct span hosts = until(&s, '/');
    const char *why = credentials(&hosts, u);
    if (why != NULL)
        return why;
    do
        why = host_parse(until(&hosts, ','), SENTINEL_PORT, u);
    while (why == NULL && hosts.n > 0);
    if (why == NULL && (s.n == 0 || !unescape(s, u->service, sizeof u->service)))
        why = "the name of the service after the hosts is missing, longer than 63 bytes or badly escaped";
    return why;
}

const char *keel_redis_url_parse(const char *url, struct keel_redis_url *u)
{
    static const struct {
        const char *scheme, *(*parse)(struct span s, struct keel_redis_url *u);
        bool is_tls;
    } forms[] = {{"redis://", tcp_parse, false}, {"rediss://", tcp_parse, true}, {"unix://", unix_parse, false},
                 {"redis+sentinel://", sentinel_parse, false}, {"rediss+sentinel://", sentinel_parse, true}};
    memset(u, 0, sizeof *u);
    for (size_t i = 0; i < KEEL_COUNT(forms); i++) {
        size_t n = strlen(forms[i].scheme);
        if (strncmp(url, forms[i].scheme, n) != 0)
            continue;
        struct span rest = {url + n, strlen(url + n)}, place = until(&rest, '?');
        const char *why = forms[i].parse(place, u);
        u->is_tls = forms[i].is_tls;
        return why != NULL ? why : parameters(rest, u);
    }
    return "it must begin with redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://";
}

static size_t authority(const char *url)
{
    const char *scheme = strstr(url, "://");
    return scheme != NULL ? (size_t)(scheme + 3 - url) : 0;
}

static void add_escaped(struct keel_text *t, const char *secret)
{
    for (const char *p = secret; *p != '\0'; p++)
        keel_text_add(t, "%%%02x", (unsigned)(unsigned char)*p);
}

const char *keel_redis_url_with(struct keel_arena *a, const char *url, const char *password)
{
    struct keel_redis_url u;
    struct keel_text t;
    size_t at = authority(url);
    if (keel_redis_url_parse(url, &u) != NULL || u.password[0] != '\0')
        return url;
    const char *rest = url + at, *end = last_at((struct span){rest, strcspn(rest, "/?")});
    size_t user = end != NULL ? (size_t)(end - rest) : 0, named = user > 0 && rest[user - 1] == ':' ? user - 1 : user;
    keel_text_init(&t, a, strlen(url) + 3 * strlen(password) + 8);
    keel_text_add(&t, "%.*s%.*s:", (int)at, url, (int)named, rest);
    add_escaped(&t, password);
    keel_text_add(&t, "@%s", end != NULL ? end + 1 : rest);
    return t.buf;
}

const char *keel_redis_url_with_sentinel(struct keel_arena *a, const char *url, const char *password)
{
    struct keel_redis_url u;
    struct keel_text t;
    if (keel_redis_url_parse(url, &u) != NULL || u.service[0] == '\0')
        return NULL;
    if (u.sentinel_password[0] != '\0')
        return url;
    keel_text_init(&t, a, strlen(url) + 3 * strlen(password) + 32);
    keel_text_add(&t, "%s%c" SENTINEL_PASSWORD "=", url, strchr(url, '?') != NULL ? '&' : '?');
    add_escaped(&t, password);
    return t.buf;
}

/* What a parameter says, but for the ones that are no secret; a misspelt one may be. */
static void add_parameter(struct keel_text *t, char before, struct span p)
{
    static const char *const open[] = {"db", "ca", "cert", "key", "sentinel_user"};
    struct span value = p, name = until(&value, '=');
    for (size_t i = 0; i < KEEL_COUNT(open); i++)
        if (is_text(name, open[i])) {
            keel_text_add(t, "%c%.*s", before, (int)p.n, p.s);
            return;
        }
    keel_text_add(t, "%c%s(set)", before, is_text(name, SENTINEL_PASSWORD) ? SENTINEL_PASSWORD "=" : "");
}

const char *keel_redis_url_shown(struct keel_arena *a, const char *url)
{
    struct keel_text t;
    size_t at = authority(url);
    const char *rest = url + at, *end = strrchr(rest, '@'), *query = rest + (at > 0 ? strcspn(rest, "?") : strlen(rest));
    if (*query != '\0' && end != NULL && end > query)
        return keel_arena_printf(a, "%.*s(set)", (int)at, url);
    keel_text_init(&t, a, strlen(url) + 32);
    const char *from = end != NULL ? end : rest;
    struct span left = {query, strlen(query)};
    keel_text_add(&t, "%.*s%s%.*s", (int)at, url, end != NULL ? ":(set)" : "", (int)(query - from), from);
    (void)until(&left, '?');
    for (char before = '?'; left.n > 0; before = '&')
        add_parameter(&t, before, until(&left, '&'));
    return t.buf;
}
