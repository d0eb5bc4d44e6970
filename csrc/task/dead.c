/* A shim that is gone has left its container behind: the command that it gave for that ends it ("<shim> … delete"). */
#include "task/task.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/io.h"

#define WORDS_MAX 64
#define TEXT_MAX 16384
#define PATIENCE_MS 60000 /* a shim that cannot end its container in a minute will not */
#define UNKNOWN 255
enum { DELETED_EXIT_STATUS = 2 };

/* The words of the file "delete", each ended by NUL. */
static int read_words(char text[TEXT_MAX], char *words[WORDS_MAX + 1]) {
        _cleanup_fd_ int fd = open("delete", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : pc_read_all(fd, text, TEXT_MAX);
        int count = 0;
        if (n <= 0 || n == TEXT_MAX || text[n - 1] != '\0')
                return 0;
        for (char *p = text; p < text + n && count < WORDS_MAX; p += strlen(p) + 1)
                words[count++] = p;
        words[count] = NULL;
        return count;
}

static int64_t now_ms(void) {
        struct timespec t;
        (void) clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* What the command answers on its standard output; its length, or -1 when time is up first. */
static ssize_t listen_to(int fd, char *out, size_t cap) {
        size_t got = 0;
        for (int64_t end = now_ms() + PATIENCE_MS, left; (left = end - now_ms()) > 0;) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                int r = poll(&p, 1, (int) left);
                if (r < 0 && errno != EINTR)
                        return -1;
                if (r <= 0)
                        continue;
                ssize_t n = read(fd, out + got, cap - got);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0 || (size_t) n == cap - got)
                        return n < 0 ? -1 : (ssize_t) (got + (size_t) n);
                got += (size_t) n;
        }
        return -1;
}

int pc_dead_shim(void) {
        char text[TEXT_MAX], answer[4096], *words[WORDS_MAX + 1];
        int ends[2], status;
        uint64_t code;
        if (read_words(text, words) == 0 || pipe2(ends, O_CLOEXEC) < 0)
                return UNKNOWN;
        pid_t child = fork();
        if (child == 0) {
                int null = open("/dev/null", O_RDWR | O_CLOEXEC);
                (void) dup2(null, STDIN_FILENO);
                (void) dup2(ends[1], STDOUT_FILENO);
                (void) dup2(null, STDERR_FILENO);
                (void) signal(SIGPIPE, SIG_DFL);
                (void) signal(SIGHUP, SIG_DFL);
                (void) execve(words[0], words, environ);
                _exit(127);
        }
        (void) close(ends[1]);
        _cleanup_fd_ int from = ends[0];
        if (child < 0)
                return UNKNOWN;
        ssize_t n = listen_to(from, answer, sizeof answer);
        if (n < 0)
                (void) kill(child, SIGKILL);
        pid_t gone;
        do
                gone = waitpid(child, &status, 0);
        while (gone < 0 && errno == EINTR);
        if (n < 0 || gone != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
                return UNKNOWN;
        int mark = open("deleted", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        pc_closep(&mark);
        return pc_rpc_number((struct pc_bytes){answer, (size_t) n}, DELETED_EXIT_STATUS, &code) ? (int) (code & 0xff)
                                                                                                : UNKNOWN;
}
