/* The container's output: read much at once, frame it, log it, show it to attached clients. */
#include "monitor/monitor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/fd.h"

#define TAIL_MS 5     /* an unterminated line is logged as a P piece when no more comes for so long */
#define COOL_MS 200   /* buffers go back to the kernel after so long without output */
#define STALL_MS 2000 /* an attached client with a full backlog has so long to take half of it */
#define PIPE_PLAIN (64u << 10)
#define PIPE_GROWN (512u << 10) /* while output floods; for all time it would eat up the user's pipe quota */
#define RELAYED PC_FAN_BATCH    /* taken at once from a grown pipe */
#define FLOOD (4u << 20)
#define NAP_MIN 40000   /* ns */
#define NAP_MAX 4000000 /* ns; with TAIL_MS the most that a log line is late */
#define NAP_HOT 6000000 /* ns; reads further apart are not a stream of output */
#define TTY_READS 64    /* reads from a terminal before others get a turn */

static void flush(struct pc_mon *m) {
        struct pc_err err;
        if (pc_sink_flush(&m->sink, &err) < 0)
                pc_say_err(m, PC_LEVEL_WARN, &err);
        m->held_deadline = 0;
}

void pc_stream_emit(struct pc_mon *m, int which, enum pc_put how) {
        struct pc_stream_in *in = &m->in[which];
        struct pc_err err;
        size_t used = in->len;
        if (in->len > 0 && m->sink.fd >= 0) {
                char head[PC_HEAD_LEN];
                pc_clock_head(&m->clock, (enum pc_stream) which, head);
                int64_t written = m->sink.written;
                if (pc_sink_put(&m->sink, head, in->buf, in->len, how, &used, &err) < 0)
                        pc_say_err(m, PC_LEVEL_WARN, &err);
                if (m->sink.held == 0)
                        m->held_deadline = 0;
                else if (!m->held_deadline || m->sink.written != written)
                        m->held_deadline = pc_now_ms() + TAIL_MS;
        }
        if (m->journal && in->fed < in->len &&
            pc_journal_put(m->journal, (enum pc_stream) which, in->buf + in->fed, in->len - in->fed, &err) < 0)
                pc_say_err(m, PC_LEVEL_WARN, &err);
        in->len -= used;
        if (in->len > 0 && used > 0)
                memmove(in->buf, in->buf + used, in->len);
        in->fed = in->len;
}

void pc_stream_watch(struct pc_mon *m, bool on) {
        for (int i = 0; i < 2; i++) {
                struct pc_stream_in *in = &m->in[i];
                bool want = on && !m->stalled && in->fd >= 0 && !in->due;
                if (want == in->watched)
                        continue;
                /* A terminal without a user reports a hang-up again and again: only edges count there. */
                if (want)
                        (void) pc_watch(m, in->fd, EPOLLIN | (in->tty ? EPOLLET : 0), i ? EV_STDERR : EV_STDOUT, 0);
                else
                        pc_unwatch(m, in->fd);
                in->watched = want;
        }
}

static void close_stream(struct pc_mon *m, struct pc_stream_in *in) {
        if (in->watched)
                pc_unwatch(m, in->fd);
        in->watched = false;
        pc_closep(&in->fd);
}

/* A reader keeps the writer out of the pipe while it copies, and wakes it up at every read of a full one. Moving the
 * pages to a pipe of our own takes a microsecond; from there they are copied in nobody's way, in parts that are still
 * in the cache when they are framed and written. */
static ssize_t take_by_relay(struct pc_mon *m, const struct pc_stream_in *in) {
        ssize_t n;
        if (m->relayed == 0) {
                do
                        n = splice(in->fd, NULL, m->relay[1], NULL, RELAYED, SPLICE_F_NONBLOCK);
                while (n < 0 && errno == EINTR);
                if (n <= 0)
                        return n;
                m->relayed = (size_t) n;
        }
        size_t room = PC_STREAM_CAP - in->len;
        do
                n = read(m->relay[0], in->buf + in->len, m->relayed < room ? m->relayed : room);
        while (n < 0 && errno == EINTR);
        m->relayed = n > 0 ? m->relayed - (size_t) n : 0;
        return n;
}

static void open_relay(struct pc_mon *m) {
        if (m->relay[0] >= 0 || pipe2(m->relay, O_CLOEXEC) < 0)
                return; /* it goes without */
        (void) fcntl(m->relay[0], F_SETPIPE_SZ, PIPE_GROWN);
}

void pc_stream_cool_later(struct pc_mon *m) {
        m->warm = true;
        if (!m->cool_deadline)
                m->cool_deadline = pc_now_ms() + COOL_MS;
}

