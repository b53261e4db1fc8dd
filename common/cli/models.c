/* keel models: the registry of ml, from outside: what there is, training as a job that is followed, what serves. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "keel/status.h"

#define CALL_MS 10000
#define AWAY_NS 30000000000
#define BUSY_NS 30000000000

enum { O_HORIZON, O_FOLDS, O_L2, O_SEED, O_SPEC, O_PROMOTE, O_OFFSET, N_OPTS };
static const struct cli_opt opts[N_OPTS] = {
    {"--horizon", "N", "train: predict the price N vectors later (default 5)"},
    {"--folds", "N", "train: of the walk-forward (default 4)"},
    {"--l2", "X", "train: penalty on the weights (default 10)"},
    {"--seed", "N", "train: of the bootstrap (default 1)"},
    {"--spec", "SPEC", "train: kind of bars, 1s or 1m (default: the one with most vectors)"},
    {"--promote", NULL, "train: serve the version even when it is not better than the baseline"},
    {"--port-offset", "N", "added to every engine's port"},
};

struct models {
    struct keel_arena *a;
    const char *val[N_OPTS];
    int offset;
};

/* Ids go into paths. */
static bool is_id(const char *s)
{
    return *s != '\0' && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(s);
}

static const char *member(const struct keel_jval *v, const char *name)
{
    const struct keel_jval *m = keel_jget(v, name);

    return m && m->text ? m->text : "-";
}

static bool truth(const struct keel_jval *v, const char *name)
{
    const struct keel_jval *m = keel_jget(v, name);

    return m && m->type == KEEL_JBOOL && m->boolean;
}

/* A busy engine puts this off for its critical work, and says so before anything has happened: it is asked again. */
static struct cli_reply ask(struct models *m, const char *method, const char *path, const char *body)
{
    int64_t until = cli_now_ns() + BUSY_NS;

    for (;;) {
        struct cli_reply r = cli_http(m->a, method, cli_url(m->a, "ml", m->offset, path), body, CALL_MS);
        if (r.http != 503 || strcmp(keel_jstr(r.json, "title"), keel_status_text(KEEL_SHED)) != 0 || cli_now_ns() > until || cli_interrupted)
            return r;
        cli_nap(200);
    }
}

/* The engine's own words for what went wrong. */
static bool answered(const struct models *m, struct cli_reply r)
{
    if (r.http == 0)
        fprintf(stderr, "keel: ml does not answer at %s: %s\n", cli_url(m->a, "ml", m->offset, ""), r.why);
    else if (r.http >= 300)
        fprintf(stderr, "keel: ml: %s (%d %s)\n", *keel_jstr(r.json, "detail") ? keel_jstr(r.json, "detail") : r.body, r.http,
                member(r.json, "code"));
    return r.http >= 200 && r.http < 300;
}

/* ---- list and show ---- */

static int list(struct models *m)
{
    struct cli_reply r = ask(m, "GET", "/models", NULL);
    const struct keel_jval *models = keel_jget(r.json, "models");

    if (!answered(m, r))
        return 1;
    printf("%-22s %-12s %7s %-8s %-8s %s\n", "model", "status", "version", "backend", "accuracy", "what");
    for (const struct keel_jval *v = models ? models->child : NULL; v; v = v->next)
        printf("%-22s %-12s %7s %-8s %-8.6s %s\n", keel_jstr(v, "model_id"), keel_jstr(v, "status"), member(v, "version"),
               member(v, "backend"), member(v, "accuracy"), keel_jstr(v, "description"));
    return 0;
}

