"""Checkpoint images by CRIU through the OCI runtime, and the archives that they travel in.

An archive is an uncompressed tar with the members of MEMBERS; other engines and checkpointctl write and read the same.
What is read may come from anywhere: nothing but plain files of these names is taken out of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pycrio._native.base import NativeError
from pycrio._native.pools import offload, submit
from pycrio._native.run import Completed, run
from pycrio.drivers.runtime import archive
from pycrio.drivers.runtime.cli import Runtime, missing, said, traced
from pycrio.errors import RuntimeFailure
from pycrio.model.node import Handler
from pycrio.model.requests import CaptureRequest
from pycrio.obs import log as obslog

log = obslog.get("checkpoint")
CHECK_TIMEOUT = 30.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """``enabled``: the configuration allows checkpoints. ``criu`` is searched along PATH, as the runtimes do it."""

    enabled: bool = True
    criu: str = "criu"


class Checkpoints:
    """See ``flows.ports.Checkpoints``."""

    def __init__(self, settings: Settings, runtime: Runtime) -> None:
        self.settings = settings
        self._runtime = runtime
        self._criu: dict[tuple[str, int, int], str] = {}
        self._able: dict[tuple[str, int, int], str] = {}
        self._asking = asyncio.Lock()

    # --- can it be done -------------------------------------------------------------------------------------------

    async def available(self, handler: Handler) -> str:
        """Empty when usable, else the reason why not. Programs are asked once for each version of their file."""
        if not self.settings.enabled:
            return "crio.checkpoint_restore.container_level_enabled is none"
        if handler.type == "vm":
            return f"handler {handler.name!r} is of type vm: what runs in a shim cannot be checkpointed"
        criu = shutil.which(self.settings.criu)
        if criu is None:
            return f"the program {self.settings.criu} is not installed"
        async with self._asking:
            able = await _remembered(self._able, handler.path, lambda: _runtime_fault(handler))
            return able or await _remembered(self._criu, criu, lambda: _criu_fault(criu))

    # --- the runtime's part ---------------------------------------------------------------------------------------

    async def capture(self, request: CaptureRequest) -> None:
        """Write the checkpoint of a paused container and what belongs to it below ``request.directory``.

        The runtime is never interrupted: CRIU works inside the container's processes, and killed half-way it would
        leave them broken. A cancelled caller waits for its end. RuntimeFailure carries what CRIU complained of.
        """
        await _to_its_end(asyncio.ensure_future(self._dump(request)))
        await _to_its_end(submit("unpack", _accompany, request))

    async def _dump(self, request: CaptureRequest) -> None:
        images = f"{request.directory}/{archive.IMAGES}"
        words = ["checkpoint", "--file-locks", "--image-path", images, "--work-path", request.directory]
        words += ["--leave-running", request.container_id]
        await offload("unpack", os.mkdir, images, 0o700)
        try:
            with traced(request.handler, "checkpoint"):
                done = await run(self._runtime.command(request.handler, *words), cap=1 << 20)
        except NativeError as e:
            raise missing(request.handler, e) from e
        if done.code != 0:
            fault = await offload("unpack", complaints, f"{request.directory}/dump.log")
            raise RuntimeFailure(
                f"{os.path.basename(request.handler.path)} checkpoint {request.container_id}: {said(done.stderr)}"
                + (f" ({fault})" if fault else "")
            )

    # --- archives -------------------------------------------------------------------------------------------------

    async def pack(self, directory: str, target: str) -> None:
        """Make an archive (mode 0600) of a captured directory; ``target`` appears complete or not at all.

        InvalidRequest when the path cannot be one, Exhausted when space runs out, StoreFailure otherwise.
        """
        await _to_its_end(submit("unpack", archive.pack, directory, target))

    async def documents(self, source: str, names: Sequence[str]) -> Mapping[str, bytes]:
        """Those of the named small members that an archive, or a directory with the same content, has.

        BadImage when it is neither.
        """
        return await _to_its_end(submit("unpack", archive.documents, source, tuple(names)))

    async def unpack(self, source: str, directory: str, log_path: str) -> None:
        """Take an archive, or a directory with the same content, apart below a new directory (mode 0700); its log
        becomes ``log_path`` unless there is one.

        BadImage when it is damaged or holds no checkpoint. After a failure the directory may hold a part of it.
        """
        await _to_its_end(submit("unpack", archive.unpack, source, directory, log_path))


async def _to_its_end(future: asyncio.Future[T]) -> T:
    """The result; a cancelled caller waits for the end of the work, so that it can clean up behind it."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # the cancellation is what counts
        raise


async def _remembered(known: dict[tuple[str, int, int], str], program: str, ask: Callable[[], Awaitable[str]]) -> str:
    try:
        info = await offload("proc", os.stat, program)
    except OSError as e:
        return f"{program}: {e.strerror}"
    key = (program, info.st_mtime_ns, info.st_size)
    if key not in known:
        known[key] = await ask()
    return known[key]


async def _runtime_fault(handler: Handler) -> str:
    """Runtimes built without CRIU do not know the verb."""
    done = await _ask([handler.path, "checkpoint", "--help"])
    if isinstance(done, str):
        return done
    return "" if done.code == 0 else f"the OCI runtime {handler.path} cannot checkpoint: {said(done.stderr)}"


async def _criu_fault(criu: str) -> str:
    """``criu check`` tells whether this kernel has all that a dump needs."""
    done = await _ask([criu, "check"])
    if isinstance(done, str):
        return done
    if done.code == 0:
        return ""
    lines = [" ".join(line.split()) for line in (done.stderr + done.stdout).decode("utf-8", "replace").splitlines()]
    errors = [line for line in lines if "Error" in line] or [line for line in lines if line]
    return "criu check: " + ("; ".join(errors)[:1000] or f"exit code {done.code}")


async def _ask(command: list[str]) -> Completed | str:
    try:
        done = await run(command, timeout=CHECK_TIMEOUT, cap=1 << 18)
    except NativeError as e:
        return f"{command[0]} cannot be executed: {e.strerror}"
    return f"{' '.join(command)} did not end within {CHECK_TIMEOUT:.0f} s" if done.timed_out else done


def complaints(path: str) -> str:
    """The last errors of a CRIU log."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - (1 << 20)))
            text = f.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    lines = [" ".join(line.split()) for line in text.splitlines() if "Error (" in line]
    return "; ".join(lines[-3:])[:1000]


def _accompany(request: CaptureRequest) -> None:
    """The log as it is now, and what the bind mounts' sources are."""
    if request.log_path:
        try:
            shutil.copyfile(request.log_path, f"{request.directory}/{archive.LOG}")
        except FileNotFoundError:
            log.debug("Container has no log to keep", id=request.container_id)
        except OSError as e:
            raise archive.translated(e, "copied", request.log_path) from e
    found = []
    for source, destination in request.binds:
        try:
            info = os.stat(source)
        except OSError as e:
            log.warning("Source of a bind mount is gone, left out", source=source, error=str(e))
            continue
        kind = "directory" if os.path.isdir(source) else "file"
        mode = info.st_mode & 0o7777
        found.append({"source": source, "destination": destination, "file_type": kind, "permissions": mode})
    archive.write(request.directory, archive.BINDS, json.dumps(found).encode("utf-8", "surrogateescape"))
