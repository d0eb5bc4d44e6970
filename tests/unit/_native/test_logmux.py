"""Framing from Python: what is formatted parses back, whatever the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio._native import logmux

content = st.binary(max_size=300) | st.lists(st.sampled_from([b"\n", b"a", b"\r\n", b"\0", b"\xff", b"x" * 9000])).map(
    b"".join
)


@given(out=content, err=content, time_ns=st.integers(0, 2**62), offset=st.integers(-1439, 1439))
def test_output_survives_the_log(out: bytes, err: bytes, time_ns: int, offset: int) -> None:
    log = b""
    for stream, data in ((logmux.STDOUT, out), (logmux.STDERR, err)):
        lines, used = logmux.format_lines(data, stream=stream, time_ns=time_ns, utc_offset=offset * 60)
        assert used == len(data)
        log += lines
    assert logmux.split_streams(log) == (out, err, len(log))
    for line in log.split(b"\n")[:-1]:
        parsed = logmux.parse_line(line)
        assert parsed.time_ns == time_ns
        assert len(parsed.content) <= logmux.PIECE_MAX


def test_a_tail_is_left_over_without_flush() -> None:
    lines, used = logmux.format_lines(b"one\ntw", stream=logmux.STDERR, time_ns=0, flush=False)
    assert (lines, used) == (b"1970-01-01T00:00:00.000000000+00:00 stderr F one\n", 4)


def test_a_line_says_what_it_is() -> None:
    line = logmux.parse_line(b"1970-01-01T01:00:00.5+01:00 stderr P abc\n")
    assert line == logmux.Line(500_000_000, logmux.STDERR, True, b"abc")
    assert line != logmux.Line(500_000_000, logmux.STDOUT, True, b"abc")
    assert line != b"abc"
    assert "b'abc'" in repr(line)


@pytest.mark.parametrize("line", [b"", b"hello", b"1970-01-01T01:00:00Z stdin F x", b"1970-01-01T01:00:00Z stdout F"])
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a CRI log line"):
        logmux.parse_line(line)


def test_a_torn_log_is_read_up_to_the_tear() -> None:
    good, _ = logmux.format_lines(b"one\ntwo\n", stream=logmux.STDOUT, time_ns=1)
    assert logmux.split_streams(good + good[:20]) == (b"one\ntwo\n", b"", len(good))
    assert logmux.split_streams(b"garbage\n" + good) == (b"", b"", 0)


@pytest.mark.parametrize("wrong", [{"stream": 2}, {"stream": -1}, {"stream": 0, "utc_offset": 86400}])
def test_arguments_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"stream|utc_offset"):
        logmux.format_lines(b"x", time_ns=0, **wrong)
