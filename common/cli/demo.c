/*
 * keel demo: one market session from data to ledger, through the engines themselves and nothing else. It starts a system
 * (or attaches to one), gives strategy its strategies, marketdata its feed, waits until everyone has handled everything,
 * and reports.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

#define CALL_MS 10000
#define SETTLE_MS 120000
#define CALM_MS 45000

enum { O_ONCE, O_DATA, O_FORMAT, O_SPEED, O_SEED, O_DURATION, O_SYMBOLS, O_DIR, O_OFFSET, O_REPORT, O_ATTACH, N_OPTS };

static const struct cli_opt opts[N_OPTS] = {
    {"--once", NULL, "end with the session (default: keep running until Ctrl-C)"},
    {"--data", "PATH", "replay this file or folder instead of simulating"},
    {"--format", "NAME", "of --data: binance, lean or ohlcv (default: found out from the content)"},
    {"--speed", "N|max", "times real time; default 10 for the simulation, max for --data"},
    {"--seed", "N", "of the simulation (default 7); the same seed gives the same market"},
    {"--duration", "SECONDS", "of the simulated session (default 120)"},
    {"--symbols", "A,B", "only these symbols"},
    {"--data-dir", "DIR", "a new or empty directory for the engines' files (default: one under /tmp, removed at the end)"},
    {"--port-offset", "N", "added to every engine's port"},
    {"--report", "FILE", "write the report as JSON too"},
    {"--attach", NULL, "start nothing: drive the engines that already run (addresses from <ENGINE>_URL)"},
};

struct demo {
    struct cli_session session;
    struct cli_system system;
    struct keel_arena *a; /* of one step */
    const char *val[N_OPTS];
    char data[PATH_MAX], dir[PATH_MAX], speed[32];
    bool attach, own_dir, plain_output;
    int64_t seed, duration;
};

/* Every answer that is not one of the wanted codes ends the demo with the engine's own words. */
static struct cli_reply call(struct demo *d, const char *engine, const char *method, const char *path, const char *body)
{
    struct cli_reply r = cli_http(d->a, method, cli_url(d->a, engine, d->system.port_offset, path), body, CALL_MS);

    if (r.http == 0)
        fprintf(stderr, "keel: %s %s of %s: %s\n", method, path, engine, r.why);
    else if (r.http >= 300)
        fprintf(stderr, "keel: %s %s of %s: %d %s\n", method, path, engine, r.http,
                *keel_jstr(r.json, "detail") ? keel_jstr(r.json, "detail") : r.body);
    return r;
}

static bool done(struct cli_reply r)
{
    return r.http >= 200 && r.http < 300;
}

static bool pump(struct demo *d)
{
    bool ok = d->attach || cli_system_pump(&d->system);

    if (!d->attach) {
        d->session.restarts = d->system.redis.restarts;
        for (size_t i = 0; i < KEEL_ENGINES; i++)
            d->session.restarts += d->system.engine[i].restarts;
    }
    return ok && !cli_interrupted;
}

/* ---- options ---- */

static bool dir_is_usable(const char *path)
{
    DIR *dp = opendir(path);
    const struct dirent *e;
    bool demo = false, other = false;

    if (!dp)
        return errno == ENOENT;
    while ((e = readdir(dp)))
        if (strcmp(e->d_name, ".keel-demo") == 0)
            demo = true;
        else if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            other = true;
    closedir(dp);
    return demo || !other;
}

static bool check_speed(struct demo *d)
{
    double v;
    const char *text = d->val[O_SPEED] ? d->val[O_SPEED] : d->val[O_DATA] ? "max" : "10";

    if (strcmp(text, "max") == 0)
        snprintf(d->speed, sizeof d->speed, "0");
    else if (keel_f64_parse(text, strlen(text), &v) == KEEL_OK && v >= 0.01 && v <= 100000)
        snprintf(d->speed, sizeof d->speed, "%s", text);
    else {
        fprintf(stderr, "keel: --speed must be max or a number from 0.01 to 100000, not '%s'\n", text);
        return false;
    }
    return true;
}

