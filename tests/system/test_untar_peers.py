"""The same layers, unpacked by us and by containers/storage: the trees and the tar-split metadata must be equal."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pathlib
import random
import stat
import subprocess
from collections.abc import Iterator

import pytest

from pycrio._native import untar
from tests.fakes import tars
from tests.fakes.trees import tree

pytestmark = pytest.mark.system


class Store:
    """A containers/storage root of its own, filled and read by skopeo."""

    def __init__(self, base: pathlib.Path) -> None:
        self.base = base
        self.graph = base / "graph"
        self.name = f"containers-storage:[overlay@{self.graph}+{base / 'run'}]localhost/x:t"

    def skopeo(self, *args: str) -> None:
        done = subprocess.run(["skopeo", "--insecure-policy", *args], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def load(self, layers: list[bytes]) -> list[str]:
        """Put an image of these tars into the store; the layer ids, lowest first."""
        blobs = self.base / "oci" / "blobs" / "sha256"
        blobs.mkdir(parents=True)

        def put(data: bytes, kind: str) -> dict[str, object]:
            digest = hashlib.sha256(data).hexdigest()
            (blobs / digest).write_bytes(data)
            media = f"application/vnd.oci.image.{kind}"
            return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

        diff_ids = [hashlib.sha256(layer).hexdigest() for layer in layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{d}" for d in diff_ids]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(json.dumps(config).encode(), "config.v1+json"),
            "layers": [put(gzip.compress(layer, 1, mtime=0), "layer.v1.tar+gzip") for layer in layers],
        }
        entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": "t"}
        oci = self.base / "oci"
        (oci / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (oci / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        self.skopeo("copy", "-q", f"oci:{oci}:t", self.name)
        ids = diff_ids[:1]
        for diff_id in diff_ids[1:]:
            ids.append(hashlib.sha256(f"sha256:{ids[-1]}+sha256:{diff_id}".encode()).hexdigest())
        known = {row["diff-digest"]: row["id"] for row in json.loads(self.layers_json.read_text())}
        return [known[f"sha256:{d}"] for d in diff_ids]

    @property
    def layers_json(self) -> pathlib.Path:
        return self.graph / "overlay-layers" / "layers.json"

    def diff(self, layer: str) -> pathlib.Path:
        return self.graph / "overlay" / layer / "diff"

    def split(self, layer: str) -> pathlib.Path:
        return self.graph / "overlay-layers" / f"{layer}.tar-split.gz"


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    base = tmp_path / "store"
    base.mkdir()
    one = Store(base)
    yield one
    # the driver binds its home onto itself
    subprocess.run(["umount", "-l", str(one.graph / "overlay")], check=False, capture_output=True)


def unpack(tar: bytes, base: pathlib.Path) -> untar.Extracted:
    base.mkdir()
    (base / "diff").mkdir(mode=0o555)
    (base / "blob").write_bytes(gzip.compress(tar, 1, mtime=0))
    fds = [
        os.open(base / "blob", os.O_RDONLY),
        os.open(base / "diff", os.O_RDONLY),
        os.open(base / "split.gz", os.O_WRONLY | os.O_CREAT, 0o600),
    ]
    try:
        return untar.extract(fds[0], fds[1], split_fd=fds[2], keep_root=True)
    finally:
        for fd in fds:
            os.close(fd)


def segments(path: pathlib.Path) -> list[bytes]:
    """Lines up to the trailer, whose cutting into lines is left to the writer."""
    lines = gzip.decompress(path.read_bytes()).splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith(b'{"type":1'))
    return lines[: last + 1]


def gnu_tar(base: pathlib.Path, *options: str) -> bytes:
    return subprocess.run(
        ["tar", "-C", str(base), "-cf", "-", *options, "."], stdout=subprocess.PIPE, check=True
    ).stdout


def made_tree(base: pathlib.Path) -> pathlib.Path:
    """A tree with everything that a file system can hold, for GNU tar to pack."""
    top = base / "made"
    top.mkdir()
    rng = random.Random(5)
    for i in range(400):
        path = top / "/".join(f"d{rng.randrange(6)}" for _ in range(rng.randrange(1, 6))) / f"file{i}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 100, 511, 512, 513, 4096, 70_000])))
        path.chmod(rng.choice([0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0]))
        os.chown(path, rng.choice([0, 0, 0, 33, 65534]), rng.choice([0, 0, 5, 100]))
        path.chmod(rng.choice([0o644, 0o755, 0o4755, 0o6711]))
        os.utime(path, ns=(10**18, rng.randrange(10**18)))
    files = sorted(p for p in top.rglob("*") if p.is_file())
    for i in range(30):
        os.link(rng.choice(files), top / f"hard{i}")
        (top / f"sym{i}").symlink_to(rng.choice(["/etc/passwd", "nowhere", "../../..", "d1", str(files[i])]))
    os.mkfifo(top / "fifo", 0o620)
    os.mknod(top / "tty", 0o20666, os.makedev(5, 0))
    os.mknod(top / "loop", 0o60660, os.makedev(7, 300))
    with open(top / "sparse", "wb") as f:
        f.truncate(50 << 20)
        f.seek(9 << 20)
        f.write(b"data in the middle")
    os.setxattr(files[0], "security.capability", tars.capability(1 << 10))
    os.setxattr(files[1], "user.note", b"binary\0value")
    os.setxattr(top / "d0", "user.dir", b"1")
    os.chmod(top / "d1", 0o3775)
    os.utime(top / "d0", ns=(5, 7_000_000_001))
    (top / os.fsdecode(b"latin\xe9")).write_text("x")
    (top / ("n" * 255)).write_text("x")
    (top / 'quo"te<&>\\\n').write_text("x")
    return top


def hand_made() -> dict[str, bytes]:
    acl = bytes.fromhex("02000000 01000600ffffffff 04000400ffffffff 10000400ffffffff 20000400ffffffff")
    return {
        "whiteouts": tars.seal(
            tars.directory(b"./"),
            tars.directory(b"d/", mtime=44),
            tars.file(b"d/.wh.gone", owner=(3, 4)),
            tars.file(b".wh.top"),
            tars.directory(b"o/", owner=(1, 2)),
            tars.file(b"o/.wh..wh..opq"),
            tars.file(b"o/new", b"new"),
            tars.file(b"o/sub/.wh.deep"),
        ),
        "whiteout then file": tars.seal(tars.file(b".wh.f"), tars.file(b"f", b"own")),
        "whiteout below whiteout": tars.seal(tars.file(b".wh.d"), tars.file(b"d/.wh.f")),
        "hard links across directories": tars.seal(
            tars.directory(b"a/", mtime=1),
            tars.directory(b"b/", mtime=2),
            tars.file(b"a/f", b"data", owner=(5, 5), mode=0o4755),
            tars.header(b"b/g", type=b"1", link=b"a/f", owner=(5, 5), mode=0o4755),
            tars.header(b"b/h", type=b"1", link=b"./b/g", owner=(5, 5), mode=0o4755),
            tars.header(b"s", type=b"2", link=b"b"),
            tars.header(b"i", type=b"1", link=b"s/h", owner=(5, 5), mode=0o4755),
            tars.header(b"j", type=b"1", link=b"/a/f", owner=(6, 6), mode=0o600, mtime=99),
        ),
        "through links": tars.seal(
            tars.directory(b"usr/lib/"),
            tars.header(b"lib", type=b"2", link=b"usr/lib"),
            tars.header(b"again", type=b"2", link=b"usr"),
            tars.file(b"lib/x", b"1"),
            tars.file(b"again/lib/y", b"2"),
            tars.directory(b"again/share/", mode=0o700, mtime=3),
        ),
        "through absolute links": tars.seal(
            tars.directory(b"usr/lib/"),
            tars.header(b"abs", type=b"2", link=b"/usr"),
            tars.file(b"abs/lib/y", b"2"),
        ),
        "missing parents": tars.seal(tars.file(b"a/b/c/d", b"x", owner=(7, 7), mode=0o600)),
        "absolute and odd names": tars.seal(
            tars.file(b"/abs", b"1"), tars.file(b"./a//b/./c", b"2"), tars.file(b"x/../y", b"3"), tars.file(b"z/", b"4")
        ),
        "owners": tars.seal(
            tars.file(b"big", b"1", owner=(3_000_000, 4_000_000_000)),
            tars.pax({"uid": b"70000", "gid": b"80000"}),
            tars.file(b"pax", b"1"),
        ),
        "attributes": tars.seal(
            tars.pax({"SCHILY.xattr.security.capability": tars.capability(1 << 13), "SCHILY.xattr.user.a": b"\0b\n"}),
            tars.file(b"ping", b"elf", mode=0o755),
            tars.pax({"SCHILY.xattr.system.posix_acl_default": acl, "SCHILY.xattr.system.posix_acl_access": acl}),
            tars.directory(b"acl/", mode=0o750),
            tars.file(b"acl/child", b"x", mode=0o640),
            tars.pax({"SCHILY.xattr.security.x": b"v"}),
            tars.header(b"link", type=b"2", link=b"ping"),
        ),
        "times": tars.seal(
            tars.pax({"mtime": b"1500000000.123456789"}),
            tars.file(b"ns", b"x"),
            tars.pax({"mtime": b"12.000000001"}),
            tars.header(b"link", type=b"2", link=b"x"),
            tars.pax({"mtime": b"77.5"}),
            tars.directory(b"dir/"),
            tars.file(b"dir/f", b"x"),
            tars.pax({"mtime": b"-5.5"}),
            tars.header(b"oldlink", type=b"2", link=b"x"),
        ),
        "long names": tars.seal(
            tars.gnu_long(b"g/" + b"n" * 200),
            tars.file(b"short", b"gnu"),
            tars.gnu_long(b"t" * 150, type=b"K"),
            tars.header(b"sym", type=b"2", link=b"cut", magic=tars.GNU),
            tars.file(b"/".join([b"deep" * 20] * 12), b"pax"),
            tars.header(b"leaf", tail=b"prefix/dir", size=1) + tars.pad(b"1"),
        ),
        "comment for all": tars.seal(
            tars.header(b"pax_global_header", type=b"g", size=18) + tars.pad(b"18 comment=commit\n"),
            tars.file(b"a", b"1"),
            tars.file(b"b", b"2"),
        ),
        "nodes": tars.seal(
            tars.header(b"null", type=b"3", device=(1, 3), mode=0o666, owner=(0, 5), mtime=4),
            tars.header(b"disk", type=b"4", device=(8, 300), mode=0o4660, mtime=5),
            tars.header(b"fifo", type=b"6", mode=0o640, owner=(9, 9), mtime=6),
        ),
        "no end mark": tars.file(b"a", b"1") + tars.directory(b"d/"),
        "old headers": tars.seal(
            tars.header(b"v7/", type=b"\0", magic=bytes(8), mode=0o711),
            tars.header(b"v7/f", type=b"\0", magic=bytes(8), size=1) + tars.pad(b"x"),
        ),
        "not utf-8": tars.seal(
            tars.file(b"\xff\xfe", b"1"), tars.file('\u2028\u00e9<>&"\\\t'.encode(), b"2"), tars.file(b"\x01", b"3")
        ),
        "nothing": tars.END,
    }


def any_layer(seed: int) -> bytes:
    """Members of every kind, below directories that stay directories, as theirs takes no name twice. Odd seeds have
    directories before what is in them, as programs pack; even ones any order."""
    chance = random.Random(seed)
    names = [
        b"a", b"b", b"d/", b"d/x", b"d/e/", b"d/e/z", b"n/o", b"n/p/q", b"s/t/u/v", b"w/", b"\xe9\xff", b"long" * 20,
    ]  # fmt: skip
    chance.shuffle(names)
    if seed % 2:
        names.sort(key=lambda name: (not name.endswith(b"/"), name if name.endswith(b"/") else b""))
    parts, files = [tars.file(b"first", b"0")], [b"first"]
    for name in names:
        fields = {
            "mode": chance.choice([0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o600, 0]),
            "owner": (chance.choice([0, 0, 5, 70_000]), chance.choice([0, 0, 7])),
            "mtime": chance.choice([0, 1, 1_700_000_000]),
        }
        more = {
            "SCHILY.xattr.user.a": b"1\0\n",
            "SCHILY.xattr.security.selinux": b"l\0",
            "SCHILY.xattr.security.capability": tars.capability(1 << 10),
            "mtime": b"12.25",
            "atime": b"99.5",
            "uid": b"70001",
            "comment": b"x",
            "LIBARCHIVE.xattr.user.b": b"Yg==",
        }
        kind = -1 if name.endswith(b"/") else chance.randrange(8)
        records = {key: value for key, value in more.items() if chance.random() < 0.2}
        if kind in (0, 1, 2, 3):
            records.pop("SCHILY.xattr.user.a", None)  # for files and directories only (man 7 xattr)
        parent, _, base = name.rstrip(b"/").rpartition(b"/")
        where = parent + b"/" if parent else b""
        if records:
            parts.append(tars.pax(records))
        if kind < 0:
            parts.append(tars.directory(name, **fields))
        elif kind == 0:
            parts.append(tars.header(name, type=b"2", link=chance.choice([b"d", b"../d", b"/d", b"nowhere"]), **fields))
        elif kind == 1:
            parts.append(tars.header(name, type=b"1", link=chance.choice(files), **fields))
        elif kind == 2:
            parts.append(tars.file(where + b".wh." + chance.choice([base, b".wh..opq"]), **fields))
        elif kind == 3:
            parts.append(tars.header(name, type=chance.choice([b"3", b"4", b"6"]), device=(1, 3), **fields))
        else:
            content = b"x" * chance.choice([0, 1, 512, 700, 5000, 300_000])
            parts.append(tars.file(chance.choice([b"", b"./", b"/", b".//"]) + name, content, **fields))
            files.append(name)
    if chance.random() < 0.5:
        parts.append(tars.directory(b"./", mode=chance.choice([0o755, 0o700, 0o1777]), mtime=5))
    return tars.seal(*parts)


def settled(root: pathlib.Path, start: int) -> dict[bytes, dict[str, object]]:
    """The tree; directories that no entry describes have the time of their making, which is not compared."""
    out = tree(str(root))
    for entry in out.values():
        when = entry.get("mtime")
        if entry["kind"] == oct(stat.S_IFDIR) and isinstance(when, int) and when >= start:
            del entry["mtime"]
    return out


def same(store: Store, tmp_path: pathlib.Path, tar: bytes, *, metadata: bool = True, returns: bool = True) -> None:
    mark = tmp_path / "mark"
    mark.touch()  # the clock of the file system
    start = mark.stat().st_mtime_ns
    (layer,) = store.load([tar])
    got = unpack(tar, tmp_path / "ours")
    assert settled(tmp_path / "ours" / "diff", start) == settled(store.diff(layer), start)
    row = json.loads(store.layers_json.read_text())[0]
    assert (got.diff_id, got.diff_size) == (row["diff-digest"], row["diff-size"])
    assert (got.compressed_digest, got.compressed_size) == (row["compressed-diff-digest"], row["compressed-size"])
    assert got.uids == row.get("uidset", [])
    assert got.gids == row.get("gidset", [])
    if metadata and got.entries:
        assert segments(tmp_path / "ours" / "split.gz") == segments(store.split(layer))
    if returns:
        give_back(store, layer, tmp_path, got)


def give_back(store: Store, layer: str, tmp_path: pathlib.Path, got: untar.Extracted) -> None:
    """Our metadata and our tree in the place of theirs: skopeo takes the image out again, bit for bit."""
    theirs = store.diff(layer)
    subprocess.run(["rm", "-rf", str(theirs)], check=True)
    subprocess.run(["cp", "-a", str(tmp_path / "ours" / "diff"), str(theirs)], check=True)
    store.split(layer).write_bytes((tmp_path / "ours" / "split.gz").read_bytes())
    store.skopeo("copy", "-q", "--dest-decompress", store.name, f"dir:{tmp_path / 'back'}")
    manifest = json.loads((tmp_path / "back" / "manifest.json").read_text())
    (blob,) = (row["digest"] for row in manifest["layers"])
    data = (tmp_path / "back" / blob.removeprefix("sha256:")).read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == got.diff_id


@pytest.mark.parametrize("what", hand_made())
def test_hand_made_layers(store: Store, tmp_path: pathlib.Path, what: str) -> None:
    # The store's reader of content follows absolute links on the host, so that it does not find such files.
    same(store, tmp_path, hand_made()[what], returns=what != "through absolute links")


@pytest.mark.parametrize("seed", range(12))
def test_any_layer(store: Store, tmp_path: pathlib.Path, seed: int) -> None:
    # A directory that an earlier member has made has no line of its own in our metadata: its header is kept as it is.
    same(store, tmp_path, any_layer(seed), metadata=bool(seed % 2))


@pytest.mark.parametrize(
    "options",
    [
        ("--format=pax", "--xattrs", "--xattrs-include=*"),
        ("--format=gnu",),
        ("--format=posix", "--sort=name"),
        ("--format=ustar", "--exclude=n*"),
    ],
)
def test_a_tree_packed_by_gnu_tar(store: Store, tmp_path: pathlib.Path, options: tuple[str, ...]) -> None:
    same(store, tmp_path, gnu_tar(made_tree(tmp_path), *options))


@pytest.mark.parametrize(
    "options", [("--sparse", "--format=pax"), ("--sparse", "--format=pax", "--sparse-version=0.1")]
)
def test_sparse_files_of_gnu_tar(store: Store, tmp_path: pathlib.Path, options: tuple[str, ...]) -> None:
    """Their metadata cannot rebuild sparse members; ours can, so only the trees are compared."""
    same(store, tmp_path, gnu_tar(made_tree(tmp_path), *options), metadata=False)


def test_the_system_python(store: Store, tmp_path: pathlib.Path) -> None:
    """Many small files of real life."""
    same(store, tmp_path, gnu_tar(pathlib.Path("/usr/lib/python3"), "--format=pax"))
