"""Both directions against the age of Debian, a current age, rage through pyrage, and the npm package age-encryption."""

import base64
import json
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from storage import age
from storage.age import CHUNK_BYTES, Identity, KeyType, MixedRecipients
from storage.age import header as age_header
from tests.support.programs import CURRENT_AGE, require_program

pyrage: Any = import_module("pyrage")  # a compiled module without types

_SIZES = (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7)
_SCRIPT = Path(__file__).resolve().parents[3] / "e2e" / "clients" / "age.mjs"


def _plain(size: int) -> bytes:
    """Return test data without a short period."""
    return bytes(place * place % 251 for place in range(size))


def _run(program: Path, *arguments: str | Path, data: bytes = b"") -> bytes:
    """Run a program that must succeed and return what it printed."""
    done = subprocess.run([program, *arguments], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def _identity_file(folder: Path, identity: Identity) -> Path:
    """Write an identity file."""
    path = folder / "identity.txt"
    path.write_text(f"# public key: {identity.recipient}\n{identity.secret_text()}\n")
    return path


@pytest.fixture
def debian_age() -> Path:
    """Return the age of the distribution, which knows X25519 in any version."""
    return require_program("age")


@pytest.fixture
def current_age() -> Path:
    """Return an age that knows hybrid keys."""
    return require_program(CURRENT_AGE)


def _npm_age(job: dict[str, list[str]], files: list[bytes]) -> list[bytes]:
    """Run the npm package, which browsers use, in Node, on several files at once."""
    node = require_program("node")
    require_program("npm")
    assert (_SCRIPT.parent / "node_modules" / "age-encryption").exists(), "run `make clients`"
    text = json.dumps({**job, "files": [base64.b64encode(data).decode() for data in files]}).encode()
    return [base64.b64decode(item) for item in json.loads(_run(node, _SCRIPT, data=text))]


@pytest.mark.parametrize("size", _SIZES)
def test_x25519_file_of_ours_is_read_by_debian_age(debian_age: Path, tmp_path: Path, size: int) -> None:
    """Our files open with age."""
    identity = Identity.generate(KeyType.X25519)
    blob = age.encrypt(_plain(size), [Identity.generate(KeyType.X25519).recipient, identity.recipient])
    assert _run(debian_age, "-d", "-i", _identity_file(tmp_path, identity), data=blob) == _plain(size)


@pytest.mark.parametrize("size", _SIZES)
def test_x25519_file_of_debian_age_is_read_by_us(debian_age: Path, size: int) -> None:
    """We open files of age, whatever grease it adds."""
    identity = Identity.generate(KeyType.X25519)
    blob = _run(debian_age, "-r", str(identity.recipient), data=_plain(size))
    assert age.decrypt(blob, [identity]) == _plain(size)


def test_identity_file_of_age_keygen_is_read_by_us(debian_age: Path) -> None:
    """The file that an operator makes with age-keygen works, and both see the same recipient."""
    text = _run(debian_age.with_name("age-keygen")).decode()
    (identity,) = age.parse_identity_file(text)
    assert f"# public key: {identity.recipient}\n" in text


@pytest.mark.parametrize("key_type", list(KeyType))
def test_file_of_ours_is_read_by_current_age(current_age: Path, tmp_path: Path, key_type: KeyType) -> None:
    """A current age opens our files, for either kind of key and of any size."""
    identity = Identity.generate(key_type)
    for size in _SIZES:
        blob = age.encrypt(_plain(size), [Identity.generate(key_type).recipient, identity.recipient])
        assert _run(current_age, "-d", "-i", _identity_file(tmp_path, identity), data=blob) == _plain(size)


@pytest.mark.parametrize("key_type", list(KeyType))
def test_file_of_current_age_is_read_by_us(current_age: Path, key_type: KeyType) -> None:
    """We open files of a current age, for either kind of key and of any size."""
    identity = Identity.generate(key_type)
    for size in _SIZES:
        blob = _run(current_age, "-r", str(identity.recipient), data=_plain(size))
        assert age.decrypt(blob, [identity], only_native=True) == _plain(size)


def test_hybrid_identity_has_the_recipient_that_current_age_sees(current_age: Path, tmp_path: Path) -> None:
    """From our identity age derives our recipient: it seals to the identity file, we open."""
    identity = Identity.generate(KeyType.HYBRID)
    blob = _run(current_age, "-e", "-i", _identity_file(tmp_path, identity), data=b"to myself")
    assert age.decrypt(blob, [identity]) == b"to myself"


def test_hybrid_identity_file_of_current_age_keygen_is_read_by_us(current_age: Path) -> None:
    """A post-quantum identity that an operator makes works, and both see the same recipient."""
    text = _run(current_age.with_name("age-keygen"), "-pq").decode()
    (identity,) = age.parse_identity_file(text)
    assert identity.key_type is KeyType.HYBRID
    assert f"# public key: {identity.recipient}\n" in text


def test_file_to_mixed_recipients_is_opened_by_debian_age_and_refused_by_us(debian_age: Path, tmp_path: Path) -> None:
    """We refuse a file key wrapped for both kinds, which no current writer makes and old readers open."""
    classical, hybrid = Identity.generate(KeyType.X25519), Identity.generate(KeyType.HYBRID)
    file_key, nonce = bytes(range(16)), bytes(16)
    stanzas = [classical.recipient.wrap(file_key), hybrid.recipient.wrap(file_key)]
    sealer = age.ChunkSealer(age.payload_key(file_key, nonce))
    chunk = memoryview(bytearray(4 + age.TAG_BYTES))
    sealer.seal_last(memoryview(b"both"), chunk)
    blob = age_header.serialize_header(stanzas, file_key) + nonce + bytes(chunk)
    assert _run(debian_age, "-d", "-i", _identity_file(tmp_path, classical), data=blob) == b"both"
    for identity in (classical, hybrid):
        with pytest.raises(MixedRecipients):
            age.decrypt(blob, [identity])
    with pytest.raises(MixedRecipients):
        age.encrypt(b"both", [classical.recipient, hybrid.recipient])


def test_mixed_recipients_are_refused_by_current_age_too(current_age: Path) -> None:
    """Our rule is the reference implementation's when it writes."""
    recipients = [str(Identity.generate(kind).recipient) for kind in KeyType]
    done = subprocess.run(
        [current_age, "-r", recipients[0], "-r", recipients[1]], input=b"x", capture_output=True, check=False
    )
    assert done.returncode != 0
    assert b"incompatible" in done.stderr


@pytest.mark.parametrize("key_type", list(KeyType))
def test_file_of_ours_is_read_by_npm_age_encryption(key_type: KeyType) -> None:
    """The JavaScript implementation opens our files, for either kind of key and of any size."""
    identity = Identity.generate(key_type)
    recipients = [Identity.generate(key_type).recipient, identity.recipient]
    blobs = [age.encrypt(_plain(size), recipients) for size in _SIZES]
    assert _npm_age({"decrypt": [identity.secret_text()]}, blobs) == [_plain(size) for size in _SIZES]


@pytest.mark.parametrize("key_type", list(KeyType))
def test_file_of_npm_age_encryption_is_read_by_us(key_type: KeyType) -> None:
    """We open files of the JavaScript implementation, for either kind of key and of any size."""
    identity = Identity.generate(key_type)
    blobs = _npm_age({"encrypt": [str(identity.recipient)]}, [_plain(size) for size in _SIZES])
    opened = [age.decrypt(blob, [identity], only_native=True) for blob in blobs]
    assert opened == [_plain(size) for size in _SIZES]


@pytest.mark.parametrize("size", _SIZES)
def test_x25519_file_of_ours_is_read_by_pyrage(size: int) -> None:
    """A second implementation, in Rust, opens what we seal."""
    identity = Identity.generate(KeyType.X25519)
    blob = age.encrypt(_plain(size), [identity.recipient])
    assert pyrage.decrypt(blob, [pyrage.x25519.Identity.from_str(identity.secret_text())]) == _plain(size)


@pytest.mark.parametrize("size", _SIZES)
def test_x25519_file_of_pyrage_is_read_by_us(size: int) -> None:
    """And we open what it seals, with the grease stanzas it adds."""
    identity = Identity.generate(KeyType.X25519)
    blob = pyrage.encrypt(_plain(size), [pyrage.x25519.Recipient.from_str(str(identity.recipient))])
    assert age.decrypt(blob, [identity]) == _plain(size)
