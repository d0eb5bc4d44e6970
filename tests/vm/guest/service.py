"""pycrio as systemd runs it: ``crio.service``, configured by drop-ins, seen through the CRI and systemctl."""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tests.cri import Cri
from tests.daemon import Daemon
from tests.isolation import Isolation
from tests.system.node import Node

T = TypeVar("T")
UNIT = "crio.service"
SOCKET = "unix:///var/run/crio/crio.sock"
DROP_INS = pathlib.Path("/etc/crio/crio.conf.d")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
# An emulated machine is ten to fifteen times slower than a real one.
PATIENCE = 240.0


def sh(command: str, *, check: bool = True) -> str:
    """Both streams of a shell command, which must succeed unless told otherwise."""
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
    return done.stdout


def eventually(look: Callable[[], T], seconds: float = PATIENCE) -> T:
    """The first true answer of ``look``: what systemd does meanwhile tells nobody here."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"did not come true in {seconds} s: {look}"
        time.sleep(0.1)
    return found


def unit(name: str, *properties: str) -> dict[str, str]:
    """Properties of a unit by ``systemctl show``."""
    text = sh(f"systemctl show {shlex.quote(name)} -p {','.join(properties)}")
    return dict(line.partition("=")[::2] for line in text.splitlines())


def cgroup(path: str | os.PathLike[str], name: str) -> str:
    """The content of a file of a group, given by its path below the root of cgroup v2."""
    return (CGROUPS / os.fspath(path).lstrip("/") / name).read_text().strip()


class Service(Daemon):
    """``crio.service``. What it runs leaves its logs below ``directory``."""

    def __init__(self, directory: str) -> None:
        self.dir = directory
        self.process = None
        self.since = ""
        os.makedirs(directory, exist_ok=True)
        DROP_INS.mkdir(parents=True, exist_ok=True)

    @property
    def endpoint(self) -> str:
        return SOCKET

    @property
    def log(self) -> str:
        return sh(f"journalctl -u {UNIT} -o cat --no-pager")

    @property
    def pid(self) -> int:
        return int(unit(UNIT, "MainPID")["MainPID"])

    def client(self, timeout: float = PATIENCE) -> Cri:
        return Cri(self.endpoint, timeout)

    def start(self, *flags: str, wait: bool = True) -> None:
        assert not flags
        sh(f"systemctl start {UNIT}")  # Type=notify: returns when the daemon serves

    def stop(self) -> int:
        sh(f"systemctl stop {UNIT}")
        return int(unit(UNIT, "ExecMainStatus")["ExecMainStatus"])

    def restart(self) -> None:
        sh(f"systemctl restart {UNIT}")

    def configure(self, drop_ins: Mapping[str, str]) -> None:
        """Replace all drop-ins of crio.conf and restart."""
        for old in DROP_INS.glob("50-*.conf"):
            old.unlink()
        for name, text in drop_ins.items():
            (DROP_INS / f"50-{name}.conf").write_text(text)
        self.restart()


class Vm(Node):
    """A node whose daemon belongs to systemd."""

    service: Service

    def __init__(self, service: Service, image: str) -> None:
        self.service = service
        super().__init__(service, Isolation(), image)

    @property
    def pid(self) -> int:
        return self.service.pid

    def ended(self, ident: str, seconds: float = PATIENCE) -> Any:
        return super().ended(ident, seconds)

    def wait_log(self, ident: str, text: str) -> None:
        eventually(lambda: text in self.output(ident))

    def group_of(self, ident: str) -> str:
        """The cgroup of a container's first process."""
        return pathlib.Path(f"/proc/{self.pid_of(ident)}/cgroup").read_text().strip().removeprefix("0::")
