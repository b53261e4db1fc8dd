/* Answers: problem bodies, the headers all have in common, the 202 of calls that go on, the trace they belong to. */
#include <stdio.h>
#include <string.h>

#include "call_impl.h"
#include "keel/clock.h"

/* ---- scratch; done may come back here, so one more may be needed ---- */

struct keel_arena *keel_scratch_take(struct keel_calls *cs)
{
    if (cs->scratch_used)
        return keel_arena_new(4096);
    cs->scratch_used = true;
    return cs->scratch;
}

void keel_scratch_give(struct keel_calls *cs, struct keel_arena *a)
{
    if (a != cs->scratch) {
        keel_arena_free(a);
        return;
    }
    keel_arena_reset(a);
    cs->scratch_used = false;
}

/* ---- trace ---- */

/* Eight digits in a word: each in its byte, then 0..9 and 10..15 made characters. */
static void hex_u32(char *out, uint32_t v)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t x = v;
    x = (x << 16 | x) & UINT64_C(0x0000FFFF0000FFFF);
    x = (x << 8 | x) & UINT64_C(0x00FF00FF00FF00FF);
    x = (x << 4 | x) & UINT64_C(0x0F0F0F0F0F0F0F0F);
    uint64_t is_letter = (x + ones * 6) >> 4 & ones;
    x += ones * '0' + is_letter * ('a' - '0' - 10);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    x = __builtin_bswap64(x); /* the first digit is the highest */
#endif
    memcpy(out, &x, sizeof x);
}

static void hex_u64(char *out, uint64_t v)
{
    hex_u32(out, (uint32_t)(v >> 32));
    hex_u32(out + 8, (uint32_t)v);
}

static uint64_t random_id(struct keel_calls *cs)
{
    uint64_t v = keel_rng_u64(&cs->rng);
    return v != 0 ? v : 1;
}

/* The header carries it on. */
void keel_trace_set(struct call *c, const char *text)
{
    struct keel_calls *cs = c->pub.rt->calls;
    char *p = c->hdr.traceparent;
    if (!keel_traceparent_parse(text, c->trace, c->flags)) {
        hex_u64(c->trace, random_id(cs));
        hex_u64(c->trace + 16, random_id(cs));
        c->trace[32] = '\0';
        memcpy(c->flags, "00", 3);
    }
    memcpy(p, "00-", 3);
    memcpy(p + 3, c->trace, 32);
    p[35] = '-';
    hex_u64(p + 36, random_id(cs));
    p[52] = '-';
    memcpy(p + 53, c->flags, 3);
}

const char *keel_trace_id(const struct keel_call *pub)
{
    struct call *c = keel_call_self(pub);
    if (c->trace[0] == '\0')
        keel_trace_set(c, c->hdr.traceparent);
    return c->trace;
}

/* ---- answers ---- */

static void add_header(struct keel_answer *ans, const char *name, const char *value)
{
    keel_assert(ans->n_headers < KEEL_COUNT(ans->headers));
    ans->headers[ans->n_headers++] = (struct keel_param){name, value};
}

static void common_headers(struct keel_answer *ans)
{
    add_header(ans, "Cache-Control", "no-store");
    add_header(ans, "X-Content-Type-Options", "nosniff");
}

struct problem {
    enum keel_status st;
    const char *code, *field, *detail, *trace;
    const struct member *members;
    int64_t retry_after_ns;
};

static void write_problem(struct keel_arena *a, const struct problem *p, struct keel_answer *out)
{
    struct keel_json w;
    *out = (struct keel_answer){.http = keel_status_http(p->st), .type = "application/problem+json"};
    keel_json_init(&w, a, 512);
    keel_json_obj(&w, NULL);
    keel_json_str(&w, "type", "about:blank");
    keel_json_str(&w, "title", keel_status_text(p->st));
    keel_json_i64(&w, "status", out->http);
    keel_json_str(&w, "detail", p->detail != NULL ? p->detail : keel_status_text(p->st));
    keel_json_str(&w, "code", p->code != NULL ? p->code : keel_status_name(p->st));
    if (p->field != NULL)
        keel_json_str(&w, "field", p->field);
    if (p->trace != NULL)
        keel_json_str(&w, "trace_id", p->trace);
    if (p->retry_after_ns > 0) /* the header has whole seconds */
        keel_json_i64(&w, "retry_after_ms", (p->retry_after_ns + 999999) / 1000000);
    for (const struct member *m = p->members; m != NULL; m = m->next)
        keel_json_raw(&w, m->name, m->json, m->len);
    keel_json_end(&w);
    out->body = keel_json_text(&w);
    out->len = w.len;
    common_headers(out);
    if (out->http == 503 || out->http == 429) {
        int64_t s = (p->retry_after_ns + 999999999) / 1000000000;
        add_header(out, "Retry-After", keel_arena_printf(a, "%lld", (long long)(s > 1 ? s : 1)));
    }
    if (out->http == 401)
        add_header(out, "WWW-Authenticate", "Bearer");
}

void keel_problem(struct keel_arena *a, enum keel_status st, const char *code, const char *field, const char *detail,
                  const char *trace_id, struct keel_answer *out)
{
    const struct problem p = {st, code, field, detail, trace_id, NULL, 0};
    write_problem(a, &p, out);
}

