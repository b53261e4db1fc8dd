/*
 * keel bench: load against an engine that runs. Without --op it takes the engine's critical operation in a form that
 * changes nothing; what places orders, books fills or feeds prices is asked for with --orders. With --url it loads
 * any HTTP server, which is how the benchmarks measure engine and peer with the same meter.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "load.h"

static const struct target {
    const char *engine, *op, *method, *path, *body;
    int target_ms;
    bool acts; /* only with --orders */
} targets[] = {
    {"risk", "critical_check", "POST", "/risk/critical-check/main",
     "{\"portfolio_value\":100000,\"positions\":[{\"symbol\":\"BTCUSDT\",\"market_value\":30829.9},"
     "{\"symbol\":\"ETHUSDT\",\"market_value\":-12000}]}", 100, false},
    {"risk", "live_check", "POST", "/risk/critical-check/main",
     "{\"order\":{\"client_order_id\":\"bench-{n}\",\"strategy_id\":\"manual\",\"symbol\":\"BTCUSDT\",\"side\":\"BUY\","
     "\"quantity\":\"0.01\",\"order_type\":\"LIMIT\",\"price\":\"61660\"}}", 100, false},
    {"ml", "critical_predict", "POST", "/ml/critical-predict/price_model",
     "{\"symbol\":\"BTCUSDT\",\"max_age_ms\":86400000}", 5, false},
    {"features", "calculate", "POST", "/features/calculate/BTCUSDT",
     "{\"prices\":[61650.1,61655.4,61648.0,61659.7,61661.2,61658.9,61663.3,61660.0],"
     "\"volumes\":[12.1,8.4,9.9,10.2,7.7,11.3,9.1,8.8],\"current_price\":61659.75,\"spec\":\"1m\"}", 50, false},
    {"analytics", "realtime", "POST", "/analytics/realtime/main", "{\"complexity\":\"standard\"}", 200, false},
    {"factor", "calculate", "POST", "/factors/calculate/BTCUSDT", "{\"factor_ids\":[\"momentum\",\"volatility\"]}", 100,
     false},
    {"portfolio", "portfolio", "GET", "/portfolios/main", NULL, 100, false},
    {"portfolio", "fills", "POST", "/portfolios/main/fills",
     "{\"trade_id\":\"bench-{n}\",\"client_order_id\":\"bench-{n}\",\"venue\":\"bench\","
     "\"strategy_id\":\"manual\",\"symbol\":\"BTCUSDT\",\"side\":\"BUY\","
     "\"quantity\":\"0.0001\",\"price\":\"61660\",\"fee\":{\"amount\":\"0.002\",\"currency\":\"USDT\"},"
     "\"ts_event\":{now}}", 100, true},
    {"strategy", "orders", "GET", "/orders?limit=20", NULL, 50, false},
    {"strategy", "execute", "POST", "/strategies/manual/execute",
     "{\"client_order_id\":\"bench-{n}\",\"symbol\":\"BTCUSDT\",\"side\":\"BUY\",\"quantity\":\"0.0001\","
     "\"order_type\":\"LIMIT\",\"price\":\"61660\",\"time_in_force\":\"IOC\"}", 50, true},
    {"marketdata", "symbols", "GET", "/symbols", NULL, 50, false},
    {"marketdata", "ingest", "POST", "/data/ingest",
     "{\"data\":[{\"symbol\":\"BENCHUSDT\",\"data_type\":\"quote\",\"source\":\"bench\",\"timestamp\":{now},"
     "\"data\":{\"bid\":61659.7,\"bid_size\":2.311,\"ask\":\"61659.8\",\"ask_size\":\"0.874\"}}]}", 50, true},
    {"websocket", "topics", "GET", "/topics", NULL, 40, false},
};

enum { ENGINE, OP, CONNECTIONS, DURATION, RATE, WARM_UP, ORDERS, LIST, OFFSET, URL, METHOD, BODY, TARGET,
       OBEY, CPU, SPIN, JSON, N };

