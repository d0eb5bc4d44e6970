"""Pulls of one image by pycrio and by podman, side by side: same registry, same fresh file system, turns alternate.

    python bench/bench_pull_podman.py [--rounds N] [--image many|big] [--files N] [--compression gzip|zstd]

Images: busybox and three layers of many small files; or one layer of 390 MB of this machine's own /usr. Both write the
same kind of store (overlay, tar-split, digests), each in a root of its own. Root; everything is made in private mount
and network namespaces and goes with them.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from bench_unpack import pack_big
from peers import isolated, many_files

from tests.daemon import Daemon
from tests.fixtures_registry import Layer, RunningRegistry, busybox_layer, push_image, start_registry

# files and bytes of each, per layer, before scaling
SHAPE = ((14000, 9000), (12000, 8000), (6000, 14000))


class Podman:
    """podman on a store of its own."""

    def __init__(self, base: pathlib.Path, registry: RunningRegistry) -> None:
        base.mkdir()
        (base / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        self.policy = base / "policy.json"
        self.options = ["--root", str(base / "root"), "--runroot", str(base / "run"), "--storage-driver", "overlay"]
        self.options += ["--events-backend", "none", "--cgroup-manager", "cgroupfs"]

    def call(self, *arguments: str) -> None:
        subprocess.run(["podman", *self.options, *arguments], check=True, stdout=subprocess.DEVNULL)

    def pull(self, image: str) -> None:
        self.call("pull", "-q", "--tls-verify=false", "--signature-policy", str(self.policy), image)

    def remove(self, image: str) -> None:
        self.call("rmi", "-f", image)


class Ours:
    """pycrio by its socket."""

    def __init__(self, base: pathlib.Path, registry: RunningRegistry) -> None:
        self.daemon = Daemon(str(base))
        self.daemon.insecure(registry.address)
        self.daemon.start()
        self.cri = self.daemon.client(600)

    def pull(self, image: str) -> None:
        self.cri.PullImage(image={"image": image})

    def remove(self, image: str) -> None:
        self.cri.RemoveImage(image={"image": image})

    def close(self) -> None:
        self.cri.close()
        self.daemon.clean()


def layers_of(args: argparse.Namespace, base: pathlib.Path) -> list[Layer]:
    if args.image == "many":
        return [busybox_layer(), *(many_files(count * args.files // 32000, size) for count, size in SHAPE)]
    pack_big(base / "big.tar")
    return [(base / "big.tar").read_bytes()]


def timed(work: Callable[[str], None], image: str) -> float:
    os.sync()
    begin = time.perf_counter()
    work(image)
    return time.perf_counter() - begin


def run(base: pathlib.Path, args: argparse.Namespace) -> None:
    registry = start_registry(base / "reg")
    ours = None
    try:
        built = push_image(registry, "many:1", layers_of(args, base), compression=args.compression)
        image = f"{registry.address}/many:1"
        ours = Ours(base / "w" / "p", registry)
        peers: dict[str, Ours | Podman] = {"pycrio": ours, "podman": Podman(base / "w" / "podman", registry)}
        seen: dict[str, list[float]] = {name: [] for name in peers}
        for number in range(args.rounds + 1):
            for name in list(peers)[:: 1 if number % 2 else -1]:
                took = timed(peers[name].pull, image)
                peers[name].remove(image)
                if number:  # the first round warms up
                    seen[name].append(took)
        size = sum(len(blob) for blob in built.blobs.values()) / 1e6
        print(f"pull of image {args.image}, {size:.0f} MB as {args.compression}, {args.rounds} rounds, medians")
        reference = statistics.median(seen["podman"])
        for name, values in seen.items():
            median = statistics.median(values)
            print(f"  {name:8} {median:7.3f} s  best {min(values):7.3f}  ratio {median / reference:5.2f}")
    finally:
        if ours is not None:
            ours.close()
        registry.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", choices=["many", "big"], default="many")
    parser.add_argument("--files", type=int, default=32000, help="of image many")
    parser.add_argument("--compression", choices=["gzip", "zstd"], default="gzip")
    args = parser.parse_args()
    isolated()
    base = pathlib.Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
    (base / "w").mkdir()
    with open(base / "disk", "wb") as f:
        f.truncate(12 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", base / "disk"], check=True)
    subprocess.run(["mount", "-o", "loop", base / "disk", base / "w"], check=True)
    try:
        run(base, args)
    finally:
        subprocess.run(["umount", "-l", base / "w"], check=False)
        shutil.rmtree(base, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
