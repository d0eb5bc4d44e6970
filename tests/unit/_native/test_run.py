from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pathlib
import select
import signal
import threading
from collections.abc import Iterator

import pytest

from pycrio._native import proc
from pycrio._native.base import Fd, NativeError
from pycrio._native.run import Child, Completed, readable, run, spawn

pytestmark = pytest.mark.usefixtures("no_leaks")


async def shell(script: str, **options: object) -> Completed:
    return await run(["/bin/sh", "-c", script], **options)  # type: ignore[arg-type]


async def test_output_error_output_and_code() -> None:
    done = await shell("echo out; echo err >&2; exit 3")
    assert done == Completed(3, b"out\n", b"err\n", truncated=False, timed_out=False)


async def test_ended_by_a_signal() -> None:
    assert (await shell("kill -TERM $$")).code == 128 + signal.SIGTERM


async def test_streams_larger_than_pipes() -> None:
    data = os.urandom(1 << 20)
    done = await shell("tee /dev/fd/2", stdin=data)
    assert done.code == 0
    assert done.stdout == data
    assert done.stderr == data


async def test_input_that_the_program_does_not_read() -> None:
    assert (await shell("exec true", stdin=b"x" * (1 << 20))).code == 0
    assert (await shell("exec 0<&-; echo on; exit 4", stdin=b"x" * (1 << 20))).code == 4


async def test_no_input_is_end_of_file() -> None:
    assert (await run(["cat"])).stdout == b""


async def test_cap_cuts_drains_and_tells() -> None:
    done = await shell("head -c 3000000 /dev/zero; echo small >&2; exit 5", cap=1000)
    assert (done.code, done.stdout, done.stderr, done.truncated) == (5, bytes(1000), b"small\n", True)
    done = await shell("printf 12345", cap=5)
    assert (done.stdout, done.truncated) == (b"12345", False)
    done = await shell("printf 1", cap=0)
    assert (done.stdout, done.truncated) == (b"", True)


async def test_environment_and_working_directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYCRIO_PROBE", "inherited")
    done = await shell("echo $PYCRIO_PROBE; pwd", cwd=str(tmp_path))
    assert done.stdout.decode() == f"inherited\n{tmp_path}\n"
    done = await run(["env"], env={"PATH": "/usr/bin:/bin", "B": "\udcff"})
    assert set(done.stdout.splitlines()) == {b"PATH=/usr/bin:/bin", b"B=\xff"}


