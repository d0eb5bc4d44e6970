"""The command line, as CRI-O's own parser reads it."""

from __future__ import annotations

import pytest

from pycrio.config import flags
from pycrio.config.values import Origin


def values(*argv: str) -> dict[str, object]:
    parsed = flags.parse(argv)
    assert parsed.faults == []
    return {key: value for key, (value, _) in parsed.settings.items()}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--log-level", "debug"], {"crio.runtime.log_level": "debug"}),
        (["--log-level=debug"], {"crio.runtime.log_level": "debug"}),
        (["-log-level", "debug"], {"crio.runtime.log_level": "debug"}),
        (["-l", "debug"], {"crio.runtime.log_level": "debug"}),
        (["--l=debug"], {"crio.runtime.log_level": "debug"}),
        (["--read-only"], {"crio.runtime.read_only": True}),
        (["--read-only=false"], {"crio.runtime.read_only": False}),
        (["--tz", "UTC"], {"crio.runtime.timezone": "UTC"}),
        (["--default-env", "A=1,B=2"], {"crio.runtime.default_env": ("A=1", "B=2")}),
        (["--default-env", "A=1,2", "--default-env", "B=2"], {"crio.runtime.default_env": ("A=1,2", "B=2")}),
        (["--metrics-port", "0x10"], {"crio.metrics.metrics_port": 16}),
        (["--log-level", "info", "--log-level", "debug"], {"crio.runtime.log_level": "debug"}),
        (["-c", ""], {"cli.config": ""}),
        (["--log", "-"], {"cli.log": "-"}),
    ],
)
def test_forms(argv: list[str], expected: dict[str, object]) -> None:
    assert values(*argv) == expected


def test_flags_end_at_the_first_other_word() -> None:
    parsed = flags.parse(["--read-only", "config", "--default"])
    assert parsed.rest == ["config", "--default"]
    assert parsed.settings == {"crio.runtime.read_only": (True, Origin("flag", "--read-only"))}
    assert flags.parse(["--", "--read-only"]).rest == ["--read-only"]
    assert flags.parse(["-", "x"]).rest == ["-", "x"]


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        (["--log-levl", "x"], "did you mean --log-level?"),
        (["--nonsense-at-all"], "is not defined"),
        (["---read-only"], "is not defined"),
        (["--log-level"], "needs a value"),
        (["--metrics-port", "x"], "not an integer"),
        (["--read-only=perhaps"], "neither true nor false"),
        (["--pull-progress-timeout", "5"], "duration"),
        (["--root", "\udcff"], "UTF-8"),
    ],
)
def test_faults(argv: list[str], fault: str) -> None:
    assert fault in flags.parse(argv).faults[0]


def test_every_fault_is_told() -> None:
    assert len(flags.parse(["--no-such", "--metrics-port", "x", "--read-only=q", "--root"]).faults) == 4
