"""What Prometheus gets of a daemon with some life behind it: names, types and labels as CRI-O's, and every selector of
the queries that dashboards and alerts for CRI-O are made of finds its series."""

from __future__ import annotations

import http.client
import os
import pathlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
import trustme

from pycrio.api._pb import api_pb2 as pb
from tests.fixtures_registry import free_port, push_image
from tests.isolation import Isolation
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, refused, secured
from tests.unit.obs.test_metrics import KNOWN

pytestmark = pytest.mark.system
PREFIX = "container_runtime_crio_"
# What nothing at all brings about, as with CRI-O.
WITHOUT_SERIES = {"image_pulls_skipped_bytes_total"}
# What the node dashboard of OpenShift, dashboards for performance tests, integrations of monitoring systems, and
# general dashboards for processes and Go programs ask for.
QUERIES = (
    "topk(3, sum(increase(container_runtime_crio_containers_oom_count_total[1d])) by (name))",
    "rate(container_runtime_crio_image_pulls_failure_total[1h])",
    "rate(container_runtime_crio_image_pulls_success_total[1h])",
    'sum by (operation) (rate(container_runtime_crio_operations_errors_total{operation="ContainerStatus"}[2m]))',
    "sum by (operation) (rate(container_runtime_crio_operations_latency_seconds_total_sum[2m]))",
    "sum by (operation) (rate(container_runtime_crio_operations_latency_seconds_total_count[2m]))",
    "sum by (operation) (rate(container_runtime_crio_operations_latency_seconds_total[2m]))",
    "sum by (operation) (rate(container_runtime_crio_operations_total[2m]))",
    'max(container_runtime_crio_operations_latency_seconds_total{operation="PullImage",quantile="0.9"})',
    'max(container_runtime_crio_operations_latency_seconds{operation="network_setup_pod"})',
    'max(container_runtime_crio_operations_latency_seconds{operation="network_setup_overall"})',
    "histogram_quantile(0.9, sum by (le) (rate(container_runtime_crio_image_pulls_layer_size_bucket[1h])))",
    "rate(container_runtime_crio_image_pulls_layer_size_sum[1h])",
    "rate(container_runtime_crio_image_pulls_layer_size_count[1h])",
    "sum by (mediatype, size) (rate(container_runtime_crio_image_pulls_bytes_total[1h]))",
    "sum by (error) (increase(container_runtime_crio_image_pulls_failure_total[1h]))",
    "sum by (name) (container_runtime_crio_image_layer_reuse_total)",
    "sum by (stage) (increase(container_runtime_crio_resources_stalled_at_stage[10m]))",
    "sum by (name) (container_runtime_crio_containers_stopped_monitor_count)",
    "increase(container_runtime_crio_containers_oom_total[1h])",
    "increase(container_runtime_crio_containers_events_dropped_total[1h])",
    "container_runtime_crio_processes_defunct",
    "sum by (name, syscall) (rate(container_runtime_crio_containers_seccomp_notifier_count_total[5m]))",
    'container_runtime_crio_default_runtime{runtime="runc"}',
    "rate(process_cpu_seconds_total[5m])",
    "process_resident_memory_bytes / process_virtual_memory_bytes",
    "process_open_fds / process_max_fds",
    "time() - process_start_time_seconds",
    "process_virtual_memory_max_bytes",
    "go_goroutines + go_threads",
    'go_info{version=~"python3.+"}',
    "go_memstats_alloc_bytes + go_memstats_heap_inuse_bytes + go_memstats_heap_idle_bytes + go_memstats_heap_sys_bytes",
    "go_memstats_sys_bytes + go_memstats_stack_inuse_bytes + go_memstats_heap_objects",
    'go_gc_duration_seconds{quantile="0.75"}',
    "rate(go_gc_duration_seconds_sum[5m]) / rate(go_gc_duration_seconds_count[5m])",
    'sum by (code) (rate(promhttp_metric_handler_requests_total{code="200"}[5m]))',
    "promhttp_metric_handler_requests_in_flight",
)
Series = tuple[str, dict[str, str], float]
_SERIES = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)\Z")
_LABEL = re.compile(r'(\w+)(=~|=)"((?:[^"\\]|\\.)*)"')
_SELECTOR = re.compile(r"\b((?:container_runtime_crio|process|go|promhttp)_\w+)(?:\{([^}]*)\})?")
_GROUPS = re.compile(r"\bby \(([\w, ]+)\)")


