/* Features over HTTP: of the live state, or of the prices given, by the same updates. */
#include "ops.h"

#include <math.h>
#include <string.h>

KEEL_RECORD_TABLE(feat_options, FEAT_OPTIONS);
KEEL_RECORD_TABLE(feat_request, FEAT_REQUEST);
KEEL_RECORD_TABLE(feat_series, FEAT_PRICES);
KEEL_RECORD_TABLE(feat_batch, FEAT_BATCH);
KEEL_RECORD_TABLE(feat_fundamental, FEAT_FUNDAMENTAL);
KEEL_RECORD_TABLE(feat_symbol_query, FEAT_SYMBOL);

static enum keel_status take_symbol(struct keel_call *c, const char *text, const char *field, const char **out)
{
    char *symbol = keel_arena_alloc(c->arena, KEEL_SYMBOL_LEN + 1);

    *out = symbol;
    if (keel_symbol_normalise(text, symbol))
        return KEEL_OK;
    return keel_fail_as(c, KEEL_INVALID, "bad_symbol", field, "%s must be of the form [A-Z0-9][A-Z0-9._-]{0,31}", field);
}

static bool is_technical(int id)
{
    return strcmp(feat_defs[id].type, "microstructure") != 0;
}

/* Writes {"name": {"value", "type", "confidence"}} of what is ready; returns how many. */
static int64_t write_features(struct keel_json *w, const struct feat_set *set, bool technical)
{
    struct feat_value v;
    int64_t n = 0;

    keel_json_obj(w, "features");
    for (int i = 0; i < FEAT_N; i++) {
        if (technical && !is_technical(i))
            continue;
        feat_get(set, (enum feat_id)i, &v);
        if (!v.ready)
            continue;
        keel_json_obj(w, feat_defs[i].name);
        keel_json_f64(w, "value", v.value);
        keel_json_str(w, "type", feat_defs[i].type);
        keel_json_f64(w, "confidence", v.have >= feat_defs[i].need ? 1.0 : (double)v.have / feat_defs[i].need);
        keel_json_end(w);
        n++;
    }
    keel_json_end(w);
    return n;
}

static int64_t count_ready(const struct feat_set *set)
{
    struct feat_value v;
    int64_t n = 0;

    for (int i = 0; i < FEAT_N; i++) {
        feat_get(set, (enum feat_id)i, &v);
        n += v.ready;
    }
    return n;
}

static void write_not_ready(struct keel_json *w, const struct feat_set *set, bool technical)
{
    struct feat_value v;

    keel_json_obj(w, "not_ready");
    for (int i = 0; i < FEAT_N; i++) {
        if (technical && !is_technical(i))
            continue;
        feat_get(set, (enum feat_id)i, &v);
        if (v.ready)
            continue;
        keel_json_obj(w, feat_defs[i].name);
        keel_json_i64(w, "have", v.have);
        keel_json_i64(w, "need", feat_defs[i].need);
        keel_json_end(w);
    }
    keel_json_end(w);
}

static enum keel_status check_series(struct keel_call *c, const struct feat_series *r)
{
    const struct { const char *name; bool has; size_t n; const double *x; } more[] = {
        {"volumes", r->has_volumes, r->n_volumes, r->volumes},
        {"highs", r->has_highs, r->n_highs, r->highs},
        {"lows", r->has_lows, r->n_lows, r->lows},
    };

    for (size_t k = 0; k < KEEL_COUNT(more); k++) {
        if (more[k].has && more[k].n != r->n_prices)
            return keel_fail_as(c, KEEL_INVALID, "length", more[k].name, "%s has %zu values, prices has %zu", more[k].name,
                                more[k].n, r->n_prices);
        for (size_t i = 0; i < more[k].n; i++)
            if (more[k].x[i] < 0)
                return keel_fail_as(c, KEEL_INVALID, "out_of_range", more[k].name, "%s[%zu] must be >= 0", more[k].name, i);
    }
    for (size_t i = 0; i < r->n_prices; i++)
        if (!(r->prices[i] > 0))
            return keel_fail_as(c, KEEL_INVALID, "out_of_range", "prices", "prices[%zu] must be > 0", i);
    if (r->has_highs != r->has_lows)
        return keel_fail_as(c, KEEL_INVALID, "missing", r->has_highs ? "lows" : "highs", "highs and lows go together");
    return KEEL_OK;
}

/* The set of a request: supplied prices through feat_add_bar, or the live one. */
static enum keel_status find_set(struct keel_call *c, const char *symbol, const struct feat_series *r, const struct feat_set **out)
{
    struct feat_symbol *sym;
    struct feat_set *set;
    enum keel_status st;

