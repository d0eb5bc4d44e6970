/* Out-of-memory reports of the container's cgroup: memory.events by inotify (v2), eventfd on memory.oom_control (v1).
 */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/io.h"

#define CGROUP_ROOT "/sys/fs/cgroup"
#define CGROUP2_MAGIC 0x63677270

static size_t slurp(const char *path, char *out, size_t cap) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : pc_read_all(fd, out, cap - 1);
        out[n > 0 ? n : 0] = '\0';
        return n > 0 ? (size_t) n : 0;
}

static void touch(struct pc_mon *m, const char *dir) {
        char path[PATH_MAX];
        if (!dir || !*dir || !pc_join(path, sizeof path, (const char *const[]){dir, "/oom"}, 2))
                return;
        _cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0)
                pc_say(m, PC_LEVEL_WARN, "Failed to write oom file", path, errno);
}

static void report(struct pc_mon *m) {
        if (m->oom_seen)
                return;
        pc_say(m, PC_LEVEL_INFO, "OOM received", NULL, 0);
        m->oom_seen = true;
        touch(m, m->args->persist_dir);
        touch(m, m->bundle);
}

static bool in_dir(const struct pc_mon *m, const char *name, char path[PATH_MAX]) {
        return pc_join(path, PATH_MAX, (const char *const[]){m->oom_dir, "/", name}, 3) > 0;
}

static int open_v2(struct pc_mon *m) {
        char path[PATH_MAX];
        if (!in_dir(m, "memory.events", path))
                return -ENAMETOOLONG;
        m->oom = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (m->oom < 0)
                return -errno;
        return inotify_add_watch(m->oom, path, IN_MODIFY) < 0 ? -errno : 0;
}

static int open_v1(struct pc_mon *m) {
        char path[PATH_MAX], text[64];
        if (!in_dir(m, "memory.oom_control", path))
                return -ENAMETOOLONG;
        m->oom_control = open(path, O_RDONLY | O_CLOEXEC);
        if (m->oom_control < 0)
                return -errno;
        m->oom = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (m->oom < 0 || !in_dir(m, "cgroup.event_control", path))
                return -errno;
        _cleanup_fd_ int control = open(path, O_WRONLY | O_CLOEXEC);
        if (control < 0)
                return -errno;
        size_t n = pc_decimal(text, m->oom);
        text[n++] = ' ';
        n += pc_decimal(text + n, m->oom_control);
        return pc_write_all(control, text, n);
}

/* Directory of a process's memory cgroup; false, with a word about why, when there is none. */
static bool group_of(struct pc_mon *m, const char *pid, char path[PATH_MAX]) {
        char text[8192];
        (void) pc_join(path, PATH_MAX, (const char *const[]){"/proc/", pid, "/cgroup"}, 3);
        if (slurp(path, text, sizeof text) == 0) {
                pc_say(m, PC_LEVEL_INFO, "No cgroup of the container: it may have ended", NULL, 0);
                return false;
        }
        size_t head = sizeof CGROUP_ROOT - 1;
        memcpy(path, CGROUP_ROOT, head);
        if (!m->oom_v2)
                path[head++] = '/';
        if (pc_cgroup_path(text, m->oom_v2, path + head, PATH_MAX - head) == 0) {
                pc_say(m, PC_LEVEL_WARN, "Container has no memory cgroup", NULL, 0);
                return false;
        }
        return true;
}

void pc_oom_open(struct pc_mon *m) {
        char path[PATH_MAX], own[PATH_MAX], pid[24];
        struct statfs fs;
        m->oom_v2 = statfs(CGROUP_ROOT, &fs) == 0 && fs.f_type == CGROUP2_MAGIC;
        pid[pc_decimal(pid, m->container)] = '\0';
        if (!group_of(m, pid, path))
                return;
        /* What stands for a container elsewhere (pycrio-task) lives where we do: what happens there says nothing. */
        if (group_of(m, "self", own) && strcmp(path, own) == 0)
                return;
        m->oom_dir = strdup(path);
        int r = !m->oom_dir ? -ENOMEM : m->oom_v2 ? open_v2(m) : open_v1(m);
        if (r == 0)
                r = pc_watch(m, m->oom, EPOLLIN, EV_OOM, 0) < 0 ? -errno : 0;
        if (r < 0) { /* advisory: the final check still looks at the counters */
                pc_say(m, r == -ENOENT ? PC_LEVEL_DEBUG : PC_LEVEL_WARN, "Cannot watch for OOM in", path, r);
                pc_closep(&m->oom);
        }
}

/* v2: has a counter risen? */
static void check_v2(struct pc_mon *m) {
        static const char *const keys[2] = {"oom", "oom_kill"};
        char path[PATH_MAX], text[1024];
        if (!in_dir(m, "memory.events", path) || slurp(path, text, sizeof text) == 0)
                return;
        for (int i = 0; i < 2; i++) {
                long v = pc_cgroup_count(text, keys[i], 0);
                if (v > m->oom_count[i]) {
                        m->oom_count[i] = v;
                        report(m);
                }
        }
}

void pc_oom_event(struct pc_mon *m) {
        union {
                uint64_t count;
                char events[4096];
        } u;
        ssize_t n = read(m->oom, &u, sizeof u);
        if (n < 0)
                return;
        if (m->oom_v2) {
                char path[PATH_MAX];
                check_v2(m);
                if (!in_dir(m, "memory.events", path) || access(path, F_OK) < 0) { /* the cgroup went away */
                        pc_unwatch(m, m->oom);
                        pc_closep(&m->oom);
                }
                return;
        }
        /* v1 signals the removal of the cgroup as well: a single event on one that is gone is no OOM. */
        char path[PATH_MAX];
        bool gone = !in_dir(m, "cgroup.event_control", path) || access(path, F_OK) < 0;
        if (!(gone && u.count == 1))
                report(m);
        if (gone) {
                pc_unwatch(m, m->oom);
                pc_closep(&m->oom);
        }
}

void pc_oom_final(struct pc_mon *m) {
        if (!m->oom_dir)
                return;
        if (m->oom_v2) {
                check_v2(m);
                return;
        }
        if (m->oom >= 0)
                pc_oom_event(m);
        char text[256];
        ssize_t n = m->oom_control >= 0 ? pread(m->oom_control, text, sizeof text - 1, 0) : -1;
        if (n > 0 && !m->args->exec) {
                text[n] = '\0';
                if (pc_cgroup_count(text, "oom_kill", 0) > 0)
                        report(m);
        }
}
