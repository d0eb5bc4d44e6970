"""A container that a runtime makes and removes again, without starting it: only that tells whether runtime, kernel and
control groups fit each other. What they report of themselves does not (crun, for one, refuses some cgroup set-ups)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import tempfile
import time

from pycrio import wiring
from pycrio._native.base import Fd, NativeError
from pycrio._native.pools import offload
from pycrio._native.run import readable, run
from pycrio.drivers.cgroups.manager import Cgroups
from pycrio.drivers.cgroups.manager import Settings as CgroupSettings
from pycrio.model.node import Handler

TIMEOUT = 30.0
SAID = 300
REAPED = 300  # times 10 ms
_FIELD = re.compile(r'\bmsg="((?:[^"\\]|\\.)*)"')


async def attempt(handler: Handler, manager: str) -> str:
    """Make a container with namespaces and limits of its own as the daemon would; "" or what the runtime said.

    Nothing of it remains: neither a process nor a group, and no entry in the runtime's own directory.
    """
    ident = f"check-{os.getpid()}-{time.monotonic_ns()}"
    cgroups = Cgroups(CgroupSettings(manager))
    parent = "system.slice" if manager == "systemd" else "/"
    directory = await offload("store", tempfile.mkdtemp, "", "pycrio-check-")
    flags = [f"--root={directory}/state", *(["--systemd-cgroup"] if manager == "systemd" else [])]
    log, pidfile = f"{directory}/log", f"{directory}/pid"
    # In a file, since the waiting process of the container holds what the runtime has as standard error.
    command = ["sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", log]
    command += [handler.path, *flags, "create", "--bundle", directory, "--pid-file", pidfile, ident]
    try:
        await offload("store", _bundle, directory, cgroups.container_path(parent, ident))
        done = await run(command, timeout=TIMEOUT, cap=1 << 16)
        if done.timed_out:
            return f"it did not answer within {TIMEOUT:.0f} s"
        if done.code != 0:
            return await offload("store", _said, log) or f"it ended with code {done.code} and said nothing"
        return ""
    except NativeError as e:
        return f"it cannot be executed: {e.strerror}"
    finally:
        await _end(pidfile)
        await run([handler.path, *flags, "delete", "--force", ident], timeout=TIMEOUT, cap=1 << 16)
        await cgroups.remove_pod(parent, ident)
        await cgroups.close()
        await offload("store", shutil.rmtree, directory, True)


async def _end(pidfile: str) -> None:
    """End the waiting process, and give its new parent time to take note: a group with a zombie cannot be removed."""
    try:
        with open(pidfile, encoding="ascii") as f:
            pid = int(f.read())
        with Fd(os.pidfd_open(pid)) as process:
            signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
            await readable(process.fileno())
    except (OSError, ValueError):
        return  # there is none
    for _ in range(REAPED):
        if not os.path.exists(f"/proc/{pid}"):
            return
        await asyncio.sleep(0.01)  # nobody but the parent hears of it


def _bundle(directory: str, cgroup: str) -> None:
    root = f"{directory}/rootfs"
    for place in (root, f"{root}/proc", f"{root}/dev"):
        os.mkdir(place)
    with open(f"{root}/pause", "xb") as f:
        os.fchmod(f.fileno(), 0o755)
    kinds = ("pid", "mount", "ipc", "uts", "network")
    document = {
        "ociVersion": "1.0.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/pause"], "cwd": "/", "noNewPrivileges": True},
        "root": {"path": root, "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/pause",
                "type": "bind",
                "source": wiring.program("pycrio-pause"),
                "options": ["bind", "ro"],
            },
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in kinds],
            "resources": {"cpu": {"shares": 2}, "memory": {"limit": 64 << 20}},
        },
    }
    with open(f"{directory}/config.json", "x", encoding="utf-8") as f:
        json.dump(document, f)


def _said(path: str) -> str:
    """The runtime's words on one line: the message alone where they are a log line of runc."""
    with open(path, encoding="utf-8", errors="replace") as f:
        text = " ".join(f.read(1 << 16).split())
    found = _FIELD.findall(text)
    return (found[-1].replace('\\"', '"') if found else text)[:SAID]
