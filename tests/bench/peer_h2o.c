/*
 * A peer of bench_http: libh2o on its own event loop, one thread. GET answers the file, POST parses risk's critical
 * check and prints its answer with cJSON.
 *
 *     peer_h2o PORT GET_FILE
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <h2o.h>
#include <h2o/http1.h>

#include "peer_check.h"

static h2o_globalconf_t config;
static h2o_context_t context;
static h2o_accept_ctx_t accepting;
static char *fixed;
static size_t fixed_len;

static void send_json(h2o_req_t *req, int status, const char *text, size_t len)
{
    req->res.status = status;
    req->res.reason = status == 200 ? "OK" : "Bad Request";
    req->res.content_length = len;
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL, H2O_STRLIT("application/json"));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL, H2O_STRLIT("no-store"));
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("x-content-type-options"), 0, NULL,
                          H2O_STRLIT("nosniff"));
    h2o_send_inline(req, text, len);
}

static int on_get(h2o_handler_t *self, h2o_req_t *req)
{
    (void)self;
    send_json(req, 200, fixed, fixed_len);
    return 0;
}

static int on_check(h2o_handler_t *self, h2o_req_t *req)
{
    char *text = peer_check(req->entity.base, req->entity.len);

    (void)self;
    if (text == NULL)
        send_json(req, 400, "{}", 2);
    else
        send_json(req, 200, text, strlen(text));
    free(text);
    return 0;
}

static void on_accept(h2o_socket_t *listener, const char *error)
{
    h2o_socket_t *sock;

    if (error != NULL)
        return;
    for (int i = 0; i < 16 && (sock = h2o_evloop_socket_accept(listener)) != NULL; i++)
        h2o_accept(&accepting, sock);
}

static void serve(h2o_hostconf_t *host, const char *path, int (*on_req)(h2o_handler_t *, h2o_req_t *))
{
    h2o_pathconf_t *p = h2o_config_register_path(host, path, 0);
    h2o_handler_t *handler = h2o_create_handler(p, sizeof *handler);

    handler->on_req = on_req;
}

int main(int argc, char **argv)
{
    h2o_hostconf_t *host;
    h2o_socket_t *listener;

    if (argc != 3)
        return 2;
    fixed = peer_file(argv[2], &fixed_len);
    h2o_config_init(&config);
    host = h2o_config_register_host(&config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    serve(host, "/health", on_get);
    serve(host, "/cjson", on_check);
    h2o_context_init(&context, h2o_evloop_create(), &config);
    accepting = (h2o_accept_ctx_t){.ctx = &context, .hosts = config.hosts};
    listener = h2o_evloop_socket_create(context.loop, peer_listen((int)strtol(argv[1], NULL, 10)),
                                        H2O_SOCKET_FLAG_DONT_READ);
    h2o_socket_read_start(listener, on_accept);
    while (h2o_evloop_run(context.loop, INT32_MAX) == 0)
        ;
    return 2;
}
