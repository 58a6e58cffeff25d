/* Preloaded into a process: counts the file operations below a folder, and strikes at the nth.
 *
 * What Orbax does in C++ goes through the same functions of libc as what Python does. Nothing is
 * counted before `fault_arm`, so that a process may start as it always does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, KILL, TEAR, FAIL_ONCE, FAIL_ON };

static char folder[PATH_MAX];
static size_t length;
static long counted, target;
static int mode, code, armed;
static long ahead;

void fault_arm(const char *below, long nth, int how, int error) {
    strncpy(folder, below, sizeof folder - 1);
    length = strlen(folder);
    target = nth, mode = how, code = error, counted = 0;
    __atomic_store_n(&armed, 1, __ATOMIC_SEQ_CST);
}

void fault_disarm(void) { __atomic_store_n(&armed, 0, __ATOMIC_SEQ_CST); }
long fault_count(void) { return counted; }
void fault_hang(void) { for (;;) pause(); }
void fault_clock(long seconds) { ahead = seconds; }

#define REAL(name)                                             \
    static __typeof__(&name) real;                             \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int below(const char *path) { return !strncmp(path, folder, length); }

static int fd_below(int fd) {
    char link[64], path[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return below(path);
}

static int at_below(int fd, const char *path) {
    if (!armed) return 0;
    return path[0] == '/' || fd == AT_FDCWD ? below(path) : fd_below(fd);
}

/* Whether the operation fails now; a process that is to be killed does not return. */
static int strikes(int ours) {
    if (!ours) return 0;
    long number = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
    if (mode == KILL && number == target) die();
    if ((mode == FAIL_ONCE && number == target) || (mode == FAIL_ON && number >= target)) {
        errno = code;
        return 1;
    }
    return 0;
}

/* After the operation: a torn one is done, or half of it, and then nothing any more. */
static void tears(int ours) {
    if (ours && mode == TEAR && counted >= target) die();
}

#define STRUCK(ours, fails, call)          \
    do {                                   \
        int own = (ours);                  \
        if (strikes(own)) return (fails);  \
        __typeof__(call) result = (call);  \
        tears(own);                        \
        return result;                     \
    } while (0)

#define OPENING(name, flags, path, fd)                                \
    mode_t bits = 0;                                                  \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                          \
        va_list rest;                                                 \
        va_start(rest, flags);                                        \
        bits = va_arg(rest, mode_t);                                  \
        va_end(rest);                                                 \
    }                                                                 \
    int writes = ((flags) & O_ACCMODE) != O_RDONLY || (flags) & O_CREAT; \
    int ours = writes && at_below(fd, path);                          \
    REAL(name);

int open(const char *path, int flags, ...) {
    OPENING(open, flags, path, AT_FDCWD)
    STRUCK(ours, -1, real(path, flags, bits));
}
int open64(const char *path, int flags, ...) {
    OPENING(open64, flags, path, AT_FDCWD)
    STRUCK(ours, -1, real(path, flags, bits));
}
int openat(int fd, const char *path, int flags, ...) {
    OPENING(openat, flags, path, fd)
    STRUCK(ours, -1, real(fd, path, flags, bits));
}
int openat64(int fd, const char *path, int flags, ...) {
    OPENING(openat64, flags, path, fd)
    STRUCK(ours, -1, real(fd, path, flags, bits));
}

static size_t half(int ours, size_t size) {
    return ours && mode == TEAR && counted + 1 >= target ? size / 2 : size;
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    int ours = fd_below(fd);
    size = half(ours, size);
    STRUCK(ours, -1, real(fd, data, size));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    int ours = fd_below(fd);
    size = half(ours, size);
    STRUCK(ours, -1, real(fd, data, size, at));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    int ours = fd_below(fd);
    size = half(ours, size);
    STRUCK(ours, -1, real(fd, data, size, at));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    int ours = fd_below(fd);
    STRUCK(ours, -1, real(fd, parts, (int)half(ours, count)));
}

int rename(const char *from, const char *to) {
    REAL(rename);
    STRUCK(at_below(AT_FDCWD, from), -1, real(from, to));
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat);
    STRUCK(at_below(a, from), -1, real(a, from, b, to));
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(renameat2);
    STRUCK(at_below(a, from), -1, real(a, from, b, to, flags));
}
int unlink(const char *path) {
    REAL(unlink);
    STRUCK(at_below(AT_FDCWD, path), -1, real(path));
}
int unlinkat(int fd, const char *path, int flags) {
    REAL(unlinkat);
    STRUCK(at_below(fd, path), -1, real(fd, path, flags));
}
int rmdir(const char *path) {
    REAL(rmdir);
    STRUCK(at_below(AT_FDCWD, path), -1, real(path));
}
int mkdir(const char *path, mode_t bits) {
    REAL(mkdir);
    STRUCK(at_below(AT_FDCWD, path), -1, real(path, bits));
}
int mkdirat(int fd, const char *path, mode_t bits) {
    REAL(mkdirat);
    STRUCK(at_below(fd, path), -1, real(fd, path, bits));
}
int fsync(int fd) {
    REAL(fsync);
    STRUCK(fd_below(fd), -1, real(fd));
}
int fdatasync(int fd) {
    REAL(fdatasync);
    STRUCK(fd_below(fd), -1, real(fd));
}
int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    STRUCK(fd_below(fd), -1, real(fd, size));
}

int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(which, now);
    if (which == CLOCK_REALTIME) now->tv_sec += ahead;
    return result;
}
