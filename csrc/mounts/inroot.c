/* Paths of pods and images: resolved inside a root, whatever links are there. */
#include "common/path.h"
#include "mounts/api.h"
#include <linux/limits.h>
#include <sys/stat.h>

#define LINKS_MAX 40 /* as the kernel's own limit on one lookup */

static int open_root(const char *root, struct pc_err *reterr) {
        int fd = (int) PC_SYS(openat, AT_FDCWD, root, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
        return fd < 0 ? pc_fail(reterr, fd, "open root", root) : fd;
}

static int in_root(int root, const char *path, uint64_t flags, unsigned mode) {
        return pc_fault_hit("openat2") ? -errno : pc_open_in_root(root, *path ? path : ".", flags, mode);
}

/* Where a descriptor is, as the kernel names it. */
static int place_of(int fd, char *ret_path, size_t size, const char *what, struct pc_err *reterr) {
        char link[48];
        (void) snprintf(link, sizeof link, "/proc/thread-self/fd/%d", fd);
        long n = PC_SYS(readlinkat, AT_FDCWD, link, ret_path, size);
        if (n < 0)
                return pc_fail(reterr, (int) n, "readlink", what);
        if ((size_t) n >= size)
                return pc_fail(reterr, ENAMETOOLONG, "readlink", what);
        ret_path[n] = '\0';
        return 0;
}

int pc_open_in(const char *root, const char *path, int flags, unsigned mode, int *ret_fd, struct pc_err *reterr) {
        _cleanup_fd_ int base = open_root(root, reterr);
        if (base < 0)
                return base;
        int fd = in_root(base, path, (uint64_t) (unsigned) flags, mode);
        if (fd < 0)
                return pc_fail(reterr, fd, "open in root", path);
        *ret_fd = fd;
        return 0;
}

int pc_resolve_in(const char *root, const char *path, char *ret_path, size_t size, struct pc_err *reterr) {
        _cleanup_fd_ int fd = -1;
        int r = pc_open_in(root, path, O_PATH, 0, &fd, reterr);
        return r < 0 ? r : place_of(fd, ret_path, size, path, reterr);
}

struct walk {
        int root;
        char done[PATH_MAX]; /* exists; relative to the root, may end in "..", which the kernel takes care of */
        char rest[PATH_MAX];
        int links;
        unsigned mode;
        uid_t uid;
        gid_t gid;
};

static int join(char *out, const char *a, const char *b) {
        char text[PATH_MAX];
        int n = snprintf(text, sizeof text, "%s%s%s", a, *a && *b ? "/" : "", b);
        if (n < 0 || (size_t) n >= sizeof text)
                return -ENAMETOOLONG;
        memcpy(out, text, (size_t) n + 1);
        return 0;
}

/* The name is taken, but leads nowhere: go on with what the link says. */
static int follow(struct walk *w, int parent, const char *name) {
        char target[PATH_MAX];
        long n = PC_SYS(readlinkat, parent, name, target, sizeof target);
        if (n == -EINVAL && ++w->links <= LINKS_MAX) { /* no link: it came into being just now, look again */
                char again[PATH_MAX];
                memcpy(again, w->rest, strlen(w->rest) + 1);
                return join(w->rest, name, again);
        }
        if (n < 0)
                return (int) n;
        if ((size_t) n >= sizeof target)
                return -ENAMETOOLONG;
        if (++w->links > LINKS_MAX)
                return -ELOOP;
        target[n] = '\0';
        if (target[0] == '/')
                w->done[0] = '\0';
        return join(w->rest, target, w->rest);
}

static int make(struct walk *w, const char *name, const char *next) {
        _cleanup_fd_ int parent = in_root(w->root, w->done, O_PATH | O_DIRECTORY, 0);
        if (parent < 0)
                return parent;
        long r = PC_SYS(mkdirat, parent, name, w->mode);
        if (r == -EEXIST)
                return follow(w, parent, name);
        if (r < 0)
                return (int) r;
        _cleanup_fd_ int made = (int) PC_SYS(openat, parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
        r = made < 0 ? made : PC_SYS(fchown, made, w->uid, w->gid);
        if (r >= 0)
                r = PC_SYS(fchmod, made, w->mode); /* the umask was applied, and chown drops setid bits */
        if (r < 0) {
                (void) unlinkat(parent, name, AT_REMOVEDIR);
                return (int) r;
        }
        memcpy(w->done, next, strlen(next) + 1);
        return 0;
}

/* Take one component from rest. */
static int step(struct walk *w) {
        char name[NAME_MAX + 1], next[PATH_MAX];
        size_t skip = strspn(w->rest, "/"), n = strcspn(w->rest + skip, "/");
        if (n > NAME_MAX)
                return -ENAMETOOLONG;
        memcpy(name, w->rest + skip, n);
        name[n] = '\0';
        memmove(w->rest, w->rest + skip + n, strlen(w->rest + skip + n) + 1);
        if (n == 0 || strcmp(name, ".") == 0)
                return 0;
        int r = join(next, w->done, name);
        if (r < 0)
                return r;
        _cleanup_fd_ int fd = in_root(w->root, next, O_PATH | O_DIRECTORY, 0);
        if (fd == -ENOENT)
                return make(w, name, next);
        if (fd < 0)
                return fd;
        memcpy(w->done, next, strlen(next) + 1);
        return 0;
}

int pc_mkdirs_in(const char *root, const char *path, unsigned mode, uid_t uid, gid_t gid, char *ret_path, size_t size,
                 struct pc_err *reterr) {
        _cleanup_fd_ int base = open_root(root, reterr);
        if (base < 0)
                return base;
        struct walk w = {.root = base, .mode = mode, .uid = uid, .gid = gid};
        int r = join(w.rest, path, "");
        while (r == 0 && w.rest[strspn(w.rest, "/")])
                r = step(&w);
        if (r < 0)
                return pc_fail(reterr, r, "make directories in root", path);
        _cleanup_fd_ int fd = in_root(base, w.done, O_PATH | O_DIRECTORY, 0);
        if (fd < 0)
                return pc_fail(reterr, fd, "open in root", path);
        return place_of(fd, ret_path, size, path, reterr);
}
