"""Checkpoint archives as files: packing, looking in, taking apart. All calls block: only in a pool thread."""

from __future__ import annotations

import contextlib
import errno
import gzip
import lzma
import os
import re
import secrets
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

from pycrio.errors import BadImage, Exhausted, InvalidRequest, PycrioError, StoreFailure

IMAGES = "checkpoint"
LOG = "io.kubernetes.cri-o.LogPath"
BINDS = "bind.mounts"
# First those that whoever looks at an archive wants to know; the images, the bulk, come last.
MEMBERS = ("config.dump", "spec.dump", BINDS, "deleted.files", "stats-dump", "dump.log", LOG, "rootfs-diff.tar")
DOCUMENT_LIMIT = 16 << 20
_IMAGE = re.compile(rf"{IMAGES}/(?!\.\.?\Z)[^/\0]+\Z")
_CHUNK = 1 << 20
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def translated(error: OSError, what: str, path: str) -> PycrioError:
    """The domain's class for a failed file operation."""
    text = f"{path} cannot be {what}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
        return Exhausted(text)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS):
        return InvalidRequest(text)
    return StoreFailure(text)


def write(directory: str, name: str, content: bytes) -> None:
    """A new file of a captured directory."""
    try:
        with open(f"{directory}/{name}", "xb", opener=_private) as f:
            f.write(content)
    except OSError as e:
        raise translated(e, "written", f"{directory}/{name}") from e


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


# --- packing ----------------------------------------------------------------------------------------------------------


def pack(directory: str, target: str) -> None:
    """Archive a captured directory. What is unfinished has no name, or goes with the failure."""
    try:
        parent = os.open(os.path.dirname(target) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise translated(e, "written", target) from e
    try:
        name = os.path.basename(target)
        if os.path.isdir(target):
            raise InvalidRequest(f"checkpoint location {target} is a directory: name a file")
        with _appearing(parent, name) as fd, open(fd, "wb", closefd=False) as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
                _fill(tar, directory)
            out.flush()
            os.fsync(fd)
        os.fsync(parent)
    except OSError as e:
        raise translated(e, "written", target) from e
    finally:
        os.close(parent)


@contextlib.contextmanager
def _appearing(parent: int, name: str) -> Iterator[int]:
    """A new file that gets its name when all went well; a file that had it before is replaced.

    Without a name until then (O_TMPFILE), so that not even a crash leaves a part; on file systems that cannot do that,
    under another name.
    """
    temporary = f".{name[:200]}.{secrets.token_hex(4)}"
    try:
        fd, named = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=parent), False
    except OSError as e:
        if e.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        fd, named = os.open(temporary, _NEW, 0o600, dir_fd=parent), True
    try:
        yield fd
        if not named:
            os.link(f"/proc/self/fd/{fd}", temporary, dst_dir_fd=parent, follow_symlinks=True)
            named = True
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        named = False
    finally:
        os.close(fd)
        if named:
            os.unlink(temporary, dir_fd=parent)


def _fill(tar: tarfile.TarFile, directory: str) -> None:
    for name in MEMBERS:
        if os.path.lexists(f"{directory}/{name}"):
            _add(tar, directory, name)
    _add(tar, directory, IMAGES)
    for name in sorted(os.listdir(f"{directory}/{IMAGES}")):
        _add(tar, directory, f"{IMAGES}/{name}")


def _add(tar: tarfile.TarFile, directory: str, name: str) -> None:
    """One plain file or directory; CRIU leaves nothing else (its links to parent images exist in pre-dumps only)."""
    path = f"{directory}/{name}"
    info = os.lstat(path)
    entry = tarfile.TarInfo(name)
    entry.mtime, entry.mode = int(info.st_mtime), stat.S_IMODE(info.st_mode)
    if stat.S_ISDIR(info.st_mode):
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    elif stat.S_ISREG(info.st_mode):
        with open(path, "rb") as f:
            entry.size = os.fstat(f.fileno()).st_size
            tar.addfile(entry, f)


