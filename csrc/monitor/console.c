/* The terminal: the runtime sends the pty's master over a socket. */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/io.h"

static int listen_at(struct pc_mon *m, const char *dir, struct pc_err *reterr) {
        char path[PATH_MAX];
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        if (!pc_join(path, sizeof path, (const char *const[]){dir, "/conmon-term.XXXXXX"}, 2) ||
            strlen(path) + 3 > sizeof to.sun_path)
                return pc_fail(reterr, ENAMETOOLONG, "console socket", dir);
        /* A directory of our own, mode 0700: nobody else can take the socket's place. */
        if (!mkdtemp(path))
                return pc_fail_errno(reterr, "create console directory", path);
        m->console_dir = strdup(path);
        if (!m->console_dir)
                return pc_fail(reterr, ENOMEM, "console socket", path);
        (void) pc_join(to.sun_path, sizeof to.sun_path, (const char *const[]){path, "/s"}, 2);
        m->console = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (m->console < 0 || bind(m->console, (struct sockaddr *) &to, sizeof to) < 0 || listen(m->console, 8) < 0)
                return pc_fail_errno(reterr, "listen on console socket", to.sun_path);
        return 0;
}

int pc_console_open(struct pc_mon *m, struct pc_err *reterr) {
        const char *tmp = getenv("TMPDIR");
        int r = listen_at(m, tmp && *tmp ? tmp : "/tmp", reterr);
        if (r < 0 && reterr->code == ENAMETOOLONG)
                r = listen_at(m, "/tmp", reterr);
        if (r < 0)
                return r;
        return pc_watch(m, m->console, EPOLLIN, EV_CONSOLE, 0) < 0 ? pc_fail_errno(reterr, "epoll_ctl", NULL) : 0;
}

void pc_console_close(struct pc_mon *m) {
        pc_closep(&m->console);
        if (!m->console_dir)
                return;
        char path[PATH_MAX];
        if (pc_join(path, sizeof path, (const char *const[]){m->console_dir, "/s"}, 2))
                (void) unlink(path);
        (void) rmdir(m->console_dir);
        free(m->console_dir);
        m->console_dir = NULL;
}

void pc_console_event(struct pc_mon *m) {
        _cleanup_fd_ int peer = accept4(m->console, NULL, NULL, SOCK_CLOEXEC);
        if (peer < 0)
                return;
        /* The runtime sends at once; whoever connects and stays silent must not hold us. */
        struct timeval tv = {.tv_sec = 5};
        (void) setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
        _cleanup_fd_ int master = pc_recv_fd(peer);
        if (master < 0 || !isatty(master)) {
                pc_say(m, PC_LEVEL_WARN, "No terminal came over the console socket", NULL,
                       master < 0 ? master : ENOTTY);
                return;
        }
        struct termios t;
        if (tcgetattr(master, &t) == 0) {
                t.c_oflag |= ONLCR;
                (void) tcsetattr(master, TCSANOW, &t);
        }
        (void) fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
        m->stdin_fd = fcntl(master, F_DUPFD_CLOEXEC, 3);
        m->in[PC_STDOUT].fd = steal_fd(&master);
        m->in[PC_STDOUT].tty = true;
        pc_console_close(m);
        pc_stream_watch(m, true);
        if (m->winsz >= 0) /* sizes sent before there was a terminal wait in the fifo */
                (void) pc_watch(m, m->winsz, EPOLLIN, EV_WINSZ, 0);
        pc_attach_watch(m);
}
