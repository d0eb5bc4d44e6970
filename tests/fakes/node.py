"""A node whose host is made of fakes: everything in memory, but the records, which are kept in a directory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from pycrio.flows import exits
from pycrio.flows.node_state import Node
from pycrio.flows.ports import Host, Options
from pycrio.model.container import ContainerConfig, ContainerMetadata
from pycrio.model.image import ImageSpec
from pycrio.model.node import Identity
from pycrio.model.pod import PodConfig, PodMetadata
from pycrio.model.security import NamespaceMode, NamespaceOptions, PodSecurity
from tests.fakes import images, processes, surroundings
from tests.fakes.plugins import FakeNri
from tests.fakes.script import Script

PLAIN = PodSecurity(NamespaceOptions(pid=NamespaceMode.CONTAINER))


class FakeHost:
    """The fakes by name, for tests to look into; ``host`` is what the flows get."""

    def __init__(self, **options: Any) -> None:
        self.script = script = Script()
        self.table = processes.Table()
        self.registry = images.FakeRegistry(script)
        self.images = images.FakeImages(script)
        self.artifacts = images.FakeArtifacts(script)
        self.layers = images.FakeLayers(script)
        self.monitors = processes.FakeMonitors(script, self.table)
        self.runtime = processes.FakeRuntime(script, self.table)
        self.network = surroundings.FakeNetwork(script)
        self.hostports = surroundings.FakeHostPorts(script)
        self.namespaces = surroundings.FakeNamespaces(script)
        self.cgroups = surroundings.FakeCgroups(script, self.table.monitored)
        image_mounts: set[str] = set()
        self.mounts = surroundings.FakeMounts(script, image_mounts)
        self.cpus = surroundings.FakeCpus(script)
        self.cpu_groups = surroundings.FakeCpuGroups(script)
        self.files = surroundings.FakeFiles(script, self.mounts.mounted, image_mounts)
        self.rootfs = images.FakeRootfs(script, self.files)
        self.rootfs.image_mounts = image_mounts
        self.notifier = surroundings.FakeNotifier()
        self.nri = FakeNri(script)
        self.checkpoints = processes.FakeCheckpoints(script, self.files, self.runtime, "the fake runtime cannot")
        self.files.files["/usr/libexec/pause"] = b"\x7fELF"
        base = Options(
            log_dir="/var/log/crio/pods",
            exits_dir="/run/crio/exits",
            pause_image="registry.k8s.io/pause:3.10",
            pause_command="/pause",
            run_root="/run/store",
            pause_program="/usr/libexec/pause",
        )
        self.host = Host(
            identity=Identity("cri-o", "1.0.0"),
            options=dataclasses.replace(base, **options),
            handlers=surroundings.FakeHandlers(),
            registry=self.registry,
            images=self.images,
            artifacts=self.artifacts,
            layers=self.layers,
            rootfs=self.rootfs,
            monitors=self.monitors,
            runtime=self.runtime,
            tasks=processes.FakeTasks(lambda: self.host),
            changes=processes.FakeChanges(script),
            checkpoints=self.checkpoints,
            network=self.network,
            hostports=self.hostports,
            namespaces=self.namespaces,
            cgroups=self.cgroups,
            cpus=self.cpus,
            cpu_groups=self.cpu_groups,
            security=surroundings.FakeSecurity(),
            notifier=self.notifier,
            classes=surroundings.FakeClasses(),
            devices=surroundings.FakeDevices(),
            hooks=surroundings.FakeHooks(),
            nri=self.nri,
            files=self.files,
            mounts=self.mounts,
            processes=processes.FakeProcesses(self.table),
        )

    def held(self) -> dict[str, object]:
        """Whatever pods and containers hold on the host; empty values only when nothing is left of any."""
        return {
            "network": set(self.network.attached),
            "notifiers": set(self.notifier.listeners),
            "hostports": dict(self.hostports.open),
            "namespaces": dict(self.namespaces.pinned),
            "cgroups": set(self.cgroups.pods),
            "mounts": set(self.mounts.mounted),
            "cpus": {**self.cpus.tuned, **self.cpu_groups.applied},
            "rootfs": set(self.rootfs.kept),
            "image mounts": set(self.rootfs.image_mounts),
            "processes": dict(self.table.alive),
            "runtime": set(self.table.runtime),
            "monitors": set(self.table.monitored),
            "exit files": set(self.table.recorded),
            "staged layers": set(self.layers.staged),
            "staged blobs": set(self.artifacts.staged),
        }


@contextlib.asynccontextmanager
async def fake_node(state_dir: str, **options: Any) -> AsyncIterator[tuple[Node, FakeHost]]:
    """A node with its exit watcher running; options as of ports.Options."""
    fake = FakeHost(**options)
    node = Node(fake.host, state_dir)
    watcher = asyncio.get_running_loop().create_task(exits.watch(node))
    try:
        yield node, fake
    finally:
        watcher.cancel()
        await asyncio.wait({watcher})


def pod_config(name: str = "web", **changes: Any) -> PodConfig:
    """A plain pod."""
    return dataclasses.replace(PodConfig(PodMetadata(name, f"uid-{name}", "default"), security=PLAIN), **changes)


def container_config(name: str = "app", **changes: Any) -> ContainerConfig:
    """A plain container of the image that FakeImages.add puts in."""
    return dataclasses.replace(ContainerConfig(ContainerMetadata(name), ImageSpec("busybox")), **changes)
