"""The port ``CpuTuner``: what containers change of the host's CPUs, undone when they end, also after a crash.

What a container holds is written down in a claim file before anything changes. Whoever gives back, in this run or in a
later one, reads it there, and leaves alone what another claim holds as well.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pycrio._native.pools import offload
from pycrio.drivers.cpus.files import read_text, replace_text
from pycrio.drivers.cpus.irq import Interrupts
from pycrio.drivers.cpus.power import GOVERNOR, LATENCY, Power
from pycrio.errors import ExternalFailure
from pycrio.model.cpus import CpuTuning, format_cpus, parse_cpus
from pycrio.obs import log as obslog

log = obslog.get("cpus")
QUIET = "irq"
KINDS = (QUIET, LATENCY, GOVERNOR)


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the kernel shows itself, where originals (``saved``, as in CRI-O) and ``claims`` are kept, and the files of
    irqbalance (``restore`` may be ``disable``)."""

    irqbalance: str = "/etc/sysconfig/irqbalance"
    restore: str = "/etc/sysconfig/orig_irq_banned_cpus"
    proc: str = "/proc"
    system: str = "/sys/devices/system/cpu"
    saved: str = "/var/run/crio/cpu"
    claims: str = "/var/run/crio/cpu/claims"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


class CpuTuner:
    """See ``flows.ports.CpuTuner``."""

    def __init__(self, settings: Settings) -> None:
        self._claims = settings.claims
        self._power = Power(settings.system, settings.saved)
        self._interrupts = Interrupts(settings.proc, settings.irqbalance, settings.restore, settings.environ)
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Put the ban list of irqbalance back after a boot, from before which no claim is left. A node without
        irqbalance, or one that refuses, is only told of."""
        if await offload("proc", _names, self._claims):
            return
        try:
            await self._interrupts.restore()
        except (OSError, ValueError) as e:
            log.warning("Ban list of irqbalance not put back", error=str(e))

    async def siblings(self, cpus: str) -> str:
        """Those of the CPUs that share a core with the first of them."""
        own = parse_cpus(cpus)
        if not own:
            return ""
        return format_cpus(own & parse_cpus(await offload("proc", self._power.siblings, min(own))))

    async def tune(self, container_id: str, wanted: CpuTuning) -> None:
        """Apply everything or nothing. InvalidRequest and Unsupported for what the CPUs cannot do, ExternalFailure when
        the kernel refuses."""
        cpus, quiet = parse_cpus(wanted.cpus), parse_cpus(wanted.quiet)
        if wanted.governor:
            await offload("proc", self._power.check_governor, cpus, wanted.governor)
        if not (wanted.governor or wanted.latency or quiet):
            return
        async with self._lock:
            # A claim that is there is of a start that was cut off: what it took is given back before it is taken anew.
            await _to_the_end(self._give_back(container_id))
            try:
                await self._tune(container_id, wanted, cpus, quiet)
            except BaseException as e:
                await _to_the_end(self._give_back(container_id))
                if isinstance(e, OSError | ValueError):
                    raise ExternalFailure(f"CPUs {wanted.cpus} of container {container_id} cannot be tuned: {e}") from e
                raise

    async def _tune(self, container_id: str, wanted: CpuTuning, cpus: frozenset[int], quiet: frozenset[int]) -> None:
        others = await offload("proc", self._held, QUIET, container_id)
        # Only what served interrupts until now, or does not because of another container, is ours to give back.
        taken = quiet & (others | await offload("proc", self._interrupts.served)) if quiet else quiet
        claim = {
            QUIET: format_cpus(taken),
            LATENCY: wanted.cpus if wanted.latency else "",
            GOVERNOR: wanted.cpus if wanted.governor else "",
        }
        await offload("proc", replace_text, f"{self._claims}/{container_id}", json.dumps(claim))
        if wanted.latency:
            await offload("proc", self._power.set, LATENCY, cpus, wanted.latency)
        if wanted.governor:
            await offload("proc", self._power.set, GOVERNOR, cpus, wanted.governor)
        if quiet:
            await self._interrupts.change(frozenset(), quiet)

    async def restore(self, container_id: str) -> None:
        """Give back what a container holds; one that holds nothing is fine. ExternalFailure when the kernel refuses."""
        if not os.path.exists(f"{self._claims}/{container_id}"):
            return
        async with self._lock:
            await _to_the_end(self._give_back(container_id))

    async def _give_back(self, container_id: str) -> None:
        try:
            await self._put_back(container_id)
        except (OSError, ValueError) as e:
            raise ExternalFailure(f"CPUs of container {container_id} are not as they were: {e}") from e

    async def _put_back(self, container_id: str) -> None:
        path = f"{self._claims}/{container_id}"
        claim = await offload("proc", _read, path)
        if claim is None:
            return
        for name in (LATENCY, GOVERNOR):
            free = claim[name] - await offload("proc", self._held, name, container_id)
            await offload("proc", self._power.put_back, name, free)
        free = claim[QUIET] - await offload("proc", self._held, QUIET, container_id)
        if free:
            await self._interrupts.change(free, frozenset())
        await offload("proc", os.unlink, path)

    async def sweep(self, valid: Sequence[str]) -> None:
        """Give back what containers hold that are not in ``valid``."""
        known = frozenset(valid)
        for name in await offload("proc", _names, self._claims):
            if name not in known and not name.endswith(".tmp"):
                log.info("Giving CPUs of an ended container back", id=name)
                await self.restore(name)

    def _held(self, kind: str, but: str) -> frozenset[int]:
        """CPUs that the claims of other containers hold."""
        held: frozenset[int] = frozenset()
        for name in _names(self._claims):
            if name != but and not name.endswith(".tmp"):
                claim = _read(f"{self._claims}/{name}")
                held |= claim[kind] if claim is not None else frozenset()
        return held


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Have something done whose half is worse than either end, also when the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _read(path: str) -> Mapping[str, frozenset[int]] | None:
    """A claim; None when it is not there. One that is damaged holds nothing."""
    try:
        document = json.loads(read_text(path))
        return {kind: parse_cpus(document[kind]) for kind in KINDS}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        log.warning("Claim of CPUs is unreadable", path=path, error=str(e))
        return dict.fromkeys(KINDS, frozenset())
