"""Uploads created, reserved for, completed and ended, each in one transaction.

The accounting is here and nowhere else: a drop-off's counters move in step with its uploads' rows (see `schema`), and
only `_Change` moves them. The caller undoes an operation that raises. An operation locks the drop-off before it reads
what it decides on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import BigInteger, ColumnElement, bindparam, case, delete, func, insert, literal_column, select, update

from dropoff_tus.audit import Act, Event, Note, end_of
from dropoff_tus.errors import (
    AccessDeniedError,
    InvalidConcatError,
    PartInUseError,
    PartNotFoundError,
    QuotaError,
    UploadDamagedError,
    UploadExistsError,
    UploadGoneError,
    UploadNotFoundError,
)
from dropoff_tus.model import Role, UploadRow
from dropoff_tus.outbox import EventKind, Sinks, kind_of
from dropoff_tus.ports.catalog import Decide
from dropoff_tus.states import ENDED, GIVEN_UP, UNFINISHED, UploadState, may_become
from storage.catalog import outbox
from storage.catalog.dropoffs import read_dropoff, read_usage
from storage.catalog.rows import Row, to_micros
from storage.catalog.schema import dropoffs, uploads
from storage.catalog.transaction import ZERO, Transaction
from storage.catalog.upload_rows import PARTS, UPLOAD, one_upload, parts_of, read_upload, upload_values

_MOST_BYTES = (1 << 63) - 1
"""The most that a column can hold."""

_drop_id = bindparam("drop_id", type_=dropoffs.c.id.type)
_upload_id = bindparam("upload_id", type_=uploads.c.id.type)
_final_id = bindparam("final_id", type_=uploads.c.final_id.type)
_COMPLETE: ColumnElement[str] = literal_column(f"'{UploadState.COMPLETE.value}'")

_ADMISSION = (
    select(
        dropoffs,
        select(uploads.c.id).where(uploads.c.id == _upload_id).scalar_subquery().label("present_id"),
    )
    .where(dropoffs.c.id == _drop_id)
    .with_for_update(key_share=True)
)
"""All that the creation of an upload is decided on, in one; locks the drop-off."""

_DROPOFF_OF_UPLOAD = (
    select(dropoffs)
    .where(dropoffs.c.id == select(uploads.c.drop_id).where(uploads.c.id == _upload_id).scalar_subquery())
    .with_for_update(key_share=True)
)
"""Locks the drop-off, so that what is asked behind this does not change any more."""

_COUNT = (
    update(dropoffs)
    .where(dropoffs.c.id == _drop_id)
    .values(
        used_uploads=dropoffs.c.used_uploads + bindparam("uploads_by", type_=BigInteger),
        used_bytes=dropoffs.c.used_bytes + bindparam("used_by", type_=BigInteger),
        reserved_bytes=dropoffs.c.reserved_bytes + bindparam("reserved_by", type_=BigInteger),
        attempts=dropoffs.c.attempts + bindparam("attempts_by", type_=BigInteger),
    )
)
"""Values: drop_id, uploads_by, used_by, reserved_by, attempts_by."""

_INSERT_UPLOAD = insert(uploads)

_CLAIM_PART = (
    update(uploads)
    .where(uploads.c.id == _upload_id)
    .values(final_id=bindparam("claimed_by", type_=uploads.c.final_id.type), used_bytes=ZERO)
)

_RELEASE_PARTS = (
    update(uploads)
    .where(uploads.c.final_id == _final_id)
    .values(
        final_id=literal_column("NULL"),
        used_bytes=case((uploads.c.state == _COMPLETE, uploads.c.size_bytes), else_=ZERO),
    )
)

_RESERVE = (
    update(uploads)
    .where(uploads.c.id == _upload_id)
    .values(
        reserved_bytes=bindparam("reserved", type_=BigInteger),
        length=func.coalesce(bindparam("new_length", type_=BigInteger), uploads.c.length),
    )
)

_SET_COMPLETE = (
    update(uploads)
    .where(uploads.c.id == _upload_id)
    .values(
        state=_COMPLETE,
        state_at=bindparam("at", type_=BigInteger),
        completed_at=bindparam("at", type_=BigInteger),
        length=bindparam("size", type_=BigInteger),
        size_bytes=bindparam("size", type_=BigInteger),
        used_bytes=bindparam("size", type_=BigInteger),
        reserved_bytes=ZERO,
    )
)
"""Values: upload_id, at, size."""

_SET_STATE = (
    update(uploads)
    .where(uploads.c.id == _upload_id)
    .values(
        state=bindparam("new_state", type_=uploads.c.state.type),
        state_at=bindparam("at", type_=BigInteger),
        reserved_bytes=bindparam("reserved", type_=BigInteger),
        used_bytes=bindparam("used", type_=BigInteger),
    )
)

END_PARTS = (
    update(uploads)
    .where(uploads.c.final_id == _final_id)
    .values(
        state=bindparam("new_state", type_=uploads.c.state.type),
        state_at=bindparam("at", type_=BigInteger),
    )
)
"""Claimed parts take nothing by themselves, so their end changes no count."""

_DELETE_UPLOAD = delete(uploads).where(uploads.c.id == _upload_id)


@dataclass(slots=True)
class _Change:
    """By how much a drop-off's counters move."""

    uploads: int = 0
    used_bytes: int = 0
    reserved_bytes: int = 0
    attempts: int = 0

    def apply(self, transaction: Transaction, drop_id: str) -> None:
        transaction.run(
            _COUNT,
            drop_id=drop_id,
            uploads_by=self.uploads,
            used_by=self.used_bytes,
            reserved_by=self.reserved_bytes,
            attempts_by=self.attempts,
        )


