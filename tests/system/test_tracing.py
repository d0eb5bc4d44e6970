"""Spans of a real daemon at a collector: calls, their steps, the programs below them, failures, callers' traces."""

from __future__ import annotations

import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import pycrio
from pycrio.api._pb import api_pb2 as pb
from pycrio.commands.status import Client
from pycrio.errors import NotFound
from tests import streams
from tests.collector import SERVER, Collector, Span
from tests.daemon import Daemon
from tests.isolation import Isolation, short_directory
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually

pytestmark = pytest.mark.system
CALL = "/runtime.v1.RuntimeService/"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONFIG = """
[crio.tracing]
enable_tracing = true
tracing_endpoint = "{endpoint}"
tracing_sampling_rate_per_million = {rate}
"""
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture(scope="module")
def collector(isolation: Isolation) -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation, collector: Collector) -> Iterator[Node]:
    drop_in = CONFIG.format(endpoint=collector.endpoint, rate=1_000_000)
    node = make_node(images, isolation, drop_in=drop_in, env=QUICK)
    yield node
    end_node(node)


def with_parent(node: Node, name: str, request: Any, *, sampled: bool) -> Any:
    """A call that brings a trace."""
    call = node.cri.channel.unary_unary(f"{CALL}{name}", lambda m: m.SerializeToString())
    return call(request, metadata=[("traceparent", f"00-{TRACE}-{PARENT}-{'01' if sampled else '00'}")], timeout=60)


def call_of(collector: Collector, flow: Span) -> Span:
    """The server span of a flow."""

    def look(spans: list[Span]) -> Span | None:
        return next((s for s in spans if s.id == flow.parent), None)

    found = collector.wait(look)
    assert isinstance(found, Span)
    return found


def flow_of(collector: Collector, kind: str, subject: str) -> Span:
    """The span of a flow about something."""

    def look(spans: list[Span]) -> Span | None:
        return next((s for s in spans if s.name == kind and subject in str(s.attributes.get("pycrio.subject"))), None)

    found = collector.wait(look)
    assert isinstance(found, Span)
    return found


@pytest.mark.effect("crio.tracing.enable_tracing", "crio.tracing.tracing_endpoint")
def test_a_pods_life(node: Node, collector: Collector, no_leaks: None) -> None:
    pod = node.pod("traced")
    ctr = node.start(pod, "sleep", "1000", name="traced-ctr")
    node.exec(ctr, "true")
    run = flow_of(collector, "RunPodSandbox", "traced")
    call = call_of(collector, run)
    assert (call.name, call.kind, call.parent) == (f"{CALL}RunPodSandbox", SERVER, "")
    about = {
        "rpc.system": "grpc",
        "rpc.service": "runtime.v1.RuntimeService",
        "rpc.method": "RunPodSandbox",
        "rpc.grpc.status_code": 0,
    }
    assert about.items() <= call.attributes.items()
    resource = {"service.name": "crio", "service.version": pycrio.__version__, "process.pid": node.pid}
    assert resource.items() <= call.resource.items()
    assert call.resource["host.name"]
    assert run.within(call)
    parts = collector.below(run)
    assert {"sandbox storage creation", "sandbox namespace creation", "sandbox network creation"} <= set(parts)
    assert all(part.within(run) for part in parts.values())
    network = parts["sandbox network creation"]
    plugin = collector.below(network)["CNI bridge ADD"]
    assert plugin.within(network)
    assert plugin.attributes["process.exit.code"] == 0
    assert parts["sandbox storage creation"].end <= parts["sandbox namespace creation"].start

    create = flow_of(collector, "CreateContainer", "traced-ctr")
    made = collector.below(create)["container runtime creation"]
    assert collector.below(made)["monitor create"].within(made)
    start = flow_of(collector, "StartContainer", "traced-ctr")
    begun = collector.below(start)["start"]
    assert collector.below(begun)["runc start"].within(begun)
    probe = collector.named("runc exec")
    assert call_of(collector, probe).name == f"{CALL}ExecSync"
    assert not any(s.failed for s in (call, run, create, start, probe))
    assert len({call_of(collector, s).trace for s in (run, create, start, probe)}) == 4
    # the log's lines stand in the span in which they were written
    assert any(name == "Started container" for name, _ in call_of(collector, start).events)


def test_a_pull(node: Node, collector: Collector, images: Pushed) -> None:
    pull = flow_of(collector, "PullImage", images.app)
    parts = collector.below(pull)
    assert {"resolve", "layers", "commit"} <= set(parts)
    blob = collector.below(parts["layers"])["blob"]
    assert blob.attributes["oci.digest"].startswith("sha256:")
    assert collector.below(blob)["GET"].attributes["http.response.status_code"] == 200
    assert collector.below(parts["resolve"])["GET"].attributes["server.address"]


