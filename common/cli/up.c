/*
 * The supervisor: a private Redis when none is given, the nine engines as children, restarts, an orderly stop. Engines
 * are told everything by environment and command line, so a person can start any of them the same way.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

#define GIVE_UP_AFTER 5
#define STOP_WAIT_MS 15000

volatile sig_atomic_t cli_interrupted;

static void on_signal(int sig)
{
    (void)sig;
    cli_interrupted++;
}

static void on_child(int sig)
{
    (void)sig; /* only to end a nap */
}

void cli_catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal};

    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGHUP, &sa, NULL);
    sa.sa_handler = on_child;
    sigaction(SIGCHLD, &sa, NULL);
    sa.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &sa, NULL);
}

int64_t cli_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void cli_nap(int ms)
{
    struct timespec ts = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&ts, NULL);
}

const char *cli_url(struct keel_arena *a, const char *engine, int port_offset, const char *path)
{
    char name[40];
    const char *given;
    int port = 0;

    for (size_t i = 0; i < KEEL_ENGINES; i++)
        if (strcmp(cli_engines[i].name, engine) == 0)
            port = cli_engines[i].port + port_offset;
    snprintf(name, sizeof name, "%s_URL", engine);
    for (char *p = name; *p; p++)
        if (*p >= 'a' && *p <= 'z')
            *p = (char)(*p - 'a' + 'A');
    given = getenv(name);
    if (given && *given && port_offset == 0)
        return keel_arena_printf(a, "%s%s", given, path);
    return keel_arena_printf(a, "http://127.0.0.1:%d%s", port, path);
}

/* ---- children ---- */

static void write_pid(const struct cli_system *s, const struct cli_child *c)
{
    char path[700];
    FILE *f;

    snprintf(path, sizeof path, "%s/run/%s.pid", s->data_dir, c->name);
    f = fopen(path, "w");
    if (!f)
        return;
    fprintf(f, "%d\n", (int)c->pid);
    fclose(f);
}

/* exec wants writable strings; copies are made in the child, which never returns. */
static char **copied(const char *const *list, char *const *more)
{
    size_t n = 0, m = 0, k = 0;
    char **out;

    while (list[n])
        n++;
    while (more && more[m])
        m++;
    out = keel_alloc(n + m + 1, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        out[k] = keel_alloc(strlen(list[i]) + 1, 1);
        memcpy(out[k++], list[i], strlen(list[i]) + 1);
    }
    for (size_t i = 0; i < m; i++)
        out[k++] = more[i];
    return out;
}

/* env goes before the supervisor's own environment: where a name stands twice, the first counts. */
static bool spawn(struct cli_system *s, struct cli_child *c, const char *const *argv, const char *const *env)
{
    char log[700];
    int fd;
    pid_t parent = getpid();

    snprintf(log, sizeof log, "%s/logs/%s.log", s->data_dir, c->name);
    fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) {
        fprintf(stderr, "keel: cannot write %s: %s\n", log, strerror(errno));
        return false;
    }
    c->pid = fork();
    if (c->pid == 0) {
        /* A group of its own keeps the terminal's Ctrl-C with the supervisor, which stops everything in order. */
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent)
            _exit(127);
        dup2(fd, 1);
        dup2(fd, 2);
        fd = open("/dev/null", O_RDONLY);
        dup2(fd, 0);
        execvpe(argv[0], copied(argv, NULL), copied(env, environ));
        dprintf(2, "keel: cannot run %s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    close(fd);
    if (c->pid < 0) {
        fprintf(stderr, "keel: fork: %s\n", strerror(errno));
        return false;
    }
    c->ready = false;
    write_pid(s, c);
    return true;
}

static bool start_redis(struct cli_system *s)
{
    char dir[600];
    const char *const argv[] = {"redis-server", "--port", "0", "--unixsocket", s->redis_sock, "--unixsocketperm", "700",
                                "--dir", dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
                                "--maxmemory", "1gb", "--maxmemory-policy", "noeviction", "--daemonize", "no", NULL};

    snprintf(dir, sizeof dir, "%s/redis", s->data_dir);
    mkdir(dir, 0700);
    return spawn(s, &s->redis, argv, (const char *const[]){NULL});
}

