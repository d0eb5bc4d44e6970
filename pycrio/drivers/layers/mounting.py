"""Mounts of layers: the store's own mount point, containers' root file systems, read-only images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, cast

from pycrio.drivers.layers.files import make_dir
from pycrio.drivers.layers.overlay import MountPlan, Overlay
from pycrio.drivers.layers.settings import Settings
from pycrio.model.security import IdMapping, IdMaps
from pycrio.obs import log as obslog

log = obslog.get("store")
IdTriple = tuple[int, int, int]


class Owner(Protocol):
    """Owner of a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""

    def close(self) -> None:
        """Close it."""


class Kernel(Protocol):
    """The part of ``pycrio._native.mounts`` and ``ns`` that the store needs (tests give their own)."""

    def overlay(
        self,
        lowers: Sequence[str],
        upper: str | None,
        work: str | None,
        target: str,
        options: Sequence[str] = (),
        *,
        classic: bool = False,
    ) -> None:
        """Mount an overlay; ``classic``: without trying the newer way first."""

    def bind(
        self,
        source: str,
        target: str,
        *,
        recursive: bool = False,
        readonly: bool = False,
        propagation: str | None = None,
        attrs: Sequence[str] = (),
    ) -> None:
        """Bind-mount."""

    def idmapped_bind(
        self, source: str, target: str, userns_fd: int, *, recursive: bool = False, readonly: bool = False
    ) -> None:
        """Bind-mount with ids shifted by a user namespace."""

    def umount(self, target: str, *, detach: bool = True) -> bool:
        """Unmount; False when it was not a mount."""

    def is_mountpoint(self, path: str) -> bool:
        """True when something is mounted on a path."""

    def probe(self, dir: str = "/", userns_fd: int = -1) -> Mapping[str, bool]:
        """What the kernel offers on the file system of a directory."""

    def hold_userns(self, uid_map: Sequence[IdTriple], gid_map: Sequence[IdTriple]) -> Owner:
        """A user namespace with these maps (container id, host id, count)."""


class NativeKernel:
    """The compiled core as a Kernel; loaded on first use."""

    def __getattr__(self, name: str) -> object:
        from pycrio._native import mounts, ns

        value: object = getattr(ns if name == "hold_userns" else mounts, name)
        setattr(self, name, value)
        return value


def native_kernel() -> Kernel:
    """The real thing."""
    return cast(Kernel, NativeKernel())


# Mounts on one path; more than one there are only by mistakes of others.
_MOST_MOUNTS = 64
_MAPPED = "mapped"  # in a layer's directory: where the homes show shifted ids while it is being mounted
# Any shift will do to ask whether shifting works.
_PROBE_MAP = ((0, 100000, 65536),)


