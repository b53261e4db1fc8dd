/*
 * The store: SQLite behind one thread. The loop appends transactions to a queue; the store thread
 * takes everything that is queued as one commit, so that one fsync serves all that waited, and
 * hands completions back in order.
 *
 * When a commit fails, all of it is rolled back, and whatever was queued on the strength of it
 * fails as well: the store is `broken` until the loop has handed back every failure and the engine
 * has reloaded its state from the file. From then on transactions are tried again; without any, a
 * probe write every second finds out when the disk is back.
 *
 * The log that commits append to is written back to the file (a checkpoint) by the store thread too, but not within
 * a commit, as SQLite would: whoever waited for that one would wait for a thousand pages. It waits until nobody has asked
 * for a while.
 *
 * Reads have connections of their own: one for the loop (start only), a few that workers borrow.
 */
#include "rt.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <sqlite3.h>

#include "keel/clock.h"
#include "keel/log.h"

enum {
    APPLICATION_ID = 0x4b45454c, /* "KEEL" in the file's header */
    SCHEMA_VERSION = 1,
    CACHE_SLOTS = 512,
    MAX_COLUMNS = 64,
    MAX_ROWS = 5000,
    MAX_READERS = 8,
    READER_STATEMENTS = 8,
    BUSY_MS = 5000,
    DUE_FRAMES = 4000,  /* new in the log: a checkpoint is due once the store is idle */
    MOST_FRAMES = 16000, /* idle or not */
    IDLE_NS = 4000000,
    WHY_CAP = 240
};

struct value {
    char type; /* a letter of fmt; m and D have become s */
    int64_t i;
    double d;
    const char *s;
};

struct statement {
    const char *sql;
    struct value *values;
    int n;
    struct statement *next;
};

struct after {
    void (*fn)(struct keel_rt *rt, void *ctx, enum keel_status st);
    void *ctx;
    struct after *next;
};

struct keel_txn {
    struct keel_arena *arena; /* holds the transaction itself */
    struct keel_store *store;
    struct statement *first, *last;
    struct after *first_after, *last_after;
    void (*done)(struct keel_rt *rt, void *ctx, enum keel_status st);
    void *ctx;
    uint64_t token; /* of the call that waits */
    enum keel_status status;
    int64_t commit_ns; /* > 0 in the first transaction of a commit: how long it took */
    struct keel_txn *next;
};

struct list {
    struct keel_txn *first, *last;
};
struct cached {
    const char *sql;
    sqlite3_stmt *stmt;
};

/* A connection that workers borrow, and the statements that were run on it last. */
struct reader {
    sqlite3 *db;
    sqlite3_stmt *stmt[READER_STATEMENTS];
    size_t next; /* to be replaced */
};

struct keel_store {
    struct keel_rt *rt;
    char name[64], path[1024];
    sqlite3 *writer; /* the store thread's */
    int64_t epoch;   /* the file's when it was opened here */
    struct cached cache[CACHE_SLOTS];
    size_t n_cached;
    int frames, written_back; /* the store thread's: in the log; in it at the last checkpoint */
    sqlite3 *loop_reader;
    uv_thread_t thread;
    uv_async_t async;
    uv_mutex_t mutex; /* guards what follows, up to the blank line */
    uv_cond_t cond;
    struct list queue, done;
    bool stop, broken;
    int fail_next;
    char thread_why[WHY_CAP];
    struct reader *reader[MAX_READERS]; /* idle ones */
    size_t n_readers;

    atomic_bool ok;
    bool closing;
    size_t queued; /* not yet handed back */
    char why[WHY_CAP];
    struct keel_store *next;
};

/*
 * The fencing epoch: raised by whoever opens the file for writing, compared by every commit. So of two processes that
 * both believe to be at work only the one that came last can write, however long the other was stopped in between.
 */
static const char raise_epoch_sql[] =
    "INSERT OR IGNORE INTO keel_bus_meta VALUES('writer', '0');"
    "UPDATE keel_bus_meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'writer'";
static const char epoch_sql[] = "SELECT CAST(value AS INTEGER) FROM keel_bus_meta WHERE name = 'writer'";

/* Every open store of the process, and what to do when one failed. */
static struct keel_store *stores;
static void (*on_fail)(struct keel_rt *rt);

/* ---- values ---- */

