"""The server's certificate and its key: read at start, and again by themselves when their files change."""

import logging
import ssl
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from cryptography import x509

from server.places import KeySourceError, check_owner_only
from server.services import StartError

_log = logging.getLogger(__name__)
_CERTIFICATE, _KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


def renewing_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context of which each new handshake takes the certificate that is in the files then.

    A renewal that cannot be used, or of which only one file is written yet, leaves the present one in use.

    Raises:
        StartError: As `read_certificate`.
    """
    context = current = read_certificate(certificate, key)
    seen = _stamps(certificate, key)

    def choose(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current, seen
        stamps = _stamps(certificate, key)
        if stamps != seen:
            seen = stamps
            try:
                current = read_certificate(certificate, key)
                _log.info("the certificate was renewed")
            except StartError as error:
                _log.warning("a renewed certificate cannot be used", extra={"problem": str(error)})
        handshake.context = current

    context.sni_callback = choose  # called in every handshake, also of a client that names no server
    return context


def read_certificate(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context with a certificate and its key.

    Raises:
        StartError: A line for each that cannot be used.
    """
    mistakes = []
    try:
        if _CERTIFICATE not in certificate.read_bytes():
            mistakes.append(f"server.tls_cert: {certificate} is no certificate in PEM; write one with all above it")
    except OSError as error:
        mistakes.append(f"server.tls_cert: cannot read {certificate}: {error.strerror}")
    try:
        check_owner_only(key, "the key")
        if _KEY not in key.read_bytes():
            mistakes.append(f"server.tls_key: {key} is no key in PEM; write the certificate's private key")
    except KeySourceError as error:
        mistakes.append(f"server.tls_key: {error}")
    if mistakes:
        raise StartError("\n".join(mistakes))

    def encrypted() -> NoReturn:
        raise StartError(
            f"server.tls_key: {key} is encrypted, and nobody is there to type its password; write it decrypted, "
            "e.g. with `openssl pkey -in KEY -out NEW`"
        )

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, encrypted)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        message = f"server.tls_key: {key} is not the key of {certificate}, or one of them is damaged ({reason})"
        raise StartError(message) from None
    return context


def certificate_end(certificate: Path) -> datetime | None:
    """Return until when the server's certificate is good; None if its file has none that can be read."""
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None


def _stamps(*paths: Path) -> list[tuple[int, int, int] | None]:
    """Return what changes when a file is written or replaced; None for one that is not there."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
            found.append((status.st_ino, status.st_ctime_ns, status.st_size))
        except OSError:
            found.append(None)
    return found
