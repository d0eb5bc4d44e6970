"""Configurations: what is accepted, what is refused with which words, and in which order files count."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.network.conf import load, parse, runtime_conf, version_number
from pycrio.errors import InvalidRequest
from tests.unit.drivers.network.support import Rig


def text(**fields: Any) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "p"}], **fields}).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (text(name=""), "has no name"),
        (text(name=7), "has no name"),
        (text(name="../etc"), "could not be part of a file name"),
        (text(name=".."), "could not be part of a file name"),
        (text(cniVersion="9.0.0"), "is not supported"),
        (text(cniVersion=1.0), "is not supported"),
        (text(cniVersion="1.0.0-alpha"), "is not supported"),
        (text(plugins=[]), "has no plugins"),
        (text(plugins={}), "are not a list"),
        (text(plugins=["p"]), "without a type"),
        (text(plugins=[{}]), "without a type"),
        (text(plugins=[{"type": "../../bin/sh"}]), "not a plain file name"),
        (text(plugins=[{"type": "p", "capabilities": ["bandwidth"]}]), "capabilities of plugin 'p'"),
        (text(plugins=[{"type": "p", "capabilities": {"bandwidth": "yes"}}]), "capabilities of plugin 'p'"),
        (b'{"name": "n"}', "has no plugins"),
    ],
)
def test_what_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as e:
        parse(content, "/etc/cni/net.d/10-x.conflist")
    assert "/etc/cni/net.d/10-x.conflist" in str(e.value)


@given(st.binary(max_size=200))
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(content)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_fields = st.sampled_from(["cniVersion", "cniVersions", "name", "plugins", "type", "capabilities", "disableCheck"])


@given(st.dictionaries(_fields, _json))
def test_odd_documents_are_refused_or_parsed(document: dict[str, Any]) -> None:
    try:
        network = parse(json.dumps(document).encode())
    except InvalidRequest:
        return
    assert parse(network.raw).plugins == network.plugins
    runtime_conf(network, 0, {})


def test_single_plugin_becomes_a_list() -> None:
    network = parse(b'{"cniVersion":"0.4.0","name":"n","type":"p","x":1}')
    assert [p["x"] for p in network.plugins] == [1]
    document = json.loads(network.raw)
    assert (document["name"], document["cniVersion"], len(document["plugins"])) == ("n", "0.4.0", 1)
    assert parse(network.raw).plugins == network.plugins


def test_the_highest_version_that_we_speak() -> None:
    network = parse(text(cniVersion="0.3.1", cniVersions=["0.4.0", "1.1.0", "7.0.0"]))
    assert network.version == "1.1.0"
    assert network.versions == ("1.1.0", "0.4.0", "0.3.1")
    pinned = network.pinned("0.4.0")
    assert pinned.number == (0, 4, 0)
    assert parse(pinned.raw).version == "0.4.0"


def test_no_version_is_the_first() -> None:
    assert parse(b'{"name":"n","type":"p"}').version == "0.1.0"


@pytest.mark.parametrize("word", ["1", "1.0", "1.0.x", "1.0.0.0", "", "1.0.-1", "1.0.²"])
def test_not_a_version(word: str) -> None:
    with pytest.raises(InvalidRequest):
        version_number(word)


def test_what_a_plugin_reads() -> None:
    plugin = {"type": "p", "capabilities": {"bandwidth": True, "portMappings": True, "mac": False}, "own": [1]}
    network = parse(text(cniVersion="1.0.0", plugins=[plugin]))
    given = {"bandwidth": {"ingressRate": 1}, "mac": "x", "unasked": 1}
    document = json.loads(runtime_conf(network, 0, given, {"ips": []}))
    assert document == {
        "type": "p",
        "own": [1],
        "name": "n",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"bandwidth": {"ingressRate": 1}},
        "prevResult": {"ips": []},
    }
    assert "runtimeConfig" not in json.loads(runtime_conf(network, 0, {}))
    assert "prevResult" not in json.loads(runtime_conf(network, 0, {}))


# --- directories ------------------------------------------------------------------------------------------------------


def found(rig: Rig) -> list[str]:
    return [n.name for n in load(str(rig.net_d), (str(rig.bin),)).networks]


def test_lexical_order_and_suffixes(rig: Rig) -> None:
    rig.network("1", file="20-b.conflist", name="b")
    rig.network("1", file="10-c.json", name="c")
    rig.network("1", file="30-a.conf", name="a")
    rig.network("1", file="00-no.conflist.bak", name="no")
    rig.network("1", file="00-no.txt", name="no")
    assert found(rig) == ["c", "b", "a"]


def test_a_faulty_file_does_not_hide_the_others(rig: Rig) -> None:
    (rig.net_d / "00-garbage.conf").write_text("{")
    (rig.net_d / "01-directory.conf").mkdir()
    (rig.net_d / "02-dangling.conf").symlink_to("/nonexistent")
    os.mkfifo(rig.net_d / "03-pipe.conf")
    rig.network("1", file="04-missing.conflist", name="missing")
    rig.network("2", file="05-plain.conflist", name="plain")
    rig.network("3", file="99-good.conflist", name="good")
    (rig.bin / "1").unlink()
    (rig.bin / "2").chmod(0o644)
    result = load(str(rig.net_d), (str(rig.bin),))
    assert [n.name for n in result.networks] == ["good"]
    assert [f.partition(": ")[0].rpartition("/")[2].split(" ")[0] for f in result.faults] == [
        "00-garbage.conf",
        "01-directory.conf",
        "02-dangling.conf",
        "03-pipe.conf",
        "04-missing.conflist",
        "05-plain.conflist",
    ]


def test_no_directory(tmp_path: Path) -> None:
    result = load(str(tmp_path / "none"), ())
    assert result.networks == ()
    assert "cannot be read" in result.faults[0]


def test_the_first_plugin_directory_wins(rig: Rig, tmp_path: Path) -> None:
    from pycrio.drivers.network.conf import find_plugin

    other = tmp_path / "other"
    other.mkdir()
    rig.plugin("1")
    assert find_plugin("1", (str(other), str(rig.bin))) == str(rig.bin / "1")
    (other / "1").symlink_to(rig.bin / "1")
    assert find_plugin("1", (str(other), str(rig.bin))) == str(other / "1")
    assert find_plugin("2", (str(other), str(rig.bin))) == ""


def test_plugins_beside_the_list(rig: Rig) -> None:
    rig.network("1", name="net")
    rig.plugin("2")
    beside = rig.net_d / "net"
    assert load(str(rig.net_d), (str(rig.bin),)).directories == (str(beside),)
    beside.mkdir()
    (beside / "10-more.conf").write_text('{"type": "2"}')
    (beside / "20-other.txt").write_text("no")
    (network,) = load(str(rig.net_d), (str(rig.bin),)).networks
    assert [p["type"] for p in network.plugins] == ["1", "2"]
    assert json.loads(network.raw)["loadOnlyInlinedPlugins"] is True
    (beside / "20-bad.conf").write_text("x")
    assert found(rig) == []
    rig.network("1", name="net", loadOnlyInlinedPlugins=True)
    (network,) = load(str(rig.net_d), (str(rig.bin),)).networks
    assert [p["type"] for p in network.plugins] == ["1"]
