"""Real registries for tests: Debian's docker-registry on a free port of loopback, and images to fill them with.

Load it with ``pytest_plugins = ["tests.fixtures_registry"]`` (in the top-level conftest) or by importing the fixtures.
Nothing here needs pycrio: images are written and pushed by plain code, so that they can test it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import hashlib
import http.client
import io
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
BUSYBOX = "/bin/busybox"
APPLETS = ("sh", "true", "false", "sleep", "echo", "cat", "ls", "id", "env", "ip", "touch", "kill", "ps", "hostname")

# A layer: files by path (bytes; str = symbolic link target; None = directory), a directory to pack, or a finished tar.
Layer = Mapping[str, bytes | str | None] | pathlib.Path | bytes


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Built:
    """An image in memory: ``blobs`` by digest (config and layers), ``manifest`` as bytes."""

    manifest: bytes
    media_type: str
    blobs: dict[str, bytes]
    diff_ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.manifest)
        return found

    @property
    def config_digest(self) -> str:
        return str(self.document["config"]["digest"])

    @property
    def image_id(self) -> str:
        return self.config_digest.removeprefix("sha256:")


def pack(layer: Layer) -> bytes:
    """The tar of a layer, reproducible."""
    if isinstance(layer, bytes):
        return layer
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if isinstance(layer, pathlib.Path):
            for path in sorted(layer.rglob("*")):
                archive.add(path, str(path.relative_to(layer)), recursive=False)
            return _finished(archive, out)
        for name, content in layer.items():
            entry = tarfile.TarInfo(name.strip("/"))
            entry.mtime = 1700000000
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, content, 0o777
            else:
                entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
        return _finished(archive, out)


def _finished(archive: tarfile.TarFile, out: io.BytesIO) -> bytes:
    archive.close()
    return out.getvalue()


def busybox_layer() -> dict[str, bytes | str | None]:
    """A root file system of the static busybox, with an /etc/passwd and /etc/group that user look-ups can read."""
    files: dict[str, bytes | str | None] = dict.fromkeys(("bin", "etc", "tmp", "proc", "sys", "dev", "root"))
    files["bin/busybox"] = pathlib.Path(BUSYBOX).read_bytes()
    files.update({f"bin/{name}": "busybox" for name in APPLETS})
    files["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"
    files["etc/group"] = b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"
    return files


def compress(tar: bytes, compression: str) -> tuple[bytes, str]:
    """The blob of a layer and the suffix of its OCI media type."""
    if compression == "gzip":
        return gzip.compress(tar, 1, mtime=0), "+gzip"
    if compression == "zstd":
        done = subprocess.run(["zstd", "-q", "-1", "-c"], input=tar, capture_output=True, check=True)
        return done.stdout, "+zstd"
    return tar, ""


def build_image(
    layers: Sequence[Layer] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    compression: str = "gzip",
    docker: bool = False,
    arch: str = "amd64",
) -> Built:
    """An image of some layers (default: busybox). ``config`` is the OCI ``config`` object (Cmd, Env, User, …)."""
    blobs: dict[str, bytes] = {}
    descriptors, diff_ids = [], []
    for layer in layers if layers is not None else [busybox_layer()]:
        tar = pack(layer)
        blob, suffix = compress(tar, compression)
        digest = digest_of(blob)
        blobs[digest] = blob
        diff_ids.append(digest_of(tar))
        kind = DOCKER_LAYER if docker else OCI_LAYER + suffix
        descriptors.append({"mediaType": kind, "digest": digest, "size": len(blob)})
    document = {
        "created": "2023-11-14T22:13:20Z",
        "architecture": arch,
        "os": "linux",
        "config": dict(config if config is not None else {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": f"layer {n}"} for n in range(len(diff_ids))],
    }
    data = json.dumps(document).encode()
    blobs[digest_of(data)] = data
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
            "digest": digest_of(data),
            "size": len(data),
        },
        "layers": descriptors,
    }
    return Built(json.dumps(manifest).encode(), media_type, blobs, tuple(diff_ids))


def build_index(entries: Sequence[tuple[Built, Mapping[str, str]]]) -> bytes:
    """An OCI index over images and their platforms (``{"os": …, "architecture": …}``)."""
    manifests = [
        {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest), "platform": dict(platform)}
        for image, platform in entries
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()


@dataclass
class RunningRegistry:
    """A registry under test. ``address`` is ``host:port`` as references have it."""

    address: str
    directory: pathlib.Path
    process: subprocess.Popen[bytes]
    username: str = ""
    password: str = ""
    ca: pathlib.Path | None = None
    pushed: list[str] = field(default_factory=list)

    def connection(self) -> http.client.HTTPConnection:
        host, _, port = self.address.rpartition(":")
        if self.ca is not None:
            context = ssl.create_default_context(cafile=str(self.ca))
            return http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
        return http.client.HTTPConnection(host, int(port), timeout=60)

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream") -> Any:
        """One API request; answers the response, read. Fails the test on a refusal."""
        import base64

        headers = {"Content-Type": kind} if body else {}
        if self.username:
            token = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            text = response.read()
            assert response.status < 400, f"{method} {path}: {response.status} {text[:300]!r}"
            return response

    def push_blob(self, repository: str, data: bytes) -> str:
        digest = digest_of(data)
        started = self.request("POST", f"/v2/{repository}/blobs/uploads/")
        location = started.headers["Location"].partition("://")[2] or started.headers["Location"]
        path = location[location.index("/") :]
        self.request("PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", data)
        return digest

    def push_manifest(self, repository: str, tag: str, body: bytes, media_type: str) -> str:
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", body, media_type)
        return digest_of(body)

    def push(self, image: Built, name: str) -> str:
        """Push as ``repository[:tag]``; answers the full reference."""
        repository, _, tag = name.partition(":")
        for blob in image.blobs.values():
            self.push_blob(repository, blob)
        self.push_manifest(repository, tag or "latest", image.manifest, image.media_type)
        self.pushed.append(f"{self.address}/{repository}:{tag or 'latest'}")
        return self.pushed[-1]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


def push_image(registry: RunningRegistry, name: str, layers: Sequence[Layer] | None = None, **how: Any) -> Built:
    """Build an image (see ``build_image``) and push it as ``repository[:tag]``."""
    image = build_image(layers, **how)
    registry.push(image, name)
    return image


def bcrypt(password: str) -> str:
    """A bcrypt hash by libcrypt, as docker-registry's htpasswd files need it."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    hashed = crypt(password.encode(), b"$2b$05$abcdefghijklmnopqrstuu")
    assert hashed, "libcrypt does not know bcrypt"
    return bytes(hashed).decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_registry(
    directory: pathlib.Path,
    *,
    login: tuple[str, str] | None = None,
    tls: tuple[pathlib.Path, pathlib.Path, pathlib.Path] | None = None,
    host: str = "127.0.0.1",
) -> RunningRegistry:
    """Start docker-registry on a scratch directory. ``tls``: certificate, key and CA files."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if login is not None:
        (directory / "htpasswd").write_text(f"{login[0]}:{bcrypt(login[1])}\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    if tls is not None:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    (directory / "config.yml").write_text(json.dumps(config))
    program = shutil.which("docker-registry")
    assert program, "docker-registry is not installed"
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(directory / "config.yml")], stdout=log, stderr=log, start_new_session=True
        )
    _await_listening(process, port, directory / "log")
    username, password = login if login is not None else ("", "")
    return RunningRegistry(
        f"{host}:{port}", directory, process, username, password, tls[2] if tls is not None else None
    )


def _await_listening(process: subprocess.Popen[bytes], port: int, log: pathlib.Path) -> None:
    """Wait for the first accepted connection: the kernel reports listening in no other way."""
    ended = os.pidfd_open(process.pid)
    try:
        import select

        poller = select.poll()
        poller.register(ended, select.POLLIN)
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=10).close()
                return
            if poller.poll(20):
                raise AssertionError(f"docker-registry ended: {log.read_text()[-2000:]}")
    finally:
        os.close(ended)


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A registry without TLS and login, shared by the session: use repository names of your own."""
    registry = start_registry(tmp_path_factory.mktemp("registry"))
    yield registry
    registry.stop()


@pytest.fixture
def private_registry(tmp_path: pathlib.Path) -> Iterator[RunningRegistry]:
    """A registry that asks for a login (htpasswd), without TLS."""
    registry = start_registry(tmp_path / "registry", login=("puller", "s3cret:pw"))
    yield registry
    registry.stop()


@pytest.fixture
def tls_registry(tmp_path: pathlib.Path) -> Iterator[RunningRegistry]:
    """A registry with TLS by a CA of the test's own (``registry.ca``), for the name ``localhost``."""
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    place = tmp_path / "tls"
    place.mkdir()
    certificate.private_key_pem.write_to_path(place / "key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(place / "cert.pem", append=number > 0)
    authority.cert_pem.write_to_path(place / "ca.crt")
    tls = (place / "cert.pem", place / "key.pem", place / "ca.crt")
    registry = start_registry(tmp_path / "registry", tls=tls, host="localhost")
    yield registry
    registry.stop()
