"""``pycrio check`` as a whole: what the configuration names, the store's damages, exit codes."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import tempfile

import pytest

from pycrio.commands import partscheck, preflight
from pycrio.commands.finding import Finding, Level, Place
from pycrio.commands.node import CheckOptions
from pycrio.config import load
from pycrio.config.options import BY_KEY
from pycrio.config.values import Config
from pycrio.drivers.layers.check import Damage, Report
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.store import Store
from pycrio.errors import PycrioError, StoreFailure
from tests.unit.drivers.layers.support import BUSY, EXTRA, Entry, make_image, make_tar, pull

TWO = make_image("registry.test/two:1", [make_tar(BUSY), make_tar(EXTRA)])
BOX = "b0" * 32
FACTS = load.HostFacts(systemd=False, selinux=False, storage_files=())
COUNTS = "1 layer errors, 0 read-only layer errors, 1 image errors, 0 read-only image errors, {} container errors"


class Node:
    """A configuration on scratch directories."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        for name in ("net.d", "bin"):
            (root / name).mkdir()
        (root / "policy.json").write_text("{}")

    def config(self, **more: object) -> Config:
        values = {
            "crio.root": f"{self.root}/root",
            "crio.runroot": f"{self.root}/run",
            "crio.log_dir": f"{self.root}/logs",
            "crio.api.listen": f"{self.root}/crio.sock",
            "crio.image.signature_policy": f"{self.root}/policy.json",
            "crio.network.network_dir": f"{self.root}/net.d",
            "crio.network.plugin_dirs": (f"{self.root}/bin",),
            "crio.runtime.cgroup_manager": "cgroupfs",
            "crio.storage_option": ("overlay.skip_mount_home=true",),
            **{k.replace("__", "."): v for k, v in more.items()},
        }
        assert values.keys() <= BY_KEY.keys()
        base = load.load({}, {}, FACTS, read_files=False)
        return Config(
            values={**base.values, **values},  # type: ignore[dict-item]
            defaults=base.defaults,
            origins=base.origins,
            handlers=base.handlers,
            workloads=base.workloads,
        )

    def script(self, name: str, text: str) -> str:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def handler(self, path: str, **more: object) -> Config:
        from dataclasses import replace

        config = self.config(**more)
        name = config.text("crio.runtime.default_runtime")
        changed = replace(config.handlers[name], runtime_path=path)
        return replace(config, handlers={name: changed})


@pytest.fixture
def node(tmp_path: pathlib.Path) -> Node:
    return Node(tmp_path)


def only(found: list[Finding], subject: str) -> Finding:
    matching = [f for f in found if f.subject.startswith(subject)]
    assert len(matching) == 1, found
    return matching[0]


# --- parts --------------------------------------------------------------------------------------------------------

FEATURES = {"mountOptions": ["ro", "rro"], "linux": {"mountExtensions": {"idmap": {"enabled": True}}}}


async def runtimes(config: Config) -> list[Finding]:
    return [f async for f in partscheck.runtimes(config)]


async def test_a_runtime_with_every_feature(node: Node) -> None:
    script = f"case $1 in --version) echo runx 9;; features) echo '{json.dumps(FEATURES)}';; esac"
    found = await runtimes(node.handler(node.script("runx", script)))
    assert [f.level for f in found] == [Level.OK] * 3
    assert "runx 9" in found[0].text
    assert "(default)" in found[0].subject
    assert found[2].text.endswith("pycrio-monitor")


