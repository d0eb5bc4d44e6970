"""Log path and memory of the monitor beside conmon: CPU seconds per GB of container output, throughput, memory.

    python bench/bench_log.py [--megabytes 64] [--rounds 3] [--dir /tmp] [--peer /usr/bin/conmon]
    python bench/bench_log.py --memory 100
    python bench/bench_log.py --startup 100

Both monitors get the same command line, the same stand-in for the OCI runtime (it starts a writer and leaves its pid)
and the same output, alternately in one run. CPU is the monitor's own (/proc/<pid>/schedstat), read when its log is
complete and before it ends. What counts is the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ROOT / "pycrio" / "_native" / "bin" / "pycrio-monitor"
LINE = b"x" * 99 + b"\n"

# name -> (size of one write, content, share of the data volume)
MODES: dict[str, tuple[int, bytes, float]] = {
    "lines-block": (65500, LINE, 1.0),
    "lines-stdio": (4096, LINE, 1.0),
    "lines-single": (100, LINE, 0.5),
    "write-8k": (8192, b"y" * 8191 + b"\n", 1.0),
    "write-1": (1, LINE, 0.01),
}


def writer(mode: str, total: int, go: str) -> None:
    """The container: waits for the go fifo, writes, waits for the second go, ends."""
    size, unit, _ = MODES[mode]
    block = (unit * (size // len(unit) + 2))[: max(size, len(unit)) // len(unit) * len(unit)]
    if mode == "lines-stdio":  # as stdio does: blocks that end anywhere
        block = unit * 4096
        pieces = [block[i : i + size] for i in range(0, len(block), size)]
    elif mode == "write-1":
        pieces = [bytes([b]) for b in unit]
    else:
        pieces = [block]
    with open(go, "rb") as fifo:
        fifo.read()
    done = 0
    write = os.write
    while done < total:
        for piece in pieces:
            done += write(1, piece)
    with open(go + "2", "rb") as fifo:
        fifo.read()


def runtime(arguments: list[str]) -> None:
    """The OCI runtime: start the writer, leave its pid."""
    pid_file = arguments[arguments.index("--pid-file") + 1]
    pid = os.fork()
    if pid == 0:
        mode, total, go = os.environ["BENCH_MODE"], int(os.environ["BENCH_TOTAL"]), os.environ["BENCH_GO"]
        if mode == "idle":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.execv("/bin/sleep", ["sleep", "3600"])
        writer(mode, total, go)
        os._exit(0)
    pathlib.Path(pid_file).write_text(str(pid))


@dataclass(frozen=True)
class Result:
    cpu: float  # seconds
    wall: float  # seconds
    bytes: int  # of container output


def cpu_seconds(pid: int) -> float:
    return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextlib.contextmanager
def monitor(program: str, base: pathlib.Path, environment: dict[str, str], name: str) -> Iterator[int]:
    """A running monitor (its pid) with a container of the stand-in runtime."""
    stand_in = base / "runtime"
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} {os.path.abspath(__file__)} --as-runtime "$@"\n')
    stand_in.chmod(0o755)
    bundle = base / name
    bundle.mkdir()
    read, write = os.pipe()
    (base / "s").mkdir(exist_ok=True)
    (base / "exits").mkdir(exist_ok=True)
    command = [program, "-c", name.ljust(16, "0"), "-u", name, "-n", name, "-b", str(bundle), "-l", str(bundle / "log")]
    command += ["-p", str(bundle / "pid"), "-P", str(bundle / "mpid"), "-r", str(stand_in), "--no-sync-log"]
    command += ["--socket-dir-path", str(base / "s"), "--exit-dir", str(base / "exits")]
    settings = {**os.environ, **environment, "_OCI_SYNCPIPE": str(write)}
    subprocess.run(command, check=True, pass_fds=[write], env=settings)
    os.close(write)
    with open(read, "rb") as report:
        line = report.readline()
    if b'"pid": -1' in line or not line:
        raise RuntimeError(f"{program}: {line!r}")
    pid = int((bundle / "mpid").read_text())
    container = int((bundle / "pid").read_text())
    pidfd = os.pidfd_open(pid)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(container, signal.SIGTERM)
        select.select([pidfd], [], [], 30)
        os.close(pidfd)


def measure(program: str, mode: str, total: int, base: pathlib.Path) -> Result:
    """One round: returns when the log holds everything."""
    work = pathlib.Path(tempfile.mkdtemp(dir=base))
    try:
        go = work / "go"
        os.mkfifo(go)
        os.mkfifo(f"{go}2")
        environment = {"BENCH_MODE": mode, "BENCH_TOTAL": str(total), "BENCH_GO": str(go)}
        with monitor(program, work, environment, "c") as pid:
            before = cpu_seconds(pid)
            started = time.monotonic()
            open(go, "wb").close()
            with open(f"{go}2", "wb"):  # opens when the writer has written all
                while unread(pid):
                    time.sleep(0.001)
                wall = time.monotonic() - started
                cpu = cpu_seconds(pid) - before
        size = content_size(work / "c" / "log")
        if size < total:
            raise RuntimeError(f"{program}: log has {size} of {total} bytes")
        return Result(cpu, wall, total)
    finally:
        shutil.rmtree(work)


def unread(pid: int) -> bool:
    """True while the monitor is not asleep (the writer is done, so asleep means that all was read)."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S"


def content_size(log: pathlib.Path) -> int:
    """Bytes of container output in a CRI log: full lines count their newline."""
    total = 0
    with open(log, "rb") as lines:
        for line in lines:
            total += len(line) - 45 - (line[43:44] == b"P")
    return total


