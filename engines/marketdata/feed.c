/*
 * Feeds: replays and simulations that run as sources, and ingest feeds, which only name what clients send. A
 * feed is listed with everything it counted until it is deleted or makes room for a newer one.
 */
#include <stdio.h>
#include <string.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "ops.h"

KEEL_RECORD_TABLE(md_feed_request, MD_FEED);
KEEL_RECORD_TABLE(md_feed_one, MD_FEED_ONE);
KEEL_RECORD_TABLE(md_sniff, MD_SNIFF);

enum { SIMULATE, REPLAY, INGEST };
enum { STARTED, COMPLETED, FAILED, STOPPED };
static const char *const kind_name[] = {"simulate", "replay", "ingest"};
static const char *const state_name[] = {"STARTED", "COMPLETED", "FAILED", "STOPPED"};
static const char *const format_name[] = {"auto", "binance", "lean", "ohlcv"};

/* ---- the list ---- */

bool md_in_list(const char *symbol, const char (*list)[MARKET_SYMBOL_LEN + 1], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i], symbol) == 0)
            return true;
    }
    return false;
}

static bool wants(const struct md_feed *f, const char *symbol)
{
    return f->n_filter == 0 || md_in_list(symbol, (const char (*)[MARKET_SYMBOL_LEN + 1])f->filter, f->n_filter);
}

struct md_feed *md_feed_find(const struct md *md, const char *feed_id)
{
    for (struct md_feed *f = md->feeds; f != NULL; f = f->next) {
        if (strcmp(f->feed_id, feed_id) == 0)
            return f;
    }
    return NULL;
}

struct md_feed *md_feed_by_no(const struct md *md, uint32_t no)
{
    for (struct md_feed *f = md->feeds; f != NULL && no != 0; f = f->next) {
        if (f->no == no)
            return f;
    }
    return NULL;
}

struct md_feed *md_feed_for_ingest(const struct md *md, const char *symbol)
{
    for (struct md_feed *f = md->feeds; f != NULL; f = f->next) {
        if (f->kind == INGEST && f->state == STARTED && wants(f, symbol))
            return f;
    }
    return NULL;
}

void md_feed_free(struct md_feed *f)
{
    keel_free(f->filter);
    keel_free(f);
}

static void unlist(struct md *md, struct md_feed *f)
{
    struct md_feed **at = &md->feeds;

    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    md->n_feeds--;
    md_feed_free(f);
}

/* Room for one more: the oldest feed that is over goes. False: all are in use. */
static bool make_room(struct md *md)
{
    struct md_feed *oldest = NULL;

    if (md->n_feeds < MD_FEEDS)
        return true;
    for (struct md_feed *f = md->feeds; f != NULL; f = f->next) {
        if (f->state != STARTED && f->said == f->state)
            oldest = f;
    }
    if (oldest != NULL)
        unlist(md, oldest);
    return oldest != NULL;
}

enum keel_status md_name(struct keel_call *c, const char *text, char out[MARKET_SYMBOL_LEN + 1])
{
    if (keel_symbol_normalise(text, out))
        return KEEL_OK;
    return keel_fail_as(c, KEEL_INVALID, "bad_symbol", "symbol",
                        "symbol must be of the form [A-Z0-9][A-Z0-9._-]{0,31}");
}

enum keel_status md_symbols(struct keel_call *c, const char *const *names, size_t n,
                            char (**out)[MARKET_SYMBOL_LEN + 1])
{
    char (*list)[MARKET_SYMBOL_LEN + 1];

    if (n == 0) {
        *out = NULL;
        return KEEL_OK;
    }
    list = keel_alloc(n, sizeof *list);
    for (size_t i = 0; i < n; i++) {
        enum keel_status st = md_name(c, names[i], list[i]);
        if (st == KEEL_OK && md_in_list(list[i], (const char (*)[MARKET_SYMBOL_LEN + 1])list, i))
            st = keel_fail_as(c, KEEL_INVALID, "out_of_range", "symbols", "%s is named twice", list[i]);
        if (st != KEEL_OK) {
            keel_free(list);
            return st;
        }
    }
    *out = list;
    return KEEL_OK;
}

