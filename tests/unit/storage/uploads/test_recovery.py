"""Torn or tampered with: a changed bit never costs acknowledged bytes; nothing unsigned is believed."""

import asyncio
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pytest

from dropoff_tus.errors import KeyMissingError, UploadDamagedError, UploadNotFoundError
from storage.backing import SegmentEntry
from storage.files.chains import LogFile
from storage.files.durable import Disk
from storage.keyring.lines import sign_line
from storage.keyring.signing import new_signing_key, public_of
from storage.uploads.log import LogState, key_record, segments_record
from storage.uploads.recovery import check_unchanged, read_chain, read_state, waiting_at
from tests.support.aio import async_test
from tests.support.store_kit import StoreKit

_SECTOR_BYTES = 512
_SEEN_BYTES = 4096
"""How much of the end of a log a start reads."""


def _opened(file: IO[bytes]) -> LogFile:
    return LogFile(Disk(sync=False), file.fileno())


class _Log:
    """A log of a create record and four commits, the last in two sectors, in a file to change at will."""

    def __init__(self, folder: Path) -> None:
        self.kit = StoreKit(folder)
        self.raw, self.state = asyncio.run(self._make())
        self.key = self.kit.keys.signing
        self.lines = [line + b"\n" for line in self.raw[:-1].split(b"\n")]

    async def _make(self) -> tuple[bytes, LogState]:
        _, upload = await self.kit.create(None)
        for offset in range(4):
            await self.kit.append(upload.id, offset, b"x")
        return self.kit.store.layout.of(upload.id).log.read_bytes(), self.kit.store.load(upload.id)

    def read(self, raw: bytes) -> tuple[LogState, int]:
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(raw)
            return read_state(_opened(file), self.state.id, self.key)

    def read_chain(self, raw: bytes, *, every_signature: bool) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(raw)
            read_chain(_opened(file), self.state.id, self.key, every_signature=every_signature)

    def check_unchanged(self, raw: bytes) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(raw)
            check_unchanged(_opened(file), self.state)

    def waits_at(self, raw: bytes) -> int | None:
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(raw)
            return waiting_at(_opened(file), self.key)

    def keeps_all_with(self, raw: bytes) -> bool:
        """Tell whether a changed log is refused as damaged, or still tells of every acknowledged byte."""
        try:
            state, torn = self.read(raw)
        except UploadDamagedError:
            return True
        except UploadNotFoundError:
            return False
        return state == self.state and torn == 0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> _Log:
    """Make the log once."""
    return _Log(tmp_path_factory.mktemp("log"))


def _flipped(raw: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[at] ^= 1 << bit
    return bytes(changed)


def test_flipped_bit_that_makes_or_breaks_a_line_costs_nothing(log: _Log) -> None:
    """Where a flip gives NUL or LF, or takes an LF away, the log does not look torn."""
    telling = [
        (at, bit)
        for at, byte in enumerate(log.raw)
        for bit in range(8)
        if byte ^ 1 << bit in {0, 10} or byte in {10, 32}
    ]
    assert len(telling) > 4 * 8
    assert [place for place in telling if not log.keeps_all_with(_flipped(log.raw, *place))] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flipped_bit_anywhere_costs_nothing(log: _Log) -> None:
    """Every bit of the log, one after the other."""
    places = [(at, bit) for at in range(len(log.raw)) for bit in range(8)]
    assert [place for place in places if not log.keeps_all_with(_flipped(log.raw, *place))] == []


def test_last_line_with_sectors_that_were_never_written_is_torn(log: _Log) -> None:
    """A size can become durable before the bytes: whole sectors of NUL are an honest crash, which is cut."""
    start = len(log.raw) - len(log.lines[-1])
    first = start + -start % _SECTOR_BYTES
    assert start < first < len(log.raw)
    for lost in ((start, first), (first, len(log.raw)), (start, len(log.raw))):
        raw = bytearray(log.raw)
        raw[lost[0] : lost[1]] = bytes(lost[1] - lost[0])
        state, torn = log.read(bytes(raw))
        assert (state.offset, torn) == (log.state.offset - 1, len(log.lines[-1]))


def test_last_line_cut_anywhere_is_torn(log: _Log) -> None:
    """If any part of its end is missing, the commits before it stand."""
    for missing in range(1, len(log.lines[-1])):
        state, torn = log.read(log.raw[:-missing])
        assert (state.offset, torn) == (log.state.offset - 1, len(log.lines[-1]) - missing)


def test_lost_sectors_before_later_commits_are_damage(log: _Log) -> None:
    """No crash takes what a later commit made durable: only up to the first one is it a creation that never was."""
    create, first = len(log.lines[0]), len(log.lines[0]) + len(log.lines[1])
    for start in range(0, create, _SECTOR_BYTES):
        stop = min(start + _SECTOR_BYTES, len(log.raw))
        lost = log.raw[:start] + bytes(stop - start) + log.raw[stop:]
        # Without the LF of the create record the beginning of a third line looks like that of the second.
        begun = [] if stop >= create else [first + 1]
        for size in (len(log.raw), len(log.raw) - len(log.lines[-1]), len(log.raw) - 1, *begun):
            with pytest.raises(UploadDamagedError, match="create record"):
                log.read(lost[:size])
        for size in (create - 1, create, create + 1, first - 1, first):
            with pytest.raises(UploadNotFoundError):
                log.read(lost[:size])


@pytest.mark.parametrize("every_signature", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b'"tot":', b'"tou":'),
        lambda line: line.replace(b'"segs":[{', b'"segs":[1,{'),
        lambda line: line.replace(b'"t":"segs"', b'"t":"sags"'),
        lambda line: b"[" * 100_000 + b" " + line.rpartition(b" ")[2],
        lambda line: b"null " + line.rpartition(b" ")[2],
        lambda _line: b"\n",
    ],
    ids=["no-totals", "odd-segment", "odd-type", "deep", "null", "empty"],
)
def test_changed_line_in_the_middle_is_refused_before_it_is_read(
    log: _Log, change: Callable[[bytes], bytes], every_signature: bool
) -> None:
    """A line that is not authentic is damage, whatever stands in it, and never an error of its reader."""
    middle = change(log.lines[1])
    assert middle != log.lines[1]
    raw = b"".join([log.lines[0], middle, *log.lines[2:]])
    with pytest.raises(UploadDamagedError):
        log.read_chain(raw, every_signature=every_signature)
    with pytest.raises(UploadDamagedError):
        log.check_unchanged(raw)


