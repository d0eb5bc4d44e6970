"""Whether an image may be used: the policy's requirements against the signatures that it has."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pycrio._native.pools import offload
from pycrio.drivers.registry import policy as policies
from pycrio.drivers.registry.policy import Accept, Policy, Reject, Requirement, SignedBy, SigstoreSigned
from pycrio.drivers.registry.reference import Reference
from pycrio.drivers.registry.settings import Settings
from pycrio.drivers.registry.signatures import (
    COSIGN_TYPE,
    SIMPLE_TYPE,
    BadSignature,
    Claim,
    Signature,
    SigstoreSignature,
    SimpleSignature,
    parse_claim,
)
from pycrio.errors import ConfigError, SignatureInvalid


class Trust:
    """The policies of this node. Files are read for every decision, so that an edit counts at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def namespaced(self, namespace: str) -> str:
        """The path of a namespace's own policy, "" when it has none."""
        directory = self._settings.policy_dir
        if not directory or not namespace or "/" in namespace or namespace.startswith("."):
            return ""
        path = os.path.join(directory, f"{namespace}.json")
        return path if os.path.exists(path) else ""

    async def policy(self, namespace: str) -> Policy:
        """The policy for images of a namespace; ConfigError when it is missing or faulty."""
        path = self.namespaced(namespace) or self._settings.policy or policies.SYSTEM_POLICY
        return await offload("store", _read, path)

    async def check(
        self,
        requirements: Sequence[Requirement],
        wanted: Reference,
        digests: Sequence[str],
        signatures: Sequence[Signature],
    ) -> None:
        """Raise SignatureInvalid unless every requirement is met for an image with one of these manifest digests."""
        for requirement in requirements:
            if isinstance(requirement, Accept):
                continue
            if isinstance(requirement, Reject):
                raise SignatureInvalid(f"image {wanted}: {requirement.reason}")
            reasons: list[str] = []
            for signature in signatures:
                try:
                    await self._check_one(requirement, wanted, digests, signature)
                    break
                except BadSignature as error:
                    reasons.append(str(error))
                except ConfigError as error:
                    raise SignatureInvalid(f"image {wanted}: the policy's keys cannot be read: {error}") from error
            else:
                found = "; ".join(dict.fromkeys(reasons)) or "it has no signature"
                raise SignatureInvalid(f"image {wanted}: the policy demands a signature: {found}")

    async def _check_one(
        self, requirement: SignedBy | SigstoreSigned, wanted: Reference, digests: Sequence[str], signature: Signature
    ) -> None:
        """Verify one signature, then what it claims; BadSignature when it does not do."""
        if isinstance(requirement, SignedBy):
            if not isinstance(signature, SimpleSignature):
                raise BadSignature("it has a sigstore signature where a simple signature is demanded")
            from pycrio.drivers.registry import simplesigning

            keys = await offload("store", requirement.keys.read)
            payload = await simplesigning.verify(signature.blob, keys, self._settings.environ)
            claim = parse_claim(payload, SIMPLE_TYPE)
        else:
            if not isinstance(signature, SigstoreSignature):
                raise BadSignature("it has a simple signature where a sigstore signature is demanded")
            claim = await offload("store", _sigstore_claim, requirement, signature)
        if claim.digest not in digests:
            raise BadSignature(f"its signature is for the manifest {claim.digest[:80]}")
        if not requirement.identity.accepts(wanted, claim.reference):
            raise BadSignature(f"its signature is for the name {claim.reference[:200]!r}")


def _read(path: str) -> Policy:
    try:
        with open(path, "rb") as file:
            data = file.read(16 << 20)
    except OSError as error:
        raise ConfigError([f"{path}: the signature policy cannot be read: {error.strerror}"]) from error
    return policies.parse_policy(data, path)


def _sigstore_claim(requirement: SigstoreSigned, signature: SigstoreSignature) -> Claim:
    """Blocking: reads keys, imports cryptography, computes."""
    from pycrio.drivers.registry import sigstore

    rekor = sigstore.load_keys(requirement.rekor.read(), "the policy's Rekor key")
    if requirement.fulcio is not None:
        fulcio = requirement.fulcio
        person = sigstore.Person(email=fulcio.email, issuer=fulcio.issuer)
        sigstore.verify_with_fulcio(signature, fulcio.roots.read(), rekor, person)
    elif requirement.pki is not None:
        pki = requirement.pki
        person = sigstore.Person(email=pki.email, hostname=pki.hostname)
        sigstore.verify_with_pki(signature, pki.roots.read(), pki.intermediates.read(), person)
    else:
        keys = sigstore.load_keys(requirement.keys.read(), "the policy's key")
        sigstore.verify_with_keys(signature, keys, rekor)
    return parse_claim(signature.payload, COSIGN_TYPE)
