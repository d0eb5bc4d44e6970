# cython: language_level=3
"""CRI log framing (csrc/logmux/frame.c) for Python: container output to log lines, log lines back to output.

A line is ``<RFC 3339 stamp> <stdout|stderr> <F|P> <content>``; P marks a piece that the next line of the same stream
continues (Kubernetes CRI logging format).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.string cimport memchr

from pycrio._native.c_logmux cimport (
    PC_HEAD_LEN, PC_PIECE_MAX, pc_frame, pc_frame_limits, pc_head, pc_line, pc_line_parse, pc_stream,
)

STDOUT = 0
STDERR = 1
PIECE_MAX = PC_PIECE_MAX


class Line:
    """One parsed log line: time in nanoseconds since the epoch, stream (STDOUT, STDERR), whether it is a piece of a
    longer line, content without newline."""

    __slots__ = ("time_ns", "stream", "partial", "content")

    def __init__(self, time_ns, stream, partial, content):
        self.time_ns = time_ns
        self.stream = stream
        self.partial = partial
        self.content = content

    def __repr__(self):
        return f"Line({self.time_ns}, {self.stream}, {self.partial}, {self.content!r})"

    def __eq__(self, other):
        if not isinstance(other, Line):
            return NotImplemented
        return (self.time_ns, self.stream, self.partial, self.content) == (
            other.time_ns, other.stream, other.partial, other.content
        )

    __hash__ = None


def format_lines(bytes data, *, int stream, long long time_ns, int utc_offset=0, bint flush=True):
    """Frame output of one stream: (log lines, bytes of data they stand for).

    All lines carry time_ns (since the epoch), shown in the zone utc_offset seconds east of UTC. An unterminated tail
    becomes a P line with flush, else it is left over. Content is cut at PIECE_MAX bytes.
    """
    if stream not in (0, 1):
        raise ValueError("stream is STDOUT or STDERR")
    if not -86400 < utc_offset < 86400:
        raise ValueError("utc_offset is less than a day")
    cdef const char *p = PyBytes_AS_STRING(data)
    cdef size_t n = len(data), used = 0, lines = 1, at = 0
    cdef const char *found
    cdef char head[45]
    cdef pc_frame_limits limits
    pc_head(head, time_ns // 1000000000, time_ns % 1000000000, utc_offset, <pc_stream>stream)
    with nogil:
        while at < n:
            found = <const char *>memchr(p + at, 10, n - at)
            lines += 1
            if found == NULL:
                break
            at = found - p + 1
    limits.cap = n + (lines + n // PC_PIECE_MAX + 1) * (PC_HEAD_LEN + 1)
    limits.stop = limits.cap
    limits.flush = flush
    out = PyBytes_FromStringAndSize(NULL, limits.cap)
    cdef char *o = PyBytes_AS_STRING(out)
    cdef size_t made
    with nogil:
        made = pc_frame(head, p, n, &limits, o, &used)
    return out[:made], used


cdef object _line(pc_line *l):
    return Line(<object>(<int64_t>l.sec) * 1000000000 + l.nsec, <int>l.stream, bool(l.partial), l.data[:l.len])


def parse_line(bytes line):
    """One log line, with or without its newline; ValueError when it is none."""
    cdef pc_line l
    if pc_line_parse(PyBytes_AS_STRING(line), len(line), &l) < 0:
        raise ValueError(f"not a CRI log line: {line[:80]!r}")
    return _line(&l)


def split_streams(bytes log):
    """A whole log back to what the container wrote: (stdout, stderr, bytes of log understood).

    F lines get their newline back, P lines are joined with what follows. Parsing stops at the first line that is torn
    or none, which the third value tells.
    """
    cdef const char *p = PyBytes_AS_STRING(log)
    cdef size_t n = len(log), at = 0, line_len
    cdef const char *end
    cdef pc_line l
    parts = ([], [])
    while at < n:
        end = <const char *>memchr(p + at, 10, n - at)
        if end == NULL:
            break
        line_len = end - (p + at)
        if pc_line_parse(p + at, line_len, &l) < 0:
            break
        (<list>parts[<int>l.stream]).append(l.data[:l.len] if l.partial else l.data[:l.len] + b"\n")
        at += line_len + 1
    return b"".join(parts[0]), b"".join(parts[1]), at
