"""Recipients and identities: age's words for public and private keys.

Parsing a key is far dearer than using it (a hybrid recipient is 1,959 characters), so both classes keep the parsed key
and are meant to be kept themselves. Both may be shared by threads.

Source: C2SP age.md, "Native recipient types".
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final, NoReturn, Protocol, Self, SupportsIndex

from storage.age import bech32, hybrid, kdf, x25519
from storage.age.errors import KeyTextError
from storage.age.header import Stanza

SEED_BYTES: Final = 32
FILE_KEY_BYTES: Final = 16


class KeyType(StrEnum):
    """The kinds of key that the store uses."""

    X25519 = "x25519"
    HYBRID = "hybrid"


class _PublicKey(Protocol):
    """The abilities of each kind of public key."""

    raw: bytes

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap a file key."""
        ...


class _PrivateKey(Protocol):
    """The abilities of each kind of private key."""

    @property
    def public(self) -> _PublicKey:
        """The public key."""
        ...

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Unwrap a file key, or return None."""
        ...


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How one kind of key is written and made."""

    recipient_prefix: str
    identity_prefix: str
    public_key: Callable[[bytes], _PublicKey]
    private_key: Callable[[bytes], _PrivateKey]


_SCHEMES: Final = {
    KeyType.X25519: _Scheme("age", "AGE-SECRET-KEY-", x25519.PublicKey, x25519.PrivateKey),
    KeyType.HYBRID: _Scheme("age1pq", "AGE-SECRET-KEY-PQ-", hybrid.PublicKey, hybrid.PrivateKey),
}
_BY_RECIPIENT_PREFIX: Final = {scheme.recipient_prefix: kind for kind, scheme in _SCHEMES.items()}
_BY_IDENTITY_PREFIX: Final = {scheme.identity_prefix: kind for kind, scheme in _SCHEMES.items()}


