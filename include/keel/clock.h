/* The only place that reads clocks. */
#ifndef KEEL_CLOCK_H
#define KEEL_CLOCK_H
#include <stdint.h>
int64_t keel_mono_ns(void); /* CLOCK_MONOTONIC: deadlines, latency, breakers; comparable between processes of one machine */
int64_t keel_wall_ns(void); /* CLOCK_REALTIME: stamps for people, ts_recv, ts_publish */
#endif