# ---- created ----------------------------------------------------------------------------------------------------


def add(
    transaction: Transaction, row: UploadRow, decide: Decide, parts: Sequence[str], sinks: Sinks, note: Note
) -> UploadRow:
    """Create an upload. A final takes its length and its bytes from its parts; `row` need not know them."""
    if row.state is not UploadState.OPEN:
        raise ValueError("an upload begins open")
    rows = transaction.rows(_ADMISSION, drop_id=row.drop_id, upload_id=row.id)
    if not rows:
        raise AccessDeniedError("there is no such drop-off, or the code is wrong")
    present = one_upload(transaction, row.id) if rows[0]["present_id"] is not None else None
    if present is not None:
        return _same(transaction, present, row, parts)
    used_bytes = 0
    if row.role is Role.FINAL:
        used_bytes = sum(part.size_bytes or 0 for part in _claimable(transaction, row, parts))
        row = replace(row, length=used_bytes, reserved_bytes=0)
    elif parts:
        raise ValueError("only a final has parts")
    decide(read_dropoff(rows[0]), read_usage(rows[0], without_bytes=used_bytes))
    _check_countable(rows[0], row.reserved_bytes)
    transaction.run(_INSERT_UPLOAD, **upload_values(row, used_bytes=used_bytes))
    for part in parts:
        transaction.run(_CLAIM_PART, upload_id=part, claimed_by=row.id)
    # A final takes over the usage of its parts, so that counter stays.
    change = _Change(uploads=_counted(row), reserved_bytes=row.reserved_bytes, attempts=_attempts(row, row.state))
    change.apply(transaction, row.drop_id)
    outbox.note(transaction, sinks, EventKind.CREATED, row, row.created_at)
    note(Event(Act.UPLOAD_CREATE, row.drop_id, row.id, row.role.value, row.length))
    return row


def _same(transaction: Transaction, present: UploadRow, row: UploadRow, parts: Sequence[str]) -> UploadRow:
    """Return the row that is there if it is what was asked for: a repetition changes nothing."""
    if row.role is Role.FINAL and present.drop_id == row.drop_id and present.role is row.role:
        claimed = {part["id"] for part in transaction.rows(PARTS, final_id=row.id)}
        if claimed != set(parts):
            raise InvalidConcatError("this concatenation exists already, with other parts")
        return present
    # The same to the moment is this creation itself, whose commit was answered by nothing.
    if (present.drop_id, present.role, present.created_at) != (row.drop_id, row.role, row.created_at):
        raise UploadExistsError("an upload with this Dropoff-Token exists: ask its URL where it stands")
    return present


