"""Keep interrupts off CPUs: the kernel's default affinity, and the ban list of irqbalance (man 1 irqbalance).

irqbalance moves interrupts that are already placed; without it the kernel's default holds for those that come later.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from pycrio._native.base import NativeError
from pycrio._native.pools import offload
from pycrio._native.run import run
from pycrio.drivers.cpus import mask
from pycrio.drivers.cpus.files import read_text, replace_text, write_text
from pycrio.obs import log as obslog

log = obslog.get("cpus")
SERVICE = "irqbalance"
BANNED = "IRQBALANCE_BANNED_CPUS"
SECONDS = 30.0


class Interrupts:
    """``proc`` is where /proc is, ``config`` the configuration of irqbalance, ``backup`` the file with the ban list
    that it had before anything was changed ("" or ``disable``: never put one back)."""

    def __init__(self, proc: str, config: str, backup: str, environ: Mapping[str, str]) -> None:
        self.affinity = f"{proc}/irq/default_smp_affinity"
        self._config = config
        self._backup = "" if backup == "disable" else backup
        self._environ = environ

    def served(self) -> frozenset[int]:
        """CPUs that new interrupts may go to."""
        return mask.parse(read_text(self.affinity))[0]

    async def change(self, add: frozenset[int], remove: frozenset[int]) -> None:
        """Let CPUs serve interrupts, or no more. A kernel that refuses is an error; irqbalance is only told."""
        banned = await offload("proc", self._change, add, remove)
        if not await self._restarted():
            await self._once(banned)

    def _change(self, add: frozenset[int], remove: frozenset[int]) -> str:
        text = read_text(self.affinity)
        serving, width = mask.parse(text)
        possible = frozenset(range(width))
        wanted = (serving | (add & possible)) - remove
        write_text(self.affinity, mask.render(wanted, width))
        banned = mask.render(possible - wanted, width)
        try:
            if os.path.isfile(self._config):
                replace_text(self._config, with_ban(read_text(self._config), banned))
        except OSError:
            write_text(self.affinity, text.strip())
            raise
        return banned

    async def restore(self) -> None:
        """At the daemon's start on a freshly booted node, where every CPU serves interrupts: the ban list that
        irqbalance had at first is put back, because containers of before the boot are gone."""
        if not self._backup or not os.path.isfile(self.affinity):
            return
        if await offload("proc", self._restore):
            log.info("Put the ban list of irqbalance back", path=self._config)
            if await self._enabled():
                await self._restarted()

    def _restore(self) -> bool:
        serving, _ = mask.parse(read_text(self.affinity))
        if serving != frozenset(range(len(serving))) or not os.path.isfile(self._config):
            return False  # some are kept off, so this is no fresh boot; or there is no irqbalance
        text = read_text(self._config)
        current = ban_of(text)
        if not os.path.isfile(self._backup):
            replace_text(self._backup, current)
            return False
        first = read_text(self._backup).strip()
        if first == current:
            return False
        replace_text(self._config, with_ban(text, first))
        return True

    async def _enabled(self) -> bool:
        return (await self._run("systemctl", "is-enabled", SERVICE)).strip() == b"enabled"

    async def _restarted(self) -> bool:
        """Restart the service where there is one; True when that was enough."""
        if not os.path.isfile(self._config) or not await self._enabled():
            return False
        try:
            done = await run(["systemctl", "restart", SERVICE], timeout=SECONDS, cap=1 << 16, env=self._environ)
        except NativeError as e:
            log.warning("irqbalance not restarted", error=str(e))
            return False
        if done.code != 0:
            log.warning("irqbalance not restarted", error=done.stderr.decode("utf-8", "replace").strip())
        return done.code == 0

    async def _once(self, banned: str) -> None:
        program = shutil.which(SERVICE, path=self._environ.get("PATH"))
        if program is None:
            log.warning("No irqbalance: interrupts that are placed already stay where they are")
            return
        environ = {**self._environ, BANNED: banned}
        try:
            done = await run([program, "--oneshot"], timeout=SECONDS, cap=1 << 16, env=environ)
        except NativeError as e:
            log.warning("irqbalance did not run", error=str(e))
            return
        if done.code != 0:
            log.warning("irqbalance failed", code=done.code, error=done.stderr.decode("utf-8", "replace").strip())

    async def _run(self, *argv: str) -> bytes:
        try:
            return (await run(argv, timeout=SECONDS, cap=1 << 16, env=self._environ)).stdout
        except NativeError:
            return b""


def ban_of(text: str) -> str:
    """The ban list in a configuration of irqbalance, "" when it has none."""
    for line in text.splitlines():
        if line.startswith(f"{BANNED}="):
            return line.partition("=")[2].strip().strip('"')
    return ""


def with_ban(text: str, banned: str) -> str:
    """The configuration with another ban list."""
    line, lines = f'{BANNED}="{banned}"', text.split("\n")
    if any(old.startswith(f"{BANNED}=") for old in lines):
        return "\n".join(line if old.startswith(f"{BANNED}=") else old for old in lines)
    return text + ("" if text.endswith("\n") or not text else "\n") + line + "\n"