void pc_stream_show(struct pc_mon *m, int which) {
        struct pc_stream_in *in = &m->in[which];
        size_t n = in->unshown;
        in->unshown = 0;
        if (n > 0 && m->fan.open > 0 && pc_fan_push(&m->fan, (char) (which + 2), in->buf + in->len - n, n))
                pc_attach_watch(m);
}

/* One read. Bytes, 0 at the end of the stream, -EAGAIN when there is nothing now. */
static ssize_t take(struct pc_mon *m, int which) {
        struct pc_stream_in *in = &m->in[which];
        ssize_t n;
        if (m->relay[0] >= 0 && in->grown)
                n = take_by_relay(m, in);
        else
                do
                        n = read(in->fd, in->buf + in->len, PC_STREAM_CAP - in->len);
                while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EIO && in->tty ? -EAGAIN : -errno; /* EIO: nobody has the terminal open */
        if (n == 0)
                return 0;
        m->warm = true;
        in->len += (size_t) n;
        in->unshown += (size_t) n;
        if (!m->hold)
                pc_stream_show(m, which);
        return n;
}

/* A full backlog holds the output back for a moment; with no log to protect, for as long as it takes. */
static void check_stall(struct pc_mon *m) {
        if (m->stalled || !pc_fan_full(&m->fan))
                return;
        m->stalled = true;
        if (m->sink.fd >= 0 || m->journal)
                m->stall_deadline = pc_now_ms() + STALL_MS;
        pc_stream_watch(m, true);
}

/* How long to wait before the next look: small batches make it longer, a nearly full pipe shorter, a quiet time ends
 * it. The first read after a quiet time is never followed by a wait. While it lasts the pipe is not in the epoll set:
 * there every single write would run epoll's callback, at the writer's cost. */
static int64_t nap_length(struct pc_mon *m, struct pc_stream_in *in, int64_t now, size_t n) {
        int64_t gap = now - in->last;
        size_t small = in->grown ? PIPE_GROWN / 4 : PIPE_PLAIN / 4,
               full = in->grown ? RELAYED - PIPE_PLAIN / 4 : PIPE_PLAIN / 8 * 5;
        in->last = now;
        in->flood += n;
        if (in->tty || gap > NAP_HOT) {
                in->flood = 0;
                in->nap = 0;
        } else if (n >= full)
                in->nap = in->nap / 2 < NAP_MIN ? 0 : in->nap / 2;
        else if (n < small)
                in->nap = in->nap == 0 ? NAP_MIN : in->nap * 3 / 2 > NAP_MAX ? NAP_MAX : in->nap * 3 / 2;
        if (in->flood > FLOOD && !in->grown) {
                /* Refused without the privilege or the quota: asked again after as much output. */
                in->grown = fcntl(in->fd, F_SETPIPE_SZ, PIPE_GROWN) >= 0;
                in->flood = 0;
                if (in->grown)
                        open_relay(m);
        }
        return in->nap;
}

void pc_stream_event(struct pc_mon *m, int which) {
        struct pc_stream_in *in = &m->in[which];
        size_t before = in->len;
        ssize_t n = 0;
        size_t taken = 0;
        for (int reads = 0; in->fd >= 0 && (!m->stalled || m->relayed > 0); reads++) {
                n = take(m, which);
                if (n == -EAGAIN)
                        break;
                if (n <= 0) {
                        if (n < 0)
                                pc_say(m, PC_LEVEL_WARN, "Cannot read the container's output", NULL, (int) n);
                        if (!m->hold) /* else it is kept with the rest */
                                pc_stream_emit(m, which, PC_PUT_ALL);
                        close_stream(m, in);
                        break;
                }
                /* While the runtime works, what it says is kept: it may be the reason of a failure, and then belongs
                 * into the report and not before the user's eyes. */
                if (!m->hold || in->len == PC_STREAM_CAP) {
                        pc_stream_show(m, which);
                        bool flood = in->grown && (in->nap > 0 || m->relayed > 0 || taken > 0);
                        pc_stream_emit(m, which, flood ? PC_PUT_MORE : PC_PUT_LINES);
                }
                if (m->fan.open > 0)
                        check_stall(m);
                taken += (size_t) n;
                if (m->relayed > 0)
                        continue;
                if (!in->tty)
                        break;
                if (reads >= TTY_READS) {
                        pc_rewatch(m, in->fd, EPOLLIN | EPOLLET, which ? EV_STDERR : EV_STDOUT, 0);
                        break;
                }
        }
        int64_t ns = pc_now_ns(), now = ns / 1000000, wait = n > 0 && !m->hold ? nap_length(m, in, ns, taken) : 0;
        in->due = wait > 0 ? ns + wait : 0;
        pc_stream_watch(m, true);
        if (n < 0 && in->len == before && in->fd >= 0)
                return; /* there was nothing */
        /* A tail that only grew keeps its deadline. */
        if (m->hold || (m->in[0].len == 0 && m->in[1].len == 0))
                m->tail_deadline = 0;
        else if (!m->tail_deadline || in->len <= before)
                m->tail_deadline = now + TAIL_MS;
        m->cool_deadline = now + COOL_MS;
}

