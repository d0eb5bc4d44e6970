"""CDI devices: which specs count, and what their edits make of a config."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest

from pycrio.drivers.devices.host import Devices, Settings
from pycrio.errors import InvalidRequest, NotFound

HOOK = {"hookName": "createRuntime", "path": "/bin/hook", "args": ["hook", "x"], "env": ["A=b"], "timeout": 5}
EDITS: dict[str, Any] = {
    "env": ["NEW=1", "OLD=2"],
    "mounts": [{"hostPath": "/lib/x", "containerPath": "/x/y", "options": ["ro", "bind"]}],
    "hooks": [HOOK],
    "additionalGids": [0, 44, 44],
    "intelRdt": {"closID": "one", "l3CacheSchema": ""},
}


@pytest.fixture
def places(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    static, dynamic = tmp_path / "etc", tmp_path / "run"
    static.mkdir()
    dynamic.mkdir()
    return static, dynamic


@pytest.fixture
def devices(places: tuple[pathlib.Path, pathlib.Path]) -> Devices:
    return Devices(Settings(tuple(map(str, places))))


def write(place: pathlib.Path, name: str = "v.json", kind: str = "v.example/d", **device_edits: Any) -> None:
    """A spec with one device per keyword; ``spec`` are the edits of the spec itself."""
    document = {"cdiVersion": "0.6.0", "kind": kind, "containerEdits": device_edits.pop("spec", {})}
    document["devices"] = [{"name": n, "containerEdits": e} for n, e in device_edits.items()]
    (place / name).write_text(json.dumps(document))


def config(**user: int) -> dict[str, Any]:
    return {"process": {"env": ["OLD=1"], "user": user}, "linux": {}, "mounts": [{"destination": "/x"}]}


def test_edits(devices: Devices, places: tuple[pathlib.Path, pathlib.Path]) -> None:
    write(places[0], one=EDITS, spec={"env": ["SPEC=1"]}, two={})
    got = config()
    devices.inject(got, ["v.example/d=one", "v.example/d=two", "v.example/d=one"])
    assert got["process"]["env"] == ["SPEC=1", "NEW=1", "OLD=2"]
    assert got["process"]["user"]["additionalGids"] == [44]
    assert [m["destination"] for m in got["mounts"]] == ["/x", "/x/y"]
    assert got["mounts"][1] == {"destination": "/x/y", "source": "/lib/x", "type": "bind", "options": ["ro", "bind"]}
    assert got["hooks"] == {"createRuntime": [{k: v for k, v in HOOK.items() if k != "hookName"}]}
    assert got["linux"] == {"intelRdt": {"closID": "one"}}


def test_network_interfaces(devices: Devices, places: tuple[pathlib.Path, pathlib.Path]) -> None:
    first, second = ({"hostInterfaceName": f"ens{n}", "name": f"net{n}"} for n in (1, 2))
    write(places[0], one={"netDevices": [first]}, two={"netDevices": [second, first]})
    got = config()
    devices.inject(got, ["v.example/d=one", "v.example/d=two"])
    assert got["linux"] == {"netDevices": {"ens1": {"name": "net1"}, "ens2": {"name": "net2"}}}


@pytest.mark.parametrize(
    ("node", "user", "owner"),
    [
        ({}, {}, {}),
        ({}, {"uid": 1234, "gid": 7}, {"uid": 1234, "gid": 7}),  # else the process could not open it
        ({"uid": 5}, {"uid": 1234, "gid": 7}, {"uid": 5, "gid": 7}),
        ({"uid": 0, "gid": 0, "fileMode": 0o600}, {"uid": 1234, "gid": 7}, {"uid": 0, "gid": 0, "fileMode": 0o600}),
    ],
)
def test_whose_a_device_is(
    devices: Devices,
    places: tuple[pathlib.Path, pathlib.Path],
    node: dict[str, int],
    user: dict[str, int],
    owner: dict[str, int],
) -> None:
    write(places[0], one={"deviceNodes": [{"path": "/dev/mine", "hostPath": "/dev/full", **node}]})
    got = config(**user)
    got["linux"]["devices"] = [{"path": "/dev/mine", "type": "b"}]
    devices.inject(got, ["v.example/d=one"])
    assert got["linux"]["devices"] == [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 7, **owner}]


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        ({}, [{"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"}]),
        ({"permissions": "r"}, [{"allow": True, "type": "c", "major": 1, "minor": 7, "access": "r"}]),
        ({"permissions": "none"}, [{"allow": True, "type": "c", "major": 1, "minor": 7, "access": ""}]),
        (
            {"type": "b", "major": 8, "minor": 1},
            [{"allow": True, "type": "b", "major": 8, "minor": 1, "access": "rwm"}],
        ),
        ({"type": "p"}, None),
    ],
)
def test_what_may_be_done_with_a_device(
    devices: Devices, places: tuple[pathlib.Path, pathlib.Path], given: dict[str, Any], rules: list[Any] | None
) -> None:
    write(places[0], one={"deviceNodes": [{"path": "/dev/full", **given}]})
    got = config()
    devices.inject(got, ["v.example/d=one"])
    assert got["linux"].get("resources", {}).get("devices") == rules


def test_which_specs_count(devices: Devices, places: tuple[pathlib.Path, pathlib.Path]) -> None:
    static, dynamic = places
    with pytest.raises(NotFound, match=str(dynamic)):
        devices.inject(config(), ["v.example/d=one"])

    def found() -> str:
        got = config()
        devices.inject(got, ["v.example/d=one"])
        return str(got["process"]["env"][-1])

    write(static, one={"env": ["FROM=static"]})  # seen without being told
    assert found() == "FROM=static"
    yaml = "cdiVersion: 0.6.0\nkind: v.example/d\ndevices:\n- name: one\n  containerEdits:\n    env: [FROM=dynamic]\n"
    (dynamic / "v.yaml").write_text(yaml)
    assert found() == "FROM=dynamic"
    write(dynamic, "again.json", one={"env": ["FROM=again"]})
    with pytest.raises(NotFound, match="defines it once"):
        found()
    os.unlink(dynamic / "v.yaml")
    (dynamic / "broken.json").write_text("{")  # costs itself alone
    (dynamic / "other.txt").write_text("{")
    assert found() == "FROM=again"


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"env": ["NONE"]}, "'NONE' is not of the form"),
        ({"env": ["=x"]}, "is not of the form"),
        ({"hooks": [{"hookName": "soon", "path": "/x"}]}, "'soon' is no name of a hook"),
        ({"deviceNodes": [{"path": "/dev/null", "permissions": "rwx"}]}, "'rwx'"),
        ({"deviceNodes": [{}]}, "malformed"),
        ({"mounts": ["x"]}, "malformed"),
        ({"netDevices": [{"name": "eth1"}]}, "malformed"),
        (
            {"netDevices": [{"hostInterfaceName": h, "name": "eth1"} for h in ("a", "b")]},
            "'b' as 'eth1' contradicts 'a' as 'eth1'",
        ),
        ({"netDevices": [{"hostInterfaceName": "a", "name": n} for n in ("eth1", "eth2")]}, "contradicts"),
    ],
)
def test_malformed_edits_name_device_and_file(
    devices: Devices, places: tuple[pathlib.Path, pathlib.Path], edits: dict[str, Any], words: str
) -> None:
    write(places[1], one=edits)
    with pytest.raises(InvalidRequest, match=r"v\.example/d=one.*v\.json") as failure:
        devices.inject(config(), ["v.example/d=one"])
    assert words in str(failure.value)


def test_a_device_of_a_spec_that_the_host_lacks(devices: Devices, places: tuple[pathlib.Path, pathlib.Path]) -> None:
    write(places[0], one={"deviceNodes": [{"path": "/dev/no-such-device"}]})
    with pytest.raises(NotFound, match="/dev/no-such-device"):
        devices.inject(config(), ["v.example/d=one"])
