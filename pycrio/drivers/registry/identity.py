"""What a signature may call an image: the ``signedIdentity`` kinds of policy.json (man 5 containers-policy.json)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pycrio.drivers.registry.reference import Reference, parse_docker
from pycrio.errors import InvalidRequest


class Identity(Protocol):
    """Decides whether a signature that names ``claimed`` is one for the image that was asked for as ``wanted``."""

    def accepts(self, wanted: Reference, claimed: str) -> bool:
        """False also for a claim that is no reference."""


def _claimed(text: str) -> Reference | None:
    try:
        return parse_docker(text)
    except InvalidRequest:
        return None


@dataclass(frozen=True, slots=True)
class MatchExact:
    """Exactly the same tag or digest reference."""

    def accepts(self, wanted: Reference, claimed: str) -> bool:
        """See Identity."""
        found = _claimed(claimed)
        return found is not None and bool(found.tag or found.digest) and found == wanted


@dataclass(frozen=True, slots=True)
class MatchRepoDigestOrExact:
    """Exactly the same when asked for by tag; the same repository when asked for by digest."""

    def accepts(self, wanted: Reference, claimed: str) -> bool:
        """See Identity."""
        found = _claimed(claimed)
        if found is None or not (found.tag or found.digest):
            return False
        return found.name == wanted.name if wanted.digest else found == wanted


@dataclass(frozen=True, slots=True)
class MatchRepository:
    """The same repository."""

    def accepts(self, wanted: Reference, claimed: str) -> bool:
        """See Identity."""
        found = _claimed(claimed)
        return found is not None and found.name == wanted.name


@dataclass(frozen=True, slots=True)
class ExactReference:
    """A reference that the policy spells out."""

    reference: Reference

    def accepts(self, wanted: Reference, claimed: str) -> bool:
        """See Identity."""
        return _claimed(claimed) == self.reference


@dataclass(frozen=True, slots=True)
class ExactRepository:
    """A repository that the policy spells out."""

    repository: str

    def accepts(self, wanted: Reference, claimed: str) -> bool:
        """See Identity."""
        found = _claimed(claimed)
        return found is not None and found.name == self.repository


@dataclass(frozen=True, slots=True)
class RemapIdentity:
    """MatchRepoDigestOrExact after a prefix of the wanted name was replaced: for mirrors of signed images."""

    prefix: str
    signed_prefix: str

    def accepts(self, wanted: Reference, claimed: str) -> bool:
        """See Identity."""
        name = wanted.name
        if name == self.prefix or name.startswith(f"{self.prefix}/"):
            domain, _, path = (self.signed_prefix + name[len(self.prefix) :]).partition("/")
            wanted = Reference(domain, path, wanted.tag, wanted.digest)
        return MatchRepoDigestOrExact().accepts(wanted, claimed)
