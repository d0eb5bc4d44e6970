"""The host's security modules as the flows need them (see ``flows.ports.Security``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycrio.drivers.security.apparmor import AppArmor
from pycrio.drivers.security.seccomp import Profiles
from pycrio.drivers.security.selinux import SELinux
from pycrio.errors import InvalidRequest, NotFound
from pycrio.model.node import Handler
from pycrio.model.requests import Labels
from pycrio.model.security import ProfileType, SecurityProfile, SELinuxOptions
from pycrio.obs import log as obslog

log = obslog.get("security")


@dataclass(frozen=True, slots=True)
class Settings:
    """Profiles of the configuration; "" for the built-in ones."""

    seccomp_profile: str = ""
    privileged_seccomp_profile: str = ""
    apparmor_profile: str = "crio-default"
    selinux: bool = False


class Security:
    """Profiles and labels."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._profiles = Profiles()
        self._apparmor = AppArmor(settings.apparmor_profile)
        self._selinux = SELinux(settings.selinux)

    async def open(self) -> None:
        """Load the default AppArmor profile where the host has AppArmor; check the configured seccomp profiles."""
        await self._apparmor.open()
        self._check(self.settings)

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Check and load what other profiles need; what comes back makes them hold and cannot fail.

        InvalidRequest or ExternalFailure when one is unusable. Whether SELinux is used does not change.
        """
        self._check(settings)
        apparmor = self._apparmor
        if settings.apparmor_profile != self.settings.apparmor_profile:
            apparmor = AppArmor(settings.apparmor_profile)
            await apparmor.open()

        def commit() -> None:
            self.settings, self._apparmor = settings, apparmor

        return commit

    def _check(self, settings: Settings) -> None:
        for path in (settings.seccomp_profile, settings.privileged_seccomp_profile):
            if path:
                try:
                    self._profiles.file(path, frozenset())
                except NotFound:
                    log.warning("Seccomp profile is missing, the built-in one is used", path=path)

    def seccomp(
        self,
        profile: SecurityProfile | None,
        privileged: bool,
        handler: Handler,
        capabilities: Sequence[str] = (),
    ) -> Mapping[str, Any] | None:
        """The OCI document; None: unconfined."""
        caps = frozenset(capabilities)
        if privileged:
            path = self.settings.privileged_seccomp_profile
            return self._profiles.file(path, caps) if path else None
        if profile is None or profile.type is ProfileType.UNCONFINED:
            return None
        if profile.type is ProfileType.LOCALHOST:
            path = profile.localhost_ref.removeprefix("localhost/")
            if not path.startswith("/"):
                raise InvalidRequest(f"seccomp profile {profile.localhost_ref!r} is not an absolute path")
            return self._profiles.file(path, caps)
        path = handler.seccomp_profile or self.settings.seccomp_profile
        if path:
            try:
                return self._profiles.file(path, caps)
            except NotFound:
                log.warning("Seccomp profile is missing, the built-in one is used", path=path)
        return self._profiles.builtin(caps)

    def seccomp_document(self, name: str, content: bytes, capabilities: Sequence[str] = ()) -> Mapping[str, Any] | None:
        """The OCI document of a profile given by its content; None when it says unconfined."""
        return self._profiles.document(name, content, frozenset(capabilities))

    def apparmor(self, profile: SecurityProfile | None, privileged: bool) -> str:
        """The AppArmor profile's name; "" for none."""
        return self._apparmor.name_for(profile, privileged)

    def labels(self, options: SELinuxOptions | None, handler: Handler) -> Labels:
        """Fresh labels for a pod."""
        return Labels(*self._selinux.labels(options, "kata" in handler.name))

    def container_labels(self, pod: Labels, options: SELinuxOptions | None, init: bool = False) -> Labels:
        """Labels for a container of a pod: the pod's level, the request's other parts; ``init``: for a systemd."""
        return Labels(*self._selinux.container_labels((pod.process, pod.mount), options, init))

    async def relabel(self, path: str, label: str, recursive: bool) -> None:
        """Set the label of a host path."""
        await self._selinux.relabel(path, label, recursive)

    def reserve(self, labels: Labels) -> None:
        """Book the MCS pair of a pod that is known from before a restart."""
        self._selinux.reserve(labels.process)

    def release(self, labels: Labels) -> None:
        """Give the MCS pair of a pod back."""
        self._selinux.release(labels.process)

    def known_capabilities(self) -> frozenset[str]:
        """Names in the daemon's own bounding set."""
        return held_capabilities("CapBnd")


@functools.cache
def held_capabilities(kind: str) -> frozenset[str]:
    """Names in a set (``CapBnd``, ``CapEff``) of this process; numbers are the kernel's (man 5 proc, status)."""
    with open("/proc/self/status", encoding="ascii") as f:
        mask = next(int(line.split()[1], 16) for line in f if line.startswith(f"{kind}:"))
    return frozenset(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
        *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
        *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
        *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
        *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
        "CHECKPOINT_RESTORE",
    )
)
