"""The Layers port: blobs become staged directories while they arrive, staged directories become layers.

Staging happens without any store lock, in places (``files.Place``) that other programs respect while their lock is
held and remove after a crash. The directory lies in the driver's home and the tar-split file beside the layer
records, because a rename must not cross the mount point that the home may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pycrio._native.pools import offload, submit
from pycrio.drivers.layers import decrypt
from pycrio.drivers.layers.files import Place, rename
from pycrio.drivers.layers.index import Index, View, chain_ids
from pycrio.drivers.layers.mounting import Mounter
from pycrio.drivers.layers.overlay import Overlay, sync_filesystem
from pycrio.drivers.layers.records import COMPRESSION, LayerRecord, format_time
from pycrio.drivers.layers.recover import collect, sweep
from pycrio.drivers.layers.removal import Trash, delete_layers
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.turn import Turn, guarded, look, settle
from pycrio.errors import BadImage, Exhausted, NotFound, Overtaken, StoreFailure, Unsupported
from pycrio.model.image import LayerDescriptor, UnpackedLayer
from pycrio.obs import log as obslog

if TYPE_CHECKING:
    from pycrio.drivers.layers.apart import Groups

log = obslog.get("store")

_SPLIT = "tar-split.gz"
MALFORMED = {  # what the errors of the extractor say of a stream
    errno.EBADMSG: "is malformed",
    errno.EFBIG: "is larger than allowed",
    errno.E2BIG: "holds more than allowed",
    errno.ENAMETOOLONG: "has a path that is too long",
    errno.EPERM: "has an entry that leads out of the layer",
    errno.EXDEV: "has an entry that leads out of the layer",
    errno.ELOOP: "has an entry behind a loop of links",
    errno.EINVAL: "is malformed",
    errno.ENOTDIR: "has an entry below something that is not a directory",
    errno.EISDIR: "has an entry in the place of a directory",
    errno.EOPNOTSUPP: "has an entry that this file system cannot hold",
}


class Extracted(Protocol):
    """What ``pycrio._native.untar.extract`` reports."""

    @property
    def compressed_digest(self) -> str:
        """Digest of the blob."""

    @property
    def compressed_size(self) -> int:
        """Bytes of the blob."""

    @property
    def diff_id(self) -> str:
        """Digest of the uncompressed archive."""

    @property
    def diff_size(self) -> int:
        """Bytes of the uncompressed archive."""

    @property
    def compression(self) -> str:
        """A key of COMPRESSION."""

    @property
    def entries(self) -> int:
        """Members of the archive."""

    @property
    def uids(self) -> Sequence[int]:
        """Owners in the archive."""

    @property
    def gids(self) -> Sequence[int]:
        """Groups in the archive."""

    @property
    def split_complete(self) -> bool:
        """False when the archive cannot be rebuilt from the tar-split data."""


class Extract(Protocol):
    """``pycrio._native.untar.extract``."""

    def __call__(
        self,
        src_fd: int,
        target_dir_fd: int,
        *,
        split_fd: int = -1,
        keep_root: bool = False,
        limits: Mapping[str, int] | None = None,
        cancel_fd: int = -1,
    ) -> Extracted:
        """Extract a stream into a directory."""


Work = Callable[[int, int], Extracted]  # with the descriptors of blob and cancellation


def _native_extract() -> Extract:
    from pycrio._native.untar import extract

    return extract


@dataclass(slots=True)
class Staged:
    """A layer in its staging places, and what else is known of it."""

    content: Place
    split: Place
    compression: str = ""

    def remove(self) -> None:
        """Delete what is still there."""
        try:
            self.content.remove()
        finally:
            self.split.remove()


class Layers:
    """Read-only layers of images (port ``Layers``)."""

    def __init__(self, settings: Settings, index: Index, overlay: Overlay, mounter: Mounter, turn: Turn) -> None:
        self._settings = settings
        self._index = index
        self._overlay = overlay
        self._turn = turn
        self._mounter = mounter
        self._staged: dict[str, Staged] = {}
        self._extract: Callable[[], Extract] = _native_extract
        self.keys = settings.decryption_keys  # a directory; another one after a reload
        self.groups: Groups | None = None  # where processes of their own go

    def chain_ids(self, diff_ids: Sequence[str]) -> tuple[str, ...]:
        """Layer ids for a list of diff IDs, base first."""
        return chain_ids(diff_ids)

    async def present(self, layer_ids: Sequence[str]) -> frozenset[str]:
        """Those of the ids that the store (or an additional one) holds completely."""
        view = await self._index.current()
        known = [i for i in layer_ids if view.layer(i) is not None]
        return frozenset(i for i in known if self._overlay.find(i) is not None)

    async def unpack(self, layer: LayerDescriptor, source_fd: int, group: str = "") -> UnpackedLayer:
        """Extract a blob from a pipe into a staging place while it arrives; with ``group`` in a process below that
        control group.

        BadImage when the stream is malformed or digest, size or diff ID differ from the descriptor's; nothing stays
        behind on failure or cancellation. ``source_fd`` stays the caller's, who closes it when this fails, so that
        the writer at the other end of the pipe notices.
        """
        for what, digest in (("digest", layer.digest), ("diff ID", layer.diff_id)):
            if digest and not digest.startswith("sha256:"):
                raise Unsupported(f"layer {layer.digest}: its {what} is not a sha256 digest, others cannot be verified")
        lock = await offload("store", decrypt.unlock, layer, self.keys) if decrypt.encrypted(layer) else None
        staged = await settle(submit("store", guarded, self._stage), Staged.remove)
        try:
            work = self._work(layer, staged, lock, group)
            # The blob of an encrypted layer is verified on its way; what comes out of it has a digest of its own.
            content = layer if lock is None else replace(layer, digest=lock.digest, size=-1)
            return await self._unpack(content, source_fd, staged, work)
        except BaseException:
            await settle(submit("store", guarded, staged.remove))
            raise

    def _work(self, layer: LayerDescriptor, staged: Staged, lock: decrypt.Lock | None, group: str) -> Work:
        """What a thread is to do with the blob."""
        extract = self._extract()
        if group and self.groups is not None:
            from pycrio.drivers.layers.apart import Apart  # late: few nodes want it

            extract = Apart(self.groups, group, asyncio.get_running_loop())
        plain = partial(self._run, layer, staged, extract)
        return plain if lock is None else partial(_unlocked, layer, lock, plain)

    async def _unpack(self, layer: LayerDescriptor, source_fd: int, staged: Staged, work: Work) -> UnpackedLayer:
        await _readable(source_fd)
        cancel_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            future = submit("unpack", work, source_fd, cancel_fd)
            try:
                result = await asyncio.shield(future)
            except asyncio.CancelledError:
                os.eventfd_write(cancel_fd, 1)
                # The thread uses descriptors of ours and of the caller: wait for it whatever it reports.
                with contextlib.suppress(Exception):
                    await settle(future)
                raise
        finally:
            os.close(cancel_fd)
        _verify(layer, result)
        key = secrets.token_hex(8)
        staged.compression = result.compression
        self._staged[key] = staged
        return UnpackedLayer(
            staging=key,
            digest=result.compressed_digest,
            size=result.compressed_size,
            diff_id=result.diff_id,
            diff_size=result.diff_size,
            compression=result.compression,
            uids=tuple(result.uids),
            gids=tuple(result.gids),
        )

    def _stage(self) -> Staged:
        content = Place.create(f"{self._settings.image_home}/tempdirs")
        try:
            split = Place.create(f"{self._settings.layers_dir}/tmp")
        except BaseException:
            content.remove()
            raise
        try:
            self._overlay.stage(f"{content.path}/layer")
        except BaseException:
            Staged(content, split).remove()
            raise
        return Staged(content, split)

    def _run(
        self, layer: LayerDescriptor, staged: Staged, extract: Extract, source_fd: int, cancel_fd: int
    ) -> Extracted:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        split_fd = os.open(f"{staged.split.path}/{_SPLIT}", flags, 0o600)
        try:
            dir_fd = os.open(f"{staged.content.path}/layer/diff", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # keep_root: the top directory's mode and owner are not the archive's business (see Overlay.adopt).
                result = extract(
                    source_fd,
                    dir_fd,
                    split_fd=split_fd,
                    keep_root=True,
                    limits=self._settings.limits,
                    cancel_fd=cancel_fd,
                )
            finally:
                os.close(dir_fd)
            if result.split_complete:
                os.fsync(split_fd)
            else:
                log.warning("Layer cannot be exported bit for bit, it replaces its own files", layer=layer.digest)
                # without the file, exporters make a new archive instead of failing on a rebuilt one
                os.unlink(f"{staged.split.path}/{_SPLIT}")
            return result
        except OSError as e:
            raise _translate(layer, e) from e
        finally:
            os.close(split_fd)

    async def commit(self, layer: UnpackedLayer, layer_id: str, parent: str) -> None:
        """Make a staged layer part of the store (already there: the staged copy is dropped)."""
        staged = self._staged.pop(layer.staging, None)
        if staged is None:
            raise NotFound("staged layer", layer.staging, "it was committed or discarded before")
        try:
            await self._turn.run(lambda trash: self._commit(staged, layer, layer_id, parent, trash))
        finally:
            await settle(submit("store", guarded, staged.remove))

    def _commit(self, staged: Staged, layer: UnpackedLayer, layer_id: str, parent: str, trash: Trash) -> None:
        if self._settings.sync == "filesystem":
            sync_filesystem(staged.content.path)
        with self._index.layers.edit() as edit:
            view = self._index.view()
            if view.layer(layer_id) is not None and self._overlay.find(layer_id) is not None:
                return
            if parent:
                self._require(view, parent)
            # A record without its directory, or what a crash left flagged, makes way.
            delete_layers(edit, [layer_id], self._overlay, self._settings, trash)
            for path in self._overlay.paths(layer_id):
                trash.take(path)
            record = _record(layer, layer_id, parent)
            self._index.claims.add(layer_id, layer.staging)
            edit.put(_flagged(record), self._index.image_layers_place)
            edit.save()
            try:
                with contextlib.suppress(FileNotFoundError):
                    rename(f"{staged.split.path}/{_SPLIT}", f"{self._settings.layers_dir}/{layer_id}.tar-split.gz")
                self._overlay.adopt(f"{staged.content.path}/layer", layer_id, parent)
            except BaseException:
                delete_layers(edit, [layer_id], self._overlay, self._settings, trash)
                self._index.claims.drop([layer_id])
                raise
            edit.put(record)
            edit.save()

    def _require(self, view: View, parent: str) -> None:
        if view.layer(parent) is None or self._overlay.find(parent) is None:
            raise Overtaken(f"layer {parent} was removed while the layer above it was pulled: pull the image again")

    async def discard(self, layer: UnpackedLayer) -> None:
        """Drop a staged layer. One that was committed goes as well unless an image holds on to it by now, as soon as
        no other layer is above it; one that was dropped before is fine."""
        staged = self._staged.pop(layer.staging, None)
        if staged is not None:
            await settle(submit("store", guarded, staged.remove))
        given_up = self._index.claims.give_up(layer.staging)
        if given_up:
            await self._turn.free(lambda trash: self._withdraw(given_up, trash))

    def _withdraw(self, layer_ids: frozenset[str], trash: Trash) -> None:
        with self._index.layers.edit() as edit:
            unwanted = self._index.view().removable(layer_ids)
            delete_layers(edit, unwanted, self._overlay, self._settings, trash)
            self._index.claims.drop(unwanted)

    async def discard_all(self) -> None:
        """Drop every staged layer (shutdown)."""
        while self._staged:
            _, staged = self._staged.popitem()
            await settle(submit("store", guarded, staged.remove))

    async def garbage(self) -> int:
        """Remove what crashes left (incomplete layers, staging, temporary files); number of things removed."""
        return await self._turn.run(
            lambda trash: collect(self._settings, self._index, self._overlay, self._mounter, trash)
        )

    async def sweep(self) -> int:
        """Remove staging whose pull died, of whatever program, and deleted files that could not be removed when they
        were deleted; number of things removed."""
        return await look(lambda: sweep(self._settings))


def _unlocked(layer: LayerDescriptor, lock: decrypt.Lock, work: Work, source_fd: int, cancel_fd: int) -> Extracted:
    """Have an encrypted layer extracted, and verify its blob; what comes back is about its content."""
    with decrypt.Opening(layer, lock, source_fd) as opening:
        result = work(opening.reader, cancel_fd)
        opening.verify()
    return result


async def _readable(fd: int) -> None:
    """Wait for the first byte (or the end) of a pipe or socket.

    Only then is a thread taken: if threads waited for downloads that have not begun, they could all wait for downloads
    that themselves wait for their turn behind others whose pipes nobody reads.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        loop.add_reader(fd, wake)
    except PermissionError:  # a regular file: epoll has nothing to wait for
        return
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _record(layer: UnpackedLayer, layer_id: str, parent: str) -> LayerRecord:
    return LayerRecord(
        id=layer_id,
        parent=parent,
        created=format_time(time.time_ns()),
        compressed_digest=layer.digest,
        compressed_size=layer.size,
        diff_digest=layer.diff_id,
        diff_size=layer.diff_size,
        compression=COMPRESSION[layer.compression],
        uidset=tuple(sorted(layer.uids)),
        gidset=tuple(sorted(layer.gids)),
    )


