"""What a shim is told about its handler, when it starts and with each container, and what of an OCI config it reads."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from pycrio.drivers.shim import names
from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.model.node import Handler

RUNC_SHIM = "containerd-shim-runc-v2"
_CRI = "io.kubernetes.cri."
_CRIO = "io.kubernetes.cri-o."
GUEST_PULL = "fuse.nydus-overlayfs"
"""Type of a mount that Kata does not make: its option says what the guest's agent shall pull (facts: config.md)."""


def of(handler: Handler, config: Mapping[str, Any], *, systemd: bool, no_pivot: bool) -> AnyMessage | None:
    """The options message; None when there is nothing to say.

    ``runtime_config_path`` goes to whatever reads a file. The shim of runc reads none, and must know where runc keeps
    its state and which cgroup paths it gets.
    """
    if handler.config_path:
        told = pb.ConfigOptions(config_path=handler.config_path)
        return AnyMessage(type_url=names.CONFIG_OPTIONS, value=told.SerializeToString())
    if os.path.basename(handler.path) != RUNC_SHIM:
        return None
    linux = config.get("linux") or {}
    runc = pb.RuncOptions(
        no_pivot_root=no_pivot,
        root=handler.root,
        systemd_cgroup=systemd,
        io_uid=_root_of(linux.get("uidMappings") or ()),
        io_gid=_root_of(linux.get("gidMappings") or ()),
    )
    return AnyMessage(type_url=names.RUNC_OPTIONS, value=runc.SerializeToString())


def _root_of(maps: Any) -> int:
    """The host's id of the container's root: so it may open /dev/stdout."""
    return next((int(m["hostID"]) for m in maps if m["containerID"] == 0), 0)


def annotated(config: dict[str, Any], ident: str, pod: str) -> dict[str, Any]:
    """The config with what shims look for: whether it is the sandbox, and of which sandbox it is, by the names that
    CRI-O uses and by those of containerd."""
    kind = "sandbox" if ident == pod else "container"
    own = {
        f"{_CRI}container-type": kind,
        f"{_CRI}sandbox-id": pod,
        f"{_CRIO}ContainerType": kind,
        f"{_CRIO}SandboxID": pod,
    }
    return {**config, "annotations": {**(config.get("annotations") or {}), **own}}


def guest_pull(config: Mapping[str, Any]) -> pb.Mount | None:
    """The root file system of a container whose image the guest pulls (``runtime_pull_image``); None when the config
    does not name the image."""
    annotations = config.get("annotations") or {}
    image = annotations.get(f"{_CRIO}SomeNameOfTheImage") or annotations.get(f"{_CRIO}ImageName")
    if not image:
        return None
    volume = {
        "volume_type": "image_guest_pull",
        "source": image,
        "fs_type": "overlay_fs",
        "image_pull": {"metadata": annotations},
    }
    text = base64.b64encode(json.dumps(volume).encode()).decode()
    return pb.Mount(type=GUEST_PULL, options=[f"io.katacontainers.volume={text}"])
