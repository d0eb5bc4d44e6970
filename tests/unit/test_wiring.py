"""From keys to the settings of drivers, where no test with a real daemon can see the way: what drivers do with their
settings is shown by their own tests."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from pycrio import wiring
from pycrio.config import flags, load
from pycrio.config.values import Config

HOST = load.HostFacts(systemd=False, selinux=False, storage_files=())
Case = tuple[str, Callable[[Config], Any], Any]
effect = pytest.mark.effect


def conf(directory: pathlib.Path, text: str, *argv: str) -> Config:
    path = directory / "crio.conf"
    path.write_text(text)
    return load.load(flags.parse(["-c", str(path), "-d", "", *argv]).settings, {}, HOST)


def handler(config: Config) -> Any:
    return wiring.make_handler("h", config.handlers["h"], config)


CASES: dict[str, Case] = {
    "crio.image.pull_progress_timeout": ('"7s"', lambda c: wiring.registry_settings(c).pull_progress_timeout, 7.0),
    "crio.image.pause_image_auth_file": ('"/a"', lambda c: wiring.registry_settings(c).pause_image_auth_file, "/a"),
    "crio.nri.nri_plugin_request_timeout": ('"7s"', lambda c: wiring.nri_settings(c, "").request_timeout, 7.0),
    "crio.runtime.blockio_reload": ("true", lambda c: wiring.class_settings(c).follow, True),
    "crio.runtime.rdt_config_file": ('"/r"', lambda c: wiring.class_settings(c).rdt, "/r"),
    "crio.runtime.selinux": ("true", lambda c: wiring.security_settings(c).selinux, True),
    "crio.runtime.apparmor_profile": ('"mine"', lambda c: wiring.security_settings(c).apparmor_profile, "mine"),
    "crio.runtime.hostnetwork_disable_selinux": (
        "false",
        lambda c: wiring.make_options(c).hostnetwork_disable_selinux,
        False,
    ),
    "crio.runtime.runtimes.h.container_create_timeout": ("77", lambda c: handler(c).create_timeout, 77),
    "crio.runtime.runtimes.h.exec_cpu_affinity": ('"first"', lambda c: handler(c).exec_cpu_affinity, "first"),
    "crio.runtime.runtimes.h.runtime_type": ('"pod"', lambda c: handler(c).type, "pod"),
}


@effect("crio.runtime.runtimes.*.runtime_type", "crio.runtime.runtimes.*.container_create_timeout")
@pytest.mark.parametrize("key", CASES)
def test_a_key_reaches_its_driver(key: str, tmp_path: pathlib.Path) -> None:
    text, look, wanted = CASES[key]
    table, _, name = key.rpartition(".")
    base = f'[crio.runtime.runtimes.h]\nruntime_path = "{shutil.which("true")}"\n'
    line = f"{name} = {text}\n"
    given = f"{base}{line}" if ".runtimes." in key else f"[{table}]\n{line}{base}"
    assert look(conf(tmp_path, base)) != wanted
    assert look(conf(tmp_path, given)) == wanted


@effect("cli.registries_conf_dir")
def test_directories_of_registries(tmp_path: pathlib.Path) -> None:
    config = conf(tmp_path, "", "--registries-conf-dir", "/d")
    assert wiring.registry_settings(config).registries_conf_dir == "/d"


@effect("crio.network.cni_status_grace_period")
async def test_the_grace_period_of_networks(tmp_path: pathlib.Path) -> None:
    text = (
        f'[crio]\nroot = "{tmp_path}/r"\nrunroot = "{tmp_path}/rr"\n[crio.network]\ncni_status_grace_period = "7s"\n'
        f'[crio.runtime]\ndefault_runtime = "h"\ncontainer_exits_dir = "{tmp_path}/e"\nhooks_dir = []\n'
        f'container_attach_socket_dir = "{tmp_path}/a"\nnamespaces_dir = "{tmp_path}/n"\n'
        f'[crio.runtime.runtimes.h]\nruntime_path = "{shutil.which("true")}"\n'
    )
    parts = await wiring.build(conf(tmp_path, text), "1.0.0")
    assert parts.network.settings.status_grace_period == 7.0
