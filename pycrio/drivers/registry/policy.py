"""policy.json: which requirements an image has to meet (man 5 containers-policy.json). Parsing only, and strict."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pycrio.drivers.registry.identity import (
    ExactReference,
    ExactRepository,
    Identity,
    MatchExact,
    MatchRepoDigestOrExact,
    MatchRepository,
    RemapIdentity,
)
from pycrio.drivers.registry.reference import Reference, parse_docker
from pycrio.errors import ConfigError, InvalidRequest

SYSTEM_POLICY = "/etc/containers/policy.json"


@dataclass(frozen=True, slots=True)
class Keys:
    """Key material: literal data and files that are read when it is needed."""

    data: tuple[bytes, ...] = ()
    paths: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.data or self.paths)

    def read(self) -> list[bytes]:
        """All of it; ConfigError names a file that cannot be read."""
        out = list(self.data)
        for path in self.paths:
            try:
                with open(path, "rb") as file:
                    out.append(file.read(16 << 20))
            except OSError as error:
                raise ConfigError([f"{path}: {error.strerror}"]) from error
        return out


@dataclass(frozen=True, slots=True)
class Accept:
    """insecureAcceptAnything."""


@dataclass(frozen=True, slots=True)
class Reject:
    """reject, and what cannot be fulfilled; ``reason`` says which."""

    reason: str = "the policy rejects it"


@dataclass(frozen=True, slots=True)
class SignedBy:
    """A simple signature by one of some GPG keys."""

    keys: Keys
    identity: Identity


@dataclass(frozen=True, slots=True)
class Fulcio:
    """Short-lived certificates of a Fulcio CA for one person."""

    roots: Keys
    issuer: str
    email: str


@dataclass(frozen=True, slots=True)
class Pki:
    """Certificates of a CA of one's own."""

    roots: Keys
    intermediates: Keys
    email: str
    hostname: str


@dataclass(frozen=True, slots=True)
class SigstoreSigned:
    """A sigstore signature by a key, or by a key that a certificate vouches for; ``rekor`` keys of the log."""

    keys: Keys
    fulcio: Fulcio | None
    pki: Pki | None
    rekor: Keys
    identity: Identity


Requirement = Accept | Reject | SignedBy | SigstoreSigned


@dataclass(frozen=True, slots=True)
class Policy:
    """Requirements by scope for registries, and the defaults."""

    default: tuple[Requirement, ...]
    docker: Mapping[str, tuple[Requirement, ...]]

    def requirements(self, reference: Reference) -> tuple[Requirement, ...]:
        """Those of the most specific scope that covers an image."""
        for scope in scopes(reference):
            if scope in self.docker:
                return self.docker[scope]
        return self.docker.get("", self.default)

    @property
    def trivial(self) -> bool:
        """True when it accepts every image."""
        every = (self.default, *self.docker.values())
        return all(isinstance(requirement, Accept) for group in every for requirement in group)


def scopes(reference: Reference) -> list[str]:
    """Scopes that cover an image, the most specific first: itself, repository, namespaces, host, wildcards."""
    parts = reference.name.split("/")
    out = [str(reference)]
    out += ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    host = reference.domain.rpartition(":")[0] or reference.domain
    labels = host.split(".")
    out += [f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels))]
    return out


def parse_policy(data: bytes, path: str) -> Policy:
    """Read a policy; ConfigError for anything that is not fully understood: a policy must not be guessed."""
    try:
        document = json.loads(data, object_pairs_hook=_unique)
        top = _object(document, "the policy", {"default", "transports"})
        default = _requirements(top.get("default"), "default")
        transports = _object(top.get("transports", {}), "transports")
        parsed = {
            transport: {
                scope: _requirements(value, f"{transport} {scope!r}")
                for scope, value in _object(scoped, f"transport {transport}").items()
            }
            for transport, scoped in transports.items()
        }
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: {error}"]) from None
    return Policy(default, parsed.get("docker", {}))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is given twice in one object")
    return out


