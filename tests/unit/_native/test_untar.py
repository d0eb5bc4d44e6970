"""Layer extraction: what comes onto the disk, what is refused, what the metadata is good for."""

from __future__ import annotations

import base64
import bz2
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import pathlib
import random
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import Mapping, Sequence

import pytest

from pycrio._native import untar
from pycrio._native.base import NativeError
from tests.fakes import tars

Map = Sequence[tuple[int, int, int]]


class Layer:
    """A layer unpacked below a temporary directory, with its tar-split beside it."""

    def __init__(self, base: pathlib.Path, blob: bytes | int, **options: object) -> None:
        self.base = base
        self.root = base / "diff"
        self.root.mkdir()
        self.split = base / "split.gz"
        (base / "blob").write_bytes(blob if isinstance(blob, bytes) else b"")
        src = os.open(base / "blob", os.O_RDONLY) if isinstance(blob, bytes) else blob
        split = os.open(self.split, os.O_WRONLY | os.O_CREAT, 0o600)
        target = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.result = untar.extract(src, target, split_fd=split, **options)  # type: ignore[arg-type]
        finally:
            for fd in {src, split, target}:
                os.close(fd)

    def lstat(self, name: str) -> os.stat_result:
        return os.lstat(self.root / name)

    def assemble(self) -> tuple[untar.Assembled, bytes]:
        """The tar that comes out of metadata and directory."""
        out = self.base / "again.tar"
        fds = [
            os.open(self.split, os.O_RDONLY),
            os.open(self.root, os.O_RDONLY | os.O_DIRECTORY),
            os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ]
        try:
            done = untar.assemble(*fds)
        finally:
            for fd in fds:
                os.close(fd)
        return done, out.read_bytes()

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in gzip.decompress(self.split.read_bytes()).splitlines()]


def attempt(base: pathlib.Path, blob: bytes, **options: object) -> untar.Extracted | NativeError:
    """The result or the error, for inputs where either may be right."""
    base.mkdir()
    try:
        return Layer(base, blob, **options).result
    except NativeError as e:
        return e


def refused(base: pathlib.Path, blob: bytes, **options: object) -> NativeError:
    with pytest.raises(NativeError) as caught:
        Layer(base, blob, **options)
    return caught.value


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


PLAIN = tars.seal(
    tars.directory(b"etc/", mtime=1_500_000_000),
    tars.file(b"etc/passwd", b"root:x:0:0\n", mode=0o640, owner=(7, 8), mtime=1_500_000_001),
    tars.header(b"etc/link", type=b"2", link=b"../up", mtime=1_500_000_002),
    tars.header(b"etc/hard", type=b"1", link=b"etc/passwd", mode=0o640, owner=(7, 8), mtime=1_500_000_001),
)


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
HALF = len(PLAIN) // 2
BLOBS: dict[str, tuple[str, bytes]] = {
    "plain": ("none", PLAIN),
    "gzip": ("gzip", gzip.compress(PLAIN)),
    "gzip stored": ("gzip", gzip.compress(PLAIN, 0)),
    "gzip of many members": ("gzip", b"".join(gzip.compress(PLAIN[i : i + 77]) for i in range(0, len(PLAIN), 77))),
    "gzip with empty members": ("gzip", gzip.compress(b"") + gzip.compress(PLAIN) + gzip.compress(b"")),
    "zstd": ("zstd", zstd(PLAIN)),
    "zstd of many frames": ("zstd", SKIPPABLE + zstd(PLAIN[:HALF]) + SKIPPABLE + zstd(PLAIN[HALF:]) + SKIPPABLE),
    "bzip2 of two streams": ("bzip2", bz2.compress(PLAIN[:HALF]) + bz2.compress(PLAIN[HALF:])),
    "xz of two streams": ("xz", lzma.compress(PLAIN[:HALF]) + lzma.compress(PLAIN[HALF:])),
}


@pytest.mark.parametrize("kind", BLOBS)
def test_compression_is_detected_and_both_digests_taken(tmp_path: pathlib.Path, kind: str) -> None:
    name, blob = BLOBS[kind]
    layer = Layer(tmp_path, blob)
    r = layer.result
    assert (r.compression, r.entries, r.uids, r.gids) == (name, 4, [0, 7], [0, 8])
    assert (r.compressed_digest, r.compressed_size) == (sha(blob), len(blob))
    assert (r.diff_id, r.diff_size) == (sha(PLAIN), len(PLAIN))
    assert (layer.root / "etc/passwd").read_bytes() == b"root:x:0:0\n"
    assert layer.assemble() == (untar.Assembled(sha(PLAIN), len(PLAIN)), PLAIN)