static const char *dec_text(struct keel_arena *a, int64_t v)
{
    char buf[KEEL_DEC_TEXT];
    return keel_arena_strndup(a, buf, keel_dec_print(v, buf));
}

static const char *money_text(struct keel_arena *a, const keel_i128 *v)
{
    char buf[KEEL_MONEY_TEXT];
    return keel_arena_strndup(a, buf, keel_money_print(*v, buf));
}

static struct value *values_read(struct keel_arena *a, const char *fmt, va_list *ap)
{
    struct value *values = keel_arena_array(a, strlen(fmt) + 1, sizeof *values);
    for (size_t i = 0; fmt[i] != '\0'; i++) {
        struct value *v = &values[i];
        const char *s;
        v->type = fmt[i];
        switch (fmt[i]) {
        case 'i':
            v->i = va_arg(*ap, int64_t);
            break;
        case 'd':
            v->d = va_arg(*ap, double);
            break;
        case 's':
            s = va_arg(*ap, const char *);
            v->s = s != NULL ? keel_arena_strdup(a, s) : NULL;
            break;
        case 'm':
            v->type = 's';
            v->s = money_text(a, va_arg(*ap, const keel_i128 *));
            break;
        case 'D':
            v->type = 's';
            v->s = dec_text(a, va_arg(*ap, int64_t));
            break;
        default:
            keel_assert(fmt[i] == 'n');
            break;
        }
    }
    return values;
}

/* The values outlive the statement's run, so SQLite need not copy them. */
static int values_bind(sqlite3_stmt *stmt, const struct value *values, int n)
{
    int rc = SQLITE_OK;
    for (int i = 0; i < n && rc == SQLITE_OK; i++) {
        const struct value *v = &values[i];
        if (v->type == 'i')
            rc = sqlite3_bind_int64(stmt, i + 1, v->i);
        else if (v->type == 'd')
            rc = sqlite3_bind_double(stmt, i + 1, v->d);
        else if (v->type == 's' && v->s != NULL)
            rc = sqlite3_bind_text(stmt, i + 1, v->s, -1, SQLITE_STATIC);
        else
            rc = sqlite3_bind_null(stmt, i + 1);
    }
    return rc;
}

/* ---- transactions, on the loop ---- */

struct keel_store *keel_store(struct keel_rt *rt)
{
    return rt->store;
}

struct keel_txn *keel_txn_new(struct keel_store *s)
{
    keel_assert(s != NULL);
    struct keel_arena *a = keel_arena_new(2048);
    struct keel_txn *t = keel_arena_alloc(a, sizeof *t);
    t->arena = a;
    t->store = s;
    return t;
}

struct keel_store *keel_txn_store(const struct keel_txn *t)
{
    return t->store;
}

void keel_txn_exec(struct keel_txn *t, const char *sql, const char *fmt, ...)
{
    struct statement *st = keel_arena_alloc(t->arena, sizeof *st);
    va_list ap;
    va_start(ap, fmt);
    st->values = values_read(t->arena, fmt, &ap);
    va_end(ap);
    st->sql = sql;
    st->n = (int)strlen(fmt);
    if (t->last != NULL)
        t->last->next = st;
    else
        t->first = st;
    t->last = st;
}

void keel_txn_after(struct keel_txn *t,
                    void (*fn)(struct keel_rt *rt, void *ctx, enum keel_status st), void *ctx)
{
    struct after *after = keel_arena_alloc(t->arena, sizeof *after);
    after->fn = fn;
    after->ctx = ctx;
    if (t->last_after != NULL)
        t->last_after->next = after;
    else
        t->first_after = after;
    t->last_after = after;
}

static void list_append(struct list *to, struct list from)
{
    if (from.first == NULL)
        return;
    if (to->last != NULL)
        to->last->next = from.first;
    else
        to->first = from.first;
    to->last = from.last;
}

static struct list list_take(struct list *from)
{
    struct list all = *from;
    *from = (struct list){NULL, NULL};
    return all;
}

static void list_set_status(struct list *l, enum keel_status st)
{
    for (struct keel_txn *t = l->first; t != NULL; t = t->next)
        t->status = st;
}

