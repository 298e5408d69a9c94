"""`store check`: verify uploads, with no key."""

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from dropoff_tus.errors import DropoffError, UploadNotFoundError
from dropoff_tus.model import Mode, UploadState
from storage.engine import FileStore
from storage.segment import ciphertext_matches


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one upload: `problem` None means clean."""

    upload_id: str
    problem: str | None
    ciphertext_bytes: int = 0


async def check_store(
    store: FileStore, upload_ids: Sequence[str] | None = None, *, quick: bool = False
) -> AsyncIterator[Finding]:
    """Verify uploads one by one: every signature and hash of the chain, and unless quick every ciphertext byte.

    Args:
        store: The store.
        upload_ids: Which; None means all.
        quick: The chains alone.

    Yields:
        One finding an upload.
    """
    for upload_id in await store.upload_ids() if upload_ids is None else upload_ids:
        yield await store.run(_check, store, upload_id, quick)


def _check(store: FileStore, upload_id: str, quick: bool) -> Finding:  # noqa: C901, FBT001, PLR0911, PLR0912 - one line a rule
    paths = store.layout.of(upload_id)
    try:
        chain = store.chain(upload_id, every_signature=True)
    except UploadNotFoundError:
        # A creation that a crash cut off: nothing was ever acknowledged, and `store sweep` removes what is left of it.
        return Finding(upload_id, "its log is gone" if paths.receipt.exists() else None)
    except DropoffError as error:
        return Finding(upload_id, error.message)
    state = chain.state
    if state.ended is not None:
        left = [path.name for path in paths.key_files if path.exists()]
        return Finding(upload_id, "it has ended, but keys are left; run store sweep" if left else None)
    if state.log_bytes == state.create_bytes:
        # Only its first commit makes an upload's other files durable; until then nothing is acknowledged.
        return Finding(upload_id, None)
    if not state.final and paths.receipt.exists():
        return Finding(upload_id, "it has a receipt, but its final record is gone", state.data_bytes)
    try:
        data = store.disk.open_existing(paths.data)
    except OSError:
        return Finding(upload_id, "its data cannot be opened")
    try:
        size = os.fstat(data).st_size
        if size < state.data_bytes or (state.final and size != state.data_bytes):
            return Finding(upload_id, f"its data has {size} bytes, committed are {state.data_bytes}")
        for entry in () if quick else chain.segments:
            if not ciphertext_matches(data, upload_id, entry):
                return Finding(upload_id, f"segment {entry.index} is not what was committed", state.data_bytes)
    finally:
        os.close(data)
    if not paths.root_envelope.exists():
        return Finding(upload_id, "its envelope is missing", state.data_bytes)
    if state.final and state.mode is Mode.MANAGED and not paths.server_envelope.exists():
        return Finding(upload_id, "the server's envelope is missing", state.data_bytes)
    for part in state.parts:
        try:
            if store.load(part).ended is not None:
                return Finding(upload_id, f"its part {part} was {UploadState.TERMINATED.value}")
        except DropoffError as error:
            return Finding(upload_id, f"its part {part}: {error.message}")
    return Finding(upload_id, None, state.data_bytes)
