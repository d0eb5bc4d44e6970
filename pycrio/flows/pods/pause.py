"""Which program a pod's infra container runs: pycrio's own, or what the operator wants of the pause image.

Every pause image's program is called ``/pause`` and does what ours does, so that name means ours, and no pod waits for
a pull. Another ``pause_command``, or none (then it is the image's own), is run in a container of the shared store, with
the image pulled when it is absent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pycrio.errors import InvalidRequest
from pycrio.flows.images import find, pull
from pycrio.flows.node_state import Node, now
from pycrio.flows.ports import StoreEntry
from pycrio.flows.undo import Undo
from pycrio.model.ids import new_id
from pycrio.model.image import ImageSpec, StoredImage
from pycrio.model.mount import OciMount
from pycrio.model.pod import PodRecord
from pycrio.model.security import Capabilities
from pycrio.obs import steps
from pycrio.spec import capabilities
from pycrio.spec.process import DEFAULT_PATH

OWN = "/pause"


@dataclass(frozen=True, slots=True)
class Program:
    """A command on a root file system; ``capabilities``: names it may have."""

    root: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    capabilities: tuple[str, ...] = ()
    mounts: tuple[OciMount, ...] = ()
    no_new_privileges: bool = True


async def prepare(node: Node, pod: PodRecord, undo: Undo) -> tuple[PodRecord, Program]:
    """The pod's program with its root file system in place; the record knows what ``release`` has to remove."""
    if node.host.options.pause_command == OWN:
        return pod, await _own(node, pod)
    return await _of_image(node, pod, undo)


async def release(node: Node, pod: PodRecord) -> PodRecord:
    """Remove the root file system of a program that has ended. Idempotent."""
    if not pod.infra_rootfs:
        return pod
    await node.host.rootfs.remove(pod.infra_rootfs)
    return replace(pod, infra_rootfs="")


async def _own(node: Node, pod: PodRecord) -> Program:
    host = node.host
    root = f"{pod.run_dir}/pause-root"
    await host.files.make_dirs(root, 0o755)
    if pod.uid_map:
        await host.files.let_through(root, host.options.run_root)
    await host.files.write(f"{root}/pause", b"", 0o755)  # the place of the program's mount
    for place in ("proc", "dev"):  # runtimes differ in whether they make what they need
        await host.files.make_dirs(f"{root}/{place}")
    # where it was installed, since nothing can be executed below many hosts' /run (noexec)
    mount = OciMount("/pause", "bind", host.options.pause_program, ("bind", "ro", "nosuid", "nodev"))
    return Program(root, (OWN,), ("PATH=/",), "/", mounts=(mount,))


async def _of_image(node: Node, pod: PodRecord, undo: Undo) -> tuple[PodRecord, Program]:
    host = node.host
    image = await _image(node, pod)
    command = host.options.pause_command
    args = (command,) if command else (*image.config.entrypoint, *image.config.cmd)
    if not args:
        raise InvalidRequest(
            f"pause image {host.options.pause_image} has neither entrypoint nor command: set pause_command"
        )
    ident = new_id()
    named = (host.options.pause_image, image.id)
    entry = StoreEntry.of(pod, ident, f"{pod.name}-infra", named, {"created-at": now() // 10**9})
    undo.push("remove root of infra container", host.rootfs.remove, ident)
    await host.rootfs.create(entry)
    root = await host.rootfs.mount(ident)
    names = capabilities.effective_set(
        Capabilities(), host.options.default_capabilities, host.security.known_capabilities()
    )
    has_path = any(word.startswith("PATH=") for word in image.config.env)
    program = Program(
        root=root,
        args=args,
        env=image.config.env if has_path else (DEFAULT_PATH, *image.config.env),
        cwd=image.config.working_dir or "/",
        capabilities=tuple(names),
        no_new_privileges=False,
    )
    return replace(pod, infra_rootfs=ident), program


async def _image(node: Node, pod: PodRecord) -> StoredImage:
    """The pause image; pulled, with ``pause_image_auth_file``, where it is absent."""
    name = node.host.options.pause_image
    found = await find.find(node, name)
    if found is None:
        with steps.step("pause image pull"):
            await pull.pull(node, ImageSpec(image=name), None, pod.config)
        found = await find.need(node, ImageSpec(image=name))
    return found
