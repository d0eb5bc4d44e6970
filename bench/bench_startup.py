"""Start-up with many pods in the records: from the exec of the daemon until Status answers that the runtime is ready.

``python bench/bench_startup.py [--pods 500] [--rounds 5]`` (root). One pod with a container is made by the daemon; the
others are made after its pattern without it, because this takes seconds instead of minutes: records, store containers
with read-write layers, mounted root file systems, pinned namespaces, run directories with shm mounts, CNI results,
cgroups, and one process each are real. What is not there: interfaces of these pods, state of the OCI runtime, and a
monitor of its own (the container's process stands for it). Start-up asks for none of these.

The daemon is killed between rounds, and ended well for the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from pycrio._native import mounts, ns, proc
from pycrio.drivers.cgroups import tree
from pycrio.drivers.layers.settings import Settings
from pycrio.drivers.layers.store import Store
from pycrio.model.container import ContainerRecord
from pycrio.model.ids import new_id
from pycrio.model.pod import PodRecord
from pycrio.model.requests import StoreEntry
from pycrio.state import records
from tests.daemon import Daemon
from tests.fixtures_registry import push_image, start_registry
from tests.isolation import CGROUPS, Isolation, short_directory
from tests.system.conftest import system_layer
from tests.system.node import Node

BAR = 3.0


class Herd:
    """Pods after the pattern of a real one, below the directory of a daemon that does not run."""

    def __init__(self, directory: str) -> None:
        self.dir = pathlib.Path(directory)
        self.state = self.dir / "run/pycrio/state"
        self.pod: PodRecord = self._read("pods", "pod")
        self.container: ContainerRecord = self._read("containers", "container")
        cached = next(p for p in pathlib.Path("/var/lib/cni/results").iterdir() if self.pod.id in p.name)
        self.cni_name, self.cni = cached.name, cached.read_text()
        self.tree = tree.find(CGROUPS)
        self.processes: list[subprocess.Popen[bytes]] = []

    def _read(self, table: str, kind: str) -> Any:
        (path,) = (self.state / table).glob("*.json")
        return records.decode(kind, path.read_bytes())

    async def grow(self, count: int) -> None:
        """Make so many more."""
        store = Store(Settings(str(self.dir / "root"), str(self.dir / "run")))
        await store.open()
        for number in range(count):
            pod = self._pod(number)
            await self._container(store, pod, number)
        # not closed: that would give up the hold on the mounts, as a daemon that ends with none mounted does
        store._index.close()

    def _pod(self, number: int) -> PodRecord:
        old, ident = self.pod, new_id()
        pins = {kind: f"{os.path.dirname(path)}/{_uuid(number)}" for kind, path in old.namespaces.items()}
        ns.create(pins, sysctls=[], hostname=f"pod-{number}", uid_map=[], gid_map=[])
        run_dir = old.run_dir.replace(old.id, ident)
        os.makedirs(f"{run_dir}/shm")
        for name in ("hostname", "resolv.conf"):
            shutil.copy(f"{old.run_dir}/{name}", run_dir)
        mounts.tmpfs(f"{run_dir}/shm", size=1 << 20, mode=0o1777, uid=0, gid=0, label=None)
        cached = self.cni.replace(old.id, ident).replace(old.namespaces["net"], pins["net"])
        pathlib.Path("/var/lib/cni/results", self.cni_name.replace(old.id, ident)).write_text(cached)
        self.tree.make(f"{old.cgroup_parent}/crio-{ident}")
        config = dataclasses.replace(old.config.metadata, name=f"pod-{number}", uid=f"uid-{number}")
        pod = dataclasses.replace(
            old,
            id=ident,
            name=old.name.replace(old.config.metadata.name, f"pod-{number}"),
            config=dataclasses.replace(old.config, metadata=config),
            run_dir=run_dir,
            namespaces=pins,
            shm_path=f"{run_dir}/shm",
        )
        (self.state / "pods" / f"{ident}.json").write_bytes(records.encode("pod", pod))
        return pod

    async def _container(self, store: Store, pod: PodRecord, number: int) -> None:
        old, ident = self.container, new_id()
        name = f"{old.name}-{number}"
        metadata = {"pod-name": pod.name, "pod-id": pod.id, "image-id": old.image_id, "name": name}
        dirs = await store.rootfs.create(StoreEntry(ident, (name,), old.image_id, metadata))
        rootfs = await store.rootfs.mount(ident)
        for here, there in ((old.bundle, dirs.run), (old.persist_dir, dirs.persist)):
            shutil.copy(f"{here}/config.json", there)
        group = old.cgroup_path.replace(old.id, ident)
        self.tree.make(group)
        process = subprocess.Popen(["sleep", "1000000"])
        self.processes.append(process)
        self.tree.enter(group, process.pid)
        begun = proc.start_time(process.pid)
        container = dataclasses.replace(
            old,
            id=ident,
            name=name,
            pod_id=pod.id,
            bundle=dirs.run,
            persist_dir=dirs.persist,
            rootfs=rootfs,
            cgroup_path=group,
            pid=process.pid,
            pid_start_time=begun,
            monitor_pid=process.pid,
            monitor_start_time=begun,
        )
        (self.state / "containers" / f"{ident}.json").write_bytes(records.encode("container", container))


def _uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def start(daemon: Daemon) -> tuple[float, float]:
    """Seconds from the exec until Status says that the runtime is ready, and the daemon's CPU seconds by then."""
    began = time.monotonic()
    daemon.start(wait=False)
    while True:
        assert daemon.process is not None
        if daemon.process.poll() is not None:
            raise RuntimeError(daemon.log[-3000:])
        if os.path.exists(f"{daemon.dir}/crio.sock"):
            with contextlib.suppress(Exception), daemon.client(timeout=30) as cri:
                conditions = {c.type: c.status for c in cri.Status().status.conditions}
                if conditions["RuntimeReady"]:
                    return time.monotonic() - began, cpu(daemon.process.pid)
        time.sleep(0.005)  # nobody tells a stranger when the daemon listens


