"""Kill -9 between any two system calls of what changes the store, and look at what is left.

A program of its own, because it forks: ``python -m tests.system.crash_points [--every N] [--peer N] [OPERATION …]``.
For every operation and every n: the state before is copied, the operation (real puller, real registry, real mounts)
runs in a child that ``tests.killpoint`` ends before its n-th call, and then

- our check, before anything is repaired, finds nothing that is listed and not whole;
- every ``--peer``-th time podman lists, mounts and verifies what is there first, else we open the store first;
- opening collects the garbage: nothing is on disk that no record explains, no layer is there that no image needs;
- the image that was there before is there as it was; the operation can be done again; trees are equal to those of an
  undisturbed run; everything can be removed without a trace.

``--every N`` takes every N-th call only, at an offset that differs by operation; CI does that. Prints what was done;
exits 1 with the point's number at the first bad state.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from pycrio._native import mounts
from pycrio.drivers.artifacts.settings import Settings as ArtifactSettings
from pycrio.drivers.artifacts.store import Artifacts
from pycrio.drivers.layers.check import Damage, Report
from pycrio.drivers.layers.files import data_file
from pycrio.drivers.layers.mounting import Kernel, NativeKernel
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.store import Store
from pycrio.drivers.registry.client import Registry
from pycrio.flows.images import pull, remove
from pycrio.flows.node_state import Node
from pycrio.flows.ports import Host, Options
from pycrio.model.image import ImageSpec
from pycrio.model.security import IdMapping
from pycrio.obs import log as obslog
from tests import killpoint
from tests.fakes.registry import FakeRegistry
from tests.fakes.trees import Entry as TreeEntry
from tests.fakes.trees import tree
from tests.fixtures_registry import Built, build_image, digest_of
from tests.isolation import mount, mounts_below, unmount
from tests.unit.drivers.layers.support import Entry
from tests.unit.drivers.registry.support import insecure
from tests.unit.drivers.registry.support import settings as registry_settings

BOX, OLD_BOX = "b0" * 32, "c1" * 32
METADATA = {"pod-name": "p", "pod-id": "i"}
PDEATHSIG = 1
ARTIFACT_TYPE = "application/x-lab"


# --- images -------------------------------------------------------------------------------------------------------


def layer(*entries: tuple[str, dict[str, Any], bytes]) -> bytes:
    """A layer of entries: name, attributes of its tarfile.TarInfo, content."""
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, attributes, content in entries:
            info = tarfile.TarInfo(name)
            info.mtime, info.mode, info.size = 1_600_000_000, 0o755, len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def base_layer() -> bytes:
    import tarfile as t

    directory: dict[str, Any] = {"type": t.DIRTYPE}
    return layer(
        *((name, directory, b"") for name in ("bin", "etc", "home", "home/user", "tmp")),
        ("bin/tool", {"mode": 0o4755}, b"#!" + b"tool" * 3000),
        ("bin/hard", {"type": t.LNKTYPE, "linkname": "bin/tool"}, b""),
        ("bin/link", {"type": t.SYMTYPE, "linkname": "tool"}, b""),
        ("home/user/fifo", {"type": t.FIFOTYPE}, b""),
        ("home/user/file", {"uid": 1000, "gid": 1000, "pax_headers": {"SCHILY.xattr.user.note": "kept"}}, b"x" * 500),
        *((f"etc/{number}", {"mode": 0o644}, b"%d" % number) for number in range(6)),
    )


def upper_layer() -> bytes:
    import tarfile as t

    directory: dict[str, Any] = {"type": t.DIRTYPE}
    return layer(
        ("etc", directory, b""),
        ("etc/.wh.3", {}, b""),
        ("bin", directory, b""),
        ("home", directory, b""),
        ("home/user", directory, b""),
        ("home/user/.wh..wh..opq", {}, b""),
        ("home/user/new", {}, b"n" * 70_000),
        ("bin/.wh.hard", {}, b""),
        ("etc/new", {}, b"new"),
    )


def top_layer() -> bytes:
    import tarfile as t

    return layer(
        ("srv", {"type": t.DIRTYPE}, b""), ("srv/a", {}, b"a"), ("srv/b", {"type": t.LNKTYPE, "linkname": "srv/a"}, b"")
    )


def artifact() -> Built:
    """Two files and an empty config."""
    blobs = {digest_of(data): data for data in (b"{}", b"file one", b"file two" * 100)}
    empty, *files = blobs

    def descriptor(digest: str, **more: object) -> dict[str, object]:
        return {"mediaType": ARTIFACT_TYPE, "digest": digest, "size": len(blobs[digest]), **more}

    kind = "application/vnd.oci.image.manifest.v1+json"
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "artifactType": ARTIFACT_TYPE,
        "config": {**descriptor(empty), "mediaType": "application/vnd.oci.empty.v1+json"},
        "layers": [
            descriptor(d, annotations={"org.opencontainers.image.title": f"file{n}"}) for n, d in enumerate(files)
        ],
    }
    return Built(json.dumps(document).encode(), kind, blobs, ())


BASE, UPPER, TOP = base_layer(), upper_layer(), top_layer()
ONE = build_image([BASE])
TWO = build_image([BASE, UPPER, TOP])
THING = artifact()


@dataclass(frozen=True)
class Served:
    """Names of the images at the registry of this run."""

    one: str
    two: str
    thing: str


def serve(base: pathlib.Path) -> tuple[Served, int]:
    """A registry in a child that dies with us; what it offers, and its pid."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
        asyncio.run(_serve(write))
        os._exit(0)
    os.close(write)
    with open(read, encoding="ascii") as pipe:
        address = pipe.readline().strip()
    registry_settings(base, insecure(address))  # writes the files
    return Served(*(f"{address}/lab/{name}:1" for name in ("one", "two", "thing"))), pid


