"""What the namespaces of a pod cost: the native core beside unshare, ip netns and the bare system call.

    python bench/bench_ns.py [--rounds 100] [--ballast 200]      side by side, ratios
    python -m pytest bench/bench_ns.py --benchmark-only           ours alone

Every round makes and removes net, uts and ipc namespaces once in each way, in an order that moves on by one from round
to round; what counts is the ratio. ``--ballast`` MiB of touched memory and eight idle threads make this process like a
daemon. The kernel frees network namespaces later, in a worker, which disturbs all ways alike.

- native: create() with loopback up, a sysctl and a hostname, three pins; then three unpin()
- native-user: the same in a user namespace with maps, four pins
- native-keeper: the same with a pid namespace held by pycrio-pause
- unshare: one exec of util-linux unshare that pins the three, loopback left down, no sysctl; umount by system call: the
  shape of a pinning helper program (pinns) without its configuration work
- unshare+set-up: the same with a shell inside that raises loopback, sets the sysctl and the hostname
- ip-netns: ip netns add, ip link set lo up; removed by system call (one namespace instead of three)
- fork: os.fork() and the child's end alone, what a holder that copied our page tables would start with
- bare: unshare(net|uts|ipc) in a thread that ends: nothing pinned or set, the kernel's own part
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import os
import pathlib
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pycrio._native import mounts, ns

PAUSE = str(pathlib.Path(ns.__file__).parent / "bin" / "pycrio-pause")
SYSCTLS = [("net.ipv4.ip_unprivileged_port_start", "0")]
MAP = [(0, 300000, 65536)]
KINDS = ("net", "uts", "ipc")
NETNS = f"bench-ns-{os.getpid()}"
libc = ctypes.CDLL(None, use_errno=True)


def execute(*argv: str) -> None:
    """The cheapest exec of a program that Python has."""
    pid = os.posix_spawnp(argv[0], argv, os.environ)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"{argv[0]} ended with {status}")


class Ways:
    """Each method makes and removes once, and gives the seconds that making took."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.serial = itertools.count()

    def pins(self, *kinds: str) -> dict[str, str]:
        n = next(self.serial)
        return {kind: f"{self.directory}/{n}-{kind}" for kind in kinds}

    def native(self) -> float:
        pins = self.pins(*KINDS)
        start = time.perf_counter()
        ns.create(pins, sysctls=SYSCTLS, hostname="pod")
        took = time.perf_counter() - start
        self.remove(pins)
        return took

    def native_user(self) -> float:
        pins = self.pins(*KINDS, "user")
        start = time.perf_counter()
        ns.create(pins, sysctls=SYSCTLS, hostname="pod", uid_map=MAP, gid_map=MAP)
        took = time.perf_counter() - start
        self.remove(pins)
        return took

    def native_keeper(self) -> float:
        pins = self.pins(*KINDS, "pid")
        start = time.perf_counter()
        keeper = ns.create_kept(pins, [PAUSE], sysctls=SYSCTLS, hostname="pod")
        took = time.perf_counter() - start
        os.kill(keeper.pid, signal.SIGKILL)
        os.waitpid(keeper.pid, 0)
        keeper.pidfd.close()
        self.remove(pins)
        return took

    def _unshare(self, *command: str) -> float:
        pins = self.pins(*KINDS)
        for path in pins.values():
            pathlib.Path(path).touch()
        start = time.perf_counter()
        execute("unshare", *(f"--{kind}={path}" for kind, path in pins.items()), *command)
        took = time.perf_counter() - start
        self.remove(pins)
        return took

    def unshare(self) -> float:
        return self._unshare("true")

    def unshare_set_up(self) -> float:
        script = "ip link set lo up; hostname pod; echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start"
        return self._unshare("sh", "-ec", script)

    def ip_netns(self) -> float:
        start = time.perf_counter()
        execute("ip", "netns", "add", NETNS)
        execute("ip", "-n", NETNS, "link", "set", "lo", "up")
        took = time.perf_counter() - start
        ns.unpin(f"/run/netns/{NETNS}")
        return took

    def fork(self) -> float:
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return time.perf_counter() - start

    def bare(self) -> float:
        took = 0.0

        def make() -> None:
            nonlocal took
            start = time.perf_counter()
            if libc.unshare(0x40000000 | 0x04000000 | 0x08000000) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            took = time.perf_counter() - start

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return took

    def remove(self, pins: dict[str, str]) -> None:
        for path in pins.values():
            ns.unpin(path)


@contextlib.contextmanager
def scratch() -> Iterator[Ways]:
    """A tmpfs for the pins, as /run is one."""
    with tempfile.TemporaryDirectory() as directory:
        mounts.tmpfs(directory, mode=0o700)
        try:
            yield Ways(directory)
        finally:
            mounts.umount(directory)


def test_create_and_remove(benchmark: Any) -> None:
    with scratch() as ways:
        benchmark(ways.native)


def test_create_and_remove_with_user(benchmark: Any) -> None:
    with scratch() as ways:
        benchmark(ways.native_user)


def test_create_and_remove_with_keeper(benchmark: Any) -> None:
    with scratch() as ways:
        benchmark(ways.native_keeper)


@pytest.mark.parametrize("layers", [1, 10, 100, 500])
def test_overlay_mount_and_umount(benchmark: Any, layers: int) -> None:
    with scratch() as ways:
        lowers = [f"{ways.directory}/l{i}" for i in range(layers)]
        upper, work, target = (f"{ways.directory}/{name}" for name in ("u", "w", "t"))
        for path in (*lowers, upper, work, target):
            os.mkdir(path)

        def once() -> None:
            mounts.overlay(lowers, upper, work, target)
            mounts.umount(target)

        benchmark(once)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--ballast", type=int, default=0)
    options = parser.parse_args()
    ballast = bytearray(options.ballast << 20)
    for i in range(0, len(ballast), 4096):
        ballast[i] = 1
    stop = threading.Event()
    crowd = [threading.Thread(target=stop.wait) for _ in range(8)]
    for thread in crowd:
        thread.start()
    with scratch() as ways:
        table: dict[str, Callable[[], float]] = {
            "native": ways.native,
            "native-user": ways.native_user,
            "native-keeper": ways.native_keeper,
            "unshare": ways.unshare,
            "unshare+set-up": ways.unshare_set_up,
            "ip-netns": ways.ip_netns,
            "fork": ways.fork,
            "bare": ways.bare,
        }
        names = list(table)
        made: dict[str, list[float]] = {name: [] for name in names}
        whole: dict[str, list[float]] = {name: [] for name in names}
        for i in range(options.rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                start = time.perf_counter()
                made[name].append(table[name]())
                whole[name].append(time.perf_counter() - start)
    stop.set()
    for thread in crowd:
        thread.join()
    base = statistics.median(made["native"])
    print(f"{'way':16}{'make ms':>9}{'p90':>8}{'and remove':>12}{'ratio to native':>17}")
    for name in names:
        half, tenth = statistics.median(made[name]), statistics.quantiles(made[name], n=10)[-1]
        both = statistics.median(whole[name])
        print(f"{name:16}{half * 1e3:9.2f}{tenth * 1e3:8.2f}{both * 1e3:12.2f}{half / base:17.2f}")


if __name__ == "__main__":
    main()