async def test_a_shim(node: Node) -> None:
    """It has no features to tell, and no container is made by it as by an OCI runtime."""
    from dataclasses import replace

    path = node.script("containerd-shim-x-v2", f'echo "$*" >>{node.root}/calls; echo shim-x 2')
    config = node.handler(path)
    (name, handler), *_ = config.handlers.items()
    found = await runtimes(replace(config, handlers={name: replace(handler, runtime_type="vm")}))
    assert [(f.level, f.subject.split()[0]) for f in found] == [(Level.OK, "runtime"), (Level.OK, "monitor")]
    assert found[0].text == f"{path}, shim-x 2 shim"
    assert (node.root / "calls").read_text() == "--version\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'no control  groups' >&2; exit 1", "cannot be made: no control groups"),
        (
            'echo \'time="now" level=error msg="the \\\\"words\\\\" of runc"\'; exit 1',
            'cannot be made: the "words" of runc',
        ),
        ("exit 7", "cannot be made: it ended with code 7 and said nothing"),
        ("exit 0", "can be made"),
    ],
)
async def test_a_container_is_tried(node: Node, script: str, said: str) -> None:
    """With the state and the bundle of its own, which are gone afterwards, as is the container."""
    text = f'[ "$1" = --version ] && echo runx 9 && exit\necho "$*" >>{node.root}/calls\n'
    text += f'[ "$2" = create ] || exit 0\n{script}'
    found = only(await runtimes(node.handler(node.script("runx", text))), "container by")
    assert (found.text, found.level) == (said, Level.OK if script == "exit 0" else Level.FAIL)
    features, create, delete = (line.split() for line in (node.root / "calls").read_text().splitlines())
    assert features == ["features"]
    assert (create[0], create[-1]) == (delete[0], delete[-1])
    assert (create[1:3], delete[1:3]) == (["create", "--bundle"], ["delete", "--force"])
    assert not os.path.exists(create[3])


@pytest.mark.system
@pytest.mark.parametrize("name", ["runc", "crun"])
async def test_real_runtimes_are_tried(node: Node, name: str) -> None:
    """What is said is what the runtime does on this host, and no group of it is left."""
    before = groups()
    found = only(await runtimes(node.handler(shutil.which(name) or "")), "container by")
    hybrid = os.path.exists("/sys/fs/cgroup/unified/cgroup.controllers") and bool(
        pathlib.Path("/sys/fs/cgroup/unified/cgroup.controllers").read_text().split()
    )
    if name == "crun" and hybrid:
        assert (found.level, "hybrid mode" in found.text) == (Level.FAIL, True)
    else:
        assert (found.level, found.text) == (Level.OK, "can be made")
    assert groups() == before
    assert not list(pathlib.Path(tempfile.gettempdir()).glob("pycrio-check-*"))


def groups() -> list[pathlib.Path]:
    return sorted(pathlib.Path("/sys/fs/cgroup").glob("**/crio-check-*"))


async def test_a_runtime_without_features(node: Node) -> None:
    found = await runtimes(node.handler(node.script("runx", "[ $1 = --version ] && echo runx 1")))
    assert found[0].level is Level.WARN
    assert "recursive read-only mounts and id-mapped mounts" in found[0].text


@pytest.mark.parametrize("text", ["exit 3", "kill -9 $$"])
async def test_a_runtime_that_does_not_run(node: Node, text: str) -> None:
    found = await runtimes(node.handler(node.script("runx", text)))
    assert [f.level for f in found] == [Level.FAIL]


async def test_a_missing_runtime(node: Node) -> None:
    found = await runtimes(node.handler("/nowhere/runx"))
    assert [f.level for f in found] == [Level.FAIL]
    assert "runtime_path" in found[0].remedy


async def test_a_missing_monitor_is_replaced(node: Node) -> None:
    script = f"case $1 in --version) echo runx 9;; features) echo '{json.dumps(FEATURES)}';; esac"
    config = node.handler(node.script("runx", script), crio__runtime__conmon="/nowhere/conmon")
    monitor = only(await runtimes(config), "monitor")
    assert monitor.level is Level.WARN
    assert "/nowhere/conmon is not there" in monitor.text


