#include "logmux/journal.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "common/fd.h"
#include "common/io.h"

#define BATCH 16
#define NIOV 5
#define SHORT_ID 12

struct pc_journal {
        int fd;
        int failing;
        bool hangs; /* did not read in time: until it does again nothing waits for it */
        bool no_partial_field;
        struct sockaddr_un addr;
        size_t mapped;
        size_t nfields;
        size_t npart[2];
        char part[2][PC_PIECE_MAX]; /* begun lines, touched only when there are any */
        char fields[];              /* what every entry carries, serialised */
};

struct batch {
        struct mmsghdr msg[BATCH];
        struct iovec iov[BATCH][NIOV];
        unsigned n;
};

/* Append KEY=value; a value with a newline goes in the binary form. out NULL: count only. */
static size_t field(char *out, const char *key, size_t nkey, const char *value, size_t n) {
        if (!memchr(value, '\n', n)) {
                if (out) {
                        memcpy(out, key, nkey);
                        out[nkey] = '=';
                        memcpy(out + nkey + 1, value, n);
                        out[nkey + 1 + n] = '\n';
                }
                return nkey + n + 2;
        }
        if (out) {
                memcpy(out, key, nkey);
                out[nkey] = '\n';
                for (int i = 0; i < 8; i++)
                        out[nkey + 1 + (size_t) i] = (char) ((uint64_t) n >> (8 * i));
                memcpy(out + nkey + 9, value, n);
                out[nkey + 9 + n] = '\n';
        }
        return nkey + n + 10;
}

static size_t serialise(const struct pc_journal_fields *f, char *out) {
        size_t at = 0;
#define FIELD(key, value, n) at += field(out ? out + at : NULL, key, strlen(key), value, n)
        const char *ident = f->tag ? f->tag : f->name;
        FIELD("CONTAINER_ID_FULL", f->id, strlen(f->id));
        FIELD("CONTAINER_ID", f->id, SHORT_ID);
        if (f->tag)
                FIELD("CONTAINER_TAG", f->tag, strlen(f->tag));
        if (f->name)
                FIELD("CONTAINER_NAME", f->name, strlen(f->name));
        FIELD("SYSLOG_IDENTIFIER", ident ? ident : f->id, ident ? strlen(ident) : SHORT_ID);
#undef FIELD
        for (int i = 0; i < f->nlabels; i++) {
                const char *eq = strchr(f->labels[i], '=');
                if (eq)
                        at += field(out ? out + at : NULL, f->labels[i], (size_t) (eq - f->labels[i]), eq + 1,
                                    strlen(eq + 1));
        }
        return at;
}

int pc_journal_open(const char *socket_path, const struct pc_journal_fields *fields, struct pc_journal **ret,
                    struct pc_err *reterr) {
        if (strlen(fields->id) <= SHORT_ID)
                return pc_fail(reterr, EINVAL, "container id for the journal", fields->id);
        if (strlen(socket_path) >= sizeof(((struct sockaddr_un *) NULL)->sun_path))
                return pc_fail(reterr, ENAMETOOLONG, "journal socket", socket_path);
        size_t nfields = serialise(fields, NULL), mapped = sizeof(struct pc_journal) + nfields;
        _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return pc_fail_errno(reterr, "socket", socket_path);
        /* A journal that hangs may delay the container by so much, once; after that it is tried without waiting. */
        struct timeval tv = {.tv_sec = 1};
        (void) setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
        struct pc_journal *j = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (j == MAP_FAILED)
                return pc_fail_errno(reterr, "mmap", NULL);
        j->fd = steal_fd(&fd);
        j->mapped = mapped;
        j->no_partial_field = fields->no_partial_field;
        j->addr.sun_family = AF_UNIX;
        memcpy(j->addr.sun_path, socket_path, strlen(socket_path) + 1);
        j->nfields = serialise(fields, j->fields);
        *ret = j;
        return 0;
}

void pc_journal_close(struct pc_journal *j) {
        if (!j)
                return;
        (void) close(j->fd);
        (void) munmap(j, j->mapped);
}

