/* Bind mounts, id-mapped or not. */
#include "mounts/api.h"
#include <sys/statvfs.h>

struct words {
        struct pc_attr top, tree; /* what applies to the mount itself, and to all below it too */
        unsigned long ms;         /* top, for mount(2) */
        bool any_tree;
};

static int parse_attrs(const struct pc_bind *s, struct words *ret, struct pc_err *reterr) {
        struct words w = {0};
        if (s->readonly) {
                w.top.set |= PC_ATTR_RDONLY;
                w.ms |= MS_RDONLY;
        }
        for (size_t i = 0; i < s->n_attrs; i++) {
                const char *name = s->attrs[i];
                const struct pc_attr_word *a = pc_attr_find(name);
                struct pc_attr *into = &w.top;
                if (!a && name[0] == 'r' && (a = pc_attr_find(name + 1)) != NULL) {
                        into = &w.tree;
                        w.any_tree = true;
                }
                if (!a)
                        return pc_fail(reterr, EINVAL, "mount attribute", name);
                into->set |= a->set;
                into->clear |= a->clear & ~a->set;
                if ((a->clear & PC_ATTR_ATIME) == PC_ATTR_ATIME)
                        into->clear |= PC_ATTR_ATIME; /* the kernel wants the whole field cleared to set a part */
                if (into == &w.top)
                        w.ms |= a->ms;
        }
        *ret = w;
        return 0;
}

/* mount(2): bind, then remount with the flags that the source already has and ours. */
static int classic(const struct pc_bind *s, const struct words *w, unsigned long prop, bool prop_rec,
                   struct pc_err *reterr) {
        if (w->any_tree || s->userns >= 0 || w->top.clear & ~(uint64_t) PC_ATTR_ATIME)
                return pc_fail(reterr, ENOSYS, "mount_setattr", s->target);
        long r = PC_SYS(mount, s->source, s->target, NULL, MS_BIND | (s->recursive ? MS_REC : 0UL), NULL);
        if (r < 0)
                return pc_fail(reterr, (int) r, "bind", s->source);
        if (w->ms) {
                static const struct {
                        unsigned long st, ms;
                } keep[] = {{ST_RDONLY, MS_RDONLY}, {ST_NOSUID, MS_NOSUID},   {ST_NODEV, MS_NODEV},
                            {ST_NOEXEC, MS_NOEXEC}, {ST_NOATIME, MS_NOATIME}, {ST_NODIRATIME, MS_NODIRATIME}};
                struct statvfs st;
                unsigned long flags = w->ms;
                r = statvfs(s->target, &st) < 0 ? -errno : 0;
                for (size_t i = 0; r == 0 && i < sizeof keep / sizeof *keep; i++)
                        flags |= st.f_flag & keep[i].st ? keep[i].ms : 0;
                if (r == 0)
                        r = PC_SYS(mount, NULL, s->target, NULL, MS_REMOUNT | MS_BIND | flags, NULL);
        }
        if (r >= 0 && prop)
                r = PC_SYS(mount, NULL, s->target, NULL, prop | (prop_rec ? MS_REC : 0UL), NULL);
        if (r < 0) {
                (void) umount2(s->target, MNT_DETACH | UMOUNT_NOFOLLOW);
                return pc_fail(reterr, (int) r, "set mount attributes", s->target);
        }
        return 0;
}

static int shape(int tree, const struct pc_bind *s, struct words *w, struct pc_err *reterr) {
        int r = 0;
        if (w->any_tree)
                r = pc_set_attr(tree, true, &w->tree, "set mount attributes", s->source, reterr);
        if (r == 0 && (w->top.set || w->top.clear))
                r = pc_set_attr(tree, false, &w->top, "set mount attributes", s->source, reterr);
        if (r == 0 && s->userns >= 0) {
                struct pc_attr map = {.set = PC_ATTR_IDMAP, .userns = (uint64_t) s->userns};
                r = pc_set_attr(tree, s->recursive, &map, "map ids of mount", s->source, reterr);
        }
        return r;
}

int pc_mount_bind(const struct pc_bind *s, struct pc_err *reterr) {
        struct words w;
        bool prop_rec = false;
        long prop = s->propagation ? pc_propagation_flags(s->propagation, &prop_rec) : 0;
        if (prop < 0)
                return pc_fail(reterr, (int) prop, "kind of propagation", s->propagation);
        int r = parse_attrs(s, &w, reterr);
        if (r < 0)
                return r;
        unsigned flags = PC_TREE_CLONE | O_CLOEXEC | (s->recursive ? PC_AT_RECURSIVE : 0);
        _cleanup_fd_ int tree = (int) PC_SYS(open_tree, AT_FDCWD, s->source, flags);
        if (tree == -ENOSYS)
                return classic(s, &w, (unsigned long) prop, prop_rec, reterr);
        if (tree < 0)
                return pc_fail(reterr, tree, "open_tree", s->source);
        r = shape(tree, s, &w, reterr);
        if (r < 0)
                return r;
        r = pc_attach(tree, s->target, reterr);
        if (r < 0 || !prop)
                return r;
        /* After attaching: a shared parent makes shared what is attached to it. */
        struct pc_attr attr = {.propagation = (uint64_t) prop};
        r = pc_set_attr(tree, prop_rec, &attr, "set propagation", s->target, reterr);
        if (r < 0)
                (void) umount2(s->target, MNT_DETACH);
        return r;
}
