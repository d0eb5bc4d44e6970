// SRC: csrc/logmux/journal.c
/* The journal's native protocol against a socket of our own: fields, partial lines, priorities, large entries. */
#include "common/fd.h"
#include "logmux/journal.h"
#include "tap.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

static int sock = -1;
static char dir[] = "/tmp/test_journal.XXXXXX";
static char path[64], entry[1 << 20];

static void listen_here(void) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
        sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (bind(sock, (struct sockaddr *) &to, sizeof to) < 0)
                exit(1);
}

/* The next entry, from a datagram or from the memory file it carries; -1 when there is none. */
static ssize_t next(bool *from_file) {
        union {
                char buf[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } u;
        struct iovec iov = {entry, sizeof entry - 1};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof u.buf};
        ssize_t n = recvmsg(sock, &m, 0);
        struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&m) : NULL;
        *from_file = false;
        if (c && c->cmsg_type == SCM_RIGHTS) {
                int fd;
                memcpy(&fd, CMSG_DATA(c), sizeof fd);
                n = pread(fd, entry, sizeof entry - 1, 0);
                close(fd);
                *from_file = true;
        }
        entry[n > 0 ? n : 0] = '\0';
        return n;
}

static bool is(const char *message, const char *priority, bool partial) {
        static const char field[] = "\nCONTAINER_PARTIAL_MESSAGE=true\n";
        bool file;
        char head[256];
        ssize_t n = next(&file);
        if (n < 0)
                return false;
        snprintf(head, sizeof head, "MESSAGE=%s\nPRIORITY=%s\n", message, priority);
        bool good = strncmp(entry, head, strlen(head)) == 0 &&
                    (memmem(entry, (size_t) n, field, sizeof field - 1) != NULL) == partial;
        if (!good)
                printf("# %s\n", entry);
        return good;
}

#define ID "0123456789abcdef0123"

static void entries(void) {
        struct pc_journal *j;
        struct pc_err err;
        const char *labels[] = {"LABEL_1=one", "LABEL_2=t\nwo"};
        struct pc_journal_fields f = {.id = ID, .name = "web", .labels = labels, .nlabels = 2};
        ok(pc_journal_open(path, &f, &j, &err) == 0, "opened");
        ok(pc_journal_put(j, PC_STDOUT, "a\nb\n", 4, &err) == 0, "two lines");
        ok(is("a", "6", false), "the first with priority 6");
        static const char fields[] = "CONTAINER_ID_FULL=" ID "\nCONTAINER_ID=0123456789ab\nCONTAINER_NAME=web\n"
                                     "SYSLOG_IDENTIFIER=web\nLABEL_1=one\nLABEL_2\n\4\0\0\0\0\0\0\0t\nwo\n";
        size_t n = sizeof fields - 1;
        ok(memcmp(entry + strlen("MESSAGE=a\nPRIORITY=6\n"), fields, n) == 0,
           "all fields, a newline in the binary form");
        ok(is("b", "6", false), "the second line");
        ok(pc_journal_put(j, PC_STDERR, "<4>warn\n<9>no\n<2\n", 17, &err) == 0 && is("warn", "4", false) &&
               is("<9>no", "3", false) && is("<2", "3", false),
           "stderr is priority 3 unless the line says otherwise");
        ok(pc_journal_put(j, PC_STDOUT, "be", 2, &err) == 0 && pc_journal_put(j, PC_STDERR, "x\n", 2, &err) == 0 &&
               pc_journal_put(j, PC_STDOUT, "gun\nnext\n", 9, &err) == 0,
           "a line in two parts, stderr between");
        ok(is("x", "3", false) && is("begun", "6", false) && is("next", "6", false), "is joined");
        ok(pc_journal_put(j, PC_STDOUT, "tail", 4, &err) == 0 && pc_journal_flush(j, PC_STDOUT, &err) == 0 &&
               is("tail", "6", true),
           "a flushed tail is partial");
        bool file;
        ok(pc_journal_flush(j, PC_STDOUT, &err) == 0 && next(&file) < 0, "nothing is flushed twice");
        pc_journal_close(j);
}

