"""Artifacts in the flows: pulled whole or not at all, protected while mounted, and what their names may say."""

from __future__ import annotations

import asyncio
import pathlib
from types import SimpleNamespace
from typing import Any

import pytest

from pycrio.errors import ImageMountFailed, InUse, InvalidRequest, NotFound, StoreFailure
from pycrio.flows.containers import artifacts
from pycrio.flows.containers import create as container_create
from pycrio.flows.containers import remove as container_remove
from pycrio.flows.images import pull, query, remove
from pycrio.flows.pods import run as pod_run
from pycrio.model.image import Artifact, ArtifactFile, ImageConfig, ImageSpec, StoredImage
from pycrio.model.mount import Mount
from pycrio.model.security import ProfileType, SecurityProfile
from tests.fakes.node import container_config, fake_node, pod_config

NAME = "registry.test/lab/model:1"


def artifact(*names: str) -> Artifact:
    image = StoredImage("a" * 64, (NAME,), (f"sha256:{'a' * 64}",), "", 1, 0, ImageConfig(), artifact=True)
    return Artifact(image, "t", tuple(ArtifactFile(n, f"/store/{i}", f"sha256:{i}", 1) for i, n in enumerate(names)))


def planned(found: Artifact, sub_path: str = "") -> dict[str, str]:
    mount = Mount("/data/", readonly=True, image=ImageSpec(NAME), image_sub_path=sub_path)
    binds, shown = artifacts.mounts_of(found, mount)
    assert shown.image is not None
    assert shown.image.image_ref == found.image.id
    assert all("ro" in b.options and b.type == "bind" for b in binds)
    return {b.destination: b.source for b in binds}


def test_files_go_below_the_path() -> None:
    found = artifact("a", "d/b", "d/e/c", "./x//y")
    assert planned(found) == {
        "/data/a": "/store/0", "/data/d/b": "/store/1", "/data/d/e/c": "/store/2", "/data/x/y": "/store/3"
    }  # fmt: skip
    assert planned(found, "d") == {"/data/b": "/store/1", "/data/e/c": "/store/2"}
    assert planned(found, "d/e/") == {"/data/c": "/store/2"}
    assert planned(found, "a") == {"/data": "/store/0"}
    assert planned(found, ".") == planned(found)
    assert planned(artifact()) == {}


@pytest.mark.parametrize("sub_path", ["b", "d/", "../a", "a/b", "/a"])
def test_sub_paths_that_are_not_there(sub_path: str) -> None:
    with pytest.raises(ImageMountFailed, match="does not exist in image volume"):
        planned(artifact("a", "dd/x"), sub_path)


@pytest.mark.parametrize(
    "names", [("../x",), ("/etc/passwd",), ("..",), ("a/../..",), ("a\0b",), ("a", "./a"), ("a", "a/b")]
)
def test_hostile_names(names: tuple[str, ...]) -> None:
    with pytest.raises(ImageMountFailed):
        planned(artifact(*names))


