"""Receipts: signed like a log line, encrypted to the operators, and to whoever has the upload's URL.

Source: docs/format.md, Receipt.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from dropoff_tus.errors import KeyMissingError
from dropoff_tus.model import Mode
from storage.age import AgeError, KeyType, decrypt, encrypt
from storage.base import StoreBase
from storage.keys import parse_identities, parse_recipient, receipt_url_identity
from storage.log import LogState, sign_receipt, stamp, verify_receipt
from storage.reading import open_own_envelope

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
    recipients = [parse_recipient(text) for text in base.settings.root_recipients]
    recipients = [r for r in recipients if r.key_type.value == state.key_type]
    managed = base.keys.managed_identity(state.key_type)
    if state.mode is Mode.MANAGED and managed is not None:
        recipients.append(managed.recipient)
    if not recipients:
        # A drop-off with recipients of its own, of another type than the configured roots: U itself opens it.
        recipients = [state.recipient]
    return encrypt(line, recipients)


def read_receipt(base: StoreBase, upload_id: str, identities: Sequence[str]) -> dict[str, Any] | None:
    """Return a receipt's payload, or None where it is not there or cannot be read with what is at hand."""
    try:
        blob = base.layout.of(upload_id).receipt.read_bytes()
        line = decrypt(blob, [*parse_identities(identities), *base.keys.managed])
    except (FileNotFoundError, AgeError):
        return None
    return verify_receipt(line, base.keys.signing)


def read_url_receipt(base: StoreBase, upload_id: str, token: str) -> bytes | None:
    """Return the signed receipt for whoever has the upload's URL, or None."""
    try:
        blob = base.layout.of(upload_id).url_receipt.read_bytes()
        return decrypt(blob, [receipt_url_identity(token, KeyType(base.load(upload_id).key_type))])
    except (FileNotFoundError, AgeError):
        return None
