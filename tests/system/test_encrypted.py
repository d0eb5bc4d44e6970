"""Images whose layers skopeo encrypted: pulled and run with the right key, refused with a clear sentence otherwise."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Iterator

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.isolation import Isolation
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, refused

KEYS = {"rsa": rsa.generate_private_key(65537, 2048), "ec": ec.generate_private_key(ec.SECP256R1())}


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    def conf(directory: str) -> str:
        pathlib.Path(directory, "keys").mkdir()
        return f'[crio.runtime]\ndecryption_keys_path = "{directory}/keys"\n'

    found = make_node(images, isolation, prepare=conf)
    yield found
    end_node(found)


@pytest.fixture(scope="module", params=sorted(KEYS))
def encrypted(
    request: pytest.FixtureRequest, images: Pushed, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """An image of the session's registry once more, for the owner of a key; its name and the kind of key."""
    kind = str(request.param)
    public = tmp_path_factory.mktemp("public") / "key.pem"
    public.write_bytes(
        KEYS[kind]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    name = f"{images.registry.address}/sys/{kind}:1"
    command = ["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    command += ["--encryption-key", f"jwe:{public}", f"docker://{images.app}", f"docker://{name}"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return name, kind


def test_a_pull_needs_the_key(encrypted: tuple[str, str], node: Node) -> None:
    name, kind = encrypted
    keys = pathlib.Path(node.dir, "keys")
    for old in keys.iterdir():
        old.unlink()
    node.cri.RemoveImage(image={"image": node.image.replace("busy", "app")})
    with refused(grpc.StatusCode.PERMISSION_DENIED, "is encrypted, and there is no private key"):
        node.cri.PullImage(image={"image": name})
    private = KEYS[kind].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (keys / "key.pem").write_bytes(private)
    assert node.cri.PullImage(image={"image": name}).image_ref
    pod = node.pod()
    assert node.run(pod, "cat", "/srv/app", image=name) == (0, "app\n")
    node.remove_pod(pod)
    node.cri.RemoveImage(image={"image": name})
