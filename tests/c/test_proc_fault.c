// SRC: csrc/proc/*.c
// LIBS: -DPC_FAULT=1
/* pc_spawn when its Nth system call fails, for every N, on the parent's side and between clone and exec: the failure is
 * told, no process, zombie or descriptor stays, and the caller's own descriptors and signals are as before. */
#include "common/fd.h"
#include "fault.h"
#include "proc/child.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

static char dir[] = "/tmp/test_proc_fault.XXXXXX";

/* Everything that a spawn can do: session, death signal, cgroups of both kinds, OOM score, a table that permutes, cwd.
 */
static struct pc_spawn full(const int *procs, int cgroup, const struct pc_spawn_fd *fds, size_t n) {
        static char *argv[] = {"true", NULL}, *env[] = {NULL};
        return (struct pc_spawn){.path = "/bin/true",
                                 .argv = argv,
                                 .envp = env,
                                 .fds = fds,
                                 .n_fds = n,
                                 .cwd = dir,
                                 .procs_fds = procs,
                                 .n_procs_fds = procs ? 2 : 0,
                                 .cgroup_fd = cgroup,
                                 .oom_score_adj = 500,
                                 .pdeathsig = SIGKILL,
                                 .flags = PC_SPAWN_SESSION | PC_SPAWN_OOM | (cgroup >= 0 ? PC_SPAWN_CGROUP : 0)};
}

/* Every call fails once, hidden ones always. The last round meets no fault. */
static void every_step(const struct pc_spawn *s, const char *hidden, int code, int least, const char *text) {
        struct world before = look(dir);
        sigset_t mask = {0}, now = {0};
        bool clean = true, told = true;
        int n = 1, failures = 0;
        (void) sigprocmask(SIG_SETMASK, NULL, &mask);
        for (; n < 300 && clean; n++) {
                struct pc_err err = {0};
                struct pc_exit end = {0};
                int pid = -7, pidfd = -7;
                fault_arm(n, hidden, hidden ? ENOSYS : code);
                int r = pc_spawn(s, &pid, &pidfd, &err);
                bool hit = fault_seen >= n;
                fault_arm(0, NULL, 0);
                if (r < 0) {
                        failures++;
                        told = told && pid == -7 && pidfd == -7 && r == -err.code && err.step && err.step[0] &&
                               err.code == (hidden ? ENOSYS : code);
                } else {
                        told = told && pc_wait(pidfd, false, &end, NULL) == 1 && end.code == 0 && end.signal == 0;
                        (void) close(pidfd);
                }
                (void) sigprocmask(SIG_SETMASK, NULL, &now);
                clean = same(before, look(dir)) && memcmp(&mask, &now, sizeof mask) == 0;
                if (!hit)
                        break;
        }
        printf("# %d calls, %d of them fatal\n", n - 1, failures);
        ok(clean && n > least && n < 300 && failures >= n - 2, text);
        ok(told, "... each failure names its code and step");
}

int main(void) {
        if (!mkdtemp(dir))
                return 1;
        char path[64];
        int procs[2], cgroup = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void) snprintf(path, sizeof path, "%s/cgroup.procs", dir); /* writes are what counts, not a real one */
        for (int i = 0; i < 2; i++)
                procs[i] = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        /* Two that change places below the highest target, one above: fcntl, dup3 and close_range all come in. */
        struct pc_spawn_fd fds[] = {{procs[0], procs[1]}, {procs[1], procs[0]}, {0, null}, {40, null}};

        struct pc_spawn s = full(procs, -1, fds, 4);
        every_step(&s, NULL, EIO, 75, "nothing stays of a spawn that fails anywhere");
        every_step(&s, NULL, ENOMEM, 75, "... nor without memory");
        every_step(&s, NULL, EINTR, 75, "... nor interrupted");
        s = full(NULL, cgroup, fds, 4);
        every_step(&s, "clone3", ENOSYS, 75, "... nor where clone3 is hidden and cgroups are joined by hand");
        s = full(NULL, -1, NULL, 0);
        s.flags = 0;
        s.cwd = NULL;
        s.pdeathsig = 0;
        every_step(&s, NULL, EIO, 64, "... nor of a plain one");

        for (int i = 0; i < 2; i++)
                (void) close(procs[i]);
        (void) close(cgroup);
        (void) close(null);
        (void) unlink(path);
        ok(rmdir(dir) == 0, "cleaned up");
        return done_testing();
}