async def test_search_uses_the_programs_path(tmp_path: pathlib.Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    assert (await run(["tool"], env={"PATH": str(tmp_path)})).stdout == b"mine\n"
    with pytest.raises(NativeError) as caught:
        await run(["tool"], env={})
    assert (caught.value.errno, caught.value.step, caught.value.filename) == (errno.ENOENT, "exec", "tool")


async def test_program_that_cannot_run(tmp_path: pathlib.Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("text")
    for mode, code in ((0o644, errno.EACCES), (0o755, errno.ENOEXEC)):
        plain.chmod(mode)
        with pytest.raises(NativeError) as caught:
            await run([str(plain)])
        assert (caught.value.errno, caught.value.step, caught.value.filename) == (code, "exec", str(plain))
    with pytest.raises(ValueError, match="empty"):
        await run([])


@contextlib.contextmanager
def witness(tmp_path: pathlib.Path) -> Iterator[int]:
    """A fifo that is at end of file once every process that holds it open has died; write its name into a script."""
    os.mkfifo(tmp_path / "held")
    fd = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def died(fd: int) -> bool:
    """The holders had it open (a line came) and have it no more (end of file)."""
    os.set_blocking(fd, True)
    with open(os.dup(fd), "rb") as file:
        return file.read() == b"held\n"


async def test_timeout_kills_the_whole_group(tmp_path: pathlib.Path) -> None:
    script = f"exec 5>{tmp_path}/held; echo before; echo held >&5; sleep 1000 & sleep 1000"
    with witness(tmp_path) as fd:
        done = await shell(script, timeout=0.2)
        assert (done.code, done.timed_out) == (128 + signal.SIGKILL, True)
        assert done.stdout in (b"before\n", b"")  # a slow machine may not have come that far
        if done.stdout:
            assert died(fd)


async def test_timeout_of_the_program_alone(tmp_path: pathlib.Path) -> None:
    done = await shell("sleep 1000 & echo $!; wait", timeout=0.3, kill_group=False)
    assert (done.code, done.timed_out) == (128 + signal.SIGKILL, True)
    survivor = int(done.stdout)
    assert proc.alive(survivor, proc.start_time(survivor))
    os.kill(survivor, signal.SIGKILL)


async def test_a_program_in_time_is_not_timed_out() -> None:
    assert (await shell("exit 0", timeout=100)).timed_out is False


async def test_grandchildren_with_the_pipes_are_not_waited_for(tmp_path: pathlib.Path) -> None:
    done = await shell("sleep 1000 & echo $!")
    survivor = int(done.stdout)
    assert proc.alive(survivor, proc.start_time(survivor))
    os.kill(survivor, signal.SIGKILL)


async def test_a_grandchild_that_writes_for_ever(tmp_path: pathlib.Path) -> None:
    done = await shell("yes >&2 & echo $!", cap=1 << 20)
    # It dies of the closed pipe; were the drain bounded by silence, this would not return.
    assert int(done.stdout) > 0
    assert len(done.stderr) <= 1 << 20


async def test_all_that_the_program_wrote_is_there() -> None:
    # Ends with full pipes: the last 64 KiB are read after its exit.
    done = await shell("head -c 65536 /dev/zero; head -c 65536 /dev/zero >&2")
    assert (len(done.stdout), len(done.stderr)) == (65536, 65536)


async def started(fd: int) -> bytes:
    await readable(fd)
    return os.read(fd, 100)


async def test_cancellation_kills_and_reaps_before_it_is_passed_on(tmp_path: pathlib.Path) -> None:
    with witness(tmp_path) as fd:
        task = asyncio.create_task(shell(f"exec 5>{tmp_path}/held; echo held >&5; sleep 1000 & sleep 1000"))
        assert await started(fd) == b"held\n"
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        os.set_blocking(fd, True)
        assert os.read(fd, 1) == b""  # the grandchild as well


async def test_cancellation_again_and_again(tmp_path: pathlib.Path) -> None:
    with witness(tmp_path) as fd:
        task = asyncio.create_task(shell(f"exec 5>{tmp_path}/held; echo held >&5; exec sleep 1000"))
        await started(fd)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()


async def test_cancellation_at_every_moment_of_the_start() -> None:
    for steps in range(40):
        task = asyncio.create_task(run(["sleep", "1000"]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancellation_wins_over_a_failed_start() -> None:
    task = asyncio.create_task(run(["/nonexistent"]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_loop_torn_down_under_a_running_program() -> None:
    async def leave() -> None:
        tasks = [asyncio.create_task(run(["sleep", "1000"])) for _ in range(5)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)

    asyncio.run(leave())  # cancels all tasks; the fixture sees that no child is left


async def test_many_at_once() -> None:
    done = await asyncio.gather(*(shell(f"echo {i}; exit {i}", stdin=b"x") for i in range(60)))
    assert [(d.code, d.stdout) for d in done] == [(i, b"%d\n" % i) for i in range(60)]


def test_in_another_thread_than_main() -> None:
    results = []

    def work() -> None:
        results.append(asyncio.run(shell("echo thread; exit 6")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (results[0].code, results[0].stdout) == (6, b"thread\n")


async def test_beside_a_handler_for_sigchld() -> None:
    seen, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, seen.set)
    try:
        assert (await shell("exit 8")).code == 8
        await seen.wait()
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)


async def test_where_the_kernel_reaps_because_sigchld_is_ignored() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        outcome: int | None = (await run(["/bin/sh", "-c", "exit 9"])).code
    except NativeError as error:
        outcome = -(error.errno or 0)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert outcome in (9, -errno.ECHILD)  # the latter from kernels before 6.15, which cannot tell


async def test_joins_cgroups_and_takes_oom_score(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "cgroup.procs").open("w") as file:
        done = await run(["cat", "/proc/self/oom_score_adj"], cgroup_procs=[file.fileno()], oom_score_adj=500)
    assert done.stdout == b"500\n"
    assert (tmp_path / "cgroup.procs").read_text() == "0"


async def test_spawn_stdio_is_null_unless_mapped() -> None:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = spawn(
        ["/bin/sh", "-c", "readlink /proc/$$/fd/0 /proc/$$/fd/2; readlink /proc/$$/fd/9"],
        fds={1: write_end, 9: write_end},
    )
    os.close(write_end)
    assert await child.wait() == 0
    with open(read_end, "rb") as file:
        lines = file.read().decode().splitlines()
    assert lines[:2] == ["/dev/null", "/dev/null"]
    assert lines[2].startswith("pipe:")


async def test_child_many_waiters_one_of_them_cancelled() -> None:
    child = spawn(["sleep", "1000"])
    waiters = [asyncio.create_task(child.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    assert child.poll() is None
    assert child.code is None
    assert child.signal(signal.SIGTERM)
    assert await asyncio.gather(*waiters[1:]) == [143, 143]
    with pytest.raises(asyncio.CancelledError):
        await waiters[0]
    assert [child.poll(), await child.wait(), await child.watch()] == [143, 143, 143]
    assert child.pidfd.closed
    assert not child.signal(signal.SIGTERM)
    assert not child.kill_group()


async def test_child_poll_reaps_without_a_loop() -> None:
    child = spawn(["true"])
    select.select([child.pidfd], [], [])
    assert child.poll() == 0
    assert await child.wait() == 0


async def test_kill_group_and_child_without_a_group(tmp_path: pathlib.Path) -> None:
    with witness(tmp_path) as fd:
        child = spawn(["/bin/sh", "-c", f"exec 5>{tmp_path}/held; echo held >&5; sleep 1000 & sleep 1000"])
        await started(fd)
        assert child.kill_group(signal.SIGTERM)
        assert await child.wait() == 143
        os.set_blocking(fd, True)
        assert os.read(fd, 1) == b""
    child = spawn(["sleep", "1000"], new_session=False)
    assert os.getpgid(child.pid) == os.getpgrp()
    assert child.kill_group()  # reaches the child, not us
    assert await child.wait() == 137


def reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def test_a_signal_to_an_ended_child_is_no_error() -> None:
    child = spawn(["sleep", "1000"])
    reap(child.pid)  # behind its back: the handle does not know yet
    assert not child.signal(signal.SIGTERM)
    assert not child.kill_group()
    child.release()


async def test_release_cancels_waiters_and_leaves_the_process() -> None:
    child = spawn(["sleep", "1000"])
    waiter = asyncio.create_task(child.wait())
    await asyncio.sleep(0)
    child.release()
    child.release()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    reap(child.pid)


async def test_collected_before_reaped_warns() -> None:
    child = spawn(["sleep", "1000"])
    pid = child.pid
    with pytest.warns(ResourceWarning, match=f"child {pid} was collected"):
        del child
    reap(pid)


async def test_readable_tells_of_another_process() -> None:
    child: Child = spawn(["sleep", "1000"])
    again = proc.open_process(child.pid, proc.start_time(child.pid))
    assert again is not None
    with Fd(again) as pidfd:
        ended = asyncio.create_task(readable(pidfd.fileno()))
        await asyncio.sleep(0)
        assert not ended.done()
        child.kill_group()
        await ended
    assert await child.wait() == 137
