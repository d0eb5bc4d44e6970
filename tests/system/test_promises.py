"""The promises of DESIGN section 8, each by its name. What they break in detail is in the tests that they name."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.cri import SERVICES
from tests.cri import pod as pod_config
from tests.fakes import tars
from tests.fixtures_registry import push_image
from tests.isolation import Isolation
from tests.system.conftest import Pushed, end_node, make_node, system_layer
from tests.system.node import Node, assert_nothing_new, eventually, linux
from tests.system.test_bad_images import ESCAPES
from tests.system.test_restart import COUNT, gone, numbers

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
Code = grpc.StatusCode
PODS = 12


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    node = make_node(images, isolation)
    yield node
    end_node(node)


@contextlib.contextmanager
def events(node: Node) -> Iterator[list[Any]]:
    """What the daemon publishes meanwhile, as a list that fills."""
    heard: list[Any] = []
    stream = node.cri.GetContainerEvents(deadline=60)

    def listen() -> None:
        with contextlib.suppress(grpc.RpcError):
            for event in stream:
                heard.append(event)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield heard
    finally:
        stream.cancel()
        thread.join()


def pull_once(node: Node, images: Pushed) -> None:
    """An image that is not there yet, and away with it."""
    name = f"{images.registry.address}/promise/once:1"
    push_image(images.registry, "promise/once:1", [{"once": os.urandom(100)}])
    node.cri.PullImage(image={"image": name})
    node.cri.RemoveImage(image={"image": name})


def test_promise_kill_9_at_any_moment(node: Node, images: Pushed) -> None:
    """Any moment: tests/unit/flows/test_cut_off.py, test_kill_points.py and test_crash_points.py."""
    flag = pathlib.Path(node.dir, "flag")
    flag.mkdir()
    pod = node.pod("kept")
    logs = node.start(pod, "sh", "-c", COUNT, name="logs")
    wait = "until test -e /flag/go; do sleep 0.01; done; exit 5"
    ends = node.start(pod, "sh", "-c", wait, mounts=[pb.Mount(container_path="/flag", host_path=str(flag))])
    before, pid = node.status(logs), node.pid_of(ends)
    runs = pathlib.Path(node.dir, "run/overlay-containers")
    there = set(os.listdir(runs))
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        half = other.submit(node.pod, "half", linux=linux(pid="POD"))
        eventually(lambda: set(os.listdir(runs)) - there or half.done())
        node.daemon.kill()
        assert half.exception(60) is None or isinstance(half.exception(), grpc.RpcError)
    began = time.time_ns() - 10_000_000  # files have the time of the kernel's last tick
    (flag / "go").touch()
    gone(pid)
    eventually(pathlib.Path(node.dir, "exits", ends).exists)
    ended = time.time_ns()
    written = len(numbers(before.log_path))
    eventually(lambda: len(numbers(before.log_path)) > written + 5)
    node.daemon.start()
    node.cri.close()
    node.cri = node.daemon.client()
    with events(node) as heard:
        status = node.ended(ends)
        assert (status.exit_code, status.reason, began <= status.finished_at <= ended) == (5, "Error", True)
        assert node.status(logs) == before
        assert {p.metadata.name for p in node.cri.ListPodSandbox().items} - {"half"} == {"kept"}
        node.pod("half", linux=linux(pid="POD"))
        node.cri.StopContainer(container_id=logs, timeout=0)
        eventually(lambda: any(e.container_id == logs for e in heard))
    told = [e.container_id for e in heard if e.container_event_type == pb.CONTAINER_STOPPED_EVENT]
    assert told.count(ends) <= 1  # it was told before anybody listened, and not again
    assert told.count(logs) == 1
    found = numbers(before.log_path)
    assert found == list(range(1, len(found) + 1))
    shutil.rmtree(flag)
    pull_once(node, images)  # what a first pull opens is open, as it was before


def gives_up(request: Callable[[float], object]) -> None:
    """A client that hardly waits for the answer, and does not know how far its request got."""
    for deadline in (0.004, 0.03):
        try:
            request(deadline)
        except grpc.RpcError as e:
            code = e.code()
        else:
            return  # a fast machine
        assert code is Code.DEADLINE_EXCEEDED


def test_promise_a_client_deadline_never_leaks_work(node: Node, images: Pushed) -> None:
    """Every moment of every flow: tests/unit/api/test_stages.py."""
    config = pod_config("late", log_directory=f"{node.dir}/pods/late", linux=linux())
    gives_up(lambda deadline: node.cri.RunPodSandbox(config=config, deadline=deadline))
    pod = node.cri.RunPodSandbox(config=config).pod_sandbox_id
    assert [p.id for p in node.cri.ListPodSandbox().items] == [pod]
    asked = pb.CreateContainerRequest(
        pod_sandbox_id=pod,
        sandbox_config=config,
        config=pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="late"),
            image=pb.ImageSpec(image=node.image),
            command=["sleep", "1000"],
            log_path="late.log",
        ),
    )
    gives_up(lambda deadline: node.cri.CreateContainer(asked, deadline=deadline))
    container = node.cri.CreateContainer(asked).container_id
    assert [c.id for c in node.cri.ListContainers().containers] == [container]
    node.cri.StartContainer(container_id=container)
    gives_up(lambda deadline: node.cri.StopContainer(container_id=container, timeout=0, deadline=deadline))
    assert node.ended(container).exit_code == 137
    gives_up(lambda deadline: node.cri.RemovePodSandbox(pod_sandbox_id=pod, deadline=deadline))
    eventually(lambda: not node.cri.ListPodSandbox().items)
    push_image(images.registry, "promise/late:1", [system_layer(), {"late": os.urandom(100_000)}])
    spec = {"image": f"{images.registry.address}/promise/late:1"}
    gives_up(lambda deadline: node.cri.PullImage(image=spec, deadline=deadline))
    node.cri.PullImage(image=spec)
    node.cri.RemoveImage(image=spec)


def answered(node: Node, name: str, fields: dict[str, Any]) -> tuple[Any, str]:
    """Status code and text of a call; a stream that was opened is closed again."""
    try:
        answer = getattr(node.cri, name)(**fields)
        if hasattr(answer, "cancel"):
            answer.cancel()
    except grpc.RpcError as e:
        return e.code(), e.details() or ""
    return Code.OK, ""


def test_promise_every_bad_input_has_a_clear_answer(node: Node) -> None:
    """Every kind of it: test_bad_requests.py, test_any_message.py."""
    pid = node.pid
    fine = {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED}
    odd = pb.DESCRIPTOR.message_types_by_name
    for name, service in SERVICES.items():
        method = pb.DESCRIPTOR.services_by_name[service].methods_by_name[name]
        kind = odd[method.input_type.name]
        words = [f.name for f in kind.fields if f.type == f.TYPE_STRING and not f.is_repeated]
        requests = [{}, *({w: value} for w in words for value in ("../../etc", "f" * 64, "x" * 70_000))]
        for fields in requests:
            code, text = answered(node, name, fields)
            assert code in fine, f"{name} {str(fields)[:80]}: {code} {text}"
            assert code is Code.OK or len(text) > 5, name
    assert node.pid == pid
    assert node.daemon.process is not None
    assert node.daemon.process.poll() is None
    assert "Unforeseen failure" not in node.daemon.log


def test_promise_hostile_parts_cost_their_own_request_only(node: Node, images: Pushed) -> None:
    """Images, layers, manifests, registries: test_bad_images.py; plugins, runtimes, monitors, hooks: test_bad_parts.py;
    streams: test_streaming.py."""
    pod = node.pod("beside")
    beside = node.start(pod, "sleep", "1000")
    before = node.status(beside)
    outside = pathlib.Path(node.dir, "outside")
    outside.mkdir()
    for number, escape in enumerate(("dots", "absolute link", "whiteout out")):
        layer = tars.seal(ESCAPES[escape](str(outside).encode()))
        push_image(images.registry, f"promise/escape:{number}", [system_layer(), layer])
        bad = {"image": f"{images.registry.address}/promise/escape:{number}"}
        with contextlib.suppress(grpc.RpcError):
            node.cri.PullImage(image=bad)
        node.cri.RemoveImage(image=bad)
    assert os.listdir(outside) == []
    outside.rmdir()
    flood = node.exec(beside, "sh", "-c", "head -c 40000000 /dev/zero; exit 3")
    assert (flood.exit_code, len(flood.stdout) <= 16 << 20) == (3, True)
    loud = node.start(pod, "sh", "-c", f"yes {'x' * 99} | head -c 4000000")
    assert node.ended(loud).exit_code == 0
    assert len(node.output(loud)) == 4_000_000
    assert node.status(beside) == before
    assert bytes(node.exec(beside, "echo", "on").stdout) == b"on\n"


def test_promise_a_thousand_pods_leave_nothing(node: Node) -> None:
    """A thousand: ``make soak``. Here a dozen, three at a time."""
    node.warm_up()
    before = node.picture()

    def live(number: int) -> None:
        pod = node.pod(f"one-of-many-{number}", linux=linux(pid="POD" if number % 3 == 0 else "CONTAINER"))
        ctr = node.start(pod, "sh", "-c", "echo hello; sleep 1000")
        node.wait_log(ctr, "hello\n")
        assert bytes(node.exec(ctr, "echo", "hi").stdout) == b"hi\n"
        node.remove_pod(pod)

    with concurrent.futures.ThreadPoolExecutor(3) as crowd:
        for done in [crowd.submit(live, n) for n in range(PODS)]:
            done.result()
    assert_nothing_new(node, before)
