/* Records a call publishes: encoded and with room reserved at once, sent when it settles well. */
#include <string.h>

#include "call_impl.h"

static bool publishes(const struct keel_engine *engine, const char *topic)
{
    for (const char *const *t = engine->publishes; t != NULL && *t != NULL; t++) {
        if (strcmp(*t, topic) == 0)
            return true;
    }
    return false;
}

enum keel_status keel_publish(struct keel_call *pub, const char *topic, const char *key, int64_t ts_event,
                              int64_t ts_init, const void *record)
{
    struct call *c = keel_call_self(pub);
    struct keel_rt *rt = pub->rt;
    const struct keel_topic *row = keel_topic_find(topic);
    keel_assert(row != NULL && !row->durable && publishes(rt->engine, topic));
    if (rt->bus == NULL)
        return KEEL_OK;
    enum keel_lane lane = keel_topic_lane(topic);
    struct keel_json w;
    keel_json_init(&w, pub->arena, 512);
    keel_json_obj(&w, NULL);
    keel_record_encode(row->fields, record, &w);
    keel_json_end(&w);
    if (w.bad)
        return keel_fail_as(pub, KEEL_INTERNAL, "not_finite", NULL, "a record of %s is not finite", topic);
    bool is_live = (pub->op->flags & KEEL_LIVE) != 0 && lane == KEEL_LANE_NORMAL;
    if (!keel_bus_reserve(rt, lane, 1) && !(is_live && keel_bus_drop_oldest(rt) && keel_bus_reserve(rt, lane, 1)))
        return keel_fail_as(pub, KEEL_SHED, "outbox_full", NULL, "the outbox has no room for %s", topic);
    c->reserved[lane]++;
    struct publication *p = keel_arena_alloc(pub->arena, sizeof *p);
    int64_t event = pub->rec->ts_event;
    p->o = (struct keel_outgoing){
        .topic = row,
        .key = key != NULL ? keel_arena_strdup(pub->arena, key) : "-",
        .ts_event = ts_event != 0 ? ts_event : event != 0 ? event : keel_session_ns(rt),
        .ts_init = ts_init != 0 ? ts_init : keel_session_ns(rt),
        .ts_recv = pub->rec->ts_recv,
        .traceparent = pub->rec->traceparent,
        .payload = keel_json_text(&w),
        .len = w.len,
        .is_live = is_live,
    };
    *c->publications_end = p;
    c->publications_end = &p->next;
    return KEEL_OK;
}

void keel_call_release(struct call *c)
{
    for (int lane = 0; lane < KEEL_N_LANE; lane++) {
        if (c->reserved[lane] > 0)
            keel_bus_release(c->pub.rt, (enum keel_lane)lane, c->reserved[lane]);
        c->reserved[lane] = 0;
    }
    c->publications = NULL;
    c->publications_end = &c->publications;
}

void keel_call_send(struct call *c)
{
    for (struct publication *p = c->publications; p != NULL; p = p->next)
        keel_bus_send(c->pub.rt, &p->o);
    memset(c->reserved, 0, sizeof c->reserved);
    c->publications = NULL;
}
