"""Profiles of a real daemon: by HTTP on both places, and of a whole run."""

from __future__ import annotations

import http.client
import pathlib
import re
from collections.abc import Iterator

import pytest

from pycrio.commands.status import _UnixConnection
from tests.daemon import Daemon
from tests.isolation import Isolation, short_directory
from tests.pprof import Read, read

pytestmark = pytest.mark.system


@pytest.fixture
def daemon(isolation: Isolation) -> Iterator[Daemon]:
    daemon = Daemon(short_directory())
    yield daemon
    daemon.clean()


def fetch(connection: http.client.HTTPConnection, target: str) -> tuple[int, bytes]:
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def busy(daemon: Daemon, calls: int = 300) -> None:
    """Give it something to do."""
    with daemon.client() as cri:
        for _ in range(calls):
            cri.Status(verbose=True)


def of(daemon: Daemon, target: str) -> Read:
    status, body = fetch(_UnixConnection(f"{daemon.dir}/crio.sock"), target)
    assert status == 200, body
    return read(body)


@pytest.mark.effect(
    "cli.enable_profile_unix_socket", "cli.profile", "cli.profile_cpu", "cli.profile_mem", "cli.profile_port"
)
def test_profiles_on_both_places_and_of_the_whole_run(daemon: Daemon) -> None:
    cpu, memory = f"{daemon.dir}/cpu.pb.gz", f"{daemon.dir}/mem.pb.gz"
    flags = ("--profile", "--profile-port", "0", "--enable-profile-unix-socket")
    daemon.start(*flags, "--profile-cpu", cpu, "--profile-mem", memory)
    found = re.search(r"http://127\.0\.0\.1:(\d+)/debug/pprof/", daemon.log)
    assert found
    port = int(found[1])
    status, body = fetch(http.client.HTTPConnection("127.0.0.1", port, timeout=60), "/debug/pprof/")
    assert (status, b"goroutine" in body) == (200, True)
    assert fetch(http.client.HTTPConnection("127.0.0.1", port, timeout=60), "/config")[0] == 404
    waiting = of(daemon, "/debug/pprof/goroutine")
    assert waiting.of("notify.watchdog", "goroutine") + waiting.of("exits.watch", "goroutine") >= 1
    status, body = fetch(_UnixConnection(f"{daemon.dir}/crio.sock"), "/debug/pprof/profile?seconds=1")
    assert (status, b"already in use" in body) == (409, True)
    assert of(daemon, "/debug/pprof/heap").of("pycrio/daemon.py", "inuse_space") > 0
    busy(daemon)
    assert daemon.stop() == 0
    whole = read(pathlib.Path(cpu).read_bytes())
    assert whole.of("boundary.Boundary.unary.<locals>.handle", "cpu") + whole.of(".handle", "cpu") > 0
    assert any(stack[0][0].startswith("[") for stack, _ in whole.samples)  # native threads
    held = read(pathlib.Path(memory).read_bytes())
    assert held.of("pycrio/daemon.py", "inuse_space") > 0
    assert "has no effect" not in daemon.log


def test_a_profile_on_demand(daemon: Daemon) -> None:
    daemon.start("--enable-profile-unix-socket=true")
    connection = _UnixConnection(f"{daemon.dir}/crio.sock")
    connection.request("GET", "/debug/pprof/profile?seconds=2")
    busy(daemon)
    found = read(connection.getresponse().read())
    connection.close()
    assert found.of(".handle", "cpu") > 0
    assert of(daemon, "/debug/pprof/heap").of("flows.node_state.Node", "inuse_objects") == 1


def test_a_file_that_cannot_be_written_is_told_at_once(daemon: Daemon) -> None:
    daemon.start("--profile-cpu", f"{daemon.dir}/absent/cpu", wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 1
    assert "Not started" in daemon.log
    assert "absent/cpu" in daemon.log
