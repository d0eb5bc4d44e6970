/* Names of sysctls: where they are and whose they are. Pure. */
#include "ns/ns.h"
#include <linux/limits.h>

/* sysctl(8): the first separator tells which of '.' and '/' separates; the other one is then a plain character, and
 * stands for the separator's counterpart (net.ipv4.conf.eth0/1.mtu is the interface eth0.1). */
static int translate(const char *name, char *out, size_t size) {
        size_t len = strlen(name), first = strcspn(name, "./");
        bool dots = name[first] == '.';
        if (len == 0 || len >= size)
                return len == 0 ? -EINVAL : -ENAMETOOLONG;
        for (size_t i = 0; i < len; i++) {
                char c = name[i];
                if (c <= ' ' || c == 0x7f)
                        return -EINVAL;
                out[i] = dots && c == '.' ? '/' : dots && c == '/' ? '.' : c;
        }
        out[len] = '\0';
        for (const char *at = out; at;) { /* every component named, none of them dots */
                size_t n = strcspn(at, "/");
                if (n == 0 || (n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'))
                        return -EINVAL;
                at = at[n] ? at + n + 1 : NULL;
        }
        return 0;
}

static bool starts(const char *s, const char *with) {
        return strncmp(s, with, strlen(with)) == 0;
}

/* Only what a namespace of its own has: anything else would be written to the host. */
static int kind_of(const char *path, enum pc_ns_kind *ret) {
        static const struct {
                const char *prefix;
                enum pc_ns_kind kind;
        } table[] = {
            {"net/", PC_NS_NET},
            {"fs/mqueue/", PC_NS_IPC},
            {"kernel/shm", PC_NS_IPC}, /* shmall shmmax shmmni shm_next_id shm_rmid_forced */
            {"kernel/msg", PC_NS_IPC}, /* msgmax msgmnb msgmni msg_next_id */
            {"kernel/sem", PC_NS_IPC}, /* sem sem_next_id */
            {"kernel/auto_msgmni", PC_NS_IPC},
            {"kernel/hostname", PC_NS_UTS},
            {"kernel/domainname", PC_NS_UTS},
            {"user/", PC_NS_USER},
        };
        for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
                if (!starts(path, table[i].prefix))
                        continue;
                *ret = table[i].kind;
                return 0;
        }
        return -EPERM;
}

int pc_ns_sysctl(const char *name, char *ret_path, size_t size, enum pc_ns_kind *ret_kind, struct pc_err *reterr) {
        static const char root[] = "/proc/sys/";
        char path[PATH_MAX];
        enum pc_ns_kind kind;
        int r = translate(name, path, sizeof path);
        if (r < 0)
                return pc_fail(reterr, r, "name of a sysctl", name);
        r = kind_of(path, &kind);
        if (r < 0)
                return pc_fail(reterr, r, "sysctl is not namespaced", name);
        if (sizeof root + strlen(path) > size)
                return pc_fail(reterr, ENAMETOOLONG, "name of a sysctl", name);
        (void) snprintf(ret_path, size, "%s%s", root, path);
        *ret_kind = kind;
        return 0;
}