static bool start_engine(struct cli_system *s, size_t i)
{
    struct keel_arena *a = keel_arena_new(4096);
    const char *env[KEEL_ENGINES + 8];
    const char *const argv[] = {keel_arena_printf(a, "%s/%s-engine", s->exe_dir, cli_engines[i].name), NULL};
    size_t n = 0;
    bool ok;

    env[n++] = keel_arena_printf(a, "PORT=%d", cli_engines[i].port + s->port_offset);
    env[n++] = keel_arena_printf(a, "DATA_DIR=%s", s->data_dir);
    env[n++] = keel_arena_printf(a, "REDIS_URL=%s", s->redis_own_url);
    env[n++] = keel_arena_printf(a, "KEEL_MODE=%s", s->mode);
    if (s->feed_dirs && strcmp(cli_engines[i].name, "marketdata") == 0)
        env[n++] = keel_arena_printf(a, "FEED_DIRS=%s", s->feed_dirs);
    for (size_t e = 0; e < KEEL_ENGINES; e++) {
        char *url = keel_arena_printf(a, "%s_URL=http://127.0.0.1:%d", cli_engines[e].name, cli_engines[e].port + s->port_offset);
        for (char *p = url; *p != '_'; p++)
            *p = (char)(*p - 'a' + 'A');
        env[n++] = url;
    }
    env[n] = NULL;
    ok = spawn(s, &s->engine[i], argv, env);
    keel_arena_free(a);
    return ok;
}

static bool redis_answers(const struct cli_system *s)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    char got[16] = "";
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = false;
    struct timeval limit = {1, 0};

    if (fd < 0)
        return false;
    memcpy(un.sun_path, s->redis_sock, strlen(s->redis_sock) + 1);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&un, sizeof un) == 0 && write(fd, "PING\r\n", 6) == 6 &&
        read(fd, got, sizeof got - 1) > 0)
        ok = strncmp(got, "+PONG", 5) == 0;
    close(fd);
    return ok;
}

static bool make_dirs(struct cli_system *s)
{
    static const char *const sub[] = {"", "/run", "/logs"};
    char path[700];

    for (size_t i = 0; i < KEEL_COUNT(sub); i++) {
        snprintf(path, sizeof path, "%s%s", s->data_dir, sub[i]);
        if (mkdir(path, 0700) < 0 && errno != EEXIST) {
            fprintf(stderr, "keel: cannot make %s: %s\n", path, strerror(errno));
            return false;
        }
    }
    return true;
}

static bool own_dir(struct cli_system *s)
{
    ssize_t n = readlink("/proc/self/exe", s->exe_dir, sizeof s->exe_dir - 1);

    if (n <= 0)
        return false;
    s->exe_dir[n] = 0;
    *strrchr(s->exe_dir, '/') = 0;
    return true;
}

bool cli_system_start(struct cli_system *s)
{
    char tmpl[] = "/tmp/keel-XXXXXX";

    if (!own_dir(s) || !make_dirs(s))
        return false;
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        snprintf(s->engine[i].name, sizeof s->engine[i].name, "%s", cli_engines[i].name);
    snprintf(s->redis.name, sizeof s->redis.name, "redis");
    if (s->redis_url && *s->redis_url) {
        snprintf(s->redis_own_url, sizeof s->redis_own_url, "%s", s->redis_url);
        s->redis.ready = true;
    } else {
        /* Its path must fit a sockaddr, however long the data directory's is. mkdtemp makes it 0700. */
        if (!mkdtemp(tmpl)) {
            fprintf(stderr, "keel: cannot make a directory under /tmp: %s\n", strerror(errno));
            return false;
        }
        snprintf(s->redis_dir, sizeof s->redis_dir, "%s", tmpl);
        snprintf(s->redis_sock, sizeof s->redis_sock, "%s/redis.sock", tmpl);
        snprintf(s->redis_own_url, sizeof s->redis_own_url, "unix://%s", s->redis_sock);
        if (!start_redis(s))
            return false;
        for (int i = 0; i < 1000 && !redis_answers(s) && !cli_interrupted; i++) {
            if (waitpid(s->redis.pid, NULL, WNOHANG) == s->redis.pid) {
                fprintf(stderr, "keel: redis-server did not start; see %s/logs/redis.log\n", s->data_dir);
                s->redis.pid = 0;
                return false;
            }
            cli_nap(10);
        }
        s->redis.ready = true;
    }
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        if (!start_engine(s, i))
            return false;
    return true;
}