def test_calls_that_fail(node: Node, collector: Collector, no_leaks: None) -> None:
    with pytest.raises(grpc.RpcError):
        node.cri.ContainerStatus(container_id="absent")
    span = collector.named(f"{CALL}ContainerStatus", rpc__grpc__status_code=5)
    assert span.failed
    assert "absent" in span.said
    pod = node.pod("with-a-failure")
    with pytest.raises(grpc.RpcError):
        node.start(pod, "/no/such/program", name="fails")
    create = flow_of(collector, "CreateContainer", "fails")
    call = call_of(collector, create)
    assert call.failed
    assert create.failed
    failed = [s.name for s in collector.below(create).values() if s.failed]
    assert failed == ["container runtime creation"]
    assert "/no/such/program" in call.said


async def test_a_callers_trace_and_a_streaming_session(node: Node, collector: Collector, no_leaks: None) -> None:
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    request = pb.ExecRequest(container_id=ctr, cmd=["echo", "hi"], stdout=True, stderr=True)
    url = pb.ExecResponse.FromString(with_parent(node, "Exec", request, sampled=True)).url
    assert (await streams.run(url)).stdout == b"hi\n"
    call = collector.named(f"{CALL}Exec")
    assert (call.trace, call.parent) == (TRACE, PARENT)
    session = collector.named("exec session")
    assert (session.trace, session.parent, session.kind) == (TRACE, call.id, SERVER)
    assert session.start >= call.start


def test_profiles_are_not_served_by_default(node: Node) -> None:
    """Here because this daemon runs anyway; see test_profiling.py for those that serve them."""
    with pytest.raises(NotFound):
        Client(f"{node.dir}/crio.sock").get("/debug/pprof/")
    assert "Profiles are served" not in node.daemon.log


@pytest.mark.effect("crio.tracing.tracing_sampling_rate_per_million")
def test_only_callers_with_a_trace(node: Node, collector: Collector) -> None:
    """Rate 0, on the same containers; what has not been sent is sent at the end."""
    pathlib.Path(node.dir, "conf.d", "20-rate.conf").write_text(CONFIG.format(endpoint=collector.endpoint, rate=0))
    assert node.daemon.stop() == 0
    before = len(collector.spans)
    node.daemon.env["OTEL_BSP_SCHEDULE_DELAY"] = "600000"
    node.daemon.start()
    node.cri.wait_ready()
    node.cri.Version()
    with_parent(node, "Version", pb.VersionRequest(), sampled=False)
    with_parent(node, "Status", pb.StatusRequest(), sampled=True)
    assert node.daemon.stop() == 0
    new = collector.spans[before:]
    assert [(s.name, s.trace, s.parent) for s in new if s.kind == SERVER] == [(f"{CALL}Status", TRACE, PARENT)]
    assert {s.trace for s in new} == {TRACE}
    node.daemon.start()
    node.cri.wait_ready()


@pytest.fixture
def other(isolation: Isolation) -> Iterator[Daemon]:
    """A daemon that is not started yet; nobody listens at its collector's address."""
    daemon = Daemon(short_directory(), extra=CONFIG.format(endpoint="127.0.0.1:9", rate=1_000_000))
    daemon.env = {**QUICK, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"}
    yield daemon
    daemon.clean()


def test_a_collector_that_is_away_harms_nobody(other: Daemon) -> None:
    other.start()
    warning = "Collector of traces takes no spans"
    with other.client() as cri:
        for _ in range(200):
            cri.Version()
        eventually(lambda: warning in other.log)
        cri.Version()
    assert other.stop() == 0
    assert other.log.count(warning) == 1
    assert "Unforeseen" not in other.log


def test_a_collector_that_never_answers_harms_nobody(other: Daemon) -> None:
    """It takes connections and nothing else; neither calls nor the daemon's end wait for it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        path = pathlib.Path(other.dir, "crio.conf")
        path.write_text(path.read_text().replace("127.0.0.1:9", f"127.0.0.1:{silent.getsockname()[1]}"))
        other.start()
        with other.client() as cri:
            for _ in range(5000):  # more than wait for a collector at most
                cri.Version()
            eventually(lambda: "Collector of traces takes no spans" in other.log)
        assert other.stop() == 0
        assert other.log.count("Collector of traces takes no spans") == 1


def test_without_the_extra_it_says_what_to_install(other: Daemon) -> None:
    hidden = "import sys; sys.modules['opentelemetry'] = None; from pycrio.__main__ import main; sys.exit(main())"
    other.program = ("-c", hidden)
    other.start(wait=False)
    assert other.process is not None
    assert other.process.wait(60) == 1
    assert "crio.tracing.enable_tracing: needs OpenTelemetry" in other.log
    assert "pip install 'pycrio[tracing]'" in other.log
