"""TLS settings per registry from certs.d directories (man 5 containers-certs.d)."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

from pycrio.errors import ConfigError


def directory(roots: Sequence[str], host: str) -> str:
    """The first existing ``<root>/<host[:port]>``, "" when there is none."""
    for root in roots:
        path = os.path.join(root, host)
        if os.path.isdir(path):
            return path
    return ""


def context(found: str, insecure: bool) -> ssl.SSLContext:
    """A client context: system CAs, those of a certs.d directory ("": none) and its client certificates.

    With ``insecure`` nothing is verified. Reads files, so it belongs into a pool. Raises ConfigError when a file of
    the directory is unusable: to go on without it would only show as a puzzling refusal.
    """
    out = ssl.create_default_context()
    if insecure:
        out.check_hostname = False
        out.verify_mode = ssl.CERT_NONE
    if not found:
        return out
    try:
        names = sorted(os.listdir(found))
    except OSError as error:
        raise ConfigError([f"{found}: {error.strerror}"]) from error
    for name in names:
        path = os.path.join(found, name)
        stem, extension = os.path.splitext(path)
        try:
            if extension == ".crt":
                out.load_verify_locations(cafile=path)
            elif extension == ".cert":
                _client_certificate(out, path, f"{stem}.key")
            elif extension == ".key" and f"{name[:-4]}.cert" not in names:
                raise ConfigError([f"{path}: the client certificate {stem}.cert that belongs to this key is missing"])
        except (OSError, ssl.SSLError) as error:
            raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    return out


def _client_certificate(out: ssl.SSLContext, certificate: str, key: str) -> None:
    if not os.path.exists(key):
        raise ConfigError([f"{certificate}: its key {key} is missing"])
    # A password callback instead of a prompt: a daemon has no terminal to ask at.
    out.load_cert_chain(certificate, key, password=lambda: "")