static bool parse(struct demo *d, int argc, char **argv, bool *help)
{
    int64_t offset = 0;

    d->seed = 7;
    d->duration = 120;
    if (!cli_options(argc, argv, "usage: keel demo [options]\nRuns a market session from data to ledger and reports it.",
                     opts, N_OPTS, d->val, NULL, NULL, help))
        return false;
    if (*help)
        return true;
    if ((d->val[O_SEED] && !cli_int("--seed", d->val[O_SEED], 0, INT64_MAX, &d->seed)) ||
        (d->val[O_DURATION] && !cli_int("--duration", d->val[O_DURATION], 1, 864000, &d->duration)) ||
        (d->val[O_OFFSET] && !cli_int("--port-offset", d->val[O_OFFSET], 0, 50000, &offset)) || !check_speed(d))
        return false;
    if (d->val[O_DATA] && !realpath(d->val[O_DATA], d->data)) {
        fprintf(stderr, "keel: --data %s: %s\n", d->val[O_DATA], strerror(errno));
        return false;
    }
    if (d->val[O_DIR] && !dir_is_usable(d->val[O_DIR])) {
        fprintf(stderr, "keel: --data-dir %s holds something that is not a demo's; give a new or empty directory\n", d->val[O_DIR]);
        return false;
    }
    d->attach = d->val[O_ATTACH] != NULL;
    d->system.port_offset = (int)offset;
    return true;
}

/* ---- starting ---- */

static bool make_dir(struct demo *d)
{
    char mark[PATH_MAX + 16];
    FILE *f;

    if (d->val[O_DIR]) {
        if (mkdir(d->val[O_DIR], 0700) < 0 && errno != EEXIST) {
            fprintf(stderr, "keel: cannot make %s: %s\n", d->val[O_DIR], strerror(errno));
            return false;
        }
        if (!realpath(d->val[O_DIR], d->dir))
            return false;
    } else {
        snprintf(d->dir, sizeof d->dir, "/tmp/keel-demo-XXXXXX");
        if (!mkdtemp(d->dir)) {
            fprintf(stderr, "keel: cannot make a directory under /tmp: %s\n", strerror(errno));
            return false;
        }
        d->own_dir = true;
    }
    snprintf(mark, sizeof mark, "%s/.keel-demo", d->dir);
    f = fopen(mark, "w");
    if (f)
        fclose(f);
    d->system.data_dir = d->dir;
    return f != NULL;
}

/*
 * Bars of minutes or days come at their close, with nights and weekends between: a price counts until the next session, and a
 * quote may be traded on for a quarter of an hour. What the user has set in the environment stays.
 */
static void suit_data(const struct demo *d)
{
    struct stat st;
    bool lines = !d->val[O_DATA] ? true : d->val[O_FORMAT] ? strcmp(d->val[O_FORMAT], "binance") == 0
                                  : stat(d->data, &st) == 0 && S_ISREG(st.st_mode) && strlen(d->data) > 3 &&
                                        strcmp(d->data + strlen(d->data) - 3, ".gz") == 0;

    if (lines) {
        setenv("BAR_SPEC", "1s", 0); /* a session of minutes has too few of them for a cross-section */
        return;
    }
    setenv("MARK_STALE_MS", "345600000", 0);
    setenv("VENUE_MAX_AGE_MS", "900000", 0);
}

static bool start(struct demo *d)
{
    if (!make_dir(d))
        return false;
    d->system.mode = "sim";
    if (d->val[O_DATA]) {
        d->system.feed_dirs = d->data;
    }
    suit_data(d);
    if (!cli_system_start(&d->system))
        return false;
    while (!cli_system_ready(&d->system)) {
        if (!pump(d))
            return false;
        cli_nap(20);
    }
    return true;
}

static void say(struct demo *d)
{
    const char *title = d->val[O_DATA] ? keel_arena_printf(d->session.a, "REPLAY %s / PAPER", d->data)
                                       : keel_arena_printf(d->session.a, "SIMULATED seed %" PRId64 " / PAPER", d->seed);

    d->session.title = title;
    printf("dashboard  %s\n%s\n", cli_url(d->a, "websocket", d->system.port_offset, "/dashboard"), title);
    for (size_t i = 0; i < KEEL_ENGINES; i++)
        printf("  %-11s %s\n", cli_engines[i].name, cli_url(d->a, cli_engines[i].name, d->system.port_offset, "/health"));
    fflush(stdout);
}

