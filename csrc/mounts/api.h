/* The kernel's mount interface, spelled out since build hosts have older headers; private to the unit. */
#pragma once
#include "common/fd.h"
#include "common/sys.h"
#include "mounts/mounts.h"
#include <fcntl.h>
#include <sys/mount.h>

enum { PC_FSC_FLAG = 0, PC_FSC_STRING = 1, PC_FSC_FD = 5, PC_FSC_CREATE = 6 };

#define PC_TREE_CLONE 1
#define PC_F_EMPTY_PATH 0x4  /* move_mount: from by descriptor */
#define PC_T_EMPTY_PATH 0x40 /* move_mount: to by descriptor */
#define PC_CTX_CLOEXEC 1
#define PC_AT_RECURSIVE 0x8000

enum {
        PC_ATTR_RDONLY = 0x1,
        PC_ATTR_NOSUID = 0x2,
        PC_ATTR_NODEV = 0x4,
        PC_ATTR_NOEXEC = 0x8,
        PC_ATTR_ATIME = 0x70,
        PC_ATTR_NOATIME = 0x10,
        PC_ATTR_STRICTATIME = 0x20,
        PC_ATTR_NODIRATIME = 0x80,
        PC_ATTR_IDMAP = 0x100000,
        PC_ATTR_NOSYMFOLLOW = 0x200000,
};

struct pc_attr { /* struct mount_attr */
        uint64_t set, clear, propagation, userns;
};

/* What one word says about the mount itself. ms: the same for mount(2). */
struct pc_attr_word {
        const char *word;
        uint64_t set, clear;
        unsigned long ms;
};
const struct pc_attr_word *pc_attr_find(const char *word); /* NULL: none of these */

/* MS_PRIVATE, ... of a propagation name, with MS_REC for "rprivate", ...; -EINVAL. */
long pc_propagation_flags(const char *kind, bool *ret_recursive);

int pc_attach(int mount, const char *target, struct pc_err *reterr);
int pc_set_attr(int mount, bool recursive, const struct pc_attr *attr, const char *step, const char *path,
                struct pc_err *reterr);
void pc_fs_log(int fs, struct pc_mount_log *log); /* drain the kernel's messages */
int pc_overlay_classic(const struct pc_overlay *spec, struct pc_err *reterr);
int pc_statmount_propagation(const char *path, const char **ret_kind); /* -ENOSYS before 6.8 */

/* From one line of a mountinfo file, with or without its newline: 0, -ENOENT when it is another mount's, -EBADMSG when
 * the line of that mount is not whole. Pure. */
int pc_mountinfo_propagation(const char *line, size_t n, uint64_t id, const char **ret_kind);