static void long_lines(void) {
        struct pc_journal *j;
        struct pc_err err;
        static char in[3 * PC_PIECE_MAX];
        bool file;
        struct pc_journal_fields f = {.id = ID, .tag = "tag", .name = "web"};
        memset(in, 'x', sizeof in);
        in[2 * PC_PIECE_MAX + 4] = '\n';
        ok(pc_journal_open(path, &f, &j, &err) == 0 && pc_journal_put(j, PC_STDOUT, in, 100, &err) == 0 &&
               pc_journal_put(j, PC_STDOUT, in + 100, 2 * PC_PIECE_MAX - 95, &err) == 0,
           "a line of two pieces and 4 bytes");
        size_t whole = PC_PIECE_MAX + 8;
        ok(next(&file) > 0 && entry[whole] == '\n' && strstr(entry, "PARTIAL") &&
               strstr(entry, "SYSLOG_IDENTIFIER=tag\n") && strstr(entry, "CONTAINER_TAG=tag\n"),
           "piece one is partial, the tag is the identifier");
        ok(next(&file) > 0 && entry[whole] == '\n' && strstr(entry, "PARTIAL"), "piece two");
        ok(is("xxxx", "6", false) && next(&file) < 0, "the rest");
        pc_journal_close(j);

        f.no_partial_field = true;
        ok(pc_journal_open(path, &f, &j, &err) == 0 && pc_journal_put(j, PC_STDOUT, in, 3, &err) == 0 &&
               pc_journal_flush(j, PC_STDOUT, &err) == 0 && is("xxx", "6", false),
           "without the field when so asked");
        pc_journal_close(j);

        /* An entry above the socket buffer's size goes by memory file. */
        static char label[600 << 10];
        memset(label, 'L', sizeof label - 1);
        label[3] = '=';
        const char *labels[] = {label};
        f.labels = labels;
        f.nlabels = 1;
        ok(pc_journal_open(path, &f, &j, &err) == 0 && pc_journal_put(j, PC_STDOUT, "big\n", 4, &err) == 0,
           "a huge entry");
        ok(next(&file) > (ssize_t) sizeof label && file && strncmp(entry, "MESSAGE=big\n", 12) == 0,
           "comes in a memory file");
        pc_journal_close(j);
}

static void failures(void) {
        struct pc_journal *j;
        struct pc_err err;
        struct pc_journal_fields f = {.id = "short"};
        ok(pc_journal_open(path, &f, &j, &err) == -EINVAL, "a short id is refused");
        f.id = ID;
        ok(pc_journal_open("/nonexistent/socket", &f, &j, &err) == 0 &&
               pc_journal_put(j, PC_STDOUT, "a\n", 2, &err) == 0,
           "a host without journal loses lines in silence");
        pc_journal_close(j);
        pc_journal_close(NULL);
        /* Nobody reads: the socket fills up, and the sender gives up after its second. */
        ok(pc_journal_open(path, &f, &j, &err) == 0, "a journal that hangs");
        static char in[8000];
        for (size_t i = 0; i < sizeof in; i++)
                in[i] = i % 2 ? '\n' : 'h';
        ok(pc_journal_put(j, PC_STDOUT, in, sizeof in, &err) == -EAGAIN && err.code == EAGAIN, "is told");
        ok(pc_journal_put(j, PC_STDOUT, in, 2, &err) == 0, "once");
        pc_journal_close(j);
}

int main(void) {
        if (!mkdtemp(dir))
                return 1;
        snprintf(path, sizeof path, "%s/socket", dir);
        listen_here();
        entries();
        long_lines();
        failures();
        unlink(path);
        rmdir(dir);
        close(sock);
        return done_testing();
}
