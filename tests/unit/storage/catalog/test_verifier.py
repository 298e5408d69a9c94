"""The audit's checkpoints: whatever is done to rows that were signed is found, and nothing is signed on top of it."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dropoff_tus.audit import Act, Actor, AuditBrokenError, Event, RowsHash, write_row
from storage.catalog.checkpoints import Checkpoints
from storage.catalog.verifier import Checkpoint, Verifier, read_checkpoint, sign_checkpoint
from storage.keyring.lines import sign_certificate, verify_certificate
from storage.keyring.signing import SigningKey
from storage.uploads.log import verify_receipt
from tests.support.aio import async_test

_NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
_KEY = SigningKey(bytes(range(32)))
_OTHER = SigningKey(bytes(32))


class _Table:
    """The audit of a catalog, in memory, for tests that change it."""

    def __init__(self) -> None:
        self.rows: dict[int, str] = {}
        self.lines: dict[int, str] = {}
        self.last = 0

    def add(self, count: int, *, skip: int = 0) -> None:
        """Add rows, some numbers after the last."""
        for _ in range(count):
            self.last += 1 + skip
            event = Event(Act.UPLOAD_CREATE, "d", f"{self.last:032x}", size_bytes=self.last)
            self.rows[self.last] = write_row(event, Actor("client", "ab"), _NOW)

    async def audit_rows(self, after: int, to: int, most: int) -> list[tuple[int, str]]:
        await asyncio.sleep(0)
        return sorted(item for item in self.rows.items() if after < item[0] <= to)[: min(most, 3)]

    async def audit_end(self) -> int:
        return max(self.rows, default=0)

    async def checkpoints(self, after: int, most: int) -> list[tuple[int, str]]:
        return sorted(item for item in self.lines.items() if item[0] > after)[: min(most, 2)]

    async def last_checkpoint(self) -> tuple[int, str] | None:
        return max(self.lines.items(), default=None)

    async def add_checkpoint(self, number: int, line: str) -> None:
        await asyncio.sleep(0)
        assert number not in self.lines
        self.lines[number] = line


async def _signed(tmp_path: Path, key: SigningKey = _KEY) -> tuple[_Table, Checkpoints, Checkpoint]:
    """Return eight rows, with a hole in their numbers, in three checkpoints; and the last of these."""
    table = _Table()
    checkpoints = Checkpoints(table, key, tmp_path)
    for count, skip in ((3, 0), (3, 1), (2, 0)):
        table.add(count, skip=skip)
        await checkpoints.sign()
    signed = checkpoints.remembered()
    assert signed is not None
    assert sorted(table.rows) == [1, 2, 3, 5, 7, 9, 10, 11]
    return table, checkpoints, signed


async def _verify(checkpoints: Checkpoints, *anchors: Checkpoint) -> Verifier:
    verifier = Verifier(_KEY)
    async for _ in checkpoints.verify(verifier, *((f"file{number}", one) for number, one in enumerate(anchors))):
        pass
    return verifier


@async_test
async def test_audit_that_is_whole_verifies_with_every_checkpoint_it_ever_had(tmp_path: Path) -> None:
    """Numbers may be missing; rows that nothing has signed yet are counted; nothing new needs no new checkpoint."""
    table, checkpoints, last = await _signed(tmp_path)
    assert await checkpoints.sign() == last == checkpoints.remembered()
    anchors = [read_checkpoint(line, _KEY) for line in table.lines.values()]
    table.add(4)
    verifier = await _verify(checkpoints, *(one for one in anchors if one is not None))
    assert (verifier.count, verifier.checkpoints, verifier.unsigned.count, verifier.last) == (12, 3, 4, last)


def _change(table: _Table) -> None:
    table.rows[5] = table.rows[5].replace('"bytes":', '"bytes":1')


def _swap(table: _Table) -> None:
    table.rows[5], table.rows[7] = table.rows[7], table.rows[5]


def _join(table: _Table) -> None:
    """Make one text of two rows."""
    table.rows[5] += table.rows.pop(7)


def _anew(table: _Table) -> None:
    """Rewrite rows without the key, and take away every checkpoint."""
    table.rows = {number: text for number, text in table.rows.items() if number not in {2, 5}}
    table.lines.clear()


def _back(table: _Table) -> None:
    """Put back what was there at the first checkpoint."""
    table.rows = {number: text for number, text in table.rows.items() if number <= 3}
    table.lines = {1: table.lines[1]}


def _doubled_beginning(table: _Table) -> None:
    table.lines = {1: table.lines[1], 2: table.lines[1]}


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (lambda table: table.rows.pop(5), r"the rows 4 to 9 are not .*: there were 3, and there are 2"),
        (lambda table: table.rows.pop(1), r"the rows 1 to 3 are not"),
        (lambda table: table.rows.pop(11), r"the rows 10 to 11 are not"),
        (lambda table: table.rows.update({6: table.rows[5]}), r"there were 3, and there are 4"),
        (_change, r"the rows 4 to 9 are not .*: some were changed or moved"),
        (_swap, r"the rows 4 to 9 are not .*: some were changed or moved"),
        (lambda table: table.rows.update({6: table.rows.pop(5)}), r"some were changed or moved"),
        (_join, "row 5 was changed"),
        (lambda table: table.rows.update({5: table.rows[5] + " "}), "row 5 was changed"),
        (lambda table: table.rows.update({5: "{"}), "row 5 was changed"),
        (lambda table: table.rows.update({5: "[" * 100_000}), "row 5 was changed"),
        (lambda table: table.lines.pop(1), "checkpoint 2 does not follow"),
        (lambda table: table.lines.pop(2), "checkpoint 3 does not follow"),
        (
            lambda table: table.lines.update({2: table.lines[2].replace('"count":3', '"count":2')}),
            "checkpoint 2 is none",
        ),
        (lambda table: table.lines.update({4: table.lines[3]}), "checkpoint 4 is none"),
        (lambda table: table.lines.pop(3), "the last checkpoint that the server remembers is number 3"),
        (_anew, "the last checkpoint that the server remembers is number 3, of rows up to 11"),
        (_back, "the last checkpoint that the server remembers is number 3"),
        (_doubled_beginning, "checkpoint 2 is none"),
    ],
    ids=[
        *("removed", "beheaded", "last removed", "put in", "changed", "swapped", "renumbered", "joined", "spaced"),
        *("torn", "deep", "first checkpoint", "middle checkpoint", "changed checkpoint", "copied checkpoint"),
        *("last checkpoint", "written anew", "put back", "beginning twice"),
    ],
)
@async_test
async def test_audit_that_was_tampered_with_is_refused(
    tmp_path: Path, tamper: Callable[[_Table], object], why: str
) -> None:
    """Rows and checkpoints that are removed, changed, moved, repeated, or rewritten without the key."""
    table, checkpoints, _ = await _signed(tmp_path)
    tamper(table)
    with pytest.raises(AuditBrokenError, match=why):
        await _verify(checkpoints)


@pytest.mark.parametrize("tamper", [_anew, _back, lambda table: table.lines.pop(3)], ids=["anew", "back", "cut"])
@async_test
async def test_nothing_is_signed_on_top_of_what_lacks_the_last_checkpoint(
    tmp_path: Path, tamper: Callable[[_Table], object]
) -> None:
    """Again and again, also by another process; until an operator accepts, and then the audit begins there."""
    table, checkpoints, before = await _signed(tmp_path)
    tamper(table)
    table.add(2)
    left = dict(table.lines)
    for one in (checkpoints, checkpoints, Checkpoints(table, _KEY, tmp_path)):
        with pytest.raises(AuditBrokenError, match="does not have checkpoint 3"):
            await one.sign()
        assert "audit accept" in str(one.problem)
        assert (table.lines, one.remembered()) == (left, before)
    accepted = await checkpoints.accept()
    assert accepted is not None
    assert (accepted.number, accepted.after, accepted.to) == (4, 0, table.last)
    table.add(1)
    following = await checkpoints.sign()
    assert checkpoints.problem is None
    assert (await _verify(checkpoints, accepted)).last == following
    with pytest.raises(AuditBrokenError, match="the checkpoint of file0 is number 3"):
        await _verify(checkpoints, before)


@async_test
async def test_earlier_export_shows_what_folder_and_database_put_back_together_do_not(tmp_path: Path) -> None:
    """With the keys' folder of the same backup nothing is missing here; the export from elsewhere says so."""
    table, checkpoints, last = await _signed(tmp_path)
    _back(table)
    (tmp_path / "audit" / "last-checkpoint").unlink()
    await _verify(checkpoints)
    with pytest.raises(AuditBrokenError, match="the checkpoint of file0 is number 3"):
        await _verify(checkpoints, last)
    signed = await checkpoints.sign()
    assert signed is not None
    assert signed.number == 1
    table.add(9)
    await checkpoints.sign()
    with pytest.raises(AuditBrokenError, match="the checkpoint of file0 is number 3"):
        await _verify(checkpoints, last)