def cpu(pid: int) -> float:
    """User and system time of a process and of its children that have ended (man 5 proc)."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def rounds(daemon: Daemon, count: int, pods: int) -> list[tuple[float, float]]:
    """Times of starts after kills, and of one after a good end; each must find every pod and container as it was."""
    took = []
    for number in range(count):
        took.append(start(daemon))
        with daemon.client() as cri:
            ready = sum(p.state == 0 for p in cri.ListPodSandbox().items)
            running = sum(c.state == 1 for c in cri.ListContainers().containers)
        assert (ready, running) == (pods, pods), f"{ready} pods are ready, {running} containers run, of {pods}"
        if number < count - 2:
            daemon.kill()
        else:
            assert daemon.stop() == 0
    return took


def measure(pods: int, count: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Times with one pod and with ``pods``."""
    with Isolation() as isolation, contextlib.ExitStack() as stack:
        place = tempfile.mkdtemp(prefix="pycrio-bench-")
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        registry = start_registry(pathlib.Path(place, "registry"))
        stack.callback(registry.stop)
        push_image(registry, "start/busy:1", [system_layer()])
        daemon = Daemon(short_directory())
        stack.callback(shutil.rmtree, daemon.dir, ignore_errors=True)
        daemon.insecure(registry.address)
        daemon.start()
        node = Node(daemon, isolation, f"{registry.address}/start/busy:1")
        node.cri.PullImage(image={"image": node.image})
        node.start(node.pod("pattern"), "sleep", "1000000", name="pattern")
        node.cri.close()
        assert daemon.stop() == 0
        few = rounds(daemon, count, 1)
        herd = Herd(daemon.dir)
        asyncio.run(herd.grow(pods - 1))
        try:
            many = rounds(daemon, count, pods)
            if "--log" in sys.argv:
                print(daemon.log[-6000:])
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill()
            isolation.end(isolation.processes())
            for process in herd.processes:
                process.wait()
        return few, many


def main() -> int:
    """Print both medians; 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pods", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--log", action="store_true")
    options = parser.parse_args()
    few, many = measure(options.pods, options.rounds)
    shown = {"1": few, str(options.pods): many}
    for pods, took in shown.items():
        times, seconds = zip(*took, strict=True)
        middle, every = statistics.median(times), json.dumps([round(t, 2) for t in times])
        print(f"{pods:>5} pods: median {middle:.2f} s, CPU {statistics.median(seconds):.2f} s, all {every}")
    return statistics.median(t for t, _ in many) > BAR


if __name__ == "__main__":
    sys.exit(main())