static const struct cli_opt opts[N] = {
    {"--engine", "NAME", "risk (default), ml, features, analytics, factor, portfolio, strategy, marketdata, websocket"},
    {"--op", "NAME", "one of --list, or health; default: the engine's first there"},
    {"--connections", "N", "kept open (default 16)"},
    {"--duration", "S", "seconds that are counted (default 5); Ctrl-C ends them early"},
    {"--rate", "N", "requests/s on a fixed schedule; absent: each connection asks as soon as it is answered"},
    {"--warm-up", "S", "seconds before that (default 0.5)"},
    {"--orders", NULL, "allow operations that place paper orders, book fills or feed prices"},
    {"--list", NULL, "show the operations and end"},
    {"--port-offset", "N", "added to every engine's port"},
    {"--url", "URL", "instead of --engine: http://HOST:PORT/PATH"},
    {"--method", "M", "with --url (default GET, with --body POST)"},
    {"--body", "JSON", "with --url; @FILE reads it; {n} is a new number, {now} the time in ns, {c} the connection"},
    {"--target-ms", "MS", "what counts as within target (default: the operation's own)"},
    {"--retry-after", NULL, "after 429 or 503 a connection waits as long as the answer says"},
    {"--cpu", "N", "run the load on this core"},
    {"--spin", NULL, "never sleep: a server that is not quite busy is then not charged for waking the load"},
    {"--json", NULL, "print one JSON object"},
};

static int list(void)
{
    for (size_t i = 0; i < KEEL_COUNT(targets); i++)
        printf("%-11s %-17s %-4s %s%s\n", targets[i].engine, targets[i].op, targets[i].method, targets[i].path,
               targets[i].acts ? "   (with --orders)" : "");
    return 0;
}

static bool real(const char *name, const char *text, double lo, double hi, double *out)
{
    char *end = NULL;
    double v = text != NULL ? strtod(text, &end) : *out;

    if (text == NULL)
        return true;
    if (end != text && *end == '\0' && v >= lo && v <= hi) {
        *out = v;
        return true;
    }
    fprintf(stderr, "keel: %s must be a number from %g to %g, not '%s'\n", name, lo, hi, text);
    return false;
}

/* What to ask; false after a message. */
static bool find_target(const char **val, struct target *out)
{
    const char *engine = val[ENGINE] != NULL ? val[ENGINE] : "risk", *op = val[OP];

    for (size_t i = 0; i < KEEL_COUNT(targets); i++) {
        const struct target *t = &targets[i];
        if (strcmp(t->engine, engine) != 0)
            continue;
        if (op != NULL && strcmp(op, "health") == 0) {
            *out = (struct target){t->engine, "health", "GET", "/health", NULL, 0, false};
            return true;
        }
        if (op != NULL && strcmp(t->op, op) != 0)
            continue;
        *out = *t;
        if (t->acts && val[ORDERS] == NULL) {
            fprintf(stderr, "keel: %s of %s changes the books; ask for it with --orders\n", t->op, t->engine);
            return false;
        }
        return true;
    }
    fprintf(stderr, "keel: no operation %s%s%s to load (see keel bench --list)\n", engine, op != NULL ? "." : "",
            op != NULL ? op : "");
    return false;
}

/* http://HOST[:PORT]/PATH into conf; what it points to lives in a. */
static bool split_url(struct keel_arena *a, const char *url, struct load_conf *conf)
{
    const char *host = strncmp(url, "http://", 7) == 0 ? url + 7 : NULL, *colon, *slash, *digits;
    int64_t port = 80;

    if (host == NULL || *host == '\0') {
        fprintf(stderr, "keel: a URL here is http://HOST:PORT/PATH, not '%s'\n", url);
        return false;
    }
    slash = strchr(host, '/');
    if (slash == NULL)
        slash = host + strlen(host);
    colon = memchr(host, ':', (size_t)(slash - host));
    digits = colon != NULL ? keel_arena_strndup(a, colon + 1, (size_t)(slash - colon) - 1) : NULL;
    if (digits != NULL && !cli_int("the port of the URL", digits, 1, 65535, &port))
        return false;
    conf->host = keel_arena_strndup(a, host, (size_t)((colon != NULL ? colon : slash) - host));
    conf->port = (uint16_t)port;
    conf->path = *slash != '\0' ? slash : "/";
    return true;
}

