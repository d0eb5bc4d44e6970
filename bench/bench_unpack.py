"""Layer extraction against GNU tar on the already decompressed file.

    python bench/bench_unpack.py [--runs N] [--fs ext4|tmpfs] [--corpus big|small] [--keep DIR]

Each run unpacks onto an empty file system of its own: a freshly made ext4 in a sparse file (loop mount), because a used
one without journal scans recently deleted inodes and swamps every difference, or tmpfs. Peers take turns; the ratio of
medians is printed. Needs root. `pytest bench/bench_unpack.py` gives the same as pytest-benchmark rounds on tmpfs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pycrio._native import untar

BIG = ("/usr/lib", "/usr/bin", "/usr/sbin", "/etc", "/usr/share/perl", "/usr/share/perl5", "/usr/share/zoneinfo")
LIMIT = 390 << 20


def pack_big(to: pathlib.Path) -> None:
    """About 390 MB of this machine's own programs and libraries: like a Debian root with Python and Perl."""
    total, chosen = 0, []
    for top in BIG:
        for here, dirs, files in os.walk(top):
            dirs.sort()
            for name in sorted(files):
                path = os.path.join(here, name)
                size = os.lstat(path).st_size
                if size > 30 << 20 or total + size > LIMIT:
                    continue
                total += size
                chosen.append(path)
    pack(to, chosen)


def pack_small(to: pathlib.Path) -> None:
    """20 000 files of 0 to 8 KiB in 400 directories."""
    with tempfile.TemporaryDirectory(dir=to.parent) as base:
        chosen = []
        text = os.urandom(4096).hex().encode()
        for i in range(20_000):
            path = pathlib.Path(base) / f"d{i // 50}" / f"file{i}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text[: i * 7919 % 8192])
            chosen.append(str(path))
        pack(to, chosen)


def pack(to: pathlib.Path, chosen: list[str]) -> None:
    names = b"\0".join(os.fsencode(p) for p in chosen)
    command = ["tar", "-P", "--null", "-T", "-", "--format=pax", "-cf", str(to), "--transform=s,^/,,"]
    subprocess.run(command, input=names, check=True)


@contextlib.contextmanager
def file_system(kind: str, base: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty file system, gone afterwards."""
    where, image = base / "mnt", base / "image"
    where.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=2g", "none", str(where)]
    else:
        with open(image, "wb") as f:
            f.truncate(2 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(where)]
    subprocess.run(command, check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)
        where.rmdir()
        image.unlink(missing_ok=True)


def ours(blob: pathlib.Path, where: pathlib.Path) -> None:
    """As a pull does it: compressed blob, both digests, tar-split beside the layer."""
    target = where / "diff"
    target.mkdir()
    fds = [
        os.open(blob, os.O_RDONLY),
        os.open(target, os.O_RDONLY),
        os.open(where / "split.gz", os.O_WRONLY | os.O_CREAT, 0o600),
    ]
    try:
        untar.extract(fds[0], fds[1], split_fd=fds[2])
    finally:
        for fd in fds:
            os.close(fd)


def gnu_tar(blob: pathlib.Path, where: pathlib.Path) -> None:
    target = where / "diff"
    target.mkdir()
    options = ["--same-owner", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run(["tar", "-C", str(target), *options, "-xf", str(blob)], check=True)


def corpora(base: pathlib.Path, which: str) -> dict[str, pathlib.Path]:
    plain = base / f"{which}.tar"
    if not plain.exists():
        (pack_big if which == "big" else pack_small)(plain)
        subprocess.run(["gzip", "-k", "-6", str(plain)], check=True)
        subprocess.run(["zstd", "-q", "-k", "-3", str(plain)], check=True)
    return {"plain": plain, "gzip": base / f"{which}.tar.gz", "zstd": base / f"{which}.tar.zst"}


def measure(
    run: Callable[[pathlib.Path, pathlib.Path], None], blob: pathlib.Path, kind: str, base: pathlib.Path
) -> tuple[float, float]:
    """Wall and CPU seconds (own and children)."""
    with file_system(kind, base) as where:
        os.sync()
        blob.read_bytes()  # into the page cache

        def cpu() -> float:
            both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            return sum(u.ru_utime + u.ru_stime for u in both)

        begin, used = time.perf_counter(), cpu()
        run(blob, where)
        return time.perf_counter() - begin, cpu() - used


def compare(which: str, kind: str, runs: int, base: pathlib.Path) -> None:
    blobs = corpora(base, which)
    peers: dict[str, tuple[Callable[[pathlib.Path, pathlib.Path], None], pathlib.Path]] = {
        "GNU tar, plain": (gnu_tar, blobs["plain"]),
        "ours, gzip": (ours, blobs["gzip"]),
        "ours, zstd": (ours, blobs["zstd"]),
        "ours, plain": (ours, blobs["plain"]),
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    for i in range(runs + 1):
        for name, (run, blob) in peers.items():
            got = measure(run, blob, kind, base)
            if i > 0:  # the first round warms up
                seen[name].append(got)
    print(f"{which} ({blobs['plain'].stat().st_size / 1e6:.0f} MB) on fresh {kind}, {runs} runs, medians")
    reference = statistics.median(w for w, _ in seen["GNU tar, plain"])
    for name, rows in seen.items():
        wall, used = (statistics.median(x) for x in zip(*rows, strict=True))
        low = min(w for w, _ in rows)
        print(f"  {name:16} wall {wall:6.3f} s (best {low:.3f})  cpu {used:6.3f} s  ratio {wall / reference:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--fs", choices=["ext4", "tmpfs"], default="ext4")
    parser.add_argument("--corpus", choices=["big", "small"], action="append")
    parser.add_argument("--keep", type=pathlib.Path, help="where archives are kept between calls")
    args = parser.parse_args()
    base = args.keep or pathlib.Path(tempfile.mkdtemp(prefix="bench-unpack-"))
    base.mkdir(exist_ok=True)
    try:
        for which in args.corpus or ["big", "small"]:
            compare(which, args.fs, args.runs, base)
    finally:
        if not args.keep:
            shutil.rmtree(base)


@pytest.mark.parametrize("form", ["gzip", "zstd", "plain"])
def test_unpack_many_small_files(benchmark: Any, tmp_path: pathlib.Path, form: str) -> None:
    blob = corpora(tmp_path, "small")[form]
    with contextlib.ExitStack() as stack:

        def fresh() -> tuple[tuple[pathlib.Path, pathlib.Path], dict[str, object]]:
            stack.close()
            return (blob, stack.enter_context(file_system("tmpfs", tmp_path))), {}

        benchmark.pedantic(ours, setup=fresh, rounds=3)


if __name__ == "__main__":
    main()
