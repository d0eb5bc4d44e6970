/* File systems made through a context: overlay and tmpfs. */
#include "mounts/api.h"

#define VALUE_MAX 255 /* fsconfig takes strings of up to 256 bytes, the final zero included */

struct context {
        int fs;
        struct pc_mount_log *log;
        struct pc_err *reterr;
        uint64_t attrs;
        bool ro;
};

static int refuse(struct context *c, long code, const char *step, const char *what) {
        pc_fs_log(c->fs, c->log);
        return pc_fail(c->reterr, (int) code, step, what);
}

static int set_string(struct context *c, const char *key, const char *value, const char *step, const char *what) {
        long r = PC_SYS(fsconfig, c->fs, PC_FSC_STRING, key, value, 0);
        return r < 0 ? refuse(c, r, step, what) : 0;
}

/* A directory as a parameter. By name, so that mountinfo shows what the caller knows; when that is too long for
 * fsconfig, by descriptor (6.13), or by the descriptor's name. The kernel resolves it at once. */
static int set_dir(struct context *c, const char *key, const char *path) {
        if (strlen(path) <= VALUE_MAX)
                return set_string(c, key, path, key, path);
        int at = (int) PC_SYS(openat, AT_FDCWD, path, O_PATH | O_CLOEXEC | O_DIRECTORY, 0);
        if (at < 0)
                return pc_fail(c->reterr, at, key, path);
        _cleanup_fd_ int fd = at;
        if (PC_SYS(fsconfig, c->fs, PC_FSC_FD, key, NULL, fd) >= 0)
                return 0;
        pc_fs_log(c->fs, c->log); /* what it said about descriptors is of no use to anyone */
        char name[48];
        (void) snprintf(name, sizeof name, "/proc/thread-self/fd/%d", fd);
        return set_string(c, key, name, key, path);
}

/* One word of an option list: about the mount, about the superblock, or the file system's own. */
static int set_option(struct context *c, const char *option) {
        const struct pc_attr_word *word = pc_attr_find(option);
        if (word) {
                c->attrs = (c->attrs & ~word->clear) | word->set;
                c->ro = c->attrs & PC_ATTR_RDONLY;
                return 0;
        }
        const char *eq = strchr(option, '=');
        if (!eq) {
                long r = PC_SYS(fsconfig, c->fs, PC_FSC_FLAG, option, NULL, 0);
                return r < 0 ? refuse(c, r, "mount option", option) : 0;
        }
        char key[64], value[VALUE_MAX + 1];
        size_t n_key = (size_t) (eq - option), n = strlen(eq + 1);
        const char *from = eq + 1;
        if (n >= 2 && from[0] == '"' && from[n - 1] == '"') { /* context="a,b": quotes belong to mount(8)'s syntax */
                from++;
                n -= 2;
        }
        if (n_key >= sizeof key || n >= sizeof value)
                return pc_fail(c->reterr, ENAMETOOLONG, "mount option", option);
        (void) snprintf(key, sizeof key, "%.*s", (int) n_key, option);
        (void) snprintf(value, sizeof value, "%.*s", (int) n, from);
        return set_string(c, key, value, "mount option", option);
}

/* Superblock, mount, attach, and keep later mounts inside to ourselves. */
static int finish(struct context *c, const char *target) {
        long r;
        if (c->ro && (r = PC_SYS(fsconfig, c->fs, PC_FSC_FLAG, "ro", NULL, 0)) < 0)
                return refuse(c, r, "mount option", "ro");
        if ((r = PC_SYS(fsconfig, c->fs, PC_FSC_CREATE, NULL, NULL, 0)) < 0)
                return refuse(c, r, "create file system", target);
        _cleanup_fd_ int mnt = (int) PC_SYS(fsmount, c->fs, PC_CTX_CLOEXEC, c->attrs);
        if (mnt < 0)
                return refuse(c, mnt, "fsmount", target);
        r = pc_attach(mnt, target, c->reterr);
        if (r < 0)
                return (int) r;
        struct pc_attr attr = {.propagation = MS_PRIVATE};
        r = pc_set_attr(mnt, false, &attr, "set propagation", target, c->reterr);
        if (r < 0)
                (void) umount2(target, MNT_DETACH);
        return (int) r;
}

static int check_overlay(const struct pc_overlay *s, struct pc_err *reterr) {
        if (s->n_lowers == 0)
                return pc_fail(reterr, EINVAL, "overlay without a lower directory", s->target);
        if (s->n_lowers > PC_OVERLAY_LOWERS)
                return pc_fail(reterr, E2BIG, "overlay with too many lower directories", s->target);
        if (!s->upper != !s->work)
                return pc_fail(reterr, EINVAL, "overlay with one of upper and work only", s->target);
        if (!s->upper && s->n_lowers == 1)
                return pc_fail(reterr, EINVAL, "read-only overlay with one lower directory", s->target);
        return 0;
}

