"""The grammar of the tus headers: text in, values out, and back. Never a bare `int()`.

Source: tus 1.0.0, Headers, and the extensions' header sections.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from dropoff_tus.checksum import CHECKSUM_SIZES, DIGEST_SIZES, ExpectedChecksum, ExpectedDigest
from dropoff_tus.errors import (
    DropoffError,
    HeadersTooLargeError,
    InvalidChecksumError,
    InvalidDeferLengthError,
    InvalidDigestError,
    InvalidMetadataError,
    InvalidOffsetError,
    InvalidUploadLengthError,
    MalformedRequestError,
)
from dropoff_tus.ids import normalise_code
from dropoff_tus.model import Metadata

Headers = Sequence[tuple[str, str]]
"""A request's headers in order, duplicates and all."""

MAX_NUMBER = 2**63 - 1
MAX_METADATA_BYTES = 16 << 10
MAX_CONCAT_BYTES = 30 << 10
_DIGITS = re.compile(r"[0-9]{1,19}")
_METADATA_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def get(headers: Headers, name: str, error: type[DropoffError] = MalformedRequestError) -> str | None:
    """Return a header that may be there once, stripped; None if it is absent.

    Raises:
        DropoffError: It is there twice; of the kind given.
    """
    wanted = name.lower()
    values = [value for key, value in headers if key.lower() == wanted]
    if len(values) > 1:
        message = f"{name} was sent more than once; send it once"
        raise error(message)
    return values[0].strip(" \t") if values else None


def number(text: str, name: str, error: type[DropoffError]) -> int:
    """Read a non-negative decimal below 2^63: ASCII digits and nothing else.

    Source: tus 1.0.0, Upload-Offset and Upload-Length ("MUST be a non-negative integer").
    """
    if _DIGITS.fullmatch(text) is None or int(text) > MAX_NUMBER:
        message = f"{name} must be a decimal number from 0 to {MAX_NUMBER}; nothing was written"
        raise error(message)
    return int(text)


def upload_length(headers: Headers) -> int | None:
    """Read Upload-Length; None if absent."""
    text = get(headers, "Upload-Length", InvalidUploadLengthError)
    return None if text is None else number(text, "Upload-Length", InvalidUploadLengthError)


def upload_offset(headers: Headers) -> int:
    """Read Upload-Offset, which must be there."""
    text = get(headers, "Upload-Offset", InvalidOffsetError)
    if text is None:
        message = "Upload-Offset is missing; ask for it with HEAD"
        raise InvalidOffsetError(message)
    return number(text, "Upload-Offset", InvalidOffsetError)


def defers_length(headers: Headers) -> bool:
    """Read Upload-Defer-Length: only `1` is a value.

    Source: tus 1.0.0, creation, Upload-Defer-Length.
    """
    text = get(headers, "Upload-Defer-Length", InvalidDeferLengthError)
    if text is not None and text != "1":
        message = "Upload-Defer-Length must be 1"
        raise InvalidDeferLengthError(message)
    return text is not None


def metadata_pairs(text: str) -> tuple[tuple[str, bytes], ...]:
    """Read Upload-Metadata. An empty header is as if absent; a key without a value is an empty value.

    Raises:
        InvalidMetadataError: A key is empty, odd or there twice, or a value is not base64.

    Source: tus 1.0.0, creation, Upload-Metadata.
    """
    if not text.strip(" \t"):
        return ()
    pairs: dict[str, bytes] = {}
    for item in text.split(","):
        key, _, encoded = item.strip(" \t").partition(" ")
        encoded = encoded.strip(" \t")
        if _METADATA_KEY.fullmatch(key) is None:
            message = "Upload-Metadata has an empty or unprintable key; write `key base64,key base64`"
            raise InvalidMetadataError(message)
        if key in pairs:
            message = "Upload-Metadata has a key twice; each may be there once"
            raise InvalidMetadataError(message)
        try:
            pairs[key] = base64.b64decode(encoded.encode("latin-1", "replace"), validate=True)
        except (binascii.Error, ValueError):
            message = "Upload-Metadata has a value that is not base64"
            raise InvalidMetadataError(message) from None
    return tuple(pairs.items())


