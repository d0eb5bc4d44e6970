"""What processes inherit where the runtime does not set their out-of-memory score. (A test may raise it only: lowering
takes CAP_SYS_RESOURCE.)"""

from __future__ import annotations

import pathlib

import pytest

from pycrio.drivers.monitor.client import Monitors
from pycrio.drivers.monitor.client import Settings as MonitorSettings
from pycrio.drivers.runtime.cli import Runtime, Settings
from pycrio.errors import RuntimeFailure
from pycrio.flows.containers.inputs import inherited_oom_score
from pycrio.model.node import Handler
from pycrio.model.requests import ExecRequest, MonitorRequest
from pycrio.wiring import program
from tests.fakes.node import fake_node


def handler(directory: pathlib.Path) -> Handler:
    """A runtime and a monitor that only tell their score."""
    program = directory / "program"
    program.write_text(f"#!/bin/sh\ncat /proc/self/oom_score_adj >{directory}/score\nexit 3\n")
    program.chmod(0o755)
    return Handler("h", str(program), f"{directory}/root", str(program))


@pytest.mark.parametrize("score", [None, 0, 400])
async def test_a_monitor_starts_with_what_its_container_shall_inherit(
    tmp_path: pathlib.Path, score: int | None
) -> None:
    (tmp_path / "bundle").mkdir()
    bundle = str(tmp_path / "bundle")
    monitors = Monitors(MonitorSettings(f"{tmp_path}/exits", f"{tmp_path}/attach"))
    request = MonitorRequest("c", "n", handler(tmp_path), bundle, bundle, f"{bundle}/l", "/p", oom_score_adj=score)
    with pytest.raises(RuntimeFailure, match="code 3"):
        await monitors.create(request)
    own = int(pathlib.Path("/proc/self/oom_score_adj").read_text())
    assert int((tmp_path / "score").read_text()) == (own if score is None else score)


@pytest.mark.parametrize("tty", [None, False, True])
async def test_an_exec_has_its_containers(tmp_path: pathlib.Path, tty: bool | None) -> None:
    runtime = Runtime(Settings(f"{tmp_path}/scratch", program("pycrio-exec")))
    request = ExecRequest("c", handler(tmp_path), {"args": ["x"], "oomScoreAdj": 400})
    if tty is None:
        with pytest.raises(RuntimeFailure, match="exit code 3"):
            await runtime.exec_sync(request)
    else:
        session = await runtime.exec_stream(request, tty, False)
        assert await session.wait() == 3
        await session.close()
    assert (tmp_path / "score").read_text() == "400\n"


async def test_only_zero_is_inherited(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other value is set by all runtimes, which keep the daemon's own score until they have done so."""
    async with fake_node(str(tmp_path)) as (node, _):
        processes = node.host.processes
        monkeypatch.setattr(processes, "oom_score_adj", lambda: 50)
        for may_lower, found in ((True, 0), (False, 50)):
            monkeypatch.setattr(processes, "may_raise_limits", lambda may=may_lower: may)
            assert inherited_oom_score(node, 0) == found
        assert inherited_oom_score(node, -997) is None
