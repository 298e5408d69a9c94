"""The envelope: an age file with an upload's identity and the client's metadata.

Its plaintext is canonical JSON: the upload id, the identity, 32 random bytes (hex), the key that opens the uploader's
receipt (hex), and Upload-Metadata as received less the code. The create record commits to the random bytes and
the metadata together, so the log binds them without showing them.

Source: docs/reference/format.md, Envelope.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from dropoff_tus.errors import KeyMissingError, UploadDamagedError
from dropoff_tus.model import Metadata
from storage.age import AgeError, Identity, NoMatchingIdentity, Opener, Wrapper, decrypt, encrypt, parse_header
from storage.keyring.lines import canonical, damaged
from storage.keyring.secretkey import OWN_KIND, SecretKey

MAX_ENVELOPE_BYTES = 64 << 10
ENVELOPE_VERSION = 2
MAX_STANZAS = 32
SALT_BYTES = 32
_COMMITMENT_DOMAIN = b"dropoff-tus/metadata/v1\n"


class Created(Protocol):
    """An upload as its create record says it is."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def key_type(self) -> str:
        """The type of its keys."""
        ...

    @property
    def recipient_bytes(self) -> bytes:
        """Its own recipient, raw."""
        ...

    @property
    def commitment(self) -> str:
        """To the metadata; see `Envelope.commitment`."""
        ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """The content of an opened envelope."""

    upload_id: str
    identity: Identity
    salt: bytes = field(repr=False)
    receipt_key: SecretKey
    """The key that opens the receipt; derived from the upload's token."""
    metadata: Metadata = field(repr=False)

    def commitment(self) -> str:
        """Return the hex digest that the create record carries."""
        return _commitment(self.salt, self.metadata)

    def seal(self, recipients: Sequence[Wrapper]) -> bytes:
        """Return the age file for these recipients, all of one key type, and keys of the server."""
        plaintext = canonical(
            {
                "v": ENVELOPE_VERSION,
                "id": self.upload_id,
                "identity": self.identity.secret_text(),
                "salt": self.salt.hex(),
                "receipt": self.receipt_key.secret_text(),
                "metadata": [[key, base64.b64encode(value).decode()] for key, value in self.metadata.pairs],
            }
        )
        return encrypt(plaintext, recipients)


class Secrets(NamedTuple):
    """The parts of a receipt: from the envelope, or from the creation."""

    metadata: Metadata
    receipt_key: SecretKey


class _Fields(NamedTuple):
    """The content of an opened envelope, with the upload's identity still as text."""

    identity: str
    salt: bytes
    receipt_key: SecretKey
    metadata: Metadata


def open_envelope(blob: bytes, identities: Sequence[Opener], upload: Created) -> Envelope:
    """Open an envelope and check that it is this upload's.

    Raises:
        KeyMissingError: None of the identities opens it.
        UploadDamagedError: It is malformed, or belongs to another upload.
    """
    fields = _open(blob, identities, upload)
    try:
        identity = Identity.parse(fields.identity)
    except (AgeError, AttributeError, TypeError, ValueError):
        raise _malformed(upload.id) from None
    recipient = identity.recipient
    if recipient.key_type.value != upload.key_type or recipient.public_bytes != upload.recipient_bytes:
        raise _foreign(upload.id)
    return Envelope(upload.id, identity, fields.salt, fields.receipt_key, fields.metadata)


def open_secrets(blob: bytes, identities: Sequence[Opener], upload: Created) -> Secrets:
    """Open an envelope as `open_envelope` does, but for the upload's identity, which takes as long as all the rest."""
    fields = _open(blob, identities, upload)
    return Secrets(fields.metadata, fields.receipt_key)


def _open(blob: bytes, identities: Sequence[Opener], upload: Created) -> _Fields:
    if len(blob) > MAX_ENVELOPE_BYTES:
        raise damaged(upload.id, "its envelope is too large")
    try:
        plaintext = decrypt(blob, identities, max_stanzas=MAX_STANZAS, only_native=True, also=OWN_KIND)
    except NoMatchingIdentity:
        raise KeyMissingError(f"no identity at hand opens upload {upload.id}; its bytes are safe") from None
    except AgeError:
        raise damaged(upload.id, "its envelope was changed") from None
    try:
        fields = json.loads(plaintext)
        if fields["v"] != ENVELOPE_VERSION:
            raise damaged(
                upload.id, f"its envelope is of version {fields['v']!r:.20}, this program reads {ENVELOPE_VERSION}"
            )
        found = _Fields(
            identity=fields["identity"],
            salt=_bytes_of(fields["salt"]),
            receipt_key=SecretKey(_bytes_of(fields["receipt"])),
            metadata=Metadata(
                tuple((str(key), base64.b64decode(value, validate=True)) for key, value in fields["metadata"])
            ),
        )
        belongs = fields["id"] == upload.id and _commitment(found.salt, found.metadata) == upload.commitment
    except (AttributeError, binascii.Error, KeyError, RecursionError, TypeError, ValueError):
        # Anybody who can write to the folder can make an envelope of anything, since recipients are public.
        raise _malformed(upload.id) from None
    if not belongs:
        raise _foreign(upload.id)
    return found


def _malformed(upload_id: str) -> UploadDamagedError:
    return damaged(upload_id, "its envelope does not follow the format")


def _foreign(upload_id: str) -> UploadDamagedError:
    return damaged(upload_id, "its envelope belongs to another upload or was replaced")


def check_resealed(
    read_back: bytes, blob: bytes, recipients: Sequence[Wrapper], openers: Sequence[Opener], upload: Created
) -> None:
    """See, before an old envelope goes, that the new one is on the disk and is what it should be.

    Raises:
        UploadDamagedError: It is not.
    """
    stanzas = parse_header(blob, max_stanzas=MAX_STANZAS).stanzas
    if read_back != blob or len(stanzas) != len(recipients) or len(blob) > MAX_ENVELOPE_BYTES:
        raise damaged(upload.id, "its new envelope did not read back")
    if openers:
        open_envelope(blob, openers, upload)


def _bytes_of(text: str) -> bytes:
    """Read 32 bytes of hex."""
    raw = bytes.fromhex(text)
    if len(raw) != SALT_BYTES:
        raise ValueError("not 32 bytes")
    return raw


def _commitment(salt: bytes, metadata: Metadata) -> str:
    text = canonical({"m": [[key, base64.b64encode(value).decode()] for key, value in metadata.pairs]})
    return hashlib.sha256(_COMMITMENT_DOMAIN + salt + text).hexdigest()
