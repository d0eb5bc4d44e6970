from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Iterator

import pytest

from pycrio._native import mounts, ns
from pycrio._native.run import Completed, run, spawn

pytestmark = pytest.mark.usefixtures("no_leaks")

BIN = pathlib.Path(ns.__file__).parent / "bin"
NSEXEC = str(BIN / "pycrio-nsexec")
MAP = [(0, 300000, 65536)]


async def nsexec(*argv: str) -> Completed:
    return await run([NSEXEC, *argv])


@pytest.fixture
def pod(tmp_path: pathlib.Path) -> Iterator[dict[str, str]]:
    """All seven kinds, a user namespace owning the rest."""
    pins = {kind: str(tmp_path / kind) for kind in ("net", "uts", "ipc", "user", "mnt", "cgroup", "pid")}
    keeper = ns.create_kept(pins, [str(BIN / "pycrio-pause")], hostname="podx", uid_map=MAP, gid_map=MAP)
    yield pins
    os.kill(keeper.pid, signal.SIGKILL)
    os.waitpid(keeper.pid, 0)
    keeper.pidfd.close()
    for path in pins.values():
        assert ns.unpin(path)


def options(pins: dict[str, str], *kinds: str) -> list[str]:
    return [word for kind in (kinds or tuple(pins)) for word in (f"--{kind}", pins[kind])]


async def test_all_kinds_at_once(pod: dict[str, str]) -> None:
    """The pid namespace is left out of the look, since /proc there shows our own pids and has no /proc/self."""
    kinds = [kind for kind in pod if kind != "pid"]
    links = [f"/proc/self/ns/{kind}" for kind in kinds]
    done = await nsexec(*options(pod, *kinds), "--", "stat", "-Lc", "%i", *links)
    assert [int(i) for i in done.stdout.split()] == [ns.ns_inode(pod[kind]) for kind in kinds]
    done = await nsexec(*options(pod), "--", "sh", "-c", "hostname; kill -0 1 && [ $$ -lt 100 ]")
    assert (done.code, done.stdout) == (0, b"podx\n"), done.stderr


@pytest.mark.parametrize("kinds", [("user",), ("user", "net"), ("mnt", "net", "user"), ("uts",), ("pid",)])
async def test_subsets(pod: dict[str, str], kinds: tuple[str, ...]) -> None:
    done = await nsexec(*options(pod, *kinds), "--", "sh", "-c", "hostname; id -u; exit 3")
    assert done.code == 3, done.stderr
    hostname, uid = done.stdout.decode().split()
    assert (hostname == "podx") == ("uts" in kinds)
    assert uid == "0"


async def test_foreign_namespace_with_user(pod: dict[str, str], tmp_path: pathlib.Path) -> None:
    """A network namespace of ours beside the pod's user namespace: joined before we give up our rights."""
    mine = str(tmp_path / "mine")
    ns.create({"net": mine})
    try:
        done = await nsexec("--user", pod["user"], "--net", mine, "--", "stat", "-Lc", "%i", "/proc/self/ns/net")
        assert int(done.stdout) == ns.ns_inode(mine), done.stderr
    finally:
        ns.unpin(mine)


async def test_codes() -> None:
    assert (await nsexec("sh", "-c", "exit 42")).code == 42
    assert (await nsexec("--", "/nonesuch")).code == 127
    assert (await nsexec("/etc/passwd")).code == 126
    for wrong in ([], ["--bogus"], ["--net"], ["--net", "/nonesuch", "true"], ["--net", "/etc/passwd", "true"]):
        done = await nsexec(*wrong)
        assert done.code == 125
        assert done.stdout == b""
        assert done.stderr != b""
    assert b"net /nonesuch: No such file" in (await nsexec("--net", "/nonesuch", "true")).stderr
    assert (await nsexec("--version")).stdout.startswith(b"pycrio-nsexec ")
    assert b"--cgroup" in (await nsexec("--help")).stdout


async def test_signals_reach_the_command_in_a_pid_namespace(pod: dict[str, str]) -> None:
    done = await nsexec(*options(pod, "pid"), "--", "sh", "-c", "kill -9 $$")
    assert done.code == 128 + signal.SIGKILL
    read_end, write_end = os.pipe()
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    child = spawn([NSEXEC, *options(pod, "pid"), "--", "sh", "-c", script], fds={1: write_end})
    os.close(write_end)
    assert os.read(read_end, 6) == b"ready\n"
    child.signal(signal.SIGTERM)
    assert await child.wait() == 9
    os.close(read_end)


async def test_command_goes_with_us(pod: dict[str, str]) -> None:
    """Killed between, the command in the pid namespace ends too: the pipe that it holds is closed."""
    read_end, write_end = os.pipe()
    argv = [NSEXEC, *options(pod, "pid"), "--", "sh", "-c", "echo ready; exec sleep 1000"]
    child = spawn(argv, fds={1: write_end})
    os.close(write_end)
    with open(read_end, "rb") as file:
        assert file.readline() == b"ready\n"
        child.signal(signal.SIGKILL)
        assert await child.wait() == 128 + signal.SIGKILL
        assert file.read() == b""


async def test_root_directory_and_loopback(tmp_path: pathlib.Path) -> None:
    pin, root = str(tmp_path / "net"), tmp_path / "root"
    root.mkdir()
    ns.create({"net": pin}, loopback_up=False)
    try:
        assert (await nsexec("--net", pin, "--lo-up")).code == 0
        assert ns.addresses(pin, "lo")[0] == "127.0.0.1"
        mounts.bind("/usr", str(root), recursive=True)
        done = await nsexec("--cwd", "/tmp", "--", "pwd")
        assert done.stdout == b"/tmp\n"
        done = await nsexec("--chroot", str(root), "--cwd", "/share", "--", "/bin/true")
        assert done.code in (127, 0)  # found below the new root; its loader is another matter
        assert (await nsexec("--chroot", str(root), "--cwd", "/nonesuch", "--", "/bin/true")).code == 125
        assert (await nsexec("--chroot", "/nonesuch", "--", "/bin/true")).code == 125
    finally:
        mounts.umount(str(root))
        ns.unpin(pin)
