"""Logs of very many commits, written directly: each a copy of an upload's only segment, which opens and verifies."""

import hashlib
from collections.abc import Iterator
from contextlib import closing

from storage.backing import SegmentEntry
from storage.keyring.lines import canonical, sign_line, stamp
from storage.keyring.signing import SigningKey
from storage.open import FileStore
from storage.uploads.log import LogState

_NO_SIGNATURE = b" " + b"A" * 86 + b"\n"
_PIECE_SEGMENTS = 10_000


def commits(
    state: LogState, entry: SegmentEntry, segments: int, key: SigningKey, *, sign_all: bool = False
) -> Iterator[bytes]:
    """Yield the lines of commits of one segment each, from where a log stands to so many segments.

    Args:
        state: Where the log stands; at its beginning, or after segments like this one.
        entry: The segment.
        segments: How many there are after the last line.
        key: Signs.
        sign_all: Sign every line, which takes a minute for a million; else the last one, by which all are verified.
    """
    previous = state.last_hash
    for index in range(state.segments, segments):
        record = {
            "t": "segs",
            "at": stamp(state.last_at),
            "prev": previous,
            "len": state.length,
            "tot": [index + 1, (index + 1) * entry.length, (index + 1) * entry.data_length],
            "segs": [{**entry.record(), "i": index, "o": index * entry.length, "co": index * entry.data_length}],
        }
        last = sign_all or index == segments - 1
        line = sign_line(record, key) if last else canonical(record) + _NO_SIGNATURE
        previous = hashlib.sha256(line).hexdigest()
        yield line


def lengthen(store: FileStore, upload_id: str, segments: int, *, sign_all: bool = False) -> None:
    """Make an upload of one segment one of very many; nobody may have it open."""
    chain, paths = store.chain(upload_id), store.layout.of(upload_id)
    assert chain.state.segments == 1
    with closing(store.base.chains.open(upload_id)) as log:
        entry = next(chain.segments(log))
    with paths.log.open("ab", buffering=1 << 20) as file:
        file.writelines(commits(chain.state, entry, segments, store.base.keys.signing, sign_all=sign_all))
    segment = paths.data.read_bytes()
    with paths.data.open("ab") as file:
        for done in range(1, segments, _PIECE_SEGMENTS):
            file.write(segment * min(_PIECE_SEGMENTS, segments - done))
