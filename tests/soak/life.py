"""The life of one pod, drawn by lot: what a cluster does with pods in a day, in a second or two."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import random
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests import streams
from tests.soak.subject import Subject
from tests.system.node import Node, linux, parse_log, refused, secured

FORWARD = "portforward.k8s.io"
PATIENCE = 120.0  # seconds for what a busy machine may take; nothing waits for them when all is well
HOST_PORTS = 20_000
# A first process that ends when it is asked to, with whatever runs beside it.
POLITE = "trap 'exit 0' TERM; {} & wait"


class Lives:
    """What all pods of a run share: the node, its images, and which of them somebody has at the moment."""

    def __init__(self, subject: Subject, node: Node, others: tuple[str, ...], failing: tuple[str, ...]) -> None:
        self.subject = subject
        self.node = node
        self.failing = failing
        self._free = list(others)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def image(self, dice: random.Random) -> Any:
        """An image that nobody else uses meanwhile: a kubelet does not remove images that it needs."""
        with self._lock:
            name = self._free.pop(dice.randrange(len(self._free)))
        try:
            yield name
        finally:
            with self._lock:
                self._free.append(name)


class Life:
    """``number`` and ``seed`` decide everything but the moment of what happens outside."""

    def __init__(self, lives: Lives, number: int, seed: int) -> None:
        self.lives = lives
        self.subject = lives.subject
        self.node = lives.node
        self.dice = random.Random(f"{seed}/{number}")
        self.number = number
        self.name = f"soak-{number}"
        self.logs = pathlib.Path(self.node.dir, "pods", self.name)
        self.pod = ""
        self._box = ""

    def live(self) -> None:
        """From the first call to the last."""
        deeds: list[Callable[[], None]] = [
            self.write_and_rotate,
            self.exit_by_itself,
            self.exec_sync,
            self.exec_too_long,
            self.exec_stream,
            self.leave_exec,
            self.attach,
            self.forward,
            self.out_of_memory,
            self.fail_to_pull,
            self.pull_run_remove,
            self.change_limits,
            self.look,
            self.create_only,
        ]
        weights = [5, 3, 5, 1, 4, 2, 3, 4, 1, 3, 3, 2, 3, 1]
        self.run_pod()
        self.subject.count("pods")
        for deed in self.dice.choices(deeds, weights, k=self.dice.randint(2, 4)):
            deed()
            self.subject.count(deed.__name__.replace("_", " "))
        self.end_pod()
        shutil.rmtree(self.logs, ignore_errors=True)  # as kubelets do

    def abandon(self) -> None:
        """Remove what a life that failed left, so that it does not count as a leak."""
        for item in self.node.cri.ListPodSandbox().items:
            if item.metadata.name == self.name:
                self.node.remove_pod(item.id)
        shutil.rmtree(self.logs, ignore_errors=True)

    # --- the pod --------------------------------------------------------------------------------------------------

    def run_pod(self) -> None:
        kind = self.dice.choices(("plain", "host", "shared", "ports", "users"), (10, 2, 3, 3, 2))[0]
        more: dict[str, Any] = {"linux": linux(), "labels": {"soak": str(self.number)}}
        if kind == "host":
            more["linux"] = linux(network="NODE")
        elif kind == "shared":
            more["linux"] = linux(pid="POD")
        elif kind == "ports":
            port = HOST_PORTS + self.number % 30_000
            more["port_mappings"] = [pb.PortMapping(container_port=8080, host_port=port)]
        elif kind == "users":
            maps = [pb.IDMapping(host_id=100_000 + 65_536 * (self.number % 60), container_id=0, length=65_536)]
            more["linux"] = linux(userns=pb.UserNamespace(mode=pb.POD, uids=maps, gids=maps))
        if self.dice.random() < 0.1:  # a caller that gives up, and asks again
            with contextlib.suppress(grpc.RpcError):
                self.ask_for_pod(more, deadline=0.02 + self.dice.random() * 0.1)
        self.pod = self.ask_for_pod(more)

    def ask_for_pod(self, more: dict[str, Any], **how: Any) -> str:
        from tests.cri import pod

        config = pod(self.name, log_directory=str(self.logs), **more)
        return str(self.node.cri.RunPodSandbox(config=config, **how).pod_sandbox_id)

    def end_pod(self) -> None:
        """In one of the ways in which pods end."""
        cri, way = self.node.cri, self.dice.choice(("in order", "in order", "pod only", "at once"))
        if way == "in order":
            for found in cri.ListContainers(filter={"pod_sandbox_id": self.pod}).containers:
                cri.StopContainer(container_id=found.id, timeout=self.dice.choice((0, 1, 2)))
                cri.RemoveContainer(container_id=found.id)
        if way != "at once":
            cri.StopPodSandbox(pod_sandbox_id=self.pod)
        cri.RemovePodSandbox(pod_sandbox_id=self.pod)

    @property
    def box(self) -> str:
        """A container that waits, to run commands in."""
        if not self._box:
            self._box = self.start(POLITE.format("sleep 100000"))
        return self._box

    def start(self, script: str, **more: Any) -> str:
        self.subject.count("containers")
        return self.node.start(self.pod, "sh", "-c", script, **more)

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """Wait as a kubelet does: it looks again and again."""
        end = time.monotonic() + PATIENCE
        while not (found := look()):
            assert time.monotonic() < end, f"{what} did not happen"
            time.sleep(0.05)
        return found

    def ended(self, ident: str) -> Any:
        def look() -> Any:
            status = self.node.status(ident)
            return status if status.state == pb.CONTAINER_EXITED else None

        return self.until(look, f"the end of container {ident}")

    # --- containers -----------------------------------------------------------------------------------------------

    def write_and_rotate(self) -> None:
        """Every line is in one of the files, whole and in order."""
        lines = self.dice.randint(100, 1500)
        loop = f"i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo $i; [ $((i%100)) = 0 ] && sleep 0.01; done"
        ident = self.start(f"trap 'exit 0' TERM; {loop}; sleep 100000 & wait")
        path = pathlib.Path(self.node.status(ident).log_path)
        old = []
        for number in range(self.dice.randint(0, 3)):
            old.append(path.with_name(f"{path.name}.{number}"))
            os.rename(path, old[-1])
            self.node.cri.ReopenContainerLog(container_id=ident)
        self.until(lambda: any(_last(each) == lines for each in (*old, path)), "the last line of the log")
        found = [int(line.text) for each in (*old, path) for line in parse_log(each.read_text())]
        assert found == list(range(1, lines + 1)), f"the log of {ident} has a gap or a line twice"
        self.subject.count("log lines", lines)

    def exit_by_itself(self) -> None:
        code = self.dice.choice((0, 1, 3, 143))
        ident = self.start(f"echo out; echo err >&2; exit {code}")
        assert self.ended(ident).exit_code == code
        assert [(line.stream, line.text) for line in sorted(self.node.log(ident), key=lambda line: line.stream)] == [
            ("stderr", "err"),
            ("stdout", "out"),
        ]
        if self.dice.random() < 0.5:
            self.node.cri.RemoveContainer(container_id=ident)

    def out_of_memory(self) -> None:
        hog = "awk 'BEGIN { x = \"0123456789abcdef\"; while (1) x = x x }'"
        small = secured(resources=pb.LinuxContainerResources(memory_limit_in_bytes=24 << 20))
        status = self.ended(self.start(f"exec {hog}", linux=small))
        assert (status.exit_code, status.reason) == (137, "OOMKilled"), status

    def create_only(self) -> None:
        """Made, and never started."""
        self.node.create(self.pod, "sleep", "1000")
        self.subject.count("containers")

    def change_limits(self) -> None:
        more = pb.LinuxContainerResources(memory_limit_in_bytes=(64 + self.dice.randrange(64)) << 20, cpu_shares=512)
        self.node.cri.UpdateContainerResources(container_id=self.box, linux=more)

    def look(self) -> None:
        """The questions of a kubelet."""
        cri = self.node.cri
        assert cri.PodSandboxStatus(pod_sandbox_id=self.pod, verbose=True).status.state == pb.SANDBOX_READY
        assert [s.attributes.id for s in cri.ListPodSandboxStats(filter={"id": self.pod}).stats] == [self.pod]
        assert cri.ContainerStats(container_id=self.box).stats.attributes.id == self.box
        assert any(m.pod_sandbox_id == self.pod for m in cri.ListPodSandboxMetrics().pod_metrics)
        assert cri.ImageFsInfo().image_filesystems

    # --- commands -------------------------------------------------------------------------------------------------

    def exec_sync(self) -> None:
        for _ in range(self.dice.randint(1, 4)):
            word, code = f"w{self.dice.randrange(10**9)}", self.dice.randrange(4)
            done = self.node.exec(self.box, "sh", "-c", f"echo {word}; exit {code}")
            assert (bytes(done.stdout).decode(), done.exit_code) == (f"{word}\n", code)

    def exec_too_long(self) -> None:
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "command timed out"):
            self.node.exec(self.box, "sleep", "1000", timeout=1)

    def exec_stream(self) -> None:
        """Bytes in and out through ``cat``, or a terminal's output."""
        data, tty = self.dice.randbytes(self.dice.choice((10, 5000, 200_000))), self.dice.random() < 0.3

        async def talk() -> None:
            if tty:
                request = pb.ExecRequest(container_id=self.box, cmd=["echo", "hi"], tty=True, stdin=True, stdout=True)
                done = await streams.run(self.node.cri.Exec(request).url, b"", tty=True)
                # runc changes its terminal's mode when the process may have written already: a second \r then
                assert done.stdout in (b"hi\r\n", b"hi\r\r\n"), done
            else:
                request = pb.ExecRequest(container_id=self.box, cmd=["cat"], stdin=True, stdout=True, stderr=True)
                done = await streams.run(self.node.cri.Exec(request).url, data)
                assert done.stdout == data, (len(done.stdout), len(data), done.error)
            assert done.code == 0

        self.session(talk)

    def leave_exec(self) -> None:
        """A client that goes in the middle."""

        async def leave() -> None:
            request = pb.ExecRequest(container_id=self.box, cmd=["sleep", "1000"], stdout=True, stderr=True)
            async with streams.command(self.node.cri.Exec(request).url):
                await asyncio.sleep(self.dice.random() * 0.1)

        self.session(leave)

    def attach(self) -> None:
        ident = self.start("cat", stdin=True)

        async def talk() -> None:
            word = f"w{self.dice.randrange(10**9)}\n".encode()
            request = pb.AttachRequest(container_id=ident, stdin=True, stdout=True, stderr=True)
            async with streams.command(self.node.cri.Attach(request).url, stdin=True) as session:
                assert session.stdin is not None
                assert session.stdout is not None
                await session.stdin.write(word)
                found = b""
                while word not in found:
                    part = await session.stdout.read()
                    assert part, "the session was cut off"
                    found += part

        self.session(talk)
        self.node.cri.StopContainer(container_id=ident, timeout=0)

    def forward(self) -> None:
        """A file out of a web server in the pod."""
        port = 30_000 + self.number % 30_000  # pods of the host's network must not meet
        size = self.dice.choice((10, 100_000, 1_000_000))
        serve = f"mkdir -p /srv/w; head -c {size} /dev/zero >/srv/w/f; httpd -f -p 127.0.0.1:{port} -h /srv/w"
        ident = self.start(POLITE.format(f"{{ {serve}; }}"))
        self.node.exec(ident, "sh", "-c", f"until nc 127.0.0.1 {port} </dev/null; do :; done", timeout=int(PATIENCE))

        async def fetch() -> None:
            url = self.node.cri.PortForward(pod_sandbox_id=self.pod, port=[port]).url
            async with streams.spdy_client(url, [FORWARD]) as client:
                error = await client.stream(streamType="error", port=str(port), requestID="0")
                stream = await client.stream(streamType="data", port=str(port), requestID="0")
                await stream.write(b"GET /f HTTP/1.0\r\n\r\n")
                body = await stream.read_all()
                assert await error.read_all() == b""
                assert b" 200 " in body[:20], body[:200]
                assert len(body.partition(b"\r\n\r\n")[2]) == size
                await stream.close()

        self.session(fetch)
        self.node.cri.StopContainer(container_id=ident, timeout=1)
        self.node.cri.RemoveContainer(container_id=ident)

    def session(self, talk: Callable[[], Awaitable[None]]) -> None:
        """Streams end with the daemon that serves them; then once more."""

        async def limited() -> None:
            await asyncio.wait_for(talk(), PATIENCE)

        self.subject.again(lambda: asyncio.run(limited()))

    # --- images ---------------------------------------------------------------------------------------------------

    def fail_to_pull(self) -> None:
        name = self.dice.choice(self.lives.failing)
        with pytest.raises(grpc.RpcError):
            self.node.cri.PullImage(image={"image": name})

    def pull_run_remove(self) -> None:
        with self.lives.image(self.dice) as name:
            self.node.cri.PullImage(image={"image": name})
            number = name.rpartition("/i")[2].partition(":")[0]
            ident = self.start("cat /srv/number; echo", image=name)
            assert self.ended(ident).exit_code == 0
            assert self.node.output(ident) == f"{number}\n"
            self.node.cri.RemoveContainer(container_id=ident)
            self.node.cri.RemoveImage(image={"image": name})


def _last(path: pathlib.Path) -> int:
    """The number in the last whole line of a log: a write that is under way shows in part."""
    lines = path.read_text().rpartition("\n")[0].splitlines()
    return int(lines[-1].rpartition(" ")[2]) if lines else 0
