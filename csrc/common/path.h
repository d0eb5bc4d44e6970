/* Path resolution from a directory descriptor: openat2 inside a root (man 2 openat2). */
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* openat2 with these rules of resolution, close-on-exec. Descriptor or -errno. EAGAIN (a rename raced with "..") is
 * retried a bounded number of times. */
static inline int pc_open_by(int dirfd, const char *path, uint64_t flags, unsigned mode, uint64_t resolve) {
        struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve | RESOLVE_NO_MAGICLINKS};
        for (int i = 0; i < 128; i++) {
                int fd = (int) syscall(SYS_openat2, dirfd, path, &how, sizeof how);
                if (fd >= 0)
                        return fd;
                if (errno != EAGAIN && errno != EINTR)
                        return -errno;
        }
        return -EAGAIN;
}

/* Open path with dirfd as the root of every absolute link and of every "..". */
static inline int pc_open_in_root(int dirfd, const char *path, uint64_t flags, unsigned mode) {
        return pc_open_by(dirfd, path, flags, mode, RESOLVE_IN_ROOT);
}

/* Like pc_open_in_root, but any symbolic link or step out of dirfd is an error (ELOOP, EXDEV). */
static inline int pc_open_beneath(int dirfd, const char *path, uint64_t flags, unsigned mode) {
        return pc_open_by(dirfd, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
}