@pytest.mark.parametrize("kind", [k for k in BLOBS if k != "plain"])
def test_a_compressed_blob_cut_anywhere_is_an_error(tmp_path: pathlib.Path, kind: str) -> None:
    _, blob = BLOBS[kind]
    for i, cut in enumerate(sorted({1 + len(blob) * k // 23 for k in range(1, 23)})):
        # The cut may fall between two members: then what is there must be a whole (shorter) archive or be refused.
        got = attempt(tmp_path / str(i), blob[:cut])
        if isinstance(got, NativeError):
            assert got.errno == errno.EBADMSG
        else:
            assert got.diff_size < len(PLAIN) or got.diff_id == sha(PLAIN)


@pytest.mark.parametrize("kind", [k for k in BLOBS if k != "plain"])
def test_a_damaged_compressed_blob_is_an_error(tmp_path: pathlib.Path, kind: str) -> None:
    _, blob = BLOBS[kind]
    rng = random.Random(kind)
    for i in range(20):
        at = rng.randrange(len(blob))
        broken = blob[:at] + bytes([blob[at] ^ (1 << rng.randrange(8))]) + blob[at + 1 :]
        got = attempt(tmp_path / str(i), broken)
        if isinstance(got, NativeError):
            assert got.errno in (errno.EBADMSG, errno.E2BIG, errno.EPERM)
        else:  # a bit that means nothing, such as a time stamp in the wrapper
            assert got.diff_id == sha(PLAIN)


def test_data_after_the_last_gzip_member_is_an_error(tmp_path: pathlib.Path) -> None:
    assert refused(tmp_path, gzip.compress(PLAIN) + b"garbage").errno == errno.EBADMSG


def test_an_empty_blob_is_an_empty_layer(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, b"")
    assert layer.result == untar.Extracted(sha(b""), 0, sha(b""), 0, "none", 0, [], [], 0, True)
    assert layer.assemble() == (untar.Assembled(sha(b""), 0), b"")


def test_metadata(tmp_path: pathlib.Path) -> None:
    Layer(tmp_path, PLAIN)
    root = tmp_path / "diff"
    assert os.lstat(root / "etc").st_mtime == 1_500_000_000
    st = os.lstat(root / "etc/passwd")
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime, st.st_nlink) == (0o640, 7, 8, 1_500_000_001, 2)
    assert os.path.samefile(root / "etc/passwd", root / "etc/hard")
    assert os.readlink(root / "etc/link") == "../up"
    assert os.lstat(root / "etc/link").st_mtime == 1_500_000_002


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (b"1.5", 1_500_000_000),
        (b"1500000000.123456789", 1_500_000_000_123_456_789),
        (b"1500000000.1234567899999", 1_500_000_000_123_456_789),
        (b"-1.25", -1_250_000_000),
        (b"-0.000000001", -1),
        (b"7", 7_000_000_000),
    ],
)
@pytest.mark.parametrize("type", [b"0", b"5", b"2", b"6"])
def test_pax_times(tmp_path: pathlib.Path, type: bytes, text: bytes, ns: int) -> None:
    layer = Layer(tmp_path, tars.seal(tars.pax({"mtime": text}), tars.header(b"x", type=type, link=b"y")))
    assert layer.lstat("x").st_mtime_ns == ns


def test_negative_time_in_base_256(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, tars.seal(tars.file(b"x", mtime=-86400)))
    assert layer.lstat("x").st_mtime == -86400


def test_access_time_is_never_before_the_change(tmp_path: pathlib.Path) -> None:
    layer = Layer(
        tmp_path,
        tars.seal(
            tars.pax({"mtime": b"100", "atime": b"50"}),
            tars.file(b"early"),
            tars.pax({"mtime": b"100", "atime": b"200"}),
            tars.file(b"late"),
        ),
    )
    assert layer.lstat("early").st_atime == 100
    assert layer.lstat("late").st_atime == 200


def test_directory_times_survive_what_is_put_into_them(tmp_path: pathlib.Path) -> None:
    names = [f"d{i}" for i in range(200)]  # more than the cache of directories holds
    parts = [tars.directory(n.encode(), mtime=1000 + i) for i, n in enumerate(names)]
    rng = random.Random(1)
    parts += [tars.file(f"{rng.choice(names)}/f{i}".encode(), b"x") for i in range(2000)]
    parts += [tars.directory(f"{n}/sub".encode(), mtime=5) for n in names]
    layer = Layer(tmp_path, tars.seal(*parts))
    assert [layer.lstat(n).st_mtime for n in names] == [1000.0 + i for i in range(200)]
    assert {layer.lstat(f"{n}/sub").st_mtime for n in names} == {5.0}


def test_directory_times_when_a_link_leads_to_the_same_directory(tmp_path: pathlib.Path) -> None:
    layer = Layer(
        tmp_path,
        tars.seal(
            tars.directory(b"usr/", mtime=10),
            tars.directory(b"usr/lib/", mtime=20),
            tars.header(b"lib", type=b"2", link=b"usr/lib", mtime=30),
            tars.file(b"lib/a", b"1"),
            tars.file(b"usr/lib/b", b"2"),
            tars.file(b"lib/c", b"3"),
        ),
    )
    assert layer.lstat("usr/lib").st_mtime == 20
    assert sorted(os.listdir(layer.root / "usr/lib")) == ["a", "b", "c"]


def test_setuid_survives_the_change_of_owner(tmp_path: pathlib.Path) -> None:
    layer = Layer(
        tmp_path,
        tars.seal(
            tars.file(b"su", b"x", mode=0o4755, owner=(5, 6)),
            tars.file(b"sg", b"x", mode=0o2711),
            tars.directory(b"d/", mode=0o3777, owner=(5, 6)),
            tars.file(b"d/f", b"x"),
            tars.header(b"d/l", type=b"2", link=b"f"),
            tars.directory(b"d/e/"),
            tars.header(b"d/p", type=b"6", mode=0o644),
        ),
    )
    assert [stat.S_IMODE(layer.lstat(n).st_mode) for n in ("su", "sg", "d", "d/e")] == [0o4755, 0o2711, 0o3777, 0o755]
    # nothing takes the group from a set-group-ID directory: the archive says what it is
    assert [layer.lstat(n).st_gid for n in ("d/f", "d/l", "d/e", "d/p")] == [0, 0, 0, 0]


