"""registries.conf version 2 with its drop-ins: where an image name leads (man 5 containers-registries.conf).

``load`` reads the files; ``Registries`` then answers questions about references without any I/O.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tomli

from pycrio.drivers.registry.reference import DOCKER_HUB, Reference, ShortName, check_domain, parse, parse_full
from pycrio.errors import ConfigError, Denied, InvalidRequest

SYSTEM_FILE = "/etc/containers/registries.conf"
SYSTEM_DIR = "/etc/containers/registries.conf.d"
AUTH_FILES = "containers-auth.json"
MODES = ("enforcing", "permissive", "disabled")
_PULL_KINDS = ("all", "digest-only", "tag-only")


@dataclass(frozen=True, slots=True)
class Mirror:
    """A ``[[registry.mirror]]`` table; ``pull`` is which references it serves."""

    location: str
    insecure: bool = False
    pull: str = "all"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A ``[[registry]]`` table: everything below ``prefix`` is served from ``location`` and its mirrors."""

    prefix: str
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()

    def matches(self, reference: str) -> int:
        """Length of the part of a full reference that the prefix covers, -1 when it does not match."""
        if not self.prefix.startswith("*."):
            end = len(self.prefix)
            return end if reference.startswith(self.prefix) and reference[end : end + 1] in ("", ":", "/", "@") else -1
        host = reference.partition("/")[0]
        bare = host.partition(":")[0]
        return len(bare) if bare.endswith(self.prefix[1:]) and len(bare) > len(self.prefix) - 1 else -1


@dataclass(frozen=True, slots=True)
class Source:
    """A place to ask for an image: ``reference`` is the physical one."""

    reference: Reference
    insecure: bool
    mirror: bool

    @property
    def label(self) -> str:
        """For messages."""
        return f"mirror {self.reference.domain}" if self.mirror else f"registry {self.reference.domain}"


@dataclass(frozen=True, slots=True)
class Registries:
    """The whole configuration. ``aliases`` maps short names to repositories; ``mode`` is "" when not configured."""

    namespaces: tuple[Namespace, ...] = ()
    search: tuple[str, ...] = ()
    mode: str = ""
    helpers: tuple[str, ...] = (AUTH_FILES,)
    aliases: Mapping[str, Reference] = field(default_factory=dict)

    def summary(self) -> str:
        """For the log: where short names are looked for, and what has rules of its own."""
        prefixes = ", ".join(n.prefix for n in self.namespaces) or "none"
        return f"unqualified-search-registries {', '.join(self.search) or 'none'}; rules for {prefixes}"

    def namespace(self, reference: Reference) -> Namespace | None:
        """The table that applies to a reference: the one with the longest matching prefix."""
        text = str(reference)
        best: Namespace | None = None
        for namespace in self.namespaces:
            if namespace.matches(text) >= 0 and (best is None or len(namespace.prefix) > len(best.prefix)):
                best = namespace
        return best

    def sources(self, reference: Reference) -> tuple[Source, ...]:
        """Where to look for an image, mirrors first. Denied when the configuration blocks it."""
        namespace = self.namespace(reference)
        if namespace is None:
            return (Source(reference, False, False),)
        if namespace.blocked:
            raise Denied(
                f"image {reference} must not be pulled: registries.conf blocks {namespace.prefix!r}; unblock it there"
            )
        unused = "tag-only" if reference.digest else "digest-only"
        out = [
            Source(_rewrite(reference, namespace, mirror.location), mirror.insecure, True)
            for mirror in namespace.mirrors
            if mirror.pull != unused
        ]
        own = _rewrite(reference, namespace, namespace.location) if namespace.location else reference
        return (*out, Source(own, namespace.insecure, False))

    def insecure(self, domain: str) -> bool:
        """True when some table that names exactly this host allows plain or unverified connections to it."""
        found = (n.insecure for n in self.namespaces if (n.location or n.prefix).partition("/")[0] == domain)
        return any(found)

    def candidates(self, text: str, aliases: Mapping[str, Reference]) -> tuple[Reference, ...]:
        """Every image that a reference may mean, the likeliest first; ``aliases`` come before those configured."""
        found = parse(text)
        if isinstance(found, Reference):
            return (found.canonical(),)
        alias = aliases.get(found.path) or self.aliases.get(found.path)
        if alias is not None:
            return (found.under(alias).canonical(),)
        return tuple(dict.fromkeys(found.within(domain).canonical() for domain in self.search))

    def pull_candidates(self, text: str, aliases: Mapping[str, Reference], mode: str) -> tuple[Reference, ...]:
        """The candidates that a pull may try under a short-name mode; InvalidRequest for none and for too many."""
        out = self.candidates(text, aliases)
        if not out:
            raise InvalidRequest(
                f"image {text!r} names no registry, no alias is configured for it and registries.conf has no "
                "unqualified-search-registries: use the full name of the image"
            )
        if len(out) > 1 and mode == "enforcing":
            raise InvalidRequest(
                f"image {text!r} could mean {', '.join(map(str, out))}, and short_name_mode is enforcing: "
                "use the full name of the image or configure an alias"
            )
        return out


