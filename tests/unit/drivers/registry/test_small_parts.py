"""Parsers and tables without I/O: challenges, tokens, proxies, platforms, refusals, ranges of time."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.registry import platforms
from pycrio.drivers.registry.challenge import parse_challenges, parse_token
from pycrio.drivers.registry.platforms import Platform
from pycrio.drivers.registry.proxies import bypassed, proxy_for
from pycrio.drivers.registry.transfer import Stall
from pycrio.drivers.registry.transport import describe_status, retry_after
from pycrio.drivers.registry.trouble import Trouble
from pycrio.errors import BadImage, ConfigError, RegistryError, RegistryUnavailable, Timeout, Unsupported

# --- challenges ---


def challenges(*headers: str) -> list[tuple[str, dict[str, str]]]:
    return [(found.scheme, found.params) for found in parse_challenges(headers)]


def test_bearer_challenge() -> None:
    header = 'Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push"'
    assert challenges(header) == [
        (
            "bearer",
            {"realm": "https://auth.example/token", "service": "r.example", "scope": "repository:a/b:pull,push"},
        )
    ]


def test_several_challenges() -> None:
    assert challenges('Basic realm="x", Bearer realm=y , charset="a\\"b"', "Negotiate") == [
        ("basic", {"realm": "x"}),
        ("bearer", {"realm": "y", "charset": 'a"b'}),
        ("negotiate", {}),
    ]


@pytest.mark.parametrize("header", ["", ",,,", '"', "=x", 'Bearer realm="open', "Bearer realm=", "\x00"])
def test_broken_challenges(header: str) -> None:
    assert all(scheme != "bearer" or "realm" not in params for scheme, params in challenges(header))


@given(st.lists(st.text(max_size=60), max_size=3))
def test_any_challenge_is_read(headers: list[str]) -> None:
    for found in parse_challenges(headers):
        assert found.scheme


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"token": "t"}, ("t", 60.0)),
        ({"access_token": "t", "expires_in": 300}, ("t", 300.0)),
        ({"token": "t", "expires_in": 1}, ("t", 60.0)),
        ({"token": "t", "expires_in": "soon"}, ("t", 60.0)),
        ({"token": "t", "expires_in": True}, ("t", 60.0)),
    ],
)
def test_tokens(body: dict[str, object], wanted: tuple[str, float]) -> None:
    assert parse_token(json.dumps(body).encode()) == wanted


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": ""}', b'{"token": "a\\nb"}', b"[" * 100_000])
def test_answers_without_token(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_token(body)


# --- proxies ---


@pytest.mark.parametrize(
    ("host", "port", "no_proxy", "direct"),
    [
        ("r.example", 443, "", False),
        ("localhost", 80, "", True),
        ("127.0.0.9", 80, "", True),
        ("::1", 80, "", True),
        ("r.example", 443, "*", True),
        ("r.example", 443, "other.example, r.example", True),
        ("sub.r.example", 443, "r.example", True),
        ("sub.r.example", 443, ".r.example", True),
        ("sub.r.example", 443, "*.r.example", True),
        ("r.example", 443, ".r.example", False),
        ("xr.example", 443, "r.example", False),
        ("R.Example", 443, "r.example", True),
        ("r.example", 443, "r.example:443", True),
        ("r.example", 443, "r.example:80", False),
        ("10.1.2.3", 443, "10.0.0.0/8", True),
        ("11.1.2.3", 443, "10.0.0.0/8", False),
        ("10.1.2.3", 443, "10.1.2.3", True),
        ("10.1.2.3", 5000, "10.1.2.3:5000", True),
        ("10.1.2.3", 5001, "10.1.2.3:5000", False),
        ("fd00::5", 443, "fd00::/8", True),
        ("fd00::5", 443, "fd00::5", True),
        ("fd00::5", 443, "[fd00::5]:443", True),
        ("r.example", 443, "10.0.0.0/99", False),
    ],
)
def test_no_proxy(host: str, port: int, no_proxy: str, direct: bool) -> None:
    assert bypassed(host, port, no_proxy) is direct


def test_proxy_variables() -> None:
    environ = {"HTTP_PROXY": "http://p:1", "https_proxy": "q:2", "NO_PROXY": "d.example"}
    assert proxy_for("http://r.example/v2/", environ) == "http://p:1"
    assert proxy_for("https://r.example:5000/v2/", environ) == "http://q:2"
    assert proxy_for("https://d.example/v2/", environ) is None
    assert proxy_for("https://r.example/", {}) is None
    with pytest.raises(ConfigError, match="HTTPS_PROXY names a proxy of an unsupported kind"):
        proxy_for("https://r.example/", {"HTTPS_PROXY": "socks5://user:secret@p:1"})


# --- platforms ---


def test_this_machine() -> None:
    assert platforms.host().os == "linux"
    assert platforms.host("linux", "arm", "v7") == Platform("linux", "arm", "v7")
    assert str(platforms.host(arch="arm64")) == "linux/arm64"


def entry(arch: str, variant: str = "", system: str = "linux") -> dict[str, object]:
    return {"platform": {"os": system, "architecture": arch, "variant": variant}, "id": f"{system}/{arch}/{variant}"}


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        (Platform("linux", "amd64"), [entry("arm64"), entry("amd64"), entry("amd64")], 1),
        (Platform("linux", "amd64"), [entry("amd64", "v3"), entry("amd64", "v1")], 1),
        (Platform("linux", "amd64"), [entry("amd64", "v2")], None),
        (Platform("linux", "amd64", "v3"), [entry("amd64"), entry("amd64", "v2"), entry("amd64", "v4")], 1),
        (Platform("linux", "arm64", "v8"), [entry("arm64"), entry("arm64", "v8")], 1),
        (Platform("linux", "arm64", "v8"), [entry("arm", "v7"), entry("arm64")], 1),
        (Platform("linux", "arm", "v7"), [entry("arm", "v6"), entry("arm", "v7"), entry("arm", "v8")], 1),
        (Platform("linux", "arm", "v6"), [entry("arm", "v7"), entry("arm", "v5")], 1),
        (Platform("linux", "amd64"), [entry("amd64", system="windows"), entry("unknown", system="unknown")], None),
        (Platform("linux", "amd64"), [{}, {"platform": None}, {"platform": {"os": 1}}], None),
        (Platform("linux", "riscv64", "rva23"), [entry("riscv64")], 0),
    ],
)
def test_choice(wanted: Platform, there: list[dict[str, object]], chosen: int | None) -> None:
    assert platforms.choose(there, wanted) is (None if chosen is None else there[chosen])


# --- refusals ---


def test_error_bodies() -> None:
    body = json.dumps({"errors": [{"code": "name_unknown", "message": "no such"}]}).encode()
    assert describe_status(404, body) == ("NAME_UNKNOWN", "HTTP status 404, NAME_UNKNOWN: no such")
    for broken in (b"", b"[]", b'{"errors": []}', b'{"errors": [3]}', b'{"errors": {}}', b"[" * 99_999, b"\xff"):
        assert describe_status(500, broken) == ("", "HTTP status 500")


def test_retry_after() -> None:
    assert retry_after("7", 0.0) == 7.0
    assert retry_after("99999999999999", 0.0) == 3600.0
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 40.0) == 60.0
    assert retry_after("Thu, 01 Jan 1970 00:00:01 GMT", 40.0) == 0.0
    assert retry_after("later", 0.0) is None
    assert retry_after(None, 0.0) is None


def test_troubles_become_domain_errors() -> None:
    kinds = {"refused": RegistryUnavailable, "stalled": Timeout, "bad": BadImage, "unsupported": Unsupported}
    for kind, wanted in kinds.items():
        assert type(Trouble(kind, "x").failure("i", "registry r")) is wanted
    found = Trouble("status", "no", status=401).failure("i", "registry r")
    assert isinstance(found, RegistryError)
    assert (found.code, found.status, str(found)) == ("UNAUTHORIZED", 401, "image i: registry r: no")


# --- progress ---


def test_only_waiting_for_the_network_counts() -> None:
    now = 0.0
    stall = Stall(10.0, 100, lambda: now)
    for _ in range(50):  # the reader of the pipe takes its time, the network does not
        stall.begin()
        stall.end(10)
        now += 100.0
    for _ in range(9):
        stall.begin()
        now += 1.0
        stall.end(1)
    stall.begin()
    now += 1.0
    with pytest.raises(Trouble, match="only 509 bytes in 10 s"):
        stall.end(0)


def test_steady_flow_is_progress_for_ever() -> None:
    now = 0.0
    stall = Stall(10.0, 100, lambda: now)
    for _ in range(1000):
        stall.begin()
        now += 1.0
        stall.end(200)
    assert stall.limited
    assert not Stall(0.0, 100, lambda: now).limited
