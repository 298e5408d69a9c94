"""Whole files: refusals before a key is tried, and every way to damage a file."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import age
from storage.age import (
    CHUNK_BYTES,
    FILE_KEY_BYTES,
    NONCE_BYTES,
    SEALED_CHUNK_BYTES,
    ChunkOpener,
    Identity,
    KeyType,
    Recipient,
    SegmentSealer,
    Stanza,
    open_header,
    parse_header,
    payload_key,
)
from storage.age.header import serialize_header

_KEY = b"sixteen byte key"
_X25519 = Identity(KeyType.X25519, b"\x01" * 32)
_OTHER = Identity(KeyType.X25519, b"\x02" * 32)
_HYBRID = Identity(KeyType.HYBRID, b"\x01" * 32)
_BOTH = pytest.mark.parametrize("identity", [_X25519, _HYBRID], ids=["x25519", "hybrid"])
_PATTERN = bytes(range(251)) * 1100  # 4.2 chunks, and no two chunks alike


def _file(stanzas: list[Stanza]) -> bytes:
    """Return an empty age file with these stanzas."""
    head = serialize_header(stanzas, _KEY)
    sealer = age.ChunkSealer(payload_key(_KEY, bytes(NONCE_BYTES)))
    out = memoryview(bytearray(16))
    sealer.seal_last(memoryview(b""), out)
    return head + bytes(NONCE_BYTES) + out


@_BOTH
def test_segment_header_has_the_size_the_store_counts_on(identity: Identity) -> None:
    """Header and nonce take 184 bytes for X25519 and 1,643 for hybrid."""
    sealer = SegmentSealer(identity.recipient)
    assert len(sealer.header) == {KeyType.X25519: 184, KeyType.HYBRID: 1643}[identity.key_type]
    assert parse_header(sealer.header).length == len(sealer.header) - NONCE_BYTES


@_BOTH
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, len(_PATTERN)])
def test_decrypt_encrypted_file_gives_the_plaintext(identity: Identity, size: int) -> None:
    """Sizes on both sides of every border come back whole."""
    blob = age.encrypt(_PATTERN[:size], [identity.recipient])
    assert age.decrypt(blob, [_OTHER, identity]) == _PATTERN[:size]
    assert age.decrypt(memoryview(blob), [identity], max_stanzas=1, only_native=True) == _PATTERN[:size]
    assert len(blob) == len(SegmentSealer(identity.recipient).header) + age.sealed_size(size)


@given(size=st.integers(0, len(_PATTERN)), cuts=st.lists(st.integers(0, 4), max_size=4))
def test_segment_sealer_fed_in_any_parts_is_one_age_file(size: int, cuts: list[int]) -> None:
    """In any batches of data, the bytes are a file that opens as a whole and chunk by chunk."""
    plain = memoryview(_PATTERN)[:size]
    sealer = SegmentSealer([_X25519.recipient])
    out = memoryview(bytearray(age.sealed_size(size)))
    whole = max(size - 1, 0) // CHUNK_BYTES
    at = done = 0
    for stop in (*sorted(min(cut, whole) for cut in cuts), whole):
        at += sealer.seal_chunks(plain[done * CHUNK_BYTES : stop * CHUNK_BYTES], out[at:])
        done = stop
    at += sealer.seal_last(plain[whole * CHUNK_BYTES :], out[at:])
    assert at == out.nbytes
    assert age.decrypt(sealer.header + out, [_X25519]) == plain
    file_key = open_header(sealer.header, [_X25519])
    opener = ChunkOpener(payload_key(file_key, sealer.header[-NONCE_BYTES:]))
    last = opener.open(whole, out[whole * SEALED_CHUNK_BYTES :], last=True)
    assert last == plain[whole * CHUNK_BYTES :]


def test_encrypt_several_recipients_each_opens_it() -> None:
    """One file key, wrapped once for each."""
    blob = age.encrypt(b"for two", [_X25519.recipient, _OTHER.recipient])
    assert len(parse_header(blob).stanzas) == 2
    for identity in (_X25519, _OTHER):
        assert age.decrypt(blob, [identity]) == b"for two"


def test_segment_sealer_never_repeats_a_key_or_nonce() -> None:
    """Each sealer has a file key and a nonce of its own, also among threads."""
    seen: list[tuple[bytes, bytes]] = []

    def work() -> None:
        for _ in range(50):
            header = SegmentSealer(_X25519.recipient).header
            seen.append((open_header(header, [_X25519]), header[-NONCE_BYTES:]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 200
    assert len({key for key, _ in seen}) == len({nonce for _, nonce in seen}) == 200


@pytest.mark.parametrize("recipients", [[_X25519.recipient, _HYBRID.recipient], [_HYBRID.recipient, _OTHER.recipient]])
def test_encrypt_mixed_key_types_raises(recipients: list[Recipient]) -> None:
    """A file is as strong as its weakest stanza, so the kinds are kept apart."""
    for attempt in (lambda: age.encrypt(b"", recipients), lambda: SegmentSealer(recipients)):
        with pytest.raises(age.MixedRecipients):
            attempt()


def test_encrypt_without_recipient_raises() -> None:
    """A file that nobody could open is not made."""
    for attempt in (lambda: age.encrypt(b"", []), lambda: SegmentSealer(()), lambda: age.seal_header([], _KEY)):
        with pytest.raises(age.AgeError):
            attempt()


@pytest.mark.parametrize("kind", ["X25519", "scrypt", "p256tag"])
def test_decrypt_hybrid_stanza_with_a_classical_one_raises(kind: str) -> None:
    """Refused before any key is tried, and also where the classical stanza is for somebody else."""
    blob = _file([_HYBRID.recipient.wrap(_KEY), Stanza(kind, (), b"")])
    for identities in ([_HYBRID], [_X25519], []):
        with pytest.raises(age.MixedRecipients):
            age.decrypt(blob, identities)


@_BOTH
def test_decrypt_unknown_stanza_is_ignored_unless_only_native(identity: Identity) -> None:
    """The format asks readers to ignore what they do not know; an envelope may insist."""
    blob = _file([Stanza("example.com/enigma", ("x",), bytes(99)), identity.recipient.wrap(_KEY)])
    assert age.decrypt(blob, [identity]) == b""
    assert open_header(blob, [identity]) == _KEY
    for attempt in (age.decrypt, open_header):
        with pytest.raises(age.HeaderError, match="neither"):
            attempt(blob, [identity], only_native=True)


def test_decrypt_more_stanzas_than_wanted_raises() -> None:
    """The limit of an envelope: 32 pass, 33 do not."""
    stanzas = [_X25519.recipient.wrap(_KEY) for _ in range(33)]
    assert age.decrypt(_file(stanzas[:32]), [_X25519], max_stanzas=32) == b""
    for attempt in (age.decrypt, open_header):
        with pytest.raises(age.HeaderError, match="32"):
            attempt(_file(stanzas), [_X25519], max_stanzas=32)


@_BOTH
def test_decrypt_wrong_key_is_apart_from_every_other_error(identity: Identity) -> None:
    """Only "wrong key" means that another key is worth trying."""
    blob = age.encrypt(b"private", [identity.recipient])
    for strangers in ([], [Identity(identity.key_type, b"\x09" * 32)], [Identity.generate(kind) for kind in KeyType]):
        with pytest.raises(age.NoMatchingIdentity):
            age.decrypt(blob, strangers)


def test_decrypt_right_key_with_a_wrong_mac_ends_the_search() -> None:
    """A header changed after it was made is not "wrong key"."""
    blob = age.encrypt(b"private", [_X25519.recipient])
    mac_at = blob.index(b"\n--- ") + 5
    changed = blob[:mac_at] + (b"A" if blob[mac_at : mac_at + 1] != b"A" else b"B") + blob[mac_at + 1 :]
    with pytest.raises(age.HeaderMacError):
        age.decrypt(changed, [_X25519, _OTHER])


def test_decrypt_stanza_taken_from_another_file_raises() -> None:
    """A stanza is bound to its header through the file key."""
    foreign = serialize_header([_X25519.recipient.wrap(b"another file key")], _KEY)
    with pytest.raises(age.HeaderMacError):
        open_header(foreign, [_X25519])


@_BOTH
def test_decrypt_file_cut_at_any_byte_raises(identity: Identity) -> None:
    """No part of a file opens: neither within the header nor within the payload."""
    blob = age.encrypt(b"private", [identity.recipient])
    for size in range(len(blob)):
        with pytest.raises((age.HeaderError, age.PayloadError)):
            age.decrypt(blob[:size], [identity])


def test_decrypt_file_cut_around_chunk_borders_raises() -> None:
    """Also where the cut leaves whole chunks, or a whole chunk and an empty one."""
    blob = age.encrypt(_PATTERN, [_X25519.recipient])
    start = len(blob) - age.sealed_size(len(_PATTERN))
    for chunk in range(5):
        for shift in (-17, -16, -1, 0, 1, 15, 16, 17):
            size = start + chunk * SEALED_CHUNK_BYTES + shift
            with pytest.raises((age.HeaderError, age.PayloadError)):
                age.decrypt(blob[:size], [_X25519])


@pytest.mark.parametrize("more", [b"\0", bytes(16), bytes(17), bytes(SEALED_CHUNK_BYTES)])
@pytest.mark.parametrize("size", [0, 5, CHUNK_BYTES, 2 * CHUNK_BYTES])
def test_decrypt_file_with_something_appended_raises(size: int, more: bytes) -> None:
    """Nothing may follow the last chunk."""
    blob = age.encrypt(_PATTERN[:size], [_X25519.recipient])
    with pytest.raises(age.PayloadError):
        age.decrypt(blob + more, [_X25519])


def test_decrypt_chunks_swapped_dropped_or_repeated_raises() -> None:
    """The counter in the nonce holds every chunk in its place."""
    blob = age.encrypt(_PATTERN, [_X25519.recipient])
    start = len(blob) - age.sealed_size(len(_PATTERN))
    head, payload = blob[:start], blob[start:]
    chunks = [payload[at : at + SEALED_CHUNK_BYTES] for at in range(0, len(payload), SEALED_CHUNK_BYTES)]
    assert age.decrypt(head + b"".join(chunks), [_X25519]) == _PATTERN
    for order in ([1, 0, 2, 3, 4], [0, 1, 3, 2, 4], [0, 2, 3, 4], [1, 2, 3, 4], [0, 0, 1, 2, 3, 4], [0, 1, 2, 3], [4]):
        with pytest.raises(age.PayloadError):
            age.decrypt(head + b"".join(chunks[index] for index in order), [_X25519])


def test_decrypt_chunk_of_another_file_raises() -> None:
    """Chunks of two files of one recipient do not fit together."""
    one, two = (age.encrypt(_PATTERN, [_X25519.recipient]) for _ in range(2))
    start = len(one) - age.sealed_size(len(_PATTERN))
    stop = start + SEALED_CHUNK_BYTES
    with pytest.raises(age.PayloadError):
        age.decrypt(one[:start] + two[start:stop] + one[stop:], [_X25519])


@_BOTH
def test_decrypt_any_flipped_bit_raises(identity: Identity) -> None:
    """Each bit of header, nonce and payload matters, and only age's own errors come of it."""
    blob = age.encrypt(b"private", [identity.recipient])
    # Each byte of an X25519 file and, for time, every fifth of a hybrid one.
    step = 1 if identity is _X25519 else 5
    for place in range(0, len(blob), step):
        changed = bytearray(blob)
        changed[place] ^= 1 << place % 8
        with pytest.raises(age.AgeError):
            age.decrypt(changed, [identity])


@given(st.binary(max_size=200), st.integers(0, 400))
def test_decrypt_garbage_in_a_real_file_raises_only_age_errors(garbage: bytes, place: int) -> None:
    """After any damage to a file, nothing but `AgeError` escapes."""
    blob = age.encrypt(b"private" * 30, [_X25519.recipient])
    changed = blob[:place] + garbage + blob[place + len(garbage) :]
    try:
        assert age.decrypt(changed, [_X25519, _HYBRID]) == b"private" * 30
    except age.AgeError:
        assert changed != blob


def test_seal_header_is_all_that_a_segment_needs() -> None:
    """Header and key derivation are usable by themselves, as the emergency tools use them."""
    file_key, nonce = os.urandom(FILE_KEY_BYTES), os.urandom(NONCE_BYTES)
    head = age.seal_header(_HYBRID.recipient, file_key)
    assert open_header(head, [_HYBRID]) == file_key
    sealer = age.ChunkSealer(payload_key(file_key, nonce))
    out = memoryview(bytearray(20))
    sealer.seal_last(memoryview(b"four"), out)
    assert age.decrypt(head + nonce + out, [_HYBRID]) == b"four"
