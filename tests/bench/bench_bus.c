/*
 * What the bus costs, with its floor measured in the same run over the same unix socket.
 *
 *   bench_bus [RUNS [SECONDS]]    medians of RUNS runs (default 5), each phase SECONDS long (default 2)
 *
 * Two small engines, run by keel_main in processes of their own, speak over a Redis of their own: one publishes critical records
 * from a timer and quotes from a source, the other takes both. The floor is plain hiredis between two processes: XADD, and a
 * blocked XREAD, with entries of the same text. One shared stream is a plain hiredis pair: critical entries at once, the flood
 * every 25 ms, COUNT 100. "The same engines on one stream" have every topic on one lane and a flush every millisecond, which
 * spreads the flood: what lanes alone are worth. Whoever takes a record of the flood works 10 us on it.
 * Latency is from just before publishing to the first line of the row that takes it, by the machine's clock.
 */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <hiredis/hiredis.h>

#include "bus_priv.h"
#include "keel/clock.h"
#include "keel/contract.h"
#include "tree.h"

enum { MAX_RUNS = 64, MAX_SAMPLES = 1 << 16, SYMBOLS = 50, FLOOD_RATE = 50000, BURST = 300000, WORK_NS = 10000 };
/* No multiple of each other: critical records come at every moment of a burst, not always at the same ones. */
enum { PULSE_MS = 3, FLUSH_MS = 25 };

/* What the processes share; the parent asks, the children answer. */
static struct shared {
    atomic_bool pulse;            /* critical records, one every PULSE_MS */
    atomic_llong rate, want;      /* quotes: a second (0: as fast as they go), how many; want is taken back to 0 */
    atomic_llong begun_ns, done_ns; /* of the quotes: handed to the source; published and answered by Redis */
    atomic_llong quotes;          /* received */
    atomic_llong cpu_ns[2];       /* used by producer, consumer */
    atomic_bool recording, stop, works, ready[2];
    atomic_size_t n;
    int64_t sample[MAX_SAMPLES];
} *shared;

static char folder[64], url[112], path[96];

/* A child that does not outlive us. */
static pid_t child(void)
{
    pid_t parent = getpid();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent))
        _exit(1);
    return pid;
}

/* ---- the engines ---- */

static void cpu_note(int who)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    int64_t us = (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
    atomic_store(&shared->cpu_ns[who], us * 1000);
}

static void sample(int64_t sent_ns)
{
    if (!atomic_load(&shared->recording))
        return;
    size_t i = atomic_fetch_add(&shared->n, 1);
    if (i < MAX_SAMPLES)
        shared->sample[i] = keel_wall_ns() - sent_ns;
}

/* What a consumer does with each record of the flood. */
static void work(void)
{
    int64_t until_ns = keel_mono_ns() + WORK_NS;
    while (keel_mono_ns() < until_ns)
        ;
}

struct flood { int64_t left, gap_ns, at_ns, from; };
struct flood_item { int64_t ts_init; int64_t no; };
struct producer { struct flood flood; bool waits, is_over; };

static enum keel_status flood_open(void *cfg, void **self, char *why, size_t cap)
{
    (void)why;
    (void)cap;
    *self = cfg;
    return KEEL_OK;
}

static enum keel_status flood_next(void *self, struct keel_batch *b, const atomic_bool *stop, char *why, size_t cap)
{
    struct flood *f = self;
    struct flood_item *item = b->items;
    (void)why;
    (void)cap;
    for (; f->left > 0 && b->n < b->cap && !atomic_load(stop); f->left--) {
        item[b->n].no = f->left;
        item[b->n++].ts_init = f->at_ns += f->gap_ns;
    }
    return KEEL_OK;
}

static void flood_close(void *self)
{
    (void)self;
}

static const struct keel_source_ops flood_ops = {.name = "quotes", .item_size = sizeof(struct flood_item), .batch_cap = 4096,
                                                 .open = flood_open, .next = flood_next, .close = flood_close};

