/* Pins: bind mounts of namespace files on empty files of mode 0. */
#include "common/fd.h"
#include "common/sys.h"
#include "ns/holder.h"
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define NSFS_SUPER 0x6e736673

/* Both ends by descriptor, so that the file we made is the one mounted on. */
int pc_ns_pin_fd(int ns, const char *path, struct pc_err *reterr) {
        char from[48], to[48];
        int made = (int) PC_SYS(openat, AT_FDCWD, path, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0);
        if (made < 0)
                return pc_fail(reterr, made, "create pin", path);
        _cleanup_fd_ int file = made;
        (void) snprintf(from, sizeof from, "/proc/thread-self/fd/%d", ns);
        (void) snprintf(to, sizeof to, "/proc/thread-self/fd/%d", file);
        int r = (int) PC_SYS(mount, from, to, NULL, MS_BIND, NULL);
        if (r < 0) {
                (void) unlink(path);
                return pc_fail(reterr, r, "bind namespace", path);
        }
        return 0;
}

int pc_ns_pin(const char *source, const char *path, struct pc_err *reterr) {
        struct statfs fs;
        _cleanup_fd_ int fd = (int) PC_SYS(openat, AT_FDCWD, source, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
        if (fd < 0)
                return pc_fail(reterr, fd, "open namespace", source);
        if (fstatfs(fd, &fs) < 0)
                return pc_fail_errno(reterr, "statfs", source);
        if (fs.f_type != NSFS_SUPER)
                return pc_fail(reterr, ENXIO, "not a namespace file", source);
        return pc_ns_pin_fd(fd, path, reterr);
}

int pc_ns_unpin(const char *path, struct pc_err *reterr) {
        /* Pins may lie on each other after a crash; detached ones go when their last user does. */
        while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
                ;
        if (errno == ENOENT)
                return 0;
        if (errno != EINVAL) /* EINVAL: no (longer a) mount */
                return pc_fail_errno(reterr, "umount", path);
        if (unlink(path) < 0)
                return errno == ENOENT ? 0 : pc_fail_errno(reterr, "unlink pin", path);
        return 1;
}

int pc_ns_inode(const char *path, uint64_t *ret_inode, struct pc_err *reterr) {
        struct statfs fs;
        struct stat st;
        _cleanup_fd_ int fd = open(path, O_PATH | O_CLOEXEC); /* no magic link is refused: /proc/<pid>/ns/x is one */
        if (fd < 0)
                return pc_fail_errno(reterr, "open namespace", path);
        if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
                return pc_fail_errno(reterr, "statfs", path);
        if (fs.f_type != NSFS_SUPER)
                return pc_fail(reterr, ENXIO, "not a namespace file", path);
        *ret_inode = st.st_ino;
        return 0;
}

int pc_ns_join_mount(const char *path, struct pc_err *reterr) {
        struct statfs fs;
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return pc_fail_errno(reterr, "open namespace", path);
        if (fstatfs(fd, &fs) < 0)
                return pc_fail_errno(reterr, "statfs", path);
        if (fs.f_type != NSFS_SUPER || ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNS)
                return pc_fail(reterr, ENXIO, "not a mount namespace", path);
        if (setns(fd, CLONE_NEWNS) < 0)
                return pc_fail_errno(reterr, "setns", path);
        return 0;
}
