"""Exec over SPDY: streams, outcomes, half-close, terminals, versions, clients that leave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct

import pytest

from pycrio._native.base import Fd
from pycrio._native.run import readable
from pycrio.api.streaming import spdy
from pycrio.errors import NotFound, RuntimeFailure
from tests import streams
from tests.unit.api.streaming.conftest import CONTAINER, MakeRig, Rig

VERSIONS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")


async def gone(pid: int) -> None:
    """Wait for the end of a process."""
    try:
        fd = Fd(os.pidfd_open(pid))
    except ProcessLookupError:
        return
    try:
        await readable(fd.fileno())
    finally:
        fd.close()


async def test_output_and_success(rig: Rig) -> None:
    done = await streams.run(await rig.exec("sh", "-c", "echo out; echo err >&2"))
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert done.status == {"metadata": {}, "status": "Success"}


async def test_exit_code(rig: Rig) -> None:
    done = await streams.run(await rig.exec("sh", "-c", "exit 37"))
    assert done.code == 37
    assert done.status["status"] == "Failure"
    assert done.status["reason"] == "NonZeroExitCode"


async def test_killed_command_has_the_shells_code(rig: Rig) -> None:
    assert (await streams.run(await rig.exec("sh", "-c", "kill -9 $$"))).code == 128 + signal.SIGKILL


@pytest.mark.parametrize("honest", [False, True])
async def test_input_reaches_the_command_and_its_end_too(rig: Rig, honest: bool) -> None:
    data = os.urandom(5_000_000)
    done = await streams.run(await rig.exec("cat", stdin=True), data, honest=honest)
    assert done.stdout == data
    assert done.code == 0


@pytest.mark.parametrize("honest", [False, True])
async def test_large_output(rig: Rig, honest: bool) -> None:
    done = await streams.run(await rig.exec("head", "-c", "30000000", "/dev/zero"), honest=honest)
    assert len(done.stdout) == 30_000_000
    assert done.code == 0


async def test_one_write_before_the_end_of_a_long_input_is_not_lost(rig: Rig) -> None:
    """The command ends while the client still sends: what it said and its code arrive all the same."""
    for _ in range(20):
        done = await streams.run(await rig.exec("sh", "-c", "echo said; exit 3", stdin=True), b"x" * 3_000_000)
        assert (done.stdout, done.code) == (b"said\n", 3)


async def test_command_without_input_reads_the_end(rig: Rig) -> None:
    assert (await streams.run(await rig.exec("cat"))).stdout == b""


async def test_command_that_closes_its_input_does_not_hold_up_the_client(rig: Rig) -> None:
    url = await rig.exec("sh", "-c", "exec <&-; read x; echo went on", stdin=True)
    async with streams.command(url, stdin=True) as session:
        assert session.stdin is not None
        await session.stdin.write(b"x" * 6_000_000, fin=True)
        assert (await session.outcome()).stdout == b"went on\n"


@pytest.mark.parametrize("protocol", VERSIONS[1:])
async def test_older_versions_say_failures_in_words(rig: Rig, protocol: str) -> None:
    done = await streams.run(await rig.exec("sh", "-c", "echo out; exit 7"), protocols=[protocol])
    assert (done.stdout, done.error) == (b"out\n", b"command terminated with non-zero exit code: 7")
    done = await streams.run(await rig.exec("true"), protocols=[protocol])
    assert done.error == b""


async def test_client_without_a_version_gets_the_first(rig: Rig) -> None:
    async with streams.command(await rig.exec("false"), protocols=[]) as session:
        assert "x-stream-protocol-version" not in session.client.wire.headers
        assert (await session.outcome()).error == b"command terminated with non-zero exit code: 1"


async def test_the_clients_first_version_that_is_served_counts(rig: Rig) -> None:
    for asked, chosen in ((VERSIONS, VERSIONS[0]), (("v9.channel.k8s.io", VERSIONS[2], VERSIONS[0]), VERSIONS[2])):
        async with streams.command(await rig.exec("true"), protocols=asked) as session:
            assert session.client.protocol == chosen
            await session.outcome()
    async with streams.spdy_client(await rig.exec("true"), [", ".join(VERSIONS[1:])]) as client:
        assert client.protocol == VERSIONS[1]


async def test_failure_to_start_is_told_on_the_error_stream(rig: Rig) -> None:
    rig.runtime.fail = RuntimeFailure("no such runtime")
    done = await streams.run(await rig.exec("true"))
    assert done.status["status"] == "Failure"
    assert done.status["reason"] == "InternalError"
    assert "no such runtime" in done.status["message"]
    rig.runtime.fail = None
    url = await rig.exec("true")
    rig.node.containers.remove(CONTAINER)
    assert "not found" in (await streams.run(url)).status["message"]


async def test_terminal(rig: Rig) -> None:
    url = await rig.exec("sh", "-c", "stty -echo; tty; read x; stty size; echo got $x; exit 3", stdin=True, tty=True)
    async with streams.command(url, stdin=True, tty=True) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        assert session.resize is not None
        assert (await session.stdout.read()).startswith(b"/dev/pts/")
        await session.resize.write(b'{"Width":101,"Hei')
        await session.resize.write(b'ght":33}\n{"Width":102,"Height":34}')
        await session.client.ping()
        await session.stdin.write(b"line\n")
        done = await session.outcome()
        assert done.stdout == b"34 102\r\ngot line\r\n"
        assert done.code == 3


async def test_terminals_last_words_are_not_lost(rig: Rig) -> None:
    for _ in range(30):
        done = await streams.run(await rig.exec("sh", "-c", "echo last", tty=True), tty=True)
        assert done.stdout == b"last\r\n"


async def test_what_the_command_leaves_behind_does_not_hold_up_its_end(rig: Rig) -> None:
    done = await streams.run(await rig.exec("sh", "-c", "sleep 1000 & echo $!"))
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.code == 0


@pytest.mark.parametrize("tty", [False, True])
async def test_command_of_a_client_that_leaves_is_killed(rig: Rig, tty: bool) -> None:
    async with streams.command(await rig.exec("sleep", "1000", tty=tty, stdin=True), tty=tty, stdin=True) as session:
        await session.client.ping()
    while rig.sessions:
        await asyncio.wait(rig.server._clients)
    assert rig.runtime.running == 0
    await gone(rig.runtime.pids[0])


@pytest.mark.parametrize("politely", [False, True])
async def test_client_that_leaves_with_unread_input_is_noticed(
    rig: Rig, politely: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is not read any more because the command takes nothing."""
    monkeypatch.setattr("pycrio.api.streaming.link.PROBE", 0.1)
    async with streams.command(await rig.exec("sleep", "1000", stdin=True), stdin=True) as session:
        assert session.stdin is not None
        writing = asyncio.ensure_future(session.stdin.write(b"x" * 50_000_000))
        _, still = await asyncio.wait({writing}, timeout=0.5)
        assert still, "somebody took 50 MB that nobody reads"
        writing.cancel()
        if politely:  # a FIN behind bytes that nobody reads
            session.client.wire.writer.transport.abort()
        else:
            sock = session.client.wire.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            session.client.wire.writer.transport.abort()
    while rig.sessions:
        await asyncio.wait(rig.server._clients)
    await gone(rig.runtime.pids[0])


