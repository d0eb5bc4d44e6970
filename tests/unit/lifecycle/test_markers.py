"""Version files, the shutdown marker, and what a damaged or outdated store is answered with."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator

import pytest

from pycrio._native import mounts
from pycrio.config import load
from pycrio.config.values import Config
from pycrio.drivers.layers.check import Damage, Report
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.store import Store
from pycrio.errors import InUse
from pycrio.flows.containers.create import create
from pycrio.flows.pods.run import run
from pycrio.lifecycle import markers
from pycrio.model.image import ImageSpec
from pycrio.model.mount import Mount
from tests.fakes.node import container_config, fake_node, pod_config
from tests.unit.drivers.layers.support import BUSY, EXTRA, make_image, make_tar, pull

TWO = make_image("registry.test/two:1", [make_tar(BUSY), make_tar(EXTRA)])


@pytest.fixture
def config(tmp_path: pathlib.Path) -> Config:
    base = load.load({}, {}, load.HostFacts(False, False, ()), read_files=False)
    values = {
        "crio.root": f"{tmp_path}/root",
        "crio.runroot": f"{tmp_path}/run",
        "crio.version_file": f"{tmp_path}/v/version",
        "crio.version_file_persist": f"{tmp_path}/v/persist",
        "crio.clean_shutdown_file": f"{tmp_path}/v/clean",
    }
    return Config({**base.values, **values}, base.defaults, base.origins, base.handlers, base.workloads)


def changed_values(config: Config, **more: object) -> Config:
    values = {**config.values, **{k.replace("__", "."): v for k, v in more.items()}}
    return Config(values, config.defaults, config.origins, config.handlers, config.workloads)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, True),
        ('"1.4.2"', False),
        ('"1.4.9+abcdef"', False),
        ("1.4.0", False),
        ('"1.3.2"', True),
        ('"2.4.2"', True),
        ("", True),
        ('{"a": 1}', True),
        ("\xff\xfe", True),
    ],
)
def test_a_changed_version(tmp_path: pathlib.Path, content: str | None, expected: bool) -> None:
    path = tmp_path / "version"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    assert markers.changed(str(path), "1.4.2") is expected


def test_no_version_file_never_changes() -> None:
    assert not markers.changed("", "1.4.2")


async def test_start_and_end_leave_their_marks(config: Config, tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path / "state")) as (node, _):
        assert not markers.unclean(config)
        await markers.at_start(config, node)
        assert json.loads((tmp_path / "v/version").read_text()) == markers.current()
        assert (tmp_path / "v/version").stat().st_mode & 0o777 == 0o644
        assert (tmp_path / "v/clean.supported").exists()
        assert markers.unclean(config)
        await markers.at_end(config)
        assert not markers.unclean(config)
        await markers.at_start(config, node)
        assert not (tmp_path / "v/clean").exists()


async def test_pods_of_an_earlier_boot_go(config: Config, tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path / "state")) as (node, fake):
        await run(node, pod_config(), "")
        kept = changed_values(config, crio__internal_wipe=False)
        await markers.at_start(kept, node)
        assert len(node.pods) == 1
        os.unlink(tmp_path / "v/version")
        await markers.at_start(config, node)
        assert len(node.pods) == 0
        assert not any(fake.held().values())


async def test_images_and_artifacts_of_an_earlier_version_go(config: Config, tmp_path: pathlib.Path) -> None:
    """Those that containers were made from or had as mounts; what only lay there is somebody else's."""
    async with fake_node(str(tmp_path / "state")) as (node, fake):
        fake.images.add()
        used = fake.artifacts.add("registry.test/lab/used:1")
        spare = fake.artifacts.add("registry.test/lab/spare:1")
        pod = await run(node, pod_config(), "")
        mount = Mount("/data", readonly=True, image=ImageSpec("registry.test/lab/used:1"))
        await create(node, pod, container_config(mounts=(mount,)), pod_config())
        assert markers.mounted(node) == {used.image.id}
        await markers.at_start(changed_values(config, crio__version_file_persist=""), node)
        assert await fake.artifacts.all() == [used, spare]
        pod = await run(node, pod_config(), "")
        await create(node, pod, container_config(mounts=(mount,)), pod_config())
        os.unlink(tmp_path / "v/version")
        await markers.at_start(config, node)
        assert await fake.artifacts.all() == [spare]
        assert await node.host.images.all() == []


# --- the store ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def store(config: Config) -> Store:
    opened = Store(Settings(config.text("crio.root"), config.text("crio.runroot")))
    await opened.open()
    await pull(opened, *TWO)
    return opened


@pytest.fixture
def mounted(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A store whose home is bound on itself, as every program that uses one does, with a blank in its path."""
    root = tmp_path / "a store"
    merged = root / "overlay/x/merged"
    merged.mkdir(parents=True)
    (root / "overlay/x/diff").write_text("content")
    mounts.bind(str(root / "overlay"), str(root / "overlay"), propagation="private")
    yield root
    for path in (merged, root / "overlay"):
        if path.exists():
            mounts.umount(str(path))


def test_a_store_is_removed_from_below_its_mounts(mounted: pathlib.Path) -> None:
    markers.remove_store(str(mounted))
    assert os.listdir(mounted) == []


def test_a_store_in_use_is_removed_only_by_force(mounted: pathlib.Path) -> None:
    mounts.tmpfs(str(mounted / "overlay/x/merged"), mode=0o755)
    with pytest.raises(InUse, match="1 running containers"):
        markers.remove_store(str(mounted))
    assert (mounted / "overlay/x/diff").exists()
    markers.remove_store(str(mounted), force=True)
    assert os.listdir(mounted) == []


def test_no_store_is_removed_as_well(tmp_path: pathlib.Path) -> None:
    markers.remove_store(str(tmp_path / "absent"))


def crashed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/clean.supported").touch()


def harm(tmp_path: pathlib.Path) -> None:
    """The image loses a piece of its data; layers are whole."""
    image = TWO[0].config_digest[7:]
    next(p for p in (tmp_path / "root/overlay-images" / image).iterdir() if p.is_file()).unlink()


@pytest.mark.parametrize("switch", ["clean", "off"])
async def test_the_store_is_not_looked_at_without_cause(
    config: Config, store: Store, tmp_path: pathlib.Path, switch: str
) -> None:
    harm(tmp_path)
    if switch == "off":
        crashed(tmp_path)
        config = changed_values(config, crio__internal_repair=False)
    await markers.repair_store(config, store)
    assert len(await store.images.all()) == 1
    await store.close()


async def test_a_damaged_store_is_repaired_after_a_crash(config: Config, store: Store, tmp_path: pathlib.Path) -> None:
    crashed(tmp_path)
    await markers.repair_store(config, store)
    assert len(await store.images.all()) == 1
    harm(tmp_path)
    await markers.repair_store(config, store)
    assert not await store.images.all()
    assert (await store.checker.check()).damages == ()
    await store.close()


async def test_a_store_that_resists_repair_is_made_anew(
    config: Config, store: Store, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed(tmp_path)

    async def resist(self: object, *args: object, **kwargs: object) -> Report:
        return Report((Damage("layer", "ab" * 32, "it resists"),))

    with monkeypatch.context() as patch:
        patch.setattr("pycrio.drivers.layers.check.Checker.check", resist)
        await markers.repair_store(config, store)
    assert not await store.images.all()
    await pull(store, *TWO)
    assert (await store.checker.check()).damages == ()
    await store.close()