/* ---- as JSON ---- */

static void write_symbols(struct keel_json *w, const struct md *md, const struct md_feed *f)
{
    keel_json_obj(w, "symbols");
    for (size_t i = 0; i < market_size(md->market); i++) {
        const struct market_symbol *s = market_at(md->market, i);
        const struct book_level *bid = book_best(&s->book.bid), *ask = book_best(&s->book.ask);
        bool both = bid != NULL && ask != NULL;
        if (s->feed != f->no)
            continue;
        keel_json_obj(w, s->instrument.symbol);
        if (both || s->has_quote) {
            keel_json_dec(w, "best_bid", both ? bid->price : s->quote.bid);
            keel_json_dec(w, "best_ask", both ? ask->price : s->quote.ask);
        } else {
            keel_json_null(w, "best_bid");
            keel_json_null(w, "best_ask");
        }
        if (s->has_last)
            keel_json_dec(w, "last", s->last);
        else
            keel_json_null(w, "last");
        keel_json_end(w);
    }
    keel_json_end(w);
}

static void write_counts(struct keel_json *w, const struct market_counts *c)
{
    keel_json_u64(w, "records", c->records);
    keel_json_u64(w, "bad_records", c->bad_records);
    keel_json_u64(w, "other_records", c->other_records);
    keel_json_u64(w, "quotes", c->quotes);
    keel_json_u64(w, "trades", c->trades);
    keel_json_money(w, "trade_volume", c->trade_volume);
    keel_json_u64(w, "bars", c->bars);
    keel_json_u64(w, "book_snapshots", c->snapshots);
    keel_json_u64(w, "book_updates_applied", c->book_updates_applied);
    keel_json_u64(w, "book_updates_dropped", c->book_updates_dropped);
    keel_json_u64(w, "sequence_gaps", c->sequence_gaps);
    keel_json_u64(w, "books_crossed", c->crossed);
    keel_json_u64(w, "duplicates", c->duplicates);
    keel_json_u64(w, "out_of_order", c->out_of_order);
    keel_json_u64(w, "rate_collapses", c->rate_collapses);
    if (c->has_delay)
        keel_json_fix(w, "least_delay_ms", (double)c->least_delay_ns / 1e6, 6);
    else
        keel_json_null(w, "least_delay_ms");
    if (c->has_time) {
        keel_json_time(w, "ts_first", c->ts_first);
        keel_json_time(w, "ts_last", c->ts_last);
    } else {
        keel_json_null(w, "ts_first");
        keel_json_null(w, "ts_last");
    }
}

static void write_progress(struct keel_json *w, const struct md_feed *f)
{
    const struct io_conf *conf = &f->conf;
    double done = -1;

    if (f->kind == SIMULATE && conf->duration_ns > 0)
        done = f->c.has_time ? (double)(f->c.ts_last - conf->start_ns) / (double)conf->duration_ns : 0;
    if (f->kind == REPLAY && atomic_load(&conf->total) > 0)
        done = (double)atomic_load(&conf->done) / (double)atomic_load(&conf->total);
    if (f->state == COMPLETED)
        done = 1;
    if (done < 0)
        keel_json_null(w, "progress");
    else
        keel_json_fix(w, "progress", done < 1 ? done : 1, 4);
}