async def test_slow_client_slows_the_command_down(rig: Rig) -> None:
    script = "import os\nn = 0\nwhile n < 1 << 28: n += os.write(1, b'x' * 65536); os.write(2, b'.')"
    async with streams.command(await rig.exec("python3", "-c", script)) as session:
        session.client.reading.clear()
        assert session.stderr is not None
        assert session.stdout is not None
        before = -1  # nobody tells when a process blocks: it has when it does not go on
        while (now := _written(rig)) != before:
            before = now
            await asyncio.sleep(0.2)
        assert before < 32 << 20, "the command wrote all that although nobody reads"
        session.client.reading.set()
        done = await session.outcome()
        assert len(done.stdout) == 1 << 28
        assert done.code == 0


def _written(rig: Rig) -> int:
    if not rig.runtime.pids:
        return -2
    with open(f"/proc/{rig.runtime.pids[0]}/io") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("wchar"))


async def test_reset_output_is_dropped_and_the_command_goes_on(rig: Rig) -> None:
    async with streams.command(await rig.exec("sh", "-c", "head -c 3000000 /dev/zero; exit 4")) as session:
        assert session.stdout is not None
        await session.client.send(spdy.Reset(session.stdout.ident, spdy.CANCEL))
        session.stdout.inbox.put_nowait(b"")
        assert (await session.outcome()).code == 4