def test_line_taken_out_is_refused(log: _Log) -> None:
    """The chain has no gap that can be closed without the key."""
    for at in (1, 2):
        raw = b"".join(line for number, line in enumerate(log.lines) if number != at)
        with pytest.raises(UploadDamagedError):
            log.read_chain(raw, every_signature=False)
        with pytest.raises(UploadDamagedError):
            log.check_unchanged(raw)


def test_start_passes_over_no_log_whose_end_is_in_doubt(log: _Log) -> None:
    """Cut anywhere, changed in its last record, or with sectors never written, it is for the whole reading to judge."""
    assert log.waits_at(log.raw) == log.state.offset
    whole = {sum(len(line) for line in log.lines[:count]): count - 1 for count in range(1, len(log.lines) + 1)}
    assert {cut: found for cut in range(len(log.raw)) if (found := log.waits_at(log.raw[:cut])) is not None} == {
        cut: commits for cut, commits in whole.items() if cut < len(log.raw)
    }
    start = len(log.raw) - len(log.lines[-1])
    assert [at for at in range(start, len(log.raw)) if log.waits_at(_flipped(log.raw, at, 3)) is not None] == []
    for begin in range(0, len(log.raw), _SECTOR_BYTES):
        lost = log.raw[:begin] + bytes(_SECTOR_BYTES) + log.raw[begin + _SECTOR_BYTES :]
        assert log.waits_at(lost[: len(log.raw)]) is None


@async_test
async def test_start_looks_closer_where_the_create_record_may_not_have_reached_the_disk(tmp_path: Path) -> None:
    """After one commit whose record hides the beginning of the log, its first sectors may be missing."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(None)
    async with kit.store.lease(upload.id) as lease:
        state = kit.store.load(upload.id)
        entries = [
            SegmentEntry(index, index, 1, index * 201, 201, 184, "0" * 64, "0" * 64, None) for index in range(17)
        ]
        line = sign_line(segments_record(state, entries, datetime.now(UTC)), kit.keys.signing)
        log = kit.store.layout.of(upload.id).log
        with log.open("ab") as file:
            file.write(line)
        del lease
    assert len(line) < _SEEN_BYTES < log.stat().st_size
    assert await kit.open().waiting([upload.id]) == set()
    assert (await kit.store.stat(upload.id)).offset == 17
    log.write_bytes(bytes(_SECTOR_BYTES) + log.read_bytes()[_SECTOR_BYTES:])
    with pytest.raises(UploadNotFoundError):
        await kit.store.stat(upload.id)


@async_test
async def test_start_looks_closer_where_the_log_goes_on_under_a_key_that_is_missing(tmp_path: Path) -> None:
    """Otherwise nobody would know before the uploader comes back."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(None)
    await kit.append(upload.id, 0, b"x")
    state = kit.store.load(upload.id)
    line = sign_line(key_record(state, public_of(new_signing_key()), datetime.now(UTC)), kit.keys.signing)
    with kit.store.layout.of(upload.id).log.open("ab") as file:
        file.write(line)
    assert await kit.open().waiting([upload.id]) == set()
    with pytest.raises(KeyMissingError):
        await kit.store.stat(upload.id)


@pytest.mark.parametrize("count", [0, 1])
@async_test
async def test_start_passes_over_a_log_handed_to_another_key_only_with_bytes(tmp_path: Path, count: int) -> None:
    """With none it may be a concatenation, which is to be finished."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(None)
    if count:
        await kit.append(upload.id, 0, b"x")
    line = sign_line(
        key_record(kit.store.load(upload.id), kit.keys.signing.public_bytes, datetime.now(UTC)), kit.keys.signing
    )
    with kit.store.layout.of(upload.id).log.open("ab") as file:
        file.write(line)
    assert await kit.open().waiting([upload.id]) == ({upload.id} if count else set())
