"""Signed lines: `<canonical JSON> SP <unpadded base64 signature> LF`, each kind under a domain of its own.

Source: docs/reference/format.md, Log.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dropoff_tus.errors import UploadDamagedError
from storage.keyring.signing import SigningKey

Record = dict[str, Any]
_DOMAIN = b"dropoff-tus/log/v1\n"
_ERASURE_DOMAIN = b"dropoff-tus/erasure/v1\n"
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True, allow_nan=False).encode


def damaged(upload_id: str, what: str) -> UploadDamagedError:
    """Make the error that names the upload and what does not verify."""
    return UploadDamagedError(f"upload {upload_id} does not verify: {what}; nothing was changed")


def canonical(record: Mapping[str, Any]) -> bytes:
    """Write JSON in its one form: sorted keys, no spaces, ASCII."""
    return _encode(record).encode("ascii")


def stamp(moment: datetime) -> str:
    """Write a time as RFC 3339 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sign_line(record: Mapping[str, Any], key: SigningKey, *, domain: bytes = _DOMAIN) -> bytes:
    """Return the signed line of a record."""
    text = canonical(record)
    return text + b" " + base64.b64encode(key.sign(domain + text)).rstrip(b"=") + b"\n"


def verify_line(line: bytes, key: SigningKey, *, domain: bytes = _DOMAIN) -> tuple[Record, str] | None:
    """Return a line's record and the id of the key that signed it; None if no trusted key did."""
    text, space, signature_text = line.removesuffix(b"\n").rpartition(b" ")
    try:
        signature = base64.b64decode(signature_text + b"=" * (-len(signature_text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    if not space or base64.b64encode(signature).rstrip(b"=") != signature_text:
        return None
    signer = key.verify(domain + text, signature)
    if signer is None:
        return None
    record = json.loads(text)
    return (record, signer) if isinstance(record, dict) else None


def sign_certificate(payload: Mapping[str, Any], key: SigningKey) -> bytes:
    """Return the signed line of a certificate of erasure."""
    return sign_line({"v": 1, "key": key.id, **payload}, key, domain=_ERASURE_DOMAIN)


def verify_certificate(line: bytes, key: SigningKey) -> Record | None:
    """Return what a certificate says, if this key, or one it retired, signed it."""
    found = verify_line(line, key, domain=_ERASURE_DOMAIN)
    return None if found is None else found[0]
