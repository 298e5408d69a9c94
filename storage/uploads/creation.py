"""Creating an upload: identity, envelopes, the create record. Nothing is durable before the first commit.

Source: docs/reference/format.md, Files, Envelope, Log.
"""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dropoff_tus.errors import KeyMissingError, UploadExistsError, UploadNotFoundError
from dropoff_tus.model import Mode, Role, StoredUpload
from dropoff_tus.ports.store import NewUpload
from storage.age import Identity
from storage.backing import KeyFile
from storage.keyring.envelope import SALT_BYTES, Envelope, Secrets
from storage.keyring.identities import MAX_RECIPIENTS, parse_recipient, receipt_key, roots_hash
from storage.keyring.lines import sign_line, stamp
from storage.uploads.base import StoreBase, refused
from storage.uploads.log import FORMAT_VERSION, initial_state
from storage.uploads.memory import RunningDigests


def create(base: StoreBase, new: NewUpload) -> StoredUpload:
    """Make an upload with no bytes; see the port."""
    base.keys.verify_terms(new.drop)
    texts = new.drop.terms.recipients or base.root_recipients
    roots = [parse_recipient(text) for text in texts]
    if not roots:
        message = "no root recipient is configured (keys.root_recipients); nothing was stored"
        raise KeyMissingError(message)
    if len(roots) > MAX_RECIPIENTS:
        # Such an envelope could be too large to be read again.
        message = f"keys.root_recipients has more than {MAX_RECIPIENTS} recipients; nothing was stored"
        raise KeyMissingError(message)
    identity = Identity.generate(roots[0].key_type)
    envelope = Envelope(new.id, identity, os.urandom(SALT_BYTES), receipt_key(new.token), new.metadata)
    own = base.keys.managed[:1]
    managed = new.drop.terms.mode is Mode.MANAGED
    blobs = {KeyFile.ROOT: envelope.seal([*roots, *own] if managed else roots)}
    if not managed:
        blobs[KeyFile.INGEST] = envelope.seal(own)
    record = _create_record(base, new, envelope, texts)
    # Before the first commit nothing is synced: these tell the next process whether the envelopes are still whole.
    for name, kind in (("root", KeyFile.ROOT), ("own", KeyFile.INGEST)):
        record[name] = hashlib.sha256(blobs[kind]).hexdigest() if kind in blobs else None
    line = sign_line(record, base.keys.signing)
    try:
        if new.role is Role.FINAL or not _create_first(base, new.id, line, blobs):
            # A final's token is that of its parts, and a client or an import may come again with its own: another
            # process may make the same upload, or have died over it, and the catalog may be older than the store.
            with base.chains.creating(new.id):
                try:
                    there = base.load(new.id).stored()
                except UploadNotFoundError:
                    base.chains.create(new.id, line, blobs, again=True)
                else:
                    if new.role is Role.FINAL:
                        return there
                    raise UploadExistsError("the store has an upload with this token: ask its URL where it stands")
    except OSError as error:
        raise refused(error, "; the upload could not be created, and nothing of it is stored") from error
    state = initial_state(record, line)
    digests = RunningDigests(base.wanted_digests(new.digests) if new.role is not Role.FINAL else ())
    base.memory.created(state, digests, Secrets(new.metadata, envelope.receipt_key), identity.recipient)
    return state.stored()


def _create_first(base: StoreBase, upload_id: str, line: bytes, blobs: Mapping[KeyFile, bytes]) -> bool:
    """Make the files, unless something of that upload is here; tell whether."""
    try:
        base.chains.create(upload_id, line, blobs)
    except FileExistsError:
        return False
    return True


def _create_record(base: StoreBase, new: NewUpload, envelope: Envelope, roots: Sequence[str]) -> dict[str, Any]:
    concat: dict[str, Any] | None = None
    if new.role is Role.FINAL:
        concat = {"role": new.role.value, "parts": list(new.parts)}
    elif new.role is Role.PARTIAL:
        concat = {"role": new.role.value}
    recipient = envelope.identity.recipient
    return {
        "t": "create",
        "v": FORMAT_VERSION,
        "at": stamp(new.created_at),
        "id": new.id,
        "drop": new.drop.id,
        "mode": new.drop.terms.mode.value,
        "roots": roots_hash(roots),
        "key": base.keys.signing.id,
        "u": {
            "type": recipient.key_type.value,
            "key": base64.b64encode(recipient.public_bytes).decode("ascii"),
        },
        "len": new.length,
        "commitment": envelope.commitment(),
        "concat": concat,
        "prev": "",
        "tot": [0, 0, 0],
    }
