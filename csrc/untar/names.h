/* Member names: cleaning and whiteout marks (OCI image spec, "Layer Filesystem Changeset"). Pure. */
#pragma once
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PC_PATH_ROOM = 4096 };

/* Lexically clean name into to (PC_PATH_ROOM bytes): no leading or trailing slash, no empty, "." or ".." component; the
 * empty string is the root. clamp: ".." at the root stays there, as in a chroot; else it is -EPERM. -ENAMETOOLONG and
 * -E2BIG (depth) beyond the limits. Returns the length. */
int pc_name_clean(const char *name, bool clamp, uint64_t max_path, uint64_t max_depth, char *to, struct pc_err *reterr);

enum pc_mark {
        PC_MARK_NONE,
        PC_MARK_WHITEOUT, /* the entry hides the name behind the mark */
        PC_MARK_OPAQUE,   /* the entry hides everything below its directory */
        PC_MARK_SKIP,     /* aufs bookkeeping */
        PC_MARK_BAD,      /* hides ".", ".." or nothing */
};
/* What a cleaned name means. *ret_hidden: the hidden base name, for PC_MARK_WHITEOUT only. */
enum pc_mark pc_name_mark(const char *clean, const char **ret_hidden);

/* Length of the directory part of a cleaned name (0: root); *ret_base points at the last component. */
size_t pc_name_split(const char *clean, const char **ret_base);

bool pc_utf8_valid(const char *s, size_t n);