def test_devices_and_fifos(tmp_path: pathlib.Path) -> None:
    layer = Layer(
        tmp_path,
        tars.seal(
            tars.header(b"null", type=b"3", mode=0o666, device=(1, 3)),
            tars.header(b"disk", type=b"4", mode=0o660, device=(259, 70000), owner=(0, 6)),
            tars.header(b"pipe", type=b"6", mode=0o600, owner=(1, 1)),
        ),
    )
    null, disk, pipe = (layer.lstat(n) for n in ("null", "disk", "pipe"))
    assert stat.S_ISCHR(null.st_mode)
    assert (os.major(null.st_rdev), os.minor(null.st_rdev)) == (1, 3)
    assert stat.S_ISBLK(disk.st_mode)
    assert (os.major(disk.st_rdev), os.minor(disk.st_rdev), disk.st_gid) == (259, 70000, 6)
    assert stat.S_ISFIFO(pipe.st_mode)
    assert stat.S_IMODE(pipe.st_mode) == 0o600
    assert pipe.st_uid == 1


def test_extended_attributes(tmp_path: pathlib.Path) -> None:
    cap = tars.capability(1 << 10)
    acl = (
        b"\x02\x00\x00\x00" + b"\x01\x00\x06\x00\xff\xff\xff\xff" + b"\x04\x00\x04\x00\xff\xff\xff\xff"
        b"\x20\x00\x04\x00\xff\xff\xff\xff"
    )
    rows = {
        "SCHILY.xattr.security.capability": cap,
        "SCHILY.xattr.user.note": b"a\0b\nc",
        "SCHILY.xattr.user.empty": b"",
        "SCHILY.xattr.trusted.overlay.redirect": b"/etc",
        "SCHILY.xattr.security.selinux": b"system_u:object_r:etc_t:s0\0",
    }
    layer = Layer(
        tmp_path,
        tars.seal(
            tars.pax(rows),
            tars.file(b"ping", b"elf", mode=0o755, owner=(3, 4)),
            tars.pax({"SCHILY.xattr.system.posix_acl_default": acl}),
            tars.directory(b"d/"),
            tars.file(b"d/f", b"x", mode=0o666),
            tars.pax({"SCHILY.xattr.trusted.kept": b"no"}),
            tars.header(b"null", type=b"3", device=(1, 3)),
            tars.pax({"SCHILY.xattr.security.any": b"v"}),
            tars.header(b"link", type=b"2", link=b"ping"),
        ),
    )
    path = layer.root / "ping"
    assert {n: os.getxattr(path, n) for n in os.listxattr(path)} == {
        "security.capability": cap,
        "user.note": b"a\0b\nc",
        "user.empty": b"",
    }
    assert os.getxattr(layer.root / "d", "system.posix_acl_default") == acl
    assert stat.S_IMODE(layer.lstat("d/f").st_mode) == 0o666
    assert os.listxattr(layer.root / "null") == []
    assert os.getxattr(layer.root / "link", "security.any", follow_symlinks=False) == b"v"
    assert os.listxattr(layer.root / "ping").count("security.any") == 0


def test_attributes_that_the_file_system_cannot_hold_are_counted(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, tars.seal(tars.pax({"SCHILY.xattr.nosuchclass.x": b"1"}), tars.file(b"f")))
    assert layer.result.xattrs_skipped == 1


NAMES = [
    b"a" * 255,
    b"/".join([b"d" * 200] * 20)[:4000],
    "ünï/ço∂é".encode(),
    b"latin\xe9/\xff\xfe",
    b'new\nline and "quotes" <&> \\ \x01\x7f',
    "\u2028sep\u2029".encode(),
    b"-rf",
    b"...",
    b"..a/b..",
    b" ",
]


