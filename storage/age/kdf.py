"""HKDF-SHA-256 with 32 bytes of output, the one key derivation of the age format.

Source: C2SP age.md, "Conventions used in this document"; RFC 5869.
"""

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32


def derive(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """Derive a key of 32 bytes.

    Args:
        secret: the input keying material.
        salt: may be empty.
        info: the use of the key.

    Returns:
        The key.
    """
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, info).derive(secret)
