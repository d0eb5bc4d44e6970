"""Extraction by a helper process in a group of its own: the same results and failures, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pycrio._native.pools import offload
from pycrio.drivers.layers.apart import Groups
from pycrio.drivers.layers.store import Store
from pycrio.errors import BadImage, ExternalFailure, StoreFailure
from pycrio.model.image import UnpackedLayer
from tests.unit.drivers.layers.sealing import pem, seal
from tests.unit.drivers.layers.support import Blob, _feed, digest, make_tar, unpack

LAYER = Blob.of(make_tar({"a": os.urandom(100_000), "d": None, "d/b": b"b"}))


class Cgroups:
    """Remembers who was where."""

    def __init__(self) -> None:
        self.entered: list[tuple[int, str]] = []
        self.inside: set[str] = set()
        self.failure: Exception | None = None
        self.kill = False
        self.arrived = asyncio.Event()

    async def enter(self, pid: int, parent: str, name: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.entered.append((pid, f"{parent}/{name[:10]}"))
        self.inside.add(name)
        if self.kill:
            os.kill(pid, signal.SIGKILL)
        self.arrived.set()

    async def leave(self, parent: str, name: str) -> None:
        self.inside.discard(name)


@pytest.fixture
async def cgroups(store: Store) -> Cgroups:
    found = Cgroups()
    store.layers.groups = Groups(found.enter, found.leave)
    return found


async def apart(store: Store, blob: Blob) -> UnpackedLayer:
    source, sink = os.pipe()
    writing = asyncio.ensure_future(offload("proc", _feed, sink, blob.data))
    try:
        return await store.layers.unpack(blob.descriptor, source, "/pulls")
    finally:
        os.close(source)
        await writing


def staging(store: Store) -> list[str]:
    s = store.settings
    return [n for d in (f"{s.image_home}/tempdirs", f"{s.layers_dir}/tmp") if os.path.isdir(d) for n in os.listdir(d)]


def gone(cgroups: Cgroups) -> bool:
    return not cgroups.inside and not any(os.path.exists(f"/proc/{pid}") for pid, _ in cgroups.entered)


async def test_the_result_is_the_same(store: Store, cgroups: Cgroups) -> None:
    here, there = await unpack(store, LAYER.descriptor, LAYER.data), await apart(store, LAYER)
    assert [g for _, g in cgroups.entered] == ["/pulls/crio-pull-"]
    assert gone(cgroups)
    for name in ("digest", "size", "diff_id", "diff_size", "compression", "uids", "gids"):
        assert getattr(here, name) == getattr(there, name)
    trees = []
    for layer in (here, there):
        top = f"{store.layers._staged[layer.staging].content.path}/layer/diff"
        trees.append({n: os.lstat(f"{p}/{n}").st_size for p, d, f in os.walk(top) for n in (*d, *f)})
        await store.layers.discard(layer)
    assert trees[0] == trees[1]
    assert set(trees[0]) == {"a", "d", "b"}
    assert staging(store) == []


async def test_without_a_group_there_is_no_helper(store: Store, cgroups: Cgroups) -> None:
    await store.layers.discard(await unpack(store, LAYER.descriptor, LAYER.data))
    assert cgroups.entered == []


async def test_its_failures_are_ours(store: Store, cgroups: Cgroups) -> None:
    data = LAYER.data[:1000] + b"x" + LAYER.data[1001:]
    descriptor = Blob.of(b"").descriptor
    with pytest.raises(BadImage, match="is malformed"):
        await apart(store, Blob(data, descriptor))
    other = Blob(LAYER.data, descriptor)
    with pytest.raises(BadImage, match=f"sent a blob with digest {digest(LAYER.data)}"):
        await apart(store, other)
    assert gone(cgroups)
    assert staging(store) == []


async def test_a_helper_that_is_killed(store: Store, cgroups: Cgroups) -> None:
    cgroups.kill = True
    with pytest.raises(
        StoreFailure, match="its helper process was killed, perhaps by the memory limit of cgroup /pulls"
    ):
        await apart(store, LAYER)
    assert gone(cgroups)
    assert staging(store) == []


async def test_a_group_that_cannot_be_made(store: Store, cgroups: Cgroups) -> None:
    cgroups.failure = ExternalFailure("no group today")
    with pytest.raises(ExternalFailure, match="no group today"):
        await apart(store, LAYER)
    assert staging(store) == []


async def test_a_cancelled_pull(store: Store, cgroups: Cgroups) -> None:
    source, sink = os.pipe()
    os.write(sink, LAYER.data[:500])
    task = asyncio.ensure_future(store.layers.unpack(LAYER.descriptor, source, "/pulls"))
    await cgroups.arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(source)
    os.close(sink)
    assert gone(cgroups)
    assert staging(store) == []


async def test_an_encrypted_layer(store: Store, cgroups: Cgroups, tmp_path: pathlib.Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/key").write_bytes(pem(key))
    store.layers.keys = str(tmp_path / "keys")
    layer = await apart(store, seal(LAYER, key))
    assert layer.diff_id == LAYER.descriptor.diff_id
    await store.layers.discard(layer)
    assert gone(cgroups)
