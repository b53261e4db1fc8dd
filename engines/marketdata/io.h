/*
 * Adapters: what turns files and the simulator into market events, each a keel_source_ops whose items are
 * struct market_event and whose cfg is a struct io_conf. A row that cannot be read becomes an item MARKET_BAD
 * with its line, never a failure; a file that ends in the middle of its compression is one, after all that
 * could be read.
 */
#ifndef MARKETDATA_IO_H
#define MARKETDATA_IO_H

#include <stdatomic.h>

#include "keel/source.h"
#include "market.h"
#include "keel/sha256.h"
#include "sim.h"

#define IO_BATCH 256
#define IO_PATH 1024
#define IO_LINE_MAX (1 << 20)  /* bytes of a line; a longer one is a bad record */
#define IO_OHLCV_ROWS 2000000  /* rows of one table, which is sorted in memory */
#define IO_LEAN_FILES 100000
#define IO_LEAN_STREAMS 256    /* files open at a time: two a symbol */

enum io_format { IO_AUTO, IO_BINANCE, IO_LEAN, IO_OHLCV };

struct io_conf {
    char path[IO_PATH];
    enum io_format format;
    uint64_t seed; /* of a simulation, as the rest */
    int64_t start_ns, duration_ns;
    double rate;
    char symbols[SIM_SYMBOLS][MARKET_SYMBOL_LEN + 1];
    size_t n_symbols;
    /* Written by the adapter, for people: how much of the data is read, and how much there is (0: not known). */
    atomic_uint_fast64_t done, total;
    atomic_int found; /* the enum io_format that is read, once it is known */
};

/* io_replay picks the adapter by conf->format, or by what it finds. */
extern const struct keel_source_ops io_replay, io_binance, io_lean, io_ohlcv, io_sim;

/* By content: gzip and shape of the first line, folder layout, header. IO_AUTO: unknown, and why says so. */
enum io_format io_sniff(const char *path, char *why, size_t why_cap);

/* What the bars of a path's data will be called: "1m"; "" when they are built from trades. KEEL_INVALID: why says. */
enum keel_status io_bar_spec(const char *path, enum io_format format, char out[BARS_SPEC_LEN], char *why,
                             size_t why_cap);
enum keel_status io_ohlcv_spec(const char *path, char out[BARS_SPEC_LEN], char *why, size_t why_cap);

/*
 * The real path (IO_PATH bytes) of what a client named, if it lies in one of the directories (n of them, "" is
 * passed over). KEEL_FORBIDDEN: it does not; KEEL_NOTFOUND: it would, but is not there.
 */
enum keel_status io_resolve(const char *path, const char *const *dirs, size_t n, char out[IO_PATH]);

/* ---- lines of a plain or gzip file ---- */
struct io_lines;
enum io_line { IO_LINE, IO_LINE_LONG, IO_LINE_END, IO_LINE_FAILED };

enum keel_status io_lines_open(const char *path, struct io_lines **out, char *why, size_t why_cap);
/* *text is NUL ended, without its end of line, valid until the next call. FAILED: io_lines_why. */
enum io_line io_lines_next(struct io_lines *l, char **text, size_t *len);
uint64_t io_lines_no(const struct io_lines *l); /* of the line just read, from 1 */
const char *io_lines_why(const struct io_lines *l);
/* Of the file's bytes as stored; after IO_LINE_END. */
void io_lines_digest(const struct io_lines *l, char out[KEEL_SHA256_TEXT]);
uint64_t io_lines_bytes(const struct io_lines *l); /* of the file, read so far */
void io_lines_close(struct io_lines *l); /* NULL is fine */

/* ---- for adapters ---- */
struct market_event *io_push(struct keel_batch *b, const struct market_event *ev);
void io_push_bad(struct keel_batch *b, int64_t ts, uint64_t line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void io_push_end(struct keel_batch *b, int64_t ts, const char *digest);
uint64_t io_file_size(const char *path); /* 0: not known */
/* Last part of a path. */
const char *io_base_name(const char *path);
/* The symbol that a file's name begins with, up to the first of ends. False: there is none. */
bool io_file_symbol(const char *path, const char *ends, char out[MARKET_SYMBOL_LEN + 1]);

/* UTC of a wall time in New York, ns since 1970 both, by the rules in force since 1967. */
int64_t io_new_york_to_utc(int64_t local_ns);

#endif
