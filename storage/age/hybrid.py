"""The post-quantum recipient type, ML-KEM-768 with X25519 (X-Wing) through HPKE.

Source: C2SP age.md, "The MLKEM768-X25519 hybrid post-quantum recipient type"; draft-ietf-hpke-pq;
RFC 9180, section 6.1.
"""

import hashlib
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from storage.age import x25519
from storage.age.errors import KeyTextError
from storage.age.header import Stanza, encode_base64

KIND: Final = "mlkem768x25519"
PUBLIC_BYTES: Final = 1184 + 32

_MLKEM_PUBLIC_BYTES: Final = 1184
_MLKEM_SEED_BYTES: Final = 64
_EXPANDED_BYTES: Final = _MLKEM_SEED_BYTES + 32
_ENC_BYTES: Final = 1088 + 32
_INFO: Final = b"age-encryption.org/mlkem768x25519"
_SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


class PublicKey:
    """A parsed hybrid recipient."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        """Check and parse 1,216 bytes, the ML-KEM-768 key and the X25519 key.

        Raises:
            KeyTextError: they are not a key to encrypt to.
        """
        if len(raw) != PUBLIC_BYTES:
            raise KeyTextError("a hybrid public key is 1216 bytes")
        point = raw[_MLKEM_PUBLIC_BYTES:]
        x25519.check_public_point(point)
        try:
            mlkem_key = MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_BYTES])
        except ValueError:
            raise KeyTextError("not an ML-KEM-768 public key") from None
        self.raw = raw
        self._key = hpke.MLKEM768X25519PublicKey(mlkem_key, X25519PublicKey.from_public_bytes(point))

    @classmethod
    def of(cls, mlkem_key: MLKEM768PublicKey, x25519_key: X25519PublicKey) -> Self:
        """Put together the halves of a private key's public key, which need no check."""
        made = cls.__new__(cls)
        made.raw = mlkem_key.public_bytes_raw() + x25519_key.public_bytes_raw()
        made._key = hpke.MLKEM768X25519PublicKey(mlkem_key, x25519_key)  # noqa: SLF001 - its own
        return made

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap a file key of 16 bytes."""
        sealed = _SUITE.encrypt(file_key, self._key, info=_INFO)
        return Stanza(KIND, (encode_base64(sealed[:_ENC_BYTES]),), sealed[_ENC_BYTES:])


class PrivateKey:
    """A parsed hybrid identity."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        """Expand a seed of 32 bytes into both private keys."""
        expanded = hashlib.shake_256(seed).digest(_EXPANDED_BYTES)
        mlkem_key = MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_BYTES])
        x25519_key = X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_BYTES:])
        self._key = hpke.MLKEM768X25519PrivateKey(mlkem_key, x25519_key)
        self.public = PublicKey.of(mlkem_key.public_key(), x25519_key.public_key())

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Unwrap a file key; None if the stanza is for somebody else.

        Raises:
            HeaderError: the stanza is of this type and malformed.
        """
        if stanza.kind != KIND:
            return None
        enc = x25519.encapsulation(stanza, _ENC_BYTES)
        try:
            return _SUITE.decrypt(enc + stanza.body, self._key, info=_INFO)
        except InvalidTag:
            return None