def _rewrite(reference: Reference, namespace: Namespace, location: str) -> Reference:
    """Replace what the prefix matched by a location (for a wildcard: the host name)."""
    matched = namespace.matches(str(reference))
    name = location + reference.name[matched:] if matched <= len(reference.name) else location
    domain, _, path = name.partition("/")
    if not path:
        raise ConfigError([f"registries.conf: location {location!r} leaves no repository name for {reference}"])
    if domain == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    # A prefix that includes the tag or digest is replaced by a location that may bring its own.
    if matched > len(reference.name):
        fixed = parse_full(location)
        return Reference(fixed.domain, fixed.path, fixed.tag or reference.tag, fixed.digest or reference.digest)
    return Reference(domain, path, reference.tag, reference.digest)


class _Reader:
    """One file's tables, with faults collected instead of raised one by one."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[str] = []

    def fault(self, text: str) -> None:
        self.faults.append(f"{self.path}: {text}")

    def text(self, table: Mapping[str, Any], key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            self.fault(f"{key} must be a string, not {value!r}")
            return ""
        return value

    def flag(self, table: Mapping[str, Any], key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            self.fault(f"{key} must be true or false, not {value!r}")
            return False
        return value

    def texts(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fault(f"{key} must be a list of strings")
            return ()
        return tuple(value)

    def tables(self, table: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fault(f"{key} must be written as [[{key}]] tables")
            return []
        return value

    def location(self, table: Mapping[str, Any], key: str) -> str:
        value = self.text(table, key).rstrip("/")
        if "://" in value:
            self.fault(f"{key} {value!r} must be host[:port][/path], without a scheme")
            return ""
        host = value.partition("/")[0]
        if value and not check_domain(host.removeprefix("*.")):
            self.fault(f"{key} {value!r} does not begin with a host name")
            return ""
        return value

    def namespace(self, table: Mapping[str, Any]) -> Namespace | None:
        before = len(self.faults)
        location = self.location(table, "location")
        prefix = self.location(table, "prefix") or location
        wild = prefix.startswith("*.")
        if len(self.faults) == before:
            if not prefix:
                self.fault("a [[registry]] table needs a location or a prefix")
            elif "*" in prefix and (not wild or "/" in prefix or ":" in prefix or "*" in prefix[1:]):
                self.fault(f"prefix {prefix!r} is no wildcard of the form *.host")
            elif not location and not wild:
                self.fault(f"[[registry]] with prefix {prefix!r} needs a location")
            elif "*" in location:
                self.fault(f"location {location!r} must not be a wildcard")
        by_digest = self.flag(table, "mirror-by-digest-only")
        mirrors = tuple(self.mirror(entry, prefix, by_digest) for entry in self.tables(table, "mirror"))
        insecure, blocked = self.flag(table, "insecure"), self.flag(table, "blocked")
        return Namespace(prefix, location, insecure, blocked, mirrors) if len(self.faults) == before else None

    def mirror(self, table: Mapping[str, Any], prefix: str, by_digest: bool) -> Mirror:
        location = self.location(table, "location")
        pull = self.text(table, "pull-from-mirror")
        if not location or "*" in location:
            self.fault(f"a mirror of {prefix!r} needs a location")
        if pull and by_digest:
            self.fault(f"mirror {location!r}: pull-from-mirror cannot be combined with mirror-by-digest-only")
        if pull and pull not in _PULL_KINDS:
            self.fault(f"mirror {location!r}: pull-from-mirror must be one of {', '.join(_PULL_KINDS)}, not {pull!r}")
        return Mirror(location, self.flag(table, "insecure"), "digest-only" if by_digest else pull or "all")

    def aliases(self, document: Mapping[str, Any]) -> dict[str, Reference | None]:
        """Short name → repository, None where the alias is erased."""
        table = document.get("aliases", {})
        if not isinstance(table, dict):
            self.fault("aliases must be a table")
            return {}
        out: dict[str, Reference | None] = {}
        for name, value in table.items():
            try:
                short = parse(name)
                if not isinstance(short, ShortName) or short.tag or short.digest:
                    raise InvalidRequest("the alias must be a short name without tag and digest")
                if not isinstance(value, str):
                    raise InvalidRequest("its value must be a string")
                target = parse_full(value) if value else None
                if target is not None and (target.tag or target.digest):
                    raise InvalidRequest("its value must not have a tag or digest")
                out[short.path] = target
            except InvalidRequest as error:
                self.fault(f"alias {name!r}: {error}")
        return out


def read_toml(path: str) -> dict[str, Any] | None:
    """A TOML file's content, None when absent. ConfigError when it cannot be read or parsed."""
    try:
        with open(path, "rb") as file:
            return tomli.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: {getattr(error, 'strerror', None) or error}"]) from error


