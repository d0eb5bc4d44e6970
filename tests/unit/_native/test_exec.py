"""pycrio-exec: it ends as the process does that a detaching runtime has started, whatever the runtime does."""

from __future__ import annotations

import os
import pathlib
import select
import signal
import sys
from collections.abc import Callable

import pytest

from pycrio._native import proc
from pycrio._native.run import Completed, run, spawn

pytestmark = pytest.mark.usefixtures("no_leaks")

EXEC = str(pathlib.Path(proc.__file__).parent / "bin" / "pycrio-exec")
RUNTIME = """
import os, sys
pidfile, early, script = sys.argv[1:]
pid = os.fork()
if not pid:
    os.execv("/bin/sh", ["sh", "-c", script])
if early:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
with open(pidfile, "w") as f:
    f.write(str(pid))
"""
"""Starts a script, writes down its process and goes, like runc; a shell would reap a process that ends early."""


def ended(pid: int) -> bool:
    """Wait for the end of a process that need not be ours."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 30)[0])
    finally:
        os.close(fd)


@pytest.fixture
def pidfile(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "pid"


async def runtime(pidfile: pathlib.Path, script: str, timeout: float | None = 60) -> Completed:
    return await run([EXEC, str(pidfile), "/bin/sh", "-c", script, str(pidfile)], timeout=timeout)


async def detached(pidfile: pathlib.Path, script: str, early: str = "") -> Completed:
    words = [EXEC, str(pidfile), sys.executable, "-ISc", RUNTIME, str(pidfile), early, script]
    return await run(words, timeout=60)


@pytest.mark.parametrize("code", [0, 1, 2, 125, 126, 127, 128, 200, 255])
async def test_the_code_is_the_process_s(pidfile: pathlib.Path, code: int) -> None:
    done = await detached(pidfile, f"echo out; echo err >&2; exit {code}")
    assert done == Completed(code, b"out\n", b"err\n", truncated=False, timed_out=False)
    assert int(pidfile.read_text()) > 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGRTMAX])
async def test_so_is_the_signal(pidfile: pathlib.Path, sig: signal.Signals) -> None:
    assert (await detached(pidfile, f"kill -{int(sig)} $$")).code == 128 + sig


async def test_a_process_that_ends_before_the_runtime_does(pidfile: pathlib.Path) -> None:
    assert (await detached(pidfile, "exit 7", early="yes")).code == 7


async def test_a_process_whose_parent_ends_before_the_runtime_does(pidfile: pathlib.Path) -> None:
    """As crun starts it: then the process is ours from its first moment, and may have ended before it is named."""
    script = """(sh -c 'echo $$ >"$0"; exit 9' "$0" &); until [ -s "$0" ]; do :; done; sleep 0.1"""
    assert (await runtime(pidfile, script)).code == 9


async def test_what_the_process_leaves_is_not_waited_for_and_lives(pidfile: pathlib.Path) -> None:
    done = await detached(pidfile, "setsid sleep 1000 & echo $!; exit 4")
    left = int(done.stdout)
    try:
        assert done.code == 4
        assert proc.alive(left, proc.start_time(left))
    finally:
        os.kill(left, signal.SIGKILL)
    assert ended(left)


async def test_orphans_are_reaped_while_the_process_runs(pidfile: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Those of a process that shares our pid namespace come to us."""
    orphans = tmp_path / "orphans"
    script = f"for n in 1 2 3 4 5; do (sh -c 'echo $$ >>{orphans}; exit 1' &); done; echo; read x; exit 3"
    out, told = os.pipe()
    hold, go = os.pipe()
    # A shell gives what it puts into the background /dev/null to read from, unless told otherwise.
    words = [EXEC, str(pidfile), "/bin/sh", "-c", f'{{ {script}\n}} <&0 & echo $! >"$0"', str(pidfile)]
    child = spawn(words, fds={0: hold, 1: told})
    try:
        os.close(told)
        assert os.read(out, 10) == b"\n"
        while len(pids := orphans.read_text().split() if orphans.exists() else []) < 5:
            os.sched_yield()
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):  # nobody is told when another's child is reaped
            os.sched_yield()
        os.write(go, b"\n")
        assert await child.wait() == 3
    finally:
        for fd in (out, hold, go):
            os.close(fd)


async def test_a_runtime_that_fails(pidfile: pathlib.Path) -> None:
    done = await runtime(pidfile, "echo no such program >&2; exit 1")
    assert (done.code, done.stderr) == (1, b"no such program\n")
    assert (await runtime(pidfile, "kill -9 $$")).code == 137
    assert not pidfile.exists()


async def test_a_runtime_that_fails_behind_its_work(pidfile: pathlib.Path) -> None:
    """What it began is ended, and does not pass for a process that ended with the runtime's code."""
    done = await runtime(pidfile, 'sleep 1000 & echo $!; echo $! >"$0"; exit 6')
    assert done.code == 6
    assert not pidfile.exists()
    assert ended(int(done.stdout))


@pytest.mark.parametrize("text", ["", "x", "-3", "99999999999"])
async def test_a_runtime_that_names_no_process(pidfile: pathlib.Path, text: str) -> None:
    done = await runtime(pidfile, f"printf %s '{text}' >\"$0\"")
    assert (done.code, done.stdout) == (125, b"")
    assert b"no process" in done.stderr


async def test_a_runtime_that_names_another_s_process(pidfile: pathlib.Path) -> None:
    done = await runtime(pidfile, 'echo 1 >"$0"')
    assert done.code == 125
    assert b"no descendant" in done.stderr
    assert not pidfile.exists()
    assert (await runtime(pidfile, 'echo 1 >"$0"; exit 8')).code == 8  # and it is not killed


@pytest.mark.parametrize(
    ("make", "code", "written"),
    [
        (lambda path: None, 127, "-2"),
        (lambda path: path.write_text("x"), 126, "-13"),
        (lambda path: (path.write_bytes(b"\0"), path.chmod(0o755)), 126, "-8"),
    ],
    ids=["missing", "not executable", "no program"],
)
async def test_a_runtime_that_cannot_be_run(
    pidfile: pathlib.Path, tmp_path: pathlib.Path, make: Callable[[pathlib.Path], object], code: int, written: str
) -> None:
    make(tmp_path / "runtime")
    done = await run([EXEC, str(pidfile), str(tmp_path / "runtime")])
    assert (done.code, pidfile.read_text()) == (code, written)
    assert b"cannot be executed" in done.stderr


async def test_a_time_out_ends_the_runtime(pidfile: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = await runtime(pidfile, f"echo $$ >{tmp_path}/me; exec sleep 1000", timeout=0.3)
    assert done.timed_out
    assert ended(int((tmp_path / "me").read_text()))


async def test_arguments_and_environment_pass_unchanged(pidfile: pathlib.Path) -> None:
    script = '{ printf \'%s|\' "$@" "$K"\n} & echo $! >"$0"'
    words = [EXEC, str(pidfile), "/bin/sh", "-c", script, str(pidfile), "a b", "", "--x"]
    assert (await run(words, env={"K": "v\n"})).stdout == b"a b||--x|v\n|"


async def test_version_and_usage() -> None:
    assert (await run([EXEC, "--version"])).stdout.startswith(b"pycrio-exec ")
    for words in ([], ["what"]):
        done = await run([EXEC, *words])
        assert (done.code, done.stdout) == (125, b"")
        assert b"usage" in done.stderr
