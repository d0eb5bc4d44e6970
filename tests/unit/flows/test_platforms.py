"""Which runtime program a container gets where the handler has several."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pycrio.flows.containers.create import for_platform
from pycrio.model.image import ImageConfig, StoredImage
from pycrio.model.node import Handler

HANDLER = Handler("runc", "/runc", "/run/runc", "/monitor", platform_runtime_paths={"linux/arm64": "/runc-arm64"})
MARK = "platform-runtime-path.crio.io"


def image(**config: str) -> StoredImage:
    raw = json.dumps(config).encode() if config else b""
    return StoredImage("1" * 64, ("a.test/b:1",), (), "2" * 64, 1, 0, ImageConfig(raw=raw))


@pytest.mark.parametrize(
    ("config", "annotations", "path"),
    [
        ({"os": "linux", "architecture": "arm64"}, {}, "/runc-arm64"),
        ({"os": "linux", "architecture": "amd64"}, {}, "/runc"),
        ({}, {}, "/runc"),
        ({"os": "linux", "architecture": "amd64"}, {MARK: "linux/arm64"}, "/runc-arm64"),
        ({"os": "linux", "architecture": "arm64"}, {MARK: "linux/riscv64"}, "/runc"),
    ],
)
def test_by_image_or_annotation(config: dict[str, str], annotations: dict[str, str], path: str) -> None:
    assert for_platform(HANDLER, annotations, image(**config)) == dataclasses.replace(HANDLER, path=path)


def test_a_handler_with_one_runtime_does_not_look_at_images() -> None:
    plain = dataclasses.replace(HANDLER, platform_runtime_paths={})
    assert for_platform(plain, {}, dataclasses.replace(image(), config=ImageConfig(raw=b"{"))) is plain
