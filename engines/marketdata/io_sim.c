/*
 * The simulator as a source: whole steps into a batch, until its session is over. Then each symbol is told that
 * the clock has reached the end, so that bars which end there are closed.
 */
#include "io.h"

#include <stdio.h>

struct sim_source { struct sim sim; bool ended; };

static enum keel_status sim_open(void *cfg, void **self, char *why, size_t why_cap)
{
    const struct io_conf *conf = cfg;
    struct sim_source *s = keel_alloc(1, sizeof *s);
    const char *symbols[SIM_SYMBOLS];
    enum keel_status st;

    for (size_t i = 0; i < conf->n_symbols; i++)
        symbols[i] = conf->symbols[i];
    st = sim_init(&s->sim, conf->seed, conf->start_ns, conf->duration_ns, conf->rate, symbols, conf->n_symbols);
    if (st != KEEL_OK) {
        snprintf(why, why_cap, "a symbol that the simulator has not");
        keel_free(s);
        return st;
    }
    *self = s;
    return KEEL_OK;
}

static void push_ends(const struct sim *s, struct keel_batch *b)
{
    for (size_t i = 0; i < s->n; i++) {
        struct market_event ev = {.ts_init = s->end_ns, .ts_event = s->end_ns, .kind = MARKET_END,
                                  .symbol = s->coin[i].instrument->symbol};
        io_push(b, &ev);
    }
}

static enum keel_status sim_next(void *self, struct keel_batch *b, const atomic_bool *stop, char *why, size_t why_cap)
{
    struct sim_source *s = self;
    struct market_event *items = b->items;

    (void)why;
    (void)why_cap;
    _Static_assert(SIM_OUT >= SIM_SYMBOLS, "the room of a step holds the ends");
    while (b->n + SIM_OUT <= b->cap && !s->ended && !atomic_load(stop)) {
        size_t n = sim_step(&s->sim, b->arena, items + b->n);
        b->n += n;
        if (n == 0) {
            push_ends(&s->sim, b);
            s->ended = true;
        }
    }
    return KEEL_OK;
}

const struct keel_source_ops io_sim = {
    .name = "simulator", .item_size = sizeof(struct market_event), .batch_cap = IO_BATCH,
    .open = sim_open, .next = sim_next, .close = keel_free,
};