def metadata(headers: Headers, presented_code: str | None) -> Metadata:
    """Read Upload-Metadata less the code: neither a key `code` nor any value equal to the code survives."""
    text = get(headers, "Upload-Metadata", InvalidMetadataError)
    if text is None:
        return Metadata()
    if len(text) > MAX_METADATA_BYTES:
        message = f"Upload-Metadata is longer than {MAX_METADATA_BYTES} bytes"
        raise HeadersTooLargeError(message)
    secret = normalise_code(presented_code) if presented_code else None
    return Metadata(
        tuple(
            (key, value)
            for key, value in metadata_pairs(text)
            if key.lower() != "code" and (secret is None or normalise_code(value.decode("utf-8", "replace")) != secret)
        )
    )


def render_metadata(value: Metadata) -> str:
    """Write pairs as Upload-Metadata; an empty value as the key alone."""
    return ",".join(
        f"{key} {base64.b64encode(content).decode('ascii')}" if content else key for key, content in value.pairs
    )


def presented_code(headers: Headers) -> str | None:
    """Find the code: the header Dropoff-Code, else the metadata key `code` in any case. Never fails."""
    for name, value in headers:
        if name.lower() == "dropoff-code":
            return value.strip(" \t")
    for name, value in headers:
        if name.lower() == "upload-metadata":
            for item in value.split(","):
                key, _, encoded = item.strip(" \t").partition(" ")
                if key.lower() == "code":
                    try:
                        return base64.b64decode(encoded.strip(" \t"), validate=True).decode("utf-8", "replace")
                    except (binascii.Error, ValueError):
                        return None
    return None


def digests(value: Metadata) -> tuple[ExpectedDigest, ...]:
    """Read the whole-file digests in the metadata: keys sha256, sha512, md5; hex or base64.

    Raises:
        InvalidDigestError: One is neither.
    """
    found = []
    for key, content in value.pairs:
        size = DIGEST_SIZES.get(key.lower())
        if size is None or not content:
            continue
        found.append(ExpectedDigest(key.lower(), _digest_bytes(content.strip(), size, key.lower())))
    return tuple(found)


def _digest_bytes(content: bytes, size: int, name: str) -> bytes:
    try:
        if len(content) == 2 * size:
            return bytes.fromhex(content.decode("ascii"))
        raw = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        message = f"the metadata's {name} is not a {name} digest in hex or base64; nothing was stored"
        raise InvalidDigestError(message)
    return raw


def upload_checksum(headers: Headers) -> ExpectedChecksum | None:
    """Read Upload-Checksum: `algorithm base64`.

    Source: tus 1.0.0, checksum, Upload-Checksum.
    """
    text = get(headers, "Upload-Checksum", InvalidChecksumError)
    if text is None:
        return None
    algorithm, _, encoded = text.partition(" ")
    size = CHECKSUM_SIZES.get(algorithm)
    if size is None:
        message = f"Upload-Checksum must use one of {', '.join(CHECKSUM_SIZES)}; nothing was written"
        raise InvalidChecksumError(message)
    try:
        digest = base64.b64decode(encoded.strip(" \t"), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != size:
        message = f"Upload-Checksum must carry the {size} bytes of a {algorithm} as base64; nothing was written"
        raise InvalidChecksumError(message)
    return ExpectedChecksum(algorithm, digest)


def http_date(moment: datetime) -> str:
    """Write a time as an IMF-fixdate.

    Source: RFC 9110, section 5.6.7.
    """
    t = moment.astimezone(UTC)
    return (
        f"{_DAYS[t.weekday()]}, {t.day:02} {_MONTHS[t.month - 1]} {t.year:04} "
        f"{t.hour:02}:{t.minute:02}:{t.second:02} GMT"
    )
