"""SELinux labels: one MCS pair per pod, handed out once (selinux(8), mcs(8)).

A label is ``user:role:type:level``. Types come from the policy's own list for containers
(``/etc/selinux/<policy>/contexts/lxc_contexts``); files are labelled by their ``security.selinux`` attribute, so
no library is needed.
"""

from __future__ import annotations

import errno
import os
import random

from pycrio._native.pools import offload
from pycrio.errors import Exhausted, ExternalFailure, InvalidRequest
from pycrio.model.security import SELinuxOptions

CATEGORIES = 1024
XATTR = "security.selinux"


def policy_contexts(path: str = "/etc/selinux/config") -> dict[str, str]:
    """``process``, ``file``, ``kvm_process``, ``init_process`` … as the policy names them; empty without a policy."""
    try:
        with open(path, encoding="utf-8") as f:
            pairs = dict(line.strip().partition("=")[::2] for line in f if "=" in line)
        with open(
            f"/etc/selinux/{pairs.get('SELINUXTYPE', 'targeted').strip()}/contexts/lxc_contexts", encoding="utf-8"
        ) as f:
            lines = (line.partition("=") for line in f if "=" in line and not line.startswith("#"))
            return {k.strip(): v.strip().strip('"') for k, _, v in lines}
    except OSError:
        return {}


def enabled() -> bool:
    """True when the kernel enforces or at least loads SELinux."""
    return os.path.exists("/sys/fs/selinux/enforce")


class SELinux:
    """Labels for pods and containers; every one is "" when it is off."""

    def __init__(self, wanted: bool) -> None:
        self.enabled = wanted and enabled()
        self._contexts = policy_contexts() if self.enabled else {}
        self._used: set[str] = set()

    def labels(self, options: SELinuxOptions | None, virtual: bool) -> tuple[str, str]:
        """Process and mount label of a new pod."""
        if not self.enabled:
            return "", ""
        process = self._contexts.get("kvm_process" if virtual else "process", "system_u:system_r:container_t:s0")
        level = options.level if options is not None and options.level else self._fresh_level()
        mount = self._contexts.get("file", "system_u:object_r:container_file_t:s0")
        return _with(process, options, level), _with(mount, None, level)

    def container_labels(
        self, pod: tuple[str, str], options: SELinuxOptions | None, init: bool = False
    ) -> tuple[str, str]:
        """A container's labels: those of the pod with the parts that the request names. ``init``: systemd runs in it,
        which the policy allows more for one type than for others."""
        if not self.enabled or not pod[0]:
            return "", ""
        level = options.level if options is not None and options.level else _level(pod[0])
        process = pod[0]
        if init:
            init_type = self._contexts.get("init_process", "system_u:system_r:container_init_t:s0").split(":")[2]
            process = _with(process, SELinuxOptions(type=init_type), level)
        return _with(process, options, level), _with(pod[1], None, level)

    def reserve(self, process: str) -> None:
        """Book the level of a pod that is known from before a restart."""
        if process:
            self._used.add(_level(process))

    def release(self, process: str) -> None:
        """Give a pod's level back."""
        self._used.discard(_level(process))

    def _fresh_level(self) -> str:
        for _ in range(CATEGORIES):
            a, b = sorted(random.sample(range(CATEGORIES), 2))
            level = f"s0:c{a},c{b}"
            if level not in self._used:
                self._used.add(level)
                return level
        raise Exhausted("no SELinux level is left for another pod")

    async def relabel(self, path: str, label: str, recursive: bool) -> None:
        """Label a tree; only its top, when that has the label already, unless ``recursive``."""
        if not self.enabled or not label:
            return
        if os.path.realpath(path) in ("/", "/usr", "/etc", "/boot", "/home", "/var", "/root"):
            raise InvalidRequest(f"relabeling of {path} is not allowed: it would make the host unusable")
        try:
            await offload("mount", _relabel, path, label, recursive)
        except OSError as e:
            raise ExternalFailure(f"{path} cannot be labelled {label}: {e.strerror}") from e


def _level(label: str) -> str:
    return label.split(":", 3)[3] if label.count(":") >= 3 else ""


def _with(label: str, options: SELinuxOptions | None, level: str) -> str:
    user, role, kind = [*label.split(":", 3), "", "", ""][:3]
    if options is not None:
        user, role, kind = options.user or user, options.role or role, options.type or kind
    return ":".join((user, role, kind, level or "s0"))


def _relabel(path: str, label: str, recursive: bool) -> None:
    raw = label.encode() + b"\0"
    os.lstat(path)  # of what is absent at the top the caller wants to hear
    if not recursive and _label_of(path) == raw:
        return
    _set(path, raw)
    for parent, directories, names in os.walk(path):
        for name in (*directories, *names):
            _set(os.path.join(parent, name), raw)


def _label_of(path: str) -> bytes:
    try:
        return os.getxattr(path, XATTR, follow_symlinks=False)
    except OSError as e:
        if e.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise


def _set(path: str, raw: bytes) -> None:
    try:
        os.setxattr(path, XATTR, raw, follow_symlinks=False)
    except OSError as e:
        if e.errno not in (errno.EOPNOTSUPP, errno.ENOENT):  # a file system without labels; a file that just went
            raise
