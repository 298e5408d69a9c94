"""Both directions against the age of Debian, a current age, and rage through pyrage."""

import os
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from storage import age
from storage.age import CHUNK_BYTES, Identity, KeyType
from tests.support.programs import require_program

pyrage: Any = import_module("pyrage")  # a compiled module without types

_SIZES = (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7)
_VARIABLE = "DROPOFF_TUS_TEST_AGE"
_FIRST_HYBRID_VERSION = (1, 3)


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
    """Return an age that knows hybrid keys: the one that the environment names, or a new enough one on the PATH."""
    named = os.environ.get(_VARIABLE)
    if named is not None:
        return Path(named)
    found = shutil.which("age")
    if found is not None:
        version = re.match(rb"v?(\d+)\.(\d+)", _run(Path(found), "--version"))
        if version is not None and (int(version[1]), int(version[2])) >= _FIRST_HYBRID_VERSION:
            return Path(found)
    pytest.skip(f"age 1.3 or newer is missing; {_VARIABLE} may name one")


@pytest.mark.parametrize("size", _SIZES)
def test_x25519_file_of_ours_is_read_by_debian_age(debian_age: Path, tmp_path: Path, size: int) -> None:
    """What we seal, age opens."""
    identity = Identity.generate(KeyType.X25519)
    blob = age.encrypt(_plain(size), [Identity.generate(KeyType.X25519).recipient, identity.recipient])
    assert _run(debian_age, "-d", "-i", _identity_file(tmp_path, identity), data=blob) == _plain(size)


@pytest.mark.parametrize("size", _SIZES)
def test_x25519_file_of_debian_age_is_read_by_us(debian_age: Path, size: int) -> None:
    """What age seals, we open, whatever grease it adds."""
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
    """What we seal, for either kind of key and of any size, a current age opens."""
    identity = Identity.generate(key_type)
    for size in _SIZES:
        blob = age.encrypt(_plain(size), [Identity.generate(key_type).recipient, identity.recipient])
        assert _run(current_age, "-d", "-i", _identity_file(tmp_path, identity), data=blob) == _plain(size)


@pytest.mark.parametrize("key_type", list(KeyType))
def test_file_of_current_age_is_read_by_us(current_age: Path, key_type: KeyType) -> None:
    """What a current age seals, for either kind of key and of any size, we open."""
    identity = Identity.generate(key_type)
    for size in _SIZES:
        blob = _run(current_age, "-r", str(identity.recipient), data=_plain(size))
        assert age.decrypt(blob, [identity], only_native=True) == _plain(size)


def test_hybrid_identity_has_the_recipient_that_current_age_sees(current_age: Path, tmp_path: Path) -> None:
    """From our identity age derives our recipient: it seals to the identity file, we open."""
    identity = Identity.generate(KeyType.HYBRID)
    blob = _run(current_age, "-e", "-i", _identity_file(tmp_path, identity), data=b"to myself")
    assert age.decrypt(blob, [identity]) == b"to myself"


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