async def _serve(write: int) -> None:
    async with FakeRegistry() as registry:
        for name, image in (("one", ONE), ("two", TWO), ("thing", THING)):
            registry.add(image, f"lab/{name}:1")
        os.write(write, registry.address.encode() + b"\n")
        os.close(write)
        await asyncio.Event().wait()


# --- operations ---------------------------------------------------------------------------------------------------


class OldKernel(NativeKernel):
    """A kernel without id-mapped mounts below overlay."""

    def probe(self, dir: str = "/", userns_fd: int = -1) -> Mapping[str, bool]:
        return {**mounts.probe(dir, userns_fd), "overlay_idmap": False}

    def idmapped_bind(self, *_: object, **__: object) -> None:
        raise AssertionError("this kernel cannot do that")


class Puller:
    """As much of the daemon as pulls and keeps images, the real flows on the real drivers: configuration of registries
    in ``base``, the store below ``where``."""

    def __init__(self, base: pathlib.Path, where: pathlib.Path, address: str) -> None:
        self.store = Store(Settings(root=str(where / "root"), run_root=str(where / "run")))
        self.artifacts = Artifacts(ArtifactSettings(root=str(where / "root")))
        self.registry = Registry(registry_settings(base, insecure(address)))
        host = SimpleNamespace(
            registry=self.registry,
            layers=self.store.layers,
            images=self.store.images,
            artifacts=self.artifacts,
            options=Options(
                log_dir="",
                exits_dir="",
                pause_image="",
                pause_command="/pause",
                run_root=str(where / "run"),
                pause_program="",
            ),
        )
        self.node = Node(cast(Host, host), str(where / "state"))

    async def open(self) -> int:
        return await self.store.open() + await self.artifacts.garbage()

    async def close(self) -> None:
        await self.registry.close()
        await self.store.close()

    async def pull(self, name: str) -> str:
        return await pull.pull(self.node, ImageSpec(name), None, None)

    async def remove(self, name: str) -> None:
        await remove.remove(self.node, ImageSpec(name))


