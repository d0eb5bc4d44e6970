"""registries.conf: parsing, prefixes, rewriting, mirrors, short names."""

from __future__ import annotations

import pathlib

import pytest

from pycrio.drivers.registry import mirrors
from pycrio.drivers.registry.mirrors import Namespace, Registries
from pycrio.drivers.registry.reference import Reference, parse_full
from pycrio.errors import ConfigError, Denied, InvalidRequest

D = "sha256:" + "a1" * 32


def load(tmp_path: pathlib.Path, text: str, **drop_ins: str) -> Registries:
    (tmp_path / "registries.conf").write_text(text)
    (tmp_path / "d").mkdir(exist_ok=True)
    for name, content in drop_ins.items():
        (tmp_path / "d" / f"{name}.conf").write_text(content)
    return mirrors.load(str(tmp_path / "registries.conf"), str(tmp_path / "d"))


def where(registries: Registries, name: str) -> list[str]:
    """Physical references, ``!`` for insecure."""
    return [f"{s.reference}{'!' if s.insecure else ''}" for s in registries.sources(parse_full(name).canonical())]


def test_nothing_configured(tmp_path: pathlib.Path) -> None:
    registries = mirrors.load("", str(tmp_path / "none"))
    assert where(Registries(), "quay.io/a:1") == ["quay.io/a:1"]
    assert registries.helpers == ("containers-auth.json",)


