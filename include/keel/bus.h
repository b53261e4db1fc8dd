/* Topics: what is published where. See system.md 4. Publishing is keel_publish (call.h) and keel_txn_publish (store.h). */
#ifndef KEEL_BUS_H
#define KEEL_BUS_H

#include <stdbool.h>
#include <stddef.h>

#include "keel/record.h"

enum keel_lane { KEEL_LANE_CRITICAL, KEEL_LANE_PRIORITY, KEEL_LANE_NORMAL, KEEL_N_LANE };

struct keel_topic {
    const char *name;                 /* "strategy.critical.fill" */
    const struct keel_fields *fields;
    bool durable;                     /* an outbox row in the transaction of its cause, kept 24 h */
};

/* Every topic of the system (contract.c). NULL when there is none of that name. */
const struct keel_topic *keel_topic_find(const char *name);
const struct keel_topic *keel_topics(size_t *n);
/* Lane by the topic's second word, as the default priority_topics say. */
enum keel_lane keel_topic_lane(const char *name);

#endif
