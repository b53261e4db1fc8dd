/*
 * Which of several instances on one data directory is at work. docs/decisions/leases.md has the argument; in
 * short:
 *
 * The store decides who may write: whoever opens it raises its fencing epoch, and every commit compares (store.c).
 * A file lock, which dies with its holder, lets the next instance begin at once after a crash. The lease in Redis
 * only tells a standby that the active instance, though alive, has stopped working: a value that the active one
 * keeps changing. A standby takes over when it has seen it stand still for LEASE_MS by its own clock, and when the
 * value names the instance that the lock file names, so that a system on another Redis is left alone.
 *
 * The active instance knows until when nobody can have taken over. Past that (it was stopped, or Redis is away) it
 * looks into the store before it does anything more, and ends when the epoch there is no longer its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bus_priv.h"
#include "keel/clock.h"
#include "keel/log.h"

enum { TICK_MS = 100, EXIT_FENCED = 75 /* EX_TEMPFAIL: start it again, as a standby */ };

#define LOOK_NS (250 * KEEL_MS_NS) /* while the lease is not renewed, the store is asked so often */

struct keel_lease {
    struct keel_rt *rt;
    void (*take)(struct keel_rt *rt);
    char path[600], id[96], key[128];
    int fd;
    bool is_locked;
    char owner[96], before[96]; /* the lock file's: who became active last, and before that */
    bool owner_had_lock;
    /* with a standby to be: single writers with a Redis */
    struct keel_link *link;
    uv_timer_t tick;
    bool is_shared, has_tick, is_asking;
    int64_t ttl_ns, next_ns, sent_ns, free_since_ns;
    uint64_t beats;
    char seen[160]; /* standby: the lease's value, and since when it has been that */
    int64_t seen_since_ns, seen_at_ns;
};

/* ---- the lock file ---- */

static bool make_dirs(const char *path, struct keel_arena *a)
{
    char *part = keel_arena_strdup(a, path);
    for (char *p = part + 1; *p != '\0'; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return false;
        *p = '/';
    }
    return mkdir(part, 0700) == 0 || errno == EEXIST;
}

static bool try_lock(struct keel_lease *l)
{
    return flock(l->fd, LOCK_EX | LOCK_NB) == 0;
}

/* "PID ID locked BEFORE\n"; "unlocked" when its writer took over from one that still had the lock. */
static void owner_read(struct keel_lease *l)
{
    char text[256] = "", how[16] = "";
    long pid;
    ssize_t n = pread(l->fd, text, sizeof text - 1, 0);
    l->owner[0] = l->before[0] = '\0';
    l->owner_had_lock = true;
    if (n > 0 && sscanf(text, "%ld %95s %15s %95s", &pid, l->owner, how, l->before) >= 3)
        l->owner_had_lock = strcmp(how, "unlocked") != 0;
}

static void owner_write(struct keel_lease *l)
{
    char text[256];
    const char *before = strcmp(l->owner, l->id) != 0 ? l->owner : l->before;
    int n = snprintf(text, sizeof text, "%ld %s %s %s\n", (long)getpid(), l->id,
                     l->is_locked ? "locked" : "unlocked", before);
    if (pwrite(l->fd, text, (size_t)n, 0) != n || ftruncate(l->fd, n) != 0)
        keel_log(KEEL_LOG_WARN, "lock_not_written", "file=%s detail=%s", l->path, strerror(errno));
}

/*
 * True: nobody who was at work here is alive. An owner that had to begin without the lock asks for it all the
 * time: it may be alive until the lock has been there for the taking for as long as a lease.
 */
static bool take_lock(struct keel_lease *l)
{
    int64_t now_ns = keel_mono_ns();
    bool got = try_lock(l);
    owner_read(l);
    if (!got || l->free_since_ns == 0)
        l->free_since_ns = got ? now_ns : 0;
    if (got && l->is_shared && !l->owner_had_lock && now_ns - l->free_since_ns < l->ttl_ns) {
        flock(l->fd, LOCK_UN);
        got = false;
    }
    l->is_locked = got;
    return got;
}

/* ---- at work ---- */

static void fenced(void)
{
    keel_log(KEEL_LOG_ERROR, "fenced", "detail=another instance has taken over the store; nothing more is done here");
    keel_log_flush();
    /* No drain: whatever this process still has in hand is the other's now. */
    _exit(EXIT_FENCED);
}

void keel_lease_look(struct keel_rt *rt)
{
    if (rt->store != NULL && keel_store_fenced(rt->store))
        fenced();
    rt->held_until_ns = keel_lease_is_shared(rt) ? keel_mono_ns() + LOOK_NS : INT64_MAX;
}