@async_test
async def test_checkpoint_that_a_crash_kept_from_being_remembered_is_found(tmp_path: Path) -> None:
    """The file one behind, or not there yet: the database's is taken, if it follows, and remembered."""
    table, checkpoints, last = await _signed(tmp_path)
    file = tmp_path / "audit" / "last-checkpoint"
    file.write_text(table.lines[1])
    assert await checkpoints.sign() == last == checkpoints.remembered()
    file.unlink()
    assert await checkpoints.sign() == last == checkpoints.remembered()
    file.write_text(table.lines[1])
    table.lines[3] = sign_checkpoint(3, None, 11, RowsHash(), _NOW, _OTHER).line
    with pytest.raises(AuditBrokenError, match="checkpoint 3 is none"):
        await checkpoints.sign()
    file.write_text(table.lines[1][:20])
    with pytest.raises(AuditBrokenError, match="last-checkpoint holds no checkpoint"):
        await checkpoints.sign()


@async_test
async def test_several_that_sign_at_once_take_turns(tmp_path: Path) -> None:
    """Servers on one store, and commands beside them: one row of checkpoints comes out, and the last is remembered."""
    table = _Table()
    table.add(1)

    async def sign() -> None:
        one = Checkpoints(table, _KEY, tmp_path)
        for _ in range(5):
            table.add(1)
            await one.sign()

    await asyncio.gather(*(sign() for _ in range(4)))
    checkpoints = Checkpoints(table, _KEY, tmp_path)
    verifier = await _verify(checkpoints)
    assert (verifier.count, verifier.unsigned.count, verifier.last) == (21, 0, checkpoints.remembered())
    assert len(table.lines) > 1


