"""Device nodes of the host, and edits of CDI devices (see ``flows.ports.Devices``)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pycrio._native.pools import offload
from pycrio.drivers.devices.cdi import Registry
from pycrio.errors import InvalidRequest, NotFound
from pycrio.model.mount import DeviceNode

# Made by the runtime in every container, or a matter of its own mounts.
SKIPPED = frozenset({"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/console", "/dev/.lxc", "/dev/.lxd-mounts"})


@dataclass(frozen=True, slots=True)
class Settings:
    """``cdi_dirs``: directories with CDI specs, later ones win."""

    cdi_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")


class Devices:
    """Devices for containers."""

    def __init__(self, settings: Settings) -> None:
        self._cdi = Registry(settings.cdi_dirs)

    def nodes(self, host_path: str, container_path: str, access: str) -> Sequence[DeviceNode]:
        """The device at a path (links followed), or every device below a directory."""
        real = os.path.realpath(host_path)
        try:
            info = os.stat(real)
        except OSError as e:
            raise NotFound("device", host_path, e.strerror or "") from e
        if not stat.S_ISDIR(info.st_mode):
            one = node_of(info, container_path, access)
            if one is None:
                raise InvalidRequest(f"{host_path} is not a device")
            return [one]
        found = []
        for parent, _, names in sorted(os.walk(real)):
            for name in sorted(names):
                path = os.path.join(parent, name)
                inside = os.path.join(container_path, os.path.relpath(path, real))
                one = node_of(os.lstat(path), inside, access)
                if one is not None:
                    found.append(one)
        return found

    def host_nodes(self) -> Sequence[DeviceNode]:
        """Every device of the host that a privileged container gets."""
        found = []
        for parent, directories, names in os.walk("/dev"):
            directories[:] = sorted(d for d in directories if os.path.join(parent, d) not in SKIPPED)
            for name in sorted(names):
                path = os.path.join(parent, name)
                if path in SKIPPED:
                    continue
                try:
                    one = node_of(os.lstat(path), path, "rwm")
                except FileNotFoundError:
                    continue
                if one is not None:
                    found.append(one)
        return found

    def inject(self, config: dict[str, Any], names: Sequence[str]) -> None:
        """Apply the edits of CDI devices in place; NotFound names the unresolvable ones."""
        self._cdi.inject(config, names)

    async def reload(self, directories: Sequence[str]) -> None:
        """Read the CDI directories anew."""
        await offload("mount", self._cdi.load, tuple(directories))


def node_of(info: os.stat_result, path: str, access: str) -> DeviceNode | None:
    """The device node of a stat result; None for anything else."""
    if stat.S_ISCHR(info.st_mode):
        kind = "c"
    elif stat.S_ISBLK(info.st_mode):
        kind = "b"
    else:
        return None
    return DeviceNode(
        path=path,
        type=kind,
        major=os.major(info.st_rdev),
        minor=os.minor(info.st_rdev),
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        access=access,
    )