@pytest.mark.parametrize("form", ["pax", "gnu"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_kind(tmp_path: pathlib.Path, name: bytes, form: str) -> None:
    before = tars.pax({"path": name}) if form == "pax" else tars.gnu_long(name)
    tar = tars.seal(before, tars.file(name[:100], b"data"))
    layer = Layer(tmp_path, tar)
    # relative, because the whole may be longer than a path can be
    fd = os.open(layer.root, os.O_RDONLY)
    with open(os.open(name, os.O_RDONLY, dir_fd=fd), "rb") as f:
        assert f.read() == b"data"
    os.close(fd)
    assert layer.assemble()[1] == tar
    line = next(x for x in layer.lines() if x["type"] == 1)
    raw = base64.b64decode(str(line["name_raw"])) if "name_raw" in line else str(line["name"]).encode()
    assert raw == name


def test_ustar_prefix_and_long_links(tmp_path: pathlib.Path) -> None:
    target = b"t/" + b"x" * 200
    layer = Layer(
        tmp_path,
        tars.seal(
            tars.header(b"leaf", tail=b"one/two", size=1) + tars.pad(b"1"),
            tars.gnu_long(target, type=b"K"),
            tars.header(b"sym", type=b"2", link=target[:100], magic=tars.GNU),
            tars.pax({"linkpath": b"one/two/leaf"}),
            tars.header(b"hard", type=b"1", link=b"nonsense", mode=0o644),
        ),
    )
    assert (layer.root / "one/two/leaf").read_bytes() == b"1"
    assert os.readlink(os.fsencode(layer.root / "sym")) == target
    assert os.path.samefile(layer.root / "hard", layer.root / "one/two/leaf")


def test_old_formats(tmp_path: pathlib.Path) -> None:
    layer = Layer(
        tmp_path,
        tars.seal(
            tars.header(b"dir/", type=b"\0", magic=bytes(8), mode=0o700),
            tars.header(b"dir/f", type=b"\0", magic=bytes(8), size=2) + tars.pad(b"ok"),
            tars.header(b"cont", type=b"7", size=2) + tars.pad(b"ok"),
        ),
    )
    assert stat.S_ISDIR(layer.lstat("dir").st_mode)
    assert (layer.root / "dir/f").read_bytes() == (layer.root / "cont").read_bytes() == b"ok"


def test_global_pax_header_sets_owner_and_time_until_told_otherwise(tmp_path: pathlib.Path) -> None:
    layer = Layer(
        tmp_path,
        tars.seal(
            tars.pax({"uid": b"50", "gid": b"51", "mtime": b"99.5", "path": b"evil", "comment": b"x"}, type=b"g"),
            tars.file(b"a"),
            tars.pax({"uid": b"7"}),
            tars.file(b"b"),
            tars.pax({"uid": b""}),
            tars.file(b"c"),
            tars.pax({"gid": b"", "mtime": b""}, type=b"g"),
            tars.file(b"d"),
        ),
    )
    got = {n: (layer.lstat(n).st_uid, layer.lstat(n).st_gid, layer.lstat(n).st_mtime) for n in "abcd"}
    assert got == {
        "a": (50, 51, 99.5),
        "b": (7, 51, 99.5),
        "c": (0, 51, 99.5),
        "d": (50, 0, 1_600_000_000.0),
    }
    assert layer.assemble()[0].digest == layer.result.diff_id


REGIONS = [(0, b"A" * 512), (1 << 20, b"B" * 1024), ((1 << 20) + 4096, b"C" * 700)]
MANY = [(i * 8192, bytes([65 + i % 26]) * 512) for i in range(60)]


@pytest.mark.parametrize("regions", [REGIONS, MANY, [(3 << 20, b"")], [(0, b"x" * 512), (65536, b"")]])
@pytest.mark.parametrize("form", ["old", "0.0", "0.1", "1.0"])
def test_sparse_files(tmp_path: pathlib.Path, form: str, regions: list[tuple[int, bytes]]) -> None:
    size = 3 << 20
    part = tars.old_sparse(b"s", regions, size) if form == "old" else tars.pax_sparse(b"s", regions, size, version=form)
    tar = tars.seal(part, tars.file(b"after", b"next"))
    layer = Layer(tmp_path, tar)
    want = bytearray(size)
    for at, data in regions:
        want[at : at + len(data)] = data
    assert (layer.root / "s").read_bytes() == want
    assert layer.lstat("s").st_blocks * 512 < 1 << 20
    assert (layer.root / "after").read_bytes() == b"next"
    assert layer.assemble()[1] == tar


def test_whiteouts_take_overlay_form(tmp_path: pathlib.Path) -> None:
    layer = Layer(
        tmp_path,
        tars.seal(
            tars.directory(b"d/", mtime=77),
            tars.file(b"d/.wh.gone", owner=(3, 4)),
            tars.file(b"d/.wh..wh..opq"),
            tars.file(b"new/deep/.wh.x"),
            tars.file(b".wh..wh.plnk/1.2", b"aufs"),
            tars.directory(b".wh..wh.aufs/"),
            tars.file(b"d/.wh..wh.orph", b"data"),
        ),
    )
    gone = layer.lstat("d/gone")
    assert stat.S_ISCHR(gone.st_mode)
    assert (gone.st_rdev, stat.S_IMODE(gone.st_mode), gone.st_uid, gone.st_gid) == (0, 0, 3, 4)
    assert os.getxattr(layer.root / "d", "trusted.overlay.opaque") == b"y"
    assert layer.lstat("d").st_mtime == 77
    assert stat.S_ISCHR(layer.lstat("new/deep/x").st_mode)
    assert stat.S_IMODE(layer.lstat("new").st_mode) == 0o755
    assert sorted(os.listdir(layer.root)) == ["d", "new"]
    assert os.listdir(layer.root / "d") == ["gone"]
    assert layer.result.uids == [0]
    assert layer.assemble()[0].digest == layer.result.diff_id


def test_opaque_mark_for_unprivileged_overlay(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, tars.seal(tars.file(b"d/.wh..wh..opq")), userxattr=True)
    assert os.getxattr(layer.root / "d", "user.overlay.opaque") == b"y"
    assert os.listxattr(layer.root / "d") == ["user.overlay.opaque"]


@pytest.mark.parametrize("first", [True, False])
def test_whiteouts_leave_entries_of_their_own_layer(tmp_path: pathlib.Path, first: bool) -> None:
    marks = [tars.file(b".wh.file"), tars.file(b".wh.dir"), tars.file(b".wh.implied")]
    own = [
        tars.file(b"file", b"mine"),
        tars.directory(b"dir/", mtime=5),
        tars.file(b"dir/f", b"mine"),
        tars.file(b"implied/f", b"mine"),
    ]
    layer = Layer(tmp_path, tars.seal(*(marks + own if first else own + marks)))
    assert (layer.root / "file").read_bytes() == b"mine"
    assert (layer.root / "dir/f").read_bytes() == b"mine"
    assert (layer.root / "implied/f").read_bytes() == b"mine"
    # the directories must not be merged with what lower layers have under the name
    assert os.getxattr(layer.root / "dir", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(layer.root / "implied", "trusted.overlay.opaque") == b"y"
    assert layer.lstat("dir").st_mtime == 5
    assert layer.assemble()[0].digest == layer.result.diff_id


def test_whiteouts_below_a_whiteout_are_moot(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, tars.seal(tars.file(b".wh.d"), tars.file(b"d/.wh.x"), tars.file(b"d/e/.wh..wh..opq")))
    assert stat.S_ISCHR(layer.lstat("d").st_mode)


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"a/.wh...", b"a/.wh."])
def test_whiteouts_of_no_name_are_refused(tmp_path: pathlib.Path, name: bytes) -> None:
    assert refused(tmp_path, tars.seal(tars.directory(b"a/"), tars.file(name))).errno == errno.EPERM


KINDS: dict[str, bytes] = {
    "file": tars.file(b"x", b"file"),
    "dir": tars.directory(b"x/", mode=0o711, mtime=9) + tars.file(b"x/inside", b"i") + tars.file(b"x/y/z", b"deep"),
    "link": tars.header(b"x", type=b"2", link=b"/target"),
    "hard": tars.header(b"x", type=b"1", link=b"other", mode=0o644),
    "fifo": tars.header(b"x", type=b"6"),
}


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_the_last_of_several_entries_wins(tmp_path: pathlib.Path, first: str, second: str) -> None:
    tar = tars.seal(tars.file(b"other", b"other"), KINDS[first], KINDS[second], tars.file(b"end", b"end"))
    layer = Layer(tmp_path, tar)
    x = layer.root / "x"
    if second == "file":
        assert x.read_bytes() == b"file"
        assert layer.lstat("x").st_nlink == 1
    elif second == "dir":
        assert layer.lstat("x").st_mtime == 9
        assert sorted(os.listdir(x)) == ["inside", "y"]
    elif second == "link":
        assert os.readlink(x) == "/target"
    elif second == "hard":
        assert os.path.samefile(x, layer.root / "other")
    else:
        assert stat.S_ISFIFO(os.lstat(x).st_mode)
    assert (layer.root / "other").read_bytes() == b"other"
    if layer.result.split_complete:
        assert layer.assemble()[1] == tar


def test_content_that_was_replaced_makes_the_metadata_incomplete(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, tars.seal(tars.file(b"x", b"one"), tars.file(b"x", b"two")))
    assert not layer.result.split_complete
    with pytest.raises(NativeError) as caught:
        layer.assemble()
    assert caught.value.errno == errno.EBADMSG


def test_a_hard_link_to_itself_changes_nothing(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, tars.seal(tars.file(b"x", b"one"), tars.header(b"./x", type=b"1", link=b"x", mode=0o644)))
    assert (layer.root / "x").read_bytes() == b"one"


def test_a_deep_tree_is_replaced(tmp_path: pathlib.Path) -> None:
    deep = b"/".join([b"x"] * 1500)
    layer = Layer(tmp_path, tars.seal(tars.pax({"path": deep}), tars.file(b"n", b"1"), tars.file(b"x", b"flat")))
    assert (layer.root / "x").read_bytes() == b"flat"


def test_root_entry_and_missing_parents(tmp_path: pathlib.Path) -> None:
    tar = tars.seal(
        tars.pax({"SCHILY.xattr.user.r": b"1"}),
        tars.directory(b"./", mode=0o751, owner=(4, 5), mtime=66),
        tars.file(b"./a/b/c", b"1", owner=(9, 9)),
    )
    layer = Layer(tmp_path, tar)
    st = os.lstat(layer.root)
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime) == (0o751, 4, 5, 66)
    assert os.getxattr(layer.root, "user.r") == b"1"
    b = layer.lstat("a/b")
    assert (stat.S_IMODE(b.st_mode), b.st_uid, b.st_gid) == (0o755, 0, 0)
    kept = tmp_path / "kept"
    kept.mkdir()
    again = Layer(kept, tar, keep_root=True)
    assert (stat.S_IMODE(os.lstat(again.root).st_mode), os.lstat(again.root).st_uid) == (0o755, 0)
    assert (again.root / "a/b/c").read_bytes() == b"1"


