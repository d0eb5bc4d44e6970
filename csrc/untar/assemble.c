/* tar-split metadata plus the directory -> the tar as it was, bit for bit. */
#include "common/fd.h"
#include "common/io.h"
#include "common/path.h"
#include "untar/codec.h"
#include "untar/names.h"
#include "untar/split.h"
#include "untar/splitline.h"
#include "untar/untar.h"
#include <openssl/evp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The longest line taken: other writers put a whole run of headers on one. */
enum { LINE_MAX_BYTES = 64 << 20, CHUNK = 256 << 10 };

struct assembly {
        const int *fds;
        EVP_MD_CTX *hash;
        uint64_t size;
        char *line;
        size_t n_line, room;
        uint8_t in[64 << 10], out[CHUNK];
};

static int cancelled(const struct assembly *a, struct pc_err *reterr) {
        struct pollfd p = {.fd = a->fds[PC_ASM_CANCEL], .events = POLLIN};
        if (p.fd >= 0 && poll(&p, 1, 0) > 0)
                return pc_fail(reterr, ECANCELED, "rebuild tar", NULL);
        return 0;
}

static int emit(struct assembly *a, const void *p, size_t n, struct pc_err *reterr) {
        if (!EVP_DigestUpdate(a->hash, p, n))
                return pc_fail(reterr, EIO, "sha256", NULL);
        int r = pc_write_all(a->fds[PC_ASM_OUT], p, n);
        if (r < 0)
                return pc_fail(reterr, r, "write tar", NULL);
        a->size += n;
        return 0;
}

static int content(struct assembly *a, const struct pc_split_line *l, struct pc_err *reterr) {
        char clean[PC_PATH_ROOM];
        struct stat st;
        uint64_t crc = 0, want = 0;
        int64_t left = l->size;
        int r = pc_name_clean(l->name, true, PC_PATH_ROOM - 1, UINT64_MAX, clean, reterr);
        if (r < 0)
                return r;
        if (l->n_payload != 8)
                return pc_fail(reterr, EBADMSG, "checksum in tar-split", l->name);
        for (int i = 0; i < 8; i++)
                want = want << 8 | l->payload[i];
        /* The last component is never a link to follow: a file's name leads to the file itself. O_NONBLOCK: whatever
         * stands there now, opening it shall not wait. */
        _cleanup_fd_ int fd =
            pc_open_in_root(a->fds[PC_ASM_DIR], clean, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
        if (fd < 0)
                return pc_fail(reterr, fd, "open content", l->name);
        if (fstat(fd, &st) < 0)
                return pc_fail_errno(reterr, "stat content", l->name);
        if (!S_ISREG(st.st_mode) || st.st_size != l->size)
                return pc_fail(reterr, EBADMSG, "content is not what was unpacked", l->name);
        while (left > 0) {
                ssize_t got = read(fd, a->out, left < CHUNK ? (size_t) left : CHUNK);
                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return pc_fail_errno(reterr, "read content", l->name);
                if (got == 0)
                        return pc_fail(reterr, EBADMSG, "content is not what was unpacked", l->name);
                crc = pc_crc64(crc, a->out, (size_t) got);
                left -= got;
                r = emit(a, a->out, (size_t) got, reterr);
                if (r == 0)
                        r = cancelled(a, reterr);
                if (r < 0)
                        return r;
        }
        if (crc != want)
                return pc_fail(reterr, EBADMSG, "content is not what was unpacked", l->name);
        return 0;
}

/* One line, without its newline; it is changed in place. */
static int line(struct assembly *a, char *text, size_t n, struct pc_err *reterr) {
        struct pc_split_line l;
        if (n == 0)
                return 0;
        int r = pc_split_line_parse(text, n, &l, reterr);
        if (r < 0)
                return r;
        if (l.type == 2)
                return emit(a, l.payload, l.n_payload, reterr);
        return l.size > 0 ? content(a, &l, reterr) : 0;
}

static int collect(struct assembly *a, const uint8_t *p, size_t n, struct pc_err *reterr) {
        while (n > 0) {
                const uint8_t *end = memchr(p, '\n', n);
                size_t some = end ? (size_t) (end - p) : n;
                if (a->n_line + some > LINE_MAX_BYTES)
                        return pc_fail(reterr, E2BIG, "line of tar-split", NULL);
                if (a->n_line + some + 1 > a->room) {
                        size_t room = (a->n_line + some + 1) * 2;
                        char *more = realloc(a->line, room);
                        if (!more)
                                return pc_fail(reterr, ENOMEM, "line of tar-split", NULL);
                        a->line = more;
                        a->room = room;
                }
                memcpy(a->line + a->n_line, p, some);
                a->n_line += some;
                if (end) {
                        a->line[a->n_line] = 0;
                        int r = line(a, a->line, a->n_line, reterr);
                        a->n_line = 0;
                        if (r < 0)
                                return r;
                }
                p += some + (end != NULL);
                n -= some + (end != NULL);
        }
        return 0;
}

static int lines(struct assembly *a, struct pc_codec *codec, struct pc_err *reterr) {
        _cleanup_free_ uint8_t *text = malloc(CHUNK);
        if (!text)
                return pc_fail(reterr, ENOMEM, "rebuild tar", NULL);
        for (bool last = false; !last;) {
                ssize_t got = pc_read_all(a->fds[PC_ASM_SPLIT], a->in, sizeof a->in);
                if (got < 0)
                        return pc_fail(reterr, (int) -got, "read tar-split", NULL);
                last = got == 0;
                struct pc_span s = {.in = a->in, .in_left = (size_t) got, .last = last};
                do {
                        s.out = text;
                        s.out_left = CHUNK;
                        int r = pc_codec_run(codec, &s, reterr);
                        if (r == 0)
                                r = collect(a, text, CHUNK - s.out_left, reterr);
                        if (r == 0)
                                r = cancelled(a, reterr);
                        if (r < 0)
                                return r;
                } while (s.in_left > 0 || s.out_left == 0);
        }
        if (!pc_codec_at_end(codec))
                return pc_fail(reterr, EBADMSG, "tar-split is cut off", NULL);
        return a->n_line > 0 ? collect(a, (const uint8_t *) "\n", 1, reterr) : 0;
}

int pc_tarsplit_assemble(const int fds[4], uint8_t ret_sha[32], uint64_t *ret_size, struct pc_err *reterr) {
        struct pc_codec *codec = pc_codec_new(PC_CODEC_GZIP, 27);
        struct assembly *a = calloc(1, sizeof *a);
        uint8_t sha[32];
        int r = 0;
        if (a)
                a->hash = EVP_MD_CTX_new();
        if (!codec || !a || !a->hash || !EVP_DigestInit_ex(a->hash, EVP_sha256(), NULL))
                r = pc_fail(reterr, ENOMEM, "rebuild tar", NULL);
        if (r == 0) {
                a->fds = fds;
                r = lines(a, codec, reterr);
        }
        if (r == 0 && !EVP_DigestFinal_ex(a->hash, sha, NULL))
                r = pc_fail(reterr, EIO, "sha256", NULL);
        if (r == 0) {
                memcpy(ret_sha, sha, sizeof sha);
                *ret_size = a->size;
        }
        pc_codec_free(codec);
        if (a) {
                EVP_MD_CTX_free(a->hash);
                free(a->line);
        }
        free(a);
        return r;
}
