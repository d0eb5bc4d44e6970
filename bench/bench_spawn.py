"""What starting a program costs: the native spawn and run() beside posix_spawn, subprocess and asyncio.

    python bench/bench_spawn.py [--rounds 300] [--ballast 200]

Every round starts /bin/true once in each way and reaps it, in an order that moves on by one from round to round; what
counts is the ratio. ``--ballast`` MiB of touched memory make this process as large as a daemon: what copies page tables
pays for it. /bin/true itself (exec, loader, exit) is in every figure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable

from pycrio._native import proc
from pycrio._native.run import run, spawn

PROGRAM = "/bin/true"


async def native() -> None:
    _, pidfd = proc.spawn([PROGRAM.encode()], [], [(0, 0), (1, 1), (2, 2)])
    proc.wait(pidfd)
    os.close(pidfd)


async def posix_spawn() -> None:
    os.waitpid(os.posix_spawn(PROGRAM, [PROGRAM], {}), 0)  # noqa: ASYNC222


async def popen() -> None:
    with subprocess.Popen([PROGRAM], start_new_session=True) as child:
        child.wait()


async def plain_fork() -> None:
    pid = os.fork()
    if pid == 0:
        os.execve(PROGRAM, [PROGRAM], {})
    os.waitpid(pid, 0)  # noqa: ASYNC222


async def our_child() -> None:
    await spawn([PROGRAM]).wait()


async def our_run() -> None:
    await run([PROGRAM])


async def asyncio_communicate() -> None:
    child = await asyncio.create_subprocess_exec(PROGRAM, stdin=-3, stdout=-1, stderr=-1, start_new_session=True)
    await child.communicate()


WAYS: dict[str, Callable[[], Awaitable[None]]] = {
    "proc.spawn + wait": native,
    "os.posix_spawn + waitpid": posix_spawn,
    "subprocess.Popen + wait": popen,
    "os.fork + exec + waitpid": plain_fork,
    "run.spawn + await wait": our_child,
    "await run.run, captured": our_run,
    "asyncio subprocess, captured": asyncio_communicate,
}


async def measure(rounds: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for i in range(rounds + 10):
        ways = list(WAYS.items())
        for name, way in ways[i % len(ways) :] + ways[: i % len(ways)]:
            begin = time.perf_counter()
            await way()
            if i >= 10:
                taken[name].append((time.perf_counter() - begin) * 1e6)
    base = statistics.median(taken["os.posix_spawn + waitpid"])
    print(f"{'':30} {'median µs':>10} {'p99 µs':>10} {'÷ posix_spawn':>14}")
    for name, values in taken.items():
        median = statistics.median(values)
        print(f"{name:30} {median:10.0f} {statistics.quantiles(values, n=100)[98]:10.0f} {median / base:14.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--ballast", type=int, default=200, metavar="MIB")
    options = parser.parse_args()
    ballast = bytearray(options.ballast << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    asyncio.run(measure(options.rounds))


if __name__ == "__main__":
    main()