    if (r->has_prices) {
        if ((st = check_series(c, r)) != KEEL_OK)
            return st;
        set = keel_arena_alloc(c->arena, sizeof *set);
        feat_init(set);
        for (size_t i = 0; i < r->n_prices; i++)
            feat_add_bar(set, &(struct feat_bar){.close = r->prices[i], .high = r->has_highs ? r->highs[i] : 0,
                                                 .low = r->has_lows ? r->lows[i] : 0, .has_range = r->has_highs,
                                                 .volume = r->has_volumes ? r->volumes[i] : 0, .has_volume = r->has_volumes});
        *out = set;
        return KEEL_OK;
    }
    if (r->has_volumes || r->has_highs || r->has_lows)
        return keel_fail_as(c, KEEL_INVALID, "missing", "prices", "volumes, highs and lows need prices");
    sym = feat_find(c->state, symbol, false);
    set = sym ? feat_set_of(sym, r->spec, false) : NULL;
    if (!set)
        return keel_fail_as(c, KEEL_NOTFOUND, "no_live_state", "symbol", "no bar of %s%s%s has been seen; supply prices", symbol,
                            *r->spec ? " " : "", r->spec);
    *out = set;
    return KEEL_OK;
}

static struct feat_series series_of(const struct feat_request *r)
{
    return (struct feat_series){.prices = r->prices, .has_prices = r->has_prices, .n_prices = r->n_prices,
                                .volumes = r->volumes, .has_volumes = r->has_volumes, .n_volumes = r->n_volumes,
                                .highs = r->highs, .has_highs = r->has_highs, .n_highs = r->n_highs,
                                .lows = r->lows, .has_lows = r->has_lows, .n_lows = r->n_lows, .spec = r->spec};
}

static int64_t stamp_of(struct keel_call *c, const struct feat_set *set)
{
    return set->ts_close != 0 ? set->ts_close : c->wall_ns;
}

static enum keel_status answer_set(struct keel_call *c, const char *symbol, const struct feat_set *set, bool supplied)
{
    struct keel_json *w = &c->out;
    struct feat_state *s = c->state;

    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "symbol", symbol);
    keel_json_obj(w, "feature_set");
    keel_json_time(w, "timestamp", stamp_of(c, set));
    keel_json_i64(w, "total_features", count_ready(set));
    write_features(w, set, false);
    keel_json_end(w);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_str(w, "basis", supplied ? "supplied" : "live");
    write_not_ready(w, set, false);
    keel_json_str(w, "schema_hash", s->schema);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_calculate(struct keel_call *c)
{
    const struct feat_request *r = c->arg;
    struct feat_series series = series_of(r);
    const char *symbol;
    const struct feat_set *set = NULL;
    enum keel_status st = take_symbol(c, r->symbol, "symbol", &symbol);

    if (st == KEEL_OK)
        st = find_set(c, symbol, &series, &set);
    return st == KEEL_OK ? answer_set(c, symbol, set, r->has_prices) : st;
}

enum keel_status api_live(struct keel_call *c)
{
    const struct feat_symbol_query *q = c->arg;
    const char *symbol;
    const struct feat_set *set = NULL;
    enum keel_status st = take_symbol(c, q->symbol, "symbol", &symbol);

    if (st == KEEL_OK)
        st = find_set(c, symbol, &(struct feat_series){.spec = q->spec}, &set);
    return st == KEEL_OK ? answer_set(c, symbol, set, false) : st;
}

enum keel_status api_technical(struct keel_call *c)
{
    const struct feat_request *r = c->arg;
    struct feat_series series = series_of(r);
    const char *symbol;
    const struct feat_set *set = NULL;
    struct keel_json *w = &c->out;
    enum keel_status st = take_symbol(c, r->symbol, "symbol", &symbol);

    if (st == KEEL_OK)
        st = find_set(c, symbol, &series, &set);
    if (st != KEEL_OK)
        return st;
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "symbol", symbol);
    keel_json_i64(w, "count", write_features(w, set, true));
    keel_json_time(w, "timestamp", stamp_of(c, set));
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_str(w, "basis", r->has_prices ? "supplied" : "live");
    write_not_ready(w, set, true);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_fundamental(struct keel_call *c)
{
    const struct feat_fundamental *r = c->arg;
    struct keel_json *w = &c->out;
    const struct { const char *name; bool has; double value; const char *from; } f[] = {
        {"market_cap_log", r->has_market_cap, r->has_market_cap ? log(r->market_cap) : 0, "market_cap"},
        {"pe_ratio", r->has_pe_ratio, r->pe_ratio, "pe_ratio"},
        {"earnings_yield", r->has_pe_ratio && r->pe_ratio != 0, r->pe_ratio != 0 ? 1 / r->pe_ratio : 0, "pe_ratio"},
        {"pb_ratio", r->has_pb_ratio, r->pb_ratio, "pb_ratio"},
        {"book_to_price", r->has_pb_ratio && r->pb_ratio != 0, r->pb_ratio != 0 ? 1 / r->pb_ratio : 0, "pb_ratio"},
    };
    const char *symbol;
    int64_t n = 0;

    if (take_symbol(c, r->symbol, "symbol", &symbol) != KEEL_OK)
        return KEEL_INVALID;
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_str(w, "symbol", symbol);
    keel_json_obj(w, "features");
    for (size_t i = 0; i < KEEL_COUNT(f); i++) {
        if (!f[i].has)
            continue;
        keel_json_obj(w, f[i].name);
        keel_json_f64(w, "value", f[i].value);
        keel_json_str(w, "type", "fundamental");
        keel_json_f64(w, "confidence", 1.0);
        keel_json_end(w);
        n++;
    }
    keel_json_end(w);
    keel_json_i64(w, "count", n);
    keel_json_obj(w, "undefined");
    for (size_t i = 0; i < KEEL_COUNT(f); i++)
        if (!f[i].has)
            keel_json_str(w, f[i].name, keel_arena_printf(c->arena, "needs %s, not 0", f[i].from));
    keel_json_end(w);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_end(w);
    return KEEL_OK;
}

