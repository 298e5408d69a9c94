"""Age identities and recipients of the roots, and the key that opens an upload's receipt.

Source: docs/reference/format.md, Keys, Receipt.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from dropoff_tus.text import decode_text
from storage.age import AgeError, Identity, KeyType, Recipient, parse_identity_file
from storage.age.kdf import derive
from storage.keyring.keysource import KeySourceError, write_owner_only
from storage.keyring.secretkey import SecretKey

MAX_RECIPIENTS = 16
"""More, with all the metadata a client may send, would not fit into an envelope."""
_RECEIPT_DOMAIN = b"dropoff-tus/receipt-key/v1\n"


def receipt_key(token: str) -> SecretKey:
    """Derive, from an upload's token, the key that opens its receipt.

    Source: docs/reference/format.md, Receipt.
    """
    return SecretKey(derive(token.encode("ascii"), salt=b"", info=_RECEIPT_DOMAIN))


@functools.lru_cache(maxsize=256)
def parse_recipient(text: str) -> Recipient:
    """Parse a recipient once; a hybrid one costs milliseconds.

    Raises:
        KeySourceError: It is none; the sentence says what one looks like.
    """
    try:
        return Recipient.parse(text.strip())
    except AgeError as error:
        raise KeySourceError(f"{error}; a recipient starts with age1 (X25519) or age1pq1 (hybrid)") from None


def roots_hash(recipients: Sequence[str]) -> str:
    """Name a list of recipients, in whatever order: hex SHA-256 of the sorted texts, joined by LF."""
    return hashlib.sha256("\n".join(sorted(recipients)).encode()).hexdigest()


def check_recipients(texts: Sequence[str]) -> None:
    """Refuse a list that one envelope cannot be for.

    Raises:
        KeySourceError: It has something else in it, mixes key types, or is too long.
    """
    if len({parse_recipient(text).key_type for text in texts}) > 1:
        raise KeySourceError("all recipients must be of one type: age1… (X25519) or age1pq1… (hybrid)")
    if len(texts) > MAX_RECIPIENTS:
        message = f"at most {MAX_RECIPIENTS} recipients; of a larger circle give one identity to several people"
        raise KeySourceError(message)


def parse_identities(texts: Sequence[str]) -> list[Identity]:
    """Parse age identities.

    Raises:
        KeySourceError: One of them is none.
    """
    try:
        return [Identity.parse(text.strip()) for text in texts]
    except AgeError as error:
        raise KeySourceError(str(error)) from None


def read_identity_file(path: Path) -> list[str]:
    """Return the identities in a file that an operator names, as text.

    Raises:
        KeySourceError: The file cannot be read, or holds something else.
    """
    try:
        return [identity.secret_text() for identity in parse_identity_file(decode_text(path.read_bytes()))]
    except OSError as error:
        message = f"cannot read the identity file {path}: {error.strerror}"
    except AgeError as error:
        message = f"{path}: {error}"
    except ValueError as error:
        message = f"{path} {error}"
    raise KeySourceError(message)


def new_root_identity(key_type: str) -> tuple[str, str]:
    """Make a root identity; return the text of its file, and its recipient."""
    identity = Identity.generate(KeyType(key_type))
    text = f"# dropoff-tus root identity: opens every upload. Keep it off the server.\n{identity.secret_text()}\n"
    return text, str(identity.recipient)


def generate_root_identity(path: Path, key_type: str) -> str:
    """Make a root identity in a new file only for its owner, and return its recipient."""
    text, recipient = new_root_identity(key_type)
    write_owner_only(path, text)
    return recipient
