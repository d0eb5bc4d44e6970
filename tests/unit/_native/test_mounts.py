from __future__ import annotations

import errno
import os
import pathlib
from collections.abc import Iterator

import pytest

from pycrio._native import mounts, ns
from pycrio._native.base import NativeError

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory with layers l0 to l3, upper u, work w, target t; no mount stays below it."""
    for name in ("l0", "l1", "l2", "l3", "u", "w", "t"):
        (tmp_path / name).mkdir()
    for i in range(4):
        (tmp_path / f"l{i}" / f"file{i}").write_text(str(i))
        (tmp_path / f"l{i}" / "same").write_text(str(i))
    yield tmp_path
    assert str(tmp_path) not in pathlib.Path("/proc/self/mountinfo").read_text()


def lowers(place: pathlib.Path, n: int = 4) -> list[str]:
    return [str(place / f"l{i}") for i in range(n)]


def info(path: pathlib.Path) -> str:
    found = [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if f" {path} " in line]
    return found[-1]


@pytest.mark.parametrize("classic", [False, True])
def test_overlay_layers_in_order(place: pathlib.Path, classic: bool) -> None:
    target = place / "t"
    options = ["volatile", "nodev"]
    mounts.overlay(lowers(place), str(place / "u"), str(place / "w"), str(target), options, classic=classic)
    try:
        assert mounts.is_mountpoint(str(target))
        assert mounts.propagation_of(str(target)) == "private"
        assert mounts.mount_id(str(target)) == int(info(target).split()[0])
        assert sorted(os.listdir(target)) == ["file0", "file1", "file2", "file3", "same"]
        assert (target / "same").read_text() == "0"
        (target / "new").write_text("n")
        assert (place / "u" / "new").exists()
        assert "nodev" in info(target)
        assert "volatile" in info(target)
        # only the newer way gives the layers one by one (6.7), and so they are shown
        assert (f"lowerdir+={place}/l0" in info(target)) is (mounts.probe()["lowerdir_plus"] and not classic)
    finally:
        assert mounts.umount(str(target))
    assert not mounts.umount(str(target))
    assert not mounts.is_mountpoint(str(target))


def test_overlay_errors_say_what(place: pathlib.Path) -> None:
    upper, work, target = str(place / "u"), str(place / "w"), str(place / "t")
    with pytest.raises(NativeError) as caught:
        mounts.overlay([*lowers(place), "/none/such"], upper, work, target)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/none/such")
    with pytest.raises(NativeError) as caught:
        mounts.overlay(lowers(place), upper, work, target, ["bogus=1"])
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, "bogus=1")
    assert "bogus" in caught.value.detail
    assert caught.value.detail in str(caught.value)
    with pytest.raises(NativeError) as caught:
        mounts.overlay(lowers(place), upper, None, target)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(TypeError):
        mounts.overlay("/a/path", upper, work, target)
    with pytest.raises(ValueError, match="null"):
        mounts.overlay(["a\0"], upper, work, target)


def test_read_only_overlay(place: pathlib.Path) -> None:
    mounts.overlay(lowers(place, 2), None, None, str(place / "t"))
    try:
        with pytest.raises(OSError, match="Read-only"):
            (place / "t" / "x").touch()
    finally:
        assert mounts.umount(str(place / "t"), detach=False)


def test_binds(place: pathlib.Path) -> None:
    target = place / "t"
    mounts.bind(
        str(place / "l0"),
        str(target),
        readonly=True,
        propagation="rslave",
        attrs=["nosuid", "nodev", "noexec", "noatime"],
    )
    try:
        assert " ro,nosuid,nodev,noexec,noatime " in info(target)
        with pytest.raises(OSError, match="Read-only"):
            (target / "x").touch()
        mounts.set_propagation(str(target), "shared", recursive=False)
        assert mounts.propagation_of(str(target)) == "shared"
        mounts.set_propagation(str(target), "rprivate")
        assert mounts.propagation_of(str(target)) == "private"
    finally:
        assert mounts.umount(str(target))
    single = place / "single"
    single.touch()
    mounts.bind(str(place / "l1" / "file1"), str(single))
    try:
        assert single.read_text() == "1"
        assert mounts.is_mountpoint(str(single))
    finally:
        assert mounts.umount(str(single))


def test_idmapped_bind(place: pathlib.Path) -> None:
    target = place / "t"
    os.chown(place / "l0" / "file0", 5, 7)
    with ns.hold_userns([(0, 100000, 65536)], [(0, 200000, 65536)]) as user:
        features = mounts.probe(str(place), user.fileno())
        assert features["idmap"]
        assert features["overlay_idmap"]
        mounts.idmapped_bind(str(place / "l0"), str(target), user.fileno(), readonly=True)
    try:
        st = os.stat(target / "file0")
        assert (st.st_uid, st.st_gid) == (100005, 200007)
        assert " ro," in info(target)
        # as lower of an overlay, which is how pods with a user namespace get their root
        (place / "t2").mkdir()
        mounts.overlay([str(target), str(place / "l1")], str(place / "u"), str(place / "w"), str(place / "t2"))
        try:
            assert os.stat(place / "t2" / "file0").st_uid == 100005
        finally:
            assert mounts.umount(str(place / "t2"))
    finally:
        assert mounts.umount(str(target))
    with pytest.raises(ValueError, match="negative"):
        mounts.idmapped_bind(str(place), str(target), -1)


def test_tmpfs(place: pathlib.Path) -> None:
    target = place / "t"
    mounts.tmpfs(str(target), size=65536, mode=0o1770, uid=3, gid=4)
    try:
        st = os.stat(target)
        assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o1770, 3, 4)
        assert "nosuid,nodev,noexec" in info(target)
        assert os.statvfs(target).f_blocks * os.statvfs(target).f_frsize == 65536
        with pytest.raises(OSError, match="No space"):
            (target / "big").write_bytes(bytes(100_000))
    finally:
        assert mounts.umount(str(target))
    with pytest.raises(NativeError) as caught:
        mounts.tmpfs(str(target), mode=0o700, attrs=["size=5"])
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, "size=5")
    with pytest.raises(ValueError, match="positive"):
        mounts.tmpfs(str(target), size=0, mode=0o700)


def test_busy(place: pathlib.Path) -> None:
    mounts.tmpfs(str(place / "t"), mode=0o700)
    with open(place / "t" / "held", "w"):
        with pytest.raises(NativeError) as caught:
            mounts.umount(str(place / "t"), detach=False)
        assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(place / "t"))
    assert mounts.umount(str(place / "t"), detach=False)


def test_umount_of_a_link_leaves_its_target(place: pathlib.Path) -> None:
    mounts.tmpfs(str(place / "t"), mode=0o700)
    (place / "link").symlink_to(place / "t")
    try:
        assert not mounts.umount(str(place / "link"))
        assert mounts.is_mountpoint(str(place / "t"))
    finally:
        assert mounts.umount(str(place / "t"))


def test_probe_without_a_user_namespace() -> None:
    features = mounts.probe()
    assert set(features) == {
        "mount_api",
        "overlay",
        "lowerdir_plus",
        "lowerdir_fd",
        "volatile",
        "metacopy",
        "userxattr",
        "idmap",
        "overlay_idmap",
        "recursive_ro",
        "statmount",
    }
    assert features["overlay"]
    assert not features["idmap"]


def test_paths_stay_in_their_root(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("s")
    (root / "out").symlink_to("../../../../secret")
    (root / "abs").symlink_to(str(tmp_path))
    with pytest.raises(NativeError) as caught:
        mounts.open_in_root(str(root), "out", os.O_RDONLY)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "out")
    with mounts.open_in_root(str(root), "out", os.O_WRONLY | os.O_CREAT, 0o600) as fd:
        os.write(fd.fileno(), b"inside")
        assert not os.get_inheritable(fd.fileno())
    assert (root / "secret").read_text() == "inside"
    assert (tmp_path / "secret").read_text() == "s"
    assert mounts.resolve_in_root(str(root), "/../out") == str(root / "secret")
    made = mounts.mkdirs_in_root(str(root), "abs/run", 0o2755, 10, 20)
    assert made == f"{root}{tmp_path}/run"
    st = os.stat(made)
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o2755, 10, 20)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "found"),
    [("", "/"), ("..", "/"), ("/a/../../a/b", "/a/b"), ("a//b/", "/a/b"), ("link/b", "/a/b"), ("up/a", "/a")],
)
def test_resolve(tmp_path: pathlib.Path, path: str, found: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("/a")
    (tmp_path / "up").symlink_to("../..")
    assert mounts.resolve_in_root(str(tmp_path), path) == (str(tmp_path) + found).rstrip("/")


def test_odd_bytes_in_paths(place: pathlib.Path) -> None:
    names = [
        os.fsdecode(os.fsencode(str(place)) + b"/" + name)
        for name in (b"a:b", b"c,d", b"\xff\xfe", b"e\\f", b"x" * 250)
    ]
    for name in names:
        os.mkdir(name)
    (place / "t" / "keep").touch()
    mounts.overlay(names, str(place / "u"), str(place / "w"), str(place / "t"))
    try:
        assert os.listdir(place / "t") == []
    finally:
        assert mounts.umount(str(place / "t"))
