/*
 * Latency of one operation: log-linear histogram (32 sub-buckets an octave, relative error <= 3.2 %),
 * exact counters, windows of 10 s and 60 s in steps of one. Single writer, no allocation after init.
 * Time is passed in.
 */
#ifndef KEEL_TRACKER_H
#define KEEL_TRACKER_H

#include <stddef.h>
#include <stdint.h>

#include "keel/breaker.h"

#define KEEL_HIST_BUCKETS 1216 /* 1 ns .. 2^42 ns (73 min): 32 + 37 * 32 */

struct keel_hist { uint64_t n, over; uint64_t max_ns; double sum_ns; uint32_t count[KEEL_HIST_BUCKETS]; };

uint32_t keel_hist_index(uint64_t ns);
uint64_t keel_hist_upper(uint32_t index); /* largest ns of the bucket */
void keel_hist_add(struct keel_hist *h, uint64_t ns, uint64_t target_ns); /* over counts ns > target (0: none) */
/* Smallest bucket bound with at least q of the counts at or below; 0 when empty; never above max. */
uint64_t keel_hist_quantile(const struct keel_hist *h, double q);
/* Several at once, in rising order: one walk for all. */
void keel_hist_quantiles(const struct keel_hist *h, const double *q, size_t n, uint64_t *out);

struct keel_tracker; /* opaque: histograms of all time and of this second, a minute of seconds, outcomes */

/* Of one tracker over a window, or of several added up. */
struct keel_track_sum { struct keel_hist hist; uint64_t outcomes[KEEL_N_OUTCOME]; };

struct keel_track_view {
    uint64_t n, over, max_ns, p50_ns, p90_ns, p95_ns, p99_ns, p999_ns;
    double mean_ns;
    uint64_t outcomes[KEEL_N_OUTCOME]; /* those without a latency included */
};

struct keel_tracker *keel_tracker_new(uint64_t target_ns); /* 0: no target */
void keel_tracker_free(struct keel_tracker *t);
void keel_tracker_add(struct keel_tracker *t, int64_t now_ns, uint64_t ns, enum keel_outcome o);
void keel_tracker_count(struct keel_tracker *t, int64_t now_ns, enum keel_outcome o); /* refused before it ran: no latency */
uint64_t keel_tracker_outcome(const struct keel_tracker *t, enum keel_outcome o);
/*
 * window_s: 0 all time; 10, 60: the second being filled and those before it, so 9 to 10 s and 59 to 60 s. Counts, maximum,
 * mean and over are exact. Adds to *sum.
 */
void keel_tracker_collect(struct keel_tracker *t, int64_t now_ns, int window_s, struct keel_track_sum *sum);
void keel_track_merge(struct keel_track_sum *into, const struct keel_track_sum *sum);
void keel_track_view_of(const struct keel_track_sum *sum, struct keel_track_view *out);
void keel_tracker_view(struct keel_tracker *t, int64_t now_ns, int window_s, struct keel_track_view *out);
uint64_t keel_tracker_target(const struct keel_tracker *t);
/* Of all time: the whole histogram, or figures of it by themselves. */
void keel_tracker_hist(const struct keel_tracker *t, struct keel_hist *out);
uint64_t keel_tracker_n(const struct keel_tracker *t);
uint64_t keel_tracker_over(const struct keel_tracker *t);
double keel_tracker_sum_ns(const struct keel_tracker *t);

#endif
