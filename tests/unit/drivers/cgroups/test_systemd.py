"""Scopes by D-Bus, against a peer that answers well, badly, late, too early or not at all."""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import AsyncIterator

import pytest
from dbus_fast import Message

from pycrio.drivers.cgroups import systemd
from pycrio.drivers.cgroups.manager import Cgroups, Settings
from pycrio.drivers.cgroups.systemd import Systemd
from pycrio.errors import ExternalFailure, Timeout, Unavailable
from pycrio.model.node import Handler
from pycrio.model.requests import MonitorRequest
from tests.unit.drivers.cgroups.bus import Peer

JOB = "/org/freedesktop/systemd1/job/7"


async def well(peer: Peer, message: Message) -> None:
    peer.started(message, JOB)
    peer.ended("/org/freedesktop/systemd1/job/6", "failed")
    peer.ended(JOB, "done")


@pytest.fixture
async def peer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
    async with Peer(f"{tmp_path}/bus", well) as peer:
        yield peer


@pytest.fixture
async def bus(peer: Peer) -> AsyncIterator[Systemd]:
    client = Systemd()
    yield client
    await client.close()
    assert not client._jobs


async def test_a_scope(peer: Peer, bus: Systemd) -> None:
    await bus.scope("crio-conmon-1.scope", "a-b.slice", 42, "0-1,3", 512)
    assert peer.methods() == ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]
    unit, mode, properties, aux = peer.calls[-1][1]
    assert (unit, mode, aux) == ("crio-conmon-1.scope", "replace", [])
    assert dict(properties) == {
        "PIDs": [42],
        "Slice": "a-b.slice",
        "Delegate": True,
        "DefaultDependencies": False,
        "After": ["crio.service"],
        "KillSignal": 13,
        "CPUShares": 512,
        "AllowedCPUs": bytes([0b1011]),
    }
    assert "JobRemoved" in peer.calls[1][1][0]


async def test_one_connection_serves_many_scopes(peer: Peer, bus: Systemd) -> None:
    jobs = iter(range(100))

    async def numbered(peer: Peer, message: Message) -> None:
        job = f"/job/{next(jobs)}"
        peer.started(message, job)
        peer.ended(job, "done")

    peer.answer = numbered
    await asyncio.gather(*(bus.scope(f"{n}.scope", "system.slice", n + 1) for n in range(20)))
    assert peer.connections == 1
    assert peer.methods().count("Subscribe") == 1
    assert not dict(peer.calls[-1][1][2]).keys() & {"CPUShares", "AllowedCPUs"}


async def test_a_job_that_ends_before_its_name_is_known(peer: Peer, bus: Systemd) -> None:
    async def hasty(peer: Peer, message: Message) -> None:
        peer.ended(JOB, "done")
        peer.started(message, JOB)

    peer.answer = hasty
    await bus.scope("x.scope", "system.slice", 1)
    assert not bus._early


@pytest.mark.parametrize("result", ["failed", "canceled", "timeout", "dependency", "skipped"])
async def test_a_job_that_fails(peer: Peer, bus: Systemd, result: str) -> None:
    async def fail(peer: Peer, message: Message) -> None:
        peer.started(message, JOB)
        peer.ended(JOB, result)

    peer.answer = fail
    with pytest.raises(ExternalFailure, match=f"did not make scope x.scope in system.slice: job {result}"):
        await bus.scope("x.scope", "system.slice", 1)


async def test_a_refused_unit(peer: Peer, bus: Systemd) -> None:
    peer.refuse["StartTransientUnit"] = "Unit x.scope already exists."
    with pytest.raises(ExternalFailure, match=r"did not make .* Unit x.scope already"):
        await bus.scope("x.scope", "system.slice", 1)
    del peer.refuse["StartTransientUnit"]
    await bus.scope("x.scope", "system.slice", 1)


@pytest.mark.parametrize("member", ["AddMatch", "Subscribe"])
async def test_without_signals_there_is_no_use(peer: Peer, bus: Systemd, member: str) -> None:
    """Jobs would be waited for in vain: better told at once, and tried again the next time."""
    peer.refuse[member] = "Access denied"
    with pytest.raises(ExternalFailure, match="Access denied"):
        await bus.scope("x.scope", "system.slice", 1)
    peer.refuse.clear()
    await bus.scope("x.scope", "system.slice", 1)
    assert peer.connections == 2