static void print_version(const struct keel_jval *v)
{
    const struct keel_jval *t = keel_jget(v, "training"), *w = keel_jget(v, "weights");

    printf("version %s%s: trained %s%s on %s vectors of %s bars, tested on %s that it had not seen, in %s folds\n",
           member(v, "version"), truth(v, "serving") ? " (serving)" : "", member(v, "trained_at"),
           truth(t, "automatic") ? " by itself" : "", member(t, "rows"), keel_jstr(w, "spec"), member(t, "tested"),
           member(t, "folds"));
    printf("  vectors from %s to %s, horizon %s, seed %s\n", member(t, "window_from"), member(t, "window_to"),
           member(w, "horizon"), member(t, "seed"));
    printf("  %-10s %-10s %-10s\n", "", "model", "baseline");
    printf("  %-10s %-10.6s %-10.6s always the majority class\n", "accuracy", member(t, "accuracy"), member(t, "baseline_accuracy"));
    printf("  %-10s %-10.6s %-10.6s always the base rate\n", "log-loss", member(t, "log_loss"), member(t, "baseline_log_loss"));
    printf("  %-10s %-10.6s %-10.6s always the base rate\n", "brier", member(t, "brier"), member(t, "baseline_brier"));
    printf("  %s than the baseline; better in %.6s of 500 resamples\n", truth(t, "better") ? "better" : "not better",
           member(t, "share_better"));
    printf("  features %s, sha256 %s\n", keel_jstr(w, "schema_hash"), keel_jstr(v, "sha256"));
}

static int show(struct models *m, const char *id)
{
    struct cli_reply r = ask(m, "GET", keel_arena_printf(m->a, "/models/%s", id), NULL);
    const struct keel_jval *versions = keel_jget(r.json, "versions");

    if (!answered(m, r))
        return 1;
    printf("%s: %s\nstatus %s, version %s, backend %s, first called %s\n", keel_jstr(r.json, "model_id"),
           keel_jstr(r.json, "description"), keel_jstr(r.json, "status"), member(r.json, "version"), member(r.json, "backend"),
           keel_jstr(r.json, "alias"));
    for (const struct keel_jval *v = versions ? versions->child : NULL; v; v = v->next)
        print_version(v);
    return 0;
}

/* ---- train ---- */

/* The options that are given; bounds are ml's to judge. NULL after a message. */
static const char *train_body(struct models *m)
{
    static const int whole[] = {O_HORIZON, O_FOLDS, O_SEED};
    struct keel_json w;
    int64_t n;
    double l2;

    keel_json_init(&w, m->a, 256);
    keel_json_obj(&w, NULL);
    for (size_t i = 0; i < KEEL_COUNT(whole); i++) {
        const char *text = m->val[whole[i]], *name = opts[whole[i]].name;
        if (text && !cli_int(name, text, INT64_MIN, INT64_MAX, &n))
            return NULL;
        if (text)
            keel_json_i64(&w, name + 2, n);
    }
    if (m->val[O_L2] && keel_f64_parse(m->val[O_L2], strlen(m->val[O_L2]), &l2) != KEEL_OK) {
        fprintf(stderr, "keel: --l2 must be a number, not '%s'\n", m->val[O_L2]);
        return NULL;
    }
    if (m->val[O_L2])
        keel_json_f64(&w, "l2", l2);
    if (m->val[O_SPEC])
        keel_json_str(&w, "spec", m->val[O_SPEC]);
    if (m->val[O_PROMOTE])
        keel_json_bool(&w, "promote", true);
    keel_json_end(&w);
    return keel_json_text(&w);
}

/* On a terminal one line that changes, elsewhere a line when the state does. */
static void progress(const char *id, const char *state, const char *before, int64_t began)
{
    if (isatty(1))
        printf("\rtraining %s: %-8s %5.1f s ", id, state, (double)(cli_now_ns() - began) / 1e9);
    else if (strcmp(state, before) != 0)
        printf("training %s: %s\n", id, state);
    fflush(stdout);
}

/* Asks until the job is over; an engine that is away for a moment may come back. NULL after a message. */
static const struct keel_jval *follow(struct models *m, const char *id, const char *job)
{
    const char *path = keel_arena_printf(m->a, "/jobs/%s", job), *before = "";
    struct keel_arena *kept = m->a;
    int64_t began = cli_now_ns(), seen = began;
    const struct keel_jval *over = NULL;

    cli_catch_signals();
    m->a = keel_arena_new(1 << 16);
    while (!over) {
        struct cli_reply r = ask(m, "GET", path, NULL);
        const char *state = keel_jstr(r.json, "status");

        if (r.http == 200) {
            seen = cli_now_ns();
            progress(id, state, before, began);
            before = keel_arena_strdup(kept, state);
            if (strcmp(state, "queued") != 0 && strcmp(state, "running") != 0) {
                const char *why;
                (void)keel_json_parse(kept, keel_arena_strndup(kept, r.body, r.len), r.len, &over, &why);
                break;
            }
        } else if (r.http != 0 || cli_now_ns() - seen > AWAY_NS) {
            if (isatty(1))
                printf("\n");
            answered(m, r);
            break;
        }
        if (cli_interrupted) {
            fprintf(stderr, "\nkeel: the training goes on: GET %s of ml\n", path);
            break;
        }
        keel_arena_reset(m->a);
        cli_nap(100);
    }
    if (isatty(1) && over)
        printf("\n");
    keel_arena_free(m->a);
    m->a = kept;
    return over;
}