async def test_pull_list_and_remove(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.registry.offer(NAME, ("one", "two", "one"), "application/x-lab")
        ident = await pull.pull(node, ImageSpec(NAME), None, None)
        assert fake.script.count("artifacts.receive") == 2  # the same blob is fetched once
        assert fake.script.count("layers.unpack") == 0
        (view,) = await query.list_images(node, None)
        assert (view.image.id, view.tags, view.pinned) == (ident, (NAME,), False)
        assert await query.status(node, ImageSpec(ident[:8]), True) is not None
        await pull.pull(node, ImageSpec(NAME), None, None)
        assert fake.script.count("artifacts.receive") == 2
        await remove.remove(node, ImageSpec(NAME))
        assert await query.list_images(node, None) == []
        await remove.remove(node, ImageSpec(NAME))


@pytest.mark.parametrize("call", ["artifacts.receive", "artifacts.record", "registry.fetch"])
async def test_a_failed_pull_leaves_nothing(tmp_path: pathlib.Path, call: str) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.registry.offer(NAME, ("one", "two"), "application/x-lab")
        fake.script.fail[call] = StoreFailure("no")
        with pytest.raises(StoreFailure):
            await pull.pull(node, ImageSpec(NAME), None, None)
        assert not fake.artifacts.staged
        assert not fake.artifacts.stored


@pytest.mark.parametrize("call", ["artifacts.receive", "artifacts.record", "registry.fetch"])
async def test_a_cancelled_pull_leaves_nothing(tmp_path: pathlib.Path, call: str) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.registry.offer(NAME, ("one", "two"), "application/x-lab")
        there, _ = fake.script.stop_at(call)
        task = asyncio.ensure_future(pull.pull(node, ImageSpec(NAME), None, None))
        await there.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not fake.artifacts.staged


async def test_additional_stores_spare_the_registry(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        given = fake.artifacts.add(NAME, read_only=True)
        assert await pull.pull(node, ImageSpec(NAME), None, None) == given.image.id
        assert fake.script.count("registry.resolve") == 0
        (view,) = await query.list_images(node, None)
        assert view.pinned


async def test_mounted_artifacts_stay(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.images.add()
        found = fake.artifacts.add(NAME, ["a"])
        pod = await pod_run.run(node, pod_config(), "")
        mount = Mount("/data", readonly=True, image=ImageSpec(NAME))
        ident = await container_create.create(node, pod, container_config(mounts=(mount,)), pod_config())
        for name in (NAME, found.image.id):
            with pytest.raises(InUse, match=ident):
                await remove.remove(node, ImageSpec(name))
        await container_remove.remove(node, ident, None)
        await remove.remove(node, ImageSpec(NAME))
        assert not fake.artifacts.stored


async def test_containers_do_not_run_from_artifacts(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.artifacts.add(NAME)
        pod = await pod_run.run(node, pod_config(), "")
        with pytest.raises(InvalidRequest, match="is an OCI artifact"):
            await container_create.create(node, pod, container_config(image=ImageSpec(NAME)), pod_config())


def making(pod: dict[str, str], image: dict[str, str]) -> Any:
    return SimpleNamespace(
        annotations=pod,
        image=SimpleNamespace(annotations=image),
        config=SimpleNamespace(metadata=SimpleNamespace(name="app")),
    )


def test_the_order_of_annotations() -> None:
    base, old = artifacts.SECCOMP
    pod = {f"{base}/app": "1", f"{base}/POD": "2", f"{base}/other": "no", base: "no"}
    image = {base: "3", f"{base}/app": "4", f"{base}/POD": "5", f"{base}/other": "no"}
    for expected in "12":
        assert artifacts.artifact_reference(making(pod, image)) == expected
        pod = {k: v for k, v in pod.items() if v != expected}
    for expected in "345":
        assert artifacts.artifact_reference(making(pod, image)) == expected
        image = {k: v for k, v in image.items() if v != expected}
    assert artifacts.artifact_reference(making(pod, image)) == ""
    assert artifacts.artifact_reference(making({f"{old}/app": "old"}, {})) == "old"


@pytest.mark.parametrize(
    ("kind", "privileged", "used"),
    [(None, False, True), (ProfileType.UNCONFINED, False, True), (ProfileType.RUNTIME_DEFAULT, False, False),
     (ProfileType.LOCALHOST, False, False), (None, True, False)],
)  # fmt: skip
async def test_only_where_the_request_asks_for_none(
    tmp_path: pathlib.Path, kind: ProfileType | None, privileged: bool, used: bool
) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.artifacts.add(NAME, ["profile"])
        fake.files.files["/artifacts/profile"] = b"content"
        what = making({f"{artifacts.SECCOMP[0]}/app": NAME}, {})
        profile = SecurityProfile(kind) if kind is not None else None
        what.config.security = SimpleNamespace(seccomp=profile, privileged=privileged)
        what.handler = node.host.handlers.get("")
        found = await artifacts.seccomp(node, what, ())
        assert found == ({"of": "content"} if used else None)


async def test_a_profile_is_pulled_or_missed(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        what = making({f"{artifacts.SECCOMP[0]}/app": NAME}, {})
        what.config.security = SimpleNamespace(seccomp=None, privileged=False)
        what.pod = SimpleNamespace(config=pod_config())
        fake.registry.offer(NAME, ("profile",), "application/x-lab")
        fake.files.files["/artifacts/profile"] = b"content"
        assert await artifacts.seccomp(node, what, ()) == {"of": "content"}
        del fake.files.files["/artifacts/profile"]
        with pytest.raises(NotFound, match="blob is missing"):
            await artifacts.seccomp(node, what, ())
