/* The monitor's state and the parts that act on it. One process, one struct, owned by main(); every part gets it as
 * its first argument. Order of events: main.c. */
#pragma once
#include <signal.h>
#include <sys/types.h>

#include "common/err.h"
#include "logmux/logmux.h"
#include "monitor/args.h"
#include "monitor/parse.h"

#define PC_STREAM_CAP (96u << 10) /* bytes read at once from one stream: still in the cache when they are framed */
#define PC_WORK_CAP PC_SINK_ROOM  /* framed bytes on their way into the log */
#define PC_STDIN_CAP (32u << 10)  /* bytes taken at once from a client */
#define PC_TEXT 8192              /* the most of a runtime's error text that is passed on */

struct pc_stream_in {
        int fd;
        char *buf;      /* PC_STREAM_CAP */
        size_t len;     /* bytes held in buf */
        size_t fed;     /* of these, already given to the journal */
        size_t unshown; /* the last of these, not yet given to attached clients */
        bool tty, watched;
        bool grown;        /* the pipe was made larger for a flood of output */
        int64_t last, nap; /* monotonic ns of the last read; ns to wait after one */
        int64_t due;       /* monotonic ns of the next read; 0: when epoll tells */
        uint64_t flood;    /* bytes since the last quiet time */
};

struct pc_mon {
        const struct pc_args *args;
        struct pc_log_choice log;
        enum pc_level level;
        const char *bundle, *pidfile;
        int argc;

        int epoll, signals, start_pipe, sync_pipe, attach_pipe, null;
        int worker[3]; /* the runtime's ends of the pipes, -1: /dev/null */

        pid_t runtime, container;
        int runtime_status, container_status;
        bool runtime_started, runtime_done, container_done, timed_out, hold;
        int container_pidfd; /* only when the container is not our child */
        char old_oom_adj[16];
        sigset_t old_mask;

        struct pc_stream_in in[2];
        struct pc_clock clock;
        struct pc_sink sink;
        struct pc_journal *journal;
        char *work;
        bool warm; /* buffers hold pages that an idle monitor gives back */
        int64_t tail_deadline, held_deadline, cool_deadline, stall_deadline, kill_deadline; /* monotonic ms, 0: none */
        bool stalled;
        int relay[2];   /* a pipe of our own while output floods, see take() */
        size_t relayed; /* bytes in it */

        struct pc_fan fan;
        struct pc_client *clients;
        uint32_t client_events[PC_CLIENTS_MAX];
        int attach_listen;
        char *attach_path, *attach_link; /* removed at the end */

        int stdin_fd;
        char *stdin_buf;
        size_t stdin_len, stdin_off;
        bool stdin_wait, stdin_closing; /* waiting for room; close once written */

        int ctl, winsz, console;
        char *console_dir;
        struct pc_control_line control_line[2];

        int oom, oom_control; /* inotify or eventfd; v1: memory.oom_control */
        char *oom_dir;        /* cgroup directory of the container */
        bool oom_v2, oom_seen;
        long oom_count[2];

        int notify, notify_host;
        const char *notify_path;
};

enum pc_event {
        EV_SIGNAL = 1,
        EV_STDOUT,
        EV_STDERR,
        EV_ATTACH,
        EV_CLIENT,
        EV_STDIN,
        EV_CTL,
        EV_WINSZ,
        EV_CONSOLE,
        EV_OOM,
        EV_NOTIFY,
        EV_PIDFD
};

/* say.c: the monitor's own messages, to stderr while there is one and to syslog with --syslog. */
void pc_say_init(struct pc_mon *m);
void pc_say(struct pc_mon *m, enum pc_level level, const char *what, const char *about, int code);
void pc_say_err(struct pc_mon *m, enum pc_level level, const struct pc_err *e);

/* setup.c */
int pc_setup_env(struct pc_mon *m, struct pc_err *reterr);
int pc_setup_start_wait(struct pc_mon *m, struct pc_err *reterr);
int pc_setup_daemon(struct pc_mon *m, struct pc_err *reterr); /* 1 in the process that must exit */
int pc_setup_stdio(struct pc_mon *m, struct pc_err *reterr);
int pc_setup_log(struct pc_mon *m, struct pc_err *reterr);
void pc_oom_adjust(struct pc_mon *m);
void pc_disconnect_stdio(struct pc_mon *m);

/* runtime.c */
int pc_runtime_start(struct pc_mon *m, struct pc_err *reterr);
size_t pc_runtime_text(struct pc_mon *m, char out[PC_TEXT]); /* what it said on stderr */

/* console.c, attach.c, control.c, notify.c, oom.c: opened by main, served by the loop */
int pc_console_open(struct pc_mon *m, struct pc_err *reterr);
void pc_console_event(struct pc_mon *m);
void pc_console_close(struct pc_mon *m);
int pc_attach_open(struct pc_mon *m, struct pc_err *reterr);
void pc_attach_event(struct pc_mon *m);
void pc_attach_client(struct pc_mon *m, int slot, uint32_t events);
void pc_attach_stdin(struct pc_mon *m, uint32_t events);
void pc_attach_watch(struct pc_mon *m);
void pc_attach_finish(struct pc_mon *m); /* last packets out, within a bound, then close */
void pc_attach_remove(struct pc_mon *m);
int pc_control_open(struct pc_mon *m, struct pc_err *reterr);
void pc_control_event(struct pc_mon *m, int which);
int pc_notify_open(struct pc_mon *m, struct pc_err *reterr);
void pc_notify_event(struct pc_mon *m);
void pc_oom_open(struct pc_mon *m);
void pc_oom_event(struct pc_mon *m);
void pc_oom_final(struct pc_mon *m);

/* stream.c: container output to logs and clients */
void pc_stream_event(struct pc_mon *m, int which);
void pc_stream_due(struct pc_mon *m, int64_t now_ns); /* streams that are let fill up and whose time has come */
void pc_stream_cool_later(struct pc_mon *m);          /* something was done: memory goes back after a quiet time */
void pc_stream_show(struct pc_mon *m, int which);     /* what was kept from attached clients; before it is emitted */
void pc_stream_emit(struct pc_mon *m, int which, enum pc_put how);
void pc_stream_watch(struct pc_mon *m, bool on);
void pc_stream_drain(struct pc_mon *m);
void pc_stream_tick(struct pc_mon *m, int64_t now);
void pc_stream_reopen(struct pc_mon *m);

/* loop.c */
int pc_loop_open(struct pc_mon *m, struct pc_err *reterr);
int pc_watch(struct pc_mon *m, int fd, uint32_t events, enum pc_event kind, int slot);
void pc_rewatch(struct pc_mon *m, int fd, uint32_t events, enum pc_event kind, int slot);
void pc_unwatch(struct pc_mon *m, int fd);
void pc_loop_run(struct pc_mon *m, bool (*done)(const struct pc_mon *m));
int64_t pc_now_ns(void);
int64_t pc_now_ms(void);
void pc_trim_stack(void); /* give back what deeper calls left below the caller's frame */

/* report.c */
void pc_report(struct pc_mon *m, int value, const char *message, size_t n);
int pc_write_atomic(const char *path, const char *text, size_t n, struct pc_err *reterr);
int pc_report_exit(struct pc_mon *m, int status, struct pc_err *reterr);

/* finish.c */
void pc_close_foreign(struct pc_mon *m);
_Noreturn void pc_finish(struct pc_mon *m, int code);
