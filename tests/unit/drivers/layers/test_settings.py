"""Options of the storage driver."""

from __future__ import annotations

import pytest

from pycrio.drivers.layers.settings import Settings
from pycrio.errors import ConfigError


def parse(*options: str, driver: str = "overlay") -> Settings:
    return Settings.from_options("/r", "/rr", "", driver, options)


def test_options_with_every_prefix() -> None:
    settings = parse(
        "overlay.mountopt=nodev,metacopy=on",
        ".skip_mount_home=true",
        "overlay2.sync=filesystem",
        "overlay.imagestore=/a,/b",
        ".additionalimagestore=/c",
        "overlay.ignore_chown_errors=true",
        "overlay.use_composefs=false",
    )
    assert settings.mount_options == ("nodev", "metacopy=on")
    assert settings.skip_mount_home
    assert settings.sync == "filesystem"
    assert settings.additional_stores == ("/a", "/b", "/c")
    assert parse(driver="") == Settings(root="/r", run_root="/rr")


@pytest.mark.parametrize(
    "option",
    ["mountopt", "mountopt=nodev", "btrfs.size=1", "overlay.unknown=1", "overlay.sync=often", ".skip_mount_home=maybe",
     "overlay.mount_program=/usr/bin/fuse-overlayfs", "overlay.size=10G", "overlay.use_composefs=true",
     "overlay.force_mask=shared", "overlay.inodes=5", "overlay.additionallayerstore=/x"],
)  # fmt: skip
def test_what_cannot_be_done_is_said(option: str) -> None:
    with pytest.raises(ConfigError, match="storage_option"):
        parse(option)


def test_every_fault_is_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("overlay.unknown=1", "nonsense", driver="btrfs")
    assert len(caught.value.faults) == 3


def test_paths_are_absolute() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_options("r", "", "i", "", ())
    assert len(caught.value.faults) == 3
    assert Settings.from_options("/r", "/rr", "/r", "", ()).image_store == ""


def test_directories_of_a_split_store() -> None:
    settings = Settings(root="/r", run_root="/rr", image_store="/i")
    assert (settings.home, settings.image_home) == ("/r/overlay", "/i/overlay")
    assert (settings.layers_dir, settings.images_dir) == ("/r/overlay-layers", "/i/overlay-images")
    assert settings.containers_dir == "/r/overlay-containers"
