#include "untar/meta.h"
#include "common/fd.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

void pc_meta_init(struct pc_meta *m, int root, bool exact_umask) {
        *m = (struct pc_meta){.uid = geteuid(), .gid = getegid(), .inexact = !exact_umask};
        /* A mount with grpid or a file system that knows no owners shows on the first file. */
        _cleanup_fd_ int fd = openat(root, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
        struct stat st;
        if (fd >= 0 && fstat(fd, &st) == 0 &&
            (st.st_uid != m->uid || st.st_gid != m->gid || (st.st_mode & 07777) != 0666))
                m->inexact = true;
}

/* trusted.* steers overlay itself; an SELinux label of another machine means nothing here, mounts bring their own. */
static bool wanted(const char *name) {
        return strncmp(name, "trusted.", 8) != 0 && strcmp(name, "security.selinux") != 0;
}

static int set_xattrs(struct pc_meta *m, int fd, const char *path, const struct pc_entry *e, struct pc_err *reterr) {
        for (size_t i = 0; i < e->n_xattrs; i++) {
                const struct pc_xattr *x = &e->xattrs[i];
                if (!wanted(x->name))
                        continue;
                if (strcmp(x->name, "system.posix_acl_default") == 0)
                        m->default_acls = true;
                int r = path ? lsetxattr(path, x->name, x->value.p, x->value.n, 0)
                             : fsetxattr(fd, x->name, x->value.p, x->value.n, 0);
                if (r == 0)
                        continue;
                if (errno != ENOTSUP)
                        return pc_fail_errno(reterr, "set extended attribute", e->name);
                m->xattrs_skipped++;
        }
        return 0;
}

int pc_meta_fd(struct pc_meta *m, int fd, const struct pc_entry *e, bool odd, struct pc_err *reterr) {
        bool own = e->uid != m->uid || e->gid != m->gid, mode = own && e->mode & (S_ISUID | S_ISGID);
        if (odd || m->inexact || m->default_acls) {
                struct stat st;
                if (fstat(fd, &st) < 0)
                        return pc_fail_errno(reterr, "stat entry", e->name);
                own = st.st_uid != e->uid || st.st_gid != e->gid;
                mode = (st.st_mode & 07777) != e->mode || (own && e->mode & (S_ISUID | S_ISGID));
        }
        /* A directory keeps its set-ID bits through chown; mkdir ignores them though. */
        if (e->type == '5' && e->mode & (S_ISUID | S_ISGID))
                mode = true;
        if (own && fchown(fd, e->uid, e->gid) < 0)
                return pc_fail_errno(reterr, "set owner", e->name);
        if (mode && fchmod(fd, e->mode) < 0)
                return pc_fail_errno(reterr, "set mode", e->name);
        return e->n_xattrs ? set_xattrs(m, fd, NULL, e, reterr) : 0;
}

static int xattrs_at(struct pc_meta *m, int dirfd, const char *base, const struct pc_entry *e, struct pc_err *reterr) {
        char path[sizeof "/proc/thread-self/fd/" + 12 + 256];
        if (e->n_xattrs == 0)
                return 0;
        /* There is no lsetxattr relative to a descriptor before Linux 6.13; base is one component, not followed. */
        (void) snprintf(path, sizeof path, "/proc/thread-self/fd/%d/%s", dirfd, base);
        return set_xattrs(m, -1, path, e, reterr);
}

int pc_meta_at(struct pc_meta *m, int dirfd, const char *base, const struct pc_entry *e, bool odd,
               struct pc_err *reterr) {
        bool look = odd || m->inexact || m->default_acls;
        bool own = look || e->uid != m->uid || e->gid != m->gid;
        if (own && fchownat(dirfd, base, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
                return pc_fail_errno(reterr, "set owner", e->name);
        if (e->type != '2' && (look || e->mode & (S_ISUID | S_ISGID)) && fchmodat(dirfd, base, e->mode, 0) < 0)
                return pc_fail_errno(reterr, "set mode", e->name);
        int r = xattrs_at(m, dirfd, base, e, reterr);
        if (r < 0)
                return r;
        if (utimensat(dirfd, base, e->times, AT_SYMLINK_NOFOLLOW) < 0)
                return pc_fail_errno(reterr, "set times", e->name);
        return 0;
}

int pc_meta_link(struct pc_meta *m, int dirfd, const char *base, const struct pc_entry *e, struct pc_err *reterr) {
        struct stat st;
        if (fstatat(dirfd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return pc_fail_errno(reterr, "stat hard link", e->name);
        bool own = st.st_uid != e->uid || st.st_gid != e->gid, symlink = S_ISLNK(st.st_mode);
        /* Only a real change: chown would take away file capabilities. */
        if (own && fchownat(dirfd, base, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
                return pc_fail_errno(reterr, "set owner", e->name);
        bool mode = (st.st_mode & 07777) != e->mode || (own && e->mode & (S_ISUID | S_ISGID));
        if (mode && !symlink && fchmodat(dirfd, base, e->mode, 0) < 0)
                return pc_fail_errno(reterr, "set mode", e->name);
        int r = xattrs_at(m, dirfd, base, e, reterr);
        if (r < 0)
                return r;
        if (st.st_mtim.tv_sec == e->times[1].tv_sec && st.st_mtim.tv_nsec == e->times[1].tv_nsec && e->n_xattrs == 0)
                return 0;
        if (utimensat(dirfd, base, e->times, AT_SYMLINK_NOFOLLOW) < 0)
                return pc_fail_errno(reterr, "set times", e->name);
        return 0;
}