static enum keel_status slice_begin(struct keel_call *c)
{
    const struct flood_item *item = c->slice->items;
    struct producer *p = c->state;
    p->is_over = c->slice->last;
    for (size_t i = 0; i < c->slice->n; i++) {
        char symbol[16];
        snprintf(symbol, sizeof symbol, "SYM%dUSDT", (int)(item[i].no % SYMBOLS));
        struct keel_quote q = {.symbol = symbol, .has_symbol = true, .bid = 60000 * KEEL_SCALE + item[i].no * 10000000,
                               .has_bid = true, .bid_size = KEEL_SCALE / 4, .has_bid_size = true,
                               .ask = 60001 * KEEL_SCALE + item[i].no * 10000000, .has_ask = true,
                               .ask_size = KEEL_SCALE / 2, .has_ask_size = true};
        enum keel_status st = keel_publish(c, "marketdata.quote", symbol, item[i].ts_init, item[i].ts_init, &q);
        if (st != KEEL_OK)
            return st;
    }
    return KEEL_OK;
}

static enum keel_status pulse_begin(struct keel_call *c)
{
    struct keel_feed rec = {.feed_id = "bench", .has_feed_id = true, .kind = "simulate", .has_kind = true, .has_state = true,
                            .has_records = true};
    if (!atomic_load(&shared->pulse))
        return KEEL_OK;
    return keel_publish(c, "marketdata.critical.feed", "-", keel_wall_ns(), 1, &rec);
}

/* Asked for quotes? Are those asked for all in Redis? */
static enum keel_status watch_begin(struct keel_call *c)
{
    struct producer *p = c->state;
    int64_t want = atomic_exchange(&shared->want, 0), rate = atomic_load(&shared->rate);
    struct keel_source *source;
    atomic_store(&shared->ready[0], keel_bus_connected(c->rt));
    cpu_note(0);
    if (want > 0) {
        p->flood = (struct flood){.left = want, .gap_ns = rate > 0 ? KEEL_S_NS / rate : 0, .at_ns = 1};
        p->waits = true;
        p->is_over = false;
        atomic_store(&shared->begun_ns, keel_mono_ns());
        return keel_source_start(c->rt, "slice", &flood_ops, &p->flood, NULL, rate > 0 ? 1 : 0, 1, &source);
    }
    if (p->waits && p->is_over && keel_bus_idle(c->rt)) {
        p->waits = false;
        atomic_store(&shared->done_ns, keel_mono_ns());
    }
    return KEEL_OK;
}

static const struct keel_op producer_ops[] = {
    {.id = "pulse", .on = KEEL_EVERY(PULSE_MS), .level = KEEL_CRITICAL, .begin = pulse_begin},
    {.id = "watch", .on = KEEL_EVERY(1), .level = KEEL_HIGH, .begin = watch_begin},
    {.id = "slice", .on = KEEL_SOURCE, .level = KEEL_NORMAL, .begin = slice_begin},
};
static const char *const producer_topics[] = {"marketdata.critical.feed", "marketdata.quote", NULL};
static const struct keel_engine producer = {
    .name = "marketdata", .title = "bench", .port = 8800, .ops = producer_ops, .n_ops = KEEL_COUNT(producer_ops),
    .publishes = producer_topics, .state_size = sizeof(struct producer),
};

static enum keel_status feed_begin(struct keel_call *c)
{
    sample(c->rec->ts_event);
    return KEEL_OK;
}

static enum keel_status quote_begin(struct keel_call *c)
{
    (void)c;
    if (atomic_load(&shared->works))
        work();
    atomic_fetch_add(&shared->quotes, 1);
    return KEEL_OK;
}

static enum keel_status consumer_watch(struct keel_call *c)
{
    atomic_store(&shared->ready[1], keel_bus_connected(c->rt));
    cpu_note(1);
    return KEEL_OK;
}

static const struct keel_op consumer_ops[] = {
    {.id = "feed", .on = KEEL_TOPIC("marketdata.critical.feed", KEEL_EACH), .level = KEEL_CRITICAL, .deadline_ms = 1000,
     .takes = &keel_feed_fields, .begin = feed_begin},
    {.id = "quote", .on = KEEL_TOPIC("marketdata.quote", KEEL_EACH), .level = KEEL_HIGH, .deadline_ms = 1000,
     .takes = &keel_quote_fields, .key = "symbol", .begin = quote_begin},
    {.id = "watch", .on = KEEL_EVERY(10), .level = KEEL_HIGH, .begin = consumer_watch},
};
static const struct keel_engine consumer = {
    .name = "websocket", .title = "bench", .port = 8600, .ops = consumer_ops, .n_ops = KEEL_COUNT(consumer_ops),
};

