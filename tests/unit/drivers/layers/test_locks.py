"""Lock files: exclusion between threads, stores and programs that use POSIX locks; tokens."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pycrio.drivers.layers.files import Place, sweep_places
from pycrio.drivers.layers.locks import HeldLock, LockFile, LockSet, new_token

# What another program does: a POSIX record lock on the whole file. "try" prints whether it got the lock; "hold" keeps
# it until its standard input ends.
PEER = """
import fcntl, sys
f = open(sys.argv[1], "r+")
kind = fcntl.LOCK_SH if sys.argv[3] == "shared" else fcntl.LOCK_EX
try:
    fcntl.lockf(f, kind | fcntl.LOCK_NB)
    print("got", flush=True)
except BlockingIOError:
    print("busy", flush=True)
if sys.argv[2] == "hold":
    sys.stdin.read()
"""


def peer_gets(path: Path, kind: str) -> bool:
    out = subprocess.run([sys.executable, "-c", PEER, str(path), "try", kind], capture_output=True, check=True).stdout
    return out == b"got\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x.lock").touch()
    return tmp_path / "x.lock"


def test_posix_locks_of_others_conflict_with_ours(path: Path) -> None:
    lock = LockFile(str(path))
    with lock.write():
        assert not peer_gets(path, "shared")
        os.close(os.open(path, os.O_RDWR))  # closing another descriptor does not drop the lock, as POSIX locks would
        assert not peer_gets(path, "exclusive")
    with lock.read():
        assert peer_gets(path, "shared")
        assert not peer_gets(path, "exclusive")
    assert peer_gets(path, "exclusive")
    lock.close()


def test_we_wait_for_others(path: Path) -> None:
    argv = [sys.executable, "-c", PEER, str(path), "hold", "exclusive"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        assert peer.stdout is not None
        assert peer.stdin is not None
        assert peer.stdout.readline() == b"got\n"
        lock, got = LockFile(str(path)), threading.Event()

        def take() -> None:
            with lock.write():
                got.set()

        thread = threading.Thread(target=take)
        thread.start()
        assert not got.wait(0.05)
        peer.stdin.close()
        assert got.wait(30)
        thread.join()
        lock.close()


def test_two_stores_in_one_process_exclude_each_other(path: Path) -> None:
    one, two = LockFile(str(path)), LockFile(str(path))
    got = threading.Event()

    def take() -> None:
        with two.write():
            got.set()

    thread = threading.Thread(target=take)
    with one.write():
        thread.start()
        assert not got.wait(0.05)
    assert got.wait(30)
    thread.join()
    one.close()
    two.close()


def test_tokens(path: Path) -> None:
    lock = LockFile(str(path))
    assert lock.token() == b""
    first = lock.touch()
    assert path.stat().st_size == 64
    assert lock.token() == first
    assert lock.touch() != first
    assert path.stat().st_size == 64
    when, counter, pid = struct.unpack_from("<QQI", first)
    assert when > 1_700_000_000_000_000_000
    assert struct.unpack_from("<QQI", new_token())[1] > counter >= 1
    assert pid == os.getpid()
    lock.close()


def test_a_deleted_lock_file_is_made_again(path: Path) -> None:
    lock = LockFile(str(path))
    lock.touch()
    path.unlink()
    with lock.write():
        assert not peer_gets(path, "exclusive")
    assert lock.token() == b""
    lock.close()
    lock.close()


def test_read_only_lock_files(tmp_path: Path) -> None:
    lock = LockFile(str(tmp_path / "new.lock"), read_only=True)
    with lock.read():
        assert not peer_gets(tmp_path / "new.lock", "exclusive")
    lock.close()
    absent = LockFile(str(tmp_path / "no/new.lock"), read_only=True)
    with pytest.raises(FileNotFoundError):
        absent.token()


def test_sets_lock_and_touch_every_file(tmp_path: Path) -> None:
    files = [LockFile(str(tmp_path / name)) for name in ("a", "b")]
    locks = LockSet(files)
    before = locks.token()
    with locks.write():
        assert not peer_gets(tmp_path / "a", "shared")
        assert not peer_gets(tmp_path / "b", "shared")
        locks.touch()
    with locks.read():
        assert peer_gets(tmp_path / "b", "shared")
    assert len(locks.token()) == 128 != len(before)
    locks.close()


def test_held_locks(tmp_path: Path) -> None:
    path = str(tmp_path / "lock-1")
    lock = HeldLock.create(path)
    assert lock is not None
    assert HeldLock.seize(path) is None
    assert not peer_gets(Path(path), "exclusive")
    with pytest.raises(FileExistsError):
        HeldLock.create(path)
    lock.release()
    lock.release()
    assert not os.path.exists(path)
    assert HeldLock.seize(path) is None
    Path(path).touch()
    seized = HeldLock.seize(path)
    assert seized is not None
    seized.release()


def test_places_are_swept_when_their_owner_is_gone(tmp_path: Path) -> None:
    base = str(tmp_path / "tempdirs")
    assert sweep_places(base) == 0
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    with Place.create(base) as place:
        assert place.take(str(victim))
        assert not place.take(str(victim))
        assert os.path.exists(f"{place.path}/0-victim/file")
        assert sweep_places(base) == 0
    assert os.listdir(base) == []
    os.mkdir(f"{base}/temp-dir-abandoned")
    os.mkdir(f"{base}/temp-dir-dead")
    Path(f"{base}/lock-dead").touch()
    Path(f"{base}/something-else").touch()
    assert sweep_places(base) == 2
    assert os.listdir(base) == ["something-else"]