static int modern_overlay(struct context *c, const struct pc_overlay *s) {
        int r = set_string(c, "source", "overlay", "mount option", "source");
        if (r < 0)
                return r;
        for (size_t i = 0; i < s->n_lowers; i++)
                if ((r = set_dir(c, "lowerdir+", s->lowers[i])) < 0)
                        return r;
        if (s->upper && ((r = set_dir(c, "upperdir", s->upper)) < 0 || (r = set_dir(c, "workdir", s->work)) < 0))
                return r;
        for (size_t i = 0; i < s->n_options; i++)
                if ((r = set_option(c, s->options[i])) < 0)
                        return r;
        return finish(c, s->target);
}

/* "lowerdir+" came with 6.7. Kernels before it answer EINVAL, at once (6.5) or when the superblock is made; so does any
 * kernel about directories that do not go together. Hence EINVAL is asked again the old way, whose answer counts unless
 * it says no more than the first one. */
int pc_mount_overlay(const struct pc_overlay *s, struct pc_mount_log *log, struct pc_err *reterr) {
        if (log)
                log->text[0] = '\0';
        int r = check_overlay(s, reterr);
        if (r < 0)
                return r;
        if (s->classic)
                return pc_overlay_classic(s, reterr);
        _cleanup_fd_ int fs = (int) PC_SYS(fsopen, "overlay", PC_CTX_CLOEXEC);
        if (fs == -ENOSYS)
                return pc_overlay_classic(s, reterr);
        if (fs < 0)
                return pc_fail(reterr, fs, "fsopen", "overlay");
        struct context c = {.fs = fs, .log = log, .reterr = reterr};
        r = modern_overlay(&c, s);
        if (r != -EINVAL)
                return r;
        struct pc_err second;
        int again = pc_overlay_classic(s, &second);
        if (again == -EINVAL)
                return r;
        if (log)
                log->text[0] = '\0';
        if (again < 0 && reterr)
                *reterr = second;
        return again;
}

static int tmpfs_classic(const struct pc_tmpfs *s, struct pc_err *reterr) {
        char data[512];
        unsigned long flags = 0;
        for (size_t i = 0; i < s->n_attrs; i++) {
                const struct pc_attr_word *word = pc_attr_find(s->attrs[i]);
                if (!word)
                        return pc_fail(reterr, EINVAL, "mount attribute", s->attrs[i]);
                flags |= word->ms;
        }
        int n = snprintf(data, sizeof data, "mode=%o,uid=%u,gid=%u", s->mode, s->uid, s->gid);
        if (s->size)
                n += snprintf(data + n, sizeof data - (size_t) n, ",size=%llu", (unsigned long long) s->size);
        if (s->label)
                n += snprintf(data + n, sizeof data - (size_t) n, ",context=\"%s\"", s->label);
        if ((size_t) n >= sizeof data)
                return pc_fail(reterr, ENAMETOOLONG, "mount option", s->label);
        long r = PC_SYS(mount, "tmpfs", s->target, "tmpfs", flags, data);
        if (r < 0)
                return pc_fail(reterr, (int) r, "mount tmpfs", s->target);
        r = PC_SYS(mount, NULL, s->target, NULL, MS_PRIVATE, NULL);
        if (r < 0) {
                (void) umount2(s->target, MNT_DETACH);
                return pc_fail(reterr, (int) r, "set propagation", s->target);
        }
        return 0;
}

int pc_mount_tmpfs(const struct pc_tmpfs *s, struct pc_mount_log *log, struct pc_err *reterr) {
        if (log)
                log->text[0] = '\0';
        _cleanup_fd_ int fs = (int) PC_SYS(fsopen, "tmpfs", PC_CTX_CLOEXEC);
        if (fs == -ENOSYS)
                return tmpfs_classic(s, reterr);
        if (fs < 0)
                return pc_fail(reterr, fs, "fsopen", "tmpfs");
        struct context c = {.fs = fs, .log = log, .reterr = reterr};
        char mode[16], uid[16], gid[16], size[32];
        (void) snprintf(mode, sizeof mode, "%o", s->mode);
        (void) snprintf(uid, sizeof uid, "%u", s->uid);
        (void) snprintf(gid, sizeof gid, "%u", s->gid);
        (void) snprintf(size, sizeof size, "%llu", (unsigned long long) s->size);
        const char *const set[][2] = {
            {"source", "tmpfs"},  {"mode", mode}, {"uid", uid}, {"gid", gid}, {"size", s->size ? size : NULL},
            {"context", s->label}};
        int r;
        for (size_t i = 0; i < sizeof set / sizeof *set; i++)
                if (set[i][1] && (r = set_string(&c, set[i][0], set[i][1], "mount option", set[i][1])) < 0)
                        return r;
        for (size_t i = 0; i < s->n_attrs; i++) {
                if (!pc_attr_find(s->attrs[i]))
                        return pc_fail(reterr, EINVAL, "mount attribute", s->attrs[i]);
                if ((r = set_option(&c, s->attrs[i])) < 0)
                        return r;
        }
        return finish(&c, s->target);
}