class Daemon(Puller):
    """One that works with what this run serves."""

    def __init__(self, base: pathlib.Path, where: pathlib.Path, served: Served) -> None:
        super().__init__(base, where, served.one.partition("/")[0])
        self.served = served

    async def create(self, ident: str, image_id: str, maps: tuple[IdMapping, ...] = ()) -> str:
        await self.store.rootfs.create(
            Entry(ident, (f"box-{ident[:4]}",), image_id, METADATA, uid_map=maps, gid_map=maps)
        )
        return await self.store.rootfs.mount(ident)


Step = Callable[[Daemon], Awaitable[object]]


async def nothing(daemon: Daemon) -> None:
    pass


async def pull_one(daemon: Daemon) -> None:
    await daemon.pull(daemon.served.one)


async def pull_two(daemon: Daemon) -> None:
    await daemon.pull(daemon.served.two)


async def pull_thing(daemon: Daemon) -> None:
    await daemon.pull(daemon.served.thing)


async def pull_both(daemon: Daemon) -> None:
    await pull_one(daemon)
    await pull_two(daemon)


async def pull_all(daemon: Daemon) -> None:
    await pull_both(daemon)
    await pull_thing(daemon)


async def remove_two(daemon: Daemon) -> None:
    await daemon.remove(daemon.served.two)


async def remove_thing(daemon: Daemon) -> None:
    await daemon.remove(daemon.served.thing)


async def old_box(daemon: Daemon) -> None:
    await pull_both(daemon)
    await daemon.create(OLD_BOX, TWO.image_id)


async def create_box(daemon: Daemon) -> None:
    await daemon.create(BOX, TWO.image_id)


def age(daemon: Daemon) -> None:
    """From now on the store is on an old kernel."""
    daemon.store = Store(daemon.store.settings, cast(Kernel, OldKernel()))


async def create_shifted(daemon: Daemon) -> None:
    age(daemon)
    await daemon.create(BOX, TWO.image_id, (IdMapping(0, 200000, 65536),))


async def old_shifted(daemon: Daemon) -> None:
    await pull_both(daemon)
    age(daemon)
    await daemon.create(OLD_BOX, TWO.image_id, (IdMapping(0, 200000, 65536),))


async def remove_box(daemon: Daemon) -> None:
    await daemon.store.rootfs.unmount(OLD_BOX)
    await daemon.store.rootfs.remove(OLD_BOX)


async def close(daemon: Daemon) -> None:
    await daemon.store.close()


@dataclass(frozen=True)
class Operation:
    """``before`` makes the state that ``step`` changes. ``images`` and ``boxes``: how many may be there before and
    after. ``opened``: the step works on an opened store, else opening (after ``killed`` was cut off in the middle) is
    what it does."""

    before: Step
    step: Step
    images: tuple[int, int]
    boxes: tuple[int, int] = (0, 0)
    opened: bool = True
    killed: Step | None = None


OPERATIONS = {
    "first-start": Operation(nothing, nothing, (0, 0), opened=False),
    "first-pull": Operation(nothing, pull_two, (0, 1)),
    "pull": Operation(pull_one, pull_two, (1, 2)),
    "pull-present": Operation(pull_both, pull_two, (2, 2)),
    "pull-artifact": Operation(pull_one, pull_thing, (1, 2)),
    "remove": Operation(pull_both, remove_two, (2, 1)),
    "remove-artifact": Operation(pull_all, remove_thing, (3, 2)),
    "create": Operation(pull_both, create_box, (2, 2), (0, 1)),
    "create-shifted": Operation(pull_both, create_shifted, (2, 2), (0, 1)),
    "remove-shifted": Operation(old_shifted, remove_box, (2, 2), (1, 0)),
    "remove-container": Operation(old_box, remove_box, (2, 2), (1, 0)),
    "stop": Operation(pull_both, close, (2, 2)),
    "recover-pull": Operation(pull_one, nothing, (1, 2), opened=False, killed=pull_two),
    "recover-remove": Operation(pull_both, nothing, (2, 1), opened=False, killed=remove_two),
}