void keel_txn_commit(struct keel_rt *rt, struct keel_txn *t,
                     void (*done)(struct keel_rt *rt, void *ctx, enum keel_status st), void *ctx)
{
    struct keel_store *s = t->store;
    keel_assert(s->rt == rt);
    t->done = done;
    t->ctx = ctx;
    s->queued++;
    uv_mutex_lock(&s->mutex);
    list_append(&s->queue, (struct list){t, t});
    uv_cond_signal(&s->cond);
    uv_mutex_unlock(&s->mutex);
}

static void txn_finish(struct keel_rt *rt, struct keel_txn *t, enum keel_status st)
{
    for (struct after *after = t->first_after; after != NULL; after = after->next)
        after->fn(rt, after->ctx, st);
    if (t->done != NULL)
        t->done(rt, t->ctx, st);
    keel_arena_free(t->arena);
}

void keel_txn_drop(struct keel_txn *t)
{
    if (t == NULL)
        return;
    t->done = NULL;
    txn_finish(t->store->rt, t, KEEL_CANCELLED);
}

static void wake_waiter(struct keel_rt *rt, void *ctx, enum keel_status st)
{
    const struct keel_txn *t = ctx;
    struct keel_call *c = keel_call_of(rt, t->token);
    if (c != NULL && st != KEEL_OK)
        keel_fail_as(c, st, "store_unavailable", NULL, "nothing was stored: %s", t->store->why);
    keel_wake(rt, t->token, st);
}

enum keel_status keel_await_store(struct keel_call *c, struct keel_txn *txn, keel_step_fn *next)
{
    if (c->op->on.kind == KEEL_ON_TOPIC && c->op->on.read == KEEL_SHARE && c->rec != NULL)
        keel_bus_mark(c->rt, c->rec, txn);
    /* What is queued will happen: a deadline that passes now must not say that nothing did. */
    keel_commit_point(c, NULL);
    keel_await_wake(c, next, &txn->token);
    keel_txn_commit(c->rt, txn, wake_waiter, txn);
    return KEEL_WAIT;
}

/* ---- the store thread ---- */

static sqlite3_stmt *statement_of(struct keel_store *s, const char *sql)
{
    size_t at = (size_t)(((uintptr_t)sql >> 3) * 2654435761u) % CACHE_SLOTS;
    while (s->cache[at].sql != NULL && s->cache[at].sql != sql)
        at = (at + 1) % CACHE_SLOTS;
    if (s->cache[at].sql == NULL) {
        sqlite3_stmt *stmt = NULL;
        /* Statements are literals of the program: this many means that somebody builds them at run
         * time. */
        keel_assert(s->n_cached < CACHE_SLOTS - 1);
        if (sqlite3_prepare_v3(s->writer, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL) !=
            SQLITE_OK)
            return NULL;
        s->cache[at] = (struct cached){sql, stmt};
        s->n_cached++;
    }
    return s->cache[at].stmt;
}

static bool statement_run(struct keel_store *s, const struct statement *st, char why[WHY_CAP])
{
    sqlite3_stmt *stmt = statement_of(s, st->sql);
    int rc = stmt != NULL ? values_bind(stmt, st->values, st->n) : SQLITE_ERROR;
    if (rc == SQLITE_OK) {
        do
            rc = sqlite3_step(stmt);
        while (rc == SQLITE_ROW);
    }
    if (rc != SQLITE_DONE)
        snprintf(why, WHY_CAP, "%s in %.100s", sqlite3_errmsg(s->writer), st->sql);
    if (stmt != NULL) {
        sqlite3_reset(stmt);
        sqlite3_clear_bindings(stmt);
    }
    return rc == SQLITE_DONE;
}

static bool writer_exec(struct keel_store *s, const char *sql, char why[WHY_CAP])
{
    if (sqlite3_exec(s->writer, sql, NULL, NULL, NULL) == SQLITE_OK)
        return true;
    snprintf(why, WHY_CAP, "%s", sqlite3_errmsg(s->writer));
    return false;
}

static void writer_rollback(struct keel_store *s)
{
    if (!sqlite3_get_autocommit(s->writer))
        sqlite3_exec(s->writer, "ROLLBACK", NULL, NULL, NULL);
}

