"""Id maps of user namespaces against what the kernel takes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycrio.errors import InvalidRequest
from pycrio.flows.pods.idmaps import IDS, check
from pycrio.model.security import IdMapping

BAD = {
    "no length": ([IdMapping(0, 1000, 0)], "no length"),
    "no root": ([IdMapping(1, 1000, 10)], "leave out id 0"),
    "beyond the highest": ([IdMapping(0, IDS, 1)], "beyond the highest id"),
    "inside overlap": ([IdMapping(0, 1000, 10), IdMapping(9, 2000, 10)], "0:1000:10 and 9:2000:10"),
    "outside overlap": ([IdMapping(0, 1000, 10), IdMapping(10, 1009, 1)], "overlap"),
    "too many": ([IdMapping(i, i, 1) for i in range(341)], "341"),
}


@pytest.mark.parametrize("what", BAD)
def test_refused(what: str) -> None:
    maps, words = BAD[what]
    with pytest.raises(InvalidRequest, match=words):
        check("uid", maps)


def test_accepted() -> None:
    check("gid", [IdMapping(0, 1000, 100_000)])
    check("gid", [IdMapping(10, 0, 5), IdMapping(0, 5, 10), IdMapping(15, 1 << 20, 1)])
    check("uid", [IdMapping(0, 0, IDS)])
    check("uid", [IdMapping(i, i, 1) for i in range(340)])


@settings(deadline=None)
@given(st.lists(st.builds(IdMapping, *[st.integers(0, 12)] * 3), min_size=1, max_size=4))
def test_accepts_exactly_the_maps_without_double_ids(maps: list[IdMapping]) -> None:
    inside = [i for m in maps for i in range(m.container_id, m.container_id + m.length)]
    outside = [i for m in maps for i in range(m.host_id, m.host_id + m.length)]
    whole = (
        all(m.length for m in maps)
        and len(set(inside)) == len(inside)
        and len(set(outside)) == len(outside)
        and 0 in inside
    )
    try:
        check("uid", maps)
    except InvalidRequest:
        assert not whole
    else:
        assert whole
