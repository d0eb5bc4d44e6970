"""SIGHUP on real drivers: what every reloadable key changes, and that a fault changes nothing at all."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pycrio import wiring
from pycrio.config import flags, load
from pycrio.config.options import FILE_ROWS
from pycrio.config.options.handlers import HANDLER
from pycrio.config.values import Config
from pycrio.errors import ConfigError, PycrioError
from pycrio.lifecycle import reloading
from pycrio.model.node import Handler
from pycrio.model.security import ProfileType, SecurityProfile
from pycrio.obs import log as obslog

HOST = load.HostFacts(systemd=False, selinux=False, storage_files=())
BASE = """
[crio]
root = "{d}/root"
runroot = "{d}/run"
[crio.runtime]
{runtime}
{cgroups}
[crio.image]
{image}
[crio.runtime.runtimes.runc]
{handler}
[crio.runtime.runtimes.other]
runtime_path = "{runc}"
"""
RUNC = shutil.which("runc") or ""
DEFAULT = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
Look = Callable[[wiring.Parts], Any]


class Place:
    """A configuration file and what was built of it."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.dir = directory
        self.config: Config
        self.parts: wiring.Parts

    def write(self, runtime: str = 'default_runtime = "runc"', image: str = "", handler: str = "") -> None:
        if "default_runtime" not in runtime:
            runtime += '\ndefault_runtime = "runc"'
        if "runtime_path" not in handler:
            handler += f'\nruntime_path = "{RUNC}"'
        text = BASE.format(
            d=self.dir, runtime=runtime, image=image, handler=handler, runc=RUNC, cgroups='cgroup_manager = "cgroupfs"'
        )
        (self.dir / "crio.conf").write_text(text)

    async def build(self) -> None:
        parsed = flags.parse(["-c", str(self.dir / "crio.conf"), "-d", str(self.dir / "conf.d")])
        self.config = load.load(parsed.settings, {}, HOST)
        self.parts = await wiring.build(self.config, "1.0.0")

    async def reload(self) -> list[str]:
        """The keys that changed."""
        self.config, changes = await reloading.reload(self.config, os.environ, self.parts)
        return [change.key for change in changes]

    def handler(self, name: str = "") -> Handler:
        return self.parts.host.handlers.get(name)

    def seccomp(self, privileged: bool = False) -> Any:
        found = self.parts.host.security.seccomp(DEFAULT, privileged, self.handler())
        return found and found["defaultAction"]


@pytest.fixture
async def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(load, "host_facts", lambda: HOST)
    found = Place(tmp_path)
    (tmp_path / "profile.json").write_text('{"defaultAction": "SCMP_ACT_KILL"}')
    (tmp_path / "auth.json").write_text("{}")
    (tmp_path / "classes.yaml").write_text("Classes: {slow: [{Weight: 10}]}")
    (tmp_path / "rdt.yaml").write_text("partitions: {}")
    found.write()
    await found.build()
    return found


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    level, pattern = obslog._sink.level, obslog._sink.filter
    yield
    obslog._sink.level, obslog._sink.filter = level, pattern