# --- one point ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Where a run works: ``base`` for all, ``where`` for one state."""

    base: pathlib.Path
    served: Served

    @property
    def where(self) -> pathlib.Path:
        return self.base / "s"

    @property
    def root(self) -> pathlib.Path:
        return self.where / "root"

    def make(self, before: Step, name: str) -> None:
        """A template: the state before an operation."""
        self.clear()
        assert killpoint.in_child(partial(self.perform, before)) == 0, f"{name}: cannot make the state before"
        self.detach()
        os.rename(self.where, self.base / name)

    def restore(self, name: str) -> None:
        """The template as the state to work on."""
        self.clear()
        subprocess.run(["cp", "-a", str(self.base / name), str(self.where)], check=True)

    def clear(self) -> None:
        self.detach()
        shutil.rmtree(self.where, ignore_errors=True)

    def detach(self) -> None:
        for point in reversed(mounts_below(str(self.where))):
            unmount(point)

    def perform(self, step: Step, opened: bool = True) -> None:
        """Open the store and do the step; unless ``opened``, opening it is watched already."""

        async def main() -> None:
            daemon = Daemon(self.base, self.where, self.served)
            if not opened:
                killpoint.begin()
            await daemon.open()
            killpoint.begin()
            await step(daemon)
            await daemon.registry.close()

        asyncio.run(main())


LISTS = (
    "overlay-layers/layers.json",
    "overlay-layers/volatile-layers.json",
    "overlay-images/images.json",
    "overlay-containers/volatile-containers.json",
)


def lists(bench: Bench) -> dict[str, Any]:
    """The JSON lists on disk."""
    found = {}
    for path in LISTS:
        file = bench.root / path
        found[path.rpartition("/")[2]] = json.loads(file.read_bytes() or b"[]") if file.exists() else []
    return found


def trees(bench: Bench) -> dict[str, dict[bytes, TreeEntry]]:
    """Contents of the image layers, by id; not of copies with shifted ids."""
    layers = [r["id"] for r in lists(bench)["layers.json"] if r.get("diff-digest") and not r.get("uidmap")]
    return {ident: tree(str(bench.root / "overlay" / ident / "diff")) for ident in layers}


def unexplained(bench: Bench) -> list[str]:
    """What lies in the store without a record that it belongs to."""
    found = lists(bench)
    layers = {r["id"] for kind in ("layers.json", "volatile-layers.json") for r in found[kind]}
    boxes = {r["id"] for r in found["volatile-containers.json"]}
    images = {r["id"] for r in found["images.json"]}
    links = set()
    for ident in layers:
        link = bench.root / "overlay" / ident / "link"
        links.add(link.read_text() if link.exists() else f"no link file of {ident}")
    splits = {f"{ident}.tar-split.gz" for ident in layers}
    known: dict[str, set[str]] = {
        "root/overlay": {*layers, "l", "tempdirs", ".has-mount-program"},
        "root/overlay/l": links,
        "root/overlay/tempdirs": set(),
        "root/overlay-layers": {"layers.json", "volatile-layers.json", "layers.lock", "tmp", *splits},
        "root/overlay-layers/tmp": set(),
        "root/overlay-images": {"images.json", "images.lock", *images},
        "root/overlay-containers": {"containers.json", "volatile-containers.json", "containers.lock", *boxes},
        "root/artifacts": {"index.json", "index.lock", "oci-layout", "blobs", ".staging"},
        "root/artifacts/.staging": set(),
        "root/artifacts/blobs/sha256": kept_blobs(bench),
        "run/overlay-layers": {"mountpoints.json", "mountpoints.lock"},
    }
    out = []
    for directory, names in known.items():
        place = bench.where / directory
        if place.is_dir():
            out += [f"{directory}/{name}" for name in sorted(set(os.listdir(place)) - names)]
    claims = bench.root / ".pycrio-claims"
    out += [str(p) for p in (claims.iterdir() if claims.is_dir() else ()) if p.stat().st_size]
    for image in found["images.json"]:
        directory = bench.root / "overlay-images" / image["id"]
        out += [str(p) for p in directory.iterdir() if p.name not in map(data_file, image["big-data-names"])]
    return out


def unforeseen(report: Report) -> list[Damage]:
    """Damages but for a container that was half removed: its record is there to tell that the rest must go."""
    return [d for d in report.damages if d.kind != "container" or "is missing from the store" not in d.reason]