@async_test
async def test_rows_signed_with_another_key_are_refused(tmp_path: Path) -> None:
    """A checkpoint counts when the server's key signed it."""
    table, _, _ = await _signed(tmp_path / "other", _OTHER)
    with pytest.raises(AuditBrokenError, match="checkpoint 1 is none"):
        await _verify(Checkpoints(table, _KEY, tmp_path))
    with pytest.raises(AuditBrokenError, match="checkpoint 3 is none"):
        await Checkpoints(table, _KEY, tmp_path).sign()


def test_checkpoint_and_certificate_hold_for_their_own_domain_alone() -> None:
    """A line that is signed as one thing is never another; retired keys still verify."""
    rows = RowsHash()
    rows.add(7, json.dumps({}))
    made = sign_checkpoint(1, None, 7, rows, _NOW, _KEY)
    assert read_checkpoint(made.line, _KEY) == made
    assert read_checkpoint(made.line, SigningKey(bytes(32), [_KEY.public_bytes])) == made
    assert read_checkpoint(made.line, _OTHER) is None
    assert read_checkpoint(made.line.replace('"to":7', '"to":8'), _KEY) is None
    certificate = sign_certificate({"drop": "d"}, _KEY)
    assert verify_certificate(certificate, _KEY) == {"v": 1, "key": _KEY.id, "drop": "d"}
    assert verify_certificate(made.line.encode(), _KEY) is None
    assert verify_receipt(certificate, _KEY) is None
    assert read_checkpoint(certificate.decode(), _KEY) is None
