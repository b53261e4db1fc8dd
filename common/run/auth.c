/*
 * Who may do what. Tokens are bearer tokens of four scopes; without any, an engine listens on loopback only and
 * whoever reaches it may do everything. Loopback is not safe from web pages: on unsafe methods Host, Origin and
 * Content-Type are what keeps a page in a browser from acting.
 */
#include "rt.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

enum { MAX_TOKEN = 256, MODE_LIVE = 0 /* of the option's names live|paper|sim */ };

/* Scopes as sets of what they open. */
enum { MAY_READ = 1, MAY_TRADE = 2, MAY_ADMIN = 4, MAY_ENGINE = 8 };

static unsigned granted(enum keel_scope token)
{
    switch (token) {
    case KEEL_SCOPE_TRADE:
        return MAY_READ | MAY_TRADE;
    case KEEL_SCOPE_ADMIN:
        return MAY_READ | MAY_TRADE | MAY_ADMIN;
    case KEEL_SCOPE_ENGINE:
        return MAY_READ | MAY_TRADE | MAY_ENGINE;
    default:
        return MAY_READ;
    }
}

/* Any one of the set opens the row. */
static unsigned needed(enum keel_scope row)
{
    switch (row) {
    case KEEL_SCOPE_TRADE:
        return MAY_TRADE;
    case KEEL_SCOPE_ADMIN:
        return MAY_ADMIN;
    case KEEL_SCOPE_ENGINE:
        return MAY_ENGINE;
    case KEEL_SCOPE_ENGINE_OR_ADMIN:
        return MAY_ENGINE | MAY_ADMIN;
    default:
        return MAY_READ;
    }
}

/* The time it takes depends on neither the secret nor where the two differ. */
static bool same_secret(const char *secret, const char *presented, size_t n)
{
    unsigned char x[MAX_TOKEN + 1] = {0}, y[MAX_TOKEN + 1] = {0};
    size_t m = strlen(secret);
    unsigned diff = 0;

    if (n > MAX_TOKEN || m > MAX_TOKEN || m == 0)
        return false;
    memcpy(x, secret, m);
    memcpy(y, presented, n);
    for (size_t i = 0; i < sizeof x; i++)
        diff |= (unsigned)(x[i] ^ y[i]);
    return diff == 0;
}

static bool any_token(const struct keel_core_options *o)
{
    return *o->read_token != '\0' || *o->trade_token != '\0' || *o->admin_token != '\0' || *o->engine_token != '\0';
}

static const char *bearer(const char *authorization, size_t *n)
{
    static const char scheme[] = "Bearer ";
    size_t skip = sizeof scheme - 1;

    if (authorization == NULL || strncasecmp(authorization, scheme, skip) != 0)
        return NULL;
    skip += strspn(authorization + skip, " ");
    *n = strcspn(authorization + skip, " \t");
    return *n == 0 ? NULL : authorization + skip;
}

static enum keel_status check_token(const struct keel_core_options *o, enum keel_scope need, const char *authorization,
                                    enum keel_scope *scope, const char **why)
{
    const struct { const char *secret; enum keel_scope scope; } tokens[] = {
        {o->read_token, KEEL_SCOPE_READ}, {o->trade_token, KEEL_SCOPE_TRADE},
        {o->engine_token, KEEL_SCOPE_ENGINE}, {o->admin_token, KEEL_SCOPE_ADMIN}};
    size_t n = 0;
    const char *presented = bearer(authorization, &n);
    enum keel_scope best = KEEL_SCOPE_READ;
    bool known = false, enough = false;

    *why = "an Authorization header with a bearer token is needed";
    if (presented == NULL)
        return KEEL_UNAUTHORIZED;
    for (size_t i = 0; i < KEEL_COUNT(tokens); i++) { /* all of them, whichever matches */
        bool same = same_secret(tokens[i].secret, presented, n);
        known |= same;
        if (same && (granted(tokens[i].scope) & needed(need))) {
            enough = true;
            best = tokens[i].scope;
        }
    }
    if (!known) {
        *why = "the bearer token is not one of this engine's";
        return KEEL_UNAUTHORIZED;
    }
    if (!enough) {
        *why = "the token's scope does not allow this";
        return KEEL_FORBIDDEN;
    }
    *scope = best;
    return KEEL_OK;
}

/* host[:port] or [v6][:port] -> the name's extent and the port's text ("" when absent). */
static bool split_host(const char *host, const char **name, size_t *n, const char **port)
{
    const char *end;

    *name = host;
    if (*host == '[') {
        *name = host + 1;
        *n = strcspn(host, "]") - 1;
        end = *name + *n;
        if (*end++ != ']')
            return false;
    } else {
        *n = strcspn(host, ":");
        end = host + *n;
    }
    *port = "";
    if (*end == ':') {
        *port = end + 1;
        return strspn(*port, "0123456789") == strlen(*port) && strlen(*port) <= 5;
    }
    return *end == '\0' && *n > 0;
}

static bool is_ip(const char *name, size_t n, bool bracketed)
{
    char text[INET6_ADDRSTRLEN + 1];
    unsigned char address[sizeof(struct in6_addr)];

    if (n >= sizeof text)
        return false;
    memcpy(text, name, n);
    text[n] = '\0';
    return inet_pton(bracketed ? AF_INET6 : AF_INET, text, address) == 1;
}

static bool is_listed(const char *list, const char *name, size_t n)
{
    while (*list != '\0') {
        list += strspn(list, ", \t");
        size_t m = strcspn(list, ", \t");
        if (m == n && m > 0 && strncasecmp(list, name, n) == 0)
            return true;
        list += m;
    }
    return false;
}