static void write_feed(struct keel_json *w, const char *key, const struct md *md, const struct md_feed *f)
{
    keel_json_obj(w, key);
    keel_json_str(w, "feed_id", f->feed_id);
    keel_json_str(w, "kind", kind_name[f->kind]);
    keel_json_str(w, "state", state_name[f->state]);
    keel_json_str(w, "detail", f->detail[0] != '\0' ? f->detail : NULL);
    if (f->kind == SIMULATE) {
        keel_json_u64(w, "seed", f->conf.seed);
        keel_json_f64(w, "rate", f->conf.rate);
        keel_json_f64(w, "duration_s", (double)f->conf.duration_ns / 1e9);
    }
    if (f->kind == REPLAY) {
        keel_json_str(w, "path", f->conf.path);
        keel_json_str(w, "format", format_name[atomic_load(&f->conf.found)]);
    }
    if (f->kind != INGEST) {
        keel_json_f64(w, "speed", f->speed);
        write_progress(w, f);
    } else {
        keel_json_str(w, "data_source", f->data_source[0] != '\0' ? f->data_source : NULL);
    }
    keel_json_arr(w, "only");
    for (size_t i = 0; i < f->n_filter; i++)
        keel_json_str(w, NULL, f->filter[i]);
    keel_json_end(w);
    write_counts(w, &f->c);
    keel_json_arr(w, "bad");
    for (size_t i = 0; i < f->n_bad; i++) {
        keel_json_obj(w, NULL);
        keel_json_u64(w, "line", f->bad[i].line);
        keel_json_str(w, "detail", f->bad[i].detail);
        keel_json_end(w);
    }
    keel_json_end(w);
    write_symbols(w, md, f);
    keel_json_str(w, "data_sha256", f->digest[0] != '\0' ? f->digest : NULL);
    keel_json_time(w, "started", f->started_ns);
    if (f->ended_ns != 0)
        keel_json_time(w, "ended", f->ended_ns);
    else
        keel_json_null(w, "ended");
    keel_json_end(w);
}

enum keel_status api_feeds_get(struct keel_call *c)
{
    const struct md_list *q = c->arg;
    const struct md *md = md_of(c);
    const struct md_feed *f = md->feeds;
    int64_t n = 0;
    const char *last = NULL;

    if (q->has_after) {
        while (f != NULL && strcmp(f->feed_id, q->after) != 0)
            f = f->next;
        if (f == NULL)
            return keel_fail_as(c, KEEL_INVALID, "out_of_range", "after", "no feed %s", q->after);
        f = f->next;
    }
    keel_json_obj(&c->out, NULL);
    keel_json_arr(&c->out, "feeds");
    for (; f != NULL && n < q->limit; f = f->next, n++) {
        write_feed(&c->out, NULL, md, f);
        last = f->feed_id;
    }
    keel_json_end(&c->out);
    keel_json_i64(&c->out, "count", n);
    keel_json_str(&c->out, "next", f != NULL ? last : NULL);
    keel_json_end(&c->out);
    return KEEL_OK;
}

static enum keel_status find(struct keel_call *c, struct md_feed **out)
{
    const struct md_feed_one *q = c->arg;
    struct md_feed *f = md_feed_find(md_of(c), q->feed_id);

    if (f == NULL)
        return keel_fail(c, KEEL_NOTFOUND, "no feed %s", q->feed_id);
    *out = f;
    return KEEL_OK;
}

enum keel_status api_feed_get(struct keel_call *c)
{
    struct md_feed *f = NULL;
    enum keel_status st = find(c, &f);

    if (st == KEEL_OK)
        write_feed(&c->out, NULL, md_of(c), f);
    return st;
}

/* ---- starting ---- */

/*
 * Publishes the feed's state, in session time: the start of a session in the past that were stamped with the
 * machine's clock would set every reader's clock ahead of the data.
 */
static enum keel_status say(struct keel_call *c, struct md_feed *f)
{
    struct keel_feed r = {.feed_id = f->feed_id, .has_feed_id = true, .kind = kind_name[f->kind], .has_kind = true,
                          .state = f->state, .has_state = true, .detail = f->detail, .has_detail = f->detail[0] != '\0',
                          .seed = (int64_t)f->conf.seed, .has_seed = f->kind == SIMULATE,
                          .records = (int64_t)f->c.records, .has_records = true};
    int64_t ts = f->state == STARTED ? f->c.ts_first : f->c.ts_last;
    enum keel_status st = keel_publish(c, "marketdata.critical.feed", NULL, ts, ts, &r);

    if (st == KEEL_OK)
        f->said = f->state;
    return st;
}

