"""Encrypted layers (media types ``…+encrypted``), opened while they arrive.

A layer is encrypted with AES in counter mode under a key of its own and followed by an HMAC over the ciphertext; that
key travels in annotations, wrapped for those who may read it. The content goes through a pipe into extraction; whether
it was the right one is known at its end, when digest and HMAC are, and nothing is kept of a wrong one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import select
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pycrio.errors import BadImage, Denied, StoreFailure, Unsupported
from pycrio.model.image import LayerDescriptor

SUFFIX = "+encrypted"
CIPHER = "AES_256_CTR_HMAC_SHA256"
WRAPPED = "org.opencontainers.image.enc.keys.jwe"
PREFIX = "org.opencontainers.image.enc.keys."
PUBLIC = "org.opencontainers.image.enc.pubopts"
CHUNK = 256 << 10
PIPE = 1 << 20


@dataclass(frozen=True, slots=True)
class Lock:
    """How to open a layer. ``digest`` is that of the content ("": unknown)."""

    key: bytes
    nonce: bytes
    mac: bytes
    digest: str


def encrypted(layer: LayerDescriptor) -> bool:
    """True for a layer that has to be opened."""
    return layer.media_type.endswith(SUFFIX)


def unlock(layer: LayerDescriptor, directory: str) -> Lock:
    """Find the key of a layer with the private keys of a directory. Denied when none of them fits, Unsupported when the
    layer is locked in a way that is not understood, BadImage when what it says is malformed."""
    from pycrio.drivers.layers import jwe  # late, with its cryptography: encrypted images are rare

    where = f"layer {layer.digest} is encrypted"
    wrapped = layer.annotations.get(WRAPPED, "")
    if not wrapped:
        others = sorted(name.removeprefix(PREFIX) for name in layer.annotations if name.startswith(PREFIX))
        raise Unsupported(f"{where} for {', '.join(others) or 'nobody'}: only keys wrapped by JWE can be opened")
    try:
        keys = jwe.private_keys(directory)
    except OSError as e:
        raise StoreFailure(f"{where}, and the keys in {directory} cannot be read: {e.strerror}") from e
    if not keys:
        raise Denied(f"{where}, and there is no private key in {directory}: put one there that it was encrypted for")
    reasons = []
    for item in wrapped.split(","):
        try:
            opened = jwe.open_with(base64.b64decode(item, validate=True), keys)
            if opened is not None:
                return _lock(json.loads(opened), _public(layer))
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as e:
            reasons.append(str(e))
    if reasons:
        raise BadImage(f"{where}, and how is malformed: {'; '.join(reasons)}")
    raise Denied(f"{where}, and none of the {len(keys)} private keys in {directory} opens it")


def _public(layer: LayerDescriptor) -> Mapping[str, Any]:
    document = json.loads(base64.b64decode(layer.annotations.get(PUBLIC, ""), validate=True) or b"{}")
    if not isinstance(document, dict):
        raise ValueError("its public options are no JSON object")
    return document


def _lock(private: Mapping[str, Any], public: Mapping[str, Any]) -> Lock:
    if public.get("cipher") != CIPHER:
        raise ValueError(f"its cipher is {public.get('cipher')!r}, not {CIPHER}")
    nonce = (public.get("cipheroptions") or {}).get("nonce") or (private.get("cipheroptions") or {})["nonce"]
    lock = Lock(
        key=base64.b64decode(private["symkey"], validate=True),
        nonce=base64.b64decode(nonce, validate=True),
        mac=base64.b64decode(public["hmac"], validate=True),
        digest=str(private.get("digest") or ""),
    )
    if (len(lock.key), len(lock.nonce), len(lock.mac)) != (32, 16, 32):
        raise ValueError("its key, nonce or HMAC has the wrong length")
    return lock


class Opening:
    """A thread that opens a layer from one descriptor into a pipe, whose other end is ``reader``.

    ``with Opening(…) as opening: extract(opening.reader); opening.verify()``. Leaving the block ends the thread,
    wherever it is.
    """

    def __init__(self, layer: LayerDescriptor, lock: Lock, source_fd: int) -> None:
        self._layer = layer
        self._lock = lock
        self._source = source_fd
        self._size = 0
        self._digest = hashlib.sha256()
        self._mac = hmac.new(lock.key, digestmod="sha256")
        self._failure: OSError | None = None
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="pycrio-decrypt", daemon=True)

    def __enter__(self) -> Opening:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._stop, 1)
        os.close(self.reader)  # a writer that waits for room gets EPIPE
        self._thread.join()
        os.close(self._stop)

    def _run(self) -> None:
        try:
            self._pump()
        except OSError as e:
            self._failure = e
        finally:
            os.close(self._writer)

    def _pump(self) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        stream = Cipher(algorithms.AES(self._lock.key), modes.CTR(self._lock.nonce)).decryptor()
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._source, select.POLLIN)
        while True:
            if any(fd == self._stop for fd, _ in poll.poll()):
                return
            data = os.read(self._source, CHUNK)
            if not data:
                return
            self._size += len(data)
            self._digest.update(data)
            self._mac.update(data)
            view = memoryview(stream.update(data))
            while view:
                view = view[os.write(self._writer, view) :]

    def verify(self) -> None:
        """After everything was read: BadImage when the blob is not the one that the manifest names, or was changed."""
        self._thread.join()
        layer = self._layer
        if self._failure is not None:
            raise StoreFailure(
                f"layer {layer.digest} could not be decrypted: {self._failure.strerror}"
            ) from self._failure
        found = f"sha256:{self._digest.hexdigest()}"
        if found != layer.digest:
            raise BadImage(
                f"layer {layer.digest}: the registry sent a blob with digest {found}, it is damaged or not what the "
                "manifest names"
            )
        if layer.size >= 0 and self._size != layer.size:
            raise BadImage(f"layer {layer.digest}: the blob has {self._size} bytes, not {layer.size}")
        if not hmac.compare_digest(self._mac.digest(), self._lock.mac):
            raise BadImage(f"layer {layer.digest}: its content does not have the HMAC that it was encrypted with")