class Wrapper(Protocol):
    """Whoever a file can be encrypted to: a recipient, or a secret key of the caller's own."""

    @property
    def key_type(self) -> KeyType | None:
        """The kind of key; None for one that may stand beside any."""
        ...

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap a file key."""
        ...


class Opener(Protocol):
    """Whoever may open a file: an identity, or a secret key of the caller's own."""

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Unwrap a file key; None where the stanza is for somebody else."""
        ...


class Recipient:
    """A public key to encrypt to; equal to every other with the same key, immutable, hashable."""

    def __init__(self, key_type: KeyType, key: _PublicKey) -> None:
        """Keep a parsed key; use `parse` or `from_public_bytes`."""
        self._key_type = key_type
        self._key = key

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `age1…` or `age1pq1…`.

        Args:
            text: exactly the recipient, without white space around it.

        Returns:
            The recipient.

        Raises:
            KeyTextError: it is not a recipient of a kind that the store uses. The message does not contain the text,
                which may be a secret key in the wrong place.
        """
        prefix, raw = bech32.decode(text)
        key_type = _BY_RECIPIENT_PREFIX.get(prefix)
        if key_type is None:
            raise KeyTextError("not an age recipient (age1… or age1pq1…)")
        return cls.from_public_bytes(key_type, raw)

    @classmethod
    def from_public_bytes(cls, key_type: KeyType, raw: bytes) -> Self:
        """Make a recipient from the bytes of its key.

        Args:
            key_type: the kind of key.
            raw: 32 bytes (X25519) or 1,216 (hybrid: ML-KEM-768, then X25519).

        Returns:
            The recipient.

        Raises:
            KeyTextError: the bytes are not a key to encrypt to.
        """
        return cls(key_type, _SCHEMES[key_type].public_key(raw))

    @property
    def key_type(self) -> KeyType:
        """The kind of key."""
        return self._key_type

    @property
    def public_bytes(self) -> bytes:
        """The key: 32 bytes (X25519) or 1,216 (hybrid)."""
        return self._key.raw

    @cached_property
    def _text(self) -> str:
        """The Bech32 text."""
        return bech32.encode(_SCHEMES[self._key_type].recipient_prefix, self._key.raw)

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap a file key for this recipient.

        Args:
            file_key: 16 bytes.

        Returns:
            A stanza that differs every time.

        Raises:
            ValueError: the file key is not 16 bytes.
        """
        if len(file_key) != FILE_KEY_BYTES:
            raise ValueError("a file key is 16 bytes")
        return self._key.wrap(file_key)

    def __str__(self) -> str:
        """Return the Bech32 text, made on first use."""
        return self._text

    def __repr__(self) -> str:
        """Return the kind and the start of the key, enough to tell two apart."""
        return f"Recipient({self._key_type.value}, {self._key.raw[:8].hex()}…)"

    def __eq__(self, other: object) -> bool:
        """Compare kind and key."""
        if not isinstance(other, Recipient):
            return NotImplemented
        return self._key_type is other._key_type and self._key.raw == other._key.raw

    def __hash__(self) -> int:
        """Hash kind and key."""
        return hash((self._key_type, self._key.raw))


class Identity:
    """A private key. It shows nothing of itself: no repr, no pickle, no copy."""

    __slots__ = ("_key", "_key_type", "_recipient", "_seed")

    def __init__(self, key_type: KeyType, seed: bytes) -> None:
        """Make an identity from its 32 bytes.

        Args:
            key_type: the kind of key.
            seed: 32 secret bytes: fresh from the system, or derived from a secret that is itself random.

        Raises:
            KeyTextError: the seed is not 32 bytes.
        """
        if len(seed) != SEED_BYTES:
            raise KeyTextError("an identity is made of 32 bytes")
        self._key_type = key_type
        self._seed = seed
        self._key = _SCHEMES[key_type].private_key(seed)
        self._recipient = Recipient(key_type, self._key.public)

    @classmethod
    def generate(cls, key_type: KeyType) -> Self:
        """Make a new identity from the system's random source."""
        return cls(key_type, os.urandom(SEED_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `AGE-SECRET-KEY-1…` or `AGE-SECRET-KEY-PQ-1…`.

        Args:
            text: exactly the identity, without white space around it.

        Returns:
            The identity.

        Raises:
            KeyTextError: it is not an identity of a kind that the store uses. The message does not contain the text.
        """
        prefix, seed = bech32.decode(text)
        key_type = _BY_IDENTITY_PREFIX.get(prefix)
        if key_type is None:
            raise KeyTextError("not an age identity (AGE-SECRET-KEY-1… or AGE-SECRET-KEY-PQ-1…)")
        return cls(key_type, seed)

    @property
    def key_type(self) -> KeyType:
        """The kind of key."""
        return self._key_type

    @property
    def recipient(self) -> Recipient:
        """The recipient that this identity opens."""
        return self._recipient

    def secret_text(self) -> str:
        """Return the identity as age writes it: the secret itself."""
        return bech32.encode(_SCHEMES[self._key_type].identity_prefix, self._seed)

    def derived(self, info: bytes) -> bytes:
        """Return 32 secret bytes for another use, which say nothing of the key."""
        return kdf.derive(self._seed, salt=b"", info=info)

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Unwrap a file key.

        Args:
            stanza: any stanza.

        Returns:
            The 16 bytes of the file key, or None if the stanza is not for this identity: try the next.

        Raises:
            HeaderError: the stanza is of this identity's type and malformed; the whole file is to be refused.
        """
        return self._key.unwrap(stanza)

    def __repr__(self) -> str:
        """Return only the kind."""
        return f"Identity({self._key_type.value}, redacted)"

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        """Refuse to be pickled or copied: a secret key leaves through `secret_text` only."""
        raise TypeError("an Identity cannot be pickled or copied")


def parse_identity_file(text: str) -> list[Identity]:
    """Parse an age identity file: an identity on each line, besides comments (`#`) and blank lines.

    Args:
        text: the content of the file.

    Returns:
        The identities in order, at least one.

    Raises:
        KeyTextError: a line is something else, or there is no identity. The message names the line by its number and
            shows nothing of it.
    """
    identities: list[Identity] = []
    # Not `splitlines`, which would also split on form feeds and the like.
    for number, raw_line in enumerate(text.split("\n"), start=1):
        line = raw_line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        try:
            identities.append(Identity.parse(line))
        except KeyTextError as error:
            raise KeyTextError(f"line {number} of the identity file: {_explain(line) or error}") from None
    if not identities:
        raise KeyTextError("the identity file contains no identity")
    return identities


def _explain(line: str) -> str | None:
    """Say what a line is that is plausible in such a file, but cannot be used."""
    if line.startswith("AGE-PLUGIN-"):
        return "identities of plugins cannot be used"
    if line.startswith(("age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE-----")):
        return "the file is protected by a passphrase; decrypt it first"
    if line.startswith("age1"):
        return "this is a recipient (public), not an identity"
    return None
