"""ListContainers and ListPodSandbox with 60 and 500 containers, the client's decoding included.

``python -m pytest bench/bench_list.py``. The server is our API behind the native front in a process of its own (the
host is made of fakes: nothing of it takes part in a list). ``anew`` encodes every record for every answer, for
comparison with the joined fragments that the API uses.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from pycrio.api import fragments
from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire import containers
from pycrio.model.container import ContainerRecord
from tests.fakes.node import container_config

SERVER = pathlib.Path(__file__).with_name("list_server.py")


@pytest.fixture(params=[60, 500], ids=lambda n: f"{n} containers")
def channel(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[tuple[grpc.Channel, int]]:
    """A connected channel, and how many containers there are."""
    path = str(tmp_path / "crio.sock")
    command = [sys.executable, str(SERVER), path, str(request.param)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        assert server.stdout.readline() == "ready\n"
        with grpc.insecure_channel(f"unix:{path}", options=[("grpc.max_receive_message_length", -1)]) as opened:
            yield opened, request.param
        server.stdin.close()


@pytest.mark.parametrize(
    ("name", "answer", "field"),
    [
        ("ListContainers", pb.ListContainersResponse, "containers"),
        ("ListPodSandbox", pb.ListPodSandboxResponse, "items"),
    ],
)
def test_list(
    benchmark: Callable[..., Any], channel: tuple[grpc.Channel, int], name: str, answer: Any, field: str
) -> None:
    opened, count = channel
    stub = opened.unary_unary(f"/runtime.v1.RuntimeService/{name}", None, answer.FromString)
    assert len(getattr(benchmark(stub, b""), field)) == count


@pytest.mark.parametrize("count", [60, 500])
@pytest.mark.parametrize("how", ["joined", "anew"])
def test_assemble(benchmark: Callable[..., Any], count: int, how: str) -> None:
    """The server's part alone."""
    records = [
        ContainerRecord(
            id=f"{i:064x}",
            name=f"c{i}",
            pod_id=f"{i:064x}",
            config=container_config(labels={f"l{k}": f"v{k}" for k in range(6)}, annotations={"a": "b" * 40}),
            handler="runc",
            image_id=f"{i:064x}",
            image_ref=f"r@sha256:{i:064x}",
            image_name="r",
            created_at=1,
            bundle="",
            persist_dir="",
            rootfs="",
        )
        for i in range(count)
    ]
    kept = fragments.Fragments(containers.encode)
    made: bytes = benchmark(
        (lambda: kept.join(records))
        if how == "joined"
        else (lambda: fragments.join([containers.encode(r) for r in records]))
    )
    assert len(pb.ListContainersResponse.FromString(made).containers) == count
