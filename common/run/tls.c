/*
 * TLS to Redis. hiredis speaks it but does not compare the name in the certificate with the host, so the session
 * is made here, where OpenSSL is told to. Without hiredis_ssl (hiredis before 1.0) this file only says so, at
 * start.
 */
#include <stdio.h>

#include "bus_priv.h"
#include "keel/redis_url.h"

#ifdef KEEL_REDIS_TLS

#include <arpa/inet.h>

#include <hiredis/hiredis.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

struct keel_tls { SSL_CTX *ctx; };

static const char *fill(SSL_CTX *ctx, const struct keel_redis_url *url)
{
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    int trusted = url->ca[0] != '\0' ? SSL_CTX_load_verify_locations(ctx, url->ca, NULL)
                                     : SSL_CTX_set_default_verify_paths(ctx);
    if (trusted != 1)
        return "the certificates in ca cannot be read";
    if (url->cert[0] == '\0')
        return NULL;
    if (SSL_CTX_use_certificate_chain_file(ctx, url->cert) != 1)
        return "the certificate in cert cannot be read";
    if (SSL_CTX_use_PrivateKey_file(ctx, url->key, SSL_FILETYPE_PEM) != 1)
        return "the key in key cannot be read, or is not that of cert";
    return NULL;
}

const char *keel_tls_check(const struct keel_redis_url *url)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    const char *why = ctx != NULL ? fill(ctx, url) : "OpenSSL cannot be set up";
    SSL_CTX_free(ctx);
    ERR_clear_error();
    return why;
}

struct keel_tls *keel_tls_new(const struct keel_redis_url *url)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (ctx == NULL || fill(ctx, url) != NULL) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    struct keel_tls *tls = keel_alloc(1, sizeof *tls);
    tls->ctx = ctx;
    return tls;
}

void keel_tls_free(struct keel_tls *tls)
{
    if (tls == NULL)
        return;
    SSL_CTX_free(tls->ctx);
    keel_free(tls);
}

static bool expect(SSL *ssl, const char *host)
{
    unsigned char addr[16];
    if (inet_pton(AF_INET, host, addr) == 1 || inet_pton(AF_INET6, host, addr) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
    return SSL_set_tlsext_host_name(ssl, host) == 1 && SSL_set1_host(ssl, host) == 1;
}

bool keel_tls_start(struct keel_tls *tls, struct redisContext *c, const char *host, char *why, size_t cap)
{
    SSL *ssl = SSL_new(tls->ctx);
    if (ssl == NULL || !expect(ssl, host)) {
        SSL_free(ssl);
        snprintf(why, cap, "a TLS session cannot be set up");
        return false;
    }
    /* From here on the session is hiredis', also when this fails. */
    if (redisInitiateSSL(c, ssl) == REDIS_OK)
        return true;
    snprintf(why, cap, "%s", c->errstr[0] != '\0' ? c->errstr : "TLS cannot be started");
    return false;
}

#else

const char *keel_tls_check(const struct keel_redis_url *url)
{
    (void)url;
    return "rediss:// needs TLS in hiredis (hiredis_ssl, Debian 13 has it), which this program was built without";
}

struct keel_tls *keel_tls_new(const struct keel_redis_url *url)
{
    (void)url;
    return NULL;
}

void keel_tls_free(struct keel_tls *tls)
{
    (void)tls;
}

bool keel_tls_start(struct keel_tls *tls, struct redisContext *c, const char *host, char *why, size_t cap)
{
    (void)tls;
    (void)c;
    (void)host;
    snprintf(why, cap, "built without TLS");
    return false;
}

#endif
