"""AppArmor: the default profile that we load, and whether a named one is loaded."""

from __future__ import annotations

import os
import tempfile

from pycrio._native.base import NativeError
from pycrio._native.pools import offload
from pycrio._native.run import run
from pycrio.errors import ExternalFailure, InvalidRequest, NotFound
from pycrio.model.security import ProfileType, SecurityProfile
from pycrio.obs import log as obslog

log = obslog.get("apparmor")
DEFAULT = "crio-default"
SECURITYFS = "/sys/kernel/security/apparmor/profiles"
# What a container may do is decided by capabilities, seccomp and mounts; this profile is the second fence around the
# places through which the host itself could be changed. Namespaced sysctls (net, ipc) stay writable. OCI runtimes have
# profiles of their own on newer distributions and still must be able to end a container.
TEXT = """
#include <tunables/global>

profile {name} flags=(attach_disconnected,mediate_deleted) {{
  #include <abstractions/base>

  capability,
  file,
  network,
  umount,
  deny mount,

  signal (receive) peer=unconfined,
  signal (receive) peer={{runc,crun,/usr/**/runc,/usr/**/crun}},
  signal (send,receive) peer={name},
  ptrace (read,readby,trace,tracedby) peer={name},

  deny @{{PROC}}/{{kcore,kmem,mem,sysrq-trigger}} rwklx,
  deny @{{PROC}}/{{acpi,asound,bus,driver,fs,irq,scsi,tty}}/** wklx,
  deny @{{PROC}}/sys/{{abi,debug,dev,sunrpc,user,vm}}/** wklx,
  deny @{{PROC}}/sys/fs/[^m]** wklx,
  deny @{{PROC}}/sys/kernel/[^ms]** wklx,
  deny @{{PROC}}/sys/kernel/mod** wklx,

  deny @{{sys}}/{{block,bus,class,dev,devices,hypervisor,kernel,module,power}}/** wklx,
  deny @{{sys}}/fs/[^c]** wklx,
  deny @{{sys}}/{{firmware,kernel/security,devices/virtual/powercap}}/** rwklx,
}}
"""


def enabled() -> bool:
    """True when the kernel enforces AppArmor."""
    try:
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as f:
            return f.read(1) == "Y" and os.path.exists(SECURITYFS)
    except OSError:
        return False


class AppArmor:
    """Profile names for containers. Without AppArmor on the host every answer is "no profile"."""

    def __init__(self, default: str) -> None:
        self.default = default or DEFAULT
        self.enabled = enabled()

    async def open(self) -> None:
        """Load our default profile unless another one is configured or it is loaded already."""
        if not self.enabled or self.default != DEFAULT or DEFAULT in loaded():
            return
        path = await offload("proc", _write, TEXT.format(name=DEFAULT))
        try:
            done = await run(["apparmor_parser", "-Kr", path], timeout=30)
        except NativeError as e:
            log.warning("AppArmor profile not loaded: apparmor_parser is missing", profile=DEFAULT, error=str(e))
            self.enabled = False
            return
        finally:
            os.unlink(path)
        if done.code != 0:
            raise ExternalFailure(
                f"AppArmor profile {DEFAULT} cannot be loaded: {done.stderr.decode('utf-8', 'replace').strip()}"
            )

    def name_for(self, profile: SecurityProfile | None, privileged: bool) -> str:
        """The profile for a container; NotFound when it is not loaded, InvalidRequest when the host has no AppArmor but
        the request insists on a profile of its own."""
        if privileged or (profile is not None and profile.type is ProfileType.UNCONFINED):
            return ""
        if profile is not None and profile.type is ProfileType.LOCALHOST:
            name = profile.localhost_ref.removeprefix("localhost/")
            if not name:
                raise InvalidRequest("an AppArmor profile of type Localhost needs a name")
            if not self.enabled:
                raise InvalidRequest(f"AppArmor profile {name!r} is asked for, but AppArmor is not enabled on the host")
            if name not in loaded():
                raise NotFound("AppArmor profile", name, "it is not loaded")
            return name
        return self.default if self.enabled else ""


def loaded() -> frozenset[str]:
    """Names of the loaded profiles."""
    try:
        with open(SECURITYFS, encoding="utf-8") as f:
            return frozenset(line.rpartition(" (")[0] for line in f)
    except OSError:
        return frozenset()


def _write(text: str) -> str:
    fd, path = tempfile.mkstemp(prefix="pycrio-apparmor-")
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        f.write(text)
    return path