def kept_blobs(bench: Bench) -> set[str]:
    """Blobs that the index of the artifacts leads to."""
    index = bench.root / "artifacts/index.json"
    out = set()
    for entry in json.loads(index.read_bytes())["manifests"] if index.exists() else ():
        name = entry["digest"].partition(":")[2]
        document = json.loads((bench.root / "artifacts/blobs/sha256" / name).read_bytes())
        out |= {name, *(d["digest"].partition(":")[2] for d in (document["config"], *document["layers"]))}
    return out


def look(bench: Bench, operation: Operation, reference: dict[str, dict[bytes, TreeEntry]]) -> None:
    """What the next start makes of the state; AssertionError says what is wrong."""

    async def main() -> None:
        daemon = Daemon(bench.base, bench.where, bench.served)
        store = daemon.store
        if (bench.root / "overlay-containers").is_dir() and (bench.where / "run/overlay-layers").is_dir():
            found = await store.checker.check()
            assert unforeseen(found) == [], f"before opening: {found.damages}"
        await daemon.open()
        found = await store.checker.check()
        assert unforeseen(found) == [], f"after opening: {found.damages}"
        assert found.unreferenced == (), f"layers that nothing needs: {found.unreferenced}"
        artifacts = await daemon.artifacts.all()
        images = await store.images.all()
        count = len(images) + len(artifacts)
        assert count in operation.images, f"{count} images"
        assert all(image.names for image in (*images, *(a.image for a in artifacts))), "an image without its name"
        boxes = await store.rootfs.entries()
        assert len(boxes) in operation.boxes, f"{len(boxes)} containers"
        stray = unexplained(bench)
        assert not stray, f"garbage after opening: {stray}"
        for ident, entries in trees(bench).items():
            assert entries == reference[ident], f"content of layer {ident}"
        await again(daemon, [box.id for box in boxes], bool(found.damages))
        stray = unexplained(bench)
        assert not stray, f"garbage in the end: {stray}"
        assert not any(lists(bench).values()), "records in the end"

    async def again(daemon: Daemon, boxes: Sequence[str], halves: bool) -> None:
        for box in boxes:
            if not halves:
                await daemon.store.rootfs.mount(box)
            await daemon.store.rootfs.remove(box)  # by the daemon's record, or because it has none
        for name in os.listdir(bench.where / "run/overlay-containers"):
            shutil.rmtree(bench.where / "run/overlay-containers" / name)  # pods live there too: flows.recover decides
        await pull_all(daemon)
        assert trees(bench) == reference, "content after another pull"
        path = pathlib.Path(await daemon.create(BOX, TWO.image_id))
        seen = {name: (path / name).exists() for name in ("bin/tool", "bin/hard", "etc/3", "home/user/new", "srv/b")}
        assert seen == {"bin/tool": True, "bin/hard": False, "etc/3": False, "home/user/new": True, "srv/b": True}
        await daemon.store.rootfs.remove(BOX)
        for name in (daemon.served.one, daemon.served.two, daemon.served.thing):
            await daemon.remove(name)
        await daemon.close()

    asyncio.run(main())


def podman(bench: Bench) -> None:
    """podman opens what the crash left, before we do: what it lists can be mounted, and skopeo finds it whole."""
    where = ("--root", str(bench.root), "--runroot", str(bench.where / "run"), "--storage-driver", "overlay")

    def call(*argv: str) -> str:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def ours(*argv: str) -> str:
        return call("podman", *where, "--cgroup-manager", "cgroupfs", "--events-backend", "file", *argv)

    listed = json.loads(ours("images", "--format", "json"))
    expected = {TWO.image_id: "srv/a", ONE.image_id: "bin/hard"}
    for image in listed:
        path = ours("image", "mount", image["Id"]).strip()
        assert (pathlib.Path(path) / expected[image["Id"]]).exists()
        ours("image", "unmount", image["Id"])
        target = bench.base / "out"
        store = f"containers-storage:[overlay@{bench.root}+{bench.where}/run]{image['Names'][0]}"
        call("skopeo", "--policy", str(bench.base / "policy.json"), "copy", "-q", store, f"dir:{target}")
        shutil.rmtree(target)


