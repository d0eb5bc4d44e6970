"""TLS for our own servers (metrics, streaming): settings in Go's terms, files followed, self-signed when asked for.

Files are looked at (two stat calls) at each handshake, not watched: a renewed certificate is in use from the next
connection on, and nothing runs in between.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from pycrio.errors import ConfigError
from pycrio.obs import log

# IANA name → OpenSSL name of the TLS 1.2 suites that Go has
SUITES = {
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
}
_VERSIONS = {"VersionTLS12": ssl.TLSVersion.TLSv1_2, "VersionTLS13": ssl.TLSVersion.TLSv1_3}
_log = log.get("tls")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Files in PEM form; with ``ca`` clients must show a certificate. ``cipher_suites`` by IANA name, TLS 1.2 only."""

    cert: str
    key: str
    ca: str = ""
    min_version: str = "VersionTLS12"
    cipher_suites: tuple[str, ...] = ()


class ServerTls:
    """A server's TLS context that follows its files. Give ``context`` to asyncio; it never changes itself."""

    def __init__(self, settings: TlsSettings) -> None:
        """ConfigError when a file is missing or bad."""
        self._settings = settings
        self._seen = self._look()
        self._current = self._load()
        self.context = self._current

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        settings = self._settings
        return tuple(_identity(path) for path in (settings.cert, settings.key, settings.ca) if path)

    def _load(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[settings.min_version]
        try:
            context.load_cert_chain(settings.cert, settings.key)
            if settings.ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(settings.ca)
            if settings.cipher_suites and settings.min_version == "VersionTLS12":
                context.set_ciphers(":".join(SUITES[name] for name in settings.cipher_suites))
        except (OSError, KeyError) as error:
            files = ", ".join(path for path in (settings.cert, settings.key, settings.ca) if path)
            raise ConfigError([f"TLS cannot be set up with {files}: {error}"]) from error
        context.sni_callback = self._handshake
        return context

    def _handshake(self, connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        """Called at the start of each handshake, also for clients that send no name."""
        seen = self._look()
        if seen != self._seen and None not in seen:
            try:
                self._current = self._load()
                _log.info("Took over changed TLS files", cert=self._settings.cert)
            except ConfigError as error:
                _log.warning("Changed TLS files are unusable, keeping the former ones", error=error)
            self._seen = seen
        if self._current is not context:
            connection.context = self._current


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None  # in the middle of being replaced: look again next time
    return found.st_ino, found.st_size, found.st_mtime_ns


def make_missing(cert: str, key: str, names: Iterable[str]) -> bool:
    """Make a self-signed certificate and key (mode 0600) when both files are missing; whether it did.

    ``names``: host names and addresses it is good for, besides localhost. ConfigError when only one file is there:
    overwriting the other would lose it.
    """
    missing = [path for path in (cert, key) if not os.path.exists(path)]
    if not missing:
        return False
    if len(missing) == 1:
        other = key if missing[0] == cert else cert
        raise ConfigError([f"{missing[0]} is missing, but {other} is there: remove it to get a new pair, or give both"])
    try:
        chain, secret = _self_signed([*names, "localhost", "127.0.0.1", "::1"])
        _write(key, secret)
        _write(cert, chain)
    except OSError as error:
        raise ConfigError(
            [f"{error.filename}: the self-signed certificate cannot be written: {error.strerror}"]
        ) from error
    return True


def _self_signed(names: list[str]) -> tuple[bytes, bytes]:
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    secret = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    alternatives: list[x509.GeneralName] = []
    for name in dict.fromkeys(name for name in names if name):
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{names[0] or 'localhost'}"[:64])])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate.public_bytes(pem), secret.private_bytes(pem, *plain)


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
