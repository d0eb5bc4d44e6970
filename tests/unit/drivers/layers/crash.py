"""Kill a store operation before each of its steps, and look at what the next start makes of it.

A program of its own, because it forks: ``python -m tests.unit.drivers.layers.crash DIRECTORY OPERATION``. The steps
are what CPython's audit events show: every open for writing, rename, mkdir, unlink, rmdir, symlink, chmod, chown.
Prints the number of steps; exits 1 with a text on the first state that is neither old nor new.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pycrio.drivers.layers.files import data_file
from pycrio.drivers.layers.store import Store
from tests.unit.drivers.layers.support import (
    BUSY,
    EXTRA,
    Entry,
    FakeKernel,
    digest,
    make_image,
    make_tar,
    pull,
    settings,
)

STEPS = frozenset(
    ["open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.chmod", "os.chown", "os.link"]
)
KILLED = 9
BOX, OLD_BOX = "b0" * 32, "c1" * 32
ONE = make_image("registry.test/one:1", [make_tar(BUSY)])
TWO = make_image("registry.test/two:1", [make_tar(BUSY), make_tar(EXTRA)])
SIGNED = (replace(ONE[0], signatures=(b"first",)), ONE[1])
RESIGNED = (replace(ONE[0], signatures=(b"second one",)), ONE[1])
METADATA = {"pod-name": "p", "pod-id": "i"}


async def nothing(store: Store) -> None:
    pass


async def one(store: Store) -> None:
    await pull(store, *SIGNED)


async def both(store: Store) -> None:
    await pull(store, *SIGNED)
    await pull(store, *TWO)


async def box(store: Store) -> None:
    await both(store)
    await store.rootfs.create(Entry(OLD_BOX, ("old",), TWO[0].config_digest[7:], METADATA))
    await store.rootfs.mount(OLD_BOX)


async def unmounted_box(store: Store) -> None:
    await box(store)
    await store.rootfs.unmount(OLD_BOX)
    await store.layers.garbage()


async def mount_box(store: Store) -> None:
    await store.rootfs.mount(OLD_BOX)


async def pull_two(store: Store) -> None:
    await pull(store, *TWO)


async def resign(store: Store) -> None:
    await pull(store, *RESIGNED)


async def remove_two(store: Store) -> None:
    await store.images.remove(TWO[0].config_digest[7:])


async def create(store: Store) -> None:
    await store.rootfs.create(Entry(BOX, ("box",), TWO[0].config_digest[7:], METADATA))


async def remove_box(store: Store) -> None:
    await store.rootfs.remove(OLD_BOX)


Step = Callable[[Store], Awaitable[None]]
# operation → state before, operation, images before and after, containers before and after
CASES: dict[str, tuple[Step, Step, tuple[int, int], tuple[int, int]]] = {
    "first-pull": (nothing, pull_two, (0, 1), (0, 0)),
    "shared-pull": (one, pull_two, (1, 2), (0, 0)),
    "pull-again": (one, resign, (1, 1), (0, 0)),
    "remove-image": (both, remove_two, (2, 1), (0, 0)),
    "create": (both, create, (2, 2), (0, 1)),
    "mount": (unmounted_box, mount_box, (2, 2), (1, 1)),
    "remove-container": (box, remove_box, (2, 2), (1, 0)),
}


def in_child(work: Callable[[], None]) -> int:
    """Exit status of a forked child that does the work."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def perform(where: Path, step: Step, kill_at: int = 0) -> None:
    """Run a step on an opened store; with ``kill_at`` end the process before the n-th change of a file."""

    async def main() -> None:
        store = Store(settings(where), FakeKernel())
        await store.open()
        count = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event not in STEPS or (event == "open" and not int(arguments[2]) & (os.O_WRONLY | os.O_RDWR)):  # type: ignore[call-overload]
                return
            count += 1
            if count == kill_at:
                os._exit(KILLED)

        if kill_at:
            sys.addaudithook(watch)
        await step(store)

    asyncio.run(main())


def check(where: Path, images: tuple[int, int], containers: tuple[int, int]) -> None:
    """Open the store after the crash: everything that is listed is whole, everything else is gone."""

    async def main() -> None:
        store = Store(settings(where), FakeKernel())
        await store.open()
        listed = await store.images.all()
        assert len(listed) in images, f"{len(listed)} images"
        for image in listed:
            whole_image(where, image.id)
            assert image.names, "an image without its name"
            view = store._index.view()
            for layer in view.ancestry(image.layer):
                directory = where / "root/overlay" / layer.id
                assert (directory / "diff").is_dir(), "a layer without content"
                assert (where / "root/overlay-layers" / f"{layer.id}.tar-split.gz").is_file()
                link = (directory / "link").read_text()
                assert os.readlink(where / "root/overlay/l" / link) == f"../{layer.id}/diff"
        entries = await store.rootfs.entries()
        assert len(entries) in containers, f"{len(entries)} containers"
        for entry in entries:
            await store.rootfs.remove(entry.id)  # whatever is left of it
        assert await store.layers.garbage() == 0, "opening left garbage"
        # The operation can be done again, and everything can be removed without a trace.
        await pull(store, *TWO)
        await store.rootfs.create(Entry(BOX, ("box",), TWO[0].config_digest[7:], METADATA))
        assert "/merged" in await store.rootfs.mount(BOX)
        await store.rootfs.remove(BOX)
        for image in await store.images.all():
            await store.images.remove(image.id)
        await store.close()

    asyncio.run(main())
    root = where / "root"
    left = [p for d in ("overlay", "overlay/l", "overlay/tempdirs", "overlay-layers", "overlay-layers/tmp",
                        "overlay-images", "overlay-containers") for p in (root / d).iterdir()]  # fmt: skip
    known = {"l", "tempdirs", "tmp", ".has-mount-program"}
    stray = [str(p) for p in left if p.name not in known and p.suffix not in (".json", ".lock")]
    assert not stray, f"left behind: {stray}"


def whole_image(where: Path, image_id: str) -> None:
    """Sizes and digests of an image's data are what its record says."""
    records = json.loads((where / "root/overlay-images/images.json").read_bytes())
    (record,) = (r for r in records if r["id"] == image_id)
    assert "manifest" in record["big-data-names"]
    for key in record["big-data-names"]:
        data = (where / "root/overlay-images" / image_id / data_file(key)).read_bytes()
        assert len(data) == record["big-data-sizes"][key], f"size of {key}"
        assert digest(data) == record["big-data-digests"][key], f"digest of {key}"


def main(base: Path, operation: str) -> int:
    before, step, images, containers = CASES[operation]
    template = base / "template"
    if in_child(lambda: perform(template, before)):
        return 1
    where = base / "state"
    for number in range(1, 10_000):
        subprocess.run(["cp", "-a", str(template), str(where)], check=True)
        status = in_child(partial(perform, where, step, number))
        if status not in (0, KILLED):
            print(f"{operation} failed on its own before step {number}")
            return 1
        if in_child(lambda: check(where, images, containers)):
            print(f"{operation} killed before step {number} left a bad state")
            return 1
        subprocess.run(["rm", "-rf", str(where)], check=True)
        if status == 0:
            print(number - 1)
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
