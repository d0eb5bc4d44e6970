"""The daemon's log: one line per event in the form of logrus (text or JSON), with fields bound to the running task.

``get("area")`` gives a logger; its calls take a constant sentence and fields. ``bind`` adds fields to every line that
the current task (and tasks that it starts) writes. Nothing here is opened or formatted before a line passes the level.
"""

from __future__ import annotations

import contextvars
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType

PANIC, FATAL, ERROR, WARNING, INFO, DEBUG, TRACE = range(7)
NAMES = ("panic", "fatal", "error", "warning", "info", "debug", "trace")
LEVELS: dict[str, int] = {name: number for number, name in enumerate(NAMES)} | {"warn": WARNING}

_PLAIN = re.compile(r"[A-Za-z0-9\-._/@^+]+").fullmatch
_ESCAPE = re.compile(r'[\\"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f"}
# A list of byte values that some library printed (secrets, protobuf bytes): at least four numbers in brackets.
_BYTES = re.compile(r"\[(?:\d{1,3}[ ,]+){3,}\d{1,3}\]")

_bound: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar("pycrio.log", default={})  # noqa: B039


class _Sink:
    """Where lines go and which do; one for the process."""

    def __init__(self) -> None:
        self.level = INFO
        self.fd = 2
        self.path = ""
        self.format: Callable[[int, str, Mapping[str, object]], str] = _text
        self.filter: re.Pattern[str] | None = None
        self.lost = 0
        self.observers: tuple[Callable[[int, str, Mapping[str, object]], None], ...] = ()

    def write(self, level: int, event: str, fields: Mapping[str, object]) -> None:
        if self.filter is not None and not self.filter.search(event):
            return
        for observer in self.observers:
            observer(level, event, fields)
        line = self.format(level, event, fields)
        if self.lost:
            line += self.format(WARNING, "Log lines were lost because they could not be written", {"lines": self.lost})
        data = line.encode("utf-8", "surrogateescape")
        try:
            while data:  # one write as a rule: lines of several processes do not tear each other
                data = data[os.write(self.fd, data) :]
        except OSError:
            self.lost += 1  # a full disk or closed terminal must not stop the daemon; told as soon as it works again
        else:
            self.lost = 0


def _clock() -> Callable[[], str]:
    """Local time in RFC 3339 with nanoseconds; the part above seconds is computed once a second."""
    last, head, tail = -1, "", ""

    def now() -> str:
        nonlocal last, head, tail
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if seconds != last:
            local = time.localtime(seconds)
            offset = (local.tm_gmtoff or 0) // 60
            hours, minutes = divmod(abs(offset), 60)
            zone = f"{'-' if offset < 0 else '+'}{hours:02d}:{minutes:02d}" if offset else "Z"
            last, head, tail = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", local), zone
        return f"{head}.{nanoseconds:09d}{tail}"

    return now


_now = _clock()


def quote(text: str) -> str:
    """Text as logrus prints a value: bare when it needs no quotes, else quoted with Go's escapes."""
    return text if not text or _PLAIN(text) else f'"{_ESCAPE.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    code = ord(char)
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}")


def _text(level: int, event: str, fields: Mapping[str, object]) -> str:
    parts = [f'time="{_now()}" level={NAMES[level]} msg={quote(event) or chr(34) * 2}']
    parts += [f"{_key(key)}={quote(_show(fields[key]))}" for key in sorted(fields)]
    return " ".join(parts) + "\n"


def _json(level: int, event: str, fields: Mapping[str, object]) -> str:
    import json  # late: text is the default

    plain: dict[str, object] = {_key(key): value for key, value in fields.items()}
    plain |= {"level": NAMES[level], "msg": event, "time": _now()}
    return json.dumps(plain, ensure_ascii=False, sort_keys=True, default=_show, skipkeys=True) + "\n"


def _key(key: str) -> str:
    return f"fields.{key}" if key in {"time", "level", "msg"} else key


def _show(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, BaseException):
        return str(value) or type(value).__name__
    return str(value)


_sink = _Sink()