static enum keel_status kind_of(struct keel_call *c, const struct md_feed_request *q, int *kind)
{
    if (q->has_kind)
        *kind = q->kind;
    else if (q->has_path)
        *kind = REPLAY;
    else if (q->has_symbol || q->has_data_source)
        *kind = INGEST;
    else
        return keel_fail_as(c, KEEL_INVALID, "missing", "kind", "kind is required: simulate, replay or ingest");
    if (*kind == REPLAY && !q->has_path)
        return keel_fail_as(c, KEEL_INVALID, "missing", "path", "a replay needs path");
    return KEEL_OK;
}

static bool is_id(const char *s)
{
    return s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")] == '\0';
}

static enum keel_status resolve(struct keel_call *c, const char *path, char out[IO_PATH])
{
    const struct md_options *o = keel_options(c->rt);
    const char **dirs = keel_arena_array(c->arena, o->n_feed_dirs + 1, sizeof *dirs);
    enum keel_status st;

    dirs[0] = keel_data_dir(c->rt);
    for (size_t i = 0; i < o->n_feed_dirs; i++)
        dirs[i + 1] = o->feed_dirs[i];
    st = io_resolve(path, dirs, o->n_feed_dirs + 1, out);
    if (st == KEEL_NOTFOUND)
        return keel_fail_as(c, st, NULL, "path", "nothing is at that path");
    if (st != KEEL_OK)
        return keel_fail_as(c, st, "path_forbidden", "path", "the path is in neither DATA_DIR nor one of FEED_DIRS");
    return KEEL_OK;
}

/* A simulation's symbols are known at once; a replay's show themselves. */
static enum keel_status fill_simulation(struct keel_call *c, const struct md_feed_request *q, struct md_feed *f)
{
    struct md *md = md_of(c);
    const struct market_instrument *all;
    size_t n_all;

    f->conf.seed = (uint64_t)q->seed;
    f->conf.rate = q->rate;
    f->conf.start_ns = q->has_start ? q->start : SIM_START_NS;
    f->conf.duration_ns = (int64_t)(q->duration_s * 1e9);
    if (f->speed <= 0 && f->conf.duration_ns == 0)
        return keel_fail_as(c, KEEL_INVALID, "missing", "duration_s", "at speed 0 a simulation needs duration_s");
    if (f->conf.start_ns <= 0 || f->conf.start_ns > INT64_MAX / 2)
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "start", "start must be after 1970 and before 2116");
    all = market_builtins(&n_all);
    f->conf.n_symbols = f->n_filter > 0 ? f->n_filter : n_all;
    for (size_t i = 0; i < f->conf.n_symbols; i++) {
        const char *name = f->n_filter > 0 ? f->filter[i] : all[i].symbol;
        const struct market_symbol *s = market_find(md->market, name);
        if (market_builtin(name) == NULL || i == SIM_SYMBOLS)
            return keel_fail_as(c, KEEL_NOTFOUND, NULL, "symbols", "the simulator has no %s", name);
        snprintf(f->conf.symbols[i], sizeof f->conf.symbols[i], "%s", name);
        if (s != NULL && s->owner != 0) {
            const struct md_feed *owner = md_feed_by_no(md, s->owner);
            return keel_fail_as(c, KEEL_CONFLICT, "owned_by_feed", "symbols", "feed %s runs on %s",
                                owner != NULL ? owner->feed_id : "", name);
        }
    }
    return KEEL_OK;
}

static enum keel_status fill_feed(struct keel_call *c, const struct md_feed_request *q, struct md_feed *f)
{
    struct md *md = md_of(c);
    const char **names = keel_arena_array(c->arena, q->n_symbols + 1, sizeof *names);
    size_t n = 0, running = 0;
    enum keel_status st = kind_of(c, q, &f->kind);

