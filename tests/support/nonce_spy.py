"""A witness at the cipher: every (key, nonce) pair that the store seals with is seen, and none may come twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from storage.age import stream, x25519


class NonceRepeated(AssertionError):  # noqa: N818 - it is what the test is about
    """A key sealed twice with one nonce: both plaintexts are given away."""


class NonceSpy:
    """All pairs seen so far; several threads may seal."""

    def __init__(self) -> None:
        """Begin with none."""
        self.pairs: set[tuple[bytes, bytes]] = set()

    def note(self, key: bytes, nonce: bytes) -> None:
        """Note a pair, before it is used.

        Raises:
            NonceRepeated: It was used before.
        """
        before = len(self.pairs)
        self.pairs.add((bytes(key), bytes(nonce)))
        if len(self.pairs) == before:
            raise NonceRepeated

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Stand between `storage.age` and the real cipher, which goes on doing the work."""
        spy = self

        class Watched:
            def __init__(self, key: bytes) -> None:
                self._key, self._real = bytes(key), ChaCha20Poly1305(key)

            def encrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
                spy.note(self._key, nonce)
                return self._real.encrypt(nonce, data, associated)

            def encrypt_into(self, nonce: bytes, data: memoryview, associated: bytes | None, out: memoryview) -> int:
                spy.note(self._key, nonce)
                return self._real.encrypt_into(nonce, data, associated, out)

            def decrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
                return self._real.decrypt(nonce, data, associated)

        with patch.object(stream, "ChaCha20Poly1305", Watched), patch.object(x25519, "ChaCha20Poly1305", Watched):
            yield
