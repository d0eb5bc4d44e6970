"""References: the grammar, normal forms, and properties over generated ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.registry.reference import (
    Reference,
    ShortName,
    api_host,
    check_digest,
    parse,
    parse_docker,
    parse_full,
)
from pycrio.errors import InvalidRequest

D = "sha256:" + "a1" * 32

FULL = {
    "quay.io/a/b": Reference("quay.io", "a/b"),
    "quay.io/a/b:t": Reference("quay.io", "a/b", "t"),
    f"quay.io/a/b@{D}": Reference("quay.io", "a/b", "", D),
    f"quay.io/a/b:t@{D}": Reference("quay.io", "a/b", "t", D),
    "localhost/a": Reference("localhost", "a"),
    "localhost:5000/a:1": Reference("localhost:5000", "a", "1"),
    "host:5000/a": Reference("host:5000", "a"),
    "HOST/a": Reference("HOST", "a"),
    "[::1]:5000/a:1": Reference("[::1]:5000", "a", "1"),
    "docker.io/busybox": Reference("docker.io", "library/busybox"),
    "index.docker.io/busybox:1": Reference("docker.io", "library/busybox", "1"),
    "docker.io/a/b": Reference("docker.io", "a/b"),
    "docker://quay.io/a/b:t": Reference("quay.io", "a/b", "t"),
    "quay.io/a__b/c-d---e/f.g_h:T_1.2-x": Reference("quay.io", "a__b/c-d---e/f.g_h", "T_1.2-x"),
}
SHORT = {
    "busybox": ShortName("busybox"),
    "busybox:1": ShortName("busybox", "1"),
    "library/busybox": ShortName("library/busybox"),
    f"busybox@{D}": ShortName("busybox", "", D),
    "host:5000": ShortName("host", "5000"),
}
BAD = [
    "",
    "docker://",
    ":tag",
    "busybox:",
    "busybox@",
    "busybox@sha256:abc",
    f"busybox@sha256:{'A1' * 32}",
    f"busybox@md5:{'a' * 32}",
    "Busybox",
    "quay.io/A/b",
    "quay.io/a//b",
    "quay.io/a/",
    "quay.io/",
    "/a",
    "quay.io/a/../b",
    "quay.io/a b",
    "quay.io/a:b:c",
    "quay.io/a:" + "t" * 129,
    "quay.io/a:-t",
    "quay.io/-a",
    "quay.io/a_",
    "quay.io/a___b",
    "-quay.io/a",
    "quay.io:port/a",
    "http://quay.io/a",
    "docker-archive:/x",
    "a" * 64,
    "a" * 5000,
    "quay.io/" + "a" * 250,
    "b" * 256,
    "busybox\n",
    "büsybox",
    "busybox:t\n",
    "quay.io/a:١",
]


@pytest.mark.parametrize(("text", "wanted"), FULL.items())
def test_full_references(text: str, wanted: Reference) -> None:
    assert parse(text) == wanted
    assert parse_full(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), SHORT.items())
def test_short_names(text: str, wanted: ShortName) -> None:
    assert parse(text) == wanted
    with pytest.raises(InvalidRequest, match="must begin with a registry"):
        parse_full(text)


@pytest.mark.parametrize("text", BAD)
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse(text)


def test_upper_case_is_explained() -> None:
    with pytest.raises(InvalidRequest, match="lower case"):
        parse("quay.io/Team/image")


def test_canonical_forms() -> None:
    assert str(parse_full("quay.io/a").canonical()) == "quay.io/a:latest"
    assert str(parse_full("quay.io/a:1").canonical()) == "quay.io/a:1"
    assert str(parse_full(f"quay.io/a:1@{D}").canonical()) == f"quay.io/a@{D}"
    assert str(parse_docker("busybox").canonical()) == "docker.io/library/busybox:latest"
    assert parse_full("quay.io/a:1").at(D) == Reference("quay.io", "a", "", D)


def test_short_names_find_homes() -> None:
    assert ShortName("busybox", "1").within("docker.io") == Reference("docker.io", "library/busybox", "1")
    assert ShortName("busybox", "1").within("quay.io") == Reference("quay.io", "busybox", "1")
    assert ShortName("b", "1", D).under(Reference("r.io", "x/y")) == Reference("r.io", "x/y", "1", D)


def test_docker_hub_has_another_host() -> None:
    assert api_host("docker.io") == "registry-1.docker.io"
    assert api_host("quay.io:443") == "quay.io:443"


@pytest.mark.parametrize(
    ("digest", "good"),
    [
        (D, True),
        ("sha512:" + "0" * 128, True),
        ("sha384:" + "f" * 96, True),
        ("sha512:" + "0" * 64, False),
        ("sha256:" + "g" * 64, False),
        ("sha256", False),
        ("", False),
        (D + "\n", False),
    ],
)
def test_digests(digest: str, good: bool) -> None:
    assert check_digest(digest) is good


_part = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
_path = st.lists(_part, min_size=1, max_size=4).map("/".join)
_domain = st.from_regex(r"[a-z0-9]{1,8}\.[a-z]{2,5}(:[0-9]{2,5})?", fullmatch=True).filter(
    lambda domain: not domain.endswith("docker.io")
)
_tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
_digest = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(_domain, _path, st.just("") | _tag, st.just("") | _digest)
def test_what_is_written_is_read(domain: str, path: str, tag: str, digest: str) -> None:
    reference = Reference(domain, path, tag, digest)
    assert parse(str(reference)) == reference
    assert parse(str(reference.canonical())) == reference.canonical()
    assert reference.canonical().canonical() == reference.canonical()


@given(st.text(max_size=80))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except InvalidRequest:
        return
    again = parse(str(found)) if isinstance(found, Reference) else found
    assert again == found
    assert "\n" not in repr(found)
