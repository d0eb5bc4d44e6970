"""What only the host can tell, for a daemon that is about to start."""

from __future__ import annotations

import pathlib
import sys

import pytest

from pycrio.config import check
from tests.unit.config.conftest import Load

TEXT = """
[crio.runtime]
default_runtime = "runc"
additional_devices = ["/dev/null:/dev/x", "/dev/no-such-device", "/etc/passwd"]
infra_ctr_cpuset = "0"
[crio.runtime.runtimes.runc]
monitor_path = "/no/such/monitor"
seccomp_profile = "/no/such/profile"
"""


def test_every_misfit_is_told(conf: Load, tmp_path: pathlib.Path) -> None:
    config = conf(TEXT)
    place = f"{tmp_path}/crio.conf"
    empty = str(tmp_path / "crio.conf.d")
    found = [str(fault) for fault in check.host_faults(config, {"PATH": empty})]
    for start in (
        f"{place}:4: crio.runtime.additional_devices: '/dev/no-such-device'",
        f"{place}:4: crio.runtime.additional_devices: '/etc/passwd'",
        f"{place}:5: crio.runtime.infra_ctr_cpuset: needs the program taskset",
        "default: crio.runtime.runtimes.runc.runtime_path: the OCI runtime 'runc'",
        f"{place}:8: crio.runtime.runtimes.runc.seccomp_profile: '/no/such/profile'",
    ):
        assert any(fault.startswith(start) for fault in found), (start, found)
    assert len(found) == 5  # the missing monitor is none: pycrio brings its own


def test_nothing_is_told_where_everything_fits(conf: Load, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "crun"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    config = conf('[crio.runtime]\nadditional_devices = ["/dev/null", "/dev/pts"]\n')
    assert check.host_faults(config, {"PATH": str(tmp_path)}) == []


def test_tracing_needs_its_extra(conf: Load, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "crun"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    config = conf("[crio.tracing]\nenable_tracing = true\n")
    assert check.host_faults(config, {"PATH": str(tmp_path)}) == []
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    (fault,) = check.host_faults(config, {"PATH": str(tmp_path)})
    assert str(fault) == (
        f"{tmp_path}/crio.conf:2: crio.tracing.enable_tracing: needs OpenTelemetry, which is not installed: "
        "pip install 'pycrio[tracing]'"
    )
