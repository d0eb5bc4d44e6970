// SRC: csrc/ns/*.c
// LIBS: -DPC_FAULT=1
/* The ns unit: what is made, that every failing system call leaves nothing behind, behaviour among threads and signals.
 */
#include "common/fd.h"
#include "fault.h"
#include "ns/holder.h"
#include "ns/net.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/rtnetlink.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>

static char dir[] = "/tmp/test_ns.XXXXXX";
static char paths[PC_NS_KINDS][64];
static const char *const sysctls[] = {"net.ipv4.ip_forward", "1", "kernel/shm_rmid_forced", "1",
                                      "fs.mqueue.msg_max",   "11"};
static const struct pc_ns_map maps[] = {{0, 200000, 65536}};
static const char *keeper[] = {NULL, NULL}; /* a static program; this test itself cannot be one under sanitizers */

static struct pc_ns_spec full(bool user, bool kept) {
        struct pc_ns_spec s = {
            .userns = -1, .sysctls = sysctls, .n_sysctls = 3, .hostname = "pod", .loopback_up = true};
        for (int k = 0; k < PC_NS_KINDS; k++)
                if ((k != PC_NS_USER || user) && (k != PC_NS_PID || kept))
                        s.pins[k] = paths[k];
        if (user) {
                s.uids = s.gids = maps;
                s.n_uids = s.n_gids = 1;
        }
        if (kept)
                s.keeper = keeper;
        return s;
}

static void end(pid_t pid, int pidfd) {
        siginfo_t info;
        pc_pidfd_send_signal(pidfd, SIGKILL);
        waitid(P_PID, (id_t) pid, &info, WEXITED | __WALL);
        close(pidfd);
}

static bool unpin_all(void) {
        bool all = true;
        for (int k = 0; k < PC_NS_KINDS; k++)
                all = pc_ns_unpin(paths[k], NULL) >= 0 && all;
        return all && entries(dir) == 0;
}

/* Every call fails once. The last round meets no fault. */
static void every_step(const char *text, bool user, bool kept, int code) {
        struct pc_ns_spec s = full(user, kept);
        struct world before = look(dir);
        bool clean = true, told = true, again = true;
        int n = 1, failures = 0;
        for (; n < 500 && clean; n++) {
                struct pc_err err = {0};
                pid_t pid = -1;
                int pidfd = -1;
                fault_arm(n, NULL, code);
                int r = pc_ns_create(&s, &pid, &pidfd, &err);
                bool hit = fault_seen >= n;
                fault_arm(0, NULL, 0);
                if (r >= 0) { /* no fault met, or one that there is a way around */
                        if (pidfd >= 0)
                                end(pid, pidfd);
                        again = unpin_all() && again;
                } else {
                        failures++;
                        told = told && err.code == code && r == -code && err.step && err.step[0];
                }
                clean = same(before, look(dir));
                if (!hit)
                        break;
        }
        printf("# %d calls, %d of them fatal\n", n - 1, failures);
        ok(clean && again && n > 10 && n < 500, text);
        ok(told && failures > 10, "... each failure names its step and code");
}

static uint64_t inode_of(const char *path) {
        uint64_t inode = 0;
        return pc_ns_inode(path, &inode, NULL) < 0 ? 0 : inode;
}

static void made(void) {
        struct pc_ns_spec s = full(true, false);
        struct pc_err err = {0};
        int r = pc_ns_create(&s, NULL, NULL, &err);
        ok(r == 0, "all kinds in a user namespace");
        if (r < 0)
                printf("# %s %s: %s\n", err.step, err.path, strerror(err.code));
        bool fresh = true, owned = true;
        for (int k = 0; k < PC_NS_KINDS; k++) {
                if (!s.pins[k])
                        continue;
                char own[64];
                snprintf(own, sizeof own, "/proc/self/ns/%s", pc_ns_names[k]);
                fresh = fresh && inode_of(paths[k]) != 0 && inode_of(paths[k]) != inode_of(own);
                if (k == PC_NS_USER)
                        continue;
                _cleanup_fd_ int fd = open(paths[k], O_RDONLY | O_CLOEXEC);
                _cleanup_fd_ int owner = ioctl(fd, NS_GET_USERNS);
                struct stat st;
                owned = owned && owner >= 0 && fstat(owner, &st) == 0 && st.st_ino == inode_of(paths[PC_NS_USER]);
        }
        ok(fresh, "each pin is a namespace that is not ours");
        ok(owned, "all belong to the new user namespace");
        ok(prctl(PR_GET_DUMPABLE) == 1, "the caller is as dumpable as before");
        struct stat st;
        ok(pc_ns_unpin(paths[PC_NS_NET], NULL) == 1 && stat(paths[PC_NS_NET], &st) < 0, "unpin removes the file");
        ok(pc_ns_unpin(paths[PC_NS_NET], NULL) == 0, "unpin of nothing says so");
        ok(unpin_all(), "all removed");
}

