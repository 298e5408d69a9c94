"""An age file in pieces: it opens as in one piece, however it is cut, and no change of it goes unseen."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.age import (
    CHUNK_BYTES,
    MAX_HEADER_BYTES,
    AgeError,
    Identity,
    KeyType,
    NoMatchingIdentity,
    PayloadError,
    StreamOpener,
    check_form,
    encrypt,
    parse_header,
)

_KEYS = {kind: Identity(kind, b"\x01" * 32) for kind in KeyType}
_KEY = _KEYS[KeyType.X25519]
_OTHER = Identity(KeyType.X25519, b"\x02" * 32)
_SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7)


def _open(pieces: list[bytes], *identities: Identity) -> bytes:
    opener = StreamOpener(identities or (_KEY,))
    return b"".join([*map(opener.feed, pieces), opener.close()])


@pytest.mark.parametrize("kind", list(KeyType))
@pytest.mark.parametrize("size", _SIZES)
def test_file_opens_in_pieces_of_every_size(kind: KeyType, size: int) -> None:
    """Also of one byte, within the header, and around the ends of chunks."""
    plain = os.urandom(size)
    blob = encrypt(plain, _KEYS[kind].recipient)
    for piece_bytes in (1 if size < CHUNK_BYTES else 1000, CHUNK_BYTES, CHUNK_BYTES + 16, len(blob)):
        pieces = [blob[start : start + piece_bytes] for start in range(0, len(blob), piece_bytes)]
        assert _open(pieces, _OTHER, _KEYS[kind]) == plain


@given(st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=20))
def test_file_opens_wherever_it_is_cut(cuts: list[int]) -> None:
    """The pieces say nothing."""
    plain = bytes(range(256)) * 800
    blob = encrypt(plain, _KEY.recipient)
    ends = [*sorted(min(cut, len(blob)) for cut in cuts), len(blob)]
    assert _open([blob[start:end] for start, end in zip([0, *ends], ends, strict=False)]) == plain


@pytest.mark.parametrize("size", _SIZES)
def test_file_that_is_cut_or_goes_on_is_refused(size: int) -> None:
    """At the end of a chunk too: the last one is flagged."""
    blob = encrypt(os.urandom(size), _KEY.recipient)
    start = parse_header(blob).length
    ends = {0, 5, start - 1, start, start + 16, start + 17, len(blob) - 1}
    ends |= {start + 16 + count * (CHUNK_BYTES + 16) for count in range(size // CHUNK_BYTES)}
    for end in sorted(ends - {len(blob)}):
        with pytest.raises(AgeError):
            _open([blob[:end]])
    for more in (b"x", bytes(16), bytes(CHUNK_BYTES + 16), blob):
        with pytest.raises(AgeError):
            _open([blob, more])


def test_changed_byte_is_found_before_what_follows_is_given() -> None:
    """Nothing of a chunk that was changed comes out."""
    plain = bytes(3 * CHUNK_BYTES)
    blob = bytearray(encrypt(plain, _KEY.recipient))
    start = parse_header(bytes(blob)).length + 16
    blob[start + CHUNK_BYTES + 16 + 5] ^= 1
    opener = StreamOpener([_KEY])
    assert opener.feed(blob[: start + CHUNK_BYTES + 17]) == bytes(CHUNK_BYTES)
    with pytest.raises(PayloadError):
        opener.feed(blob[start + CHUNK_BYTES + 17 :])


def test_wrong_keys_and_what_is_no_age_file_are_told_apart() -> None:
    """The first can be mended with another key."""
    with pytest.raises(NoMatchingIdentity):
        _open([encrypt(b"hello", _KEY.recipient)], _OTHER)
    for blob in (b"", b"hello", b"age-encryption.org/v1\n", b"\n--- \n" + bytes(100)):
        with pytest.raises(AgeError) as caught:
            _open([blob])
        assert not isinstance(caught.value, NoMatchingIdentity)


def test_header_without_end_is_not_waited_for() -> None:
    """A hostile file fills no memory."""
    opener = StreamOpener([_KEY])
    assert not any(opener.feed(b"x" * CHUNK_BYTES) for _ in range(MAX_HEADER_BYTES // CHUNK_BYTES))
    with pytest.raises(AgeError):
        opener.feed(b"x")


@pytest.mark.parametrize("kind", list(KeyType))
@pytest.mark.parametrize("size", _SIZES)
def test_form_of_a_file_is_seen_from_its_beginning_and_its_size(kind: KeyType, size: int) -> None:
    """A size that no payload has is refused: too short for a tag, say, or a last chunk without a byte."""
    blob = encrypt(bytes(size), _KEYS[kind].recipient)
    head = blob[: parse_header(blob).length]
    assert check_form(head, size_bytes=len(blob))
    for wrong in (len(head), len(head) + 31, len(head) + 16 + CHUNK_BYTES + 16 + 16):
        with pytest.raises(PayloadError):
            check_form(head, size_bytes=wrong)
