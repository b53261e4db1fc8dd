/*
 * The store on a file of its own: order and all-or-nothing of commits, what a failure takes with it, what a full or
 * foreign file does. Waiting is for events of the loop, with a guard that ends a test which hangs.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

#include "rt.h"

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, r REAL, s TEXT, m TEXT, d TEXT, z TEXT)";
static const struct keel_engine engine = {.name = "probe", .schema = schema};
static const char insert_item[] = "INSERT INTO item (id, r, s, m, d, z) VALUES (?, ?, ?, ?, ?, ?)";
static const char insert_id[] = "INSERT INTO item (id) VALUES (?)";

static char dir[256];
static uv_loop_t loop;
static struct keel_core_options core;
static struct keel_rt rt;
static int reloads;
static char order[512]; /* what happened, one letter an event */

static void note(char c)
{
    size_t n = strlen(order);
    ck_assert(n + 1 < sizeof order);
    order[n] = c;
    order[n + 1] = '\0';
}

static void on_reload(struct keel_rt *r)
{
    (void)r;
    reloads++;
    note('R');
}

static void open_dir(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/keel_store_XXXXXX", tmp != NULL ? tmp : P_tmpdir);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    rt = (struct keel_rt){.engine = &engine, .loop = &loop, .core = &core};
    rt.arena = keel_arena_new(4096);
    core.data_dir = dir;
    reloads = 0;
    order[0] = '\0';
    keel_store_on_fail(&rt, on_reload);
}

static void open_store(void)
{
    open_dir();
    ck_assert_int_eq(keel_stores_open(&rt), KEEL_OK);
}

