/* For tests of units built with -DPC_FAULT=1: fail the Nth system call, and see that nothing stays behind. */
#pragma once
#include "scratch.h"
#include "tap.h"
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int fault_at, fault_seen, fault_code; /* children that share our memory count on */
static const char *fault_name;               /* besides: every call of this name */
static const char *fault_last = "";

__attribute__((no_sanitize("address", "undefined"))) int pc_fault_hit(const char *call) {
        bool named = fault_name;
        for (size_t i = 0; named && (fault_name[i] || call[i]); i++)
                named = fault_name[i] == call[i];
        if (++fault_seen != fault_at && !named)
                return 0;
        fault_last = call;
        errno = fault_code;
        return 1;
}

static void fault_arm(int at, const char *name, int code) {
        fault_at = at;
        fault_name = name;
        fault_code = code;
        fault_seen = 0;
}

static int lines(const char *path) {
        int n = 0;
        FILE *f = fopen(path, "re");
        for (int c; f && (c = getc(f)) != EOF;)
                n += c == '\n';
        if (f)
                fclose(f);
        return n;
}

struct world {
        int fds, mounts, files, children;
};

static struct world look(const char *dir) {
        bool child = waitpid(-1, NULL, WNOHANG | __WALL) >= 0 || errno != ECHILD;
        return (struct world){entries("/proc/self/fd"), lines("/proc/self/mountinfo"), entries(dir), child};
}

static bool same(struct world a, struct world b) {
        if (memcmp(&a, &b, sizeof a) == 0)
                return true;
        printf("# descriptors %d %d, mounts %d %d, files %d %d, children %d %d (after %s)\n", a.fds, b.fds, a.mounts,
               b.mounts, a.files, b.files, a.children, b.children, fault_last);
        return false;
}
