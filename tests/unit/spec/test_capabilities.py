"""The algebra of capabilities, as a table and as laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.security.host import CAPABILITIES
from pycrio.errors import InvalidRequest
from pycrio.model.security import Capabilities
from pycrio.spec.capabilities import ALL, effective_set, full_name, sets

EVERY = frozenset(ALL)
DEFAULTS = ("CHOWN", "KILL")


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), {"CAP_CHOWN", "CAP_KILL"}),
        (("NET_ADMIN",), (), {"CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"}),
        (("CAP_NET_ADMIN", "net_raw"), (), {"CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_RAW"}),
        ((), ("KILL",), {"CAP_CHOWN"}),
        ((), ("cap_kill", "SYS_ADMIN"), {"CAP_CHOWN"}),
        ((), ("ALL",), set()),
        (("NET_ADMIN",), ("ALL",), {"CAP_NET_ADMIN"}),
        (("ALL",), (), set(ALL)),
        (("all",), ("KILL",), set(ALL) - {"CAP_KILL"}),
        (("ALL",), ("ALL",), set(ALL)),
        (("KILL",), ("KILL",), {"CAP_CHOWN"}),
        (("ALL", "KILL"), ("KILL",), set(ALL) - {"CAP_KILL"}),
    ],
)
def test_the_table(add: tuple[str, ...], drop: tuple[str, ...], expected: set[str]) -> None:
    assert set(effective_set(Capabilities(add, drop), DEFAULTS, EVERY)) == expected


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Capabilities(add=("NONSENSE",)), 'unknown capability "CAP_NONSENSE" to add'),
        (Capabilities(drop=("CAP_X",)), "failed to drop cap CAP_X"),
        (Capabilities(add=("",)), 'unknown capability "CAP_" to add'),
    ],
)
def test_unknown_names(wanted: Capabilities, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        effective_set(wanted, DEFAULTS, EVERY)


def test_unknown_ambient_names() -> None:
    with pytest.raises(InvalidRequest, match="ambient"):
        sets(Capabilities(add_ambient=("ALL",)), [], False)


NAMES = st.lists(st.sampled_from((*ALL, "ALL")), max_size=6).map(tuple)


@given(add=NAMES, drop=NAMES, known=st.frozensets(st.sampled_from(ALL)))
def test_laws(add: tuple[str, ...], drop: tuple[str, ...], known: frozenset[str]) -> None:
    found = effective_set(Capabilities(add, drop), DEFAULTS, known)
    assert set(found) <= known
    assert [n for n in ALL if n in found] == found
    assert not set(found) & ({*drop} - {"ALL"})
    assert {n for n in add if n != "ALL" and n not in drop} & known <= set(found)


def test_sets() -> None:
    names = ["CAP_CHOWN", "CAP_KILL"]
    plain = sets(Capabilities(), names, False)
    assert plain["bounding"] == plain["effective"] == plain["permitted"] == names
    assert plain["inheritable"] == plain["ambient"] == []
    assert sets(Capabilities(), names, True)["inheritable"] == names
    ambient = sets(Capabilities(add_ambient=("NET_RAW",)), names, False)
    assert ambient["ambient"] == ambient["inheritable"] == ["CAP_NET_RAW"]
    assert ambient["permitted"] == ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]


def test_one_list_of_names() -> None:
    assert CAPABILITIES == ALL
    assert [full_name(n) for n in ("kill", "CAP_KILL", "all")] == ["CAP_KILL", "CAP_KILL", "ALL"]
