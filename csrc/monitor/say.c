/* The monitor's own messages. No stdio: a line is put together on the stack and written once. */
#include "monitor/monitor.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fd.h"

void pc_say_init(struct pc_mon *m) {
        m->level = PC_LEVEL_WARN;
        if (m->args->log_level)
                (void) pc_args_level(m->args->log_level, &m->level);
}

static void to_syslog(enum pc_level level, const char *line, size_t n) {
        static const char priority[][6] = {"<27>", "<28>", "<30>", "<31>", "<31>"}; /* daemon.err … daemon.debug */
        struct sockaddr_un to = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
        _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return;
        struct iovec iov[2] = {{(char *) priority[level], 4}, {(char *) line, n}};
        struct msghdr msg = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = iov, .msg_iovlen = 2};
        /* A host without syslog, or a full one, must not hold the monitor up: such a message is lost. */
        (void) !sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void pc_say(struct pc_mon *m, enum pc_level level, const char *what, const char *about, int code) {
        static const char tag[][12] = {"[conmon:e]: ", "[conmon:w]: ", "[conmon:i]: ", "[conmon:d]: ", "[conmon:d]: "};
        if (level > m->level)
                return;
        char text[1024];
        size_t at = 0;
        const char *reason = code ? strerror(code < 0 ? -code : code) : NULL;
        const char *part[] = {what, about && *about ? " " : "", about ? about : "", reason ? ": " : "",
                              reason ? reason : ""};
        for (int i = 0; i < 5; i++)
                for (const char *p = part[i]; *p && at < sizeof text - 1; p++)
                        text[at++] = *p;
        text[at++] = '\n';
        struct iovec iov[2] = {{(char *) tag[level], sizeof tag[0]}, {text, at}};
        (void) !writev(STDERR_FILENO, iov, 2);
        if (m->args->syslog) {
                char line[1100] = "conmon ";
                size_t n = 7, k = strnlen(m->args->cid, 20);
                memcpy(line + n, m->args->cid, k);
                n += k;
                line[n++] = ' ';
                memcpy(line + n, text, at - 1);
                to_syslog(level, line, n + at - 1);
        }
}

void pc_say_err(struct pc_mon *m, enum pc_level level, const struct pc_err *e) {
        pc_say(m, level, e->step ? e->step : "unknown step", e->path, e->code);
}
