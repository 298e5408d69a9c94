"""The drop-offs, and what the catalog keeps of itself: the port's operations, each over one transaction.

`uploads` has the effect of a drop-off's uploads on its counters.
"""

from datetime import datetime

from dropoff_tus.audit import Act, Event, Note, creation_of, edit_of
from dropoff_tus.model import Dropoff, Usage
from dropoff_tus.ports.catalog import Change
from storage.catalog import statements
from storage.catalog.rows import (
    dropoff_values,
    from_micros,
    page_values,
    read_dropoff,
    read_if_known,
    read_usage,
    to_micros,
)
from storage.catalog.transaction import Transaction


def add(transaction: Transaction, dropoff: Dropoff, note: Note) -> None:
    """Insert a drop-off."""
    if transaction.rows(statements.DROPOFF, drop_id=dropoff.id):
        raise ValueError("a drop-off with this id exists already")
    transaction.run(statements.RAISE_VERSION)
    transaction.run(statements.INSERT_DROPOFF, **dropoff_values(dropoff))
    note(creation_of(dropoff))


def one(transaction: Transaction, drop_id: str) -> Dropoff | None:
    """Return one drop-off, or None."""
    return read_if_known(transaction.rows(statements.DROPOFF_OR_NONE, drop_id=drop_id)[0])


def page(
    transaction: Transaction, *, after: tuple[datetime, str] | None = None, limit: int | None = None
) -> list[Dropoff]:
    """Return drop-offs, oldest first."""
    statement = statements.list_dropoffs(after=after is not None, limited=limit is not None)
    return [read_dropoff(row) for row in transaction.rows(statement, **page_values(after, limit))]


def change(transaction: Transaction, drop_id: str, alter: Change, note: Note) -> Dropoff | None:
    """Change what a drop-off is."""
    transaction.run(statements.RAISE_VERSION)  # first, because it locks: all changes of drop-offs take turns
    present = one(transaction, drop_id)
    if present is None:
        return None
    changed = alter(present)
    event = edit_of(present, changed)
    if event is not None:
        values = dropoff_values(changed)
        changes = {f"new_{name}": values[name] for name in ("terms", "code_mac", "signature")}
        transaction.run(statements.CHANGE_DROPOFF, drop_id=drop_id, **changes)
        note(event)
    return changed


def usage(transaction: Transaction, drop_id: str) -> Usage:
    """Return a drop-off's usage; an unknown one has none."""
    rows = transaction.rows(statements.DROPOFF, drop_id=drop_id)
    return read_usage(rows[0]) if rows else Usage(0, 0)


def set_closed(transaction: Transaction, drop_id: str, note: Note, *, closed: bool, end_open: bool) -> bool:
    """Close or reopen; closing again without end_open takes no `ended` back."""
    transaction.run(statements.RAISE_VERSION)  # first, as above
    present = one(transaction, drop_id)
    if present is None:
        return False
    ended = closed and (end_open or present.ended)
    transaction.run(statements.SET_CLOSED, drop_id=drop_id, now_closed=int(closed), now_ended=int(ended))
    act = Act.DROP_CLOSE if closed else Act.DROP_REOPEN
    note(Event(act, drop_id, result="now" if closed and end_open else None))
    return True


def version(transaction: Transaction) -> int:
    """Return the counter of changes."""
    found: int = transaction.rows(statements.VERSION)[0]["version"]
    return found


def store_id(transaction: Transaction) -> str | None:
    """Return the store's id, or None."""
    found: str | None = transaction.rows(statements.STORE_ID)[0]["store_id"]
    return found


def noted_time(transaction: Transaction) -> datetime | None:
    """Return when a server last ran, or None."""
    found: int | None = transaction.rows(statements.NOTED_TIME)[0]["noted_at"]
    return None if found is None else from_micros(found)


def note_time(transaction: Transaction, at: datetime) -> None:
    """Note that a server runs now."""
    transaction.run(statements.NOTE_TIME, at=to_micros(at))


def keep_store_id(transaction: Transaction, new: str) -> str:
    """Keep the store's id if there is none yet; return the one that is kept."""
    transaction.run(statements.SET_STORE_ID, new_store_id=new)
    return store_id(transaction) or new
