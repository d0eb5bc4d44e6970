"""What the layers driver is told, and where its files are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pycrio.errors import ConfigError

DRIVER = "overlay"
_TRUE = frozenset({"1", "t", "true", "yes"})
_FALSE = frozenset({"0", "f", "false", "no", ""})

# Driver options that change what is on disk in ways that this driver does not do.
_REFUSED = {
    "mount_program": "FUSE mount programs are for stores without privileges; pycrio mounts overlay itself",
    "use_composefs": "composefs layers are not written by pycrio",
    "force_mask": "pycrio keeps the modes that images have",
    "size": "project quotas are not set by pycrio",
    "inodes": "project quotas are not set by pycrio",
    "additionallayerstore": "additional layer stores need lazy pulling",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Store directories and overlay options. ``mount_options`` are those of ``overlay.mountopt``; ``sync`` is
    ``none`` or ``filesystem`` (layers reach the disk before their record does); ``limits`` bound what one layer may
    hold (keys of ``pycrio._native.untar``). ``decryption_keys`` is a directory with private keys for encrypted
    layers."""

    root: str = "/var/lib/containers/storage"
    run_root: str = "/run/containers/storage"
    image_store: str = ""
    additional_stores: tuple[str, ...] = ()
    mount_options: tuple[str, ...] = ()
    skip_mount_home: bool = False
    sync: str = "none"
    limits: Mapping[str, int] = field(default_factory=dict)
    decryption_keys: str = "/etc/crio/keys/"

    @classmethod
    def from_options(cls, root: str, run_root: str, image_store: str, driver: str, options: Sequence[str]) -> Settings:
        """Settings from CRI-O's ``root``, ``runroot``, ``imagestore``, ``storage_driver`` and ``storage_option``.

        Options are ``name=value`` with an ``overlay.`` or ``.`` prefix before the name. ConfigError lists every
        option that is unknown, malformed or asks for something this driver does not do.
        """
        faults: list[str] = []
        if driver not in ("", DRIVER):
            faults.append(f"storage_driver {driver!r} is not supported: pycrio's store uses overlay")
        for what, path in (("root", root), ("runroot", run_root), ("imagestore", image_store or "/")):
            if not path.startswith("/"):
                faults.append(f"{what} {path!r} is not an absolute path")
        if image_store == root:
            image_store = ""  # not apart from anything
        settings = cls(root=root, run_root=run_root, image_store=image_store)
        for option in options:
            try:
                settings = _apply(settings, option)
            except ValueError as e:
                faults.append(f"storage_option {option!r}: {e}")
        if faults:
            raise ConfigError(faults)
        return settings

    @property
    def images_root(self) -> str:
        """Where images and their layers are."""
        return self.image_store or self.root

    @property
    def home(self) -> str:
        """Driver directory of container layers (and of image layers unless ``image_store`` is set)."""
        return f"{self.root}/{DRIVER}"

    @property
    def image_home(self) -> str:
        """Driver directory of image layers."""
        return f"{self.images_root}/{DRIVER}"

    @property
    def layers_dir(self) -> str:
        """Records of layers, tar-split files."""
        return f"{self.root}/{DRIVER}-layers"

    @property
    def images_dir(self) -> str:
        """Records and big data of images; also the mount point that disk use is reported for."""
        return f"{self.images_root}/{DRIVER}-images"

    @property
    def containers_dir(self) -> str:
        """Records, big data and persistent directories of containers."""
        return f"{self.root}/{DRIVER}-containers"

    @property
    def run_layers_dir(self) -> str:
        """Mount counts."""
        return f"{self.run_root}/{DRIVER}-layers"

    @property
    def run_containers_dir(self) -> str:
        """Volatile directories of containers."""
        return f"{self.run_root}/{DRIVER}-containers"


def _flag(value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _apply(settings: Settings, option: str) -> Settings:
    key, equals, value = option.partition("=")
    if not equals:
        raise ValueError("not of the form name=value")
    prefix, dot, name = key.strip().partition(".")
    if not dot or prefix not in ("", DRIVER, "overlay2"):
        raise ValueError("the name does not begin with 'overlay.'")
    value = value.strip()
    if name == "mountopt":
        return replace(settings, mount_options=tuple(o for o in value.split(",") if o))
    if name in ("imagestore", "additionalimagestore"):
        return replace(settings, additional_stores=(*settings.additional_stores, *(p for p in value.split(",") if p)))
    if name == "skip_mount_home":
        return replace(settings, skip_mount_home=_flag(value))
    if name == "sync":
        if value not in ("none", "filesystem", ""):
            raise ValueError("not 'none' or 'filesystem'")
        return replace(settings, sync=value or "none")
    if name == "ignore_chown_errors":
        _flag(value)  # root's chown does not fail; nothing to ignore
        return settings
    if name in _REFUSED:
        if value.lower() in _FALSE:
            return settings
        raise ValueError(_REFUSED[name])
    raise ValueError("unknown option")
