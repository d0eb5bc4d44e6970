#include "logmux/sink.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"

#define BLOCK_LEAST 4096u

int pc_sink_open(struct pc_sink *s, const char *path, const struct pc_sink_limits *limits, char *work, size_t cap,
                 struct pc_err *reterr) {
        int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
        if (fd < 0)
                return pc_fail_errno(reterr, "open log file", path);
        struct stat st;
        int64_t size = fstat(fd, &st) == 0 ? (int64_t) st.st_size : 0;
        size_t block = limits->size_max > 0 || limits->total_max > 0 ? 0 : PC_SINK_BLOCK;
        while (block > 0 && block + 3 * PC_LINE_MAX > cap)
                block = block > BLOCK_LEAST ? block / 2 : 0;
        *s = (struct pc_sink){.fd = fd, .path = path, .limits = *limits, .work = work, .cap = cap, .block = block};
        s->written = s->total = size;
        return 0;
}

void pc_sink_close(struct pc_sink *s) {
        struct pc_err ignored;
        (void) pc_sink_flush(s, &ignored);
        pc_closep(&s->fd);
}

/* path + suffix into out; false when it does not fit. */
static bool suffixed(char out[PATH_MAX], const char *path, const char *suffix) {
        size_t n = strlen(path), k = strlen(suffix);
        if (n + k + 1 > PATH_MAX)
                return false;
        memcpy(out, path, n);
        memcpy(out + n, suffix, k + 1);
        return true;
}

static bool numbered(char out[PATH_MAX], const char *path, int number) {
        char text[16], *p = text + sizeof text;
        *--p = '\0';
        do
                *--p = (char) ('0' + number % 10);
        while ((number /= 10) > 0);
        *--p = '.';
        return suffixed(out, path, p);
}

/* Is the directory of the log file one of the allowed ones, or below one, once links are resolved? */
static bool allowed(const struct pc_sink *s) {
        if (s->limits.nallow == 0)
                return true;
        char dir[PATH_MAX], real[PATH_MAX], root[PATH_MAX];
        if (!suffixed(dir, s->path, ""))
                return false;
        char *slash = strrchr(dir, '/');
        if (!slash)
                memcpy(dir, ".", 2);
        else
                slash[slash == dir] = '\0';
        if (!realpath(dir, real))
                return false;
        for (int i = 0; i < s->limits.nallow; i++) {
                if (s->limits.allow[i][0] == '\0' || !realpath(s->limits.allow[i], root))
                        continue;
                size_t n = strlen(root);
                if (n == 1) /* "/" */
                        return true;
                if (strncmp(real, root, n) == 0 && (real[n] == '\0' || real[n] == '/'))
                        return true;
        }
        return false;
}

/* <path>.N-1 → <path>.N … <path> → <path>.1. Gaps are fine, the oldest is overwritten. */
static int shift_files(struct pc_sink *s, struct pc_err *reterr) {
        char from[PATH_MAX], to[PATH_MAX];
        int keep = s->limits.keep < 1 ? 1 : s->limits.keep;
        /* A huge keep must not mean a huge loop: shift the unbroken series that exists. */
        int last = 1;
        while (last < keep && numbered(to, s->path, last) && access(to, F_OK) == 0)
                last++;
        if (last < keep && errno != ENOENT) /* not known to be absent: it must not be overwritten */
                return pc_fail_errno(reterr, "rotate log file", to);
        for (int i = last; i >= 1; i--) {
                if (!numbered(to, s->path, i) ||
                    !(i == 1 ? suffixed(from, s->path, "") : numbered(from, s->path, i - 1)))
                        return pc_fail(reterr, ENAMETOOLONG, "rotate log file", s->path);
                if (rename(from, to) < 0 && errno != ENOENT)
                        return pc_fail_errno(reterr, "rotate log file", from);
        }
        return 0;
}

int pc_sink_reopen(struct pc_sink *s, struct pc_err *reterr) {
        char tmp[PATH_MAX];
        if (s->fd < 0)
                return 0;
        struct pc_err ignored; /* who wants to hear of it flushes before */
        (void) pc_sink_flush(s, &ignored);
        if (!suffixed(tmp, s->path, s->limits.rotate ? ".new" : ".tmp"))
                return pc_fail(reterr, ENAMETOOLONG, "reopen log file", s->path);
        if (s->limits.rotate && !allowed(s))
                return pc_fail(reterr, EPERM, "rotate log file outside the allowed directories", s->path);
        _cleanup_fd_ int fd = open(tmp, O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
        if (fd < 0)
                return pc_fail_errno(reterr, "open log file", tmp);
        int r = s->limits.rotate ? shift_files(s, reterr) : 0;
        if (r == 0 && rename(tmp, s->path) < 0)
                r = pc_fail_errno(reterr, "rename log file", tmp);
        if (r < 0) {
                (void) unlink(tmp);
                return r;
        }
        (void) close(s->fd);
        s->fd = steal_fd(&fd);
        s->written = 0;
        s->overdue = false;
        return 0;
}

/* Give up the torn end of a batch: done bytes of work reached the file, cut back to the last whole line. */
static size_t untear(const struct pc_sink *s, size_t done) {
        size_t whole = done;
        while (whole > 0 && s->work[whole - 1] != '\n')
                whole--;
        off_t end = whole < done ? lseek(s->fd, 0, SEEK_END) : 0; /* others may have emptied the file */
        if (whole < done && end >= (off_t) (done - whole))
                (void) !ftruncate(s->fd, end - (off_t) (done - whole));
        return whole;
}

/* Write the first n bytes of work, and hold the rest of the filled ones. Returns the errno that stopped it: then
 * nothing is held. */
static int append(struct pc_sink *s, size_t n, size_t filled) {
        size_t done = 0;
        int code = 0;
        while (done < n) {
                ssize_t w = write(s->fd, s->work + done, n - done);
                if (w > 0)
                        done += (size_t) w;
                else if (w < 0 && errno == EINTR)
                        continue;
                else {
                        code = w < 0 ? errno : EIO;
                        done = untear(s, done);
                        break;
                }
        }
        s->written += (int64_t) done;
        s->total += (int64_t) done;
        s->held = code ? 0 : filled - n;
        if (n > 0 && s->held > 0)
                memmove(s->work, s->work + n, s->held);
        return code;
}

/* How much of the filled bytes to write when more is to come: up to the last line that ends before the end of a block.
 * The next write fills the page up and goes on at the block's start. */
static size_t portion(const struct pc_sink *s, size_t filled) {
        size_t beyond = (size_t) (s->written % (int64_t) s->block), reach = (beyond + filled) / s->block * s->block;
        const char *end = reach > beyond ? memrchr(s->work, '\n', reach - beyond) : NULL;
        return end ? (size_t) (end - s->work) + 1 : 0;
}

/* The error of a changed state, 0 where it is known. */
static int settle(struct pc_sink *s, int code, struct pc_err *reterr) {
        int before = s->failing;
        s->failing = code;
        return code && code != before ? pc_fail(reterr, code, "write log file", s->path) : 0;
}

int pc_sink_flush(struct pc_sink *s, struct pc_err *reterr) {
        if (s->fd < 0 || s->held == 0)
                return 0;
        size_t held = s->held;
        int code = append(s, held, held);
        if (code)
                s->dropped += held;
        return settle(s, code, reterr);
}

/* A file that outgrew its limit and cannot be replaced (its directory is gone, say) is emptied instead: the limit
 * is a promise about disk space. Where its lines were to be kept that comes only at twice the limit: what was in the
 * way may be gone by then. */
static void make_room(struct pc_sink *s) {
        struct pc_err ignored;
        if (pc_sink_reopen(s, &ignored) == 0 || (s->limits.rotate && ignored.code == EPERM))
                return;
        if (s->limits.rotate && !s->overdue) {
                s->overdue = true;
                return;
        }
        if (ftruncate(s->fd, 0) == 0) {
                s->written = 0;
                s->overdue = false;
        }
}

/* Bytes that still fit into this file. */
static int64_t room_left(const struct pc_sink *s) {
        int64_t most = s->limits.size_max, extra = s->overdue ? most : 0;
        return most - s->written + extra;
}

int pc_sink_put(struct pc_sink *s, const char head[PC_HEAD_LEN], const char *in, size_t n, enum pc_put how,
                size_t *ret_used, struct pc_err *reterr) {
        size_t used = 0;
        int code = 0;
        bool wrote = false, flush = how == PC_PUT_ALL, hold = how == PC_PUT_MORE && s->block > 0;

        while (used < n) {
                char *out = s->work + s->held;
                size_t cap = s->cap - s->held;
                struct pc_frame_limits l = {.cap = cap, .stop = SIZE_MAX, .flush = flush};
                if (s->limits.total_max > 0) {
                        int64_t left = s->limits.total_max - s->total;
                        if (left <= 0) { /* unterminated tails go as well: nothing will ever be written again */
                                s->dropped += n - used;
                                used = n;
                                break;
                        }
                        l.stop = (size_t) left;
                }
                bool capped = false;
                if (s->limits.size_max > 0 && s->written > 0) {
                        int64_t room = room_left(s);
                        capped = room < (int64_t) cap;
                        if (capped)
                                l.cap = room < 0 ? 0 : (size_t) room;
                } else if (s->limits.size_max > 0 && s->limits.size_max < (int64_t) cap) {
                        l.cap = (size_t) s->limits.size_max;
                        capped = true;
                }
                size_t took = 0, made = pc_frame(head, in + used, n - used, &l, out, &took);
                if (made == 0) {
                        if (!capped)
                                break; /* an unterminated tail is left */
                        /* Does the limit stop us, or is there only a tail? */
                        struct pc_frame_limits free = {.cap = cap, .stop = 1, .flush = flush};
                        made = pc_frame(head, in + used, n - used, &free, out, &took);
                        if (made == 0)
                                break;
                        if (s->written > 0) {
                                bool overdue = s->overdue;
                                make_room(s);
                                if (s->written == 0 || s->overdue != overdue)
                                        continue;
                        } /* else one line larger than the limit: it gets a file of its own */
                }
                size_t lost = took + s->held, filled = s->held + made, now = hold ? portion(s, filled) : filled;
                int c = append(s, now, filled);
                if (c) {
                        code = c;
                        s->dropped += lost;
                }
                wrote = wrote || now > 0;
                used += took;
        }
        *ret_used = used;
        if (!hold && s->held > 0) /* without a line to go with it */
                return pc_sink_flush(s, reterr);
        return wrote ? settle(s, code, reterr) : 0;
}

int pc_sink_sync(struct pc_sink *s, struct pc_err *reterr) {
        int r = pc_sink_flush(s, reterr);
        if (r < 0)
                return r;
        if (s->fd >= 0 && fsync(s->fd) < 0 && errno != EINVAL && errno != EROFS)
                return pc_fail_errno(reterr, "sync log file", s->path);
        return 0;
}