static const char *died(int status, char *buf, size_t cap)
{
    if (WIFSIGNALED(status))
        snprintf(buf, cap, "signal %d", WTERMSIG(status));
    else
        snprintf(buf, cap, "exit %d", WEXITSTATUS(status));
    return buf;
}

static bool revive(struct cli_system *s, struct cli_child *c, size_t i)
{
    int status;
    char how[32];

    if (c->pid <= 0 || waitpid(c->pid, &status, WNOHANG) != c->pid)
        return true;
    c->deaths_unready = c->ready ? 0 : c->deaths_unready + 1;
    c->ready = false;
    c->pid = 0;
    if (c->deaths_unready >= GIVE_UP_AFTER) {
        fprintf(stderr, "\nkeel: %s died %d times without becoming ready (%s); see %s/logs/%s.log\n", c->name,
                c->deaths_unready, died(status, how, sizeof how), s->data_dir, c->name);
        return false;
    }
    fprintf(stderr, "\nkeel: %s died (%s), starting it again\n", c->name, died(status, how, sizeof how));
    c->restarts++;
    return c == &s->redis ? start_redis(s) : start_engine(s, i);
}

bool cli_system_pump(struct cli_system *s)
{
    bool ok = true;
    int64_t now = cli_now_ns();

    ok = revive(s, &s->redis, 0) && ok;
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        ok = revive(s, &s->engine[i], i) && ok;
    if (now - s->last_probe_ns > 200000000) {
        struct keel_arena *a = keel_arena_new(4096);
        s->last_probe_ns = now;
        for (size_t i = 0; i < KEEL_ENGINES; i++)
            if (s->engine[i].pid > 0 && !s->engine[i].ready)
                s->engine[i].ready =
                    cli_http(a, "GET", keel_arena_printf(a, "http://127.0.0.1:%d/health/ready",
                                                         cli_engines[i].port + s->port_offset),
                             NULL, 200).http == 200;
        if (s->redis.pid > 0 && !s->redis.ready)
            s->redis.ready = redis_answers(s);
        keel_arena_free(a);
    }
    return ok;
}

bool cli_system_ready(const struct cli_system *s)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        if (!s->engine[i].ready)
            return false;
    return s->redis.ready;
}

