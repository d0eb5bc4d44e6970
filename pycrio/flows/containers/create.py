"""Create a container in a ready pod.

1. Check the request; join a creation of the same name, or hand out the container that it made.
2. Find the image, check its signature policy again if configured. Where it is a checkpoint: see ``restore.py``.
3. Root file system: read-write layer above the image, mounted.
4. Who runs: user and groups against the image's files; volumes and mounts; devices.
5. The OCI config, with hooks, CDI edits and what NRI plugins adjust, into the bundle.
6. The monitor, which has the runtime create the container.
7. The record, and the event.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, replace

from pycrio.errors import ExternalFailure, InvalidRequest, NotFound, WrongState
from pycrio.flows.containers import classes, inputs, notifier, restore, tuning
from pycrio.flows.containers.volumes import MountPlan, plan_mounts
from pycrio.flows.images import find as images
from pycrio.flows.node_state import Node, now
from pycrio.flows.pods import linklogs
from pycrio.flows.pods import options as pod_options
from pycrio.flows.pods.run import check_labels
from pycrio.flows.ports import ContainerDirs, MonitorRequest, StoreEntry
from pycrio.flows.undo import Undo
from pycrio.model.container import ContainerConfig, ContainerRecord
from pycrio.model.cpus import CpuTuning
from pycrio.model.event import Event, EventType
from pycrio.model.ids import container_name, new_id
from pycrio.model.image import StoredImage
from pycrio.model.node import Handler
from pycrio.model.pod import PodConfig, PodRecord
from pycrio.obs import log as obslog
from pycrio.obs import steps
from pycrio.obs.metrics import metrics
from pycrio.spec import users
from pycrio.spec.build import Parts, build
from pycrio.spec.resources import wanted_of

log = obslog.get("container")


@dataclass(frozen=True, slots=True)
class Making:
    """What the steps of one creation hand to each other."""

    pod: PodRecord
    config: ContainerConfig
    handler: Handler
    image: StoredImage
    annotations: dict[str, str]
    ident: str
    name: str
    dirs: ContainerDirs
    rootfs: str
    origin: restore.Origin | None = None
    tuning: CpuTuning | None = None


def check(config: ContainerConfig) -> None:
    """InvalidRequest unless the container has a name, an image and sane fields."""
    name = config.metadata.name
    if not name:
        raise InvalidRequest("ContainerConfig.metadata.name must not be empty")
    if "/" in name or "\0" in name:
        raise InvalidRequest(f"container name {name!r} contains a character that no name can have")
    if not config.image.image:
        raise InvalidRequest("ContainerConfig.image names no image")
    if config.log_path and (posixpath.isabs(config.log_path) or ".." in config.log_path.split("/")):
        raise InvalidRequest(f"log path {config.log_path!r} must be relative to the pod's log directory and stay in it")
    check_labels(config.labels)


async def create(node: Node, pod_id: str, config: ContainerConfig, pod_config: PodConfig, checkpoint: str = "") -> str:
    """Create a container; the id. The same request again gives the same container, also while the first one runs.

    ``checkpoint`` is an archive to make it of, with the image that the request names below its root file system.
    """
    check(config)
    pod = node.ready_pod(pod_id)
    if config.security.privileged and not pod.privileged:
        raise InvalidRequest("no privileged container allowed in sandbox: the pod itself is not privileged")
    m = pod.config.metadata
    _ = pod_config  # repeats what RunPodSandbox got; the record is what the pod really has
    name = container_name(config.metadata.name, m.name, m.namespace, m.uid, config.metadata.attempt)
    known = node.containers.by_name(name)
    if known is not None:
        return known.id
    # A pod that was removed and run again has the names of the old one, where a creation may still be ending.
    key = ("container", pod.id, name)
    if node.creating.running(key):
        metrics.stalled(steps.stage("CreateContainer", name, "container creating"))
    try:
        return await node.creating.run(key, lambda: _create(node, pod, config, name, checkpoint))
    except ExternalFailure as e:
        found = node.pods.resolve(pod.id)
        if found is not None and found.ready:
            raise
        # Whatever a program has missed, it went with the pod.
        raise WrongState(f"CreateContainer failed as the sandbox was stopped: {pod.id}") from e


async def _create(node: Node, pod: PodRecord, config: ContainerConfig, name: str, checkpoint: str) -> str:
    host = node.host
    handler = host.handlers.get(pod.handler)
    annotations = pod_options.allowed(pod.config, handler, host.options)
    with steps.flow("CreateContainer", name):
        async with node.turns.of(("name", name)), Undo("create container") as undo:
            ident = new_id()
            node.names.reserve(name, ident)
            undo.push("release name", node.names.release, name, ident)
            with steps.step("container image"):
                image, origin = await _origin(node, config, pod, (ident, checkpoint), undo)
                handler = for_platform(handler, annotations, image)
            with steps.step("container storage creation"):
                making = await _storage(
                    node,
                    Making(
                        pod=pod,
                        config=origin.config if origin else config,
                        handler=handler,
                        image=image,
                        annotations=annotations,
                        ident=ident,
                        name=name,
                        dirs=ContainerDirs("", ""),
                        rootfs="",
                        origin=origin,
                    ),
                    undo,
                )
            with steps.step("container spec configuration"):
                record = await _bundle(node, making, undo)
            with steps.step("container runtime creation"):
                record = await _runtime(node, making, record, undo)
            if not node.pods.get(pod.id).ready:
                raise WrongState(f"CreateContainer failed as the sandbox was stopped: {pod.id}")
            node.containers.put(record)
            undo.release()
        node.unborn.discard(ident)
    await node.plugins.created(record)
    node.events.publish(Event(EventType.CREATED, pod.id, ident, now()))
    log.info("Created container", id=ident, name=name, image=record.image_name)
    return ident


def for_platform(handler: Handler, annotations: dict[str, str], image: StoredImage) -> Handler:
    """The handler with the runtime program for the platform (``os/architecture``) that the annotation names, else for
    that of the image, where it has one."""
    if not handler.platform_runtime_paths:
        return handler
    platform = pod_options.value_of(annotations, "platform-runtime-path.crio.io")
    if platform is None:
        document = json.loads(image.config.raw or b"{}")
        platform = f"{document.get('os', '')}/{document.get('architecture', '')}"
    return replace(handler, path=handler.platform_runtime_paths.get(platform, handler.path))


async def _origin(
    node: Node, config: ContainerConfig, pod: PodRecord, making: tuple[str, str], undo: Undo
) -> tuple[StoredImage, restore.Origin | None]:
    """The image of a new container (``making``: its id, and the archive that it is to be made of), and the checkpoint
    if it is made of one."""
    ident, checkpoint = making
    handler = node.host.handlers.get(pod.handler)
    archive = checkpoint or await restore.archive_of(node, config)
    if archive:
        origin = await restore.from_archive(node, config, handler, archive, config.image.image if checkpoint else "")
    else:
        image = await images.find(node, config.image.image)
        if image is None:
            if await images.find_artifact(node, config.image.image) is not None:
                raise InvalidRequest(f"{config.image.image!r} is an OCI artifact, no image that containers run from")
            raise NotFound("image", config.image.image, "pull it first")
        await _verify(node, image, config, pod)
        if restore.IMAGE_MARK not in image.annotations:
            return image, None
        origin = await restore.from_image(node, config, handler, image, ident, undo)
    await _verify(node, origin.image, origin.config, pod)
    return origin.image, origin


async def _verify(node: Node, image: StoredImage, config: ContainerConfig, pod: PodRecord) -> None:
    if node.host.options.signature_checked_at_create:
        await node.host.registry.verify_stored(image, config.image.user_specified_image, pod.config.metadata.namespace)


async def _storage(node: Node, making: Making, undo: Undo) -> Making:
    """The read-write layer with its record in the shared store, mounted."""
    pod, rootfs = making.pod, node.host.rootfs
    entry = StoreEntry.of(
        pod,
        making.ident,
        making.name,
        (making.config.image.image, making.image.id),
        {
            "metadata-name": making.config.metadata.name,
            "created-at": now() // 10**9,
            "attempt": making.config.metadata.attempt,
            "privileged": making.config.security.privileged,
        },
    )
    dirs = await rootfs.create(entry)
    undo.push("remove root file system", rootfs.remove, making.ident)
    making = replace(making, dirs=dirs)
    if making.origin is not None:
        await restore.unpack(node, making, making.origin)
    return replace(making, rootfs=await rootfs.mount(making.ident))


async def _bundle(node: Node, making: Making, undo: Undo) -> ContainerRecord:
    """Everything that config.json says, and the record that goes with it."""
    host, config, pod = node.host, making.config, making.pod
    who = users.resolve(
        config,
        making.image.config.user,
        await host.files.read_in_root(making.rootfs, "/etc/passwd", 16 << 20) or b"",
        await host.files.read_in_root(making.rootfs, "/etc/group", 16 << 20) or b"",
    )
    plan: MountPlan = await plan_mounts(node, making, who, undo)
    making = replace(making, tuning=await tuning.plan(node, making, inputs.resources(node, making)))
    parts = await inputs.collect(node, making, who, plan)
    document = build(parts)
    if config.cdi_devices or any(k.startswith("cdi.k8s.io/") for k in config.annotations):
        host.devices.inject(document, inputs.cdi_names(config))
    await classes.apply(node, making, document)
    host.hooks.apply(document, {**pod.config.annotations, **config.annotations}, bool(config.mounts))
    record = await node.plugins.create(pod, _record(making, parts, plan, who), document, undo)
    inputs.check_memory_floor(record.resources, making.handler.container_min_memory)
    if making.tuning is not None:  # plugins may have given it other CPUs
        record = replace(record, tuning=await tuning.plan(node, making, wanted_of(document["linux"]["resources"])))
    await notifier.attach(node, making, document, undo)
    inputs.refuse_what_is_beyond(making.handler, document)
    inputs.adapt_to_host(node, document)
    if making.origin is not None:
        restore.check_binds(making.origin, document)
    content = json.dumps(document).encode("utf-8", "surrogateescape")
    await host.files.write(f"{making.dirs.run}/config.json", content, 0o600)
    await host.files.write(f"{making.dirs.persist}/config.json", content, 0o600)
    score = document["process"].get("oomScoreAdj", 0)
    return replace(record, resources=replace(record.resources, oom_score_adj=score))


def _record(making: Making, parts: Parts, plan: MountPlan, who: users.ResolvedUser) -> ContainerRecord:
    config, pod = making.config, making.pod
    return ContainerRecord(
        id=making.ident,
        name=making.name,
        pod_id=pod.id,
        config=config,
        handler=making.handler.name,
        image_id=making.image.id,
        image_ref=images.image_ref(making.image),
        image_name=making.image.names[0] if making.image.names else "",
        created_at=now(),
        bundle=making.dirs.run,
        persist_dir=making.dirs.persist,
        rootfs=making.rootfs,
        log_path=log_path(pod, config, making.ident),
        cgroup_path=parts.cgroup_path,
        user=who.user,
        stop_signal=config.stop_signal or making.image.config.stop_signal or "SIGTERM",
        resources=config.resources,
        mounts=plan.reported,
        privileged=config.security.privileged,
        runtime_path=making.handler.path
        if making.handler.path in making.handler.platform_runtime_paths.values()
        else "",
    )


def log_path(pod: PodRecord, config: ContainerConfig, ident: str) -> str:
    """The request's path below the pod's log directory, else one named by the id."""
    return posixpath.join(pod.log_directory, config.log_path or f"{ident}.log")


async def _runtime(node: Node, making: Making, record: ContainerRecord, undo: Undo) -> ContainerRecord:
    """Have a monitor create the container by its runtime. A container of a checkpoint gets its processes at its start,
    by then complete: there is no created state between."""
    host, config = node.host, making.config
    if making.origin is not None:
        return replace(record, restored_from=f"{making.dirs.persist}/{restore.DIRECTORY}", created_at=now())
    await host.files.make_dirs(posixpath.dirname(record.log_path), 0o755)
    if await host.files.real_path(record.log_path) is None:
        await host.files.remove(record.log_path)  # a link that leads nowhere would put the log there
    if linked := await linklogs.link(node, making.pod, making.annotations, config, making.ident):
        undo.push("remove link to log", host.files.remove, linked)
    node.unborn.add(making.ident)
    undo.push("forget exit", host.monitors.forget_exit, making.ident)
    undo.push("end birth", node.unborn.discard, making.ident)
    undo.push("remove monitor's cgroup", host.cgroups.leave, making.pod.cgroup_parent, making.ident)
    # Before the attempt: a runtime that fails may have made half a container, or a whole one.
    undo.push("remove cgroup", host.cgroups.remove_pod, making.pod.cgroup_parent, making.ident)
    undo.push("delete container", host.runtime.delete, making.handler, making.ident)
    report = await host.monitors.create(
        MonitorRequest(
            container_id=making.ident,
            name=making.name,
            handler=making.handler,
            bundle=making.dirs.run,
            persist_dir=making.dirs.persist,
            log_path=record.log_path,
            cgroup_parent=making.pod.cgroup_parent,
            pod_id=making.pod.id,
            tty=config.tty,
            stdin=config.stdin,
            stdin_once=config.stdin_once,
            oom_score_adj=inputs.inherited_oom_score(node, record.resources.oom_score_adj),
        )
    )
    return replace(
        record,
        pid=report.pid,
        pid_start_time=report.pid_start_time,
        monitor_pid=report.monitor_pid,
        monitor_start_time=report.monitor_start_time,
        init_pid=report.init_pid,
        created_at=now(),
    )