static void remove_files(void)
{
    static const char *const suffix[] = {"", "-wal", "-shm"};
    char path[400];
    for (size_t i = 0; i < KEEL_COUNT(suffix); i++) {
        snprintf(path, sizeof path, "%s/probe.db%s", dir, suffix[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void close_store(void)
{
    keel_stores_close(&rt);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    keel_arena_free(rt.arena);
    remove_files();
}

/* ---- waiting ---- */

static void on_hang(uv_timer_t *t)
{
    (void)t;
    ck_abort_msg("nothing happened for 10 s");
}

/* Turns the loop until what() says so. */
static void run_until(bool (*what)(void))
{
    uv_timer_t guard;
    uv_timer_init(&loop, &guard);
    uv_timer_start(&guard, on_hang, 10000, 0);
    while (!what())
        uv_run(&loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&guard, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
}

static bool all_back(void)
{
    return keel_store_queued(rt.store) == 0;
}

struct outcome {
    char name;
    enum keel_status st;
};

static void on_done(struct keel_rt *r, void *ctx, enum keel_status st)
{
    struct outcome *o = ctx;
    ck_assert_ptr_eq(r, &rt);
    o->st = st;
    note(o->name);
}

static void commit_id(int64_t id, struct outcome *o)
{
    struct keel_txn *t = keel_txn_new(rt.store);
    keel_txn_exec(t, insert_id, "i", id);
    keel_txn_commit(&rt, t, on_done, o);
}

static enum keel_status count_row(void *ctx, int n, const char *const *cell)
{
    ck_assert_int_eq(n, 1);
    *(long *)ctx = strtol(cell[0], NULL, 10);
    return KEEL_OK;
}

static long count(void)
{
    long n = -1;
    ck_assert_int_eq(keel_store_each(rt.store, "SELECT count(*) FROM item", count_row, &n), KEEL_OK);
    return n;
}

/* ---- tests ---- */

static enum keel_status value_row(void *ctx, int n, const char *const *cell)
{
    ck_assert_int_eq(n, 6);
    ck_assert_str_eq(cell[0], "9007199254740993"); /* 2^53 + 1: lost if it went through a double */
    ck_assert_double_eq(strtod(cell[1], NULL), 0.1);
    ck_assert_str_eq(cell[2], "it's");
    ck_assert_str_eq(cell[3], "-123456789012345678901.000000001");
    ck_assert_str_eq(cell[4], "0.5");
    ck_assert_ptr_null(cell[5]);
    ++*(int *)ctx;
    return KEEL_OK;
}

START_TEST(values_come_back_exactly)
{
    open_store();
    /* 123456789012345678901 does not fit 64 bits; in units of 1e-9 with one unit more. */
    keel_i128 money = -((((keel_i128)123456789012 * 1000000000 + 345678901) * KEEL_SCALE) + 1);
    char text[8] = "it's";
    struct outcome o = {'a', KEEL_WAIT};
    struct keel_txn *t = keel_txn_new(rt.store);
    keel_txn_exec(t, insert_item, "idsmDn", (int64_t)9007199254740993, 0.1, text, &money, (int64_t)500000000);
    memset(text, 'x', 4); /* all values were copied */
    money = 0;
    keel_txn_commit(&rt, t, on_done, &o);
    run_until(all_back);
    ck_assert_int_eq(o.st, KEEL_OK);
    int rows = 0;
    ck_assert_int_eq(keel_store_each(rt.store, "SELECT * FROM item", value_row, &rows), KEEL_OK);
    ck_assert_int_eq(rows, 1);
    ck_assert_int_eq(keel_store_each(rt.store, "SELECT nothing FROM nowhere", value_row, &rows), KEEL_UNAVAILABLE);
    close_store();
}
END_TEST

static void after_a(struct keel_rt *r, void *ctx, enum keel_status st)
{
    (void)r;
    (void)ctx;
    note(st == KEEL_OK ? '1' : st == KEEL_CANCELLED ? 'c' : 'f');
}

static void after_b(struct keel_rt *r, void *ctx, enum keel_status st)
{
    (void)r;
    (void)st;
    note(*(const char *)ctx);
}

START_TEST(completions_are_in_order)
{
    open_store();
    static char two[] = "2";
    struct outcome o[26];
    for (int i = 0; i < 26; i++) {
        o[i] = (struct outcome){(char)('a' + i), KEEL_WAIT};
        struct keel_txn *t = keel_txn_new(rt.store);
        keel_txn_exec(t, insert_id, "i", (int64_t)i);
        if (i == 1) {
            keel_txn_after(t, after_a, NULL);
            keel_txn_after(t, after_b, two);
        }
        keel_txn_commit(&rt, t, on_done, &o[i]);
    }
    struct keel_txn *dropped = keel_txn_new(rt.store);
    keel_txn_exec(dropped, insert_id, "i", (int64_t)99);
    keel_txn_drop(dropped);
    ck_assert_uint_eq(keel_store_queued(rt.store), 26);
    run_until(all_back);
    ck_assert_str_eq(order, "a12bcdefghijklmnopqrstuvwxyz");
    ck_assert_int_eq(count(), 26);
    close_store();
}
END_TEST

START_TEST(a_failure_takes_what_was_behind_it)
{
    open_store();
    struct outcome a = {'a', KEEL_OK}, b = {'b', KEEL_OK}, c = {'c', KEEL_WAIT};
    keel_store_fail_next(rt.store, 1);
    struct keel_txn *t = keel_txn_new(rt.store);
    keel_txn_exec(t, insert_id, "i", (int64_t)1);
    keel_txn_after(t, after_a, NULL);
    keel_txn_commit(&rt, t, on_done, &a);
    commit_id(2, &b);
    run_until(all_back);
    ck_assert_int_eq(a.st, KEEL_UNAVAILABLE);
    ck_assert_int_eq(b.st, KEEL_UNAVAILABLE);
    ck_assert_int_eq(reloads, 1);
    ck_assert_str_eq(order, "fabR"); /* the reload sees every failure handed back */
    ck_assert(!keel_store_ok(rt.store));
    ck_assert_ptr_nonnull(strstr(keel_store_why(rt.store), "full"));
    commit_id(3, &c);
    run_until(all_back);
    ck_assert_int_eq(c.st, KEEL_OK);
    ck_assert(keel_store_ok(rt.store));
    ck_assert_str_eq(keel_store_why(rt.store), "");
    ck_assert_int_eq(count(), 1);
    close_store();
}
END_TEST

START_TEST(a_bad_statement_undoes_the_whole_transaction)
{
    open_store();
    struct outcome a = {'a', KEEL_WAIT}, b = {'b', KEEL_OK};
    commit_id(1, &a);
    run_until(all_back);
    struct keel_txn *t = keel_txn_new(rt.store);
    keel_txn_exec(t, insert_id, "i", (int64_t)2);
    keel_txn_exec(t, insert_id, "i", (int64_t)1); /* the key exists */
    keel_txn_commit(&rt, t, on_done, &b);
    run_until(all_back);
    ck_assert_int_eq(a.st, KEEL_OK);
    ck_assert_int_eq(b.st, KEEL_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(keel_store_why(rt.store), "UNIQUE"));
    ck_assert_int_eq(count(), 1);
    close_store();
}
END_TEST

static bool is_ok(void)
{
    return keel_store_ok(rt.store);
}

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

START_TEST(a_probe_finds_the_disk_back)
{
    open_store();
    struct outcome a = {'a', KEEL_OK};
    keel_store_fail_next(rt.store, 1);
    commit_id(1, &a);
    run_until(all_back);
    ck_assert(!keel_store_ok(rt.store));
    uv_timer_t tick; /* the probe wakes nobody, so the loop looks by itself */
    uv_timer_init(&loop, &tick);
    uv_timer_start(&tick, on_tick, 50, 50);
    run_until(is_ok);
    uv_close((uv_handle_t *)&tick, NULL);
    ck_assert_int_eq(count(), 0);
    close_store();
}
END_TEST

START_TEST(what_was_queued_is_committed_at_the_end)
{
    open_store();
    struct outcome o[5];
    for (int i = 0; i < 5; i++) {
        o[i] = (struct outcome){(char)('a' + i), KEEL_WAIT};
        commit_id(i, &o[i]);
    }
    keel_stores_close(&rt);
    ck_assert_str_eq(order, "abcde");
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(keel_stores_open(&rt), KEEL_OK);
    ck_assert_int_eq(count(), 5);
    close_store();
}
END_TEST

static const char small_schema[] =
    "PRAGMA max_page_count = 40; CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, r REAL, "
    "s TEXT, m TEXT, d TEXT, z TEXT)";
static const struct keel_engine small_engine = {.name = "probe", .schema = small_schema};

START_TEST(a_full_disk_is_an_error_and_passes)
{
    open_dir();
    rt.engine = &small_engine;
    ck_assert_int_eq(keel_stores_open(&rt), KEEL_OK);
    static char big[300000];
    memset(big, 'x', sizeof big - 1);
    struct outcome a = {'a', KEEL_OK}, b = {'b', KEEL_WAIT};
    struct keel_txn *t = keel_txn_new(rt.store);
    keel_txn_exec(t, "INSERT INTO item (id, s) VALUES (1, ?)", "s", big);
    keel_txn_commit(&rt, t, on_done, &a);
    run_until(all_back);
    ck_assert_int_eq(a.st, KEEL_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(keel_store_why(rt.store), "full"));
    commit_id(2, &b);
    run_until(all_back);
    ck_assert_int_eq(b.st, KEEL_OK);
    ck_assert_int_eq(count(), 1);
    close_store();
}
END_TEST

START_TEST(a_second_file_is_independent)
{
    open_store();
    struct keel_store *second = NULL, *again = NULL;
    ck_assert_int_eq(keel_store_open(&rt, "venue", "CREATE TABLE IF NOT EXISTS v (id INTEGER)", &second), KEEL_OK);
    ck_assert_int_eq(keel_store_open(&rt, "venue", "CREATE TABLE IF NOT EXISTS v (id INTEGER)", &again), KEEL_OK);
    ck_assert_ptr_eq(second, again);
    ck_assert_ptr_ne(second, rt.store);
    struct outcome a = {'a', KEEL_OK}, b = {'b', KEEL_WAIT};
    keel_store_fail_next(rt.store, 1);
    struct keel_txn *t = keel_txn_new(second);
    ck_assert_ptr_eq(keel_txn_store(t), second);
    keel_txn_exec(t, "INSERT INTO v VALUES (1)", "");
    keel_txn_commit(&rt, t, on_done, &b);
    commit_id(1, &a);
    run_until(all_back);
    while (keel_store_queued(second) > 0)
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert_int_eq(a.st, KEEL_UNAVAILABLE);
    ck_assert_int_eq(b.st, KEEL_OK);
    ck_assert(keel_store_ok(second));
    keel_stores_close(&rt);
    char path[400];
    static const char *const suffix[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < KEEL_COUNT(suffix); i++) {
        snprintf(path, sizeof path, "%s/venue.db%s", dir, suffix[i]);
        unlink(path);
    }
    close_store();
}
END_TEST

static const struct {
    const char *why, *sql;
} foreign_case[] = {
    {"of a newer version", "PRAGMA application_id = 1262830924; PRAGMA user_version = 999"},
    {"of another program", "PRAGMA application_id = 7; CREATE TABLE t (x)"},
    {"of nobody, but not empty", "CREATE TABLE t (x)"},
};

START_TEST(a_foreign_file_is_refused)
{
    open_dir();
    char path[400];
    sqlite3 *db = NULL;
    snprintf(path, sizeof path, "%s/probe.db", dir);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, foreign_case[_i].sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    ck_assert_msg(keel_stores_open(&rt) == KEEL_UNAVAILABLE, "%s", foreign_case[_i].why);
    ck_assert_ptr_null(rt.store);
    close_store();
}
END_TEST

START_TEST(a_file_that_is_no_database_is_refused)
{
    open_dir();
    char path[400];
    snprintf(path, sizeof path, "%s/probe.db", dir);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    for (int i = 0; i < 1000; i++)
        fputs("this is no database\n", f);
    fclose(f);
    ck_assert_int_eq(keel_stores_open(&rt), KEEL_UNAVAILABLE);
    close_store();
}
END_TEST

START_TEST(a_directory_that_cannot_be_is_refused)
{
    open_dir();
    char path[400];
    snprintf(path, sizeof path, "%s/absent/deeper", dir);
    core.data_dir = path;
    ck_assert_int_eq(keel_stores_open(&rt), KEEL_UNAVAILABLE);
    close_store();
}
END_TEST

START_TEST(a_read_only_directory_is_refused)
{
    open_dir();
    ck_assert_int_eq(chmod(dir, 0500), 0);
    if (access(dir, W_OK) == 0) {
        /* The superuser may write anywhere: nothing to see here for him. */
        ck_assert_int_eq(keel_stores_open(&rt), KEEL_OK);
    } else {
        ck_assert_int_eq(keel_stores_open(&rt), KEEL_UNAVAILABLE);
    }
    ck_assert_int_eq(chmod(dir, 0700), 0);
    close_store();
}
END_TEST

/* Two processes at one file, the first of which was stopped and goes on: what it still had to write must not be written. */
START_TEST(only_the_last_to_open_it_can_write)
{
    open_store();
    struct keel_rt later = {.engine = &engine, .loop = &loop, .core = &core};
    struct outcome before = {'a', KEEL_WAIT}, late = {'b', KEEL_OK}, again = {'c', KEEL_OK};
    int64_t epoch = keel_store_epoch(rt.store);
    ck_assert_int_ge(epoch, 1);
    commit_id(1, &before);
    run_until(all_back);
    ck_assert(!keel_store_fenced(rt.store));
    ck_assert_int_eq(keel_stores_open(&later), KEEL_OK);
    ck_assert_int_eq(keel_store_epoch(later.store), epoch + 1);
    ck_assert(keel_store_fenced(rt.store));
    ck_assert(!keel_store_fenced(later.store));
    commit_id(2, &late);
    run_until(all_back);
    commit_id(3, &again);
    run_until(all_back);
    ck_assert_int_eq(before.st, KEEL_OK);
    ck_assert_int_eq(late.st, KEEL_UNAVAILABLE);
    ck_assert_int_eq(again.st, KEEL_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(keel_store_why(rt.store), "taken over"));
    ck_assert_int_eq(count(), 1);
    struct keel_txn *t = keel_txn_new(later.store);
    keel_txn_exec(t, insert_id, "i", (int64_t)4);
    keel_txn_commit(&later, t, NULL, NULL);
    keel_stores_close(&later);
    ck_assert_int_eq(count(), 2);
    close_store();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store");
    TCase *tc = tcase_create("store");
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, values_come_back_exactly);
    tcase_add_test(tc, completions_are_in_order);
    tcase_add_test(tc, a_failure_takes_what_was_behind_it);
    tcase_add_test(tc, a_bad_statement_undoes_the_whole_transaction);
    tcase_add_test(tc, a_probe_finds_the_disk_back);
    tcase_add_test(tc, what_was_queued_is_committed_at_the_end);
    tcase_add_test(tc, a_full_disk_is_an_error_and_passes);
    tcase_add_test(tc, a_second_file_is_independent);
    tcase_add_test(tc, only_the_last_to_open_it_can_write);
    tcase_add_loop_test(tc, a_foreign_file_is_refused, 0, (int)KEEL_COUNT(foreign_case));
    tcase_add_test(tc, a_file_that_is_no_database_is_refused);
    tcase_add_test(tc, a_directory_that_cannot_be_is_refused);
    tcase_add_test(tc, a_read_only_directory_is_refused);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? 0 : 1;
}
