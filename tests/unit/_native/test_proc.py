from __future__ import annotations

import errno
import os
import pathlib
import select
import signal
import threading
from collections.abc import Callable

import pytest

from pycrio._native import proc
from pycrio._native.base import NativeError

pytestmark = pytest.mark.usefixtures("no_leaks")

ENV = [b"PATH=/usr/bin:/bin", b"LC_ALL=C"]


def output(*argv: bytes, **options: object) -> tuple[bytes, tuple[int, int] | None]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    with open(read_end, "rb") as file:
        try:
            _, pidfd = proc.spawn(argv, ENV, [(1, write_end), (2, 2)], **options)  # type: ignore[arg-type]
        finally:
            os.close(write_end)
        text = file.read()
    try:
        return text, proc.wait(pidfd)
    finally:
        os.close(pidfd)


def test_codes_and_signals() -> None:
    assert output(b"/bin/sh", b"-c", b"exit 7") == (b"", (7, 0))
    assert output(b"/bin/sh", b"-c", b"kill -9 $$") == (b"", (0, 9))


def test_exact_table_and_environment() -> None:
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    text, _ = output(b"/bin/sh", b"-c", b"echo /proc/$$/fd/*; env | sort")
    os.close(inherited)
    fds, *env = text.decode().splitlines()
    assert [pathlib.Path(p).name for p in fds.split()] == ["0", "1", "2"]  # 0: the shell reading the directory
    assert "LC_ALL=C" in env
    assert "HOME" not in text.decode()


def test_path_argument_differs_from_first_word() -> None:
    text, _ = output(b"other-name", b"-c", b"echo $0", path=b"/bin/sh")
    assert text == b"other-name\n"


@pytest.mark.parametrize("new_session", [True, False])
def test_session(new_session: bool) -> None:
    text, _ = output(b"/bin/sh", b"-c", b"set -- $(cat /proc/$$/stat); echo $1 $6", new_session=new_session)
    pid, session = text.split()
    assert (pid == session) is new_session


def test_cwd_and_oom_score() -> None:
    text, _ = output(b"/bin/sh", b"-c", b"pwd; cat /proc/$$/oom_score_adj", cwd=b"/usr/lib", oom_score_adj=777)
    assert text == b"/usr/lib\n777\n"


def test_joins_a_v1_cgroup(tmp_path: pathlib.Path) -> None:
    procs = tmp_path / "cgroup.procs"  # what counts is that the child itself writes to our descriptor
    with procs.open("w") as file:
        output(b"/bin/true", cgroup_procs=[file.fileno()])
    assert procs.read_text() == "0"


def unified() -> pathlib.Path:
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return pathlib.Path(where)
    raise AssertionError("no cgroup2 mount on this host")


def test_born_in_a_v2_cgroup() -> None:
    group = unified() / f"pycrio-test-{os.getpid()}"
    group.mkdir()
    try:
        fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            text, _ = output(b"/bin/cat", b"/proc/self/cgroup", cgroup_fd=fd)
        finally:
            os.close(fd)
        assert f"/{group.name}" in text.decode()
    finally:
        group.rmdir()


@pytest.mark.parametrize(
    ("argv", "options", "code", "step"),
    [
        ([b"/nonexistent"], {}, errno.ENOENT, "exec"),
        ([b"/etc/passwd"], {}, errno.EACCES, "exec"),
        ([b"/bin/true"], {"cwd": b"/nonexistent"}, errno.ENOENT, "chdir"),
        ([b"/bin/true"], {"oom_score_adj": 9999}, errno.EINVAL, "oom_score_adj"),
        ([b"/bin/true"], {"cgroup_fd": 999}, errno.EBADF, "clone"),
        ([b"/bin/true", b"x" * (1 << 18)], {}, errno.E2BIG, "exec"),
    ],
)
def test_failures_name_the_step(argv: list[bytes], options: dict[str, object], code: int, step: str) -> None:
    with pytest.raises(NativeError) as caught:
        proc.spawn(argv, ENV, [], **options)  # type: ignore[arg-type]
    assert (caught.value.errno, caught.value.step) == (code, step)
    if step == "exec":
        assert caught.value.filename == argv[0].decode()


