/* epoll: what woke us, and the few deadlines there are. */
#include "monitor/monitor.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/sys.h"

#define NEVENTS 8

int64_t pc_now_ns(void) {
        struct timespec ts;
        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (int64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t pc_now_ms(void) {
        return pc_now_ns() / 1000000;
}

void pc_trim_stack(void) {
        const uintptr_t page = 4096, reach = 256u << 10;
        uintptr_t top = ((uintptr_t) __builtin_frame_address(0) & ~(page - 1)) - page;
        (void) madvise((void *) (top - reach), reach, MADV_DONTNEED); /* ENOMEM below the mapping: as meant */
}

int pc_loop_open(struct pc_mon *m, struct pc_err *reterr) {
        sigset_t set;
        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGCHLD);
        (void) sigaddset(&set, SIGTERM);
        (void) sigaddset(&set, SIGINT);
        (void) sigaddset(&set, SIGQUIT);
        (void) sigprocmask(SIG_BLOCK, &set, &m->old_mask);
        m->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (m->signals < 0)
                return pc_fail_errno(reterr, "signalfd", NULL);
        m->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (m->epoll < 0)
                return pc_fail_errno(reterr, "epoll_create1", NULL);
        if (pc_watch(m, m->signals, EPOLLIN, EV_SIGNAL, 0) < 0)
                return pc_fail_errno(reterr, "epoll_ctl", NULL);
        return 0;
}

int pc_watch(struct pc_mon *m, int fd, uint32_t events, enum pc_event kind, int slot) {
        struct epoll_event e = {.events = events, .data.u32 = (uint32_t) kind | (uint32_t) slot << 8};
        return epoll_ctl(m->epoll, EPOLL_CTL_ADD, fd, &e);
}

void pc_rewatch(struct pc_mon *m, int fd, uint32_t events, enum pc_event kind, int slot) {
        struct epoll_event e = {.events = events, .data.u32 = (uint32_t) kind | (uint32_t) slot << 8};
        (void) epoll_ctl(m->epoll, EPOLL_CTL_MOD, fd, &e); /* fails only for a descriptor that is not watched */
}

void pc_unwatch(struct pc_mon *m, int fd) {
        (void) epoll_ctl(m->epoll, EPOLL_CTL_DEL, fd, NULL);
}

static void reap(struct pc_mon *m) {
        int status;
        if (m->runtime > 0) {
                /* Until the runtime has ended, others stay zombies: one of them may be the container, whose pid is
                 * known only afterwards. */
                if (waitpid(m->runtime, &status, WNOHANG) != m->runtime)
                        return;
                m->runtime_status = status;
                m->runtime_done = true;
                m->runtime = -1;
                return;
        }
        pid_t pid;
        while (m->runtime_done && m->container > 0 && (pid = waitpid(-1, &status, WNOHANG)) > 0)
                if (pid == m->container) {
                        m->container_status = status;
                        m->container_done = true;
                        m->container = -1;
                        return;
                }
}

static void on_signal(struct pc_mon *m) {
        struct signalfd_siginfo info;
        while (read(m->signals, &info, sizeof info) == sizeof info) {
                if (info.ssi_signo == SIGCHLD)
                        continue;
                pid_t to = m->container > 0 ? m->container : m->runtime;
                if (to > 0)
                        (void) kill(to, (int) info.ssi_signo);
        }
        reap(m);
}

static void dispatch(struct pc_mon *m, const struct epoll_event *e) {
        int slot = (int) (e->data.u32 >> 8);
        enum pc_event kind = (enum pc_event)(e->data.u32 & 0xff);
        if (kind != EV_STDOUT && kind != EV_STDERR) /* these know best themselves */
                pc_stream_cool_later(m);
        switch (kind) {
        case EV_SIGNAL:
                on_signal(m);
                break;
        case EV_STDOUT:
                pc_stream_event(m, PC_STDOUT);
                break;
        case EV_STDERR:
                pc_stream_event(m, PC_STDERR);
                break;
        case EV_ATTACH:
                pc_attach_event(m);
                break;
        case EV_CLIENT:
                pc_attach_client(m, slot, e->events);
                break;
        case EV_STDIN:
                pc_attach_stdin(m, e->events);
                break;
        case EV_CTL:
                pc_control_event(m, 0);
                break;
        case EV_WINSZ:
                pc_control_event(m, 1);
                break;
        case EV_CONSOLE:
                pc_console_event(m);
                break;
        case EV_OOM:
                pc_oom_event(m);
                break;
        case EV_NOTIFY:
                pc_notify_event(m);
                break;
        case EV_PIDFD:
                m->container_done = true;
                m->container = -1;
                break;
        }
}

/* Nanoseconds until the first deadline, -1 when there is none; then the clock is not read either. */
static int64_t wait_ns(const struct pc_mon *m) {
        const int64_t at[] = {m->tail_deadline, m->held_deadline, m->cool_deadline, m->stall_deadline,
                              m->kill_deadline};
        int64_t first = 0;
        for (size_t i = 0; i < sizeof at / sizeof at[0]; i++)
                if (at[i] && (!first || at[i] * 1000000 < first))
                        first = at[i] * 1000000;
        for (int i = 0; i < 2; i++)
                if (m->in[i].due && !m->stalled && (!first || m->in[i].due < first))
                        first = m->in[i].due;
        if (!first)
                return -1;
        int64_t d = first - pc_now_ns();
        return d < 0 ? 0 : d;
}

/* A filter of system calls older than the finer one (5.11) makes naps longer, nothing else. */
static int wait_events(struct pc_mon *m, struct epoll_event *events, int64_t ns) {
        struct timespec ts = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
        long n = PC_SYS(epoll_pwait2, m->epoll, events, NEVENTS, ns < 0 ? NULL : &ts, NULL, (size_t) 0);
        if (n != -ENOSYS)
                return (int) n;
        int64_t ms = ns < 0 ? -1 : (ns + 999999) / 1000000;
        return epoll_wait(m->epoll, events, NEVENTS, ms > 3600000 ? 3600000 : (int) ms);
}

void pc_loop_run(struct pc_mon *m, bool (*done)(const struct pc_mon *m)) {
        struct epoll_event events[NEVENTS];
        reap(m); /* what ended while nobody looked */
        while (!done(m)) {
                int64_t wait = wait_ns(m);
                int n = wait_events(m, events, wait);
                for (int i = 0; i < n; i++)
                        dispatch(m, &events[i]);
                if (wait < 0 && !m->stalled)
                        continue;
                int64_t ns = pc_now_ns(), now = ns / 1000000;
                pc_stream_due(m, ns);
                pc_stream_tick(m, now);
                if (m->kill_deadline && now >= m->kill_deadline) {
                        m->kill_deadline = 0;
                        m->timed_out = true;
                }
        }
}