def test_a_umask_of_the_process_does_not_matter(tmp_path: pathlib.Path) -> None:
    old = os.umask(0o077)
    try:
        layer = Layer(tmp_path, tars.seal(tars.file(b"a/f", b"x", mode=0o666), tars.directory(b"d/", mode=0o777)))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)
    modes = [stat.S_IMODE(layer.lstat(n).st_mode) for n in ("a", "a/f", "d")]
    assert modes == [0o755, 0o666, 0o777]


def test_id_maps(tmp_path: pathlib.Path) -> None:
    maps: Mapping[str, Map] = {"uid_map": [(0, 100000, 10), (10, 500, 1)], "gid_map": [(0, 200000, 100)]}
    tar = tars.seal(tars.file(b"p/a", owner=(9, 99)), tars.file(b"b", owner=(10, 0)), tars.file(b".wh.w"))
    layer = Layer(tmp_path, tar, **maps)
    assert [(layer.lstat(n).st_uid, layer.lstat(n).st_gid) for n in ("p", "p/a", "b", "w")] == [
        (100000, 200000),
        (100009, 200099),
        (500, 200000),
        (100000, 200000),
    ]
    assert (layer.result.uids, layer.result.gids) == ([9, 10], [0, 99])
    outside = tmp_path / "outside"
    outside.mkdir()
    assert refused(outside, tars.seal(tars.file(b"a", owner=(11, 0))), **maps).errno == errno.EOVERFLOW