@pytest.mark.parametrize(
    ("argv", "env", "options"),
    [
        ([], [], {}),
        ([b"a\0b"], [], {}),
        ([b"/bin/true", b"a\0b"], [], {}),
        ([b"/bin/true"], [b"A=\0"], {}),
        ([b"/bin/true"], [], {"cwd": b"\0"}),
    ],
)
def test_values_that_cannot_be_passed(argv: list[bytes], env: list[bytes], options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"NUL byte|empty"):
        proc.spawn(argv, env, [], **options)  # type: ignore[arg-type]


def test_text_instead_of_bytes_is_refused() -> None:
    with pytest.raises(TypeError):
        proc.spawn(["/bin/true"], [], [])  # type: ignore[list-item]


def test_nohang_signal_and_reaping() -> None:
    pid, pidfd = proc.spawn([b"/bin/sleep", b"1000"], ENV, [])
    try:
        assert proc.wait(pidfd, nohang=True) is None
        started = proc.start_time(pid)
        assert proc.alive(pid, started)
        assert not proc.alive(pid, started + 1)
        proc.send_signal(pidfd, signal.SIGTERM)
        select.select([pidfd], [], [])
        assert not proc.alive(pid, started)  # a zombie
        assert proc.wait(pidfd) == (0, signal.SIGTERM)
        assert not proc.alive(pid, started)
        gone: list[Callable[[], object]] = [
            lambda: proc.send_signal(pidfd, 9),
            lambda: proc.signal_group(pidfd, pid, 9),
        ]
        assert proc.start_time(pid) == 0
        for call in gone:
            with pytest.raises(NativeError) as caught:
                call()
            assert caught.value.errno == errno.ESRCH
    finally:
        os.close(pidfd)


def test_waiting_lets_other_threads_run() -> None:
    pid, pidfd = proc.spawn([b"/bin/sleep", b"1000"], ENV, [])
    threading.Timer(0, os.kill, (pid, signal.SIGINT)).start()  # needs the GIL while this thread blocks
    assert proc.wait(pidfd) == (0, signal.SIGINT)
    os.close(pidfd)


def test_process_of_another_is_found_again() -> None:
    pid, pidfd = proc.spawn([b"/bin/sleep", b"1000"], ENV, [])
    started = proc.start_time(pid)
    again = proc.open_process(pid, started)
    assert again is not None
    assert not os.get_inheritable(again)
    assert proc.open_process(pid, started + 1) is None
    proc.send_signal(pidfd, signal.SIGKILL)
    assert select.select([again], [], [])[0] == [again]
    os.close(again)
    proc.wait(pidfd)
    os.close(pidfd)
    assert proc.open_process(pid, started) is None
    assert proc.open_process(0, 0) is None


def test_descriptor_of_another_process() -> None:
    read, write = os.pipe()
    _, pidfd = proc.spawn([b"/bin/sleep", b"1000"], ENV, [(5, write)])
    os.close(write)
    copy = proc.copy_fd(pidfd, 5)
    assert not os.get_inheritable(copy)
    with pytest.raises(NativeError) as caught:
        proc.copy_fd(pidfd, 6)
    assert (caught.value.errno, caught.value.step) == (errno.EBADF, "pidfd_getfd")
    proc.send_signal(pidfd, signal.SIGKILL)
    proc.wait(pidfd)
    with pytest.raises(NativeError) as caught:
        proc.copy_fd(pidfd, 5)
    assert caught.value.errno == errno.ESRCH
    os.close(pidfd)
    os.write(copy, b"x")
    os.close(copy)
    assert os.read(read, 2) == b"x"
    assert os.read(read, 2) == b""
    os.close(read)


def test_search(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    path = f"/nonexistent:{tmp_path}:/bin".encode()
    with pytest.raises(NativeError) as caught:
        proc.find_program(b"program", path)
    assert caught.value.errno == errno.EACCES
    program.chmod(0o755)
    assert proc.find_program(b"program", path) == bytes(program)
    with pytest.raises(NativeError) as caught:
        proc.find_program(b"absent", path)
    assert (caught.value.errno, caught.value.filename, caught.value.step) == (errno.ENOENT, "absent", "exec")
