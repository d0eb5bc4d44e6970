// SRC: csrc/logmux/journal.c
/* Any output in pieces of any size to the journal, which now and then takes only some of the datagrams, or none, or
 * finds one too long. What it got is read as systemd's protocol says: whole entries with the fields that belong to
 * them; when nothing was lost their messages are the output, in order.
 *
 * Head: a byte of switches (1 no partial field, 2 refuse now and then, 4 long ones by descriptor), one for the pieces.
 */
#include "common/fd.h"
#include "logmux/journal.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
        uint8_t switches;
        unsigned calls;
        char *text; /* the messages, a newline after each that is whole */
        size_t n, room;
        bool lost;
} got;

static void check(bool good) {
        if (!good)
                abort();
}

static bool is(const char *line, size_t n, const char *what) {
        return n == strlen(what) && memcmp(line, what, n) == 0;
}

static void entry(const char *p, size_t n) {
        const char *message = NULL, *end = p + n;
        size_t length = 0;
        bool partial = false;
        unsigned fields = 0, priority = 0;
        while (p < end) {
                const char *nl = memchr(p, '\n', (size_t) (end - p));
                check(nl != NULL);
                size_t k = (size_t) (nl - p);
                if (k > 8 && memcmp(p, "MESSAGE=", 8) == 0 && !message) {
                        message = p + 8;
                        length = k - 8;
                } else if (is(p, k, "MESSAGE=") && !message) {
                        message = p + 8;
                } else if (is(p, k, "CONTAINER_PARTIAL_MESSAGE=true")) {
                        partial = true;
                } else if (k == 10 && memcmp(p, "PRIORITY=", 9) == 0 && p[9] >= '0' && p[9] <= '7') {
                        priority++;
                } else if (is(p, k, "LABEL")) { /* binary: its value has a newline */
                        check(end - nl > 9 && nl[1] == 3 && memcmp(nl + 9, "a\nb\n", 4) == 0);
                        nl += 12;
                        fields++;
                } else {
                        check(is(p, k, "CONTAINER_ID_FULL=0123456789abcdef") || is(p, k, "CONTAINER_ID=0123456789ab") ||
                              is(p, k, "CONTAINER_NAME=name") || is(p, k, "SYSLOG_IDENTIFIER=name"));
                        fields++;
                }
                p = nl + 1;
        }
        check(message && length <= PC_PIECE_MAX && fields == 5 && priority == 1);
        check(!partial || !(got.switches & 1));
        check(got.n + length + 1 <= got.room);
        memcpy(got.text + got.n, message, length);
        got.n += length;
        if (!partial)
                got.text[got.n++] = '\n';
}

/* libc's, replaced: the unit's only ways out. */
int sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags) {
        (void) fd;
        (void) flags;
        unsigned take = n;
        if (got.switches & 2)
                switch (++got.calls % 7) {
                case 2:
                        errno = EINTR;
                        return -1;
                case 3:
                        take = 1;
                        break;
                case 5:
                        errno = got.calls % 2 ? EAGAIN : ECONNREFUSED;
                        got.lost = true;
                        return -1;
                default:
                        break;
                }
        for (unsigned i = 0; i < take; i++) {
                char whole[PC_PIECE_MAX + 1024];
                size_t at = 0;
                for (size_t k = 0; k < v[i].msg_hdr.msg_iovlen; k++) {
                        const struct iovec *io = &v[i].msg_hdr.msg_iov[k];
                        check(at + io->iov_len <= sizeof whole);
                        if (io->iov_len > 0)
                                memcpy(whole + at, io->iov_base, io->iov_len);
                        at += io->iov_len;
                }
                if ((got.switches & 4) && at > 300) {
                        if (i > 0)
                                return (int) i;
                        errno = EMSGSIZE;
                        return -1;
                }
                entry(whole, at);
        }
        return (int) take;
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
        (void) fd;
        (void) flags;
        int file;
        struct cmsghdr *c = CMSG_FIRSTHDR(m);
        check(c && c->cmsg_type == SCM_RIGHTS);
        memcpy(&file, CMSG_DATA(c), sizeof file);
        struct stat st;
        check(fstat(file, &st) == 0 && st.st_size > 300);
        void *p = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_SHARED, file, 0);
        check(p != MAP_FAILED);
        entry(p, (size_t) st.st_size);
        check(munmap(p, (size_t) st.st_size) == 0);
        return 0;
}

/* What the messages should be: a line that begins with "<N>" loses that much. Pieces of one line are joined by the
 * partial mark; without it each piece counts as a line. */
static bool same_text(const char *in, size_t n) {
        size_t at = 0, i = 0;
        bool fresh = true;
        while (i < n) {
                if (fresh && n - i >= 3 && in[i] == '<' && in[i + 1] >= '0' && in[i + 1] <= '7' && in[i + 2] == '>')
                        i += 3;
                for (fresh = false; i < n && !fresh; i++) {
                        if (at >= got.n || got.text[at++] != in[i])
                                return false;
                        fresh = in[i] == '\n';
                }
        }
        return at == got.n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char *const labels[] = {"LABEL=a\nb"};
        struct pc_journal_fields f = {.id = "0123456789abcdef", .name = "name", .labels = labels, .nlabels = 1};
        struct pc_journal *j;
        struct pc_err err;
        if (size < 3)
                return 0;
        got.switches = data[0];
        got.calls = got.n = 0;
        got.lost = false;
        f.no_partial_field = data[0] & 1;
        size_t step = data[1] < 128 ? data[1] + 1u : data[1] * 64u, n = size - 2;
        got.room = 3 * n + 16;
        got.text = malloc(got.room);
        check(got.text && pc_journal_open("/none", &f, &j, &err) == 0);
        for (size_t at = 0; at < n; at += step) {
                size_t k = n - at < step ? n - at : step;
                char *exact = malloc(k);
                check(exact != NULL);
                memcpy(exact, data + 2 + at, k);
                (void) pc_journal_put(j, PC_STDOUT, exact, k, &err);
                free(exact);
        }
        (void) pc_journal_flush(j, PC_STDOUT, &err);
        pc_journal_close(j);
        /* Where each line comes whole in one piece the order of everything is checked as well. */
        if (!got.lost && !f.no_partial_field && step >= n)
                check(same_text((const char *) data + 2, n));
        free(got.text);
        return 0;
}
