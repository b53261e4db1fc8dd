/* The program `keel`: supervisor (`up`), session driver (`demo`) and client (every other command). One thread. */
#ifndef KEEL_CLI_H
#define KEEL_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <sys/types.h>

#include "keel/arena.h"
#include "keel/json.h"
#include "keel/num.h"

#define KEEL_ENGINES 9
struct cli_engine { const char *name; int port; };
extern const struct cli_engine cli_engines[KEEL_ENGINES]; /* in the order they are started */

/* ---- http.c ---- */
struct cli_reply {
    int http;                    /* 0: no answer */
    const char *body, *why;      /* why: no answer, one line */
    size_t len;
    const struct keel_jval *json; /* parsed, or NULL */
};
/* Blocks at most timeout_ms. Everything it gives lives in a. token may be NULL. */
struct cli_reply cli_http(struct keel_arena *a, const char *method, const char *url, const char *body, long timeout_ms);
void cli_http_token(const char *token); /* sent with every request from now on */
const char *cli_http_auth(void);        /* its header line, or "" */

/* ---- up.c ---- */
struct cli_child {
    char name[24];
    pid_t pid;
    int deaths_unready; /* in a row, without becoming ready in between */
    unsigned restarts;
    bool ready;
};
struct cli_system {
    const char *data_dir, *redis_url, *mode, *feed_dirs;
    int port_offset;
    char redis_sock[64], redis_dir[40], redis_own_url[300], exe_dir[512];
    struct cli_child redis, engine[KEEL_ENGINES];
    int64_t last_probe_ns;
};
/* false with a line on standard error. */
bool cli_system_start(struct cli_system *s);
/* Restarts what died, notes who is ready; at most a few ms. false when an engine was given up. */
bool cli_system_pump(struct cli_system *s);
bool cli_system_ready(const struct cli_system *s);
void cli_system_stop(struct cli_system *s);
/* Base URL of an engine: <NAME>_URL from the environment, else loopback at its port plus offset. In a. */
const char *cli_url(struct keel_arena *a, const char *engine, int port_offset, const char *path);
extern volatile sig_atomic_t cli_interrupted; /* SIGINT or SIGTERM came */
void cli_catch_signals(void);
int64_t cli_now_ns(void);
void cli_nap(int ms); /* waits for a child or the clock, whichever is first */

/* ---- report.c ---- */
struct cli_session {
    struct keel_arena *a;
    int port_offset;
    const char *portfolio, *feed_id;
    const char *model_strategy; /* the one that acts on predictions */
    bool simulated;
    int64_t seed;
    const char *title; /* "SIMULATED seed 7 / PAPER" */
    keel_i128 initial_cash;
    unsigned restarts; /* of engines during the session */
    const struct keel_jval *bus[KEEL_ENGINES]; /* each engine's counts when the session began; NULL: from its own start */
};
/* Notes what the bus had carried before the session, once nothing is under way: who starts to read late has missed it. */
void cli_session_begin(struct cli_session *s);
/* Reads every figure from the engines, compares, prints; file NULL: terminal only. Returns ok. */
bool cli_report(struct cli_session *s, const char *file);
/* Bus counts agree and nothing is in hand: what was published has been handled by everyone who reads it. */
bool cli_settled(struct cli_session *s, char *why, size_t cap);

int cli_up(int argc, char **argv);
int cli_demo(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_tail(int argc, char **argv);
int cli_order(int argc, char **argv);
int cli_models(int argc, char **argv);
int cli_dead(int argc, char **argv);
int cli_logs(int argc, char **argv);
int cli_bench(int argc, char **argv);

/* Options: name, whether it takes a value, help. Values land in val[i] (NULL: not given). */
struct cli_opt { const char *name, *arg, *help; };
/* Returns false after a message for an unknown or incomplete option; *help: --help was given (and printed). */
bool cli_options(int argc, char **argv, const char *usage, const struct cli_opt *opts, size_t n, const char **val,
                 const char **rest, size_t *n_rest, bool *help);
bool cli_int(const char *name, const char *text, int64_t lo, int64_t hi, int64_t *out);

#endif