# --- the run ------------------------------------------------------------------------------------------------------


def warm() -> None:
    """Load what pulling loads, so that no child does it again."""
    obslog.setup(level="error")
    import aiohttp  # noqa: F401
    import yaml  # noqa: F401

    from pycrio._native import mounts, ns, untar  # noqa: F401
    from pycrio.drivers.registry import transport  # noqa: F401


def enumerate_points(
    bench: Bench, name: str, every: int, peer: int, reference: dict[str, dict[bytes, TreeEntry]]
) -> tuple[int, int, list[str]]:
    """Kill at every point of one operation: the number of calls, of points tried, and what was bad."""
    operation = OPERATIONS[name]
    template = f"t-{name}"
    bench.make(operation.before, template)
    if operation.killed is not None:
        bench.restore(template)
        half = killpoint.run(partial(bench.perform, operation.killed), gated=True)
        bench.restore(template)
        assert killpoint.run(partial(bench.perform, operation.killed), len(half.calls) * 9 // 10, gated=True).killed
        bench.detach()
        shutil.rmtree(bench.base / template)
        os.rename(bench.where, bench.base / template)
    if name == "first-start":
        shutil.rmtree(bench.base / template)
        (bench.base / template).mkdir()
    bad: list[str] = []
    tried, number = 0, 1 + sum(name.encode()) % every
    while True:
        bench.restore(template)
        outcome = killpoint.run(partial(bench.perform, operation.step, operation.opened), number, gated=True)
        if outcome.status == killpoint.FAILED:
            bad.append(f"{name}: failed by itself at point {number}")
            break
        tried += 1
        problem = examine(bench, operation, reference, peer > 0 and tried % peer == 0)
        if problem:
            last = outcome.calls[-1] if outcome.calls else "-"
            bad.append(f"{name}: killed before call {number} ({last}): {problem}")
            if len(bad) >= 3:
                break
        if not outcome.killed:
            break
        number += every
    bench.clear()
    shutil.rmtree(bench.base / template)
    return len(outcome.calls), tried, bad


def examine(bench: Bench, operation: Operation, reference: dict[str, dict[bytes, TreeEntry]], peer: bool) -> str:
    """Judge one state; what is wrong with it."""
    read, write = os.pipe()

    def judge() -> None:
        os.close(read)
        try:
            if peer and bench.root.is_dir():
                podman(bench)
            look(bench, operation, reference)
        except Exception as e:
            os.write(write, f"{'(podman first) ' if peer else ''}{type(e).__name__}: {e}".encode()[:4000])
            raise

    status = killpoint.in_child(judge)
    os.close(write)
    with open(read, encoding="utf-8", errors="replace") as pipe:
        text = pipe.read()
    return text or (f"judging ended with {status}" if status else "")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--peer", type=int, default=10)
    parser.add_argument("operations", nargs="*", default=list(OPERATIONS))
    options = parser.parse_args()
    # Mounts that killed processes leave are nobody else's business, and go with us.
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", flags=0x44000)
    base = pathlib.Path(tempfile.mkdtemp(prefix="pcx-", dir="/tmp"))
    mount("tmpfs", base, "tmpfs", data="mode=700")
    started, failed = time.monotonic(), 0
    served, server = serve(base)
    try:
        bench = Bench(base, served)
        warm()
        bench.make(pull_all, "reference")
        bench.restore("reference")
        reference = trees(bench)
        assert len(reference) == 3
        calls = points = 0
        for name in options.operations:
            count, tried, bad = enumerate_points(bench, name, options.every, options.peer, reference)
            print(f"{name}: {count} calls, {tried} points, {len(bad)} bad", flush=True)
            for text in bad:
                print(f"  {text}", flush=True)
            calls, points, failed = calls + count, points + tried, failed + len(bad)
        print(f"{calls} calls, {points} points, {failed} bad, {time.monotonic() - started:.0f} s")
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        unmount(base)
        base.rmdir()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
