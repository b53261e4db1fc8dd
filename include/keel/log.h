/* One JSON object a line on standard error (human form on a terminal): ts, level, engine, event, trace_id, fields. */
#ifndef KEEL_LOG_H
#define KEEL_LOG_H

enum keel_log_level { KEEL_LOG_DEBUG, KEEL_LOG_INFO, KEEL_LOG_WARN, KEEL_LOG_ERROR };

void keel_log_open(const char *engine, enum keel_log_level min);
/* From here on a thread writes, and lines wait for it in memory: where there are 256 KiB of them, new ones are left out and counted. */
void keel_log_start(void);
/* Waits until all lines are written, but for a second at most: before an end without keel_log_stop. */
void keel_log_flush(void);
void keel_log_stop(void); /* flushes; from then on each line is written by its caller again */
/*
 * event is a constant snake_case word; fmt names fields as "name=%..." separated by spaces; a value is everything up
 * to the next " name=" and is escaped. Example: keel_log(KEEL_LOG_WARN, "peer_away", "peer=%s detail=%s", p, d).
 * fmt may be NULL. Thread safe. Never waits for whoever takes the lines once keel_log_start was called.
 */
void keel_log(enum keel_log_level level, const char *event, const char *fmt, ...)
    __attribute__((cold, format(printf, 3, 4)));
/* As keel_log, but the same event is written at most once a second; the next line says how many were left out (`repeated`). */
void keel_log_often(enum keel_log_level level, const char *event, const char *fmt, ...)
    __attribute__((cold, format(printf, 3, 4)));

#endif
