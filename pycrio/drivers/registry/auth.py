"""Where registry credentials come from: request, per-namespace file, configured file, default files, helpers.

Formats: man 5 containers-auth.json, Docker's config.json and .dockercfg, and the protocol of credential helpers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pycrio._native.base import NativeError
from pycrio._native.pools import offload
from pycrio._native.run import run
from pycrio.drivers.registry.mirrors import AUTH_FILES
from pycrio.drivers.registry.reference import DOCKER_HUB, Reference
from pycrio.drivers.registry.settings import Settings
from pycrio.errors import ConfigError, ExternalFailure, InvalidRequest
from pycrio.model.image import Credentials

HELPER_SECONDS = 30.0
_HUB_KEY = "https://index.docker.io/v1/"
_NOT_FOUND = b"credentials not found"


@dataclass(frozen=True, slots=True)
class Secret:
    """What a registry may be shown. An identity token is exchanged for bearer tokens, a registry token is one."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """Value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def fingerprint(self) -> str:
        """Tells secrets apart without showing them."""
        parts = (self.username, self.password, self.identity_token, self.registry_token)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


ANONYMOUS = Secret()


def from_request(credentials: Credentials | None) -> Secret | None:
    """The credentials that came with a request, None when it has none. InvalidRequest when they are malformed."""
    if credentials is None:
        return None
    username, password = credentials.username, credentials.password
    if not username and credentials.auth:
        username, password = _decode(credentials.auth, InvalidRequest("the auth field of the request's credentials"))
    found = Secret(username, password, credentials.identity_token, credentials.registry_token)
    if any(c < " " or c == "\x7f" for c in found.registry_token):
        raise InvalidRequest("the registry token of the request's credentials contains a control character")
    return found if found != ANONYMOUS else None


def _decode(auth: str, complaint: Exception) -> tuple[str, str]:
    """User and password of an ``auth`` value; the complaint, completed, when it is not base64 of ``user:password``."""
    try:
        text = base64.b64decode(auth.strip(), validate=True).decode().rstrip("\0")
    except ValueError:  # neither base64 (nor even ASCII), or no UTF-8 in it
        text = ""
    username, colon, password = text.partition(":")
    if not colon:
        # The cause is not chained: its text would show the secret.
        raise type(complaint)(f"{complaint} is not base64 of user:password") from None
    return username, password


class AuthFile:
    """One parsed credentials file."""

    def __init__(self, path: str, document: Mapping[str, Any], *, legacy: bool = False) -> None:
        empty: dict[str, Any] = {}
        auths = document if legacy else document.get("auths", empty)
        helpers = empty if legacy else document.get("credHelpers", empty)
        if not isinstance(auths, dict) or not isinstance(helpers, dict):
            raise ConfigError([f"{path}: auths and credHelpers must be objects"])
        self.path = path
        self._auths = auths
        self._helpers = helpers
        self._store = "" if legacy else document.get("credsStore") or ""

    async def find(self, reference: Reference, environ: Mapping[str, str]) -> Secret | None:
        """Credentials for a repository: the most specific key wins (repository, its parents, the host)."""
        for key in _keys(reference):
            if key in self._helpers:
                found = await ask_helper(str(self._helpers[key]), key, environ)
                if found is not None:
                    return found
            entry = self._auths.get(key)
            if entry is not None and (secret := self._secret(key, entry)) is not None:
                return secret
        wanted = _host_key(reference.domain)
        for key, name in self._helpers.items():
            if _host_key(key) == wanted and (found := await ask_helper(str(name), key, environ)) is not None:
                return found
        for key, entry in self._auths.items():
            if _host_key(key) == wanted and (secret := self._secret(key, entry)) is not None:
                return secret
        if self._store:
            key = _HUB_KEY if reference.domain == DOCKER_HUB else reference.domain
            return await ask_helper(str(self._store), key, environ)
        return None

    def _secret(self, key: str, entry: Any) -> Secret | None:
        if not isinstance(entry, dict):
            raise ConfigError([f"{self.path}: the entry for {key} must be an object"])
        username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
        if entry.get("auth"):
            username, password = _decode(str(entry["auth"]), _Fault(f"{self.path}: auth of {key}"))
        token = str(entry.get("identitytoken") or "")
        registry_token = str(entry.get("registrytoken") or "")
        found = Secret(username, password, token, registry_token)
        return found if found != ANONYMOUS else None


class _Fault(ConfigError):
    def __init__(self, text: str) -> None:
        super().__init__([text])


def _keys(reference: Reference) -> list[str]:
    """Repository, parents and host of a reference, the most specific first."""
    parts = reference.name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _host_key(key: str) -> str:
    """Docker writes keys as URLs: the host alone, with docker.io's several names made one."""
    host = key.removeprefix("https://").removeprefix("http://")
    if host == key and "/" in key:
        return ""  # a namespace key, which only matches exactly
    host = host.partition("/")[0]
    return DOCKER_HUB if host in ("index.docker.io", "registry-1.docker.io", DOCKER_HUB) else host


