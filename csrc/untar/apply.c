#include "untar/apply.h"
#include "common/fd.h"
#include "common/io.h"
#include "untar/dirs.h"
#include "untar/filler.h"
#include "untar/meta.h"
#include "untar/names.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct pc_apply {
        struct pc_dirs *dirs;
        struct pc_filler *filler;
        struct pc_meta meta;
        uid_t root_uid;
        gid_t root_gid;
        int fd; /* the regular file being written */
        dev_t dir_dev;
        ino_t dir_ino;
        bool inherits;   /* of its directory */
        bool positioned; /* a hole was left: size must be set at the end */
        bool keep_root, root_seen, lost;
};

int pc_apply_map(const struct pc_idmap *map, size_t n, int64_t id, uint32_t *ret, struct pc_err *reterr) {
        if (id < 0 || id >= UINT32_MAX) /* the last one means "no change" to chown */
                return pc_fail(reterr, EOVERFLOW, "owner id out of range", NULL);
        for (size_t i = 0; i < n; i++) {
                if (id >= map[i].container && id - map[i].container < map[i].size) {
                        *ret = (uint32_t) (map[i].host + (id - map[i].container));
                        return 0;
                }
        }
        if (n > 0)
                return pc_fail(reterr, EOVERFLOW, "owner id is not in the id map", NULL);
        *ret = (uint32_t) id;
        return 0;
}

struct pc_apply *pc_apply_new(const struct pc_untar_opts *opts, bool exact_umask, struct pc_filler *filler,
                              struct pc_err *reterr) {
        uint32_t uid, gid;
        if (pc_apply_map(opts->uid_map, opts->n_uid_map, 0, &uid, reterr) < 0 ||
            pc_apply_map(opts->gid_map, opts->n_gid_map, 0, &gid, reterr) < 0)
                return NULL;
        struct pc_apply *a = calloc(1, sizeof *a);
        if (!a) {
                (void) pc_fail(reterr, ENOMEM, "unpack", NULL);
                return NULL;
        }
        a->fd = -1;
        a->filler = filler;
        a->keep_root = opts->keep_root;
        pc_meta_init(&a->meta, opts->target_fd, exact_umask);
        a->dirs = pc_dirs_new(opts->target_fd, uid, gid, opts->userxattr, reterr);
        if (!a->dirs) {
                free(a);
                return NULL;
        }
        return a;
}

void pc_apply_free(struct pc_apply *a) {
        if (!a)
                return;
        pc_closep(&a->fd);
        pc_dirs_free(a->dirs);
        free(a);
}

/* Files that are filled meanwhile are to be finished before anybody looks at them. */
static int settle(struct pc_apply *a, struct pc_err *reterr) {
        int r = a->filler ? pc_filler_settle(a->filler) : 0;
        return r < 0 ? pc_fail(reterr, r, "fill files", NULL) : 0;
}

/* Out of descriptors: the filler holds some, and gives them back in a moment. */
static bool again(struct pc_apply *a, int code) {
        return code == EMFILE && a->filler && pc_filler_settle(a->filler) == 0;
}

