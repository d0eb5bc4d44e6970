"""A crowd of clients that repeat, overtake and give up requests at any moment: clear answers, and nothing is left.

Every moment of every flow is tried with fakes (tests/unit/flows/test_overtaken.py, tests/unit/api/test_stages.py);
here the runtime, the network and the kernel take part.
"""

from __future__ import annotations

import concurrent.futures
import os
import random
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from tests.cri import Cri
from tests.cri import container as container_config
from tests.cri import pod as pod_config
from tests.system.node import Node, eventually, linux

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
SECONDS = float(os.environ.get("PYCRIO_CROWD_SECONDS", "12"))
SEED = int(os.environ.get("PYCRIO_CROWD_SEED", "1"))
PODS = ("crowd-0", "crowd-1", "crowd-2")
DEADLINES = (0.005, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 30, 30, 30, 30)
COMMANDS = ("sleep 1000", "true", "trap '' TERM; sleep 0.5; sleep 1000")
CLEAR = {
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}


@dataclass
class Crowd:
    """What all clients know of: ids that were once given out, by pod name."""

    node: Node
    pods: dict[str, str] = field(default_factory=dict)
    containers: dict[str, list[str]] = field(default_factory=dict)
    made: int = 0

    def client(self, number: int) -> None:
        """One client's requests, until the time is up."""
        dice, end = random.Random(SEED * 100 + number), time.monotonic() + SECONDS
        with self.node.daemon.client() as cri:
            while time.monotonic() < end:
                self.request(cri, dice, dice.choice(PODS))

    def request(self, cri: Cri, dice: random.Random, name: str) -> None:
        """One request, about a pod of that name."""
        shared = "POD" if name == PODS[-1] else "CONTAINER"
        config = pod_config(name, log_directory=f"{self.node.dir}/pods/{name}", linux=linux(pid=shared))
        pod, containers = self.pods.get(name, ""), self.containers.setdefault(name, [])[-4:]
        some = dice.choice(containers) if containers else "f" * 64
        what = dice.choices(
            ("run", "create", "start", "exec", "stop", "remove", "stop pod", "remove pod"), (4, 5, 5, 2, 2, 2, 1, 1)
        )[0]
        if what == "run" or not pod:
            if answer := self.ask(cri, dice, "RunPodSandbox", config=config):
                self.pods[name] = answer.pod_sandbox_id
        elif what == "create":
            wanted = container_config(dice.choice("ab"), self.node.image, "sh", "-c", dice.choice(COMMANDS))
            if answer := self.ask(
                cri, dice, "CreateContainer", pod_sandbox_id=pod, sandbox_config=config, config=wanted
            ):
                self.containers[name].append(answer.container_id)
                self.made += 1
        elif what == "start":
            self.ask(cri, dice, "StartContainer", container_id=some)
        elif what == "exec":
            self.ask(cri, dice, "ExecSync", container_id=some, cmd=["sh", "-c", "sleep 0.1"], timeout=dice.randrange(2))
        elif what == "stop":
            self.ask(cri, dice, "StopContainer", container_id=some, timeout=dice.choice((0, 1, 5)))
        elif what == "remove":
            self.ask(cri, dice, "RemoveContainer", container_id=some)
        else:
            self.ask(cri, dice, "StopPodSandbox" if what == "stop pod" else "RemovePodSandbox", pod_sandbox_id=pod)

    def ask(self, cri: Cri, dice: random.Random, call: str, **fields: Any) -> Any:
        """A call by a client whose patience is a matter of luck; None for a clear refusal."""
        try:
            return getattr(cri, call)(deadline=dice.choice(DEADLINES), **fields)
        except grpc.RpcError as e:
            if e.code() not in CLEAR:
                raise
            return None


def test_a_crowd_with_little_patience(node: Node) -> None:
    crowd = Crowd(node)
    with concurrent.futures.ThreadPoolExecutor(6) as clients:
        for done in [clients.submit(crowd.client, number) for number in range(6)]:
            done.result()
    assert crowd.made > 0

    def removed() -> bool:
        """What was given up may still be on its way."""
        left = node.cri.ListPodSandbox().items
        for item in left:
            node.remove_pod(item.id)
        return not left

    eventually(removed, 120)  # a container that was made meanwhile gets the grace period of a pod
    assert "Unforeseen" not in node.daemon.log
    assert "Traceback" not in node.daemon.log