/* ---- the session ---- */

static bool make_portfolio(struct demo *d)
{
    struct cli_reply r;
    const struct keel_jval *cash;

    if (d->attach) {
        r = call(d, "portfolio", "POST", "/portfolios",
                 "{\"portfolio_name\":\"demo\",\"initial_value\":\"1000000\",\"currency\":\"USDT\"}");
        if (!done(r))
            return false;
        d->session.portfolio = keel_arena_strdup(d->session.a, keel_jstr(r.json, "portfolio_id"));
    } else {
        d->session.portfolio = "main";
    }
    r = call(d, "portfolio", "GET", keel_arena_printf(d->a, "/portfolios/%s", d->session.portfolio), NULL);
    cash = keel_jget(keel_jget(r.json, "account"), "cash");
    return done(r) && cash && keel_money_parse(cash->text, cash->len, &d->session.initial_cash) == KEEL_OK;
}

/* Risk hears of the portfolio over the bus; until then it denies every order. */
static bool wait_for_risk(struct demo *d)
{
    const char *path = keel_arena_printf(d->session.a, "/risk/report/%s", d->session.portfolio);
    int64_t until = cli_now_ns() + (int64_t)CALL_MS * 1000000;
    struct cli_reply r;

    do {
        keel_arena_reset(d->a);
        r = cli_http(d->a, "POST", cli_url(d->a, "risk", d->system.port_offset, path), "{}", CALL_MS);
        if (!pump(d))
            return false;
        if (r.http == 200)
            return true;
        cli_nap(20);
    } while (cli_now_ns() < until);
    fprintf(stderr, "keel: risk does not know portfolio %s after %d s: %s\n", d->session.portfolio, CALL_MS / 1000,
            r.http == 0 ? r.why : keel_jstr(r.json, "detail"));
    return false;
}

/*
 * What trades: a trend follower that takes liquidity, one that takes more than the touch holds (partial fills), a passive
 * one whose orders rest and age (cancels), one whose orders are larger than risk allows (denials), and one that acts on what
 * price_model says once ml has trained it on the session's own vectors.
 */
static const struct {
    const char *id, *kind, *parameters;
} strategies[] = {
    {"trend", "ma_cross", "{\"fast\":\"ema_12\",\"slow\":\"ema_26\",\"notional\":\"5000\",\"time_in_force\":\"IOC\"}"},
    {"flow", "imbalance", "{\"threshold\":0.6,\"notional\":\"60000\",\"max_position\":\"120000\",\"time_in_force\":\"IOC\"}"},
    {"patient", "rsi_reversion",
     "{\"rsi_low\":40,\"rsi_high\":60,\"notional\":\"3000\",\"time_in_force\":\"GTC\",\"price_offset_bps\":1,\"max_age_s\":5}"},
    {"oversize", "ma_cross", "{\"fast\":\"sma_10\",\"slow\":\"sma_20\",\"notional\":\"400000\",\"time_in_force\":\"IOC\"}"},
    {"model", "model", "{\"threshold\":0.65,\"notional\":\"4000\",\"max_position\":\"8000\",\"time_in_force\":\"IOC\"}"},
};
#define MODEL_STRATEGY (KEEL_COUNT(strategies) - 1)

/* On a system that others use too, a strategy carries the name of the session's own portfolio. */
static const char *strategy_id(const struct demo *d, size_t i)
{
    return d->attach ? keel_arena_printf(d->a, "%s-%s", strategies[i].id, d->session.portfolio) : strategies[i].id;
}