# --- looking in and taking apart --------------------------------------------------------------------------------------


def clean(name: str) -> str:
    """A member's name without a leading ``./``; "" for what no checkpoint has, which is passed over."""
    name = name.removeprefix("./")
    return name if name in MEMBERS or _IMAGE.match(name) else ""


def documents(source: str, names: tuple[str, ...]) -> dict[str, bytes]:
    """Small members by name."""
    found: dict[str, bytes] = {}
    with _reading(source):
        for name, stream, size in _members(source):
            if name not in names:
                continue
            if size > DOCUMENT_LIMIT:
                raise BadImage(f"{name} of checkpoint {source} is larger than {DOCUMENT_LIMIT >> 20} MiB")
            found.setdefault(name, stream.read(size))
            if len(found) == len(names):
                break
    return found


def unpack(source: str, directory: str, log_path: str) -> None:
    """Every member as a file below a new directory; the log goes where the new container will write on."""
    images = 0
    with _reading(source):
        os.mkdir(directory, 0o700)
        os.mkdir(f"{directory}/{IMAGES}", 0o700)
        top = os.open(directory, _DIR)
        try:
            for name, stream, size in _members(source):
                images += _take(top, name, stream, size)
        finally:
            os.close(top)
    _put_log(f"{directory}/{LOG}", log_path)
    if not images:
        raise BadImage(f"{source} holds no checkpoint: there are no images of CRIU below {IMAGES}/ in it")


def _put_log(kept: str, log_path: str) -> None:
    try:
        with open(kept, "rb") as old, open(log_path, "xb", opener=_private) as new:
            shutil.copyfileobj(old, new, _CHUNK)
        os.unlink(kept)
    except (FileNotFoundError, FileExistsError):
        return  # the checkpoint has none, or the container has its own
    except OSError as e:
        raise translated(e, "written", log_path) from e


@contextlib.contextmanager
def _reading(source: str) -> Iterator[None]:
    """Failures while reading as the domain's."""
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, ValueError) as e:
        raise BadImage(f"checkpoint {source} is not a sound tar archive: {e}") from e
    except OSError as e:
        raise translated(e, "read", f"checkpoint {source}") from e


def _take(top: int, name: str, stream: IO[bytes], size: int) -> bool:
    """Write one member; True for an image of CRIU. Of two members of one name the first counts."""
    try:
        fd = os.open(name, _NEW, 0o600, dir_fd=top)
    except FileExistsError:
        return False
    with open(fd, "wb") as out:
        while chunk := stream.read(_CHUNK):
            out.write(chunk)
        if out.tell() != size:
            raise EOFError(f"member {name} ends early")
    return name.startswith(f"{IMAGES}/")


def _members(source: str) -> Iterator[tuple[str, IO[bytes], int]]:
    """Name, content and size of each plain file that checkpoints have."""
    fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            yield from _of_directory(fd)
        elif not stat.S_ISREG(kind):
            raise BadImage(f"checkpoint {source} is neither a file nor a directory")
        else:
            with open(fd, "rb", closefd=False) as f, tarfile.open(fileobj=f, mode="r:*") as tar:
                for entry in tar:
                    name = clean(entry.name)
                    stream = tar.extractfile(entry) if name and entry.isreg() else None
                    if stream is not None:
                        yield name, stream, entry.size
    finally:
        os.close(fd)


def _of_directory(top: int) -> Iterator[tuple[str, IO[bytes], int]]:
    """The same of a mounted image, whose links are never followed."""
    for name in MEMBERS:
        yield from _plain(top, name, name)
    try:
        images = os.open(IMAGES, _DIR, dir_fd=top)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise
    try:
        for name in sorted(os.listdir(images)):
            yield from _plain(images, name, f"{IMAGES}/{name}")
    finally:
        os.close(images)


def _plain(directory: int, name: str, full: str) -> Iterator[tuple[str, IO[bytes], int]]:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return
        raise
    with open(fd, "rb") as f:
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode):
            yield full, f, info.st_size