    if (st != KEEL_OK)
        return st;
    f->no = md->last_no + 1;
    if (q->has_feed_id)
        snprintf(f->feed_id, sizeof f->feed_id, "%s", q->feed_id);
    else
        snprintf(f->feed_id, sizeof f->feed_id, "%s-%u", kind_name[f->kind], f->no);
    if (!is_id(f->feed_id))
        return keel_fail_as(c, KEEL_INVALID, "out_of_range", "feed_id",
                            "feed_id takes letters, digits, '.', '_' and '-'");
    if (md_feed_find(md, f->feed_id) != NULL)
        return keel_fail_as(c, KEEL_CONFLICT, "feed_exists", "feed_id", "feed %s is there already", f->feed_id);
    for (const struct md_feed *o = md->feeds; o != NULL; o = o->next)
        running += o->source != NULL;
    if (f->kind != INGEST && running >= MD_RUNNING)
        return keel_fail_as(c, KEEL_CONFLICT, "too_many_feeds", NULL, "%d feeds run already", MD_RUNNING);
    for (size_t i = 0; i < q->n_symbols; i++)
        names[n++] = q->symbols[i];
    if (q->has_symbol)
        names[n++] = q->symbol;
    st = md_symbols(c, names, n, &f->filter);
    if (st != KEEL_OK)
        return st;
    f->n_filter = n;
    snprintf(f->data_source, sizeof f->data_source, "%s", q->data_source);
    f->speed = q->has_speed ? q->speed : f->kind == SIMULATE;
    f->conf.format = (enum io_format)q->format;
    atomic_init(&f->conf.found, q->format);
    if (f->kind == REPLAY)
        return resolve(c, q->path, f->conf.path);
    return f->kind == SIMULATE ? fill_simulation(c, q, f) : KEEL_OK;
}

static enum keel_status start(struct keel_call *c, struct md_feed *f)
{
    struct md *md = md_of(c);
    size_t per_item = 2 * market_conf(md->market)->n_widths + 4;
    enum keel_status st;

    f->said = -1;
    if (f->kind == INGEST)
        return say(c, f);
    st = keel_source_start(c->rt, "feed_slice", f->kind == SIMULATE ? &io_sim : &io_replay, &f->conf, f, f->speed,
                           per_item, &f->source);
    if (st != KEEL_OK)
        return keel_fail(c, st, "the feed cannot start");
    for (size_t i = 0; i < f->conf.n_symbols; i++) {
        struct market_symbol *s = market_add(md->market, f->conf.symbols[i]);
        if (s != NULL)
            market_claim(s, f->no, md->market);
    }
    return KEEL_OK;
}

enum keel_status api_feed_post(struct keel_call *c)
{
    const struct md_feed_request *q = c->arg;
    struct md *md = md_of(c);
    struct md_feed *f = keel_alloc(1, sizeof *f);
    enum keel_status st = fill_feed(c, q, f);

    f->started_ns = c->wall_ns;
    if (st == KEEL_OK && !make_room(md))
        st = keel_fail_as(c, KEEL_CONFLICT, "too_many_feeds", NULL, "%d feeds are listed; delete one", MD_FEEDS);
    if (st == KEEL_OK)
        st = start(c, f);
    if (st != KEEL_OK) {
        md_feed_free(f);
        return st;
    }
    md->last_no = f->no;
    f->next = md->feeds;
    md->feeds = f;
    md->n_feeds++;
    keel_log(KEEL_LOG_INFO, "feed_started", "feed=%s kind=%s", f->feed_id, kind_name[f->kind]);
    write_feed(&c->out, NULL, md, f);
    return KEEL_OK;
}

/* ---- ending ---- */

static void ended(struct keel_call *c, struct md *md, struct md_feed *f, int state, const char *detail)
{
    f->state = state;
    if (detail != NULL)
        snprintf(f->detail, sizeof f->detail, "%s", detail);
    f->ended_ns = keel_wall_ns();
    f->source = NULL;
    market_release(md->market, f->no);
    say(c, f);
    keel_log(state == FAILED ? KEEL_LOG_WARN : KEEL_LOG_INFO, "feed_ended", "feed=%s state=%s records=%llu detail=%s",
             f->feed_id, state_name[state], (unsigned long long)f->c.records, f->detail);
    if (f->waiter != 0)
        keel_wake(c->rt, f->waiter, KEEL_OK);
    f->waiter = 0;
}