static pid_t engine_start(const struct keel_engine *engine, bool one_lane)
{
    char data[96];
    snprintf(data, sizeof data, "%s/%.20s", folder, engine->name);
    const char *arg[] = {"bench", "--port", "0", "--redis-url", url, "--data-dir", data, "--log-level", "error",
                         "--priority-topics", "none.critical", "--buffer-interval-ms", "1"};
    int argc = one_lane ? (int)KEEL_COUNT(arg) : 9;
    char text[KEEL_COUNT(arg)][128], *argv[KEEL_COUNT(arg) + 1] = {NULL};
    for (int i = 0; i < argc; i++) {
        snprintf(text[i], sizeof text[i], "%s", arg[i]);
        argv[i] = text[i];
    }
    pid_t pid = child();
    if (pid == 0) {
        setenv("ENABLE_HYBRID", "true", 1);
        if (chdir(folder) != 0) /* not the checkout's top: its config/ would be read */
            _exit(1);
        _exit(keel_main(argc, argv, engine));
    }
    return pid;
}

/* ---- the floor ---- */

static redisContext *dial(void)
{
    redisContext *c = redisConnectUnix(path);
    if (c == NULL || c->err != 0) {
        fprintf(stderr, "bench_bus: cannot reach Redis at %s\n", path);
        exit(1);
    }
    return c;
}

/* The text of an entry as the engines write it; sent_ns is its ts_event. */
static void entry_text(char head[KEEL_HEAD_TEXT], size_t *n, uint64_t seq, const char *topic, int64_t sent_ns)
{
    struct keel_header h = {.seq = seq, .ts_event = sent_ns, .ts_init = 1, .ts_recv = sent_ns, .ts_publish = sent_ns};
    snprintf(h.topic, sizeof h.topic, "%s", topic);
    snprintf(h.producer, sizeof h.producer, "hybrid-marketdata-engine");
    snprintf(h.epoch, sizeof h.epoch, "0123456789abc");
    snprintf(h.key, sizeof h.key, "%s", strstr(topic, ".critical.") != NULL ? "" : "SYM7USDT");
    *n = keel_head_print("main", "paper", &h, head);
}

static const char feed_text[] = "{\"feed_id\":\"bench\",\"kind\":\"simulate\",\"state\":\"STARTED\",\"records\":0}";
static const char quote_text[] = "{\"symbol\":\"SYM7USDT\",\"bid\":\"60123.45\",\"bid_size\":\"0.25\",\"ask\":\"60124.45\",\"ask_size\":\"0.5\"}";

static void raw_append(redisContext *c, const char *key, const char *topic, const char *payload, size_t len, uint64_t seq)
{
    char head[KEEL_HEAD_TEXT];
    size_t n;
    entry_text(head, &n, seq, topic, keel_wall_ns());
    const char *argv[] = {"XADD", key, "*", "h", head, "p", payload};
    size_t lens[] = {4, strlen(key), 1, 1, n, 1, len};
    redisAppendCommandArgv(c, 7, argv, lens);
}

static void raw_answers(redisContext *c, size_t n)
{
    for (; n > 0; n--) {
        void *reply = NULL;
        if (redisGetReply(c, &reply) != REDIS_OK)
            _exit(3);
        freeReplyObject(reply);
    }
}

static void nap_until(int64_t at_ns)
{
    int64_t left = at_ns - keel_mono_ns();
    struct timespec t = {left / KEEL_S_NS, left % KEEL_S_NS};
    if (left > 0)
        nanosleep(&t, NULL);
}

/* A critical record every PULSE_MS; with a flood what comes in FLUSH_MS at once on the same stream. */
static void raw_producer(bool flood)
{
    redisContext *c = dial();
    int64_t pulse_ns = keel_mono_ns(), flood_ns = flood ? pulse_ns : INT64_MAX;
    uint64_t seq = 0;
    while (!atomic_load(&shared->stop)) {
        size_t open = 0;
        nap_until(pulse_ns < flood_ns ? pulse_ns : flood_ns);
        int64_t now_ns = keel_mono_ns();
        if (now_ns >= pulse_ns) {
            raw_append(c, "bench:raw", "marketdata.critical.feed", feed_text, sizeof feed_text - 1, ++seq);
            pulse_ns += PULSE_MS * KEEL_MS_NS;
            open++;
        }
        if (now_ns >= flood_ns) {
            for (int i = 0; i < FLOOD_RATE * FLUSH_MS / 1000; i++, open++)
                raw_append(c, "bench:raw", "marketdata.quote", quote_text, sizeof quote_text - 1, ++seq);
            flood_ns += FLUSH_MS * KEEL_MS_NS;
        }
        raw_answers(c, open);
    }
    _exit(0);
}

