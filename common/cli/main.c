/* keel: which command, and the option parsing they share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

const struct cli_engine cli_engines[KEEL_ENGINES] = {
    {"portfolio", 8900}, {"risk", 8200},      {"strategy", 8700},
    {"features", 8500},  {"ml", 8400},        {"analytics", 8100},
    {"factor", 8300},    {"websocket", 8600}, {"marketdata", 8800},
};

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"up", cli_up, "start Redis (unless REDIS_URL is given) and the nine engines; Ctrl-C stops them in order"},
    {"demo", cli_demo, "run a market session from data to ledger and report it"},
    {"status", cli_status, "one line per engine: health, breaker, uptime, operations"},
    {"order", cli_order, "place, show or cancel an order"},
    {"models", cli_models, "list, train and promote the models of ml"},
    {"dead", cli_dead, "list, show, replay or discard records that an engine could not take"},
    {"tail", cli_tail, "follow a bus topic"},
    {"bench", cli_bench, "load a running engine and show throughput and latency"},
    {"logs", cli_logs, "show the logs of a system started by keel up or keel demo"},
};

static int usage(FILE *to)
{
    fputs("usage: keel COMMAND [options]\n\ncommands:\n", to);
    for (size_t i = 0; i < KEEL_COUNT(commands); i++)
        fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].help);
    fputs("\nkeel COMMAND --help lists the options of a command.\n", to);
    return to == stdout ? 0 : 2;
}

bool cli_options(int argc, char **argv, const char *text, const struct cli_opt *opts, size_t n,
                 const char **val, const char **rest, size_t *n_rest, bool *help)
{
    size_t room = n_rest ? *n_rest : 0, used = 0;

    *help = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *eq = strchr(arg, '=');
        size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
        size_t k = 0;

        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            printf("%s\n\noptions:\n", text);
            for (k = 0; k < n; k++)
                printf("  %s%s%-*s %s\n", opts[k].name, opts[k].arg ? " " : "",
                       (int)(24 - strlen(opts[k].name)), opts[k].arg ? opts[k].arg : "", opts[k].help);
            *help = true;
            return true;
        }
        if (arg[0] != '-') {
            if (used == room) {
                fprintf(stderr, "keel: unexpected argument '%s'\n", arg);
                return false;
            }
            rest[used++] = arg;
            continue;
        }
        while (k < n && !(strlen(opts[k].name) == len && strncmp(opts[k].name, arg, len) == 0))
            k++;
        if (k == n) {
            fprintf(stderr, "keel: unknown option '%s' (see --help)\n", arg);
            return false;
        }
        if (!opts[k].arg)
            val[k] = "";
        else if (eq)
            val[k] = eq + 1;
        else if (i + 1 < argc)
            val[k] = argv[++i];
        else {
            fprintf(stderr, "keel: option %s needs %s\n", opts[k].name, opts[k].arg);
            return false;
        }
    }
    if (n_rest)
        *n_rest = used;
    return true;
}

bool cli_int(const char *name, const char *text, int64_t lo, int64_t hi, int64_t *out)
{
    int64_t v;

    if (keel_i64_parse(text, strlen(text), &v) == KEEL_OK && v >= lo && v <= hi) {
        *out = v;
        return true;
    }
    fprintf(stderr, "keel: %s must be an integer from %lld to %lld, not '%s'\n", name, (long long)lo,
            (long long)hi, text);
    return false;
}

/* The strongest token there is in the environment, so that every command works on a system that asks for one. */
static void find_token(void)
{
    static const char *const names[] = {"ADMIN_TOKEN", "TRADE_TOKEN", "READ_TOKEN"};

    for (size_t i = 0; i < KEEL_COUNT(names); i++) {
        const char *token = getenv(names[i]);
        if (token && *token) {
            cli_http_token(token);
            return;
        }
    }
}

int main(int argc, char **argv)
{
    find_token();
    if (argc < 2)
        return usage(stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return usage(stdout);
    if (strcmp(argv[1], "--version") == 0) {
        puts("keel " KEEL_VERSION);
        return 0;
    }
    for (size_t i = 0; i < KEEL_COUNT(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "keel: no command '%s'\n", argv[1]);
    return usage(stderr);
}