static bool make_strategies(struct demo *d, const char *spec)
{
    d->session.model_strategy = keel_arena_strdup(d->session.a, strategy_id(d, MODEL_STRATEGY));
    for (size_t i = 0; i < KEEL_COUNT(strategies); i++) {
        const char *id = strategy_id(d, i);
        const char *body = keel_arena_printf(
            d->a, "{\"strategy_id\":\"%s\",\"strategy_name\":\"%s\",\"kind\":\"%s\",\"portfolio_id\":\"%s\",\"spec\":\"%s\",\"parameters\":%s}",
            id, strategies[i].id, strategies[i].kind, d->session.portfolio, spec, strategies[i].parameters);

        if (!done(call(d, "strategy", "POST", "/strategies", body)) ||
            !done(call(d, "strategy", "POST", keel_arena_printf(d->a, "/strategies/%s/deploy", id), "{}")) ||
            !done(call(d, "strategy", "POST", keel_arena_printf(d->a, "/strategies/%s/start", id), "{}")))
            return false;
    }
    return true;
}

static const char *symbol_list(struct demo *d)
{
    struct keel_json w;
    const char *p = d->val[O_SYMBOLS];

    if (!p)
        return "";
    keel_json_init(&w, d->a, 256);
    keel_json_arr(&w, NULL);
    while (*p) {
        size_t n = strcspn(p, ",");
        if (n)
            keel_json_strn(&w, NULL, p, n);
        p += n + (p[n] == ',');
    }
    keel_json_end(&w);
    return keel_arena_printf(d->a, ",\"symbols\":%s", keel_json_text(&w));
}

static bool start_feed(struct demo *d)
{
    struct keel_json path;
    struct cli_reply r;
    const char *body;

    if (d->val[O_DATA]) {
        keel_json_init(&path, d->a, 256);
        keel_json_str(&path, NULL, d->data);
        body = keel_arena_printf(d->a, "{\"kind\":\"replay\",\"path\":%s,\"speed\":%s%s%s%s%s}", keel_json_text(&path), d->speed,
                                 d->val[O_FORMAT] ? ",\"format\":\"" : "", d->val[O_FORMAT] ? d->val[O_FORMAT] : "",
                                 d->val[O_FORMAT] ? "\"" : "", symbol_list(d));
    } else {
        body = keel_arena_printf(d->a, "{\"kind\":\"simulate\",\"seed\":%" PRId64 ",\"duration_s\":%" PRId64 ",\"speed\":%s%s}",
                                 d->seed, d->duration, d->speed, symbol_list(d));
    }
    r = call(d, "marketdata", "POST", "/feeds", body);
    d->session.feed_id = keel_arena_strdup(d->session.a, keel_jstr(r.json, "feed_id"));
    return done(r);
}

static void progress(struct demo *d, const struct keel_jval *feed, bool last)
{
    const struct keel_jval *share = keel_jget(feed, "progress");
    static const char full[] = "##############################";
    double f = 0;
    int bar;

    if (share && share->type == KEEL_JNUM)
        (void)keel_f64_parse(share->text, share->len, &f);
    bar = (int)(f * 30 + 0.5);
    if (d->plain_output && !last)
        return;
    printf("%s[%.*s%*s] %3.0f %%  %s quotes, %s trades%s", d->plain_output ? "" : "\r", bar, full, 30 - bar, "", f * 100,
           keel_jget(feed, "quotes") ? keel_jget(feed, "quotes")->text : "0",
           keel_jget(feed, "trades") ? keel_jget(feed, "trades")->text : "0", last ? "\n" : "   ");
    fflush(stdout);
}

/* Until the feed has ended; an engine that is away for a moment (it may be restarting) is asked again. */
static bool follow(struct demo *d)
{
    int64_t away_since = 0;

    for (;;) {
        struct cli_reply r;
        keel_arena_reset(d->a);
        r = cli_http(d->a, "GET", cli_url(d->a, "marketdata", d->system.port_offset,
                                          keel_arena_printf(d->a, "/feeds/%s", d->session.feed_id)), NULL, CALL_MS);
        if (!pump(d))
            return false;
        if (r.http == 200) {
            bool running = strcmp(keel_jstr(r.json, "state"), "STARTED") == 0;
            away_since = 0;
            progress(d, r.json, !running);
            if (!running)
                return true;
        } else if (r.http == 404) {
            fprintf(stderr, "\nkeel: marketdata no longer knows feed %s\n", d->session.feed_id);
            return true;
        } else if (!away_since) {
            away_since = cli_now_ns();
        } else if (cli_now_ns() - away_since > 60000000000) {
            fprintf(stderr, "\nkeel: marketdata has been away for a minute\n");
            return false;
        }
        cli_nap(100);
    }
}