static void stacked(void) {
        struct pc_ns_spec s = {.userns = -1};
        s.pins[PC_NS_UTS] = paths[PC_NS_UTS];
        bool good = pc_ns_create(&s, NULL, NULL, NULL) == 0;
        struct stat st;
        struct pc_err err;
        ok(good && pc_ns_create(&s, NULL, NULL, &err) == -EEXIST && strcmp(err.path, paths[PC_NS_UTS]) == 0,
           "an existing pin is not overwritten");
        ok(inode_of(paths[PC_NS_UTS]) != 0, "... and stays");
        ok(pc_ns_pin(paths[PC_NS_UTS], paths[PC_NS_NET], NULL) == 0 &&
               inode_of(paths[PC_NS_UTS]) == inode_of(paths[PC_NS_NET]),
           "a pin of a pin is the same namespace");
        unpin_all();
        ok(pc_ns_pin("/etc/passwd", paths[PC_NS_NET], &err) == -ENXIO && stat(paths[PC_NS_NET], &st) < 0,
           "what is no namespace is not pinned");
}

static void refused(void) {
        static const struct {
                const char *name;
                int code;
        } bad[] = {{"net.nope", -ENOENT},   {"vm.swappiness", -EPERM},  {"kernel.shmmax", -EPERM},
                   {"net", -EPERM},         {"net..ipv4", -EINVAL},     {"net.", -EINVAL},
                   {"", -EINVAL},           {"net/../kernel", -EINVAL}, {"kernel.panic", -EPERM},
                   {"net.ipv4 x", -EINVAL}, {"/net/ipv4", -EINVAL}};
        struct world before = look(dir);
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
                const char *one[] = {bad[i].name, "1"};
                struct pc_ns_spec s = {.userns = -1, .sysctls = one, .n_sysctls = 1, .loopback_up = true};
                struct pc_err err = {0};
                char text[96];
                s.pins[PC_NS_NET] = paths[PC_NS_NET];
                int r = pc_ns_create(&s, NULL, NULL, &err);
                snprintf(text, sizeof text, "sysctl '%s' is refused: %s", bad[i].name, err.step ? err.step : "");
                ok(r == bad[i].code && strstr(err.step, "sysctl"), text);
        }
        const char *wrong[] = {"net.ipv4.ip_forward", "many"};
        struct pc_ns_spec s = {.userns = -1, .sysctls = wrong, .n_sysctls = 1};
        struct pc_err err = {0};
        s.pins[PC_NS_NET] = paths[PC_NS_NET];
        ok(pc_ns_create(&s, NULL, NULL, &err) == -EINVAL && strcmp(err.path, "/proc/sys/net/ipv4/ip_forward") == 0,
           "a value that the kernel refuses is an error that names the file");
        s = (struct pc_ns_spec){.userns = -1, .hostname = "x"};
        ok(pc_ns_create(&s, NULL, NULL, NULL) == -EINVAL, "nothing asked for");
        s.pins[PC_NS_NET] = paths[PC_NS_NET];
        ok(pc_ns_create(&s, NULL, NULL, NULL) == -EINVAL, "a hostname needs a uts namespace");
        s = (struct pc_ns_spec){.userns = -1};
        s.pins[PC_NS_PID] = paths[PC_NS_PID];
        ok(pc_ns_create(&s, NULL, NULL, NULL) == -EINVAL, "a pid namespace needs a keeper");
        s = (struct pc_ns_spec){.userns = -1};
        s.pins[PC_NS_USER] = paths[PC_NS_USER];
        ok(pc_ns_create(&s, NULL, NULL, NULL) == -EINVAL, "a user namespace needs maps");
        struct pc_ns_map twice[] = {{0, 1000, 10}, {5, 3000, 10}};
        s.uids = s.gids = twice;
        s.n_uids = s.n_gids = 2;
        ok(pc_ns_create(&s, NULL, NULL, &err) == -EINVAL && strstr(err.path, "uid_map"),
           "maps that overlap are refused");
        ok(same(before, look(dir)), "nothing stays of what was refused");
}

