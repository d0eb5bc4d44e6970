"""Which of host-local's files may go: those of addresses that name nobody, and only while no plugin is at work."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib

import pytest

from pycrio.drivers.network.conf import NetworkConf, parse
from pycrio.drivers.network.hostlocal import release_nameless


def network(data_dir: pathlib.Path, kind: str = "host-local") -> NetworkConf:
    plugins = [{"type": "bridge", "ipam": {"type": kind, "dataDir": str(data_dir)}}, {"type": "portmap"}]
    return parse(json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins}).encode())


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    """What a crash leaves: some with names, some without."""
    (tmp_path / "net").mkdir()
    for name, text in {
        "lock": "",
        "last_reserved_ip.0": "",
        "10.0.0.2": "a" * 64 + "\r\neth0",
        "10.0.0.3": "",
        "fd00::5": "",
        "10.0.0.300": "",
    }.items():
        (tmp_path / "net" / name).write_text(text)
    return tmp_path


def test_nameless_addresses_are_freed(store: pathlib.Path) -> None:
    assert release_nameless(network(store)) == ["10.0.0.3", "fd00::5"]
    assert sorted(os.listdir(store / "net")) == ["10.0.0.2", "10.0.0.300", "last_reserved_ip.0", "lock"]
    assert release_nameless(network(store)) == []


def test_a_plugin_at_work_is_left_alone(store: pathlib.Path) -> None:
    """Between making a file and filling it the plugin holds its lock."""
    with open(store / "net" / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert release_nameless(network(store)) == []
        assert (store / "net" / "10.0.0.3").exists()
    assert release_nameless(network(store)) == ["10.0.0.3", "fd00::5"]


def test_only_what_host_local_gave(store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert release_nameless(network(store, "static")) == []
    assert release_nameless(network(tmp_path / "never-used")) == []
    assert (store / "net" / "10.0.0.3").exists()