static bool is_allowed(const char *host, const char *allowed)
{
    const char *name, *port;
    size_t n;

    if (!split_host(host, &name, &n, &port))
        return false;
    return is_ip(name, n, *host == '[') || is_listed("localhost", name, n) || is_listed(allowed, name, n);
}

/* Nearly every request has the same as the one before. */
static bool host_allowed(struct keel_rt *rt, const char *host)
{
    size_t n = host != NULL ? strlen(host) : 0;

    if (n == 0)
        return false;
    if (strcmp(host, rt->good_host) == 0)
        return true;
    if (!is_allowed(host, rt->core->allowed_hosts))
        return false;
    if (n < sizeof rt->good_host)
        memcpy(rt->good_host, host, n + 1);
    return true;
}

/* A page may act only on the engine that served it: scheme://<the Host header>. */
static bool origin_allowed(const char *origin, const char *host)
{
    const char *default_port = "80", *o_name, *o_port, *h_name, *h_port;
    size_t o_n, h_n;

    if (strncasecmp(origin, "https://", 8) == 0) {
        default_port = "443";
        origin += 8;
    } else if (strncasecmp(origin, "http://", 7) == 0) {
        origin += 7;
    } else {
        return false;
    }
    if (!split_host(origin, &o_name, &o_n, &o_port) || !split_host(host, &h_name, &h_n, &h_port))
        return false;
    return o_n == h_n && strncasecmp(o_name, h_name, o_n) == 0 &&
           strcmp(*o_port == '\0' ? default_port : o_port, *h_port == '\0' ? default_port : h_port) == 0;
}

static bool is_json(const char *content_type)
{
    static const char json[] = "application/json";
    const char *rest;

    if (content_type == NULL || strncasecmp(content_type, json, sizeof json - 1) != 0)
        return false;
    rest = content_type + sizeof json - 1;
    rest += strspn(rest, " \t");
    return *rest == '\0' || *rest == ';';
}

enum keel_status keel_authorize(struct keel_rt *rt, const struct keel_op *op, const char *method,
                                const char *authorization, const char *host, const char *origin,
                                const char *content_type, bool has_body, enum keel_scope *scope, const char **why)
{
    const struct keel_core_options *o = rt->core;
    bool safe = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    enum keel_scope found = op->scope == KEEL_SCOPE_ANY ? KEEL_SCOPE_READ : KEEL_SCOPE_ADMIN;

    if (!safe || op->on.kind == KEEL_ON_WS) {
        if (!host_allowed(rt, host)) {
            *why = "Host is neither an address, localhost nor a name in ALLOWED_HOSTS";
            return KEEL_FORBIDDEN;
        }
        if (origin != NULL && !origin_allowed(origin, host)) {
            *why = "Origin is another site";
            return KEEL_FORBIDDEN;
        }
    }
    if (any_token(o) && op->scope != KEEL_SCOPE_ANY) {
        enum keel_status st = check_token(o, op->scope, authorization, &found, why);
        if (st != KEEL_OK)
            return st;
    }
    if (!safe && !is_json(content_type)) {
        *why = "an unsafe method needs Content-Type: application/json, also without a body";
        return KEEL_MEDIA;
    }
    if (safe && has_body) {
        *why = "GET and HEAD take no body";
        return KEEL_INVALID;
    }
    *scope = found;
    return KEEL_OK;
}

/* By the /64: whoever has one address of IPv6 has as many as they like. */
static uint64_t client_v6(const struct in6_addr *a)
{
    uint64_t network;

    memcpy(&network, a->s6_addr, sizeof network);
    network = ~network * UINT64_C(0x9e3779b97f4a7c15); /* away from the small numbers of the others */
    return network != 0 ? network : 1;
}

uint64_t keel_client_of(const struct keel_rt *rt, const struct keel_op *op, enum keel_scope scope,
                        const struct sockaddr *from)
{
    uint32_t v4;

    if (any_token(rt->core) && op->scope != KEEL_SCOPE_ANY)
        return scope == KEEL_SCOPE_ENGINE ? 0 : 1 + (uint64_t)scope;
    if (from != NULL && from->sa_family == AF_INET) {
        memcpy(&v4, &((const struct sockaddr_in *)(const void *)from)->sin_addr, sizeof v4);
        return UINT64_C(1) << 32 | v4;
    }
    if (from != NULL && from->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr;
        memcpy(&v4, a->s6_addr + 12, sizeof v4);
        return IN6_IS_ADDR_V4MAPPED(a) ? UINT64_C(1) << 32 | v4 : client_v6(a);
    }
    return 1; /* all whose address is not known are one */
}

static bool is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

enum keel_status keel_auth_check(struct keel_rt *rt, const char **why)
{
    if (is_loopback(rt->core->http_host) || any_token(rt->core))
        return KEEL_OK;
    if (!rt->core->allow_unauthenticated) {
        *why = "HTTP_HOST is beyond loopback: set READ_TOKEN, TRADE_TOKEN, ADMIN_TOKEN or ENGINE_TOKEN, or "
               "ALLOW_UNAUTHENTICATED=true";
        return KEEL_INVALID;
    }
    if (rt->core->keel_mode == MODE_LIVE) {
        *why = "ALLOW_UNAUTHENTICATED is for paper and sim only, and KEEL_MODE is live";
        return KEEL_INVALID;
    }
    return KEEL_OK;
}
