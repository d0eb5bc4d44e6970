"""Inside the virtual machine: the installed service, a registry with an image, the node as fixtures."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.fixtures_registry import RunningRegistry, push_image
from tests.system.conftest import system_layer
from tests.vm.guest.service import Service, Vm

ADDRESS = "127.0.0.1:5000"
IMAGE = f"{ADDRESS}/vm/busy:1"


@pytest.fixture(scope="session")
def node() -> Iterator[Vm]:
    """The node; every pod goes in the end."""
    vm = Vm(Service("/var/log/pods/vm"), IMAGE)
    if not vm.cri.ImageStatus(image={"image": IMAGE}).HasField("image"):
        registry = RunningRegistry(ADDRESS, pathlib.Path("/data"), subprocess.Popen(["true"]))
        push_image(registry, "vm/busy:1", [system_layer()])
        registry.process.wait()
        vm.cri.PullImage(image={"image": IMAGE})
    yield vm
    if not os.environ.get("KEEP_PODS"):
        vm.clear()


@pytest.fixture(autouse=True)
def journal_mark(node: Vm, request: pytest.FixtureRequest) -> None:
    """Say in the journal which check runs."""
    subprocess.run(["logger", "-t", "check", request.node.nodeid], check=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell of a failure at once: a run takes long, and may be cut short."""
    if report.failed:
        print(f"\n{report.longreprtext}", flush=True)
