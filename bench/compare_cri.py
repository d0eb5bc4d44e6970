"""Side by side: any CRI sockets, the same calls, one run, ratios to the first endpoint.

    compare_cri.py --endpoint pycrio=unix:///a.sock --endpoint containerd=unix:///b.sock --image 127.0.0.1:5000/x:1

Rounds alternate between the endpoints, so that other load hits all alike. Reported are medians and p99 in
milliseconds, and each endpoint's median as a ratio to the first one's.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from pycrio.api._pb import api_pb2 as pb
from tests.cri import Cri, container, pod


@dataclass
class Peer:
    """One endpoint with what was measured on it: figure → milliseconds."""

    name: str
    cri: Cri
    pid: int = 0
    figures: dict[str, list[float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, figure: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.figures.setdefault(figure, []).append((time.perf_counter() - start) * 1e3)


class Pods:
    """Pods and containers of a benchmark on one endpoint; all go at the end."""

    def __init__(self, peer: Peer, image: str, tag: str) -> None:
        self.peer, self.image, self.tag = peer, image, tag
        self.made: list[str] = []
        self.numbers = itertools.count(1)

    def config(self, host_network: bool = False) -> pb.PodSandboxConfig:
        options = pb.NamespaceOption(pid=pb.CONTAINER, network=pb.NODE if host_network else pb.POD)
        linux = pb.LinuxPodSandboxConfig(
            cgroup_parent=f"/bench-{self.peer.name}",
            security_context=pb.LinuxSandboxSecurityContext(namespace_options=options),
        )
        return pod(f"{self.tag}{next(self.numbers)}", linux=linux, log_directory=f"/tmp/bench-logs-{self.peer.name}")

    def start(self, number: int | None = None, host_network: bool = False) -> tuple[str, str]:
        """RunPodSandbox, CreateContainer, StartContainer; (pod, container)."""
        cri, config = self.peer.cri, self.config(host_network)
        pod_id = cri.RunPodSandbox(config=config).pod_sandbox_id
        self.made.append(pod_id)
        ctr = container("c", self.image, "sleep", "100000", log_path=f"{config.metadata.name}.log")
        made = cri.CreateContainer(pod_sandbox_id=pod_id, config=ctr, sandbox_config=config).container_id
        cri.StartContainer(container_id=made)
        return pod_id, made

    def grow(self, count: int) -> None:
        """Up to so many pods, four at a time; beyond 60 without addresses of their own, for the bridge's sake."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: self.start(n, host_network=count > 60), range(count - len(self.made))))

    def remove(self, pod_id: str) -> None:
        wanted = pb.ContainerFilter(pod_sandbox_id=pod_id)
        for found in self.peer.cri.ListContainers(filter=wanted).containers:
            self.peer.cri.StopContainer(container_id=found.id, timeout=0)
        self.peer.cri.StopPodSandbox(pod_sandbox_id=pod_id)
        self.peer.cri.RemovePodSandbox(pod_sandbox_id=pod_id)

    def clean(self) -> None:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(self.remove, self.made))
        self.made.clear()


