/* A disk that fails, or a process that dies, at the n-th writing call below a folder: loaded with LD_PRELOAD.

   cc -shared -fPIC -O2 -o faults.so faults.c -ldl

   fault_arm(folder, n, kind, report) starts the counting of write, pwrite, fsync, rename, symlink and mkdir on files
   below `folder`. At the n-th, the kinds
     kill           the process dies before the call
     torn           it dies after half of a write, or after the call
     short          a write takes one byte only, as it may, and goes on
     ENOSPC, ...    the call fails, and so does every later one: the disk is full, over quota, broken or read-only
   What was hit stands in the file `report`: the call and the path. fault_count() tells how many calls there were. */

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

static int code(void) {
    static const struct { const char *name; int number; } known[] = {
        {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EIO", EIO}, {"EROFS", EROFS}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(kind, known[i].name)) return known[i].number;
    return 0;
}

static void note(const char *call, const char *path) {
    char line[2 * PATH_MAX];
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    long file = syscall(SYS_openat, AT_FDCWD, report, O_WRONLY | O_CREAT | O_APPEND, 0644);
    syscall(SYS_write, file, line, length);
    syscall(SYS_close, file);
}

enum { GO_ON, HIT, FAIL };

/* What this call meets. A process that is to die before the call dies here. */
static int meets(const char *call, const char *path) {
    if (!*under || strncmp(path, under, strlen(under))) return GO_ON;
    long now = atomic_fetch_add(&count, 1) + 1;
    if (!target || now < target) return GO_ON;
    if (now == target) {
        note(call, path);
        if (!strcmp(kind, "kill")) kill(getpid(), SIGKILL);
        if (!code()) return HIT;
    }
    if (!code()) return GO_ON;
    errno = code();
    return FAIL;
}

static int meets_fd(const char *call, int fd) {
    if (!*under) return GO_ON;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return GO_ON;
    path[length] = 0;
    return meets(call, path);
}

static int meets_name(const char *call, const char *name) {
    char path[PATH_MAX];
    if (!*under) return GO_ON;
    if (*name == '/') return meets(call, name);
    if (!getcwd(path, sizeof path)) return GO_ON;
    strncat(path, "/", sizeof path - strlen(path) - 1);
    strncat(path, name, sizeof path - strlen(path) - 1);
    return meets(call, path);
}

static int torn(void) { return !strcmp(kind, "torn"); }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRITING(name, parameters, given, half, one)                                    \
    ssize_t name parameters {                                                          \
        int met = meets_fd("write", fd);                                               \
        if (met == FAIL) return -1;                                                    \
        if (met == HIT && torn()) { REAL(name) half; kill(getpid(), SIGKILL); }        \
        if (met == HIT) return REAL(name) one;                                         \
        return REAL(name) given;                                                       \
    }
#define CALLING(name, parameters, given, met_by)                                       \
    int name parameters {                                                              \
        int met = met_by;                                                              \
        if (met == FAIL) return -1;                                                    \
        int done = REAL(name) given;                                                   \
        if (met == HIT && torn()) kill(getpid(), SIGKILL);                             \
        return done;                                                                   \
    }

WRITING(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2),
        (fd, data, size ? 1 : 0))
WRITING(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at),
        (fd, data, size ? 1 : 0, at))
WRITING(pwrite64, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at),
        (fd, data, size ? 1 : 0, at))
CALLING(fsync, (int fd), (fd), meets_fd("fsync", fd))
CALLING(rename, (const char *from, const char *to), (from, to), meets_name("rename", to))
CALLING(symlink, (const char *target_, const char *path), (target_, path), meets_name("symlink", path))
CALLING(mkdir, (const char *path, mode_t mode), (path, mode), meets_name("mkdir", path))
