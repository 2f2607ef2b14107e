/* A disk that fails now and then: preloaded, it has writes below a directory fail with a given error.

   FAULT_PATH   the directory
   FAULT_ERRNO  28 (ENOSPC) or 5 (EIO)
   FAULT_ONE_IN of so many writes, at random, one fails
   FAULT_SEED

   cc -shared -fPIC -o failing_disk.so failing_disk.c -ldl; LD_PRELOAD=./failing_disk.so ... */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_uint_fast64_t calls;

static int fails(int fd) {
    const char *below = getenv("FAULT_PATH"), *one_in = getenv("FAULT_ONE_IN");
    if (!below || !one_in) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    size_t end = strlen(below);
    if (strncmp(path, below, end) != 0 || path[end] != '/') return 0; /* a neighbour, run.stdout of run, is not below */
    /* splitmix64 of the number of the call: the same calls fail in each run that makes the same ones. */
    uint64_t z = (atomic_fetch_add(&calls, 1) + 1) * 0x9E3779B97F4A7C15ull + strtoull(getenv("FAULT_SEED"), 0, 10);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    if ((z ^ (z >> 31)) % strtoull(one_in, 0, 10) != 0) return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

#define NEXT(name) __typeof__(name) *next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(write);
    return fails(fd) ? -1 : next(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    NEXT(writev);
    return fails(fd) ? -1 : next(fd, parts, count);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    NEXT(pwrite);
    return fails(fd) ? -1 : next(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    NEXT(pwrite64);
    return fails(fd) ? -1 : next(fd, data, size, offset);
}

int fsync(int fd) {
    NEXT(fsync);
    return fails(fd) ? -1 : next(fd);
}
