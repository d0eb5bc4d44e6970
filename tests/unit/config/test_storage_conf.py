"""Defaults of the store from storage.conf."""

from __future__ import annotations

import pathlib

import pytest

from pycrio.config import load, storage_conf
from pycrio.errors import ConfigError

TEXT = """
[storage]
driver = "overlay"
graphroot = "/srv/store"
runroot = "/run/store"
[storage.options]
additionalimagestores = ["/ro/a", "/ro/b"]
size = "1G"
ignore_chown_errors = "true"
[storage.options.overlay]
size = "2G"
mountopt = "nodev"
use_composefs = false
"""


def test_values_and_options(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "storage.conf"
    file.write_text(TEXT)
    host = load.HostFacts(True, False, (str(tmp_path / "absent"), str(file)))
    found = load.load({}, {"CONTAINER_CONFIG": "", "CONTAINER_CONFIG_DIR": ""}, host)
    assert found.text("crio.root") == "/srv/store"
    assert str(found.origin("crio.root")) == f"{file}:4"
    assert not found.is_set("crio.root")
    assert set(found.texts("crio.storage_option")) == {
        "overlay.imagestore=/ro/a",
        "overlay.imagestore=/ro/b",
        "overlay.size=2G",
        "overlay.mountopt=nodev",
        "overlay.ignore_chown_errors=true",
        "overlay.use_composefs=false",
    }
    assert found.values["crio.root"] == found.defaults["crio.root"]


def test_a_file_appends_to_its_options(tmp_path: pathlib.Path) -> None:
    (tmp_path / "storage.conf").write_text(TEXT)
    (tmp_path / "crio.conf").write_text('[crio]\nstorage_option = ["overlay.mountopt=nodev", "x=1"]\n')
    host = load.HostFacts(True, False, (str(tmp_path / "storage.conf"),))
    env = {"CONTAINER_CONFIG": str(tmp_path / "crio.conf"), "CONTAINER_CONFIG_DIR": ""}
    options = load.load({}, env, host).texts("crio.storage_option")
    assert options[-2:] == ("overlay.mountopt=nodev", "x=1")
    assert options.count("overlay.mountopt=nodev") == 1


def test_variables_name_file_driver_and_options(tmp_path: pathlib.Path) -> None:
    (tmp_path / "s").write_text(TEXT)
    env = {"CONTAINERS_STORAGE_CONF": str(tmp_path / "s"), "STORAGE_DRIVER": "vfs", "STORAGE_OPTS": "a=1,b=2"}
    found = storage_conf.defaults(env, ())
    assert found["crio.runroot"][0] == "/run/store"
    assert found["crio.storage_driver"][0] == "vfs"
    assert found["crio.storage_option"][0] == ("a=1", "b=2")


def test_faults(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="not there"):
        storage_conf.defaults({"CONTAINERS_STORAGE_CONF": str(tmp_path / "absent")}, ())
    (tmp_path / "bad").write_text("[storage]\nx = \n")
    with pytest.raises(ConfigError, match=r"bad:2: is not TOML"):
        storage_conf.defaults({}, (str(tmp_path / "bad"),))
    with pytest.raises(ConfigError, match="cannot be read"):
        storage_conf.defaults({}, (str(tmp_path),))
    (tmp_path / "odd").write_text("storage = 3\n")
    assert storage_conf.defaults({}, (str(tmp_path / "odd"),)) == {}