async def test_a_job_that_never_ends(peer: Peer, bus: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(peer: Peer, message: Message) -> None:
        peer.started(message, JOB)

    monkeypatch.setattr(systemd, "JOB_TIMEOUT", 0.05)
    peer.answer = slow
    with pytest.raises(Timeout, match=r"did not finish making x.scope"):
        await bus.scope("x.scope", "system.slice", 1)


async def test_a_call_that_is_never_answered(peer: Peer, bus: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(peer: Peer, message: Message) -> None:
        return None

    peer.answer = silent
    await bus._connected()
    monkeypatch.setattr(systemd, "JOB_TIMEOUT", 0.05)
    with pytest.raises(Timeout, match="did not answer StartTransientUnit"):
        await bus.scope("x.scope", "system.slice", 1)


async def test_a_connection_that_breaks_is_made_again(peer: Peer, bus: Systemd) -> None:
    async def broken(peer: Peer, message: Message) -> None:
        peer.drop()

    peer.answer = broken
    with pytest.raises(Unavailable, match="broke in StartTransientUnit"):
        await bus.scope("x.scope", "system.slice", 1)
    peer.answer = well
    await bus.scope("x.scope", "system.slice", 1)
    assert peer.connections == 2


async def test_a_connection_that_breaks_while_a_job_runs(peer: Peer, bus: Systemd) -> None:
    async def broken(peer: Peer, message: Message) -> None:
        peer.started(message, JOB)
        asyncio.get_running_loop().call_soon(peer.drop)

    peer.answer = broken
    with pytest.raises(Unavailable, match="connection to systemd broke"):
        await bus.scope("x.scope", "system.slice", 1)


@pytest.mark.parametrize("address", ["unix:path={0}/absent", "nonsense", "unix:path={0}/file"])
async def test_no_bus(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address.format(tmp_path))
    client = Systemd()
    with pytest.raises(Unavailable, match="cgroup_manager = systemd"):
        await client.scope("x.scope", "system.slice", 1)
    await client.close()


async def test_signals_of_others_do_not_pile_up(peer: Peer, bus: Systemd) -> None:
    await bus.scope("x.scope", "system.slice", 1)
    for number in range(1000):
        peer.ended(f"/job/other/{number}", "done")
    await bus.scope("y.scope", "system.slice", 1)
    assert len(bus._early) <= 256


@pytest.mark.parametrize(
    ("configured", "expected"), [("pod", "pods-1.slice"), ("", "system.slice"), ("own.slice", "own.slice")]
)
async def test_monitors_get_scopes_in_the_configured_slice(peer: Peer, configured: str, expected: str) -> None:
    manager = Cgroups(Settings("systemd"))
    handler = Handler("runc", "/runc", "/r", "/m", monitor_cgroup=configured)
    await manager.place(os.getpid(), MonitorRequest("c1", "n", handler, "/b", "/p", "/l", "pods-1.slice"))
    assert dict(peer.calls[-1][1][2])["Slice"] == expected
    assert peer.calls[-1][1][0] == "crio-conmon-c1.scope"
    await manager.leave("pods-1.slice", "c1")
    await manager.close()
    await manager.close()


async def test_helpers_get_scopes(peer: Peer) -> None:
    manager = Cgroups(Settings("systemd"))
    await manager.take_in(os.getpid(), "pulls.slice", "crio-pull-1")
    assert peer.calls[-1][1][0] == "crio-pull-1.scope"
    assert dict(peer.calls[-1][1][2])["Slice"] == "pulls.slice"
    await manager.let_go("pulls.slice", "crio-pull-1")
    await manager.close()


async def test_units_learn_of_what_is_written_to_their_groups(peer: Peer) -> None:
    manager = Cgroups(Settings("systemd"))
    await manager.note("/kubepods.slice", [("CPUQuotaPerSecUSec", "t", 5), ("AllowedCPUs", "ay", b"\x03")])
    assert peer.calls[-1][0] == "SetUnitProperties"
    unit, runtime, properties = peer.calls[-1][1]
    assert (unit, runtime, dict(properties)) == (
        "kubepods.slice",
        True,
        {"CPUQuotaPerSecUSec": 5, "AllowedCPUs": b"\x03"},
    )
    count = len(peer.calls)
    await manager.note("/kubepods.slice/crio-1.scope/container", [("CPUQuotaPerSecUSec", "t", 5)])
    assert len(peer.calls) == count
    await manager.close()
