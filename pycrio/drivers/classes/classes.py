"""The port ``Classes``: block I/O and RDT classes as configured, re-read on demand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pycrio._native.pools import offload
from pycrio.drivers.classes import blockio, rdt, resctrl
from pycrio.drivers.classes.documents import read
from pycrio.errors import ConfigError, InvalidRequest, Unsupported
from pycrio.obs import log as obslog

log = obslog.get("classes")


@dataclass(frozen=True, slots=True)
class Settings:
    """Class files, "" for none. ``follow``: the block I/O file is read, and devices are looked for, before each use.
    ``mounts`` is the list of mounts that tells where resctrl is."""

    blockio: str = ""
    follow: bool = False
    rdt: str = ""
    mounts: str = "/proc/mounts"


@dataclass(frozen=True, slots=True)
class _State:
    settings: Settings
    blockio: Mapping[str, Mapping[str, Any]]
    rdt: Mapping[str, rdt.Class]
    resctrl: str


class Classes:
    """See ``flows.ports.Classes``."""

    def __init__(self, settings: Settings) -> None:
        self._state = _State(settings, {}, {}, "")

    async def open(self) -> None:
        """Read the files and set RDT up; ConfigError when that is not possible."""
        (await self.prepare(self._state.settings))()

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read the files that settings name, and set RDT up; what comes back makes them hold and cannot fail."""
        state = await offload("store", _load, settings)

        def commit() -> None:
            self._state = state

        return commit

    def block_io_known(self, name: str) -> Mapping[str, Any] | None:
        """The OCI document of a class as last read; None for an unknown one."""
        return self._state.blockio.get(name)

    async def block_io(self, name: str) -> Mapping[str, Any] | None:
        """The OCI document of a class; None when block I/O is not configured or has no such class."""
        state = self._state
        if not state.settings.blockio:
            return None
        if state.settings.follow:
            try:
                found = await offload("store", blockio.load, state.settings.blockio)
            except ConfigError as e:
                log.warning("Block I/O classes stay as they were", error=str(e))
            else:
                state = self._state = _State(state.settings, found, state.rdt, state.resctrl)
        if name not in state.blockio:
            log.warning("There is no such block I/O class, going on without", name=name)
        return state.blockio.get(name)

    async def rdt(self, name: str, by_pod: bool) -> str:
        """The closID of a class; see the port."""
        state = self._state
        if not state.resctrl:
            raise Unsupported(f"RDT class {name!r} is asked for, but the host has no resctrl file system mounted")
        if not state.settings.rdt:
            raise Unsupported(f"RDT class {name!r} is asked for, but crio.runtime.rdt_config_file is not set")
        label = "" if name in rdt.ROOT else name
        if label in (".", "..") or re.search(r"[/\n]", label):
            raise InvalidRequest(f"{name!r} cannot be the name of an RDT class")
        if not await offload("store", resctrl.has, state.resctrl, label):
            raise InvalidRequest(
                f"there is no RDT class {name!r}: {', '.join(sorted(state.rdt)) or 'none'} are configured"
            )
        known = state.rdt.get(label)
        if known is not None and (known.deny_pod if by_pod else known.deny_container):
            raise InvalidRequest(
                f"RDT class {name!r} may not be asked for by {'pod' if by_pod else 'container'} annotations"
            )
        return label


def _load(settings: Settings) -> _State:
    """Everything that can fail; what is changed on the host comes last."""
    classes = blockio.load(settings.blockio) if settings.blockio else {}
    root, mbps = resctrl.mounted(settings.mounts)
    if not settings.rdt:
        return _State(settings, classes, {}, root)
    if not root:
        log.info("RDT is configured, but the host has no resctrl file system mounted")
        return _State(settings, classes, {}, "")
    try:
        found = rdt.resolve(read(settings.rdt), resctrl.look(root, mbps))
    except ValueError as e:
        raise ConfigError([f"{settings.rdt}: {e}"]) from e
    except (TypeError, AttributeError) as e:
        raise ConfigError([f"{settings.rdt}: a value has the wrong form: {e}"]) from e
    resctrl.apply(root, found)
    return _State(settings, classes, found, root)
