"""Socket files: stale ones are replaced, live ones and other things are left alone."""

from __future__ import annotations

import os
import pathlib
import socket
import stat

import pytest

from pycrio.api.sockets import Listener, private_directory
from pycrio.errors import AlreadyExists, ConfigError


def test_a_fresh_socket(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run" / "crio" / "crio.sock"
    listener = Listener(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert os.listdir(path.parent) == ["crio.sock"]
    listener.close()
    assert not path.exists()


def test_a_stale_socket_is_replaced(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    before = os.lstat(path).st_ino
    listener = Listener(path)
    assert os.lstat(path).st_ino != before
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    listener.close()


def test_a_live_socket_is_refused(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(0)
        with pytest.raises(AlreadyExists, match="another daemon"):
            Listener(path)
        assert os.path.exists(path)


def test_a_live_socket_with_a_full_backlog_is_refused(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as first:
        other.bind(path)
        other.listen(0)
        first.connect(path)
        with pytest.raises(AlreadyExists):
            Listener(path)


def test_other_things_are_not_replaced(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="something else"):
        Listener(str(path))
    assert path.read_text() == "precious"
    with pytest.raises(ConfigError, match="cannot listen"):
        Listener(str(path / "below" / "s"))


def test_too_long_a_path(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="107"):
        Listener(str(tmp_path / ("x" * 108)))


def test_the_file_of_a_successor_is_left(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    first = Listener(path)
    first.socket.close()
    second = Listener(path)
    first.close()
    assert os.path.exists(path)
    second.close()
    assert not os.path.exists(path)
    second.close()


def test_private_directory(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a" / "inner"
    assert private_directory(str(path)) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path / "http.sock"))
    (path / "note").write_text("kept")
    path.chmod(0o777)
    private_directory(str(path))
    assert os.listdir(path) == ["note"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_private_directory_is_ours(tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "inner").symlink_to("elsewhere")
    with pytest.raises(ConfigError, match="of our own"):
        private_directory(str(tmp_path / "inner"))
