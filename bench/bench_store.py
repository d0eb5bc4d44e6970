"""The store beside skopeo: a pull of 300 MB and 30 000 files, and what a container and a list call cost.

``python -m bench.bench_store [DIRECTORY]`` prints seconds, ratios and milliseconds. The directory should be on a fresh
journalled file system or in memory (default: /dev/shm); see DESIGN.md section 7 for why.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from pycrio._native import mounts
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.store import Store
from tests.unit.drivers.layers.support import Blob, Entry, make_image, make_tar, oci_layout, unpack

NAME = "registry.test/bench/big:1"
POLICY = '{"default":[{"type":"insecureAcceptAnything"}]}'


def layers() -> list[bytes]:
    """Three archives of text that compresses as programs and documents do."""
    chance = random.Random(1)
    words = [bytes(chance.choices(range(97, 123), k=7)) for _ in range(4000)]

    def text(size: int) -> bytes:
        return b" ".join(chance.choices(words, k=size // 8 + 1))[:size]

    out = []
    for layer in range(3):
        files: dict[str, bytes | None] = {}
        for directory in range(100):
            files[f"d{layer}_{directory}"] = None
            for number in range(100):
                files[f"d{layer}_{directory}/f{number}"] = text(chance.choice([200, 2000, 8000, 30000]))
        out.append(make_tar(files))
    return out


async def pull(store: Store, tars: list[bytes]) -> float:
    """Seconds for a pull with the layers side by side, the bytes being at hand."""
    image, blobs = make_image(NAME, tars)
    begin = time.perf_counter()
    ids = store.layers.chain_ids([b.descriptor.diff_id for b in blobs])

    async def one(blob: Blob) -> object:
        return await unpack(store, blob.descriptor, blob.data)

    parent = ""
    for ident, layer in zip(ids, await asyncio.gather(*map(one, blobs)), strict=True):
        await store.layers.commit(layer, ident, parent)  # type: ignore[arg-type]
        parent = ident
    await store.images.record(image, parent, 0)
    return time.perf_counter() - begin


def skopeo(source: str, base: Path) -> float:
    """Seconds for the same by skopeo, the layout being in the page cache."""
    policy = base / "policy.json"
    policy.write_text(POLICY)
    target = f"containers-storage:[overlay@{base}/peer/root+{base}/peer/run]{NAME}"
    begin = time.perf_counter()
    subprocess.run(["skopeo", "--policy", str(policy), "copy", "-q", source, target], check=True)
    taken = time.perf_counter() - begin
    mounts.umount(f"{base}/peer/root/overlay")
    return taken


async def median(name: str, step: Callable[[int], Awaitable[object]], count: int) -> None:
    """Print median and 99th percentile of a call in milliseconds."""
    times = []
    for number in range(count):
        begin = time.perf_counter()
        await step(number)
        times.append((time.perf_counter() - begin) * 1e3)
    times.sort()
    print(f"{name:<28} median {times[count // 2]:8.3f} ms   p99 {times[int(count * 0.99)]:8.3f} ms")


async def main(base: Path, containers: int) -> None:
    """All figures."""
    tars = layers()
    source = oci_layout(base / "oci", *make_image(NAME, tars))
    store = Store(Settings(root=str(base / "root"), run_root=str(base / "run")))
    await store.open()
    ours, theirs = await pull(store, tars), skopeo(source, base)
    print(f"pull of {sum(map(len, tars)) / 1e6:.0f} MB: {ours:.2f} s, skopeo {theirs:.2f} s, ratio {ours / theirs:.2f}")
    (image,) = await store.images.all()

    def entry(number: int) -> Entry:
        return Entry(f"{number:064x}", (f"box{number}",), image.id, {"pod-name": "p", "pod-id": "i"})

    await median("ListImages, nothing changed", lambda _: store.images.all(), 200)
    await median("ImageStatus", lambda _: store.images.find([NAME], ""), 200)
    await median("ImageFsInfo", lambda _: store.images.disk_use(), 50)
    await median("create", lambda n: store.rootfs.create(entry(n)), containers)
    await median("mount", lambda n: store.rootfs.mount(f"{n:064x}"), containers)
    await median("usage", lambda n: store.rootfs.usage(f"{n:064x}"), containers)
    await median("unmount", lambda n: store.rootfs.unmount(f"{n:064x}"), containers)
    await median("remove", lambda n: store.rootfs.remove(f"{n:064x}"), containers)
    await store.close()


if __name__ == "__main__":
    scratch = Path(tempfile.mkdtemp(prefix="pycrio-bench-", dir=sys.argv[1] if len(sys.argv) > 1 else "/dev/shm"))
    try:
        asyncio.run(main(scratch, 200))
    finally:
        shutil.rmtree(scratch)
