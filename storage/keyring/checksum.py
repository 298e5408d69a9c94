"""A checksum with no key that is quick: GMAC under a key and a nonce of zeros, which everybody knows.

It finds what a medium or a copy does to bytes, at a quarter of the cost of a hash. Whoever wants to can make other
bytes of the same checksum.

Source: docs/reference/format.md, Segment; NIST SP 800-38D.
"""

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import GCM

_KEY, _NONCE = bytes(16), bytes(12)


class Checksum:
    """A running checksum."""

    def __init__(self) -> None:
        """Begin with no byte."""
        self._mac = Cipher(AES128(_KEY), GCM(_NONCE)).encryptor()

    def update(self, data: bytes | memoryview) -> None:
        """Take the bytes that follow."""
        self._mac.authenticate_additional_data(data)

    def hexdigest(self) -> str:
        """End it; return its 32 hex digits."""
        self._mac.finalize()
        return self._mac.tag.hex()
