"""Checkpoint archives: complete or absent when written, harmless whatever is in them when read."""

from __future__ import annotations

import errno
import io
import os
import pathlib
import stat
import tarfile

import pytest

from pycrio.drivers.runtime import archive
from pycrio.errors import BadImage, InvalidRequest


def captured(place: pathlib.Path) -> pathlib.Path:
    source = place / "captured"
    (source / "checkpoint").mkdir(parents=True)
    (source / "checkpoint" / "core-1.img").write_bytes(b"core")
    (source / "config.dump").write_bytes(b"{}")
    (source / archive.LOG).write_bytes(b"line\n")
    return source


def packed(place: pathlib.Path, *entries: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> str:
    target = str(place / "foreign.tar")
    with tarfile.open(target, mode) as tar:  # type: ignore[call-overload]
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return target


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def tree(place: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def test_there_and_back(tmp_path: pathlib.Path) -> None:
    source, target = captured(tmp_path), tmp_path / "x.tar"
    target.write_text("an old one")
    archive.pack(str(source), str(target))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as tar:
        assert tar.getnames()[0] == "config.dump"
    assert sorted(os.listdir(tmp_path)) == ["captured", "x.tar"]
    assert archive.documents(str(target), ("config.dump", "absent")) == {"config.dump": b"{}"}
    archive.unpack(str(target), str(tmp_path / "out"), str(tmp_path / "log"))
    assert tree(tmp_path / "out") == {"config.dump": b"{}", "checkpoint/core-1.img": b"core"}
    assert (tmp_path / "log").read_bytes() == b"line\n"


def test_a_directory_is_as_good_as_an_archive(tmp_path: pathlib.Path) -> None:
    source = captured(tmp_path)
    (source / "spec.dump").symlink_to("/etc/passwd")
    (source / "checkpoint" / "link.img").symlink_to("/etc/passwd")
    os.mkfifo(source / "dump.log")
    (tmp_path / "log").write_text("its own")
    assert archive.documents(str(source), ("config.dump", "spec.dump")) == {"config.dump": b"{}"}
    archive.unpack(str(source), str(tmp_path / "out"), str(tmp_path / "log"))
    assert set(tree(tmp_path / "out")) == {"config.dump", "checkpoint/core-1.img", archive.LOG}
    assert (tmp_path / "log").read_text() == "its own"


def test_linked_images_are_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "checkpoint").symlink_to("/etc")
    with pytest.raises(BadImage, match="holds no checkpoint"):
        archive.unpack(str(tmp_path / "image"), str(tmp_path / "out"), str(tmp_path / "log"))


def test_nothing_but_known_files_comes_out(tmp_path: pathlib.Path) -> None:
    path = packed(
        tmp_path,
        (entry("./checkpoint/a.img"), b"1"),
        (entry("checkpoint/a.img"), b"2"),
        (entry("checkpoint/../evil"), b"x"),
        (entry("checkpoint/.."), b"x"),
        (entry("checkpoint/sub/evil"), b"x"),
        (entry("../evil"), b"x"),
        (entry("/etc/evil"), b"x"),
        (entry("checkpoint/link.img", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (entry("checkpoint/hard.img", tarfile.LNKTYPE, "checkpoint/a.img"), b""),
        (entry("spec.dump", tarfile.FIFOTYPE), b""),
        (entry("config.dump", tarfile.CHRTYPE), b""),
    )
    archive.unpack(path, str(tmp_path / "out"), str(tmp_path / "log"))
    assert tree(tmp_path / "out") == {"checkpoint/a.img": b"1"}
    assert sorted(os.listdir(tmp_path)) == ["foreign.tar", "out"]


def test_compressed_ones_are_read(tmp_path: pathlib.Path) -> None:
    path = packed(tmp_path, (entry("checkpoint/a.img"), b"1" * 10_000), mode="w:gz")
    archive.unpack(path, str(tmp_path / "out"), str(tmp_path / "log"))
    assert tree(tmp_path / "out") == {"checkpoint/a.img": b"1" * 10_000}
    data = bytearray(pathlib.Path(path).read_bytes())
    pathlib.Path(path).write_bytes(data[: len(data) // 2])
    with pytest.raises(BadImage):
        archive.unpack(path, str(tmp_path / "again"), str(tmp_path / "log"))


def test_documents_have_a_limit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "DOCUMENT_LIMIT", 10)
    path = packed(tmp_path, (entry("config.dump"), b"x" * 11))
    with pytest.raises(BadImage, match="larger"):
        archive.documents(path, ("config.dump",))


def test_sources_that_are_none(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidRequest):
        archive.documents(str(tmp_path / "absent"), ("config.dump",))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadImage, match="neither"):
        archive.documents(str(tmp_path / "fifo"), ("config.dump",))


@pytest.mark.parametrize("named", [False, True])
def test_a_failed_archive_leaves_the_old_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    source, target = captured(tmp_path), tmp_path / "x.tar"
    target.write_text("an old one")
    real = os.open

    def without_tmpfile(path: str, flags: int, *more: int, **how: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no such thing here")
        return real(path, flags, *more, **how)

    if named:
        monkeypatch.setattr(os, "open", without_tmpfile)

    def full(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    with monkeypatch.context() as broken:
        broken.setattr(archive, "_fill", full)
        with pytest.raises(Exception, match="broken disk"):
            archive.pack(str(source), str(target))
    assert target.read_text() == "an old one"
    assert sorted(os.listdir(tmp_path)) == ["captured", "x.tar"]
    archive.pack(str(source), str(target))
    assert archive.documents(str(target), ("config.dump",)) == {"config.dump": b"{}"}
    assert sorted(os.listdir(tmp_path)) == ["captured", "x.tar"]


def test_a_place_where_no_archive_can_be(tmp_path: pathlib.Path) -> None:
    source = captured(tmp_path)
    for target in (f"{tmp_path}/absent/x.tar", str(source), f"{source}/config.dump/x.tar"):
        with pytest.raises(InvalidRequest):
            archive.pack(str(source), target)