def pss(pid: int) -> float:
    """Proportional set size in MB of a process (man 5 proc, smaps_rollup)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Pss:")) / 1024


def each(peers: list[Peer], rounds: int, work: Callable[[Peer], None]) -> None:
    """Rounds that go around the endpoints."""
    for number in range(rounds):
        for peer in peers[number % len(peers) :] + peers[: number % len(peers)]:
            work(peer)


def measure(peers: list[Peer], args: argparse.Namespace) -> None:
    image = pb.ImageSpec(image=args.image)
    for peer in peers:
        if peer.pid:
            peer.figures["memory idle (PSS, MB)"] = [pss(peer.pid)]
        peer.cri.PullImage(image=image)
    if args.pull_image:
        big = pb.ImageSpec(image=args.pull_image)

        def pull(peer: Peer) -> None:
            peer.cri.RemoveImage(image=big)
            with peer.timed("pull"):
                peer.cri.PullImage(image=big, deadline=600)

        each(peers, args.pulls, pull)
    groups = {p.name: Pods(p, args.image, "serial") for p in peers}

    def serial(peer: Peer) -> None:
        with peer.timed("pod start"):
            pod_id, _ = groups[peer.name].start()
        with peer.timed("pod stop and remove"):
            groups[peer.name].remove(pod_id)
        groups[peer.name].made.clear()

    each(peers, 1, serial)
    for peer in peers:  # the first round warmed caches up
        for name in ("pod start", "pod stop and remove"):
            peer.figures[name].clear()
    each(peers, args.rounds, serial)

    def ten(peer: Peer) -> None:
        group = Pods(peer, args.image, f"ten{time.monotonic_ns()}-")
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            with peer.timed("ten pods at once"):
                list(pool.map(group.start, range(10)))
            list(pool.map(group.remove, group.made))
        group.made.clear()

    each(peers, max(1, args.rounds // 5), ten)
    running = {p.name: groups[p.name].start() for p in peers}
    for _, call in (("warm", True), ("real", False)):

        def execute(peer: Peer, warm: bool = call) -> None:
            with peer.timed("warm" if warm else "exec sync true"):
                peer.cri.ExecSync(container_id=running[peer.name][1], cmd=["true"], timeout=10)

        each(peers, 3 if call else args.rounds * 2, execute)
    for count in args.lists:
        for peer in peers:
            group = groups[peer.name]
            group.grow(count)

        def lists(peer: Peer, number: int = count) -> None:
            with peer.timed(f"list {number} containers"):
                peer.cri.ListContainers()
            with peer.timed(f"list {number} pods"):
                peer.cri.ListPodSandbox()

        each(peers, 100, lists)
        ids = {p.name: [c.id for c in p.cri.ListContainers().containers] for p in peers}

        def at_once(peer: Peer, number: int = count, ids: dict[str, list[str]] = ids) -> None:
            """200 status calls under way together on one connection; answers stay undecoded."""
            path = "/runtime.v1.RuntimeService/ContainerStatus"
            call = peer.cri.channel.unary_unary(path, None, None)
            known = ids[peer.name]
            requests = [
                pb.ContainerStatusRequest(container_id=known[i % len(known)]).SerializeToString() for i in range(200)
            ]
            with peer.timed(f"200 status calls at once, {number} containers"):
                for answer in [call.future(request, timeout=60) for request in requests]:
                    answer.result()

        each(peers, 40, at_once)
        for peer in peers:
            if peer.pid:
                peer.figures[f"memory with {count} pods (PSS, MB)"] = [pss(peer.pid)]
    for peer in peers:
        peer.figures.pop("warm", None)
        groups[peer.name].clean()


def report(peers: list[Peer]) -> dict[str, dict[str, float]]:
    """Print the table; the medians by figure and endpoint."""
    out: dict[str, dict[str, float]] = {}
    first = peers[0]
    width = max(len(f) for f in first.figures)
    print(f"{'':{width}}  " + "  ".join(f"{p.name:>24}" for p in peers))
    for figure, values in first.figures.items():
        base = statistics.median(values)
        cells = []
        for peer in peers:
            found = sorted(peer.figures[figure])
            median = statistics.median(found)
            out.setdefault(figure, {})[peer.name] = median
            p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
            ratio = f"x{median / base:.2f}"
            cells.append(f"{median:8.2f} p99 {p99:7.1f} {ratio:>5}" if len(found) > 1 else f"{median:8.2f} {ratio:>16}")
        print(f"{figure:{width}}  " + "  ".join(f"{c:>24}" for c in cells))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", action="append", required=True, help="name=unix:///path[@pid]")
    parser.add_argument("--image", required=True, help="an image with sleep and true")
    parser.add_argument("--pull-image", default="", help="an image to time pulls of")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pulls", type=int, default=3)
    parser.add_argument("--lists", type=int, nargs="*", default=[20], help="numbers of running containers to list")
    parser.add_argument("--json", default="", help="write the medians to this file")
    args = parser.parse_args()
    peers = []
    for item in args.endpoint:
        name, _, address = item.partition("=")
        address, _, pid = address.partition("@")
        peers.append(Peer(name, Cri(address, 300), int(pid or 0)))
    measure(peers, args)
    medians = report(peers)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(medians, indent=1) + os.linesep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