@pytest.mark.parametrize("uid", [-1, (1 << 32) - 1, 1 << 32])
def test_owners_beyond_32_bits_are_refused(tmp_path: pathlib.Path, uid: int) -> None:
    tar = tars.seal(tars.pax({"uid": str(uid).encode()}), tars.file(b"a"))
    assert refused(tmp_path, tar).errno == errno.EOVERFLOW


# ---- hostile archives ----

HOSTILE: dict[str, tuple[bytes, set[int]]] = {
    "dotdot": (tars.file(b"../evil", b"x"), {errno.EPERM}),
    "deep dotdot": (tars.file(b"a/../../evil", b"x"), {errno.EPERM}),
    "pax dotdot": (tars.pax({"path": b"./../evil"}) + tars.file(b"a", b"x"), {errno.EPERM}),
    "dotdot directory": (tars.directory(b"../evil/"), {errno.EPERM}),
    "dotdot whiteout": (tars.file(b"../.wh.outside"), {errno.EPERM}),
    "dotdot opaque": (tars.file(b"../.wh..wh..opq"), {errno.EPERM}),
    "through a link": (tars.header(b"l", type=b"2", link=b"../..") + tars.file(b"l/evil", b"x"), set()),
    "through an absolute link": (tars.header(b"l", type=b"2", link=b"/") + tars.file(b"l/evil", b"x"), set()),
    "link to the outside": (
        tars.header(b"l", type=b"2", link=b"../../outside") + tars.file(b"l/evil", b"x"),
        {errno.ENOENT},
    ),
    "chain of links": (
        tars.header(b"a", type=b"2", link=b"b/..")
        + tars.directory(b"b/")
        + tars.header(b"c", type=b"2", link=b"a/../..")
        + tars.file(b"c/evil", b"x"),
        set(),
    ),
    "loop of links": (
        tars.header(b"a", type=b"2", link=b"b") + tars.header(b"b", type=b"2", link=b"a") + tars.file(b"a/evil"),
        {errno.ELOOP},
    ),
    "hard link out": (tars.header(b"h", type=b"1", link=b"../outside/secret"), {errno.ENOENT}),
    "absolute hard link": (tars.header(b"h", type=b"1", link=b"/etc/passwd"), {errno.ENOENT}),
    "hard link through a link": (
        tars.header(b"l", type=b"2", link=b"/../../../..") + tars.header(b"h", type=b"1", link=b"l/etc/passwd"),
        {errno.ENOENT},
    ),
    "hard link to a directory": (tars.directory(b"d/") + tars.header(b"h", type=b"1", link=b"d"), {errno.EPERM}),
    "write through a final link": (
        tars.header(b"f", type=b"2", link=b"../../outside/secret") + tars.file(b"f", b"overwritten"),
        set(),
    ),
    "directory over a link": (
        tars.header(b"f", type=b"2", link=b"../../outside") + tars.directory(b"f/") + tars.file(b"f/secret", b"evil"),
        set(),
    ),
    "opaque through a link": (
        tars.header(b"l", type=b"2", link=b"../../outside") + tars.file(b"l/.wh..wh..opq"),
        {errno.ENOENT},
    ),
    "file as a directory": (tars.file(b"f", b"x") + tars.file(b"f/g", b"x"), {errno.ENOTDIR}),
    "proc magic": (tars.header(b"l", type=b"2", link=b"/proc/self/root") + tars.file(b"l/evil"), {errno.ENOENT}),
    "no name": (tars.file(b"", b"x"), {errno.EISDIR}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_leaves_the_layer(tmp_path: pathlib.Path, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    base = tmp_path / "in"
    base.mkdir()
    parts, errors = HOSTILE[what]
    before = {p: p.lstat().st_mtime_ns for p in [tmp_path, outside, outside / "secret"]}
    if errors:
        assert refused(base, tars.seal(parts)).errno in errors
    else:
        Layer(base, tars.seal(parts))
    assert {p: p.lstat().st_mtime_ns for p in before} == before
    assert (outside / "secret").read_text() == "secret"
    assert (outside / "secret").lstat().st_nlink == 1
    assert os.listdir(outside) == ["secret"]
    assert sorted(os.listdir(tmp_path)) == ["in", "outside"]
    assert not os.path.lexists("/evil")
    assert not [n for n in os.listdir(base) if n not in ("diff", "blob", "split.gz")]


MALFORMED: dict[str, bytes] = {
    "cut in a header": PLAIN[:700],
    "cut in data": PLAIN[: 512 * 2 + 3],
    "text": b"this is not a tar archive at all" * 40,
    "bad checksum": b"X" + PLAIN[1:],
    "half an end mark": tars.file(b"a") + bytes(512) + tars.file(b"b"),
    "size not octal": tars.header(b"a").replace(b"00000000000\0", b"0000000000z\0", 1),
    "pax without length": tars.header(b"p", type=b"x", size=8) + tars.pad(b"path=abc") + tars.file(b"a"),
    "pax length too long": tars.header(b"p", type=b"x", size=9) + tars.pad(b"99 path=a") + tars.file(b"a"),
    "pax without equals": tars.header(b"p", type=b"x", size=8) + tars.pad(b"8 pathx\n") + tars.file(b"a"),
    "pax NUL in path": tars.pax({"path": b"a\0b"}) + tars.file(b"a"),
    "pax bad number": tars.pax({"size": b"12x"}) + tars.file(b"a"),
    "pax negative size": tars.pax({"size": b"-5"}) + tars.file(b"a"),
    "pax bad time": tars.pax({"mtime": b"1.x"}) + tars.file(b"a"),
    "sparse overlap": tars.pax_sparse(b"s", [(0, b"a" * 512), (100, b"b")], 4096, version="1.0"),
    "sparse beyond its size": tars.pax_sparse(b"s", [(4000, b"a" * 512)], 4096, version="0.1"),
    "sparse count": tars.pax({"GNU.sparse.map": b"0,1", "GNU.sparse.numblocks": b"2"}) + tars.file(b"s", b"x"),
    "sparse map cut": tars.pax({"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0"}) + tars.file(b"s", b"5\n1\n"),
    "sparse sum": tars.pax({"GNU.sparse.map": b"0,1", "GNU.sparse.numblocks": b"1", "GNU.sparse.size": b"9"})
    + tars.file(b"s", b"xx"),
    "device number": tars.header(b"d", type=b"3", device=(5000, 1)),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_archives_are_refused(tmp_path: pathlib.Path, what: str) -> None:
    e = refused(tmp_path, MALFORMED[what] + tars.END)
    assert e.errno == errno.EBADMSG
    assert e.step


def test_unknown_types_are_refused_by_name(tmp_path: pathlib.Path) -> None:
    e = refused(tmp_path, tars.seal(tars.header(b"volume", type=b"M")))
    assert (e.errno, e.filename) == (errno.ENOTSUP, "volume")


@pytest.mark.parametrize(
    ("limits", "tar", "code"),
    [
        ({"entries": 3}, PLAIN, errno.E2BIG),
        ({"bytes": len(PLAIN) - 1}, PLAIN, errno.EFBIG),
        ({"bytes": 10000}, gzip.compress(bytes(50 << 20)), errno.EFBIG),
        ({"path": 8}, PLAIN, errno.ENAMETOOLONG),
        ({"depth": 1}, PLAIN, errno.E2BIG),
        ({"special": 100}, tars.seal(tars.pax({"comment": b"x" * 100}), tars.file(b"a")), errno.E2BIG),
        ({"sparse": 2}, tars.seal(tars.pax_sparse(b"s", REGIONS, 3 << 20, version="1.0")), errno.E2BIG),
        ({"sparse": 2}, tars.seal(tars.old_sparse(b"s", REGIONS, 3 << 20)), errno.E2BIG),
        ({}, tars.seal(tars.file(b"a" * 256, b"")), errno.ENAMETOOLONG),
        ({}, tars.seal(tars.file(b"ab/" * 1400, b"")), errno.ENAMETOOLONG),
        ({"entries": 10}, b"".join(tars.pax({"comment": b"%d" % i}) for i in range(100)), errno.E2BIG),
    ],
)
def test_limits(tmp_path: pathlib.Path, limits: dict[str, int], tar: bytes, code: int) -> None:
    assert refused(tmp_path, tar, limits=limits).errno == code


def test_zstd_window_is_a_limit(tmp_path: pathlib.Path) -> None:
    wide = subprocess.run(
        ["zstd", "-q", "--ultra", "--long=28", "-c"], input=PLAIN + bytes(1 << 20), stdout=subprocess.PIPE, check=True
    ).stdout
    ok = tmp_path / "ok"
    ok.mkdir()
    Layer(ok, wide, limits={"window_log": 28})
    assert refused(tmp_path, wide, limits={"window_log": 12}).errno == errno.E2BIG


def test_limits_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="unknown limit 'entris'"):
        Layer(tmp_path, PLAIN, limits={"entris": 3})


# ---- streams ----


def test_a_pipe_fed_in_drops(tmp_path: pathlib.Path) -> None:
    r, w = os.pipe()
    blob = gzip.compress(PLAIN)

    def feed() -> None:
        for i in range(len(blob)):
            os.write(w, blob[i : i + 1])
        os.close(w)

    thread = threading.Thread(target=feed)
    thread.start()
    layer = Layer(tmp_path, r)
    thread.join()
    assert layer.result.diff_id == sha(PLAIN)
    assert layer.result.compressed_digest == sha(blob)


@pytest.mark.parametrize("sent", [0, 3, 600])
def test_cancel_wakes_a_job_whose_source_is_silent(tmp_path: pathlib.Path, sent: int) -> None:
    r, w = os.pipe()
    cancel_r, cancel_w = os.pipe()
    os.write(w, PLAIN[:sent])
    caught: list[NativeError] = []

    def work() -> None:
        with pytest.raises(NativeError) as e:
            Layer(tmp_path, r, cancel_fd=cancel_r)
        caught.append(e.value)

    thread = threading.Thread(target=work)
    thread.start()
    os.write(cancel_w, b"!")
    thread.join()
    assert caught[0].errno == errno.ECANCELED
    for fd in (w, cancel_r, cancel_w):
        os.close(fd)


def test_an_error_ends_a_job_whose_source_is_silent(tmp_path: pathlib.Path) -> None:
    r, w = os.pipe()
    os.write(w, b"not a tar".ljust(2048, b"!") * 20)  # and the pipe stays open
    os.write(w, bytes(1))
    with pytest.raises(NativeError) as e:
        Layer(tmp_path, r, limits={"bytes": 1000})
    assert e.value.errno in (errno.EFBIG, errno.EBADMSG)
    os.close(w)


def test_no_descriptor_stays_open(tmp_path: pathlib.Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for i, blob in enumerate([PLAIN, gzip.compress(PLAIN), PLAIN[:700], b"x" * 3000]):
        assert isinstance(attempt(tmp_path / str(i), blob), NativeError) == (i > 1)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_trailing_data_counts_and_comes_back(tmp_path: pathlib.Path) -> None:
    tar = PLAIN + bytes(3 << 20) + b"tail"
    layer = Layer(tmp_path, gzip.compress(tar))
    assert layer.result.diff_id == sha(tar)
    assert layer.assemble()[1] == tar
    longest = max(len(base64.b64decode(str(x["payload"]))) for x in layer.lines() if x["type"] == 2)
    assert longest <= 1 << 20


# ---- against Python's own reader and writer ----


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_the_standard_library_writes(tmp_path: pathlib.Path, format: int) -> None:
    rng = random.Random(format)
    source = tmp_path / "source"
    for i in range(150):
        path = source / "/".join(rng.choice("abcde") for _ in range(rng.randrange(1, 5))) / f"f{i}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 511, 512, 513, 5000, 300_000])))
        os.utime(path, ns=(10**18 + i, 10**18 + i * 1_000_000_007))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as t:
        t.add(source, arcname=".")
    layer = Layer(tmp_path, gzip.compress(out.getvalue(), 1))
    for path in source.rglob("*"):
        other = layer.root / path.relative_to(source)
        a, b = path.lstat(), other.lstat()
        assert (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
        if path.is_file():
            assert path.read_bytes() == other.read_bytes()
        exact = format == tarfile.PAX_FORMAT
        # the standard library writes times as floating point
        assert abs(a.st_mtime_ns - b.st_mtime_ns) < (1000 if exact else 10**9)
    assert layer.assemble()[1] == out.getvalue()


# ---- putting the tar together again ----


def test_changed_content_is_noticed(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, PLAIN)
    path = layer.root / "etc/passwd"
    for content in (b"root:x:0:1\n", b"short", b"much longer than it was"):
        path.write_bytes(content)
        with pytest.raises(NativeError) as e:
            layer.assemble()
        assert (e.value.errno, e.value.filename) == (errno.EBADMSG, "etc/passwd")
    path.unlink()
    with pytest.raises(NativeError) as e:
        layer.assemble()
    assert e.value.errno == errno.ENOENT
    os.mkfifo(path)
    with pytest.raises(NativeError) as e:
        layer.assemble()
    assert e.value.errno == errno.EBADMSG


def test_assemble_stays_inside_the_directory(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_bytes(b"0123456789!")
    layer = Layer(tmp_path, PLAIN)
    for name in ("../secret", "/../secret", "l/secret"):
        if not os.path.lexists(layer.root / "l"):
            os.symlink("../..", layer.root / "l")
        line = {"type": 1, "name": name, "size": 11, "payload": base64.b64encode(bytes(8)).decode(), "position": 0}
        layer.split.write_bytes(gzip.compress(json.dumps(line).encode() + b"\n"))
        with pytest.raises(NativeError) as e:
            layer.assemble()
        assert e.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b'{"type":3,"payload":null}',
        b'{"payload":"AA=="}',
        b'{"type":2,"payload":"A"}',
        b'{"type":2,"payload":"A==="}',
        b'{"type":2,"payload":"AA=="} x',
        b'{"type":1,"name":"a","size":-1,"payload":null}',
        b'{"type":1,"name":"a\\u0000b","size":1,"payload":"AAAAAAAAAAA="}',
        b'{"type":1,"name":"a","size":1,"payload":"AAAA"}',
        b'{"type":1,"name":"\\x","payload":null}',
        b"\0",
    ],
)
def test_damaged_metadata_is_refused(tmp_path: pathlib.Path, text: bytes) -> None:
    layer = Layer(tmp_path, PLAIN)
    layer.split.write_bytes(gzip.compress(text + b"\n"))
    with pytest.raises(NativeError) as e:
        layer.assemble()
    assert e.value.errno == errno.EBADMSG


def test_metadata_of_other_writers_is_read(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, PLAIN)
    rows = [{"extra": {"a": 1} if False else "text", "position": 7, **row} for row in layer.lines()]
    text = "\r\n".join(json.dumps(row, indent=None, ensure_ascii=True) for row in rows)
    half = len(text) // 2
    layer.split.write_bytes(gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode()))
    assert layer.assemble()[1] == PLAIN


def test_assemble_can_be_cancelled(tmp_path: pathlib.Path) -> None:
    layer = Layer(tmp_path, PLAIN)
    r, w = os.pipe()
    os.write(w, b"!")
    split, root = os.open(layer.split, os.O_RDONLY), os.open(layer.root, os.O_RDONLY)
    out = os.open(os.devnull, os.O_WRONLY)
    with pytest.raises(NativeError) as e:
        untar.assemble(split, root, out, cancel_fd=r)
    assert e.value.errno == errno.ECANCELED
    for fd in (r, w, split, root, out):
        os.close(fd)


def test_full_disk(tmp_path: pathlib.Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)], check=True)
    try:
        target = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
        blob = tmp_path / "blob"
        blob.write_bytes(tars.seal(tars.file(b"big", bytes(4 << 20))))
        src = os.open(blob, os.O_RDONLY)
        with pytest.raises(NativeError) as e:
            untar.extract(src, target)
        assert e.value.errno == errno.ENOSPC
        os.close(src)
        os.close(target)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    shutil.rmtree(mount)