# key → the line for the file ({d} is a directory), and what must differ afterwards
RUNTIME: dict[str, tuple[str, Callable[[Place], Any]]] = {
    "log_level": ('log_level = "error"', lambda p: obslog._sink.level),
    "log_filter": ('log_filter = "abc"', lambda p: obslog._sink.filter),
    "default_runtime": ('default_runtime = "other"', lambda p: p.handler().name),
    "decryption_keys_path": ('decryption_keys_path = "{d}"', lambda p: p.parts.store.layers.keys),
    "seccomp_profile": ('seccomp_profile = "{d}/profile.json"', lambda p: p.seccomp()),
    "privileged_seccomp_profile": ('privileged_seccomp_profile = "{d}/profile.json"', lambda p: p.seccomp(True)),
    "apparmor_profile": ('apparmor_profile = "mine"', lambda p: p.parts.security._apparmor.default),
    "blockio_config_file": (
        'blockio_config_file = "{d}/classes.yaml"',
        lambda p: p.parts.classes.block_io_known("slow"),
    ),
    "blockio_reload": ("blockio_reload = true", lambda p: p.parts.classes._state.settings.follow),
    "rdt_config_file": ('rdt_config_file = "{d}/rdt.yaml"', lambda p: p.parts.classes._state.settings.rdt),
    "cdi_spec_dirs": ('cdi_spec_dirs = ["{d}"]', lambda p: p.parts.host.devices._cdi._directories),  # type: ignore[attr-defined]
}
IMAGE: dict[str, tuple[str, Callable[[Place], Any]]] = {
    "pause_image": ('pause_image = "a.example/pause:9"', lambda p: p.parts.host.options.pause_image),
    "pause_image_auth_file": (
        'pause_image_auth_file = "{d}/auth.json"',
        lambda p: p.parts.registry._settings.pause_image_auth_file,
    ),
    "pause_command": ('pause_command = "/other"', lambda p: p.parts.host.options.pause_command),
    "pinned_images": ('pinned_images = ["a*"]', lambda p: p.parts.host.options.pinned_images),
}
# Fields of handlers: the line, and the field that the flows see.
FIELDS = {
    "runtime_path": ('runtime_path = "{other}"', "path"),
    "runtime_root": ('runtime_root = "/run/else"', "root"),
    "runtime_type": ('runtime_type = "pod"', "type"),
    "privileged_without_host_devices": (
        "privileged_without_host_devices = true",
        "privileged_without_host_devices",
    ),
    "privileged_without_host_devices_all_devices_allowed": (
        "privileged_without_host_devices = true\nprivileged_without_host_devices_all_devices_allowed = true",
        "privileged_without_host_devices_all_devices_allowed",
    ),
    "allowed_annotations": ('allowed_annotations = ["umask.crio.io"]', "allowed_annotations"),
    "default_annotations": ('default_annotations = {{"a" = "b"}}', "default_annotations"),
    "monitor_path": ('monitor_path = "{other}"', "monitor_path"),
    "monitor_cgroup": ('monitor_cgroup = "pod"', "monitor_cgroup"),
    "monitor_env": ('monitor_env = ["A=b"]', "monitor_env"),
    "monitor_exec_cgroup": ('monitor_exec_cgroup = "container"', "monitor_exec_cgroup"),
    "platform_runtime_paths": ('platform_runtime_paths = {{"linux/arm64" = "/x"}}', "platform_runtime_paths"),
    "container_min_memory": ('container_min_memory = "1GiB"', "container_min_memory"),
    "no_sync_log": ("no_sync_log = true", "no_sync_log"),
    "exec_cpu_affinity": ('exec_cpu_affinity = "first"', "exec_cpu_affinity"),
    "seccomp_profile": ('seccomp_profile = "{d}/profile.json"', "seccomp_profile"),
    "runtime_pull_image": ("runtime_pull_image = true", "pull_image"),
    "container_create_timeout": ("container_create_timeout = 99", "create_timeout"),
}
# What handlers of type oci have not, or what is gone into other fields while loading.
IDLE = {"runtime_config_path", "stream_websockets", "inherit_default_runtime"}


def test_the_tables_are_complete() -> None:
    live = {row.key for row in FILE_ROWS if row.reload == "sighup" and row.kind != "table"}
    assert live == {f"crio.runtime.{k}" for k in RUNTIME} | {f"crio.image.{k}" for k in IMAGE}
    assert {row.key for row in FILE_ROWS if row.reload == "sighup" and row.kind == "table"} == {"crio.runtime.runtimes"}
    assert {row.name for row in HANDLER if row.reload == "sighup"} == set(FIELDS) | IDLE


@pytest.mark.parametrize("key", [*RUNTIME, *IMAGE])
async def test_a_key_takes_effect(key: str, place: Place) -> None:
    line, look = (RUNTIME | IMAGE)[key]
    before = look(place)
    text = line.format(d=place.dir)
    place.write(**{"runtime" if key in RUNTIME else "image": text})
    assert [k.rpartition(".")[2] for k in await place.reload()] == [key]
    assert look(place) != before
    place.write()
    await place.reload()
    assert look(place) == before