def test_networks(node: Node) -> None:
    config = node.config()
    found = list(partscheck.network(config))
    assert found[-1].level is Level.WARN
    (node.root / "net.d/10.conflist").write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "plug"}]})
    )
    missing = list(partscheck.network(config))
    assert "plugin 'plug'" in missing[0].text
    node.script("plug", "true")
    assert [f.level for f in partscheck.network(config)] == [Level.OK]
    assert "pods (CNI 1.0.0)" in next(iter(partscheck.network(config))).text
    other = node.config(crio__network__cni_default_network="others")
    assert "no network named 'others'" in list(partscheck.network(other))[-1].text


def test_programs(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{node.root}/bin")
    found = list(partscheck.programs(node.config(crio__runtime__infra_ctr_cpuset="0")))
    assert [(f.level.value, f.subject) for f in found[:-1]] == [
        ("warn", "host ports"),
        ("warn", "host ports"),
        ("warn", "checkpoints"),
        ("fail", "taskset"),
    ]
    for name in ("iptables", "conntrack", "criu", "taskset"):
        node.script(name, "true")
    found = list(partscheck.programs(node.config(crio__runtime__infra_ctr_cpuset="0")))
    assert {f.level for f in found} == {Level.OK}
    assert only(found, "host ports").text == "by iptables"
    found = list(partscheck.programs(node.config(crio__runtime__disable_hostport_mapping=True)))
    assert [f.subject for f in found] == ["checkpoints", "signature policy"]
    found = list(partscheck.programs(node.config(crio__image__signature_policy="/nowhere.json")))
    assert found[-1].level is Level.FAIL


def test_the_socket(node: Node) -> None:
    path = f"{node.root}/s"
    assert "free" in partscheck.socket_state(path).text
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert "serves" in partscheck.socket_state(path).text
    assert "left over" in partscheck.socket_state(path).text
    (node.root / "dir").mkdir()
    assert partscheck.socket_state(f"{node.root}/{'x' * 200}").level is Level.FAIL


def test_the_file_system_of_a_path(tmp_path: pathlib.Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "1 1 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /run rw shared:1 - tmpfs tmpfs rw\n"
        "3 2 0:6 / /run/with\\040blank rw - xfs /dev/b rw\n"
    )
    place = Place(str(tmp_path))
    assert partscheck.filesystem("/runner", place) == "ext4"
    assert partscheck.filesystem("/run/x", place) == "tmpfs"
    assert partscheck.filesystem("/run/with blank/x", place) == "xfs"


async def test_the_whole_node_is_looked_at_without_changing_it(node: Node) -> None:
    before = sorted(os.listdir(node.root))
    found = await preflight.node(node.config())
    assert {"kernel", "cgroups", "capabilities", "network", "socket"} <= {f.subject for f in found}
    assert sorted(os.listdir(node.root)) == before


# --- store --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def store(node: Node) -> Config:
    """A configuration whose store holds an image with two layers and a container."""
    config = node.config()
    opened = Store(Settings(f"{node.root}/root", f"{node.root}/run", skip_mount_home=True))
    await opened.open()
    await pull(opened, *TWO)
    await opened.close()
    return config


def top_layer(node: Node) -> pathlib.Path:
    return next(p for p in (node.root / "root/overlay").iterdir() if (p / "diff/app").exists())


async def test_no_store_yet(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    await preflight.store(node.config(), CheckOptions())
    assert "not there yet" in capsys.readouterr().out
    assert not (node.root / "root").exists()


async def test_a_whole_store(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    await preflight.store(store, CheckOptions())
    assert "is whole" in capsys.readouterr().out


async def test_damage_is_counted_and_named(store: Config, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    top = top_layer(node)
    (top / "diff/app/data").write_bytes(b"y")
    with pytest.raises(PycrioError) as e:
        await preflight.store(store, CheckOptions(quick=True))
    assert str(e.value) == COUNTS.format(0)
    out = capsys.readouterr().out
    assert f"fail  store layer: {top.name}: its content" in out
    assert "--repair" in out
    await preflight.store(store, CheckOptions(repair=True))
    assert "repaired: 2 damaged" in capsys.readouterr().out
    assert not top.exists()
    await preflight.store(store, CheckOptions())


async def test_added_files_are_found_unless_quick(store: Config, node: Node) -> None:
    (top_layer(node) / "diff/app/more").touch()
    await preflight.store(store, CheckOptions(quick=True))
    with pytest.raises(PycrioError, match="1 layer errors"):
        await preflight.store(store, CheckOptions())


async def test_damaged_containers_go_only_by_force(store: Config, node: Node) -> None:
    opened = Store(Settings(f"{node.root}/root", f"{node.root}/run", skip_mount_home=True))
    await opened.open()
    await opened.rootfs.create(Entry(BOX, ("box",), TWO[0].config_digest[7:]))
    await opened.close()
    (top_layer(node) / "diff/app/data").write_bytes(b"y")
    with pytest.raises(PycrioError, match="1 container errors"):
        await preflight.store(store, CheckOptions(repair=True))
    assert (node.root / "root/overlay-containers" / BOX).exists()
    await preflight.store(store, CheckOptions(repair=True, force=True))
    assert not (node.root / "root/overlay-containers" / BOX).exists()
    await preflight.store(store, CheckOptions())


@pytest.mark.parametrize(("age", "left"), [(3600.0, True), (0.0, False)])
async def test_old_unused_layers_go(store: Config, node: Node, age: float, left: bool) -> None:
    opened = Store(Settings(f"{node.root}/root", f"{node.root}/run", skip_mount_home=True))
    await opened.open()
    for image in list(await opened.images.all()):
        path = f"{opened.settings.images_dir}/images.json"
        pathlib.Path(path).write_text(json.dumps([]))
        shutil.rmtree(f"{opened.settings.images_dir}/{image.id}")
    await opened.close()
    layer = top_layer(node)
    await preflight.store(store, CheckOptions(repair=True, age=age))
    assert layer.exists() == left


async def test_a_store_beyond_repair_is_wiped_only_if_asked(
    store: Config, node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index = node.root / "root/overlay-layers/layers.json"

    async def refuse(self: object, *args: object, **kwargs: object) -> Report:
        return Report((Damage("layer", "ab" * 32, "it resists"),))

    monkeypatch.setattr("pycrio.drivers.layers.check.Checker.check", refuse)
    with pytest.raises(PycrioError, match="1 layer errors"):
        await preflight.store(store, CheckOptions(wipe=True))
    with pytest.raises(StoreFailure, match="cannot be repaired: it resists"):
        await preflight.store(store, CheckOptions(repair=True))
    assert index.exists()
    await preflight.store(store, CheckOptions(repair=True, wipe=True))
    assert os.listdir(node.root / "root") == []
    assert "was removed" in capsys.readouterr().out


def test_many_damages_are_not_all_printed() -> None:
    report = Report(
        tuple(Damage("layer", f"{n:064x}", "gone", read_only=n == 0) for n in range(30)), unreferenced=("a", "b")
    )
    lines = preflight.describe(report, "/s")
    assert len(lines) == preflight.SHOWN + 2
    assert "additional store" in lines[0].remedy
    assert lines[-2].text == "10 more damaged objects"
    assert "2 layers" in lines[-1].text


async def test_a_failed_node_check_is_the_exit(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PycrioError, match="not fit to run pods: 1 failed check"):
        await preflight.check(node.handler("/nowhere/runx"), CheckOptions())
    assert "fail  runtime" in capsys.readouterr().out


async def test_a_fit_node_exits_with_zero(node: Node) -> None:
    script = f"case $1 in --version) echo runx 9;; features) echo '{json.dumps(FEATURES)}';; esac"
    assert await preflight.check(node.handler(node.script("runx", script)), CheckOptions()) == 0
