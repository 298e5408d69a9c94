"""Every C2SP CCTV age vector, by its named outcome; README.md says which ones differ, and why."""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage import age
from storage.age import header as age_header

_FOLDER = Path(__file__).parent / "cctv"
_FIELDS = frozenset({"expect", "payload", "identity", "file key", "comment", "compressed", "armored", "passphrase"})
_OUTCOMES: dict[str, type[age.AgeError] | None] = {
    "success": None,
    "no match": age.NoMatchingIdentity,
    "HMAC failure": age.HeaderMacError,
    "header failure": age.HeaderError,
    "payload failure": age.PayloadError,
}
_STRICTER = "hybrid_and_x25519"


@dataclass(frozen=True)
class Vector:
    """One file of the set."""

    fields: dict[str, list[str]]
    file: bytes

    @property
    def expect(self) -> str:
        """The named outcome."""
        return self.fields["expect"][0]

    @property
    def identities(self) -> list[age.Identity]:
        """The identities to try; one that fits nothing if the vector names none."""
        texts = self.fields.get("identity")
        if texts is None:
            return [age.Identity(age.KeyType.X25519, bytes(range(32)))]
        return [age.Identity.parse(text) for text in texts]


def load(name: str) -> Vector:
    """Read a vector, refusing header fields that are not known."""
    head, file = (_FOLDER / name).read_bytes().split(b"\n\n", maxsplit=1)
    fields: dict[str, list[str]] = {}
    for line in head.decode().splitlines():
        key, value = line.split(": ", maxsplit=1)
        fields.setdefault(key, []).append(value)
    assert fields.keys() <= _FIELDS
    if compression := fields.get("compressed"):
        assert compression == ["zlib"]
        file = zlib.decompress(file)
    return Vector(fields, file)


_NAMES = sorted(path.name for path in _FOLDER.iterdir())
_ARMORED = [name for name in _NAMES if name.startswith("armor_")]
_SCRYPT = [name for name in _NAMES if name.startswith("scrypt")]
_NATIVE = [name for name in _NAMES if name not in {*_ARMORED, *_SCRYPT, _STRICTER}]
_PARSED = [
    name
    for name in _NAMES
    if name not in _ARMORED and load(name).expect in {"success", "no match", "HMAC failure", "payload failure"}
]
_OPENED = [name for name in (*_NATIVE, _STRICTER) if load(name).expect == "success"]


def test_vectors_of_the_set_are_all_here() -> None:
    """The groups are as large as version 0.2.0 of the set makes them, so that none was lost on the way."""
    assert (len(_NAMES), len(_ARMORED), len(_SCRYPT), len(_NATIVE)) == (143, 33, 25, 84)


@pytest.mark.parametrize("name", _NATIVE)
def test_decrypt_vector_has_its_named_outcome(name: str) -> None:
    """Each vector of the implemented kinds ends exactly as its authors say."""
    vector = load(name)
    error = _OUTCOMES[vector.expect]
    if error is None:
        plain = age.decrypt(vector.file, vector.identities)
        assert hashlib.sha256(plain).hexdigest() == vector.fields["payload"][0]
        return
    with pytest.raises(age.AgeError) as caught:
        age.decrypt(vector.file, vector.identities)
    assert type(caught.value) is error


def test_decrypt_hybrid_vector_mixed_with_x25519_is_refused() -> None:
    """The one vector where we are stricter than the format asks of a reader."""
    vector = load(_STRICTER)
    assert vector.expect == "success"
    with pytest.raises(age.MixedRecipients):
        age.decrypt(vector.file, vector.identities)


@pytest.mark.parametrize("name", _ARMORED)
def test_decrypt_armored_vector_is_refused_as_no_age_file(name: str) -> None:
    """Armour, which is not implemented, is never guessed at."""
    vector = load(name)
    with pytest.raises(age.HeaderError):
        age.decrypt(vector.file, vector.identities)


@pytest.mark.parametrize("name", _SCRYPT)
def test_decrypt_scrypt_vector_is_refused(name: str) -> None:
    """A file for a passphrase is opened by no key, and not even tried where only native stanzas are accepted."""
    vector = load(name)
    nobody = [age.Identity(age.KeyType.X25519, bytes(range(32)))]
    with pytest.raises((age.NoMatchingIdentity, age.HeaderError)):
        age.decrypt(vector.file, nobody)
    with pytest.raises(age.HeaderError):
        age.decrypt(vector.file, nobody, only_native=True)


@pytest.mark.parametrize("name", _PARSED)
def test_header_of_vector_serializes_to_the_bytes_read(name: str) -> None:
    """There is one way to write a header, so parsing and writing gives back the same bytes."""
    vector = load(name)
    header = age.parse_header(vector.file)
    written = b"".join(stanza.serialize() for stanza in header.stanzas)
    mac = age_header.encode_base64(header.mac).encode()
    assert b"age-encryption.org/v1\n" + written + b"--- " + mac + b"\n" == vector.file[: header.length]


@pytest.mark.parametrize("name", _OPENED)
def test_sealed_chunks_of_vector_equal_its_payload(name: str) -> None:
    """Under the vector's file key and nonce, our writer makes its header MAC and payload bit for bit."""
    vector = load(name)
    file_key = bytes.fromhex(vector.fields["file key"][0])
    header = age.parse_header(vector.file)
    assert age_header.serialize_header(header.stanzas, file_key) == vector.file[: header.length]
    nonce, payload = (
        vector.file[header.length : header.length + age.NONCE_BYTES],
        vector.file[header.length + age.NONCE_BYTES :],
    )
    key = age.payload_key(file_key, nonce)
    opener = age.ChunkOpener(key)
    starts = range(0, len(payload), age.SEALED_CHUNK_BYTES)
    chunks = [
        opener.open(index, payload[start : start + age.SEALED_CHUNK_BYTES], last=start == starts[-1])
        for index, start in enumerate(starts)
    ]
    sealer = age.ChunkSealer(key)
    out = memoryview(bytearray(len(payload)))
    written = sealer.seal_chunks(memoryview(b"".join(chunks[:-1])), out)
    written += sealer.seal_last(memoryview(chunks[-1]), out[written:])
    assert written == len(payload)
    assert bytes(out) == payload