def read_aliases(path: str) -> dict[str, Reference]:
    """The aliases that container tools recorded (short-name-aliases.conf); empty when there is no such file."""
    reader = _Reader(path)
    found = reader.aliases(read_toml(path) or {})
    if reader.faults:
        raise ConfigError(reader.faults)
    return {name: target for name, target in found.items() if target is not None}


def load(path: str = "", directory: str = "") -> Registries:
    """Read registries.conf and the ``*.conf`` drop-ins of a directory, later files winning.

    "" stands for the system's places, which may be absent; a path that is given must exist. Raises ConfigError with
    every fault.
    """
    if path and not os.path.exists(path):
        raise ConfigError([f"{path}: no such file, although it is configured as the registries.conf"])
    out = Registries()
    faults: list[str] = []
    for name in (path or SYSTEM_FILE, *_drop_ins(directory or SYSTEM_DIR)):
        try:
            document = read_toml(name)
            if document is not None:
                out = _merge(out, document, name)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return out


def _drop_ins(directory: str) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".conf"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError([f"{directory}: {error.strerror}"]) from error
    return [os.path.join(directory, name) for name in names]


def _merge(base: Registries, document: Mapping[str, Any], path: str) -> Registries:
    """What a file adds to and replaces in those read before."""
    reader = _Reader(path)
    if "registries" in document:
        reader.fault(
            "[registries.…] tables are format version 1, which is not supported: write [[registry]] tables and "
            "unqualified-search-registries"
        )
    search = reader.texts(document, "unqualified-search-registries")
    for domain in search:
        if not check_domain(domain):
            reader.fault(f"unqualified-search-registries: {domain!r} is not host[:port]")
    mode = reader.text(document, "short-name-mode")
    if mode and mode not in MODES:
        reader.fault(f"short-name-mode must be one of {', '.join(MODES)}, not {mode!r}")
    helpers = reader.texts(document, "credential-helpers")
    namespaces: dict[str, Namespace] = {}
    for table in reader.tables(document, "registry"):
        found = reader.namespace(table)
        if found is None:
            continue
        other = namespaces.setdefault(found.prefix, found)
        if (other.insecure, other.blocked) != (found.insecure, found.blocked):
            reader.fault(f"two [[registry]] tables for {found.prefix!r} disagree about insecure or blocked")
    aliases: dict[str, Reference | None] = {**base.aliases, **reader.aliases(document)}
    if reader.faults:
        raise ConfigError(reader.faults)
    kept = {namespace.prefix: namespace for namespace in base.namespaces}
    return Registries(
        namespaces=tuple({**kept, **namespaces}.values()),
        search=search if "unqualified-search-registries" in document else base.search,
        mode=mode or base.mode,
        helpers=helpers or base.helpers,
        aliases={name: target for name, target in aliases.items() if target is not None},
    )
