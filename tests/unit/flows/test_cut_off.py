"""Every flow cut off at every step: the daemon killed, the task cancelled, the step refused.

After a kill a new node starts on the same host and the same records, recovers, and must hold nothing but what its
records name; after the other two the flow's own undo must have seen to that. Then the same request is made again and
succeeds, everything is removed, and the host is as empty as it was at first.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pycrio.errors import PycrioError
from pycrio.flows import exits, janitor, recover
from pycrio.flows.containers import checkpoint, create, remove, start, stop, update
from pycrio.flows.images import pull
from pycrio.flows.images import remove as remove_image
from pycrio.flows.node_state import Node
from pycrio.flows.pods import checkpoint as pod_checkpoint
from pycrio.flows.pods import remove as pod_remove
from pycrio.flows.pods import restore as pod_restore
from pycrio.flows.pods import run as pod_run
from pycrio.flows.pods import stop as pod_stop
from pycrio.flows.pods import update as pod_update
from pycrio.model.container import ContainerState
from pycrio.model.event import Event, EventType
from pycrio.model.image import ImageSpec
from pycrio.model.mount import Mount
from pycrio.model.pod import PortMapping, Protocol
from pycrio.model.resources import Resources
from pycrio.model.security import NamespaceMode, NamespaceOptions, PodSecurity
from tests.fakes.knife import Killed, Knife, Way
from tests.fakes.node import FakeHost, container_config, pod_config

OTHER = "docker.io/library/other:latest"
PAUSE = "registry.k8s.io/pause:3.10"
PROFILE = "docker.io/library/profile:latest"
ARCHIVE = "/var/ckpt.tar"
SHARED = PodSecurity(NamespaceOptions(pid=NamespaceMode.POD))
MOST = 250


@dataclass
class World:
    """A host and the daemons that come and go on it."""

    fake: FakeHost
    state: str
    knife: Knife = field(default_factory=Knife)
    node: Node = field(init=False)
    pod: str = ""
    container: str = ""
    events: list[Event] = field(default_factory=list)
    watcher: asyncio.Task[None] | None = None

    async def boot(self, *, cut: bool) -> None:
        """A daemon starts; with ``cut`` it is one that goes by the knife."""
        self.knife = Knife()
        self.node = self.knife.node(self.fake.host, self.state) if cut else Node(self.fake.host, self.state)
        self._overhear(self.node, self.knife)
        await recover.recover(self.node)
        await recover.collect_garbage(self.node)
        self.watcher = asyncio.get_running_loop().create_task(exits.watch(self.node))
        await turns()

    def _overhear(self, node: Node, knife: Knife) -> None:
        publish = node.events.publish

        def heard(event: Event) -> None:
            if not knife.dead:
                self.events.append(event)
            publish(event)

        node.events.publish = heard  # type: ignore[method-assign]

    async def gone(self) -> None:
        """The end of a killed daemon: whatever it still had under way is no more."""
        await turns()
        own = asyncio.current_task()
        left = {t for t in asyncio.all_tasks() if t is not own}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    # --- the flows ------------------------------------------------------------------------------------------------

    async def run_pod(self) -> None:
        ports = (PortMapping(Protocol.TCP, 80, 8080),)
        self.pod = await pod_run.run(self.node, pod_config(security=SHARED, port_mappings=ports), "")

    async def run_imaged_pod(self) -> None:
        for host in (self.node.host, self.fake.host):
            host.options = dataclasses.replace(host.options, pause_command="/own")
        await self.run_pod()
        assert self.node.pods.get(self.pod).infra_rootfs in self.fake.rootfs.mounted

    async def run_user_pod(self) -> None:
        plain = pod_config(annotations={"io.kubernetes.cri-o.userns-mode": "auto"})
        self.pod = await pod_run.run(self.node, plain, "")

    async def create(self) -> None:
        mounts = (
            Mount("/image", "", image=ImageSpec("busybox"), readonly=True),
            Mount("/artifact", "", image=ImageSpec("profiles"), readonly=True),
            Mount("/data", "/srv/data"),
        )
        config = container_config(mounts=mounts)
        self.container = await create.create(self.node, self.pod, config, pod_config())

    async def start(self) -> None:
        await start.start(self.node, self.container)

    async def stop(self) -> None:
        await stop.stop(self.node, self.container, 1)

    async def stop_stubborn(self) -> None:
        self.fake.table.stubborn.add(self.container)
        await stop.stop(self.node, self.container, 0)

    async def exit(self) -> None:
        self.fake.table.end(self.container, 3)
        await turns()

    async def remove(self) -> None:
        await remove.remove(self.node, self.container, 1)

    async def update(self) -> None:
        await update.update(self.node, self.container, Resources(cpu_shares=77))

    async def update_pod(self) -> None:
        await pod_update.update_resources(self.node, self.pod, None, Resources(cpu_shares=88))

    async def stop_pod(self) -> None:
        await pod_stop.stop(self.node, self.pod, 1)

    async def remove_pod(self) -> None:
        await pod_remove.remove(self.node, self.pod, 1)

    async def pull(self) -> None:
        await pull.pull(self.node, ImageSpec("other"), None, None)

    async def pull_artifact(self) -> None:
        await pull.pull(self.node, ImageSpec("profile"), None, None)

    async def untag(self) -> None:
        await remove_image.remove(self.node, ImageSpec("second"))

    async def remove_image(self) -> None:
        await remove_image.remove(self.node, ImageSpec("idle"))

    async def checkpoint(self) -> None:
        await checkpoint.checkpoint(self.node, self.container, ARCHIVE, 0)

    async def checkpoint_pod(self) -> None:
        await self.fake.files.remove("/out")
        await self.fake.files.make_dirs("/out")
        await pod_checkpoint.checkpoint(self.node, self.pod, "/out", (self.container,), {}, 60)

    async def create_restored(self) -> None:
        config = container_config("restored", image=ImageSpec(ARCHIVE))
        self.container = await create.create(self.node, self.pod, config, pod_config())
        # A mount of the fake host, which keeps no directories for them.
        self.fake.files.dirs.add(self.node.pods.get(self.pod).shm_path)

    async def restore_pod(self) -> None:
        config = pod_config("restored")
        made = await pod_restore.restore(self.node, "/out", config, "", (container_config(),), {}, 60)
        self.pod, self.container = made.pod_id, made.containers[0][1]

    async def create_plain(self) -> None:
        self.container = await create.create(self.node, self.pod, container_config(), pod_config())

    async def run_plain_pod(self) -> None:
        self.pod = await pod_run.run(self.node, pod_config(), "")

    # --- what must hold -------------------------------------------------------------------------------------------

    def misfits(self) -> list[str]:
        """What the host holds without a record, and records of what the host does not hold."""
        node, fake, wrong = self.node, self.fake, []
        pods, containers = {p.id: p for p in node.pods}, {c.id: c for c in node.containers}
        infra = {p.infra_rootfs for p in pods.values()}
        known = {*pods, *containers, *(infra - {""})}

        def extra(what: str, held: set[str], allowed: set[str]) -> None:
            wrong.extend(f"{what} of nobody: {one}" for one in sorted(held - allowed))

        extra("pin", set(fake.namespaces.pinned), {p for pod in pods.values() for p in pod.namespaces.values()})
        extra("attachment", fake.network.attached, {p.id for p in pods.values() if p.network_ready})
        extra("host port", set(fake.hostports.open.values()), {p.id for p in pods.values() if p.network_ready})
        extra("cgroup", fake.cgroups.pods, set(pods))
        extra("monitor's cgroup", fake.table.monitored, known)
        extra("container of the runtime", fake.table.runtime, known)
        extra("process", set(fake.table.alive.values()), known)
        extra("exit file", set(fake.table.recorded), known)
        extra("root file system", set(fake.rootfs.kept), {*containers, *infra})
        extra("mounted root file system", fake.rootfs.mounted, {*containers, *infra})
        extra("frozen container", fake.runtime.frozen, set())
        extra("staged", fake.layers.staged | fake.artifacts.staged, set())
        for path in (*fake.mounts.mounted, *fake.rootfs.image_mounts, *fake.files.files, *fake.files.dirs):
            if path.startswith(("/run/store/", "/var/store/")) and not any(ident in path for ident in known):
                wrong.append(f"path of nobody: {path}")
            if "/capture-" in path:
                wrong.append(f"scratch of a checkpoint: {path}")
        names = {o.name: o.id for o in pods.values()} | {o.name: o.id for o in containers.values()}
        if node.names._owner != names:
            wrong.append(f"names: {node.names._owner}")
        living = (ContainerState.CREATED, ContainerState.RUNNING)
        for c in containers.values():
            alive = c.id in fake.table.alive.values()
            if (c.state in living) != alive and not c.awaits_restore:
                wrong.append(f"container {c.id} is {c.state.name} and {'has a' if alive else 'has no'} process")
        if node.turns._locks or node.unborn or node.plugins._made:
            wrong.append(f"left in memory: {node.turns._locks} {node.unborn} {node.plugins._made}")
        return wrong

    async def take_down(self, excused: str = "") -> None:
        for pod in list(self.node.pods):
            await pod_remove.remove(self.node, pod.id, 1)
        await turns()
        assert (len(self.node.pods), len(self.node.containers), self.node._live) == (0, 0, {})
        assert [m for m in self.misfits() if not excused or excused not in m] == []
        left = {k: v for k, v in self.fake.held().items() if v and (not excused or k not in EXCUSED_PARTS)}
        assert left == {}


async def turns(count: int = 40) -> None:
    """Let whatever can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