@pytest.mark.parametrize("key", FIELDS)
async def test_a_field_of_a_handler_takes_effect(key: str, place: Place) -> None:
    line, name = FIELDS[key]
    before = getattr(place.handler(), name)
    place.write(handler=line.format(d=place.dir, other=shutil.which("true")))
    assert await place.reload() == ["crio.runtime.runtimes.runc"]
    assert getattr(place.handler(), name) != before


async def test_the_content_of_files_is_read_again(place: Place) -> None:
    runtime = f'seccomp_profile = "{place.dir}/profile.json"\nblockio_config_file = "{place.dir}/classes.yaml"'
    place.write(runtime=runtime)
    await place.reload()
    (place.dir / "profile.json").write_text('{"defaultAction": "SCMP_ACT_LOG"}')
    (place.dir / "classes.yaml").write_text("Classes: {slow: [{Weight: 20}]}")
    assert await place.reload() == []
    assert place.seccomp() == "SCMP_ACT_LOG"
    assert place.parts.classes.block_io_known("slow") == {"weight": 20}


@pytest.mark.effect("crio.runtime.runtimes.*.runtime_config_path")
async def test_a_handler_for_machines(place: Place) -> None:
    shim, told = place.dir / "containerd-shim-x-v2", place.dir / "machine.toml"
    shim.write_text("#!/bin/sh\nexit 1\n")
    shim.chmod(0o755)
    lines = f'runtime_type = "vm"\nruntime_path = "{shim}"\nruntime_config_path = "{told}"'
    place.write(handler=lines)
    with pytest.raises(ConfigError, match=r"machine\.toml is not a file"):
        await place.reload()
    assert place.handler().type == "oci"
    told.touch()
    assert await place.reload() == ["crio.runtime.runtimes.runc"]
    found = place.handler()
    assert (found.type, found.path, found.config_path) == ("vm", str(shim), str(told))


FAULTS = {
    "a value": ("log_level = 'loud'", ""),
    "a profile of a handler": ("", 'seccomp_profile = "/none"'),
    "the default runtime": ("", 'runtime_path = "/usr/bin/none"'),
    "a runtime for machines": ("", 'runtime_type = "vm"\nruntime_path = "/bin/containerd-shim-x"'),
    "a seccomp profile": ('seccomp_profile = "{d}/crio.conf"', ""),
    "block I/O classes": ('blockio_config_file = "/none"', ""),
}


@pytest.mark.parametrize("fault", [*FAULTS, "an auth file", "registries"])
async def test_a_fault_changes_nothing(fault: str, place: Place) -> None:
    """Everything that may change does, and one thing is wrong."""
    looks = {key: look for key, (_, look) in (RUNTIME | IMAGE).items()}
    before = {key: look(place) for key, look in looks.items()}
    lines = {key: line.format(d=place.dir) for key, (line, _) in RUNTIME.items()}
    runtime, handler = (text.format(d=place.dir) for text in FAULTS.get(fault, ("", "")))
    lines = {key: line for key, line in lines.items() if not runtime.startswith(f"{key} ") and key != "default_runtime"}
    image = {key: line.format(d=place.dir) for key, (line, _) in IMAGE.items()}
    if fault == "an auth file":
        image["pause_image_auth_file"] = 'pause_image_auth_file = "/none"'
    if fault == "registries":
        (place.dir / "registries.conf").write_text("unqualified-search-registries = 7\n")
        place.parts.registry._settings = replace(
            place.parts.registry._settings, registries_conf=str(place.dir / "registries.conf")
        )
        place.config.values["cli.registries_conf"] = str(place.dir / "registries.conf")  # type: ignore[index]
    place.write("\n".join([*lines.values(), runtime]), "\n".join(image.values()), handler)
    held = place.config
    with pytest.raises(PycrioError):
        await place.reload()
    assert place.config is held
    assert {key: look(place) for key, look in looks.items()} == before


async def test_every_fault_is_told_at_once(place: Place) -> None:
    place.write(image='pause_image_auth_file = "/none"', handler='seccomp_profile = "/lost"')
    with pytest.raises(PycrioError) as failure:
        await place.reload()
    for words in ("crio.conf", "'/lost' cannot be read", "'/none' is not a file"):
        assert words in str(failure.value)