@dataclass(frozen=True)
class Scrape:
    """``types`` by metric, and all series."""

    types: dict[str, str]
    series: list[Series]

    def of(self, name: str) -> list[Series]:
        return [entry for entry in self.series if entry[0] == name]


class _Unix(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def fetch(connection: http.client.HTTPConnection) -> str:
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return answer.read().decode()
    finally:
        connection.close()


def read(text: str) -> Scrape:
    """The text format 0.0.4; every line must be of it."""
    types, series = {}, []
    for line in filter(None, text.split("\n")):
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in types
            types[name] = kind
        elif not line.startswith("# HELP "):
            match = _SERIES.match(line)
            assert match, line
            labels = {key: value for key, _, value in _LABEL.findall(match[2] or "")}
            series.append((match[1], labels, float(match[3])))
    keys = [(name, tuple(sorted(labels.items()))) for name, labels, _ in series]
    assert len(keys) == len(set(keys))
    return Scrape(types, series)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation, port: int) -> Iterator[Node]:
    config = f'[crio.metrics]\nenable_metrics = true\nmetrics_port = {port}\nmetrics_socket = "%s/metrics.sock"\n'
    allowed = 'allowed_annotations = ["seccomp-notifier-action.crio.io"]\n'
    node = make_node(images, isolation, prepare=lambda d: config % d, extra=allowed)
    yield node
    end_node(node)


def scrape(node: Node, port: int) -> Scrape:
    """The TCP port and the socket tell the same."""
    found = read(fetch(http.client.HTTPConnection("127.0.0.1", port, timeout=30)))
    other = read(fetch(_Unix(f"{node.dir}/metrics.sock", timeout=30)))
    assert found.types == other.types
    assert {s[0] for s in found.series} == {s[0] for s in other.series}
    return found


@pytest.fixture(scope="module")
def lived(node: Node, images: Pushed, port: int) -> Scrape:
    """The metrics of a daemon to which everything has happened."""
    # A monitor that died is found at the next start, and all counters begin then.
    pod = node.pod()
    orphan = node.start(pod, "sleep", "1000", name="orphan")
    os.kill(int(pathlib.Path(node.dir, "run/overlay-containers", orphan, "userdata/conmon-pidfile").read_text()), 9)
    node.cri.RemoveImage(image={"image": images.app})
    node.restart()
    eventually(lambda: "monitor died" in node.daemon.log)
    push_image(images.registry, "metrics/new:1", [{"new": b"layer"}])
    for image in (images.app, f"{images.registry.address}/metrics/new:1"):
        node.cri.PullImage(image={"image": image})
    for name in (f"{images.registry.address}/sys/absent:1", f"127.0.0.1:{free_port()}/x/y:1"):
        with pytest.raises(grpc.RpcError):
            node.cri.PullImage(image={"image": name})
    with refused(grpc.StatusCode.NOT_FOUND):
        node.status("0" * 64)
    box = node.start(pod, "sleep", "1000")
    assert bytes(node.exec(box, "echo", "hi").stdout) == b"hi\n"
    hog = "awk 'BEGIN { x = \"0123456789abcdef\"; while (1) x = x x }'"
    small = secured(resources=pb.LinuxContainerResources(memory_limit_in_bytes=24 << 20))
    assert node.ended(node.start(pod, "sh", "-c", f"exec {hog}", name="hog", linux=small)).reason == "OOMKilled"
    watched = node.pod("watched", annotations={"seccomp-notifier-action.crio.io": ""})
    profile = secured(seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault))
    ctr = node.start(
        watched, "sh", "-c", "swapoff /dev/null; swapoff /dev/null; sleep 1000", name="told", linux=profile
    )
    eventually(lambda: node.daemon.log.count(f"Seccomp blocked syscall 'swapoff' in container {ctr}") == 2)
    stall(node, port)
    return scrape(node, port)