/* Within a transaction, so that nobody can raise it before the commit. */
static bool epoch_is_ours(struct keel_store *s, char why[WHY_CAP])
{
    sqlite3_stmt *stmt = statement_of(s, epoch_sql);
    bool read = stmt != NULL && sqlite3_step(stmt) == SQLITE_ROW;
    bool ours = read && sqlite3_column_int64(stmt, 0) == s->epoch;
    if (!read)
        snprintf(why, WHY_CAP, "%s", sqlite3_errmsg(s->writer));
    else if (!ours)
        snprintf(why, WHY_CAP, "another instance has taken over this store");
    sqlite3_reset(stmt);
    return ours;
}

static bool writer_run(struct keel_store *s, const char *literal, char why[WHY_CAP])
{
    return statement_run(s, &(struct statement){.sql = literal}, why);
}

static bool commit_batch(struct keel_store *s, const struct list *batch, bool inject,
                         char why[WHY_CAP])
{
    static const char begin[] = "BEGIN IMMEDIATE", commit[] = "COMMIT";
    bool good = writer_run(s, begin, why) && epoch_is_ours(s, why);
    for (struct keel_txn *t = batch->first; t != NULL && good; t = t->next)
        for (struct statement *st = t->first; st != NULL && good; st = st->next)
            good = statement_run(s, st, why);
    if (good && inject) {
        snprintf(why, WHY_CAP, "database or disk is full (injected)");
        good = false;
    }
    good = good && writer_run(s, commit, why);
    if (!good)
        writer_rollback(s);
    return good;
}

/* Rewrites one page of the file, as a commit would. */
static bool probe_write(struct keel_store *s, char why[WHY_CAP])
{
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", SCHEMA_VERSION);
    bool good = writer_exec(s, "BEGIN IMMEDIATE", why) && epoch_is_ours(s, why) &&
                writer_exec(s, sql, why) && writer_exec(s, "COMMIT", why);
    if (!good)
        writer_rollback(s);
    return good;
}

static void became(struct keel_store *s, bool good, const char *why)
{
    if (!good)
        keel_log_often(KEEL_LOG_ERROR, "store_write_failed", "file=%s detail=%s", s->path, why);
    else if (!atomic_load(&s->ok))
        keel_log(KEEL_LOG_INFO, "store_writes_again", "file=%s", s->path);
    atomic_store(&s->ok, good);
}

/* Called with the mutex held; lets go of it while the disk works. */
static void commit_queued(struct keel_store *s)
{
    struct list batch = list_take(&s->queue);
    bool inject = s->fail_next > 0;
    char why[WHY_CAP] = "";
    s->fail_next -= inject;
    uv_mutex_unlock(&s->mutex);

    int64_t from = keel_mono_ns();
    bool good = commit_batch(s, &batch, inject, why);
    batch.first->commit_ns = keel_mono_ns() - from;
    list_set_status(&batch, good ? KEEL_OK : KEEL_UNAVAILABLE);
    became(s, good, why);

    uv_mutex_lock(&s->mutex);
    list_append(&s->done, batch);
    if (!good) {
        s->broken = true;
        snprintf(s->thread_why, sizeof s->thread_why, "%s", why);
    }
}

/* Called with the mutex held. While failures are injected the disk counts as full for the probe
 * too. */
static void probe_again(struct keel_store *s)
{
    char why[WHY_CAP] = "";
    if (s->fail_next > 0)
        return;
    uv_mutex_unlock(&s->mutex);
    became(s, probe_write(s, why), why);
    uv_mutex_lock(&s->mutex);
}

/* Instead of SQLite's own, which makes the checkpoint. A log that began anew is shorter than it was. */
static int on_log(void *ctx, sqlite3 *db, const char *schema, int frames)
{
    struct keel_store *s = ctx;
    (void)db;
    (void)schema;
    if (frames < s->frames)
        s->written_back = 0;
    s->frames = frames;
    return SQLITE_OK;
}

static bool is_due(const struct keel_store *s, int frames)
{
    return s->frames - s->written_back >= frames;
}

