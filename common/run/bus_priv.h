/*
 * What the files of the bus share with one another: link.c (connections), stream_reply.c (replies and headers), marks.c
 * (sets of sequence numbers), outbox*.c (sending), bus_read.c and its neighbours (reading; see bus_in.h) and bus.c (the whole).
 */
#ifndef KEEL_RUN_BUS_PRIV_H
#define KEEL_RUN_BUS_PRIV_H

#include "rt.h"

#define KEEL_MS_NS INT64_C(1000000)
#define KEEL_S_NS INT64_C(1000000000)

struct redisReply; /* only link.c and stream_reply.c look inside */

/* ---- marks.c: a set of sequence numbers as a low mark (all of 1..low) and the ranges above it ---- */
struct keel_range { uint64_t a, b; };
struct keel_marks { uint64_t low; struct keel_range *range; size_t n, cap; };

/* More ranges than this: the oldest holes are given up. More than records can be in hand at a time. */
#define KEEL_MARKS_MAX 8192

void keel_marks_fini(struct keel_marks *m); /* zeros are a valid, empty set */
bool keel_marks_has(const struct keel_marks *m, uint64_t seq);
bool keel_marks_add(struct keel_marks *m, uint64_t seq); /* false: it was there. seq >= 1 */
void keel_marks_add_range(struct keel_marks *m, uint64_t a, uint64_t b);
/* The first run of absent numbers within [lo, hi]; false when there is none. */
bool keel_marks_missing(const struct keel_marks *m, uint64_t lo, uint64_t hi, struct keel_range *out);

/* ---- stream_reply.c ---- */
struct keel_sid { uint64_t ms, n; }; /* id of a stream entry */
#define KEEL_SID_TEXT 44
int keel_sid_cmp(struct keel_sid a, struct keel_sid b);
bool keel_sid_parse(const char *s, size_t n, struct keel_sid *out);
size_t keel_sid_print(struct keel_sid id, char buf[KEEL_SID_TEXT]);
struct keel_sid keel_sid_before(struct keel_sid id); /* the greatest smaller one; 0-0 has none and is returned */

/* All of these take NULL and any shape of reply. */
const char *keel_reply_error(const struct redisReply *r); /* NULL: no error */
bool keel_reply_is_nil(const struct redisReply *r);
size_t keel_reply_n(const struct redisReply *r); /* elements; 0 for what is no array */
const struct redisReply *keel_reply_at(const struct redisReply *r, size_t i);
bool keel_reply_text(const struct redisReply *r, const char **s, size_t *n);
bool keel_reply_is(const struct redisReply *r, const char *text);
bool keel_reply_int(const struct redisReply *r, int64_t *out);
bool keel_reply_sid(const struct redisReply *r, struct keel_sid *out);
/* Value of a name in a flat array of names and values (XINFO, HGETALL). */
const struct redisReply *keel_reply_member(const struct redisReply *r, const char *name);

struct keel_entry {
    struct keel_sid id;
    bool gone; /* trimmed while it was pending: no fields */
    const struct redisReply *fields;
    const char *h, *p; /* "" when the entry has no such field */
    size_t h_len, p_len;
};
typedef void keel_entry_fn(void *ctx, const char *key, size_t key_len, const struct keel_entry *e);
/* Text of an entry's field; false when there is none. */
bool keel_entry_field(const struct keel_entry *e, const char *name, const char **s, size_t *n);
bool keel_entry_parse(const struct redisReply *r, struct keel_entry *out);
/*
 * Reply of XREAD and XREADGROUP, or (range) of XRANGE and XCLAIM: every well-formed entry is handed to fn in order. Nil is none.
 * Returns how many parts were not of the expected shape and were passed over.
 */
size_t keel_stream_parse(const struct redisReply *r, keel_entry_fn *fn, void *ctx);
size_t keel_range_parse(const struct redisReply *r, keel_entry_fn *fn, void *ctx);

