"""The image and container store: format-compatible with containers/storage, overlay driver (facts: store.md)."""

from __future__ import annotations

from pycrio.drivers.layers import hold
from pycrio.drivers.layers.changes import Changes
from pycrio.drivers.layers.check import Checker
from pycrio.drivers.layers.files import make_dir
from pycrio.drivers.layers.images import Images
from pycrio.drivers.layers.index import Index
from pycrio.drivers.layers.locks import LockFile
from pycrio.drivers.layers.mounting import Kernel, Mounter, native_kernel
from pycrio.drivers.layers.overlay import Overlay
from pycrio.drivers.layers.recover import collect
from pycrio.drivers.layers.removal import Trash
from pycrio.drivers.layers.reserve import Reserve
from pycrio.drivers.layers.rootfs import Rootfs
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.turn import Turn
from pycrio.drivers.layers.unpack import Layers
from pycrio.drivers.layers.usage import Usage
from pycrio.errors import StoreFailure
from pycrio.obs import log as obslog

log = obslog.get("store")


class Store:
    """One store. ``images``, ``layers``, ``rootfs`` and ``changes`` satisfy the ports of these names, ``checker``
    verifies and repairs.

    Usable between ``open`` and ``close``. Other programs may use the same directories all the while.
    """

    def __init__(self, settings: Settings, kernel: Kernel | None = None) -> None:
        self.settings = settings
        self._index = Index(settings)
        self._overlay = Overlay(settings)
        self._mounter = Mounter(settings, self._overlay, kernel or native_kernel())
        self._lock = LockFile(f"{settings.root}/storage.lock")
        self._reserve = Reserve(f"{settings.root}/.pycrio-reserve")
        turn = Turn(lambda: Trash(settings), self._reserve)
        usage = Usage(settings, self._overlay)
        self._turn = turn
        self.layers = Layers(settings, self._index, self._overlay, self._mounter, turn)
        self.images = Images(settings, self._index, self._overlay, self._mounter, usage, turn)
        self.rootfs = Rootfs(settings, self._index, self._overlay, self._mounter, usage, turn)
        self.changes = Changes(self._index, self._overlay, self._mounter)
        self.checker = Checker(settings, self._index, self._overlay, self.rootfs, turn)

    async def open(self) -> int:
        """Make the directories, repair what a crash left, load the lists; number of things that were removed.

        StoreFailure when the directories cannot be used or a list is damaged.
        """
        return await self._turn.run(self._open)

    def _open(self, trash: Trash) -> int:
        s = self.settings
        try:
            for path in (s.root, s.run_root, s.images_root):
                make_dir(path, 0o700)
            for path in (s.layers_dir, s.images_dir, s.containers_dir, s.run_layers_dir, s.run_containers_dir):
                make_dir(path)
            if s.image_store:
                make_dir(f"{s.image_store}/overlay-layers")
            for name in ("overlay", "overlay-locks"):
                make_dir(f"{s.run_root}/{name}")
            with self._lock.write():
                self._overlay.prepare()
            self._index.drop_unusable()
            removed = collect(s, self._index, self._overlay, self._mounter, trash)
            self._index.view()
            self._reserve.fill()
            return removed
        except OSError as e:
            raise StoreFailure(f"the store at {s.root!r} cannot be opened: {e}") from e

    async def close(self) -> None:
        """Drop staged layers and let go of everything. Mounted containers stay mounted."""
        await self.layers.discard_all()
        await self._turn.finish(self._close)

    def _close(self, trash: Trash) -> None:
        try:
            # As every program does that shuts a store down: the bind mount goes unless something is mounted below, or
            # somebody is at work with the store right now.
            with self._index.layers.try_edit() as layers, self._index.mounts.try_edit() as mounts:
                if layers is None or mounts is None:
                    return
                if hold.release(layers, mounts, self._overlay, self._mounter, trash):
                    self._mounter.release_home()
        except (OSError, StoreFailure) as e:
            log.warning("Mount point of the store is left as it is", error=str(e))
        finally:
            self._index.close()
            self._lock.close()