static void sysctl_names(void) {
        enum pc_ns_kind kind;
        char path[256];
        ok(pc_ns_sysctl("net.ipv4.conf.eth0/1.rp_filter", path, sizeof path, &kind, NULL) == 0 && kind == PC_NS_NET &&
               strcmp(path, "/proc/sys/net/ipv4/conf/eth0.1/rp_filter") == 0,
           "dots first: a slash stands for a dot");
        ok(pc_ns_sysctl("net/ipv4/conf/eth0.1/rp_filter", path, sizeof path, &kind, NULL) == 0 &&
               strcmp(path, "/proc/sys/net/ipv4/conf/eth0.1/rp_filter") == 0,
           "slashes first: dots are plain");
        ok(pc_ns_sysctl("kernel.sem", path, sizeof path, &kind, NULL) == 0 && kind == PC_NS_IPC,
           "kernel.sem is of ipc");
        ok(pc_ns_sysctl("kernel.sem", path, 5, &kind, NULL) == -ENAMETOOLONG, "a short buffer is an error");
}

static void *creator(void *arg) {
        long id = (long) arg;
        for (int i = 0; i < 6; i++) {
                char net[80], uts[80];
                snprintf(net, sizeof net, "%s/t%ld.net", dir, id);
                snprintf(uts, sizeof uts, "%s/t%ld.uts", dir, id);
                struct pc_ns_spec s = {.userns = -1, .loopback_up = true};
                s.pins[PC_NS_NET] = net;
                s.pins[PC_NS_UTS] = uts;
                struct pc_ns_link *links = NULL;
                size_t n = 0;
                if (pc_ns_create(&s, NULL, NULL, NULL) < 0 || pc_ns_links(net, &links, &n, NULL) < 0 || n < 1)
                        return "failed";
                free(links);
                if (pc_ns_unpin(net, NULL) != 1 || pc_ns_unpin(uts, NULL) != 1)
                        return "failed";
        }
        return NULL;
}

static volatile sig_atomic_t handled, strayed;
static pid_t self;

static void on_alarm(int sig) {
        (void) sig;
        handled++;
        if (syscall(SYS_getpid) != self)
                strayed++;
}

static void threads_and_signals(void) {
        struct world before = look(dir);
        struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
        struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
        pthread_t threads[8];
        bool good = true;
        self = getpid();
        sigaction(SIGALRM, &sa, NULL);
        setitimer(ITIMER_REAL, &often, NULL);
        for (long i = 0; i < 8; i++)
                pthread_create(&threads[i], NULL, creator, (void *) i);
        for (int i = 0; i < 8; i++) {
                void *r;
                pthread_join(threads[i], &r);
                good = good && !r;
        }
        setitimer(ITIMER_REAL, &never, NULL);
        ok(good, "eight threads make and remove at once");
        ok(handled > 10 && strayed == 0, "no handler of the caller ran in a holder");
        ok(same(before, look(dir)), "nothing stays");
        ok(inode_of("/proc/self/ns/net") == inode_of("/proc/thread-self/ns/net"), "the caller is where it was");
}

