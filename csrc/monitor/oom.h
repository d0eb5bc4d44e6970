/* Text files of the cgroup file systems, parsed without I/O. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Directory below the mount point of a process's cgroup, from the text of /proc/<pid>/cgroup: "<controllers><path>" for
 * the v1 controller memory, "<path>" for v2. Length, or 0 when it is not listed or does not fit. */
size_t pc_cgroup_path(const char *text, bool v2, char *out, size_t cap);

/* The value of "<key> <number>" on a line of its own; fallback when there is none. */
long pc_cgroup_count(const char *text, const char *key, long fallback);
