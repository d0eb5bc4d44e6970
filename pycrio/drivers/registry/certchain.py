"""X.509 chains of signing certificates (RFC 5280, as much as Fulcio and private CAs need).

``cryptography``'s own verifier is for TLS peers; these leaves are code-signing certificates whose time of use is not
now. Whatever is not understood is refused. Imported with the first sigstore policy that needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from pycrio.drivers.registry.signatures import BadSignature

MAX_DEPTH = 5
MAX_CERTIFICATES = 20
_KNOWN = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)


def load(pem: bytes, what: str) -> list[x509.Certificate]:
    """Certificates of some PEM text, at least one; BadSignature otherwise."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise BadSignature(f"{what} is malformed") from None
    if len(found) > MAX_CERTIFICATES:
        raise BadSignature(f"{what} has more than {MAX_CERTIFICATES} certificates")
    return found


def verify(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    when: datetime,
) -> None:
    """Prove that a code-signing certificate was valid at a time (aware) under one of the roots; else BadSignature."""
    try:
        _check(leaf, when)
        if not _signs_code(leaf, required=True):
            raise BadSignature("its certificate is not one for code signing")
        if not _path(leaf, intermediates, roots, when, 0):
            raise BadSignature("its certificate does not lead to a CA of the policy")
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm):
        raise BadSignature("its certificate is malformed") from None


def _path(
    cert: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    when: datetime,
    depth: int,
) -> bool:
    """Depth first search for a chain; ``depth`` counts the intermediates between the leaf and the issuer looked for."""
    if any(_issued(cert, root, when, depth) for root in roots):
        return True
    if depth >= MAX_DEPTH:
        return False
    rest = [other for other in intermediates if other != cert]
    return any(_issued(cert, other, when, depth) and _path(other, rest, roots, when, depth + 1) for other in rest)


def _issued(cert: x509.Certificate, issuer: x509.Certificate, when: datetime, depth: int) -> bool:
    """True when ``issuer`` is a CA that was entitled to sign ``cert`` and did."""
    if cert.issuer != issuer.subject:
        return False
    try:
        _check(issuer, when)
        basic = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (BadSignature, x509.ExtensionNotFound):
        return False
    if not basic.ca or (basic.path_length is not None and basic.path_length < depth):
        return False
    try:
        if not issuer.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            return False
    except x509.ExtensionNotFound:
        pass  # a CA without key usage may do everything (RFC 5280 section 4.2.1.3)
    if not _signs_code(issuer, required=False):
        return False
    try:
        cert.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _check(cert: x509.Certificate, when: datetime) -> None:
    """Validity and critical extensions of any certificate of a chain."""
    if not cert.not_valid_before_utc <= when <= cert.not_valid_after_utc:
        raise BadSignature("its certificate was not valid when it was used")
    for extension in cert.extensions:
        if extension.oid == ExtensionOID.NAME_CONSTRAINTS:
            raise BadSignature("its certificate chain has name constraints, which are not supported")
        if extension.critical and extension.oid not in _KNOWN:
            raise BadSignature(f"its certificate has the unknown critical extension {extension.oid.dotted_string}")


def _signs_code(cert: x509.Certificate, *, required: bool) -> bool:
    try:
        usages = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return not required
    return ExtendedKeyUsageOID.CODE_SIGNING in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages
