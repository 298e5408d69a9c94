"""Receipts: signed like a log line, encrypted to the operators, and to whoever has the upload's URL.

Source: docs/format.md, Receipt.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dropoff_tus.errors import KeyMissingError, UploadNotFoundError
from dropoff_tus.model import Mode
from storage.age import AgeError, KeyType, NoMatchingIdentity, decrypt, encrypt
from storage.base import StoreBase
from storage.keys import parse_identities, parse_recipient, receipt_url_identity, roots_hash
from storage.log import LogState, sign_receipt, stamp, verify_receipt
from storage.reading import open_own_envelope, open_with

_ID_DOMAIN = b"dropoff-tus/receipt-id/v1\n"


def receipt_id(final_hash: str) -> str:
    """Name the receipt of a final record: 32 hex digits, the same at every attempt."""
    return hashlib.sha256(_ID_DOMAIN + final_hash.encode()).hexdigest()[:32]


def write_receipts(base: StoreBase, state: LogState, token: str | None, digests: dict[str, bytes]) -> None:
    """Write both copies, durably; a repeated call finds the operators' copy, written last, and does nothing."""
    paths = base.layout.of(state.id)
    if paths.receipt.exists():
        return
    try:
        metadata = open_own_envelope(base, state).metadata
    except KeyMissingError:
        if paths.server_envelope.exists():
            # Not sealed yet: the identity is missing, and may be put back.
            raise
        # Sealed by an earlier attempt; the receipt came before that, so it can only have been removed since.
        return
    payload = {
        "v": 1,
        "receipt": receipt_id(str(state.final_hash)),
        "drop": state.create["drop"],
        "upload": state.id,
        "path": metadata.filename,
        "length": state.offset,
        "created_at": state.create["at"],
        "completed_at": stamp(state.last_at),
        "final": state.final_hash,
        **{name: value.hex() for name, value in digests.items()},
    }
    line = sign_receipt(payload, base.keys.signing)
    if token is not None:
        own = receipt_url_identity(token, KeyType(state.key_type))
        base.disk.replace(paths.url_receipt, encrypt(line, own.recipient))
    base.disk.replace(paths.receipt, _for_operators(base, state, line))


def _for_operators(base: StoreBase, state: LogState, line: bytes) -> bytes:
    # U opens it too, so that whoever opens the envelope, also after a rotation of the roots, has the receipt.
    recipients = [state.recipient]
    texts = base.settings.root_recipients
    if roots_hash(texts) == state.create["roots"]:
        # Not where the drop-off has recipients of its own: the file's name and digest are theirs alone.
        recipients += [recipient for recipient in map(parse_recipient, texts) if recipient.key_type == state.key_type]
    managed = base.keys.managed_identity(state.key_type)
    if state.mode is Mode.MANAGED and managed is not None:
        recipients.append(managed.recipient)
    return encrypt(line, recipients)


def read_receipt(base: StoreBase, upload_id: str, identities: Sequence[str]) -> dict[str, Any] | None:
    """Return a receipt's payload, or None where it is not there or cannot be read with what is at hand."""
    at_hand = [*parse_identities(identities), *base.keys.managed]
    try:
        blob = base.layout.of(upload_id).receipt.read_bytes()
        with suppress(NoMatchingIdentity):
            return verify_receipt(decrypt(blob, at_hand), base.keys.signing)
        envelope = open_with(base, base.load(upload_id), identities)
        return verify_receipt(decrypt(blob, [envelope.identity]), base.keys.signing)
    except (FileNotFoundError, AgeError, KeyMissingError, UploadNotFoundError):
        return None


def read_url_receipt(base: StoreBase, upload_id: str, token: str) -> bytes | None:
    """Return the signed receipt for whoever has the upload's URL, or None."""
    try:
        blob = base.layout.of(upload_id).url_receipt.read_bytes()
        return decrypt(blob, [receipt_url_identity(token, KeyType(base.load(upload_id).key_type))])
    except (FileNotFoundError, AgeError):
        return None
