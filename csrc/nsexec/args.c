#include "nsexec/args.h"
#include <getopt.h>

enum { OPT_CHROOT = NSX_KINDS, OPT_CWD, OPT_LO_UP, OPT_HELP, OPT_VERSION };

enum nsx_verdict nsx_parse(int argc, char **argv, struct nsx_request *ret) {
        static const struct option options[] = {
            {"user", required_argument, NULL, NSX_USER},
            {"cgroup", required_argument, NULL, NSX_CGROUP},
            {"ipc", required_argument, NULL, NSX_IPC},
            {"uts", required_argument, NULL, NSX_UTS},
            {"net", required_argument, NULL, NSX_NET},
            {"pid", required_argument, NULL, NSX_PID},
            {"mnt", required_argument, NULL, NSX_MNT},
            {"chroot", required_argument, NULL, OPT_CHROOT},
            {"cwd", required_argument, NULL, OPT_CWD},
            {"lo-up", no_argument, NULL, OPT_LO_UP},
            {"help", no_argument, NULL, OPT_HELP},
            {"version", no_argument, NULL, OPT_VERSION},
            {NULL, 0, NULL, 0},
        };
        *ret = (struct nsx_request){.lo_up = false};
        optind = 0; /* GNU: begin anew */
        for (int c; (c = getopt_long(argc, argv, "+", options, NULL)) != -1;) {
                if (c < NSX_KINDS && c >= 0)
                        ret->paths[c] = optarg;
                else if (c == OPT_CHROOT)
                        ret->root = optarg;
                else if (c == OPT_CWD)
                        ret->cwd = optarg;
                else if (c == OPT_LO_UP)
                        ret->lo_up = true;
                else
                        return c == OPT_VERSION ? NSX_SAY_VERSION : c == OPT_HELP ? NSX_SAY_HELP : NSX_BAD_OPTION;
        }
        ret->command = argv + optind;
        return ret->command[0] || ret->lo_up ? NSX_RUN : NSX_NOTHING_TO_DO;
}