RUNNING = ("run_pod", "create", "start")
PLAIN = ("run_plain_pod", "create_plain", "start")
FLOWS: dict[str, tuple[str, ...]] = {
    "run_pod": (),
    "run_user_pod": (),
    "run_imaged_pod": (),
    "create": ("run_pod",),
    "start": ("run_pod", "create"),
    "stop": RUNNING,
    "stop_stubborn": RUNNING,
    "exit": RUNNING,
    "remove": RUNNING,
    "update": RUNNING,
    "update_pod": RUNNING,
    "stop_pod": RUNNING,
    "stop_imaged_pod": ("run_imaged_pod",),
    "remove_pod": RUNNING,
    "pull": (),
    "pull_artifact": (),
    "untag": (),
    "remove_image": (),
    "checkpoint": PLAIN,
    "checkpoint_pod": PLAIN,
    "create_restored": (*PLAIN, "checkpoint"),
    "start_restored": (*PLAIN, "checkpoint", "create_restored"),
    "remove_unrestored": (*PLAIN, "checkpoint", "create_restored"),
    "restore_pod": (*PLAIN, "checkpoint_pod"),
}
WAYS = ("cancel", "fail")
ACTS = {"start_restored": "start", "remove_unrestored": "remove", "stop_imaged_pod": "stop_pod"}
# What a kubelet does when the call was answered by a failure, or not at all: ask for the same again.
ONCE = frozenset({"exit", "stop_stubborn"})
# What a step that is refused leaves on purpose: a pod whose network is broken can be removed, scratch files go with
# their container, and the next start finds both.
EXCUSED = {
    ("remove_pod", "fail", "hostports.remove"): "host port",
    ("remove_pod", "fail", "network.delete"): "attachment",
    **{(f, w, "files.remove"): "scratch of a checkpoint" for f in ("checkpoint", "checkpoint_pod") for w in WAYS},
}
EXCUSED_PARTS = ("hostports", "network")


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        fake = FakeHost()
        fake.nri.listening = True
        fake.checkpoints.reason = ""
        fake.images.add()
        idle = fake.images.add("docker.io/library/idle:latest")
        tagged = fake.images.add("docker.io/library/first:latest")
        names = ("docker.io/library/first:latest", "docker.io/library/second:latest")
        fake.images.stored[tagged.id] = dataclasses.replace(tagged, names=names)
        assert idle.names
        fake.artifacts.add("docker.io/library/profiles:latest")
        fake.registry.offer(OTHER, ("a", "b", "c"))
        fake.registry.offer(PAUSE, ("pause",))
        fake.registry.offer(PROFILE, ("p.json", "q.json"), "application/x-profile")
        made = World(fake, str(pathlib.Path(directory)))
        await made.boot(cut=True)
        try:
            yield made
        finally:
            await made.gone()


