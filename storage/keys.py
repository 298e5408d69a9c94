"""The server's own keys: where they come from, and what each may do. Nothing here shows a secret in its repr.

A key's *source* is tried in this order: `$CREDENTIALS_DIRECTORY/<name>` (systemd), then what the configuration says: a
file (refused unless its owner alone can read it), `command:…` (prints the key), or `env:NAME` (removed after reading).

Source: docs/format.md, Keys.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import json
import os
import shlex
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dropoff_tus.errors import PolicyTamperedError
from dropoff_tus.ids import normalise_code
from dropoff_tus.model import Mode, SignedPolicy
from storage.age import AgeError, Identity, KeyType, Recipient, parse_identity_file
from storage.durable import Disk

SIGNATURE_BYTES = 64
# Keys are always synced, whatever the store's durability: a lost key loses everything under it.
_DISK = Disk(sync=True)
_KEY_BYTES = 32
_SIGNING_WORD, _RETIRED_WORD = "ed25519-private", "ed25519-retired-public"
_POLICY_DOMAIN = b"dropoff-tus/policy/v1\n"
_CODE_DOMAIN = b"dropoff-tus/code/v1\n"
_FINAL_TOKEN_DOMAIN = b"dropoff-tus/final-token/v1\n"
_RECEIPT_URL_DOMAIN = b"dropoff-tus/receipt-url/v1\n"
_COMMAND_TIMEOUT_SECONDS = 30


class KeySourceError(Exception):
    """A key cannot be had; the text says which and what to do, and nothing of the key."""


@dataclass(frozen=True, slots=True)
class KeyPlaces:
    """Sources of the server's keys, as the configuration gives them."""

    signing_key: str
    code_key: str
    managed_identity: str
    ingest_dir: Path


