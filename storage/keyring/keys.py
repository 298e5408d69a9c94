"""The server's own keys, and what each may do. Nothing here shows a secret in its repr.

Where their texts come from is `storage.keyring.keysource`.

Source: docs/reference/format.md, Keys.
"""

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dropoff_tus.errors import PolicyTamperedError
from dropoff_tus.ids import UploadToken, normalise_code
from dropoff_tus.model import Dropoff
from storage.age import AgeError, Identity, KeyType, parse_identity_file
from storage.files.durable import Disk
from storage.keyring.keysource import KeySourceError, read_source, write_owner_only
from storage.keyring.secretkey import SecretKey
from storage.keyring.signing import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    SigningKey,
    SigningKeyFile,
    decode_key,
    encode_key,
    load_signing_key,
    new_signing_key,
)

_DISK = Disk(sync=True)
_MOST_VERIFIED = 1024
_OWN_DOMAIN = b"dropoff-tus/own-key/v1\n"
_TERMS_DOMAIN = b"dropoff-tus/terms/v1\n"
_CODE_DOMAIN = b"dropoff-tus/code/v1\n"
_API_TOKEN_DOMAIN = b"dropoff-tus/api-token/v1\n"
_FINAL_TOKEN_DOMAIN = b"dropoff-tus/final-token/v1\n"
_IMPORTED_TOKEN_DOMAIN = b"dropoff-tus/imported-token/v1\n"


@dataclass(frozen=True, slots=True)
class KeyPlaces:
    """Sources of the server's keys, as the configuration gives them."""

    signing_key: str
    code_key: str
    managed_identity: str
    ingest_dir: Path


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """All keys of a running server."""

    signing: SigningKey
    code_key: bytes = field(repr=False)
    managed: tuple[SecretKey, ...]
    """Those that open the server's way into uploads: the first is used for what is new."""
    ingest_dir: Path
    """Where the server's envelopes of sealed uploads in progress lie."""
    _verified: set[Dropoff] = field(default_factory=set, init=False, repr=False, compare=False)

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

    def imported_token(self, drop_id: str, name: str) -> UploadToken:
        """Derive the token of an upload that another server had under a name: a repeated import finds the same."""
        message = _IMPORTED_TOKEN_DOMAIN + f"{drop_id}\n{name}".encode()
        return UploadToken(hmac.digest(self.code_key, message, "sha256").hex()[:32])

    def sign_terms(self, drop: Dropoff) -> Dropoff:
        """Sign a drop-off's terms."""
        return replace(drop, signature=self.signing.sign(_terms_message(drop)))

    def verify_terms(self, drop: Dropoff) -> None:
        """Refuse a drop-off that is not what this server signed; the same one is verified once.

        Raises:
            PolicyTamperedError: It is not.
        """
        if drop in self._verified:
            return
        if len(drop.signature) != SIGNATURE_BYTES or self.signing.verify(_terms_message(drop), drop.signature) is None:
            raise PolicyTamperedError("the drop-off was changed behind the server; nothing was stored")
        if len(self._verified) >= _MOST_VERIFIED:
            self._verified.clear()
        self._verified.add(drop)


def generate_server_keys(folder: Path, ingest_dir: Path | None = None) -> KeyPlaces:
    """Make the keys of a new server below a folder, but for those that are there.

    Args:
        folder: Nothing is written to it if it has all of them.
        ingest_dir: The folder of ingest keys; else one below it.

    Raises:
        KeySourceError: A key cannot be written.
    """
    places = KeyPlaces(
        signing_key=str(folder / "signing-key"),
        code_key=str(folder / "code-key"),
        managed_identity=str(folder / "managed-identity.txt"),
        ingest_dir=ingest_dir or folder / "ingest",
    )
    identity = Identity.generate(KeyType.X25519).secret_text()
    made = f"# dropoff-tus managed uploads, made {datetime.now(UTC).date().isoformat()}\n"
    for path, text in (
        (places.signing_key, SigningKeyFile(new_signing_key()).text()),
        (places.code_key, encode_key(os.urandom(KEY_BYTES)) + "\n"),
        (places.managed_identity, f"{made}{identity}\n"),
    ):
        if not Path(path).exists():
            _DISK.make_root(folder)
            write_owner_only(Path(path), text)
    _DISK.make_root(places.ingest_dir)
    return places


def load_server_keys(places: KeyPlaces) -> ServerKeys:
    """Load every key from its source.

    Raises:
        KeySourceError: A line for each that cannot be had, which says what to do.
    """
    found: list[Any] = []
    mistakes: list[str] = []
    for key, read in (
        ("signing_key", lambda: load_signing_key(places.signing_key)),
        ("code_key", lambda: decode_key(read_source("code-key", places.code_key), "code-key")),
        ("managed_identity", lambda: parse_identity_file(read_source("managed-identity", places.managed_identity))),
    ):
        try:
            found.append(read())
        except (KeySourceError, AgeError) as error:
            mistakes.append(f"keys.{key}: {error}")
    if mistakes:
        raise KeySourceError("\n".join(mistakes))
    signing, code_key, managed = found
    return ServerKeys(signing, code_key, tuple(own_key(identity) for identity in managed), places.ingest_dir)


def own_key(identity: Identity) -> SecretKey:
    """Derive the key of the server's own way in from a managed identity."""
    return SecretKey(identity.derived(_OWN_DOMAIN))


def verifying_keys(public_texts: Sequence[str], ingest_dir: Path) -> ServerKeys:
    """Return keys that only verify, for a machine without the server's: base64 of public signing keys, oldest first.

    Raises:
        KeySourceError: A text is no public key.
    """
    publics = [decode_key(text, "public signing key") for text in public_texts]
    return ServerKeys(SigningKey(None, publics), b"", (), ingest_dir)


def _terms_message(drop: Dropoff) -> bytes:
    return _TERMS_DOMAIN + drop.signed_text().encode("ascii")
