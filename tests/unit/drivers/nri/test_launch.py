"""Plugins that are installed on the node: found by name, started with a socket, ended with the daemon."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from pycrio.drivers.nri import launch
from pycrio.drivers.nri.launch import Installed, discover
from pycrio.model.nri import NriEvent
from tests.unit.drivers.nri.support import bits, container, pod, runtime

ROOT = pathlib.Path(__file__).resolve().parents[4]
SCRIPT = f"""#!{sys.executable}
import asyncio, os, signal, socket, sys
sys.path[:0] = [{str(ROOT)!r}]
from pycrio.drivers.nri._pb import nri_pb2 as pb
from tests.unit.drivers.nri.support import FakePlugin

# What the runtime gives, and nothing else: the interpreter may add a locale.
assert {{k for k in os.environ if k != "LC_CTYPE"}} == {{"NRI_PLUGIN_NAME", "NRI_PLUGIN_IDX", "NRI_PLUGIN_SOCKET"}}
assert sorted(map(int, os.listdir("/proc/self/fd")))[:4] == [0, 1, 2, 3]

def create(request):
    answer = pb.CreateContainerResponse()
    answer.adjust.env.add(key="FROM", value=plugin.got["Configure"].config)
    return answer

async def main():
    global plugin
    plugin = FakePlugin("claimed", "00", {bits(NriEvent.CREATE)}, CreateContainer=create)
    sock = socket.socket(fileno=int(os.environ["NRI_PLUGIN_SOCKET"]))
    sock.setblocking(False)
    plugin.reader, plugin.writer = await asyncio.open_unix_connection(sock=sock)
    plugin._pump = asyncio.get_running_loop().create_task(plugin._read())
    await plugin.register()
    await plugin.closed.wait()
    if "stubborn" in sys.argv[0]:
        signal.pause()

if "stubborn" in sys.argv[0]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "broken" in sys.argv[0]:
    sys.exit(3)
asyncio.run(main())
"""


def install(directory: pathlib.Path, name: str, text: str = SCRIPT, mode: int = 0o755) -> None:
    path = directory / name
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture
def dirs(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    plugins, configs = tmp_path / "plugins", tmp_path / "conf.d"
    plugins.mkdir()
    configs.mkdir()
    return plugins, configs


def test_discovery(dirs: tuple[pathlib.Path, pathlib.Path], capfd: pytest.CaptureFixture[str]) -> None:
    plugins, configs = dirs
    for name in ("20-b", "10-a", "30-c", "1-x", "noindex", "40-unreadable"):
        install(plugins, name, "#!/bin/sh\n")
    install(plugins, "50-text", "not executable", 0o644)
    (plugins / "60-dir").mkdir()
    (plugins / "70-dangling").symlink_to("/nonexistent")
    (configs / "10-a.conf").write_text("specific")
    (configs / "a.conf").write_text("general")
    (configs / "b.conf").write_text("general")
    (configs / "40-unreadable.conf").write_bytes(b"\xff\xfe")
    assert discover(str(plugins), str(configs)) == [
        Installed("10", "a", f"{plugins}/10-a", "specific"),
        Installed("20", "b", f"{plugins}/20-b", "general"),
        Installed("30", "c", f"{plugins}/30-c", ""),
    ]
    said = capfd.readouterr().err
    for name in ("1-x", "noindex", "40-unreadable", "70-dangling"):
        assert f"{plugins}/{name}" in said
    assert "50-text" not in said
    assert discover("/nonexistent", str(configs)) == []


async def test_installed_plugins_work_and_end(tmp_path: pathlib.Path, dirs: tuple[pathlib.Path, pathlib.Path]) -> None:
    plugins, configs = dirs
    for name in ("10-good", "20-broken", "30-wasm"):
        install(plugins, name, "\0asm\1\0\0\0" if "wasm" in name else SCRIPT)
    (configs / "good.conf").write_text("its config")
    where = {"plugin_dir": str(plugins), "config_dir": str(configs), "registration_timeout": 60}
    async with runtime(str(tmp_path / "nri.sock"), **where) as (nri, _):
        assert nri._hub is not None
        assert [p.title for p in nri._hub.plugins] == ["10-good"]  # whatever it calls itself
        pid = nri._hub.plugins[0].link.peer_pid
        view = container()
        await nri.create(pod(), view, lambda key: True)
        assert "FROM=its config" in view.document["process"]["env"]
        assert pid == os.getpid()  # of whoever made the socket pair
    assert not children()


async def test_a_plugin_that_does_not_end_is_killed(
    tmp_path: pathlib.Path, dirs: tuple[pathlib.Path, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "GRACE", 0.05)
    plugins, configs = dirs
    install(plugins, "10-stubborn")
    where = {"plugin_dir": str(plugins), "config_dir": str(configs), "registration_timeout": 60}
    async with runtime(str(tmp_path / "nri.sock"), **where) as (nri, _):
        assert nri._hub is not None
        assert len(nri._hub.plugins) == 1
        assert len(children()) == 1
    assert not children()


def children() -> list[str]:
    """Processes of ours that run a plugin."""
    pids = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = []
    for task in pathlib.Path("/proc/self/task").iterdir():
        pids += (task / "children").read_text().split()
    for pid in set(pids):
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"/plugins/" in command:
            found.append(pid)
    return found


def test_nothing_of_it_is_loaded_before_the_first_plugin() -> None:
    code = (
        "import sys, pycrio.wiring; sys.exit(any(m.startswith('pycrio.drivers.nri.') and m.rpartition('.')[2] not in "
    )
    code += "('nri', 'settings') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