/* The lease's value: "ID EPOCH COUNT". */
static bool is_of(const char *id, const char *text, size_t n)
{
    size_t len = strlen(id);
    return len > 0 && n > len && memcmp(text, id, len) == 0 && text[len] == ' ';
}

static void on_holder(void *ctx, const struct redisReply *reply)
{
    struct keel_lease *l = ctx;
    const char *text;
    size_t n;
    if (keel_reply_text(reply, &text, &n) && !is_of(l->id, text, n))
        keel_lease_look(l->rt);
}

static void on_renewed(void *ctx, const struct redisReply *reply)
{
    struct keel_lease *l = ctx;
    l->is_asking = false;
    if (reply == NULL || keel_reply_error(reply) != NULL)
        return;
    /* A standby that saw this value at the earliest moment waits longer; an eighth is for clocks that run apart. */
    int64_t until_ns = l->sent_ns + l->ttl_ns - l->ttl_ns / 8;
    if (until_ns > l->rt->held_until_ns)
        l->rt->held_until_ns = until_ns;
}

static void renew(struct keel_lease *l, int64_t now_ns)
{
    KEEL_ARGS(get);
    KEEL_ARGS(set);
    char value[160];
    if (l->is_asking || now_ns < l->next_ns || !keel_link_is_up(l->link))
        return;
    snprintf(value, sizeof value, "%s %lld %llu", l->id, (long long)keel_lease_epoch(l->rt),
             (unsigned long long)++l->beats);
    keel_arg(&get, "GET");
    keel_arg(&get, l->key);
    keel_arg(&set, "SET");
    keel_arg(&set, l->key);
    keel_arg(&set, value);
    l->next_ns = now_ns + l->ttl_ns / 4;
    l->sent_ns = now_ns;
    keel_link_send(l->link, &get, 0, on_holder, l);
    l->is_asking = keel_link_send(l->link, &set, 0, on_renewed, l);
}

/* The one that was stopped has ended at last: what Redis gave it since then is ours to ask for. */
static void late_lock(struct keel_lease *l)
{
    if (!try_lock(l))
        return;
    l->is_locked = true;
    owner_read(l);
    owner_write(l);
    keel_bus_look_again(l->rt);
}

/* ---- standby ---- */

static void take(struct keel_lease *l, const char *why)
{
    keel_log(KEEL_LOG_WARN, "taking_over", "from=%s reason=%s", l->owner[0] != '\0' ? l->owner : "-", why);
    l->take(l->rt);
}

static void on_seen(void *ctx, const struct redisReply *reply)
{
    struct keel_lease *l = ctx;
    int64_t now_ns = keel_mono_ns(), gap_ns = now_ns - l->seen_at_ns;
    const char *text = "";
    size_t n = 0;
    l->is_asking = false;
    if (reply == NULL || keel_reply_error(reply) != NULL || !l->rt->standby)
        return;
    keel_reply_text(reply, &text, &n);
    n = n < sizeof l->seen ? n : sizeof l->seen - 1;
    l->seen_at_ns = now_ns;
    /* A pause of our own, or of Redis, is no evidence against the other. */
    if (gap_ns > l->ttl_ns / 2 || strlen(l->seen) != n || memcmp(l->seen, text, n) != 0) {
        memcpy(l->seen, text, n);
        l->seen[n] = '\0';
        l->seen_since_ns = now_ns;
        return;
    }
    /* An owner that ended before its first renewal left the value of the one before. */
    if ((is_of(l->owner, text, n) || is_of(l->before, text, n)) && now_ns - l->seen_since_ns >= l->ttl_ns)
        take(l, "it no longer renews its lease");
}

static void watch(struct keel_lease *l, int64_t now_ns)
{
    KEEL_ARGS(get);
    if (take_lock(l)) {
        take(l, "it has ended");
        return;
    }
    if (l->is_asking || now_ns < l->next_ns || !keel_link_is_up(l->link))
        return;
    keel_arg(&get, "GET");
    keel_arg(&get, l->key);
    l->next_ns = now_ns + l->ttl_ns / 8;
    l->is_asking = keel_link_send(l->link, &get, 0, on_seen, l);
}

static void on_tick(uv_timer_t *timer)
{
    struct keel_lease *l = timer->data;
    int64_t now_ns = keel_mono_ns();
    keel_tick_in(l->rt, timer, on_tick, TICK_MS);
    if (!l->rt->standby)
        keel_lease_hold(l->rt, now_ns);
    keel_link_tick(l->link, now_ns);
    if (l->rt->draining)
        return;
    if (l->rt->standby) {
        watch(l, now_ns);
        return;
    }
    if (!l->is_locked)
        late_lock(l);
    renew(l, now_ns);
}