def memory(program: str, count: int, base: pathlib.Path) -> dict[str, float]:
    """Private dirty and PSS in kB per monitor, with count of them running idle side by side."""
    work = pathlib.Path(tempfile.mkdtemp(dir=base))
    sums: dict[str, list[int]] = {"Private_Dirty": [], "Pss": []}
    try:
        with contextlib.ExitStack() as stack:
            environment = {"BENCH_MODE": "idle", "BENCH_TOTAL": "0", "BENCH_GO": ""}
            pids = [stack.enter_context(monitor(program, work, environment, f"c{i:03}")) for i in range(count)]
            for pid in pids:
                for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    key = line.partition(":")[0]
                    if key in sums:
                        sums[key].append(int(line.split()[1]))
        return {key: statistics.mean(values) for key, values in sums.items()}
    finally:
        shutil.rmtree(work)


# Notes the time, and becomes the program it was told to be. Without libc: its own start is not what is measured.
STAMP = """
#include "common/raw.h"
#include <linux/time.h>
int raw_main(const uintptr_t *stack) {
        const char *const *argv = (const char *const *) (stack + 1);
        struct timespec now;
        (void) raw3(__NR_clock_gettime, CLOCK_MONOTONIC, (long) &now, 0);
        int fd = (int) raw5(__NR_openat, -100, (long) WHEN, 01001 | 0100, 0600, 0);
        if (raw3(__NR_write, fd, (long) &now, sizeof now) != sizeof now || raw3(__NR_close, fd, 0, 0) < 0)
                raw_exit(1);
        if (BECOME)
                (void) raw3(__NR_execve, (long) argv[1], (long) (argv + 1), (long) (argv + stack[0] + 1));
        raw_exit(1);
}
"""


def stamping(source: pathlib.Path, name: str, become: int) -> tuple[pathlib.Path, pathlib.Path]:
    """A program that notes when it began, and the file it does so in."""
    program, when = source.with_name(name), source.with_name(f"{name}.when")
    flags = ["-O2", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-Wl,--build-id=none"]
    words = [f"-I{ROOT / 'csrc'}", f'-DWHEN="{when}"', f"-DBECOME={become}", "-o", str(program), str(source)]
    subprocess.run(["cc", *flags, *words], check=True)
    return program, when


def noted(when: pathlib.Path) -> float:
    """Milliseconds of the monotonic clock."""
    seconds, nanoseconds = struct.unpack("ll", when.read_bytes())
    return float(seconds * 1e3 + nanoseconds / 1e6)


def startup(programs: list[str], count: int, base: pathlib.Path) -> list[float]:
    """Milliseconds from the exec of a monitor to the first instruction of its runtime, median per program."""
    work = pathlib.Path(tempfile.mkdtemp(dir=base))
    try:
        source = work / "stamp.c"
        source.write_text(STAMP)
        (launch, begun), (stand_in, there) = stamping(source, "launch", 1), stamping(source, "runtime", 0)
        times: dict[str, list[float]] = {program: [] for program in programs}
        for _ in range(count):
            for program, values in times.items():
                read, write = os.pipe()
                command = [str(launch), program, "-b", str(work), "-c", "c" * 16, "-u", "u", "-l", "none"]
                command += ["-p", str(work / "pid"), "-r", str(stand_in), "--socket-dir-path", str(work)]
                environment = {**os.environ, "_OCI_SYNCPIPE": str(write)}
                subprocess.run(command, check=True, pass_fds=[write], env=environment, stderr=subprocess.DEVNULL)
                os.close(write)
                with open(read, "rb") as report:  # it says that the runtime failed: all has been written
                    report.readline()
                values.append(noted(there) - noted(begun))
        return [statistics.median(values) for values in times.values()]
    finally:
        shutil.rmtree(work)


def main() -> None:
    if sys.argv[1:2] == ["--as-runtime"]:
        runtime(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("/tmp"))
    parser.add_argument("--ours", default=str(OURS))
    parser.add_argument("--peer", default="/usr/bin/conmon")
    parser.add_argument("--memory", type=int, metavar="N", help="compare the memory of N idle monitors instead")
    parser.add_argument("--startup", type=int, metavar="N", help="compare N starts instead")
    parser.add_argument("--modes", default=",".join(MODES))
    options = parser.parse_args()

    if options.memory:
        ours, peer = (memory(p, options.memory, options.dir) for p in (options.ours, options.peer))
        for key in ours:
            print(f"{key:14} ours {ours[key]:7.0f} kB   conmon {peer[key]:7.0f} kB   ratio {ours[key] / peer[key]:.3f}")
        return
    if options.startup:
        first, second = startup([options.ours, options.peer], options.startup, options.dir)
        print(f"exec to runtime: ours {first:.2f} ms   conmon {second:.2f} ms   ratio {first / second:.3f}")
        return
    print(f"{'mode':13} {'ours CPU s/GB':>14} {'conmon':>8} {'ratio':>7}   {'ours MB/s':>10} {'conmon':>8}")
    for mode in options.modes.split(","):
        total = int(options.megabytes * 1e6 * MODES[mode][2])
        rounds: dict[str, list[Result]] = {options.ours: [], options.peer: []}
        for _ in range(options.rounds):
            for program, results in rounds.items():
                results.append(measure(program, mode, total, options.dir))
        cpu = [statistics.median(r.cpu / r.bytes * 1e9 for r in results) for results in rounds.values()]
        rate = [statistics.median(r.bytes / r.wall / 1e6 for r in results) for results in rounds.values()]
        print(f"{mode:13} {cpu[0]:14.2f} {cpu[1]:8.2f} {cpu[0] / cpu[1]:7.3f}   {rate[0]:10.1f} {rate[1]:8.1f}")


if __name__ == "__main__":
    main()
