"""Settings of the NRI driver."""

from __future__ import annotations

from dataclasses import dataclass, field

API_VERSION = "v0.12.0"
"""The release of NRI whose protocol this is (plugins are told)."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What the built-in validator refuses. ``required``: plugins without which no container is made, by name or by
    index and name; ``tolerate``: key of the annotation that lets a pod or container do without."""

    enabled: bool = False
    oci_hooks: bool = False
    runtime_default_seccomp: bool = False
    unconfined_seccomp: bool = False
    custom_seccomp: bool = False
    namespaces: bool = False
    required: tuple[str, ...] = ()
    tolerate: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds. ``name`` and ``version`` are what plugins are told about the runtime."""

    enabled: bool = True
    listen: str = "/var/run/nri/nri.sock"
    plugin_dir: str = "/opt/nri/plugins"
    config_dir: str = "/etc/nri/conf.d"
    registration_timeout: float = 5.0
    request_timeout: float = 2.0
    connections: bool = True
    name: str = "cri-o"
    version: str = ""
    validation: Validation = field(default_factory=Validation)