def _claimable(transaction: Transaction, row: UploadRow, parts: Sequence[str]) -> list[UploadRow]:
    """Return the parts a final names, each of which it may have."""
    if len(set(parts)) != len(parts) or not parts:
        raise InvalidConcatError("a concatenation names each of its parts once, and at least one")
    found: list[UploadRow] = []
    for part_id in parts:
        part = one_upload(transaction, part_id)
        if part is None or part.drop_id != row.drop_id:
            raise PartNotFoundError("a part of the concatenation does not exist in this drop-off")
        found.append(part)
    if any(part.state in ENDED for part in found):
        raise UploadGoneError("a part of the concatenation is gone, upload it again")
    if any(part.role is not Role.PARTIAL or part.state is not UploadState.COMPLETE for part in found):
        raise InvalidConcatError("every part must be a finished partial upload (Upload-Concat: partial)")
    if any(part.final_id is not None for part in found):
        raise PartInUseError("a part belongs to another concatenation already")
    return found


def reserve(transaction: Transaction, upload_id: str, reserved_bytes: int, decide: Decide, length: int | None) -> None:
    """Raise, or with a length settle, what an open upload may still take.

    A total below the present one is no change unless it settles, so a repetition is harmless. An upload whose bytes are
    all here has nothing more to reserve, and a concatenation never has: it takes what its parts took.

    Raises:
        UploadNotFoundError, UploadGoneError: Nothing may be added to it any more.
    """
    drops = transaction.rows(_DROPOFF_OF_UPLOAD, upload_id=upload_id)
    present = one_upload(transaction, upload_id)
    if not drops or present is None:
        raise UploadNotFoundError("the catalog has nothing of this upload")
    if present.state in ENDED:
        raise UploadGoneError("this upload has ended")
    if present.state is not UploadState.OPEN or (length is None and reserved_bytes <= present.reserved_bytes):
        return
    if present.role is Role.FINAL:
        return
    decide(read_dropoff(drops[0]), read_usage(drops[0], without_reserved_bytes=present.reserved_bytes))
    more = reserved_bytes - present.reserved_bytes
    _check_countable(drops[0], more)
    transaction.run(_RESERVE, upload_id=upload_id, reserved=reserved_bytes, new_length=length)
    _Change(reserved_bytes=more).apply(transaction, present.drop_id)


def forget(transaction: Transaction, upload_id: str, note: Note) -> None:
    """Forget an upload; a final's parts are as they were before it."""
    rows = _locked(transaction, upload_id)
    if not rows:
        return
    present = read_upload(rows[0])
    change = _given_back(rows[0], present)
    change.attempts = -_attempts(present, present.state)
    if present.role is Role.FINAL:
        for part in transaction.rows(PARTS, final_id=upload_id):
            if part["state"] == UploadState.COMPLETE.value:
                change.used_bytes += part["size_bytes"]
        transaction.run(_RELEASE_PARTS, final_id=upload_id)
    outbox.forget(transaction, upload_id)
    transaction.run(_DELETE_UPLOAD, upload_id=upload_id)
    change.apply(transaction, present.drop_id)
    note(Event(Act.UPLOAD_FORGET, present.drop_id, upload_id))


# ---- ended well or not ------------------------------------------------------------------------------------------


