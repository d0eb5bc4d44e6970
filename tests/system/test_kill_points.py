"""A sample of ``make kill-points``: one kill in the middle of each request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.isolation import Isolation
from tests.system.conftest import Pushed, system_layer
from tests.system.kill_points import FLOWS, Bench, bench_of, point

pytestmark = pytest.mark.system
MIDDLE = {
    "RunPodSandbox": 45,
    "CreateContainer": 35,
    "StartContainer": 3,
    "ExecSync": 3,
    "StopContainer": 3,
    "RemoveContainer": 40,
    "StopPodSandbox": 25,
    "RemovePodSandbox": 60,
    "RunPodSandbox, user namespace": 30,
    "CreateContainer, user namespace": 30,
    "RemovePodSandbox, user namespace": 60,
    "UpdatePodSandboxResources": 2,
    "UpdateContainerResources": 3,
    "ReopenContainerLog": 1,
    "Exec": 3,
    "PullImage": 80,
    "RemoveImage": 40,
}


@pytest.fixture(scope="module")
def bench(isolation: Isolation, images: Pushed) -> Iterator[Bench]:
    with bench_of(isolation, images.registry, system_layer()) as made:
        yield made


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_killed_in_the_middle(bench: Bench, name: str) -> None:
    assert point(bench, FLOWS[name], MIDDLE[name]), f"{name} has fewer steps than {MIDDLE[name]}"
