"""Secret keys: the stanza that other programs pass over, and small texts."""

import os
import subprocess
from itertools import permutations
from pathlib import Path

import pytest

from storage.age import (
    AgeError,
    HeaderError,
    Identity,
    KeyType,
    NoMatchingIdentity,
    Stanza,
    Wrapper,
    check_form,
    decrypt,
    encode_base64,
    encrypt,
)
from storage.keyring.secretkey import OWN_KIND, SecretKey
from tests.support.programs import CURRENT_AGE, require_program

_FILE_KEY = bytes(range(16))


@pytest.mark.parametrize(
    ("program", "kind"), [("age", KeyType.X25519), (CURRENT_AGE, KeyType.X25519), (CURRENT_AGE, KeyType.HYBRID)]
)
def test_age_opens_a_file_with_our_stanza_wherever_it_stands(tmp_path: Path, program: str, kind: KeyType) -> None:
    """First, between or last: Debian's age and the current one pass over it."""
    root, other, own = Identity.generate(kind), Identity.generate(kind), SecretKey(os.urandom(32))
    identity = tmp_path / "root.txt"
    identity.write_text(root.secret_text())
    readers: list[Wrapper] = [root.recipient, other.recipient, own]
    for order in permutations(readers):
        blob = encrypt(b"text", order)
        command = [str(require_program(program)), "-d", "-i", str(identity)]
        assert subprocess.run(command, input=blob, capture_output=True, check=True).stdout == b"text"
        assert decrypt(blob, [own]) == decrypt(blob, [root]) == b"text"


def test_stanza_opens_for_its_key_only_and_is_new_each_time() -> None:
    """Another key passes over it, as over a stanza of another kind."""
    key, other = SecretKey(os.urandom(32)), SecretKey(os.urandom(32))
    one, two = key.wrap(_FILE_KEY), key.wrap(_FILE_KEY)
    assert (key.unwrap(one), key.unwrap(two), other.unwrap(one)) == (_FILE_KEY, _FILE_KEY, None)
    assert one.args != two.args
    assert one.body != two.body
    assert key.unwrap(Identity.generate(KeyType.X25519).recipient.wrap(_FILE_KEY)) is None
    with pytest.raises(NoMatchingIdentity):
        decrypt(encrypt(b"", [key]), [other])


@pytest.mark.parametrize(
    ("args", "body"),
    [
        ((), bytes(32)),
        ((encode_base64(bytes(16)), "x"), bytes(32)),
        ((encode_base64(bytes(15)),), bytes(32)),
        ((encode_base64(bytes(16)),), bytes(31)),
        (("=",), bytes(32)),
    ],
)
def test_malformed_stanza_is_refused(args: tuple[str, ...], body: bytes) -> None:
    """It is ours by its kind, so the whole file is."""
    with pytest.raises(HeaderError):
        SecretKey(bytes(32)).unwrap(Stanza(OWN_KIND, args, body))


def test_our_stanza_is_foreign_where_nobody_asked_for_it() -> None:
    """A client's own age file is not called sealed for the sake of it."""
    blob = encrypt(b"", [SecretKey(bytes(32))])
    assert check_form(blob, also=OWN_KIND) == [OWN_KIND]
    for attempt in (check_form, lambda raw: decrypt(raw, [SecretKey(bytes(32))], only_native=True)):
        with pytest.raises(HeaderError):
            attempt(blob)


def test_small_text_opens_under_its_key_and_unchanged_only() -> None:
    """Every flipped bit, every cut, and another key are refused."""
    key = SecretKey(os.urandom(32))
    sealed = key.seal(b"text")
    assert key.open(sealed) == b"text"
    assert key.seal(b"text") != sealed
    changed = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
    for wrong in (*changed, *(sealed[:at] for at in range(len(sealed))), sealed + b"x"):
        with pytest.raises(AgeError):
            key.open(wrong)
    with pytest.raises(AgeError):
        SecretKey(bytes(32)).open(sealed)