async def prepared(made: World, flow: str) -> Callable[[], Awaitable[None]]:
    """Do what goes before; the flow's own call."""
    for earlier in FLOWS[flow]:
        await getattr(made, earlier)()
    await turns()
    act: Callable[[], Awaitable[None]] = getattr(made, ACTS.get(flow, flow))
    return act


async def attempt(act: Callable[[], Awaitable[None]], end: asyncio.Event) -> BaseException | None:
    """Make a call as a task of its own; what it ended with, if it did before the daemon did."""
    task, ended = asyncio.ensure_future(act()), asyncio.ensure_future(end.wait())
    await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
    await turns()
    ended.cancel()
    return None if not task.done() else asyncio.CancelledError() if task.cancelled() else task.exception()


async def again(made: World, flow: str, act: Callable[[], Awaitable[None]], excused: str = "") -> None:
    """The same request once more, where there is still something that it can be made of; then the end of everything."""
    container = made.node.containers.resolve(made.container)
    for pod in [p for p in made.node.pods if flow == "restore_pod" and p.config.metadata.name == "restored"]:
        await pod_remove.remove(made.node, pod.id, 1)  # the one call that does not hand out what it made before
    if flow not in ONCE and not (
        flow.startswith("start") and (container is None or container.state is not ContainerState.CREATED)
    ):
        await act()
    await turns()
    for one in made.node.containers:  # whose end could not be recorded is looked after
        await janitor._look(made.node, one, set())
    ended = [e for e in made.events if e.type is EventType.STOPPED and e.container_id == made.container != made.pod]
    assert len(ended) <= 1, "an end was told twice"
    assert [m for m in made.misfits() if not excused or excused not in m] == []
    await made.take_down(excused)