void md_feeds_say(struct keel_call *c, struct md *md)
{
    for (struct md_feed *f = md->feeds; f != NULL; f = f->next) {
        if (f->said != f->state && (f->c.has_time || f->state != STARTED) && say(c, f) != KEEL_OK)
            return;
    }
}

static enum keel_status stopped(struct keel_call *c)
{
    struct md_feed *f = NULL;
    enum keel_status st = find(c, &f);

    if (st == KEEL_OK)
        write_feed(&c->out, NULL, md_of(c), f);
    return st;
}

/* A running feed is stopped and stays listed; one that is over is taken off the list. */
enum keel_status api_feed_delete(struct keel_call *c)
{
    struct md *md = md_of(c);
    struct md_feed *f = NULL;
    enum keel_status st = find(c, &f);

    if (st != KEEL_OK)
        return st;
    if (f->source != NULL) {
        if (f->waiter != 0)
            return keel_fail(c, KEEL_CONFLICT, "feed %s is being stopped", f->feed_id);
        keel_source_stop(f->source);
        return keel_await_wake(c, stopped, &f->waiter);
    }
    if (f->state == STARTED) {
        f->state = STOPPED;
        st = say(c, f);
        if (st != KEEL_OK) {
            f->state = STARTED;
            return st;
        }
        f->ended_ns = c->wall_ns;
        write_feed(&c->out, NULL, md, f);
        return KEEL_OK;
    }
    write_feed(&c->out, NULL, md, f);
    unlist(md, f);
    return KEEL_OK;
}

/* ---- running ---- */

/* Ends the feed from our side: what is still in its hands is passed over. */
static void give_up(struct md_feed *f, const char *symbol, const char *why)
{
    f->failed_here = true;
    snprintf(f->detail, sizeof f->detail, "%s: %s", symbol, why);
    keel_source_stop(f->source);
}

static void keep_bad(struct md_feed *f, const struct market_bad *bad)
{
    if (f->n_bad == MD_BAD)
        return;
    f->bad[f->n_bad].line = bad->line;
    snprintf(f->bad[f->n_bad].detail, sizeof f->bad[f->n_bad].detail, "%s", bad->detail);
    f->n_bad++;
}

/* One other symbol of the feed an item: each gets its turn, so bars of quiet symbols close soon after their time. */
static void look_at_neighbour(struct keel_call *c, struct md *md, struct md_feed *f, int64_t now)
{
    struct market_due due[MARKET_DUE_MAX];
    struct market_symbol *s;

    if (++f->neighbour >= market_size(md->market))
        f->neighbour = 0;
    s = market_at(md->market, f->neighbour);
    if (s->owner == f->no)
        md_publish_due(c, md, due, market_due(md->market, s, now, due, &f->c));
}

static void take_market_event(struct keel_call *c, struct md *md, struct md_feed *f, const struct market_event *ev)
{
    struct market_symbol *s = market_add(md->market, ev->symbol);

    if (s == NULL) {
        give_up(f, ev->symbol, "one symbol more than MAX_SYMBOLS");
        return;
    }
    if (!market_claim(s, f->no, md->market)) {
        give_up(f, ev->symbol, "another feed runs on it");
        return;
    }
    market_count(s, ev, &f->c);
    if (market_is_duplicate(s, ev)) {
        f->c.duplicates++;
        return;
    }
    if (md_publish_event(c, md, ev) != KEEL_OK) {
        /* The room was there before the slice: a bug, but what was received still counts. */
        md->unpublished++;
        keel_log_often(KEEL_LOG_ERROR, "slice_not_published", "feed=%s symbol=%s", f->feed_id, ev->symbol);
    }
    md_take(c, md, s, ev, f->feed_id, &f->c);
    look_at_neighbour(c, md, f, ev->ts_init);
}

static void take_end(struct keel_call *c, struct md *md, struct md_feed *f, const struct market_event *ev)
{
    struct market_due due[MARKET_DUE_MAX];
    struct market_symbol *s = ev->symbol != NULL ? market_find(md->market, ev->symbol) : NULL;

    if (ev->u.digest != NULL)
        snprintf(f->digest, sizeof f->digest, "%s", ev->u.digest);
    if (s != NULL && s->owner == f->no)
        md_publish_due(c, md, due, market_due(md->market, s, ev->ts_init, due, &f->c));
}