/* Two looks in a row, because an order may be between two engines in the first. */
static bool settle(struct demo *d)
{
    int64_t until = cli_now_ns() + (int64_t)SETTLE_MS * 1000000;
    int calm = 0;
    char why[200] = "";

    while (calm < 3) {
        if (!pump(d))
            return false;
        if (d->session.restarts > 0 && cli_now_ns() > until - (int64_t)(SETTLE_MS - 10000) * 1000000)
            return true; /* counts of a restarted process start anew; the report compares money */
        if (cli_now_ns() > until) {
            fprintf(stderr, "keel: the session did not settle: %s\n", why);
            return true; /* the report shows what is missing */
        }
        calm = cli_settled(&d->session, why, sizeof why) ? calm + 1 : 0;
        cli_nap(50);
    }
    return true;
}

static bool engines_well(struct demo *d)
{
    for (size_t i = 0; i < KEEL_ENGINES; i++) {
        struct cli_reply r = cli_http(d->a, "GET", cli_url(d->a, cli_engines[i].name, d->system.port_offset, "/health"), NULL, CALL_MS);

        if (strcmp(keel_jstr(r.json, "status"), "healthy") != 0)
            return false;
    }
    return true;
}

/*
 * A check whose answer came too late for its order holds headroom until risk has asked strategy for it, 30 s later; an engine
 * that missed a peer for a moment asks again a second later. On a busy machine the report waits for both. What is still held or
 * away then, it shows.
 */
static bool wait_for_calm(struct demo *d)
{
    const char *path = keel_arena_printf(d->session.a, "/risk/report/%s", d->session.portfolio);
    int64_t until = cli_now_ns() + (int64_t)CALM_MS * 1000000;

    for (;;) {
        struct cli_reply r;
        const struct keel_jval *reserved, *open;

        keel_arena_reset(d->a);
        r = cli_http(d->a, "POST", cli_url(d->a, "risk", d->system.port_offset, path), "{}", CALL_MS);
        reserved = keel_jget(r.json, "reservations");
        open = keel_jget(r.json, "open_orders");
        if (!pump(d))
            return false;
        if (cli_now_ns() > until ||
            (reserved && open && strcmp(reserved->text, "0") == 0 && strcmp(open->text, "0") == 0 && engines_well(d)))
            return true;
        cli_nap(50);
    }
}

/* The text with its one %s replaced. */
static const char *with_symbol(struct keel_arena *a, const char *text, const char *symbol)
{
    const char *at = strstr(text, "%s");

    return keel_arena_printf(a, "%.*s%s%s", (int)(at - text), text, symbol, at + 2);
}

/*
 * The critical operations that nobody asked for during the session, once for every symbol, so that the report has figures of
 * them. What an engine cannot answer (a model that is not trained, a universe that is too small) is an honest 422.
 */
static void ask_critical(struct demo *d)
{
    struct cli_reply feed, r;
    const struct keel_jval *symbols;
    static const char *const levels[] = {"simple", "standard", "comprehensive", "institutional"};
    static const struct { const char *engine, *path, *body; } per_symbol[] = {
        {"features", "/features/calculate/%s", "{}"},
        {"factor", "/factors/calculate/%s", "{}"},
        {"ml", "/ml/critical-predict/price_model", "{\"symbol\":\"%s\",\"max_age_ms\":60000}"},
    };

    keel_arena_reset(d->a);
    feed = cli_http(d->a, "GET", cli_url(d->a, "marketdata", d->system.port_offset,
                                         keel_arena_printf(d->a, "/feeds/%s", d->session.feed_id)), NULL, CALL_MS);
    symbols = keel_jget(feed.json, "symbols");
    for (const struct keel_jval *sym = symbols ? symbols->child : NULL; sym; sym = sym->next)
        for (size_t i = 0; i < KEEL_COUNT(per_symbol); i++) {
            bool in_body = strchr(per_symbol[i].body, '%') != NULL;
            const char *path = in_body ? per_symbol[i].path : with_symbol(d->a, per_symbol[i].path, sym->name);
            const char *body = in_body ? with_symbol(d->a, per_symbol[i].body, sym->name) : per_symbol[i].body;
            (void)cli_http(d->a, "POST", cli_url(d->a, per_symbol[i].engine, d->system.port_offset, path), body, CALL_MS);
        }
    for (size_t i = 0; i < KEEL_COUNT(levels); i++) {
        r = cli_http(d->a, "POST", cli_url(d->a, "analytics", d->system.port_offset,
                                           keel_arena_printf(d->a, "/analytics/realtime/%s", d->session.portfolio)),
                     keel_arena_printf(d->a, "{\"complexity\":\"%s\"}", levels[i]), CALL_MS);
        if (r.http == 404)
            break;
    }
}

