"""The mark of an exec: inherited whatever a process does, found by it, absent where a limit of that kind is in use."""

from __future__ import annotations

import os
import pathlib
import resource
import select
import signal
import subprocess
from typing import Any

import pytest

from pycrio.drivers.runtime import mark
from pycrio.drivers.runtime.cli import Runtime, Settings, _Scratch

UNLIMITED = (1 << 64) - 1


def marked(document: dict[str, Any], *command: str) -> list[str]:
    """A command with the limits that a runtime would set."""
    (limit,) = document["rlimits"]
    assert (limit["type"], limit["hard"]) == ("RLIMIT_RTTIME", UNLIMITED)
    return ["prlimit", f"--rttime={limit['soft']}:unlimited", *command]


def test_mark_is_added_to_the_container_s_limits() -> None:
    files = {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}
    base = {"args": ["x"], "rlimits": [files]}
    one, first = mark.put(base)
    _, second = mark.put(base)
    assert first != second
    assert base["rlimits"] == [files]
    assert one["rlimits"][0] == files
    assert mark.of(one) == first
    assert mark.of(base) == mark.of({}) == 0


def test_a_limit_of_the_container_stays() -> None:
    own = {"rlimits": [{"type": "RLIMIT_RTTIME", "soft": 5, "hard": 6}]}
    assert mark.put(own) == (own, 0)
    assert mark.of(own) == 0


def test_no_mark_that_could_not_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (7, 7))
    assert mark.put({"args": ["x"]}) == ({"args": ["x"]}, 0)


def test_bearers() -> None:
    document, mine = mark.put({})
    script = "(setsid sh -c 'echo $$; exec env -i sleep 1000' &) </dev/null; read x"
    command = marked(document, "sh", "-c", script)
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    strayed = int(parent.stdout.readline())
    try:
        assert sorted(mark.bearers(mine, 0)) == sorted([parent.pid, strayed])
        assert mark.bearers() == mark.bearers(0) == mark.bearers(mine ^ 1) == []
    finally:
        os.kill(strayed, signal.SIGKILL)  # it holds our pipe as well
        parent.communicate(b"\n")


async def test_what_strayed_from_an_exec_of_a_killed_daemon_is_ended(tmp_path: pathlib.Path) -> None:
    left = _Scratch(str(tmp_path), {})  # nobody closes it
    document = {"rlimits": [{"type": "RLIMIT_RTTIME", "soft": left._mark, "hard": UNLIMITED}]}
    stray = subprocess.Popen(marked(document, "sh", "-c", "echo; exec sleep 1000"), stdout=subprocess.PIPE)
    assert stray.stdout is not None
    stray.stdout.readline()
    ended = os.pidfd_open(stray.pid)
    try:
        assert await Runtime(Settings(str(tmp_path), "/none")).garbage() == 1
        assert select.select([ended], [], [], 30)[0]
        assert stray.wait() == -signal.SIGKILL
    finally:
        os.close(ended)
        stray.stdout.close()
        stray.kill()
        stray.wait()