class SigningKey:
    """The Ed25519 key that signs, and the retired ones that still verify."""

    def __init__(self, private: bytes, retired: Sequence[bytes] = ()) -> None:
        """Take 32 private bytes and 32-byte retired public keys."""
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        public = self._private.public_key().public_bytes_raw()
        self._public_by_id = {key_id(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in (public, *retired)}
        self.id = key_id(public)
        self.public_bytes = public

    def __repr__(self) -> str:
        """Show the id alone."""
        return f"SigningKey({self.id}, redacted)"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature."""
        return self._private.sign(message)

    def verify(self, message: bytes, signature: bytes) -> str | None:
        """Return the id of the key that made the signature, or None."""
        for known_id, public in self._public_by_id.items():
            try:
                public.verify(signature, message)
            except InvalidSignature:
                continue
            return known_id
        return None


def key_id(public: bytes) -> str:
    """Name a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


class IngestKeys:
    """Identities of sealed uploads in progress, one file an epoch (a UTC day), destroyed when nothing needs it."""

    def __init__(self, folder: Path) -> None:
        """Use a folder of its own, kept out of backups."""
        self._folder = folder

    def __repr__(self) -> str:
        """Show the place, not the keys."""
        return "IngestKeys(redacted)"

    @functools.lru_cache(maxsize=16)  # noqa: B019 - one object a process; epochs are few
    def _load(self, epoch: str) -> tuple[Identity, ...]:
        return tuple(parse_identity_file(_read_owner_only(self._folder / f"{epoch}.txt", "the ingest identity")))

    def current(self, today: date) -> str:
        """Return today's epoch, making its identities first if need be. They are durable before it returns."""
        epoch = today.isoformat()
        path = self._folder / f"{epoch}.txt"
        if not path.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_owner_only(path, _identity_lines(f"ingest epoch {epoch}"), replace_ok=True)
        return epoch

    def identity(self, epoch: str, key_type: str) -> Identity | None:
        """Return an epoch's identity of one type, or None once it is destroyed."""
        try:
            found = self._load(epoch)
        except KeySourceError:
            return None
        return next((identity for identity in found if identity.key_type == key_type), None)

    def epochs(self) -> list[str]:
        """Return the epochs that still have identities, oldest first."""
        return sorted(path.stem for path in self._folder.glob("????-??-??.txt"))

    def destroy(self, epoch: str) -> None:
        """Remove an epoch's identities, durably: nothing sealed under it opens again with the server's keys."""
        (self._folder / f"{epoch}.txt").unlink(missing_ok=True)
        _DISK.sync_path(self._folder)
        self._load.cache_clear()


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """All keys of a running server."""

    signing: SigningKey
    code_key: bytes = field(repr=False)
    managed: tuple[Identity, ...] = field(repr=False)
    ingest: IngestKeys = field(repr=False)

    @property
    def signing_key_id(self) -> str:
        """The id of the key that signs."""
        return self.signing.id

    def managed_identity(self, key_type: str) -> Identity | None:
        """Return the managed identity of one type."""
        return next((identity for identity in self.managed if identity.key_type == key_type), None)

    def own_identity(self, mode: Mode, epoch: str | None, key_type: str) -> Identity | None:
        """Return the identity that the server's own envelope of an upload is to, or None where it is gone."""
        if mode is Mode.MANAGED:
            return self.managed_identity(key_type)
        return None if epoch is None else self.ingest.identity(epoch, key_type)

    def code_mac(self, code: str) -> bytes:
        """Return the 32 bytes a code is stored as."""
        return hmac.digest(self.code_key, _CODE_DOMAIN + normalise_code(code).encode("utf-8", "replace"), "sha256")

    def final_token(self, part_tokens: Sequence[str]) -> str:
        """Derive a concatenation's token from its parts' tokens in order: a repeated POST finds the same upload."""
        message = _FINAL_TOKEN_DOMAIN + "\n".join(part_tokens).encode("ascii")
        return hmac.digest(self.code_key, message, "sha256").hex()[:32]

    def sign_policy(self, drop_id: str, mode: Mode, recipients: tuple[str, ...]) -> SignedPolicy:
        """Sign a drop-off's mode and recipients."""
        return SignedPolicy(mode, recipients, self.signing.sign(_policy_message(drop_id, mode, recipients)))

    def verify_policy(self, drop_id: str, policy: SignedPolicy) -> None:
        """Refuse a policy that this server did not sign for this drop-off.

        Raises:
            PolicyTamperedError: It did not.
        """
        message = _policy_message(drop_id, policy.mode, policy.recipients)
        if len(policy.signature) != SIGNATURE_BYTES or self.signing.verify(message, policy.signature) is None:
            text = "the drop-off's mode or recipients were changed behind the server; nothing was stored"
            raise PolicyTamperedError(text)


def receipt_url_identity(token: str, key_type: KeyType) -> Identity:
    """Derive the identity that opens the uploader's copy of the receipt from the upload's URL token."""
    return Identity(key_type, hmac.digest(_RECEIPT_URL_DOMAIN, token.encode("ascii"), "sha256"))


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
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read the identity file {path}: {getattr(error, 'strerror', None) or 'not text'}"
        raise KeySourceError(message) from None
    try:
        return [identity.secret_text() for identity in parse_identity_file(text)]
    except AgeError as error:
        message = f"{path}: {error}"
        raise KeySourceError(message) from None


def generate_root_identity(path: Path, key_type: str) -> str:
    """Make a root identity in a new file of the owner's alone, and return its recipient."""
    identity = Identity.generate(KeyType(key_type))
    text = f"# dropoff-tus root identity: opens every upload. Keep it off the server.\n{identity.secret_text()}\n"
    _write_owner_only(path, text)
    return str(identity.recipient)


def generate_server_keys(folder: Path) -> KeyPlaces:
    """Make all keys of a new server below a folder; files that exist are refused.

    Raises:
        KeySourceError: A file is there already; nothing was overwritten.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    places = KeyPlaces(
        signing_key=str(folder / "signing-key"),
        code_key=str(folder / "code-key"),
        managed_identity=str(folder / "managed-identity.txt"),
        ingest_dir=folder / "ingest",
    )
    _write_owner_only(Path(places.signing_key), f"{_SIGNING_WORD} {_b64(os.urandom(_KEY_BYTES))}\n")
    _write_owner_only(Path(places.code_key), _b64(os.urandom(_KEY_BYTES)) + "\n")
    _write_owner_only(Path(places.managed_identity), _identity_lines("managed uploads"))
    places.ingest_dir.mkdir(mode=0o700, exist_ok=True)
    return places


def load_server_keys(places: KeyPlaces) -> ServerKeys:
    """Load every key from its source.

    Raises:
        KeySourceError: One cannot be had; the sentence says which and what to do.
    """
    private: bytes | None = None
    retired: list[bytes] = []
    for line in _read_source("signing-key", places.signing_key).splitlines():
        word, _, value = line.partition(" ")
        if word == _SIGNING_WORD and private is None:
            private = _unb64(value, "signing-key")
        elif word == _RETIRED_WORD:
            retired.append(_unb64(value, "signing-key"))
        elif line.strip() and not line.startswith("#"):
            message = "the signing key has a line that is neither a private nor a retired public key"
            raise KeySourceError(message)
    if private is None:
        message = f"the signing key has no line `{_SIGNING_WORD} <base64>`"
        raise KeySourceError(message)
    try:
        managed = parse_identity_file(_read_source("managed-identity", places.managed_identity))
    except AgeError as error:
        message = f"keys.managed_identity: {error}"
        raise KeySourceError(message) from None
    return ServerKeys(
        signing=SigningKey(private, retired),
        code_key=_unb64(_read_source("code-key", places.code_key), "code-key"),
        managed=tuple(managed),
        ingest=IngestKeys(places.ingest_dir),
    )


def _policy_message(drop_id: str, mode: Mode, recipients: tuple[str, ...]) -> bytes:
    record = {"drop": drop_id, "mode": mode.value, "recipients": list(recipients)}
    return _POLICY_DOMAIN + json.dumps(record, separators=(",", ":"), sort_keys=True).encode()


def _identity_lines(purpose: str) -> str:
    made = datetime.now(UTC).date().isoformat()
    identities = "".join(Identity.generate(kind).secret_text() + "\n" for kind in KeyType)
    return f"# dropoff-tus {purpose}, made {made}\n{identities}"


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _unb64(text: str, name: str) -> bytes:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        message = f"the {name} is not {_KEY_BYTES} bytes of base64"
        raise KeySourceError(message)
    return raw


def _write_owner_only(path: Path, text: str, *, replace_ok: bool = False) -> None:
    """Write a secret so that it appears whole and durable, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        _DISK.sync_file(file.fileno())
    try:
        # A link, not a rename: it never replaces a key that another process made meanwhile.
        path.hardlink_to(temporary)
    except FileExistsError:
        if not replace_ok:
            message = f"{path} exists already and was left as it is"
            raise KeySourceError(message) from None
    finally:
        temporary.unlink(missing_ok=True)
    _DISK.sync_path(path.parent)


def _read_owner_only(path: Path, name: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        message = f"cannot read {name} at {path}: {error.strerror}"
        raise KeySourceError(message) from None
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            message = f"{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}"
            raise KeySourceError(message)
        return file.read()


def _read_source(name: str, source: str) -> str:
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (Path(credentials) / name).exists():
        # systemd keeps these on its own tmpfs, mode 0440 under some versions: its own access rules hold there.
        return (Path(credentials) / name).read_text("ascii", errors="replace")
    if source.startswith("command:"):
        try:
            answer = subprocess.run(  # noqa: S603 - the operator's own configuration names the command
                shlex.split(source.removeprefix("command:")),
                check=True,
                capture_output=True,
                timeout=_COMMAND_TIMEOUT_SECONDS,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            message = f"the command for the {name} failed ({type(error).__name__}); run it by hand to see why"
            raise KeySourceError(message) from None
        return answer.stdout.decode("ascii", "replace")
    if source.startswith("env:"):
        variable = source.removeprefix("env:")
        value = os.environ.pop(variable, None)
        if value is None:
            message = f"the environment variable {variable} for the {name} is not set"
            raise KeySourceError(message)
        return value
    return _read_owner_only(Path(source), f"the {name}")
