/* Opening and closing: the engine's state is the journal in memory, the venue, and what the market
 * shows. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "keel/clock.h"
#include "keel/log.h"
#include "ops.h"

/* In base 36; at most 13 digits. */
static void make_epoch(char out[16], uint64_t v)
{
    char digit[16];
    size_t n = 0, k = 0;

    for (; v > 0; v /= 36)
        digit[n++] = "0123456789abcdefghijklmnopqrstuvwxyz"[v % 36];
    while (n > 0)
        out[k++] = digit[--n];
    out[k] = '\0';
}

/* People's strategy is there from the first start on. */
static void make_manual(struct strategy_state *s)
{
    struct strategy_def *d;
    struct keel_txn *t;

    if (strategy_map_get(&s->strategies, STRATEGY_MANUAL) != NULL)
        return;
    d = keel_alloc(1, sizeof *d);
    snprintf(d->id, sizeof d->id, "%s", STRATEGY_MANUAL);
    snprintf(d->portfolio_id, sizeof d->portfolio_id, "main");
    snprintf(d->venue, sizeof d->venue, "paper");
    d->status = STRATEGY_DEPLOYED;
    strategy_map_put(&s->strategies, d->id, d);
    t = keel_txn_new(keel_store(s->rt));
    keel_txn_exec(t,
                  "INSERT OR IGNORE INTO strategies(" STRATEGY_COLUMNS
                  ") VALUES(?,?,'1.0.0','deployed','none','main',"
                  "'paper','','1m','{}',?,?,0,'0')",
                  "ssii", d->id, "orders of people", keel_wall_ns(), keel_wall_ns());
    keel_txn_commit(s->rt, t, NULL, NULL);
}

enum keel_status strategy_open(struct keel_rt *rt, void *state)
{
    struct strategy_state *s = state;
    const struct strategy_options *o = keel_options(rt);
    struct paper_conf conf = {.taker_rate = o->taker_fee,
                              .maker_rate = o->maker_fee,
                              .max_age_ns = o->venue_max_age_ms * 1000000,
                              .fault = (enum paper_fault)o->venue_fault,
                              .max_symbols = (size_t)o->max_symbols,
                              .keep_closed = (size_t)o->max_closed_orders};
    enum keel_status st;

    if (strcmp(keel_mode(rt), "live") == 0 && o->venue_fault != 0) {
        keel_log(KEEL_LOG_ERROR, "venue_fault_refused",
                 "detail=venue_fault is for tests, not for keel_mode=live");
        return KEEL_INVALID;
    }
    s->rt = rt;
    s->opt = o;
    snprintf(conf.currency, sizeof conf.currency, "%s", o->quote_currency);
    make_epoch(s->epoch, (uint64_t)keel_wall_ns());
    st = strategy_journal_load(s);
    if (st == KEEL_OK)
        st = paper_open(rt, &conf, strategy_report, s, &s->venue);
    if (st != KEEL_OK) {
        strategy_close(rt, state);
        return st;
    }
    make_manual(s);
    /* The first sweep at once: what is unresolved and what risk says should not wait for the timer.
     */
    if (keel_spawn_rt(rt, "sweep", NULL) != KEEL_OK)
        keel_log(KEEL_LOG_WARN, "first_sweep_delayed", NULL);
    return KEEL_OK;
}

void strategy_close(struct keel_rt *rt, void *state)
{
    struct strategy_state *s = state;

    (void)rt;
    if (s->rt == NULL)
        return;
    strategy_journal_unload(s);
    for (size_t i = 0; i < s->marks.cap; i++)
        keel_free(s->marks.slot[i].value);
    strategy_map_fini(&s->marks);
    paper_close(s->venue);
    s->venue = NULL;
    s->generation = 0;
}

enum keel_probe_state strategy_probe_venue(struct keel_rt *rt, void *state, char *detail,
                                           size_t cap)
{
    const struct strategy_state *s = state;

    (void)rt;
    if (!paper_broken(s->venue))
        return KEEL_PROBE_OK;
    snprintf(detail, cap, "the paper venue cannot write its file");
    return KEEL_PROBE_AWAY;
}
