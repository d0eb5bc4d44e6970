#include "untar/dirs.h"
#include "common/fd.h"
#include "common/path.h"
#include "untar/names.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

enum { SLOTS = 48 };

struct pc_dirs {
        int root;
        uid_t uid;
        gid_t gid;
        bool userxattr;
        uint64_t clock;
        struct pc_dir *last;
        struct pc_dir slot[SLOTS];
};

struct pc_dirs *pc_dirs_new(int root, uid_t uid, gid_t gid, bool userxattr, struct pc_err *reterr) {
        struct pc_dirs *d = calloc(1, sizeof *d);
        if (!d) {
                (void) pc_fail(reterr, ENOMEM, "directory cache", NULL);
                return NULL;
        }
        d->root = root;
        d->uid = uid;
        d->gid = gid;
        d->userxattr = userxattr;
        for (int i = 0; i < SLOTS; i++)
                d->slot[i].fd = -1;
        return d;
}

static int leave(struct pc_dir *s, struct pc_err *reterr) {
        int r = 0;
        if (s->fd >= 0 && s->dirty && futimens(s->fd, s->times) < 0)
                r = pc_fail_errno(reterr, "set directory times", s->path);
        pc_closep(&s->fd);
        free(s->path);
        *s = (struct pc_dir){.fd = -1};
        return r;
}

int pc_dirs_flush(struct pc_dirs *d, struct pc_err *reterr) {
        int r = 0;
        for (int i = 0; i < SLOTS; i++) {
                int one = leave(&d->slot[i], r == 0 ? reterr : NULL);
                r = r == 0 ? one : r;
        }
        d->last = NULL;
        return r;
}

void pc_dirs_free(struct pc_dirs *d) {
        if (!d)
                return;
        (void) pc_dirs_flush(d, NULL); /* only after a failure is anything left to flush */
        free(d);
}

static struct pc_dir *find(struct pc_dirs *d, const char *path, size_t len) {
        if (d->last && d->last->fd >= 0 && d->last->len == len && memcmp(d->last->path, path, len) == 0)
                return d->last;
        for (int i = 0; i < SLOTS; i++) {
                struct pc_dir *s = &d->slot[i];
                if (s->fd >= 0 && s->len == len && memcmp(s->path, path, len) == 0)
                        return s;
        }
        return NULL;
}

int pc_dirs_put(struct pc_dirs *d, const char *path, size_t len, int fd, struct pc_dir **ret, struct pc_err *reterr) {
        _cleanup_fd_ int own = fd;
        struct stat st;
        if (fstat(fd, &st) < 0)
                return pc_fail_errno(reterr, "stat directory", path);
        _cleanup_free_ char *copy = strndup(path, len);
        if (!copy)
                return pc_fail(reterr, ENOMEM, "directory cache", NULL);
        struct pc_dir *to = &d->slot[0];
        for (int i = 0; i < SLOTS; i++) {
                struct pc_dir *s = &d->slot[i];
                if (s->fd >= 0 && s->ino == st.st_ino && s->dev == st.st_dev) {
                        /* Another way to a directory that we hold: its pending times stay, the name changes. */
                        free(s->path);
                        s->path = steal_ptr(copy);
                        s->len = len;
                        s->used = ++d->clock;
                        *ret = d->last = s;
                        return 0;
                }
                if (to->fd >= 0 && (s->fd < 0 || s->used < to->used))
                        to = s;
        }
        int r = leave(to, reterr);
        if (r < 0)
                return r;
        *to =
            (struct pc_dir){.fd = steal_fd(&own),
                            .inherits = st.st_mode & S_ISGID || fgetxattr(fd, "system.posix_acl_default", NULL, 0) >= 0,
                            .times = {st.st_atim, st.st_mtim},
                            .path = steal_ptr(copy),
                            .len = len,
                            .used = ++d->clock,
                            .dev = st.st_dev,
                            .ino = st.st_ino};
        *ret = d->last = to;
        return 0;
}

/* Open by path from the root. *ret_fd or -errno without an error object: the caller may know what to do. */
static int open_path(struct pc_dirs *d, const char *path, size_t len) {
        char buf[PC_PATH_ROOM];
        if (len == 0)
                return pc_open_in_root(d->root, ".", O_RDONLY | O_DIRECTORY, 0);
        memcpy(buf, path, len);
        buf[len] = 0;
        return pc_open_in_root(d->root, buf, O_RDONLY | O_DIRECTORY, 0);
}

int pc_dirs_opaque(struct pc_dirs *d, int fd, const char *path, struct pc_err *reterr) {
        const char *name = d->userxattr ? "user.overlay.opaque" : "trusted.overlay.opaque";
        if (fsetxattr(fd, name, "y", 1, XATTR_CREATE) == 0)
                return 0;
        return errno == EEXIST ? 1 : pc_fail_errno(reterr, "mark directory opaque", path);
}