/* Called with the mutex held. What readers still look at stays in the log; the next one takes it. */
static void write_back(struct keel_store *s)
{
    uv_mutex_unlock(&s->mutex);
    int rc = sqlite3_wal_checkpoint_v2(s->writer, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (rc != SQLITE_OK && rc != SQLITE_BUSY)
        keel_log_often(KEEL_LOG_WARN, "store_checkpoint_failed", "file=%s detail=%s", s->path, sqlite3_errmsg(s->writer));
    s->written_back = s->frames;
    uv_mutex_lock(&s->mutex);
}

/* Called with the mutex held, with nothing to do. */
static void rest(struct keel_store *s)
{
    if (!is_due(s, DUE_FRAMES))
        uv_cond_wait(&s->cond, &s->mutex);
    else if (uv_cond_timedwait(&s->cond, &s->mutex, IDLE_NS) == UV_ETIMEDOUT)
        write_back(s);
}

static void store_thread(void *arg)
{
    struct keel_store *s = arg;
    uv_mutex_lock(&s->mutex);
    for (;;) {
        bool idle = s->broken || s->queue.first == NULL;
        if (!idle) {
            commit_queued(s);
            uv_async_send(&s->async);
            if (is_due(s, MOST_FRAMES))
                write_back(s);
        } else if (s->stop) {
            break;
        } else if (s->broken || atomic_load(&s->ok)) {
            rest(s);
        } else if (uv_cond_timedwait(&s->cond, &s->mutex, 1000000000u) == UV_ETIMEDOUT) {
            probe_again(s);
        }
    }
    uv_mutex_unlock(&s->mutex);
}

/* ---- completions, on the loop ---- */

static void finish_all(struct keel_store *s, struct list done)
{
    for (struct keel_txn *t = done.first, *next; t != NULL; t = next) {
        next = t->next;
        s->queued--;
        if (t->commit_ns > 0)
            keel_observe(s->rt, "store_commit", t->commit_ns);
        txn_finish(s->rt, t, t->status);
    }
}

static void hand_back(struct keel_store *s)
{
    struct list done;
    bool broken;
    do {
        uv_mutex_lock(&s->mutex);
        done = list_take(&s->done);
        broken = s->broken;
        if (broken) {
            /* What was queued behind a failure rests on state that the file does not have. */
            list_set_status(&s->queue, KEEL_UNAVAILABLE);
            list_append(&done, list_take(&s->queue));
            memcpy(s->why, s->thread_why, sizeof s->why);
        }
        uv_mutex_unlock(&s->mutex);
        finish_all(s, done);
    } while (done.first != NULL);
    if (!broken)
        return;
    if (on_fail != NULL && !s->closing)
        on_fail(s->rt);
    uv_mutex_lock(&s->mutex);
    s->broken = false;
    uv_cond_signal(&s->cond);
    uv_mutex_unlock(&s->mutex);
}

static void on_async(uv_async_t *async)
{
    hand_back(async->data);
}

void keel_store_on_fail(struct keel_rt *rt, void (*fn)(struct keel_rt *rt))
{
    (void)rt;
    on_fail = fn;
}

bool keel_store_ok(const struct keel_store *s)
{
    return atomic_load(&s->ok);
}

const char *keel_store_why(const struct keel_store *s)
{
    return keel_store_ok(s) ? "" : s->why;
}

size_t keel_store_queued(const struct keel_store *s)
{
    return s->queued;
}

void keel_store_fail_next(struct keel_store *s, int n)
{
    uv_mutex_lock(&s->mutex);
    s->fail_next = n;
    uv_mutex_unlock(&s->mutex);
}

/* ---- opening and closing ---- */

static int64_t pragma_i64(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *stmt = NULL;
    int64_t v = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK &&
        sqlite3_step(stmt) == SQLITE_ROW)
        v = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return v;
}

/* A file of ours, not of a newer version; a new one is empty. */
static bool file_is_ours(struct keel_store *s, char why[WHY_CAP])
{
    int64_t tables = pragma_i64(s->writer, "SELECT count(*) FROM sqlite_master");
    int64_t app = pragma_i64(s->writer, "PRAGMA application_id");
    int64_t version = pragma_i64(s->writer, "PRAGMA user_version");
    if (tables < 0 || app < 0 || version < 0)
        snprintf(why, WHY_CAP, "%s", sqlite3_errmsg(s->writer));
    else if (app != APPLICATION_ID && (app != 0 || tables > 0))
        snprintf(why, WHY_CAP, "the file is a database of another program");
    else if (version > SCHEMA_VERSION)
        snprintf(why, WHY_CAP,
                 "the file was written by a newer version (schema %lld, this program knows %d)",
                 (long long)version, SCHEMA_VERSION);
    else
        return true;
    return false;
}

