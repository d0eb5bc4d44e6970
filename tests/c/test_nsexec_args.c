// SRC: csrc/nsexec/args.c
/* nsexec's command line: what is to be joined, where the command begins, what is refused. */
#include "nsexec/args.h"
#include "tap.h"
#include <getopt.h>
#include <stdio.h>
#include <string.h>

static struct nsx_request q;
static char *argv[16];

static enum nsx_verdict parse(char **words) {
        int argc = 1;
        argv[0] = (char *) "nsexec";
        for (; words[argc - 1]; argc++)
                argv[argc] = words[argc - 1];
        argv[argc] = NULL;
        return nsx_parse(argc, argv, &q);
}
#define PARSE(...) parse((char *[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static bool same(const char *x, const char *y) {
        return x && strcmp(x, y) == 0;
}

int main(void) {
        opterr = 0;
        ok(PARSE("--net", "/n", "--user=/u", "sh", "-c", "x") == NSX_RUN && same(q.paths[NSX_NET], "/n") &&
               same(q.paths[NSX_USER], "/u") && !q.paths[NSX_MNT] && same(q.command[0], "sh") &&
               same(q.command[1], "-c"),
           "namespaces, then the command with options of its own");
        ok(PARSE("--uts", "/a", "--ipc", "/b", "--mnt", "/c", "--pid", "/d", "--cgroup", "/e", "x") == NSX_RUN &&
               same(q.paths[NSX_UTS], "/a") && same(q.paths[NSX_IPC], "/b") && same(q.paths[NSX_MNT], "/c") &&
               same(q.paths[NSX_PID], "/d") && same(q.paths[NSX_CGROUP], "/e"),
           "each kind is its own");
        ok(PARSE("--net", "/n", "--", "--lo-up") == NSX_RUN && !q.lo_up && same(q.command[0], "--lo-up"),
           "-- ends the options");
        ok(PARSE("--net", "/a", "--net", "/b", "x") == NSX_RUN && same(q.paths[NSX_NET], "/b"), "the last one counts");
        ok(PARSE("--lo-up") == NSX_RUN && q.lo_up && !q.command[0], "a step needs no command");
        ok(PARSE("--chroot", "/r", "--cwd=/w", "x") == NSX_RUN && same(q.root, "/r") && same(q.cwd, "/w"),
           "directories");
        ok(PARSE("x") == NSX_RUN && !q.paths[NSX_NET] && !q.root, "nothing is left of the line before");
        ok(PARSE() == NSX_NOTHING_TO_DO && PARSE("--net", "/n") == NSX_NOTHING_TO_DO &&
               PARSE("--") == NSX_NOTHING_TO_DO,
           "nothing to do");
        ok(PARSE("--bogus", "x") == NSX_BAD_OPTION && PARSE("-n", "x") == NSX_BAD_OPTION &&
               PARSE("--net") == NSX_BAD_OPTION && PARSE("--lo-up=1", "x") == NSX_BAD_OPTION &&
               PARSE("--c", "/x", "x") == NSX_BAD_OPTION,
           "unknown, without a value, with one too many, a prefix of several");
        ok(PARSE("--version", "--bogus") == NSX_SAY_VERSION && PARSE("--help") == NSX_SAY_HELP, "version and help");
        return done_testing();
}
