"""The payload: sizes, chunk borders, and every way to use the sealer wrongly."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from storage import age
from storage.age import CHUNK_BYTES, SEALED_CHUNK_BYTES, TAG_BYTES, ChunkOpener, ChunkSealer

_KEY = bytes(range(32))


def _seal(plain: bytes) -> bytes:
    """Seal a payload under the test key."""
    sealer = ChunkSealer(_KEY)
    whole = max(len(plain) - 1, 0) // CHUNK_BYTES * CHUNK_BYTES
    out = memoryview(bytearray(age.sealed_size(len(plain))))
    written = sealer.seal_chunks(memoryview(plain)[:whole], out)
    written += sealer.seal_last(memoryview(plain)[whole:], out[written:])
    assert written == len(out)
    return bytes(out)


@pytest.mark.parametrize(
    ("plain", "sealed"),
    [
        (0, 16),
        (1, 17),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 15),
        (CHUNK_BYTES, CHUNK_BYTES + 16),
        (CHUNK_BYTES + 1, CHUNK_BYTES + 33),
        (2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 32),
        (1000 * CHUNK_BYTES + 5, 1000 * CHUNK_BYTES + 5 + 1001 * 16),
    ],
)
def test_sizes_at_chunk_borders_are_exact(plain: int, sealed: int) -> None:
    """One tag for each chunk begun, and one for the empty payload."""
    assert age.sealed_size(plain) == sealed
    assert age.plain_size(sealed) == plain


@pytest.mark.parametrize(
    "sealed", [0, 1, 15, SEALED_CHUNK_BYTES + 1, SEALED_CHUNK_BYTES + 16, 2 * SEALED_CHUNK_BYTES + 9]
)
def test_plain_size_of_an_impossible_size_raises(sealed: int) -> None:
    """A last chunk without content, or less than a tag, exists only where something was cut off or added."""
    with pytest.raises(age.PayloadError):
        age.plain_size(sealed)


@given(st.integers(min_value=0, max_value=2**60))
def test_plain_size_inverts_sealed_size(plain: int) -> None:
    """Either size tells the other."""
    assert age.plain_size(age.sealed_size(plain)) == plain


def test_seal_chunks_in_parts_equals_all_at_once() -> None:
    """How many chunks a call takes leaves no trace in the bytes."""
    plain = memoryview(bytes(range(256)) * 256 * 5)
    sealer = ChunkSealer(_KEY)
    out = memoryview(bytearray(age.sealed_size(plain.nbytes)))
    at = 0
    for first, count in ((0, 1), (1, 0), (1, 3)):
        at += sealer.seal_chunks(plain[first * CHUNK_BYTES : (first + count) * CHUNK_BYTES], out[at:])
    states = [sealer.closed]
    sealer.seal_last(plain[4 * CHUNK_BYTES :], out[at:])
    assert [*states, sealer.closed] == [False, True]
    assert bytes(out) == _seal(bytes(plain))


def test_seal_after_last_raises_and_writes_nothing() -> None:
    """A payload that was closed stays closed."""
    sealer = ChunkSealer(_KEY)
    out = memoryview(bytearray(SEALED_CHUNK_BYTES))
    sealer.seal_last(memoryview(b"end"), out)
    before = bytes(out)
    with pytest.raises(RuntimeError):
        sealer.seal_last(memoryview(b"end"), out)
    with pytest.raises(RuntimeError):
        sealer.seal_chunks(memoryview(bytes(CHUNK_BYTES)), out)
    assert bytes(out) == before


def test_seal_wrong_buffer_sizes_raise_and_take_no_index() -> None:
    """A refused call changes nothing: the next right one goes on where the last right one ended."""
    chunk = memoryview(bytes(CHUNK_BYTES))
    out = memoryview(bytearray(SEALED_CHUNK_BYTES))
    sealer = ChunkSealer(_KEY)
    sealer.seal_chunks(chunk, out)
    for plain, room in ((chunk[:-1], out), (chunk, out[:-1])):
        with pytest.raises(ValueError, match=r"chunks|buffer"):
            sealer.seal_chunks(plain, room)
    for plain, room in ((memoryview(bytes(CHUNK_BYTES + 1)), out), (chunk[:9], out[:24]), (chunk[:0], out)):
        with pytest.raises(ValueError, match=r"chunk|buffer"):
            sealer.seal_last(plain, room)
    assert not sealer.closed
    written = sealer.seal_last(chunk[:9], out)
    assert ChunkOpener(_KEY).open(1, out[:written], last=True) == bytes(9)


def test_open_any_order_gives_each_chunk() -> None:
    """Chunks are opened one by one, wherever they stand."""
    plain = b"a" * CHUNK_BYTES + b"b" * CHUNK_BYTES + b"c"
    sealed = _seal(plain)
    opener = ChunkOpener(_KEY)
    for index in (2, 0, 1):
        part = memoryview(sealed)[index * SEALED_CHUNK_BYTES : (index + 1) * SEALED_CHUNK_BYTES]
        assert opener.open(index, part, last=index == 2) == plain[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


def test_open_chunk_in_another_place_or_role_raises() -> None:
    """A chunk moved, or a last flag set or cleared, is found by the tag."""
    sealed = _seal(bytes(2 * CHUNK_BYTES))
    first, second = sealed[:SEALED_CHUNK_BYTES], sealed[SEALED_CHUNK_BYTES:]
    opener = ChunkOpener(_KEY)
    for index, part, last in ((1, first, False), (0, second, True), (0, first, True), (1, second, False)):
        with pytest.raises(age.PayloadError):
            opener.open(index, part, last=last)


@pytest.mark.parametrize(
    ("index", "size", "last"),
    [
        (0, 0, True),
        (0, TAG_BYTES - 1, True),
        (1, TAG_BYTES, True),
        (0, SEALED_CHUNK_BYTES - 1, False),
        (0, SEALED_CHUNK_BYTES + 1, False),
        (0, SEALED_CHUNK_BYTES + 1, True),
    ],
)
def test_open_chunk_of_a_wrong_length_raises(index: int, size: int, last: bool) -> None:
    """A length that no chunk has at this place is refused before any key is used, by its own message."""
    with pytest.raises(age.PayloadError, match="length"):
        ChunkOpener(_KEY).open(index, bytes(size), last=last)


def test_open_empty_chunk_sealed_after_another_raises() -> None:
    """The format forbids an empty last chunk after others, also a genuine one."""
    # Made with the cipher itself, because our sealer refuses to.
    tag = ChaCha20Poly1305(_KEY).encrypt(bytes(10) + b"\1\1", b"", None)
    with pytest.raises(age.PayloadError, match="length"):
        ChunkOpener(_KEY).open(1, tag, last=True)


def test_payload_key_cut_nonce_raises() -> None:
    """A file that ends within the nonce is no age file."""
    with pytest.raises(age.HeaderError):
        age.payload_key(bytes(16), bytes(15))