/* Make the directory called base in parent; *ret_fd it, opened. */
static int make_one(struct pc_dirs *d, struct pc_dir *parent, const char *base, enum pc_dirs_want want, int *ret_fd,
                    struct pc_err *reterr) {
        bool opaque = false;
        struct stat st;
        if (fstatat(parent->fd, base, &st, AT_SYMLINK_NOFOLLOW) == 0) {
                if (!pc_is_whiteout(&st) || want != PC_DIRS_CREATE)
                        return pc_fail(reterr, S_ISLNK(st.st_mode) ? ENOENT : ENOTDIR, "parent directory", base);
                if (unlinkat(parent->fd, base, 0) < 0)
                        return pc_fail_errno(reterr, "replace whiteout", base);
                opaque = true;
        }
        parent->dirty = true;
        if (mkdirat(parent->fd, base, 0755) < 0)
                return pc_fail_errno(reterr, "make parent directory", base);
        _cleanup_fd_ int fd = openat(parent->fd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return pc_fail_errno(reterr, "open parent directory", base);
        if (fstat(fd, &st) < 0)
                return pc_fail_errno(reterr, "stat directory", base);
        if ((st.st_uid != d->uid || st.st_gid != d->gid) && fchown(fd, d->uid, d->gid) < 0)
                return pc_fail_errno(reterr, "own parent directory", base);
        if ((st.st_mode & 07777) != 0755 && fchmod(fd, 0755) < 0)
                return pc_fail_errno(reterr, "mode of parent directory", base);
        if (opaque) {
                int r = pc_dirs_opaque(d, fd, base, reterr);
                if (r < 0)
                        return r;
        }
        *ret_fd = steal_fd(&fd);
        return 0;
}

/* The longest prefix of path that can be opened is found from behind, then the rest is made. */
static int make_path(struct pc_dirs *d, const char *path, size_t len, enum pc_dirs_want want, struct pc_dir **ret,
                     struct pc_err *reterr) {
        size_t have = len;
        struct pc_dir *s = NULL;
        while (!s) {
                while (have > 0 && path[have - 1] != '/')
                        have--;
                have -= have > 0;
                s = find(d, path, have);
                if (s)
                        break;
                int fd = open_path(d, path, have);
                if (fd < 0 && (have == 0 || (fd != -ENOENT && fd != -ENOTDIR)))
                        return pc_fail(reterr, fd, "open parent directory", path);
                if (fd >= 0) {
                        int r = pc_dirs_put(d, path, have, fd, &s, reterr);
                        if (r < 0)
                                return r;
                }
        }
        while (have < len) {
                char base[256];
                size_t from = have == 0 ? 0 : have + 1, n = 0;
                while (from + n < len && path[from + n] != '/')
                        n++;
                memcpy(base, path + from, n); /* pc_name_clean saw to it that n <= 255 */
                base[n] = 0;
                int fd, r = make_one(d, s, base, want, &fd, reterr);
                if (r < 0)
                        return r;
                have = from + n;
                r = pc_dirs_put(d, path, have, fd, &s, reterr);
                if (r < 0)
                        return r;
        }
        *ret = s;
        return 0;
}

int pc_dirs_get(struct pc_dirs *d, const char *path, size_t len, enum pc_dirs_want want, struct pc_dir **ret,
                struct pc_err *reterr) {
        struct pc_dir *s = find(d, path, len);
        if (s) {
                s->used = ++d->clock;
                *ret = d->last = s;
                return 0;
        }
        int fd = open_path(d, path, len);
        if (fd >= 0)
                return pc_dirs_put(d, path, len, fd, ret, reterr);
        if (want == PC_DIRS_EXISTING || len == 0 || (fd != -ENOENT && fd != -ENOTDIR))
                return pc_fail(reterr, fd, "open directory", path);
        return make_path(d, path, len, want, ret, reterr);
}

/* Empty the directory fd as far as one pass goes. 1 and *ret_child: a filled subdirectory was met; 0: it is empty. */
static int empty_pass(int fd, int *ret_child) {
        _cleanup_fd_ int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (again < 0)
                return -errno;
        DIR *dir = fdopendir(again);
        if (!dir)
                return -errno;
        (void) steal_fd(&again);
        int r = 0;
        for (;;) {
                errno = 0;
                struct dirent *e = readdir(dir);
                if (!e) {
                        r = -errno;
                        break;
                }
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                if (unlinkat(fd, e->d_name, 0) == 0)
                        continue;
                if (errno == EISDIR && unlinkat(fd, e->d_name, AT_REMOVEDIR) == 0)
                        continue;
                if (errno == ENOTEMPTY || errno == EEXIST) {
                        int child = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                        r = child < 0 ? -errno : 1;
                        if (child >= 0)
                                *ret_child = child;
                        break;
                }
                r = -errno;
                break;
        }
        (void) closedir(dir);
        return r;
}

int pc_dirs_remove(int dirfd, const char *base, struct pc_err *reterr) {
        if (unlinkat(dirfd, base, 0) == 0)
                return 0;
        if (errno != EISDIR)
                return pc_fail_errno(reterr, "replace entry", base);
        if (unlinkat(dirfd, base, AT_REMOVEDIR) == 0)
                return 0;
        if (errno != ENOTEMPTY && errno != EEXIST)
                return pc_fail_errno(reterr, "replace entry", base);
        _cleanup_fd_ int cur = openat(dirfd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (cur < 0)
                return pc_fail_errno(reterr, "replace entry", base);
        /* One descriptor whatever the depth: go down into a filled directory, come back up by "..", go on. Nobody else
         * moves directories in a layer that is being written, so ".." leads back. */
        for (size_t depth = 0;;) {
                int next = -1, r = empty_pass(cur, &next);
                if (r < 0)
                        return pc_fail(reterr, r, "replace entry", base);
                if (r == 0 && depth == 0)
                        break;
                if (r == 0) {
                        next = openat(cur, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                        if (next < 0)
                                return pc_fail_errno(reterr, "replace entry", base);
                        depth--;
                } else {
                        depth++;
                }
                pc_closep(&cur);
                cur = next;
        }
        if (unlinkat(dirfd, base, AT_REMOVEDIR) < 0)
                return pc_fail_errno(reterr, "replace entry", base);
        return 0;
}
