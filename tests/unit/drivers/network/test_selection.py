"""Which network is used, and when it is ready."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable

import pytest

from pycrio.drivers.network import selection as module
from pycrio.drivers.network.cni import Network
from pycrio.drivers.network.conf import NetworkConf
from pycrio.drivers.network.plugins import Plugins
from pycrio.drivers.network.selection import Selection
from tests.unit.drivers.network.support import Rig, request


def trouble(network: Network) -> str:
    condition = network.condition()
    assert condition.type == "NetworkReady"
    assert condition.status == (not condition.message)
    if not condition.status:
        assert condition.reason == "NetworkPluginNotReady"
        assert condition.message.startswith("Network plugin returns error: ")
    return condition.message


class Synced:
    """Counts how often the directories were read."""

    def __init__(self, network: Network) -> None:
        self._selection = network._selection
        self._inner = self._selection._sync
        self._event = asyncio.Event()
        self._ask_inner = self._selection._ask
        self._selection._sync = self._sync  # type: ignore[method-assign]
        self._selection._ask = self._ask  # type: ignore[method-assign]

    async def _sync(self) -> None:
        await self._inner()
        self._event.set()

    async def _ask(self, network: NetworkConf) -> None:
        await self._ask_inner(network)
        self._event.set()

    async def until(self, name: str | None) -> None:
        """Wait until the network of this name (None: none) is chosen."""
        await self.then(lambda: (n.name if (n := self._selection.network) else None) == name)

    async def then(self, come_true: Callable[[], bool]) -> None:
        """Wait until reading or asking has made something true."""
        while not come_true():
            self._event.clear()
            await self._event.wait()


async def test_nothing_there_then_there(rig: Rig) -> None:
    network = rig.driver()
    await network.open()
    waiting = asyncio.ensure_future(network.ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert f"no CNI configuration file in {rig.net_d}" in trouble(network)
    rig.network("1")
    await waiting
    assert trouble(network) == ""
    await network.close()


async def test_directories_are_made(rig: Rig) -> None:
    shutil.rmtree(rig.net_d)
    shutil.rmtree(rig.bin)
    network = rig.driver()
    await network.open()
    assert rig.net_d.is_dir()
    assert rig.bin.is_dir()
    await network.close()


async def test_directories_that_cannot_be_made(rig: Rig) -> None:
    shutil.rmtree(rig.net_d)
    rig.net_d.write_text("a file")
    network = rig.driver()
    await network.open()
    assert "cannot be read" in trouble(network)
    rig.net_d.unlink()
    rig.net_d.mkdir()
    rig.network("1")
    await network.ready()
    await network.close()


async def test_the_first_file_is_used_until_another_comes_before(rig: Rig) -> None:
    rig.network("1", file="20.conflist", name="second")
    network = rig.driver()
    synced = Synced(network)
    await network.open()
    await synced.until("second")
    rig.network("1", file="10.conflist", name="first")
    await synced.until("first")
    (rig.net_d / "10.conflist").unlink()
    await synced.until("second")
    (rig.net_d / "20.conflist").rename(rig.net_d / "20.bak")
    await synced.until(None)
    assert "no CNI configuration file" in trouble(network)
    (rig.net_d / "20.bak").rename(rig.net_d / "20.conflist")
    await synced.until("second")
    await network.ready()
    await network.close()


async def test_written_in_place(rig: Rig) -> None:
    rig.network("1", name="old")
    network = rig.driver()
    synced = Synced(network)
    await network.open()
    path = rig.net_d / "10-net.conflist"
    path.write_text(path.read_text().replace("old", "new"))
    await synced.until("new")
    await network.close()


async def test_only_the_named_network(rig: Rig) -> None:
    rig.network("1", file="10.conflist", name="first")
    network = rig.driver(default_network="wanted")
    synced = Synced(network)
    await network.open()
    assert "no network named 'wanted'" in trouble(network)
    rig.network("1", file="20.conflist", name="wanted")
    await synced.until("wanted")
    await network.close()


async def test_a_plugin_that_is_installed_later(rig: Rig) -> None:
    rig.network("1")
    (rig.bin / "1").unlink()
    network = rig.driver()
    await network.open()
    assert "plugin '1' is in none of" in trouble(network)
    rig.plugin("1")
    await network.ready()
    await network.close()


@pytest.mark.parametrize("which", ["net_d", "bin"])
async def test_a_directory_that_vanishes_and_comes_back(rig: Rig, which: str) -> None:
    rig.network("1")
    network = rig.driver()
    synced = Synced(network)
    await network.open()
    directory, away = getattr(rig, which), rig.path / "away"
    for _ in range(2):
        directory.rename(away)
        await synced.until(None)
        away.rename(directory)
        await synced.until("net")
    shutil.copytree(directory, away)
    shutil.rmtree(directory)
    await synced.until(None)
    away.rename(directory)
    await synced.until("net")
    # Still followed after all that.
    rig.network("1", file="05.conflist", name="other")
    await synced.until("other")
    await network.close()


async def test_the_directory_above_vanishes_too(rig: Rig) -> None:
    above = rig.path / "etc" / "cni"
    above.mkdir(parents=True)
    rig.net_d.rename(above / "net.d")
    rig.net_d = above / "net.d"
    rig.network("1")
    network = rig.driver()
    synced = Synced(network)
    await network.open()
    await synced.until("net")
    shutil.rmtree(rig.path / "etc")
    await synced.until(None)
    rig.net_d.mkdir(parents=True)
    rig.network("1")
    await synced.until("net")
    await network.close()


async def test_a_link_that_is_turned(rig: Rig) -> None:
    one, two = rig.path / "one", rig.path / "two"
    rig.network("1", name="one")
    rig.net_d.rename(one)
    shutil.copytree(one, two)
    path = two / "10-net.conflist"
    path.write_text(path.read_text().replace('"one"', '"two"'))
    rig.net_d.symlink_to(one)
    network = rig.driver()
    synced = Synced(network)
    await network.open()
    await synced.until("one")
    (rig.path / "link").symlink_to(two)
    (rig.path / "link").rename(rig.net_d)
    await synced.until("two")
    (two / "10-net.conflist").unlink()
    await synced.until(None)
    await network.close()


async def test_plugins_beside_the_list_are_followed(rig: Rig) -> None:
    rig.network("1")
    rig.plugin("2")
    network = rig.driver()
    synced = Synced(network)
    await network.open()
    (rig.net_d / "net").mkdir()
    (rig.net_d / "net" / "10-more.conf").write_text('{"type": "2"}')
    chosen = network._selection
    await synced.then(lambda: chosen.network is not None and len(chosen.network.plugins) == 2)
    await network.add(request())
    assert rig.calls() == ["1 ADD", "2 ADD"]
    await network.delete(request())
    assert rig.calls() == ["2 DEL", "1 DEL"]
    await network.close()


# --- versions ---------------------------------------------------------------------------------------------------------


async def test_the_highest_version_that_every_plugin_speaks(rig: Rig) -> None:
    rig.plugin("1")
    rig.plugin("2", '"0.3.1","0.4.0"')
    rig.network("1", "2", cniVersion="1.1.0", cniVersions=["0.3.1", "0.4.0", "1.0.0"])
    network = rig.driver()
    await network.open()
    await network.ready()
    await network.add(request())
    assert rig.stdin("1", "ADD")["cniVersion"] == "0.4.0"
    assert "cniVersions" not in rig.stdin("1", "ADD")
    await network.delete(request())
    assert rig.stdin("1", "DEL")["cniVersion"] == "0.4.0"
    await network.close()


async def test_plugins_too_old_for_the_network(rig: Rig) -> None:
    rig.plugin("1", '"0.4.0","1.0.0"')
    rig.network("1", cniVersion="1.1.0")
    network = rig.driver()
    await network.open()
    assert "plugin '1' speaks CNI 0.4.0, 1.0.0, which leaves none of the versions 1.1.0" in trouble(network)
    rig.plugin("1")
    await network.ready()
    await network.close()


@pytest.mark.parametrize(
    "shell", ["echo garbage; exit 0", "exit 1", "echo []; exit 0", """echo '{"supportedVersions":3}'; exit 0"""]
)
async def test_a_plugin_that_does_not_tell_its_versions_is_used(rig: Rig, shell: str) -> None:
    rig.network("1")
    rig.tell("1", "VERSION", shell)
    network = rig.driver()
    await network.open()
    await network.ready()
    await network.close()


async def test_versions_are_asked_once(rig: Rig) -> None:
    rig.network("1")
    rig.tell("1", "VERSION", f"echo x >> {rig.path}/asked")
    network = rig.driver()
    synced = Synced(network)
    await network.open()
    rig.network("1", name="other")
    await synced.until("other")
    assert (rig.path / "asked").read_text() == "x\n"
    await network.close()


# --- STATUS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_PERIOD", 0.001)
    monkeypatch.setattr(module, "STATUS_PERIOD", 0.001)


async def asked(rig: Rig) -> None:
    """Plugin 1 has answered a STATUS from now on."""
    hang = rig.hangs("1", "STATUS")
    pid = await hang.reached()
    os.unlink(hang.pipe)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("quick")
async def test_ready_once_every_plugin_says_so(rig: Rig) -> None:
    rig.tell("2", "STATUS", """echo '{"code":50,"msg":"warming up"}'; exit 1""")
    rig.network("1", "2", cniVersion="1.1.0")
    network = rig.driver()
    synced = Synced(network)
    await network.open()
    waiting = asyncio.ensure_future(network.ready())
    await asked(rig)
    assert not waiting.done()
    rig.untell("1", "STATUS")
    await synced.then(lambda: "warming up" in trouble(network))
    rig.untell("2", "STATUS")
    await waiting
    assert trouble(network) == ""
    assert network._selection._period() is None, "no grace period: not asked again"
    await network.close()


@pytest.mark.usefixtures("quick")
async def test_an_unchanged_file_does_not_end_the_asking(rig: Rig) -> None:
    rig.tell("1", "STATUS", "exit 1")
    rig.network("1", cniVersion="1.1.0")
    network = rig.driver()
    await network.open()
    await network._selection._sync()
    await network._selection._sync()
    rig.untell("1", "STATUS")
    await network.ready()
    await network.close()


@pytest.mark.usefixtures("quick")
async def test_another_network_that_is_not_ready_takes_readiness_away(rig: Rig) -> None:
    rig.network("1", name="good")
    network = rig.driver()
    synced = Synced(network)
    await network.open()
    assert trouble(network) == ""
    rig.tell("2", "STATUS", "echo no >&2; exit 1")
    rig.network("2", file="05.conflist", name="bad", cniVersion="1.1.0")
    await synced.then(lambda: "no (exit code 1)" in trouble(network))
    (rig.net_d / "05.conflist").unlink()
    await network.ready()
    await network.close()


async def test_trouble_within_the_grace_period_is_borne(rig: Rig) -> None:
    rig.network("1", cniVersion="1.1.0")
    selection = Selection(str(rig.net_d), Plugins((str(rig.bin),)), "", 10.0)
    clock = [100.0]
    selection.clock = lambda: clock[0]
    await selection._sync()
    network = selection.network
    assert network is not None
    assert selection._period() == 0
    await selection._ask(network)
    assert selection.trouble() == ""
    assert selection._period() == module.STATUS_PERIOD
    rig.tell("1", "STATUS", "exit 1")
    for clock[0] in (105.0, 114.9):
        await selection._ask(network)
        assert selection.trouble() == ""
    rig.untell("1", "STATUS")
    clock[0] = 114.95
    await selection._ask(network)
    rig.tell("1", "STATUS", "exit 1")
    for clock[0] in (115.0, 124.9):
        await selection._ask(network)
        assert selection.trouble() == "", "what was well in between counts anew"
    clock[0] = 125.0
    await selection._ask(network)
    assert "exit code 1" in selection.trouble()
    assert selection._period() == module.RETRY_PERIOD
    rig.untell("1", "STATUS")
    await selection._ask(network)
    assert selection.trouble() == ""
    await selection.close()


async def test_closing_while_a_plugin_is_asked(rig: Rig) -> None:
    hang = rig.hangs("1", "STATUS")
    rig.network("1", cniVersion="1.1.0")
    network = rig.driver()
    await network.open()
    await hang.reached()
    await network.close()
    await network.close()
