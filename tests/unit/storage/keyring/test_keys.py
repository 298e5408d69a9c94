"""Keys show nothing of themselves, verify what they should, and are refused where they are malformed."""

import base64
import contextlib
import io
import json
import logging
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.errors import KeyMissingError, PolicyTamperedError
from dropoff_tus.model import Dropoff, DropTerms, Metadata, Mode
from server import logs
from storage.age import Identity, KeyType, NoMatchingIdentity, decrypt, encrypt, parse_identity_file
from storage.keyring.envelope import Envelope
from storage.keyring.identities import receipt_key
from storage.keyring.keys import KeyPlaces, ServerKeys, generate_server_keys, load_server_keys, verifying_keys
from storage.keyring.keysource import KeySourceError
from storage.keyring.signing import SigningKey, SigningKeyFile, key_id, new_signing_key, public_of

DROP = "8d3ff0e8-0c4a-4c8c-9d55-2f2f6a6c1a11"


@pytest.fixture
def places(tmp_path: Path) -> KeyPlaces:
    """Return the sources of a new server's keys."""
    return generate_server_keys(tmp_path / "secrets")


@pytest.fixture
def keys(places: KeyPlaces) -> ServerKeys:
    """Return a new server's keys."""
    return load_server_keys(places)


def _secrets(places: KeyPlaces) -> list[bytes]:
    """Return every secret of a server in every form that a leak may have."""
    texts = [
        line
        for path in Path(places.signing_key).parent.rglob("*")
        if path.is_file()
        for line in path.read_text().splitlines()
        if not line.startswith("#")
    ]
    found: list[bytes] = []
    for text in texts:
        word = text.split()[-1]
        found.append(word.encode())
        if not word.startswith("AGE-"):
            raw = base64.b64decode(word)
            found += [raw, raw.hex().encode(), repr(raw).encode()]
    return found


def _everything_shown(thing: object) -> bytes:
    """Return all that printing, formatting and logging make of an object."""
    out = io.StringIO()
    logger = logging.getLogger("test.redaction")
    handler = logging.StreamHandler(out)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.warning("%s %r %a", thing, thing, thing)
        logger.warning("extra", extra={"thing": thing})
        logger.error("raised", exc_info=ValueError(thing))
        for form in ("json", "console"):
            with contextlib.closing(logs.make_handler(form, out.write)) as structured:
                logger.addHandler(structured)
                logger.warning("structured", extra={"thing": thing})
                structured.flush()
                logger.removeHandler(structured)
    finally:
        logger.removeHandler(handler)
    shown = [repr(thing), str(thing), f"{thing}", f"{thing!r:>9}", format(thing), ascii(thing), out.getvalue()]
    return "\n".join(shown).encode() + json.dumps({"thing": thing}, default=repr).encode()


def test_no_key_object_shows_its_secret(places: KeyPlaces, keys: ServerKeys) -> None:
    """Neither repr, str, format nor a log line of any kind has one secret byte."""
    identity = parse_identity_file(Path(places.managed_identity).read_text())[0]
    envelope = Envelope(
        "0" * 32, identity, b"\xabS" * 16, receipt_key("0" * 32), Metadata((("filename", b"SECRET-name"),))
    )
    things: list[object] = [
        keys,
        keys.signing,
        keys.managed,
        identity,
        envelope,
        SigningKeyFile.parse(Path(places.signing_key).read_text()),
        SigningKeyFile(new_signing_key(), (), new_signing_key()),
    ]
    secrets = [*_secrets(places), b"AGE-SECRET", envelope.salt.hex().encode(), repr(envelope.salt).encode()]
    secrets += [b"SECRET-name", repr(b"SECRET-name").encode()]
    for key in (keys.managed[0], envelope.receipt_key):
        secrets += [key.secret_text().encode(), repr(bytes.fromhex(key.secret_text())).encode()]
    for thing in things:
        shown = _everything_shown(thing)
        assert not any(secret in shown for secret in secrets), type(thing)
        file = thing if isinstance(thing, SigningKeyFile) else None
        for raw in (file.private, file.following) if file is not None else ():
            assert raw is None or repr(raw).encode() not in shown
    assert len(secrets) > 10
    assert any(secret in _everything_shown(identity.secret_text()) for secret in secrets), "the search finds nothing"