def stall(node: Node, port: int) -> None:
    """A pod without a network to be had, asked for a second time."""
    directory = pathlib.Path(node.dir, "net.d")
    (conflist,) = directory.iterdir()
    text = conflist.read_text()
    conflist.unlink()

    def ready() -> bool:
        return all(c.status for c in node.cri.Status().status.conditions)

    def stalled() -> list[Series]:
        return scrape(node, port).of(f"{PREFIX}resources_stalled_at_stage")

    eventually(lambda: not ready())
    first, second = (threading.Thread(target=node.pod, args=("slow",)) for _ in range(2))
    first.start()
    second.start()
    try:
        eventually(stalled)
    finally:
        conflist.write_text(text)
        first.join()
        second.join()


@pytest.mark.effect("crio.metrics.enable_metrics", "crio.metrics.metrics_socket")
def test_names_types_and_labels(lived: Scrape) -> None:
    own = {name.removeprefix(PREFIX): kind for name, kind in lived.types.items() if name.startswith(PREFIX)}
    assert own == {name: kind for name, (kind, _) in KNOWN.items()}
    for name, (kind, labels) in KNOWN.items():
        full = PREFIX + name
        sets = {
            "histogram": {full + "_bucket": {*labels, "le"}, full + "_sum": {*labels}, full + "_count": {*labels}},
            "summary": {full: {*labels, "quantile"}, full + "_sum": {*labels}, full + "_count": {*labels}},
        }.get(kind, {full: {*labels}})
        for series, keys in sets.items():
            found = lived.of(series)
            assert bool(found) == (name not in WITHOUT_SERIES), series
            assert all(set(entry[1]) == keys for entry in found), found


@pytest.mark.effect("crio.runtime.default_runtime")
def test_values(lived: Scrape, images: Pushed) -> None:
    def value(series: str, **labels: str) -> float:
        (found,) = [v for _, had, v in lived.of(PREFIX + series) if had == labels]
        return found

    assert value("image_pulls_success_total") == 2
    failures = {labels["error"]: v for _, labels, v in lived.of(f"{PREFIX}image_pulls_failure_total")}
    assert failures == {"MANIFEST_UNKNOWN": 1, "CONNECTION_REFUSED": 1}
    assert value("operations_total", operation="PullImage") == 4
    assert value("operations_errors_total", operation="PullImage") == 2
    assert value("operations_latency_seconds_total_count", operation="PullImage") == 4
    assert value("operations_errors_total", operation="ContainerStatus") == 1
    assert value("operations_total", operation="ExecSync") == 1
    assert 0 < value("operations_latency_seconds", operation="ExecSync") < 60
    of_calls = lived.of(f"{PREFIX}operations_latency_seconds_total")
    quantiles = [v for _, labels, v in of_calls if labels["operation"] == "ExecSync"]
    assert quantiles == sorted(quantiles)
    assert value("containers_oom_total") == 1
    hog = [labels["name"] for _, labels, _ in lived.of(f"{PREFIX}containers_oom_count_total")]
    assert [re.match(r"k8s_hog_pod-\d+_default_uid-pod-\d+_0$", name) is not None for name in hog] == [True]
    assert len(lived.of(f"{PREFIX}containers_stopped_monitor_count")) == 1
    ((_, stage, stalled),) = lived.of(f"{PREFIX}resources_stalled_at_stage")
    assert stalled == 1
    assert stage["stage"] in ("sandbox creating", "sandbox network ready")  # as far as the first one was
    name = "k8s_told_watched_default_uid-watched_0"
    assert value("containers_seccomp_notifier_count_total", name=name, syscall="swapoff") == 2
    assert value("containers_events_dropped_total") == 0
    assert value("default_runtime", runtime="runc") == 1
    # app has a layer above the one that was there, the new image has one
    assert value("image_pulls_layer_size_bucket", le="+Inf") == value("image_pulls_layer_size_count") == 2
    assert len(lived.of(f"{PREFIX}image_layer_reuse_total")) == 1
    kinds = [
        (labels["mediatype"].rpartition("+")[2], labels["size"])
        for _, labels, _ in lived.of(f"{PREFIX}image_pulls_bytes_total")
    ]
    assert sorted(kinds) == [("gzip", ">0 B"), ("zstd", ">0 B")]
    buckets = [labels["le"] for _, labels, _ in lived.of(f"{PREFIX}image_pulls_layer_size_bucket")]
    sides = ["1000", "1e+06", "1e+07", "5e+07", "1e+08", "2e+08", "3e+08", "4e+08", "5e+08", "1e+09", "1e+10", "+Inf"]
    assert buckets == sides