static int train(struct models *m, const char *id)
{
    const char *body = train_body(m);
    struct cli_reply r;
    const struct keel_jval *job, *result, *error;

    if (!body)
        return 2;
    r = ask(m, "POST", keel_arena_printf(m->a, "/models/%s/train", id), body);
    if (!answered(m, r))
        return 1;
    job = follow(m, id, keel_jstr(r.json, "job_id"));
    if (!job)
        return 1;
    result = keel_jget(job, "result");
    error = keel_jget(job, "error");
    if (!result) {
        fprintf(stderr, "keel: the training ended %s: %s (%s)\n", keel_jstr(job, "status"),
                error ? keel_jstr(error, "detail") : "there is no result", error ? member(error, "code") : "-");
        return 1;
    }
    if (keel_jget(result, "versions") && keel_jget(result, "versions")->child)
        print_version(keel_jget(result, "versions")->child);
    printf("%s: %s\n", truth(result, "promoted") ? "promoted" : "not promoted", keel_jstr(result, "promotion"));
    return 0;
}

/* ---- promote and rollback ---- */

static int serve(struct models *m, const char *path, const char *body)
{
    struct cli_reply r = ask(m, "POST", path, body);

    if (!answered(m, r))
        return 1;
    printf("%s serves version %s (before: %s), sha256 %s\n", keel_jstr(r.json, "model_id"), member(r.json, "version"),
           member(r.json, "previous"), keel_jstr(r.json, "sha256"));
    return 0;
}

static int run(struct models *m, const char *const *rest, size_t n)
{
    int64_t version;

    if (n >= 2 && !is_id(rest[1])) {
        fprintf(stderr, "keel: '%s' is no model id\n", rest[1]);
        return 2;
    }
    if (n == 1 && strcmp(rest[0], "list") == 0)
        return list(m);
    if (n == 2 && strcmp(rest[0], "show") == 0)
        return show(m, rest[1]);
    if (n == 2 && strcmp(rest[0], "train") == 0)
        return train(m, rest[1]);
    if (n == 3 && strcmp(rest[0], "promote") == 0)
        return cli_int("VERSION", rest[2], 1, INT64_MAX, &version)
                   ? serve(m, keel_arena_printf(m->a, "/models/%s/promote", rest[1]),
                           keel_arena_printf(m->a, "{\"version\":%" PRId64 "}", version))
                   : 2;
    if (n == 2 && strcmp(rest[0], "rollback") == 0)
        return serve(m, keel_arena_printf(m->a, "/models/%s/rollback", rest[1]), "{}");
    fprintf(stderr, "keel: models takes list, show ID, train ID, promote ID VERSION or rollback ID (see --help)\n");
    return 2;
}

int cli_models(int argc, char **argv)
{
    struct models m = {0};
    const char *rest[3];
    size_t n = 3;
    int64_t offset = 0;
    bool help;
    int rc;

    if (!cli_options(argc, argv,
                     "usage: keel models list\n       keel models show ID\n       keel models train ID [options]\n"
                     "       keel models promote ID VERSION\n       keel models rollback ID\n"
                     "Models of the ml engine. train follows the job and shows the version beside a naive baseline; it and\n"
                     "promote and rollback need ADMIN_TOKEN on a system that asks for one.",
                     opts, N_OPTS, m.val, rest, &n, &help) ||
        (m.val[O_OFFSET] && !cli_int("--port-offset", m.val[O_OFFSET], 0, 50000, &offset)))
        return 2;
    if (help)
        return 0;
    m.offset = (int)offset;
    m.a = keel_arena_new(1 << 16);
    rc = run(&m, rest, n);
    keel_arena_free(m.a);
    return rc;
}