/* An entry larger than a datagram goes in a sealed memory file. */
static int send_large(struct pc_journal *j, const struct msghdr *m) {
        _cleanup_fd_ int fd = memfd_create("journal-entry", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return -errno;
        for (size_t i = 0; i < (size_t) m->msg_iovlen; i++) {
                int r = pc_write_all(fd, m->msg_iov[i].iov_base, m->msg_iov[i].iov_len);
                if (r < 0)
                        return r;
        }
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
                return -errno;
        union {
                char buf[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } u = {.buf = {0}};
        struct msghdr x = {.msg_name = m->msg_name,
                           .msg_namelen = m->msg_namelen,
                           .msg_control = u.buf,
                           .msg_controllen = sizeof u.buf};
        struct cmsghdr *c = CMSG_FIRSTHDR(&x);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
        return sendmsg(j->fd, &x, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Returns 0 or -errno of the last entry that was lost. */
static int send_batch(struct pc_journal *j, struct batch *b) {
        int lost = 0;
        unsigned at = 0;
        while (at < b->n) {
                int r = sendmmsg(j->fd, b->msg + at, b->n - at, MSG_NOSIGNAL | (j->hangs ? MSG_DONTWAIT : 0));
                if (r > 0) {
                        j->hangs = false;
                        at += (unsigned) r;
                        continue;
                }
                int code = r < 0 ? errno : EIO;
                if (code == EINTR)
                        continue;
                if (code == EMSGSIZE || code == ENOBUFS)
                        code = -send_large(j, &b->msg[at].msg_hdr);
                if (code)
                        lost = -code;
                j->hangs = code == EAGAIN;
                if (code == EAGAIN || code == ENOENT || code == ECONNREFUSED)
                        at = b->n; /* hangs or is not there: do not try each line */
                else
                        at++;
        }
        b->n = 0;
        return lost;
}

static void add(struct pc_journal *j, struct batch *b, enum pc_stream stream, const char *data, size_t n, bool fresh,
                bool partial) {
        static const char priorities[8][13] = {"\nPRIORITY=0\n", "\nPRIORITY=1\n", "\nPRIORITY=2\n", "\nPRIORITY=3\n",
                                               "\nPRIORITY=4\n", "\nPRIORITY=5\n", "\nPRIORITY=6\n", "\nPRIORITY=7\n"};
        unsigned priority = stream == PC_STDERR ? 3 : 6;
        if (fresh && n >= 3 && data[0] == '<' && data[1] >= '0' && data[1] <= '7' && data[2] == '>') {
                priority = (unsigned) (data[1] - '0');
                data += 3;
                n -= 3;
        }
        struct iovec *v = b->iov[b->n];
        size_t k = 0;
        v[k++] = (struct iovec){(char *) "MESSAGE=", 8};
        v[k++] = (struct iovec){(char *) data, n};
        v[k++] = (struct iovec){(char *) priorities[priority], 12};
        v[k++] = (struct iovec){j->fields, j->nfields};
        if (partial && !j->no_partial_field)
                v[k++] = (struct iovec){(char *) "CONTAINER_PARTIAL_MESSAGE=true\n", 31};
        b->msg[b->n++] = (struct mmsghdr){
            .msg_hdr = {.msg_name = &j->addr, .msg_namelen = sizeof j->addr, .msg_iov = v, .msg_iovlen = k}};
}

static int report(struct pc_journal *j, int lost, struct pc_err *reterr) {
        int before = j->failing;
        j->failing = lost;
        if (lost == -ENOENT || lost == -ECONNREFUSED) /* no journal on this host: as sd_journal_send, silent */
                return 0;
        return lost < 0 && lost != before ? pc_fail(reterr, lost, "send to journal", j->addr.sun_path) : 0;
}

int pc_journal_put(struct pc_journal *j, enum pc_stream stream, const char *in, size_t n, struct pc_err *reterr) {
        struct batch b = {.n = 0};
        int lost = 0, r;
        size_t *npart = &j->npart[stream];
        char *part = j->part[stream];
        bool fresh = true; /* at the start of a line */

        while (n > 0) {
                size_t reach = PC_PIECE_MAX - *npart, len = n < reach ? n : reach;
                const char *nl = memchr(in, '\n', n < reach + 1 ? n : reach + 1);
                if (nl)
                        len = (size_t) (nl - in);
                bool whole = nl || len == reach;
                if (*npart > 0 || !whole) { /* join with what was begun */
                        memcpy(part + *npart, in, len);
                        *npart += len;
                }
                if (whole) {
                        bool joined = *npart > 0;
                        add(j, &b, stream, joined ? part : in, joined ? *npart : len, fresh, !nl);
                        fresh = nl != NULL;
                        if (joined || b.n == BATCH) {
                                r = send_batch(j, &b);
                                lost = r ? r : lost;
                        }
                        *npart = 0;
                }
                len += nl != NULL;
                in += len;
                n -= len;
        }
        if (b.n > 0) {
                r = send_batch(j, &b);
                lost = r ? r : lost;
        }
        return report(j, lost, reterr);
}

int pc_journal_flush(struct pc_journal *j, enum pc_stream stream, struct pc_err *reterr) {
        if (j->npart[stream] == 0)
                return 0;
        struct batch b = {.n = 0};
        add(j, &b, stream, j->part[stream], j->npart[stream], true, true);
        int lost = send_batch(j, &b);
        j->npart[stream] = 0;
        return report(j, lost, reterr);
}
