/* Whether this build looks for faults of memory or of threads, and what tests spare it. */
#ifndef SANITIZED_H
#define SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SANITIZED 1
#endif
#endif
#ifndef IS_SANITIZED
#define IS_SANITIZED 0
#endif

/* Random cases to try. A sanitizer makes each of them fifteen times as slow, and looks at memory: a fifth show it every branch. The
 * release build compares the values of all. */
#define CASES(n) (IS_SANITIZED ? (n) / 5 : (n))

#endif
