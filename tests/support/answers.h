/* What the tests of engines ask of a JSON answer: a member by its path, and how it reads. */
#ifndef ANSWERS_H
#define ANSWERS_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/json.h"

static inline const struct keel_jval *answer_parse(struct keel_arena *a, const char *text)
{
    const struct keel_jval *v = NULL;
    const char *why = "";

    ck_assert_msg(keel_json_parse(a, text, strlen(text), &v, &why) == KEEL_OK, "%s: %s", why, text);
    return v;
}

/* By names and places from the top: "decision.denials.0.code". NULL when there is no such member. */
static inline const struct keel_jval *answer_find(const struct keel_jval *v, const char *path)
{
    while (v && *path) {
        size_t n = strcspn(path, ".");
        char name[64];

        snprintf(name, sizeof name, "%.*s", (int)n, path);
        if (v->type == KEEL_JARR) {
            long i = strtol(name, NULL, 10);
            for (v = v->child; v && i > 0; i--)
                v = v->next;
        } else {
            v = keel_jget(v, name);
        }
        path += path[n] ? n + 1 : n;
    }
    return v;
}

/* Strings as '...', numbers as printed, arrays as [count], objects as {count}, NULL as absent. */
static inline const char *answer_text(struct keel_arena *a, const struct keel_jval *v)
{
    if (v == NULL)
        return "absent";
    switch (v->type) {
    case KEEL_JSTR:
        return keel_arena_printf(a, "'%s'", v->text);
    case KEEL_JNUM:
        return v->text;
    case KEEL_JBOOL:
        return v->boolean ? "true" : "false";
    case KEEL_JNULL:
        return "null";
    default:
        return keel_arena_printf(a, v->type == KEEL_JARR ? "[%zu]" : "{%zu}", v->len);
    }
}

static inline void answer_is(int line, struct keel_arena *a, const struct keel_jval *v, const char *path,
                             const char *want)
{
    const char *got = answer_text(a, answer_find(v, path));

    ck_assert_msg(strcmp(got, want) == 0, "line %d: %s is %s, not %s", line, path, got, want);
}

#endif