static void take_item(struct keel_call *c, struct md *md, struct md_feed *f, const struct market_event *ev)
{
    struct market_event other;

    if (ev->kind == MARKET_END) {
        take_end(c, md, f, ev);
        return;
    }
    if (ev->kind == MARKET_BAD)
        keep_bad(f, &ev->u.bad);
    if (ev->symbol == NULL || ev->kind == MARKET_OTHER || ev->kind == MARKET_BAD) {
        market_count(NULL, ev, &f->c);
    } else if (!wants(f, ev->symbol)) {
        other = *ev;
        other.kind = MARKET_OTHER;
        market_count(NULL, &other, &f->c);
    } else {
        take_market_event(c, md, f, ev);
    }
}

enum keel_status feed_slice(struct keel_call *c)
{
    const struct keel_slice *slice = c->slice;
    struct md *md = md_of(c);
    struct md_feed *f = slice->ctx;
    const struct market_event *ev = slice->items;

    /* Bars wait for the disk: the same slice is offered again. */
    if (md->pending >= MD_PENDING && slice->n > 0)
        return KEEL_SHED;
    for (size_t i = 0; i < slice->n && !f->failed_here; i++)
        take_item(c, md, f, &ev[i]);
    md_flush(md);
    if (f->said < 0 && f->c.has_time)
        say(c, f);
    if (!slice->last)
        return KEEL_OK;
    if (f->failed_here)
        ended(c, md, f, FAILED, NULL);
    else if (slice->ended == KEEL_OK)
        ended(c, md, f, COMPLETED, NULL);
    else if (slice->ended == KEEL_CANCELLED)
        ended(c, md, f, STOPPED, NULL);
    else
        ended(c, md, f, FAILED, slice->why);
    return KEEL_OK;
}

/* ---- looking at a path ---- */

struct sniff_job { char path[IO_PATH], why[200], spec[BARS_SPEC_LEN]; enum io_format format; };

static enum keel_status sniff_work(void *job, const atomic_bool *stop)
{
    struct sniff_job *j = job;

    (void)stop;
    if (j->format == IO_AUTO)
        j->format = io_sniff(j->path, j->why, sizeof j->why);
    return j->format == IO_AUTO ? KEEL_UNDEFINED : io_bar_spec(j->path, j->format, j->spec, j->why, sizeof j->why);
}

static enum keel_status sniffed(struct keel_call *c)
{
    const struct sniff_job *j = c->job;
    const struct market_conf *conf = market_conf(md_of(c)->market);
    enum keel_status st = keel_wait_status(c);
    char finest[BARS_SPEC_LEN] = "";

    if (st == KEEL_UNDEFINED || st == KEEL_INVALID || st == KEEL_NOTFOUND)
        return keel_fail_as(c, KEEL_UNDEFINED, "unknown_format", "path", "%s", j->why);
    if (st != KEEL_OK)
        return st;
    if (conf->n_widths > 0)
        bars_spec(conf->width_ns[0], finest);
    keel_json_obj(&c->out, NULL);
    keel_json_str(&c->out, "path", j->path);
    keel_json_str(&c->out, "format", format_name[j->format]);
    keel_json_str(&c->out, "bar_spec", j->spec[0] != '\0' ? j->spec : finest[0] != '\0' ? finest : NULL);
    keel_json_end(&c->out);
    return KEEL_OK;
}

enum keel_status api_feed_sniff(struct keel_call *c)
{
    const struct md_sniff *q = c->arg;
    struct sniff_job *j = keel_arena_alloc(c->arena, sizeof *j);
    enum keel_status st = resolve(c, q->path, j->path);

    if (st != KEEL_OK)
        return st;
    j->format = (enum io_format)q->format;
    c->job = j;
    return keel_await_work(c, sniff_work, j, sniffed);
}