def test_queries_of_dashboards(lived: Scrape) -> None:
    """Each selector finds series, and these have the labels by which its query groups."""
    for query in QUERIES:
        groups = {label.strip() for words in _GROUPS.findall(query) for label in words.split(",")}
        selectors = _SELECTOR.findall(query)
        assert selectors, query
        for name, matchers in selectors:
            found = lived.of(name)
            for label, operator, wanted in _LABEL.findall(matchers):
                pattern = wanted if operator == "=~" else re.escape(wanted)
                found = [entry for entry in found if re.fullmatch(pattern, entry[1].get(label, ""))]
            assert found, query
            assert all(groups <= set(entry[1]) for entry in found), query


@pytest.mark.effect("crio.metrics.metrics_cert", "crio.metrics.metrics_key", "crio.metrics.metrics_collectors")
def test_certificates_and_collectors(node: Node, port: int) -> None:
    """With a certificate the port speaks HTTPS only; a new one is used from the next connection on. And of the metrics
    only those are there that are asked for, by any of their names."""
    cert, key = pathlib.Path(node.dir, "metrics.crt"), pathlib.Path(node.dir, "metrics.key")

    def issue(authority: trustme.CA) -> ssl.SSLContext:
        leaf = authority.issue_cert("localhost")
        for path, blobs in ((cert, leaf.cert_chain_pems), (key, [leaf.private_key_pem])):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
            fresh.rename(path)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    def secure(context: ssl.SSLContext) -> Scrape:
        return read(fetch(http.client.HTTPSConnection("localhost", port, timeout=30, context=context)))

    first = issue(trustme.CA())
    wanted = '["operations_total", "crio_containers_oom_total", "container_runtime_crio_default_runtime"]'
    config = f'metrics_cert = "{cert}"\nmetrics_key = "{key}"\nmetrics_collectors = {wanted}\n'
    with node.configured(f"[crio.metrics]\n{config}"):
        found = secure(first)
        assert found.of("process_open_fds")
        own = {name for name in found.types if name.startswith(PREFIX)}
        assert own == {PREFIX + name for name in ("operations_total", "containers_oom_total", "default_runtime")}
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            fetch(http.client.HTTPConnection("127.0.0.1", port, timeout=30))
        pid = node.pid
        second = issue(trustme.CA())
        assert secure(second).of("process_open_fds")
        with pytest.raises(ssl.SSLCertVerificationError):
            secure(first)
        assert node.pid == pid


def test_zombies_of_the_node_are_counted_at_each_scrape(node: Node, port: int) -> None:
    def defunct() -> float:
        ((_, _, found),) = scrape(node, port).of(f"{PREFIX}processes_defunct")
        return found

    before = defunct()
    children = [os.spawnv(os.P_NOWAIT, "/bin/true", ["true"]) for _ in range(3)]
    for pid in children:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert defunct() >= before + 3  # others of this machine may have some, too
    for pid in children:
        os.waitpid(pid, 0)
