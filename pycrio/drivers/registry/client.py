"""The Registry port: finds images by what registries.conf, credentials and policy say, and fetches their layers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pycrio._native.pools import offload
from pycrio.drivers.registry import auth, mirrors, platforms
from pycrio.drivers.registry.endpoint import Endpoint
from pycrio.drivers.registry.find import Found, find
from pycrio.drivers.registry.login import Login
from pycrio.drivers.registry.reference import Reference
from pycrio.drivers.registry.settings import Settings
from pycrio.drivers.registry.sink import Sink, SinkClosed
from pycrio.drivers.registry.transfer import Stall, Transfer
from pycrio.drivers.registry.transport import Transport
from pycrio.drivers.registry.trouble import Trouble
from pycrio.errors import (
    ConfigError,
    InvalidRequest,
    PycrioError,
    RegistryError,
    RegistryUnavailable,
    SignatureInvalid,
    StoreFailure,
)
from pycrio.model.image import Credentials, LayerDescriptor, RemoteImage

_LOGINS = 256


@dataclass(frozen=True, slots=True)
class Places:
    """Where an image's blobs are: the place that had the manifest first. It travels in ``RemoteImage.source``."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class _Wallet:
    """Credentials of one pull: those of the request, and those put down for its namespace."""

    request: auth.Secret | None
    namespaced: auth.AuthFile | None


class Registry:
    """Registries, as this node is configured to use them. Needs a running event loop from the first request on."""

    def __init__(self, settings: Settings) -> None:
        """Reads the registry configuration; raises ConfigError when it is faulty."""
        self._settings = settings
        self._platform = platforms.host(settings.os, settings.arch, settings.variant)
        self._registries = mirrors.load(settings.registries_conf, settings.registries_conf_dir)
        self._transport = Transport(settings)
        self._logins: dict[tuple[str, bool, str], Login] = {}
        self._aliases: Mapping[str, Reference] = {}
        self._aliases_stamp: tuple[int, int, int] | None = None

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def reload(self) -> None:
        """Read registries.conf and its drop-ins anew and forget what was learned by the old ones."""
        settings = self._settings
        self._registries = await offload("store", mirrors.load, settings.registries_conf, settings.registries_conf_dir)
        self._transport.forget()
        self._logins.clear()

    def names(self, reference: str) -> tuple[str, ...]:
        """Full names that a reference may mean; empty for a short name that nothing resolves."""
        return tuple(map(str, self._registries.candidates(reference, self._recorded_aliases())))

    def _recorded_aliases(self) -> Mapping[str, Reference]:
        """Aliases that podman and others recorded, read again when their file has changed."""
        path = self._settings.short_name_aliases
        try:
            found = os.stat(path)
        except OSError:
            return {}
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._aliases_stamp:
            self._aliases = mirrors.read_aliases(path)
            self._aliases_stamp = stamp
        return self._aliases

    async def resolve(self, reference: str, credentials: Credentials | None, namespace: str) -> RemoteImage:
        """Find an image; see the port. Short names are tried in all registries that their mode allows."""
        settings = self._settings
        mode = settings.short_name_mode or self._registries.mode or "enforcing"
        candidates = self._registries.pull_candidates(reference, self._recorded_aliases(), mode)
        wallet = _Wallet(
            auth.from_request(credentials),
            await offload(
                "store", auth.take_namespaced, settings.namespaced_auth_dir, namespace, reference, candidates[0]
            ),
        )
        failures: list[PycrioError] = []
        for candidate in candidates:
            try:
                return await self._resolve(candidate, wallet, namespace)
            except PycrioError as error:
                failures.append(error)
        raise _summary(failures)

    async def _resolve(self, reference: Reference, wallet: _Wallet, namespace: str) -> RemoteImage:
        sources = self._registries.sources(reference)
        endpoints = [await self._endpoint(source, wallet, sources[-1]) for source in sources]
        at, found = await self._find(reference, endpoints)
        places = Places((at, *(endpoint for endpoint in endpoints if endpoint is not at)))
        return _remote(reference, found, places)

    async def _find(self, reference: Reference, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, Found]:
        """Ask one place after the other; the first that has the image is where it comes from."""
        earlier: list[str] = []
        for endpoint in endpoints:
            try:
                return endpoint, await find(endpoint, self._platform, self._settings.limits)
            except Trouble as trouble:
                if endpoint is endpoints[-1]:
                    trouble.text += f" (before that: {'; '.join(earlier)})" if earlier else ""
                    raise trouble.failure(str(reference), endpoint.label) from trouble
                earlier.append(f"{endpoint.label}: {trouble.text}")
        raise AssertionError("unreachable: there is always a primary registry")

    async def _endpoint(self, source: mirrors.Source, wallet: _Wallet, primary: mirrors.Source) -> Endpoint:
        """A place with the credentials for it: those of the request are for the registry it names, not for mirrors."""
        reference = source.reference
        secret = wallet.request if reference.domain == primary.reference.domain else None
        if secret is None and wallet.namespaced is not None:
            secret = await wallet.namespaced.find(reference, self._settings.environ)
        if secret is None:
            sources = auth.CredentialSources(self._settings, self._registries.helpers)
            secret = await sources.find(reference)
        key = (reference.name, source.insecure, secret.fingerprint())
        login = self._logins.pop(key, None)
        if login is None:
            login = Login(self._transport, secret, reference.path, insecure=source.insecure)
        self._logins[key] = login  # at the end: the least recently used one goes first
        while len(self._logins) > _LOGINS:
            del self._logins[next(iter(self._logins))]
        return Endpoint(self._transport, login, source, self._settings.limits)

    async def fetch(
        self, image: RemoteImage, layer: LayerDescriptor, sink_fd: int, progress: Callable[[int], None]
    ) -> None:
        """Write a layer's blob to a pipe; see the port. How many run at a time is the caller's decision.

        StoreFailure when the pipe's reader is gone (what happened to it says more).
        """
        places = image.source
        if not isinstance(places, Places):
            raise InvalidRequest(f"image {image.name} was not resolved by this registry driver")
        settings = self._settings
        clock = asyncio.get_running_loop().time
        stall = Stall(settings.pull_progress_timeout, settings.limits.slowest, clock)
        try:
            async with Sink(sink_fd) as sink:
                await self._fetch(image, places, layer, Transfer(layer, sink, progress, stall))
        except SinkClosed:
            raise StoreFailure(f"image {image.name}: layer {layer.digest} was given up while it was read") from None

    async def _fetch(self, image: RemoteImage, places: Places, layer: LayerDescriptor, transfer: Transfer) -> None:
        ways = [(endpoint, "") for endpoint in places.endpoints]
        ways += [(places.endpoints[0], url) for url in layer.urls if url.startswith(("https://", "http://"))]
        earlier: list[str] = []
        for number, (endpoint, url) in enumerate(ways, 1):
            label = url or endpoint.label
            try:
                if url:
                    await transfer.from_url(endpoint, self._transport, url)
                else:
                    await transfer.from_endpoint(endpoint)
                return
            except Trouble as trouble:
                spoilt = trouble.kind == "bad" and transfer.done > 0
                if number == len(ways) or spoilt or (trouble.kind == "stalled" and stall_is_final(self._settings)):
                    trouble.text += f" (before that: {'; '.join(earlier)})" if earlier else ""
                    raise trouble.failure(image.name, label) from trouble
                earlier.append(f"{label}: {trouble.text}")


