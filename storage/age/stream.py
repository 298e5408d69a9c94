"""The payload of an age file: chunks of 64 KiB under ChaCha20-Poly1305.

A chunk's nonce is an 11-byte big-endian counter and a flag: 1 for the last chunk, 0 for every other. Counter and flag
make a swapped, dropped or cut-off chunk as visible as a changed one. The key is used for one payload only, so a counter
from zero never repeats a nonce.

Source: C2SP age.md, "Payload".
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from storage.age import kdf
from storage.age.errors import HeaderError, PayloadError
from storage.age.header import Buffer

CHUNK_BYTES: Final = 64 * 1024
TAG_BYTES: Final = 16
SEALED_CHUNK_BYTES: Final = CHUNK_BYTES + TAG_BYTES
NONCE_BYTES: Final = 16
_COUNTER_BYTES: Final = 11


def payload_key(file_key: bytes, nonce: bytes) -> bytes:
    """Derive the key of one payload.

    Args:
        file_key: 16 bytes.
        nonce: the 16 bytes between header and payload.

    Returns:
        32 bytes.

    Raises:
        HeaderError: the nonce is cut short, which the format's test vectors count as a fault of the header.
    """
    if len(nonce) != NONCE_BYTES:
        raise HeaderError("the payload nonce is not 16 bytes")
    return kdf.derive(file_key, salt=nonce, info=b"payload")


def sealed_size(plain_bytes: int) -> int:
    """Return the size in bytes of the payload (without nonce) that holds `plain_bytes`."""
    chunks = max(1, -(-plain_bytes // CHUNK_BYTES))
    return plain_bytes + chunks * TAG_BYTES


def plain_size(sealed_bytes: int) -> int:
    """Return how many plaintext bytes a payload (without nonce) of this size holds.

    Raises:
        PayloadError: no payload has this size; its end was cut off, or something was appended.
    """
    chunks = max(1, -(-sealed_bytes // SEALED_CHUNK_BYTES))
    plain = sealed_bytes - chunks * TAG_BYTES
    # Only the single chunk of an empty payload may be empty.
    if plain < 0 or sealed_size(plain) != sealed_bytes:
        raise PayloadError("the payload has an impossible length")
    return plain


class ChunkSealer:
    """Seals one payload, chunk after chunk, from caller's buffer to caller's buffer.

    It holds back nothing: the caller passes chunks to `seal_chunks` once it knows that another one follows, and the
    final one to `seal_last`. One thread at a time.
    """

    __slots__ = ("_aead", "_closed", "_next_index")

    def __init__(self, key: bytes) -> None:
        """Start at chunk 0 of a payload.

        Args:
            key: the payload key, 32 bytes, never used before.
        """
        self._aead = ChaCha20Poly1305(key)
        self._next_index = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the last chunk was sealed."""
        return self._closed

    def seal_chunks(self, plain: memoryview, out: memoryview) -> int:
        """Seal whole chunks, none of which is the last of the payload.

        Args:
            plain: bytes, a multiple of 65,536 of them (none is allowed).
            out: room for 65,552 bytes for each chunk; must not overlap `plain`.

        Returns:
            The number of bytes written to `out`.

        Raises:
            ValueError: a buffer has the wrong size; nothing was sealed.
            RuntimeError: the last chunk was sealed before.
        """
        count, rest = divmod(plain.nbytes, CHUNK_BYTES)
        if rest:
            raise ValueError("not a whole number of chunks")
        written = count * SEALED_CHUNK_BYTES
        first = self._claim(count, room_bytes=out.nbytes, needed_bytes=written)
        encrypt_into = self._aead.encrypt_into
        start = into = 0
        for index in range(first, first + count):
            stop, onto = start + CHUNK_BYTES, into + SEALED_CHUNK_BYTES
            encrypt_into(_nonce(index, last=False), plain[start:stop], None, out[into:onto])
            start, into = stop, onto
        return written

    def seal_last(self, plain: memoryview, out: memoryview) -> int:
        """Seal the last chunk; nothing can be sealed after it.

        Args:
            plain: 1 to 65,536 bytes; none only if it is the only chunk.
            out: room for 16 bytes more than `plain`; must not overlap it.

        Returns:
            The number of bytes written to `out`.

        Raises:
            ValueError: a buffer has the wrong size; nothing was sealed.
            RuntimeError: the last chunk was sealed before.
        """
        size = plain.nbytes
        if size > CHUNK_BYTES:
            raise ValueError("more than one chunk")
        if size == 0 and self._next_index:
            raise ValueError("only the one chunk of an empty payload may be empty")
        written = size + TAG_BYTES
        index = self._claim(1, room_bytes=out.nbytes, needed_bytes=written)
        self._closed = True
        return self._aead.encrypt_into(_nonce(index, last=True), plain, None, out[:written])

    def _claim(self, count: int, *, room_bytes: int, needed_bytes: int) -> int:
        """Take the next indexes, before they are used: a failed call must not leave a nonce to be used twice."""
        if self._closed:
            raise RuntimeError("the last chunk was sealed already")
        if room_bytes < needed_bytes:
            raise ValueError("the output buffer is too small")
        first = self._next_index
        self._next_index += count
        return first


class ChunkOpener:
    """Opens the chunks of one payload in any order; several threads may share it."""

    __slots__ = ("_aead",)

    def __init__(self, payload_key: bytes) -> None:
        """Use a key from `payload_key`, 32 bytes."""
        self._aead = ChaCha20Poly1305(payload_key)

    def open(self, index: int, ciphertext: Buffer, *, last: bool) -> bytes:
        """Open one chunk.

        Args:
            index: the chunk's place in the payload, from 0.
            ciphertext: the whole sealed chunk, 16 to 65,552 bytes.
            last: whether it is the last one. A reader that gets this wrong sees tampering, so a length that
                decides it should itself be authenticated, or the last chunk be opened first.

        Returns:
            The plaintext.

        Raises:
            PayloadError: this is not the chunk that was sealed at this place.
        """
        size = len(ciphertext) - TAG_BYTES
        if size < 0 or size > CHUNK_BYTES or (not last and size != CHUNK_BYTES) or (size == 0 and index):
            raise PayloadError(f"chunk {index} has a wrong length")
        try:
            return self._aead.decrypt(_nonce(index, last=last), ciphertext, None)
        except InvalidTag:
            raise PayloadError(f"chunk {index} was changed, moved or cut off") from None


def _nonce(index: int, *, last: bool) -> bytes:
    """Return a chunk's 12-byte nonce."""
    return index.to_bytes(_COUNTER_BYTES, "big") + (b"\1" if last else b"\0")
