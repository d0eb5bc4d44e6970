from __future__ import annotations

import errno
import os
import pathlib
import stat

import pytest

from pycrio._native import files
from pycrio._native.files import read_file, replace_file, write_all

pytestmark = pytest.mark.usefixtures("no_leaks")


def names(directory: pathlib.Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.mark.parametrize("durable", [False, True])
def test_made_then_replaced(tmp_path: pathlib.Path, durable: bool) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        replace_file(str(path), b"old", f"{path}.new", mode=0o644, durable=durable)
        first = path.stat()
        replace_file(str(path), b"new", f"{path}.new", mode=0o640, owner=(12, 34), durable=durable)
    finally:
        os.umask(before)
    second = path.stat()
    assert stat.S_IMODE(first.st_mode) == 0o644
    assert (stat.S_IMODE(second.st_mode), second.st_uid, second.st_gid) == (0o640, 12, 34)
    assert second.st_ino != first.st_ino  # who has the old one open reads it to its end
    assert (path.read_bytes(), names(tmp_path)) == (b"new", ["file"])


def test_what_a_kill_left_under_the_temporary_name_goes(tmp_path: pathlib.Path) -> None:
    """Neither its owner nor its other names get into the new file, and a link there is not followed."""
    path, left, other = tmp_path / "file", tmp_path / "file.tmp", tmp_path / "other"
    other.write_bytes(b"untouched")
    os.link(other, left)
    replace_file(str(path), b"one", str(left))
    left.symlink_to(other)
    replace_file(str(path), b"two", str(left))
    left.write_bytes(b"half")
    os.chown(left, 12, 34)
    replace_file(str(path), b"three", str(left))
    status = path.stat()
    assert (path.read_bytes(), status.st_uid, stat.S_IMODE(status.st_mode)) == (b"three", os.geteuid(), 0o600)
    assert other.read_bytes() == b"untouched"
    assert names(tmp_path) == ["file", "other"]


@pytest.mark.parametrize("step", ["write", "fchmod", "fchown", "fsync", "rename"])
def test_a_failure_leaves_the_old_content_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, step, fails)
    with pytest.raises(OSError, match="No space left"):
        replace_file(str(path), b"new", f"{path}.tmp", owner=(1, 2), durable=True)
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["file"])


def test_content_is_on_disk_before_it_has_its_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        seen.append(f"fsync of {os.fstat(fd).st_size} bytes")
        fsync(fd)

    def renamed(source: str, target: str) -> None:
        seen.append("rename")
        rename(source, target)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "rename", renamed)
    replace_file(str(tmp_path / "a"), b"12345", str(tmp_path / "t"), durable=True)
    replace_file(str(tmp_path / "b"), b"12345", str(tmp_path / "t"))
    assert seen == ["fsync of 5 bytes", "rename", "rename"]


def test_written_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: write(fd, data[:3]))
    with (tmp_path / "file").open("wb") as f:
        write_all(f.fileno(), b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_reading_has_a_limit(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(str(path), 5) == b"12345"
    with pytest.raises(OSError, match="too large") as caught:
        read_file(str(path), 4)
    assert caught.value.errno == errno.EFBIG
