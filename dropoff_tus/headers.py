"""The grammar of the tus headers: text in, values out, and back. Never a bare `int()`.

Source: tus 1.0.0, Headers, and the extensions' header sections.
"""

import base64
import re
from collections.abc import Iterable, Sequence
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
    InvalidTokenError,
    InvalidUploadLengthError,
    MalformedRequestError,
)
from dropoff_tus.ids import UploadToken, normalise_code
from dropoff_tus.model import Metadata

Headers = Sequence[tuple[str, str]]
"""A request's headers in order, duplicates and all."""


class Fields(list[tuple[str, str]]):
    """Headers that are looked up by name often: the names are folded once."""

    __slots__ = ("by_name",)

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Take the pairs in order."""
        super().__init__(pairs)
        self.by_name: dict[str, list[str]] = {}
        for name, value in self:
            self.by_name.setdefault(name.lower(), []).append(value)


MAX_NUMBER = 2**63 - 1
MAX_METADATA_BYTES = 16 << 10
MAX_METADATA_PAIRS = 128
"""Of this many no client has need, and each costs time before anything else is known of the request."""
MAX_CONCAT_BYTES = 30 << 10
_DIGITS = re.compile(r"[0-9]+")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2})+")
_METADATA_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
CODE_KEY = "code"
"""The metadata key that may carry the code, in any case."""
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def get(headers: Headers, name: str, error: type[DropoffError] = MalformedRequestError) -> str | None:
    """Return a header that may be there once, stripped; None if it is absent.

    Raises:
        DropoffError: It is there twice; of the kind given.
    """
    wanted = name.lower()
    if isinstance(headers, Fields):
        values = headers.by_name.get(wanted, [])
    else:
        values = [value for key, value in headers if key.lower() == wanted]
    if len(values) > 1:
        raise error(f"{name} was sent more than once; send it once")
    return values[0].strip(" \t") if values else None


def number(text: str, name: str, error: type[DropoffError]) -> int:
    """Read a non-negative decimal below 2^63: ASCII digits and nothing else.

    Source: tus 1.0.0, Upload-Offset and Upload-Length ("MUST be a non-negative integer").
    """
    significant = text.lstrip("0") or "0"
    # The length is looked at first: int() of thousands of digits is slow, and refused by Python beyond 4300.
    if _DIGITS.fullmatch(text) is None or len(significant) > len(str(MAX_NUMBER)) or int(significant) > MAX_NUMBER:
        raise error(f"{name} must be a decimal number from 0 to {MAX_NUMBER}; nothing was written")
    return int(significant)


def upload_length(headers: Headers) -> int | None:
    """Read Upload-Length; None if absent.

    Raises:
        InvalidUploadLengthError: It is no number, or there twice.

    Source: tus 1.0.0, Upload-Length ("The value MUST be a non-negative integer").
    """
    text = get(headers, "Upload-Length", InvalidUploadLengthError)
    return None if text is None else number(text, "Upload-Length", InvalidUploadLengthError)


def upload_offset(headers: Headers) -> int:
    """Read Upload-Offset, which must be there.

    Raises:
        InvalidOffsetError: It is absent, no number, or there twice.

    Source: tus 1.0.0, Upload-Offset ("The value MUST be a non-negative integer").
    """
    text = get(headers, "Upload-Offset", InvalidOffsetError)
    if text is None:
        raise InvalidOffsetError("Upload-Offset is missing; ask for it with HEAD")
    return number(text, "Upload-Offset", InvalidOffsetError)


def defers_length(headers: Headers) -> bool:
    """Read Upload-Defer-Length.

    Raises:
        InvalidDeferLengthError: It is there, but not `1`.

    Source: tus 1.0.0, creation, Upload-Defer-Length ("If the Upload-Defer-Length header contains any other
    value than 1 the server should return a 400 Bad Request status").
    """
    text = get(headers, "Upload-Defer-Length", InvalidDeferLengthError)
    if text is not None and text != "1":
        raise InvalidDeferLengthError("Upload-Defer-Length must be 1")
    return text is not None


def metadata_pairs(text: str) -> tuple[tuple[str, bytes], ...]:
    """Read Upload-Metadata into pairs of key and decoded value, in order.

    An empty header is as if absent, since some clients always send it. Spaces around pairs are allowed.
    Values need their padding, as in every client and server met.

    Raises:
        InvalidMetadataError: A key is empty, odd or there twice, or a value is not base64.

    Source: tus 1.0.0, creation, Upload-Metadata ("The key MUST NOT contain spaces and commas and MUST NOT be
    empty. The key SHOULD be ASCII encoded and the value MUST be Base64 encoded. All keys MUST be unique. The
    value MAY be empty. In these cases, the space [...] MAY be left out").
    """
    if not text.strip(" \t"):
        return ()
    check_pairs(text)
    pairs: dict[str, bytes] = {}
    for number, item in enumerate(text.split(","), 1):
        key, _, encoded = item.strip(" \t").partition(" ")
        content = _decode_base64(encoded.strip(" \t"))
        if not key:
            problem = "is empty; write `key base64,key base64`"
        elif _METADATA_KEY.fullmatch(key) is None:
            problem = "is not printable ASCII; write `key base64,key base64`"
        elif key in pairs:
            problem = "is there twice; send it once"
        elif content is None:
            problem = "has a value that is not base64"
        else:
            pairs[key] = content
            continue
        # Any part of a misspelt header may be a secret, so the message has only a plain word, never a value.
        name = key if _PLAIN_KEY.fullmatch(key) else f"number {number}"
        raise InvalidMetadataError(f"Upload-Metadata: the key {name} {problem}; nothing was written")
    return tuple(pairs.items())


def check_pairs(text: str) -> None:
    """Refuse an Upload-Metadata of very many pairs, before any of them is looked at.

    Raises:
        InvalidMetadataError: It has more than MAX_METADATA_PAIRS.
    """
    if text.count(",") >= MAX_METADATA_PAIRS:
        raise InvalidMetadataError(f"Upload-Metadata has more than {MAX_METADATA_PAIRS} keys; nothing was written")


def metadata(headers: Headers, presented_code: str | None) -> Metadata:
    """Read Upload-Metadata less the code: no key `code` (in any case) and no value equal to a code survives.

    Equal means: as typed by people. A value of `code` counts even if the header carried a code.

    Raises:
        InvalidMetadataError: See `metadata_pairs`.
        HeadersTooLargeError: It is longer than MAX_METADATA_BYTES.
    """
    text = get(headers, "Upload-Metadata", InvalidMetadataError)
    if text is None:
        return Metadata()
    if len(text) > MAX_METADATA_BYTES:
        raise HeadersTooLargeError(f"Upload-Metadata is longer than {MAX_METADATA_BYTES} bytes; nothing was written")
    pairs = metadata_pairs(text)
    secrets = {_as_code(value) for key, value in pairs if key.lower() == CODE_KEY}
    if presented_code is not None:
        secrets.add(normalise_code(presented_code))
    # An empty value is equal to a code that is all dashes, and no secret.
    secrets.discard("")
    return Metadata(
        tuple((key, value) for key, value in pairs if key.lower() != CODE_KEY and _as_code(value) not in secrets)
    )


def _as_code(value: bytes) -> str:
    return normalise_code(value.decode("utf-8", "replace"))


def render_metadata(value: Metadata) -> str:
    """Write pairs as Upload-Metadata; an empty value as only the key."""
    return ",".join(
        f"{key} {base64.b64encode(content).decode('ascii')}" if content else key for key, content in value.pairs
    )


def presented_code(headers: Headers) -> str | None:
    """Find the code: the header Dropoff-Code, else the metadata key `code` in any case. Never fails.

    It is asked for before anything else is known of the request, so what is malformed is as if absent.
    """
    for name, value in headers:
        if name.lower() == "dropoff-code":
            return _as_utf8(value.strip(" \t"))
    for name, value in headers:
        if name.lower() == "upload-metadata" and len(value) <= MAX_METADATA_BYTES:
            for item in value.split(",", MAX_METADATA_PAIRS)[:MAX_METADATA_PAIRS]:
                key, _, encoded = item.strip(" \t").partition(" ")
                if key.lower() == CODE_KEY:
                    content = _decode_base64(encoded.strip(" \t"))
                    return None if content is None else _as_utf8(content.decode("latin-1"))
    return None


def proposed_token(headers: Headers) -> UploadToken | None:
    """Read Dropoff-Token: the token that the client drew for a creation, so that it knows the URL before the answer.

    Raises:
        InvalidTokenError: It is no token.
    """
    text = get(headers, "Dropoff-Token", InvalidTokenError)
    if text is None:
        return None
    token = UploadToken.parse(text)
    if token is None:
        raise InvalidTokenError("Dropoff-Token must be 32 lower-case hex digits, drawn at random; nothing was written")
    return token


def _as_utf8(value: str) -> str:
    """Read a code, which was decoded byte by byte, as the UTF-8 that it may be: such as a pasted dash."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except ValueError:
        return value


def digests(value: Metadata) -> tuple[ExpectedDigest, ...]:
    """Read the whole-file digests in the metadata: keys sha256, sha512, md5 in any case; hex or base64.

    Raises:
        InvalidDigestError: One is neither.
    """
    found: list[ExpectedDigest] = []
    for key, content in value.pairs:
        name = key.lower()
        size = DIGEST_SIZES.get(name)
        if size is None:
            continue
        digest = _digest_bytes(content.strip(), size)
        if digest is None:
            raise InvalidDigestError(f"the metadata's {name} is no {name} digest in hex or base64; nothing was written")
        found.append(ExpectedDigest(name, digest))
    return tuple(found)


def _digest_bytes(content: bytes, size: int) -> bytes | None:
    if len(content) == 2 * size and _HEX.fullmatch(content):
        return bytes.fromhex(content.decode("ascii"))
    digest = _decode_base64(content.decode("latin-1"))
    return digest if digest is not None and len(digest) == size else None


def upload_checksum(headers: Headers) -> ExpectedChecksum | None:
    """Read Upload-Checksum: `algorithm base64`; None if absent.

    Raises:
        InvalidChecksumError: Malformed, an unknown algorithm, or a digest of the wrong size.

    Source: tus 1.0.0, checksum, Upload-Checksum ("MUST consist of the name of the used checksum algorithm and
    the Base64 encoded checksum separated by a space"). Names are lower case there, and compared as they are.
    """
    text = get(headers, "Upload-Checksum", InvalidChecksumError)
    if text is None:
        return None
    algorithm, _, encoded = text.partition(" ")
    size = CHECKSUM_SIZES.get(algorithm)
    if size is None:
        raise InvalidChecksumError(f"Upload-Checksum must use one of {', '.join(CHECKSUM_SIZES)}; nothing was written")
    digest = _decode_base64(encoded.strip(" \t"))
    if digest is None or len(digest) != size:
        message = f"Upload-Checksum must carry the {size} bytes of a {algorithm} as base64; nothing was written"
        raise InvalidChecksumError(message)
    return ExpectedChecksum(algorithm, digest)


def _decode_base64(text: str) -> bytes | None:
    """Decode standard base64 with its padding; None for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # also binascii.Error, and what is not ASCII
        return None


def http_date(moment: datetime) -> str:
    """Write a time as an IMF-fixdate.

    Source: RFC 9110, section 5.6.7.
    """
    t = moment.astimezone(UTC)
    return (
        f"{_DAYS[t.weekday()]}, {t.day:02} {_MONTHS[t.month - 1]} {t.year:04} "
        f"{t.hour:02}:{t.minute:02}:{t.second:02} GMT"
    )