static void on_up(void *ctx)
{
    struct keel_lease *l = ctx;
    l->is_asking = false;
    l->next_ns = 0;
}

/* ---- life ---- */

static void identify(struct keel_lease *l)
{
    char host[48] = "";
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0')
        snprintf(host, sizeof host, "localhost");
    snprintf(l->id, sizeof l->id, "%s/%ld/%s", host, (long)getpid(), l->rt->epoch);
}

static enum keel_status refuse_second(const struct keel_lease *l, char *err, size_t cap)
{
    char text[24] = "";
    ssize_t n = pread(l->fd, text, sizeof text - 1, 0);
    text[n > 0 ? strcspn(text, " \n") : 0] = '\0';
    snprintf(err, cap, "data_dir=%s: in use by another %s-engine, process %s", l->rt->core->data_dir,
             l->rt->engine->name, text);
    return KEEL_CONFLICT;
}

enum keel_status keel_lease_open(struct keel_rt *rt, char *err, size_t cap)
{
    const char *dir = rt->core->data_dir;
    struct keel_lease *l;
    if (!make_dirs(dir, rt->arena)) {
        snprintf(err, cap, "data_dir=%s: %s", dir, strerror(errno));
        return KEEL_INVALID;
    }
    l = keel_alloc(1, sizeof *l);
    l->rt = rt;
    l->is_shared = rt->engine->single_writer && rt->core->redis_url[0] != '\0';
    l->ttl_ns = rt->core->lease_ms * KEEL_MS_NS;
    rt->lease = l;
    rt->held_until_ns = INT64_MAX;
    identify(l);
    snprintf(l->path, sizeof l->path, "%s/%s.lock", dir, rt->engine->name);
    l->fd = open(l->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (l->fd < 0) {
        snprintf(err, cap, "%s: %s", l->path, strerror(errno));
        return KEEL_INVALID;
    }
    if (take_lock(l))
        return KEEL_OK;
    if (!l->is_shared)
        return refuse_second(l, err, cap);
    rt->standby = true;
    keel_log(KEEL_LOG_INFO, "standby", "active=%s", l->owner);
    return KEEL_OK;
}

void keel_lease_watch(struct keel_rt *rt, void (*take_over)(struct keel_rt *rt))
{
    struct keel_lease *l = rt->lease;
    char name[64];
    if (!l->is_shared)
        return;
    l->take = take_over;
    snprintf(name, sizeof name, "nautilus-%.24s-hybrid-lease", rt->engine->name);
    snprintf(l->key, sizeof l->key, "%s%s%s", strcmp(rt->core->keel_env, "main") != 0 ? rt->core->keel_env : "",
             strcmp(rt->core->keel_env, "main") != 0 ? ":" : "", name);
    l->link = keel_link_new(&(struct keel_link_conf){.loop = rt->loop, .url = rt->core->redis_url, .name = "lease",
                                                     .up = on_up, .ctx = l});
    uv_timer_init(rt->loop, &l->tick);
    l->tick.data = l;
    l->has_tick = true;
    uv_timer_start(&l->tick, on_tick, 0, 0);
}

void keel_lease_taken(struct keel_rt *rt)
{
    struct keel_lease *l = rt->lease;
    rt->standby = false;
    owner_write(l);
    l->next_ns = 0;
    keel_lease_look(rt);
}

int64_t keel_lease_epoch(const struct keel_rt *rt)
{
    return rt->store != NULL ? keel_store_epoch(rt->store) : 0;
}

const char *keel_lease_owner(const struct keel_rt *rt)
{
    return rt->lease->owner;
}

bool keel_lease_is_shared(const struct keel_rt *rt)
{
    return rt->lease != NULL && rt->lease->is_shared;
}

void keel_lease_stop(struct keel_rt *rt)
{
    struct keel_lease *l = rt->lease;
    if (l == NULL || !l->has_tick)
        return;
    keel_link_free(l->link);
    l->link = NULL;
    l->has_tick = false;
    uv_close((uv_handle_t *)&l->tick, NULL);
}

void keel_lease_close(struct keel_rt *rt)
{
    struct keel_lease *l = rt->lease;
    if (l == NULL)
        return;
    if (l->fd >= 0)
        close(l->fd);
    rt->lease = NULL;
    keel_free(l);
}
