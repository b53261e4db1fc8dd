/*
 * The floor of bench_http: libmicrohttpd alone, in the form the engines use it (external epoll, one thread, no
 * threads of its own), with bodies of the same bytes. GET answers the first file, POST reads the body and answers
 * the second; POST /cjson parses and prints with cJSON instead.
 *
 *     peer_mhd PORT GET_FILE POST_FILE
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include <microhttpd.h>

#include "peer_check.h"

enum { MAX_BODY = 64 * 1024, TIMEOUT_S = 60, CONNECTIONS = 1024 };

struct request { size_t len; char body[MAX_BODY]; };

static struct MHD_Response *fixed[2]; /* of GET and POST */

static struct MHD_Response *response_of(char *text, size_t len, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(len, text, mode);

    MHD_add_response_header(r, "Content-Type", "application/json");
    MHD_add_response_header(r, "Cache-Control", "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    return r;
}

static enum MHD_Result answer_cjson(struct MHD_Connection *c, const struct request *r)
{
    char *text = peer_check(r->body, r->len);
    struct MHD_Response *response;
    enum MHD_Result queued;

    if (text == NULL)
        return MHD_NO;
    response = response_of(text, strlen(text), MHD_RESPMEM_MUST_FREE);
    queued = MHD_queue_response(c, 200, response);
    MHD_destroy_response(response);
    return queued;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *path, const char *method,
                                  const char *version, const char *data, size_t *n, void **con_cls)
{
    struct request *r = *con_cls;

    (void)cls;
    (void)version;
    if (r == NULL) {
        *con_cls = r = malloc(sizeof *r);
        if (r != NULL)
            r->len = 0;
        return r != NULL ? MHD_YES : MHD_NO;
    }
    if (*n > 0) {
        if (*n > MAX_BODY - r->len)
            return MHD_NO;
        memcpy(r->body + r->len, data, *n);
        r->len += *n;
        *n = 0;
        return MHD_YES;
    }
    if (strcmp(path, "/cjson") == 0)
        return answer_cjson(c, r);
    return MHD_queue_response(c, 200, fixed[strcmp(method, "POST") == 0]);
}

static void on_completed(void *cls, struct MHD_Connection *c, void **con_cls, enum MHD_RequestTerminationCode why)
{
    (void)cls;
    (void)c;
    (void)why;
    free(*con_cls);
    *con_cls = NULL;
}

static int wait_ms(struct MHD_Daemon *d)
{
    MHD_UNSIGNED_LONG_LONG ms;

    if (MHD_get_timeout(d, &ms) != MHD_YES)
        return -1;
    return ms > 60000 ? 60000 : (int)ms;
}

int main(int argc, char **argv)
{
    struct MHD_Daemon *d;
    struct epoll_event e;
    size_t len[2];
    int fd;

    if (argc != 4)
        return 2;
    for (int i = 0; i < 2; i++) {
        char *text = peer_file(argv[2 + i], &len[i]);
        fixed[i] = response_of(text, len[i], MHD_RESPMEM_PERSISTENT);
    }
    d = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, NULL,
                         MHD_OPTION_LISTEN_SOCKET, peer_listen((int)strtol(argv[1], NULL, 10)),
                         MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
                         MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_S,
                         MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
                         MHD_OPTION_END);
    if (d == NULL)
        return 2;
    /* Its own descriptor is inside an epoll of ours, as it is inside the engines' loop. */
    fd = epoll_create1(EPOLL_CLOEXEC);
    e = (struct epoll_event){.events = EPOLLIN};
    epoll_ctl(fd, EPOLL_CTL_ADD, MHD_get_daemon_info(d, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd, &e);
    for (;;) {
        if (epoll_wait(fd, &e, 1, wait_ms(d)) < 0 && errno != EINTR)
            return 2;
        MHD_run(d);
    }
}