static bool end_session(struct demo *d)
{
    if (!settle(d))
        return false;
    ask_critical(d);
    for (size_t i = 0; i < KEEL_COUNT(strategies); i++) {
        const char *id = strategy_id(d, i);
        (void)call(d, "strategy", "POST", keel_arena_printf(d->a, "/strategies/%s/stop", id), "{}");
    }
    (void)call(d, "strategy", "DELETE", keel_arena_printf(d->a, "/orders?portfolio_id=%s", d->session.portfolio), NULL);
    return settle(d) && wait_for_calm(d);
}

static void remove_tree(const char *path)
{
    DIR *dp = opendir(path);
    const struct dirent *e;
    char sub[PATH_MAX];
    struct stat st;

    while (dp && (e = readdir(dp))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
        if (lstat(sub, &st) == 0 && S_ISDIR(st.st_mode))
            remove_tree(sub);
        else
            unlink(sub);
    }
    if (dp)
        closedir(dp);
    rmdir(path);
}

static bool run(struct demo *d)
{
    bool ok;
    const char *spec = "1s";

    d->session.port_offset = d->system.port_offset;
    d->session.simulated = !d->val[O_DATA];
    d->session.seed = d->seed;
    say(d);
    if (!make_portfolio(d))
        return false;
    if (d->val[O_DATA]) {
        /* Minute data has no one-second bars: ask marketdata what it found in the path. */
        struct keel_json path;
        struct cli_reply r;
        keel_json_init(&path, d->a, 256);
        keel_json_str(&path, NULL, d->data);
        r = call(d, "marketdata", "POST", "/feeds/sniff", keel_arena_printf(d->a, "{\"path\":%s}", keel_json_text(&path)));
        if (!done(r))
            return false;
        spec = keel_arena_strdup(d->session.a, keel_jstr(r.json, "bar_spec"));
    }
    if (!wait_for_risk(d) || !make_strategies(d, spec))
        return false;
    cli_session_begin(&d->session);
    if (!start_feed(d) || !follow(d) || !end_session(d))
        return false;
    ok = cli_report(&d->session, d->val[O_REPORT]);
    fflush(stdout);
    if (d->val[O_ONCE])
        return ok;
    printf("running until Ctrl-C\n");
    fflush(stdout);
    while (pump(d))
        cli_nap(100);
    return ok;
}

int cli_demo(int argc, char **argv)
{
    struct demo *d = keel_alloc(1, sizeof *d);
    bool help = false, ok;

    if (!parse(d, argc, argv, &help)) {
        keel_free(d);
        return 2;
    }
    if (help) {
        keel_free(d);
        return 0;
    }
    d->plain_output = !isatty(1);
    d->a = keel_arena_new(1 << 16);
    d->session.a = keel_arena_new(1 << 20);
    cli_catch_signals();
    ok = (d->attach || start(d)) && run(d);
    if (!d->attach) {
        cli_system_stop(&d->system);
        if (d->own_dir && ok)
            remove_tree(d->dir);
        else if (!ok && d->dir[0])
            fprintf(stderr, "keel: files and logs are kept in %s\n", d->dir);
    }
    keel_arena_free(d->session.a);
    keel_arena_free(d->a);
    keel_free(d);
    return ok ? 0 : 1;
}