/* The field `h`: schema env mode topic producer epoch seq key ts_event ts_init ts_recv ts_publish traceparent. */
#define KEEL_HEAD_TEXT 768
struct keel_envelope { struct keel_header h; char env[36], mode[8]; };
/* NULL, or why it is no header of ours: "malformed_header", "unknown_schema". h.stream is left empty. */
const char *keel_head_parse(const char *s, size_t n, struct keel_envelope *out);
/* Returns the length. 0 is written as '-', the key with %XX for what would break the line apart. */
size_t keel_head_print(const char *env, const char *mode, const struct keel_header *h, char buf[KEEL_HEAD_TEXT]);
/* The same header with another ts_publish; 0 when head is none. */
size_t keel_head_stamp(const char *head, size_t n, int64_t ts_publish, char buf[KEEL_HEAD_TEXT]);

/* ---- tls.c: TLS to Redis, where hiredis has it ---- */
struct keel_redis_url;
struct keel_tls;
struct redisContext;
const char *keel_tls_check(const struct keel_redis_url *url); /* NULL, or why it cannot be: no support, an unreadable file */
struct keel_tls *keel_tls_new(const struct keel_redis_url *url);
void keel_tls_free(struct keel_tls *tls); /* NULL is fine */
/* Of a connection that was just begun; the server must prove that it is `host`. */
bool keel_tls_start(struct keel_tls *tls, struct redisContext *c, const char *host, char *why, size_t cap);

/* ---- link.c: one connection, kept up ---- */
struct keel_link;
struct keel_link_conf {
    uv_loop_t *loop;
    const char *url, *name;
    void (*up)(void *ctx);   /* connected, authenticated, answering */
    void (*down)(void *ctx); /* was up; every command's fn has been called with NULL */
    void *ctx;
};
/* reply NULL: the connection went away before the answer; the command may have run. Runs exactly once. */
typedef void keel_reply_done_fn(void *ctx, const struct redisReply *reply);

struct keel_args { int n; const char *v[192]; size_t len[192]; };
#define KEEL_ARGS(a) struct keel_args a; (a).n = 0 /* declares an empty list; its 3 KB are not cleared */
void keel_arg(struct keel_args *a, const char *s); /* borrowed until sent */
void keel_argn(struct keel_args *a, const char *s, size_t n);

/* False: why says what is wrong with a redis_url, or that this program cannot do it. */
bool keel_link_url_check(const char *url, char *why, size_t cap);
struct keel_link *keel_link_new(const struct keel_link_conf *conf); /* conf's strings are copied */
void keel_link_free(struct keel_link *l);                           /* NULL is fine; down is not called */
bool keel_link_is_up(const struct keel_link *l);
size_t keel_link_pending(const struct keel_link *l);                /* commands without an answer */
/* false: not up, fn will not be called. fn NULL: the answer does not matter. wait_ns: how long the command may block. */
bool keel_link_send(struct keel_link *l, const struct keel_args *a, int64_t wait_ns, keel_reply_done_fn *fn, void *ctx);
/* What is sent between the two goes out in one write. Within one step: no command is written meanwhile. */
void keel_link_cork(struct keel_link *l);
void keel_link_uncork(struct keel_link *l);
/* Reconnects when it is time, gives up on a connection that does not answer. Every 10 to 100 ms. */
void keel_link_tick(struct keel_link *l, int64_t now_ns);

/* ---- bus.c ---- */
struct keel_lane_stats { uint64_t sent, received, dropped, conflated, gaps, resent, retried, dead; };

struct keel_bus {
    struct keel_rt *rt;
    struct keel_bus *next; /* every bus of the process */
    bool has_redis, is_hybrid, draining, closing, breathing; /* breathing: the idle handle keeps the loop turning */
    char env[40];          /* goes before every key; "" for `main` */
    char producer[48], group[56], dead_key[128], deaths_key[128];
    struct keel_link *control;
    struct keel_out *out;
    struct keel_in *in; /* NULL until reading starts, or when nothing is read */
    uv_timer_t tick;
    uv_check_t check;
    uv_idle_t idle;
    int handles;
    int64_t away_since_ns, second_at_ns;
    struct keel_lane_stats lane[KEEL_N_LANE];
    const struct keel_topic *topics;
    size_t n_topics;
    uint64_t *published, *received, *conflated, *dropped; /* by topic; the last two of live feeds */
    uint64_t duplicates, acked;
    size_t dead_durable;
    uint64_t dead_len; /* of the dead stream when dead_durable was counted */
    double memory;     /* used share of Redis' maxmemory */
    struct keel_reducing { struct keel_bus *bus; char portfolio[72]; bool asking, done; } reducing[16];
    size_t n_reducing; /* portfolios of dead durable records that risk is to hold to REDUCING */
};