async def test_streams_that_nobody_asked_for_are_reset(rig: Rig) -> None:
    async with streams.spdy_client(await rig.exec("sh", "-c", "exit 5")) as client:
        odd = await client.stream(streamType="stdin")
        nameless = await client.stream(other="stdin")
        error, out = await client.stream(streamType="error"), await client.stream(streamType="stdout")
        again = await client.stream(streamType="stdout")
        await client.stream(streamType="stderr")
        assert json.loads(await error.read_all())["details"]["causes"][0]["message"] == "5"
        assert await out.read_all() == b""
        assert [s.reset for s in (odd, nameless, again)] == [spdy.REFUSED_STREAM] * 3


async def test_client_that_does_not_open_its_streams(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pycrio.api.streaming.spdy_channels.CREATION_TIMEOUT", 0.05)
    async with streams.spdy_client(await rig.exec("true")) as client:
        await client.stream(streamType="error")
        await client.ended.wait()
    assert not rig.runtime.pids


async def test_idle_session_ends(make_rig: MakeRig) -> None:
    async with make_rig(idle_timeout=0.2) as rig:
        async with streams.command(await rig.exec("sleep", "1000")) as session:
            assert "nothing had been transferred for 0.2 s" in (await session.outcome()).status["message"]
            await session.client.ended.wait()
        await gone(rig.runtime.pids[0])


async def test_idle_client_that_does_not_read_is_left_all_the_same(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pycrio.api.streaming.remotecommand.LAST_WORDS", 0.1)
    async with make_rig(idle_timeout=0.5) as rig:
        async with streams.command(await rig.exec("cat", "/dev/zero")) as session:
            session.client.reading.clear()
            while rig.sessions:
                await asyncio.wait(rig.server._clients)
        await gone(rig.runtime.pids[0])


async def test_busy_session_does_not_idle(make_rig: MakeRig) -> None:
    async with make_rig(idle_timeout=2.0) as rig:
        async with streams.command(await rig.exec("cat", stdin=True), stdin=True) as session:
            assert session.stdin is not None
            assert session.stdout is not None
            loop = asyncio.get_running_loop()
            end = loop.time() + 3.0
            while loop.time() < end:
                await session.stdin.write(b"x")
                assert await session.stdout.read()
            await session.stdin.close()
            assert json.loads(await session.error.read_all())["status"] == "Success"


async def test_many_short_sessions_at_once(rig: Rig) -> None:
    async def one(number: int) -> None:
        done = await streams.run(await rig.exec("echo", str(number)))
        assert (done.stdout, done.code) == (f"{number}\n".encode(), 0)

    for start in range(0, 200, 20):
        await asyncio.gather(*(one(n) for n in range(start, start + 20)))


async def test_unknown_container_has_no_url(rig: Rig) -> None:
    from pycrio.api._pb import api_pb2 as pb

    with pytest.raises(NotFound):
        await rig.server.exec(pb.ExecRequest(container_id="nobody", cmd=["true"], stdout=True))
    with pytest.raises(NotFound):
        await rig.server.attach(pb.AttachRequest(container_id="nobody", stdout=True))


async def test_server_that_closes_kills_its_commands(make_rig: MakeRig) -> None:
    async with make_rig() as rig:
        async with streams.command(await rig.exec("sleep", "1000")) as session:
            await session.client.ping()
            while not rig.runtime.pids:
                await session.client.ping()
            await rig.server.close()
            await session.client.ended.wait()
        await gone(rig.runtime.pids[0])
