"""Stop signals: the CRI's enum, whose numbers mean nothing outside, and Linux names (``SIGTERM``, ``SIGRTMIN+3``)."""

from __future__ import annotations

import re
import signal
from typing import cast

from pycrio.api._pb import api_pb2 as pb
from pycrio.errors import InvalidRequest

_ALIASES = {"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO"}


def _linux_name(name: str) -> str:
    """``SIGNAL_SIGRTMAXMINUS3`` → ``SIGRTMAX-3``."""
    text = name.removeprefix("SIGNAL_").replace("PLUS", "+").replace("MINUS", "-")
    return _ALIASES.get(text, text)


_NAMES: dict[int, str] = {
    number: _linux_name(name) for name, number in pb.Signal.items() if number != pb.SIGNAL_RUNTIME_DEFAULT
}
_NUMBERS: dict[str, pb.Signal] = {}
for _wire_name, _number in pb.Signal.items():
    _NUMBERS.setdefault(_linux_name(_wire_name), cast(pb.Signal, _number))


def decode(number: int) -> str:
    """The Linux name, "" for the runtime's default."""
    if number == pb.SIGNAL_RUNTIME_DEFAULT:
        return ""
    name = _NAMES.get(number)
    if name is None:
        raise InvalidRequest(f"stop_signal has the unknown value {number}")
    return name


def encode(name: str) -> pb.Signal:
    """The wire value for a signal as images and requests write it (``SIGTERM``, ``term``, ``15``, ``SIGRTMIN+3``).

    What the CRI cannot name is answered as the runtime's default.
    """
    text = name.upper()
    if re.fullmatch(r"[0-9]+", text):
        text = _by_number(int(text))
    if text and not text.startswith("SIG"):
        text = f"SIG{text}"
    return _NUMBERS.get(_ALIASES.get(text, text), pb.SIGNAL_RUNTIME_DEFAULT)


def _by_number(number: int) -> str:
    """The name of a Linux signal number, "" when it has none."""
    low, high = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    if low <= number <= high:
        if number == high:
            return "SIGRTMAX"
        if number - low <= 15:
            return f"SIGRTMIN+{number - low}" if number > low else "SIGRTMIN"
        return f"SIGRTMAX-{high - number}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""
