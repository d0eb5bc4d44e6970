"""Tokens: once, for a minute, a thousand."""

from __future__ import annotations

import re

import pytest

from pycrio.api.streaming.tokens import LIMIT, TTL, Tokens
from pycrio.errors import Exhausted


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_good_once() -> None:
    tokens: Tokens[str] = Tokens(Clock())
    token = tokens.issue("session")
    assert re.fullmatch(r"[A-Za-z0-9_-]{8}", token)
    assert tokens.redeem("other") is None
    assert tokens.redeem(token) == "session"
    assert tokens.redeem(token) is None
    assert len(tokens) == 0


def test_a_token_is_good_for_a_minute() -> None:
    clock = Clock()
    tokens: Tokens[str] = Tokens(clock)
    early, late = tokens.issue("early"), tokens.issue("late")
    clock.now += TTL - 0.001
    assert tokens.redeem(late) == "late"
    clock.now += 0.001
    assert tokens.redeem(early) is None


def test_no_more_than_a_thousand_wait() -> None:
    clock = Clock()
    tokens: Tokens[int] = Tokens(clock)
    issued = [tokens.issue(n) for n in range(LIMIT)]
    assert len(set(issued)) == LIMIT == 1000
    with pytest.raises(Exhausted, match="1000"):
        tokens.issue(-1)
    assert tokens.redeem(issued[500]) == 500
    tokens.issue(-1)
    clock.now += TTL
    tokens.issue(0)
    assert len(tokens) == 1