struct keel_bus *keel_bus_of_rt(const struct keel_rt *rt); /* also without redis_url */
struct keel_bus *keel_bus_of_store(const struct keel_store *store);
void keel_bus_soon(struct keel_bus *b); /* the tick runs on the next turn */
/* Lane of a topic by the option priority_topics; the stream is another question (plain: always the normal one). */
enum keel_lane keel_bus_lane(const struct keel_bus *b, const char *topic);
/* "nautilus-E-hybrid-streams", ":critical", ":priority". */
void keel_bus_stream_name(const char *engine, enum keel_lane lane, char buf[64]);
void keel_bus_key(const struct keel_bus *b, const char *name, const char *suffix, char buf[128]);
/* As much of s as fits; NULL is "". */
void keel_bus_copy(char *to, size_t cap, const char *s);
void keel_bus_breathe(struct keel_bus *b); /* work is left: turn again at once */
/* key: the record's, which is a portfolio where it is durable. */
void keel_bus_dead_added(struct keel_bus *b, bool durable, const char *key);

/* ---- outbox.c ---- */
enum keel_status keel_out_open(struct keel_bus *b); /* also without Redis: the counters of durable records */
void keel_out_free(struct keel_bus *b);
void keel_out_tick(struct keel_bus *b, int64_t now_ns);
void keel_out_second(struct keel_bus *b, int64_t now_ns); /* on a connected control link: guard key, trims */
void keel_out_flush(struct keel_bus *b);                  /* whatever waits, now */
bool keel_out_is_up(const struct keel_bus *b);
bool keel_out_is_idle(const struct keel_bus *b);
bool keel_out_is_watched(const struct keel_bus *b, int64_t now_ns); /* a source asks for room */
size_t keel_out_unsent(const struct keel_bus *b);
void keel_out_control_up(struct keel_bus *b);
/* Engine's own durable epoch; "" without a store. */
const char *keel_out_epoch(const struct keel_bus *b);
/* Every durable seq of the stream up to this one is committed or never will be. */
uint64_t keel_out_settled(const struct keel_bus *b, const char *stream);
#define KEEL_BUS_LOAD(X, S)                                                                                            \
    X(S, I64, lane, NULL, 0, 2, "", "stream")                                                                          \
    X(S, I64, from_seq, NULL, 1, 0, "", "first number wanted")
KEEL_RECORD(keel_bus_load, KEEL_BUS_LOAD);
keel_step_fn keel_out_load_begin; /* rows of the file into memory */

/* ---- bus_read.c ---- */
void keel_in_open(struct keel_bus *b);
void keel_in_stop(struct keel_bus *b);
void keel_in_free(struct keel_bus *b);
void keel_in_tick(struct keel_bus *b, int64_t now_ns);
void keel_in_second(struct keel_bus *b, int64_t now_ns);
bool keel_in_run(struct keel_bus *b); /* a slice of what is in hand; true: there is more */
bool keel_in_is_up(const struct keel_bus *b);
bool keel_in_is_idle(const struct keel_bus *b);
bool keel_in_is_advancing(const struct keel_bus *b); /* a short tick is worth it */
void keel_in_control_up(struct keel_bus *b);
size_t keel_in_backlog(const struct keel_bus *b, int lane); /* -1: all */
void keel_in_lane_json(const struct keel_bus *b, enum keel_lane lane, struct keel_json *w);
void keel_in_metrics(const struct keel_bus *b, const char *const lane_name[KEEL_N_LANE], struct keel_text *out);
void keel_in_producers_json(const struct keel_bus *b, struct keel_json *w);
/* Runs a dead letter again; wakes the call of token with the outcome. KEEL_NOTFOUND: nobody here takes it. */
enum keel_status keel_in_replay(struct keel_bus *b, const struct keel_entry *e, uint64_t token);

#endif
