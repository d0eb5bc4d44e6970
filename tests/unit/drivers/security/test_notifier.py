"""The seccomp notifier's profiles, and what comes over its sockets. (Filters: tests/system/test_annotations.py.)"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pathlib
import shutil
import socket
from collections.abc import AsyncIterator

import pytest

from pycrio.drivers.security import notifier as module
from pycrio.drivers.security.notifier import Notifier, Settings, call_name, watched
from pycrio.drivers.security.profile import default_profile, known_calls
from pycrio.errors import StoreFailure
from tests.isolation import short_directory

IDENT = "c" * 64
X86_64 = 0xC000003E


def test_refusals_are_told() -> None:
    rules = [
        {"names": ["open"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
        {"names": ["mount"], "action": "SCMP_ACT_LOG"},
    ]
    document = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    before = json.dumps(document)
    found = watched(document, "/sock")
    assert json.dumps(document) == before
    assert found["listenerPath"] == "/sock"
    assert [rule["action"].removeprefix("SCMP_ACT_") for rule in found["syscalls"]] == [
        *("ALLOW", "NOTIFY", "NOTIFY", "ERRNO", "LOG"),
    ]
    assert "errnoRet" not in found["syscalls"][1]


@pytest.mark.parametrize("capabilities", [frozenset[str](), frozenset({"CAP_SYS_ADMIN"})])
def test_calls_without_a_rule_get_one(capabilities: frozenset[str]) -> None:
    document = default_profile("x86_64", capabilities)
    *_, last = watched(document, "/sock")["syscalls"]
    assert last["action"] == "SCMP_ACT_NOTIFY"
    assert "swapoff" in last["names"]
    assert ("mount" in last["names"]) is (not capabilities)
    assert not {"write", "clone3", "personality"} & set(last["names"])  # the first no filter may notify of
    assert set(last["names"]) <= known_calls()


def test_names() -> None:
    assert call_name(X86_64, 168) in ("swapoff", "syscall_168")
    assert call_name(X86_64, 99_999) == "syscall_99999"


@pytest.fixture
async def notifier() -> AsyncIterator[Notifier]:
    directory = short_directory()
    made = Notifier(Settings(f"{directory}/seccomp"))
    yield made
    await made.close()
    shutil.rmtree(directory)


async def connect(notifier: Notifier) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.setblocking(False)
    await asyncio.get_running_loop().sock_connect(link, os.path.join(notifier.settings.directory, IDENT))
    return link


@pytest.mark.parametrize(
    ("message", "descriptors"),
    [
        (b"not JSON", 1),
        (b"[]", 1),
        (b"{}", 1),
        (b'{"fds": ["seccompFd"]}', 0),
        (b'{"fds": ["other"]}', 1),
        (b'{"fds": ["seccompFd", "seccompFd"]}', 2),
        (b'{"fds": 7}', 3),
        (b"", 0),
    ],
)
async def test_nonsense_is_borne(
    notifier: Notifier, message: bytes, descriptors: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Told, every descriptor closed, and the next one is served."""
    before = len(os.listdir("/proc/self/fd"))
    await notifier.listen(IDENT, lambda call: None)
    for _ in range(2):
        link = await connect(notifier)
        pipe = os.pipe()
        if message:
            socket.send_fds(link, [message], [pipe[0]] * descriptors)
        link.shutdown(socket.SHUT_WR)
        assert await asyncio.get_running_loop().sock_recv(link, 1) == b""  # it has closed its side
        link.close()
        for fd in pipe:
            os.close(fd)
    assert capfd.readouterr().err.count("No seccomp descriptor came") == 2
    await notifier.forget(IDENT)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert not os.path.exists(f"{notifier.settings.directory}/{IDENT}")


async def test_a_runtime_that_says_nothing_is_left(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "HANDOVER", 0.01)
    await notifier.listen(IDENT, lambda call: None)
    link = await connect(notifier)
    assert await asyncio.get_running_loop().sock_recv(link, 1) == b""
    link.close()
    assert "No seccomp descriptor came from the runtime" in capfd.readouterr().err


async def test_listening_again_replaces_the_socket(notifier: Notifier) -> None:
    await notifier.listen(IDENT, lambda call: None)
    await notifier.close()
    assert os.path.exists(f"{notifier.settings.directory}/{IDENT}")
    await notifier.listen(IDENT, lambda call: None)
    (await connect(notifier)).close()
    await notifier.forget(IDENT)
    await notifier.forget(IDENT)
    assert os.listdir(notifier.settings.directory) == []


async def test_a_directory_that_cannot_be(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    for name, why in (("file/seccomp", "Not a directory"), ("x" * 200, "path too long")):
        with pytest.raises(StoreFailure, match=why):
            await Notifier(Settings(f"{tmp_path}/{name}")).listen(IDENT, lambda call: None)
