"""Names of things: drop-off ids, upload tokens and ids, codes. Random bytes are arguments."""

import hashlib
import re
import string
import unicodedata
from dataclasses import dataclass, field

TOKEN_BYTES = 16
CODE_BYTES = 10
API_TOKEN_BYTES = 32
_UPLOAD_ID_DOMAIN = b"dropoff-tus/upload-id/v1\n"
_API_TOKEN_ID_DOMAIN = b"dropoff-tus/api-token-id/v1\n"
_API_TOKEN_WORD = "dropoff_"  # noqa: S105 - what tells searchers of leaked secrets that this is one
_HEX_128 = re.compile(r"[0-9a-f]{32}")
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CODE_CHARACTERS = CODE_BYTES * 8 // 5
_FORGIVING = str.maketrans(
    {"O": "0", "I": "1", "L": "1"}
    | {chr(number): None for number in range(128) if chr(number) not in string.ascii_letters + string.digits}
)
PROBE_DROP_ID = "d0c70000-7e57-4d70-b0ff-000000000000"
"""The drop-off of `doctor`. Its uploads cause no question to a site, no webhook and no mail."""
_MOST_TYPED_CHARACTERS = 256
"""A longer text is no code, so its characters need no look."""


def is_upload_id(text: str) -> bool:
    """Tell whether text has the form of an upload id: 32 lower-case hex digits, as a token has."""
    return _HEX_128.fullmatch(text) is not None


def is_drop_id(text: str) -> bool:
    """Tell whether text is a canonical UUIDv4: lower case, with dashes."""
    return _UUID4.fullmatch(text) is not None


def upload_id(token: str) -> str:
    """Derive the upload id from its token; the way back does not exist.

    Source: docs/reference/format.md, Token and id.
    """
    return hashlib.sha256(_UPLOAD_ID_DOMAIN + token.encode("ascii")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class UploadToken:
    """The secret end of an upload's URL, 32 lower-case hex digits, and the id that is derived from it."""

    secret: str = field(repr=False)
    upload_id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "upload_id", upload_id(self.secret))

    @classmethod
    def parse(cls, text: str) -> "UploadToken | None":
        """Return the token that a text is, or None if it has another form."""
        return cls(text) if _HEX_128.fullmatch(text) else None


def format_code(random_bytes: bytes) -> str:
    """Write 10 random bytes as a code: 16 Crockford base-32 characters in fours."""
    if len(random_bytes) != CODE_BYTES:
        raise ValueError(f"a code is made of {CODE_BYTES} random bytes")
    number = int.from_bytes(random_bytes, "big")
    text = "".join(_CROCKFORD[number >> shift & 31] for shift in range(5 * (_CODE_CHARACTERS - 1), -1, -5))
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def normalise_code(typed: str) -> str:
    """Undo how people type and paste codes: case, O for 0, I and L for 1; only letters and digits count. Never fails.

    Word processors and mail programs put in dashes, spaces and line ends of their own, and some keyboards full-width
    letters.
    """
    if not typed.isascii() and len(typed) <= _MOST_TYPED_CHARACTERS:
        typed = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", typed)))
    return typed.upper().translate(_FORGIVING)


def format_api_token(random_bytes: bytes) -> str:
    """Write 32 random bytes as an API token: a word by which it is recognised, and 64 lower-case hex digits."""
    if len(random_bytes) != API_TOKEN_BYTES:
        raise ValueError(f"an API token is made of {API_TOKEN_BYTES} random bytes")
    return _API_TOKEN_WORD + random_bytes.hex()


def api_token_id(token: str) -> str:
    """Derive the public id of an API token, 16 hex digits; the way back does not exist. Any text has one."""
    return hashlib.sha256(_API_TOKEN_ID_DOMAIN + token.encode("utf-8", "replace")).hexdigest()[:16]
