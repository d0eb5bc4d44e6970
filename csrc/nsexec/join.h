/* Joining several namespaces at once, for a program with a single thread. */
#pragma once
#include "common/err.h"

enum nsx_kind { NSX_USER, NSX_CGROUP, NSX_IPC, NSX_UTS, NSX_NET, NSX_PID, NSX_MNT, NSX_KINDS };

extern const char *const nsx_names[NSX_KINDS];

/* Join those given (NULL: not). Namespaces of another owner than the user namespace are joined before it, while we
 * still may, its own after it; the mount namespace is the last of its group, as all paths have been opened by then. In
 * a user namespace we become its root. */
int nsx_join(const char *const paths[NSX_KINDS], struct pc_err *reterr);

int nsx_loopback_up(struct pc_err *reterr);