class Mounter:
    """Mounts for the store. All calls block: only in a pool thread, and with ``layers.lock`` held where noted."""

    def __init__(self, settings: Settings, overlay: Overlay, kernel: Kernel) -> None:
        self.settings = settings
        self._overlay = overlay
        self._kernel = kernel
        self._probed: Mapping[str, bool] | None = None

    def offers(self, feature: str) -> bool:
        """Whether the kernel and the store's file system have a feature (``volatile``, ``overlay_idmap`` …)."""
        if self._probed is None:
            userns = self._kernel.hold_userns(_PROBE_MAP, _PROBE_MAP)
            try:
                self._probed = self._kernel.probe(self.settings.image_home, userns.fileno())
            finally:
                userns.close()
        return bool(self._probed.get(feature))

    def ensure_home(self) -> None:
        """Bind the home on itself, private, as every program that uses the store does when it finds it unbound.

        Done before each mount under ``layers.lock``: a peer that binds the home *after* us would hide our mounts
        below its own, and a peer that shuts the store down takes the bind away when no layer is counted as mounted.
        """
        home = self.settings.home
        if not self.settings.skip_mount_home and not self._kernel.is_mountpoint(home):
            self._kernel.bind(home, home, propagation="private")

    def release_home(self) -> None:
        """Take the bind away; call it with ``layers.lock`` held and no layer mounted."""
        if not self.settings.skip_mount_home:
            self._kernel.umount(self.settings.home)

    def is_mounted(self, path: str) -> bool:
        """True when something is mounted on the path."""
        return os.path.isdir(path) and self._kernel.is_mountpoint(path)

    def mount(self, plan: MountPlan, uid_map: tuple[IdMapping, ...] = (), gid_map: tuple[IdMapping, ...] = ()) -> None:
        """Mount a container's layer (``layers.lock`` held); with maps, what lies below shows shifted ids."""
        directory = os.path.dirname(plan.target)
        plan = self._supported(plan)
        make_dir(plan.target)
        self._overlay.clear_volatile(directory)
        if not uid_map and not gid_map:
            self._mount_overlay(plan.lowers, plan.upper, plan.work, plan.target, plan.options)
            return
        with contextlib.ExitStack() as stack:
            lowers = self._shifted(plan.lowers, f"{directory}/{_MAPPED}", (uid_map, gid_map), stack)
            self._mount_overlay(lowers, plan.upper, plan.work, plan.target, plan.options)

    def _mount_overlay(
        self, lowers: Sequence[str], upper: str | None, work: str | None, target: str, options: Sequence[str]
    ) -> None:
        """Kernels before 6.7 log every try of the newer way as an error: one such line, of the probe, is enough."""
        self._kernel.overlay(lowers, upper, work, target, options, classic=not self.offers("lowerdir_plus"))

    def _supported(self, plan: MountPlan) -> MountPlan:
        """The plan without ``metacopy=on`` where the kernel lacks it: it only saves copying."""
        if "metacopy=on" not in plan.options or self.offers("metacopy"):
            return plan
        log.warning("Mounting without metacopy, which this kernel does not have", target=plan.target)
        return replace(plan, options=tuple(o for o in plan.options if o != "metacopy=on"))

    def _shifted(
        self,
        lowers: Sequence[str],
        base: str,
        maps: IdMaps,
        stack: contextlib.ExitStack,
    ) -> list[str]:
        """The lowers as seen through an id-mapped bind of the home that each one is in; the binds go with ``stack``
        (overlay keeps its own references)."""
        uid_map, gid_map = ([(m.container_id, m.host_id, m.length) for m in part] for part in maps)
        userns = self._kernel.hold_userns(uid_map, gid_map)
        stack.callback(userns.close)
        bound: dict[str, str] = {}
        out = []
        for lower in lowers:
            home = next((h for h in self._overlay.homes if lower.startswith(f"{h}/")), None)
            if home is None:  # what only makes the number of layers up
                out.append(lower)
                continue
            if home not in bound:
                target = f"{base}/{len(bound)}"
                make_dir(target)
                stack.callback(os.rmdir, target)
                self._kernel.idmapped_bind(home, target, userns.fileno())
                stack.callback(self._kernel.umount, target)
                bound[home] = target
            out.append(bound[home] + lower[len(home) :])
        return out

    def mount_image(self, lowers: Sequence[str], target: str, label: str, maps: IdMaps = ((), ())) -> None:
        """Mount layers read-only on a directory: no devices, no set-id programs. With maps, with shifted ids where the
        kernel can: a kernel that cannot shows all files as nobody's in a user namespace, and readable as they were."""
        options = ["ro", "nodev", "nosuid"]
        if label:
            options.append(f'context="{label}"')
        for number in range(2 - len(lowers)):  # overlay without an upper directory wants two lowers
            empty = f"{self.settings.run_root}/overlay/empty{number}"
            make_dir(empty)
            lowers = [*lowers, empty]
        with contextlib.ExitStack() as stack:
            if any(maps) and self.offers("overlay_idmap"):
                base = f"{target}.{_MAPPED}"
                make_dir(base)
                stack.callback(os.rmdir, base)
                lowers = self._shifted(lowers, base, maps, stack)
            self._mount_overlay(lowers, None, None, target, options)

    def forget_shifted(self, directory: str) -> None:
        """Take away the id-mapped binds that a mount of the layer in ``directory`` was killed with."""
        base = f"{directory}/{_MAPPED}"
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(base):
                self.unmount_all(f"{base}/{name}")

    def unmount_all(self, path: str) -> bool:
        """Detach everything that is mounted on a path, however often; False when nothing was."""
        count = 0
        while count < _MOST_MOUNTS and self._kernel.umount(path):
            count += 1
        return count > 0

    def unmount(self, path: str) -> bool:
        """Detach what is mounted on a path; False when nothing was."""
        return self._kernel.umount(path)
