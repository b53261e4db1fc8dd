/*
 * SQLite behind one store thread. The loop decides, changes memory and queues a transaction; the store thread takes all that
 * is queued as one commit (synchronous=FULL) and hands completions back in order. Nothing leaves the engine before its commit.
 */
#ifndef KEEL_STORE_H
#define KEEL_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "keel/arena.h"
#include "keel/num.h"
#include "keel/status.h"

struct keel_rt;
struct keel_call;
struct keel_store;
struct keel_txn;

/* The engine's own store (DATA_DIR/<engine>.db); NULL when the table has no schema. */
struct keel_store *keel_store(struct keel_rt *rt);
/* A second, independent file (the paper venue's): DATA_DIR/<name>.db with a writer thread of its own. From engine->open. */
enum keel_status keel_store_open(struct keel_rt *rt, const char *name, const char *schema, struct keel_store **out);

/* fmt, one letter an argument: i int64_t, s const char * (NULL is SQL NULL), d double, m keel_i128 by pointer (decimal
 * text), D int64_t dec as decimal text, n (no argument) NULL. All values are copied. */
struct keel_txn *keel_txn_new(struct keel_store *s);
void keel_txn_exec(struct keel_txn *t, const char *sql, const char *fmt, ...); /* sql: a string literal (cached by address) */
/* A durable record: an outbox row in this transaction, sent to the bus after its commit. c may be NULL (no cause). */
void keel_txn_publish(struct keel_txn *t, struct keel_call *c, const char *topic, const char *key, int64_t ts_event,
                      int64_t ts_init, const void *record);
/* Queues without a call; done (may be NULL) runs on the loop. keel_await_store is the usual way: for a record of a KEEL_SHARE
 * row it adds the record's mark, so such an op puts its whole effect in exactly one keel_await_store. */
void keel_txn_commit(struct keel_rt *rt, struct keel_txn *t, void (*done)(struct keel_rt *rt, void *ctx, enum keel_status st),
                     void *ctx);
void keel_txn_drop(struct keel_txn *t);

/* Result of a read: text cells, NULL for SQL NULL. */
struct keel_rows { size_t n, cols; const char *const *cell; };
#define KEEL_CELL(r, row, col) ((r)->cell[(row) * (r)->cols + (col)])

/* Reads on the calling thread: for engine->open and tests only. each returns KEEL_OK to go on. */
typedef enum keel_status keel_row_fn(void *ctx, int n, const char *const *cell);
enum keel_status keel_store_each(struct keel_store *s, const char *sql, keel_row_fn *each, void *ctx);

/* For tests and fault injection: the next n commits fail as if the disk were full. */
void keel_store_fail_next(struct keel_store *s, int n);

#endif