def test_configured_file_must_exist(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        mirrors.load(str(tmp_path / "absent"), "")


@pytest.mark.parametrize(
    ("prefix", "name", "length"),
    [
        ("quay.io", "quay.io/a:1", 7),
        ("quay.io/a", "quay.io/a:1", 9),
        ("quay.io/a:1", "quay.io/a:1", 11),
        ("quay.io/a", "quay.io/ab:1", -1),
        ("quay.io", "quay.io.evil.example/a", -1),
        ("quay.io/a", f"quay.io/a@{D}", 9),
        ("*.example.com", "a.example.com/x", 13),
        ("*.example.com", "a.b.example.com:5000/x", 15),
        ("*.example.com", "example.com/x", -1),
        ("*.example.com", "notexample.com/x", -1),
        ("*.example.com", "evil.org/a.example.com/x", -1),
        ("*.example.com", "a.example.com.evil.org/x", -1),
    ],
)
def test_prefixes(prefix: str, name: str, length: int) -> None:
    assert Namespace(prefix).matches(name) == length


def test_longest_prefix_wins_and_rewrites(tmp_path: pathlib.Path) -> None:
    registries = load(
        tmp_path,
        """
        [[registry]]
        prefix = "example.com"
        location = "outer.example:5000/all"
        insecure = true
        [[registry]]
        prefix = "example.com/foo"
        location = "inner.example/bar"
        [[registry]]
        prefix = "example.com/foo/one:1"
        location = "single.example/x:2"
        [[registry]]
        prefix = "*.wild.example"
        location = "tame.example"
        """,
    )
    assert where(registries, "example.com/x/y:1") == ["outer.example:5000/all/x/y:1!"]
    assert where(registries, "example.com/foo/y:1") == ["inner.example/bar/y:1"]
    assert where(registries, f"example.com/foo@{D}") == [f"inner.example/bar@{D}"]
    assert where(registries, "example.com/foo/one:1") == ["single.example/x:2"]
    assert where(registries, "a.b.wild.example/x:1") == ["tame.example/x:1"]
    assert where(registries, "other.example/x:1") == ["other.example/x:1"]


def test_location_without_prefix_and_docker_hub(tmp_path: pathlib.Path) -> None:
    registries = load(
        tmp_path,
        """
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "cache.example:5000/hub"
        insecure = true
        """,
    )
    assert where(registries, "docker.io/busybox:1") == [
        "cache.example:5000/hub/library/busybox:1!",
        "docker.io/library/busybox:1",
    ]


def test_mirror_modes(tmp_path: pathlib.Path) -> None:
    registries = load(
        tmp_path,
        """
        [[registry]]
        location = "r.example"
        [[registry.mirror]]
        location = "any.example"
        [[registry.mirror]]
        location = "digest.example"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tag.example"
        pull-from-mirror = "tag-only"
        [[registry]]
        location = "s.example"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m.example"
        """,
    )
    assert where(registries, "r.example/a:1") == ["any.example/a:1", "tag.example/a:1", "r.example/a:1"]
    assert where(registries, f"r.example/a@{D}") == [f"any.example/a@{D}", f"digest.example/a@{D}", f"r.example/a@{D}"]
    assert where(registries, "s.example/a:1") == ["s.example/a:1"]
    assert where(registries, f"s.example/a@{D}") == [f"m.example/a@{D}", f"s.example/a@{D}"]


def test_wildcard_without_location(tmp_path: pathlib.Path) -> None:
    registries = load(
        tmp_path,
        """
        [[registry]]
        prefix = "*.lab.example"
        insecure = true
        [[registry.mirror]]
        location = "m.example/lab"
        """,
    )
    assert where(registries, "x.lab.example/a:1") == ["m.example/lab/a:1", "x.lab.example/a:1!"]


def test_blocked(tmp_path: pathlib.Path) -> None:
    registries = load(tmp_path, '[[registry]]\nlocation = "bad.example/team"\nblocked = true\n')
    with pytest.raises(Denied, match=r"bad\.example/team/x:1.*blocks"):
        where(registries, "bad.example/team/x:1")
    assert where(registries, "bad.example/other:1") == ["bad.example/other:1"]


def test_drop_ins_override_in_order(tmp_path: pathlib.Path) -> None:
    registries = load(
        tmp_path,
        """
        unqualified-search-registries = ["a.example", "b.example"]
        short-name-mode = "permissive"
        [[registry]]
        location = "r.example"
        insecure = true
        [aliases]
        one = "r.example/one"
        two = "r.example/two"
        """,
        d10='unqualified-search-registries = ["c.example"]\n[aliases]\none = ""\nthree = "r.example/3"\n',
        d20='short-name-mode = "enforcing"\n[[registry]]\nlocation = "r.example"\nblocked = true\n',
    )
    assert registries.search == ("c.example",)
    assert registries.mode == "enforcing"
    assert [(n.prefix, n.insecure, n.blocked) for n in registries.namespaces] == [("r.example", False, True)]
    assert set(registries.aliases) == {"two", "three"}


def test_drop_in_empties_the_search_list(tmp_path: pathlib.Path) -> None:
    first = 'unqualified-search-registries = ["a.example"]\n'
    assert load(tmp_path, first, d="unqualified-search-registries = []\n").search == ()


SEARCH = 'unqualified-search-registries = ["a.example", "docker.io"]\n[aliases]\nshort = "r.example/team/long"\n'


def test_candidates(tmp_path: pathlib.Path) -> None:
    registries = load(tmp_path, SEARCH)

    def names(text: str) -> list[str]:
        return list(map(str, registries.candidates(text, {})))

    assert names("x:1") == ["a.example/x:1", "docker.io/library/x:1"]
    assert names("team/x") == ["a.example/team/x:latest", "docker.io/team/x:latest"]
    assert names("short:2") == ["r.example/team/long:2"]
    assert names(f"short:2@{D}") == [f"r.example/team/long@{D}"]
    assert names("q.example/x") == ["q.example/x:latest"]
    recorded = {"short": Reference("recorded.example", "s")}
    assert list(map(str, registries.candidates("short", recorded))) == ["recorded.example/s:latest"]


@pytest.mark.parametrize(("mode", "count"), [("enforcing", 0), ("permissive", 2), ("disabled", 2)])
def test_short_name_modes(tmp_path: pathlib.Path, mode: str, count: int) -> None:
    registries = load(tmp_path, SEARCH)
    assert len(registries.pull_candidates("short", {}, mode)) == 1
    if count:
        assert len(registries.pull_candidates("x", {}, mode)) == count
    else:
        with pytest.raises(InvalidRequest, match="short_name_mode is enforcing"):
            registries.pull_candidates("x", {}, mode)


def test_enforcing_with_a_single_registry(tmp_path: pathlib.Path) -> None:
    registries = load(tmp_path, 'unqualified-search-registries = ["a.example"]\n')
    assert list(map(str, registries.pull_candidates("x", {}, "enforcing"))) == ["a.example/x:latest"]


def test_short_name_that_nothing_resolves() -> None:
    assert Registries().candidates("x", {}) == ()
    with pytest.raises(InvalidRequest, match="unqualified-search-registries"):
        Registries().pull_candidates("x", {}, "permissive")


FAULTS = {
    "[registries.search]\nregistries = ['r.example']\n": "format version 1",
    "[[registry]]\ninsecure = true\n": "needs a location or a prefix",
    "[[registry]]\nprefix = 'a.example'\n": "needs a location",
    "[[registry]]\nlocation = 'https://a.example'\n": "without a scheme",
    "[[registry]]\nprefix = '*.a.example/x'\nlocation='b.example'\n": "no wildcard",
    "[[registry]]\nprefix = 'a.*.example'\nlocation='b.example'\n": "host name",
    "[[registry]]\nlocation = 'a.example'\ninsecure = 'yes'\n": "true or false",
    "[[registry]]\nlocation = 1\n": "must be a string",
    "[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\ninsecure = true\n": "needs a location",
    "[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\nlocation='b.example'\npull-from-mirror='some'\n": (
        "must be one of"
    ),
    (
        "[[registry]]\nlocation = 'a.example'\nmirror-by-digest-only=true\n"
        "[[registry.mirror]]\nlocation='b.example'\npull-from-mirror='all'\n"
    ): "cannot be combined",
    "[[registry]]\nlocation='a.example'\n[[registry]]\nlocation='a.example'\nblocked=true\n": "disagree",
    "[registry]\nlocation = 'a.example'\n": "[[registry]] tables",
    "short-name-mode = 'sometimes'\n": "must be one of",
    "unqualified-search-registries = 'a.example'\n": "list of strings",
    "unqualified-search-registries = ['a/b']\n": "not host[:port]",
    "[aliases]\n'a.example/x' = 'b.example/x'\n": "short name",
    "[aliases]\nx = 'y'\n": "must begin with a registry",
    "[aliases]\nx = 'b.example/x:1'\n": "tag or digest",
    "[aliases]\n'x:1' = 'b.example/x'\n": "without tag",
    "not toml": "registries.conf",
}


@pytest.mark.parametrize(("text", "words"), FAULTS.items())
def test_faults_name_the_file(tmp_path: pathlib.Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert words in str(caught.value)
    assert str(tmp_path / "registries.conf") in str(caught.value)


def test_every_fault_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "short-name-mode = 1\n[[registry]]\n", d="[[registry]]\nblocked = 1\nlocation='a.example'\n")
    assert len(caught.value.faults) == 3


def test_recorded_aliases(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "aliases.conf"
    assert mirrors.read_aliases(str(path)) == {}
    path.write_text('[aliases]\n"a" = "r.example/a"\n"b/c" = "r.example/c"\n"gone" = ""\n')
    assert {k: str(v) for k, v in mirrors.read_aliases(str(path)).items()} == {"a": "r.example/a", "b/c": "r.example/c"}


def test_debians_own_drop_ins_can_be_read() -> None:
    aliases = mirrors.load("", mirrors.SYSTEM_DIR).aliases
    assert str(aliases["busybox"]) == "docker.io/library/busybox"
