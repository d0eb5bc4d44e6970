"""Lines in the form of logrus, levels, filter, file, and fields bound to tasks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable

import pytest

from pycrio.errors import NotFound
from pycrio.obs import log

TIME = r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)"'
Lines = Callable[[], list[str]]


@pytest.fixture
def lines(tmp_path: pathlib.Path) -> Lines:
    log.setup("info", file=str(tmp_path / "log"))
    return lambda: (tmp_path / "log").read_text().splitlines()


def test_a_text_line(lines: Lines) -> None:
    log.get("x").info("Pulled image", image="a/b:1", size=5, ok=True, why=ValueError("no such thing"), empty="")
    (line,) = lines()
    assert re.fullmatch(
        TIME + r' level=info msg="Pulled image" empty= image="a/b:1" ok=true size=5 why="no such thing"', line
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain-1.2/_@^+", "plain-1.2/_@^+"),
        ("a b", '"a b"'),
        ('say "x"\\', '"say \\"x\\"\\\\"'),
        ("a\nb\tc\r", '"a\\nb\\tc\\r"'),
        ("\x1b[0m", '"\\x1b[0m"'),
        ("ü=€", '"ü=€"'),
        ("\u2028", '"\\u2028"'),
        ("", ""),
    ],
)
def test_quoting(text: str, shown: str) -> None:
    assert log.quote(text) == shown


def test_no_text_can_begin_a_second_line(lines: Lines) -> None:
    log.get("x").warning('evil\ntime="now" level=fatal', key="a\r\nb")
    assert len(lines()) == 1


def test_levels(lines: Lines) -> None:
    logger = log.get("x")
    for call in (logger.trace, logger.debug, logger.info, logger.warning, logger.error, logger.fatal):
        call("Event")
    assert [re.search(r"level=(\w+)", line)[1] for line in lines()] == ["info", "warning", "error", "fatal"]  # type: ignore[index]
    log.set_level("warn")
    logger.info("Event")
    assert len(lines()) == 4
    assert not logger.enabled(log.INFO)
    log.set_level("trace")
    logger.trace("Event")
    assert "level=trace" in lines()[-1]
    with pytest.raises(ValueError, match="loud"):
        log.set_level("loud")
    with pytest.raises(ValueError, match="xml"):
        log.setup(format="xml")


def test_debug_lines_tell_the_caller_and_hide_bytes(lines: Lines) -> None:
    log.set_level("debug")
    log.get("area").debug("Sent [1 2 3 4 255]", body="[10, 20, 30, 40]", list="[1 2]")
    (line,) = lines()
    assert 'msg="Sent [FILTERED]"' in line
    assert 'body="[FILTERED]"' in line
    assert 'list="[1 2]"' in line
    assert "area=area" in line
    assert re.search(r'file="obs/test_log\.py:\d+"', line)


def test_json(tmp_path: pathlib.Path) -> None:
    log.setup("info", "json", file=str(tmp_path / "log"))
    log.get("x").error("Failed", error=NotFound("pod", "1"), count=3, list=["a"], msg="clash", none=None)
    found = json.loads((tmp_path / "log").read_text())
    assert re.fullmatch(TIME[6:-1], found.pop("time"))
    assert found == {
        "level": "error",
        "msg": "Failed",
        "error": "pod '1' not found",
        "count": 3,
        "list": ["a"],
        "fields.msg": "clash",
        "none": None,
    }


def test_the_filter_looks_at_the_sentence(lines: Lines) -> None:
    log.set_filter("^Pulled")
    logger = log.get("x")
    logger.info("Pulled image")
    logger.info("Something else", key="Pulled")
    log.set_filter("")
    logger.info("Something else")
    assert len(lines()) == 2
    with pytest.raises(re.error):
        log.set_filter("(")


async def test_fields_are_bound_to_tasks(lines: Lines) -> None:
    logger = log.get("x")
    entered = asyncio.Event()

    async def call(name: str) -> None:
        with log.bind(id=name):
            entered.set()
            await asyncio.sleep(0)
            with log.bind(step="inner"):
                logger.info("Work", id2=name)
            logger.info("Done")
        logger.info("Outside")

    await asyncio.gather(call("a"), call("b"))
    assert entered.is_set()
    text = [line.partition("level=info ")[2] for line in lines()]
    for name in ("a", "b"):
        assert f"msg=Work id={name} id2={name} step=inner" in text
        assert f"msg=Done id={name}" in text
    assert text.count("msg=Outside") == 2
    assert log.bound() == {}
    with log.bind(id="outer"), log.bind(id="inner"):
        assert log.bound() == {"id": "inner"}


def test_exceptions(lines: Lines) -> None:
    logger = log.get("x")
    try:
        raise NotFound("image", "x")
    except NotFound:
        logger.exception("Foreseen")
    try:
        raise KeyError("x")
    except KeyError:
        logger.exception("Not foreseen")
    foreseen, other = lines()
    assert "stack=" not in foreseen
    assert "error=\"image 'x' not found\"" in foreseen
    assert "Traceback" in other


def test_libraries_write_into_our_log(lines: Lines) -> None:
    logging.getLogger("some.library").warning("Odd: %s", "x")
    logging.getLogger("some.library").info("Chatter")
    # pytest's own handler would raise on this one, so it goes to ours alone.
    bridge = next(h for h in logging.getLogger().handlers if isinstance(h, log._Bridge))
    bridge.emit(logging.LogRecord("some.library", logging.ERROR, "f", 1, "%d", ("not a number",), None))
    assert len(lines()) == 2
    assert 'level=error msg="%d"' in lines()[1]
    assert 'level=warning msg="Odd: x" logger=some.library' in lines()[0]
    log.set_level("debug")
    logging.getLogger("some.library").info("Chatter")
    assert "level=debug msg=Chatter" in lines()[-1]


def test_the_file_is_appended_to_and_opened_anew(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    log.setup(file=str(path))
    log.get("x").info("One")
    path.rename(tmp_path / "old")
    log.get("x").info("Two")
    log.reopen()
    log.get("x").info("Three")
    assert len((tmp_path / "old").read_text().splitlines()) == 3
    assert "Three" in path.read_text()
    with pytest.raises(FileNotFoundError):
        log.setup(file=str(tmp_path / "no" / "log"))


def test_lost_lines_are_told_and_stop_nothing() -> None:
    log.setup(file="/dev/full")
    log.get("x").info("Lost")
    log.get("x").info("Lost")
    read, write = os.pipe()
    os.dup2(write, log._sink.fd)
    log.get("x").info("Works")
    log.get("x").info("Again")
    text = os.read(read, 1 << 16).decode()
    os.close(read)
    os.close(write)
    assert text.count("\n") == 3
    assert 'msg="Log lines were lost because they could not be written" lines=2' in text


def test_observers_see_what_is_written(lines: Lines) -> None:
    seen: list[tuple[int, str]] = []
    stop = log.observe(lambda level, event, fields: seen.append((level, event)))
    log.get("x").info("One")
    log.get("x").debug("Not written")
    stop()
    log.get("x").info("Two")
    assert seen == [(log.INFO, "One")]
    assert len(lines()) == 2
