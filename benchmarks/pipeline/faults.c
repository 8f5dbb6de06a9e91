/* Make a process die, or its disk fail, at the n-th write call below a folder. Load it with LD_PRELOAD.

   cc -shared -fPIC -O2 -o faults.so faults.c -ldl

   fault_arm(folder, n, kind, report) starts counting the calls of write, pwrite, fsync, rename, symlink and mkdir on
   files below `folder`. At the n-th call, by kind:
     kill           the process dies before the call
     torn           the process dies after half of a write, or after any other call
     short          a write writes only one byte, which POSIX allows, and the process continues
     ENOSPC, ...    this call and every later one fail: the disk is full, over quota, broken or read-only
   The call and its path are appended to the file `report`. fault_count() returns the number of calls. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char under[PATH_MAX], kind[16], report[PATH_MAX];
static long target;
static atomic_long count;

void fault_arm(const char *folder, long at, const char *what, const char *where) {
    snprintf(under, sizeof under, "%s/", folder);
    snprintf(kind, sizeof kind, "%s", what);
    snprintf(report, sizeof report, "%s", where);
    target = at;
    atomic_store(&count, 0);
}

long fault_count(void) { return atomic_load(&count); }

static int error_number(void) {
    static const struct { const char *name; int number; } known[] = {
        {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EIO", EIO}, {"EROFS", EROFS}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(kind, known[i].name)) return known[i].number;
    return 0;
}

static void record(const char *call, const char *path) {
    char line[2 * PATH_MAX];
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    long file = syscall(SYS_openat, AT_FDCWD, report, O_WRONLY | O_CREAT | O_APPEND, 0644);
    syscall(SYS_write, file, line, length);
    syscall(SYS_close, file);
}

enum { CONTINUE, HIT, FAIL };

/* Return what to do with this call. For the kind `kill`, the process dies here. */
static int check(const char *call, const char *path) {
    if (!*under || strncmp(path, under, strlen(under))) return CONTINUE;
    long now = atomic_fetch_add(&count, 1) + 1;
    if (!target || now < target) return CONTINUE;
    if (now == target) {
        record(call, path);
        if (!strcmp(kind, "kill")) kill(getpid(), SIGKILL);
        if (!error_number()) return HIT;
    }
    if (!error_number()) return CONTINUE;
    errno = error_number();
    return FAIL;
}

static int check_fd(const char *call, int fd) {
    if (!*under) return CONTINUE;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return CONTINUE;
    path[length] = 0;
    return check(call, path);
}

static int check_name(const char *call, const char *name) {
    char path[PATH_MAX];
    if (!*under) return CONTINUE;
    if (*name == '/') return check(call, name);
    if (!getcwd(path, sizeof path)) return CONTINUE;
    strncat(path, "/", sizeof path - strlen(path) - 1);
    strncat(path, name, sizeof path - strlen(path) - 1);
    return check(call, path);
}

static int torn(void) { return !strcmp(kind, "torn"); }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP_WRITE(name, parameters, arguments, half, one)                                  \
    ssize_t name parameters {                                                               \
        int action = check_fd("write", fd);                                                 \
        if (action == FAIL) return -1;                                                      \
        if (action == HIT && torn()) { REAL(name) half; kill(getpid(), SIGKILL); }          \
        if (action == HIT) return REAL(name) one;                                           \
        return REAL(name) arguments;                                                        \
    }
#define WRAP_CALL(name, parameters, arguments, check_expression)                            \
    int name parameters {                                                                   \
        int action = check_expression;                                                      \
        if (action == FAIL) return -1;                                                      \
        int result = REAL(name) arguments;                                                  \
        if (action == HIT && torn()) kill(getpid(), SIGKILL);                               \
        return result;                                                                      \
    }

WRAP_WRITE(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2),
        (fd, data, size ? 1 : 0))
WRAP_WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at),
        (fd, data, size ? 1 : 0, at))
WRAP_WRITE(pwrite64, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at),
        (fd, data, size ? 1 : 0, at))
WRAP_CALL(fsync, (int fd), (fd), check_fd("fsync", fd))
WRAP_CALL(rename, (const char *from, const char *to), (from, to), check_name("rename", to))
WRAP_CALL(symlink, (const char *target_, const char *path), (target_, path), check_name("symlink", path))
WRAP_CALL(mkdir, (const char *path, mode_t mode), (path, mode), check_name("mkdir", path))
