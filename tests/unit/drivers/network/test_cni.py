"""Verbs on chains of plugins that work, fail, hang and babble."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import stat
from typing import Any

import pytest

from pycrio.drivers.network.cni import Limits, Network
from pycrio.drivers.network.conf import VERSIONS
from pycrio.errors import InvalidRequest, NetworkFailure, PycrioError, StoreFailure, Timeout
from tests.unit.drivers.network.support import HERE, Rig, request

ID = "a" * 64
UNDONE = ["3 DEL", "2 DEL", "1 DEL"]


async def test_add_goes_down_the_chain(rig: Rig, chain: Network) -> None:
    result = await chain.add(request())
    assert result.ips == ("10.9.0.3",)
    assert json.loads(result.result)["ips"][0]["address"] == "10.9.0.3/24"
    assert rig.calls() == ["1 ADD", "2 ADD", "3 ADD"]
    assert "prevResult" not in rig.stdin("1", "ADD")
    assert rig.stdin("2", "ADD")["prevResult"]["ips"][0]["address"] == "10.9.0.1/24"
    assert rig.stdin("3", "ADD")["prevResult"]["ips"][0]["address"] == "10.9.0.2/24"
    env = rig.env("2", "ADD")
    assert env == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": ID,
        "CNI_NETNS": HERE,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(rig.bin),
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;"
        f"K8S_POD_INFRA_CONTAINER_ID={ID};K8S_POD_UID=uid-1",
    }


async def test_arguments_of_the_environment_come_last(
    rig: Rig, chain: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNI_ARGS", "K=V")
    monkeypatch.setenv("CNI_NETNS", "/wrong")
    await chain.add(request())
    assert rig.env("1", "ADD")["CNI_ARGS"].endswith(";K8S_POD_UID=uid-1;K=V")
    assert rig.env("1", "ADD")["CNI_NETNS"] == HERE


async def test_delete_goes_up_the_chain_with_the_result(rig: Rig, chain: Network) -> None:
    added = await chain.add(request())
    rig.calls()
    await chain.delete(request())
    assert rig.calls() == UNDONE
    for name in "123":
        assert rig.stdin(name, "DEL")["prevResult"] == json.loads(added.result)
    assert rig.results() == []


async def test_the_cache_as_libcni_has_it(rig: Rig, chain: Network) -> None:
    added = await chain.add(request(annotations={"x": "y"}))
    assert rig.results() == [f"net-{ID}-eth0"]
    path = rig.cache / f"net-{ID}-eth0"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_text())
    assert document.pop("owner") == "pycrio"
    config = json.loads(base64.b64decode(document.pop("config")))
    assert config == {
        "cniVersion": "1.0.0",
        "name": "net",
        "plugins": [{"type": "1"}, {"type": "2"}, {"type": "3"}],
    }
    assert document == {
        "kind": "cniCacheV1",
        "containerId": ID,
        "ifName": "eth0",
        "networkName": "net",
        "netns": HERE,
        "cniArgs": [
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", "ns"],
            ["K8S_POD_NAME", "pod"],
            ["K8S_POD_INFRA_CONTAINER_ID", ID],
            ["K8S_POD_UID", "uid-1"],
        ],
        "capabilityArgs": {"io.kubernetes.cri.pod-annotations": {"x": "y"}},
        "result": json.loads(added.result),
    }


async def test_delete_uses_the_network_that_add_used(rig: Rig, chain: Network) -> None:
    await chain.add(request())
    rig.network("4")
    again = rig.driver()
    await again.open()
    rig.calls()
    await again.delete(request())
    await again.close()
    assert rig.calls() == UNDONE


async def test_delete_of_the_unknown(rig: Rig, chain: Network) -> None:
    await chain.delete(request())
    assert rig.calls() == UNDONE
    assert "prevResult" not in rig.stdin("1", "DEL")
    await chain.delete(request(uid="not;possible"))
    assert rig.env("1", "DEL")["CNI_CONTAINERID"] == ID


@pytest.mark.parametrize("netns", ["", "/run/netns/none", "/etc/hostname"])
async def test_delete_when_the_namespace_is_gone(rig: Rig, chain: Network, netns: str) -> None:
    await chain.add(request())
    await chain.delete(request(netns=netns))
    assert rig.env("1", "DEL")["CNI_NETNS"] == ""
    assert rig.results() == []


async def test_a_failing_plugin_does_not_keep_the_others_from_detaching(rig: Rig, chain: Network) -> None:
    await chain.add(request())
    rig.calls()
    rig.tell("3", "DEL", """echo '{"code":7,"msg":"no way","details":"at all"}'; exit 1""")
    rig.tell("2", "DEL", "echo also >&2; exit 9")
    with pytest.raises(
        NetworkFailure, match=r"plugin '3' \(DEL\) of network 'net' for pod sandbox a+ failed: no way: at all"
    ):
        await chain.delete(request())
    assert rig.calls() == UNDONE
    assert rig.results() == [f"net-{ID}-eth0"], "kept for the next try"
    rig.untell("3", "DEL")
    rig.untell("2", "DEL")
    await chain.delete(request())
    assert rig.results() == []


FAULTS = {
    "error object": ("""echo '{"code":11,"msg":"try later"}'; exit 1""", r"try later \(code 11\)"),
    "words only": ("echo out; echo err >&2; exit 3", r"out err \(exit code 3\)"),
    "silent": ("exit 4", r"no message \(exit code 4\)"),
    "killed": ("kill -9 $$", "exit code 137"),
    "error garbage": ("echo '[1]'; exit 1", r"\[1\] \(exit code 1\)"),
    "nothing": ("exit 0", "is not a JSON object"),
    "garbage": ("echo hello; exit 0", "not JSON: hello"),
    "binary": ("head -c 300 /dev/urandom; echo x; exit 0", "not JSON"),
    "deep": ("head -c 200000 /dev/zero | tr '\\0' '['; exit 0", "not JSON"),
    "half": ("""printf '{"cniVersion":"1.0.0","ips":[{"addr'; exit 0""", "not JSON"),
    "list": ("echo '[]'; exit 0", "is not a JSON object"),
    "unknown version": ("""echo '{"cniVersion":"3.0.0","ips":[]}'; exit 0""", "version '3.0.0'"),
    "too much": ("head -c 5000000 /dev/zero | tr '\\0' ' '; echo '{}'; exit 0", "is not a JSON object"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("plugin", ["1", "2", "3"])
async def test_a_faulty_add_is_undone(rig: Rig, chain: Network, name: str, plugin: str) -> None:
    shell, words = FAULTS[name]
    rig.tell(plugin, "ADD", shell)
    with pytest.raises(NetworkFailure, match=words) as e:
        await chain.add(request())
    assert f"plugin {plugin!r}" in str(e.value)
    assert ID in str(e.value)
    done = [f"{n} ADD" for n in "123"[: int(plugin)]]
    assert rig.calls() == done + UNDONE
    assert rig.results() == []
    rig.untell(plugin, "ADD")
    await chain.add(request())


async def test_the_last_result_must_have_an_address(rig: Rig, chain: Network) -> None:
    rig.tell("3", "ADD", """echo '{"cniVersion":"1.0.0","ips":[]}'; exit 0""")
    with pytest.raises(NetworkFailure, match="no address for the pod"):
        await chain.add(request())
    assert rig.calls()[3:] == UNDONE
    assert rig.results() == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("answer", ["0.2.0", "0.4.0", "1.0.0"])
async def test_results_of_other_versions_go_down_the_chain_in_the_networks(rig: Rig, version: str, answer: str) -> None:
    body = {
        "0.2.0": '"ip4":{"ip":"10.1.0.2/24"}',
        "0.4.0": '"ips":[{"version":"4","address":"10.1.0.2/24"}]',
        "1.0.0": '"ips":[{"address":"10.1.0.2/24"}]',
    }[answer]
    rig.network("1", "2", cniVersion=version)
    for name in "12":
        rig.tell(name, "ADD", f"""echo '{{"cniVersion":"{answer}",{body}}}'; exit 0""")
    network = rig.driver()
    await network.open()
    await network.ready()
    assert (await network.add(request())).ips == ("10.1.0.2",)
    await network.delete(request())
    await network.close()
    prev = rig.stdin("2", "ADD")["prevResult"]
    assert prev["cniVersion"] == version
    assert ("ip4" in prev) == (version < "0.3")
    assert ("prevResult" in rig.stdin("1", "DEL")) == (version >= "0.4")


async def test_an_undo_that_fails_is_left_for_the_next_delete(rig: Rig, chain: Network) -> None:
    rig.tell("2", "ADD", "exit 1")
    rig.tell("1", "DEL", "exit 1")
    with pytest.raises(NetworkFailure, match="'2'"):
        await chain.add(request())
    assert rig.results() == [f"net-{ID}-eth0"]
    rig.untell("1", "DEL")
    rig.calls()
    await chain.delete(request())
    assert rig.calls() == UNDONE
    assert rig.results() == []


async def test_a_hanging_add_is_killed_and_undone(rig: Rig) -> None:
    rig.network("1", "2", "3")
    network = rig.driver(limits=Limits(add=0.5))
    await network.open()
    hang = rig.hangs("2", "ADD")
    with pytest.raises(Timeout, match=r"plugin '2' \(ADD\).* did not end within"):
        await network.add(request())
    pid = await hang.reached()
    assert not os.path.exists(f"/proc/{pid}")
    assert rig.calls() == ["1 ADD", "2 ADD", *UNDONE]
    assert rig.results() == []
    await network.close()


async def test_the_limit_is_for_the_chain_but_every_plugin_has_its_turn_to_detach(rig: Rig) -> None:
    rig.network("1", "2", "3")
    network = rig.driver(limits=Limits(delete=0.3, turn=0.3))
    await network.open()
    await network.add(request())
    rig.calls()
    rig.hangs("3", "DEL")
    rig.hangs("2", "DEL")
    with pytest.raises(Timeout, match=r"plugin '3' \(DEL\)"):
        await network.delete(request())
    assert rig.calls() == UNDONE
    await network.close()


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_add_is_undone_however_often_it_is_cancelled(rig: Rig, chain: Network, times: int) -> None:
    hang = rig.hangs("2", "ADD")
    adding = asyncio.ensure_future(chain.add(request()))
    pid = await hang.reached()
    undo = rig.hangs("2", "DEL")
    adding.cancel()
    undoing = await undo.reached()
    assert not os.path.exists(f"/proc/{pid}")
    for _ in range(times - 1):
        adding.cancel()
        await asyncio.sleep(0)
    assert not adding.done(), "it ends when the undo has ended"
    detaching = asyncio.ensure_future(chain.delete(request()))
    await asyncio.sleep(0)
    assert not detaching.done()
    os.kill(undoing, signal.SIGKILL)
    rig.untell("2", "DEL")
    with pytest.raises(asyncio.CancelledError):
        await adding
    await detaching
    assert rig.calls() == ["1 ADD", "2 ADD", *UNDONE, *UNDONE], "the delete waited for its turn"
    assert rig.results() == []


async def test_a_crash_in_the_middle_is_found_by_the_next_run(rig: Rig, chain: Network) -> None:
    hang = rig.hangs("2", "ADD")
    adding = asyncio.ensure_future(chain.add(request()))
    await hang.reached()
    assert json.loads((rig.cache / f"net-{ID}-eth0").read_text())["result"] is None
    next_run = rig.driver()
    await next_run.open()
    rig.calls()
    await next_run.gc([])
    assert rig.calls() == UNDONE
    assert rig.results() == []
    await next_run.close()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding


async def test_pods_go_side_by_side_and_verbs_of_one_pod_in_turn(rig: Rig, chain: Network) -> None:
    hang = rig.hangs("1", "ADD")
    first = asyncio.ensure_future(chain.add(request()))
    await hang.reached()
    rig.untell("1", "ADD")
    await chain.add(request("b" * 64))
    waiting = asyncio.ensure_future(chain.delete(request()))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await waiting
    assert rig.results() == [f"net-{'b' * 64}-eth0"]
    assert chain._turns == {}


async def test_the_cache_cannot_be_written(rig: Rig, chain: Network) -> None:
    rig.cache.write_text("a file where the directory should be")
    with pytest.raises(StoreFailure, match="cannot be written"):
        await chain.add(request())
    assert rig.calls() == [], "nothing was attached"


async def test_impossible_requests(rig: Rig, chain: Network) -> None:
    with pytest.raises(InvalidRequest, match="bandwidth"):
        await chain.add(request(annotations={"kubernetes.io/ingress-bandwidth": "fast"}))
    with pytest.raises(InvalidRequest, match="K8S_POD_NAME"):
        await chain.add(request(name="a;b"))
    assert rig.calls() == []
    assert rig.results() == []


async def test_a_plugin_that_is_gone(rig: Rig, chain: Network) -> None:
    await chain.add(request())
    (rig.bin / "2").unlink()
    with pytest.raises(NetworkFailure, match=r"'2'.* is in none of .*install it"):
        await chain.delete(request())
    with pytest.raises(NetworkFailure, match="'2'"):
        await chain.add(request("b" * 64))


async def test_a_plugin_that_is_no_program(rig: Rig, chain: Network) -> None:
    (rig.bin / "2").write_bytes(b"\x7fELF" + b"\0" * 100)
    with pytest.raises(NetworkFailure, match=r"'2'.*cannot be executed"):
        await chain.add(request())
    assert rig.results() == [f"net-{ID}-eth0"], "plugin 2 could not detach"


async def test_a_plugin_that_leaves_a_process_with_its_pipes(rig: Rig, chain: Network) -> None:
    pidfile = rig.path / "left"
    rig.tell("1", "ADD", f"setsid sleep 1000 & echo $! > {pidfile}")
    assert (await chain.add(request())).ips == ("10.9.0.3",)
    os.kill(int(pidfile.read_text()), 9)


# --- CHECK ------------------------------------------------------------------------------------------------------------


async def test_check(rig: Rig, chain: Network) -> None:
    with pytest.raises(NetworkFailure, match="attached to no network"):
        await chain.check(request())
    added = await chain.add(request())
    rig.calls()
    await chain.check(request())
    assert rig.calls() == ["1 CHECK", "2 CHECK", "3 CHECK"]
    assert rig.stdin("1", "CHECK")["prevResult"] == json.loads(added.result)
    rig.tell("2", "CHECK", """echo '{"code":100,"msg":"route is gone"}'; exit 1""")
    with pytest.raises(NetworkFailure, match="route is gone"):
        await chain.check(request())


@pytest.mark.parametrize("more", [{"disableCheck": True}, {"disableCheck": "true"}, {"cniVersion": "0.3.1"}])
async def test_check_where_there_is_none(rig: Rig, more: dict[str, Any]) -> None:
    rig.network("1", **more)
    network = rig.driver()
    await network.open()
    await network.add(request())
    rig.calls()
    await network.check(request())
    await network.close()
    assert rig.calls() == []


# --- GC ---------------------------------------------------------------------------------------------------------------


async def test_gc_releases_what_nobody_has(rig: Rig, chain: Network) -> None:
    for c in "abc":
        await chain.add(request(c * 64))
    (rig.cache / "x.pycrio-tmp").write_text("half")
    rig.calls()
    rig.tell("2", "DEL", f"[ $CNI_CONTAINERID = {'c' * 64} ] && exit 1")
    await chain.gc([request("b" * 64)])
    assert sorted(rig.calls()) == sorted(UNDONE * 2)
    assert rig.results() == [f"net-{'b' * 64}-eth0", f"net-{'c' * 64}-eth0"], "what failed stays for the next time"


async def test_gc_leaves_the_living_of_others_alone(rig: Rig, chain: Network) -> None:
    other = rig.driver(owner="/run/other")
    await other.open()
    await other.add(request("a" * 64))
    await other.add(request("b" * 64, netns="/run/netns/none"))
    await chain.add(request("c" * 64))
    rig.calls()
    await chain.gc([])
    assert sorted(rig.calls()) == sorted(UNDONE * 2)
    assert rig.results() == [f"net-{'a' * 64}-eth0"]
    await other.close()


async def test_gc_passes_over_what_it_cannot_read(rig: Rig, chain: Network) -> None:
    await chain.add(request())
    others = {"garbage": "{", "list": "[]", "kind": '{"kind":"other"}', "half": '{"kind":"cniCacheV1"}'}
    for name, text in others.items():
        (rig.cache / name).write_text(text)
    await chain.gc([])
    assert rig.results() == sorted(others)


async def test_an_unreadable_record_goes_with_its_pod(rig: Rig, chain: Network) -> None:
    await chain.add(request())
    (rig.cache / f"net-{ID}-eth0").write_text("{")
    rig.calls()
    await chain.delete(request())
    assert rig.calls() == UNDONE
    assert rig.results() == []


async def test_plugins_of_1_1_are_told_who_lives(rig: Rig) -> None:
    rig.network("1", "2", cniVersion="1.1.0")
    network = rig.driver()
    await network.open()
    await network.ready()
    for c in "ab":
        await network.add(request(c * 64))
    rig.calls()
    rig.tell("1", "GC", "exit 1")
    await network.gc([request("b" * 64)])
    assert rig.calls() == ["2 DEL", "1 DEL", "1 GC", "2 GC"]
    document = rig.stdin("2", "GC")
    assert document["cni.dev/valid-attachments"] == [{"containerID": "b" * 64, "ifname": "eth0"}]
    assert (document["name"], document["cniVersion"], document["type"]) == ("net", "1.1.0", "2")
    assert rig.env("1", "GC")["CNI_COMMAND"] == "GC"
    await network.close()


@pytest.mark.parametrize("more", [{"cniVersion": "1.1.0", "disableGC": True}, {"cniVersion": "1.0.0"}])
async def test_plugins_that_are_not_told(rig: Rig, more: dict[str, Any]) -> None:
    rig.network("1", **more)
    network = rig.driver()
    await network.open()
    await network.ready()
    rig.calls()
    await network.gc([])
    await network.close()
    assert rig.calls() == []


async def test_no_network(rig: Rig) -> None:
    network = rig.driver()
    await network.open()
    with pytest.raises(PycrioError, match="no CNI configuration file"):
        await network.add(request())
    await network.delete(request())
    await network.gc([])
    await network.close()