static void raw_entry(const struct keel_entry *e)
{
    struct keel_envelope env;
    if (keel_head_parse(e->h, e->h_len, &env) != NULL)
        return;
    if (strcmp(env.h.topic, "marketdata.quote") == 0) {
        work();
        return;
    }
    sample(env.h.ts_event);
}

static void raw_each(void *ctx, const char *key, size_t key_len, const struct keel_entry *e)
{
    char *last = ctx;
    (void)key;
    (void)key_len;
    keel_sid_print(e->id, last);
    raw_entry(e);
}

static void raw_consumer(void)
{
    redisContext *c = dial();
    char last[KEEL_SID_TEXT] = "$";
    while (!atomic_load(&shared->stop)) {
        redisReply *r = redisCommand(c, "XREAD COUNT 100 BLOCK 200 STREAMS bench:raw %s", last);
        keel_stream_parse(r, raw_each, last);
        freeReplyObject(r);
    }
    _exit(0);
}

static pid_t raw_start(void (*fn)(void))
{
    pid_t pid = child();
    if (pid == 0)
        fn();
    return pid;
}

static void raw_quiet(void)
{
    raw_producer(false);
}

static void raw_loud(void)
{
    raw_producer(true);
}

/* Pipelined XADD, 128 at a time, from one process; records a second. */
static double raw_publish(void)
{
    redisContext *c = dial();
    int64_t begin_ns = keel_mono_ns();
    for (uint64_t i = 0; i < BURST; i += 128) {
        for (uint64_t k = 0; k < 128; k++)
            raw_append(c, "bench:bulk", "marketdata.quote", quote_text, sizeof quote_text - 1, i + k + 1);
        raw_answers(c, 128);
    }
    double seconds = (double)(keel_mono_ns() - begin_ns) / 1e9;
    freeReplyObject(redisCommand(c, "DEL bench:bulk"));
    redisFree(c);
    return BURST / seconds;
}

/* ---- the phases ---- */

struct result { double p50, p99; };

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void nap_ms(int64_t ms)
{
    nap_until(keel_mono_ns() + ms * KEEL_MS_NS);
}

static struct result percentiles(void)
{
    static double v[MAX_SAMPLES];
    size_t n = atomic_load(&shared->n);
    if (n > MAX_SAMPLES)
        n = MAX_SAMPLES;
    if (n == 0)
        return (struct result){NAN, NAN};
    for (size_t i = 0; i < n; i++)
        v[i] = (double)shared->sample[i] / 1000;
    qsort(v, n, sizeof *v, by_value);
    return (struct result){v[n / 2], v[n * 99 / 100]};
}

static struct result record_for(int64_t ms)
{
    nap_ms(300); /* what the start has stirred up */
    atomic_store(&shared->n, 0);
    atomic_store(&shared->recording, true);
    nap_ms(ms);
    atomic_store(&shared->recording, false);
    return percentiles();
}

static void end(pid_t pid)
{
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
}

static struct result raw_phase(void (*produce)(void), int64_t ms)
{
    atomic_store(&shared->stop, false);
    pid_t reader = raw_start(raw_consumer);
    nap_ms(100);
    pid_t writer = raw_start(produce);
    struct result r = record_for(ms);
    atomic_store(&shared->stop, true);
    waitpid(writer, NULL, 0);
    waitpid(reader, NULL, 0);
    redisContext *c = dial();
    freeReplyObject(redisCommand(c, "DEL bench:raw"));
    redisFree(c);
    return r;
}

static void wait_ready(int who)
{
    for (int i = 0; i < 1000 && !atomic_load(&shared->ready[who]); i++)
        nap_ms(10);
    if (!atomic_load(&shared->ready[who])) {
        fprintf(stderr, "bench_bus: an engine did not become ready\n");
        exit(1);
    }
}

static pid_t started(int who, bool one_lane)
{
    atomic_store(&shared->ready[who], false);
    pid_t pid = engine_start(who == 0 ? &producer : &consumer, one_lane);
    wait_ready(who);
    return pid;
}

