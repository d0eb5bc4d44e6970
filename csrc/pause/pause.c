/* pycrio-pause: first process of a pod's pid namespace. It keeps the namespace, reaps orphans, and ends with 0 on
 * SIGTERM or SIGINT. No libc, no writable data: a node has one per such pod. */
#include "common/raw.h"

#ifndef PC_VERSION
#define PC_VERSION "dev"
#endif

#define SIG_INT 2
#define SIG_TERM 15
#define SIG_CHLD 17
#define BIT(sig) (1ULL << ((sig) -1))
#define PR_DUMPABLE 4
#define DONT_WAIT 1
#define INTERRUPTED (-4)

/* Signals are blocked and fetched: a first process gets no signal that it left at its default, but does get blocked
 * ones; and nothing can arrive between a look and a sleep. */
static int keep(void) {
        uint64_t set = BIT(SIG_INT) | BIT(SIG_TERM) | BIT(SIG_CHLD);
        /* What shares our pid namespace and user id shall not look through us at the host's files. */
        long r = raw5(__NR_prctl, PR_DUMPABLE, 0, 0, 0, 0);
        if (r < 0 || raw5(__NR_rt_sigprocmask, 0 /* SIG_BLOCK */, (long) &set, 0, sizeof set, 0) < 0)
                return 1;
        for (;;) {
                while (raw5(__NR_wait4, -1, 0, DONT_WAIT, 0, 0) > 0) /* those that ended before we blocked, too */
                        ;
                r = raw5(__NR_rt_sigtimedwait, (long) &set, 0, 0, sizeof set, 0);
                if (r == SIG_INT || r == SIG_TERM)
                        return 0;
                if (r < 0 && r != INTERRUPTED)
                        return 1;
        }
}

__attribute__((used)) int raw_main(const uintptr_t *stack) {
        const char *const *argv = (const char *const *) (stack + 1);
        int code;
        if (stack[0] < 2)
                code = keep();
        else if (stack[0] == 2 && (raw_same(argv[1], "-v") || raw_same(argv[1], "--version")))
                code = raw_say(1, "pycrio-pause " PC_VERSION "\n") < 0;
        else
                (void) raw_say(2, "usage: pycrio-pause [-v]\n"), code = 2;
        raw_exit(code);
}
