/* The command line, without I/O but for what getopt_long itself says about a bad option (opterr). */
#pragma once
#include "nsexec/join.h"
#include <stdbool.h>

struct nsx_request {
        const char *paths[NSX_KINDS]; /* NULL: not to be joined */
        const char *root, *cwd;
        bool lo_up;
        char **command; /* the rest of argv; its first is NULL when there is none */
};

enum nsx_verdict { NSX_RUN, NSX_SAY_VERSION, NSX_SAY_HELP, NSX_BAD_OPTION, NSX_NOTHING_TO_DO };

/* Options end at the first word that is none, so that those of the command stay its own. What is kept points into
 * argv, whose order is not changed. */
enum nsx_verdict nsx_parse(int argc, char **argv, struct nsx_request *ret);