def test_identities_and_signing_keys_are_not_pickled(keys: ServerKeys) -> None:
    """A secret leaves through the one door that says so."""
    for thing in (Identity.generate(KeyType.X25519), keys.managed[0], keys.signing, keys):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


def test_policy_of_a_retired_key_still_verifies(keys: ServerKeys) -> None:
    """Signatures from before a rotation stay valid; those of another key are refused."""
    signed = keys.sign_terms(Dropoff(DROP, datetime.now(UTC), DropTerms("x", mode=Mode.SEALED, recipients=("age1x",))))
    rotated = SigningKey(new_signing_key(), [keys.signing.public_bytes])
    other = SigningKey(new_signing_key())
    ServerKeys(rotated, b"", (), keys.ingest_dir).verify_terms(signed)
    with pytest.raises(PolicyTamperedError):
        ServerKeys(other, b"", (), keys.ingest_dir).verify_terms(signed)


def test_keys_have_an_order_from_the_oldest_retired_on() -> None:
    """A chain never goes back to an older key, so the order in the file counts."""
    privates = [new_signing_key() for _ in range(3)]
    publics = [public_of(private) for private in privates]
    key = SigningKeyFile.parse(SigningKeyFile(privates[2], tuple(publics[:2])).text()).key()
    ids = [key_id(public) for public in publics]
    assert key.is_older(ids[0], ids[1])
    assert key.is_older(ids[1], ids[2])
    assert not key.is_older(ids[2], ids[0])
    assert not key.is_older(ids[2], ids[2])
    for private, wanted in zip(privates, ids, strict=True):
        assert key.verify(b"message", SigningKey(private).sign(b"message")) == wanted
    assert key.verify(b"message", SigningKey(new_signing_key()).sign(b"message")) is None


def test_key_that_only_verifies_signs_nothing(keys: ServerKeys, tmp_path: Path) -> None:
    """A machine with only public keys reads and refuses to write."""
    public = base64.b64encode(keys.signing.public_bytes).decode()
    only = verifying_keys([public.rstrip("=")], tmp_path)
    assert only.signing.verify(b"m", keys.signing.sign(b"m")) == keys.signing.id
    with pytest.raises(KeyMissingError):
        only.signing.sign(b"m")
    with pytest.raises(KeySourceError):
        verifying_keys([public[:-8]], tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "ed25519-private AAAA\n",
        "ed25519-private !!!\n",
        "something else\n",
        "ed25519-retired-public {good}\n",
        "ed25519-private {good}\ned25519-private {good}\n",
        "ed25519-private {good}\ned25519-next-private {good}\n",
    ],
)
def test_malformed_signing_key_is_a_sentence_without_the_key(places: KeyPlaces, text: str) -> None:
    """With any mistake in it, nothing of it is in the message."""
    good = base64.b64encode(new_signing_key()).decode()
    Path(places.signing_key).write_text(text.format(good=good))
    with pytest.raises(KeySourceError, match=r"signing.key") as caught:
        load_server_keys(places)
    assert good not in str(caught.value)


def test_earlier_managed_identities_in_the_file_still_open(places: KeyPlaces, keys: ServerKeys) -> None:
    """A new identity goes first and is used for what is new; those after it open what came before."""
    path = Path(places.managed_identity)
    new = Identity.generate(KeyType.X25519)
    path.write_text(new.secret_text() + "\n" + path.read_text())
    later = load_server_keys(places)
    first, second = later.managed
    assert second.secret_text() == keys.managed[0].secret_text() != first.secret_text()
    blob = encrypt(b"old", keys.managed)
    assert decrypt(blob, later.managed) == b"old"
    with pytest.raises(NoMatchingIdentity):
        decrypt(encrypt(b"new", later.managed[:1]), keys.managed)


@pytest.mark.parametrize("name", ["signing_key", "code_key", "managed_identity"])
def test_every_key_that_is_missing_is_named(places: KeyPlaces, name: str) -> None:
    """The start is refused with the key's name and place; after its return everything is as before."""
    path = Path(getattr(places, name))
    kept = path.rename(path.with_suffix(".away"))
    with pytest.raises(KeySourceError, match=f"cannot read the {name.replace('_', '-')} at {path}"):
        load_server_keys(places)
    kept.rename(path)
    load_server_keys(places)
