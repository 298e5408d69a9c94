"""Whole age files: header, nonce and payload put together.

Segments are written with `SegmentSealer`, and read in any order with `open_header`, `payload_key` and `ChunkOpener`.
Small files go through `encrypt` and `decrypt`.

One rule is stricter than the format: a header with a hybrid stanza and one of another native kind is refused. The
format only asks writers not to do it ("SHOULD NOT"), and old tools open such files, but a file key that is also
wrapped classically is not protected against a quantum computer, whatever its recipients believe.

Source: C2SP age.md, "Encrypted file format".
"""

import os
import re
from collections.abc import Iterable
from typing import Final

from storage.age import hybrid, x25519
from storage.age.errors import AgeError, HeaderError, MixedRecipients, NoMatchingIdentity, PayloadError
from storage.age.header import (
    MAX_HEADER_BYTES,
    MAX_STANZAS,
    Buffer,
    Header,
    Stanza,
    parse_header,
    serialize_header,
    verify_mac,
)
from storage.age.recipients import FILE_KEY_BYTES, Opener, Wrapper
from storage.age.stream import (
    CHUNK_BYTES,
    NONCE_BYTES,
    SEALED_CHUNK_BYTES,
    ChunkOpener,
    ChunkSealer,
    payload_key,
    plain_size,
    sealed_size,
)

_NATIVE: Final = frozenset({x25519.KIND, hybrid.KIND})
_HEADER_END: Final = re.compile(rb"\n--- [^\n]*\n")
# The native kinds that a hybrid stanza must not be found with.
_CLASSICAL: Final = frozenset({x25519.KIND, "scrypt", "p256tag"})


def seal_header(recipients: Wrapper | Iterable[Wrapper], file_key: bytes) -> bytes:
    """Write the header that gives a file key to every recipient.

    Args:
        recipients: one or more, all of one key type; those without one go with any.
        file_key: 16 fresh random bytes, used for one file only.

    Returns:
        The header, without the nonce that follows it.

    Raises:
        MixedRecipients: the recipients are of more than one key type.
        AgeError: there is no recipient.
    """
    everyone = tuple(recipients) if isinstance(recipients, Iterable) else (recipients,)
    if not everyone:
        raise AgeError("no recipient to encrypt to")
    if len({recipient.key_type for recipient in everyone} - {None}) > 1:
        raise MixedRecipients("recipients of different key types in one file")
    return serialize_header((recipient.wrap(file_key) for recipient in everyone), file_key)


class SegmentSealer(ChunkSealer):
    """Seals one age file, in constant memory, under a file key of its own that nothing else ever sees.

    Attributes:
        header: the bytes that come before the first chunk: age header and 16-byte nonce.
    """

    __slots__ = ("header",)

    def __init__(self, recipients: Wrapper | Iterable[Wrapper]) -> None:
        """Draw file key and nonce, and wrap the key.

        Args:
            recipients: one or more, all of one key type; those without one go with any.

        Raises:
            MixedRecipients: the recipients are of more than one key type.
            AgeError: there is no recipient.
        """
        file_key = os.urandom(FILE_KEY_BYTES)
        nonce = os.urandom(NONCE_BYTES)
        self.header = seal_header(recipients, file_key) + nonce
        super().__init__(payload_key(file_key, nonce))


def encrypt(plaintext: Buffer, recipients: Wrapper | Iterable[Wrapper]) -> bytes:
    """Encrypt a small file in memory.

    Args:
        plaintext: any number of bytes.
        recipients: one or more, all of one key type; those without one go with any.

    Returns:
        The age file.

    Raises:
        MixedRecipients: the recipients are of more than one key type.
        AgeError: there is no recipient.
    """
    sealer = SegmentSealer(recipients)
    start = len(sealer.header)
    plain = memoryview(plaintext)
    blob = bytearray(start + sealed_size(plain.nbytes))
    blob[:start] = sealer.header
    out = memoryview(blob)[start:]
    # All but the last chunk, which may be a whole one.
    whole = max(plain.nbytes - 1, 0) // CHUNK_BYTES * CHUNK_BYTES
    written = sealer.seal_chunks(plain[:whole], out)
    sealer.seal_last(plain[whole:], out[written:])
    return bytes(blob)


def open_header(
    head: Buffer, identities: Iterable[Opener], *, max_stanzas: int = MAX_STANZAS, only_native: bool = False
) -> bytes:
    """Unwrap the file key and verify the header.

    Args:
        head: an age file, or at least the whole of its header.
        identities: the keys to try, in order.
        max_stanzas: the number of stanzas to accept.
        only_native: refuse stanzas of any kind but X25519 and hybrid, instead of ignoring them.

    Returns:
        The file key, 16 bytes.

    Raises:
        NoMatchingIdentity: none of the identities fits; another may.
        HeaderError: the header is malformed, or exceeds what was to be accepted.
        HeaderMacError: the header was changed.
        MixedRecipients: the header mixes hybrid and other stanzas.
    """
    header = parse_header(head, max_stanzas=max_stanzas)
    return _unwrap(head, header, identities, only_native=only_native)