def complete(
    transaction: Transaction,
    upload_id: str,
    size_bytes: int,
    at: datetime,
    final: str | None,
    drop_id: str | None,
    sinks: Sinks,
    note: Note,
) -> bool:
    """Put the size in place of the reservation. An upload that ended, or is unknown, cannot become complete."""
    rows = _locked(transaction, upload_id)
    if not rows or UploadState(rows[0]["state"]) not in UNFINISHED:
        return False
    row = rows[0]
    if drop_id not in {None, row["drop_id"]}:
        # Nothing here changes a row's drop-off.
        raise UploadDamagedError(
            f"the catalog says that upload {upload_id} is of another drop-off than its signed log: the "
            "catalog was changed. Its bytes are safe; `store check` says which; it is finished once the row is right"
        )
    transaction.run(_SET_COMPLETE, upload_id=upload_id, size=size_bytes, at=to_micros(at))
    change = _Change(used_bytes=size_bytes - row["used_bytes"], reserved_bytes=-row["reserved_bytes"])
    change.apply(transaction, row["drop_id"])
    # An upload that was only taken back, to be ended, has been announced.
    if row["completed_at"] is None:
        outbox.note(transaction, sinks, EventKind.COMPLETE, read_upload(row), at)
        note(Event(Act.UPLOAD_COMPLETE, row["drop_id"], upload_id, row["role"], size_bytes, final))
    return True


def set_state(
    transaction: Transaction, upload_id: str, state: UploadState, at: datetime, sinks: Sinks, note: Note
) -> bool:
    """Move to CHECKING, WITHDRAWN or an end, if `states` lets it. Nothing else of a row changes but at an end.

    Parts follow a final to its end only: while it is checked they stay what they are.

    Raises:
        PartInUseError: A final has claimed it; only that one can end it.
    """
    if state in {UploadState.OPEN, UploadState.COMPLETE}:
        raise ValueError("this state is not for set_state")
    rows = _locked(transaction, upload_id)
    if not rows:
        return False
    present = read_upload(rows[0])
    if not may_become(present.state, state):
        return False
    if present.final_id is not None and present.state not in ENDED:
        raise PartInUseError("this upload is a part of another one; end that one")
    values = {"upload_id": upload_id, "new_state": state.value, "at": to_micros(at)}
    if state not in ENDED:
        used_bytes, reserved_bytes = rows[0]["used_bytes"], rows[0]["reserved_bytes"]
        transaction.run(_SET_STATE, used=used_bytes, reserved=reserved_bytes, **values)
        return True
    transaction.run(_SET_STATE, used=0, reserved=0, **values)
    ended = [present]
    if present.role is Role.FINAL:
        ended += parts_of(transaction, upload_id)
        transaction.run(END_PARTS, final_id=upload_id, new_state=state.value, at=to_micros(at))
    change = _given_back(rows[0], present)
    change.attempts = sum(_attempts(one, state) - _attempts(one, one.state) for one in ended)
    change.apply(transaction, present.drop_id)
    kind = kind_of(state)
    if kind is not None:
        outbox.note(transaction, sinks, kind, present, at)
    was = present.state if present.completed_at is None else UploadState.COMPLETE
    note(Event(end_of(present, state), present.drop_id, upload_id, f"was {was.value}", present.size_bytes))
    return True


# ---- helpers ----------------------------------------------------------------------------------------------------


def _locked(transaction: Transaction, upload_id: str) -> Sequence[Row]:
    """Return an upload's row, or none, behind the lock of its drop-off."""
    transaction.rows(_DROPOFF_OF_UPLOAD, upload_id=upload_id)
    return transaction.rows(UPLOAD, upload_id=upload_id)


def _counted(upload: UploadRow) -> int:
    """Return what an upload adds to a drop-off's number of uploads."""
    return 0 if upload.role is Role.PARTIAL or upload.state in ENDED else 1


def _attempts(upload: UploadRow, state: UploadState) -> int:
    """Return what an upload adds in a state to a drop-off's number of attempts."""
    return 1 if state in GIVEN_UP or (upload.role is Role.PARTIAL and state not in ENDED) else 0


def _given_back(row: Row, upload: UploadRow) -> _Change:
    """Return the change that takes an upload out of its drop-off's counters."""
    return _Change(uploads=-_counted(upload), used_bytes=-row["used_bytes"], reserved_bytes=-row["reserved_bytes"])


def _check_countable(row: Row, more_bytes: int) -> None:
    """Refuse reservations whose sum no 64-bit number holds: a database would round it, or fail."""
    if row["used_bytes"] + row["reserved_bytes"] + more_bytes > _MOST_BYTES:
        raise QuotaError("more bytes than can be counted; nothing was written")