def stall_is_final(settings: Settings) -> bool:
    """True when the operator limits the time without progress: then no other place is tried either."""
    return settings.pull_progress_timeout > 0


def _remote(reference: Reference, found: Found, places: Places) -> RemoteImage:
    return RemoteImage(
        name=str(reference.canonical()),
        manifest=found.body,
        manifest_digest=found.digest,
        manifest_type=found.manifest.media_type,
        config=found.config,
        config_digest=found.manifest.config.digest,
        layers=found.layers,
        index=found.index,
        index_digest=found.index_digest,
        annotations=found.manifest.annotations,
        artifact_type=found.manifest.artifact_type,
        source=places,
    )


def _summary(failures: Sequence[PycrioError]) -> PycrioError:
    """One error for all candidates of a short name: of the kind of the first that got an answer."""
    if len(failures) == 1:
        return failures[0]
    told = next((error for error in failures if not isinstance(error, RegistryUnavailable)), failures[0])
    text = "; ".join(str(error).removeprefix(f"{_prefix(error)}: ") for error in failures)
    if isinstance(told, RegistryError) and not isinstance(told, RegistryUnavailable):
        return RegistryError(text, code=told.code, status=told.status)
    return ConfigError([text]) if isinstance(told, ConfigError) else type(told)(text)


def _prefix(error: PycrioError) -> str:
    """The name that the text of some errors begins with."""
    return str(error).partition(": ")[0] if isinstance(error, (RegistryUnavailable, SignatureInvalid)) else ""
