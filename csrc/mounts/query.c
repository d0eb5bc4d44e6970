/* What is mounted where. */
#include "mounts/api.h"
#include <sys/stat.h>

#define STATX_MNT_ID_OLD 0x1000 /* STATX_MNT_ID, 5.8 */
#define STATX_MNT_ID_NEW 0x4000 /* STATX_MNT_ID_UNIQUE, 6.8 */
#define STATX_ROOT 0x2000       /* STATX_ATTR_MOUNT_ROOT, 5.8 */
#define STATMOUNT_BASIC 0x2     /* STATMOUNT_MNT_BASIC */

/* The kernel's struct statx, the parts that are used. */
struct stat_mount {
        uint32_t mask, blksize;
        uint64_t attributes, before[2], ino, size, blocks, attributes_mask, times[8], rdev[2], mnt_id, after[13];
};

static int ask(const char *path, unsigned mask, struct stat_mount *ret) {
        _Static_assert(sizeof *ret == 256, "the kernel's size");
        return (int) PC_SYS(statx, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, mask, ret);
}

int pc_mount_is(const char *path, struct pc_err *reterr) {
        struct stat_mount st;
        int r = ask(path, 0, &st);
        if (r == -ENOENT || r == -ENOTDIR)
                return 0;
        if (r < 0)
                return pc_fail(reterr, r, "statx", path);
        if (!(st.attributes_mask & STATX_ROOT))
                return pc_fail(reterr, EOPNOTSUPP, "statx", path);
        return st.attributes & STATX_ROOT ? 1 : 0;
}

int pc_mount_id(const char *path, uint64_t *ret_id, struct pc_err *reterr) {
        struct stat_mount st;
        int r = ask(path, STATX_MNT_ID_OLD, &st);
        if (r < 0)
                return pc_fail(reterr, r, "statx", path);
        if (!(st.mask & STATX_MNT_ID_OLD))
                return pc_fail(reterr, EOPNOTSUPP, "statx", path);
        *ret_id = st.mnt_id;
        return 0;
}

int pc_statmount_propagation(const char *path, const char **ret_kind) {
        struct stat_mount st;
        struct {
                uint32_t size, spare;
                uint64_t mnt_id, param;
        } req = {.size = 24, .param = STATMOUNT_BASIC};
        struct {
                uint32_t size, options;
                uint64_t mask;
                uint32_t dev[2];
                uint64_t magic;
                uint32_t sb_flags, fs_type;
                uint64_t id, parent;
                uint32_t id_old, parent_old;
                uint64_t attr, propagation, rest[64];
        } sm = {0};
        int r = ask(path, STATX_MNT_ID_NEW, &st);
        if (r < 0)
                return r;
        if (!(st.mask & STATX_MNT_ID_NEW))
                return -ENOSYS;
        req.mnt_id = st.mnt_id;
        r = (int) PC_SYS(statmount, &req, &sm, sizeof sm, 0);
        if (r < 0)
                return r;
        *ret_kind = sm.propagation & MS_SHARED       ? "shared"
                    : sm.propagation & MS_SLAVE      ? "slave"
                    : sm.propagation & MS_UNBINDABLE ? "unbindable"
                                                     : "private";
        return 0;
}

static int by_mountinfo(uint64_t id, const char **ret_kind) {
        _cleanup_free_ char *line = NULL;
        size_t room = 0;
        int r = -ENOENT;
        FILE *f = fopen("/proc/thread-self/mountinfo", "re");
        if (!f)
                return -errno;
        for (ssize_t n; r == -ENOENT && (n = getline(&line, &room, f)) > 0;)
                r = pc_mountinfo_propagation(line, (size_t) n, id, ret_kind);
        (void) fclose(f);
        return r;
}

int pc_mount_propagation_of(const char *path, const char **ret_kind, struct pc_err *reterr) {
        int r = pc_statmount_propagation(path, ret_kind);
        if (r >= 0 || (r != -ENOSYS && r != -EPERM && r != -EINVAL))
                return r < 0 ? pc_fail(reterr, r, "statmount", path) : 0;
        uint64_t id;
        r = pc_mount_id(path, &id, reterr);
        if (r < 0)
                return r;
        r = by_mountinfo(id, ret_kind);
        return r < 0 ? pc_fail(reterr, r, "mountinfo", path) : 0;
}
