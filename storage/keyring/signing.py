"""The signing key: the key that signs, the keys that only verify, and the text that holds both.

Source: docs/reference/format.md, Keys.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dropoff_tus.errors import KeyMissingError
from storage.keyring.keysource import KeySourceError, read_source

SIGNATURE_BYTES = 64
KEY_BYTES = 32
_SIGNING_WORD, _NEXT_WORD, _RETIRED_WORD = "ed25519-private", "ed25519-next-private", "ed25519-retired-public"


class SigningKey:
    """The Ed25519 key that signs, and the others that only verify.

    Keys have an order, from the oldest retired one to the one that signs; `newer` is only for a rotation.
    """

    def __init__(self, private: bytes | None, retired: Sequence[bytes] = (), newer: Sequence[bytes] = ()) -> None:
        """Take 32 private bytes (None: this machine only verifies), and 32-byte public keys, oldest first."""
        self._private = None if private is None else Ed25519PrivateKey.from_private_bytes(private)
        self.public_bytes = b"" if self._private is None else self._private.public_key().public_bytes_raw()
        self.retired = tuple(retired)
        ordered = [raw for raw in (*retired, self.public_bytes, *newer) if raw]
        self._public_by_id = {key_id(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in ordered}
        self._order = list(self._public_by_id)
        self.id = key_id(self.public_bytes) if self.public_bytes else ""

    def __repr__(self) -> str:
        """Show only the id."""
        return f"SigningKey({self.id or 'verifies only'}, redacted)"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature.

        Raises:
            KeyMissingError: Only public keys are at hand.
        """
        if self._private is None:
            text = "the server's signing key is not here, only public ones; nothing was written"
            raise KeyMissingError(text)
        return self._private.sign(message)

    def verify(self, message: bytes, signature: bytes) -> str | None:
        """Return the id of the key that made the signature, or None."""
        # The newest first: it has signed most of what is read.
        for known_id in reversed(self._order):
            try:
                self._public_by_id[known_id].verify(signature, message)
            except InvalidSignature:
                continue
            return known_id
        return None

    def knows(self, wanted: str) -> bool:
        """Tell whether signatures of that key can be verified."""
        return wanted in self._public_by_id

    def is_older(self, one: str, other: str) -> bool:
        """Tell whether one known key was retired before the other came."""
        return self._order.index(one) < self._order.index(other)


def key_id(public: bytes) -> str:
    """Name a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SigningKeyFile:
    """The text of a signing key: the one that signs, those that only verify, and during a rotation the next one."""

    private: bytes | None = field(repr=False)
    retired: tuple[bytes, ...] = ()
    following: bytes | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> "SigningKeyFile":
        """Read the text.

        Raises:
            KeySourceError: It has a line that is none of these; nothing of it is shown.
        """
        found: dict[str, list[bytes]] = {_SIGNING_WORD: [], _NEXT_WORD: [], _RETIRED_WORD: []}
        for number, line in enumerate(text.split("\n"), start=1):
            word, _, value = line.strip().partition(" ")
            if word in found:
                found[word].append(decode_key(value, "signing-key"))
            elif word and not word.startswith("#"):
                raise KeySourceError(f"line {number} of the signing key is neither a private nor a retired public key")
        if len(found[_SIGNING_WORD]) > 1 or len(found[_NEXT_WORD]) > 1:
            raise KeySourceError(f"the signing key has more than one line `{_SIGNING_WORD}`")
        return cls(
            next(iter(found[_SIGNING_WORD]), None),
            tuple(dict.fromkeys(found[_RETIRED_WORD])),
            next(iter(found[_NEXT_WORD]), None),
        )

    def text(self) -> str:
        """Write it."""
        lines = [f"{_RETIRED_WORD} {encode_key(raw)}" for raw in self.retired]
        if self.private is not None:
            lines.append(f"{_SIGNING_WORD} {encode_key(self.private)}")
        if self.following is not None:
            lines.append(f"{_NEXT_WORD} {encode_key(self.following)}")
        return "\n".join(lines) + "\n"

    def key(self) -> SigningKey:
        """Return the key that this text is."""
        return SigningKey(self.private, self.retired)


def new_signing_key() -> bytes:
    """Return 32 new private bytes."""
    return os.urandom(KEY_BYTES)


def public_of(private: bytes) -> bytes:
    """Return the 32 public bytes of a private signing key."""
    return SigningKey(private).public_bytes


def load_signing_key(source: str) -> SigningKey:
    """Load only the signing key.

    Raises:
        KeySourceError: It cannot be had, or a rotation of it was interrupted.
    """
    found = SigningKeyFile.parse(read_source("signing-key", source))
    if found.following is not None:
        message = "a rotation of the signing key was interrupted; finish it with: dropoff-tus keys rotate --signing"
        raise KeySourceError(message)
    if found.private is None:
        raise KeySourceError(f"the signing key has no line `{_SIGNING_WORD} <base64>`")
    return found.key()


def encode_key(raw: bytes) -> str:
    """Write 32 bytes as they are in key files."""
    return base64.b64encode(raw).decode("ascii")


def decode_key(text: str, name: str) -> bytes:
    """Read 32 bytes of a key file.

    Raises:
        KeySourceError: They are not; the sentence calls the key by its name.
    """
    try:
        # A double click on a key leaves the padding behind.
        raw = base64.b64decode(text.strip().rstrip("=") + "=", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise KeySourceError(f"the {name} is not {KEY_BYTES} bytes of base64")
    return raw
