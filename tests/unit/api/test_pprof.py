"""The pages below /debug/pprof, on both of their places."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from pycrio.api import pprof
from pycrio.api.http import Pages, StatusServer
from pycrio.api.pprof import Profiles
from pycrio.errors import Busy, ConfigError
from pycrio.obs.profile import heap
from tests.pprof import read
from tests.unit.api.test_http import Fake, get, running


async def in_thread(function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function)


class Profiled(Fake):
    def pages(self) -> Pages:
        return dataclasses.replace(super().pages(), profiles=Profiles(in_thread).page)


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


async def test_only_where_it_is_switched_on(tmp_path: pathlib.Path) -> None:
    server = StatusServer(Fake().pages())
    for target in ("/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprofile"):
        assert (await server.page(target)).status == 404
    async with running(tmp_path, Profiled()) as path:
        assert (await get(path, "/debug/pprofile"))[0] == 404
        assert (await get(path, "/debug/goroutines"))[0] == 200


async def test_the_index_names_what_there_is(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path, Profiled()) as path:
        status, headers, body = await get(path, "/debug/pprof/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        names = [part.partition("?")[0] for part in body.decode().split("href='")[1:]]
        assert names == ["cmdline", "goroutine", "heap", "profile", "threadcreate"]
        for name in names:
            query = "?seconds=1" if name == "profile" else ""
            status, headers, body = await get(path, f"/debug/pprof/{name}{query}")
            assert (status, bool(body)) == (200, True)
            if name != "cmdline":
                assert headers["content-type"] == "application/octet-stream"
                assert headers["content-disposition"] == f'attachment; filename="{name}.pb.gz"'
                assert read(body).kinds
        for name, words in (("mutex", b"Python keeps no profile called mutex"), ("nonsense", b"404 page not found")):
            status, _, body = await get(path, f"/debug/pprof/{name}")
            assert status == 404
            assert words in body


async def test_a_cpu_profile_of_what_goes_on(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path, Profiled()) as path:
        asking = asyncio.create_task(get(path, "/debug/pprof/profile?seconds=1"))
        while not asking.done():
            burn(0.05)
            await asyncio.sleep(0)
        found = read((await asking)[2])
        assert found.kinds == [("samples", "count"), ("cpu", "nanoseconds")]
        assert found.of("test_pprof.burn", "cpu") > 0
        asking = asyncio.create_task(get(path, "/debug/pprof/profile?seconds=1&format=collapsed"))
        while not asking.done():
            burn(0.05)
            await asyncio.sleep(0)
        lines = (await asking)[2].decode().splitlines()
        assert any("test_pprof.burn" in line and int(line.rpartition(" ")[2]) > 0 for line in lines)


async def test_one_cpu_profile_at_a_time(tmp_path: pathlib.Path) -> None:
    profiles = Profiles(in_thread)
    first = asyncio.create_task(profiles.page("debug/pprof/profile", {"seconds": "600"}))
    await asyncio.sleep(0)  # until it has begun
    async with running(tmp_path, Profiled()) as path:
        status, _, body = await get(path, "/debug/pprof/profile?seconds=1")
        assert (status, b"already in use" in body) == (409, True)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await get(path, "/debug/pprof/profile?seconds=1"))[0] == 200


@pytest.mark.parametrize("query", ["seconds=x", "seconds=-1", "seconds=601", "seconds=1.5", "seconds=", "seconds=٣"])
async def test_bad_seconds(query: str) -> None:
    server = StatusServer(Profiled().pages())
    for name in ("profile", "heap"):
        page = await server.page(f"/debug/pprof/{name}?{query}")
        assert page.status == 400
        assert b"is not a whole number from 0 to 600" in page.body


class Marker:
    """Something to be found."""


async def test_memory(tmp_path: pathlib.Path) -> None:
    kept = [Marker() for _ in range(50)]
    async with running(tmp_path, Profiled()) as path:
        found = read((await get(path, "/debug/pprof/heap"))[2])
        assert found.of("test_pprof.Marker", "inuse_objects") == len(kept)
        assert b"objects known to the collector" in (await get(path, "/debug/pprof/heap?debug=1"))[2]
        assert b"test_pprof.Marker " in (await get(path, "/debug/pprof/heap?format=collapsed"))[2]


async def test_places_that_allocate_while_one_looks_on() -> None:
    profiles = Profiles(in_thread)
    asking = asyncio.create_task(profiles.page("debug/pprof/heap", {"seconds": "1"}))
    await asyncio.sleep(0)  # until it has begun, which it does before it first waits
    assert heap.counting()
    with pytest.raises(Busy, match="for somebody else"):
        await profiles.page("debug/pprof/heap", {"seconds": "1"})
    block = bytes(1_000_000)
    found = read((await asking).body)
    assert found.of("api/test_pprof.py", "inuse_space") >= len(block)
    assert not heap.counting()


async def test_what_has_been_added_since_where_all_is_counted() -> None:
    first = asyncio.Event()

    async def tells(function: Callable[[], Any]) -> Any:
        result = await in_thread(function)
        first.set()
        return result

    profiles = Profiles(tells)
    heap.start()
    try:
        old = bytes(3_000_000)
        asking = asyncio.create_task(profiles.page("debug/pprof/heap", {"seconds": "1"}))
        await first.wait()
        new = bytes(1_000_000)
        added = read((await asking).body)
        everything = read((await profiles.page("debug/pprof/heap", {})).body)
        assert heap.counting()
    finally:
        heap.stop()
    here = "api/test_pprof.py"
    assert len(new) <= added.of(here, "inuse_space") < len(old)
    assert everything.of(here, "inuse_space") >= len(old) + len(new)


async def test_what_is_waited_for(tmp_path: pathlib.Path) -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(waits()) for _ in range(3)]
    await asyncio.sleep(0)
    async with running(tmp_path, Profiled()) as path:
        found = read((await get(path, "/debug/pprof/goroutine"))[2])
        assert found.kinds == [("goroutine", "count")]
        ((stack, values),) = [s for s in found.samples if any(f[0].endswith("waits") for f in s[0])]
        assert values == {"goroutine": 3}
        assert stack[0][0].endswith("wait")  # innermost first
        assert b"thread MainThread" in (await get(path, "/debug/pprof/goroutine?debug=2"))[2]
        threads = read((await get(path, "/debug/pprof/threadcreate"))[2])
        assert threads.total("threadcreate") >= 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_port_of_its_own() -> None:
    server = await pprof.serve(Profiles(in_thread), 0)
    port = server._server.sockets[0].getsockname()[1] if server._server is not None else 0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /debug/pprof/cmdline HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\0" in answer
        assert (await server.page("/config")).status == 404
        with pytest.raises(ConfigError, match=f"port {port}"):
            await pprof.serve(Profiles(in_thread), port)
    finally:
        await server.stop()