def decrypt(
    blob: Buffer,
    identities: Iterable[Opener],
    *,
    max_stanzas: int = MAX_STANZAS,
    only_native: bool = False,
    also: str = "",
) -> bytes:
    """Decrypt a small file in memory; nothing is returned unless all of it verifies.

    Args:
        blob: the age file.
        identities: the keys to try, in order.
        max_stanzas: the number of stanzas to accept.
        only_native: refuse stanzas of any kind but X25519 and hybrid, instead of ignoring them.
        also: a kind of the caller's own that is as good as a native one.

    Returns:
        The plaintext.

    Raises:
        NoMatchingIdentity: none of the identities fits; another may.
        HeaderError: the header is malformed, or exceeds what was to be accepted.
        HeaderMacError: the header was changed.
        MixedRecipients: the header mixes hybrid and other stanzas.
        PayloadError: the payload was changed or cut off, or something was appended.
    """
    header = parse_header(blob, max_stanzas=max_stanzas)
    file_key = _unwrap(blob, header, identities, only_native=only_native, also=also)
    start = header.length + NONCE_BYTES
    data = memoryview(blob)
    opener = ChunkOpener(payload_key(file_key, bytes(data[header.length : start])))
    payload = data[start:]
    plain_size(len(payload))
    last = max(len(payload) - 1, 0) // SEALED_CHUNK_BYTES
    return b"".join(
        opener.open(index, payload[index * SEALED_CHUNK_BYTES : (index + 1) * SEALED_CHUNK_BYTES], last=index == last)
        for index in range(last + 1)
    )


class StreamOpener:
    """Opens an age file that comes in pieces, in constant memory.

    Every byte that it gives is what the writer sealed. That there are no more of them is known when `close` returns.
    """

    __slots__ = ("_identities", "_index", "_opener", "_waiting")

    def __init__(self, identities: Iterable[Opener]) -> None:
        """Take the keys to try, in order."""
        self._identities = tuple(identities)
        self._waiting = bytearray()
        self._opener: ChunkOpener | None = None
        self._index = 0

    def feed(self, piece: Buffer) -> bytes:
        """Take the next bytes of the file; returns what can be opened by now.

        Raises:
            AgeError: as `decrypt`.
        """
        self._waiting += piece
        if self._opener is None and not self._begin():
            return b""
        opened = []
        # One byte more, or it may be the last chunk, which is opened as such.
        while len(self._waiting) > SEALED_CHUNK_BYTES:
            opened.append(self._open(SEALED_CHUNK_BYTES, last=False))
        return b"".join(opened)

    def close(self) -> bytes:
        """Return the end of the file, and that it is the end.

        Raises:
            AgeError: as `decrypt`.
        """
        if self._opener is None:
            open_header(self._waiting, self._identities)
            raise PayloadError("the file is cut short")
        return self._open(len(self._waiting), last=True)

    def _begin(self) -> bool:
        """Open the header once it is whole."""
        end = _HEADER_END.search(self._waiting)
        if (end is None or len(self._waiting) < end.end() + NONCE_BYTES) and len(self._waiting) <= MAX_HEADER_BYTES:
            return False
        file_key = open_header(self._waiting, self._identities)
        start = parse_header(self._waiting).length + NONCE_BYTES
        self._opener = ChunkOpener(payload_key(file_key, bytes(self._waiting[start - NONCE_BYTES : start])))
        del self._waiting[:start]
        return True

    def _open(self, size_bytes: int, *, last: bool) -> bytes:
        assert self._opener is not None  # noqa: S101 - both callers have begun
        plain = self._opener.open(self._index, bytes(self._waiting[:size_bytes]), last=last)
        del self._waiting[:size_bytes]
        self._index += 1
        return plain


def check_form(
    blob: Buffer, *, max_stanzas: int = MAX_STANZAS, size_bytes: int | None = None, also: str = ""
) -> list[str]:
    """See, without a key, that a file has the form of one to X25519 or hybrid recipients.

    Args:
        blob: the age file, or at least the whole of its header.
        max_stanzas: the number of stanzas to accept.
        size_bytes: the size of the file, where blob is only its beginning.
        also: a kind of the caller's own that is as good as a native one.

    Returns:
        The kind of each stanza.

    Raises:
        HeaderError: the header is malformed, has more stanzas, or one of another kind.
        MixedRecipients: the header mixes hybrid and other stanzas.
        PayloadError: no payload has that size.
    """
    header = parse_header(blob, max_stanzas=max_stanzas)
    _check_kinds(header.stanzas, only_native=True, also=also)
    plain_size((memoryview(blob).nbytes if size_bytes is None else size_bytes) - header.length - NONCE_BYTES)
    return [stanza.kind for stanza in header.stanzas]


def _unwrap(head: Buffer, header: Header, identities: Iterable[Opener], *, only_native: bool, also: str = "") -> bytes:
    """Find the stanza that an identity opens, and verify the MAC with what is in it."""
    _check_kinds(header.stanzas, only_native=only_native, also=also)
    for identity in identities:
        for stanza in header.stanzas:
            file_key = identity.unwrap(stanza)
            if file_key is not None:
                # A wrong MAC ends it: the key fits, so no other one can do better.
                verify_mac(head, header, file_key)
                return file_key
    raise NoMatchingIdentity("no identity opens this file")


def _check_kinds(stanzas: Iterable[Stanza], *, only_native: bool, also: str) -> None:
    """Refuse stanzas that must not be here, before any of them is tried."""
    kinds = {stanza.kind for stanza in stanzas} - {also}
    if only_native and not kinds <= _NATIVE:
        raise HeaderError("a stanza that is neither X25519 nor hybrid")
    if hybrid.KIND in kinds and kinds & _CLASSICAL:
        raise MixedRecipients("hybrid and other stanzas in one header")