/* Quotes as fast as they go, all in Redis; 0 rate. Seconds from the first to the last answer. */
static double burst(long long count, int64_t *cpu_ns)
{
    int64_t before_ns = atomic_load(&shared->cpu_ns[0]);
    atomic_store(&shared->done_ns, 0);
    atomic_store(&shared->rate, 0);
    atomic_store(&shared->want, count);
    while (atomic_load(&shared->done_ns) == 0)
        nap_ms(1);
    nap_ms(20);
    *cpu_ns = atomic_load(&shared->cpu_ns[0]) - before_ns;
    return (double)(atomic_load(&shared->done_ns) - atomic_load(&shared->begun_ns)) / 1e9;
}

static struct result flood_phase(int64_t ms, double *rate, double *cpu_us)
{
    atomic_store(&shared->rate, FLOOD_RATE);
    atomic_store(&shared->done_ns, 0);
    atomic_store(&shared->want, FLOOD_RATE * (ms + 600) / 1000);
    atomic_store(&shared->pulse, true);
    atomic_store(&shared->works, true);
    nap_ms(100);
    long long quotes = atomic_load(&shared->quotes), cpu_ns = atomic_load(&shared->cpu_ns[1]);
    int64_t begin_ns = keel_mono_ns();
    struct result r = record_for(ms);
    quotes = atomic_load(&shared->quotes) - quotes;
    *rate = (double)quotes * 1e9 / (double)(keel_mono_ns() - begin_ns);
    *cpu_us = (double)(atomic_load(&shared->cpu_ns[1]) - cpu_ns) / 1000 / (double)quotes;
    atomic_store(&shared->pulse, false);
    for (int i = 0; i < 5000 && atomic_load(&shared->done_ns) == 0; i++)
        nap_ms(2);
    atomic_store(&shared->works, false);
    return r;
}

/* ---- the table ---- */

enum row { RAW_IDLE50, RAW_IDLE99, IDLE50, IDLE99, IDLE_RATIO, RAW_PUBLISH, PUBLISH, PUBLISH_CPU, THROUGH, FLOOD50, FLOOD99,
           FLOOD_RATE_SEEN, FLOOD_CPU, ONE50, ONE99, ONE_RATE, RAW_ONE50, RAW_ONE99, BETTER50, BETTER99, OWN50, OWN99, N_ROWS };

static const struct { const char *text, *unit, *goal; } row_text[N_ROWS] = {
    [RAW_IDLE50] = {"idle critical, plain hiredis, p50", "us", ""},
    [RAW_IDLE99] = {"idle critical, plain hiredis, p99", "us", ""},
    [IDLE50] = {"idle critical, engines, p50", "us", ""},
    [IDLE99] = {"idle critical, engines, p99", "us", ""},
    [IDLE_RATIO] = {"idle critical, engines / hiredis, p50", "x", "<= 1.3"},
    [RAW_PUBLISH] = {"bulk publish, plain hiredis pipeline of 128", "records/s", ""},
    [PUBLISH] = {"bulk publish, engine", "records/s", ">= 200000"},
    [PUBLISH_CPU] = {"bulk publish, engine's processor time a record", "us", ""},
    [THROUGH] = {"bulk, published and taken by an engine", "records/s", ""},
    [FLOOD50] = {"critical under a 50,000/s flood, p50", "us", "<= 400"},
    [FLOOD99] = {"critical under a 50,000/s flood, p99", "us", "<= 3000"},
    [FLOOD_RATE_SEEN] = {"the flood as it was taken", "records/s", ""},
    [FLOOD_CPU] = {"consumer's processor time a record, 10 us of work in it", "us", ""},
    [ONE50] = {"the same engines on one stream, p50", "us", ""},
    [ONE99] = {"the same engines on one stream, p99", "us", ""},
    [ONE_RATE] = {"the flood as it was taken", "records/s", ""},
    [RAW_ONE50] = {"plain hiredis on one stream, p50", "us", ""},
    [RAW_ONE99] = {"plain hiredis on one stream, p99", "us", ""},
    [BETTER50] = {"lanes against one shared stream, plain hiredis, p50", "x", ">= 5"},
    [BETTER99] = {"lanes against one shared stream, plain hiredis, p99", "x", ">= 5"},
    [OWN50] = {"lanes against the same engines on one stream, p50", "x", ""},
    [OWN99] = {"lanes against the same engines on one stream, p99", "x", ""},
};

static double table[N_ROWS][MAX_RUNS];

