/* Preloaded into every process of a farm (LD_PRELOAD): its wall clock is off by the seconds that $CHAOS_CLOCK_FILE holds
 * (one int64, shared memory), at once and for all. Monotonic clocks stay as they are, as they do on a machine whose clock
 * is set. A wait that ends at a time of the wall clock is handed to the kernel in the kernel's time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *shared;
static int (*real_gettime)(clockid_t, struct timespec *);
static long (*real_syscall)(long, ...);
static int (*real_cond)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_mutex)(pthread_mutex_t *, const struct timespec *);
static int (*real_sem)(sem_t *, const struct timespec *);

__attribute__((constructor)) static void load(void) {
    real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_syscall = dlsym(RTLD_NEXT, "syscall");
    real_cond = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"); /* without a version: one of 1999 */
    if (!real_cond) real_cond = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_mutex = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    real_sem = dlsym(RTLD_NEXT, "sem_timedwait");
    const char *path = getenv("CHAOS_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED) shared = at;
}

static int64_t shift(void) { return shared ? *shared : 0; }

int clock_gettime(clockid_t clock, struct timespec *out) {
    if (!real_gettime) load();
    int failed = real_gettime(clock, out);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) out->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

/* The kernel's time of a deadline; one below 10^9 s is of a monotonic clock and stays. */
static const struct timespec *kernels(const struct timespec *deadline, struct timespec *copy) {
    if (!deadline || deadline->tv_sec < 1000000000) return deadline;
    *copy = *deadline;
    copy->tv_sec -= shift();
    return copy;
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *deadline) {
    struct timespec copy;
    return real_cond(cond, mutex, kernels(deadline, &copy));
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *deadline) {
    struct timespec copy;
    return real_mutex(mutex, kernels(deadline, &copy));
}

int sem_timedwait(sem_t *semaphore, const struct timespec *deadline) {
    struct timespec copy;
    return real_sem(semaphore, kernels(deadline, &copy));
}

long syscall(long number, ...) {
    va_list list;
    long a[6];
    struct timespec copy;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME)) a[3] = (long)kernels((const void *)a[3], &copy);
    if (!real_syscall) load();
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