def read_file(path: str, *, legacy: bool = False) -> AuthFile | None:
    """Parse a credentials file; None when absent or empty. Raises ConfigError without showing its content."""
    try:
        with open(path, "rb") as file:
            data = file.read(4 << 20)
        if not data.strip():
            return None
        document = json.loads(data)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except (ValueError, RecursionError):
        raise ConfigError([f"{path}: not a JSON document of registry credentials"]) from None
    if not isinstance(document, dict):
        raise ConfigError([f"{path}: not a JSON object"])
    return AuthFile(path, document, legacy=legacy)


def default_files(environ: Mapping[str, str], uid: int) -> list[tuple[str, bool]]:
    """Paths of the default credentials files in their order, each with whether it has the old .dockercfg format."""
    if environ.get("REGISTRY_AUTH_FILE"):
        return [(environ["REGISTRY_AUTH_FILE"], False)]
    home = environ.get("HOME") or ("/root" if uid == 0 else "")
    runtime = environ.get("XDG_RUNTIME_DIR")
    config = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    docker = environ.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    out = [(f"{runtime}/containers/auth.json" if runtime else f"/run/containers/{uid}/auth.json", False)]
    if config:
        out.append((f"{config}/containers/auth.json", False))
    if docker:
        out.append((f"{docker}/config.json", False))
    if home:
        out.append((f"{home}/.dockercfg", True))
    return out


async def ask_helper(name: str, server: str, environ: Mapping[str, str]) -> Secret | None:
    """Ask ``docker-credential-<name>`` for a server's credentials; None when it has none.

    Raises ExternalFailure when the helper is missing, fails, hangs or answers nonsense.
    """
    program = f"docker-credential-{name}"
    if not name or "/" in name:
        raise ExternalFailure(f"credential helper {name!r} is not a program name")
    try:
        done = await run([program, "get"], stdin=server.encode(), env=environ, timeout=HELPER_SECONDS, cap=1 << 20)
    except NativeError as error:
        raise ExternalFailure(f"credential helper {program} cannot be started: {error.strerror}") from error
    if done.timed_out:
        raise ExternalFailure(f"credential helper {program} did not answer within {HELPER_SECONDS:.0f} s")
    if done.code != 0:
        if _NOT_FOUND in done.stdout or _NOT_FOUND in done.stderr:
            return None
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[:500]
        raise ExternalFailure(f"credential helper {program} failed for {server} with code {done.code}: {said}")
    try:
        answer = json.loads(done.stdout)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ExternalFailure(f"credential helper {program} gave no usable answer for {server}") from None
    if username == "<token>":
        return Secret(identity_token=str(secret))
    return Secret(str(username), str(secret)) if username else None


def _namespaced_names(image: str, reference: Reference) -> list[str]:
    """What the image may be called when the name of its credentials file was made: kubelet hands a credential
    provider the repository, without tag and digest."""
    written = image.removeprefix("docker://").partition("@")[0]
    if written.rfind(":") > written.rfind("/"):
        written = written[: written.rfind(":")]
    return list(dict.fromkeys((written, reference.name, image, str(reference))))


def take_namespaced(directory: str, namespace: str, image: str, reference: Reference) -> AuthFile | None:
    """Use up the credentials file that was put down for this namespace and image; None when there is none.

    It is moved to ``in-use`` first, so that a second pull cannot take the same one, and removed once it was read.
    """
    if not directory or not namespace or "/" in namespace:
        return None
    for name in _namespaced_names(image, reference):
        stem = f"{namespace}-{hashlib.sha256(name.encode()).hexdigest()}"
        used = os.path.join(directory, "in-use", f"{stem}-{uuid.uuid4()}.json")
        source = os.path.join(directory, f"{stem}.json")
        try:
            if not os.path.exists(source):
                continue
            os.makedirs(os.path.dirname(used), mode=0o700, exist_ok=True)
            os.rename(source, used)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError([f"{source}: {error.strerror}"]) from error
        try:
            return read_file(used)
        finally:
            os.unlink(used)
    return None


class CredentialSources:
    """The places of the configuration that are searched for every registry."""

    def __init__(self, settings: Settings, helpers: Sequence[str]) -> None:
        self._settings = settings
        self._helpers = helpers

    async def find(self, reference: Reference) -> Secret:
        """Credentials for a repository from files and helpers, ANONYMOUS when there are none."""
        environ = self._settings.environ
        for helper in self._helpers:
            if helper == AUTH_FILES:
                for file in await offload("store", self._files):
                    secret = await file.find(reference, environ)
                    if secret is not None:
                        return secret
            else:
                secret = await ask_helper(helper, reference.domain, environ)
                if secret is not None:
                    return secret
        return ANONYMOUS

    def _files(self) -> list[AuthFile]:
        places = default_files(self._settings.environ, os.getuid())
        if self._settings.global_auth_file:
            places.insert(0, (self._settings.global_auth_file, False))
        found = (read_file(path, legacy=legacy) for path, legacy in places)
        return [file for file in found if file is not None]
