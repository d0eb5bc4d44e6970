"""The socket for events, the command that feeds it, and shims' logs."""

from __future__ import annotations

import asyncio
import os
import pathlib

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from pycrio.drivers.shim import names
from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.drivers.shim.events import Events, Log
from pycrio.drivers.shim.publish import publish
from pycrio.errors import InvalidRequest, RuntimeFailure, Unavailable
from pycrio.obs import log as obslog
from pycrio.ttrpc.frames import Plain
from pycrio.ttrpc.link import UNIMPLEMENTED, CallError, Link, refuse


def event(ident: str) -> bytes:
    return AnyMessage(
        type_url=names.TASK_OOM, value=pb.TaskOOM(container_id=ident).SerializeToString()
    ).SerializeToString()


async def test_events_by_the_command(tmp_path: pathlib.Path) -> None:
    seen: list[str] = []
    events = Events(str(tmp_path / "e.sock"), seen.append)
    (tmp_path / "e.sock").touch()  # of a daemon that was killed
    await events.open()
    await events.open()
    assert (tmp_path / "e.sock").stat().st_mode & 0o777 == 0o600
    await asyncio.to_thread(publish, events.path, names.OOM_TOPIC, "default", event("one"))
    await asyncio.to_thread(publish, f"unix://{events.path}", "/tasks/exit", "default", event("two"))
    assert seen == ["one"]
    with pytest.raises(InvalidRequest, match="no protobuf"):
        await asyncio.to_thread(publish, events.path, names.OOM_TOPIC, "default", b"\xff\xff")
    await events.close()
    await events.close()
    assert not (tmp_path / "e.sock").exists()
    with pytest.raises(Unavailable, match="does not take events"):
        await asyncio.to_thread(publish, events.path, names.OOM_TOPIC, "default", event("one"))


async def test_nothing_else_is_served(tmp_path: pathlib.Path) -> None:
    events = Events(str(tmp_path / "e.sock"), lambda ident: None)
    await events.open()
    link = Link(refuse, accepted=False, codec=Plain(), peer="daemon")
    await asyncio.get_running_loop().create_unix_connection(lambda: link, events.path)
    with pytest.raises(CallError) as failure:
        await link.call("containerd.services.content", "Read", b"", 10)
    assert failure.value.code == UNIMPLEMENTED
    link.close("done")
    await link.wait_closed()
    await events.close()


async def test_a_socket_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RuntimeFailure, match="cannot be opened"):
        await Events(str(tmp_path / ("x" * 120)), lambda ident: None).open()


async def test_a_shim_s_log(tmp_path: pathlib.Path) -> None:
    seen: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    stop = obslog.observe(lambda level, name, fields: seen.put_nowait((name, str(fields.get("text")))))
    try:
        log = Log(str(tmp_path / "log"), "pod1")
        fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b'level=info msg=first\nlevel=error msg="bad thing"\nhalf')
        assert await seen.get() == ("Shim says", 'level=error msg="bad thing"')
        assert seen.empty()
        os.close(fd)
        log.close()
        log.close()
    finally:
        stop()


async def test_a_log_whose_shim_has_ended_is_closed(tmp_path: pathlib.Path) -> None:
    log = Log(str(tmp_path / "log"), "pod1")
    closed = asyncio.Event()
    close, log.close = log.close, lambda: (close(), closed.set())[0]  # type: ignore[method-assign]
    os.close(os.open(tmp_path / "log", os.O_WRONLY | os.O_NONBLOCK))
    await closed.wait()
    assert log._fd == -1
