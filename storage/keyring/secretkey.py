"""Secret keys of 32 bytes, for what only the server or the holder of an upload's URL opens.

As a recipient of an age file one writes a stanza of a kind of its own, which other programs pass over, as age asks:
they open the file by its other stanzas.

Source: docs/reference/format.md, Envelope, Receipt.
"""

import os
from typing import NoReturn, SupportsIndex

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from storage.age import FILE_KEY_BYTES, AgeError, HeaderError, Stanza, decode_base64, encode_base64
from storage.age.kdf import derive

OWN_KIND = "dropoff-tus"
"""The kind of its stanza."""
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 12, 16
_STANZA_DOMAIN = b"dropoff-tus/own-stanza/v1\n"
_ZERO_NONCE = bytes(_NONCE_BYTES)
"""Right for a key that is derived for one message."""


class SecretKey:
    """A secret key. It shows nothing of itself: no repr, no pickle, no copy."""

    __slots__ = ("_key",)
    key_type = None
    """It goes with recipients of either type: a quantum computer gains nothing on it."""

    def __init__(self, key: bytes) -> None:
        """Take 32 bytes."""
        self._key = key

    def secret_text(self) -> str:
        """Return the key in hex: the secret itself."""
        return self._key.hex()

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap the file key of an age file, under a key derived for this stanza."""
        salt = os.urandom(_SALT_BYTES)
        return Stanza(OWN_KIND, (encode_base64(salt),), self._cipher(salt).encrypt(_ZERO_NONCE, file_key, None))

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Unwrap a file key; None if the stanza is for somebody else.

        Raises:
            HeaderError: The stanza is of this kind and malformed.
        """
        if stanza.kind != OWN_KIND:
            return None
        salt = decode_base64(stanza.args[0]) if len(stanza.args) == 1 else b""
        if len(salt) != _SALT_BYTES or len(stanza.body) != FILE_KEY_BYTES + _TAG_BYTES:
            raise HeaderError("a stanza of a wrong size")
        try:
            return self._cipher(salt).decrypt(_ZERO_NONCE, stanza.body, None)
        except InvalidTag:
            return None

    def _cipher(self, salt: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(derive(self._key, salt=salt, info=_STANZA_DOMAIN))

    def seal(self, plain: bytes) -> bytes:
        """Encrypt a small text: nonce, ciphertext and tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + ChaCha20Poly1305(self._key).encrypt(nonce, plain, None)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt what `seal` returned.

        Raises:
            AgeError: It was changed, or sealed under another key.
        """
        try:
            return ChaCha20Poly1305(self._key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            raise AgeError("it was changed, or is for another key") from None

    def __repr__(self) -> str:
        """Return only the kind."""
        return "SecretKey(redacted)"

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a SecretKey cannot be pickled or copied")
