"""RDT classes: shares of caches and bandwidth as schemata, and groups in a resctrl tree made for the test."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest
import yaml

from pycrio.drivers.classes import rdt, resctrl
from pycrio.drivers.classes.classes import Classes, Settings
from pycrio.drivers.classes.rdt import Bandwidth, Cache, Machine, Share
from pycrio.errors import ConfigError, InvalidRequest, Unsupported

CACHE = Cache((0, 1), 0xFFFFF, 1)
MACHINE = Machine({"L3": CACHE}, Bandwidth((0, 1), 10))
PLAIN = Machine()


def resolved(text: str, machine: Machine = MACHINE) -> dict[str, list[str]]:
    return {name: c.schemata.splitlines() for name, c in rdt.resolve(yaml.safe_load(text), machine).items()}


def test_shares_in_percent() -> None:
    found = resolved(
        """
partitions:
  big:
    l3Allocation: 60%
    mbAllocation: [80%]
    classes:
      guaranteed: {}
      half: {l3Allocation: 50%, mbAllocation: [50%, 1000MBps]}
      top: {l3Allocation: 50-100%}
  small:
    l3Allocation: 40%
    classes:
      system/default: {l3Allocation: 25%}
"""
    )
    assert found == {
        "guaranteed": ["L3:0=fff;1=fff", "MB:0=80;1=80"],
        "half": ["L3:0=3f;1=3f", "MB:0=40;1=40"],
        "top": ["L3:0=fe0;1=fe0", "MB:0=80;1=80"],
        "": ["L3:0=3000;1=3000", "MB:0=100;1=100"],
    }


def test_masks_and_single_caches() -> None:
    found = resolved(
        """
Partitions:
  a:
    L3Allocation: {all: "0xff", "1": "0-3"}
    classes:
      one: {l3Allocation: {all: "0x3", "1": "0,1"}}
  b:
    l3Allocation: {all: "0xff00", 1: "0xf0"}
    classes:
      two: {}
"""
    )
    assert found == {"one": ["L3:0=3;1=3", "MB:0=100;1=100"], "two": ["L3:0=ff00;1=f0", "MB:0=100;1=100"]}


def test_code_and_data() -> None:
    machine = Machine({"L3": Cache((0,), 0xFF, 2, True)})
    found = resolved(
        "partitions: {p: {l3Allocation: 100%, classes: {c: {l3Allocation: {all: "
        '{unified: 100%, code: 50%, data: "0xf0"}}}}}}',
        machine,
    )
    assert found == {"c": ["L3CODE:0=f", "L3DATA:0=f0"]}


def test_bandwidth_in_megabytes() -> None:
    machine = Machine({}, Bandwidth((0,), 10, True))
    found = resolved(
        "partitions: {p: {mbAllocation: [50%, 5000MBps], classes: {a: {mbAllocation: [9000MBps]}, b: {}}}}", machine
    )
    assert found == {"a": ["MB:0=5000"], "b": ["MB:0=5000"]}
    assert resolved("partitions: {p: {classes: {a: {}}}}", machine) == {"a": ["MB:0=4294967295"]}


def test_the_least_that_the_machine_can_give() -> None:
    machine = Machine({"L3": Cache((0,), 0xFF, 2)}, Bandwidth((0,), 10))
    found = resolved(
        "partitions: {a: {l3Allocation: 1%, mbAllocation: [1%], classes: {x: {l3Allocation: 1%}}}, "
        "b: {l3Allocation: 99%, classes: {y: {}}}}",
        machine,
    )
    assert found == {"x": ["L3:0=3", "MB:0=10"], "y": ["L3:0=fc", "MB:0=100"]}


def test_a_machine_that_divides_nothing() -> None:
    text = "{}partitions: {{p: {{l3Allocation: 100%, classes: {{c: {{l3Allocation: 50%}}}}}}}}"
    with pytest.raises(ValueError, match="L3 cannot be divided on this machine"):
        resolved(text.format(""), PLAIN)
    assert resolved(text.format("options: {l3: {optional: true}}\n"), PLAIN) == {"c": []}
    text = "{}partitions: {{p: {{mbAllocation: [100%], classes: {{c: {{mbAllocation: [50%]}}}}}}}}"
    with pytest.raises(ValueError, match="memory bandwidth cannot be divided"):
        resolved(text.format(""), PLAIN)
    assert resolved(text.format("options: {mb: {optional: true}}\n"), PLAIN) == {"c": []}


@pytest.mark.parametrize(
    ("partitions", "complaint"),
    [
        ("{a: {l3Allocation: 60%}, b: {l3Allocation: 50%}}", "ask for 110 % together"),
        ("{a: {l3Allocation: 60%}, b: {}}", "partitions b ask for no unified share"),
        ('{a: {l3Allocation: "0x3"}, b: {l3Allocation: "0x6"}}', "belong to another one as well"),
        ('{a: {l3Allocation: "0x3"}, b: {l3Allocation: 5%}}', "cannot mix masks and percentages"),
        ("{a: {l3Allocation: 10-20%}}", "cannot be a range"),
        ('{a: {l3Allocation: "0x5"}}', "is no cache mask"),
        ('{a: {l3Allocation: "x"}}', "is not a list of numbers"),
        ("{a: {l3Allocation: 101%}}", "is no share in percent"),
        ("{a: {l3Allocation: {all: {code: 10%, data: 10%}}}}", "without 'unified'"),
        ("{a: {l3Allocation: {all: {unified: 10%, code: 10%}}}}", "has code and data, or neither"),
        ("{a: {classes: {c: {l3Allocation: 10%}}}}", "but its partition has none"),
        ("{a: {classes: {c: {mbAllocation: [10%]}}}}", "but its partition has none"),
        ("{a: {mbAllocation: [10MBps], classes: {c: {}}}}", "has no value in %"),
        ("{a: {classes: {c: {}}}, b: {classes: {c: {}}}}", "defined twice"),
        ("{a: {classes: {a/b: {}}}}", "cannot be the name of a class"),
        ("{a: {classes: {c: {size: 1}}}}", "unknown field size"),
        ('{a: {l3Allocation: "0xf", classes: {c: {l3Allocation: "0x30"}}}}', "does not fit into the partition's"),
        ("[]", "partitions is not a mapping"),
        ("x", "partitions is not a mapping"),
    ],
)
def test_what_cannot_be(partitions: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        resolved(f"partitions: {partitions}")


@pytest.mark.parametrize(
    ("share", "mask"),
    [(Share(low=0, high=100), 0xFF0), (Share(low=50, high=100), 0xF80), (Share(mask=1), 0x10)],
)
def test_shares_of_a_part(share: Share, mask: int) -> None:
    assert rdt.overlay(0xFF0, share, 1) == mask


# --- the file system ------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    root = tmp_path / "resctrl"
    for name, text in (
        ("schemata", "    L3:0=fffff;1=fffff\n    MB:0=100;1=100\n"),
        ("tasks", "1\n"),
        ("info/L3/cbm_mask", "fffff\n"),
        ("info/L3/min_cbm_bits", "1\n"),
        ("info/MB/min_bandwidth", "10\n"),
        ("info/last_cmd_status", "ok\n"),
        ("old/tasks", ""),
        ("busy/tasks", "7\n"),
        ("mon_groups/tasks", ""),
        ("gold/tasks", ""),
        ("gold/schemata", ""),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "mounts").write_text(f"none / ext4 rw 0 0\nresctrl {root} resctrl rw,relatime 0 0\n")
    return root


CONF = """
partitions:
  p:
    l3Allocation: 100%
    classes:
      gold: {l3Allocation: 50%, kubernetes: {denyPodAnnotation: true}}
      system/default: {}
