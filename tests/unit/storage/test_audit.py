"""The audit's chain and what is signed of it: whatever is done to the rows is found."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from dropoff_tus.audit import Act, Actor, AuditBrokenError, Chain, Event
from storage.audit import Checkpoint, Verifier, read_checkpoint, sign_certificate, sign_checkpoint, verify_certificate
from storage.keys import SigningKey
from storage.log import verify_receipt

_NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
_KEY = SigningKey(bytes(range(32)))
_OTHER = SigningKey(bytes(32))
Rows = list[tuple[int, str]]
_CHECKPOINT_AT = 4


def _rows(count: int = 8, key: SigningKey = _KEY) -> tuple[Rows, Checkpoint]:
    """Return a chain with a checkpoint in it, and another one of its end."""
    chain, rows = Chain(), []
    for number in range(1, count + 1):
        event = Event(Act.UPLOAD_CREATE, "d", f"{number:032x}", size_bytes=number)
        if number == _CHECKPOINT_AT:
            event = Event(Act.CHECKPOINT, checkpoint=sign_checkpoint(chain.count, chain.last, _NOW, key))
        text = chain.write(event, Actor("client", "ab"), _NOW)
        rows.append((number, text))
    return rows, Checkpoint(chain.count, chain.last)


def _verify(rows: Rows, *anchors: Checkpoint) -> Verifier:
    verifier = Verifier(_KEY, anchors)
    verifier.follow(rows)
    verifier.finish()
    return verifier


def _anew(rows: Rows) -> Rows:
    """Chain rows anew, as someone could who can write the database and has no key."""
    chain, written = Chain(), []
    for number, (_, old) in enumerate(rows, start=1):
        row = json.loads(old) | {"seq": number, "prev": chain.last}
        text = json.dumps(row, separators=(",", ":"), sort_keys=True)
        chain = Chain.at(number, text)
        written.append((number, text))
    return written


def _changed(rows: Rows, place: int) -> Rows:
    seq, text = rows[place]
    return [*rows[:place], (seq, text.replace('"bytes":', '"bytes":1')), *rows[place + 1 :]]


def test_chain_that_is_whole_verifies_with_its_checkpoints() -> None:
    """All rows follow, the checkpoint in them and the one kept elsewhere are met."""
    rows, end = _rows()
    verifier = _verify(rows, end, Checkpoint(2, Chain.at(*rows[1]).last), Checkpoint(0, "0" * 64))
    assert (verifier.chain.count, verifier.chain.last, verifier.checkpoints) == (8, end.last, 4)


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (lambda rows: [*rows[:2], *rows[3:]], "row 3 is missing"),
        (lambda rows: rows[1:], "row 1 is missing"),
        (lambda rows: _changed(rows, 1), "row 3 does not follow row 2"),
        (lambda rows: [rows[0], (2, rows[2][1]), (3, rows[1][1]), *rows[3:]], "row 2 was changed"),
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], "row 2 is missing"),
        (lambda rows: [*rows[:2], rows[1], *rows[2:]], "row 2 stands twice"),
        (lambda rows: [(1, rows[0][1] + " "), *rows[1:]], "row 1 was changed"),
        (lambda rows: [(1, "{"), *rows[1:]], "row 1 was changed"),
        (lambda rows: _anew([rows[0], *rows[2:]]), "row 3 is no checkpoint"),
        (lambda rows: _anew(_changed(rows, 1)), "row 4 is no checkpoint"),
    ],
    ids=["removed", "beheaded", "changed", "swapped", "reordered", "doubled", "spaced", "torn", "anew", "anew-changed"],
)
def test_chain_that_was_tampered_with_is_refused(tamper: Callable[[Rows], Rows], why: str) -> None:
    """Removed, changed, moved and repeated rows are found, and rows chained anew by the next checkpoint."""
    with pytest.raises(AuditBrokenError, match=why):
        _verify(tamper(_rows()[0]))


@pytest.mark.parametrize("tamper", [lambda rows: rows[:6], lambda rows: _changed(rows, 7)], ids=["cut", "last changed"])
def test_end_that_was_tampered_with_is_found_by_an_earlier_export(tamper: Callable[[Rows], Rows]) -> None:
    """Behind the last checkpoint in the chain, one kept elsewhere is needed, and does it."""
    rows, end = _rows()
    _verify(tamper(rows))
    with pytest.raises(AuditBrokenError, match=r"the end is missing|not those of the checkpoint"):
        _verify(tamper(rows), end)


def test_chain_written_anew_with_another_key_is_refused() -> None:
    """A checkpoint counts when the server's key signed it."""
    rows, _ = _rows(key=_OTHER)
    with pytest.raises(AuditBrokenError, match="row 4"):
        _verify(rows)


def test_checkpoint_and_certificate_hold_for_their_own_domain_alone() -> None:
    """What is signed as one thing is never another; retired keys still verify."""
    line = sign_checkpoint(7, "ab" * 32, _NOW, _KEY)
    assert read_checkpoint(line, _KEY) == Checkpoint(7, "ab" * 32)
    assert read_checkpoint(line, SigningKey(bytes(32), [_KEY.public_bytes])) == Checkpoint(7, "ab" * 32)
    assert read_checkpoint(line, _OTHER) is None
    assert read_checkpoint(line.replace('"count":7', '"count":8'), _KEY) is None
    certificate = sign_certificate({"drop": "d"}, _KEY)
    assert verify_certificate(certificate, _KEY) == {"v": 1, "key": _KEY.id, "drop": "d"}
    assert verify_certificate(line.encode(), _KEY) is None
    assert verify_receipt(certificate, _KEY) is None
    assert read_checkpoint(certificate.decode(), _KEY) is None
