"""The X25519 recipient type.

Source: C2SP age.md, "The X25519 recipient type"; RFC 7748, sections 5 and 6.1.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from storage.age import kdf
from storage.age.errors import HeaderError, KeyTextError
from storage.age.header import Stanza, decode_base64, encode_base64

KIND: Final = "X25519"
POINT_BYTES: Final = 32
WRAPPED_BYTES: Final = 32  # a file key of 16 bytes and a tag of 16

_INFO: Final = b"age-encryption.org/v1/X25519"
# Fixed is right here: the wrap key is derived for every stanza and seals one message.
_ZERO_NONCE: Final = bytes(12)

_PRIME: Final = 2**255 - 19
_TOP_BIT: Final = 1 << 255
# The u-coordinates of the points whose order divides 8, on the curve and on its twist. Multiplied by any private key
# they give zero, a secret that everybody knows. https://cr.yp.to/ecdh.html, "How do I validate Curve25519 public keys?"
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _PRIME - 1,
    }
)


def has_small_order(point: bytes) -> bool:
    """Return whether 32 bytes, read as RFC 7748 says (top bit ignored, modulo the prime), give a zero secret."""
    return int.from_bytes(point, "little") % _TOP_BIT % _PRIME in _SMALL_ORDER


def check_public_point(point: bytes) -> None:
    """Refuse a public key that protects nothing, or for which nothing could be opened again.

    A second encoding of a point (top bit set, or not below the prime) is a usable key for X25519, but age mixes the
    bytes of the recipient into the wrap key, and an identity only ever knows the first encoding.

    Raises:
        KeyTextError: the point has small order or is not written canonically.
    """
    if int.from_bytes(point, "little") >= _PRIME:
        raise KeyTextError("an X25519 public key in a form that no identity has")
    if has_small_order(point):
        raise KeyTextError("an X25519 public key of small order")


def encapsulation(stanza: Stanza, size_bytes: int) -> bytes:
    """Return a stanza's one argument, checked as far as that goes without a key; hybrid stanzas have the same form.

    Args:
        stanza: of a kind whose argument ends in an X25519 share.
        size_bytes: the length of the argument, decoded.

    Raises:
        HeaderError: the stanza is malformed, or its share has small order; the whole file is to be refused.
    """
    if len(stanza.args) != 1:
        raise HeaderError("a stanza with more or less than one argument after its type")
    share = decode_base64(stanza.args[0])
    # The length of the body is checked before any key touches it: against partitioning oracles.
    if len(share) != size_bytes or len(stanza.body) != WRAPPED_BYTES:
        raise HeaderError("a stanza of a wrong size")
    # HPKE reports this and a foreign key by the same exception, so it is checked before.
    if has_small_order(share[-POINT_BYTES:]):
        raise HeaderError("a stanza with a share of small order")
    return share


class PublicKey:
    """A parsed X25519 recipient."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        """Check and parse 32 bytes.

        Raises:
            KeyTextError: they are not a key to encrypt to.
        """
        if len(raw) != POINT_BYTES:
            raise KeyTextError("an X25519 public key is 32 bytes")
        check_public_point(raw)
        self.raw = raw
        self._key = X25519PublicKey.from_public_bytes(raw)

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap a file key of 16 bytes under a fresh ephemeral key."""
        ephemeral = X25519PrivateKey.generate()
        share = ephemeral.public_key().public_bytes_raw()
        wrap_key = kdf.derive(ephemeral.exchange(self._key), salt=share + self.raw, info=_INFO)
        body = ChaCha20Poly1305(wrap_key).encrypt(_ZERO_NONCE, file_key, None)
        return Stanza(KIND, (encode_base64(share),), body)


class PrivateKey:
    """A parsed X25519 identity."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        """Take a scalar of 32 bytes."""
        self._key = X25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Unwrap a file key; None if the stanza is for somebody else.

        Raises:
            HeaderError: the stanza is of this type and malformed.
        """
        if stanza.kind != KIND:
            return None
        share = encapsulation(stanza, POINT_BYTES)
        secret = self._key.exchange(X25519PublicKey.from_public_bytes(share))
        wrap_key = kdf.derive(secret, salt=share + self.public.raw, info=_INFO)
        try:
            return ChaCha20Poly1305(wrap_key).decrypt(_ZERO_NONCE, stanza.body, None)
        except InvalidTag:
            return None