static bool writer_setup(struct keel_store *s, const char *schema, char why[WHY_CAP])
{
    char head[160];
    snprintf(head, sizeof head,
             "BEGIN IMMEDIATE; PRAGMA application_id = %d; PRAGMA user_version = %d",
             APPLICATION_ID, SCHEMA_VERSION);
    bool good =
        writer_exec(
            s,
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;"
            "PRAGMA journal_size_limit = 67108864",
            why) &&
        writer_exec(s, head, why) && writer_exec(s, keel_bus_schema, why) &&
        writer_exec(s, schema, why) && writer_exec(s, raise_epoch_sql, why);
    if (good)
        s->epoch = pragma_i64(s->writer, epoch_sql);
    good = good && writer_exec(s, "COMMIT", why);
    if (!good)
        writer_rollback(s);
    return good;
}

static bool connect_db(const char *path, int flags, sqlite3 **out, char why[WHY_CAP])
{
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(path, &db, flags | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
        int err = db != NULL ? sqlite3_system_errno(db) : 0;
        snprintf(why, WHY_CAP, "%s%s%s", db != NULL ? sqlite3_errmsg(db) : "out of memory",
                 err != 0 ? ": " : "", err != 0 ? strerror(err) : "");
        sqlite3_close(db);
        return false;
    }
    sqlite3_busy_timeout(db, BUSY_MS);
    *out = db;
    return true;
}

static bool writer_open(struct keel_store *s, const char *schema, char why[WHY_CAP])
{
    const char *dir = s->rt->core->data_dir;
    bool good;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        snprintf(why, WHY_CAP, "%.100s: %s", dir, strerror(errno));
        return false;
    }
    if (!connect_db(s->path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &s->writer, why))
        return false;
    /* Without it SQLite would fall back to reading and the first write would fail instead of the
     * start. */
    if (sqlite3_db_readonly(s->writer, "main") == 1) {
        snprintf(why, WHY_CAP, "the file may not be written");
        return false;
    }
    /* A standby that finds the file locked by one that was stopped tries again, and answers meanwhile. */
    if (s->rt->standby)
        sqlite3_busy_timeout(s->writer, 200);
    good = file_is_ours(s, why) && writer_setup(s, schema, why);
    sqlite3_busy_timeout(s->writer, BUSY_MS);
    sqlite3_wal_hook(s->writer, on_log, s);
    return good;
}

