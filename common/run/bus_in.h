/*
 * Reading, from the inside: bus_read.c (readers and what they read), bus_ready.c (getting a stream ready), bus_item.c (a record
 * in hand) and bus_fetch.c (holes, and asking the owner).
 */
#ifndef KEEL_RUN_BUS_IN_H
#define KEEL_RUN_BUS_IN_H

#include "bus_priv.h"

enum {
    MAX_STREAMS = 32, /* of one reader */
    MAX_READERS = 2 * KEEL_N_LANE,
    BUCKETS = 1024,
    ACK_BATCH = 64,
    BACKLOG = 512,
    SUSPECT_AFTER = 2 /* deaths while in hand, from which on a record is handled alone */
};

enum item_state { QUEUED, BEHIND, HELD, CALLING, COMMITTING, RETRYING, CLAIMING, BURYING };

struct mark { /* what is known of one (producer, epoch) of a stream */
    struct mark *next;
    char producer[48], epoch[24];
    bool is_durable, holds_no_more, was_asked; /* of the hole that is open: records go on, its owner was asked */
    struct keel_marks applied, seen;
    struct item *held; /* by seq */
    size_t in_hand;
    int64_t hole_since_ns;
    uint64_t unsaved; /* marks written since the low mark was */
    uint64_t newest, top; /* highest that settled, that was seen */
};

struct busy { /* a key with a record in hand that has not settled */
    struct busy *next;
    struct stream_in *s;
    char key[72];
    struct item *holder, *first, *last; /* first, last: behind the holder */
};

struct item {
    struct stream_in *s;
    struct mark *mark; /* NULL: the header could not be read */
    struct busy *busy; /* it holds its key */
    const struct keel_op *op;
    struct keel_header h;
    struct keel_sid id, before; /* id 0-0: fetched from its owner, or a dead letter */
    enum item_state state;
    int refs, txns;
    bool settled, committed, is_dropped;
    bool is_fetched, is_counted, is_suspect; /* counted: should the process die now, it will be known */
    enum keel_status st;
    unsigned attempts;
    uint64_t deliveries;
    int64_t retry_at_ns, since_ns;
    uint64_t token;       /* of the call that replays it; 0: none */
    struct keel_sid dead; /* the letter being replayed */
    const char *reason;   /* why it is buried */
    char detail[160];
    struct item *prev, *next; /* in hand, in order of arrival */
    struct item *chain;       /* queue, busy key or hole */
    size_t h_len, p_len;
    char text[]; /* header, NUL, payload, NUL */
};

enum step { IN_NEW, IN_PLACE, IN_PENDING, IN_READY };

struct stream_in {
    struct reader *reader;
    char engine[32], name[64], key[128], readers_key[128];
    enum keel_lane lane;
    bool wants_durable, was_recovered, is_asking, is_stepping, again; /* again: all steps once more */
    enum step step;
    int64_t step_at_ns;
    size_t open;                /* answers the step still waits for */
    struct keel_sid pos, page;  /* last entry read; last one of the pending page */
    size_t page_n;
    struct mark *marks;
    struct item *first, *last;  /* in hand */
    struct keel_sid written_id; /* position as last published */
    int64_t written_ns;
    char acks[ACK_BATCH][KEEL_SID_TEXT];
    size_t n_acks;
    bool fetch_wanted, is_fetching;
    int64_t fetch_at_ns;
    int64_t lag, pending;       /* not read yet, read and not acknowledged; as Redis counts */
    int64_t base, added;        /* KEEL_EACH: entries ever added before the first one we read; and by now */
    uint64_t entries;           /* KEEL_EACH: read since */
};

struct reader {
    struct keel_bus *bus;
    struct keel_link *link;
    enum keel_lane lane;
    bool is_share, is_reading, has_permit;
    struct keel_permit permit;
    struct stream_in *streams[MAX_STREAMS];
    size_t n;
    struct item *first, *last; /* queue */
    size_t in_hand, calling, counting, waiting; /* waiting: for a moment of their own (retry, burial, hole) */
    struct item *alone;
    int64_t read_at_ns;
    struct busy *busy[BUCKETS];
};

struct keel_in {
    struct keel_bus *bus;
    struct reader readers[MAX_READERS];
    size_t n;
    char consumer[64];
    uint32_t dep;
    bool is_stopped, has_moved;
    int64_t claim_at_ns, lost_at_ns; /* lost: the last time a connection went with a read under way */
    struct keel_arena *scratch;
};

/* How an entry came to us: by the blocking read, from our own pending ones after a start, from its owner. */
enum origin { FROM_STREAM, FROM_PENDING, FROM_OWNER };

static inline struct keel_lane_stats *keel_in_stats(const struct stream_in *s)
{
    return &s->reader->bus->lane[s->lane];
}

/* ---- bus_item.c ---- */
struct mark *keel_in_mark(struct stream_in *s, const char *producer, const char *epoch, bool is_durable); /* made if absent */
void keel_in_mark_free(struct mark *m);
/* Holes matter where effects go to a store; one of several instances has holes by design. */
bool keel_in_is_gapless(const struct stream_in *s);
bool keel_in_is_durable(const char *topic);
void keel_in_ack(struct stream_in *s, struct keel_sid id); /* with the next flush */
void keel_in_acks_flush(struct stream_in *s);
struct item *keel_in_item(struct stream_in *s, const struct keel_entry *e); /* in hand; not in the queue yet */
struct item *keel_in_find(const struct stream_in *s, const struct mark *m, uint64_t seq);
struct item *keel_in_find_id(const struct stream_in *s, struct keel_sid id);
void keel_in_leave(struct item *it); /* takes it out of hand */
void keel_in_queue(struct reader *r, struct item *it);
void keel_in_queue_first(struct reader *r, struct item *it);
void keel_in_queue_early(struct reader *r, struct item *it); /* before what came after it in its stream */
void keel_in_bury(struct item *it, const char *reason);
bool keel_in_hand_out(struct reader *r, int64_t slice_ns); /* true: there is more that could go on at once */
struct stream_in *keel_in_stream(const struct keel_in *in, const char *name, bool is_share);

/* ---- bus_read.c ---- */
/* deliveries: how often a process of ours died with it. */
void keel_in_accept(struct stream_in *s, const struct keel_entry *e, enum origin origin, uint64_t deliveries);
const struct keel_op *keel_in_row(const struct keel_rt *rt, const char *topic, enum keel_read read);
const char *keel_in_foreign(const struct keel_bus *b, const struct keel_envelope *env); /* the reason; NULL: it is ours */

/* ---- bus_ready.c ---- */
void keel_in_step(struct stream_in *s, int64_t now_ns);
void keel_in_reset(struct stream_in *s); /* back to the start, at the latest when the answer under way has come */
void keel_in_ask_lag(struct stream_in *s, bool claims); /* and pending; claims: entries of dead consumers too */

/* ---- bus_fetch.c ---- */
bool keel_in_hole_below(const struct mark *m, uint64_t seq);
void keel_in_hold(struct mark *m, struct item *it); /* until what is missing before it has come, or will not */
void keel_in_hole_watch(struct stream_in *s, struct mark *m, int64_t now_ns);
void keel_in_fetch_if_needed(struct stream_in *s, int64_t now_ns);

#endif
