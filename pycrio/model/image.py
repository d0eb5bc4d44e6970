"""Images, as asked for, as found in a registry and as kept in the store."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How a request names an image: ``image`` is a reference or an id, ``user_specified_image`` what the user wrote."""

    image: str
    annotations: dict[str, str] = field(default_factory=dict)
    user_specified_image: str = ""
    runtime_handler: str = ""
    image_ref: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Registry credentials of a request. Secrets never appear in ``repr`` (so never in a log)."""

    username: str = ""
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    server_address: str = ""
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class LayerDescriptor:
    """One layer of a remote image: blob digest and size as the manifest has them, diff ID as the config has it.

    ``size`` is -1 when the manifest does not say. ``urls`` are alternative locations (foreign layers).
    """

    digest: str
    size: int
    media_type: str
    diff_id: str
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image found in a registry, manifests and config already fetched and verified against their digests.

    ``name`` is the canonical reference the image will be known by (``domain/path:tag`` or ``domain/path@digest``).
    ``index`` is the top-level manifest list when there was one. ``signatures`` are blobs to be kept with the image:
    those for its manifest; ``index_signatures`` those for the index.
    ``source`` says where blobs come from; it means something to the registry driver only.
    """

    name: str
    manifest: bytes
    manifest_digest: str
    manifest_type: str
    config: bytes
    config_digest: str
    layers: tuple[LayerDescriptor, ...]
    index: bytes = b""
    index_digest: str = ""
    signatures: tuple[bytes, ...] = ()
    index_signatures: tuple[bytes, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    source: object = None


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of an image's config that containers are made from (OCI image-spec, config.md)."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image record of the store.

    ``names`` are full references; ``digests`` every manifest digest the image is known by; ``size`` the sum of its
    layers' uncompressed sizes in bytes; ``read_only`` is true for images of additional stores.
    """

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    layer: str
    size: int
    created: int
    config: ImageConfig
    names_history: tuple[str, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)
    read_only: bool = False
    artifact: bool = False


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One blob of an artifact: the relative path that the artifact gives it (its digest when it gives none), and where
    it is on the host."""

    name: str
    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """An OCI artifact of the store: ``image`` is how lists show it (id = manifest digest), ``type`` what it says it
    is."""

    image: StoredImage
    type: str
    files: tuple[ArtifactFile, ...] = ()


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """A layer that was extracted to a staging place and not yet committed.

    ``staging`` names the place for the layers driver. Digests are what was computed while unpacking.
    """

    staging: str
    digest: str
    size: int
    diff_id: str
    diff_size: int
    compression: str
    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Bytes of one blob so far; ``total`` is -1 when unknown."""

    digest: str
    done: int
    total: int