static struct keel_store *store_find(const struct keel_rt *rt, const char *name)
{
    for (struct keel_store *s = stores; s != NULL; s = s->next)
        if (s->rt == rt && strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

enum keel_status keel_store_open(struct keel_rt *rt, const char *name, const char *schema,
                                 struct keel_store **out)
{
    struct keel_store *s = store_find(rt, name);
    if (s != NULL) {
        /* engine->open runs again after a failed commit. */
        *out = s;
        return KEEL_OK;
    }
    /* Counts of SQLite's memory cost every thread of the process a lock; only the first call has an effect. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    s = keel_alloc(1, sizeof *s);
    s->rt = rt;
    snprintf(s->name, sizeof s->name, "%s", name);
    int len = snprintf(s->path, sizeof s->path, "%s/%s.db", rt->core->data_dir, name);
    char why[WHY_CAP] = "the path is too long";
    if (len < 0 || (size_t)len >= sizeof s->path || !writer_open(s, schema, why)) {
        keel_log(KEEL_LOG_ERROR, "store_not_opened", "file=%s detail=%s", s->path, why);
        sqlite3_close(s->writer);
        keel_free(s);
        return KEEL_UNAVAILABLE;
    }
    atomic_store(&s->ok, true);
    keel_assert(uv_mutex_init(&s->mutex) == 0 && uv_cond_init(&s->cond) == 0);
    keel_assert(uv_async_init(rt->loop, &s->async, on_async) == 0);
    s->async.data = s;
    keel_assert(uv_thread_create(&s->thread, store_thread, s) == 0);
    s->next = stores;
    stores = s;
    *out = s;
    return KEEL_OK;
}

enum keel_status keel_stores_open(struct keel_rt *rt)
{
    if (rt->engine->schema == NULL)
        return KEEL_OK;
    return keel_store_open(rt, rt->engine->name, rt->engine->schema, &rt->store);
}

static void free_closed(uv_handle_t *handle)
{
    keel_free(handle->data);
}

static void reader_close(struct reader *r)
{
    for (size_t i = 0; i < READER_STATEMENTS; i++)
        sqlite3_finalize(r->stmt[i]);
    sqlite3_close(r->db);
    keel_free(r);
}

static void store_close(struct keel_store *s)
{
    s->closing = true;
    uv_mutex_lock(&s->mutex);
    s->stop = true;
    uv_cond_signal(&s->cond);
    uv_mutex_unlock(&s->mutex);
    uv_thread_join(&s->thread);
    hand_back(s);
    /* Completions may have queued more; the thread is gone, so its work is done here. */
    while (s->queue.first != NULL) {
        uv_mutex_lock(&s->mutex);
        commit_queued(s);
        uv_mutex_unlock(&s->mutex);
        hand_back(s);
    }
    for (size_t i = 0; i < CACHE_SLOTS; i++)
        sqlite3_finalize(s->cache[i].stmt);
    for (size_t i = 0; i < s->n_readers; i++)
        reader_close(s->reader[i]);
    sqlite3_close(s->loop_reader);
    sqlite3_close(s->writer);
    uv_mutex_destroy(&s->mutex);
    uv_cond_destroy(&s->cond);
    uv_close((uv_handle_t *)&s->async, free_closed);
}

void keel_stores_close(struct keel_rt *rt)
{
    struct keel_store **at = &stores;
    while (*at != NULL) {
        struct keel_store *s = *at;
        if (s->rt != rt) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        store_close(s);
    }
    rt->store = NULL;
}

/* ---- reading ---- */

enum keel_status keel_store_each(struct keel_store *s, const char *sql, keel_row_fn *each,
                                 void *ctx)
{
    char why[WHY_CAP] = "";
    sqlite3_stmt *stmt = NULL;
    enum keel_status st = KEEL_OK;
    int rc = SQLITE_ERROR;
    if (s->loop_reader == NULL && !connect_db(s->path, SQLITE_OPEN_READONLY, &s->loop_reader, why))
        goto done;
    if (sqlite3_prepare_v2(s->loop_reader, sql, -1, &stmt, NULL) != SQLITE_OK)
        goto done;
    int n = sqlite3_column_count(stmt);
    keel_assert(n <= MAX_COLUMNS);
    while (st == KEEL_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *cell[MAX_COLUMNS];
        for (int i = 0; i < n; i++)
            cell[i] = (const char *)sqlite3_column_text(stmt, i);
        st = each(ctx, n, cell);
    }
done:
    if (st == KEEL_OK && rc != SQLITE_DONE) {
        if (s->loop_reader != NULL)
            snprintf(why, sizeof why, "%s", sqlite3_errmsg(s->loop_reader));
        keel_log(KEEL_LOG_ERROR, "store_read_failed", "file=%s detail=%s sql=%.100s", s->path, why,
                 sql);
        st = KEEL_UNAVAILABLE;
    }
    sqlite3_finalize(stmt);
    return st;
}

int64_t keel_store_epoch(const struct keel_store *s)
{
    return s->epoch;
}

static enum keel_status epoch_row(void *ctx, int n, const char *const *cell)
{
    int64_t *epoch = ctx;
    return n == 1 && cell[0] != NULL ? keel_i64_parse(cell[0], strlen(cell[0]), epoch) : KEEL_INVALID;
}

bool keel_store_fenced(struct keel_store *s)
{
    int64_t epoch = s->epoch;
    return keel_store_each(s, epoch_sql, epoch_row, &epoch) == KEEL_OK && epoch != s->epoch;
}

struct read_job {
    struct keel_store *store;
    struct keel_arena *arena; /* the call's; the worker's while it runs */
    const char *sql;
    struct value *values;
    int n;
    const char **cell;
    size_t cap; /* rows that cell has room for */
    struct keel_rows rows;
};

static struct reader *reader_borrow(struct keel_store *s, char why[WHY_CAP])
{
    struct reader *r = NULL;
    sqlite3 *db;
    uv_mutex_lock(&s->mutex);
    if (s->n_readers > 0)
        r = s->reader[--s->n_readers];
    uv_mutex_unlock(&s->mutex);
    if (r == NULL && connect_db(s->path, SQLITE_OPEN_READONLY, &db, why)) {
        r = keel_alloc(1, sizeof *r);
        r->db = db;
    }
    return r;
}

static void reader_return(struct keel_store *s, struct reader *r)
{
    sqlite3_progress_handler(r->db, 0, NULL, NULL);
    uv_mutex_lock(&s->mutex);
    bool keep = s->n_readers < MAX_READERS;
    if (keep)
        s->reader[s->n_readers++] = r;
    uv_mutex_unlock(&s->mutex);
    if (!keep)
        reader_close(r);
}

/* The reader's own; NULL: SQLite does not take it. */
static sqlite3_stmt *reader_statement(struct reader *r, const char *sql)
{
    for (size_t i = 0; i < READER_STATEMENTS; i++)
        if (r->stmt[i] != NULL && strcmp(sqlite3_sql(r->stmt[i]), sql) == 0)
            return r->stmt[i];
    sqlite3_stmt **slot = &r->stmt[r->next++ % READER_STATEMENTS];
    sqlite3_finalize(*slot);
    *slot = NULL;
    sqlite3_prepare_v3(r->db, sql, -1, SQLITE_PREPARE_PERSISTENT, slot, NULL);
    return *slot;
}

struct stop_flag {
    const atomic_bool *stop;
};

static int is_stopped(void *ctx)
{
    const struct stop_flag *flag = ctx;
    return atomic_load(flag->stop);
}

static void row_add(struct read_job *job, sqlite3_stmt *stmt)
{
    size_t cols = job->rows.cols;
    if (job->rows.n == job->cap) {
        size_t cap = job->cap == 0 ? 64 : job->cap * 2;
        const char **cell = keel_arena_array(job->arena, cap * cols, sizeof *cell);
        if (job->rows.n > 0)
            memcpy(cell, job->cell, job->rows.n * cols * sizeof *cell);
        job->rows.cell = job->cell = cell;
        job->cap = cap;
    }
    const char **row = job->cell + job->rows.n * cols;
    for (size_t i = 0; i < cols; i++) {
        const char *text = (const char *)sqlite3_column_text(stmt, (int)i);
        row[i] = text != NULL ? keel_arena_strdup(job->arena, text) : NULL;
    }
    job->rows.n++;
}

static enum keel_status read_work(void *arg, const atomic_bool *stop)
{
    struct read_job *job = arg;
    struct stop_flag flag = {stop};
    char why[WHY_CAP] = "";
    sqlite3_stmt *stmt = NULL;
    int rc = SQLITE_ERROR;
    struct reader *r = reader_borrow(job->store, why);
    if (r == NULL)
        goto done;
    sqlite3_progress_handler(r->db, 1000, is_stopped, &flag);
    stmt = reader_statement(r, job->sql);
    if (stmt == NULL || values_bind(stmt, job->values, job->n) != SQLITE_OK)
        goto done;
    job->rows.cols = (size_t)sqlite3_column_count(stmt);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && job->rows.n < MAX_ROWS)
        row_add(job, stmt);
done:
    if (rc != SQLITE_DONE && rc != SQLITE_ROW && rc != SQLITE_INTERRUPT)
        keel_log_often(KEEL_LOG_ERROR, "store_read_failed", "file=%s detail=%s sql=%.100s",
                       job->store->path, r != NULL ? sqlite3_errmsg(r->db) : why, job->sql);
    if (stmt != NULL) { /* what it looked at is let go, or no checkpoint could pass it */
        sqlite3_reset(stmt);
        sqlite3_clear_bindings(stmt);
    }
    if (r != NULL)
        reader_return(job->store, r);
    if (rc == SQLITE_DONE)
        return KEEL_OK;
    job->rows.n = 0;
    if (rc == SQLITE_ROW)
        return KEEL_TOOBIG; /* a part of the answer would look like all of it */
    return rc == SQLITE_INTERRUPT ? KEEL_CANCELLED : KEEL_UNAVAILABLE;
}

enum keel_status keel_await_read(struct keel_call *c, const char *sql, const char *fmt,
                                 keel_step_fn *next, ...)
{
    struct read_job *job = keel_arena_alloc(c->arena, sizeof *job);
    va_list ap;
    keel_assert(c->rt->store != NULL);
    job->store = c->rt->store;
    job->arena = c->arena;
    job->sql = sql;
    va_start(ap, next);
    job->values = values_read(c->arena, fmt, &ap);
    va_end(ap);
    job->n = (int)strlen(fmt);
    c->rows = &job->rows;
    return keel_await_work(c, read_work, job, next);
}
