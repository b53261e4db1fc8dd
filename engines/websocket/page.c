/*
 * The dashboard: files that are part of the program. They need no token, for they say nothing; the data they show is
 * asked for with the caller's. The policy lets the page load and reach nothing but this engine.
 */
#include "dashboard.h"
#include "ops.h"

#include <string.h>

static const char policy[] = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                             "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#define FILE_ROW(name, path_, type_) {"/dashboard" path_, type_, dashboard_##name, &dashboard_##name##_len},
static const struct { const char *path, *type; const unsigned char *bytes; const size_t *len; } files[] = {
    DASHBOARD_FILES(FILE_ROW)
};

enum keel_status api_page(struct keel_call *c)
{
    size_t i = 0;

    while (i < KEEL_COUNT(files) && strcmp(c->op->on.path, files[i].path) != 0)
        i++;
    keel_assert(i < KEEL_COUNT(files)); /* the table's rows are made of the same list */
    c->type = files[i].type;
    c->policy = policy;
    keel_json_raw(&c->out, NULL, (const char *)files[i].bytes, *files[i].len);
    return KEEL_OK;
}