static void run_once(int i, int64_t ms)
{
    struct result r;
    int64_t cpu_ns;
    pid_t a = started(0, false);
    table[RAW_PUBLISH][i] = raw_publish();
    table[PUBLISH][i] = BURST / burst(BURST, &cpu_ns);
    table[PUBLISH_CPU][i] = (double)cpu_ns / 1000 / BURST;
    end(a);
    a = started(0, false);
    pid_t b = started(1, false);
    r = raw_phase(raw_quiet, ms);
    table[RAW_IDLE50][i] = r.p50, table[RAW_IDLE99][i] = r.p99;
    atomic_store(&shared->pulse, true);
    r = record_for(ms);
    atomic_store(&shared->pulse, false);
    table[IDLE50][i] = r.p50, table[IDLE99][i] = r.p99;
    table[IDLE_RATIO][i] = r.p50 / table[RAW_IDLE50][i];
    long long before = atomic_load(&shared->quotes);
    int64_t begin_ns = keel_mono_ns();
    burst(BURST / 3, &cpu_ns);
    while (atomic_load(&shared->quotes) - before < BURST / 3)
        nap_ms(1);
    table[THROUGH][i] = BURST / 3 * 1e9 / (double)(keel_mono_ns() - begin_ns);
    r = flood_phase(ms, &table[FLOOD_RATE_SEEN][i], &table[FLOOD_CPU][i]);
    table[FLOOD50][i] = r.p50, table[FLOOD99][i] = r.p99;
    end(a);
    end(b);
    double unused;
    b = started(1, true);
    a = started(0, true);
    r = flood_phase(ms, &table[ONE_RATE][i], &unused);
    table[ONE50][i] = r.p50, table[ONE99][i] = r.p99;
    end(a);
    end(b);
    r = raw_phase(raw_loud, ms);
    table[RAW_ONE50][i] = r.p50, table[RAW_ONE99][i] = r.p99;
    table[BETTER50][i] = r.p50 / table[FLOOD50][i], table[BETTER99][i] = r.p99 / table[FLOOD99][i];
    table[OWN50][i] = table[ONE50][i] / table[FLOOD50][i], table[OWN99][i] = table[ONE99][i] / table[FLOOD99][i];
}

static void machine(void)
{
    char line[256], model[200] = "";
    FILE *f = fopen("/proc/cpuinfo", "r");
    struct utsname u;
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':') != NULL)
            snprintf(model, sizeof model, "%.*s", (int)strcspn(strchr(line, ':') + 2, "\n"), strchr(line, ':') + 2);
    if (f != NULL)
        fclose(f);
    uname(&u);
    double load[1] = {0};
    getloadavg(load, 1);
    printf("machine: %ld cores, %s, %s %s, load %.1f at the end\n", sysconf(_SC_NPROCESSORS_ONLN), model, u.sysname, u.release,
           load[0]);
}

static pid_t redis_start(void)
{
    pid_t pid = child();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir",
               folder, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 1000; i++) {
        redisContext *c = redisConnectUnix(path);
        bool up = c != NULL && c->err == 0;
        if (c != NULL)
            redisFree(c);
        if (up)
            return pid;
        nap_ms(10);
    }
    fprintf(stderr, "bench_bus: no redis-server\n");
    exit(77);
}

int main(int argc, char **argv)
{
    long runs = argc > 1 ? strtol(argv[1], NULL, 10) : 5, seconds = argc > 2 ? strtol(argv[2], NULL, 10) : 2;
    if (runs < 1 || runs > MAX_RUNS || seconds < 1 || seconds > 60) {
        fprintf(stderr, "usage: bench_bus [RUNS 1..64 [SECONDS 1..60]]\n");
        return 2;
    }
    snprintf(folder, sizeof folder, "/tmp/keel-bench-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/redis.sock", folder);
    snprintf(url, sizeof url, "unix://%s", path);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 1;
    pid_t redis = redis_start();
    for (int i = 0; i < runs; i++)
        run_once(i, seconds * 1000);
    end(redis);
    tree_remove(folder);
    printf("| what | median | unit | goal | lowest | highest |\n|---|---|---|---|---|---|\n");
    for (int k = 0; k < N_ROWS; k++) {
        double *v = table[k];
        qsort(v, (size_t)runs, sizeof *v, by_value);
        int digits = v[runs / 2] < 100 ? 2 : 0;
        printf("| %s | %.*f | %s | %s | %.*f | %.*f |\n", row_text[k].text, digits, v[runs / 2], row_text[k].unit,
               row_text[k].goal, digits, v[0], digits, v[runs - 1]);
    }
    machine();
    return 0;
}
