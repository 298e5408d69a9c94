"""`store check`: verify uploads, with no key unless decrypting is asked for.

An upload may be written while it is looked at, by a running server. So what looks wrong is looked at again where its
log has changed meanwhile, and only what stays wrong is a finding.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from dropoff_tus.errors import DropoffError, KeyMissingError, UploadNotFoundError
from dropoff_tus.model import Mode, Role, StoredUpload
from storage.age import AgeError, check_form
from storage.backing import KeyFile
from storage.keyring.envelope import MAX_STANZAS
from storage.keyring.secretkey import OWN_KIND
from storage.uploads.base import StoreBase
from storage.uploads.chain import Chain
from storage.uploads.engine import Engine
from storage.uploads.log import LogState
from storage.uploads.memory import new_hash
from storage.uploads.reading import load_part, open_with, read_plain
from storage.uploads.receipts import RECEIPT_HEAD, read_receipt
from storage.uploads.segment import ciphertext_matches
from storage.uploads.shredding import leftovers

_LOOKS = 3
_QUICK_AT_ONCE = 32
"""How many a thread looks at in one turn when it reads no content: some 20 ms."""
_NO_ENVELOPE = "its envelope is missing: not even the root identities open it"
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one upload: `problem` None means clean; then `stored` is where it stands, if it has a log."""

    upload_id: str
    problem: str | None
    ciphertext_bytes: int = 0
    stored: StoredUpload | None = None


@dataclass(frozen=True, slots=True)
class Depth:
    """How far to look: only the chains; or every ciphertext byte; or, with identities, every plain one too."""

    quick: bool = False
    identities: tuple[str, ...] = ()
    advance: Advance = lambda _count: None
    """Called in worker threads with each count of bytes verified."""


_DEFAULT_DEPTH = Depth()


class _ProblemError(Exception):
    """A problem of an upload, in a few words."""


async def check_store(
    store: Engine, upload_ids: Sequence[str] | None = None, depth: Depth = _DEFAULT_DEPTH
) -> AsyncIterator[Finding]:
    """Verify uploads one by one: every signature and hash of the chain, and what `depth` says.

    Args:
        store: The store.
        upload_ids: Which; None means all.
        depth: How far to look.

    Yields:
        One finding an upload.
    """
    ids, at_once = await store.upload_ids() if upload_ids is None else upload_ids, _QUICK_AT_ONCE if depth.quick else 1
    for start in range(0, len(ids), at_once):
        for finding in await store.run(_check_some, store.base, ids[start : start + at_once], depth):
            yield finding


async def stored_bytes(store: Engine, upload_ids: Sequence[str]) -> int:
    """Return how many ciphertext bytes uploads have on disk."""

    def work() -> int:
        total = 0
        for upload_id in upload_ids:
            try:
                total += store.base.segments.size_bytes(upload_id)
            except OSError:
                continue
        return total

    return await store.run(work)


def _check_some(base: StoreBase, upload_ids: Sequence[str], depth: Depth) -> list[Finding]:
    return [_check(base, upload_id, depth) for upload_id in upload_ids]


def _check(base: StoreBase, upload_id: str, depth: Depth) -> Finding:
    problem: str | None = None
    for _ in range(_LOOKS):
        before = base.log_bytes(upload_id)
        try:
            state, size = _verify(base, upload_id, depth)
        except UploadNotFoundError:
            problem = _without_log(base, upload_id)
            if problem is None:
                return Finding(upload_id, None)
        except (DropoffError, _ProblemError) as error:
            problem = str(error)
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
        else:
            return Finding(upload_id, None, size, state.stored())
        if base.log_bytes(upload_id) == before:
            break
    return Finding(upload_id, problem)


def _without_log(base: StoreBase, upload_id: str) -> str | None:
    """Tell a creation that a crash cut off, of which nothing was acknowledged, from an upload whose log is gone."""
    # Bytes by themselves say nothing: before the first commit a power cut may keep them and lose the log.
    return "its log is gone" if base.key_files.has(upload_id, KeyFile.RECEIPT) else None


def _verify(base: StoreBase, upload_id: str, depth: Depth) -> tuple[LogState, int]:
    """Return where the upload stands, and the ciphertext bytes that were verified."""
    chain = base.chain(upload_id, every_signature=True)
    state = chain.state
    if state.ended is not None:
        if leftovers(base, upload_id):
            raise _ProblemError("it has ended, but keys or bytes of it are left; run `dropoff-tus store sweep`")
        return state, 0
    if state.is_new:
        # Only its first commit makes an upload's other files durable; until then nothing is acknowledged.
        return state, 0
    if not state.final and base.key_files.has(upload_id, KeyFile.RECEIPT):
        raise _ProblemError("it has a receipt, but its final record is gone")
    _verify_bytes(base, chain, depth)
    if not depth.identities:
        _verify_envelope(base, state)
    if state.mode is Mode.SEALED:
        _verify_own_envelope(base, state)
    _verify_receipt(base, state)
    _verify_parts(base, state)
    if depth.identities:
        _decrypt(base, state, depth)
    return state, state.data_bytes