/* A live venue is nobody's to measure. */
static bool is_live(struct keel_arena *a, int offset)
{
    struct cli_reply r = cli_http(a, "GET", cli_url(a, "strategy", offset, "/strategies/manual"), NULL, 3000);
    const char *venue = keel_jstr(r.json, "venue");

    if (r.http == 200 && strcmp(venue, "paper") == 0)
        return false;
    fprintf(stderr, "keel: --orders needs a strategy engine whose venue is paper, not '%s'\n",
            r.http == 200 ? venue : "(no answer)");
    return true;
}

static double us(uint64_t ns)
{
    return (double)ns * 1e-3;
}

static void print_json(struct keel_arena *a, const struct load_conf *conf, const struct load_result *r)
{
    struct keel_json w;
    char code[8];

    keel_json_init(&w, a, 1024);
    keel_json_obj(&w, NULL);
    keel_json_i64(&w, "connections", conf->connections);
    keel_json_f64(&w, "rate", conf->rate);
    keel_json_f64(&w, "seconds", r->seconds);
    keel_json_u64(&w, "answered", r->answered);
    keel_json_fix(&w, "per_second", (double)r->answered / r->seconds, 1);
    keel_json_fix(&w, "p50_us", us(load_quantile(r, 0.5)), 3);
    keel_json_fix(&w, "p99_us", us(load_quantile(r, 0.99)), 3);
    keel_json_fix(&w, "p999_us", us(load_quantile(r, 0.999)), 3);
    keel_json_fix(&w, "max_us", us(r->hist.max_ns), 3);
    if (conf->rate > 0) {
        keel_json_fix(&w, "late_p50_us", us(keel_hist_quantile(&r->late, 0.5)), 3);
        keel_json_fix(&w, "late_p99_us", us(keel_hist_quantile(&r->late, 0.99)), 3);
    }
    keel_json_u64(&w, "over_target", r->hist.over);
    keel_json_u64(&w, "broken", r->broken);
    keel_json_u64(&w, "unanswered", r->unanswered);
    keel_json_obj(&w, "status");
    for (int i = 0; i < (int)KEEL_COUNT(r->status); i++) {
        snprintf(code, sizeof code, "%d", i);
        if (r->status[i] > 0)
            keel_json_u64(&w, code, r->status[i]);
    }
    keel_json_end(&w);
    keel_json_str(&w, "sample", r->sample);
    keel_json_end(&w);
    puts(keel_json_text(&w));
}

static void print_table(const struct load_conf *conf, const struct load_result *r)
{
    printf("%s http://%s:%u%s, %u connections, ", conf->method, conf->host, (unsigned)conf->port, conf->path,
           conf->connections);
    if (conf->rate > 0)
        printf("%g requests/s by the clock, %g s\n", conf->rate, r->seconds);
    else
        printf("closed loop, %g s\n", r->seconds);
    printf("%-14s %.0f/s (%llu answers)\n", "throughput", (double)r->answered / r->seconds,
           (unsigned long long)r->answered);
    printf("%-14s p50 %.1f us, p99 %.1f us, p99.9 %.1f us, max %.1f us\n", "latency",
           us(load_quantile(r, 0.5)), us(load_quantile(r, 0.99)),
           us(load_quantile(r, 0.999)), us(r->hist.max_ns));
    if (conf->rate > 0)
        printf("%-14s p50 %.1f us, p99 %.1f us, not in latency\n", "own lateness", us(keel_hist_quantile(&r->late, 0.5)),
               us(keel_hist_quantile(&r->late, 0.99)));
    if (conf->target_ns > 0 && r->answered > 0)
        printf("%-14s %.4f %% within %g ms\n", "target",
               100.0 * (1.0 - (double)r->hist.over / (double)r->answered), (double)conf->target_ns * 1e-6);
    printf("%-14s", "status");
    for (int i = 0; i < (int)KEEL_COUNT(r->status); i++)
        if (r->status[i] > 0)
            printf(" %d: %llu", i, (unsigned long long)r->status[i]);
    printf("%s\n", r->answered == 0 ? " none" : "");
    if (r->broken + r->unanswered > 0)
        printf("%-14s %llu connections broken, %llu requests without an answer\n", "trouble",
               (unsigned long long)r->broken, (unsigned long long)r->unanswered);
    if (r->sample[0] != '\0')
        printf("%-14s %s\n", "first refusal", r->sample);
}

