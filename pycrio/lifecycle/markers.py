"""Version files and the clean-shutdown marker, and the wiping that they decide (facts: cli.md section 14)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil

from pycrio import wiring
from pycrio._native import mounts
from pycrio._native.files import replace_file
from pycrio._native.pools import offload
from pycrio.commands import version
from pycrio.config.values import Config
from pycrio.drivers.layers.store import Store
from pycrio.errors import InUse, NotFound, PycrioError, StoreFailure
from pycrio.flows import recover
from pycrio.flows.node_state import Node
from pycrio.flows.pods import remove as remove_pod
from pycrio.model.ids import is_id
from pycrio.obs import log as obslog

log = obslog.get("markers")
WIPE_DONE = "/run/crio/crio-wipe-done"
_OCTAL = re.compile(rb"\\([0-7]{3})")
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.")


def current() -> str:
    """The version that goes into version files."""
    return str(version.facts(False)["version"])


def changed(path: str, now: str) -> bool:
    """True when the file is absent, unreadable or of another major or minor version; never for an unset path."""
    if not path:
        return False
    try:
        with open(path, encoding="utf-8") as f:
            text = f.read(4096)
    except (OSError, UnicodeDecodeError):
        return True
    try:
        old = json.loads(text)
    except ValueError:
        old = text
    a, b = _NUMBERS.match(str(old).strip()), _NUMBERS.match(now)
    return a is None or b is None or a.groups() != b.groups()


def unclean(config: Config) -> bool:
    """True when an earlier run promised a marker and did not leave it."""
    path = config.text("crio.clean_shutdown_file")
    return bool(path) and os.path.exists(f"{path}.supported") and not os.path.exists(path)


async def at_start(config: Config, node: Node) -> None:
    """Wipe what an upgrade or a reboot made meaningless, then write the version files and take the marker away."""
    now = current()
    containers = changed(config.text("crio.version_file"), now)
    images = changed(config.text("crio.version_file_persist"), now)
    if config.flag("crio.internal_wipe") and (containers or images):
        await _wipe_inside(node, images)
    await offload("store", _begin, config, now)


async def _wipe_inside(node: Node, images: bool) -> None:
    used = {c.image_id for c in node.containers} | mounted(node)
    for pod in node.pods:
        log.info("Wiping pod sandbox of an earlier boot or version", id=pod.id)
        try:
            await remove_pod.remove(node, pod.id, None)
        except PycrioError as e:
            log.warning("Pod sandbox not wiped, going on", id=pod.id, error=str(e))
    if not images:
        return
    used |= {entry.image_id for entry in await node.host.rootfs.entries()}
    await recover.collect_garbage(node)
    for image_id in sorted(filter(is_id, used)):
        try:
            await node.host.images.remove(image_id)
            await node.host.artifacts.remove(image_id)
        except NotFound:
            continue
        except PycrioError as e:
            log.warning("Image not wiped, going on", id=image_id, error=str(e))


def mounted(node: Node) -> set[str]:
    """Images and artifacts that containers have as mounts."""
    return {m.image.image_ref for c in node.containers for m in c.mounts if m.image is not None}


def _begin(config: Config, now: str) -> None:
    for path in (config.text("crio.version_file"), config.text("crio.version_file_persist")):
        if path:
            _write(path, json.dumps(now))
    path = config.text("crio.clean_shutdown_file")
    if path:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        _write(f"{path}.supported", "")
        _sync_directory(os.path.dirname(path))


async def at_end(config: Config) -> None:
    """After a graceful end: the store reaches the disk, then the marker says so."""
    path = config.text("crio.clean_shutdown_file")
    if path:
        await offload("store", _finish, path)


def _finish(path: str) -> None:
    os.sync()  # syncfs of the store's file system would do, but Python has no such call
    _write(path, "")
    _sync_directory(os.path.dirname(path))


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    replace_file(path, text.encode(), f"{path}.tmp", mode=0o644, durable=True)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


async def wipe(config: Config, force: bool) -> int:
    """``pycrio wipe``; the exit code. Failures with single objects are logged and do not count."""
    now = current()
    containers = force or changed(config.text("crio.version_file"), now)
    images = force or changed(config.text("crio.version_file_persist"), now)
    if containers and unclean(config):
        return await offload("store", _wipe_directory, config.text("crio.root"))
    if config.flag("crio.internal_wipe") and not force:
        log.info("The daemon wipes by itself at its start (internal_wipe), nothing to do")
        return 0
    if not containers:
        log.info("Version and boot are unchanged, nothing to wipe")
        return 0
    parts = await wiring.build(config, now)
    await parts.store.open()
    try:
        node = Node(parts.host, os.path.join(config.text("crio.runroot"), "pycrio", "state"))
        node.containers.load()
        used = mounted(node)
        for entry in await parts.host.rootfs.entries():
            used.add(entry.image_id)
            try:
                await parts.host.rootfs.remove(entry.id)
                log.info("Deleted container", id=entry.id)
            except PycrioError as e:
                log.error("Container not deleted, going on", id=entry.id, error=str(e))
        for image_id in sorted(filter(is_id, used)) if images else ():
            try:
                await parts.host.images.remove(image_id)
                await parts.host.artifacts.remove(image_id)
                log.info("Deleted image", id=image_id)
            except PycrioError as e:
                log.error("Image not deleted, going on", id=image_id, error=str(e))
    finally:
        await parts.store.close()
    return 0


def _wipe_directory(root: str) -> int:
    """After an unclean shutdown nothing in the store can be trusted: all of it goes, once per boot."""
    if os.path.exists(WIPE_DONE):
        log.info("The store was wiped since the last boot already")
        return 0
    try:
        remove_store(root)
    except PycrioError as e:
        log.error("Store not wiped", error=str(e))
        return 1
    _write(WIPE_DONE, "done")
    log.info("Wiped the store after an unclean shutdown", root=root)
    return 0


def remove_store(root: str, force: bool = False) -> None:
    """Delete everything below a store's directory; the directory itself, which may be a mount point, stays.

    InUse while root file systems of containers are mounted, unless ``force``. StoreFailure when something resists.
    """
    points = _mounted_below(root)
    running = [p for p in points if p.endswith("/merged")]
    if running and not force:
        raise InUse(f"the store {root} is in use by {len(running)} running containers: stop them first")
    try:
        for point in points:
            mounts.umount(point)
        for name in os.listdir(root) if os.path.isdir(root) else ():
            path = os.path.join(root, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
    except OSError as e:
        raise StoreFailure(f"the store {root} cannot be removed: {e}") from e


def _mounted_below(root: str) -> list[str]:
    """Mount points below a directory, deepest and latest first (man 5 proc, mountinfo)."""
    inside = os.path.realpath(root).rstrip("/") + "/"
    with open("/proc/self/mountinfo", "rb") as f:
        points = [os.fsdecode(_OCTAL.sub(lambda m: bytes([int(m[1], 8)]), line.split()[4])) for line in f]
    return sorted((p for p in reversed(points) if p.startswith(inside)), key=lambda p: -p.count("/"))


async def repair_store(config: Config, store: Store) -> None:
    """After an unclean end, with ``internal_repair``: look at the store and repair it; what cannot be repaired is not
    worth keeping, since everything in it can be had again."""
    if not (unclean(config) and config.flag("crio.internal_repair")):
        return
    log.info("The last run did not end cleanly, looking for damage in the store")
    report = await store.checker.check(quick=True, digests=False)
    if not report.damages:
        return
    for damage in report.damages:
        log.warning("Damage found", kind=damage.kind, id=damage.id, reason=damage.reason)
    try:
        left = await store.checker.repair(report, force=True, digests=False)
    except PycrioError as e:
        log.error("The store cannot be repaired", error=str(e))
    else:
        if not any(left.counts()[kind] for kind in ("layer", "image", "container")):
            log.info("The store is repaired")
            return
    try:
        await offload("store", remove_store, config.text("crio.root"))
    except InUse as e:
        log.error("The store stays damaged", error=str(e))
        return
    log.warning("Removed the store, because it could not be repaired", root=config.text("crio.root"))
    await store.open()
