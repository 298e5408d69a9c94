"""The server's own keys, and what each may do. Nothing here shows a secret in its repr.

Where their texts come from is `storage.keyring.keysource`.

Source: docs/format.md, Keys.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dropoff_tus.errors import KeyMissingError, PolicyTamperedError
from dropoff_tus.ids import normalise_code
from dropoff_tus.model import SignedPolicy
from dropoff_tus.text import decode_text
from storage.age import AgeError, Identity, KeyType, Recipient, parse_identity_file
from storage.age.kdf import derive
from storage.files.durable import Disk
from storage.keyring.keysource import KeySourceError, read_source, write_owner_only

__all__ = ["KeySourceError"]  # what reads keys catches it; the rest is defined here

SIGNATURE_BYTES = 64
MAX_RECIPIENTS = 16
"""More, with all the metadata a client may send, would not fit into an envelope."""
_DISK = Disk(sync=True)
_KEY_BYTES = 32
_POLICIES = 1024
_SIGNING_WORD, _NEXT_WORD, _RETIRED_WORD = "ed25519-private", "ed25519-next-private", "ed25519-retired-public"
_POLICY_DOMAIN = b"dropoff-tus/policy/v1\n"
_CODE_DOMAIN = b"dropoff-tus/code/v1\n"
_API_TOKEN_DOMAIN = b"dropoff-tus/api-token/v1\n"
_FINAL_TOKEN_DOMAIN = b"dropoff-tus/final-token/v1\n"
_RECEIPT_URL_DOMAIN = b"dropoff-tus/receipt-url/v1\n"


@dataclass(frozen=True, slots=True)
class KeyPlaces:
    """Sources of the server's keys, as the configuration gives them."""

    signing_key: str
    code_key: str
    managed_identity: str
    ingest_dir: Path


