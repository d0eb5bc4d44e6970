"""Security contexts of pods and containers, namespaces, profiles, users."""

from __future__ import annotations

from collections.abc import Iterable

from pycrio.api._pb import api_pb2 as pb
from pycrio.api.wire.common import checked_id, checked_ids, enum_of
from pycrio.errors import InvalidRequest
from pycrio.model.security import (
    Capabilities,
    ContainerSecurity,
    GroupsPolicy,
    IdMapping,
    LinuxUser,
    NamespaceMode,
    NamespaceOptions,
    PodSecurity,
    ProfileType,
    SecurityProfile,
    SELinuxOptions,
    UserNamespace,
)

_MODES = {
    NamespaceMode.POD: pb.POD,
    NamespaceMode.CONTAINER: pb.CONTAINER,
    NamespaceMode.NODE: pb.NODE,
    NamespaceMode.TARGET: pb.TARGET,
}
_LOCALHOST = "localhost/"
_DEFAULTS = ("runtime/default", "docker/default")


def decode_mappings(mappings: Iterable[pb.IDMapping]) -> tuple[IdMapping, ...]:
    """Id mappings in the order given."""
    return tuple(IdMapping(m.container_id, m.host_id, m.length) for m in mappings)


def encode_mappings(mappings: Iterable[IdMapping]) -> list[pb.IDMapping]:
    """Id mappings in the order given."""
    return [pb.IDMapping(host_id=m.host_id, container_id=m.container_id, length=m.length) for m in mappings]


def decode_namespaces(message: pb.NamespaceOption) -> NamespaceOptions:
    """Namespace modes; the user namespace may only be the pod's or the node's."""
    userns: UserNamespace | None = None
    if message.HasField("userns_options"):
        options = message.userns_options
        mode = enum_of(NamespaceMode, options.mode, "userns_options.mode")
        if mode not in (NamespaceMode.POD, NamespaceMode.NODE):
            raise InvalidRequest(f"userns_options.mode cannot be {mode.name}: only POD and NODE have a meaning")
        userns = UserNamespace(mode, decode_mappings(options.uids), decode_mappings(options.gids))
    return NamespaceOptions(
        network=enum_of(NamespaceMode, message.network, "namespace_options.network"),
        pid=enum_of(NamespaceMode, message.pid, "namespace_options.pid"),
        ipc=enum_of(NamespaceMode, message.ipc, "namespace_options.ipc"),
        target_id=message.target_id,
        userns=userns,
    )


def encode_namespaces(options: NamespaceOptions) -> pb.NamespaceOption:
    """Namespace modes as asked for."""
    userns = options.userns
    return pb.NamespaceOption(
        network=_MODES[options.network],
        pid=_MODES[options.pid],
        ipc=_MODES[options.ipc],
        target_id=options.target_id,
        userns_options=None
        if userns is None
        else pb.UserNamespace(
            mode=_MODES[userns.mode], uids=encode_mappings(userns.uids), gids=encode_mappings(userns.gids)
        ),
    )


def decode_pod(message: pb.LinuxSandboxSecurityContext) -> PodSecurity:
    """Security context of a pod."""
    user, group = _user(message)
    if group is not None and user is None:
        raise InvalidRequest("run_as_group of the pod is given without run_as_user")
    return PodSecurity(
        namespaces=decode_namespaces(message.namespace_options),
        selinux=_selinux(message),
        run_as_user=user,
        run_as_group=group,
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=checked_ids(message.supplemental_groups, "supplemental group"),
        groups_policy=enum_of(GroupsPolicy, message.supplemental_groups_policy, "supplemental_groups_policy"),
        privileged=message.privileged,
        seccomp=_profile(message, "seccomp", message.seccomp_profile_path),
        apparmor=_apparmor(message, ""),
    )


def decode_container(message: pb.LinuxContainerSecurityContext) -> ContainerSecurity:
    """Security context of a container."""
    user, group = _user(message)
    if group is not None and user is None and not message.run_as_username:
        raise InvalidRequest("run_as_group of the container is given without run_as_user or run_as_username")
    caps = message.capabilities
    return ContainerSecurity(
        capabilities=Capabilities(
            tuple(caps.add_capabilities), tuple(caps.drop_capabilities), tuple(caps.add_ambient_capabilities)
        ),
        privileged=message.privileged,
        namespaces=decode_namespaces(message.namespace_options) if message.HasField("namespace_options") else None,
        selinux=_selinux(message),
        run_as_user=user,
        run_as_group=group,
        run_as_username=message.run_as_username,
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=checked_ids(message.supplemental_groups, "supplemental group"),
        groups_policy=enum_of(GroupsPolicy, message.supplemental_groups_policy, "supplemental_groups_policy"),
        no_new_privs=message.no_new_privs,
        masked_paths=tuple(message.masked_paths),
        readonly_paths=tuple(message.readonly_paths),
        seccomp=_profile(message, "seccomp", message.seccomp_profile_path),
        apparmor=_apparmor(message, message.apparmor_profile),
    )


def encode_user(user: LinuxUser) -> pb.ContainerUser:
    """The resolved identity of a container."""
    return pb.ContainerUser(
        linux=pb.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=list(user.groups))
    )


_Context = pb.LinuxSandboxSecurityContext | pb.LinuxContainerSecurityContext


def _user(message: _Context) -> tuple[int | None, int | None]:
    """run_as_user and run_as_group; a present message without a value is id 0."""
    return (
        checked_id(message.run_as_user.value, "run_as_user") if message.HasField("run_as_user") else None,
        checked_id(message.run_as_group.value, "run_as_group") if message.HasField("run_as_group") else None,
    )


def _selinux(message: _Context) -> SELinuxOptions | None:
    if not message.HasField("selinux_options"):
        return None
    options = message.selinux_options
    return SELinuxOptions(options.user, options.role, options.type, options.level)


def _apparmor(message: _Context, old: str) -> SecurityProfile | None:
    """An AppArmor profile; the newer field may carry the older form's prefix."""
    profile = _profile(message, "apparmor", old)
    if profile is not None and profile.type is ProfileType.LOCALHOST:
        return SecurityProfile(ProfileType.LOCALHOST, profile.localhost_ref.removeprefix(_LOCALHOST))
    return profile


def _profile(message: _Context, kind: str, old: str) -> SecurityProfile | None:
    """A profile from its field, else from the deprecated text form; None when neither is given."""
    if message.HasField("seccomp" if kind == "seccomp" else "apparmor"):
        new = message.seccomp if kind == "seccomp" else message.apparmor
        profile = SecurityProfile(enum_of(ProfileType, new.profile_type, f"{kind}.profile_type"), new.localhost_ref)
    elif not old:
        return None
    elif old in _DEFAULTS:
        profile = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    elif old == "unconfined":
        profile = SecurityProfile(ProfileType.UNCONFINED)
    elif old.startswith(_LOCALHOST):
        profile = SecurityProfile(ProfileType.LOCALHOST, old.removeprefix(_LOCALHOST))
    else:
        raise InvalidRequest(
            f"{kind} profile {old!r} is none of runtime/default, unconfined and localhost/<{_ref(kind)}>"
        )
    if profile.type is ProfileType.LOCALHOST and not profile.localhost_ref:
        raise InvalidRequest(f"{kind} profile of type Localhost does not say which {_ref(kind)}")
    return profile


def _ref(kind: str) -> str:
    return "path" if kind == "seccomp" else "name"