def _verify_envelope(base: StoreBase, state: LogState) -> None:
    """See, with no key, that the envelope is byte for byte what the creation, or a rotation, wrote."""
    try:
        blob = base.read_key_file(state.id, KeyFile.ROOT)
    except FileNotFoundError:
        raise _ProblemError(_NO_ENVELOPE) from None
    # The journal of rotations is not signed, so what it names has at least the form of an envelope: only of a managed
    # upload it is for the server too.
    kinds = _stanzas(blob)
    formed = set(kinds) - {OWN_KIND} and kinds.count(OWN_KIND) == (state.mode is Mode.MANAGED)
    if not formed or not base.written.is_envelope(state.id, blob, state.create["root"]):
        message = "its envelope is not the one that was written; see with --identity whether it opens, or put it back"
        raise _ProblemError(message)


def _verify_own_envelope(base: StoreBase, state: LogState) -> None:
    """See, with no key, that the server's envelope of a sealed upload is byte for byte what the creation wrote."""
    try:
        blob = base.read_key_file(state.id, KeyFile.INGEST)
    except (FileNotFoundError, KeyMissingError):
        # There is none once it is finished, and in a backup none before: `server.usecases.operating.comparing` tells.
        return
    if hashlib.sha256(blob).hexdigest() != state.create["own"]:
        raise _ProblemError("the server's envelope is not the one that was written; put it back from a copy")


def _verify_receipt(base: StoreBase, state: LogState) -> None:
    """See, with no key, that the receipt begins as one. Only a key shows the rest, and its upload."""
    try:
        blob = base.read_key_file(state.id, KeyFile.RECEIPT)
    except FileNotFoundError:
        return  # it may not be written yet; `server.usecases.operating.comparing` tells
    if not blob.startswith(RECEIPT_HEAD):
        raise _ProblemError("its receipt is none; put it back from a copy")


def _stanzas(blob: bytes) -> list[str]:
    """Return the kinds of an envelope's stanzas; none of what is no envelope."""
    try:
        return check_form(blob, max_stanzas=MAX_STANZAS, also=OWN_KIND)
    except AgeError:
        return []


def _verify_parts(base: StoreBase, state: LogState) -> None:
    """See that the parts of a concatenation are still the same; their bytes are verified as theirs."""
    final_hashes = {part: final_hash for part, final_hash, _ in state.final_parts}
    for part in state.parts:
        part_state = load_part(base, state, part)
        if part_state.ended is not None:
            raise _ProblemError(f"its part {part} was {part_state.ended.value}")
        if part_state.final_hash != final_hashes.get(part, part_state.final_hash):
            raise _ProblemError(f"its part {part} is not the one that was concatenated")


def _verify_bytes(base: StoreBase, chain: Chain, depth: Depth) -> None:
    state = chain.state
    try:
        opened = base.segments.open(state.id)
    except FileNotFoundError:
        raise _ProblemError("its data is gone") from None
    with contextlib.closing(opened) as data:
        size = data.size_bytes()
        if size < state.data_bytes or (state.final and size != state.data_bytes):
            raise _ProblemError(f"its data has {size} bytes, but {state.data_bytes} are committed")
        if depth.quick or depth.identities:
            return  # decrypting reads and verifies the same bytes
        with contextlib.closing(base.chains.open(state.id)) as log:
            for entry in chain.segments(log):
                if not ciphertext_matches(data, state.id, entry):
                    raise _ProblemError(f"segment {entry.index} is not the committed one")
                depth.advance(entry.data_length)


def _decrypt(base: StoreBase, state: LogState, depth: Depth) -> None:
    """Open the envelope and every chunk, and compare the whole with the digests of its receipt."""
    try:
        open_with(base, state, depth.identities)
    except KeyMissingError:
        there = base.key_files.has(state.id, KeyFile.ROOT)
        raise _ProblemError("none of the identities opens it" if there else _NO_ENVELOPE) from None
    _, receipt = read_receipt(base, state, depth.identities) or (b"", {})
    if depth.quick or (state.role is Role.FINAL and not state.final):
        return
    hashes = {name: new_hash(name) for name in ("sha256", "sha512", "blake3") if name in receipt}
    for piece in read_plain(base, state.id, identities=depth.identities, unfinished_ok=True):
        for running in hashes.values():
            running.update(piece)
        if not state.parts:
            depth.advance(len(piece))
    wrong = [name for name, running in hashes.items() if running.hexdigest() != receipt[name]]
    if wrong:
        raise _ProblemError(f"its {', '.join(wrong)} is not the one of its receipt")
