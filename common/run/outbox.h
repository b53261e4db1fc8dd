/*
 * Sending, from the inside: outbox.c (queues and flushes), outbox_file.c (durable records), outbox_check.c (what Redis still has)
 * and outbox_trim.c (readers' positions, trimming).
 */
#ifndef KEEL_RUN_OUTBOX_H
#define KEEL_RUN_OUTBOX_H

#include "bus_priv.h"

enum { ACKS = 8192, SAMPLES = 8192, MAX_READERS = 64, LIVE_BUCKETS = 1024 };

enum rec_state { WAITING, SENT, DONE };

struct rec {
    struct rec *next, *prev; /* prev: in the queue only */
    struct rec *same;        /* in the index of live records */
    struct stream *stream;
    uint64_t seq;
    struct keel_sid id;
    int64_t acked_ns;
    const struct keel_topic *topic;
    enum rec_state state;
    bool is_durable, is_kept, is_orphan, has_permit, was_sent, is_live, is_indexed;
    uint32_t hash; /* of topic and key, where indexed */
    char key[72];  /* of a live record */
    struct keel_permit permit;
    size_t h_len, p_len;
    char text[]; /* header, payload */
};

struct fifo { struct rec *first, *last; size_t n; };
struct ack { uint64_t seq; struct keel_sid id; };
struct reader_seen { char name[96], value[96]; struct keel_sid id; int64_t changed_ns; bool there; };

struct publisher {
    struct keel_bus *bus;
    struct keel_link *link;
    bool permit_is_out; /* one command at a time speaks for the link */
};

enum check { UNCHECKED, CHECKING, CHECKED };

struct stream {
    struct keel_bus *bus;
    struct publisher *via;
    enum keel_lane lane;
    char name[64], key[128], readers_key[128];
    /* sending */
    struct fifo queue;
    struct rec *cursor; /* nothing before it is WAITING */
    size_t waiting, waiting_bytes, in_flight;
    bool is_urgent; /* a flush goes on until nothing waits */
    int64_t pause_ns, paused_until_ns;
    /* memory records */
    struct rec *live[LIVE_BUCKETS]; /* of a conflated topic, waiting, one a key */
    uint64_t seq;
    struct fifo kept;
    /* durable records */
    uint64_t durable_seq, committed_seq;
    struct rec *pending; /* numbered, transaction open; in order */
    struct ack acks[ACKS];
    size_t n_acks; /* ever since the last check: the ring holds the newest */
    uint64_t db_from;
    bool is_loading;
    int64_t load_at_ns;
    /* what Redis has */
    enum check check;
    bool was_checked;
    int tail_pages;
    struct keel_sid floor, last_id; /* tail at the last check; last entry of ours that was answered */
    int64_t check_at_ns, resent_all_ns;
    /* readers and trimming */
    struct ack samples[SAMPLES];
    size_t n_samples;
    struct ack newest; /* memory record answered last */
    uint64_t base_seq; /* of what readers have who are before the oldest sample */
    struct reader_seen readers[MAX_READERS];
    size_t n_readers;
    bool asks_readers, is_trimming;
    uint64_t since_trim;
    int64_t trim_at_ns;
};

struct keel_out {
    struct keel_bus *bus;
    char epoch[24]; /* durable */
    struct publisher publisher[2];
    size_t n_publishers;
    struct stream stream[KEEL_N_LANE];
    size_t queued, reserved;
    uv_timer_t flush_timer, hold_timer;
    bool flush_is_set, is_held, is_due; /* is_due: an answer that held records back is ready, and leaves before them */
    struct keel_arena *scratch;
    uint32_t dep;
    int64_t room_asked_ns, prune_at_ns, guard_good_ns;
    char guard_key[160], guard_value[96];
    bool guard_is_set, guard_asked;
};

/* ---- outbox.c ---- */
struct stream *keel_out_stream(struct keel_out *o, const char *topic);
struct stream *keel_out_named(struct keel_out *o, const char *name); /* NULL: none of that name */
struct rec *keel_out_rec(struct stream *s, const struct keel_topic *topic, uint64_t seq, bool is_durable, const char *h,
                         size_t h_len, const char *p, size_t p_len);
void keel_out_queue(struct stream *s, struct rec *r); /* takes r */
void keel_out_kept_again(struct stream *s, struct keel_sid after);
void keel_out_rewind(struct stream *s, uint64_t from);
void keel_out_flush_stream(struct stream *s);
void keel_out_flush_when_due(struct stream *s);
bool keel_out_has_room(const struct keel_out *o, enum keel_lane lane, size_t n);
void keel_out_key(char to[72], const char *key); /* "-" is none */
void keel_out_count(struct keel_bus *b, uint64_t *by_topic, const struct keel_topic *t);

/* ---- outbox_file.c ---- */
enum keel_status keel_out_file_open(struct keel_out *o);
void keel_out_load_if_needed(struct stream *s, int64_t now_ns);
void keel_out_prune(struct keel_out *o, int64_t now_ns);

/* ---- outbox_check.c ---- */
void keel_out_check_if_needed(struct stream *s, int64_t now_ns);
void keel_out_publish_up(void *publisher);
void keel_out_publish_down(void *publisher);
void keel_out_guard_ask(struct keel_out *o);

/* ---- outbox_trim.c ---- */
bool keel_out_slowest(const struct stream *s, int64_t now_ns, struct keel_sid *out);
void keel_out_ask_readers(struct stream *s);
void keel_out_trim(struct stream *s, int64_t now_ns);

#endif
