/* What the monitor tells its caller: lines on the sync pipe, exit files. */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/io.h"

void pc_report(struct pc_mon *m, int value, const char *message, size_t n) {
        if (m->sync_pipe < 0)
                return;
        const char *key = m->args->api_version ? "{\"data\": " : m->args->exec ? "{\"exit_code\": " : "{\"pid\": ";
        char line[64 + 6 * PC_TEXT];
        size_t at = strlen(key);
        memcpy(line, key, at);
        at += pc_decimal(line + at, value);
        if (n > 0) {
                memcpy(line + at, ", \"message\": \"", 14);
                at += 14;
                at += pc_json_escape(message, n < PC_TEXT ? n : PC_TEXT, line + at, sizeof line - at - 3);
                line[at++] = '"';
        }
        line[at++] = '}';
        line[at++] = '\n';
        int r = pc_write_all(m->sync_pipe, line, at);
        if (r < 0) { /* the caller is gone: nobody to tell, the container goes on */
                pc_say(m, r == -EPIPE ? PC_LEVEL_INFO : PC_LEVEL_WARN, "Cannot report on the sync pipe", NULL, r);
                pc_closep(&m->sync_pipe);
        }
}

int pc_write_atomic(const char *path, const char *text, size_t n, struct pc_err *reterr) {
        char tmp[PATH_MAX], pid[24];
        pid[pc_decimal(pid, getpid())] = '\0';
        if (!pc_join(tmp, sizeof tmp, (const char *const[]){path, ".", pid, ".tmp"}, 4))
                return pc_fail(reterr, ENAMETOOLONG, "write file", path);
        _cleanup_fd_ int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0)
                return pc_fail_errno(reterr, "create file", tmp);
        int r = pc_write_all(fd, text, n);
        if (r < 0)
                r = pc_fail(reterr, r, "write file", tmp);
        else if (rename(tmp, path) < 0)
                r = pc_fail_errno(reterr, "rename file", path);
        if (r < 0)
                (void) unlink(tmp);
        return r;
}

int pc_report_exit(struct pc_mon *m, int status, struct pc_err *reterr) {
        char text[24], path[PATH_MAX];
        size_t n = pc_decimal(text, status);
        int r = 0;
        if (m->args->persist_dir) {
                if (!pc_join(path, sizeof path, (const char *const[]){m->args->persist_dir, "/exit"}, 2))
                        r = pc_fail(reterr, ENAMETOOLONG, "write exit file", m->args->persist_dir);
                else
                        r = pc_write_atomic(path, text, n, reterr);
                if (r < 0)
                        pc_say_err(m, PC_LEVEL_ERROR, reterr);
        }
        /* The directory that the daemon watches comes last: whoever sees this file finds the other one. It is tried
         * even when the first failed, because it is what the exit is noticed by. */
        if (m->args->exit_dir) {
                int k;
                if (!pc_join(path, sizeof path, (const char *const[]){m->args->exit_dir, "/", m->args->cid}, 3))
                        k = pc_fail(reterr, ENAMETOOLONG, "write exit file", m->args->exit_dir);
                else
                        k = pc_write_atomic(path, text, n, reterr);
                if (k < 0)
                        pc_say_err(m, PC_LEVEL_ERROR, reterr);
                r = r < 0 ? r : k;
        }
        return r;
}
