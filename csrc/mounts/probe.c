/* What works here, found by doing it: in a child with its own mount namespace, so that nothing shows or stays. */
#include "mounts/api.h"
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define STACK (128 * 1024) /* the child runs this unit's own functions */
#define SPOT "/sys"        /* covered by a scratch tmpfs, for the child alone */

const char *pc_mount_feature_name(int feature) {
        static const char *const names[PC_MF_COUNT] = {
            [PC_MF_MOUNT_API] = "mount_api",         [PC_MF_OVERLAY] = "overlay",
            [PC_MF_LOWERDIR_PLUS] = "lowerdir_plus", [PC_MF_LOWERDIR_FD] = "lowerdir_fd",
            [PC_MF_VOLATILE] = "volatile",           [PC_MF_METACOPY] = "metacopy",
            [PC_MF_USERXATTR] = "userxattr",         [PC_MF_IDMAP] = "idmap",
            [PC_MF_OVERLAY_IDMAP] = "overlay_idmap", [PC_MF_RECURSIVE_RO] = "recursive_ro",
            [PC_MF_STATMOUNT] = "statmount",
        };
        return feature >= 0 && feature < PC_MF_COUNT ? names[feature] : NULL;
}

struct probe {
        const char *dir;
        int userns;
        bool *features;
        struct pc_err err;
        int result;
};

/* Upper and work are fresh each time: a volatile overlay leaves them unusable. */
static bool overlay_works(const char *first, const char *option, bool classic) {
        static const char *const dirs[] = {SPOT "/x/u", SPOT "/x/w", SPOT "/x/m"};
        const char *const lowers[] = {first, SPOT "/l2"};
        const struct pc_overlay s = {.lowers = lowers,
                                     .n_lowers = 2,
                                     .upper = SPOT "/x/u",
                                     .work = SPOT "/x/w",
                                     .target = SPOT "/x/m",
                                     .options = &option,
                                     .n_options = option ? 1 : 0,
                                     .classic = classic};
        const struct pc_tmpfs tmp = {.target = SPOT "/x", .mode = 0700, .size = 1 << 20};
        bool works = pc_mount_tmpfs(&tmp, NULL, NULL) == 0;
        for (size_t i = 0; works && i < sizeof dirs / sizeof *dirs; i++)
                works = mkdir(dirs[i], 0755) == 0;
        works = works && pc_mount_overlay(&s, NULL, NULL) == 0;
        (void) umount2(SPOT "/x", MNT_DETACH);
        return works;
}

/* Directly, since pc_mount_overlay hides the difference. */
static bool lowers_work(bool by_fd) {
        _cleanup_fd_ int fs = (int) PC_SYS(fsopen, "overlay", PC_CTX_CLOEXEC);
        if (fs < 0)
                return false;
        for (int i = 0; i < 2; i++) {
                const char *name = i ? SPOT "/l2" : SPOT "/l1";
                _cleanup_fd_ int fd = open(name, O_PATH | O_CLOEXEC);
                long r = by_fd ? PC_SYS(fsconfig, fs, PC_FSC_FD, "lowerdir+", NULL, fd)
                               : PC_SYS(fsconfig, fs, PC_FSC_STRING, "lowerdir+", name, 0);
                if (r < 0)
                        return false;
        }
        return PC_SYS(fsconfig, fs, PC_FSC_CREATE, NULL, NULL, 0) >= 0;
}

static bool idmap_works(struct probe *p, bool *ret_overlay) {
        _cleanup_fd_ int tree = (int) PC_SYS(open_tree, AT_FDCWD, p->dir, PC_TREE_CLONE | O_CLOEXEC);
        struct pc_attr attr = {.set = PC_ATTR_IDMAP, .userns = (uint64_t) p->userns};
        if (tree < 0 || pc_set_attr(tree, false, &attr, "", NULL, NULL) < 0)
                return false;
        *ret_overlay =
            pc_attach(tree, SPOT "/i", NULL) >= 0 && overlay_works(SPOT "/i", NULL, !p->features[PC_MF_LOWERDIR_PLUS]);
        return true;
}

