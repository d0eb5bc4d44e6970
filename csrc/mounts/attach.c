/* What all mounts share: attributes, propagation, attaching, detaching. */
#include "mounts/api.h"
#include <sys/stat.h>

const struct pc_attr_word *pc_attr_find(const char *word) {
        static const struct pc_attr_word words[] = {
            {"ro", PC_ATTR_RDONLY, 0, MS_RDONLY},
            {"rw", 0, PC_ATTR_RDONLY, 0},
            {"nosuid", PC_ATTR_NOSUID, 0, MS_NOSUID},
            {"suid", 0, PC_ATTR_NOSUID, 0},
            {"nodev", PC_ATTR_NODEV, 0, MS_NODEV},
            {"dev", 0, PC_ATTR_NODEV, 0},
            {"noexec", PC_ATTR_NOEXEC, 0, MS_NOEXEC},
            {"exec", 0, PC_ATTR_NOEXEC, 0},
            {"noatime", PC_ATTR_NOATIME, PC_ATTR_ATIME, MS_NOATIME},
            {"relatime", 0, PC_ATTR_ATIME, MS_RELATIME},
            {"strictatime", PC_ATTR_STRICTATIME, PC_ATTR_ATIME, MS_STRICTATIME},
            {"nodiratime", PC_ATTR_NODIRATIME, 0, MS_NODIRATIME},
            {"diratime", 0, PC_ATTR_NODIRATIME, 0},
            {"nosymfollow", PC_ATTR_NOSYMFOLLOW, 0, 256 /* MS_NOSYMFOLLOW */},
            {"symfollow", 0, PC_ATTR_NOSYMFOLLOW, 0},
            {"defaults", 0, 0, 0},
        };
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
                if (strcmp(words[i].word, word) == 0)
                        return &words[i];
        return NULL;
}

long pc_propagation_flags(const char *kind, bool *ret_recursive) {
        static const struct {
                const char *name;
                long flag;
        } kinds[] = {
            {"private", MS_PRIVATE}, {"slave", MS_SLAVE}, {"shared", MS_SHARED}, {"unbindable", MS_UNBINDABLE}};
        bool recursive = kind[0] == 'r';
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
                if (strcmp(kind + recursive, kinds[i].name) != 0)
                        continue;
                *ret_recursive = recursive;
                return kinds[i].flag;
        }
        return -EINVAL;
}

/* On the directory or file that the path names now; a link there is followed, as mount(8) does. */
int pc_attach(int mnt, const char *target, struct pc_err *reterr) {
        int at = (int) PC_SYS(openat, AT_FDCWD, target, O_PATH | O_CLOEXEC, 0);
        if (at < 0)
                return pc_fail(reterr, at, "open mount target", target);
        _cleanup_fd_ int fd = at;
        long r = PC_SYS(move_mount, mnt, "", fd, "", PC_F_EMPTY_PATH | PC_T_EMPTY_PATH);
        return r < 0 ? pc_fail(reterr, (int) r, "move_mount", target) : 0;
}

int pc_set_attr(int mnt, bool recursive, const struct pc_attr *attr, const char *step, const char *path,
                struct pc_err *reterr) {
        int flags = AT_EMPTY_PATH | (recursive ? PC_AT_RECURSIVE : 0);
        long r = PC_SYS(mount_setattr, mnt, "", flags, attr, sizeof *attr);
        return r < 0 ? pc_fail(reterr, (int) r, step, path) : 0;
}

/* One message per read, "e text" for errors, "w text", "i text"; ENODATA when there are no more. */
void pc_fs_log(int fs, struct pc_mount_log *log) {
        if (!log)
                return;
        size_t at = 0;
        char line[512];
        ssize_t n;
        log->text[0] = '\0';
        while ((n = read(fs, line, sizeof line - 1)) > 0 || (n < 0 && errno == EINTR)) {
                if (n < 0)
                        continue;
                while (n > 0 && line[n - 1] == '\n')
                        n--;
                line[n] = '\0';
                const char *text = n > 2 && line[1] == ' ' ? line + 2 : line;
                int w = snprintf(log->text + at, sizeof log->text - at, "%s%s", at ? "; " : "", text);
                if (w < 0 || (size_t) w >= sizeof log->text - at)
                        return;
                at += (size_t) w;
        }
}

int pc_mount_propagation(const char *target, const char *kind, bool recursive, struct pc_err *reterr) {
        bool named = false;
        long flag = pc_propagation_flags(kind, &named);
        if (flag < 0)
                return pc_fail(reterr, (int) flag, "kind of propagation", kind);
        unsigned long flags = (unsigned long) flag | (recursive || named ? MS_REC : 0);
        long r = PC_SYS(mount, NULL, target, NULL, flags, NULL);
        return r < 0 ? pc_fail(reterr, (int) r, "set propagation", target) : 0;
}

int pc_umount(const char *target, bool detach, struct pc_err *reterr) {
        if (umount2(target, (detach ? MNT_DETACH : 0) | UMOUNT_NOFOLLOW) == 0)
                return 1;
        int code = errno;
        if (code == ENOENT || code == ENOTDIR)
                return 0;
        if (code == EINVAL && pc_mount_is(target, NULL) == 0)
                return 0;
        return pc_fail(reterr, code, "umount", target);
}
