"""Go's notation of durations, booleans, integers and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.config import units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0),
        ("0", 0),
        ("5s", 5 * 10**9),
        ("1h30m", 5400 * 10**9),
        ("1.5s", 1_500_000_000),
        (".5s", 500_000_000),
        ("-20ms", -20_000_000),
        ("+1us", 1_000),
        ("2µs", 2_000),
        ("3ns", 3),
    ],
)
def test_durations_are_read(text: str, value: int) -> None:
    assert units.nanoseconds(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (20 * 10**6, "20ms"),
        (90 * 10**9, "1m30s"),
        (3600 * 10**9, "1h0m0s"),
        (-(10**9), "-1s"),
    ],
)
def test_durations_are_printed_as_go_does(value: int, text: str) -> None:
    assert units.duration(value) == text


@pytest.mark.parametrize("text", ["5", "s", "1x", "--1s", "1s 2s", "1h-2m", "1.2.3s", "+"])
def test_malformed_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        units.nanoseconds(text)


@given(st.integers(-(1 << 62), 1 << 62))
def test_printing_and_reading_a_duration_are_inverse(value: int) -> None:
    assert units.nanoseconds(units.duration(value)) == value


def test_booleans_and_integers() -> None:
    assert [units.boolean(t) for t in ("1", "t", "TRUE", "0", "f", "False")] == [True, True, True, False, False, False]
    assert [units.integer(t) for t in ("10", "-5", "0x10", "010", "0b11")] == [10, -5, 16, 8, 3]
    for bad in ("yes", "", "on"):
        with pytest.raises(ValueError, match="neither"):
            units.boolean(bad)
    for bad in ("", "1.5", "x", "09", str(1 << 63)):
        with pytest.raises(ValueError, match=r"integer|64 bits"):
            units.integer(bad)


def test_sizes() -> None:
    assert units.size("12MiB") == 12 << 20
    assert units.size("500 KiB") == 500 << 10
    assert [units.size(t) for t in ("8m", "1g", "100", "1.5k", "3B")] == [8 << 20, 1 << 30, 100, 1536, 3]
    for bad in ("", "MiB", "-1", "1x", "1 2"):
        with pytest.raises(ValueError, match="size"):
            units.size(bad)


def test_cpu_lists_and_item_lists() -> None:
    assert units.cpus("0-2,5") == {0, 1, 2, 5}
    assert units.split_list(["a, b ,,c"]) == ("a", "b", "c")
    assert units.split_list(["a,b", " c "]) == ("a,b", "c")
