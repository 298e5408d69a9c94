"""Checksums of one body (Upload-Checksum) and digests of a whole file: algorithms, sizes, running values."""

import hashlib
import hmac
import zlib
from dataclasses import dataclass, field
from typing import Protocol

CHECKSUM_SIZES = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "crc32": 4}
"""Bytes of each Upload-Checksum value, in the order Tus-Checksum-Algorithm lists them."""

DIGEST_SIZES = {"sha256": 32, "sha512": 64, "md5": 16}
"""Bytes of each whole-file digest that a client may give in its metadata."""


class RunningHash(Protocol):
    """The part of `hashlib` objects that we use."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take more bytes in."""
        ...

    def digest(self) -> bytes:
        """Return the value so far."""
        ...


class _Crc32:
    """CRC-32 with the interface of `hashlib`, big-endian as the tus extension's users send it."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def running_hash(algorithm: str) -> RunningHash:
    """Start a hash for one of CHECKSUM_SIZES or DIGEST_SIZES.

    Raises:
        KeyError: The algorithm is not among them.
    """
    if algorithm == "crc32":
        return _Crc32()
    if algorithm not in CHECKSUM_SIZES:
        raise KeyError(algorithm)
    return hashlib.new(algorithm, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class ExpectedChecksum:
    """Upload-Checksum of one body: `digest` has CHECKSUM_SIZES[algorithm] bytes."""

    algorithm: str
    digest: bytes = field(repr=False)

    def matches(self, actual: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.digest, actual)


@dataclass(frozen=True, slots=True)
class ExpectedDigest:
    """A whole-file digest from the metadata: `digest` has DIGEST_SIZES[algorithm] bytes."""

    algorithm: str
    digest: bytes = field(repr=False)

    def matches(self, actual: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.digest, actual)