/* name: the symbol as the caller wrote it, which is how market_data names it. */
static enum keel_status batch_one(struct keel_call *c, const struct keel_jval *data, const char *name,
                                  const char *symbol)
{
    struct keel_json *w = &c->out;
    const struct keel_jval *given = keel_jget(data, name);
    struct feat_series series = {.spec = ""};
    struct keel_record_error err;
    const struct feat_set *set = NULL;
    enum keel_status st;

    if (given) {
        if (keel_record_decode(&feat_series_fields, c->arena, given, &series, &c->ignored, &err) != KEEL_OK)
            return keel_fail_as(c, KEEL_INVALID, err.code, keel_arena_printf(c->arena, "market_data.%s.%s", name, err.field), "%s",
                                err.detail);
    }
    st = find_set(c, symbol, &series, &set);
    if (st == KEEL_NOTFOUND) {
        keel_json_null(w, symbol);
        return KEEL_OK;
    }
    if (st != KEEL_OK)
        return st;
    keel_json_obj(w, symbol);
    keel_json_i64(w, "total_features", count_ready(set));
    keel_json_time(w, "timestamp", stamp_of(c, set));
    write_features(w, set, false);
    keel_json_str(w, "basis", given && series.has_prices ? "supplied" : "live");
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_batch(struct keel_call *c)
{
    const struct feat_batch *r = c->arg;
    struct feat_state *s = c->state;
    const struct keel_jval *data = NULL;
    const char *why;
    const char **symbol = keel_arena_array(c->arena, r->n_symbols, sizeof *symbol);
    struct keel_json *w = &c->out;
    int64_t known = 0;

    if (r->has_market_data && (keel_json_parse(c->arena, r->market_data, r->n_market_data, &data, &why) != KEEL_OK ||
                               data->type != KEEL_JOBJ))
        return keel_fail_as(c, KEEL_INVALID, "wrong_type", "market_data", "market_data must be an object of symbols");
    for (size_t i = 0; i < r->n_symbols; i++) {
        enum keel_status st = take_symbol(c, r->symbols[i], "symbols", &symbol[i]);
        if (st != KEEL_OK)
            return st;
        for (size_t k = 0; k < i; k++)
            if (strcmp(symbol[i], symbol[k]) == 0)
                return keel_fail_as(c, KEEL_INVALID, "duplicate", "symbols", "%s is there twice", symbol[i]);
    }
    keel_json_obj(w, NULL);
    keel_json_str(w, "status", "completed");
    keel_json_i64(w, "batch_size", (int64_t)r->n_symbols);
    keel_json_obj(w, "results");
    for (size_t i = 0; i < r->n_symbols; i++) {
        enum keel_status st = batch_one(c, data, r->symbols[i], symbol[i]);
        if (st != KEEL_OK)
            return st;
        known += keel_jget(data, r->symbols[i]) || feat_find(s, symbol[i], false);
    }
    keel_json_end(w);
    keel_json_i64(w, "processed", known);
    keel_json_str(w, "schema_hash", s->schema);
    keel_json_fix(w, "processing_time_ms", keel_elapsed_ms(c), 3);
    keel_write_ignored(c);
    keel_json_end(w);
    return KEEL_OK;
}

enum keel_status api_available(struct keel_call *c)
{
    struct keel_json *w = &c->out;
    struct feat_state *s = c->state;

    keel_json_obj(w, NULL);
    keel_json_obj(w, "features");
    for (int i = 0; i < FEAT_N; i++) {
        keel_json_obj(w, feat_defs[i].name);
        keel_json_str(w, "type", feat_defs[i].type);
        keel_json_str(w, "parameters", feat_defs[i].params);
        keel_json_i64(w, "lookback", feat_defs[i].need);
        keel_json_str(w, "description", feat_defs[i].help);
        keel_json_end(w);
    }
    keel_json_end(w);
    keel_json_i64(w, "count", FEAT_N);
    keel_json_arr(w, "categories");
    for (int i = 0; i < FEAT_N; i++) {
        bool seen = false;
        for (int k = 0; k < i; k++)
            seen = seen || strcmp(feat_defs[k].type, feat_defs[i].type) == 0;
        if (!seen)
            keel_json_str(w, NULL, feat_defs[i].type);
    }
    keel_json_end(w);
    keel_json_str(w, "schema_hash", s->schema);
    keel_json_end(w);
    return KEEL_OK;
}
