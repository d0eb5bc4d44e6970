"""The metrics endpoint over TCP, a unix socket and TLS, with real connections on loopback."""

from __future__ import annotations

import asyncio
import gzip
import os
import pathlib
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable

import pytest
import trustme

from pycrio.errors import ConfigError
from pycrio.obs import exporter, tls
from pycrio.obs.exporter import Exporter, ExporterSettings
from pycrio.obs.metrics import Metrics

NAME = b"container_runtime_crio_operations_total"


async def ask(port: int, request: str, context: ssl.SSLContext | None = None) -> tuple[bytes, bytes]:
    """Send a request; head and body of everything that comes until the server closes."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost" if context else None
    )
    writer.write(request.encode())
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def get(path: str = "/metrics", *headers: str, method: str = "GET") -> str:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""])


@pytest.fixture
def metrics() -> Metrics:
    found = Metrics()
    found.operation("Version", 0.1)
    return found


async def test_requests(metrics: Metrics) -> None:
    server = Exporter(ExporterSettings(port=0), metrics)
    await server.start()
    head, body = await ask(server.port, get())
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"Content-Type: text/plain; version=0.0.4" in head
    assert NAME + b'{operation="Version"} 1.0' in body
    assert b"go_goroutines 0.0" not in body
    head, body = await ask(server.port, get("/metrics?x=1", "Accept-Encoding: gzip, deflate"))
    assert b"Content-Encoding: gzip" in head
    assert NAME in gzip.decompress(body)
    assert b'promhttp_metric_handler_requests_total{code="200"} 1.0' in gzip.decompress(body)
    for request, code in (
        (get("/"), b"404"),
        (get(method="POST"), b"405"),
        ("nonsense\r\n\r\n", b"400"),
        ("GET /metrics SPDY/1\r\n\r\n", b"400"),
        ("GET /" + "x" * exporter.HEAD_LIMIT + " HTTP/1.1\r\n\r\n", b"431"),
        (get(method="HEAD"), b"200"),
    ):
        head, body = await ask(server.port, request)
        assert head.split()[1] == code
        assert (body == b"") is (b"HEAD" in request.encode())
    await server.close()
    with pytest.raises(OSError, match=r"."):
        await ask(server.port, get())


async def test_a_connection_serves_many_requests(metrics: Metrics) -> None:
    server = Exporter(ExporterSettings(port=0), metrics)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for _ in range(3):
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        assert NAME in await reader.readexactly(length)
    await server.close()
    assert await reader.read() == b""
    writer.close()


async def test_too_many_connections_are_refused(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "MAX_CLIENTS", 1)
    server = Exporter(ExporterSettings(port=0), metrics)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert (await ask(server.port, get()))[0].split()[1] == b"503"
    writer.close()
    await writer.wait_closed()
    await server.close()


async def test_rendering_runs_where_the_caller_says_and_may_fail(metrics: Metrics) -> None:
    calls: list[bool] = []

    async def offload(render: Callable[[], bytes]) -> bytes:
        calls.append(True)
        if len(calls) == 1:
            raise RuntimeError("a collector broke")
        return await asyncio.to_thread(render)

    server = Exporter(ExporterSettings(port=0), metrics, offload)
    await server.start()
    assert (await ask(server.port, get()))[0].split()[1] == b"500"
    head, body = await ask(server.port, get())
    assert head.split()[1] == b"200"
    assert b'promhttp_metric_handler_requests_total{code="500"} 1.0' in body
    await server.close()


async def test_the_unix_socket(metrics: Metrics, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "run" / "m.sock")
    os.mkdir(tmp_path / "run")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    server = Exporter(ExporterSettings(port=0, socket=path), metrics)
    await server.start()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(get().encode())
    assert NAME in await reader.read()
    writer.close()
    with pytest.raises(ConfigError, match="another process"):
        await Exporter(ExporterSettings(port=0, socket=path), metrics).start()
    await server.close()
    assert not os.path.exists(path)
    pathlib.Path(path).write_text("not a socket")
    with pytest.raises(ConfigError, match="no socket"):
        await Exporter(ExporterSettings(port=0, socket=path), metrics).start()
    assert pathlib.Path(path).read_text() == "not a socket"


async def test_a_taken_port_is_named(metrics: Metrics) -> None:
    server = Exporter(ExporterSettings(port=0), metrics)
    await server.start()
    with pytest.raises(ConfigError, match=str(server.port)):
        await Exporter(ExporterSettings(port=server.port), metrics).start()
    await server.close()


def write_pair(directory: pathlib.Path, ca: trustme.CA) -> tuple[str, str]:
    leaf = ca.issue_cert("localhost")
    cert, key = directory / "cert.pem", directory / "key.pem"
    for path, blobs in ((cert, leaf.cert_chain_pems), (key, [leaf.private_key_pem])):
        fresh = path.with_suffix(".new")
        fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
        os.replace(fresh, path)
    return str(cert), str(key)


def client(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


Served = Callable[[tls.TlsSettings], Awaitable[Exporter]]


async def test_tls_follows_its_files(metrics: Metrics, tmp_path: pathlib.Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    cert, key = write_pair(tmp_path, first)
    server = Exporter(ExporterSettings(port=0, tls=tls.TlsSettings(cert, key)), metrics)
    await server.start()
    assert NAME in (await ask(server.port, get(), client(first)))[1]
    write_pair(tmp_path, second)
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(server.port, get(), client(first))
    assert NAME in (await ask(server.port, get(), client(second)))[1]
    # A bad file and an absent one change nothing.
    pathlib.Path(cert).write_text("garbage")
    assert NAME in (await ask(server.port, get(), client(second)))[1]
    os.unlink(cert)
    assert NAME in (await ask(server.port, get(), client(second)))[1]
    write_pair(tmp_path, first)
    assert NAME in (await ask(server.port, get(), client(first)))[1]
    await server.close()


async def test_client_certificates_versions_and_suites(metrics: Metrics, tmp_path: pathlib.Path) -> None:
    ca = trustme.CA()
    cert, key = write_pair(tmp_path, ca)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    settings = tls.TlsSettings(
        cert, key, str(tmp_path / "ca.pem"), cipher_suites=("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",)
    )
    context = tls.ServerTls(settings).context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    old = [c["name"] for c in context.get_ciphers() if c["protocol"] != "TLSv1.3"]
    assert old == ["ECDHE-ECDSA-AES256-GCM-SHA384"]
    assert tls.ServerTls(tls.TlsSettings(cert, key, min_version="VersionTLS13")).context.minimum_version is (
        ssl.TLSVersion.TLSv1_3
    )
    server = Exporter(ExporterSettings(port=0, tls=settings), metrics)
    await server.start()
    try:
        # With TLS 1.3 the refusal reaches the client after its own part of the handshake.
        answer = await ask(server.port, get(), client(ca))
    except (ssl.SSLError, ConnectionError):
        answer = (b"", b"")
    assert answer == (b"", b"")
    known = client(ca)
    ca.issue_cert("client").configure_cert(known)
    assert NAME in (await ask(server.port, get(), known))[1]
    await server.close()


def test_every_suite_is_one_that_openssl_has() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name in tls.SUITES.values():
        context.set_ciphers(f"{name}:@SECLEVEL=0")
        assert name in {cipher["name"] for cipher in context.get_ciphers()}


async def test_missing_files_are_made(metrics: Metrics, tmp_path: pathlib.Path) -> None:
    cert, key = str(tmp_path / "new" / "cert.pem"), str(tmp_path / "new" / "key.pem")
    server = Exporter(ExporterSettings(port=0, tls=tls.TlsSettings(cert, key)), metrics)
    await server.start()
    for path in (cert, key):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    trusting = ssl.create_default_context(cafile=cert)
    assert NAME in (await ask(server.port, get(), trusting))[1]
    await server.close()
    before = pathlib.Path(cert).read_bytes()
    assert tls.make_missing(cert, key, []) is False
    os.unlink(key)
    with pytest.raises(ConfigError, match="is missing, but"):
        tls.make_missing(cert, key, [])
    assert pathlib.Path(cert).read_bytes() == before
    with pytest.raises(ConfigError, match="cannot be set up"):
        tls.ServerTls(tls.TlsSettings(cert, key))
