"""Simple signatures, verified by the gpgv program against the keys of a policy and no others."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence

from pycrio._native.base import NativeError
from pycrio._native.pools import offload
from pycrio._native.run import run
from pycrio.drivers.registry.signatures import BadSignature

PROGRAM = "gpgv"
SECONDS = 30.0
PAYLOAD_MAX = 1 << 20
_ARMOR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n(.*?)\r?\n-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)
_BAD = frozenset({"BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NODATA", "FAILURE"})


def dearmor(data: bytes) -> bytes:
    """A keyring as gpgv reads it: the binary packets of every armored block, or the data as it is."""
    blocks = _ARMOR.findall(data)
    if not blocks:
        return data
    out = []
    for block in blocks:
        lines = block.replace(b"\r", b"").split(b"\n")
        start = lines.index(b"") + 1 if b"" in lines else 0
        body = b"".join(line for line in lines[start:] if not line.startswith(b"="))
        try:
            out.append(base64.b64decode(body, validate=True))
        except binascii.Error:
            raise BadSignature("a key of the policy is malformed") from None
    return b"".join(out)


def _prepare(keys: Sequence[bytes], signature: bytes) -> str:
    """A private directory with the keyring and the signature."""
    place = tempfile.mkdtemp(prefix="pycrio-gpgv-")
    with open(os.path.join(place, "keys.gpg"), "wb") as file:
        file.write(b"".join(dearmor(key) for key in keys))
    with open(os.path.join(place, "signature"), "wb") as file:
        file.write(signature)
    return place


async def verify(signature: bytes, keys: Sequence[bytes], environ: Mapping[str, str]) -> bytes:
    """The signed payload, if exactly one signature covers it and one of the keys made it; BadSignature otherwise."""
    place = ""
    try:
        place = await offload("store", _prepare, keys, signature)
        done = await run(
            [
                *(PROGRAM, "--homedir", place, "--keyring", os.path.join(place, "keys.gpg")),
                *("--status-fd", "2", "--log-file", os.devnull, "--output", "-", os.path.join(place, "signature")),
            ],
            env={**environ, "LC_ALL": "C"},
            timeout=SECONDS,
            cap=PAYLOAD_MAX,
        )
    except NativeError as error:
        raise BadSignature(f"{PROGRAM} cannot be started to verify it ({error.strerror}): install gpgv") from error
    except OSError as error:
        raise BadSignature(f"it cannot be verified: {error.strerror}") from error
    finally:
        if place:
            await offload("store", shutil.rmtree, place, True)
    if done.timed_out or done.truncated:
        raise BadSignature("it is too large or takes too long to verify")
    judge(done.code, done.stderr)
    return done.stdout


def judge(code: int, status: bytes) -> None:
    """Decide by gpgv's status lines (GnuPG's DETAILS): a message may hold several signatures and texts, and then the
    good one may belong to another text. BadSignature unless there is exactly one of each."""
    words = [line.split()[1] for line in status.decode("utf-8", "replace").splitlines() if line.startswith("[GNUPG:] ")]
    bad = next((word for word in words if word in _BAD), "")
    if bad == "ERRSIG" and "NO_PUBKEY" in words:
        raise BadSignature("it was not made by a key of the policy")
    if bad:
        raise BadSignature(f"gpgv says {bad}")
    counts = [words.count(word) for word in ("NEWSIG", "GOODSIG", "VALIDSIG", "PLAINTEXT")]
    if code != 0 or counts != [1, 1, 1, 1]:
        raise BadSignature("it is not one text with one good signature")
