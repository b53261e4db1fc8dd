/*
 * An engine's own figures: latencies it observes and gauges it sets, by name, in both modes. A
 * bounded table for the whole process, keyed by the running engine, so that tests may have several.
 * Loop thread only, like everything that has state.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "keel/arena.h"
#include "keel/log.h"
#include "keel/tracker.h"
#include "rt.h"

#define MAX_SERIES 64

struct series {
    const struct keel_rt *rt; /* NULL: the place is free */
    char name[64];
    struct keel_hist *hist; /* NULL: a gauge */
    double value;
};

static struct series table[MAX_SERIES];

/* A new name takes a free place; NULL when there is none. */
static struct series *series_of(const struct keel_rt *rt, const char *name)
{
    struct series *place = NULL;
    for (size_t i = 0; i < MAX_SERIES; i++) {
        struct series *s = &table[i];
        if (s->rt == rt && strcmp(s->name, name) == 0)
            return s;
        if (s->rt == NULL && place == NULL)
            place = s;
    }
    if (place == NULL) {
        keel_log_often(KEEL_LOG_WARN, "series_full", "name=%s", name);
        return NULL;
    }
    keel_assert(strlen(name) < sizeof(place->name));
    place->rt = rt;
    snprintf(place->name, sizeof(place->name), "%s", name);
    return place;
}

void keel_observe(struct keel_rt *rt, const char *name, int64_t ns)
{
    struct series *s = series_of(rt, name);
    if (s == NULL)
        return;
    if (s->hist == NULL)
        s->hist = keel_alloc(1, sizeof(*s->hist));
    /* Stamps of two machines' clocks may cross: that is no latency below zero. */
    keel_hist_add(s->hist, ns > 0 ? (uint64_t)ns : 0, 0);
}

void keel_gauge(struct keel_rt *rt, const char *name, double value)
{
    struct series *s = series_of(rt, name);
    if (s != NULL)
        s->value = value;
}

static void write_us(struct keel_json *w, const char *key, double ns)
{
    keel_json_fix(w, key, ns / 1e3, 3);
}

void keel_series_json(struct keel_rt *rt, struct keel_json *w)
{
    for (size_t i = 0; i < MAX_SERIES; i++) {
        const struct series *s = &table[i];
        if (s->rt != rt)
            continue;
        if (s->hist == NULL) {
            keel_json_f64(w, s->name, s->value);
            continue;
        }
        keel_json_obj(w, s->name);
        keel_json_u64(w, "count", s->hist->n);
        write_us(w, "p50_us", (double)keel_hist_quantile(s->hist, 0.5));
        write_us(w, "p99_us", (double)keel_hist_quantile(s->hist, 0.99));
        write_us(w, "max_us", (double)s->hist->max_ns);
        write_us(w, "mean_us", s->hist->sum_ns / (double)s->hist->n);
        keel_json_end(w);
    }
}

/* The core has gauges that are called keel_<name>_seconds: one name must not be two things. */
static void metric_summary(const struct series *s, struct keel_text *out, const char *engine)
{
    static const double quantile[] = {0.5, 0.99};
    keel_text_add(out, "# TYPE keel_%s_duration_seconds summary\n", s->name);
    for (size_t i = 0; i < KEEL_COUNT(quantile); i++)
        keel_text_add(out, "keel_%s_duration_seconds{engine=\"%s\",quantile=\"%g\"} %.9f\n", s->name, engine,
                      quantile[i], (double)keel_hist_quantile(s->hist, quantile[i]) / 1e9);
    keel_text_add(out, "keel_%s_duration_seconds_sum{engine=\"%s\"} %.9f\n", s->name, engine, s->hist->sum_ns / 1e9);
    keel_text_add(out, "keel_%s_duration_seconds_count{engine=\"%s\"} %" PRIu64 "\n", s->name, engine, s->hist->n);
}

void keel_series_metrics(struct keel_rt *rt, struct keel_text *out)
{
    for (size_t i = 0; i < MAX_SERIES; i++) {
        const struct series *s = &table[i];
        if (s->rt != rt)
            continue;
        if (s->hist != NULL)
            metric_summary(s, out, rt->engine->name);
        else
            keel_text_add(out, "# TYPE keel_%s gauge\nkeel_%s{engine=\"%s\"} %.17g\n", s->name, s->name,
                          rt->engine->name, s->value);
    }
}

void keel_series_close(struct keel_rt *rt)
{
    for (size_t i = 0; i < MAX_SERIES; i++) {
        if (table[i].rt != rt)
            continue;
        keel_free(table[i].hist);
        memset(&table[i], 0, sizeof(table[i]));
    }
}
