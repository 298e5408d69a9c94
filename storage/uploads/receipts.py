"""Receipts: signed like a log line, encrypted under a key of whoever has the upload's URL, or opens its envelope.

Source: docs/reference/format.md, Receipt.
"""

import base64
import hashlib
from collections.abc import Sequence

from dropoff_tus.errors import KeyMissingError
from dropoff_tus.model import Metadata
from storage.age import AgeError
from storage.backing import KeyFile
from storage.failpoints import failpoint
from storage.keyring.identities import receipt_key
from storage.keyring.lines import Record, damaged, stamp
from storage.keyring.secretkey import SecretKey
from storage.uploads.base import StoreBase
from storage.uploads.log import LogState, sign_receipt, verify_receipt
from storage.uploads.reading import own_secrets, secrets_with

RECEIPT_VERSION = 1
RECEIPT_HEAD = b"dropoff-tus receipt 2\n"
"""The file begins with it; nonce, ciphertext and tag follow."""
_ID_DOMAIN = b"dropoff-tus/receipt-id/v1\n"


def receipt_id(final_hash: str) -> str:
    """Name the receipt of a final record: 32 hex digits, the same at every attempt."""
    return hashlib.sha256(_ID_DOMAIN + final_hash.encode()).hexdigest()[:32]


def write_receipt(base: StoreBase, state: LogState, digests: dict[str, bytes]) -> None:
    """Write the receipt, durably; does nothing where it is there.

    Raises:
        KeyMissingError: The metadata cannot be read. Sealing comes after the receipts, so without them this upload
            was never checked to its end, whatever became of its envelope: it must not be called complete.
    """
    if base.key_files.is_settled(state.id, KeyFile.RECEIPT):
        return
    metadata, key = base.memory.secrets(state.id) or own_secrets(base, state)
    line = sign_receipt(_payload(base, state, metadata, digests), base.keys.signing)
    failpoint("before-receipt")
    base.key_files.put(state.id, KeyFile.RECEIPT, RECEIPT_HEAD + key.seal(line))
    failpoint("after-receipt")


def _payload(base: StoreBase, state: LogState, metadata: Metadata, digests: dict[str, bytes]) -> Record:
    """Return what is signed: the same at every attempt, since it depends on the log, the envelope and the content."""
    name = metadata.raw_filename
    path, extra = None, {}
    if name is not None:
        path = name.decode("utf-8", "replace")
        if path.encode() != name:
            extra = {"path_base64": base64.b64encode(name).decode("ascii")}
    told = {"relative_path": metadata.relative_path, "sealed_by": metadata.sealed_by, "sender": metadata.sender}
    extra |= {key: value for key, value in told.items() if value is not None}
    return {
        "v": RECEIPT_VERSION,
        "receipt": receipt_id(str(state.final_hash)),
        "key": base.keys.signing.id,
        "drop": state.create["drop"],
        "upload": state.id,
        "path": path,
        **extra,
        "length": state.offset,
        "created_at": state.create["at"],
        "completed_at": stamp(state.last_at),
        "final": state.final_hash,
        **{name: value.hex() for name, value in digests.items()},
    }


def open_receipt(base: StoreBase, state: LogState, key: SecretKey) -> tuple[bytes, Record] | None:
    """Return a receipt's verified signed line and its payload, or None where it is not there."""
    try:
        blob = base.read_key_file(state.id, KeyFile.RECEIPT)
    except FileNotFoundError:
        return None
    try:
        line = _open(blob, key)
    except AgeError:
        raise damaged(state.id, "its receipt was changed") from None
    return line, _own_payload(base, state, line)


def read_receipt(base: StoreBase, state: LogState, identities: Sequence[str]) -> tuple[bytes, Record] | None:
    """Return what `open_receipt` does, or None also where it cannot be read with what is at hand."""
    try:
        key = secrets_with(base, state, identities).receipt_key
    except KeyMissingError:
        return None
    return open_receipt(base, state, key)


def _open(blob: bytes, key: SecretKey) -> bytes:
    if not blob.startswith(RECEIPT_HEAD):
        message = "it is no receipt"
        raise AgeError(message)
    return key.open(blob[len(RECEIPT_HEAD) :])


def _own_payload(base: StoreBase, state: LogState, line: bytes) -> Record:
    """Return the payload of an opened receipt.

    Raises:
        UploadDamagedError: This server did not sign it, or it is of another upload or another state of it.
    """
    payload = verify_receipt(line, base.keys.signing)
    if payload is None:
        raise damaged(state.id, "its receipt is not signed by this server")
    if payload.get("upload") != state.id or payload.get("final") != state.final_hash:
        raise damaged(state.id, "its receipt is of another upload")
    return payload


def read_url_receipt(base: StoreBase, upload_id: str, token: str) -> bytes | None:
    """Return the signed receipt for whoever has the upload's URL, or None."""
    try:
        line = _open(base.read_key_file(upload_id, KeyFile.RECEIPT), receipt_key(token))
    except (FileNotFoundError, AgeError):
        return None
    _own_payload(base, base.load(upload_id), line)
    return line
