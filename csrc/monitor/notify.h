/* Which lines of a container's sd_notify message may reach the host's service manager. Pure. */
#pragma once
#include <stddef.h>

/* Rewrites buf[0..n) in place to the harmless lines of it; their length. */
size_t pc_notify_filter(char *buf, size_t n);
