"""Creating an upload's files: identity, envelopes, the create record. Nothing is durable before the first commit.

Source: docs/format.md, Files, Envelope, Log.
"""

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from dropoff_tus.errors import KeyMissingError, UploadNotFoundError
from dropoff_tus.model import Mode, Role, StoredUpload
from dropoff_tus.ports.store import NewUpload
from storage.age import Identity
from storage.files.layout import NEW_SUFFIX, UploadPaths
from storage.files.locks import lock
from storage.keyring.envelope import SALT_BYTES, Envelope
from storage.keyring.identities import MAX_RECIPIENTS, parse_recipient, receipt_identity, roots_hash
from storage.keyring.lines import sign_line, stamp
from storage.uploads.base import Known, StoreBase, new_hash, refused
from storage.uploads.log import FORMAT_VERSION, LogState, initial_state

_NOT_CREATED = "; the upload could not be created, and nothing of it is stored"


def create(base: StoreBase, new: NewUpload) -> StoredUpload:
    """Make an upload with no bytes; see the port."""
    base.keys.verify_terms(new.drop)
    texts = new.drop.terms.recipients or base.settings.root_recipients
    roots = [parse_recipient(text) for text in texts]
    if not roots:
        message = "no root recipient is configured (keys.root_recipients); nothing was stored"
        raise KeyMissingError(message)
    if len(roots) > MAX_RECIPIENTS:
        # Such an envelope could be too large to be read again.
        message = f"keys.root_recipients has more than {MAX_RECIPIENTS} recipients; nothing was stored"
        raise KeyMissingError(message)
    identity = Identity.generate(roots[0].key_type)
    envelope = Envelope(new.id, identity, os.urandom(SALT_BYTES), receipt_identity(new.token), new.metadata)
    own = base.keys.own_identities(identity.key_type.value)
    if not own:
        message = f"the server has no {identity.key_type.value} identity for itself; nothing was stored"
        raise KeyMissingError(message)
    blobs = envelope.seal_each(roots, [own[0].recipient])
    record = _create_record(base, new, envelope, texts)
    # Before the first commit nothing is synced: these tell the next process whether both envelopes are still whole.
    record["root"], record["own"] = (hashlib.sha256(blob).hexdigest() for blob in blobs)
    line = sign_line(record, base.keys.signing)
    paths = base.layout.of(new.id)
    base.check_roots()
    try:
        base.disk.make_folder(paths.keys_folder)
        base.disk.make_folder(paths.folder)
        if new.drop.terms.mode is Mode.SEALED:
            base.disk.make_root(base.layout.ingest_dir)
        if new.role is Role.FINAL:
            with _alone(base, paths.folder):
                present = _present(base, new.id)
                if present is not None:
                    return present
                _write(base, new.drop.terms.mode, paths, blobs, line)
        else:
            _write(base, new.drop.terms.mode, paths, blobs, line)
    except OSError as error:
        raise refused(error, _NOT_CREATED, paths.folder) from error
    state = initial_state(record, line)
    names = base.wanted_digests(new.digests) if new.role is not Role.FINAL else set()
    base.known.put(
        new.id,
        Known(
            state,
            {name: new_hash(name) for name in names},
            new.metadata,
            envelope.receipt_identity,
            identity.recipient,
            vouched=True,
        ),
    )
    return state.stored()


def _write(base: StoreBase, mode: Mode, paths: UploadPaths, blobs: Sequence[bytes], line: bytes) -> None:
    try:
        for path, blob in zip((paths.root_envelope, paths.own_envelope(mode)), blobs, strict=True):
            base.disk.write_new(path, blob)
        base.disk.write_new(paths.data, b"")
        base.disk.write_new(paths.log, line)
    except OSError:
        remove_files(base, paths)
        raise


@contextlib.contextmanager
def _alone(base: StoreBase, folder: Path) -> Iterator[None]:
    """Keep other processes from making the same concatenation: its token, unlike any other, is not random."""
    descriptor = base.disk.open_existing(folder)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _present(base: StoreBase, upload_id: str) -> StoredUpload | None:
    """Return what another process made; else clear away what one that died may have left of it."""
    try:
        return base.load(upload_id).stored()
    except UploadNotFoundError:
        _remove_each(base, base.layout.of(upload_id))
        return None


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


def is_cut_off(paths: UploadPaths, before: datetime) -> bool:
    """Tell whether all that is here of an upload is the beginning of a creation, older than a time."""
    if any(path.exists() for path in (paths.torn_log, paths.damaged_log, paths.receipt)):
        return False
    there = [path.stat() for path in (paths.folder, *paths.key_files) if path.exists()]
    empty = not any(path.stat().st_size for path in (paths.log, paths.data) if path.exists())
    return empty and all(found.st_mtime <= before.timestamp() for found in there)


def remove_files(base: StoreBase, paths: UploadPaths) -> None:
    """Remove every file of an upload that holds nothing acknowledged, or of a tombstone."""
    _remove_each(base, paths)
    with contextlib.suppress(OSError):
        base.disk.remove_folder(paths.folder)


def _remove_each(base: StoreBase, paths: UploadPaths) -> None:
    new_log = paths.log.with_name(paths.log.name + NEW_SUFFIX)
    for path in (*paths.key_files, paths.data, paths.log, new_log, paths.torn_log, paths.damaged_log):
        with contextlib.suppress(OSError):
            base.disk.remove(path)


def sync_creation(base: StoreBase, state: LogState) -> None:
    """Before the first commit: make the envelopes, the receipt's folder and all new folders durable."""
    paths = base.layout.of(state.id)
    own = paths.own_envelope(state.mode)
    for envelope in (paths.root_envelope, own):
        if envelope.exists():
            base.disk.sync_path(envelope)
    for folder in dict.fromkeys(
        (
            own.parent,
            paths.keys_folder,
            base.settings.keys_dir,
            paths.folder,
            paths.folder.parent,
            base.layout.uploads,
            base.layout.root,
        )
    ):
        base.disk.sync_path(folder)
