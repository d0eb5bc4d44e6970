/* Control fifos: "1 H W" resizes, "2 0 0" reopens the log (ctl); "H W" resizes (winsz). */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

static int open_fifo(struct pc_mon *m, const char *name, struct pc_err *reterr) {
        char path[PATH_MAX];
        if (!pc_join(path, sizeof path, (const char *const[]){m->bundle, "/", name}, 3))
                return pc_fail(reterr, ENAMETOOLONG, "control fifo", m->bundle);
        if (mkfifo(path, 0660) < 0 && (errno != EEXIST || unlink(path) < 0 || mkfifo(path, 0660) < 0))
                return pc_fail_errno(reterr, "mkfifo", path);
        /* Open for both: the last writer's close is no end of file then. */
        int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
        return fd < 0 ? pc_fail_errno(reterr, "open control fifo", path) : fd;
}

int pc_control_open(struct pc_mon *m, struct pc_err *reterr) {
        int fd = open_fifo(m, "ctl", reterr);
        if (fd < 0)
                return fd;
        m->ctl = fd;
        fd = open_fifo(m, "winsz", reterr);
        if (fd < 0)
                return fd;
        m->winsz = fd;
        return pc_watch(m, m->ctl, EPOLLIN, EV_CTL, 0) < 0 ? pc_fail_errno(reterr, "epoll_ctl", NULL) : 0;
}

struct target {
        struct pc_mon *m;
        bool winsz;
};

static void on_line(void *user, const char *text, size_t n) {
        struct target *t = user;
        unsigned short rows = 0, cols = 0;
        switch (pc_control_parse(text, n, t->winsz, &rows, &cols)) {
        case PC_CONTROL_RESIZE: {
                struct winsize ws = {.ws_row = rows, .ws_col = cols};
                if (t->m->in[PC_STDOUT].tty && t->m->in[PC_STDOUT].fd >= 0) {
                        (void) ioctl(t->m->in[PC_STDOUT].fd, TIOCSWINSZ, &ws);
                } else if (!t->winsz && t->m->winsz >= 0) {
                        /* No terminal yet: leave it in the other fifo, which is read when there is one. */
                        char line[32];
                        size_t k = pc_decimal(line, rows);
                        line[k++] = ' ';
                        k += pc_decimal(line + k, cols);
                        line[k++] = '\n';
                        (void) !write(t->m->winsz, line, k);
                }
                break;
        }
        case PC_CONTROL_REOPEN:
                pc_stream_reopen(t->m);
                break;
        case PC_CONTROL_BAD:
                pc_say(t->m, PC_LEVEL_WARN, "Invalid control message ignored", NULL, 0);
                break;
        }
}

void pc_control_event(struct pc_mon *m, int which) {
        char buf[512];
        ssize_t n = read(which ? m->winsz : m->ctl, buf, sizeof buf);
        struct target t = {m, which != 0};
        if (n > 0)
                pc_control_feed(&m->control_line[which], buf, (size_t) n, on_line, &t);
}
