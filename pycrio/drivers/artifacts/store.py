"""The Artifacts port: an image layout at ``<root>/artifacts``, and read-only ones of additional stores before it.

Order of writes, so that a crash at any point leaves the old or the new state and garbage that the next start removes:
staged blobs reach the disk, are renamed into the layout, then the index names their manifest; a removal takes the
manifest out of the index before the blobs go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pycrio._native.files import read_file
from pycrio._native.pools import offload, submit
from pycrio.drivers.artifacts import blobs, layout
from pycrio.drivers.artifacts.settings import Settings
from pycrio.errors import Ambiguous, BadImage, Denied, StoreFailure
from pycrio.model.image import Artifact, ArtifactFile, ImageConfig, LayerDescriptor, RemoteImage, StoredImage
from pycrio.obs import log as obslog

log = obslog.get("artifacts")
T = TypeVar("T")
STAGING = ".staging"
_TEMPORARY = ("index.json.tmp-", f"{layout.VERSION_FILE}.tmp-")
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _View:
    """What the layouts hold, as of their indexes' ``stamps``."""

    stamps: tuple[Stamp | None, ...]
    artifacts: tuple[Artifact, ...]
    own: frozenset[str]


class Artifacts:
    """Artifacts of one node. Nothing is made on disk before the first one is pulled."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = f"{settings.root}/artifacts"
        self._homes = (*(f"{root}/artifacts" for root in settings.additional), self._home)
        self._turn = asyncio.Lock()  # so that of the pool's threads at most one waits for another program's lock
        self._view: _View | None = None
        self._staged: dict[str, tuple[str, str]] = {}  # token → file, digest

    # --- reading ---

    async def all(self) -> Sequence[Artifact]:
        """Every artifact, each digest once. The same objects come back while nothing changes."""
        return (await self._current()).artifacts

    async def find(self, names: Sequence[str], ident: str) -> Artifact | None:
        """By the first of the full names that is known, else by digest or a unique prefix of it. Ambiguous when the
        prefix fits several."""
        known = (await self._current()).artifacts
        for name in names:
            digest = name.partition("@")[2]
            for artifact in known:
                if name in artifact.image.names or (digest and digest in artifact.image.digests):
                    return artifact
        fitting = [a for a in known if a.image.id.startswith(ident)] if ident else []
        if len(fitting) > 1:
            raise Ambiguous("artifact", ident)
        return fitting[0] if fitting else None

    async def present(self, digests: Sequence[str]) -> frozenset[str]:
        """Those of the blobs that our own layout holds."""
        return await offload("store", self._present, tuple(digests))

    def _present(self, digests: Sequence[str]) -> frozenset[str]:
        return frozenset(d for d in digests if os.path.exists(self._path(d)))

    async def document(self, digest: str) -> bytes | None:
        """A manifest or config of any artifact by its digest; None when no layout has it. Not verified."""
        if not any(map(_stamp, self._homes)):
            return None
        return await offload("store", self._document, digest)

    def _document(self, digest: str) -> bytes | None:
        for home in self._homes:
            with contextlib.suppress(StoreFailure, BadImage):
                return self._read(home, digest)
        return None

    async def _current(self) -> _View:
        stamps = tuple(map(_stamp, self._homes))
        if self._view is None or self._view.stamps != stamps:
            self._view = await offload("store", self._load, stamps)
        return self._view

    def _load(self, stamps: tuple[Stamp | None, ...]) -> _View:
        found: dict[str, Artifact] = {}
        own: frozenset[str] = frozenset()
        for home in self._homes:
            try:
                entries = self._entries(home)
            except (StoreFailure, BadImage) as e:
                log.warning("Artifact store cannot be read, its artifacts are left out", path=home, error=str(e))
                continue
            for entry in entries:
                self._add(found, home, entry)
            if home == self._home:
                own = frozenset(entry.id for entry in entries)
        before = {a.image.id: a for a in self._view.artifacts} if self._view else {}
        # The same object for the same content: callers may cache by identity.
        kept = (before[a.image.id] if before.get(a.image.id) == a else a for a in found.values())
        return _View(stamps, tuple(kept), own)

    def _add(self, found: dict[str, Artifact], home: str, entry: layout.Entry) -> None:
        known = found.get(entry.id)
        if known is not None:
            if entry.name and entry.name not in known.image.names:
                found[entry.id] = replace(known, image=replace(known.image, names=(*known.image.names, entry.name)))
            return
        try:
            content = layout.parse_manifest(self._read(home, entry.digest))
        except (StoreFailure, BadImage) as e:
            log.warning("Artifact cannot be read, left out", path=home, digest=entry.digest, error=str(e))
            return
        image = StoredImage(
            id=entry.id,
            names=(entry.name,) if entry.name else (),
            digests=(entry.digest,),
            layer="",
            size=sum(size for _, size, _ in content.blobs),
            created=0,
            config=ImageConfig(),
            annotations=content.annotations,
            read_only=home != self._home,
            artifact=True,
        )
        files = (ArtifactFile(name, f"{home}/{layout.blob_path(d)}", d, size) for d, size, name in content.blobs)
        found[entry.id] = Artifact(image, content.type, tuple(files))

    def _entries(self, home: str) -> tuple[layout.Entry, ...]:
        try:
            return layout.parse_index(read_file(f"{home}/index.json", self._settings.index_limit))
        except FileNotFoundError:
            return ()
        except OSError as e:
            raise blobs.failure(e, f"reading {home}/index.json") from e

    def _read(self, home: str, digest: str) -> bytes:
        path = f"{home}/{layout.blob_path(digest)}"
        try:
            return read_file(path, self._settings.manifest_limit)
        except OSError as e:
            raise blobs.failure(e, f"reading {path}") from e

    def _path(self, digest: str) -> str:
        return f"{self._home}/{layout.blob_path(digest)}"

    # --- writing ---

    async def receive(self, layer: LayerDescriptor, source_fd: int) -> str:
        """Stage a blob from a pipe while it arrives; see the port. The descriptor stays the caller's."""
        token = secrets.token_hex(8)
        path = f"{self._home}/{STAGING}/{token}"
        cancel_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            future = submit("unpack", blobs.receive, layer, source_fd, path, cancel_fd)
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError:
                os.eventfd_write(cancel_fd, 1)
                # The thread uses descriptors of ours and of the caller: its end is waited for, however often we are
                # told to hurry; what it reports does not matter any more.
                while not future.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait({future})
                if not future.cancelled() and future.exception() is None:
                    await _unlink(path)
                raise
        except OSError as e:
            raise blobs.failure(e, f"writing blob {layer.digest}") from e
        finally:
            os.close(cancel_fd)
        self._staged[token] = (path, layer.digest)
        return token

    async def discard(self, staged: str) -> None:
        """Drop a staged blob; fine when it is part of the store by now."""
        found = self._staged.pop(staged, None)
        if found is not None:
            await _unlink(found[0])

    async def record(self, image: RemoteImage, staged: Sequence[str]) -> Artifact:
        """Make blobs, config and manifest part of our layout. StoreFailure when a blob that was there is gone."""
        arrived = [self._staged[token] for token in staged]
        await self._change(lambda: self._record(image, arrived))
        for token in staged:
            self._staged.pop(token, None)
        found = await self.find((), image.manifest_digest.partition(":")[2])
        if found is None:
            raise StoreFailure(f"artifact {image.name} was removed while it was pulled: pull it again")
        return found

    def _record(self, image: RemoteImage, arrived: Sequence[tuple[str, str]]) -> None:
        entries = self._entries(self._home)
        for path, digest in arrived:
            target = self._path(digest)
            os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
            os.rename(path, target)
        for digest, data in ((image.config_digest, image.config), (image.manifest_digest, image.manifest)):
            path = self._path(digest)
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            if not os.path.exists(path):
                blobs.replace_small(path, data)
        lost = [layer.digest for layer in image.layers if not os.path.exists(self._path(layer.digest))]
        if lost:
            raise StoreFailure(f"artifact {image.name}: blob {lost[0]} was removed while it was pulled: pull it again")
        new = layout.Entry(image.manifest_digest, len(image.manifest), image.manifest_type, image.name)
        if image.artifact_type:
            new = replace(new, other={"artifactType": image.artifact_type})
        self._save(layout.with_entry(entries, new))

    async def remove(self, ident: str, name: str = "") -> None:
        """Delete an artifact with the blobs that no other needs, or only one of its names. Denied for those of
        additional stores."""
        view = await self._current()
        if ident in view.own:
            await self._change(lambda: self._remove(ident, name))
        elif any(a.image.id == ident for a in view.artifacts):
            raise Denied(f"artifact {ident} belongs to an additional artifact store, which is read-only for us")

    def _remove(self, ident: str, name: str) -> None:
        entries = self._entries(self._home)
        left = layout.without(entries, ident, name)
        if len(left) == len(entries):
            return
        self._save(left)
        if any(entry.id == ident for entry in left):
            return
        try:
            kept = self._kept(left)
        except (StoreFailure, BadImage) as e:
            log.warning("An artifact cannot be read, so blobs of a removed one stay", id=ident, error=str(e))
            return
        digest = next(entry.digest for entry in entries if entry.id == ident)
        with contextlib.suppress(StoreFailure, BadImage):  # damaged: the next start's sweep finds what it left
            for blob in layout.parse_manifest(self._read(self._home, digest)).kept - kept:
                _remove_file(self._path(blob))
        if digest not in kept:
            _remove_file(self._path(digest))

    def _kept(self, entries: Sequence[layout.Entry]) -> frozenset[str]:
        """Every digest that manifests of the index need. BadImage, StoreFailure when that cannot be told."""
        found = {entry.digest for entry in entries}
        for digest in tuple(found):
            found |= layout.parse_manifest(self._read(self._home, digest)).kept
        return frozenset(found)

    async def garbage(self) -> int:
        """Remove staged blobs and blobs that no manifest of the index needs; number of files removed. For the start of
        the daemon, before anything is pulled."""
        if not await offload("store", os.path.isdir, self._home):
            return 0
        return await self._change(self._garbage)

    def _garbage(self) -> int:
        removed = _sweep(f"{self._home}/{STAGING}", frozenset())
        removed += _sweep(self._home, frozenset(n for n in _names(self._home) if not n.startswith(_TEMPORARY)))
        try:
            kept = self._kept(self._entries(self._home))
        except (StoreFailure, BadImage) as e:
            log.warning("An artifact cannot be read, so no blob is removed", error=str(e))
            return removed
        for algorithm in _names(f"{self._home}/blobs"):
            prefix = f"{algorithm}:"
            needed = frozenset(d.removeprefix(prefix) for d in kept if d.startswith(prefix))
            removed += _sweep(f"{self._home}/blobs/{algorithm}", needed)
        return removed

    def _save(self, entries: Sequence[layout.Entry]) -> None:
        version = f"{self._home}/{layout.VERSION_FILE}"
        if not os.path.exists(version):
            blobs.replace_small(version, layout.VERSION)
        blobs.replace_small(f"{self._home}/index.json", layout.render_index(entries))

    async def _change(self, work: Callable[[], T]) -> T:
        """Run a change in a pool, alone."""

        def alone() -> T:
            os.makedirs(self._home, 0o755, exist_ok=True)
            with blobs.locked(f"{self._home}/index.lock"):
                return work()

        async with self._turn:
            try:
                return await offload("store", alone)
            except OSError as e:
                raise blobs.failure(e, "a change") from e


def _stamp(home: str) -> Stamp | None:
    """What changes when a layout's index is replaced."""
    try:
        found = os.stat(f"{home}/index.json")
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _remove_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


async def _unlink(path: str) -> None:
    try:
        await offload("store", _remove_file, path)
    except OSError as e:
        raise blobs.failure(e, f"removing {path}") from e


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def _sweep(directory: str, needed: frozenset[str]) -> int:
    """Remove every file but the needed ones; how many."""
    doomed = [name for name in _names(directory) if name not in needed]
    for name in doomed:
        os.unlink(f"{directory}/{name}")
    return len(doomed)