"""


def settings(tree: pathlib.Path, text: str = CONF) -> Settings:
    (tree.parent / "rdt.yaml").write_text(text)
    return Settings(rdt=f"{tree.parent}/rdt.yaml", mounts=f"{tree.parent}/mounts")


def clear(tree: pathlib.Path, name: str) -> None:
    """What the kernel does with the files of a group that is removed."""
    (tree / name / "tasks").unlink()


def test_the_machine(tree: pathlib.Path) -> None:
    assert resctrl.mounted(f"{tree.parent}/mounts") == (str(tree), False)
    assert resctrl.look(str(tree), False) == MACHINE
    (tree.parent / "mounts").write_text("resctrl /x resctrl rw,mba_MBps 0 0\n")
    assert resctrl.mounted(f"{tree.parent}/mounts") == ("/x", True)
    (tree / "schemata").write_text("L3:x\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        resctrl.look(str(tree), False)


@pytest.mark.effect("crio.runtime.rdt_config_file")
async def test_groups_are_set_up(tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(os, "rmdir", lambda path: removed.append(os.path.basename(path)))
    classes = Classes(settings(tree))
    await classes.open()
    assert (tree / "gold/schemata").read_text() == "L3:0=3ff;1=3ff\nMB:0=100;1=100\n"
    assert (tree / "schemata").read_text() == "L3:0=fffff;1=fffff\nMB:0=100;1=100\n"
    assert removed == ["old"]
    assert await classes.rdt("gold", False) == "gold"
    assert await classes.rdt("system/default", True) == ""
    for name, by_pod, complaint in (
        ("gold", True, "may not be asked for by pod annotations"),
        ("silver", False, "there is no RDT class 'silver'"),
        ("../x", False, "cannot be the name"),
    ):
        with pytest.raises(InvalidRequest, match=complaint):
            await classes.rdt(name, by_pod)


async def test_a_kernel_that_refuses(tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "rmdir", lambda path: None)
    real = os.write

    def refuse(fd: int, data: Any) -> int:
        if data.startswith(b"L3"):
            (tree / "info/last_cmd_status").write_text("mask f is not for you\n")
            raise OSError(22, "Invalid argument")
        return real(fd, data)

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(ConfigError, match="cannot be set up: mask f is not for you"):
        await Classes(settings(tree)).open()


@pytest.mark.parametrize(
    "text", ["partitions: {p: {l3Allocation: 5}}", "partitions: {p: {classes: [a]}}", "partitions: x"]
)
async def test_documents_of_another_form(text: str, tree: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"rdt\.yaml"):
        await Classes(settings(tree, text)).open()


async def test_a_host_without_rdt(tree: pathlib.Path) -> None:
    (tree.parent / "mounts").write_text("")
    classes = Classes(settings(tree))
    await classes.open()
    with pytest.raises(Unsupported, match="no resctrl file system"):
        await classes.rdt("gold", False)


async def test_a_node_that_does_not_configure_it(tree: pathlib.Path) -> None:
    classes = Classes(Settings(mounts=f"{tree.parent}/mounts"))
    await classes.open()
    with pytest.raises(Unsupported, match="rdt_config_file is not set"):
        await classes.rdt("gold", False)