static void sockets(void) {
        struct pc_ns_spec s = {.userns = -1, .loopback_up = true};
        s.pins[PC_NS_NET] = paths[PC_NS_NET];
        struct pc_err err = {0};
        const char *net = paths[PC_NS_NET];
        ok(pc_ns_create(&s, NULL, NULL, NULL) == 0, "a network namespace");
        struct world before = look(dir);
        int server = -1, fd = -1;
        struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        socklen_t len = sizeof at;
        bool good = pc_ns_socket(net, AF_INET6, SOCK_STREAM, 0, &server, NULL) == 0 &&
                    bind(server, (struct sockaddr *) &at, sizeof at) == 0 && listen(server, 1) == 0 &&
                    getsockname(server, (struct sockaddr *) &at, &len) == 0;
        uint16_t port = ntohs(at.sin6_port);
        ok(good, "a socket inside, on ::1");
        ok(pc_ns_connect(net, "localhost", port, 2000, &fd, &err) == 0, "localhost finds it after 127.0.0.1 refused");
        pc_closep(&fd);
        ok(pc_ns_connect("", "::1", port, 2000, &fd, &err) == -ECONNREFUSED, "it is not there outside");
        ok(pc_ns_connect(net, "127.0.0.1", port, 2000, &fd, &err) == -ECONNREFUSED && strcmp(err.step, "connect") == 0,
           "refused inside");
        ok(pc_ns_connect(net, "192.0.2.1", 1, 2000, &fd, &err) == -ENETUNREACH, "no route inside");
        ok(pc_ns_connect(net, "example.org", 1, 2000, &fd, &err) == -EINVAL, "names are not looked up");
        ok(pc_ns_connect("/nonesuch", "127.0.0.1", 1, 2000, &fd, &err) == -ENOENT && strcmp(err.path, "/nonesuch") == 0,
           "no such namespace");
        ok(pc_ns_connect("/etc/passwd", "127.0.0.1", 1, 2000, &fd, &err) == -EINVAL, "no namespace at all");
        pc_closep(&server);
        bool clean = true, hit = true;
        for (int n = 1; hit && n < 100; n++) {
                struct pc_ns_link *links = NULL;
                size_t count;
                fault_arm(n, NULL, EIO);
                int r = pc_ns_links(net, &links, &count, NULL);
                hit = fault_seen >= n;
                fault_arm(0, NULL, 0);
                if (r == 0)
                        free(links);
                clean = clean && (r < 0) == hit && same(before, look(dir));
        }
        ok(clean && !hit, "a dump that fails at any step leaves nothing");
        unpin_all();
}

static void parsers(void) {
        struct {
                struct nlmsghdr head;
                struct ifinfomsg info;
                struct rtattr name;
                char text[8];
        } m = {.head = {.nlmsg_len = sizeof m, .nlmsg_type = RTM_NEWLINK},
               .info = {.ifi_index = 7},
               .name = {.rta_len = RTA_LENGTH(5), .rta_type = IFLA_IFNAME},
               .text = "eth0"};
        struct pc_ns_link link;
        struct pc_ns_addr addr;
        ok(pc_ns_parse_link(&m, sizeof m, &link) == 1 && strcmp(link.name, "eth0") == 0 && link.index == 7, "a link");
        ok(pc_ns_parse_addr(&m, sizeof m, &addr) == 0, "a link is no address");
        bool good = true;
        for (size_t n = 0; n < sizeof m; n++)
                good = good && pc_ns_parse_link(&m, n, &link) == -EBADMSG;
        ok(good, "cut anywhere: malformed");
        m.name.rta_len = 200;
        ok(pc_ns_parse_link(&m, sizeof m, &link) == -EBADMSG, "an attribute beyond the end");
        m.name.rta_len = 2;
        ok(pc_ns_parse_link(&m, sizeof m, &link) == -EBADMSG, "an attribute shorter than its head");
        m.name.rta_len = RTA_LENGTH(0);
        ok(pc_ns_parse_link(&m, sizeof m, &link) == -EBADMSG, "a link without a name");
}

/* The real keeper, from its source. */
static bool build_keeper(char *path, size_t size) {
        char command[1024];
        const char *cc = getenv("CC");
        int here = (int) (strlen(__FILE__) - strlen("tests/c/test_ns.c"));
        snprintf(path, size, "%s.keeper", dir);
        snprintf(
            command, sizeof command,
            "%s -Os -static -nostdlib -ffreestanding -fno-stack-protector -I%.*s./csrc %.*s./csrc/pause/pause.c -o %s",
            cc ? cc : "cc", here, __FILE__, here, __FILE__, path);
        return system(command) == 0;
}

int main(void) {
        char program[128];
        if (!mkdtemp(dir) || !build_keeper(program, sizeof program))
                return 1;
        for (int k = 0; k < PC_NS_KINDS; k++)
                snprintf(paths[k], sizeof paths[k], "%s/%s", dir, pc_ns_names[k]);
        keeper[0] = program;
        made();
        stacked();
        refused();
        sysctl_names();
        every_step("any call fails: plain", false, false, EIO);
        every_step("any call fails: with a user namespace", true, false, EIO);
        every_step("any call is denied: with a user namespace", true, false, EACCES);
        every_step("any call fails: user namespace and keeper", true, true, EIO);
        every_step("any call fails: keeper", false, true, ENOMEM);
        threads_and_signals();
        sockets();
        parsers();
        unlink(program);
        ok(rmdir(dir) == 0, "the directory is empty");
        return done_testing();
}
