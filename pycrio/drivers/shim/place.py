"""The directory of one container: its bundle for the shim, the fifos, and the files that ``pycrio-task`` reads.

    facts.json              what we must know to reach the container again
    config.json, rootfs/    the bundle as shims expect it; they put files of their own beside it
    socket, service         where the shim listens, by which name it is called
    create                  the message that has it create the container
    delete                  the words of its clean-up command, each ended by NUL
    stdin, stdout, stderr   fifos, as far as the container has these
    execs/<id>/             fifos of a command that runs
    oom, deleted            marks: a process was killed for want of memory; the clean-up command has run

Some shims derive the directory's path from the id (``../<id>``), so that is its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pycrio._native import mounts
from pycrio.errors import StoreFailure

MODE = 0o700


@dataclass(frozen=True, slots=True)
class Facts:
    """``pod`` is the sandbox's id; ``version`` that of the shim's answer; ``monitored`` the bundle of the monitor;
    ``pid`` and ``start_time`` the shim's process, 0 when it has not told."""

    handler: str
    pod: str
    shim: str
    address: str
    version: int
    monitored: str
    cgroup_parent: str = ""
    pid: int = 0
    start_time: int = 0


class Place:
    """Paths and small files; all of it is on tmpfs and a few kB, so plain calls will do."""

    def __init__(self, base: str, ident: str) -> None:
        self.id = ident
        self.dir = os.path.join(base, ident)

    def path(self, *names: str) -> str:
        """A path below the directory."""
        return os.path.join(self.dir, *names)

    def exists(self, name: str = "") -> bool:
        """Whether the directory, or a file in it, is there."""
        return os.path.lexists(self.path(name) if name else self.dir)

    def make(self, config: dict[str, Any], fifos: Sequence[str]) -> None:
        """Make it anew: directory, bundle, fifos."""
        self.remove()
        os.makedirs(self.path("rootfs"), MODE)
        os.chmod(self.dir, MODE)
        self.write("config.json", json.dumps(config).encode("utf-8", "surrogateescape"))
        for name in fifos:
            os.mkfifo(self.path(name), 0o600)

    def write(self, name: str, content: bytes) -> None:
        """Write a file as a whole."""
        with open(self.path(f"{name}.new"), "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as f:
            f.write(content)
        os.replace(self.path(f"{name}.new"), self.path(name))

    def mark(self, name: str) -> None:
        """Leave a mark; a directory that is gone takes none."""
        try:
            os.close(os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except FileNotFoundError:
            return

    def put_facts(self, facts: Facts) -> None:
        """Record what there is to know."""
        self.write("facts.json", json.dumps(asdict(facts)).encode())

    def facts(self) -> Facts | None:
        """What was recorded; None when the making was cut off before. StoreFailure when it cannot be read."""
        try:
            with open(self.path("facts.json"), encoding="utf-8") as f:
                return Facts(**json.load(f))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as e:
            raise StoreFailure(f"{self.path('facts.json')} cannot be read: {e}") from e

    @contextlib.contextmanager
    def open_fifos(self) -> Iterator[None]:
        """Be the other side of the container's fifos. A shim may wait for it in the middle of a creation whose
        pycrio-task was killed, and answer nobody before."""
        held = []
        try:
            for name, flags in (("stdout", os.O_RDONLY), ("stderr", os.O_RDONLY), ("stdin", os.O_RDWR)):
                with contextlib.suppress(FileNotFoundError):
                    held.append(os.open(self.path(name), flags | os.O_NONBLOCK | os.O_CLOEXEC))
            yield
        finally:
            for fd in held:
                os.close(fd)

    def noted_address(self) -> str:
        """What a shim of runc or Kata wrote down itself where it listens; "" otherwise."""
        try:
            with open(self.path("address"), encoding="utf-8") as f:
                text = f.read(256).strip()
        except (OSError, ValueError):
            return ""
        return text if text.startswith("unix:///") else ""

    def execs(self) -> list[str]:
        """Ids of commands that have a directory."""
        try:
            return sorted(os.listdir(self.path("execs")))
        except FileNotFoundError:
            return []

    def remove(self) -> None:
        """Unmount what a shim mounted, and remove all of it. Idempotent."""
        if self.exists("rootfs"):
            while mounts.umount(self.path("rootfs")):
                pass
        shutil.rmtree(self.dir, ignore_errors=True)  # a shim may still be writing there
        if self.exists():
            shutil.rmtree(self.dir)


def places(base: str) -> Iterator[Place]:
    """Every container's."""
    for name in sorted(os.listdir(base)) if os.path.isdir(base) else ():
        if os.path.isdir(os.path.join(base, name)):
            yield Place(base, name)
