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
from typing import Protocol

from dropoff_tus.errors import KeyMissingError
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
        return hashlib.sha256(_COMMITMENT_DOMAIN + self.salt + _metadata_text(self.metadata)).hexdigest()

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


def open_envelope(blob: bytes, identities: Sequence[Opener], upload: Created) -> Envelope:
    """Open an envelope and check that it is this upload's.

    Raises:
        KeyMissingError: None of the identities opens it.
        UploadDamagedError: It is malformed, or belongs to another upload.
    """
    if len(blob) > MAX_ENVELOPE_BYTES:
        raise damaged(upload.id, "its envelope is too large")
    try:
        plaintext = decrypt(blob, identities, max_stanzas=MAX_STANZAS, only_native=True, also=OWN_KIND)
    except NoMatchingIdentity:
        message = f"no identity at hand opens upload {upload.id}; its bytes are safe"
        raise KeyMissingError(message) from None
    except AgeError:
        raise damaged(upload.id, "its envelope was changed") from None
    try:
        fields = json.loads(plaintext)
        if fields["v"] != ENVELOPE_VERSION:
            raise damaged(
                upload.id, f"its envelope is of version {fields['v']!r:.20}, this program reads {ENVELOPE_VERSION}"
            )
        envelope = Envelope(
            upload_id=fields["id"],
            identity=Identity.parse(fields["identity"]),
            salt=_bytes_of(fields["salt"]),
            receipt_key=SecretKey(_bytes_of(fields["receipt"])),
            metadata=Metadata(
                tuple((str(key), base64.b64decode(value, validate=True)) for key, value in fields["metadata"])
            ),
        )
    except (AgeError, AttributeError, binascii.Error, KeyError, RecursionError, TypeError, ValueError):
        # Anybody who can write to the folder can make an envelope of anything, since recipients are public.
        raise damaged(upload.id, "its envelope does not follow the format") from None
    recipient = envelope.identity.recipient
    belongs = (
        envelope.upload_id == upload.id
        and recipient.key_type.value == upload.key_type
        and recipient.public_bytes == upload.recipient_bytes
        and envelope.commitment() == upload.commitment
    )
    if not belongs:
        raise damaged(upload.id, "its envelope belongs to another upload or was replaced")
    return envelope


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
        message = "not 32 bytes"
        raise ValueError(message)
    return raw


def _metadata_text(metadata: Metadata) -> bytes:
    return canonical({"m": [[key, base64.b64encode(value).decode()] for key, value in metadata.pairs]})
