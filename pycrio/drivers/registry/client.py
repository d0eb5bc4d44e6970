"""The Registry port: finds images by what registries.conf, credentials and policy say, and fetches their layers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pycrio._native.pools import offload
from pycrio.drivers.registry import auth, lookaside, mirrors, platforms
from pycrio.drivers.registry.endpoint import Endpoint
from pycrio.drivers.registry.find import Found, Kept, find
from pycrio.drivers.registry.follow import Follower
from pycrio.drivers.registry.login import Login
from pycrio.drivers.registry.policy import Accept, Reject, Requirement
from pycrio.drivers.registry.reference import Reference, parse
from pycrio.drivers.registry.settings import Settings
from pycrio.drivers.registry.signatures import BadSignature, Signature, parse_stored
from pycrio.drivers.registry.sink import Sink, SinkClosed
from pycrio.drivers.registry.transfer import Stall, Transfer
from pycrio.drivers.registry.transport import Transport
from pycrio.drivers.registry.trouble import Trouble
from pycrio.drivers.registry.trust import Trust
from pycrio.errors import (
    ConfigError,
    InvalidRequest,
    PycrioError,
    RegistryError,
    RegistryUnavailable,
    SignatureInvalid,
    StoreFailure,
)
from pycrio.model.image import Credentials, LayerDescriptor, RemoteImage, StoredImage
from pycrio.obs import log as obslog

log = obslog.get("registry")

_LOGINS = 256
_PROOFS = 4096


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
        self._trust = Trust(settings)
        self._logins: dict[tuple[str, bool, str], Login] = {}
        self._follower: Follower | None = None
        # Digests that a registry let somebody have: access and digest → until when that counts (loop time).
        self._proofs: dict[tuple[tuple[str, bool, str], str], float] = {}
        self._aliases: Mapping[str, Reference] = {}
        self._aliases_stamp: tuple[int, int, int] | None = None

    async def open(self) -> None:
        """Follow the registry configuration, if so configured."""
        settings = self._settings
        if settings.follow:
            self._follower = Follower(
                settings.registries_conf or mirrors.SYSTEM_FILE,
                settings.registries_conf_dir or mirrors.SYSTEM_DIR,
                self.reload,
            )
            self._follower.open()

    async def close(self) -> None:
        """Close the connections."""
        if self._follower is not None:
            await self._follower.close()
        await self._transport.close()

    async def reload(self) -> None:
        """Read registries.conf and its drop-ins anew and forget what was learned by the old ones."""
        (await self.prepare(self._settings))()

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read registries.conf and its drop-ins anew; what comes back makes them and ``settings`` hold and cannot fail.

        Of the settings only those of the pause image may differ; what reads the store stays. ConfigError when a file
        is faulty.
        """
        found = await offload("store", mirrors.load, settings.registries_conf, settings.registries_conf_dir)

        def commit() -> None:
            self._settings = replace(
                settings,
                stored_signatures=self._settings.stored_signatures,
                stored_document=self._settings.stored_document,
            )
            self._registries = found
            self._transport.forget()
            self._logins.clear()
            self._proofs.clear()
            log.info(f"Applied new registry configuration: {found.summary()}")

        return commit

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
        requirements = (await self._trust.policy(namespace)).requirements(reference)
        rejections = [requirement for requirement in requirements if isinstance(requirement, Reject)]
        if rejections:  # no need to ask a registry first
            await self._trust.check(rejections, reference, (), ())
        endpoints = await self._endpoints(reference, wallet)
        at, found = await self._find(reference, endpoints)
        signatures = await self._signatures(at, reference, found.digests, requirements)
        await self._trust.check(requirements, reference, found.digests, [s for group in signatures for s in group])
        places = Places((at, *(endpoint for endpoint in endpoints if endpoint is not at)))
        kept = [tuple(signature.stored() for signature in group) for group in signatures]
        return _remote(reference, found, kept, places)

    async def _endpoints(self, reference: Reference, wallet: _Wallet) -> list[Endpoint]:
        sources = self._registries.sources(reference)
        return [await self._endpoint(source, wallet, sources[-1]) for source in sources]

    async def _signatures(
        self, at: Endpoint, reference: Reference, digests: Sequence[str], requirements: Sequence[Requirement]
    ) -> list[list[Signature]]:
        """Signatures for each of an image's digests. They are kept with it even when today's policy does not ask for
        them."""
        settings = self._settings
        try:
            return await lookaside.gather(
                settings.registries_d, at, reference, digests, self._transport, settings.limits
            )
        except (Trouble, ConfigError) as error:
            if any(not isinstance(requirement, Accept) for requirement in requirements):
                if isinstance(error, Trouble):
                    raise error.failure(str(reference), f"its signatures at {at.label}") from error
                raise
            log.warning("Cannot read signatures, pulling without", image=str(reference), error=str(error))
            return [[] for _ in digests]

    async def _find(self, reference: Reference, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, Found]:
        """Ask one place after the other; the first that has the image is where it comes from."""
        earlier: list[str] = []
        document, now = self._settings.stored_document, asyncio.get_running_loop().time()
        for endpoint in endpoints:
            proven = self._proofs.get((endpoint.access, reference.digest), 0.0) > now
            try:
                found = await find(endpoint, self._platform, self._settings.limits, Kept(document, proven))
                if not proven:
                    self._prove(endpoint, found.digests, now + self._settings.proof)
                return endpoint, found
            except Trouble as trouble:
                if endpoint is endpoints[-1]:
                    trouble.text += f" (before that: {'; '.join(earlier)})" if earlier else ""
                    raise trouble.failure(str(reference), endpoint.label) from trouble
                earlier.append(f"{endpoint.label}: {trouble.text}")
        raise AssertionError("unreachable: there is always a primary registry")

    def _prove(self, endpoint: Endpoint, digests: Sequence[str], until: float) -> None:
        for digest in digests:
            self._proofs.pop((endpoint.access, digest), None)
            self._proofs[endpoint.access, digest] = until
        while len(self._proofs) > _PROOFS:
            del self._proofs[next(iter(self._proofs))]

    async def _endpoint(self, source: mirrors.Source, wallet: _Wallet, primary: mirrors.Source) -> Endpoint:
        """A place with the credentials for it: those of the request are for the registry it names, not for mirrors."""
        reference = source.reference
        secret = wallet.request if reference.domain == primary.reference.domain else None
        if secret is None and wallet.namespaced is not None:
            secret = await wallet.namespaced.find(reference, self._settings.environ)
        if secret is None and _is_pause(primary.reference, self._settings):
            file = await offload("store", auth.read_file, self._settings.pause_image_auth_file)
            if file is None:
                log.warning("Credentials of the pause image are missing", path=self._settings.pause_image_auth_file)
            else:
                secret = await file.find(reference, self._settings.environ)
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
        return Endpoint(self._transport, login, source, self._settings.limits, key)

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
                    if layer.digest not in trouble.text:
                        trouble.text = f"layer {layer.digest}: {trouble.text}"
                    raise trouble.failure(image.name, label) from trouble
                earlier.append(f"{label}: {trouble.text}")

    async def verify_stored(self, image: StoredImage, user_image: str, namespace: str) -> None:
        """Re-check the policy for an image of the store; see the port.

        Only where the configuration names a policy of its own or the namespace has one. Signatures kept with the
        image are tried first, then those that its registry has now. InvalidRequest when the user's name for the
        image is unknown, so that no policy can be chosen.
        """
        if not (self._settings.policy or self._trust.namespaced(namespace)):
            return
        policy = await self._trust.policy(namespace)
        if policy.trivial:
            return
        if not user_image:
            raise InvalidRequest("user specified image not specified, cannot verify image signature")
        candidates = self._registries.candidates(user_image, self._recorded_aliases())
        # Of several meanings of a short name the one that this image was pulled as.
        meant = [name for name in candidates if str(name) in image.names] or list(candidates)
        if not meant:
            raise InvalidRequest(f"image {user_image!r} names no registry, so that no signature policy can be chosen")
        for name in meant[:-1]:
            try:
                await self._verify_as(image, name, policy.requirements(name))
                return
            except SignatureInvalid as error:
                log.debug("Image not accepted under one of its names", image=str(name), error=str(error))
        await self._verify_as(image, meant[-1], policy.requirements(meant[-1]))

    async def _verify_as(self, image: StoredImage, name: Reference, requirements: Sequence[Requirement]) -> None:
        if name.digest and name.digest not in image.digests:
            raise SignatureInvalid(f"image {name}: the stored image {image.id} does not have this digest")
        if all(isinstance(requirement, (Accept, Reject)) for requirement in requirements):
            await self._trust.check(requirements, name, image.digests, ())
            return
        if self._settings.stored_signatures is not None:
            try:
                kept = [parse_stored(blob) for blob in await self._settings.stored_signatures(image.id)]
                await self._trust.check(requirements, name, image.digests, kept)
                return
            except (SignatureInvalid, BadSignature) as error:
                log.debug("Signatures kept with the image do not do", image=str(name), error=str(error))
        endpoints = await self._endpoints(name, _Wallet(None, None))
        for endpoint in endpoints:
            try:
                signatures = await self._signatures(endpoint, name, image.digests, requirements)
                every = [signature for group in signatures for signature in group]
                await self._trust.check(requirements, name, image.digests, every)
                return
            except (SignatureInvalid, RegistryError) as error:
                if endpoint is endpoints[-1]:
                    raise
                log.debug("No accepted signature at a mirror", image=str(name), error=str(error))


def _is_pause(reference: Reference, settings: Settings) -> bool:
    """True for the pause image, where that has credentials of its own."""
    if not (settings.pause_image and settings.pause_image_auth_file):
        return False
    pause = parse(settings.pause_image)
    return isinstance(pause, Reference) and pause.canonical() == reference.canonical()


def stall_is_final(settings: Settings) -> bool:
    """True when the operator limits the time without progress: then no other place is tried either."""
    return settings.pull_progress_timeout > 0


def _remote(reference: Reference, found: Found, signatures: Sequence[tuple[bytes, ...]], places: Places) -> RemoteImage:
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
        signatures=signatures[0],
        index_signatures=signatures[1] if found.index_digest else (),
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
        return RegistryError.of(text, code=told.code, status=told.status)
    return ConfigError([text]) if isinstance(told, ConfigError) else type(told)(text)


def _prefix(error: PycrioError) -> str:
    """The name that the text of some errors begins with."""
    return str(error).partition(": ")[0] if isinstance(error, (RegistryUnavailable, SignatureInvalid)) else ""
