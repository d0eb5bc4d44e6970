"""The domain's failures as types.

Everything below ``api/`` raises these; ``api/boundary.py`` is the only place that turns a class into a gRPC status.
Each message is one sentence for a person: it names the object, the cause and, where there is one, the remedy. Nobody
searches the text: code that must distinguish cases catches a class.
"""

from __future__ import annotations


class PycrioError(Exception):
    """Base of every failure that pycrio foresees."""


class NotFound(PycrioError):
    """The named object does not exist (any more)."""

    def __init__(self, kind: str, ident: str, detail: str = "") -> None:
        super().__init__(f"{kind} {ident!r} not found" + (f": {detail}" if detail else ""))
        self.kind = kind
        self.ident = ident


class Ambiguous(PycrioError):
    """An id prefix fits more than one object."""

    def __init__(self, kind: str, prefix: str) -> None:
        super().__init__(f"{kind} id prefix {prefix!r} is ambiguous: give more characters of the id")
        self.kind = kind
        self.prefix = prefix


class InvalidRequest(PycrioError):
    """The request cannot be meant like this, whatever the state of the node."""


class AlreadyExists(PycrioError):
    """The name or object is taken by something else."""


class WrongState(PycrioError):
    """The object exists, but not in a state that allows the operation."""


class InUse(PycrioError):
    """The object cannot go because others depend on it."""


class Busy(PycrioError):
    """The same object is being worked on; the caller should come back (the kubelet does)."""


class Denied(PycrioError):
    """A policy or the peer forbids it."""


class Unsupported(PycrioError):
    """This build, host, kernel or runtime lacks what the request needs."""


class Exhausted(PycrioError):
    """A limit or the node's space is used up."""


class Timeout(PycrioError):
    """An external part did not answer in its time."""


class Unavailable(PycrioError):
    """An external part (registry, plugin, bus) cannot be reached now."""


class ExternalFailure(PycrioError):
    """A program, plugin or peer that we called failed; the message carries what it said."""


class RuntimeFailure(ExternalFailure):
    """The OCI runtime or the monitor failed."""


class NetworkFailure(ExternalFailure):
    """A CNI plugin or the host port rules failed."""


class PluginFailure(ExternalFailure):
    """An NRI plugin refused or failed, or two of them contradict each other."""


class StoreFailure(PycrioError):
    """The image or container store is damaged or refused a write."""


class Overtaken(StoreFailure):
    """What an operation built upon in the store was removed by another one meanwhile: from its beginning it works."""


class BadImage(PycrioError):
    """An image, manifest, config or layer is malformed or does not have the digest that it should have."""


class RegistryError(PycrioError):
    """A registry refused; ``code`` is its error code name (e.g. ``MANIFEST_UNKNOWN``), ``status`` the HTTP status."""

    def __init__(self, message: str, *, code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    @staticmethod
    def of(message: str, *, code: str = "", status: int = 0) -> RegistryError:
        """The class that fits what the registry said."""
        if status == 404 or code in ("MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN"):
            return RegistryNotFound(message, code=code, status=status)
        if status in (401, 403) or code in ("UNAUTHORIZED", "DENIED"):
            return RegistryDenied(message, code=code, status=status)
        return RegistryError(message, code=code, status=status)


class RegistryNotFound(RegistryError):
    """The registry does not have what was asked for."""


class RegistryDenied(RegistryError):
    """The registry wants other credentials, or does not give it to anybody."""


class RegistryUnavailable(RegistryError):
    """The registry cannot be reached; the text begins with the name that the kubelet recognises."""

    def __init__(self, message: str) -> None:
        super().__init__(f"RegistryUnavailable: {message}", code="CONNECTION_REFUSED")


class SignatureInvalid(Denied):
    """policy.json does not accept the image; the text begins with the name that the kubelet recognises."""

    def __init__(self, message: str) -> None:
        super().__init__(f"SignatureValidationFailed: {message}")


class ImageMountFailed(PycrioError):
    """An image volume cannot be mounted; the text begins with the name that the kubelet recognises."""

    def __init__(self, message: str) -> None:
        super().__init__(f"ImageVolumeMountFailed: {message}")


class ConfigError(PycrioError):
    """The configuration is faulty; ``faults`` lists every fault that was found."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults
