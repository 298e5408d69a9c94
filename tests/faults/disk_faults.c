/*
 * Makes the disk fail under one process: preloaded before libc, it stands between the program and the calls that change
 * or sync files. What fails is read, at every call, from the file that DISK_FAULTS names:
 *
 *     <call> <what> <count> <part of the path>
 *
 * call: pwrite (write too), fdatasync, fsync, ftruncate. what: the number of an error; 0 for a short write (half of what was asked);
 * -1 to kill the process once `count` bytes in all were written. count: how many calls go through first (bytes for -1).
 * An empty file lets everything through. The count starts anew whenever the file changes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char order[512];
static long seen;

/* Return 1 if this call on this descriptor is to fail, with `what` set; `room` is how many bytes may go first. */
static int struck(const char *call, int descriptor, size_t bytes, int *what, size_t *room)
{
    char now[512] = "", name[32] = "", part[256] = "", link[64], path[512] = "";
    const char *control = getenv("DISK_FAULTS");
    long count = 0;
    int result = 0, saved = errno;
    int file = control ? open(control, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) { errno = saved; return 0; }
    ssize_t got = read(file, now, sizeof now - 1);
    close(file);
    if (got <= 0 || sscanf(now, "%31s %d %ld %255s", name, what, &count, part) != 4 || strcmp(name, call)) {
        errno = saved;
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, part)) {
        pthread_mutex_lock(&lock);
        if (strcmp(order, now)) { strcpy(order, now); seen = 0; }
        if (*what == -1) {
            *room = seen + (long)bytes > count ? (size_t)(count - seen) : bytes;
            result = seen + (long)bytes > count;
            seen += (long)bytes;
        } else {
            result = seen++ >= count;
        }
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
    return result;
}

static ssize_t write_or_fail(const char *real, int descriptor, const void *data, size_t bytes, off_t offset)
{
    ssize_t (*next)(int, const void *, size_t, off_t) = NEXT(ssize_t (*)(int, const void *, size_t, off_t), real);
    int what = 0;
    size_t room = 0;
    if (struck("pwrite", descriptor, bytes, &what, &room)) {
        if (what == -1) {
            next(descriptor, data, room, offset);
            kill(getpid(), SIGKILL);
            pause();
        }
        if (what == 0) return next(descriptor, data, bytes > 1 ? bytes / 2 : bytes, offset);
        errno = what;
        return -1;
    }
    return next(descriptor, data, bytes, offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t offset)
{
    return write_or_fail("pwrite", descriptor, data, bytes, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t bytes, off_t offset)
{
    return write_or_fail("pwrite64", descriptor, data, bytes, offset);
}

ssize_t write(int descriptor, const void *data, size_t bytes)
{
    int what = 0;
    size_t room = 0;
    if (struck("pwrite", descriptor, bytes, &what, &room) && what > 0) {
        errno = what;
        return -1;
    }
    return NEXT(ssize_t (*)(int, const void *, size_t), "write")(descriptor, data, bytes);
}

#define SYNC(name)                                                        \
    int name(int descriptor)                                              \
    {                                                                     \
        int what = 0;                                                     \
        size_t room = 0;                                                  \
        if (struck(#name, descriptor, 0, &what, &room)) {                 \
            errno = what;                                                 \
            return -1;                                                    \
        }                                                                 \
        return NEXT(int (*)(int), #name)(descriptor);                     \
    }
SYNC(fsync)
SYNC(fdatasync)

#define CUT(name)                                                         \
    int name(int descriptor, off_t size)                                  \
    {                                                                     \
        int what = 0;                                                     \
        size_t room = 0;                                                  \
        if (struck("ftruncate", descriptor, 0, &what, &room)) {           \
            errno = what;                                                 \
            return -1;                                                    \
        }                                                                 \
        return NEXT(int (*)(int, off_t), #name)(descriptor, size);        \
    }
CUT(ftruncate)
CUT(ftruncate64)
