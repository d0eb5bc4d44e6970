"""The status pages over a socket, good and bad clients."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import AsyncIterator

import pytest

from pycrio.api import http
from pycrio.api.http import Pages, StatusServer
from pycrio.errors import NotFound, StoreFailure, WrongState
from pycrio.flows.views import Inspection

FOUND = Inspection(
    name="k8s_app",
    pid=7,
    image="busybox",
    image_ref="busybox@sha256:1",
    created=5,
    labels={"a": "b"},
    annotations={},
    spec_annotations={"x": "y"},
    log_path="/l",
    root="/r",
    pod_id="p",
    ips=("10.0.0.2",),
)


class Fake:
    """Pages of a node with one container called c, which is running."""

    def __init__(self) -> None:
        self.paused: list[str] = []

    def pages(self) -> Pages:
        return Pages(
            config=lambda: "[crio]\n",
            info=lambda: {"storage_driver": "overlay"},
            inspect=self.inspect,
            pause=self.pause,
            unpause=self.unpause,
        )

    async def inspect(self, ident: str) -> Inspection:
        if ident == "broken":
            raise StoreFailure("no state")
        if ident == "bug":
            raise KeyError(ident)
        if ident != "c":
            raise NotFound("container", ident)
        return FOUND

    async def pause(self, ident: str) -> None:
        await self.inspect(ident)
        self.paused.append(ident)

    async def unpause(self, ident: str) -> None:
        await self.inspect(ident)
        if ident not in self.paused:
            raise WrongState(f"container {ident} is not paused")
        self.paused.remove(ident)


@contextlib.asynccontextmanager
async def running(tmp_path: pathlib.Path, fake: Fake | None = None) -> AsyncIterator[str]:
    server = StatusServer((fake or Fake()).pages())
    path = str(tmp_path / "http.sock")
    await server.start(path)
    try:
        yield path
    finally:
        await server.stop()


async def talk(path: str, sent: bytes) -> bytes:
    """Everything that the server answers to these bytes."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(sent)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


async def get(path: str, target: str) -> tuple[int, dict[str, str], bytes]:
    answer = await talk(path, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}
    assert int(headers["content-length"]) == len(body)
    return int(first.split()[1]), headers, body


async def test_pages(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as path:
        status, headers, body = await get(path, "/config")
        assert (status, headers["content-type"], body) == (200, "application/toml", b"[crio]\n")
        status, headers, body = await get(path, "/info")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body) == {"storage_driver": "overlay"}
        status, headers, body = await get(path, "/debug/goroutines")
        assert status == 200
        assert b"test_pages" in body
        assert b"thread MainThread" in body
        status, headers, body = await get(path, "/debug/heap")
        assert (status, headers["content-type"]) == (200, "application/octet-stream")
        assert b"dict" in body


async def test_a_container(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as path:
        status, _, body = await get(path, "/containers/c?x=1")
        assert status == 200
        assert json.loads(body) == {
            "name": "k8s_app",
            "pid": 7,
            "image": "busybox",
            "image_ref": "busybox@sha256:1",
            "created_time": 5,
            "labels": {"a": "b"},
            "annotations": {},
            "crio_annotations": {"x": "y"},
            "log_path": "/l",
            "root": "/r",
            "sandbox": "p",
            "ip_addresses": ["10.0.0.2"],
        }
    assert http.inspection(dataclasses.replace(FOUND, host_network=True))["host_network"] is True


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/containers/absent", 404),
        ("/containers/broken", 500),
        ("/containers/bug", 500),
        ("/containers/", 404),
        ("/unpause/c", 409),
        ("/pause/absent", 404),
        ("/", 404),
        ("/nothing", 404),
        ("/debug/pprof/", 404),
        ("/config/x", 404),
    ],
)
async def test_refusals(tmp_path: pathlib.Path, target: str, expected: int) -> None:
    async with running(tmp_path) as path:
        status, _, body = await get(path, target)
    assert status == expected
    assert body
    assert b"Traceback" not in body


async def test_pause_and_unpause(tmp_path: pathlib.Path) -> None:
    fake = Fake()
    async with running(tmp_path, fake) as path:
        status, headers, body = await get(path, "/pause/c")
        assert (status, headers["content-type"], body) == (200, "text/html", b"200 OK")
        assert fake.paused == ["c"]
        assert (await get(path, "/unpause/c"))[0] == 200
        assert fake.paused == []


async def test_other_methods(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as path:
        answer = await talk(path, b"POST /pause/c HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert answer.startswith(b"HTTP/1.1 405 ")
        answer = await talk(path, b"HEAD /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")


async def test_kept_connections_answer_again(tmp_path: pathlib.Path) -> None:
    one = b"GET /config HTTP/1.1\r\nHost: x\r\n\r\n"
    async with running(tmp_path) as path:
        assert (await talk(path, one * 3)).count(b"[crio]\n") == 3
        assert (await talk(path, b"GET /config HTTP/1.0\r\n\r\n")).count(b"[crio]\n") == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /config HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /config HTTP/1.1\r\nHost: x\r\nContent-Length: no\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_bad_requests(tmp_path: pathlib.Path, sent: bytes) -> None:
    async with running(tmp_path) as path:
        answer = await talk(path, sent)
        assert answer.startswith(b"HTTP/1.1 4")
        assert (await get(path, "/config"))[0] == 200


async def test_a_slow_header_ends_the_connection(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEADER_TIMEOUT", 0.05)
    async with running(tmp_path) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /config HT")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()


async def test_stop_cuts_open_connections(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /config HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"[crio]\n")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_leaves_early_is_no_event(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as path:
        for _ in range(20):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /debug/heap HTTP/1.1\r\nHost: x\r\n\r\n")
            writer.transport.abort()
        assert (await get(path, "/config"))[0] == 200
