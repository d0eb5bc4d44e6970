"""Block I/O classes of a file, on devices made for the test."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from pycrio.drivers.classes import blockio
from pycrio.drivers.classes.classes import Classes, Settings
from pycrio.drivers.classes.documents import quantity
from pycrio.errors import ConfigError

TEXT = """
Classes:
  Slow:
    - Weight: 80
    - devices: ["{d}/disk[ab]", "{d}/link"]
      throttleReadBps: 50M
      ThrottleWriteBps: 1Ki
      ThrottleReadIOPS: "10k"
      Weight: 50
    - Devices: ["{d}/diskb"]
      ThrottleWriteIOPS: 5
      ThrottleReadBps: 7
  Empty:
  Bad:
    - Weight: 5
    - Weight: heavy
    - ThrottleReadBps: 1
    - Devices: ["{d}/null", "{d}/none", "{d}/plain"]
      Weight: 100
    - Speed: 1
    - word
"""


@pytest.fixture
def devices(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, kind, minor in (("diska", stat.S_IFBLK, 240), ("diskb", stat.S_IFBLK, 241), ("null", stat.S_IFCHR, 3)):
        os.mknod(tmp_path / name, kind | 0o600, os.makedev(1, minor))
    (tmp_path / "link").symlink_to("diska")
    (tmp_path / "plain").write_text("")
    (tmp_path / "classes.yaml").write_text(TEXT.format(d=tmp_path))
    return tmp_path


def test_a_class_with_devices(devices: pathlib.Path) -> None:
    assert blockio.load(f"{devices}/classes.yaml")["Slow"] == {
        "weight": 80,
        "weightDevice": [{"major": 1, "minor": 240, "weight": 50}, {"major": 1, "minor": 241, "weight": 50}],
        "throttleReadBpsDevice": [
            {"major": 1, "minor": 240, "rate": 50_000_000},
            {"major": 1, "minor": 241, "rate": 7},
        ],
        "throttleWriteBpsDevice": [{"major": 1, "minor": 240, "rate": 1024}, {"major": 1, "minor": 241, "rate": 1024}],
        "throttleReadIOPSDevice": [
            {"major": 1, "minor": 240, "rate": 10000},
            {"major": 1, "minor": 241, "rate": 10000},
        ],
        "throttleWriteIOPSDevice": [{"major": 1, "minor": 241, "rate": 5}],
    }


def test_what_is_wrong_is_left_out_and_told(devices: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = blockio.load(f"{devices}/classes.yaml")
    assert found["Bad"] == found["Empty"] == {}
    told = capfd.readouterr().err
    for words in ("out of range 10 to 1000", "heavy", "limits without devices", "null", "No device matches", "plain"):
        assert words in told
    assert "unknown field speed" in told
    assert "'word' is not a mapping" in told


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "is not YAML"),
        ("[]", "not a mapping"),
        ("Class: {}", "unknown field class; there are Classes"),
        ("Classes: []", "Classes is not a mapping"),
        ("Classes: {a: 1}", "Classes is not a mapping"),
    ],
)
def test_files_of_another_form(text: str, complaint: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        blockio.load(str(tmp_path / "f"))


def test_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        blockio.load(str(tmp_path / "f"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("1k", 1000), ("1.5Ki", 1536), ("100m", 1), ("2e3", 2000), ("-1", -1), (" 7M ", 7 * 10**6)],
)
def test_quantities(text: str, value: int) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "k", "1 k", "1kk", "0x1", "1,5"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity(text)


@pytest.mark.effect("crio.runtime.blockio_reload")
async def test_classes_are_read_once_or_each_time(devices: pathlib.Path) -> None:
    path = devices / "classes.yaml"
    path.write_text("Classes: {a: [{Weight: 10}]}")
    once, always = Classes(Settings(str(path))), Classes(Settings(str(path), follow=True))
    for classes in (once, always):
        await classes.open()
        assert await classes.block_io("a") == {"weight": 10}
        assert await classes.block_io("b") is None
    path.write_text("Classes: {b: [{Weight: 20}]}")
    assert await once.block_io("a") == {"weight": 10}
    assert await always.block_io("b") == {"weight": 20}
    path.write_text("[")
    assert await always.block_io("b") == {"weight": 20}
    assert await Classes(Settings()).block_io("a") is None


async def test_what_is_prepared_holds_when_it_is_taken_over(devices: pathlib.Path) -> None:
    path = devices / "classes.yaml"
    path.write_text("Classes: {a: [{Weight: 10}]}")
    classes = Classes(Settings())
    await classes.open()
    commit = await classes.prepare(Settings(str(path)))
    assert await classes.block_io("a") is None
    commit()
    assert await classes.block_io("a") == {"weight": 10}
    with pytest.raises(ConfigError):
        await classes.prepare(Settings("/none"))
    assert await classes.block_io("a") == {"weight": 10}