/* What stands in the way of a new entry goes, whole; the cache may hold directories below it. 1: it was an entry. */
static int make_room(struct pc_apply *a, const char *name, struct pc_dir **dir, struct pc_err *reterr) {
        const char *base;
        struct stat st;
        size_t len = pc_name_split(name, &base);
        int r = settle(a, reterr);
        if (r < 0)
                return r;
        if (fstatat((*dir)->fd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return pc_fail_errno(reterr, "stat entry", name);
        r = pc_dirs_flush(a->dirs, reterr);
        if (r == 0)
                r = pc_dirs_get(a->dirs, name, len, PC_DIRS_EXISTING, dir, reterr);
        if (r < 0)
                return r;
        (*dir)->dirty = true;
        /* Also a link: content may have been put behind it. */
        a->lost = a->lost || S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode) || (S_ISREG(st.st_mode) && st.st_size > 0);
        r = pc_dirs_remove((*dir)->fd, base, reterr);
        return r < 0 ? r : pc_is_whiteout(&st) ? 2 : 1;
}

static int place(struct pc_apply *a, const struct pc_entry *e, struct pc_dir **ret, const char **ret_base,
                 struct pc_err *reterr) {
        size_t len = pc_name_split(e->name, ret_base);
        int r = pc_dirs_get(a->dirs, e->name, len, PC_DIRS_CREATE, ret, reterr);
        if (r < 0 && again(a, -r))
                r = pc_dirs_get(a->dirs, e->name, len, PC_DIRS_CREATE, ret, reterr);
        if (r == 0)
                (*ret)->dirty = true;
        return r;
}

static int root_entry(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr) {
        struct pc_dir *dir;
        if (e->type != '5')
                return pc_fail(reterr, EISDIR, "the layer's root is not a directory in the archive", NULL);
        int r = pc_dirs_get(a->dirs, "", 0, PC_DIRS_EXISTING, &dir, reterr);
        if (r < 0)
                return r;
        int before = a->root_seen;
        a->root_seen = true;
        if (a->keep_root)
                return before;
        r = pc_meta_fd(&a->meta, dir->fd, e, true, reterr);
        memcpy(dir->times, e->times, sizeof dir->times);
        dir->dirty = true;
        return r < 0 ? r : before;
}

static int directory(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr) {
        struct pc_dir *parent, *dir;
        const char *base;
        bool odd, opaque = false;
        int before = 0, r = place(a, e, &parent, &base, reterr);
        if (r < 0)
                return r;
        odd = parent->inherits;
        if (mkdirat(parent->fd, base, e->mode) < 0) {
                struct stat st;
                if (errno != EEXIST)
                        return pc_fail_errno(reterr, "make directory", e->name);
                if (fstatat(parent->fd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        return pc_fail_errno(reterr, "stat entry", e->name);
                odd = true;
                before = 1;
                if (!S_ISDIR(st.st_mode)) {
                        before = make_room(a, e->name, &parent, reterr);
                        if (before < 0)
                                return before;
                        opaque = before == 2; /* the layer hid the old one, then brought its own */
                        if (mkdirat(parent->fd, base, e->mode) < 0)
                                return pc_fail_errno(reterr, "make directory", e->name);
                }
        }
        int fd = openat(parent->fd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && again(a, errno))
                fd = openat(parent->fd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return pc_fail_errno(reterr, "open directory", e->name);
        r = pc_dirs_put(a->dirs, e->name, strlen(e->name), fd, &dir, reterr);
        if (r == 0)
                r = pc_meta_fd(&a->meta, dir->fd, e, odd, reterr);
        if (r == 0 && opaque)
                r = pc_dirs_opaque(a->dirs, dir->fd, e->name, reterr);
        if (r < 0)
                return r;
        memcpy(dir->times, e->times, sizeof dir->times);
        dir->dirty = true;
        dir->inherits = dir->inherits || e->mode & S_ISGID || a->meta.default_acls;
        return before == 1;
}

static int make_node(const struct pc_entry *e, int dirfd, const char *base) {
        static const mode_t kinds[] = {['3'] = S_IFCHR, ['4'] = S_IFBLK, ['6'] = S_IFIFO};
        int r;
        if (e->type == '2')
                r = symlinkat(e->link, dirfd, base);
        else
                r = mknodat(dirfd, base, kinds[(unsigned char) e->type] | e->mode, e->type == '6' ? 0 : e->dev);
        return r < 0 ? -errno : 0;
}

static int node(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr) {
        struct pc_dir *dir;
        const char *base;
        int before = 0, r = place(a, e, &dir, &base, reterr);
        if (r < 0)
                return r;
        r = make_node(e, dir->fd, base);
        if (r == -EEXIST) {
                before = make_room(a, e->name, &dir, reterr);
                if (before < 0)
                        return before;
                r = make_node(e, dir->fd, base);
        }
        if (r < 0)
                return pc_fail(reterr, r, e->type == '2' ? "make symbolic link" : "make node", e->name);
        r = pc_meta_at(&a->meta, dir->fd, base, e, dir->inherits, reterr);
        return r < 0 ? r : before == 1;
}

static int hard_link(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr) {
        struct pc_dir *dir, *from;
        const char *base, *old;
        int before = 0, r = place(a, e, &dir, &base, reterr);
        if (r < 0)
                return r;
        for (;;) {
                size_t len = pc_name_split(e->link, &old);
                r = pc_dirs_get(a->dirs, e->link, len, PC_DIRS_EXISTING, &from, reterr);
                if (r < 0)
                        return pc_fail(reterr, r, "hard link target", e->link);
                if (a->filler && pc_filler_has(a->filler, from->dev, from->ino, old) && (r = settle(a, reterr)) < 0)
                        return r;
                if (linkat(from->fd, old, dir->fd, base, 0) == 0)
                        break;
                if (errno != EEXIST || before > 0)
                        return pc_fail(reterr, errno, "make hard link", e->name);
                struct stat one, two;
                if (fstatat(from->fd, old, &one, AT_SYMLINK_NOFOLLOW) < 0)
                        return pc_fail_errno(reterr, "hard link target", e->link);
                if (fstatat(dir->fd, base, &two, AT_SYMLINK_NOFOLLOW) == 0 && one.st_ino == two.st_ino &&
                    one.st_dev == two.st_dev) {
                        before = 1; /* already so; removing the name could remove the target */
                        break;
                }
                before = make_room(a, e->name, &dir, reterr);
                if (before < 0)
                        return before;
        }
        r = pc_meta_link(&a->meta, dir->fd, base, e, reterr);
        return r < 0 ? r : before == 1;
}

int pc_apply_entry(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr) {
        if (!*e->name)
                return root_entry(a, e, reterr);
        switch (e->type) {
        case '5':
                return directory(a, e, reterr);
        case '1':
                return hard_link(a, e, reterr);
        default:
                return node(a, e, reterr);
        }
}

int pc_apply_begin(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr) {
        const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
        struct pc_dir *dir;
        const char *base;
        if (!*e->name)
                return root_entry(a, e, reterr);
        int before = 0, r = place(a, e, &dir, &base, reterr);
        if (r < 0)
                return r;
        a->fd = openat(dir->fd, base, flags, e->mode);
        if (a->fd < 0 && again(a, errno))
                a->fd = openat(dir->fd, base, flags, e->mode);
        if (a->fd < 0 && errno == EEXIST) {
                before = make_room(a, e->name, &dir, reterr);
                if (before < 0)
                        return before;
                a->fd = openat(dir->fd, base, flags, e->mode);
        }
        if (a->fd < 0)
                return pc_fail_errno(reterr, "create file", e->name);
        a->inherits = dir->inherits;
        a->dir_dev = dir->dev;
        a->dir_ino = dir->ino;
        a->positioned = false;
        return before == 1;
}

int pc_apply_give(struct pc_apply *a, const struct pc_entry *e, uint64_t at, uint64_t size, struct pc_err *reterr) {
        if (!a->filler || e->n_xattrs > 0) /* attributes point into headers, and are only set here */
                return 0;
        struct pc_unfilled u = {.fd = steal_fd(&a->fd), .at = at, .size = size, .dev = a->dir_dev, .ino = a->dir_ino};
        u.odd = a->inherits || a->meta.inexact || a->meta.default_acls;
        (void) pc_name_split(e->name, &u.base);
        int r = pc_filler_give(a->filler, &u, e);
        return r < 0 ? pc_fail(reterr, r, "fill file", e->name) : 1;
}

int pc_apply_write(struct pc_apply *a, const uint8_t *p, size_t n, struct pc_err *reterr) {
        int r = pc_write_all(a->fd, p, n);
        return r < 0 ? pc_fail(reterr, r, "write file", NULL) : 0;
}

int pc_apply_seek(struct pc_apply *a, int64_t offset, struct pc_err *reterr) {
        a->positioned = true;
        if (lseek(a->fd, offset, SEEK_SET) < 0)
                return pc_fail_errno(reterr, "seek in file", NULL);
        return 0;
}

int pc_apply_end(struct pc_apply *a, const struct pc_entry *e, int64_t size, struct pc_err *reterr) {
        if (a->positioned && ftruncate(a->fd, size) < 0)
                return pc_fail_errno(reterr, "set file size", e->name);
        int r = pc_meta_fd(&a->meta, a->fd, e, a->inherits, reterr);
        if (r < 0)
                return r;
        if (futimens(a->fd, e->times) < 0)
                return pc_fail_errno(reterr, "set file times", e->name);
        if (close(steal_fd(&a->fd)) < 0)
                return pc_fail_errno(reterr, "close file", e->name);
        return 0;
}

int pc_apply_whiteout(struct pc_apply *a, const struct pc_entry *e, const char *hidden, struct pc_err *reterr) {
        struct pc_dir *dir;
        const char *base;
        size_t len = pc_name_split(e->name, &base);
        int r = pc_dirs_get(a->dirs, e->name, len, PC_DIRS_UNHIDDEN, &dir, reterr);
        if (r == -ENOTDIR)
                return 0; /* the directory itself is hidden by this layer: nothing below it is left to hide */
        if (r < 0)
                return r;
        if (mknodat(dir->fd, hidden, S_IFCHR, 0) < 0) {
                struct stat st;
                if (errno != EEXIST || fstatat(dir->fd, hidden, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        return pc_fail_errno(reterr, "make whiteout", e->name);
                /* A whiteout is about lower layers only. An entry of this layer hides the lower one anyhow, but a
                 * directory would be merged with it. */
                if (!S_ISDIR(st.st_mode))
                        return pc_is_whiteout(&st);
                _cleanup_fd_ int fd = openat(dir->fd, hidden, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (fd < 0)
                        return pc_fail_errno(reterr, "open directory", e->name);
                return pc_dirs_opaque(a->dirs, fd, e->name, reterr);
        }
        dir->dirty = true;
        if ((e->uid != a->meta.uid || e->gid != a->meta.gid || dir->inherits) &&
            fchownat(dir->fd, hidden, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
                return pc_fail_errno(reterr, "own whiteout", e->name);
        return 0;
}

int pc_apply_opaque(struct pc_apply *a, const struct pc_entry *e, struct pc_err *reterr) {
        struct pc_dir *dir;
        const char *base;
        size_t len = pc_name_split(e->name, &base);
        int r = pc_dirs_get(a->dirs, e->name, len, PC_DIRS_UNHIDDEN, &dir, reterr);
        if (r == -ENOTDIR)
                return 0;
        return r < 0 ? r : pc_dirs_opaque(a->dirs, dir->fd, e->name, reterr);
}

int pc_apply_finish(struct pc_apply *a, struct pc_err *reterr) {
        return pc_dirs_flush(a->dirs, reterr);
}

bool pc_apply_lost(const struct pc_apply *a) {
        return a->lost;
}

uint64_t pc_apply_xattrs_skipped(const struct pc_apply *a) {
        return a->meta.xattrs_skipped;
}
