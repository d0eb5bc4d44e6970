"""Networks of tiny scripts that note how they were called and misbehave when told to."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from pycrio.drivers.network.cni import Limits, Network, Settings
from pycrio.model.requests import NetworkRequest

ALL = '"0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"'
SCRIPT = """#!/bin/sh
me=${0##*/}
cat > "@DIR@/in.$me.$CNI_COMMAND"
env | grep ^CNI_ > "@DIR@/env.$me.$CNI_COMMAND"
[ "$CNI_COMMAND" = VERSION ] || echo "$me $CNI_COMMAND" >> "@DIR@/calls"
[ -e "@DIR@/do.$me.$CNI_COMMAND" ] && . "@DIR@/do.$me.$CNI_COMMAND"
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":[@VERSIONS@]}' ;;
ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],'
     echo '"ips":[{"address":"10.9.0.'$me'/24","interface":0}]}' ;;
esac
"""
# A namespace that surely is one: our own. The scripts never enter it.
HERE = "/proc/self/ns/net"


class Rig:
    """Directories of networks, plugins and results below ``path``. Plugins are named by a number, which is the last
    part of the address that they give."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.net_d, self.bin, self.cache = path / "net.d", path / "bin", path / "cache"
        self.net_d.mkdir()
        self.bin.mkdir()

    def plugin(self, name: str, versions: str = ALL) -> None:
        """Install a plugin that does everything right."""
        target = self.bin / name
        text = SCRIPT.replace("@DIR@", str(self.path)).replace("@VERSIONS@", versions)
        target.with_suffix(".new").write_text(text)
        target.with_suffix(".new").chmod(0o755)
        target.with_suffix(".new").rename(target)

    def tell(self, name: str, verb: str, shell: str) -> None:
        """Have a plugin do this first."""
        (self.path / f"do.{name}.{verb}").write_text(shell + "\n")

    def untell(self, name: str, verb: str) -> None:
        (self.path / f"do.{name}.{verb}").unlink()

    def network(self, *plugins: str, file: str = "10-net.conflist", **more: Any) -> None:
        """Write a list with these plugins, and install those that are not there."""
        for name in plugins:
            if not (self.bin / name).exists():
                self.plugin(name)
        document = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": p} for p in plugins], **more}
        (self.net_d / f"{file}.new").write_text(json.dumps(document))
        (self.net_d / f"{file}.new").rename(self.net_d / file)

    def driver(self, *, limits: Limits | None = None, **more: Any) -> Network:
        return Network(
            Settings(str(self.net_d), (str(self.bin),), cache_dir=str(self.cache), limits=limits or Limits(), **more)
        )

    def calls(self) -> list[str]:
        """Who was called for what, in order; forgotten afterwards."""
        path = self.path / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def stdin(self, name: str, verb: str) -> Any:
        return json.loads((self.path / f"in.{name}.{verb}").read_text())

    def env(self, name: str, verb: str) -> dict[str, str]:
        lines = (self.path / f"env.{name}.{verb}").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def results(self) -> list[str]:
        return sorted(os.listdir(self.cache)) if self.cache.exists() else []

    def hangs(self, name: str, verb: str) -> Hang:
        """Have a plugin tell that it is there, then hang with a child that holds its pipes."""
        return Hang(self, name, verb)


class Hang:
    """Await ``reached()`` while the call runs."""

    def __init__(self, rig: Rig, name: str, verb: str) -> None:
        self.pipe = rig.path / f"pipe.{name}.{verb}"
        os.mkfifo(self.pipe)
        self.fd = os.open(self.pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        rig.tell(name, verb, f"echo $$ > {self.pipe}; sleep 1000 & wait")

    async def reached(self) -> int:
        """The hanging plugin's pid."""
        loop = asyncio.get_running_loop()
        there = asyncio.Event()
        loop.add_reader(self.fd, there.set)
        await there.wait()
        loop.remove_reader(self.fd)
        pid = int(os.read(self.fd, 100))
        os.close(self.fd)
        return pid


def request(pod_id: str = "a" * 64, **more: Any) -> NetworkRequest:
    fields: dict[str, Any] = {"name": "pod", "namespace": "ns", "uid": "uid-1", "netns": HERE, **more}
    return NetworkRequest(pod_id=pod_id, **fields)