class SigningKey:
    """The Ed25519 key that signs, and the others that only verify.

    Keys have an order, from the oldest retired one to the one that signs; `newer` is for a rotation alone.
    """

    def __init__(self, private: bytes | None, retired: Sequence[bytes] = (), newer: Sequence[bytes] = ()) -> None:
        """Take 32 private bytes (None: this machine only verifies), and 32-byte public keys, oldest first."""
        self._private = None if private is None else Ed25519PrivateKey.from_private_bytes(private)
        self.public_bytes = b"" if self._private is None else self._private.public_key().public_bytes_raw()
        self.retired = tuple(retired)
        ordered = [raw for raw in (*retired, self.public_bytes, *newer) if raw]
        self._public_by_id = {key_id(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in ordered}
        self._order = list(self._public_by_id)
        self.id = key_id(self.public_bytes) if self.public_bytes else ""

    def __repr__(self) -> str:
        """Show the id alone."""
        return f"SigningKey({self.id or 'verifies only'}, redacted)"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature.

        Raises:
            KeyMissingError: Only public keys are at hand.
        """
        if self._private is None:
            text = "the server's signing key is not here, only public ones; nothing was written"
            raise KeyMissingError(text)
        return self._private.sign(message)

    def verify(self, message: bytes, signature: bytes) -> str | None:
        """Return the id of the key that made the signature, or None."""
        # The newest first: it has signed most of what is read.
        for known_id in reversed(self._order):
            try:
                self._public_by_id[known_id].verify(signature, message)
            except InvalidSignature:
                continue
            return known_id
        return None

    def knows(self, wanted: str) -> bool:
        """Tell whether signatures of that key can be verified."""
        return wanted in self._public_by_id

    def is_older(self, one: str, other: str) -> bool:
        """Tell whether one known key was retired before the other came."""
        return self._order.index(one) < self._order.index(other)


def key_id(public: bytes) -> str:
    """Name a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """All keys of a running server."""

    signing: SigningKey
    code_key: bytes = field(repr=False)
    managed: tuple[Identity, ...] = field(repr=False)
    ingest_dir: Path
    """Where the envelopes of sealed uploads in progress lie."""
    _verified: set[tuple[str, SignedPolicy]] = field(default_factory=set, init=False, repr=False, compare=False)

    def own_identities(self, key_type: str) -> list[Identity]:
        """Return the identities that may open the server's own envelopes: the first is used for what is new."""
        return [identity for identity in self.managed if identity.key_type == key_type]

    def code_mac(self, drop_id: str, code: str) -> bytes:
        """Return the 32 bytes that a drop-off's code is stored as; of no other drop-off they are the same."""
        message = f"{drop_id}\n{normalise_code(code)}".encode("utf-8", "replace")
        return hmac.digest(self.code_key, _CODE_DOMAIN + message, "sha256")

    def api_token_mac(self, token_and_terms: bytes) -> bytes:
        """Return the 32 bytes an API token is stored as, together with the terms it was given under."""
        return hmac.digest(self.code_key, _API_TOKEN_DOMAIN + token_and_terms, "sha256")

    def final_token(self, part_tokens: Sequence[str]) -> str:
        """Derive a concatenation's token from its parts' tokens in order: a repeated POST finds the same upload."""
        message = _FINAL_TOKEN_DOMAIN + "\n".join(part_tokens).encode("ascii")
        return hmac.digest(self.code_key, message, "sha256").hex()[:32]

    def sign_policy(self, drop_id: str, policy: SignedPolicy) -> SignedPolicy:
        """Sign a drop-off's mode and recipients, and the hash of its other terms."""
        return replace(policy, signature=self.signing.sign(_policy_message(drop_id, policy)))

    def verify_policy(self, drop_id: str, policy: SignedPolicy) -> None:
        """Refuse a policy that this server did not sign for this drop-off; the same one is verified once.

        Raises:
            PolicyTamperedError: It did not.
        """
        if (drop_id, policy) in self._verified:
            return
        message = _policy_message(drop_id, policy)
        if len(policy.signature) != SIGNATURE_BYTES or self.signing.verify(message, policy.signature) is None:
            raise PolicyTamperedError("the drop-off was changed behind the server; nothing was stored")
        if len(self._verified) >= _POLICIES:
            self._verified.clear()
        self._verified.add((drop_id, policy))


def receipt_identity(token: str) -> Identity:
    """Derive, from an upload's token, the identity that opens its receipt.

    X25519 whatever the upload's keys are: its recipient is as secret as itself, so there is no public key for a quantum
    computer to work on.

    Source: docs/format.md, Receipt.
    """
    seed = derive(token.encode("ascii"), salt=b"", info=_RECEIPT_URL_DOMAIN)
    return Identity(KeyType.X25519, seed)


@functools.lru_cache(maxsize=256)
def parse_recipient(text: str) -> Recipient:
    """Parse a recipient once; a hybrid one costs milliseconds.

    Raises:
        KeySourceError: It is none; the sentence says what one looks like.
    """
    try:
        return Recipient.parse(text.strip())
    except AgeError as error:
        message = f"{error}; a recipient starts with age1 (X25519) or age1pq1 (hybrid)"
        raise KeySourceError(message) from None


def roots_hash(recipients: Sequence[str]) -> str:
    """Name a list of recipients, in whatever order: hex SHA-256 of the sorted texts, joined by LF."""
    return hashlib.sha256("\n".join(sorted(recipients)).encode()).hexdigest()


def check_recipients(texts: Sequence[str]) -> None:
    """Refuse a list that one envelope cannot be for.

    Raises:
        KeySourceError: It has something else in it, mixes key types, or is too long.
    """
    if len({check_recipient(text) for text in texts}) > 1:
        raise KeySourceError("all recipients must be of one type: age1… (X25519) or age1pq1… (hybrid)")
    if len(texts) > MAX_RECIPIENTS:
        message = f"at most {MAX_RECIPIENTS} recipients; of a larger circle give one identity to several people"
        raise KeySourceError(message)


def check_recipient(text: str) -> str:
    """Return a recipient's key type, `x25519` or `hybrid`.

    Raises:
        KeySourceError: As `parse_recipient`.
    """
    return parse_recipient(text).key_type.value


def parse_identities(texts: Sequence[str]) -> list[Identity]:
    """Parse age identities.

    Raises:
        KeySourceError: One of them is none.
    """
    try:
        return [Identity.parse(text.strip()) for text in texts]
    except AgeError as error:
        raise KeySourceError(str(error)) from None


def read_identity_file(path: Path) -> list[str]:
    """Return the identities in a file that an operator names, as text.

    Raises:
        KeySourceError: The file cannot be read, or holds something else.
    """
    try:
        return [identity.secret_text() for identity in parse_identity_file(decode_text(path.read_bytes()))]
    except OSError as error:
        message = f"cannot read the identity file {path}: {error.strerror}"
    except AgeError as error:
        message = f"{path}: {error}"
    except ValueError as error:
        message = f"{path} {error}"
    raise KeySourceError(message)


def new_root_identity(key_type: str) -> tuple[str, str]:
    """Make a root identity; return the text of its file, and its recipient."""
    identity = Identity.generate(KeyType(key_type))
    text = f"# dropoff-tus root identity: opens every upload. Keep it off the server.\n{identity.secret_text()}\n"
    return text, str(identity.recipient)


def generate_root_identity(path: Path, key_type: str) -> str:
    """Make a root identity in a new file of the owner's alone, and return its recipient."""
    text, recipient = new_root_identity(key_type)
    write_owner_only(path, text)
    return recipient


def generate_server_keys(folder: Path) -> KeyPlaces:
    """Make all keys of a new server below a folder; files that exist are refused.

    Raises:
        KeySourceError: A file is there already; nothing was overwritten.
    """
    _DISK.make_root(folder)
    places = KeyPlaces(
        signing_key=str(folder / "signing-key"),
        code_key=str(folder / "code-key"),
        managed_identity=str(folder / "managed-identity.txt"),
        ingest_dir=folder / "ingest",
    )
    write_owner_only(Path(places.signing_key), SigningKeyFile(new_signing_key()).text())
    write_owner_only(Path(places.code_key), _b64(os.urandom(_KEY_BYTES)) + "\n")
    identities = "".join(Identity.generate(kind).secret_text() + "\n" for kind in KeyType)
    made = f"# dropoff-tus managed uploads, made {datetime.now(UTC).date().isoformat()}\n"
    write_owner_only(Path(places.managed_identity), made + identities)
    _DISK.make_root(places.ingest_dir)
    return places


@dataclass(frozen=True, slots=True)
class SigningKeyFile:
    """The text of a signing key: what signs, what verifies only, and in the middle of a rotation what comes next."""

    private: bytes | None = field(repr=False)
    retired: tuple[bytes, ...] = ()
    following: bytes | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> "SigningKeyFile":
        """Read the text.

        Raises:
            KeySourceError: It has a line that is none of these; nothing of it is shown.
        """
        found: dict[str, list[bytes]] = {_SIGNING_WORD: [], _NEXT_WORD: [], _RETIRED_WORD: []}
        for number, line in enumerate(text.split("\n"), start=1):
            word, _, value = line.strip().partition(" ")
            if word in found:
                found[word].append(_unb64(value, "signing-key"))
            elif word and not word.startswith("#"):
                message = f"line {number} of the signing key is neither a private nor a retired public key"
                raise KeySourceError(message)
        if len(found[_SIGNING_WORD]) > 1 or len(found[_NEXT_WORD]) > 1:
            message = f"the signing key has more than one line `{_SIGNING_WORD}`"
            raise KeySourceError(message)
        return cls(
            next(iter(found[_SIGNING_WORD]), None),
            tuple(dict.fromkeys(found[_RETIRED_WORD])),
            next(iter(found[_NEXT_WORD]), None),
        )

    def text(self) -> str:
        """Write it."""
        lines = [f"{_RETIRED_WORD} {_b64(raw)}" for raw in self.retired]
        if self.private is not None:
            lines.append(f"{_SIGNING_WORD} {_b64(self.private)}")
        if self.following is not None:
            lines.append(f"{_NEXT_WORD} {_b64(self.following)}")
        return "\n".join(lines) + "\n"

    def key(self) -> SigningKey:
        """Return the key that this text is."""
        return SigningKey(self.private, self.retired)


def new_signing_key() -> bytes:
    """Return 32 new private bytes."""
    return os.urandom(_KEY_BYTES)


def public_of(private: bytes) -> bytes:
    """Return the 32 public bytes of a private signing key."""
    return SigningKey(private).public_bytes


def load_signing_key(source: str) -> SigningKey:
    """Load the signing key alone.

    Raises:
        KeySourceError: It cannot be had, or a rotation of it was interrupted.
    """
    found = SigningKeyFile.parse(read_source("signing-key", source))
    if found.following is not None:
        message = "a rotation of the signing key was interrupted; finish it with: dropoff-tus keys rotate --signing"
        raise KeySourceError(message)
    if found.private is None:
        raise KeySourceError(f"the signing key has no line `{_SIGNING_WORD} <base64>`")
    return found.key()


def load_server_keys(places: KeyPlaces) -> ServerKeys:
    """Load every key from its source.

    Raises:
        KeySourceError: A line for each that cannot be had, which says what to do.
    """
    found: list[Any] = []
    mistakes: list[str] = []
    for key, read in (
        ("signing_key", lambda: load_signing_key(places.signing_key)),
        ("code_key", lambda: _unb64(read_source("code-key", places.code_key), "code-key")),
        ("managed_identity", lambda: parse_identity_file(read_source("managed-identity", places.managed_identity))),
    ):
        try:
            found.append(read())
        except (KeySourceError, AgeError) as error:
            mistakes.append(f"keys.{key}: {error}")
    if mistakes:
        raise KeySourceError("\n".join(mistakes))
    signing, code_key, managed = found
    return ServerKeys(signing, code_key, tuple(managed), places.ingest_dir)


def verifying_keys(public_texts: Sequence[str], ingest_dir: Path) -> ServerKeys:
    """Return keys that only verify, for a machine without the server's: base64 of public signing keys, oldest first.

    Raises:
        KeySourceError: A text is no public key.
    """
    publics = [_unb64(text, "public signing key") for text in public_texts]
    return ServerKeys(SigningKey(None, publics), b"", (), ingest_dir)


def _policy_message(drop_id: str, policy: SignedPolicy) -> bytes:
    record = {
        "drop": drop_id,
        "mode": policy.mode.value,
        "recipients": list(policy.recipients),
        "terms": policy.terms,
    }
    return _POLICY_DOMAIN + json.dumps(record, separators=(",", ":"), sort_keys=True).encode()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _unb64(text: str, name: str) -> bytes:
    try:
        # Who selects a key with a double click leaves the padding behind.
        raw = base64.b64decode(text.strip().rstrip("=") + "=", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        message = f"the {name} is not {_KEY_BYTES} bytes of base64"
        raise KeySourceError(message)
    return raw
