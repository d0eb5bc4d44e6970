"""CPU masks and lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.cpus import mask
from pycrio.model.cpus import format_cpus, parse_cpus


@pytest.mark.parametrize(
    ("text", "cpus", "width"),
    [
        ("3\n", {0, 1}, 8),
        ("ff", set(range(8)), 8),
        ("f0f", {0, 1, 2, 3, 8, 9, 10, 11}, 16),
        ("00000001,00000000", {32}, 64),
        ("1,80000000", {31, 32}, 40),
    ],
)
def test_masks(text: str, cpus: set[int], width: int) -> None:
    assert mask.parse(text) == (frozenset(cpus), width)


@pytest.mark.parametrize("text", ["", "x", "1,,2", "0x3", ",1", "é"])
def test_what_is_no_mask(text: str) -> None:
    with pytest.raises(ValueError, match="is not a CPU mask"):
        mask.parse(text)


def test_masks_are_written_in_whole_groups() -> None:
    assert mask.render(frozenset({0, 1}), 8) == "00000003"
    assert mask.render(frozenset({32, 0, 99}), 40) == "00000001,00000001"


@given(st.frozensets(st.integers(0, 255)))
def test_masks_and_lists_come_back(cpus: frozenset[int]) -> None:
    assert mask.parse(mask.render(cpus, 256)) == (cpus, 256)
    assert parse_cpus(format_cpus(cpus)) == cpus


@pytest.mark.parametrize(("text", "cpus"), [("", []), ("0-3,8", [0, 1, 2, 3, 8]), (" 5 , 4\n", [4, 5]), ("7-7", [7])])
def test_lists(text: str, cpus: list[int]) -> None:
    assert sorted(parse_cpus(text)) == cpus


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-1", "0-99999999", "1-2-3"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a CPU list|no machine has"):
        parse_cpus(text)
