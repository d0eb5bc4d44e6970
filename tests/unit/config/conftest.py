"""Loading in a closed world: no file, variable or property of this host takes part."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from pycrio.config import flags, load
from pycrio.config.values import Config

HOST = load.HostFacts(systemd=True, selinux=False, storage_files=())
Load = Callable[..., Config]


@pytest.fixture
def conf(tmp_path: pathlib.Path) -> Load:
    """``conf(text, *flags, env={…}, drop_ins={name: text}, host=…)`` → Config."""

    def run(
        text: str = "",
        *argv: str,
        env: dict[str, str] | None = None,
        drop_ins: dict[str, str] | None = None,
        host: load.HostFacts = HOST,
    ) -> Config:
        main = tmp_path / "crio.conf"
        main.write_text(text, encoding="utf-8")
        directory = tmp_path / "crio.conf.d"
        directory.mkdir(exist_ok=True)
        for name, content in (drop_ins or {}).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(content, encoding="utf-8")
        parsed = flags.parse(["-c", str(main), "-d", str(directory), *argv])
        assert not parsed.faults
        return load.load(parsed.settings, env or {}, host)

    return run