static void stop_child(struct cli_system *s, struct cli_child *c)
{
    int64_t until = cli_now_ns() + (int64_t)STOP_WAIT_MS * 1000000;
    int status = 0;
    char path[700], how[32];

    if (c->pid <= 0)
        return;
    kill(c->pid, SIGTERM);
    while (waitpid(c->pid, &status, WNOHANG) == 0) {
        if (cli_now_ns() > until) {
            fprintf(stderr, "keel: %s did not stop within %d s\n", c->name, STOP_WAIT_MS / 1000);
            kill(c->pid, SIGKILL);
            waitpid(c->pid, &status, 0);
            break;
        }
        cli_nap(5);
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fprintf(stderr, "keel: %s ended with %s\n", c->name, died(status, how, sizeof how));
    c->pid = 0;
    snprintf(path, sizeof path, "%s/run/%s.pid", s->data_dir, c->name);
    unlink(path);
}

void cli_system_stop(struct cli_system *s)
{
    /* From the source of the data to its sink, so that what is under way still arrives. */
    static const char *const order[KEEL_ENGINES] = {"marketdata", "features", "ml", "strategy", "risk",
                                                    "portfolio", "analytics", "factor", "websocket"};
    for (size_t k = 0; k < KEEL_ENGINES; k++)
        for (size_t i = 0; i < KEEL_ENGINES; i++)
            if (strcmp(s->engine[i].name, order[k]) == 0)
                stop_child(s, &s->engine[i]);
    stop_child(s, &s->redis);
    if (s->redis_dir[0]) {
        unlink(s->redis_sock);
        rmdir(s->redis_dir);
    }
}

/* ---- keel up ---- */

static void table(const struct cli_system *s, bool again)
{
    struct keel_arena *a = keel_arena_new(16384);

    if (again)
        printf("\033[%dA", KEEL_ENGINES + 1);
    printf("\033[2K%-11s %-6s %-10s %-10s %9s %9s %8s\n", "engine", "port", "health", "breaker", "uptime s", "calls",
           "restarts");
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        struct cli_reply r =
            cli_http(a, "GET", keel_arena_printf(a, "http://127.0.0.1:%d/health", cli_engines[i].port + s->port_offset),
                     NULL, 500);
        const struct keel_jval *perf = keel_jget(keel_jget(r.json, "performance"), "overall");
        const struct keel_jval *up = keel_jget(r.json, "uptime_seconds"), *n = keel_jget(perf, "count");

        printf("\033[2K%-11s %-6d %-10s %-10s %9s %9s %8u\n", cli_engines[i].name, cli_engines[i].port + s->port_offset,
               r.json ? keel_jstr(r.json, "status") : "away",
               r.json ? keel_jstr(keel_jget(r.json, "circuit_breaker"), "state") : "-", up ? up->text : "-",
               n ? n->text : "-", s->engine[i].restarts);
    }
    fflush(stdout);
    keel_arena_free(a);
}

static void say_dashboard(int port_offset)
{
    struct keel_arena *a = keel_arena_new(256);

    printf("dashboard  %s\n", cli_url(a, "websocket", port_offset, "/dashboard"));
    fflush(stdout);
    keel_arena_free(a);
}

int cli_up(int argc, char **argv)
{
    static const struct cli_opt opts[] = {
        {"--data-dir", "DIR", "where the engines keep their files (default ./data)"},
        {"--port-offset", "N", "added to every engine's port, so that several systems run side by side"},
        {"--mode", "MODE", "paper (default), sim or live"},
        {"--feed-dirs", "DIRS", "directories that marketdata may replay from, separated by commas"},
    };
    const char *val[KEEL_COUNT(opts)] = {0};
    struct cli_system s = {0};
    int64_t offset = 0, shown = 0;
    bool help, tty = isatty(1), ok, announced = false;

    if (!cli_options(argc, argv, "usage: keel up [options]\nStarts Redis and the nine engines and keeps them running until Ctrl-C.",
                     opts, KEEL_COUNT(opts), val, NULL, NULL, &help))
        return 2;
    if (help)
        return 0;
    if (val[1] && !cli_int("--port-offset", val[1], 0, 50000, &offset))
        return 2;
    s.data_dir = val[0] ? val[0] : "data";
    s.port_offset = (int)offset;
    s.mode = val[2] ? val[2] : "paper";
    s.feed_dirs = val[3];
    s.redis_url = getenv("REDIS_URL");
    cli_catch_signals();
    say_dashboard(s.port_offset);
    ok = cli_system_start(&s);
    while (ok && !cli_interrupted) {
        ok = cli_system_pump(&s);
        if (!announced && cli_system_ready(&s)) {
            announced = true;
            printf("keel: nine engines ready, data in %s\n", s.data_dir);
            fflush(stdout);
        }
        if (announced && tty && cli_now_ns() - shown > 1000000000) {
            table(&s, shown != 0);
            shown = cli_now_ns();
        }
        cli_nap(announced ? 100 : 20);
    }
    cli_system_stop(&s);
    return ok ? 0 : 1;
}
