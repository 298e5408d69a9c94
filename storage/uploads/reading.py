"""Reading back: opening envelopes, and the plain bytes of an upload or of a concatenation's parts.

Source: docs/reference/format.md, Envelope, Segment.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from dropoff_tus.errors import KeyMissingError, UploadGoneError, UploadNotFoundError
from storage.age import CHUNK_BYTES, Opener
from storage.backing import KeyFile, Lines
from storage.keyring.envelope import Envelope, Secrets, open_envelope, open_secrets
from storage.keyring.identities import parse_identities
from storage.keyring.lines import damaged
from storage.uploads.base import StoreBase
from storage.uploads.chain import Chain
from storage.uploads.log import LogState
from storage.uploads.memory import new_hash
from storage.uploads.segment import read_segments

_STEP_BYTES = 64 << 20
_FEW_SEGMENTS = 1000


def open_own_envelope(base: StoreBase, state: LogState) -> Envelope:
    """Open the envelope with the server's own keys.

    Raises:
        KeyMissingError: It is sealed, or the key is gone.
        UploadDamagedError: It is not this upload's.
    """
    return open_envelope(*_sealed(base, state, ()), state)


def own_secrets(base: StoreBase, state: LogState) -> Secrets:
    """Return what a receipt is made of, from the server's envelope; raises as `open_own_envelope`."""
    envelope = open_own_envelope(base, state)
    return Secrets(envelope.metadata, envelope.receipt_key)


def open_with(base: StoreBase, state: LogState, identities: Sequence[str]) -> Envelope:
    """Open the envelope with given identities, or with the server's own when there are none."""
    return open_envelope(*_sealed(base, state, identities), state)


def secrets_with(base: StoreBase, state: LogState, identities: Sequence[str]) -> Secrets:
    """Return what is in the envelope besides the upload's identity, for what reads no bytes; as `open_with`."""
    return open_secrets(*_sealed(base, state, identities), state)


def _sealed(base: StoreBase, state: LogState, identities: Sequence[str]) -> tuple[bytes, Sequence[Opener]]:
    """Return an envelope as it is stored, and what may open it: given identities, else the server's own keys."""
    if identities:
        try:
            return base.read_key_file(state.id, KeyFile.ROOT), parse_identities(identities)
        except FileNotFoundError:
            message = f"the envelope of upload {state.id} is gone; it was shredded"
            raise KeyMissingError(message) from None
    try:
        blob = base.read_key_file(state.id, KeyFile.own(state.mode))
    except (FileNotFoundError, KeyMissingError):
        blob = b""
    if not blob or not base.keys.managed:
        message = f"no identity at hand opens upload {state.id}; its bytes are safe"
        raise KeyMissingError(message)
    return blob, base.keys.managed


def read_plain(
    base: StoreBase,
    upload_id: str,
    *,
    start: int = 0,
    stop: int | None = None,
    identities: tuple[str, ...] = (),
    unfinished_ok: bool = False,
) -> Generator[bytes, None, None]:
    """Yield plain bytes, in the calling thread; see the port's `read`."""
    with base.refusing(upload_id), contextlib.closing(base.chains.open(upload_id)) as log:
        chain = base.verified(log, upload_id)
        yield from _read_verified(base, chain, log, start, stop, identities, unfinished_ok=unfinished_ok)


def _read_verified(
    base: StoreBase,
    chain: Chain,
    log: Lines,
    start: int,
    stop: int | None,
    identities: tuple[str, ...],
    *,
    unfinished_ok: bool,
) -> Iterator[bytes]:
    state, upload_id = chain.state, chain.state.id
    if state.ended is not None:
        message = f"the upload was {state.ended.value}; its content is gone"
        raise UploadGoneError(message)
    if not state.final and not unfinished_ok:
        message = f"upload {upload_id} is not finished"
        raise UploadNotFoundError(message)
    if state.parts:
        yield from _read_parts(base, state, start, stop, identities)
        return
    end = state.offset if stop is None else min(stop, state.offset)
    envelope = open_with(base, state, identities)
    try:
        opened = base.segments.open(upload_id)
    except FileNotFoundError:
        raise damaged(upload_id, "its data is gone") from None
    with contextlib.closing(opened) as data:
        if data.size_bytes() != state.data_bytes and state.final:
            raise damaged(upload_id, "its data has another size than the committed bytes")
        yield from read_segments(data, upload_id, chain.segments(log, start), envelope.identity, start, end)


def _read_parts(
    base: StoreBase, state: LogState, start: int, stop: int | None, identities: tuple[str, ...]
) -> Iterator[bytes]:
    # The final's own envelope holds only its metadata, but it must open: the right to read is the final's.
    open_with(base, state, identities)
    end = total_bytes(base, state) if stop is None else stop
    committed = state.final_parts or tuple((p[0], p[1], p[2]) for p in final_parts(base, state))
    at = 0
    for part, final_hash, length in committed:
        if load_part(base, state, part).final_hash != final_hash:
            raise damaged(state.id, f"its part {part} is not the one that was concatenated")
        begin, until = max(start - at, 0), min(end - at, length)
        if begin < until:
            yield from read_plain(base, part, start=begin, stop=until, identities=identities)
        at += length


class ReadBack:
    """Computes plaintext digests by reading an upload with the server's own identity, a step at a time.

    A step keeps its thread for a fraction of a second, so that a stopping server need not wait for a large upload.
    """

    def __init__(self, base: StoreBase, state: LogState, names: set[str]) -> None:
        """Read nothing yet; `close` lets go of the files."""
        self._hashes = {name: new_hash(name) for name in names}
        self._pieces = read_plain(base, state.id, unfinished_ok=True)

    def step(self) -> dict[str, bytes] | None:
        """Read on; return the digests once all is read."""
        left = _STEP_BYTES
        for piece in self._pieces:
            for value in self._hashes.values():
                value.update(piece)
            left -= len(piece)
            if left <= 0:
                return None
        return {name: value.digest() for name, value in self._hashes.items()}

    def close(self) -> None:
        """Stop reading. No step may run."""
        self._pieces.close()


def total_bytes(base: StoreBase, state: LogState) -> int:
    """Return the length of an upload or of a concatenation's parts."""
    if not state.parts:
        return state.offset
    return sum(load_part(base, state, part).offset for part in state.parts)


def reading_bytes(base: StoreBase, state: LogState) -> int:
    """Return how much there is to read of an upload or its parts; opening a segment takes as long as a chunk."""
    states = [load_part(base, state, part) for part in state.parts] or [state]
    many = max(0, sum(one.segments for one in states) - _FEW_SEGMENTS)
    return sum(one.offset for one in states) + many * CHUNK_BYTES


def load_part(base: StoreBase, state: LogState, part: str) -> LogState:
    """Return where a part of a concatenation stands.

    Raises:
        UploadDamagedError: It is gone, or does not verify.
    """
    try:
        return base.load(part)
    except UploadNotFoundError:
        raise damaged(state.id, f"its part {part} is gone") from None


def final_parts(base: StoreBase, state: LogState) -> list[list[Any]]:
    """Return (id, hash of the last line, length) of each part of a concatenation."""
    parts: list[list[Any]] = []
    for part in state.parts:
        part_state = load_part(base, state, part)
        if not part_state.final:
            raise damaged(state.id, "a part of the concatenation is not finished")
        parts.append([part, part_state.final_hash, part_state.offset])
    return parts