static bool recursive_ro_works(void) {
        struct pc_attr attr = {.set = PC_ATTR_RDONLY};
        _cleanup_fd_ int tree = (int) PC_SYS(open_tree, AT_FDCWD, SPOT, PC_TREE_CLONE | O_CLOEXEC | PC_AT_RECURSIVE);
        return tree >= 0 && pc_set_attr(tree, true, &attr, "", NULL, NULL) >= 0;
}

static int scratch(struct pc_err *err) {
        static const char *const dirs[] = {SPOT "/l1", SPOT "/l2", SPOT "/x", SPOT "/i"};
        const struct pc_tmpfs tmp = {.target = SPOT, .mode = 0700, .size = 1 << 20};
        int r = pc_mount_propagation("/", "private", true, err);
        if (r == 0)
                r = pc_mount_tmpfs(&tmp, NULL, err);
        for (size_t i = 0; r == 0 && i < sizeof dirs / sizeof *dirs; i++)
                if (mkdir(dirs[i], 0755) < 0)
                        r = pc_fail_errno(err, "mkdir", dirs[i]);
        return r;
}

static int probe_main(void *arg) {
        struct probe *p = arg;
        bool *f = p->features;
        p->result = scratch(&p->err);
        if (p->result < 0)
                return 1;
        _cleanup_fd_ int fs = (int) PC_SYS(fsopen, "tmpfs", PC_CTX_CLOEXEC);
        const char *kind;
        f[PC_MF_MOUNT_API] = fs >= 0;
        f[PC_MF_LOWERDIR_PLUS] = lowers_work(false);
        bool classic = !f[PC_MF_LOWERDIR_PLUS];
        f[PC_MF_LOWERDIR_FD] = !classic && lowers_work(true); /* came later */
        f[PC_MF_OVERLAY] = overlay_works(SPOT "/l1", NULL, classic);
        f[PC_MF_VOLATILE] = overlay_works(SPOT "/l1", "volatile", classic);
        f[PC_MF_METACOPY] = overlay_works(SPOT "/l1", "metacopy=on", classic);
        f[PC_MF_USERXATTR] = overlay_works(SPOT "/l1", "userxattr", classic);
        f[PC_MF_IDMAP] = p->userns >= 0 && idmap_works(p, &f[PC_MF_OVERLAY_IDMAP]);
        f[PC_MF_RECURSIVE_RO] = recursive_ro_works();
        f[PC_MF_STATMOUNT] = pc_statmount_propagation("/", &kind) >= 0;
        return 0;
}

int pc_mount_probe(const char *dir, int userns, uint64_t *ret_features, struct pc_err *reterr) {
        bool features[PC_MF_COUNT] = {false};
        _cleanup_fd_ int fd = (int) PC_SYS(openat, AT_FDCWD, dir, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
        if (fd < 0)
                return pc_fail(reterr, fd, "open", dir);
        _cleanup_free_ char *stack = malloc(STACK);
        if (!stack)
                return pc_fail(reterr, ENOMEM, "malloc", NULL);
        struct probe p = {.dir = dir, .userns = userns, .features = features, .result = -ECANCELED};
        (void) pc_fail(&p.err, ECANCELED, "probe was killed", dir);

        /* Our thread sleeps (vfork), so the child may use its errno; descriptors are its own and go with it. */
        uint64_t all = ~0ULL, before;
        (void) syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
        char *top = stack + STACK - (uintptr_t) (stack + STACK) % 16;
        int pid = pc_fault_hit("clone") ? -1 : clone(probe_main, top, CLONE_VM | CLONE_VFORK | CLONE_NEWNS, &p);
        int code = errno;
        (void) syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
        if (pid < 0)
                return pc_fail(reterr, code, "clone", dir);
        while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
                ;
        if (p.result < 0) {
                if (reterr)
                        *reterr = p.err;
                return p.result;
        }
        uint64_t bits = 0;
        for (int i = 0; i < PC_MF_COUNT; i++)
                bits |= (uint64_t) features[i] << i;
        *ret_features = bits;
        return 0;
}