def _object(value: Any, what: str, known: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object")
    unknown = sorted(set(value) - known) if known is not None else []
    if unknown:
        raise ValueError(f"{what} has the unknown field {unknown[0]!r}")
    return value


def _text(table: Mapping[str, Any], key: str, what: str, *, optional: bool = False) -> str:
    value = table.get(key, "" if optional else None)
    if not isinstance(value, str) or (not value and not optional):
        raise ValueError(f"{what} needs {key} as a string")
    return value


def _requirements(value: Any, what: str) -> tuple[Requirement, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what} must be a list of at least one requirement")
    return tuple(_requirement(item, what) for item in value)


def _requirement(value: Any, what: str) -> Requirement:
    kind = _object(value, f"a requirement of {what}").get("type")
    if kind == "insecureAcceptAnything":
        _object(value, what, {"type"})
        return Accept()
    if kind == "reject":
        _object(value, what, {"type"})
        return Reject()
    if kind == "signedBaseLayer":
        return Reject("the policy asks for a signed base layer, which nobody can verify")
    if kind == "signedBy":
        return _signed_by(value, what)
    if kind == "sigstoreSigned":
        return _sigstore_signed(value, what)
    raise ValueError(f"{what} has a requirement of the unknown type {kind!r}")


def _signed_by(value: dict[str, Any], what: str) -> SignedBy:
    _object(value, f"signedBy of {what}", {"type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"})
    if value.get("keyType") != "GPGKeys":
        raise ValueError(f"signedBy of {what} needs keyType GPGKeys, not {value.get('keyType')!r}")
    return SignedBy(_keys(value, "key", f"signedBy of {what}", required=True), _identity(value, what))


def _sigstore_signed(value: dict[str, Any], what: str) -> SigstoreSigned:
    name = f"sigstoreSigned of {what}"
    key_fields = {f"{stem}{end}" for stem in ("key", "rekorPublicKey") for end in ("Path", "Paths", "Data", "Datas")}
    _object(value, name, {"type", "fulcio", "pki", "signedIdentity", *key_fields})
    keys = _keys(value, "key", name, required=False)
    rekor = _keys(value, "rekorPublicKey", name, required=False)
    fulcio = _fulcio(value["fulcio"], name) if "fulcio" in value else None
    pki = _pki(value["pki"], name) if "pki" in value else None
    if sum(map(bool, (keys, fulcio, pki))) != 1:
        raise ValueError(f"{name} needs exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki")
    if fulcio is not None and not rekor:
        raise ValueError(f"{name} with fulcio needs a rekorPublicKey")
    if pki is not None and rekor:
        raise ValueError(f"{name} with pki must not have a rekorPublicKey")
    return SigstoreSigned(keys, fulcio, pki, rekor, _identity(value, what))


def _fulcio(value: Any, name: str) -> Fulcio:
    table = _object(value, f"fulcio of {name}", {"caPath", "caData", "oidcIssuer", "subjectEmail"})
    roots = _keys(table, "ca", f"fulcio of {name}", required=True)
    return Fulcio(roots, _text(table, "oidcIssuer", name), _text(table, "subjectEmail", name))


def _pki(value: Any, name: str) -> Pki:
    known = {f"{stem}{end}" for stem in ("caRoots", "caIntermediates") for end in ("Path", "Data")}
    table = _object(value, f"pki of {name}", {*known, "subjectEmail", "subjectHostname"})
    email = _text(table, "subjectEmail", name, optional=True)
    hostname = _text(table, "subjectHostname", name, optional=True)
    if not (email or hostname):
        raise ValueError(f"pki of {name} needs subjectEmail or subjectHostname")
    roots = _keys(table, "caRoots", f"pki of {name}", required=True)
    return Pki(roots, _keys(table, "caIntermediates", f"pki of {name}", required=False), email, hostname)


def _keys(table: Mapping[str, Any], stem: str, name: str, *, required: bool) -> Keys:
    """Exactly one of ``<stem>Path``, ``…Paths``, ``…Data``, ``…Datas``."""
    given = [end for end in ("Path", "Paths", "Data", "Datas") if f"{stem}{end}" in table]
    if len(given) > 1 or (required and not given):
        raise ValueError(f"{name} needs {'exactly' if required else 'at most'} one of {stem}Path, {stem}Data, …")
    if not given:
        return Keys()
    value = table[f"{stem}{given[0]}"]
    values = value if given[0].endswith("s") else [value]
    if not isinstance(values, list) or not values or not all(isinstance(item, str) and item for item in values):
        raise ValueError(f"{name} has a malformed {stem}{given[0]}")
    if given[0].startswith("Path"):
        return Keys(paths=tuple(values))
    try:
        return Keys(data=tuple(base64.b64decode(item, validate=True) for item in values))
    except binascii.Error:
        raise ValueError(f"{name} has a {stem}{given[0]} that is not base64") from None


def _identity(value: Mapping[str, Any], what: str) -> Identity:
    if "signedIdentity" not in value:
        return MatchRepoDigestOrExact()
    table = _object(value["signedIdentity"], f"signedIdentity of {what}")
    kind = table.get("type")
    plain: dict[Any, Identity] = {
        "matchExact": MatchExact(),
        "matchRepoDigestOrExact": MatchRepoDigestOrExact(),
        "matchRepository": MatchRepository(),
    }
    if kind in plain:
        _object(table, f"signedIdentity of {what}", {"type"})
        return plain[kind]
    if kind == "remapIdentity":
        _object(table, f"signedIdentity of {what}", {"type", "prefix", "signedPrefix"})
        return RemapIdentity(_text(table, "prefix", what), _text(table, "signedPrefix", what))
    try:
        if kind == "exactReference":
            _object(table, f"signedIdentity of {what}", {"type", "dockerReference"})
            reference = parse_docker(_text(table, "dockerReference", what))
            if not (reference.tag or reference.digest):
                raise ValueError(f"signedIdentity of {what}: {reference} needs a tag or digest")
            return ExactReference(reference)
        if kind == "exactRepository":
            _object(table, f"signedIdentity of {what}", {"type", "dockerRepository"})
            return ExactRepository(parse_docker(_text(table, "dockerRepository", what)).name)
    except InvalidRequest as error:
        raise ValueError(f"signedIdentity of {what}: {error}") from None
    raise ValueError(f"signedIdentity of {what} has the unknown type {kind!r}")
