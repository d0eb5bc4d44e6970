"""One pytest-benchmark or more for each unit of the compiled core that has no file of its own here.

Layers are in ``bench_unpack``, namespaces and overlays in ``bench_ns``; beside peers: ``bench_log``, ``bench_spawn``
and ``bench_front``. Run with ``pytest bench/bench_native.py --benchmark-only`` (root).
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bench import bench_log
from pycrio._native import inotify, logmux, mounts, proc
from pycrio._native.front import Front

LINES = b"%s\n" % (b"x" * 99) * 1310  # what one read of the monitor takes at most: 128 KiB
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture
def spot(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A tmpfs of its own, gone afterwards with everything mounted on it."""
    mounts.tmpfs(str(tmp_path), mode=0o700)
    mounts.set_propagation(str(tmp_path), "private")
    try:
        yield tmp_path
    finally:
        mounts.umount(str(tmp_path))


@pytest.mark.parametrize("kind", ["lines", "one byte"])
def test_frame(benchmark: Any, kind: str) -> None:
    data = LINES if kind == "lines" else b"x"
    out, used = benchmark(logmux.format_lines, data, stream=logmux.STDOUT, time_ns=1_700_000_000_000_000_000)
    assert (used, len(out)) == (len(data), len(data) + 45 * max(1, data.count(b"\n")) + (data == b"x"))


def test_read_a_log_back(benchmark: Any) -> None:
    log, _ = logmux.format_lines(LINES, stream=logmux.STDERR, time_ns=0)
    assert benchmark(logmux.split_streams, log) == (b"", LINES, len(log))


@pytest.mark.parametrize("mode", ["lines-block", "lines-single", "write-8k"])
def test_log_path(benchmark: Any, tmp_path: pathlib.Path, mode: str) -> None:
    """8 MB (4 with single lines) from a container to the log file. The time has the start of both programs in it; what
    counts is in ``extra_info``."""
    total = int(8e6 * bench_log.MODES[mode][2])
    result = benchmark.pedantic(bench_log.measure, (str(bench_log.OURS), mode, total, tmp_path), rounds=5)
    benchmark.extra_info["megabytes_per_second"] = result.bytes / result.wall / 1e6
    benchmark.extra_info["cpu_seconds_per_gigabyte"] = result.cpu / result.bytes * 1e9


def test_start_and_reap_a_program(benchmark: Any) -> None:
    def once() -> tuple[int, int] | None:
        _, pidfd = proc.spawn([b"/bin/true"], [], [(0, 0), (1, 1), (2, 2)])
        try:
            return proc.wait(pidfd)
        finally:
            os.close(pidfd)

    assert benchmark(once) == (0, 0)


def test_recognise_a_process(benchmark: Any) -> None:
    assert benchmark(proc.alive, os.getpid(), proc.start_time(os.getpid()))


@contextlib.contextmanager
def echo(path: str) -> Iterator[None]:
    """A listener that sends back what comes, one connection after the other."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(8)

        def serve() -> None:
            while True:
                with listener.accept()[0] as peer:
                    data = peer.recv(65536)
                    if data == b"end":
                        return
                    while data:
                        peer.sendall(data)
                        data = peer.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(path)
                last.sendall(b"end")
                thread.join()


@pytest.fixture
def front(tmp_path: pathlib.Path) -> Iterator[str]:
    """The front before an echo; the path to connect to."""
    with echo(str(tmp_path / "in")), socket.socket(socket.AF_UNIX) as outer:
        outer.bind(str(tmp_path / "out"))
        outer.listen(8)
        with Front(outer.fileno(), tmp_path / "in", tmp_path / "none") as running:
            yield str(tmp_path / "out")
            running.stop()


def round_trip(client: socket.socket, data: bytes) -> int:
    client.sendall(data)
    left = len(data)
    while left > 0:
        left -= len(client.recv(65536))
    return left


def test_message_through_the_front(benchmark: Any, front: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(front)
        round_trip(client, PREFACE)
        assert benchmark(round_trip, client, b"x" * 200) == 0


def test_connection_through_the_front(benchmark: Any, front: str) -> None:
    def once() -> int:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(front)
            return round_trip(client, PREFACE)

    assert benchmark(once) == 0


def test_bind_and_unmount(benchmark: Any, spot: pathlib.Path) -> None:
    source, target = str(spot / "s"), str(spot / "t")
    os.mkdir(source)
    os.mkdir(target)

    def once() -> bool:
        mounts.bind(source, target, readonly=True)
        return mounts.umount(target)

    assert benchmark(once)


def test_tmpfs_and_unmount(benchmark: Any, spot: pathlib.Path) -> None:
    target = str(spot / "t")
    os.mkdir(target)

    def once() -> bool:
        mounts.tmpfs(target, mode=0o755, size=65536)
        return mounts.umount(target)

    assert benchmark(once)


def test_path_inside_a_root(benchmark: Any, spot: pathlib.Path) -> None:
    (spot / "a" / "b").mkdir(parents=True)
    (spot / "a" / "link").symlink_to("/a/b")
    assert benchmark(mounts.resolve_in_root, str(spot), "a/link/../b") == str(spot / "a" / "b")


def test_is_it_a_mount(benchmark: Any, spot: pathlib.Path) -> None:
    assert benchmark(mounts.is_mountpoint, str(spot))


def test_file_event(benchmark: Any, spot: pathlib.Path) -> None:
    """From a rename into a watched directory, as exit files arrive, to the event's name."""
    (spot / "d").mkdir()
    (spot / "f").touch()
    fd = inotify.init()
    try:
        inotify.add(fd, str(spot / "d"), inotify.MOVED_TO)
        out, back = str(spot / "f"), str(spot / "d" / "f")

        def once() -> list[tuple[int, int, str]]:
            os.rename(out, back)
            events = inotify.read(fd)
            os.rename(back, out)
            return events

        assert [name for _, _, name in benchmark(once)] == ["f"]
    finally:
        os.close(fd)