static bool read_numbers(const char **val, struct load_conf *conf, double *target_ms, int64_t *offset)
{
    int64_t connections = 16, cpu = -1;

    if ((val[CONNECTIONS] != NULL && !cli_int("--connections", val[CONNECTIONS], 1, LOAD_CONNECTIONS, &connections)) ||
        (val[CPU] != NULL && !cli_int("--cpu", val[CPU], 0, 1023, &cpu)) ||
        (val[OFFSET] != NULL && !cli_int("--port-offset", val[OFFSET], 0, 50000, offset)) ||
        !real("--duration", val[DURATION], 0.01, 86400, &conf->seconds) ||
        !real("--warm-up", val[WARM_UP], 0, 3600, &conf->warm_up_s) ||
        !real("--rate", val[RATE], 0.1, 1e6, &conf->rate) || !real("--target-ms", val[TARGET], 0.001, 1e6, target_ms))
        return false;
    conf->connections = (unsigned)connections;
    conf->cpu = (int)cpu;
    conf->spins = val[SPIN] != NULL;
    conf->obeys = val[OBEY] != NULL;
    return true;
}

/* The text, or what the file after an @ holds. NULL after a message. */
static const char *body_of(struct keel_arena *a, const char *given)
{
    enum { BODY_MAX = 16 << 20 };
    FILE *f = NULL;
    char *text;
    size_t n = 0;

    if (*given != '@')
        return given;
    if ((f = fopen(given + 1, "rb")) == NULL) {
        fprintf(stderr, "keel: --body: %s: %s\n", given + 1, strerror(errno));
        return NULL;
    }
    text = keel_arena_alloc(a, BODY_MAX + 1);
    n = fread(text, 1, BODY_MAX + 1, f);
    text[n < BODY_MAX ? n : BODY_MAX] = '\0';
    if (ferror(f) || n > BODY_MAX || strlen(text) != n) {
        fprintf(stderr, "keel: --body: %s: cannot be read, is over 16 MiB or holds a NUL\n", given + 1);
        text = NULL;
    }
    fclose(f);
    return text;
}

/* Fills conf; false after a message. */
static bool aim(struct keel_arena *a, const char **val, struct load_conf *conf)
{
    struct target t = {0};
    double target_ms;
    int64_t offset = 0;

    if (val[URL] == NULL && !find_target(val, &t))
        return false;
    target_ms = t.target_ms;
    if (!read_numbers(val, conf, &target_ms, &offset))
        return false;
    conf->target_ns = (uint64_t)(target_ms * 1e6);
    conf->method = val[METHOD] != NULL ? val[METHOD] : t.method != NULL ? t.method : val[BODY] != NULL ? "POST" : "GET";
    conf->body = t.body;
    if (val[BODY] != NULL && (conf->body = body_of(a, val[BODY])) == NULL)
        return false;
    if (*cli_http_auth() != '\0')
        conf->headers = keel_arena_printf(a, "%s\r\n", cli_http_auth());
    if (t.acts && is_live(a, (int)offset))
        return false;
    return split_url(a, val[URL] != NULL ? val[URL] : cli_url(a, t.engine, (int)offset, t.path), conf);
}

int cli_bench(int argc, char **argv)
{
    const char *val[N] = {0};
    struct load_conf conf = {.warm_up_s = 0.5, .seconds = 5};
    static struct load_result result;
    struct keel_arena *a;
    char why[160];
    bool help, ok;

    if (!cli_options(argc, argv, "usage: keel bench [options]", opts, N, val, NULL, NULL, &help))
        return 2;
    if (help)
        return 0;
    if (val[LIST] != NULL)
        return list();
    a = keel_arena_new(1 << 16);
    ok = aim(a, val, &conf);
    if (!ok) {
        keel_arena_free(a);
        return 2;
    }
    ok = load_run(&conf, &result, why, sizeof why);
    if (ok && result.seconds <= 0) {
        snprintf(why, sizeof why, "ended before anything was counted");
        ok = false;
    }
    if (!ok)
        fprintf(stderr, "keel: %s\n", why);
    else if (val[JSON] != NULL)
        print_json(a, &conf, &result);
    else
        print_table(&conf, &result);
    ok = ok && result.answered > 0;
    keel_arena_free(a);
    return ok ? 0 : 1;
}