void pc_stream_due(struct pc_mon *m, int64_t now_ns) {
        for (int i = 0; i < 2; i++)
                if (m->in[i].due && now_ns >= m->in[i].due)
                        pc_stream_event(m, i);
}

void pc_stream_tick(struct pc_mon *m, int64_t now) {
        if (m->tail_deadline && now >= m->tail_deadline) {
                m->tail_deadline = 0;
                for (int i = 0; i < 2; i++)
                        if (m->in[i].len > 0)
                                pc_stream_emit(m, i, PC_PUT_ALL);
        }
        if (m->held_deadline && now >= m->held_deadline)
                flush(m);
        if (m->stalled && !pc_fan_above(&m->fan, PC_BACKLOG / 2)) {
                m->stalled = false;
                m->stall_deadline = 0;
                pc_stream_watch(m, true);
        }
        if (m->stall_deadline && now >= m->stall_deadline) {
                pc_say(m, PC_LEVEL_WARN, "An attached client does not keep up: its output ends here", NULL, 0);
                pc_fan_cut_above(&m->fan, PC_BACKLOG / 2);
                m->stalled = false;
                m->stall_deadline = 0;
                pc_attach_watch(m);
                pc_stream_watch(m, true);
        }
        if (m->cool_deadline && now >= m->cool_deadline) {
                m->cool_deadline = 0;
                if (m->warm && m->in[0].len == 0 && m->in[1].len == 0 && m->sink.held == 0) {
                        (void) madvise(m->in[0].buf, PC_STREAM_CAP, MADV_DONTNEED);
                        (void) madvise(m->in[1].buf, PC_STREAM_CAP, MADV_DONTNEED);
                        (void) madvise(m->work, PC_WORK_CAP, MADV_DONTNEED);
                        if (m->stdin_len == 0)
                                (void) madvise(m->stdin_buf, PC_STDIN_CAP, MADV_DONTNEED);
                        pc_trim_stack();
                        m->warm = false;
                        for (int i = 0; i < 2; i++)
                                if (m->in[i].grown && fcntl(m->in[i].fd, F_SETPIPE_SZ, PIPE_PLAIN) >= 0)
                                        m->in[i].grown = false;
                        pc_closep(&m->relay[0]);
                        pc_closep(&m->relay[1]);
                }
        }
}

/* The container has ended: log what it left in the pipes. Others may hold them open and go on writing, so no more is
 * taken than a pipe can hold. */
void pc_stream_drain(struct pc_mon *m) {
        for (int i = 0; i < 2; i++) {
                struct pc_stream_in *in = &m->in[i];
                if (in->fd >= 0 && !m->timed_out) {
                        int flags = fcntl(in->fd, F_GETFL), size = fcntl(in->fd, F_GETPIPE_SZ);
                        (void) fcntl(in->fd, F_SETFL, flags | O_NONBLOCK);
                        ssize_t left = size > 0 ? size : 1 << 20, n;
                        while ((left > 0 || m->relayed > 0) && (n = take(m, i)) > 0) {
                                left -= n;
                                pc_stream_emit(m, i, PC_PUT_LINES);
                        }
                }
                pc_stream_emit(m, i, PC_PUT_ALL);
                struct pc_err err;
                if (m->journal && pc_journal_flush(m->journal, (enum pc_stream) i, &err) < 0)
                        pc_say_err(m, PC_LEVEL_WARN, &err);
        }
        flush(m); /* when nothing came behind it */
}

void pc_stream_reopen(struct pc_mon *m) {
        struct pc_err err;
        for (int i = 0; i < 2 && !m->hold; i++)
                if (m->in[i].len > 0)
                        pc_stream_emit(m, i, PC_PUT_LINES);
        flush(m);
        if (pc_sink_reopen(&m->sink, &err) < 0)
                pc_say_err(m, PC_LEVEL_WARN, &err);
}
