/* One blocking HTTP request with a time limit, over connections that libcurl keeps alive. */
#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

#define REPLY_MAX (64u << 20)

struct sink {
    char *buf;
    size_t len, cap;
};

static CURL *easy;
static char auth[300];

void cli_http_token(const char *token)
{
    snprintf(auth, sizeof auth, "Authorization: Bearer %s", token);
}

const char *cli_http_auth(void)
{
    return auth;
}

static size_t take(char *p, size_t size, size_t n, void *ctx)
{
    struct sink *s = ctx;
    size_t add = size * n;

    if (s->len + add > REPLY_MAX)
        return 0;
    if (s->len + add + 1 > s->cap) {
        s->cap = (s->len + add + 1) * 2;
        s->buf = keel_realloc(s->buf, s->cap, 1);
    }
    memcpy(s->buf + s->len, p, add);
    s->len += add;
    return add;
}

struct cli_reply cli_http(struct keel_arena *a, const char *method, const char *url, const char *body,
                          long timeout_ms)
{
    struct cli_reply r = {0};
    struct sink sink = {0};
    struct curl_slist *headers = NULL;
    char error[CURL_ERROR_SIZE] = "";
    const char *why;
    CURLcode rc;
    long code = 0;

    if (!easy)
        easy = curl_easy_init();
    keel_assert(easy);
    curl_easy_reset(easy);
    headers = curl_slist_append(headers, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Accept: application/json");
    headers = curl_slist_append(headers, "Expect:");
    if (auth[0])
        headers = curl_slist_append(headers, auth);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &sink);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error);
    if (body) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
    }
    rc = curl_easy_perform(easy);
    if (rc == CURLE_OK) {
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &code);
        r.http = (int)code;
        r.body = keel_arena_strndup(a, sink.buf ? sink.buf : "", sink.len);
        r.len = sink.len;
        if (r.len == 0 || keel_json_parse(a, r.body, r.len, &r.json, &why) != KEEL_OK)
            r.json = NULL;
    } else {
        r.why = keel_arena_strdup(a, error[0] ? error : curl_easy_strerror(rc));
    }
    keel_free(sink.buf);
    curl_slist_free_all(headers);
    return r;
}