class Logger:
    """Writes events of one area. ``event`` is a constant sentence; what varies goes into fields."""

    __slots__ = ("area",)

    def __init__(self, area: str) -> None:
        self.area = area

    def enabled(self, level: int) -> bool:
        """Whether a line of this level would be written; spares building costly fields."""
        return level <= _sink.level

    def trace(self, event: str, /, **fields: object) -> None:
        """Finest detail."""
        if _sink.level >= TRACE:
            self._emit(TRACE, event, fields)

    def debug(self, event: str, /, **fields: object) -> None:
        """Detail for finding faults."""
        if _sink.level >= DEBUG:
            self._emit(DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """What an operator wants to read in normal times."""
        if _sink.level >= INFO:
            self._emit(INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Something is odd, but the call goes on; the sentence says so."""
        if _sink.level >= WARNING:
            self._emit(WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """A call or task failed."""
        if _sink.level >= ERROR:
            self._emit(ERROR, event, fields)

    def fatal(self, event: str, /, **fields: object) -> None:
        """The daemon cannot go on. (Ending it is the caller's business.)"""
        self._emit(FATAL, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """As ``error``, with the exception that is being handled and, from level debug on, its traceback."""
        failure = sys.exc_info()[1]
        if failure is not None:
            fields.setdefault("error", failure)
            if _sink.level >= DEBUG or not _foreseen(failure):
                fields["stack"] = "".join(traceback.format_exception(failure))
        self.error(event, **fields)

    def _emit(self, level: int, event: str, fields: dict[str, object]) -> None:
        bound = _bound.get()
        if bound:
            fields = {**bound, **fields}
        if level >= DEBUG:
            frame = sys._getframe(2)
            path = frame.f_code.co_filename
            fields["area"] = self.area
            fields["file"] = f"{'/'.join(path.split('/')[-2:])}:{frame.f_lineno}"
            event = _BYTES.sub("[FILTERED]", event)
            fields = {k: _BYTES.sub("[FILTERED]", v) if isinstance(v, str) else v for k, v in fields.items()}
        _sink.write(level, event, fields)


def _foreseen(failure: BaseException) -> bool:
    from pycrio.errors import PycrioError

    return isinstance(failure, PycrioError)


class bind:
    """Context manager: these fields are on every line that the task writes inside."""

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: object) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token = _bound.set({**_bound.get(), **self._fields})

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        _bound.reset(self._token)


def bound() -> Mapping[str, object]:
    """Fields that are bound to the running task."""
    return _bound.get()


def get(area: str) -> Logger:
    """A logger for an area of the program."""
    return Logger(area)


class _Bridge(logging.Handler):
    """Takes the log of libraries (asyncio, grpc, aiohttp …) over into ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level = ERROR if record.levelno >= 40 else WARNING if record.levelno >= 30 else DEBUG
        if level > _sink.level:
            return
        fields: dict[str, object] = {**_bound.get(), "logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = record.exc_info[1]
            fields["stack"] = "".join(traceback.format_exception(record.exc_info[1]))
        try:
            event = record.getMessage()
        except (TypeError, ValueError):
            event = str(record.msg)
        _sink.write(level, event, fields)


def setup(level: str = "info", format: str = "text", filter: str = "", file: str = "") -> None:
    """Start logging: ``format`` text or json, ``filter`` a regular expression, ``file`` to append to (else stderr).

    OSError when the file cannot be opened, ValueError for an unknown level or format, re.error for the expression.
    """
    if format not in {"text", "json"}:
        raise ValueError(f"{format!r} is not a log format: text or json")
    set_level(level)
    set_filter(filter)
    _sink.format = _json if format == "json" else _text
    fd = _open(file) if file else 2
    old, _sink.fd, _sink.path = _sink.fd, fd, file
    if old > 2:
        os.close(old)
    root = logging.getLogger()
    if not any(isinstance(handler, _Bridge) for handler in root.handlers):
        root.addHandler(_Bridge())
        logging.lastResort = None


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_SYNC | os.O_CLOEXEC, 0o666)


def reopen() -> None:
    """Open the log file anew, after it has been moved away. OSError keeps the old one."""
    if _sink.path:
        old, _sink.fd = _sink.fd, _open(_sink.path)
        os.close(old)


def set_level(level: str) -> None:
    """Change the level (``trace`` … ``panic``). ValueError when unknown."""
    if level.lower() not in LEVELS:
        raise ValueError(f"{level!r} is not a log level: {', '.join(reversed(NAMES))}")
    _sink.level = LEVELS[level.lower()]
    logging.getLogger().setLevel(logging.DEBUG if _sink.level >= DEBUG else logging.WARNING)


def set_filter(pattern: str) -> None:
    """Write only lines whose sentence matches; "" writes all. re.error when it does not compile."""
    _sink.filter = re.compile(pattern) if pattern else None


def observe(observer: Callable[[int, str, Mapping[str, object]], None]) -> Callable[[], None]:
    """Hand every written event to ``observer`` too (tracing attaches them to spans); the result ends that."""
    _sink.observers = (*_sink.observers, observer)

    def stop() -> None:
        _sink.observers = tuple(other for other in _sink.observers if other is not observer)

    return stop
