"""What the registry driver is told by ``wiring.py``."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a registry may make us do; sizes in bytes, times in seconds."""

    manifest: int = 4 << 20
    config: int = 4 << 20
    token: int = 256 << 10
    error: int = 64 << 10
    signature: int = 1 << 20
    signatures: int = 128
    index_entries: int = 1000
    index_depth: int = 3
    layers: int = 500
    redirects: int = 8
    attempts: int = 5
    retry_delay: float = 0.5
    retry_delay_max: float = 30.0
    connect: float = 20.0
    small: float = 60.0
    idle: float = 60.0
    slowest: int = 256


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths and preferences. "" in a path stands for the system's default, which may be absent.

    ``environ`` gives proxies and the places of default credential files. ``os``, ``arch`` and ``variant`` in the
    terms of image-spec, "" for this machine's. ``pull_progress_timeout`` in seconds, 0: none.
    ``follow``: read the registry configuration again whenever it changes.
    ``pause_image_auth_file`` has credentials for the image ``pause_image`` only.
    ``stored_signatures`` reads the signature blobs kept with an image of the store, by image id. ``stored_document``
    gives a manifest, index or config that the store has, by digest: what is there is not fetched again. For ``proof``
    seconds whoever was let at a manifest may have it from the store without asking the registry again.
    """

    registries_conf: str = ""
    registries_conf_dir: str = ""
    short_name_aliases: str = "/var/cache/containers/short-name-aliases.conf"
    short_name_mode: str = "enforcing"
    policy: str = ""
    policy_dir: str = "/etc/crio/policies"
    registries_d: str = "/etc/containers/registries.d"
    certs_dirs: tuple[str, ...] = ("/etc/containers/certs.d", "/etc/docker/certs.d")
    global_auth_file: str = ""
    namespaced_auth_dir: str = "/etc/crio/auth"
    pause_image: str = ""
    pause_image_auth_file: str = ""
    os: str = ""
    arch: str = ""
    variant: str = ""
    pull_progress_timeout: float = 0.0
    user_agent: str = "pycrio"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    limits: Limits = field(default_factory=Limits)
    follow: bool = False
    proof: float = 3600.0
    stored_signatures: Callable[[str], Awaitable[tuple[bytes, ...]]] | None = None
    stored_document: Callable[[str], Awaitable[bytes | None]] | None = None
