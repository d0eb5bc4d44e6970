"""The standard streams of a program that ``run`` supervises, on non-blocking pipes and reader callbacks."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios

_CHUNK = 1 << 16


class Sink:
    """Our end of a pipe that the program writes to: keeps the first ``cap`` bytes, drains the rest."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, cap: int) -> None:
        self._loop = loop
        self._fd = fd
        self._cap = cap
        self.data = bytearray()
        self.truncated = False
        loop.add_reader(fd, self._read, _CHUNK)

    def _read(self, size: int) -> int:
        """Take at most ``size`` bytes; how many came, 0 when there is nothing now or nothing any more."""
        try:
            chunk = os.read(self._fd, size)
        except BlockingIOError:
            return 0
        if not chunk:
            self._loop.remove_reader(self._fd)
            return 0
        room = self._cap - len(self.data)
        if len(chunk) > room:
            self.truncated = True
        if room > 0:
            self.data += chunk[:room] if len(chunk) > room else chunk
        return len(chunk)

    def finish(self) -> None:
        """After the program's end: what it wrote itself lies in the pipe by now, so take exactly that much.

        Waiting for end of file instead would wait for every process that inherited the pipe.
        """
        left: int = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, b"\0\0\0\0"))[0]
        while left > 0 and (got := self._read(min(left, _CHUNK))) > 0:
            left -= got

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class Source:
    """Our end of the program's standard input: writes ``data``, then closes. A program may stop reading early."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, data: bytes) -> None:
        self._loop = loop
        self._fd = fd
        self._rest = memoryview(data)
        loop.add_writer(fd, self._write)

    def _write(self) -> None:
        try:
            self._rest = self._rest[os.write(self._fd, self._rest[: 4 * _CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._rest = self._rest[:0]
        if not self._rest:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


class Pipes:
    """The three standard streams of one run: the program's ends until it is started, ours until the end."""

    def __init__(self, stdin: bytes, cap: int) -> None:
        self._stdin = stdin
        self._cap = cap
        self._open: set[int] = set()
        self.theirs: dict[int, int] = {}
        self._ours: dict[int, int] = {}
        self._source: Source | None = None
        self._sinks: dict[int, Sink] = {}
        try:
            for stream in (0, 1, 2) if stdin else (1, 2):
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                self._open |= {read_end, write_end}
                self.theirs[stream], self._ours[stream] = (
                    (read_end, write_end) if stream == 0 else (write_end, read_end)
                )
                os.set_blocking(self._ours[stream], False)
                if stream > 0:  # whoever the program becomes may open /dev/stdout anew
                    os.fchmod(write_end, 0o777)
        except BaseException:
            self.close()
            raise

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The program has its ends: drop them here, so that end of file and broken pipes are seen, and begin."""
        for fd in self.theirs.values():
            self._open.discard(fd)
            os.close(fd)
        for stream, fd in self._ours.items():
            self._open.discard(fd)
            if stream == 0:
                self._source = Source(loop, fd, self._stdin)
            else:
                self._sinks[stream] = Sink(loop, fd, self._cap)

    def finish(self) -> tuple[bytes, bytes, bool]:
        """Take what the ended program has left in the pipes: output, error output, whether the cap cut any."""
        out, err = self._sinks[1], self._sinks[2]
        out.finish()
        err.finish()
        return bytes(out.data), bytes(err.data), out.truncated or err.truncated

    def close(self) -> None:
        """Close whatever is still open; idempotent."""
        if self._source is not None:
            self._source.close()
        for sink in self._sinks.values():
            sink.close()
        for fd in self._open:
            os.close(fd)
        self._source = None
        self._sinks = {}
        self._open = set()
