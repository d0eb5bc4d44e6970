"""Hypothesis strategies for CRI requests that a daemon with real pods can be sent.

Messages are made from the protobuf descriptors. Ids, images and paths are placeholders in braces, so that what is drawn
does not depend on a run; ``filled`` puts what a run has in their places. Absolute paths that nobody gave stay below a
directory of the test's own: the daemon acts on the machine as root.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from pycrio.api._pb import api_pb2 as pb

IDS = ("{pod}", "{stopped pod}", "{running}", "{created}", "{exited}", "{prefix}", "f" * 64, "no-such-id", "x" * 4097)
PATHS = ("{dir}/file", "{dir}/sub", "{dir}/absent", "{dir}/loop", "{dir}/fifo", "/dev/null", "a", "a/../b", "../../a")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10) | st.sampled_from(
    ["", "0", "-1", "true", "x\0y", "é", "a/b", "..", "\n", "x" * 300, "host", "runtime/default", "unconfined", "*"]
)
# Those that a handler may allow, but for the ones that act on CPUs and interrupts of the whole machine.
ANNOTATIONS = (
    "shm-size.crio.io",
    "userns-mode.crio.io",
    "devices.crio.io",
    "unified-cgroup.crio.io",
    "umask.crio.io",
    "disable-fips.crio.io",
    "link-logs.crio.io",
    "seccomp-profile.kubernetes.cri-o.io",
    "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel",
)
KEYS = (
    *ANNOTATIONS,
    "seccomp-profile.kubernetes.cri-o.io/POD",
    "cdi.k8s.io/x",
    "io.kubernetes.container.name",
    "io.kubernetes.cri-o.SandboxID",
    "org.systemd.property.TimeoutStopUSec",
)
VALUES = (
    "64Mi",
    "1e99",
    "auto",
    "auto:size=5",
    "private:uidmapping=0:5000:10;gidmapping=0:6000:10",
    "/dev/null:/dev/x:rw",
    "memory.low=1",
    "0022",
    "99999",
    "vendor.example/class=one",
    '{"cpuset": "0"}',
)
POOLS: dict[str, tuple[str, ...]] = {
    "image": ("{image}", "{app}", "{image id}", "{absent image}", "UPPER/x", "a:b:c", "x@sha256:1"),
    "user_specified_image": ("{image}", "{absent image}"),
    "image_ref": ("{image id}",),
    "runtime_handler": ("", "runc", "no-such-handler"),
    "host_path": PATHS,
    "container_path": ("/x", "/etc/passwd", "/proc", "/proc/self/x", "/dev", "/sys/fs/cgroup", "/a/../b", "/", *PATHS),
    "working_dir": ("/", "/tmp", "/a/../b", "/bin/sh", "a", "/x y"),
    "log_directory": ("{dir}/logs", "{dir}/file/x", "a/b", "", "{dir}/loop/x"),
    "log_path": ("c.log", "a/b/c.log", "../x", "/x", "x" * 300, ""),
    "location": ("{dir}/cp.tar", "{dir}/absent/cp.tar", "a"),
    "path": ("{dir}/cp.tar", "{dir}/absent", "{dir}/sub", "a"),
    "image_sub_path": ("bin", "../bin", "/bin", "absent"),
    "cgroup_parent": ("/any", "any", "/any/below", "any.slice", "/a/../b", "", "/"),
    "cpuset_cpus": ("0", "0-1", "1000", "x", "0,,1"),
    "cpuset_mems": ("0", "7", "x"),
    "page_size": ("2MB", "1GB", "64KB", "x"),
    "permissions": ("r", "rw", "rwm", "q", "rr"),
    "run_as_username": ("root", "user", "nobody", "0", "1000:1000", "absent"),
    "apparmor_profile": ("unconfined", "runtime/default", "localhost/absent"),
    "seccomp_profile_path": ("unconfined", "runtime/default", "localhost/{dir}/file"),
    "localhost_ref": ("{dir}/file", "{dir}/absent", "a", ""),
    "host_ip": ("127.0.0.1", "::1", "0.0.0.0", "1.2.3"),
    "pod_cidr": ("10.0.0.0/8", "x"),
    "name": ("n", "a/b", "", "x" * 300, "vendor.example/class=one", "no.such/device=0"),
    "add_capabilities": ("ALL", "SYS_ADMIN", "cap_chown", "nonsense"),
    "drop_capabilities": ("ALL", "CHOWN", "nonsense"),
    "add_ambient_capabilities": ("NET_RAW", "ALL", "nonsense"),
    "mount_options": ("noexec", "ro", "bind", "nonsense"),
    "servers": ("127.0.0.1", "a\nb", "x y"),
    "masked_paths": ("/proc/kcore", "/absent", "a", "/etc/passwd"),
    "readonly_paths": ("/proc/sys", "/absent", "a"),
    "username": ("u",),
    "server_address": ("{registry}", "x"),
}
COMMANDS: tuple[list[str], ...] = (
    ["true"],
    ["sh", "-c", "exit 3"],
    ["no-such-program"],
    [],
    ["sleep", "1000"],
    ["/"],
    [""],
)
SYSCTLS = ("net.ipv4.ip_forward", "kernel.shm_rmid_forced", "net.core.somaxconn", "no.such.key", "../../x", "net/ipv4")
_BOUNDS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}
_LIKELY = (0, 1, 2, 100, 1000, 65535, 65536, 1 << 20, 32 << 20, -1)


def _number(kind: int) -> st.SearchStrategy[Any]:
    low, high = _BOUNDS[kind]
    return st.sampled_from([n for n in _LIKELY if low <= n <= high]) | st.integers(low, high)


def _text(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.name in ("id", "target_id") or field.name.endswith("_id"):
        return st.sampled_from(IDS) | TEXT
    pool = POOLS.get(field.name)
    return st.sampled_from(pool) | TEXT if pool else TEXT


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return _text(field)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=12)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.floats()
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from(known) | st.integers(-1, 70)
    return _number(field.type)


def _map(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    keys = {"annotations": KEYS, "sysctls": SYSCTLS, "unified": ("memory.low", "no.such", "../x")}
    values = VALUES if field.name in ("annotations", "unified") else ("0", "1", "x\0y")
    key = st.sampled_from(keys.get(field.name, ("app",))) | TEXT
    return st.dictionaries(key, st.sampled_from(values) | TEXT, min_size=1, max_size=3)


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map(field)
    if field.name in ("cmd", "command", "args"):
        return st.sampled_from(COMMANDS) | st.lists(TEXT, max_size=3)
    one = _scalar(field) if field.message_type is None else fields(field.message_type, depth - 1)
    return st.lists(one, min_size=1, max_size=2) if field.is_repeated else one


@st.composite
def fields(draw: st.DrawFn, descriptor: Descriptor, depth: int) -> dict[str, Any]:
    """Values for up to three fields of a message, so that what goes deep is not always spoilt by a neighbour."""
    there = [f for f in descriptor.fields if depth > 0 or f.message_type is None]
    if not there:
        return {}
    count = draw(st.integers(1 if depth > 1 else 0, 3))
    chosen = draw(st.lists(st.sampled_from(there), min_size=min(count, len(there)), max_size=count, unique_by=_name))
    return {field.name: draw(_value(field, depth)) for field in chosen}


def _name(field: FieldDescriptor) -> str:
    return str(field.name)


def requests(call: str, depth: int = 5) -> st.SearchStrategy[Message]:
    """Requests of a call: mostly a sensible one with a few fields changed, sometimes the changes alone."""
    service = next(s for s in pb.DESCRIPTOR.services_by_name.values() if call in s.methods_by_name)
    kind = getattr(pb, service.methods_by_name[call].input_type.name)

    def made(values: dict[str, Any], alone: bool) -> Message:
        message = kind() if alone else sensible(kind)
        message.MergeFrom(kind(**values))
        return message  # type: ignore[no-any-return]

    return st.builds(made, fields(kind.DESCRIPTOR, depth), st.sampled_from([False, False, False, True]))


def sensible(kind: type[Any]) -> Any:
    """A request of this kind that a daemon can serve."""
    message = kind()
    for name, value in (
        ("pod_sandbox_id", "{pod}"),
        ("container_id", "{created}" if kind is pb.StartContainerRequest else "{running}"),
        ("location", "{dir}/cp.tar"),
        ("path", "{dir}/cp.tar"),
        ("stdout", True),
    ):
        if name in kind.DESCRIPTOR.fields_by_name:
            setattr(message, name, value)
    if "cmd" in kind.DESCRIPTOR.fields_by_name:
        message.cmd.append("true")
    image = kind.DESCRIPTOR.fields_by_name.get("image")
    if image is not None and image.message_type is pb.ImageSpec.DESCRIPTOR:
        message.image.image = "{image}"
    if kind is pb.RunPodSandboxRequest:
        message.config.MergeFrom(_pod("any"))
    if kind is pb.CreateContainerRequest:
        message.sandbox_config.MergeFrom(_pod("any"))
        message.config.MergeFrom(
            pb.ContainerConfig(
                metadata=pb.ContainerMetadata(name="any"),
                image=pb.ImageSpec(image="{image}"),
                command=["sleep"],
                args=["1000"],
                log_path="any.log",
            )
        )
    return message


def _pod(name: str) -> Any:
    options = pb.NamespaceOption(pid=pb.CONTAINER)
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="any"),
        log_directory="{dir}/logs",
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent="/any", security_context=pb.LinuxSandboxSecurityContext(namespace_options=options)
        ),
    )


# --- placeholders -----------------------------------------------------------------------------------------------------

_HOST_PATHS = frozenset({"host_path", "log_directory", "location", "path", "localhost_ref", "seccomp_profile_path"})
_HARMLESS = ("/dev/null",)


def filled(message: Any, values: Mapping[str, str]) -> Any:
    """A copy with the placeholders replaced, and with no path of the host but those that the test owns."""
    out = type(message)()
    out.CopyFrom(message)
    _fill(out, values)
    return out


def _fill(message: Any, values: Mapping[str, str]) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in list(value):
                value[key] = _put(value[key], "", values)
        elif field.message_type is not None:
            for one in value if field.is_repeated else (value,):
                _fill(one, values)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                value[:] = [_put(one, field.name, values) for one in value]
            else:
                setattr(message, field.name, _put(value, field.name, values))


def _put(text: str, name: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", value)
    if name in _HOST_PATHS and text.startswith("/") and text not in _HARMLESS:
        inside = posixpath.normpath(text)
        if inside != values["dir"] and not inside.startswith(f"{values['dir']}/"):
            text = f"{values['dir']}/absent{posixpath.normpath(f'/{text}')}"
    return text