/* Milliseconds with three decimals; printf takes longer for a double than the guard does for a call. */
static const char *server_timing(struct keel_arena *a, int64_t ns)
{
    static const char name[] = "app;dur=";
    char *text = keel_arena_alloc(a, sizeof name + 24), *p = text + sizeof name + 23;
    uint64_t us = (uint64_t)(ns > 0 ? ns : 0) / 1000;

    *p = '\0';
    for (int digits = 0; digits < 4 || us > 0; us /= 10) {
        *--p = (char)('0' + us % 10);
        if (++digits == 3)
            *--p = '.';
    }
    p -= sizeof name - 1;
    memcpy(p, name, sizeof name - 1);
    return p;
}

static void deliver(struct call *c, struct keel_arena *a, struct keel_answer *ans)
{
    add_header(ans, "X-Trace-Id", keel_trace_id(&c->pub));
    add_header(ans, "Server-Timing", server_timing(a, c->answered_ns - c->pub.start_ns));
    ans->settled_ns = c->answered_ns;
    keel_answer_fn *done = c->answer_fn;
    done(c->ctx, ans);
    c->rq = NULL;
    if (c->is_holding) {
        c->is_holding = false;
        c->pub.rt->calls->n_holding--;
        keel_bus_answered(c->pub.rt);
    }
}

static void answer_ok(struct call *c, struct keel_arena *a)
{
    struct keel_call *pub = &c->pub;
    struct keel_answer ans = {.http = pub->http != 0 ? pub->http : 200,
                              .type = pub->type != NULL ? pub->type : "application/json"};
    ans.body = pub->out.len > 0 ? keel_json_text(&pub->out) : pub->type == NULL ? "{}" : "";
    ans.len = pub->out.len > 0 ? pub->out.len : strlen(ans.body);
    if (!c->late) /* that one is in a scratch arena, which goes on */
        ans.arena = pub->arena;
    common_headers(&ans);
    if (pub->policy != NULL)
        add_header(&ans, "Content-Security-Policy", pub->policy);
    deliver(c, a, &ans);
}

void keel_call_problem_body(struct call *c, enum keel_status st, struct keel_arena *a, struct keel_answer *out)
{
    struct problem p = {.st = st, .trace = keel_trace_id(&c->pub), .members = c->members};
    p.retry_after_ns = c->retry_after_ns;
    if (c->failed == st) {
        p.code = c->code;
        p.field = c->field;
        p.detail = c->detail;
    }
    write_problem(a, &p, out);
}

void keel_call_answer(struct call *c, enum keel_status st)
{
    if (c->answered)
        return;
    struct keel_calls *cs = c->pub.rt->calls;
    c->answered = true;
    c->answered_ns = keel_mono_ns();
    if (c->settled_fn != NULL)
        c->settled_fn(c->ctx, &c->pub, st);
    if (c->answer_fn == NULL)
        return;
    struct keel_arena *a = keel_scratch_take(cs);
    if (st == KEEL_OK) {
        answer_ok(c, a);
    } else {
        struct keel_answer ans;
        keel_call_problem_body(c, st, a, &ans);
        deliver(c, a, &ans);
    }
    keel_scratch_give(cs, a);
}

/* 202: the outcome is open. Written by the handler's own step, but not into the arena, which a worker may have. */
void keel_call_answer_late(struct call *c)
{
    struct keel_calls *cs = c->pub.rt->calls;
    struct keel_call kept = c->pub;
    struct keel_arena *a = keel_scratch_take(cs);
    c->late = true;
    c->pub.arena = a;
    c->pub.http = 202;
    c->pub.type = NULL;
    keel_json_init(&c->pub.out, a, 512);
    if (c->late_step == NULL || c->late_step(&c->pub) != KEEL_OK) {
        keel_json_init(&c->pub.out, a, 512);
        keel_json_obj(&c->pub.out, NULL);
        keel_json_str(&c->pub.out, "status", "unknown");
        keel_json_str(&c->pub.out, "detail", "the deadline passed after the point of no return");
        keel_json_end(&c->pub.out);
    }
    keel_assert(c->pub.out.depth == 0);
    c->answered = true;
    c->answered_ns = keel_mono_ns();
    answer_ok(c, a);
    c->pub = kept;
    keel_scratch_give(cs, a);
}

void keel_call_answer_job(struct call *c)
{
    struct keel_rt *rt = c->pub.rt;
    struct keel_arena *a = keel_scratch_take(rt->calls);
    struct keel_answer ans = {.http = 202, .type = "application/json"};
    struct keel_json w;
    keel_json_init(&w, a, 128);
    keel_json_obj(&w, NULL);
    keel_json_str(&w, "job_id", keel_jobs_id(c->entry));
    keel_json_str(&w, "status", keel_jobs_state(c->entry));
    keel_json_end(&w);
    ans.body = keel_json_text(&w);
    ans.len = w.len;
    common_headers(&ans);
    add_header(&ans, "Location", keel_arena_printf(a, "/jobs/%s", keel_jobs_id(c->entry)));
    c->answered = true;
    c->answered_ns = keel_mono_ns();
    deliver(c, a, &ans);
    keel_scratch_give(rt->calls, a);
}

void keel_call_refuse(struct keel_rt *rt, enum keel_status st, const char *code, const char *detail,
                        keel_answer_fn *done, void *ctx)
{
    struct keel_arena *a = keel_scratch_take(rt->calls);
    struct keel_answer ans;
    keel_problem(a, st, code, NULL, detail, NULL, &ans);
    done(ctx, &ans);
    keel_scratch_give(rt->calls, a);
}