async def steps_of(flow: str) -> list[str]:
    """The steps that a flow makes when nobody disturbs it."""
    async with world() as made:
        act = await prepared(made, flow)
        made.knife.arm()
        await act()
        await turns()
        steps = list(made.knife.steps)
        made.knife.disarm()
        assert made.misfits() == []
        await made.take_down()
    assert 0 < len(steps) < MOST, f"{flow} makes {len(steps)} steps"
    return steps


async def cut_off(flow: str, way: Way, at: int, after: bool) -> str:
    """One life of a host on which a flow is cut off at a step. The step's name, "" when the knife met none."""
    async with world() as made:
        act = await prepared(made, flow)
        made.knife.arm(way, at, after=after)
        error = await attempt(act, made.knife.end)
        await turns()
        struck = made.knife.struck
        made.knife.disarm()
        assert error is None or isinstance(error, Killed | PycrioError | asyncio.CancelledError | OSError), repr(error)
        if way == "kill":
            assert made.knife.dead
            await made.gone()
            await made.boot(cut=False)
        where = f"{flow} {way} {'after' if after else 'before'} step {at}, {struck}"
        if flow in ("run_pod", "run_user_pod", "run_imaged_pod", "create", "pull", "pull_artifact") or way == "kill":
            assert made.misfits() == [], where
        if way == "cancel":  # nobody but an ending daemon does it to these flows
            await made.gone()
            await made.boot(cut=False)
        try:
            await again(made, flow, act, EXCUSED.get((flow, way, struck), ""))
        except (PycrioError, AssertionError) as e:
            raise AssertionError(f"{where}: then {e!r}") from e
        return struck


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs to wait long for reports that will not come."""
    monkeypatch.setattr(exits, "REPORT_WAIT", 0.05)


@pytest.mark.parametrize("way", ["kill", "cancel", "fail"])
@pytest.mark.parametrize("flow", sorted(FLOWS))
async def test_cut_off_at_every_step(flow: str, way: Way) -> None:
    steps = await steps_of(flow)
    struck = set()
    for at in range(len(steps)):
        for after in (False,) if way == "fail" else (False, True):
            struck.add(await cut_off(flow, way, at, after))
    if way == "kill":
        assert struck >= set(steps)
    elif any(name not in ("pods.write", "containers.write") for name in steps):
        assert struck - {""}


def test_the_knife_knows_every_port() -> None:
    """A port whose calls went by unseen would leave holes in all of this."""
    node: Any = Knife().node(FakeHost().host, tempfile.mkdtemp(dir="/dev/shm"))
    ports = {f.name for f in dataclasses.fields(node.host)} - {"identity", "options", "handlers"}
    assert all(type(getattr(node.host, name)).__name__ == "Between" for name in ports)
