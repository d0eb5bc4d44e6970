"""The hand-over to the daemon: configuration and log are ready before it is imported."""

from __future__ import annotations

import json
import logging
import pathlib
import sys
import types
from collections.abc import Iterator

import pytest

from pycrio import __main__
from pycrio.commands import node
from pycrio.config.values import Config
from pycrio.obs import log


class Calls(types.ModuleType):
    """Stands for ``pycrio.daemon``."""

    def __init__(self) -> None:
        super().__init__("pycrio.daemon")
        self.seen: list[tuple[str, Config, object]] = []

    def run(self, config: Config) -> int:
        self.seen.append(("run", config, None))
        return 0

    def wipe(self, config: Config, *, force: bool) -> int:
        self.seen.append(("wipe", config, force))
        return 0

    def check(self, config: Config, options: node.CheckOptions) -> int:
        self.seen.append(("check", config, options))
        return 1


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[Calls]:
    calls = Calls()
    monkeypatch.setitem(sys.modules, "pycrio.daemon", calls)
    for name, value in (
        ("CONTAINER_CONFIG", str(tmp_path / "crio.conf")),
        ("CONTAINER_CONFIG_DIR", ""),
        ("CONTAINERS_STORAGE_CONF", "/dev/null"),
        ("CONTAINER_LOG", str(tmp_path / "log")),
    ):
        monkeypatch.setenv(name, value)
    (tmp_path / "crio.conf").write_text('[crio.runtime]\npids_limit = 5\nlog_level = "debug"\n')
    root = logging.getLogger()
    handlers, level, last = list(root.handlers), root.level, logging.lastResort
    yield calls
    log.setup()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.lastResort = last


@pytest.mark.effect("cli.log")
def test_the_daemon_starts_with_a_dump_in_the_log(daemon: Calls, tmp_path: pathlib.Path) -> None:
    assert __main__.main(["--runtimes", "runc:/usr/sbin/runc:/run/runc"]) == 0
    ((name, config, _),) = daemon.seen
    assert (name, config.number("crio.runtime.pids_limit")) == ("run", 5)
    lines = (tmp_path / "log").read_text().splitlines()
    assert "is deprecated" in lines[0]
    assert any(r'msg="FLAG: --log-level=\"debug\""' in line for line in lines)
    assert any(r'msg="FLAG: --allowed-devices=\"/dev/fuse,/dev/net/tun\""' in line for line in lines)
    assert any(r'msg="FLAG: --runtimes=\"crun,runc\""' in line for line in lines)
    assert r"pids_limit = 5\n" in lines[-1]
    assert log.get("x").enabled(log.DEBUG)


@pytest.mark.effect("cli.log_format")
def test_the_log_may_be_json(daemon: Calls, tmp_path: pathlib.Path) -> None:
    assert __main__.main(["--log-format", "json"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"time", "level", "msg"} <= set(lines[0])
    assert lines[-1]["msg"].startswith("Effective configuration:\n")


def test_wipe_and_check(daemon: Calls) -> None:
    assert __main__.main(["wipe", "-f"]) == 0
    assert __main__.main(["wipe"]) == 0
    assert __main__.main(["check", "-a", "1h30m", "-r", "--quick"]) == 1
    assert [what for _, _, what in daemon.seen] == [
        True,
        False,
        node.CheckOptions(age=5400.0, repair=True, quick=True),
    ]