def _flagged(record: LayerRecord) -> LayerRecord:
    return LayerRecord(id=record.id, parent=record.parent, created=record.created, flags={"incomplete": True})


def _verify(layer: LayerDescriptor, result: Extracted) -> None:
    if layer.digest and result.compressed_digest != layer.digest:
        raise BadImage(
            f"layer {layer.digest}: the registry sent a blob with digest {result.compressed_digest}, "
            "it is damaged or not what the manifest names"
        )
    if layer.size >= 0 and result.compressed_size != layer.size:
        raise BadImage(f"layer {layer.digest}: the blob has {result.compressed_size} bytes, not {layer.size}")
    if layer.diff_id and result.diff_id != layer.diff_id:
        raise BadImage(
            f"layer {layer.digest}: its content has the diff ID {result.diff_id}, the image config says {layer.diff_id}"
        )


def _translate(layer: LayerDescriptor, error: OSError) -> Exception:
    """The domain's failure for an extraction that broke off."""
    where = f" at {error.filename!r}" if error.filename else ""
    step = getattr(error, "step", "")
    detail = f"{step}: {error.strerror}" if step else str(error.strerror)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Exhausted(f"layer {layer.digest}: no space left in the store{where}: free disk space or inodes")
    if error.errno in MALFORMED:
        return BadImage(f"layer {layer.digest} {MALFORMED[error.errno]}{where} ({detail})")
    return StoreFailure(f"layer {layer.digest} could not be extracted{where}: {detail}")
