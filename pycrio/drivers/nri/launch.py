"""Plugins that are started with the daemon: executables ``NN-name`` of a directory, each with a socket as descriptor 3
and, if there is one, a configuration ``NN-name.conf`` or ``name.conf`` of another directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from dataclasses import dataclass

from pycrio._native import run
from pycrio._native.base import NativeError
from pycrio._native.pools import offload
from pycrio.drivers.nri.hub import Hub
from pycrio.drivers.nri.plugin import check_identity
from pycrio.obs import log as obslog

log = obslog.get("nri")
GRACE = 2.0
"""Seconds that a plugin has to end by itself before it is killed."""
_SOCKET_FD = 3


@dataclass(frozen=True, slots=True)
class Installed:
    """One executable of the plugin directory."""

    index: str
    name: str
    path: str
    config: str


def discover(plugin_dir: str, config_dir: str) -> list[Installed]:
    """What is installed, in the order of names. Executables whose name is not a plugin's, and plugins whose
    configuration cannot be read, are left out with an error line."""
    try:
        entries = sorted(os.scandir(plugin_dir), key=lambda e: e.name)
    except FileNotFoundError:
        return []
    except OSError as e:
        log.error("NRI plugins cannot be listed, none is started", path=plugin_dir, error=e.strerror)
        return []
    found = []
    for entry in entries:
        try:
            info = entry.stat()
        except OSError as e:
            log.error("NRI plugin cannot be examined, left out", path=entry.path, error=e.strerror)
            continue
        if not stat.S_ISREG(info.st_mode) or not info.st_mode & 0o111:
            continue
        index, dash, name = entry.name.partition("-")
        fault = check_identity(name, index) if dash else "it is not named NN-name"
        if fault:
            log.error("Executable is not an NRI plugin, left out", path=entry.path, reason=fault)
            continue
        try:
            config = _config(config_dir, entry.name, name)
        except (OSError, UnicodeDecodeError) as e:
            log.error("Configuration of NRI plugin cannot be read, plugin left out", path=entry.path, error=str(e))
            continue
        found.append(Installed(index, name, entry.path, config))
    return found


def _config(directory: str, *names: str) -> str:
    for name in names:
        with (
            contextlib.suppress(FileNotFoundError),
            open(os.path.join(directory, f"{name}.conf"), encoding="utf-8") as f,
        ):
            return f.read()
    return ""


async def launch(hub: Hub, installed: Installed, settled: asyncio.Event) -> None:
    """Start a plugin and see to it until it ends; it is not started again. ``settled`` is set once it has joined or has
    failed to. Ends with the plugin's connection, and ends the plugin then."""
    try:
        await _launch(hub, installed, settled)
    finally:
        settled.set()


async def _launch(hub: Hub, installed: Installed, settled: asyncio.Event) -> None:
    plugin = hub.launched(installed.index, installed.name, installed.config)
    ours, theirs = socket.socketpair()
    environment = {
        "NRI_PLUGIN_NAME": installed.name,
        "NRI_PLUGIN_IDX": installed.index,
        "NRI_PLUGIN_SOCKET": str(_SOCKET_FD),
    }
    try:
        with theirs:
            child = await offload(
                "proc", run.spawn, [installed.path], env=environment, fds={_SOCKET_FD: theirs.fileno()}
            )
    except NativeError as e:
        ours.close()
        log.error("NRI plugin cannot be started", path=installed.path, error=str(e))
        return
    try:
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: plugin.link, sock=ours)
        if await hub.join(plugin):
            settled.set()
            await asyncio.wait({plugin.link.closed})
    finally:
        plugin.link.close("the plugin is ended")
        await _end(child, plugin.title)


async def _end(child: run.Child, title: str) -> None:
    """Have the process end, by force after a while, and reap it."""
    child.kill_group(signal.SIGTERM)
    ended = asyncio.ensure_future(child.wait())
    done, _ = await asyncio.wait({ended}, timeout=GRACE)
    if not done:
        log.warning("NRI plugin does not end, killing it", plugin=title)
        child.kill_group(signal.SIGKILL)
    log.info("NRI plugin ended", plugin=title, code=await ended)
