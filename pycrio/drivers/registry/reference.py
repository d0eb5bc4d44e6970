"""Image references, parsed and normalised without any I/O (grammar: distribution's reference format).

``Reference`` is always fully qualified. ``parse`` reads what a request may say, and answers a ``ShortName`` where the
registry is left open; ``mirrors.py`` turns that into candidates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pycrio.errors import InvalidRequest

MAX_NAME = 255
DOCKER_HUB = "docker.io"
TRANSPORT = "docker://"

_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_PATH_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?", re.ASCII)
_PATH = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*", re.ASCII)
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_HEX64 = re.compile(r"[a-f0-9]{64}")
_DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[a-f0-9]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """A fully qualified reference: registry, repository path, and a tag, a digest, both or neither."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """``domain/path``, without tag and digest."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def canonical(self) -> Reference:
        """The form that names an image of the store: a digest makes the tag superfluous, nothing means ``latest``."""
        if self.digest:
            return replace(self, tag="")
        return self if self.tag else replace(self, tag="latest")

    def at(self, digest: str) -> Reference:
        """The same repository by digest."""
        return Reference(self.domain, self.path, digest=digest)


@dataclass(frozen=True, slots=True)
class ShortName:
    """A reference without a registry; ``path`` is as written (no ``library/`` added)."""

    path: str
    tag: str = ""
    digest: str = ""

    def within(self, domain: str) -> Reference:
        """The image of this name in a registry."""
        return Reference(domain, _hub_path(domain, self.path), self.tag, self.digest)

    def under(self, alias: Reference) -> Reference:
        """The image that an alias (a repository) stands for, with our tag and digest."""
        return replace(alias, tag=self.tag, digest=self.digest)


def check_digest(digest: str) -> bool:
    """True for a well-formed digest of an algorithm that image-spec registers (lower-case hex of the right length)."""
    algorithm, _, hexed = digest.partition(":")
    return len(hexed) == _DIGEST_LENGTHS.get(algorithm, -1) and _HEX.fullmatch(hexed) is not None


def check_domain(domain: str) -> bool:
    """True for a ``host[:port]`` that a reference may contain."""
    return _DOMAIN.fullmatch(domain) is not None


def _hub_path(domain: str, path: str) -> str:
    return f"library/{path}" if domain == DOCKER_HUB and "/" not in path else path


def _is_domain(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost" or part.lower() != part


def _split(text: str) -> tuple[str, str, str]:
    """Name, tag and digest of a reference as written; each may be empty but is otherwise unchecked."""
    rest, at, digest = text.partition("@")
    if at and not digest:
        raise InvalidRequest(f"image reference {text!r} ends with '@': a digest must follow")
    slash = rest.rfind("/")
    colon = rest.rfind(":")
    if colon > slash:
        tag = rest[colon + 1 :]
        if not tag:
            raise InvalidRequest(f"image reference {text!r} has an empty tag")
        return rest[:colon], tag, digest
    return rest, "", digest


def parse(text: str) -> Reference | ShortName:
    """Read an image reference of a request, with or without registry and ``docker://``.

    Raises InvalidRequest with the reason when it is malformed.
    """
    body = text.removeprefix(TRANSPORT)
    if not body:
        raise InvalidRequest("image reference is empty")
    if len(body) > 4096:
        raise InvalidRequest(f"image reference of {len(body)} characters is too long")
    name, tag, digest = _split(body)
    if _HEX64.fullmatch(name) and not digest:
        raise InvalidRequest(f"image reference {text!r} looks like an image id, which no registry can serve")
    if tag and not _TAG.fullmatch(tag):
        raise InvalidRequest(f"image reference {text!r} has a malformed tag {tag!r}")
    if digest and not check_digest(digest):
        raise InvalidRequest(f"image reference {text!r} has a malformed or unknown digest {digest!r}")
    first, slash, rest = name.partition("/")
    qualified = bool(slash) and _is_domain(first)
    path = rest if qualified else name
    if not _PATH.fullmatch(path):
        hint = " (repository names are lower case)" if _PATH.fullmatch(path.lower()) else ""
        raise InvalidRequest(f"image reference {text!r} has a malformed repository name {path!r}{hint}")
    if not qualified:
        if len(path) > MAX_NAME:
            raise InvalidRequest(f"image reference {text!r} has a repository name of more than {MAX_NAME} characters")
        return ShortName(path, tag, digest)
    if not check_domain(first):
        raise InvalidRequest(f"image reference {text!r} has a malformed registry name {first!r}")
    domain = DOCKER_HUB if first == "index.docker.io" else first
    reference = Reference(domain, _hub_path(domain, path), tag, digest)
    if len(reference.name) > MAX_NAME:
        raise InvalidRequest(f"image reference {text!r} has a repository name of more than {MAX_NAME} characters")
    return reference


def parse_full(text: str) -> Reference:
    """Like ``parse``, for places where the registry must be written out."""
    found = parse(text)
    if isinstance(found, ShortName):
        raise InvalidRequest(f"image reference {text!r} must begin with a registry, such as registry.example/{text}")
    return found


def parse_docker(text: str) -> Reference:
    """Like ``parse``, with Docker's rule that a name without registry is one of docker.io (signatures use it)."""
    found = parse(text)
    return found.within(DOCKER_HUB) if isinstance(found, ShortName) else found


def api_host(domain: str) -> str:
    """The ``host[:port]`` that serves a registry's HTTP API."""
    return "registry-1.docker.io" if domain == DOCKER_HUB else domain
