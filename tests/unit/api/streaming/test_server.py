"""The server around the sessions: URLs, refusals, TLS, addresses, what is not HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import pathlib
import ssl
import urllib.parse
from typing import Any

import pytest
import trustme

from pycrio.api.streaming import addresses
from pycrio.errors import ConfigError, Exhausted
from tests import streams
from tests.fixtures_registry import free_port
from tests.unit.api.streaming.conftest import MakeRig, Rig

SPDY = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", "v4.channel.k8s.io")]


async def refused(url: str, headers: list[tuple[str, str]] | None = None, method: str = "POST") -> streams.NotUpgraded:
    with pytest.raises(streams.NotUpgraded) as found:
        await streams.ask(url, SPDY if headers is None else headers, method)
    return found.value


async def test_a_url_is_good_once(rig: Rig) -> None:
    url = await rig.exec("true")
    assert urllib.parse.urlsplit(url).scheme == "http"
    assert (await streams.run(url)).code == 0
    assert (await refused(url)).status == 404


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_both_methods(rig: Rig, method: str) -> None:
    assert (await streams.run(await rig.exec("true"), method=method)).code == 0


async def test_other_methods(rig: Rig) -> None:
    url = await rig.exec("true")
    answer = await refused(url, method="PUT")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
    assert (await streams.run(url)).code == 0


async def test_urls_that_are_none(rig: Rig) -> None:
    url = await rig.exec("true")
    base, token = url.rsplit("/", 1)
    root = url.split("/exec/")[0]
    for bad in (f"{root}/", base, f"{base}/", f"{base}/{token}/x", f"{base}/{token[:-1]}", f"{base}//{token}"):
        assert (await refused(bad)).status == 404
    assert (await streams.run(url)).code == 0


async def test_a_url_of_another_kind(rig: Rig) -> None:
    assert (await refused((await rig.exec("true")).replace("/exec/", "/attach/"))).status == 404
    assert (await refused((await rig.attach()).replace("/attach/", "/portforward/"))).status == 404


async def test_an_expired_url(rig: Rig) -> None:
    url = await rig.exec("true")
    assert rig.server._tokens is not None
    rig.server._tokens._clock = lambda: asyncio.get_running_loop().time() + 60.0
    assert (await refused(url)).status == 404


async def test_too_many_urls(rig: Rig) -> None:
    for _ in range(1000):
        await rig.exec("true")
    with pytest.raises(Exhausted):
        await rig.exec("true")


@pytest.mark.parametrize(
    "headers",
    [[], [("Connection", "Upgrade"), ("Upgrade", "h2c")], [("Upgrade", "SPDY/3.1")], [("Connection", "Upgrade")]],
)
async def test_no_upgrade(rig: Rig, headers: list[tuple[str, str]]) -> None:
    assert (await refused(await rig.exec("true"), headers)).status == 400


async def test_unknown_versions(rig: Rig) -> None:
    headers = [*SPDY[:2], ("X-Stream-Protocol-Version", "v9.channel.k8s.io")]
    answer = await refused(await rig.exec("true"), headers)
    assert answer.status == 403
    accepted = answer.headers["x-accepted-stream-protocol-versions"].split(", ")
    assert accepted == ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]
    assert (await refused(await rig.forward(80))).status == 403


async def test_bytes_right_behind_the_request_count(rig: Rig) -> None:
    """A client need not wait for the answer."""
    from pycrio.api.streaming import spdy

    url = await rig.exec("cat", stdin=True)
    parts = urllib.parse.urlsplit(url)
    reader, writer = await streams.connect(url)
    head = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *(f"{n}: {v}" for n, v in SPDY), "", ""]
    serializer = spdy.Serializer()
    names = ("error", "stdin", "stdout", "stderr")
    frames: list[spdy.Frame] = [spdy.SynStream(2 * i + 1, (("streamtype", n),)) for i, n in enumerate(names)]
    frames.append(spdy.Data(3, b"early", True))
    writer.write("\r\n".join(head).encode() + b"".join(map(serializer.dump, frames)))
    await reader.readuntil(b"\r\n\r\n")
    parser, got = spdy.Parser(), b""
    while data := await reader.read(65536):
        got += b"".join(f.data for f in parser.feed(data) if isinstance(f, spdy.Data) and f.stream == 5)
    writer.close()
    assert got == b"early"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"nonsense\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBroken\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 200_000, b" 431 "),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n" + b"x" * 100_000, b" 413 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", b" 400 "),
    ],
)
async def test_what_is_not_http(rig: Rig, text: bytes, status: bytes) -> None:
    reader, writer = await streams.connect(await rig.exec("true"))
    writer.write(text)
    if b"\n" not in text:
        writer.write_eof()
    try:
        answer = await reader.read(64)
    except ConnectionResetError:  # the refusal overtook what we still had to send
        answer = status
    writer.close()
    assert status in answer or (not answer and b"\n" not in text)


async def test_client_that_says_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pycrio.api.streaming.server.HEAD_TIMEOUT", 0.05)
    reader, writer = await streams.connect(await rig.exec("true"))
    writer.write(b"GET / HTTP/1.1\r\n")
    assert b" 408 " in await reader.read()
    writer.close()


async def test_client_that_leaves_at_once(rig: Rig) -> None:
    for text in (b"", b"GET / HT"):
        _, writer = await streams.connect(await rig.exec("true"))
        writer.write(text)
        writer.close()
        await writer.wait_closed()
    assert (await streams.run(await rig.exec("true"))).code == 0


async def test_client_that_breaks_the_protocol(rig: Rig) -> None:
    async with streams.spdy_client(await rig.exec("sleep", "1000")) as client:
        for name in ("error", "stdout", "stderr"):
            await client.stream(streamType=name)
        await client.send_raw(b"\x80\x02" + bytes(30))
        await client.ended.wait()
        assert client.gone_away is not None
    while rig.sessions:
        await asyncio.wait(rig.server._clients)
    assert rig.runtime.running == 0


# --- TLS


class Authority:
    """A certificate authority with files for a server."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.ca = trustme.CA()
        self.cert, self.key, self.ca_file = (str(directory / name) for name in ("cert.pem", "key.pem", "ca.pem"))
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.renew()

    def renew(self) -> None:
        issued = self.ca.issue_cert("127.0.0.1")
        pathlib.Path(self.key).unlink(missing_ok=True)
        issued.private_key_pem.write_to_path(self.key)
        pathlib.Path(self.cert).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def client(self, certificate: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if certificate:
            self.ca.issue_cert("client").configure_cert(context)
        return context


async def test_tls_and_renewed_files(make_rig: MakeRig, tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path)
    async with make_rig(tls=True, cert=authority.cert, key=authority.key) as rig:
        serials = set()
        for _ in range(2):
            url = await rig.exec("sh", "-c", "head -c 2000000 /dev/zero; exit 3")
            assert url.startswith("https://127.0.0.1:")
            async with streams.command(url, tls=authority.client()) as session:
                connection = session.client.wire.writer.get_extra_info("ssl_object")
                serials.add(connection.getpeercert()["serialNumber"])
                done = await session.outcome()
            assert (len(done.stdout), done.code) == (2_000_000, 3)
            authority.renew()
        assert len(serials) == 2
        async with streams.websocket_client(await rig.exec("echo", "hi"), tls=authority.client()) as client:
            assert await client.read_all(1) == b"hi\n"


async def test_tls_with_client_certificates(make_rig: MakeRig, tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path)
    async with make_rig(tls=True, cert=authority.cert, key=authority.key, ca=authority.ca_file) as rig:
        url = await rig.exec("true")
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await streams.run(url, tls=authority.client())
        assert (await streams.run(url, tls=authority.client(certificate=True))).code == 0


async def test_tls_of_an_old_version_or_another_cipher_is_refused(make_rig: MakeRig, tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path)
    old, other = authority.client(), authority.client()
    old.maximum_version = other.maximum_version = ssl.TLSVersion.TLSv1_2
    other.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
    named = ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")
    files: dict[str, Any] = {"tls": True, "cert": authority.cert, "key": authority.key}
    for settings, refused, served in (
        ({"min_version": "VersionTLS13"}, old, authority.client()),
        ({"ciphers": named}, other, old),
    ):
        async with make_rig(**files, **settings) as rig:
            url = await rig.exec("true")
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await streams.run(url, tls=refused)
            assert (await streams.run(url, tls=served)).code == 0


async def test_command_of_a_tls_client_that_leaves_is_killed(make_rig: MakeRig, tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path)
    async with make_rig(tls=True, cert=authority.cert, key=authority.key) as rig:
        async with streams.command(await rig.exec("sleep", "1000"), tls=authority.client()) as session:
            await session.client.ping()
        while rig.sessions:
            await asyncio.wait(rig.server._clients)
        assert rig.runtime.running == 0


async def test_tls_files_that_are_missing(make_rig: MakeRig) -> None:
    with pytest.raises(ConfigError, match="TLS"):
        async with make_rig(tls=True, cert="/none", key="/none"):
            pass


# --- addresses


async def test_port_that_is_taken(make_rig: MakeRig) -> None:
    async with make_rig(port=free_port()) as rig:
        port = urllib.parse.urlsplit(await rig.exec("true")).port
        assert port is not None
        with pytest.raises(ConfigError, match=f"port {port}"):
            async with make_rig(port=port):
                pass


async def test_ipv6(make_rig: MakeRig) -> None:
    async with make_rig(address="::1") as rig:
        url = await rig.exec("true")
        assert url.startswith("http://[::1]:")
        assert (await streams.run(url)).code == 0


async def test_chosen_address(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "choose", lambda: "127.0.0.7")
    async with make_rig(address="") as rig:
        url = await rig.exec("true")
        assert url.startswith("http://127.0.0.7:")
        assert (await streams.run(url)).code == 0


def test_an_address_of_this_host_or_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = addresses._good
    monkeypatch.setattr(addresses, "_good", lambda found: ipaddress.ip_address(found) is not None)
    assert addresses.choose()
    monkeypatch.setattr(addresses, "_good", lambda found: False)
    with pytest.raises(ConfigError, match="stream_address"):
        addresses.choose()
    good = [real(a) for a in ("127.0.0.1", "::1", "0.0.0.0", "fe80::1", "10.1.2.3", "2001:db8::5")]
    assert good == [False, False, False, False, True, True]


async def test_server_that_closes_while_a_command_starts(make_rig: MakeRig) -> None:
    """The start cannot be stopped half-way: its command is killed when it is there."""
    for turns in range(12):
        async with make_rig() as rig:
            async with streams.websocket_client(await rig.exec("sleep", "1000")) as client:
                assert await client.read(1) == b""
                for _ in range(turns):
                    await asyncio.sleep(0)
                await rig.server.close()
